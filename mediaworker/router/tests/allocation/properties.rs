//! Random transports: what must hold at every call, and how often layers change.

use router::allocation::{
    KEEP_PERCENT, LAST_LAYER_BITRATE, LAST_LAYER_PATIENCE, LAST_LAYER_PERCENT,
};

use super::random::Random;
use super::*;

/// Seeds of random transports.
const SEEDS: u64 = 2000;

/// Calls per seed.
const CALLS: u64 = 75;

/// A cost that wanders around its mean as a measurement over one to two seconds does.
#[derive(Clone, Copy)]
struct Noise {
    /// Most that it is off, in percent.
    percent: u64,
    /// Between −1 and 1.
    level: f64,
}

impl Noise {
    fn new(percent: u64) -> Self {
        Self {
            percent,
            level: 0.0,
        }
    }

    /// 200 ms later.
    fn step(&mut self, random: &mut Random) -> f64 {
        let fresh = random.range(0, 2001) as f64 / 1000.0 - 1.0;
        self.level = (self.level * 0.87 + fresh * 0.4).clamp(-1.0, 1.0);
        1.0 + self.level * self.percent as f64 / 100.0
    }
}

/// A consumer of a producer that changes.
struct Member {
    number: u64,
    priority: u8,
    preferred: Layers,
    kbits: Vec<Vec<u64>>,
    /// Bits of spatial layers that do not flow.
    silent: u64,
    noise: Noise,
}

impl Member {
    fn new(number: u64, random: &mut Random) -> Self {
        let spatial = random.range(1, 4);
        let temporal = random.range(1, 4);
        let mut kbit = random.range(20, 300);
        let mut kbits = Vec::new();
        for _ in 0..spatial {
            let rates = (1..=temporal).map(|t| kbit * (t + 1) / (temporal + 1));
            kbits.push(rates.collect());
            kbit = kbit * random.range(15, 45) / 10;
        }
        Self {
            number,
            priority: random.pick(&[1, 1, 1, 2, 10, 255]).unwrap(),
            preferred: Layers::HIGHEST,
            kbits,
            silent: 0,
            noise: Noise::new(random.range(0, 31)),
        }
    }

    fn change(&mut self, random: &mut Random) {
        match random.range(0, 60) {
            0 => self.silent ^= 1 << random.range(0, 3),
            1 => {
                let [spatial, temporal] = [0, 1].map(|_| random.range(0, 3) as u8);
                self.preferred = Layers::new(spatial, temporal);
            }
            2 => self.preferred = Layers::HIGHEST,
            3 => self.priority = random.range(1, 256) as u8,
            _ => {}
        }
    }

    fn consumer(&mut self, random: &mut Random) -> Consumer {
        let factor = self.noise.step(random);
        let mut costs = LayerCosts::default();
        for (spatial, row) in (0u8..).zip(&self.kbits) {
            for (temporal, kbit) in (0u8..).zip(row) {
                if self.silent & (1 << spatial) == 0 {
                    let bitrate = (*kbit as f64 * 1000.0 * factor) as u64;
                    costs.set(Layers::new(spatial, temporal), bitrate);
                }
            }
        }
        Consumer {
            key: key(self.number),
            priority: self.priority,
            preferred: self.preferred,
            current: None,
            costs,
        }
    }
}

/// What the lowest rung costs: the cheapest that flows and is wanted, or else at all.
fn lowest(consumer: &Consumer) -> Option<u64> {
    let wanted = consumer.costs.iter();
    let wanted = wanted.filter(|(layers, _)| *layers <= consumer.preferred);
    wanted
        .map(|(_, cost)| cost)
        .min()
        .or_else(|| consumer.costs.iter().next().map(|(_, cost)| cost))
}

