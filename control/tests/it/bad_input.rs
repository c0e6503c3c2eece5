//! What a client may get wrong, and lives on, or does not.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{capabilities, dtls_parameters, produce_data};
use crate::server::TestServer;

#[tokio::test]
async fn malformed_frames_are_dropped() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    for text in [
        "",
        "x",
        "{",
        "[]",
        "null",
        "[{\"request\":true,\"id\":1,\"method\":\"join\"}]",
        "{}",
        r#"{"request":true,"method":"join"}"#,
        r#"{"request":true,"id":"1","method":"join"}"#,
        r#"{"request":true,"id":1}"#,
        r#"{"response":true,"id":999999,"ok":true,"data":{}}"#,
        r#"{"notification":true,"method":"whatever"}"#,
    ] {
        alice.send_text(text).await;
    }
    alice.send(Message::binary(vec![0; 100])).await;
    alice.join("Alice").await;
}

#[tokio::test]
async fn oversized_messages_close_the_socket() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    // The largest that is allowed.
    alice.send_text(&" ".repeat(960_000)).await;
    alice.join("Alice").await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    bob.send_text(&" ".repeat(960_001)).await;
    let code = bob.close_code().await;
    assert!(code == 1009 || code == 1006, "{code}");
    assert_eq!(alice.notified("peerClosed").await["peerId"], "bob");
}

#[tokio::test]
async fn what_wants_a_joined_peer() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    for method in [
        "produce",
        "closeProducer",
        "pauseProducer",
        "resumeProducer",
        "pauseConsumer",
        "resumeConsumer",
        "requestConsumerKeyFrame",
        "changeDisplayName",
        "setConsumerPreferredLayers",
        "setConsumerPriority",
        "produceData",
        "getProducerStats",
        "getConsumerStats",
        "getDataProducerStats",
        "getDataConsumerStats",
    ] {
        let refused = alice.refused(method, json!({})).await;
        assert_eq!(refused, (500, "Peer not yet joined".into()), "{method}");
    }
    alice.join("Alice").await;
    let join = json!({ "displayName": "again", "device": {} });
    let refused = alice.refused("join", join).await;
    assert_eq!(refused, (500, "Peer already joined".into()));
}

/// Defects c and seed 26: an integer for a code, and plain words for a reason.
#[tokio::test]
async fn unknown_methods_and_ids() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let table = [
        (
            "noSuchThing",
            json!({}),
            "unknown request.method \"noSuchThing\"",
        ),
        (
            "restartIce",
            json!({ "transportId": "x" }),
            "transport with id \"x\" not found",
        ),
        (
            "connectWebRtcTransport",
            json!({ "transportId": "x", "dtlsParameters": {} }),
            "transport with id \"x\" not found",
        ),
        (
            "produce",
            json!({ "transportId": "x" }),
            "transport with id \"x\" not found",
        ),
        (
            "closeProducer",
            json!({ "producerId": "x" }),
            "producer with id \"x\" not found",
        ),
        (
            "pauseProducer",
            json!({ "producerId": "x" }),
            "producer with id \"x\" not found",
        ),
        (
            "resumeProducer",
            json!({ "producerId": "x" }),
            "producer with id \"x\" not found",
        ),
        (
            "pauseConsumer",
            json!({ "consumerId": "x" }),
            "consumer with id \"x\" not found",
        ),
        (
            "resumeConsumer",
            json!({ "consumerId": "x" }),
            "consumer with id \"x\" not found",
        ),
        (
            "requestConsumerKeyFrame",
            json!({ "consumerId": "x" }),
            "consumer with id \"x\" not found",
        ),
        (
            "setConsumerPreferredLayers",
            json!({ "consumerId": "x" }),
            "consumer with id \"x\" not found",
        ),
        (
            "setConsumerPriority",
            json!({ "consumerId": "x" }),
            "consumer with id \"x\" not found",
        ),
        (
            "produceData",
            json!({ "transportId": "x" }),
            "transport with id \"x\" not found",
        ),
        (
            "getTransportStats",
            json!({ "transportId": "x" }),
            "transport with id \"x\" not found",
        ),
        (
            "getProducerStats",
            json!({ "producerId": "x" }),
            "producer with id \"x\" not found",
        ),
        (
            "getConsumerStats",
            json!({ "consumerId": "x" }),
            "consumer with id \"x\" not found",
        ),
        (
            "getDataProducerStats",
            json!({ "dataProducerId": "x" }),
            "dataProducer with id \"x\" not found",
        ),
        (
            "getDataConsumerStats",
            json!({ "dataConsumerId": "x" }),
            "dataConsumer with id \"x\" not found",
        ),
    ];
    for (method, data, reason) in table {
        assert_eq!(
            alice.refused(method, data).await,
            (500, reason.into()),
            "{method}"
        );
    }
}

