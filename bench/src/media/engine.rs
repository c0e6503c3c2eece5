//! The media thread: every transport of every client, one epoll, one clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::oneshot;

use super::receiving::ReceiveSpec;
use super::sending::SendSpec;
use super::session::{Identity, Remote, Session, Waiting};
use super::udp::{self, Socket};
use super::window::Window;

/// Names a transport; never used again.
pub type TransportId = u64;

/// Event data of the wake-up descriptor.
const WAKE: u64 = 0;
/// Event data of the timer.
const TIMER: u64 = 1;
/// Sockets that one wait reports.
const EVENTS: usize = 256;
/// Receive calls for one socket before the others get their turn.
const MAX_CALLS: usize = 8;
/// A stream that is later than this does not make up for the time.
const MAX_BEHIND: Duration = Duration::from_millis(200);

/// What signaling asks of the media thread.
pub enum Command {
    /// Connect a transport.
    Connect(TransportId, Box<Remote>, Waiting),
    /// Begin to send.
    Send(TransportId, SendSpec),
    /// A consumer was announced.
    Expect(TransportId, ReceiveSpec),
    /// A consumer is closed: transport and SSRC.
    Forget(TransportId, u32),
    /// The client leaves.
    Close(TransportId),
    /// Hand over what was counted, and begin anew.
    TakeWindow(oneshot::Sender<Window>),
    /// Observe what each send of the server carries, or stop that.
    Aggregate(bool),
    /// How far things are.
    Count(oneshot::Sender<Counts>),
}

/// How far things are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transports that exist.
    pub transports: usize,
    /// Streams that were announced.
    pub streams: usize,
    /// Those of them that packets came on.
    pub flowing: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Advance,
    Tick(usize),
}

/// A task of a transport; the earliest is first out of the heap.
type Due = Reverse<(Instant, TransportId, Task)>;

struct Transport {
    socket: Socket,
    session: Session,
    /// The one [`Task::Advance`] that counts.
    scheduled: Option<Instant>,
}

/// The way to the media thread, for signaling.
#[derive(Clone)]
pub struct Media {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    fingerprint: Arc<str>,
    next: Arc<std::sync::atomic::AtomicU64>,
}

impl Media {
    /// Starts the thread. It ends when the last clone of this is dropped.
    /// `sample`: share of received packets to decrypt.
    ///
    /// # Errors
    /// What the kernel or the crypto library refused.
    pub fn start(sample: f64) -> Result<(Self, std::thread::JoinHandle<()>), String> {
        let text = |error: nix::Error| format!("media thread: {error}");
        let identity = Identity::new()?;
        let fingerprint = identity.fingerprint().into();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).map_err(text)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, WAKE);
        epoll.add(&*wake, event).map_err(text)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK);
        let timer = timer.map_err(text)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, TIMER);
        epoll.add(&timer, event).map_err(text)?;
        let poll = Poll {
            epoll,
            wake: Arc::clone(&wake),
            timer,
            armed: None,
        };
        let (commands, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("media".into())
            .spawn(move || Engine::new(identity, sample, poll, queue).run())
            .map_err(|error| error.to_string())?;
        let media = Self {
            commands,
            wake,
            fingerprint,
            next: Arc::new(std::sync::atomic::AtomicU64::new(TIMER + 1)),
        };
        Ok((media, thread))
    }

    /// SHA-256 fingerprint of the clients' certificate.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A name for a new transport.
    pub fn new_id(&self) -> TransportId {
        self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Asks for something. After the thread has ended nothing happens.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }

    /// Asks for something that has an answer; the default when the thread has
    /// ended.
    pub async fn ask<T: Default>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply));
        answer.await.unwrap_or_default()
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        // The thread looks whether anybody is left when it is woken: by then this
        // one must be gone.
        self.commands = mpsc::channel().0;
        let _ = self.wake.write(1);
    }
}

/// What the thread waits on. A timer of its own, for `epoll_wait` knows whole
/// milliseconds only, and clients that all send at the same ones would make a
/// server's work easier than it is.
struct Poll {
    epoll: Epoll,
    wake: Arc<EventFd>,
    timer: TimerFd,
    /// What the timer is set to.
    armed: Option<Instant>,
}

