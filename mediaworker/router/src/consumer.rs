//! A consumer: whether it gets a packet, and under which numbers.

use std::num::NonZeroU8;
use std::time::Instant;

use crate::layers::Layers;
use crate::producer::{Arrived, Producer};
use crate::sequence::Sequencer;
use crate::timestamp::{Clock, Source};
use crate::types::{
    ConsumerConfig, MAX_STREAMS, MediaKind, PreferredLayers, ProducerKey, RtpIn, Sink, Waiting,
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
    sequencer: Sequencer,
    clock: Clock,
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
    Forward {
        sequence: u64,
        timestamp: u32,
    },
    /// Not forwarded, because this stream would be welcome but did not bring a keyframe.
    NeedsKeyFrame,
    Nothing,
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
            sequencer: Sequencer::new(config.initial_sequence),
            clock: Clock::new(producer.clock_rate(), config.initial_timestamp),
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
        self.preferred = preferred;
    }

    pub(crate) fn target(&self) -> Option<Layers> {
        self.target
    }

    pub(crate) fn set_target(&mut self, target: Option<Layers>) {
        if target.is_none() {
            self.stop();
        }
        self.target = target;
    }

    /// The highest layers that it should get; `None`: the bandwidth allows nothing.
    fn cap(&self) -> Option<Layers> {
        let target = self.target?;
        let preferred = Layers::new(
            u8::try_from(self.preferred.spatial).unwrap_or(u8::MAX),
            self.preferred.temporal.unwrap_or(u8::MAX),
        );
        // What the wish says about temporal layers is about the spatial one that it names.
        let temporal = if target.spatial < preferred.spatial {
            target.temporal
        } else {
            target.temporal.min(preferred.temporal)
        };
        Some(Layers::new(target.spatial.min(preferred.spatial), temporal))
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

    pub(crate) fn current_layers(&self) -> Option<Layers> {
        let source = self.current?;
        let stream = u8::try_from(source.stream).unwrap_or(u8::MAX);
        Some(Layers::new(stream, 0))
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
        let wait = self.wait?;
        let stream = if self.svc {
            0
        } else {
            usize::from(wait.spatial)
        };
        let asked = producer.request(stream).map_or(0, |request| request.asked);
        Some(Waiting::KeyFrame {
            spatial: wait.spatial,
            since: wait.since,
            requests: asked.wrapping_sub(wait.asked_before),
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
            Some(_) => Verdict::Nothing,
            None => self.begin(now, rtp, arrived, cap),
        }
    }

    fn go_on(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        // A late one without payload must go out: a number was kept for it.
        if rtp.payload.is_empty() && arrived.newest {
            self.sequencer.drop_newest(rtp.sequence);
            return Verdict::Nothing;
        }
        match self.sequencer.map(rtp.sequence, rtp.marker) {
            Some(sequence) => {
                let timestamp = self.clock.map(now, rtp.timestamp, rtp.captured);
                Verdict::Forward {
                    sequence,
                    timestamp,
                }
            }
            None => Verdict::Nothing,
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
            self.current = Some(arrived.source);
            self.wait = None;
            let sequence = self.sequencer.start(rtp.sequence, rtp.marker, is_video);
            self.clock
                .start(now, arrived.source, rtp.timestamp, rtp.captured);
            let timestamp = self.clock.map(now, rtp.timestamp, rtp.captured);
            Verdict::Forward {
                sequence,
                timestamp,
            }
        } else if is_video && !rtp.payload.is_empty() {
            self.note_wait(now, u8::try_from(rtp.stream).unwrap_or(u8::MAX), arrived);
            Verdict::NeedsKeyFrame
        } else {
            Verdict::Nothing
        }
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
        self.sequencer.check()
    }
}