/// `data` with one field changed; `null` removes it.
fn with(mut data: Value, pointer: &str, value: Value) -> Value {
    *data.pointer_mut(pointer).unwrap() = value;
    data
}

/// Defect seed 24: nothing changes before everything is checked.
#[tokio::test]
async fn bad_fields_are_named() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    let join = json!({ "displayName": "A", "device": {}, "rtpCapabilities": capabilities() });
    let table = [
        (json!({}), "displayName"),
        (with(join.clone(), "/displayName", json!(5)), "displayName"),
        (
            with(join.clone(), "/displayName", json!("x".repeat(1000))),
            "displayName",
        ),
        (with(join.clone(), "/device", json!("chrome")), "device"),
        (
            with(join.clone(), "/device", json!({ "x": "y".repeat(5000) })),
            "device",
        ),
        (
            with(join.clone(), "/rtpCapabilities", json!("all")),
            "rtpCapabilities",
        ),
        (
            with(join.clone(), "/rtpCapabilities/codecs", json!(5)),
            "rtpCapabilities.codecs",
        ),
        (json!([1]), "data"),
    ];
    for (data, field) in table {
        let (code, reason) = alice.refused("join", data).await;
        assert_eq!(code, 400, "{reason}");
        assert!(reason.starts_with(field), "{reason}");
    }
    // A refused join leaves the peer as it was.
    assert_eq!(server.rooms.joined_peers(), 0);
    alice.ok("join", join).await;

    let send = alice.send_transport().await;
    let mut produce = produce_data("audio");
    produce["transportId"] = send.as_str().into();
    let produce_chat = json!({
        "transportId": send,
        "sctpStreamParameters": { "streamId": 0, "ordered": true, "maxRetransmits": null },
        "label": "chat", "protocol": "", "appData": {},
    });
    let connect = json!({ "transportId": send, "dtlsParameters": dtls_parameters() });
    let table = [
        (
            "createWebRtcTransport",
            json!({ "forceTcp": "yes" }),
            "forceTcp",
        ),
        (
            "createWebRtcTransport",
            json!({ "producing": "yes" }),
            "producing",
        ),
        (
            "createWebRtcTransport",
            json!({ "consuming": 1 }),
            "consuming",
        ),
        ("connectWebRtcTransport", json!({}), "transportId"),
        (
            "connectWebRtcTransport",
            with(connect.clone(), "/transportId", json!(7)),
            "transportId",
        ),
        (
            "connectWebRtcTransport",
            with(connect.clone(), "/dtlsParameters", json!(null)),
            "dtlsParameters",
        ),
        (
            "connectWebRtcTransport",
            with(connect.clone(), "/dtlsParameters/fingerprints", json!([])),
            "dtlsParameters.fingerprints",
        ),
        (
            "connectWebRtcTransport",
            with(
                connect.clone(),
                "/dtlsParameters/fingerprints/0/value",
                json!("zz"),
            ),
            "dtlsParameters.fingerprints[0].value",
        ),
        ("restartIce", json!({}), "transportId"),
        (
            "produce",
            with(produce.clone(), "/kind", json!("smell")),
            "kind",
        ),
        (
            "produce",
            with(produce.clone(), "/kind", json!(null)),
            "kind",
        ),
        (
            "produce",
            with(produce.clone(), "/rtpParameters", json!(null)),
            "rtpParameters",
        ),
        (
            "produce",
            with(produce.clone(), "/rtpParameters/codecs", json!([])),
            "rtpParameters.codecs",
        ),
        (
            "produce",
            with(
                produce.clone(),
                "/rtpParameters/encodings",
                json!(vec![json!({}); 200]),
            ),
            "rtpParameters.encodings",
        ),
        (
            "produce",
            with(produce.clone(), "/appData", json!("x")),
            "appData",
        ),
        (
            "createWebRtcTransport",
            json!({ "sctpCapabilities": "yes" }),
            "sctpCapabilities",
        ),
        (
            "createWebRtcTransport",
            json!({ "sctpCapabilities": { "numStreams": { "OS": 0, "MIS": 1 } } }),
            "sctpCapabilities.numStreams.OS",
        ),
        ("produceData", json!({}), "transportId"),
        (
            "produceData",
            with(produce_chat.clone(), "/sctpStreamParameters", json!(null)),
            "sctpStreamParameters",
        ),
        (
            "produceData",
            with(
                produce_chat.clone(),
                "/sctpStreamParameters/streamId",
                json!(1024),
            ),
            "sctpStreamParameters.streamId",
        ),
        (
            "produceData",
            with(
                produce_chat.clone(),
                "/sctpStreamParameters/maxRetransmits",
                json!(5),
            ),
            "sctpStreamParameters",
        ),
        (
            "produceData",
            with(produce_chat.clone(), "/label", json!(5)),
            "label",
        ),
        (
            "produceData",
            with(produce_chat.clone(), "/label", json!("x".repeat(257))),
            "label",
        ),
        (
            "produceData",
            with(produce_chat.clone(), "/protocol", json!("x".repeat(257))),
            "protocol",
        ),
        (
            "produceData",
            with(produce_chat.clone(), "/appData", json!([])),
            "appData",
        ),
        (
            "produceData",
            with(
                produce_chat.clone(),
                "/appData",
                json!({ "x": "y".repeat(17_000) }),
            ),
            "appData",
        ),
        ("getTransportStats", json!({}), "transportId"),
        ("getProducerStats", json!({ "producerId": 5 }), "producerId"),
        ("getConsumerStats", json!({}), "consumerId"),
        (
            "getDataProducerStats",
            json!({ "dataProducerId": null }),
            "dataProducerId",
        ),
        (
            "getDataConsumerStats",
            json!({ "dataConsumerId": {} }),
            "dataConsumerId",
        ),
        ("setConsumerPriority", json!({}), "consumerId"),
        ("setConsumerPreferredLayers", json!({}), "consumerId"),
        ("closeProducer", json!({}), "producerId"),
        ("pauseConsumer", json!({ "consumerId": [] }), "consumerId"),
        ("changeDisplayName", json!({}), "displayName"),
    ];
    for (method, data, field) in table {
        let (code, reason) = alice.refused(method, data).await;
        assert_eq!(code, 400, "{method}: {reason}");
        assert!(reason.starts_with(field), "{method}: {reason}");
    }
    // And none of it has spoilt anything.
    alice.ok("connectWebRtcTransport", connect).await;
    alice.ok("produce", produce.clone()).await;
    alice.ok("produceData", produce_chat).await;
    let (code, reason) = alice.refused("produce", produce).await;
    assert_eq!(code, 500);
    assert!(reason.contains("already exists"), "{reason}");
}

#[tokio::test]
async fn limits_of_a_peer() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    for _ in 0..32 {
        alice.send_transport().await;
    }
    let refused = alice.refused("createWebRtcTransport", json!({})).await;
    assert_eq!(
        refused,
        (500, "too many transports, the limit is 32".into())
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_socket() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    let mut deaf = server.connect("room", "deaf").await;
    deaf.join("Deaf").await;
    // Everything that Alice does is told to the other, who reads nothing.
    let name = "x".repeat(250);
    let closed = async {
        loop {
            let mut ids = Vec::new();
            for _ in 0..2000 {
                ids.push(
                    alice
                        .start("changeDisplayName", json!({ "displayName": name }))
                        .await,
                );
            }
            for id in ids {
                alice.response(id).await.unwrap();
            }
            if server.rooms.joined_peers() == 1 {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), closed)
        .await
        .unwrap();
    assert_eq!(alice.notified("peerClosed").await["peerId"], "deaf");
}
