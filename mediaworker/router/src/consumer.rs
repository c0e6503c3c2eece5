//! A consumer: whether it gets a packet, and under which numbers.

use std::num::NonZeroU8;
use std::time::Instant;

use crate::producer::{Arrived, Producer};
use crate::sequence::Sequencer;
use crate::timestamp::{Clock, Source};
use crate::types::{ConsumerConfig, MediaKind, PreferredLayers, ProducerKey, RtpIn, Sink};

#[derive(Debug)]
pub(crate) struct Consumer {
    producer: ProducerKey,
    sink: Sink,
    kind: MediaKind,
    paused: bool,
    /// What it gets; `None` while it is paused or waits to start.
    current: Option<Source>,
    /// Its producer has more than one stream.
    layered: bool,
    preferred: PreferredLayers,
    priority: NonZeroU8,
    /// The stream that was told last.
    told: Option<usize>,
    sequencer: Sequencer,
    clock: Clock,
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
            layered: producer.stream_count() > 1,
            preferred: PreferredLayers::HIGHEST,
            priority: NonZeroU8::MIN,
            told: None,
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

    pub(crate) fn priority(&self) -> NonZeroU8 {
        self.priority
    }

    pub(crate) fn set_priority(&mut self, priority: NonZeroU8) {
        self.priority = priority;
    }

    /// The stream that it gets, if that is another one than was told last.
    pub(crate) fn take_layer_change(&mut self) -> Option<Option<usize>> {
        let current = self.current_stream();
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
    }

    pub(crate) fn handle(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        if self.paused {
            return Verdict::Nothing;
        }
        let cap = self.preferred.spatial;
        match self.current {
            Some(current) if current == arrived.source => self.go_on(now, rtp, arrived),
            // Another source sends on the stream that it gets: nothing more comes of the old one.
            Some(current) if current.stream == arrived.source.stream => {
                self.stop();
                self.wait(now, rtp, arrived)
            }
            Some(current)
                if arrived.selection.move_from(current.stream, cap) == Some(rtp.stream) =>
            {
                self.start_or_ask(now, rtp, arrived)
            }
            Some(_) => Verdict::Nothing,
            None => self.wait(now, rtp, arrived),
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
    fn wait(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        let (selection, cap) = (&arrived.selection, self.preferred.spatial);
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
            let sequence = self.sequencer.start(rtp.sequence, rtp.marker, is_video);
            self.clock
                .start(now, arrived.source, rtp.timestamp, rtp.captured);
            let timestamp = self.clock.map(now, rtp.timestamp, rtp.captured);
            Verdict::Forward {
                sequence,
                timestamp,
            }
        } else if is_video && !rtp.payload.is_empty() {
            Verdict::NeedsKeyFrame
        } else {
            Verdict::Nothing
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.paused && self.current.is_some() {
            return Err("a paused consumer has a stream".into());
        }
        self.sequencer.check()
    }
}
