//! The other side: what a receiver tells of the packets that arrive
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1).

use std::time::{Duration, Instant};

/// Time between two messages.
const INTERVAL: Duration = Duration::from_millis(100);
/// Packets after which the next message does not wait for that.
const MANY: usize = 100;
/// Most arrivals that wait for a message; what comes beyond that is told as lost.
const MAX_ARRIVALS: usize = 2_000;
/// Most packets that one message is about.
const MAX_RANGE: u64 = 2_500;
/// Most octets of a message, roughly: it must pass any network in one piece.
const MAX_LEN: usize = 1_000;
/// Resolution of the times between arrivals, microseconds.
const DELTA: i64 = 250;
/// Resolution of a message's time, in those: 64 ms.
const REFERENCE: i64 = 256;
/// Packets are counted from here, so that what is late may be lower than the first.
const FIRST: u64 = 1 << 32;

/// What a message says of a packet: symbols of two bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Lost,
    Small(u8),
    Large(i16),
}

impl Status {
    fn symbol(self) -> u16 {
        match self {
            Self::Lost => 0,
            Self::Small(_) => 1,
            Self::Large(_) => 2,
        }
    }

    /// Octets that it takes beside its symbol.
    fn len(self) -> usize {
        match self {
            Self::Lost => 0,
            Self::Small(_) => 1,
            Self::Large(_) => 2,
        }
    }
}

/// The packets of one sender that have arrived and are still to be told of. A
/// [`Recorder`] knows when to tell as well.
#[derive(Debug, Default)]
pub struct Untold {
    /// Highest number so far.
    highest: Option<u64>,
    /// First number of the next message.
    next: Option<u64>,
    /// Number, and microseconds.
    pending: Vec<(u64, i64)>,
    /// Messages so far, modulo 256.
    count: u8,
}

impl Untold {
    /// Takes note of an authentic packet with this number. `at`: microseconds of any
    /// clock that does not go back.
    pub fn record(&mut self, at: i64, number: u16) {
        let highest = self.highest.unwrap_or(FIRST + u64::from(number));
        let number = extend(highest, number);
        self.highest = Some(highest.max(number));
        if self.pending.len() < MAX_ARRIVALS {
            self.pending.push((number, at));
        }
    }

    /// There is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Extended number and time of what is still to be told.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn waiting(&self) -> &[(u64, i64)] {
        &self.pending
    }

    /// The next message: what follows the two SSRCs. It may leave some for another one.
    pub fn tell(&mut self) -> Option<Vec<u8>> {
        self.pending.sort_unstable();
        self.pending.dedup_by_key(|(number, _)| *number);
        let &(first, at) = self.pending.first()?;
        let base = self.next.map_or(first, |next| next.min(first));
        let base = base.max(first.saturating_sub(MAX_RANGE / 2));
        // The time of the first one may not be the earliest: steps back are told, too.
        let reference = (at / DELTA).div_euclid(REFERENCE);
        let mut clock = reference * REFERENCE;
        let mut statuses = Vec::new();
        let (mut told, mut len) = (0, 0);
        for &(number, at) in &self.pending {
            let delta = at / DELTA - clock;
            let status = match (u8::try_from(delta), i16::try_from(delta)) {
                (Ok(small), _) => Status::Small(small),
                (_, Ok(large)) => Status::Large(large),
                // A pause of more than eight seconds: the next message has a new time.
                _ => break,
            };
            let place = usize::try_from(number - base).unwrap_or(usize::MAX);
            // Seven symbols take two octets.
            let most = len + status.len() + 2 * (place / 7 + 1);
            if number - base >= MAX_RANGE || most > MAX_LEN {
                break;
            }
            statuses.resize(place, Status::Lost);
            statuses.push(status);
            (told, len, clock) = (told + 1, len + status.len(), clock + delta);
        }
        self.pending.drain(..told);
        self.next = Some(base + statuses.len() as u64);
        let message = encode(base, reference, self.count, &statuses);
        self.count = self.count.wrapping_add(1);
        Some(message)
    }
}

/// The same, with the times at which messages are due.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The first packet; times are counted from then.
    start: Option<Instant>,
    untold: Untold,
    /// When the next message is due.
    due: Option<Instant>,
}

impl Recorder {
    /// Takes note of an authentic packet with this number.
    pub fn record(&mut self, now: Instant, number: u16) {
        let start = *self.start.get_or_insert(now);
        let passed = now.saturating_duration_since(start).as_micros();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        self.untold.record(passed, number);
        if self.untold.pending.len() >= MANY {
            self.due = Some(now);
        } else if self.due.is_none() {
            self.due = Some(now + INTERVAL);
        }
    }

