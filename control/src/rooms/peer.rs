//! What a room knows of one connected client: its transports, what it sends
//! and what it receives.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::counted::Counted;
use super::data::{DataConsumer, DataProducer};
use super::ids::PeerId;
use super::stream_ids::StreamIds;
use crate::error::Error;
use crate::ortc::{
    MediaKind, MidCounter, ProducerType, ReceiveIds, RtpCapabilities, RtpParameters,
};
use crate::protoo::connection::{self, Handle, Identity, SessionId};
use crate::protoo::dialect::Dialect;

/// Most transports that one peer may have. A call needs two; a client that
/// restarts leaves the old ones behind until their DTLS closes.
const MAX_TRANSPORTS: usize = 32;

/// Most producers that one peer may have.
const MAX_PRODUCERS: usize = 64;

/// Most data producers that one peer may have. A client of the original has
/// two, and none can be closed on its own.
const MAX_DATA_PRODUCERS: usize = 32;

/// What is known of a client from the request for its connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerOptions {
    /// Extra consumers of each producer (`consumerReplicas`), for load tests.
    pub consumer_replicas: u8,
    /// How it spells the protocol (`dialect`).
    pub dialect: Dialect,
    /// Where the client is, as far as is known.
    pub remote: Option<SocketAddr>,
}

/// One session of a client in a room.
#[derive(Debug)]
pub(super) struct Peer {
    pub id: PeerId,
    /// Nobody is at the other end of a broadcaster's.
    pub connection: Handle,
    /// It is driven over HTTP, see [`broadcaster`](super::broadcaster).
    pub is_broadcaster: bool,
    pub options: PeerOptions,
    /// What a broadcaster that has not joined yet will join with.
    pub entering: Option<Joined>,
    /// When to give up on a client that does not join.
    pub join_deadline: Instant,
    /// When it came, or lost its last transport so far.
    without_transport_since: Instant,
    /// `None` until the client joins.
    pub joined: Option<Joined>,
    /// Oldest first.
    pub transports: Vec<Transport>,
    /// Oldest first.
    pub producers: Vec<Producer>,
    /// By id.
    pub consumers: HashMap<String, Consumer>,
    /// Oldest first.
    pub data_producers: Vec<DataProducer>,
    /// By id.
    pub data_consumers: HashMap<String, DataConsumer>,
    /// The bad network that its transports are to behave as, if the client
    /// asked for one.
    pub throttle: Option<proto::NetworkThrottle>,
}

/// What a client told of itself when it joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub display_name: String,
    pub device: Value,
    /// `None`: the client receives nothing.
    pub rtp_capabilities: Option<Arc<RtpCapabilities>>,
    /// `None` for a broadcaster.
    pub _counted: Option<[Counted; 2]>,
}

/// A transport of a peer.
#[derive(Debug)]
pub(super) struct Transport {
    pub id: String,
    /// The client said that it receives on this one.
    pub consuming: bool,
    /// It is a PlainTransport, as broadcasters may have them.
    pub plain: bool,
    /// connectWebRtcTransport, or the like, has been accepted.
    pub connected: bool,
    /// Since when its client is not heard of any more (RFC 7675).
    pub lost_since: Option<Instant>,
    /// CNAME of everything produced on it, so that audio and video of one
    /// client are one synchronisation group.
    pub cname: Option<String>,
    /// MIDs of its consumers.
    pub mids: MidCounter,
    /// What tells the packets of its producers apart.
    pub receive_ids: ReceiveIds,
    /// SCTP streams of its data channels.
    pub streams: StreamIds,
}

/// A stream that a peer sends.
#[derive(Debug)]
pub(super) struct Producer {
    pub id: String,
    pub transport_id: String,
    pub kind: MediaKind,
    pub producer_type: ProducerType,
    /// What consumers are made from.
    pub consumable: Arc<RtpParameters>,
    /// The client's own data, with its `peerId`.
    pub app_data: Value,
    pub paused: bool,
    /// Who receives it: session and consumer id.
    pub consumers: Vec<(SessionId, String)>,
}

/// A stream that a peer receives.
#[derive(Debug)]
pub(super) struct Consumer {
    pub transport_id: String,
    pub producer_id: String,
    pub producer_session: SessionId,
    /// The client asked for the pause, so its acceptance does not resume it.
    pub paused_by_client: bool,
    /// SSRC of the media; retransmissions have the next one.
    pub ssrc: u32,
    /// What the worker said last that its client receives, of a layered producer.
    pub layers: Option<proto::Layers>,
}

impl Peer {
    pub fn new(
        id: PeerId,
        connection: Handle,
        options: PeerOptions,
        join_deadline: Instant,
    ) -> Self {
        Self {
            id,
            connection,
            is_broadcaster: false,
            options,
            entering: None,
            join_deadline,
            without_transport_since: Instant::now(),
            joined: None,
            transports: Vec::new(),
            producers: Vec::new(),
            consumers: HashMap::new(),
            data_producers: Vec::new(),
            data_consumers: HashMap::new(),
            throttle: None,
        }
    }

    /// One without a socket: what it is told goes nowhere. It has not joined.
    pub fn broadcaster(id: PeerId, session: SessionId, remote: Option<SocketAddr>) -> Self {
        let (connection, _) = connection::channel(Identity {
            session,
            dialect: Dialect::default(),
            remote,
        });
        Self {
            is_broadcaster: true,
            ..Self::new(id, connection, PeerOptions::default(), Instant::now())
        }
    }

