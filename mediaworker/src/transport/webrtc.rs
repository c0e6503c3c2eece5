//! A WebRtcTransport: our ICE-lite in front of one str0m `Rtc`.
//!
//! str0m believes in one constant pair of addresses; the ICE agent decides where
//! datagrams really go. So a client may change its address, or restart ICE,
//! without str0m noticing. The `Rtc` is built when the handshake can start: by
//! then it is known what for, and its codecs are fixed from then on.

mod advancing;
mod building;
mod held;
mod passing;

use std::rc::Rc;
use std::time::{Duration, Instant};

use router::{ConsumerKey, Forward, ProducerKey};
use str0m::config::DtlsCert;
use str0m::ice::StunMessage;
use str0m::{Event, Output as RtcOutput, Rtc};

use super::bandwidth::{Bandwidth, BitrateLimits};
use super::crypto::{self, Fingerprint};
use super::data::{DataChannels, DataReceived};
use super::guard::ResendBudget;
use super::ice::{Checked, IceAgent, IceState};
use super::packet::MediaPacket;
use super::receive::{ProducerSpec, Received, Receiving};
use super::sealing::Sealer;
use super::send::{ConsumerSpec, Sending};
use super::srtp::Opener;
use super::stats::Traffic;
use super::supplies::Supplies;
use super::{ConnectionKey, Datagram, PacketKind, TransportError, Tuple, sctp};
use building::{build, feed, remote_ice};
use held::Held;

pub use super::media::RouterMedia;

/// DTLS records held while the connect command is under way. A ClientHello
/// takes two.
const MAX_EARLY: usize = 8;
/// Longest RTP or RTCP packet that is taken in, octets: more than any network passes in
/// one piece. A forwarded one grows by header extensions.
const MAX_RTP_LEN: usize = 1600;

/// How long sender reports wait for packets with which they can leave.
const REPORT_SLACK: Duration = Duration::from_millis(50);

/// DTLS state, with the names that clients know from statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsState {
    /// Waiting for the connect command.
    New,
    /// Handshake under way.
    Connecting,
    /// Keys are there.
    Connected,
    /// Handshake failed, or the certificate was the wrong one.
    Failed,
    /// The client has closed.
    Closed,
}

/// Which side of the DTLS handshake is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handshake {
    Client,
    Server,
}

/// What a transport gives out while it works. Reused from call to call.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams to send.
    pub datagrams: Vec<Datagram>,
    /// Packets of producers.
    pub received: Vec<Received>,
    /// Consumers whose clients need a keyframe.
    pub key_frame_requests: Vec<ConsumerKey>,
    /// Messages of data producers.
    pub data: Vec<DataReceived>,
    /// Another bitrate can be sent to the client now.
    pub bandwidth_changed: bool,
    /// ICE or DTLS state is another now.
    pub state_changed: bool,
    /// Packets or datagrams that were not taken in, for another reason than the next two.
    pub dropped: u64,
    /// Packets that were longer than any network passes in one piece.
    pub too_long: u64,
    /// Packets of an SSRC, or with a payload type, that no producer has.
    pub wrong_stream: u64,
    /// Packets of video that were not sent because the client's TCP connection is slow.
    pub slow_video: u64,
    /// The transport is dead: why.
    pub failed: Option<String>,
    /// Room in which a packet is opened.
    pub(super) clear: Vec<u8>,
    /// What the packets that are sent are made with.
    pub supplies: Supplies,
}

/// The transport.
///
/// Between two pictures the caches have forgotten it, so what each packet that leaves needs
/// is next to each other here, and comes first in each of the parts.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct WebRtcTransport {
    dtls: DtlsState,
    /// The handshake to start once ICE knows where the client is, and whether as
    /// DTLS client. A handshake that nobody can receive would only time out.
    pending: Option<Handshake>,
    /// The remote's certificate has been compared with its fingerprint.
    verified: bool,
    /// Video was not sent because there was no way, or a slow one.
    owes_video: bool,
    /// SSRC of what we report and ask for.
    ssrc: u32,
    pub(super) resends: ResendBudget,
    /// TCP connections on which too much waits.
    slow: Vec<ConnectionKey>,
    /// Its first two fields are the last that are needed of the first line of the caches.
    traffic: Traffic,
    sending: Sending,
    ice: IceAgent,
    /// What can be sent to the client.
    pub(super) bandwidth: Bandwidth,
    rtc_timeout: Option<Instant>,
    pub(super) rtc: Option<Box<Rtc>>,
    receiving: Receiving,
    /// What opens the client's RTP and RTCP, once the keys are there.
    opener: Option<Opener>,
    pub(super) data: DataChannels,
    cert: DtlsCert,
    remote: Option<Fingerprint>,
    early: Vec<Vec<u8>>,
    held: Held,
}

