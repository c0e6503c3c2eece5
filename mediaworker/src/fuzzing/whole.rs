//! All the way through the engine: transports that get whatever comes, in any order and
//! at any time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::{
    ConnectPlainTransportRequest, ConnectWebRtcTransportRequest, ConsumeRequest, ConsumerSpec,
    CreatePlainTransportRequest, CreateRouterRequest, CreateWebRtcTransportRequest,
    DtlsFingerprint, HeaderExtension, MediaKind, ProduceRequest, ProducerCodec, ProducerEncoding,
    RouterCodec,
};
use rtp_types::RtpPacket;
use slotmap::KeyData;
use str0m::ice::{StunMessage, TransId};

use crate::engine::{AnnouncedAddress, Engine, EngineConfig, Sizes};
use crate::transport::ice::hmac;
use crate::transport::plain::OwnPorts;
use crate::transport::{ConnectionKey, PacketKind, Protocol, Tuple};

/// Port that WebRTC transports share, and those of the plain transports.
const SHARED: u16 = 40_000;
const IN: OwnPorts = OwnPorts {
    rtp: 41_000,
    rtcp: None,
};
const OUT: OwnPorts = OwnPorts {
    rtp: 41_002,
    rtcp: Some(41_003),
};
/// Streams of the producer, and of its consumer.
const SSRC: u32 = 1_111;
const CONSUMER_SSRC: u32 = 2_222;
/// Most datagrams that one that came can lead to: what is saved up for retransmissions,
/// and a few more.
const MAX_SENT: usize = 1_024 + 64;
/// Longest datagram that leaves: one of 1,600 octets with its header extensions, a tag
/// and a number.
const MAX_DATAGRAM: usize = 1_800;

/// MIME type, clock rate, channels and payload type of each codec.
const CODECS: [(&str, u32, Option<u32>, u32); 5] = [
    ("video/VP8", 90_000, None, 101),
    ("video/VP9", 90_000, None, 103),
    ("video/AV1", 90_000, None, 105),
    ("video/H264", 90_000, None, 107),
    ("audio/opus", 48_000, Some(2), 100),
];

/// An engine, which lives as long as its thread does: a certificate takes its time.
struct World {
    engine: Engine,
    now: Instant,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Runs a story, and looks whether anything is left of it.
fn in_the_world(story: impl FnOnce(&mut World)) {
    WORLD.with_borrow_mut(|world| {
        // One that a story broke is not taken again.
        let mut now = world.take().unwrap_or_else(World::new);
        let panics = now.engine.counters().panics;
        story(&mut now);
        now.end();
        assert_eq!(now.engine.counters().panics, panics);
        *world = Some(now);
    });
}

/// Gives out the input.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn head(&mut self) -> Option<[u8; 4]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn some(&mut self, len: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        some
    }
}

impl World {
    fn new() -> Self {
        let engine = Engine::new(EngineConfig {
            announced: vec![AnnouncedAddress("10.0.0.1".into())],
            udp_port: SHARED,
            tcp: true,
        });
        Self {
            engine: engine.unwrap(),
            now: Instant::now(),
        }
    }

    fn create_router(&mut self) {
        let codec =
            |&(mime_type, clock_rate, channels, payload_type): &(&str, _, _, u32)| RouterCodec {
                kind: kind(mime_type).into(),
                mime_type: mime_type.into(),
                clock_rate,
                channels,
                payload_type,
                rtx_payload_type: channels.is_none().then_some(payload_type + 1),
            };
        let request = CreateRouterRequest {
            router_id: "room".into(),
            codecs: CODECS.iter().map(codec).collect(),
            header_extensions: extensions(),
        };
        self.engine.create_router(&request).unwrap();
    }

    fn receive(&mut self, protocol: Protocol, from: SocketAddr, datagram: &[u8]) {
        let tuple = Tuple {
            remote: from,
            local: [10, 0, 0, 1].into(),
            protocol,
        };
        // It may have waited, and longer than another that came before it.
        let waited = Duration::from_micros(u64::try_from(datagram.len() % 64 * 100).unwrap_or(0));
        let came = self.now.checked_sub(waited).unwrap_or(self.now);
        self.engine.receive_late(self.now, came, tuple, datagram);
        self.tick();
    }

