//! What admins see of rooms, and do to them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::info;

use super::ids::{PeerId, RoomId};
use super::mailbox::{Command, Stop};
use super::peer::{Peer, Producer};
use super::registry::Rooms;
use super::room::{Departure, Room};
use super::usage::Usage;
use crate::error::Error;
use crate::protoo::connection::Close;
use crate::traces::Cause;

/// How the sockets of those that an admin puts out are closed: a final decision.
pub(super) const REMOVED: Close = Close::new(4000, "removed by an administrator");

/// What an admin asks a room for.
#[derive(Debug)]
pub(super) enum AdminRequest {
    /// Everything that may be shown of it.
    Describe(oneshot::Sender<Value>),
    /// A peer, or a broadcaster, has to go.
    RemovePeer(PeerId, oneshot::Sender<Result<(), Error>>),
}

/// What the outside may know of a room without asking it. The room writes it
/// after each step.
#[derive(Debug)]
pub(super) struct Vitals {
    worker: usize,
    since: Instant,
    /// What all rooms of the worker hold.
    pub usage: Arc<Usage>,
    /// Until when the room waits for somebody to join it, if nobody ever did.
    waits_until: Mutex<Option<Instant>>,
    /// Somebody has joined it, or the one in whose place it is since that was lost.
    had_peers: AtomicBool,
    transports: AtomicUsize,
    peers: AtomicUsize,
    broadcasters: AtomicUsize,
    producers: AtomicUsize,
    consumers: AtomicUsize,
    data_producers: AtomicUsize,
    data_consumers: AtomicUsize,
}

impl Vitals {
    /// Those of a new room on the worker of this slot, whose rooms hold `usage`.
    /// `had_peers`: it is in the place of one that was lost, which somebody had joined.
    pub fn new(worker: usize, usage: Arc<Usage>, had_peers: bool) -> Arc<Self> {
        Arc::new(Self {
            worker,
            since: Instant::now(),
            usage,
            waits_until: Mutex::new(None),
            had_peers: AtomicBool::new(had_peers),
            transports: AtomicUsize::new(0),
            peers: AtomicUsize::new(0),
            broadcasters: AtomicUsize::new(0),
            producers: AtomicUsize::new(0),
            consumers: AtomicUsize::new(0),
            data_producers: AtomicUsize::new(0),
            data_consumers: AtomicUsize::new(0),
        })
    }
}

impl Vitals {
    /// Whether somebody has joined it, or the one in whose place it is since that was
    /// lost.
    pub fn had_peers(&self) -> bool {
        self.had_peers.load(Ordering::Relaxed)
    }

    /// Somebody has joined: it waits for nobody.
    pub fn joined(&self) {
        self.had_peers.store(true, Ordering::Relaxed);
        self.set_waits_until(None);
    }

    /// Until when the room waits for somebody to join it, if nobody ever did.
    pub fn waits_until(&self) -> Option<Instant> {
        *self
            .waits_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of that.
    pub fn set_waits_until(&self, until: Option<Instant>) {
        *self
            .waits_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// What its worker holds for it.
    fn held(&self) -> (usize, usize) {
        let count = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        (count(&self.transports), count(&self.consumers))
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        self.usage.changed(self.held(), (0, 0));
    }
}

/// What waits for the rooms that are furthest behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depths {
    /// Most commands that wait for one room.
    pub commands: usize,
    /// Most events of a worker that wait for one room.
    pub events: usize,
}

/// A room in the list of rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSummary {
    /// Its id.
    pub id: RoomId,
    /// Slot of its media worker.
    pub worker: usize,
    /// Seconds since it was made.
    pub age_seconds: u64,
    /// Peers that have joined or are about to.
    pub peers: usize,
    /// Broadcasters.
    pub broadcasters: usize,
    /// Streams that are sent.
    pub producers: usize,
    /// Streams that are received.
    pub consumers: usize,
    /// Data channels that are sent on.
    pub data_producers: usize,
    /// Data channels that are received.
    pub data_consumers: usize,
}

impl RoomSummary {
    pub(super) fn new(id: &RoomId, vitals: &Vitals) -> Self {
        let count = |it: &AtomicUsize| it.load(Ordering::Relaxed);
        Self {
            id: id.clone(),
            worker: vitals.worker,
            age_seconds: vitals.since.elapsed().as_secs(),
            peers: count(&vitals.peers),
            broadcasters: count(&vitals.broadcasters),
            producers: count(&vitals.producers),
            consumers: count(&vitals.consumers),
            data_producers: count(&vitals.data_producers),
            data_consumers: count(&vitals.data_consumers),
        }
    }

    /// As `GET /admin/rooms` lists it.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id.as_str(),
            "worker": self.worker,
            "ageSeconds": self.age_seconds,
            "peers": self.peers,
            "broadcasters": self.broadcasters,
            "producers": self.producers,
            "consumers": self.consumers,
            "dataProducers": self.data_producers,
            "dataConsumers": self.data_consumers,
        })
    }
}

impl Rooms {
    /// Every room, by id.
    pub fn list(&self) -> Vec<RoomSummary> {
        let mut rooms = self.summaries();
        rooms.sort_unstable_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        rooms
    }

    /// Everything that may be shown of a room.
    ///
    /// # Errors
    /// As [`Rooms::check`].
    pub async fn describe(&self, room: &RoomId) -> Result<Value, Error> {
        let inbox = self.inbox(room)?;
        let (reply, answer) = oneshot::channel();
        let request = AdminRequest::Describe(reply);
        // A room that ends meanwhile takes the answer with it.
        let _ = inbox.send(Command::Admin(request, Cause::now())).await;
        answer.await.map_err(|_| self.gone(room))
    }

