//! The pure media graph of one room: producers, consumers, and what to forward to whom.
//!
//! The crate knows no sockets, no clock and no randomness. Time is an argument ([`Instant`]),
//! packets are borrowed, and everything that is to be done comes back as a value: a [`Forward`] per
//! consumer that gets a packet, an [`Action`] per request to a producing client. The same inputs
//! give the same outputs.
//!
//! # Rules
//!
//! *Input.* A producer has one or more *streams* (encodings, lowest first). Each stream keeps a
//! window of [`REPLAY_WINDOW`] sequence numbers: a duplicate, or a packet that is older than the
//! window, is dropped for everybody. Single packets far outside of it are dropped too; when
//! [`RESTART_AFTER`] of them come in a row, the source started anew and so does the stream
//! ([`Router::restart_stream`] says the same explicitly, for instance when its SSRC changed).
//!
//! *Start.* A consumer starts, resumes and switches streams only at a packet that is the newest of
//! its stream and carries payload; for video in a known [`Codec`] it must also be the first packet
//! of a keyframe. A keyframe whose first packet arrives late starts nobody, because what follows it
//! has already passed by: another one is asked for. Audio and [`Codec::Other`] start at once.
//!
//! *Late joiners.* What has arrived of a stream since a keyframe can be replayed to a consumer that
//! waits to start ([`Router::replay`]). It starts with that keyframe then, needs no other, and what
//! arrives next goes on from there; everything below holds for it as if the packets arrived now,
//! in order. Only their timestamps are pushed together, [`REPLAY_SPEED`] to 1 and up to the newest
//! frame, which gets the one that it would have had by itself: so the client catches up at once
//! instead of showing the past at the speed of life, and is in time with the sound.
//!
//! *Sequence numbers* (RFC 3550 section 5.1). A consumer's numbers start at its initial one and are
//! contiguous over everything that was not forwarded on purpose: pauses, waiting for a keyframe,
//! other streams, and packets without payload (padding) that arrive in order. What was lost on the
//! way from the producer stays a gap of the same size, so that a receiver's NACK and RTX work, and
//! a packet that arrives late gets the number that was kept for it; a late packet without payload
//! is forwarded for the same reason, since nothing else would ever fill its gap. Not forwarded is
//! what is older than the point where the consumer (re)started, or older than its
//! [`DROP_HISTORY`]. When a video consumer restarts and the last packet that it got did not end a
//! frame (no marker), one number is left out, so that the decoder sees an incomplete frame and does
//! not glue two together.
//!
//! *Timestamps.* Within a run every packet is moved by the same offset. A consumer that resumes on
//! the stream that it had keeps the offset: it sees the time that the source's clock advanced. On
//! another stream the first frame is placed by the difference of the capture times when both are
//! known and agree with the local clock within [`CAPTURE_TRUST`], else by the local time since the
//! last frame; always at least one tick ahead. A 32-bit wrap-around is nothing special.
//!
//! *Keyframe requests* go to the producing client at most once per [`KEY_FRAME_INTERVAL`] and
//! stream. A request within that time is kept and sent when it is over, unless a keyframe comes
//! first. A video consumer that waits for a keyframe asks with every packet that passes it by, so
//! the request is repeated for as long as there is something to wait for, and no longer. Requests
//! for a stream that was never seen are kept until its first packet; while the producer is paused
//! nothing is asked.
//!
//! *Streams of a simulcast producer.* A consumer has a highest stream that it is to get: what it
//! wants ([`PreferredLayers`]; all of them at first) within what the bandwidth allows
//! ([`Router::set_target_layers`]). Without a stream it starts on the first keyframe of any up to
//! that one, then moves up to the highest of them that is *steady* (see [`STEADY_AFTER`]), and down
//! when its own was silent for [`STREAM_TIMEOUT`], or is too high now. When none of those flows, the
//! lowest that does is as good as it gets. Streams that arrive too badly
//! ([`Router::set_stream_health`]) count as silent while others flow. Until the keyframe of the new
//! stream is there, the old one is forwarded, of one that is too high only the lowest temporal
//! layer. [`Action::TellLayer`] says what came of it.
//!
//! *Layers within a stream.* Temporal layers of VP8, VP9 and AV1 and spatial ones of VP9 and AV1 are
//! left out and added picture by picture, where the stream says that a decoder can follow (see the
//! module `gate`). Only streams whose pictures are numbered are read so; of others everything is
//! forwarded. A packet that is left out takes no sequence number; one that comes too late for that
//! is forwarded without its payload ([`Payload::Empty`]). The marker is set where the highest layer
//! that is forwarded ends.
//!
//! *Numbers of pictures* (picture id, TL0PICIDX, AV1's frame number) continue from run to run as
//! sequence numbers do; the first run keeps those of its source. VP8's are also contiguous over
//! pictures that are left out.
//!
//! *Speakers.* [`Action::TellSpeaker`] names the loudest producer of every [`SPEAKER_INTERVAL`],
//! [`Router::speakers`] all that are told.
//!
//! *Dominant speaker.* [`Action::TellDominantSpeaker`] names the producer that has taken over the
//! conversation, decided every [`DECISION_INTERVAL`].

