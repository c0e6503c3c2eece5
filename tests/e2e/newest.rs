//! The newest dialect with real media over a real worker: in one room with a peer
//! of the seed's dialect, and over its HTTP API.

use std::time::Duration;

use serde_json::{Value, json};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::call::flows;
use crate::client::{Client, Media, rtp_parameters};
use crate::https::request;
use crate::server::{DEADLINE, Server};

const KINDS: [(MediaKind, &str); 2] = [(MediaKind::Audio, "audio"), (MediaKind::Video, "video")];

async fn act(client: &mut Client, method: &str, data: Value) {
    let action = json!({"notification": true, "method": method, "data": data});
    client.protoo.send_text(&action.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_meet_in_one_call() {
    let server = Server::start();
    let mut old = Client::join(server.address(), "room", "old").await;
    old.produce(MediaKind::Audio, 1000).await;
    old.produce(MediaKind::Video, 2000).await;
    let mut new = Client::join_newest(server.address(), "room", "new").await;
    assert_eq!(new.peers[0]["peerId"], "old");
    assert_eq!(new.peers[0]["remoteAddress"], "127.0.0.1");
    let mic = new.produce(MediaKind::Audio, 3000).await;
    let cam = new.produce(MediaKind::Video, 4000).await;
    let _sending = [
        old.start_sending(MediaKind::Audio, 1000),
        old.start_sending(MediaKind::Video, 2000),
        new.start_sending(MediaKind::Audio, 3000),
        new.start_sending(MediaKind::Video, 4000),
    ];
    let mut received = Vec::new();
    for _ in KINDS {
        let consumer = new.accept_consumer().await;
        assert_eq!(consumer.peer_id, "old");
        flows(&new, &consumer, 50).await;
        received.push(consumer);
        let consumer = old.accept_consumer().await;
        assert_eq!(consumer.peer_id, "new");
        assert!([&mic, &cam].contains(&&consumer.producer_id));
        flows(&old, &consumer, 50).await;
    }

    // Both speak, and the newest dialect is told of both.
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let told = new.protoo.notification("speakingPeers").await;
        let volumes = told["peerVolumes"].as_array().unwrap();
        let mut peers: Vec<_> = volumes
            .iter()
            .filter_map(|it| it["peerId"].as_str())
            .collect();
        peers.sort_unstable();
        if peers == ["new", "old"] {
            assert!(volumes.iter().all(|it| it["volume"] == -30), "{told}");
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{told}");
    }
    let told = new.protoo.notification("activeSpeaker").await;
    assert!(
        ["new", "old"].map(Value::from).contains(&told["peerId"]),
        "{told}"
    );

    let video = received.iter().find(|it| it.kind == "video").unwrap();
    let of_video = json!({"consumerId": video.id});
    let answer = new
        .protoo
        .request("getConsumerStats", of_video.clone())
        .await;
    assert_eq!(answer.unwrap()["stats"][0]["ssrc"], video.ssrc);
    act(&mut new, "pauseConsumer", of_video.clone()).await;
    // What was under way has arrived once nothing more comes: a frame is sent each
    // 40 ms.
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut before = new.receive.packets(video.ssrc).len();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = new.receive.packets(video.ssrc).len();
        if now == before {
            break;
        }
        before = now;
        assert!(tokio::time::Instant::now() < end, "it is not paused");
    }
    act(&mut new, "resumeConsumer", of_video).await;
    flows(&new, video, before + 30).await;
    act(&mut new, "closeProducer", json!({"producerId": cam})).await;
    old.protoo.notification("consumerClosed").await;

    // Its media ends, so it does too; protoo-client would come back.
    new.receive.with(|peer| peer.close());
    let gone = old.protoo.notification("peerClosed").await;
    assert_eq!(gone, json!({"peerId": "new"}));
    let Client { protoo, .. } = new;
    assert_eq!(protoo.closed().await, Some(1001));
    let again = Client::join_newest(server.address(), "room", "new").await;
    assert_eq!(again.peers[0]["peerId"], "old");
}

fn post(server: &Server, path: &str, body: &Value, expected: u16) -> Value {
    let url = server.url(&format!("/v2/rooms/room/broadcasters{path}"));
    let (status, answer) = request("POST", &url, &[], &body.to_string());
    assert_eq!(status, expected, "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcaster_of_the_newest_api_sends_and_receives() {
    let server = Server::start();
    let mut alice = Client::join(server.address(), "room", "alice").await;
    let theirs = alice.produce(MediaKind::Audio, 1000).await;
    let _sending = alice.start_sending(MediaKind::Audio, 1000);
    let body = json!({"peerId": "film", "displayName": "A film", "device": {"name": "str0m"}});
    post(&server, "", &body, 201);
    post(&server, "/film/join", &json!({}), 200);

    let media = Media::start(&PeerConfig::sending());
    let sends = json!({"direction": "producer", "type": "webrtc"});
    let transport = post(&server, "/film/transports", &sends, 201);
    let id = transport["transportId"].as_str().unwrap();
    let body = json!({"dtlsParameters": media.dtls_parameters()});
    post(
        &server,
        &format!("/film/transports/{id}/connect"),
        &body,
        200,
    );
    media.connect(&transport);
    let mut sending = Vec::new();
    for (kind, name) in KINDS {
        let ssrc = if kind.is_audio() { 1111 } else { 2222 };
        media.send_stream(kind, ssrc);
        let body = json!({"transportId": id, "kind": name,
            "rtpParameters": rtp_parameters(kind, ssrc), "appData": {"source": name}});
        let producer = post(&server, "/film/producers", &body, 201);
        sending.push(media.start_sending(kind, ssrc));
        let consumer = alice.accept_consumer().await;
        assert_eq!(producer["producerId"], *consumer.producer_id);
        flows(&alice, &consumer, 30).await;
    }

    let receiver = Media::start(&PeerConfig::receiving());
    let receives = json!({"appData": {"direction": "consumer"}, "type": "webrtc"});
    let transport = post(&server, "/film/transports", &receives, 201);
    let id = transport["transportId"].as_str().unwrap();
    let url = server.url("/v2/rooms/room");
    let (_, router) = request("GET", &url, &[], "");
    let body = json!({"transportId": id, "producerId": theirs, "paused": true,
        "rtpCapabilities": router["routerRtpCapabilities"]});
    let consumer = post(&server, "/film/consumers", &body, 201);
    let parameters = &consumer["rtpParameters"];
    let ssrc = parameters["encodings"][0]["ssrc"].as_u64().unwrap();
    let mid = parameters["mid"].as_str().unwrap().to_owned();
    receiver.with(move |peer| {
        let ssrc = u32::try_from(ssrc).unwrap();
        peer.expect_stream(&mid, MediaKind::Audio, ssrc, None);
    });
    let body = json!({"dtlsParameters": receiver.dtls_parameters()});
    post(
        &server,
        &format!("/film/transports/{id}/connect"),
        &body,
        200,
    );
    receiver.connect(&transport);
    let end = tokio::time::Instant::now() + DEADLINE;
    while !receiver.state().connected {
        assert!(tokio::time::Instant::now() < end, "not connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(receiver.packets(ssrc).is_empty(), "it is paused");
    let consumer = consumer["consumerId"].as_str().unwrap();
    post(
        &server,
        &format!("/film/consumers/{consumer}/resume"),
        &json!({}),
        200,
    );
    let end = tokio::time::Instant::now() + DEADLINE;
    while receiver.packets(ssrc).len() < 30 {
        assert!(tokio::time::Instant::now() < end, "nothing flows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let url = server.url("/v2/rooms/room/broadcasters/film");
    assert_eq!(request("DELETE", &url, &[], "").0, 204);
    let gone = alice.protoo.notification("peerClosed").await;
    assert_eq!(gone, json!({"peerId": "film"}));
}
