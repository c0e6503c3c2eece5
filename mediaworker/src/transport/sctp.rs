//! What is looked at in an SCTP packet (RFC 9260) between DTLS and str0m's
//! SCTP: defences against input that it does not stand, and the empty messages
//! that it cannot send.
//!
//! RFC 8831 §6.6 sends an empty message as one zero octet under a payload
//! protocol of its own. str0m writes no chunk at all for one, and skips a
//! sequence number, which would stall an ordered stream for ever. So a marker
//! is written instead, which no client can know, and is turned into an empty
//! message on its way out; a retransmission passes here again.

use std::sync::LazyLock;

use crc::{CRC_32_ISCSI, Crc};

/// Length of the common header (RFC 9260 §3.1).
const COMMON_HEADER: usize = 12;
/// Length of a DATA chunk's header (§3.3.1).
const DATA_HEADER: usize = 16;
/// Chunk types (§3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const RE_CONFIG: u8 = 130;
const FORWARD_TSN: u8 = 192;
/// Parameters of a RE-CONFIG chunk (RFC 6525 §4).
const RESET_REQUEST: u16 = 13;
const RESET_RESPONSE: u16 = 16;
/// First and last fragment flags of a DATA chunk; both: a whole message.
const WHOLE: u8 = 0x03;
/// Payload protocols of strings and binary messages, and of empty ones
/// (RFC 8831 §8).
const STRING: u32 = 51;
const BINARY: u32 = 53;
const STRING_EMPTY: u32 = 56;
const BINARY_EMPTY: u32 = 57;

/// INIT chunks that one transport may send: each makes str0m remember an
/// association. An honest client repeats its own a few times; more are dropped.
const MAX_INITS: u32 = 64;
/// Fragments below this length are charged to [`TINY_FRAGMENTS`]. Senders fill
/// their packets; only the rest of one may hold a short piece.
const TINY_FRAGMENT: usize = 256;
/// Tiny fragments that are let through ahead of full ones. Reassembly costs as
/// much as a message has fragments, for each of them, so a message in single
/// octets would keep the worker busy. More are dropped.
const TINY_FRAGMENTS: u32 = 256;
/// Tiny fragments that a full one pays back: an honest message has at most one
/// at each end.
const TINY_PER_FULL: u32 = 4;

/// Content type of a DTLS record with application data, which is SCTP (RFC 6347
/// §4.1), and the lowest first octet of an encrypted record of DTLS 1.3 (RFC 9147
/// §4).
const APPLICATION_DATA: u8 = 23;
const UNIFIED_HEADER: u8 = 0x20;

/// Whether a datagram begins with a DTLS record that carries SCTP.
pub fn is_data(dtls: &[u8]) -> bool {
    dtls.first()
        .is_some_and(|kind| *kind == APPLICATION_DATA || *kind >= UNIFIED_HEADER)
}

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

static EMPTY: LazyLock<[u8; 16]> = LazyLock::new(rand::random);

/// What is written in place of an empty message.
pub fn empty_message() -> &'static [u8] {
    &*EMPTY
}

struct Chunk<'a> {
    kind: u8,
    flags: u8,
    /// Everything from its first octet on, without padding.
    bytes: &'a [u8],
}

