//! A client for tests: str0m as a browser uses WebRTC, with its own payload
//! types and extension ids, full ICE, DTLS in either role and negotiated data
//! channels. Sans-IO: it is handed datagrams and time, and gives out datagrams
//! and what it has received.

mod data;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use str0m::config::{DtlsCert, DtlsVersion, Fingerprint};
use str0m::crypto::CryptoProvider;
use str0m::format::{Codec, CodecConfig, FormatParams};
use str0m::media::{Frequency, KeyframeRequestKind, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::rtcp::{Rtcp, SenderInfo};
use str0m::rtp::{
    Extension, ExtensionMap, ExtensionValues, RawPacket, RtpHeader, RtpPacket, RtpWrite, Ssrc,
    VideoOrientation,
};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc};

pub use data::Message;
pub use str0m;

/// A payload type of the client.
#[derive(Debug, Clone, Copy)]
pub struct PeerCodec {
    /// Codec.
    pub codec: Codec,
    /// Payload type.
    pub pt: u8,
    /// RTX payload type.
    pub rtx: Option<u8>,
}

/// What the client knows before it connects.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Payload types.
    pub codecs: Vec<PeerCodec>,
    /// Extension ids.
    pub extensions: Vec<(u8, Extension)>,
    /// Its certificate; one of its own making when absent.
    pub certificate: Option<DtlsCert>,
    /// Versions of DTLS that it speaks.
    pub dtls: DtlsVersion,
}

impl PeerConfig {
    /// What Chromium uses for sending.
    pub fn sending() -> Self {
        Self {
            codecs: vec![
                PeerCodec {
                    codec: Codec::Opus,
                    pt: 111,
                    rtx: None,
                },
                PeerCodec {
                    codec: Codec::Vp8,
                    pt: 96,
                    rtx: Some(97),
                },
            ],
            extensions: vec![
                (1, Extension::AudioLevel),
                (2, Extension::AbsoluteSendTime),
                (3, Extension::TransportSequenceNumber),
                (4, Extension::RtpMid),
                (10, Extension::RtpStreamId),
                (11, Extension::RepairedRtpStreamId),
                (13, Extension::VideoOrientation),
            ],
            certificate: None,
            dtls: DtlsVersion::Dtls12,
        }
    }

    /// The router's payload types and ids, as a receiving client uses them.
    pub fn receiving() -> Self {
        Self {
            codecs: vec![
                PeerCodec {
                    codec: Codec::Opus,
                    pt: 100,
                    rtx: None,
                },
                PeerCodec {
                    codec: Codec::Vp8,
                    pt: 101,
                    rtx: Some(102),
                },
            ],
            extensions: vec![
                (1, Extension::RtpMid),
                (4, Extension::AbsoluteSendTime),
                (5, Extension::TransportSequenceNumber),
                (10, Extension::AudioLevel),
                (11, Extension::VideoOrientation),
            ],
            certificate: None,
            dtls: DtlsVersion::Dtls12,
        }
    }
}

/// The server's transport, as signaling describes it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// ICE username fragment.
    pub ufrag: String,
    /// ICE password.
    pub password: String,
    /// Hexadecimal sha-256 fingerprint with colons.
    pub fingerprint: String,
    /// Its candidate.
    pub address: SocketAddr,
}

/// A packet that the client has received.
#[derive(Debug, Clone)]
pub struct ReceivedRtp {
    /// When.
    pub at: Instant,
    /// Extended sequence number.
    pub sequence: u64,
    /// Header with extension values.
    pub header: RtpHeader,
    /// Payload.
    pub payload: Vec<u8>,
    /// The last sender report of its stream.
    pub report: Option<SenderInfo>,
}

