//! Layers within a stream: what a consumer does not want is left out, and nobody notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mediaworker::transport::extensions::DEPENDENCY_DESCRIPTOR;
use proto::event::Event;
use test_peer::{Packet, PeerConfig, ReceivedRtp};

use crate::network::Network;
use crate::room::{call_with, stream};

const SECOND: Duration = Duration::from_secs(1);
const FRAME: Duration = Duration::from_millis(40);
/// Temporal layers of the pictures in turn.
const PATTERN: [u8; 4] = [0, 2, 1, 2];

/// A sender of 25 pictures of two packets a second in three temporal layers.
struct Layered {
    next: Instant,
    picture: u32,
    sequence: u64,
    requests_seen: usize,
}

impl Layered {
    fn new(network: &Network) -> Self {
        Self {
            next: network.now,
            // The picture id and TL0PICIDX soon wrap around.
            picture: 0x7fc0,
            sequence: 65_400,
            requests_seen: 0,
        }
    }

    fn run(&mut self, network: &mut Network, time: Duration) {
        let end = network.now + time;
        while network.now < end {
            if self.next <= network.now {
                self.send(network);
                self.next += FRAME;
            }
            network.step(Duration::from_millis(1));
        }
    }

    fn send(&mut self, network: &mut Network) {
        let requests = network.clients[0].peer.key_frame_requests.len();
        let key = self.picture == 0x7fc0 || requests > self.requests_seen;
        self.requests_seen = requests;
        if key {
            self.picture = self.picture.next_multiple_of(4);
        }
        let temporal = PATTERN[self.picture as usize % 4];
        for part in 0..2u8 {
            let [high, low] = (self.picture as u16 & 0x7fff).to_be_bytes();
            let mut payload = vec![
                if part == 0 { 0x90 } else { 0x80 },
                0xf0,
                high | 0x80,
                low,
                (self.picture / 4) as u8,
                // Both higher layers may be joined once in eight pictures.
                temporal << 6 | u8::from(self.picture % 8 < 4) << 5,
                u8::from(!key),
            ];
            payload.resize(500, 0x5a);
            let packet = Packet {
                pt: 96,
                sequence: self.sequence,
                timestamp: self.picture.wrapping_mul(3600),
                marker: part == 1,
                nackable: true,
                audio_level: None,
                payload,
            };
            let now = network.now;
            network.clients[0].peer.write(2000, &packet, now);
            self.sequence += 1;
        }
        self.picture += 1;
    }
}

fn vp8_call(seed: u64) -> (Network, Layered) {
    let announce = |request: &mut proto::ProduceRequest| {
        request.encodings[0].layers = Some(proto::EncodingLayers {
            spatial: 1,
            temporal: 3,
            independent: false,
        });
    };
    let (network, _, _) = call_with(seed, announce, PeerConfig::sending());
    let source = Layered::new(&network);
    (network, source)
}

fn prefer(network: &mut Network, temporal_layer: u32) {
    let request = proto::SetConsumerPreferredLayersRequest {
        consumer_id: "v".into(),
        spatial_layer: 0,
        temporal_layer: Some(temporal_layer),
    };
    network.engine.set_preferred_layers(&request).unwrap();
}

fn temporal(packet: &ReceivedRtp) -> u8 {
    packet.payload[5] >> 6
}

/// Checks what a decoder relies on, and answers how often each layer was there.
fn check(packets: &[ReceivedRtp]) -> BTreeMap<u8, usize> {
    let mut layers = BTreeMap::new();
    let picture =
        |packet: &ReceivedRtp| u16::from_be_bytes([packet.payload[2] & 0x7f, packet.payload[3]]);
    for pair in packets.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1, "no gap");
        let is_next = pair[0].header.marker;
        let step = picture(&pair[1]).wrapping_sub(picture(&pair[0])) & 0x7fff;
        assert_eq!(step, u16::from(is_next), "pictures are contiguous");
        let step = pair[1].payload[4].wrapping_sub(pair[0].payload[4]);
        let is_base = is_next && temporal(&pair[1]) == 0;
        assert_eq!(step, u8::from(is_base), "TL0PICIDX counts the lowest layer");
        *layers.entry(temporal(&pair[1])).or_default() += 1;
    }
    layers
}

#[test]
fn temporal_layers_that_nobody_wants_are_left_out() {
    let (mut network, mut source) = vp8_call(21);
    source.run(&mut network, 2 * SECOND);
    let mut seen = 0;
    let mut rest = |network: &Network| {
        let all = stream(network, 1, 6000);
        let new = all[seen..].to_vec();
        seen = all.len();
        new
    };
    let all = check(&rest(&network));
    assert_eq!(all.len(), 3, "{all:?}");
    for (wanted, layers) in [(0, 1), (1, 2), (2, 3), (0, 1)] {
        prefer(&mut network, wanted);
        // Until the layers may be joined, and the last packet is under way.
        source.run(&mut network, SECOND);
        rest(&network);
        source.run(&mut network, 2 * SECOND);
        let got = check(&rest(&network));
        assert_eq!(got.len(), layers, "{got:?}");
        let told = network.events.iter().rev().find_map(|event| match event {
            Event::ConsumerLayers(told) => told.layers,
            _ => None,
        });
        assert_eq!(told.unwrap().temporal_layer, Some(wanted));
    }
    check(&stream(&network, 1, 6000));
    let asked = &network.clients[0].peer.key_frame_requests;
    assert!(asked.is_empty(), "{asked:?}");
    let stats = network.engine.producer_stats(network.now, "cam").unwrap();
    let by_layer: BTreeMap<_, _> = stats.streams[0].bitrate_by_layer.iter().collect();
    let names: Vec<_> = by_layer.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["0.0", "0.1", "0.2"]);
    // 6.25, 6.25 and 12.5 pictures of 1,000 octets a second.
    for (bitrate, expected) in by_layer.values().zip([50_000, 50_000, 100_000]) {
        let off = bitrate.abs_diff(expected);
        assert!(off < expected / 5, "{by_layer:?}");
    }
}

