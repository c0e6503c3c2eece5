//! How datagrams reach the kernel: what one receiver gets in equal sizes as one
//! segmented message (UDP_SEGMENT), and the messages of many receivers with one system
//! call (`sendmmsg`).

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use super::udp::{MediaSocket, NetCounters};
use crate::transport::Datagram;

/// Messages of one system call. More of them save nothing that could be measured.
const MAX_MESSAGES: usize = 64;
/// Largest message that is handed to the kernel, bytes.
const MAX_SEGMENTED: usize = 60_000;

/// Octets of a UDP payload that any way takes in one piece.
const USUAL_MTU: usize = 1_400;

type Headers = MultiHeaders<SockaddrStorage>;

/// What is needed for the system call, kept from one to the next. The kernel wants
/// control messages without a gap behind them, so there is one for each set of them.
#[derive(Debug)]
pub(super) struct Batches {
    v4: Headers,
    v4_segmented: Headers,
    v6: Headers,
    v6_segmented: Headers,
    /// How many datagrams each message has.
    runs: Vec<usize>,
}

/// What the messages of one system call have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Common {
    /// Address that they are sent from.
    local: IpAddr,
    /// Longest datagram of each message that has several; 0 where none has.
    segment: u16,
}

impl Batches {
    pub(super) fn new() -> Self {
        let headers = |space| Headers::preallocate(MAX_MESSAGES, Some(space));
        Self {
            v4: headers(cmsg_space!(libc::in_pktinfo)),
            v4_segmented: headers(cmsg_space!(libc::in_pktinfo, u16)),
            v6: headers(cmsg_space!(libc::in6_pktinfo)),
            v6_segmented: headers(cmsg_space!(libc::in6_pktinfo, u16)),
            runs: Vec::with_capacity(MAX_MESSAGES),
        }
    }

    /// Sends datagrams from the front, the first of which is for this socket, with one
    /// system call if the kernel takes them; answers what is left.
    pub(super) fn send<'a>(
        &mut self,
        socket: &MediaSocket,
        datagrams: &'a [Datagram],
        counters: &mut NetCounters,
    ) -> &'a [Datagram] {
        let mut runs = std::mem::take(&mut self.runs);
        let common = collect(datagrams, socket.max_segments(), &mut runs);
        let (mut now, later) = split(datagrams, runs.iter().sum());
        let mut left = runs.as_slice();
        while let Some((first, others)) = left.split_first() {
            match self.call(socket, common, now, left) {
                Ok(sent) => {
                    let (done, rest) = left.split_at_checked(sent.max(1)).unwrap_or((left, &[]));
                    let (gone, waiting) = split(now, done.iter().sum());
                    let bytes = gone.iter().map(|(_, datagram)| datagram.len()).sum();
                    counters.count(gone.len(), bytes, sent > 0);
                    (now, left) = (waiting, rest);
                }
                // It is about the first one; those behind it have their turn.
                Err(error) => {
                    let (failed, waiting) = split(now, *first);
                    self.send_singly(socket, common, failed, error, counters);
                    (now, left) = (waiting, others);
                }
            }
        }
        self.runs = runs;
        later
    }

    /// What becomes of a message that the kernel has refused.
    fn send_singly(
        &mut self,
        socket: &MediaSocket,
        common: Common,
        datagrams: &[Datagram],
        error: Errno,
        counters: &mut NetCounters,
    ) {
        // No room: one by one there is none either.
        if common.segment == 0 || error == Errno::EAGAIN {
            counters.count(datagrams.len(), 0, false);
            return;
        }
        let common = Common {
            segment: 0,
            ..common
        };
        let mut any = false;
        for datagram in datagrams {
            let one = std::slice::from_ref(datagram);
            let sent = self.call(socket, common, one, &[1]) == Ok(1);
            counters.count(1, datagram.1.len(), sent);
            any |= sent;
        }
        // The device may not know segmentation. What does not leave singly either was
        // refused for something else; so may be what is longer than the device's packets.
        let usual = datagrams.iter().all(|(_, it)| it.len() <= USUAL_MTU);
        if datagrams.len() > 1 && any && usual && matches!(error, Errno::EIO | Errno::EINVAL) {
            socket.stop_segmenting();
        }
    }

    /// The system call. `runs`: how many datagrams each message has. Answers how many
    /// messages were sent; an error is about the first.
    fn call(
        &mut self,
        socket: &MediaSocket,
        common: Common,
        datagrams: &[Datagram],
        runs: &[usize],
    ) -> Result<usize, Errno> {
        let parts: Vec<IoSlice<'_>> = datagrams
            .iter()
            .map(|(_, datagram)| IoSlice::new(datagram))
            .collect();
        let mut messages = Vec::with_capacity(runs.len());
        let mut addresses = Vec::with_capacity(runs.len());
        let (mut parts, mut rest) = (parts.as_slice(), datagrams);
        for run in runs {
            let (own, others) = parts.split_at_checked(*run).unwrap_or((parts, &[]));
            messages.push(own);
            parts = others;
            addresses.push(rest.first().map(|(tuple, _)| tuple.remote.into()));
            rest = split(rest, *run).1;
        }
        let (own, segment) = (messages.iter(), &common.segment);
        let fd = socket.socket.as_raw_fd();
        match common.local {
            IpAddr::V4(ip) => {
                let headers = match *segment {
                    0 => &mut self.v4,
                    _ => &mut self.v4_segmented,
                };
                let info = v4_info(ip);
                let source = ControlMessage::Ipv4PacketInfo(&info);
                hand_over(fd, headers, own, addresses, source, segment)
            }
            IpAddr::V6(ip) => {
                let headers = match *segment {
                    0 => &mut self.v6,
                    _ => &mut self.v6_segmented,
                };
                let info = v6_info(ip);
                let source = ControlMessage::Ipv6PacketInfo(&info);
                hand_over(fd, headers, own, addresses, source, segment)
            }
        }
    }
}

