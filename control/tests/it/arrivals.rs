//! Peers that come, rename themselves, come again, and go.

use std::time::{Duration, SystemTime};

use control::config::Secret;
use control::rooms::Timings;
use serde_json::json;
use tonic::Status;

use crate::client::{capabilities, dtls_parameters};
use crate::fake_worker::Call;
use crate::server::{TestServer, config};

/// Defect a: who leaves is answered before the socket closes, and the others
/// hear peerLeft alone.
#[tokio::test]
async fn two_peers_meet_and_part() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    let caps = alice.ok("getRouterRtpCapabilities", json!({})).await;
    assert_eq!(caps["codecs"][0]["mimeType"], "audio/opus");
    assert_eq!(alice.join("Alice").await, json!({ "peers": [] }));
    let mut bob = server.connect("room", "bob").await;
    // Somebody who has not joined is nobody yet.
    alice.not_told("newPeer").await;
    let peers = bob.join("Bob").await;
    let expected = json!({ "id": "alice", "displayName": "Alice", "device": { "flag": "chrome" } });
    assert_eq!(peers, json!({ "peers": [expected] }));
    let expected = json!({ "id": "bob", "displayName": "Bob", "device": { "flag": "chrome" } });
    assert_eq!(alice.notified("newPeer").await, expected);
    assert_eq!(server.rooms.joined_peers(), 2);

    bob.ok("changeDisplayName", json!({ "displayName": "Robert" }))
        .await;
    let changed = json!({ "peerId": "bob", "displayName": "Robert", "oldDisplayName": "Bob" });
    assert_eq!(alice.notified("peerDisplayNameChanged").await, changed);
    bob.not_told("peerDisplayNameChanged").await;

    assert_eq!(bob.ok("leaveRoom", json!({})).await, json!({}));
    assert_eq!(bob.close_code().await, 4000);
    assert_eq!(alice.notified("peerLeft").await, json!({ "peerId": "bob" }));
    alice.not_told("peerClosed").await;
    assert_eq!(server.rooms.joined_peers(), 1);

    drop(alice);
    server
        .worker
        .wait_for(|call| matches!(call, Call::CloseRouter(_)).then_some(()))
        .await;
    assert_eq!(server.get("/rooms/room").await.status, 404);
    assert_eq!(server.rooms.joined_peers(), 0);
}

/// Defects seed 1 (a peer that goes is told once) and seed 11 (one that never
/// joined, not at all).
#[tokio::test]
async fn a_lost_connection_is_peer_closed() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    let transport_id = bob.send_transport().await;
    // Not even a close frame.
    drop(bob);
    assert_eq!(
        alice.notified("peerClosed").await,
        json!({ "peerId": "bob" })
    );
    let closed = |call: &Call| match call {
        Call::CloseTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, transport_id);
    alice.not_told("peerLeft").await;
    // One that never joined makes no sound.
    drop(server.connect("room", "carol").await);
    let mut carol = server.connect("room", "carol").await;
    carol.ok("getRouterRtpCapabilities", json!({})).await;
    alice.not_told("peerClosed").await;
}

/// Defect seed 10: replacing the only peer must not close its room.
#[tokio::test]
async fn a_second_session_replaces_the_first() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let router = |call: &Call| match call {
        Call::CreateRouter(request) => Some(request.router_id.clone()),
        _ => None,
    };
    let first_router = server.worker.wait_for(router).await;
    // Alone: the room must not close between the two sessions.
    let mut again = server.connect("room", "alice").await;
    assert_eq!(alice.close_code().await, 4000);
    assert_eq!(again.join("Alice II").await, json!({ "peers": [] }));
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    let mut third = server.connect("room", "alice").await;
    assert_eq!(again.close_code().await, 4000);
    assert_eq!(
        bob.notified("peerClosed").await,
        json!({ "peerId": "alice" })
    );
    bob.not_told("newPeer").await;
    third.join("Alice III").await;
    assert_eq!(bob.notified("newPeer").await["displayName"], "Alice III");
    assert_eq!(server.worker.count("CreateRouter"), 1);
    assert_eq!(server.worker.wait_for(router).await, first_router);
    assert_eq!(server.rooms.joined_peers(), 2);
}

#[tokio::test]
async fn each_transport_has_a_login_of_its_own_for_turn() {
    let mut config = config();
    config.ice_server.secret = Some(Secret::new("north"));
    config.ice_server.ttl = Duration::from_secs(600);
    let server = TestServer::start_with(config, Timings::default()).await;
    let mut alice = server.connect("room", "alice").await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let mut users = Vec::new();
    for _ in 0..2 {
        let answer = alice.ok("createWebRtcTransport", json!({})).await;
        let user = answer["iceServer"]["iceServerUser"].as_str().unwrap();
        let (end, name) = user.split_once(':').unwrap();
        assert_eq!(answer["id"], name);
        assert!((now + 600..now + 660).contains(&end.parse::<u64>().unwrap()));
        let pass = &answer["iceServer"]["iceServerPass"];
        assert_eq!(pass.as_str().unwrap().len(), 28, "HMAC-SHA1 in base64");
        assert_eq!(answer["iceServers"][0]["username"], user);
        assert_eq!(answer["iceServers"][0]["credential"], *pass);
        users.push(user.to_owned());
    }
    assert_ne!(users[0], users[1]);
}

