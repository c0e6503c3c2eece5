//! Packets in the clear, written octet by octet, against the producers that they belong to.

use std::time::{Duration, Instant};

use router::{Codec, ProducerKey, StreamLayers};
use slotmap::KeyData;
use str0m::media::MediaKind;

use super::*;
use crate::transport::extensions::{MID, TRANSPORT_CC};
use crate::transport::rtcp::asking::Request;

const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
const PT: u8 = 96;
const RTX: u8 = 97;

fn key(number: u64) -> ProducerKey {
    KeyData::from_ffi(1 << 32 | number).into()
}

/// A camera of these layers, whose SSRCs are not announced.
fn camera(mid: &str, rids: &[&str]) -> ProducerSpec {
    let encoding = |rid: Option<&str>| Encoding {
        rid: rid.map(str::to_owned),
        ..Default::default()
    };
    let extensions = [(1, MID), (2, RID), (3, REPAIRED_RID), (4, TRANSPORT_CC)];
    ProducerSpec {
        kind: MediaKind::Video,
        mid: Some(mid.into()),
        codecs: vec![ProducerCodec {
            payload_type: PayloadType {
                pt: PT,
                rtx: Some(RTX),
                clock_rate: 90_000,
            },
            codec: Codec::Vp8,
            nack: true,
            pli: true,
            fir: true,
            transport_cc: true,
        }],
        extensions: extensions.map(|(id, uri)| (id, uri.to_owned())).to_vec(),
        encodings: match rids {
            [] => vec![encoding(None)],
            rids => rids.iter().map(|rid| encoding(Some(rid))).collect(),
        },
        layers: StreamLayers::default(),
        silence: None,
    }
}

#[derive(Clone, Copy)]
struct Rtp<'a> {
    pt: u8,
    number: u16,
    ssrc: u32,
    extensions: &'a [(u8, &'a [u8])],
    payload: &'a [u8],
}

impl Rtp<'_> {
    fn octets(&self) -> Vec<u8> {
        let mut to = vec![0x90, self.pt];
        to.extend_from_slice(&self.number.to_be_bytes());
        to.extend_from_slice(&[0, 0, 0, 7]);
        to.extend_from_slice(&self.ssrc.to_be_bytes());
        let mut fields = Vec::new();
        for (id, value) in self.extensions {
            fields.push(id << 4 | u8::try_from(value.len() - 1).unwrap());
            fields.extend_from_slice(value);
        }
        fields.resize(fields.len().next_multiple_of(4), 0);
        let words = u16::try_from(fields.len() / 4).unwrap();
        to.extend_from_slice(&[0xbe, 0xde]);
        to.extend_from_slice(&words.to_be_bytes());
        to.extend_from_slice(&fields);
        to.extend_from_slice(self.payload);
        to
    }
}

/// A packet with MID and RID.
fn layer(rid: &'static [u8], ssrc: u32, number: u16) -> Vec<u8> {
    let extensions: &[(u8, &[u8])] = &[(1, b"0"), (2, rid)];
    Rtp {
        pt: PT,
        number,
        ssrc,
        extensions,
        payload: &[9; 20],
    }
    .octets()
}

/// A packet without any.
fn bare(pt: u8, ssrc: u32, number: u16, payload: &[u8]) -> Vec<u8> {
    Rtp {
        pt,
        number,
        ssrc,
        extensions: &[],
        payload,
    }
    .octets()
}

/// Producer, encoding, low bits of the sequence number, and whether it has a new source.
fn media(arrival: Arrival) -> Option<(ProducerKey, usize, u64, bool)> {
    match arrival {
        Arrival::Media { received: it, .. } => Some((
            it.producer,
            it.stream,
            it.packet.sequence & 0xffff,
            it.new_source,
        )),
        _ => None,
    }
}

fn receive(
    it: &mut Receiving,
    now: Instant,
    rtp: &[u8],
) -> Option<(ProducerKey, usize, u64, bool)> {
    media(it.receive(now, rtp, rtp.len()))
}

#[test]
fn layers_are_found_by_their_ids_and_then_by_their_ssrcs() {
    let now = Instant::now();
    let mut it = Receiving::default();
    it.check(&camera("0", &["lo", "hi"])).unwrap();
    assert!(it.add(now, key(1), camera("0", &["lo", "hi"])).is_empty());
    let (one, two) = ((key(1), 0), (key(1), 1));
    assert_eq!(receive(&mut it, now, &bare(PT, 7, 1, &[1])), None);
    let got = receive(&mut it, now, &layer(b"hi", 7, 2));
    assert_eq!(got, Some((two.0, two.1, 2, false)));
    let got = receive(&mut it, now, &layer(b"lo", 8, 9));
    assert_eq!(got, Some((one.0, one.1, 9, false)));
    let got = receive(&mut it, now, &bare(PT, 7, 3, &[1]));
    assert_eq!(got, Some((two.0, two.1, 3, false)));
    assert_eq!(receive(&mut it, now, &layer(b"no", 9, 1)), None);
    assert_eq!(receive(&mut it, now, &bare(50, 7, 4, &[1])), None, "codec");
    assert_eq!(receive(&mut it, now, &bare(PT, 7, 3, &[1])), None, "twice");
    let stats = it.stats(now, key(1));
    assert_eq!(stats.len(), 2);
    assert_eq!((stats[1].1.ssrc, stats[1].1.packets_discarded), (7, 1));
}