    /// Closes a room for good: its peers are put out and do not come back by
    /// themselves.
    ///
    /// # Errors
    /// [`Error::UnknownRoom`].
    pub fn close(&self, room: &RoomId) -> Result<(), Error> {
        let handle = self.take(room)?;
        info!(%room, "room closed by an administrator");
        if let Some(handle) = handle {
            handle.stop(Stop::Removed);
        }
        Ok(())
    }

    /// Puts a peer or a broadcaster out of its room.
    ///
    /// # Errors
    /// [`Error::UnknownEntity`], or as [`Rooms::check`].
    pub async fn remove_peer(&self, room: &RoomId, peer: PeerId) -> Result<(), Error> {
        let inbox = self.inbox(room)?;
        let (reply, answer) = oneshot::channel();
        let request = AdminRequest::RemovePeer(peer, reply);
        // A room that ends meanwhile takes the answer with it.
        let _ = inbox.send(Command::Admin(request, Cause::now())).await;
        answer.await.unwrap_or_else(|_| Err(self.gone(room)))
    }
}

impl Room {
    /// Serves an admin. One that has gone meanwhile loses the answer alone.
    pub async fn on_admin(&mut self, request: AdminRequest) {
        match request {
            AdminRequest::Describe(reply) => drop(reply.send(self.describe())),
            AdminRequest::RemovePeer(id, reply) => {
                let found = self.peers.iter().find(|(_, peer)| peer.id == id);
                let Some((session, peer)) = found.map(|(session, peer)| (*session, peer)) else {
                    return drop(reply.send(Err(Error::unknown("peer", id.as_str()))));
                };
                info!(room = %self.id, peer = %id, "peer removed by an administrator");
                peer.connection.close(REMOVED);
                self.remove_peer(session, Departure::Removed).await;
                drop(reply.send(Ok(())));
            }
        }
    }

    /// Writes down what the outside may know.
    pub fn tell_vitals(&self) {
        let mut broadcasters = 0;
        let (mut transports, mut producers, mut consumers) = (0, 0, 0);
        let (mut data_producers, mut data_consumers) = (0, 0);
        for peer in self.peers.values() {
            broadcasters += usize::from(peer.is_broadcaster);
            transports += peer.transports.len();
            producers += peer.producers.len();
            consumers += peer.consumers.len();
            data_producers += peer.data_producers.len();
            data_consumers += peer.data_consumers.len();
        }
        let vitals = &self.vitals;
        vitals.usage.changed(vitals.held(), (transports, consumers));
        let peers = self.peers.len() - broadcasters;
        vitals.transports.store(transports, Ordering::Relaxed);
        vitals.peers.store(peers, Ordering::Relaxed);
        vitals.broadcasters.store(broadcasters, Ordering::Relaxed);
        vitals.producers.store(producers, Ordering::Relaxed);
        vitals.consumers.store(consumers, Ordering::Relaxed);
        vitals
            .data_producers
            .store(data_producers, Ordering::Relaxed);
        vitals
            .data_consumers
            .store(data_consumers, Ordering::Relaxed);
    }

    fn describe(&self) -> Value {
        self.tell_vitals();
        let mut described = RoomSummary::new(&self.id, &self.vitals).to_json();
        let peers: Vec<Value> = self.peers.values().map(|it| self.peer_json(it)).collect();
        if let Value::Object(fields) = &mut described {
            fields.insert("routerId".into(), self.router_id.as_str().into());
            fields.insert("maxPeers".into(), self.max_peers.into());
            fields.insert("webhook".into(), self.reporter.is_some().into());
            fields.insert("members".into(), peers.into());
        }
        described
    }

    fn peer_json(&self, peer: &Peer) -> Value {
        let joined = peer.joined.as_ref();
        let remote = peer.connection.remote();
        let transports = peer.transports.iter().map(|it| {
            let kind = if it.plain { "plain" } else { "webrtc" };
            json!({
                "id": it.id,
                "type": kind,
                "consuming": it.consuming,
                "connected": it.connected,
            })
        });
        let producers = peer.producers.iter().map(producer_json);
        let consumers = peer.consumers.iter().map(|(id, consumer)| {
            let sender = self.peers.get(&consumer.producer_session);
            let producer =
                sender.and_then(|it| it.producers.iter().find(|p| p.id == consumer.producer_id));
            json!({
                "id": id,
                "transportId": consumer.transport_id,
                "producerId": consumer.producer_id,
                "peerId": sender.map(|it| it.id.as_str()),
                "kind": producer.map(|it| it.kind.as_str()),
                "type": producer.map(|it| it.producer_type.as_str()),
                "layers": consumer.layers.map(|it| json!({
                    "spatialLayer": it.spatial_layer,
                    "temporalLayer": it.temporal_layer,
                })),
                "paused": consumer.paused_by_client,
                "producerPaused": producer.map(|it| it.paused),
            })
        });
        json!({
            "id": peer.id.as_str(),
            "displayName": joined.map(|it| it.display_name.as_str()),
            "device": joined.map(|it| &it.device),
            "joined": joined.is_some(),
            "broadcaster": peer.is_broadcaster,
            "address": remote.map(|it| it.to_string()),
            "transports": transports.collect::<Vec<_>>(),
            "producers": producers.collect::<Vec<_>>(),
            "consumers": consumers.collect::<Vec<_>>(),
            "dataProducers": peer.data_producers.len(),
            "dataConsumers": peer.data_consumers.len(),
        })
    }
}

fn producer_json(producer: &Producer) -> Value {
    json!({
        "id": producer.id,
        "transportId": producer.transport_id,
        "kind": producer.kind.as_str(),
        "type": producer.producer_type.as_str(),
        "paused": producer.paused,
        "consumers": producer.consumers.len(),
    })
}