fn check(transport: &Transport, available: u64, consumers: &[Consumer]) {
    let out = &transport.out;
    assert_eq!(out.len(), consumers.len());
    assert_eq!(transport.allocator.remembered(), consumers.len());
    let mut is_overdrawn = false;
    for (allocation, consumer) in out.iter().zip(consumers) {
        assert_eq!(allocation.key, consumer.key);
        if let Reason::LastLayer { until, .. } = allocation.reason {
            is_overdrawn = true;
            assert!(until > transport.now - CALL);
            assert!(until <= transport.now - CALL + LAST_LAYER_PATIENCE);
        }
        let flows = consumer.costs.iter().next();
        let nothing_flows = allocation.reason == Reason::NotFlowing;
        assert_eq!(flows.is_none(), nothing_flows);
        let Some(target) = allocation.target else {
            assert_eq!(allocation.bitrate, 0);
            continue;
        };
        assert_eq!(consumer.costs.get(target), Some(allocation.bitrate));
        let lowest = flows.unwrap().0;
        assert!(target <= consumer.preferred || target.spatial == lowest.spatial);
        if let Reason::Bandwidth { next, .. } | Reason::Hold { next, .. } = allocation.reason {
            assert!(next > target && consumer.costs.get(next).is_some());
        }
    }
    let rounding = 2 * consumers.len() as u64;
    let most = available * KEEP_PERCENT / 100 + rounding;
    let sum = total(out);
    if is_overdrawn {
        let limit = (available * LAST_LAYER_PERCENT / 100).max(LAST_LAYER_BITRATE);
        assert!(
            sum <= limit * KEEP_PERCENT / 100 + rounding,
            "{sum} of {limit}"
        );
    } else {
        assert!(sum <= most, "{sum} of {available}");
    }
    // Nobody has more than the least while that would be enough for somebody who has nothing.
    let least = |consumer: &Consumer| lowest(consumer).unwrap_or(0);
    let has_more =
        |(allocation, consumer): (&Allocation, &Consumer)| allocation.bitrate > least(consumer);
    if !out.iter().zip(consumers).any(has_more) {
        return;
    }
    assert!(!is_overdrawn);
    // What somebody waits for is kept free.
    let is_served = |allocation: &Allocation| {
        allocation.target.is_some() || matches!(allocation.reason, Reason::Hold { .. })
    };
    let served = out.iter().zip(consumers);
    let served: u64 = served
        .filter(|(allocation, _)| is_served(allocation))
        .map(|(_, consumer)| least(consumer))
        .sum();
    for (allocation, consumer) in out.iter().zip(consumers) {
        if allocation.target.is_none() && needs(allocation).is_some() {
            assert!((served + least(consumer)) * 110 / 100 + rounding >= available);
        }
    }
}

#[test]
fn whatever_happens_the_sum_fits_and_nobody_starves_for_another_one() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut transports = [Transport::new(), Transport::new()];
        let start = transports[0].start;
        transports[1].start = start;
        transports[1].now = start;
        let mut members = Vec::new();
        let mut numbers = 1;
        let mut available = random.range(0, 5_000_000);
        for _ in 0..CALLS {
            match random.range(0, 40) {
                0 => available = random.range(0, 8_000_000),
                1 => available = random.range(0, 400_000),
                2..20 => available = available * random.range(93, 109) / 100,
                _ => {}
            }
            if members.len() < 8 && random.percent(8) {
                members.push(Member::new(numbers, &mut random));
                numbers += 1;
            } else if !members.is_empty() && random.percent(3) {
                let index = random.range(0, members.len() as u64) as usize;
                members.swap_remove(index);
            }
            members
                .iter_mut()
                .for_each(|member| member.change(&mut random));
            let consumers: Vec<_> = members
                .iter_mut()
                .map(|member| member.consumer(&mut random))
                .collect();
            for transport in &mut transports {
                transport.call(available, &consumers);
            }
            let [one, other] = &transports;
            let result = std::panic::catch_unwind(|| check(one, available, &consumers));
            assert!(
                result.is_ok(),
                "seed {seed} after {:?}: {available} bit/s for {consumers:#?}: {:#?}",
                one.elapsed(),
                one.out
            );
            assert_eq!(one.out, other.out, "seed {seed}: not deterministic");
        }
        for transport in &mut transports {
            transport.call(available, &[]);
            assert_eq!(transport.allocator.remembered(), 0, "seed {seed}");
        }
    }
}

/// What a reason says is enough is enough, for the one who is asked about, if others stay.
#[test]
fn what_a_reason_says_is_needed_is_what_is_needed() {
    let mut rises = 0;
    for seed in 0..1000 {
        let mut random = Random::new(seed);
        let mut member = Member::new(1, &mut random);
        member.noise = Noise::new(0);
        let consumers = [member.consumer(&mut random)];
        let mut transport = Transport::new();
        let available = random.range(1000, 2_000_000);
        let first = transport.call(available, &consumers)[0];
        let Some(needs) = needs(&first) else {
            continue;
        };
        rises += 1;
        let minute = Duration::from_secs(60);
        let less = transport.stay(minute, needs - 1, &consumers)[0];
        assert_eq!(less.target, first.target, "seed {seed}: {first:?}");
        let enough = transport.stay(minute, needs, &consumers)[0];
        assert!(enough.target > first.target, "seed {seed}: {first:?}");
    }
    assert!(rises > 300, "{rises}");
}

