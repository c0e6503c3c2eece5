//! Calls between real browsers through the call page: Chromium, driven by the
//! Node driver in `tests/browser`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::driver::{BrowserSlots, Driver};
use crate::netns::Namespace;
use crate::server::{DEADLINE, Options, Server, wait_until};

/// Notes the longest time between two frames that the page shows of others.
const WATCH: &str = "(() => {
    const video = document.querySelector('.tile.with-video:not(.mirrored) video');
    let last = performance.now();
    window.longestStill = 0;
    const frame = () => {
        const now = performance.now();
        window.longestStill = Math.max(window.longestStill, now - last);
        last = now;
        video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
    // Also when none comes any more.
    window.still = () => Math.max(window.longestStill, performance.now() - last);
    return true;
})()";

/// A Chromium, and leave to run it.
pub struct Browser {
    driver: Driver,
    _slot: Option<BrowserSlots>,
}

impl Browser {
    /// Starts the driver and its Chromium.
    pub fn start() -> Self {
        let slot = BrowserSlots::take(1);
        Self {
            driver: chromium(),
            _slot: Some(slot),
        }
    }

    /// As [`Browser::start`], with more flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let slot = BrowserSlots::take(1);
        Self {
            driver: chromium_with(flags),
            _slot: Some(slot),
        }
    }

    /// As [`Browser::start`], while no other browser runs.
    pub fn start_alone() -> Self {
        let slot = BrowserSlots::take(2);
        Self {
            driver: chromium(),
            _slot: Some(slot),
        }
    }

    /// As [`Browser::start`], in reach of a namespace, which holds its place.
    pub fn start_beside(_namespace: &Namespace) -> Self {
        Self {
            driver: chromium(),
            _slot: None,
        }
    }

    /// The same inside.
    pub fn start_inside(namespace: &Namespace) -> Self {
        Self {
            driver: chromium_inside(namespace),
            _slot: None,
        }
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str, page: &str, media: &str) {
        self.command(json!({"cmd": "open", "page": page, "url": url, "media": media}));
    }

    /// Begins to note how long the picture of another peer stands still.
    pub fn watch_stillness(&mut self, page: &str) {
        let watch = json!({"cmd": "eval", "page": page, "expression": WATCH});
        assert_eq!(self.command(watch), true);
    }

    /// The longest time since then without a new picture.
    pub fn longest_still(&mut self, page: &str) -> Duration {
        let still = json!({"cmd": "eval", "page": page, "expression": "window.still()"});
        let millis = self.command(still).as_f64().unwrap();
        Duration::from_secs_f64(millis / 1e3)
    }

    fn try_command(&mut self, command: Value) -> Result<Value, String> {
        self.driver.try_command(command)
    }

    pub fn command(&mut self, command: Value) -> Value {
        let text = command.to_string();
        self.try_command(command)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Opens the call page and joins a room at once.
    pub fn join(&mut self, server: &Server, page: &str, room: &str, more: &str) {
        self.join_with(server, page, room, more, "ok");
    }

    /// `media`: what the browser says when asked for camera and microphone.
    fn join_with(&mut self, server: &Server, page: &str, room: &str, more: &str, media: &str) {
        let url = server.url(&format!(
            "/?room={room}&name={page}&peerId={page}&join=1&resolution=vga{more}"
        ));
        self.open(&url, page, media);
    }

    pub fn stats(&mut self, page: &str) -> Value {
        self.command(json!({"cmd": "stats", "page": page}))
    }

    pub fn click(&mut self, page: &str, selector: &str) {
        self.command(json!({"cmd": "click", "page": page, "selector": selector}));
    }

    /// Waits until the statistics of a page satisfy a condition.
    pub fn wait(&mut self, page: &str, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let stats = self.stats(page);
            if holds(&stats) {
                return stats;
            }
            if Instant::now() > end {
                let console = self.try_command(json!({"cmd": "console", "page": page}));
                panic!("{page}: {what}: not in time: {stats:#}\n{console:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a page has decoded so many more frames of another peer.
    pub fn sees(&mut self, page: &str, other: &str, more: u64) {
        let frames = |stats: &Value| {
            consumer(stats, other, "video").map_or(0, |c| c["framesDecoded"].as_u64().unwrap_or(0))
        };
        let before = frames(&self.stats(page));
        self.wait(page, &format!("sees {other}"), |s| {
            frames(s) > before + more
        });
    }

    /// Waits until a page decodes another peer's video and hears its sound: both
    /// go on from where they are.
    pub fn sees_and_hears(&mut self, page: &str, other: &str) -> Value {
        let before = self.stats(page);
        let at = |stats: &Value, kind: &str, field: &str| {
            consumer(stats, other, kind).map_or(0.0, |c| c[field].as_f64().unwrap_or(0.0))
        };
        let (frames, energy) = (
            at(&before, "video", "framesDecoded"),
            at(&before, "audio", "audioEnergy"),
        );
        self.wait(page, &format!("sees and hears {other}"), |stats| {
            at(stats, "video", "framesDecoded") > frames + 20.0
                && at(stats, "audio", "audioEnergy") > energy + 0.01
        })
    }
}

/// Starts the driver of Chromium.
pub fn chromium() -> Driver {
    drive(Command::new("node"))
}

/// The same with more flags.
pub fn chromium_with(flags: &[&str]) -> Driver {
    let mut node = Command::new("node");
    node.env("CHROMIUM_FLAGS", json!(flags).to_string());
    drive(node)
}

/// The same in a network of its own.
pub fn chromium_inside(namespace: &Namespace) -> Driver {
    drive(namespace.command("node"))
}

fn drive(mut node: Command) -> Driver {
    node.arg("driver.mjs")
        .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser"));
    Driver::start(node)
}

/// What a page receives from a peer.
pub fn consumer<'a>(stats: &'a Value, peer: &str, kind: &str) -> Option<&'a Value> {
    let peers = stats["peers"].as_array()?;
    let peer = peers.iter().find(|p| p["id"] == peer)?;
    let consumers = peer["consumers"].as_array()?;
    consumers.iter().find(|c| c["kind"] == kind)
}

/// Frames of another peer that a page has decoded.
pub fn frames_of(stats: &Value, other: &str) -> u64 {
    let video = consumer(stats, other, "video");
    video.map_or(0, |it| it["framesDecoded"].as_u64().unwrap_or(0))
}

fn has_peer(stats: &Value, peer: &str) -> bool {
    stats["peers"]
        .as_array()
        .is_some_and(|peers| peers.iter().any(|p| p["id"] == peer))
}

/// A server that announces an address of this machine to the browsers.
fn server() -> Server {
    Options::new().start()
}

#[test]
fn a_call_between_browsers() {
    let server = server();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "call", "");
    browser.join(&server, "bob", "call", "");
    browser.sees_and_hears("alice", "bob");
    let stats = browser.sees_and_hears("bob", "alice");
    let video = consumer(&stats, "alice", "video").unwrap();
    // A browser that gets little CPU makes its frames smaller than asked for.
    assert!(video["frameWidth"].as_u64().unwrap() >= 160);
    assert!(video["keyFramesDecoded"].as_u64().unwrap() >= 1);
    let first = stats["timing"]["firstRemoteFrame"].as_f64().unwrap();
    println!("figure: page load to first decoded remote frame: {first:.0} ms");
    assert!(first < 10_000.0, "{first}");
    cost_of_a_packet(&server);

    // Mute: bob is told and hears nothing more; unmute: he hears again.
    browser.click("alice", "#mic");
    browser.wait("bob", "alice is muted", |s| {
        consumer(s, "alice", "audio").is_some_and(|c| c["paused"] == true)
    });
    // What was under way has arrived; from then on nothing comes.
    let received =
        |s: &Value| consumer(s, "alice", "audio").map(|c| c["packetsReceived"].as_u64().unwrap());
    let mut last = None;
    browser.wait("bob", "no more sound of alice", |s| {
        let now = received(s);
        last.replace(now) == Some(now)
    });
    let silent = received(&browser.stats("bob"));
    browser.sees("bob", "alice", 20);
    assert_eq!(received(&browser.stats("bob")), silent);
    browser.click("alice", "#mic");
    browser.wait("bob", "alice is unmuted", |s| {
        consumer(s, "alice", "audio").is_some_and(|c| c["paused"] == false)
    });
    browser.sees_and_hears("bob", "alice");

    // Stop and start the camera.
    browser.click("alice", "#camera");
    browser.wait("bob", "no video of alice", |s| {
        consumer(s, "alice", "video").is_none()
    });
    browser.click("alice", "#camera");
    browser.sees_and_hears("bob", "alice");

    // A third peer is seen by both and sees both.
    browser.join(&server, "carol", "call", "");
    for (page, other) in [
        ("carol", "alice"),
        ("carol", "bob"),
        ("alice", "carol"),
        ("bob", "carol"),
    ] {
        browser.sees_and_hears(page, other);
    }

    // Reload: the same peer comes back and everybody sees it again.
    browser.command(json!({"cmd": "reload", "page": "carol"}));
    browser.sees_and_hears("carol", "alice");
    browser.sees_and_hears("alice", "carol");

    // Leave.
    browser.click("carol", "#leave");
    for page in ["alice", "bob"] {
        browser.wait(page, "carol has left", |s| !has_peer(s, "carol"));
    }
    browser.sees_and_hears("alice", "bob");
    for page in ["alice", "bob"] {
        let console = browser.command(json!({"cmd": "console", "page": page}));
        let errors: Vec<_> = console
            .as_array()
            .unwrap()
            .iter()
            .filter(|l| l["type"] != "warning")
            .collect();
        assert!(errors.is_empty(), "{page}: {errors:?}");
    }
}

