//! The media sockets: many datagrams for each system call, in both directions.
//!
//! A socket on an unspecified address has to answer from the address that was
//! asked, or the client drops the answer: the local address of every datagram is
//! kept (IP_PKTINFO) and written back.

use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, SockRef, Socket, Type};

use super::batches::Batches;
use super::feedback;
use super::own::OwnSockets;
use super::tcp::TcpSockets;
use crate::transport::{Datagram, Protocol, Tuple};

/// What the kernel is asked to buffer, bytes: about 50 ms of a full gigabit.
const SOCKET_BUFFER: usize = 8 << 20;
/// Largest thing that one receive can yield: an aggregate of datagrams.
const RECEIVE_BUFFER: usize = 65_535;
/// Receive calls for one tick and socket. What is left makes the next tick come
/// at once; in between, what is due is sent. (By the clock, what is left of feedback waits for
/// the next look.)
const MAX_RECEIVE_CALLS: usize = 4;

/// When a datagram reached the kernel, as time since 1970 on the clock of the wall; `None` where
/// the kernel does not say.
pub type Stamp = Option<Duration>;

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetCounters {
    /// Datagrams received, and packets over TCP, as in what follows.
    pub received: u64,
    /// Octets in them.
    pub bytes_received: u64,
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Octets in them.
    pub bytes_sent: u64,
    /// Datagrams that the kernel refused.
    pub send_errors: u64,
}

#[derive(Debug)]
pub(super) struct MediaSocket {
    pub(super) socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Datagrams of one segmented send; 1 where the kernel or a device does not know
    /// such sends.
    max_segments: Cell<usize>,
}

/// Room for what one receive yields.
pub(super) type Buffers = Vec<Vec<u8>>;

/// Room for [`MediaSocket::receive`].
pub(super) fn buffers() -> Buffers {
    vec![vec![0; RECEIVE_BUFFER]; BATCH_SIZE]
}

impl MediaSocket {
    /// Takes what has arrived, up to a bound, and gives each datagram to `sink`, with its
    /// stamp. True at that bound: there may be more.
    pub(super) fn receive(
        &self,
        protocol: Protocol,
        buffers: &mut Buffers,
        counters: &mut NetCounters,
        sink: &mut impl FnMut(Tuple, &[u8], Stamp),
    ) -> bool {
        for _ in 0..MAX_RECEIVE_CALLS {
            let mut slices: Vec<IoSliceMut<'_>> =
                buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let result = self
                .state
                .recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas);
            let Ok(count) = result else {
                // Nothing there, or an ICMP error of an earlier send.
                return false;
            };
            drop(slices);
            for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
                let tuple = Tuple {
                    remote: meta.addr,
                    local: meta.dst_ip.unwrap_or(self.local.ip()),
                    protocol,
                };
                let data = buffer.get(..meta.len).unwrap_or_default();
                for datagram in data.chunks(meta.stride.max(1)) {
                    counters.note_received(datagram.len());
                    sink(tuple, datagram, meta.timestamp);
                }
            }
            if count < BATCH_SIZE {
                return false;
            }
        }
        true
    }

    /// A second socket on the same port, which gets the feedback of receivers; `None` where
    /// the kernel cannot do that.
    fn split(&self) -> Option<Self> {
        let bind = || bind_one(self.local, SOCKET_BUFFER, true);
        feedback::split(&self.socket, bind)
            .inspect_err(|error| {
                tracing::warn!(local = %self.local, %error, "feedback is read as it comes: no second socket on the port");
            })
            .ok()
    }

    /// Most datagrams of one segmented send.
    pub(super) fn max_segments(&self) -> usize {
        self.max_segments.get()
    }

    /// A device cannot do segmented sends: there are none from now on.
    pub(super) fn stop_segmenting(&self) {
        if self.max_segments.replace(1) > 1 {
            tracing::warn!(local = %self.local, "segmented sends (UDP_SEGMENT) fail; datagrams leave one by one");
        }
    }

    /// Whether it can send from one address only.
    pub(super) fn has_one_address(&self) -> bool {
        !self.local.ip().is_unspecified()
    }

    pub(super) fn is_for(&self, remote: SocketAddr) -> bool {
        self.local.is_ipv4() == remote.is_ipv4()
    }
}

