//! Shares a bitrate over ladders. Knows no time: what may not be given yet is capped by the caller.
//!
//! First the lowest rung to everybody, in order of priority. Then rounds, in each of which
//! everybody climbs as many rungs as its priority says, until nobody can climb any more. Who meets
//! a rung that does not fit stays below it; those after may still find something.

use std::cmp::Reverse;
use std::ops::Range;

use super::ladder::Rung;
use super::{KEEP_PERCENT, LAST_LAYER_BITRATE, LAST_LAYER_PERCENT, RISE_PERCENT};
use crate::layers::Layers;
use crate::types::ConsumerKey;

/// One consumer on its way up. Levels count the rungs below: 0 is nothing.
#[derive(Clone, Debug)]
pub(super) struct Climber {
    pub(super) key: ConsumerKey,
    pub(super) priority: u8,
    /// Its ladder among all rungs.
    pub(super) rungs: Range<usize>,
    pub(super) held_layers: Option<Layers>,
    /// The level that it has: it costs a little less than it does, and what is above a little more.
    pub(super) held: usize,
    /// It had its lowest rung taken away for lack of bandwidth; that one costs more, too.
    pub(super) starved: bool,
    /// It may keep its lowest rung even if that does not fit.
    pub(super) may_overdraw: bool,
    /// Where it has to stop.
    pub(super) cap: usize,
    /// How far it came.
    pub(super) level: usize,
    /// Its lowest rung did not fit, and was kept.
    pub(super) overdrawn: bool,
}

impl Climber {
    pub(super) fn height(&self) -> usize {
        self.rungs.len()
    }

    /// The rung that leads to a level.
    pub(super) fn rung(&self, rungs: &[Rung], level: usize) -> Option<Rung> {
        let index = self.rungs.start + level.checked_sub(1)?;
        rungs.get(index).filter(|_| level <= self.height()).copied()
    }

    /// The level of the highest rung up to some layers.
    pub(super) fn level_of(&self, rungs: &[Rung], layers: Layers) -> usize {
        let ladder = rungs.get(self.rungs.clone()).unwrap_or_default();
        ladder.partition_point(|rung| rung.layers <= layers)
    }

    /// What being on a level takes of the budget.
    fn weight(&self, rungs: &[Rung], level: usize) -> u64 {
        let cost = self.rung(rungs, level).map_or(0, |rung| rung.cost);
        if level <= self.held {
            cost.saturating_mul(100) / KEEP_PERCENT
        } else if level == 1 && !self.starved {
            cost
        } else {
            with_headroom(cost)
        }
    }
}

/// What has to be available for a rise to something of this cost.
pub(super) fn with_headroom(cost: u64) -> u64 {
    cost.saturating_mul(RISE_PERCENT) / 100
}

/// Who comes first: a higher priority; then who has more already, so that equals do not take it
/// from each other; then the older one.
pub(super) fn put_in_order(climbers: &[Climber], order: &mut Vec<usize>) {
    order.clear();
    order.extend(0..climbers.len());
    order.sort_unstable_by_key(|index| {
        climbers.get(*index).map(|climber| {
            (
                Reverse(climber.priority),
                Reverse(climber.held_layers),
                climber.key,
            )
        })
    });
}

/// Sets how far each climber comes with a budget, bit/s. `active` is scratch space.
pub(super) fn share(
    budget: u64,
    rungs: &[Rung],
    climbers: &mut [Climber],
    order: &[usize],
    active: &mut Vec<usize>,
) {
    let mut left = serve_lowest(budget, rungs, climbers, order);
    active.clear();
    active.extend(order);
    while !active.is_empty() {
        active.retain(|index| {
            let Some(climber) = climbers.get_mut(*index).filter(|c| c.level > 0) else {
                return false;
            };
            for _ in 0..climber.priority {
                if climber.level >= climber.cap.min(climber.height()) {
                    return false;
                }
                let back = left.saturating_add(climber.weight(rungs, climber.level));
                let Some(rest) = back.checked_sub(climber.weight(rungs, climber.level + 1)) else {
                    return false;
                };
                left = rest;
                climber.level += 1;
            }
            true
        });
    }
}

