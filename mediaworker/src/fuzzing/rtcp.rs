//! RTCP: what WebRTC clients and plain remotes say.

use std::collections::BTreeSet;

use crate::transport::plain::rtcp as plain;
use crate::transport::rtcp::asking::{Request, append_request};
use crate::transport::rtcp::{Heard, ReportBlock, SenderInfo, read};

/// Reads a compound packet as that of a WebRTC client and of a plain remote.
///
/// # Panics
/// When more is heard than was said, when it is not the same once it was written and
/// read again, or when the two readers do not agree.
pub fn rtcp(compound: &[u8]) {
    let mut heard = Heard::default();
    read(compound, &mut heard);
    check_bounds(&heard, compound.len());
    check_again(&heard);
    for said in plain::read(compound).unwrap_or_default() {
        assert!(is_heard(&heard, &said), "{said:?} is not in {heard:?}");
    }
}

/// Whether a WebRTC client would have been heard to say this, too.
fn is_heard(heard: &Heard, said: &plain::Heard) -> bool {
    match *said {
        plain::Heard::Sender {
            ssrc,
            ntp,
            timestamp,
        } => heard.senders.contains(&SenderInfo {
            ssrc,
            ntp,
            timestamp,
        }),
        plain::Heard::Report {
            ssrc,
            lost,
            highest,
            jitter,
            last_report,
            delay,
        } => heard.reports.contains(&ReportBlock {
            ssrc,
            lost,
            highest,
            jitter,
            last_report,
            delay,
        }),
        plain::Heard::Nack {
            ssrc,
            ref sequences,
        } => {
            let nacks: BTreeSet<_> = heard.nacks.iter().copied().collect();
            sequences.iter().all(|it| nacks.contains(&(ssrc, *it)))
        }
        plain::Heard::Pli { ssrc } => heard.plis.contains(&ssrc),
        plain::Heard::Fir { ssrc } => heard.firs.contains(&ssrc),
    }
}

fn check_bounds(heard: &Heard, len: usize) {
    assert!(heard.senders.len() <= len / 20);
    assert!(heard.reports.len() <= len / 24);
    assert!(heard.answers.len() <= len / 12);
    assert!(heard.plis.len() + heard.nack_messages.len() <= len / 12);
    assert!(heard.firs.len() <= len / 8);
    // An entry of four octets names up to seventeen packets.
    assert!(heard.nacks.len() <= len / 4 * 17);
    let feedback: usize = heard.feedback.iter().map(Vec::len).sum();
    assert!(heard.feedback.len() <= 4 && feedback <= len);
}

/// Asks for what was asked for.
fn check_again(heard: &Heard) {
    let mut packet = Vec::new();
    for &ssrc in &heard.plis {
        append_request(&mut packet, 1, &Request::Pli { ssrc });
    }
    for (&ssrc, number) in heard.firs.iter().zip((0..=u8::MAX).cycle()) {
        append_request(&mut packet, 1, &Request::Fir { ssrc, number });
    }
    for message in &heard.feedback {
        let message = message[..message.len() / 4 * 4].to_vec();
        append_request(&mut packet, 1, &Request::TransportCc { ssrc: 1, message });
    }
    for one in heard.nacks.chunk_by(|a, b| a.0 == b.0) {
        // A message counts its words in 16 bits.
        for some in one.chunks(1_000) {
            let sequences = some.iter().map(|(_, sequence)| *sequence).collect();
            let ssrc = some[0].0;
            append_request(&mut packet, 1, &Request::Nack { ssrc, sequences });
        }
    }
    if let Some(bitrate) = heard.bitrate {
        append_request(&mut packet, 1, &Request::Remb { ssrc: 1, bitrate });
    }
    let mut again = Heard::default();
    read(&packet, &mut again);
    assert_eq!(again.plis, heard.plis);
    assert_eq!(again.firs, heard.firs);
    let lens = |feedback: &[Vec<u8>]| feedback.iter().map(|it| it.len() / 4).collect::<Vec<_>>();
    assert_eq!(lens(&again.feedback), lens(&heard.feedback));
    let set = |nacks: &[(u32, u16)]| nacks.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(set(&again.nacks), set(&heard.nacks));
    match (again.bitrate, heard.bitrate) {
        // What is more than 64 bits hold is told as the most that has 18 of them.
        (Some(again), Some(u64::MAX)) => assert_eq!(again, 0x3_FFFF << 46),
        (again, bitrate) => assert_eq!(again, bitrate),
    }
}
