//! What is counted of the producers of a transport.

use std::time::Instant;

use router::ProducerKey;

use super::inbound::Inbound;
use super::{Entry, Orientation, Receiving};
use crate::transport::stats::{StreamStats, Totals};

/// Score of one encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodingScore {
    /// Index of the encoding.
    pub stream: usize,
    /// Its SSRC.
    pub ssrc: u32,
    /// Its RTP stream id.
    pub rid: Option<String>,
    /// 0–10.
    pub score: u8,
}

impl Entry {
    fn seen(&self) -> impl Iterator<Item = (usize, &Inbound)> {
        let all = self.streams.iter().enumerate();
        all.filter_map(|(place, stream)| Some((place, stream.inbound.as_ref()?)))
    }
}

impl Receiving {
    /// A producer is paused, or not any more: its silence means nothing then.
    pub fn set_paused(&mut self, now: Instant, producer: ProducerKey, paused: bool) {
        let entry = self.entries.iter_mut().find(|e| e.key == producer);
        if let Some(entry) = entry.filter(|e| e.paused != paused) {
            entry.paused = paused;
            let streams = entry.streams.iter_mut();
            for inbound in streams.filter_map(|it| it.inbound.as_mut()) {
                inbound.set_paused(now, paused);
            }
        }
    }

    /// Scores of a producer's encodings that have been seen, lowest first.
    pub fn scores(&self, now: Instant, producer: ProducerKey) -> Vec<EncodingScore> {
        let Some(entry) = self.entries.iter().find(|e| e.key == producer) else {
            return Vec::new();
        };
        entry
            .seen()
            .map(|(stream, inbound)| EncodingScore {
                stream,
                ssrc: inbound.ssrc(),
                rid: entry.spec.encodings.get(stream).and_then(|e| e.rid.clone()),
                score: inbound.score(now),
            })
            .collect()
    }

    /// Statistics of a producer's encodings that have been seen, lowest first,
    /// each with its index.
    pub fn stats(&self, now: Instant, producer: ProducerKey) -> Vec<(usize, StreamStats)> {
        let Some(entry) = self.entries.iter().find(|e| e.key == producer) else {
            return Vec::new();
        };
        entry
            .seen()
            .map(|(stream, inbound)| {
                let encoding = entry.spec.encodings.get(stream);
                let stats = StreamStats {
                    rtx_ssrc: entry.streams.get(stream).and_then(|e| e.rtx_ssrc),
                    rid: encoding.and_then(|e| e.rid.clone()),
                    ..inbound.stats(now)
                };
                (stream, stats)
            })
            .collect()
    }

    /// How a producer's pictures have to be turned, once they have told.
    pub fn orientation(&self, producer: ProducerKey) -> Option<Orientation> {
        let entry = self.entries.iter().find(|e| e.key == producer)?;
        entry.orientation
    }

    /// Bits per second of one encoding.
    pub fn bitrate(&self, now: Instant, producer: ProducerKey, stream: usize) -> u64 {
        let entry = self.entries.iter().find(|e| e.key == producer);
        let inbound = entry.and_then(|e| e.streams.get(stream)?.inbound.as_ref());
        inbound.map_or(0, |inbound| inbound.bitrate(now))
    }

    /// What the encodings of a producer come to.
    pub fn totals_of(&self, producer: ProducerKey) -> Totals {
        let entry = self.entries.iter().find(|it| it.key == producer);
        let seen = entry.into_iter().flat_map(Entry::seen);
        let totals = seen.map(|(_, inbound)| inbound.totals());
        totals.fold(Totals::default(), Totals::and)
    }

    /// What all encodings come to.
    pub fn totals(&self) -> Totals {
        let seen = self.entries.iter().flat_map(Entry::seen);
        let totals = seen.map(|(_, inbound)| inbound.totals());
        totals.fold(Totals::default(), Totals::and)
    }

    /// Packets expected and lost in the last intervals of all encodings.
    pub fn loss(&self) -> (u64, u64) {
        self.entries
            .iter()
            .flat_map(Entry::seen)
            .map(|(_, inbound)| inbound.interval())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
