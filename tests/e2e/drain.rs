//! Drain under load: rooms on every worker with sound and pictures both ways while
//! the server, or one of its workers, is told to end. Calls go on without a lost
//! packet until they end or their time is over.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use test_peer::str0m::media::MediaKind;

use crate::client::{Client, MediaSender};
use crate::faults::{worker, worker_of};
use crate::https;
use crate::protoo::Protoo;
use crate::server::{DEADLINE, Options, Server, is_alive, wait_until};

/// Rooms with a call of two; they are spread over two workers.
const ROOMS: usize = 6;

/// What each peer sends.
const AUDIO: u32 = 1000;
const VIDEO: u32 = 2000;

/// Most packets of a stream that are still under way at a time: half a second's.
const UNDER_WAY: u64 = 40;

/// Somebody in a call: sends sound and pictures, and receives the other's.
struct Member {
    /// Before the client, which would wait for their end.
    audio: MediaSender,
    video: MediaSender,
    client: Client,
    /// SSRCs of the other's, sound and picture.
    from_other: [u64; 2],
}

impl Member {
    async fn enter(server: &Server, room: &str, id: &str) -> (Client, [MediaSender; 2]) {
        let mut client = Client::join(server.address(), room, id).await;
        let mut senders = Vec::new();
        for (kind, ssrc) in [(MediaKind::Audio, AUDIO), (MediaKind::Video, VIDEO)] {
            client.produce(kind, ssrc).await;
            senders.push(client.start_sending(kind, ssrc));
        }
        (client, senders.try_into().ok().unwrap())
    }

    async fn hear_the_other((mut client, senders): (Client, [MediaSender; 2])) -> Self {
        let mut from_other = [0; 2];
        for _ in 0..2 {
            let consumer = client.accept_consumer().await;
            from_other[usize::from(consumer.kind == "video")] = consumer.ssrc;
        }
        let [audio, video] = senders;
        Self {
            audio,
            video,
            client,
            from_other,
        }
    }

    /// For each stream of the other's, how many packets have come and how many are
    /// missing among them.
    fn received(&self) -> [(u64, u64); 2] {
        self.from_other.map(|ssrc| {
            let packets = self.client.receive.packets(ssrc);
            let mut numbers: Vec<u64> = packets.iter().map(|it| it.sequence).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let count = numbers.len() as u64;
            let span = numbers.last().zip(numbers.first());
            let span = span.map_or(0, |(last, first)| last - first + 1);
            (count, span - count)
        })
    }
}

/// A room with two in it.
struct Call {
    room: String,
    members: [Member; 2],
}

impl Call {
    async fn start(server: &Server, room: &str) -> Self {
        let alice = Member::enter(server, room, "alice").await;
        let bob = Member::enter(server, room, "bob").await;
        let call = Self {
            room: room.to_owned(),
            members: [
                Member::hear_the_other(alice).await,
                Member::hear_the_other(bob).await,
            ],
        };
        call.flows(10);
        call
    }

    /// Waits for so many more packets of each of the four streams.
    fn flows(&self, more: u64) {
        let counts = || {
            let both = self.members.iter().flat_map(Member::received);
            both.map(|(count, _)| count).collect::<Vec<_>>()
        };
        let before = counts();
        wait_until("media both ways", || {
            let pairs = counts().into_iter().zip(&before);
            pairs.into_iter().all(|(now, before)| now >= before + more)
        });
    }

    /// Fails when a packet of any of the four streams is missing; answers how many
    /// have come.
    fn lost_nothing(&self) -> u64 {
        let mut total = 0;
        for member in &self.members {
            for (count, missing) in member.received() {
                assert_eq!(missing, 0, "of {count} packets in {}", self.room);
                total += count;
            }
        }
        total
    }

