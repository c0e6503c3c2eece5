//! The get…Stats, and the requests that tune consumers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::fake_worker::Call;
use crate::server::{TestServer, caller};

#[tokio::test]
async fn statistics_of_ones_own() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    // Transports are there before the peer joins, and so are their numbers.
    let send = alice.send_transport().await;
    let data = json!({ "transportId": send });
    let stats = alice.ok("getTransportStats", data.clone()).await;
    assert_eq!(stats.as_array().unwrap().len(), 1);
    assert_eq!(stats[0]["type"], "webrtc-transport");
    assert_eq!(stats[0]["transportId"], send.as_str());
    assert_eq!(stats[0]["bytesReceived"], 1200);
    assert_eq!(stats[0]["sctpState"], "connecting");
    assert_eq!(stats[0].get("iceSelectedTuple"), None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let age = now.as_millis() - u128::from(stats[0]["timestamp"].as_u64().unwrap());
    assert!(age < 60_000, "{age}");

    alice.recv_transport().await;
    alice.join("Alice").await;
    let (mut bob, bob_send, _) = caller(&server, "bob").await;
    let producer = alice.produce(&send, "video").await;
    let data_producer = alice.produce_data(&send, "chat", 0).await;
    let consumer = bob.take_consumer().await["id"].clone();
    let data_consumer = bob.take_data_consumer().await["id"].clone();
    let types = |stats: &Value| -> Vec<String> {
        let entries = stats.as_array().unwrap().iter();
        entries
            .map(|it| it["type"].as_str().unwrap().to_owned())
            .collect()
    };
    let own = [
        (
            true,
            "getProducerStats",
            json!({ "producerId": producer }),
            vec!["inbound-rtp"],
        ),
        (
            false,
            "getConsumerStats",
            json!({ "consumerId": consumer }),
            vec!["outbound-rtp", "inbound-rtp"],
        ),
        (
            true,
            "getDataProducerStats",
            json!({ "dataProducerId": data_producer }),
            vec!["data-producer"],
        ),
        (
            false,
            "getDataConsumerStats",
            json!({ "dataConsumerId": data_consumer }),
            vec!["data-consumer"],
        ),
        (
            false,
            "getTransportStats",
            json!({ "transportId": bob_send }),
            vec!["webrtc-transport"],
        ),
    ];
    for (of_alice, method, data, expected) in own {
        let (owner, other) = if of_alice {
            (&mut alice, &mut bob)
        } else {
            (&mut bob, &mut alice)
        };
        let stats = owner.ok(method, data.clone()).await;
        assert_eq!(types(&stats), expected, "{method}");
        // Nobody else's.
        let (code, reason) = other.refused(method, data).await;
        assert_eq!(code, 500);
        assert!(reason.ends_with("not found"), "{method}: {reason}");
    }
    let asked = |call: &Call| match call {
        Call::GetDataProducerStats(request) => Some(request.id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(asked).await, data_producer);
}

#[tokio::test]
async fn a_worker_that_knows_it_no_more() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let refusal = tonic::Status::not_found("no transport t");
    server.worker.refuse("GetTransportStats", refusal);
    let data = json!({ "transportId": send });
    let refused = alice.refused("getTransportStats", data).await;
    assert_eq!(refused, (500, "no transport t".into()));
}

#[tokio::test]
async fn layers_and_priorities() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    alice.produce(&send, "video").await;
    let consumer_id = bob.take_consumer().await["id"].as_str().unwrap().to_owned();
    let with = |mut fields: Value| {
        fields["consumerId"] = consumer_id.as_str().into();
        fields
    };
    let method = "setConsumerPreferredLayers";
    let both = with(json!({ "spatialLayer": 2, "temporalLayer": 0 }));
    assert_eq!(bob.ok(method, both).await, json!({}));
    bob.ok(
        method,
        with(json!({ "spatialLayer": 0, "temporalLayer": null })),
    )
    .await;
    bob.ok("setConsumerPriority", with(json!({ "priority": 255 })))
        .await;
    let calls = server.worker.calls();
    let layers = calls.iter().filter_map(|call| match call {
        Call::SetConsumerPreferredLayers(it) => {
            Some((it.consumer_id.clone(), it.spatial_layer, it.temporal_layer))
        }
        _ => None,
    });
    let expected = [
        (consumer_id.clone(), 2, Some(0)),
        (consumer_id.clone(), 0, None),
    ];
    assert_eq!(layers.collect::<Vec<_>>(), expected);
    let priorities = calls.iter().filter_map(|call| match call {
        Call::SetConsumerPriority(it) => Some((it.consumer_id.clone(), it.priority)),
        _ => None,
    });
    assert_eq!(priorities.collect::<Vec<_>>(), [(consumer_id.clone(), 255)]);

    let bad = [
        (method, json!({}), "spatialLayer"),
        (method, json!({ "spatialLayer": -1 }), "spatialLayer"),
        (method, json!({ "spatialLayer": "1" }), "spatialLayer"),
        (
            method,
            json!({ "spatialLayer": 1, "temporalLayer": 0.5 }),
            "temporalLayer",
        ),
        (
            method,
            json!({ "spatialLayer": 1, "temporalLayer": 256 }),
            "temporalLayer",
        ),
        ("setConsumerPriority", json!({}), "priority"),
        ("setConsumerPriority", json!({ "priority": 0 }), "priority"),
        (
            "setConsumerPriority",
            json!({ "priority": 256 }),
            "priority",
        ),
        (
            "setConsumerPriority",
            json!({ "priority": true }),
            "priority",
        ),
    ];
    for (method, fields, field) in bad {
        let (code, reason) = bob.refused(method, with(fields)).await;
        assert_eq!(code, 400, "{reason}");
        assert!(reason.starts_with(field), "{reason}");
    }
    // Of one's own consumers only.
    let (_, reason) = alice
        .refused("setConsumerPriority", with(json!({ "priority": 1 })))
        .await;
    assert_eq!(
        reason,
        format!("consumer with id \"{consumer_id}\" not found")
    );
}
