//! The stream by which str0m estimates what a client can receive.
//!
//! str0m's estimator learns of packets only when its own streams send them, one for each
//! advance of an `Rtc` and with walks over all streams of it. So there is one stream in
//! the `Rtc` of a consuming transport, however many consumers there are: the stand-in.
//! For every packet that we send and the client counts (transport-cc), a packet of the
//! same length is written to it. What comes out does not leave, and is not encrypted
//! (`srtcp::mute`); its transport-cc number is the number of the packet that it stands
//! for, which leaves with it.
//!
//! The stand-in also sends what its pacer wants for a probe. That stands for
//! retransmissions that nobody asked for, or padding, of one of our streams.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::Rtc;
use str0m::media::{MediaKind, Mid};
use str0m::rtp::{Extension, ExtensionMap, RtpWrite, Ssrc};

use crate::transport::guard;
use crate::transport::slots::PayloadType;

/// Id of transport-cc in its packets, whatever the client's is.
const NUMBER: u8 = 1;
const MID: &str = "stand-in";
/// Packets that may be sent once more to probe, and for how long.
const KEPT: usize = 256;
const KEPT_FOR: Duration = Duration::from_secs(3);
/// Octets that SRTP adds to what str0m writes; at least the length of a number is left
/// where the tag is shorter.
const TAG: usize = 16;
const HEADER: usize = 12;

/// The extensions of the `Rtc` of a consuming transport.
pub fn extension_map() -> ExtensionMap {
    let mut map = ExtensionMap::empty();
    map.set(NUMBER, Extension::TransportSequenceNumber);
    map
}

/// A packet that came out of str0m.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// It stands for the packet that was written with this number.
    Packet(u16),
    /// It was written with this number, and is sent once more as a probe.
    Again(u16),
    /// Padding of so many octets.
    Padding(u8),
}

/// The stand-in.
#[derive(Debug)]
pub struct StandIn {
    /// Media and stream are declared.
    declared: bool,
    ssrc: Ssrc,
    rtx: Ssrc,
    /// Extended sequence number of the next packet.
    next: u64,
    /// What the last packets stood for, the newest with the number before `next`.
    stood_for: VecDeque<(usize, u64)>,
}

impl Default for StandIn {
    fn default() -> Self {
        Self {
            declared: false,
            ssrc: Ssrc::from(0),
            rtx: Ssrc::from(0),
            next: 1,
            stood_for: VecDeque::new(),
        }
    }
}

impl StandIn {
    /// Has str0m know it while there is a consumer whose packets are counted.
    pub fn keep(&mut self, rtc: &mut Rtc, wanted: bool, codecs: &[PayloadType]) {
        if self.declared == wanted {
            return;
        }
        let mid = Mid::from(MID);
        if !wanted {
            rtc.direct_api().remove_media(mid);
            self.declared = false;
            return;
        }
        let Some(codec) = codec(codecs) else { return };
        let kind = match codec.clock_rate {
            90_000 => MediaKind::Video,
            _ => MediaKind::Audio,
        };
        // Nobody outside can name it.
        (self.ssrc, self.rtx) = (random_ssrc(0), random_ssrc(1));
        self.next = 1;
        self.stood_for.clear();
        let mut api = rtc.direct_api();
        api.declare_media(mid, kind);
        let rtx = codec.rtx.map(|_| self.rtx);
        let tx = api.declare_stream_tx(self.ssrc, rtx, mid, None);
        tx.set_rtx_cache(KEPT, KEPT_FOR, None);
        // What the bandwidth does not allow is not written, and what it does has been
        // paced by who sent it. In a pacer's queue it would be late, and in the way of
        // what follows when the bandwidth falls.
        tx.set_unpaced(true);
        self.declared = true;
    }

    /// Forgets what was sent: a probe is not to stand for what will not be sent again, and
    /// be shorter than str0m believes.
    pub fn forget(&mut self, rtc: &mut Rtc) {
        let mut api = rtc.direct_api();
        if let Some(tx) = api.stream_tx(&self.ssrc).filter(|_| self.declared) {
            tx.set_rtx_cache(KEPT, KEPT_FOR, None);
        }
        self.stood_for.clear();
    }

    /// Writes what stands for the packet of a slot with a sequence number; `payload` is as
    /// long as its payload; `kept`: it may be sent again to probe. Answers the number of it, with which it comes out.
    pub fn write(
        &mut self,
        rtc: &mut Rtc,
        codecs: &[PayloadType],
        now: Instant,
        payload: Arc<[u8]>,
        (stands_for, kept): ((usize, u64), bool),
    ) -> Option<u16> {
        let pt = codec(codecs)?.pt;
        let mut api = rtc.direct_api();
        let tx = api.stream_tx(&self.ssrc).filter(|_| self.declared)?;
        let number = self.next;
        self.next += 1;
        if self.stood_for.len() >= KEPT {
            self.stood_for.pop_front();
        }
        self.stood_for.push_back(stands_for);
        tx.write_rtp(RtpWrite::new(pt.into(), number.into(), 0, now, payload).nackable(kept));
        Some(low(number))
    }