    /// For each of the four streams, how many packets were sent, and how many of
    /// their numbers have passed.
    fn progress(&self) -> Vec<(u64, u64)> {
        let [alice, bob] = &self.members;
        let directions = [(alice, bob), (bob, alice)].into_iter();
        let progress = directions.flat_map(|(from, to)| {
            let sent = [from.audio.sent(), from.video.sent()];
            sent.into_iter().zip(to.received())
        });
        progress
            .map(|(sent, (count, missing))| (sent, count + missing))
            .collect()
    }

    /// Fails when a packet is missing, or when what was sent since `before` is not
    /// there too, but for what is under way; answers how many have come.
    fn arrived_since(&self, before: &[(u64, u64)]) -> u64 {
        for (now, before) in self.progress().iter().zip(before) {
            let (sent, arrived) = (now.0 - before.0, now.1 - before.1);
            assert!(sent > UNDER_WAY, "{sent} in {}", self.room);
            let under_way = sent.saturating_sub(arrived);
            assert!(
                under_way <= UNDER_WAY,
                "{arrived} of {sent} in {}",
                self.room
            );
        }
        self.lost_nothing()
    }

    /// A request and its answer for each of them: both sockets are open.
    async fn is_served(&mut self) {
        for member in &mut self.members {
            let answer = member
                .client
                .protoo
                .request("getRouterRtpCapabilities", json!({}));
            answer.await.unwrap();
        }
    }

    /// Waits until both sockets are closed; fails unless it is with 1012.
    async fn closed(self) {
        for Member {
            audio,
            video,
            client,
            ..
        } in self.members
        {
            drop((audio, video));
            assert_eq!(client.protoo.closed().await, Some(1012), "{}", self.room);
        }
    }

    async fn leave(mut self) {
        for member in &mut self.members {
            let left = member.client.protoo.request("leaveRoom", json!({}));
            left.await.unwrap();
        }
    }
}

/// A server with calls on both of its workers.
async fn busy_server(drain_timeout: u64) -> (Server, Vec<Call>) {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .env("DRAIN_TIMEOUT", drain_timeout)
        .start();
    let mut calls = Vec::new();
    for index in 0..ROOMS {
        calls.push(Call::start(&server, &format!("room{index}")).await);
    }
    for slot in 0..2 {
        let rooms = worker(&server, slot)["rooms"].as_u64();
        assert!(rooms.is_some_and(|rooms| rooms >= 2), "{slot}: {rooms:?}");
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
    const PATIENCE: u64 = 6;
    let (mut server, mut calls) = busy_server(PATIENCE).await;
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
    let nearly = Duration::from_secs(PATIENCE) - Duration::from_millis(1500);
    while begin.elapsed() < nearly {
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
    println!("figure: drain of {ROOMS} calls: 0 of {packets} packets lost");

    assert_eq!(third.protoo.closed().await, Some(1012));
    assert!(begin.elapsed() >= Duration::from_secs(PATIENCE));
    for call in calls {
        call.lost_nothing();
        call.closed().await;
    }
    let status = server.wait_for_end(DEADLINE);
    assert_eq!(status.and_then(|it| it.code()), Some(0), "{status:?}");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(PATIENCE + 3), "{took:?}");
    assert!(workers.iter().all(|(_, pid)| !is_alive(*pid)));
    assert_eq!(server.leftovers(), Vec::<std::path::PathBuf>::new());
    let line = server.wait_for_line("calls did not end in time");
    assert!(line.contains(&format!("peers={}", 2 * ROOMS + 1)), "{line}");
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
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("figure: second signal during {ROOMS} calls: end after {took:.2?}");
    for call in calls {
        call.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drains_and_calls_on_the_other_notice_nothing() {
    const PATIENCE: u64 = 5;
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
    while begin.elapsed() < Duration::from_secs(PATIENCE) - Duration::from_millis(1500) {
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
    let made = https::request("POST", &server.url("/rooms/fresh"), &[], "");
    assert_eq!(made.0, 200, "{}", made.1);
    assert_eq!(worker_of(&server, "fresh"), slot);
}
