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
            self.next_feedback = now + FEEDBACK_INTERVAL;
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