#[test]
fn more_never_gives_anyone_alone_less_nor_all_together() {
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let members = random.range(1, 6);
        let consumers: Vec<_> = (1..=members)
            .map(|number| Member::new(number, &mut random).consumer(&mut random))
            .collect();
        let mut totals = Vec::new();
        for step in 0..60 {
            let available = step * 100_000;
            totals.push(total(Transport::new().call(available, &consumers)));
        }
        for pair in totals.windows(2) {
            // Only the lowest rungs need no headroom, so a total of several may trade it.
            let least = if members == 1 {
                pair[0]
            } else {
                pair[0] * 100 / 110
            };
            assert!(pair[1] >= least, "seed {seed}: {totals:?}");
        }
        let wanted = consumers.iter().filter_map(|c| c.costs.iter().last());
        let wanted = wanted.map(|(_, cost)| cost).sum::<u64>();
        let all = total(Transport::new().call(wanted * 110 / 100 + 9, &consumers));
        assert_eq!(all, wanted, "seed {seed}");
    }
}

/// Most changes of one consumer's target within any minute, and in all.
fn changes(seed: u64, noise: u64, available: u64, members: u64, minutes: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let kbits: &[&[&[u64]]] = &[
        SIMULCAST,
        &[&[60, 90, 150], &[200, 300, 500], &[600, 900, 1500]],
    ];
    let mut members: Vec<_> = (1..=members)
        .map(|number| Member {
            kbits: random
                .pick(kbits)
                .unwrap()
                .iter()
                .map(|row| row.to_vec())
                .collect(),
            noise: Noise::new(noise),
            priority: 1,
            ..Member::new(number, &mut random)
        })
        .collect();
    let mut estimate = Noise::new(noise / 4);
    let mut transport = Transport::new();
    let mut last = vec![None; members.len()];
    let mut times = vec![Vec::new(); members.len()];
    for _ in 0..minutes * 300 {
        let consumers: Vec<_> = members
            .iter_mut()
            .map(|member| member.consumer(&mut random))
            .collect();
        let estimate = (available as f64 * estimate.step(&mut random)) as u64;
        let now = transport.elapsed();
        let out = transport.call(estimate, &consumers);
        for ((allocation, last), times) in out.iter().zip(&mut last).zip(&mut times) {
            if std::mem::replace(last, allocation.target) != allocation.target {
                times.push(now);
            }
        }
    }
    let minute = Duration::from_secs(60);
    let within = |times: &Vec<Duration>| {
        let counts = times.iter().map(|first| {
            let after = times.iter().filter(|time| *time >= first);
            after.filter(|time| **time < *first + minute).count()
        });
        counts.max().unwrap_or(0)
    };
    let worst = times.iter().map(within).max().unwrap_or(0);
    (worst, times.iter().map(Vec::len).max().unwrap_or(0))
}

/// Costs that are ±20 % off and an estimate that is ±5 % off, around every threshold there is: at
/// most 13 changes within any minute, and 7 per minute in the long run, of the consumer that has
/// most of them.
#[test]
fn layers_do_not_flap() {
    let mut worst = (0, 0);
    for seed in 0..250 {
        let members = 1 + seed % 3;
        let available = 50_000 + Random::new(seed).range(0, 2_000_000) * members;
        let (in_a_minute, in_all) = changes(seed, 20, available, members, 10);
        assert!(
            in_a_minute <= 13 && in_all <= 70,
            "seed {seed}: {in_a_minute} changes within a minute, {in_all} in 10 minutes"
        );
        worst = (worst.0.max(in_a_minute), worst.1.max(in_all));
    }
    // The noise is loud enough to matter.
    assert!(worst.0 > 5, "{worst:?}");
    // Within the margins there is nothing to change.
    for seed in 0..50 {
        let available = 50_000 + Random::new(seed).range(0, 2_000_000);
        let (_, in_all) = changes(seed, 4, available, 1, 10);
        assert!(in_all <= 3, "{in_all} changes at {available}");
    }
}
