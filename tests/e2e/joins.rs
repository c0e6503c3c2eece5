//! What it takes to join a room that fills up: how long the client waits, and
//! how many calls the control plane makes to the media worker.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::https;
use crate::protoo::Protoo;
use crate::server::{Options, Server};

const PEERS: usize = 30;

/// What a join took.
struct Join {
    /// From the first packet of the TCP connection to the answer to `join`.
    joined: Duration,
    /// From there on, until every stream of the others is offered, accepted and
    /// resumed.
    consuming: Duration,
    /// Calls to the worker until then.
    calls: u64,
}

fn calls(server: &Server) -> u64 {
    let (_, config) = https::get(&server.url("/config"));
    let calls = config["workers"][0]["stats"]["calls"].as_u64();
    calls.expect("calls are counted")
}

fn audio(transport: &Value, ssrc: usize) -> Value {
    json!({
        "transportId": transport, "kind": "audio", "appData": {},
        "rtpParameters": {
            "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000,
                "channels": 2, "parameters": {}, "rtcpFeedback": []}],
            "headerExtensions": [], "encodings": [{"ssrc": ssrc}], "rtcp": {"cname": "c"},
        },
    })
}

fn video(transport: &Value, ssrc: usize) -> Value {
    json!({
        "transportId": transport, "kind": "video", "appData": {},
        "rtpParameters": {
            "codecs": [
                {"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
                 "rtcpFeedback": [{"type": "nack"}, {"type": "nack", "parameter": "pli"}]},
                {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000,
                 "parameters": {"apt": 96}, "rtcpFeedback": []}],
            "headerExtensions": [], "encodings": [{"ssrc": ssrc, "rtx": {"ssrc": ssrc + 1}}],
            "rtcp": {"cname": "c"},
        },
    })
}

/// Joins as the page does, then waits for what the others send.
async fn join(server: &Server, capabilities: &Value, others: usize) -> (Protoo, Join) {
    let before = calls(server);
    let start = Instant::now();
    let query = format!("roomId=full&peerId=peer{others}");
    let mut protoo = Protoo::connect(server.address(), &query).await.unwrap();
    let mut transports = Vec::new();
    for producing in [true, false] {
        let data = json!({"forceTcp": false, "producing": producing, "consuming": !producing});
        let created = protoo.request("createWebRtcTransport", data).await.unwrap();
        transports.push(created["id"].clone());
    }
    let data = json!({"displayName": "p", "device": {}, "rtpCapabilities": capabilities});
    let answer = protoo.request("join", data).await.unwrap();
    assert_eq!(answer["peers"].as_array().unwrap().len(), others);
    let joined = start.elapsed();
    let start = Instant::now();
    for _ in 0..2 * others {
        let offer = protoo.wait_for("newConsumer").await;
        let accept = json!({"response": true, "id": offer["id"], "ok": true, "data": {}});
        protoo.send_text(&accept.to_string()).await;
    }
    for _ in 0..2 * others {
        protoo.notification("consumerScore").await;
    }
    let consuming = start.elapsed();
    let ssrc = 10_000 + 10 * others;
    for produce in [audio(&transports[0], ssrc), video(&transports[0], ssrc + 1)] {
        protoo.request("produce", produce).await.unwrap();
    }
    let join = Join {
        joined,
        consuming,
        calls: calls(server) - before,
    };
    (protoo, join)
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_stay_quick_while_a_room_fills_up() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let (status, _) = https::request("POST", &server.url("/rooms/full"), &[], "");
    assert_eq!(status, 200);
    let (_, capabilities) = https::get(&server.url("/rooms/full"));
    let mut peers: Vec<Protoo> = Vec::new();
    for others in 0..PEERS {
        let (protoo, join) = join(&server, &capabilities, others).await;
        // Those who are there take the new streams.
        for peer in &mut peers {
            for _ in 0..2 {
                let offer = peer.wait_for("newConsumer").await;
                let accept = json!({"response": true, "id": offer["id"], "ok": true, "data": {}});
                peer.send_text(&accept.to_string()).await;
            }
        }
        if [1, 9, PEERS - 1].contains(&others) {
            println!(
                "figure: peer {} joins in {:.1} ms, and receives {} streams {:.1} ms later; {} calls to the worker",
                others + 1,
                join.joined.as_secs_f64() * 1e3,
                2 * others,
                join.consuming.as_secs_f64() * 1e3,
                join.calls,
            );
        }
        // Debug builds on a busy machine; the figure is what counts.
        assert!(join.joined < Duration::from_secs(2), "{:?}", join.joined);
        // Two transports, consumers and data consumers (the bot's) in a call each,
        // two producers and their consumers; and a resume for each stream that
        // somebody has accepted, of the one who came before as well.
        let most = 8 + u64::try_from(4 * others).unwrap();
        assert!(join.calls <= most, "{} calls, {others} others", join.calls);
        peers.push(protoo);
    }
}
