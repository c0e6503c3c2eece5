//! What holds whatever a receiver says, and however packets arrive: run on damaged
//! seeds by the tests below, and on much more by the targets in `fuzz/`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it is compiled for tests and for fuzzing only"
)]

use std::time::{Duration, Instant};

use crate::feedback::{Feedback, Status};
use crate::recorder::Untold;
use crate::{Controller, Limits};

/// Microseconds of a unit of a delta.
const DELTA: i64 = 250;
/// Units of a message's time, and how many of those there are.
const REFERENCE: i64 = 256;
const REFERENCES: i64 = 1 << 24;
/// Longest message that our recorder may write, octets: a packet has to hold it with
/// its header, and an SRTCP trailer.
const MAX_WRITTEN: usize = 1_100;

/// Reads a feedback message.
///
/// # Panics
/// When it is read wrongly.
pub fn feedback(message: &[u8]) {
    let Some(feedback) = Feedback::read(message) else {
        return;
    };
    let statuses: Vec<Status> = feedback.statuses().collect();
    assert!(feedback.count > 0 && statuses.len() <= usize::from(feedback.count));
    // Each that has arrived takes an octet or two.
    let taken = statuses.iter().map(|status| match status {
        Status::Arrived(delta) => {
            assert_eq!(delta % DELTA, 0);
            let units = delta / DELTA;
            assert!((-32_768..=32_767).contains(&units));
            1
        }
        Status::Missing | Status::Unknown => 0,
    });
    assert!(taken.sum::<usize>() <= message.len());
    // One that is cut off says less, and nothing else.
    for len in [message.len() / 2, message.len().saturating_sub(1)] {
        if let Some(short) = Feedback::read(&message[..len]) {
            let short: Vec<Status> = short.statuses().collect();
            assert!(statuses.starts_with(&short));
        }
    }
}

/// Records packets, four octets each: how much later than the one before, and its
/// number. What is told must be what was recorded.
///
/// # Panics
/// When it is not.
pub fn recorder(input: &[u8]) {
    let mut untold = Untold::default();
    let mut at = 0i64;
    for packet in input.chunks_exact(4) {
        let (step, number) = packet.split_at(2);
        let step = u16::from_be_bytes(step.try_into().unwrap());
        let number = u16::from_be_bytes(number.try_into().unwrap());
        // Up to 16 seconds, most of them short.
        at += i64::from(step & 0x3fff) << (step >> 14 << 1) << (step >> 15 << 2);
        untold.record(at, number);
        if step & 7 == 7 {
            tell(&mut untold);
        }
    }
    while !untold.is_empty() {
        tell(&mut untold);
    }
    assert_eq!(untold.tell(), None);
}

/// Has one message written, and compares it with what waited.
fn tell(untold: &mut Untold) {
    let mut waiting = untold.waiting().to_vec();
    waiting.sort_unstable();
    waiting.dedup_by_key(|(number, _)| *number);
    let message = untold.tell().unwrap();
    assert!(message.len() <= MAX_WRITTEN && message.len().is_multiple_of(4));
    let feedback = Feedback::read(&message).unwrap();
    let mut number = feedback.base;
    let mut clock = i64::from(feedback.reference) * REFERENCE;
    let mut told = Vec::new();
    for status in feedback.statuses() {
        if let Status::Arrived(delta) = status {
            clock += delta / DELTA;
            told.push((number, clock.rem_euclid(REFERENCES * REFERENCE)));
        }
        number = number.wrapping_add(1);
    }
    let expected = waiting.iter().map(|(number, at)| {
        let clock = (at / DELTA).rem_euclid(REFERENCES * REFERENCE);
        (u16::try_from(number & 0xffff).unwrap(), clock)
    });
    let expected: Vec<_> = expected.take(told.len()).collect();
    assert!(!told.is_empty());
    assert_eq!(told, expected);
    assert_eq!(untold.waiting(), &waiting[told.len()..]);
}

/// Sends packets and takes in feedback, as the input says: an octet for what, another
/// for how much.
///
/// # Panics
/// When the estimate leaves its limits, or a report makes no sense.
pub fn controller(mut input: &[u8]) {
    let limits = Limits {
        initial: 1_000_000,
        min: 30_000,
        max: 50_000_000,
    };
    let mut controller = Controller::new(limits);
    let mut now = Instant::now();
    while let Some((&[what, much], rest)) = input.split_first_chunk() {
        input = rest;
        match what % 8 {
            0..=2 => {
                for _ in 0..=what >> 3 {
                    controller.sent(now, 5 * usize::from(much));
                }
            }
            3 | 4 => {
                let message = &input[..usize::from(much).min(input.len())];
                input = &input[message.len()..];
                // It may have waited, and longer than another that came before it.
                let waited = Duration::from_millis(u64::from(much % 64));
                let came = now.checked_sub(waited).unwrap_or(now);
                if let Some(report) = controller.handle_feedback(came, message) {
                    assert!(
                        report.arrived <= 8_192 && report.lost <= 65_536,
                        "{report:?}"
                    );
                }
            }
            5 => now += Duration::from_millis(u64::from(much) << (what >> 5)),
            6 => match what >> 3 {
                0..4 => controller.want(u64::from(much) << 16),
                4..8 => controller.lower(now, u64::from(much) << 16),
                8..12 => controller.moved(now),
                _ => controller.cancel_probe(),
            },
            _ => {
                controller.probe(now);
                if let Some((at, _)) = controller.next_probe() {
                    now = now.max(at).min(now + Duration::from_secs(1));
                }
            }
        }
        let estimate = controller.estimate();
        assert!((limits.min..=limits.max).contains(&estimate), "{estimate}");
        if let Some(loss) = controller.loss(now) {
            assert!((0.0..=1.0).contains(&loss), "{loss}");
        }
        controller.round_trip();
        controller.queue_delay();
    }
}

#[cfg(test)]
mod tests {
    use test_inputs::{ROUNDS, run};

    #[test]
    fn feedback_is_read_within_its_bounds() {
        run("feedback", ROUNDS, super::feedback);
    }

    #[test]
    fn what_is_recorded_is_told() {
        run("recorder", ROUNDS, super::recorder);
    }

    #[test]
    fn the_estimate_stays_within_its_limits() {
        run("controller", ROUNDS, super::controller);
    }
}
