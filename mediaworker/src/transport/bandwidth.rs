//! What can be sent to a client: the `congestion` crate's estimate by transport-cc
//! feedback, or the client's own by REMB.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use congestion::{Controller, Limits};

mod reported;
mod trial;

use super::TransportError;
use reported::Reported;
use trial::Trial;

/// Time for a client to send its first feedback. One that has negotiated feedback
/// and sends none is taken for one without: nothing is known of its bandwidth.
const FEEDBACK_WITHIN: Duration = Duration::from_secs(5);

/// Within these shares of what it was, in percent, an estimate is one more swing
/// around the truth, and averaged; outside the link is another one, or was probed.
const STEADY_PERCENT: RangeInclusive<u64> = 75..=130;
/// Time between two of them.
const AVERAGE_INTERVAL: Duration = Duration::from_millis(250);
/// A new estimate makes up one part in this many of the average.
const WEIGHT: u64 = 3;

/// What there is, in percent of the estimate: that is 95 % of what the last probe
/// could show, and more than it would take is kept free anyway.
const UTILIZED_PERCENT: u64 = 105;
/// Share of packets that is lost on any network.
const HARMLESS_LOSS: f32 = 0.02;
/// Share of packets whose loss makes a video useless.
const USELESS_LOSS: f32 = 0.1;
/// Longest growth of the round trip time that is no queue of ours.
const HARMLESS_DELAY: Duration = Duration::from_millis(200);

/// What is estimated, at least, where less may be available, bits per second.
const LEAST_ESTIMATE: u64 = 10_000;
/// No client's link is taken for wider, bits per second.
const MAX_ESTIMATE: u64 = 10_000_000_000;
/// How long the shortest round trip is remembered, once or twice.
const SHORTEST_FOR: Duration = Duration::from_secs(60);

/// Time between two probes for bandwidth that is wanted. A probe takes a few packets,
/// and as many milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(1500);
/// Share of packets, in percent, that is lost where a queue overflows.
const OVERFLOW_PERCENT: u32 = 40;
/// Longest time that packets wait in a short queue.
const LONG_QUEUE: Duration = Duration::from_millis(50);
/// Time after a collapse in which nothing that arrives says that all is well.
const COLLAPSE_LASTS: Duration = Duration::from_millis(1500);
/// When a queue overflows, this part of what arrives is taken for available at first.
const COLLAPSE: u64 = 4;
/// Packets that a share is taken of, at least.
const LOSS_SAMPLE: u32 = 20;
/// Changes of what is desired up to this share, in percent, are no reason to probe.
const SAME_PERCENT: u64 = 5;
/// What is probed for, in percent of what is desired: steps up want some room.
const PROBE_PERCENT: u64 = 130;

/// Most that is tried, in percent of what is known to pass.
const TRY_PERCENT: u64 = 130;
/// What is tried, in percent of what the step needs.
const TRY_MARGIN_PERCENT: u64 = 105;
/// The same for a client that tells by REMB what it can receive.
const TRY_REMB_PERCENT: u64 = 500;
/// A client that could receive more tells this much by REMB, in percent of what is
/// sent.
const REMB_ROOM_PERCENT: u64 = 120;
/// Where REMB falls below this share, in percent, the link is full.
const FELL_PERCENT: u64 = 90;

/// Least that is taken for available unless the transport was created with
/// another minimum, bits per second.
const DEFAULT_MIN: u64 = 30_000;
/// What is taken for available at first unless the transport was created with
/// another value, bits per second.
const DEFAULT_INITIAL: u64 = 1_000_000;

/// Bounds of what is taken for available towards a client, bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitrateLimits {
    /// Before anything is known.
    pub initial: u64,
    /// Never less.
    pub min: u64,
    /// Never more.
    pub max: Option<u64>,
}