/// The client.
pub struct Peer {
    rtc: Rtc,
    address: SocketAddr,
    remote: Option<SocketAddr>,
    timeout: Option<Instant>,
    out: VecDeque<Vec<u8>>,
    /// Packets received, oldest first.
    pub received: Vec<ReceivedRtp>,
    /// Keyframe requests received: MID and kind.
    pub key_frame_requests: Vec<(Instant, Mid, KeyframeRequestKind)>,
    /// RTCP received and sent, by the name of its type.
    pub rtcp_received: Vec<&'static str>,
    /// See `rtcp_received`.
    pub rtcp_sent: Vec<&'static str>,
    /// Orientation that is written into its video packets.
    pub orientation: Option<VideoOrientation>,
    /// Limits that the server has told by REMB, bits per second.
    pub limits: Vec<(Instant, u64)>,
    /// Clear headers of all RTP that came in, retransmissions and padding too.
    pub raw_headers: Vec<RtpHeader>,
    /// Messages received on data channels, oldest first.
    pub messages: Vec<Message>,
    /// SCTP streams of data channels that have been closed, by either side.
    pub closed_channels: Vec<u16>,
    /// Its data channels, once it has SCTP.
    data: Option<data::Channels>,
    /// DTLS is up.
    pub connected: bool,
    /// The server closed, or something failed: why.
    pub closed: Option<String>,
}

impl Peer {
    /// A client at a (virtual or real) address.
    pub fn new(now: Instant, config: &PeerConfig, address: SocketAddr) -> Self {
        let crypto = str0m::crypto::from_feature_flags();
        Self::with_crypto(now, config, address, crypto)
    }

    /// A client with another crypto than str0m's default.
    pub fn with_crypto(
        now: Instant,
        config: &PeerConfig,
        address: SocketAddr,
        crypto: CryptoProvider,
    ) -> Self {
        let mut builder = Rtc::builder()
            .set_crypto_provider(Arc::new(crypto))
            .set_rtp_mode(true)
            .set_dtls_version(config.dtls)
            .set_sctp_max_message_size(1 << 20)
            .set_sctp_max_buffered_amount(4 << 20)
            .enable_raw_packets(true)
            .set_stats_interval(None);
        fill(builder.codec_config(), &config.codecs);
        if let Some(certificate) = &config.certificate {
            builder = builder.set_dtls_cert(certificate.clone());
        }
        let mut map = ExtensionMap::empty();
        for (id, ext) in &config.extensions {
            map.set(*id, ext.clone());
        }
        let mut rtc = builder.set_extension_map(map).build(now);
        if let Ok(candidate) = Candidate::host(address, "udp") {
            rtc.add_local_candidate(candidate);
        }
        rtc.direct_api().set_ice_controlling(true);
        rtc.direct_api().enable_twcc_feedback();
        Self {
            rtc,
            address,
            remote: None,
            timeout: Some(now),
            out: VecDeque::new(),
            received: Vec::new(),
            key_frame_requests: Vec::new(),
            rtcp_received: Vec::new(),
            rtcp_sent: Vec::new(),
            orientation: None,
            limits: Vec::new(),
            raw_headers: Vec::new(),
            messages: Vec::new(),
            closed_channels: Vec::new(),
            data: None,
            connected: false,
            closed: None,
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's address, once it connects.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Its sha-256 fingerprint, upper-case hexadecimal with colons.
    pub fn fingerprint(&mut self) -> String {
        let octets: Vec<String> = self
            .rtc
            .direct_api()
            .local_dtls_fingerprint()
            .bytes
            .iter()
            .map(|b| format!("{b:02X}"))
            .collect();
        octets.join(":")
    }

    /// The version of DTLS that was agreed on, once it is connected: 0xFEFD is 1.2,
    /// 0xFEFC is 1.3.
    pub fn dtls_version(&mut self) -> Option<u16> {
        let version = self.rtc.direct_api().dtls_protocol_version();
        version.map(|it| it.as_u16())
    }

    /// Starts ICE and DTLS towards the server. `active`: as DTLS client.
    ///
    /// # Errors
    /// What str0m refused.
    pub fn connect(&mut self, remote: &Remote, active: bool) -> Result<(), String> {
        let bytes = remote
            .fingerprint
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()?;
        let candidate = Candidate::host(remote.address, "udp").map_err(|e| e.to_string())?;
        self.remote = Some(remote.address);
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(IceCreds {
            ufrag: remote.ufrag.clone(),
            pass: remote.password.clone(),
        });
        api.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".into(),
            bytes,
        });
        api.start_dtls(active).map_err(|e| e.to_string())?;
        self.rtc.add_remote_candidate(candidate);
        if self.data.is_some() {
            self.start_sctp(remote)?;
        }
        Ok(())
    }

