//! What can be sent to a client: str0m's estimate by transport-cc feedback, or
//! the client's own by REMB.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use str0m::bwe::BweKind;
use str0m::stats::PeerStats;

mod passage;
mod reported;
mod trial;

use super::TransportError;
use passage::Passage;
use reported::Reported;
use trial::Trial;

/// Time for a client to send its first feedback. One that has negotiated feedback
/// and sends none is taken for one without: nothing is known of its bandwidth.
const FEEDBACK_WITHIN: Duration = Duration::from_secs(5);

/// Within these shares of what it was, in percent, an estimate is one more swing
/// around the truth, and averaged; outside the link is another one, or was probed.
const STEADY_PERCENT: RangeInclusive<u64> = 75..=130;
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

/// No client's link is taken for wider, bits per second.
const MAX_ESTIMATE: u64 = 10_000_000_000;
/// How long the shortest round trip is remembered, once or twice.
const SHORTEST_FOR: Duration = Duration::from_secs(60);

/// Time between two probes for bandwidth that is wanted. A probe takes a few packets,
/// and as many milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(1500);
/// An estimate that has not moved for this long, while more is wanted, is stuck.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// Share of packets, in percent, that is much to lose; where there is a queue as
/// well, the link is too narrow.
const HEAVY_LOSS_PERCENT: u32 = 10;
/// Share of packets, in percent, that is lost where a queue overflows.
const OVERFLOW_PERCENT: u32 = 40;
/// When a queue overflows, this part of what arrives is taken for available at first.
const COLLAPSE: u64 = 4;
/// Time between two reports of a client, at most.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Time until the estimator knows of a collapse, too, and until reports are about
/// packets that were sent afterwards, however many they name.
const ESTIMATOR_LAG: Duration = Duration::from_millis(1500);
/// Packets that a share is taken of, at least.
const LOSS_SAMPLE: u32 = 20;
/// Growth of the round trip time that is a queue.
const QUEUE_DELAY: Duration = Duration::from_millis(50);
/// Changes of what is desired up to this share, in percent, are not told.
const SAME_PERCENT: u64 = 5;

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
pub struct Bandwidth {
    limits: BitrateLimits,
    /// Bits per second; `None` while nobody can estimate.
    estimate: Option<u64>,
    /// str0m estimates by transport-cc.
    can_probe: bool,
    /// Feedback has come.
    proven: bool,
    /// By transport-cc feedback, or by receiver reports.
    round_trip_time: Option<Duration>,
    /// The shortest of the last minutes, and since when a new one is looked for.
    shortest: Option<Duration>,
    shortest_lately: Option<Duration>,
    shortest_since: Option<Instant>,
    /// The estimate before nobody wanted video.
    known: Option<u64>,
    /// Share of packets lost in the last second, by transport-cc feedback.
    loss: Option<f32>,
    /// The same by receiver reports.
    reported: Reported,
    /// The link has become much too narrow.
    collapsed: bool,
    collapsed_at: Option<Instant>,
    /// The estimator says still what a collapse has refuted.
    refuted: bool,
    /// Packets that had left before, and that no report has named yet.
    under_way: u32,
    /// Packets that arrived and that did not, by the last reports: as many of them as
    /// [`LOSS_SAMPLE`] takes.
    reports: VecDeque<(u32, u32)>,
    /// What of it passes, by its reports.
    passage: Passage,
    /// More than is known to pass.
    trial: Trial,
    /// The most that the client has told by REMB since it told much less.
    peak: u64,
    /// It has, since that was looked at last.
    fell: bool,
    /// What str0m estimated last, bits per second, and when that moved.
    raw: u64,
    moved: Option<Instant>,
    /// When video began to flow.
    began: Option<Instant>,
    /// No video is to be sent.
    idle: bool,
    /// What str0m was told to be desired.
    asked: u64,
    /// When it was told so in order to probe.
    probed: Option<Instant>,
}

impl Bandwidth {
    /// Nothing is known yet.
    pub fn new(limits: BitrateLimits) -> Self {
        Self {
            limits,
            estimate: None,
            can_probe: false,
            proven: false,
            round_trip_time: None,
            shortest: None,
            shortest_lately: None,
            shortest_since: None,
            known: None,
            loss: None,
            reported: Reported::default(),
            collapsed: false,
            collapsed_at: None,
            refuted: false,
            under_way: 0,
            reports: VecDeque::new(),
            passage: Passage::default(),
            trial: Trial::default(),
            peak: 0,
            fell: false,
            raw: 0,
            moved: None,
            began: None,
            idle: false,
            asked: 0,
            probed: None,
        }
    }

    /// Its bounds.
    pub fn limits(&self) -> BitrateLimits {
        self.limits
    }

