//! Keeps one process in every worker slot: one task for each slot starts the
//! process, says hello, publishes it, waits for its end and starts the next.
//!
//! The end of the process is the one source of truth. A worker whose connection
//! is lost, or whose media thread no longer answers, while its process lives is
//! killed, so that its end can be told.

use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::placement::{Plan, Slot};
use super::process::{Spawner, WorkerProcess};
use super::runtime_dir::RuntimeDir;
use super::table::Table;
use super::{
    Notice, Worker, WorkerClient, WorkerError, WorkerId, WorkerPool, WorkerState, WorkerStatus,
};

/// Pause between two tries to connect to a worker that does not listen yet.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// How often an idle connection to a worker is probed, and how long the answer
/// may take, before the worker counts as stuck.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The connection of a process that ends is lost a moment before its end is
/// known: how long to wait before it counts as lost alone.
const END_OF_LIFE: Duration = Duration::from_millis(500);
/// Longest shutdown, beyond the grace of the workers: to kill and reap them.
const SHUTDOWN_MARGIN: Duration = Duration::from_millis(200);

/// Why the workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No private directory for the sockets.
    #[error("cannot make a private directory for the media workers' sockets: {0}")]
    Directory(io::Error),
    /// No thread to start processes from.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A worker did not get ready.
    #[error("media worker {index} did not start: {cause}")]
    Worker {
        /// Slot of the worker.
        index: usize,
        /// What happened.
        cause: NotReady,
    },
}

/// Why a worker did not get ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The kernel refused to start the process.
    #[error("the process cannot be started: {0}")]
    Spawn(io::Error),
    /// The process ended by itself.
    #[error("the process ended with {status}{}", last_words(.last))]
    Ended {
        /// How it ended.
        status: String,
        /// What it wrote last.
        last: Vec<String>,
    },
    /// It did not answer in time.
    #[error("it did not answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// It refused the handshake, or its connection was lost.
    #[error("handshake failed: {0}")]
    Handshake(WorkerError),
    /// The supervisor was ended first.
    #[error("it was stopped")]
    Stopped,
}

fn last_words(lines: &[String]) -> String {
    match lines.last() {
        Some(line) => format!(", its last line was: {line}"),
        None => String::new(),
    }
}

/// The running workers. Cheap to clone; when the last clone is dropped without
/// [`Workers::shutdown`], the workers are killed.
#[derive(Debug, Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    directory: RuntimeDir,
}

/// What the tasks of the slots share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    directory: std::path::PathBuf,
    spawner: Spawner,
    notices: mpsc::Sender<Notice>,
    table: Mutex<Table>,
    /// For each slot: told when its process has to be replaced.
    recycle: Vec<watch::Sender<()>>,
    next_id: AtomicU64,
}

/// Starts all workers at once and waits until every one is ready. What they
/// say from then on goes to `notices`; while that queue is full, the events of
/// a worker wait in its connection.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub async fn start(plan: Plan, notices: mpsc::Sender<Notice>) -> Result<Workers, StartError> {
    let directory = RuntimeDir::create().map_err(StartError::Directory)?;
    let shared = Arc::new(Shared {
        directory: directory.path().to_owned(),
        spawner: Spawner::start().map_err(StartError::Thread)?,
        notices,
        table: Mutex::new(Table::new(&plan.slots)),
        recycle: plan.slots.iter().map(|_| watch::Sender::new(())).collect(),
        next_id: AtomicU64::new(1),
        plan,
    });
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut first_lives = Vec::new();
    for slot in shared.plan.slots.iter().copied() {
        let (first, ready) = oneshot::channel();
        tasks.spawn(supervise(shared.clone(), slot, first, stopped.clone()));
        first_lives.push(async move {
            let ready = ready.await.unwrap_or(Err(NotReady::Stopped));
            ready.map_err(|cause| StartError::Worker {
                index: slot.index,
                cause,
            })
        });
    }
    let workers = Workers {
        inner: Arc::new(Inner {
            shared,
            stop,
            tasks: Mutex::new(tasks),
            directory,
        }),
    };
    match try_join_all(first_lives).await {
        Ok(_) => Ok(workers),
        Err(error) => {
            workers.shutdown().await;
            Err(error)
        }
    }
}

impl Workers {
    /// Ends all workers: asks each, kills those that are not gone within their
    /// grace, and removes sockets and directory. Nothing is told about it.
    pub async fn shutdown(self) {
        self.inner.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        let deadline = self.inner.shared.plan.timing.stop_grace + SHUTDOWN_MARGIN;
        if timeout(deadline, all).await.is_err() {
            // Dropping the tasks kills what they still hold.
            warn!("not all media workers ended in time");
        }
        self.inner.directory.remove();
    }
}

impl WorkerPool for Workers {
    fn pick(&self, fits: &dyn Fn(&Worker) -> bool) -> Option<Worker> {
        lock(&self.inner.shared.table).pick(fits)
    }

