//! The only clock, the only waiting and the only owner of the sockets: one
//! thread, one function of named phases.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::engine::{CommandError, ConnectionNote, Engine};
use crate::event_channel::{EventSender, NotSent};
use crate::net::tcp::ConnectionEvent;
use crate::net::udp::MediaSockets;
use crate::ticks::Ticks;
use crate::transport::TransportError;

/// Longest sleep: what is noticed only by looking is noticed this soon.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// Jobs done in one tick. A job takes up to 1.5 ms (a new `Rtc`), and packets
/// wait meanwhile.
const MAX_JOBS: usize = 16;
/// Timers that are due within up to this time of each other are dealt with in one tick. A
/// wait is rounded down to whole milliseconds, by less than this, so none ends early.
const TIMER_SLACK: Duration = Duration::from_millis(1);
/// What can end a wait, at most: a job, connections, two sockets and those of plain
/// transports.
const SOURCES: usize = 5;
// What a source is.
const JOBS: u64 = 0;
const CONNECTIONS: u64 = 1;
const DATAGRAMS: u64 = 2;

/// Something to be done on the media thread.
pub type Job = Box<dyn FnOnce(&mut Worker, Instant) + Send>;

/// Everything that the media thread owns.
pub struct Worker {
    /// Routers and transports.
    pub engine: Engine,
    /// Sockets.
    pub sockets: MediaSockets,
    /// Commands of the control plane that were carried out, refused ones too.
    pub calls: u64,
    /// How long ticks took.
    pub ticks: Ticks,
    /// Where events go, once the control plane listens.
    pub events: Option<EventSender>,
    /// An event that did not fit yet.
    held: Option<proto::Event>,
    /// Signalled for each job, and to stop.
    wake: Arc<EventFd>,
    /// What it waits on.
    sources: Epoll,
}

/// What ended a wait.
struct Ready {
    jobs: bool,
    datagrams: bool,
    connections: bool,
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The control plane does not read events.
    Congested,
}

impl Worker {
    /// A worker that is ready to run. `wake` is signalled for each job, and to stop.
    ///
    /// # Errors
    /// When the kernel does not wait on what there is to wait on.
    pub fn new(engine: Engine, sockets: MediaSockets, wake: Arc<EventFd>) -> io::Result<Self> {
        let sources = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = |source| EpollEvent::new(EpollFlags::EPOLLIN, source);
        sources.add(&wake, readable(JOBS))?;
        sources.add(sockets.tcp_fd(), readable(CONNECTIONS))?;
        for fd in sockets.fds() {
            sources.add(fd, readable(DATAGRAMS))?;
        }
        Ok(Self {
            engine,
            sockets,
            calls: 0,
            ticks: Ticks::default(),
            events: None,
            held: None,
            wake,
            sources,
        })
    }

    /// Runs until `stop` is set.
    pub fn run(mut self, jobs: &Receiver<Job>, stop: &AtomicBool) -> Ended {
        while !stop.load(Ordering::Acquire) {
            let ready = self.wait();
            let now = Instant::now();
            let before = self.engine.counters().rtp_forwarded;
            if ready.datagrams {
                self.receive(now);
            }
            if ready.connections {
                self.receive_tcp(now);
            }
            if ready.jobs {
                self.work(now, jobs);
            }
            self.engine.handle_timeouts(now);
            let sockets = &mut self.sockets;
            self.engine
                .flush(now, |datagrams| sockets.send(now, datagrams));
            self.send(now);
            self.sweep(now);
            let forwarded = self.engine.counters().rtp_forwarded - before;
            self.ticks.note(now.elapsed(), forwarded);
            self.send_events();
            if self.engine.is_congested() {
                return Ended::Congested;
            }
        }
        Ended::Stopped
    }

    /// Waits for datagrams, jobs or the next timeout.
    fn wait(&self) -> Ready {
        let sleep = self.engine.next_timeout().map_or(MAX_SLEEP, |at| {
            match at.saturating_duration_since(Instant::now()) {
                Duration::ZERO => Duration::ZERO,
                until => (until + TIMER_SLACK).min(MAX_SLEEP),
            }
        });
        // A held event waits for room in its channel, which nothing signals.
        let sleep = match &self.events {
            Some(_) if self.held.is_some() => sleep.min(Duration::from_millis(10)),
            _ => sleep,
        };
        let mut events = [EpollEvent::empty(); SOURCES];
        let timeout = EpollTimeout::try_from(sleep).unwrap_or(EpollTimeout::ZERO);
        let Ok(count) = self.sources.wait(&mut events, timeout) else {
            // Interrupted: look at everything.
            return Ready {
                jobs: true,
                datagrams: true,
                connections: true,
            };
        };
        let events = events.get(..count).unwrap_or_default();
        let is_ready = |source| events.iter().any(|event| event.data() == source);
        Ready {
            jobs: is_ready(JOBS),
            connections: is_ready(CONNECTIONS),
            datagrams: is_ready(DATAGRAMS),
        }
    }

