//! Bandwidth towards a client: estimated, shared, found again.

use std::time::{Duration, Instant};

use proto::event::Event;
use test_peer::str0m::media::MediaKind;

use crate::network::{Link, Network};
use crate::room::{Source, call, consume, produce_request, run, stream};

const SECOND: Duration = Duration::from_secs(1);
const RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";

/// A call in which client 0 also sends a camera in three layers of 150, 500 and
/// 1500 kbit/s (SSRCs 3000, 3010, 3020), which client 1 gets as 7000.
struct Call {
    network: Network,
    audio: Source,
    layers: Vec<Source>,
}

impl Call {
    fn new(seed: u64) -> Self {
        let (mut network, audio, _) = call(seed);
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
        Self {
            network,
            audio,
            layers,
        }
    }

    fn run(&mut self, time: Duration) {
        let mut all: Vec<&mut Source> = self.layers.iter_mut().collect();
        all.push(&mut self.audio);
        run(&mut self.network, &mut all, time);
    }

    fn link(&mut self, rate: u64) {
        let link = Link::new(self.network.now, rate, SECOND / 5);
        self.network.clients[1].downlink = Some(link);
    }

    /// When each frame of the camera was complete at client 1.
    fn frames(&self) -> Vec<Instant> {
        let packets = stream(&self.network, 1, 7000);
        let (mut frames, mut begin) = (Vec::new(), 0);
        for end in 0..packets.len() {
            if !packets[end].header.marker {
                continue;
            }
            let frame = &packets[begin..=end];
            let whole = frame
                .windows(2)
                .all(|pair| pair[1].sequence == pair[0].sequence + 1);
            let first = frame[0].payload[0] == 0x10;
            begin = end + 1;
            if whole && first {
                frames.push(frame.iter().map(|p| p.at).max().unwrap());
            }
        }
        frames
    }

    fn layer(&self) -> Option<u32> {
        let of = |event: &Event| match event {
            Event::ConsumerLayers(told) if told.consumer_id == "s" => {
                Some(told.layers.map(|layers| layers.spatial_layer))
            }
            _ => None,
        };
        self.network.events.iter().rev().find_map(of).flatten()
    }

    fn trace(&mut self, seconds: u64) {
        for _ in 0..seconds * 5 {
            self.run(SECOND / 5);
            let network = &self.network;
            let stats = network.engine.transport_stats(network.now, "recv").unwrap();
            println!(
                "{:?} layer {:?} available {:?} sent {} rtp {} rtx {} dropped {:?}",
                network.now - network.start,
                self.layer(),
                stats.available_outgoing_bitrate,
                stats.sent.unwrap().bitrate,
                stats.rtp_sent.unwrap().bitrate,
                stats.rtx_sent.unwrap().bitrate,
                network.clients[1].downlink.as_ref().map(|l| l.dropped),
            );
            let all = network.engine.explain_consumers(network.now, "room");
            for one in all.unwrap().consumers {
                if one.consumer_id == "s" {
                    println!(
                        "   {:?} {:?} {:?} {:?}",
                        one.target.map(|l| (l.spatial_layer, l.temporal_layer)),
                        one.bitrate,
                        one.limit,
                        one.wait
                    );
                }
            }
        }
    }
}

#[test]
fn trial() {
    tracing_subscriber::fmt()
        .with_env_filter("str0m::bwe_=trace,str0m::bwe=trace,str0m::pacer=trace")
        .without_time()
        .with_ansi(false)
        .init();
    let mut call = Call::new(1);
    for rate in [10_000_000, 2_000_000, 300_000, 2_000_000] {
        println!("--- {rate}");
        call.link(rate);
        call.trace(10);
    }
    let frames = call.frames();
    for pair in frames.windows(2) {
        let gap = pair[1].saturating_duration_since(pair[0]);
        if gap > Duration::from_millis(150) {
            println!("gap at {:?}: {gap:?}", pair[0] - call.network.start);
        }
    }
}
