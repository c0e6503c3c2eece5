//! Workers that die, stall or run out of memory in the middle of calls, and a
//! server that is told to end in the middle of one: who is hit comes back, who is
//! not notices nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use test_peer::str0m::media::MediaKind;

use crate::client::{Client, MediaSender};
use crate::faults::{Fault, worker, worker_of};
use crate::https;
use crate::protoo::Protoo;
use crate::server::{DEADLINE, Options, Server, is_alive, wait_until};

/// SSRC of what is sent.
const SSRC: u32 = 1000;

/// A peer that sends sound to another one.
struct Call {
    /// Before the sender, which would wait for its end.
    sending: MediaSender,
    sender: Client,
    receiver: Client,
    /// Of what the receiver gets.
    ssrc: u64,
}

impl Call {
    async fn start(server: &Server, room: &str) -> Self {
        let mut sender = Client::join(server.address(), room, "sender").await;
        let mut receiver = Client::join(server.address(), room, "receiver").await;
        sender.produce(MediaKind::Audio, SSRC).await;
        let sending = sender.start_sending(MediaKind::Audio, SSRC);
        let ssrc = receiver.accept_consumer().await.ssrc;
        let call = Self {
            sender,
            receiver,
            ssrc,
            sending,
        };
        call.hears(10);
        call
    }

    /// How many packets have arrived, and how many are missing among them.
    fn packets(&self) -> (usize, u64) {
        let packets = self.receiver.receive.packets(self.ssrc);
        let mut sequences: Vec<u64> = packets.iter().map(|packet| packet.sequence).collect();
        sequences.sort_unstable();
        sequences.dedup();
        let (first, last) = (sequences[0], sequences[sequences.len() - 1]);
        (sequences.len(), last - first + 1 - sequences.len() as u64)
    }

    /// Waits for so many more packets.
    fn hears(&self, more: usize) {
        let count = || self.receiver.receive.packets(self.ssrc).len();
        let before = count();
        wait_until("media", || count() >= before + more);
    }

    /// Waits until both sockets are closed; how.
    async fn closed(self) -> [Option<u16>; 2] {
        drop(self.sending);
        [
            self.sender.protoo.closed().await,
            self.receiver.protoo.closed().await,
        ]
    }
}

