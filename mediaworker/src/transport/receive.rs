//! The producing side of a transport: what a client sends, which producer each packet
//! belongs to, and what the client is told and asked for because of it. WebRTC transports
//! and plain ones share it.

mod arriving;
mod asking;
mod counting;
mod inbound;
mod limit;
mod missing;
mod order;
mod orientation;
mod stream;

use std::rc::Rc;
use std::time::{Duration, Instant};

use congestion::Recorder;
use router::{Codec, ProducerKey, StreamLayers};
use str0m::media::MediaKind;

use super::clock::SenderClock;
use super::extensions::{self, Extension, MAX_MID};
use super::media::PayloadType;
use super::packet::MediaPacket;
use super::rtcp::asking::Request;
use super::{FastMap, TransportError};
pub use arriving::Arrival;
use arriving::Early;
pub use counting::EncodingScore;
use limit::IncomingLimit;
pub use orientation::Orientation;
use stream::Stream;

/// Most producers on one transport. A browser has a handful.
const MAX_PRODUCERS: usize = 64;
/// Most encodings of one producer.
const MAX_ENCODINGS: usize = 8;
/// Most codecs of one producer, RTX not counted.
const MAX_CODECS: usize = 16;
/// New SSRCs of known encodings after which a client is taken for hostile: each one is
/// remembered, so that nothing can be replayed. A browser has a new one when it starts
/// anew.
const MAX_REPLACED: u32 = 1000;
/// Time for which packets of a removed producer may be under way.
const GONE_FOR: Duration = Duration::from_secs(2);
/// Longest RID.
const MAX_RID: usize = 8;

/// A codec of a producer, with the client's payload types.
#[derive(Debug, Clone)]
pub struct ProducerCodec {
    /// Payload types and clock rate.
    pub payload_type: PayloadType,
    /// How keyframes are recognised.
    pub codec: Codec,
    /// The client answers NACKs.
    pub nack: bool,
    /// The client answers Picture Loss Indications (RFC 4585 §6.3.1).
    pub pli: bool,
    /// The client answers Full Intra Requests (RFC 5104 §4.3.1).
    pub fir: bool,
    /// The client wants transport-wide congestion control feedback.
    pub transport_cc: bool,
}

/// One encoding (layer) of a producer.
#[derive(Debug, Clone, Default)]
pub struct Encoding {
    /// SSRC, when the client signals it.
    pub ssrc: Option<u32>,
    /// SSRC of its retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// RTP stream id (RFC 8852).
    pub rid: Option<String>,
}

/// What a client wants to send.
#[derive(Debug, Clone)]
pub struct ProducerSpec {
    /// Audio or video.
    pub kind: MediaKind,
    /// The client's MID.
    pub mid: Option<String>,
    /// At least one; the first is the one that is forwarded.
    pub codecs: Vec<ProducerCodec>,
    /// The client's extension ids, 1–14, with URIs.
    pub extensions: Vec<(u32, String)>,
    /// At least one, lowest quality first.
    pub encodings: Vec<Encoding>,
    /// The layers within each encoding.
    pub layers: StreamLayers,
    /// Silence after which an encoding counts as gone; else what its kind has.
    pub silence: Option<Duration>,
}

/// A packet of a producer.
#[derive(Debug)]
pub struct Received {
    /// The producer.
    pub producer: ProducerKey,
    /// Index of the encoding.
    pub stream: usize,
    /// The encoding has come from another SSRC until now.
    pub new_source: bool,
    /// How its keyframes are recognised.
    pub codec: Codec,
    /// When the sender captured it, on the local clock.
    pub captured: Option<std::time::Instant>,
    /// The packet, decrypted; retransmissions look like originals.
    pub packet: Rc<MediaPacket>,
}

#[derive(Debug)]
struct Entry {
    key: ProducerKey,
    spec: ProducerSpec,
    /// The codec that is forwarded: the first one.
    codec: ProducerCodec,
    paused: bool,
    /// By encoding.
    streams: Vec<Stream>,
    /// Of its last picture that told.
    orientation: Option<Orientation>,
}

/// What an SSRC is: places of the producer and of the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    entry: usize,
    stream: usize,
    /// It carries retransmissions.
    rtx: bool,
}