    /// When [`Recorder::message`] has something to say.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The next message, if it is due: what follows the two SSRCs.
    pub fn message(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.due.is_none_or(|at| at > now) {
            return None;
        }
        let message = self.untold.tell();
        self.due = (!self.untold.is_empty()).then_some(now);
        message
    }
}

/// The number of which these are the low 16 bits that is nearest to another one.
fn extend(near: u64, low: u16) -> u64 {
    let cycle = (near & !0xffff) | u64::from(low);
    let candidates = [cycle.wrapping_sub(0x1_0000), cycle, cycle + 0x1_0000];
    let nearest = candidates.into_iter().min_by_key(|it| it.abs_diff(near));
    nearest.unwrap_or(cycle)
}

fn encode(base: u64, reference: i64, count: u8, statuses: &[Status]) -> Vec<u8> {
    let low = |number: u64| u16::try_from(number & 0xffff).unwrap_or(0);
    let mut message = Vec::with_capacity(16 + 3 * statuses.len());
    message.extend_from_slice(&low(base).to_be_bytes());
    message.extend_from_slice(&low(statuses.len() as u64).to_be_bytes());
    let [.., a, b, c] = reference.to_be_bytes();
    message.extend_from_slice(&[a, b, c, count]);
    let mut rest = statuses;
    while let Some(first) = rest.first() {
        let symbol = first.symbol();
        let run = rest.iter().take_while(|it| it.symbol() == symbol).count();
        let (chunk, told) = if run > 7 || run == rest.len() {
            let run = run.min(0x1fff);
            (symbol << 13 | low(run as u64), run)
        } else {
            let symbols = rest.iter().map(|it| it.symbol()).chain([0; 7]).take(7);
            let vector = symbols.fold(0b11, |bits, symbol| bits << 2 | symbol);
            (vector, rest.len().min(7))
        };
        message.extend_from_slice(&chunk.to_be_bytes());
        rest = rest.get(told..).unwrap_or_default();
    }
    for status in statuses {
        match status {
            Status::Lost => {}
            Status::Small(delta) => message.push(*delta),
            Status::Large(delta) => message.extend_from_slice(&delta.to_be_bytes()),
        }
    }
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::{Feedback, Status as Read};

    fn ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Number and time, microseconds, of each packet that a message says has come.
    fn told(message: &[u8]) -> Vec<(u16, i64)> {
        let feedback = Feedback::read(message).unwrap();
        let mut clock = i64::from(feedback.reference) * 64_000;
        let mut number = feedback.base;
        let mut told = Vec::new();
        for status in feedback.statuses() {
            if let Read::Arrived(delta) = status {
                clock += delta;
                told.push((number, clock));
            }
            number = number.wrapping_add(1);
        }
        told
    }

    #[test]
    fn what_is_told_is_read() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        assert_eq!((recorder.due(), recorder.message(start)), (None, None));
        let mut expected = Vec::new();
        for n in (0..60u16).filter(|n| ![3, 4, 20, 41].contains(n)) {
            let at = u64::from(n % 7) * 10;
            recorder.record(ms(start, at), n.wrapping_add(65_500));
            expected.push((n.wrapping_add(65_500), i64::try_from(at).unwrap() * 1_000));
        }
        assert_eq!(recorder.due(), Some(ms(start, 100)));
        assert_eq!(recorder.message(ms(start, 99)), None);
        let message = recorder.message(ms(start, 100)).unwrap();
        assert_eq!(told(&message), expected);
        assert_eq!(recorder.due(), None);
    }

    #[test]
    fn a_run_is_one_chunk() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        for n in 0..10u16 {
            recorder.record(ms(start, n.into()), n.wrapping_add(65_530));
        }
        let message = recorder.message(ms(start, 100)).unwrap();
        assert_eq!(message[..10], [0xff, 0xfa, 0, 10, 0, 0, 0, 0, 0x20, 10]);
        assert_eq!(message[10..], [0, 4, 4, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn the_next_message_goes_on_with_what_is_missing() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        for (at, number) in [(64, 1), (165, 4), (166, 3)] {
            recorder.record(ms(start, at), number);
        }
        let message = recorder.message(ms(start, 200)).unwrap();
        assert_eq!(told(&message), [(1, 0), (3, 102_000), (4, 101_000)]);
        recorder.record(ms(start, 230), 6);
        let message = recorder.message(ms(start, 400)).unwrap();
        assert_eq!((&message[..4], message[7]), (&[0, 5, 0, 2][..], 1));
        // One that is late is told of after all.
        recorder.record(ms(start, 430), 2);
        let message = recorder.message(ms(start, 600)).unwrap();
        assert_eq!(told(&message), [(2, 366_000)]);
    }

    #[test]
    fn runs_gaps_and_late_packets_are_told() {
        const MS: i64 = 1_000;
        let mut arrivals = Untold::default();
        assert_eq!(arrivals.tell(), None);
        for i in 0..10u16 {
            arrivals.record((640 + i64::from(i.min(5))) * MS, 65_530 + i.min(5));
        }
        for i in 0..4u16 {
            arrivals.record((646 + i64::from(i)) * MS, i);
        }
        let body = arrivals.tell().unwrap();
        assert_eq!(body[..8], [0xFF, 0xFA, 0, 10, 0, 0, 10, 0]);
        assert_eq!(body[8..10], [0x20, 10]);
        assert_eq!(body[10..20], [0, 4, 4, 4, 4, 4, 4, 4, 4, 4]);
        assert_eq!(body.len(), 20);
        assert!(arrivals.is_empty());

        let mut arrivals = Untold::default();
        arrivals.record(64 * MS, 1);
        arrivals.record(165 * MS, 4);
        arrivals.record(166 * MS, 3);
        let body = arrivals.tell().unwrap();
        assert_eq!(body[..8], [0, 1, 0, 4, 0, 0, 1, 0]);
        // Small, lost, large, large (backwards).
        assert_eq!(body[8..10], [0b1101_0010, 0b1000_0000]);
        assert_eq!(body[10], 0);
        assert_eq!(body[11..13], 408i16.to_be_bytes());
        assert_eq!(body[13..15], (-4i16).to_be_bytes());
        // The next report goes on from there, with what is missing.
        arrivals.record(170 * MS, 6);
        let body = arrivals.tell().unwrap();
        assert_eq!(body[..4], [0, 5, 0, 2]);
        assert_eq!(body[7], 1);

        let mut arrivals = Untold::default();
        arrivals.record(0, 1);
        arrivals.record(20_000 * MS, 2);
        assert_eq!(arrivals.tell().unwrap()[..4], [0, 1, 0, 1]);
        assert!(!arrivals.is_empty());
        assert_eq!(arrivals.tell().unwrap()[..4], [0, 2, 0, 1]);
        assert!(arrivals.is_empty());
    }

    #[test]
    fn many_packets_do_not_wait_and_no_message_is_long() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        for number in 0..2_500u16 {
            // Every second one, far apart: what takes the most room.
            let at = u64::from(number) * 200;
            recorder.record(ms(start, at), number * 2);
        }
        assert!(recorder.due().unwrap() <= ms(start, 2_500 * 200));
        let mut all = 0;
        for _ in 0..20 {
            let now = ms(start, 2_500 * 200);
            let Some(message) = recorder.message(now) else {
                break;
            };
            assert!(message.len() <= MAX_LEN + 12, "{}", message.len());
            all += told(&message).len();
        }
        assert_eq!(all, MAX_ARRIVALS);
        assert_eq!(recorder.due(), None);
    }

    #[test]
    fn a_long_pause_and_a_far_number_begin_anew() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        recorder.record(start, 1);
        recorder.record(ms(start, 20_000), 2);
        let first = recorder.message(ms(start, 20_000)).unwrap();
        assert_eq!(told(&first), [(1, 0)]);
        let second = recorder.message(ms(start, 20_000)).unwrap();
        assert_eq!(told(&second), [(2, 20_000_000)]);
        recorder.record(ms(start, 20_001), 30_002);
        let third = recorder.message(ms(start, 20_200)).unwrap();
        assert_eq!(told(&third), [(30_002, 20_001_000)]);
    }

    #[test]
    fn whatever_is_recorded_every_message_can_be_read() {
        let mut random = 7u64;
        for _ in 0..200 {
            let start = Instant::now();
            let mut recorder = Recorder::default();
            let mut now = start;
            for _ in 0..300 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                now += Duration::from_micros((random % 2_000_000) >> (random % 21));
                let far = random >> 60 == 0;
                let number = if far { random >> 20 } else { random >> 20 & 63 };
                recorder.record(now, u16::try_from(number & 0xffff).unwrap());
                if let Some(message) = recorder.message(now) {
                    assert!(Feedback::read(&message).is_some());
                }
            }
        }
    }
}
