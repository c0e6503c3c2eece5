//! The consuming side of a WebRtcTransport: the streams that a client receives. We write
//! and protect their packets ourselves; see [`departing`].

mod departing;
pub(super) mod history;
mod outbound;
pub(crate) mod packet;
mod plain;
mod resends;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use router::{ConsumerKey, Forward};
use str0m::media::MediaKind;

use super::extensions::{MAX_MID, Written};
use super::media::RouterMedia;
use super::packet::MediaPacket;
use super::receive::is_token;
use super::sealing::Sealer;
use super::stats::{StreamStats, Totals};
use super::{FastMap, TransportError};
use departing::Waiting;
pub use departing::{Asked, Departure};
use history::History;
use outbound::Outbound;
use packet::{Mid, Source};
pub use plain::PlainReport;
use resends::Resends;

/// Most consumers on one transport.
const MAX_CONSUMERS: usize = 1024;
/// Packets that NACKs may name on one transport, less half of them in each second: an
/// eighth in this time. A client with some lost seconds names 2,000.
const MAX_OWED: usize = 8192;
const OWED_INTERVAL: Duration = Duration::from_millis(250);
/// Packets that wait for the next flush. More than that come in one tick only when
/// everything is asked for again; what does not fit is not sent.
const MAX_WAITING: usize = 4096;
/// SSRC and payload type of the clients' hidden probing section; never media.
const PROBATOR_SSRC: u32 = 1234;
const PROBATOR_PT: u8 = 127;
/// Octets that make up the name of a transport's streams in RTCP.
const CNAME_LEN: usize = 16;

/// What a client will receive.
#[derive(Debug, Clone)]
pub struct ConsumerSpec {
    /// Audio or video.
    pub kind: MediaKind,
    /// MID of its packets.
    pub mid: String,
    /// The router's payload type.
    pub pt: u8,
    /// SSRC of its packets.
    pub ssrc: u32,
    /// SSRC of retransmissions (RFC 4588); without it packets are resent as they
    /// were.
    pub rtx_ssrc: Option<u32>,
    /// Extensions of its packets.
    pub written: Written,
}

/// A consumer. What each of its packets needs comes first.
#[derive(Debug)]
#[repr(C)]
struct SendStream {
    consumer: ConsumerKey,
    ssrc: u32,
    pt: u8,
    kind: MediaKind,
    written: Written,
    /// SSRC and payload type of retransmissions.
    rtx: Option<(u32, u8)>,
    mid: Option<Mid>,
    /// RTP timestamp of the picture that was written last, and octets of payload in the longest
    /// of its packets so far. Those that are an octet shorter, as packetizers make some, are
    /// padded: packets of one size leave together.
    longest: (u32, usize),
    /// RTP timestamp of the last packet that was queued, and when that was captured.
    last: Option<(u32, Instant)>,
    /// With RTX: what may be asked for again.
    resends: Resends,
    /// Without RTX: the same.
    history: History,
    outbound: Outbound,
    /// Index of the next packet on the stream for retransmissions.
    rtx_index: u64,
    clock_rate: u32,
}

/// The consumers of one transport, by slot. What each packet needs comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Sending {
    slots: Vec<Option<SendStream>>,
    /// Packets for the next flush.
    waiting: VecDeque<Waiting>,
    media: Rc<RouterMedia>,
    /// Octets of the longest MID so far. Packets have room for it, so that those of one size
    /// without their MIDs, as sound often is, have one size with them and leave together.
    mid_room: u8,
    /// Time of the next sender reports, while there is something to report.
    next_report: Option<Instant>,
    /// What protects packets, once the keys are there.
    sealer: Option<Sealer>,
    /// Slot of each SSRC, media and RTX.
    by_ssrc: FastMap<u32, usize>,
    /// Packets that NACKs have named lately, and when some of them were forgotten.
    owed: usize,
    forgot: Option<Instant>,
    /// Index of the next probe on SSRC 0.
    probe_index: u64,
    /// Name of the streams in RTCP.
    cname: String,
    /// Nobody is where they are sent to (plain transports).
    unreachable: bool,
}

impl Default for Sending {
    fn default() -> Self {
        Self::new(Rc::default())
    }
}

impl Sending {
    /// Streams for the client of a transport, of a router's media.
    pub fn new(media: Rc<RouterMedia>) -> Self {
        let name: [u8; CNAME_LEN / 2] = rand::random();
        Self {
            media,
            mid_room: 0,
            slots: Vec::new(),
            by_ssrc: FastMap::default(),
            owed: 0,
            forgot: None,
            sealer: None,
            waiting: VecDeque::new(),
            probe_index: random_index(),
            next_report: None,
            unreachable: false,
            cname: name.map(|octet| format!("{octet:02x}")).concat(),
        }
    }

