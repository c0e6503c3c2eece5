//! What passes a transport: what leaves it, and what is counted both ways.

use std::time::Instant;

use router::ProducerKey;

use super::{Output, WebRtcTransport};
use crate::transport::guard::Resend;
use crate::transport::receive::{Arrival, Receiving};
use crate::transport::rtcp::asking::write_feedback;
use crate::transport::rtcp::{self, Heard};
use crate::transport::send::{Asked, Departure, Sending};
use crate::transport::stats::Traffic;
use crate::transport::{ConnectionKey, PacketKind, Tuple};

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
    pub fn loses_much(&self, now: Instant) -> bool {
        self.bandwidth.loses_much(now)
    }

    /// Whether what is known of the way to the client is only what it tells by REMB.
    pub fn is_told(&self) -> bool {
        self.bandwidth.is_told()
    }

    /// Whether the way to the client has become much too narrow since this was asked
    /// last: most of what is under way is lost.
    pub fn take_collapse(&mut self) -> bool {
        self.bandwidth.take_collapse()
    }

    /// Forgets what was sent to a consumer: something else is from now on.
    pub fn forget_sent(&mut self, slot: u32) {
        self.sending.forget_sent(slot);
    }

    /// No video is wanted any more.
    pub fn want_nothing(&mut self) {
        self.bandwidth.want_nothing();
    }

    /// Looks whether a little more than is known to pass may be tried. `sent`: what is
    /// meant to be sent now, `next`: what has to be available for the next step that
    /// is wanted, bits per second.
    pub fn try_more(&mut self, now: Instant, sent: u64, next: Option<u64>) {
        self.bandwidth.try_more(now, sent, next);
    }

    /// Says what would be welcome for video and audio, bits per second, and whether
    /// there is less: then it is probed for time and again. 0: no video is wanted.
    pub fn want_bitrate(&mut self, now: Instant, desired: u64, wants_more: bool) {
        if self.is_connected() {
            self.bandwidth.want(now, desired, wants_more);
        }
    }

    /// See [`IceAgent::lose`].
    ///
    /// [`IceAgent::lose`]: crate::transport::ice::IceAgent::lose
    pub fn lose_connection(&mut self, now: Instant, connection: ConnectionKey, out: &mut Output) {
        self.ice.lose(now, connection);
        self.set_slow(connection, false, out);
    }

    /// See [`IceAgent::take_connections`].
    ///
    /// [`IceAgent::take_connections`]: crate::transport::ice::IceAgent::take_connections
    pub fn take_connections(&mut self) -> Vec<Tuple> {
        self.slow.clear();
        self.ice.take_connections()
    }

    /// More waits on a TCP connection of this transport than it can take for now, or
    /// no longer. While it carries the media, no video leaves.
    pub fn set_slow(&mut self, connection: ConnectionKey, slow: bool, out: &mut Output) {
        let ice = &self.ice;
        let is_open = |it: ConnectionKey| ice.tuples().any(|way| way.connection() == Some(it));
        self.slow.retain(|it| *it != connection && is_open(*it));
        if slow && is_open(connection) {
            self.slow.push(connection);
        }
        self.catch_up(out);
    }

    /// Whether what carries the media is slow.
    pub(super) fn is_slow(&self) -> bool {
        let carries = self.ice.selected().and_then(|way| way.connection());
        carries.is_some_and(|it| self.slow.contains(&it))
    }

    /// Asks for keyframes where video was not sent that can be sent again: the client
    /// would only find out that it needs them.
    pub(super) fn catch_up(&mut self, out: &mut Output) {
        if self.owes_video && self.ice.selected().is_some() && !self.is_slow() {
            self.owes_video = false;
            let consumers = self.sending.video_consumers();
            out.key_frame_requests.extend(consumers);
        }
    }

    /// Counts a connectivity check and its answer.
    pub fn count_check(&mut self, now: Instant, received: usize, sent: usize) {
        self.traffic.received.add(now, received);
        self.traffic.other_sent.add(now, sent);
    }

    /// A producer is paused, or not any more.
    pub fn set_producer_paused(&mut self, now: Instant, producer: ProducerKey, paused: bool) {
        self.receiving.set_paused(now, producer, paused);
    }

    /// Lets a datagram of str0m leave.
    pub(super) fn transmit(&mut self, now: Instant, datagram: Vec<u8>, out: &mut Output) {
        match PacketKind::of(&datagram) {
            // str0m's own checks are for the pair of addresses that is not real.
            Some(PacketKind::Stun) => {}
            Some(PacketKind::Dtls) => self.leave(now, datagram, out),
            // It has no streams, and numbers of packets are not used twice.
            Some(PacketKind::Rtp | PacketKind::Rtcp) | None => {}
        }
    }

    /// Sends what was queued.
    pub(super) fn send_queued(&mut self, now: Instant, out: &mut Output) {
        while let Some(departed) =
            self.sending
                .next(now, self.bandwidth.next_number(), &mut out.supplies)
        {
            if departed.counted {
                self.bandwidth.note_departure(now, departed.packet.len());
            }
            self.transmit_rtp(now, departed.packet, departed.kind, out);
        }
    }

    /// Sends the reports that are due, and asks for what is missing.
    pub(super) fn report(&mut self, now: Instant, out: &mut Output) {
        for report in self.sending.reports(now) {
            self.leave(now, report, out);
        }
        if !self.receiving.is_due(now) {
            return;
        }
        let can_ask = self.is_connected();
        let (blocks, ask) = self.receiving.due(now, can_ask);
        let packets = write_feedback(now, self.ssrc, &blocks, &ask);
        for packet in self.sending.seal_rtcp(packets) {
            self.leave(now, packet, out);
        }
    }

    /// Opens an RTP packet of the client, and finds out whose it is.
    pub(super) fn take_rtp(&mut self, now: Instant, came: Instant, rtp: &[u8], out: &mut Output) {
        let Some(opener) = self.opener.as_mut() else {
            self.hold(now, came, PacketKind::Rtp, rtp, out);
            return;
        };
        let mut clear = std::mem::take(&mut out.clear);
        clear.clear();
        clear.extend_from_slice(rtp);
        let arrival = match opener.rtp(&mut clear) {
            Some(()) => self.receiving.receive(came, &clear, rtp.len()),
            None => {
                self.receiving.discard(rtp);
                Arrival::Refused
            }
        };
        out.clear = clear;
        match arrival {
            Arrival::Media { received, again } => {
                self.traffic.media_received(now, rtp.len(), again);
                out.received.push(received);
            }
            Arrival::Padding | Arrival::Kept => {}
            Arrival::WrongType => out.wrong_stream += 1,
            Arrival::Refused | Arrival::Unparsable => out.dropped += 1,
        }
        out.wrong_stream += self.receiving.take_unclaimed();
        if self.receiving.is_abused() {
            out.failed = Some("changes its SSRCs too often".into());
        }
    }

    /// Opens RTCP of the client, and does what it asks for.
    pub(super) fn take_rtcp(&mut self, now: Instant, came: Instant, rtcp: &[u8], out: &mut Output) {
        let Some(opener) = self.opener.as_mut() else {
            self.hold(now, came, PacketKind::Rtcp, rtcp, out);
            return;
        };
        let mut clear = std::mem::take(&mut out.clear);
        clear.clear();
        clear.extend_from_slice(rtcp);
        let mut heard = Heard::default();
        let opened = opener.rtcp(&mut clear).is_some();
        if opened {
            rtcp::read(&clear, &mut heard);
        }
        out.clear = clear;
        if !opened {
            out.dropped += 1;
            return;
        }
        self.receiving.handle(came, self.ssrc, &heard);
        if self.handle_heard(now, came, heard, out) {
            self.send_queued(now, out);
        }
    }

    /// Takes in what the client reports and requests, queues again what it asks for, and
    /// notes what was lost. False: the client asks for more than it may, and the transport
    /// has failed.
    fn handle_heard(
        &mut self,
        now: Instant,
        came: Instant,
        heard: Heard,
        out: &mut Output,
    ) -> bool {
        for feedback in &heard.feedback {
            let sent = || self.traffic.sent(|meter| meter.recent_bitrate(now));
            out.bandwidth_changed |= self.bandwidth.handle_feedback(came, feedback, sent);
        }
        if let Some(bitrate) = heard.bitrate {
            out.bandwidth_changed |= self.bandwidth.handle_remb(bitrate);
        }
        let reported = self.sending.handle(came, &heard);
        if !heard.reports.is_empty() {
            let times = heard.reports.iter().filter_map(|it| it.round_trip(came));
            self.bandwidth.handle_reports(now, reported, times.min());
        }
        for ssrc in heard.plis.iter().chain(&heard.firs) {
            out.key_frame_requests.extend(self.sending.consumer(*ssrc));
        }
        if !self.sending.expects_nacks(now, heard.nacks.len()) {
            out.failed = Some("asks for too many retransmissions".into());
            return false;
        }
        heard
            .nacks
            .into_iter()
            .all(|(ssrc, sequence)| self.resend(now, ssrc, sequence, out))
    }

    /// Sends a packet again, if it is kept. False as for
    /// [`WebRtcTransport::handle_heard`].
    fn resend(&mut self, now: Instant, ssrc: u32, sequence: u16, out: &mut Output) -> bool {
        let as_it_was = match self.sending.nacked(ssrc, sequence) {
            Asked::Gone => return true,
            Asked::Kept => None,
            Asked::AsItWas(packet) => Some(packet.to_vec()),
        };
        match self.resends.resend() {
            Resend::Send if as_it_was.is_none() && self.resends_too_much(now) => out.dropped += 1,
            Resend::Send => match as_it_was {
                Some(packet) => {
                    self.sending.sent_again(now, ssrc, packet.len());
                    self.transmit_rtp(now, packet, Departure::Resend, out);
                }
                None if self.sending.resend(ssrc, sequence) => {}
                None => out.dropped += 1,
            },
            Resend::Drop => out.dropped += 1,
            Resend::Close => {
                out.failed = Some("asks for too many retransmissions".into());
                return false;
            }
        }
        true
    }

    /// Whether half of what is sent are retransmissions, as a client asks for that loses
    /// every second packet.
    fn resends_too_much(&self, now: Instant) -> bool {
        let again = self.traffic.rtx_sent.recent_bitrate(now);
        again > RESEND_FLOOR && again > self.traffic.rtp_sent.recent_bitrate(now)
    }

    pub(super) fn transmit_rtp(
        &mut self,
        now: Instant,
        rtp: Vec<u8>,
        kind: Departure,
        out: &mut Output,
    ) {
        // What only finds out whether it passes is held back, too.
        if !self.slow.is_empty()
            && self.is_slow()
            && (kind == Departure::Probe || !self.sending.is_audio(&rtp))
        {
            // The client tells that it is missing, which is what slows down the rest.
            out.slow_video += 1;
            self.owes_video = true;
            return;
        }
        let Some(way) = self.ice.way() else {
            self.lose(out);
            return;
        };
        let meter = match kind {
            Departure::Media => {
                self.resends.media();
                &mut self.traffic.rtp_sent
            }
            Departure::Resend => &mut self.traffic.rtx_sent,
            Departure::Probe => &mut self.traffic.probation_sent,
        };
        meter.add(now, rtp.len());
        out.datagrams.push((*way, rtp));
    }

    /// Lets a datagram leave that is no media.
    pub(super) fn leave(&mut self, now: Instant, datagram: Vec<u8>, out: &mut Output) {
        let Some(way) = self.ice.way() else {
            self.lose(out);
            return;
        };
        self.traffic.other_sent.add(now, datagram.len());
        out.datagrams.push((*way, datagram));
    }

    /// There is no way for what should leave.
    fn lose(&mut self, out: &mut Output) {
        out.dropped += 1;
        self.owes_video = true;
    }
}

/// Bitrate of retransmissions that is never too much, bits per second.
const RESEND_FLOOR: u64 = 100_000;
