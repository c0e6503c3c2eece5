//! Replay protection (RFC 3711 §3.3.2), and the index of a packet by its 16 bits
//! (§3.3.1). Only what is authentic is noted.

/// Indices below the highest one that are told apart.
const WINDOW: u64 = 128;

/// The packets of one stream.
#[derive(Debug, Default)]
pub struct Window {
    highest: Option<u64>,
    /// The lowest bit is the highest index.
    seen: u128,
}

impl Window {
    /// The index that 16 bits stand for: the nearest one to the highest so far.
    pub fn extend(&self, number: u16) -> u64 {
        let number = u64::from(number);
        let Some(highest) = self.highest else {
            return number;
        };
        let cycle = highest & !0xFFFF;
        let low = highest & 0xFFFF;
        match (low < 0x8000, number) {
            (true, number) if number > low + 0x8000 => {
                // Of the cycle before, unless there is none.
                cycle
                    .checked_sub(0x1_0000)
                    .map_or(number, |cycle| cycle + number)
            }
            (false, number) if number + 0x8000 < low => cycle + 0x1_0000 + number,
            _ => cycle + number,
        }
    }

    /// Whether this is not one that came before, and not too old to know.
    pub fn admits(&self, index: u64) -> bool {
        let Some(highest) = self.highest else {
            return true;
        };
        match highest.checked_sub(index) {
            None => true,
            Some(behind) if behind < WINDOW => self.seen >> behind & 1 == 0,
            Some(_) => false,
        }
    }

    /// It came.
    pub fn note(&mut self, index: u64) {
        let highest = *self.highest.get_or_insert(index);
        if let Some(ahead) = index.checked_sub(highest) {
            self.seen = if ahead < WINDOW {
                self.seen << ahead
            } else {
                0
            };
            self.seen |= 1;
            self.highest = Some(index);
        } else if highest - index < WINDOW {
            self.seen |= 1 << (highest - index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_once_and_none_that_is_too_old() {
        let mut window = Window::default();
        for (index, admitted) in [
            (1000, true),
            (1000, false),
            (999, true),
            (999, false),
            (1127, true),
            (1000, false),
            (1001, true),
            (999, false),
            (998, false),
            (5000, true),
            (5000 - 127, true),
            (5000 - 128, false),
        ] {
            assert_eq!(window.admits(index), admitted, "{index}");
            if admitted {
                window.note(index);
            }
        }
    }

    #[test]
    fn numbers_are_extended_the_nearest_way() {
        for (highest, number, index) in [
            (None, 7, 7),
            (Some(65_530), 3, 65_539),
            (Some(65_540), 65_530, 65_530),
            (Some(5), 65_530, 65_530),
            (Some(0x3_0000), 0xFFFF, 0x2_FFFF),
            (Some(0x3_9000), 0x8000, 0x3_8000),
        ] {
            let window = Window { highest, seen: 1 };
            assert_eq!(window.extend(number), index, "{highest:?} {number}");
        }
    }
}