    /// Takes in an estimate. True: another one is available now.
    pub fn handle_estimate(&mut self, kind: &BweKind) -> bool {
        let before = self.estimate;
        match kind {
            BweKind::Twcc {
                estimate,
                can_probe,
            } => {
                // What comes later is told by `handle_stats` without delay. When
                // the last consumer with transport-cc goes, so does the estimate.
                if *can_probe != self.can_probe {
                    // What an idle estimator says is no estimate.
                    let start = match estimate.as_u64() {
                        0 => self.known.unwrap_or(self.limits.initial),
                        told => told,
                    };
                    self.estimate = can_probe.then(|| bounded(start));
                    self.collapsed = false;
                    self.reports.clear();
                    self.passage.clear();
                }
                self.can_probe = *can_probe;
            }
            // Of the two, what we estimate ourselves.
            BweKind::Remb { estimate, .. } if !self.can_probe => {
                self.proven = true;
                let told = bounded(estimate.as_u64());
                if told * 100 < self.peak * FELL_PERCENT {
                    self.fell = true;
                    self.peak = 0;
                }
                self.peak = self.peak.max(told);
                self.estimate = Some(told);
            }
            _ => {}
        }
        self.estimate != before
    }

    /// Takes in what str0m counts, its estimate among it, four times per second.
    /// True: another one is available now.
    pub fn handle_stats(&mut self, now: Instant, stats: &PeerStats) -> bool {
        if !self.can_probe {
            return false;
        }
        if let Some(time) = stats.rtt {
            // It is measured by transport-cc feedback.
            self.proven = true;
            self.round_trip_time = Some(time);
            self.note_round_trip(now, time);
        }
        self.loss = stats.egress_loss_fraction;
        let before = self.estimate;
        if !self.idle
            && let Some(raw) = stats.bwe_tx.map(|raw| bounded(raw.as_u64()))
        {
            if raw.abs_diff(self.raw) * 100 > self.raw {
                self.moved = Some(now);
            }
            self.raw = raw;
            let average = self.average(raw);
            self.refuted &= before.is_some_and(|before| raw * 100 > before * TRY_PERCENT);
            self.estimate = match before {
                Some(before) if self.refuted || self.has_just_collapsed(now) => {
                    Some(average.min(before))
                }
                _ => Some(average),
            };
        }
        self.estimate != before
    }

    /// Takes in the receiver reports of a client without transport-cc: how many packets
    /// they are about, how many of those are lost, and the round trip that they show.
    pub fn handle_reports(
        &mut self,
        now: Instant,
        (expected, lost): (u64, u64),
        round_trip: Option<Duration>,
    ) {
        if self.can_probe {
            return;
        }
        self.reported.handle(now, expected, lost);
        if let Some(time) = round_trip {
            self.round_trip_time = Some(time);
            self.note_round_trip(now, time);
        }
    }

    /// Takes in how many packets arrived and how many did not, by one transport-cc
    /// feedback packet. `sent`: the bitrate of what left lately. True: another one is
    /// available now.
    ///
    /// The estimator needs a second or more to see how much of a bitrate is left when
    /// a link becomes narrow. Where much is lost, and packets queue, what arrives is
    /// what there is.
    pub fn handle_feedback(
        &mut self,
        now: Instant,
        (arrived, lost): (u32, u32),
        sent: u64,
    ) -> bool {
        if self.idle {
            // What little is sent says nothing of what could be.
            self.passage.clear();
            self.reports.clear();
            return false;
        }
        // What was sent before something was done about it says nothing new.
        if self.under_way > 0 && self.has_just_collapsed(now) {
            self.under_way = self.under_way.saturating_sub(arrived + lost);
            return false;
        }
        if let Some((arrived, left)) = self.passage.handle_report(now, arrived, self.shortest)
            && self.is_slow(QUEUE_DELAY)
        {
            let arrives = bounded(sent) * u64::from(arrived) / u64::from(left);
            return self.collapse(now, arrives);
        }
        let Some((arrived, lost)) = self.sample((arrived, lost)) else {
            return false;
        };
        let all = arrived + lost;
        let overflows = lost * 100 > all * OVERFLOW_PERCENT;
        let queues = overflows || self.is_slow(QUEUE_DELAY);
        if lost * 100 <= all * HEAVY_LOSS_PERCENT || !queues {
            return false;
        }
        // Nothing is held against a link twice.
        self.reports.clear();
        let arrives = bounded(sent) * u64::from(arrived) / u64::from(all);
        if overflows && self.estimate.is_some_and(|estimate| estimate > arrives) {
            // Some of them were sent before it began. It is better to be wrong once
            // in what is left than to try one layer after the other.
            return self.collapse(now, arrives / COLLAPSE);
        }
        let before = self.estimate;
        self.estimate = before.map(|estimate| estimate.min(arrives));
        self.estimate != before
    }

    /// The link has become much too narrow: this is what is left of it, bits per
    /// second. True: that is less than what was available.
    fn collapse(&mut self, now: Instant, arrives: u64) -> bool {
        let round_trip = self.round_trip_time.unwrap_or_default();
        let time = round_trip + REPORT_INTERVAL;
        self.under_way = self.passage.left_within(now, time);
        self.reports.clear();
        self.passage.clear();
        // Of a link that was away for a moment, less would be told than it has.
        let arrives = arrives.max(self.limits.min.max(DEFAULT_MIN));
        if self.estimate.is_none_or(|estimate| estimate <= arrives) {
            return false;
        }
        self.estimate = Some(arrives);
        self.collapsed = true;
        self.collapsed_at = Some(now);
        self.refuted = self.can_probe;
        self.trial.fail();
        true
    }

