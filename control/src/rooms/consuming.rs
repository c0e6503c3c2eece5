//! Who receives what: making consumers, many in one call to the worker, and
//! offering them to their clients. A consumer starts paused; the client's
//! acceptance of `newConsumer` resumes it, so that its first packets, the
//! keyframe among them, do not come before the client can take them.

use std::iter::repeat_n;

use proto::{ConsumeRequest, ConsumerScore, ConsumerSpec, ResumeConsumerRequest};
use serde_json::{Map, Value};
use tracing::{debug, warn};
use uuid::Uuid;

use super::messages;
use super::peer::{Consumer, Peer, Producer};
use super::room::Room;
use super::undo::Made;
use crate::error::Error;
use crate::ortc::worker::{ConsumerIds, consumer_spec};
use crate::ortc::{
    self, ConsumerOptions, MAX_SSRC, MIN_SSRC, OrtcError, RtpCapabilities, RtpParameters,
};
use crate::protoo::connection::{Notification, Refusal, SessionId};

/// A producer that a peer shall receive, once.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    session: SessionId,
    producer_session: SessionId,
    producer_id: String,
}

/// A consumer on its way to the worker, and what its client will be told.
struct Prepared {
    session: SessionId,
    consumer_id: String,
    spec: ConsumerSpec,
    offer: Map<String, Value>,
}

impl Room {
    /// The peer of a session.
    pub fn peer(&mut self, session: SessionId) -> Result<&mut Peer, Error> {
        let gone = || Error::NotPossible("peer closed".into());
        self.peers.get_mut(&session).ok_or_else(gone)
    }

    /// Everything that others send and this peer does not receive yet, as often
    /// as it asked for.
    pub fn wanted_by(&self, session: SessionId) -> Vec<Wanted> {
        let copies = self.peers.get(&session).map_or(0, Peer::copies);
        let others = self.peers.iter().filter(|(other, _)| **other != session);
        let producers = others.flat_map(|(other, peer)| {
            let producers = peer.producers.iter();
            producers.map(move |producer| (*other, producer))
        });
        producers
            .flat_map(|(producer_session, producer)| {
                let wanted = Wanted {
                    session,
                    producer_session,
                    producer_id: producer.id.clone(),
                };
                repeat_n(
                    wanted,
                    copies.saturating_sub(producer.consumers_of(session)),
                )
            })
            .collect()
    }

    /// Makes what this peer should receive and does not yet, media and data, and
    /// the bot for the first who can hear it.
    pub async fn receive(&mut self, session: SessionId) {
        let wanted = self.wanted_by(session);
        self.consume(wanted).await;
        if self.peer(session).is_ok_and(Peer::can_receive) {
            self.wake_bot().await;
        }
        let wanted = self.wanted_data_by(session);
        self.consume_data(wanted).await;
    }

    /// This producer, for everybody else, as often as each asked for.
    pub fn wanting(&self, producer_session: SessionId, producer_id: &str) -> Vec<Wanted> {
        let others = self.peers.iter().filter(|(it, _)| **it != producer_session);
        others
            .flat_map(|(session, peer)| {
                let wanted = Wanted {
                    session: *session,
                    producer_session,
                    producer_id: producer_id.to_owned(),
                };
                repeat_n(wanted, peer.copies())
            })
            .collect()
    }

