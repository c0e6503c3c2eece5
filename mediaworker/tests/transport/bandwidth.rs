//! Bandwidth towards a client: estimated, shared, found again.

use std::time::{Duration, Instant};

use proto::event::Event;
use test_peer::str0m::media::MediaKind;
use test_peer::{PeerConfig, ReceivedRtp};

use crate::network::{Link, Network};
use crate::room::{Source, call, consume, is_key_frame_start, produce_request, run, stream};

const SECOND: Duration = Duration::from_secs(1);
const RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";

/// A call in which client 0 also sends a camera in three layers of 150, 500 and
/// 1500 kbit/s (SSRCs 3000, 3010, 3020), which client 1 gets as 7000, and client 2,
/// whose link is never narrow, as 7100.
pub struct Call {
    pub network: Network,
    audio: Source,
    pub layers: Vec<Source>,
    /// When client 1 asked for a key frame last.
    asked: Instant,
}

impl Call {
    fn new(seed: u64) -> Self {
        Self::with(call(seed))
    }

    pub fn with((mut network, audio, _): (Network, Source, Source)) -> Self {
        network.conditions.delay = Duration::from_millis(25);
        let mut request = produce_request("send", "screen", MediaKind::Video, 3000);
        request.mid = Some("2".into());
        request.header_extensions.push(proto::HeaderExtension {
            id: 10,
            uri: RTP_STREAM_ID.into(),
        });
        request.encodings = Vec::new();
        let mut layers = Vec::new();
        for (ssrc, rid, size) in [(3000, "l", 150), (3010, "m", 500), (3020, "h", 1500)] {
            request.encodings.push(proto::ProducerEncoding {
                ssrc: Some(ssrc),
                rtx_ssrc: Some(ssrc + 1),
                rid: Some(rid.into()),
                ..Default::default()
            });
            network.clients[0].peer.send_layer("2", ssrc, ssrc + 1, rid);
            let mut source = Source::new(&network, 0, MediaKind::Video, ssrc);
            // 25 frames a second.
            source.frame_len = Some(size * 1000 / 8 / 25);
            layers.push(source);
        }
        network.engine.produce(network.now, &request).unwrap();
        consume(
            &mut network,
            1,
            "recv",
            "s",
            "screen",
            MediaKind::Video,
            7000,
        );
        network.engine.resume_consumer(network.now, "s").unwrap();
        let wide = network.add_client(&PeerConfig::receiving());
        network.connect(wide, "wide", false);
        let video = MediaKind::Video;
        consume(&mut network, wide, "wide", "w", "screen", video, 7100);
        network.run_until("the third is connected", |n| n.clients[wide].peer.connected);
        network.engine.resume_consumer(network.now, "w").unwrap();
        Self {
            asked: network.now,
            network,
            audio,
            layers,
        }
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.network.now + time;
        while self.network.now < end {
            let mut all: Vec<&mut Source> = self.layers.iter_mut().collect();
            all.push(&mut self.audio);
            let step = (end - self.network.now).min(SECOND / 20);
            run(&mut self.network, &mut all, step);
            // As a decoder does that has nothing to show.
            let waited = self.network.now - SECOND * 3 / 10;
            if self.asked < waited && self.frames(1, 7000).last().is_some_and(|at| *at < waited) {
                self.asked = self.network.now;
                self.network.clients[1].peer.request_key_frame(7000);
            }
        }
    }

    pub fn link(&mut self, rate: u64) {
        let link = Link::new(self.network.now, rate, SECOND / 5);
        self.network.clients[1].downlink = Some(link);
    }

    /// When a decoder at a client could show each frame of the camera: it is whole,
    /// and so is everything since the last key frame.
    fn frames(&self, client: usize, ssrc: u32) -> Vec<Instant> {
        let packets = stream(&self.network, client, ssrc);
        let mut shown: Vec<Instant> = Vec::new();
        // Last sequence number of what could be shown, and when.
        let mut chain: Option<(u64, Instant)> = None;
        for frame in packets.chunk_by(|a, b| a.header.timestamp == b.header.timestamp) {
            let (first, last) = (&frame[0], &frame[frame.len() - 1]);
            let whole = first.payload[0] == 0x10
                && last.header.marker
                && frame
                    .windows(2)
                    .all(|pair| pair[1].sequence == pair[0].sequence + 1);
            let complete = frame.iter().map(|p| p.at).max().unwrap();
            chain = match chain {
                _ if whole && is_key_frame_start(first) => Some(complete),
                Some((sequence, at)) if whole && sequence + 1 == first.sequence => {
                    Some(complete.max(at))
                }
                _ => None,
            }
            .map(|at| (last.sequence, at));
            shown.extend(chain.map(|(_, at)| at));
        }
        shown
    }

