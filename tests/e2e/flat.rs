//! Joins and leaves by the thousand leave nothing behind: no open file, no memory,
//! nothing in any table.

use nix::unistd::Pid;
use serde_json::{Value, json};
use test_peer::str0m::media::MediaKind;

use crate::call::flows;
use crate::client::Client;
use crate::https;
use crate::protoo::Protoo;
use crate::server::{Options, Server, wait_until};

/// Peers that come and go, in each of the two rounds that are compared.
const CYCLES: usize = 1000;

/// Peers at a time.
const AT_ONCE: usize = 8;

/// Every so many steps, two of those that come have a call.
const CALL_EVERY: usize = 5;

/// Growth of a process that no join explains: the allocator's and the runtime's. Two
/// KiB for each join, if something leaked.
const MAX_GROWTH_KIB: u64 = 2 << 10;

fn open_files(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

fn resident_kib(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse().unwrap()
}

/// Joins a room with both transports, and goes; every other one without a word.
async fn come_and_go(server: &Server, cycle: usize) {
    let query = format!("roomId=room{}&peerId=peer{cycle}", cycle % AT_ONCE);
    let mut peer = Protoo::connect(server.address(), &query).await.unwrap();
    for data in [json!({"producing": true}), json!({"consuming": true})] {
        peer.request("createWebRtcTransport", data).await.unwrap();
    }
    let data = json!({"displayName": "x", "device": {"name": "x"}});
    peer.request("join", data).await.unwrap();
    if cycle.is_multiple_of(2) {
        peer.request("leaveRoom", json!({})).await.unwrap();
    }
}

/// A call of two with sound, from the handshakes on; one goes without a word.
async fn call(server: &Server, step: usize) {
    let room = format!("call{step}");
    let mut alice = Client::join(server.address(), &room, "alice").await;
    let mut bob = Client::join(server.address(), &room, "bob").await;
    alice.produce(MediaKind::Audio, 1000).await;
    let _sending = alice.start_sending(MediaKind::Audio, 1000);
    let consumer = bob.accept_consumer().await;
    flows(&bob, &consumer, 5).await;
    bob.protoo.request("leaveRoom", json!({})).await.unwrap();
}

/// [`CYCLES`] of them; then open files and memory of all processes.
async fn round(server: &Server) -> Vec<(usize, u64)> {
    for first in (0..CYCLES).step_by(AT_ONCE) {
        let peers = (first..first + AT_ONCE).map(|cycle| come_and_go(server, cycle));
        let peers = futures_util::future::join_all(peers);
        let step = first / AT_ONCE;
        match step % CALL_EVERY {
            0 => drop(tokio::join!(peers, call(server, step))),
            _ => drop(peers.await),
        }
    }
    let is_empty = |config: &Value| {
        let mut workers = config["workers"].as_array().unwrap().iter();
        config["rooms"]["open"] == 0 && workers.all(|it| it["stats"]["transports"] == 0)
    };
    wait_until("everybody is gone", || {
        is_empty(&https::get(&server.url("/config")).1)
    });
    let workers = server.workers().into_iter().map(|(_, pid)| pid);
    let processes = std::iter::once(server.pid()).chain(workers);
    processes
        .map(|pid| (open_files(pid), resident_kib(pid)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_joins_leave_nothing_behind() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        // In huge pages it grows by 2 MiB at a time, whatever it is for.
        .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
        .start();
    // The first round warms everything up.
    let before = round(&server).await;
    let after = round(&server).await;
    println!("figure: open files and KiB of each process: {before:?}, then {after:?}");
    for ((files, kib), (files_after, kib_after)) in before.iter().zip(&after) {
        // A connection that was just closed may still be there.
        assert!(files_after <= &(files + AT_ONCE), "{before:?} {after:?}");
        assert!(kib_after <= &(kib + MAX_GROWTH_KIB), "{before:?} {after:?}");
    }
}