/// The sockets of one worker: those on the port that WebRTC transports share, UDP and
/// TCP, and those of plain transports.
#[derive(Debug)]
pub struct MediaSockets {
    sockets: Vec<MediaSocket>,
    /// Where feedback comes in, for each of these; none where the kernel cannot do that.
    feedback: Vec<MediaSocket>,
    port: u16,
    own: OwnSockets,
    tcp: TcpSockets,
    buffers: Buffers,
    batches: Batches,
    counters: NetCounters,
}

impl MediaSockets {
    /// Binds the first port of a slice that is free, for UDP and TCP. Where there is
    /// none, the first that is for UDP, without TCP. `::` gets a socket for each IP
    /// version.
    ///
    /// # Errors
    /// When no port of the slice can be bound: the last reason.
    pub fn bind(listen_ip: IpAddr, ports: RangeInclusive<u16>) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::AddrInUse, "the port slice is empty");
        let mut without_tcp = None;
        for port in ports.clone() {
            let sockets = match bind_port(listen_ip, port, SOCKET_BUFFER) {
                Ok(sockets) => sockets,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    last = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match TcpSockets::bind(listen_ip, port) {
                Ok(tcp) => return Self::new(listen_ip, ports, port, sockets, tcp),
                Err(error) => {
                    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                    without_tcp.get_or_insert((port, sockets, error));
                    if !is_taken {
                        break;
                    }
                }
            }
        }
        let Some((port, sockets, error)) = without_tcp else {
            return Err(last);
        };
        tracing::warn!(port, %error, "no ICE over TCP: cannot listen on the TCP port");
        Self::new(listen_ip, ports, port, sockets, TcpSockets::none()?)
    }

    fn new(
        listen_ip: IpAddr,
        ports: RangeInclusive<u16>,
        port: u16,
        sockets: Vec<MediaSocket>,
        tcp: TcpSockets,
    ) -> io::Result<Self> {
        warn_of_small_buffers(&sockets);
        let feedback = sockets.iter().filter_map(MediaSocket::split).collect();
        Ok(Self {
            sockets,
            feedback,
            port,
            own: OwnSockets::new(listen_ip, ports, port)?,
            tcp,
            buffers: buffers(),
            batches: Batches::new(),
            counters: NetCounters::default(),
        })
    }

    /// The shared port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Counters since the start.
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// The ports of plain transports.
    pub fn own(&mut self) -> &mut OwnSockets {
        &mut self.own
    }

    /// The connections of the shared port.
    pub fn tcp(&mut self) -> &mut TcpSockets {
        &mut self.tcp
    }

    /// UDP ports of the slice that are taken.
    pub fn ports_in_use(&self) -> usize {
        1 + self.own.len()
    }

    /// Whether an address can be sent to at all.
    pub fn can_reach(&self, remote: SocketAddr) -> bool {
        self.sockets.iter().any(|socket| socket.is_for(remote))
    }

    /// What to wait on for datagrams.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let shared = self.sockets.iter().map(|s| s.socket.as_fd());
        shared.chain([self.own.as_fd()])
    }

    /// What to wait on for feedback of receivers: how RTP packets arrive, and what was lost. It
    /// may wait.
    pub fn feedback_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.feedback.iter().map(|s| s.socket.as_fd())
    }

    /// What to wait on for connections and what comes over them.
    pub fn tcp_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }

    /// Takes what has come over connections, up to a bound, and gives each packet to
    /// `sink`.
    pub fn receive_tcp(&mut self, now: Instant, mut sink: impl FnMut(Tuple, &[u8])) {
        self.tcp.receive(now, &mut self.counters, &mut sink);
    }

    /// Takes what has arrived, up to a bound, and gives each datagram to `sink`, with its
    /// stamp. True at that bound: there may be more.
    pub fn receive(&mut self, mut sink: impl FnMut(Tuple, &[u8], Stamp)) -> bool {
        let (buffers, counters) = (&mut self.buffers, &mut self.counters);
        let more = receive_shared(&self.sockets, buffers, counters, &mut sink);
        more | self.own.receive(buffers, counters, &mut sink)
    }

    /// Takes feedback that has arrived, in the same way.
    pub fn receive_feedback(&mut self, mut sink: impl FnMut(Tuple, &[u8], Stamp)) -> bool {
        let (buffers, counters) = (&mut self.buffers, &mut self.counters);
        receive_shared(&self.feedback, buffers, counters, &mut sink)
    }

    /// Hands datagrams to the kernel, many in one call; and writes what is for
    /// connections.
    pub fn send(&mut self, now: Instant, datagrams: &[Datagram]) {
        let mut rest = datagrams;
        while let Some((tuple, first)) = rest.first() {
            let sockets = match tuple.protocol {
                Protocol::Udp => self.sockets.as_slice(),
                Protocol::OwnPort(port) => self.own.of(port),
                Protocol::Tcp(connection) => {
                    // What there is no room for is counted there.
                    if self.tcp.queue(now, connection, first) {
                        self.counters.count(1, first.len(), true);
                    }
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
            };
            let Some(socket) = sockets.iter().find(|s| s.is_for(tuple.remote)) else {
                rest = rest.get(1..).unwrap_or_default();
                self.counters.send_errors += 1;
                continue;
            };
            let (own, later) = rest
                .split_at_checked(of_one_socket(rest))
                .unwrap_or((rest, &[]));
            self.batches.send(socket, own, &mut self.counters);
            rest = later;
        }
        self.tcp.flush(now);
    }
}