impl Default for BitrateLimits {
    fn default() -> Self {
        Self {
            initial: DEFAULT_INITIAL,
            min: DEFAULT_MIN,
            max: None,
        }
    }
}

impl BitrateLimits {
    /// Limits with defaults for what is not given.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for a minimum above the maximum or a maximum
    /// of 0.
    pub fn new(
        initial: Option<u64>,
        min: Option<u64>,
        max: Option<u64>,
    ) -> Result<Self, TransportError> {
        let min = min.unwrap_or_else(|| DEFAULT_MIN.min(max.unwrap_or(DEFAULT_MIN)));
        if max.is_some_and(|max| max == 0 || max < min) {
            return Err(TransportError::Invalid(format!(
                "max_outgoing_bitrate: must be positive, and at least min_outgoing_bitrate ({min})"
            )));
        }
        let (min, max) = (bounded(min), max.map(bounded));
        let initial = bounded(initial.unwrap_or(DEFAULT_INITIAL));
        Ok(Self {
            initial: initial.clamp(min, max.unwrap_or(u64::MAX)),
            min,
            max,
        })
    }

    fn apply(&self, bitrate: u64) -> u64 {
        bitrate.clamp(self.min, self.max.unwrap_or(u64::MAX))
    }
}

/// An estimate that can be reckoned with.
fn bounded(bitrate: u64) -> u64 {
    bitrate.min(MAX_ESTIMATE)
}

/// What is known of the way to one client.
#[derive(Debug)]
#[repr(C)]
pub struct Bandwidth {
    /// Estimates by transport-cc. Each packet that is counted needs it.
    controller: Controller,
    limits: BitrateLimits,
    /// Bits per second; `None` while nobody can estimate.
    estimate: Option<u64>,
    /// When the average was taken last.
    averaged: Option<Instant>,
    /// The client counts packets (transport-cc).
    counts: bool,
    /// Feedback has come.
    proven: bool,
    /// By receiver reports, of a client that does not count.
    round_trip_time: Option<Duration>,
    /// The shortest of the last minutes, and since when a new one is looked for.
    shortest: Option<Duration>,
    shortest_lately: Option<Duration>,
    shortest_since: Option<Instant>,
    /// Share of packets lost, by receiver reports.
    reported: Reported,
    /// The link has become much too narrow.
    collapsed: bool,
    collapsed_at: Option<Instant>,
    /// Packets that arrived and that did not, by the last feedback: as many of them as
    /// [`LOSS_SAMPLE`] takes.
    reports: VecDeque<(u32, u32)>,
    /// More than is known to pass.
    trial: Trial,
    /// The most that the client has told by REMB since it told much less.
    peak: u64,
    /// It has, since that was looked at last.
    fell: bool,
    /// When video began to flow.
    began: Option<Instant>,
    /// No video is to be sent.
    idle: bool,
    /// What was desired last.
    desired: u64,
    /// When it was probed last.
    probed: Option<Instant>,
}

impl Bandwidth {
    /// Nothing is known yet.
    pub fn new(limits: BitrateLimits) -> Self {
        let max = limits.max.unwrap_or(MAX_ESTIMATE);
        let bounds = Limits {
            initial: limits.initial,
            // From nothing, nothing grows.
            min: limits.min.max(LEAST_ESTIMATE).min(max),
            max,
        };
        Self {
            limits,
            controller: Controller::new(bounds),
            estimate: None,
            averaged: None,
            counts: false,
            proven: false,
            round_trip_time: None,
            shortest: None,
            shortest_lately: None,
            shortest_since: None,
            reported: Reported::default(),
            collapsed: false,
            collapsed_at: None,
            reports: VecDeque::new(),
            trial: Trial::default(),
            peak: 0,
            fell: false,
            began: None,
            idle: false,
            desired: 0,
            probed: None,
        }
    }

