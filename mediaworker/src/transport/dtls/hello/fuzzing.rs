//! What holds however a ClientHello arrives: see `crate::fuzzing`.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it is compiled for tests and for fuzzing only"
)]

use super::{CLIENT_HELLO, HANDSHAKE, Hello, MAX_LEN, Taken};

/// Octets of a step: where a piece begins, how long it is, and where it goes.
const STEP: usize = 4;

/// Puts a ClientHello together. The first octet says how many steps follow, each of which
/// sends a piece of it; all behind them is its body. What is missing then comes in pieces
/// of the length that the second octet says.
///
/// # Panics
/// When it matters how it comes, or when more is kept than a ClientHello has.
pub fn hello(input: &[u8]) {
    anything(input);
    let Some((&[steps, len], rest)) = input.split_first_chunk() else {
        return;
    };
    let (steps, body) = rest.split_at(rest.len().min(usize::from(steps % 32) * STEP));
    let body = &body[..body.len().min(MAX_LEN)];
    if body.is_empty() {
        return;
    }
    let offer = Hello::default().take(&record(CLIENT_HELLO, 0, body, 0, body.len()));
    assert!(matches!(offer, Taken::Whole(_)));

    let (mut hello, mut datagram) = (Hello::default(), Vec::new());
    let mut there = vec![false; body.len()];
    for step in steps.chunks_exact(STEP) {
        let at = usize::from(u16::from_be_bytes([step[0], step[1]])) % (body.len() + 1);
        let end = (at + (usize::from(step[2]) << (step[3] & 7))).min(body.len());
        // Neither another message nor another epoch is a part of it.
        let (kind, epoch) = match step[3] >> 3 & 7 {
            0 => (CLIENT_HELLO + 1, 0),
            1 => (CLIENT_HELLO, 1),
            _ => (CLIENT_HELLO, 0),
        };
        datagram.extend(record(kind, epoch, body, at, end - at));
        if (kind, epoch) == (CLIENT_HELLO, 0) {
            there[at..end].fill(true);
        }
        if step[3] & 0x80 != 0 {
            continue;
        }
        if send(&mut hello, &mut datagram, &there, offer) {
            return;
        }
    }
    let len = usize::from(len) + 1;
    let mut starts: Vec<_> = (0..body.len()).step_by(len).collect();
    if len.is_multiple_of(2) {
        starts.reverse();
    }
    for at in starts {
        let end = (at + len).min(body.len());
        datagram.extend(record(CLIENT_HELLO, 0, body, at, end - at));
        there[at..end].fill(true);
        if send(&mut hello, &mut datagram, &there, offer) {
            return;
        }
    }
    panic!("it is never whole");
}

/// Sends a datagram. True: the ClientHello is whole, as it has to be once all is there.
fn send(hello: &mut Hello, datagram: &mut Vec<u8>, there: &[bool], offer: Taken) -> bool {
    let taken = hello.take(&std::mem::take(datagram));
    let is_whole = matches!(taken, Taken::Whole(_));
    if is_whole {
        assert_eq!(taken, offer);
    }
    assert_eq!(is_whole, there.iter().all(|it| *it));
    is_whole
}

/// Takes the input as a datagram, and then as two.
fn anything(input: &[u8]) {
    let mut hello = Hello::default();
    let (first, second) = input.split_at(input.len() / 2);
    for datagram in [input, first, second] {
        let taken = hello.take(datagram);
        assert!(hello.body.len() <= MAX_LEN && hello.there.len() == hello.body.len());
        let missing = hello.there.iter().filter(|it| !**it).count();
        assert_eq!(missing, hello.missing);
        assert!(taken != Taken::Part || missing > 0);
    }
}

/// A record with a piece of a message.
pub(super) fn record(kind: u8, epoch: u8, message: &[u8], at: usize, len: usize) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut fragment = vec![kind];
    fragment.extend_from_slice(&number(message.len())[1..]);
    fragment.extend_from_slice(&[0, 0]);
    fragment.extend_from_slice(&number(at)[1..]);
    fragment.extend_from_slice(&number(len)[1..]);
    fragment.extend_from_slice(&message[at..at + len]);
    let mut record = vec![HANDSHAKE, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 0];
    record.extend_from_slice(&number(fragment.len())[2..]);
    record.extend(fragment);
    record
}
