//! Codecs of broadcasters beside VP8 and Opus: what a real ffmpeg sends over plain RTP is
//! seen and heard by a real browser, also by one that comes later.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::browser::{Browser, consumer};
use crate::clients;
use crate::https::request;
use crate::plain::{Running, ffmpeg, post};
use crate::server::{Options, Server, wait_until};

/// What the room routes.
const CODECS: &str = "opus,pcmu,pcma,g722,vp8,vp9,h264-main,h264-baseline,av1";

/// Longest time from the first look at a page until it shows a picture, in milliseconds.
/// There is a key frame every second, and a page takes some to load.
const LONGEST_START: f64 = 10_000.0;

/// A stream as the broadcaster has it, and how ffmpeg makes it.
struct Format {
    kind: &'static str,
    codec: Value,
    arguments: &'static str,
    /// Most octets of a packet.
    packet: u32,
}

/// Pictures, a key frame each second.
fn pictures(mime_type: &str, parameters: Value, arguments: &'static str) -> Format {
    Format {
        kind: "video",
        codec: json!({"mimeType": mime_type, "payloadType": 101, "clockRate": 90_000,
            "parameters": parameters}),
        arguments,
        packet: 1200,
    }
}

/// Sound for telephones, 20 ms in a packet.
fn sound(mime_type: &str, payload_type: u8, arguments: &'static str) -> Format {
    Format {
        kind: "audio",
        codec: json!({"mimeType": mime_type, "payloadType": payload_type, "clockRate": 8000,
            "channels": 1}),
        arguments,
        packet: 12 + 160,
    }
}

/// The formats of each broadcaster.
fn broadcasters() -> Vec<(&'static str, Format, Format)> {
    let h264 = |profile: &str| json!({"packetization-mode": 1, "profile-level-id": profile});
    let baseline = "-c:v libx264 -profile:v baseline -preset ultrafast -tune zerolatency";
    let main = "-c:v libx264 -profile:v main -preset veryfast -tune zerolatency";
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -lag-in-frames 0 -b:v 500k \
        -strict experimental";
    vec![
        (
            "baseline",
            pictures("video/H264", h264("42e01f"), baseline),
            sound("audio/PCMU", 0, "-c:a pcm_mulaw -ar 8000"),
        ),
        (
            "main",
            pictures("video/H264", h264("4d001f"), main),
            sound("audio/PCMA", 8, "-c:a pcm_alaw -ar 8000"),
        ),
        (
            "vp9",
            pictures("video/VP9", json!({"profile-id": 0}), vp9),
            sound("audio/G722", 9, "-c:a g722 -ar 16000"),
        ),
    ]
}

/// Makes a broadcaster.
fn enter(server: &Server, id: &str) {
    let body = json!({"id": id, "displayName": id, "device": {"name": "FFmpeg"}});
    post(server, "", &body);
}

/// Makes a transport and a producer of it; answers where to send to.
fn produce(server: &Server, id: &str, kind: &str, codec: &Value, ssrc: u32) -> String {
    let body = json!({"type": "plain", "comedia": true, "rtcpMux": false});
    let made = post(server, &format!("/{id}/transports"), &body);
    let path = format!(
        "/{id}/transports/{}/producers",
        made["id"].as_str().unwrap()
    );
    let rtp = json!({"codecs": [codec], "encodings": [{"ssrc": ssrc}]});
    post(server, &path, &json!({"kind": kind, "rtpParameters": rtp}));
    let (ip, port) = (made["ip"].as_str().unwrap(), &made["port"]);
    format!("rtp://{ip}:{port}?rtcpport={}", made["rtcpPort"])
}

/// A test picture and a tone in the formats of a broadcaster.
fn send(server: &Server, id: &str, video: &Format, audio: &Format) -> Running {
    enter(server, id);
    let mut command = ffmpeg();
    for source in [
        "testsrc=size=320x240:rate=25",
        "sine=frequency=440:sample_rate=48000",
    ] {
        command.args(["-re", "-f", "lavfi", "-i", source]);
    }
    for (format, input, ssrc) in [(video, "0:v:0", 2222), (audio, "1:a:0", 1111)] {
        let Format {
            kind,
            codec,
            arguments,
            packet,
        } = format;
        let target = produce(server, id, kind, codec, ssrc);
        command
            .args(["-map", input])
            .args(arguments.split_whitespace())
            .args(["-g", "25", "-pix_fmt", "yuv420p", "-f", "rtp"])
            .args(["-ssrc", &ssrc.to_string()])
            .args(["-payload_type", &codec["payloadType"].to_string()])
            .arg(format!("{target}&pkt_size={packet}"));
    }
    Running::start(&mut command)
}

