//! What arrives, and how late: the bitrate that a link delivers, and how long packets
//! wait in its queue.

use std::collections::VecDeque;

/// What arrives within this time is added up, microseconds.
const SLOT: i64 = 10_000;
/// Time over which the bitrate is taken, and the least that says something.
const WINDOW: i64 = 500_000;
const LEAST_WINDOW: i64 = 100_000;
/// Slots that are kept; those that are too old are dropped before.
const MOST_SLOTS: usize = 128;
/// For how long one is kept.
const KEPT_FOR: i64 = 1_000_000;
/// A clock that goes back that far is another one.
const JUMP: i64 = 1_000_000;
/// The shortest way is remembered for this time, once or twice: a client may move to a
/// longer one, and clocks drift.
const SHORTEST_FOR: i64 = 30_000_000;
/// A change of the way that no network makes.
const OTHER_CLOCK: i64 = 10_000_000;

#[derive(Debug, Clone, Copy)]
struct Slot {
    first: i64,
    last: i64,
    octets: u64,
    /// The shortest way of them.
    way: i64,
}

/// What arrived lately, by the receiver's clock.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    slots: VecDeque<Slot>,
    /// Slots at the front that have ended [`WINDOW`] or longer before the newest, and octets of
    /// the others.
    before: usize,
    lately: u64,
}

/// What arrived after the one time and up to the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// The one time, microseconds.
    pub from: i64,
    /// The other.
    pub to: i64,
    /// Octets.
    pub octets: u64,
}

impl Span {
    /// Bits per second.
    pub fn bitrate(&self) -> u64 {
        bitrate(self.octets, self.to.saturating_sub(self.from))
    }
}

impl Arrivals {
    /// Takes in an arrival; `way`: how long it took, by two clocks.
    pub fn add(&mut self, arrival: i64, way: i64, octets: u64) {
        if let Some(last) = self.slots.back_mut() {
            if arrival < last.last.saturating_sub(JUMP) {
                *self = Self::default();
            } else if arrival <= last.last || arrival.saturating_sub(last.first) < SLOT {
                last.octets += octets;
                last.last = last.last.max(arrival);
                last.way = last.way.min(way);
                self.count(octets);
                return;
            }
        }
        let old = |slot: &Slot| arrival.saturating_sub(slot.last) > KEPT_FOR;
        while self.slots.len() >= MOST_SLOTS || self.slots.front().is_some_and(old) {
            self.forget_one();
        }
        self.slots.push_back(Slot {
            first: arrival,
            last: arrival,
            octets,
            way,
        });
        self.count(octets);
    }

    /// Of octets of which it is not known when they arrived, only that they did.
    pub fn add_untold(&mut self, octets: u64) {
        if let Some(last) = self.slots.back_mut() {
            last.octets += octets;
            self.count(octets);
        }
    }

    /// Octets were added to the newest slot.
    fn count(&mut self, octets: u64) {
        self.lately += octets;
        let Some(newest) = self.slots.back().map(|slot| slot.last) else {
            return;
        };
        while let Some(slot) = self.slots.get(self.before)
            && newest.saturating_sub(slot.last) >= WINDOW
        {
            self.lately -= slot.octets;
            self.before += 1;
        }
    }

    fn forget_one(&mut self) {
        let Some(slot) = self.slots.pop_front() else {
            return;
        };
        match self.before.checked_sub(1) {
            Some(before) => self.before = before,
            None => self.lately -= slot.octets,
        }
    }

    /// The newest arrivals that have all waited in a queue, because their way was as
    /// long as this at least. In that time the link was never idle: they are what it
    /// carries. `None` when that is less than this time.
    pub fn busy(&self, way: i64, time: i64) -> Option<Span> {
        let to = self.slots.back()?.last;
        // What a slot holds arrived before its end, which is where the time begins.
        let (mut octets, mut last) = (0, 0);
        for slot in self.slots.iter().rev().take_while(|slot| slot.way >= way) {
            octets += std::mem::replace(&mut last, slot.octets);
            let from = slot.last;
            // The link may have been another one before.
            if to.saturating_sub(from) >= time {
                return Some(Span { from, to, octets });
            }
        }
        None
    }

    /// What arrives, bits per second. `None`: too little is known.
    pub fn bitrate(&self) -> Option<u64> {
        let to = self.slots.back()?.last;
        if let Some(before) = self.before.checked_sub(1) {
            let time = to.saturating_sub(self.slots.get(before)?.last);
            return Some(bitrate(self.lately, time));
        }
        let first = self.slots.front()?;
        let time = to.saturating_sub(first.last);
        (time >= LEAST_WINDOW).then(|| bitrate(self.lately - first.octets, time))
    }
}