/// The system call itself; how many messages were sent.
fn hand_over<'a>(
    fd: RawFd,
    headers: &'a mut Headers,
    messages: impl Iterator<Item = &'a &'a [IoSlice<'a>]>,
    addresses: Vec<Option<SockaddrStorage>>,
    source: ControlMessage<'a>,
    segment: &'a u16,
) -> Result<usize, Errno> {
    let none = MsgFlags::empty();
    let sent = match *segment {
        0 => sendmmsg(fd, headers, messages, addresses, [source], none),
        _ => {
            let segment = ControlMessage::UdpGsoSegments(segment);
            sendmmsg(fd, headers, messages, addresses, [source, segment], none)
        }
    };
    sent.map(Iterator::count)
}

fn v4_info(ip: Ipv4Addr) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip.octets()),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

fn v6_info(ip: Ipv6Addr) -> libc::in6_pktinfo {
    libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: ip.octets(),
        },
        ipi6_ifindex: 0,
    }
}

fn split(datagrams: &[Datagram], at: usize) -> (&[Datagram], &[Datagram]) {
    datagrams.split_at_checked(at).unwrap_or((datagrams, &[]))
}

/// Finds what can leave with one system call: messages from the front that come from
/// the same address and whose segments, where they have several, have the same size.
fn collect(datagrams: &[Datagram], max_segments: usize, runs: &mut Vec<usize>) -> Common {
    runs.clear();
    let mut common = Common {
        local: Ipv4Addr::UNSPECIFIED.into(),
        segment: 0,
    };
    let Some((head, _)) = datagrams.first() else {
        return common;
    };
    common.local = head.local;
    // A message of one datagram may be no longer than the segments of others.
    let mut longest = 0;
    let mut rest = datagrams;
    while let Some((tuple, first)) = rest.first() {
        let same = tuple.protocol == head.protocol
            && tuple.local == head.local
            && tuple.remote.is_ipv4() == head.remote.is_ipv4();
        if !same || runs.len() >= MAX_MESSAGES {
            break;
        }
        let run = run_length(rest, max_segments);
        let len = u16::try_from(first.len()).unwrap_or(u16::MAX);
        let fits = match (run, common.segment) {
            (1, 0) => true,
            (1, segment) => len <= segment,
            (_, 0) => longest <= len,
            (_, segment) => len == segment,
        };
        if !fits && !runs.is_empty() {
            break;
        }
        if run > 1 {
            common.segment = len;
        }
        longest = longest.max(len);
        runs.push(run);
        rest = split(rest, run).1;
    }
    common
}

