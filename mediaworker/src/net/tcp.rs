//! Connections for ICE over TCP (RFC 6544): the worker's shared port takes them,
//! clients make them, and every packet on them is a frame (RFC 4571).
//!
//! Anybody can connect, and an idle connection costs the other side nothing. So until
//! a connectivity check of a transport has come over it a connection is only
//! suffered: not for long, not many of them, and not many of one source. One that a
//! transport has claimed lasts until that lets go of it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use slotmap::{Key, KeyData, SlotMap};
use socket2::{Domain, SockRef, Socket, Type};

use super::frames::{Deframer, Malformed, Outgoing};
use super::udp::NetCounters;
use crate::transport::{ConnectionKey, PacketKind, Protocol, Tuple};

/// See [`Limits`]. Many clients may share an address.
const LIMITS: Limits = Limits {
    connections: 4096,
    waiting: 512,
    of_source: 1024,
    waiting_of_source: 64,
};
/// Time in which a transport has to claim a connection.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames before it has. Clients begin with a connectivity check and repeat it, twenty
/// times a second, until it is answered; nothing else makes sense before. On a long way
/// many of them come at once.
const MAX_UNCLAIMED_FRAMES: u32 = 256;
/// Octets of a frame, at least: a DTLS record's header. Shorter ones would cost much more
/// to look at than to send.
const LEAST_FRAME: usize = 13;
/// Time without anything from a client after which a claimed connection is closed, as
/// one that it does not use any more. No transport waits longer for a check.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Time for which what waits for a client does not get any less, after which the
/// connection is closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Time between two looks at these times.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections that the kernel keeps for us, of each listener.
const BACKLOG: i32 = 256;
/// Connections that are taken in one tick, of each listener, and connections that are
/// read once in one tick. What is left makes the next tick come at once, when datagrams
/// have had their turn.
const MAX_ACCEPTS: usize = 32;
const MAX_READY: usize = 16;
/// Room for one read.
const READ_BUFFER: usize = 8 << 10;
/// What the kernel is asked to buffer of what we send on a connection, bytes. It is
/// beyond our reach, so it must not be much: 100 ms of 10 Mbit/s.
const SEND_BUFFER: usize = 128 << 10;
/// Time after which the kernel gives up a connection, milliseconds, when what was sent is
/// not acknowledged, or not read: also one that is closed here and has something left.
const USER_TIMEOUT: u32 = 15_000;
/// Most that waits for all clients together, bytes; above that, nothing more waits for a
/// client that has more than [`FAIR_WAITING`] already.
const MAX_WAITING_ALL: usize = 64 << 20;
const FAIR_WAITING: usize = 16 << 10;

/// Most connections.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Of the worker. When so many are open, the oldest that no transport has claimed
    /// makes room, or the new one is refused.
    connections: usize,
    /// That no transport has claimed; the oldest makes room.
    waiting: usize,
    /// Of one source (an IPv4 address, a /64 of IPv6); another one is refused.
    of_source: usize,
    /// The same, of those that no transport has claimed.
    waiting_of_source: usize,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Refused or closed because there were too many.
    pub refused_full: u64,
    /// Refused because there were too many of its source.
    pub refused_source: u64,
    /// Closed because no transport claimed it in time.
    pub closed_silent: u64,
    /// Closed because of something that was no frame, or made no sense.
    pub closed_malformed: u64,
    /// Closed because its client did not read.
    pub closed_stalled: u64,
    /// Packets that there was no room for, or that were for a connection that is gone.
    pub packets_dropped: u64,
}

