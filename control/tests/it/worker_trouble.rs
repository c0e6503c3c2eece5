//! Media workers that refuse, hang or die.

use std::time::{Duration, Instant};

use control::rooms::Timings;
use serde_json::json;
use tonic::{Code, Status};

use crate::client::{Client, produce_data};
use crate::fake_worker::{Call, FakeWorker};
use crate::server::{TestServer, config};

async fn caller(server: &TestServer, peer: &str) -> (Client, String) {
    let mut client = server.connect("room", peer).await;
    let send = client.send_transport().await;
    client.recv_transport().await;
    client.join(peer).await;
    (client, send)
}

/// Defects seed 17 and l: a worker's death ends neither the server nor a call for
/// good.
#[tokio::test]
async fn a_dead_worker_sends_clients_to_a_fresh_room() {
    let server = TestServer::start().await;
    let (mut alice, _) = caller(&server, "alice").await;
    let mut unjoined = server.connect("room", "bob").await;
    server.pool.kill_workers().await;
    // Not 4000: protoo clients come back by themselves.
    assert_eq!(alice.close_code().await, 1012);
    assert_eq!(unjoined.close_code().await, 1012);
    let refused = server
        .upgrade("/?roomId=room&peerId=alice", Some("protoo"))
        .await;
    let refused = refused.err().unwrap();
    assert_eq!(
        (refused.status, refused.error()),
        (503, "no live media worker")
    );
    assert_eq!(server.post("/rooms/room", "").await.status, 503);
    assert_eq!(server.get("/health").await.status, 503);
    assert_eq!(server.get("/rooms/health").await.status, 503);

    let fresh = server.pool.start_worker().await;
    assert_eq!(server.get("/health").await.status, 200);
    let mut alice = server.connect("room", "alice").await;
    assert_eq!(alice.join("Alice").await, json!({ "peers": [] }));
    assert_eq!(fresh.count("CreateRouter"), 1);
}

