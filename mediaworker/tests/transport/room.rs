//! A room in the virtual network: what control would ask the worker for, and
//! media that can be recognised on the other side.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::{
    ConsumeRequest, ConsumerSpec, CreateRouterRequest, HeaderExtension, MediaKind as ProtoKind,
    ProduceRequest, ProducerCodec, ProducerEncoding, RouterCodec,
};
use test_peer::str0m::media::MediaKind;
use test_peer::{Packet, ReceivedRtp};

use crate::network::Network;

pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
pub const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
pub const ORIENTATION: &str = "urn:3gpp:video-orientation";

pub fn extension(id: u32, uri: &str) -> HeaderExtension {
    HeaderExtension {
        id,
        uri: uri.into(),
    }
}

pub fn create_router(network: &mut Network) {
    let codec = |kind: ProtoKind, mime: &str, clock_rate, pt, rtx| RouterCodec {
        kind: kind.into(),
        mime_type: mime.into(),
        clock_rate,
        channels: None,
        payload_type: pt,
        rtx_payload_type: rtx,
    };
    let request = CreateRouterRequest {
        router_id: "room".into(),
        codecs: vec![
            codec(ProtoKind::Audio, "audio/opus", 48_000, 100, None),
            codec(ProtoKind::Video, "video/VP8", 90_000, 101, Some(102)),
        ],
        header_extensions: vec![
            extension(1, MID),
            extension(4, ABS_SEND_TIME),
            extension(5, TRANSPORT_CC),
            extension(10, AUDIO_LEVEL),
            extension(11, ORIENTATION),
        ],
    };
    network.engine.create_router(&request).unwrap();
}

/// What a Chromium-like client asks for.
pub fn produce_request(transport: &str, id: &str, kind: MediaKind, ssrc: u32) -> ProduceRequest {
    let audio = kind.is_audio();
    ProduceRequest {
        transport_id: transport.into(),
        producer_id: id.into(),
        kind: if audio {
            ProtoKind::Audio
        } else {
            ProtoKind::Video
        }
        .into(),
        mid: Some(if audio { "0" } else { "1" }.into()),
        codecs: vec![ProducerCodec {
            mime_type: if audio { "audio/opus" } else { "video/VP8" }.into(),
            clock_rate: if audio { 48_000 } else { 90_000 },
            channels: audio.then_some(2),
            payload_type: if audio { 111 } else { 96 },
            rtx_payload_type: (!audio).then_some(97),
            mapped_payload_type: if audio { 100 } else { 101 },
            nack: !audio,
            nack_pli: !audio,
            ccm_fir: !audio,
            transport_cc: true,
        }],
        header_extensions: if audio {
            vec![
                extension(4, MID),
                extension(2, ABS_SEND_TIME),
                extension(3, TRANSPORT_CC),
                extension(1, AUDIO_LEVEL),
            ]
        } else {
            vec![
                extension(4, MID),
                extension(2, ABS_SEND_TIME),
                extension(3, TRANSPORT_CC),
                extension(13, ORIENTATION),
            ]
        },
        encodings: vec![ProducerEncoding {
            ssrc: Some(ssrc),
            rtx_ssrc: (!audio).then_some(ssrc + 1),
            rid: None,
            layers: None,
        }],
        paused: false,
        silence_ms: None,
    }
}

pub fn produce(network: &mut Network, client: usize, request: &ProduceRequest) {
    let kind = match request.kind() {
        ProtoKind::Audio => MediaKind::Audio,
        _ => MediaKind::Video,
    };
    let encoding = &request.encodings[0];
    network.clients[client].peer.send_stream(
        request.mid.as_deref().unwrap(),
        kind,
        encoding.ssrc.unwrap(),
        encoding.rtx_ssrc,
    );
    network.engine.produce(network.now, request).unwrap();
}