/// What transports have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// A claimed connection is gone.
    Closed(ConnectionKey),
    /// Too much waits for its client, or not any more.
    Slow(ConnectionKey, bool),
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// By the client, or by the network.
    Ended,
    Released,
    Evicted,
    Silent,
    Idle,
    Malformed,
    Stalled,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    tuple: Tuple,
    source: IpAddr,
    accepted: Instant,
    claimed: bool,
    /// Frames before it was claimed.
    unclaimed_frames: u32,
    /// Time of the last octet from the client.
    heard: Instant,
    deframer: Deframer,
    outgoing: Outgoing,
    /// When what waits has last become less, or began to wait.
    progressed: Instant,
    /// The kernel tells when there is room.
    awaits_room: bool,
    /// Has something to be written in this tick.
    dirty: bool,
}

/// Connections of a source.
#[derive(Debug, Default)]
struct Source {
    open: usize,
    waiting: usize,
}

/// The listeners of the shared port, and its connections.
#[derive(Debug)]
pub struct TcpSockets {
    limits: Limits,
    listeners: Vec<TcpListener>,
    epoll: Epoll,
    connections: SlotMap<ConnectionKey, Connection>,
    /// Those that no transport has claimed, the oldest first.
    waiting: VecDeque<ConnectionKey>,
    sources: HashMap<IpAddr, Source>,
    dirty: Vec<ConnectionKey>,
    /// Taken in every tick: a few for each connection at most.
    events: VecDeque<ConnectionEvent>,
    buffer: Vec<u8>,
    /// Octets that wait, of all connections.
    waits: usize,
    counters: TcpCounters,
    swept: Option<Instant>,
    /// The kernel had no more file descriptors; the next sweep listens again.
    deaf: bool,
}

impl TcpSockets {
    /// Nothing listens.
    ///
    /// # Errors
    /// When there is no epoll instance to be had.
    pub(super) fn none() -> io::Result<Self> {
        Ok(Self {
            limits: LIMITS,
            listeners: Vec::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: SlotMap::with_key(),
            waiting: VecDeque::new(),
            sources: HashMap::new(),
            dirty: Vec::new(),
            events: VecDeque::new(),
            buffer: Vec::new(),
            waits: 0,
            counters: TcpCounters::default(),
            swept: None,
            deaf: false,
        })
    }

