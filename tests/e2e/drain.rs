//! Drain under load: rooms on every worker with sound and pictures both ways while
//! the server, or one of its workers, is told to end. Calls go on without a lost
//! packet until they end or their time is over.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::client::Client;
use crate::duplex::Call;
use crate::faults::{worker, worker_of};
use crate::https;
use crate::protoo::Protoo;
use crate::server::{DEADLINE, Options, Server, is_alive, wait_until};

/// Rooms with a call of two, at least.
const ROOMS: usize = 6;
/// And at most: by then no worker is without some, however busy the machine is.
const MOST_ROOMS: usize = 20;

/// `DRAIN_TIMEOUT` where it is waited for, seconds.
const PATIENCE: u64 = 14;
/// Until when calls are watched, so that there is time to ask whether all is well before
/// the end.
const NEARLY: Duration = Duration::from_secs(PATIENCE - 5);

/// A server with two calls at least on each of its two workers.
async fn busy_server(drain_timeout: u64) -> (Server, Vec<Call>) {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .env("DRAIN_TIMEOUT", drain_timeout)
        .start();
    let mut calls = Vec::new();
    let has_two = |slot| worker(&server, slot)["rooms"].as_u64() >= Some(2);
    while calls.len() < ROOMS || !(has_two(0) && has_two(1)) {
        assert!(calls.len() < MOST_ROOMS, "all rooms are on one worker");
        calls.push(Call::start(&server, &format!("room{}", calls.len())).await);
    }
    (server, calls)
}

/// Fails unless rooms that are not there cannot be made, in no way.
async fn takes_no_new_rooms(server: &Server) {
    for path in ["/health", "/rooms/health"] {
        let (status, body) = https::get(&server.url(path));
        assert_eq!(
            (status, &body["status"]),
            (503, &json!("unavailable")),
            "{path}"
        );
    }
    for path in ["/rooms/new", "/rooms"] {
        let (status, body) = https::request("POST", &server.url(path), &[], "");
        assert_eq!(status, 503, "{path}: {body}");
    }
    let refused = Protoo::connect(server.address(), "roomId=new&peerId=x").await;
    assert_eq!(refused.err(), Some(503));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_until_the_deadline_and_then_all_end() {
    let (mut server, mut calls) = busy_server(PATIENCE).await;
    let rooms = calls.len();
    let workers = server.workers();
    let before: Vec<_> = calls.iter().map(Call::progress).collect();
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    wait_until("health says so", || {
        https::get(&server.url("/health")).0 == 503
    });
    takes_no_new_rooms(&server).await;
    // Who was cut off is let in where others are.
    let mut third = Client::join(server.address(), "room0", "third").await;
    third.accept_consumer().await;
    for call in &mut calls {
        call.is_served().await;
    }
    // As far as the deadline, and nothing is lost in all that time.
    while begin.elapsed() < NEARLY {
        for call in &calls {
            call.flows(1);
        }
    }
    let mut packets = 0;
    for (call, before) in calls.iter_mut().zip(&before) {
        packets += call.arrived_since(before);
        call.is_served().await;
    }
    assert!(begin.elapsed() < Duration::from_secs(PATIENCE), "too slow");
    println!("figure: drain of {rooms} calls: 0 of {packets} packets lost");

    assert_eq!(third.protoo.closed().await, Some(1012));
    assert!(begin.elapsed() >= Duration::from_secs(PATIENCE));
    for call in calls {
        call.lost_nothing();
        call.closed().await;
    }
    let status = server.wait_for_end(DEADLINE);
    assert_eq!(status.and_then(|it| it.code()), Some(0), "{status:?}");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(PATIENCE + 5), "{took:?}");
    assert!(workers.iter().all(|(_, pid)| !is_alive(*pid)));
    assert_eq!(server.leftovers(), Vec::<std::path::PathBuf>::new());
    let line = server.wait_for_line("calls did not end in time");
    assert!(line.contains(&format!("peers={}", 2 * rooms + 1)), "{line}");
}

