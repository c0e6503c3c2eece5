//! One UDP socket for each transport, many datagrams for each system call, with
//! the kernel's own receive timestamps.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Datagrams of one receive call.
pub const BATCH: usize = 16;
/// Largest thing that one receive can yield: an aggregate of datagrams.
const BUFFER: usize = 65_535;
/// What the kernel is asked to buffer for each socket, bytes: a second of the
/// largest load of one viewer.
const SOCKET_BUFFER: usize = 1 << 20;

/// Wall clock, nanoseconds since 1970: what the kernel stamps datagrams with.
pub fn wall_clock() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, nanoseconds)
}

fn nanoseconds(time: TimeSpec) -> u64 {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

/// A socket towards one address of the server.
#[derive(Debug)]
pub struct Socket(UdpSocket);

impl Socket {
    /// Binds a free port and connects it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(remote: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(remote)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // The kernel caps these silently, which is fine.
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        Ok(Self(socket))
    }

    /// Has the kernel hand over runs of segments as it got them from the sender
    /// (UDP_GRO), or one datagram at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn aggregate(&self, on: bool) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::UdpGroSegment, &on)?)
    }

    /// Sends one datagram. What does not fit is lost, as on any network.
    pub fn send(&self, datagram: &[u8]) {
        let _ = self.0.send(datagram);
    }

    /// What to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The buffers of receive calls.
pub struct Receiver {
    headers: MultiHeaders<()>,
    buffers: Vec<Vec<u8>>,
    /// Sockets hand over aggregates.
    aggregates: bool,
}

impl Receiver {
    /// Buffers for one batch.
    pub fn new() -> Self {
        Self {
            headers: Self::headers(),
            buffers: vec![vec![0; BUFFER]; BATCH],
            aggregates: false,
        }
    }

    fn headers() -> MultiHeaders<()> {
        MultiHeaders::preallocate(BATCH, Some(cmsg_space!(TimeSpec, i32)))
    }

    /// Sockets hand over aggregates from now on, or do not.
    ///
    /// The kernel shrinks the space for the control messages of a header to what it
    /// used last. One datagram that came alone would hide the segment length of the
    /// next aggregate, which would be taken for one large datagram: so where there are
    /// any, there is fresh space for each call.
    pub fn aggregate(&mut self, on: bool) {
        self.aggregates = on;
        self.headers = Self::headers();
    }

    /// Takes one batch; true when there may be more. `sink` gets each datagram
    /// with the kernel's receive time; `runs` the number of datagrams of each
    /// aggregate and their bytes.
    pub fn receive(
        &mut self,
        socket: &Socket,
        mut sink: impl FnMut(&mut [u8], u64),
        mut runs: impl FnMut(usize, usize),
    ) -> bool {
        let mut metas = [(0, 0, 0); BATCH];
        let Some(count) = self.call(socket, &mut metas) else {
            return false;
        };
        for (buffer, (len, segment, at)) in self.buffers.iter_mut().zip(metas).take(count) {
            let at = if at == 0 { wall_clock() } else { at };
            let data = buffer.get_mut(..len).unwrap_or_default();
            runs(len.div_ceil(segment.max(1)), len);
            for datagram in data.chunks_mut(segment.max(1)) {
                sink(datagram, at);
            }
        }
        count == BATCH
    }

    /// The system call. Fills in length, segment length and receive time of each
    /// message; answers how many there are.
    fn call(&mut self, socket: &Socket, metas: &mut [(usize, usize, u64); BATCH]) -> Option<usize> {
        if self.aggregates {
            self.headers = Self::headers();
        }
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self
            .buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        // An error: nothing there, or what ICMP said of an earlier send.
        let messages = recvmmsg(
            socket.0.as_raw_fd(),
            &mut self.headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        )
        .ok()?;
        let mut count = 0;
        for (meta, message) in metas.iter_mut().zip(messages) {
            count += 1;
            let (mut at, mut segment) = (0, message.bytes);
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::ScmTimestampns(time) => at = nanoseconds(time),
                    ControlMessageOwned::UdpGroSegments(size) => {
                        segment = usize::try_from(size).unwrap_or(segment);
                    }
                    _ => {}
                }
            }
            *meta = (message.bytes, segment, at);
        }
        Some(count)
    }
}

/// The headers of send calls.
pub struct Sender {
    headers: MultiHeaders<()>,
}

impl Sender {
    /// Headers for one batch.
    pub fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Sends datagrams back to back; answers how many the kernel took.
    pub fn send(&mut self, socket: &Socket, datagrams: &[Vec<u8>]) -> usize {
        let mut sent = 0;
        for batch in datagrams.chunks(BATCH) {
            let slices: Vec<[IoSlice<'_>; 1]> = batch
                .iter()
                .map(|datagram| [IoSlice::new(datagram)])
                .collect();
            let result = sendmmsg(
                socket.0.as_raw_fd(),
                &mut self.headers,
                slices.iter(),
                [None; BATCH],
                [],
                MsgFlags::MSG_DONTWAIT,
            );
            sent += result.map_or(0, Iterator::count);
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_arrive_whole_with_the_kernel_s_time() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Socket::connect(server.local_addr().unwrap()).unwrap();
        let datagrams: Vec<Vec<u8>> = (0u8..20).map(|i| vec![i; 100]).collect();
        let before = wall_clock();
        assert_eq!(Sender::new().send(&socket, &datagrams), 20);
        let mut buffer = [0; 200];
        for expected in &datagrams {
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], expected);
            server.send_to(expected, from).unwrap();
        }
        let mut receiver = Receiver::new();
        let mut got = Vec::new();
        for more in [true, false, false] {
            let again = receiver.receive(
                &socket,
                |datagram, at| {
                    assert!((before..=wall_clock()).contains(&at), "{at}");
                    got.push(datagram.to_vec());
                },
                |run, len| assert_eq!((run, len), (1, 100)),
            );
            assert_eq!(again, more);
        }
        assert_eq!(got, datagrams);
    }

    #[test]
    fn aggregates_show_what_one_send_carried() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = Socket::connect(server.local_addr().unwrap()).unwrap();
        socket.aggregate(true).unwrap();
        socket.send(b"where from");
        let (_, from) = server.recv_from(&mut [0; 20]).unwrap();
        setsockopt(&server, sockopt::UdpGsoSegment, &100).unwrap();
        server.send_to(&[7; 350], from).unwrap();
        server.send_to(&[8; 100], from).unwrap();
        let mut receiver = Receiver::new();
        receiver.aggregate(true);
        let mut received = || {
            let (mut runs, mut lens) = (Vec::new(), Vec::new());
            receiver.receive(
                &socket,
                |datagram, _| lens.push(datagram.len()),
                |run, len| runs.push((run, len)),
            );
            (runs, lens)
        };
        let both = (vec![(4, 350), (1, 100)], vec![100, 100, 100, 50, 100]);
        assert_eq!(received(), both);
        // What came alone leaves no mark on what comes after it.
        for _ in 0..2 {
            server.send_to(&[8; 100], from).unwrap();
            assert_eq!(received(), (vec![(1, 100)], vec![100]));
            server.send_to(&[7; 200], from).unwrap();
            assert_eq!(received(), (vec![(2, 200)], vec![100, 100]));
        }
    }
}
