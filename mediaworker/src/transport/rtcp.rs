//! RTCP (RFC 3550, RFC 3611, RFC 4585, RFC 5104) with a client: what its reports and
//! requests say, and the sender reports that it gets. What a client is asked for, or told
//! of its own streams, is in [`asking`]. Transport-cc feedback is read and written by the
//! `congestion` crate.

pub mod asking;

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const EXTENDED_REPORT: u8 = 207;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
// Formats of transport feedback: generic NACK (RFC 4585 §6.2.1) and transport-cc.
const NACK: u8 = 1;
const TRANSPORT_CC: u8 = 15;
// Formats of payload-specific feedback: PLI, FIR and REMB (application layer feedback).
const PLI: u8 = 1;
const FIR: u8 = 4;
const APPLICATION: u8 = 15;
const REMB: &[u8] = b"REMB";
const CNAME: u8 = 1;
/// Block type of an extended report: answers to ours (RFC 3611 §4.5).
const DELAY: u8 = 5;
/// Most transport-cc messages of one datagram that are heeded: a few octets of each can
/// be about thousands of packets. Clients send one or two.
const MAX_FEEDBACK: usize = 4;
/// Most SSRCs of one goodbye: the count has five bits.
const MAX_SOURCES: usize = 31;
/// Most sender reports in one datagram, so that it passes any network.
const MAX_REPORTS: usize = 16;
/// The bit of a packet that ends with padding (RFC 3550 §6.4.1).
pub(super) const PADDED: u8 = 0x20;
/// Seconds between the NTP epoch and 1970.
const NTP_OFFSET: u64 = 2_208_988_800;

/// One stream in a receiver report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream.
    pub ssrc: u32,
    /// Packets lost in all, 24 bits with a sign.
    pub lost: u32,
    /// Highest sequence number, with the number of its cycles in the upper half.
    pub highest: u32,
    /// Units of the RTP clock.
    pub jitter: u32,
    /// Middle of the NTP time of the last sender report; 0 without one.
    pub last_report: u32,
    /// Since that report, in 65,536ths of a second.
    pub delay: u32,
}

/// What a sender report says of a stream of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// The stream.
    pub ssrc: u32,
    /// Wall clock, 32.32 fixed point since 1900.
    pub ntp: u64,
    /// RTP timestamp of that moment.
    pub timestamp: u32,
}

/// A client's answer to the time that it was told (RFC 3611 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Who told it.
    pub ssrc: u32,
    /// Middle of the NTP time that it was told.
    pub last_report: u32,
    /// Since then, in 65,536ths of a second.
    pub delay: u32,
}

/// What an RTCP packet says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Sender reports.
    pub senders: Vec<SenderInfo>,
    /// Answers to the times that we tell.
    pub answers: Vec<Answer>,
    /// Blocks of sender and receiver reports.
    pub reports: Vec<ReportBlock>,
    /// NACK messages: their SSRCs.
    pub nack_messages: Vec<u32>,
    /// Packets that NACKs name: SSRC and sequence number.
    pub nacks: Vec<(u32, u16)>,
    /// Picture loss indications: their SSRCs.
    pub plis: Vec<u32>,
    /// Full intra requests: their SSRCs.
    pub firs: Vec<u32>,
    /// What the client can receive, bits per second.
    pub bitrate: Option<u64>,
    /// Transport-cc feedback messages: what follows their SSRCs.
    pub feedback: Vec<Vec<u8>>,
}

/// Reads a compound packet up to the first malformed part.
pub fn read(mut compound: &[u8], said: &mut Heard) {
    while let &[first, kind, high, low, ..] = compound {
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let Some((packet, rest)) = compound.split_at_checked(len) else {
            return;
        };
        compound = rest;
        let Some(packet) = without_padding(packet) else {
            return;
        };
        match kind {
            SENDER_REPORT => {
                said.senders.extend(read_sender(packet));
                read_blocks(packet.get(28..), first & 0x1f, said);
            }
            EXTENDED_REPORT => read_answers(packet.get(8..), said),
            RECEIVER_REPORT => read_blocks(packet.get(8..), first & 0x1f, said),
            TRANSPORT_FEEDBACK | PAYLOAD_FEEDBACK => {
                let (Some(ssrc), Some(body)) = (word(packet, 8), packet.get(12..)) else {
                    continue;
                };
                read_feedback(kind, first & 0x1f, ssrc, body, said);
            }
            _ => {}
        }
    }
}

