//! Who leads the conversation: dominant speaker identification after Volfin and Cohen ("Dominant
//! speaker identification for multipoint videoconferencing", 2012), with the constants that
//! mediasoup and Jitsi use.
//!
//! Unlike the loudest of an interval (`speakers.rs`), the dominant speaker does not change with a
//! cough or an "mhm". Of each speaker the levels of the last second are looked at on three scales:
//! *immediate*, how loud the last 20 ms were; *medium*, how many of the last five such parts were
//! loud; *long*, how many of the last ten mediums were full. Each gives a score that grows with the
//! likelihood of speech. Every [`DECISION_INTERVAL`], somebody who scores higher than the dominant
//! speaker on all three takes over.

use std::time::{Duration, Instant};

use crate::types::ProducerKey;

/// How often it is decided who is dominant.
pub const DECISION_INTERVAL: Duration = Duration::from_millis(300);

/// How long one level stands for, unless the next comes later.
const LEVEL_INTERVAL: Duration = Duration::from_millis(20);

/// A speaker without packets for this long is silent. Packets of more than 60 ms are unusual.
const LEVEL_IDLE: Duration = Duration::from_millis(80);

/// Without a level for this long, nobody speaks, and nothing is decided until one comes.
const ALL_IDLE: Duration = Duration::from_secs(2);

/// Loudest level, in dB above the lowest that RFC 6464 can express.
const MAX_LEVEL: u8 = 127;

/// Parts that the range of levels is divided into, and the size of one.
const N1: usize = 13;
const SUBUNIT: u8 = 10;

/// Immediates of a medium, and mediums that are looked at.
const N2: usize = 5;
const N3: usize = 10;

/// Levels that are remembered.
const LEVELS: usize = N2 * N3;

/// An immediate above this counts for the medium, a medium above this for the long.
const MEDIUM_THRESHOLD: u8 = 7;
const LONG_THRESHOLD: usize = 4;

/// What the logarithm of a challenger's score over the dominant speaker's has to exceed, on the
/// immediate, medium and long scale.
const THRESHOLDS: [f64; 3] = [3.0, 2.0, 0.0];

/// Rates of the exponential distributions that speech is modelled by, on the three scales.
const RATES: [f64; 3] = [0.78, 24.0, 47.0];

/// The lowest score.
const LEAST_SCORE: f64 = 1e-10;

/// Levels over which the noise floor of a speaker is found, 15 s.
const FLOOR_WINDOW: u32 = 750;

type Scores = [f64; 3];

/// What one producer said in the last second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speech {
    /// Newest first.
    levels: [u8; LEVELS],
    /// Up to when they tell; `None` when there never was one.
    until: Option<Instant>,
    /// The lowest level of late that was not silence: noise.
    floor: u8,
    /// The lowest one since the window began, and the number of levels in it.
    next_floor: u8,
    window: u32,
}

impl Default for Speech {
    fn default() -> Self {
        Self {
            levels: [0; LEVELS],
            until: None,
            floor: 0,
            next_floor: 0,
            window: 0,
        }
    }
}

impl Speech {
    /// A packet told its level, −127 to 0 dBov.
    pub(crate) fn add(&mut self, now: Instant, level: i8) {
        self.fall_silent(now);
        let level = MAX_LEVEL.saturating_sub(level.unsigned_abs());
        self.find_floor(level);
        self.push(level, 1);
        self.until = self.until.max(Some(now));
    }

    fn push(&mut self, level: u8, times: usize) {
        let times = times.min(LEVELS);
        self.levels.copy_within(..LEVELS - times, times);
        self.levels
            .iter_mut()
            .take(times)
            .for_each(|it| *it = level);
    }

    /// Notes the silence since the last packet.
    fn fall_silent(&mut self, now: Instant) {
        let Some(until) = self.until else {
            return;
        };
        let silence = now.saturating_duration_since(until);
        if silence < LEVEL_IDLE {
            return;
        }
        let times = silence.as_millis() / LEVEL_INTERVAL.as_millis();
        self.push(0, usize::try_from(times).unwrap_or(LEVELS));
        self.until = Some(now);
    }

    /// The floor falls at once, and rises when a whole window was louder.
    fn find_floor(&mut self, level: u8) {
        if level == 0 {
            return;
        }
        if self.floor == 0 || level < self.floor {
            self.floor = level;
            self.window = 0;
            return;
        }
        self.next_floor = if self.window == 0 {
            level
        } else {
            self.next_floor.min(level)
        };
        self.window += 1;
        if self.window == FLOOR_WINDOW {
            let product = f64::from(self.floor) * f64::from(self.next_floor);
            self.floor = (MAX_LEVEL).min(rounded_down(product.sqrt())).max(1);
            self.window = 0;
        }
    }

