//! Late joiners: how long until they see something, and what that costs the producer.

use std::time::{Duration, Instant};

use test_peer::str0m::media::MediaKind;
use test_peer::{PeerConfig, ReceivedRtp};

use crate::network::Network;
use crate::room::{
    Source, consume, create_router, is_key_frame_start, number, produce, produce_request, stream,
};

const JOINERS: usize = 10;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const SSRC: u32 = 2000;

/// A room with a camera of 480 kbit/s that sends key frames when it is asked, and clients that
/// have been connected but get nothing yet; 50 ms round trip time.
struct Room {
    network: Network,
    camera: Source,
    /// When each request for a key frame reached the camera.
    asked: Vec<Instant>,
}

fn id(joiner: usize) -> String {
    format!("v{joiner}")
}

fn ssrc(joiner: usize) -> u32 {
    6000 + 10 * u32::try_from(joiner).unwrap()
}

impl Room {
    fn new(seed: u64) -> Self {
        let mut network = Network::new(seed);
        network.conditions.delay = 25 * MS;
        create_router(&mut network);
        network.add_client(&PeerConfig::sending());
        network.connect(0, "send", true);
        let request = produce_request("send", "cam", MediaKind::Video, SSRC);
        produce(&mut network, 0, &request);
        for joiner in 0..JOINERS {
            let client = network.add_client(&PeerConfig::receiving());
            let transport = format!("recv{joiner}");
            let created = network.create_transport(&transport, false);
            let (consumer, kind) = (id(joiner), MediaKind::Video);
            consume(
                &mut network,
                client,
                &transport,
                &consumer,
                "cam",
                kind,
                ssrc(joiner),
            );
            network.connect_to(client, &transport, &created, true);
        }
        network.run_until("all connected", |n| {
            n.clients.iter().all(|c| c.peer.connected)
        });
        let camera = Source::new(&network, 0, MediaKind::Video, SSRC);
        let mut room = Self {
            network,
            camera,
            asked: Vec::new(),
        };
        // The key frame that it began with is long past.
        room.run(4 * SECOND);
        room
    }

    fn step(&mut self) {
        self.camera.step(&mut self.network);
        self.network.step(MS);
        let requests = self.network.clients[0].peer.key_frame_requests.len();
        self.asked.resize(requests, self.network.now);
    }

    fn run(&mut self, time: Duration) {
        let end = self.network.now + time;
        while self.network.now < end {
            self.step();
        }
    }

    fn resume(&mut self, joiner: usize) {
        let now = self.network.now;
        self.network
            .engine
            .resume_consumer(now, &id(joiner))
            .unwrap();
    }

    fn received(&self, joiner: usize) -> Vec<ReceivedRtp> {
        stream(&self.network, joiner + 1, ssrc(joiner))
    }

    /// When a joiner could show each frame. All of them: from a key frame on, nothing is missing,
    /// doubled or out of order.
    fn frames(&self, joiner: usize) -> Vec<Instant> {
        let packets = self.received(joiner);
        assert!(is_key_frame_start(&packets[0]), "joiner {joiner}");
        for pair in packets.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            assert_eq!(b.sequence, a.sequence + 1, "joiner {joiner}");
            assert_eq!(number(b), number(a) + 1, "joiner {joiner}");
            let step = b.header.timestamp.wrapping_sub(a.header.timestamp);
            assert_eq!(step > 0, a.header.marker, "joiner {joiner}: {step}");
            assert!(step <= 3600, "joiner {joiner}: {step}");
        }
        let of_frame = |a: &ReceivedRtp, b: &ReceivedRtp| a.header.timestamp == b.header.timestamp;
        let mut shown: Vec<Instant> = Vec::new();
        for frame in packets.chunk_by(of_frame) {
            if frame.last().is_some_and(|last| last.header.marker) {
                let whole = frame.iter().map(|packet| packet.at).max().unwrap();
                shown.push(shown.last().map_or(whole, |before| whole.max(*before)));
            }
        }
        shown
    }
}

