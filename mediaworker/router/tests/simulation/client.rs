//! Producing clients: encodings that make frames, and packets of them.

use std::rc::Rc;
use std::time::{Duration, Instant};

use router::{Codec, MediaKind, SpatialDependency, StreamLayers};

use crate::encoder::{Encoder, Frame, Layout};
use crate::random::Random;

/// What a payload is, as far as the router can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Padding,
    Media,
    /// Looks like the first packet of a keyframe.
    KeyFrame,
}

#[derive(Clone, Debug)]
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
    pub payload: Rc<[u8]>,
    pub extension: Option<Rc<[u8]>>,
    /// The frame that it belongs to, where frames are numbered.
    pub frame: Option<Frame>,
}

/// One encoding of a client.
pub struct Source {
    pub epoch: u32,
    pub running: bool,
    /// When the next keyframe is made.
    pub key_frame_at: Option<Instant>,
    /// Whether sender reports tell capture times.
    pub reports: bool,
    /// Of codecs with layers.
    pub encoder: Option<Encoder>,
    next_sequence: u64,
    base_time: u64,
    /// Chance of padding after every packet, in percent.
    padding: u64,
}

impl Source {
    pub fn new(random: &mut Random, epoch: u32, now: Instant, layout: Option<Layout>) -> Self {
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
            encoder: layout.map(|layout| Encoder::new(random, layout)),
            next_sequence,
            base_time,
            padding: random.pick(&[0, 0, 5, 60]).unwrap_or(0),
        }
    }

    /// Sends all that it can, or all but so many spatial layers.
    pub fn run_well(&mut self, fewer: u64) {
        self.running = true;
        if let Some(encoder) = self.encoder.as_mut() {
            encoder.wanted = encoder.layout.spatial.saturating_sub(fewer as u8).max(1);
        }
    }

    /// Sends a packet, and padding behind it now and then.
    fn send(&mut self, random: &mut Random, packet: Packet, sent: &mut Vec<Packet>) {
        let padding = Packet {
            marker: false,
            content: Content::Padding,
            payload: Rc::default(),
            extension: None,
            frame: None,
            ..packet.clone()
        };
        let mut next = packet;
        loop {
            next.sequence = self.next_sequence;
            self.next_sequence += 1;
            sent.push(next);
            if !random.percent(self.padding) {
                return;
            }
            next = padding.clone();
        }
    }
}

pub struct Client {
    pub kind: MediaKind,
    pub codec: Codec,
    pub sources: Vec<Source>,
    pub layout: Option<Layout>,
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
        let layout = layout(random, codec);
        // Spatial layers within a stream are SVC, which has one.
        let streams = if layout.is_some_and(|layout| layout.spatial > 1) {
            1
        } else {
            streams
        };
        let sources = (0..streams)
            .map(|_| Source::new(random, 0, now, layout))
            .collect();
        Self {
            kind,
            codec,
            sources,
            layout,
            start: now,
        }
    }

    /// What it says about its layers.
    pub fn layers(&self) -> StreamLayers {
        let Some(layout) = self.layout else {
            return StreamLayers::default();
        };
        StreamLayers {
            spatial: layout.spatial,
            temporal: layout.temporal,
            dependency: if layout.independent {
                SpatialDependency::KeyPictures
            } else {
                SpatialDependency::Always
            },
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
        let (is_video, codec) = (self.kind == MediaKind::Video, self.codec);
        let is_h264 = codec == Codec::H264;
        let source = &mut self.sources[stream];
        if !source.running {
            return Vec::new();
        }
        let is_key_frame = source.key_frame_at.is_some_and(|at| at <= now);
        if is_key_frame {
            source.key_frame_at = None;
        }
        let base = Packet {
            producer,
            stream,
            epoch: source.epoch,
            sequence: 0,
            time: source.base_time + ticks as u64,
            marker: false,
            content: Content::Media,
            captured: source.reports.then_some(now),
            payload: Rc::default(),
            extension: None,
            frame: None,
        };
        let mut packets = Vec::new();
        if let Some(mut encoder) = source.encoder.take() {
            let frames = encoder.encode(random, is_key_frame);
            for (index, coded) in frames.iter().enumerate() {
                let count = random.range(1, 4);
                for part in 0..count {
                    let (begins, ends) = (part == 0, part + 1 == count);
                    let (payload, extension, frame) = encoder.packet(coded, begins, ends);
                    let starts = begins && index == 0 && coded.is_key_picture();
                    let packet = Packet {
                        marker: ends && index + 1 == frames.len(),
                        content: if starts {
                            Content::KeyFrame
                        } else {
                            Content::Media
                        },
                        payload: payload.into(),
                        extension: extension.map(Into::into),
                        frame,
                        ..base.clone()
                    };
                    source.send(random, packet, &mut packets);
                }
            }
            source.encoder = Some(encoder);
            return packets;
        }
        let count = if is_video { random.range(1, 5) } else { 1 };
        for index in 0..count {
            // H264: parameter sets, then the picture.
            let begins = is_key_frame && is_video && (index == 0 || (index == 1 && is_h264));
            let content = if begins {
                Content::KeyFrame
            } else {
                Content::Media
            };
            let packet = Packet {
                marker: index + 1 == count,
                content,
                payload: plain_payload(codec, content).into(),
                ..base.clone()
            };
            source.send(random, packet, &mut packets);
        }
        packets
    }
}

/// The layers of a client's encodings; `None` where there is nothing to see of them.
fn layout(random: &mut Random, codec: Codec) -> Option<Layout> {
    let temporal = random.range(1, 4) as u8;
    let (spatial, independent) = match random.range(0, 4) {
        0 | 1 => (1, false),
        dependency => (random.range(2, 4) as u8, dependency == 2),
    };
    let (spatial, independent, bits) = match codec {
        Codec::Vp8 => (1, false, random.pick(&[15, 15, 15, 7, 0])?),
        // Without picture ids spatial layers are not told apart.
        Codec::Vp9 if spatial == 1 => (1, false, random.pick(&[15, 15, 7, 0])?),
        Codec::Vp9 => (spatial, independent, random.pick(&[15, 15, 7])?),
        Codec::Av1 => (spatial, independent, 16),
        _ => return None,
    };
    Some(Layout {
        codec,
        spatial,
        temporal,
        independent,
        bits,
    })
}

fn plain_payload(codec: Codec, content: Content) -> &'static [u8] {
    match (content, codec) {
        (Content::Padding, _) => &[],
        (Content::KeyFrame, Codec::H264) => &[0x78, 0x00, 0x02, 0x67, 0x42, 0x00, 0x02, 0x68, 0xce],
        (Content::Media, Codec::H264) => &[0x7c, 0x05, 0x88, 0x84],
        _ => &[0x78, 0x01],
    }
}
