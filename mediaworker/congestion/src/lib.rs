//! What can be sent to a receiver that tells of each packet when it arrived: Google's
//! congestion control (draft-ietf-rmcat-gcc-02) on the sending side, over transport-wide
//! feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).
//!
//! A [`Controller`] gives each packet its number, is told when it was sent
//! ([`Controller::sent`]) and what the receiver says of it
//! ([`Controller::handle_feedback`]), and answers an estimate, the loss, the round trip
//! and how long packets queue. When more is wanted than is known to pass, it says when
//! packets are to be sent to find out ([`Controller::next_probe`]).
//!
//! A [`Recorder`] is the other side of that: it writes the feedback of a receiver.
//!
//! Nothing in here has a clock, a socket or randomness: `now` is a parameter.
//!
//! - Delay says most: [`trend`] sees queues grow, and [`rate`] has the bitrate follow.
//!   A queue that grows fast is the link itself, which delivers what it can: that is
//!   looked at without a filter, see `Controller::starves`.
//! - All of that is by the receiver's clock, so feedback that is late, or lost, says
//!   nothing about the way of the packets.
//! - [`loss`] limits it only where much is lost.
//! - What is not used is not known: the estimate grows no further than 1.5 times of what
//!   arrives, unless [`probe`]s show that more passes.

mod arrivals;
mod feedback;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod loss;
mod probe;
mod rate;
mod recorder;
mod register;
mod trend;

use std::time::{Duration, Instant};

use arrivals::{Arrivals, Delay, Span};
use feedback::{Feedback, Status};
use loss::Loss;
use probe::Probes;
use rate::Rate;
pub use recorder::{Recorder, Untold};
use register::{Fate, Register};
use trend::{Trend, Usage};

/// A queue that says that a link is full, whatever the trend of the delays. Microseconds.
const FULL_QUEUE: i64 = 30_000;
/// The same for a link that has become too narrow.
const LONG_QUEUE: i64 = 50_000;
/// What waits for longer has found the link busy.
const BUSY_QUEUE: i64 = 10_000;
/// Time in which it is never idle, so that it shows what it carries, microseconds.
const BUSY_FOR: i64 = 150_000;
/// Packets that have to be sent while it is, so that it says something.
const STARVES_SAMPLE: u64 = 12;
/// Where less than this share of it arrives, in percent, the link is too narrow.
const STARVES_PERCENT: u64 = 50;
/// The share of the estimate that is left then, at most.
const COLLAPSE: f64 = 0.7;
/// Share of packets that is lost where a queue overflows.
const OVERFLOW_LOSS: f64 = 0.02;
/// While more than this share is lost, nothing more is tried.
const NO_PROBE_LOSS: f64 = 0.05;
/// A probe tries this much of the estimate, in percent, and less than that much is not
/// worth it.
const PROBE_PERCENT: u64 = 200;
const PROBE_LEAST_PERCENT: u64 = 105;
/// A probe of which this share passes, in percent, is followed by the next.
const PROBE_ON_PERCENT: u64 = 70;
/// A reference time has 24 bits, of 64 ms each.
const REFERENCE: i64 = 64_000;
/// Farthest that a receiver's clock is followed, microseconds: 10,000 years.
const FARTHEST: i64 = i64::MAX / 32;

/// Bounds of the estimate, bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Before anything is known.
    pub initial: u64,
    /// Never less.
    pub min: u64,
    /// Never more.
    pub max: u64,
}

/// What a feedback message has said, of packets that were sent since the last
/// [`Controller::lower`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets that have arrived.
    pub arrived: u32,
    /// Packets that have not.
    pub lost: u32,
    /// The link has become much too narrow, and carries this much, bits per second.
    /// The estimate says so already.
    pub collapsed: Option<u64>,
}

