//! Broadcasters: members of a room that are driven over HTTP, typically by a
//! script that feeds a file or a camera. Peers see one as they see each other.
//! It takes no seat, keeps no room alive, has no webhook, and receives only what
//! it asks for; unless it wants them paused, such consumers flow at once.

mod newest;
mod plain;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tracing::{debug, info};
use uuid::Uuid;

use super::consuming::negotiate;
use super::ids::{PeerId, RoomId};
use super::mailbox::Command;
use super::peer::{Consumer, Joined, Peer, Producer};
use super::registry::Rooms;
use super::requests::{self, fields};
use super::room::{Departure, Room};
use super::undo::Made;
use crate::error::Error;
use crate::ortc::worker::ConsumerIds;
use crate::ortc::{self, ConsumerOptions};
use crate::protoo::connection::SessionId;
use crate::traces::Cause;
use crate::workers::WorkerError;

/// Flag, name and version of a broadcaster's device, at most, in characters.
const MAX_DEVICE_TEXT: usize = 256;

/// What a broadcaster may ask for. Bodies are those of the HTTP API.
#[derive(Debug)]
pub enum BroadcasterRequest {
    /// Come into being as a member; the body has the `id`.
    Create {
        /// Who.
        body: Value,
        /// Where its requests come from.
        remote: Option<SocketAddr>,
    },
    /// Come into being without joining yet; the body has the `peerId`.
    Enter {
        /// Who.
        body: Value,
        /// Where its requests come from.
        remote: Option<SocketAddr>,
    },
    /// Become a member.
    Join,
    /// Go, with everything it has.
    Delete,
    /// A transport.
    CreateTransport(Value),
    /// Connect a transport.
    Connect {
        /// Which one.
        transport_id: String,
        /// Its DTLS parameters, or where the remote of a plain one is.
        body: Value,
    },
    /// Send a stream.
    Produce {
        /// Where.
        transport_id: String,
        /// What.
        body: Value,
    },
    /// Receive a producer.
    Consume(ConsumeRequest),
    /// Go on with a consumer that is paused.
    Resume {
        /// Which one.
        consumer_id: String,
    },
    /// Tell everybody's producers.
    PeerProducersInfos,
    /// Send messages.
    ProduceData {
        /// Where.
        transport_id: String,
        /// What.
        body: Value,
    },
    /// Receive messages.
    ConsumeData {
        /// Where.
        transport_id: String,
        /// Which; names the data producer.
        body: Value,
    },
}

/// What a broadcaster wants to receive.
#[derive(Debug, Default)]
pub struct ConsumeRequest {
    /// Where.
    pub transport_id: String,
    /// Which producer.
    pub producer_id: String,
    /// `rtpCapabilities` for this consumer; those that the broadcaster came with
    /// when `None`.
    pub rtp_capabilities: Option<Value>,
    /// It does not flow before it is resumed.
    pub paused: bool,
}

/// A request on its way to the room.
#[derive(Debug)]
pub(super) struct Asked {
    /// Empty for one that does not exist yet.
    broadcaster: String,
    request: BroadcasterRequest,
    reply: oneshot::Sender<Result<Value, Error>>,
}

impl Rooms {
    /// Serves a broadcaster of a room; the answer is that of the HTTP API.
    ///
    /// # Errors
    /// [`Error::UnknownEntity`], [`Error::BadField`], as [`Rooms::check`], or
    /// whatever keeps the room from doing it.
    pub async fn broadcaster(
        &self,
        room: &RoomId,
        broadcaster: &str,
        request: BroadcasterRequest,
    ) -> Result<Value, Error> {
        let inbox = self.inbox(room)?;
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            broadcaster: broadcaster.to_owned(),
            request,
            reply,
        };
        // A room that ends meanwhile takes the answer with it.
        let _ = inbox.send(Command::Broadcaster(asked, Cause::now())).await;
        answer.await.unwrap_or_else(|_| Err(self.gone(room)))
    }
}

impl Asked {
    /// Answers for a room that does not come about.
    pub fn refuse(self, error: Error) {
        drop(self.reply.send(Err(error)));
    }
}