#[tokio::test]
async fn transports_before_join() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    let data = json!({
        "producing": true, "consuming": false, "forceTcp": false,
        "sctpCapabilities": { "numStreams": { "OS": 256, "MIS": 1024 } },
    });
    let answer = alice.ok("createWebRtcTransport", data).await;
    let id = answer["id"].as_str().unwrap();
    let expected = json!({
        "id": id,
        "iceParameters": { "usernameFragment": "first", "password": "p".repeat(32), "iceLite": true },
        "iceCandidates": [{
            "foundation": "udpcandidate", "priority": 1_076_302_079, "ip": "192.0.2.1",
            "address": "192.0.2.1", "protocol": "udp", "port": 40_000, "type": "host",
        }],
        "dtlsParameters": {
            "role": "auto",
            "fingerprints": [{ "algorithm": "sha-256", "value": (["AB"; 32].join(":")) }],
        },
        "sctpParameters": {
            "port": 5000, "OS": 256, "MIS": 1024, "maxMessageSize": 262_144,
            "maxSendMessageSize": 262_144, "maxReceiveMessageSize": 262_144,
            "sendBufferSize": 262_144, "isDataChannel": true,
        },
        "iceServer": {
            "enableIceServer": "yes", "iceServerHost": "turn.example", "iceServerProto": "udp",
            "iceServerPort": "3478", "iceServerUser": "turn-user", "iceServerPass": "turn-pass",
        },
        "iceServers": [{
            "urls": ["turn:turn.example:3478?transport=udp"], "username": "turn-user",
            "credential": "turn-pass", "credentialType": "password",
        }],
    });
    assert_eq!(answer, expected);
    let flags = |call: &Call| match call {
        Call::CreateTransport(request) => {
            Some((request.producing, request.consuming, request.sctp))
        }
        _ => None,
    };
    let sctp = proto::SctpOptions {
        num_streams: 1024,
        max_message_size: 262_144,
    };
    let expected = (true, false, Some(sctp));
    assert_eq!(server.worker.wait_for(flags).await, expected);

    let limit = |call: &Call| match call {
        Call::CreateTransport(request) => request.max_incoming_bitrate,
        _ => None,
    };
    assert_eq!(server.worker.wait_for(limit).await, 5_000_000);

    let data = json!({ "transportId": id, "dtlsParameters": dtls_parameters() });
    assert_eq!(
        alice.ok("connectWebRtcTransport", data.clone()).await,
        json!({})
    );
    let connected = |call: &Call| match call {
        Call::ConnectTransport(request) => Some(request.clone()),
        _ => None,
    };
    let connected = server.worker.wait_for(connected).await;
    assert_eq!(connected.role(), proto::DtlsRole::Client);
    assert_eq!(connected.fingerprint.unwrap().algorithm, "sha-256");
    let refused = alice.refused("connectWebRtcTransport", data).await;
    assert_eq!(refused, (500, "connect() already called".into()));

    let restarted = alice.ok("restartIce", json!({ "transportId": id })).await;
    let expected =
        json!({ "usernameFragment": "restarted", "password": "p".repeat(32), "iceLite": true });
    assert_eq!(restarted, expected);
}

#[tokio::test]
async fn tcp_alone_is_the_workers_business() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    let data = json!({ "producing": true, "consuming": false, "forceTcp": true });
    alice.ok("createWebRtcTransport", data.clone()).await;
    let forced = |call: &Call| match call {
        Call::CreateTransport(request) => Some(request.force_tcp),
        _ => None,
    };
    assert!(server.worker.wait_for(forced).await);
    // One that has no TCP port says so, and nothing is left of the transport.
    let refusal = Status::invalid_argument("forceTcp: this server has no ICE over TCP now");
    server.worker.refuse("CreateTransport", refusal);
    let (code, reason) = alice.refused("createWebRtcTransport", data).await;
    assert_eq!(code, 400);
    assert!(reason.contains("forceTcp"), "{reason}");
}

/// Defect seed 9: an unjoined socket keeps its seat for a while only.
#[tokio::test]
async fn who_does_not_join_in_time_loses_the_seat() {
    let timings = Timings {
        join: Duration::from_millis(200),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("room", "bob").await;
    // Not 4000: a client that was only slow may try again.
    assert_eq!(bob.close_code().await, 1008);
    alice.not_told("peerClosed").await;
    alice
        .ok("changeDisplayName", json!({ "displayName": "still here" }))
        .await;
}

#[tokio::test]
async fn requests_are_answered_in_order() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    let data = json!({ "displayName": "A", "device": {}, "rtpCapabilities": capabilities() });
    let join = alice.start("join", data).await;
    let mut renames = Vec::new();
    for index in 0..500 {
        let data = json!({ "displayName": format!("A{index}") });
        renames.push(alice.start("changeDisplayName", data).await);
    }
    alice.response(join).await.unwrap();
    for rename in renames {
        alice.response(rename).await.unwrap();
    }
    let mut bob = server.connect("room", "bob").await;
    assert_eq!(bob.join("Bob").await["peers"][0]["displayName"], "A499");
}

/// Defect q: sockets do not outlive the server.
#[tokio::test]
async fn shutdown_closes_sockets_with_its_code() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let mut bob = server.connect("other", "bob").await;
    let rooms = server.rooms.clone();
    let shutdown = tokio::spawn(async move { rooms.shutdown(1001).await });
    assert_eq!(alice.close_code().await, 1001);
    assert_eq!(bob.close_code().await, 1001);
    shutdown.await.unwrap();
    assert_eq!(server.rooms.joined_peers(), 0);
    assert_eq!(server.get("/health").await.status, 503);
    let refused = server.upgrade("/?roomId=a&peerId=b", Some("protoo")).await;
    assert_eq!(refused.err().unwrap().status, 503);
    // And then the listener.
    server.shutdown.cancel();
    let gone = async {
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .unwrap();
}
