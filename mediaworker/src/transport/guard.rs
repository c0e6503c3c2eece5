//! What is looked at in a datagram before str0m sees it: defences against input
//! that str0m, or the clients' own habits, do not stand.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// SSRC of an RTP packet (RFC 3550 §5.1).
pub fn ssrc(rtp: &[u8]) -> Option<u32> {
    let bytes = rtp.get(8..12)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Payload type of an RTP packet.
pub fn payload_type(rtp: &[u8]) -> Option<u8> {
    rtp.get(1).map(|byte| byte & 0x7f)
}

/// Sequence number of an RTP packet.
pub fn sequence(rtp: &[u8]) -> Option<u16> {
    let bytes = rtp.get(2..4)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// The 16 bits of a header extension, as it stands in the clear; `None` when the
/// packet does not have it.
pub fn extension_u16(rtp: &[u8], id: u8) -> Option<u16> {
    let &[high, low, ..] = extension(rtp, id)? else {
        return None;
    };
    Some(u16::from_be_bytes([high, low]))
}

/// The value of a header extension (RFC 8285), as it stands in the clear; `None`
/// when the packet does not have it.
pub fn extension(rtp: &[u8], id: u8) -> Option<&[u8]> {
    let first = *rtp.first()?;
    if first & 0x10 == 0 {
        return None;
    }
    let start = 12 + usize::from(first & 0x0f) * 4;
    let head = rtp.get(start..start + 4)?;
    let &[a, b, c, d] = head else { return None };
    let (profile, words) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut rest = rtp.get(start + 4..start + 4 + usize::from(words) * 4)?;
    let two_byte = profile & 0xfff0 == 0x1000;
    if !two_byte && profile != 0xbede {
        return None;
    }
    while let Some((&byte, after)) = rest.split_first() {
        if byte == 0 {
            rest = after;
            continue;
        }
        let (found, len, after) = if two_byte {
            let (&len, after) = after.split_first()?;
            (byte, usize::from(len), after)
        } else {
            (byte >> 4, usize::from(byte & 0x0f) + 1, after)
        };
        let value = after.get(..len)?;
        if found == id {
            return Some(value);
        }
        rest = after.get(len..)?;
    }
    None
}

/// Farthest that a transport-cc number may lie ahead of one that is known to
/// have been taken in, less than half of the 16-bit range.
const MAX_AHEAD: u16 = 32_000;
/// First number of the upper half.
const UPPER_HALF: u16 = 0x8000;

/// Keeps transport-cc numbers from reaching back beyond str0m's first one.
///
/// str0m extends them from 16 bits by the nearest way round. With a low number
/// first and one of the upper half after it, that way leads below zero, and the
/// next feedback would list 2^64 packets as lost. Once a number of the upper
/// half has been taken in, there is no way below zero any more.
#[derive(Debug, Default)]
pub struct TransportCcGuard {
    /// Highest number that surely was taken in, while all were of the lower half.
    taken: Option<u16>,
    /// A number of the lower half may have been taken in.
    low: bool,
    /// One of the upper half has been: all is well from then on.
    safe: bool,
}

impl TransportCcGuard {
    /// Whether a packet with this number may be taken in.
    pub fn admits(&mut self, number: u16) -> bool {
        if self.safe {
            return true;
        }
        if number < UPPER_HALF {
            self.low = true;
            return true;
        }
        match self.taken {
            Some(taken) => number - taken <= MAX_AHEAD,
            None => !self.low,
        }
    }

    /// Notes that an authentic packet with this number has been taken in.
    pub fn took(&mut self, number: u16) {
        if number >= UPPER_HALF {
            self.safe = true;
        } else {
            self.taken = self.taken.max(Some(number));
        }
    }
}

/// Datagrams that are remembered.
const REMEMBERED: usize = 256;

/// Recognises RTCP datagrams that come twice. str0m has no replay protection for
/// SRTCP (RFC 3711 §3.3.2), and a NACK of a few bytes asks for much.
#[derive(Debug, Default)]
pub struct ReplayGuard {
    hasher: RandomState,
    seen: VecDeque<u64>,
}

impl ReplayGuard {
    /// Whether this datagram is not one of the last few hundred.
    pub fn admits(&mut self, datagram: &[u8]) -> bool {
        let hash = self.hasher.hash_one(datagram);
        if self.seen.contains(&hash) {
            return false;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(hash);
        true
    }
}

/// Retransmissions that are saved up for, and that a media packet adds one to.
const RESEND_BURST: u32 = 1024;
/// Retransmissions refused in a row after which a client is taken for hostile.
const MAX_REFUSED: u32 = 8192;

/// Bounds how much a client can make us send again.
#[derive(Debug)]
pub struct ResendBudget {
    left: u32,
    refused: u32,
}

/// What to do with a retransmission.
#[derive(Debug, PartialEq, Eq)]
pub enum Resend {
    /// Send it.
    Send,
    /// Drop it.
    Drop,
    /// The client asks without end: close its transport.
    Close,
}

impl Default for ResendBudget {
    fn default() -> Self {
        Self {
            left: RESEND_BURST,
            refused: 0,
        }
    }
}

impl ResendBudget {
    /// A media packet has been sent.
    pub fn media(&mut self) {
        self.left = (self.left + 1).min(RESEND_BURST);
    }

    /// A retransmission wants to be sent.
    pub fn resend(&mut self) -> Resend {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.refused = 0;
            return Resend::Send;
        }
        self.refused = self.refused.saturating_add(1);
        if self.refused > MAX_REFUSED {
            Resend::Close
        } else {
            Resend::Drop
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtp(extension: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        packet.extend_from_slice(extension);
        packet.extend_from_slice(&[0xAA; 20]);
        packet
    }

    #[test]
    fn fields_are_read_from_the_clear() {
        let one = rtp(&[0xbe, 0xde, 0, 2, 0x40, b'0', 0, 0x31, 0x12, 0x34, 0, 0]);
        assert_eq!(ssrc(&one), Some(3));
        assert_eq!(payload_type(&one), Some(96));
        assert_eq!(extension_u16(&one, 3), Some(0x1234));
        assert_eq!(extension_u16(&one, 4), None, "one byte only");
        assert_eq!(extension_u16(&one, 5), None);
        let two = rtp(&[0x10, 0, 0, 2, 4, 1, b'0', 3, 2, 0x12, 0x34, 0]);
        assert_eq!(extension_u16(&two, 3), Some(0x1234));
        for len in 0..one.len() {
            let _ = extension_u16(&one[..len], 3);
            let _ = ssrc(&one[..len]);
        }
        let cut = rtp(&[0xbe, 0xde, 0xff, 0xff, 0x31]);
        assert_eq!(extension_u16(&cut, 3), None);
        let overlong = rtp(&[0xbe, 0xde, 0, 1, 0x3f, 1, 2, 3]);
        assert_eq!(extension_u16(&overlong, 3), None);
    }

    #[test]
    fn transport_cc_numbers_never_reach_below_the_first() {
        // An honest client from 0 on, over the wrap-around.
        let mut guard = TransportCcGuard::default();
        for i in 0..200_000u32 {
            let number = u16::try_from(i & 0xffff).unwrap();
            assert!(guard.admits(number), "{i}");
            guard.took(number);
        }
        // One that starts at random in the upper half.
        let mut guard = TransportCcGuard::default();
        for number in [65_530, 65_531, 3, 65_535] {
            assert!(guard.admits(number));
            guard.took(number);
        }
        // Low first, then far ahead: would be below zero.
        let mut guard = TransportCcGuard::default();
        for number in [0, 5] {
            assert!(guard.admits(number));
            guard.took(number);
        }
        assert!(!guard.admits(40_000));
        assert!(!guard.admits(65_534));
        // The same when the low one was never seen to be taken in.
        let mut guard = TransportCcGuard::default();
        assert!(guard.admits(5));
        assert!(!guard.admits(40_000));
    }

    #[test]
    fn replays_are_recognised_while_they_are_fresh() {
        let mut guard = ReplayGuard::default();
        assert!(guard.admits(b"one"));
        assert!(guard.admits(b"two"));
        assert!(!guard.admits(b"one"));
        for i in 0..300u32 {
            assert!(guard.admits(&i.to_be_bytes()));
        }
        assert!(guard.seen.len() <= REMEMBERED);
    }

    #[test]
    fn resends_are_paid_for_by_media() {
        let mut budget = ResendBudget::default();
        let sent = (0..2000)
            .filter(|_| budget.resend() == Resend::Send)
            .count();
        assert_eq!(sent, 1024);
        budget.media();
        assert_eq!(budget.resend(), Resend::Send);
        assert_eq!(budget.resend(), Resend::Drop);
        let closes = (0..10_000).any(|_| budget.resend() == Resend::Close);
        assert!(closes);
    }
}
