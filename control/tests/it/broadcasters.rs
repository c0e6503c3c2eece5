//! Broadcasters: members of a room that are driven over HTTP.

use std::time::Duration;

use control::rooms::Timings;
use proto::event::Event;
use serde_json::{Value, json};
use tonic::Status;

use crate::client::{capabilities, dtls_parameters, produce_data};
use crate::fake_worker::Call;
use crate::receiver::Receiver;
use crate::server::{Answer, TestServer, caller, config};

const BASE: &str = "/rooms/room/broadcasters";

async fn create(server: &TestServer, id: &str) -> Answer {
    let body = json!({
        "id": id,
        "displayName": "A film",
        "device": { "name": "ffmpeg", "version": "7.1" },
        "rtpCapabilities": capabilities(),
    });
    server.post(BASE, &body.to_string()).await
}

async fn ok(server: &TestServer, path: &str, body: Value) -> Value {
    let answer = server
        .post(&format!("{BASE}{path}"), &body.to_string())
        .await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

/// The path of a new transport below [`BASE`].
async fn transport(server: &TestServer, id: &str) -> String {
    let path = format!("/{id}/transports");
    let answer = ok(server, &path, json!({ "type": "webrtc" })).await;
    format!("{path}/{}", answer["id"].as_str().unwrap())
}

async fn produce(server: &TestServer, transport: &str, kind: &str) -> String {
    let answer = ok(
        server,
        &format!("{transport}/producers"),
        produce_data(kind),
    )
    .await;
    answer["id"].as_str().unwrap().to_owned()
}

/// Defect seed 16: whose a broadcaster's streams are is told.
#[tokio::test]
async fn a_broadcaster_is_seen_and_received() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    alice.recv_transport().await;
    assert_eq!(create(&server, "film").await.status, 200);
    let film = json!({
        "id": "film",
        "displayName": "A film",
        "device": { "flag": "broadcaster", "name": "ffmpeg", "version": "7.1" },
    });
    assert_eq!(alice.notified("newPeer").await, film);

    let answer = ok(
        &server,
        "/film/transports",
        json!({ "type": "webrtc", "rtcpMux": false, "comedia": true }),
    )
    .await;
    let id = answer["id"].as_str().unwrap().to_owned();
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
    });
    let mut without_sctp = answer.clone();
    without_sctp
        .as_object_mut()
        .unwrap()
        .remove("sctpParameters");
    assert_eq!(without_sctp, expected);
    let transport = format!("/film/transports/{id}");
    let body = json!({ "dtlsParameters": dtls_parameters() });
    let connect = format!("{transport}/connect");
    assert_eq!(ok(&server, &connect, body.clone()).await, json!({}));
    let connect = format!("{BASE}{connect}");
    let again = server.post(&connect, &body.to_string()).await;
    assert_eq!(
        (again.status, again.error()),
        (409, "connect() already called")
    );

    let producer = produce(&server, &transport, "audio").await;
    let consumer = alice.take_consumer().await;
    assert_eq!(consumer["producerId"], producer);
    assert_eq!(consumer["peerId"], "film");
    assert_eq!(consumer["appData"]["peerId"], "film");
    assert_eq!(
        alice.notified("consumerScore").await["consumerId"],
        consumer["id"]
    );

    // Who comes later sees and receives it too.
    let mut bob = server.connect("room", "bob").await;
    let peers = bob.join("Bob").await;
    let peers = peers["peers"].as_array().unwrap();
    assert!(peers.contains(&film), "{peers:?}");
    bob.recv_transport().await;
    assert_eq!(bob.take_consumer().await["producerId"], producer);
    // Broadcasters are not counted among the peers.
    assert_eq!(server.rooms.joined_peers(), 2);

    let answer = server
        .http("DELETE", &format!("{BASE}/film"), &[], b"")
        .await;
    assert_eq!((answer.status, answer.body), (200, json!({})));
    for peer in [&mut alice, &mut bob] {
        let told = peer.notified("peerClosed").await;
        assert_eq!(told, json!({ "peerId": "film" }));
        peer.notified("consumerClosed").await;
    }
    let closed = |call: &Call| match call {
        Call::CloseTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, id);
    let answer = server
        .http("DELETE", &format!("{BASE}/film"), &[], b"")
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(create(&server, "film").await.status, 200);
}

