//! Probes: some packets at a bitrate that may be too much. How fast they arrive is what
//! the link carries.

use crate::arrivals::bitrate;

/// Least packets of a probe, or of a part of it that says something.
const LEAST_PACKETS: usize = 5;
/// Octets of it, at least: where a rate is limited by a bucket of tokens, what fits into
/// the bucket passes at any rate.
const LEAST_OCTETS: u64 = 8_000;
/// Shortest and longest time that takes, and the longest that a probe takes which other
/// packets have made late, microseconds.
const LEAST_TIME: (i64, i64) = (20_000, 120_000);
const MOST_TIME: i64 = 200_000;
/// Packets of a probe that are looked at, at most; more leave only at hundreds of Mbit/s.
const MOST_SEEN: usize = 512;
/// Time until nothing is to be expected from it any more.
const LASTS_FOR: i64 = 1_000_000;
/// Share of it that has to arrive, in percent.
const ARRIVES_PERCENT: usize = 80;
/// What arrives much faster than it was sent, in percent, was held back on the way and
/// says nothing.
const FASTER_PERCENT: u64 = 200;
/// What arrives more slowly than it was sent, in percent, shows what the link carries;
/// of which this is taken.
const SLOWER_PERCENT: u64 = 90;
const CARRIED_PERCENT: u64 = 95;

/// Which probe a packet is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbeId(u8);

impl ProbeId {
    /// None of them.
    pub const NONE: Self = Self(0);
}

/// What a probe has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Bits per second that pass.
    pub bitrate: u64,
    /// Bits per second that were tried.
    pub tried: u64,
}

#[derive(Debug)]
struct Probe {
    id: u8,
    /// Bits per second.
    rate: u64,
    asked: i64,
    /// When its first packet was sent.
    since: Option<i64>,
    is_sent: bool,
    packets: usize,
    octets: u64,
    arrived: usize,
    lost: usize,
    seen: Vec<Seen>,
}

/// A packet of a probe that has arrived.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sent: i64,
    arrival: i64,
    octets: u64,
}

/// The probe that is under way.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    last_id: u8,
    probe: Option<Probe>,
}

impl Probes {
    /// Begins one, unless there is one already.
    pub fn start(&mut self, now: i64, rate: u64) -> bool {
        let waits = |probe: &Probe| now.saturating_sub(probe.asked) < LASTS_FOR;
        if self.probe.as_ref().is_some_and(waits) {
            return false;
        }
        self.last_id = self.last_id % u8::MAX + 1;
        self.probe = Some(Probe {
            id: self.last_id,
            rate: rate.max(1),
            asked: now,
            since: None,
            is_sent: false,
            packets: 0,
            octets: 0,
            arrived: 0,
            lost: 0,
            seen: Vec::new(),
        });
        true
    }

    /// Ends the one that is under way.
    pub fn cancel(&mut self) {
        self.probe = None;
    }

    /// When its next packet is to be sent, and how fast, bits per second.
    pub fn next(&self) -> Option<(i64, u64)> {
        let probe = self.probe.as_ref().filter(|probe| !probe.is_sent)?;
        let Some(since) = probe.since else {
            return Some((probe.asked, probe.rate));
        };
        let time = probe.octets.saturating_mul(8_000_000) / probe.rate;
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        Some((since.saturating_add(time.min(MOST_TIME)), probe.rate))
    }

    /// A packet is sent. Answers which probe it is part of: whatever is sent while one
    /// is under way.
    pub fn sent(&mut self, now: i64, len: usize) -> ProbeId {
        let Some(probe) = self.probe.as_mut().filter(|probe| !probe.is_sent) else {
            return ProbeId::NONE;
        };
        let since = *probe.since.get_or_insert(now);
        let time = now.saturating_sub(since);
        if time > 2 * MOST_TIME {
            // Nobody sent it in time.
            probe.is_sent = true;
            return ProbeId::NONE;
        }
        probe.packets += 1;
        probe.octets = probe
            .octets
            .saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let enough = probe.packets >= LEAST_PACKETS && time >= least_time(probe.rate);
        probe.is_sent = enough || time >= MOST_TIME;
        ProbeId(probe.id)
    }

    /// A packet has arrived.
    pub fn arrived(&mut self, id: ProbeId, sent: i64, arrival: i64, len: u16) {
        let Some(probe) = self.probe.as_mut().filter(|it| it.id == id.0) else {
            return;
        };
        probe.arrived += 1;
        if probe.seen.len() < MOST_SEEN {
            probe.seen.push(Seen {
                sent,
                arrival,
                octets: len.into(),
            });
        }
    }

    /// A packet has been lost.
    pub fn lost(&mut self, id: ProbeId) {
        if let Some(probe) = self.probe.as_mut().filter(|it| it.id == id.0) {
            probe.lost += 1;
        }
    }

    /// What it has shown, once most of it has arrived; then it is over.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let probe = self.probe.take_if(|probe| probe.is_over())?;
        if !probe.has_arrived() {
            return None;
        }
        let begin = probe.seen.iter().map(|seen| seen.sent).min()?;
        let end = probe.seen.iter().map(|seen| seen.sent).max()?;
        let whole = Rates::of(&probe.seen, begin)?;
        // A bucket of tokens is empty by then.
        let middle = begin + (end - begin) / 2;
        let later = Rates::of(&probe.seen, middle).and_then(Rates::carried);
        if whole.arrived > whole.sent.saturating_mul(FASTER_PERCENT) / 100 {
            return None;
        }
        let passes = whole.carried().unwrap_or(whole.arrived.min(whole.sent));
        Some(Outcome {
            bitrate: later.map_or(passes, |later| later.min(passes)),
            tried: probe.rate,
        })
    }
}

