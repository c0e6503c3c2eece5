//! What passes a transport: what leaves it, and what is counted both ways.

use std::time::Instant;

use router::ProducerKey;

use super::{Output, RouterMedia, WebRtcTransport};
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

    /// Lets a datagram of str0m leave. False: the client asks for more than it may,
    /// and the transport has failed.
    pub(super) fn transmit(&mut self, now: Instant, datagram: Vec<u8>, out: &mut Output) -> bool {
        match PacketKind::of(&datagram) {
            // str0m's own checks are for the pair of addresses that is not real.
            Some(PacketKind::Stun) => {}
            Some(PacketKind::Rtp) => {
                let resend = is_resend(&self.media, &datagram);
                return self.transmit_rtp(now, datagram, resend, out);
            }
            Some(PacketKind::Rtcp) => {
                for (ssrc, _) in srtcp::nacks(&datagram) {
                    self.receiving.nacked(ssrc);
                }
                self.leave(now, datagram, out);
            }
            _ => self.leave(now, datagram, out),
        }
        true
    }

    /// Looks at the NACKs in an RTCP packet that str0m has been given: counts what
    /// they name, and sends it again where str0m would not. False as for
    /// [`WebRtcTransport::transmit`].
    pub(super) fn answer_nacks(&mut self, now: Instant, rtcp: &[u8], out: &mut Output) -> bool {
        srtcp::nacks(rtcp).into_iter().all(|(ssrc, sequence)| {
            match self.sending.nacked(ssrc, sequence).map(<[u8]>::to_vec) {
                Some(packet) => self.transmit_rtp(now, packet, true, out),
                None => true,
            }
        })
    }

    fn transmit_rtp(&mut self, now: Instant, rtp: Vec<u8>, resend: bool, out: &mut Output) -> bool {
        match pay(&mut self.resends, resend) {
            Resend::Send => {
                self.count_departure(now, &rtp, resend);
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

    fn count_departure(&mut self, now: Instant, rtp: &[u8], resend: bool) {
        let meter = if resend {
            &mut self.traffic.rtx_sent
        } else {
            &mut self.traffic.rtp_sent
        };
        meter.add(now, rtp.len());
        self.sending.sent(now, rtp, resend);
    }
}

/// Whether an RTP packet to the client is a retransmission.
fn is_resend(media: &RouterMedia, datagram: &[u8]) -> bool {
    let pt = guard::payload_type(datagram);
    pt.is_some() && media.codecs.iter().any(|c| c.rtx == pt)
}

/// Charges a packet to the budget of retransmissions; media packets fill it up.
fn pay(budget: &mut ResendBudget, resend: bool) -> Resend {
    if resend {
        return budget.resend();
    }
    budget.media();
    Resend::Send
}
