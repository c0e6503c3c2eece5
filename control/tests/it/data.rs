//! Data channels: from `produceData` to everybody's data consumer, and the bot.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use proto::event::Event;
use proto::produce_data_request::On;
use proto::{
    ActiveSpeaker, ConsumeDataRequest, DataConsumerClosed, DataMessage, ProduceDataRequest,
    SctpStreamParameters, SendDataMessageRequest, TransportClosed,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Status;

use crate::fake_worker::Call;
use crate::server::{TestServer, caller};

/// Calls that make data consumers; those of the bot, which everybody gets, are
/// left out.
fn consumes(server: &TestServer) -> Vec<ConsumeDataRequest> {
    let bots: Vec<String> = bots(server)
        .into_iter()
        .map(|it| it.data_producer_id)
        .collect();
    let consume = |call: Call| match call {
        Call::ConsumeData(mut request) => {
            let consumers = &mut request.data_consumers;
            consumers.retain(|it| !bots.contains(&it.data_producer_id));
            (!consumers.is_empty()).then_some(request)
        }
        _ => None,
    };
    let calls = server.worker.calls().into_iter();
    calls.filter_map(consume).collect()
}

/// Calls that make the bot's data producer.
fn bots(server: &TestServer) -> Vec<ProduceDataRequest> {
    let produce = |call: Call| match call {
        Call::ProduceDirectData(request) => Some(request),
        _ => None,
    };
    let calls = server.worker.calls().into_iter();
    calls.filter_map(produce).collect()
}

fn produces(server: &TestServer) -> Vec<ProduceDataRequest> {
    let produce = |call: Call| match call {
        Call::ProduceData(request) => Some(request),
        _ => None,
    };
    let calls = server.worker.calls().into_iter();
    calls.filter_map(produce).collect()
}

fn sent(server: &TestServer) -> Vec<SendDataMessageRequest> {
    let send = |call: Call| match call {
        Call::SendDataMessage(request) => Some(request),
        _ => None,
    };
    let calls = server.worker.calls().into_iter();
    calls.filter_map(send).collect()
}

fn id(data: &Value) -> String {
    data["id"].as_str().unwrap().to_owned()
}

/// Defects f (chat and bot are as in the seed) and seed 16 (appData is tagged).
#[tokio::test]
async fn chat_reaches_everybody_who_joined() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, recv) = caller(&server, "bob").await;
    // Not joined: nobody yet.
    let mut carol = server.connect("room", "carol").await;
    carol.recv_transport().await;
    let producer_id = alice.produce_data(&send, "chat", 5).await;
    let produced = ProduceDataRequest {
        data_producer_id: producer_id.clone(),
        on: Some(On::TransportId(send.clone())),
        stream: Some(SctpStreamParameters {
            stream_id: 5,
            ordered: false,
            max_packet_life_time: None,
            max_retransmits: Some(1),
        }),
        label: "chat".into(),
        protocol: "text".into(),
        tell: false,
    };
    assert_eq!(produces(&server), [produced]);

    let offer = bob.take_data_consumer().await;
    let expected = json!({
        "peerId": "alice",
        "dataProducerId": producer_id,
        "id": id(&offer),
        // Stream 0 is the bot's.
        "sctpStreamParameters": { "streamId": 1, "ordered": false, "maxRetransmits": 1 },
        "label": "chat",
        "protocol": "text",
        "appData": { "info": "chat", "peerId": "alice" },
    });
    assert_eq!(offer, expected);
    let consume = consumes(&server).remove(0);
    assert_eq!(consume.data_consumers.len(), 1);
    let spec = &consume.data_consumers[0];
    assert_eq!(spec.transport_id, recv);
    assert_eq!(spec.data_consumer_id, id(&offer));
    assert_eq!(spec.data_producer_id, producer_id);
    alice.not_told("newDataConsumer").await;
    carol.not_told("newDataConsumer").await;
    // And who comes later.
    carol.join("Carol").await;
    assert_eq!(
        carol.take_data_consumer().await["dataProducerId"],
        producer_id.as_str()
    );
    bob.not_told("newDataConsumer").await;
    assert_eq!(server.worker.count("CloseDataConsumer"), 0);
}

