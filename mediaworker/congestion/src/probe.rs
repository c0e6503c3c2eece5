//! Probes: some packets at a bitrate that may be too much. How fast they arrive is what
//! the link carries.

use crate::arrivals::bitrate;

/// Least packets of a probe, and the time that it takes at least and at most,
/// microseconds.
const LEAST_PACKETS: u32 = 5;
const LEAST_TIME: i64 = 20_000;
const MOST_TIME: i64 = 100_000;
/// Time until nothing is to be expected from it any more.
const LASTS_FOR: i64 = 1_000_000;
/// Share of it that has to arrive, in percent.
const ARRIVES_PERCENT: u64 = 80;
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

#[derive(Debug, Clone, Copy)]
struct Probe {
    id: u8,
    /// Bits per second.
    rate: u64,
    asked: i64,
    /// When its first packet was sent.
    since: Option<i64>,
    is_sent: bool,
    packets: u32,
    octets: u64,
    arrived: u32,
    lost: u32,
    seen: Option<Seen>,
}

/// What has arrived of a probe.
#[derive(Debug, Clone, Copy)]
struct Seen {
    octets: u64,
    first_sent: i64,
    last_sent: (i64, u64),
    first_arrival: (i64, u64),
    last_arrival: i64,
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
            seen: None,
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
        let enough = probe.packets >= LEAST_PACKETS && time >= LEAST_TIME;
        probe.is_sent = enough || time >= MOST_TIME;
        ProbeId(probe.id)
    }

    /// A packet has arrived.
    pub fn arrived(&mut self, id: ProbeId, sent: i64, arrival: i64, len: u16) {
        let Some(probe) = self.probe.as_mut().filter(|it| it.id == id.0) else {
            return;
        };
        probe.arrived += 1;
        let octets = u64::from(len);
        let Some(seen) = &mut probe.seen else {
            probe.seen = Some(Seen {
                octets,
                first_sent: sent,
                last_sent: (sent, octets),
                first_arrival: (arrival, octets),
                last_arrival: arrival,
            });
            return;
        };
        seen.octets += octets;
        seen.first_sent = seen.first_sent.min(sent);
        if sent >= seen.last_sent.0 {
            seen.last_sent = (sent, octets);
        }
        if arrival < seen.first_arrival.0 {
            seen.first_arrival = (arrival, octets);
        }
        seen.last_arrival = seen.last_arrival.max(arrival);
    }

    /// A packet has been lost.
    pub fn lost(&mut self, id: ProbeId) {
        if let Some(probe) = self.probe.as_mut().filter(|it| it.id == id.0) {
            probe.lost += 1;
        }
    }

    /// What it has shown, once most of it has arrived; then it is over.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let probe = self.probe.filter(|probe| probe.is_sent)?;
        let arrives = u64::from(probe.arrived) * 100;
        if arrives < u64::from(probe.packets) * ARRIVES_PERCENT {
            if probe.arrived + probe.lost >= probe.packets {
                self.probe = None;
            }
            return None;
        }
        self.probe = None;
        let seen = probe.seen?;
        let sent_in = seen.last_sent.0 - seen.first_sent;
        let arrived_in = seen.last_arrival.saturating_sub(seen.first_arrival.0);
        if sent_in <= 0 || arrived_in <= 0 {
            return None;
        }
        let sent = bitrate(seen.octets - seen.last_sent.1, sent_in);
        let arrived = bitrate(seen.octets - seen.first_arrival.1, arrived_in);
        if arrived > sent.saturating_mul(FASTER_PERCENT) / 100 {
            return None;
        }
        let passes = match arrived < sent.saturating_mul(SLOWER_PERCENT) / 100 {
            true => arrived.saturating_mul(CARRIED_PERCENT) / 100,
            false => arrived.min(sent),
        };
        Some(Outcome {
            bitrate: passes,
            tried: probe.rate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A probe of a rate over a link of another one: what comes of it.
    fn probe(rate: u64, link: u64, lost: u32) -> Option<Outcome> {
        let mut probes = Probes::default();
        assert_eq!(probes.sent(0, 250), ProbeId::NONE);
        assert!(probes.start(1000, rate));
        assert!(!probes.start(1000, rate));
        let (mut free, mut index) = (0, 0);
        while let Some((at, _)) = probes.next() {
            let id = probes.sent(at, 250);
            free = at.max(free) + (2_000_000_000 / link) as i64;
            match index < lost {
                true => probes.lost(id),
                false => probes.arrived(id, at, 77_000 + free, 250),
            }
            index += 1;
        }
        assert!(index >= 5 + lost.min(1), "{index}");
        probes.outcome()
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
