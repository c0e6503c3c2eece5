//! A client without transport-cc, which tells by REMB what it can receive: never much
//! more than it gets.

use std::time::Duration;

use proto::event::Event;

use test_peer::str0m::media::MediaKind;

use crate::bandwidth::Call;
use crate::room::{Source, call, consume, produce, produce_request, stream};

const SECOND: Duration = Duration::from_secs(1);
/// How often the client tells.
const INTERVAL: Duration = Duration::from_millis(250);

/// The call of the tests about bandwidth, whose client 1 estimates as aiortc and older
/// browsers do: 8 % more each second up to 1.5 times of what it gets, and less than it
/// gets when packets queue.
struct RembCall {
    call: Call,
    told: u64,
    reached: usize,
    /// It takes its own delays for those of the link, now and then.
    nervous: bool,
    times: u32,
}

impl RembCall {
    fn new(seed: u64) -> Self {
        let mut room = call(seed);
        // The camera has transport-cc, and is of no interest here.
        room.0.engine.close_consumer("v").unwrap();
        room.0.clients[1].transport_cc = false;
        Self {
            call: Call::with(room),
            told: 1_000_000,
            reached: 0,
            nervous: false,
            times: 0,
        }
    }

    /// Has somebody send one more video of one layer, of 1.5 Mbit/s.
    fn add_camera(&mut self, id: &str, ssrc: u32, received: u32) {
        let network = &mut self.call.network;
        let mut request = produce_request("send", id, MediaKind::Video, ssrc);
        request.mid = Some(id.into());
        produce(network, 0, &request);
        let consumer = format!("{id}-consumer");
        consume(
            network,
            1,
            "recv",
            &consumer,
            id,
            MediaKind::Video,
            received,
        );
        network
            .engine
            .resume_consumer(network.now, &consumer)
            .unwrap();
        let mut source = Source::new(network, 0, MediaKind::Video, ssrc);
        source.frame_len = Some(1_500_000 / 8 / 25);
        self.call.layers.push(source);
    }

    /// Packets of a stream that came in the next seconds.
    fn come(&mut self, ssrc: u32, seconds: u32) -> usize {
        let before = stream(&self.call.network, 1, ssrc).len();
        self.run(seconds * SECOND);
        stream(&self.call.network, 1, ssrc).len() - before
    }

    fn run(&mut self, time: Duration) {
        let end = self.call.network.now + time;
        while self.call.network.now < end {
            self.call.run(INTERVAL);
            self.tell();
        }
    }

    fn tell(&mut self) {
        let now = self.call.network.now;
        let client = &mut self.call.network.clients[1];
        let octets = client.reached - std::mem::replace(&mut self.reached, client.reached);
        let gets = (octets as f64 * 8.0 / INTERVAL.as_secs_f64()) as u64;
        let waits = client
            .downlink
            .as_ref()
            .map_or(Duration::ZERO, |it| it.waits(now));
        self.times += 1;
        let alarmed = self.nervous && self.times.is_multiple_of(12);
        self.told = if alarmed || waits > Duration::from_millis(100) {
            gets * 85 / 100
        } else {
            (self.told * 102 / 100).min(gets * 3 / 2 + 10_000)
        };
        client.peer.tell_remb(7000, self.told);
    }

    fn run_until_layer(&mut self, layer: u32, within: Duration) -> Duration {
        let start = self.call.network.now;
        while self.call.layer() != Some(layer) {
            let waited = self.call.network.now - start;
            assert!(
                waited < within,
                "no layer {layer} in {waited:?}, told {}",
                self.told
            );
            self.run(INTERVAL);
        }
        self.call.network.now - start
    }

    /// How often another layer was told since then.
    fn changes(&self, since: usize) -> usize {
        let events = self.call.network.events[since..].iter();
        let of =
            |event: &&Event| matches!(event, Event::ConsumerLayers(it) if it.consumer_id == "s");
        events.filter(of).count()
    }
}

#[test]
fn more_is_tried_than_it_ever_tells_and_seldom_where_that_fails() {
    for seed in 1..=2 {
        let mut call = RembCall::new(seed);
        call.call.link(4_000_000);
        let up = call.run_until_layer(2, 40 * SECOND);
        call.run(60 * SECOND);
        assert_eq!(call.call.layer(), Some(2), "it stays, told {}", call.told);

        call.call.link(800_000);
        let down = call.run_until_layer(1, 5 * SECOND);
        let since = call.call.network.events.len();
        call.run(120 * SECOND);
        let changes = call.changes(since);
        println!("seed {seed}: up in {up:?}, down in {down:?}, then {changes} changes in 120 s");
        assert!(changes <= 12, "{changes} changes");

        call.call.link(4_000_000);
        call.run_until_layer(2, 120 * SECOND);
    }
}

#[test]
fn one_that_takes_alarm_at_nothing_gets_the_best_layer_all_the_same() {
    for seed in 1..=2 {
        let mut call = RembCall::new(seed);
        call.nervous = true;
        call.call.link(6_000_000);
        call.run(40 * SECOND);
        let since = call.call.network.events.len();
        call.run(60 * SECOND);
        let changes = call.changes(since);
        assert_eq!(
            (call.call.layer(), changes),
            (Some(2), 0),
            "told {}",
            call.told
        );
    }
}

#[test]
fn videos_of_one_layer_are_all_sent_until_that_harms() {
    for seed in 1..=2 {
        let mut call = RembCall::new(seed);
        call.nervous = true;
        call.call.link(10_000_000);
        call.add_camera("one", 2100, 6100);
        call.add_camera("two", 2200, 6200);
        call.run(10 * SECOND);
        // 25 frames a second, each of several packets.
        for ssrc in [6100, 6200] {
            let come = call.come(ssrc, 10);
            assert!(come > 1000, "{come} packets of {ssrc}, told {}", call.told);
        }
        // There is room for one and a half of them.
        call.call.link(2_400_000);
        call.run(10 * SECOND);
        let come = [6100, 6200].map(|ssrc| call.come(ssrc, 20));
        println!("seed {seed}: {come:?} packets, told {}", call.told);
        assert!(come.iter().any(|it| *it > 1500), "one is whole: {come:?}");
        assert!(
            come.iter().any(|it| *it < 1000),
            "the other one rests: {come:?}"
        );
    }
}