/// Newer clients announce no SCTP and want data channels all the same.
#[tokio::test]
async fn every_transport_can_have_data_channels() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    for data in [
        json!({}),
        json!({ "producing": true, "sctpCapabilities": null }),
        json!({ "consuming": true, "sctpCapabilities": {} }),
    ] {
        let answer = alice.ok("createWebRtcTransport", data).await;
        let sctp = &answer["sctpParameters"];
        assert_eq!((&sctp["OS"], &sctp["MIS"]), (&json!(1024), &json!(1024)));
        assert_eq!(sctp["maxMessageSize"], 262_144);
    }
    let options = |call: Call| match call {
        Call::CreateTransport(request) => Some(request.sctp.unwrap().num_streams),
        _ => None,
    };
    let calls = server.worker.calls().into_iter();
    assert_eq!(calls.filter_map(options).collect::<Vec<_>>(), [1024; 3]);
}

#[tokio::test]
async fn a_newcomer_gets_all_chats_in_one_call() {
    let server = TestServer::start().await;
    let (mut alice, alice_send, _) = caller(&server, "alice").await;
    let (mut bob, bob_send, _) = caller(&server, "bob").await;
    alice.produce_data(&alice_send, "chat", 0).await;
    alice.produce_data(&alice_send, "chat", 1).await;
    bob.produce_data(&bob_send, "chat", 0).await;
    // Labels that mean nothing are accepted, and nobody receives them.
    bob.produce_data(&bob_send, "telemetry", 1).await;
    let (mut carol, _, _) = caller(&server, "carol").await;
    carol.take_bot().await;
    let last = consumes(&server).pop().unwrap().data_consumers;
    assert_eq!(last.len(), 3);
    assert_eq!(server.worker.count("ConsumeData"), 6);
    let mut streams = HashSet::new();
    let mut senders = Vec::new();
    for _ in 0..3 {
        let offer = carol.take_data_consumer().await;
        streams.insert(offer["sctpStreamParameters"]["streamId"].as_u64());
        senders.push(offer["peerId"].as_str().unwrap().to_owned());
    }
    assert_eq!(streams, HashSet::from([Some(0), Some(1), Some(2)]));
    assert_eq!(senders, ["alice", "alice", "bob"]);
    carol.not_told("newDataConsumer").await;
}

/// Seed 24, for data: what was there before the transport to receive on.
#[tokio::test]
async fn data_from_before_the_receiving_transport() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce_data(&send, "chat", 0).await;
    // One that can receive no media still wants data.
    let mut bob = server.connect("room", "bob").await;
    bob.ok("join", json!({ "displayName": "Bob", "device": {} }))
        .await;
    bob.not_told("newDataConsumer").await;
    bob.recv_transport().await;
    bob.take_data_consumer().await;
    bob.recv_transport().await;
    bob.not_told("newDataConsumer").await;
}

