//! The sequence numbers of a stream that arrives: extended, each once, and with a
//! way back for a sender that starts anew (RFC 3550 appendix A.1).

/// Numbers below the highest one that are told apart. What is older is too late.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;
/// Largest step ahead that is taken for a loss.
const MAX_DROPOUT: u16 = 3000;
/// Numbers begin here, so that what is reordered at the start is not below zero.
const FIRST: u64 = 1 << 16;

/// What a sequence number turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The highest so far; so many before it are missing.
    New {
        /// Extended.
        sequence: u64,
        /// How many were left out.
        missing: u64,
    },
    /// One that was missing.
    Late {
        /// Extended.
        sequence: u64,
    },
    /// The sender has started anew.
    Restarted {
        /// Extended, far above all before.
        sequence: u64,
    },
    /// It came before, is too old, or far from all others.
    Unusable,
}

/// The numbers of one stream.
#[derive(Debug, Default)]
pub struct Order {
    highest: Option<u64>,
    /// A bit for each of the last [`WINDOW`] numbers that came.
    seen: [u64; WORDS],
    /// What would confirm that the sender has started anew.
    restart: Option<u16>,
}

impl Order {
    /// Takes a number.
    pub fn receive(&mut self, number: u16) -> Arrival {
        let Some(highest) = self.highest else {
            return self.begin(FIRST + u64::from(number), |sequence| Arrival::New {
                sequence,
                missing: 0,
            });
        };
        let ahead = number.wrapping_sub(low_bits(highest));
        let behind = u64::from(ahead.wrapping_neg());
        if (1..MAX_DROPOUT).contains(&ahead) {
            self.restart = None;
            let sequence = highest + u64::from(ahead);
            for passed in highest + 1..sequence {
                self.mark(passed, false);
            }
            self.mark(sequence, true);
            self.highest = Some(sequence);
            return Arrival::New {
                sequence,
                missing: u64::from(ahead) - 1,
            };
        }
        if ahead == 0 || behind < WINDOW {
            return self.fill(highest - behind);
        }
        if self.restart == Some(number) {
            // A whole cycle is left out, so that nothing can be mistaken.
            let cycle = (highest >> 16) + 2;
            return self.begin((cycle << 16) + u64::from(number), |sequence| {
                Arrival::Restarted { sequence }
            });
        }
        self.restart = Some(number.wrapping_add(1));
        Arrival::Unusable
    }

    fn begin(&mut self, sequence: u64, arrival: impl FnOnce(u64) -> Arrival) -> Arrival {
        self.highest = Some(sequence);
        self.restart = None;
        self.seen = [0; WORDS];
        self.mark(sequence, true);
        arrival(sequence)
    }

    fn fill(&mut self, sequence: u64) -> Arrival {
        if self.is_marked(sequence) {
            return Arrival::Unusable;
        }
        self.mark(sequence, true);
        Arrival::Late { sequence }
    }

    /// Extends a number that is near the highest one; `None` before the first.
    pub fn extend(&self, number: u16) -> Option<u64> {
        let highest = self.highest?;
        let behind = low_bits(highest).wrapping_sub(number);
        highest.checked_sub(u64::from(behind))
    }

    /// Whether a retransmission of this number is of use.
    pub fn lacks(&self, sequence: u64) -> bool {
        let Some(highest) = self.highest else {
            return false;
        };
        sequence < highest && highest - sequence < WINDOW && !self.is_marked(sequence)
    }

    /// Highest number so far, as receiver reports tell it.
    pub fn highest(&self) -> u32 {
        let number = self.highest.unwrap_or(0).saturating_sub(FIRST);
        u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
    }

    fn mark(&mut self, sequence: u64, seen: bool) {
        let (word, bit) = place(sequence);
        if let Some(word) = self.seen.get_mut(word) {
            *word = if seen { *word | bit } else { *word & !bit };
        }
    }

    fn is_marked(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let at = sequence % WINDOW;
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

fn low_bits(sequence: u64) -> u16 {
    u16::try_from(sequence & 0xFFFF).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(sequence: u64, missing: u64) -> Arrival {
        Arrival::New { sequence, missing }
    }

    #[test]
    fn each_number_counts_once_over_the_wrap_around() {
        let mut order = Order::default();
        let late = |sequence| Arrival::Late { sequence };
        for (number, expected) in [
            (65_534, new(FIRST + 65_534, 0)),
            (65_534, Arrival::Unusable),
            (65_533, late(FIRST + 65_533)),
            (1, new(FIRST + 65_537, 2)),
            (0, late(FIRST + 65_536)),
            (0, Arrival::Unusable),
            (65_535, late(FIRST + 65_535)),
            (2, new(FIRST + 65_538, 0)),
            (2000, new(FIRST + 67_536, 1997)),
            (2000 - 1023, late(FIRST + 67_536 - 1023)),
            (2000 - 1024, Arrival::Unusable),
        ] {
            assert_eq!(order.receive(number), expected, "{number}");
        }
        assert_eq!(order.highest(), 67_536);
        assert_eq!(order.extend(1999), Some(FIRST + 67_535));
        assert!(order.lacks(FIRST + 67_535));
        assert!(!order.lacks(FIRST + 67_536 - 1023));
    }

    #[test]
    fn reordering_at_the_start_is_not_below_zero() {
        let mut order = Order::default();
        order.receive(0);
        let sequence = FIRST - 1;
        assert_eq!(order.receive(65_535), Arrival::Late { sequence });
    }

    #[test]
    fn two_in_a_row_are_a_new_start_and_a_stray_one_is_not() {
        let mut order = Order::default();
        order.receive(100);
        assert_eq!(order.receive(30_000), Arrival::Unusable);
        assert_eq!(order.receive(101), new(FIRST + 101, 0));
        assert_eq!(order.receive(30_001), Arrival::Unusable, "not in a row");
        let sequence = (3 << 16) + 30_002;
        assert_eq!(order.receive(30_002), Arrival::Restarted { sequence });
        assert_eq!(order.receive(30_003), new(sequence + 1, 0));
    }
}