    /// How likely it is that it speaks, on each scale.
    fn scores(&mut self, now: Instant) -> Scores {
        self.fall_silent(now);
        let audible = self.floor.saturating_add(SUBUNIT);
        let immediate = |level: &u8| {
            if *level < audible {
                0
            } else {
                *level / SUBUNIT
            }
        };
        let medium = |levels: &[u8]| {
            let immediates = levels.iter().map(immediate);
            immediates.filter(|it| *it > MEDIUM_THRESHOLD).count()
        };
        let mediums = self.levels.chunks(N2).map(medium);
        let long = mediums.clone().filter(|it| *it > LONG_THRESHOLD).count();
        let newest = self.levels.first().map_or(0, immediate);
        let newest_medium = mediums.into_iter().next().unwrap_or(0);
        [
            score(usize::from(newest), N1, RATES[0]),
            score(newest_medium, N2, RATES[1]),
            score(long, N3, RATES[2]),
        ]
    }
}

/// The logarithm of how much likelier speech is than silence when `active` of `all` parts are
/// active: parts of silence are active by chance, of speech exponentially so.
fn score(active: usize, all: usize, rate: f64) -> f64 {
    let mut combinations = 1.0;
    for step in 0..active.min(all - active) {
        combinations *= count(all - step) / count(step + 1);
    }
    let silence = f64::ln(combinations) + count(all) * 0.5_f64.ln();
    let speech = rate.ln() - rate * count(active);
    (silence - speech).max(LEAST_SCORE)
}

/// A small number.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a root of the product of two levels"
)]
fn rounded_down(level: f64) -> u8 {
    level as u8
}

/// The clock of the decisions, and what came of the last one.
#[derive(Debug, Default)]
pub(crate) struct Dominance {
    deadline: Option<Instant>,
    /// When a level came last.
    heard: Option<Instant>,
    dominant: Option<ProducerKey>,
    scores: Vec<(ProducerKey, Scores)>,
}

