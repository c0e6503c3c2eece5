//! Codecs beside Opus and VP8: whatever a router has, it passes on, under its own
//! payload type; AV1 with the descriptors of its dependencies.

use std::time::Duration;

use mediaworker::transport::extensions::DEPENDENCY_DESCRIPTOR;
use proto::{
    ConsumeRequest, ConsumerSpec, CreateRouterRequest, HeaderExtension, MediaKind as ProtoKind,
    ProduceRequest, ProducerCodec, ProducerEncoding, RouterCodec,
};
use test_peer::str0m::format::Codec;
use test_peer::str0m::media::MediaKind;
use test_peer::str0m::rtp::ExtensionValues;
use test_peer::{Packet, PeerCodec, PeerConfig};

use crate::descriptor::{self, DependencyDescriptor};
use crate::network::Network;
use crate::room::{MID, stream};

/// A codec as it is sent, and as the router has it.
#[derive(Debug, Clone, Copy)]
struct Sent {
    mime_type: &'static str,
    /// What the test's own clients take it for.
    as_codec: Codec,
    clock_rate: u32,
    channels: Option<u32>,
    /// Payload types of client and router.
    pt: u8,
    router_pt: u8,
}

impl Sent {
    fn kind(&self) -> (MediaKind, ProtoKind) {
        match self.channels {
            Some(_) => (MediaKind::Audio, ProtoKind::Audio),
            None => (MediaKind::Video, ProtoKind::Video),
        }
    }
}

/// Ids of the dependency descriptor, at the client and the router.
const OWN_ID: u8 = 12;
const ROUTER_ID: u8 = 8;

fn extension(id: u8, uri: &str) -> HeaderExtension {
    HeaderExtension {
        id: id.into(),
        uri: uri.into(),
    }
}

/// Client 0 sends `sent` on "send", client 1 gets it as 5000, with the descriptor
/// or without; all connected and resumed.
fn call(sent: Sent, descriptor: bool) -> Network {
    let mut network = Network::new(1);
    let (kind, proto_kind) = sent.kind();
    let codec = |mime: &str, kind: ProtoKind, clock_rate, channels, payload_type| RouterCodec {
        kind: kind.into(),
        mime_type: mime.into(),
        clock_rate,
        channels,
        payload_type,
        rtx_payload_type: None,
    };
    let own = codec(
        sent.mime_type,
        proto_kind,
        sent.clock_rate,
        sent.channels,
        sent.router_pt.into(),
    );
    let router = CreateRouterRequest {
        router_id: "room".into(),
        codecs: vec![codec("video/VP8", ProtoKind::Video, 90_000, None, 101), own],
        header_extensions: vec![
            extension(1, MID),
            extension(ROUTER_ID, DEPENDENCY_DESCRIPTOR),
        ],
    };
    network.engine.create_router(&router).unwrap();
    let config = |pt, id| PeerConfig {
        codecs: vec![PeerCodec {
            codec: sent.as_codec,
            pt,
            rtx: None,
        }],
        extensions: vec![(id, descriptor::extension())],
        ..PeerConfig::sending()
    };
    let a = network.add_client(&config(sent.pt, OWN_ID));
    let b = network.add_client(&config(sent.router_pt, ROUTER_ID));
    network.connect(a, "send", true);
    network.clients[a].peer.send_stream("0", kind, 1000, None);
    let request = ProduceRequest {
        transport_id: "send".into(),
        producer_id: "p".into(),
        kind: proto_kind.into(),
        mid: Some("0".into()),
        codecs: vec![ProducerCodec {
            mime_type: sent.mime_type.into(),
            clock_rate: sent.clock_rate,
            channels: sent.channels,
            payload_type: sent.pt.into(),
            mapped_payload_type: sent.router_pt.into(),
            ..ProducerCodec::default()
        }],
        header_extensions: vec![extension(OWN_ID, DEPENDENCY_DESCRIPTOR)],
        encodings: vec![ProducerEncoding {
            ssrc: Some(1000),
            ..ProducerEncoding::default()
        }],
        paused: false,
        silence_ms: None,
    };
    network.engine.produce(network.now, &request).unwrap();
    network.clients[b].peer.expect_stream("c", kind, 5000, None);
    network.connect(b, "recv", false);
    let mut header_extensions = vec![extension(1, MID)];
    if descriptor {
        header_extensions.push(extension(ROUTER_ID, DEPENDENCY_DESCRIPTOR));
    }
    let spec = ConsumerSpec {
        transport_id: "recv".into(),
        consumer_id: "c".into(),
        producer_id: "p".into(),
        mid: "c".into(),
        payload_type: sent.router_pt.into(),
        ssrc: 5000,
        header_extensions,
        ..ConsumerSpec::default()
    };
    let consumers = vec![spec];
    let made = network
        .engine
        .consume(network.now, &ConsumeRequest { consumers });
    assert_eq!(made.results[0].error, "");
    network.run_until("both connected", |n| {
        n.clients.iter().all(|c| c.peer.connected)
    });
    network
}