#[tokio::test]
async fn streams_are_the_next_that_are_free() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let mut bob = server.connect("room", "bob").await;
    let data = json!({
        "consuming": true,
        "sctpCapabilities": { "numStreams": { "OS": 16, "MIS": 4 } },
    });
    let answer = bob.ok("createWebRtcTransport", data).await;
    let recv = id(&answer);
    bob.join("Bob").await;
    assert_eq!(bob.take_bot().await["sctpStreamParameters"]["streamId"], 0);
    // Bob sends on the transport that he receives on.
    bob.produce_data(&recv, "telemetry", 2).await;
    let (refused, _) = bob
        .refused(
            "produceData",
            json!({ "transportId": recv, "sctpStreamParameters": { "streamId": 16 } }),
        )
        .await;
    assert_eq!(refused, 400);
    let mut taken = Vec::new();
    for stream in 0..2 {
        alice.produce_data(&send, "chat", stream).await;
        taken.push(bob.take_data_consumer().await);
    }
    let stream_ids = taken
        .iter()
        .map(|offer| offer["sctpStreamParameters"]["streamId"].clone());
    assert_eq!(stream_ids.collect::<Vec<_>>(), [1, 3]);
    let taken_already = json!({ "transportId": recv, "sctpStreamParameters": { "streamId": 3 } });
    let refused = bob.refused("produceData", taken_already).await;
    let reason = "sctpStreamParameters.streamId 3 is in use".to_owned();
    assert_eq!(refused, (500, reason));
    // None is left for a third, until one is free again.
    alice.produce_data(&send, "chat", 2).await;
    bob.not_told("newDataConsumer").await;
    let closed = DataConsumerClosed {
        data_consumer_id: id(&taken[0]),
    };
    server.worker_says(Event::DataConsumerClosed(closed)).await;
    bob.notified("dataConsumerClosed").await;
    alice.produce_data(&send, "chat", 3).await;
    let offer = bob.take_data_consumer().await;
    assert_eq!(offer["sctpStreamParameters"]["streamId"], 1);
}

#[tokio::test]
async fn a_rejected_data_consumer_is_closed() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    alice.produce_data(&send, "chat", 0).await;
    let (request_id, offer) = bob.asked("newDataConsumer").await;
    bob.reject(request_id).await;
    let closed = |call: &Call| match call {
        Call::CloseDataConsumer(request) => Some(request.data_consumer_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, id(&offer));
    bob.not_told("dataConsumerClosed").await;
    let data = json!({ "dataConsumerId": id(&offer) });
    let (_, reason) = bob.refused("getDataConsumerStats", data).await;
    assert_eq!(
        reason,
        format!("dataConsumer with id \"{}\" not found", id(&offer))
    );
}

/// pymediasoup's demo answers with an id that is a string, which is no answer.
#[tokio::test]
async fn a_data_consumer_that_is_not_answered_for_lives() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    alice.produce_data(&send, "chat", 0).await;
    let (request_id, offer) = bob.asked("newDataConsumer").await;
    let answer = json!({ "response": true, "id": request_id.to_string(), "ok": true });
    bob.send_text(&answer.to_string()).await;
    let data = json!({ "dataConsumerId": id(&offer) });
    bob.ok("getDataConsumerStats", data).await;
    assert_eq!(server.worker.count("CloseDataConsumer"), 0);
}

#[tokio::test]
async fn data_consumers_end_with_their_producer() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, recv) = caller(&server, "bob").await;
    alice.produce_data(&send, "chat", 0).await;
    let first = id(&bob.take_data_consumer().await);
    let closed = |data_consumer_id: &str| json!({ "dataConsumerId": data_consumer_id });
    let transport_closed = |transport_id: &str| {
        Event::TransportClosed(TransportClosed {
            transport_id: transport_id.into(),
            reason: "DTLS closed".into(),
        })
    };
    // The receiver's transport: another one takes over.
    let bots = id(&bob.take_bot().await);
    server.worker_says(transport_closed(&recv)).await;
    let both = HashSet::from([closed(&first), closed(&bots)]);
    let told = [
        bob.notified("dataConsumerClosed").await,
        bob.notified("dataConsumerClosed").await,
    ];
    assert_eq!(HashSet::from(told), both);
    bob.recv_transport().await;
    let second = id(&bob.take_data_consumer().await);
    // The sender's transport.
    server.worker_says(transport_closed(&send)).await;
    assert_eq!(bob.notified("dataConsumerClosed").await, closed(&second));
    // The sender.
    let send = alice.send_transport().await;
    alice.produce_data(&send, "chat", 0).await;
    let third = id(&bob.take_data_consumer().await);
    drop(alice);
    assert_eq!(bob.notified("dataConsumerClosed").await, closed(&third));
    bob.not_told("dataConsumerClosed").await;
    // Late words of the worker change nothing.
    let late = DataConsumerClosed {
        data_consumer_id: third,
    };
    server.worker_says(Event::DataConsumerClosed(late)).await;
    server.worker_says(transport_closed("unknown")).await;
    bob.not_told("dataConsumerClosed").await;
}