impl Dominance {
    /// A level was noted: it will be decided.
    pub(crate) fn arm(&mut self, now: Instant) {
        self.heard = Some(now);
        self.deadline.get_or_insert(now + DECISION_INTERVAL);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Decides if it is time; answers a new dominant speaker. `speakers`: all that may be it.
    pub(crate) fn handle_timeout<'a>(
        &mut self,
        now: Instant,
        speakers: impl Iterator<Item = (ProducerKey, &'a mut Speech)>,
    ) -> Option<ProducerKey> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return None;
        }
        let is_heard = self.heard.is_some_and(|heard| now < heard + ALL_IDLE);
        self.deadline = is_heard.then_some(now + DECISION_INTERVAL);
        self.scores.clear();
        let scores = speakers.map(|(key, speech)| (key, speech.scores(now)));
        self.scores.extend(scores);
        let present = self
            .scores
            .iter()
            .find(|(key, _)| Some(*key) == self.dominant);
        let next = match present {
            Some((_, present)) => self.challenger(*present),
            None => self.first(),
        }?;
        self.dominant = Some(next);
        Some(next)
    }

    /// Whoever beats the dominant speaker, by most on the medium scale.
    fn challenger(&self, present: Scores) -> Option<ProducerKey> {
        let mut best = None;
        for (key, scores) in &self.scores {
            let mut lead = [0.0; 3];
            for (lead, (own, other)) in lead.iter_mut().zip(scores.iter().zip(present)) {
                *lead = (own / other).ln();
            }
            let wins = lead
                .iter()
                .zip(THRESHOLDS)
                .all(|(lead, least)| *lead > least);
            let [_, medium, _] = lead;
            if wins && best.is_none_or(|(_, most)| medium > most) {
                best = Some((*key, medium));
            }
        }
        best.map(|(key, _)| key)
    }

    /// While there is none, whoever spoke most clearly.
    fn first(&self) -> Option<ProducerKey> {
        let mut best: Option<(ProducerKey, f64)> = None;
        for (key, [_, medium, long]) in &self.scores {
            let clearness = medium + long;
            if *medium > LEAST_SCORE && best.is_none_or(|(_, most)| clearness > most) {
                best = Some((*key, clearness));
            }
        }
        best.map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// dBov.
    const SPEECH: i8 = -30;
    const NOISE: i8 = -85;

    /// A conversation: everybody sends a packet every 20 ms.
    struct Talk {
        keys: Vec<ProducerKey>,
        speech: Vec<Speech>,
        dominance: Dominance,
        now: Instant,
        changes: Vec<usize>,
    }

    impl Talk {
        fn new(people: usize) -> Self {
            let mut keys = SlotMap::<ProducerKey, ()>::with_key();
            Self {
                keys: (0..people).map(|_| keys.insert(())).collect(),
                speech: vec![Speech::default(); people],
                dominance: Dominance::default(),
                now: Instant::now(),
                changes: Vec::new(),
            }
        }

        /// Some time with these levels; `None` sends nothing.
        fn pass(&mut self, time: Duration, levels: &[Option<i8>]) {
            let end = self.now + time;
            while self.now < end {
                self.now += LEVEL_INTERVAL;
                for (speech, level) in self.speech.iter_mut().zip(levels) {
                    if let Some(level) = level {
                        speech.add(self.now, *level);
                        self.dominance.arm(self.now);
                    }
                }
                let all = self.keys.iter().copied().zip(&mut self.speech);
                if let Some(next) = self.dominance.handle_timeout(self.now, all) {
                    let index = self.keys.iter().position(|key| *key == next);
                    self.changes.push(index.unwrap());
                }
            }
        }

        /// Everybody is quiet for a moment, so that their noise is known.
        fn settle(&mut self) {
            let quiet = vec![Some(NOISE); self.keys.len()];
            self.pass(1000 * MS, &quiet);
            assert_eq!(self.changes, [], "nobody speaks");
        }
    }

    #[test]
    fn scores_are_those_of_the_paper() {
        // ln C(5,3) + 5 ln ½ − ln 24 + 24 × 3, and so on.
        for (active, all, rate, expected) in [
            (3, N2, 24.0, 67.66),
            (5, N2, 24.0, 113.36),
            (10, N3, 47.0, 459.22),
            (9, N1, 0.78, 4.83),
            (0, N2, 24.0, LEAST_SCORE),
            (0, N1, 0.78, LEAST_SCORE),
        ] {
            let score = score(active, all, rate);
            assert!(
                (score - expected).abs() < 0.01,
                "{active} of {all}: {score}"
            );
        }
    }

    #[test]
    fn whoever_goes_on_speaking_takes_over() {
        let mut talk = Talk::new(3);
        talk.settle();
        let (loud, quiet) = (Some(SPEECH), Some(NOISE));
        talk.pass(2000 * MS, &[loud, quiet, quiet]);
        assert_eq!(talk.changes, [0]);
        talk.pass(2000 * MS, &[quiet, quiet, loud]);
        assert_eq!(talk.changes, [0, 2]);
        // Silence of all changes nothing, nor does the same one's next sentence.
        talk.pass(3000 * MS, &[quiet, quiet, quiet]);
        talk.pass(1000 * MS, &[quiet, quiet, loud]);
        assert_eq!(talk.changes, [0, 2]);
    }

    #[test]
    fn short_sounds_do_not_take_over() {
        let mut talk = Talk::new(2);
        talk.settle();
        let (loud, quiet) = (Some(SPEECH), Some(NOISE));
        talk.pass(2000 * MS, &[loud, quiet]);
        for _ in 0..20 {
            // A cough, louder than the speaker, while that one goes on or breathes.
            talk.pass(60 * MS, &[loud, Some(-5)]);
            talk.pass(140 * MS, &[loud, quiet]);
            talk.pass(80 * MS, &[quiet, Some(-5)]);
            talk.pass(500 * MS, &[loud, quiet]);
        }
        // Two who talk at once: the first one stays.
        talk.pass(3000 * MS, &[loud, Some(-20)]);
        assert_eq!(talk.changes, [0]);
    }

    #[test]
    fn noise_is_not_speech() {
        let mut talk = Talk::new(2);
        talk.settle();
        talk.pass(1000 * MS, &[Some(SPEECH), Some(NOISE)]);
        // A fan is switched on next to the other one: it leads at first, then is known.
        talk.pass(60_000 * MS, &[Some(NOISE), Some(-45)]);
        talk.pass(1000 * MS, &[Some(SPEECH), Some(-45)]);
        talk.pass(3000 * MS, &[Some(NOISE), Some(-45)]);
        assert_eq!(talk.changes, [0, 1, 0]);
        // Who speaks over it is heard.
        talk.pass(2000 * MS, &[Some(NOISE), Some(-20)]);
        assert_eq!(talk.changes, [0, 1, 0, 1]);
    }

    #[test]
    fn who_stops_sending_is_silent() {
        let mut talk = Talk::new(2);
        talk.settle();
        talk.pass(2000 * MS, &[Some(SPEECH), None]);
        talk.pass(1000 * MS, &[None, Some(SPEECH)]);
        assert_eq!(talk.changes, [0, 1]);
        // When nobody sends, there is nothing to wait for.
        talk.pass(5000 * MS, &[None, None]);
        assert_eq!(talk.dominance.deadline(), None);
        talk.pass(1000 * MS, &[Some(SPEECH), None]);
        assert_eq!(talk.changes, [0, 1, 0]);
    }

    #[test]
    fn somebody_follows_who_is_gone() {
        let mut talk = Talk::new(3);
        talk.settle();
        talk.pass(2000 * MS, &[Some(SPEECH), Some(SPEECH), Some(NOISE)]);
        assert_eq!(talk.changes, [0]);
        talk.keys.remove(0);
        talk.speech.remove(0);
        talk.pass(1000 * MS, &[Some(SPEECH), Some(NOISE)]);
        assert_eq!(talk.changes, [0, 0], "the next one has that place now");
    }

    #[test]
    fn packets_of_60_ms_are_no_silence() {
        let mut speech = Speech::default();
        let mut now = Instant::now();
        speech.add(now, NOISE);
        for _ in 0..60 {
            now += 60 * MS;
            speech.add(now, SPEECH);
        }
        let [immediate, medium, long] = speech.scores(now + 59 * MS);
        assert!(immediate > 1.0 && medium > 100.0 && long > 400.0);
        let [immediate, medium, long] = speech.scores(now + 2000 * MS);
        assert!(
            [immediate, medium, long]
                .iter()
                .all(|it| *it <= LEAST_SCORE)
        );
    }
}