/// Sends packets 20 ms apart, each with what `describe` says of it.
fn send(network: &mut Network, sent: Sent, describe: impl Fn(u64) -> Vec<u8>) {
    for number in 0..100_u64 {
        let mut values = ExtensionValues::default();
        if let Some(descriptor) = DependencyDescriptor::new(&describe(number)) {
            values.user_values.set(descriptor);
        }
        let ticks = u32::try_from(number).unwrap() * (sent.clock_rate / 50);
        let packet = Packet {
            pt: sent.pt,
            sequence: 65_500 + number,
            timestamp: ticks,
            marker: true,
            // For AV1, the N bit of the aggregation header: a keyframe each.
            payload: [&[0x18, 0x0A][..], &number.to_be_bytes()].concat(),
            ..Packet::default()
        };
        let now = network.now;
        network.clients[0]
            .peer
            .write_with(1000, &packet, now, |own| *own = values);
        network.run_for(Duration::from_millis(20));
    }
    network.run_for(Duration::from_millis(100));
}

const AV1: Sent = Sent {
    mime_type: "video/AV1",
    as_codec: Codec::Av1,
    clock_rate: 90_000,
    channels: None,
    pt: 45,
    router_pt: 105,
};

#[test]
fn every_codec_of_the_router_is_passed_on() {
    let audio = |mime_type, as_codec, clock_rate, channels, pt, router_pt| Sent {
        mime_type,
        as_codec,
        clock_rate,
        channels: Some(channels),
        pt,
        router_pt,
    };
    let vp9 = Sent {
        mime_type: "video/VP9",
        as_codec: Codec::Vp9,
        pt: 98,
        router_pt: 103,
        ..AV1
    };
    for sent in [
        audio("audio/PCMU", Codec::PCMU, 8000, 1, 0, 0),
        audio("audio/PCMU", Codec::PCMU, 8000, 1, 110, 0),
        audio("audio/PCMA", Codec::PCMA, 8000, 1, 8, 8),
        audio("audio/G722", Codec::PCMU, 8000, 1, 9, 9),
        audio("audio/multiopus", Codec::Opus, 48_000, 6, 107, 102),
        vp9,
        AV1,
    ] {
        let mut network = call(sent, false);
        send(&mut network, sent, |_| Vec::new());
        let packets = stream(&network, 1, 5000);
        assert!(packets.len() > 90, "{sent:?}: {}", packets.len());
        let stats = network.engine.producer_stats(network.now, "p").unwrap();
        assert_eq!(stats.streams[0].mime_type, sent.mime_type);
        for pair in packets.windows(2) {
            assert_eq!(pair[1].sequence, pair[0].sequence + 1, "{sent:?}");
            let ticks = pair[1]
                .header
                .timestamp
                .wrapping_sub(pair[0].header.timestamp);
            assert_eq!(ticks, sent.clock_rate / 50, "{sent:?}");
            assert_eq!(*pair[1].header.payload_type, sent.router_pt, "{sent:?}");
            assert_eq!(pair[1].payload.len(), 10, "{sent:?}");
        }
    }
}

/// Short ones, and long ones that need the two-byte form of header extensions.
fn described(number: u64) -> Vec<u8> {
    let len = [3, 60, 16, 17, 3, 0, 255][usize::try_from(number % 7).unwrap()];
    // A frame in one packet, without anything optional.
    let mut descriptor = vec![0xC0, 0, u8::try_from(number).unwrap()];
    descriptor.resize(len, 0);
    descriptor
}

#[test]
fn dependencies_are_described_to_those_who_want_it() {
    for wanted in [true, false] {
        let mut network = call(AV1, wanted);
        send(&mut network, AV1, described);
        let packets = stream(&network, 1, 5000);
        assert!(packets.len() > 90, "{}", packets.len());
        for packet in packets {
            let number = u64::from_be_bytes(packet.payload[2..].try_into().unwrap());
            let values = &packet.header.ext_vals;
            let got = DependencyDescriptor::of(values).map(<[u8]>::to_vec);
            let expected = Some(described(number)).filter(|it| wanted && !it.is_empty());
            assert_eq!(got, expected, "{number}");
        }
    }
}
