//! RTP packets to a client (RFC 3550 §5.1): header, header extensions (RFC 8285) and payload,
//! which is written only where it is not the producer's.

use std::rc::Rc;

use router::Payload;

use crate::transport::extensions::{Ids, Written};
use crate::transport::packet::{Extensions, MediaPacket};
use crate::transport::sealing::Clear;

/// Highest id, and most octets, of an extension in the one-byte form.
const MAX_ONE_BYTE_ID: u8 = 14;
const MAX_ONE_BYTE_LEN: usize = 16;
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
    pub mid: Option<&'a str>,
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

/// Room for what is written of a packet; used again for the next.
#[derive(Debug, Default)]
pub struct Parts {
    header: Vec<u8>,
    body: Vec<u8>,
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
    to.clear();
    body.clear();
    let padding = matches!(content, Content::Longer(_) | Content::Padding(_));
    let mark = (u8::from(header.marker) << 7) | (header.payload_type & 0x7f);
    let [s0, s1] = low(header.sequence).to_be_bytes();
    let [t0, t1, t2, t3] = header.timestamp.to_be_bytes();
    let [i0, i1, i2, i3] = header.ssrc.to_be_bytes();
    let first = 0x80 | (u8::from(padding) << 5);
    to.extend_from_slice(&[first, mark, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3]);
    write_extensions(to, header, ids, written, content.source());
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
    Clear {
        header: to,
        payload,
        end,
    }
}

/// The sequence number in a header.
fn low(sequence: u64) -> u16 {
    u16::try_from(sequence & 0xffff).unwrap_or(0)
}

fn write_extensions(
    to: &mut Vec<u8>,
    header: &Header<'_>,
    ids: &Ids,
    written: Written,
    source: Option<&Source>,
) {
    let start = to.len();
    let descriptor = source.and_then(|source| source.descriptor(written));
    let two_byte =
        ids.highest() > MAX_ONE_BYTE_ID || descriptor.is_some_and(|it| it.len() > MAX_ONE_BYTE_LEN);
    to.extend_from_slice(if two_byte {
        &[0x10, 0, 0, 0]
    } else {
        &[0xbe, 0xde, 0, 0]
    });
    let first = to.len();
    let mut block = Block { to, two_byte };
    if let Some(mid) = header.mid {
        block.put_slice(ids.mid, mid.as_bytes());
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
        block.put_slice(ids.dependency_descriptor, descriptor);
    }
    let len = to.len() - first;
    if len == 0 {
        to.truncate(start);
        return;
    }
    let frame_number = source.and_then(|source| source.frame_number);
    if let (Some(descriptor), Some(number)) = (descriptor, frame_number) {
        // It is the last one, if it was put; its number is behind the first octet.
        let place = to.len().checked_sub(descriptor.len());
        let place = place.filter(|_| ids.dependency_descriptor != 0);
        if let Some(place) = place.and_then(|place| to.get_mut(place + 1..place + 3)) {
            place.copy_from_slice(&number.to_be_bytes());
        }
    }
    to.resize(first + len.next_multiple_of(4), 0);
    let words = u16::try_from(len.div_ceil(4)).unwrap_or(u16::MAX);
    if let Some(place) = to.get_mut(first - 2..first) {
        place.copy_from_slice(&words.to_be_bytes());
    }
    if let Some(place) = to.get_mut(start - 12) {
        *place |= 0x10;
    }
}

/// Where header extensions are put.
struct Block<'a> {
    to: &'a mut Vec<u8>,
    two_byte: bool,
}

impl Block<'_> {
    fn head(&mut self, id: u8, len: u8) {
        if self.two_byte {
            self.to.extend_from_slice(&[id, len]);
        } else {
            self.to.push((id << 4) | (len.wrapping_sub(1) & 0x0f));
        }
    }

    /// Puts a value of a length that is known beforehand, which most have.
    fn put<const N: usize>(&mut self, id: u8, value: [u8; N]) {
        if id != 0 {
            self.head(id, u8::try_from(N).unwrap_or(0));
            self.to.extend_from_slice(&value);
        }
    }

    fn put_slice(&mut self, id: u8, value: &[u8]) {
        let len = u8::try_from(value.len()).unwrap_or(0);
        if id != 0 && len != 0 {
            self.head(id, len);
            self.to.extend_from_slice(value);
        }
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
                Some(offset) => {
                    self.put_slice(ids.abs_capture_time, [captured, offset].as_flattened());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::transport::extensions as uris;
    use crate::transport::guard;

    const SENT: [u8; 3] = [0xab, 0xcd, 0xef];

    fn ids(shift: u32) -> Ids {
        let all = [
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
        let list: Vec<_> = (1 + shift..).zip(all.map(str::to_owned)).collect();
        Ids::of(&list)
    }

    fn header<'a>() -> Header<'a> {
        Header {
            payload_type: 101,
            marker: true,
            sequence: 0x1_2345,
            timestamp: 0x0a0b_0c0d,
            ssrc: 7,
            mid: Some("video"),
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
        let packet = MediaPacket {
            ssrc: 1,
            sequence: 2,
            timestamp: 3,
            marker: false,
            extensions: values(),
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
        let mut parts = Parts::default();
        let clear = write(&mut parts, header, ids, written, content);
        let packet = [clear.header, clear.payload, clear.end].concat();
        (packet, clear.header.len())
    }

    fn all() -> Written {
        Written::negotiated(
            [
                uris::MID,
                uris::AUDIO_LEVEL,
                uris::VIDEO_ORIENTATION,
                uris::TRANSMISSION_OFFSET,
                uris::DEPENDENCY_DESCRIPTOR,
            ]
            .into_iter(),
        )
    }

    #[test]
    fn headers_carry_what_is_wanted_in_both_forms() {
        for shift in [0, 8] {
            let ids = ids(shift);
            let id = |index: u8| index + u8::try_from(shift).unwrap();
            for frame_number in [None, Some(0x1234)] {
                let source = source(b"payload", Payload::Same, frame_number);
                let content = Content::Media(&source);
                let (packet, len) = written(&header(), &ids, all(), content);
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
        let bare = Header {
            mid: None,
            sent: None,
            transport_cc: None,
            ..header()
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
            &header(),
            &Ids::default(),
            all(),
            Content::Again(0x5_6789, &source),
        );
        assert_eq!((packet[0], len), (0x80, 12), "ids are not known");
        assert_eq!(packet[12..], [0x67, 0x89]);
    }
}