    /// Its ICE credentials: username fragment and password.
    pub fn ice_credentials(&mut self) -> (String, String) {
        let credentials = self.rtc.direct_api().local_ice_credentials();
        (credentials.ufrag, credentials.pass)
    }

    /// Declares a stream to send.
    pub fn send_stream(&mut self, mid: &str, kind: MediaKind, ssrc: u32, rtx: Option<u32>) {
        let mut api = self.rtc.direct_api();
        api.declare_media(mid.into(), kind);
        api.declare_stream_tx(ssrc.into(), rtx.map(Into::into), mid.into(), None)
            .set_rtx_cache(2048, std::time::Duration::from_secs(3), None);
    }

    /// Declares one stream of several, told apart by their RTP stream ids.
    pub fn send_layer(&mut self, mid: &str, ssrc: u32, rtx: u32, rid: &str) {
        let mut api = self.rtc.direct_api();
        api.declare_media(mid.into(), MediaKind::Video);
        api.declare_stream_tx(ssrc.into(), Some(rtx.into()), mid.into(), Some(rid.into()))
            .set_rtx_cache(2048, std::time::Duration::from_secs(3), None);
    }

    /// Declares a stream to receive.
    pub fn expect_stream(&mut self, mid: &str, kind: MediaKind, ssrc: u32, rtx: Option<u32>) {
        let mut api = self.rtc.direct_api();
        api.declare_media(mid.into(), kind);
        api.expect_stream_rx(ssrc.into(), rtx.map(Into::into), mid.into(), None)
            .suppress_nack(rtx.is_none());
    }

    /// Makes it ask for lost packets of a stream that has no RTX, too, as Chromium
    /// does for Opus where NACK is negotiated.
    pub fn ask_for_lost(&mut self, ssrc: u32) {
        if let Some(rx) = self.rtc.direct_api().stream_rx(&Ssrc::from(ssrc)) {
            rx.suppress_nack(false);
        }
    }

    /// Writes a packet. `captured`: the wall clock that its timestamp stands for.
    pub fn write(&mut self, ssrc: u32, packet: &Packet, captured: Instant) {
        self.write_with(ssrc, packet, captured, |_| {});
    }

    /// The same with more header extensions.
    pub fn write_with(
        &mut self,
        ssrc: u32,
        packet: &Packet,
        captured: Instant,
        extend: impl FnOnce(&mut ExtensionValues),
    ) {
        let mut values = ExtensionValues::default();
        extend(&mut values);
        if let Some(level) = packet.audio_level {
            values.audio_level = Some(level);
            values.voice_activity = Some(true);
        } else {
            values.video_orientation = self.orientation;
        }
        let write = RtpWrite::new(
            packet.pt.into(),
            packet.sequence.into(),
            packet.timestamp,
            captured,
            packet.payload.as_slice(),
        )
        .marker(packet.marker)
        .nackable(packet.nackable)
        .ext_vals(values);
        if let Some(tx) = self.rtc.direct_api().stream_tx(&Ssrc::from(ssrc)) {
            tx.write_rtp(write);
        }
    }

    /// Asks the server for a keyframe of a stream that it receives.
    pub fn request_key_frame(&mut self, ssrc: u32) {
        if let Some(rx) = self.rtc.direct_api().stream_rx(&Ssrc::from(ssrc)) {
            rx.request_keyframe(KeyframeRequestKind::Pli);
        }
    }

    /// Tells the server by REMB what it can receive, bits per second, in the name of a
    /// stream that it receives.
    pub fn tell_remb(&mut self, ssrc: u32, bitrate: u64) {
        if let Some(rx) = self.rtc.direct_api().stream_rx(&Ssrc::from(ssrc)) {
            rx.request_remb(str0m::bwe::Bitrate::bps(bitrate));
        }
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        let _ = self.rtc.close();
    }

