//! The ports that plain transports have for themselves, out of the worker's slice.
//!
//! The event loop waits for one epoll instance, however many ports there are.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::udp::{Buffers, MediaSocket, NetCounters, Stamp, bind_port};
use crate::transport::plain::OwnPorts;
use crate::transport::{Protocol, Tuple};

/// What the kernel is asked to buffer for a port, bytes: 100 ms of 40 Mbit/s.
const SOCKET_BUFFER: usize = 512 << 10;
/// Datagrams that came to nobody of which is read in one tick, of each socket; of more, in
/// the next.
const MAX_UNREACHABLE: usize = 16;
/// Octets of what is told of such a datagram: the error, who said so, and what the socket
/// wants to know of each datagram.
const CONTROL: usize = 256;
/// Ports that are looked at in one tick. The others make the next tick come at once.
const MAX_READY: usize = 64;

/// Why there are no ports for another transport.
#[derive(Debug, thiserror::Error)]
pub enum NoPorts {
    /// All are taken.
    #[error("no UDP port of {min}–{max} is free for another plain transport")]
    UsedUp {
        /// First port of the slice.
        min: u16,
        /// Last port of it.
        max: u16,
    },
    /// The kernel refused.
    #[error("cannot open a UDP port for a plain transport: {0}")]
    Refused(#[from] io::Error),
}

/// The ports of plain transports, and the slice that more can be taken from.
#[derive(Debug)]
pub struct OwnSockets {
    listen_ip: IpAddr,
    slice: RangeInclusive<u16>,
    /// The one that WebRTC transports share.
    shared: u16,
    open: BTreeMap<u16, Vec<MediaSocket>>,
    /// Where the search for the next one begins: what was closed just now, and may
    /// still get packets of an earlier sender, has its turn last.
    next: u16,
    epoll: Epoll,
    /// From which port, and to which address, something was sent that came to nobody.
    unreachable: Vec<(u16, SocketAddr)>,
}

impl OwnSockets {
    /// None are open yet.
    ///
    /// # Errors
    /// When there is no epoll instance to be had.
    pub(super) fn new(
        listen_ip: IpAddr,
        slice: RangeInclusive<u16>,
        shared: u16,
    ) -> io::Result<Self> {
        Ok(Self {
            listen_ip,
            next: *slice.start(),
            slice,
            shared,
            open: BTreeMap::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            unreachable: Vec::new(),
        })
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens the ports of a transport: one for both, or an even one for RTP and the
    /// next for RTCP (RFC 3550 §11). Where no such pair is free, any two do.
    ///
    /// # Errors
    /// [`NoPorts`]; none is open then.
    pub fn open(&mut self, rtcp_mux: bool) -> Result<OwnPorts, NoPorts> {
        if rtcp_mux {
            let rtp = self.open_one(|_| true)?;
            return Ok(OwnPorts { rtp, rtcp: None });
        }
        let pairs = self.candidates().filter(|port| port % 2 == 0);
        let mut pairs = pairs.filter_map(|port| Some((port, port.checked_add(1)?)));
        let pair = loop {
            let Some((rtp, rtcp)) = pairs.next() else {
                break None;
            };
            if !self.is_free(rtp) || !self.is_free(rtcp) || !self.try_open(rtp)? {
                continue;
            }
            match self.try_open(rtcp) {
                Ok(true) => break Some((rtp, rtcp)),
                Ok(false) => self.close(rtp),
                Err(error) => {
                    self.close(rtp);
                    return Err(error.into());
                }
            }
        };
        if let Some((rtp, rtcp)) = pair {
            self.next = rtcp.wrapping_add(1);
            let rtcp = Some(rtcp);
            return Ok(OwnPorts { rtp, rtcp });
        }
        let rtp = self.open_one(|_| true)?;
        match self.open_one(|port| port != rtp) {
            Ok(rtcp) => Ok(OwnPorts {
                rtp,
                rtcp: Some(rtcp),
            }),
            Err(error) => {
                self.close(rtp);
                Err(error)
            }
        }
    }

    /// Closes a port; it can be taken again.
    pub fn close(&mut self, port: u16) {
        for socket in self.open.remove(&port).into_iter().flatten() {
            // Closing it would do, but a copy of it may be in a child that is being
            // started.
            let _ = self.epoll.delete(&socket.socket);
        }
    }

    fn open_one(&mut self, is_wanted: impl Fn(u16) -> bool) -> Result<u16, NoPorts> {
        for port in self.candidates() {
            if is_wanted(port) && self.is_free(port) && self.try_open(port)? {
                self.next = port.wrapping_add(1);
                return Ok(port);
            }
        }
        Err(NoPorts::UsedUp {
            min: *self.slice.start(),
            max: *self.slice.end(),
        })
    }

    /// The whole slice, once around.
    fn candidates(&self) -> impl Iterator<Item = u16> + use<> {
        let (min, max) = (*self.slice.start(), *self.slice.end());
        let from = if self.slice.contains(&self.next) {
            self.next
        } else {
            min
        };
        (from..=max).chain(min..from)
    }

    fn is_free(&self, port: u16) -> bool {
        self.slice.contains(&port) && port != self.shared && !self.open.contains_key(&port)
    }

    /// False: another process has it.
    fn try_open(&mut self, port: u16) -> io::Result<bool> {
        let sockets = match bind_port(self.listen_ip, port, SOCKET_BUFFER) {
            Ok(sockets) => sockets,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(false),
            Err(error) => return Err(error),
        };
        for socket in &sockets {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, port.into());
            self.epoll.add(&socket.socket, event)?;
            if let Err(error) = tell_of_errors(socket) {
                tracing::debug!(port, %error, "nobody will tell whether somebody listens");
            }
        }
        self.open.insert(port, sockets);
        Ok(true)
    }

