//! What a room knows of one connected client: its transports, what it sends
//! and what it receives.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::counted::Counted;
use super::ids::PeerId;
use crate::error::Error;
use crate::ortc::{
    MediaKind, MidCounter, ProducerType, ReceiveIds, RtpCapabilities, RtpParameters,
};
use crate::protoo::connection::{self, Handle, SessionId};

/// Most transports that one peer may have. A call needs two; a client that
/// restarts leaves the old ones behind until their DTLS closes.
const MAX_TRANSPORTS: usize = 32;

/// Most producers that one peer may have.
const MAX_PRODUCERS: usize = 64;

/// One session of a client in a room.
#[derive(Debug)]
pub(super) struct Peer {
    pub id: PeerId,
    /// Nobody is at the other end of a broadcaster's.
    pub connection: Handle,
    /// It is driven over HTTP, see [`broadcaster`](super::broadcaster).
    pub is_broadcaster: bool,
    /// When to give up on a client that does not join.
    pub join_deadline: Instant,
    /// `None` until the client joins.
    pub joined: Option<Joined>,
    /// Oldest first.
    pub transports: Vec<Transport>,
    /// Oldest first.
    pub producers: Vec<Producer>,
    /// By id.
    pub consumers: HashMap<String, Consumer>,
}

/// What a client told of itself when it joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub display_name: String,
    pub device: Value,
    /// `None`: the client receives nothing.
    pub rtp_capabilities: Option<Arc<RtpCapabilities>>,
    /// `None` for a broadcaster.
    pub _counted: Option<Counted>,
}

/// A WebRtcTransport of a peer.
#[derive(Debug)]
pub(super) struct Transport {
    pub id: String,
    /// The client said that it receives on this one.
    pub consuming: bool,
    /// connectWebRtcTransport has been accepted.
    pub connected: bool,
    /// CNAME of everything produced on it, so that audio and video of one
    /// client are one synchronisation group.
    pub cname: Option<String>,
    /// MIDs of its consumers.
    pub mids: MidCounter,
    /// What tells the packets of its producers apart.
    pub receive_ids: ReceiveIds,
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
}

impl Peer {
    pub fn new(id: PeerId, connection: Handle, join_deadline: Instant) -> Self {
        Self {
            id,
            connection,
            is_broadcaster: false,
            join_deadline,
            joined: None,
            transports: Vec::new(),
            producers: Vec::new(),
            consumers: HashMap::new(),
        }
    }

    /// A member without a socket: what it is told goes nowhere.
    pub fn broadcaster(id: PeerId, session: SessionId, joined: Joined) -> Self {
        let (connection, _) = connection::channel(session);
        Self {
            is_broadcaster: true,
            joined: Some(joined),
            ..Self::new(id, connection, Instant::now())
        }
    }

    /// How other peers see this one, once it has joined.
    pub fn introduction(&self) -> Option<Value> {
        let joined = self.joined.as_ref()?;
        Some(json!({
            "id": self.id.as_str(),
            "displayName": joined.display_name,
            "device": joined.device,
        }))
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

    /// Errors when one more transport would be too many.
    pub fn check_transport_limit(&self) -> Result<(), Error> {
        check_limit("transports", self.transports.len(), MAX_TRANSPORTS)
    }

    /// Errors when one more producer would be too many.
    pub fn check_producer_limit(&self) -> Result<(), Error> {
        check_limit("producers", self.producers.len(), MAX_PRODUCERS)
    }
}

impl Transport {
    pub fn new(id: String, consuming: bool) -> Self {
        Self {
            id,
            consuming,
            connected: false,
            cname: None,
            mids: MidCounter::default(),
            receive_ids: ReceiveIds::default(),
        }
    }
}

impl Producer {
    pub fn has_consumer_of(&self, session: SessionId) -> bool {
        self.consumers.iter().any(|(owner, _)| *owner == session)
    }
}

fn check_limit(what: &str, has: usize, limit: usize) -> Result<(), Error> {
    if has >= limit {
        let text = format!("too many {what}, the limit is {limit}");
        return Err(Error::NotPossible(text));
    }
    Ok(())
}