#[test]
fn what_is_left_out_is_not_missed_under_loss() {
    let (mut network, mut source) = vp8_call(22);
    prefer(&mut network, 1);
    network.conditions.loss = 0.1;
    source.run(&mut network, 6 * SECOND);
    network.conditions.loss = 0.0;
    source.run(&mut network, SECOND);
    let packets = stream(&network, 1, 6000);
    // A packet that came late, by a retransmission to us, has no payload where it is not wanted.
    let with_payload: Vec<_> = packets
        .iter()
        .filter(|packet| !packet.payload.is_empty())
        .collect();
    assert!(with_payload.iter().all(|packet| temporal(packet) <= 1));
    let gaps: u64 = packets
        .windows(2)
        .map(|p| p[1].sequence - p[0].sequence - 1)
        .sum();
    assert!(
        packets.len() > 120 && gaps < 3,
        "{} packets, {gaps} gaps",
        packets.len()
    );
}

/// Writes bits, the highest of each byte first.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, value: u64, count: u32) -> &mut Self {
        self.0
            .extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| {
            (0..8).fold(0, |byte, bit| {
                byte << 1 | u8::from(bits.get(bit) == Some(&true))
            })
        };
        self.0.chunks(8).map(byte).collect()
    }
}

/// The descriptor of a frame of L1T3 in one packet; a keyframe brings the structure.
fn descriptor(number: u16, temporal: u64, key: bool) -> Vec<u8> {
    let mut bits = Bits::default();
    let template = if key { 0 } else { temporal + 1 };
    bits.put(3, 2).put(template, 6).put(number.into(), 16);
    if !key {
        return bits.bytes();
    }
    bits.put(0b1_0000, 5).put(0, 6).put(2, 5);
    // Templates: keyframe, T0, T1 and T2.
    for next in [0, 1, 1, 3] {
        bits.put(next, 2);
    }
    // For the targets T0, T1 and T2.
    for indications in [0b10_10_10, 0b10_10_10, 0b00_01_10, 0b00_00_01] {
        bits.put(indications, 6);
    }
    bits.put(0, 1);
    for back in [4, 2, 1] {
        bits.put(1, 1).put(back - 1, 4).put(0, 1);
    }
    // No chains, no resolutions.
    bits.put(0, 2).put(0, 1);
    bits.bytes()
}

#[test]
fn layers_of_av1_are_read_from_its_dependency_descriptor() {
    let av1 = |request: &mut proto::ProduceRequest| {
        if request.kind() == proto::MediaKind::Video {
            request.codecs[0].mime_type = "video/AV1".into();
            request.header_extensions.push(proto::HeaderExtension {
                id: 12,
                uri: DEPENDENCY_DESCRIPTOR.into(),
            });
        }
    };
    let mut sender = PeerConfig::sending();
    sender.extensions.push((12, crate::descriptor::extension()));
    let (mut network, _, _) = call_with(23, av1, sender);
    let mut wanted = 0;
    prefer(&mut network, wanted);
    let mut got = Vec::new();
    for number in 0..200u16 {
        let temporal = PATTERN[usize::from(number) % 4];
        let key = number == 0;
        let mut payload = if key {
            vec![0x28, 0x0b, 0x08]
        } else {
            vec![0x10, 0x30]
        };
        payload.extend([temporal; 50]);
        let packet = Packet {
            pt: 96,
            sequence: 65_500 + u64::from(number),
            timestamp: u32::from(number) * 3600,
            marker: true,
            nackable: true,
            audio_level: None,
            payload,
        };
        let descriptor = descriptor(number, temporal.into(), key);
        let now = network.now;
        let peer = &mut network.clients[0].peer;
        peer.write_with(2000, &packet, now, |values| {
            use test_peer::str0m::rtp::ExtensionSerializer;
            assert!(crate::descriptor::Serializer.parse_value(&descriptor, values));
        });
        network.run_for(FRAME);
        if number % 50 == 49 {
            let all = stream(&network, 1, 6000);
            assert!(all.windows(2).all(|p| p[1].sequence == p[0].sequence + 1));
            let mut layers: Vec<u8> = all.iter().map(|p| *p.payload.last().unwrap()).collect();
            got.push(layers.split_off(got.iter().map(Vec::len).sum()));
            wanted = (wanted + 1) % 3;
            prefer(&mut network, wanted);
        }
    }
    let count = |layers: &[u8], layer| layers.iter().filter(|l| **l == layer).count();
    let counts: Vec<_> = got
        .iter()
        .map(|layers| [0, 1, 2].map(|layer| count(layers, layer)))
        .collect();
    assert_eq!(counts[0][1..], [0, 0]);
    assert!(counts[1][1] >= 11 && counts[1][2] == 0, "{counts:?}");
    assert!(counts[2][1] >= 11 && counts[2][2] >= 22, "{counts:?}");
    assert!(counts[3][1] <= 1 && counts[3][2] <= 2, "{counts:?}");
}