/// Creates a consumer and makes the client expect it.
pub fn consume(
    network: &mut Network,
    client: usize,
    transport: &str,
    id: &str,
    producer: &str,
    kind: MediaKind,
    ssrc: u32,
) {
    let audio = kind.is_audio();
    let mid = id.to_owned();
    let mut header_extensions = vec![extension(1, MID), extension(4, ABS_SEND_TIME)];
    // The router offers transport-cc for video only.
    if audio {
        header_extensions.push(extension(10, AUDIO_LEVEL));
    } else if network.clients[client].transport_cc {
        header_extensions.push(extension(5, TRANSPORT_CC));
    }
    let spec = ConsumerSpec {
        transport_id: transport.into(),
        consumer_id: id.into(),
        producer_id: producer.into(),
        mid: mid.clone(),
        payload_type: if audio { 100 } else { 101 },
        rtx_payload_type: (!audio).then_some(102),
        ssrc,
        rtx_ssrc: (!audio).then_some(ssrc + 1),
        header_extensions,
        paused: true,
    };
    let response = network.engine.consume(
        network.now,
        &ConsumeRequest {
            consumers: vec![spec],
        },
    );
    assert_eq!(response.results[0].error, "");
    network.clients[client]
        .peer
        .expect_stream(&mid, kind, ssrc, (!audio).then_some(ssrc + 1));
}

/// A sender of 50 audio packets or 25 frames of 4 packets a second.
pub struct Source {
    pub client: usize,
    pub ssrc: u32,
    /// Payload type.
    pub pt: u8,
    kind: MediaKind,
    next: Instant,
    sequence: u64,
    timestamp: u32,
    frames: u32,
    requests_seen: usize,
    /// Packets written, by payload.
    pub written: Vec<Vec<u8>>,
    /// How long frames wait between capture and sending.
    pub capture_delay: Duration,
    /// How loud audio is, dBov.
    pub level: i8,
    /// Octets of a frame that is no key frame; without it, each is 4 packets, three of 600
    /// and one of 601.
    pub frame_len: Option<usize>,
    /// By how many octets the last packets of a frame are longer than the others, where they
    /// are.
    pub longer_by: usize,
    /// Packets of frames under way: timestamp, marker, first octets, length.
    queue: VecDeque<(u32, bool, Vec<u8>, usize)>,
    /// When the next of them may leave.
    free: Instant,
}

impl Source {
    pub fn new(network: &Network, client: usize, kind: MediaKind, ssrc: u32) -> Self {
        Self {
            client,
            ssrc,
            pt: if kind.is_audio() { 111 } else { 96 },
            kind,
            next: network.now,
            // Close to the wrap-around of both.
            sequence: 65_500,
            timestamp: u32::MAX - 9_000,
            frames: 0,
            requests_seen: 0,
            written: Vec::new(),
            capture_delay: Duration::ZERO,
            level: -30,
            frame_len: None,
            longer_by: 1,
            queue: VecDeque::new(),
            free: network.now,
        }
    }

    /// Sends nothing for a while, which has passed already; the clock goes on.
    pub fn skip(&mut self, time: Duration) {
        let rate = if self.kind.is_audio() { 48_000 } else { 90_000 };
        let ticks = u32::try_from(time.as_millis()).unwrap() * (rate / 1000);
        self.timestamp = self.timestamp.wrapping_add(ticks);
        self.next += time;
    }

    /// Writes what is due.
    pub fn step(&mut self, network: &mut Network) {
        while self.next <= network.now {
            if self.kind.is_audio() {
                self.packet(network, true, vec![0xFC], 80);
                self.timestamp = self.timestamp.wrapping_add(960);
                self.next += Duration::from_millis(20);
            } else {
                self.frame(network);
                self.timestamp = self.timestamp.wrapping_add(3_600);
                self.next += Duration::from_millis(40);
            }
        }
        while self.free <= network.now
            && let Some((timestamp, marker, payload, len)) = self.queue.pop_front()
        {
            if let Some(frame) = self.frame_len {
                // As a browser paces: two and a half times the bitrate.
                let time = Duration::from_millis(40).mul_f64(len as f64 / frame as f64 / 2.5);
                self.free = self.free.max(network.now - Duration::from_millis(1)) + time;
            }
            let now = std::mem::replace(&mut self.timestamp, timestamp);
            self.packet(network, marker, payload, len);
            self.timestamp = now;
        }
    }

