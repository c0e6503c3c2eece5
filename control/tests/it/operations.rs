//! What operators rely on: rooms outlive their workers, limits refuse in words,
//! and what drains lets calls end.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control::config::Config;
use control::rooms::{RoomOptions, Rooms, Timings};
use proto::event::Event;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fake_worker::{Call, FakePool, FakeWorker};
use crate::receiver::Receiver;
use crate::server::{TestServer, caller, config};

async fn with(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = config();
    change(&mut config);
    TestServer::start_with(config, Timings::default()).await
}

/// Waits until something is so.
async fn wait_until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until this worker was asked for a router.
async fn router_on(worker: &FakeWorker) {
    let router = |call: &Call| matches!(call, Call::CreateRouter(_)).then_some(());
    worker.wait_for(router).await;
}

/// The next close code is 1012, and the room is there again by then.
#[tokio::test]
async fn rooms_move_to_another_worker_before_their_peers_hear_of_it() {
    let receiver = Receiver::start(&[]).await;
    let server = TestServer::start().await;
    let second = server.pool.start_worker().await;
    let body = json!({ "eventNotificationUri": receiver.uri(), "maxPeerCount": 2 });
    server.post("/rooms/mine", &body.to_string()).await;
    let mut alice = server.connect("mine", "alice").await;
    alice.join("Alice").await;
    let mut other = server.connect("other", "o").await;
    other.join("O").await;
    // Nobody joined it yet: it keeps waiting.
    server.post("/rooms/waiting", "").await;
    server.pool.kill_worker(0).await;
    assert_eq!(alice.close_code().await, 1012);
    assert_eq!(other.close_code().await, 1012);
    let listed = server.get("/admin/rooms").await.body;
    let rooms = listed["rooms"].as_array().unwrap();
    let ids: Vec<_> = rooms.iter().map(|room| &room["id"]).collect();
    assert_eq!(ids, ["mine", "other", "waiting"]);
    router_on(&second).await;
    // With what it was made with.
    let mut alice = server.connect("mine", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("mine", "bob").await;
    bob.join("Bob").await;
    let full = server
        .upgrade("/?roomId=mine&peerId=carol", Some("protoo"))
        .await;
    assert_eq!(full.err().unwrap().error(), "room is full");
    let told = receiver.wait(4).await;
    let event = |body: &Value| {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (text("peerId"), text("event"), text("reason"))
    };
    let told: Vec<_> = told.iter().map(|post| event(&post.body())).collect();
    let event = |peer: &str, event: &str, reason: &str| (peer.into(), event.into(), reason.into());
    assert_eq!(
        told[..2],
        [
            event("alice", "peer-joined", ""),
            event("alice", "peer-left", "room-lost"),
        ]
    );
    assert_eq!(told[2], event("alice", "peer-joined", ""));
}

/// Where there was no other worker, rooms wait for the next one, whoever comes back.
#[tokio::test]
async fn rooms_are_there_again_with_the_only_worker() {
    let server = with(|config| config.room_auto_create = false).await;
    server.post("/rooms/mine", r#"{"maxPeerCount":2}"#).await;
    server.post("/rooms/waiting", "").await;
    let mut alice = server.connect("mine", "alice").await;
    alice.join("Alice").await;
    server.pool.kill_workers().await;
    assert_eq!(alice.close_code().await, 1012);
    for path in ["/rooms/mine", "/v2/rooms/waiting"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
    }
    let describe = async || server.get("/admin/rooms/mine").await;
    assert!(describe().await.error().contains("lost"));
    assert_eq!(server.get("/rooms/other").await.status, 404);
    let worker = server.pool.start_worker().await;
    for path in ["/rooms/mine", "/v2/rooms/waiting"] {
        wait_until(path, async || server.get(path).await.status == 200).await;
    }
    wait_until("each has a router", async || {
        worker.count("CreateRouter") == 2
    })
    .await;
    let _alice = server.connect("mine", "alice").await;
    let _bob = server.connect("mine", "bob").await;
    assert_eq!(describe().await.status, 200);
    let path = "/?roomId=mine&peerId=carol";
    let refused = server.upgrade(path, Some("protoo")).await;
    assert_eq!(refused.err().unwrap().error(), "room is full");
    // A further worker changes nothing.
    server.pool.start_worker().await;
    server.post("/rooms/new", "").await;
    assert_eq!(worker.count("CreateRouter"), 3);
}

/// A room that moved and that nobody comes back to does not stay.
#[tokio::test]
async fn a_room_that_moved_waits_for_its_peers_for_a_while() {
    let timings = Timings {
        join: Duration::from_secs(2),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    server.pool.start_worker().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.pool.kill_worker(0).await;
    assert_eq!(alice.close_code().await, 1012);
    assert_eq!(server.get("/rooms/room").await.status, 200);
    wait_until("it is gone", async || {
        server.get("/rooms/room").await.status == 404
    })
    .await;
}

/// One that nobody has joined yet does not live longer because it moved.
#[tokio::test(start_paused = true)]
async fn a_room_that_moved_expires_when_it_would_have() {
    let life = Duration::from_secs(300);
    let timings = Timings {
        unused_room: life,
        ..Timings::default()
    };
    // Without sockets, so that nothing but timers takes time.
    let (notices, receiver) = mpsc::channel(64);
    let pool = FakePool::new(notices);
    pool.start_worker().await;
    let rooms = Rooms::start_with(Arc::new(config()), pool.clone(), receiver, timings).unwrap();
    let made = Instant::now();
    let id = rooms.create(None, RoomOptions::default()).await.unwrap();
    tokio::time::sleep_until(made + life / 2).await;
    let second = pool.start_worker().await;
    pool.kill_worker(0).await;
    router_on(&second).await;
    tokio::time::sleep_until(made + life - Duration::from_secs(1)).await;
    assert!(rooms.check(&id).is_ok());
    tokio::time::sleep_until(made + life + Duration::from_secs(1)).await;
    assert!(rooms.check(&id).is_err());
}

#[tokio::test]
async fn a_room_that_crashes_workers_is_kept_out() {
    let server = TestServer::start().await;
    for crash in 1..=5 {
        let mut alice = server.connect("bad", "alice").await;
        alice.join("Alice").await;
        server.pool.start_worker().await;
        server.pool.kill_worker(0).await;
        assert_eq!(alice.close_code().await, 1012, "{crash}");
    }
    let refused = server
        .upgrade("/?roomId=bad&peerId=alice", Some("protoo"))
        .await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("crashed"), "{refused:?}");
    let admission = server.get("/rooms/bad/admission?peerId=alice").await;
    assert_eq!((admission.status, admission.body), (503, refused.body));
    assert_eq!(server.post("/rooms/bad", "").await.status, 503);
    assert_eq!(server.get("/config").await.body["rooms"]["quarantined"], 1);
    // Nobody else is concerned.
    server.connect("good", "bob").await.join("Bob").await;
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn the_server_takes_so_many_rooms_and_peers() {
    let server = with(|config| {
        config.max_rooms = 2;
        config.max_peers = 3;
    })
    .await;
    let mut peers = Vec::new();
    for (room, peer) in [("a", "1"), ("a", "2"), ("b", "3")] {
        let mut client = server.connect(room, peer).await;
        client.join(peer).await;
        peers.push(client);
    }
    for answer in [
        server.post("/rooms/c", "").await,
        server.get("/rooms/c/admission?peerId=x").await,
        server.get("/health").await,
    ] {
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains("MAX_ROOMS"), "{answer:?}");
    }
    let refused = server.upgrade("/?roomId=b&peerId=4", Some("protoo")).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("MAX_PEERS"), "{refused:?}");
    // One that is there may come again.
    server.connect("b", "3").await.join("3").await;
    let mut first = peers.remove(0);
    first.ok("leaveRoom", json!({})).await;
    wait_until("there is a place", async || {
        server.get("/rooms/b/admission?peerId=4").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_worker_takes_so_many_transports_and_consumers() {
    let server = with(|config| config.worker_max_transports = 3).await;
    let (mut alice, ..) = caller(&server, "alice").await;
    let mut bob = server.connect("room", "bob").await;
    bob.send_transport().await;
    // What is held is counted after each step.
    server.get("/admin/rooms/room").await;
    let refused = bob.refused("createWebRtcTransport", json!({})).await;
    assert!(refused.1.contains("WORKER_MAX_TRANSPORTS"), "{refused:?}");
    let carol = server
        .upgrade("/?roomId=room&peerId=carol", Some("protoo"))
        .await;
    assert_eq!(carol.err().unwrap().status, 503);
    for answer in [
        server.post("/rooms/another", "").await,
        server.get("/health").await,
    ] {
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains("every media worker"), "{answer:?}");
    }
    // Another worker has room.
    let second = server.pool.start_worker().await;
    assert_eq!(server.post("/rooms/another", "").await.status, 200);
    router_on(&second).await;
    // What is gone counts no more.
    drop(bob);
    alice.ok("leaveRoom", json!({})).await;
    wait_until("it is gone", async || {
        server.get("/rooms/room").await.status == 404
    })
    .await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;

    let server = with(|config| config.worker_max_consumers = 1).await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, ..) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    bob.take_consumer().await;
    server.get("/admin/rooms/room").await;
    let data = json!({ "transportId": send, "kind": "video", "rtpParameters": {} });
    let refused = alice.refused("produce", data).await;
    assert!(refused.1.contains("WORKER_MAX_CONSUMERS"), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_drains_lets_calls_go_on() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let answer = server.http("POST", "/admin/drain", &[], b"").await;
    assert_eq!(answer.status, 200);
    let want = json!({ "status": "draining", "rooms": 1, "timeoutSeconds": 30 });
    assert_eq!(answer.body, want);
    assert!(server.drain.is_cancelled());
    assert_eq!(server.get("/health").await.status, 503);
    assert_eq!(server.post("/rooms/new", "").await.status, 503);
    let refused = server
        .upgrade("/?roomId=new&peerId=x", Some("protoo"))
        .await;
    assert_eq!(refused.err().unwrap().status, 503);
    // The call goes on, and who was cut off comes back to it.
    alice.produce(&send, "audio").await;
    let (mut bob, ..) = caller(&server, "bob").await;
    bob.take_consumer().await;
}

/// A drain may take a day: a worker that dies meanwhile is not the end of its calls.
#[tokio::test]
async fn a_call_that_loses_its_worker_during_a_drain_goes_on() {
    let server = TestServer::start().await;
    let second = server.pool.start_worker().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.http("POST", "/admin/drain", &[], b"").await;
    server.pool.kill_worker(0).await;
    assert_eq!(alice.close_code().await, 1012);
    server.connect("room", "alice").await.join("Alice").await;
    router_on(&second).await;
    assert_eq!(server.post("/rooms/new", "").await.status, 503);
}

/// Watches from a thread of its own whether it ever seems that nobody is in a call.
struct IdleWatch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<bool>,
}

impl IdleWatch {
    fn start(server: &TestServer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (over, rooms) = (Arc::clone(&stop), server.rooms.clone());
        let thread = std::thread::spawn(move || {
            let mut idle = false;
            while !over.load(Ordering::Relaxed) {
                idle |= rooms.is_idle();
                std::thread::yield_now();
            }
            idle
        });
        Self { stop, thread }
    }

    fn was_idle(self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Nobody is back yet when the next worker dies: it is a call all the same.
#[tokio::test]
async fn a_call_that_moves_twice_during_a_drain_is_waited_for() {
    let timings = Timings {
        join: Duration::from_secs(60),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.http("POST", "/admin/drain", &[], b"").await;
    let watch = IdleWatch::start(&server);
    for _ in 0..2 {
        let second = server.pool.start_worker().await;
        server.pool.kill_worker(0).await;
        router_on(&second).await;
        let third = server.pool.start_worker().await;
        server.pool.kill_worker(0).await;
        router_on(&third).await;
        assert_eq!(alice.close_code().await, 1012);
        assert_eq!(server.rooms.joined_peers(), 0);
        alice = server.connect("room", "alice").await;
        alice.join("Alice").await;
    }
    assert!(!watch.was_idle());
    alice.ok("leaveRoom", json!({})).await;
    wait_until("it is over", async || server.rooms.is_idle()).await;
}

/// As with one worker alone: the call goes on when there is another in its place.
#[tokio::test]
async fn a_call_that_loses_the_only_worker_during_a_drain_goes_on() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.http("POST", "/admin/drain", &[], b"").await;
    let watch = IdleWatch::start(&server);
    server.pool.kill_workers().await;
    assert_eq!(alice.close_code().await, 1012);
    let refused = server
        .upgrade("/?roomId=room&peerId=alice", Some("protoo"))
        .await;
    assert_eq!(refused.err().unwrap().error(), "no live media worker");
    let path = "/rooms/room/admission?peerId=alice";
    assert_eq!(server.get(path).await.status, 503);
    server.pool.start_worker().await;
    assert_eq!(server.get(path).await.status, 200);
    let other = "/rooms/other/admission?peerId=alice";
    assert_eq!(server.get(other).await.status, 503);
    assert_eq!(server.post("/rooms/other", "").await.status, 503);
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    assert!(!watch.was_idle());
    alice.ok("leaveRoom", json!({})).await;
    wait_until("it is over", async || server.rooms.is_idle()).await;
}

/// Who does not come back in time is not waited for.
#[tokio::test]
async fn a_call_that_nobody_comes_back_to_is_not_waited_for() {
    let timings = Timings {
        join: Duration::from_millis(300),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    // It is not the drain that makes it a call that was lost.
    server.pool.kill_workers().await;
    assert_eq!(alice.close_code().await, 1012);
    assert!(!server.rooms.is_idle());
    server.http("POST", "/admin/drain", &[], b"").await;
    server.pool.start_worker().await;
    wait_until("it is given up", async || server.rooms.is_idle()).await;
    let path = "/rooms/room/admission?peerId=alice";
    assert_eq!(server.get(path).await.status, 503);
}

/// A room that an admin closes does not come back because it was lost just before.
#[tokio::test]
async fn a_room_that_is_closed_after_it_moved_is_closed() {
    let server = with(|config| config.room_auto_create = false).await;
    let second = server.pool.start_worker().await;
    server.post("/rooms/room", "").await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    // Where it goes it does not come about.
    second.hang("CreateRouter");
    server.pool.kill_worker(0).await;
    router_on(&second).await;
    let closed = server.http("DELETE", "/admin/rooms/room", &[], b"").await;
    assert_eq!(closed.status, 200);
    let refused = server
        .upgrade("/?roomId=room&peerId=alice", Some("protoo"))
        .await;
    assert_eq!(refused.err().unwrap().status, 404);
    // Nor one that went nowhere.
    second.behave();
    server.post("/rooms/other", "").await;
    server.pool.kill_workers().await;
    wait_until("it is lost", async || {
        server.get("/rooms/other").await.status == 503
    })
    .await;
    let close = async || server.http("DELETE", "/admin/rooms/other", &[], b"").await;
    assert_eq!(close().await.status, 200);
    assert_eq!(close().await.status, 404);
    server.pool.start_worker().await;
    let refused = server
        .upgrade("/?roomId=other&peerId=alice", Some("protoo"))
        .await;
    assert_eq!(refused.err().unwrap().status, 404);
}

#[tokio::test]
async fn a_worker_that_drains_is_replaced_when_its_rooms_are_gone() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let path = "/admin/workers/0/drain";
    let answer = server.http("POST", path, &[], b"").await;
    let want = json!({ "status": "draining", "rooms": 1, "timeoutSeconds": 30 });
    assert_eq!((answer.status, answer.body), (200, want));
    // No new rooms there, and no end while one is left. The server has no other.
    for answer in [
        server.post("/rooms/new", "").await,
        server.get("/rooms/new/admission?peerId=x").await,
        server.get("/health").await,
    ] {
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains("drain"), "{answer:?}");
    }
    alice.ok("getRouterRtpCapabilities", json!({})).await;
    assert!(server.pool.recycled.borrow().is_empty());
    alice.ok("leaveRoom", json!({})).await;
    let mut recycled = server.pool.recycled.subscribe();
    let done = recycled.wait_for(|recycled| *recycled == [0]);
    tokio::time::timeout(Duration::from_secs(10), done)
        .await
        .unwrap()
        .unwrap();
    for (path, status) in [
        ("/admin/workers/7/drain", 404),
        ("/admin/workers/x/drain", 400),
    ] {
        let answer = server.http("POST", path, &[], b"").await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn a_worker_that_drains_is_replaced_when_its_time_is_over() {
    let server = with(|config| config.drain_timeout = Duration::ZERO).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server
        .http("POST", "/admin/workers/0/drain", &[], b"")
        .await;
    let mut recycled = server.pool.recycled.subscribe();
    let done = recycled.wait_for(|recycled| *recycled == [0]);
    tokio::time::timeout(Duration::from_secs(10), done)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn health_names_workers_that_were_taken_out() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/health").await.body, json!({ "status": "ok" }));
    *server.pool.failed.lock().unwrap() = true;
    let want = json!({ "status": "ok", "failedWorkers": [1] });
    for path in ["/health", "/rooms/health"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.body), (200, want.clone()));
    }
    // Also where that is why there is none.
    server.pool.kill_workers().await;
    let answer = server.get("/health").await;
    let want = json!({
        "status": "unavailable", "error": "no live media worker", "failedWorkers": [1],
    });
    assert_eq!((answer.status, answer.body), (503, want));
}

/// A worker that did not answer once may have been busy: that takes no server out of
/// a load balancer.
#[tokio::test]
async fn a_worker_that_missed_a_check_does_not_make_the_server_unhealthy() {
    let server = TestServer::start().await;
    *server.pool.stuck.lock().unwrap() = true;
    let want = json!({ "status": "ok", "stuckWorkers": [0] });
    let answer = server.get("/health").await;
    assert_eq!((answer.status, answer.body), (200, want));
    assert_eq!(server.post("/rooms/room", "").await.status, 200);
    // Where it drains as well, the drain is not begun again.
    let path = "/admin/workers/0/drain";
    let first = server.http("POST", path, &[], b"").await;
    assert_eq!(first.body["rooms"], 1);
    assert_eq!(server.get("/health").await.status, 503);
    let told = server.get("/config").await.body["workers"][0].clone();
    let state = (&told["state"], &told["draining"]);
    assert_eq!(state, (&json!("stuck"), &json!(true)));
    let second = server.http("POST", path, &[], b"").await;
    assert_eq!((second.status, &second.body["rooms"]), (200, &json!(0)));
}

#[tokio::test]
async fn the_configuration_tells_of_each_worker() {
    let server = TestServer::start().await;
    server.post("/rooms/room", "").await;
    let told = server.get("/config").await.body;
    assert_eq!(told["config"]["sources"]["PROTOO_LISTEN_PORT"], "default");
    let mut worker = told["workers"][0].clone();
    let stats = worker["stats"].take();
    assert_eq!(
        worker,
        json!({
            "index": 0, "pid": 4711, "cpu": null, "minPort": 40_000, "maxPort": 44_999,
            "portsInUse": 1, "state": "ready", "draining": false, "ready": true,
            "uptimeSeconds": 90,
            "restarts": 2, "rooms": 1, "stats": null,
            "lastExit": {
                "reason": "signal: 9 (SIGKILL)",
                "at": 1_700_000_000_000_u64,
                "lastLines": ["so long"],
            },
            "load": {
                "cpuPercent": 25.0, "packetsInPerSecond": 10.0, "packetsOutPerSecond": 20.0,
                "bytesInPerSecond": 1000.0, "bytesOutPerSecond": 2000.0,
            },
        })
    );
    assert_eq!(stats["transports"], 8);
    assert_eq!(
        stats["droppedByReason"],
        json!({
            "unparsable": 1, "unknown": 2, "refusedChecks": 0, "refused": 3,
            "tooLong": 5, "wrongStream": 6, "falseReports": 7,
            "slowReaders": 4, "sendErrors": 0, "dataMessages": 0,
        })
    );
    let workers = server.get("/admin/workers").await.body["workers"].clone();
    assert_eq!(workers, told["workers"]);
}

/// What a metric has, by its name with labels; every line is looked at.
fn metrics(text: &str) -> std::collections::HashMap<String, f64> {
    let mut found = std::collections::HashMap::new();
    let mut described = std::collections::HashSet::new();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(described.insert(name.to_owned()), "{name} is there twice");
        }
        if line.starts_with('#') {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(name.starts_with("webrtc_"), "{line}");
        assert!(found.insert(name.to_owned(), value).is_none(), "{line}");
    }
    found
}

#[tokio::test]
async fn metrics_tell_what_is_and_what_was() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    alice.refused("produce", json!({})).await;
    alice.refused("evil{label=\"x\"}", json!({})).await;
    server.get("/admin/rooms/room").await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let text = answer.body.as_str().unwrap();
    let metrics = metrics(text);
    for (name, want) in [
        ("webrtc_rooms", 1.0),
        ("webrtc_peers", 1.0),
        ("webrtc_rooms_quarantined", 0.0),
        ("webrtc_join_seconds_count", 1.0),
        (
            "webrtc_protoo_request_seconds_count{method=\"join\",result=\"ok\"}",
            1.0,
        ),
        (
            "webrtc_protoo_request_seconds_count{method=\"produce\",result=\"ok\"}",
            1.0,
        ),
        (
            "webrtc_protoo_request_seconds_count{method=\"produce\",result=\"400\"}",
            1.0,
        ),
        (
            "webrtc_protoo_request_seconds_count{method=\"other\",result=\"500\"}",
            1.0,
        ),
        ("webrtc_worker_state{worker=\"0\",state=\"ready\"}", 1.0),
        ("webrtc_worker_state{worker=\"0\",state=\"failed\"}", 0.0),
        ("webrtc_worker_restarts_total{worker=\"0\"}", 2.0),
        ("webrtc_worker_cpu_cores{worker=\"0\"}", 0.25),
        ("webrtc_worker_cpu_seconds_total{worker=\"0\"}", 2.5),
        ("webrtc_worker_transports{worker=\"0\"}", 8.0),
        (
            "webrtc_worker_datagrams_dropped_total{worker=\"0\",reason=\"unknown\"}",
            2.0,
        ),
        (
            "webrtc_worker_datagrams_dropped_total{worker=\"0\",reason=\"slow_reader_video\"}",
            4.0,
        ),
        ("webrtc_worker_tcp_connections{worker=\"0\"}", 5.0),
        (
            "webrtc_worker_tcp_connections_closed_total{worker=\"0\",reason=\"silent\"}",
            9.0,
        ),
        ("webrtc_worker_tick_seconds_count{worker=\"0\"}", 78.0),
        ("webrtc_worker_tick_seconds_sum{worker=\"0\"}", 1.5),
        (
            "webrtc_worker_forwarding_seconds_count{worker=\"0\"}",
            108.0,
        ),
        // Buckets are summed up.
        (
            "webrtc_worker_tick_seconds_bucket{le=\"0.00005\",worker=\"0\"}",
            1.0,
        ),
        (
            "webrtc_worker_tick_seconds_bucket{le=\"0.1\",worker=\"0\"}",
            66.0,
        ),
        (
            "webrtc_worker_tick_seconds_bucket{le=\"+Inf\",worker=\"0\"}",
            78.0,
        ),
        ("webrtc_webhooks_total{result=\"delivered\"}", 0.0),
        (
            "webrtc_worker_rtp_nacks_total{worker=\"0\",direction=\"received\"}",
            7.0,
        ),
        (
            "webrtc_worker_rtp_plis_total{worker=\"0\",direction=\"sent\"}",
            3.0,
        ),
        (
            "webrtc_worker_rtp_loss_ratio{worker=\"0\",direction=\"sent\"}",
            0.025,
        ),
        (
            "webrtc_worker_rtp_round_trip_seconds{worker=\"0\",direction=\"sent\"}",
            0.02,
        ),
        ("webrtc_worker_events_waiting{worker=\"0\"}", 4.0),
        ("webrtc_webhooks_queued", 0.0),
        ("webrtc_log_lines_lost_total{reason=\"limit\"}", 0.0),
        ("webrtc_log_lines_lost_total{reason=\"reader\"}", 0.0),
        ("webrtc_worker_log_lines_left_out_total{worker=\"0\"}", 6.0),
        ("webrtc_room_commands_waiting", 0.0),
    ] {
        assert_eq!(metrics.get(name), Some(&want), "{name} in {text}");
    }
    assert!(!text.contains("evil"));
}

/// The metrics of a server where everything of which there are kinds has one: of what
/// has kinds, there is a line when there is one of a kind.
async fn all_metrics() -> String {
    let server = TestServer::start().await;
    let (_alice, ..) = caller(&server, "alice").await;
    let state = proto::TransportStateChanged::default();
    server.worker_says(Event::TransportState(state)).await;
    let metrics = async || {
        server
            .get("/metrics")
            .await
            .body
            .as_str()
            .unwrap()
            .to_owned()
    };
    wait_until("the state is counted", async || {
        metrics().await.contains("\nwebrtc_dtls_states_total{")
    })
    .await;
    metrics().await
}

/// The family that a line of this kind is about.
fn family_of<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    let name = line.split(['{', ' ']).next()?;
    match kind {
        "gauge" => Some(name),
        "counter" => name.strip_suffix("_total"),
        _ => name.strip_suffix("_count"),
    }
}

