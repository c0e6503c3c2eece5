//! Reads the feedback of receivers
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1).

/// Most packets that one message may be about. Honest ones are about a few hundred;
/// a message about more is not read.
const MOST: u16 = 8192;

/// A feedback message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feedback<'a> {
    /// Number of the first packet that it is about.
    pub base: u16,
    /// How many it is about.
    pub count: u16,
    /// The time that its first arrival is told from: 24 bits, 64 ms.
    pub reference: u32,
    /// Which message of its sender it is, modulo 256.
    pub sequence: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

/// What it says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It has not arrived.
    Missing,
    /// It has arrived, so much later than the one before, microseconds.
    Arrived(i64),
    /// Nothing that is defined.
    Unknown,
}

impl<'a> Feedback<'a> {
    /// Reads what follows the two SSRCs. `None`: it is malformed.
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let (head, rest) = message.split_first_chunk::<8>()?;
        let &[b1, b0, c1, c0, r2, r1, r0, sequence] = head;
        let count = u16::from_be_bytes([c1, c0]);
        if count == 0 || count > MOST {
            return None;
        }
        let mut chunks = 0;
        let mut covered = 0;
        while covered < count {
            let &[a, b] = rest.get(chunks..)?.first_chunk()?;
            covered = covered.saturating_add(Chunk(u16::from_be_bytes([a, b])).len());
            chunks += 2;
        }
        let (chunks, deltas) = rest.split_at_checked(chunks)?;
        Some(Self {
            base: u16::from_be_bytes([b1, b0]),
            count,
            reference: u32::from_be_bytes([0, r2, r1, r0]),
            sequence,
            chunks,
            deltas,
        })
    }

    /// What it says of each packet, from the first on. It ends early where the message
    /// does.
    pub fn statuses(&self) -> Statuses<'a> {
        Statuses {
            left: self.count,
            chunks: self.chunks,
            chunk: Chunk(0),
            at: 0,
            len: 0,
            deltas: self.deltas,
        }
    }
}

/// A packet status chunk.
#[derive(Debug, Clone, Copy)]
struct Chunk(u16);

impl Chunk {
    /// Packets that it is about.
    fn len(self) -> u16 {
        match self.0 {
            run if run & 0x8000 == 0 => run & 0x1fff,
            vector if vector & 0x4000 == 0 => 14,
            _ => 7,
        }
    }

    /// Two bits about one of them.
    fn symbol(self, at: u16) -> u16 {
        match self.0 {
            run if run & 0x8000 == 0 => (run >> 13) & 3,
            vector if vector & 0x4000 == 0 => (vector >> (13 - at.min(13))) & 1,
            vector => (vector >> (12 - 2 * at.min(6))) & 3,
        }
    }
}

/// See [`Feedback::statuses`].
#[derive(Debug)]
pub(crate) struct Statuses<'a> {
    left: u16,
    chunks: &'a [u8],
    chunk: Chunk,
    /// Place in the chunk, and its length.
    at: u16,
    len: u16,
    deltas: &'a [u8],
}

/// Microseconds of a unit of a delta.
const DELTA: i64 = 250;

impl Iterator for Statuses<'_> {
    type Item = Status;

    fn next(&mut self) -> Option<Status> {
        if self.left == 0 {
            return None;
        }
        while self.at >= self.len {
            let (&[a, b], rest) = self.chunks.split_first_chunk()?;
            self.chunks = rest;
            self.chunk = Chunk(u16::from_be_bytes([a, b]));
            (self.at, self.len) = (0, self.chunk.len());
        }
        let symbol = self.chunk.symbol(self.at);
        self.at += 1;
        self.left -= 1;
        Some(match symbol {
            0 => Status::Missing,
            1 => {
                let (&delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                Status::Arrived(i64::from(delta) * DELTA)
            }
            2 => {
                let (&delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                Status::Arrived(i64::from(i16::from_be_bytes(delta)) * DELTA)
            }
            _ => Status::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Arrived, Missing, Unknown};
    use super::*;

    fn read(count: u8, rest: &[u8]) -> Option<Vec<Status>> {
        let message = [&[0xff, 0xfe, 0, count, 0x80, 0, 5, 9], rest].concat();
        let feedback = Feedback::read(&message)?;
        let head = (feedback.base, feedback.reference, feedback.sequence);
        assert_eq!(head, (0xfffe, 0x80_0005, 9));
        Some(feedback.statuses().collect())
    }

    #[test]
    fn chunks_and_deltas_are_read() {
        let small = |delta: i64| Arrived(delta * 250);
        // Number of packets, chunks and deltas.
        let cases: [(u8, &[u8], &[Status]); 7] = [
            (2, &[0x20, 2, 4, 255], &[small(4), small(255)]),
            (2, &[0x00, 9], &[Missing, Missing]),
            (1, &[0x40, 1, 0xff, 0xff], &[small(-1)]),
            // One bit each: 101.
            (3, &[0xa8, 0, 1, 2], &[small(1), Missing, small(2)]),
            // Two bits each: 01 00 10 11.
            (
                4,
                &[0b1101_0010, 0b1100_0000, 7, 1, 0],
                &[small(7), Missing, small(256), Unknown],
            ),
            // A run of none, and one of one.
            (1, &[0, 0, 0x20, 1, 3], &[small(3)]),
            // It ends before its deltas do.
            (3, &[0x20, 3, 1], &[small(1)]),
        ];
        for (count, rest, statuses) in cases {
            assert_eq!(read(count, rest).as_deref(), Some(statuses), "{rest:x?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_about_too_much_is_not_read() {
        assert_eq!(read(0, &[0x20, 1, 1]), None);
        assert_eq!(read(15, &[0xa8, 0]), None);
        assert_eq!(read(5, &[]), None);
        let many = [0, 0, 0x20, 1, 0, 0, 0, 0, 0x3f, 0xff, 0x3f, 0xff];
        assert!(Feedback::read(&many).is_none());
        for len in 0..8 {
            assert!(Feedback::read(&many[..len]).is_none());
        }
    }
}