/// Receives from sockets on the shared port; see [`MediaSocket::receive`].
fn receive_shared(
    sockets: &[MediaSocket],
    buffers: &mut Buffers,
    counters: &mut NetCounters,
    sink: &mut impl FnMut(Tuple, &[u8], Stamp),
) -> bool {
    let receive = |socket: &MediaSocket| socket.receive(Protocol::Udp, buffers, counters, sink);
    sockets
        .iter()
        .map(receive)
        .fold(false, |more, it| more | it)
}

/// How many datagrams from the front are for the socket that the first of them is for.
fn of_one_socket(datagrams: &[Datagram]) -> usize {
    let kind = |(tuple, _): &Datagram| (tuple.protocol, tuple.remote.is_ipv4());
    let first = datagrams.first().map(kind);
    let same = datagrams.iter().take_while(|it| Some(kind(it)) == first);
    same.count()
}

impl NetCounters {
    pub(super) fn note_received(&mut self, len: usize) {
        self.received += 1;
        self.bytes_received += octets(len);
    }

    pub(super) fn count(&mut self, datagrams: usize, bytes: usize, sent: bool) {
        let datagrams = u64::try_from(datagrams).unwrap_or(u64::MAX);
        if sent {
            self.sent += datagrams;
            self.bytes_sent += octets(bytes);
        } else {
            self.send_errors += datagrams;
        }
    }
}

fn octets(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Binds a port; `::` gets a socket for each IP version. `buffer`: what the kernel is
/// asked to buffer each way, bytes; it caps that silently, at
/// net.core.{r,w}mem_max.
pub(super) fn bind_port(
    listen_ip: IpAddr,
    port: u16,
    buffer: usize,
) -> io::Result<Vec<MediaSocket>> {
    let mut ips = vec![listen_ip];
    if listen_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        ips.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
    ips.into_iter()
        .map(|ip| bind_one(SocketAddr::new(ip, port), buffer, false))
        .collect()
}

/// `shared`: with a socket that is bound to it already, and shares it.
fn bind_one(local: SocketAddr, buffer: usize, shared: bool) -> io::Result<MediaSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&local.into())?;
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    let socket: UdpSocket = socket.into();
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    Ok(MediaSocket {
        max_segments: Cell::new(state.max_gso_segments()),
        socket,
        state,
        local,
    })
}

