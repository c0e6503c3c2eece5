//! `consumerReplicas`: more than one consumer of each producer.

use std::collections::HashSet;

use control::rooms::Timings;

use crate::server::{TestServer, caller, config};

/// A joined peer that can receive, connected with this query.
async fn receiver(server: &TestServer, query: &str) -> crate::client::Client {
    let path = format!("/?roomId=room&peerId=bob{query}");
    let mut bob = server.upgrade(&path, Some("protoo")).await.ok().unwrap();
    bob.recv_transport().await;
    bob.join("Bob").await;
    bob
}

#[tokio::test]
async fn extra_consumers_for_the_asking() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let audio = alice.produce(&send, "audio").await;
    let mut bob = receiver(&server, "&consumerReplicas=2").await;
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let offer = bob.take_consumer().await;
        assert_eq!(offer["producerId"], audio.as_str());
        ids.insert(offer["id"].as_str().unwrap().to_owned());
        bob.notified("consumerScore").await;
    }
    assert_eq!(ids.len(), 3);
    assert_eq!(server.worker.count("Consume"), 1);
    bob.recv_transport().await;
    bob.not_told("newConsumer").await;
    alice
        .ok("closeProducer", serde_json::json!({ "producerId": audio }))
        .await;
    for _ in 0..3 {
        bob.notified("consumerClosed").await;
    }
    // Another producer, and as many again.
    alice.produce(&send, "audio").await;
    for _ in 0..3 {
        bob.take_consumer().await;
        bob.notified("consumerScore").await;
    }
    bob.not_told("newConsumer").await;
}

/// Defect seed 14: a client cannot ask for any number.
#[tokio::test]
async fn no_more_than_configured() {
    let mut config = config();
    config.consumer_replicas_max = 1;
    let server = TestServer::start_with(config, Timings::default()).await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    for query in [
        "&consumerReplicas=1000",
        "&consumerReplicas=99999999999999999999",
    ] {
        let mut bob = receiver(&server, query).await;
        for _ in 0..2 {
            bob.take_consumer().await;
            bob.notified("consumerScore").await;
        }
        bob.not_told("newConsumer").await;
    }
}

#[tokio::test]
async fn numbers_that_are_none() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    alice.produce(&send, "audio").await;
    for bad in ["x", "-1", "1.5", "1e3", "%20", "+1"] {
        let path = format!("/?roomId=room&peerId=bob&consumerReplicas={bad}");
        let refused = server.upgrade(&path, Some("protoo")).await.err().unwrap();
        assert_eq!(refused.status, 400, "{bad}");
        assert!(refused.error().starts_with("consumerReplicas"), "{bad}");
    }
    // The original's page writes what it was not given as JavaScript does.
    for none in ["", "undefined", "0"] {
        let mut bob = receiver(&server, &format!("&consumerReplicas={none}")).await;
        bob.take_consumer().await;
        bob.notified("consumerScore").await;
        bob.not_told("newConsumer").await;
    }
}
