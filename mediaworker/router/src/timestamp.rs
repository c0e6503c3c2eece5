//! A consumer's RTP timestamps: one offset per run, continuous from run to run.

use std::time::{Duration, Instant};

/// How far the distance of two capture times may be from the local time that passed. Beyond it a
/// sender report was wrong (or the client's clock was set), and the local time is used.
pub const CAPTURE_TRUST: Duration = Duration::from_secs(5);

/// How much faster than it was recorded what is replayed plays: fast enough that it is over within
/// a frame or two, and slow enough that two frames never get the same timestamp.
pub const REPLAY_SPEED: u32 = 32;

/// How far the newest frame must be ahead of the edge of a replay, in seconds, before nothing from
/// behind that edge can arrive any more.
const EDGE_KEPT: u32 = 60;

/// Longest step forward, in ticks: half of the number space, beyond which it would look backward.
const MAX_STEP: u32 = i32::MAX as u32;

/// What a timestamp was read from: a stream, and which source behind it (see
/// `Stream::epoch`). Within one of these the clock is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) stream: usize,
    pub(crate) epoch: u32,
}

/// The newest frame of a stream when a part of it is replayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) timestamp: u32,
    pub(crate) captured: Option<Instant>,
}

/// The newest frame that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    timestamp: u32,
    source: Source,
    captured: Option<Instant>,
    /// When its first packet was sent.
    at: Instant,
}

#[derive(Debug)]
pub(crate) struct Clock {
    rate: u32,
    initial: u32,
    /// Added to every input timestamp of the current run.
    offset: u32,
    /// Input timestamp up to which the current run was replayed. What is behind it is nearer to it
    /// than it was, by [`REPLAY_SPEED`].
    edge: Option<u32>,
    newest: Option<Sent>,
}

impl Clock {
    pub(crate) fn new(rate: u32, initial: u32) -> Self {
        Self {
            rate,
            initial,
            offset: 0,
            edge: None,
            newest: None,
        }
    }

    /// Starts a run at a frame with input timestamp `timestamp`.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        source: Source,
        timestamp: u32,
        captured: Option<Instant>,
    ) {
        let out = match &self.newest {
            None => self.initial,
            Some(sent) if sent.source == source => {
                let own = timestamp.wrapping_add(self.offset);
                // Equal: the run goes on within the same frame. Behind: the source was silent
                // for half of the number space.
                if is_behind(own, sent.timestamp) {
                    sent.timestamp.wrapping_add(1)
                } else {
                    own
                }
            }
            Some(sent) => {
                let passed = now.saturating_duration_since(sent.at);
                let step = match (sent.captured, captured) {
                    (Some(from), Some(to)) => captured_step(from, to, passed).unwrap_or(passed),
                    _ => passed,
                };
                sent.timestamp.wrapping_add(self.ticks(step).max(1))
            }
        };
        self.edge = None;
        self.offset = out.wrapping_sub(timestamp);
        self.newest = Some(Sent {
            timestamp: out,
            source,
            captured,
            at: now,
        });
    }

    /// Starts a run at a frame with input timestamp `timestamp`, which is replayed with all that
    /// follows up to the edge.
    pub(crate) fn start_replay(
        &mut self,
        now: Instant,
        source: Source,
        timestamp: u32,
        edge: Edge,
    ) {
        let before = self.newest.map(|sent| sent.timestamp);
        self.start(now, source, edge.timestamp, edge.captured);
        self.edge = Some(edge.timestamp);
        // There may be no room for all of it since the last frame that was sent.
        let first = self.place(timestamp);
        if let Some(before) = before.filter(|before| !is_behind(*before, first))
            && let Some(sent) = self.newest.as_mut()
        {
            let more = before.wrapping_add(1).wrapping_sub(first);
            self.offset = self.offset.wrapping_add(more);
            sent.timestamp = sent.timestamp.wrapping_add(more);
        }
    }

    fn place(&self, timestamp: u32) -> u32 {
        let out = timestamp.wrapping_add(self.offset);
        match self.edge {
            Some(edge) if is_behind(timestamp, edge) => {
                let back = edge.wrapping_sub(timestamp);
                out.wrapping_add(back - back / REPLAY_SPEED)
            }
            _ => out,
        }
    }

    /// The output timestamp of a packet of the current run.
    pub(crate) fn map(&mut self, now: Instant, timestamp: u32, captured: Option<Instant>) -> u32 {
        let out = self.place(timestamp);
        if let Some(sent) = self.newest.as_mut()
            && out != sent.timestamp
            && !is_behind(out, sent.timestamp)
        {
            *sent = Sent {
                timestamp: out,
                captured,
                at: now,
                ..*sent
            };
            // Else it would seem to be ahead again after half of the number space.
            let is_past = |edge| timestamp.wrapping_sub(edge) > self.rate.saturating_mul(EDGE_KEPT);
            if self.edge.is_some_and(is_past) {
                self.edge = None;
            }
        }
        out
    }

    fn ticks(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u32::try_from(ticks).unwrap_or(MAX_STEP).min(MAX_STEP)
    }
}