pub mod allocation;
mod burst;
mod consumer;
mod dominant;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gate;
mod invariants;
mod key_frame_request;
mod layering;
mod layers;
mod numbers;
mod payload;
mod picture;
mod producer;
mod rates;
mod replay;
pub mod score;
mod selection;
mod sequence;
mod speakers;
mod stream;
mod timestamp;
mod types;

use std::collections::VecDeque;
use std::time::Instant;

use slotmap::SlotMap;

pub use crate::burst::{Kept, Replayed};
pub use crate::dominant::DECISION_INTERVAL;
pub use crate::error::Error;
pub use crate::gate::PATIENCE;
pub use crate::key_frame_request::KEY_FRAME_INTERVAL;
pub use crate::layers::{LayerCosts, Layers, MAX_TEMPORAL_LAYERS};
pub use crate::rates::MAX_SPATIAL_LAYERS;
pub use crate::replay::{REPLAY_WINDOW, RESTART_AFTER};
pub use crate::selection::{STEADY_AFTER, STREAM_TIMEOUT};
pub use crate::sequence::DROP_HISTORY;
pub use crate::speakers::{MAX_SPEAKERS, MIN_PACKETS, SPEAKER_INTERVAL, THRESHOLD};
pub use crate::timestamp::{CAPTURE_TRUST, REPLAY_SPEED};
pub use crate::types::{
    Action, Codec, ConsumerConfig, ConsumerKey, Forward, LayerState, MAX_STREAMS, MediaKind, Patch,
    Payload, PreferredLayers, ProducerConfig, ProducerKey, RtpIn, Sink, SpatialDependency,
    StreamLayers, Waiting,
};

use crate::consumer::{Consumer, Place, Verdict};
use crate::dominant::Dominance;
use crate::producer::Producer;
use crate::speakers::{Speakers, Verdict as Speaking};

/// The producers and consumers of one room.
#[derive(Debug, Default)]
pub struct Router {
    producers: SlotMap<ProducerKey, Producer>,
    consumers: SlotMap<ConsumerKey, Consumer>,
    /// What [`Router::poll_action`] will answer. A call adds at most one entry for each stream and
    /// consumer that it concerns, so it stays short when it is polled after every call.
    actions: VecDeque<Action>,
    /// Streams whose keyframe request waits for its second to be over. Each stream is in here at
    /// most once (its request knows), so the length is bounded by the number of streams.
    waiting: Vec<(ProducerKey, usize)>,
    speakers: Speakers,
    dominance: Dominance,
}

impl Router {
    /// A router without producers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a producer.
    ///
    /// # Errors
    /// [`Error::Streams`] unless there are 1 to [`MAX_STREAMS`] streams, [`Error::ClockRate`] for a
    /// clock rate of 0.
    pub fn create_producer(
        &mut self,
        now: Instant,
        config: ProducerConfig,
    ) -> Result<ProducerKey, Error> {
        let producer = Producer::new(now, config)?;
        Ok(self.producers.insert(producer))
    }