#[tokio::test]
async fn what_the_worker_refuses_leaves_no_trace() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let data =
        json!({ "transportId": send, "sctpStreamParameters": { "streamId": 0 }, "label": "chat" });
    let refusal = Status::resource_exhausted("too many data producers");
    server.worker.refuse("ProduceData", refusal);
    let refused = alice.refused("produceData", data.clone()).await;
    assert_eq!(refused, (500, "too many data producers".into()));
    server.worker.behave();
    // The stream is free again.
    server.worker.refuse_each_consumer(true);
    alice.ok("produceData", data).await;
    bob.not_told("newDataConsumer").await;
    server.worker.behave();
    server.worker.refuse("ConsumeData", Status::internal("no"));
    bob.recv_transport().await;
    bob.not_told("newDataConsumer").await;
    server.worker.behave();
    bob.recv_transport().await;
    let offer = bob.take_data_consumer().await;
    assert_eq!(offer["sctpStreamParameters"]["streamId"], 0);
}

#[tokio::test]
async fn no_more_than_a_peers_share() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    for stream in 0..32 {
        alice.produce_data(&send, "telemetry", stream).await;
    }
    let data = json!({ "transportId": send, "sctpStreamParameters": { "streamId": 99 } });
    let refused = alice.refused("produceData", data).await;
    let reason = "too many data producers, the limit is 32".to_owned();
    assert_eq!(refused, (500, reason));
}

/// A message of a peer to the bot, as the worker tells it.
fn message(data_producer_id: &str, binary: bool, payload: &[u8]) -> Event {
    Event::DataMessage(DataMessage {
        data_producer_id: data_producer_id.into(),
        binary,
        payload: payload.to_vec(),
    })
}

/// Defect f: the bot is there for everybody who comes, without being asked.
#[tokio::test]
async fn everybody_hears_the_bot_from_the_join_on() {
    let server = TestServer::start().await;
    // Neither before the join nor before there is a transport to receive on.
    let mut alice = server.connect("room", "alice").await;
    alice.send_transport().await;
    alice.join("Alice").await;
    alice.not_offered_the_bot().await;
    assert_eq!(server.worker.count("ProduceDirectData"), 0);
    alice.recv_transport().await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let bots = bots(&server);
    assert_eq!(bots.len(), 1);
    assert_eq!(bots[0].on, Some(On::RouterId(server.router_id().await)));
    for peer in [&mut alice, &mut bob] {
        let offer = peer.take_bot().await;
        let expected = json!({
            "peerId": null,
            "dataProducerId": bots[0].data_producer_id,
            "id": id(&offer),
            "sctpStreamParameters": { "streamId": 0, "ordered": true },
            "label": "bot",
            "protocol": "",
            "appData": {},
        });
        assert_eq!(offer, expected);
        // Once.
        peer.recv_transport().await;
        peer.not_offered_the_bot().await;
    }
    // One call to the worker for each who joins, and one for the room.
    assert_eq!(server.worker.count("ConsumeData"), 2);
}