    /// Lets time pass, and does whatever becomes due within it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..64 {
            let Some(next) = self.engine.next_timeout().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.tick();
        }
        self.now = self.now.max(end);
        self.tick();
    }

    /// What the event loop does; looks at what leaves.
    fn tick(&mut self) {
        let mut sent = Vec::new();
        self.engine
            .flush(self.now, |datagrams| sent.extend_from_slice(datagrams));
        self.engine.handle_timeouts(self.now);
        self.engine
            .flush(self.now, |datagrams| sent.extend_from_slice(datagrams));
        self.engine
            .send_off(|datagrams| sent.extend_from_slice(datagrams));
        assert!(sent.len() <= MAX_SENT, "{} datagrams", sent.len());
        for (to, datagram) in &sent {
            assert!(datagram.len() <= MAX_DATAGRAM, "{}", datagram.len());
            let Protocol::OwnPort(_) = to.protocol else {
                continue;
            };
            match PacketKind::of(datagram) {
                Some(PacketKind::Rtp) => drop(RtpPacket::parse(datagram).unwrap()),
                Some(PacketKind::Rtcp) => {
                    for packet in rtcp_types::Compound::parse(datagram).unwrap() {
                        packet.unwrap();
                    }
                }
                other => panic!("{other:?} to {to:?}"),
            }
        }
        assert!(self.engine.events_waiting() <= 256);
        while self.engine.poll_event().is_some() {}
    }

    /// Closes the room; nothing may be left of it.
    fn end(&mut self) {
        self.engine.close_router(self.now, "room").unwrap();
        self.tick();
        self.engine.take_released_ports();
        assert_eq!(self.engine.sizes(), Sizes::default());
        assert_eq!(self.engine.next_timeout(), None);
        self.now += Duration::from_secs(60);
    }
}

fn kind(mime_type: &str) -> MediaKind {
    match mime_type.starts_with("audio") {
        true => MediaKind::Audio,
        false => MediaKind::Video,
    }
}

fn extensions() -> Vec<HeaderExtension> {
    let list = (1..).zip(super::rtp::WRITTEN);
    list.map(|(id, uri)| HeaderExtension {
        id,
        uri: uri.into(),
    })
    .collect()
}

/// A room with a sender and a receiver, both of plain RTP. The first octet chooses the
/// codec, and whether retransmissions have a stream of their own. Then each step has
/// four octets in front: what it is, and what it takes.
///
/// # Panics
/// When the engine does, when what leaves is malformed or without bounds, or when
/// something is left in the end.
pub fn plain(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    let mut source = Source(rest);
    in_the_world(|world| {
        let codec = CODECS[usize::from(first & 0x0f) % CODECS.len()];
        let rtx = first & 0x10 != 0 && codec.2.is_none();
        open_plain(world, codec, rtx);
        let (sender, receiver) = (address(1), address(2));
        let (mut sequence, mut timestamp) = (65_000u16, 0u32);
        while let Some([what, a, b, c]) = source.head() {
            let len = usize::from(u16::from_be_bytes([b & 7, c]));
            match what % 8 {
                // Anything, to either, on any port, from where it should be or not.
                0 => {
                    let datagram = source.some(len);
                    let port = [IN.rtp, OUT.rtp, OUT.rtp + 1][usize::from(a) % 3];
                    let from = if a & 0x40 != 0 { address(9) } else { sender };
                    world.receive(Protocol::OwnPort(port), from, datagram);
                }
                // What the receiver says, behind its own SSRC.
                1 => {
                    let said = source.some(len / 4 * 4);
                    let words = u16::try_from(said.len() / 4 + 2).unwrap();
                    let mut packet = vec![0x80 | (a & 0x1f), 200 + (a >> 5)];
                    packet.extend_from_slice(&words.to_be_bytes());
                    packet.extend_from_slice(&7u32.to_be_bytes());
                    packet.extend_from_slice(&CONSUMER_SSRC.to_be_bytes());
                    packet.extend_from_slice(said);
                    packet.resize(4 + 4 * usize::from(words), 0);
                    world.receive(Protocol::OwnPort(OUT.rtp + 1), receiver, &packet);
                }
                2 => world.pass(Duration::from_millis(u64::from(a) << (b & 7))),
                // Media, with header extensions where there is room for them.
                _ => {
                    sequence = sequence.wrapping_add_signed(a.cast_signed().into());
                    timestamp = timestamp.wrapping_add(u32::from(b) << 6);
                    let mut pt = u8::try_from(codec.3).unwrap();
                    let again = rtx && what & 0x40 != 0;
                    pt += u8::from(again);
                    let mut packet = vec![0x80 | (what & 0x30), pt | (what & 0x80)];
                    packet.extend_from_slice(&sequence.to_be_bytes());
                    packet.extend_from_slice(&timestamp.to_be_bytes());
                    packet.extend_from_slice(&(SSRC + u32::from(again)).to_be_bytes());
                    packet.extend_from_slice(source.some(c.into()));
                    world.receive(Protocol::OwnPort(IN.rtp), sender, &packet);
                }
            }
        }
        world.pass(Duration::from_secs(2));
    });
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 5_000))
}

