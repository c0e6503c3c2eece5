//! The life of the media workers, and the way to talk to them.

mod backoff;
pub mod client;
pub mod cpu;
mod output;
pub mod placement;
pub mod ports;
mod process;
mod runtime_dir;
mod supervisor;
mod table;

pub use client::{WorkerClient, WorkerError};
pub use placement::{Plan, Slot, Timing};
pub use supervisor::{NotReady, StartError, Workers, start};

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

/// What `/config` and health say of one worker slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Slot, 0-based.
    pub index: usize,
    /// Process id of the running process, if there is one.
    pub pid: Option<u32>,
    /// CPU that it is pinned to; `None` when left unpinned.
    pub cpu: Option<usize>,
    /// First and last port of its slice, inclusive.
    pub ports: (u16, u16),
    /// Answered its handshake, is not known to be gone and answered when it was
    /// asked last.
    pub ready: bool,
    /// How often the slot's process was replaced.
    pub restarts: u64,
}

/// The workers, as rooms and HTTP see them.
pub trait WorkerPool: Send + Sync + 'static {
    /// A live worker that answers, for a new room; `None` when there is none.
    fn pick(&self) -> Option<Worker>;
    /// The live workers.
    fn live(&self) -> Vec<Worker>;
    /// One entry for each slot, in order.
    fn status(&self) -> Vec<WorkerStatus>;
}
