//! Which rooms there are, and which there were.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::ids::RoomId;
use super::lost::{Again, Lost};
use super::mailbox::RoomHandle;
use super::suspects::Suspects;
use super::usage::Usage;
use crate::config::Config;
use crate::error::Error;
use crate::workers::WorkerId;

/// Invariant: `by_router` holds the router id of each room, nothing else.
pub(super) struct Table {
    pub rooms: HashMap<RoomId, RoomHandle>,
    by_router: HashMap<String, RoomId>,
    /// Rooms that ended by no will of their peers.
    pub lost: Lost,
    /// What the rooms of each worker hold.
    usage: HashMap<WorkerId, Arc<Usage>>,
    /// Rooms that were there when workers crashed.
    pub suspects: Suspects,
}

impl Table {
    /// No room yet.
    pub fn new(lost: Lost) -> Self {
        Self {
            rooms: HashMap::new(),
            by_router: HashMap::new(),
            lost,
            usage: HashMap::new(),
            suspects: Suspects::default(),
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

    /// As [`Table::remove`]; who comes back in time finds the room as it was.
    pub fn lose(&mut self, router_id: &str) -> Option<(RoomId, RoomHandle, Again)> {
        self.lost.forget_old(Instant::now());
        self.lose_one(router_id)
    }

    fn lose_one(&mut self, router_id: &str) -> Option<(RoomId, RoomHandle, Again)> {
        let (id, room) = self.remove(router_id)?;
        let again = self.lost.note(&id, &room);
        Some((id, room, again))
    }

    /// As [`Table::lose`], for all rooms of a worker.
    pub fn lose_worker(&mut self, worker: WorkerId) -> Vec<(RoomId, RoomHandle, Again)> {
        self.usage.remove(&worker);
        let rooms = self.rooms.values().filter(|room| room.worker_id == worker);
        let routers: Vec<String> = rooms.map(|room| room.router_id.clone()).collect();
        self.lost.forget_old(Instant::now());
        let lose = |router_id: String| self.lose_one(&router_id);
        routers.into_iter().filter_map(lose).collect()
    }

    /// The rooms that were lost and are on no worker.
    pub fn nowhere(&self) -> Vec<(RoomId, Again)> {
        let all = self.lost.all();
        let nowhere = all.filter(|(id, _)| !self.rooms.contains_key(*id));
        nowhere
            .map(|(id, again)| (id.clone(), again.clone()))
            .collect()
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

    /// The room of this router works: it is lost no more.
    pub fn found_again(&mut self, router_id: &str) {
        if let Some(id) = self.by_router.get(router_id) {
            self.lost.forget(id);
        }
    }

    /// Takes all rooms out, and forgets those that were lost.
    pub fn clear(&mut self) -> Vec<RoomHandle> {
        self.lost.clear();
        self.by_router.clear();
        self.rooms.drain().map(|(_, room)| room).collect()
    }
}
