//! One room: a task that owns its peers and everything they send and receive,
//! and works through its mailbox. This file is its life: seats, arrivals,
//! departures and its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::field::DisplayValue;
use tracing::{Instrument, debug, info, warn};

use super::admin::{REMOVED, Vitals};
use super::bot::Bot;
use super::counted::{Counted, Presence};
use super::ids::{PeerId, RoomId};
use super::mailbox::{Command, Mailbox, Stop, stopped, turn_away};
use super::peer::{Peer, PeerOptions, Transport};
use super::registry::{RoomOptions, Rooms, Seat, Timings};
use super::requests;
use super::router_media::RouterMedia;
use super::tenure::Tenure;
use crate::config::Config;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::protoo::connection::{Close, Handle, Inbound, Notification, SessionId};
use crate::traces::Cause;
use crate::webhooks::{Event as WebhookEvent, LeftReason, Reporter, Webhooks};
use crate::workers::{Worker, WorkerError};

const TOO_MANY_PEERS: Error = Error::Unavailable("too many peers (MAX_PEERS)");

/// Who made a room; decides when an empty one closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// HTTP: it waits for its first peers, for a while.
    Http,
    /// A peer's own connection: it ends with its last connection.
    Peer,
}

/// What a room is made from.
pub(super) struct Setup {
    pub id: RoomId,
    pub router_id: String,
    pub worker: Worker,
    pub vitals: Arc<Vitals>,
    pub router: Arc<RouterMedia>,
    pub config: Arc<Config>,
    pub options: Arc<RoomOptions>,
    pub origin: Origin,
    /// How long it waits for its first peer, where that is not as usual.
    pub waits_until: Option<Instant>,
    pub timings: Timings,
    pub presence: Presence,
    pub webhooks: Webhooks,
    pub metrics: Arc<Metrics>,
    /// Counts the room until somebody joins it, if it is to be counted.
    pub waiting: Option<Counted>,
}

/// What happens in a room that the outside may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RoomEvent {
    /// A peer has joined.
    PeerJoined(PeerId),
    /// A joined peer is gone.
    PeerLeft(PeerId, LeftReason),
}

/// How a peer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// It said so; others hear `peerLeft`.
    Left,
    /// Its connection ended; others hear `peerClosed`.
    Closed,
    /// An admin put it out; others hear `peerClosed`.
    Removed,
}

pub(super) struct Room {
    pub id: RoomId,
    pub router_id: String,
    pub worker: Worker,
    pub vitals: Arc<Vitals>,
    pub router: Arc<RouterMedia>,
    pub config: Arc<Config>,
    /// In the order of their connections.
    pub peers: BTreeMap<SessionId, Peer>,
    /// SSRCs of all consumers, retransmissions too.
    pub ssrcs: HashSet<u32>,
    pub bot: Bot,
    /// The producer of who leads the conversation; it may be gone.
    pub dominant: Option<String>,
    pub presence: Presence,
    pub metrics: Arc<Metrics>,
    pub max_peers: usize,
    /// Where [`RoomEvent`]s are reported, if they are.
    pub reporter: Option<Reporter>,
    origin: Origin,
    pub timings: Timings,
    /// When to give up waiting for a first peer.
    unused_until: Instant,
    ever_joined: bool,
    waiting: Option<Counted>,
    /// Seats of connections that are being upgraded.
    reserved: HashMap<SessionId, PeerId>,
}

/// How a room's service ended.
enum End {
    /// The last peer left, or nobody came.
    Empty,
    /// The worker did not take it.
    Refused(WorkerError),
    Stopped(Stop),
}

