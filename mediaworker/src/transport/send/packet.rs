//! RTP packets to a client (RFC 3550 §5.1): header, header extensions (RFC 8285) and payload,
//! which is written only where it is not the producer's.

use std::rc::Rc;

use router::Payload;

use crate::transport::extensions::{Ids, MAX_MID, Written};
use crate::transport::packet::{Extensions, MediaPacket};
use crate::transport::sealing::Clear;

/// Most octets of an extension in the one-byte form.
const MAX_ONE_BYTE_LEN: usize = 16;
/// What says which form extensions have (RFC 8285 §4.2, §4.3).
const ONE_BYTE: u16 = 0xbede;
const TWO_BYTE: u16 = 0x1000;
/// What padding of one octet is.
const ONE: &[u8] = &[1];

/// What a consumer's packet has of a producer's, which all consumers share.
#[derive(Debug, Clone)]
pub struct Source {
    /// The producer's packet.
    pub packet: Rc<MediaPacket>,
    /// What of its payload.
    pub what: Payload,
    /// The frame number that its dependency descriptor carries instead of its own.
    pub frame_number: Option<u16>,
}

impl Source {
    /// Octets of payload that are sent.
    pub fn len(&self) -> usize {
        self.shared().len()
    }

    /// What is sent of the producer's payload, as it is there.
    fn shared(&self) -> &[u8] {
        match self.what {
            Payload::Empty => &[],
            Payload::Same | Payload::Patched(_) => &self.packet.payload,
        }
    }

    /// Its payload, which is written to `body` where it is not the producer's.
    fn payload<'a>(&'a self, body: &'a mut Vec<u8>) -> &'a [u8] {
        match self.what {
            Payload::Empty | Payload::Same => self.shared(),
            Payload::Patched(_) => {
                self.write(body);
                body
            }
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(self.shared());
        if let Payload::Patched(patch) = &self.what {
            patch.apply(to.get_mut(start..).unwrap_or_default());
        }
    }

    fn descriptor(&self, written: Written) -> Option<&[u8]> {
        let descriptor = self.packet.extensions.dependency_descriptor.as_deref();
        descriptor.filter(|_| written.dependency_descriptor)
    }
}

/// A MID (RFC 9143 §15), where its packets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mid {
    len: u8,
    octets: [u8; MAX_MID],
}

impl Mid {
    /// `None` for one that is empty or longer than [`MAX_MID`] octets.
    pub fn of(text: &str) -> Option<Self> {
        let mut octets = [0; MAX_MID];
        octets
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        let len = u8::try_from(text.len()).ok().filter(|len| *len > 0)?;
        Some(Self { len, octets })
    }

    /// Octets.
    pub fn len(&self) -> u8 {
        self.len
    }
}

/// The header of a packet, without what is copied into it.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// Payload type.
    pub payload_type: u8,
    /// Marker bit.
    pub marker: bool,
    /// Sequence number, and more above it.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// MID, where the client wants it.
    pub mid: Option<&'a Mid>,
    /// Octets that there is room for in place of the MID, if it is shorter.
    pub mid_room: u8,
    /// When it is sent (abs-send-time), where the client wants to know.
    pub sent: Option<[u8; 3]>,
    /// Number of the packet among all of the transport, where the client counts them.
    pub transport_cc: Option<u16>,
}

/// What is behind the header.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Media.
    Media(&'a Source),
    /// The same with an octet of padding.
    Longer(&'a Source),
    /// The same once more, with the sequence number that it had (RFC 4588 §4).
    Again(u64, &'a Source),
    /// Octets of padding, 1 to 255.
    Padding(u8),
}

impl<'a> Content<'a> {
    fn source(self) -> Option<&'a Source> {
        match self {
            Self::Media(source) | Self::Longer(source) | Self::Again(_, source) => Some(source),
            Self::Padding(_) => None,
        }
    }
}

/// Octets of a header without extensions, and of what they begin with.
const FIXED: usize = 12;
const PROFILE: usize = 4;
/// Room for the longest header: all extensions with all that they can have are some 320 octets.
const ROOM: usize = 384;

/// Room for what is written of a packet; used again for the next.
#[derive(Debug)]
pub struct Parts {
    header: [u8; ROOM],
    body: Vec<u8>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            header: [0; ROOM],
            body: Vec::new(),
        }
    }
}

