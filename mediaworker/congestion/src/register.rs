//! What was sent: for each transport-cc number when, how many octets, and for which
//! probe.

use crate::probe::ProbeId;

/// Packets that are remembered at first, and at most: 1.6 s at 60 Mbit/s. Of more, the
/// oldest are forgotten, and what is reported of them is ignored.
const FIRST: usize = 128;
const MOST: usize = 8192;
/// For how long a packet that has arrived is remembered at least, microseconds; it is
/// counted how many left in that time.
const ARRIVED_FOR: i64 = 1_000_000;
/// The same for one of which nothing is known.
const UNKNOWN_FOR: i64 = 3_000_000;

/// What is known of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Sent,
    /// What was said of it has been lost.
    Untold,
    /// It has arrived.
    Arrived,
    /// It has not arrived.
    Lost,
}

/// A packet that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    /// When, microseconds.
    pub at: i64,
    /// Octets sent up to here, this one included, modulo 2^32.
    total: u32,
    /// Octets.
    pub len: u16,
    /// The probe that it is part of.
    pub probe: ProbeId,
    /// What became of it.
    pub fate: Fate,
}

const NOTHING: Packet = Packet {
    at: 0,
    total: 0,
    len: 0,
    probe: ProbeId::NONE,
    fate: Fate::Lost,
};

/// The newest packets, in a ring that grows as far as needed.
#[derive(Debug)]
pub(crate) struct Register {
    /// As many places as a power of two.
    ring: Vec<Packet>,
    /// Number of the next packet, and of the oldest that is remembered.
    next: u64,
    oldest: u64,
    total: u32,
    latest: i64,
}

impl Register {
    pub fn new() -> Self {
        Self {
            ring: Vec::new(),
            next: 0,
            oldest: 0,
            total: 0,
            latest: i64::MIN,
        }
    }

    /// The number of the next packet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// When the newest packet was sent, microseconds.
    pub fn latest(&self) -> i64 {
        self.latest
    }

    /// The number of the oldest packet that is remembered.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Notes that the next packet has been sent.
    pub fn push(&mut self, at: i64, len: usize, probe: ProbeId) {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.latest = self.latest.max(at);
        self.total = self.total.wrapping_add(len.into());
        self.make_room();
        let place = self.place(self.next);
        if let Some(place) = self.ring.get_mut(place) {
            *place = Packet {
                at: self.latest,
                total: self.total,
                len,
                probe,
                fate: Fate::Sent,
            };
        }
        self.next += 1;
    }

    fn make_room(&mut self) {
        let held = usize::try_from(self.next - self.oldest).unwrap_or(usize::MAX);
        if held < self.ring.len() {
            return;
        }
        let is_done = self.get(self.oldest).is_some_and(|packet| {
            let age = self.latest.saturating_sub(packet.at);
            age > UNKNOWN_FOR || (age > ARRIVED_FOR && packet.fate == Fate::Arrived)
        });
        if is_done || held >= MOST {
            self.oldest += 1;
            return;
        }
        let mut larger = vec![NOTHING; (2 * held).max(FIRST)];
        let mask = larger.len() - 1;
        for number in self.oldest..self.next {
            let packet = self.get(number).copied();
            let place = usize::try_from(number).unwrap_or(0) & mask;
            if let (Some(packet), Some(place)) = (packet, larger.get_mut(place)) {
                *place = packet;
            }
        }
        self.ring = larger;
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number).unwrap_or(0) & self.ring.len().wrapping_sub(1)
    }

    /// The packet that its last 16 bits name: the newest that was sent under them.
    pub fn extend(&self, low: u16) -> Option<u64> {
        let next = u16::try_from(self.next & 0xffff).unwrap_or(0);
        match next.wrapping_sub(low) {
            0 => None,
            behind => self.next.checked_sub(behind.into()),
        }
    }

    /// What is remembered of a packet.
    pub fn get(&self, number: u64) -> Option<&Packet> {
        let held = (self.oldest..self.next).contains(&number);
        self.ring.get(self.place(number)).filter(|_| held)
    }

    /// The same.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Packet> {
        let held = (self.oldest..self.next).contains(&number);
        let place = self.place(number);
        self.ring.get_mut(place).filter(|_| held)
    }

    /// Packets and octets that were sent after the one time and up to the other.
    pub fn sent_between(&self, from: i64, to: i64) -> (u64, u64) {
        let (begin, end) = (self.first_after(from), self.first_after(to));
        if end <= begin {
            return (0, 0);
        }
        let (Some(first), Some(last)) = (self.get(begin), self.get(end - 1)) else {
            return (0, 0);
        };
        let octets = last.total.wrapping_sub(first.total);
        (end - begin, u64::from(octets) + u64::from(first.len))
    }

    /// The first packet that was sent after a time, of those that are remembered.
    fn first_after(&self, time: i64) -> u64 {
        let (mut low, mut high) = (self.oldest, self.next);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(packet) if packet.at <= time => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_by_their_numbers_until_they_are_old() {
        let mut register = Register::new();
        assert_eq!(register.extend(0), None);
        for number in 0..70_000u64 {
            assert_eq!(register.next(), number);
            register.push(number as i64 * 1000, 100, ProbeId::NONE);
            let low = (number & 0xffff) as u16;
            assert_eq!(register.extend(low), Some(number));
            assert_eq!(register.get(number).unwrap().at, number as i64 * 1000);
            register.get_mut(number).unwrap().fate = Fate::Arrived;
        }
        assert!(register.get(69_000).is_some() && register.get(60_000).is_none());
        assert_eq!(register.get(70_000).map(|it| it.len), None);
        assert!(register.ring.len() <= 2048, "{}", register.ring.len());
    }

    #[test]
    fn what_nobody_reports_is_kept_for_longer_but_not_without_end() {
        let mut register = Register::new();
        for number in 0..20_000i64 {
            register.push(number, 100, ProbeId::NONE);
        }
        assert_eq!(register.ring.len(), MOST);
        assert!(register.get(20_000 - MOST as u64).is_some());
        assert!(register.get(20_000 - MOST as u64 - 1).is_none());
    }

    #[test]
    fn it_is_known_what_left_when() {
        let mut register = Register::new();
        for number in 0..1000i64 {
            register.push(number * 1000, 100, ProbeId::NONE);
        }
        assert_eq!(register.sent_between(500_000, 700_000), (200, 20_000));
        assert_eq!(register.sent_between(700_000, 500_000), (0, 0));
        assert_eq!(register.sent_between(-5, 10_000_000), (1000, 100_000));
        assert_eq!(Register::new().sent_between(0, 1), (0, 0));
    }
}