    fn live(&self) -> Vec<Worker> {
        lock(&self.inner.shared.table).live()
    }

    fn takers(&self) -> Vec<WorkerId> {
        lock(&self.inner.shared.table).takers()
    }

    fn states(&self) -> Vec<WorkerState> {
        lock(&self.inner.shared.table).states()
    }

    fn status(&self) -> Vec<WorkerStatus> {
        lock(&self.inner.shared.table).status()
    }

    fn drain(&self, index: usize) -> Option<WorkerId> {
        lock(&self.inner.shared.table).drain(index)
    }

    fn recycle(&self, index: usize) -> bool {
        let slot = self.inner.shared.recycle.get(index);
        slot.is_some_and(|slot| {
            slot.send_replace(());
            true
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the workers are to end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the last `Workers` is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How one process of a slot ended.
enum Life {
    /// It never got ready.
    NotReady(NotReady),
    /// It was ready, and ended.
    Over,
    /// Somebody wants another in its place.
    Recycled,
    /// The workers are to end.
    Stopped,
}

/// The task of one slot. `first` is told whether its first process got ready;
/// if not, the task ends.
async fn supervise(
    shared: Arc<Shared>,
    slot: Slot,
    first: oneshot::Sender<Result<(), NotReady>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut first = Some(first);
    let timing = shared.plan.timing;
    let mut backoff = Backoff::new(timing);
    let mut short_lives = 0;
    let index = slot.index;
    let Some(recycle) = shared.recycle.get(index) else {
        return;
    };
    for generation in 0u64.. {
        // What was asked for before is done by this life.
        let mut recycled = recycle.subscribe();
        let born = Instant::now();
        let life = shared.live(&slot, generation, &mut first, &mut stop, &mut recycled);
        let mut delay = None;
        match life.await {
            Life::Stopped => return,
            Life::Over => {}
            Life::Recycled => delay = Some(Duration::ZERO),
            Life::NotReady(cause) => {
                if let Some(first) = first.take() {
                    let _ = first.send(Err(cause));
                    return;
                }
                error!(worker = index, "media worker did not restart: {cause}");
                lock(&shared.table).ended(index, cause.to_string(), Vec::new());
            }
        }
        let is_short = delay.is_none() && born.elapsed() < timing.stable_after;
        short_lives = if is_short { short_lives + 1 } else { 0 };
        if short_lives >= timing.max_short_lives {
            error!(
                worker = index,
                short_lives, "media worker keeps ending, it is taken out"
            );
            lock(&shared.table).give_up(index);
            tokio::select! {
                () = stopped(&mut stop) => return,
                // An error means that nobody can ask any more.
                _ = recycled.changed() => {}
            }
            short_lives = 0;
            backoff = Backoff::new(timing);
            delay = Some(Duration::ZERO);
        }
        let delay = delay.unwrap_or_else(|| backoff.after(born.elapsed(), rand::random()));
        info!(worker = index, ?delay, "restarting media worker");
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = sleep(delay) => lock(&shared.table).restarting(index),
        }
    }
}

impl Shared {
    /// One process of a slot, from start to end.
    async fn live(
        &self,
        slot: &Slot,
        generation: u64,
        first: &mut Option<oneshot::Sender<Result<(), NotReady>>>,
        stop: &mut watch::Receiver<bool>,
        recycled: &mut watch::Receiver<()>,
    ) -> Life {
        let name = format!("worker-{}-{generation}.sock", slot.index);
        let socket = self.directory.join(name);
        let spawn = WorkerProcess::spawn(&self.spawner, &self.plan, slot, socket);
        let mut process = match spawn.await {
            Ok(process) => process,
            Err(error) => return Life::NotReady(NotReady::Spawn(error)),
        };
        lock(&self.table).spawned(slot.index, process.pid());
        let grace = self.plan.timing.stop_grace;
        let life = tokio::select! {
            biased;
            () = stopped(stop) => Life::Stopped,
            life = self.serve(slot, &mut process, first) => life,
            Ok(()) = recycled.changed() => Life::Recycled,
        };
        // Before anything else: no room may be put on a worker that is gone.
        let id = lock(&self.table).retire(slot.index);
        match life {
            Life::Stopped => process.terminate(grace).await,
            // Its rooms are told first: they find another worker while this one
            // still forwards.
            Life::Recycled => {}
            _ => process.kill().await,
        }
        if let (Life::Over | Life::Recycled, Some(id)) = (&life, id) {
            let notice = match life {
                Life::Recycled => Notice::Replaced(id),
                _ => Notice::Died(id),
            };
            tokio::select! {
                () = stopped(stop) => return Life::Stopped,
                // An error means that nobody wants to know any more.
                _ = self.notices.send(notice) => {}
            }
        }
        if matches!(life, Life::Recycled) {
            process.terminate(grace).await;
            let last = process.last_lines().await;
            lock(&self.table).ended(slot.index, "replaced on request".to_owned(), last);
        }
        life
    }

    /// Gets the process ready, publishes it, and forwards its events until it
    /// is of no more use.
    async fn serve(
        &self,
        slot: &Slot,
        process: &mut WorkerProcess,
        first: &mut Option<oneshot::Sender<Result<(), NotReady>>>,
    ) -> Life {
        let born = Instant::now();
        let (client, events) = match self.get_ready(process).await {
            Ok(ready) => ready,
            Err(cause) => return Life::NotReady(cause),
        };
        let id = WorkerId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let pid = process.pid();
        info!(worker = slot.index, ?pid, "media worker is ready");
        lock(&self.table).publish(Worker {
            id,
            index: slot.index,
            client: client.clone(),
        });
        if let Some(first) = first.take() {
            let _ = first.send(Ok(()));
        }
        let useless = tokio::select! {
            biased;
            status = process.wait() => Err(status),
            () = self.forward(id, events) => Ok("a lost connection"),
            () = self.until_stuck(slot.index, &client) => {
                Ok("a media thread that does not answer")
            }
        };
        let cause = match useless {
            Err(status) => ending(status),
            Ok(why) => match timeout(END_OF_LIFE, process.wait()).await {
                Ok(status) => ending(status),
                Err(_) => format!("{why}; it is killed"),
            },
        };
        process.kill().await;
        let last = process.last_lines().await;
        let age = born.elapsed();
        error!(
            worker = slot.index,
            ?pid,
            ?age,
            ?last,
            "media worker ended with {cause}"
        );
        lock(&self.table).ended(slot.index, cause, last);
        Life::Over
    }

    /// Connects, shakes hands and opens the stream of events.
    async fn get_ready(
        &self,
        process: &mut WorkerProcess,
    ) -> Result<(WorkerClient, Streaming<proto::Event>), NotReady> {
        let deadline = self.plan.timing.ready_deadline;
        let socket = process.socket().to_owned();
        let hello = timeout(deadline, async move {
            let client = WorkerClient::new(connect(&socket).await);
            let request = proto::HandshakeRequest {
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            client.handshake(request).await?;
            let events = client.events().await?;
            Ok::<_, WorkerError>((client, events))
        });
        let refused = tokio::select! {
            biased;
            status = process.wait() => return Err(ended(process, status).await),
            hello = hello => match hello {
                Ok(Ok(ready)) => return Ok(ready),
                Ok(Err(error)) => NotReady::Handshake(error),
                Err(_) => NotReady::Deadline(deadline),
            }
        };
        // A connection that broke because the process ended is told as that.
        match timeout(END_OF_LIFE, process.wait()).await {
            Ok(status) => Err(ended(process, status).await),
            Err(_) => Err(refused),
        }
    }

    /// Asks the worker in turns, until it did not answer twice in a row. The
    /// answer comes from its media thread: the thread that serves the
    /// connection, and answers its probes, may well outlive that one.
    async fn until_stuck(&self, index: usize, client: &WorkerClient) {
        let timing = self.plan.timing;
        let mut missed = false;
        loop {
            // After a miss sooner; never at once, for a worker may be busy for a moment.
            let pause = if missed {
                timing.check_interval / 5
            } else {
                timing.check_interval
            };
            sleep(pause).await;
            let dump = client.dump(proto::DumpRequest::default());
            let answer = timeout(timing.check_deadline, dump).await;
            // To refuse is to answer.
            let answers = !matches!(answer, Err(_) | Ok(Err(WorkerError::Gone)));
            let dump = answer.ok().and_then(Result::ok);
            lock(&self.table).answered(index, answers, dump);
            match (answers, missed) {
                (false, true) => return,
                (false, false) => warn!(worker = index, "media worker does not answer"),
                (true, true) => info!(worker = index, "media worker answers again"),
                (true, false) => {}
            }
            missed = !answers;
        }
    }

    /// Tells of the worker, and forwards its events until their stream ends.
    async fn forward(&self, id: WorkerId, mut events: Streaming<proto::Event>) {
        let _ = self.notices.send(Notice::Ready(id)).await;
        while let Ok(Some(event)) = events.message().await {
            // An error means that nobody wants to know any more; the worker
            // is still to be watched.
            let _ = self.notices.send(Notice::Event(id, event)).await;
        }
    }
}

async fn ended(process: &mut WorkerProcess, status: io::Result<ExitStatus>) -> NotReady {
    NotReady::Ended {
        status: ending(status),
        last: process.last_lines().await,
    }
}

fn ending(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("an unknown status ({error})"),
    }
}

/// Connects to a worker's socket as soon as it listens.
async fn connect(socket: &std::path::Path) -> Channel {
    // The address is never used: the connector knows the socket.
    let endpoint = Endpoint::from_static("http://mediaworker")
        .http2_keep_alive_interval(PROBE_INTERVAL)
        .keep_alive_timeout(PROBE_TIMEOUT)
        .keep_alive_while_idle(true);
    loop {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return channel,
            Err(_) => sleep(CONNECT_PAUSE).await,
        }
    }
}
