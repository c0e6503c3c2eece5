//! Unmodified pages in a real browser whose worker is killed: they come back by
//! themselves, and those on another worker go on as if nothing had been.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::browser::{Browser, frames_of};
use crate::https;
use crate::server::{Options, Server};

/// How soon video has to be decoded again. Three seconds are meant, and printed as a
/// figure; unoptimised programs, four pages and other tests on two cores may take
/// longer, and each attempt that fails doubles the client's pause.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// Longest that the other call's picture may stand still: a browser that shares
/// two cores with everything else is not always quick itself.
const LONGEST_STILL: Duration = Duration::from_millis(3000);

fn worker_of(server: &Server, room: &str) -> usize {
    let (_, listed) = https::get(&server.url("/admin/rooms"));
    let mut rooms = listed["rooms"].as_array().unwrap().iter();
    let room = rooms.find(|it| it["id"] == room).expect("the room");
    usize::try_from(room["worker"].as_u64().unwrap()).unwrap()
}

#[test]
fn pages_come_back_by_themselves_and_others_do_not_freeze() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .start();
    let mut browser = Browser::start_alone();
    for (page, room) in [
        ("hit1", "hit"),
        ("hit2", "hit"),
        ("other1", "other"),
        ("other2", "other"),
    ] {
        browser.join(&server, page, room, "");
    }
    browser.sees_and_hears("hit1", "hit2");
    browser.sees_and_hears("hit2", "hit1");
    browser.sees_and_hears("other1", "other2");
    let slot = worker_of(&server, "hit");
    assert_ne!(slot, worker_of(&server, "other"));
    let (_, pid) = server.workers()[slot];

    browser.watch_stillness("other1");
    let begin = Instant::now();
    kill(pid, Signal::SIGKILL).unwrap();
    let mut back = [None; 2];
    let mut told = false;
    // The other call is watched until well after the first is back.
    while back.contains(&None) || begin.elapsed() < BACK_WITHIN {
        assert!(begin.elapsed() < Duration::from_secs(20), "{back:?}");
        for (index, (page, other)) in [("hit1", "hit2"), ("hit2", "hit1")].iter().enumerate() {
            let stats = browser.stats(page);
            told |= stats["state"] != "joined";
            // A call that was made anew counts from nothing.
            let frames = frames_of(&stats, other);
            if told && back[index].is_none() && stats["state"] == "joined" && frames > 0 {
                back[index] = Some(begin.elapsed());
            }
        }
    }
    let longest = browser.longest_still("other1");
    let back = back.map(|it| it.unwrap_or_default().as_secs_f64());
    println!("figure: kill -9: decoded video again after {back:.2?} s");
    println!("figure: kill -9: the other call's picture stood still for {longest:.2?} at most");
    assert!(
        back.iter().all(|it| *it < BACK_WITHIN.as_secs_f64()),
        "{back:?}"
    );
    assert!(longest < LONGEST_STILL, "{longest:?}");
    browser.sees_and_hears("hit1", "hit2");
    browser.sees_and_hears("hit2", "hit1");
    assert_eq!(worker_of(&server, "hit"), 1 - slot);
}