/// The estimator of one transport. What each packet that is sent needs comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Controller {
    /// When the first packet was sent; times are counted from then.
    start: Option<Instant>,
    register: Register,
    probes: Probes,
    limits: Limits,
    trend: Trend,
    rate: Rate,
    loss: Loss,
    arrivals: Arrivals,
    delay: Delay,
    /// The most that is worth to be found out, bits per second.
    wanted: u64,
    /// Microseconds.
    round_trip: Option<i64>,
    /// The last reference time, extended, and number of the last message.
    reference: Option<i64>,
    message: Option<u8>,
    /// Number of the first packet that no message was about.
    untold: Option<u64>,
    /// Number of the first packet that says something about the link as it is now, and
    /// when that was, microseconds.
    fresh: u64,
    fresh_since: i64,
}

/// What came out of one message.
#[derive(Debug, Default)]
struct Told {
    /// Packets; `lost` is negative where some arrived after all.
    arrived: i64,
    lost: i64,
    /// When the newest of those that arrived was sent.
    newest: Option<i64>,
    /// The shortest way.
    way: Option<i64>,
}

impl Controller {
    /// Nothing is known yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            start: None,
            limits,
            register: Register::new(),
            trend: Trend::new(),
            rate: Rate::new(bits(limits.initial)),
            loss: Loss::default(),
            arrivals: Arrivals::default(),
            delay: Delay::default(),
            probes: Probes::default(),
            wanted: 0,
            round_trip: None,
            reference: None,
            message: None,
            untold: None,
            fresh: 0,
            fresh_since: 0,
        }
    }

    /// The number that the next packet carries.
    pub fn next_number(&self) -> u16 {
        u16::try_from(self.register.next() & 0xffff).unwrap_or(0)
    }

    /// The next packet has been sent; `len`: octets, of what the estimate is to be about.
    pub fn sent(&mut self, now: Instant, len: usize) {
        self.start.get_or_insert(now);
        let at = self.micros(now);
        let probe = self.probes.sent(at, len);
        self.register.push(at, len, probe);
    }

    /// What can be sent, bits per second.
    pub fn estimate(&self) -> u64 {
        let by_delay = self.rate.bitrate();
        let estimate = self.loss.limit().map_or(by_delay, |it| it.min(by_delay));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped, and it saturates"
        )]
        (estimate as u64).clamp(self.limits.min, self.limits.max)
    }

    /// Share of packets that were lost, 0 to 1, by the feedback of the last second.
    /// `None`: there was none.
    pub fn loss(&self, now: Instant) -> Option<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "a share")]
        self.loss.share(self.micros(now)).map(|share| share as f32)
    }

    /// Time from the departure of a packet to its report.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(duration)
    }

    /// How much longer the last packets took than the quickest of the last minutes.
    pub fn queue_delay(&self) -> Option<Duration> {
        self.delay.queue().map(duration)
    }

    /// Takes in a feedback message, which came at that time, maybe before the last packets
    /// were sent: what follows the SSRCs of its header. `None`: it is malformed, or about
    /// nothing that was sent.
    pub fn handle_feedback(&mut self, now: Instant, message: &[u8]) -> Option<Report> {
        let feedback = Feedback::read(message)?;
        let base = self.register.extend(feedback.base)?;
        if base + u64::from(feedback.count) <= self.register.oldest() {
            return None;
        }
        let at = self.micros(now);
        let mut told = Told::default();
        let is_next = self.is_next(feedback.sequence);
        self.skip(base, is_next, &mut told);
        let mut arrival = self.extend_reference(feedback.reference);
        for (number, status) in (base..self.register.next()).zip(feedback.statuses()) {
            match status {
                Status::Arrived(delta) => {
                    arrival = arrival.saturating_add(delta).clamp(-FARTHEST, FARTHEST);
                    self.arrived(number, arrival, &mut told);
                }
                Status::Missing => self.lost(number, &mut told),
                Status::Unknown => {}
            }
        }
        let end = (base + u64::from(feedback.count)).min(self.register.next());
        self.untold = self.untold.max(Some(end));
        if let Some(sent) = told.newest {
            self.round_trip = Some(at.saturating_sub(sent).max(0));
        }
        if let Some(way) = told.way {
            self.delay.note(at, way);
        }
        self.loss.note(at, told.arrived, told.lost);
        // While nothing is wanted, what little is sent says nothing of what could be.
        let is_idle = self.wanted == 0;
        let collapsed = match told.newest {
            Some(_) if !is_idle => self.follow(at),
            _ => None,
        };
        self.rate
            .clamp(bits(self.limits.min), bits(self.limits.max));
        if !is_idle {
            self.loss
                .look(at, bits(self.estimate()), self.rate.bitrate());
        }
        Some(Report {
            arrived: u32::try_from(told.arrived).unwrap_or(0),
            lost: u32::try_from(told.lost).unwrap_or(0),
            collapsed,
        })
    }

    /// The estimate follows what has arrived.
    fn follow(&mut self, at: i64) -> Option<u64> {
        let usage = match self.trend.usage() {
            // A picture that takes a moment is no queue.
            Usage::Over if self.delay.queue() < Some(FULL_QUEUE) => Usage::Under,
            usage => usage,
        };
        let busy = self.busy();
        let delivered = match busy {
            Some(busy) if usage == Usage::Over => Some(busy.bitrate()),
            _ => self.arrivals.bitrate(),
        };
        let delivered = delivered.map(bits);
        let round_trip = self.round_trip.unwrap_or(0);
        self.rate.update(at, usage, delivered, round_trip);
        if let Some(carried) = busy.and_then(|busy| self.starves(busy))
            && bits(carried) < self.rate.lately(at) * COLLAPSE
        {
            self.renew(at);
            self.rate.fall_to(bits(carried));
            return Some(carried);
        }
        if let Some(carried) = busy.and_then(|busy| self.overflows(at, busy))
            && carried < self.estimate()
        {
            self.renew(at);
            self.rate.fall_to(bits(carried));
        }
        if let Some(outcome) = self.probes.outcome()
            && usage != Usage::Over
        {
            let passes = outcome.bitrate.min(self.limits.max);
            let before = self.estimate();
            if bits(passes) > self.rate.bitrate() {
                self.rate.set(bits(passes));
            }
            self.loss.raise(bits(passes));
            // One that has shown nothing new would show the same again.
            let is_news = self.estimate() >= before * PROBE_LEAST_PERCENT / 100;
            if is_news && outcome.bitrate >= outcome.tried * PROBE_ON_PERCENT / 100 {
                self.try_more(at);
            }
        }
        None
    }

    /// What arrived lately without the link having been idle.
    fn busy(&self) -> Option<Span> {
        let way = self.delay.shortest()?.saturating_add(BUSY_QUEUE);
        self.arrivals.busy(way, BUSY_FOR)
    }

    /// What the link carries, bits per second, where much more is sent.
    ///
    /// A link whose queue is never empty delivers as much as it can. When it becomes
    /// narrow, its queue fills up within a moment: long before a filter has seen that,
    /// and before anything is lost, much less arrives than was sent.
    fn starves(&self, busy: Span) -> Option<u64> {
        let way = self.delay.shortest()?;
        let (from, to) = (busy.from.saturating_sub(way), busy.to.saturating_sub(way));
        let (packets, octets) = self.register.sent_between(from, to);
        let starves = self.delay.queue()? >= LONG_QUEUE
            && from >= self.fresh_since
            && packets >= STARVES_SAMPLE
            && busy.octets.saturating_mul(100) < octets.saturating_mul(STARVES_PERCENT);
        if !starves {
            return None;
        }
        // It may have become narrow within that time.
        let lately = self.arrivals.busy(way, BUSY_FOR / 2)?;
        Some(busy.bitrate().min(lately.bitrate()))
    }

    /// What the link carries, bits per second, where a queue that is never empty
    /// overflows, which is no trend.
    fn overflows(&self, at: i64, busy: Span) -> Option<u64> {
        let loss = self.loss.sample(at)?;
        let overflows = self.delay.queue()? >= LONG_QUEUE && loss > OVERFLOW_LOSS;
        overflows.then(|| busy.bitrate())
    }

    /// Whether no message is missing before this one.
    fn is_next(&mut self, sequence: u8) -> bool {
        let ahead = self.message.map(|last| sequence.wrapping_sub(last));
        if ahead.is_none_or(|ahead| (1..0x80).contains(&ahead)) {
            self.message = Some(sequence);
        }
        ahead == Some(1)
    }

    /// No message was about the packets before this one: it has been lost, or is late,
    /// and most of them have arrived; or none was missing, and the receiver says nothing
    /// of what it does not know.
    fn skip(&mut self, base: u64, is_next: bool, told: &mut Told) {
        let Some(untold) = self.untold else { return };
        let oldest = base.saturating_sub(u64::from(u16::MAX));
        for number in untold.max(oldest)..base {
            if is_next {
                self.lost(number, told);
            } else if let Some(packet) = self.register.get_mut(number)
                && packet.fate == Fate::Sent
            {
                packet.fate = Fate::Untold;
                self.arrivals.add_untold(packet.len.into());
            }
        }
    }

    fn arrived(&mut self, number: u64, arrival: i64, told: &mut Told) {
        let Some(packet) = self.register.get_mut(number) else {
            return;
        };
        let before = std::mem::replace(&mut packet.fate, Fate::Arrived);
        let packet = *packet;
        if before == Fate::Arrived {
            return;
        }
        let way = arrival.saturating_sub(packet.at);
        if before != Fate::Untold {
            self.arrivals.add(arrival, way, packet.len.into());
        }
        self.probes
            .arrived(packet.probe, packet.at, arrival, packet.len);
        told.newest = told.newest.max(Some(packet.at));
        told.way = Some(told.way.map_or(way, |shortest| shortest.min(way)));
        if number >= self.fresh {
            self.trend.arrived(packet.at, arrival);
            told.arrived += 1;
            told.lost -= i64::from(before == Fate::Lost);
        }
    }

    fn lost(&mut self, number: u64, told: &mut Told) {
        let fresh = self.fresh;
        if let Some(packet) = self.register.get_mut(number)
            && matches!(packet.fate, Fate::Sent | Fate::Untold)
        {
            packet.fate = Fate::Lost;
            self.probes.lost(packet.probe);
            told.lost += i64::from(number >= fresh);
        }
    }

    /// The time that a message tells arrivals from, microseconds.
    fn extend_reference(&mut self, reference: u32) -> i64 {
        let reference = i64::from(reference);
        let last = self.reference.unwrap_or(reference);
        // The nearest way round of 24 bits.
        let ahead = (reference - last).rem_euclid(1 << 24);
        let ahead = match ahead {
            0x80_0000.. => ahead - (1 << 24),
            _ => ahead,
        };
        let most = FARTHEST / REFERENCE;
        let extended = last.saturating_add(ahead).clamp(-most, most);
        self.reference = Some(extended);
        extended * REFERENCE
    }

    /// It is known that no more than this passes, bits per second. What was sent up to
    /// now says nothing any more.
    pub fn lower(&mut self, now: Instant, bitrate: u64) {
        let at = self.micros(now);
        let bitrate = bitrate.min(self.estimate()).max(self.limits.min);
        self.renew(at);
        self.rate.set(bits(bitrate));
    }

    /// Packets take another way from now on: how long that is, is not known, nor what it
    /// carries. The estimate stays until that shows.
    pub fn moved(&mut self, now: Instant) {
        let at = self.micros(now);
        self.delay = Delay::default();
        self.arrivals = Arrivals::default();
        self.renew(at);
    }

    /// What was sent up to now says nothing any more.
    fn renew(&mut self, at: i64) {
        self.loss.clear();
        self.trend.clear();
        self.probes.cancel();
        self.fresh = self.register.next();
        self.fresh_since = at.max(self.register.latest());
    }

    /// So much would be sent if it passed, bits per second: it is worth to find out up
    /// to there. 0: nothing is.
    pub fn want(&mut self, bitrate: u64) {
        self.wanted = bitrate.min(self.limits.max);
        if bitrate == 0 {
            self.probes.cancel();
        }
    }

    /// Begins to find out whether more passes. False: nothing more is wanted, packets
    /// are lost or queue, or a probe is under way already.
    pub fn probe(&mut self, now: Instant) -> bool {
        self.start.get_or_insert(now);
        let at = self.micros(now);
        self.try_more(at)
    }

    fn try_more(&mut self, at: i64) -> bool {
        let loses = self.loss.share(at).is_some_and(|it| it > NO_PROBE_LOSS);
        let queues = self.delay.queue() >= Some(LONG_QUEUE) || self.trend.usage() == Usage::Over;
        let estimate = self.estimate();
        let rate = self.wanted.min(estimate * PROBE_PERCENT / 100);
        !loses
            && !queues
            && rate >= estimate * PROBE_LEAST_PERCENT / 100
            && self.probes.start(at, rate)
    }

    /// Gives up the probe that is under way: there is nothing to send.
    pub fn cancel_probe(&mut self) {
        self.probes.cancel();
    }

    /// When the next packet of a probe is to be sent, unless another one leaves before,
    /// and how fast they are, bits per second.
    pub fn next_probe(&self) -> Option<(Instant, u64)> {
        let (at, rate) = self.probes.next()?;
        let at = u64::try_from(at).unwrap_or(0);
        Some((self.start? + Duration::from_micros(at), rate))
    }

    fn micros(&self, now: Instant) -> i64 {
        let start = self.start.unwrap_or(now);
        let passed = now.saturating_duration_since(start).as_micros();
        i64::try_from(passed).unwrap_or(FARTHEST)
    }
}