    /// Takes what protects packets, once: another sealer with the same keys would use
    /// numbers again.
    pub fn protect(&mut self, make: impl FnOnce() -> Option<Sealer>) {
        if self.sealer.is_none() {
            self.sealer = make();
        }
    }

    /// Forgets what was sent to the consumer in a slot, so that it is not sent again.
    pub fn forget_sent(&mut self, slot: u32) {
        let place = usize::try_from(slot).ok();
        let stream = place.and_then(|slot| self.slots.get_mut(slot)?.as_mut());
        if let Some(stream) = stream {
            stream.resends.clear();
        }
    }

    /// Whether there is video.
    pub fn has_video(&self) -> bool {
        self.streams().any(|s| !s.kind.is_audio())
    }

    /// Notes that so many packets are asked for again. False: more than a client
    /// that means well can have lost.
    pub fn expects_nacks(&mut self, now: Instant, packets: usize) -> bool {
        let mut forgot = *self.forgot.get_or_insert(now);
        while self.owed > 7 && now.saturating_duration_since(forgot) >= OWED_INTERVAL {
            self.owed -= self.owed / 8;
            forgot += OWED_INTERVAL;
        }
        if self.owed <= 7 {
            forgot = now;
        }
        self.forgot = Some(forgot);
        self.owed = self.owed.saturating_add(packets);
        self.owed <= MAX_OWED
    }

