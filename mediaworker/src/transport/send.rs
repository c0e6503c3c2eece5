//! The consuming side of a WebRtcTransport: the streams that a client receives.

mod history;
mod outbound;
mod rewrite;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use router::{ConsumerKey, Forward};
use str0m::Rtc;
use str0m::config::DtlsCert;
use str0m::media::{MediaKind, Mid, Pt};
use str0m::rtp::{RtpPacket, RtpWrite, Ssrc};
use str0m::stats::MediaEgressStats;

use super::TransportError;
use super::extensions::Written;
use super::guard;
use super::receive::is_token;
use super::stats::{StreamStats, Totals};
use super::webrtc::RouterMedia;
use history::History;
use outbound::Outbound;

/// Most consumers on one transport.
const MAX_CONSUMERS: usize = 1024;
/// Packets kept for retransmission, for each stream, and for how long.
const RTX_CACHE_PACKETS: usize = 1024;
const RTX_CACHE_AGE: Duration = Duration::from_secs(3);
/// Largest share of retransmissions in what is sent, above which str0m drops what it
/// still has to resend. Half is what a client asks for that loses every second packet.
const RESEND_CAP: Option<f32> = Some(0.5);
/// Packets that NACKs may name on one transport, less half of them in each second;
/// str0m keeps each in a queue. A client with some lost seconds names 2,000.
const MAX_OWED: usize = 8192;
/// SSRC and payload type of the clients' hidden probing section; never media.
const PROBATOR_SSRC: u32 = 1234;
const PROBATOR_PT: u8 = 127;

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

#[derive(Debug)]
struct SendStream {
    consumer: ConsumerKey,
    mid: Mid,
    pt: Pt,
    ssrc: Ssrc,
    rtx: Option<Ssrc>,
    written: Written,
    kind: MediaKind,
    /// str0m has its media.
    known: bool,
    /// str0m has the stream. It gets it with the first packet, so that no sender
    /// report with an RTP time of zero goes out before, and idle streams cost
    /// nothing.
    declared: bool,
    outbound: Outbound,
    /// Without RTX: what may be asked for again.
    history: History,
}

/// The consumers of one transport, by slot.
#[derive(Debug, Default)]
pub struct Sending {
    slots: Vec<Option<SendStream>>,
    /// Slot of each SSRC, media and RTX.
    by_ssrc: HashMap<u32, usize>,
    by_mid: HashMap<Mid, usize>,
    /// Packets that NACKs have named lately.
    owed: usize,
}

impl Sending {
    /// Forgets what was sent to the consumer in a slot, so that it is not sent again.
    pub fn forget_sent(&mut self, rtc: &mut Rtc, slot: u32) {
        let Some(stream) = self.stream(slot).filter(|s| s.declared) else {
            return;
        };
        if let Some(tx) = rtc.direct_api().stream_tx(&stream.ssrc) {
            tx.set_rtx_cache(RTX_CACHE_PACKETS, RTX_CACHE_AGE, RESEND_CAP);
        }
    }

    /// Whether there is video.
    pub fn has_video(&self) -> bool {
        self.streams().any(|s| !s.kind.is_audio())
    }

    /// Notes that so many packets are asked for again. False: more than a client
    /// that means well can have lost.
    pub fn expects_nacks(&mut self, packets: usize) -> bool {
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
        if !is_token(&spec.mid, 16) || self.streams().any(|s| *s.mid == *spec.mid) {
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
                .any(|s| *s.ssrc == ssrc || s.rtx.is_some_and(|rtx| *rtx == ssrc));
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

    /// Adds a checked consumer at [`Sending::next_slot`]. str0m does not know it
    /// before [`Sending::declare`].
    pub fn add(&mut self, consumer: ConsumerKey, spec: &ConsumerSpec) {
        let stream = SendStream {
            consumer,
            mid: Mid::from(spec.mid.as_str()),
            pt: spec.pt.into(),
            ssrc: spec.ssrc.into(),
            rtx: spec.rtx_ssrc.map(Into::into),
            written: spec.written,
            kind: spec.kind,
            known: false,
            declared: false,
            outbound: Outbound::default(),
            history: History::default(),
        };
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        for ssrc in std::iter::once(stream.ssrc).chain(stream.rtx) {
            self.by_ssrc.insert(*ssrc, slot);
        }
        self.by_mid.insert(stream.mid, slot);
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(stream),
            None => self.slots.push(Some(stream)),
        }
    }

    /// Tells str0m about the consumers that it does not know.
    pub fn declare(&mut self, rtc: &mut Rtc, router: &RouterMedia, cert: &DtlsCert) {
        for stream in self.slots.iter_mut().flatten().filter(|s| !s.known) {
            let media = (stream.mid, stream.kind);
            router.declare(rtc, cert, stream.written.automatic, media);
            stream.known = true;
        }
    }

    /// Removes the consumer in a slot.
    pub fn remove(&mut self, rtc: Option<&mut Rtc>, slot: u32) {
        let place = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.slots.get_mut(slot));
        let Some(stream) = place.and_then(Option::take) else {
            return;
        };
        for ssrc in std::iter::once(stream.ssrc).chain(stream.rtx) {
            self.by_ssrc.remove(&*ssrc);
        }
        self.by_mid.remove(&stream.mid);
        if stream.known
            && let Some(rtc) = rtc
        {
            rtc.direct_api().remove_media(stream.mid);
        }
    }

