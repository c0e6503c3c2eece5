//! RTCP (RFC 3550 §6, RFC 4585, RFC 5104): the reports and feedback that a
//! client sends, and what it heeds of the server's.

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const FORMAT_NACK: u8 = 1;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const CNAME: u8 = 1;
/// Most report blocks of one packet: the count has five bits.
pub const MAX_BLOCKS: usize = 31;
/// Most entries of one NACK: what str0m reads of one.
const MAX_ENTRIES: usize = 31;
/// Seconds between the NTP epoch and 1970.
const NTP_OFFSET: u64 = 2_208_988_800;

/// True for RTCP, false for RTP (RFC 5761 §4).
pub fn is_rtcp(datagram: &[u8]) -> bool {
    datagram
        .get(1)
        .is_some_and(|kind| (192..=223).contains(kind))
}

/// What the server says that a client heeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Sender report: its stream, and the middle 32 bits of its NTP time.
    SenderReport {
        /// Stream.
        ssrc: u32,
        /// For the LSR field of receiver reports.
        middle: u32,
    },
    /// A packet of ours is missing.
    Nack {
        /// Stream.
        ssrc: u32,
        /// Sequence number.
        sequence: u16,
    },
    /// A keyframe is needed (PLI or FIR).
    KeyFrame {
        /// Stream.
        ssrc: u32,
    },
}

/// Reads a compound packet; what cannot be read is passed over.
pub fn read(mut compound: &[u8], mut heard: impl FnMut(Heard)) {
    while let Some((&[flags, kind, l0, l1], _)) = compound.split_first_chunk::<4>() {
        let len = 4 * (usize::from(u16::from_be_bytes([l0, l1])) + 1);
        let Some((packet, rest)) = compound.split_at_checked(len) else {
            return;
        };
        compound = rest;
        match (kind, flags & 0x1F) {
            (SENDER_REPORT, _) => {
                if let (Some(ssrc), Some(middle)) = (word(packet, 4), word(packet, 10)) {
                    heard(Heard::SenderReport { ssrc, middle });
                }
            }
            (TRANSPORT_FEEDBACK, FORMAT_NACK) => {
                let entries = packet.get(12..).unwrap_or_default().chunks_exact(4);
                for entry in entries {
                    if let (Some(ssrc), Some(value)) = (word(packet, 8), word(entry, 0)) {
                        nack_entry(ssrc, value, &mut heard);
                    }
                }
            }
            (PAYLOAD_FEEDBACK, FORMAT_PLI) => {
                if let Some(ssrc) = word(packet, 8) {
                    heard(Heard::KeyFrame { ssrc });
                }
            }
            (PAYLOAD_FEEDBACK, FORMAT_FIR) => {
                let entries = packet.get(12..).unwrap_or_default().chunks_exact(8);
                for ssrc in entries.filter_map(|entry| word(entry, 0)) {
                    heard(Heard::KeyFrame { ssrc });
                }
            }
            _ => {}
        }
    }
}

fn nack_entry(ssrc: u32, value: u32, heard: &mut impl FnMut(Heard)) {
    let [p0, p1, m0, m1] = value.to_be_bytes();
    let first = u16::from_be_bytes([p0, p1]);
    let mask = u16::from_be_bytes([m0, m1]);
    heard(Heard::Nack {
        ssrc,
        sequence: first,
    });
    for bit in (0..16).filter(|bit| mask >> bit & 1 == 1) {
        heard(Heard::Nack {
            ssrc,
            sequence: first.wrapping_add(bit + 1),
        });
    }
}

fn word(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

fn header(to: &mut Vec<u8>, count: u8, kind: u8, words_after: usize) {
    to.push(0x80 | count & 0x1F);
    to.push(kind);
    let words = u16::try_from(words_after).unwrap_or(u16::MAX);
    to.extend_from_slice(&words.to_be_bytes());
}

/// One stream in a receiver report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// Stream.
    pub ssrc: u32,
    /// Share lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Packets lost in all.
    pub lost: u32,
    /// Extended highest sequence number.
    pub highest: u32,
    /// Interarrival jitter, RTP clock.
    pub jitter: u32,
    /// Middle of the last sender report's time; 0 without one.
    pub last_report: u32,
    /// Since that report, in 65,536ths of a second.
    pub delay: u32,
}

