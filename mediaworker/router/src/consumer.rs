//! A consumer: whether it gets a packet, and under which numbers.

use std::cmp::Ordering;
use std::num::NonZeroU8;
use std::time::Instant;

use crate::gate::{Gate, Pass, Seen};
use crate::layers::Layers;
use crate::numbers::Numbers;
use crate::producer::{Arrived, Producer};
use crate::sequence::Sequencer;
use crate::timestamp::{Clock, Edge, Source};
use crate::types::{
    ConsumerConfig, MAX_STREAMS, MediaKind, Payload, PreferredLayers, ProducerKey, RtpIn, Sink,
    Waiting,
};

#[derive(Debug)]
pub(crate) struct Consumer {
    producer: ProducerKey,
    sink: Sink,
    kind: MediaKind,
    paused: bool,
    /// What it gets; `None` while it is paused or waits to start.
    current: Option<Source>,
    /// Its producer has layers to tell about.
    layered: bool,
    /// Its producer's spatial layers are within one stream.
    svc: bool,
    preferred: PreferredLayers,
    /// What the bandwidth allows.
    target: Option<Layers>,
    priority: NonZeroU8,
    /// The layers that were told last.
    told: Option<Layers>,
    /// Since when it waits for a keyframe of which spatial layer.
    wait: Option<Wait>,
    /// The layers that flow in the stream that it gets.
    flowing: Layers,
    gate: Gate,
    sequencer: Sequencer,
    clock: Clock,
    numbers: Numbers,
}

/// A packet as one consumer gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    pub(crate) payload: Payload,
    pub(crate) frame_number: Option<u16>,
}

/// A wait for a keyframe.
#[derive(Clone, Copy, Debug)]
struct Wait {
    spatial: u8,
    since: Instant,
    /// How often the stream's client had been asked before.
    asked_before: u32,
}

/// What a packet is to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Forward(Place),
    /// Not forwarded, because this stream would be welcome but did not bring a keyframe.
    NeedsKeyFrame,
    Nothing,
    /// It is of a stream that the consumer neither gets nor waits for.
    NotIts,
}

impl Consumer {
    pub(crate) fn new(config: ConsumerConfig, producer: &Producer) -> Self {
        Self {
            producer: config.producer,
            sink: config.sink,
            kind: producer.kind(),
            paused: config.paused,
            current: None,
            layered: producer.is_layered(),
            svc: producer.is_svc(),
            preferred: PreferredLayers::HIGHEST,
            target: Some(Layers::HIGHEST),
            priority: NonZeroU8::MIN,
            told: None,
            wait: None,
            flowing: Layers::default(),
            gate: Gate::new(producer.dependency()),
            sequencer: Sequencer::new(config.initial_sequence),
            clock: Clock::new(producer.clock_rate(), config.initial_timestamp),
            numbers: Numbers::default(),
        }
    }

    pub(crate) fn producer(&self) -> ProducerKey {
        self.producer
    }

    pub(crate) fn sink(&self) -> Sink {
        self.sink
    }

