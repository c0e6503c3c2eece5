//! Plain transports of broadcasters.

use proto::{ConnectPlainTransportRequest, CreatePlainTransportRequest, SrtpCryptoSuite};
use serde_json::{Value, json};
use tonic::Status;

use crate::client::{capabilities, dtls_parameters, produce_data};
use crate::fake_worker::Call;
use crate::server::TestServer;

const BASE: &str = "/rooms/room/broadcasters";

async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.post("/rooms/room", "").await;
    create(&server).await;
    server
}

async fn create(server: &TestServer) {
    let body = json!({
        "id": "film", "displayName": "A film", "device": { "name": "ffmpeg" },
        "rtpCapabilities": capabilities(),
    });
    assert_eq!(server.post(BASE, &body.to_string()).await.status, 200);
}

async fn post(server: &TestServer, path: &str, body: Value, status: u16) -> Value {
    let path = format!("{BASE}/film{path}");
    let answer = server.post(&path, &body.to_string()).await;
    assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
    answer.body
}

/// The path of a new transport below the broadcaster.
async fn transport(server: &TestServer, body: Value) -> String {
    let made = post(server, "/transports", body, 200).await;
    format!("/transports/{}", made["id"].as_str().unwrap())
}

fn created(server: &TestServer) -> Vec<CreatePlainTransportRequest> {
    let calls = server.worker.calls().into_iter();
    let created = calls.filter_map(|call| match call {
        Call::CreatePlainTransport(request) => Some(request),
        _ => None,
    });
    created.collect()
}

fn connected(server: &TestServer) -> Option<ConnectPlainTransportRequest> {
    let mut calls = server.worker.calls().into_iter().rev();
    calls.find_map(|call| match call {
        Call::ConnectPlainTransport(request) => Some(request),
        _ => None,
    })
}