impl Room {
    /// Serves one request. Whoever asked may have gone meanwhile: then the
    /// answer is dropped.
    pub async fn on_broadcaster(&mut self, asked: Asked) {
        let Asked {
            broadcaster,
            request,
            reply,
        } = asked;
        let request = match request {
            BroadcasterRequest::Create { body, remote } => {
                return drop(reply.send(self.create_broadcaster(&body, remote)));
            }
            BroadcasterRequest::Enter { body, remote } => {
                return drop(reply.send(self.enter_broadcaster(&body, remote)));
            }
            request => request,
        };
        let Some(session) = self.broadcaster_session(&broadcaster) else {
            return drop(reply.send(Err(Error::unknown("broadcaster", &broadcaster))));
        };
        let (method, data) = match request {
            // Served above.
            BroadcasterRequest::Create { .. } | BroadcasterRequest::Enter { .. } => return,
            BroadcasterRequest::Delete => {
                info!(room = %self.id, broadcaster, "broadcaster left");
                drop(reply.send(Ok(json!({}))));
                return self.remove_peer(session, Departure::Closed).await;
            }
            BroadcasterRequest::Join => return drop(reply.send(self.join_broadcaster(session))),
            BroadcasterRequest::PeerProducersInfos => {
                return drop(reply.send(self.peer_producers_infos(session)));
            }
            BroadcasterRequest::Consume(wish) => {
                return drop(reply.send(self.consume_one(session, &wish).await));
            }
            BroadcasterRequest::ConsumeData { transport_id, body } => {
                let made = self.consume_data_one(session, &transport_id, &body).await;
                return drop(reply.send(made));
            }
            BroadcasterRequest::CreateTransport(body) => match transport_options(&body) {
                Ok(Some(options)) => ("createWebRtcTransport", options),
                Ok(None) => return drop(reply.send(self.create_plain(session, &body).await)),
                Err(error) => return drop(reply.send(Err(error))),
            },
            BroadcasterRequest::Connect { transport_id, body }
                if self.is_plain(session, &transport_id) =>
            {
                let connected = self.connect_plain(session, &transport_id, &body).await;
                return drop(reply.send(connected));
            }
            BroadcasterRequest::Connect { transport_id, body } => {
                let fields = ["dtlsParameters"];
                ("connectWebRtcTransport", with(transport_id, body, &fields))
            }
            BroadcasterRequest::Produce { transport_id, body } => {
                let fields = ["kind", "rtpParameters", "appData"];
                ("produce", with(transport_id, body, &fields))
            }
            BroadcasterRequest::ProduceData { transport_id, body } => {
                let fields = ["label", "protocol", "sctpStreamParameters", "appData"];
                ("produceData", with(transport_id, body, &fields))
            }
            BroadcasterRequest::Resume { consumer_id } => {
                ("resumeConsumer", json!({ "consumerId": consumer_id }))
            }
        };
        let answer = |result: Result<Value, Error>| {
            drop(reply.send(result.map(without_turn_servers)));
        };
        requests::serve(self, session, method, &data, answer).await;
    }

    fn is_plain(&mut self, session: SessionId, transport_id: &str) -> bool {
        let peer = self.peer(session).ok();
        let transport = peer.and_then(|peer| peer.transport(transport_id).ok());
        transport.is_some_and(|transport| transport.plain)
    }

    fn broadcaster_session(&self, id: &str) -> Option<SessionId> {
        let is_it = |peer: &Peer| peer.is_broadcaster && peer.id.as_str() == id;
        let found = self.peers.iter().find(|(_, peer)| is_it(peer));
        found.map(|(session, _)| *session)
    }

    /// Everything is checked before anything changes.
    fn create_broadcaster(
        &mut self,
        body: &Value,
        remote: Option<SocketAddr>,
    ) -> Result<Value, Error> {
        let id = PeerId::parse_as("id", fields::string(body, "id")?)?;
        let rtp_capabilities = requests::rtp_capabilities(body)?;
        let joined = Joined {
            rtp_capabilities: rtp_capabilities.clone(),
            ..self.newcomer(&id, body)?
        };
        let peers = match &rtp_capabilities {
            Some(capabilities) => self.consumable_by(capabilities),
            None => Vec::new(),
        };
        info!(room = %self.id, broadcaster = %id, "broadcaster joined");
        let session = SessionId::next();
        let mut peer = Peer::broadcaster(id, session, remote);
        peer.joined = Some(joined);
        self.peers.insert(session, peer);
        requests::introduce(self, session);
        Ok(json!({ "peers": peers }))
    }