/// The producers of one transport.
#[derive(Debug, Default)]
pub struct Receiving {
    /// What each extension id means. The first meaning of an id stays.
    extension_ids: Vec<(u8, Extension)>,
    entries: Vec<Entry>,
    by_ssrc: FastMap<u32, Bound>,
    clock: SenderClock,
    /// SSRCs that took the place of another.
    replaced: u32,
    /// SSRCs of producers that were removed, and when. What is under way of them could
    /// be taken for another producer's with the same MID.
    gone: Vec<(u32, Instant)>,
    /// When the last packet came.
    latest: Option<Instant>,
    /// The client wants to be told which of its packets have arrived.
    counted: bool,
    /// Packets that came before their producer was there.
    early: Vec<Early>,
    /// How many of those no producer has come for since this was asked last.
    unclaimed: u64,
    /// What the client is told of its packets, by transport-cc.
    recorder: Recorder,
    /// A stream of the client, as transport-cc wants to name one.
    some_ssrc: u32,
    limit: IncomingLimit,
    /// What the client has to be reminded of.
    reminder: Option<Request>,
    /// Time to the client and back.
    round_trip: Option<Duration>,
    /// A keyframe is to be asked for.
    asks: bool,
    /// When something is to be told or asked for: not after the earliest time of it.
    timeout: Option<Instant>,
}