#[test]
fn retransmissions_take_their_old_places() {
    let now = Instant::now();
    let mut it = Receiving::default();
    it.add(now, key(1), camera("0", &["lo", "hi"]));
    for number in [10, 13] {
        assert!(receive(&mut it, now, &layer(b"hi", 7, number)).is_some());
    }
    let ask = |it: &mut Receiving, ms| it.due(now + Duration::from_millis(ms), true).1;
    let nack = Request::Nack {
        ssrc: 7,
        sequences: vec![11, 12],
    };
    assert!(ask(&mut it, 5).contains(&nack));
    let again = |extensions: &[(u8, &[u8])], payload: &[u8]| {
        Rtp {
            pt: RTX,
            number: 500,
            ssrc: 70,
            extensions,
            payload,
        }
        .octets()
    };
    let unknown = again(&[], &[0, 11, 5, 5]);
    assert_eq!(receive(&mut it, now, &unknown), None);
    let named = again(&[(1, b"0"), (3, b"hi")], &[0, 11, 5, 5]);
    let got = receive(&mut it, now, &named);
    assert_eq!(got, Some((key(1), 1, 11, false)));
    assert_eq!(
        receive(&mut it, now, &named),
        None,
        "is not missing any more"
    );
    let Arrival::Media { received, again } = it.receive(now, &again(&[], &[0, 12, 6]), 40) else {
        panic!("known by now");
    };
    assert!(again && *received.packet.payload == [6]);
    let padding = it.receive(now, &bare(PT, 70, 501, &[]), 40);
    assert!(matches!(padding, Arrival::Padding), "{padding:?}");
    let (_, stats) = it.stats(now, key(1)).pop().unwrap();
    assert_eq!((stats.packets_lost, stats.packets_repaired), (2, 2));
    assert_eq!((stats.rtx_ssrc, stats.packets_discarded), (Some(70), 0));
    assert_eq!(stats.feedback.nack_packets, 2);
}

#[test]
fn an_encoding_may_move_to_another_ssrc_but_not_back_and_forth() {
    let now = Instant::now();
    let mut it = Receiving::default();
    it.add(now, key(1), camera("0", &["hi"]));
    assert!(receive(&mut it, now, &layer(b"hi", 7, 60_000)).is_some());
    let got = receive(&mut it, now, &layer(b"hi", 8, 5));
    assert_eq!(got, Some((key(1), 0, 5, true)));
    let got = receive(&mut it, now, &layer(b"hi", 8, 6));
    assert_eq!(got, Some((key(1), 0, 6, false)));
    let late = layer(b"hi", 7, 60_001);
    assert_eq!(receive(&mut it, now, &late), None);
    let later = now + Duration::from_secs(2);
    let got = receive(&mut it, later, &late);
    assert_eq!(got, Some((key(1), 0, 60_001, true)));
    let (_, stats) = it.stats(later, key(1)).pop().unwrap();
    assert_eq!((stats.packets, stats.packets_lost), (4, 0));
    assert!(!it.is_abused());
    for ssrc in 1_000..2_100 {
        receive(&mut it, later, &layer(b"hi", ssrc, 1));
    }
    assert!(it.is_abused());
}

#[test]
fn what_is_announced_is_not_changed_by_what_comes() {
    let now = Instant::now();
    let mut it = Receiving::default();
    let mut spec = camera("0", &[]);
    spec.encodings[0].ssrc = Some(7);
    it.add(now, key(1), spec);
    let named = |ssrc| {
        let extensions: &[(u8, &[u8])] = &[(1, b"0")];
        Rtp {
            pt: PT,
            number: 1,
            ssrc,
            extensions,
            payload: &[1],
        }
        .octets()
    };
    assert_eq!(receive(&mut it, now, &named(8)), None);
    assert!(receive(&mut it, now, &named(7)).is_some());
}