/// AV1 from ffmpeg's libraries in Python.
fn send_av1(server: &Server, id: &str) -> Running {
    enter(server, id);
    let codec = json!({"mimeType": "video/AV1", "payloadType": 104, "clockRate": 90_000});
    let target = produce(server, id, "video", &codec, 2222);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    Running::start(
        Command::new(clients::python())
            .arg(folder.join("av1_feed.py"))
            .arg(format!("{target}&pkt_size=1200"))
            .args(["2222", "104"]),
    )
}

/// VP9 from GStreamer, which says of each picture whether it is a key frame.
fn send_from_gstreamer(server: &Server, id: &str) -> Running {
    enter(server, id);
    let codec = json!({"mimeType": "video/VP9", "payloadType": 101, "clockRate": 90_000,
        "parameters": {"profile-id": 0}});
    let target = produce(server, id, "video", &codec, 2222);
    let (host, rest) = target["rtp://".len()..].split_once(':').unwrap();
    let (port, rtcp) = rest.split_once("?rtcpport=").unwrap();
    let pipeline = format!(
        "rtpbin name=rtpbin \
         videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=25/1 ! \
         videoconvert ! vp9enc deadline=1 cpu-used=8 lag-in-frames=0 keyframe-max-dist=25 ! \
         rtpvp9pay pt=101 ssrc=2222 mtu=1200 picture-id-mode=15-bit ! rtpbin.send_rtp_sink_0 \
         rtpbin.send_rtp_src_0 ! udpsink host={host} port={port} \
         rtpbin.send_rtcp_src_0 ! udpsink host={host} port={rtcp} sync=false async=false"
    );
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q").args(pipeline.split_whitespace());
    Running::start(&mut command)
}

#[test]
fn every_codec_of_a_broadcaster_is_seen_and_heard() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("ROUTER_CODECS", CODECS)
        .start();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "room", "");
    browser.wait("alice", "joined", |stats| stats["state"] == "joined");
    let all = broadcasters();
    let senders = all
        .iter()
        .map(|(id, video, audio)| send(&server, id, video, audio));
    let mut senders: Vec<Running> = senders.collect();
    senders.push(send_av1(&server, "av1"));
    senders.push(send_from_gstreamer(&server, "gstreamer"));
    for page in ["alice", "bob"] {
        if page == "bob" {
            browser.join(&server, "bob", "room", "");
            browser.wait("bob", "joined", |stats| stats["state"] == "joined");
            browser.command(json!({"cmd": "close", "page": "alice"}));
        }
        for (id, video, audio) in &all {
            let stats = browser.sees_and_hears(page, id);
            for format in [video, audio] {
                let got = consumer(&stats, id, format.kind).unwrap();
                assert_eq!(got["codec"], format.codec["mimeType"], "{page}: {got}");
            }
        }
        for (id, codec) in [("av1", "video/AV1"), ("gstreamer", "video/VP9")] {
            browser.sees(page, id, 20);
            let stats = browser.stats(page);
            let got = consumer(&stats, id, "video").unwrap();
            assert_eq!(got["codec"], codec, "{page}");
            let field = |name: &str| got[name].as_u64().unwrap();
            assert!(field("keyFramesDecoded") < field("framesDecoded"), "{got}");
        }
        let stats = browser.stats(page);
        let first = stats["timing"]["firstRemoteFrame"].as_f64().unwrap();
        println!("figure: {page}: page load to first picture: {first:.0} ms");
        if page == "bob" {
            assert!(first < LONGEST_START, "{first}");
        }
    }
    let url = server.url("/rooms/room/broadcasters/vp9");
    assert_eq!(request("DELETE", &url, &[], "").0, 200);
    wait_until("gone", || {
        consumer(&browser.stats("bob"), "vp9", "video").is_none()
    });
}
