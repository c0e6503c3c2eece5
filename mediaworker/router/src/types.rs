//! The values that go into the router and come out of it.

use std::time::Instant;

use slotmap::new_key_type;

use crate::layers::Layers;

new_key_type! {
    /// Names a producer of one router. Keys of closed producers are not reused in practice:
    /// a slot takes 2^31 generations to come around.
    pub struct ProducerKey;
    /// Names a consumer of one router, as [`ProducerKey`] does a producer.
    pub struct ConsumerKey;
}

/// Most streams (encodings) that a producer can have.
pub const MAX_STREAMS: usize = 16;

/// What a producer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// Every packet can be decoded by itself.
    Audio,
    /// Decoding starts at keyframes.
    Video,
}

/// Codec of a packet, as far as the router reads payloads: to find keyframes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// RFC 7587.
    Opus,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184, packetization modes 0 and 1.
    H264,
    /// AV1 RTP payload format 1.0.
    Av1,
    /// Anything else; its payload is not read, so consumers do not wait for keyframes.
    Other,
}

/// How a producer is set up.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// What it sends.
    pub kind: MediaKind,
    /// Ticks of the RTP timestamp per second, above 0 (video 90,000, Opus 48,000).
    pub clock_rate: u32,
    /// Number of encodings, 1 to [`MAX_STREAMS`]. They are then named by index, lowest quality
    /// first.
    pub streams: usize,
    /// Whether it starts paused.
    pub paused: bool,
    /// The layers within each stream.
    pub layers: StreamLayers,
}

/// The layers within a stream, as its producer announces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLayers {
    /// Number of spatial layers, at least 1. More than one is SVC, which a producer with one
    /// stream can have; where there are several streams, those are the spatial layers.
    pub spatial: u8,
    /// Number of temporal layers, at least 1. Only says whether they are told about; what a stream
    /// really has is seen from its packets.
    pub temporal: u8,
    /// How spatial layers depend on each other.
    pub dependency: SpatialDependency,
}

impl Default for StreamLayers {
    /// No layers.
    fn default() -> Self {
        Self {
            spatial: 1,
            temporal: 1,
            dependency: SpatialDependency::Always,
        }
    }
}

/// Which pictures of a spatial layer need those of the layers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpatialDependency {
    /// All of them: full SVC, `L3T3`.
    Always,
    /// Key pictures only (`L3T3_KEY`), or none (`S3T3`).
    KeyPictures,
}

/// Where the engine sends a consumer's packets. The router only hands it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sink {
    /// The receiving transport.
    pub transport: u64,
    /// The sending stream within that transport.
    pub slot: u32,
}

/// How a consumer is set up.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Whose packets it gets.
    pub producer: ProducerKey,
    /// Where its packets go.
    pub sink: Sink,
    /// Whether it starts paused.
    pub paused: bool,
    /// Its first sequence number. Being below 65,536, it starts the extended numbers in SRTP's
    /// first rollover period (RFC 3711 section 3.3.1).
    pub initial_sequence: u16,
    /// The timestamp of its first packet, in ticks of the producer's clock rate.
    pub initial_timestamp: u32,
}

/// A packet from a producing client, in clear, with repairs (RTX) already unwrapped.
#[derive(Clone, Copy, Debug)]
pub struct RtpIn<'a> {
    /// Index of the encoding that it belongs to.
    pub stream: usize,
    /// Its codec, by its payload type.
    pub codec: Codec,
    /// Extended sequence number: 16 bits of the packet below a rollover counter.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker bit; for video it ends a frame.
    pub marker: bool,
    /// Payload without padding; empty when there was nothing but padding.
    pub payload: &'a [u8],
    /// When the frame was captured, on the local clock, if sender reports tell.
    pub captured: Option<Instant>,
    /// How loud it is, −127 to 0 dBov (RFC 6464), if the packet tells.
    pub audio_level: Option<i8>,
    /// The bytes of the dependency descriptor extension (AV1 RTP payload format 1.0, appendix A),
    /// if the packet has one.
    pub dependency_descriptor: Option<&'a [u8]>,
}

/// The highest layers that a consumer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreferredLayers {
    /// Index of the encoding, or of the spatial layer within the only one.
    pub spatial: usize,
    /// Temporal layer within it; `None` is the highest.
    pub temporal: Option<u8>,
}

