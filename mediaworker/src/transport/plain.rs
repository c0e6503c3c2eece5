//! A PlainTransport: RTP and RTCP as they are, on UDP ports of its own, for scripts
//! that feed or record a room.
//!
//! str0m has no part in it. What is received goes the way of WebRTC transports; what is
//! sent is written by `rtp-types` and `rtcp-types`. The books of producers and consumers
//! are those of WebRTC transports, so statistics and scores are the same.

mod protection;
mod reach;
mod remote;
pub(crate) mod rtcp;
mod sinks;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use super::data::DataChannels;
use super::guard::{Resend, ResendBudget};
use super::packet::MediaPacket;
use super::receive::{Arrival, ProducerSpec, Receiving};
use super::rtcp::SenderInfo;
use super::rtcp::asking::{Block, Request};
use super::send::{ConsumerSpec, PlainReport, Sending};
use super::stats::Traffic;
use super::webrtc::{Output, RouterMedia};
use super::{PacketKind, TransportError, Tuple};
use protection::Protection;
use reach::Reach;
use router::{ConsumerKey, Forward, ProducerKey};
use rtcp::Heard;
use rtp_types::RtpPacket;
use sinks::Sinks;

pub use remote::{Channel, OwnPorts, Remote};

/// Longest datagram that is taken in. Packets are forwarded as they are, and those
/// of WebRTC transports may not be longer either.
const MAX_LEN: usize = 1600;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    /// The moment…
    pub at: Instant,
    /// …and what the wall clock showed.
    pub wall: SystemTime,
}

impl WallClock {
    fn read(&self, now: Instant) -> SystemTime {
        self.wall + now.saturating_duration_since(self.at)
    }
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was of use.
    Used,
    /// It is no RTP or RTCP.
    Unparsable,
    /// It is not from the remote.
    Foreign,
    /// It is longer than any network passes in one piece.
    TooLong,
    /// It is of an SSRC, or has a payload type, that no producer has.
    WrongStream,
    /// It is RTCP about streams that are not there.
    FalseReport,
    /// It is of no use here: not what the port is for, not authentic, or it came before.
    Refused,
}

/// The transport.
#[derive(Debug)]
pub struct PlainTransport {
    media: Rc<RouterMedia>,
    clock: WallClock,
    remote: Remote,
    reach: Reach,
    /// Of an encrypted one.
    protection: Option<Box<Protection>>,
    /// What it was connected with has been said.
    connect_called: bool,
    receiving: Receiving,
    sending: Sending,
    sinks: Sinks,
    /// There are none; commands about data find out here.
    data: DataChannels,
    /// SSRC of our receiver reports.
    ssrc: u32,
    /// CNAME of all that we send.
    name: String,
    resends: ResendBudget,
    traffic: Traffic,
    timeout: Option<Instant>,
}

impl PlainTransport {
    /// A transport that waits for its remote. `name`: the CNAME of what it sends, the
    /// same for all that belongs together (RFC 3550 §6.5.1).
    pub fn new(
        media: Rc<RouterMedia>,
        clock: WallClock,
        ports: OwnPorts,
        comedia: bool,
        name: String,
    ) -> Self {
        Self {
            media,
            clock,
            remote: Remote::new(ports, comedia),
            reach: Reach::default(),
            protection: None,
            connect_called: false,
            receiving: Receiving::default(),
            sending: Sending::default(),
            sinks: Sinks::default(),
            data: DataChannels::new(None),
            ssrc: rand::random(),
            name,
            resends: ResendBudget::default(),
            traffic: Traffic::default(),
            timeout: None,
        }
    }

