//! The values that go into the router and come out of it.

use std::time::Instant;

use slotmap::new_key_type;

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
}

/// The highest layers that a consumer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreferredLayers {
    /// Index of the encoding.
    pub spatial: usize,
    /// Temporal layer within it; `None` is the highest. It is kept, and not acted on: all temporal
    /// layers are forwarded.
    pub temporal: Option<u8>,
}

impl PreferredLayers {
    /// Everything.
    pub const HIGHEST: Self = Self {
        spatial: MAX_STREAMS - 1,
        temporal: None,
    };
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
    /// Tell which layer a consumer of a layered producer gets now.
    TellLayer {
        /// Whose.
        consumer: ConsumerKey,
        /// Index of the encoding; `None` while it gets nothing.
        stream: Option<usize>,
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
