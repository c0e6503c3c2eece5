//! The life of the processes: start, crash, stop, and nothing left behind.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use test_peer::str0m::media::MediaKind;

use crate::client::Client;
use crate::https;
use crate::server::{DEADLINE, Options, Server, is_alive, wait_until};

#[test]
fn the_start_block_tells_everything() {
    let mut server = Options::new().env("MEDIASOUP_NUM_WORKERS", 2).start();
    let url = format!("https://127.0.0.1:{}", server.port);
    let localhost = format!("https://localhost:{}", server.port);
    let log = server.log();
    assert!(log.contains(&url) || log.contains(&localhost), "{log}");
    let workers = server.workers();
    assert_eq!(workers.len(), 2);
    for (index, pid) in workers {
        let line = server.wait_for_line(&format!("mediaworker-{index}"));
        assert!(line.contains(&pid.to_string()), "{line}");
    }
    assert!(log.contains("Announced"), "{log}");
    assert!(server.dir().join("certs/fullchain.pem").exists());
}

/// Local ports of this process that listen (TCP) or are bound (UDP).
fn ports(pid: nix::unistd::Pid, protocol: &str, state: &str) -> Vec<u16> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let sockets: Vec<String> = links.map(|to| to.to_string_lossy().into_owned()).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap();
    let lines = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = lines.filter(|it| it[3] == state && sockets.contains(&format!("socket:[{}]", it[9])));
    let port = |line: Vec<&str>| u16::from_str_radix(line[1].rsplit(':').next().unwrap(), 16);
    own.map(|line| port(line).unwrap()).collect()
}

/// Defect seed 21: the original lets whoever is on the machine run code in it.
#[test]
fn nothing_listens_but_what_is_documented() {
    const LISTENS: &str = "0A";
    const BOUND: &str = "07";
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 2).start();
    let address = server.address();
    assert_eq!(ports(server.pid(), "tcp", LISTENS), [address.port()]);
    for protocol in ["tcp6", "udp", "udp6"] {
        let state = if protocol == "tcp6" { LISTENS } else { BOUND };
        assert_eq!(ports(server.pid(), protocol, state), [0; 0], "{protocol}");
    }
    for (_, pid) in server.workers() {
        let mut media = ports(pid, "udp", BOUND);
        // One port, with a second socket for feedback.
        assert_eq!(media.len(), 2);
        media.dedup();
        // The same one, for ICE over TCP.
        assert_eq!(ports(pid, "tcp", LISTENS), media);
    }
}

#[test]
fn the_health_command_ends_with_0_while_the_server_takes_rooms() {
    let mut server = Server::start();
    let ask = |port: u16| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_webrtc-server"))
            .arg("health")
            .env_clear()
            .env("PROTOO_LISTEN_PORT", port.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    assert_eq!(ask(server.port), (Some(0), String::new()));
    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_end(DEADLINE).is_some());
    let (code, text) = ask(server.port);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("not healthy: 127.0.0.1:"), "{text}");
    assert_eq!(ask(0).0, Some(2), "0 is no port");
}

#[test]
fn workers_have_cores_and_disjoint_ports_of_their_own() {
    let min = u64::from(crate::server::media_ports());
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_MIN_PORT", min)
        .env("MEDIASOUP_MAX_PORT", min + 9)
        .start();
    let (_, config) = https::get(&server.url("/config"));
    let workers = config["workers"].as_array().unwrap();
    assert_eq!(server.workers().len(), 2);
    let slices: Vec<_> = workers
        .iter()
        .map(|w| (w["minPort"].as_u64(), w["maxPort"].as_u64()))
        .collect();
    assert_eq!(
        slices,
        [(Some(min), Some(min + 4)), (Some(min + 5), Some(min + 9))]
    );
    for (worker, (_, pid)) in workers.iter().zip(server.workers()) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let allowed = status
            .lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))
            .unwrap()
            .trim();
        match worker["cpu"].as_u64() {
            Some(cpu) => assert_eq!(allowed, cpu.to_string()),
            // Only where the start says so.
            None => assert!(server.log().contains("left unpinned")),
        }
    }
}

