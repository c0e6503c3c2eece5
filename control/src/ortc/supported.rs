//! The codecs and header extensions that a router can route, and the media
//! codecs that routers get by default.
//!
//! Header-extension ids and payload types are data, not protocol: any set
//! works with a conforming client. These are the ones that the clients of this
//! server have always been given.

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
        video("video/AV1"),
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

/// Every header extension that can be routed, with its id and direction.
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

/// The media codecs of a router: Opus, VP8, VP9 profile 2, and H264 Main and
/// Constrained Baseline. Video starts at 1000 kbit/s.
pub fn default_media_codecs() -> Vec<MediaCodec> {
    let start_bitrate = ("x-google-start-bitrate", ParameterValue::Integer(1000));
    let h264 = |profile_level_id: &str| {
        parameters([
            ("packetization-mode", ParameterValue::Integer(1)),
            (
                "profile-level-id",
                ParameterValue::Text(profile_level_id.to_owned()),
            ),
            ("level-asymmetry-allowed", ParameterValue::Integer(1)),
            start_bitrate.clone(),
        ])
    };
    let vp9 = parameters([
        ("profile-id", ParameterValue::Integer(2)),
        start_bitrate.clone(),
    ]);
    let video = |mime_type: &str, parameters: CodecParameters| MediaCodec {
        mime_type: mime_type.to_owned(),
        clock_rate: 90_000,
        channels: None,
        preferred_payload_type: None,
        parameters,
    };
    vec![
        MediaCodec {
            mime_type: "audio/opus".to_owned(),
            clock_rate: 48_000,
            channels: Some(2),
            preferred_payload_type: None,
            parameters: CodecParameters::new(),
        },
        video("video/VP8", parameters([start_bitrate.clone()])),
        video("video/VP9", vp9),
        video("video/H264", h264("4d0032")),
        video("video/H264", h264("42e01f")),
    ]
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
