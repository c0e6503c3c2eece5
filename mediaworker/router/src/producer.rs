//! A producer: its streams, its pause, and who consumes it.

use std::time::Instant;

use crate::dominant::Speech;
use crate::error::Error;
use crate::key_frame_request::KeyFrameRequest;
use crate::layers::{LayerCosts, Layers, MAX_TEMPORAL_LAYERS};
use crate::payload::Descriptor;
use crate::picture::Picture;
use crate::rates::Flowing;
use crate::selection::{Activity, Selection};
use crate::speakers::Levels;
use crate::stream::Stream;
use crate::timestamp::Source;
use crate::types::{
    ConsumerKey, MAX_STREAMS, MediaKind, ProducerConfig, RtpIn, SpatialDependency, StreamLayers,
};

#[derive(Debug)]
pub(crate) struct Producer {
    kind: MediaKind,
    clock_rate: u32,
    streams: Vec<Stream>,
    paused_at: Option<Instant>,
    layers: StreamLayers,
    /// How loud it was in the current interval.
    pub(crate) levels: Levels,
    /// What it said in the last second.
    pub(crate) speech: Speech,
    /// In order of creation.
    pub(crate) consumers: Vec<ConsumerKey>,
}

/// A packet that consumers may get, with what they need to know to decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) source: Source,
    /// No newer packet of this source was there before.
    pub(crate) newest: bool,
    /// A consumer can begin with it.
    pub(crate) can_start: bool,
    pub(crate) descriptor: Descriptor,
    /// `None` where pictures are not numbered.
    pub(crate) picture: Option<Picture>,
    /// The layers that flow in its stream.
    pub(crate) flowing: Flowing,
    /// How many spatial layers its stream is said to have.
    pub(crate) spatial_layers: u8,
    pub(crate) selection: Selection,
    /// How often the stream's client was asked for a keyframe.
    pub(crate) asked: u32,
}

impl Producer {
    pub(crate) fn new(now: Instant, config: ProducerConfig) -> Result<Self, Error> {
        let ProducerConfig {
            kind,
            clock_rate,
            streams,
            paused,
            layers,
        } = config;
        if !(1..=MAX_STREAMS).contains(&streams) {
            return Err(Error::Streams);
        }
        if clock_rate == 0 {
            return Err(Error::ClockRate);
        }
        Ok(Self {
            kind,
            clock_rate,
            streams: std::iter::repeat_with(Stream::default)
                .take(streams)
                .collect(),
            paused_at: paused.then_some(now),
            layers,
            levels: Levels::default(),
            speech: Speech::default(),
            consumers: Vec::new(),
        })
    }

    pub(crate) fn kind(&self) -> MediaKind {
        self.kind
    }

    pub(crate) fn clock_rate(&self) -> u32 {
        self.clock_rate
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused_at.is_some()
    }

    pub(crate) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// How spatial layers within a stream depend on each other; simulcast streams have none.
    pub(crate) fn dependency(&self) -> SpatialDependency {
        if self.is_svc() {
            self.layers.dependency
        } else {
            SpatialDependency::Always
        }
    }

    /// Its spatial layers are within its only stream.
    pub(crate) fn is_svc(&self) -> bool {
        self.streams.len() == 1 && self.layers.spatial > 1
    }

    /// It says that it has layers.
    pub(crate) fn is_layered(&self) -> bool {
        self.streams.len() > 1 || self.layers.spatial > 1 || self.layers.temporal > 1
    }

    /// Index of the highest spatial layer that it says to have.
    pub(crate) fn highest_spatial(&self) -> usize {
        if self.is_svc() {
            usize::from(self.layers.spatial) - 1
        } else {
            self.streams.len() - 1
        }
    }