    /// Checks a new consumer.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check(&self, spec: &ConsumerSpec) -> Result<(), TransportError> {
        let invalid = |text: String| Err(TransportError::Invalid(text));
        if self.streams().count() >= MAX_CONSUMERS {
            return Err(TransportError::Limit(format!(
                "more than {MAX_CONSUMERS} consumers on one transport"
            )));
        }
        let mid = Mid::of(&spec.mid);
        if !is_token(&spec.mid, MAX_MID) || self.streams().any(|s| s.mid == mid) {
            return invalid(format!(
                "mid: {:?} is malformed or already in use",
                spec.mid
            ));
        }
        if spec.pt >= PROBATOR_PT {
            return invalid(format!("payload_type: {} cannot be sent", spec.pt));
        }
        for ssrc in [Some(spec.ssrc), spec.rtx_ssrc].into_iter().flatten() {
            let taken = self
                .streams()
                .any(|s| s.ssrc == ssrc || s.rtx.is_some_and(|(rtx, _)| rtx == ssrc));
            if ssrc == 0 || ssrc == PROBATOR_SSRC || taken {
                return invalid(format!("ssrc: {ssrc} is reserved or already in use"));
            }
        }
        if spec.rtx_ssrc == Some(spec.ssrc) {
            return invalid("rtx_ssrc: equals ssrc".into());
        }
        Ok(())
    }

    fn streams(&self) -> impl Iterator<Item = &SendStream> {
        self.slots.iter().flatten()
    }

    /// The slot that the next consumer gets.
    pub fn next_slot(&self) -> u32 {
        let at = self.slots.iter().position(Option::is_none);
        u32::try_from(at.unwrap_or(self.slots.len())).unwrap_or(u32::MAX)
    }

    /// Adds a checked consumer at [`Sending::next_slot`].
    pub fn add(&mut self, consumer: ConsumerKey, spec: &ConsumerSpec) {
        let codec = self.media.codec(spec.pt);
        let rtx_pt = codec.and_then(|codec| codec.rtx);
        let stream = SendStream {
            consumer,
            mid: Mid::of(&spec.mid),
            pt: spec.pt,
            ssrc: spec.ssrc,
            rtx: spec.rtx_ssrc.zip(rtx_pt),
            clock_rate: codec.map_or(90_000, |codec| codec.clock_rate),
            written: spec.written,
            kind: spec.kind,
            outbound: Outbound::default(),
            rtx_index: random_index(),
            longest: (0, 0),
            last: None,
            resends: Resends::default(),
            history: History::default(),
        };
        let mid_len = stream.mid.map_or(0, |mid| mid.len());
        self.mid_room = self.mid_room.max(mid_len);
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        let rtx = stream.rtx.map(|(ssrc, _)| ssrc);
        for ssrc in std::iter::once(stream.ssrc).chain(rtx) {
            self.by_ssrc.insert(ssrc, slot);
        }
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(stream),
            None => self.slots.push(Some(stream)),
        }
    }

    /// Whether there is a consumer whose packets the client counts.
    pub fn counts(&self) -> bool {
        self.streams().any(|stream| self.is_counted(stream))
    }

    /// Whether the client counts the packets of a stream (transport-cc).
    fn is_counted(&self, stream: &SendStream) -> bool {
        stream.written.automatic.transport_cc && self.media.ids.has_transport_cc()
    }

    /// Removes the consumer in a slot.
    pub fn remove(&mut self, slot: u32) {
        let place = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.slots.get_mut(slot));
        let Some(stream) = place.and_then(Option::take) else {
            return;
        };
        let rtx = stream.rtx.map(|(ssrc, _)| ssrc);
        for ssrc in std::iter::once(stream.ssrc).chain(rtx) {
            self.by_ssrc.remove(&ssrc);
        }
    }

    /// The consumer that a client's request is about.
    pub fn consumer(&self, ssrc: u32) -> Option<ConsumerKey> {
        let slot = *self.by_ssrc.get(&ssrc)?;
        let stream = self.slots.get(slot)?.as_ref()?;
        (stream.ssrc == ssrc).then_some(stream.consumer)
    }

    /// The consumers of video.
    pub fn video_consumers(&self) -> impl Iterator<Item = ConsumerKey> {
        let video = self.streams().filter(|stream| !stream.kind.is_audio());
        video.map(|stream| stream.consumer)
    }

    /// Whether a packet that leaves is one of sound.
    pub fn is_audio(&self, rtp: &[u8]) -> bool {
        let ssrc = rtp.get(8..).and_then(|rest| rest.first_chunk());
        let slot = ssrc.and_then(|ssrc| self.by_ssrc.get(&u32::from_be_bytes(*ssrc)));
        let stream = slot.and_then(|slot| self.slots.get(*slot)?.as_ref());
        stream.is_some_and(|stream| stream.kind.is_audio())
    }

    fn by_ssrc_mut(&mut self, ssrc: u32) -> Option<&mut SendStream> {
        let slot = *self.by_ssrc.get(&ssrc)?;
        self.slots.get_mut(slot)?.as_mut()
    }

    /// What audio takes, bits per second.
    pub fn audio_bitrate(&self, now: Instant) -> u64 {
        let audio = self.streams().filter(|s| s.kind.is_audio());
        audio.map(|s| s.outbound.bitrate(now)).sum()
    }

    fn stream(&self, slot: u32) -> Option<&SendStream> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    /// Score of the consumer in a slot, by its client's receiver reports; 0 where nobody is.
    pub fn score(&self, slot: u32) -> Option<u8> {
        let score = self.stream(slot)?.outbound.score();
        Some(if self.unreachable { 0 } else { score })
    }

    /// Statistics of the consumer in a slot.
    pub fn stats(&self, now: Instant, slot: u32) -> Option<StreamStats> {
        let stream = self.stream(slot)?;
        Some(StreamStats {
            ssrc: stream.ssrc,
            rtx_ssrc: stream.rtx.map(|(ssrc, _)| ssrc),
            score: self.score(slot)?,
            ..stream.outbound.stats(now)
        })
    }

    /// What the stream in a slot comes to.
    pub fn totals_of(&self, slot: u32) -> Totals {
        let stream = self.stream(slot);
        stream.map(|it| it.outbound.totals()).unwrap_or_default()
    }

    /// What all streams come to.
    pub fn totals(&self) -> Totals {
        let totals = self.streams().map(|it| it.outbound.totals());
        totals.fold(Totals::default(), Totals::and)
    }

    /// Packets expected and lost in the last intervals of all streams.
    pub fn loss(&self) -> (u64, u64) {
        self.streams()
            .map(|stream| stream.outbound.interval())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Queues a packet for its consumer; it leaves with the next flush. `at`: when it was
    /// captured, on the local clock, and no later than now.
    pub fn write(&mut self, forward: &Forward, packet: &Rc<MediaPacket>, at: Instant) -> bool {
        let slot = usize::try_from(forward.sink.slot).unwrap_or(usize::MAX);
        let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        stream.outbound.written(forward.sequence);
        let waiting = Waiting {
            slot,
            consumer: stream.consumer,
            sequence: forward.sequence,
            timestamp: forward.timestamp,
            marker: forward.marker,
            source: Source {
                packet: Rc::clone(packet),
                what: forward.payload,
                frame_number: forward.frame_number,
            },
            again: false,
            probe: false,
        };
        let len = waiting.source.len();
        stream.longest = match stream.longest {
            (timestamp, longest) if timestamp == forward.timestamp => (timestamp, longest.max(len)),
            _ => (forward.timestamp, len),
        };
        if stream.last.replace((forward.timestamp, at)).is_none() {
            // The client cannot tell when a stream was captured before it has one.
            self.next_report = Some(at);
        }
        self.queue(waiting)
    }
}

/// Where the numbers of a stream of our own begin (RFC 3711 §3.3.1: low enough that the
/// first packet may be lost).
fn random_index() -> u64 {
    u64::from(rand::random::<u16>() & 0x7fff) + 1
}