    fn has_just_collapsed(&self, now: Instant) -> bool {
        self.collapsed_at.is_some_and(|at| now < at + ESTIMATOR_LAG)
    }

    /// A packet with a transport-cc number has left.
    pub fn note_departure(&mut self) {
        self.passage.note_departure();
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

    /// What str0m is told to be desired.
    fn aim(&self, desired: u64) -> u64 {
        let estimate = self.estimate.unwrap_or(0);
        if desired == 0 || estimate >= 2 * desired.max(self.limits.initial) {
            return 0;
        }
        // str0m probes for up to twice of it, however narrow the link is known to
        // be. What is found leads to the next step.
        let step = estimate * 3 / 2;
        desired
            .min(step)
            .max(self.limits.initial.min(step))
            .min(self.limits.max.unwrap_or(u64::MAX))
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

    /// Whether video is to be sent; without any, nothing is estimated. Answers what
    /// str0m's estimator has to start from, if another value than before: with 0 it
    /// sends no padding.
    pub fn set_idle(&mut self, idle: bool) -> Option<u64> {
        if !self.can_probe || std::mem::replace(&mut self.idle, idle) == idle {
            return None;
        }
        self.asked = 0;
        self.moved = None;
        self.raw = 0;
        if idle {
            self.known = self.estimate;
            return Some(0);
        }
        self.estimate
    }

    /// Whether str0m's estimator has to start anew, and from what, bits per second.
    ///
    /// It remembers why it could not probe until its estimate changes, which without
    /// probes it may never do. And what it made of a link that was never full, it
    /// believes even when the link has become narrow, if that was noticed before it
    /// was full for long.
    pub fn stalls(&mut self, now: Instant, wants_more: bool) -> Option<u64> {
        let since = |at: Instant| now.saturating_duration_since(at);
        let stalls = self.moved.is_some_and(|at| since(at) >= STALLED_AFTER);
        let is_wrong = self.refuted && !self.has_just_collapsed(now);
        // An idle one is to stay that.
        if self.idle || !self.can_probe || !(is_wrong || wants_more && stalls) {
            return None;
        }
        self.refuted = false;
        self.moved = Some(now);
        // Whatever is desired afterwards is more than before.
        self.asked = 0;
        self.estimate
    }

    /// Takes note of what would be welcome, bits per second; above 0 video flows
    /// from now on. Answers what str0m has to be told, if anything.
    ///
    /// str0m probes when more is desired than before. It does so by itself only where
    /// much less is sent than is available, which is not so on a narrow link that
    /// has become wide again.
    pub fn want(&mut self, now: Instant, desired: u64, wants_more: bool) -> Option<u64> {
        if desired > 0 {
            self.began.get_or_insert(now);
        } else if !self.proven {
            self.began = None;
        }
        let desired = self.aim(desired);
        let is_other = desired.abs_diff(self.asked) * 100 > self.asked * SAME_PERCENT;
        let waited = |at: Instant| now.saturating_duration_since(at) >= PROBE_INTERVAL;
        let asked = if is_other {
            desired
        } else if wants_more && self.probed.is_none_or(waited) {
            self.probed = Some(now);
            // Any step up will do.
            self.asked + 1
        } else {
            return None;
        };
        self.asked = asked;
        Some(asked)
    }

    /// Looks whether a little more than is known to pass may be tried. `sent`: what is
    /// meant to be sent; `next`: what has to be available for the next step of
    /// somebody, if anybody wants one.
    pub fn try_more(&mut self, now: Instant, sent: u64, next: Option<u64>) {
        let Some(estimate) = self.estimate.filter(|_| self.proven) else {
            return;
        };
        let fell = std::mem::take(&mut self.fell);
        let (passes, percent) = match self.can_probe {
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
        let times = self.round_trip_time.zip(self.shortest);
        times.is_none_or(|(time, shortest)| time > shortest + by)
    }

    /// Whether much of what is sent is lost.
    pub fn loses_much(&self, now: Instant) -> bool {
        self.loss(now).is_some_and(|lost| lost > USELESS_LOSS)
    }

    /// Share of packets lost lately, as far as is known.
    fn loss(&self, now: Instant) -> Option<f32> {
        match self.can_probe {
            true => self.loss,
            false => self.reported.loss(now),
        }
    }

    /// The client says itself what it can receive. What it says depends on what it gets, so
    /// it says nothing of how much more that could be.
    pub fn is_told(&self) -> bool {
        !self.can_probe && self.estimate.is_some()
    }

    /// Whether everything arrives, and in time.
    fn passes(&self, now: Instant) -> bool {
        let is_whole = self.loss(now).is_some_and(|lost| lost <= HARMLESS_LOSS);
        // str0m tells of loss a quarter of a second later.
        is_whole && !self.is_slow(HARMLESS_DELAY) && !self.has_just_collapsed(now)
    }

    /// What an estimate stands for.
    fn known_bitrate(&self, estimate: u64) -> u64 {
        match self.can_probe {
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
