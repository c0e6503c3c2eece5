//! The admin paths: who may use them and where, rooms as admins see them, and
//! putting people out.

use control::config::Secret;
use control::rooms::Timings;
use serde_json::{Value, json};

use crate::client::Client;
use crate::fake_worker::Call;
use crate::receiver::Receiver;
use crate::server::{TestServer, caller, config};

/// Admin paths that only tell.
const READING: [&str; 6] = [
    "/metrics",
    "/admin/rooms/room",
    "/admin/rooms/room/consumers",
    "/admin/rooms",
    "/admin/workers",
    "/admin/rooms/none",
];

async fn with_token() -> TestServer {
    let mut config = config();
    config.admin_token = Some(Secret::new("open-sesame"));
    TestServer::start_with(config, Timings::default()).await
}

#[tokio::test]
async fn with_a_token_nothing_else_helps() {
    let server = with_token().await;
    server.post("/rooms/room", "").await;
    for path in READING {
        for value in ["", "Bearer wrong", "Basic open-sesame"] {
            let answer = server
                .http("GET", path, &[("Authorization", value)], b"")
                .await;
            assert_eq!(answer.status, 401, "{path} {value}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        assert_eq!(server.get(path).await.status, 401);
        // From wherever, by whatever proxy.
        let headers = [
            ("Authorization", "Bearer open-sesame"),
            ("X-Forwarded-For", "192.0.2.1"),
        ];
        let answer = server.http("GET", path, &headers, b"").await;
        let want = if path.ends_with("none") { 404 } else { 200 };
        assert_eq!(answer.status, want, "{path}");
    }
    for path in ["/admin/rooms/room", "/admin/rooms/room/peers/alice"] {
        assert_eq!(server.http("DELETE", path, &[], b"").await.status, 401);
    }
    assert_eq!(server.get("/rooms/room").await.status, 200);
}

#[tokio::test]
async fn without_a_token_this_machine_alone_is_answered() {
    let server = TestServer::start().await;
    server.post("/rooms/room", "").await;
    assert_eq!(server.get("/admin/rooms").await.status, 200);
    for header in [
        ("Forwarded", "for=127.0.0.1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Whatever", ""),
        ("Origin", "https://evil.example"),
        ("Host", "evil.example"),
    ] {
        for path in READING {
            let answer = server.http("GET", path, &[header], b"").await;
            assert_eq!(answer.status, 403, "{path} {header:?}");
            for setting in ["ADMIN_TOKEN", "ADMIN_LISTEN"] {
                assert!(answer.error().contains(setting), "{answer:?}");
            }
        }
        let answer = server.http("DELETE", READING[1], &[header], b"").await;
        assert_eq!(answer.status, 403, "{header:?}");
        let config = server.http("GET", "/config", &[header], b"").await;
        assert_eq!(config.status, 200);
        assert_eq!(config.body.as_object().unwrap().len(), 1, "{config:?}");
        let parts = config.body["config"].as_object().unwrap();
        assert!(parts.len() == 1 && parts.contains_key("https"), "{parts:?}");
    }
    // The server's own page, opened on this machine, may.
    let own = format!("https://localhost:{}", server.address.port());
    let answer = server
        .http("DELETE", READING[1], &[("Origin", &own)], b"")
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn on_an_address_of_their_own_they_are_not_public() {
    let mut config = config();
    config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
    // What is on the public port comes through a proxy.
    config.https_enabled = false;
    let server = TestServer::start_with(config, Timings::default()).await;
    for path in ["/config", "/admin/rooms"] {
        assert_eq!(server.raw("GET", path, &[], b"").await.status, 404);
        assert_eq!(server.admin_http("GET", path, &[]).await.status, 200);
        let origin = ("Origin", "https://evil.example");
        let answer = server.admin_http("GET", path, &[origin]).await;
        assert_eq!(answer.status, if path == "/config" { 200 } else { 403 });
        assert_eq!(answer.body["workers"], Value::Null);
    }
    // Nothing else is there.
    for (method, path) in [("GET", "/"), ("GET", "/health"), ("POST", "/rooms")] {
        assert_eq!(server.admin_http(method, path, &[]).await.status, 404);
    }
}

#[tokio::test]
async fn rooms_are_listed_with_what_is_in_them() {
    let server = TestServer::start().await;
    assert_eq!(
        server.get("/admin/rooms").await.body,
        json!({ "rooms": [] })
    );
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    let (mut bob, ..) = caller(&server, "bob").await;
    bob.take_consumer().await;
    server.post("/rooms/another", "").await;
    // Answered by the room itself, so whatever it was at is over.
    let room = server.get("/admin/rooms/room").await.body;
    let listed = server.get("/admin/rooms").await.body;
    let rooms = listed["rooms"].as_array().unwrap();
    let ids: Vec<_> = rooms.iter().map(|room| &room["id"]).collect();
    assert_eq!(ids, ["another", "room"]);
    let mut summary = rooms[1].clone();
    // Of data, everybody hears the bot.
    assert!(summary["ageSeconds"].take().as_u64().unwrap() < 60);
    assert_eq!(
        summary,
        json!({
            "id": "room", "worker": 0, "ageSeconds": null, "peers": 2, "broadcasters": 0,
            "producers": 1, "consumers": 1, "dataProducers": 0, "dataConsumers": 2,
        })
    );

    assert_eq!(room["producers"], 1);
    assert_eq!(room["maxPeers"], 3);
    assert_eq!(room["webhook"], false);
    let (alice, bob) = (&room["members"][0], &room["members"][1]);
    assert_eq!(
        (&alice["id"], &alice["displayName"], &alice["joined"]),
        (&json!("alice"), &json!("alice"), &json!(true))
    );
    assert_eq!(alice["transports"].as_array().unwrap().len(), 2);
    assert_eq!(alice["producers"][0]["kind"], "audio");
    let consumer = &bob["consumers"][0];
    assert_eq!(consumer["peerId"], "alice");
    assert_eq!(consumer["producerId"], alice["producers"][0]["id"]);
    assert_eq!(
        (&consumer["kind"], &consumer["type"]),
        (&json!("audio"), &json!("simple"))
    );
    // Asked of the worker.
    for stats in [&consumer["stats"], &alice["producers"][0]["stats"][0]] {
        assert_eq!(stats["mimeType"], "video/VP8", "{stats}");
        assert!(
            stats["bitrate"].is_u64() && stats["lossPercent"].is_f64(),
            "{stats}"
        );
    }

    let unknown = server.get("/admin/rooms/none").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(server.get("/admin/rooms/health").await.status, 400);
}

/// A room with a webhook, and two peers in it.
async fn watched_room() -> (TestServer, Receiver, Client, Client) {
    let receiver = Receiver::start(&[]).await;
    let server = TestServer::start().await;
    let body = json!({ "eventNotificationUri": receiver.uri() }).to_string();
    server.post("/rooms/room", &body).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    (server, receiver, alice, bob)
}

#[tokio::test]
async fn a_peer_is_put_out() {
    let (server, receiver, mut alice, mut bob) = watched_room().await;
    let path = "/admin/rooms/room/peers/alice";
    let answer = server.http("DELETE", path, &[], b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(alice.close_code().await, 4000);
    let told = bob.notified("peerClosed").await;
    assert_eq!(told, json!({ "peerId": "alice" }));
    let left = receiver.wait(3).await[2].body();
    assert_eq!(
        (&left["event"], &left["peerId"], &left["reason"]),
        (&json!("peer-left"), &json!("alice"), &json!("removed"))
    );
    for path in [path, "/admin/rooms/none/peers/bob"] {
        let answer = server.http("DELETE", path, &[], b"").await;
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    let broken = server
        .http("DELETE", "/admin/rooms/room/peers/%ff", &[], b"")
        .await;
    assert_eq!(broken.status, 400);
    // Bob noticed nothing else, and the room lives.
    bob.ok("getRouterRtpCapabilities", json!({})).await;
    let broadcaster = json!({ "id": "cam", "displayName": "Cam", "device": { "name": "x" } });
    let path = "/rooms/room/broadcasters";
    assert_eq!(
        server.post(path, &broadcaster.to_string()).await.status,
        200
    );
    let path = "/admin/rooms/room/peers/cam";
    assert_eq!(server.http("DELETE", path, &[], b"").await.status, 200);
    assert_eq!(bob.notified("peerClosed").await, json!({ "peerId": "cam" }));
}

#[tokio::test]
async fn a_room_is_closed() {
    let (server, receiver, mut alice, mut bob) = watched_room().await;
    let path = "/admin/rooms/room";
    assert_eq!(server.http("DELETE", path, &[], b"").await.status, 200);
    assert_eq!(server.get("/rooms/room").await.status, 404);
    assert_eq!(server.http("DELETE", path, &[], b"").await.status, 404);
    assert_eq!(alice.close_code().await, 4000);
    assert_eq!(bob.close_code().await, 4000);
    for post in &receiver.wait(4).await[2..] {
        let left = post.body();
        let told = (&left["event"], &left["reason"]);
        assert_eq!(told, (&json!("peer-left"), &json!("removed")));
    }
    let router = server.router_id().await;
    let closed = |call: &Call| match call {
        Call::CloseRouter(request) if request.router_id == router => Some(()),
        _ => None,
    };
    server.worker.wait_for(closed).await;
}

#[tokio::test]
async fn numbers_that_the_worker_does_not_tell_are_left_out() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    server
        .worker
        .refuse("GetProducerStats", tonic::Status::not_found("gone"));
    let room = server.get("/admin/rooms/room").await;
    assert_eq!(room.status, 200);
    let producer = &room.body["members"][0]["producers"][0];
    assert_eq!(
        (&producer["kind"], &producer["stats"]),
        (&json!("audio"), &Value::Null)
    );
}

/// The page is no secret, but where nobody can use it, nobody sees it.
#[tokio::test]
async fn the_page_is_for_whom_the_admin_paths_answer() {
    let pages = ["/admin", "/admin/admin.js", "/admin/admin.css"];
    let open = TestServer::start().await;
    let guarded = with_token().await;
    for path in pages {
        let here = open.http("GET", path, &[], b"").await;
        assert_eq!(here.status, 200, "{path}");
        assert!(here.headers["content-security-policy"].is_string());
        let elsewhere = [("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(open.http("GET", path, &elsewhere, b"").await.status, 403);
        // It asks for the token itself.
        assert_eq!(guarded.http("GET", path, &elsewhere, b"").await.status, 200);
    }
    let html = open.get("/admin").await.body.as_str().unwrap().to_owned();
    for inline in [
        "<style",
        " style=",
        "<script>",
        " onclick=",
        "http://",
        "https://",
    ] {
        assert!(!html.contains(inline), "{inline}");
    }
    let mut config = config();
    config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
    let apart = TestServer::start_with(config, Timings::default()).await;
    for path in pages {
        assert_eq!(apart.admin_http("GET", path, &[]).await.status, 200);
        assert_eq!(apart.raw("GET", path, &[], b"").await.status, 404);
    }
}
