//! All rooms: finding, creating and closing them, and telling them what their
//! media worker says.

mod taking;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Message;
use futures_util::{Sink, Stream};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use url::Url;

use self::taking::NO_WORKER;
use super::admin::{Depths, RoomSummary, Vitals};
use super::counted::{Counted, Presence};
use super::ids::{PeerId, RoomId};
use super::lost::{Again, Lost, Patience};
use super::mailbox::{self, Command, RoomHandle, Stop};
use super::peer::PeerOptions;
use super::room::{Origin, Room, Setup};
use super::router_media::RouterMedia;
use super::suspects;
use super::table::Table;
use crate::config::Config;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::ortc::OrtcError;
use crate::protoo::connection::{self, Close, Identity, SessionId};
use crate::traces::Cause;
use crate::webhooks::{Pace, Webhooks};
use crate::workers::{Notice, Worker, WorkerId, WorkerPool};

/// How often at least a room is tried when the one that was found is just closing, or
/// the worker that was picked is just dying.
const ATTEMPTS: usize = 3;

/// Time for all sockets to close at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(700);

/// Most rooms made over HTTP that nobody has joined yet. Whoever asks for rooms
/// need not come with a socket for each, and workers hold a limited number.
pub const MAX_WAITING_ROOMS: usize = 1000;

const TOO_MANY_WAITING: Error = Error::Unavailable("too many rooms that nobody has joined yet");

/// Every room of this server. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    inner: Arc<Inner>,
}

/// How long rooms wait for peers, and how webhooks are sent.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Time between the WebSocket and its `join`, at most.
    pub join: Duration,
    /// Life of a room that was made over HTTP and that nobody joined.
    pub unused_room: Duration,
    /// Time that a broadcaster may be without a transport.
    pub broadcaster: Duration,
    /// Time that a transport may be without consent before it is closed: its client may
    /// restart ICE on it, or come back by itself.
    pub lost_transport: Duration,
    /// How webhooks are tried again.
    pub webhooks: Pace,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            join: Duration::from_secs(30),
            unused_room: Duration::from_secs(300),
            broadcaster: Duration::from_secs(60),
            lost_transport: Duration::from_secs(60),
            webhooks: Pace::default(),
        }
    }
}

/// What POST `/rooms` may say of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomOptions {
    /// Most peers, ≥ 2; the configured limit when absent.
    pub max_peers: Option<u32>,
    /// Where joins and leaves are to be reported.
    pub event_notification_uri: Option<Url>,
}

/// How a room comes about.
#[derive(Debug, Clone)]
pub(super) enum Made {
    /// Somebody asks for it over HTTP, before there are peers.
    OverHttp(Arc<RoomOptions>),
    /// By the first peer.
    ByPeer,
    /// It was there before, and was lost.
    Again(Again),
}

/// A place in a room, held for a client whose socket is being upgraded; given
/// back when dropped.
#[derive(Debug)]
pub struct Seat {
    session: SessionId,
    inbox: Option<mpsc::Sender<Command>>,
}

struct Inner {
    config: Arc<Config>,
    workers: Arc<dyn WorkerPool>,
    router: Arc<RouterMedia>,
    timings: Timings,
    table: Mutex<Table>,
    draining: AtomicBool,
    presence: Presence,
    webhooks: Webhooks,
    metrics: Arc<Metrics>,
    /// Rooms made over HTTP that nobody has joined.
    waiting_rooms: Arc<AtomicUsize>,
    /// When no worker took a room, and why, if none took one since.
    refusal: Mutex<Option<(Instant, Error)>>,
    tasks: TaskTracker,
}

impl Rooms {
    /// Starts without rooms; `notices` is what the workers say.
    ///
    /// # Errors
    /// When the codecs that this server routes contradict each other.
    pub fn start(
        config: Arc<Config>,
        workers: Arc<dyn WorkerPool>,
        notices: mpsc::Receiver<Notice>,
    ) -> Result<Rooms, OrtcError> {
        let timings = Timings {
            join: config.room_join_timeout,
            unused_room: config.room_empty_timeout,
            broadcaster: config.room_broadcaster_timeout,
            ..Timings::default()
        };
        Self::start_with(config, workers, notices, timings)
    }

