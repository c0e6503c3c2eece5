//! The codecs that an operator can choose for routers, by name.

use super::supported::{MediaCodec, media_codec};

/// A codec that routers can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecName {
    /// Opus in stereo (RFC 7587).
    Opus,
    /// Opus in four channels, as Chromium has it.
    Multiopus4,
    /// Opus in six channels (5.1).
    Multiopus6,
    /// Opus in eight channels (7.1).
    Multiopus8,
    /// G.711 µ-law (RFC 3551), payload type 0.
    Pcmu,
    /// G.711 A-law, payload type 8.
    Pcma,
    /// G.722, payload type 9.
    G722,
    /// VP8 (RFC 7741).
    Vp8,
    /// VP9 (RFC 9628) in profile 0, what browsers send.
    Vp9,
    /// VP9 in profile 2, ten bits a sample.
    Vp9Profile2,
    /// H264 (RFC 6184) in the Constrained Baseline profile, level 3.1.
    H264Baseline,
    /// H264 in the Main profile, level 5.
    H264Main,
    /// AV1, with its dependency descriptor.
    Av1,
}

impl CodecName {
    /// Every name there is.
    pub const ALL: [Self; 13] = [
        Self::Opus,
        Self::Multiopus4,
        Self::Multiopus6,
        Self::Multiopus8,
        Self::Pcmu,
        Self::Pcma,
        Self::G722,
        Self::Vp8,
        Self::Vp9,
        Self::Vp9Profile2,
        Self::H264Baseline,
        Self::H264Main,
        Self::Av1,
    ];

    /// What routers get where nothing is chosen, in the order that clients
    /// have always been given.
    pub const DEFAULT: [Self; 5] = [
        Self::Opus,
        Self::Vp8,
        Self::Vp9Profile2,
        Self::H264Main,
        Self::H264Baseline,
    ];

    /// How it is written in the setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Multiopus4 => "multiopus4",
            Self::Multiopus6 => "multiopus6",
            Self::Multiopus8 => "multiopus8",
            Self::Pcmu => "pcmu",
            Self::Pcma => "pcma",
            Self::G722 => "g722",
            Self::Vp8 => "vp8",
            Self::Vp9 => "vp9",
            Self::Vp9Profile2 => "vp9-profile2",
            Self::H264Baseline => "h264-baseline",
            Self::H264Main => "h264-main",
            Self::Av1 => "av1",
        }
    }

    /// The codec of a name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|it| it.name().eq_ignore_ascii_case(name))
    }
}

/// Codecs as a router takes them; those that come first are preferred by
/// clients that do not choose.
pub fn media_codecs(names: &[CodecName]) -> Vec<MediaCodec> {
    names.iter().copied().map(media_codec).collect()
}
