//! Who receives what: from `produce` to the consumer's resume, and back.

use std::collections::HashSet;

use proto::{ConsumeRequest, ConsumerSpec, TransportClosed, event::Event};
use serde_json::{Value, json};

use crate::client::{capabilities, produce_data};
use crate::fake_worker::Call;
use crate::server::{TestServer, caller};

fn consumes(server: &TestServer) -> Vec<ConsumeRequest> {
    let consume = |call: Call| match call {
        Call::Consume(request) => Some(request),
        _ => None,
    };
    server
        .worker
        .calls()
        .into_iter()
        .filter_map(consume)
        .collect()
}

fn id(data: &Value) -> String {
    data["id"].as_str().unwrap().to_owned()
}

/// Defect seed 16: appData says whose producer it is.
#[tokio::test]
async fn a_producer_reaches_another_peer() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, recv) = caller(&server, "bob").await;
    let producer_id = alice.produce(&send, "video").await;

    let (request_id, offer) = bob.asked("newConsumer").await;
    assert_eq!(offer["peerId"], "alice");
    assert_eq!(offer["producerId"], producer_id.as_str());
    assert_eq!(offer["kind"], "video");
    assert_eq!(offer["type"], "simple");
    assert_eq!(
        offer["appData"],
        json!({ "source": "video", "peerId": "alice" })
    );
    assert_eq!(offer["producerPaused"], false);
    let parameters = &offer["rtpParameters"];
    assert_eq!(parameters["codecs"][0]["payloadType"], 101);
    assert_eq!(parameters["mid"], "0");
    let encoding = &parameters["encodings"][0];
    assert_eq!(
        encoding["rtx"]["ssrc"].as_u64().unwrap(),
        encoding["ssrc"].as_u64().unwrap() + 1
    );
    let sent = produce_data("video");
    let cname = &sent["rtpParameters"]["rtcp"]["cname"];
    if cname.as_str().is_some_and(|cname| !cname.is_empty()) {
        assert_eq!(&parameters["rtcp"]["cname"], cname);
    }
    let consume = consumes(&server).remove(0);
    let spec = &consume.consumers[0];
    assert_eq!(spec.transport_id, recv);
    assert_eq!(spec.consumer_id, id(&offer));
    assert!(spec.paused);
    assert_eq!(spec.payload_type, 101);
    assert_eq!(Some(spec.ssrc + 1), spec.rtx_ssrc);

    // Nothing flows before the client is ready.
    bob.not_told("consumerScore").await;
    assert_eq!(server.worker.count("ResumeConsumer"), 0);
    bob.accept(request_id).await;
    let score = json!({
        "consumerId": id(&offer),
        "score": { "score": 10, "producerScore": 9, "producerScores": [9] },
    });
    assert_eq!(bob.notified("consumerScore").await, score);
    assert_eq!(server.worker.count("ResumeConsumer"), 1);
    alice.not_told("newConsumer").await;
}

#[tokio::test]
async fn pausing_resuming_and_closing() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let producer_id = alice.produce(&send, "audio").await;
    let consumer_id = id(&bob.take_consumer().await);
    bob.notified("consumerScore").await;
    let producer = json!({ "producerId": producer_id });
    let consumer = json!({ "consumerId": consumer_id });

    alice.ok("pauseProducer", producer.clone()).await;
    assert_eq!(bob.notified("consumerPaused").await, consumer);
    // What is paused cannot become paused.
    alice.ok("pauseProducer", producer.clone()).await;
    bob.not_told("consumerPaused").await;
    let (mut carol, _, _) = caller(&server, "carol").await;
    assert_eq!(carol.take_consumer().await["producerPaused"], true);
    alice.ok("resumeProducer", producer.clone()).await;
    assert_eq!(bob.notified("consumerResumed").await, consumer);
    carol.notified("consumerResumed").await;

    bob.ok("pauseConsumer", consumer.clone()).await;
    bob.ok("resumeConsumer", consumer.clone()).await;
    bob.ok("requestConsumerKeyFrame", consumer.clone()).await;
    for call in ["PauseConsumer", "RequestKeyFrame"] {
        assert_eq!(server.worker.count(call), 1, "{call}");
    }

    alice.ok("closeProducer", producer.clone()).await;
    assert_eq!(bob.notified("consumerClosed").await, consumer);
    carol.notified("consumerClosed").await;
    assert_eq!(server.worker.count("CloseProducer"), 1);
    let (code, reason) = alice.refused("closeProducer", producer).await;
    assert_eq!(
        (code, reason),
        (500, format!("producer with id \"{producer_id}\" not found"))
    );
    let (_, reason) = bob.refused("resumeConsumer", consumer).await;
    assert_eq!(
        reason,
        format!("consumer with id \"{consumer_id}\" not found")
    );
    // Its ids are free again.
    alice.produce(&send, "audio").await;
}

