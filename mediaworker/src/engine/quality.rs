//! What the control plane is told about quality by itself: scores, layers, the
//! loudest speaker, bitrates. And the wishes of consumers that decide about it.
//!
//! Each router with producers is reviewed once per [`REVIEW_INTERVAL`]: whatever
//! has changed since it was told is told then, so an entity has at most one event
//! of a kind in that time, or two of layers. Layers and speakers are told when the
//! media graph says so.

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use proto::event::Event;
use router::{ConsumerKey, Layers, PreferredLayers, ProducerKey};
use slotmap::SecondaryMap;

use super::commands::not_found;
use super::timers::Timer;
use super::{CommandError, ConsumerEntry, Engine, RouterKey};
use crate::transport::TransportError;
use crate::transport::receive::EncodingScore;

/// Time between two reviews of a router.
const REVIEW_INTERVAL: Duration = Duration::from_secs(1);

/// Score of a consumer whose client has not reported yet.
const UNREPORTED: u8 = 10;

impl Engine {
    /// Sets the highest layers that a consumer of a layered producer wants.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn set_preferred_layers(
        &mut self,
        request: &proto::SetConsumerPreferredLayersRequest,
    ) -> Result<(), CommandError> {
        let id = &request.consumer_id;
        let (router, consumer) = self.consumer(id)?;
        let layers = PreferredLayers {
            spatial: usize::try_from(request.spatial_layer).unwrap_or(usize::MAX),
            temporal: request
                .temporal_layer
                .map(|layer| u8::try_from(layer).unwrap_or(u8::MAX)),
        };
        let room = self.routers.get_mut(router);
        room.and_then(|room| room.graph.set_preferred_layers(consumer, layers).ok())
            .ok_or_else(|| not_found("consumer", id))?;
        Ok(())
    }

    /// Sets a consumer's weight when the bitrate of its transport is shared.
    ///
    /// # Errors
    /// [`CommandError::NotFound`], or [`TransportError::Invalid`] for a priority
    /// that is not in 1..=255.
    pub fn set_priority(
        &mut self,
        request: &proto::SetConsumerPriorityRequest,
    ) -> Result<(), CommandError> {
        let id = &request.consumer_id;
        let (router, consumer) = self.consumer(id)?;
        let priority = u8::try_from(request.priority).ok().and_then(NonZeroU8::new);
        let priority = priority.ok_or_else(|| {
            TransportError::Invalid(format!("priority: {} is not in 1..=255", request.priority))
        })?;
        let room = self.routers.get_mut(router);
        room.and_then(|room| room.graph.set_priority(consumer, priority).ok())
            .ok_or_else(|| not_found("consumer", id))
    }

    /// Tells the layers that a consumer gets now, at once unless one was told since
    /// the last review: a source that starts anew time and again must not flood
    /// the control plane.
    pub(super) fn tell_layer(
        &mut self,
        router: RouterKey,
        consumer: ConsumerKey,
        layers: Option<Layers>,
    ) {
        let room = self.routers.get_mut(router);
        let entry = room.and_then(|room| room.consumers.get_mut(consumer));
        let may_tell =
            |entry: &&mut ConsumerEntry| !entry.layer_was_told && entry.told_layers != layers;
        let Some(entry) = entry.filter(may_tell) else {
            return;
        };
        entry.layer_was_told = true;
        entry.told_layers = layers;
        let told = proto::ConsumerLayersChanged {
            consumer_id: entry.id.clone(),
            layers: layers.map(|layers| proto::Layers {
                spatial_layer: layers.spatial.into(),
                temporal_layer: Some(layers.temporal.into()),
            }),
        };
        self.event(router, Event::ConsumerLayers(told));
    }

    /// Tells the layers that had to wait.
    fn review_layers(&mut self, router: RouterKey) {
        let Some(room) = self.routers.get_mut(router) else {
            return;
        };
        let mut waiting = Vec::new();
        for (key, consumer) in &mut room.consumers {
            if std::mem::take(&mut consumer.layer_was_told) {
                waiting.push((key, room.graph.current_layers(key)));
            }
        }
        for (consumer, layers) in waiting {
            self.tell_layer(router, consumer, layers);
        }
    }

    /// Tells who speaks, the loudest first.
    pub(super) fn tell_speaker(
        &mut self,
        router: RouterKey,
        producer: Option<ProducerKey>,
        volume: i8,
    ) {
        let Some(room) = self.routers.get(router) else {
            return;
        };
        let id_of = |key| room.producers.get(key).map(|producer| producer.id.clone());
        let volumes = room.graph.speakers().iter().filter_map(|(key, volume)| {
            Some(proto::ProducerVolume {
                producer_id: id_of(*key)?,
                volume: (*volume).into(),
            })
        });
        let told = proto::ActiveSpeaker {
            producer_id: producer.and_then(id_of),
            volume: volume.into(),
            volumes: volumes.collect(),
        };
        self.event(router, Event::ActiveSpeaker(told));
    }

    /// Tells who leads the conversation now.
    pub(super) fn tell_dominant_speaker(&mut self, router: RouterKey, producer: ProducerKey) {
        let room = self.routers.get(router);
        if let Some(entry) = room.and_then(|room| room.producers.get(producer)) {
            let producer_id = entry.id.clone();
            let told = proto::DominantSpeaker { producer_id };
            self.event(router, Event::DominantSpeaker(told));
        }
    }

    /// Starts the reviews of a router that has a producer now.
    pub(super) fn start_reviews(&mut self, now: Instant, router: RouterKey) {
        if let Some(entry) = self.routers.get_mut(router)
            && entry.review.is_none()
        {
            let next = Some(now + REVIEW_INTERVAL);
            self.timers
                .set(Timer::Review(router), &mut entry.review, next);
        }
    }

    /// Tells what has changed in a router since the last review.
    pub(super) fn review(&mut self, now: Instant, router: RouterKey) {
        let Some(entry) = self.routers.get_mut(router) else {
            return;
        };
        entry.review = None;
        if entry.producers.is_empty() {
            return;
        }
        let next = Some(now + REVIEW_INTERVAL);
        self.timers
            .set(Timer::Review(router), &mut entry.review, next);
        self.review_orientations(router);
        let scores = self.review_producers(now, router);
        self.review_consumers(router, &scores);
        self.review_layers(router);
        self.review_bitrates(now, router);
    }

    /// Answers the scores of every producer, one for each encoding.
    fn review_producers(
        &mut self,
        now: Instant,
        router: RouterKey,
    ) -> SecondaryMap<ProducerKey, Vec<u8>> {
        let mut all = SecondaryMap::new();
        let mut changed = Vec::new();
        let Some(room) = self.routers.get_mut(router) else {
            return all;
        };
        for (key, producer) in &mut room.producers {
            producer.bursts.drop_old(now);
            let transport = self.transports.get(producer.transport);
            let scores = transport.map(|t| t.inner.receiving().scores(now, key));
            let scores = scores.unwrap_or_default();
            for one in &scores {
                // The encoding exists: the transport has just named it.
                let _ = room.graph.set_stream_health(key, one.stream, one.score > 0);
            }
            all.insert(key, by_encoding(&scores, producer.encodings));
            if producer.told != scores {
                changed.push(proto::ProducerScoreChanged {
                    producer_id: producer.id.clone(),
                    scores: scores
                        .iter()
                        .map(|one| proto::EncodingScore {
                            encoding_idx: index(one.stream),
                            ssrc: one.ssrc,
                            rid: one.rid.clone(),
                            score: one.score.into(),
                        })
                        .collect(),
                });
                producer.told = scores;
            }
        }
        for told in changed {
            self.event(router, Event::ProducerScore(told));
        }
        all
    }

    fn review_consumers(&mut self, router: RouterKey, scores: &SecondaryMap<ProducerKey, Vec<u8>>) {
        let mut changed = Vec::new();
        let Some(room) = self.routers.get_mut(router) else {
            return;
        };
        for (key, consumer) in &mut room.consumers {
            let transport = self.transports.get(consumer.transport);
            let own = transport.and_then(|t| t.inner.sending().score(consumer.slot));
            let stream = room.graph.consumer_stream(key);
            let of_producer = scores.get(consumer.producer).map_or(&[][..], Vec::as_slice);
            let score = consumer_score(own, stream, of_producer);
            if consumer.told.as_ref() != Some(&score) {
                consumer.told = Some(score.clone());
                changed.push(proto::ConsumerScoreChanged {
                    consumer_id: consumer.id.clone(),
                    score: Some(score),
                });
            }
        }
        for told in changed {
            self.event(router, Event::ConsumerScore(told));
        }
    }

    /// The score of one consumer, which counts as told.
    pub(super) fn score(
        &mut self,
        now: Instant,
        id: &str,
    ) -> Result<proto::ConsumerScore, CommandError> {
        let (router, key) = self.consumer(id)?;
        let found = self.routers.get_mut(router).and_then(|room| {
            let consumer = room.consumers.get_mut(key)?;
            let producer = room.producers.get(consumer.producer)?;
            let sender = self.transports.get(producer.transport)?;
            let seen = sender.inner.receiving().scores(now, consumer.producer);
            let scores = by_encoding(&seen, producer.encodings);
            let receiver = self.transports.get(consumer.transport);
            let own = receiver.and_then(|t| t.inner.sending().score(consumer.slot));
            let score = consumer_score(own, room.graph.consumer_stream(key), &scores);
            consumer.told = Some(score.clone());
            Some(score)
        });
        found.ok_or_else(|| not_found("consumer", id))
    }
}

/// One score for each encoding; 0 for one that has not been seen.
fn by_encoding(seen: &[EncodingScore], encodings: usize) -> Vec<u8> {
    let mut all = vec![0; encodings];
    for one in seen {
        if let Some(place) = all.get_mut(one.stream) {
            *place = one.score;
        }
    }
    all
}

/// A consumer's score: what its client reports; the score of the stream that it
/// gets, or while it gets none of the best there is; and every encoding's.
fn consumer_score(own: Option<u8>, stream: Option<usize>, producer: &[u8]) -> proto::ConsumerScore {
    let current = stream.and_then(|stream| producer.get(stream));
    let producer_score = current.or(producer.iter().max()).copied();
    proto::ConsumerScore {
        score: own.unwrap_or(UNREPORTED).into(),
        producer_score: producer_score.unwrap_or(0).into(),
        producer_scores: producer.iter().map(|score| (*score).into()).collect(),
    }
}

fn index(stream: usize) -> u32 {
    u32::try_from(stream).unwrap_or(u32::MAX)
}