    /// Removes a producer with its consumers, whose keys it returns in order of their creation.
    /// Unknown keys are ignored.
    pub fn close_producer(&mut self, producer: ProducerKey) -> Vec<ConsumerKey> {
        let Some(closed) = self.producers.remove(producer) else {
            return Vec::new();
        };
        for consumer in &closed.consumers {
            self.consumers.remove(*consumer);
        }
        closed.consumers
    }

    /// Stops forwarding from a producer. Does nothing when it is paused already.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`].
    pub fn pause_producer(&mut self, now: Instant, producer: ProducerKey) -> Result<(), Error> {
        let producer = self
            .producers
            .get_mut(producer)
            .ok_or(Error::UnknownProducer)?;
        producer.pause(now);
        for key in &producer.consumers {
            if let Some(consumer) = self.consumers.get_mut(*key) {
                consumer.stop();
                tell_layer(&mut self.actions, *key, consumer);
            }
        }
        Ok(())
    }

    /// Forwards from a producer again, video from the next keyframe on, which is asked for if
    /// somebody is there to see it. Does nothing when it is not paused.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`].
    pub fn resume_producer(&mut self, now: Instant, producer: ProducerKey) -> Result<(), Error> {
        let resumed = self
            .producers
            .get_mut(producer)
            .ok_or(Error::UnknownProducer)?;
        if !resumed.is_paused() {
            return Ok(());
        }
        resumed.resume(now);
        let consumers = &self.consumers;
        let first_active = resumed.consumers.iter().copied().find(|key| {
            consumers
                .get(*key)
                .is_some_and(|consumer| !consumer.paused())
        });
        match first_active {
            Some(consumer) => self.request_key_frame(now, consumer),
            None => Ok(()),
        }
    }

    /// Whether a producer is paused, `None` when it is unknown.
    #[must_use]
    pub fn is_producer_paused(&self, producer: ProducerKey) -> Option<bool> {
        self.producers.get(producer).map(Producer::is_paused)
    }

    /// Forgets what is known of a producer's stream, because a new source takes its place: other
    /// sequence numbers, another clock. Consumers continue as on a switch of streams.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`], [`Error::Streams`] for an index that it does not have.
    pub fn restart_stream(&mut self, producer: ProducerKey, stream: usize) -> Result<(), Error> {
        self.producers
            .get_mut(producer)
            .ok_or(Error::UnknownProducer)?
            .restart_stream(stream)
    }

    /// Adds a consumer, which asks for a keyframe unless it is paused.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`].
    pub fn create_consumer(
        &mut self,
        now: Instant,
        config: ConsumerConfig,
    ) -> Result<ConsumerKey, Error> {
        let producer = self
            .producers
            .get_mut(config.producer)
            .ok_or(Error::UnknownProducer)?;
        let paused = config.paused;
        let consumer = Consumer::new(config, producer);
        let key = self.consumers.insert(consumer);
        producer.consumers.push(key);
        if !paused {
            self.request_key_frame(now, key)?;
        }
        Ok(key)
    }

    /// Removes a consumer. Unknown keys are ignored.
    pub fn close_consumer(&mut self, consumer: ConsumerKey) {
        let Some(closed) = self.consumers.remove(consumer) else {
            return;
        };
        if let Some(producer) = self.producers.get_mut(closed.producer()) {
            producer.consumers.retain(|key| *key != consumer);
        }
    }