/// Measures the workers over the next seconds of a call.
fn cost_of_a_packet(server: &Server) {
    let sum = |config: &Value, fields: &[&str]| -> f64 {
        let workers = config["workers"].as_array().unwrap();
        let values = workers
            .iter()
            .flat_map(|w| fields.iter().map(|f| w["stats"][*f].as_f64().unwrap()));
        values.sum()
    };
    let (_, before) = crate::https::get(&server.url("/config"));
    let mut after = Value::Null;
    wait_until("1,000 packets", || {
        after = crate::https::get(&server.url("/config")).1;
        let packets = ["rtpPacketsForwarded"];
        sum(&after, &packets) - sum(&before, &packets) > 1000.0
    });
    let diff = |fields: &[&str]| sum(&after, fields) - sum(&before, fields);
    let packets = diff(&["rtpPacketsForwarded"]);
    let cpu = diff(&["cpuUserMicros", "cpuSystemMicros"]) / packets;
    println!("figure: CPU of the workers in a call of two: {cpu:.1} µs per forwarded packet");
    assert_eq!(diff(&["sendErrors"]), 0.0);
    assert_eq!(diff(&["panics"]), 0.0);
}

#[test]
fn h264_and_simulcast_are_seen() {
    let server = server();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "codecs", "&codec=h264");
    browser.join(&server, "bob", "codecs", "&simulcast=1");
    let stats = browser.sees_and_hears("bob", "alice");
    assert_eq!(
        consumer(&stats, "alice", "video").unwrap()["codec"],
        "video/H264"
    );
    let stats = browser.sees_and_hears("alice", "bob");
    assert_eq!(
        consumer(&stats, "bob", "video").unwrap()["codec"],
        "video/VP8"
    );
}