/// Nobody is joined for a moment, and yet the call is not over; the same where the
/// worker has to be started again first.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_dies_meanwhile_may_go_on() {
    for workers in [2, 1] {
        let mut server = Options::new()
            .env("MEDIASOUP_NUM_WORKERS", workers)
            .env("MEDIASOUP_WORKER_CPUS", "none")
            .start();
        let call = Call::start(&server, "room").await;
        let slot = worker_of(&server, "room");
        server.signal(Signal::SIGTERM);
        server.wait_for_line("no new rooms are taken");
        kill(server.workers()[slot].1, Signal::SIGKILL).unwrap();
        call.closed().await;
        // As protoo-client does: it is looked for the end meanwhile, several times.
        tokio::time::sleep(Duration::from_secs(1)).await;
        wait_until("somebody may come back", || {
            let path = "/rooms/room/admission?peerId=somebody";
            https::get(&server.url(path)).0 == 200
        });
        let call = Call::start(&server, "room").await;
        let other = if workers == 2 { 1 - slot } else { slot };
        assert_eq!(worker_of(&server, "room"), other);
        takes_no_new_rooms(&server).await;
        call.flows(10);
        call.lost_nothing();
        call.leave().await;
        let status = server.wait_for_end(DEADLINE);
        assert_eq!(status.and_then(|it| it.code()), Some(0), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_many_calls_at_once() {
    let (mut server, calls) = busy_server(60).await;
    server.signal(Signal::SIGTERM);
    server.wait_for_line("no new rooms are taken");
    for call in &calls {
        call.flows(10);
        call.lost_nothing();
    }
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_for_end(DEADLINE);
    let took = begin.elapsed();
    assert_eq!(status.and_then(|it| it.code()), Some(0), "{status:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let rooms = calls.len();
    println!("figure: second signal during {rooms} calls: end after {took:.2?}");
    for call in calls {
        call.closed().await;
    }
}

/// What started the server ends it after somebody has asked it to drain.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_after_an_admins_drain_is_the_first_one() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("DRAIN_TIMEOUT", 60)
        .start();
    let mut call = Call::start(&server, "room").await;
    let drain = server.url("/admin/drain");
    assert_eq!(https::request("POST", &drain, &[], "").0, 200);
    server.wait_for_line("no new rooms are taken");
    server.signal(Signal::SIGTERM);
    server.wait_for_line("as before");
    call.flows(10);
    call.is_served().await;
    call.lost_nothing();
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    call.closed().await;
    let status = server.wait_for_end(DEADLINE);
    assert_eq!(status.and_then(|it| it.code()), Some(0), "{status:?}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drains_and_calls_on_the_other_notice_nothing() {
    let (server, calls) = busy_server(PATIENCE).await;
    let pids = server.workers();
    let slot = worker_of(&server, "room0");
    let (mut drained, mut spared): (Vec<Call>, Vec<Call>) = calls
        .into_iter()
        .partition(|call| worker_of(&server, &call.room) == slot);
    let progress = |calls: &[Call]| calls.iter().map(Call::progress).collect::<Vec<_>>();
    let before = (progress(&drained), progress(&spared));
    let path = server.url(&format!("/admin/workers/{slot}/drain"));
    let begin = Instant::now();
    let (status, answer) = https::request("POST", &path, &[], "");
    assert_eq!(status, 200);
    assert_eq!(answer["rooms"], drained.len());
    assert_eq!(worker(&server, slot)["state"], "draining");
    // The server is well, and new rooms go elsewhere.
    assert_eq!(https::get(&server.url("/health")).0, 200);
    for room in ["new1", "new2", "new3"] {
        let made = https::request("POST", &server.url(&format!("/rooms/{room}")), &[], "");
        assert_eq!(made.0, 200, "{}", made.1);
        assert_eq!(worker_of(&server, room), 1 - slot);
    }
    // One of its calls ends by itself, the others go on as long as they may.
    drained.pop().unwrap().leave().await;
    while begin.elapsed() < NEARLY {
        for call in drained.iter().chain(&spared) {
            call.flows(1);
        }
    }
    let still = drained.iter_mut().zip(&before.0);
    for (call, before) in still.chain(spared.iter_mut().zip(&before.1)) {
        call.arrived_since(before);
        call.is_served().await;
    }
    assert!(begin.elapsed() < Duration::from_secs(PATIENCE), "too slow");

    let mut moved = Vec::new();
    for call in drained {
        let room = call.room.clone();
        call.lost_nothing();
        call.closed().await;
        // By then it is on the other worker, and who comes back is in it.
        assert_eq!(worker_of(&server, &room), 1 - slot);
        moved.push(Call::start(&server, &room).await);
    }
    assert!(begin.elapsed() >= Duration::from_secs(PATIENCE));
    wait_until("another worker", || {
        let worker = worker(&server, slot);
        worker["state"] == "ready" && worker["restarts"] == 1
    });
    let exit = worker(&server, slot)["lastExit"]["reason"].clone();
    assert_eq!(exit, "replaced on request");
    assert!(!is_alive(pids[slot].1));
    assert_eq!(server.workers()[1 - slot], pids[1 - slot]);
    let mut packets = 0;
    for (call, before) in spared.iter_mut().zip(&before.1) {
        call.flows(10);
        packets += call.arrived_since(before);
        call.is_served().await;
    }
    println!("figure: drain of a worker: the other's calls lost 0 of {packets} packets");
    for call in &moved {
        call.flows(10);
        call.lost_nothing();
    }
    // The one that was replaced takes rooms again.
    let mut rooms = 0;
    wait_until("a room on the new worker", || {
        rooms += 1;
        let room = format!("fresh{rooms}");
        let made = https::request("POST", &server.url(&format!("/rooms/{room}")), &[], "");
        assert_eq!(made.0, 200, "{}", made.1);
        worker_of(&server, &room) == slot
    });
}
