//! The dictionaries of RTP negotiation, as they appear in JSON.
//!
//! They can be serialised but not deserialised: what comes from a client is
//! read by [`validate`](super::validate) only, so a value of these types is
//! known to be within its limits.

use std::collections::BTreeMap;

use serde::Serialize;

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

impl MediaKind {
    /// `"audio"` or `"video"`.
    pub fn as_str(self) -> &'static str {
        match self {
            MediaKind::Audio => "audio",
            MediaKind::Video => "video",
        }
    }
}

/// How the streams of a producer relate to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProducerType {
    /// One stream without layers.
    Simple,
    /// Several streams of one source, or one with temporal layers only.
    Simulcast,
    /// One stream with spatial layers.
    Svc,
}

impl ProducerType {
    /// `"simple"`, `"simulcast"` or `"svc"`.
    pub fn as_str(self) -> &'static str {
        match self {
            ProducerType::Simple => "simple",
            ProducerType::Simulcast => "simulcast",
            ProducerType::Svc => "svc",
        }
    }
}

/// A value of a codec's format parameters (`a=fmtp`), kept in its JSON type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ParameterValue {
    /// An integer.
    Integer(i64),
    /// A number with a fraction, always finite.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// Text without control characters.
    Text(String),
}

impl ParameterValue {
    /// The value as an integer; text of digits counts.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            ParameterValue::Integer(number) => Some(*number),
            ParameterValue::Text(text) => text.parse().ok(),
            ParameterValue::Number(_) | ParameterValue::Bool(_) => None,
        }
    }
}

/// Format parameters of a codec.
pub type CodecParameters = BTreeMap<String, ParameterValue>;

/// An RTCP feedback mechanism (RFC 4585), for example `nack` / `pli`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RtcpFeedback {
    /// For example `nack`, `ccm`, `transport-cc`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For example `pli`; empty if there is none.
    pub parameter: String,
}

impl RtcpFeedback {
    /// Whether this is `kind` with exactly `parameter`.
    pub fn is(&self, kind: &str, parameter: &str) -> bool {
        self.kind == kind && self.parameter == parameter
    }
}

/// What a router or an endpoint can receive.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCapabilities {
    /// Media and RTX codecs, best first.
    pub codecs: Vec<RtpCodecCapability>,
    /// RTP header extensions.
    pub header_extensions: Vec<RtpHeaderExtension>,
}

/// A codec that can be received.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecCapability {
    /// Audio or video.
    pub kind: MediaKind,
    /// For example `video/VP8`; case does not matter.
    pub mime_type: String,
    /// Payload type, 0–127. A router has it in every codec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_payload_type: Option<u8>,
    /// RTP clock, Hz.
    pub clock_rate: u32,
    /// Audio channels, 1 or more; absent for video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// Format parameters.
    pub parameters: CodecParameters,
    /// RTCP feedback.
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

/// Which way a header extension may be used, seen from who lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways.
    Sendrecv,
    /// Written only.
    Sendonly,
    /// Read only.
    Recvonly,
    /// Not at all.
    Inactive,
}

impl Direction {
    /// Whether the lister writes the extension.
    pub fn sends(self) -> bool {
        matches!(self, Direction::Sendrecv | Direction::Sendonly)
    }

    /// Whether the lister reads the extension.
    pub fn receives(self) -> bool {
        matches!(self, Direction::Sendrecv | Direction::Recvonly)
    }
}

/// A header extension that can be used (RFC 8285).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpHeaderExtension {
    /// Media that it goes with; clients may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<MediaKind>,
    /// Its name.
    pub uri: String,
    /// Its id on the wire.
    pub preferred_id: u8,
    /// Always `false` here (RFC 6904 is not supported).
    pub preferred_encrypt: bool,
    /// Which way it may be used.
    pub direction: Direction,
}

/// A stream, or several of one source, as sent by a client to a producer or by
/// a consumer to a client.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpParameters {
    /// Media identification (RFC 8843): at most 16 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid: Option<String>,
    /// Media and RTX codecs; at least one media codec.
    pub codecs: Vec<RtpCodecParameters>,
    /// Header extensions in use.
    pub header_extensions: Vec<RtpHeaderExtensionParameters>,
    /// The streams, lowest quality first; at least one.
    pub encodings: Vec<RtpEncodingParameters>,
    /// RTCP settings.
    pub rtcp: RtcpParameters,
    /// Stream and track ids of newer clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msid: Option<String>,
}

/// A codec in use.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecParameters {
    /// For example `video/VP8`; case does not matter.
    pub mime_type: String,
    /// Payload type on the wire, 0–127.
    pub payload_type: u8,
    /// RTP clock, Hz.
    pub clock_rate: u32,
    /// Audio channels, 1 or more; absent for video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// Format parameters.
    pub parameters: CodecParameters,
    /// RTCP feedback.
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

/// A header extension in use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RtpHeaderExtensionParameters {
    /// Its name.
    pub uri: String,
    /// Its id on the wire, 1–14.
    pub id: u8,
    /// Always `false` here (RFC 6904 is not supported).
    pub encrypt: bool,
    /// Configuration; no extension in use has any.
    pub parameters: CodecParameters,
}

/// One stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpEncodingParameters {
    /// Synchronisation source, not 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssrc: Option<u32>,
    /// Restriction identifier (RFC 8851): at most 8 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    /// Codec of this stream; the first media codec if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec_payload_type: Option<u8>,
    /// The stream's retransmissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtx: Option<RtxParameters>,
    /// Whether audio may pause in silence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtx: Option<bool>,
    /// Layers, for example `L1T3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scalability_mode: Option<String>,
    /// Limit of the sender, bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bitrate: Option<u32>,
}

/// The retransmission stream of an encoding (RFC 4588).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RtxParameters {
    /// Synchronisation source, not 0.
    pub ssrc: u32,
}

/// RTCP settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtcpParameters {
    /// Canonical name: streams with the same one are played in sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cname: Option<String>,
    /// Reduced-size RTCP (RFC 5506).
    pub reduced_size: bool,
    /// RTP and RTCP on one port (RFC 5761).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mux: Option<bool>,
}

/// What the remote says about its end of DTLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DtlsParameters {
    /// The remote's role.
    pub role: DtlsRole,
    /// The remote's certificate: its first fingerprint, the one that is checked.
    pub fingerprint: DtlsFingerprint,
}

/// A role in the DTLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    /// Left to the other side.
    Auto,
    /// Begins the handshake.
    Client,
    /// Waits for the handshake.
    Server,
}

/// A hash of a certificate (RFC 8122).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DtlsFingerprint {
    /// `sha-1`, `sha-224`, `sha-256`, `sha-384` or `sha-512`.
    pub algorithm: String,
    /// Upper-case hexadecimal octets with colons.
    pub value: String,
}

/// Whether a MIME type names the retransmission format (RFC 4588).
pub fn is_rtx(mime_type: &str) -> bool {
    mime_type
        .rsplit_once('/')
        .is_some_and(|(_, subtype)| subtype.eq_ignore_ascii_case("rtx"))
}