    /// As [`Rooms::start`], with other timings.
    ///
    /// # Errors
    /// As [`Rooms::start`].
    pub fn start_with(
        config: Arc<Config>,
        workers: Arc<dyn WorkerPool>,
        mut notices: mpsc::Receiver<Notice>,
        timings: Timings,
    ) -> Result<Rooms, OrtcError> {
        let webhooks = Webhooks::new(&config, timings.webhooks);
        let presence = Presence::default();
        let patience = Patience {
            peers_make_rooms: config.room_auto_create,
            theirs: timings.join,
            others: timings.unused_room,
        };
        let table = Table::new(Lost::new(patience, Arc::clone(&presence.calls)));
        let router = Arc::new(RouterMedia::new(&config.router_codecs)?);
        let inner = Arc::new(Inner {
            config,
            workers,
            router,
            timings,
            table: Mutex::new(table),
            draining: AtomicBool::new(false),
            presence,
            webhooks,
            metrics: Arc::default(),
            waiting_rooms: Arc::default(),
            refusal: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        let rooms = Rooms { inner };
        let weak = Arc::downgrade(&rooms.inner);
        tokio::spawn(async move {
            while let Some(notice) = notices.recv().await {
                let Some(inner) = weak.upgrade() else { return };
                Rooms { inner }.notice(notice);
            }
        });
        Ok(rooms)
    }

    /// The RTP capabilities of every room's router, as clients get them.
    pub fn router_rtp_capabilities(&self) -> &Value {
        &self.inner.router.capabilities_json
    }

    /// Creates a room; without `id`, under a random one.
    ///
    /// # Errors
    /// [`Error::RoomExists`]; [`Error::Unavailable`] when there is no worker or
    /// [`MAX_WAITING_ROOMS`] wait already; [`Error::NoRouter`] when no worker
    /// takes it.
    pub async fn create(&self, id: Option<RoomId>, options: RoomOptions) -> Result<RoomId, Error> {
        let options = Arc::new(options);
        let mut refusal = NO_WORKER;
        for _ in 0..self.attempts() {
            let (id, handle) = self.insert_new(id.clone(), options.clone())?;
            let (reply, ready) = oneshot::channel();
            // A failure to send shows in the answer.
            let _ = handle.inbox.send(Command::Ready(reply)).await;
            match ready.await {
                Ok(Ok(())) => return Ok(id),
                // Another worker may take it.
                Ok(Err(error)) => refusal = error,
                Err(_) => {}
            }
        }
        Err(self.refused(refusal))
    }

    /// Whether there is such a room.
    ///
    /// # Errors
    /// [`Error::UnknownRoom`], or [`Error::Unavailable`] while a room that was lost is
    /// not there again.
    pub fn check(&self, id: &RoomId) -> Result<(), Error> {
        self.inbox(id).map(drop)
    }

    /// The way to a room's task.
    ///
    /// # Errors
    /// As [`Rooms::check`].
    pub(super) fn inbox(&self, id: &RoomId) -> Result<mpsc::Sender<Command>, Error> {
        let table = self.table();
        match table.rooms.get(id) {
            Some(room) => Ok(room.inbox.clone()),
            None => Err(self.missing(&table, id)),
        }
    }

    /// Why a room does not answer that was there a moment ago.
    pub(super) fn gone(&self, id: &RoomId) -> Error {
        self.missing(&self.table(), id)
    }

    /// What is known of every room without asking it, in no order.
    pub(super) fn summaries(&self) -> Vec<RoomSummary> {
        let table = self.table();
        let rooms = table.rooms.iter();
        rooms
            .map(|(id, room)| RoomSummary::new(id, &room.vitals))
            .collect()
    }

    /// Takes a room out, so that nobody finds it any more, nor comes back to it where it
    /// was lost; answers its handle, if it was not.
    ///
    /// # Errors
    /// [`Error::UnknownRoom`].
    pub(super) fn take(&self, id: &RoomId) -> Result<Option<RoomHandle>, Error> {
        let mut table = self.table();
        let was_lost = table.lost.get(id).is_some();
        table.lost.forget(id);
        let router_id = table.rooms.get(id).map(|room| room.router_id.clone());
        let room = router_id.and_then(|router_id| table.remove(&router_id));
        match room {
            Some((_, room)) => Ok(Some(room)),
            None if was_lost => Ok(None),
            None => Err(Error::UnknownRoom(id.to_string())),
        }
    }

    /// Takes a seat in a room for a peer, creating the room if there is none. A
    /// peer that is there already keeps its seat until the new session attaches.
    ///
    /// # Errors
    /// [`Error::RoomFull`], [`Error::Unavailable`] or [`Error::NoRouter`];
    /// [`Error::UnknownRoom`] where peers may not create rooms.
    pub async fn admit(&self, room: &RoomId, peer: &PeerId) -> Result<Seat, Error> {
        let mut refusal = NO_WORKER;
        for _ in 0..self.attempts() {
            let handle = self.find_or_insert(room)?;
            let (reply, answer) = oneshot::channel();
            let seat = Seat {
                session: SessionId::next(),
                inbox: Some(handle.inbox.clone()),
            };
            let peer = peer.clone();
            let command = Command::Admit { peer, seat, reply };
            if handle.inbox.send(command).await.is_err() {
                continue;
            }
            match answer.await {
                // Another worker may take it.
                Ok(Err(error @ Error::NoRouter(_))) => refusal = error,
                Ok(answer) => return answer,
                Err(_) => {}
            }
        }
        Err(self.refused(refusal))
    }

    /// What [`Rooms::admit`] would answer, as far as is known; changes nothing.
    ///
    /// # Errors
    /// As [`Rooms::admit`].
    pub async fn check_admission(&self, room: &RoomId, peer: &PeerId) -> Result<(), Error> {
        let found = self.table().rooms.get(room).cloned();
        let Some(handle) = found else {
            return self.check_new(room);
        };
        let (reply, answer) = oneshot::channel();
        let peer = peer.clone();
        let command = Command::CheckAdmission { peer, reply };
        // A failure to send shows in the answer.
        let _ = handle.inbox.send(command).await;
        // A room that closes meanwhile would be replaced by a fresh one.
        answer.await.unwrap_or_else(|_| self.check_new(room))
    }

    /// Rooms of a worker.
    pub fn rooms_of(&self, worker: WorkerId) -> usize {
        self.table().rooms_of(worker)
    }

    /// Every live worker has its turn before a room is refused.
    fn attempts(&self) -> usize {
        self.inner.workers.live().len().max(ATTEMPTS)
    }

    /// Rooms that peers can enter.
    pub fn open_rooms(&self) -> usize {
        self.table().rooms.len()
    }

    /// Peers that have joined and not left, in all rooms.
    pub fn joined_peers(&self) -> usize {
        self.inner.presence.joined.load(Ordering::Relaxed)
    }

    /// Whether nobody is in a call, nor about to come back to one after a worker's
    /// death.
    pub fn is_idle(&self) -> bool {
        self.table().lost.forget_old(Instant::now());
        self.inner.presence.calls.load(Ordering::Relaxed) == 0
    }

    /// What tells the outside of joins and leaves.
    pub fn webhooks(&self) -> &Webhooks {
        &self.inner.webhooks
    }

    /// What was counted so far.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What waits for the rooms that are furthest behind.
    pub fn deepest_queues(&self) -> Depths {
        let table = self.table();
        let depths = table.rooms.values().map(RoomHandle::depths);
        depths.fold(Depths::default(), |deepest, (commands, events)| Depths {
            commands: deepest.commands.max(commands),
            events: deepest.events.max(events),
        })
    }

    /// Takes nobody in any more, closes every room and its sockets with this
    /// WebSocket close code, and waits for them, for 0.7 s at most.
    pub async fn shutdown(&self, code: u16) {
        let rooms = {
            let mut table = self.table();
            self.inner.draining.store(true, Ordering::Release);
            table.clear()
        };
        for room in &rooms {
            room.stop(Stop::Shutdown(Close::new(code, "server shutdown")));
        }
        self.inner.tasks.close();
        // Whoever is late is cut off by the end of the process.
        let _ = timeout(SHUTDOWN_GRACE, self.inner.tasks.wait()).await;
    }

    /// The tasks that [`Rooms::shutdown`] waits for.
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Forgets a room that is about to end. Another of the same name stays.
    pub(super) fn remove(&self, router_id: &str) {
        self.table().remove(router_id);
    }

    /// As [`Rooms::remove`], for a room that its peers may come back to.
    pub(super) fn lose(&self, router_id: &str) {
        self.table().lose(router_id);
    }

    fn insert_new(
        &self,
        id: Option<RoomId>,
        options: Arc<RoomOptions>,
    ) -> Result<(RoomId, RoomHandle), Error> {
        let mut table = self.table();
        // Only ever raised under the table's lock.
        let waiting = self.inner.waiting_rooms.load(Ordering::Relaxed);
        let id = match id {
            Some(id) if table.rooms.contains_key(&id) => {
                return Err(Error::RoomExists(id.to_string()));
            }
            _ if waiting >= MAX_WAITING_ROOMS => return Err(TOO_MANY_WAITING),
            Some(id) => id,
            None => loop {
                let id = RoomId::generate();
                if !table.rooms.contains_key(&id) {
                    break id;
                }
            },
        };
        let handle = self.insert(&mut table, &id, Made::OverHttp(options))?;
        Ok((id, handle))
    }

    fn find_or_insert(&self, id: &RoomId) -> Result<RoomHandle, Error> {
        let mut table = self.table();
        // A room leaves the table before it closes its inbox; one that did not
        // must not block its name.
        if let Some(handle) = table.rooms.get(id)
            && !handle.inbox.is_closed()
        {
            return Ok(handle.clone());
        }
        // Who made a room that was lost may not come to make it again.
        self.may_be_made(&table, id)?;
        let made = match table.lost.get(id) {
            Some(again) => Made::Again(again.clone()),
            None => Made::ByPeer,
        };
        self.insert(&mut table, id, made)
    }

    /// Spawns a room and enters it, under the table's lock: nobody can find a
    /// half-made room, and there are never two of one name.
    fn insert(&self, table: &mut Table, id: &RoomId, made: Made) -> Result<RoomHandle, Error> {
        self.may_be_inserted(table, id, &made)?;
        let config = &self.inner.config;
        let fits = |worker: &Worker| table.check_usage(worker.id, config).is_ok();
        let worker = self.inner.workers.pick(&fits);
        let worker = worker.ok_or_else(|| self.why_no_worker(table))?;
        let calls = &self.inner.presence.calls;
        let had_peers = matches!(&made, Made::Again(again) if again.had_peers);
        let (options, origin, waits_until, waiting) = match made {
            Made::OverHttp(options) => {
                let waiting = Counted::new(&self.inner.waiting_rooms);
                (options, Origin::Http, None, Some(waiting))
            }
            Made::ByPeer => (Arc::default(), Origin::Peer, None, None),
            Made::Again(again) => {
                let waiting = again.had_peers.then(|| Counted::new(calls));
                (
                    again.options,
                    Origin::Http,
                    Some(again.waits_until),
                    waiting,
                )
            }
        };
        let vitals = Vitals::new(worker.index, table.usage(worker.id), had_peers);
        let (handle, mailbox) = mailbox::channel(worker.id, vitals, options.clone());
        let room = Room::new(Setup {
            id: id.clone(),
            router_id: handle.router_id.clone(),
            worker,
            vitals: handle.vitals.clone(),
            router: self.inner.router.clone(),
            config: self.inner.config.clone(),
            options,
            origin,
            waits_until,
            timings: self.inner.timings,
            presence: self.inner.presence.clone(),
            webhooks: self.inner.webhooks.clone(),
            metrics: self.inner.metrics.clone(),
            waiting,
        });
        table.insert(id, handle.clone());
        let run = room.run(mailbox, self.clone(), Cause::now());
        self.inner.tasks.spawn(run);
        Ok(handle)
    }

    fn notice(&self, notice: Notice) {
        match notice {
            Notice::Ready(_) => self.worker_ready(),
            Notice::Event(_, event) => self.event(event),
            Notice::Died(worker) => self.worker_gone(worker, true),
            Notice::Replaced(worker) => self.worker_gone(worker, false),
        }
    }

    fn event(&self, event: proto::Event) {
        let mut table = self.table();
        let Some((_, room)) = table.by_router(&event.router_id) else {
            // The router was closed while the event was on its way.
            return;
        };
        let Err(error) = room.deliver(event) else {
            return;
        };
        // Its picture of the worker would be wrong from here on.
        let router_id = error.into_inner().router_id;
        if let Some((id, room, again)) = table.lose(&router_id) {
            error!(room = %id, "room does not keep up with its worker, closing it");
            self.place_again(&mut table, &[(id, again)]);
            room.stop(Stop::Overrun);
        }
    }

    /// Puts rooms on workers that were lost while there was none to take them.
    fn worker_ready(&self) {
        let mut table = self.table();
        let nowhere = table.nowhere();
        if nowhere.is_empty() {
            return;
        }
        let placed = self.place_again(&mut table, &nowhere);
        let left = nowhere.len() - placed;
        if placed > 0 {
            info!(
                placed,
                left, "rooms that were lost are on media workers again"
            );
        }
    }

    /// Puts rooms that were lost on workers; answers how many found one.
    fn place_again(&self, table: &mut Table, lost: &[(RoomId, Again)]) -> usize {
        let placed = lost.iter().filter(|(id, again)| {
            let made = Made::Again(again.clone());
            self.insert(table, id, made).is_ok()
        });
        placed.count()
    }

    /// Puts the rooms of a worker on others, as far as there are any, and closes
    /// the old ones: clients that come back at once find theirs.
    fn worker_gone(&self, worker: WorkerId, crashed: bool) {
        // What it refused counts no more.
        *self.refusal() = None;
        let (rooms, placed) = {
            let mut table = self.table();
            let lost = table.lose_worker(worker);
            if crashed {
                let ids = lost.iter().map(|(id, ..)| id);
                for id in table.suspects.crashed(Instant::now(), ids) {
                    error!(
                        room = %id,
                        crashes = suspects::MAX_CRASHES,
                        seconds = suspects::QUARANTINE.as_secs(),
                        "media workers keep crashing with this room, it is kept out"
                    );
                }
            }
            let (lost, rooms): (Vec<_>, Vec<_>) = lost
                .into_iter()
                .map(|(id, room, again)| ((id, again), room))
                .unzip();
            (rooms, self.place_again(&mut table, &lost))
        };
        if !rooms.is_empty() {
            warn!(
                ?worker,
                rooms = rooms.len(),
                placed,
                "media worker is gone, its rooms go to others"
            );
        }
        for room in rooms {
            self.inner.metrics.rooms_lost.inc();
            room.stop(Stop::WorkerDied);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics while it changes the table.
        let table = self.inner.table.lock();
        table.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Which session this seat is for.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Brings the upgraded connection into the room with what it asked for,
    /// replacing an earlier session of the same peer, and carries it until it
    /// closes.
    pub async fn occupy<S>(mut self, socket: S, options: PeerOptions)
    where
        S: Stream<Item = Result<Message, axum::Error>> + Sink<Message>,
    {
        let Some(inbox) = self.inbox.take() else {
            return;
        };
        let (handle, wire) = connection::channel(Identity {
            session: self.session,
            dialect: options.dialect,
            remote: options.remote,
        });
        // A room that is gone drops the handle, which closes the socket.
        let _ = inbox.send(Command::Attach(handle, options)).await;
        connection::run(socket, wire, inbox).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(inbox) = self.inbox.take() else {
            return;
        };
        let release = Command::Release(self.session);
        if let Err(mpsc::error::TrySendError::Full(release)) = inbox.try_send(release)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { inbox.send(release).await });
        }
    }
}