impl Receiving {
    /// Checks a new producer.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        let invalid = |text: String| Err(TransportError::Invalid(text));
        if self.entries.len() >= MAX_PRODUCERS {
            return Err(TransportError::Limit(format!(
                "more than {MAX_PRODUCERS} producers on one transport"
            )));
        }
        if spec.codecs.is_empty() || spec.codecs.len() > MAX_CODECS {
            return invalid(format!("codecs: must be 1 to {MAX_CODECS}"));
        }
        let mut seen = Vec::new();
        for codec in &spec.codecs {
            let pt = codec.payload_type;
            for pt in [Some(pt.pt), pt.rtx].into_iter().flatten() {
                // 64–95 would look like RTCP (RFC 5761 §4).
                if pt > 127 || (64..=95).contains(&pt) || seen.contains(&pt) {
                    return invalid(format!(
                        "codecs.payloadType: {pt} cannot be received, or is not unique"
                    ));
                }
                seen.push(pt);
            }
            if pt.clock_rate == 0 {
                return invalid("codecs.clockRate: must be above 0".into());
            }
        }
        if let Some((id, _)) = spec
            .extensions
            .iter()
            .find(|(id, _)| !(1..=extensions::MAX_ID).contains(id))
        {
            return invalid(format!(
                "headerExtensions.id: {id} is not in 1..={}",
                extensions::MAX_ID
            ));
        }
        if let Some(mid) = &spec.mid {
            if !is_token(mid, MAX_MID) {
                return invalid(format!("mid: {mid:?} is not 1 to {MAX_MID} of a-zA-Z0-9_-"));
            }
            if self
                .entries
                .iter()
                .any(|e| e.spec.mid.as_ref() == Some(mid))
            {
                return invalid(format!("mid: {mid:?} already exists on this transport"));
            }
        }
        self.check_encodings(spec)
    }

    fn check_encodings(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        let invalid = |text: String| Err(TransportError::Invalid(text));
        if spec.encodings.is_empty() || spec.encodings.len() > MAX_ENCODINGS {
            return invalid(format!("encodings: must be 1 to {MAX_ENCODINGS}"));
        }
        let mut ssrcs: Vec<u32> = self
            .entries
            .iter()
            .flat_map(|e| &e.spec.encodings)
            .flat_map(|e| [e.ssrc, e.rtx_ssrc])
            .flatten()
            .collect();
        let mut rids: Vec<&str> = Vec::new();
        let single = spec.encodings.len() == 1;
        for encoding in &spec.encodings {
            for ssrc in [encoding.ssrc, encoding.rtx_ssrc].into_iter().flatten() {
                if ssrc == 0 || ssrcs.contains(&ssrc) {
                    return invalid(format!("encodings.ssrc: {ssrc} is 0 or already in use"));
                }
                ssrcs.push(ssrc);
            }
            if let Some(rid) = encoding.rid.as_deref() {
                if !is_token(rid, MAX_RID) || rids.contains(&rid) {
                    return invalid(format!(
                        "encodings.rid: {rid:?} is not 1 to {MAX_RID} of a-zA-Z0-9_-, or not unique"
                    ));
                }
                rids.push(rid);
            }
            let by_mid = spec.mid.is_some() && (single || encoding.rid.is_some());
            if encoding.ssrc.is_none() && !by_mid {
                return invalid("encodings: each needs an ssrc, or a mid and rid".into());
            }
        }
        Ok(())
    }

    /// The same on a plain transport, where packets are told apart by their SSRCs only.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_plain(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        self.check(spec)?;
        if spec.encodings.iter().any(|e| e.ssrc.is_none()) {
            let text = "encodings.ssrc: is needed on a plain transport";
            return Err(TransportError::Invalid(text.into()));
        }
        Ok(())
    }

    /// Adds a checked producer, and answers those of its packets that have come already.
    pub fn add(&mut self, now: Instant, key: ProducerKey, spec: ProducerSpec) -> Vec<Received> {
        let Some(codec) = spec.codecs.first().cloned() else {
            return Vec::new();
        };
        self.learn_extensions(&spec.extensions);
        self.entries.push(Entry {
            key,
            streams: spec.encodings.iter().map(Stream::new).collect(),
            codec,
            spec,
            paused: false,
            orientation: None,
        });
        self.index();
        self.take_early(now)
    }

    /// Removes a producer.
    pub fn remove(&mut self, producer: ProducerKey) {
        if let Some(now) = self.latest {
            self.gone.retain(|(_, at)| is_lately(now, *at));
            let removed = self.entries.iter().filter(|entry| entry.key == producer);
            let streams = removed.flat_map(|entry| &entry.streams);
            let ssrcs = streams.flat_map(|it| [it.ssrc, it.rtx_ssrc]).flatten();
            self.gone.extend(ssrcs.map(|ssrc| (ssrc, now)));
        }
        self.entries.retain(|entry| entry.key != producer);
        self.index();
    }

    /// Whether an SSRC was that of a producer a moment ago.
    fn is_gone(&self, now: Instant, ssrc: u32) -> bool {
        let mut gone = self.gone.iter();
        gone.any(|(it, at)| *it == ssrc && is_lately(now, *at))
    }

    fn index(&mut self) {
        let codecs = self.entries.iter().flat_map(|entry| &entry.spec.codecs);
        self.counted = codecs.into_iter().any(|codec| codec.transport_cc);
        self.by_ssrc.clear();
        for (entry, of) in self.entries.iter().enumerate() {
            for (stream, of) in of.streams.iter().enumerate() {
                let bound = |rtx| Bound { entry, stream, rtx };
                self.by_ssrc
                    .extend(of.ssrc.map(|ssrc| (ssrc, bound(false))));
                self.by_ssrc
                    .extend(of.rtx_ssrc.map(|ssrc| (ssrc, bound(true))));
            }
        }
    }

    /// There are no producers.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes a producer's extension ids. The first meaning of an id stays, for a client
    /// has one map for the whole transport; only abs-capture-time gives way, because old
    /// clients list it without sending it, with ids that belong to others.
    fn learn_extensions(&mut self, wanted: &[(u32, String)]) {
        let weak = Extension::AbsCaptureTime;
        let known = wanted.iter().filter_map(|(id, uri)| {
            let extension = Extension::of(uri)?;
            Some((u8::try_from(*id).ok()?, extension))
        });
        let (strong, last): (Vec<_>, Vec<_>) = known.partition(|(_, it)| *it != weak);
        for (id, extension) in strong.into_iter().chain(last) {
            if self
                .extension_ids
                .iter()
                .any(|(_, held)| *held == extension)
            {
                continue;
            }
            match self.extension_ids.iter_mut().find(|(held, _)| *held == id) {
                Some((_, held)) if *held == weak => *held = extension,
                Some(_) => {}
                None => self.extension_ids.push((id, extension)),
            }
        }
    }

    /// True when a client changes its SSRCs more than any honest one.
    pub fn is_abused(&self) -> bool {
        self.replaced > MAX_REPLACED
    }

    /// Sets the most that the client is told to send, bits per second; 0 is no limit.
    pub fn set_max_bitrate(&mut self, bitrate: Option<u64>) {
        self.limit.set(bitrate);
    }

    /// The most that the client is told to send, bits per second.
    pub fn max_bitrate(&self) -> Option<u64> {
        self.limit.get()
    }
}

fn is_lately(now: Instant, at: Instant) -> bool {
    now.saturating_duration_since(at) < GONE_FOR
}

/// A MID or RID as browsers write them.
pub fn is_token(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests;