#[expect(clippy::cast_precision_loss, reason = "bitrates below 2^53")]
fn bits(bitrate: u64) -> f64 {
    bitrate as f64
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        initial: 1_000_000,
        min: 30_000,
        max: 100_000_000,
    };

    #[test]
    fn reference_times_go_on_where_24_bits_end() {
        let mut controller = Controller::new(LIMITS);
        for (reference, extended) in [
            (0xff_fffe, 0xff_fffe),
            (1, 0x100_0001),
            (0xff_ffff, 0xff_ffff),
            (2, 0x100_0002),
            (0x80_0001, 0x180_0001),
            (0, 0x200_0000),
        ] {
            let time = controller.extend_reference(reference);
            assert_eq!(time, extended * REFERENCE, "{reference:x}");
        }
        controller.reference = Some(i64::MAX - 1);
        controller.extend_reference(0);
    }

    /// A message about ten packets, of which the first is lost if it is to be.
    fn message(first: u16, number: u8, loses: bool) -> Vec<u8> {
        let [high, low] = first.to_be_bytes();
        // Packets each 5 ms, and 64 ms of the reference time are 12.8 of them.
        let since = i64::from(first) * 20;
        let mut message = vec![high, low, 0, 10, 0, 0, (since / 256) as u8, number];
        let runs = match loses {
            true => [[0, 1], [0x20, 9]],
            false => [[0x20, 1], [0x20, 9]],
        };
        message.extend_from_slice(runs.as_flattened());
        let skipped = if loses { 20 } else { 0 };
        message.push((since % 256 + skipped) as u8);
        message.resize(message.len() + if loses { 8 } else { 9 }, 20);
        message
    }

    /// What is left of the estimate when packets each 5 ms take longer and longer, by so
    /// many microseconds each, up to a limit, while so much is wanted.
    fn after_growth(by: i64, most: i64, wanted: u64) -> u64 {
        let start = Instant::now();
        let mut controller = Controller::new(LIMITS);
        controller.want(wanted);
        let mut last = 0;
        let mut lowest = controller.estimate();
        let mut message = Vec::new();
        for index in 0..600i64 {
            let now = start + Duration::from_micros(index as u64 * 5_000);
            controller.sent(now, 600);
            let delay = ((index - 300).max(0) * by).min(most);
            let delta = ((index * 5_000 + delay - last) / 250) as i16;
            last += i64::from(delta) * 250;
            if index % 10 == 0 {
                let reference = (last - i64::from(delta) * 250) / REFERENCE;
                message = vec![0, 0, 0, 10, 0, 0, reference as u8, (index / 10) as u8];
                message[..2].copy_from_slice(&(index as u16).to_be_bytes());
                message.extend_from_slice(&[0x40, 10]);
                let first = ((last - reference * REFERENCE) / 250) as i16;
                message.extend_from_slice(&first.to_be_bytes());
            } else {
                message.extend_from_slice(&delta.to_be_bytes());
            }
            if index % 10 == 9 {
                controller.handle_feedback(now, &message).unwrap();
                lowest = lowest.min(controller.estimate());
            }
        }
        lowest
    }

    #[test]
    fn what_hardly_waits_does_not_lower_the_estimate() {
        assert_eq!(after_growth(600, 25_000, 1), 1_000_000);
        assert!(after_growth(600, 100_000, 1) < 900_000);
        assert_eq!(
            after_growth(600, 100_000, 0),
            1_000_000,
            "nothing is wanted"
        );
    }

    #[test]
    fn a_longer_way_is_no_queue() {
        for moves in [false, true] {
            let start = Instant::now();
            let mut controller = Controller::new(LIMITS);
            controller.want(1);
            for index in 0..400u16 {
                // It takes 64 ms longer after a while.
                let longer = u64::from(index >= 200) * 64;
                let now = start + Duration::from_millis(u64::from(index) * 5 + longer);
                controller.sent(now - Duration::from_millis(longer), 1250);
                if moves && index == 200 {
                    controller.moved(now);
                }
                if index % 10 == 9 {
                    let later = u8::from(index >= 200);
                    let mut message = message(index - 9, (index / 10) as u8, false);
                    message[6] += later;
                    controller.handle_feedback(now, &message);
                }
            }
            let queue = controller.queue_delay().unwrap();
            assert_eq!(queue < duration(BUSY_QUEUE), moves, "{queue:?}");
        }
    }

    #[test]
    fn what_a_lost_message_was_about_counts_as_arrived_but_what_was_left_out_does_not() {
        for (lost_messages, are_numbered, loses) in [
            (false, true, false),
            (false, true, true),
            (true, true, false),
            (true, false, false),
        ] {
            let start = Instant::now();
            let mut controller = Controller::new(LIMITS);
            let (mut lost, mut number) = (0, 0);
            for index in 0..200u16 {
                let now = start + Duration::from_millis(u64::from(index) * 5);
                controller.sent(now, 1250);
                if index % 10 < 9 {
                    continue;
                }
                let is_lost = lost_messages && index % 20 == 9;
                number += u8::from(are_numbered || !is_lost);
                if !is_lost {
                    let message = message(index - 9, number, loses);
                    lost += controller.handle_feedback(now, &message).unwrap().lost;
                }
            }
            let delivered = controller.arrivals.bitrate().unwrap();
            let (least, most) = match (are_numbered, loses) {
                (true, false) => (1_800_000, 2_200_000),
                (true, true) => (1_600_000, 1_900_000),
                (false, _) => (900_000, 1_200_000),
            };
            assert!((least..most).contains(&delivered), "{delivered}");
            let expected = match (are_numbered, loses) {
                (true, false) => 0,
                (true, true) => 20,
                // The first of them came before anything was known.
                (false, _) => 90,
            };
            assert_eq!(lost, expected, "{lost_messages} {are_numbered} {loses}");
        }
    }
}
