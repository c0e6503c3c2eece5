//! Which packets of a stream are new: duplicates and strays are dropped once, for all consumers.

/// Sequence numbers that a stream looks back, newest included. Two seconds of the busiest video;
/// nobody retransmits what is older.
pub const REPLAY_WINDOW: u64 = 2048;

/// Packets in a row that must be outside of the window, behind or ahead, to show that the source
/// started anew. Fewer are strays, for example a repair of a packet from before the first one.
pub const RESTART_AFTER: u32 = 4;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// What a sequence number is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Newer than all before.
    Newest,
    /// Fills a gap: it was reordered or lost and repaired.
    Late,
    /// Newest, and the source has started anew: earlier numbers mean nothing.
    Restart,
    /// A duplicate or a stray.
    Rejected,
}

#[derive(Debug, Default)]
pub(crate) struct ReplayWindow {
    highest: Option<u64>,
    /// Bit `n % REPLAY_WINDOW` says whether `n` arrived, for the window that ends at `highest`.
    seen: [u64; WORDS],
    /// Packets outside of the window since the last one inside.
    strays: u32,
}

impl ReplayWindow {
    pub(crate) fn is_empty(&self) -> bool {
        self.highest.is_none()
    }

    pub(crate) fn accept(&mut self, sequence: u64) -> Arrival {
        let Some(highest) = self.highest else {
            self.begin(sequence);
            return Arrival::Newest;
        };
        if sequence.abs_diff(highest) >= REPLAY_WINDOW {
            self.strays += 1;
            if self.strays < RESTART_AFTER {
                return Arrival::Rejected;
            }
            self.begin(sequence);
            return Arrival::Restart;
        }
        self.strays = 0;
        if sequence > highest {
            for skipped in highest + 1..sequence {
                self.mark(skipped, false);
            }
            self.mark(sequence, true);
            self.highest = Some(sequence);
            return Arrival::Newest;
        }
        if self.mark(sequence, true) {
            Arrival::Rejected
        } else {
            Arrival::Late
        }
    }

    fn begin(&mut self, sequence: u64) {
        *self = Self {
            highest: Some(sequence),
            ..Self::default()
        };
        self.mark(sequence, true);
    }

    /// Sets whether a number arrived, and returns what was set before.
    fn mark(&mut self, sequence: u64, arrived: bool) -> bool {
        let bit = sequence % REPLAY_WINDOW;
        let mask = 1u64 << (bit % 64);
        let Some(word) = self.seen.get_mut((bit / 64) as usize) else {
            return false;
        };
        let before = *word & mask != 0;
        if arrived {
            *word |= mask;
        } else {
            *word &= !mask;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Arrival::{Late, Newest, Rejected, Restart};

    fn run(steps: &[(u64, Arrival)]) {
        let mut window = ReplayWindow::default();
        for (index, (sequence, expected)) in steps.iter().enumerate() {
            assert_eq!(
                window.accept(*sequence),
                *expected,
                "step {index}: {sequence}"
            );
        }
    }

    #[test]
    fn tells_new_late_and_duplicate_apart() {
        run(&[
            (65_534, Newest),
            (65_536, Newest),
            (65_535, Late),
            (65_535, Rejected),
            (65_534, Rejected),
            (65_533, Late),
            (65_537, Newest),
            (65_537, Rejected),
        ]);
    }

    #[test]
    fn window_has_exactly_its_size() {
        let top = 10_000;
        run(&[
            (top, Newest),
            (top - REPLAY_WINDOW + 1, Late),
            (top - REPLAY_WINDOW, Rejected),
        ]);
        run(&[
            (top, Newest),
            (top + REPLAY_WINDOW - 1, Newest),
            (top, Rejected),
        ]);
        run(&[
            (top, Newest),
            (top + REPLAY_WINDOW, Rejected),
            (top + 1, Newest),
        ]);
    }

    #[test]
    fn a_slot_is_free_again_when_the_window_has_moved_over_it() {
        let mut window = ReplayWindow::default();
        for sequence in 0..REPLAY_WINDOW {
            assert_eq!(window.accept(sequence), Newest);
        }
        // One number is left out in the second round; its slot held number 100 before.
        for sequence in REPLAY_WINDOW..2 * REPLAY_WINDOW {
            if sequence != REPLAY_WINDOW + 100 {
                assert_eq!(window.accept(sequence), Newest);
            }
        }
        assert_eq!(window.accept(REPLAY_WINDOW + 100), Late);
        assert_eq!(window.accept(REPLAY_WINDOW + 100), Rejected);
    }

    #[test]
    fn strays_are_dropped_until_they_are_a_new_source() {
        run(&[
            (3, Newest),
            (u64::MAX - 1, Rejected),
            (u64::MAX, Rejected),
            (u64::MAX, Rejected),
            (4, Newest),
            (40_000, Rejected),
            (40_001, Rejected),
            (40_002, Rejected),
            (40_003, Restart),
            (40_004, Newest),
            (40_002, Late),
            (5, Rejected),
            (6, Rejected),
            (7, Rejected),
            (8, Restart),
            (9, Newest),
        ]);
    }

    #[test]
    fn the_end_of_the_number_space_is_no_special_place() {
        run(&[
            (u64::MAX, Newest),
            (u64::MAX - 1, Late),
            (u64::MAX, Rejected),
        ]);
    }
}