    /// Says whether there is a consumer whose packets the client counts. When the last
    /// of them goes, so does the estimate.
    pub fn set_counts(&mut self, counts: bool) {
        if std::mem::replace(&mut self.counts, counts) == counts {
            return;
        }
        self.estimate = counts.then(|| self.controller.estimate());
        self.averaged = None;
        self.collapsed = false;
        self.reports.clear();
        self.controller.want(0);
    }

    /// The client is reached another way from now on.
    pub fn moved(&mut self, now: Instant) {
        self.controller.moved(now);
        self.reports.clear();
        self.round_trip_time = None;
        self.shortest = None;
        self.shortest_lately = None;
    }

    /// The number of the next packet that the client counts.
    pub fn next_number(&self) -> u16 {
        self.controller.next_number()
    }

    /// The packet with that number leaves; `len`: its octets.
    pub fn note_departure(&mut self, now: Instant, len: usize) {
        self.controller.sent(now, len);
    }

    /// When the next packet of a probe is to leave, and how fast they are, bits per
    /// second.
    pub fn next_probe(&self) -> Option<(Instant, u64)> {
        self.controller.next_probe()
    }

    /// There is nothing to probe with.
    pub fn cancel_probe(&mut self) {
        self.controller.cancel_probe();
    }

    /// Takes in what the client says by REMB, bits per second. True: another bitrate is
    /// available now.
    pub fn handle_remb(&mut self, bitrate: u64) -> bool {
        // Of the two, what we estimate ourselves.
        if self.counts {
            return false;
        }
        self.proven = true;
        let told = bounded(bitrate);
        if told * 100 < self.peak * FELL_PERCENT {
            self.fell = true;
            self.peak = 0;
        }
        self.peak = self.peak.max(told);
        self.estimate.replace(told) != Some(told)
    }

    /// Takes in the receiver reports of a client without transport-cc: how many packets
    /// they are about, how many of those are lost, and the round trip that they show.
    pub fn handle_reports(
        &mut self,
        now: Instant,
        (expected, lost): (u64, u64),
        round_trip: Option<Duration>,
    ) {
        if self.counts {
            return;
        }
        self.reported.handle(now, expected, lost);
        if let Some(time) = round_trip {
            self.round_trip_time = Some(time);
            self.note_round_trip(now, time);
        }
    }