    /// Makes the consumers that are wanted and possible, in one call, and
    /// offers them to their clients. Who has not joined, cannot decode it, or
    /// has no transport to receive on, is passed over.
    pub async fn consume(&mut self, wanted: Vec<Wanted>) {
        let prepared = wanted.into_iter().filter_map(|wanted| self.prepare(wanted));
        let prepared: Vec<Prepared> = prepared.collect();
        if prepared.is_empty() {
            return;
        }
        let consumers = prepared.iter().map(|it| it.spec.clone()).collect();
        let request = ConsumeRequest { consumers };
        let mut results = match self.worker.client.consume(request).await {
            Ok(response) => response.results.into_iter(),
            Err(error) => {
                warn!(room = %self.id, %error, "cannot consume");
                let ids = prepared.iter().map(|it| it.consumer_id.clone()).collect();
                self.undo(Made::Consumers(ids), &error);
                Vec::new().into_iter()
            }
        };
        for prepared in prepared {
            match results.next() {
                Some(result) if result.error.is_empty() => {
                    self.offer(prepared, &result.score.unwrap_or_default());
                }
                result => {
                    let error = result.map(|result| result.error);
                    let (peer, consumer) = (self.told(prepared.session), &prepared.consumer_id);
                    debug!(room = %self.id, peer, consumer, ?error, "no consumer");
                    self.take_back(prepared.session, &prepared.consumer_id);
                }
            }
        }
    }

    /// Enters a consumer into the room's books, where it is possible.
    fn prepare(&mut self, wanted: Wanted) -> Option<Prepared> {
        let ssrc = self.free_ssrc();
        let sender = self.peers.get(&wanted.producer_session)?;
        let mut producers = sender.producers.iter();
        let producer = producers.find(|it| it.id == wanted.producer_id)?;
        let has = producer.consumers_of(wanted.session);
        let consumable = producer.consumable.clone();
        let mut offer = offer_of(sender, producer);
        let peer = self.peers.get_mut(&wanted.session)?;
        if has >= peer.copies() {
            return None;
        }
        let capabilities = peer.joined.as_ref()?.rtp_capabilities.clone()?;
        if !ortc::can_consume(&consumable, &capabilities) {
            return None;
        }
        let transport = peer.receiving_transport()?;
        let options = ConsumerOptions {
            mid: transport.mids.next_mid(),
            ssrc,
            // For audio too, as the seed does: it gives Opus its NACK.
            enable_rtx: true,
        };
        let consumer_id = Uuid::new_v4().to_string();
        let ids = ConsumerIds {
            transport_id: &transport.id,
            consumer_id: &consumer_id,
            producer_id: &wanted.producer_id,
        };
        let negotiated = negotiate(ids, &consumable, &capabilities, &options);
        let (spec, rtp_parameters) = negotiated
            .inspect_err(|error| {
                let (peer, producer) = (&peer.id, &wanted.producer_id);
                warn!(room = %self.id, %peer, producer, %error, "cannot negotiate a consumer");
            })
            .ok()?;
        offer.insert("id".into(), consumer_id.clone().into());
        offer.insert("transportId".into(), spec.transport_id.clone().into());
        offer.insert("rtpParameters".into(), rtp_parameters);
        let consumer = Consumer {
            transport_id: spec.transport_id.clone(),
            producer_id: wanted.producer_id.clone(),
            producer_session: wanted.producer_session,
            paused_by_client: false,
            ssrc,
            layers: None,
        };
        peer.consumers.insert(consumer_id.clone(), consumer);
        self.ssrcs.extend([ssrc, ssrc.wrapping_add(1)]);
        let sender = self.peers.get_mut(&wanted.producer_session)?;
        let producer = sender.producer(&wanted.producer_id).ok()?;
        producer
            .consumers
            .push((wanted.session, consumer_id.clone()));
        Some(Prepared {
            session: wanted.session,
            consumer_id,
            spec,
            offer,
        })
    }

    /// An SSRC that no consumer of the room has, nor the one after it.
    pub fn free_ssrc(&self) -> u32 {
        loop {
            let ssrc = rand::random_range(MIN_SSRC..=MAX_SSRC);
            let taken = |ssrc: u32| self.ssrcs.contains(&ssrc);
            if !taken(ssrc) && !taken(ssrc.wrapping_add(1)) {
                return ssrc;
            }
        }
    }

    fn offer(&self, mut prepared: Prepared, score: &ConsumerScore) {
        if let Some(peer) = self.peers.get(&prepared.session) {
            let tag = prepared.consumer_id;
            prepared
                .offer
                .insert("consumerScore".into(), messages::score_of(score));
            let offer = Value::Object(prepared.offer);
            peer.connection.request("newConsumer", &offer, tag);
        }
    }

