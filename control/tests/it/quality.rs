//! What the worker reports, told to whom it concerns.

use proto::event::Event;
use proto::{
    ActiveSpeaker, ConsumerLayersChanged, ConsumerScore, ConsumerScoreChanged, DownlinkBwe,
    EncodingScore, Layers, ProducerScoreChanged,
};
use serde_json::json;

use crate::server::{TestServer, caller};

#[tokio::test]
async fn scores_and_layers() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let producer_id = alice.produce(&send, "video").await;
    let consumer_id = bob.take_consumer().await["id"].as_str().unwrap().to_owned();
    bob.notified("consumerScore").await;

    let encoding = |encoding_idx, rid: Option<&str>| EncodingScore {
        encoding_idx,
        ssrc: 4711,
        rid: rid.map(str::to_owned),
        score: 7,
    };
    let scores = vec![encoding(0, Some("r0")), encoding(1, None)];
    let changed = ProducerScoreChanged {
        producer_id: producer_id.clone(),
        scores,
    };
    server.worker_says(Event::ProducerScore(changed)).await;
    let expected = json!({ "producerId": producer_id, "score": [
        { "encodingIdx": 0, "ssrc": 4711, "rid": "r0", "score": 7 },
        { "encodingIdx": 1, "ssrc": 4711, "score": 7 },
    ] });
    assert_eq!(alice.notified("producerScore").await, expected);

    let changed = ConsumerScoreChanged {
        consumer_id: consumer_id.clone(),
        score: Some(ConsumerScore {
            score: 5,
            producer_score: 8,
            producer_scores: vec![8, 0],
        }),
    };
    server.worker_says(Event::ConsumerScore(changed)).await;
    let score = json!({ "score": 5, "producerScore": 8, "producerScores": [8, 0] });
    assert_eq!(
        bob.notified("consumerScore").await,
        json!({ "consumerId": consumer_id, "score": score })
    );

    let layers = |spatial_layer, temporal_layer| {
        Some(Layers {
            spatial_layer,
            temporal_layer,
        })
    };
    for (layers, spatial, temporal) in [
        (layers(2, Some(1)), json!(2), json!(1)),
        (layers(0, None), json!(0), json!(null)),
        (None, json!(null), json!(null)),
    ] {
        let changed = ConsumerLayersChanged {
            consumer_id: consumer_id.clone(),
            layers,
        };
        server.worker_says(Event::ConsumerLayers(changed)).await;
        let expected = json!({
            "consumerId": consumer_id, "spatialLayer": spatial, "temporalLayer": temporal,
        });
        assert_eq!(bob.notified("consumerLayersChanged").await, expected);
    }
    // Each only to whom it concerns.
    alice.not_told("consumerScore").await;
    alice.not_told("consumerLayersChanged").await;
    bob.not_told("producerScore").await;
}

#[tokio::test]
async fn bitrates_go_to_the_transports_owner_once_joined() {
    let server = TestServer::start().await;
    let mut alice = server.connect("room", "alice").await;
    let transport_id = alice.recv_transport().await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let bwe = |available_bitrate| {
        Event::DownlinkBwe(DownlinkBwe {
            transport_id: transport_id.clone(),
            desired_bitrate: 3_000_000,
            effective_desired_bitrate: 2_000_000,
            available_bitrate,
        })
    };
    server.worker_says(bwe(1)).await;
    // Everybody hears of silence, so by then the first report was dropped.
    let silence = || Event::ActiveSpeaker(ActiveSpeaker::default());
    server.worker_says(silence()).await;
    bob.notified("activeSpeaker").await;
    alice.join("Alice").await;
    server.worker_says(bwe(2)).await;
    let expected = json!({
        "desiredBitrate": 3_000_000, "effectiveDesiredBitrate": 2_000_000, "availableBitrate": 2,
    });
    assert_eq!(alice.notified("downlinkBwe").await, expected);
    alice.not_told("activeSpeaker").await;
    bob.not_told("downlinkBwe").await;
}

/// Defects b (nobody is told who speaks) and seed 16 (without a peerId).
#[tokio::test]
async fn who_speaks() {
    let server = TestServer::start().await;
    let (mut alice, send, _) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let mut carol = server.connect("room", "carol").await;
    let producer_id = alice.produce(&send, "audio").await;
    let speaks = |producer_id: Option<&str>| {
        Event::ActiveSpeaker(ActiveSpeaker {
            producer_id: producer_id.map(str::to_owned),
            volume: -42,
            volumes: Vec::new(),
        })
    };
    server.worker_says(speaks(Some(&producer_id))).await;
    let expected = json!({ "peerId": "alice", "volume": -42 });
    assert_eq!(bob.notified("activeSpeaker").await, expected);
    assert_eq!(alice.notified("activeSpeaker").await, expected);
    // A producer that is gone is nobody's voice.
    server.worker_says(speaks(Some("gone"))).await;
    server.worker_says(speaks(None)).await;
    let silence = json!({ "peerId": null });
    assert_eq!(bob.notified("activeSpeaker").await, silence);
    assert_eq!(alice.notified("activeSpeaker").await, silence);
    carol.not_told("activeSpeaker").await;
}

#[tokio::test]
async fn late_reports_change_nothing() {
    let server = TestServer::start().await;
    let (mut alice, _, _) = caller(&server, "alice").await;
    let gone = || "gone".to_owned();
    let events = [
        Event::ProducerScore(ProducerScoreChanged {
            producer_id: gone(),
            scores: Vec::new(),
        }),
        Event::ConsumerScore(ConsumerScoreChanged {
            consumer_id: gone(),
            score: None,
        }),
        Event::ConsumerLayers(ConsumerLayersChanged {
            consumer_id: gone(),
            layers: None,
        }),
        Event::DownlinkBwe(DownlinkBwe {
            transport_id: gone(),
            ..DownlinkBwe::default()
        }),
    ];
    for event in events {
        server.worker_says(event).await;
    }
    server
        .worker_says(Event::ActiveSpeaker(ActiveSpeaker::default()))
        .await;
    alice.notified("activeSpeaker").await;
    for method in [
        "producerScore",
        "consumerScore",
        "consumerLayersChanged",
        "downlinkBwe",
    ] {
        alice.not_told(method).await;
    }
}