    /// What the packet with a number stood for: slot and sequence number.
    pub fn stood_for(&self, number: u16) -> Option<(usize, u64)> {
        let behind = usize::from(low(self.next).wrapping_sub(number));
        let place = self.stood_for.len().checked_sub(behind)?;
        self.stood_for.get(place).copied()
    }

    /// What a packet of str0m is, and its transport-cc number. `None` when it has none:
    /// it is nothing of ours.
    pub fn read(&self, rtp: &[u8]) -> Option<(Token, u16)> {
        let number = guard::extension_u16(rtp, NUMBER)?;
        let ssrc = guard::ssrc(rtp)?;
        if ssrc == *self.ssrc {
            return Some((Token::Packet(guard::sequence(rtp)?), number));
        }
        let has_padding = rtp.first()? & 0x20 != 0;
        let &[high, low] = rtp.get(header_len(rtp)?..)?.first_chunk()?;
        if ssrc == *self.rtx && !has_padding {
            return Some((Token::Again(u16::from_be_bytes([high, low])), number));
        }
        let octets = rtp.len().saturating_sub(header_len(rtp)? + TAG);
        let octets = u8::try_from(octets).unwrap_or(u8::MAX).max(1);
        Some((Token::Padding(octets), number))
    }
}

/// The codec that it seems to be of: it has to be one with retransmissions, by which
/// str0m probes where it can.
fn codec(codecs: &[PayloadType]) -> Option<&PayloadType> {
    let with_rtx = codecs.iter().find(|codec| codec.rtx.is_some());
    with_rtx.or_else(|| codecs.first())
}

fn random_ssrc(parity: u32) -> Ssrc {
    Ssrc::from((rand::random::<u32>() & !1) | parity | 2)
}

fn low(number: u64) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

/// Octets of the header of an RTP packet without contributing sources.
fn header_len(rtp: &[u8]) -> Option<usize> {
    let &[_, _, high, low] = rtp.get(HEADER..)?.first_chunk()?;
    Some(HEADER + 4 + 4 * usize::from(u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, ssrc: u32, body: &[u8]) -> Vec<u8> {
        let head = [first, 101, 0x12, 0x34, 0, 0, 0, 0];
        let extension = [0xbe, 0xde, 0, 1, 0x11, 0xab, 0xcd, 0];
        [&head[..], &ssrc.to_be_bytes(), &extension, body, &[0; TAG]].concat()
    }

    #[test]
    fn packets_of_str0m_are_told_apart() {
        let mut stand_in = StandIn::default();
        (stand_in.ssrc, stand_in.rtx) = (Ssrc::from(6), Ssrc::from(7));
        for (bytes, token) in [
            (packet(0x90, 6, &[1; 9]), Token::Packet(0x1234)),
            (packet(0x90, 7, &[0x56, 0x78, 1]), Token::Again(0x5678)),
            (packet(0xb0, 7, &[0; 100]), Token::Padding(100)),
            (packet(0xb0, 0, &[0; 240]), Token::Padding(240)),
        ] {
            assert_eq!(stand_in.read(&bytes), Some((token, 0xabcd)));
            for len in 0..bytes.len() {
                let _ = stand_in.read(&bytes[..len]);
            }
        }
        let mut without = packet(0x80, 6, &[1; 9]);
        without[0] = 0x80;
        assert_eq!(stand_in.read(&without), None);
    }

    #[test]
    fn what_a_packet_stood_for_is_known_for_a_while() {
        let mut stand_in = StandIn {
            next: 65_530,
            ..Default::default()
        };
        for index in 0..300 {
            stand_in.next += 1;
            if stand_in.stood_for.len() >= KEPT {
                stand_in.stood_for.pop_front();
            }
            stand_in.stood_for.push_back((1, index));
        }
        let number = |index: u64| low(65_530 + index);
        assert_eq!(stand_in.stood_for(number(299)), Some((1, 299)));
        assert_eq!(stand_in.stood_for(number(44)), Some((1, 44)));
        assert_eq!(stand_in.stood_for(number(43)), None);
        assert_eq!(stand_in.stood_for(number(300)), None);
    }

    #[test]
    fn its_ssrcs_are_two() {
        for _ in 0..100 {
            let (main, rtx) = (random_ssrc(0), random_ssrc(1));
            assert!(*main != *rtx && *main > 1 && *rtx > 1);
        }
    }
}
