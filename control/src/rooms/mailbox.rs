//! The way to a room: what it is asked to do waits in its inbox, what its worker
//! says in a queue of its own, and either of them is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::admin::{AdminRequest, Vitals};
use super::broadcaster::Asked;
use super::data::MAX_MESSAGE_SIZE;
use super::ids::PeerId;
use super::peer::PeerOptions;
use super::registry::{RoomOptions, Seat};
use crate::error::Error;
use crate::protoo::connection::{Close, Handle, Inbound, SessionId};
use crate::traces::Cause;
use crate::workers::{WorkerError, WorkerId};

/// Commands waiting for a room. A full inbox makes its senders wait: a client's
/// socket is then not read any further.
const INBOX: usize = 64;

/// Events of the worker waiting for a room. Nobody can wait here without
/// holding up other rooms, so a full queue closes the room.
const EVENTS: usize = 4096;

/// Most events that may wait when another message to the bot is let in; above,
/// messages are dropped. Clients send them as they like, so they must not be
/// what fills the queue.
const EVENTS_BEFORE_MESSAGES: usize = 64;

/// Most bytes of messages to the bot that wait; above, messages are dropped.
/// Four of the longest fit.
const MESSAGES_BYTES: usize = 4 * MAX_MESSAGE_SIZE as usize;

/// What a room is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Answers once the room works, or when it does not come about.
    Ready(oneshot::Sender<Result<(), Error>>),
    /// Gives the seat to this peer, or says why not.
    Admit {
        peer: PeerId,
        seat: Seat,
        reply: oneshot::Sender<Result<Seat, Error>>,
    },
    /// What `Admit` would answer.
    CheckAdmission {
        peer: PeerId,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// The seat is not needed any more.
    Release(SessionId),
    /// The connection that the seat was held for, and what it asked for.
    Attach(Handle, PeerOptions),
    /// Something from a connection.
    Inbound(Inbound),
    /// Something from a broadcaster, and the HTTP request that it is for.
    Broadcaster(Asked, Cause),
    /// Something from an admin, and the HTTP request that it is for.
    Admin(AdminRequest, Cause),
}

impl From<Inbound> for Command {
    fn from(inbound: Inbound) -> Self {
        Command::Inbound(inbound)
    }
}

/// Why a room has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Its worker is gone, its router with it.
    WorkerDied,
    /// It lost events of its worker.
    Overrun,
    /// An admin closed it.
    Removed,
    /// The server stops; sockets are closed with this.
    Shutdown(Close),
}

/// The outside's way to a room. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RoomHandle {
    pub router_id: String,
    pub worker_id: WorkerId,
    /// What the room was made with.
    pub options: Arc<RoomOptions>,
    pub vitals: Arc<Vitals>,
    pub inbox: mpsc::Sender<Command>,
    events: mpsc::Sender<proto::Event>,
    /// Bytes of messages to the bot among the events.
    message_bytes: Arc<AtomicUsize>,
    stop: Arc<watch::Sender<Option<Stop>>>,
}

