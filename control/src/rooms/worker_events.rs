//! What the media worker does by itself, and what else follows when a
//! transport, producer or consumer ends: bookkeeping, and telling the clients.

use proto::event::Event;
use proto::{DtlsState, IceState, TransportStateChanged};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::data::{DataConsumer, DataProducer};
use super::peer::{Consumer, Peer, Producer};
use super::room::Room;
use crate::protoo::connection::{Close, Notification, SessionId};

impl Room {
    /// An event of the worker. One that names something unknown is late: the
    /// room has closed that already.
    pub async fn on_event(&mut self, event: proto::Event) {
        match &event.event {
            Some(Event::TransportClosed(_)) => self.metrics.transport_closed(),
            Some(Event::ConsumerLayers(_)) => self.metrics.layers_changed(),
            Some(Event::TransportState(it)) => {
                self.metrics
                    .transport_state(it.ice_state(), it.dtls_state());
            }
            _ => {}
        }
        match event.event {
            Some(Event::TransportClosed(closed)) => {
                self.on_transport_closed(&closed.transport_id, &closed.reason)
                    .await;
            }
            Some(Event::ConsumerClosed(closed)) => self.on_consumer_closed(&closed.consumer_id),
            Some(Event::DataConsumerClosed(closed)) => {
                self.on_data_consumer_closed(&closed.data_consumer_id);
            }
            Some(Event::DataMessage(message)) => self.on_data_message(message).await,
            Some(Event::ProducerScore(changed)) => self.on_producer_score(&changed),
            Some(Event::ConsumerScore(changed)) => self.on_consumer_score(&changed),
            Some(Event::ConsumerLayers(changed)) => self.on_consumer_layers(&changed),
            Some(Event::DownlinkBwe(bwe)) => self.on_downlink_bwe(&bwe),
            Some(Event::ActiveSpeaker(speaker)) => self.on_active_speaker(&speaker),
            Some(Event::DominantSpeaker(speaker)) => {
                debug!(room = %self.id, producer = speaker.producer_id, "dominant speaker");
                self.dominant = Some(speaker.producer_id);
            }
            // Clients read it from the packets; nobody is told.
            Some(Event::VideoOrientation(changed)) => debug!(
                room = %self.id,
                producer = changed.producer_id,
                camera = changed.camera,
                flip = changed.flip,
                rotation = changed.rotation,
                "video orientation"
            ),
            Some(Event::TransportState(state)) => self.on_transport_state(&state).await,
            None => warn!(room = %self.id, "unknown event of the worker"),
        }
    }

    /// A peer that ends with its transports ends when one of them has lost its
    /// client. In the other dialect only the transport ends, after
    /// `Timings::lost_transport`: until then its client may restart ICE on it, or come back
    /// by itself.
    async fn on_transport_state(&mut self, state: &TransportStateChanged) {
        let (ice, dtls) = (state.ice_state(), state.dtls_state());
        let transport = state.transport_id.as_str();
        let lost =
            ice == IceState::Disconnected || matches!(dtls, DtlsState::Failed | DtlsState::Closed);
        let owner = self.owner_of_transport(transport);
        let peer = owner.and_then(|session| self.told(session));
        debug!(room = %self.id, peer, transport, ?ice, ?dtls, "transport state");
        let Some(session) = owner else {
            return;
        };
        if lost && self.ends_with_its_transports(session) {
            info!(room = %self.id, peer, transport, ?ice, ?dtls, "peer lost with its transport");
            self.close_peer(session, Close::MEDIA_LOST).await;
        } else if let Some(peer) = self.peers.get_mut(&session)
            && let Ok(transport) = peer.transport(transport)
        {
            let since = transport.lost_since.unwrap_or_else(Instant::now);
            transport.lost_since = (ice == IceState::Disconnected).then_some(since);
        }
    }

    /// The worker closed a transport. Unless the peer ends with it, its client may
    /// make another, and what it received goes on there at once if it has done so.
    async fn on_transport_closed(&mut self, transport_id: &str, reason: &str) {
        let Some(session) = self.owner_of_transport(transport_id) else {
            return;
        };
        let (peer, transport) = (self.told(session), transport_id);
        debug!(room = %self.id, peer, transport, reason, "transport closed by the worker");
        let ends = self.ends_with_its_transports(session);
        if ends {
            info!(room = %self.id, peer, transport, reason, "peer lost with its transport");
        }
        self.forget_transport(session, transport_id);
        if ends {
            return self.close_peer(session, Close::MEDIA_LOST).await;
        }
        self.receive(session).await;
    }

