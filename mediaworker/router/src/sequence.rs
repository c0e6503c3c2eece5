//! A consumer's sequence numbers: contiguous over what was left out on purpose, with gaps where
//! packets were lost on the way to us.

use std::collections::VecDeque;

/// Interruptions (stretches of consecutive packets left out within a run) that a consumer
/// remembers. Packets from before the oldest of them are too old to be forwarded.
pub const DROP_HISTORY: usize = 64;

/// Packets left out in the middle of a run, both ends included.
#[derive(Clone, Copy, Debug)]
struct Drop {
    first: u64,
    last: u64,
}

impl Drop {
    fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Packets of one stream, from where forwarding started to where it stops.
///
/// Input number `n` becomes `first_out + (n - first_in) - (packets dropped before n)`.
#[derive(Clone, Copy, Debug)]
struct Run {
    first_in: u64,
    first_out: u64,
    /// Lowest input number that can still be mapped.
    floor: u64,
    /// Highest input number so far, forwarded or dropped.
    highest_in: u64,
    /// Packets dropped in this run.
    dropped: u64,
    /// Marker of the newest forwarded packet.
    marker: bool,
}

#[derive(Debug)]
pub(crate) struct Sequencer {
    initial: u64,
    run: Option<Run>,
    /// Drops of the current run at or above its floor, in order, at most [`DROP_HISTORY`].
    drops: VecDeque<Drop>,
}

impl Sequencer {
    pub(crate) fn new(initial: u16) -> Self {
        Self {
            initial: u64::from(initial),
            run: None,
            drops: VecDeque::new(),
        }
    }

    /// Starts a run at input number `sequence` and returns its output number. Where frames can be
    /// incomplete (`has_frames`), one number is left out after a packet that did not end its frame.
    pub(crate) fn start(&mut self, sequence: u64, marker: bool, has_frames: bool) -> u64 {
        let first_out = match &self.run {
            None => self.initial,
            Some(run) => {
                let next = run.first_out + (run.highest_in - run.first_in) + 1 - run.dropped;
                next + u64::from(has_frames && !run.marker)
            }
        };
        self.drops.clear();
        self.run = Some(Run {
            first_in: sequence,
            first_out,
            floor: sequence,
            highest_in: sequence,
            dropped: 0,
            marker,
        });
        first_out
    }

    /// The output number of a packet of the current run; `None` when it is not to be forwarded,
    /// because it is older than the run or than the history of drops.
    pub(crate) fn map(&mut self, sequence: u64, marker: bool) -> Option<u64> {
        let run = self.run.as_mut()?;
        if sequence < run.floor {
            return None;
        }
        if sequence > run.highest_in {
            run.highest_in = sequence;
            run.marker = marker;
        }
        let mut dropped = run.dropped;
        for drop in self.drops.iter().rev() {
            if drop.last < sequence {
                break;
            }
            if drop.first <= sequence {
                return None;
            }
            dropped -= drop.len();
        }
        Some(run.first_out + (sequence - run.first_in) - dropped)
    }

