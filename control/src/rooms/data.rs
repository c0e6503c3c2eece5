//! Data channels: what peers and the bot send as messages, and who receives
//! it. As with media, data consumers are made many in one call to the worker;
//! unlike media they flow at once, and a client that never answers
//! `newDataConsumer` keeps its data consumer.

use proto::{ConsumeDataRequest, DataConsumerSpec, SctpStreamParameters};
use serde_json::Value;
use tracing::{debug, warn};
use uuid::Uuid;

use super::messages;
use super::room::Room;
use super::undo::Made;
use crate::error::Error;
use crate::protoo::connection::{Notification, Refusal, SessionId};

/// Streams of a transport, at most, and where its client does not say: as many
/// as the original gives.
pub(super) const DEFAULT_STREAMS: u16 = 1024;

/// Longest message of a data channel in either direction, bytes.
pub(super) const MAX_MESSAGE_SIZE: u32 = 262_144;

/// Who receives what is sent on a data channel; its label says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every other peer (`chat`), or from the bot every peer.
    Everybody,
    /// The server's bot (`bot`).
    Bot,
    /// Nobody: any other label.
    Nobody,
}

impl Reach {
    /// What a client's label means.
    pub fn of(label: &str) -> Self {
        match label {
            "chat" => Reach::Everybody,
            "bot" => Reach::Bot,
            _ => Reach::Nobody,
        }
    }
}

/// Who sends on a data producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Peer(SessionId),
    Bot,
}

/// A data channel towards the server, or the bot's end of its own.
#[derive(Debug)]
pub(super) struct DataProducer {
    pub id: String,
    /// `None` for the bot's: that one is not of a transport.
    pub transport_id: Option<String>,
    /// What data consumers are made from, all but the stream id.
    pub stream: SctpStreamParameters,
    pub label: String,
    pub protocol: String,
    /// The client's own data, with its `peerId`.
    pub app_data: Value,
    pub reach: Reach,
    /// Who receives it: session and data consumer id.
    pub consumers: Vec<(SessionId, String)>,
}

/// A data channel towards a peer.
#[derive(Debug)]
pub(super) struct DataConsumer {
    pub transport_id: String,
    pub stream_id: u16,
    pub sender: Sender,
    pub data_producer_id: String,
}

/// A data producer that a peer shall receive.
#[derive(Debug)]
pub(super) struct WantedData {
    session: SessionId,
    sender: Sender,
    data_producer_id: String,
}

/// A data consumer on its way to the worker, and what its client will be told.
struct Prepared {
    session: SessionId,
    spec: DataConsumerSpec,
    offer: Value,
}

impl DataProducer {
    fn has_consumer_of(&self, session: SessionId) -> bool {
        self.consumers.iter().any(|(owner, _)| *owner == session)
    }
}

impl Room {
    /// Every message channel that this peer should receive and does not yet.
    pub fn wanted_data_by(&self, session: SessionId) -> Vec<WantedData> {
        let others = self.peers.iter().filter(|(other, _)| **other != session);
        let of_peers = others.flat_map(|(other, peer)| {
            let sender = Sender::Peer(*other);
            peer.data_producers.iter().map(move |it| (sender, it))
        });
        let of_bot = self.bot.producer().map(|producer| (Sender::Bot, producer));
        let wanted = of_peers.chain(of_bot).filter(|(_, producer)| {
            producer.reach == Reach::Everybody && !producer.has_consumer_of(session)
        });
        wanted
            .map(|(sender, producer)| WantedData {
                session,
                sender,
                data_producer_id: producer.id.clone(),
            })
            .collect()
    }

    /// This data producer, for everybody but its own sender.
    pub fn wanting_data(&self, sender: Sender, data_producer_id: &str) -> Vec<WantedData> {
        let sessions = self.peers.keys();
        sessions
            .filter(|session| sender != Sender::Peer(**session))
            .map(|session| WantedData {
                session: *session,
                sender,
                data_producer_id: data_producer_id.to_owned(),
            })
            .collect()
    }

