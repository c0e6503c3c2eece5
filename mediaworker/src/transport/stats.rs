//! What is counted of transports and streams, and how fast it flows.

use std::time::{Duration, Instant};

/// Slots of a [`Meter`] in a second.
const SLOTS_PER_SECOND: u64 = 10;
const MILLIS_PER_SLOT: u64 = 1000 / SLOTS_PER_SECOND;
/// Whole slots that make up the second over which a rate is taken, and the one
/// that is being filled.
const WINDOW: u64 = SLOTS_PER_SECOND;
const SLOTS: usize = 11;

/// Octets, and their rate over the last second. RTP is counted as it is on the
/// wire: with header extensions and SRTP's authentication tag.
#[derive(Debug, Clone, Default)]
#[repr(C)]
pub struct Meter {
    bytes: u64,
    /// When the newest slot ends. A packet needs nothing but these two.
    until: Option<Instant>,
    /// Number of the newest slot, and the octets before it.
    newest: u64,
    before: u64,
    /// Time of the first octets; slots are counted from here.
    start: Option<Instant>,
    /// Octets of the slots before the newest.
    slots: [u32; SLOTS],
}

impl Meter {
    /// Counts a packet.
    #[inline]
    pub fn add(&mut self, now: Instant, len: usize) {
        if self.until.is_none_or(|until| until <= now) {
            self.open(now);
        }
        self.bytes = self.bytes.saturating_add(len as u64);
    }

    /// Makes the slot of this time the newest.
    #[cold]
    #[inline(never)]
    fn open(&mut self, now: Instant) {
        let start = *self.start.get_or_insert(now);
        let slot = slot(start, now);
        if let Some(place) = self.slots.get_mut(index(self.newest)) {
            *place = u32::try_from(self.bytes - self.before).unwrap_or(u32::MAX);
        }
        // Those in between were silent, and the oldest make room.
        for passed in (self.newest + 1..=slot).take(SLOTS) {
            if let Some(passed) = self.slots.get_mut(index(passed)) {
                *passed = 0;
            }
        }
        self.before = self.bytes;
        self.newest = self.newest.max(slot);
        let millis = (self.newest + 1) * MILLIS_PER_SLOT;
        self.until = Some(start + Duration::from_millis(millis));
    }

    /// Octets since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bits per second, over the last second.
    pub fn bitrate(&self, now: Instant) -> u64 {
        self.bits(now, WINDOW)
    }

    /// Bits per second, over the last 300 ms.
    pub fn recent_bitrate(&self, now: Instant) -> u64 {
        self.bits(now, 3) * SLOTS_PER_SECOND / 3
    }

    /// Bits in that many of the last whole slots.
    fn bits(&self, now: Instant, slots: u64) -> u64 {
        let Some(start) = self.start else { return 0 };
        let current = slot(start, now);
        let wanted = current.saturating_sub(slots)..current;
        let held = (self.newest + 1).saturating_sub(SLOTS as u64)..self.newest;
        let newest = Some(self.bytes - self.before).filter(|_| wanted.contains(&self.newest));
        let bytes: u64 = wanted
            .filter(|slot| held.contains(slot))
            .filter_map(|slot| self.slots.get(index(slot)))
            .map(|bytes| u64::from(*bytes))
            .sum();
        (bytes + newest.unwrap_or(0)) * 8
    }
}

fn slot(start: Instant, now: Instant) -> u64 {
    let passed = now.saturating_duration_since(start);
    passed.as_secs() * SLOTS_PER_SECOND + u64::from(passed.subsec_millis()) / MILLIS_PER_SLOT
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

/// Everything that passes a transport, by kind and direction.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Traffic {
    /// Media without retransmissions; that is what most of it is.
    pub rtp_sent: Meter,
    /// All datagrams from the client.
    pub received: Meter,
    /// See `rtp_sent`.
    pub rtp_received: Meter,
    /// Retransmissions (RFC 4588).
    pub rtx_received: Meter,
    /// See `rtx_received`.
    pub rtx_sent: Meter,
    /// What was sent to probe the bandwidth.
    pub probation_sent: Meter,
    /// Everything else that was sent: reports, handshake, data, answers to checks.
    pub other_sent: Meter,
}

impl Traffic {
    /// What all datagrams to the client come to together, by a figure of each kind. Their
    /// slots begin at different times, so a rate is right to within one of them.
    pub fn sent(&self, of: impl Fn(&Meter) -> u64) -> u64 {
        let media = [&self.rtp_sent, &self.rtx_sent, &self.probation_sent];
        media.into_iter().chain([&self.other_sent]).map(of).sum()
    }

    /// Counts an RTP packet of a producer. `again`: it was sent again.
    pub fn media_received(&mut self, now: Instant, len: usize, again: bool) {
        let meter = if again {
            &mut self.rtx_received
        } else {
            &mut self.rtp_received
        };
        meter.add(now, len);
    }
}