impl Room {
    pub fn new(setup: Setup) -> Self {
        let max_peers = setup.options.max_peers;
        let max_peers = max_peers.unwrap_or(setup.config.room_max_peers);
        let waits = match setup.origin {
            Origin::Http => setup.timings.unused_room,
            Origin::Peer => setup.timings.join,
        };
        let unused_until = setup.waits_until.unwrap_or_else(|| Instant::now() + waits);
        if setup.origin == Origin::Http {
            setup.vitals.set_waits_until(Some(unused_until));
        }
        let uri = setup.options.event_notification_uri.clone();
        let reporter = uri.map(|uri| setup.webhooks.reporter(setup.id.as_str(), uri));
        Self {
            id: setup.id,
            router_id: setup.router_id,
            worker: setup.worker,
            vitals: setup.vitals,
            router: setup.router,
            config: setup.config,
            peers: BTreeMap::new(),
            ssrcs: HashSet::new(),
            bot: Bot::default(),
            dominant: None,
            presence: setup.presence,
            metrics: setup.metrics,
            max_peers: usize::try_from(max_peers).unwrap_or(usize::MAX),
            reporter,
            origin: setup.origin,
            timings: setup.timings,
            unused_until,
            ever_joined: false,
            waiting: setup.waiting,
            reserved: HashMap::new(),
        }
    }

    /// The room's whole life. It leaves the registry before it drops its inbox,
    /// so whoever finds the inbox closed gets a fresh room on the next try.
    /// `cause`: what it is made for.
    pub async fn run(mut self, mut mailbox: Mailbox, registry: Rooms, cause: Cause) {
        let client = self.worker.client.clone();
        let tenure = Tenure::new(
            registry.clone(),
            self.id.clone(),
            self.router_id.clone(),
            client,
        );
        let mut stop = mailbox.stop.clone();
        let create = self.create_router();
        let created = tokio::select! {
            stop = stopped(&mut stop) => Err(End::Stopped(stop)),
            created = create.instrument(cause.lead_to("make room")) => created.map_err(End::Refused),
        };
        let end = match created {
            Ok(()) => {
                registry.router_created(&self.router_id);
                self.log_life("room created");
                self.serve(&mut mailbox).await
            }
            Err(end) => end,
        };
        tenure.end();
        self.waiting = None;
        let reason = match end {
            End::Stopped(Stop::Shutdown(_)) => LeftReason::Shutdown,
            End::Stopped(Stop::Removed) => LeftReason::Removed,
            _ => LeftReason::RoomLost,
        };
        let (close, router_lives) = match end {
            End::Empty => (Close::ROOM_LOST, true),
            End::Refused(error) => {
                warn!(room = %self.id, %error, "cannot create a router");
                turn_away(&mut mailbox, &error).await;
                // It may have been made after the deadline.
                (Close::ROOM_LOST, error == WorkerError::Gone)
            }
            End::Stopped(Stop::Overrun) => (Close::ROOM_LOST, true),
            End::Stopped(Stop::Removed) => (REMOVED, true),
            End::Stopped(Stop::WorkerDied) => (Close::ROOM_LOST, false),
            // The workers stop as well.
            End::Stopped(Stop::Shutdown(close)) => (close, false),
        };
        for peer in std::mem::take(&mut self.peers).into_values() {
            peer.connection.close(close);
            if peer.joined.is_some() && !peer.is_broadcaster {
                self.emit(RoomEvent::PeerLeft(peer.id, reason));
            }
        }
        drop(mailbox);
        self.log_life("room closed");
        if router_lives {
            self.close_router().await;
        }
    }

    /// Rooms that nobody joined come by the thousand where somebody asks for
    /// them without coming.
    fn log_life(&self, what: &'static str) {
        let worker = self.worker.index;
        if self.origin == Origin::Http && !self.ever_joined {
            debug!(room = %self.id, worker, "{what}");
        } else {
            info!(room = %self.id, worker, "{what}");
        }
    }

    async fn close_router(&self) {
        let router_id = self.router_id.clone();
        let request = proto::CloseRouterRequest { router_id };
        if let Err(error) = self.worker.client.close_router(request).await {
            warn!(room = %self.id, %error, "cannot close the router");
        }
    }