#[tokio::test]
async fn a_newcomer_gets_everything_in_one_call() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, bob_send, _) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    let mut video = produce_data("video");
    video["transportId"] = send.as_str().into();
    video["rtpParameters"]["rtcp"]["cname"] = "another".into();
    alice.ok("produce", video).await;
    bob.produce(&bob_send, "audio").await;
    let before = consumes(&server).len();
    let (mut carol, _, _) = caller(&server, "carol").await;
    let mut offers = Vec::new();
    for _ in 0..3 {
        offers.push(carol.take_consumer().await);
        carol.notified("consumerScore").await;
    }
    assert_eq!(consumes(&server).len(), before + 1);
    let mids: Vec<_> = offers
        .iter()
        .map(|offer| &offer["rtpParameters"]["mid"])
        .collect();
    assert_eq!(mids, ["0", "1", "2"]);
    let peers: HashSet<_> = offers
        .iter()
        .map(|offer| offer["peerId"].as_str())
        .collect();
    assert_eq!(peers, HashSet::from([Some("alice"), Some("bob")]));
    // Both of Alice's are one synchronisation group.
    let of_alice = offers.iter().filter(|offer| offer["peerId"] == "alice");
    let cnames: HashSet<_> = of_alice
        .map(|it| it["rtpParameters"]["rtcp"]["cname"].as_str())
        .collect();
    assert_eq!(cnames.len(), 1);
    // No SSRC twice in the room.
    let specs: Vec<ConsumerSpec> = consumes(&server)
        .into_iter()
        .flat_map(|it| it.consumers)
        .collect();
    let ssrcs: HashSet<u32> = specs.iter().flat_map(|it| [it.ssrc, it.ssrc + 1]).collect();
    assert_eq!(ssrcs.len(), specs.len() * 2);
}

/// Defect seed 24: what was there before the transport to receive on.
#[tokio::test]
async fn producers_from_before_the_receiving_transport() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    let mut bob = server.connect("room", "bob").await;
    bob.join("Bob").await;
    bob.send_transport().await;
    bob.not_told("newConsumer").await;
    bob.recv_transport().await;
    bob.take_consumer().await;
    // And none of it twice.
    bob.notified("consumerScore").await;
    bob.recv_transport().await;
    bob.not_told("newConsumer").await;
}

#[tokio::test]
async fn who_cannot_receive_gets_nothing() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let mut deaf = server.connect("room", "deaf").await;
    deaf.recv_transport().await;
    deaf.ok("join", json!({ "displayName": "no capabilities" }))
        .await;
    let mut audio_only = server.connect("room", "audio").await;
    audio_only.recv_transport().await;
    let mut capabilities = capabilities();
    let codecs = capabilities["codecs"].as_array_mut().unwrap();
    codecs.retain(|codec| codec["kind"] == "audio");
    let join = json!({ "displayName": "A", "device": {}, "rtpCapabilities": capabilities });
    audio_only.ok("join", join).await;
    alice.produce(&send, "video").await;
    alice.produce(&send, "audio").await;
    assert_eq!(audio_only.take_consumer().await["kind"], "audio");
    audio_only.notified("consumerScore").await;
    audio_only.not_told("newConsumer").await;
    deaf.not_told("newConsumer").await;
}

