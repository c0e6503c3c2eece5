//! Transport-wide congestion control feedback, as the receiver writes it
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).

use super::rtp;

/// Arrivals kept for one report; more than that between two reports are left
/// out of it.
const MAX_ARRIVALS: usize = 2_000;
/// Longest range of one report, packets.
const MAX_RANGE: u64 = 2_500;
/// Resolution of deltas, nanoseconds.
const DELTA: i64 = 250_000;
/// Resolution of the reference time, in deltas: 64 ms.
const REFERENCE: i64 = 256;

/// What one packet's status takes: symbols of two bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Lost,
    Small(u8),
    Large(i16),
}

impl Status {
    fn symbol(self) -> u16 {
        match self {
            Self::Lost => 0,
            Self::Small(_) => 1,
            Self::Large(_) => 2,
        }
    }
}

/// The arrivals that have not been reported yet.
#[derive(Debug, Default)]
pub struct Arrivals {
    last: Option<u64>,
    /// First number of the next report.
    next: Option<u64>,
    pending: Vec<(u64, u64)>,
    count: u8,
}

impl Arrivals {
    /// Records a packet. `at`: nanoseconds of any clock that does not go back.
    pub fn record(&mut self, sequence: u16, at: u64) {
        // Far from 0, so that what is late may be lower than the first.
        let last = self.last.unwrap_or(1 << 32 | u64::from(sequence));
        let number = rtp::extend(last, sequence);
        self.last = Some(last.max(number));
        if self.pending.len() < MAX_ARRIVALS {
            self.pending.push((number, at));
        }
    }

    /// True when there is something to report.
    pub fn pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The body of the next report: what follows the two SSRCs.
    pub fn report(&mut self) -> Option<Vec<u8>> {
        self.pending.sort_unstable();
        self.pending.dedup_by_key(|(number, _)| *number);
        let &(first, _) = self.pending.first()?;
        let base = self.next.map_or(first, |next| next.min(first));
        let base = base.max(first.saturating_sub(MAX_RANGE));
        let earliest = self.pending.iter().map(|(_, at)| *at).min()?;
        let unit = i64::try_from(earliest).ok()? / DELTA;
        let reference = unit.div_euclid(REFERENCE);
        let mut clock = reference * REFERENCE;
        let mut statuses = Vec::new();
        for &(number, at) in &self.pending {
            if number - base >= MAX_RANGE {
                break;
            }
            while base + u64::try_from(statuses.len()).ok()? < number {
                statuses.push(Status::Lost);
            }
            let delta = i64::try_from(at).ok()? / DELTA - clock;
            let status = match (u8::try_from(delta), i16::try_from(delta)) {
                (Ok(small), _) => Status::Small(small),
                (_, Ok(large)) => Status::Large(large),
                // A pause of more than eight seconds goes into the next report.
                _ => break,
            };
            statuses.push(status);
            clock += delta;
        }
        self.next = Some(base + u64::try_from(statuses.len()).ok()?);
        let next = self.next?;
        self.pending.retain(|(number, _)| *number >= next);
        let body = encode(base, reference, self.count, &statuses);
        self.count = self.count.wrapping_add(1);
        Some(body)
    }
}