/// Writes a packet. `written`: which extensions it has of its source.
pub fn write<'a>(
    parts: &'a mut Parts,
    header: &Header<'_>,
    ids: &Ids,
    written: Written,
    content: Content<'a>,
) -> Clear<'a> {
    let Parts { header: to, body } = parts;
    body.clear();
    let (profile, words) = write_extensions(to, header, ids, written, content.source());
    let padding = matches!(content, Content::Longer(_) | Content::Padding(_));
    let first = 0x80 | (u8::from(padding) << 5) | (u8::from(words > 0) << 4);
    let mark = (u8::from(header.marker) << 7) | (header.payload_type & 0x7f);
    let [s0, s1] = low(header.sequence).to_be_bytes();
    let [t0, t1, t2, t3] = header.timestamp.to_be_bytes();
    let [i0, i1, i2, i3] = header.ssrc.to_be_bytes();
    let [p0, p1] = profile.to_be_bytes();
    let [w0, w1] = words.to_be_bytes();
    if let Some(place) = to.first_chunk_mut() {
        *place = [
            first, mark, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3, p0, p1, w0, w1,
        ];
    }
    let (payload, end): (&[u8], _) = match content {
        Content::Media(source) => (source.payload(body), &[][..]),
        Content::Longer(source) => (source.payload(body), ONE),
        Content::Again(sequence, source) => {
            body.extend_from_slice(&low(sequence).to_be_bytes());
            source.write(body);
            (body, &[])
        }
        Content::Padding(len) => {
            body.resize(usize::from(len.max(1)), 0);
            if let Some(last) = body.last_mut() {
                *last = len.max(1);
            }
            (body, &[])
        }
    };
    let len = match words {
        0 => FIXED,
        _ => FIXED + PROFILE + usize::from(words) * 4,
    };
    Clear {
        header: to.get(..len).unwrap_or_default(),
        payload,
        end,
    }
}

/// The sequence number in a header.
fn low(sequence: u64) -> u16 {
    u16::try_from(sequence & 0xffff).unwrap_or(0)
}

/// Writes the extensions behind what they begin with, and answers with which profile, and how
/// many words they are.
fn write_extensions(
    to: &mut [u8; ROOM],
    header: &Header<'_>,
    ids: &Ids,
    written: Written,
    source: Option<&Source>,
) -> (u16, u16) {
    let descriptor = source.and_then(|source| source.descriptor(written));
    let two_byte = ids.are_two_byte() || descriptor.is_some_and(|it| it.len() > MAX_ONE_BYTE_LEN);
    let mut block = Block {
        to,
        at: FIXED + PROFILE,
        two_byte,
    };
    let mut room = 0;
    if let Some(mid) = header.mid.filter(|_| ids.mid != 0) {
        block.put_mid(ids.mid, mid);
        room = header.mid_room.saturating_sub(mid.len()).into();
    }
    if let Some(sent) = header.sent {
        block.put(ids.abs_send_time, sent);
    }
    if let Some(number) = header.transport_cc {
        block.put(ids.transport_cc, number.to_be_bytes());
    }
    if let Some(source) = source {
        block.copy(&source.packet.extensions, ids, written);
    }
    if let Some(descriptor) = descriptor {
        let frame_number = source.and_then(|source| source.frame_number);
        block.put_descriptor(ids.dependency_descriptor, descriptor, frame_number);
    }
    let words = block.end(room);
    (if two_byte { TWO_BYTE } else { ONE_BYTE }, words)
}

/// Where header extensions are put.
struct Block<'a> {
    to: &'a mut [u8; ROOM],
    /// Where the next one begins.
    at: usize,
    two_byte: bool,
}

