//! Who speaks: the audio levels of an interval (RFC 6464), averaged for each producer.
//!
//! The rules are those of mediasoup's audio level observer: a producer counts when at least
//! [`MIN_PACKETS`] of its packets in the interval carried a level and their mean reaches
//! [`THRESHOLD`]; those who speak are told at the end of every interval, the loudest first, and
//! silence once, when it begins. Nothing is timed while nobody sends audio.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::types::ProducerKey;

/// How long levels are averaged, and how often a speaker is told.
pub const SPEAKER_INTERVAL: Duration = Duration::from_millis(800);

/// Least mean level of a speaker, dBov.
pub const THRESHOLD: i8 = -80;

/// Least number of packets with a level in an interval: a producer that has just begun, or whose
/// packets hardly arrive, is not judged.
pub const MIN_PACKETS: u32 = 10;

/// Most speakers of an interval that are told; who is less loud than those is not.
pub const MAX_SPEAKERS: usize = 10;

/// The lowest level that RFC 6464 can express, dBov.
const LOWEST: i8 = -127;

/// The levels of one producer in the current interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Levels {
    sum: i64,
    count: u32,
}

impl Levels {
    pub(crate) fn add(&mut self, level: i8) {
        self.sum += i64::from(level.clamp(LOWEST, 0));
        self.count = self.count.saturating_add(1);
    }

    /// The mean, rounded half away from zero, if there were enough packets; begins a new interval.
    pub(crate) fn take(&mut self) -> Option<i8> {
        let Self { sum, count } = std::mem::take(self);
        if count < MIN_PACKETS {
            return None;
        }
        let count = i64::from(count);
        let magnitude = (-2 * sum + count).checked_div(2 * count)?;
        i8::try_from(-magnitude).ok()
    }
}

/// What an interval came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Speaks { producer: ProducerKey, volume: i8 },
    Silence,
}

/// The clock of the intervals, and what was told last.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    deadline: Option<Instant>,
    speaking: bool,
    /// The speakers of the last interval, the loudest first.
    loudest: Vec<(ProducerKey, i8)>,
}