impl WebRtcTransport {
    /// A transport that waits for its client.
    pub fn new(
        cert: DtlsCert,
        media: Rc<RouterMedia>,
        data: DataChannels,
        limits: BitrateLimits,
    ) -> Self {
        Self {
            cert,
            sending: Sending::new(media),
            ice: IceAgent::new(),
            remote: None,
            dtls: DtlsState::New,
            verified: false,
            rtc: None,
            receiving: Receiving::default(),
            opener: None,
            ssrc: rand::random_range(1..=u32::MAX),
            data,
            early: Vec::new(),
            held: Held::default(),
            rtc_timeout: None,
            pending: None,
            resends: ResendBudget::default(),
            traffic: Traffic::default(),
            bandwidth: Bandwidth::new(limits),
            slow: Vec::new(),
            owes_video: false,
        }
    }

    /// The ICE agent.
    pub fn ice(&self) -> &IceAgent {
        &self.ice
    }

    /// See [`IceAgent::set_consent_timeout`]; before the transport is used.
    pub fn set_consent_timeout(&mut self, timeout: Duration) {
        self.ice.set_consent_timeout(timeout);
    }

    /// See [`IceAgent::set_tcp_only`]; before the transport is used.
    pub fn set_tcp_only(&mut self) {
        self.ice.set_tcp_only();
    }

    /// Current DTLS state.
    pub fn dtls_state(&self) -> DtlsState {
        self.dtls
    }

    /// When [`WebRtcTransport::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        // With packets they leave when it is their time, and need not be waited for.
        let reports = self.sending.next_report().map(|at| at + REPORT_SLACK);
        let asks = self.receiving.next_timeout();
        let probe = self.bandwidth.next_probe().map(|(at, _)| at);
        [
            self.rtc_timeout,
            self.ice.consent_deadline(),
            reports,
            asks,
            probe,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Handles a connectivity check that is addressed to this transport.
    pub fn handle_check(
        &mut self,
        now: Instant,
        tuple: Tuple,
        message: &StunMessage<'_>,
        out: &mut Output,
    ) -> Option<Checked> {
        let (before, way) = (self.ice.state(), self.ice.selected());
        let checked = self.ice.handle_check(now, tuple, message)?;
        out.state_changed |= before != self.ice.state();
        if way.is_some() && way != self.ice.selected() {
            self.bandwidth.moved(now);
        }
        self.catch_up(out);
        self.start_if_ready(now, out);
        Some(checked)
    }

    /// Mints new ICE credentials; returns a username fragment that is void now.
    pub fn restart_ice(&mut self) -> Option<String> {
        self.ice.restart()
    }

    /// Handles DTLS, RTP or RTCP, which came at a time not after this.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        came: Instant,
        kind: PacketKind,
        datagram: &[u8],
        out: &mut Output,
    ) {
        self.traffic.received.add(now, datagram.len());
        match kind {
            PacketKind::Dtls if self.rtc.is_none() => {
                if self.early.len() < MAX_EARLY {
                    self.early.push(datagram.to_vec());
                } else {
                    out.dropped += 1;
                }
                return;
            }
            PacketKind::Dtls if sctp::is_data(datagram) && self.data.is_spent(now) => {
                out.dropped += 1;
                return;
            }
            PacketKind::Dtls => {}
            PacketKind::Rtp | PacketKind::Rtcp if datagram.len() > MAX_RTP_LEN => {
                out.too_long += 1;
                return;
            }
            PacketKind::Rtp | PacketKind::Rtcp => {}
            PacketKind::Stun => {
                out.dropped += 1;
                return;
            }
        }
        match kind {
            PacketKind::Rtp => self.take_rtp(now, came, datagram, out),
            PacketKind::Rtcp => self.take_rtcp(now, came, datagram, out),
            PacketKind::Dtls | PacketKind::Stun => {
                let fed = self.rtc.as_deref_mut().map(|rtc| feed(rtc, now, datagram));
                if fed != Some(true) {
                    out.dropped += 1;
                }
                self.drain(now, out);
            }
        }
    }

