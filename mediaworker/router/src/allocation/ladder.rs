//! The layers that one consumer could get, as steps of rising quality and cost.

use std::ops::Range;

use crate::layers::{LayerCosts, Layers, MAX_TEMPORAL_LAYERS};

/// A step of a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rung {
    pub(super) layers: Layers,
    /// Of everything up to these layers, bit/s.
    pub(super) cost: u64,
}

/// Appends a consumer's ladder to `rungs`, lowest first; answers where it is. It is empty when
/// nothing flows.
///
/// A ladder has what flows up to `preferred`, by spatial and then by temporal layer. Left out is
/// what nobody should get: less than half of the frame rate for the sake of a higher spatial layer,
/// and what costs as much as something better. What is `held` already stays in any case, lest it be
/// lost because costs have moved a little.
pub(super) fn build(
    costs: &LayerCosts,
    preferred: Layers,
    held: Option<Layers>,
    rungs: &mut Vec<Rung>,
) -> Range<usize> {
    let start = rungs.len();
    let Some((lowest, _)) = costs.iter().next() else {
        return start..start;
    };
    // When nothing flows of what is wanted, the lowest is as good as it gets.
    let cap = if lowest > preferred {
        Layers::new(lowest.spatial, lowest.temporal.max(preferred.temporal))
    } else {
        preferred
    };
    for (layers, cost) in costs.iter().take_while(|(layers, _)| *layers <= cap) {
        let is_smooth = layers.spatial == lowest.spatial
            || layers.temporal + 1 >= highest_temporal(costs, layers.spatial);
        if is_smooth || layers == cap || Some(layers) == held {
            push(Rung { layers, cost }, held, start, rungs);
        }
    }
    start..rungs.len()
}

/// What the best that flows of what a consumer wants costs, bit/s; 0 when nothing does.
pub(super) fn top_cost(costs: &LayerCosts, preferred: Layers, rungs: &mut Vec<Rung>) -> u64 {
    rungs.clear();
    build(costs, preferred, None, rungs);
    rungs.last().map_or(0, |rung| rung.cost)
}

/// Puts a rung on top, and takes away those below that cost as much.
fn push(rung: Rung, held: Option<Layers>, start: usize, rungs: &mut Vec<Rung>) {
    let mut kept = None;
    while rungs.len() > start
        && let Some(below) = rungs.last().copied()
    {
        if Some(below.layers) == held {
            kept = Some(below);
        } else if below.cost < rung.cost {
            break;
        }
        rungs.pop();
    }
    rungs.extend(kept);
    rungs.push(rung);
}

fn highest_temporal(costs: &LayerCosts, spatial: u8) -> u8 {
    (0..MAX_TEMPORAL_LAYERS as u8)
        .rev()
        .find(|temporal| costs.get(Layers::new(spatial, *temporal)).is_some())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Costs in kbit/s of each spatial layer's temporal layers; 0 does not flow.
    fn costs(kbits: &[&[u64]]) -> LayerCosts {
        let mut costs = LayerCosts::default();
        for (spatial, row) in (0u8..).zip(kbits) {
            for (temporal, kbit) in (0u8..).zip(*row) {
                if *kbit > 0 {
                    costs.set(Layers::new(spatial, temporal), kbit * 1000);
                }
            }
        }
        costs
    }

    #[test]
    fn ladders_rise_in_quality_and_cost() {
        let simulcast: &[&[u64]] = &[&[60, 90, 150], &[200, 300, 500], &[600, 900, 1500]];
        let no_temporal: &[&[u64]] = &[&[150], &[500], &[1500]];
        let two_temporal: &[&[u64]] = &[&[90, 150], &[300, 500]];
        let (all, none) = ((15, 7), None);
        type Case<'a> = (&'a [&'a [u64]], (u8, u8), Option<(u8, u8)>, &'a str);
        let cases: [Case<'_>; 18] = [
            // Above the lowest spatial layer, a quarter of the frame rate is not worth it.
            (simulcast, all, none, "00 01 02 11 12 21 22"),
            (simulcast, all, Some((2, 0)), "00 01 02 11 12 20 21 22"),
            (simulcast, (2, 2), none, "00 01 02 11 12 21 22"),
            (simulcast, (2, 1), none, "00 01 02 11 12 21"),
            // What is asked for by name is a step.
            (simulcast, (2, 0), none, "00 01 02 11 12 20"),
            (simulcast, (1, 7), none, "00 01 02 11 12"),
            (simulcast, (0, 1), none, "00 01"),
            (simulcast, (0, 0), none, "00"),
            (no_temporal, all, none, "00 10 20"),
            (two_temporal, all, none, "00 01 10 11"),
            // Missing layers; when only higher ones flow, the lowest of them is taken.
            (&[&[150], &[0], &[1500]], all, none, "00 20"),
            (&[&[0], &[300, 500], &[1500]], (0, 0), none, "10"),
            (&[&[0], &[300, 500], &[1500]], (0, 1), none, "10 11"),
            (&[], all, none, ""),
            // What costs as much as something better is left out, unless it is held.
            (&[&[60, 90, 150], &[80, 85]], all, none, "00 10 11"),
            (
                &[&[60, 90, 150], &[80, 85]],
                all,
                Some((0, 2)),
                "00 02 10 11",
            ),
            (&[&[60, 90, 150], &[50]], all, Some((0, 1)), "01 10"),
            (&[&[100], &[100], &[100]], all, Some((0, 0)), "00 20"),
        ];
        for (index, (kbits, preferred, held, expected)) in cases.into_iter().enumerate() {
            let layers = |(spatial, temporal)| Layers::new(spatial, temporal);
            let foreign = Rung {
                layers: Layers::HIGHEST,
                cost: u64::MAX,
            };
            let mut rungs = vec![foreign];
            let costs = costs(kbits);
            let range = build(&costs, layers(preferred), held.map(layers), &mut rungs);
            assert_eq!(range, 1..rungs.len(), "case {index}");
            let got: Vec<_> = rungs[range]
                .iter()
                .inspect(|rung| assert_eq!(costs.get(rung.layers), Some(rung.cost)))
                .map(|rung| format!("{}{}", rung.layers.spatial, rung.layers.temporal))
                .collect();
            assert_eq!(got.join(" "), expected, "case {index}");
            assert_eq!(rungs[0], foreign, "case {index}");
        }
    }
}