fn warn_of_small_buffers(sockets: &[MediaSocket]) {
    for MediaSocket { socket, local, .. } in sockets {
        let socket = SockRef::from(socket);
        for (name, size) in [
            ("rmem", socket.recv_buffer_size()),
            ("wmem", socket.send_buffer_size()),
        ] {
            // Linux answers twice of what it grants.
            let granted = size.unwrap_or(0) / 2;
            if granted < SOCKET_BUFFER {
                tracing::warn!(
                    %local, granted, wanted = SOCKET_BUFFER,
                    "socket buffer capped; raise net.core.{name}_max"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant, SystemTime};

    fn tuple(port: u16) -> Tuple {
        Tuple {
            remote: SocketAddr::from(([127, 0, 0, 1], port)),
            local: [127, 0, 0, 1].into(),
            protocol: Protocol::Udp,
        }
    }

    #[test]
    fn one_socket_has_one_kind_of_port_and_one_ip_version() {
        assert_eq!(of_one_socket(&[]), 0);
        let mut list = vec![(tuple(1), Vec::new()); 2];
        assert_eq!(of_one_socket(&list), 2);
        for change in [
            |tuple: &mut Tuple| tuple.protocol = Protocol::OwnPort(7),
            |tuple: &mut Tuple| tuple.remote.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        ] {
            list[1].0 = tuple(1);
            change(&mut list[1].0);
            assert_eq!(of_one_socket(&list), 1);
        }
    }

    #[test]
    fn datagrams_travel_whole_and_in_order() {
        let mut sockets = MediaSockets::bind([127, 0, 0, 1].into(), 42_100..=42_199).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let to_client = tuple(client.local_addr().unwrap().port());
        let sizes = [100, 100, 100, 30, 700, 700, 1];
        let datagrams: Vec<_> = (0u8..)
            .zip(sizes)
            .map(|(i, len)| (to_client, vec![i; len]))
            .collect();
        sockets.send(Instant::now(), &datagrams);
        for (i, len) in (0u8..).zip(sizes) {
            let mut buf = [0; 2000];
            let got = client.recv(&mut buf).unwrap();
            assert_eq!((got, buf[0]), (len, i));
        }
        assert_eq!(sockets.counters().sent, 7);
        let bytes: usize = sizes.iter().sum();
        assert_eq!(sockets.counters().bytes_sent, octets(bytes));

        client.connect(("127.0.0.1", sockets.port())).unwrap();
        for size in [10, 20, 30] {
            client.send(&vec![7; size]).unwrap();
        }
        let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(5));
        while seen.len() < 3 && Instant::now() < deadline {
            sockets.receive(|from, datagram, _| {
                assert_eq!(from, to_client);
                seen.push(datagram.len());
            });
        }
        assert_eq!(seen, [10, 20, 30]);
    }

    #[test]
    fn datagrams_are_stamped_when_they_come() {
        let mut sockets = MediaSockets::bind([127, 0, 0, 1].into(), 42_800..=42_899).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", sockets.port())).unwrap();
        let wall = || {
            let now = SystemTime::now();
            now.duration_since(SystemTime::UNIX_EPOCH).unwrap()
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        for datagram in [&[7][..], &[0x8f, 205]] {
            loop {
                // On the loopback it comes while it is sent.
                let before = wall();
                client.send(datagram).unwrap();
                let after = wall();
                let mut came = None;
                while came.is_none() && Instant::now() < deadline {
                    match datagram.len() {
                        1 => sockets.receive(|_, _, stamp| came = Some(stamp)),
                        _ => sockets.receive_feedback(|_, _, stamp| came = Some(stamp)),
                    };
                }
                let came = came.expect("it comes").expect("with a stamp");
                if (before..=after).contains(&came) {
                    break;
                }
                // The kernel begins with stamps a while after it was asked for them; until
                // then, they say when something was read.
                assert!(Instant::now() < deadline, "{came:?} after {after:?}");
            }
        }
    }

    #[test]
    fn many_receivers_get_theirs_with_one_call_and_bad_ones_do_not_stop_it() {
        for ip in [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let mut sockets = MediaSockets::bind(ip, 42_400..=42_499).unwrap();
            let clients: Vec<UdpSocket> =
                (0..70).map(|_| UdpSocket::bind((ip, 0)).unwrap()).collect();
            let mut datagrams = Vec::new();
            for (number, client) in (0u8..).zip(&clients) {
                let timeout = Some(Duration::from_secs(5));
                client.set_read_timeout(timeout).unwrap();
                let way = Tuple {
                    remote: client.local_addr().unwrap(),
                    local: ip,
                    protocol: Protocol::Udp,
                };
                // Runs of one, two and three datagrams, of sizes of their own.
                for part in 0..=number % 3 {
                    let len = 100 + usize::from(number % 5) - usize::from(part / 2);
                    datagrams.push((way, vec![number; len]));
                }
                // Longer than any datagram can be.
                if number == 30 {
                    datagrams.push((way, vec![number; 70_000]));
                }
            }
            let expected = datagrams.len() - 1;
            sockets.send(Instant::now(), &datagrams);
            for (number, client) in (0u8..).zip(&clients) {
                for part in 0..=number % 3 {
                    let mut buffer = [0; 2_000];
                    let (got, from) = client.recv_from(&mut buffer).unwrap();
                    let len = 100 + usize::from(number % 5) - usize::from(part / 2);
                    assert_eq!((got, buffer[0]), (len, number));
                    assert_eq!(from, SocketAddr::new(ip, sockets.port()));
                }
            }
            let counters = sockets.counters();
            assert_eq!(counters.sent, u64::try_from(expected).unwrap());
            assert_eq!(counters.send_errors, 1);
        }
    }

    #[test]
    fn what_cannot_be_segmented_leaves_one_by_one() {
        let mut sockets = MediaSockets::bind([127, 0, 0, 1].into(), 42_500..=42_599).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let timeout = Some(Duration::from_secs(5));
        client.set_read_timeout(timeout).unwrap();
        let way = tuple(client.local_addr().unwrap().port());
        // The kernel takes 64 or 128 segments, and refuses more.
        sockets.sockets[0].max_segments.set(1_000);
        let datagrams: Vec<_> = (0..200).map(|i| (way, vec![i; 10])).collect();
        sockets.send(Instant::now(), &datagrams);
        for number in 0..200 {
            let mut buffer = [0; 100];
            let got = client.recv(&mut buffer).unwrap();
            assert_eq!((got, buffer[0]), (10, number));
        }
        assert_eq!(sockets.counters().sent, 200);
        assert_eq!(sockets.counters().send_errors, 0);
        assert_eq!(sockets.sockets[0].max_segments(), 1, "not tried again");
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let first = MediaSockets::bind([127, 0, 0, 1].into(), 42_200..=42_299).unwrap();
        let second = MediaSockets::bind([127, 0, 0, 1].into(), first.port()..=42_299).unwrap();
        assert!(second.port() > first.port());
        let full = MediaSockets::bind([127, 0, 0, 1].into(), first.port()..=first.port());
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn udp_and_tcp_have_the_same_port_where_there_is_one_for_both() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let taken = std::net::TcpListener::bind("127.0.0.1:42350").unwrap();
        let mut sockets = MediaSockets::bind(ip, 42_350..=42_351).unwrap();
        assert_eq!(sockets.port(), 42_351);
        assert!(sockets.tcp().is_listening());
        assert!(std::net::TcpStream::connect((ip, 42_351)).is_ok());
        // Without one, there are calls all the same.
        let mut sockets = MediaSockets::bind(ip, 42_350..=42_350).unwrap();
        assert_eq!(sockets.port(), 42_350);
        assert!(!sockets.tcp().is_listening());
        drop(taken);
    }
}