#[tokio::test]
async fn consumers_end_with_the_peer() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, bob_send, _) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    let consumer_id = id(&bob.take_consumer().await);
    bob.produce(&bob_send, "audio").await;
    alice.take_consumer().await;
    alice.ok("leaveRoom", json!({})).await;
    bob.notified("peerLeft").await;
    assert_eq!(
        bob.notified("consumerClosed").await,
        json!({ "consumerId": consumer_id })
    );
    bob.not_told("consumerClosed").await;
}

#[tokio::test]
async fn a_client_that_never_answers_holds_up_nobody() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut silent, _, _) = caller(&server, "silent").await;
    let (mut carol, _, _) = caller(&server, "carol").await;
    alice.produce(&send, "audio").await;
    let (_, offer) = silent.asked("newConsumer").await;
    let carols = id(&carol.take_consumer().await);
    assert_eq!(
        carol.notified("consumerScore").await["consumerId"],
        carols.as_str()
    );
    let resumed = |call: &Call| match call {
        Call::ResumeConsumer(request) => Some(request.consumer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(resumed).await, carols);
    assert_eq!(server.worker.count("ResumeConsumer"), 1);
    // It may still resume by itself.
    silent
        .ok("resumeConsumer", json!({ "consumerId": id(&offer) }))
        .await;
    assert_eq!(server.worker.count("ResumeConsumer"), 2);
}

#[tokio::test]
async fn a_pause_outlives_the_acceptance() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    let (request_id, offer) = bob.asked("newConsumer").await;
    bob.ok("pauseConsumer", json!({ "consumerId": id(&offer) }))
        .await;
    bob.accept(request_id).await;
    bob.not_told("consumerScore").await;
    assert_eq!(server.worker.count("ResumeConsumer"), 0);
}

#[tokio::test]
async fn a_rejected_consumer_is_closed() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    let (request_id, offer) = bob.asked("newConsumer").await;
    bob.reject(request_id).await;
    let closed = |call: &Call| match call {
        Call::CloseConsumer(request) => Some(request.consumer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, id(&offer));
    bob.refused("resumeConsumer", json!({ "consumerId": id(&offer) }))
        .await;
}

/// Defect seed 24: a closed transport is not kept.
#[tokio::test]
async fn a_transport_that_the_worker_closed() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, recv) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    let first = id(&bob.take_consumer().await);
    bob.notified("consumerScore").await;
    let router = |call: &Call| match call {
        Call::CreateRouter(request) => Some(request.router_id.clone()),
        _ => None,
    };
    let router_id = server.worker.wait_for(router).await;
    let closed = |transport_id: &str| {
        Event::TransportClosed(TransportClosed {
            transport_id: transport_id.into(),
            reason: "DTLS closed".into(),
        })
    };
    // Bob's receiving one: he may make another, and gets his consumers again.
    server.pool.say(&router_id, closed(&recv)).await;
    assert_eq!(
        bob.notified("consumerClosed").await,
        json!({ "consumerId": first })
    );
    let (_, reason) = bob
        .refused("restartIce", json!({ "transportId": recv }))
        .await;
    assert_eq!(reason, format!("transport with id \"{recv}\" not found"));
    bob.recv_transport().await;
    let second = id(&bob.take_consumer().await);
    assert_ne!(first, second);
    // Alice's sending one: what is on it ends for everybody.
    server.pool.say(&router_id, closed(&send)).await;
    assert_eq!(
        bob.notified("consumerClosed").await,
        json!({ "consumerId": second })
    );
    let again = alice.send_transport().await;
    alice.produce(&again, "audio").await;
    bob.take_consumer().await;
    // Late and unknown events change nothing.
    server.pool.say(&router_id, closed("unknown")).await;
    server.pool.say("unknown", closed(&again)).await;
    bob.ok("changeDisplayName", json!({ "displayName": "B" }))
        .await;
}