#[tokio::test]
async fn a_broadcaster_receives_what_it_asks_for() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let sending = alice.send_transport().await;
    let audio = alice.produce(&sending, "audio").await;
    let video = alice.produce(&sending, "video").await;
    let mut silent = server.connect("room", "bob").await;
    // Not joined: no peer.
    silent.ok("getRouterRtpCapabilities", json!({})).await;

    let answer = create(&server, "recorder").await;
    let expected = json!({ "peers": [{
        "id": "alice", "displayName": "Alice", "device": { "flag": "chrome" },
        "producers": [{ "id": audio, "kind": "audio" }, { "id": video, "kind": "video" }],
    }] });
    assert_eq!((answer.status, answer.body), (200, expected));
    let transport = transport(&server, "recorder").await;
    // Nothing comes by itself.
    let another = alice.send_transport().await;
    alice.produce(&another, "audio").await;
    assert_eq!(server.worker.count("Consume"), 0);

    let path = format!("{transport}/consume?producerId={video}");
    let consumer = ok(&server, &path, json!({})).await;
    assert_eq!(consumer["producerId"], video);
    assert_eq!(
        (&consumer["kind"], &consumer["type"]),
        (&json!("video"), &json!("simple"))
    );
    assert_eq!(
        consumer["rtpParameters"]["codecs"][0]["mimeType"],
        "video/VP8"
    );
    assert_eq!(consumer.as_object().unwrap().len(), 5);
    let spec = |call: &Call| match call {
        Call::Consume(request) => request.consumers.first().cloned(),
        _ => None,
    };
    let spec = server.worker.wait_for(spec).await;
    assert_eq!(consumer["id"], spec.consumer_id.as_str());
    assert!(!spec.paused);
    assert!(transport.ends_with(&spec.transport_id));
    let twice = server.post(&format!("{BASE}{path}"), "").await;
    assert_eq!(twice.status, 409, "{twice:?}");
    // A pause at the source is told to nobody, and harms nobody.
    alice
        .ok("pauseProducer", json!({ "producerId": video }))
        .await;
    alice
        .ok("closeProducer", json!({ "producerId": video }))
        .await;
    let gone = server.post(&format!("{BASE}{path}"), "").await;
    assert_eq!(gone.status, 404);
    // What the worker refuses leaves nothing behind.
    server.worker.refuse_each_consumer(true);
    let path = format!("{BASE}{transport}/consume?producerId={audio}");
    assert_eq!(server.post(&path, "").await.status, 409);
    server.worker.behave();
    server.worker.refuse("Consume", Status::unavailable("gone"));
    assert_eq!(server.post(&path, "").await.status, 503);
    server.worker.behave();
    assert_eq!(server.post(&path, "").await.status, 200);
}

#[tokio::test]
async fn without_capabilities_nothing_can_be_received() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let sending = alice.send_transport().await;
    let audio = alice.produce(&sending, "audio").await;
    let body = json!({ "id": "deaf", "displayName": "", "device": { "name": "x" } });
    let answer = server.post(BASE, &body.to_string()).await;
    assert_eq!((answer.status, answer.body), (200, json!({ "peers": [] })));
    let device = &alice.notified("newPeer").await["device"];
    assert_eq!(*device, json!({ "flag": "broadcaster", "name": "x" }));
    let path = transport(&server, "deaf").await + "/consume?producerId=" + &audio;
    let answer = server.post(&format!("{BASE}{path}"), "").await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.error(), "broadcaster has no rtpCapabilities");
}

