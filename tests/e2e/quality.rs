//! What clients ask and are told of quality, over the real way: protoo, the
//! control plane, gRPC and a worker with media in it.

use std::time::Duration;

use serde_json::{Value, json};
use test_peer::str0m::media::MediaKind;

use crate::client::Client;
use crate::https;
use crate::server::{DEADLINE, Options};

/// Asks until the answer satisfies a condition.
async fn ask(
    client: &mut Client,
    method: &str,
    data: Value,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let answer = client.protoo.request(method, data.clone()).await.unwrap();
        if holds(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < end, "{method}: {answer:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a notification whose data satisfies a condition.
async fn told(client: &mut Client, method: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let data = client.protoo.notification(method).await;
        if holds(&data) {
            return data;
        }
        assert!(tokio::time::Instant::now() < end, "{method}: {data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_and_quality_are_true_over_the_whole_way() {
    let server = Options::new().env("NETWORK_THROTTLE_SECRET", "s").start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    let mic = a.produce(MediaKind::Audio, 1000).await;
    let cam = a.produce(MediaKind::Video, 2000).await;
    let audio = a.start_sending(MediaKind::Audio, 1000);
    let _video = a.start_sending(MediaKind::Video, 2000);
    let mut b = Client::join(server.address(), "room", "bob").await;
    let mut consumers = Vec::new();
    for _ in 0..2 {
        consumers.push(b.accept_consumer().await);
    }
    let video = consumers
        .iter()
        .find(|c| c.kind == "video")
        .unwrap()
        .clone();

    let many = |stats: &Value, field: &str| stats[field].as_u64().is_some_and(|n| n > 50);
    let transport = json!({"transportId": a.send_transport["id"]});
    let stats = ask(&mut a, "getTransportStats", transport, |s| {
        many(&s[0], "rtpBytesReceived") && many(&s[0], "rtpRecvBitrate")
    })
    .await;
    assert_eq!(stats[0]["type"], "webrtc-transport");
    assert_eq!(stats[0]["iceState"], "completed");
    assert_eq!(stats[0]["dtlsState"], "connected");
    assert_eq!(stats[0]["iceSelectedTuple"]["localAddress"], "127.0.0.1");
    assert!(stats[0]["bytesReceived"].as_u64() >= stats[0]["rtpBytesReceived"].as_u64());

    for (id, mime, ssrc) in [(&mic, "audio/opus", 1000), (&cam, "video/VP8", 2000)] {
        let data = json!({"producerId": id});
        let stats = ask(&mut a, "getProducerStats", data, |s| {
            many(&s[0], "packetCount")
        })
        .await;
        assert_eq!(stats[0]["type"], "inbound-rtp");
        assert_eq!(stats[0]["mimeType"], mime);
        assert_eq!(stats[0]["ssrc"], ssrc);
    }
    let data = json!({"consumerId": video.id});
    let stats = ask(&mut b, "getConsumerStats", data.clone(), |s| {
        many(&s[0], "packetCount") && many(&s[1], "packetCount")
    })
    .await;
    assert_eq!(stats[0]["type"], "outbound-rtp");
    assert_eq!(stats[0]["ssrc"], video.ssrc);
    assert_eq!(stats[1]["type"], "inbound-rtp");
    assert_eq!(stats[1]["ssrc"], 2000);

    for (method, more) in [
        (
            "setConsumerPreferredLayers",
            json!({"spatialLayer": 1, "temporalLayer": 1}),
        ),
        ("setConsumerPriority", json!({"priority": 200})),
    ] {
        let mut data = data.clone();
        data.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        b.protoo.request(method, data).await.unwrap();
    }

    let url = server.url("/admin/rooms/room/consumers");
    let explained = tokio::task::spawn_blocking(move || https::get(&url)).await;
    let (status, explained) = explained.unwrap();
    assert_eq!(status, 200);
    let [one] = explained["consumers"].as_array().unwrap().as_slice() else {
        panic!("one video is received: {explained}");
    };
    assert_eq!(one["id"], video.id);
    assert_eq!(
        (&one["peerId"], &one["producerPeerId"]),
        (&json!("bob"), &json!("alice"))
    );
    assert_eq!(
        (&one["producerId"], &one["priority"]),
        (&json!(cam), &json!(200))
    );
    assert_eq!(one["currentLayers"]["spatialLayer"], 0);
    let reason = one["reason"].as_str().unwrap();
    assert!(reason.contains("sending 0/0: "), "{reason}");

    let produce = json!({"transportId": a.send_transport["id"], "label": "chat",
        "sctpStreamParameters": {"streamId": 0, "ordered": true}});
    let produced = a.protoo.request("produceData", produce).await.unwrap();
    let data = json!({"dataProducerId": produced["id"]});
    let stats = ask(&mut a, "getDataProducerStats", data, |_| true).await;
    assert_eq!(stats[0]["type"], "data-producer");
    assert_eq!(stats[0]["label"], "chat");
    let offer = loop {
        let offer = b.protoo.wait_for("newDataConsumer").await;
        if offer["data"]["peerId"] == "alice" {
            break offer;
        }
    };
    let data = json!({"dataConsumerId": offer["data"]["id"]});
    let stats = ask(&mut b, "getDataConsumerStats", data, |_| true).await;
    assert_eq!(stats[0]["type"], "data-consumer");

    let best = |data: &Value| data["score"][0]["score"] == 10;
    let score = told(&mut a, "producerScore", best).await;
    assert_eq!(score["score"][0]["encodingIdx"], 0);
    told(&mut b, "downlinkBwe", |data| many(data, "desiredBitrate")).await;
    for client in [&mut a, &mut b] {
        let speaks = told(client, "activeSpeaker", |data| data["peerId"] == "alice").await;
        assert_eq!(speaks["volume"], -30);
    }

    // A network on which nothing gets through, and then a good one again.
    let refused = b
        .protoo
        .request("applyNetworkThrottle", json!({"secret": "x"}))
        .await;
    assert_eq!(refused.unwrap_err().0, 403);
    let lossy = json!({"secret": "s", "packetLoss": 100});
    b.protoo
        .request("applyNetworkThrottle", lossy)
        .await
        .unwrap();
    let received = |b: &Client| b.receive.packets(video.ssrc).len();
    // What was under way on this machine has arrived when the next answer has,
    // and a frame is sent each 40 ms.
    let mut before = received(&b);
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = received(&b);
        if now == before {
            break;
        }
        before = now;
        assert!(tokio::time::Instant::now() < end, "packets go on");
    }
    b.protoo
        .request("resetNetworkThrottle", json!({"secret": "s"}))
        .await
        .unwrap();
    let end = tokio::time::Instant::now() + DEADLINE;
    while received(&b) < before + 30 {
        assert!(tokio::time::Instant::now() < end, "no packets come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    drop(audio);
    told(&mut b, "activeSpeaker", |data| data["peerId"].is_null()).await;
}
