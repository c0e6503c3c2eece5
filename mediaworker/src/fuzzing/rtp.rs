//! RTP: header extensions, packets that are written for clients, and SRTP.

use std::rc::Rc;
use std::time::Instant;

use router::Payload;
use rtp_types::RtpPacket;

use crate::transport::extensions::{self as uris, Extension, Ids, Written, fields};
use crate::transport::packet::{Extensions, MediaPacket};
use crate::transport::send::packet::{self, Content, Header, Mid, Parts, write};
use crate::transport::srtp::{Opener, Sealer, Suite};

/// Extensions that are written, in the order of their ids.
pub(crate) const WRITTEN: [&str; 9] = [
    uris::MID,
    uris::ABS_SEND_TIME,
    uris::TRANSPORT_CC,
    uris::AUDIO_LEVEL,
    uris::VIDEO_ORIENTATION,
    uris::ABS_CAPTURE_TIME,
    uris::PLAYOUT_DELAY,
    uris::TRANSMISSION_OFFSET,
    uris::DEPENDENCY_DESCRIPTOR,
];

/// Reads the header extensions of an RTP packet.
///
/// # Panics
/// When they are not where the packet has them.
pub fn header_extensions(rtp: &[u8]) {
    let values: Vec<(u8, &[u8])> = fields(rtp).collect();
    let octets: usize = values.iter().map(|(_, value)| 1 + value.len()).sum();
    assert!(octets <= rtp.len());
    if let Ok(packet) = RtpPacket::parse(rtp) {
        let (profile, block) = packet.extension().unwrap_or_default();
        assert!(octets <= block.len());
        if profile != 0xbede && profile & 0xfff0 != 0x1000 {
            assert!(values.is_empty());
        }
        // Each lies behind the one before.
        let mut rest = block.as_ptr_range().start;
        for (_, value) in &values {
            let place = value.as_ptr_range();
            assert!(place.start >= rest && place.end <= block.as_ptr_range().end);
            rest = place.end;
        }
    }
    let mut said = Extensions::default();
    for (id, value) in values {
        if let Some(extension) = WRITTEN
            .get(usize::from(id))
            .and_then(|it| Extension::of(it))
        {
            said.take(extension, value);
        }
    }
    assert!(said.audio_level().is_none_or(|level| level <= 0));
    let descriptor = said.dependency_descriptor;
    assert!(descriptor.is_none_or(|it| (3..=255).contains(&it.len())));
}

/// Gives out octets of the input; zeros at its end.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn octet(&mut self) -> u8 {
        let [octet] = self.array();
        octet
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let some = self.some(N);
        array[..some.len()].copy_from_slice(some);
        array
    }

    fn some(&mut self, len: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        some
    }

    /// `N` octets, if the one before them is odd.
    fn maybe<const N: usize>(&mut self) -> Option<[u8; N]> {
        (self.octet() & 1 == 1).then(|| self.array())
    }
}

