//! One run: clients that come and go, and what is measured meanwhile.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::floor::{self, Floor, Place};
use crate::media::{Command, Counts, Media, Times, Window};
use crate::options::Options;
use crate::process::{self, CpuTime, Processes, Usage};
use crate::report::{
    Generator, Load, Memory, Percentiles, Ratios, Report, ServerCpu, Spent, Traffic,
};
use crate::server::Started;
use crate::signaling::{Milestone, Peer, Plan, Sends, Server, Shared};

/// Longest time until every announced stream flows.
const FLOWING: Duration = Duration::from_secs(60);
/// Between two looks at whether it does.
const LOOK: Duration = Duration::from_millis(20);
/// How long the server's sends are observed, after the measurement.
const OBSERVED: Duration = Duration::from_secs(2);
/// Early ends of clients that are shown; all are counted.
const MAX_SHOWN: usize = 5;

/// How the clients fared.
#[derive(Debug, Clone, Default)]
pub struct Fared {
    /// From opening the socket to the answer to `join`.
    pub joined: Times,
    /// From the first check of a transport until it is up.
    pub connected: Times,
    /// From opening the socket to the first media packet.
    pub first_packet: Times,
    /// Clients that ended early.
    pub failed: u64,
    /// Why, the first few.
    pub reasons: Vec<String>,
}

/// The run.
pub struct Rig {
    options: Options,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    fared: Arc<Mutex<Fared>>,
    peers: Vec<Peer>,
    processes: Option<Processes>,
    idle: Option<(Usage, Usage)>,
    floor: Option<Floor>,
    /// Tells this run's rooms from those of others.
    name: u32,
    media_thread: std::thread::JoinHandle<()>,
    /// After everything else: the server ends with it.
    _started: Option<Started>,
}

/// What was found in a time.
pub struct Measured {
    /// How long it was.
    pub elapsed: Duration,
    /// What was counted.
    pub window: Window,
    /// CPU time of control plane and workers.
    pub cpu: Option<(CpuTime, CpuTime)>,
    /// What the processes had used at the end.
    pub usage: Option<(Usage, Usage)>,
    /// CPU time of the rod.
    pub own: CpuTime,
}

impl Measured {
    /// Share of its core that the rod used.
    pub fn generator(&self) -> f64 {
        process::share(self.own, self.elapsed)
    }
}

impl Rig {
    /// Measures the floor, starts the server if asked to, and the media thread.
    ///
    /// # Errors
    /// What failed.
    pub fn new(options: &Options) -> Result<Self, String> {
        raise_file_limit()?;
        let place = place(options);
        let floor = match options.no_floor {
            true => None,
            false => Some(floor::measure(place)?),
        };
        let binary = options.server_binary.as_deref();
        let started = match options.start {
            true => Some(Started::start(binary, options.server_core())?),
            false => None,
        };
        let url = started.as_ref().map(Started::url);
        let url = url.or(options.server.as_deref()).unwrap_or_default();
        let server = Server::new(url)?;
        let pid = started.as_ref().map(Started::pid).or(options.pid);
        let processes = pid.map(Processes::of).transpose()?;
        if let Some(core) = options.generator_core() {
            process::pin(core)?;
        }
        let (media, media_thread) = Media::start(f64::from(options.sample) / 100.0)?;
        let (stop, stopped) = watch::channel(false);
        let (milestones, reached) = mpsc::unbounded_channel();
        let fared = Arc::new(Mutex::new(Fared::default()));
        tokio::spawn(collect(reached, Arc::clone(&fared)));
        let shared = Arc::new(Shared {
            server,
            media,
            consumers: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            stop: stopped,
            milestones,
            // Random, so that a rod beside this one has others.
            next_ssrc: AtomicU64::new(u64::from(rand::random::<u32>() & 0x7FFF_FFFE)),
        });
        Ok(Self {
            options: options.clone(),
            shared,
            stop,
            fared,
            peers: Vec::new(),
            idle: processes.as_ref().map(Processes::usage),
            processes,
            floor,
            name: rand::random(),
            media_thread,
            _started: started,
        })
    }

    /// A room's name that no earlier run has used.
    pub fn room_name(&self, number: u32) -> String {
        format!("rod-{:08x}-{number}", self.name)
    }

    /// A plan for a client of this run.
    pub fn plan(&self, room: &str, peer: String, sends: Sends, receives: bool) -> Plan {
        Plan {
            room: room.to_owned(),
            peer,
            sends,
            receives,
            video: self.options.video(),
        }
    }