    /// Listens on a port; `::` gets a socket for each IP version.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub(super) fn bind(listen_ip: IpAddr, port: u16) -> io::Result<Self> {
        let mut sockets = Self::none()?;
        sockets.buffer = vec![0; READ_BUFFER];
        let mut ips = vec![listen_ip];
        if listen_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            ips.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        }
        for (ip, number) in ips.into_iter().zip(0..) {
            let listener = listen(SocketAddr::new(ip, port))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
            sockets.epoll.add(&listener, event)?;
            sockets.listeners.push(listener);
        }
        Ok(sockets)
    }

    /// Whether clients can connect at all.
    pub fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Counters since the start.
    pub fn counters(&self) -> TcpCounters {
        self.counters
    }

    /// Connections that transports have claimed.
    pub fn open(&self) -> usize {
        self.connections.len().saturating_sub(self.waiting.len())
    }

    /// Connections that none has claimed.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What transports have to know next.
    pub fn poll_event(&mut self) -> Option<ConnectionEvent> {
        self.events.pop_front()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Takes connections and what has come over them, up to a bound, and gives each
    /// packet to `sink`.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        counters: &mut NetCounters,
        sink: &mut impl FnMut(Tuple, &[u8]),
    ) {
        let mut events = [EpollEvent::empty(); MAX_READY];
        let ready = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        for event in events.iter().take(ready) {
            // Keys are always greater than the numbers of listeners.
            let listener = usize::try_from(event.data()).ok();
            if listener.is_some_and(|it| it < self.listeners.len()) {
                self.accept(now, listener.unwrap_or(0));
                continue;
            }
            let key = ConnectionKey::from(KeyData::from_ffi(event.data()));
            if event.events().contains(EpollFlags::EPOLLOUT) {
                self.write(now, key);
            }
            if event.events() != EpollFlags::EPOLLOUT {
                self.read(now, key, counters, sink);
            }
        }
    }

    fn accept(&mut self, now: Instant, listener: usize) {
        for _ in 0..MAX_ACCEPTS {
            let Some(listener) = self.listeners.get(listener) else {
                return;
            };
            match listener.accept() {
                Ok((stream, remote)) => {
                    if let Err(error) = self.admit(now, stream, remote) {
                        tracing::debug!(%remote, %error, "TCP connection not taken");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_exhaustion(&error) => {
                    tracing::warn!(%error, "no more TCP connections can be taken for now");
                    return self.set_deaf(true);
                }
                // One that was reset meanwhile, or an interruption.
                Err(_) => {}
            }
        }
    }

    /// Without this, a listener that cannot be served would keep the loop awake.
    fn set_deaf(&mut self, deaf: bool) {
        if self.deaf == deaf {
            return;
        }
        self.deaf = deaf;
        let flags = if deaf {
            EpollFlags::empty()
        } else {
            EpollFlags::EPOLLIN
        };
        for (listener, number) in self.listeners.iter().zip(0..) {
            let _ = self
                .epoll
                .modify(listener, &mut EpollEvent::new(flags, number));
        }
    }

    /// Takes a new connection, if it may be one more.
    fn admit(&mut self, now: Instant, stream: TcpStream, remote: SocketAddr) -> io::Result<()> {
        let source = source_of(remote.ip());
        let limits = self.limits;
        let is_full = |source: &Source| {
            source.open >= limits.of_source || source.waiting >= limits.waiting_of_source
        };
        if self.sources.get(&source).is_some_and(is_full) {
            self.counters.refused_source += 1;
            return reset(&stream);
        }
        if self.waiting.len() >= limits.waiting || self.connections.len() >= limits.connections {
            match self.waiting.front().copied() {
                Some(oldest) => self.close(oldest, Reason::Evicted),
                None => {
                    self.counters.refused_full += 1;
                    return reset(&stream);
                }
            }
        }
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
        let _ = setsockopt(&stream, TcpUserTimeout, &USER_TIMEOUT);
        let local = stream.local_addr()?.ip();
        let key = self.connections.insert_with_key(|key| Connection {
            stream,
            tuple: Tuple {
                remote,
                local,
                protocol: Protocol::Tcp(key),
            },
            source,
            accepted: now,
            claimed: false,
            unclaimed_frames: 0,
            heard: now,
            deframer: Deframer::default(),
            outgoing: Outgoing::default(),
            progressed: now,
            awaits_room: false,
            dirty: false,
        });
        let source = self.sources.entry(source).or_default();
        source.open += 1;
        source.waiting += 1;
        self.waiting.push_back(key);
        let Some(connection) = self.connections.get(key) else {
            return Ok(());
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key.data().as_ffi());
        let added = self.epoll.add(&connection.stream, event);
        if added.is_err() {
            self.close(key, Reason::Ended);
        }
        Ok(added?)
    }

    fn read(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        counters: &mut NetCounters,
        sink: &mut impl FnMut(Tuple, &[u8]),
    ) {
        // It may be gone since the kernel said that it is ready.
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let len = match connection.stream.read(&mut self.buffer) {
            Ok(0) => return self.close(key, Reason::Ended),
            Ok(len) => len,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    _ => self.close(key, Reason::Ended),
                };
            }
        };
        let bytes = self.buffer.get(..len).unwrap_or_default();
        if connection.take(now, bytes, counters, sink).is_err() {
            self.close(key, Reason::Malformed);
        }
    }

    /// Puts a packet behind what waits for a connection. [`TcpSockets::flush`] writes it.
    pub(super) fn queue(&mut self, now: Instant, key: ConnectionKey, packet: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            self.counters.packets_dropped += 1;
            return false;
        };
        if connection.outgoing.is_empty() {
            connection.progressed = now;
        }
        let before = connection.outgoing.len();
        let fits = self.waits <= MAX_WAITING_ALL || before <= FAIR_WAITING;
        let queued = fits && connection.outgoing.push(now, packet);
        if !queued {
            self.counters.packets_dropped += 1;
        }
        self.waits += connection.outgoing.len() - before;
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(key);
        }
        queued
    }

    /// Writes what was queued.
    pub(super) fn flush(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.dirty = false;
                // What waits already waits for the kernel.
                match connection.awaits_room {
                    true => self.note_pace(now, key),
                    false => self.write(now, key),
                }
            }
        }
        self.dirty = dirty;
    }

    /// Writes what the kernel has room for.
    fn write(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = connection.outgoing.len();
        let written = connection.write(now);
        let left = before.saturating_sub(connection.outgoing.len());
        self.waits = self.waits.saturating_sub(left);
        if written.is_err() {
            return self.close(key, Reason::Ended);
        }
        let awaits_room = !connection.outgoing.is_empty();
        if awaits_room != connection.awaits_room {
            connection.awaits_room = awaits_room;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, awaits_room);
            let mut event = EpollEvent::new(flags, key.data().as_ffi());
            if self.epoll.modify(&connection.stream, &mut event).is_err() {
                return self.close(key, Reason::Ended);
            }
        }
        self.note_pace(now, key);
    }

    fn note_pace(&mut self, now: Instant, key: ConnectionKey) {
        let connection = self.connections.get_mut(key).filter(|it| it.claimed);
        if let Some(slow) = connection.and_then(|it| it.outgoing.slow_change(now)) {
            self.events.push_back(ConnectionEvent::Slow(key, slow));
        }
    }

    /// A transport has claimed a connection. It may be gone, which the transport is told
    /// then.
    pub fn claim(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            self.events.push_back(ConnectionEvent::Closed(key));
            return;
        };
        if !std::mem::replace(&mut connection.claimed, true) {
            let source = connection.source;
            self.waited(key, source);
        }
    }

    /// No transport needs a connection any more. What was queued for it before is
    /// written, as far as there is room.
    pub fn release(&mut self, key: ConnectionKey) {
        self.close(key, Reason::Released);
    }

    /// A connection does not wait for a transport any more.
    fn waited(&mut self, key: ConnectionKey, source: IpAddr) {
        if let Some(at) = self.waiting.iter().position(|it| *it == key) {
            self.waiting.remove(at);
        }
        if let Some(source) = self.sources.get_mut(&source) {
            source.waiting = source.waiting.saturating_sub(1);
        }
    }

    fn close(&mut self, key: ConnectionKey, reason: Reason) {
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        let Connection { stream, source, .. } = &connection;
        self.waits = self.waits.saturating_sub(connection.outgoing.len());
        // Closing it would do, but a copy of it may be in a child that is being started.
        let _ = self.epoll.delete(stream);
        if !connection.claimed {
            self.waited(key, *source);
        } else if reason != Reason::Released {
            self.events.push_back(ConnectionEvent::Closed(key));
        }
        if let Some(known) = self.sources.get_mut(source) {
            known.open = known.open.saturating_sub(1);
            if known.open == 0 {
                self.sources.remove(source);
            }
        }
        let counters = &mut self.counters;
        match reason {
            Reason::Ended | Reason::Released | Reason::Idle => {}
            Reason::Evicted => counters.refused_full += 1,
            Reason::Silent => counters.closed_silent += 1,
            Reason::Malformed => counters.closed_malformed += 1,
            Reason::Stalled => counters.closed_stalled += 1,
        }
        if !matches!(reason, Reason::Ended | Reason::Released) {
            let _ = reset(stream);
        }
        let (remote, claimed) = (connection.tuple.remote, connection.claimed);
        tracing::debug!(%remote, claimed, ?reason, "TCP connection closed");
    }

    /// Closes what has had its time.
    pub fn sweep(&mut self, now: Instant) {
        let swept = *self.swept.get_or_insert(now);
        if now.saturating_duration_since(swept) < SWEEP {
            return;
        }
        self.swept = Some(now);
        self.set_deaf(false);
        let due: Vec<_> = self
            .connections
            .iter()
            .filter_map(|(key, connection)| Some((key, connection.due(now)?)))
            .collect();
        for (key, reason) in due {
            self.close(key, reason);
        }
    }
}

