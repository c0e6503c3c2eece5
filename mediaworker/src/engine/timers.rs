//! When transports and routers want to be called.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{RouterKey, TransportKey};

/// Who wants to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A transport.
    Transport(TransportKey),
    /// A router's media graph.
    Router(RouterKey),
    /// A router that is to be reviewed.
    Review(RouterKey),
    /// A router whose consumers share what is available.
    Share(RouterKey),
    /// Datagrams that a throttle holds back.
    Throttle(TransportKey),
}

/// One time for each that has one; the earliest is found without a search.
#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Moves a timer from the time that its owner remembers to another.
    pub fn set(&mut self, timer: Timer, held: &mut Option<Instant>, next: Option<Instant>) {
        if *held == next {
            return;
        }
        if let Some(at) = held.take() {
            self.queue.remove(&(at, timer));
        }
        if let Some(at) = next {
            self.queue.insert((at, timer));
            *held = next;
        }
    }

    /// The earliest time.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out one timer that is due; its owner has to forget the time.
    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.remove(&(at, timer));
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmap::Key;
    use std::time::Duration;

    #[test]
    fn timers_move_and_leave_nothing_behind() {
        let now = Instant::now();
        let timer = Timer::Router(RouterKey::null());
        let (mut timers, mut held) = (Timers::default(), None);
        timers.set(timer, &mut held, Some(now + Duration::from_secs(2)));
        timers.set(timer, &mut held, Some(now + Duration::from_secs(1)));
        assert_eq!(timers.next(), Some(now + Duration::from_secs(1)));
        assert_eq!(timers.pop_due(now), None);
        timers.set(timer, &mut held, None);
        assert_eq!((timers.next(), held), (None, None));
        timers.set(timer, &mut held, Some(now));
        assert_eq!(timers.pop_due(now), Some(timer));
        assert_eq!(timers.next(), None);
    }
}
