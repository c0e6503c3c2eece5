//! What a stream with RTX (RFC 4588) has sent lately, to be sent once more.
//!
//! The producer's packet is shared with all other consumers, so only what is different is
//! kept for each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::packet::Source;

/// Packets that are kept, and for how long at least.
const KEPT: usize = 1024;
const KEPT_FOR: Duration = Duration::from_secs(3);
/// How often those that are too old are forgotten. The caches have forgotten them long before,
/// so one by one, with each packet that leaves, each is waited for.
const FORGET_EVERY: Duration = Duration::from_millis(200);

/// A packet that was sent.
#[derive(Debug)]
pub struct Sent {
    /// Its extended sequence number.
    pub sequence: u64,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Its marker bit.
    pub marker: bool,
    /// Its payload and extensions.
    pub source: Source,
    /// When it was sent.
    pub at: Instant,
}

/// The packets of one stream, by sequence number.
#[derive(Debug, Default)]
pub struct Resends {
    packets: VecDeque<Sent>,
    /// The highest sequence number that was kept: the last packet itself was sent too long ago for
    /// the caches.
    highest: Option<u64>,
    /// When some are forgotten next.
    forget_at: Option<Instant>,
}

impl Resends {
    /// Keeps a packet; those that are too many are forgotten, and now and then those that are
    /// too old.
    pub fn keep(&mut self, packet: Sent) {
        if self.forget_at.is_none_or(|at| at <= packet.at) {
            let old = |first: &Sent| packet.at.saturating_duration_since(first.at) > KEPT_FOR;
            while self.packets.front().is_some_and(old) {
                self.packets.pop_front();
            }
            self.forget_at = Some(packet.at + FORGET_EVERY);
        }
        if self.packets.len() >= KEPT {
            self.packets.pop_front();
        }
        if self.highest.is_none_or(|highest| highest < packet.sequence) {
            self.highest = Some(packet.sequence);
            self.packets.push_back(packet);
            return;
        }
        let place = self.place(packet.sequence);
        self.packets.insert(place, packet);
    }

    /// The newest packet.
    pub fn newest(&self) -> Option<&Sent> {
        self.packets.back()
    }

    /// The packet with a sequence number.
    fn packet(&self, sequence: u64) -> Option<&Sent> {
        let found = self.packets.get(self.place(sequence))?;
        (found.sequence == sequence).then_some(found)
    }

    /// The packet with the low bits of a sequence number.
    pub fn by_number(&self, number: u16) -> Option<&Sent> {
        let last = self.packets.back()?.sequence;
        let behind = u16::try_from(last & 0xffff).ok()?.wrapping_sub(number);
        self.packet(last.checked_sub(behind.into())?)
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.highest = None;
    }

    fn place(&self, sequence: u64) -> usize {
        self.packets
            .partition_point(|packet| packet.sequence < sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use router::Payload;

    use super::*;
    use crate::transport::packet::{Extensions, MediaPacket};

    fn packet(sequence: u64, at: Instant) -> Sent {
        let media = MediaPacket {
            ssrc: 1,
            sequence,
            timestamp: 0,
            marker: false,
            extensions: Extensions::default(),
            payload: [].into(),
            arrived: at,
        };
        Sent {
            sequence,
            timestamp: 0,
            marker: false,
            source: Source {
                packet: Rc::new(media),
                what: Payload::Same,
                frame_number: None,
            },
            at,
        }
    }

    #[test]
    fn what_is_new_enough_is_found_in_any_order() {
        let now = Instant::now();
        let mut resends = Resends::default();
        assert!(resends.by_number(1).is_none());
        for sequence in [65_534, 65_536, 65_535, 65_538] {
            resends.keep(packet(sequence, now));
        }
        for (number, sequence) in [
            (65_534, Some(65_534)),
            (65_535, Some(65_535)),
            (0, Some(65_536)),
            (1, None),
            (2, Some(65_538)),
            (3, None),
            (60_000, None),
        ] {
            let found = resends.by_number(number).map(|it| it.sequence);
            assert_eq!(found, sequence, "{number}");
        }
        let late = now + KEPT_FOR;
        resends.keep(packet(65_539, late));
        assert!(resends.packet(65_534).is_some());
        resends.keep(packet(65_540, late + FORGET_EVERY / 2));
        assert!(resends.packet(65_538).is_some(), "too old since a moment");
        resends.keep(packet(65_541, late + FORGET_EVERY));
        assert!(resends.packet(65_538).is_none(), "too old");
        assert!(resends.packet(65_539).is_some());
        for sequence in 70_000..72_000 {
            resends.keep(packet(sequence, now + KEPT_FOR));
        }
        assert_eq!(resends.packets.len(), KEPT);
        resends.clear();
        assert!(resends.packet(71_999).is_none());
        // What was forgotten is still the highest.
        resends.keep(packet(80_000, now));
        let later = now + 2 * KEPT_FOR;
        for sequence in [79_000, 79_001, 79_003, 79_002, 80_001] {
            resends.keep(packet(sequence, later));
        }
        let kept: Vec<u64> = resends.packets.iter().map(|it| it.sequence).collect();
        assert_eq!(kept, [79_000, 79_001, 79_002, 79_003, 80_001]);
    }
}