#[tokio::test]
async fn death_during_a_call_that_hangs() {
    let server = TestServer::start().await;
    let (mut alice, _) = caller(&server, "alice").await;
    server.worker.hang("RestartIce");
    let transport_id = alice.send_transport().await;
    alice
        .start("restartIce", json!({ "transportId": transport_id }))
        .await;
    server
        .worker
        .wait_for(|call| matches!(call, Call::RestartIce(_)).then_some(()))
        .await;
    let begin = Instant::now();
    server.pool.kill_workers().await;
    assert_eq!(alice.close_code().await, 1012);
    // Well before the call's own deadline of five seconds.
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_hanging_call_fails_alone() {
    let server = TestServer::start().await;
    let (mut alice, _) = caller(&server, "alice").await;
    server.worker.hang("CreateTransport");
    let data = json!({ "producing": true, "consuming": false });
    let refused = alice.refused("createWebRtcTransport", data).await;
    assert_eq!(refused, (500, "media worker does not answer".into()));
    server.worker.behave();
    alice.send_transport().await;
}

#[tokio::test]
async fn refusals_leave_nothing_behind() {
    let server = TestServer::start().await;
    let (mut alice, send) = caller(&server, "alice").await;
    let (mut bob, _) = caller(&server, "bob").await;
    let invalid = Status::new(Code::InvalidArgument, "mid: is taken");
    server.worker.refuse("Produce", invalid);
    let mut data = produce_data("audio");
    data["transportId"] = send.as_str().into();
    let refused = alice.refused("produce", data).await;
    assert_eq!(refused, (400, "mid: is taken".into()));
    server
        .worker
        .refuse("ConnectTransport", Status::failed_precondition("not now"));
    let connect =
        json!({ "transportId": send, "dtlsParameters": crate::client::dtls_parameters() });
    let refused = alice
        .refused("connectWebRtcTransport", connect.clone())
        .await;
    assert_eq!(refused, (500, "not now".into()));
    server
        .worker
        .refuse("CreateTransport", Status::resource_exhausted("full"));
    for _ in 0..40 {
        let refused = alice.refused("createWebRtcTransport", json!({})).await;
        assert_eq!(refused, (500, "full".into()));
    }
    server.worker.behave();
    alice.send_transport().await;
    alice.ok("connectWebRtcTransport", connect).await;
    // The same SSRCs and MID again: the first try has not taken them.
    alice.produce(&send, "audio").await;
    bob.take_consumer().await;
}

#[tokio::test]
async fn a_worker_that_refuses_to_consume() {
    let server = TestServer::start().await;
    let (mut alice, send) = caller(&server, "alice").await;
    let (mut bob, _) = caller(&server, "bob").await;
    server.worker.refuse_each_consumer(true);
    alice.produce(&send, "audio").await;
    bob.not_told("newConsumer").await;
    server.worker.behave();
    server
        .worker
        .refuse("Consume", Status::resource_exhausted("full"));
    alice.produce(&send, "video").await;
    bob.not_told("newConsumer").await;
    // Neither counts as received: the next chance brings both.
    server.worker.behave();
    bob.recv_transport().await;
    bob.take_consumer().await;
    bob.take_consumer().await;
}

#[tokio::test]
async fn a_room_whose_router_cannot_be_created() {
    let server = TestServer::start().await;
    server
        .worker
        .refuse("CreateRouter", Status::resource_exhausted("full"));
    let reason = |answer: crate::server::Answer| {
        let reason = "no media worker takes the room: full";
        assert_eq!((answer.status, answer.error()), (503, reason));
    };
    reason(server.post("/rooms/room", "").await);
    let refused = server
        .upgrade("/?roomId=room&peerId=a", Some("protoo"))
        .await;
    reason(refused.err().unwrap());
    assert_eq!(server.get("/rooms/room").await.status, 404);
    // Nobody is told to come where the upgrade would be refused.
    reason(server.get("/rooms/room/admission?peerId=a").await);
    reason(server.get("/health").await);
    server.worker.behave();
    assert_eq!(server.post("/rooms/room", "").await.status, 200);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_room_that_panics_leaves_nothing_behind() {
    // No clock reaches the end of this: working it out when a peer connects is
    // what makes the room panic.
    let timings = Timings {
        join: Duration::MAX,
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    assert_eq!(server.post("/rooms/room", "").await.status, 200);
    let mut alice = server.connect("room", "alice").await;
    assert_eq!(alice.close_code().await, 1012);
    assert_eq!(server.get("/rooms/room").await.status, 404);
    assert_eq!(server.post("/rooms/room", "").await.status, 200);
    let closed = |call: &Call| match call {
        Call::CloseRouter(request) => Some(request.router_id.clone()),
        _ => None,
    };
    let created = |call: &Call| match call {
        Call::CreateRouter(request) => Some(request.router_id.clone()),
        _ => None,
    };
    let closed = server.worker.wait_for(closed).await;
    assert_eq!(closed, server.worker.wait_for(created).await);
}

#[tokio::test]
async fn the_limits_of_a_room_outlive_its_worker() {
    let server = TestServer::start().await;
    let created = server.post("/rooms/room", r#"{"maxPeerCount":2}"#).await;
    assert_eq!(created.status, 200);
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    // The second time nobody has joined the room that was lost.
    for _ in 0..2 {
        server.pool.kill_workers().await;
        assert_eq!(alice.close_code().await, 1012);
        let full = Status::resource_exhausted("full");
        let refuses = |worker: &FakeWorker| worker.refuse("CreateRouter", full);
        let worker = server.pool.start_worker_that(refuses).await;
        let path = "/?roomId=room&peerId=alice";
        let refused = server.upgrade(path, Some("protoo")).await;
        assert_eq!(refused.err().unwrap().status, 503);
        worker.behave();
        alice = server.connect("room", "alice").await;
        let _bob = server.connect("room", "bob").await;
        let path = "/?roomId=room&peerId=carol";
        let refused = server.upgrade(path, Some("protoo")).await;
        assert_eq!(refused.err().unwrap().error(), "room is full");
    }
    // A room that ended by itself is not remembered.
    alice.join("Alice").await;
    alice.ok("leaveRoom", json!({})).await;
    let mut peers = Vec::new();
    while server.get("/rooms/room").await.status == 200 {
        tokio::task::yield_now().await;
    }
    for peer in ["a", "b", "c"] {
        peers.push(server.connect("room", peer).await);
    }
}

#[tokio::test]
async fn what_a_late_worker_may_have_made_is_closed() {
    let server = TestServer::start().await;
    let worker = &server.worker;
    let (mut alice, send) = caller(&server, "alice").await;
    let (_bob, _) = caller(&server, "bob").await;
    worker.hang("Consume");
    worker.hang("CreateTransport");
    // The room waits for the consumer of Bob's.
    alice.produce(&send, "audio").await;
    let closed = |call: &Call| match call {
        Call::CloseConsumer(request) => Some(request.consumer_id.clone()),
        _ => None,
    };
    let closed = worker.wait_for(closed).await;
    let asked = |call: &Call| match call {
        Call::Consume(request) => Some(request.consumers[0].consumer_id.clone()),
        _ => None,
    };
    assert_eq!(Some(closed), worker.calls().iter().rev().find_map(asked));

    alice.refused("createWebRtcTransport", json!({})).await;
    let closed = |call: &Call| match call {
        Call::CloseTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    let closed = worker.wait_for(closed).await;
    let asked = |call: &Call| match call {
        Call::CreateTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    assert_eq!(Some(closed), worker.calls().iter().rev().find_map(asked));

    worker.hang("Produce");
    let mut data = produce_data("video");
    data["transportId"] = send.as_str().into();
    alice.refused("produce", data).await;
    let closed = |call: &Call| match call {
        Call::CloseProducer(request) => Some(request.producer_id.clone()),
        _ => None,
    };
    let closed = worker.wait_for(closed).await;
    let asked = |call: &Call| match call {
        Call::Produce(request) => Some(request.producer_id.clone()),
        _ => None,
    };
    assert_eq!(Some(closed), worker.calls().iter().rev().find_map(asked));
}

#[tokio::test]
async fn data_channels_that_a_late_worker_may_have_made_are_closed() {
    let server = TestServer::start().await;
    let worker = &server.worker;
    let (mut alice, send) = caller(&server, "alice").await;
    let (mut bob, _) = caller(&server, "bob").await;
    // Who joins gets the bot's.
    assert_eq!(worker.count("ConsumeData"), 2);
    worker.hang("ConsumeData");
    alice.produce_data(&send, "chat", 0).await;
    let closed = |call: &Call| match call {
        Call::CloseDataConsumer(request) => Some(request.data_consumer_id.clone()),
        _ => None,
    };
    let closed = worker.wait_for(closed).await;
    let asked = |call: &Call| match call {
        Call::ConsumeData(request) => Some(request.data_consumers[0].data_consumer_id.clone()),
        _ => None,
    };
    assert_eq!(Some(closed), worker.calls().iter().rev().find_map(asked));
    bob.not_told("newDataConsumer").await;

    worker.hang("ProduceData");
    let data = json!({ "transportId": send, "sctpStreamParameters": { "streamId": 1 } });
    alice.refused("produceData", data.clone()).await;
    let closed = |call: &Call| match call {
        Call::CloseDataProducer(request) => Some(request.data_producer_id.clone()),
        _ => None,
    };
    let closed = worker.wait_for(closed).await;
    let asked = |call: &Call| match call {
        Call::ProduceData(request) => Some(request.data_producer_id.clone()),
        _ => None,
    };
    assert_eq!(Some(closed), worker.calls().iter().rev().find_map(asked));
    worker.behave();
    alice.ok("produceData", data).await;
}