/// Defect f: the bot speaks.
#[tokio::test]
async fn the_bot_repeats_to_everybody_what_it_hears() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, bob_send, _) = caller(&server, "bob").await;
    let to_bot = alice.produce_data(&send, "bot", 1).await;
    assert!(produces(&server)[0].tell);
    let of_bot = bots(&server)[0].data_producer_id.clone();
    for peer in [&mut alice, &mut bob] {
        assert_eq!(peer.take_bot().await["dataProducerId"], of_bot.as_str());
    }
    // It has one voice, whoever turns to it.
    bob.produce_data(&bob_send, "bot", 1).await;
    assert_eq!(bots(&server).len(), 1);

    server.worker_says(message(&to_bot, true, b"binary")).await;
    server.worker_says(message(&to_bot, false, b"\xff")).await;
    server.worker_says(message("unknown", false, b"late")).await;
    server
        .worker_says(message(&to_bot, false, "héllo".as_bytes()))
        .await;
    let longest = "x".repeat(262_144 - "alice said me: \"\"".len());
    server
        .worker_says(message(&to_bot, false, longest.as_bytes()))
        .await;
    server.worker_says(message(&to_bot, false, b"")).await;
    let texts = |server: &TestServer| -> Vec<String> {
        let sent = sent(server).into_iter();
        sent.map(|it| String::from_utf8(it.payload).unwrap())
            .collect()
    };
    let last = |call: &Call| match call {
        Call::SendDataMessage(request) if request.payload.ends_with(b"\"\"") => {
            Some(request.clone())
        }
        _ => None,
    };
    let last = server.worker.wait_for(last).await;
    assert_eq!(
        (last.data_producer_id, last.binary, last.data_consumer_id),
        (of_bot, false, String::new())
    );
    let expected = [
        "alice said me: \"héllo\"".to_owned(),
        format!("alice said me: \"{longest}\""),
        "alice said me: \"\"".to_owned(),
    ];
    assert_eq!(texts(&server), expected);
    // Leaving closes what the peer heard, not the bot.
    drop(alice);
    bob.notified("peerClosed").await;
    bob.not_told("dataConsumerClosed").await;
}

#[tokio::test]
async fn the_bot_does_not_answer_a_flood() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let to_bot = alice.produce_data(&send, "bot", 1).await;
    alice.take_bot().await;
    let long = "x".repeat(262_144);
    let begin = Instant::now();
    for _ in 0..500 {
        server
            .worker_says(message(&to_bot, false, long.as_bytes()))
            .await;
    }
    // The room works on, and has heard it all by then.
    let silence = Event::ActiveSpeaker(ActiveSpeaker::default());
    server.worker_says(silence).await;
    alice.notified("activeSpeaker").await;
    let answers = sent(&server);
    // Four at once, and two a second.
    let most = 5 + 2 * usize::try_from(begin.elapsed().as_secs()).unwrap();
    assert!((1..=most).contains(&answers.len()), "{}", answers.len());
    assert!(answers.iter().all(|it| it.payload.len() == 262_144));
}

#[tokio::test]
async fn a_bot_that_could_not_speak_tries_again() {
    let server = TestServer::start().await;
    let refusal = Status::resource_exhausted("no");
    server.worker.refuse("ProduceDirectData", refusal);
    let (mut alice, send, _) = caller(&server, "alice").await;
    let other = alice.produce_data(&send, "telemetry", 0).await;
    // Messages of other channels are none of its business.
    server.worker_says(message(&other, false, b"hello")).await;
    let to_bot = alice.produce_data(&send, "bot", 1).await;
    server.worker_says(message(&to_bot, false, b"zero")).await;
    let thrice = async {
        while server.worker.count("ProduceDirectData") < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), thrice).await.unwrap();
    alice.not_offered_the_bot().await;
    assert_eq!(sent(&server).len(), 0);
    server.worker.behave();
    server
        .worker
        .refuse("SendDataMessage", Status::internal("no"));
    server.worker_says(message(&to_bot, false, b"one")).await;
    alice.take_bot().await;
    let first = |call: &Call| matches!(call, Call::SendDataMessage(_)).then_some(());
    server.worker.wait_for(first).await;
    server.worker.behave();
    server.worker_says(message(&to_bot, false, b"two")).await;
    let second = |call: &Call| match call {
        Call::SendDataMessage(request) => request.payload.ends_with(b"\"two\"").then_some(()),
        _ => None,
    };
    server.worker.wait_for(second).await;
}
