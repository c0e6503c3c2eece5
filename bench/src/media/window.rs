//! What is counted while a scenario is measured.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Longest time that is told apart, microseconds: a minute.
const LONGEST: u64 = 60_000_000;
/// Reasons of failed transports that are kept; further ones are only counted.
const MAX_REASONS: usize = 5;

/// A histogram of microseconds, with three significant digits. `None` never
/// happens with these bounds; then nothing is recorded.
#[derive(Debug, Clone, Default)]
pub struct Times(Option<Histogram<u64>>);

impl Times {
    /// Records a time in microseconds; longer than a minute counts as a minute.
    pub fn record(&mut self, microseconds: u64) {
        if self.0.is_none() {
            self.0 = Histogram::new_with_bounds(1, LONGEST, 3).ok();
        }
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(microseconds.max(1));
        }
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The time that a share (0 to 1) of all did not exceed, milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let histogram = self.0.as_ref().filter(|h| !h.is_empty());
        let micros = histogram.map_or(0, |h| h.value_at_quantile(share));
        // At most a minute of microseconds: exact in an f64.
        f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1_000.0
    }
}

/// Sends that carried the same number of packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many sends.
    pub sends: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Counters of all transports since they were last taken.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// RTP packets received on announced streams, retransmissions and duplicates
    /// among them.
    pub received: u64,
    /// Their bytes, as UDP payload.
    pub received_bytes: u64,
    /// Packets that were decrypted and whose stamp was read.
    pub sampled: u64,
    /// Packets that should have been decrypted and could not.
    pub undecryptable: u64,
    /// Packets of streams that nobody has announced: probes for bandwidth, or
    /// what is left of a consumer that is closed.
    pub unknown: u64,
    /// Packets that came a second time.
    pub duplicates: u64,
    /// Packets that should have come, by sequence numbers.
    pub expected: u64,
    /// Those of them that came, the retransmitted too.
    pub unique: u64,
    /// Packets that were missing at first, whether they came later or not.
    pub gaps: u64,
    /// Packets that came by retransmission.
    pub recovered: u64,
    /// Packets sent to the server.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets of ours that the server asked for again.
    pub resent: u64,
    /// Keyframes that the server asked for.
    pub key_frame_requests: u64,
    /// From a packet's stamp to the kernel's receive time.
    pub latency: Times,
    /// How late the rod sent.
    pub lateness: Times,
    /// Sends of the server by the number of packets they carried. Empty unless
    /// aggregates are observed.
    pub runs: BTreeMap<usize, Runs>,
    /// Transports that failed.
    pub failed: u64,
    /// Why, the first few.
    pub reasons: Vec<String>,
}

impl Window {
    /// Counts a transport that failed.
    pub fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(reason);
        }
    }

    /// Share of packets that never came, 0 to 1.
    pub fn loss(&self) -> f64 {
        ratio(self.expected.saturating_sub(self.unique), self.expected)
    }
}

/// One count as a share of another; 0 of nothing.
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    float(part) / float(whole)
}

/// A count as a number for arithmetic. Counts here stay far below 2^53.
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_recorded() {
        let mut times = Times::default();
        assert_eq!((times.count(), times.quantile(0.5)), (0, 0.0));
        for millisecond in 1..=100 {
            times.record(millisecond * 1_000);
        }
        assert_eq!(times.count(), 100);
        for (share, expected) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let got = times.quantile(share);
            assert!((got - expected).abs() < 0.1, "{share}: {got}");
        }
        times.record(u64::MAX);
        assert!((times.quantile(1.0) - 60_000.0).abs() < 100.0);
    }

    #[test]
    fn loss_is_what_never_came() {
        let mut window = Window::default();
        assert!(window.loss().abs() < f64::EPSILON);
        window.expected = 200;
        window.unique = 199;
        assert!((window.loss() - 0.005).abs() < f64::EPSILON);
        window.unique = 201;
        assert!(window.loss().abs() < f64::EPSILON);
    }
}