#[test]
fn vp9_and_av1_are_seen_where_they_are_chosen() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("ROUTER_CODECS", "opus,vp9,av1")
        .start();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "chosen", "&codec=av1");
    // Who does not choose takes the first.
    browser.join(&server, "bob", "chosen", "");
    for (page, other, codec) in [("bob", "alice", "video/AV1"), ("alice", "bob", "video/VP9")] {
        let stats = browser.sees_and_hears(page, other);
        assert_eq!(consumer(&stats, other, "video").unwrap()["codec"], codec);
    }
}

#[test]
fn without_a_camera_one_still_joins_and_is_told() {
    let server = server();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "devices", "");
    browser.join_with(&server, "bob", "devices", "", "missing");
    browser.join_with(&server, "carol", "devices", "", "denied");
    for page in ["bob", "carol"] {
        let stats = browser.sees_and_hears(page, "alice");
        assert_eq!(stats["state"], "joined");
        for kind in ["audio", "video"] {
            assert!(
                stats["local"][kind]["problem"].is_string(),
                "{page}: {stats}"
            );
        }
    }
}

#[test]
fn the_page_tells_when_the_server_is_gone() {
    let mut server = server();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "gone", "");
    browser.wait("alice", "joined", |s| s["state"] == "joined");
    server.signal(Signal::SIGINT);
    assert!(server.wait_for_end(DEADLINE).is_some());
    let stats = browser.wait("alice", "tries to reconnect", |s| {
        s["state"] == "reconnecting"
    });
    let status = browser.command(json!({"cmd": "text", "page": "alice", "selector": "#status"}));
    let shown = format!("{} {}", status, stats["notice"]["text"]);
    assert!(shown.to_lowercase().contains("reconnect"), "{shown}");
}

