//! The HTTP API of the newest mediasoup-demo, below `/v2`. Every answer is held
//! against the OpenAPI document besides.

use control::config::Secret;
use control::rooms::Timings;
use serde_json::{Value, json};

use crate::client::{capabilities, dtls_parameters, produce_data};
use crate::fake_worker::Call;
use crate::newest::newest_caller;
use crate::server::{Answer, TestServer, config};

const ROOM: &str = "/v2/rooms/room";
const BASE: &str = "/v2/rooms/room/broadcasters";

fn body(peer_id: &str) -> String {
    let device = json!({ "flag": "ffmpeg", "name": "FFmpeg", "version": "7.1" });
    let body = json!({ "peerId": peer_id, "displayName": "A film", "device": device, "x": 1 });
    body.to_string()
}

async fn post(server: &TestServer, path: &str, body: &Value) -> Answer {
    server
        .post(&format!("{BASE}{path}"), &body.to_string())
        .await
}

/// Posts what has to be answered with this status; its body.
async fn posted(server: &TestServer, path: &str, body: Value, status: u16) -> Value {
    let answer = post(server, path, &body).await;
    assert_eq!(answer.status, status, "{path}: {answer:?}");
    answer.body
}

/// The id of a new transport of `film`.
async fn transport(server: &TestServer, direction: &str) -> String {
    let body = json!({ "direction": direction, "type": "webrtc", "comedia": true });
    let made = posted(server, "/film/transports", body, 201).await;
    made["transportId"].as_str().unwrap().to_owned()
}

/// Defect o: unknown fields are ignored, and the seed's paths are as they were.
#[tokio::test]
async fn a_broadcaster_from_its_beginning_to_its_end() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    alice.recv_transport().await;
    let answer = server.get(ROOM).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["routerRtpCapabilities"]["codecs"].is_array());

    let answer = server.post(BASE, &body("film")).await;
    assert_eq!((answer.status, &answer.body), (201, &json!({})));
    assert_eq!(
        answer.headers["location"],
        "/v2/rooms/room/broadcasters/film"
    );
    // It is no peer before it joins.
    alice.not_told("newPeer").await;
    let sending = transport(&server, "producer").await;
    let produce = |transport: &str| {
        let mut produce = produce_data("video");
        produce["transportId"] = transport.into();
        produce["appData"] = json!({ "source": "video" });
        produce
    };
    let early = posted(&server, "/film/producers", produce(&sending), 409).await;
    let expected = json!({ "error": "Peer not yet joined", "name": "InvalidStateError" });
    assert_eq!(early, expected);
    assert_eq!(
        posted(&server, "/film/join", json!({}), 200).await,
        json!({})
    );
    let told = alice.notified("newPeer").await;
    let device = json!({ "flag": "ffmpeg", "name": "FFmpeg", "version": "7.1" });
    let film = json!({ "id": "film", "displayName": "A film", "device": device });
    assert_eq!(told, film);
    let twice = posted(&server, "/film/join", json!({}), 409).await;
    assert_eq!(twice["error"], "Peer already joined");

    let connect = format!("/film/transports/{sending}/connect");
    let dtls = json!({ "dtlsParameters": dtls_parameters(), "ip": "192.0.2.7", "port": 5 });
    assert_eq!(posted(&server, &connect, dtls, 200).await, json!({}));
    let answer = post(&server, "/film/producers", &produce(&sending)).await;
    assert_eq!(answer.status, 201);
    let producer = answer.body["producerId"].as_str().unwrap();
    assert_eq!(answer.body, json!({ "producerId": producer }));
    assert_eq!(
        answer.headers["location"],
        format!("{BASE}/film/producers/{producer}")
    );
    let offer = alice.take_consumer().await;
    assert_eq!(offer["producerId"], producer);
    assert_eq!(
        offer["appData"],
        json!({ "peerId": "film", "source": "video" })
    );

    let answer = server
        .http("DELETE", &format!("{BASE}/film"), &[], b"")
        .await;
    assert_eq!((answer.status, answer.body), (204, json!("")));
    assert_eq!(
        alice.notified("peerClosed").await,
        json!({ "peerId": "film" })
    );
    alice.notified("consumerClosed").await;
}

