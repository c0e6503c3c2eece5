//! The RTCP of a plain transport (RFC 3550 §6, RFC 4585, RFC 5104): what is made of
//! the remote's packets, and how ours are written. Every packet of ours is a whole
//! compound one, as a remote that knows no reduced-size RTCP (RFC 5506) wants it.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use rtcp_types::{
    Bye, Compound, Fir, Nack, Packet, Pli, ReceiverReport, ReportBlock, RtcpPacketWriter,
    RtcpPacketWriterExt, RtcpParseError, Sdes, SdesChunk, SdesItem, SenderReport,
};

use crate::transport::rtcp;
use crate::transport::rtcp::asking::{Block, Request, append_name, append_report, append_request};

/// Most that the remote's packets are heeded for in one datagram. It would take more
/// of them than a datagram has room for to exceed this.
const MAX_HEARD: usize = 512;

/// What the remote says that is heeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A sender report: its stream, wall clock (NTP) and RTP timestamp.
    Sender {
        /// Stream.
        ssrc: u32,
        /// Wall clock, 32.32 fixed point since 1900.
        ntp: u64,
        /// RTP timestamp of that moment.
        timestamp: u32,
    },
    /// How one of our streams arrives.
    Report {
        /// Stream.
        ssrc: u32,
        /// Packets lost in all, 24 bits with a sign.
        lost: u32,
        /// Highest sequence number, extended.
        highest: u32,
        /// Units of the RTP clock.
        jitter: u32,
        /// Middle of the wall clock of our last sender report; 0 without one.
        last_report: u32,
        /// Time since that, 65,536ths of a second.
        delay: u32,
    },
    /// Packets of one of our streams are missing.
    Nack {
        /// Stream.
        ssrc: u32,
        /// Which.
        sequences: Vec<u16>,
    },
    /// A Picture Loss Indication.
    Pli {
        /// Stream.
        ssrc: u32,
    },
    /// A Full Intra Request.
    Fir {
        /// Stream.
        ssrc: u32,
    },
}

/// Reads a compound packet.
///
/// # Errors
/// It is none, as a whole.
pub fn read(datagram: &[u8]) -> Result<Vec<Heard>, RtcpParseError> {
    let mut heard = Vec::new();
    let datagram = without_padding(datagram)?;
    for packet in Compound::parse(&datagram)? {
        match packet? {
            Packet::Sr(report) => {
                heard.push(Heard::Sender {
                    ssrc: report.ssrc(),
                    ntp: report.ntp_timestamp(),
                    timestamp: report.rtp_timestamp(),
                });
                heard.extend(report.report_blocks().map(block));
            }
            Packet::Rr(report) => heard.extend(report.report_blocks().map(block)),
            Packet::TransportFeedback(feedback) => {
                if let Ok(nack) = feedback.parse_fci::<Nack<'_>>() {
                    heard.push(Heard::Nack {
                        ssrc: feedback.media_ssrc(),
                        sequences: nack.entries().collect(),
                    });
                }
            }
            Packet::PayloadFeedback(feedback) => {
                if feedback.parse_fci::<Pli<'_>>().is_ok() {
                    let ssrc = feedback.media_ssrc();
                    heard.push(Heard::Pli { ssrc });
                } else if let Ok(fir) = feedback.parse_fci::<Fir<'_>>() {
                    heard.extend(fir.entries().map(|entry| Heard::Fir { ssrc: entry.ssrc() }));
                }
            }
            // Names, goodbyes and extended reports change nothing.
            _ => {}
        }
    }
    heard.truncate(MAX_HEARD);
    Ok(heard)
}

/// The datagram without the padding that its last packet may end with (RFC 3550 §6.4.1),
/// which `rtcp-types` would give out as more reports, or as packets that are missing.
fn without_padding(datagram: &[u8]) -> Result<Cow<'_, [u8]>, RtcpParseError> {
    let mut rest = datagram;
    while let &[first, _, high, low, ..] = rest {
        let words = u16::from_be_bytes([high, low]);
        let len = (usize::from(words) + 1) * 4;
        match rest.get(len..) {
            Some([]) if first & rtcp::PADDED != 0 => return cut(datagram, len, words),
            // What is malformed is for others to refuse.
            Some([]) | None => break,
            Some(after) => rest = after,
        }
    }
    Ok(Cow::Borrowed(datagram))
}