impl Connection {
    /// Takes in what has come.
    fn take(
        &mut self,
        now: Instant,
        bytes: &[u8],
        counters: &mut NetCounters,
        sink: &mut impl FnMut(Tuple, &[u8]),
    ) -> Result<(), Malformed> {
        self.heard = now;
        let Self {
            deframer,
            tuple,
            claimed,
            unclaimed_frames,
            ..
        } = self;
        deframer.take(bytes, |frame| {
            if frame.len() < LEAST_FRAME {
                return Err(Malformed::Unexpected);
            }
            if !*claimed {
                *unclaimed_frames += 1;
                let is_check = PacketKind::of(frame) == Some(PacketKind::Stun);
                if !is_check || *unclaimed_frames > MAX_UNCLAIMED_FRAMES {
                    return Err(Malformed::Unexpected);
                }
            }
            counters.note_received(frame.len());
            sink(*tuple, frame);
            Ok(())
        })
    }

    /// Writes what the kernel has room for.
    fn write(&mut self, now: Instant) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(self.outgoing.pending()) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    self.outgoing.wrote(len);
                    self.progressed = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Why it has to be closed now, if it has to.
    fn due(&self, now: Instant) -> Option<Reason> {
        let is_over = |since: Instant, time| now.saturating_duration_since(since) >= time;
        if !self.claimed {
            is_over(self.accepted, CLAIM_TIMEOUT).then_some(Reason::Silent)
        } else if !self.outgoing.is_empty() && is_over(self.progressed, STALL_TIMEOUT) {
            Some(Reason::Stalled)
        } else {
            is_over(self.heard, IDLE_TIMEOUT).then_some(Reason::Idle)
        }
    }
}

