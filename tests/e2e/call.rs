//! Calls over the raw protocol: protoo over WSS, media over UDP.

use std::time::Duration;

use serde_json::{Value, json};
use test_peer::str0m::format::Codec;
use test_peer::str0m::media::MediaKind;
use test_peer::{Packet, PeerCodec, PeerConfig};

use crate::client::{Client, Consumer, Media};
use crate::protoo::Protoo;
use crate::server::{DEADLINE, Options, Server};

/// Waits for a condition without blocking the sockets.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// More than `n` packets of a consumer have arrived.
pub async fn flows(client: &Client, consumer: &Consumer, n: usize) {
    let what = format!("{n} packets of {} {}", consumer.kind, consumer.id);
    until(&what, || client.receive.packets(consumer.ssrc).len() > n).await;
}

/// Telephone sound and AV1, where the operator chose them.
#[tokio::test(flavor = "multi_thread")]
async fn other_codecs_are_routed_where_they_are_chosen() {
    let server = Options::new().env("ROUTER_CODECS", "av1,pcmu").start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    let mut b = Client::join(server.address(), "room", "bob").await;
    let codecs = |pcmu, av1| {
        let codec = |codec, pt| PeerCodec {
            codec,
            pt,
            rtx: None,
        };
        vec![codec(Codec::PCMU, pcmu), codec(Codec::Av1, av1)]
    };
    let config = |pcmu, av1| PeerConfig {
        codecs: codecs(pcmu, av1),
        extensions: Vec::new(),
        ..PeerConfig::sending()
    };
    // What the client has, and what the router has.
    a.send = Media::start(&config(0, 45));
    b.receive = Media::start(&config(0, 100));
    for (kind, mime_type, clock_rate, pt, router_pt, ssrc) in [
        (MediaKind::Audio, "audio/PCMU", 8000, 0, 0, 1000),
        (MediaKind::Video, "video/AV1", 90_000, 45, 100, 2000),
    ] {
        let parameters = json!({
            "mid": if kind.is_audio() { "0" } else { "1" },
            "codecs": [{"mimeType": mime_type, "payloadType": pt, "clockRate": clock_rate,
                "parameters": {}, "rtcpFeedback": []}],
            "headerExtensions": [], "encodings": [{"ssrc": ssrc}], "rtcp": {"cname": "c"},
        });
        a.produce_as(kind, ssrc, &parameters).await;
        let consumer = b.accept_consumer().await;
        let codec = &consumer.rtp_parameters["codecs"][0];
        assert_eq!(
            (&codec["mimeType"], &codec["payloadType"]),
            (&json!(mime_type), &json!(router_pt))
        );
        until("a connected transport", || a.send.state().connected).await;
        let received = || b.receive.packets(consumer.ssrc);
        let mut sequence = 0_u64;
        until(mime_type, || {
            let packet = Packet {
                pt,
                sequence,
                timestamp: u32::try_from(sequence).unwrap() * clock_rate / 100,
                marker: true,
                // The N bit of AV1's aggregation header: a keyframe.
                payload: vec![0x18; 100],
                ..Packet::default()
            };
            sequence += 1;
            let now = std::time::Instant::now();
            a.send.with(move |peer| peer.write(ssrc, &packet, now));
            received().len() > 10
        })
        .await;
        let first = received().remove(0);
        assert_eq!(
            (*first.header.payload_type, first.payload.len()),
            (router_pt, 100)
        );
    }
}

/// A field of all candidates, in their order.
fn offered(created: &Value, field: &str) -> Vec<Value> {
    let candidates = created["iceCandidates"].as_array().unwrap().iter();
    candidates.map(|it| it[field].clone()).collect()
}