impl Speakers {
    /// A level was noted: its interval will end.
    pub(crate) fn arm(&mut self, now: Instant) {
        self.deadline.get_or_insert(now + SPEAKER_INTERVAL);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Who spoke in the last interval, the loudest first, with their mean levels in dBov.
    pub(crate) fn loudest(&self) -> &[(ProducerKey, i8)] {
        &self.loudest
    }

    /// Ends the interval if its time has come. `levels`: every producer's.
    pub(crate) fn handle_timeout<'a>(
        &mut self,
        now: Instant,
        levels: impl Iterator<Item = (ProducerKey, &'a mut Levels)>,
    ) -> Option<Verdict> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return None;
        }
        self.loudest.clear();
        for (producer, levels) in levels {
            if let Some(mean) = levels.take().filter(|mean| *mean >= THRESHOLD) {
                self.loudest.push((producer, mean));
            }
        }
        self.loudest.sort_by_key(|(_, mean)| Reverse(*mean));
        self.loudest.truncate(MAX_SPEAKERS);
        let loudest = self.loudest.first().copied();
        let was_speaking = std::mem::replace(&mut self.speaking, loudest.is_some());
        // In silence the next level begins the next interval.
        self.deadline = self.speaking.then_some(now + SPEAKER_INTERVAL);
        match loudest {
            Some((producer, volume)) => Some(Verdict::Speaks { producer, volume }),
            None => was_speaking.then_some(Verdict::Silence),
        }
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    /// Who said how much how loudly, and what comes of it.
    type Case<'a> = (&'a [(ProducerKey, i8, usize)], Option<Verdict>);

    fn levels(of: &[i8]) -> Levels {
        let mut levels = Levels::default();
        of.iter().for_each(|level| levels.add(*level));
        levels
    }

    #[test]
    fn means_by_table() {
        for (noted, mean) in [
            (vec![], None),
            (vec![-30; 9], None),
            (vec![-30; 10], Some(-30)),
            ([vec![-30; 5], vec![-31; 5]].concat(), Some(-31)),
            ([vec![-30; 6], vec![-31; 5]].concat(), Some(-30)),
            (vec![0; 40], Some(0)),
            (vec![-127; 40], Some(-127)),
            (vec![i8::MIN; 40], Some(-127)),
            (vec![5; 40], Some(0)),
        ] {
            let mut levels = levels(&noted);
            assert_eq!(levels.take(), mean, "{noted:?}");
            assert_eq!(levels.take(), None, "a new interval");
        }
    }

    #[test]
    fn the_loudest_is_told_every_interval_and_silence_once() {
        let mut keys = SlotMap::<ProducerKey, ()>::with_key();
        let (a, b, c) = (keys.insert(()), keys.insert(()), keys.insert(()));
        let speaks = |producer, volume| Some(Verdict::Speaks { producer, volume });
        let cases: [Case<'_>; 9] = [
            (&[(a, -40, 40), (b, -30, 40)], speaks(b, -30)),
            (&[(a, -40, 40), (b, -30, 40)], speaks(b, -30)),
            (&[(a, -40, 40), (b, -30, 9)], speaks(a, -40)),
            (&[(a, -80, 40)], speaks(a, -80)),
            (&[(a, -81, 40), (c, -127, 40)], Some(Verdict::Silence)),
            (&[(a, -81, 40)], None),
            (&[], None),
            (&[(c, -1, 10)], speaks(c, -1)),
            (&[], Some(Verdict::Silence)),
        ];
        let mut speakers = Speakers::default();
        let mut now = Instant::now();
        for (index, (said, verdict)) in cases.into_iter().enumerate() {
            let mut noted: Vec<_> = said
                .iter()
                .map(|(key, level, count)| (*key, levels(&vec![*level; *count])))
                .collect();
            speakers.arm(now);
            let early = now + SPEAKER_INTERVAL - Duration::from_millis(1);
            let heard = |noted: &mut Vec<(ProducerKey, Levels)>, speakers: &mut Speakers, at| {
                speakers.handle_timeout(at, noted.iter_mut().map(|(key, levels)| (*key, levels)))
            };
            assert_eq!(heard(&mut noted, &mut speakers, early), None, "{index}");
            now += SPEAKER_INTERVAL;
            assert_eq!(heard(&mut noted, &mut speakers, now), verdict, "{index}");
        }
        assert_eq!(speakers.deadline(), None, "nothing to wait for");
    }

    #[test]
    fn the_loudest_ten_are_told_in_order() {
        let mut keys = SlotMap::<ProducerKey, ()>::with_key();
        let keys: Vec<_> = (0..12).map(|_| keys.insert(())).collect();
        let mut speakers = Speakers::default();
        let now = Instant::now();
        // The last one is the loudest; two are equally loud, and one is too low.
        let volume = |index: usize| match index {
            0 => -90,
            1 => -40,
            index => -42 + i8::try_from(index).unwrap(),
        };
        let mut noted: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(index, key)| (*key, levels(&[volume(index); 20])))
            .collect();
        speakers.arm(now);
        let all = noted.iter_mut().map(|(key, levels)| (*key, levels));
        let verdict = speakers.handle_timeout(now + SPEAKER_INTERVAL, all);
        let (producer, loudest) = (keys[11], -31);
        let volume_of = |index: usize| (keys[index], volume(index));
        let expected: Vec<_> = (3..12).rev().chain([1]).map(volume_of).collect();
        assert_eq!(speakers.loudest(), expected);
        assert_eq!(
            verdict,
            Some(Verdict::Speaks {
                producer,
                volume: loudest
            })
        );
        // Silence empties the list.
        let silent = noted.iter_mut().map(|(key, levels)| (*key, levels));
        let verdict = speakers.handle_timeout(now + 2 * SPEAKER_INTERVAL, silent);
        assert_eq!(verdict, Some(Verdict::Silence));
        assert_eq!(speakers.loudest(), []);
    }
}
