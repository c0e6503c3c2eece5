//! What clients of the newest dialect want done without an answer: one
//! notification for each action, and what is wrong with some.

use serde_json::{Value, json};

use crate::client::{Client, produce_data};
use crate::fake_worker::Call;
use crate::newest::{newest, newest_caller};
use crate::server::{TestServer, caller};

async fn act(client: &mut Client, method: &str, data: Value) {
    let action = json!({ "notification": true, "method": method, "data": data });
    client.send_text(&action.to_string()).await;
}

/// The joined peer `new`, what it produces, what it consumes, and `old`, a peer of
/// the seed's dialect that is at the other end of both.
async fn pair(server: &TestServer) -> (Client, String, String, Client) {
    let (mut old, old_send, _) = caller(server, "old").await;
    let (mut new, send, _) = newest_caller(server).await;
    let mut produce = produce_data("video");
    produce["transportId"] = send.into();
    let produced = new.ok("produce", produce).await;
    let producer = produced["producerId"].as_str().unwrap().to_owned();
    old.take_consumer().await;
    old.produce(&old_send, "video").await;
    let consumer = new.take_consumer().await["consumerId"]
        .as_str()
        .unwrap()
        .to_owned();
    new.notified("consumerScore").await;
    (new, producer, consumer, old)
}