/// A packet without the padding that it may end with: what is in there would be taken for
/// more reports, or for packets that are missing. `None`: it says that it has more than
/// it is long.
fn without_padding(packet: &[u8]) -> Option<&[u8]> {
    if packet.first()? & PADDED == 0 {
        return Some(packet);
    }
    let padding = usize::from(*packet.last()?);
    let len = packet.len().checked_sub(padding.max(1))?;
    packet.get(..len).filter(|it| it.len() >= 4)
}

fn word(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

fn read_sender(packet: &[u8]) -> Option<SenderInfo> {
    Some(SenderInfo {
        ssrc: word(packet, 4)?,
        ntp: u64::from(word(packet, 8)?) << 32 | u64::from(word(packet, 12)?),
        timestamp: word(packet, 16)?,
    })
}

fn read_answers(blocks: Option<&[u8]>, said: &mut Heard) {
    let mut rest = blocks.unwrap_or_default();
    while let &[kind, _, high, low, ..] = rest {
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let Some((block, after)) = rest.split_at_checked(len) else {
            return;
        };
        rest = after;
        let answers = block.get(4..).filter(|_| kind == DELAY);
        let answers = answers.unwrap_or_default().chunks_exact(12);
        let read = |answer: &[u8]| {
            Some(Answer {
                ssrc: word(answer, 0)?,
                last_report: word(answer, 4)?,
                delay: word(answer, 8)?,
            })
        };
        said.answers.extend(answers.filter_map(read));
    }
}

fn read_blocks(blocks: Option<&[u8]>, count: u8, said: &mut Heard) {
    let blocks = blocks.unwrap_or_default().chunks_exact(24);
    let read = |block: &[u8]| {
        Some(ReportBlock {
            ssrc: word(block, 0)?,
            lost: word(block, 4)? & 0xFF_FFFF,
            highest: word(block, 8)?,
            jitter: word(block, 12)?,
            last_report: word(block, 16)?,
            delay: word(block, 20)?,
        })
    };
    said.reports
        .extend(blocks.take(count.into()).filter_map(read));
}

fn read_feedback(kind: u8, format: u8, ssrc: u32, body: &[u8], said: &mut Heard) {
    match (kind, format) {
        (TRANSPORT_FEEDBACK, NACK) => {
            said.nack_messages.push(ssrc);
            read_nack(ssrc, body, &mut said.nacks);
        }
        (TRANSPORT_FEEDBACK, TRANSPORT_CC) if said.feedback.len() < MAX_FEEDBACK => {
            said.feedback.push(body.to_vec());
        }
        (PAYLOAD_FEEDBACK, PLI) => said.plis.push(ssrc),
        (PAYLOAD_FEEDBACK, FIR) => {
            let entries = body.chunks_exact(8);
            said.firs.extend(entries.filter_map(|entry| word(entry, 0)));
        }
        (PAYLOAD_FEEDBACK, APPLICATION) if body.starts_with(REMB) => {
            // Six bits of exponent, eighteen of mantissa.
            let value = word(body, 4).unwrap_or(0) & 0xFF_FFFF;
            let (exponent, mantissa) = (value >> 18, u64::from(value & 0x3_FFFF));
            said.bitrate = Some(mantissa.checked_shl(exponent).map_or(u64::MAX, |shifted| {
                if shifted >> exponent == mantissa {
                    shifted
                } else {
                    u64::MAX
                }
            }));
        }
        _ => {}
    }
}

fn read_nack(ssrc: u32, entries: &[u8], named: &mut Vec<(u32, u16)>) {
    for entry in entries.chunks_exact(4) {
        let &[a, b, c, d] = entry else { continue };
        let (first, others) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        named.push((ssrc, first));
        let bits = (0..16).filter(|bit| others & (1 << bit) != 0);
        named.extend(bits.map(|bit| (ssrc, first.wrapping_add(bit + 1))));
    }
}

/// One moment on the clock of the process and on the wall.
static EPOCH: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    (Instant::now(), wall.unwrap_or_default())
});

/// Time since 1970, by one mapping for the whole process.
pub fn wall_clock(now: Instant) -> Duration {
    let (instant, wall) = *EPOCH;
    match now.checked_duration_since(instant) {
        Some(since) => wall + since,
        None => wall.saturating_sub(instant.saturating_duration_since(now)),
    }
}

