//! The only clock, the only waiting and the only owner of the sockets: one
//! thread, one function of named phases.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::engine::{CommandError, ConnectionNote, Engine};
use crate::event_channel::{EventSender, NotSent};
use crate::net::tcp::ConnectionEvent;
use crate::net::udp::MediaSockets;
use crate::pace::{Look, Pace};
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
/// Feedback waits this long for packets that the thread wakes up for anyway, or for more of it;
/// where packets wait for the clock, until it has passed after that. A client says each 50 to
/// 250 ms how packets arrived, and each second or so what was lost; when that came is known.
const FEEDBACK_WAITS: Duration = Duration::from_millis(25);
/// Where this much came at once, there is more before long: it is looked for, not waited
/// for.
const STEADY_FEEDBACK: usize = 2;
/// What can end a wait, at most: a job, connections, two sockets, those for feedback and those
/// of plain transports.
const SOURCES: usize = 7;
// What a source is.
const JOBS: u64 = 0;
const CONNECTIONS: u64 = 1;
const DATAGRAMS: u64 = 2;
const FEEDBACK: u64 = 3;

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
    /// When feedback is read that is there, or may be. Until then it does not end a wait.
    feedback_at: Option<Instant>,
    /// Whether packets wait for the clock.
    pace: Pace,
    /// When the sockets were looked at last.
    looked_at: Instant,
    /// They had more than one look takes: by the clock too, the next one follows at once. (What
    /// is left in a socket ends a wait for packets anyway.)
    look_again: bool,
    /// When they had nothing more: what there is now came since then.
    emptied_at: Instant,
    /// The same of those for feedback.
    feedback_emptied_at: Instant,
}

/// Waits for feedback, once.
fn next_feedback() -> EpollEvent {
    let once = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
    EpollEvent::new(once, FEEDBACK)
}

/// Whether feedback that is to be read at some time is read now. Once media has left, the caches
/// have what it needs; but by the clock that is at each look, which would find one at a time.
fn reads_feedback(at: Instant, now: Instant, has_forwarded: bool, by_the_clock: bool) -> bool {
    at <= now || (has_forwarded && !by_the_clock)
}

/// What ended a wait.
struct Ready {
    jobs: bool,
    datagrams: bool,
    connections: bool,
}

