//! Inputs for checks of what reads input from outside: seeds, and damaged copies of them.
//! The checks of the media worker are fuzzed by `fuzz/`, too, from the same seeds; here
//! they run with all other tests, without a fuzzer, and the same inputs every time.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "for tests only"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Damaged copies that are made by default.
pub const ROUNDS: u64 = 3_000;
/// Longest input, bytes.
const MAX_LEN: usize = 4_096;
/// Values at which lengths and counts go wrong.
const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0x81, 0xc0, 0xfe, 0xff];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`; 0 where that is 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap();
        usize::try_from(self.next() % limit).unwrap()
    }

    fn octet(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Runs `check` on nothing, on each seed of the target, and on `rounds` inputs that
/// are made of them.
///
/// # Panics
/// When `check` does, after having printed the input; when there are no seeds.
pub fn run(target: &str, rounds: u64, check: impl Fn(&[u8])) {
    let seeds = seeds(target);
    try_one(&check, &[], "nothing");
    for (name, seed) in &seeds {
        try_one(&check, seed, name);
    }
    for round in 0..rounds {
        let input = damaged(&seeds, &mut Random(round));
        try_one(&check, &input, &format!("round {round}"));
    }
}

fn try_one(check: &impl Fn(&[u8]), input: &[u8], name: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        eprintln!("the input, {name}, was {input:02x?}");
        resume_unwind(panic);
    }
}

/// Name and content of each seed, in order.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let directory = directory.join(target);
    let entries = std::fs::read_dir(&directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    assert!(!seeds.is_empty(), "{} is empty", directory.display());
    seeds.sort();
    seeds
}

/// A seed, or noise, with some octets changed, left out, doubled, or taken from another
/// seed.
fn damaged(seeds: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut input = match random.below(8) {
        0 => (0..random.below(200)).map(|_| random.octet()).collect(),
        _ => seeds[random.below(seeds.len())].1.clone(),
    };
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(24)).min(input.len());
        match random.below(7) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => input.insert(at, random.octet()),
            3 => {
                let twice = input[at..end].to_vec();
                input.splice(at..at, twice);
            }
            4 => {
                let other = &seeds[random.below(seeds.len())].1;
                let from = random.below(other.len() + 1);
                input.splice(end.., other[from..].iter().copied());
            }
            5 if at < input.len() => input[at] = ODD[random.below(ODD.len())],
            _ if at < input.len() => input[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    input.truncate(MAX_LEN);
    input
}