/// A call on each of two workers; what happens to the one worker is no trouble
/// for the other call, and its own call can go on at once.
async fn one_of_two_calls_is_hit(fault: Fault) {
    let what = fault.name();
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .env("WORKER_TIMEOUT", fault.worker_timeout())
        .start();
    let body = json!({"maxPeerCount": 2}).to_string();
    https::request("POST", &server.url("/rooms/hit"), &[], &body);
    let call = Call::start(&server, "hit").await;
    let spared = Call::start(&server, "spared").await;
    let slot = worker_of(&server, "hit");
    assert_ne!(slot, worker_of(&server, "spared"));
    let pid = server.workers()[slot].1;
    let (before, missing) = spared.packets();
    assert_eq!(missing, 0);
    let begin = Instant::now();
    fault.happens(&server, pid, "hit");
    assert_eq!(call.closed().await, [Some(1012); 2]);
    let closed = begin.elapsed();
    // By then the room is there again, with what it was made with.
    assert_eq!(worker_of(&server, "hit"), 1 - slot);
    let call = Call::start(&server, "hit").await;
    println!(
        "figure: {what}: sockets closed after {:.2} s, media again after {:.2} s",
        closed.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    let third = Protoo::connect(server.address(), "roomId=hit&peerId=third").await;
    assert!(third.is_err(), "a third peer got a seat");
    wait_until("the worker is replaced", || {
        let worker = worker(&server, slot);
        worker["state"] == "ready" && worker["restarts"] == 1
    });
    assert!(!is_alive(pid));
    let exit = worker(&server, slot)["lastExit"].clone();
    assert!(
        exit["reason"].as_str().is_some_and(|it| !it.is_empty()),
        "{exit}"
    );
    call.hears(10);
    spared.hears(100);
    // Nobody else has noticed anything.
    let (now, missing) = spared.packets();
    assert!(now > before, "{now}");
    assert_eq!(missing, 0, "of {now} packets");
    println!("figure: {what}: the other call lost 0 of {now} packets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed() {
    one_of_two_calls_is_hit(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stalls() {
    one_of_two_calls_is_hit(Fault::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_runs_out_of_memory() {
    one_of_two_calls_is_hit(Fault::OutOfMemory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_call_end() {
    let mut server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let call = Call::start(&server, "room").await;
    server.signal(Signal::SIGTERM);
    wait_until("health says so", || {
        https::get(&server.url("/health")).0 == 503
    });
    let made = https::request("POST", &server.url("/rooms/new"), &[], "");
    assert_eq!(made.0, 503, "{}", made.1);
    let refused = Protoo::connect(server.address(), "roomId=new&peerId=x").await;
    assert!(refused.is_err());
    // Who is cut off comes back, and media flows as before.
    let third = Client::join(server.address(), "room", "third").await;
    call.hears(50);
    assert_eq!(call.packets().1, 0);
    let Call {
        sending,
        mut sender,
        mut receiver,
        ..
    } = call;
    drop(third);
    drop(sending);
    for peer in [&mut sender, &mut receiver] {
        peer.protoo.request("leaveRoom", json!({})).await.unwrap();
    }
    let status = server.wait_for_end(DEADLINE);
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    let log = server.log();
    assert!(!log.contains("did not end in time"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_end_is_ended() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("DRAIN_TIMEOUT", 1)
        .start();
    let call = Call::start(&server, "room").await;
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(call.closed().await, [Some(1012); 2]);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let status = server.wait_for_end(DEADLINE);
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    server.wait_for_line("calls did not end in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_waits_for_nobody() {
    let mut server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let workers = server.workers();
    let call = Call::start(&server, "room").await;
    server.signal(Signal::SIGTERM);
    server.wait_for_line("no new rooms are taken");
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_for_end(Duration::from_secs(2));
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(call.closed().await, [Some(1012); 2]);
    assert!(workers.iter().all(|(_, pid)| !is_alive(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_ends_the_server_and_replaces_workers() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .env("DRAIN_TIMEOUT", 1)
        .start();
    let call = Call::start(&server, "room").await;
    let slot = worker_of(&server, "room");
    let pid = server.workers()[slot].1;
    let path = server.url(&format!("/admin/workers/{slot}/drain"));
    assert_eq!(https::request("POST", &path, &[], "").0, 200);
    // The call outlives its worker's time on the other one.
    assert_eq!(call.closed().await, [Some(1012); 2]);
    assert_eq!(worker_of(&server, "room"), 1 - slot);
    let call = Call::start(&server, "room").await;
    wait_until("another worker", || {
        worker(&server, slot)["state"] == "ready"
    });
    assert!(!is_alive(pid));
    let exit = worker(&server, slot)["lastExit"]["reason"].clone();
    assert_eq!(exit, "replaced on request");

    let path = server.url("/admin/drain");
    assert_eq!(https::request("POST", &path, &[], "").0, 200);
    assert_eq!(call.closed().await, [Some(1012); 2]);
    assert!(server.wait_for_end(DEADLINE).is_some_and(|s| s.success()));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_a_call() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let call = Call::start(&server, "room").await;
    call.hears(50);
    let text = https::request_text("GET", &server.url("/metrics"), &[], "").1;
    let value = |name: &str| -> f64 {
        let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let found = lines.find(|(it, _)| *it == name);
        let (_, value) = found.unwrap_or_else(|| panic!("no {name} in {text}"));
        value.parse().unwrap()
    };
    assert_eq!(value("webrtc_peers"), 2.0);
    assert_eq!(value("webrtc_join_seconds_count"), 2.0);
    assert!(value("webrtc_dtls_states_total{state=\"connected\"}") >= 2.0);
    let forwarded = value("webrtc_worker_rtp_packets_forwarded_total{worker=\"0\"}");
    assert!(forwarded >= 60.0, "{forwarded}");
    // Each that was forwarded was timed.
    let timed = value("webrtc_worker_forwarding_seconds_count{worker=\"0\"}");
    assert!(timed > forwarded - 50.0, "{timed} of {forwarded}");
    assert!(value("webrtc_worker_tick_seconds_count{worker=\"0\"}") >= 60.0);
    assert!(value("webrtc_worker_bytes_sent_total{worker=\"0\"}") > 1000.0);
}

/// Of a real worker, everything that admins are promised.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_tells_what_a_worker_does() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let _call = Call::start(&server, "room").await;
    // Rates are those between two looks at the worker.
    wait_until("rates", || {
        let load = worker(&server, 0)["load"].clone();
        // 50 packets a second, both ways.
        ["packetsInPerSecond", "packetsOutPerSecond"]
            .iter()
            .all(|rate| load[rate].as_f64().is_some_and(|it| it > 20.0))
    });
    let told = worker(&server, 0);
    let pid = i64::from(server.workers()[0].1.as_raw());
    let number = |pointer: &str| {
        let value = told.pointer(pointer).and_then(serde_json::Value::as_f64);
        value.unwrap_or_else(|| panic!("no {pointer} in {told:#}"))
    };
    for (pointer, want) in [
        ("/index", 0),
        ("/pid", pid),
        ("/portsInUse", 1),
        ("/restarts", 0),
        ("/rooms", 1),
        ("/stats/transports", 4),
        ("/stats/producers", 1),
        ("/stats/consumers", 1),
    ] {
        assert_eq!(number(pointer), want as f64, "{pointer}");
    }
    assert_eq!(number("/maxPort") - number("/minPort"), 39.0);
    assert_eq!(told["state"], "ready");
    assert!(number("/uptimeSeconds") >= 1.0);
    assert!(number("/load/cpuPercent") > 0.0);
    assert!(number("/load/bytesInPerSecond") > 2000.0);
    assert!(number("/load/bytesOutPerSecond") > 2000.0);
    assert!(number("/stats/rssBytes") > 1e6);
    for reason in [
        "unparsable",
        "unknown",
        "refusedChecks",
        "refused",
        "tooLong",
        "wrongStream",
        "falseReports",
        "sendErrors",
    ] {
        assert!(number(&format!("/stats/droppedByReason/{reason}")) >= 0.0);
    }
    for name in ["cpu", "lastExit"] {
        assert!(told.as_object().unwrap().contains_key(name), "{name}");
    }
}
