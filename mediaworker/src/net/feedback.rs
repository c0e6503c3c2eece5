//! A second socket on a port, for what may wait.
//!
//! A hundred viewers say more than a thousand times a second how packets arrive
//! (transport-wide congestion control), and a hundred times what they have lost in all (receiver
//! reports). To wake up for each of these takes longer than to read them, and each is about some
//! 100 ms or a second, so that some milliseconds more change nothing: when they came, the kernel's
//! stamps say. (In what follows, feedback is both.) What cannot wait goes on coming into the first
//! socket: STUN, DTLS, RTP, and all other RTCP, a report with something behind it among it, which
//! may ask for something.
//!
//! The kernel tells one from the other by a program of ours (SO_ATTACH_REUSEPORT_CBPF,
//! Linux 4.6). It sees the header of the first RTCP packet, which SRTCP leaves in the clear
//! (RFC 3711 §3.4), of the first of the datagrams that the kernel has put together (UDP_GRO).
//! So now and then something else waits with transport-wide feedback, and reports do not wait that
//! were put together: either socket may get anything.

use std::io;
use std::net::UdpSocket;

use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

/// First octet of RTCP transport-wide feedback, without the padding bit: version 2, format
/// 15 (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
const FIRST_OCTET: u32 = 2 << 6 | 15;
const EXCEPT_PADDING: u32 = 0xdf;
/// RTCP packet type of feedback of the transport layer (RFC 4585 §6.1).
const TRANSPORT_FEEDBACK: u32 = 205;
/// The same of receiver reports (RFC 3550 §6.4.2), and the version in the first octet of any.
const RECEIVER_REPORT: u32 = 201;
const VERSION: u32 = 0xc0;
const VERSION_2: u32 = 0x80;
/// Octets behind the last packet of a datagram: index and tag of SRTCP, by what protects it
/// (RFC 7714 §9.2; RFC 3711 §3.4 with 80 bits).
const TRAILERS: [u32; 2] = [4 + 16, 4 + 10];
// Which of the two sockets, in the order in which they were bound.
const FIRST: u32 = 0;
const SECOND: u32 = 1;

/// Lets a socket, which is bound by itself so far, share its address with one that `bind`
/// binds to it, and has the kernel put feedback into that one.
///
/// # Errors
/// When the kernel cannot do that. Then `first` has its address for itself, and gets all.
pub(super) fn split<S>(first: &UdpSocket, bind: impl FnOnce() -> io::Result<S>) -> io::Result<S> {
    SockRef::from(first).set_reuse_port(true)?;
    let second = bind().and_then(|second| attach(first).map(|()| second));
    if second.is_err() {
        SockRef::from(first).set_reuse_port(false)?;
    }
    second
}

/// Attaches the program to the sockets of an address, by any of them. What it is to say a
/// socket for and cannot (a datagram that is too short) is for the first.
fn attach(socket: &UdpSocket) -> io::Result<()> {
    let load = |size, at| statement(libc::BPF_LD | size | libc::BPF_ABS, at);
    let by = |operation, value| statement(libc::BPF_ALU | operation | libc::BPF_K, value);
    let to = |socket| statement(libc::BPF_RET | libc::BPF_K, socket);
    // Where it is equal, and where it is not, so many are skipped.
    let skip = |value, equal, other| sock_filter {
        jt: equal,
        jf: other,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let [gcm, counter] = TRAILERS;
    let mut program = [
        load(libc::BPF_B, 1),
        skip(RECEIVER_REPORT, 4, 0),
        skip(TRANSPORT_FEEDBACK, 0, 15),
        load(libc::BPF_B, 0),
        by(libc::BPF_AND, EXCEPT_PADDING),
        skip(FIRST_OCTET, 11, 12),
        // A report is alone where nothing but the trailer is behind its length (in words, less
        // one).
        load(libc::BPF_B, 0),
        by(libc::BPF_AND, VERSION),
        skip(VERSION_2, 0, 9),
        load(libc::BPF_H, 2),
        by(libc::BPF_ADD, 1),
        by(libc::BPF_LSH, 2),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        statement(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0),
        skip(gcm, 1, 0),
        skip(counter, 0, 1),
        to(SECOND),
        to(FIRST),
    ];
    let program = sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        filter: program.as_mut_ptr(),
    };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?;
    Ok(())
}