/// Defect g: the original makes a socket for each transport, and enables UDP for
/// those who want none.
#[tokio::test(flavor = "multi_thread")]
async fn transports_share_a_port_and_never_offer_udp_for_tcp() {
    let server = Server::start();
    let mut ports = Vec::new();
    let mut peers = Vec::new();
    for peer in ["alice", "bob"] {
        let query = format!("roomId=room&peerId={peer}");
        let mut protoo = Protoo::connect(server.address(), &query).await.unwrap();
        for producing in [true, false] {
            let data = json!({"forceTcp": false, "producing": producing, "consuming": !producing});
            let created = protoo.request("createWebRtcTransport", data).await.unwrap();
            assert_eq!(offered(&created, "protocol"), ["udp", "tcp"]);
            ports.extend(offered(&created, "port"));
        }
        let data = json!({"forceTcp": true, "producing": true, "consuming": false});
        let created = protoo.request("createWebRtcTransport", data).await.unwrap();
        assert_eq!(offered(&created, "protocol"), ["tcp"]);
        assert_eq!(offered(&created, "tcpType"), ["passive"]);
        ports.extend(offered(&created, "port"));
        peers.push(protoo);
    }
    ports.dedup();
    assert_eq!(ports.len(), 1, "{ports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_peers_see_and_hear_each_other() {
    let server = Server::start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    assert_eq!(a.peers, json!([]));
    let mut b = Client::join(server.address(), "room", "bob").await;
    assert_eq!(b.peers[0]["id"], "alice");
    let peer = a.protoo.notification("newPeer").await;
    assert_eq!(peer["id"], "bob");
    assert_eq!(peer["displayName"], "name of bob");

    a.produce(MediaKind::Audio, 1000).await;
    a.produce(MediaKind::Video, 2000).await;
    b.produce(MediaKind::Audio, 3000).await;
    b.produce(MediaKind::Video, 4000).await;
    let sending = [
        a.start_sending(MediaKind::Audio, 1000),
        a.start_sending(MediaKind::Video, 2000),
        b.start_sending(MediaKind::Audio, 3000),
        b.start_sending(MediaKind::Video, 4000),
    ];
    for (client, other) in [(&mut b, "alice"), (&mut a, "bob")] {
        for _ in 0..2 {
            let consumer = client.accept_consumer().await;
            assert_eq!(consumer.peer_id, other);
            assert_eq!(consumer.rtp_parameters["rtcp"]["cname"], "test");
            flows(client, &consumer, 60).await;
            // Those of the other consumer may change meanwhile.
            while client.protoo.notification("consumerScore").await["consumerId"] != *consumer.id {}
            let packets = client.receive.packets(consumer.ssrc);
            let mut sequences: Vec<u64> = packets.iter().map(|p| p.sequence).collect();
            sequences.sort_unstable();
            let span = sequences.last().unwrap() - sequences[0] + 1;
            assert_eq!(
                span,
                sequences.len() as u64,
                "numbers are contiguous on loopback"
            );
            let pt = if consumer.kind == "audio" { 100 } else { 101 };
            assert!(packets.iter().all(|p| *p.header.payload_type == pt));
        }
    }
    drop(sending);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_peer_gets_what_is_there_and_everyone_hears_it_leave() {
    let server = Server::start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    a.produce(MediaKind::Video, 2000).await;
    let _sending = a.start_sending(MediaKind::Video, 2000);
    let mut b = Client::join(server.address(), "room", "bob").await;
    let first = b.accept_consumer().await;
    flows(&b, &first, 30).await;

    let mut c = Client::join(server.address(), "room", "carol").await;
    assert_eq!(c.peers.as_array().unwrap().len(), 2);
    let consumer = c.accept_consumer().await;
    flows(&c, &consumer, 30).await;
    let first_payload = &c.receive.packets(consumer.ssrc)[0].payload;
    assert_eq!(&first_payload[..2], [0x10, 0x00], "a keyframe");
    let producer = c.produce(MediaKind::Audio, 5000).await;
    for other in [&mut a, &mut b] {
        let consumer = other.accept_consumer().await;
        assert_eq!(consumer.producer_id, producer);
    }

    c.protoo.request("leaveRoom", json!({})).await.unwrap();
    for other in [&mut a, &mut b] {
        let left = other.protoo.notification("peerLeft").await;
        assert_eq!(left, json!({"peerId": "carol"}));
        other.protoo.notification("consumerClosed").await;
    }
    b.protoo.close().await;
    let closed = a.protoo.notification("peerClosed").await;
    assert_eq!(closed, json!({"peerId": "bob"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_on_both_sides() {
    let server = Server::start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    let producer = a.produce(MediaKind::Video, 2000).await;
    let _sending = a.start_sending(MediaKind::Video, 2000);
    let mut b = Client::join(server.address(), "room", "bob").await;
    let consumer = b.accept_consumer().await;
    flows(&b, &consumer, 30).await;

    let consumer_id = json!({"consumerId": consumer.id});
    let producer_id = json!({"producerId": producer});
    for (pause, resume, from_a) in [
        ("pauseConsumer", "resumeConsumer", false),
        ("pauseProducer", "resumeProducer", true),
    ] {
        let (who, data) = if from_a {
            (&mut a, &producer_id)
        } else {
            (&mut b, &consumer_id)
        };
        who.protoo.request(pause, data.clone()).await.unwrap();
        if from_a {
            let paused = b.protoo.notification("consumerPaused").await;
            assert_eq!(paused, consumer_id);
        }
        // Quiet: what was under way has arrived, and no more comes.
        let mut seen = 0;
        let mut quiet = 0;
        while quiet < 10 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let now = b.receive.packets(consumer.ssrc).len();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
            assert!(seen < 600, "never quiet");
        }
        let (who, data) = if from_a {
            (&mut a, &producer_id)
        } else {
            (&mut b, &consumer_id)
        };
        who.protoo.request(resume, data.clone()).await.unwrap();
        if from_a {
            let resumed = b.protoo.notification("consumerResumed").await;
            assert_eq!(resumed, consumer_id);
        }
        flows(&b, &consumer, seen + 30).await;
        let packets = b.receive.packets(consumer.ssrc);
        assert_eq!(&packets[seen].payload[..2], [0x10, 0x00], "a keyframe");
        let skipped = packets[seen].sequence - packets[seen - 1].sequence - 1;
        assert!(skipped <= 1, "{skipped} numbers left out");
    }

    let before = a.send.state().key_frame_requests;
    b.protoo
        .request("requestConsumerKeyFrame", consumer_id.clone())
        .await
        .unwrap();
    until("a keyframe request", || {
        a.send.state().key_frame_requests > before
    })
    .await;
    a.protoo
        .request("closeProducer", producer_id)
        .await
        .unwrap();
    let closed = b.protoo.notification("consumerClosed").await;
    assert_eq!(closed, consumer_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_peer_again_replaces_itself() {
    let server = Server::start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    let old = Client::join(server.address(), "room", "bob").await;
    a.protoo.notification("newPeer").await;
    let new = Client::join(server.address(), "room", "bob").await;
    assert_eq!(old.protoo.closed().await, Some(4000));
    a.protoo.notification("peerClosed").await;
    assert_eq!(a.protoo.notification("newPeer").await["id"], "bob");
    assert_eq!(new.peers[0]["id"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_answered_and_the_peer_lives_on() {
    let server = Server::start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    let transport = a.send_transport["id"].clone();
    let fingerprint = |algorithm: &str, value: &str| {
        json!({"transportId": transport, "dtlsParameters": {"role": "client",
            "fingerprints": [{"algorithm": algorithm, "value": value}]}})
    };
    let codec = json!({"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000,
        "channels": 2, "parameters": {}, "rtcpFeedback": []});
    let produce = |parameters: serde_json::Value| {
        json!({"transportId": transport, "kind": "audio",
            "rtpParameters": parameters, "appData": {}})
    };
    let encodings: Vec<_> = (1..=200).map(|i| json!({"ssrc": i})).collect();
    let table = [
        ("nonsense", json!({}), "nonsense"),
        ("join", json!({}), "already joined"),
        ("pauseProducer", json!({"producerId": "x"}), "\"x\""),
        ("resumeConsumer", json!({"consumerId": "x"}), "\"x\""),
        ("pauseConsumer", json!({}), "consumerId"),
        (
            "connectWebRtcTransport",
            json!({"transportId": "x"}),
            "\"x\"",
        ),
        (
            "connectWebRtcTransport",
            json!({"transportId": transport}),
            "dtlsParameters",
        ),
        (
            "connectWebRtcTransport",
            json!({"transportId": transport, "dtlsParameters": {"role": "client", "fingerprints": []}}),
            "fingerprints",
        ),
        (
            "connectWebRtcTransport",
            fingerprint("md5", "AA"),
            "algorithm",
        ),
        (
            "connectWebRtcTransport",
            fingerprint("sha-256", "AA:BB"),
            "value",
        ),
        ("createWebRtcTransport", json!({"forceTcp": 1}), "forceTcp"),
        ("produce", produce(json!({})), "codecs"),
        (
            "produce",
            produce(json!({"codecs": [], "encodings": [{"ssrc": 5}]})),
            "codecs",
        ),
        (
            "produce",
            produce(json!({"codecs": [codec], "encodings": encodings})),
            "encodings",
        ),
        (
            "produce",
            produce(json!({"codecs": [codec], "encodings": [{"ssrc": -5}]})),
            "ssrc",
        ),
        (
            "produce",
            produce(json!({"codecs": [codec], "encodings": [{"ssrc": 5}],
                "headerExtensions": [{"uri": "urn:x", "id": 256}]})),
            "headerExtensions",
        ),
    ];
    for (method, data, named) in table {
        let (code, reason) = a
            .protoo
            .request(method, data.clone())
            .await
            .expect_err(&format!("{method} {data}"));
        let unknown_or_state = ["nonsense", "already joined", "\"x\""].contains(&named);
        let expected = if unknown_or_state { 500 } else { 400 };
        assert_eq!(code, expected, "{method} {data}: {reason}");
        assert!(
            reason.to_lowercase().contains(&named.to_lowercase()),
            "{method} {data}: {reason:?} does not name {named:?}"
        );
    }
    for frame in [
        "",
        "{",
        "[]",
        "null",
        "{\"request\":true}",
        "{\"response\":true,\"id\":7}",
    ] {
        a.protoo.send_text(frame).await;
    }
    a.protoo
        .request("changeDisplayName", json!({"displayName": "still here"}))
        .await
        .unwrap();
    // And a producer still works.
    a.produce(MediaKind::Audio, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_are_refused_before_they_happen() {
    let server = Server::start();
    let refused = async |query: &str| Protoo::connect(server.address(), query).await.err();
    for query in [
        "",
        "roomId=r",
        "peerId=p",
        "roomId=&peerId=p",
        "roomId=r&peerId=",
    ] {
        assert_eq!(refused(query).await, Some(400), "{query:?}");
    }
    let without = Protoo::connect_with(server.address(), "roomId=r&peerId=p", None).await;
    assert_eq!(without.err(), Some(403));
    let (status, _) = crate::https::request(
        "POST",
        &server.url("/rooms/small"),
        &[("content-type", "application/json")],
        r#"{"maxPeerCount": 2}"#,
    );
    assert_eq!(status, 200);
    let _a = Client::join(server.address(), "small", "a").await;
    let _b = Client::join(server.address(), "small", "b").await;
    assert_eq!(refused("roomId=small&peerId=c").await, Some(403));
    let (status, body) = crate::https::get(&server.url("/rooms/small/admission?peerId=c"));
    assert_eq!(status, 403);
    assert!(body["error"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_closes_the_socket() {
    let server = Server::start();
    let mut a = Client::join(server.address(), "room", "alice").await;
    let frame = format!("{{\"x\": \"{}\"}}", "y".repeat(960_000));
    a.protoo.send_unwelcome(&frame).await;
    // The close frame can be lost to a reset, for the server does not read on.
    let code = a.protoo.closed().await;
    assert!(matches!(code, Some(1009) | None), "{code:?}");
}