    /// The consumer whose packets carry this MID.
    pub fn consumer(&self, mid: Mid) -> Option<ConsumerKey> {
        let slot = *self.by_mid.get(&mid)?;
        Some(self.slots.get(slot)?.as_ref()?.consumer)
    }

    /// Counts an RTP packet that leaves.
    pub fn sent(&mut self, now: Instant, rtp: &[u8], retransmission: bool) {
        let ssrc = guard::ssrc(rtp);
        if let Some(stream) = ssrc.and_then(|ssrc| self.by_ssrc_mut(ssrc)) {
            stream.outbound.sent(now, rtp.len(), retransmission);
            if stream.rtx.is_none() && !retransmission {
                stream.history.keep(rtp);
            }
        }
    }

    /// The client asks for a packet again: counts that, and answers the packet as
    /// it left if that is there and its stream has no RTX. For one with RTX str0m
    /// answers the client.
    pub fn nacked(&mut self, ssrc: u32, sequence: u16) -> Option<&[u8]> {
        let stream = self.by_ssrc_mut(ssrc)?;
        stream.outbound.nacked();
        stream.history.packet(sequence)
    }

    /// Whether a packet on a stream for retransmissions answers a NACK.
    pub fn pay_back(&mut self, rtp: &[u8]) -> bool {
        let stream = guard::ssrc(rtp).and_then(|ssrc| self.by_ssrc_mut(ssrc));
        stream.is_some_and(|stream| stream.outbound.pay_back())
    }

    fn by_ssrc_mut(&mut self, ssrc: u32) -> Option<&mut SendStream> {
        let slot = *self.by_ssrc.get(&ssrc)?;
        self.slots.get_mut(slot)?.as_mut()
    }

    /// A second or a part of it is over.
    pub fn forget_nacks(&mut self) {
        self.owed -= self.owed / 8;
    }

    /// Takes in what str0m counts of a stream.
    pub fn handle_stats(&mut self, stats: &MediaEgressStats) {
        let slot = self.by_mid.get(&stats.mid).copied();
        let place = slot.and_then(|slot| self.slots.get_mut(slot));
        if let Some(stream) = place.and_then(Option::as_mut) {
            stream.outbound.handle_stats(stats);
        }
    }

    /// What audio takes, bits per second.
    pub fn audio_bitrate(&self, now: Instant) -> u64 {
        let audio = self.streams().filter(|s| s.kind.is_audio());
        audio.map(|s| s.outbound.bitrate(now)).sum()
    }

    fn stream(&self, slot: u32) -> Option<&SendStream> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    /// Score of the consumer in a slot, by its client's receiver reports.
    pub fn score(&self, slot: u32) -> Option<u8> {
        Some(self.stream(slot)?.outbound.score())
    }

    /// Statistics of the consumer in a slot.
    pub fn stats(&self, now: Instant, slot: u32) -> Option<StreamStats> {
        let stream = self.stream(slot)?;
        Some(StreamStats {
            ssrc: *stream.ssrc,
            rtx_ssrc: stream.rtx.map(|ssrc| *ssrc),
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

    /// Queues a packet for its consumer; it leaves with the next flush. False: there is no
    /// such consumer.
    pub fn write(
        &mut self,
        rtc: &mut Rtc,
        forward: &Forward,
        packet: &RtpPacket,
        at: Instant,
    ) -> bool {
        let slot = usize::try_from(forward.sink.slot).unwrap_or(usize::MAX);
        let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        let mut api = rtc.direct_api();
        if !stream.declared {
            let tx = api.declare_stream_tx(stream.ssrc, stream.rtx, stream.mid, None);
            tx.set_rtx_cache(RTX_CACHE_PACKETS, RTX_CACHE_AGE, RESEND_CAP);
            // What the bandwidth does not allow is not written, and what it does has
            // been paced by who sent it. In a pacer's queue it would be late, and in
            // the way of what follows when the bandwidth falls.
            tx.set_unpaced(true);
            stream.outbound.begin(forward.sequence);
            stream.declared = true;
        }
        let Some(tx) = api.stream_tx(&stream.ssrc) else {
            return false;
        };
        stream.outbound.written(forward.sequence);
        let (payload, patch) = rewrite::payload(&forward.payload, &packet.payload);
        let mut write = RtpWrite::new(
            stream.pt,
            forward.sequence.into(),
            forward.timestamp,
            at,
            payload,
        )
        .marker(forward.marker)
        .ext_vals(
            stream
                .written
                .values(&packet.header.ext_vals, forward.frame_number),
        )
        .nackable(stream.rtx.is_some());
        if let Some(patch) = patch {
            write = write.vp8_patch(patch);
        }
        tx.write_rtp(write);
        true
    }
}
