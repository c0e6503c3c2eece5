//! RTCP to one who sends: how its streams arrive, and what it is asked for (RFC 3550
//! §6.4.2, RFC 3611 §4.4, RFC 4585, RFC 5104).

use std::time::{Duration, Instant};

use super::{
    APPLICATION, EXTENDED_REPORT, FIR, NACK, PAYLOAD_FEEDBACK, PLI, RECEIVER_REPORT, REMB,
    TRANSPORT_CC, TRANSPORT_FEEDBACK, header, ntp, wall_clock, write_name,
};

/// Most report blocks of one packet: the count has five bits.
pub const MAX_BLOCKS: usize = 31;
/// Octets after which a packet is not added to.
const MAX_LEN: usize = 1_150;
/// Block type of an extended report: the time, for the other side to answer.
const REFERENCE_TIME: u8 = 4;

/// How a stream of the remote arrives.
#[derive(Debug, Clone, Copy, Default)]
pub struct Block {
    /// Stream.
    pub ssrc: u32,
    /// Share lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Packets lost in all.
    pub lost: u64,
    /// Highest sequence number, extended.
    pub highest: u32,
    /// Units of the RTP clock.
    pub jitter: u32,
    /// Middle of the wall clock of its last sender report; 0 without one.
    pub last_report: u32,
    /// Time since that came.
    pub delay: Duration,
}

/// What is asked of the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Packets again.
    Nack {
        /// Stream.
        ssrc: u32,
        /// Which, in order.
        sequences: Vec<u16>,
    },
    /// A keyframe, by a Picture Loss Indication.
    Pli {
        /// Stream.
        ssrc: u32,
    },
    /// A keyframe, by a Full Intra Request with this number.
    Fir {
        /// Stream.
        ssrc: u32,
        /// One more than in the last one.
        number: u8,
    },
    /// Not to send more than this, bits per second (draft-alvestrand-rmcat-remb-03).
    Remb {
        /// A stream of it.
        ssrc: u32,
        /// The limit.
        bitrate: u64,
    },
    /// Nothing: it is told which of its packets have arrived.
    TransportCc {
        /// A stream of it.
        ssrc: u32,
        /// What the recorder says.
        message: Vec<u8>,
    },
}

impl Request {
    /// Octets that it takes, at most.
    fn len(&self) -> usize {
        12 + match self {
            Self::Nack { sequences, .. } => 4 * sequences.len(),
            Self::Pli { .. } => 0,
            Self::Fir { .. } => 8,
            Self::Remb { .. } => 12,
            Self::TransportCc { message, .. } => message.len(),
        }
    }
}

/// Packets that say all of this, each short enough for any network. `from`: ours.
pub fn write_feedback(now: Instant, from: u32, blocks: &[Block], ask: &[Request]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut to = Vec::new();
    if !blocks.is_empty() {
        append_report(&mut to, from, blocks);
        append_time(&mut to, from, now);
    }
    for request in ask {
        if !to.is_empty() && to.len() + request.len() > MAX_LEN {
            packets.push(std::mem::take(&mut to));
        }
        append_request(&mut to, from, request);
    }
    if !to.is_empty() {
        packets.push(to);
    }
    packets
}

/// Appends a receiver report. What is beyond [`MAX_BLOCKS`] is left out.
pub fn append_report(to: &mut Vec<u8>, from: u32, blocks: &[Block]) {
    let blocks = blocks.get(..MAX_BLOCKS).unwrap_or(blocks);
    let count = u8::try_from(blocks.len()).unwrap_or(0);
    header(to, count, RECEIVER_REPORT, 1 + 6 * blocks.len());
    append(to, &[from]);
    for block in blocks {
        // The sum has 24 bits with a sign.
        let lost = u32::try_from(block.lost.min(0x7F_FFFF)).unwrap_or(0);
        let delay = block.delay.as_micros().saturating_mul(65_536) / 1_000_000;
        let words = [
            block.ssrc,
            u32::from(block.fraction_lost) << 24 | lost,
            block.highest,
            block.jitter,
            block.last_report,
            u32::try_from(delay).unwrap_or(u32::MAX),
        ];
        append(to, &words);
    }
}

/// Appends our name, as a compound packet has to have it.
pub fn append_name(to: &mut Vec<u8>, from: u32, name: &str) {
    write_name(to, from, name.as_bytes());
}

/// Appends the time, which the remote answers, so that the round trip is known (RFC
/// 3611 §4.4).
pub fn append_time(to: &mut Vec<u8>, from: u32, now: Instant) {
    header(to, 0, EXTENDED_REPORT, 4);
    append(to, &[from, u32::from(REFERENCE_TIME) << 24 | 2]);
    to.extend_from_slice(&ntp(wall_clock(now)).to_be_bytes());
}

