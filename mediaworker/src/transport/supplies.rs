//! What packets that leave are made with: buffers that others have left behind, for the
//! allocator takes its time for what is as long as a packet; and the time that they carry,
//! which is the same for all that leave in a tick.

use std::time::Instant;

use super::rtcp;
use super::send::packet::Parts;

/// Buffers that are kept: more than leave at a time, as a rule. And the longest, octets: a
/// packet is hardly longer.
const KEPT: usize = 128;
const LONGEST: usize = 2_048;

/// The buffers and the time.
#[derive(Debug, Default)]
pub struct Supplies {
    /// For what is written of a packet before it is protected.
    pub(super) parts: Parts,
    buffers: Vec<Vec<u8>>,
    time: Option<(Instant, [u8; 3])>,
}

impl Supplies {
    /// A buffer, with whatever it held. The one that was used last is the one that caches still
    /// have.
    pub fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// Takes a buffer whose content is of no use any more.
    pub fn put(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < KEPT && buffer.capacity() <= LONGEST {
            self.buffers.push(buffer);
        }
    }

    /// The abs-send-time of what leaves now.
    pub fn send_time(&mut self, now: Instant) -> [u8; 3] {
        match self.time {
            Some((at, time)) if at == now => time,
            _ => {
                let time = abs_send_time(now);
                self.time = Some((now, time));
                time
            }
        }
    }
}

/// Seconds of the wall clock in 6.18 bits.
fn abs_send_time(now: Instant) -> [u8; 3] {
    let wall = rtcp::wall_clock(now);
    let fraction = (u64::from(wall.subsec_nanos()) << 18) / 1_000_000_000;
    let units = ((wall.as_secs() & 0x3f) << 18) | fraction;
    let [.., a, b, c] = units.to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn buffers_come_back_and_neither_too_many_nor_too_long() {
        let mut supplies = Supplies::default();
        assert_eq!(supplies.take().capacity(), 0);
        supplies.put(vec![1; 1_200]);
        assert!(supplies.take().capacity() >= 1_200);
        supplies.put(Vec::with_capacity(LONGEST + 1));
        for _ in 0..2 * KEPT {
            supplies.put(vec![1; 100]);
        }
        assert_eq!(supplies.buffers.len(), KEPT);
        assert!(supplies.buffers.iter().all(|it| it.capacity() <= LONGEST));
    }

    #[test]
    fn send_times_are_those_of_the_wall_clock() {
        let now = Instant::now();
        let mut supplies = Supplies::default();
        let mut units = |at| {
            let [a, b, c] = supplies.send_time(at);
            i64::from(u32::from_be_bytes([0, a, b, c]))
        };
        let (before, again) = (units(now), units(now));
        assert_eq!(before, again);
        let passed = (units(now + Duration::from_secs(65)) - before).rem_euclid(64 << 18);
        assert!((passed - (1 << 18)).abs() <= 1, "{passed}");
    }
}
