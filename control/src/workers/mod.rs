//! The life of the media workers, and the way to talk to them.

pub mod client;

pub use client::{WorkerClient, WorkerError};

/// Identity of one run of a worker process; a restarted worker gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// A live worker, as rooms see it.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Which run of which process.
    pub id: WorkerId,
    /// Slot of the worker, 0-based: its core, port slice and process title.
    pub index: usize,
    /// Calls to it.
    pub client: WorkerClient,
}

/// What the workers tell the rooms.
#[derive(Debug)]
pub enum Notice {
    /// Something a worker said by itself.
    Event(WorkerId, proto::Event),
    /// The worker is gone; every router on it is lost.
    Died(WorkerId),
}
