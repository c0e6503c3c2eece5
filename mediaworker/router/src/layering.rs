//! The calls about layers: what a consumer wants, what the bandwidth allows, what it gets and why,
//! and what each layer costs.

use std::num::NonZeroU8;
use std::time::Instant;

use crate::consumer::Consumer;
use crate::error::Error;
use crate::layers::{LayerCosts, Layers};
use crate::producer::Producer;
use crate::types::{ConsumerKey, LayerState, PreferredLayers, ProducerKey};
use crate::{Router, tell_layer};

impl Router {
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
        let highest = producer.map_or(0, Producer::highest_spatial);
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

    /// Sets the highest layers that the bandwidth towards a consumer allows, [`Layers::HIGHEST`] at
    /// first. It gets what it wants within them; `None` sends it nothing. When a stream has to make
    /// way for a lower one, only the lowest temporal layer is forwarded until the keyframe of the
    /// lower one is there.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn set_target_layers(
        &mut self,
        now: Instant,
        consumer: ConsumerKey,
        layers: Option<Layers>,
    ) -> Result<(), Error> {
        let found = self
            .consumers
            .get_mut(consumer)
            .ok_or(Error::UnknownConsumer)?;
        let before = found.target();
        found.set_target(layers);
        tell_layer(&mut self.actions, consumer, found);
        if before.is_none() && layers.is_some() {
            self.request_key_frame(now, consumer)?;
        }
        Ok(())
    }

    /// The highest layers that a consumer currently gets; `None` while it gets nothing or is
    /// unknown.
    #[must_use]
    pub fn current_layers(&self, consumer: ConsumerKey) -> Option<Layers> {
        self.consumers
            .get(consumer)
            .and_then(Consumer::current_layers)
    }

    /// What a consumer wants, may get and gets, and what it waits for; `None` when it is unknown.
    #[must_use]
    pub fn layer_state(&self, now: Instant, consumer: ConsumerKey) -> Option<LayerState> {
        let consumer = self.consumers.get(consumer)?;
        let producer = self.producers.get(consumer.producer())?;
        Some(LayerState {
            preferred: consumer.preferred(),
            target: consumer.target(),
            current: consumer.current_layers(),
            waiting: consumer.waiting(now, producer),
        })
    }

    /// Says whether a producer's stream arrives well enough to be of use. One that does not is chosen
    /// only when no other flows. A new source is healthy.
    ///
    /// # Errors
    /// [`Error::UnknownProducer`], [`Error::Streams`] for an index that it does not have.
    pub fn set_stream_health(
        &mut self,
        producer: ProducerKey,
        stream: usize,
        healthy: bool,
    ) -> Result<(), Error> {
        self.producers
            .get_mut(producer)
            .ok_or(Error::UnknownProducer)?
            .set_health(stream, healthy)
    }

    /// The bitrate of each layer of a producer that flows, bit/s, by itself, lowest first; measured
    /// over the last two seconds. Nothing for an unknown producer.
    pub fn layer_bitrates(
        &self,
        now: Instant,
        producer: ProducerKey,
    ) -> impl Iterator<Item = (Layers, u64)> + '_ {
        self.producers
            .get(producer)
            .into_iter()
            .flat_map(move |producer| producer.layer_bitrates(now))
    }

    /// What each layer of a producer costs; nothing does of one that is paused or unknown.
    #[must_use]
    pub fn layer_costs(&self, now: Instant, producer: ProducerKey) -> LayerCosts {
        self.producers
            .get(producer)
            .filter(|producer| !producer.is_paused())
            .map(|producer| producer.layer_costs(now))
            .unwrap_or_default()
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

    /// The stream that a consumer wants to get now, whatever the bandwidth allows and whether or
    /// not a keyframe has let it begin; `None` while it or its producer is paused, and when nothing
    /// flows.
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
}