#[tokio::test]
async fn it_receives_what_it_finds() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let sending = alice.send_transport().await;
    let video = alice.produce(&sending, "video").await;
    server.post(BASE, &body("film")).await;
    let infos = format!("{BASE}/film/peerProducersInfos");
    assert_eq!(server.get(&infos).await.status, 409);
    posted(&server, "/film/join", json!({}), 200).await;
    let answer = server.get(&infos).await;
    assert_eq!(answer.status, 200);
    let mut expected = json!({ "peerProducersInfos": [{ "peerId": "alice", "producers": [{
        "producerId": video, "kind": "video", "source": "video",
    }] }] });
    let codecs = answer.body["peerProducersInfos"][0]["producers"][0]["consumableCodecs"].clone();
    assert_eq!(codecs.as_array().unwrap().len(), 1, "{codecs}");
    assert_eq!(codecs[0]["mimeType"], "video/VP8");
    assert_eq!(codecs[0]["rtcpFeedback"], Value::Null);
    expected["peerProducersInfos"][0]["producers"][0]["consumableCodecs"] = codecs;
    assert_eq!(answer.body, expected);

    let receiving = transport(&server, "consumer").await;
    let consume = |fields: Value| {
        let mut body = json!({ "transportId": receiving, "producerId": video, "paused": true,
            "rtpCapabilities": capabilities() });
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        body
    };
    for (fields, status, error, name) in [
        (
            json!({ "rtpCapabilities": null }),
            400,
            "rtpCapabilities is missing",
            "TypeError",
        ),
        (
            json!({ "rtpCapabilities": 1 }),
            400,
            "rtpCapabilities must",
            "TypeError",
        ),
        (
            json!({ "paused": 1 }),
            400,
            "paused must be true or false",
            "TypeError",
        ),
        (
            json!({ "producerId": null }),
            400,
            "producerId is missing",
            "TypeError",
        ),
        (
            json!({ "transportId": 7 }),
            400,
            "transportId must be a string",
            "TypeError",
        ),
        (
            json!({ "transportId": "x" }),
            404,
            "transport with id \"x\" not",
            "TransportNotFound",
        ),
        (
            json!({ "producerId": "x" }),
            404,
            "producer with id \"x\" not",
            "ProducerNotFound",
        ),
        (
            json!({ "rtpCapabilities": { "codecs": [], "headerExtensions": [] } }),
            409,
            "the broadcaster cannot consume this producer",
            "InvalidStateError",
        ),
    ] {
        let refused = posted(&server, "/film/consumers", consume(fields), status).await;
        assert!(
            refused["error"].as_str().unwrap().starts_with(error),
            "{refused}"
        );
        assert_eq!(refused["name"], name, "{refused}");
    }
    assert_eq!(server.worker.count("Consume"), 0);
    let answer = post(&server, "/film/consumers", &consume(json!({}))).await;
    assert_eq!(answer.status, 201);
    let consumer = answer.body["consumerId"].as_str().unwrap();
    assert_eq!(
        answer.headers["location"],
        format!("{BASE}/film/consumers/{consumer}")
    );
    assert_eq!(answer.body["producerId"], video);
    let spec = |call: &Call| match call {
        Call::Consume(request) => request.consumers.first().cloned(),
        _ => None,
    };
    let spec = server.worker.wait_for(spec).await;
    assert_eq!((spec.consumer_id.as_str(), spec.paused), (consumer, true));
    assert_eq!(spec.transport_id, receiving);

    let path = format!("/film/consumers/{consumer}/resume");
    assert_eq!(posted(&server, &path, json!({}), 200).await, json!({}));
    let resumed = |call: &Call| match call {
        Call::ResumeConsumer(request) => Some(request.consumer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(resumed).await, consumer);
    let unknown = posted(&server, "/film/consumers/x/resume", json!({}), 404).await;
    assert_eq!(unknown["name"], "ConsumerNotFound");
}

