//! How datagrams reach the kernel: what one receiver gets in equal sizes as one
//! segmented message (UDP_SEGMENT), and the messages of many receivers with one system
//! call (`sendmmsg`).
//!
//! All messages of a call have segments of one size, and pictures and sound have sizes of their
//! own, so receivers take turns: of what there is to send, what all of them get first leaves
//! with one call, and what they get next with another.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, sendmmsg,
};

use super::udp::{MediaSocket, NetCounters};
use crate::transport::Datagram;

/// Messages of one system call. More of them save nothing that could be measured.
const MAX_MESSAGES: usize = 64;
/// Largest message that is handed to the kernel, bytes.
const MAX_SEGMENTED: usize = 60_000;

/// Octets of a UDP payload that any way takes in one piece.
const USUAL_MTU: usize = 1_400;
/// Receivers are told apart by their port, modulo this. Those that are not take turns as
/// if they were one.
const PLACES: usize = 1_024;

/// What is needed for the system call, kept from one to the next.
#[derive(Debug)]
pub(super) struct Batches {
    v4: Calls<SockaddrIn>,
    v6: Calls<SockaddrIn6>,
    messages: Vec<Message>,
}

/// The same for one IP version. The kernel wants control messages without a gap behind
/// them, so there are headers for each set of them.
#[derive(Debug)]
struct Calls<A> {
    alone: MultiHeaders<A>,
    segmented: MultiHeaders<A>,
    /// Of a socket that has one address, which need not be said.
    bare_alone: MultiHeaders<A>,
    bare_segmented: MultiHeaders<A>,
    remotes: Vec<Option<A>>,
}

/// An address of one IP version.
trait Address: SockaddrLike + Copy {
    /// `None` for one of the other version.
    fn of(remote: SocketAddr) -> Option<Self>;
}

impl Address for SockaddrIn {
    fn of(remote: SocketAddr) -> Option<Self> {
        match remote {
            SocketAddr::V4(remote) => Some(remote.into()),
            SocketAddr::V6(_) => None,
        }
    }
}

impl Address for SockaddrIn6 {
    fn of(remote: SocketAddr) -> Option<Self> {
        match remote {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(remote) => Some(remote.into()),
        }
    }
}

/// Datagrams that leave as one segmented message, or one by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    /// How many there are for the same receiver, or one that shares its place, before it.
    turn: u32,
    /// Octets of the longest datagram, which is the first.
    len: u16,
    /// Where the first one is, and how many there are.
    first: usize,
    run: usize,
}

impl Message {
    fn of<'a>(&self, datagrams: &'a [Datagram]) -> &'a [Datagram] {
        let of = datagrams.get(self.first..self.first + self.run);
        of.unwrap_or_default()
    }
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
        Self {
            v4: Calls::new(
                cmsg_space!(libc::in_pktinfo),
                cmsg_space!(libc::in_pktinfo, u16),
            ),
            v6: Calls::new(
                cmsg_space!(libc::in6_pktinfo),
                cmsg_space!(libc::in6_pktinfo, u16),
            ),
            messages: Vec::with_capacity(MAX_MESSAGES),
        }
    }

    /// Sends datagrams, all of which are for this socket, with as few system calls as the
    /// kernel allows. What goes the same way leaves in its order.
    pub(super) fn send(
        &mut self,
        socket: &MediaSocket,
        datagrams: &[Datagram],
        counters: &mut NetCounters,
    ) {
        let mut messages = std::mem::take(&mut self.messages);
        plan(datagrams, socket.max_segments(), &mut messages);
        let mut left = messages.as_slice();
        while !left.is_empty() {
            let (count, common) = collect(datagrams, left);
            let (mut now, later) = split(left, count);
            while let Some((first, others)) = now.split_first() {
                match self.call(socket, common, datagrams, now) {
                    Ok(sent) => {
                        let (gone, waiting) = split(now, sent.max(1));
                        for message in gone {
                            let own = message.of(datagrams);
                            let bytes = own.iter().map(|(_, datagram)| datagram.len()).sum();
                            counters.count(own.len(), bytes, sent > 0);
                        }
                        now = waiting;
                    }
                    // It is about the first one; those behind it have their turn.
                    Err(error) => {
                        self.send_singly(socket, common, first.of(datagrams), error, counters);
                        now = others;
                    }
                }
            }
            left = later;
        }
        self.messages = messages;
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
            let message = Message {
                turn: 0,
                len: length(datagram),
                first: 0,
                run: 1,
            };
            let sent = self.call(socket, common, one, &[message]) == Ok(1);
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

    /// The system call. Answers how many messages were sent; an error is about the first.
    fn call(
        &mut self,
        socket: &MediaSocket,
        common: Common,
        datagrams: &[Datagram],
        messages: &[Message],
    ) -> Result<usize, Errno> {
        let to = (socket, datagrams, messages);
        match common.local {
            IpAddr::V4(ip) => {
                let info = v4_info(ip);
                let source = ControlMessage::Ipv4PacketInfo(&info);
                self.v4.call(to, source, common.segment)
            }
            IpAddr::V6(ip) => {
                let info = v6_info(ip);
                let source = ControlMessage::Ipv6PacketInfo(&info);
                self.v6.call(to, source, common.segment)
            }
        }
    }
}

