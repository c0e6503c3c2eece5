//! What holds whatever comes in from the network: run on damaged seeds by the tests
//! below, and on much more by the targets in `fuzz/`. One function for each reader, and
//! in [`whole`] the way of a datagram from its arrival on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is compiled for tests and for fuzzing only"
)]

mod rtcp;
pub(crate) mod rtp;
mod whole;

pub use crate::transport::dtls::hello::fuzzing::hello;
pub use rtcp::rtcp;
pub use rtp::{header_extensions, packet, srtp};
pub use whole::{plain, web_rtc};

use std::time::{Duration, Instant};

use crate::net::frames::{Deframer, MAX_FRAME, MAX_WAITING, Malformed, Outgoing};
use crate::transport::sctp::{SctpGuard, empty_message};

/// Takes a stream of frames apart, and puts one together. The first two octets say how
/// the stream is cut.
///
/// # Panics
/// When it matters how it is cut, or when what is written is not what is read.
pub fn frames(input: &[u8]) {
    let Some((&[first, second], stream)) = input.split_first_chunk() else {
        return;
    };
    let whole = deframed([stream].into_iter());
    let single = deframed(stream.chunks(1));
    let (small, large) = (usize::from(first) % 16 + 1, usize::from(second) + 1);
    let mut rest = stream;
    let cut = deframed(std::iter::from_fn(|| {
        let is_even = rest.len().is_multiple_of(2);
        let len = if is_even { small } else { large };
        let (now, later) = rest.split_at(len.min(rest.len()));
        rest = later;
        (!now.is_empty()).then_some(now)
    }));
    assert_eq!(whole, single);
    assert_eq!(whole, cut);
    let (frames, _) = whole;
    write(&frames, usize::from(first) + 1);
}

/// The frames of a stream that comes in pieces, and how it ended.
fn deframed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let (mut deframer, mut frames) = (Deframer::default(), Vec::new());
    for piece in pieces {
        let taken = deframer.take(piece, |frame| {
            assert!((1..=MAX_FRAME).contains(&frame.len()));
            frames.push(frame.to_vec());
            Ok(())
        });
        if let Err(malformed) = taken {
            return (frames, Some(malformed));
        }
    }
    (frames, None)
}

/// Writes frames to a connection that takes `step` octets at a time.
fn write(frames: &[Vec<u8>], step: usize) {
    let mut now = Instant::now();
    let (mut outgoing, mut sent) = (Outgoing::default(), Vec::new());
    for frame in frames {
        assert!(outgoing.push(now, frame));
        assert!(outgoing.len() <= MAX_WAITING);
        outgoing.slow_change(now);
        now += Duration::from_millis(100);
        let len = step.min(outgoing.len());
        sent.extend_from_slice(&outgoing.pending()[..len]);
        outgoing.wrote(len);
    }
    let len = outgoing.len();
    sent.extend_from_slice(outgoing.pending());
    outgoing.wrote(len);
    assert!(outgoing.is_empty());
    assert_ne!(outgoing.slow_change(now), Some(true));
    let (read, malformed) = deframed([&sent[..]].into_iter());
    assert_eq!((&read[..], malformed), (frames, None));
}

/// Octets of an SCTP packet's common header.
const SCTP_HEADER: usize = 12;

/// Looks at SCTP packets of a client, each behind its length, and to it. Where the first
/// octet says so, our mark for empty messages is put in.
///
/// # Panics
/// When a packet is let in that says more of its chunks than there is, or when what
/// leaves is not whole.
pub fn sctp(input: &[u8]) {
    let Some((&streams, mut input)) = input.split_first() else {
        return;
    };
    let mut guard = SctpGuard::new(u16::from(streams));
    while let Some((&[high, low], rest)) = input.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high & 0x07, low]));
        let (packet, rest) = rest.split_at(len.min(rest.len()));
        input = rest;
        let mut packet = packet.to_vec();
        if high & 0x80 != 0 {
            put_mark(&mut packet);
        }
        if high & 0x40 != 0 {
            let before = packet
                .windows(16)
                .filter(|it| *it == empty_message())
                .count();
            if let Some(written) = guard.outgoing(&packet) {
                assert!(before > 0 && written.len() <= packet.len());
                assert!(written.len().is_multiple_of(4));
                // Its marks are gone, so nothing is to be done once more.
                assert_eq!(guard.outgoing(&written), None);
            }
        } else {
            let admitted = guard.admits(&packet);
            assert!(!admitted || streams > 0);
            if admitted {
                check_chunks(&packet, u16::from(streams));
            }
        }
    }
    guard.is_established();
}

/// Writes the mark over the end of a packet that has room for it in a chunk.
fn put_mark(packet: &mut [u8]) {
    let mark = empty_message();
    if let Some(at) = packet.len().checked_sub(mark.len())
        && at >= SCTP_HEADER + 16
    {
        packet[at..].copy_from_slice(mark);
    }
}

/// Data is on streams that were negotiated.
fn check_chunks(packet: &[u8], streams: u16) {
    let mut rest = packet.get(SCTP_HEADER..).unwrap_or_default();
    while let &[kind, _, high, low, ..] = rest {
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len < 4 || len > rest.len() {
            break;
        }
        if kind == 0 {
            let stream = u16::from_be_bytes([rest[8], rest[9]]);
            assert!(stream < streams);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use test_inputs::{ROUNDS, run};

    /// Inputs of the two that go all the way, which takes longer.
    const FEW: u64 = 300;

    #[test]
    fn frames_are_the_same_however_the_stream_is_cut() {
        run("frames", ROUNDS, super::frames);
    }

    #[test]
    fn sctp_is_looked_at_within_its_bounds() {
        run("sctp", ROUNDS, super::sctp);
    }

    #[test]
    fn a_client_hello_is_the_same_however_it_comes() {
        run("hello", ROUNDS, super::hello);
    }

    #[test]
    fn what_rtcp_says_can_be_written_and_read_again() {
        run("rtcp", ROUNDS, super::rtcp);
    }

    #[test]
    fn header_extensions_are_within_their_packet() {
        run("header_extensions", ROUNDS, super::header_extensions);
    }

    #[test]
    fn packets_are_written_as_they_are_read() {
        run("packet", ROUNDS, super::packet);
    }

    #[test]
    fn what_is_sealed_can_be_opened_and_nothing_else() {
        run("srtp", ROUNDS, super::srtp);
    }

    #[test]
    fn a_plain_transport_survives_whatever_comes() {
        run("plain", FEW, super::plain);
    }

    #[test]
    fn a_web_rtc_transport_survives_whatever_comes() {
        run("web_rtc", FEW, super::web_rtc);
    }
}