fn open_plain(world: &mut World, codec: (&str, u32, Option<u32>, u32), rtx: bool) {
    world.create_router();
    for (id, ports) in [("in", IN), ("out", OUT)] {
        let request = CreatePlainTransportRequest {
            router_id: "room".into(),
            transport_id: id.into(),
            rtcp_mux: ports.rtcp.is_none(),
            comedia: id == "in",
            srtp_crypto_suite: None,
        };
        world
            .engine
            .create_plain_transport(&request, ports)
            .unwrap();
    }
    let request = ConnectPlainTransportRequest {
        transport_id: "out".into(),
        address: Some(address(2).ip().to_string()),
        port: Some(5_000),
        rtcp_port: Some(5_000),
        srtp: None,
    };
    world
        .engine
        .connect_plain_transport(world.now, &request)
        .unwrap();
    let (mime_type, clock_rate, channels, payload_type) = codec;
    let video = channels.is_none();
    let request = ProduceRequest {
        transport_id: "in".into(),
        producer_id: "producer".into(),
        kind: kind(mime_type).into(),
        mid: None,
        codecs: vec![ProducerCodec {
            mime_type: mime_type.into(),
            clock_rate,
            channels,
            payload_type,
            rtx_payload_type: rtx.then_some(payload_type + 1),
            mapped_payload_type: payload_type,
            nack: video,
            nack_pli: video,
            ccm_fir: video,
            transport_cc: false,
        }],
        header_extensions: extensions(),
        encodings: vec![ProducerEncoding {
            ssrc: Some(SSRC),
            rtx_ssrc: rtx.then_some(SSRC + 1),
            rid: None,
            layers: None,
        }],
        paused: false,
        silence_ms: None,
    };
    world.engine.produce(world.now, &request).unwrap();
    let spec = ConsumerSpec {
        transport_id: "out".into(),
        consumer_id: "consumer".into(),
        producer_id: "producer".into(),
        mid: "0".into(),
        payload_type,
        rtx_payload_type: rtx.then_some(payload_type + 1),
        ssrc: CONSUMER_SSRC,
        rtx_ssrc: rtx.then_some(CONSUMER_SSRC + 1),
        header_extensions: extensions(),
        paused: false,
    };
    let consumers = vec![spec];
    let made = world
        .engine
        .consume(world.now, &ConsumeRequest { consumers });
    assert_eq!(made.results[0].error, "");
}

/// A WebRTC transport before there is any trust: connectivity checks, good and bad, and
/// anything else, over UDP and TCP. Each step has four octets in front.
///
/// # Panics
/// When the engine does, when it answers more than it was asked, or when something is
/// left in the end.
pub fn web_rtc(input: &[u8]) {
    let mut source = Source(input);
    in_the_world(|world| {
        world.create_router();
        let request = CreateWebRtcTransportRequest {
            router_id: "room".into(),
            transport_id: "client".into(),
            producing: true,
            consuming: true,
            ..CreateWebRtcTransportRequest::default()
        };
        let made = world.engine.create_web_rtc_transport(&request).unwrap();
        let mut ice = made.ice_parameters.unwrap();
        while let Some([what, a, b, c]) = source.head() {
            let from = SocketAddr::from(([192, 0, 2, a & 0x0f], 5_000));
            let key = ConnectionKey::from(KeyData::from_ffi(1 | 1 << 32 | u64::from(a & 3) << 1));
            let protocol = match a & 0x10 {
                0 => Protocol::Udp,
                _ => Protocol::Tcp(key),
            };
            match what % 8 {
                0 | 1 => {
                    let len = usize::from(u16::from_be_bytes([b & 7, c]));
                    world.receive(protocol, from, source.some(len));
                }
                2 | 3 => {
                    let mut check = check(&ice, what, b);
                    if what & 0x80 != 0 {
                        let at = usize::from(c) % check.len();
                        check[at] ^= 1 << (a >> 5);
                    }
                    world.receive(protocol, from, &check);
                }
                4 => world.pass(Duration::from_millis(u64::from(b) << (c & 7))),
                5 => world.engine.connection_closed(world.now, key),
                6 => {
                    // Consent may have expired, and the transport with it.
                    if let Ok(made) = world.engine.restart_ice("client") {
                        ice = made;
                    }
                }
                _ => {
                    let request = ConnectWebRtcTransportRequest {
                        transport_id: "client".into(),
                        role: i32::from(b & 3),
                        fingerprint: Some(DtlsFingerprint {
                            algorithm: "sha-1".into(),
                            value: vec!["AB"; 20].join(":"),
                        }),
                    };
                    // Once is enough.
                    let _ = world.engine.connect_web_rtc_transport(world.now, &request);
                    world.tick();
                }
            }
        }
    });
}

/// A connectivity check, of a client that knows the password or not.
fn check(ice: &proto::IceParameters, what: u8, more: u8) -> Vec<u8> {
    let user = format!("{}:client", ice.username_fragment);
    let (controlling, nominate) = (what & 0x08 == 0, what & 0x10 != 0);
    let message = StunMessage::binding_request(
        &user,
        TransId::new(),
        controlling,
        more.into(),
        1 + u32::from(more),
        nominate,
    );
    let password = match what & 0x60 {
        0x60 => "wrong",
        _ => ice.password.as_str(),
    };
    let mut octets = vec![0; 256];
    let len = message.to_bytes(Some(password.as_bytes()), &mut octets, hmac);
    octets.truncate(len.unwrap());
    octets
}