/// NTP format of a time since 1970.
pub fn ntp(wall: Duration) -> u64 {
    let fraction = (u64::from(wall.subsec_nanos()) << 32) / 1_000_000_000;
    ((wall.as_secs() + NTP_OFFSET) << 32) | fraction
}

/// The wall clock of an NTP time; `None` for 0, with which a sender says that it has
/// none. Seconds start anew in 2036 (RFC 4330 §3).
pub fn wall(ntp: u64) -> Option<SystemTime> {
    if ntp == 0 {
        return None;
    }
    let era = if ntp >> 63 == 1 { 0 } else { 1 << 32 };
    let seconds = ((ntp >> 32) + era).checked_sub(NTP_OFFSET)?;
    let nanos = ((ntp & 0xFFFF_FFFF) * 1_000_000_000) >> 32;
    UNIX_EPOCH.checked_add(Duration::new(seconds, u32::try_from(nanos).ok()?))
}

/// The middle of an NTP time, as reports carry it.
pub fn middle(ntp: u64) -> u32 {
    u32::try_from((ntp >> 16) & 0xFFFF_FFFF).unwrap_or(0)
}

/// The round trip that an answer shows (RFC 3550 §6.4.1). `last_report`: the middle of
/// our time that is answered; `None` for 0, which is none. `delay`: how long the answer
/// took, in 65,536ths of a second.
fn round_trip(now: Instant, last_report: u32, delay: u32) -> Option<Duration> {
    if last_report == 0 {
        return None;
    }
    let now = middle(ntp(wall_clock(now)));
    let units = now.wrapping_sub(last_report).wrapping_sub(delay);
    // A clock that runs a little fast on the other side makes it negative.
    let units = u64::try_from(units.cast_signed()).unwrap_or(0);
    Some(Duration::from_micros(units * 1_000_000 / 65_536))
}

impl ReportBlock {
    /// The round trip that it shows; `None` when it answers no sender report.
    pub fn round_trip(&self, now: Instant) -> Option<Duration> {
        round_trip(now, self.last_report, self.delay)
    }
}

impl Answer {
    /// The round trip that it shows.
    pub fn round_trip(&self, now: Instant) -> Option<Duration> {
        round_trip(now, self.last_report, self.delay)
    }
}

/// What a sender report says of a stream.
#[derive(Debug, Clone, Copy)]
pub struct SenderReport {
    /// The stream.
    pub ssrc: u32,
    /// The RTP timestamp of the time of the report.
    pub timestamp: u32,
    /// Packets sent, the low 32 bits.
    pub packets: u32,
    /// Octets of payload in them, the low 32 bits.
    pub octets: u32,
}

/// Compound packets of sender reports with the name of their source, a few to a datagram.
pub fn write_reports(now: Instant, cname: &str, reports: &[SenderReport]) -> Vec<Vec<u8>> {
    let time = ntp(wall_clock(now));
    let write = |reports: &[SenderReport]| {
        let mut to = Vec::with_capacity(1_200);
        for report in reports {
            header(&mut to, 0, SENDER_REPORT, 6);
            to.extend_from_slice(&report.ssrc.to_be_bytes());
            to.extend_from_slice(&time.to_be_bytes());
            for word in [report.timestamp, report.packets, report.octets] {
                to.extend_from_slice(&word.to_be_bytes());
            }
            write_name(&mut to, report.ssrc, cname.as_bytes());
        }
        to
    };
    reports.chunks(MAX_REPORTS).map(write).collect()
}

fn write_name(to: &mut Vec<u8>, ssrc: u32, name: &[u8]) {
    let name = name.get(..name.len().min(32)).unwrap_or_default();
    // A chunk ends with at least one zero octet, at a whole word.
    let words = (2 + name.len()) / 4 + 1;
    header(to, 1, SOURCE_DESCRIPTION, 1 + words);
    to.extend_from_slice(&ssrc.to_be_bytes());
    to.extend_from_slice(&[CNAME, u8::try_from(name.len()).unwrap_or(0)]);
    to.extend_from_slice(name);
    to.resize(to.len() + words * 4 - 2 - name.len(), 0);
}

/// Packets that say that streams have ended.
pub fn write_goodbyes(ssrcs: &[u32]) -> Vec<Vec<u8>> {
    let write = |ssrcs: &[u32]| {
        let mut to = Vec::with_capacity(4 + 4 * ssrcs.len());
        let count = u8::try_from(ssrcs.len()).unwrap_or(0);
        header(&mut to, count, GOODBYE, ssrcs.len());
        for ssrc in ssrcs {
            to.extend_from_slice(&ssrc.to_be_bytes());
        }
        to
    };
    ssrcs.chunks(MAX_SOURCES).map(write).collect()
}

