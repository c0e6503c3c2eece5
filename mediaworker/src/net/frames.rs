//! Packets on a TCP connection, each behind its length (RFC 4571): taking a stream
//! apart, and what waits to be written. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longest frame that is taken in, bytes. What transports take is shorter (1,600 for
/// RTP), and so is everything that was written for datagrams.
pub const MAX_FRAME: usize = 2048;
/// Most that waits for a connection, bytes. What does not fit is dropped.
pub const MAX_WAITING: usize = 512 << 10;
/// More than this waits only where a client does not read as fast as is sent to it:
/// then no video is sent until all of it has left.
const SLOW_WAITING: usize = 256 << 10;
/// The same where something has waited for so long.
const SLOW_AGE: Duration = Duration::from_millis(300);
/// Octets that have left stay in the buffer until there are so many of them.
const COMPACT: usize = 64 << 10;

const HEADER: usize = 2;

/// Why a stream of frames is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A frame is longer than [`MAX_FRAME`].
    TooLong,
    /// A frame is not what may come.
    Unexpected,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct Deframer {
    /// What has come of a frame that is not complete, its length included.
    partial: Vec<u8>,
}

impl Deframer {
    /// Takes in what has come, and gives each complete frame to `sink`. Empty ones,
    /// which carry nothing, are passed over.
    ///
    /// # Errors
    /// [`Malformed`], also that of `sink`: nothing that follows makes sense then.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let mut rest = bytes;
        while !self.partial.is_empty() {
            let missing = self.missing()?;
            if missing == 0 {
                let frame = self.partial.get(HEADER..).unwrap_or_default();
                if !frame.is_empty() {
                    sink(frame)?;
                }
                self.partial.clear();
                break;
            }
            if rest.is_empty() {
                return Ok(());
            }
            let (now, later) = rest.split_at(missing.min(rest.len()));
            self.partial.extend_from_slice(now);
            rest = later;
        }
        while let Some((header, after)) = rest.split_first_chunk() {
            let Some((frame, later)) = after.split_at_checked(length(*header)?) else {
                break;
            };
            if !frame.is_empty() {
                sink(frame)?;
            }
            rest = later;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// What is missing of the length, or of the frame.
    fn missing(&self) -> Result<usize, Malformed> {
        let have = self.partial.len();
        Ok(match self.partial.first_chunk() {
            Some(header) => (length(*header)? + HEADER).saturating_sub(have),
            None => HEADER.saturating_sub(have),
        })
    }
}

fn length(header: [u8; HEADER]) -> Result<usize, Malformed> {
    match usize::from(u16::from_be_bytes(header)) {
        len if len <= MAX_FRAME => Ok(len),
        _ => Err(Malformed::TooLong),
    }
}

/// What waits to be written to a connection. Nothing that is in there is taken out
/// again, so frames are never torn.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Octets of `bytes` that have left.
    left: usize,
    /// Octets that were ever pushed, and that have ever left.
    pushed: u64,
    written: u64,
    /// Since when it waits: for each tick that has pushed something which is still
    /// there, when that was, and `pushed` after it.
    since: VecDeque<(Instant, u64)>,
    slow: bool,
}

impl Outgoing {
    /// Adds a packet. False: there is no room for it.
    pub fn push(&mut self, now: Instant, packet: &[u8]) -> bool {
        let fits = self.len() + HEADER + packet.len() <= MAX_WAITING;
        let (true, Ok(len)) = (fits, u16::try_from(packet.len())) else {
            return false;
        };
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(packet);
        self.pushed += octets(HEADER + packet.len());
        match self.since.back_mut() {
            Some((at, pushed)) if *at == now => *pushed = self.pushed,
            _ => self.since.push_back((now, self.pushed)),
        }
        true
    }

    /// What is to be written.
    pub fn pending(&self) -> &[u8] {
        self.bytes.get(self.left..).unwrap_or_default()
    }

    /// Octets that wait.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.left)
    }

    /// None do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So much of it was written.
    pub fn wrote(&mut self, len: usize) {
        self.left = (self.left + len).min(self.bytes.len());
        self.written += octets(len);
        while let Some((_, pushed)) = self.since.front()
            && *pushed <= self.written
        {
            self.since.pop_front();
        }
        if self.is_empty() {
            self.bytes.clear();
            // A burst does not cost memory for ever.
            self.bytes.shrink_to(COMPACT);
            self.left = 0;
        } else if self.left >= COMPACT {
            self.bytes.drain(..self.left);
            self.left = 0;
        }
    }

    /// Whether too much has come to wait, or has left since; `None` when that is as it
    /// was.
    pub fn slow_change(&mut self, now: Instant) -> Option<bool> {
        let age = self
            .since
            .front()
            .map(|(at, _)| now.saturating_duration_since(*at));
        let slow = match self.slow {
            true => !self.is_empty(),
            false => self.len() > SLOW_WAITING || age.is_some_and(|age| age > SLOW_AGE),
        };
        (std::mem::replace(&mut self.slow, slow) != slow).then_some(slow)
    }
}