/// What operators were promised to find, whatever has happened so far.
#[tokio::test]
async fn every_kind_of_metric_is_there() {
    let text = all_metrics().await;
    for (kind, families) in [
        (
            "gauge",
            "rooms peers webhooks_queued room_commands_waiting room_events_waiting worker_state \
             worker_cpu_cores worker_uptime_seconds worker_memory_bytes worker_ports_in_use \
             worker_transports worker_producers worker_consumers worker_events_waiting \
             worker_rtp_loss_ratio worker_rtp_round_trip_seconds",
        ),
        (
            "counter",
            "webhooks ice_states dtls_states transports_closed_by_worker layer_changes rooms_lost \
             worker_restarts worker_datagrams_received worker_datagrams_sent \
             worker_bytes_received worker_bytes_sent worker_datagrams_dropped worker_rtp_nacks \
             worker_rtp_plis worker_rtp_packets_lost worker_rtp_packets_retransmitted \
             worker_rtp_packets_forwarded worker_cpu_seconds worker_plain_unreachable \
             log_lines_lost \
             worker_log_lines_left_out",
        ),
        (
            "histogram",
            "join_seconds protoo_request_seconds worker_forwarding_seconds worker_tick_seconds",
        ),
    ] {
        for family in families.split_whitespace() {
            let family = format!("webrtc_{family}");
            let described = format!("# TYPE {family} {kind}");
            assert!(text.lines().any(|line| line == described), "{described}");
            let told = |line: &str| family_of(line, kind) == Some(family.as_str());
            assert!(text.lines().any(told), "{family} has no value");
        }
    }
}

