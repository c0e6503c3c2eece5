//! A client's side of one transport without its socket: ICE towards an ICE-lite
//! server, DTLS as client, then SRTP in both directions.
//!
//! str0m brings the DTLS and the STUN messages. Its `Rtc` is not used: advancing
//! one for each packet costs more than all that a server does, and the rod has
//! to read every packet on one core.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use str0m::config::DtlsVersion;
use str0m::crypto::dtls::{DtlsCert, DtlsInstance, DtlsOutput};
use str0m::crypto::{CryptoProvider, from_feature_flags};
use str0m::ice::{StunMessage, TransId};
use tokio::sync::oneshot;

use super::receiving::Receiving;
use super::rtcp::{self, Heard};
use super::sending::{SendSpec, Sending};
use super::srtp::Keys;
use super::window::Window;

/// Between connectivity checks until one is answered.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Between the checks that keep consent (RFC 7675 §5.1: about five seconds).
const CONSENT_INTERVAL: Duration = Duration::from_millis(4_000);
/// Longest time until a transport must be up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Between receiver and sender reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(1_000);
/// Between transport-wide feedback packets.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);
/// Largest DTLS record that is written.
const DTLS_BUFFER: usize = 4_096;
/// Priority of a host candidate (RFC 8445 §5.1.2.1).
const PRIORITY: u32 = 126 << 24 | 65_535 << 8 | 255;

/// The server's transport, as signaling describes it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// ICE username fragment.
    pub ufrag: String,
    /// ICE password.
    pub password: String,
    /// SHA-256 of the certificate: hexadecimal with colons.
    pub fingerprint: String,
    /// Its candidate.
    pub address: std::net::SocketAddr,
}

/// Whom to tell about a transport. Who has lost interest hears nothing.
#[derive(Debug)]
pub struct Waiting {
    /// DTLS is up, or what went wrong.
    pub connected: oneshot::Sender<Result<Instant, String>>,
    /// The first RTP packet is there.
    pub first_packet: oneshot::Sender<Instant>,
}

enum State {
    /// Checks are sent, none has been answered.
    Checking,
    /// The handshake is under way.
    Handshake,
    Connected(Box<Crypto>),
    Failed,
}

struct Crypto {
    ours: Keys,
    theirs: Keys,
}

/// The certificate that all transports of the rod share.
pub struct Identity {
    crypto: CryptoProvider,
    certificate: DtlsCert,
}

impl Identity {
    /// Makes a certificate.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn new() -> Result<Self, String> {
        let crypto = from_feature_flags();
        let certificate = crypto.dtls_provider.generate_certificate();
        let certificate = certificate.ok_or("no DTLS certificate could be made")?;
        Ok(Self {
            crypto,
            certificate,
        })
    }

    /// SHA-256 of the certificate, hexadecimal with colons.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate.certificate)
    }
}

fn fingerprint(der: &[u8]) -> String {
    let hash = digest(&SHA256, der);
    let octets: Vec<String> = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    octets.join(":")
}

/// The transport.
pub struct Session {
    remote: Remote,
    username: String,
    check: Option<TransId>,
    next_check: Instant,
    started: Instant,
    crypto: CryptoProvider,
    dtls: Box<dyn DtlsInstance>,
    dtls_timeout: Option<Instant>,
    state: State,
    connected: Option<oneshot::Sender<Result<Instant, String>>>,
    first_packet: Option<oneshot::Sender<Instant>>,
    /// What the client sends.
    pub sending: Vec<Sending>,
    /// What it receives.
    pub receiving: Receiving,
    transport_sequence: u16,
    ssrc: u32,
    next_report: Instant,
    next_feedback: Instant,
    next_nack: Option<Instant>,
}

impl Session {
    /// A transport that begins with a connectivity check at once. `sample`:
    /// share of received packets to decrypt.
    ///
    /// # Errors
    /// When the DTLS library fails.
    pub fn new(
        identity: &Identity,
        remote: Remote,
        waiting: Waiting,
        sample: f64,
        now: Instant,
    ) -> Result<Self, String> {
        let mut dtls = identity
            .crypto
            .dtls_provider
            .new_dtls(&identity.certificate, now, DtlsVersion::Dtls12, None)
            .map_err(|error| error.to_string())?;
        dtls.set_active(true);
        Ok(Self {
            username: format!("{}:{:08x}", remote.ufrag, rand::random::<u32>()),
            remote,
            check: None,
            next_check: now,
            started: now,
            crypto: identity.crypto.clone(),
            dtls,
            dtls_timeout: None,
            state: State::Checking,
            connected: Some(waiting.connected),
            first_packet: Some(waiting.first_packet),
            sending: Vec::new(),
            receiving: Receiving::new(sample),
            transport_sequence: rand::random_range(0..1_000),
            ssrc: rand::random(),
            // Spread, so that not all clients report in the same moment.
            next_report: now + REPORT_INTERVAL.mul_f64(rand::random_range(0.5..1.5)),
            next_feedback: now + FEEDBACK_INTERVAL.mul_f64(rand::random()),
            next_nack: None,
        })
    }