    /// What a new broadcaster tells of itself, if there is a place for it.
    fn newcomer(&self, id: &PeerId, body: &Value) -> Result<Joined, Error> {
        let joined = Joined {
            display_name: requests::display_name(body)?,
            device: Value::Object(device(body)?),
            rtp_capabilities: None,
            _counted: None,
        };
        if self.is_present(id) {
            return Err(Error::IdTaken(id.to_string()));
        }
        let broadcasters = self.peers.values().filter(|peer| peer.is_broadcaster);
        let most = self.config.room_max_broadcasters;
        if broadcasters.count() >= usize::try_from(most).unwrap_or(usize::MAX) {
            let text = format!("too many broadcasters, the limit is {most}");
            return Err(Error::NotPossible(text));
        }
        Ok(joined)
    }

    /// The joined peers, with those of their producers that can be consumed.
    fn consumable_by(&self, capabilities: &ortc::RtpCapabilities) -> Vec<Value> {
        let peers = self.peers.values().filter(|peer| !peer.is_broadcaster);
        let described = peers.filter_map(|peer| {
            let mut introduction = peer.introduction()?;
            let producers = peer.producers.iter();
            let producers = producers.filter(|it| ortc::can_consume(&it.consumable, capabilities));
            let producers = producers.map(|it| json!({ "id": it.id, "kind": it.kind.as_str() }));
            introduction
                .as_object_mut()?
                .insert("producers".into(), producers.collect());
            Some(introduction)
        });
        described.collect()
    }

    async fn consume_one(
        &mut self,
        session: SessionId,
        wish: &ConsumeRequest,
    ) -> Result<Value, Error> {
        let given = wish.rtp_capabilities.as_ref();
        let given = given.map(ortc::parse_rtp_capabilities).transpose()?;
        let peer = self.peer(session)?;
        let capabilities = given
            .map(Arc::new)
            .or_else(|| peer.joined.as_ref()?.rtp_capabilities.clone());
        peer.joined()?;
        peer.transport(&wish.transport_id)?;
        let (consumer_id, spec, answer) = self.enter_one(session, wish, capabilities)?;
        if let Err(error) = self.create_consumer(spec).await {
            debug!(room = %self.id, %error, "no consumer for a broadcaster");
            self.take_back(session, &consumer_id);
            return Err(error);
        }
        Ok(answer)
    }

    /// Enters a consumer into the room's books; its id, and what the worker and
    /// the broadcaster are told of it.
    fn enter_one(
        &mut self,
        session: SessionId,
        wish: &ConsumeRequest,
        capabilities: Option<Arc<ortc::RtpCapabilities>>,
    ) -> Result<(String, proto::ConsumerSpec, Value), Error> {
        let (transport_id, producer_id) = (&wish.transport_id, &wish.producer_id);
        let ssrc = self.free_ssrc();
        let (producer_session, producer) = self.producer_of_anybody(producer_id)?;
        if producer
            .consumers
            .iter()
            .any(|(owner, _)| *owner == session)
        {
            return Err(Error::NotPossible(
                "the producer is consumed already".into(),
            ));
        }
        let (kind, producer_type) = (producer.kind, producer.producer_type);
        let consumable = producer.consumable.clone();
        let peer = self.peer(session)?;
        let no_capabilities = || Error::NotPossible("broadcaster has no rtpCapabilities".into());
        let capabilities = capabilities.ok_or_else(no_capabilities)?;
        if !ortc::can_consume(&consumable, &capabilities) {
            let text = "the broadcaster cannot consume this producer";
            return Err(Error::NotPossible(text.into()));
        }
        let consumer_id = Uuid::new_v4().to_string();
        let ids = ConsumerIds {
            transport_id,
            consumer_id: &consumer_id,
            producer_id,
        };
        let options = ConsumerOptions {
            mid: peer.transport(transport_id)?.mids.next_mid(),
            ssrc,
            enable_rtx: true,
        };
        let (mut spec, rtp_parameters) = negotiate(ids, &consumable, &capabilities, &options)?;
        spec.paused = wish.paused;
        let consumer = Consumer {
            transport_id: transport_id.clone(),
            producer_id: producer_id.clone(),
            producer_session,
            paused_by_client: wish.paused,
            ssrc,
            layers: None,
        };
        peer.consumers.insert(consumer_id.clone(), consumer);
        self.ssrcs.extend([ssrc, ssrc.wrapping_add(1)]);
        let producer = self.peer(producer_session)?.producer(producer_id)?;
        producer.consumers.push((session, consumer_id.clone()));
        let answer = json!({
            "id": consumer_id,
            "producerId": producer_id,
            "kind": kind.as_str(),
            "rtpParameters": rtp_parameters,
            "type": producer_type.as_str(),
        });
        Ok((consumer_id, spec, answer))
    }