    pub fn layer(&self) -> Option<u32> {
        let of = |event: &Event| match event {
            Event::ConsumerLayers(told) if told.consumer_id == "s" => {
                Some(told.layers.map(|layers| layers.spatial_layer))
            }
            _ => None,
        };
        self.network.events.iter().rev().find_map(of).flatten()
    }

    /// Longest time without a new picture at client 1, between two times since the
    /// start.
    fn longest_freeze(&self, from: Duration, to: Duration) -> Duration {
        self.longest_freeze_at(1, 7000, from, to)
    }

    fn longest_freeze_at(
        &self,
        client: usize,
        ssrc: u32,
        from: Duration,
        to: Duration,
    ) -> Duration {
        let start = self.network.start;
        let mut times = vec![start + from];
        let within = |at: &Instant| (start + from..start + to).contains(at);
        times.extend(self.frames(client, ssrc).into_iter().filter(within));
        times.push(start + to);
        let gaps = times.windows(2);
        gaps.map(|pair| pair[1].saturating_duration_since(pair[0]))
            .max()
            .unwrap()
    }

    /// Octets of probes that client 1 was sent.
    fn probed(&self) -> u64 {
        let stats = self
            .network
            .engine
            .transport_stats(self.network.now, "recv");
        stats.unwrap().probation_sent.unwrap().bytes
    }

    fn now(&self) -> Duration {
        self.network.now - self.network.start
    }

    /// Runs until a layer is told; answers how long that took.
    pub fn run_until_layer(&mut self, layer: u32, within: Duration) -> Duration {
        let start = self.network.now;
        while self.layer() != Some(layer) {
            let waited = self.network.now - start;
            assert!(waited < within, "no layer {layer} in {waited:?}");
            self.run(SECOND / 20);
        }
        self.network.now - start
    }

    /// Share of the audio packets of a time that arrived.
    fn audio(&self, from: Duration, to: Duration) -> f64 {
        let start = self.network.start;
        let packets = stream(&self.network, 1, 5000);
        let within = |p: &&ReceivedRtp| (start + from..start + to).contains(&p.at);
        packets.iter().filter(within).count() as f64 / ((to - from).as_secs_f64() * 50.0)
    }
}

#[test]
fn a_link_that_narrows_and_widens_again_freezes_nothing_for_long() {
    // Six by default; more are a matter of patience.
    let seeds = std::env::var("BANDWIDTH_SEEDS").map_or(6, |seeds| seeds.parse().unwrap());
    for seed in 1..=seeds {
        let mut call = Call::new(u64::from(seed));
        call.link(2_000_000);
        call.run_until_layer(2, 12 * SECOND);
        // Between any two reports of the client.
        call.run(5 * SECOND + SECOND * seed / 60);
        assert_eq!(call.layer(), Some(2), "it stays");

        let narrow = call.now();
        call.link(300_000);
        let down = call.run_until_layer(0, 2 * SECOND);
        call.run(10 * SECOND);
        assert_eq!(call.layer(), Some(0), "and keeps what fits");
        let wide = call.now();
        call.link(2_000_000);
        let up = call.run_until_layer(2, 8 * SECOND);
        assert!(call.probed() > 0);
        call.run(3 * SECOND);
        assert_eq!(call.layer(), Some(2));

        let freeze = call.longest_freeze(narrow, call.now());
        let audio = call.audio(narrow + SECOND, wide);
        let wide_freeze = call.longest_freeze_at(2, 7100, narrow, call.now());
        println!(
            "seed {seed}: down in {down:?}, up in {up:?}, freeze {freeze:?} ({wide_freeze:?} \
             on the wide link), audio {audio}"
        );
        assert!(wide_freeze < SECOND / 4, "seed {seed}: {wide_freeze:?}");
        assert!(freeze < SECOND, "seed {seed}: {freeze:?}");
        assert!(audio > 0.98, "seed {seed}: {audio}");
    }
}

#[test]
fn random_loss_is_repaired_and_lowers_nothing_for_long() {
    let mut shares = Vec::new();
    for seed in 1..=3 {
        let mut call = Call::new(seed);
        call.link(4_000_000);
        call.run_until_layer(2, 8 * SECOND);
        call.network.conditions.loss = 0.05;
        let from = call.now();
        call.run(20 * SECOND);
        call.network.conditions.loss = 0.0;
        let to = call.now();
        call.run(SECOND);
        let shown = call.frames(1, 7000);
        let start = call.network.start;
        let shown = shown
            .iter()
            .filter(|at| (start + from..start + to).contains(*at));
        let share = shown.count() as f64 / ((to - from).as_secs_f64() * 25.0);
        let freeze = call.longest_freeze(from, to);
        println!("seed {seed}: {share} of the frames, longest freeze {freeze:?}");
        assert!(freeze < SECOND, "seed {seed}: {freeze:?}");
        shares.push(share);
    }
    // A frame or two may be on the way when the counting begins or ends.
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(
        mean > 0.99 && shares.iter().all(|it| *it > 0.98),
        "{shares:?}"
    );
}