impl Ready {
    /// After a wait that was interrupted.
    const ALL: Self = Self {
        jobs: true,
        datagrams: true,
        connections: true,
    };
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
        for fd in sockets.feedback_fds() {
            sources.add(fd, next_feedback())?;
        }
        let now = Instant::now();
        Ok(Self {
            engine,
            sockets,
            calls: 0,
            ticks: Ticks::default(),
            events: None,
            held: None,
            wake,
            sources,
            feedback_at: None,
            pace: Pace::new(now),
            looked_at: now,
            look_again: false,
            emptied_at: now,
            feedback_emptied_at: now,
        })
    }

    /// Runs until `stop` is set.
    pub fn run(mut self, jobs: &Receiver<Job>, stop: &AtomicBool) -> Ended {
        while !stop.load(Ordering::Acquire) {
            let ready = self.wait();
            let now = Instant::now();
            let before = self.engine.counters().rtp_forwarded;
            let arrived = self.sockets.counters().received;
            // What is read by the clock may have waited since the last time.
            let mut waited = Duration::ZERO;
            if ready.datagrams {
                if self.pace.period().is_some() {
                    waited = now.saturating_duration_since(self.looked_at);
                }
                self.look_again = self.receive(now);
            }
            let arrived = self.sockets.counters().received - arrived;
            if ready.connections {
                self.receive_tcp(now);
            }
            if ready.jobs {
                self.work(now, jobs);
            }
            self.flush(now);
            let has_forwarded = self.engine.counters().rtp_forwarded > before;
            let by_the_clock = self.pace.period().is_some();
            let reads = |at| reads_feedback(at, now, has_forwarded, by_the_clock);
            let mut later = now;
            if self.feedback_at.is_some_and(reads) {
                later = Instant::now();
                self.receive_feedback(later);
            }
            self.engine.handle_timeouts(later);
            self.flush(later);
            self.sweep(now);
            let forwarded = self.engine.counters().rtp_forwarded - before;
            let took = now.elapsed();
            self.ticks.note(took, waited, forwarded);
            self.pace
                .note(now + took, ready.datagrams, arrived > 0, took);
            self.send_events();
            if self.engine.is_congested() {
                return Ended::Congested;
            }
        }
        Ended::Stopped
    }

    fn wait(&mut self) -> Ready {
        match self.pace.period() {
            None => self.wait_for_packets(),
            Some(period) => self.wait_for_the_clock(period),
        }
    }

    /// Waits for jobs, connections or the time to look at the sockets again, which is soon
    /// enough for timers and feedback as well.
    fn wait_for_the_clock(&mut self, period: Duration) -> Ready {
        let now = Instant::now();
        self.feedback_at.get_or_insert(now + FEEDBACK_WAITS);
        let look_at = self.looked_at + period;
        let sleep = match self.look_again {
            true => Duration::ZERO,
            false => look_at.saturating_duration_since(now),
        };
        let [jobs, connections] = [self.wake.as_fd(), self.sockets.tcp_fd()];
        let mut sources = [jobs, connections].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let Ok(count) = ppoll(&mut sources, Some(sleep.into()), None) else {
            return Ready::ALL;
        };
        let [jobs, connections] = sources.map(|source| source.any() != Some(false));
        Ready {
            jobs,
            connections,
            datagrams: count == 0 || self.look_again || Instant::now() >= look_at,
        }
    }

    /// Waits for datagrams, jobs, connections or the next timeout.
    fn wait_for_packets(&mut self) -> Ready {
        let timeouts = self.engine.next_timeout().into_iter();
        let next = timeouts.chain(self.feedback_at).min();
        let sleep = next.map_or(MAX_SLEEP, |at| {
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
            return Ready::ALL;
        };
        let events = events.get(..count).unwrap_or_default();
        let is_ready = |source| events.iter().any(|event| event.data() == source);
        if is_ready(FEEDBACK) {
            let at = Instant::now() + FEEDBACK_WAITS;
            self.feedback_at.get_or_insert(at);
        }
        Ready {
            jobs: is_ready(JOBS),
            connections: is_ready(CONNECTIONS),
            datagrams: is_ready(DATAGRAMS),
        }
    }

    /// Sends what was queued.
    fn flush(&mut self, now: Instant) {
        let sockets = &mut self.sockets;
        self.engine
            .flush(now, |datagrams| sockets.send(now, datagrams));
        self.send(now);
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

    /// True when there may be more.
    fn receive(&mut self, now: Instant) -> bool {
        let look = Look::new(now, SystemTime::now(), self.emptied_at);
        self.looked_at = now;
        let engine = &mut self.engine;
        let more = self.sockets.receive(|tuple, datagram, stamp| {
            engine.receive_late(now, look.came(stamp), tuple, datagram);
        });
        for (port, to) in self.sockets.own().take_unreachable() {
            engine.unreachable(now, port, to);
        }
        if !more {
            self.emptied_at = now;
        }
        more
    }

    fn receive_feedback(&mut self, now: Instant) {
        let look = Look::new(now, SystemTime::now(), self.feedback_emptied_at);
        let (engine, mut count) = (&mut self.engine, 0);
        let more = self.sockets.receive_feedback(|tuple, datagram, stamp| {
            engine.receive_late(now, look.came(stamp), tuple, datagram);
            count += 1;
        });
        if more {
            // Packets go first.
            self.feedback_at = Some(now);
            return;
        }
        self.feedback_emptied_at = now;
        let by_the_clock = self.pace.period().is_some();
        let waits = !by_the_clock && count < STEADY_FEEDBACK && {
            let mut fds = self.sockets.feedback_fds();
            fds.all(|fd| self.sources.modify(fd, &mut next_feedback()).is_ok())
        };
        self.feedback_at = (!waits).then_some(now + FEEDBACK_WAITS);
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::eventfd::EfdFlags;

    use super::*;
    use crate::engine::EngineConfig;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A worker on a port of a range, and a client of it.
    fn worker(ports: std::ops::RangeInclusive<u16>) -> (Worker, UdpSocket) {
        let sockets = MediaSockets::bind(IP, ports).unwrap();
        let config = EngineConfig {
            announced: Vec::new(),
            udp_port: sockets.port(),
            tcp: false,
        };
        let client = UdpSocket::bind((IP, 0)).unwrap();
        client.connect((IP, sockets.port())).unwrap();
        let engine = Engine::new(config).unwrap();
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags).unwrap());
        (Worker::new(engine, sockets, wake).unwrap(), client)
    }

    /// Tells the pace of a thousand looks, a millisecond apart.
    fn look_often(worker: &mut Worker, found: bool) {
        let mut at = Instant::now() + Duration::from_secs(1);
        for _ in 0..1_000 {
            at += Duration::from_millis(1);
            worker.pace.note(at, true, found, Duration::ZERO);
        }
    }

    #[test]
    fn packets_that_come_often_wait_for_the_clock() {
        let (mut worker, client) = worker(42_600..=42_699);
        let arrived = |worker: &mut Worker| {
            let before = worker.sockets.counters().received;
            worker.receive(Instant::now());
            worker.sockets.counters().received - before
        };
        client.send(&[0]).unwrap();
        assert!(worker.wait().datagrams);
        assert_eq!(arrived(&mut worker), 1);

        look_often(&mut worker, true);
        let period = worker.pace.period().expect("they come often");
        let (mut times, mut found) = (Vec::new(), 0);
        for _ in 0..20 {
            client.send(&[0]).unwrap();
            let ready = worker.wait();
            assert!(ready.datagrams, "nothing else ends a wait");
            times.push(Instant::now());
            found += arrived(&mut worker);
        }
        assert_eq!(found + arrived(&mut worker), 20);
        let took = times.last().unwrap().duration_since(times[0]);
        assert!(took >= period * 19, "{took:?} for 19 times {period:?}");
        // What is to be done is done at once.
        worker.wake.write(1).unwrap();
        let ready = worker.wait();
        assert!(ready.jobs);
        // Packets have their time in between.
        let begun = Instant::now();
        while !worker.wait().datagrams {
            assert!(begun.elapsed() < MAX_SLEEP / 2);
        }
        worker.wake.read().unwrap();
        // So is what is left of many.
        for _ in 0..200 {
            client.send(&[0]).unwrap();
        }
        assert!(worker.receive(Instant::now()));
        assert!(!worker.receive(Instant::now()));
        let begun = Instant::now();
        (worker.look_again, worker.looked_at) = (true, begun + 10 * MAX_SLEEP);
        assert!(worker.wait().datagrams);
        assert!(begun.elapsed() < MAX_SLEEP, "not by the clock");
        worker.look_again = false;

        look_often(&mut worker, false);
        assert_eq!(worker.pace.period(), None);
        worker.receive_feedback(Instant::now());
        let begun = Instant::now();
        // It is neither the clock nor, for a second, anything else that ends this one.
        assert!(!worker.wait().datagrams, "after {:?}", begun.elapsed());
        assert!(begun.elapsed() > MAX_SLEEP / 2, "{:?}", begun.elapsed());
        client.send(&[0]).unwrap();
        assert!(worker.wait().datagrams);
        assert_eq!(arrived(&mut worker), 1);
    }

    #[test]
    fn feedback_is_read_in_time_or_once_media_has_left() {
        let now = Instant::now();
        for (due, has_forwarded, by_the_clock, expected) in [
            (false, false, false, false),
            (false, true, false, true),
            (false, true, true, false),
            (false, false, true, false),
            (true, false, false, true),
            (true, true, true, true),
        ] {
            let at = if due { now } else { now + FEEDBACK_WAITS };
            let reads = reads_feedback(at, now, has_forwarded, by_the_clock);
            assert_eq!(reads, expected, "{due} {has_forwarded} {by_the_clock}");
        }
    }

    #[test]
    fn feedback_is_read_in_time_without_media_too() {
        let (mut worker, client) = worker(42_700..=42_799);
        let send = |count| {
            for _ in 0..count {
                client.send(&[0x8f, 205, 0, 3]).unwrap();
            }
        };

        // Waits until feedback is to be read, and reads it.
        let read = |worker: &mut Worker| {
            let at = worker.feedback_at.expect("it is known of");
            // What comes until then ends no wait; an interrupted one is the exception.
            let waits = (0..10).take_while(|_| Instant::now() < at);
            let waits = waits.map(|_| worker.wait()).count();
            assert!(waits <= 2, "it ends waits");
            assert!(at.elapsed() < MAX_SLEEP * 9 / 10, "{:?}", at.elapsed());
            let before = worker.sockets.counters().received;
            worker.receive_feedback(Instant::now());
            worker.sockets.counters().received - before
        };
        for _ in 0..2 {
            // One by itself wakes the thread, and so does the next.
            assert!(worker.feedback_at.is_none());
            send(1);
            worker.wait();
            assert_eq!(read(&mut worker), 1);
        }
        // Where it keeps coming it is looked for, until none does.
        assert!(worker.feedback_at.is_none());
        send(3);
        worker.wait();
        assert_eq!(read(&mut worker), 3);
        send(2);
        assert_eq!(read(&mut worker), 2);
        assert_eq!(read(&mut worker), 0);
        assert!(worker.feedback_at.is_none());
        send(1);
        worker.wait();
        assert_eq!(read(&mut worker), 1);
        // What is left of much is read with the next round.
        assert!(worker.feedback_at.is_none());
        send(150);
        worker.wait();
        let first = read(&mut worker);
        let begun = Instant::now();
        assert!(worker.feedback_at.is_some_and(|at| at <= begun));
        worker.wait();
        assert!(begun.elapsed() < MAX_SLEEP / 2);
        assert_eq!(first + read(&mut worker), 150);
        assert_eq!(read(&mut worker), 0);
        // By the clock too, however little comes.
        assert!(worker.feedback_at.is_none());
        look_often(&mut worker, true);
        send(1);
        while worker.feedback_at.is_none() {
            worker.wait();
        }
        let before = worker.sockets.counters().received;
        worker.receive_feedback(Instant::now());
        assert_eq!(worker.sockets.counters().received - before, 1);
        assert!(worker.feedback_at.is_some(), "no wait for the next");
    }
}