/// Defect i: nothing but POST `/rooms` makes a room.
#[tokio::test]
async fn what_does_not_exist() {
    let server = TestServer::start().await;
    let below = |transport: &str| {
        [
            format!("{transport}/connect"),
            format!("{transport}/producers"),
            format!("{transport}/consume?producerId=x"),
            format!("{transport}/consume/data"),
            format!("{transport}/produce/data"),
        ]
    };
    let body = json!({
        "id": "b", "displayName": "B", "device": { "name": "n" }, "type": "webrtc",
        "dtlsParameters": dtls_parameters(), "dataProducerId": "d",
        "kind": "audio", "rtpParameters": produce_data("audio")["rtpParameters"],
        "label": "chat", "sctpStreamParameters": { "streamId": 0 },
    })
    .to_string();
    let not_found = async |method: &str, path: &str, error: &str| {
        let path = format!("{BASE}{path}");
        let answer = server.http(method, &path, &[], body.as_bytes()).await;
        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        assert_eq!(answer.error(), error, "{method} {path}");
    };
    let no_room = "room with id \"room\" does not exist";
    not_found("POST", "", no_room).await;
    not_found("DELETE", "/b", no_room).await;
    not_found("POST", "/b/transports", no_room).await;
    for path in below("/b/transports/t") {
        not_found("POST", &path, no_room).await;
    }
    assert_eq!(server.worker.count("CreateRouter"), 0);
    server.post("/rooms/room", "").await;
    let no_broadcaster = "broadcaster with id \"b\" not found";
    not_found("DELETE", "/b", no_broadcaster).await;
    not_found("POST", "/b/transports", no_broadcaster).await;
    for path in below("/b/transports/t") {
        not_found("POST", &path, no_broadcaster).await;
    }
    // A peer is no broadcaster.
    let mut alice = server.connect("room", "b").await;
    alice.join("B").await;
    not_found("DELETE", "/b", no_broadcaster).await;
    alice.ok("leaveRoom", json!({})).await;
    server.post("/rooms/room", "").await;
    assert_eq!(create(&server, "b").await.status, 200);
    for path in below("/b/transports/t") {
        not_found("POST", &path, "transport with id \"t\" not found").await;
    }
    let transport = transport(&server, "b").await;
    let path = format!("{transport}/consume?producerId=x");
    not_found("POST", &path, "producer with id \"x\" not found").await;
    let path = format!("{transport}/consume/data");
    not_found("POST", &path, "dataProducer with id \"d\" not found").await;
    // Nor can a broadcaster use what is another's.
    create(&server, "c").await;
    let path = transport.replace("/b/", "/c/") + "/connect";
    let id = transport.rsplit('/').next().unwrap();
    not_found(
        "POST",
        &path,
        &format!("transport with id \"{id}\" not found"),
    )
    .await;
}

