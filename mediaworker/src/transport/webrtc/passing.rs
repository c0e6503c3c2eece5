//! What passes a transport: what leaves it, and what is counted both ways.

use std::time::Instant;

use router::ProducerKey;
use str0m::bwe::Bitrate;

use super::{Output, WebRtcTransport};
use crate::transport::PacketKind;
use crate::transport::guard::{self, Resend, ResendBudget};
use crate::transport::receive::Receiving;
use crate::transport::send::Sending;
use crate::transport::srtcp;
use crate::transport::stats::Traffic;

impl WebRtcTransport {
    /// What has passed.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What is sent by the client.
    pub fn receiving(&self) -> &Receiving {
        &self.receiving
    }

    /// What is sent to the client.
    pub fn sending(&self) -> &Sending {
        &self.sending
    }

    /// What can be sent to the client, bits per second; `None` when nothing limits
    /// it. `sent`: what is meant to be sent now.
    pub fn available_bitrate(&self, now: Instant, sent: u64) -> Option<u64> {
        self.bandwidth.available(now, sent)
    }

    /// The same; before the client has told anything about it, a guess within its limits.
    pub fn likely_bitrate(&self, now: Instant, sent: u64, guess: u64) -> u64 {
        self.bandwidth.likely(now, sent, guess)
    }

    /// Whether much of what is sent to the client is lost.
    pub fn loses_much(&self) -> bool {
        self.bandwidth.loses_much()
    }

    /// Whether the way to the client has become much too narrow since this was asked
    /// last: most of what is under way is lost.
    pub fn take_collapse(&mut self) -> bool {
        self.bandwidth.take_collapse()
    }

    /// Forgets what was sent to a consumer: something else is from now on.
    pub fn forget_sent(&mut self, slot: u32) {
        if let Some(rtc) = self.rtc.as_deref_mut() {
            self.sending.forget_sent(rtc, slot);
        }
    }