    /// Sends what the engine has to send, and gives back the ports and connections of
    /// transports that are gone.
    fn send(&mut self, now: Instant) {
        let sockets = &mut self.sockets;
        self.engine
            .send_off(|datagrams| sockets.send(now, datagrams));
        for port in self.engine.take_released_ports() {
            self.sockets.own().close(port);
        }
        for note in self.engine.take_connection_notes() {
            match note {
                ConnectionNote::Claimed(connection) => self.sockets.tcp().claim(connection),
                ConnectionNote::Released(connection) => self.sockets.tcp().release(connection),
            }
        }
        self.tell_of_connections(now);
    }

    /// Closes connections that have had their time.
    fn sweep(&mut self, now: Instant) {
        self.sockets.tcp().sweep(now);
        self.tell_of_connections(now);
    }

    /// Tells the engine what became of connections.
    fn tell_of_connections(&mut self, now: Instant) {
        while let Some(event) = self.sockets.tcp().poll_event() {
            match event {
                ConnectionEvent::Closed(connection) => {
                    self.engine.connection_closed(now, connection);
                }
                ConnectionEvent::Slow(connection, slow) => {
                    self.engine.set_connection_slow(now, connection, slow);
                }
            }
        }
    }

    /// Creates a plain transport, with ports of its own.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id, or that no port is left.
    pub fn create_plain_transport(
        &mut self,
        now: Instant,
        request: &proto::CreatePlainTransportRequest,
    ) -> Result<proto::CreatePlainTransportResponse, CommandError> {
        // Ports of what was closed in this very tick may be all there are.
        self.send(now);
        let ports = self.sockets.own().open(request.rtcp_mux);
        let ports = ports.map_err(|error| TransportError::Limit(error.to_string()))?;
        let created = self.engine.create_plain_transport(request, ports);
        if created.is_err() {
            ports.iter().for_each(|port| self.sockets.own().close(port));
        }
        created
    }

    /// Says where the remote of a plain transport is.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn connect_plain_transport(
        &mut self,
        now: Instant,
        request: &proto::ConnectPlainTransportRequest,
    ) -> Result<proto::ConnectPlainTransportResponse, CommandError> {
        let ip: Option<IpAddr> = request.address.as_deref().and_then(|ip| ip.parse().ok());
        // An IPv4 address may be written as one of IPv6.
        if let Some(ip) = ip.map(|ip| ip.to_canonical())
            && !self.sockets.can_reach(SocketAddr::new(ip, 0))
        {
            let text = format!("ip: {ip} is of an IP version that is not listened on");
            return Err(TransportError::Invalid(text).into());
        }
        self.engine.connect_plain_transport(now, request)
    }

    fn receive(&mut self, now: Instant) {
        let engine = &mut self.engine;
        self.sockets
            .receive(|tuple, datagram| engine.receive(now, tuple, datagram));
        for (port, to) in self.sockets.own().take_unreachable() {
            engine.unreachable(now, port, to);
        }
    }

    fn receive_tcp(&mut self, now: Instant) {
        let engine = &mut self.engine;
        self.sockets
            .receive_tcp(now, |tuple, packet| engine.receive(now, tuple, packet));
        self.tell_of_connections(now);
    }

    fn work(&mut self, now: Instant, jobs: &Receiver<Job>) {
        // Cleared before looking: a job that comes in between wakes again.
        let _ = self.wake.read();
        for _ in 0..MAX_JOBS {
            let Ok(job) = jobs.try_recv() else { return };
            job(self, now);
        }
        // There may be more; packets go first.
        let _ = self.wake.write(1);
    }

    /// Events that the control plane has not read yet.
    pub fn events_waiting(&self) -> usize {
        let sent = self.events.as_ref().map_or(0, EventSender::waiting);
        sent + usize::from(self.held.is_some()) + self.engine.events_waiting()
    }

    fn send_events(&mut self) {
        let Some(channel) = &self.events else {
            return;
        };
        while let Some(event) = self.held.take().or_else(|| self.engine.poll_event()) {
            match channel.try_send(event) {
                Ok(()) => {}
                Err(NotSent::Full(event)) => {
                    self.held = Some(event);
                    return;
                }
                Err(NotSent::Closed(event)) => {
                    self.held = Some(event);
                    self.events = None;
                    return;
                }
            }
        }
    }
}