impl Block<'_> {
    fn write<const N: usize>(&mut self, octets: [u8; N]) {
        let place = self.to.get_mut(self.at..);
        if let Some(place) = place.and_then(|place| place.first_chunk_mut()) {
            *place = octets;
        }
        self.at += N;
    }

    fn head(&mut self, id: u8, len: u8) {
        if self.two_byte {
            self.write([id, len]);
        } else {
            self.write([(id << 4) | (len.wrapping_sub(1) & 0x0f)]);
        }
    }

    /// Puts a value of a length that is known beforehand, which most have.
    fn put<const N: usize>(&mut self, id: u8, value: [u8; N]) {
        if id != 0 {
            self.head(id, u8::try_from(N).unwrap_or(0));
            self.write(value);
        }
    }

    fn put_mid(&mut self, id: u8, mid: &Mid) {
        self.head(id, mid.len);
        // What is behind its end is written over.
        self.write(mid.octets);
        self.at -= MAX_MID - usize::from(mid.len);
    }

    /// Puts a dependency descriptor, with another frame number if need be, which is behind its
    /// first octet.
    fn put_descriptor(&mut self, id: u8, value: &[u8], frame_number: Option<u16>) {
        let Ok(len @ 1..) = u8::try_from(value.len()) else {
            return;
        };
        if id == 0 {
            return;
        }
        self.head(id, len);
        let end = self.at + value.len();
        let Some(place) = self.to.get_mut(self.at..end) else {
            return;
        };
        place.copy_from_slice(value);
        if let (Some(place), Some(number)) = (place.get_mut(1..3), frame_number) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        self.at = end;
    }

    /// Fills the last word, after so many octets of padding; how many words there are.
    fn end(self, room: usize) -> u16 {
        let len = self.at - FIXED - PROFILE;
        let words = (len + room).div_ceil(4);
        let padding = words * 4 - len;
        if let Some(place) = self.to.get_mut(self.at..self.at + padding) {
            place.fill(0);
        }
        u16::try_from(words).unwrap_or(0)
    }

    /// Puts those that are as the producer's packet has them; the descriptor, which may
    /// differ, is not among them.
    fn copy(&mut self, values: &Extensions, ids: &Ids, written: Written) {
        if let Some(level) = values.audio_level.filter(|_| written.audio_level) {
            self.put(ids.audio_level, [level]);
        }
        let orientation = values.video_orientation;
        if let Some(orientation) = orientation.filter(|_| written.video_orientation) {
            self.put(ids.video_orientation, [orientation]);
        }
        let offset = values.transmission_offset;
        if let Some(offset) = offset.filter(|_| written.transmission_offset) {
            self.put(ids.transmission_offset, offset);
        }
        if let Some(delay) = values.playout_delay.filter(|_| written.playout_delay) {
            self.put(ids.playout_delay, delay);
        }
        if let Some(captured) = values.capture_time.filter(|_| written.abs_capture_time) {
            match values.clock_offset {
                None => self.put(ids.abs_capture_time, captured),
                Some(offset) if ids.abs_capture_time != 0 => {
                    self.head(ids.abs_capture_time, 16);
                    self.write(captured);
                    self.write(offset);
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::fuzzing::rtp::WRITTEN;
    use crate::transport::extensions as uris;
    use crate::transport::guard;

    const SENT: [u8; 3] = [0xab, 0xcd, 0xef];

    fn ids(shift: u32) -> Ids {
        let list: Vec<_> = (1 + shift..).zip(WRITTEN.map(str::to_owned)).collect();
        Ids::of(&list)
    }

    fn mid() -> Mid {
        Mid::of("video").unwrap()
    }

    fn header(mid: &Mid) -> Header<'_> {
        Header {
            payload_type: 101,
            marker: true,
            sequence: 0x1_2345,
            timestamp: 0x0a0b_0c0d,
            ssrc: 7,
            mid: Some(mid),
            mid_room: 0,
            sent: Some(SENT),
            transport_cc: Some(0xfffe),
        }
    }

    fn values() -> Extensions {
        Extensions {
            audio_level: Some(0x80 | 37),
            video_orientation: Some(3),
            transmission_offset: Some([1, 2, 3]),
            dependency_descriptor: Some([0xc1, 2, 3, 4].into()),
            ..Default::default()
        }
    }

    fn source(payload: &[u8], what: Payload, frame_number: Option<u16>) -> Source {
        source_with(values(), payload, what, frame_number)
    }

    fn source_with(
        extensions: Extensions,
        payload: &[u8],
        what: Payload,
        frame_number: Option<u16>,
    ) -> Source {
        let packet = MediaPacket {
            ssrc: 1,
            sequence: 2,
            timestamp: 3,
            marker: false,
            extensions,
            payload: payload.into(),
            arrived: Instant::now(),
        };
        Source {
            packet: Rc::new(packet),
            what,
            frame_number,
        }
    }

    fn written(
        header: &Header<'_>,
        ids: &Ids,
        written: Written,
        content: Content<'_>,
    ) -> (Vec<u8>, usize) {
        // What was there before must not show.
        let mut parts = Parts {
            header: [0xFF; ROOM],
            body: vec![0xFF; 2_000],
        };
        let clear = write(&mut parts, header, ids, written, content);
        let packet = [clear.header, clear.payload, clear.end].concat();
        (packet, clear.header.len())
    }

    fn all() -> Written {
        Written::negotiated(WRITTEN.into_iter())
    }

    #[test]
    fn headers_carry_what_is_wanted_in_both_forms() {
        for shift in [0, 8] {
            let ids = ids(shift);
            let id = |index: u8| index + u8::try_from(shift).unwrap();
            for frame_number in [None, Some(0x1234)] {
                let source = source(b"payload", Payload::Same, frame_number);
                let content = Content::Media(&source);
                let (packet, len) = written(&header(&mid()), &ids, all(), content);
                assert_eq!(packet[0], 0x90);
                assert_eq!(len % 4, 0);
                assert_eq!(&packet[len..], b"payload");
                assert_eq!(guard::ssrc(&packet), Some(7));
                assert_eq!(guard::sequence(&packet), Some(0x2345));
                assert_eq!(packet[1] & 0x7f, 101);
                let extension = |index| {
                    let mut fields = uris::fields(&packet);
                    let found = fields.find(|(found, _)| *found == id(index));
                    found.map(|(_, value)| value)
                };
                assert_eq!(extension(1), Some(&b"video"[..]));
                assert_eq!(extension(2), Some(&SENT[..]));
                assert_eq!(extension(3), Some(&[0xff, 0xfe][..]));
                assert_eq!(extension(4), Some(&[0x80 | 37][..]));
                assert_eq!(extension(5), Some(&[3][..]));
                assert_eq!(extension(6), None);
                assert_eq!(extension(8), Some(&[1, 2, 3][..]));
                let descriptor = match frame_number {
                    None => [0xc1, 2, 3, 4],
                    Some(_) => [0xc1, 0x12, 0x34, 4],
                };
                assert_eq!(extension(9), Some(&descriptor[..]));
            }
        }
    }

    #[test]
    fn nothing_is_copied_that_was_not_negotiated() {
        let ids = ids(0);
        let none = Written::negotiated(std::iter::empty());
        let mid = mid();
        let bare = Header {
            mid: None,
            sent: None,
            transport_cc: None,
            ..header(&mid)
        };
        let source = source(&[], Payload::Same, Some(5));
        let (packet, len) = written(&bare, &ids, none, Content::Media(&source));
        assert_eq!((packet[0], len, packet.len()), (0x80, 12, 12));
        let (packet, len) = written(&bare, &ids, none, Content::Longer(&source));
        assert_eq!((packet[0], len), (0xa0, 12));
        assert_eq!(packet[12..], [1]);
        let (packet, len) = written(&bare, &ids, none, Content::Padding(3));
        assert_eq!((packet[0], len), (0xa0, 12));
        assert_eq!(packet[12..], [0, 0, 3]);
    }

    #[test]
    fn retransmissions_begin_with_the_number_that_they_had() {
        let source = source(&[9, 9, 9], Payload::Empty, None);
        let (packet, len) = written(
            &header(&mid()),
            &Ids::default(),
            all(),
            Content::Again(0x5_6789, &source),
        );
        assert_eq!((packet[0], len), (0x80, 12), "ids are not known");
        assert_eq!(packet[12..], [0x67, 0x89]);
    }

    #[test]
    fn a_short_mid_takes_as_much_as_a_longer_one_where_there_is_room() {
        let source = source(b"payload", Payload::Same, None);
        for shift in [0, 8] {
            let ids = ids(shift);
            let written = |text: &str, mid_room| {
                let mid = Mid::of(text).unwrap();
                let header = Header {
                    mid_room,
                    ..header(&mid)
                };
                let (packet, len) = written(&header, &ids, all(), Content::Media(&source));
                let mut fields = uris::fields(&packet).map(|(id, value)| (id, value.to_vec()));
                let mid = fields.next();
                assert_eq!(mid.unwrap().1, text.as_bytes());
                assert_eq!(&packet[len..], b"payload");
                (len, fields.collect::<Vec<_>>())
            };
            let longest = written("sixteen-letters-", 0);
            assert_eq!(written("sixteen-letters-", 16), longest);
            assert_ne!(written("0", 0).0, longest.0);
            for text in ["0", "10", "audio", "fifteen-letters"] {
                assert_eq!(written(text, 16), longest, "{text}");
            }
        }
        assert_eq!(Mid::of("seventeen-letters"), None);
        assert_eq!(Mid::of(""), None);
    }

    #[test]
    fn there_is_room_for_all_extensions_at_their_longest() {
        let mid = Mid::of("sixteen-letters-").unwrap();
        let descriptor: Box<[u8]> = [0xd5; 255].into();
        for (dependency_descriptor, count, last) in [(Some(descriptor), 9, 255), (None, 8, 16)] {
            let values = Extensions {
                capture_time: Some([0xc1; 8]),
                clock_offset: Some([0xc2; 8]),
                playout_delay: Some([0xc3; 3]),
                dependency_descriptor,
                ..values()
            };
            let source = source_with(values, b"payload", Payload::Same, None);
            let content = Content::Media(&source);
            let (written, len) = written(&header(&mid), &ids(0), all(), content);
            let fields: Vec<_> = uris::fields(&written).collect();
            assert_eq!(fields.len(), count);
            assert_eq!(fields[0].1, b"sixteen-letters-");
            assert_eq!(fields[count - 1].1.len(), last);
            assert!(len <= ROOM && written[len..] == *b"payload");
        }
    }
}