/// Appends a receiver report of at most [`MAX_BLOCKS`] blocks.
pub fn write_receiver_report(to: &mut Vec<u8>, sender: u32, blocks: &[ReportBlock]) {
    let count = blocks.len().min(MAX_BLOCKS);
    header(
        to,
        u8::try_from(count).unwrap_or(0),
        RECEIVER_REPORT,
        1 + 6 * count,
    );
    to.extend_from_slice(&sender.to_be_bytes());
    for block in blocks.iter().take(MAX_BLOCKS) {
        let lost = block.lost.min(0x7F_FFFF) | u32::from(block.fraction_lost) << 24;
        for word in [
            block.ssrc,
            lost,
            block.highest,
            block.jitter,
            block.last_report,
            block.delay,
        ] {
            to.extend_from_slice(&word.to_be_bytes());
        }
    }
}

/// What a sender report says.
#[derive(Debug, Clone, Copy)]
pub struct SenderReport {
    /// Stream.
    pub ssrc: u32,
    /// Wall clock, nanoseconds since 1970.
    pub wall: u64,
    /// The RTP timestamp of that moment.
    pub timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Payload bytes sent.
    pub bytes: u32,
}

/// Appends a sender report without blocks, and the stream's CNAME.
pub fn write_sender_report(to: &mut Vec<u8>, report: &SenderReport, cname: &str) {
    header(to, 0, SENDER_REPORT, 6);
    to.extend_from_slice(&report.ssrc.to_be_bytes());
    to.extend_from_slice(&ntp(report.wall).to_be_bytes());
    for word in [report.timestamp, report.packets, report.bytes] {
        to.extend_from_slice(&word.to_be_bytes());
    }
    // A chunk ends with at least one zero octet, at a whole word.
    let name: &[u8] = cname.as_bytes();
    let name = name.get(..name.len().min(64)).unwrap_or_default();
    let words = (2 + name.len()) / 4 + 1;
    header(to, 1, SOURCE_DESCRIPTION, 1 + words);
    to.extend_from_slice(&report.ssrc.to_be_bytes());
    to.extend_from_slice(&[CNAME, u8::try_from(name.len()).unwrap_or(0)]);
    to.extend_from_slice(name);
    to.resize(to.len() + words * 4 - 2 - name.len(), 0);
}

/// NTP format of a wall clock.
fn ntp(wall: u64) -> u64 {
    let (seconds, rest) = (wall / 1_000_000_000, wall % 1_000_000_000);
    ((seconds + NTP_OFFSET) << 32) | ((rest << 32) / 1_000_000_000)
}

/// Appends NACKs for ascending sequence numbers.
pub fn write_nack(to: &mut Vec<u8>, sender: u32, ssrc: u32, missing: &[u16]) {
    let mut entries: Vec<(u16, u16)> = Vec::new();
    for &sequence in missing {
        if let Some((first, mask)) = entries.last_mut() {
            let distance = sequence.wrapping_sub(*first);
            if (1..=16).contains(&distance) {
                *mask |= 1 << (distance - 1);
                continue;
            }
        }
        entries.push((sequence, 0));
    }
    for entries in entries.chunks(MAX_ENTRIES) {
        header(to, FORMAT_NACK, TRANSPORT_FEEDBACK, 2 + entries.len());
        to.extend_from_slice(&sender.to_be_bytes());
        to.extend_from_slice(&ssrc.to_be_bytes());
        for (first, mask) in entries {
            to.extend_from_slice(&first.to_be_bytes());
            to.extend_from_slice(&mask.to_be_bytes());
        }
    }
}

