//! Which rooms there are, and what is still known of rooms that were lost.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::ids::RoomId;
use super::mailbox::RoomHandle;
use super::registry::RoomOptions;
use super::suspects::Suspects;
use super::usage::Usage;
use crate::config::Config;
use crate::error::Error;
use crate::workers::WorkerId;

/// Most lost rooms whose options are kept.
const MAX_LOST: usize = 10_000;

/// Invariant: `by_router` holds the router id of each room, nothing else.
#[derive(Default)]
pub(super) struct Table {
    pub rooms: HashMap<RoomId, RoomHandle>,
    by_router: HashMap<String, RoomId>,
    /// Options of rooms that ended by no will of their peers, and until when
    /// those may come back to find them again.
    lost: HashMap<RoomId, (Arc<RoomOptions>, Instant)>,
    /// What the rooms of each worker hold.
    usage: HashMap<WorkerId, Arc<Usage>>,
    /// Rooms that were there when workers crashed.
    pub suspects: Suspects,
    /// Also rooms without options are kept in mind when they are lost, because
    /// peers cannot make them anew.
    keep_all: bool,
}

impl Table {
    /// No room yet. `peers_make_rooms`: a room that is lost without options is
    /// the same as one that a peer makes.
    pub fn new(peers_make_rooms: bool) -> Self {
        Self {
            keep_all: !peers_make_rooms,
            ..Self::default()
        }
    }

    /// Enters a room, in the place of another of its name.
    pub fn insert(&mut self, id: &RoomId, handle: RoomHandle) {
        self.by_router.insert(handle.router_id.clone(), id.clone());
        if let Some(former) = self.rooms.insert(id.clone(), handle) {
            self.by_router.remove(&former.router_id);
        }
    }

    /// The room of a router.
    pub fn by_router(&self, router_id: &str) -> Option<(&RoomId, &RoomHandle)> {
        self.rooms.get_key_value(self.by_router.get(router_id)?)
    }

    /// Removes the room of a router, if it is still here.
    pub fn remove(&mut self, router_id: &str) -> Option<(RoomId, RoomHandle)> {
        self.rooms.remove_entry(&self.by_router.remove(router_id)?)
    }

    /// As [`Table::remove`]; who comes back until then finds the room's options
    /// again.
    pub fn lose(&mut self, router_id: &str, until: Instant) -> Option<(RoomId, RoomHandle)> {
        let (id, room) = self.remove(router_id)?;
        if self.keep_all || *room.options != RoomOptions::default() {
            let now = Instant::now();
            self.lost.retain(|_, (_, until)| *until > now);
            if self.lost.len() < MAX_LOST {
                self.lost.insert(id.clone(), (room.options.clone(), until));
            }
        }
        Some((id, room))
    }

    /// As [`Table::lose`], for all rooms of a worker.
    pub fn lose_worker(&mut self, worker: WorkerId, until: Instant) -> Vec<(RoomId, RoomHandle)> {
        self.usage.remove(&worker);
        let rooms = self.rooms.values().filter(|room| room.worker_id == worker);
        let routers: Vec<String> = rooms.map(|room| room.router_id.clone()).collect();
        let lose = |router_id: String| self.lose(&router_id, until);
        routers.into_iter().filter_map(lose).collect()
    }

    /// What the rooms of a worker hold, for another of them.
    pub fn usage(&mut self, worker: WorkerId) -> Arc<Usage> {
        self.usage.entry(worker).or_default().clone()
    }

    /// Errors when a worker is not to have more rooms.
    pub fn check_usage(&self, worker: WorkerId, config: &Config) -> Result<(), Error> {
        let usage = self.usage.get(&worker);
        usage.map_or(Ok(()), |usage| usage.check(config))
    }

    /// Rooms of a worker.
    pub fn rooms_of(&self, worker: WorkerId) -> usize {
        let rooms = self.rooms.values();
        rooms.filter(|room| room.worker_id == worker).count()
    }

    /// What a lost room of this name was made with.
    pub fn lost_options(&self, id: &RoomId) -> Option<Arc<RoomOptions>> {
        let (options, until) = self.lost.get(id)?;
        (*until > Instant::now()).then(|| options.clone())
    }

    /// The room of this router works: its options need not be kept elsewhere.
    pub fn found_again(&mut self, router_id: &str) {
        if let Some(id) = self.by_router.get(router_id) {
            self.lost.remove(id);
        }
    }

    /// Takes all rooms out.
    pub fn clear(&mut self) -> Vec<RoomHandle> {
        self.by_router.clear();
        self.rooms.drain().map(|(_, room)| room).collect()
    }
}
