//! How long ticks of the media thread take: two histograms for one look at the
//! clock in each tick, never one for each packet.

use std::time::Duration;

use proto::HISTOGRAM_BOUNDS_MICROS as BOUNDS;

/// Durations in buckets.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum_micros: u64,
}

impl Histogram {
    /// The same duration so many times.
    fn add(&mut self, micros: u64, times: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += times;
        }
        let sum = micros.saturating_mul(times);
        self.sum_micros = self.sum_micros.saturating_add(sum);
    }
}

impl From<&Histogram> for proto::Histogram {
    fn from(histogram: &Histogram) -> Self {
        Self {
            counts: histogram.counts.to_vec(),
            sum_us: histogram.sum_micros,
        }
    }
}

/// The ticks so far.
#[derive(Debug, Default)]
pub struct Ticks {
    all: Histogram,
    of_packets: Histogram,
}

impl Ticks {
    /// One more, which forwarded so many RTP packets. Those had come within `waited`
    /// before it began and were sent before it ended, so none of them took longer.
    pub fn note(&mut self, took: Duration, waited: Duration, forwarded: u64) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.all.add(micros(took), 1);
        if forwarded > 0 {
            self.of_packets.add(micros(took + waited), forwarded);
        }
    }

    /// Each tick once.
    pub fn all(&self) -> &Histogram {
        &self.all
    }

    /// Each tick as often as it forwarded packets.
    pub fn of_packets(&self) -> &Histogram {
        &self.of_packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_by_how_long_they_took() {
        let mut ticks = Ticks::default();
        for (micros, forwarded) in [
            (0, 0),
            (50, 1),
            (51, 10),
            (100_000, 0),
            (100_001, 3),
            (9_000_000, 1),
        ] {
            ticks.note(Duration::from_micros(micros), Duration::ZERO, forwarded);
        }
        let all = proto::Histogram::from(ticks.all());
        assert_eq!(all.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(all.sum_us, 50 + 51 + 100_000 + 100_001 + 9_000_000);
        let packets = proto::Histogram::from(ticks.of_packets());
        assert_eq!(packets.counts, [1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(packets.sum_us, 50 + 510 + 300_003 + 9_000_000);
        ticks.note(Duration::from_micros(40), Duration::from_micros(30), 2);
        let sum = |histogram: &Histogram| proto::Histogram::from(histogram).sum_us;
        assert_eq!(sum(ticks.all()), all.sum_us + 40);
        assert_eq!(sum(ticks.of_packets()), packets.sum_us + 2 * 70);
    }
}