impl RoomHandle {
    /// Hands over an event of the worker. A message to the bot is dropped when
    /// the room is busy.
    ///
    /// # Errors
    /// With the event, when the queue is full.
    pub fn deliver(&self, event: proto::Event) -> Result<(), TrySendError<proto::Event>> {
        if let Some(bytes) = message_length(&event) {
            let waiting = self.events.max_capacity() - self.events.capacity();
            let before = self.message_bytes.load(Ordering::Relaxed);
            if waiting >= EVENTS_BEFORE_MESSAGES || before + bytes > MESSAGES_BYTES {
                return Ok(());
            }
            // One task delivers the events of a worker, so nobody adds between
            // the look and this.
            self.message_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.events.try_send(event)
    }

    /// How many commands and events wait.
    pub fn depths(&self) -> (usize, usize) {
        let waiting = |max: usize, free: usize| max.saturating_sub(free);
        (
            waiting(self.inbox.max_capacity(), self.inbox.capacity()),
            waiting(self.events.max_capacity(), self.events.capacity()),
        )
    }

    /// Ends the room at once, whatever it is waiting for.
    pub fn stop(&self, stop: Stop) {
        self.stop.send_replace(Some(stop));
    }
}

/// Bytes of a message to the bot; `None` for any other event.
fn message_length(event: &proto::Event) -> Option<usize> {
    match &event.event {
        Some(proto::event::Event::DataMessage(message)) => Some(message.payload.len()),
        _ => None,
    }
}

/// The room's end of a [`RoomHandle`].
#[derive(Debug)]
pub(super) struct Mailbox {
    pub inbox: mpsc::Receiver<Command>,
    pub events: Events,
    pub stop: watch::Receiver<Option<Stop>>,
}

/// What the worker has said.
#[derive(Debug)]
pub(super) struct Events {
    queue: mpsc::Receiver<proto::Event>,
    message_bytes: Arc<AtomicUsize>,
}

impl Events {
    /// The next event; `None` once nobody can say another. Cancel safe.
    pub async fn recv(&mut self) -> Option<proto::Event> {
        let event = self.queue.recv().await?;
        let bytes = message_length(&event).unwrap_or_default();
        self.message_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(event)
    }
}

/// The two ends of a new room's mailbox.
pub(super) fn channel(
    worker_id: WorkerId,
    vitals: Arc<Vitals>,
    options: Arc<RoomOptions>,
) -> (RoomHandle, Mailbox) {
    let (inbox_sender, inbox) = mpsc::channel(INBOX);
    let (events_sender, queue) = mpsc::channel(EVENTS);
    let (stop_sender, stop) = watch::channel(None);
    let message_bytes = Arc::new(AtomicUsize::new(0));
    let handle = RoomHandle {
        router_id: Uuid::new_v4().to_string(),
        worker_id,
        options,
        vitals,
        inbox: inbox_sender,
        events: events_sender,
        message_bytes: Arc::clone(&message_bytes),
        stop: Arc::new(stop_sender),
    };
    let mailbox = Mailbox {
        inbox,
        events: Events {
            queue,
            message_bytes,
        },
        stop,
    };
    (handle, mailbox)
}

/// Tells everybody who waits for a room why it does not come about.
pub(super) async fn turn_away(mailbox: &mut Mailbox, error: &WorkerError) {
    mailbox.inbox.close();
    while let Some(command) = mailbox.inbox.recv().await {
        let error = Error::NoRouter(error.clone());
        match command {
            Command::Ready(reply) => drop(reply.send(Err(error))),
            Command::Admit { reply, .. } => drop(reply.send(Err(error))),
            Command::CheckAdmission { reply, .. } => drop(reply.send(Err(error))),
            Command::Broadcaster(asked, _) => asked.refuse(error),
            // Who asked sees that the answer was dropped.
            Command::Admin(..) => {}
            Command::Release(_) | Command::Attach(..) | Command::Inbound(_) => {}
        }
    }
}

/// Waits until the room is told to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
        Ok(Some(stop)) => stop,
        // Every handle is gone: nobody can tell, and nobody can come.
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use proto::event::Event;
    use proto::{ActiveSpeaker, DataMessage};

    use super::*;

    fn message(len: usize) -> proto::Event {
        let message = DataMessage {
            payload: vec![0; len],
            ..DataMessage::default()
        };
        proto::Event {
            event: Some(Event::DataMessage(message)),
            ..proto::Event::default()
        }
    }

    fn other() -> proto::Event {
        proto::Event {
            event: Some(Event::ActiveSpeaker(ActiveSpeaker::default())),
            ..proto::Event::default()
        }
    }

    /// How many events wait after so many of this length were delivered.
    fn waiting(handle: &RoomHandle, events: usize, len: usize) -> usize {
        for _ in 0..events {
            handle.deliver(message(len)).unwrap();
        }
        handle.events.max_capacity() - handle.events.capacity()
    }

    #[tokio::test]
    async fn messages_that_wait_are_bounded_in_number_and_bytes() {
        let (handle, mut mailbox) = channel(
            WorkerId(1),
            Vitals::new(0, Arc::default(), false),
            Arc::default(),
        );
        assert_eq!(waiting(&handle, 1000, 100), 64);
        for _ in 0..64 {
            mailbox.events.recv().await.unwrap();
        }
        let longest = usize::try_from(MAX_MESSAGE_SIZE).unwrap();
        assert_eq!(waiting(&handle, 1000, longest), 4);
        assert_eq!(waiting(&handle, 1, 1), 4);
        mailbox.events.recv().await.unwrap();
        assert_eq!(waiting(&handle, 10, longest), 4);
        // Nothing else is dropped, or counts.
        for _ in 0..EVENTS - 4 {
            handle.deliver(other()).unwrap();
        }
        assert!(handle.deliver(other()).is_err());
        for _ in 0..EVENTS {
            mailbox.events.recv().await.unwrap();
        }
        assert_eq!(handle.message_bytes.load(Ordering::Relaxed), 0);
    }
}