/// How much longer than on the shortest way packets take.
#[derive(Debug, Default)]
pub(crate) struct Delay {
    /// The shortest way, by two clocks that have nothing to do with each other,
    /// microseconds: of the last minutes, and since when a new one is looked for.
    shortest: Option<i64>,
    lately: Option<i64>,
    since: i64,
    queue: i64,
}

impl Delay {
    /// Takes in the shortest way of the packets of one message.
    pub fn note(&mut self, now: i64, way: i64) {
        let other = |shortest: i64| way.saturating_sub(shortest).saturating_abs() > OTHER_CLOCK;
        if self.shortest.is_none_or(other) {
            (self.shortest, self.lately, self.since) = (Some(way), Some(way), now);
        }
        if now.saturating_sub(self.since) >= SHORTEST_FOR {
            self.shortest = self.lately.replace(way);
            self.since = now;
        }
        let least = |held: Option<i64>| Some(held.map_or(way, |held| held.min(way)));
        self.shortest = least(self.shortest);
        self.lately = least(self.lately);
        self.queue = way.saturating_sub(self.shortest.unwrap_or(way));
    }

    /// The shortest way.
    pub fn shortest(&self) -> Option<i64> {
        self.shortest
    }

    /// How much longer the newest was.
    pub fn queue(&self) -> Option<i64> {
        self.shortest.map(|_| self.queue)
    }
}

/// Bits per second of so many octets in so many microseconds.
pub(crate) fn bitrate(octets: u64, micros: i64) -> u64 {
    let micros = u64::try_from(micros).unwrap_or(0).max(1);
    octets.saturating_mul(8_000_000) / micros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitrate_is_what_arrives() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.bitrate(), None);
        for index in 0..1000 {
            arrivals.add(index * 5_000, 0, 1250);
            let known = arrivals.bitrate();
            assert_eq!(known.is_some(), index >= 21, "{index}");
            if let Some(bitrate) = known {
                assert!((1_800_000..2_200_000).contains(&bitrate), "{bitrate}");
            }
        }
        assert_eq!(arrivals.bitrate(), Some(2_000_000));
        arrivals.add_untold(12_500);
        assert!(arrivals.bitrate() > Some(2_150_000));
        arrivals.add(-5_000_000, 0, 1);
        assert_eq!(arrivals.bitrate(), None, "another clock");
    }

    #[test]
    fn what_came_lately_is_what_the_newest_slots_hold() {
        for seed in 0..50u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) % below
            };
            let (mut arrivals, mut at) = (Arrivals::default(), 0);
            for _ in 0..2_000 {
                match random(200) {
                    0 => at += 700_000,
                    1 => at -= 3_000_000,
                    2..10 => at -= 8_000,
                    _ => at += random(12_000) as i64,
                }
                match random(20) {
                    0 => arrivals.add_untold(random(1_000)),
                    _ => arrivals.add(at, 0, random(1_500)),
                }
                let Some(newest) = arrivals.slots.back().map(|slot| slot.last) else {
                    continue;
                };
                let is_late = |slot: &&Slot| newest - slot.last < WINDOW;
                let late = arrivals.slots.iter().filter(is_late);
                assert_eq!(arrivals.lately, late.clone().map(|it| it.octets).sum());
                assert_eq!(arrivals.before + late.count(), arrivals.slots.len());
            }
        }
    }

    #[test]
    fn a_link_that_is_never_idle_shows_what_it_carries() {
        let mut arrivals = Arrivals::default();
        for index in 0..20 {
            arrivals.add(index * 20_000, 50_000, 1000);
        }
        assert!(arrivals.busy(60_000, 150_000).is_none());
        for index in 30..38 {
            arrivals.add(index * 20_000, 100_000, 500);
            assert!(arrivals.busy(60_000, 150_000).is_none(), "not for long");
        }
        arrivals.add(760_000, 100_000, 500);
        let busy = arrivals.busy(60_000, 150_000).unwrap();
        assert_eq!((busy.from, busy.to), (600_000, 760_000));
        assert_eq!(busy.bitrate(), 200_000);
        arrivals.add(780_000, 50_000, 500);
        assert!(arrivals.busy(60_000, 150_000).is_none(), "it is idle again");
    }

    #[test]
    fn a_queue_is_what_the_way_is_longer_by() {
        let mut delay = Delay::default();
        assert_eq!(delay.queue(), None);
        for (now, way, queue) in [
            (0, -500_000, 0),
            (1, -450_000, 50_000),
            (2, -510_000, 0),
            (3, -410_000, 100_000),
            (SHORTEST_FOR, -410_000, 100_000),
            (2 * SHORTEST_FOR, -410_000, 0),
            (2 * SHORTEST_FOR + 1, 60_000_000, 0),
        ] {
            delay.note(now, way);
            assert_eq!(delay.queue(), Some(queue), "{now}");
        }
    }
}