    /// How others see this one, once it has joined.
    pub fn introduction(&self) -> Option<Value> {
        let joined = self.joined.as_ref()?;
        Some(json!({
            "id": self.id.as_str(),
            "displayName": joined.display_name,
            "device": joined.device,
        }))
    }

    /// How other peers see this one: the newest dialect tells them its address.
    pub fn introduction_to_peers(&self) -> Option<Value> {
        let mut introduction = self.introduction()?;
        let remote = self.connection.remote();
        if let Some(remote) = remote {
            let address = remote.ip().to_canonical().to_string();
            let fields = introduction.as_object_mut()?;
            fields.insert("remoteAddress".into(), address.into());
        }
        Some(introduction)
    }

    /// Errors unless this peer has joined.
    pub fn joined(&self) -> Result<&Joined, Error> {
        self.joined.as_ref().ok_or(Error::NotJoined)
    }

    pub fn transport(&mut self, id: &str) -> Result<&mut Transport, Error> {
        let mut transports = self.transports.iter_mut();
        transports
            .find(|transport| transport.id == id)
            .ok_or_else(|| Error::unknown("transport", id))
    }

    /// Forgets a transport.
    pub fn remove_transport(&mut self, id: &str) {
        self.transports.retain(|transport| transport.id != id);
        self.without_transport_since = Instant::now();
    }

    /// Since when it is without a transport, if it is.
    pub fn without_transport_since(&self) -> Option<Instant> {
        let has_none = self.transports.is_empty();
        has_none.then_some(self.without_transport_since)
    }

    pub fn producer(&mut self, id: &str) -> Result<&mut Producer, Error> {
        let mut producers = self.producers.iter_mut();
        producers
            .find(|producer| producer.id == id)
            .ok_or_else(|| Error::unknown("producer", id))
    }

    pub fn consumer(&mut self, id: &str) -> Result<&mut Consumer, Error> {
        let consumer = self.consumers.get_mut(id);
        consumer.ok_or_else(|| Error::unknown("consumer", id))
    }

    pub fn data_producer(&mut self, id: &str) -> Result<&mut DataProducer, Error> {
        let mut producers = self.data_producers.iter_mut();
        producers
            .find(|producer| producer.id == id)
            .ok_or_else(|| Error::unknown("dataProducer", id))
    }

    pub fn data_consumer(&self, id: &str) -> Result<&DataConsumer, Error> {
        let consumer = self.data_consumers.get(id);
        consumer.ok_or_else(|| Error::unknown("dataConsumer", id))
    }

    /// Gives the SCTP stream of a data channel back, if its transport is still
    /// there.
    pub fn free_stream(&mut self, transport_id: &str, stream_id: u16) {
        if let Ok(transport) = self.transport(transport_id) {
            transport.streams.free(stream_id);
        }
    }

    /// How many consumers this peer has of each producer.
    pub fn copies(&self) -> usize {
        1 + usize::from(self.options.consumer_replicas)
    }

    /// The transport that new consumers go to: the newest that the client
    /// means to receive on, and that nothing is sent on. A broadcaster has none:
    /// it says for each consumer where it goes.
    pub fn receiving_transport(&mut self) -> Option<&mut Transport> {
        if self.is_broadcaster {
            return None;
        }
        let producers = &self.producers;
        self.transports.iter_mut().rev().find(|transport| {
            let sends = |producer: &Producer| producer.transport_id == transport.id;
            transport.consuming && !producers.iter().any(sends)
        })
    }

    /// Whether what others send reaches it, as far as its client has come.
    pub fn can_receive(&mut self) -> bool {
        self.joined.is_some() && self.receiving_transport().is_some()
    }

    /// Errors when one more transport would be too many.
    pub fn check_transport_limit(&self) -> Result<(), Error> {
        check_limit("transports", self.transports.len(), MAX_TRANSPORTS)
    }

    /// Errors when one more producer would be too many.
    pub fn check_producer_limit(&self) -> Result<(), Error> {
        check_limit("producers", self.producers.len(), MAX_PRODUCERS)
    }

    /// Errors when one more data producer would be too many.
    pub fn check_data_producer_limit(&self) -> Result<(), Error> {
        let has = self.data_producers.len();
        check_limit("data producers", has, MAX_DATA_PRODUCERS)
    }
}

impl Transport {
    pub fn new(id: String, consuming: bool, streams: StreamIds) -> Self {
        Self {
            id,
            consuming,
            plain: false,
            connected: false,
            lost_since: None,
            cname: None,
            mids: MidCounter::default(),
            receive_ids: ReceiveIds::default(),
            streams,
        }
    }

    /// A PlainTransport, without data channels.
    pub fn plain(id: String) -> Self {
        Self {
            plain: true,
            ..Self::new(id, false, StreamIds::new(0, 0))
        }
    }
}

impl Producer {
    /// How many of its consumers a peer has.
    pub fn consumers_of(&self, session: SessionId) -> usize {
        let owners = self.consumers.iter();
        owners.filter(|(owner, _)| *owner == session).count()
    }
}

fn check_limit(what: &str, has: usize, limit: usize) -> Result<(), Error> {
    if has >= limit {
        let text = format!("too many {what}, the limit is {limit}");
        return Err(Error::NotPossible(text));
    }
    Ok(())
}