/// The chunks of a packet, up to the first malformed one.
fn chunks(packet: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = packet.get(COMMON_HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let &[kind, flags, high, low, ..] = rest else {
            return None;
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let bytes = rest.get(..len).filter(|_| len >= 4)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Chunk { kind, flags, bytes })
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Decides which packets of a client str0m may see.
#[derive(Debug)]
pub struct SctpGuard {
    streams: u16,
    inits: u32,
    tiny: u32,
    /// Tag that packets to us have to carry, as our INIT says (§3.3.2).
    own_tag: Option<u32>,
    /// We have answered the client's INIT ACK with its cookie.
    echoed: bool,
    established: bool,
}

impl SctpGuard {
    /// A guard that lets data on stream ids below `streams` through; with 0
    /// nothing at all.
    pub fn new(streams: u16) -> Self {
        Self {
            streams,
            inits: 0,
            tiny: TINY_FRAGMENTS,
            own_tag: None,
            echoed: false,
            established: false,
        }
    }

    /// Whether a packet from the client may be taken in. str0m keeps state for
    /// every stream on which something comes, and looks at all of it for each
    /// packet: others than those negotiated are not let in.
    pub fn admits(&mut self, packet: &[u8]) -> bool {
        if self.streams == 0 {
            return false;
        }
        for chunk in chunks(packet) {
            if !is_exact(&chunk) {
                return false;
            }
            match chunk.kind {
                DATA if !self.admits_data(&chunk) => return false,
                INIT => {
                    self.inits += 1;
                    if self.inits > MAX_INITS {
                        return false;
                    }
                }
                COOKIE_ACK => self.established |= self.echoed && u32_at(packet, 4) == self.own_tag,
                _ => {}
            }
        }
        true
    }

    fn admits_data(&mut self, chunk: &Chunk<'_>) -> bool {
        if u16_at(chunk.bytes, 8).is_none_or(|stream| stream >= self.streams) {
            return false;
        }
        if chunk.flags & WHOLE == WHOLE {
            return true;
        }
        if chunk.bytes.len() >= DATA_HEADER + TINY_FRAGMENT {
            self.tiny = (self.tiny + TINY_PER_FULL).min(TINY_FRAGMENTS);
            return true;
        }
        match self.tiny.checked_sub(1) {
            Some(left) => {
                self.tiny = left;
                true
            }
            None => false,
        }
    }

    /// Looks at a packet to the client. `Some`: what has to be sent in its
    /// place.
    pub fn outgoing(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut has_empty = false;
        for chunk in chunks(packet) {
            match chunk.kind {
                INIT => self.own_tag = u32_at(chunk.bytes, 4),
                COOKIE_ECHO => self.echoed = true,
                // str0m sends it for a cookie of its own only.
                COOKIE_ACK => self.established = true,
                _ => {}
            }
            has_empty |= is_marker(&chunk);
        }
        has_empty.then(|| with_empty_messages(packet))
    }

    /// True once the association was established.
    pub fn is_established(&self) -> bool {
        self.established
    }
}

/// Whether str0m's SCTP takes the chunk to be as long as it says. It goes by
/// what it has understood of a chunk, and takes the rest for the next one: what
/// is hidden there would not be looked at here. Kinds that it does not know it
/// drops with the packet; they are dropped here.
fn is_exact(chunk: &Chunk<'_>) -> bool {
    let bytes = chunk.bytes;
    let len = bytes.len();
    let count = |at| usize::from(u16_at(bytes, at).unwrap_or(u16::MAX));
    match chunk.kind {
        // A chunk that begins an association has to be alone in its packet.
        DATA | INIT | COOKIE_ECHO | 2 => true,
        SACK => len == 16 + 4 * (count(12) + count(14)),
        HEARTBEAT => len == 4 + count(6),
        ABORT | ERROR => is_filled(bytes),
        SHUTDOWN => len == 8,
        SHUTDOWN_ACK | COOKIE_ACK | SHUTDOWN_COMPLETE => len == 4,
        RE_CONFIG => is_exact_reset(bytes),
        FORWARD_TSN => len >= 8 && len.is_multiple_of(4),
        _ => false,
    }
}

/// Whether the causes of an error, each with its length in the third and fourth
/// octet, fill its chunk.
fn is_filled(mut bytes: &[u8]) -> bool {
    bytes = bytes.get(4..).unwrap_or_default();
    while !bytes.is_empty() {
        let len = usize::from(u16_at(bytes, 2).unwrap_or(0));
        match bytes.get(len..) {
            Some(rest) if len >= 4 => bytes = rest,
            _ => return false,
        }
    }
    true
}

/// Whether a RE-CONFIG chunk consists of one or two parameters that str0m's
/// SCTP knows, each of its usual length.
fn is_exact_reset(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(4..).unwrap_or_default();
    for _ in 0..2 {
        let (Some(kind), Some(len)) = (u16_at(rest, 0), u16_at(rest, 2)) else {
            return false;
        };
        let len = usize::from(len);
        let usual = match kind {
            RESET_REQUEST => len >= 16 && len.is_multiple_of(2),
            RESET_RESPONSE => len == 12,
            _ => false,
        };
        if !usual || len > rest.len() {
            return false;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
    }
    false
}

fn is_marker(chunk: &Chunk<'_>) -> bool {
    chunk.kind == DATA
        && chunk.flags & WHOLE == WHOLE
        && chunk.bytes.get(DATA_HEADER..) == Some(empty_message())
}

/// The packet with its markers turned into empty messages.
fn with_empty_messages(packet: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(packet.len());
    // Ports and verification tag; the checksum is filled in at the end.
    written.extend_from_slice(packet.get(..8).unwrap_or_default());
    written.extend_from_slice(&[0; 4]);
    for chunk in chunks(packet) {
        match chunk.bytes {
            // Type, flags; length; TSN, stream and its sequence number.
            &[kind, flags, _, _, ref middle @ ..] if is_marker(&chunk) => {
                let protocol = match u32_at(chunk.bytes, 12) {
                    Some(STRING) => STRING_EMPTY,
                    Some(BINARY) => BINARY_EMPTY,
                    other => other.unwrap_or(BINARY_EMPTY),
                };
                written.extend_from_slice(&[kind, flags, 0, 17]);
                written.extend_from_slice(middle.get(..8).unwrap_or_default());
                written.extend_from_slice(&protocol.to_be_bytes());
                // One octet, padded to four.
                written.extend_from_slice(&[0; 4]);
            }
            bytes => {
                written.extend_from_slice(bytes);
                written.resize(written.len().next_multiple_of(4), 0);
            }
        }
    }
    let checksum = CRC32C.checksum(&written).to_le_bytes();
    if let Some(place) = written.get_mut(8..COMMON_HEADER) {
        place.copy_from_slice(&checksum);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = vec![0x13, 0x88, 0x13, 0x88, 1, 2, 3, 4, 9, 9, 9, 9];
        for chunk in chunks {
            packet.extend_from_slice(chunk);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + body.len()).unwrap().to_be_bytes();
        [&[kind, flags, len[0], len[1]], body].concat()
    }

    fn data(flags: u8, stream: u16, protocol: u32, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 0, 0, 7];
        body.extend_from_slice(&stream.to_be_bytes());
        body.extend_from_slice(&[0, 5]);
        body.extend_from_slice(&protocol.to_be_bytes());
        body.extend_from_slice(payload);
        chunk(DATA, flags, &body)
    }

    #[test]
    fn only_negotiated_streams_get_through() {
        for (streams, stream, admitted) in [
            (0, 0, false),
            (1, 0, true),
            (1, 1, false),
            (1024, 1023, true),
            (1024, 65_535, false),
        ] {
            let mut guard = SctpGuard::new(streams);
            let it = packet(&[chunk(SACK, 0, &[0; 12]), data(3, stream, STRING, b"x")]);
            assert_eq!(guard.admits(&it), admitted, "{stream} of {streams}");
        }
    }

    #[test]
    fn nothing_is_hidden_behind_a_length() {
        let hidden = data(3, 9, STRING, b"x");
        let with = |head: &[u8]| [head, &hidden[..]].concat();
        let param = |kind: u8, len: u8, value: &[u8]| [&[0, kind, 0, len], value].concat();
        let reset = |streams: u8| param(13, 16 + streams, &[0; 12 + 2]);
        let response = param(16, 12, &[0; 8]);
        let good = [
            chunk(SACK, 0, &[&[0; 8][..], &[0, 1, 0, 1], &[0; 8]].concat()),
            chunk(HEARTBEAT, 0, &param(1, 12, &[7; 8])),
            chunk(ERROR, 0, &param(13, 6, b"no")),
            chunk(ABORT, 0, &[]),
            chunk(SHUTDOWN, 0, &[0; 4]),
            chunk(COOKIE_ECHO, 0, &[7; 40]),
            chunk(COOKIE_ACK, 0, &[]),
            chunk(RE_CONFIG, 0, &reset(2)),
            chunk(RE_CONFIG, 0, &response),
            chunk(RE_CONFIG, 0, &[&response[..], &response].concat()),
            chunk(FORWARD_TSN, 0, &[0; 8]),
        ];
        let mut guard = SctpGuard::new(8);
        for it in good {
            assert!(guard.admits(&packet(std::slice::from_ref(&it))), "{it:?}");
        }
        let bad = [
            chunk(SACK, 0, &with(&[0; 12])),
            chunk(HEARTBEAT, 0, &with(&param(1, 8, &[7; 4]))),
            chunk(
                ERROR,
                0,
                &[&param(13, 8, b"none")[..], &[0, 3, 0, 3]].concat(),
            ),
            chunk(ABORT, 0, &[&param(12, 8, b"none")[..], &[0, 3]].concat()),
            chunk(SHUTDOWN, 0, &with(&[0; 4])),
            chunk(SHUTDOWN_ACK, 0, &hidden),
            chunk(COOKIE_ACK, 0, &hidden),
            chunk(SHUTDOWN_COMPLETE, 0, &hidden),
            chunk(RE_CONFIG, 0, &with(&response)),
            chunk(RE_CONFIG, 0, &with(&param(16, 20, &[0; 16]))),
            chunk(RE_CONFIG, 0, &with(&param(17, 8, &[0; 4]))),
            chunk(FORWARD_TSN, 0, &[0; 3]),
            chunk(194, 0, &hidden),
            chunk(200, 0, &hidden),
        ];
        for it in bad {
            assert!(!guard.admits(&packet(std::slice::from_ref(&it))), "{it:?}");
        }
    }

    #[test]
    fn inits_and_tiny_fragments_are_counted() {
        let mut guard = SctpGuard::new(8);
        let init = packet(&[chunk(INIT, 0, &[0; 16])]);
        assert_eq!((0..200).filter(|_| guard.admits(&init)).count(), 64);
        let tiny = packet(&[data(0, 1, BINARY, b"x")]);
        assert_eq!((0..2000).filter(|_| guard.admits(&tiny)).count(), 256);
        let full = packet(&[data(0, 1, BINARY, &[0; 1000])]);
        assert!(guard.admits(&full));
        assert_eq!((0..10).filter(|_| guard.admits(&tiny)).count(), 4);
        let whole = packet(&[data(3, 1, BINARY, b"x")]);
        assert!((0..2000).all(|_| guard.admits(&whole)));
    }

    #[test]
    fn garbage_is_survived() {
        let mut guard = SctpGuard::new(8);
        let it = packet(&[data(3, 1, BINARY, b"payload"), chunk(DATA, 3, &[])]);
        for len in 0..it.len() {
            let _ = guard.admits(&it[..len]);
            let _ = guard.outgoing(&it[..len]);
        }
        assert!(
            !guard.admits(&packet(&[chunk(DATA, 3, &[1, 2])])),
            "too short"
        );
        assert!(guard.admits(&packet(&[vec![7, 0, 0, 0]])), "length of zero");
    }

    #[test]
    fn markers_become_empty_messages() {
        let mut guard = SctpGuard::new(8);
        let plain = packet(&[data(3, 1, BINARY, b"x"), data(3, 1, BINARY, &[0; 16])]);
        assert_eq!(guard.outgoing(&plain), None);
        let marked = packet(&[
            data(3, 1, STRING, b"abc"),
            data(7, 2, STRING, empty_message()),
            data(3, 3, BINARY, empty_message()),
        ]);
        let sent = guard.outgoing(&marked).unwrap();
        let wanted = packet(&[
            data(3, 1, STRING, b"abc"),
            data(7, 2, STRING_EMPTY, &[0]),
            data(3, 3, BINARY_EMPTY, &[0]),
        ]);
        assert_eq!(sent[..8], wanted[..8]);
        assert_eq!(sent[12..], wanted[12..]);
        let mut cleared = sent.clone();
        cleared[8..12].fill(0);
        assert_eq!(sent[8..12], CRC32C.checksum(&cleared).to_le_bytes());
    }

    #[test]
    fn the_handshake_is_noticed_in_either_direction() {
        let ack = packet(&[chunk(COOKIE_ACK, 0, &[])]);
        let mut server = SctpGuard::new(8);
        assert!(!server.is_established());
        let _ = server.outgoing(&ack);
        assert!(server.is_established());
        // The client's word counts when we have asked for it, under our tag.
        let init = |tag: u8| packet(&[chunk(INIT, 0, &[&[1, 2, 3, tag][..], &[0; 12]].concat())]);
        let echo = packet(&[chunk(COOKIE_ECHO, 0, &[7; 40])]);
        for (tag, echoes, established) in [
            (None, false, false),
            (Some(4), false, false),
            (None, true, false),
            (Some(5), true, false),
            (Some(4), true, true),
        ] {
            let mut client = SctpGuard::new(8);
            if let Some(tag) = tag {
                let _ = client.outgoing(&init(tag));
            }
            if echoes {
                let _ = client.outgoing(&echo);
            }
            assert!(client.admits(&ack));
            assert_eq!(client.is_established(), established, "{tag:?}, {echoes}");
        }
    }
}
