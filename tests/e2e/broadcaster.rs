//! Broadcasters with media and messages of their own, and with those of peers,
//! over the HTTP API of a real server.

use std::net::UdpSocket;

use serde_json::{Value, json};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::call::flows;
use crate::client::{Client, Media, rtp_parameters};
use crate::https::{get, request};
use crate::server::{DEADLINE, Options, Server, wait_until};

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let url = server.url(&format!("/rooms/room/broadcasters{path}"));
    let (status, answer) = request("POST", &url, &[], &body.to_string());
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_receives_what_a_broadcaster_sends() {
    let server = Server::start();
    let mut alice = Client::join(server.address(), "room", "alice").await;
    let body = json!({"id": "film", "displayName": "A film", "device": {"name": "str0m"}});
    assert_eq!(post(&server, "", &body), json!({"peers": []}));
    let transport = post(&server, "/film/transports", &json!({"type": "webrtc"}));
    let path = format!("/film/transports/{}", transport["id"].as_str().unwrap());
    let media = Media::start(&PeerConfig::sending());
    let body = json!({"dtlsParameters": media.dtls_parameters()});
    post(&server, &format!("{path}/connect"), &body);
    media.connect(&transport);
    let mut sending = Vec::new();
    for (kind, name, ssrc) in [
        (MediaKind::Audio, "audio", 1111),
        (MediaKind::Video, "video", 2222),
    ] {
        media.send_stream(kind, ssrc);
        let body = json!({"kind": name, "rtpParameters": rtp_parameters(kind, ssrc)});
        let producer = post(&server, &format!("{path}/producers"), &body);
        sending.push(media.start_sending(kind, ssrc));
        let consumer = alice.accept_consumer().await;
        assert_eq!(producer["id"], *consumer.producer_id);
        assert_eq!(
            (consumer.peer_id.as_str(), consumer.kind.as_str()),
            ("film", name)
        );
        flows(&alice, &consumer, 30).await;
    }
    let url = server.url("/rooms/room/broadcasters/film");
    assert_eq!(request("DELETE", &url, &[], "").0, 200);
    let gone = alice.protoo.notification("peerClosed").await;
    assert_eq!(gone, json!({"peerId": "film"}));
}

/// What a broadcaster asks for, and gets from a peer.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcaster_receives_what_a_peer_sends() {
    let server = Server::start();
    let mut alice = Client::join(server.address(), "room", "alice").await;
    alice.send.enable_data();
    let streams = [(MediaKind::Audio, 1000), (MediaKind::Video, 2000)];
    let mut sending = Vec::new();
    let mut producers = Vec::new();
    for (kind, ssrc) in streams {
        producers.push(alice.produce(kind, ssrc).await);
        sending.push(alice.start_sending(kind, ssrc));
    }
    let chat = alice.produce_data("chat", 0).await;

    let (_, capabilities) = get(&server.url("/rooms/room"));
    let body = json!({"id": "recorder", "displayName": "A recorder", "device": {"name": "str0m"},
        "rtpCapabilities": capabilities});
    let peers = post(&server, "", &body);
    let expected =
        json!([{"id": producers[0], "kind": "audio"}, {"id": producers[1], "kind": "video"}]);
    assert_eq!(peers["peers"][0]["producers"], expected);
    let transport = post(&server, "/recorder/transports", &json!({"type": "webrtc"}));
    let path = format!("/recorder/transports/{}", transport["id"].as_str().unwrap());
    let media = Media::start(&PeerConfig::receiving());
    media.enable_data();
    let mut ssrcs = Vec::new();
    for ((kind, _), producer) in streams.iter().zip(&producers) {
        let consume = format!("{path}/consume?producerId={producer}");
        let consumer = post(&server, &consume, &json!({}));
        assert_eq!(
            (&consumer["producerId"], &consumer["type"]),
            (&json!(producer), &json!("simple"))
        );
        ssrcs.push(media.expect(*kind, &consumer["rtpParameters"]));
    }
    let body = json!({"dataProducerId": chat});
    let consumer = post(&server, &format!("{path}/consume/data"), &body);
    let stream = u16::try_from(consumer["streamId"].as_u64().unwrap()).unwrap();
    media.open_channel(stream);
    let body = json!({"dtlsParameters": media.dtls_parameters()});
    post(&server, &format!("{path}/connect"), &body);
    media.connect(&transport);
    // They flow without being resumed: 20 packets of each.
    for ssrc in ssrcs {
        wait_until("media", || media.packets(ssrc).len() >= 20);
    }
    // What is said before the channel to the receiver is up, nobody hears.
    wait_until("a message to the broadcaster", || {
        alice.send.say(0, "to be recorded");
        media.has_heard(stream, "to be recorded")
    });
}

