//! The codecs and header extensions that a router can route, and what the names
//! of the setting stand for.
//!
//! Header-extension ids and payload types are data, not protocol: any set
//! works with a conforming client. These are the ones that the clients of this
//! server have always been given.

use super::names::CodecName;
use super::types::{
    CodecParameters, Direction, MediaKind, ParameterValue, RtcpFeedback, RtpHeaderExtension,
};

/// A codec that a router shall offer; its canonical spelling, feedback and
/// static payload type come from the supported codecs.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaCodec {
    /// For example `video/VP8`; case does not matter.
    pub mime_type: String,
    /// RTP clock, Hz.
    pub clock_rate: u32,
    /// Audio channels, 1 when `None`; ignored for video.
    pub channels: Option<u32>,
    /// Payload type to use, 0–127, instead of one from the pool.
    pub preferred_payload_type: Option<u8>,
    /// Format parameters; they override those of the supported codec.
    pub parameters: CodecParameters,
}

/// A codec as the router knows it.
#[derive(Debug)]
pub(super) struct SupportedCodec {
    pub(super) kind: MediaKind,
    pub(super) mime_type: &'static str,
    pub(super) clock_rate: u32,
    pub(super) channels: Option<u32>,
    /// Static payload type (RFC 3551).
    pub(super) payload_type: Option<u8>,
    pub(super) parameters: CodecParameters,
    pub(super) rtcp_feedback: Vec<RtcpFeedback>,
}

/// MIME type of the retransmissions of video (RFC 4588).
pub(super) const VIDEO_RTX: &str = "video/rtx";

const RESILIENT_AUDIO: &[(&str, &str)] = &[("nack", ""), ("transport-cc", "")];
const PLAIN_AUDIO: &[(&str, &str)] = &[("transport-cc", "")];
const VIDEO: &[(&str, &str)] = &[
    ("nack", ""),
    ("nack", "pli"),
    ("ccm", "fir"),
    ("goog-remb", ""),
    ("transport-cc", ""),
];

fn audio(
    mime_type: &'static str,
    clock_rate: u32,
    channels: u32,
    payload_type: Option<u8>,
    feedback: &[(&str, &str)],
) -> SupportedCodec {
    SupportedCodec {
        kind: MediaKind::Audio,
        mime_type,
        clock_rate,
        channels: Some(channels),
        payload_type,
        parameters: CodecParameters::new(),
        rtcp_feedback: feedback_list(feedback),
    }
}

/// Opus in more than two channels, as Chromium names it: `streams` coded
/// streams, of which `coupled` are stereo.
fn multiopus(channels: u32, mapping: &str, streams: i64, coupled: i64) -> SupportedCodec {
    SupportedCodec {
        parameters: parameters([
            ("channel_mapping", ParameterValue::Text(mapping.to_owned())),
            ("num_streams", ParameterValue::Integer(streams)),
            ("coupled_streams", ParameterValue::Integer(coupled)),
        ]),
        ..audio("audio/multiopus", 48_000, channels, None, RESILIENT_AUDIO)
    }
}

fn video(mime_type: &'static str) -> SupportedCodec {
    SupportedCodec {
        kind: MediaKind::Video,
        mime_type,
        clock_rate: 90_000,
        channels: None,
        payload_type: None,
        parameters: CodecParameters::new(),
        rtcp_feedback: feedback_list(VIDEO),
    }
}

/// Every codec that can be routed.
pub(super) fn supported_codecs() -> Vec<SupportedCodec> {
    let h264 = SupportedCodec {
        parameters: parameters([("level-asymmetry-allowed", ParameterValue::Integer(1))]),
        ..video("video/H264")
    };
    vec![
        audio("audio/opus", 48_000, 2, None, RESILIENT_AUDIO),
        multiopus(4, "0,1,2,3", 2, 2),
        multiopus(6, "0,4,1,2,3,5", 4, 2),
        multiopus(8, "0,6,1,2,3,4,5,7", 5, 3),
        audio("audio/PCMU", 8_000, 1, Some(0), PLAIN_AUDIO),
        audio("audio/PCMA", 8_000, 1, Some(8), PLAIN_AUDIO),
        audio("audio/G722", 8_000, 1, Some(9), PLAIN_AUDIO),
        audio("audio/CN", 8_000, 1, Some(13), &[]),
        audio("audio/telephone-event", 48_000, 1, None, &[]),
        audio("audio/telephone-event", 8_000, 1, None, &[]),
        video("video/VP8"),
        video("video/VP9"),
        h264,
        video(AV1),
    ]
}

/// URI of the extension that carries the MID (RFC 8843).
pub const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// URI of the extension that carries the time of sending.
pub const ABS_SEND_TIME_URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// URI of the extension that numbers the packets of a transport.
pub const TRANSPORT_CC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// URI of the extension that carries the time of capture.
pub const ABS_CAPTURE_TIME_URI: &str =
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";

/// URI of the extension that tells the layers of AV1 frames (AV1 RTP payload
/// format, appendix A).
pub const DEPENDENCY_DESCRIPTOR_URI: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// MIME type of AV1.
pub(super) const AV1: &str = "video/AV1";