    /// Hands it a datagram from the server.
    pub fn receive(&mut self, now: Instant, datagram: &[u8]) {
        let Some(remote) = self.remote else { return };
        if let Ok(receive) = Receive::new(Protocol::Udp, remote, self.address, datagram)
            && let Err(error) = self.rtc.handle_input(Input::Receive(now, receive))
        {
            self.closed = Some(error.to_string());
        }
        self.drain(now);
    }

    /// Lets time pass, and sends what was written.
    pub fn advance(&mut self, now: Instant) {
        if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
            self.closed = Some(error.to_string());
        }
        self.drain(now);
    }

    /// When [`Peer::advance`] wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// The next datagram for the server.
    pub fn poll_datagram(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    fn drain(&mut self, now: Instant) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.timeout = Some(at);
                    return;
                }
                Ok(Output::Transmit(transmit)) => self.out.push_back(transmit.contents.into()),
                Ok(Output::Event(event)) => self.handle_event(now, event),
                Err(error) => {
                    self.closed = Some(error.to_string());
                    self.timeout = None;
                    return;
                }
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::ChannelData(_) | Event::ChannelOpen(..) | Event::ChannelClose(_) => {
                self.handle_data_event(event);
            }
            Event::Closed => self.closed = Some("closed by the server".into()),
            Event::RtpPacket(packet) => self.received.push(received(now, packet)),
            Event::KeyframeRequest(request) => {
                self.key_frame_requests
                    .push((now, request.mid, request.kind));
            }
            Event::RawPacket(raw) => match *raw {
                RawPacket::RtcpRx(rtcp) => {
                    if let Rtcp::Remb(remb) = &rtcp {
                        self.limits.push((now, remb.bitrate as u64));
                    }
                    self.rtcp_received.push(name(&rtcp));
                }
                RawPacket::RtcpTx(rtcp) => self.rtcp_sent.push(name(&rtcp)),
                RawPacket::RtpRx(header, _) => self.raw_headers.push(header),
                RawPacket::RtpTx(..) => {}
            },
            _ => {}
        }
    }
}

/// A packet to write.
#[derive(Debug, Clone, Default)]
pub struct Packet {
    /// Payload type.
    pub pt: u8,
    /// Extended sequence number.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// May be retransmitted.
    pub nackable: bool,
    /// dBov, 0 to −127.
    pub audio_level: Option<i8>,
    /// Payload.
    pub payload: Vec<u8>,
}

fn received(at: Instant, packet: RtpPacket) -> ReceivedRtp {
    ReceivedRtp {
        at,
        sequence: *packet.seq_no,
        payload: packet.payload.to_vec(),
        report: packet.last_sender_info,
        header: packet.header,
    }
}

fn name(rtcp: &Rtcp) -> &'static str {
    match rtcp {
        Rtcp::SenderReport(_) => "SR",
        Rtcp::ReceiverReport(_) => "RR",
        Rtcp::Nack(_) => "NACK",
        Rtcp::Pli(_) => "PLI",
        Rtcp::Fir(_) => "FIR",
        Rtcp::Twcc(_) => "TWCC",
        Rtcp::Remb(_) => "REMB",
        Rtcp::SourceDescription(_) => "SDES",
        Rtcp::Goodbye(_) => "BYE",
        _ => "other",
    }
}

fn fill(config: &mut CodecConfig, codecs: &[PeerCodec]) {
    config.clear();
    for codec in codecs {
        let (clock, channels) = match codec.codec {
            Codec::Opus => (Frequency::FORTY_EIGHT_KHZ, Some(2)),
            Codec::PCMU | Codec::PCMA => (Frequency::EIGHT_KHZ, None),
            _ => (Frequency::NINETY_KHZ, None),
        };
        config.add_config(
            codec.pt.into(),
            codec.rtx.map(Into::into),
            codec.codec,
            clock,
            channels,
            FormatParams::default(),
        );
    }
}