/// An instruction that does not jump.
fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::net::udp::MediaSockets;

    /// Receives in one way until so many datagrams have come. Fails where they do not.
    fn collect(
        sockets: &mut MediaSockets,
        count: usize,
        receive: impl Fn(&mut MediaSockets, &mut dyn FnMut(&[u8])),
    ) -> Vec<Vec<u8>> {
        let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(5));
        while seen.len() < count {
            assert!(Instant::now() < deadline, "{seen:02x?}");
            receive(sockets, &mut |datagram| seen.push(datagram.to_vec()));
        }
        seen
    }

    #[test]
    fn what_may_wait_has_a_socket_of_its_own_and_nothing_else_has() {
        for ip in [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let mut sockets = MediaSockets::bind(ip, 42_600..=42_699).unwrap();
            assert_eq!(sockets.feedback_fds().count(), 1, "the kernel can do that");
            let client = UdpSocket::bind((ip, 0)).unwrap();
            client.connect((ip, sockets.port())).unwrap();
            let report = |blocks: u8, more| {
                let words = 1 + 6 * blocks;
                let len = 4 * (usize::from(words) + 1) + more;
                let mut report = vec![0; len];
                report[..4].copy_from_slice(&[0x80 | blocks, 201, 0, words]);
                report
            };
            // As they are protected; about nothing, or long; with padding.
            let mut padded = report(2, 20);
            padded[0] |= 0x20;
            let alone = [
                report(1, 20),
                report(1, 14),
                report(0, 20),
                report(31, 14),
                padded,
            ];
            // With something behind them; without protection; cut off; of another version.
            let mut other_version = report(1, 20);
            other_version[0] = 0x41;
            let mut endless = report(1, 20);
            endless[2..4].fill(0xff);
            let mut sender = report(1, 20);
            sender[1] = 200;
            let not_alone = [
                report(1, 20 + 12),
                report(1, 14 + 16),
                report(1, 0),
                report(1, 19),
                report(1, 20)[..20].to_vec(),
                report(1, 14 + 12),
                endless,
                sender,
                vec![0x80, 201, 0],
                other_version,
            ];
            let mut feedback: Vec<&[u8]> = vec![
                &[0x8f, 205, 0, 3, 1],
                // With padding, and with nothing behind it.
                &[0xaf, 205, 0, 3, 2],
                &[0x8f, 205],
            ];
            feedback.extend(alone.iter().map(Vec::as_slice));
            let mut others: Vec<&[u8]> = vec![
                // NACK and TMMBR; reports that are cut off; PLI and REMB.
                &[0x81, 205, 0, 3],
                &[0x83, 205, 0, 3],
                &[0x80, 200, 0, 6],
                &[0x81, 201, 0, 7],
                &[0x81, 206, 0, 2],
                &[0x8f, 206, 0, 5],
                // RTP, and such that has 15 contributing sources.
                &[0x90, 111, 0, 1],
                &[0x8f, 96, 0, 1],
                // STUN, DTLS, and what is nothing.
                &[0, 1, 0, 8],
                &[22, 254, 253, 0],
                &[0x8f],
                &[0x4f, 205],
                &[0x80, 201],
            ];
            others.extend(not_alone.iter().map(Vec::as_slice));
            for datagram in feedback.iter().chain(&others) {
                client.send(datagram).unwrap();
            }
            let seen = collect(&mut sockets, others.len(), |sockets, sink| {
                sockets.receive(|_, datagram, _| sink(datagram));
            });
            assert_eq!(seen, others);
            let seen = collect(&mut sockets, feedback.len(), |sockets, sink| {
                sockets.receive_feedback(|_, datagram, _| sink(datagram));
            });
            assert_eq!(seen, feedback);
            let all = feedback.len() + others.len();
            assert_eq!(sockets.counters().received, u64::try_from(all).unwrap());
        }
    }

    #[test]
    fn both_ip_versions_have_one() {
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let mut sockets = MediaSockets::bind(any, 42_800..=42_899).unwrap();
        assert_eq!(sockets.feedback_fds().count(), 2);
        let ips = [
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ];
        for ip in ips {
            let client = UdpSocket::bind((ip, 0)).unwrap();
            client.connect((ip, sockets.port())).unwrap();
            client.send(&[0x8f, 205]).unwrap();
            client.send(&[0x81, 206]).unwrap();
            let seen = collect(&mut sockets, 1, |sockets, sink| {
                sockets.receive_feedback(|from, datagram, _| {
                    assert_eq!(from.remote, client.local_addr().unwrap());
                    sink(datagram);
                });
            });
            assert_eq!(seen, [[0x8f, 205]]);
            let seen = collect(&mut sockets, 1, |sockets, sink| {
                sockets.receive(|_, datagram, _| sink(datagram));
            });
            assert_eq!(seen, [[0x81, 206]]);
        }
    }

    #[test]
    fn without_a_second_socket_the_first_gets_everything() {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refused = || Err::<UdpSocket, _>(io::ErrorKind::Unsupported.into());
        assert!(split(&first, refused).is_err());
        assert!(!SockRef::from(&first).reuse_port().unwrap());
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = first.local_addr().unwrap();
        client.send_to(&[0x8f, 205, 0, 3], to).unwrap();
        first
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!(first.recv(&mut [0; 10]).unwrap(), 4);
    }
}
