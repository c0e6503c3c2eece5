//! What can be sent to a client: str0m's estimate by transport-cc feedback, or
//! the client's own by REMB.

use std::time::{Duration, Instant};

use str0m::bwe::BweKind;
use str0m::stats::PeerStats;

use super::TransportError;

/// Time for a client to send its first feedback. One that has negotiated feedback
/// and sends none is taken for one without: nothing is known of its bandwidth.
const FEEDBACK_WITHIN: Duration = Duration::from_secs(5);

/// Down to this share of what it was, in percent, an estimate is one more swing
/// around the truth, and averaged; two in a row below that are another link. One
/// may be no more than a key frame that came in a burst.
const STEADY_PERCENT: u64 = 75;
/// A new estimate makes up one part in this many of the average.
const WEIGHT: u64 = 3;

/// Time between two probes for bandwidth that is wanted. A probe takes a few packets,
/// and as many milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Changes of what is desired up to this share, in percent, are not told.
const SAME_PERCENT: u64 = 5;

/// Least that is taken for available unless the transport was created with
/// another minimum, bits per second.
const DEFAULT_MIN: u64 = 30_000;
/// What is taken for available at first unless the transport was created with
/// another value, bits per second.
const DEFAULT_INITIAL: u64 = 1_000_000;

/// Bounds of what is taken for available towards a client, bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitrateLimits {
    /// Before anything is known.
    pub initial: u64,
    /// Never less.
    pub min: u64,
    /// Never more.
    pub max: Option<u64>,
}

impl Default for BitrateLimits {
    fn default() -> Self {
        Self {
            initial: DEFAULT_INITIAL,
            min: DEFAULT_MIN,
            max: None,
        }
    }
}

impl BitrateLimits {
    /// Limits with defaults for what is not given.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for a minimum above the maximum or a maximum
    /// of 0.
    pub fn new(
        initial: Option<u64>,
        min: Option<u64>,
        max: Option<u64>,
    ) -> Result<Self, TransportError> {
        let min = min.unwrap_or_else(|| DEFAULT_MIN.min(max.unwrap_or(DEFAULT_MIN)));
        if max.is_some_and(|max| max == 0 || max < min) {
            return Err(TransportError::Invalid(format!(
                "max_outgoing_bitrate: must be positive, and at least min_outgoing_bitrate ({min})"
            )));
        }
        let initial = initial.unwrap_or(DEFAULT_INITIAL);
        Ok(Self {
            initial: initial.clamp(min, max.unwrap_or(u64::MAX)),
            min,
            max,
        })
    }

    fn apply(&self, bitrate: u64) -> u64 {
        bitrate.clamp(self.min, self.max.unwrap_or(u64::MAX))
    }
}

/// What is known of the way to one client.
#[derive(Debug)]
pub struct Bandwidth {
    limits: BitrateLimits,
    /// Bits per second; `None` while nobody can estimate.
    estimate: Option<u64>,
    /// The last one, if it was much lower.
    low: Option<u64>,
    /// str0m estimates by transport-cc.
    can_probe: bool,
    /// Feedback has come.
    proven: bool,
    round_trip_time: Option<Duration>,
    /// When video began to flow.
    began: Option<Instant>,
    /// What str0m was told to be desired.
    asked: u64,
    /// When it was told so in order to probe.
    probed: Option<Instant>,
}

impl Bandwidth {
    /// Nothing is known yet.
    pub fn new(limits: BitrateLimits) -> Self {
        Self {
            limits,
            estimate: None,
            low: None,
            can_probe: false,
            proven: false,
            round_trip_time: None,
            began: None,
            asked: 0,
            probed: None,
        }
    }

    /// Its bounds.
    pub fn limits(&self) -> BitrateLimits {
        self.limits
    }

    /// Takes in an estimate. True: another one is available now.
    pub fn handle_estimate(&mut self, kind: &BweKind) -> bool {
        let before = self.estimate;
        match kind {
            BweKind::Twcc {
                estimate,
                can_probe,
            } => {
                // What comes later is told by `handle_stats` without delay. When
                // the last consumer with transport-cc goes, so does the estimate.
                if *can_probe != self.can_probe {
                    self.estimate = can_probe.then_some(estimate.as_u64());
                }
                self.can_probe = *can_probe;
            }
            BweKind::Remb { estimate, .. } => {
                self.proven = true;
                self.estimate = Some(estimate.as_u64());
            }
            _ => {}
        }
        self.estimate != before
    }

    /// Takes in what str0m counts, its estimate among it. True: another one is
    /// available now.
    pub fn handle_stats(&mut self, stats: &PeerStats) -> bool {
        self.round_trip_time = stats.rtt.or(self.round_trip_time);
        // It is measured by transport-cc feedback.
        self.proven |= stats.rtt.is_some();
        let before = self.estimate;
        if self.can_probe
            && let Some(raw) = stats.bwe_tx
        {
            let raw = raw.as_u64();
            self.estimate = Some(self.average(raw));
        }
        self.estimate != before
    }