fn encode(base: u64, reference: i64, count: u8, statuses: &[Status]) -> Vec<u8> {
    let low = |number: u64| u16::try_from(number & 0xFFFF).unwrap_or(0);
    let mut body = Vec::with_capacity(16 + 3 * statuses.len());
    body.extend_from_slice(&low(base).to_be_bytes());
    body.extend_from_slice(&u16::try_from(statuses.len()).unwrap_or(0).to_be_bytes());
    let [_, time @ ..] = u32::try_from(reference & 0xFF_FFFF)
        .unwrap_or(0)
        .to_be_bytes();
    body.extend_from_slice(&time);
    body.push(count);
    let mut rest = statuses;
    while let Some(first) = rest.first() {
        let symbol = first.symbol();
        let run = rest.iter().take_while(|s| s.symbol() == symbol).count();
        let (chunk, taken) = if run > 7 || run == rest.len() {
            let run = run.min(0x1FFF);
            (symbol << 13 | u16::try_from(run).unwrap_or(0), run)
        } else {
            let symbols = rest.iter().map(|s| s.symbol()).chain([0; 7]).take(7);
            let vector = symbols.fold(0b11, |bits, symbol| bits << 2 | symbol);
            (vector, rest.len().min(7))
        };
        body.extend_from_slice(&chunk.to_be_bytes());
        rest = rest.get(taken..).unwrap_or_default();
    }
    for status in statuses {
        match status {
            Status::Lost => {}
            Status::Small(delta) => body.push(*delta),
            Status::Large(delta) => body.extend_from_slice(&delta.to_be_bytes()),
        }
    }
    body.resize(body.len().next_multiple_of(4), 0);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use str0m::rtp::rtcp::Rtcp;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_run_is_one_chunk() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.report(), None);
        for i in 0..10u16 {
            arrivals.record(65_530 + i.min(5), 640 * MS + u64::from(i.min(5)) * MS);
        }
        for i in 0..4u16 {
            arrivals.record(i, 646 * MS + u64::from(i) * MS);
        }
        let body = arrivals.report().unwrap();
        assert_eq!(body[..8], [0xFF, 0xFA, 0, 10, 0, 0, 10, 0]);
        assert_eq!(body[8..10], [0x20, 10]);
        assert_eq!(body[10..20], [0, 4, 4, 4, 4, 4, 4, 4, 4, 4]);
        assert_eq!(body.len(), 20);
        assert!(!arrivals.pending());
    }

    #[test]
    fn gaps_and_late_packets_are_told() {
        let mut arrivals = Arrivals::default();
        arrivals.record(1, 64 * MS);
        arrivals.record(4, 165 * MS);
        arrivals.record(3, 166 * MS);
        let body = arrivals.report().unwrap();
        assert_eq!(body[..8], [0, 1, 0, 4, 0, 0, 1, 0]);
        // Small, lost, large, large (backwards).
        assert_eq!(body[8..10], [0b1101_0010, 0b1000_0000]);
        assert_eq!(body[10], 0);
        assert_eq!(body[11..13], 408i16.to_be_bytes());
        assert_eq!(body[13..15], (-4i16).to_be_bytes());
        // The next report goes on from there, with what is missing.
        arrivals.record(6, 170 * MS);
        let body = arrivals.report().unwrap();
        assert_eq!(body[..4], [0, 5, 0, 2]);
        assert_eq!(body[7], 1);
    }

    #[test]
    fn others_read_what_is_written() {
        let mut arrivals = Arrivals::default();
        let numbers = (0..60u16).filter(|n| ![3, 4, 20, 41].contains(n));
        for number in numbers {
            let at = 1_000 * MS + u64::from(number % 7) * 100 * MS;
            arrivals.record(number.wrapping_add(65_500), at);
        }
        let mut packet = Vec::new();
        let body = arrivals.report().unwrap();
        crate::media::rtcp::write_transport_feedback(&mut packet, 1, 2, &body);
        let Ok(Rtcp::Twcc(read)) = Rtcp::try_from(packet.as_slice()) else {
            panic!("str0m does not read {packet:?}");
        };
        assert_eq!((read.base_seq, read.status_count), (65_500, 60));
        assert_eq!((read.reference_time, read.delta.len()), (15, 56));
    }

    #[test]
    fn a_long_pause_is_split() {
        let mut arrivals = Arrivals::default();
        arrivals.record(1, 0);
        arrivals.record(2, 20_000 * MS);
        assert_eq!(arrivals.report().unwrap()[..4], [0, 1, 0, 1]);
        assert!(arrivals.pending());
        assert_eq!(arrivals.report().unwrap()[..4], [0, 2, 0, 1]);
        assert!(!arrivals.pending());
    }
}