#[tokio::test]
async fn bad_fields_are_named() {
    let server = TestServer::start().await;
    server.post("/rooms/room", "").await;
    let long = "a".repeat(129);
    for (body, field) in [
        (json!({}), "id is missing"),
        (json!({ "id": 1 }), "id must"),
        (json!({ "id": "" }), "id must"),
        (json!({ "id": long }), "id must"),
        (json!({ "id": "b" }), "displayName is missing"),
        (json!({ "id": "b", "displayName": [] }), "displayName must"),
        (
            json!({ "id": "b", "displayName": "B" }),
            "device is missing",
        ),
        (
            json!({ "id": "b", "displayName": "B", "device": {} }),
            "device.name is missing",
        ),
        (
            json!({ "id": "b", "displayName": "B", "device": { "name": "n" }, "rtpCapabilities": 1 }),
            "rtpCapabilities must",
        ),
    ] {
        let answer = server.post(BASE, &body.to_string()).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(
            answer.error().starts_with(field),
            "{body}: {}",
            answer.error()
        );
    }
    create(&server, "b").await;
    let transport = transport(&server, "b").await;
    let bad = [
        ("/b/transports", json!({}), "type is missing"),
        (
            "/b/transports",
            json!({ "type": "pipe" }),
            "type must be \"plain\" or \"webrtc\"",
        ),
        (
            "/b/transports",
            json!({ "type": 1 }),
            "type must be a string",
        ),
        (
            &format!("{transport}/connect"),
            json!({}),
            "dtlsParameters is missing",
        ),
        (
            &format!("{transport}/connect"),
            json!({ "dtlsParameters": { "fingerprints": [] } }),
            "dtlsParameters.fingerprints must",
        ),
        (
            &format!("{transport}/producers"),
            json!({}),
            "kind is missing",
        ),
        (
            &format!("{transport}/producers"),
            json!({ "kind": "audio", "rtpParameters": {} }),
            "rtpParameters",
        ),
        (
            &format!("{transport}/consume"),
            json!({}),
            "producerId is missing",
        ),
        (
            &format!("{transport}/consume/data"),
            json!({}),
            "dataProducerId is missing",
        ),
        ("/b/transports", json!([]), "body must"),
    ];
    for (path, body, error) in bad {
        let answer = server
            .post(&format!("{BASE}{path}"), &body.to_string())
            .await;
        assert_eq!(answer.status, 400, "{path} {body}: {answer:?}");
        assert!(
            answer.error().starts_with(error),
            "{path}: {}",
            answer.error()
        );
    }
    for path in ["/rooms/%ff/broadcasters", "/rooms/health/broadcasters"] {
        assert_eq!(server.post(path, "{}").await.status, 400, "{path}");
    }
    let answer = server.post(&format!("{BASE}/%ff/transports"), "{}").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn ids_and_seats() {
    let mut config = config();
    config.room_max_broadcasters = 2;
    let server = TestServer::start_with(config, Timings::default()).await;
    server.post("/rooms/room", r#"{"maxPeerCount":2}"#).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    assert_eq!(create(&server, "film").await.status, 200);
    for taken in ["film", "alice"] {
        let answer = create(&server, taken).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        assert!(answer.error().contains(taken), "{answer:?}");
    }
    assert_eq!(create(&server, "song").await.status, 200);
    let answer = create(&server, "third").await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.error(), "too many broadcasters, the limit is 2");
    // None of them takes a seat, or its id to somebody else.
    let path = "/?roomId=room&peerId=film";
    let refused = server.upgrade(path, Some("protoo")).await.err().unwrap();
    assert_eq!(refused.status, 403);
    assert!(refused.error().contains("film"), "{refused:?}");
    let admission = server.get("/rooms/room/admission?peerId=film").await;
    assert_eq!((admission.status, admission.body), (403, refused.body));
    server.connect("room", "bob").await.join("Bob").await;
}

#[tokio::test]
async fn broadcasters_keep_no_room_alive() {
    let timings = Timings {
        unused_room: Duration::from_millis(1500),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let receiver = Receiver::start(&[]).await;
    let body = json!({ "eventNotificationUri": receiver.uri() }).to_string();
    server.post("/rooms/room", &body).await;
    create(&server, "film").await;
    let gone = async { while server.get("/rooms/room").await.status == 200 {} };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
    // With peers, it lives as long as they are there.
    server.post("/rooms/room", &body).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    create(&server, "film").await;
    let transport = transport(&server, "film").await;
    produce(&server, &transport, "video").await;
    let routers = server.worker.count("CloseRouter");
    alice.ok("leaveRoom", json!({})).await;
    let closed = async {
        while server.worker.count("CloseRouter") == routers {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed)
        .await
        .unwrap();
    assert_eq!(create(&server, "film").await.status, 404);
    // Webhooks tell of peers only.
    let posts = receiver.wait(2).await;
    assert!(posts.iter().all(|post| post.body()["peerId"] == "alice"));
    assert_eq!(server.rooms.joined_peers(), 0);
}

/// Waits until the broadcaster is gone for those who ask for it.
async fn gone(server: &TestServer, id: &str) {
    let path = format!("{BASE}/{id}/transports");
    let gone = async { while server.post(&path, "{}").await.status != 404 {} };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
}

/// The worker closes this transport by itself.
async fn lose(server: &TestServer, transport: &str) {
    let closed = proto::TransportClosed {
        transport_id: transport.rsplit('/').next().unwrap().to_owned(),
        reason: "DTLS closed".into(),
    };
    server.worker_says(Event::TransportClosed(closed)).await;
}

#[tokio::test]
async fn a_broadcaster_without_a_transport_is_removed() {
    let timings = Timings {
        broadcaster: Duration::from_millis(1500),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    assert_eq!(create(&server, "film").await.status, 200);
    let film = transport(&server, "film").await;
    // Its script died before it made one.
    assert_eq!(create(&server, "ghost").await.status, 200);
    let closed = alice.notified("peerClosed").await;
    assert_eq!(closed, json!({ "peerId": "ghost" }));
    gone(&server, "ghost").await;
    // One that has a transport stays, and may take its time for another.
    produce(&server, &film, "audio").await;
    lose(&server, &film).await;
    let film = transport(&server, "film").await;
    produce(&server, &film, "audio").await;
    alice.not_told("peerClosed").await;
    lose(&server, &film).await;
    let closed = alice.notified("peerClosed").await;
    assert_eq!(closed, json!({ "peerId": "film" }));
    assert_eq!(create(&server, "film").await.status, 200);
}

#[tokio::test]
async fn a_worker_that_fails() {
    let server = TestServer::start().await;
    server.post("/rooms/room", "").await;
    create(&server, "film").await;
    server
        .worker
        .refuse("CreateTransport", Status::internal("x"));
    let path = format!("{BASE}/film/transports");
    let answer = server.post(&path, r#"{"type":"webrtc"}"#).await;
    assert_eq!(answer.status, 500);
    server.worker.behave();
    // A transport that its worker closes is gone for the broadcaster as well.
    let transport = transport(&server, "film").await;
    produce(&server, &transport, "audio").await;
    lose(&server, &transport).await;
    let connect = format!("{BASE}{transport}/connect");
    let body = json!({ "dtlsParameters": dtls_parameters() }).to_string();
    let gone = async { while server.post(&connect, &body).await.status != 404 {} };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
    // With the worker, the room goes. When it is there again, the broadcaster is not.
    server.pool.kill_workers().await;
    let answer = server.post(&path, r#"{"type":"webrtc"}"#).await;
    assert_eq!(answer.status, 503);
    server.pool.start_worker().await;
    let gone = async { while server.post(&path, r#"{"type":"webrtc"}"#).await.status != 404 {} };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
}

/// Defects seed 16 and f: a broadcaster's chat reaches everybody, and is tagged.
#[tokio::test]
async fn messages_of_a_broadcaster() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    create(&server, "film").await;
    create(&server, "other").await;
    let transport = transport(&server, "film").await;
    let body = json!({
        "label": "chat", "protocol": "text", "appData": { "a": 1 },
        "sctpStreamParameters": { "streamId": 3, "ordered": true },
    });
    let produce = format!("{transport}/produce/data");
    let subtitles = ok(&server, &produce, body.clone()).await["id"].clone();
    let offer = alice.take_data_consumer().await;
    assert_eq!(offer["dataProducerId"], subtitles);
    assert_eq!(offer["peerId"], "film");
    assert_eq!(offer["appData"], json!({ "a": 1, "peerId": "film" }));
    // Broadcasters get nothing that they did not ask for.
    // Beside the bot's.
    assert_eq!(server.worker.count("ConsumeData"), 2);
    for bad in [json!({ "label": "chat" }), json!({ "label": 1 }), body] {
        let answer = server
            .post(&format!("{BASE}{produce}"), &bad.to_string())
            .await;
        let status = if bad.get("protocol").is_some() {
            409
        } else {
            400
        };
        assert_eq!(answer.status, status, "{bad}: {answer:?}");
    }

    let chat = alice.produce_data(&send, "telemetry", 0).await;
    let consume = format!("{transport}/consume/data");
    let body = json!({ "dataProducerId": chat });
    let consumer = ok(&server, &consume, body.clone()).await;
    let spec = server
        .worker
        .calls()
        .into_iter()
        .rev()
        .find_map(|call| match call {
            Call::ConsumeData(request) => request.data_consumers.into_iter().next(),
            _ => None,
        });
    let spec = spec.unwrap();
    let stream_id = spec.stream.unwrap().stream_id;
    assert_ne!(stream_id, 3);
    let expected = json!({ "id": spec.data_consumer_id, "streamId": stream_id });
    assert_eq!(consumer, expected);
    assert!(transport.ends_with(&spec.transport_id));
    let path = format!("{BASE}{consume}");
    let twice = server.post(&path, &body.to_string()).await;
    assert_eq!(twice.status, 409, "{twice:?}");
    // What the worker refuses leaves nothing behind.
    let another = alice.produce_data(&send, "telemetry", 1).await;
    let body = json!({ "dataProducerId": another }).to_string();
    server.worker.refuse_each_consumer(true);
    assert_eq!(server.post(&path, &body).await.status, 409);
    server.worker.behave();
    server
        .worker
        .refuse("ConsumeData", Status::unavailable("gone"));
    assert_eq!(server.post(&path, &body).await.status, 503);
    server.worker.behave();
    assert_eq!(server.post(&path, &body).await.status, 200);

    server
        .http("DELETE", &format!("{BASE}/film"), &[], b"")
        .await;
    let closed = alice.notified("dataConsumerClosed").await;
    assert_eq!(closed["dataConsumerId"], offer["id"]);
}

/// What the worker is told of the silence that a stream's score stands.
#[tokio::test]
async fn the_silence_of_broadcasters_is_a_setting() {
    for silence in [None, Some(7)] {
        let mut config = config();
        config.room_broadcaster_silence = silence.map(Duration::from_secs);
        let server = TestServer::start_with(config, Timings::default()).await;
        let (mut alice, send, _) = caller(&server, "alice").await;
        alice.produce(&send, "audio").await;
        create(&server, "film").await;
        let transport = transport(&server, "film").await;
        produce(&server, &transport, "audio").await;
        let produced = |call: &Call| match call {
            Call::Produce(request) => Some(request.silence_ms),
            _ => None,
        };
        let told: Vec<_> = server.worker.calls().iter().filter_map(produced).collect();
        let millis = silence.map(|it: u64| u32::try_from(it * 1000).unwrap());
        assert_eq!(told, [None, millis]);
    }
}

/// Its program was killed: consent expires, and what it sent ends for everybody.
#[tokio::test]
async fn a_transport_that_is_not_heard_of_any_more_is_closed() {
    let timings = Timings {
        broadcaster: Duration::from_secs(3),
        lost_transport: Duration::from_millis(300),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    alice.recv_transport().await;
    create(&server, "film").await;
    let film = transport(&server, "film").await;
    produce(&server, &film, "audio").await;
    let consumer = alice.take_consumer().await;
    let id = film.rsplit('/').next().unwrap().to_owned();
    let lost = proto::TransportStateChanged {
        transport_id: id.clone(),
        ice_state: proto::IceState::Disconnected.into(),
        dtls_state: proto::DtlsState::Connected.into(),
    };
    server.worker_says(Event::TransportState(lost)).await;
    let closed = alice.notified("consumerClosed").await;
    assert_eq!(closed["consumerId"], consumer["id"]);
    let closed = |call: &Call| match call {
        Call::CloseTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, id);
    let closed = alice.notified("peerClosed").await;
    assert_eq!(closed, json!({ "peerId": "film" }));
}