#[test]
fn the_page_says_what_is_wrong_and_comes_back() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let mut browser = Browser::start();
    let (status, _) = crate::https::request(
        "POST",
        &server.url("/rooms/pair"),
        &[],
        r#"{"maxPeerCount": 2}"#,
    );
    assert_eq!(status, 200);
    browser.join(&server, "alice", "pair", "");
    browser.join(&server, "bob", "pair", "");
    browser.sees_and_hears("alice", "bob");
    browser.join(&server, "carol", "pair", "");
    let stats = browser.wait("carol", "is told why", |s| s["notice"]["text"].is_string());
    let text = stats["notice"]["text"].as_str().unwrap();
    assert!(text.to_lowercase().contains("full"), "{text}");
    browser.command(json!({"cmd": "close", "page": "carol"}));

    // The worker dies: the pages come back by themselves.
    let (_, pid) = server.workers()[0];
    kill(pid, Signal::SIGKILL).unwrap();
    wait_until("another worker", || {
        server.workers().first().is_some_and(|(_, new)| *new != pid)
    });
    for (page, other) in [("alice", "bob"), ("bob", "alice")] {
        browser.wait(page, "joined again", |s| {
            s["state"] == "joined" && consumer(s, other, "video").is_some()
        });
        browser.sees_and_hears(page, other);
    }
}

#[test]
fn the_page_about_the_api_shows_every_path() {
    let server = Server::start();
    let mut browser = Browser::start();
    browser.command(json!({"cmd": "open", "page": "api", "url": server.url("/API")}));
    let all = "document.querySelectorAll('details').length";
    let shown = browser.command(json!({"cmd": "wait", "page": "api", "expression": all}));
    let (_, document) = crate::https::get(&server.url("/API/openapi.json"));
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize = paths.map(|it| it.as_object().unwrap().len()).sum();
    assert_eq!(shown, operations);
    browser.command(json!({"cmd": "eval", "page": "api", "expression":
        "document.querySelectorAll('details').forEach((it) => { it.open = true; })"}));
    let text = browser.command(json!({"cmd": "text", "page": "api", "selector": "main"}));
    let text = text.as_str().unwrap();
    for part in [
        "/rooms/{roomId}/broadcasters/{broadcasterId}/transports/{transportId}/consume",
        "maxPeerCount",
        "device.name",
        "Authorization: Bearer",
        "413",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let console = browser.command(json!({"cmd": "console", "page": "api"}));
    assert_eq!(console, json!([]));
}