#[tokio::test]
async fn what_is_asked_for_is_made() {
    let server = server().await;
    let made = post(&server, "/transports", json!({ "type": "plain" }), 200).await;
    let key = "A".repeat(40);
    let expected = json!({
        "id": made["id"], "ip": "192.0.2.1", "ips": ["192.0.2.1", "2001:db8::1"], "port": 40_002, "rtcpPort": 40_003,
        "srtpParameters": { "cryptoSuite": "AES_CM_128_HMAC_SHA1_80", "keyBase64": key },
    });
    assert_eq!(made, expected);
    let gcm = json!({
        "type": "plain", "rtcpMux": true, "comedia": false, "enableSrtp": true,
        "srtpCryptoSuite": "AEAD_AES_256_GCM",
    });
    let script = json!({ "type": "plain", "comedia": true, "rtcpMux": false });
    for body in [script, gcm] {
        transport(&server, body).await;
    }
    let asked: Vec<_> = created(&server)
        .iter()
        .map(|it| (it.rtcp_mux, it.comedia, it.srtp_crypto_suite))
        .collect();
    let gcm = Some(SrtpCryptoSuite::AeadAes256Gcm.into());
    let expected = [(false, true, None), (false, true, None), (true, false, gcm)];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_plain_broadcaster_is_received_and_goes() {
    let server = server().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    alice.recv_transport().await;
    let transport = transport(&server, json!({ "type": "plain" })).await;
    let path = format!("{transport}/producers");
    let producer = post(&server, &path, produce_data("video"), 200).await;
    assert_eq!(alice.take_consumer().await["producerId"], producer["id"]);
    server
        .http("DELETE", &format!("{BASE}/film"), &[], b"")
        .await;
    alice.notified("peerClosed").await;
    let closed = |call: &Call| match call {
        Call::CloseTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    let closed = server.worker.wait_for(closed).await;
    assert!(transport.ends_with(&closed));
}

#[tokio::test]
async fn what_a_plain_transport_consumes_flows_at_once() {
    let server = server().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let sending = alice.send_transport().await;
    let audio = alice.produce(&sending, "audio").await;
    let transport = transport(&server, json!({ "type": "plain", "comedia": false })).await;
    let to = json!({ "ip": "192.0.2.7", "port": 5000, "rtcpPort": 5001.0 });
    let connect = format!("{transport}/connect");
    assert_eq!(post(&server, &connect, to.clone(), 200).await, json!({}));
    let request = connected(&server).unwrap();
    assert_eq!(request.address.as_deref(), Some("192.0.2.7"));
    assert_eq!((request.port, request.rtcp_port), (Some(5000), Some(5001)));
    assert_eq!(request.srtp, None);
    let again = post(&server, &connect, to, 409).await;
    assert_eq!(again["error"], "connect() already called");
    let path = format!("{transport}/consume?producerId={audio}");
    let consumer = post(&server, &path, json!({}), 200).await;
    let spec = |call: &Call| match call {
        Call::Consume(request) => request.consumers.first().cloned(),
        _ => None,
    };
    let spec = server.worker.wait_for(spec).await;
    assert_eq!(consumer["id"], spec.consumer_id.as_str());
    assert!(!spec.paused && transport.ends_with(&spec.transport_id));
}

#[tokio::test]
async fn keys_are_exchanged() {
    let server = server().await;
    let transport = transport(&server, json!({ "type": "plain" })).await;
    let srtp = json!({ "cryptoSuite": "AEAD_AES_256_GCM", "keyBase64": "A".repeat(60) });
    let path = format!("{transport}/connect");
    post(&server, &path, json!({ "srtpParameters": srtp }), 200).await;
    let srtp = connected(&server).unwrap().srtp.unwrap();
    assert_eq!(srtp.crypto_suite(), SrtpCryptoSuite::AeadAes256Gcm);
    assert_eq!(srtp.key, [0; 45]);
}

#[tokio::test]
async fn bad_fields_are_named() {
    let server = server().await;
    for (body, error) in [
        (json!({ "rtcpMux": "yes" }), "rtcpMux must be true or false"),
        (json!({ "comedia": 1 }), "comedia must be true or false"),
        (json!({ "enableSrtp": 1 }), "enableSrtp must"),
        (
            json!({ "srtpCryptoSuite": "x" }),
            "srtpCryptoSuite must be one of",
        ),
    ] {
        let mut body = body;
        body["type"] = "plain".into();
        let refused = post(&server, "/transports", body, 400).await;
        assert!(
            refused["error"].as_str().unwrap().starts_with(error),
            "{refused}"
        );
    }
    assert!(created(&server).is_empty());
    let transport = transport(&server, json!({ "type": "plain", "comedia": false })).await;
    let connect = format!("{transport}/connect");
    for (body, error) in [
        (json!({ "ip": 1 }), "ip must be a string"),
        (
            json!({ "ip": "::1", "port": "5" }),
            "port must be a whole number",
        ),
        (json!({ "ip": "::1", "port": 0 }), "port must be"),
        (json!({ "ip": "::1", "port": 65_536 }), "port must be"),
        (json!({ "rtcpPort": -1 }), "rtcpPort must be"),
        (
            json!({ "srtpParameters": 1 }),
            "srtpParameters must be an object",
        ),
        (
            json!({ "srtpParameters": {} }),
            "srtpParameters.cryptoSuite is missing",
        ),
    ] {
        let refused = post(&server, &connect, body, 400).await;
        assert!(
            refused["error"].as_str().unwrap().starts_with(error),
            "{refused}"
        );
    }
    assert!(connected(&server).is_none());
    // What only the worker can know, it says.
    let invalid = Status::invalid_argument("rtcpPort: is missing");
    server.worker.refuse("ConnectPlainTransport", invalid);
    let refused = post(&server, &connect, json!({ "ip": "::1", "port": 1 }), 400).await;
    assert_eq!(refused["error"], "rtcpPort: is missing");
    server.worker.behave();
    post(&server, &connect, json!({ "ip": "::1", "port": 1 }), 200).await;
    // The other kind is connected in its own way.
    let body = json!({ "dtlsParameters": dtls_parameters() });
    let webrtc = format!(
        "{}/connect",
        self::transport(&server, json!({ "type": "webrtc" })).await
    );
    let refused = post(&server, &webrtc, json!({ "ip": "::1", "port": 1 }), 400).await;
    assert_eq!(refused["error"], "dtlsParameters is missing");
    post(&server, &webrtc, body, 200).await;
}

#[tokio::test]
async fn a_used_up_port_slice_is_told() {
    let server = server().await;
    let none = "no UDP port of 40000–40099 is free for another plain transport";
    server
        .worker
        .refuse("CreatePlainTransport", Status::resource_exhausted(none));
    let refused = post(&server, "/transports", json!({ "type": "plain" }), 409).await;
    assert_eq!(refused["error"], none);
    server.worker.behave();
    // It did not count.
    for _ in 0..32 {
        transport(&server, json!({ "type": "plain" })).await;
    }
    let refused = post(&server, "/transports", json!({ "type": "plain" }), 409).await;
    assert!(
        refused["error"].as_str().unwrap().contains("transports"),
        "{refused}"
    );
}