    /// Takes in transport-cc feedback, which came at that time: what follows its SSRCs.
    /// `sent`: the bitrate of what left lately. True: another one is available now.
    pub fn handle_feedback(
        &mut self,
        now: Instant,
        feedback: &[u8],
        sent: impl FnOnce() -> u64,
    ) -> bool {
        let Some(report) = self.controller.handle_feedback(now, feedback) else {
            return false;
        };
        self.proven = true;
        if self.idle || !self.counts {
            // What little is sent says nothing of what could be.
            self.reports.clear();
            return false;
        }
        if let Some(carried) = report.collapsed {
            return self.collapse(now, carried);
        }
        if let Some(left) = self.overflows((report.arrived, report.lost), sent) {
            self.controller.lower(now, left);
            return self.collapse(now, left);
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.averaged.is_some_and(|at| since(at) < AVERAGE_INTERVAL) {
            return false;
        }
        self.averaged = Some(now);
        let average = self.average(self.controller.estimate());
        self.estimate.replace(average) != Some(average)
    }

    /// Where most is lost and nothing waits, a short queue overflows: answers what is taken to be left of
    /// the link, bits per second.
    fn overflows(&mut self, report: (u32, u32), sent: impl FnOnce() -> u64) -> Option<u64> {
        let (arrived, lost) = self.sample(report)?;
        let all = arrived + lost;
        // What comes out of a long queue is what the link carries, which the estimator
        // knows better.
        if lost * 100 <= all * OVERFLOW_PERCENT || self.is_slow(LONG_QUEUE) {
            return None;
        }
        // Nothing is held against a link twice.
        self.reports.clear();
        let arrives = bounded(sent()) * u64::from(arrived) / u64::from(all);
        // Some of them were sent before it began. It is better to be wrong once in what
        // is left than to try one layer after the other.
        (self.estimate > Some(arrives)).then_some(arrives / COLLAPSE)
    }

    /// The link has become much too narrow: this is what is left of it, bits per
    /// second. True: something has to be done about it.
    fn collapse(&mut self, now: Instant, left: u64) -> bool {
        self.reports.clear();
        self.averaged = Some(now);
        // Of a link that was away for a moment, less would be told than it has.
        let least = self.limits.min.max(DEFAULT_MIN);
        if self.estimate.is_none_or(|estimate| estimate <= least) {
            return false;
        }
        // It may have begun to fall already.
        self.estimate = self.estimate.min(Some(left.max(least)));
        self.collapsed = true;
        self.collapsed_at = Some(now);
        self.trial.fail();
        true
    }

    fn has_just_collapsed(&self, now: Instant) -> bool {
        self.collapsed_at
            .is_some_and(|at| now < at + COLLAPSE_LASTS)
    }

    /// Packets that arrived and that did not, by the newest reports that name enough.
    fn sample(&mut self, report: (u32, u32)) -> Option<(u32, u32)> {
        if report == (0, 0) {
            return None;
        }
        self.reports.push_back(report);
        let (mut arrived, mut lost) = (0, 0);
        let newest = self.reports.iter().rev().position(|(a, l)| {
            arrived += a;
            lost += l;
            arrived + lost >= LOSS_SAMPLE
        })?;
        let older = self.reports.len() - newest - 1;
        self.reports.drain(..older);
        Some((arrived, lost))
    }

    /// The average with a new estimate.
    fn average(&self, raw: u64) -> u64 {
        match self.estimate {
            Some(before) if STEADY_PERCENT.contains(&(raw * 100 / before.max(1))) => {
                (before * (WEIGHT - 1) + raw) / WEIGHT
            }
            _ => raw,
        }
    }

    /// Takes note of what would be welcome, bits per second; above 0 video flows
    /// from now on. `wants_more`: there is less, so it is probed for time and again.
    pub fn want(&mut self, now: Instant, desired: u64, wants_more: bool) {
        if desired == 0 {
            self.want_nothing();
            return;
        }
        self.began.get_or_insert(now);
        self.idle = false;
        let is_other = desired.abs_diff(self.desired) * 100 > self.desired * SAME_PERCENT;
        self.desired = desired;
        if !self.counts {
            return;
        }
        let enough = (desired * PROBE_PERCENT / 100).max(self.limits.initial);
        self.controller.want(enough);
        let waited = |at: Instant| now.saturating_duration_since(at) >= PROBE_INTERVAL;
        let due = self.probed.is_none_or(waited);
        if due && (wants_more || is_other) && self.controller.probe(now) {
            self.probed = Some(now);
        }
    }

    /// No video is wanted: nothing is probed, and the estimate stays.
    pub fn want_nothing(&mut self) {
        if !self.proven {
            self.began = None;
        }
        self.idle = true;
        self.desired = 0;
        self.controller.want(0);
    }

    /// Looks whether a little more than is known to pass may be tried. `sent`: what is
    /// meant to be sent; `next`: what has to be available for the next step of
    /// somebody, if anybody wants one.
    pub fn try_more(&mut self, now: Instant, sent: u64, next: Option<u64>) {
        let Some(estimate) = self.estimate.filter(|_| self.proven) else {
            return;
        };
        let fell = std::mem::take(&mut self.fell);
        let (passes, percent) = match self.counts {
            true => (self.passes(now), TRY_PERCENT),
            // Who could receive more, tells more than it gets.
            false => {
                let has_room = estimate * 100 >= sent * REMB_ROOM_PERCENT;
                let tries = self.trial.bitrate().is_some();
                // It falls, too, when it gets less because there is less to send, and by
                // itself where a busy client takes its own delays for those of the link.
                let passes = has_room || (tries && !fell) || self.passes(now);
                (passes && !self.loses_much(now), TRY_REMB_PERCENT)
            }
        };
        let known = self.known_bitrate(estimate);
        let next = next.filter(|next| *next <= known * percent / 100);
        // What a step costs is never still.
        let next = next.map(|next| next * TRY_MARGIN_PERCENT / 100);
        self.trial.look(now, passes, known, next);
    }

    /// Whether the link has become much too narrow since this was asked last.
    pub fn take_collapse(&mut self) -> bool {
        std::mem::take(&mut self.collapsed)
    }

    /// Notes a round trip. The shortest is that of the last minute or two: a client
    /// may move to a longer way.
    fn note_round_trip(&mut self, now: Instant, time: Duration) {
        let since = *self.shortest_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= SHORTEST_FOR {
            self.shortest_since = Some(now);
            self.shortest = self.shortest_lately.replace(time);
        }
        let least = |held: Option<Duration>| Some(held.map_or(time, |held| held.min(time)));
        self.shortest = least(self.shortest);
        self.shortest_lately = least(self.shortest_lately);
    }

    /// Whether packets take that much longer than the quickest did, as far as is
    /// known.
    fn is_slow(&self, by: Duration) -> bool {
        if self.counts {
            return self.controller.queue_delay().is_none_or(|time| time > by);
        }
        let times = self.round_trip_time.zip(self.shortest);
        times.is_none_or(|(time, shortest)| time > shortest + by)
    }

    /// Whether much of what is sent is lost.
    pub fn loses_much(&self, now: Instant) -> bool {
        self.loss(now).is_some_and(|lost| lost > USELESS_LOSS)
    }

    /// Share of packets lost lately, as far as is known.
    fn loss(&self, now: Instant) -> Option<f32> {
        match self.counts {
            true => self.controller.loss(now),
            false => self.reported.loss(now),
        }
    }

    /// The client says itself what it can receive. What it says depends on what it gets, so
    /// it says nothing of how much more that could be.
    pub fn is_told(&self) -> bool {
        !self.counts && self.estimate.is_some()
    }

    /// Whether everything arrives, and in time.
    fn passes(&self, now: Instant) -> bool {
        let is_whole = self.loss(now).is_some_and(|lost| lost <= HARMLESS_LOSS);
        is_whole && !self.is_slow(HARMLESS_DELAY) && !self.has_just_collapsed(now)
    }

    /// What an estimate stands for.
    fn known_bitrate(&self, estimate: u64) -> u64 {
        match self.counts {
            true => estimate * UTILIZED_PERCENT / 100,
            false => estimate,
        }
    }

    /// What can be sent, bits per second; `None` when nothing limits it, because
    /// the client has not negotiated feedback, or does not send any. `sent`: what is
    /// sent now. As long as that arrives it is not too much, whatever the estimate
    /// makes of the burst of a key frame.
    pub fn available(&self, now: Instant, sent: u64) -> Option<u64> {
        let waited = self
            .began
            .map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let floor = match self.passes(now) {
            true => sent,
            false => 0,
        };
        let floor = floor.max(self.trial.bitrate().unwrap_or(0));
        let is_known = self.proven || waited < FEEDBACK_WITHIN;
        self.estimate
            .filter(|_| is_known)
            .map(|estimate| self.known_bitrate(estimate).max(floor))
            .map(|estimate| self.limits.apply(estimate))
            .or(self.limits.max)
    }

    /// What can be sent, bits per second, once the client has sent feedback; before
    /// that, a guess within the limits.
    pub fn likely(&self, now: Instant, sent: u64, guess: u64) -> u64 {
        let known = self.available(now, sent).filter(|_| self.proven);
        known.unwrap_or_else(|| self.limits.apply(guess))
    }
}

#[cfg(test)]
mod tests;