impl PreferredLayers {
    /// Everything.
    pub const HIGHEST: Self = Self {
        spatial: MAX_STREAMS - 1,
        temporal: None,
    };
}

/// Numbers of a picture that take the place of others in the descriptor of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Codec of the payload: VP8 or VP9.
    pub codec: Codec,
    /// The picture id, of as many bits as it had.
    pub picture_id: u16,
    /// TL0PICIDX, if the payload has one.
    pub tl0_picture: Option<u8>,
    /// Where the bytes are that differ, and what they are.
    at: u8,
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Patch {
    /// Most bytes: a picture id, layers and TL0PICIDX.
    pub(crate) const MAX: usize = 4;

    /// `bytes` go to index `at` of the payload; `None` when there are too many of them.
    pub(crate) fn new(
        codec: Codec,
        picture_id: u16,
        tl0_picture: Option<u8>,
        at: u8,
        from: &[u8],
    ) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self {
            codec,
            picture_id,
            tl0_picture,
            at,
            len: u8::try_from(from.len()).ok()?,
            bytes,
        })
    }

    /// Replaces the numbers in a copy of the payload that this patch was made for.
    pub fn apply(&self, payload: &mut [u8]) {
        let (at, len) = (usize::from(self.at), usize::from(self.len));
        if let (Some(to), Some(from)) = (payload.get_mut(at..at + len), self.bytes.get(..len)) {
            to.copy_from_slice(from);
        }
    }
}

/// What a consumer gets of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// All of it, as it is.
    Same,
    /// All of it with other numbers of pictures.
    Patched(Patch),
    /// Nothing: the packet is not for this consumer, but arrived too late to be left out, so that
    /// its sequence number has to be filled.
    Empty,
}

/// One packet to be sent: the payload of the [`RtpIn`] under a consumer's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Who gets it.
    pub consumer: ConsumerKey,
    /// Where it goes.
    pub sink: Sink,
    /// Extended sequence number.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// What of the payload.
    pub payload: Payload,
    /// The frame number that the dependency descriptor has to carry instead of its own (second and
    /// third byte); `None` when it stays as it is.
    pub frame_number: Option<u16>,
}

/// What a consumer wants, may get and gets, and what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerState {
    /// The highest layers that it wants.
    pub preferred: PreferredLayers,
    /// What the bandwidth allows; `None`: nothing.
    pub target: Option<Layers>,
    /// What it gets; `None`: nothing.
    pub current: Option<Layers>,
    /// What keeps it from getting what it should; `None` when nothing does.
    pub waiting: Option<Waiting>,
}

/// What a consumer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It is paused.
    Resume,
    /// Its producer is paused.
    ProducerResume,
    /// The bandwidth does not allow any layer.
    Bandwidth,
    /// Nothing that it could get flows.
    Media,
    /// A keyframe of a spatial layer.
    KeyFrame {
        /// Which one.
        spatial: u8,
        /// Since when.
        since: Instant,
        /// How often its client was asked since then.
        requests: u32,
    },
    /// A picture at which a temporal layer may be added.
    SwitchPoint {
        /// The layer that it gets then.
        temporal: u8,
    },
}

/// Something that the engine has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the producing client for a keyframe (PLI or FIR, whichever it negotiated).
    RequestKeyFrame {
        /// Whose client.
        producer: ProducerKey,
        /// Index of the encoding. A packet of it has been seen, so its SSRC is known.
        stream: usize,
    },
    /// Tell which layers a consumer of a layered producer gets now.
    TellLayer {
        /// Whose.
        consumer: ConsumerKey,
        /// The highest that it gets; `None` while it gets nothing.
        layers: Option<Layers>,
    },
    /// Tell who speaks loudest; told again after every interval in which somebody spoke.
    TellSpeaker {
        /// `None`: everybody has fallen silent.
        producer: Option<ProducerKey>,
        /// Mean level of the interval, −127 to 0 dBov.
        volume: i8,
    },
    /// Tell who leads the conversation now: an audio producer that is not paused.
    TellDominantSpeaker {
        /// Who.
        producer: ProducerKey,
    },
}
