//! A producer: its streams, its pause, and who consumes it.

use std::time::Instant;

use crate::dominant::Speech;
use crate::error::Error;
use crate::key_frame_request::KeyFrameRequest;
use crate::selection::{Activity, Selection};
use crate::speakers::Levels;
use crate::stream::Stream;
use crate::timestamp::Source;
use crate::types::{ConsumerKey, MAX_STREAMS, MediaKind, ProducerConfig, RtpIn};

#[derive(Debug)]
pub(crate) struct Producer {
    kind: MediaKind,
    clock_rate: u32,
    streams: Vec<Stream>,
    paused_at: Option<Instant>,
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
    pub(crate) selection: Selection,
}

impl Producer {
    pub(crate) fn new(now: Instant, config: ProducerConfig) -> Result<Self, Error> {
        let ProducerConfig {
            kind,
            clock_rate,
            streams,
            paused,
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
        Some(Arrived {
            source,
            newest: accepted.newest,
            can_start: accepted.can_start,
            selection: self.selection(now),
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
        Selection::new(now, self.streams.iter().map(|stream| stream.activity))
    }
}
