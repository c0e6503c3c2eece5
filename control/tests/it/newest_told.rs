//! What clients of the newest dialect are told and asked: every message with all
//! its fields.

use proto::event::Event;
use proto::{
    ActiveSpeaker, ConsumerLayersChanged, ConsumerScore, ConsumerScoreChanged, DownlinkBwe,
    EncodingScore, Layers, ProducerScoreChanged, ProducerVolume,
};
use serde_json::{Value, json};

use crate::client::{capabilities, produce_data};
use crate::newest::{newest, newest_caller, transport};
use crate::server::{TestServer, caller, config};

/// Names of an object's fields, in order.
fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn who_comes_and_goes() {
    let server = TestServer::start().await;
    let mut new = newest(&server).await;
    let version = concat!("webrtc-server/", env!("CARGO_PKG_VERSION"));
    let told = new.notified("mediasoupVersion").await;
    assert_eq!(told, json!({ "version": version }));
    crate::newest::join(&mut new).await;

    let mut old = server.connect("room", "old").await;
    let data = json!({ "displayName": "Old", "device": { "flag": "chrome", "name": "Chrome" },
        "rtpCapabilities": capabilities() });
    old.ok("join", data).await;
    let peer = json!({
        "peerId": "old",
        "displayName": "Old",
        "device": { "flag": "chrome", "name": "Chrome" },
        "remoteAddress": "127.0.0.1",
    });
    assert_eq!(new.notified("newPeer").await, json!({ "peer": peer }));
    old.ok("changeDisplayName", json!({ "displayName": "Older" }))
        .await;
    assert_eq!(
        new.notified("peerDisplayNameChanged").await,
        json!({ "peerId": "old", "displayName": "Older", "oldDisplayName": "Old" })
    );
    // Defect a: one word for a peer that has left, whatever it calls it itself.
    old.ok("leaveRoom", json!({})).await;
    assert_eq!(new.notified("peerClosed").await, json!({ "peerId": "old" }));
    assert_eq!(old.close_code().await, 4000);
    let mut third = server.connect("room", "third").await;
    third.join("third").await;
    new.notified("newPeer").await;
    drop(third);
    assert_eq!(
        new.notified("peerClosed").await,
        json!({ "peerId": "third" })
    );
    let told = new.drain().await;
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn media_and_its_quality() {
    let server = TestServer::start().await;
    let (mut old, old_send, _) = caller(&server, "old").await;
    let (mut new, send, recv) = newest_caller(&server).await;
    let old_producer = old.produce(&old_send, "video").await;
    let (id, offer) = new.asked("newConsumer").await;
    let consumer = offer["consumerId"].clone();
    let expected = [
        "appData",
        "consumerId",
        "consumerScore",
        "kind",
        "peerId",
        "producerId",
        "producerPaused",
        "rtpParameters",
        "transportId",
        "type",
    ];
    assert_eq!(names(&offer), expected);
    let score = json!({ "score": 10, "producerScore": 9, "producerScores": [9] });
    for (field, value) in [
        ("peerId", json!("old")),
        ("transportId", json!(recv)),
        ("producerId", json!(old_producer)),
        ("kind", json!("video")),
        ("type", json!("simple")),
        ("producerPaused", json!(false)),
        ("consumerScore", score.clone()),
        ("appData", json!({ "peerId": "old", "source": "video" })),
    ] {
        assert_eq!(offer[field], value, "{field}");
    }
    new.accept(id).await;
    let told = new.notified("consumerScore").await;
    assert_eq!(told, json!({ "consumerId": consumer, "score": score }));

    let mut produce = produce_data("video");
    produce["transportId"] = send.into();
    let produced = new.ok("produce", produce).await;
    assert_eq!(names(&produced), ["producerId"]);
    let producer_id = produced["producerId"].as_str().unwrap().to_owned();
    let encoding = EncodingScore {
        encoding_idx: 0,
        ssrc: 4711,
        rid: None,
        score: 7,
    };
    let changed = ProducerScoreChanged {
        producer_id: producer_id.clone(),
        scores: vec![encoding],
    };
    server.worker_says(Event::ProducerScore(changed)).await;
    let scores = json!([{ "encodingIdx": 0, "ssrc": 4711, "score": 7 }]);
    let expected = json!({ "producerId": producer_id, "score": scores });
    assert_eq!(new.notified("producerScore").await, expected);
    let consumer_id = consumer.as_str().unwrap().to_owned();
    let changed = ConsumerScoreChanged {
        consumer_id: consumer_id.clone(),
        score: Some(ConsumerScore {
            score: 5,
            producer_score: 8,
            producer_scores: vec![8],
        }),
    };
    server.worker_says(Event::ConsumerScore(changed)).await;
    let score = json!({ "score": 5, "producerScore": 8, "producerScores": [8] });
    let expected = json!({ "consumerId": consumer, "score": score });
    assert_eq!(new.notified("consumerScore").await, expected);

    for (spatial_layer, temporal_layer, expected) in [
        (2, Some(1), json!({ "spatialLayer": 2, "temporalLayer": 1 })),
        (0, None, json!({ "spatialLayer": 0, "temporalLayer": null })),
    ] {
        let layers = Layers {
            spatial_layer,
            temporal_layer,
        };
        let changed = ConsumerLayersChanged {
            consumer_id: consumer_id.clone(),
            layers: Some(layers),
        };
        server.worker_says(Event::ConsumerLayers(changed)).await;
        let expected = json!({ "consumerId": consumer, "layers": expected });
        assert_eq!(new.notified("consumerLayersChanged").await, expected);
    }
    let changed = ConsumerLayersChanged {
        consumer_id,
        layers: None,
    };
    server.worker_says(Event::ConsumerLayers(changed)).await;
    let told = new.notified("consumerLayersChanged").await;
    assert_eq!(told, json!({ "consumerId": consumer }));
    let bwe = DownlinkBwe {
        transport_id: recv,
        desired_bitrate: 3,
        effective_desired_bitrate: 2,
        available_bitrate: 1,
    };
    server.worker_says(Event::DownlinkBwe(bwe)).await;
    assert_eq!(
        new.notified("downlinkBwe").await,
        json!({ "desiredBitrate": 3, "effectiveDesiredBitrate": 2, "availableBitrate": 1 })
    );

    let of_producer = json!({ "producerId": old_producer });
    for (method, told) in [
        ("pauseProducer", "consumerPaused"),
        ("resumeProducer", "consumerResumed"),
        ("closeProducer", "consumerClosed"),
    ] {
        old.ok(method, of_producer.clone()).await;
        assert_eq!(new.notified(told).await, json!({ "consumerId": consumer }));
    }
}

/// Defect b. Everybody who speaks is told, the loudest first, and the loudest
/// alone to clients of the seed.
#[tokio::test]
async fn who_speaks() {
    let mut config = config();
    config.room_max_peers = 20;
    let server = TestServer::start_with(config, Default::default()).await;
    let (mut new, send, _) = newest_caller(&server).await;
    let mut produce = produce_data("audio");
    produce["transportId"] = send.into();
    let mine = new.ok("produce", produce).await;
    let mine = mine["producerId"].as_str().unwrap().to_owned();
    let (mut old, old_send, _) = caller(&server, "old").await;
    let another = old.send_transport().await;
    let old_producers = [
        old.produce(&old_send, "audio").await,
        old.produce(&another, "audio").await,
    ];
    let volume = |producer_id: &str, volume| ProducerVolume {
        producer_id: producer_id.to_owned(),
        volume,
    };
    let speaks = ActiveSpeaker {
        producer_id: Some(old_producers[0].clone()),
        volume: -20,
        // A peer counts once, and one that is gone not at all.
        volumes: vec![
            volume(&old_producers[0], -20),
            volume("gone", -25),
            volume(&mine, -30),
            volume(&old_producers[1], -40),
        ],
    };
    server.worker_says(Event::ActiveSpeaker(speaks)).await;
    let volumes = json!([{ "peerId": "old", "volume": -20 }, { "peerId": "new", "volume": -30 }]);
    assert_eq!(
        new.notified("speakingPeers").await,
        json!({ "peerVolumes": volumes })
    );
    assert_eq!(
        new.notified("activeSpeaker").await,
        json!({ "peerId": "old" })
    );
    assert_eq!(
        old.notified("activeSpeaker").await,
        json!({ "peerId": "old", "volume": -20 })
    );
    // Who leads need not be the loudest; one that is gone does not lead.
    for (leader, expected) in [(&*mine, "new"), ("gone", "old")] {
        let leads = proto::DominantSpeaker {
            producer_id: leader.to_owned(),
        };
        server.worker_says(Event::DominantSpeaker(leads)).await;
        let speaks = ActiveSpeaker {
            producer_id: Some(old_producers[0].clone()),
            volume: -20,
            ..ActiveSpeaker::default()
        };
        server.worker_says(Event::ActiveSpeaker(speaks)).await;
        new.notified("speakingPeers").await;
        let expected = json!({ "peerId": expected });
        assert_eq!(new.notified("activeSpeaker").await, expected);
        let loudest = json!({ "peerId": "old", "volume": -20 });
        assert_eq!(old.notified("activeSpeaker").await, loudest);
    }
    server
        .worker_says(Event::ActiveSpeaker(ActiveSpeaker::default()))
        .await;
    assert_eq!(
        new.notified("speakingPeers").await,
        json!({ "peerVolumes": [] })
    );
    assert_eq!(new.notified("activeSpeaker").await, json!({}));
    assert_eq!(
        old.notified("activeSpeaker").await,
        json!({ "peerId": null })
    );
    old.not_told("speakingPeers").await;
}

#[tokio::test]
async fn data_channels() {
    let server = TestServer::start().await;
    let (mut old, old_send, _) = caller(&server, "old").await;
    let (mut new, send, recv) = newest_caller(&server).await;
    let of_old = old.produce_data(&old_send, "chat", 3).await;
    let offer = new.take_data_consumer().await;
    let mut expected = json!({
        "peerId": "old",
        "transportId": recv,
        "dataConsumerId": offer["dataConsumerId"],
        "dataProducerId": of_old,
        "sctpStreamParameters": offer["sctpStreamParameters"],
        "label": "chat",
        "protocol": "text",
        "appData": { "peerId": "old", "info": "chat", "channel": "chat" },
    });
    assert_eq!(offer, expected);
    assert_eq!(
        names(&offer["sctpStreamParameters"]),
        ["maxRetransmits", "ordered", "streamId"]
    );

    // In this dialect a channel is what appData says.
    for (stream, channel) in [(0, "chat"), (1, "bot")] {
        let data = json!({
            "transportId": send,
            "sctpStreamParameters": { "streamId": stream, "ordered": true },
            "label": format!("my {channel}"),
            "protocol": "low",
            "appData": { "channel": channel },
        });
        let produced = new.ok("produceData", data).await;
        assert_eq!(names(&produced), ["dataProducerId"]);
    }
    let seen = old.take_data_consumer().await;
    assert_eq!(
        (&seen["peerId"], &seen["label"]),
        (&json!("new"), &json!("chat"))
    );
    assert_eq!(seen["transportId"], Value::Null);
    // The bot's: nobody's.
    let of_bot = new.take_bot().await;
    expected.as_object_mut().unwrap().remove("peerId");
    for field in [
        "dataConsumerId",
        "dataProducerId",
        "sctpStreamParameters",
        "protocol",
    ] {
        expected[field] = of_bot[field].clone();
    }
    expected["label"] = "bot".into();
    expected["appData"] = json!({ "channel": "bot" });
    assert_eq!(of_bot, expected);
    let seen = old.take_bot().await;
    assert_eq!(seen["peerId"], Value::Null);
    assert!(seen.as_object().unwrap().contains_key("peerId"), "{seen}");
    assert_eq!(seen["appData"], json!({}));

    drop(old);
    let told = new.notified("dataConsumerClosed").await;
    assert_eq!(told, json!({ "dataConsumerId": offer["dataConsumerId"] }));
}

#[tokio::test]
async fn every_result_is_wrapped() {
    let server = TestServer::start().await;
    let (mut new, send, _) = newest_caller(&server).await;
    let data = json!({ "forceTcp": false, "appData": { "direction": "consumer" } });
    let made = new.ok("createWebRtcTransport", data).await;
    let expected = [
        "dtlsParameters",
        "iceCandidates",
        "iceParameters",
        "iceServer",
        "iceServers",
        "sctpParameters",
        "transportId",
    ];
    assert_eq!(names(&made), expected);
    let mut produce = produce_data("audio");
    produce["transportId"] = send.clone().into();
    let producer = new.ok("produce", produce).await;
    let data = json!({ "transportId": send, "sctpStreamParameters": { "streamId": 0 },
        "label": "chat", "protocol": "", "appData": { "channel": "chat" } });
    let data_producer = new.ok("produceData", data).await;
    let of_transport = json!({ "transportId": send });
    for (method, data, wrapper) in [
        (
            "getRouterRtpCapabilities",
            json!({}),
            "routerRtpCapabilities",
        ),
        ("restartIce", of_transport.clone(), "iceParameters"),
        ("getTransportStats", of_transport, "stats"),
        ("getProducerStats", producer, "stats"),
        ("getDataProducerStats", data_producer, "stats"),
    ] {
        let answer = new.ok(method, data).await;
        assert_eq!(names(&answer), [wrapper], "{method}");
        assert_eq!(answer["stats"].is_array(), wrapper == "stats", "{method}");
    }
    // A direction that is none is nobody's.
    let other = transport(&mut new, "sideways").await;
    assert!(!other.is_empty());
}