    fn frame(&mut self, network: &mut Network) {
        let requests = network.clients[self.client].peer.key_frame_requests.len();
        let key = self.frames == 0 || requests > self.requests_seen;
        self.requests_seen = requests;
        self.frames += 1;
        let (parts, len) = match self.frame_len {
            None => (4, 2_401),
            Some(len) => {
                // Key frames are larger.
                let len = if key { 3 * len } else { len };
                (len.div_ceil(1100), len)
            }
        };
        for part in 0..parts {
            // RFC 7741: S bit on the first packet; the frame header's P bit is 0
            // for a keyframe.
            let descriptor = if part == 0 { 0x10 } else { 0x00 };
            let header = if key { 0x00 } else { 0x01 };
            let payload = vec![descriptor, header];
            let marker = part + 1 == parts;
            // As packetizers split it: the last ones are an octet longer.
            let longer = usize::from(part >= parts - len % parts);
            let len = len / parts + self.longer_by * longer;
            self.queue.push_back((self.timestamp, marker, payload, len));
        }
    }

    fn packet(&mut self, network: &mut Network, marker: bool, mut payload: Vec<u8>, len: usize) {
        payload.extend_from_slice(&(self.written.len() as u32).to_be_bytes());
        payload.resize(len, 0x5A);
        let packet = Packet {
            pt: self.pt,
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker,
            nackable: !self.kind.is_audio(),
            audio_level: self.kind.is_audio().then_some(self.level),
            payload: payload.clone(),
        };
        let captured = network.now - self.capture_delay;
        network.clients[self.client]
            .peer
            .write(self.ssrc, &packet, captured);
        self.sequence += 1;
        self.written.push(payload);
    }
}

/// The number that [`Source`] gave a payload.
pub fn number(packet: &ReceivedRtp) -> u32 {
    let at = if packet.payload.len() == 80 { 1 } else { 2 };
    u32::from_be_bytes(packet.payload[at..at + 4].try_into().unwrap())
}

pub fn is_key_frame_start(packet: &ReceivedRtp) -> bool {
    packet.payload[0] == 0x10 && packet.payload[1] == 0x00
}

/// Packets of one stream in the order of their sequence numbers.
pub fn stream(network: &Network, client: usize, ssrc: u32) -> Vec<ReceivedRtp> {
    let mut packets: Vec<_> = network.clients[client]
        .peer
        .received
        .iter()
        .filter(|p| *p.header.ssrc == ssrc)
        .cloned()
        .collect();
    packets.sort_by_key(|p| p.sequence);
    packets
}

/// Runs the network and the sources for a while.
pub fn run(network: &mut Network, sources: &mut [&mut Source], time: Duration) {
    let end = network.now + time;
    while network.now < end {
        for source in sources.iter_mut() {
            source.step(network);
        }
        network.step(Duration::from_millis(1));
    }
}

/// A call: client 0 sends audio (SSRC 1000) and video (2000) on transport
/// "send", client 1 receives them as 5000 and 6000 on "recv"; all connected and
/// resumed.
pub fn call(seed: u64) -> (Network, Source, Source) {
    call_with(seed, |_| {}, test_peer::PeerConfig::sending())
}

/// The same with another configuration of the sender, and other requests.
pub fn call_with(
    seed: u64,
    change: impl Fn(&mut ProduceRequest),
    sender: test_peer::PeerConfig,
) -> (Network, Source, Source) {
    call_in(Network::new(seed), change, sender)
}

/// The same in a network that is there already.
pub fn call_in(
    mut network: Network,
    change: impl Fn(&mut ProduceRequest),
    sender: test_peer::PeerConfig,
) -> (Network, Source, Source) {
    create_router(&mut network);
    let a = network.add_client(&sender);
    let b = network.add_client(&test_peer::PeerConfig::receiving());
    network.connect(a, "send", true);
    for (id, kind, ssrc) in [
        ("mic", MediaKind::Audio, 1000),
        ("cam", MediaKind::Video, 2000),
    ] {
        let mut request = produce_request("send", id, kind, ssrc);
        change(&mut request);
        produce(&mut network, a, &request);
    }
    let created = network.create_transport("recv", false);
    consume(&mut network, b, "recv", "a", "mic", MediaKind::Audio, 5000);
    consume(&mut network, b, "recv", "v", "cam", MediaKind::Video, 6000);
    network.connect_to(b, "recv", &created, true);
    network.run_until("both connected", |n| {
        n.clients.iter().all(|c| c.peer.connected)
    });
    for id in ["a", "v"] {
        network.engine.resume_consumer(network.now, id).unwrap();
    }
    let audio = Source::new(&network, a, MediaKind::Audio, 1000);
    let video = Source::new(&network, a, MediaKind::Video, 2000);
    (network, audio, video)
}