#[test]
fn what_comes_before_its_producer_is_kept_for_a_moment() {
    let now = Instant::now();
    let ms = |ms| now + Duration::from_millis(ms);
    let mut it = Receiving::default();
    for number in 0..200 {
        let at = ms(u64::from(number) / 4);
        assert_eq!(receive(&mut it, at, &layer(b"hi", 7, number)), None);
    }
    let early = it.add(ms(60), key(1), camera("0", &["hi"]));
    let numbers: Vec<u64> = early.iter().map(|it| it.packet.sequence & 0xffff).collect();
    assert_eq!(numbers, (0..128).collect::<Vec<_>>(), "the first ones");
    assert_eq!(early[9].packet.arrived, ms(2));

    let mut it = Receiving::default();
    receive(&mut it, now, &layer(b"hi", 7, 1));
    let early = it.add(ms(2_000), key(1), camera("0", &["hi"]));
    assert!(early.is_empty(), "too late");
}

#[test]
fn what_is_under_way_of_a_removed_producer_is_not_the_next_ones() {
    let now = Instant::now();
    let mut it = Receiving::default();
    it.add(now, key(1), camera("0", &["hi"]));
    assert!(receive(&mut it, now, &layer(b"hi", 7, 1)).is_some());
    it.remove(key(1));
    assert_eq!(receive(&mut it, now, &layer(b"hi", 7, 2)), None);
    assert!(it.add(now, key(2), camera("0", &["hi"])).is_empty());
    assert_eq!(receive(&mut it, now, &layer(b"hi", 7, 3)), None);
    let got = receive(&mut it, now, &layer(b"hi", 8, 1));
    assert_eq!(got, Some((key(2), 0, 1, false)));
    // A client may take the same one again, later.
    it.remove(key(2));
    it.add(now, key(3), camera("0", &["hi"]));
    let later = now + Duration::from_secs(3);
    let got = receive(&mut it, later, &layer(b"hi", 8, 1));
    assert_eq!(got, Some((key(3), 0, 1, false)));
}

#[test]
fn every_packet_is_told_of_once_probes_too() {
    let now = Instant::now();
    let mut it = Receiving::default();
    let counted = |ssrc, number: u16| {
        let value = number.to_be_bytes();
        let mid: &[u8] = if ssrc == 99 { b"1" } else { b"0" };
        let extensions: &[(u8, &[u8])] = &[(1, mid), (2, b"hi"), (4, &value)];
        Rtp {
            pt: PT,
            number,
            ssrc,
            extensions,
            payload: &[1],
        }
        .octets()
    };
    it.receive(now, &counted(7, 1), 40);
    assert_eq!(it.add(now, key(1), camera("0", &["hi"])).len(), 1);
    assert!(receive(&mut it, now, &counted(7, 2)).is_some());
    let probe = it.receive(now, &counted(0, 3), 40);
    assert!(matches!(probe, Arrival::Padding));
    assert_eq!(receive(&mut it, now, &counted(99, 4)), None, "not yet");
    assert_eq!(it.add(now, key(2), camera("1", &["hi"])).len(), 1);
    assert_eq!(it.next_timeout(), Some(now + Duration::from_millis(100)));
    let (blocks, ask) = it.due(now + Duration::from_millis(100), true);
    assert!(blocks.is_empty());
    let [Request::TransportCc { message, .. }] = ask.as_slice() else {
        panic!("{ask:?}");
    };
    assert_eq!(message[..4], [0, 1, 0, 4]);
    assert_eq!(
        message[8..14],
        [0x20, 4, 0, 0, 0, 0],
        "one run, no time between"
    );
}

#[test]
fn reports_are_due_once_a_second_and_keyframes_at_once() {
    let now = Instant::now();
    let mut it = Receiving::default();
    it.add(now, key(1), camera("0", &["hi"]));
    assert!(!it.request_key_frame(key(1), 0), "nobody to ask yet");
    assert!(receive(&mut it, now, &layer(b"hi", 7, 1)).is_some());
    assert!(receive(&mut it, now, &layer(b"hi", 7, 300)).is_some());
    assert_eq!(it.next_timeout(), Some(now), "too much is missing");
    assert_eq!(it.due(now, true).1, [Request::Pli { ssrc: 7 }]);
    assert!(it.request_key_frame(key(1), 0) && it.is_due(now));
    assert_eq!(it.due(now, true).1, [Request::Pli { ssrc: 7 }]);
    let second = now + Duration::from_secs(1);
    assert_eq!(it.next_timeout(), Some(second));
    let (blocks, ask) = it.due(second, true);
    assert_eq!((blocks.len(), ask.len()), (1, 0));
    assert_eq!((blocks[0].ssrc, blocks[0].lost), (7, 298));
    assert_eq!(blocks[0].highest, 300);
    let (_, stats) = it.stats(second, key(1)).pop().unwrap();
    assert_eq!(stats.feedback.plis, 2);
}