#[test]
fn both_signals_end_everything_within_two_seconds() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = Server::start();
        let workers = server.workers();
        assert!(!workers.is_empty());
        let started = Instant::now();
        server.signal(signal);
        let status = server.wait_for_end(Duration::from_secs(2));
        assert!(status.is_some_and(|s| s.success()), "{status:?}");
        assert!(started.elapsed() < Duration::from_secs(2));
        for (_, pid) in workers {
            assert!(!is_alive(pid), "worker {pid} is left");
        }
        assert_eq!(server.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_a_call_makes_clients_try_again() {
    let mut server = Server::start();
    let a = Client::join(server.address(), "room", "alice").await;
    server.signal(Signal::SIGINT);
    let code = a.protoo.closed().await;
    assert!(matches!(code, Some(1001 | 1012)), "{code:?}");
    let status = server.wait_for_end(Duration::from_secs(2));
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_receiver_that_hangs_does_not_hold_up_the_end() {
    let mut server = Options::new().env("DRAIN_TIMEOUT", 0).start();
    // It takes connections, and never says anything.
    let receiver = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://user:hunter2@{}/", receiver.local_addr().unwrap());
    let body = format!("{{\"eventNotificationUri\":\"{uri}\"}}");
    let (status, _) = https::request("POST", &server.url("/rooms/room"), &[], &body);
    assert_eq!(status, 200);
    let alice = Client::join(server.address(), "room", "alice").await;
    let started = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_for_end(Duration::from_secs(2));
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(alice);
    let log = server.log();
    assert!(log.contains("webhook events are lost"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn workers_end_when_the_control_plane_is_killed() {
    let mut server = Server::start();
    let workers = server.workers();
    server.signal(Signal::SIGKILL);
    server.wait_for_end(Duration::from_secs(2));
    wait_until("workers end", || {
        workers.iter().all(|(_, pid)| !is_alive(*pid))
    });
    wait_until("sockets and their directory go", || {
        server.leftovers().is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_worker_is_replaced_too() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let (_, pid) = server.workers()[0];
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until("another worker", || {
        server.workers().first().is_some_and(|(_, new)| *new != pid)
            && https::get(&server.url("/health")).0 == 200
    });
    Client::join(server.address(), "room", "alice").await;
}

#[test]
fn both_ip_versions_are_served() {
    let server = Options::new()
        .env("PROTOO_LISTEN_IP", "::")
        .env("MEDIASOUP_LISTEN_IP", "::")
        .start();
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("https://{host}:{}/health", server.port);
        assert_eq!(https::get(&url).0, 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_worker_is_replaced_and_its_rooms_can_be_joined_again() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let a = Client::join(server.address(), "room", "alice").await;
    let (_, pid) = server.workers()[0];
    kill(pid, Signal::SIGKILL).unwrap();
    let code = a.protoo.closed().await;
    assert_eq!(code, Some(1012));
    wait_until("another worker", || {
        https::get(&server.url("/health")).0 == 200
            && server.workers().first().is_some_and(|(_, new)| *new != pid)
    });
    let mut a = Client::join(server.address(), "room", "alice").await;
    let mut b = Client::join(server.address(), "room", "bob").await;
    a.produce(MediaKind::Audio, 1000).await;
    let _sending = a.start_sending(MediaKind::Audio, 1000);
    let consumer = b.accept_consumer().await;
    wait_until("media", || b.receive.packets(consumer.ssrc).len() > 10);
}

#[test]
fn settings_that_make_no_sense_stop_the_start_with_one_line() {
    for (name, value, allowed) in [
        ("PROTOO_LISTEN_PORT", "70000", "65535"),
        ("MEDIASOUP_MIN_PORT", "50000", "MEDIASOUP_MAX_PORT"),
        ("MEDIASOUP_LISTEN_IP", "not-an-ip", "IP"),
        ("MEDIASOUP_NUM_WORKERS", "0", "1"),
        ("HTTPS_CERT_FULLCHAIN", "/nonexistent.pem", "read"),
    ] {
        let (status, text) = Options::new().env(name, value).refused();
        assert!(!status.success());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1, "{text}");
        for part in [name, value, allowed] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[test]
fn garbage_on_the_media_port_is_counted_and_dropped() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let (_, before) = https::get(&server.url("/config"));
    let port = before["workers"][0]["minPort"].as_u64().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for i in 0..500u32 {
        let datagram: Vec<u8> = (0..i % 1400)
            .map(|j| (i.wrapping_mul(31) ^ j.wrapping_mul(17)) as u8)
            .collect();
        let _ = socket.send_to(&datagram, ("127.0.0.1", u16::try_from(port).unwrap()));
    }
    wait_until("counted", || {
        let (_, config) = https::get(&server.url("/config"));
        let stats = &config["workers"][0]["stats"];
        stats["datagramsDropped"].as_u64().unwrap_or(0) >= 400
            && stats["panics"].as_u64() == Some(0)
    });
}