/// Puts climbers on their lowest rungs: first those that fit, then those that may be kept although
/// they do not. Answers what is left.
fn serve_lowest(budget: u64, rungs: &[Rung], climbers: &mut [Climber], order: &[usize]) -> u64 {
    let most = (budget.saturating_mul(LAST_LAYER_PERCENT) / 100).max(LAST_LAYER_BITRATE);
    let mut used = 0_u64;
    for overdraw in [false, true] {
        let limit = if overdraw { most } else { budget };
        for index in order {
            let Some(climber) = climbers.get_mut(*index) else {
                continue;
            };
            if !overdraw {
                climber.level = 0;
                climber.overdrawn = false;
            }
            let may = climber.cap > 0 && climber.level == 0;
            let after = used.saturating_add(climber.weight(rungs, 1));
            if may && after <= limit && (!overdraw || climber.may_overdraw) {
                climber.level = 1;
                climber.overdrawn = overdraw;
                used = after;
            }
        }
    }
    budget.saturating_sub(used)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use slotmap::KeyData;

    use super::*;

    /// A climber with rungs of these costs, that has reached some level before.
    fn climber(
        key: u64,
        priority: u8,
        costs: &[u64],
        held: usize,
        rungs: &mut Vec<Rung>,
    ) -> Climber {
        let start = rungs.len();
        let layers = |index: usize| Layers::new(index as u8, 0);
        let steps = costs.iter().enumerate();
        rungs.extend(steps.map(|(index, cost)| Rung {
            layers: layers(index),
            cost: *cost,
        }));
        Climber {
            key: ConsumerKey::from(KeyData::from_ffi(key | 1 << 32)),
            priority: NonZeroU8::new(priority).unwrap().get(),
            rungs: start..rungs.len(),
            held_layers: held.checked_sub(1).map(layers),
            held,
            starved: false,
            may_overdraw: false,
            cap: costs.len(),
            level: 9,
            overdrawn: true,
        }
    }

    fn levels(budget: u64, rungs: &[Rung], climbers: &mut [Climber]) -> Vec<usize> {
        let (mut order, mut active) = (Vec::new(), Vec::new());
        put_in_order(climbers, &mut order);
        share(budget, rungs, climbers, &order, &mut active);
        climbers.iter().map(|climber| climber.level).collect()
    }

    const THREE: &[u64] = &[100, 300, 900];

    #[test]
    fn budgets_are_shared_by_priority_in_turns() {
        let one = |costs| (costs, 1, 3);
        type Case<'a> = (&'a str, u64, &'a [(&'a [u64], u8, usize)], &'a [usize]);
        let cases: &[Case<'_>] = &[
            ("nothing", 0, &[one(THREE), one(THREE)], &[0, 0]),
            ("nobody", 1000, &[], &[]),
            ("everything", u64::MAX, &[one(THREE), one(&[7])], &[3, 1]),
            ("nothing flows", 1000, &[one(&[]), one(THREE)], &[0, 3]),
            ("lowest first", 499, &[one(THREE), one(THREE)], &[2, 1]),
            ("older first", 120, &[one(THREE), one(THREE)], &[1, 0]),
            ("smaller one fits", 120, &[one(&[500]), one(THREE)], &[0, 1]),
            ("in turns", 600, &[one(THREE), one(THREE)], &[2, 2]),
            (
                "the rest to the older",
                1150,
                &[one(THREE), one(THREE)],
                &[3, 2],
            ),
            (
                "higher first",
                120,
                &[(THREE, 1, 3), (THREE, 2, 3)],
                &[0, 1],
            ),
            (
                "lowest before priority",
                970,
                &[(THREE, 1, 3), (THREE, 255, 3)],
                &[1, 3],
            ),
            (
                "steps by priority",
                1010,
                &[(THREE, 1, 3), (THREE, 2, 3)],
                &[1, 3],
            ),
            (
                "one who has more keeps it",
                1150,
                &[(THREE, 1, 2), (THREE, 1, 3)],
                &[2, 3],
            ),
            // What is new needs 110 %, but for the first rung.
            ("no headroom", 310, &[(THREE, 1, 1)], &[1]),
            ("headroom", 330, &[(THREE, 1, 1)], &[2]),
            ("first rung", 100, &[(THREE, 1, 0)], &[1]),
            // What is held, 100/105.
            ("kept", 858, &[(THREE, 1, 3)], &[3]),
            ("lost", 856, &[(THREE, 1, 3)], &[2]),
            // A higher priority's rise goes before what others have.
            ("displaced", 1290, &[(THREE, 9, 2), (THREE, 1, 3)], &[3, 2]),
        ];
        for (name, budget, demands, expected) in cases {
            let mut rungs = Vec::new();
            let mut climbers: Vec<_> = (1..)
                .zip(*demands)
                .map(|(key, (costs, priority, held))| {
                    climber(key, *priority, costs, *held, &mut rungs)
                })
                .collect();
            assert_eq!(levels(*budget, &rungs, &mut climbers), *expected, "{name}");
            assert!(climbers.iter().all(|climber| !climber.overdrawn), "{name}");
        }
    }

    #[test]
    fn lowest_rungs_may_be_kept_within_limits() {
        /// Budget, may overdraw, levels, overdrawn.
        type Case = (u64, [bool; 3], [usize; 3], [bool; 3]);
        let cases: [Case; 6] = [
            (450_000, [true; 3], [1, 1, 1], [false; 3]),
            (300_000, [true; 3], [1, 1, 1], [false, false, true]),
            (300_000, [false; 3], [1, 1, 0], [false; 3]),
            (280_000, [true; 3], [1, 1, 0], [false, true, false]),
            (0, [true; 3], [1, 0, 0], [true, false, false]),
            (0, [false, true, false], [0, 1, 0], [false, true, false]),
        ];
        for (budget, may, expected, overdrawn) in cases {
            let mut rungs = Vec::new();
            let mut climbers: Vec<_> = [&[150_000, 300_000, 900_000][..], &[150_000], &[150_000]]
                .into_iter()
                .enumerate()
                .map(|(index, costs)| climber(index as u64, 1, costs, costs.len(), &mut rungs))
                .collect();
            for (climber, may) in climbers.iter_mut().zip(may) {
                climber.may_overdraw = may;
            }
            assert_eq!(
                levels(budget, &rungs, &mut climbers),
                expected,
                "{budget} {may:?}"
            );
            let got: Vec<_> = climbers.iter().map(|climber| climber.overdrawn).collect();
            assert_eq!(got, overdrawn, "{budget} {may:?}");
        }
    }

    #[test]
    fn a_cap_leaves_the_rest_to_others() {
        let mut rungs = Vec::new();
        let mut climbers = [
            climber(1, 1, THREE, 3, &mut rungs),
            climber(2, 1, THREE, 3, &mut rungs),
            climber(3, 1, THREE, 3, &mut rungs),
        ];
        climbers[0].cap = 1;
        climbers[1].cap = 0;
        assert_eq!(levels(1000, &rungs, &mut climbers), [1, 0, 3]);
    }

    #[test]
    fn a_larger_budget_is_never_used_less() {
        let ladders: [(&[u64], u8, usize); 5] = [
            (&[100, 300, 900], 1, 0),
            (&[50, 60, 70, 400, 410], 3, 2),
            (&[640], 2, 0),
            (&[120, 500], 3, 2),
            (&[10, 1000, 1100], 255, 1),
        ];
        let mut rungs = Vec::new();
        let mut climbers: Vec<_> = (1..)
            .zip(ladders)
            .map(|(key, (costs, priority, held))| climber(key, priority, costs, held, &mut rungs))
            .collect();
        let mut before = 0;
        for budget in 0..4000 {
            levels(budget, &rungs, &mut climbers);
            let weight = |climber: &Climber| climber.weight(&rungs, climber.level);
            let used = climbers.iter().map(weight).sum();
            assert!((before..=budget).contains(&used), "{used} of {budget}");
            before = used;
        }
        assert!(
            climbers
                .iter()
                .all(|climber| climber.level == climber.height())
        );
    }
}