#[tokio::test]
async fn transports_are_plain_unless_they_say_otherwise() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.post(BASE, &body("film")).await;
    let sending = json!({ "direction": "producer" });
    let made = posted(&server, "/film/transports", sending, 201).await;
    let expected = json!({
        "transportId": made["transportId"], "ip": "192.0.2.1", "ips": ["192.0.2.1", "2001:db8::1"],
        "port": 40_002, "rtcpPort": 40_003,
        "srtpParameters": made["srtpParameters"],
    });
    assert_eq!(made, expected);
    let receiving = json!({ "appData": { "direction": "consumer" }, "type": null });
    let made = posted(&server, "/film/transports", receiving, 201).await;
    let created = server
        .worker
        .calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::CreatePlainTransport(request) => Some((request.rtcp_mux, request.comedia)),
            _ => None,
        });
    let created: Vec<_> = created.collect();
    assert_eq!(created, [(false, true), (false, false)]);
    let id = made["transportId"].as_str().unwrap();
    let path = format!("/film/transports/{id}/connect");
    let to = json!({ "ip": "192.0.2.7", "port": 5000, "rtcpPort": 5001 });
    assert_eq!(posted(&server, &path, to, 200).await, json!({}));
    for (body, error) in [
        (json!({ "comedia": true }), "direction is missing"),
        (
            json!({ "direction": "up" }),
            "direction must be \"producer\" or \"consumer\"",
        ),
        (
            json!({ "direction": "producer", "type": "webrtc", "comedia": 1 }),
            "comedia must be true or false",
        ),
        (
            json!({ "direction": "producer", "type": "webrtc", "rtcpMux": "x" }),
            "rtcpMux must be true or false",
        ),
    ] {
        let refused = posted(&server, "/film/transports", body, 400).await;
        assert_eq!(refused, json!({ "error": error, "name": "TypeError" }));
    }
    assert_eq!(server.worker.count("CreateTransport"), 0);
    let transport = transport(&server, "producer").await;
    let plain = json!({ "ip": "192.0.2.7", "port": 5000, "rtcpPort": 5001 });
    let path = format!("/film/transports/{transport}/connect");
    let refused = posted(&server, &path, plain, 400).await;
    assert_eq!(refused["error"], "dtlsParameters is missing");
}

