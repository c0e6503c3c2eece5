//! How time passes in a transport's `Rtc`.
//!
//! Where bandwidth is estimated, str0m's pacer gives out one packet for each advance
//! (`LeakyBucketPacer::needs_timeout_before_next_poll`), and advancing an `Rtc` walks
//! all of its streams several times. So here it is advanced exactly as often as there
//! are packets, and looked at in full only after the last one.

use std::time::{Duration, Instant};

use str0m::{Input, PacerReason, Reason, Rtc};

use super::{Output, WebRtcTransport};

/// Advances of str0m in one flush; what is left waits for the next tick.
const MAX_ADVANCES: usize = 1024;
/// When that is.
const NEXT_TICK: Duration = Duration::from_millis(1);
/// How much time has to pass for str0m from one packet to the next.
const PACKET_STEP: Duration = Duration::from_micros(1);
/// Longest time that the estimator goes without an advance of its own, in which it may
/// begin to probe. It wants one every 25 ms, but what it learns comes with feedback, and
/// with each packet it is advanced anyway.
const ESTIMATOR_STEP: Duration = Duration::from_millis(50);

/// What is known of how far str0m has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The time that str0m was advanced to: a packet or so ahead of the clock,
    /// microseconds.
    advanced: Option<Instant>,
    /// When str0m last said what it waits for, with nothing to send.
    settled: Option<Instant>,
    /// Something happened since then that may have it send at once: feedback, or a
    /// bitrate that is wanted.
    stirred: bool,
}

impl Progress {
    /// It may have something to send that it was not given.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }
}

impl WebRtcTransport {
    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        out.state_changed |= self.ice.handle_timeout(now);
        if self.rtc_timeout.is_some_and(|t| t <= now) {
            self.progress.stir();
            self.advance(now, out);
        }
        self.report(now, out);
    }

    /// Advances str0m and sends what was queued.
    pub fn flush(&mut self, now: Instant, out: &mut Output) {
        self.send_plain(now, out);
        self.advance(now, out);
        self.report(now, out);
    }

    /// Sends what was queued, where nothing but packets was.
    pub fn flush_packets(&mut self, now: Instant, out: &mut Output) {
        self.send_plain(now, out);
        if self.sending.awaits_numbers() {
            self.advance(now, out);
        }
        self.report(now, out);
    }

    /// Advances str0m: a picture leaves as one, not with one tick for each packet.
    fn advance(&mut self, now: Instant, out: &mut Output) {
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
            self.progress.advanced = Some(at);
            let drained = self.drain(now, out, true);
            if out.failed.is_some() {
                return;
            }
            if drained == Drained::NextPacket {
                at += PACKET_STEP;
                continue;
            }
            match self.rtc_timeout {
                Some(next) if next <= at => {}
                Some(next) if self.has_more() => {
                    if let Some(later) = self.may_wait(now) {
                        self.rtc_timeout = Some(later);
                        return;
                    }
                    at = next;
                }
                _ => {
                    // What still waits has been dropped by str0m.
                    self.sending.forget_waiting();
                    self.progress.settled = Some(now);
                    self.progress.stirred = self.is_probing();
                    let later = now + ESTIMATOR_STEP;
                    if self.is_idle() && self.is_connected() {
                        self.rtc_timeout = self.rtc_timeout.map(|next| next.max(later));
                    }
                    return;
                }
            }
        }
        // Not before others had their turn.
        self.rtc_timeout = Some(now + NEXT_TICK);
    }

    /// The time for str0m, which never goes back: what would, is ignored.
    pub(super) fn clock(&self, now: Instant) -> Instant {
        self.progress
            .advanced
            .map_or(now, |advanced| advanced.max(now))
    }

    /// Until when str0m's wish to be called again, because a packet left, may wait:
    /// it only looks whether to probe then.
    fn may_wait(&self, now: Instant) -> Option<Instant> {
        let later = self.progress.settled? + ESTIMATOR_STEP;
        let quiet = !self.progress.stirred && !self.sending.awaits_numbers();
        (quiet && later > now).then_some(later)
    }

    /// Whether str0m only waits to be called again.
    pub(super) fn has_more(&self) -> bool {
        self.waits_for() == Some(Reason::Pacer(PacerReason::Immediate))
    }

    /// Whether str0m is probing: then it is called exactly when it wants to be.
    fn is_probing(&self) -> bool {
        matches!(
            self.waits_for(),
            Some(Reason::Pacer(PacerReason::Probe1 | PacerReason::Probe2))
        )
    }

    /// Whether str0m only wants to look at the clock.
    fn is_idle(&self) -> bool {
        matches!(
            self.waits_for(),
            Some(Reason::BweDelayControl | Reason::Pacer(PacerReason::Handle))
        )
    }

    fn waits_for(&self) -> Option<Reason> {
        self.rtc.as_deref().map(Rtc::last_timeout_reason)
    }
}

/// How far a drain came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// A packet came out, and the next one wants an advance.
    NextPacket,
    /// Everything came out.
    Empty,
}
