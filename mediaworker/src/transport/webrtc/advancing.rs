//! How time passes in a transport's `Rtc`.

use std::time::{Duration, Instant};

use str0m::{Input, PacerReason, Reason, Rtc};

use super::{Output, WebRtcTransport};

/// Advances of str0m in one flush; what is left waits for the next tick.
const MAX_ADVANCES: usize = 1024;
/// When that is.
const NEXT_TICK: Duration = Duration::from_millis(1);

impl WebRtcTransport {
    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        out.state_changed |= self.ice.handle_timeout(now);
        if self.rtc_timeout.is_some_and(|t| t <= now) {
            self.flush(now, out);
        }
    }

    /// Advances str0m and sends what was queued.
    pub fn flush(&mut self, now: Instant, out: &mut Output) {
        // Where bandwidth is estimated, str0m gives out one packet for each
        // advance, and wants a microsecond to pass before the next one. It gets it
        // here and now: a picture leaves as one, not with one tick for each packet.
        let mut at = self.clock(now);
        for _ in 0..MAX_ADVANCES {
            let Some(rtc) = self.rtc.as_deref_mut() else {
                return;
            };
            // What came out last time may have to be settled before the next.
            if self.data.is_unsettled() {
                self.data.settle(rtc);
            }
            if let Err(error) = rtc.handle_input(Input::Timeout(at)) {
                out.failed = Some(error.to_string());
            }
            self.advanced = Some(at);
            self.drain(now, out);
            match self.rtc_timeout {
                _ if out.failed.is_some() => return,
                Some(next) if next <= at => {}
                Some(next) if self.has_more() => at = next,
                _ => return,
            }
        }
        // Not before others had their turn.
        self.rtc_timeout = Some(now + NEXT_TICK);
    }

    /// The time for str0m, which never goes back: what would, is ignored.
    pub(super) fn clock(&self, now: Instant) -> Instant {
        self.advanced.map_or(now, |advanced| advanced.max(now))
    }

    /// Whether str0m only waits to be called again.
    fn has_more(&self) -> bool {
        let reason = self.rtc.as_deref().map(Rtc::last_timeout_reason);
        reason == Some(Reason::Pacer(PacerReason::Immediate))
    }
}
