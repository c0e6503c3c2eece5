//! A seeded simulation: clients that send and stop, a network that loses, reorders, duplicates and
//! repairs, people who come, go, pause and resume; and a shadow model that knows what the router
//! has to do with every packet.
//!
//! A failure prints its seed; `ROUTER_SIM_SEED=<seed> cargo test -p router --test simulation` runs
//! that one alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod client;
mod encoder;
mod model;
mod pictures;
mod random;
mod sabotage;
mod world;

use sabotage::Sabotage;
use world::{Report, World};

/// Seeds of a run; `ROUTER_SIM_SEEDS` asks for more.
const SEEDS: u64 = 256;

fn simulate(seed: u64, sabotage: Option<Sabotage>) -> Result<Report, String> {
    World::new(seed, sabotage).run()
}

#[test]
fn router_does_what_the_model_says() {
    let only = std::env::var("ROUTER_SIM_SEED")
        .ok()
        .map(|seed| seed.parse::<u64>().unwrap());
    let count = std::env::var("ROUTER_SIM_SEEDS")
        .ok()
        .map_or(SEEDS, |count| count.parse::<u64>().unwrap().max(SEEDS));
    let seeds = only.map_or(0..count, |seed| seed..seed + 1);
    let mut total = Report::default();
    for seed in seeds {
        match simulate(seed, None) {
            Ok(report) => total += report,
            Err(reason) => panic!("ROUTER_SIM_SEED={seed}: {reason}"),
        }
    }
    println!("{total:?}");
    // The simulation is worth nothing unless it gets to all of these.
    if only.is_none() {
        let Report {
            forwarded,
            late,
            dropped,
            too_old,
            starts,
            switches,
            skipped,
            requests,
            told,
            preferences,
            targets,
            layers,
            emptied,
            patched,
            replays,
            replayed,
        } = total;
        assert!(
            forwarded > 400_000 && late > 10_000 && dropped > 10_000,
            "{total:?}"
        );
        assert!(
            too_old > 10 && starts > 2_000 && switches > 200,
            "{total:?}"
        );
        assert!(skipped > 20 && requests > 1_000, "{total:?}");
        assert!(told > 1_000 && preferences > 300, "{total:?}");
        assert!(targets > 300 && layers > 20_000, "{total:?}");
        assert!(replays > 300 && replayed > 3_000, "{total:?}");
        assert!(emptied > 300 && patched > 20_000, "{total:?}");
    }
}

/// The model has to notice when something is wrong; here it is, on purpose. A few stories have no
/// room for it: nobody sends video, or only one listens.
#[test]
fn the_model_notices_every_sabotage() {
    for sabotage in Sabotage::ALL {
        // Half of the stories have numbered pictures, and few something that comes too late.
        let (seeds, least) = match sabotage {
            Sabotage::KeepNumbers | Sabotage::KeepPayload => (48, 3),
            _ => (16, 12),
        };
        let noticed = (0..seeds)
            .filter(|seed| simulate(*seed, Some(sabotage)).is_err())
            .count();
        assert!(
            noticed >= least,
            "{sabotage:?} was noticed {noticed} times out of {seeds}"
        );
    }
}