    /// The server's address.
    pub fn address(&self) -> std::net::SocketAddr {
        self.remote.address
    }

    /// Declares a stream to send; answers its place in `sending`.
    pub fn send(&mut self, spec: SendSpec) -> usize {
        self.sending.push(Sending::new(spec));
        self.sending.len() - 1
    }

    /// Writes what a stream has to send now. `None`: there is no such stream, or
    /// the transport has failed.
    pub fn tick(
        &mut self,
        stream: usize,
        wall: u64,
        out: &mut Vec<Vec<u8>>,
        window: &mut Window,
    ) -> Option<Duration> {
        let sending = self.sending.get_mut(stream)?;
        match &self.state {
            State::Connected(crypto) => {
                let before = out.len();
                sending.tick(wall, &crypto.ours, &mut self.transport_sequence, out);
                for packet in out.iter().skip(before) {
                    window.sent += 1;
                    window.sent_bytes += u64::try_from(packet.len()).unwrap_or(0);
                }
            }
            State::Failed => return None,
            State::Checking | State::Handshake => {}
        }
        Some(sending.interval())
    }

    /// Takes a datagram. `at`: the kernel's receive time.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        at: u64,
        datagram: &mut [u8],
        out: &mut Vec<Vec<u8>>,
        window: &mut Window,
    ) {
        match datagram.first() {
            // RFC 7983 §7.
            Some(128..=191) if !rtcp::is_rtcp(datagram) => {
                let State::Connected(crypto) = &self.state else {
                    return;
                };
                if let Some(first) = self.first_packet.take() {
                    let _ = first.send(now);
                }
                let keys = &crypto.theirs;
                if self.receiving.handle_rtp(now, at, datagram, keys, window) {
                    // What is missing is asked for once it cannot be mere
                    // reordering: the deadline is computed there.
                    self.next_nack.get_or_insert(now);
                }
            }
            Some(128..=191) => self.handle_rtcp(now, datagram, out, window),
            Some(20..=63) => {
                if let Err(error) = self.dtls.handle_packet(datagram) {
                    self.fail(format!("DTLS: {error}"), window);
                }
                self.drain_dtls(now, out, window);
            }
            Some(0..=3) => self.handle_stun(now, datagram, out, window),
            _ => {}
        }
    }

    fn handle_stun(
        &mut self,
        now: Instant,
        datagram: &[u8],
        out: &mut Vec<Vec<u8>>,
        window: &mut Window,
    ) {
        let Ok(message) = StunMessage::parse(datagram) else {
            return;
        };
        let hmac =
            |key: &[u8], parts: &[&[u8]]| self.crypto.sha1_hmac_provider.sha1_hmac(key, parts);
        if !message.is_successful_binding_response()
            || Some(message.trans_id()) != self.check
            || !message.verify(self.remote.password.as_bytes(), hmac)
        {
            return;
        }
        self.next_check = now + CONSENT_INTERVAL;
        if let State::Checking = self.state {
            self.state = State::Handshake;
            if let Err(error) = self.dtls.handle_timeout(now) {
                self.fail(format!("DTLS: {error}"), window);
            }
            self.drain_dtls(now, out, window);
        }
    }

    fn drain_dtls(&mut self, now: Instant, out: &mut Vec<Vec<u8>>, window: &mut Window) {
        let mut buffer = [0; DTLS_BUFFER];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                DtlsOutput::Packet(packet) => out.push(packet.to_vec()),
                DtlsOutput::Timeout(at) => {
                    self.dtls_timeout = Some(at);
                    return;
                }
                DtlsOutput::PeerCert(der) => {
                    let presented = fingerprint(der);
                    if !presented.eq_ignore_ascii_case(&self.remote.fingerprint) {
                        let reason = "the server's certificate is not the announced one";
                        return self.fail(reason.into(), window);
                    }
                }
                DtlsOutput::KeyingMaterial(material, profile) => {
                    let Some((ours, theirs)) = Keys::from_dtls(profile, &material) else {
                        let reason = format!("the server chose {profile:?}; only AES-GCM is known");
                        return self.fail(reason, window);
                    };
                    self.state = State::Connected(Box::new(Crypto { ours, theirs }));
                    if let Some(connected) = self.connected.take() {
                        let _ = connected.send(Ok(now));
                    }
                }
                DtlsOutput::CloseNotify => {
                    return self.fail("the server has closed DTLS".into(), window);
                }
                DtlsOutput::BufferTooSmall { needed } => {
                    return self.fail(format!("a DTLS record of {needed} bytes"), window);
                }
                // Application data would be SCTP, which the rod does not speak.
                _ => {}
            }
        }
    }

    fn fail(&mut self, reason: String, window: &mut Window) {
        if let State::Failed = self.state {
            return;
        }
        self.state = State::Failed;
        self.dtls_timeout = None;
        if let Some(connected) = self.connected.take() {
            let _ = connected.send(Err(reason.clone()));
        }
        window.fail(reason);
    }

    fn handle_rtcp(
        &mut self,
        now: Instant,
        datagram: &mut [u8],
        out: &mut Vec<Vec<u8>>,
        window: &mut Window,
    ) {
        let State::Connected(crypto) = &self.state else {
            return;
        };
        let Some(compound) = crypto.theirs.open_rtcp(datagram) else {
            window.undecryptable += 1;
            return;
        };
        rtcp::read(compound, |heard| match heard {
            Heard::SenderReport { ssrc, middle } => {
                self.receiving.sender_report(now, ssrc, middle);
            }
            Heard::KeyFrame { ssrc } => {
                if let Some(stream) = self.sending.iter_mut().find(|s| s.ssrc() == ssrc) {
                    window.key_frame_requests += 1;
                    stream.request_key_frame();
                }
            }
            Heard::Nack { ssrc, sequence } => {
                let stream = self.sending.iter_mut().find(|s| s.ssrc() == ssrc);
                let resent = stream.is_some_and(|stream| {
                    stream.resend(sequence, &crypto.ours, &mut self.transport_sequence, out)
                });
                window.resent += u64::from(resent);
            }
        });
    }

    /// Does what is due; answers when to be called next. `None`: never, the
    /// transport has failed.
    pub fn advance(
        &mut self,
        now: Instant,
        wall: u64,
        out: &mut Vec<Vec<u8>>,
        window: &mut Window,
    ) -> Option<Instant> {
        if let State::Checking | State::Handshake = self.state
            && now >= self.started + CONNECT_TIMEOUT
        {
            let stage = match self.state {
                State::Checking => "no connectivity check was answered",
                _ => "the DTLS handshake did not end",
            };
            self.fail(format!("{stage} for {CONNECT_TIMEOUT:?}"), window);
        }
        if let State::Failed = self.state {
            return None;
        }
        if now >= self.next_check {
            self.write_check(out);
            let interval = match self.state {
                State::Checking => CHECK_INTERVAL,
                _ => CONSENT_INTERVAL,
            };
            self.next_check = now + interval;
        }
        if self.dtls_timeout.is_some_and(|at| at <= now) {
            if let Err(error) = self.dtls.handle_timeout(now) {
                self.fail(format!("DTLS: {error}"), window);
            }
            self.drain_dtls(now, out, window);
        }
        self.write_rtcp(now, wall, out);
        let mut next = self.next_check.min(self.next_report);
        if self.receiving.wants_feedback() {
            next = next.min(self.next_feedback);
        }
        for at in [self.dtls_timeout, self.next_nack].into_iter().flatten() {
            next = next.min(at);
        }
        Some(next)
    }

    fn write_check(&mut self, out: &mut Vec<Vec<u8>>) {
        let id = TransId::new();
        self.check = Some(id);
        let message = StunMessage::binding_request(
            &self.username,
            id,
            true,
            u64::from(self.ssrc),
            PRIORITY,
            true,
        );
        let hmac =
            |key: &[u8], parts: &[&[u8]]| self.crypto.sha1_hmac_provider.sha1_hmac(key, parts);
        let mut buffer = vec![0; 512];
        let password = Some(self.remote.password.as_bytes());
        if let Ok(len) = message.to_bytes(password, &mut buffer, hmac) {
            buffer.truncate(len);
            out.push(buffer);
        }
    }

    fn write_rtcp(&mut self, now: Instant, wall: u64, out: &mut Vec<Vec<u8>>) {
        let State::Connected(crypto) = &mut self.state else {
            return;
        };
        let mut packets = Vec::new();
        let mut feedback = Vec::new();
        if self.next_nack.is_some_and(|at| at <= now) {
            self.next_nack = self.receiving.write_nacks(now, self.ssrc, &mut feedback);
        }
        if now >= self.next_feedback {
            // Clients that share no thread keep a time of their own, however late this one is.
            let late = now.duration_since(self.next_feedback).as_micros();
            let passed = u32::try_from(late / FEEDBACK_INTERVAL.as_micros()).unwrap_or(u32::MAX);
            self.next_feedback += FEEDBACK_INTERVAL * passed.saturating_add(1);
            self.receiving.write_feedback(self.ssrc, &mut feedback);
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.receiving.write_reports(now, self.ssrc, &mut packets);
            for stream in &self.sending {
                let mut report = Vec::new();
                stream.report(wall, &mut report);
                packets.push(report);
            }
        }
        if !feedback.is_empty() {
            packets.push(feedback);
        }
        for mut packet in packets {
            if crypto.ours.seal_rtcp(&mut packet) {
                out.push(packet);
            }
        }
    }

    /// When something that is missing has to be asked for.
    pub fn urgent(&self) -> Option<Instant> {
        self.next_nack
    }

    /// Ends DTLS, as a client that leaves does.
    pub fn close(&mut self, now: Instant, out: &mut Vec<Vec<u8>>, window: &mut Window) {
        self.receiving.take_window(window);
        if let State::Connected(_) | State::Handshake = self.state
            && self.dtls.close().is_ok()
        {
            // What comes after the alert is of no interest to anybody.
            let mut ignored = Window::default();
            self.drain_dtls(now, out, &mut ignored);
        }
        self.state = State::Failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::payload::{self, Stamp};
    use crate::media::receiving::ReceiveSpec;
    use crate::media::sending::{Kind, ids};
    use std::net::SocketAddr;
    use str0m::config::Fingerprint;
    use str0m::format::Codec;
    use str0m::media::{Frequency, MediaKind};
    use str0m::net::{Protocol, Receive};
    use str0m::rtp::{Extension, ExtensionMap, RtpPacket, RtpWrite, Ssrc};
    use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc};

    const SENT: u32 = 10;
    const RECEIVED: u32 = 20;

    /// A str0m server beside the session, without any network.
    struct World {
        now: Instant,
        server: Rtc,
        session: Session,
        connected: oneshot::Receiver<Result<Instant, String>>,
        window: Window,
        packets: Vec<RtpPacket>,
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn server(now: Instant) -> Rtc {
        let mut builder = Rtc::builder().set_rtp_mode(true).set_ice_lite(true);
        let codecs = builder.codec_config();
        codecs.clear();
        let clock = Frequency::FORTY_EIGHT_KHZ;
        codecs.add_config(
            ids::OPUS.into(),
            None,
            Codec::Opus,
            clock,
            Some(2),
            Default::default(),
        );
        let mut extensions = ExtensionMap::empty();
        extensions.set(ids::MID, Extension::RtpMid);
        extensions.set(ids::TRANSPORT_CC, Extension::TransportSequenceNumber);
        let mut rtc = builder.set_extension_map(extensions).build(now);
        rtc.add_local_candidate(Candidate::host(address(1), "udp").unwrap());
        let mut api = rtc.direct_api();
        api.set_ice_controlling(false);
        api.declare_media("0".into(), MediaKind::Audio);
        api.expect_stream_rx(SENT.into(), None, "0".into(), None);
        api.declare_stream_tx(RECEIVED.into(), None, "0".into(), None);
        rtc
    }

    impl World {
        /// `honest`: the announced fingerprint is that of the server.
        fn new(honest: bool) -> Self {
            let now = Instant::now();
            let mut server = server(now);
            let identity = Identity::new().unwrap();
            let mut bytes = server.direct_api().local_dtls_fingerprint().bytes.clone();
            if !honest {
                bytes[0] ^= 1;
            }
            let octets: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let credentials = server.direct_api().local_ice_credentials();
            let remote = Remote {
                ufrag: credentials.ufrag,
                password: credentials.pass,
                fingerprint: octets.join(":"),
                address: address(1),
            };
            let (connected, is_connected) = oneshot::channel();
            let waiting = Waiting {
                connected,
                first_packet: oneshot::channel().0,
            };
            let session = Session::new(&identity, remote, waiting, 1.0, now).unwrap();
            let (_, ufrag) = session.username.split_once(':').unwrap();
            let mut api = server.direct_api();
            api.set_remote_ice_credentials(IceCreds {
                ufrag: ufrag.into(),
                pass: "never used by a lite server".into(),
            });
            let certificate = &identity.certificate.certificate;
            api.set_remote_fingerprint(Fingerprint {
                hash_func: "sha-256".into(),
                bytes: digest(&SHA256, certificate).as_ref().to_vec(),
            });
            api.start_dtls(false).unwrap();
            Self {
                now,
                server,
                session,
                connected: is_connected,
                window: Window::default(),
                packets: Vec::new(),
            }
        }

        /// Lets time pass, and carries what both have to say. `answered`: the
        /// server's datagrams reach the client.
        fn pass(&mut self, time: Duration, answered: bool) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(5);
                let mut out = Vec::new();
                self.session
                    .advance(self.now, 1, &mut out, &mut self.window);
                self.carry(out, answered);
            }
        }

        fn carry(&mut self, mut out: Vec<Vec<u8>>, answered: bool) {
            for datagram in out.drain(..) {
                let receive =
                    Receive::new(Protocol::Udp, address(2), address(1), &datagram).unwrap();
                self.server
                    .handle_input(Input::Receive(self.now, receive))
                    .unwrap();
                self.drain(answered);
            }
            self.server.handle_input(Input::Timeout(self.now)).unwrap();
            self.drain(answered);
        }

        fn drain(&mut self, answered: bool) {
            let mut out = Vec::new();
            loop {
                match self.server.poll_output().unwrap() {
                    Output::Timeout(_) => break,
                    Output::Transmit(transmit) if answered => {
                        let mut datagram = transmit.contents.to_vec();
                        let window = &mut self.window;
                        let at = 5_000_000;
                        self.session
                            .handle_datagram(self.now, at, &mut datagram, &mut out, window);
                    }
                    Output::Event(Event::RtpPacket(packet)) => self.packets.push(packet),
                    _ => {}
                }
            }
            if !out.is_empty() {
                self.carry(out, answered);
            }
        }
    }

    #[test]
    fn a_server_hears_and_is_heard() {
        let mut world = World::new(true);
        world.pass(Duration::from_millis(500), true);
        world.connected.try_recv().unwrap().unwrap();

        let stream = world.session.send(SendSpec {
            kind: Kind::Audio,
            mid: "0",
            ssrc: SENT,
        });
        for _ in 0..3 {
            let mut out = Vec::new();
            let window = &mut world.window;
            world.session.tick(stream, 77, &mut out, window);
            world.carry(out, true);
        }
        let stamps: Vec<Stamp> = world
            .packets
            .iter()
            .filter_map(|packet| Stamp::read(&packet.payload, false))
            .collect();
        assert_eq!(stamps.len(), 3);
        assert!(stamps.iter().all(|stamp| stamp.sent == 77));
        assert_eq!(world.window.sent, 3);

        world.session.receiving.expect(ReceiveSpec {
            ssrc: RECEIVED,
            rtx: None,
            video: false,
            transport_cc: Some(ids::TRANSPORT_CC),
        });
        let mut audio = Vec::new();
        let stamp = Stamp {
            sent: 1_000_000,
            number: 0,
        };
        payload::write_audio(&mut audio, stamp);
        for number in 0..4u64 {
            let pt = ids::OPUS.into();
            let write = RtpWrite::new(pt, (100 + number).into(), 960, world.now, audio.as_slice());
            let mut api = world.server.direct_api();
            let stream = api.stream_tx(&Ssrc::from(RECEIVED)).unwrap();
            stream.write_rtp(write);
            world.pass(Duration::from_millis(20), true);
        }
        world.session.receiving.take_window(&mut world.window);
        let window = &world.window;
        assert_eq!((window.received, window.sampled, window.unique), (4, 4, 4));
        assert!((window.latency.quantile(1.0) - 4.0).abs() < 0.1);
        // Feedback and reports that the server could not read would end it.
        world.pass(Duration::from_secs(3), true);
        assert_eq!((world.window.failed, world.window.undecryptable), (0, 0));
        assert!(world.server.is_connected());
    }

    #[test]
    fn a_server_with_another_certificate_is_refused() {
        let mut world = World::new(false);
        world.pass(Duration::from_millis(500), true);
        let refused = world.connected.try_recv().unwrap().unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
        assert_eq!(world.window.failed, 1);
    }

    #[test]
    fn silence_ends_in_a_reason() {
        let mut world = World::new(true);
        world.pass(CONNECT_TIMEOUT + Duration::from_secs(1), false);
        let reason = world.connected.try_recv().unwrap().unwrap_err();
        assert!(reason.contains("connectivity check"), "{reason}");
    }
}