    pub(super) fn of(&self, port: u16) -> &[MediaSocket] {
        self.open.get(&port).map_or(&[], Vec::as_slice)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Takes from which port, and to which address, something was sent that came to nobody:
    /// at most [`MAX_READY`] sockets' worth for each time that something was received.
    pub fn take_unreachable(&mut self) -> Vec<(u16, SocketAddr)> {
        std::mem::take(&mut self.unreachable)
    }

    pub(super) fn receive(
        &mut self,
        buffers: &mut Buffers,
        counters: &mut NetCounters,
        sink: &mut impl FnMut(Tuple, &[u8], Stamp),
    ) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let mut events = [EpollEvent::empty(); MAX_READY];
        let ready = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        let mut more = ready == MAX_READY;
        let mut looked_at = None;
        for event in events.iter().take(ready) {
            let port = u16::try_from(event.data()).unwrap_or(0);
            let sockets = self.open.get(&port).map_or(&[][..], Vec::as_slice);
            if event.events().contains(EpollFlags::EPOLLERR) {
                let nobody = &mut self.unreachable;
                for socket in sockets {
                    read_errors(socket, |to| nobody.push((port, to)));
                }
            }
            // Its two sockets may both be ready.
            if looked_at.replace(port) == Some(port) {
                continue;
            }
            for socket in sockets {
                more |= socket.receive(Protocol::OwnPort(port), buffers, counters, sink);
            }
        }
        more
    }
}

/// Has the kernel keep what the network says of datagrams that came to nobody. Without it,
/// a socket that is not connected never hears of it.
fn tell_of_errors(socket: &MediaSocket) -> nix::Result<()> {
    let socket = &socket.socket;
    match socket.local_addr() {
        Ok(SocketAddr::V6(_)) => setsockopt(socket, sockopt::Ipv6RecvErr, &true),
        _ => setsockopt(socket, sockopt::Ipv4RecvErr, &true),
    }
}

/// Reads what is kept: until it is, the socket is ready.
fn read_errors(socket: &MediaSocket, mut sink: impl FnMut(SocketAddr)) {
    let mut space = nix::cmsg_space!([u8; CONTROL]);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    for _ in 0..MAX_UNREACHABLE {
        // It comes with the datagram, which is not needed.
        let mut start = [0; 1];
        let mut parts = [IoSliceMut::new(&mut start)];
        let fd = socket.socket.as_raw_fd();
        let Ok(message) = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)
        else {
            return;
        };
        let mut notes = message.cmsgs().into_iter().flatten();
        let is_unreachable = notes.any(|note| match note {
            ControlMessageOwned::Ipv4RecvErr(error, _)
            | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                // Nobody sent it: it was too long for the way.
                error.ee_errno != nix::libc::EMSGSIZE.cast_unsigned()
            }
            _ => false,
        });
        let to = message.address.as_ref().and_then(socket_address);
        if let Some(to) = to.filter(|_| is_unreachable) {
            sink(to);
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::net::udp::MediaSockets;

    const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn sockets(slice: RangeInclusive<u16>) -> OwnSockets {
        OwnSockets::new(LOCALHOST, slice.clone(), *slice.start()).unwrap()
    }

    #[test]
    fn ports_are_pairs_and_come_back_last() {
        let mut own = sockets(42_300..=42_305);
        let split = |rtp, rtcp| OwnPorts {
            rtp,
            rtcp: Some(rtcp),
        };
        let muxed = |rtp| OwnPorts { rtp, rtcp: None };
        assert_eq!(own.open(false).unwrap(), split(42_302, 42_303));
        assert_eq!(own.open(true).unwrap(), muxed(42_304));
        own.close(42_304);
        assert_eq!(own.open(true).unwrap(), muxed(42_305));
        // No pair is left.
        assert_eq!(own.open(false).unwrap(), split(42_301, 42_304));
        assert_eq!(own.len(), 5);
        for mux in [true, false] {
            let error = own.open(mux).unwrap_err().to_string();
            assert!(error.contains("42300–42305"), "{error}");
        }
        own.close(42_302);
        assert!(own.open(false).is_err());
        assert_eq!(own.len(), 4, "what was not enough is given back");
        assert_eq!(own.open(true).unwrap(), muxed(42_302));
    }

    #[test]
    fn what_another_process_has_is_passed_over() {
        let _other = UdpSocket::bind("127.0.0.1:42313").unwrap();
        let mut own = sockets(42_311..=42_317);
        let ports = own.open(false).unwrap();
        assert_eq!((ports.rtp, ports.rtcp), (42_314, Some(42_315)));
    }

    #[test]
    fn datagrams_come_and_go_by_their_ports() {
        let mut sockets = MediaSockets::bind(LOCALHOST, 42_320..=42_339).unwrap();
        let one = sockets.own().open(true).unwrap().rtp;
        let other = sockets.own().open(true).unwrap().rtp;
        assert_eq!(sockets.ports_in_use(), 3);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let remote = client.local_addr().unwrap();
        for port in [one, other, sockets.port()] {
            client
                .send_to(&port.to_be_bytes(), (LOCALHOST, port))
                .unwrap();
        }
        let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(5));
        while seen.len() < 3 && Instant::now() < deadline {
            sockets.receive(|from, datagram, _| {
                assert_eq!(from.remote, remote);
                seen.push((from, datagram.to_vec()));
            });
        }
        for (from, datagram) in &seen {
            let port = u16::from_be_bytes([datagram[0], datagram[1]]);
            let expected = if port == sockets.port() {
                Protocol::Udp
            } else {
                Protocol::OwnPort(port)
            };
            assert_eq!(from.protocol, expected);
        }
        sockets.send(Instant::now(), &seen);
        for _ in 0..3 {
            let mut buffer = [0; 10];
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((len, &buffer[..2]), (2, &from.port().to_be_bytes()[..]));
        }
        sockets.own().close(one);
        sockets.send(Instant::now(), &seen);
        assert_eq!(sockets.counters().send_errors, 1);
        assert!(UdpSocket::bind((LOCALHOST, one)).is_ok());
    }