/// The metrics that a text names, each of which has to be there.
fn metrics_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("webrtc_"))
        .map(|name| {
            ["_bucket", "_sum", "_count", "_total"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name)
        })
}

/// What the dashboard shows, and the document tells to watch, has to be there.
#[tokio::test]
async fn dashboard_and_document_ask_for_metrics_that_there_are() {
    let text = all_metrics().await;
    let document = |name: &str| {
        let documents = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/");
        std::fs::read_to_string(format!("{documents}{name}")).unwrap()
    };
    let is_there = |family: &str| text.contains(&format!("# TYPE {family} "));
    for family in metrics_in(&document("operations.md")) {
        assert!(is_there(family), "{family} in operations.md");
    }
    let dashboard: Value = serde_json::from_str(&document("grafana-dashboard.json")).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            for family in metrics_in(query) {
                assert!(is_there(family), "{family} of {:?}", panel["title"]);
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "{asked}");
}

thread_local! {
    /// What was logged by this thread, which is that of one test.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether there is a line with all of these.
fn is_logged(parts: &[&str]) -> bool {
    let text = LOGGED.with_borrow(|log| String::from_utf8(log.clone()).unwrap());
    let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
    text.lines().any(has_all)
}

/// Whoever looks for a peer in the log finds what happened to it.
#[tokio::test]
async fn lines_name_the_room_the_peer_and_the_transport() {
    // One for all threads: what one thread alone listens to is not heard where another
    // comes first to the place in the code.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(|| Log)
        .init();
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.refused("produce", json!({})).await;
    let state = proto::TransportStateChanged {
        transport_id: send.clone(),
        ..Default::default()
    };
    server.worker_says(Event::TransportState(state)).await;
    let closed = proto::TransportClosed {
        transport_id: send.clone(),
        reason: "it had to be".into(),
    };
    server.worker_says(Event::TransportClosed(closed)).await;
    let transport = format!("transport=\"{send}\"");
    for parts in [
        &["peer joined", "INFO", "room=room", "peer=alice"][..],
        &[
            "request refused",
            "room=room",
            "peer=alice",
            "method=\"produce\"",
        ],
        &["transport state", "room=room", "peer=alice", &transport],
        &[
            "transport closed",
            "room=room",
            "peer=alice",
            &transport,
            "it had to be",
        ],
    ] {
        wait_until(&format!("{parts:?}"), async || is_logged(parts)).await;
    }
}