    async fn create_router(&self) -> Result<(), WorkerError> {
        let request = proto::CreateRouterRequest {
            router_id: self.router_id.clone(),
            codecs: self.router.codecs.clone(),
            header_extensions: self.router.header_extensions.clone(),
        };
        self.worker.client.create_router(request).await?;
        Ok(())
    }

    async fn serve(&mut self, mailbox: &mut Mailbox) -> End {
        loop {
            let deadline = self.next_deadline();
            let event = tokio::select! {
                biased;
                stop = stopped(&mut mailbox.stop) => return End::Stopped(stop),
                Some(event) = mailbox.events.recv() => Some(Ok(event)),
                command = mailbox.inbox.recv() => match command {
                    Some(command) => Some(Err(command)),
                    None => return End::Empty,
                },
                () = sleep_until(deadline) => None,
            };
            let step = async {
                match event {
                    Some(Ok(event)) => self.on_event(event).await,
                    Some(Err(command)) => self.on_command(command).await,
                    None => self.on_deadline(Instant::now()).await,
                }
            };
            // A worker that hangs must not keep a room from ending.
            tokio::select! {
                biased;
                stop = stopped(&mut mailbox.stop) => return End::Stopped(stop),
                () = step => {}
            }
            self.tell_vitals();
            if self.is_over(Instant::now()) {
                return End::Empty;
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            // Whoever asked may have gone meanwhile: then the answer is
            // dropped, and a seat in it gives itself back.
            Command::Ready(reply) => drop(reply.send(Ok(()))),
            Command::CheckAdmission { peer, reply } => drop(reply.send(self.has_seat_for(&peer))),
            Command::Admit { peer, seat, reply } => drop(reply.send(self.admit(peer, seat))),
            Command::Release(session) => drop(self.reserved.remove(&session)),
            Command::Attach(connection, options) => self.attach(connection, options).await,
            Command::Inbound(Inbound::Request(session, request)) => {
                requests::handle(self, session, request).await;
            }
            Command::Inbound(Inbound::Action(session, method, data)) => {
                requests::act(self, session, &method, &data).await;
            }
            Command::Inbound(Inbound::Answer(session, consumer_id, result)) => {
                self.on_answer(session, &consumer_id, result).await;
            }
            Command::Inbound(Inbound::Closed(session)) => {
                self.remove_peer(session, Departure::Closed).await;
            }
            Command::Broadcaster(asked, cause) => {
                let span = cause.lead_to("serve broadcaster");
                self.on_broadcaster(asked).instrument(span).await;
            }
            Command::Admin(request, cause) => {
                let span = cause.lead_to("serve administrator");
                self.on_admin(request).instrument(span).await;
            }
        }
    }

    /// A peer that is here already does not need another seat: its new session
    /// takes over the old one's. Broadcasters need no seats.
    fn has_seat_for(&self, peer: &PeerId) -> Result<(), Error> {
        let mut broadcasters = self.peers.values().filter(|peer| peer.is_broadcaster);
        if broadcasters.any(|it| it.id == *peer) {
            return Err(Error::BroadcastersId(peer.to_string()));
        }
        let peers = self.peers.values().filter(|peer| !peer.is_broadcaster);
        let present = peers.map(|peer| &peer.id);
        let seated: HashSet<&PeerId> = present.chain(self.reserved.values()).collect();
        if seated.contains(peer) {
            return Ok(());
        }
        if seated.len() >= self.max_peers {
            return Err(Error::RoomFull);
        }
        let all = self.presence.joined.load(Ordering::Relaxed);
        if all >= usize::try_from(self.config.max_peers).unwrap_or(usize::MAX) {
            return Err(TOO_MANY_PEERS);
        }
        self.check_worker()
    }

    /// Errors when the worker of this room is not to have more.
    pub fn check_worker(&self) -> Result<(), Error> {
        self.vitals.usage.check(&self.config)
    }

    /// Whether somebody of this id is here or about to come.
    pub fn is_present(&self, id: &PeerId) -> bool {
        let mut present = self.peers.values().map(|peer| &peer.id);
        present.any(|it| it == id) || self.reserved.values().any(|it| it == id)
    }

    fn admit(&mut self, peer: PeerId, seat: Seat) -> Result<Seat, Error> {
        self.has_seat_for(&peer)?;
        self.reserved.insert(seat.session(), peer);
        Ok(seat)
    }

    /// The upgraded socket of a reserved seat. An earlier session of the same
    /// peer goes, in the same step, so the room is never empty in between.
    async fn attach(&mut self, connection: Handle, options: PeerOptions) {
        let session = connection.session();
        let Some(id) = self.reserved.remove(&session) else {
            return connection.close(Close::ROOM_LOST);
        };
        debug!(room = %self.id, peer = %id, ?session, "connected");
        let earlier = self.peers.iter().find(|(_, peer)| peer.id == id);
        let earlier = earlier.map(|(session, _)| *session);
        let join_deadline = Instant::now() + options.dialect.join_timeout(self.timings.join);
        let data = json!({ "version": concat!("webrtc-server/", env!("CARGO_PKG_VERSION")) });
        connection.notify(&Notification::new("mediasoupVersion", &data));
        let peer = Peer::new(id, connection, options, join_deadline);
        self.peers.insert(session, peer);
        if let Some(earlier) = earlier {
            self.close_peer(earlier, Close::FINAL).await;
        }
    }

    /// The id of whose session this is, as a field of the log.
    pub fn told(&self, session: SessionId) -> Option<DisplayValue<&PeerId>> {
        let peer = self.peers.get(&session);
        peer.map(|peer| tracing::field::display(&peer.id))
    }

    /// Closes a peer's socket and removes the peer.
    pub async fn close_peer(&mut self, session: SessionId, close: Close) {
        if let Some(peer) = self.peers.get(&session) {
            peer.connection.close(close);
        }
        self.remove_peer(session, Departure::Closed).await;
    }

    /// Removes a peer with all it sends and receives, and tells the others.
    pub async fn remove_peer(&mut self, session: SessionId, departure: Departure) {
        let Some(peer) = self.peers.remove(&session) else {
            return;
        };
        debug!(room = %self.id, peer = %peer.id, ?session, ?departure, "gone");
        if peer.joined.is_some() {
            let method = match departure {
                Departure::Left => "peerLeft",
                Departure::Closed | Departure::Removed => "peerClosed",
            };
            self.tell_joined(session, method, &json!({ "peerId": peer.id.as_str() }));
        }
        for producer in &peer.producers {
            self.forget_consumers_of(producer);
        }
        for (id, consumer) in &peer.consumers {
            self.unlink_consumer(id, consumer);
        }
        for producer in &peer.data_producers {
            self.forget_data_consumers_of(producer);
        }
        for (id, consumer) in &peer.data_consumers {
            self.unlink_data_consumer(id, consumer);
        }
        if peer.joined.is_some() && !peer.is_broadcaster {
            let reason = match departure {
                Departure::Left => LeftReason::Left,
                Departure::Closed => LeftReason::Disconnected,
                Departure::Removed => LeftReason::Removed,
            };
            self.emit(RoomEvent::PeerLeft(peer.id, reason));
        }
        if self.is_over(Instant::now()) {
            // Closing the router closes all of it in one call.
            return;
        }
        for transport in peer.transports {
            self.close_transport(transport.id).await;
        }
    }

    async fn close_transport(&self, transport_id: String) {
        let transport = transport_id.clone();
        let request = proto::CloseTransportRequest { transport_id };
        if let Err(error) = self.worker.client.close_transport(request).await {
            debug!(room = %self.id, transport, %error, "cannot close a transport");
        }
    }

    /// Notifies every joined peer but this one.
    pub fn tell_joined(&self, except: SessionId, method: &str, data: &Value) {
        let notification = Notification::new(method, data);
        for (session, peer) in &self.peers {
            if *session != except && peer.joined.is_some() {
                peer.connection.notify(&notification);
            }
        }
    }

    /// Takes note of what the outside may want to know, and reports it.
    pub fn emit(&mut self, event: RoomEvent) {
        // The URI itself may carry credentials.
        let webhook = self.reporter.is_some();
        let (peer, event) = match event {
            RoomEvent::PeerJoined(peer) => {
                self.ever_joined = true;
                self.vitals.joined();
                self.waiting = None;
                info!(room = %self.id, %peer, webhook, "peer joined");
                (peer, WebhookEvent::PeerJoined)
            }
            RoomEvent::PeerLeft(peer, reason) => {
                info!(room = %self.id, %peer, webhook, "peer left");
                (peer, WebhookEvent::PeerLeft(reason))
            }
        };
        if let Some(reporter) = &mut self.reporter {
            reporter.report(peer.as_str(), event);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let waits_for_first = self.origin == Origin::Http && !self.ever_joined;
        self.is_deserted() && !(waits_for_first && now < self.unused_until)
    }

    /// Nobody is here but broadcasters, who keep no room alive.
    fn is_deserted(&self) -> bool {
        self.peers.values().all(|peer| peer.is_broadcaster) && self.reserved.is_empty()
    }

    /// When a broadcaster that comes now has to have joined.
    pub fn join_deadline(&self) -> Instant {
        Instant::now() + self.timings.join
    }

    /// When [`Room::on_deadline`] has something to do next.
    fn next_deadline(&self) -> Instant {
        let patience = self
            .peers
            .values()
            .filter_map(|peer| self.next_deadline_of(peer));
        let unused = self.is_deserted().then_some(self.unused_until);
        let far = || Instant::now() + self.timings.unused_room;
        patience.chain(unused).min().unwrap_or_else(far)
    }

    /// When the room gives up on somebody who does not join, on a broadcaster without a
    /// transport (its script is gone, or never got that far), or on one of a peer's
    /// transports.
    fn next_deadline_of(&self, peer: &Peer) -> Option<Instant> {
        let lost = peer.transports.iter().filter_map(|it| it.lost_since);
        let closes = lost.min().map(|since| since + self.timings.lost_transport);
        self.patience(peer).into_iter().chain(closes).min()
    }

    /// When the room gives up on a peer as a whole.
    fn patience(&self, peer: &Peer) -> Option<Instant> {
        let joins_until = peer.joined.is_none().then_some(peer.join_deadline);
        let since = peer
            .without_transport_since()
            .filter(|_| peer.is_broadcaster);
        let connects_until = since.map(|since| since + self.timings.broadcaster);
        joins_until.into_iter().chain(connects_until).min()
    }

    async fn on_deadline(&mut self, now: Instant) {
        let is_late = |peer: &Peer| self.patience(peer).is_some_and(|until| until <= now);
        let late = self.peers.iter().filter(|(_, peer)| is_late(peer));
        for session in late.map(|(session, _)| *session).collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get(&session).filter(|it| it.is_broadcaster) {
                info!(room = %self.id, broadcaster = %peer.id, "broadcaster given up");
            }
            self.close_peer(session, Close::NOT_JOINED).await;
        }
        self.close_lost_transports(now).await;
    }

    /// Closes what clients have not come back to, so that others do not look at a picture
    /// that stands still for ever.
    async fn close_lost_transports(&mut self, now: Instant) {
        let since = now.checked_sub(self.timings.lost_transport);
        let is_lost = |it: &Transport| it.lost_since.is_some_and(|lost| Some(lost) <= since);
        let mut lost = Vec::new();
        for (session, peer) in &self.peers {
            let of_peer = peer.transports.iter().filter(|it| is_lost(it));
            lost.extend(of_peer.map(|it| (*session, peer.id.clone(), it.id.clone())));
        }
        for (session, peer, transport) in lost {
            info!(room = %self.id, %peer, transport, "transport closed, its client is not heard of any more");
            self.close_transport(transport.clone()).await;
            self.forget_transport(session, &transport);
            self.receive(session).await;
        }
    }
}