    /// Starts a client without waiting for it.
    pub fn start(&self, plan: Plan) -> Peer {
        Peer::start(&self.shared, plan).0
    }

    /// Lets clients join, some at the same time, and waits until all have.
    pub async fn fill(&mut self, plans: Vec<Plan>) {
        let at_once = usize::try_from(self.options.joins).unwrap_or(1);
        let places = Arc::new(Semaphore::new(at_once));
        for plan in plans {
            let place = Arc::clone(&places).acquire_owned().await;
            let (peer, ready) = Peer::start(&self.shared, plan);
            self.peers.push(peer);
            tokio::spawn(async move {
                let _ = ready.await;
                drop(place);
            });
        }
        let all = u32::try_from(at_once).unwrap_or(1);
        let _ = places.acquire_many(all).await;
    }

    /// The clients, oldest first; they are the caller's from now on.
    pub fn take_peers(&mut self) -> Vec<Peer> {
        std::mem::take(&mut self.peers)
    }

    /// Takes clients over that are to leave at the end.
    pub fn keep(&mut self, peers: Vec<Peer>) {
        self.peers.extend(peers);
    }

    /// Waits until as many streams as expected are announced and flow, then lets
    /// things settle.
    ///
    /// # Errors
    /// When that takes too long, or clients have failed: how far it came.
    pub async fn settle(&self, consumers: u32) -> Result<(), String> {
        let expected = usize::try_from(consumers).unwrap_or(usize::MAX);
        let deadline = Instant::now() + FLOWING;
        loop {
            let counts: Counts = self.shared.media.ask(Command::Count).await;
            if counts.flowing >= expected {
                break;
            }
            self.with_fared(|fared| match fared.reasons.first() {
                Some(reason) => Err(format!("{} clients failed; first {reason}", fared.failed)),
                None => Ok(()),
            })?;
            if Instant::now() > deadline {
                let window: Window = self.shared.media.ask(Command::TakeWindow).await;
                return Err(format!(
                    "after {FLOWING:?}, {} of {expected} streams flow; {} are announced, {} clients \
                     have joined, {} transports failed ({})",
                    counts.flowing,
                    self.shared.consumers.load(Ordering::Relaxed),
                    self.shared.joined.load(Ordering::Relaxed),
                    window.failed,
                    window.reasons.join("; ")
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(Duration::from_secs(self.options.settle)).await;
        Ok(())
    }

    /// The same for clients whose producers are silent: waits until all consumers are
    /// announced, and as many transports are up.
    ///
    /// # Errors
    /// As of [`Rig::settle`].
    pub async fn settle_silent(&self, consumers: u32, transports: u32) -> Result<(), String> {
        let expected = usize::try_from(consumers).unwrap_or(usize::MAX);
        let deadline = Instant::now() + FLOWING;
        loop {
            let announced = self.shared.consumers.load(Ordering::Relaxed);
            let connected = self.with_fared(|fared| match fared.reasons.first() {
                Some(reason) => Err(format!("{} clients failed; first {reason}", fared.failed)),
                None => Ok(fared.connected.count()),
            })?;
            if announced >= expected && connected >= u64::from(transports) {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "after {FLOWING:?}, {announced} of {expected} consumers are announced, and \
                     {connected} of {transports} transports up"
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(Duration::from_secs(self.options.settle)).await;
        Ok(())
    }

    /// What control plane and workers have used so far, where that is known.
    pub fn usage(&self) -> Option<(Usage, Usage)> {
        self.processes.as_ref().map(Processes::usage)
    }

    /// Measures while `meanwhile` runs.
    pub async fn measure(&self, meanwhile: impl Future<Output = ()>) -> Measured {
        let _: Window = self.shared.media.ask(Command::TakeWindow).await;
        let before = self.processes.as_ref().map(Processes::usage);
        let (own, start) = (process::own_cpu(), Instant::now());
        meanwhile.await;
        let window = self.shared.media.ask(Command::TakeWindow).await;
        let elapsed = start.elapsed();
        let own = process::own_cpu().since(own);
        let usage = self.processes.as_ref().map(Processes::usage);
        let cpu = before.zip(usage).map(|(before, after)| {
            let spent = |before: Usage, after: Usage| after.cpu.since(before.cpu);
            (spent(before.0, after.0), spent(before.1, after.1))
        });
        Measured {
            elapsed,
            window,
            cpu,
            usage,
            own,
        }
    }

    /// Looks at how the clients have fared.
    pub fn with_fared<T>(&self, look: impl FnOnce(&mut Fared) -> T) -> T {
        look(&mut self.fared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Observes what the server's sends carry, ends everything, prices what was
    /// observed, and writes the report.
    ///
    /// # Errors
    /// What the floor's second measurement failed with.
    pub async fn report(
        mut self,
        scenario: String,
        load: Load,
        measured: Measured,
    ) -> Result<Report, String> {
        let runs = match self.floor {
            Some(_) => self.observe().await,
            None => Window::default(),
        };
        self.end().await;
        let mix = floor::measure_mix(place(&self.options), &runs.runs)?;
        let Measured { window, .. } = &measured;
        let seconds = measured.elapsed.as_secs_f64();
        let cpu = measured.cpu.map(|(control, workers)| ServerCpu {
            control: Spent::new(control, window.received, seconds),
            workers: Spent::new(workers, window.received, seconds),
        });
        let ratios = |all: bool| {
            let (cpu, floor) = (cpu?, self.floor.as_ref()?);
            let none = Spent::default();
            let control = if all { cpu.control } else { none };
            let per_packet = ServerCpu { control, ..cpu }.per_packet();
            Some(Ratios::new(per_packet, floor, mix.as_ref()))
        };
        let memory = self.idle.zip(measured.usage);
        let mut report = self.with_fared(|fared| Report {
            join: Percentiles::from(&fared.joined),
            connected: Percentiles::from(&fared.connected),
            first_packet: Percentiles::from(&fared.first_packet),
            problems: fared.reasons.clone(),
            ..Report::default()
        });
        report.scenario = scenario;
        report.seconds = seconds;
        report.load = load;
        report.traffic = Traffic::new(window, seconds);
        report.ratios = ratios(true);
        report.worker_ratios = ratios(false);
        report.cpu = cpu;
        report.floor = self.floor;
        report.mix = mix;
        report.latency = Percentiles::from(&window.latency);
        report.memory = memory.map(|(idle, loaded)| Memory::new(idle, loaded, load));
        report.generator = Generator {
            share_of_core: measured.generator(),
            lateness: Percentiles::from(&window.lateness),
        };
        if window.failed > 0 {
            let reasons = window.reasons.join("; ");
            report
                .problems
                .push(format!("{} transports failed: {reasons}", window.failed));
        }
        report.judge();
        self.join_media().await;
        Ok(report)
    }

    async fn observe(&self) -> Window {
        let media = &self.shared.media;
        media.tell(Command::Aggregate(true));
        tokio::time::sleep(OBSERVED / 10).await;
        let _: Window = media.ask(Command::TakeWindow).await;
        tokio::time::sleep(OBSERVED).await;
        let window = media.ask(Command::TakeWindow).await;
        media.tell(Command::Aggregate(false));
        window
    }

    /// Has all clients leave.
    async fn end(&mut self) {
        let _ = self.stop.send(true);
        let leaving = self.take_peers().into_iter().map(Peer::leave);
        futures_util::future::join_all(leaving).await;
    }

    /// Ends everything without a report.
    pub async fn abandon(mut self) {
        self.end().await;
        self.join_media().await;
    }

    /// Waits for the media thread, which ends when no client is left.
    async fn join_media(self) {
        drop(self.shared);
        let thread = self.media_thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

async fn collect(mut reached: mpsc::UnboundedReceiver<Milestone>, fared: Arc<Mutex<Fared>>) {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    while let Some(milestone) = reached.recv().await {
        let mut fared = fared.lock().unwrap_or_else(PoisonError::into_inner);
        match milestone {
            Milestone::Joined(time) => fared.joined.record(micros(time)),
            Milestone::Connected(time) => fared.connected.record(micros(time)),
            Milestone::FirstPacket(time) => fared.first_packet.record(micros(time)),
            Milestone::Failed(reason) => {
                fared.failed += 1;
                if fared.reasons.len() < MAX_SHOWN {
                    fared.reasons.push(reason);
                }
            }
        }
    }
}

fn place(options: &Options) -> Place {
    Place {
        sender: options.server_core(),
        reader: options.generator_core(),
        time: Duration::from_millis(options.floor_time),
    }
}

/// Every client has a socket for signaling and one or two for media.
fn raise_file_limit() -> Result<(), String> {
    let text = |error: nix::Error| format!("limit of open files: {error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(text)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(text)
}
