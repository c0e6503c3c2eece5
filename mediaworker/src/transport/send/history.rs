//! What a stream without RTX (RFC 4588) has sent lately, to be sent once more.
//!
//! A retransmission of such a stream is the very packet that was lost. It is kept
//! as it left, encrypted: under the same number and key another ciphertext would
//! give the authentication key away (RFC 7714 §8.1).

use crate::transport::guard;

/// Packets that are kept: 640 ms of Opus, later than a player waits for one. What
/// is older is not sent again. Few, because each consumer of audio has its own.
const KEPT: usize = 32;

/// The packets of one stream, each at the place that its sequence number gives.
#[derive(Debug)]
pub struct History {
    packets: Vec<Vec<u8>>,
    kept: usize,
}

impl Default for History {
    fn default() -> Self {
        Self::of(KEPT)
    }
}

impl History {
    /// Keeps this many packets, at least one.
    pub fn of(kept: usize) -> Self {
        Self {
            packets: Vec::new(),
            kept: kept.max(1),
        }
    }

    /// Keeps an SRTP packet, in the memory of the one that it takes the place of.
    pub fn keep(&mut self, rtp: &[u8]) {
        let Some(sequence) = guard::sequence(rtp) else {
            return;
        };
        if self.packets.is_empty() {
            self.packets.resize_with(self.kept, Vec::new);
        }
        if let Some(place) = self.packets.get_mut(usize::from(sequence) % self.kept) {
            place.clear();
            place.extend_from_slice(rtp);
        }
    }

    /// The packet with a sequence number.
    pub fn packet(&self, sequence: u16) -> Option<&[u8]> {
        let place = self.packets.get(usize::from(sequence) % self.kept)?;
        (guard::sequence(place) == Some(sequence)).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u16) -> Vec<u8> {
        let [high, low] = sequence.to_be_bytes();
        vec![0x80, 100, high, low, 0, 0, 0, 0, 0, 0, 0, 1, 0xAB]
    }

    #[test]
    fn the_newest_are_kept_over_the_wrap_around() {
        let mut history = History::default();
        assert_eq!(history.packet(0), None);
        for sequence in 65_500..=65_535 {
            history.keep(&packet(sequence));
        }
        for sequence in 0..100 {
            history.keep(&packet(sequence));
            let before = sequence.wrapping_sub(31);
            assert_eq!(history.packet(before), Some(&packet(before)[..]));
        }
        for (sequence, kept) in [
            (99, true),
            (68, true),
            (67, false),
            (65_535, false),
            (100, false),
            (99 + 32, false),
        ] {
            let wanted = kept.then(|| packet(sequence));
            assert_eq!(history.packet(sequence), wanted.as_deref(), "{sequence}");
        }
        history.keep(&[0x80]);
        assert_eq!(history.packets.len(), KEPT);
    }
}
