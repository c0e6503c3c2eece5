//! Producing clients: encodings that make frames, and packets of them.

use std::time::{Duration, Instant};

use router::{Codec, MediaKind};

use crate::random::Random;

/// What a payload is, as far as the router can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Padding,
    Media,
    /// Looks like the first packet of a keyframe.
    KeyFrame,
}

#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub producer: usize,
    pub stream: usize,
    /// Counts the sources behind the stream.
    pub epoch: u32,
    pub sequence: u64,
    /// Timestamp that never wraps.
    pub time: u64,
    pub marker: bool,
    pub content: Content,
    pub captured: Option<Instant>,
}

/// One encoding of a client.
pub struct Source {
    pub epoch: u32,
    pub running: bool,
    /// When the next keyframe is made.
    pub key_frame_at: Option<Instant>,
    /// Whether sender reports tell capture times.
    pub reports: bool,
    next_sequence: u64,
    base_time: u64,
    /// Chance of padding after every packet, in percent.
    padding: u64,
}

impl Source {
    pub fn new(random: &mut Random, epoch: u32, now: Instant) -> Self {
        // Both numbers often start shortly before they wrap around.
        let next_sequence = random.range(65_000, 66_000);
        let base_time = if random.percent(50) {
            u64::from(u32::MAX) - random.range(0, 400_000)
        } else {
            random.range(0, 1 << 32)
        };
        Self {
            epoch,
            running: random.percent(80),
            key_frame_at: random.percent(80).then_some(now),
            reports: random.percent(50),
            next_sequence,
            base_time,
            padding: random.pick(&[0, 0, 5, 60]).unwrap_or(0),
        }
    }

    fn packet(&mut self, from: Packet) -> Packet {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Packet { sequence, ..from }
    }
}

pub struct Client {
    pub kind: MediaKind,
    pub codec: Codec,
    pub sources: Vec<Source>,
    start: Instant,
}

impl Client {
    pub fn new(random: &mut Random, now: Instant) -> Self {
        let (kind, codec, streams) = if random.percent(30) {
            (MediaKind::Audio, Codec::Opus, 1)
        } else {
            let codecs = [
                Codec::Vp8,
                Codec::Vp8,
                Codec::H264,
                Codec::Vp9,
                Codec::Av1,
                Codec::Other,
            ];
            let codec = random.pick(&codecs).unwrap_or(Codec::Vp8);
            (MediaKind::Video, codec, random.range(1, 4))
        };
        let sources = (0..streams).map(|_| Source::new(random, 0, now)).collect();
        Self {
            kind,
            codec,
            sources,
            start: now,
        }
    }

    pub fn clock_rate(&self) -> u32 {
        if self.kind == MediaKind::Audio {
            48_000
        } else {
            90_000
        }
    }

    pub fn frame_interval(&self) -> Duration {
        Duration::from_millis(if self.kind == MediaKind::Audio {
            20
        } else {
            40
        })
    }

    /// The packets of the frame that an encoding makes now, with padding in between.
    pub fn make_frame(
        &mut self,
        random: &mut Random,
        now: Instant,
        producer: usize,
        stream: usize,
    ) -> Vec<Packet> {
        let ticks = (now - self.start).as_nanos() * u128::from(self.clock_rate()) / 1_000_000_000;
        let (is_video, is_h264) = (self.kind == MediaKind::Video, self.codec == Codec::H264);
        let source = &mut self.sources[stream];
        if !source.running {
            return Vec::new();
        }
        let is_key_frame = source.key_frame_at.is_some_and(|at| at <= now);
        if is_key_frame {
            source.key_frame_at = None;
        }
        let count = if is_video { random.range(1, 5) } else { 1 };
        let mut packets = Vec::new();
        for index in 0..count {
            // H264: parameter sets, then the picture.
            let begins = is_key_frame && is_video && (index == 0 || (index == 1 && is_h264));
            let packet = source.packet(Packet {
                producer,
                stream,
                epoch: source.epoch,
                sequence: 0,
                time: source.base_time + ticks as u64,
                marker: index + 1 == count,
                content: if begins {
                    Content::KeyFrame
                } else {
                    Content::Media
                },
                captured: source.reports.then_some(now),
            });
            packets.push(packet);
            while random.percent(source.padding) {
                let padding = Packet {
                    marker: false,
                    content: Content::Padding,
                    ..packet
                };
                packets.push(source.packet(padding));
            }
        }
        packets
    }

    pub fn payload(&self, content: Content) -> &'static [u8] {
        match (content, self.codec) {
            (Content::Padding, _) => &[],
            (Content::KeyFrame, Codec::Vp8) => &[0x90, 0xf0, 0x80, 0x05, 0x00, 0x20, 0x10, 0x02],
            (Content::Media, Codec::Vp8) => &[0x90, 0xf0, 0x80, 0x06, 0x00, 0x20, 0x11, 0x02],
            (Content::KeyFrame, Codec::Vp9) => &[0x8a, 0x80, 0x01, 0x00],
            (Content::Media, Codec::Vp9) => &[0xcc, 0x80, 0x02, 0x82],
            (Content::KeyFrame, Codec::H264) => {
                &[0x78, 0x00, 0x02, 0x67, 0x42, 0x00, 0x02, 0x68, 0xce]
            }
            (Content::Media, Codec::H264) => &[0x7c, 0x05, 0x88, 0x84],
            (Content::KeyFrame, Codec::Av1) => &[0x28, 0x0b, 0x08, 0x00],
            (Content::Media, Codec::Av1) => &[0x10, 0x30, 0x00],
            (_, Codec::Opus | Codec::Other) => &[0x78, 0x01],
        }
    }
}