/// Writes a packet of what the input says, and reads it again.
///
/// # Panics
/// When what is read is not what was written.
pub fn packet(input: &[u8]) {
    let mut source = Source(input);
    let [shift, what] = source.array();
    let list: Vec<_> = (1 + u32::from(shift)..)
        .zip(WRITTEN.map(str::to_owned))
        .filter(|(id, _)| *id <= uris::MAX_ID)
        .collect();
    let ids = Ids::of(&list);
    let values = Extensions {
        audio_level: source.maybe::<1>().map(|[level]| level),
        video_orientation: source.maybe::<1>().map(|[orientation]| orientation),
        transmission_offset: source.maybe(),
        capture_time: source.maybe(),
        clock_offset: source.maybe(),
        playout_delay: source.maybe(),
        dependency_descriptor: match usize::from(source.octet()) {
            len @ 3.. => Some(source.some(len))
                .filter(|it| it.len() >= 3)
                .map(Box::from),
            _ => None,
        },
    };
    let frame_number = source.maybe().map(u16::from_be_bytes);
    let mid_len = usize::from(source.octet() % 17);
    let mid: String = source
        .some(mid_len)
        .iter()
        .map(|it| char::from(it & 0x7f))
        .collect();
    let named = Mid::of(&mid);
    let [payload_type, head @ ..] = source.array::<8>();
    let header = Header {
        payload_type: payload_type & 0x7f,
        marker: payload_type & 0x80 != 0,
        sequence: u64::from_be_bytes([0, 0, 0, 0, head[0], head[1], head[2], head[3]]),
        timestamp: u32::from_be_bytes([head[0], head[1], head[2], head[3]]),
        ssrc: u32::from_be_bytes([head[3], head[4], head[5], head[6]]),
        mid: named.as_ref(),
        mid_room: head[0] % 17,
        sent: (what & 1 != 0).then_some([head[0], head[1], head[2]]),
        transport_cc: (what & 2 != 0).then_some(u16::from_be_bytes([head[5], head[6]])),
    };
    let asked: Vec<&str> = WRITTEN
        .into_iter()
        .filter(|_| source.octet() & 1 == 0)
        .collect();
    let written = Written::negotiated(asked.iter().copied());
    let media = packet::Source {
        packet: Rc::new(MediaPacket {
            ssrc: 1,
            sequence: 1,
            timestamp: 1,
            marker: false,
            extensions: values.clone(),
            payload: source.0.into(),
            arrived: Instant::now(),
        }),
        what: Payload::Same,
        frame_number,
    };
    let content = match what >> 2 & 3 {
        0 => Content::Again(header.sequence.wrapping_add(7), &media),
        1 => Content::Padding(what | 1),
        2 => Content::Longer(&media),
        _ => Content::Media(&media),
    };
    let mut parts = Parts::default();
    // There is as much room as for the MID that it could have, and nothing shows of what was
    // written there before.
    let room = named.map_or(0, |mid| mid.len()).max(header.mid_room);
    let longest = Mid::of(&"x".repeat(room.into()));
    let longest = Header {
        mid: longest.as_ref().filter(|_| named.is_some()),
        mid_room: 0,
        ..header
    };
    let longest = write(&mut parts, &longest, &ids, written, content)
        .header
        .len();
    let clear = write(&mut parts, &header, &ids, written, content);
    let packet = [clear.header, clear.payload, clear.end].concat();
    let header_len = clear.header.len();
    assert_eq!(header_len, longest);
    let read = RtpPacket::parse(&packet).unwrap();
    assert_eq!(read.payload_type(), header.payload_type);
    assert_eq!(read.marker_bit(), header.marker);
    assert_eq!(u64::from(read.sequence_number()), header.sequence & 0xffff);
    assert_eq!(
        (read.timestamp(), read.ssrc()),
        (header.timestamp, header.ssrc)
    );
    match content {
        Content::Media(_) => {
            assert_eq!(read.payload(), source.0);
            assert_eq!(packet.len(), header_len + source.0.len());
        }
        Content::Longer(_) => {
            assert_eq!(read.payload(), source.0);
            assert_eq!(packet.len(), header_len + source.0.len() + 1);
        }
        Content::Again(before, _) => {
            let before = before.to_be_bytes();
            assert_eq!(read.payload(), [&before[6..], source.0].concat());
        }
        Content::Padding(len) => {
            assert!(read.payload().is_empty());
            assert_eq!(packet.len(), header_len + usize::from(len));
        }
    }
    let id_of = |uri: &str| list.iter().find(|(_, it)| it == uri).map(|(id, _)| *id);
    let value = |uri: &str| {
        let id = id_of(uri)?;
        fields(&packet)
            .find(|(it, _)| u32::from(*it) == id)
            .map(|(_, value)| value.to_vec())
    };
    // Padding is of no packet that could have any.
    let is_media = !matches!(content, Content::Padding(_));
    let has = |uri: &str, value: Option<Vec<u8>>| {
        value.filter(|_| is_media && id_of(uri).is_some() && asked.contains(&uri))
    };
    let level = values.audio_level.map(|it| vec![it]);
    assert_eq!(value(uris::AUDIO_LEVEL), has(uris::AUDIO_LEVEL, level));
    let offset = values.transmission_offset.map(Vec::from);
    assert_eq!(
        value(uris::TRANSMISSION_OFFSET),
        has(uris::TRANSMISSION_OFFSET, offset)
    );
    let captured = values.capture_time.map(|it| match values.clock_offset {
        Some(offset) => [it, offset].concat(),
        None => it.to_vec(),
    });
    assert_eq!(
        value(uris::ABS_CAPTURE_TIME),
        has(uris::ABS_CAPTURE_TIME, captured)
    );
    let descriptor = values.dependency_descriptor.map(|it| {
        let mut descriptor = it.to_vec();
        if let Some(number) = frame_number {
            descriptor[1..3].copy_from_slice(&number.to_be_bytes());
        }
        descriptor
    });
    assert_eq!(
        value(uris::DEPENDENCY_DESCRIPTOR),
        has(uris::DEPENDENCY_DESCRIPTOR, descriptor)
    );
    if id_of(uris::MID).is_some() {
        assert_eq!(value(uris::MID), named.map(|_| mid.into_bytes()));
    }
}

const SUITES: [Suite; 4] = [
    Suite::CounterMode { tag: 10 },
    Suite::CounterMode { tag: 4 },
    Suite::Gcm { key: 16 },
    Suite::Gcm { key: 32 },
];

/// Protects and opens a packet. The first octet chooses how, the next two what is
/// damaged.
///
/// # Panics
/// When what is opened is not what was protected, or when something else is opened.
pub fn srtp(input: &[u8]) {
    let Some((&[what, at, bit], packet)) = input.split_first_chunk() else {
        return;
    };
    let suite = SUITES[usize::from(what) % SUITES.len()];
    let key = vec![0x5a; suite.material_len()];
    let (mut sealer, mut opener) = (
        Sealer::new(suite, &key).unwrap(),
        Opener::new(suite, &key).unwrap(),
    );
    let is_rtp = what & 0x80 == 0;
    let mut open = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        let opened = match is_rtp {
            true => opener.rtp(&mut packet),
            false => opener.rtcp(&mut packet),
        };
        opened.map(|()| packet)
    };
    // Nobody who has not the key has written it.
    assert_eq!(open(packet), None);
    let mut sealed = packet.to_vec();
    let number = packet.get(2..4).and_then(|it| it.first_chunk());
    let index = number.map_or(0, |it| u64::from(u16::from_be_bytes(*it)));
    let done = match is_rtp {
        true => sealer.rtp(&mut sealed, index),
        false => sealer.rtcp(&mut sealed),
    };
    if done.is_none() {
        return;
    }
    assert!(sealed.len() > packet.len() && sealed.len() <= packet.len() + 20);
    let mut damaged = sealed.clone();
    let at = usize::from(at) % damaged.len();
    damaged[at] ^= 1 << (bit & 7);
    assert_eq!(open(&damaged), None);
    assert_eq!(open(&sealed).as_deref(), Some(packet));
    assert_eq!(open(&sealed), None, "a second time");
}