impl Probe {
    /// Nothing more is to be expected of it, or enough has come.
    fn is_over(&self) -> bool {
        self.is_sent && (self.has_arrived() || self.arrived + self.lost >= self.packets)
    }

    /// Most of it has.
    fn has_arrived(&self) -> bool {
        self.arrived * 100 >= self.packets * ARRIVES_PERCENT
    }
}

/// How fast packets were sent, and arrived, bits per second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    sent: u64,
    arrived: u64,
}

impl Rates {
    /// Those of all packets that were sent from then on. `None`: they are too few, or
    /// all of them came at once.
    fn of(seen: &[Seen], from: i64) -> Option<Self> {
        let part = || seen.iter().filter(|seen| seen.sent >= from);
        if part().count() < LEAST_PACKETS - 1 {
            return None;
        }
        let octets: u64 = part().map(|seen| seen.octets).sum();
        let (first, last) = (
            part().min_by_key(|seen| seen.arrival)?,
            part().max_by_key(|seen| seen.arrival)?,
        );
        let (begin, end) = (
            part().min_by_key(|seen| seen.sent)?,
            part().max_by_key(|seen| seen.sent)?,
        );
        let arrived_in = last.arrival.saturating_sub(first.arrival);
        let sent_in = end.sent - begin.sent;
        (sent_in > 0 && arrived_in > 0).then(|| Self {
            sent: bitrate(octets - end.octets, sent_in),
            arrived: bitrate(octets - first.octets, arrived_in),
        })
    }

    /// What the link carries, if it is less than was sent.
    fn carried(self) -> Option<u64> {
        let slower = self.arrived < self.sent.saturating_mul(SLOWER_PERCENT) / 100;
        slower.then(|| self.arrived.saturating_mul(CARRIED_PERCENT) / 100)
    }
}

/// Time that a probe takes at least.
fn least_time(rate: u64) -> i64 {
    let time = LEAST_OCTETS * 8_000_000 / rate;
    let time = i64::try_from(time).unwrap_or(i64::MAX);
    time.clamp(LEAST_TIME.0, LEAST_TIME.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A probe of a rate over a link of another one, which has saved up so many octets:
    /// what comes of it.
    fn probe_saved(rate: u64, link: u64, lost: u32, mut saved: i64) -> Option<Outcome> {
        let mut probes = Probes::default();
        assert_eq!(probes.sent(0, 250), ProbeId::NONE);
        assert!(probes.start(1000, rate));
        assert!(!probes.start(1000, rate));
        let (mut free, mut index) = (0, 0);
        while let Some((at, _)) = probes.next() {
            let id = probes.sent(at, 250);
            saved -= 250;
            free = at.max(free);
            if saved < 0 {
                free += (2_000_000_000 / link) as i64;
            }
            match index < lost {
                true => probes.lost(id),
                false => probes.arrived(id, at, 77_000 + free, 250),
            }
            index += 1;
        }
        assert!(index >= 5 + lost.min(1), "{index}");
        probes.outcome()
    }

    fn probe(rate: u64, link: u64, lost: u32) -> Option<Outcome> {
        probe_saved(rate, link, lost, 0)
    }

    #[test]
    fn what_a_link_has_saved_up_is_no_more_than_it_carries() {
        for (rate, link) in [
            (500_000, 300_000),
            (600_000, 300_000),
            (2_000_000, 1_000_000),
        ] {
            let outcome = probe_saved(rate, link, 0, 2_000).unwrap();
            let passes = link * 8 / 10..link * 115 / 100;
            assert!(passes.contains(&outcome.bitrate), "{rate}: {outcome:?}");
        }
    }

    #[test]
    fn what_passes_is_what_the_link_carries() {
        for (rate, link, least, most) in [
            (600_000, 10_000_000, 590_000, 610_000),
            (2_000_000, 10_000_000, 1_980_000, 2_020_000),
            (2_000_000, 1_000_000, 900_000, 960_000),
            (600_000, 300_000, 270_000, 290_000),
        ] {
            let outcome = probe(rate, link, 0).unwrap();
            assert_eq!(outcome.tried, rate);
            let passes = (least..most).contains(&outcome.bitrate);
            assert!(passes, "{rate} over {link}: {outcome:?}");
        }
        assert!(probe(2_000_000, 10_000_000, 1).is_some());
        assert_eq!(probe(2_000_000, 10_000_000, 10), None);
    }

    #[test]
    fn one_that_nobody_sends_is_over_after_a_while() {
        let mut probes = Probes::default();
        probes.start(0, 1_000_000);
        assert!(!probes.start(LASTS_FOR - 1, 1_000_000));
        assert!(probes.start(LASTS_FOR, 1_000_000));
        assert_eq!(probes.next(), Some((LASTS_FOR, 1_000_000)));
        probes.sent(LASTS_FOR, 1200);
        probes.sent(3 * LASTS_FOR, 1200);
        assert_eq!(probes.next(), None);
        assert_eq!(probes.outcome(), None);
        probes.cancel();
        assert!(probes.start(3 * LASTS_FOR, 1));
    }
}
