//! How a transport's bitrate is shared over its video consumers.
//!
//! Each consumer has a *ladder*: the layers that flow and that it wants, as steps of rising quality
//! and cost (`ladder.rs`). The bitrate is shared by climbing those ladders in turns (`sharing.rs`).
//! That alone would change layers whenever a cost or the estimate moves a little, so:
//!
//! - *Down at once.* What a consumer has already it keeps while it costs no more than
//!   [`KEEP_PERCENT`] of what there is; then it falls to what fits, in the same call.
//! - *Up with patience.* A step up has to fit with [`RISE_PERCENT`] of its cost, at every call of
//!   [`PATIENCE`]. Each fall within [`FAILED_WITHIN`] after a rise of anyone doubles that time for
//!   the consumer that fell, up to 2^[`MAX_FAILURES`] times; a fall after a longer time halves it
//!   again, and so does every [`CALM`] without a failure. Where less than half of what is sent is
//!   left, the link is another one, and no rise is to blame. Who has nothing yet, and whose client
//!   has just asked for something else, need not wait.
//! - *The lowest layer goes last.* When not even the lowest layers fit, those that are sent stay for
//!   [`LAST_LAYER_PATIENCE`], because estimates fall too low before they settle, and a frozen picture
//!   is worse than a short queue; within limits ([`LAST_LAYER_PERCENT`], [`LAST_LAYER_BITRATE`]).
//!
//! `docs/bandwidth.md` tells the same to operators.

mod ladder;
mod sharing;

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use crate::allocation::ladder::Rung;
use crate::allocation::sharing::{Climber, with_headroom};
use crate::layers::{LayerCosts, Layers};
use crate::types::ConsumerKey;

/// What a consumer has already is kept while it costs no more than this share of what is
/// available, in percent.
pub const KEEP_PERCENT: u64 = 105;

/// Share of its cost that has to be available for a step up, in percent.
pub const RISE_PERCENT: u64 = 110;

/// How long a step up has to fit before it is taken, unless earlier ones have failed.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// A rise has failed when bandwidth takes it away again within this time.
pub const FAILED_WITHIN: Duration = Duration::from_secs(20);

/// How often failed rises double [`PATIENCE`], at most.
pub const MAX_FAILURES: u32 = 3;

/// One failed rise is forgotten after each such time without another one.
pub const CALM: Duration = Duration::from_secs(60);

/// How long the lowest layers are sent although they do not fit.
pub const LAST_LAYER_PATIENCE: Duration = Duration::from_secs(5);

/// Most that the lowest layers may take during [`LAST_LAYER_PATIENCE`], in percent of what is
/// available.
pub const LAST_LAYER_PERCENT: u64 = 150;

/// What the lowest layers may take during [`LAST_LAYER_PATIENCE`] however little is available,
/// bit/s.
pub const LAST_LAYER_BITRATE: u64 = 200_000;

/// What one video consumer of a transport wants. Not for one that is paused, or whose producer is.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Whose.
    pub key: ConsumerKey,
    /// Its weight.
    pub priority: NonZeroU8,
    /// The highest layers that it wants, by spatial, then by temporal layer: at lower spatial
    /// layers than this one any temporal layer is welcome.
    pub preferred: Layers,
    /// What it is sent now, a keyframe of its target may be missing. It counts as what the consumer
    /// has when the allocator does not know it yet.
    pub current: Option<Layers>,
    /// What flows of its producer, and what that costs.
    pub costs: &'a LayerCosts,
}

/// What one consumer should get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Who.
    pub key: ConsumerKey,
    /// Which layers; `None` is nothing.
    pub target: Option<Layers>,
    /// What they cost, bit/s.
    pub bitrate: u64,
    /// Why not more.
    pub reason: Reason,
}

/// What keeps a consumer from getting more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It gets the best that flows of what it wants.
    Preferred,
    /// Its producer sends nothing.
    NotFlowing,
    /// There is not enough for its next step.
    Bandwidth {
        /// The step.
        next: Layers,
        /// What would have to be available for it, bit/s: it and everything else that is sent, and
        /// some headroom. Others whose turn is earlier may take what gets free.
        needs: u64,
    },
    /// There is enough for a step up, but not for long enough yet.
    Hold {
        /// The step.
        next: Layers,
        /// When it will be taken if it fits until then.
        until: Instant,
    },
    /// There is too little even for its lowest layer, which is sent nevertheless.
    LastLayer {
        /// What would have to be available to keep it, bit/s.
        needs: u64,
        /// When nothing will be sent unless there is more by then.
        until: Instant,
    },
}