impl<A: Address> Calls<A> {
    /// Room for headers with a source, and with a size of segments as well.
    fn new(source: Vec<u8>, source_and_segment: Vec<u8>) -> Self {
        let headers = |space| MultiHeaders::preallocate(MAX_MESSAGES, space);
        Self {
            alone: headers(Some(source)),
            segmented: headers(Some(source_and_segment)),
            bare_alone: headers(None),
            bare_segmented: headers(Some(cmsg_space!(u16))),
            remotes: Vec::with_capacity(MAX_MESSAGES),
        }
    }

    /// The system call; how many messages were sent. `segment` as in [`Common`].
    fn call(
        &mut self,
        (socket, datagrams, messages): (&MediaSocket, &[Datagram], &[Message]),
        source: ControlMessage<'_>,
        segment: u16,
    ) -> Result<usize, Errno> {
        let mut parts = Vec::with_capacity(messages.iter().map(|message| message.run).sum());
        self.remotes.clear();
        for message in messages {
            let own = message.of(datagrams);
            parts.extend(own.iter().map(|(_, datagram)| IoSlice::new(datagram)));
            let to = own.first().and_then(|(tuple, _)| A::of(tuple.remote));
            self.remotes.push(to);
        }
        let mut rest = parts.as_slice();
        let mut runs = Vec::with_capacity(messages.len());
        for message in messages {
            let (own, others) = split(rest, message.run);
            runs.push(own);
            rest = others;
        }
        let segments = ControlMessage::UdpGsoSegments(&segment);
        let (fd, runs, to) = (socket.socket.as_raw_fd(), runs.iter(), &self.remotes);
        let none = MsgFlags::empty();
        let sent = match (socket.has_one_address(), segment) {
            (true, 0) => sendmmsg(fd, &mut self.bare_alone, runs, to, [], none),
            (true, _) => sendmmsg(fd, &mut self.bare_segmented, runs, to, [segments], none),
            (false, 0) => sendmmsg(fd, &mut self.alone, runs, to, [source], none),
            (false, _) => sendmmsg(fd, &mut self.segmented, runs, to, [source, segments], none),
        };
        sent.map(Iterator::count)
    }
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

fn split<T>(all: &[T], at: usize) -> (&[T], &[T]) {
    all.split_at_checked(at).unwrap_or((all, &[]))
}

fn length((_, datagram): &Datagram) -> u16 {
    u16::try_from(datagram.len()).unwrap_or(u16::MAX)
}

/// Makes messages of datagrams, and puts those next to each other that may leave together.
fn plan(datagrams: &[Datagram], max_segments: usize, messages: &mut Vec<Message>) {
    messages.clear();
    let mut turns = [0u32; PLACES];
    let (mut first, mut rest) = (0, datagrams);
    while let Some(head) = rest.first() {
        let run = run_length(rest, max_segments);
        let place = usize::from(head.0.remote.port()) % PLACES;
        let turn = turns.get_mut(place).map_or(0, |turn| {
            let next = turn.saturating_add(1);
            std::mem::replace(turn, next)
        });
        messages.push(Message {
            turn,
            len: length(head),
            first,
            run,
        });
        first += run;
        rest = split(rest, run).1;
    }
    messages.sort_unstable_by_key(|message| (message.turn, message.len, message.first));
}

/// How many messages from the front can leave with one system call: those that come from
/// the same address and whose segments, where they have several, have the same size.
fn collect(datagrams: &[Datagram], messages: &[Message]) -> (usize, Common) {
    let local = |message: &Message| message.of(datagrams).first().map(|(tuple, _)| tuple.local);
    let head = messages.first().and_then(local);
    let mut common = Common {
        local: head.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        segment: 0,
    };
    // A message of one datagram may be no longer than the segments of others.
    let (mut count, mut longest) = (0, 0);
    for message in messages.iter().take(MAX_MESSAGES) {
        let fits = match (message.run, common.segment) {
            (1, 0) => true,
            (1, segment) => message.len <= segment,
            (_, 0) => longest <= message.len,
            (_, segment) => message.len == segment,
        };
        if !fits || local(message) != head {
            break;
        }
        if message.run > 1 {
            common.segment = message.len;
        }
        longest = longest.max(message.len);
        count += 1;
    }
    (count, common)
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

    /// Datagrams of a message, by port and length.
    type Sizes = Vec<(u16, usize)>;
    /// Messages of a call, and the size of its segments.
    type Call = (Vec<Sizes>, u16);

    /// What leaves with each call.
    fn calls(datagrams: &[Datagram]) -> Vec<Call> {
        let mut messages = vec![];
        plan(datagrams, 64, &mut messages);
        let (mut calls, mut left) = (Vec::new(), messages.as_slice());
        while !left.is_empty() {
            let (count, common) = collect(datagrams, left);
            assert!((1..=MAX_MESSAGES).contains(&count));
            let (now, later) = left.split_at(count);
            let what = |it: &Datagram| (it.0.remote.port(), it.1.len());
            let message = |message: &Message| message.of(datagrams).iter().map(what).collect();
            calls.push((now.iter().map(message).collect(), common.segment));
            left = later;
        }
        calls
    }

    #[test]
    fn messages_of_one_call_have_segments_of_one_size() {
        type Expected<'a> = (&'a [&'a [(u16, usize)]], u16);
        type Case<'a> = (&'a [(u16, usize)], &'a [Expected<'a>]);
        let cases: [Case<'_>; 8] = [
            (
                &[(1, 10), (2, 20), (3, 5)],
                &[(&[&[(3, 5)], &[(1, 10)], &[(2, 20)]], 0)],
            ),
            (
                &[(1, 10), (1, 10), (2, 10), (2, 10)],
                &[(&[&[(1, 10), (1, 10)], &[(2, 10), (2, 10)]], 10)],
            ),
            // The short end of one run is no matter of the next.
            (
                &[(1, 10), (1, 4), (2, 10), (2, 10)],
                &[(&[&[(1, 10), (1, 4)], &[(2, 10), (2, 10)]], 10)],
            ),
            (
                &[(1, 11), (1, 11), (2, 10), (2, 10)],
                &[(&[&[(2, 10), (2, 10)]], 10), (&[&[(1, 11), (1, 11)]], 11)],
            ),
            // What comes first to all of them, and what comes then.
            (
                &[(1, 10), (1, 10), (1, 11), (2, 10), (2, 10), (2, 11), (2, 7)],
                &[
                    (&[&[(1, 10), (1, 10)], &[(2, 10), (2, 10)]], 10),
                    (&[&[(1, 11)], &[(2, 11), (2, 7)]], 11),
                ],
            ),
            // One by itself is no longer than the segments, before them or after them.
            (
                &[(1, 4), (2, 10), (2, 10), (3, 10), (4, 11)],
                &[
                    (&[&[(1, 4)], &[(2, 10), (2, 10)], &[(3, 10)]], 10),
                    (&[&[(4, 11)]], 0),
                ],
            ),
            // Ports that share a place take turns.
            (&[(1, 20), (1025, 10)], &[(&[&[(1, 20)], &[(1025, 10)]], 0)]),
            (&[], &[]),
        ];
        for (sizes, expected) in cases {
            let expected: Vec<Call> = expected
                .iter()
                .map(|(call, segment)| (call.iter().map(|it| it.to_vec()).collect(), *segment))
                .collect();
            assert_eq!(calls(&datagrams(sizes)), expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_picture_for_many_leaves_with_a_call_for_each_size_of_its_packets() {
        let picture = |port| [10, 10, 11, 11].map(|len| (port, len));
        let list: Vec<_> = (1..=150).flat_map(picture).collect();
        let calls = calls(&datagrams(&list));
        let counts: Vec<_> = calls.iter().map(|(call, of)| (call.len(), *of)).collect();
        let expected = [(64, 10), (64, 10), (22, 10), (64, 11), (64, 11), (22, 11)];
        assert_eq!(counts, expected);
    }

    #[test]
    fn whatever_is_sent_leaves_once_and_in_order() {
        for seed in 0..200u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                usize::try_from((state >> 33) % below).unwrap()
            };
            // Some of them share a place.
            let ports = [1, 2, 3, 1_025, 2_049, 40_000];
            let sizes: Vec<_> = (0..300)
                .map(|_| (ports[random(6)], 10 + random(3)))
                .collect();
            let mut messages = vec![];
            plan(&datagrams(&sizes), 64, &mut messages);
            let sent = messages.iter().flat_map(|it| it.first..it.first + it.run);
            let sent: Vec<_> = sent.collect();
            assert_eq!(sent.len(), sizes.len(), "seed {seed}");
            for port in ports {
                let own: Vec<_> = sent.iter().filter(|it| sizes[**it].0 == port).collect();
                assert!(own.is_sorted(), "seed {seed}, port {port}: {own:?}");
            }
        }
    }

    #[test]
    fn one_call_has_one_source() {
        let mut list = datagrams(&[(1, 10), (2, 10)]);
        assert_eq!(calls(&list).len(), 1);
        list[1].0.local = [127, 0, 0, 2].into();
        assert_eq!(calls(&list).len(), 2);
    }
}
