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
//! *Streams of a simulcast producer.* A consumer has a highest stream that it wants
//! ([`PreferredLayers`]; all of them at first). Without a stream it starts on the first keyframe of
//! any that it wants, then moves up to the highest of them that is *steady* (see [`STEADY_AFTER`]),
//! and down when its own was silent for [`STREAM_TIMEOUT`], or is not wanted any more. When none of
//! those flows, the lowest that does is as good as it gets. Until the keyframe of the new stream is
//! there, the old one is forwarded. [`Action::TellLayer`] says what came of it.
//!
//! *Speakers.* [`Action::TellSpeaker`] names the loudest producer of every [`SPEAKER_INTERVAL`],
//! [`Router::speakers`] all that are told.

mod consumer;
mod error;
mod invariants;
mod key_frame_request;
mod layers;
mod payload;
mod producer;
mod replay;
pub mod score;
mod selection;
mod sequence;
mod speakers;
mod stream;
mod timestamp;
mod types;

use std::collections::VecDeque;
use std::num::NonZeroU8;
use std::time::Instant;

use slotmap::SlotMap;

pub use crate::error::Error;
pub use crate::key_frame_request::KEY_FRAME_INTERVAL;
pub use crate::layers::{LayerCosts, Layers, MAX_TEMPORAL_LAYERS};
pub use crate::replay::{REPLAY_WINDOW, RESTART_AFTER};
pub use crate::selection::{STEADY_AFTER, STREAM_TIMEOUT};
pub use crate::sequence::DROP_HISTORY;
pub use crate::speakers::{MAX_SPEAKERS, MIN_PACKETS, SPEAKER_INTERVAL, THRESHOLD};
pub use crate::timestamp::CAPTURE_TRUST;
pub use crate::types::{
    Action, Codec, ConsumerConfig, ConsumerKey, Forward, MAX_STREAMS, MediaKind, PreferredLayers,
    ProducerConfig, ProducerKey, RtpIn, Sink,
};

use crate::consumer::{Consumer, Verdict};
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

    /// Sets the highest layers that a consumer wants, and answers them as they are kept: a spatial
    /// layer that its producer does not have becomes the highest one. A switch waits for a keyframe
    /// of the new stream, for which its producer is asked.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn set_preferred_layers(
        &mut self,
        consumer: ConsumerKey,
        layers: PreferredLayers,
    ) -> Result<PreferredLayers, Error> {
        let consumer = self
            .consumers
            .get_mut(consumer)
            .ok_or(Error::UnknownConsumer)?;
        let producer = self.producers.get(consumer.producer());
        let highest = producer.map_or(0, |p| p.stream_count() - 1);
        let layers = PreferredLayers {
            spatial: layers.spatial.min(highest),
            ..layers
        };
        consumer.set_preferred(layers);
        Ok(layers)
    }

    /// The highest layers that a consumer wants, `None` when it is unknown.
    #[must_use]
    pub fn preferred_layers(&self, consumer: ConsumerKey) -> Option<PreferredLayers> {
        self.consumers.get(consumer).map(Consumer::preferred)
    }

    /// Sets a consumer's weight when the bitrate of its transport is shared.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn set_priority(
        &mut self,
        consumer: ConsumerKey,
        priority: NonZeroU8,
    ) -> Result<(), Error> {
        self.consumers
            .get_mut(consumer)
            .ok_or(Error::UnknownConsumer)?
            .set_priority(priority);
        Ok(())
    }

    /// A consumer's weight, 1 unless it was set; `None` when it is unknown.
    #[must_use]
    pub fn priority(&self, consumer: ConsumerKey) -> Option<NonZeroU8> {
        self.consumers.get(consumer).map(Consumer::priority)
    }

    /// The stream that a consumer should get now, whether or not a keyframe has let it begin;
    /// `None` while it or its producer is paused, and when nothing flows.
    #[must_use]
    pub fn wanted_stream(&self, now: Instant, consumer: ConsumerKey) -> Option<usize> {
        let consumer = self.consumers.get(consumer)?;
        let producer = self.producers.get(consumer.producer())?;
        if consumer.paused() || producer.is_paused() {
            return None;
        }
        producer.selection(now).best(consumer.preferred().spatial)
    }

    /// The stream that a consumer currently gets; `None` while it gets nothing or is unknown.
    #[must_use]
    pub fn consumer_stream(&self, consumer: ConsumerKey) -> Option<usize> {
        self.consumers
            .get(consumer)
            .and_then(Consumer::current_stream)
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
        let cap = consumer.preferred().spatial;
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
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        producer: ProducerKey,
        rtp: &RtpIn<'_>,
        out: &mut Vec<Forward>,
    ) {
        let Some(source) = self.producers.get_mut(producer) else {
            return;
        };
        let Some(arrival) = source.receive(now, rtp) else {
            return;
        };
        if source.is_paused() {
            return;
        }
        if source.kind() == MediaKind::Audio
            && let Some(level) = rtp.audio_level
        {
            source.levels.add(level);
            self.speakers.arm(now);
        }
        let mut ask = source.has_kept_request(rtp.stream);
        for key in &source.consumers {
            let Some(consumer) = self.consumers.get_mut(*key) else {
                continue;
            };
            let verdict = consumer.handle(now, rtp, &arrival);
            tell_layer(&mut self.actions, *key, consumer);
            match verdict {
                Verdict::Forward {
                    sequence,
                    timestamp,
                } => out.push(Forward {
                    consumer: *key,
                    sink: consumer.sink(),
                    sequence,
                    timestamp,
                    marker: rtp.marker,
                }),
                Verdict::NeedsKeyFrame => ask = true,
                Verdict::Nothing => {}
            }
        }
        if ask {
            self.ask(now, producer, rtp.stream);
        }
    }

    /// Does what has become due. Call it at [`Router::next_timeout`]; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Self {
            producers,
            actions,
            waiting,
            speakers,
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
    }

    /// When [`Router::handle_timeout`] has to be called next, if anything is to be done at all.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .filter_map(|(key, stream)| self.producers.get(*key)?.request(*stream)?.deadline())
            .chain(self.speakers.deadline())
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

/// Notes that a consumer's layer has to be told, if it is another one now.
fn tell_layer(actions: &mut VecDeque<Action>, key: ConsumerKey, consumer: &mut Consumer) {
    if let Some(stream) = consumer.take_layer_change() {
        let consumer = key;
        actions.push_back(Action::TellLayer { consumer, stream });
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