#[test]
fn late_joiners_see_something_soon_and_cost_one_key_frame_a_second() {
    let mut waits = Vec::new();
    for seed in [61, 62, 63] {
        let mut room = Room::new(seed);
        let begin = room.network.now;
        let mut joins: Vec<(Duration, usize)> = (0..JOINERS)
            .map(|joiner| (SECOND.mul_f64(room.network.random()), joiner))
            .collect();
        joins.sort();
        let mut joined = Vec::new();
        for (after, joiner) in joins {
            while room.network.now < begin + after {
                room.step();
            }
            room.resume(joiner);
            joined.push((joiner, room.network.now));
        }
        room.run(3 * SECOND);
        for (joiner, at) in joined {
            let frames = room.frames(joiner);
            waits.push(frames[0] - at);
            let expected = (room.network.now - frames[0]).as_millis() / 40;
            assert!(
                frames.len() as u128 >= expected,
                "seed {seed}, joiner {joiner}: {} of {expected} frames",
                frames.len()
            );
        }
        let asked: Vec<_> = room.asked.iter().map(|at| *at - begin).collect();
        assert!(!asked.is_empty(), "seed {seed}: nobody was asked");
        // Both leave with a tick of the worker, one may have waited for it.
        let is_seldom = asked.windows(2).all(|p| p[1] - p[0] + 2 * MS >= SECOND);
        assert!(is_seldom && asked.len() <= 2, "seed {seed}: {asked:?}");
    }
    waits.sort();
    let p95 = waits[waits.len() * 95 / 100];
    println!(
        "first frame after: median {:?}, p95 {p95:?}, last {:?}",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    assert!(p95 < 500 * MS, "p95 {p95:?} of {waits:?}");
}

#[test]
fn a_replay_under_loss_is_repaired() {
    let mut room = Room::new(64);
    room.network.conditions.loss = 0.05;
    room.resume(0);
    room.run(600 * MS);
    room.resume(1);
    room.run(400 * MS);
    room.resume(2);
    room.run(3 * SECOND);
    room.network.conditions.loss = 0.0;
    room.run(SECOND);
    for joiner in 0..3 {
        let packets = room.received(joiner);
        let mut missing = 0;
        for pair in packets.windows(2) {
            let step = pair[1].sequence - pair[0].sequence;
            assert!(step > 0, "joiner {joiner}: doubled");
            let sent = number(&pair[1]) - number(&pair[0]);
            assert_eq!(u64::from(sent), step, "joiner {joiner}");
            missing += step - 1;
        }
        // Now and then both the packet and all that was resent of it are lost.
        let all = packets.len() as u64;
        assert!(all > 360 && missing * 100 < all, "{missing} of {all}");
    }
}

#[test]
fn what_was_repaired_is_replayed_in_order() {
    let mut room = Room::new(67);
    room.resume(0);
    room.run(200 * MS);
    let lost = room.network.lost;
    room.network.conditions.loss = 0.1;
    room.run(500 * MS);
    room.network.conditions.loss = 0.0;
    room.run(200 * MS);
    assert!(room.network.lost > lost);
    let before = room.asked.len();
    room.resume(1);
    room.run(300 * MS);
    assert_eq!(room.asked.len(), before);
    assert!(room.frames(1).len() > 20);
    let all = &room.network.clients[2].peer.received;
    let arrived: Vec<_> = all.iter().map(|packet| packet.sequence).collect();
    assert!(arrived.is_sorted(), "{arrived:?}");
}

#[test]
fn who_comes_back_soon_gets_what_was_missed_and_nobody_is_asked() {
    let mut room = Room::new(65);
    room.resume(0);
    room.run(400 * MS);
    room.network
        .engine
        .pause_consumer(room.network.now, "v0")
        .unwrap();
    let before = room.asked.len();
    room.run(200 * MS);
    let seen = room.received(0).len();
    room.resume(0);
    room.run(300 * MS);
    assert_eq!(room.asked.len(), before);
    let packets = room.received(0);
    assert!(
        packets
            .windows(2)
            .all(|p| p[1].sequence == p[0].sequence + 1)
    );
    let forward = |p: &[ReceivedRtp]| {
        let step = p[1].header.timestamp.wrapping_sub(p[0].header.timestamp);
        (step > 0) == p[0].header.marker && step <= 9 * 3600
    };
    assert!(packets.windows(2).all(forward), "{packets:?}");
    // It starts with the key frame that it knows, and is where the camera is a moment later.
    assert!(is_key_frame_start(&packets[seen]));
    let (first, last) = (&packets[0], &packets[packets.len() - 1]);
    let clock = last.header.timestamp.wrapping_sub(first.header.timestamp);
    assert_eq!(clock, (number(last) - number(first)) / 4 * 3600);
}

#[test]
fn a_narrow_link_waits_for_a_key_frame() {
    let mut room = Room::new(66);
    // Its operator lets it have 200 kbit/s: 7,500 octets in 300 ms.
    let request = proto::CreateWebRtcTransportRequest {
        router_id: "room".into(),
        transport_id: "narrow".into(),
        consuming: true,
        max_outgoing_bitrate: Some(200_000),
        ..Default::default()
    };
    let client = room.network.add_client(&PeerConfig::receiving());
    let created = room
        .network
        .engine
        .create_web_rtc_transport(&request)
        .unwrap();
    let kind = MediaKind::Video;
    consume(&mut room.network, client, "narrow", "n", "cam", kind, 9000);
    room.network.connect_to(client, "narrow", &created, true);
    room.run(SECOND);
    assert!(room.network.clients[client].peer.connected);
    room.resume(0);
    room.run(400 * MS);
    let before = room.asked.len();
    let now = room.network.now;
    room.network.engine.resume_consumer(now, "n").unwrap();
    room.run(300 * MS);
    assert!(stream(&room.network, client, 9000).is_empty());
    room.run(SECOND);
    assert_eq!(room.asked.len(), before + 1);
    let got = stream(&room.network, client, 9000);
    assert!(is_key_frame_start(&got[0]));
    assert!(got[0].at > now + 500 * MS);
}
