//! The life of the media workers, and the way to talk to them.

mod backoff;
pub mod client;
pub mod cpu;
mod load;
pub mod memory;
mod output;
pub mod placement;
pub mod ports;
mod process;
mod runtime_dir;
mod supervisor;
mod table;

use std::time::{Duration, SystemTime};

pub use client::{WorkerClient, WorkerError};
pub use load::Load;
#[cfg(test)]
pub(crate) use output::log as log_line;
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
    /// There is another worker, which takes rooms.
    Ready(WorkerId),
    /// Something a worker said by itself.
    Event(WorkerId, proto::Event),
    /// The worker is gone; every router on it is lost.
    Died(WorkerId),
    /// As `Died`, but somebody wanted it so.
    Replaced(WorkerId),
}

/// What is going on in a worker slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkerState {
    /// Its process has not answered yet.
    #[default]
    Starting,
    /// Takes rooms.
    Ready,
    /// Did not answer when it was asked last: calls on it may stand still. It is killed
    /// when it does not answer the next time, and gets rooms only where no other worker
    /// takes them. It may be one that drains.
    Stuck,
    /// Takes no more rooms, and is replaced when those that it has are gone.
    Draining,
    /// Its process is gone; another one follows.
    Restarting,
    /// Its processes ended so often in a row that no other one follows.
    Failed,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [WorkerState; 6] = [
        WorkerState::Starting,
        WorkerState::Ready,
        WorkerState::Stuck,
        WorkerState::Draining,
        WorkerState::Restarting,
        WorkerState::Failed,
    ];

    /// Its name in `GET /config`.
    pub fn name(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Ready => "ready",
            WorkerState::Stuck => "stuck",
            WorkerState::Draining => "draining",
            WorkerState::Restarting => "restarting",
            WorkerState::Failed => "failed",
        }
    }
}

/// How a slot's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastExit {
    /// In words.
    pub reason: String,
    /// What it wrote last.
    pub last_lines: Vec<String>,
    /// When.
    pub at: SystemTime,
}

/// What `/config`, `/metrics` and health say of one worker slot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerStatus {
    /// Slot, 0-based.
    pub index: usize,
    /// Process id of the running process, if there is one.
    pub pid: Option<u32>,
    /// CPU that it is pinned to; `None` when left unpinned.
    pub cpu: Option<usize>,
    /// First and last port of its slice, inclusive.
    pub ports: (u16, u16),
    /// What is going on.
    pub state: WorkerState,
    /// Its worker takes no more rooms, whatever else is the matter with it.
    pub draining: bool,
    /// How long its process has been ready.
    pub ready_for: Option<Duration>,
    /// How often the slot's process was replaced.
    pub restarts: u64,
    /// How the one before ended.
    pub last_exit: Option<LastExit>,
    /// What it does, as it was when it was asked last.
    pub load: Option<Load>,
}

/// The workers, as rooms and HTTP see them.
pub trait WorkerPool: Send + Sync + 'static {
    /// The live worker that should get a new room, of those that `fits` takes;
    /// `None` when there is none.
    fn pick(&self, fits: &dyn Fn(&Worker) -> bool) -> Option<Worker>;
    /// The live workers.
    fn live(&self) -> Vec<Worker>;
    /// The workers that get new rooms, full or not.
    fn takers(&self) -> Vec<WorkerId>;
    /// The state of each slot, in order: cheaper than all that is known of it.
    fn states(&self) -> Vec<WorkerState>;
    /// One entry for each slot, in order.
    fn status(&self) -> Vec<WorkerStatus>;
    /// Keeps new rooms from the worker of a slot, until it is replaced; `None`
    /// when there is none.
    fn drain(&self, index: usize) -> Option<WorkerId>;
    /// Ends the process of a slot, if it has one, and starts another, also where
    /// there was to be no other; answers whether there is such a slot.
    fn recycle(&self, index: usize) -> bool;
}
