//! What does not belong on the port of a plain transport, by real sockets: counted by kind,
//! dropped, and the sender whose port it is goes on.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::https::{request, request_text};
use crate::plain::post;
use crate::server::{Options, Server, wait_until};

/// A payload type, and an SSRC, that the broadcaster announces.
const PT: u8 = 100;
const SSRC: u32 = 1111;

/// Times that each stray is sent; nothing else does not belong there.
const TIMES: u64 = 3;

/// What the server's only worker has counted for a reason.
fn dropped(server: &Server, reason: &str) -> u64 {
    let text = request_text("GET", &server.url("/metrics"), &[], "").1;
    let name =
        format!("webrtc_worker_datagrams_dropped_total{{worker=\"0\",reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value
        .unwrap_or_else(|| panic!("no {name}in {text}"))
        .parse()
        .unwrap()
}

fn rtp(pt: u8, ssrc: u32, number: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0x80, pt];
    packet.extend(number.to_be_bytes());
    packet.extend((u32::from(number) * 960).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.resize(12 + len, number.to_be_bytes()[1]);
    packet
}

/// A receiver report of somebody about a stream that there is not.
fn false_report() -> Vec<u8> {
    let mut report = vec![0x81, 201, 0, 7, 0, 0, 0, 9, 0, 0, 0, 77, 255, 127, 255, 255];
    report.resize(32, 0);
    report
}

#[test]
fn what_does_not_belong_there_is_counted_by_kind_and_changes_nothing() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    let (_, capabilities) = request("GET", &server.url("/rooms/room"), &[], "");
    for id in ["speaker", "recorder"] {
        let body = json!({"id": id, "displayName": id, "device": {"name": "test"},
            "rtpCapabilities": capabilities});
        post(&server, "", &body);
    }
    let create = |id: &str, comedia: bool| {
        let body = json!({"type": "plain", "comedia": comedia, "rtcpMux": true});
        let made = post(&server, &format!("/{id}/transports"), &body);
        let path = format!("/{id}/transports/{}", made["id"].as_str().unwrap());
        (path, u16::try_from(made["port"].as_u64().unwrap()).unwrap())
    };
    let (path, port) = create("speaker", true);
    let rtp_parameters = json!({"codecs": [{"mimeType": "audio/opus", "payloadType": PT,
        "clockRate": 48000, "channels": 2}], "encodings": [{"ssrc": SSRC}]});
    let body = json!({"kind": "audio", "rtpParameters": rtp_parameters});
    let producer = post(&server, &format!("{path}/producers"), &body);
    let recorder = UdpSocket::bind("127.0.0.1:0").unwrap();
    recorder
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let (out, _) = create("recorder", false);
    let here = recorder.local_addr().unwrap().port();
    post(
        &server,
        &format!("{out}/connect"),
        &json!({"ip": "127.0.0.1", "port": here}),
    );
    let id = producer["id"].as_str().unwrap();
    post(
        &server,
        &format!("{out}/consume?producerId={id}"),
        &json!({}),
    );

    let there = SocketAddr::from(([127, 0, 0, 1], port));
    let speaker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut number = 0;
    // One packet goes in, and comes out.
    let mut is_heard = || {
        number += 1;
        speaker.send_to(&rtp(PT, SSRC, number, 40), there).unwrap();
        let mut buffer = [0; 2000];
        let sent = number.to_be_bytes()[1];
        // One that came too late for the last look may be in front of it.
        while let Ok(len) = recorder.recv(&mut buffer) {
            if len == 12 + 40 && buffer[1] & 0x7F == PT && buffer[12] == sent {
                return true;
            }
        }
        false
    };
    wait_until("the speaker is heard", &mut is_heard);
    for (reason, from, datagram) in [
        ("unparsable", &speaker, vec![0xFF; 100]),
        ("wrong_stream", &speaker, rtp(PT + 1, SSRC, 9, 40)),
        ("wrong_stream", &speaker, rtp(PT, SSRC + 1, 9, 40)),
        ("unknown", &stranger, rtp(PT, SSRC, 9, 40)),
        ("too_long", &speaker, rtp(PT, SSRC, 9, 64_988)),
        ("false_report", &speaker, false_report()),
        ("unparsable", &speaker, false_report()[..30].to_vec()),
    ] {
        let all = [
            "unparsable",
            "unknown",
            "refused",
            "wrong_stream",
            "too_long",
            "false_report",
        ];
        let mut expected = all.map(|it| (it, dropped(&server, it)));
        for (it, count) in &mut expected {
            *count += u64::from(*it == reason) * TIMES;
        }
        for _ in 0..TIMES {
            from.send_to(&datagram, there).unwrap();
        }
        wait_until(&format!("{reason} is counted"), || {
            all.map(|it| (it, dropped(&server, it))) == expected
        });
        wait_until("the speaker is still heard", &mut is_heard);
    }
}
