//! A consumer: whether it gets a packet, and under which numbers.

use std::time::Instant;

use crate::producer::Arrived;
use crate::sequence::Sequencer;
use crate::timestamp::{Clock, Source};
use crate::types::{ConsumerConfig, MediaKind, ProducerKey, RtpIn, Sink};

#[derive(Debug)]
pub(crate) struct Consumer {
    producer: ProducerKey,
    sink: Sink,
    kind: MediaKind,
    paused: bool,
    /// What it gets; `None` while it is paused or waits to start.
    current: Option<Source>,
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
    pub(crate) fn new(config: ConsumerConfig, kind: MediaKind, clock_rate: u32) -> Self {
        Self {
            producer: config.producer,
            sink: config.sink,
            kind,
            paused: config.paused,
            current: None,
            sequencer: Sequencer::new(config.initial_sequence),
            clock: Clock::new(clock_rate, config.initial_timestamp),
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
        match self.current {
            Some(current) if current == arrived.source => self.go_on(now, rtp, arrived),
            // Another source sends on the stream that it gets: nothing more comes of the old one.
            Some(current) if current.stream == arrived.source.stream => {
                self.stop();
                self.wait(now, rtp, arrived)
            }
            Some(current) if arrived.selection.move_from(current.stream) == Some(rtp.stream) => {
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

    /// Starts with any stream, so that there is something to see soon, but asks only the best.
    fn wait(&mut self, now: Instant, rtp: &RtpIn<'_>, arrived: &Arrived) -> Verdict {
        if arrived.can_start || arrived.selection.best() == Some(rtp.stream) {
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
