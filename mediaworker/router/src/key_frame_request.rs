//! When a stream's producing client is asked for a keyframe.

use std::time::{Duration, Instant};

/// Least time between two requests for the same stream.
pub const KEY_FRAME_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct KeyFrameRequest {
    /// Somebody wants a keyframe, and that was not passed on yet.
    wanted: bool,
    last: Option<Instant>,
    /// How often the client was asked.
    pub(crate) asked: u32,
    /// The router holds this stream among those that wait for their deadline.
    pub(crate) waiting: bool,
}

impl KeyFrameRequest {
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// Nobody wants a keyframe any more: one came, or the producer was paused.
    pub(crate) fn clear(&mut self) {
        self.wanted = false;
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// When a wanted keyframe is to be asked for; `None` when it is not wanted, or was never
    /// asked for and so can be at once.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let last = self.last.filter(|_| self.wanted)?;
        Some(last + KEY_FRAME_INTERVAL)
    }

    /// Whether the client is to be asked now; if so, counts it as asked.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        if !self.wanted || self.deadline().is_some_and(|deadline| now < deadline) {
            return false;
        }
        self.wanted = false;
        self.last = Some(now);
        self.asked = self.asked.wrapping_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_wish_is_due_at_once_and_only_once() {
        let now = Instant::now();
        let mut request = KeyFrameRequest::default();
        assert!(!request.take_due(now));
        request.want();
        assert!(request.take_due(now));
        assert!(!request.take_due(now + 2 * KEY_FRAME_INTERVAL));
    }

    #[test]
    fn wishes_within_the_interval_become_one_at_its_end() {
        let now = Instant::now();
        let mut request = KeyFrameRequest::default();
        request.want();
        assert!(request.take_due(now));
        request.want();
        request.want();
        assert_eq!(request.deadline(), Some(now + KEY_FRAME_INTERVAL));
        assert!(!request.take_due(now + KEY_FRAME_INTERVAL - MS));
        assert!(request.take_due(now + KEY_FRAME_INTERVAL));
        assert_eq!(request.deadline(), None);
    }

    #[test]
    fn a_keyframe_fulfils_the_wish_but_does_not_shorten_the_interval() {
        let now = Instant::now();
        let mut request = KeyFrameRequest::default();
        request.want();
        assert!(request.take_due(now));
        request.want();
        request.clear();
        assert_eq!(request.deadline(), None);
        assert!(!request.take_due(now + 2 * KEY_FRAME_INTERVAL));
        request.want();
        assert!(!request.take_due(now + KEY_FRAME_INTERVAL - MS));
    }
}