    /// Stops forwarding to a consumer. Does nothing when it is paused already.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn pause_consumer(&mut self, consumer: ConsumerKey) -> Result<(), Error> {
        let paused = self
            .consumers
            .get_mut(consumer)
            .ok_or(Error::UnknownConsumer)?;
        paused.set_paused(true);
        tell_layer(&mut self.actions, consumer, paused);
        Ok(())
    }

    /// Forwards to a consumer again, video from the next keyframe on, which is asked for. Does
    /// nothing when it is not paused.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn resume_consumer(&mut self, now: Instant, consumer: ConsumerKey) -> Result<(), Error> {
        let resumed = self
            .consumers
            .get_mut(consumer)
            .ok_or(Error::UnknownConsumer)?;
        if !resumed.paused() {
            return Ok(());
        }
        resumed.set_paused(false);
        self.request_key_frame(now, consumer)
    }

    /// Whether a consumer itself is paused (its producer may be as well), `None` when unknown.
    #[must_use]
    pub fn is_consumer_paused(&self, consumer: ConsumerKey) -> Option<bool> {
        self.consumers.get(consumer).map(Consumer::paused)
    }

    /// Passes on a consumer's wish for a keyframe (PLI or FIR of its client, or a signaling
    /// request): for the stream that it gets, or would get. Nothing happens for audio, and while
    /// the consumer or its producer is paused.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn request_key_frame(&mut self, now: Instant, consumer: ConsumerKey) -> Result<(), Error> {
        let consumer = self.consumers.get(consumer).ok_or(Error::UnknownConsumer)?;
        let key = consumer.producer();
        let producer = self.producers.get(key).ok_or(Error::UnknownProducer)?;
        if producer.kind() != MediaKind::Video || producer.is_paused() || consumer.paused() {
            return Ok(());
        }
        let Some(cap) = consumer.stream_cap() else {
            return Ok(());
        };
        match producer.stream_to_ask(now, consumer.current_stream(), cap) {
            Some(stream) => self.ask(now, key, stream),
            // Nothing was seen yet: whichever stream starts first is asked.
            None => {
                for stream in 0..producer.stream_count() {
                    self.ask(now, key, stream);
                }
            }
        }
        Ok(())
    }

    /// Takes one packet of a producer and appends what is to be sent to `out`, which is not
    /// cleared. The work is proportional to the producer's consumers. A packet of an unknown
    /// producer or stream is ignored.
    ///
    /// Answers what [`Router::replay`] needs to know about the packet; `None` when it is of no use
    /// there: it is ignored, or consumers do not wait for keyframes of its kind.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        producer: ProducerKey,
        rtp: &RtpIn<'_>,
        out: &mut Vec<Forward>,
    ) -> Option<Kept> {
        let source = self.producers.get_mut(producer)?;
        let arrival = source.receive(now, rtp)?;
        if source.is_paused() {
            return None;
        }
        let has_key_frames = source.kind() == MediaKind::Video && rtp.codec != Codec::Other;
        if source.kind() == MediaKind::Audio
            && let Some(level) = rtp.audio_level
        {
            source.levels.add(level);
            self.speakers.arm(now);
            source.speech.add(now, level);
            self.dominance.arm(now);
        }
        let mut ask = source.has_kept_request(rtp.stream);
        for key in &source.consumers {
            let Some(consumer) = self.consumers.get_mut(*key) else {
                continue;
            };
            let verdict = consumer.handle(now, rtp, &arrival);
            // Most packets of simulcast are nothing to most consumers.
            if verdict != Verdict::NotIts {
                tell_layer(&mut self.actions, *key, consumer);
            }
            match verdict {
                Verdict::Forward(place) => out.push(forward(*key, consumer.sink(), place)),
                Verdict::NeedsKeyFrame => ask = true,
                Verdict::Nothing | Verdict::NotIts => {}
            }
        }
        if ask {
            self.ask(now, producer, rtp.stream);
        }
        has_key_frames.then(|| Kept::new(arrival))
    }

    /// Does what has become due. Call it at [`Router::next_timeout`]; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self {
            producers,
            actions,
            waiting,
            speakers,
            dominance,
            ..
        } = self;
        waiting.retain(|(key, stream)| {
            let Some(request) = producers.get_mut(*key).and_then(|p| p.request_mut(*stream)) else {
                return false;
            };
            if request.take_due(now) {
                actions.push_back(Action::RequestKeyFrame {
                    producer: *key,
                    stream: *stream,
                });
            }
            request.waiting = request.deadline().is_some();
            request.waiting
        });
        let levels = producers.iter_mut().map(|(key, p)| (key, &mut p.levels));
        if let Some(verdict) = speakers.handle_timeout(now, levels) {
            let (producer, volume) = match verdict {
                Speaking::Speaks { producer, volume } => (Some(producer), volume),
                Speaking::Silence => (None, 0),
            };
            actions.push_back(Action::TellSpeaker { producer, volume });
        }
        let present = producers.iter_mut().filter(|(_, p)| !p.is_paused());
        let speech = present.map(|(key, p)| (key, &mut p.speech));
        if let Some(producer) = dominance.handle_timeout(now, speech) {
            actions.push_back(Action::TellDominantSpeaker { producer });
        }
    }

    /// When [`Router::handle_timeout`] has to be called next, if anything is to be done at all.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .filter_map(|(key, stream)| self.producers.get(*key)?.request(*stream)?.deadline())
            .chain(self.speakers.deadline())
            .chain(self.dominance.deadline())
            .min()
    }

    /// Who spoke in the last interval, the loudest first, with their mean levels in dBov: at most
    /// [`MAX_SPEAKERS`]. One of them may have been closed since.
    #[must_use]
    pub fn speakers(&self) -> &[(ProducerKey, i8)] {
        self.speakers.loudest()
    }

    /// What is to be done, one at a time. Poll after every call that takes `now` or pauses, until
    /// `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        loop {
            let action = self.actions.pop_front()?;
            let is_due = match action {
                Action::RequestKeyFrame { producer, .. } => {
                    self.is_producer_paused(producer) == Some(false)
                }
                Action::TellDominantSpeaker { producer } => self.producers.contains_key(producer),
                Action::TellLayer { consumer, .. } => self.consumers.contains_key(consumer),
                Action::TellSpeaker { producer, .. } => {
                    producer.is_none_or(|key| self.producers.contains_key(key))
                }
            };
            if is_due {
                return Some(action);
            }
        }
    }

    /// Checks that the parts of the graph agree with each other. For tests and debugging.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check_invariants(&self) -> Result<(), String> {
        invariants::check(self)
    }

    /// Wants a keyframe of a stream, and asks for it now if that is allowed.
    fn ask(&mut self, now: Instant, producer: ProducerKey, stream: usize) {
        let Some(source) = self.producers.get_mut(producer) else {
            return;
        };
        let seen = source.was_seen(stream);
        let Some(request) = source.request_mut(stream) else {
            return;
        };
        request.want();
        if !seen {
            return;
        }
        if request.take_due(now) {
            self.actions
                .push_back(Action::RequestKeyFrame { producer, stream });
        } else if !request.waiting {
            request.waiting = true;
            self.waiting.push((producer, stream));
        }
    }
}

