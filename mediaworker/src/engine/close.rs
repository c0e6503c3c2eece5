//! How things end: nothing stays behind in any table.

use std::time::Instant;

use proto::event::Event;
use router::{ConsumerKey, ProducerKey};

use super::commands::not_found;
use super::timers::Timer;
use super::{CommandError, Engine, RouterKey, TransportKey};
use crate::transport::webrtc::WebRtcTransport;

/// What ended on other transports with a transport: ids.
#[derive(Default)]
struct Orphans {
    consumers: Vec<String>,
    data_consumers: Vec<String>,
}

impl Engine {
    /// Closes a router with everything in it.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn close_router(&mut self, now: Instant, id: &str) -> Result<(), CommandError> {
        let key = self.router(id)?;
        let transports: Vec<TransportKey> = self
            .transports
            .iter()
            .filter(|(_, t)| t.router == key)
            .map(|(key, _)| key)
            .collect();
        for transport in transports {
            self.say_goodbye(now, transport);
            self.remove_transport(transport);
        }
        self.remove_direct_data(key);
        if let Some(mut entry) = self.routers.remove(key) {
            self.timers.set(Timer::Router(key), &mut entry.timer, None);
            self.timers.set(Timer::Review(key), &mut entry.review, None);
            self.timers.set(Timer::Share(key), &mut entry.share, None);
            self.timers
                .set(Timer::ShareSoon(key), &mut entry.share_soon, None);
            self.router_ids.remove(&entry.id);
        }
        Ok(())
    }

    /// Closes a transport with everything on it.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn close_transport(&mut self, now: Instant, id: &str) -> Result<(), CommandError> {
        let key = self.transport(id)?;
        let Some(router) = self.transports.get(key).map(|t| t.router) else {
            return Err(not_found("transport", id));
        };
        self.say_goodbye(now, key);
        let orphans = self.remove_transport(key);
        self.report_orphans(router, orphans);
        Ok(())
    }

    fn say_goodbye(&mut self, now: Instant, key: TransportKey) {
        // Its "closed by the client" would be untrue.
        self.enter(now, key, |transport, out| {
            transport.close(now, out);
            out.failed = None;
            out.state_changed = false;
        });
    }

    /// A transport ended by itself.
    pub(super) fn transport_died(&mut self, key: TransportKey, reason: &str) {
        let Some(entry) = self.transports.get(key) else {
            return;
        };
        let (id, router) = (entry.id.clone(), entry.router);
        tracing::info!(transport = %id, reason, "transport closed");
        let orphans = self.remove_transport(key);
        self.event(
            router,
            Event::TransportClosed(proto::TransportClosed {
                transport_id: id,
                reason: reason.to_owned(),
            }),
        );
        self.report_orphans(router, orphans);
    }

    fn report_orphans(&mut self, router: RouterKey, orphans: Orphans) {
        for consumer_id in orphans.consumers {
            self.event(
                router,
                Event::ConsumerClosed(proto::ConsumerClosed { consumer_id }),
            );
        }
        for data_consumer_id in orphans.data_consumers {
            self.event(
                router,
                Event::DataConsumerClosed(proto::DataConsumerClosed { data_consumer_id }),
            );
        }
    }

    /// Takes a transport out of every table, with its producers and consumers.
    fn remove_transport(&mut self, key: TransportKey) -> Orphans {
        let mut orphans = Orphans::default();
        let Some(mut entry) = self.transports.remove(key) else {
            return orphans;
        };
        let streams = &entry.inner;
        self.keep_feedback(streams.receiving().totals(), streams.sending().totals());
        self.timers
            .set(Timer::Transport(key), &mut entry.timer, None);
        if let Some(mut throttle) = entry.throttle.take() {
            self.forget_throttle(key, &mut throttle);
        }
        self.transport_ids.remove(&entry.id);
        if let Some(transport) = entry.inner.plain() {
            self.plain.release(transport.remote().ports());
        }
        let ice = entry.inner.web_rtc().map(WebRtcTransport::ice);
        for ufrag in ice.iter().flat_map(|ice| ice.ufrags()) {
            self.by_ufrag.remove(ufrag);
        }
        if entry.restarted {
            // A void one may still be in there.
            self.by_ufrag.retain(|_, owner| *owner != key);
        }
        for tuple in ice.iter().flat_map(|ice| ice.tuples()) {
            self.forget(key, &tuple);
        }
        let data_users = entry.inner.data().users().collect();
        orphans.data_consumers = self.remove_data_of(data_users);
        let Some(room) = self.routers.get(entry.router) else {
            return orphans;
        };
        let own: Vec<ConsumerKey> = room
            .consumers
            .iter()
            .filter(|(_, c)| c.transport == key)
            .map(|(key, _)| key)
            .collect();
        let producers: Vec<ProducerKey> = room
            .producers
            .iter()
            .filter(|(_, p)| p.transport == key)
            .map(|(key, _)| key)
            .collect();
        for consumer in own {
            self.remove_consumer(entry.router, consumer);
        }
        for producer in producers {
            let ended = self.remove_producer(entry.router, producer);
            orphans.consumers.extend(ended);
        }
        orphans
    }

    /// Takes a producer out of every table, with its consumers, whose ids it
    /// answers.
    pub(super) fn remove_producer(
        &mut self,
        router: RouterKey,
        producer: ProducerKey,
    ) -> Vec<String> {
        let Some(room) = self.routers.get_mut(router) else {
            return Vec::new();
        };
        let consumers = room.graph.close_producer(producer);
        let entry = room.producers.remove(producer);
        let ids = consumers
            .into_iter()
            .filter_map(|consumer| self.forget_consumer(router, consumer))
            .collect();
        if let Some(entry) = entry {
            self.producer_ids.remove(&entry.id);
            self.keep_producer(entry.transport, producer);
            self.call(entry.transport, |t| t.close_producer(producer));
            self.mark_dirty(entry.transport);
        }
        self.act(router);
        ids
    }

    /// Takes a consumer out of every table.
    pub(super) fn remove_consumer(&mut self, router: RouterKey, consumer: ConsumerKey) {
        if let Some(room) = self.routers.get_mut(router) {
            room.graph.close_consumer(consumer);
        }
        self.forget_consumer(router, consumer);
        self.act(router);
    }

    /// Takes a consumer, which the media graph has forgotten, out of the rest.
    fn forget_consumer(&mut self, router: RouterKey, consumer: ConsumerKey) -> Option<String> {
        let entry = self.routers.get_mut(router)?.consumers.remove(consumer)?;
        self.consumer_ids.remove(&entry.id);
        self.keep_consumer(entry.transport, entry.slot);
        self.call(entry.transport, |t| t.close_consumer(entry.slot));
        self.mark_dirty(entry.transport);
        if let Some(transport) = self.transports.get_mut(entry.transport)
            && !transport.inner.sending().has_video()
        {
            transport.sharing = None;
            transport.inner.want_nothing();
        }
        Some(entry.id)
    }
}
