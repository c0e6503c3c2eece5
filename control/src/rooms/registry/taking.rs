//! Whether the server takes new rooms, and if not, why.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Made, Rooms};
use crate::error::Error;
use crate::rooms::ids::RoomId;
use crate::rooms::table::Table;
use crate::workers::WorkerId;

/// How long new rooms count as impossible after no worker took one, unless one
/// does meanwhile.
const REFUSAL_HOLDS: Duration = Duration::from_secs(5);

pub(super) const NO_WORKER: Error = Error::Unavailable("no live media worker");
const NONE_TAKES: Error = Error::Unavailable("no media worker takes rooms, for all of them drain");
const ALL_FULL: Error = Error::Unavailable(
    "every media worker is at its limit (WORKER_MAX_TRANSPORTS, WORKER_MAX_CONSUMERS)",
);
const TOO_MANY_ROOMS: Error = Error::Unavailable("too many rooms (MAX_ROOMS)");
const QUARANTINED: Error = Error::Unavailable(
    "the room was there each time when media workers crashed, it is kept out for some minutes",
);
const LOST: Error = Error::Unavailable("the room was lost and is not there again yet");
const SHUTTING_DOWN: Error = Error::Unavailable("the server is shutting down");

impl Rooms {
    /// Why a room is not there. One that was lost waits for a worker only where there is
    /// none: elsewhere no worker wanted it, or it broke off by itself, and it is back when
    /// somebody makes it.
    pub(super) fn missing(&self, table: &Table, id: &RoomId) -> Error {
        if table.suspects.is_out(Instant::now(), id) {
            return QUARANTINED;
        }
        match table.lost.get(id) {
            Some(_) if self.inner.workers.takers().is_empty() => LOST,
            _ => Error::UnknownRoom(id.to_string()),
        }
    }

    /// Whether new rooms are taken, as far as is known.
    ///
    /// # Errors
    /// [`Error::Unavailable`], or [`Error::NoRouter`] for some seconds after no
    /// worker took a room.
    pub fn health(&self) -> Result<(), Error> {
        if self.inner.draining.load(Ordering::Acquire) {
            return Err(SHUTTING_DOWN);
        }
        self.check_workers()
    }

    /// As [`Rooms::health`], of a server that may be about to end.
    fn check_workers(&self) -> Result<(), Error> {
        {
            let takers = self.takers()?;
            let table = self.table();
            self.some_worker_has_room(&takers, &table)?;
            if self.is_full(&table) {
                return Err(TOO_MANY_ROOMS);
            }
        }
        match &*self.refusal() {
            Some((when, error)) if when.elapsed() < REFUSAL_HOLDS => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Takes no new rooms from now on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Rooms that are kept out because workers crashed with them.
    pub fn quarantined(&self) -> usize {
        self.table().suspects.out(Instant::now())
    }

    /// What a peer would hear that makes this room.
    pub(super) fn check_new(&self, room: &RoomId) -> Result<(), Error> {
        let was_lost = {
            let table = self.table();
            self.may_be_made(&table, room)?;
            table.lost.get(room).is_some()
        };
        if was_lost {
            self.check_workers()
        } else {
            self.health()
        }
    }

    /// Errors when a peer may not make this room. One that was lost is its
    /// peers' all the same.
    pub(super) fn may_be_made(&self, table: &Table, id: &RoomId) -> Result<(), Error> {
        if table.suspects.is_out(Instant::now(), id) {
            return Err(QUARANTINED);
        }
        if self.inner.config.room_auto_create || table.lost.get(id).is_some() {
            return Ok(());
        }
        Err(Error::UnknownRoom(id.to_string()))
    }

    /// Errors when nobody may make this room, whatever workers there are. One that was
    /// lost is no new one, and its calls may end as others may.
    pub(super) fn may_be_inserted(
        &self,
        table: &Table,
        id: &RoomId,
        made: &Made,
    ) -> Result<(), Error> {
        if self.inner.draining.load(Ordering::Acquire) && !matches!(made, Made::Again(_)) {
            return Err(SHUTTING_DOWN);
        }
        if table.suspects.is_out(Instant::now(), id) {
            return Err(QUARANTINED);
        }
        if self.is_full(table) && !table.rooms.contains_key(id) {
            return Err(TOO_MANY_ROOMS);
        }
        Ok(())
    }

    /// The workers that get new rooms, if there are any; if not, why.
    fn takers(&self) -> Result<Vec<WorkerId>, Error> {
        let takers = self.inner.workers.takers();
        match takers.is_empty() {
            false => Ok(takers),
            true if self.inner.workers.live().is_empty() => Err(NO_WORKER),
            true => Err(NONE_TAKES),
        }
    }

    /// Whether one of these workers is not full.
    fn some_worker_has_room(&self, takers: &[WorkerId], table: &Table) -> Result<(), Error> {
        let config = &self.inner.config;
        let has_room = |id: &WorkerId| table.check_usage(*id, config).is_ok();
        match takers.iter().any(has_room) {
            true => Ok(()),
            false => Err(ALL_FULL),
        }
    }

    /// Why there was no worker for a room.
    pub(super) fn why_no_worker(&self, table: &Table) -> Error {
        let takers = self.takers();
        let why = takers.and_then(|takers| self.some_worker_has_room(&takers, table));
        // Otherwise there is one again.
        why.err().unwrap_or(NO_WORKER)
    }

    fn is_full(&self, table: &Table) -> bool {
        let most = usize::try_from(self.inner.config.max_rooms).unwrap_or(usize::MAX);
        table.rooms.len() >= most
    }

    /// Takes note of why no worker took a room.
    pub(super) fn refused(&self, error: Error) -> Error {
        if matches!(error, Error::NoRouter(_)) {
            *self.refusal() = Some((Instant::now(), error.clone()));
        }
        error
    }

    /// A worker took a room.
    pub(in crate::rooms) fn router_created(&self, router_id: &str) {
        self.table().found_again(router_id);
        *self.refusal() = None;
    }

    pub(super) fn refusal(&self) -> MutexGuard<'_, Option<(Instant, Error)>> {
        let refusal = self.inner.refusal.lock();
        refusal.unwrap_or_else(PoisonError::into_inner)
    }
}
