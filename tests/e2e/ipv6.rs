//! IPv6 over loopback: a call between browsers, what ffmpeg sends and records, and a server
//! that has both IP versions.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::browser::Browser;
use crate::https::request;
use crate::plain::{play_and_record, post};
use crate::server::{Options, Server, wait_until};

/// Time until the next packet is sent, and looked for.
const PACKET: Duration = Duration::from_millis(20);

/// A server whose media goes by IPv6 alone.
fn server() -> Server {
    Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("MEDIASOUP_LISTEN_IP", "::1")
        .start()
}

#[test]
fn a_call_between_browsers_over_ipv6() {
    let server = server();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "six", "");
    browser.join(&server, "bob", "six", "");
    for (page, other) in [("alice", "bob"), ("bob", "alice")] {
        let stats = browser.sees_and_hears(page, other);
        for direction in ["send", "recv"] {
            let remote = stats["transports"][direction]["remote"].as_str().unwrap();
            let (ip, _) = remote.rsplit_once(':').unwrap();
            assert_eq!(ip.trim_matches(['[', ']']), "::1", "{page}: {remote}");
        }
    }
}

#[test]
fn what_is_played_over_ipv6_can_be_recorded() {
    play_and_record(&server());
}

/// A socket on an address of loopback.
fn socket(ip: &str) -> UdpSocket {
    let ip: IpAddr = ip.parse().unwrap();
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PACKET)).unwrap();
    socket
}

/// A broadcaster's transport: its path, and its port.
fn transport(server: &Server, id: &str, comedia: bool) -> (String, u16) {
    let body = json!({"type": "plain", "comedia": comedia, "rtcpMux": true});
    let made = post(server, &format!("/{id}/transports"), &body);
    assert_eq!(made["ip"], "127.0.0.1");
    assert_eq!(made["ips"], json!(["127.0.0.1", "::1"]));
    let port = u16::try_from(made["port"].as_u64().unwrap()).unwrap();
    let path = format!("/{id}/transports/{}", made["id"].as_str().unwrap());
    (path, port)
}

/// What comes in over one IP version goes out over the other.
#[test]
fn plain_transports_have_both_ip_versions() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("MEDIASOUP_LISTEN_IP", "::")
        .env("MEDIASOUP_ANNOUNCED_IP", "127.0.0.1,::1")
        .start();
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    let (_, capabilities) = request("GET", &server.url("/rooms/room"), &[], "");
    for id in ["speaker", "recorder"] {
        let body = json!({"id": id, "displayName": id, "device": {"name": "test"},
            "rtpCapabilities": capabilities});
        post(&server, "", &body);
    }
    for (into, out) in [("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
        let (path, port) = transport(&server, "speaker", true);
        let rtp = json!({"codecs": [{"mimeType": "audio/opus", "payloadType": 100,
            "clockRate": 48000, "channels": 2}], "encodings": [{"ssrc": 1111}]});
        let body = json!({"kind": "audio", "rtpParameters": rtp});
        let producer = post(&server, &format!("{path}/producers"), &body);

        let (path, _) = transport(&server, "recorder", false);
        let recorder = socket(out);
        let here = recorder.local_addr().unwrap().port();
        let connect = format!("{path}/connect");
        post(&server, &connect, &json!({"ip": out, "port": here}));
        let id = producer["id"].as_str().unwrap();
        let consume = format!("{path}/consume?producerId={id}");
        post(&server, &consume, &json!({}));

        let speaker = socket(into);
        let there = SocketAddr::new(into.parse().unwrap(), port);
        let mut sequence = 0_u16;
        wait_until(&format!("a packet from {into} at {out}"), || {
            let mut packet = [0x80, 100, 0, 0, 0, 0, 0, 0, 0, 0, 4, 87, 0xFC];
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            sequence += 1;
            speaker.send_to(&packet, there).unwrap();
            let mut buffer = [0; 2000];
            let received = recorder.recv_from(&mut buffer);
            let is_packet = |len| buffer[..len].ends_with(&[0xFC]) && buffer[1] & 0x7F == 100;
            received.is_ok_and(|(len, from)| {
                assert_eq!(from.ip(), out.parse::<IpAddr>().unwrap());
                is_packet(len)
            })
        });
    }
}

#[test]
fn a_remote_of_another_ip_version_is_refused() {
    let server = Server::start();
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    let body = json!({"id": "recorder", "displayName": "", "device": {"name": "test"}});
    post(&server, "", &body);
    let body = json!({"type": "plain", "comedia": false, "rtcpMux": true});
    let made = post(&server, "/recorder/transports", &body);
    let path = format!(
        "/recorder/transports/{}/connect",
        made["id"].as_str().unwrap()
    );
    let url = server.url(&format!("/rooms/room/broadcasters{path}"));
    let (status, answer) = request("POST", &url, &[], r#"{"ip": "::1", "port": 5000}"#);
    let error = "ip: ::1 is of an IP version that is not listened on";
    assert_eq!((status, &answer["error"]), (400, &json!(error)));
    post(&server, &path, &json!({"ip": "127.0.0.1", "port": 5000}));
}
