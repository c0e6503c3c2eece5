//! What the outside is told of joins and leaves, by whatever receiver.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use control::config::{Config, Secret};
use control::rooms::Timings;
use control::webhooks::{Counts, Pace};
use proto::ActiveSpeaker;
use proto::event::Event;
use serde_json::{Value, json};

use crate::client::Client;
use crate::fake_worker::Call;
use crate::receiver::{Answer, Post, Receiver};
use crate::server::{TestServer, config};

/// Fast enough for a test, and patient enough for a busy machine.
fn timings() -> Timings {
    Timings {
        webhooks: Pace {
            try_timeout: Duration::from_secs(2),
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_millis(40),
            give_up_after: Duration::from_secs(20),
        },
        ..Timings::default()
    }
}

async fn start(config: Config) -> TestServer {
    TestServer::start_with(config, timings()).await
}

async fn create(server: &TestServer, room: &str, uri: &str) {
    let body = json!({ "eventNotificationUri": uri }).to_string();
    let answer = server.post(&format!("/rooms/{room}"), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until the counts are as the test wants them.
async fn counted(server: &TestServer, is_it: impl Fn(Counts) -> bool) {
    let waiting = async {
        while !is_it(server.rooms.webhooks().counts()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let counts = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(counts.is_ok(), "{:?}", server.rooms.webhooks().counts());
}

/// Peer, event and sequence number of each.
fn events(posts: &[Post]) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let event = |post: &Post| {
        let body = post.body();
        let sequence = body["sequence"].as_u64().unwrap();
        (text(&body["peerId"]), text(&body["event"]), sequence)
    };
    posts.iter().map(event).collect()
}

fn event(peer: &str, event: &str, sequence: u64) -> (String, String, u64) {
    (peer.into(), event.into(), sequence)
}

/// Defects seed 1, 4, 11 and s: to the room's own URI, after the join, once, and
/// complete.
#[tokio::test]
async fn joins_and_leaves_are_told_in_order() {
    let mut config = config();
    config.webhook_secret = Some(Secret::new("a secret"));
    let server = start(config).await;
    let (receiver, other) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    create(&server, "room", &receiver.uri()).await;
    create(&server, "other", &other.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    // Neither a socket nor a join that fails is a peer.
    drop(server.connect("room", "nobody").await);
    alice.refused("join", json!({ "displayName": 1 })).await;
    alice.join("Alice").await;
    alice.refused("join", json!({})).await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    bob.ok("leaveRoom", json!({})).await;
    alice.notified("peerLeft").await;
    drop(alice);
    let posts = receiver.wait(4).await;
    let expected = [
        event("alice", "peer-joined", 1),
        event("bob", "peer-joined", 2),
        event("bob", "peer-left", 3),
        event("alice", "peer-left", 4),
    ];
    assert_eq!(events(&posts), expected);
    let reasons = posts.iter().map(|post| post.body()["reason"].clone());
    let expected = [
        json!(null),
        json!(null),
        json!("left"),
        json!("disconnected"),
    ];
    assert_eq!(reasons.collect::<Vec<_>>(), expected);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret");
    for post in &posts {
        assert!(post.head.starts_with("POST /hook?a=1 HTTP/1.1"), "{post:?}");
        assert_eq!(post.header("content-type"), Some("application/json"));
        assert_eq!(
            post.header("authorization"),
            Some("Basic dXNlcjpwYXNzLXdvcmQ=")
        );
        let body = post.body();
        assert_eq!(body["roomId"], "room");
        assert!(body["id"].as_str().unwrap().len() >= 32);
        let age = now.as_millis() as u64 - body["timestamp"].as_u64().unwrap();
        assert!(age < 60_000, "{body}");
        let tag = hmac::sign(&key, post.text.as_bytes());
        let hex: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let signature = format!("sha256={hex}");
        assert_eq!(post.header("x-webhook-signature"), Some(signature.as_str()));
    }
    assert_eq!(other.posts(), []);
    counted(&server, |counts| {
        counts.delivered == 4 && counts.queued == 0
    })
    .await;
}

#[tokio::test]
async fn without_a_secret_nothing_is_signed() {
    let server = start(config()).await;
    let receiver = Receiver::start(&[]).await;
    create(&server, "room", &receiver.uri()).await;
    server.connect("room", "alice").await.join("Alice").await;
    let posts = receiver.wait(1).await;
    assert_eq!(posts[0].header("x-webhook-signature"), None);
}

/// Defects seed 21 (neither timeout nor retry) and k (a failure is no success).
#[tokio::test]
async fn what_fails_is_tried_again_unchanged() {
    let server = start(config()).await;
    let elsewhere = Receiver::start(&[]).await;
    let failures = [
        Answer::Status(500),
        Answer::Drop,
        Answer::Status(404),
        Answer::Hang,
        // Defect seed 21: nobody is sent elsewhere.
        Answer::Redirect(elsewhere.uri()),
        Answer::Redirect("file:///etc/passwd".into()),
    ];
    let receiver = Receiver::start(&failures).await;
    create(&server, "room", &receiver.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    alice.ok("leaveRoom", json!({})).await;
    let posts = receiver.wait(failures.len() + 2).await;
    let (first, rest) = posts.split_first().unwrap();
    for again in &rest[..failures.len()] {
        assert_eq!(again, first);
    }
    let expected = [
        event("alice", "peer-joined", 1),
        event("alice", "peer-left", 2),
    ];
    assert_eq!(events(&posts[failures.len()..]), expected);
    assert_eq!(elsewhere.posts(), []);
    counted(&server, |counts| counts.delivered == 2).await;
    let counts = server.rooms.webhooks().counts();
    assert_eq!(counts.failed_tries, failures.len() as u64);
    assert_eq!((counts.undelivered, counts.queued), (0, 0));
}

/// Defect j: nobody waits for a receiver.
#[tokio::test]
async fn a_receiver_that_hangs_delays_nobody() {
    let mut timings = timings();
    timings.webhooks.try_timeout = Duration::from_secs(600);
    let server = TestServer::start_with(config(), timings).await;
    let receiver = Receiver::start(&[Answer::Hang]).await;
    let other = Receiver::start(&[]).await;
    create(&server, "room", &receiver.uri()).await;
    create(&server, "other", &other.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    receiver.wait(1).await;
    for _ in 0..20 {
        let mut bob = server.connect("room", "bob").await;
        bob.join("Bob").await;
        alice.notified("newPeer").await;
        bob.ok("leaveRoom", json!({})).await;
        alice.notified("peerLeft").await;
    }
    // Another room's events pass by.
    server.connect("other", "carol").await.join("Carol").await;
    other.wait(2).await;
    assert_eq!(receiver.posts().len(), 1);
    counted(&server, |counts| counts.queued == 41).await;
}

#[tokio::test]
async fn an_answer_without_end_is_an_answer() {
    let server = start(config()).await;
    let receiver = Receiver::start(&[Answer::Endless]).await;
    create(&server, "room", &receiver.uri()).await;
    server.connect("room", "alice").await.join("Alice").await;
    counted(&server, |counts| counts.delivered == 2).await;
    assert_eq!(server.rooms.webhooks().counts().failed_tries, 0);
}

#[tokio::test]
async fn an_event_is_given_up_and_the_next_one_sent() {
    let mut timings = timings();
    timings.webhooks.give_up_after = Duration::from_secs(1);
    let server = TestServer::start_with(config(), timings).await;
    let receiver = Receiver::start(&vec![Answer::Status(503); 3]).await;
    // Nobody listens here.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    create(&server, "deaf", &format!("http://127.0.0.1:{port}/")).await;
    let mut alice = server.connect("deaf", "alice").await;
    alice.join("Alice").await;
    counted(&server, |counts| {
        counts.undelivered == 1 && counts.queued == 0
    })
    .await;
    assert!(server.rooms.webhooks().counts().failed_tries > 1);
    create(&server, "room", &receiver.uri()).await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    bob.ok("leaveRoom", json!({})).await;
    counted(&server, |counts| counts.queued == 0).await;
    let posts = receiver.posts();
    assert_eq!(posts.last().unwrap().body()["event"], "peer-left");
}

#[tokio::test]
async fn what_waited_too_long_behind_others_is_not_tried() {
    let mut timings = timings();
    timings.webhooks.try_timeout = Duration::from_secs(1);
    timings.webhooks.give_up_after = Duration::from_millis(900);
    let server = TestServer::start_with(config(), timings).await;
    let receiver = Receiver::start(&[Answer::Hang]).await;
    create(&server, "room", &receiver.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    receiver.wait(1).await;
    let begin = std::time::Instant::now();
    for _ in 0..10 {
        let mut bob = server.connect("room", "bob").await;
        bob.join("Bob").await;
        bob.ok("leaveRoom", json!({})).await;
    }
    counted(&server, |counts| {
        counts.undelivered > 1 && counts.queued == 0
    })
    .await;
    // Only what came later than all of that is tried.
    let counts = server.rooms.webhooks().counts();
    let quick = begin.elapsed() < Duration::from_millis(1500);
    let tried = 1 + usize::try_from(counts.delivered).unwrap();
    assert_eq!(receiver.posts().len(), tried);
    assert_eq!(counts.failed_tries, 1);
    assert_eq!(counts.undelivered + counts.delivered, 21);
    assert!(counts.undelivered > 1 || !quick, "{counts:?}");
    let mut carol = server.connect("room", "carol").await;
    carol.join("Carol").await;
    counted(&server, |it| it.delivered == counts.delivered + 1).await;
}

/// Defect d: who is turned away is nobody's peer.
#[tokio::test]
async fn who_is_turned_away_is_not_told() {
    let server = start(config()).await;
    let receiver = Receiver::start(&[]).await;
    let body = json!({ "eventNotificationUri": receiver.uri(), "maxPeerCount": 2 });
    let answer = server.post("/rooms/room", &body.to_string()).await;
    assert_eq!(answer.status, 200);
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    let path = "/?roomId=room&peerId=carol";
    let refused = server.upgrade(path, Some("protoo")).await;
    assert_eq!(refused.err().unwrap().status, 403);
    bob.ok("leaveRoom", json!({})).await;
    let posts = receiver.wait(3).await;
    let expected = [
        event("alice", "peer-joined", 1),
        event("bob", "peer-joined", 2),
        event("bob", "peer-left", 3),
    ];
    assert_eq!(events(&posts), expected);
}

#[tokio::test]
async fn a_second_session_leaves_and_joins() {
    let server = start(config()).await;
    let receiver = Receiver::start(&[]).await;
    create(&server, "room", &receiver.uri()).await;
    let mut first = server.connect("room", "alice").await;
    first.join("Alice").await;
    let mut second = server.connect("room", "alice").await;
    second.join("Alice").await;
    assert_eq!(first.close_code().await, 4000);
    drop(second);
    let expected = [
        event("alice", "peer-joined", 1),
        event("alice", "peer-left", 2),
        event("alice", "peer-joined", 3),
        event("alice", "peer-left", 4),
    ];
    assert_eq!(events(&receiver.wait(4).await), expected);
}

/// Defect seed 7: the URI lives as long as the room; also what came before it
/// comes first.
#[tokio::test]
async fn a_room_made_anew_gets_into_line() {
    let server = start(config()).await;
    let receiver = Receiver::start(&vec![Answer::Status(500); 10]).await;
    create(&server, "room", &receiver.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.pool.kill_workers().await;
    assert_eq!(alice.close_code().await, 1012);
    server.pool.start_worker().await;
    let mut again = server.connect("room", "alice").await;
    again.join("Alice").await;
    again.ok("leaveRoom", json!({})).await;
    let posts = receiver.wait(14).await;
    let expected = [
        event("alice", "peer-joined", 1),
        event("alice", "peer-left", 2),
        event("alice", "peer-joined", 1),
        event("alice", "peer-left", 2),
    ];
    assert_eq!(events(&posts[10..]), expected);
    assert_eq!(posts[11].body()["reason"], "room-lost");
    // Now without a URI.
    let gone = async { while server.get("/rooms/room").await.status != 404 {} };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
    server.connect("room", "bob").await.join("Bob").await;
    counted(&server, |counts| counts.queued == 0).await;
    assert_eq!(receiver.posts().len(), 14);
}

/// Defect seed 21: requests can be kept out of the own network.
#[tokio::test]
async fn private_addresses_can_be_refused() {
    let mut config = config();
    config.webhook_allow_private = false;
    let server = start(config).await;
    let receiver = Receiver::start(&[]).await;
    create(&server, "room", &receiver.uri()).await;
    let by_name = receiver.uri().replace("127.0.0.1", "localhost");
    create(&server, "named", &by_name).await;
    for room in ["room", "named"] {
        let mut alice = server.connect(room, "alice").await;
        alice.join("Alice").await;
    }
    counted(&server, |counts| counts.undelivered == 4).await;
    assert_eq!(receiver.posts(), []);
    // Not worth a second try.
    assert_eq!(server.rooms.webhooks().counts().failed_tries, 4);
}

#[tokio::test]
async fn the_end_of_the_server_is_told() {
    let mut timings = timings();
    timings.webhooks.pause_min = Duration::from_secs(600);
    timings.webhooks.pause_max = Duration::from_secs(600);
    timings.webhooks.give_up_after = Duration::from_secs(6000);
    let server = TestServer::start_with(config(), timings).await;
    let receiver = Receiver::start(&[Answer::Status(500)]).await;
    create(&server, "room", &receiver.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    receiver.wait(1).await;
    server.rooms.shutdown(1012).await;
    server.rooms.webhooks().flush().await;
    let posts = receiver.posts();
    let expected = [
        event("alice", "peer-joined", 1),
        event("alice", "peer-joined", 1),
        event("alice", "peer-left", 2),
    ];
    assert_eq!(events(&posts), expected);
    assert_eq!(posts[2].body()["reason"], "shutdown");
}

/// More events of the worker than the room, which waits for it, can hold.
async fn overrun(server: &TestServer, peer: &mut Client) {
    server.worker.hang("CreateTransport");
    peer.start("createWebRtcTransport", json!({})).await;
    let waits = |call: &Call| matches!(call, Call::CreateTransport(_)).then_some(());
    server.worker.wait_for(waits).await;
    for _ in 0..4200 {
        let silence = Event::ActiveSpeaker(ActiveSpeaker::default());
        server.worker_says(silence).await;
    }
}

/// Defect k: whatever ends a room, each of its peers is told of once.
#[tokio::test]
async fn every_end_of_a_room_is_told_once() {
    for (way, reason) in [
        ("leaves", "left"),
        ("breaks off", "disconnected"),
        ("worker dies", "room-lost"),
        ("too many events", "room-lost"),
        ("shutdown", "shutdown"),
    ] {
        let server = start(config()).await;
        let receiver = Receiver::start(&[]).await;
        create(&server, "room", &receiver.uri()).await;
        // One that nobody comes to has nothing to tell.
        create(&server, "empty", &receiver.uri()).await;
        let mut alice = server.connect("room", "alice").await;
        alice.join("Alice").await;
        let _unjoined = match way {
            "leaves" | "breaks off" => None,
            _ => Some(server.connect("room", "nobody").await),
        };
        match way {
            "leaves" => drop(alice.ok("leaveRoom", json!({})).await),
            "breaks off" => drop(alice),
            "worker dies" => server.pool.kill_workers().await,
            "too many events" => overrun(&server, &mut alice).await,
            _ => server.rooms.shutdown(1012).await,
        }
        receiver.wait(2).await;
        server.rooms.shutdown(1012).await;
        server.rooms.webhooks().flush().await;
        let posts = receiver.posts();
        let expected = [
            event("alice", "peer-joined", 1),
            event("alice", "peer-left", 2),
        ];
        assert_eq!(events(&posts), expected, "{way}");
        assert_eq!(posts[1].body()["reason"], reason, "{way}");
    }
}

#[tokio::test]
async fn the_end_of_the_server_waits_for_nobody_long() {
    let mut timings = timings();
    timings.webhooks.try_timeout = Duration::from_secs(600);
    let server = TestServer::start_with(config(), timings).await;
    let receiver = Receiver::start(&[Answer::Hang]).await;
    create(&server, "room", &receiver.uri()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    receiver.wait(1).await;
    let begin = std::time::Instant::now();
    server.rooms.webhooks().flush().await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test]
async fn the_counts_are_served_and_the_uri_is_not() {
    let server = start(config()).await;
    let receiver = Receiver::start(&[]).await;
    create(&server, "room", &receiver.uri()).await;
    server.connect("room", "alice").await.join("Alice").await;
    counted(&server, |counts| counts.delivered == 2).await;
    let answer = server.get("/config").await;
    let expected = json!({
        "delivered": 2, "failedTries": 0, "undelivered": 0, "dropped": 0, "queued": 0,
    });
    assert_eq!(answer.body["webhooks"], expected);
    assert!(!answer.body.to_string().contains("pass-word"));
}