/// Appends what is asked for.
pub fn append_request(to: &mut Vec<u8>, from: u32, request: &Request) {
    match request {
        Request::Nack { ssrc, sequences } => {
            let entries = nack_entries(sequences);
            header(to, NACK, TRANSPORT_FEEDBACK, 2 + entries.len());
            append(to, &[from, *ssrc]);
            append(to, &entries);
        }
        Request::Pli { ssrc } => {
            header(to, PLI, PAYLOAD_FEEDBACK, 2);
            append(to, &[from, *ssrc]);
        }
        // RFC 5104 §4.3.1.2: the stream is named within.
        Request::Fir { ssrc, number } => {
            header(to, FIR, PAYLOAD_FEEDBACK, 4);
            append(to, &[from, 0, *ssrc, u32::from(*number) << 24]);
        }
        Request::Remb { ssrc, bitrate } => {
            header(to, APPLICATION, PAYLOAD_FEEDBACK, 5);
            append(to, &[from, 0]);
            to.extend_from_slice(REMB);
            // One stream; six bits of exponent, eighteen of mantissa.
            let exponent = (64 - bitrate.leading_zeros()).saturating_sub(18);
            let mantissa = u32::try_from(bitrate >> exponent).unwrap_or(0x3_FFFF);
            append(to, &[1 << 24 | exponent << 18 | mantissa, *ssrc]);
        }
        Request::TransportCc { ssrc, message } => {
            let words = 2 + message.len() / 4;
            header(to, TRANSPORT_CC, TRANSPORT_FEEDBACK, words);
            append(to, &[from, *ssrc]);
            to.extend_from_slice(message);
        }
    }
}

fn append(to: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        to.extend_from_slice(&word.to_be_bytes());
    }
}

/// Entries of a generic NACK (RFC 4585 §6.2.1): a number, and a bit for each of the
/// sixteen after it.
fn nack_entries(sequences: &[u16]) -> Vec<u32> {
    let mut entries: Vec<u32> = Vec::new();
    let mut first = None;
    for &sequence in sequences {
        let behind = first.map(|first| sequence.wrapping_sub(first));
        match (behind, entries.last_mut()) {
            (Some(behind @ 1..=16), Some(entry)) => *entry |= 1 << (behind - 1),
            (Some(0), Some(_)) => {}
            _ => {
                entries.push(u32::from(sequence) << 16);
                first = Some(sequence);
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::super::{Heard, read};
    use super::*;

    fn heard(write: impl FnOnce(&mut Vec<u8>)) -> Heard {
        let (mut packet, mut heard) = (Vec::new(), Heard::default());
        write(&mut packet);
        read(&packet, &mut heard);
        heard
    }

    #[test]
    fn what_is_asked_for_is_heard() {
        let sequences: Vec<u16> = vec![65_530, 65_531, 10, 11, 12, 200];
        let ask = [
            Request::Nack {
                ssrc: 5,
                sequences: sequences.clone(),
            },
            Request::Pli { ssrc: 6 },
            Request::Fir { ssrc: 7, number: 3 },
            Request::TransportCc {
                ssrc: 8,
                message: vec![1, 2, 3, 4],
            },
        ];
        let heard = heard(|to| {
            append_report(to, 1, &[Block::default(); 40]);
            append_name(to, 1, "name");
            append_time(to, 1, Instant::now());
            for request in &ask {
                let before = to.len();
                append_request(to, 1, request);
                assert!(to.len() - before <= request.len(), "{request:?}");
            }
        });
        assert_eq!(heard.reports.len(), MAX_BLOCKS);
        let nacks: Vec<_> = sequences.into_iter().map(|it| (5, it)).collect();
        assert_eq!(heard.nacks, nacks);
        assert_eq!((heard.plis, heard.firs), (vec![6], vec![7]));
        assert_eq!(heard.feedback, [[1, 2, 3, 4]]);
    }

    #[test]
    fn a_block_says_what_it_is_given() {
        let block = Block {
            ssrc: 5,
            fraction_lost: 9,
            lost: 1 << 40,
            highest: 70_000,
            jitter: 4,
            last_report: 77,
            delay: Duration::from_millis(500),
        };
        let heard = heard(|to| append_report(to, 1, &[block]));
        let expected = super::super::ReportBlock {
            ssrc: 5,
            lost: 0x7F_FFFF,
            highest: 70_000,
            jitter: 4,
            last_report: 77,
            delay: 32_768,
        };
        assert_eq!(heard.reports, [expected]);
    }

    #[test]
    fn limits_are_as_near_as_they_can_be() {
        for bitrate in [0, 1, 300_000, 262_143, 262_144, 5_000_001, 10_000_000_000] {
            let heard = heard(|to| append_request(to, 1, &Request::Remb { ssrc: 2, bitrate }));
            let said = heard.bitrate.unwrap();
            assert!(
                said <= bitrate && said >= bitrate - bitrate / 100_000,
                "{bitrate} {said}"
            );
        }
    }

    #[test]
    fn others_read_what_is_written() {
        use str0m::rtp::rtcp::Rtcp;
        let mut packet = Vec::new();
        append_report(&mut packet, 1, &[Block::default()]);
        append_time(&mut packet, 1, Instant::now());
        let nack = Request::Nack {
            ssrc: 5,
            sequences: vec![1, 2, 40],
        };
        append_request(&mut packet, 1, &nack);
        append_request(&mut packet, 1, &Request::Fir { ssrc: 7, number: 3 });
        let bitrate = 1_000_000;
        append_request(&mut packet, 1, &Request::Remb { ssrc: 7, bitrate });
        let mut rest = packet.as_slice();
        let mut kinds = Vec::new();
        while let Some((head, _)) = rest.split_first_chunk::<4>() {
            let len = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
            let (one, after) = rest.split_at(len);
            kinds.push(match Rtcp::try_from(one).unwrap() {
                Rtcp::ReceiverReport(_) => "report",
                Rtcp::ExtendedReport(_) => "time",
                Rtcp::Nack(_) => "nack",
                Rtcp::Fir(_) => "fir",
                Rtcp::Remb(remb) if remb.bitrate == 1_000_000.0 => "remb",
                other => panic!("{other:?}"),
            });
            rest = after;
        }
        assert_eq!(kinds, ["report", "time", "nack", "fir", "remb"]);
    }
}
