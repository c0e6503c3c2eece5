//! Maps a sender's capture clock to local time, so that the sender reports we
//! write keep audio and video of one sender in sync (RFC 3550 §6.4.1).
//!
//! All streams of one transport come from one sender with one wall clock. One
//! offset between that clock and ours is enough for all of them, and because
//! they share it, an error in it shifts audio and video alike.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How fast the offset is let grow, to follow a remote clock that runs slower
/// than ours: 250 ppm, more than a quartz drifts and too little to be heard.
const DRIFT_PPM: u64 = 250;

/// Offset between the sender's wall clock and local time: the least seen delay
/// of a sender report.
#[derive(Debug, Default)]
pub struct SenderClock {
    anchor: Option<Anchor>,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    /// Sender's wall clock, since the Unix epoch…
    sender: Duration,
    /// …at this local time.
    local: Instant,
}

/// One sender report of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Wall clock of the sender.
    pub ntp: SystemTime,
    /// RTP timestamp at that moment.
    pub rtp: u32,
}

impl SenderClock {
    /// Takes in a report that arrived at `now`.
    pub fn handle_report(&mut self, now: Instant, ntp: SystemTime) {
        let Ok(sender) = ntp.duration_since(UNIX_EPOCH) else {
            return;
        };
        let fresh = Anchor { sender, local: now };
        let keep = self.anchor.filter(|anchor| {
            // Where would this report have arrived, had it been as quick as the
            // best one? If it was quicker still, it is the new measure.
            anchor.at(sender).is_some_and(|expected| {
                let age = now.saturating_duration_since(anchor.local);
                let drift = age * u32::try_from(DRIFT_PPM).unwrap_or(0) / 1_000_000;
                let late = now.saturating_duration_since(expected);
                expected <= now && late > drift && late < Duration::from_secs(10)
            })
        });
        self.anchor = Some(keep.unwrap_or(fresh));
    }

    /// Local time at which the sender captured what carries this RTP timestamp, never
    /// later than `now`. `None` before the first report.
    pub fn captured(
        &self,
        now: Instant,
        report: Report,
        rtp: u32,
        clock_rate: u32,
    ) -> Option<Instant> {
        let sender = report.ntp.duration_since(UNIX_EPOCH).ok()?;
        // Timestamps wrap around; the nearer way round is the right one.
        let ticks = rtp.wrapping_sub(report.rtp).cast_signed();
        let nanos = u64::from(ticks.unsigned_abs()) * 1_000_000_000;
        let distance = Duration::from_nanos(nanos.checked_div(u64::from(clock_rate))?);
        // More than an hour from its report: one of the two is nonsense.
        if distance > Duration::from_secs(3600) {
            return None;
        }
        let captured = if ticks >= 0 {
            sender.checked_add(distance)?
        } else {
            sender.checked_sub(distance)?
        };
        Some(self.anchor?.at(captured)?.min(now))
    }
}

impl Anchor {
    fn at(self, sender: Duration) -> Option<Instant> {
        if sender >= self.sender {
            self.local.checked_add(sender - self.sender)
        } else {
            self.local.checked_sub(self.sender - sender)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn audio_and_video_captured_together_map_to_the_same_local_time() {
        let start = Instant::now();
        let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut clock = SenderClock::default();
        // Audio's report is 20 ms under way, video's 70 ms.
        clock.handle_report(start + ms(1020), epoch + ms(1000));
        clock.handle_report(start + ms(1270), epoch + ms(1200));
        let audio = Report {
            ntp: epoch + ms(1000),
            rtp: 48_000,
        };
        let video = Report {
            ntp: epoch + ms(1200),
            rtp: 900_000,
        };
        let now = start + ms(2000);
        // Both captured at 1500 ms of the sender's clock.
        let a = clock.captured(now, audio, 48_000 + 24_000, 48_000).unwrap();
        let v = clock
            .captured(now, video, 900_000 + 27_000, 90_000)
            .unwrap();
        assert_eq!(a, v);
        assert_eq!(a, start + ms(1520));
    }

    #[test]
    fn a_quicker_report_is_the_new_measure_and_time_never_lies_ahead() {
        let start = Instant::now();
        let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut clock = SenderClock::default();
        clock.handle_report(start + ms(500), epoch);
        clock.handle_report(start + ms(1010), epoch + ms(1000));
        let report = Report {
            ntp: epoch + ms(1000),
            rtp: 0,
        };
        let at = |rtp, now| clock.captured(now, report, rtp, 1000).unwrap();
        assert_eq!(at(100, start + ms(5000)), start + ms(1110));
        assert_eq!(at(100, start + ms(1050)), start + ms(1050), "clamped");
    }

    #[test]
    fn a_slow_remote_clock_is_followed() {
        let start = Instant::now();
        let epoch = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut clock = SenderClock::default();
        // The remote clock loses 100 ppm; reports every 5 s for 10 hours.
        let mut last = (start, epoch);
        for i in 0..7200u32 {
            let local = start + Duration::from_secs(5) * i;
            let ntp = epoch + Duration::from_secs(5) * i - Duration::from_micros(500) * i;
            clock.handle_report(local, ntp);
            last = (local, ntp);
        }
        let report = Report {
            ntp: last.1,
            rtp: 0,
        };
        let error = last.0 - clock.captured(last.0, report, 0, 48_000).unwrap();
        assert!(error < ms(10), "{error:?}");
    }

    #[test]
    fn nonsense_gives_nothing() {
        let now = Instant::now();
        let mut clock = SenderClock::default();
        let report = Report {
            ntp: UNIX_EPOCH,
            rtp: 0,
        };
        assert_eq!(clock.captured(now, report, 0, 48_000), None);
        clock.handle_report(now, UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(clock.captured(now, report, 1 << 30, 48_00), None);
        assert_eq!(clock.captured(now, report, 1, 0), None);
    }
}