/// How many datagrams from the front can leave as one segmented message: the same
/// way, the same size, only the last may be shorter.
fn run_length(datagrams: &[Datagram], max_segments: usize) -> usize {
    let Some((tuple, first)) = datagrams.first() else {
        return 0;
    };
    let mut run = 1;
    let mut bytes = first.len();
    for (next_tuple, next) in datagrams.iter().skip(1) {
        bytes += next.len();
        let fits = run < max_segments && bytes <= MAX_SEGMENTED;
        if !fits || next_tuple != tuple || next.len() > first.len() {
            break;
        }
        run += 1;
        if next.len() < first.len() {
            break;
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Protocol, Tuple};

    fn tuple(port: u16) -> Tuple {
        Tuple {
            remote: ([127, 0, 0, 1], port).into(),
            local: [127, 0, 0, 1].into(),
            protocol: Protocol::Udp,
        }
    }

    fn datagrams(sizes: &[(u16, usize)]) -> Vec<Datagram> {
        let all = sizes.iter();
        all.map(|&(port, len)| (tuple(port), vec![0; len]))
            .collect()
    }

    #[test]
    fn runs_are_of_one_way_and_size_and_end_with_a_shorter_one() {
        for (sizes, max, expected) in [
            (&[(1, 10)][..], 64, 1),
            (&[(1, 10), (1, 10), (1, 10)], 64, 3),
            (&[(1, 10), (1, 10), (1, 10)], 2, 2),
            (&[(1, 10), (1, 4), (1, 4)], 64, 2),
            (&[(1, 10), (1, 11)], 64, 1),
            (&[(1, 10), (2, 10)], 64, 1),
            (&[(1, 40_000), (1, 40_000)], 64, 1),
        ] {
            assert_eq!(run_length(&datagrams(sizes), max), expected, "{sizes:?}");
        }
    }

    #[test]
    fn messages_of_one_call_have_segments_of_one_size() {
        type Case<'a> = (&'a [(u16, usize)], &'a [usize], u16);
        let cases: [Case<'_>; 8] = [
            (&[(1, 10), (2, 20), (3, 5)], &[1, 1, 1], 0),
            (&[(1, 10), (1, 10), (2, 10), (2, 10)], &[2, 2], 10),
            // The short end of one run is no matter of the next.
            (&[(1, 10), (1, 4), (2, 10), (2, 10)], &[2, 2], 10),
            (&[(1, 10), (1, 10), (2, 11), (2, 11)], &[2], 10),
            // One by itself is no longer than the segments, before them or after them.
            (&[(1, 4), (2, 10), (2, 10), (3, 10)], &[1, 2, 1], 10),
            (&[(1, 10), (1, 10), (2, 11)], &[2], 10),
            (&[(1, 11), (2, 10), (2, 10)], &[1], 0),
            (&[], &[], 0),
        ];
        for (sizes, expected, segment) in cases {
            let mut runs = vec![7];
            let common = collect(&datagrams(sizes), 64, &mut runs);
            assert_eq!(
                (&runs[..], common.segment),
                (expected, segment),
                "{sizes:?}"
            );
        }
        let many: Vec<_> = (0..200).map(|port| (port, 10)).collect();
        let mut runs = Vec::new();
        collect(&datagrams(&many), 64, &mut runs);
        assert_eq!(runs, [1; MAX_MESSAGES]);
    }

    #[test]
    fn one_call_has_one_source_and_one_kind_of_port() {
        let mut list = datagrams(&[(1, 10), (2, 10)]);
        for change in [
            |tuple: &mut Tuple| tuple.local = [127, 0, 0, 2].into(),
            |tuple: &mut Tuple| tuple.protocol = Protocol::OwnPort(7),
            |tuple: &mut Tuple| tuple.remote.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        ] {
            let before = list[1].0;
            change(&mut list[1].0);
            let mut runs = Vec::new();
            collect(&list, 64, &mut runs);
            assert_eq!(runs, [1]);
            list[1].0 = before;
        }
    }
}
