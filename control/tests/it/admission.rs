//! Who gets a socket, and what the others are told.

use std::time::Duration;

use control::error::Error;
use control::rooms::{MAX_WAITING_ROOMS, PeerId, RoomId, RoomOptions, Timings};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{TestServer, caller, config};

#[tokio::test]
async fn refused_before_the_upgrade() {
    let server = TestServer::start().await;
    let long = "a".repeat(129);
    let ids = [
        ("/", "roomId"),
        ("/?peerId=p", "roomId"),
        ("/?roomId=&peerId=p", "roomId"),
        ("/?roomId=r", "peerId"),
        ("/?roomId=r&peerId=", "peerId"),
        ("/?roomId=r&peerId=a%00b", "peerId"),
        ("/?roomId=r%0A&peerId=a", "roomId"),
        ("/?roomId=health&peerId=a", "roomId"),
        (&format!("/?roomId={long}&peerId=a"), "roomId"),
        (&format!("/?roomId=r&peerId={long}"), "peerId"),
    ];
    for (path, field) in ids {
        let refused = server.upgrade(path, Some("protoo")).await.err().unwrap();
        assert_eq!(refused.status, 400, "{path}");
        assert!(
            refused.error().starts_with(field),
            "{path}: {}",
            refused.error()
        );
    }
    for subprotocol in [None, Some("chat"), Some("protoo2")] {
        let refused = server.upgrade("/?roomId=r&peerId=p", subprotocol).await;
        assert_eq!(refused.err().unwrap().status, 403, "{subprotocol:?}");
    }
    assert_eq!(server.worker.count("CreateRouter"), 0);
}

#[tokio::test]
async fn any_path_and_several_subprotocols() {
    let server = TestServer::start().await;
    for path in ["/", "/ws", "/rooms/x", "/config", "/a/b/c"] {
        let path = format!("{path}?roomId=r&peerId=p");
        let upgraded = server.upgrade(&path, Some("chat, protoo")).await;
        upgraded.ok().unwrap().join("P").await;
    }
}

/// Defect seed 15: the original takes a `consume` flag and forgets it. There is
/// none here: who wants nothing makes no transport to receive on.
#[tokio::test]
async fn unknown_parameters_mean_nothing() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    let path = "/?roomId=room&peerId=bob&consume=false&x=y&forceH264=true";
    let mut bob = server.upgrade(path, Some("protoo")).await.ok().unwrap();
    bob.join("Bob").await;
    bob.not_told("newConsumer").await;
    bob.recv_transport().await;
    bob.take_consumer().await;
}

#[tokio::test]
async fn a_broken_upgrade_is_refused() {
    let server = TestServer::start().await;
    let headers = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Protocol", "protoo"),
    ];
    let answer = server
        .http("GET", "/?roomId=r&peerId=p", &headers, b"")
        .await;
    assert_eq!(answer.status, 400);
    assert!(!answer.error().is_empty());
    assert_eq!(server.get("/rooms/r").await.status, 404);
}

