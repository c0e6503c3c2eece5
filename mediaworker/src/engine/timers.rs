//! When transports and routers want to be called.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{RouterKey, TransportKey};

/// How long a look at all that a router sends waits for packets: once those have left, the caches
/// have what it looks at, and nobody wakes up for it.
const WAITS_FOR_PACKETS: Duration = Duration::from_millis(25);

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
    /// The same, because something is new.
    ShareSoon(RouterKey),
    /// Datagrams that a throttle holds back.
    Throttle(TransportKey),
}

impl Timer {
    /// How long it may wait once it is due.
    fn waits(self) -> Duration {
        match self {
            Self::Review(_) | Self::Share(_) => WAITS_FOR_PACKETS,
            Self::Transport(_) | Self::Router(_) | Self::ShareSoon(_) | Self::Throttle(_) => {
                Duration::ZERO
            }
        }
    }
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

    /// When one of them cannot wait any longer.
    pub fn next(&self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (at, timer) in &self.queue {
            if next.is_some_and(|next| next <= *at) {
                break;
            }
            let latest = *at + timer.waits();
            next = Some(next.map_or(latest, |next| next.min(latest)));
        }
        next
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

    #[test]
    fn what_waits_for_packets_wakes_nobody_up_until_it_is_late() {
        let now = Instant::now();
        let ms = |ms| now + Duration::from_millis(ms);
        let (router, transport) = (RouterKey::null(), TransportKey::null());
        let mut timers = Timers::default();
        let mut held = [None; 3];
        timers.set(Timer::Share(router), &mut held[0], Some(ms(10)));
        assert_eq!(timers.next(), Some(ms(10) + WAITS_FOR_PACKETS));
        assert_eq!(timers.pop_due(ms(9)), None);
        for (at, expected) in [(11, 11), (34, 34), (36, 35)] {
            let timer = Timer::Transport(transport);
            timers.set(timer, &mut held[1], Some(ms(at)));
            assert_eq!(timers.next(), Some(ms(expected)), "{at}");
        }
        timers.set(Timer::Review(router), &mut held[2], Some(ms(5)));
        assert_eq!(timers.next(), Some(ms(5) + WAITS_FOR_PACKETS));
        // With packets they have their turn in time.
        assert_eq!(timers.pop_due(ms(10)), Some(Timer::Review(router)));
        assert_eq!(timers.pop_due(ms(10)), Some(Timer::Share(router)));
        assert_eq!(timers.next(), Some(ms(36)));
    }
}