    /// Makes the data consumers that are wanted and possible, in one call, and
    /// offers them to their clients. Who has not joined, or has no transport to
    /// receive on, or no stream left on it, is passed over.
    pub async fn consume_data(&mut self, wanted: Vec<WantedData>) {
        let prepared = wanted
            .into_iter()
            .filter_map(|wanted| self.prepare_data(wanted));
        let prepared: Vec<Prepared> = prepared.collect();
        if prepared.is_empty() {
            return;
        }
        let data_consumers = prepared.iter().map(|it| it.spec.clone()).collect();
        let request = ConsumeDataRequest { data_consumers };
        let mut results = match self.worker.client.consume_data(request).await {
            Ok(response) => response.results.into_iter(),
            Err(error) => {
                warn!(room = %self.id, %error, "cannot consume data");
                let ids = prepared.iter().map(|it| it.spec.data_consumer_id.clone());
                self.undo(Made::DataConsumers(ids.collect()), &error);
                Vec::new().into_iter()
            }
        };
        for Prepared {
            session,
            spec,
            offer,
        } in prepared
        {
            let id = spec.data_consumer_id;
            match results.next() {
                Some(result) if result.error.is_empty() => {
                    if let Some(peer) = self.peers.get(&session) {
                        peer.connection.request("newDataConsumer", &offer, id);
                    }
                }
                result => {
                    let error = result.map(|result| result.error);
                    debug!(room = %self.id, data_consumer = id, ?error, "no data consumer");
                    self.take_back_data(session, &id);
                }
            }
        }
    }

    /// Enters a data consumer into the room's books, where it is possible, on the
    /// transport that its peer receives on.
    fn prepare_data(&mut self, wanted: WantedData) -> Option<Prepared> {
        let session = wanted.session;
        let receiver = self.peers.get_mut(&session)?;
        receiver.joined.as_ref()?;
        let transport_id = receiver.receiving_transport()?.id.clone();
        let peer_id = match wanted.sender {
            Sender::Peer(sender) => Some(self.peers.get(&sender)?.id.clone()),
            Sender::Bot => None,
        };
        let entered = self.enter_data_consumer(&wanted, &transport_id);
        let spec = entered
            .inspect_err(|error| {
                let peer = self.told(session);
                debug!(room = %self.id, peer, %error, "no data consumer");
            })
            .ok()?;
        let producer = self.data_producer(wanted.sender, &wanted.data_producer_id)?;
        let peer_id = peer_id.as_ref().map(|id| id.as_str());
        let offer = messages::new_data_consumer(peer_id, producer, &spec);
        Some(Prepared {
            session,
            spec,
            offer,
        })
    }

    /// Enters a data consumer into the room's books.
    ///
    /// # Errors
    /// [`Error::UnknownEntity`], or [`Error::NotPossible`] when there is one
    /// already or no stream is left on the transport.
    pub fn enter_data_consumer(
        &mut self,
        wanted: &WantedData,
        transport_id: &str,
    ) -> Result<DataConsumerSpec, Error> {
        let (session, id) = (wanted.session, &wanted.data_producer_id);
        let unknown = || Error::unknown("dataProducer", id);
        let producer = self.data_producer(wanted.sender, id).ok_or_else(unknown)?;
        if producer.has_consumer_of(session) {
            let text = "the data producer is consumed already";
            return Err(Error::NotPossible(text.into()));
        }
        let mut stream = producer.stream;
        let receiver = self.peer(session)?;
        let streams = &mut receiver.transport(transport_id)?.streams;
        let full = || Error::NotPossible("no SCTP stream is left on the transport".into());
        let stream_id = streams.take_next().ok_or_else(full)?;
        stream.stream_id = stream_id.into();
        let data_consumer_id = Uuid::new_v4().to_string();
        let consumer = DataConsumer {
            transport_id: transport_id.to_owned(),
            stream_id,
            sender: wanted.sender,
            data_producer_id: id.clone(),
        };
        receiver
            .data_consumers
            .insert(data_consumer_id.clone(), consumer);
        let producer = self.data_producer(wanted.sender, id).ok_or_else(unknown)?;
        producer.consumers.push((session, data_consumer_id.clone()));
        Ok(DataConsumerSpec {
            transport_id: transport_id.to_owned(),
            data_consumer_id,
            data_producer_id: id.clone(),
            stream: Some(stream),
        })
    }

    /// A data producer of a peer or of the bot, for this peer; `None`: there is
    /// none of this id.
    pub fn wanted_of_anybody(&self, session: SessionId, id: &str) -> Option<WantedData> {
        let of_peers = self.peers.iter().flat_map(|(owner, peer)| {
            let sender = Sender::Peer(*owner);
            peer.data_producers.iter().map(move |it| (sender, it))
        });
        let of_bot = self.bot.producer().map(|producer| (Sender::Bot, producer));
        let mut found = of_peers.chain(of_bot).filter(|(_, it)| it.id == id);
        found.next().map(|(sender, producer)| WantedData {
            session,
            sender,
            data_producer_id: producer.id.clone(),
        })
    }