    /// Removes a consumer that its client never heard of.
    pub fn take_back(&mut self, session: SessionId, consumer_id: &str) {
        let peer = self.peers.get_mut(&session);
        if let Some(consumer) = peer.and_then(|peer| peer.consumers.remove(consumer_id)) {
            self.unlink_consumer(consumer_id, &consumer);
        }
    }

    /// A client's word on a `newConsumer` or `newDataConsumer`. A consumer that
    /// it does not answer for in time stays paused: the client may still resume
    /// it by its own request.
    pub async fn on_answer(
        &mut self,
        session: SessionId,
        consumer_id: &str,
        result: Result<(), Refusal>,
    ) {
        let Ok(peer) = self.peer(session) else { return };
        if peer.data_consumers.contains_key(consumer_id) {
            return self.on_data_answer(session, consumer_id, result).await;
        }
        let Ok(consumer) = peer.consumer(consumer_id) else {
            // Closed meanwhile.
            return;
        };
        let paused_by_client = consumer.paused_by_client;
        match result {
            Ok(()) if paused_by_client => {}
            Ok(()) => self.resume_accepted(session, consumer_id).await,
            Err(Refusal::TimedOut) => {
                let (peer, consumer) = (self.told(session), consumer_id);
                debug!(room = %self.id, peer, consumer, "newConsumer not answered");
            }
            Err(Refusal::Rejected(reason)) => {
                let (peer, consumer) = (self.told(session), consumer_id);
                debug!(room = %self.id, peer, consumer, reason, "newConsumer rejected");
                self.take_back(session, consumer_id);
                let consumer_id = consumer_id.to_owned();
                let request = proto::CloseConsumerRequest { consumer_id };
                if let Err(error) = self.worker.client.close_consumer(request).await {
                    debug!(room = %self.id, %error, "cannot close a consumer");
                }
            }
        }
    }

    async fn resume_accepted(&mut self, session: SessionId, consumer_id: &str) {
        let request = ResumeConsumerRequest {
            consumer_id: consumer_id.to_owned(),
        };
        match self.worker.client.resume_consumer(request).await {
            Ok(score) => {
                let data = messages::consumer_score(consumer_id, &score);
                if let Some(peer) = self.peers.get(&session) {
                    let notification = Notification::new("consumerScore", &data);
                    peer.connection.notify(&notification);
                }
            }
            Err(error) => {
                let (peer, consumer) = (self.told(session), consumer_id);
                warn!(room = %self.id, peer, consumer, %error, "cannot resume a consumer");
            }
        }
    }
}

/// What `newConsumer` tells of the producer.
fn offer_of(sender: &Peer, producer: &Producer) -> Map<String, Value> {
    let fields = [
        ("peerId", sender.id.as_str().into()),
        ("producerId", producer.id.as_str().into()),
        ("kind", producer.kind.as_str().into()),
        ("type", producer.producer_type.as_str().into()),
        ("appData", producer.app_data.clone()),
        ("producerPaused", producer.paused.into()),
    ];
    let own = |(name, value): (&str, Value)| (name.to_owned(), value);
    fields.into_iter().map(own).collect()
}

/// A consumer's parameters, as the worker and as the client gets them.
pub(super) fn negotiate(
    ids: ConsumerIds<'_>,
    consumable: &RtpParameters,
    capabilities: &RtpCapabilities,
    options: &ConsumerOptions,
) -> Result<(ConsumerSpec, Value), OrtcError> {
    let rtp_parameters = ortc::consumer_rtp_parameters(consumable, capabilities, options)?;
    let spec = consumer_spec(ids, &rtp_parameters, true)?;
    let json = serde_json::to_value(&rtp_parameters);
    let json = json.map_err(|error| OrtcError::Unsupported(error.to_string()))?;
    Ok((spec, json))
}
