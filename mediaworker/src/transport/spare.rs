//! Buffers of packets that have been sent, for those that are sent next: the allocator
//! takes its time for what is as long as a packet.

/// Buffers that are kept: more than leave at a time, as a rule. And the longest, octets: a
/// packet is hardly longer.
const KEPT: usize = 128;
const LONGEST: usize = 2_048;

/// The buffers.
#[derive(Debug, Default)]
pub struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// An empty buffer. The one that was used last is the one that caches still have.
    pub fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes a buffer whose content is of no use any more.
    pub fn put(&mut self, mut buffer: Vec<u8>) {
        if self.0.len() < KEPT && buffer.capacity() <= LONGEST {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_neither_too_many_nor_too_long() {
        let mut spare = Spare::default();
        assert_eq!(spare.take().capacity(), 0);
        spare.put(vec![1; 1_200]);
        let again = spare.take();
        assert!(again.is_empty() && again.capacity() >= 1_200);
        spare.put(Vec::with_capacity(LONGEST + 1));
        for _ in 0..2 * KEPT {
            spare.put(vec![1; 100]);
        }
        assert_eq!(spare.0.len(), KEPT);
        assert!(spare.0.iter().all(|it| it.capacity() <= LONGEST));
    }
}