/// Appends transport-wide feedback; `body`: all after the two SSRCs, in whole
/// words.
pub fn write_transport_feedback(to: &mut Vec<u8>, sender: u32, ssrc: u32, body: &[u8]) {
    const FORMAT: u8 = 15;
    header(to, FORMAT, TRANSPORT_FEEDBACK, 2 + body.len() / 4);
    to.extend_from_slice(&sender.to_be_bytes());
    to.extend_from_slice(&ssrc.to_be_bytes());
    to.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use str0m::rtp::rtcp::Rtcp;

    fn heard(packet: &[u8]) -> Vec<Heard> {
        let mut all = Vec::new();
        read(packet, |one| all.push(one));
        all
    }

    #[test]
    fn what_is_written_is_heard() {
        let mut out = Vec::new();
        let report = SenderReport {
            ssrc: 7,
            wall: 1_500_000_000,
            timestamp: 90_000,
            packets: 3,
            bytes: 300,
        };
        for cname in ["", "a", "ab", "abc", "abcd"] {
            write_sender_report(&mut out, &report, cname);
            assert_eq!(out.len() % 4, 0);
        }
        write_receiver_report(&mut out, 1, &[ReportBlock::default(); 40]);
        write_nack(&mut out, 1, 9, &[65_535, 0, 15, 16, 300]);
        let seconds = u32::try_from((NTP_OFFSET + 1) & 0xFFFF).unwrap();
        let middle = seconds << 16 | 0x8000;
        let mut expected = vec![Heard::SenderReport { ssrc: 7, middle }; 5];
        expected.extend([65_535, 0, 15, 16, 300].map(|sequence| Heard::Nack { ssrc: 9, sequence }));
        assert_eq!(heard(&out), expected);
        for cut in 0..out.len() {
            heard(&out[..cut]);
        }
    }

    /// What str0m makes of the packets of a compound one.
    fn parsed(mut compound: &[u8]) -> Vec<Rtcp> {
        let mut all = Vec::new();
        while let Some((head, _)) = compound.split_first_chunk::<4>() {
            let len = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
            let (packet, rest) = compound.split_at(len);
            all.push(Rtcp::try_from(packet).unwrap());
            compound = rest;
        }
        all
    }

    #[test]
    fn others_read_what_is_written() {
        let mut out = Vec::new();
        let block = ReportBlock {
            ssrc: 2,
            fraction_lost: 3,
            lost: 4,
            highest: 70_000,
            jitter: 6,
            last_report: 7,
            delay: 8,
        };
        write_receiver_report(&mut out, 1, &[block]);
        let missing: Vec<u16> = (0..40).map(|i| i * 20).collect();
        write_nack(&mut out, 1, 9, &missing);
        let report = SenderReport {
            ssrc: 7,
            wall: 1_500_000_000,
            timestamp: 90_000,
            packets: 3,
            bytes: 300,
        };
        write_sender_report(&mut out, &report, "rod");
        let all = parsed(&out);
        let [
            Rtcp::ReceiverReport(rr),
            Rtcp::Nack(first),
            Rtcp::Nack(second),
            Rtcp::SenderReport(sr),
            Rtcp::SourceDescription(_),
        ] = all.as_slice()
        else {
            panic!("{all:?}");
        };
        let got = rr.reports.get(0).unwrap();
        assert_eq!((*got.ssrc, got.fraction_lost, got.packets_lost), (2, 3, 4));
        assert_eq!((got.max_seq, got.jitter), (70_000, 6));
        assert_eq!((got.last_sr_time, got.last_sr_delay), (7, 8));
        assert_eq!((first.reports.len(), second.reports.len()), (31, 9));
        assert_eq!(*sr.sender_info.ssrc, 7);
        assert_eq!(sr.sender_info.sender_packet_count, 3);
    }

    #[test]
    fn both_kinds_of_keyframe_requests_are_heard() {
        let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 5];
        let fir = [
            0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6, 1, 0, 0, 0,
        ];
        let compound = [&pli[..], &fir].concat();
        let expected = [5, 6].map(|ssrc| Heard::KeyFrame { ssrc });
        assert_eq!(heard(&compound), expected);
    }

    #[test]
    fn rtcp_is_told_from_rtp() {
        assert!(is_rtcp(&[0x80, 200]));
        assert!(!is_rtcp(&[0x80, 96]));
        assert!(!is_rtcp(&[0x80, 0x80 | 101]));
        assert!(!is_rtcp(&[0x80]));
    }

    #[test]
    fn others_read_transport_wide_feedback() {
        let mut untold = congestion::Untold::default();
        let numbers = (0..60u16).filter(|n| ![3, 4, 20, 41].contains(n));
        for number in numbers {
            let at = 1_000_000 + i64::from(number % 7) * 100_000;
            untold.record(at, number.wrapping_add(65_500));
        }
        let mut packet = Vec::new();
        let body = untold.tell().unwrap();
        write_transport_feedback(&mut packet, 1, 2, &body);
        let Ok(Rtcp::Twcc(read)) = Rtcp::try_from(packet.as_slice()) else {
            panic!("str0m does not read {packet:?}");
        };
        assert_eq!((read.base_seq, read.status_count), (65_500, 60));
        assert_eq!((read.reference_time, read.delta.len()), (15, 56));
    }
}