    fn producer_of_anybody(&self, id: &str) -> Result<(SessionId, &Producer), Error> {
        let producers = self.peers.iter().flat_map(|(session, peer)| {
            let producers = peer.producers.iter();
            producers.map(move |producer| (*session, producer))
        });
        let mut found = producers.filter(|(_, producer)| producer.id == id);
        found.next().ok_or_else(|| Error::unknown("producer", id))
    }

    /// A data consumer; messages of any label can be asked for.
    async fn consume_data_one(
        &mut self,
        session: SessionId,
        transport_id: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let data_producer_id = fields::string(body, "dataProducerId")?;
        let wanted = self.wanted_of_anybody(session, data_producer_id);
        self.peer(session)?.transport(transport_id)?;
        let wanted = wanted.ok_or_else(|| Error::unknown("dataProducer", data_producer_id))?;
        let spec = self.enter_data_consumer(&wanted, transport_id)?;
        let (id, stream) = (spec.data_consumer_id.clone(), spec.stream);
        if let Err(error) = self.create_data_consumer(spec).await {
            debug!(room = %self.id, %error, "no data consumer for a broadcaster");
            self.take_back_data(session, &id);
            return Err(error);
        }
        let stream_id = stream.map(|stream| stream.stream_id);
        Ok(json!({ "id": id, "streamId": stream_id }))
    }

    async fn create_data_consumer(&self, spec: proto::DataConsumerSpec) -> Result<(), Error> {
        let data_consumer_id = spec.data_consumer_id.clone();
        let data_consumers = vec![spec];
        let request = proto::ConsumeDataRequest { data_consumers };
        match self.worker.client.consume_data(request).await {
            Ok(made) => match made.results.into_iter().next() {
                Some(result) if result.error.is_empty() => Ok(()),
                Some(result) => Err(Error::NotPossible(result.error)),
                None => Err(WorkerError::Gone.into()),
            },
            Err(error) => {
                self.undo(Made::DataConsumers(vec![data_consumer_id]), &error);
                Err(error.into())
            }
        }
    }

    async fn create_consumer(&self, spec: proto::ConsumerSpec) -> Result<(), Error> {
        let consumer_id = spec.consumer_id.clone();
        let consumers = vec![spec];
        let made = self
            .worker
            .client
            .consume(proto::ConsumeRequest { consumers });
        match made.await {
            Ok(made) => match made.results.into_iter().next() {
                Some(result) if result.error.is_empty() => Ok(()),
                Some(result) => Err(Error::NotPossible(result.error)),
                None => Err(WorkerError::Gone.into()),
            },
            Err(error) => {
                self.undo(Made::Consumers(vec![consumer_id]), &error);
                Err(error.into())
            }
        }
    }
}

/// The TURN server is for peers.
fn without_turn_servers(mut answer: Value) -> Value {
    if let Value::Object(fields) = &mut answer {
        fields.remove("iceServer");
        fields.remove("iceServers");
    }
    answer
}

/// The body's fields as a peer's request has them; others are ignored.
fn with(transport_id: String, mut body: Value, names: &[&str]) -> Value {
    let mut data = Map::from_iter([("transportId".to_owned(), transport_id.into())]);
    for name in names {
        if let Some(value) = body.get_mut(name) {
            data.insert((*name).to_owned(), value.take());
        }
    }
    Value::Object(data)
}