impl Poll {
    /// Waits for a datagram, a command or a moment.
    fn wait<'a>(
        &mut self,
        ready: &'a mut [EpollEvent; EVENTS],
        due: Option<Instant>,
    ) -> &'a [EpollEvent] {
        let mut timeout = EpollTimeout::NONE;
        if let Some(due) = due {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                timeout = EpollTimeout::ZERO;
            } else if self.armed != Some(due) {
                let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
                let set = self.timer.set(expiration, TimerSetTimeFlags::empty());
                self.armed = set.is_ok().then_some(due);
            }
        }
        let count = self.epoll.wait(ready, timeout).unwrap_or(0);
        let events = ready.get(..count).unwrap_or_default();
        for event in events {
            match event.data() {
                // Before the commands are taken, or one that comes meanwhile waits.
                WAKE => {
                    let _ = self.wake.read();
                }
                // Readable again only when it is set again.
                TIMER => {
                    let _ = self.timer.wait();
                    self.armed = None;
                }
                _ => {}
            }
        }
        events
    }
}

struct Engine {
    identity: Identity,
    sample: f64,
    poll: Poll,
    commands: mpsc::Receiver<Command>,
    transports: HashMap<TransportId, Transport>,
    due: BinaryHeap<Due>,
    receiver: udp::Receiver,
    sender: udp::Sender,
    out: Vec<Vec<u8>>,
    window: Window,
    aggregate: bool,
}

impl Engine {
    fn new(identity: Identity, sample: f64, poll: Poll, commands: mpsc::Receiver<Command>) -> Self {
        Self {
            identity,
            sample,
            poll,
            commands,
            transports: HashMap::new(),
            due: BinaryHeap::new(),
            receiver: udp::Receiver::new(),
            sender: udp::Sender::new(),
            out: Vec::new(),
            window: Window::default(),
            aggregate: false,
        }
    }

    fn run(mut self) {
        let mut ready = [EpollEvent::empty(); EVENTS];
        loop {
            let due = self.due.peek().map(|Reverse((at, ..))| *at);
            let events = self.poll.wait(&mut ready, due);
            // Before the datagrams: what comes after a client has left is not for
            // it.
            loop {
                match self.commands.try_recv() {
                    Ok(command) => self.handle(Instant::now(), command),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            for event in events.iter().filter(|event| event.data() > TIMER) {
                self.receive(now, event.data());
            }
            self.run_due();
        }
    }

    fn receive(&mut self, now: Instant, id: TransportId) {
        let Some(transport) = self.transports.get_mut(&id) else {
            return;
        };
        let observed = self.aggregate;
        for _ in 0..MAX_CALLS {
            let (session, out, window) = (
                &mut transport.session,
                &mut self.out,
                std::cell::RefCell::new(&mut self.window),
            );
            let more = self.receiver.receive(
                &transport.socket,
                |datagram, at| {
                    session.handle_datagram(now, at, datagram, out, &mut window.borrow_mut());
                },
                |run, bytes| {
                    // Handshakes and reports are not what is priced.
                    if observed && bytes / run > MIN_MEDIA {
                        let mut window = window.borrow_mut();
                        let runs = window.runs.entry(run).or_default();
                        runs.sends += 1;
                        runs.bytes += u64::try_from(bytes).unwrap_or(0);
                    }
                },
            );
            if !more {
                break;
            }
        }
        self.flush(id);
        self.schedule_urgent(now, id);
    }

    fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Connect(id, remote, waiting) => self.connect(now, id, *remote, waiting),
            Command::Send(id, spec) => {
                if let Some(transport) = self.transports.get_mut(&id) {
                    let stream = transport.session.send(spec);
                    // Clients are not in step with each other.
                    let interval = Duration::from_millis(33).mul_f64(rand::random());
                    self.due
                        .push(Reverse((now + interval, id, Task::Tick(stream))));
                }
            }
            Command::Expect(id, spec) => {
                if let Some(transport) = self.transports.get_mut(&id) {
                    transport.session.receiving.expect(spec);
                    self.schedule(now, id);
                }
            }
            Command::Forget(id, ssrc) => {
                if let Some(transport) = self.transports.get_mut(&id) {
                    let receiving = &mut transport.session.receiving;
                    receiving.forget(ssrc, &mut self.window);
                }
            }
            Command::Close(id) => {
                if let Some(transport) = self.transports.get_mut(&id) {
                    let window = &mut self.window;
                    transport.session.close(now, &mut self.out, window);
                }
                self.flush(id);
                if let Some(transport) = self.transports.remove(&id) {
                    let _ = self.poll.epoll.delete(transport.socket.fd());
                }
            }
            Command::TakeWindow(reply) => {
                for transport in self.transports.values_mut() {
                    let receiving = &mut transport.session.receiving;
                    receiving.take_window(&mut self.window);
                }
                let _ = reply.send(std::mem::take(&mut self.window));
            }
            Command::Aggregate(on) => {
                self.aggregate = on;
                self.receiver.aggregate(on);
                for transport in self.transports.values() {
                    if let Err(error) = transport.socket.aggregate(on) {
                        self.window.fail(format!("UDP_GRO: {error}"));
                        break;
                    }
                }
            }
            Command::Count(reply) => {
                let mut counts = Counts {
                    transports: self.transports.len(),
                    ..Counts::default()
                };
                for transport in self.transports.values() {
                    let (streams, flowing) = transport.session.receiving.counts();
                    counts.streams += streams;
                    counts.flowing += flowing;
                }
                let _ = reply.send(counts);
            }
        }
    }