fn octets(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(packets: &[&[u8]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for packet in packets {
            stream.extend_from_slice(&u16::try_from(packet.len()).unwrap().to_be_bytes());
            stream.extend_from_slice(packet);
        }
        stream
    }

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let long = vec![7; MAX_FRAME];
        let packets: [&[u8]; 6] = [b"a", b"", b"bcd", &long, b"", b"e"];
        let stream = framed(&packets);
        let expected: Vec<&[u8]> = packets.into_iter().filter(|it| !it.is_empty()).collect();
        for size in [1, 2, 3, 4, 5, 7, 100, 2049, 2050, 2051, stream.len()] {
            let mut deframer = Deframer::default();
            let mut got = Vec::new();
            for piece in stream.chunks(size) {
                let sink = |frame: &[u8]| {
                    got.push(frame.to_vec());
                    Ok(())
                };
                deframer.take(piece, sink).unwrap();
            }
            assert_eq!(got, expected, "cut into {size}");
            assert!(deframer.partial.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_ends_the_stream_as_soon_as_that_shows() {
        let too_long = u16::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
        for (pieces, frames, expected) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], 0, Malformed::TooLong),
            (&[&too_long], 0, Malformed::TooLong),
            (&[&too_long[..1], &too_long[1..]], 0, Malformed::TooLong),
            (&[&[0, 1, 9], &[0xFF], &[0xFF]], 1, Malformed::TooLong),
            (&[&[0, 1, 9, 0, 1, 8, 0, 1, 7]], 1, Malformed::Unexpected),
        ] {
            let mut deframer = Deframer::default();
            let mut seen = 0;
            let mut result = Ok(());
            for piece in pieces {
                assert_eq!(result, Ok(()), "too early: {pieces:?}");
                result = deframer.take(piece, |frame| {
                    seen += 1;
                    match frame {
                        [8] => Err(Malformed::Unexpected),
                        _ => Ok(()),
                    }
                });
            }
            assert_eq!(result, Err(expected), "{pieces:?}");
            assert_eq!(
                seen - usize::from(expected == Malformed::Unexpected),
                frames
            );
        }
    }

    #[test]
    fn what_waits_is_bounded_and_leaves_in_order() {
        let now = Instant::now();
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for n in 0u8..=255 {
            let packet = vec![n; 3000];
            if outgoing.push(now, &packet) {
                expected.extend(framed(&[&packet]));
            }
        }
        assert!(outgoing.len() <= MAX_WAITING);
        assert!(outgoing.len() > MAX_WAITING - 3002);
        assert!(
            !outgoing.push(now, &[0; 70_000]),
            "longer than a frame can be"
        );
        let mut got = Vec::new();
        // Never a whole number of frames.
        while !outgoing.is_empty() {
            let pending = outgoing.pending();
            let piece = &pending[..pending.len().min(4097)];
            got.extend_from_slice(piece);
            let len = piece.len();
            outgoing.wrote(len);
            assert!(outgoing.bytes.len() - outgoing.len() < COMPACT);
        }
        assert!(got == expected);
        assert!(outgoing.since.is_empty());
        assert!(outgoing.bytes.capacity() <= COMPACT);
    }

    #[test]
    fn a_reader_is_slow_from_too_much_or_too_old_until_nothing_waits() {
        let start = Instant::now();
        let millis = |n| start + Duration::from_millis(n);
        let mut outgoing = Outgoing::default();
        outgoing.push(millis(0), &[1; 1000]);
        outgoing.push(millis(200), &[2; 1000]);
        assert_eq!(outgoing.slow_change(millis(300)), None);
        // The oldest leaves in time, but not all of it.
        outgoing.wrote(1001);
        assert_eq!(outgoing.slow_change(millis(301)), Some(true));
        assert_eq!(outgoing.slow_change(millis(302)), None);
        outgoing.wrote(1);
        assert_eq!(outgoing.slow_change(millis(303)), None, "something waits");
        outgoing.wrote(1002);
        assert_eq!(outgoing.slow_change(millis(304)), Some(false));

        outgoing.push(millis(400), &[3; 1000]);
        outgoing.push(millis(600), &[4; 1000]);
        outgoing.wrote(1002);
        assert_eq!(outgoing.slow_change(millis(801)), None, "200 ms old");
        for _ in 0..SLOW_WAITING / 1000 {
            outgoing.push(millis(801), &[5; 1000]);
        }
        assert_eq!(outgoing.slow_change(millis(801)), Some(true));
    }
}