/// Cuts the padding of the last packet, which has `len` octets and says `words`.
fn cut(datagram: &[u8], len: usize, words: u16) -> Result<Cow<'_, [u8]>, RtcpParseError> {
    let padding = datagram.last().copied().unwrap_or(0);
    // Whole words, of which one, the header, is left at least.
    let left = words.checked_sub(u16::from(padding / 4));
    let left = left.filter(|_| padding != 0 && padding.is_multiple_of(4));
    let left = left.ok_or(RtcpParseError::InvalidPadding)?;
    let mut datagram = datagram.to_vec();
    let start = datagram.len() - len;
    datagram.truncate(datagram.len() - usize::from(padding));
    if let Some([first, _, length @ ..]) = datagram.get_mut(start..start + 4) {
        *first &= !rtcp::PADDED;
        length.copy_from_slice(&left.to_be_bytes());
    }
    Ok(Cow::Owned(datagram))
}

fn block(block: ReportBlock<'_>) -> Heard {
    Heard::Report {
        ssrc: block.ssrc(),
        lost: block.cumulative_lost(),
        highest: block.extended_sequence_number(),
        jitter: block.interarrival_jitter(),
        last_report: block.last_sender_report_timestamp(),
        delay: block.delay_since_last_sender_report_timestamp(),
    }
}

/// A receiver report with what is asked for; `from` and `name` are ours.
pub fn receiver_report(from: u32, name: &str, blocks: &[Block], ask: &[Request]) -> Vec<u8> {
    let mut compound = Vec::with_capacity(64);
    append_report(&mut compound, from, blocks);
    append_name(&mut compound, from, name);
    for request in ask {
        append_request(&mut compound, from, request);
    }
    compound
}

/// What a sender report says.
#[derive(Debug, Clone, Copy)]
pub struct SenderInfo {
    /// Stream.
    pub ssrc: u32,
    /// Wall clock, 32.32 fixed point since 1900.
    pub ntp: u64,
    /// The RTP timestamp of that moment.
    pub timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Octets of payload sent.
    pub octets: u32,
}

/// A sender report of one stream.
pub fn sender_report(info: &SenderInfo, name: &str) -> Vec<u8> {
    let report = SenderReport::builder(info.ssrc)
        .ntp_timestamp(info.ntp)
        .rtp_timestamp(info.timestamp)
        .packet_count(info.packets)
        .octet_count(info.octets);
    let compound = Compound::builder()
        .add_packet(report)
        .add_packet(description(info.ssrc, name));
    bytes(&compound)
}

/// A stream of ours has ended.
pub fn goodbye(ssrc: u32, name: &str) -> Vec<u8> {
    let compound = Compound::builder()
        .add_packet(ReceiverReport::builder(ssrc))
        .add_packet(description(ssrc, name))
        .add_packet(Bye::builder().add_source(ssrc));
    bytes(&compound)
}

fn description(ssrc: u32, name: &str) -> rtcp_types::SdesBuilder<'_> {
    let item = SdesItem::builder(SdesItem::CNAME, name);
    Sdes::builder().add_chunk(SdesChunk::builder(ssrc).add_item(item))
}

fn bytes(compound: &rtcp_types::CompoundBuilder<'_>) -> Vec<u8> {
    let mut bytes = vec![0; compound.calculate_size().unwrap_or(0)];
    // What is written here always fits its own size.
    let len = compound.write_into(&mut bytes).unwrap_or(0);
    bytes.truncate(len);
    bytes
}