/// Time between two captures, nothing when the second one is earlier; `None` if it cannot be
/// trusted, given the local time that passed.
fn captured_step(from: Instant, to: Instant, passed: Duration) -> Option<Duration> {
    let ahead = to.saturating_duration_since(from);
    let behind = from.saturating_duration_since(to);
    let trusted = ahead.abs_diff(passed) <= CAPTURE_TRUST && behind <= CAPTURE_TRUST;
    trusted.then_some(ahead)
}

/// Whether `a` is before `b` on the circle of 32-bit timestamps.
fn is_behind(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > MAX_STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Source = Source {
        stream: 0,
        epoch: 0,
    };
    const B: Source = Source {
        stream: 1,
        epoch: 0,
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_frame_gets_the_initial_timestamp_and_the_rest_follows() {
        let now = Instant::now();
        let mut clock = Clock::new(90_000, u32::MAX - 10);
        clock.start(now, A, 5000, None);
        assert_eq!(clock.map(now, 5000, None), u32::MAX - 10);
        assert_eq!(clock.map(now, 8000, None), 2989);
        assert_eq!(clock.map(now, 4999, None), u32::MAX - 11);
    }

    #[test]
    fn the_same_source_resumes_with_its_own_clock() {
        for advanced in [0u32, 1, 900_000, MAX_STEP] {
            let now = Instant::now();
            let mut clock = Clock::new(90_000, 1000);
            let first = u32::MAX - 100;
            clock.start(now, A, first, None);
            clock.start(now + ms(3), A, first.wrapping_add(advanced), None);
            let out = clock.map(now + ms(3), first.wrapping_add(advanced), None);
            assert_eq!(out, 1000u32.wrapping_add(advanced));
        }
    }

    #[test]
    fn a_source_that_seems_to_go_back_is_set_one_tick_ahead() {
        let now = Instant::now();
        let mut clock = Clock::new(90_000, 1000);
        clock.start(now, A, 50_000, None);
        clock.start(now + ms(5), A, 49_999, None);
        assert_eq!(clock.map(now, 49_999, None), 1001);
        assert_eq!(clock.map(now, 50_999, None), 2001);
    }

    #[test]
    fn a_switch_is_placed_by_capture_times_if_both_are_known() {
        let now = Instant::now();
        // (captured of the old frame, of the new one, local time passed, expected ticks), in ms.
        let cases = [
            (Some(0), Some(40), 100, 3600),
            (Some(0), None, 100, 9000),
            (None, Some(40), 100, 9000),
            (None, None, 100, 9000),
            (None, None, 0, 1),
            (Some(40), Some(40), 100, 1),
            (Some(90), Some(40), 100, 1),
            (Some(0), Some(90_000), 100, 9000),
            (Some(90_000), Some(0), 100, 9000),
        ];
        for (old, new, passed, ticks) in cases {
            let mut clock = Clock::new(90_000, u32::MAX);
            clock.start(now, A, 77, old.map(|n| now + ms(n)));
            let later = now + ms(passed);
            clock.start(later, B, 4_000_000_000, new.map(|n| now + ms(n)));
            let out = clock.map(later, 4_000_000_000, None);
            assert_eq!(
                out.wrapping_sub(u32::MAX),
                ticks,
                "{old:?} {new:?} {passed}"
            );
        }
    }

    #[test]
    fn the_newest_frame_counts_and_its_first_packet() {
        let now = Instant::now();
        let mut clock = Clock::new(1000, 0);
        clock.start(now, A, 0, None);
        clock.map(now + ms(30), 30, None);
        // The second packet of that frame and a late one of an older frame change nothing.
        clock.map(now + ms(50), 30, None);
        clock.map(now + ms(60), 10, None);
        clock.start(now + ms(80), B, 500, None);
        assert_eq!(clock.map(now, 500, None), 80);
    }

    #[test]
    fn another_source_on_the_same_stream_is_a_switch() {
        let now = Instant::now();
        let mut clock = Clock::new(1000, 0);
        clock.start(now, A, 9, None);
        clock.start(now + ms(25), Source { epoch: 1, ..A }, 700_000, None);
        assert_eq!(clock.map(now, 700_000, None), 25);
    }

    #[test]
    fn a_replay_ends_where_the_stream_is() {
        let now = Instant::now();
        let edge = |timestamp| Edge {
            timestamp,
            captured: None,
        };
        let first = u32::MAX - 20_000;
        let at = |frame: u32| first.wrapping_add(frame * 3000);
        // A new consumer: from 25 frames ago to the newest, and on from there.
        let mut clock = Clock::new(90_000, 5);
        clock.start_replay(now, A, at(0), edge(at(25)));
        let outs: Vec<u32> = (0..=27).map(|n| clock.map(now, at(n), None)).collect();
        let steps: Vec<u32> = outs.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
        assert_eq!(outs[25], 5);
        assert!(steps[..25].iter().all(|step| (93..=94).contains(step)));
        assert_eq!(steps[25..], [3000, 3000]);
        assert_eq!(clock.map(now, at(7), None), outs[7], "late is the same");

        // One that had frame 20 and missed some keeps its clock.
        let mut clock = Clock::new(90_000, 5);
        clock.start(now, A, at(20), None);
        clock.start_replay(now, A, at(0), edge(at(25)));
        assert_eq!(clock.map(now, at(25), None), 15_005);
        let begin = clock.map(now, at(0), None);
        assert!(begin > 5 && begin < 15_005, "{begin}");

        // One that has missed nothing gets it all the same, a bit later than it was.
        let mut clock = Clock::new(90_000, 5);
        clock.start(now, A, at(25), None);
        clock.start_replay(now, A, at(0), edge(at(25)));
        assert_eq!(clock.map(now, at(0), None), 6);
        assert_eq!(clock.map(now, at(25), None), 6 + 25 * 3000 / REPLAY_SPEED);
    }

    #[test]
    fn the_edge_of_a_replay_is_forgotten_before_it_is_ahead_again() {
        let now = Instant::now();
        let mut clock = Clock::new(90_000, 0);
        let edge = Edge {
            timestamp: 90_000,
            captured: None,
        };
        clock.start_replay(now, A, 0, edge);
        let mut timestamp = 90_000u32;
        for n in 0..1000u32 {
            let out = clock.map(now, timestamp, None);
            assert_eq!(out, timestamp.wrapping_sub(90_000), "step {n}");
            timestamp = timestamp.wrapping_add(10_000_000);
        }
    }

    #[test]
    fn a_step_is_never_so_long_that_it_looks_backward() {
        let now = Instant::now();
        let mut clock = Clock::new(u32::MAX, 0);
        clock.start(now, A, 0, None);
        clock.start(now + Duration::from_secs(1_000_000), B, 0, None);
        assert_eq!(clock.map(now, 0, None), MAX_STEP);
    }
}
