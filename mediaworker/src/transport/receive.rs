//! The producing side of a WebRtcTransport: teaches str0m what a client will
//! send, and finds the producer that a packet belongs to.

mod counting;
mod delivering;
mod inbound;
mod limit;
mod orientation;
mod plain;

use std::collections::{HashMap, HashSet};

use router::{Codec, ProducerKey, StreamLayers};
use str0m::Rtc;
use str0m::change::SdpOffer;
use str0m::media::{KeyframeRequestKind, MediaKind, Mid, Rid};
use str0m::rtp::{RtpPacket, Ssrc};

use super::TransportError;
use super::clock::{Report, SenderClock};
use super::extensions;
use super::guard::{self, TransportCcGuard};
use super::offer::Lesson;
use super::packet::MediaPacket;
use super::slots::{PayloadType, SlotCodec, Slots};
pub use counting::{Arriving, EncodingScore};
use delivering::Origin;
use inbound::Inbound;
use limit::IncomingLimit;
pub use orientation::Orientation;
pub use plain::PlainArrival;

/// Most producers on one transport. A browser has a handful.
const MAX_PRODUCERS: usize = 64;
/// Most encodings of one producer.
const MAX_ENCODINGS: usize = 8;
/// Most codecs of one producer, RTX not counted.
const MAX_CODECS: usize = 16;
/// New SSRCs of known encodings after which a client is taken for hostile: str0m
/// remembers each one for ever. A browser has a new one when it starts anew.
const MAX_REPLACED: u32 = 1000;
/// Longest MID and RID that str0m carries whole.
const MAX_MID: usize = 16;
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
    pub packet: MediaPacket,
}

#[derive(Debug)]
struct Entry {
    key: ProducerKey,
    mid: Mid,
    spec: ProducerSpec,
    rids: Vec<Option<Rid>>,
    /// str0m has been told about it.
    taught: bool,
    paused: bool,
    /// By encoding, from its first packet on.
    inbound: Vec<Option<Inbound>>,
    /// Of its last picture that told.
    orientation: Option<Orientation>,
}

/// The producers of one transport.
#[derive(Debug, Default)]
pub struct Receiving {
    slots: Slots,
    /// What each extension id means (index 0 is id 1).
    extension_ids: [Option<ExtensionId>; extensions::READABLE_IDS],
    entries: Vec<Entry>,
    /// Media SSRC → (producer, encoding), filled as packets come.
    streams: HashMap<u32, (ProducerKey, usize)>,
    /// MID of the media that the last lesson left behind.
    lesson: Option<String>,
    lessons: u64,
    clock: SenderClock,
    /// SSRCs that the client has signalled, media and RTX.
    signalled: HashSet<u32>,
    /// Encodings of which an SSRC was not signalled, so that unknown ones may be
    /// theirs.
    unsignalled: usize,
    /// SSRCs that took the place of another.
    replaced: u32,
    transport_cc: TransportCcGuard,
    /// The datagram that str0m is being given.
    arriving: Arriving,
    /// Payload types of retransmissions, a bit for each.
    repair_types: u128,
    limit: IncomingLimit,
    /// Id of the extension that tells how pictures have to be turned.
    orientation_id: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ExtensionId {
    uri: &'static str,
    /// str0m has learnt it.
    taught: bool,
}

/// Remote ICE credentials that the `Rtc` holds.
#[derive(Debug, Clone, Copy)]
pub struct RemoteIce<'a> {
    /// Username fragment.
    pub ufrag: &'a str,
    /// Password.
    pub password: &'a str,
}