#[tokio::test]
async fn each_action_is_done_and_not_answered() {
    let server = TestServer::start().await;
    let (mut new, producer, consumer, mut old) = pair(&server).await;
    let of_consumer = json!({ "consumerId": consumer });
    let of_producer = json!({ "producerId": producer });
    // It resumed when it was accepted, as the seed's client's did.
    let resumed = server.worker.count("ResumeConsumer");

    act(&mut new, "pauseConsumer", of_consumer.clone()).await;
    let paused = |call: &Call| match call {
        Call::PauseConsumer(request) => Some(request.consumer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(paused).await, consumer);
    act(&mut new, "resumeConsumer", of_consumer.clone()).await;
    act(&mut new, "requestConsumerKeyFrame", of_consumer.clone()).await;
    let asked = |call: &Call| match call {
        Call::RequestKeyFrame(request) => Some(request.consumer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(asked).await, consumer);
    assert_eq!(server.worker.count("ResumeConsumer"), resumed + 1);

    let data = json!({ "consumerId": consumer, "spatialLayer": 2, "temporalLayer": 1 });
    act(&mut new, "setConsumerPreferredLayers", data).await;
    let layers = |call: &Call| match call {
        Call::SetConsumerPreferredLayers(request) => Some(request.clone()),
        _ => None,
    };
    let layers = server.worker.wait_for(layers).await;
    assert_eq!(layers.consumer_id, consumer);
    assert_eq!((layers.spatial_layer, layers.temporal_layer), (2, Some(1)));
    let data = json!({ "consumerId": consumer, "priority": 7 });
    act(&mut new, "setConsumerPriority", data).await;
    let priority = |call: &Call| match call {
        Call::SetConsumerPriority(request) => Some(request.clone()),
        _ => None,
    };
    let priority = server.worker.wait_for(priority).await;
    assert_eq!((priority.consumer_id, priority.priority), (consumer, 7));

    act(&mut new, "pauseProducer", of_producer.clone()).await;
    old.notified("consumerPaused").await;
    assert_eq!(server.worker.count("PauseProducer"), 1);
    act(&mut new, "resumeProducer", of_producer.clone()).await;
    old.notified("consumerResumed").await;
    assert_eq!(server.worker.count("ResumeProducer"), 1);
    act(
        &mut new,
        "changeDisplayName",
        json!({ "displayName": "newer" }),
    )
    .await;
    assert_eq!(
        old.notified("peerDisplayNameChanged").await,
        json!({ "peerId": "new", "displayName": "newer", "oldDisplayName": "new" })
    );
    act(&mut new, "closeProducer", of_producer).await;
    old.notified("consumerClosed").await;
    let closed = |call: &Call| match call {
        Call::CloseProducer(request) => Some(request.producer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, producer);

    let told = new.drain().await;
    assert!(told.iter().all(|it| it["response"].is_null()), "{told:?}");
}

#[tokio::test]
async fn actions_that_cannot_be_done_do_nothing() {
    let server = TestServer::start().await;
    let (mut new, producer, consumer, mut old) = pair(&server).await;
    new.drain().await;
    let before = server.worker.calls().len();
    for method in ["closeProducer", "pauseProducer", "resumeProducer"] {
        for data in [
            json!({}),
            json!({ "producerId": 1 }),
            json!({ "producerId": consumer }),
        ] {
            act(&mut new, method, data).await;
        }
    }
    for method in [
        "pauseConsumer",
        "resumeConsumer",
        "requestConsumerKeyFrame",
        "setConsumerPreferredLayers",
        "setConsumerPriority",
    ] {
        for data in [
            json!(null),
            json!([]),
            json!({ "consumerId": {} }),
            json!({ "consumerId": producer, "spatialLayer": 1, "priority": 1 }),
        ] {
            act(&mut new, method, data).await;
        }
    }
    for data in [
        json!({ "consumerId": consumer }),
        json!({ "consumerId": consumer, "spatialLayer": -1 }),
        json!({ "consumerId": consumer, "spatialLayer": 0, "temporalLayer": "x" }),
    ] {
        act(&mut new, "setConsumerPreferredLayers", data).await;
    }
    for data in [
        json!({ "consumerId": consumer }),
        json!({ "consumerId": consumer, "priority": 0 }),
        json!({ "consumerId": consumer, "priority": 256 }),
    ] {
        act(&mut new, "setConsumerPriority", data).await;
    }
    for data in [
        json!({}),
        json!({ "displayName": 1 }),
        json!({ "displayName": "x".repeat(257) }),
    ] {
        act(&mut new, "changeDisplayName", data).await;
    }
    // What is no action is ignored, a request's name too.
    for method in ["leaveRoom", "join", "produce", "nonsense"] {
        act(&mut new, method, json!({})).await;
    }
    let told = new.drain().await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(server.worker.calls().len(), before);
    let told = old.drain().await;
    let unwanted = [
        "peerDisplayNameChanged",
        "consumerClosed",
        "consumerPaused",
        "peerClosed",
    ];
    let is_told = |method| told.iter().any(|it| it["method"] == method);
    assert!(!unwanted.into_iter().any(is_told), "{told:?}");
}

#[tokio::test]
async fn actions_want_a_joined_peer() {
    let server = TestServer::start().await;
    let mut old = server.connect("room", "old").await;
    old.join("old").await;
    let mut new = newest(&server).await;
    act(&mut new, "changeDisplayName", json!({ "displayName": "x" })).await;
    act(&mut new, "pauseConsumer", json!({ "consumerId": "x" })).await;
    new.ok("getRouterRtpCapabilities", json!({})).await;
    old.not_told("peerDisplayNameChanged").await;
}

/// Defect c: an integer code and a reason that is a string, for everything that
/// is refused; the test's client reads nothing else.
#[tokio::test]
async fn what_is_refused_has_a_code_and_a_reason() {
    let server = TestServer::start().await;
    let mut new = newest(&server).await;
    for (method, data, code, reason) in [
        ("produce", json!({}), 500, "Peer not yet joined"),
        (
            "createWebRtcTransport",
            json!({ "forceTcp": 1, "appData": { "direction": "producer" } }),
            400,
            "forceTcp must be true or false",
        ),
        (
            "restartIce",
            json!({ "transportId": "x" }),
            500,
            "transport with id \"x\" not found",
        ),
        (
            "nonsense",
            json!({}),
            500,
            "unknown request.method \"nonsense\"",
        ),
        (
            "applyNetworkThrottle",
            json!({ "secret": "x", "options": {} }),
            403,
            "",
        ),
        ("stopNetworkThrottle", json!({ "secret": "x" }), 403, ""),
    ] {
        let refused = new.refused(method, data).await;
        assert_eq!(refused.0, code, "{method}: {refused:?}");
        assert!(refused.1.starts_with(reason), "{method}: {refused:?}");
        assert!(!refused.1.is_empty(), "{method}");
    }
    crate::newest::join(&mut new).await;
    let again = json!({ "displayName": "new", "device": {} });
    let refused = new.refused("join", again).await;
    assert_eq!(refused, (500, "Peer already joined".to_owned()));
}
