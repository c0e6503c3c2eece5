//! Whether anybody is at the address that a plain transport sends to.
//!
//! Many receivers say nothing for minutes, so silence means nothing. But the machine of one
//! that is gone says so (ICMP: port unreachable), and a router does for one whose machine is
//! gone. Anybody can make that up, so it is noted and nothing else.

use std::time::{Duration, Instant};

/// Time for which it holds that nobody is there. While something is sent, it is said again
/// every second or so.
const HOLDS: Duration = Duration::from_secs(10);

/// What is known of a remote.
#[derive(Debug, Default)]
pub struct Reach {
    /// When it was said last that nobody is there.
    unreachable: Option<Instant>,
}

impl Reach {
    /// Something that was sent found nobody. True if that is news.
    pub fn fail(&mut self, now: Instant) -> bool {
        self.unreachable.replace(now).is_none()
    }

    /// The remote has said something.
    pub fn heard(&mut self) {
        self.unreachable = None;
    }

    /// Lets time pass; true while nobody is there.
    pub fn is_lost(&mut self, now: Instant) -> bool {
        self.unreachable = self
            .unreachable
            .filter(|at| now.saturating_duration_since(*at) < HOLDS);
        self.unreachable.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_a_while_or_until_something_is_heard() {
        let start = Instant::now();
        let mut reach = Reach::default();
        assert!(!reach.is_lost(start));
        assert!(reach.fail(start));
        assert!(!reach.fail(start + HOLDS / 2));
        assert!(reach.is_lost(start + HOLDS), "it was said again");
        assert!(!reach.is_lost(start + HOLDS * 2));
        assert!(reach.fail(start + HOLDS * 2));
        reach.heard();
        assert!(!reach.is_lost(start + HOLDS * 2));
    }
}