    /// Takes the remote's DTLS parameters and starts the handshake. `active`:
    /// we are the DTLS client.
    ///
    /// # Errors
    /// [`TransportError::State`] when called twice.
    pub fn connect(
        &mut self,
        now: Instant,
        fingerprint: Fingerprint,
        active: bool,
        out: &mut Output,
    ) -> Result<(), TransportError> {
        if self.remote.is_some() {
            return Err(TransportError::State("connect() already called".into()));
        }
        self.remote = Some(fingerprint);
        self.dtls = DtlsState::Connecting;
        self.pending = Some(if active {
            Handshake::Client
        } else {
            Handshake::Server
        });
        out.state_changed = true;
        self.start_if_ready(now, out);
        Ok(())
    }

    /// Builds the `Rtc` and starts the handshake, once both sides are known.
    fn start_if_ready(&mut self, now: Instant, out: &mut Output) {
        if self.ice.selected().is_none() {
            return;
        }
        let Some(handshake) = self.pending.take() else {
            return;
        };
        let rtc = crypto::with_sctp_streams(self.data.num_streams(), || build(now, &self.cert));
        let rtc = self.rtc.insert(Box::new(rtc));
        let active = handshake == Handshake::Client;
        if let Err(error) = rtc.direct_api().start_dtls(active) {
            out.failed = Some(error.to_string());
            return;
        }
        if let Err(error) = self.data.start(rtc, remote_ice()) {
            out.failed = Some(error.to_string());
            return;
        }
        for datagram in std::mem::take(&mut self.early) {
            self.handle_datagram(now, now, PacketKind::Dtls, &datagram, out);
        }
        self.flush(now, out);
    }

    /// Sets the most that the client is told to send, bits per second; 0 is no limit.
    pub fn set_max_incoming_bitrate(&mut self, bitrate: Option<u64>) {
        self.receiving.set_max_bitrate(bitrate);
    }