/// Shares one transport's bitrate over its video consumers. Remembers each consumer as long as every
/// call names it.
#[derive(Debug, Default)]
pub struct Allocator {
    histories: BTreeMap<ConsumerKey, History>,
    /// Number of the call, to find histories that it did not name.
    call: u64,
    rungs: Vec<Rung>,
    climbers: Vec<Climber>,
    order: Vec<usize>,
    active: Vec<usize>,
    /// When anyone rose last.
    risen: Option<Instant>,
}

impl Allocator {
    /// An allocator that knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what each consumer should get of `available`, bit/s for video alone and counted as the
    /// costs are. `out` is cleared; its order is that of the demands, each of which names another
    /// consumer. Call it a few times per second, because time is counted in calls that agree.
    ///
    /// The sum of bitrates is at most [`KEEP_PERCENT`] of what is available, and what does not only
    /// keep what was there before fits completely. The exception are consumers with
    /// [`Reason::LastLayer`]; while there are any, nobody gets more than its lowest rung.
    pub fn allocate(
        &mut self,
        now: Instant,
        available: u64,
        demands: &[Demand<'_>],
        out: &mut Vec<Allocation>,
    ) {
        out.clear();
        self.call = self.call.wrapping_add(1);
        self.meet(demands);
        sharing::put_in_order(&self.climbers, &mut self.order);
        self.share(available);
        for (climber, demand) in self.climbers.iter_mut().zip(demands) {
            if let Some(history) = self.histories.get_mut(&demand.key) {
                climber.cap = history.cap(now, demand, climber, &self.rungs);
                climber.may_overdraw = climber.held > 0 && history.may_overdraw(now);
            }
        }
        self.share(available);
        let cost = |climber: &Climber| {
            let rung = climber.rung(&self.rungs, climber.level);
            rung.map_or(0, |rung| rung.cost)
        };
        let total = self.climbers.iter().map(cost).sum();
        let held = |climber: &Climber| {
            let rung = climber.rung(&self.rungs, climber.held);
            rung.map_or(0, |rung| rung.cost)
        };
        let held: u64 = self.climbers.iter().map(held).sum();
        // Another link: no rise is to blame for what is lost.
        let risen = self.risen.filter(|_| available >= held / 2);
        for (climber, demand) in self.climbers.iter().zip(demands) {
            if let Some(history) = self.histories.get_mut(&demand.key) {
                let target = history.settle(now, climber, &self.rungs, risen);
                self.risen = self.risen.max(history.risen);
                out.push(Allocation {
                    key: demand.key,
                    target,
                    bitrate: cost(climber),
                    reason: history.reason(now, climber, &self.rungs, total),
                });
            }
        }
        if self.histories.len() > demands.len() {
            let call = self.call;
            self.histories.retain(|_, history| history.call == call);
        }
    }

    /// What all would need for the best that flows of what they want, bit/s. For a rise to it,
    /// [`RISE_PERCENT`] of that has to be available.
    #[must_use]
    pub fn desired(&mut self, demands: &[Demand<'_>]) -> u64 {
        let rungs = &mut self.rungs;
        let costs = demands
            .iter()
            .map(|demand| ladder::top_cost(demand.costs, demand.preferred, rungs));
        costs.sum()
    }

    /// How many consumers are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.histories.len()
    }

    /// Makes the ladders, and a history for who has none.
    fn meet(&mut self, demands: &[Demand<'_>]) {
        self.rungs.clear();
        self.climbers.clear();
        for demand in demands {
            let history = self.histories.entry(demand.key);
            let history = history.or_insert_with(|| History::new(demand));
            history.call = self.call;
            let held_layers = history.target;
            let rungs = ladder::build(demand.costs, demand.preferred, held_layers, &mut self.rungs);
            let mut climber = Climber {
                key: demand.key,
                priority: demand.priority.get(),
                cap: rungs.len(),
                rungs,
                held_layers,
                held: 0,
                starved: history.starved,
                may_overdraw: false,
                level: 0,
                overdrawn: false,
            };
            climber.held = held_layers.map_or(0, |held| climber.level_of(&self.rungs, held));
            self.climbers.push(climber);
        }
    }

    fn share(&mut self, available: u64) {
        let Self {
            rungs,
            climbers,
            order,
            active,
            ..
        } = self;
        sharing::share(available, rungs, climbers, order, active);
    }
}

/// What is remembered of a consumer from call to call.
#[derive(Debug)]
struct History {
    call: u64,
    wanted: (NonZeroU8, Layers),
    /// What it was told to get last.
    target: Option<Layers>,
    /// It gets nothing because of bandwidth.
    starved: bool,
    /// A rise that waits.
    rise: Option<Rise>,
    /// When it rose last, until a fall.
    risen: Option<Instant>,
    /// When it fell last.
    fallen: Option<Instant>,
    failures: u32,
    /// When the last rise failed.
    failed: Option<Instant>,
    /// Since when its lowest layer is more than fits.
    overdrawn: Option<Instant>,
}

/// What has fitted since then.
#[derive(Clone, Copy, Debug)]
struct Rise {
    to: Layers,
    since: Instant,
}

impl History {
    fn new(demand: &Demand<'_>) -> Self {
        Self {
            call: 0,
            wanted: (demand.priority, demand.preferred),
            target: demand.current,
            starved: false,
            rise: None,
            risen: None,
            fallen: None,
            failures: 0,
            failed: None,
            overdrawn: None,
        }
    }

    /// How far a consumer may climb now, given that it could come to the climber's level.
    fn cap(
        &mut self,
        now: Instant,
        demand: &Demand<'_>,
        climber: &Climber,
        rungs: &[Rung],
    ) -> usize {
        let wanted = (demand.priority, demand.preferred);
        let has_asked = std::mem::replace(&mut self.wanted, wanted) != wanted;
        let rung = climber.rung(rungs, climber.level);
        let Some(to) = rung.filter(|_| climber.level > climber.held) else {
            self.rise = None;
            return climber.held;
        };
        let fresh = Rise {
            to: to.layers,
            since: now,
        };
        let mut rise = self.rise.unwrap_or(fresh);
        let level = climber.level_of(rungs, rise.to.min(to.layers));
        match climber.rung(rungs, level) {
            Some(rung) if level > climber.held => rise.to = rung.layers,
            // Something else flows now than when it began.
            _ => rise = fresh,
        }
        let has_nothing = climber.held == 0 && !self.starved;
        if has_asked || has_nothing {
            self.rise = None;
            return climber.level;
        }
        self.rise = Some(rise);
        if now < rise.since + self.patience(now) {
            return climber.held;
        }
        climber.level_of(rungs, rise.to)
    }

    /// How long a rise has to fit.
    fn patience(&mut self, now: Instant) -> Duration {
        while self.failures > 0
            && let Some(failed) = self.failed
            && now >= failed + CALM
        {
            self.failures -= 1;
            self.failed = Some(failed + CALM);
        }
        PATIENCE * 2_u32.pow(self.failures)
    }

    fn may_overdraw(&self, now: Instant) -> bool {
        self.overdrawn
            .is_none_or(|since| now < since + LAST_LAYER_PATIENCE)
    }

    /// Takes note of what a consumer gets; `risen` is when anyone rose last, before this call.
    fn settle(
        &mut self,
        now: Instant,
        climber: &Climber,
        rungs: &[Rung],
        risen: Option<Instant>,
    ) -> Option<Layers> {
        if climber.level > climber.held {
            // A start is no attempt.
            self.risen = self.rise.take().map(|_| now);
        } else if climber.level < climber.held {
            self.fall(now, risen);
        }
        self.overdrawn = climber.overdrawn.then(|| self.overdrawn.unwrap_or(now));
        self.target = climber.rung(rungs, climber.level).map(|rung| rung.layers);
        self.starved = self.target.is_none() && climber.height() > 0;
        self.target
    }

    /// Blames a fall on the last rise. Whose that was makes no difference: it took the room.
    fn fall(&mut self, now: Instant, risen: Option<Instant>) {
        let own = self.risen.take();
        let risen = risen.filter(|risen| self.fallen.is_none_or(|fallen| fallen < *risen));
        self.fallen = Some(now);
        if risen.is_some_and(|risen| now < risen + FAILED_WITHIN) {
            self.failures = (self.failures + 1).min(MAX_FAILURES);
            self.failed = Some(now);
        } else if own.is_some() {
            self.failures = self.failures.saturating_sub(1);
        }
    }

    /// Why a consumer does not get more; `total` is what all get.
    fn reason(&mut self, now: Instant, climber: &Climber, rungs: &[Rung], total: u64) -> Reason {
        let cost = climber.rung(rungs, climber.level).map_or(0, |r| r.cost);
        if let Some(since) = self.overdrawn {
            return Reason::LastLayer {
                needs: total.saturating_mul(100) / KEEP_PERCENT,
                until: since + LAST_LAYER_PATIENCE,
            };
        }
        let Some(next) = climber.rung(rungs, climber.level + 1) else {
            return if climber.height() == 0 {
                Reason::NotFlowing
            } else {
                Reason::Preferred
            };
        };
        if let Some(rise) = self.rise {
            let until = rise.since + self.patience(now);
            if now < until {
                return Reason::Hold {
                    next: rise.to,
                    until,
                };
            }
        }
        let rest = total.saturating_sub(cost);
        Reason::Bandwidth {
            next: next.layers,
            needs: rest.saturating_add(with_headroom(next.cost)),
        }
    }
}