/// A recorder that is gone: that is noticed, and it finds its media when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_is_gone_is_noticed() {
    let mut server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let mut alice = Client::join(server.address(), "room", "alice").await;
    let producer = alice.produce(MediaKind::Audio, 1000).await;
    let _sending = alice.start_sending(MediaKind::Audio, 1000);
    let (_, capabilities) = get(&server.url("/rooms/room"));
    let body = json!({"id": "recorder", "displayName": "", "device": {"name": "test"},
        "rtpCapabilities": capabilities});
    post(&server, "", &body);
    let body = json!({"type": "plain", "comedia": false, "rtcpMux": true});
    let made = post(&server, "/recorder/transports", &body);
    let path = format!("/recorder/transports/{}", made["id"].as_str().unwrap());
    let recorder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let here = recorder.local_addr().unwrap();
    let body = json!({"ip": "127.0.0.1", "port": here.port()});
    post(&server, &format!("{path}/connect"), &body);
    let consume = format!("{path}/consume?producerId={producer}");
    post(&server, &consume, &json!({}));
    let hears = |recorder: &UdpSocket| {
        recorder.set_read_timeout(Some(DEADLINE)).unwrap();
        recorder.recv_from(&mut [0; 2000]).unwrap();
    };
    let counted = |server: &Server| {
        let config = get(&server.url("/config")).1;
        config["workers"][0]["stats"]["plainUnreachable"]
            .as_u64()
            .unwrap()
    };
    hears(&recorder);
    assert_eq!(counted(&server), 0);
    drop(recorder);
    wait_until("nobody is there", || counted(&server) > 2);
    let line = server.wait_for_line("nobody is there to receive plain RTP");
    assert!(line.contains(made["id"].as_str().unwrap()), "{line}");
    assert!(line.contains(&here.to_string()), "{line}");
    hears(&UdpSocket::bind(here).unwrap());
}

/// What a broadcaster says reaches the peers, and the bot.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcaster_and_peers_exchange_messages() {
    let server = Server::start();
    let mut alice = Client::join(server.address(), "room", "alice").await;
    alice.receive.enable_data();
    let bot = alice.accept_data_consumer(None).await;
    let body = json!({"id": "ticker", "displayName": "A ticker", "device": {"name": "str0m"}});
    post(&server, "", &body);
    let transport = post(&server, "/ticker/transports", &json!({"type": "webrtc"}));
    let path = format!("/ticker/transports/{}", transport["id"].as_str().unwrap());
    let media = Media::start(&PeerConfig::sending());
    media.enable_data();
    let body = json!({"dtlsParameters": media.dtls_parameters()});
    post(&server, &format!("{path}/connect"), &body);
    media.connect(&transport);
    for (stream, label) in [(1, "chat"), (2, "bot")] {
        let body = json!({"label": label,
            "sctpStreamParameters": {"streamId": stream, "ordered": true}});
        post(&server, &format!("{path}/produce/data"), &body);
        media.open_channel(stream);
    }
    let chat = alice.accept_data_consumer(Some("ticker")).await;
    alice.connect_receiving().await;
    wait_until("a message of the broadcaster", || {
        media.say(1, "news");
        alice.receive.has_heard(chat, "news")
    });
    // The longest message that the bot repeats whole.
    let text = "x".repeat(262_144 - "A ticker said me: \"\"".len());
    let answer = format!("A ticker said me: \"{text}\"");
    wait_until("an open channel to the bot", || media.say(2, &text));
    wait_until("the bot", || alice.receive.has_heard(bot, &answer));
}