fn forward(consumer: ConsumerKey, sink: Sink, place: Place) -> Forward {
    Forward {
        consumer,
        sink,
        sequence: place.sequence,
        timestamp: place.timestamp,
        marker: place.marker,
        payload: place.payload,
        frame_number: place.frame_number,
    }
}

/// Notes that a consumer's layer has to be told, if it is another one now.
fn tell_layer(actions: &mut VecDeque<Action>, key: ConsumerKey, consumer: &mut Consumer) {
    if let Some(layers) = consumer.take_layer_change() {
        let consumer = key;
        actions.push_back(Action::TellLayer { consumer, layers });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_wait_for_nothing_are_forgotten() {
        let mut router = Router::new();
        let now = Instant::now();
        let config = ProducerConfig {
            kind: MediaKind::Video,
            clock_rate: 90_000,
            streams: 1,
            paused: false,
            layers: StreamLayers::default(),
        };
        let producer = router.create_producer(now, config).unwrap();
        let rtp = RtpIn {
            stream: 0,
            codec: Codec::Other,
            sequence: 0,
            timestamp: 0,
            marker: true,
            payload: &[1],
            captured: None,
            audio_level: None,
            dependency_descriptor: None,
        };
        router.handle_rtp(now, producer, &rtp, &mut Vec::new());
        router.ask(now, producer, 0);
        assert!(router.waiting.is_empty());
        router.ask(now, producer, 0);
        assert_eq!(router.waiting, [(producer, 0)]);
        router.handle_timeout(now + KEY_FRAME_INTERVAL);
        assert!(router.waiting.is_empty());
    }
}