    /// Checks whether [`WebRtcTransport::produce`] will take a producer.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_producer(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        self.receiving.check(spec)
    }

    /// Adds a checked producer.
    pub fn produce(
        &mut self,
        now: Instant,
        key: ProducerKey,
        spec: ProducerSpec,
        out: &mut Output,
    ) {
        out.received.extend(self.receiving.add(now, key, spec));
    }

    /// Removes a producer.
    pub fn close_producer(&mut self, producer: ProducerKey) {
        self.receiving.remove(producer);
    }

    /// Asks the client for a keyframe. True when a flush has something to send.
    pub fn request_key_frame(&mut self, producer: ProducerKey, at: usize) -> bool {
        self.is_connected() && self.receiving.request_key_frame(producer, at)
    }

    /// Checks whether [`WebRtcTransport::consume`] will take a consumer, and
    /// says in which slot.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_consumer(&self, spec: &ConsumerSpec) -> Result<u32, TransportError> {
        self.sending.check(spec)?;
        Ok(self.sending.next_slot())
    }

    /// Adds a checked consumer.
    pub fn consume(&mut self, key: ConsumerKey, spec: &ConsumerSpec) {
        self.sending.add(key, spec);
        self.bandwidth.set_counts(self.sending.counts());
    }

    /// Removes the consumer in a slot.
    pub fn close_consumer(&mut self, slot: u32) {
        self.sending.remove(slot);
        self.bandwidth.set_counts(self.sending.counts());
    }

    /// Queues a packet for a consumer; it leaves with the next flush. `at`: when
    /// it was captured, on the local clock.
    pub fn write(&mut self, forward: &Forward, packet: &Rc<MediaPacket>, at: Instant) -> bool {
        // Otherwise nobody receives it.
        self.is_connected() && self.sending.write(forward, packet, at)
    }

    /// Says goodbye to the client: RTCP BYE and DTLS close_notify.
    pub fn close(&mut self, now: Instant, out: &mut Output) {
        if self.dtls == DtlsState::Connected {
            for goodbye in self.sending.goodbyes() {
                self.leave(now, goodbye, out);
            }
        }
        if self.dtls == DtlsState::Connected
            && let Some(rtc) = self.rtc.as_deref_mut()
            && rtc.close().is_ok()
        {
            self.drain(now, out);
        }
        self.dtls = DtlsState::Closed;
    }

    /// Takes everything out of str0m, up to its next timeout.
    fn drain(&mut self, now: Instant, out: &mut Output) {
        // What another transport left behind when it failed.
        let _ = crypto::take_key_material();
        let _ = crypto::take_peer_certificate();
        let _ = crypto::take_sctp_established();
        while let Some(rtc) = self.rtc.as_deref_mut() {
            let output = match rtc.poll_output() {
                Ok(output) => output,
                Err(error) => {
                    self.dtls = DtlsState::Failed;
                    out.failed = Some(error.to_string());
                    self.rtc_timeout = None;
                    return;
                }
            };
            if let Some(keys) = crypto::take_key_material() {
                self.sending.protect(|| Sealer::new(&keys));
                self.opener = self.opener.take().or_else(|| Opener::of_remote(&keys));
            }
            if !self.verified && !verify(self.remote.as_ref(), &mut self.verified) {
                self.dtls = DtlsState::Failed;
                out.failed = Some("the certificate does not match the fingerprint".into());
                self.rtc_timeout = None;
                return;
            }
            match output {
                RtcOutput::Timeout(at) => {
                    // Far-off timeouts mean "never".
                    let soon = at <= now + Duration::from_secs(3600);
                    self.rtc_timeout = soon.then_some(at);
                    if self.data.wants_flush() {
                        self.rtc_timeout = Some(now);
                    }
                    break;
                }
                RtcOutput::Transmit(transmit) => {
                    self.transmit(now, transmit.contents.into(), out);
                }
                RtcOutput::Event(Event::ChannelData(message)) => match self.data.accept(message) {
                    Some(received) => out.data.push(received),
                    None => out.dropped += 1,
                },
                RtcOutput::Event(Event::ChannelOpen(id, _)) => self.data.handle_open(rtc, id),
                RtcOutput::Event(Event::ChannelClose(id)) => self.data.handle_close(id),
                RtcOutput::Event(Event::ChannelBufferedAmountLow(id)) => {
                    self.data.handle_drained(rtc, id);
                }
                RtcOutput::Event(Event::Connected) => {
                    out.state_changed = true;
                    if self.verified {
                        self.dtls = DtlsState::Connected;
                    } else {
                        self.dtls = DtlsState::Failed;
                        out.failed = Some("connected without a certificate".into());
                    }
                }
                RtcOutput::Event(Event::Closed) => {
                    out.state_changed = true;
                    self.dtls = DtlsState::Closed;
                    out.failed = Some("closed by the client".into());
                }
                RtcOutput::Event(_) => {}
            }
        }
        if crypto::take_sctp_established() {
            self.data.set_established();
        }
        self.release(now, out);
    }

    /// True when ICE and DTLS let media flow.
    pub fn is_connected(&self) -> bool {
        self.dtls == DtlsState::Connected
            && matches!(self.ice.state(), IceState::Connected | IceState::Completed)
    }
}

/// Compares the certificate that has just come, if one has. False: it is the
/// wrong one.
fn verify(expected: Option<&Fingerprint>, verified: &mut bool) -> bool {
    match (crypto::take_peer_certificate(), expected) {
        (None, _) => true,
        (Some(der), Some(expected)) => {
            *verified = expected.matches(&der);
            *verified
        }
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// Lines of the caches have 64 octets, and the two fields of a meter 24.
    #[test]
    fn what_each_packet_needs_is_in_few_lines() {
        assert!(offset_of!(WebRtcTransport, traffic) + 24 <= 64);
        assert_eq!(offset_of!(WebRtcTransport, sending) % 64, 0);
    }
}
