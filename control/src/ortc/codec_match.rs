//! Whether two codecs are the same format.

use super::h264;
use super::types::{CodecParameters, ParameterValue, RtpCodecCapability, RtpCodecParameters};

/// The part of a codec that decides a match.
#[derive(Debug, Clone, Copy)]
pub struct CodecFormat<'a> {
    /// For example `video/VP8`; case does not matter.
    pub mime_type: &'a str,
    /// RTP clock, Hz.
    pub clock_rate: u32,
    /// Audio channels; `None` for video.
    pub channels: Option<u32>,
    /// Format parameters.
    pub parameters: &'a CodecParameters,
}

impl<'a> From<&'a RtpCodecCapability> for CodecFormat<'a> {
    fn from(codec: &'a RtpCodecCapability) -> Self {
        Self {
            mime_type: &codec.mime_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: &codec.parameters,
        }
    }
}

impl<'a> From<&'a RtpCodecParameters> for CodecFormat<'a> {
    fn from(codec: &'a RtpCodecParameters) -> Self {
        Self {
            mime_type: &codec.mime_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: &codec.parameters,
        }
    }
}

/// How closely format parameters are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Only what makes another codec of it (the streams of multiopus).
    Loose,
    /// Also H264 packetization-mode and profile, and VP9 profile-id: what a
    /// decoder must support.
    Strict,
}

/// Whether `a` and `b` are the same format.
pub fn codecs_match(a: CodecFormat<'_>, b: CodecFormat<'_>, strictness: Strictness) -> bool {
    if !a.mime_type.eq_ignore_ascii_case(b.mime_type)
        || a.clock_rate != b.clock_rate
        || a.channels != b.channels
    {
        return false;
    }
    let strict = strictness == Strictness::Strict;
    // A value that is no integer equals only another such value.
    let integer = |parameters: &CodecParameters, key: &str, default: Option<i64>| {
        parameters
            .get(key)
            .map_or(default, ParameterValue::as_integer)
    };
    let same_integer = |key: &str, default: Option<i64>| {
        integer(a.parameters, key, default) == integer(b.parameters, key, default)
    };
    match a.mime_type.to_ascii_lowercase().as_str() {
        "audio/multiopus" => {
            same_integer("num_streams", None) && same_integer("coupled_streams", None)
        }
        "video/h264" if strict => {
            same_integer("packetization-mode", Some(0))
                && h264::same_profile(a.parameters, b.parameters)
        }
        "video/vp9" if strict => same_integer("profile-id", Some(0)),
        _ => true,
    }
}

/// The H264 profile-level-id that `local` must carry after it matched `remote`
/// (RFC 6184 §8.2.2): the lower level unless both allow asymmetry. `None` for
/// other codecs and where neither names one.
pub fn answer_profile_level_id(local: CodecFormat<'_>, remote: CodecFormat<'_>) -> Option<String> {
    if !local.mime_type.eq_ignore_ascii_case("video/H264") {
        return None;
    }
    h264::answer(local.parameters, remote.parameters)
}
