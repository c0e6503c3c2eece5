//! What is measured of the way of a packet: the engine with str0m clients in a virtual
//! network, and the media graph by itself. No sockets, no clock.

use std::time::{Duration, Instant};

use router::{
    Codec, ConsumerConfig, Forward, MediaKind as Kind, ProducerConfig, ProducerKey, Router, RtpIn,
    Sink, StreamLayers,
};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::network::Network;
use crate::room::{self, Source};

/// Clients that send, and clients that receive all of them but their own.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub senders: usize,
    /// Those that only receive.
    pub viewers: usize,
    pub video: bool,
}

impl Shape {
    pub const BROADCAST: Self = Self {
        senders: 1,
        viewers: 20,
        video: true,
    };
    pub const MEETING: Self = Self {
        senders: 8,
        viewers: 0,
        video: true,
    };
    pub const AUDIO: Self = Self {
        senders: 12,
        viewers: 0,
        video: false,
    };
    /// Four viewers with 2 streams each, and with 60 each, of the same kinds and with as
    /// many packets in a tick.
    pub const TWO_STREAMS: Self = Self {
        senders: 1,
        viewers: 4,
        video: true,
    };
    pub const SIXTY_STREAMS: Self = Self {
        senders: 30,
        ..Self::TWO_STREAMS
    };
}

/// A room with everybody in it, and media flowing.
pub struct Room {
    pub network: Network,
    sources: Vec<Source>,
}

impl Room {
    pub fn new(shape: Shape) -> Self {
        let mut network = Network::new(1);
        network.conditions.delay = Duration::from_millis(5);
        room::create_router(&mut network);
        let mut kinds = vec![MediaKind::Audio];
        kinds.extend(shape.video.then_some(MediaKind::Video));
        for sender in 0..shape.senders {
            send(&mut network, sender, &kinds);
        }
        let receivers = match shape.viewers {
            0 => shape.senders,
            viewers => viewers,
        };
        for receiver in 0..receivers {
            let own = (shape.viewers == 0).then_some(receiver);
            receive(&mut network, receiver, shape.senders, own, &kinds);
        }
        network.run_until("all connected", |network| {
            network.clients.iter().all(|client| client.peer.connected)
        });
        let mut sources = Vec::new();
        for sender in 0..shape.senders {
            for (kind, ssrc) in kinds.iter().zip(ssrcs(sender)) {
                let mut source = Source::new(&network, sender, *kind, ssrc);
                // They are not in step with each other.
                source.skip(Duration::from_millis(3) * u32::try_from(sender).unwrap());
                sources.push(source);
            }
        }
        let mut room = Self { network, sources };
        // Key frames, first estimates.
        room.run(Duration::from_secs(1));
        room
    }

    /// Answers how many packets were forwarded.
    pub fn run(&mut self, time: Duration) -> u64 {
        let before = self.network.engine.counters().rtp_forwarded;
        let mut sources: Vec<&mut Source> = self.sources.iter_mut().collect();
        room::run(&mut self.network, &mut sources, time);
        // What nobody looks at would make the next round slower.
        for client in &mut self.network.clients {
            client.peer.received.clear();
            client.peer.raw_headers.clear();
        }
        self.network.engine.counters().rtp_forwarded - before
    }

    /// The same, by `network::measured_tick`.
    pub fn measure(&mut self, time: Duration) -> u64 {
        self.network.measured = true;
        self.run(time)
    }
}

/// The SSRCs of a sender: audio, video.
fn ssrcs(sender: usize) -> [u32; 2] {
    let first = 10_000 + 10 * u32::try_from(sender).unwrap();
    [first, first + 2]
}

fn send(network: &mut Network, sender: usize, kinds: &[MediaKind]) {
    let client = network.add_client(&PeerConfig::sending());
    assert_eq!(client, sender, "senders come first");
    let transport = format!("send{sender}");
    network.connect(client, &transport, true);
    for (kind, ssrc) in kinds.iter().zip(ssrcs(sender)) {
        let id = producer(sender, *kind);
        let request = room::produce_request(&transport, &id, *kind, ssrc);
        room::produce(network, client, &request);
    }
}

fn producer(sender: usize, kind: MediaKind) -> String {
    format!("{kind:?}{sender}")
}

fn receive(
    network: &mut Network,
    receiver: usize,
    senders: usize,
    own: Option<usize>,
    kinds: &[MediaKind],
) {
    let client = network.add_client(&PeerConfig::receiving());
    let transport = format!("recv{receiver}");
    let created = network.create_transport(&transport, false);
    let mut consumers = Vec::new();
    for sender in (0..senders).filter(|sender| Some(*sender) != own) {
        for (kind, ssrc) in kinds.iter().zip(ssrcs(sender)) {
            let id = format!(
                "{}{sender}x{receiver}",
                if kind.is_audio() { 'a' } else { 'v' }
            );
            let producer = producer(sender, *kind);
            let ssrc = ssrc + 10_000;
            room::consume(network, client, &transport, &id, &producer, *kind, ssrc);
            consumers.push(id);
        }
    }
    network.connect_to(client, &transport, &created, true);
    for id in consumers {
        network.engine.resume_consumer(network.now, &id).unwrap();
    }
}

/// A media graph: one video, many consumers.
pub struct Graph {
    router: Router,
    producer: ProducerKey,
    now: Instant,
    sequence: u64,
    payload: Vec<u8>,
    out: Vec<Forward>,
}

impl Graph {
    pub fn new(consumers: u32) -> Self {
        let mut router = Router::new();
        let now = Instant::now();
        let config = ProducerConfig {
            kind: Kind::Video,
            clock_rate: 90_000,
            streams: 1,
            paused: false,
            layers: StreamLayers::default(),
        };
        let producer = router.create_producer(now, config).unwrap();
        for slot in 0..consumers {
            let config = ConsumerConfig {
                producer,
                sink: Sink { transport: 1, slot },
                paused: false,
                initial_sequence: 100,
                initial_timestamp: 0,
            };
            router.create_consumer(now, config).unwrap();
        }
        let mut graph = Self {
            router,
            producer,
            now,
            sequence: 0,
            payload: vec![0x5A; 1_000],
            out: Vec::new(),
        };
        graph.picture(true);
        graph
    }

    /// Forwards a picture of four packets; answers how many came out.
    pub fn picture(&mut self, key: bool) -> u64 {
        self.now += Duration::from_millis(33);
        let mut forwarded = 0;
        for part in 0..4 {
            self.sequence += 1;
            // RFC 7741: S bit on the first packet, P bit of the frame header.
            self.payload[0] = if part == 0 { 0x10 } else { 0 };
            self.payload[1] = u8::from(!key);
            measured_packet(self, part == 3);
            forwarded += self.out.len() as u64;
            self.out.clear();
        }
        while self.router.poll_action().is_some() {}
        forwarded
    }

    /// The same many times.
    pub fn measure(&mut self, pictures: u32) -> u64 {
        (0..pictures).map(|_| self.picture(false)).sum()
    }
}

/// One packet through the graph. What is measured is found by this name, and is not
/// inlined.
#[inline(never)]
fn measured_packet(graph: &mut Graph, marker: bool) {
    let packet = RtpIn {
        stream: 0,
        codec: Codec::Vp8,
        sequence: graph.sequence,
        timestamp: u32::try_from(graph.sequence / 4).unwrap() * 3_000,
        marker,
        payload: &graph.payload,
        captured: None,
        audio_level: None,
        dependency_descriptor: None,
    };
    graph
        .router
        .handle_rtp(graph.now, graph.producer, &packet, &mut graph.out);
}