    /// No video is wanted any more.
    pub fn want_nothing(&mut self) {
        if let Some(rtc) = self.rtc.as_deref_mut()
            && let Some(from) = self.bandwidth.set_idle(true)
        {
            rtc.bwe().reset(Bitrate::bps(from));
            rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::ZERO);
        }
    }

    /// Says what would be welcome for video and audio, bits per second, and whether
    /// there is less: then it is probed for time and again. 0: no video is wanted.
    pub fn want_bitrate(&mut self, now: Instant, desired: u64, wants_more: bool) {
        let Some(rtc) = self.rtc.as_deref_mut() else {
            return;
        };
        if let Some(from) = self.bandwidth.set_idle(desired == 0) {
            rtc.bwe().reset(Bitrate::bps(from));
            self.progress.stir();
        }
        if let Some(from) = self.bandwidth.stalls(now, wants_more) {
            rtc.bwe().reset(Bitrate::bps(from));
            self.progress.stir();
        }
        if let Some(desired) = self.bandwidth.want(now, desired, wants_more) {
            rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(desired));
            self.progress.stir();
        }
    }

    /// Counts a connectivity check and its answer.
    pub fn count_check(&mut self, now: Instant, received: usize, sent: usize) {
        self.traffic.received.add(now, received);
        self.traffic.sent.add(now, sent);
    }

    /// Counts an RTP packet that str0m has been given.
    pub(super) fn count_arrival(&mut self, now: Instant, rtp: &[u8]) {
        let meter = if self.receiving.arriving().repair {
            &mut self.traffic.rtx_received
        } else {
            &mut self.traffic.rtp_received
        };
        meter.add(now, rtp.len());
        self.receiving.arrived(rtp);
    }

    /// A producer is paused, or not any more.
    pub fn set_producer_paused(&mut self, now: Instant, producer: ProducerKey, paused: bool) {
        self.receiving.set_paused(now, producer, paused);
    }

    /// Lets a datagram of str0m leave, and says what it is. `None`: the client asks for
    /// more than it may, and the transport has failed.
    pub(super) fn transmit(
        &mut self,
        now: Instant,
        datagram: Vec<u8>,
        out: &mut Output,
    ) -> Option<Departure> {
        match PacketKind::of(&datagram) {
            // str0m's own checks are for the pair of addresses that is not real.
            Some(PacketKind::Stun) => {}
            Some(PacketKind::Rtp) => {
                let sent = self.departure(&datagram);
                let goes_on = self.transmit_rtp(now, datagram, sent, out);
                return goes_on.then_some(sent);
            }
            Some(PacketKind::Rtcp) => {
                for (ssrc, _) in srtcp::heard(&datagram).nacks {
                    self.receiving.nacked(ssrc);
                }
                self.leave(now, datagram, out);
            }
            _ => self.leave(now, datagram, out),
        }
        Some(Departure::Other)
    }

    /// Looks at an RTCP packet that str0m has been given: counts what its NACKs name,
    /// and sends that again where str0m would not; notes what was lost. False: as
    /// `None` of [`WebRtcTransport::transmit`].
    pub(super) fn look_at_rtcp(&mut self, now: Instant, rtcp: &[u8], out: &mut Output) -> bool {
        let heard = srtcp::heard(rtcp);
        if heard.arrived + heard.lost > 0 {
            let sent = self.traffic.sent.recent_bitrate(now);
            let loss = (heard.arrived, heard.lost);
            out.bandwidth_changed |= self.bandwidth.handle_feedback(now, loss, sent);
        }
        if !self.sending.expects_nacks(heard.nacks.len()) {
            out.failed = Some("asks for too many retransmissions".into());
            return false;
        }
        heard.nacks.into_iter().all(|(ssrc, sequence)| {
            match self.sending.nacked(ssrc, sequence).map(<[u8]>::to_vec) {
                Some(packet) => self.transmit_rtp(now, packet, Departure::Resend, out),
                None => true,
            }
        })
    }

    /// What an RTP packet of str0m is.
    fn departure(&mut self, rtp: &[u8]) -> Departure {
        if guard::ssrc(rtp) == Some(PROBE_SSRC) {
            Departure::Probe
        } else if !guard::payload_type(rtp).is_some_and(|pt| self.media.is_resend(pt)) {
            Departure::Media
        } else if self.sending.pay_back(rtp) {
            Departure::Resend
        } else {
            Departure::Probe
        }
    }

    fn transmit_rtp(
        &mut self,
        now: Instant,
        rtp: Vec<u8>,
        kind: Departure,
        out: &mut Output,
    ) -> bool {
        match pay(&mut self.resends, kind) {
            Resend::Send => {
                self.count_departure(now, &rtp, kind);
                self.leave(now, rtp, out);
            }
            Resend::Drop => out.dropped += 1,
            Resend::Close => {
                out.failed = Some("asks for too many retransmissions".into());
                return false;
            }
        }
        true
    }

    fn leave(&mut self, now: Instant, datagram: Vec<u8>, out: &mut Output) {
        match self.ice.selected() {
            Some(tuple) => {
                self.traffic.sent.add(now, datagram.len());
                out.datagrams.push((tuple, datagram));
            }
            None => out.dropped += 1,
        }
    }

    fn count_departure(&mut self, now: Instant, rtp: &[u8], kind: Departure) {
        let traffic = &mut self.traffic;
        let meter = match kind {
            Departure::Media => &mut traffic.rtp_sent,
            Departure::Resend => &mut traffic.rtx_sent,
            Departure::Probe => return traffic.probation_sent.add(now, rtp.len()),
            Departure::Other => return,
        };
        meter.add(now, rtp.len());
        self.sending.sent(now, rtp, kind == Departure::Resend);
    }
}

/// SSRC of probes on a transport that has no stream for retransmissions.
const PROBE_SSRC: u32 = 0;

/// What a datagram to the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    Media,
    Resend,
    /// It only finds out whether it passes.
    Probe,
    /// No RTP.
    Other,
}

/// Charges a packet to the budget of retransmissions; media packets fill it up.
/// Probes are not what the client asks for.
fn pay(budget: &mut ResendBudget, kind: Departure) -> Resend {
    match kind {
        Departure::Resend => return budget.resend(),
        Departure::Media => budget.media(),
        // What is not asked for is str0m's own, and bounded by its estimate.
        Departure::Probe | Departure::Other => {}
    }
    Resend::Send
}