impl Receiving {
    /// Checks a new producer against everything that str0m would take silently
    /// or panic on.
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
        // A rehearsal: what fails, fails before anything has changed.
        let mut slots = self.slots.clone();
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
            slots.take(pt)?;
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
            if self.entries.iter().any(|e| &*e.mid == mid.as_str()) {
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

    /// Adds a checked producer. It is not known to str0m before
    /// [`Receiving::teach`].
    pub fn add(&mut self, key: ProducerKey, spec: ProducerSpec) {
        let mid = match &spec.mid {
            Some(mid) => mid.clone(),
            None => self.private_mid("p"),
        };
        let rids = spec
            .encodings
            .iter()
            .map(|e| e.rid.as_deref().map(Rid::from))
            .collect();
        for codec in &spec.codecs {
            // Cannot fail: it has been rehearsed.
            let _ = self.slots.take(codec.payload_type);
        }
        self.learn_extensions(&spec.extensions);
        self.count_ssrcs(&spec, true);
        self.entries.push(Entry {
            key,
            mid: mid.as_str().into(),
            inbound: spec.encodings.iter().map(|_| None).collect(),
            spec,
            rids,
            taught: false,
            paused: false,
            orientation: None,
        });
        self.learn_repair_types();
    }

    /// A MID that nothing on this transport has.
    fn private_mid(&mut self, prefix: &str) -> String {
        loop {
            self.lessons += 1;
            let mid = format!("{prefix}{}", self.lessons);
            let taken = self.lesson.as_ref() == Some(&mid)
                || self.entries.iter().any(|e| *e.mid == *mid.as_str());
            if !taken {
                return mid;
            }
        }
    }

    /// Tells str0m about the producers that it does not know. DTLS must have
    /// been started: an offer before that would start it in the wrong role.
    ///
    /// # Errors
    /// [`TransportError::Internal`]; the producer that caused it is removed.
    pub fn teach(&mut self, rtc: &mut Rtc, ice: RemoteIce<'_>) -> Result<(), TransportError> {
        while let Some(at) = self.entries.iter().position(|e| !e.taught) {
            if let Err(error) = self.teach_one(rtc, at, ice) {
                let entry = self.entries.remove(at);
                self.count_ssrcs(&entry.spec, false);
                return Err(error);
            }
        }
        Ok(())
    }

    fn teach_one(
        &mut self,
        rtc: &mut Rtc,
        at: usize,
        ice: RemoteIce<'_>,
    ) -> Result<(), TransportError> {
        let Some(entry) = self.entries.get(at) else {
            return Ok(());
        };
        let spec = entry.spec.clone();
        if self.lesson.as_deref() == Some(&*entry.mid) {
            rtc.direct_api().remove_media(entry.mid);
            self.lesson = None;
        }
        let payload_types = || spec.codecs.iter().map(|c| c.payload_type);
        let known = payload_types().all(|pt| self.slots.is_taught(pt));
        let lessons: Vec<(u8, &str)> = (1u8..)
            .zip(&self.extension_ids)
            .filter_map(|(id, held)| Some((id, held.filter(|held| !held.taught)?.uri)))
            .collect();
        if !known || !lessons.is_empty() {
            let codecs = payload_types()
                .map(|pt| Ok((pt, self.slots.take(pt)?)))
                .collect::<Result<Vec<_>, TransportError>>()?;
            let transport_cc = spec.codecs.iter().any(|c| c.transport_cc);
            self.offer(rtc, spec.kind, &codecs, &lessons, transport_cc, ice)?;
            self.slots.set_taught(payload_types());
            for held in self.extension_ids.iter_mut().flatten() {
                held.taught = true;
            }
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.taught = true;
            declare(rtc, entry);
        }
        Ok(())
    }

    /// Notes a producer's extension ids. The first meaning of an id stays, for
    /// str0m has one map for the whole transport; only abs-capture-time gives
    /// way, because old clients list it without sending it, with ids that belong
    /// to others. Transport-cc comes first, for it makes room.
    fn learn_extensions(&mut self, wanted: &[(u32, String)]) {
        let mut wanted: Vec<_> = wanted.iter().collect();
        wanted.sort_by_key(|(_, uri)| match uri.as_str() {
            extensions::TRANSPORT_CC => 0,
            extensions::ABS_CAPTURE_TIME => 2,
            _ => 1,
        });
        for (id, uri) in wanted {
            let Some(uri) = extensions::registered(uri) else {
                continue;
            };
            let has = |uri| self.extension_ids.iter().flatten().any(|e| e.uri == uri);
            let kept = *id == u32::from(extensions::UNTAUGHT_TRANSPORT_CC)
                && uri != extensions::TRANSPORT_CC
                && !has(extensions::TRANSPORT_CC);
            if has(uri) || kept {
                continue;
            }
            let index = usize::try_from(*id).unwrap_or(0).wrapping_sub(1);
            if let Some(place) = self.extension_ids.get_mut(index)
                && place.is_none_or(|held| held.uri == extensions::ABS_CAPTURE_TIME)
            {
                *place = Some(ExtensionId { uri, taught: false });
            }
        }
        let told = |held: &Option<ExtensionId>| {
            held.is_some_and(|held| held.uri == extensions::VIDEO_ORIENTATION)
        };
        let ids = (1u8..).zip(&self.extension_ids);
        self.orientation_id = ids.into_iter().find(|(_, e)| told(e)).map(|(id, _)| id);
    }

    /// Counts the SSRCs of a producer in or out.
    fn count_ssrcs(&mut self, spec: &ProducerSpec, there: bool) {
        for encoding in &spec.encodings {
            for ssrc in [encoding.ssrc, encoding.rtx_ssrc].into_iter().flatten() {
                if there {
                    self.signalled.insert(ssrc);
                } else {
                    self.signalled.remove(&ssrc);
                }
            }
            let repaired = spec.codecs.iter().any(|c| c.payload_type.rtx.is_some());
            if encoding.ssrc.is_none() || (encoding.rtx_ssrc.is_none() && repaired) {
                self.unsignalled = if there {
                    self.unsignalled + 1
                } else {
                    self.unsignalled.saturating_sub(1)
                };
            }
        }
    }

    /// Whether str0m may see an RTP packet, which is not authenticated yet.
    ///
    /// str0m moves a stream to a new SSRC before it has authenticated the packet
    /// that says so, which lets a forged one silence a producer: where all SSRCs
    /// are signalled, others have no business here. SSRC 0 probes the bandwidth.
    pub fn admits(&mut self, rtp: &[u8]) -> bool {
        self.arrives(rtp);
        let known = guard::ssrc(rtp).is_some_and(|ssrc| {
            ssrc == 0 || self.unsignalled > 0 || self.signalled.contains(&ssrc)
        });
        if !known {
            return false;
        }
        let id = self.transport_cc_id();
        guard::extension_u16(rtp, id).is_none_or(|number| self.transport_cc.admits(number))
    }

    /// The id at which str0m reads transport-cc now.
    fn transport_cc_id(&self) -> u8 {
        (1u8..)
            .zip(&self.extension_ids)
            .find(|(_, held)| {
                held.is_some_and(|held| held.taught && held.uri == extensions::TRANSPORT_CC)
            })
            .map_or(extensions::UNTAUGHT_TRANSPORT_CC, |(id, _)| id)
    }

    /// True when a client changes its SSRCs more than any honest one.
    pub fn is_abused(&self) -> bool {
        self.replaced > MAX_REPLACED
    }

    fn offer(
        &mut self,
        rtc: &mut Rtc,
        kind: MediaKind,
        codecs: &[(PayloadType, SlotCodec)],
        extensions: &[(u8, &str)],
        transport_cc: bool,
        ice: RemoteIce<'_>,
    ) -> Result<(), TransportError> {
        if let Some(mid) = self.lesson.take() {
            rtc.direct_api().remove_media(mid.as_str().into());
        }
        let mid = self.private_mid("l");
        let sdp = Lesson {
            audio: kind.is_audio(),
            mid: &mid,
            codecs,
            transport_cc,
            extensions,
            ice_ufrag: ice.ufrag,
            ice_password: ice.password,
        }
        .to_sdp();
        let internal = |what: String| TransportError::Internal(format!("str0m: {what}"));
        let offer = SdpOffer::from_sdp_string(&sdp).map_err(|e| internal(e.to_string()))?;
        rtc.sdp_api()
            .accept_offer(offer)
            .map_err(|e| internal(e.to_string()))?;
        self.lesson = Some(mid);
        self.remove_stray_senders(rtc);
        // accept_offer says Ok for codecs that it did not match.
        for (wanted, _) in codecs {
            let learnt = rtc
                .codec_config()
                .params()
                .iter()
                .any(|p| *p.pt() == wanted.pt && p.resend().map(|rtx| *rtx) == wanted.rtx);
            if !learnt {
                return Err(internal(format!("payload type {} not taken", wanted.pt)));
            }
        }
        Ok(())
    }

    /// An offer makes str0m create a sender for every declared media; it would
    /// write sender reports.
    fn remove_stray_senders(&self, rtc: &mut Rtc) {
        for entry in self.entries.iter().filter(|e| e.taught) {
            for rid in std::iter::once(None).chain(entry.rids.iter().copied()) {
                let mut api = rtc.direct_api();
                let stray = api.stream_tx_by_mid(entry.mid, rid).map(|s| s.ssrc());
                if let Some(ssrc) = stray {
                    api.remove_stream_tx(ssrc);
                }
            }
        }
    }

    /// Finds the producer of a packet. `None`: it belongs to none, or is not of
    /// the producer's media codec.
    pub fn accept(&mut self, rtc: &mut Rtc, packet: RtpPacket) -> Option<Received> {
        if let Some(number) = packet.header.ext_vals.transport_cc {
            self.transport_cc.took(number);
        }
        let ssrc = packet.header.ssrc;
        let (bound, new_source) = match self.streams.get(&*ssrc) {
            Some(&bound) => (bound, false),
            None => self.bind(rtc, ssrc)?,
        };
        let report = packet.last_sender_info.map(|info| Report {
            ntp: info.ntp_time,
            rtp: truncate(info.rtp_time.numer()),
        });
        let origin = Origin {
            bound,
            new_source,
            pt: *packet.header.payload_type,
            report,
        };
        let received = self.deliver(origin, packet.into())?;
        if self.limit.get().is_some() && self.is_video(received.producer) {
            self.limit.remind(received.packet.arrived, rtc, ssrc);
        }
        Some(received)
    }

    fn is_video(&self, producer: ProducerKey) -> bool {
        let entry = self.entries.iter().find(|e| e.key == producer);
        entry.is_some_and(|entry| entry.spec.kind.is_video())
    }

    /// Learns which encoding an SSRC carries from where str0m put it, and whether
    /// it takes the place of another.
    fn bind(&mut self, rtc: &mut Rtc, ssrc: Ssrc) -> Option<((ProducerKey, usize), bool)> {
        let mut api = rtc.direct_api();
        let rx = api.stream_rx(&ssrc)?;
        let (mid, rid) = (rx.mid(), rx.rid());
        let entry = self.entries.iter().find(|e| e.mid == mid)?;
        let by_ssrc = |e: &Encoding| e.ssrc == Some(*ssrc);
        let stream = match rid {
            Some(_) => entry.rids.iter().position(|r| *r == rid)?,
            None if entry.rids.len() == 1 => 0,
            None => entry.spec.encodings.iter().position(by_ssrc)?,
        };
        rx.suppress_nack(!entry.spec.codecs.first()?.nack);
        let found = (entry.key, stream);
        let before = self.streams.len();
        self.streams.retain(|_, bound| *bound != found);
        let replaced = self.streams.len() < before;
        self.replaced += u32::from(replaced);
        self.streams.insert(*ssrc, found);
        Some((found, replaced))
    }

    /// Takes in the wall clock of a sender report, which ends an interval.
    pub fn handle_report(&mut self, feedback: &str0m::media::SenderFeedback) {
        self.end_interval(feedback.received_at, *feedback.sender_info.ssrc);
        self.clock
            .handle_report(feedback.received_at, feedback.sender_info.ntp_time);
    }

    /// Sets the most that the client is told to send, bits per second; 0 is no limit.
    pub fn set_max_bitrate(&mut self, bitrate: Option<u64>) {
        self.limit.set(bitrate);
    }

    /// The most that the client is told to send, bits per second.
    pub fn max_bitrate(&self) -> Option<u64> {
        self.limit.get()
    }

    /// Asks the client for a keyframe of one encoding. True when something will
    /// be sent.
    pub fn request_key_frame(&self, rtc: &mut Rtc, producer: ProducerKey, stream: usize) -> bool {
        let Some(entry) = self.entries.iter().find(|e| e.key == producer) else {
            return false;
        };
        let kind = match entry.spec.codecs.first() {
            Some(c) if c.pli => KeyframeRequestKind::Pli,
            Some(c) if c.fir => KeyframeRequestKind::Fir,
            _ => return false,
        };
        let bound = self
            .streams
            .iter()
            .find(|(_, bound)| **bound == (producer, stream))
            .map(|(ssrc, _)| Ssrc::from(*ssrc));
        let rid = entry.rids.get(stream).copied().flatten();
        let mut api = rtc.direct_api();
        let rx = match bound {
            Some(ssrc) => api.stream_rx(&ssrc),
            None => api.stream_rx_by_mid(entry.mid, rid),
        };
        match rx {
            Some(rx) => {
                rx.request_keyframe(kind);
                true
            }
            None => false,
        }
    }

    /// Removes a producer.
    pub fn remove(&mut self, rtc: Option<&mut Rtc>, producer: ProducerKey) {
        let Some(at) = self.entries.iter().position(|e| e.key == producer) else {
            return;
        };
        let entry = self.entries.remove(at);
        self.learn_repair_types();
        self.count_ssrcs(&entry.spec, false);
        self.streams.retain(|_, (key, _)| *key != producer);
        if let Some(rtc) = rtc.filter(|_| entry.taught) {
            rtc.direct_api().remove_media(entry.mid);
        }
    }
}

fn declare(rtc: &mut Rtc, entry: &Entry) {
    let nack = entry.spec.codecs.first().is_some_and(|c| c.nack);
    let mut api = rtc.direct_api();
    let media = api.declare_media(entry.mid, entry.spec.kind);
    for rid in entry.rids.iter().flatten() {
        media.expect_rid_rx(*rid);
    }
    for (encoding, rid) in entry.spec.encodings.iter().zip(&entry.rids) {
        if let Some(ssrc) = encoding.ssrc {
            let rtx = encoding.rtx_ssrc.map(Ssrc::from);
            let rx = api.expect_stream_rx(ssrc.into(), rtx, entry.mid, *rid);
            rx.suppress_nack(!nack);
        }
    }
}

/// A MID or RID that str0m carries whole.
pub fn is_token(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The low 32 bits.
fn truncate(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}
