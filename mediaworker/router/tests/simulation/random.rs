//! A small random number generator (xorshift64*), so that a seed is all that a failure needs.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Seeds differ in few bits and must not be 0.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from `low` up to and without `high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + (self.next() >> 16) % (high - low)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.range(0, 100) < chance
    }

    /// An element, `None` if there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        Some(from[self.range(0, from.len() as u64) as usize])
    }
}
