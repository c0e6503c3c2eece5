//! What data channels may cost: the messages that are held for a stream, and
//! what the messages of one client may make the worker do. Both are looked at
//! for each message, so neither depends on how many streams there are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{MAX_BACKLOG, MAX_BACKLOG_MESSAGES};

/// The messages that str0m holds for a stream.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Their lengths, oldest first.
    messages: VecDeque<usize>,
    bytes: usize,
}

impl Backlog {
    /// Messages that are held, as far as is known.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Takes out what is not held any more; `held` bytes still are. Answers how
    /// many messages that were.
    pub(super) fn shrink(&mut self, held: usize) -> usize {
        let before = self.messages.len();
        while let Some(oldest) = self.messages.front()
            && self.bytes - oldest >= held
        {
            self.bytes -= oldest;
            self.messages.pop_front();
        }
        before - self.messages.len()
    }

    /// Whether a message of this length may be held besides `held` bytes.
    pub(super) fn fits(&self, held: usize, len: usize) -> bool {
        held + len <= MAX_BACKLOG && self.messages.len() < MAX_BACKLOG_MESSAGES
    }

    /// A message is held from now on.
    pub(super) fn push(&mut self, len: usize) {
        self.messages.push_back(len);
        self.bytes += len;
    }
}

/// Packets with messages that one client may cause each second, counted once for
/// each data consumer: fifty thousand, about what a core writes in half of one.
const TIME_OF_A_PACKET: Duration = Duration::from_micros(20);
/// How far a client may be ahead of that: a second's worth at once.
const BURST: Duration = Duration::from_secs(1);
/// Bytes of a message that travel in one packet, about.
const PACKET: usize = 1200;

/// How much a client's messages have cost lately. What has been received is
/// always delivered: a client that is over its budget is not listened to for a
/// while, which to its SCTP looks like a congested network, so that it slows
/// down and nothing is lost on reliable channels.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When everything that was delivered has been paid for.
    paid: Option<Instant>,
}

impl Budget {
    /// A message went to so many data consumers.
    pub(super) fn charge(&mut self, now: Instant, len: usize, consumers: usize) {
        let packets = (len / PACKET + 1).saturating_mul(consumers.max(1));
        let cost = TIME_OF_A_PACKET.saturating_mul(u32::try_from(packets).unwrap_or(u32::MAX));
        let from = self.paid.map_or(now, |paid| paid.max(now));
        self.paid = from.checked_add(cost).or(self.paid);
    }

    /// Whether no more may be taken in now.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.paid
            .is_some_and(|paid| paid.saturating_duration_since(now) > BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_follows_what_is_held() {
        let mut backlog = Backlog::default();
        for len in [100, 200, 300] {
            assert!(backlog.fits(backlog.bytes, len));
            backlog.push(len);
        }
        let mut gone = 0;
        for (held, messages) in [
            (600, 3),
            (501, 3),
            (500, 2),
            (301, 2),
            (300, 1),
            (1, 1),
            (0, 0),
        ] {
            gone += backlog.shrink(held);
            assert_eq!(backlog.len(), messages, "{held}");
            assert_eq!(gone, 3 - messages, "{held}");
        }
        assert_eq!(backlog.bytes, 0);
        assert!(!backlog.fits(MAX_BACKLOG - 10, 11));
        for _ in 0..MAX_BACKLOG_MESSAGES {
            backlog.push(1);
        }
        assert!(!backlog.fits(MAX_BACKLOG_MESSAGES, 1));
    }

    #[test]
    fn a_budget_is_spent_by_packets_and_consumers_and_fills_up_again() {
        let now = Instant::now();
        // (length, data consumers) → messages that fit into a burst.
        for (len, consumers, fit) in [
            (0, 0, 50_000),
            (1, 1, 50_000),
            (1, 100, 500),
            (1200, 1, 25_000),
            (262_144, 1, 228),
            (262_144, 100, 2),
        ] {
            let mut budget = Budget::default();
            let mut taken = 0;
            while !budget.is_spent(now) {
                budget.charge(now, len, consumers);
                taken += 1;
            }
            assert_eq!(taken, fit + 1, "{len} to {consumers}");
            let later = now + Duration::from_secs(1);
            assert!(!budget.is_spent(later), "{len} to {consumers}");
        }
        let mut budget = Budget::default();
        budget.charge(now, usize::MAX, usize::MAX);
        assert!(budget.is_spent(now));
    }
}