/// Seed defect 5 and defect i: nothing here makes a room.
#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let server = TestServer::start().await;
    let room = json!({ "error": "room with id \"room\" does not exist", "name": "RoomNotFound" });
    assert_eq!(server.get(ROOM).await.body, room);
    for (method, path) in [
        ("POST", ""),
        ("DELETE", "/film"),
        ("POST", "/film/join"),
        ("POST", "/film/transports/t/connect"),
        ("GET", "/film/peerProducersInfos"),
        ("POST", "/film/consumers/c/resume"),
    ] {
        let path = format!("{BASE}{path}");
        let answer = server
            .http(method, &path, &[], body("film").as_bytes())
            .await;
        assert_eq!(
            (answer.status, &answer.body),
            (404, &room),
            "{method} {path}"
        );
    }
    assert_eq!(server.worker.count("CreateRouter"), 0);

    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    for (method, path) in [
        ("DELETE", "/film"),
        ("POST", "/film/join"),
        ("GET", "/film/peerProducersInfos"),
        // A peer is no broadcaster.
        ("DELETE", "/alice"),
    ] {
        let path = format!("{BASE}{path}");
        let answer = server.http(method, &path, &[], b"").await;
        assert_eq!(
            (answer.status, &answer.body["name"]),
            (404, &json!("PeerNotFound"))
        );
    }
    let taken = server.post(BASE, &body("alice")).await;
    assert_eq!(taken.status, 409);
    assert_eq!(taken.body["name"], "InvalidStateError");
    for (body, error) in [
        (json!({}), "peerId is missing"),
        (json!({ "peerId": "" }), "peerId must"),
        (
            json!({ "peerId": "b", "device": {} }),
            "displayName is missing",
        ),
        (
            json!({ "peerId": "b", "displayName": "B" }),
            "device is missing",
        ),
        (
            json!({ "peerId": "b", "displayName": "B", "device": { "name": "B", "flag": 1 } }),
            "device.flag must be a string",
        ),
    ] {
        let refused = posted(&server, "", body, 400).await;
        assert!(
            refused["error"].as_str().unwrap().starts_with(error),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn the_api_token_is_wanted_here_too() {
    let mut config = config();
    config.api_token = Some(Secret::new("let-me-in"));
    let server = TestServer::start_with(config, Timings::default()).await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    for (method, path) in [
        ("POST", ""),
        ("DELETE", "/film"),
        ("POST", "/film/join"),
        ("POST", "/film/transports"),
        ("POST", "/film/transports/t/connect"),
        ("POST", "/film/producers"),
        ("GET", "/film/peerProducersInfos"),
        ("POST", "/film/consumers"),
        ("POST", "/film/consumers/c/resume"),
    ] {
        let path = format!("{BASE}{path}");
        let answer = server
            .http(method, &path, &[], body("film").as_bytes())
            .await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.body["name"], "UnauthorizedError");
    }
    let token = ("Authorization", "Bearer let-me-in");
    let answer = server
        .http("POST", BASE, &[token], body("film").as_bytes())
        .await;
    assert_eq!(answer.status, 201);
    // The capabilities are for everybody, as on the seed's path.
    assert_eq!(server.get(ROOM).await.status, 200);
}

/// Clients of the newest dialect are told where a broadcaster is, of either shape.
#[tokio::test]
async fn a_broadcaster_has_an_address() {
    let server = TestServer::start().await;
    let (mut new, _, _) = newest_caller(&server).await;
    server.post(BASE, &body("film")).await;
    posted(&server, "/film/join", json!({}), 200).await;
    let told = new.notified("newPeer").await;
    let device = json!({ "flag": "ffmpeg", "name": "FFmpeg", "version": "7.1" });
    let film = json!({ "peerId": "film", "displayName": "A film", "device": device,
        "remoteAddress": "127.0.0.1" });
    assert_eq!(told, json!({ "peer": film }));
    let seeds = json!({ "id": "other", "displayName": "x", "device": { "name": "x" } });
    server
        .post("/rooms/room/broadcasters", &seeds.to_string())
        .await;
    let told = new.notified("newPeer").await;
    assert_eq!(told["peer"]["remoteAddress"], "127.0.0.1");
}

/// Both shapes name the same members.
#[tokio::test]
async fn the_seeds_paths_reach_the_same_broadcasters() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    server.post(BASE, &body("film")).await;
    let seed = "/rooms/room/broadcasters";
    let taken = json!({ "id": "film", "displayName": "x", "device": { "name": "x" } });
    let answer = server.post(seed, &taken.to_string()).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.body["name"], Value::Null, "as it always was");
    let transport = json!({ "type": "webrtc" });
    let path = format!("{seed}/film/transports");
    let answer = server.post(&path, &transport.to_string()).await;
    assert_eq!(answer.status, 200);
    let path = format!("{path}/{}/producers", answer.body["id"].as_str().unwrap());
    let answer = server.post(&path, &produce_data("audio").to_string()).await;
    assert_eq!(
        (answer.status, answer.error()),
        (409, "Peer not yet joined")
    );
    posted(&server, "/film/join", json!({}), 200).await;
    let answer = server.post(&path, &produce_data("audio").to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = server
        .http("DELETE", &format!("{seed}/film"), &[], b"")
        .await;
    assert_eq!((answer.status, answer.body), (200, json!({})));
    assert_eq!(
        alice.notified("peerClosed").await,
        json!({ "peerId": "film" })
    );
}
