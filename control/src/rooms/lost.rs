//! What is still known of rooms that were lost: they ended by no will of their peers,
//! who may come back to find them as they were.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::time::Instant;

use super::counted::Counted;
use super::ids::RoomId;
use super::mailbox::RoomHandle;
use super::registry::RoomOptions;

/// Most lost rooms that are kept in mind. Of further ones nothing is known any more:
/// who comes back makes a new room, where peers may do that.
const MAX_LOST: usize = 10_000;

/// What a room that was lost is to be like when it is there again.
#[derive(Debug, Clone)]
pub(super) struct Again {
    /// What it was made with.
    pub options: Arc<RoomOptions>,
    /// How long it waits for a peer.
    pub waits_until: Instant,
    /// Somebody had joined it, before it was lost for the first time or after.
    pub had_peers: bool,
}

/// How long who comes back finds lost rooms again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Whether peers make rooms: one without options is theirs to make anyway.
    pub peers_make_rooms: bool,
    /// For rooms that are.
    pub theirs: Duration,
    /// For all others.
    pub others: Duration,
}

/// The rooms that were lost and are not there again.
#[derive(Debug)]
pub(super) struct Lost {
    rooms: HashMap<RoomId, (Again, Option<Counted>)>,
    patience: Patience,
    /// Counts those that had peers.
    calls: Arc<AtomicUsize>,
}

impl Lost {
    /// None yet. `calls` counts those that had peers, who may come back.
    pub fn new(patience: Patience, calls: Arc<AtomicUsize>) -> Self {
        Self {
            rooms: HashMap::new(),
            patience,
            calls,
        }
    }

    /// Keeps a room in mind that is lost now. Old ones are not forgotten by that: a
    /// worker may have thousands of rooms.
    pub fn note(&mut self, id: &RoomId, room: &RoomHandle) -> Again {
        let now = Instant::now();
        let theirs = self.patience.peers_make_rooms && *room.options == RoomOptions::default();
        let had_peers = room.vitals.had_peers();
        let again = Again {
            options: Arc::clone(&room.options),
            waits_until: room.vitals.waits_until().unwrap_or_else(|| {
                // Who was there comes back at once, or soon, if the room is theirs to make.
                let wait = if theirs {
                    self.patience.theirs
                } else {
                    self.patience.others
                };
                now.checked_add(wait).unwrap_or(now)
            }),
            had_peers,
        };
        if self.rooms.len() < MAX_LOST {
            let counted = had_peers.then(|| Counted::new(&self.calls));
            self.rooms.insert(id.clone(), (again.clone(), counted));
        }
        again
    }

    /// What a room was, if it was lost and its time is not over.
    pub fn get(&self, id: &RoomId) -> Option<&Again> {
        let (again, _) = self.rooms.get(id)?;
        (again.waits_until > Instant::now()).then_some(again)
    }

    /// All whose time is not over.
    pub fn all(&self) -> impl Iterator<Item = (&RoomId, &Again)> {
        let now = Instant::now();
        let all = self.rooms.iter().map(|(id, (again, _))| (id, again));
        all.filter(move |(_, again)| again.waits_until > now)
    }

    /// The room is there again, or is not to be.
    pub fn forget(&mut self, id: &RoomId) {
        self.rooms.remove(id);
    }

    /// Forgets those whose time is over.
    pub fn forget_old(&mut self, now: Instant) {
        self.rooms.retain(|_, (again, _)| again.waits_until > now);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.rooms.clear();
    }
}