    /// The bitrates of the layers within each stream, with its index.
    fn rates(&self, now: Instant) -> impl Iterator<Item = (u8, Layers, u64)> + '_ {
        (0u8..).zip(&self.streams).flat_map(move |(index, stream)| {
            let all = stream.rates.iter(now);
            all.map(move |(layers, bitrate)| (index, layers, bitrate))
        })
    }

    pub(crate) fn layer_bitrates(&self, now: Instant) -> impl Iterator<Item = (Layers, u64)> + '_ {
        let single = self.streams.len() == 1;
        self.rates(now).map(move |(index, layers, bitrate)| {
            let spatial = if single { layers.spatial } else { index };
            (Layers::new(spatial, layers.temporal), bitrate)
        })
    }

    pub(crate) fn set_health(&mut self, stream: usize, healthy: bool) -> Result<(), Error> {
        self.streams.get_mut(stream).ok_or(Error::Streams)?.failing = !healthy;
        Ok(())
    }

    pub(crate) fn layer_costs(&self, now: Instant) -> LayerCosts {
        let (svc, selection) = (self.is_svc(), self.selection(now));
        let mut alone = LayerCosts::default();
        let mut highest = None;
        for (index, layers, bitrate) in self.rates(now) {
            if !selection.is_active(index.into()) {
                continue;
            }
            // Unless they are told apart, the spatial layers within a stream come as one.
            let spatial = if svc { layers.spatial } else { index };
            let layers = Layers::new(spatial, layers.temporal);
            alone.set(layers, alone.get(layers).unwrap_or(0) + bitrate);
            highest = Some(layers);
        }
        let mut costs = LayerCosts::default();
        let Some(highest) = highest else {
            return costs;
        };
        let is_cumulative = svc && self.layers.dependency == SpatialDependency::Always;
        for spatial in 0..=highest.spatial {
            let lowest = if is_cumulative { 0 } else { spatial };
            let flows = |temporal| alone.get(Layers::new(spatial, temporal)).is_some();
            let temporals = (0..MAX_TEMPORAL_LAYERS as u8).filter(|t| flows(*t));
            for temporal in temporals {
                let below = |(layers, _): &(Layers, u64)| {
                    (lowest..=spatial).contains(&layers.spatial) && layers.temporal <= temporal
                };
                let cost = alone.iter().filter(below).map(|(_, bitrate)| bitrate).sum();
                costs.set(Layers::new(spatial, temporal), cost);
            }
        }
        costs
    }

    pub(crate) fn was_seen(&self, stream: usize) -> bool {
        self.streams.get(stream).is_some_and(Stream::was_seen)
    }

    pub(crate) fn request(&self, stream: usize) -> Option<&KeyFrameRequest> {
        self.streams.get(stream).map(|stream| &stream.request)
    }

    pub(crate) fn request_mut(&mut self, stream: usize) -> Option<&mut KeyFrameRequest> {
        self.streams
            .get_mut(stream)
            .map(|stream| &mut stream.request)
    }

    /// Whether a keyframe was wanted before the stream was seen, and still is.
    pub(crate) fn has_kept_request(&self, stream: usize) -> bool {
        self.request(stream)
            .is_some_and(|request| request.is_wanted() && !request.waiting)
    }

    pub(crate) fn pause(&mut self, now: Instant) {
        if self.paused_at.is_some() {
            return;
        }
        self.paused_at = Some(now);
        self.levels = Levels::default();
        self.speech = Speech::default();
        for stream in &mut self.streams {
            stream.request.clear();
        }
    }

    /// Ends the pause. Streams that flowed when it began count as flowing now: their client needs
    /// a moment to send again.
    pub(crate) fn resume(&mut self, now: Instant) {
        let Some(paused_at) = self.paused_at.take() else {
            return;
        };
        for activity in self
            .streams
            .iter_mut()
            .filter_map(|stream| stream.activity.as_mut())
        {
            if activity.is_active(paused_at) {
                *activity = Activity::new(now);
            }
        }
    }

    pub(crate) fn restart_stream(&mut self, stream: usize) -> Result<(), Error> {
        self.streams
            .get_mut(stream)
            .ok_or(Error::Streams)?
            .restart();
        Ok(())
    }

    /// Takes note of a packet; `None` when nobody is to get it.
    pub(crate) fn receive(&mut self, now: Instant, rtp: &RtpIn<'_>) -> Option<Arrived> {
        let stream = self.streams.get_mut(rtp.stream)?;
        let accepted = stream.receive(now, self.kind, rtp)?;
        let source = Source {
            stream: rtp.stream,
            epoch: stream.epoch,
        };
        let asked = stream.request.asked;
        let flowing = stream.rates.flowing();
        Some(Arrived {
            source,
            asked,
            newest: accepted.newest,
            can_start: accepted.can_start,
            descriptor: accepted.descriptor,
            picture: accepted.picture,
            flowing,
            spatial_layers: self.layers.spatial,
            selection: self.selection(now),
        })
    }

    /// A packet that arrived before as if it did now, in order; `None` when its source is gone.
    pub(crate) fn again(&self, kept: &Arrived, selection: Selection) -> Option<Arrived> {
        let stream = self.streams.get(kept.source.stream)?;
        (stream.epoch == kept.source.epoch).then(|| Arrived {
            newest: true,
            flowing: stream.rates.flowing(),
            selection,
            asked: stream.request.asked,
            ..*kept
        })
    }

    /// The stream to ask for a keyframe on behalf of a consumer that gets `current` and wants none
    /// above `cap`; `None` when nothing was ever seen.
    pub(crate) fn stream_to_ask(
        &self,
        now: Instant,
        current: Option<usize>,
        cap: usize,
    ) -> Option<usize> {
        let selection = self.selection(now);
        current
            .filter(|stream| selection.is_active(*stream))
            .or_else(|| selection.best(cap))
            .or_else(|| self.streams.iter().rposition(Stream::was_seen))
    }

    pub(crate) fn selection(&self, now: Instant) -> Selection {
        Selection::new(now, self.streams.iter().map(|s| (s.activity, !s.failing)))
    }
}