    fn connect(&mut self, now: Instant, id: TransportId, remote: Remote, waiting: Waiting) {
        let session = match Session::new(&self.identity, remote, waiting, self.sample, now) {
            Ok(session) => session,
            Err(error) => return self.window.fail(error),
        };
        let socket = match Socket::connect(session.address()) {
            Ok(socket) => socket,
            Err(error) => return self.window.fail(format!("UDP socket: {error}")),
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
        if let Err(error) = self.poll.epoll.add(socket.fd(), event) {
            return self.window.fail(format!("UDP socket: {error}"));
        }
        self.transports.insert(
            id,
            Transport {
                socket,
                session,
                scheduled: None,
            },
        );
        self.schedule(now, id);
    }

    fn schedule(&mut self, at: Instant, id: TransportId) {
        if let Some(transport) = self.transports.get_mut(&id) {
            transport.scheduled = Some(at);
            self.due.push(Reverse((at, id, Task::Advance)));
        }
    }

    /// Something came that changes when the transport wants to be advanced.
    fn schedule_urgent(&mut self, now: Instant, id: TransportId) {
        let Some(transport) = self.transports.get(&id) else {
            return;
        };
        if let Some(at) = transport.session.urgent()
            && transport.scheduled.is_none_or(|scheduled| at < scheduled)
        {
            self.schedule(at.max(now), id);
        }
    }

    fn run_due(&mut self) {
        loop {
            let now = Instant::now();
            match self.due.peek() {
                Some(Reverse((at, ..))) if *at <= now => {}
                _ => return,
            }
            let Some(Reverse((at, id, task))) = self.due.pop() else {
                return;
            };
            match task {
                Task::Advance => self.advance(now, at, id),
                Task::Tick(stream) => self.tick(now, at, id, stream),
            }
            self.flush(id);
        }
    }

    fn advance(&mut self, now: Instant, at: Instant, id: TransportId) {
        let Some(transport) = self.transports.get_mut(&id) else {
            return;
        };
        // An earlier one has been scheduled since.
        if transport.scheduled != Some(at) {
            return;
        }
        let (out, window) = (&mut self.out, &mut self.window);
        let next = transport
            .session
            .advance(now, udp::wall_clock(), out, window);
        transport.scheduled = None;
        if let Some(next) = next {
            self.schedule(next.max(now + Duration::from_micros(100)), id);
        }
    }

    fn tick(&mut self, now: Instant, at: Instant, id: TransportId, stream: usize) {
        let Some(transport) = self.transports.get_mut(&id) else {
            return;
        };
        let (out, window) = (&mut self.out, &mut self.window);
        let behind = now.saturating_duration_since(at);
        let micros = u64::try_from(behind.as_micros()).unwrap_or(u64::MAX);
        window.lateness.record(micros);
        let interval = transport
            .session
            .tick(stream, udp::wall_clock(), out, window);
        if let Some(interval) = interval {
            let next = if behind > MAX_BEHIND { now } else { at } + interval;
            self.due.push(Reverse((next, id, Task::Tick(stream))));
        }
    }

    /// Sends what a transport has written.
    fn flush(&mut self, id: TransportId) {
        if self.out.is_empty() {
            return;
        }
        if let Some(transport) = self.transports.get(&id) {
            match self.out.as_slice() {
                [one] => transport.socket.send(one),
                many => {
                    self.sender.send(&transport.socket, many);
                }
            }
        }
        self.out.clear();
    }
}

/// Smallest datagram that counts as media where sends are observed, bytes.
const MIN_MEDIA: usize = 80;
