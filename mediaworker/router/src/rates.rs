//! How much each layer of a stream brings, measured over the last two seconds.
//!
//! What is counted is what a consumer costs: payloads, and [`OVERHEAD`] for each packet.
//! A packet costs one addition; nothing is walked but the few buckets of its own layer, and those
//! once per [`BUCKET`].

use std::time::{Duration, Instant};

use crate::layers::{Layers, MAX_TEMPORAL_LAYERS};
use crate::selection::{STEADY_AFTER, STREAM_TIMEOUT};

/// Most spatial layers within one stream (3 bits in VP9, RFC 9628; the AV1 dependency descriptor
/// has 2).
pub const MAX_SPATIAL_LAYERS: usize = 8;

/// Bytes of a packet around its payload: RTP header, extensions and authentication tag.
const OVERHEAD: usize = 40;

/// Bytes are counted in stretches of this length.
const BUCKET: Duration = Duration::from_millis(250);
const BUCKETS: usize = 8;

/// What has flowed for less than this is measured as if it had.
const LEAST: Duration = Duration::from_secs(1);

/// Bitrate of one layer.
#[derive(Clone, Debug)]
struct Meter {
    /// Start of the newest bucket.
    newest: Instant,
    /// First packet since the last silence.
    since: Instant,
    last: Instant,
    /// Bytes, the bucket that starts at `newest` at `at`, older ones before it, around the ring.
    bytes: [u32; BUCKETS],
    at: usize,
}

impl Meter {
    fn new(now: Instant) -> Self {
        Self {
            newest: now,
            since: now,
            last: now,
            bytes: [0; BUCKETS],
            at: 0,
        }
    }

    fn add(&mut self, now: Instant, len: usize) {
        if !self.is_active(now) {
            *self = Self::new(now);
        }
        while now.saturating_duration_since(self.newest) >= BUCKET {
            self.newest += BUCKET;
            self.at = (self.at + 1) % BUCKETS;
            if let Some(bucket) = self.bytes.get_mut(self.at) {
                *bucket = 0;
            }
        }
        self.last = self.last.max(now);
        if let Some(bucket) = self.bytes.get_mut(self.at) {
            *bucket = bucket.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        }
    }

    fn is_active(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < STREAM_TIMEOUT
    }

    /// Bits per second; `None` when nothing came for [`STREAM_TIMEOUT`].
    fn bitrate(&self, now: Instant) -> Option<u64> {
        if !self.is_active(now) {
            return None;
        }
        // Buckets that nothing was added to since: they left the window from its old end.
        let silent = now.saturating_duration_since(self.newest).as_millis() / BUCKET.as_millis();
        let kept = BUCKETS.saturating_sub(usize::try_from(silent).unwrap_or(BUCKETS));
        let sum: u64 = (0..kept)
            .filter_map(|age| self.bytes.get((self.at + BUCKETS - age) % BUCKETS))
            .map(|bytes| u64::from(*bytes))
            .sum();
        let in_bucket = now.saturating_duration_since(self.newest).as_nanos() % BUCKET.as_nanos();
        let full = BUCKET * (BUCKETS as u32 - 1);
        let window = full + Duration::from_nanos(u64::try_from(in_bucket).unwrap_or(0));
        let time = now
            .saturating_duration_since(self.since)
            .clamp(LEAST, window.max(LEAST));
        u64::try_from(u128::from(sum) * 8_000_000_000 / time.as_nanos()).ok()
    }
}

/// The highest layers that flow in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flowing {
    pub(crate) layers: Layers,
    /// The highest spatial layer that has flowed for [`STEADY_AFTER`].
    pub(crate) steady_spatial: u8,
}

/// The bitrates of the layers of one stream.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// By spatial, then by temporal layer; grows up to the highest that was seen, so at most
    /// [`MAX_SPATIAL_LAYERS`] × [`MAX_TEMPORAL_LAYERS`].
    meters: Vec<Option<Meter>>,
    flowing: Flowing,
    /// When `flowing` was worked out.
    looked: Option<Instant>,
}