    fn owner_of_transport(&self, transport_id: &str) -> Option<SessionId> {
        let has_it = |peer: &Peer| peer.transports.iter().any(|t| t.id == transport_id);
        let owner = self.peers.iter().find(|(_, peer)| has_it(peer));
        owner.map(|(session, _)| *session)
    }

    fn ends_with_its_transports(&self, session: SessionId) -> bool {
        let peer = self.peers.get(&session);
        peer.is_some_and(|peer| peer.options.dialect.ends_with_its_transports())
    }

    fn on_consumer_closed(&mut self, consumer_id: &str) {
        let has_it = |peer: &Peer| peer.consumers.contains_key(consumer_id);
        let owner = self.peers.iter().find(|(_, peer)| has_it(peer));
        if let Some(session) = owner.map(|(session, _)| *session) {
            self.forget_consumer(session, consumer_id);
        }
    }

    /// Removes a transport with what is on it, and tells whom it concerns.
    pub(super) fn forget_transport(&mut self, session: SessionId, transport_id: &str) {
        let Some(peer) = self.peers.get_mut(&session) else {
            return;
        };
        peer.remove_transport(transport_id);
        let on_it = |producer: &mut Producer| producer.transport_id == transport_id;
        let producers: Vec<_> = peer.producers.extract_if(.., on_it).collect();
        let on_it = |(_, consumer): &(&String, &Consumer)| consumer.transport_id == transport_id;
        let consumers = peer.consumers.iter().filter(on_it);
        let consumers: Vec<_> = consumers.map(|(id, _)| id.clone()).collect();
        let on_it = |it: &mut DataProducer| it.transport_id.as_deref() == Some(transport_id);
        let data_producers: Vec<_> = peer.data_producers.extract_if(.., on_it).collect();
        let on_it = |(_, it): &(&String, &DataConsumer)| it.transport_id == transport_id;
        let data_consumers = peer.data_consumers.iter().filter(on_it);
        let data_consumers: Vec<_> = data_consumers.map(|(id, _)| id.clone()).collect();
        for producer in &producers {
            self.forget_consumers_of(producer);
        }
        for producer in &data_producers {
            self.forget_data_consumers_of(producer);
        }
        for data_consumer_id in data_consumers {
            self.forget_data_consumer(session, &data_consumer_id);
        }
        for consumer_id in consumers {
            self.forget_consumer(session, &consumer_id);
        }
    }

    /// Removes a producer and its consumers, and tells their clients.
    pub fn forget_producer(&mut self, session: SessionId, producer_id: &str) {
        let Some(peer) = self.peers.get_mut(&session) else {
            return;
        };
        let Some(index) = peer.producers.iter().position(|it| it.id == producer_id) else {
            return;
        };
        let producer = peer.producers.remove(index);
        for transport in &mut peer.transports {
            transport.receive_ids.remove(producer_id);
        }
        self.forget_consumers_of(&producer);
    }

    /// Removes the consumers of a producer that is gone, and tells their
    /// clients.
    pub fn forget_consumers_of(&mut self, producer: &Producer) {
        for (session, consumer_id) in &producer.consumers {
            self.forget_consumer(*session, consumer_id);
        }
    }

    /// Removes a consumer and tells its client.
    fn forget_consumer(&mut self, session: SessionId, consumer_id: &str) {
        let Some(peer) = self.peers.get_mut(&session) else {
            return;
        };
        let Some(consumer) = peer.consumers.remove(consumer_id) else {
            return;
        };
        let data = json!({ "consumerId": consumer_id });
        let notification = Notification::new("consumerClosed", &data);
        peer.connection.notify(&notification);
        self.unlink_consumer(consumer_id, &consumer);
    }

    /// Removes every other trace of a consumer that is gone.
    pub fn unlink_consumer(&mut self, consumer_id: &str, consumer: &Consumer) {
        self.ssrcs.remove(&consumer.ssrc);
        self.ssrcs.remove(&consumer.ssrc.wrapping_add(1));
        if let Some(peer) = self.peers.get_mut(&consumer.producer_session)
            && let Ok(producer) = peer.producer(&consumer.producer_id)
        {
            producer.consumers.retain(|(_, id)| id != consumer_id);
        }
    }
}
