//! A bad network on purpose: datagrams of one transport are held back, and some
//! of them lost, inside the worker; the host's network is never touched.
//!
//! Each direction is a link with a bit rate (a token bucket that saves up at most
//! [`BURST`]), a delay and random losses. What would wait for the link longer
//! than [`MAX_WAIT`], or as more than [`MAX_HELD`] datagrams, is dropped, as a
//! router with a full queue does. The order is kept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time for which an idle link saves up its rate.
const BURST: Duration = Duration::from_millis(10);
/// Longest wait for the link, its delay not counted; what would wait longer is
/// dropped.
pub const MAX_WAIT: Duration = Duration::from_millis(500);
/// Most datagrams held in one direction; more are dropped.
pub const MAX_HELD: usize = 4096;

/// What a link does to datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Conditions {
    /// Bits per second; 0 for unlimited.
    pub bitrate: u64,
    /// Time under way.
    pub delay: Duration,
    /// Share of datagrams that are lost, 0 to 1.
    pub loss: f64,
}

/// One direction, holding datagrams of any kind.
#[derive(Debug)]
pub struct Link<T> {
    conditions: Conditions,
    /// When everything that was accepted has passed the bucket.
    free: Option<Instant>,
    /// Each with the time at which it arrives, which never decreases.
    held: VecDeque<(Instant, T)>,
}

impl<T> Link<T> {
    /// A link without anything under way.
    pub fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            free: None,
            held: VecDeque::new(),
        }
    }

    /// Other conditions for what comes from now on. What is under way does not
    /// hold it up: it has waited under the old ones, however slow they were.
    pub fn set(&mut self, now: Instant, conditions: Conditions) {
        self.conditions = conditions;
        self.free = None;
        let latest = now + conditions.delay;
        for (at, _) in &mut self.held {
            *at = latest.min(*at);
        }
    }

    /// Takes a datagram of `len` octets; false when it is lost. `dice`: random,
    /// 0 to 1.
    pub fn push(&mut self, now: Instant, len: usize, dice: f64, datagram: T) -> bool {
        let Conditions {
            bitrate,
            delay,
            loss,
        } = self.conditions;
        if dice < loss || self.held.len() >= MAX_HELD {
            return false;
        }
        let mut passed = now;
        if bitrate > 0 {
            let saved = now.checked_sub(BURST).unwrap_or(now);
            let free = self.free.unwrap_or(saved).max(saved);
            if free.saturating_duration_since(now) > MAX_WAIT {
                return false;
            }
            let nanos = len as u128 * 8 * 1_000_000_000 / u128::from(bitrate);
            let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let Some(end) = free.checked_add(takes) else {
                return false;
            };
            self.free = Some(end);
            passed = end.max(now);
        }
        let arrival = passed + delay;
        // A delay that has just become shorter lets nothing overtake.
        let arrival = self.held.back().map_or(arrival, |(at, _)| arrival.max(*at));
        self.held.push_back((arrival, datagram));
        true
    }

    /// When the next datagram arrives.
    pub fn next(&self) -> Option<Instant> {
        self.held.front().map(|(at, _)| *at)
    }

    /// A datagram that has arrived.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.held.pop_front().map(|(_, datagram)| datagram)
    }

    /// Everything that is under way, in its order.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.held.drain(..).map(|(_, datagram)| datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Sends 100 datagrams of 125 octets (1,000 bits) a second for 10 seconds,
    /// `times` as many, and answers how many arrived in that time.
    fn arrive(link: &mut Link<u32>, start: Instant, times: usize) -> usize {
        let mut arrived = 0;
        for step in 0..1000u32 {
            let now = start + ms(10) * step;
            for _ in 0..times {
                link.push(now, 125, 1.0, step);
            }
            arrived += std::iter::from_fn(|| link.pop(now)).count();
        }
        arrived
    }

    #[test]
    fn rates_are_kept_whatever_is_offered() {
        let start = Instant::now();
        for (bitrate, times, low, high) in [
            (0, 5, 5000, 5000),
            (50_000, 1, 490, 510),
            (50_000, 20, 490, 510),
            (200_000, 5, 1980, 2010),
            // Room for all of it: nothing is lost.
            (200_000, 1, 990, 1000),
        ] {
            let mut link = Link::new(Conditions {
                bitrate,
                ..Conditions::default()
            });
            let arrived = arrive(&mut link, start, times);
            assert!((low..=high).contains(&arrived), "{bitrate}: {arrived}");
        }
    }

    #[test]
    fn a_full_queue_drops() {
        let now = Instant::now();
        let mut link = Link::new(Conditions {
            bitrate: 1_000_000,
            ..Conditions::default()
        });
        let accepted = (0..1000).filter(|n| link.push(now, 1250, 1.0, *n)).count();
        // 10 ms each: half a second, what the bucket had, and the one that ends it.
        assert_eq!(accepted, 52);
        let mut link = Link::new(Conditions {
            delay: ms(1000),
            ..Conditions::default()
        });
        let accepted = (0..10_000).filter(|n| link.push(now, 1, 1.0, *n)).count();
        assert_eq!(accepted, MAX_HELD);
        let mut slow = Link::new(Conditions {
            bitrate: 1,
            ..Conditions::default()
        });
        assert!(slow.push(now, 65_535, 1.0, 0));
        assert!(!slow.push(now, 65_535, 1.0, 1));
    }

    #[test]
    fn delay_and_loss_are_as_told_and_order_is_kept() {
        let now = Instant::now();
        let mut link = Link::new(Conditions {
            delay: ms(80),
            loss: 0.25,
            ..Conditions::default()
        });
        assert!(!link.push(now, 100, 0.249, 0));
        assert!(link.push(now, 100, 0.25, 1));
        assert_eq!(link.next(), Some(now + ms(80)));
        assert_eq!(link.pop(now + ms(79)), None);
        // What is under way does not wait longer than what comes after it.
        link.set(
            now,
            Conditions {
                delay: ms(10),
                ..Conditions::default()
            },
        );
        assert!(link.push(now + ms(1), 100, 0.0, 2));
        assert_eq!(link.pop(now + ms(9)), None);
        assert_eq!(link.pop(now + ms(11)), Some(1));
        assert_eq!(link.pop(now + ms(11)), Some(2));
        assert!(link.push(now + ms(81), 100, 0.0, 3));
        assert_eq!(link.drain().collect::<Vec<_>>(), [3]);
        assert_eq!(link.next(), None);
    }
}
