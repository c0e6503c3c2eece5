//! ICE over TCP: real browsers that have nothing else, among connections that lead to
//! nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::browser::{Browser, consumer};
use crate::https;
use crate::netns::Namespace;
use crate::server::{DEADLINE, Options, Server, wait_until};

/// Connections of one source that may wait for a transport to claim them.
const WAITING_OF_SOURCE: usize = 64;
/// More than those.
const STRANGERS: usize = 100;

/// Longest time without sound when UDP ends. Chromium gives up on it after 5 s where its
/// connection over TCP is still open, and after 15 s where it has closed that as one that it
/// does not need; then it takes up to two and a half to say so. Without TCP it would lose
/// the call.
const LONGEST_MOVE: Duration = Duration::from_secs(22);

/// What a browser does not say over such a connection.
const GARBAGE: [&[u8]; 3] = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    // A frame that is too long.
    &[0xFF; 2048],
    // DTLS before any connectivity check.
    &[0, 4, 22, 0xFE, 0xFD, 0],
];

/// A number that the server's only worker counts.
fn counted(server: &Server, name: &str, label: &str) -> f64 {
    let text = https::request_text("GET", &server.url("/metrics"), &[], "").1;
    let name = format!("webrtc_worker_{name}{{worker=\"0\"{label}}} ");
    let mut values = text.lines().filter_map(|line| line.strip_prefix(&name));
    let value = values.next();
    let value = value.unwrap_or_else(|| panic!("no {name}in {text}"));
    value.parse().unwrap()
}

/// Connections that were refused or closed for a reason.
fn closed(server: &Server, reason: &str) -> f64 {
    let label = format!(",reason=\"{reason}\"");
    counted(server, "tcp_connections_closed_total", &label)
}

/// Connections to the port for media from another address than browsers have; without
/// those that were refused before they knew that they were there.
fn strangers(port: u16, number: usize) -> Vec<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connect = || {
        runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            let from = SocketAddr::from(([127, 0, 0, 2], 0));
            socket.bind(from).unwrap();
            let to = SocketAddr::from(([127, 0, 0, 1], port));
            let stream = match socket.connect(to).await {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                stream => stream.unwrap().into_std().unwrap(),
            };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            Some(stream)
        })
    };
    let streams = std::iter::repeat_with(connect).take(number);
    streams.flatten().collect()
}

/// Whether the other side ends it, in time.
fn ends(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 10]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_call_over_tcp_alone_among_strangers() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "tcp", "&forceTcp=1");
    let stats = browser.wait("alice", "connected", |stats| {
        stats["transports"]["send"]["protocol"] == "tcp"
    });
    let remote = stats["transports"]["send"]["remote"].as_str().unwrap();
    let port = remote.parse::<SocketAddr>().unwrap().port();

    let mut silent = strangers(port, STRANGERS);
    wait_until("too many are refused", || {
        closed(&server, "source") >= (STRANGERS - WAITING_OF_SOURCE) as f64
    });
    for garbage in GARBAGE {
        // One after the other makes room for itself.
        silent.remove(0);
        wait_until("a place", || {
            counted(&server, "tcp_connections_waiting", "") < WAITING_OF_SOURCE as f64
        });
        let mut stream = strangers(port, 1).remove(0);
        // It may be closed before all of it is written.
        let _ = stream.write_all(garbage);
        assert!(ends(&mut stream), "{garbage:?}");
    }
    assert_eq!(closed(&server, "malformed"), GARBAGE.len() as f64);

    browser.join(&server, "bob", "tcp", "&forceTcp=1");
    for (page, other) in [("alice", "bob"), ("bob", "alice")] {
        let stats = browser.sees_and_hears(page, other);
        for direction in ["send", "recv"] {
            let transport = &stats["transports"][direction];
            assert_eq!(transport["protocol"], "tcp", "{page}: {transport}");
        }
        assert_eq!(stats["errors"], json!([]), "{page}");
        let first = stats["timing"]["firstRemoteFrame"].as_f64().unwrap();
        println!("figure: over TCP: page load to first decoded remote frame: {first:.0} ms");
        if let Ok(directory) = std::env::var("SCREENSHOTS") {
            let path = format!("{directory}/tcp-{page}.png");
            browser.command(json!({"cmd": "screenshot", "page": page, "path": path}));
        }
    }
    assert_eq!(counted(&server, "tcp_connections", ""), 4.0);

    // Who has nothing to say is gone by and by; who talks is not.
    wait_until("the silent ones are closed", || {
        counted(&server, "tcp_connections_waiting", "") == 0.0
    });
    assert!(silent.iter_mut().all(ends));
    browser.sees_and_hears("bob", "alice");
    assert_eq!(counted(&server, "tcp_connections", ""), 4.0);
    browser.click("bob", "#leave");
    wait_until("bob's connections end with him", || {
        counted(&server, "tcp_connections", "") == 2.0
    });
}

/// Where both are offered, UDP carries the media, and the connections that browsers
/// made meanwhile do not stay.
#[test]
fn udp_is_preferred_where_there_is_a_choice() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "choice", "");
    browser.join(&server, "bob", "choice", "");
    for (page, other) in [("alice", "bob"), ("bob", "alice")] {
        let stats = browser.sees_and_hears(page, other);
        for direction in ["send", "recv"] {
            let transport = &stats["transports"][direction];
            assert_eq!(transport["protocol"], "udp", "{page}: {transport}");
        }
    }
    wait_until("they do not keep what they do not use", || {
        counted(&server, "tcp_connections", "") == 0.0
    });
}

/// Packets of alice's sound that a page has got.
fn sound(stats: &Value) -> u64 {
    let audio = consumer(stats, "alice", "audio");
    audio.map_or(0, |it| it["packetsReceived"].as_u64().unwrap_or(0))
}

/// A client in whose network UDP ends in the middle of a call.
#[test]
fn a_call_goes_on_where_udp_ends() {
    let namespace = Namespace::new();
    let server = namespace.serve();
    let mut host = Browser::start_beside(&namespace);
    let mut far = Browser::start_inside(&namespace);
    let url = |page: &str| {
        let (ip, port) = (namespace.address, server.port);
        format!("https://{ip}:{port}/?room=move&name={page}&peerId={page}&join=1&resolution=qvga")
    };
    host.open(&url("alice"), "alice", "ok");
    far.open(&url("bob"), "bob", "missing");
    let protocol = |stats: &Value| stats["transports"]["recv"]["protocol"].clone();
    let stats = far.wait("bob", "hears alice", |stats| sound(stats) > 50);
    assert_eq!(protocol(&stats), "udp");

    namespace.block_udp();
    let (mut heard, mut last, mut gap) = (sound(&stats), Instant::now(), Duration::ZERO);
    let enough = heard + 200;
    let stats = far.wait("bob", "hears alice again", |stats| {
        if sound(stats) != heard {
            gap = gap.max(last.elapsed());
            (heard, last) = (sound(stats), Instant::now());
        }
        heard > enough
    });
    println!("figure: UDP ends, Chromium moves to TCP: no sound for {gap:.1?}");
    assert!(gap < LONGEST_MOVE, "{gap:?}");
    assert_eq!(protocol(&stats), "tcp");
    assert_eq!(stats["state"], "joined");
    far.sees("bob", "alice", 20);
    host.wait("alice", "she noticed nothing", |stats| {
        stats["transports"]["send"]["protocol"] == "udp"
    });
}