/// NTP format of a wall clock.
pub fn ntp(wall: SystemTime) -> u64 {
    rtcp::ntp(wall.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::rtcp::asking::MAX_BLOCKS;
    use crate::transport::rtcp::middle;

    #[test]
    fn what_is_written_is_heard() {
        let now = UNIX_EPOCH + Duration::from_micros(1_700_000_000_250_000);
        let info = SenderInfo {
            ssrc: 7,
            ntp: ntp(now),
            timestamp: 9,
            packets: 3,
            octets: 300,
        };
        let heard = read(&sender_report(&info, "name")).unwrap();
        let sender = Heard::Sender {
            ssrc: 7,
            ntp: info.ntp,
            timestamp: 9,
        };
        assert_eq!(heard, [sender]);
        assert_eq!(read(&goodbye(7, "name")).unwrap(), []);

        let block = Block {
            ssrc: 5,
            fraction_lost: 1,
            lost: 1 << 40,
            highest: 70_000,
            jitter: 4,
            last_report: middle(info.ntp),
            delay: Duration::from_millis(500),
        };
        let sequences = vec![3, 4, 20, 65_535];
        let ask = [
            Request::Nack {
                ssrc: 5,
                sequences: sequences.clone(),
            },
            Request::Pli { ssrc: 6 },
            Request::Fir { ssrc: 8, number: 1 },
        ];
        for blocks in [&[block][..], &[block; 40]] {
            let heard = read(&receiver_report(1, "name", blocks, &ask)).unwrap();
            let report = Heard::Report {
                ssrc: 5,
                lost: 0x7F_FFFF,
                highest: 70_000,
                jitter: 4,
                last_report: block.last_report,
                delay: 32_768,
            };
            let mut expected = vec![report; blocks.len().min(MAX_BLOCKS)];
            expected.push(Heard::Nack {
                ssrc: 5,
                sequences: sequences.clone(),
            });
            expected.extend([Heard::Pli { ssrc: 6 }, Heard::Fir { ssrc: 8 }]);
            assert_eq!(heard, expected);
        }
        assert!(
            read(&receiver_report(1, "name", &[], &[]))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn padding_is_no_part_of_what_is_said() {
        let nack = |padding: &[u8]| {
            // A receiver report, and a NACK of two packets.
            let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 9];
            let words = u8::try_from(3 + padding.len() / 4).unwrap();
            compound.extend_from_slice(&[0xa1, 205, 0, words, 0, 0, 0, 9, 0, 0, 0, 7]);
            compound.extend_from_slice(&[0, 100, 0, 1]);
            compound.extend_from_slice(padding);
            read(&compound)
        };
        let heard = Heard::Nack {
            ssrc: 7,
            sequences: vec![100, 101],
        };
        for padding in [&[0, 0, 0, 4][..], &[0, 0, 0, 0, 0, 0, 0, 8]] {
            assert_eq!(nack(padding).unwrap(), std::slice::from_ref(&heard));
        }
        // None, no whole words, and more than there is.
        for padding in [0, 3, 24, 200] {
            assert!(nack(&[0, 0, 0, padding]).is_err(), "{padding}");
        }
        // A report that is there in its padding only.
        let report = [&[0xa1, 201, 0, 7, 0, 0, 0, 9][..], &[0; 23], &[24]].concat();
        assert!(read(&report).is_err());
    }

    #[test]
    fn nothing_that_comes_makes_it_panic() {
        let ask = [Request::Nack {
            ssrc: 5,
            sequences: (0..100).collect(),
        }];
        let good = receiver_report(1, "name", &[Block::default(); 3], &ask);
        for len in 0..good.len() {
            let _ = read(&good[..len]);
        }
        for at in 0..good.len() {
            for bits in 0..=255 {
                let mut bad = good.clone();
                bad[at] ^= bits;
                let _ = read(&bad);
            }
        }
        let mut random = 1u64;
        for _ in 0..200_000 {
            let noise: Vec<u8> = (0..random % 64)
                .map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    u8::try_from(random & 0xFF).unwrap()
                })
                .collect();
            let kind = 200 + u8::try_from(random % 8).unwrap();
            let head = [0x80 | u8::try_from(random % 32).unwrap(), kind];
            let words = u16::try_from(noise.len() / 4).unwrap();
            let packet = [&head[..], &words.to_be_bytes(), &noise].concat();
            let _ = read(&packet[..4 + usize::from(words) * 4]);
        }
    }
}