    /// Encrypts what it sends, and answers how.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn encrypt(
        &mut self,
        suite: proto::SrtpCryptoSuite,
    ) -> Result<proto::SrtpParameters, TransportError> {
        let protection = self.protection.insert(Box::new(Protection::new(suite)?));
        Ok(protection.ours())
    }

    /// Where the remote is.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What has passed.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What is sent by the remote.
    pub fn receiving(&self) -> &Receiving {
        &self.receiving
    }

    /// What is sent to the remote.
    pub fn sending(&self) -> &Sending {
        &self.sending
    }

    /// It has no data channels.
    pub fn data(&mut self) -> &mut DataChannels {
        &mut self.data
    }

    /// It is known where the remote is and, if it encrypts, how.
    pub fn is_connected(&self) -> bool {
        let protection = self.protection.as_ref();
        self.remote.rtp().is_some() && protection.is_none_or(|it| it.is_ready())
    }

    /// When [`PlainTransport::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Says where the remote is, and how it encrypts. A transport that was not created
    /// with encryption has it from then on, too.
    ///
    /// # Errors
    /// [`TransportError`], naming the field; a second call is refused.
    pub fn connect(
        &mut self,
        request: &proto::ConnectPlainTransportRequest,
    ) -> Result<proto::ConnectPlainTransportResponse, TransportError> {
        if self.connect_called {
            return Err(TransportError::State("connect() already called".into()));
        }
        let address = request.address.as_deref();
        let given = self
            .remote
            .check(address, request.port, request.rtcp_port)?;
        match (&request.srtp, &mut self.protection) {
            (Some(theirs), Some(protection)) => protection.set_remote(theirs)?,
            (Some(theirs), None) => {
                let mut protection = Protection::new(theirs.crypto_suite())?;
                protection.set_remote(theirs)?;
                self.protection = Some(Box::new(protection));
                // What was learnt of a packet in the clear is nothing to rely on.
                self.remote.forget();
            }
            (None, Some(_)) => {
                let text = "srtpParameters: is missing for an encrypted transport";
                return Err(TransportError::Invalid(text.into()));
            }
            (None, None) => {}
        }
        if let Some(given) = given {
            self.remote.set(given);
        }
        self.connect_called = true;
        Ok(proto::ConnectPlainTransportResponse {
            srtp: self.protection.as_ref().map(|it| it.ours()),
        })
    }

    /// Takes in a datagram.
    pub fn receive(
        &mut self,
        now: Instant,
        came: Instant,
        from: Tuple,
        channel: Channel,
        datagram: &[u8],
        out: &mut Output,
    ) -> Taken {
        let kind = match PacketKind::of(datagram) {
            Some(kind @ (PacketKind::Rtp | PacketKind::Rtcp)) => kind,
            _ => return Taken::Unparsable,
        };
        if !self.remote.admits(channel, from) {
            return Taken::Foreign;
        }
        let is_expected = match channel {
            Channel::Rtp => kind == PacketKind::Rtp || self.remote.is_muxed(),
            Channel::Rtcp => kind == PacketKind::Rtcp,
        };
        if datagram.len() > MAX_LEN {
            return Taken::TooLong;
        }
        if !is_expected {
            return Taken::Refused;
        }
        self.traffic.received.add(now, datagram.len());
        // Out of the way while what it holds is looked at.
        let mut protection = self.protection.take();
        let clear = match &mut protection {
            Some(protection) => protection.open(kind, datagram),
            None => Some(datagram),
        };
        let mut rtcp = None;
        let taken = match (clear, kind) {
            (None, _) => Taken::Refused,
            (Some(clear), PacketKind::Rtp) => self.receive_rtp(now, came, clear, out),
            (Some(clear), _) => {
                rtcp = rtcp::read(clear).ok();
                Taken::Unparsable
            }
        };
        self.protection = protection;
        // RTCP that says nothing of a stream can come from anybody, and media are where
        // the remote is.
        let may_teach = match &rtcp {
            None => true,
            Some(all) => {
                self.protection.is_some()
                    || self.receiving.is_empty()
                    || (!self.remote.is_muxed() && !all.is_empty())
            }
        };
        let taken = match rtcp {
            Some(all) => self.receive_rtcp(now, came, all, out),
            None => taken,
        };
        if taken == Taken::Used {
            self.reach.heard();
            self.sending.set_unreachable(false);
        }
        if taken == Taken::Used && may_teach && self.remote.learn(channel, from) {
            // What waited for that.
            self.receiving.wake_at(Some(now));
            self.wake_at(Some(now));
        }
        taken
    }

    /// What was sent to an address found nobody there. `Some`: that is where media goes;
    /// true if it is news.
    pub fn fail(&mut self, now: Instant, channel: Channel, to: SocketAddr) -> Option<bool> {
        let way = self.remote.rtp().filter(|_| channel == Channel::Rtp);
        way.filter(|way| way.remote == to)?;
        self.sending.set_unreachable(true);
        Some(self.reach.fail(now))
    }

    fn receive_rtp(
        &mut self,
        now: Instant,
        came: Instant,
        datagram: &[u8],
        out: &mut Output,
    ) -> Taken {
        if self.receiving.is_empty() {
            // It only shows where the remote is.
            let is_rtp = RtpPacket::parse(datagram).is_ok();
            return if is_rtp {
                Taken::Used
            } else {
                Taken::Unparsable
            };
        }
        let len = datagram.len();
        let (received, again) = match self.receiving.receive(came, datagram, len) {
            Arrival::Media { received, again } => (received, again),
            Arrival::Kept | Arrival::WrongType => return Taken::WrongStream,
            Arrival::Padding | Arrival::Refused => return Taken::Refused,
            Arrival::Unparsable => return Taken::Unparsable,
        };
        self.traffic.media_received(now, len, again);
        out.received.push(received);
        self.wake_at(self.receiving.next_timeout());
        Taken::Used
    }

    fn receive_rtcp(
        &mut self,
        now: Instant,
        came: Instant,
        all: Vec<Heard>,
        out: &mut Output,
    ) -> Taken {
        let mut taken = Taken::Used;
        for heard in all {
            if !self.heed(now, came, heard, out) {
                taken = Taken::FalseReport;
            }
        }
        self.send_queue(now, out);
        taken
    }

    /// Does what the remote says. False: it is about no stream of this transport.
    fn heed(&mut self, now: Instant, came: Instant, heard: Heard, out: &mut Output) -> bool {
        let wall = self.clock.read(came);
        let (sinks, books) = (&mut self.sinks, &mut self.sending);
        match heard {
            Heard::Sender {
                ssrc,
                ntp,
                timestamp,
            } => {
                let sender = SenderInfo {
                    ssrc,
                    ntp,
                    timestamp,
                };
                self.receiving.handle_sender(came, &sender)
            }
            Heard::Report {
                ssrc,
                lost,
                highest,
                jitter,
                last_report,
                delay,
            } => {
                let report = PlainReport {
                    highest,
                    lost,
                    jitter,
                };
                sinks.handle_feedback(ssrc, books, Some(report), |feedback| {
                    let trip = sinks::round_trip(wall, last_report, delay);
                    feedback.round_trip_time = trip.or(feedback.round_trip_time);
                })
            }
            Heard::Nack { ssrc, sequences } => {
                let known = sinks.handle_feedback(ssrc, books, None, |it| it.nacks += 1);
                for number in sequences {
                    if !known || self.resends.resend() != Resend::Send {
                        out.dropped += 1;
                    } else if !sinks.resend(now, ssrc, number, books) {
                        // It is too old, or was never sent.
                        continue;
                    }
                }
                known
            }
            Heard::Pli { ssrc } => {
                out.key_frame_requests.extend(sinks.consumer(ssrc));
                sinks.handle_feedback(ssrc, books, None, |it| it.plis += 1)
            }
            Heard::Fir { ssrc } => {
                out.key_frame_requests.extend(sinks.consumer(ssrc));
                sinks.handle_feedback(ssrc, books, None, |it| it.firs += 1)
            }
        }
    }

    /// Checks whether [`PlainTransport::produce`] will take a producer.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_producer(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        self.receiving.check_plain(spec)
    }

    /// Adds a checked producer.
    pub fn produce(&mut self, now: Instant, key: ProducerKey, spec: ProducerSpec) {
        // Nothing is kept for it: what came before has only shown where the remote is.
        let _ = self.receiving.add(now, key, spec);
    }

    /// Removes a producer.
    pub fn close_producer(&mut self, producer: ProducerKey) {
        self.receiving.remove(producer);
    }

    /// A producer is paused, or not any more.
    pub fn set_producer_paused(&mut self, now: Instant, producer: ProducerKey, paused: bool) {
        self.receiving.set_paused(now, producer, paused);
    }

    /// Asks the remote for a keyframe. True when a flush has something to send.
    pub fn request_key_frame(&mut self, producer: ProducerKey, at: usize) -> bool {
        self.receiving.request_key_frame(producer, at)
    }

    /// Checks whether [`PlainTransport::consume`] will take a consumer, and says in
    /// which slot.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_consumer(&self, spec: &ConsumerSpec) -> Result<u32, TransportError> {
        self.sending.check(spec)?;
        Ok(self.sending.next_slot())
    }

    /// Adds a checked consumer.
    pub fn consume(&mut self, key: ConsumerKey, spec: &ConsumerSpec) {
        let slot = self.sending.next_slot();
        let types = self.media.codecs.iter().find(|codec| codec.pt == spec.pt);
        if let Some(types) = types {
            self.sinks.add(slot, key, spec, *types);
        }
        self.sending.add(key, spec);
    }

    /// Removes the consumer in a slot.
    pub fn close_consumer(&mut self, slot: u32) {
        self.sinks.remove(slot);
        self.sending.remove(slot);
    }

    /// Queues a packet for a consumer; it leaves with the next flush. `at`: when it was
    /// captured, on the local clock.
    pub fn write(&mut self, forward: &Forward, packet: &Rc<MediaPacket>, at: Instant) -> bool {
        self.is_connected() && self.sinks.write(forward, packet, at)
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        if self.timeout.is_some_and(|at| at <= now) {
            self.flush(now, out);
        }
    }

    /// Sends what is queued and due.
    pub fn flush(&mut self, now: Instant, out: &mut Output) {
        let is_lost = self.reach.is_lost(now);
        self.sending.set_unreachable(is_lost);
        self.send_queue(now, out);
        self.send_goodbyes(now, false, out);
        let can_ask = self.remote.rtcp().is_some();
        let (blocks, ask) = self.receiving.due(now, can_ask);
        match ask.as_slice() {
            [] if blocks.is_empty() => {}
            [] | [_] => self.report(now, &blocks, &ask, out),
            // Each in its own datagram, so that none is longer than the path takes.
            many => {
                if !blocks.is_empty() {
                    self.report(now, &blocks, &[], out);
                }
                for one in many {
                    self.report(now, &[], std::slice::from_ref(one), out);
                }
            }
        }
        let wall = self.clock.read(now);
        for info in self.sinks.due(now, wall) {
            let report = rtcp::sender_report(&info, &self.name);
            self.send_rtcp(now, report, out);
        }
        let next = [self.receiving.next_timeout(), self.sinks.next_timeout()];
        self.timeout = next.into_iter().flatten().min();
    }

    fn report(&mut self, now: Instant, blocks: &[Block], ask: &[Request], out: &mut Output) {
        let report = rtcp::receiver_report(self.ssrc, &self.name, blocks, ask);
        self.send_rtcp(now, report, out);
    }

    fn send_queue(&mut self, now: Instant, out: &mut Output) {
        let wall = self.clock.read(now);
        let (reports, queue) = self.sinks.take(now, wall, &mut self.sending);
        for info in reports {
            let report = rtcp::sender_report(&info, &self.name);
            self.send_rtcp(now, report, out);
        }
        for mut outgoing in queue {
            let protection = self.protection.as_ref();
            let index = outgoing.index;
            let is_sealed = protection.is_none_or(|it| it.seal_rtp(&mut outgoing.rtp, index));
            let way = self.remote.rtp().filter(|_| is_sealed);
            let Some(way) = way else {
                out.dropped += 1;
                continue;
            };
            let len = outgoing.rtp.len();
            if outgoing.again {
                self.traffic.rtx_sent.add(now, len);
            } else {
                self.resends.media();
                self.traffic.rtp_sent.add(now, len);
            }
            out.datagrams.push((way, outgoing.rtp));
        }
        self.wake_at(self.sinks.next_timeout());
    }

    /// A remote that has not shown where it wants RTCP gets none.
    fn send_rtcp(&mut self, now: Instant, mut datagram: Vec<u8>, out: &mut Output) {
        let Some(way) = self.remote.rtcp() else {
            return;
        };
        let protection = self.protection.as_mut();
        if protection.is_none_or(|it| it.seal_rtcp(&mut datagram)) {
            self.traffic.other_sent.add(now, datagram.len());
            out.datagrams.push((way, datagram));
        }
    }

    /// Says goodbye to the remote (RFC 3550 §6.6).
    pub fn close(&mut self, now: Instant, out: &mut Output) {
        self.send_goodbyes(now, true, out);
    }

    fn send_goodbyes(&mut self, now: Instant, all: bool, out: &mut Output) {
        for ssrc in self.sinks.take_ended(all) {
            self.send_rtcp(now, rtcp::goodbye(ssrc, &self.name), out);
        }
    }

    fn wake_at(&mut self, at: Option<Instant>) {
        self.timeout = [self.timeout, at].into_iter().flatten().min();
    }
}
