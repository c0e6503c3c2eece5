//! The allocator from outside: what is told for a budget, how that changes over time, and what
//! holds whatever happens.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod properties;
#[path = "../simulation/random.rs"]
mod random;
mod stories;

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use router::allocation::{Allocation, Allocator, Demand, Reason};
use router::{ConsumerKey, LayerCosts, Layers};
use slotmap::KeyData;

/// Time between two calls.
const CALL: Duration = Duration::from_millis(200);

fn key(number: u64) -> ConsumerKey {
    ConsumerKey::from(KeyData::from_ffi(number | 1 << 32))
}

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

/// Three encodings without temporal layers.
const SIMULCAST: &[&[u64]] = &[&[150], &[500], &[1500]];

#[derive(Clone, Debug)]
struct Consumer {
    key: ConsumerKey,
    priority: u8,
    preferred: Layers,
    current: Option<Layers>,
    costs: LayerCosts,
}

impl Consumer {
    fn new(number: u64, kbits: &[&[u64]]) -> Self {
        Self {
            key: key(number),
            priority: 1,
            preferred: Layers::HIGHEST,
            current: None,
            costs: costs(kbits),
        }
    }
}

/// An allocator and its clock.
struct Transport {
    allocator: Allocator,
    start: Instant,
    now: Instant,
    out: Vec<Allocation>,
}

impl Transport {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            allocator: Allocator::new(),
            start,
            now: start,
            out: Vec::new(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// One call, and then some time passes.
    fn call(&mut self, available: u64, consumers: &[Consumer]) -> &[Allocation] {
        let demands: Vec<_> = consumers
            .iter()
            .map(|consumer| Demand {
                key: consumer.key,
                priority: NonZeroU8::new(consumer.priority).unwrap(),
                preferred: consumer.preferred,
                current: consumer.current,
                costs: &consumer.costs,
            })
            .collect();
        self.allocator
            .allocate(self.now, available, &demands, &mut self.out);
        self.now += CALL;
        &self.out
    }

    /// Calls with the same input for some time; answers the last output.
    fn stay(&mut self, time: Duration, available: u64, consumers: &[Consumer]) -> &[Allocation] {
        let until = self.now + time;
        while self.now < until {
            self.call(available, consumers);
        }
        &self.out
    }
}

/// "1/2" or "-", for each.
fn targets(allocations: &[Allocation]) -> String {
    let target = |allocation: &Allocation| match allocation.target {
        Some(layers) => format!("{}/{}", layers.spatial, layers.temporal),
        None => "-".to_owned(),
    };
    let targets: Vec<_> = allocations.iter().map(target).collect();
    targets.join(" ")
}

fn total(allocations: &[Allocation]) -> u64 {
    allocations
        .iter()
        .map(|allocation| allocation.bitrate)
        .sum()
}

/// What a consumer was told last, with nothing but bandwidth against more.
fn needs(allocation: &Allocation) -> Option<u64> {
    match allocation.reason {
        Reason::Bandwidth { needs, .. } => Some(needs),
        _ => None,
    }
}