    pub(crate) fn paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        if paused {
            self.stop();
        }
        self.paused = paused;
    }

    pub(crate) fn preferred(&self) -> PreferredLayers {
        self.preferred
    }

    pub(crate) fn set_preferred(&mut self, preferred: PreferredLayers) {
        let before = self.cap();
        self.preferred = preferred;
        self.forget_wait(before);
    }

    pub(crate) fn target(&self) -> Option<Layers> {
        self.target
    }

    pub(crate) fn set_target(&mut self, target: Option<Layers>) {
        if target.is_none() {
            self.stop();
        }
        let before = self.cap();
        self.target = target;
        self.forget_wait(before);
    }

    /// What it waits for may be something else after its highest spatial layer has changed.
    fn forget_wait(&mut self, before: Option<Layers>) {
        if self.cap().map(|cap| cap.spatial) != before.map(|cap| cap.spatial) {
            self.wait = None;
        }
    }

    /// What it wants, as far as that is a limit.
    fn wish(&self) -> Layers {
        let spatial = u8::try_from(self.preferred.spatial).unwrap_or(u8::MAX);
        Layers::new(spatial, self.preferred.temporal.unwrap_or(u8::MAX))
    }

    /// The highest layers that it should get; `None`: the bandwidth allows nothing.
    fn cap(&self) -> Option<Layers> {
        let target = self.target?;
        let spatial = target.spatial.min(self.wish().spatial);
        Some(self.temporal_cap(spatial, target))
    }

    /// A spatial layer with the highest temporal one that it should get of it.
    fn temporal_cap(&self, spatial: u8, target: Layers) -> Layers {
        // A limit of temporal layers is about the spatial one that it names. Below it there is none;
        // what is above has to make way, and takes as little room as it can until then.
        let within = |limit: Layers| match spatial.cmp(&limit.spatial) {
            Ordering::Less => u8::MAX,
            Ordering::Equal => limit.temporal,
            Ordering::Greater => 0,
        };
        Layers::new(spatial, within(target).min(within(self.wish())))
    }

    /// The highest stream that it should get; `None`: the bandwidth allows nothing.
    pub(crate) fn stream_cap(&self) -> Option<usize> {
        let cap = self.cap()?;
        Some(if self.svc {
            MAX_STREAMS - 1
        } else {
            usize::from(cap.spatial)
        })
    }

    /// What may pass of a stream.
    fn gate_cap(&self, stream: usize) -> Layers {
        if self.svc {
            return self.cap().unwrap_or_default();
        }
        let stream = u8::try_from(stream).unwrap_or(u8::MAX);
        let target = self.target.unwrap_or_default();
        Layers::new(u8::MAX, self.temporal_cap(stream, target).temporal)
    }

    pub(crate) fn current_layers(&self) -> Option<Layers> {
        let source = self.current?;
        let passing = self.gate.layers();
        let temporal = passing.map_or(u8::MAX, |layers| layers.temporal);
        let spatial = if self.svc {
            let passing = passing.map_or(u8::MAX, |layers| layers.spatial);
            passing.min(self.flowing.spatial)
        } else {
            u8::try_from(source.stream).unwrap_or(u8::MAX)
        };
        Some(Layers::new(spatial, temporal.min(self.flowing.temporal)))
    }

    /// What it waits for.
    pub(crate) fn waiting(&self, now: Instant, producer: &Producer) -> Option<Waiting> {
        if self.paused {
            return Some(Waiting::Resume);
        }
        if producer.is_paused() {
            return Some(Waiting::ProducerResume);
        }
        let Some(cap) = self.stream_cap() else {
            return Some(Waiting::Bandwidth);
        };
        if producer.selection(now).best(cap).is_none() {
            return Some(Waiting::Media);
        }
        let wait = self.wait.filter(|wait| match self.current_stream() {
            _ if self.svc => wait.spatial <= self.flowing.spatial,
            Some(current) => {
                let to = producer.selection(now).move_from(current, cap);
                to == Some(wait.spatial.into())
            }
            None => true,
        });
        if let Some(wait) = wait {
            let stream = if self.svc { 0 } else { wait.spatial.into() };
            let asked = producer.request(stream).map_or(0, |request| request.asked);
            return Some(Waiting::KeyFrame {
                spatial: wait.spatial,
                since: wait.since,
                requests: asked.wrapping_sub(wait.asked_before),
            });
        }
        let current = self.current_layers()?;
        let wanted = self.gate_cap(self.current_stream()?).temporal;
        let is_short = current.temporal < wanted.min(self.flowing.temporal);
        is_short.then_some(Waiting::SwitchPoint {
            temporal: current.temporal + 1,
        })
    }

    pub(crate) fn priority(&self) -> NonZeroU8 {
        self.priority
    }

    pub(crate) fn set_priority(&mut self, priority: NonZeroU8) {
        self.priority = priority;
    }

    /// The layers that it gets, if they are others than were told last.
    pub(crate) fn take_layer_change(&mut self) -> Option<Option<Layers>> {
        let current = self.current_layers();
        if !self.layered || current == self.told {
            return None;
        }
        self.told = current;
        Some(current)
    }

    pub(crate) fn current_stream(&self) -> Option<usize> {
        self.current.map(|source| source.stream)
    }

    /// Makes it start anew.
    pub(crate) fn stop(&mut self) {
        self.current = None;
        self.wait = None;
    }

    pub(crate) fn handle(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        if self.paused {
            return Verdict::Nothing;
        }
        let Some(cap) = self.stream_cap() else {
            return Verdict::Nothing;
        };
        match self.current {
            Some(current) if current == arrived.source => self.go_on(now, rtp, arrived),
            // Another source sends on the stream that it gets: nothing more comes of the old one.
            Some(current) if current.stream == arrived.source.stream => {
                self.stop();
                self.begin(now, rtp, arrived, cap)
            }
            Some(current)
                if arrived.selection.move_from(current.stream, cap) == Some(rtp.stream) =>
            {
                self.start_or_ask(now, rtp, arrived)
            }
            Some(_) => Verdict::NotIts,
            None => self.begin(now, rtp, arrived, cap),
        }
    }

    fn go_on(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        self.flowing = arrived.flowing.layers;
        // A late one without payload must go out: a number was kept for it.
        if rtp.payload.is_empty() && arrived.newest {
            self.sequencer.drop_newest(rtp.sequence);
            return Verdict::Nothing;
        }
        let mut marker = rtp.marker;
        let mut passes = true;
        let mut verdict = Verdict::Nothing;
        if let Some(seen) = seen(now, rtp, arrived) {
            let spatial = self.gate.layers().map(|layers| layers.spatial);
            match self.gate.decide(&seen, self.gate_cap(rtp.stream)) {
                Pass::Through { ends_picture } => marker = ends_picture,
                Pass::LeftOut => passes = false,
                Pass::NeedsKeyFrame(spatial) => {
                    passes = false;
                    self.note_wait(now, self.spatial(rtp.stream, spatial), arrived);
                    verdict = Verdict::NeedsKeyFrame;
                }
            }
            if self.svc && self.gate.layers().map(|layers| layers.spatial) != spatial {
                self.wait = None;
            }
            if !passes {
                self.numbers.leave_out(rtp.codec, seen.picture.id);
                marker = false;
            }
        }
        if !passes && arrived.newest {
            self.sequencer.drop_newest(rtp.sequence);
            return verdict;
        }
        let Some(sequence) = self.sequencer.map(rtp.sequence, marker) else {
            return verdict;
        };
        let timestamp = self.clock.map(now, rtp.timestamp, rtp.captured);
        self.place(rtp, arrived, sequence, timestamp, marker, passes)
    }

    fn place(
        &mut self,
        rtp: &RtpIn<'_>,
        arrived: &Arrived,
        sequence: u64,
        timestamp: u32,
        marker: bool,
        passes: bool,
    ) -> Verdict {
        let (payload, frame_number) = match arrived.picture {
            _ if !passes => (Payload::Empty, None),
            Some(picture) => {
                let descriptor = &arrived.descriptor;
                self.numbers
                    .map(rtp.codec, picture, descriptor, rtp.payload)
            }
            None => (Payload::Same, None),
        };
        Verdict::Forward(Place {
            sequence,
            timestamp,
            marker: marker && payload != Payload::Empty,
            payload,
            frame_number,
        })
    }

    /// A spatial layer as it is told: of simulcast, it is the stream.
    fn spatial(&self, stream: usize, within: u8) -> u8 {
        if self.svc {
            within
        } else {
            u8::try_from(stream).unwrap_or(u8::MAX)
        }
    }

    /// Starts with any stream that it may begin with, but asks only the best.
    fn begin(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived, cap: usize) -> Verdict {
        let selection = &arrived.selection;
        let starts = arrived.can_start && selection.may_begin(rtp.stream, cap);
        if starts || selection.best(cap) == Some(rtp.stream) {
            self.start_or_ask(now, rtp, arrived)
        } else {
            Verdict::Nothing
        }
    }

    fn start_or_ask(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        let is_video = self.kind == MediaKind::Video;
        if arrived.can_start {
            self.start(now, rtp, arrived, None)
        } else if is_video && !rtp.payload.is_empty() {
            self.note_wait(now, u8::try_from(rtp.stream).unwrap_or(u8::MAX), arrived);
            Verdict::NeedsKeyFrame
        } else {
            Verdict::Nothing
        }
    }

    /// Begins a run; of packets that are replayed up to an edge, if there is one.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        rtp: &RtpIn<'_>,
        arrived: &Arrived,
        edge: Option<Edge>,
    ) -> Verdict {
        self.current = Some(arrived.source);
        self.wait = None;
        self.flowing = arrived.flowing.layers;
        let mut marker = rtp.marker;
        match seen(now, rtp, arrived) {
            Some(seen) => {
                let cap = self.gate_cap(rtp.stream);
                self.gate.open(&seen, cap);
                if let Pass::Through { ends_picture } = self.gate.decide(&seen, cap) {
                    marker = ends_picture;
                }
                self.numbers.start(*seen.picture, seen.descriptor);
            }
            None => self.gate.close(),
        }
        let is_video = self.kind == MediaKind::Video;
        let sequence = self.sequencer.start(rtp.sequence, marker, is_video);
        match edge {
            Some(edge) => {
                self.clock
                    .start_replay(now, arrived.source, rtp.timestamp, edge);
            }
            None => {
                self.clock
                    .start(now, arrived.source, rtp.timestamp, rtp.captured);
            }
        }
        let timestamp = self.clock.map(now, rtp.timestamp, rtp.captured);
        self.place(rtp, arrived, sequence, timestamp, marker, true)
    }

    /// Remembers since when it waits for a keyframe.
    fn note_wait(&mut self, now: Instant, spatial: u8, arrived: &Arrived) {
        if self.wait.is_none_or(|wait| wait.spatial != spatial) {
            self.wait = Some(Wait {
                spatial,
                since: now,
                asked_before: arrived.asked,
            });
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.paused && self.current.is_some() {
            return Err("a paused consumer has a stream".into());
        }
        self.gate.check()?;
        self.numbers.check()?;
        self.sequencer.check()
    }
}

/// What the gate needs to know; `None` when pictures are not numbered.
fn seen<'a>(now: Instant, rtp: &RtpIn<'_>, arrived: &'a Arrived) -> Option<Seen<'a>> {
    Some(Seen {
        now,
        picture: arrived.picture.as_ref()?,
        descriptor: &arrived.descriptor,
        marker: rtp.marker,
        newest: arrived.newest,
        flowing: arrived.flowing,
        spatial_layers: arrived.spatial_layers,
    })
}
