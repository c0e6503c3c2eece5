//! A real browser whose link becomes narrow: it gets a smaller picture instead of a
//! frozen one, nobody else notices, and the large one comes back with the link.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::browser::{Browser, consumer};
use crate::https;
use crate::netns::Namespace;
use crate::server::{DEADLINE, Server};

/// Longest time until the large picture is there again. 8 s are meant, and printed
/// as a figure; three pages of 1280×720 are hard work for a small machine.
const BACK_WITHIN: Duration = DEADLINE;

/// Longest that a picture may stand still meanwhile: a second is meant, and printed;
/// a busy browser adds to it.
const LONGEST_STILL: Duration = Duration::from_secs(3);

/// Time for which the link is narrow.
const NARROW_FOR: Duration = Duration::from_secs(10);

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// What one page sees of the sender at a moment.
struct Look {
    width: u64,
    freezes: u64,
}

fn look(browser: &mut Browser, page: &str) -> Look {
    let stats = browser.stats(page);
    let video = consumer(&stats, "alice", "video").cloned();
    let number = |field: &str| video.as_ref().and_then(|it| it[field].as_u64());
    Look {
        width: number("frameWidth").unwrap_or(0),
        freezes: number("freezeCount").unwrap_or(0),
    }
}

/// Why bob gets what he gets.
fn reason(server: &Server) -> String {
    let (_, told) = https::get(&server.url("/admin/rooms/narrow/consumers"));
    let consumers = told["consumers"].as_array().cloned().unwrap_or_default();
    let bob = consumers.into_iter().find(|it| it["peerId"] == "bob");
    bob.map_or(String::new(), |it| {
        it["reason"].as_str().unwrap_or_default().into()
    })
}

/// What bob sees, and why, printed.
fn trace(server: &Server, bob: &mut Browser, start: Instant) -> u64 {
    let width = look(bob, "bob").width;
    let passed = start.elapsed().as_secs_f64();
    println!("trace: {passed:.1} s: {width} wide; {}", reason(server));
    width
}

/// Waits until bob's picture is as wide as it should be; answers how long that took.
fn wait_for(server: &Server, bob: &mut Browser, holds: impl Fn(u64) -> bool) -> Duration {
    let start = Instant::now();
    loop {
        let width = trace(server, bob, start);
        let passed = start.elapsed();
        if holds(width) {
            return passed;
        }
        assert!(passed < BACK_WITHIN, "{width} wide after {passed:?}");
        std::thread::sleep(INTERVAL);
    }
}

#[test]
fn a_narrow_link_makes_the_picture_smaller_and_a_wide_one_large_again() {
    let namespace = Namespace::new();
    let server = namespace.serve();
    let mut host = Browser::start_beside(&namespace);
    let mut far = Browser::start_inside(&namespace);
    let url = |host: &str, page: &str| {
        let port = server.port;
        let query = format!("room=narrow&name={page}&peerId={page}&join=1&simulcast=1");
        format!("https://{host}:{port}/?{query}")
    };
    let near = namespace.address.to_string();
    host.open(&url(&near, "alice"), "alice", "ok");
    // Those who only look cost less.
    host.open(&url(&near, "carol"), "carol", "missing");
    far.open(&url(&near, "bob"), "bob", "missing");
    for (browser, page) in [(&mut host, "carol"), (&mut far, "bob")] {
        browser.wait(page, "the largest picture", |stats: &Value| {
            consumer(stats, "alice", "video").is_some_and(|it| it["frameWidth"] == 1280)
        });
        browser.watch_stillness(page);
    }
    let carol = look(&mut host, "carol");

    namespace.limit("300kbit");
    let narrow = Instant::now();
    let down = wait_for(&server, &mut far, |width| (1..1280).contains(&width));
    let mut widths = Vec::new();
    while narrow.elapsed() < NARROW_FOR {
        widths.push(trace(&server, &mut far, narrow));
        std::thread::sleep(INTERVAL);
    }
    // More may be tried, but not for long.
    let large = widths.iter().filter(|width| **width == 1280).count();
    assert!(large * 4 < widths.len(), "{widths:?}");
    let still = far.longest_still("bob");
    println!("figure: 300 kbit/s: smaller after {down:?}, longest still {still:?}");
    assert!(still < LONGEST_STILL, "{still:?}");
    far.sees("bob", "alice", 20);
    let carol_now = look(&mut host, "carol");
    assert_eq!(carol_now.width, 1280, "carol's link is wide");

    namespace.unlimit();
    let up = wait_for(&server, &mut far, |width| width == 1280);
    println!("figure: unlimited again: the large picture after {up:?}");
    far.sees("bob", "alice", 20);
    let bob = look(&mut far, "bob").freezes;
    let carol = carol_now.freezes - carol.freezes;
    println!("figure: frozen: bob {bob} times, carol {carol} times");
}