fn header(to: &mut Vec<u8>, count: u8, kind: u8, words_after: usize) {
    let words = u16::try_from(words_after).unwrap_or(u16::MAX).to_be_bytes();
    to.extend_from_slice(&[0x80 | (count & 0x1f), kind]);
    to.extend_from_slice(&words);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, kind: u8, body: &[u8]) -> Vec<u8> {
        let words = u16::try_from(body.len() / 4).unwrap().to_be_bytes();
        [&[0x80 | first, kind, words[0], words[1]], body].concat()
    }

    fn nack(ssrc: u8, entries: &[[u8; 4]]) -> Vec<u8> {
        let body = [&[0, 0, 0, 9], &[0, 0, 0, ssrc], entries.concat().as_slice()].concat();
        packet(NACK, TRANSPORT_FEEDBACK, &body)
    }

    fn heard(compound: &[u8]) -> Heard {
        let mut said = Heard::default();
        read(compound, &mut said);
        said
    }

    #[test]
    fn transport_cc_feedback_is_handed_on() {
        let one = [&[0, 0, 0, 9, 0, 0, 0, 5][..], &[1, 0, 0, 1, 0, 0, 0, 7]].concat();
        let feedback = packet(TRANSPORT_CC, TRANSPORT_FEEDBACK, &one);
        let other = packet(NACK, TRANSPORT_FEEDBACK, &one);
        let said = heard(&[feedback.clone(), other, feedback].concat());
        let message = vec![1, 0, 0, 1, 0, 0, 0, 7];
        assert_eq!(said.feedback, [message.clone(), message]);
    }

    #[test]
    fn nacks_are_read_in_any_place_of_a_compound_packet() {
        let report = packet(1, 201, &[7; 28]);
        let one = nack(5, &[[0, 10, 0, 0]]);
        assert_eq!(heard(&one).nacks, [(5, 10)]);
        let wrapping = nack(6, &[[0xff, 0xff, 0x80, 0x03], [0, 20, 0, 0]]);
        let wanted = [(6, 65_535), (6, 0), (6, 1), (6, 15), (6, 20)];
        assert_eq!(heard(&wrapping).nacks, wanted);
        let all = heard(&[&report[..], &wrapping, &report, &one].concat());
        assert_eq!(all.nacks, [&wanted[..], &[(5, 10)]].concat());
        assert_eq!(all.nack_messages, [6, 5]);
        assert_eq!(all.reports.len(), 2);
        // Other feedback of the same kind or the same format.
        assert_eq!(heard(&packet(14, TRANSPORT_FEEDBACK, &[1; 16])).nacks, []);
        assert_eq!(heard(&packet(NACK, 207, &[1; 12])).nacks, []);
        let long = nack(5, &[[0, 10, 0, 0], [0, 30, 0, 0]]);
        for len in 0..long.len() {
            assert_eq!(heard(&long[..len]), Heard::default(), "{len}");
        }
    }

    #[test]
    fn requests_and_limits_are_read() {
        let pli = packet(PLI, PAYLOAD_FEEDBACK, &[0, 0, 0, 1, 0, 0, 0, 5]);
        let fir = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6, 1, 0, 0, 0];
        let fir = packet(FIR, PAYLOAD_FEEDBACK, &fir);
        let said = heard(&[pli, fir].concat());
        assert_eq!((said.plis, said.firs), (vec![5], vec![6]));
        // Exponent and mantissa of REMB, bits per second.
        for (value, bitrate) in [
            ([0x01, 0x00, 0x01 << 2, 0x00], 0x400),
            ([0x01, 0x04 | 0x01, 0x00, 0x00], 0x1_0000 << 1),
            ([0x01, 0xff, 0xff, 0xff], u64::MAX),
        ] {
            let body = [&[0, 0, 0, 1, 0, 0, 0, 0][..], REMB, &value, &[0, 0, 0, 5]].concat();
            let said = heard(&packet(APPLICATION, PAYLOAD_FEEDBACK, &body));
            assert_eq!(said.bitrate, Some(bitrate), "{value:x?}");
        }
        let other = [&[0, 0, 0, 1, 0, 0, 0, 0][..], b"ELSE", &[1, 2, 3, 4]].concat();
        let said = heard(&packet(APPLICATION, PAYLOAD_FEEDBACK, &other));
        assert_eq!(said.bitrate, None);
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for seconds in [1_700_000_000, 2_500_000_000] {
            let since = Duration::new(seconds, 250_000_000);
            assert_eq!(wall(ntp(since)), Some(UNIX_EPOCH + since));
        }
        assert_eq!(wall(0), None);
    }

    #[test]
    fn what_a_sender_says_is_read() {
        let info = [&[0, 0, 0, 7][..], &[1; 8], &[0, 0, 0, 9], &[0; 8]].concat();
        let report = packet(0, SENDER_REPORT, &info);
        let answers = [
            &[4, 0, 0, 0][..],
            &[DELAY, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7],
        ];
        let extended = packet(
            0,
            EXTENDED_REPORT,
            &[&[0, 0, 0, 7], answers.concat().as_slice()].concat(),
        );
        let said = heard(&[&report[..], &extended].concat());
        let sender = SenderInfo {
            ssrc: 7,
            ntp: 0x0101_0101_0101_0101,
            timestamp: 9,
        };
        assert_eq!(said.senders, [sender]);
        let answer = Answer {
            ssrc: 5,
            last_report: 6,
            delay: 7,
        };
        assert_eq!(said.answers, [answer]);
        for len in 0..extended.len() {
            assert_eq!(heard(&extended[..len]).answers, [], "{len}");
        }
    }

    #[test]
    fn round_trips_come_from_the_last_report() {
        let now = Instant::now();
        let sent = now + Duration::from_secs(100);
        let reports = [7, 8].map(|ssrc| SenderReport {
            ssrc,
            timestamp: 90_000,
            packets: 3,
            octets: 300,
        });
        let written = write_reports(sent, "name", &reports);
        let [datagram] = written.as_slice() else {
            panic!("{written:?}");
        };
        let last_report = word(datagram, 10).unwrap();
        let block = ReportBlock {
            ssrc: 7,
            lost: 0,
            highest: 0,
            jitter: 0,
            last_report,
            delay: 65_536,
        };
        let at = sent + Duration::from_millis(1_250);
        let time = block.round_trip(at).unwrap().as_micros();
        assert!((249_900..=250_100).contains(&time), "{time}");
        assert_eq!(block.round_trip(sent), Some(Duration::ZERO));
        let none = ReportBlock {
            last_report: 0,
            ..block
        };
        assert_eq!(none.round_trip(at), None);
    }

    #[test]
    fn padding_is_no_part_of_what_is_said() {
        let nacks = |padding: &[u8]| {
            let entry = [0, 0, 0, 9, 0, 0, 0, 7, 0, 100, 0, 1];
            let body = [&entry[..], padding].concat();
            heard(&packet(0x20 | NACK, TRANSPORT_FEEDBACK, &body)).nacks
        };
        let named = [(7, 100), (7, 101)];
        assert_eq!(nacks(&[0, 0, 0, 4]), named);
        assert_eq!(nacks(&[0, 0, 0, 0, 0, 0, 0, 8]), named);
        // More than there is.
        assert_eq!(nacks(&[0, 0, 0, 200]), []);
    }

    #[test]
    fn others_read_what_is_written() {
        use str0m::rtp::rtcp::Rtcp;
        let report = |ssrc| SenderReport {
            ssrc,
            timestamp: 1,
            packets: 2,
            octets: 3,
        };
        for cname in ["", "a", "ab", "abc", "abcd"] {
            let reports: Vec<_> = (1..=20).map(report).collect();
            let written = write_reports(Instant::now(), cname, &reports);
            assert_eq!(written.len(), 2);
            for mut compound in written.iter().map(Vec::as_slice) {
                assert!(compound.len() <= 1_200);
                while let Some((head, _)) = compound.split_first_chunk::<4>() {
                    let len = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
                    let (packet, rest) = compound.split_at(len);
                    let packet = Rtcp::try_from(packet).unwrap();
                    if let Rtcp::SenderReport(sr) = packet {
                        assert_eq!(sr.sender_info.sender_packet_count, 2);
                        assert_eq!(sr.sender_info.sender_octet_count, 3);
                    }
                    compound = rest;
                }
            }
        }
        let ssrcs: Vec<u32> = (0..40).collect();
        for packet in write_goodbyes(&ssrcs) {
            assert!(matches!(
                Rtcp::try_from(packet.as_slice()),
                Ok(Rtcp::Goodbye(_))
            ));
        }
    }
}