    /// What str0m is told to be desired.
    fn aim(&self, desired: u64) -> u64 {
        let estimate = self.estimate.unwrap_or(0);
        if estimate >= 2 * desired.max(self.limits.initial) {
            return 0;
        }
        // str0m probes for up to twice of it, however narrow the link is known to
        // be. What is found leads to the next step.
        let step = estimate * 3 / 2;
        desired
            .min(step)
            .max(self.limits.initial.min(step))
            .min(self.limits.max.unwrap_or(u64::MAX))
    }

    /// The average with a new estimate.
    fn average(&mut self, raw: u64) -> u64 {
        let Some(before) = self.estimate else {
            return raw;
        };
        if raw * 100 >= before * STEADY_PERCENT {
            self.low = None;
            return (before * (WEIGHT - 1) + raw) / WEIGHT;
        }
        match self.low.replace(raw) {
            Some(low) => low.max(raw),
            None => before,
        }
    }

    /// Takes note of what would be welcome, bits per second; video flows from now on.
    /// Answers what str0m has to be told, if anything.
    ///
    /// str0m probes when more is desired than before. It does so by itself only where
    /// much less is sent than is available, which is not so on a narrow link that
    /// has become wide again.
    pub fn want(&mut self, now: Instant, desired: u64, wants_more: bool) -> Option<u64> {
        self.began.get_or_insert(now);
        let desired = self.aim(desired);
        let is_other = desired.abs_diff(self.asked) * 100 > self.asked * SAME_PERCENT;
        let waited = |at: Instant| now.saturating_duration_since(at) >= PROBE_INTERVAL;
        let asked = if is_other {
            desired
        } else if wants_more && self.probed.is_none_or(waited) {
            self.probed = Some(now);
            // Any step up will do.
            self.asked + 1
        } else {
            return None;
        };
        self.asked = asked;
        Some(asked)
    }

    /// What can be sent, bits per second; `None` when nothing limits it, because
    /// the client has not negotiated feedback, or does not send any.
    pub fn available(&self, now: Instant) -> Option<u64> {
        let waited = self
            .began
            .map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let is_known = self.proven || waited < FEEDBACK_WITHIN;
        self.estimate
            .filter(|_| is_known)
            .map(|estimate| self.limits.apply(estimate))
            .or(self.limits.max)
    }

    /// Round trip time by transport-cc feedback.
    pub fn round_trip_time(&self) -> Option<Duration> {
        self.round_trip_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use str0m::bwe::Bitrate;

    fn twcc(bps: u64, can_probe: bool) -> BweKind {
        BweKind::Twcc {
            estimate: Bitrate::bps(bps),
            can_probe,
        }
    }

    #[test]
    fn limits_are_checked_and_kept() {
        let limits = |initial, min, max| BitrateLimits::new(initial, min, max);
        assert_eq!(limits(None, None, None), Ok(BitrateLimits::default()));
        assert_eq!(limits(None, None, Some(500_000)).unwrap().initial, 500_000);
        assert_eq!(
            limits(None, Some(2_000_000), None).unwrap().initial,
            2_000_000
        );
        assert_eq!(limits(None, None, Some(10_000)).unwrap().min, 10_000);
        for (min, max) in [(None, Some(0)), (Some(2), Some(1))] {
            let error = limits(None, min, max).unwrap_err().to_string();
            assert!(error.starts_with("max_outgoing_bitrate: "), "{error}");
        }
        let now = Instant::now();
        let mut bandwidth = Bandwidth::new(limits(None, Some(100), Some(1000)).unwrap());
        for (estimate, available) in [(50, 100), (500, 500), (5000, 1000)] {
            bandwidth.handle_estimate(&twcc(estimate, true));
            assert_eq!(bandwidth.available(now), Some(available));
        }
    }

    #[test]
    fn who_sends_no_feedback_is_not_limited() {
        let start = Instant::now();
        let later = start + FEEDBACK_WITHIN;
        let mut bandwidth = Bandwidth::new(BitrateLimits::default());
        assert_eq!(bandwidth.available(start), None);
        assert!(bandwidth.handle_estimate(&twcc(1_000_000, true)));
        assert_eq!(bandwidth.want(start, 1, false), Some(1));
        assert_eq!(bandwidth.available(start), Some(1_000_000));
        assert_eq!(bandwidth.available(later), None);
        assert!(!bandwidth.handle_estimate(&twcc(1_000_000, true)));
        let remb = BweKind::Remb {
            estimate: Bitrate::bps(300_000),
            mid: "0".into(),
        };
        assert!(bandwidth.handle_estimate(&remb));
        assert_eq!(bandwidth.available(later), Some(300_000));
        assert!(bandwidth.handle_estimate(&twcc(1, false)));
        assert_eq!(bandwidth.available(later), None);
    }
}