/// Defects seed 3 and d (refused before the upgrade) and seed 9 (a replacement
/// takes the old seat).
#[tokio::test]
async fn a_full_room() {
    let server = TestServer::start().await;
    let created = server.post("/rooms/small", r#"{"maxPeerCount":2}"#).await;
    assert_eq!(created.status, 200);
    let mut alice = server.connect("small", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("small", "bob").await;
    bob.join("Bob").await;
    let full = |answer: crate::server::Answer| {
        assert_eq!((answer.status, answer.error()), (403, "room is full"));
    };
    let carol = "/?roomId=small&peerId=carol";
    full(server.upgrade(carol, Some("protoo")).await.err().unwrap());
    full(server.get("/rooms/small/admission?peerId=carol").await);
    // Who is in already may come in again, without taking another seat.
    assert_eq!(
        server.get("/rooms/small/admission?peerId=bob").await.status,
        200
    );
    let mut bob_again = server.connect("small", "bob").await;
    bob_again.join("Bob").await;
    assert_eq!(bob.close_code().await, 4000);
    full(server.upgrade(carol, Some("protoo")).await.err().unwrap());
    bob_again.ok("leaveRoom", json!({})).await;
    server.connect("small", "carol").await.join("Carol").await;
    alice.notified("newPeer").await;
}

/// Defect seed 23.
#[tokio::test]
async fn the_default_limit() {
    let server = TestServer::start().await;
    let mut peers = Vec::new();
    for index in 0..config().room_max_peers {
        peers.push(server.connect("room", &format!("p{index}")).await);
    }
    let refused = server
        .upgrade("/?roomId=room&peerId=x", Some("protoo"))
        .await;
    assert_eq!(refused.err().unwrap().status, 403);
}

/// Defects seed 5 and i: asking creates nothing.
#[tokio::test]
async fn admission_answers_without_creating() {
    let server = TestServer::start().await;
    let answer = server.get("/rooms/new/admission?peerId=p").await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.get("/rooms/new").await.status, 404);
    assert_eq!(server.get("/rooms/new/admission").await.status, 400);
    assert_eq!(
        server.get("/rooms/health/admission?peerId=p").await.status,
        400
    );
    server.pool.kill_workers().await;
    let answer = server.get("/rooms/new/admission?peerId=p").await;
    assert_eq!(
        (answer.status, answer.error()),
        (503, "no live media worker")
    );
}

/// Defect e: one room under a race.
#[tokio::test]
async fn many_at_once_make_one_room() {
    let mut config = config();
    config.room_max_peers = 20;
    let server = TestServer::start_with(config, Timings::default()).await;
    let connects = (0..20).map(|index| {
        let peer = format!("p{index}");
        let server = &server;
        async move { server.connect("room", &peer).await }
    });
    let mut peers = futures_util::future::join_all(connects).await;
    assert_eq!(server.worker.count("CreateRouter"), 1);
    for peer in &mut peers {
        peer.join("P").await;
    }
    assert_eq!(server.rooms.joined_peers(), 20);
}

/// Defect p: free places are taken as they are counted.
#[tokio::test]
async fn the_last_seats_are_given_once() {
    let server = TestServer::start().await;
    let created = server.post("/rooms/small", r#"{"maxPeerCount":4}"#).await;
    assert_eq!(created.status, 200);
    let comes = (0..20).map(|index| {
        let path = format!("/?roomId=small&peerId=p{index}");
        let server = &server;
        async move { server.upgrade(&path, Some("protoo")).await }
    });
    let came = futures_util::future::join_all(comes).await;
    let (seated, refused): (Vec<_>, Vec<_>) = came.into_iter().partition(Result::is_ok);
    assert_eq!((seated.len(), refused.len()), (4, 16));
    for refused in refused {
        assert_eq!(refused.err().unwrap().status, 403);
    }
}

#[tokio::test]
async fn a_seat_that_nobody_takes_is_given_back() {
    let server = TestServer::start().await;
    server.post("/rooms/small", r#"{"maxPeerCount":2}"#).await;
    let room = RoomId::parse("small").unwrap();
    let peer = |id| PeerId::parse(id).unwrap();
    let rooms = &server.rooms;
    let first = rooms.admit(&room, &peer("a")).await.unwrap();
    let second = rooms.admit(&room, &peer("b")).await.unwrap();
    assert_eq!(
        rooms.admit(&room, &peer("c")).await.err(),
        Some(Error::RoomFull)
    );
    // The same peer twice is one peer.
    drop(rooms.admit(&room, &peer("a")).await.unwrap());
    drop(first);
    drop(second);
    rooms.admit(&room, &peer("c")).await.unwrap();
    // A room that a peer made ends with the last seat in it.
    let other = RoomId::parse("other").unwrap();
    drop(rooms.admit(&other, &peer("a")).await.unwrap());
    let ends = async {
        while rooms.check(&other).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ends)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_upgrade_that_breaks_off_gives_its_seat_back() {
    let server = TestServer::start().await;
    server.post("/rooms/small", r#"{"maxPeerCount":2}"#).await;
    let _alice = server.connect("small", "alice").await;
    for _ in 0..5 {
        let mut stream = server.tls().await;
        let request = "GET /?roomId=small&peerId=bob HTTP/1.1\r\nHost: localhost\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: protoo\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        drop(stream);
    }
    let carol_sits = async {
        let path = "/?roomId=small&peerId=carol";
        while server.upgrade(path, Some("protoo")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), carol_sits)
        .await
        .unwrap();
}

/// Defect seed 6: rooms that nobody joins expire.
#[tokio::test]
async fn rooms_made_over_http_wait_for_a_while() {
    let timings = Timings {
        unused_room: Duration::from_millis(300),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    server.post("/rooms/used", "").await;
    server.post("/rooms/unused", "").await;
    // Looking in without joining does not use the room up.
    drop(server.connect("used", "alice").await);
    let mut alice = server.connect("used", "alice").await;
    alice.join("Alice").await;
    let expired = async {
        while server.get("/rooms/unused").await.status == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), expired)
        .await
        .unwrap();
    assert_eq!(server.get("/rooms/used").await.status, 200);
    // The name is free again.
    assert_eq!(server.post("/rooms/unused", "").await.status, 200);
}

#[tokio::test]
async fn rooms_that_nobody_joins_are_limited() {
    let server = TestServer::start().await;
    assert_eq!(server.post("/rooms/first", "").await.status, 200);
    for _ in 1..MAX_WAITING_ROOMS {
        let options = RoomOptions::default();
        server.rooms.create(None, options).await.unwrap();
    }
    let refused = |answer: crate::server::Answer| {
        let reason = "too many rooms that nobody has joined yet";
        assert_eq!((answer.status, answer.error()), (503, reason));
    };
    refused(server.get("/getRoomId").await);
    refused(server.post("/rooms", "").await);
    refused(server.post("/rooms/other", "").await);
    // Whoever comes with a socket is taken, in old rooms and in new ones.
    assert_eq!(server.get("/health").await.status, 200);
    server.connect("new", "alice").await.join("Alice").await;
    let mut bob = server.connect("first", "bob").await;
    refused(server.post("/rooms/other", "").await);
    // That makes one fewer.
    bob.join("Bob").await;
    assert_eq!(server.post("/rooms/other", "").await.status, 200);
    refused(server.post("/rooms/another", "").await);
}