fn listen(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a worker that was here before may still be ending.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Has a connection end at once, without a trace of it in the kernel.
fn reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// What counts as one source: whoever has an IPv6 address has a whole /64.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Whether there are no resources for another connection.
fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frames::{MAX_FRAME, MAX_WAITING};

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    /// Two octets that are taken for a connectivity check, until somebody reads more.
    const CHECK: &[u8] = &[
        0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Sockets on a port of their own, and a clock that is set by hand.
    struct Bench {
        sockets: TcpSockets,
        address: SocketAddr,
        now: Instant,
        received: Vec<(ConnectionKey, Vec<u8>)>,
        counters: NetCounters,
    }

    impl Bench {
        fn new(limits: Limits) -> Self {
            let mut sockets = TcpSockets::bind(LOCALHOST, 0).unwrap();
            sockets.limits = limits;
            Self {
                address: sockets.listeners[0].local_addr().unwrap(),
                sockets,
                now: Instant::now(),
                received: Vec::new(),
                counters: NetCounters::default(),
            }
        }

        fn tick(&mut self) {
            let received = &mut self.received;
            let mut sink = |tuple: Tuple, packet: &[u8]| {
                received.push((tuple.connection().unwrap(), packet.to_vec()));
            };
            self.sockets
                .receive(self.now, &mut self.counters, &mut sink);
        }

        fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
            let deadline = Instant::now() + PATIENCE;
            while !holds(self) {
                assert!(Instant::now() < deadline, "{what}");
                self.tick();
            }
        }

        /// A client at this address of the machine.
        fn connect_from(&mut self, last_octet: u8) -> TcpStream {
            let before = self.sockets.counters().refused_source + self.accepted();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let local = SocketAddr::from(([127, 0, 0, last_octet], 0));
            socket.bind(&local.into()).unwrap();
            socket.connect(&self.address.into()).unwrap();
            self.until("not accepted", |it| {
                it.sockets.counters().refused_source + it.accepted() > before
            });
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        }

        /// Connections that are or were there.
        fn accepted(&self) -> u64 {
            let sockets = &self.sockets;
            let counters = sockets.counters();
            let there = u64::try_from(sockets.connections.len()).unwrap();
            there + counters.refused_full
        }

        /// A client whose connection a transport has claimed.
        fn claimed(&mut self) -> (TcpStream, ConnectionKey) {
            let mut client = self.connect_from(1);
            send(&mut client, CHECK);
            let before = self.received.len();
            self.until("no check", |it| it.received.len() > before);
            let key = self.received.last().unwrap().0;
            self.sockets.claim(key);
            (client, key)
        }
    }

    fn send(client: &mut TcpStream, packet: &[u8]) {
        let len = u16::try_from(packet.len()).unwrap();
        client.write_all(&len.to_be_bytes()).unwrap();
        client.write_all(packet).unwrap();
    }

    fn read_frame(client: &mut TcpStream) -> Vec<u8> {
        let mut len = [0; 2];
        client.read_exact(&mut len).unwrap();
        let mut packet = vec![0; u16::from_be_bytes(len).into()];
        client.read_exact(&mut packet).unwrap();
        packet
    }

    fn is_closed(client: &mut TcpStream) -> bool {
        match client.read(&mut [0; 100]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    #[test]
    fn packets_travel_both_ways() {
        let mut bench = Bench::new(LIMITS);
        let (mut client, key) = bench.claimed();
        assert_eq!((bench.sockets.open(), bench.sockets.waiting()), (1, 0));
        send(&mut client, &[128; 1200]);
        bench.until("no packet", |it| it.received.len() == 2);
        assert_eq!(bench.received[1], (key, vec![128; 1200]));
        assert_eq!(bench.counters.received, 2);
        for packet in [&[1; 10][..], &[2; 1300], &[3; 1]] {
            assert!(bench.sockets.queue(bench.now, key, packet));
        }
        bench.sockets.flush(bench.now);
        for (byte, len) in [(1, 10), (2, 1300), (3, 1)] {
            assert_eq!(read_frame(&mut client), vec![byte; len]);
        }
        // The client goes: its transport is told once.
        drop(client);
        bench.until("not closed", |it| it.sockets.open() == 0);
        let closed = ConnectionEvent::Closed(key);
        assert_eq!(bench.sockets.poll_event(), Some(closed));
        assert!(!bench.sockets.queue(bench.now, key, &[4]));
        bench.sockets.flush(bench.now);
        assert_eq!(bench.sockets.poll_event(), None);
        // One that comes too late is told, too.
        bench.sockets.claim(key);
        assert_eq!(bench.sockets.poll_event(), Some(closed));
        assert!(bench.sockets.sources.is_empty());
    }

    #[test]
    fn what_is_released_is_closed_after_what_was_queued() {
        let mut bench = Bench::new(LIMITS);
        let (mut client, key) = bench.claimed();
        bench.sockets.queue(bench.now, key, b"goodbye");
        bench.sockets.flush(bench.now);
        bench.sockets.release(key);
        assert_eq!(read_frame(&mut client), b"goodbye");
        assert!(is_closed(&mut client));
        assert_eq!(bench.sockets.poll_event(), None);
    }

    #[test]
    fn what_no_transport_claims_does_not_last() {
        let mut bench = Bench::new(LIMITS);
        let mut silent = bench.connect_from(1);
        bench.now += CLAIM_TIMEOUT / 2;
        bench.sockets.sweep(bench.now);
        let mut half = bench.connect_from(1);
        half.write_all(&[0]).unwrap();
        let (mut claimed, key) = bench.claimed();
        bench.now += CLAIM_TIMEOUT / 2;
        bench.sockets.sweep(bench.now);
        assert!(is_closed(&mut silent));
        assert_eq!(bench.sockets.counters().closed_silent, 1);
        assert_eq!((bench.sockets.open(), bench.sockets.waiting()), (1, 1));
        // What trickles in does not make it live longer.
        half.write_all(&[20]).unwrap();
        bench.tick();
        bench.now += CLAIM_TIMEOUT / 2;
        bench.sockets.sweep(bench.now);
        assert!(is_closed(&mut half));
        assert_eq!(bench.sockets.poll_event(), None);
        // One that was claimed lasts, but not unused for ever.
        bench.now += IDLE_TIMEOUT;
        bench.sockets.sweep(bench.now);
        assert!(is_closed(&mut claimed));
        let closed = ConnectionEvent::Closed(key);
        assert_eq!(bench.sockets.poll_event(), Some(closed));
        assert_eq!(bench.sockets.counters().closed_silent, 2);
    }

    #[test]
    fn what_makes_no_sense_ends_a_connection() {
        let mut framed_dtls = vec![0, 100, 22];
        framed_dtls.resize(102, 0);
        let checks = [&[0, 20], CHECK].concat().repeat(257);
        for (number, garbage) in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            vec![0xFF; 4000],
            // DTLS before any check.
            framed_dtls,
            // So many checks that no transport wants.
            checks,
        ]
        .iter()
        .enumerate()
        {
            let mut bench = Bench::new(LIMITS);
            let mut client = bench.connect_from(1);
            client.write_all(garbage).unwrap();
            bench.until("not closed", |it| it.sockets.waiting() == 0);
            assert!(is_closed(&mut client), "{number}");
            assert_eq!(bench.sockets.counters().closed_malformed, 1, "{number}");
        }
        // What is shorter than anything that makes sense costs more than it says.
        let mut bench = Bench::new(LIMITS);
        let (mut client, _) = bench.claimed();
        client.write_all(&[0, 1, 22].repeat(20_000)).unwrap();
        bench.until("not closed", |it| it.sockets.open() == 0);
        assert_eq!(bench.received.len(), 1, "the check alone");

        let mut bench = Bench::new(LIMITS);
        let (mut client, key) = bench.claimed();
        send(&mut client, &[128; MAX_FRAME]);
        bench.until("no packet", |it| it.received.len() == 2);
        send(&mut client, &[128; MAX_FRAME + 1]);
        bench.until("not closed", |it| it.sockets.open() == 0);
        let closed = ConnectionEvent::Closed(key);
        assert_eq!(bench.sockets.poll_event(), Some(closed));
    }

    #[test]
    fn connections_are_limited() {
        let mut bench = Bench::new(Limits {
            connections: 6,
            waiting: 3,
            of_source: 4,
            waiting_of_source: 2,
        });
        let mut first = bench.connect_from(2);
        let second = bench.connect_from(2);
        // A third of this source that waits is refused.
        assert!(is_closed(&mut bench.connect_from(2)));
        assert_eq!(bench.sockets.counters().refused_source, 1);
        // Of others, the oldest makes room.
        let third = bench.connect_from(3);
        let fourth = bench.connect_from(4);
        assert!(is_closed(&mut first));
        assert_eq!(bench.sockets.counters().refused_full, 1);
        assert_eq!(bench.sockets.waiting(), 3);
        drop((second, third, fourth));
        bench.until("not closed", |it| it.sockets.waiting() == 0);

        // Claimed ones make no room.
        let mut claimed: Vec<_> = std::iter::repeat_with(|| bench.claimed()).take(4).collect();
        assert!(is_closed(&mut bench.connect_from(1)), "of this source");
        claimed.truncate(3);
        bench.until("not closed", |it| it.sockets.open() == 3);
        let _more: Vec<_> = (5..8).map(|octet| bench.connect_from(octet)).collect();
        let _another = bench.connect_from(9);
        assert_eq!((bench.sockets.open(), bench.sockets.waiting()), (3, 3));
        assert_eq!(bench.sockets.counters().refused_full, 2);
        assert_eq!(bench.sockets.counters().refused_source, 2);
    }

    #[test]
    fn one_source_is_an_address_or_a_network_of_one_site() {
        for (a, b, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::2:3:4:5", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let source = |ip: &str| source_of(ip.parse().unwrap());
            assert_eq!(source(a) == source(b), same, "{a} {b}");
        }
    }

    /// Fills a connection whose client does not read until something does not fit.
    fn fill(bench: &mut Bench, key: ConnectionKey) -> u32 {
        let packet = |number: u32| [&number.to_be_bytes()[..], &[9; 1196]].concat();
        let mut queued = 0;
        while bench.sockets.queue(bench.now, key, &packet(queued)) {
            bench.sockets.flush(bench.now);
            queued += 1;
            assert!(queued < 100_000, "never full");
        }
        queued
    }

    #[test]
    fn a_slow_reader_is_bounded_and_loses_nothing_that_was_taken() {
        let mut bench = Bench::new(LIMITS);
        let (mut client, key) = bench.claimed();
        let queued = fill(&mut bench, key);
        let slow = |slow| Some(ConnectionEvent::Slow(key, slow));
        assert_eq!(bench.sockets.poll_event(), slow(true));
        assert_eq!(bench.sockets.poll_event(), None);
        let waiting = bench.sockets.connections[key].outgoing.len();
        assert!(waiting <= MAX_WAITING && waiting > MAX_WAITING - 1300);
        assert_eq!(bench.sockets.counters().packets_dropped, 1);

        let reader = std::thread::spawn(move || {
            for number in 0..queued {
                assert_eq!(read_frame(&mut client)[..4], number.to_be_bytes());
            }
            client
        });
        bench.until("not read", |it| {
            it.sockets.connections[key].outgoing.is_empty()
        });
        assert_eq!(bench.sockets.poll_event(), slow(false));
        let mut client = reader.join().unwrap();
        // The kernel is not asked for more room than is needed.
        assert!(!bench.sockets.connections[key].awaits_room);
        bench.sockets.queue(bench.now, key, b"more");
        bench.sockets.flush(bench.now);
        assert_eq!(read_frame(&mut client), b"more");
    }

    #[test]
    fn what_waits_for_all_is_bounded_and_shared() {
        let mut bench = Bench::new(LIMITS);
        let (_client, first) = bench.claimed();
        let (_other, second) = bench.claimed();
        let packet = [128; 1000];
        assert!(bench.sockets.queue(bench.now, first, &packet));
        assert_eq!(bench.sockets.waits, 1002);
        bench.sockets.flush(bench.now);
        assert_eq!(bench.sockets.waits, 0);
        // As if others had it all.
        bench.sockets.waits = MAX_WAITING_ALL + 1;
        let taken = (0..100).filter(|_| bench.sockets.queue(bench.now, second, &packet));
        assert_eq!(taken.count(), FAIR_WAITING / 1002 + 1);
        bench.sockets.release(second);
        assert_eq!(bench.sockets.waits, MAX_WAITING_ALL + 1);
    }

    #[test]
    fn who_does_not_read_at_all_is_let_go() {
        let mut bench = Bench::new(LIMITS);
        let (mut client, key) = bench.claimed();
        fill(&mut bench, key);
        // It is there, and says so.
        bench.now += STALL_TIMEOUT / 2;
        bench.sockets.sweep(bench.now);
        send(&mut client, CHECK);
        bench.until("no check", |it| it.received.len() == 2);
        assert_eq!(bench.sockets.open(), 1);
        bench.now += STALL_TIMEOUT / 2;
        bench.sockets.sweep(bench.now);
        assert_eq!(bench.sockets.open(), 0);
        assert_eq!(bench.sockets.counters().closed_stalled, 1);
        let events: Vec<_> = std::iter::from_fn(|| bench.sockets.poll_event()).collect();
        let (slow, closed) = (
            ConnectionEvent::Slow(key, true),
            ConnectionEvent::Closed(key),
        );
        assert_eq!(events, [slow, closed]);
    }
}