    fn data_producer(&mut self, sender: Sender, id: &str) -> Option<&mut DataProducer> {
        match sender {
            Sender::Peer(session) => {
                let peer = self.peers.get_mut(&session)?;
                peer.data_producer(id).ok()
            }
            Sender::Bot => self.bot.producer_mut().filter(|producer| producer.id == id),
        }
    }

    /// A client's word on a `newDataConsumer`.
    pub async fn on_data_answer(
        &mut self,
        session: SessionId,
        data_consumer_id: &str,
        result: Result<(), Refusal>,
    ) {
        let reason = match result {
            Ok(()) => return,
            Err(Refusal::TimedOut) => {
                debug!(room = %self.id, data_consumer_id, "newDataConsumer not answered");
                return;
            }
            Err(Refusal::Rejected(reason)) => reason,
        };
        debug!(room = %self.id, data_consumer_id, reason, "newDataConsumer rejected");
        self.take_back_data(session, data_consumer_id);
        let data_consumer_id = data_consumer_id.to_owned();
        let request = proto::CloseDataConsumerRequest { data_consumer_id };
        if let Err(error) = self.worker.client.close_data_consumer(request).await {
            debug!(room = %self.id, %error, "cannot close a data consumer");
        }
    }

    /// The worker closed a data consumer.
    pub fn on_data_consumer_closed(&mut self, data_consumer_id: &str) {
        let mut peers = self.peers.iter();
        let owner = peers.find(|(_, peer)| peer.data_consumers.contains_key(data_consumer_id));
        if let Some(session) = owner.map(|(session, _)| *session) {
            self.forget_data_consumer(session, data_consumer_id);
        }
    }

    /// Removes a data producer and its data consumers, and tells their clients.
    pub fn forget_data_producer(&mut self, session: SessionId, data_producer_id: &str) {
        let Some(peer) = self.peers.get_mut(&session) else {
            return;
        };
        let is_it = |it: &mut DataProducer| it.id == data_producer_id;
        let gone: Vec<_> = peer.data_producers.extract_if(.., is_it).collect();
        for producer in &gone {
            if let (Some(transport), Ok(stream_id)) = (
                &producer.transport_id,
                u16::try_from(producer.stream.stream_id),
            ) {
                peer.free_stream(transport, stream_id);
            }
        }
        for producer in &gone {
            self.forget_data_consumers_of(producer);
        }
    }

    /// Removes the data consumers of a data producer that is gone, and tells
    /// their clients.
    pub fn forget_data_consumers_of(&mut self, producer: &DataProducer) {
        for (session, data_consumer_id) in &producer.consumers {
            self.forget_data_consumer(*session, data_consumer_id);
        }
    }

    /// Removes a data consumer and tells its client.
    pub fn forget_data_consumer(&mut self, session: SessionId, data_consumer_id: &str) {
        if !self.take_back_data(session, data_consumer_id) {
            return;
        }
        if let Some(peer) = self.peers.get(&session) {
            let data = messages::data_consumer_closed(data_consumer_id);
            let notification = Notification::new("dataConsumerClosed", &data);
            peer.connection.notify(&notification);
        }
    }

    /// Removes a data consumer without a word; false when there is none.
    pub fn take_back_data(&mut self, session: SessionId, data_consumer_id: &str) -> bool {
        let Some(peer) = self.peers.get_mut(&session) else {
            return false;
        };
        let Some(consumer) = peer.data_consumers.remove(data_consumer_id) else {
            return false;
        };
        peer.free_stream(&consumer.transport_id, consumer.stream_id);
        self.unlink_data_consumer(data_consumer_id, &consumer);
        true
    }

    /// Removes a data consumer that is gone from its data producer.
    pub fn unlink_data_consumer(&mut self, data_consumer_id: &str, consumer: &DataConsumer) {
        if let Some(producer) = self.data_producer(consumer.sender, &consumer.data_producer_id) {
            producer.consumers.retain(|(_, id)| id != data_consumer_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        assert_eq!(Reach::of("chat"), Reach::Everybody);
        assert_eq!(Reach::of("bot"), Reach::Bot);
        for label in ["", "Chat", "chat2", "robot"] {
            assert_eq!(Reach::of(label), Reach::Nobody, "{label}");
        }
    }
}