    /// Leaves out the newest packet of the stream: the next one takes its output number.
    pub(crate) fn drop_newest(&mut self, sequence: u64) {
        let Some(run) = self.run.as_mut() else {
            return;
        };
        if sequence <= run.highest_in {
            return;
        }
        run.highest_in = sequence;
        run.dropped += 1;
        match self.drops.back_mut() {
            Some(drop) if drop.last + 1 == sequence => drop.last = sequence,
            _ => {
                if self.drops.len() == DROP_HISTORY
                    && let Some(oldest) = self.drops.pop_front()
                {
                    run.floor = oldest.last + 1;
                }
                self.drops.push_back(Drop {
                    first: sequence,
                    last: sequence,
                });
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(run) = &self.run else {
            return if self.drops.is_empty() {
                Ok(())
            } else {
                Err("drops without a run".into())
            };
        };
        let mut above = run.floor;
        let mut remembered = 0;
        for drop in &self.drops {
            if drop.first < above || drop.last < drop.first || drop.last > run.highest_in {
                return Err(format!("drop {drop:?} out of order in {run:?}"));
            }
            // Adjacent drops would be one.
            above = drop.last.saturating_add(2);
            remembered += drop.len();
        }
        if self.drops.len() > DROP_HISTORY || remembered > run.dropped {
            return Err(format!(
                "{} drops, {remembered} packets in {run:?}",
                self.drops.len()
            ));
        }
        if run.floor < run.first_in || run.dropped > run.highest_in - run.first_in {
            return Err(format!("impossible {run:?}"));
        }
        if run.first_out < self.initial {
            return Err(format!("{run:?} below the first number {}", self.initial));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(initial: u16, sequence: u64) -> Sequencer {
        let mut sequencer = Sequencer::new(initial);
        assert_eq!(sequencer.start(sequence, true, true), u64::from(initial));
        sequencer
    }

    #[test]
    fn starts_at_the_initial_number_and_counts_on_over_16_bits() {
        let mut sequencer = started(65_535, 7);
        assert_eq!(sequencer.map(8, true), Some(65_536));
        assert_eq!(sequencer.map(9, true), Some(65_537));
        sequencer.check().unwrap();
    }

    #[test]
    fn a_loss_stays_a_gap_and_a_late_packet_fills_it() {
        let mut sequencer = started(100, 1000);
        assert_eq!(sequencer.map(1003, true), Some(103));
        assert_eq!(sequencer.map(1002, true), Some(102));
        assert_eq!(sequencer.map(1001, true), Some(101));
    }

    #[test]
    fn what_is_older_than_the_run_is_not_mapped() {
        let mut sequencer = started(0, 1000);
        assert_eq!(sequencer.map(999, true), None);
        assert_eq!(sequencer.map(0, true), None);
        sequencer.start(2000, true, true);
        assert_eq!(sequencer.map(1001, true), None);
    }

    #[test]
    fn drops_close_up_before_and_after_a_gap() {
        let mut sequencer = started(100, 10);
        // 11 is lost, 12 and 13 are dropped, 15 is lost.
        sequencer.drop_newest(12);
        sequencer.drop_newest(13);
        assert_eq!(sequencer.map(14, true), Some(102));
        sequencer.drop_newest(16);
        assert_eq!(sequencer.map(17, true), Some(104));
        assert_eq!(sequencer.map(15, true), Some(103));
        assert_eq!(sequencer.map(11, true), Some(101));
        assert_eq!(sequencer.map(12, true), None);
        assert_eq!(sequencer.map(16, true), None);
        sequencer.check().unwrap();
    }

    #[test]
    fn a_late_packet_cannot_be_dropped() {
        let mut sequencer = started(0, 10);
        assert_eq!(sequencer.map(12, true), Some(2));
        sequencer.drop_newest(11);
        assert_eq!(sequencer.map(13, true), Some(3));
        assert_eq!(sequencer.map(11, true), Some(1));
    }

    #[test]
    fn the_history_of_drops_is_bounded() {
        let mut sequencer = started(0, 0);
        // Odd numbers are dropped; every drop stands alone.
        let last = 2 * DROP_HISTORY as u64;
        for sequence in 1..=last {
            if sequence % 2 == 1 {
                sequencer.drop_newest(sequence);
            } else {
                assert_eq!(sequencer.map(sequence, true), Some(sequence / 2));
            }
        }
        assert_eq!(
            sequencer.map(0, true),
            Some(0),
            "the history is exactly full"
        );
        sequencer.drop_newest(last + 1);
        assert_eq!(sequencer.map(0, true), None, "the oldest drop is forgotten");
        assert_eq!(sequencer.map(2, true), Some(1));
        assert_eq!(sequencer.map(last + 2, true), Some(last / 2 + 1));
        sequencer.check().unwrap();
    }

    #[test]
    fn a_new_run_continues_after_the_last_number() {
        let mut sequencer = started(5, 10);
        assert_eq!(sequencer.map(11, true), Some(6));
        assert_eq!(sequencer.start(500, true, true), 7);
        sequencer.drop_newest(501);
        assert_eq!(
            sequencer.start(3, true, true),
            8,
            "a dropped tail takes no number"
        );
        sequencer.check().unwrap();
    }

    #[test]
    fn one_number_is_left_out_after_an_incomplete_frame() {
        let mut sequencer = started(0, 10);
        assert_eq!(sequencer.map(11, false), Some(1));
        assert_eq!(sequencer.start(20, true, true), 3);
        assert_eq!(sequencer.map(21, false), Some(4));
        assert_eq!(sequencer.start(30, false, false), 5, "audio has no frames");
        // A late packet says nothing about where the newest frame stands.
        assert_eq!(sequencer.map(32, true), Some(7));
        assert_eq!(sequencer.map(31, false), Some(6));
        assert_eq!(sequencer.start(40, true, true), 8);
    }
}