/// What a peer would ask for to get this transport; `None` for a plain one, which
/// peers do not have. Its direction shows with the first producer or consumer.
fn transport_options(body: &Value) -> Result<Option<Value>, Error> {
    let kind = fields::string(body, "type")?;
    fields::flag(body, "rtcpMux")?;
    fields::flag(body, "comedia")?;
    match kind {
        "webrtc" => {}
        "plain" => return Ok(None),
        _ => return Err(Error::field("type", "must be \"plain\" or \"webrtc\"")),
    }
    let mut options = json!({ "forceTcp": false, "producing": false, "consuming": false });
    if let Some(sctp) = fields::optional(body, "sctpCapabilities")? {
        fields::object(body, "sctpCapabilities", usize::MAX)?;
        if let Value::Object(options) = &mut options {
            options.insert("sctpCapabilities".into(), sctp.clone());
        }
    }
    Ok(Some(options))
}

/// The device as peers get it; clients tell by its `flag` that it is no browser.
fn device(body: &Value) -> Result<Map<String, Value>, Error> {
    let given = fields::required(body, "device")?;
    if !given.is_object() {
        return Err(Error::field("device", "must be an object"));
    }
    let text = |name: &str| match fields::optional(given, name)? {
        None => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= MAX_DEVICE_TEXT => Ok(Some(text)),
        Some(_) => {
            let allowed = format!("must be a string of at most {MAX_DEVICE_TEXT} characters");
            Err(Error::field(&format!("device.{name}"), &allowed))
        }
    };
    let name = text("name")?.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::field("device.name", "is missing"))?;
    let mut device = Map::new();
    device.insert("flag".into(), "broadcaster".into());
    device.insert("name".into(), name.as_str().into());
    if let Some(version) = text("version")? {
        device.insert("version".into(), version.as_str().into());
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let good = json!({ "device": { "name": "ffmpeg", "version": "7", "x": [1] } });
        let expected = json!({ "flag": "broadcaster", "name": "ffmpeg", "version": "7" });
        assert_eq!(Value::Object(device(&good).unwrap()), expected);
        let long = "x".repeat(MAX_DEVICE_TEXT + 1);
        for (bad, field) in [
            (json!({}), "device is missing"),
            (json!({ "device": "x" }), "device must"),
            (json!({ "device": {} }), "device.name is missing"),
            (
                json!({ "device": { "name": "" } }),
                "device.name is missing",
            ),
            (json!({ "device": { "name": 1 } }), "device.name must"),
            (json!({ "device": { "name": long } }), "device.name must"),
            (
                json!({ "device": { "name": "x", "version": {} } }),
                "device.version must",
            ),
        ] {
            let error = device(&bad).unwrap_err().to_string();
            assert!(error.starts_with(field), "{bad}: {error}");
        }
    }

    /// Defect r: what a transport is, is said by name and checked.
    #[test]
    fn transports() {
        let sctp = json!({ "numStreams": { "OS": 1, "MIS": 1 } });
        let good = json!({ "type": "webrtc", "rtcpMux": true, "sctpCapabilities": sctp });
        let options = transport_options(&good).unwrap().unwrap();
        assert_eq!(options["sctpCapabilities"], sctp);
        let plain = json!({ "type": "plain" });
        assert_eq!(transport_options(&plain).unwrap(), None);
        for (bad, field) in [
            (json!({}), "type is missing"),
            (json!({ "type": "pipe" }), "type must"),
            (json!({ "type": "plain", "rtcpMux": 1 }), "rtcpMux must"),
            (json!({ "type": "webrtc", "comedia": 1 }), "comedia must"),
            (json!({ "type": "webrtc", "rtcpMux": "" }), "rtcpMux must"),
            (
                json!({ "type": "webrtc", "sctpCapabilities": 1 }),
                "sctpCapabilities must",
            ),
        ] {
            let error = transport_options(&bad).unwrap_err().to_string();
            assert!(error.starts_with(field), "{bad}: {error}");
        }
    }
}