impl Rates {
    /// Counts a packet with a payload of `len` bytes. Layers out of range are ignored.
    pub(crate) fn add(&mut self, now: Instant, layers: Layers, len: usize) {
        let (spatial, temporal) = (usize::from(layers.spatial), usize::from(layers.temporal));
        if spatial >= MAX_SPATIAL_LAYERS || temporal >= MAX_TEMPORAL_LAYERS {
            return;
        }
        let index = spatial * MAX_TEMPORAL_LAYERS + temporal;
        if self.meters.len() <= index {
            self.meters.resize(index + 1, None);
        }
        if let Some(place) = self.meters.get_mut(index) {
            place
                .get_or_insert_with(|| Meter::new(now))
                .add(now, len + OVERHEAD);
        }
        let Layers { spatial, temporal } = self.flowing.layers;
        let is_higher = layers.spatial > spatial || layers.temporal > temporal;
        let is_due = |looked: Instant| now.saturating_duration_since(looked) >= BUCKET;
        if is_higher || self.looked.is_none_or(is_due) {
            self.look(now);
        }
    }

    /// The highest layers that flow, as of a moment ago.
    pub(crate) fn flowing(&self) -> Flowing {
        self.flowing
    }

    fn look(&mut self, now: Instant) {
        let mut found = Flowing::default();
        for (layers, meter) in self.meters() {
            if meter.is_active(now) {
                found.layers.spatial = found.layers.spatial.max(layers.spatial);
                found.layers.temporal = found.layers.temporal.max(layers.temporal);
                if now.saturating_duration_since(meter.since) >= STEADY_AFTER {
                    found.steady_spatial = found.steady_spatial.max(layers.spatial);
                }
            }
        }
        self.flowing = found;
        self.looked = Some(now);
    }

    fn meters(&self) -> impl Iterator<Item = (Layers, &Meter)> {
        (0u8..).zip(&self.meters).filter_map(|(index, meter)| {
            let temporal_layers = MAX_TEMPORAL_LAYERS as u8;
            let layers = Layers::new(index / temporal_layers, index % temporal_layers);
            Some((layers, meter.as_ref()?))
        })
    }

    /// The layers that flow, each alone, lowest first, with bits per second.
    pub(crate) fn iter(&self, now: Instant) -> impl Iterator<Item = (Layers, u64)> + '_ {
        self.meters()
            .filter_map(move |(layers, meter)| Some((layers, meter.bitrate(now)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_flow_is_measured_as_it_is() {
        let start = Instant::now();
        let mut rates = Rates::default();
        // 1,000 bytes every 10 ms with all that is around: 800 kbit/s.
        for step in 0..600 {
            let now = start + 10 * step * MS;
            rates.add(now, Layers::new(1, 2), 1000 - OVERHEAD);
            let (layers, bitrate) = rates.iter(now).next().unwrap();
            assert_eq!(layers, Layers::new(1, 2));
            if step >= 100 {
                assert!((780_000..820_000).contains(&bitrate), "{step}: {bitrate}");
            } else {
                assert!(bitrate <= 808_000, "{step}: {bitrate}");
            }
        }
        let expected = Flowing {
            layers: Layers::new(1, 2),
            steady_spatial: 1,
        };
        assert_eq!(rates.flowing(), expected);
    }

    #[test]
    fn what_stops_fades_and_disappears() {
        let start = Instant::now();
        let mut rates = Rates::default();
        for step in 0..300 {
            rates.add(start + 10 * step * MS, Layers::new(0, 1), 1000 - OVERHEAD);
        }
        let last = start + 2990 * MS;
        let at = |ms: u32| {
            rates
                .iter(last + ms * MS)
                .next()
                .map(|(_, bitrate)| bitrate)
        };
        let half = at(1000).unwrap();
        assert!((380_000..520_000).contains(&half), "{half}");
        assert_eq!(at(1999).map(|bitrate| bitrate < 150_000), Some(true));
        assert_eq!(at(2000), None);
        rates.add(last + 2000 * MS, Layers::new(0, 0), 1000);
        assert_eq!(rates.flowing(), Flowing::default());
        // It comes back as new.
        rates.add(last + 10_000 * MS, Layers::new(0, 1), 1000 - OVERHEAD);
        let again = rates.iter(last + 10_000 * MS).next().unwrap();
        assert_eq!(again, (Layers::new(0, 1), 8_000));
    }

    #[test]
    fn layers_are_listed_lowest_first_and_bounded() {
        let now = Instant::now();
        let mut rates = Rates::default();
        for (spatial, temporal) in [(7, 7), (0, 1), (1, 0), (0, 0), (8, 0), (0, 8), (255, 255)] {
            rates.add(now, Layers::new(spatial, temporal), 1);
        }
        let listed: Vec<_> = rates.iter(now).map(|(layers, _)| layers).collect();
        let expected = [(0, 0), (0, 1), (1, 0), (7, 7)].map(|(s, t)| Layers::new(s, t));
        assert_eq!(listed, expected);
    }
}
