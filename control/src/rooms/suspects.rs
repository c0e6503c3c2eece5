//! Which rooms were there when workers crashed. A room that was there again and
//! again is kept out for a while, so that it does not take one worker after the
//! other down, and everybody's calls with it.
//!
//! All rooms of a worker look the same when it crashes. So of those that were
//! there most often only half is kept out; when that was the wrong half, the next
//! crash says so, and after a few of them the right one is found.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::ids::RoomId;

/// Crashes, each within [`MEMORY`] of the one before, that make a room suspect.
pub const MAX_CRASHES: u32 = 5;

/// How long a crash is held against the rooms that were there.
const MEMORY: Duration = Duration::from_secs(600);

/// How long a room is kept out.
pub const QUARANTINE: Duration = Duration::from_secs(300);

/// Most rooms that are remembered; further ones are not, until some are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// The rooms that were there.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    rooms: HashMap<RoomId, Record>,
}

#[derive(Debug)]
struct Record {
    crashes: u32,
    /// Nothing is held against it from then on.
    forgotten_at: Instant,
    out_until: Option<Instant>,
}

impl Suspects {
    /// A worker crashed that had these rooms; answers those that are kept out
    /// from now on.
    pub fn crashed<'a>(
        &mut self,
        now: Instant,
        rooms: impl Iterator<Item = &'a RoomId>,
    ) -> Vec<RoomId> {
        self.rooms.retain(|_, record| record.forgotten_at > now);
        let mut there = Vec::new();
        for id in rooms {
            if self.rooms.len() >= MAX_REMEMBERED && !self.rooms.contains_key(id) {
                continue;
            }
            let record = self.rooms.entry(id.clone()).or_insert(Record {
                crashes: 0,
                forgotten_at: now,
                out_until: None,
            });
            record.crashes += 1;
            record.forgotten_at = now + MEMORY;
            there.push((record.crashes, id));
        }
        let most = there.iter().map(|(crashes, _)| *crashes).max();
        let Some(most) = most.filter(|most| *most >= MAX_CRASHES) else {
            return Vec::new();
        };
        there.retain(|(crashes, _)| *crashes == most);
        there.truncate(there.len().div_ceil(2));
        let out: Vec<RoomId> = there.into_iter().map(|(_, id)| id.clone()).collect();
        for id in &out {
            if let Some(record) = self.rooms.get_mut(id) {
                // It comes back as what it was: one more crash is enough then.
                record.out_until = Some(now + QUARANTINE);
                record.forgotten_at = now + QUARANTINE + MEMORY;
            }
        }
        out
    }

    /// Whether a room is kept out.
    pub fn is_out(&self, now: Instant, room: &RoomId) -> bool {
        let out_until = self.rooms.get(room).and_then(|record| record.out_until);
        out_until.is_some_and(|until| now < until)
    }

    /// How many rooms are kept out.
    pub fn out(&self, now: Instant) -> usize {
        let out = |record: &&Record| record.out_until.is_some_and(|until| now < until);
        self.rooms.values().filter(out).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<RoomId> {
        names
            .iter()
            .map(|name| RoomId::parse(name).unwrap())
            .collect()
    }

    /// What is kept out after so many crashes, each after such a pause.
    fn out_after(crashes: u32, pause: Duration, names: &[&str]) -> Vec<RoomId> {
        let mut suspects = Suspects::default();
        let rooms = ids(names);
        let mut now = Instant::now();
        let mut out = Vec::new();
        for _ in 0..crashes {
            now += pause;
            out = suspects.crashed(now, rooms.iter());
        }
        assert_eq!(suspects.out(now), out.len());
        out
    }

    #[test]
    fn a_room_is_kept_out_for_what_it_does_again_and_again() {
        let second = Duration::from_secs(1);
        assert_eq!(out_after(MAX_CRASHES - 1, second, &["bad"]), []);
        assert_eq!(out_after(MAX_CRASHES, second, &["bad"]), ids(&["bad"]));
        // Far between, they are forgotten.
        assert_eq!(out_after(50, MEMORY, &["bad"]), []);
        assert_eq!(out_after(50, second, &[]), []);
    }

    #[test]
    fn it_comes_back_and_has_no_second_row_of_tries() {
        let mut suspects = Suspects::default();
        let rooms = ids(&["bad", "other"]);
        let bad = &rooms[..1];
        let mut now = Instant::now();
        for _ in 0..MAX_CRASHES {
            suspects.crashed(now, bad.iter());
        }
        assert!(suspects.is_out(now, &rooms[0]));
        assert!(!suspects.is_out(now, &rooms[1]));
        now += QUARANTINE;
        assert!(!suspects.is_out(now, &rooms[0]));
        assert_eq!(suspects.crashed(now, bad.iter()), bad);
    }

    /// One of many rooms crashes whatever worker it is on; all of them move with
    /// it, unless they are kept out.
    #[test]
    fn the_right_one_is_found_among_many() {
        for culprit in 0..16 {
            let mut suspects = Suspects::default();
            let rooms: Vec<RoomId> = (0..16)
                .map(|n| RoomId::parse(&format!("room{n}")).unwrap())
                .collect();
            let now = Instant::now();
            let mut crashes = 0;
            while !suspects.is_out(now, &rooms[culprit]) {
                let there = rooms.iter().filter(|room| !suspects.is_out(now, room));
                let there: Vec<RoomId> = there.cloned().collect();
                suspects.crashed(now, there.iter());
                crashes += 1;
                assert!(crashes < 20, "room {culprit} goes on");
            }
            assert!(crashes <= MAX_CRASHES + 4, "{crashes}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut suspects = Suspects::default();
        let rooms: Vec<RoomId> = (0..MAX_REMEMBERED + 5)
            .map(|n| RoomId::parse(&n.to_string()).unwrap())
            .collect();
        let now = Instant::now();
        suspects.crashed(now, rooms.iter());
        assert_eq!(suspects.rooms.len(), MAX_REMEMBERED);
        suspects.crashed(now + MEMORY, [].iter());
        assert_eq!(suspects.rooms.len(), 0);
    }
}