    #[test]
    fn what_came_to_nobody_is_told_and_does_no_harm() {
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let mut sockets = MediaSockets::bind(ip, 42_340..=42_359).unwrap();
            let port = sockets.own().open(true).unwrap().rtp;
            let client = UdpSocket::bind((ip, 0)).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let nobody = client.local_addr().unwrap();
            drop(client);
            let way = |remote: SocketAddr| Tuple {
                remote,
                local: ip,
                protocol: Protocol::OwnPort(port),
            };
            let (mut told, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(5));
            while told.len() < 3 && Instant::now() < deadline {
                sockets.send(Instant::now(), &[(way(nobody), vec![0; 100])]);
                sockets.receive(|_, _, _| unreachable!());
                told.extend(sockets.own().take_unreachable());
            }
            assert!(told.len() >= 3 && told.iter().all(|it| *it == (port, nobody)));
            // All is read: nothing is ready but what arrives.
            sockets.receive(|_, _, _| unreachable!());
            let mut events = [EpollEvent::empty(); 1];
            let ready = sockets.own().epoll.wait(&mut events, EpollTimeout::ZERO);
            assert_eq!(ready, Ok(0));
            let client = UdpSocket::bind(nobody).unwrap();
            sockets.send(Instant::now(), &[(way(nobody), vec![1])]);
            let mut buffer = [0; 10];
            assert_eq!(client.recv_from(&mut buffer).unwrap().0, 1);
            client.send_to(&[2], (ip, port)).unwrap();
            let mut received = false;
            while !received && Instant::now() < deadline {
                sockets.receive(|_, datagram, _| received = datagram == [2]);
            }
            assert!(received);
            assert_eq!(sockets.own().take_unreachable(), []);
        }
    }
}