/// The dependency descriptor of AV1; for routers that have AV1 alone, so that
/// others are as they have always been.
pub(super) fn dependency_descriptor() -> RtpHeaderExtension {
    RtpHeaderExtension {
        kind: Some(MediaKind::Video),
        uri: DEPENDENCY_DESCRIPTOR_URI.to_owned(),
        preferred_id: 8,
        preferred_encrypt: false,
        direction: Direction::Sendrecv,
    }
}

/// Every header extension that routers always have, with its id and direction.
pub(super) fn supported_header_extensions() -> Vec<RtpHeaderExtension> {
    use Direction::{Recvonly, Sendrecv};
    use MediaKind::{Audio, Video};
    const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
    const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
    const FRAME_MARKING_07: &str = "http://tools.ietf.org/html/draft-ietf-avtext-framemarking-07";
    const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
    [
        (Audio, MID_URI, 1, Sendrecv),
        (Video, MID_URI, 1, Sendrecv),
        (Video, RID, 2, Recvonly),
        (Video, REPAIRED_RID, 3, Recvonly),
        (Audio, ABS_SEND_TIME_URI, 4, Sendrecv),
        (Video, ABS_SEND_TIME_URI, 4, Sendrecv),
        (Audio, TRANSPORT_CC_URI, 5, Recvonly),
        (Video, TRANSPORT_CC_URI, 5, Sendrecv),
        (Video, FRAME_MARKING_07, 6, Sendrecv),
        (
            Video,
            "urn:ietf:params:rtp-hdrext:framemarking",
            7,
            Sendrecv,
        ),
        (
            Audio,
            "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            10,
            Sendrecv,
        ),
        (Video, "urn:3gpp:video-orientation", 11, Sendrecv),
        (Video, "urn:ietf:params:rtp-hdrext:toffset", 12, Sendrecv),
        (Audio, ABS_CAPTURE_TIME_URI, 13, Sendrecv),
        (Video, ABS_CAPTURE_TIME_URI, 13, Sendrecv),
        (Audio, PLAYOUT_DELAY, 14, Sendrecv),
        (Video, PLAYOUT_DELAY, 14, Sendrecv),
    ]
    .into_iter()
    .map(|(kind, uri, preferred_id, direction)| RtpHeaderExtension {
        kind: Some(kind),
        uri: uri.to_owned(),
        preferred_id,
        preferred_encrypt: false,
        direction,
    })
    .collect()
}

/// The codec that a name stands for. Video starts at 1000 kbit/s, as the
/// clients of this server have always been told.
pub(super) fn media_codec(name: CodecName) -> MediaCodec {
    use ParameterValue::{Integer, Text};
    let start_bitrate = || ("x-google-start-bitrate", Integer(1000));
    let audio = |mime_type: &str, clock_rate, channels| MediaCodec {
        mime_type: mime_type.to_owned(),
        clock_rate,
        channels: Some(channels),
        preferred_payload_type: None,
        parameters: CodecParameters::new(),
    };
    // How many streams there are for so many channels tells them apart.
    let multiopus = |channels, streams, coupled| MediaCodec {
        parameters: parameters([
            ("num_streams", Integer(streams)),
            ("coupled_streams", Integer(coupled)),
        ]),
        ..audio("audio/multiopus", 48_000, channels)
    };
    let video = |mime_type: &str, parameters: CodecParameters| MediaCodec {
        mime_type: mime_type.to_owned(),
        clock_rate: 90_000,
        channels: None,
        preferred_payload_type: None,
        parameters,
    };
    let vp9 = |profile: i64| {
        let profile = ("profile-id", Integer(profile));
        video("video/VP9", parameters([profile, start_bitrate()]))
    };
    let h264 = |profile_level_id: &str| {
        let id = ("profile-level-id", Text(profile_level_id.to_owned()));
        let mode = ("packetization-mode", Integer(1));
        let asymmetry = ("level-asymmetry-allowed", Integer(1));
        let parameters = parameters([mode, id, asymmetry, start_bitrate()]);
        video("video/H264", parameters)
    };
    match name {
        CodecName::Opus => audio("audio/opus", 48_000, 2),
        CodecName::Multiopus4 => multiopus(4, 2, 2),
        CodecName::Multiopus6 => multiopus(6, 4, 2),
        CodecName::Multiopus8 => multiopus(8, 5, 3),
        CodecName::Pcmu => audio("audio/PCMU", 8000, 1),
        CodecName::Pcma => audio("audio/PCMA", 8000, 1),
        CodecName::G722 => audio("audio/G722", 8000, 1),
        CodecName::Vp8 => video("video/VP8", parameters([start_bitrate()])),
        CodecName::Vp9 => vp9(0),
        CodecName::Vp9Profile2 => vp9(2),
        CodecName::H264Baseline => h264("42e01f"),
        CodecName::H264Main => h264("4d0032"),
        CodecName::Av1 => video(AV1, parameters([start_bitrate()])),
    }
}

fn parameters<const N: usize>(entries: [(&str, ParameterValue); N]) -> CodecParameters {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn feedback_list(entries: &[(&str, &str)]) -> Vec<RtcpFeedback> {
    entries
        .iter()
        .map(|(kind, parameter)| RtcpFeedback {
            kind: (*kind).to_owned(),
            parameter: (*parameter).to_owned(),
        })
        .collect()
}