/// What is counted of a stream's feedback.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Feedback {
    /// NACK messages.
    pub nacks: u64,
    /// Packets that they named, each as often as it was.
    pub nack_packets: u64,
    /// Picture Loss Indications.
    pub plis: u64,
    /// Full Intra Requests.
    pub firs: u64,
    /// Round trip time, if reports have told it.
    pub round_trip_time: Option<Duration>,
}

/// What streams of one direction come to together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Packets that did not arrive by themselves.
    pub lost: u64,
    /// Packets that came or went as retransmissions.
    pub retransmitted: u64,
    /// NACK messages.
    pub nacks: u64,
    /// Picture Loss Indications.
    pub plis: u64,
    /// Full Intra Requests.
    pub firs: u64,
    /// Packets of the last interval between reports, expected and lost.
    pub lately: (u64, u64),
    /// Round trip times together, and of how many streams.
    pub round_trips: (Duration, u32),
}

impl Totals {
    /// Those of one stream.
    pub fn of(lost: u64, retransmitted: u64, feedback: Feedback, lately: (u64, u64)) -> Self {
        Self {
            lost,
            retransmitted,
            nacks: feedback.nacks,
            plis: feedback.plis,
            firs: feedback.firs,
            lately,
            round_trips: feedback
                .round_trip_time
                .map_or_else(Default::default, |it| (it, 1)),
        }
    }

    /// With those of others.
    pub fn and(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            retransmitted: self.retransmitted + other.retransmitted,
            nacks: self.nacks + other.nacks,
            plis: self.plis + other.plis,
            firs: self.firs + other.firs,
            lately: (
                self.lately.0 + other.lately.0,
                self.lately.1 + other.lately.1,
            ),
            round_trips: (
                self.round_trips.0 + other.round_trips.0,
                self.round_trips.1 + other.round_trips.1,
            ),
        }
    }

    /// What is left of them when their streams are gone: what is true of a moment
    /// only is not.
    pub fn gone(self) -> Self {
        Self {
            lately: Default::default(),
            round_trips: Default::default(),
            ..self
        }
    }
}

/// One RTP stream, sent or received, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamStats {
    /// SSRC.
    pub ssrc: u32,
    /// SSRC of its retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// RTP stream id (RFC 8852).
    pub rid: Option<String>,
    /// Packets that did not arrive by themselves.
    pub packets_lost: u64,
    /// The same in the last interval between reports, in 256ths.
    pub fraction_lost: u8,
    /// Packets that arrived and were not used: duplicates, too old, not
    /// authentic.
    pub packets_discarded: u64,
    /// Packets that came or went as retransmissions.
    pub packets_retransmitted: u64,
    /// Lost packets that a retransmission replaced.
    pub packets_repaired: u64,
    /// NACKs, keyframe requests and round trip time.
    pub feedback: Feedback,
    /// 0–10.
    pub score: u8,
    /// Units of the RTP clock.
    pub jitter: u32,
    /// Packets, retransmissions included.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Bits per second.
    pub bitrate: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let mut meter = Meter::default();
        assert_eq!((meter.bitrate(ms(0)), meter.bytes()), (0, 0));
        for n in 0..300 {
            meter.add(ms(n * 10), 125);
        }
        // 100 packets of 1,000 bits in each second.
        assert_eq!(meter.bitrate(ms(3000)), 100_000);
        assert_eq!(meter.bitrate(ms(3050)), 100_000);
        assert_eq!(meter.recent_bitrate(ms(3050)), 100_000);
        assert_eq!(meter.recent_bitrate(ms(3150)), 66_666);
        assert_eq!(meter.bitrate(ms(3500)), 50_000, "fades");
        assert_eq!(meter.bitrate(ms(4100)), 0);
        assert_eq!(meter.bitrate(ms(4_000_000)), 0);
        assert_eq!(meter.bytes(), 300 * 125);
        // After a silence nothing of old is left, however long it was.
        for silence in [1_000, 1_100, 1_150, 5_000, 1_000_000] {
            let mut meter = meter.clone();
            meter.add(ms(2990 + silence), 125);
            assert_eq!(meter.bitrate(ms(3090 + silence)), 1_000, "{silence}");
        }
        meter.add(ms(3490), 125);
        assert_eq!(meter.bitrate(ms(3490)), 60_000, "still being filled");
        assert_eq!(meter.bitrate(ms(3500)), 51_000);
        assert_eq!(meter.bitrate(ms(3600)), 41_000);
    }

    #[test]
    fn time_that_seems_to_go_back_harms_nothing() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let mut meter = Meter::default();
        meter.add(start, 10);
        meter.add(later, 10);
        meter.add(start, 10);
        assert_eq!(meter.bytes(), 30);
        assert_eq!(meter.bitrate(start), 0);
    }
}
