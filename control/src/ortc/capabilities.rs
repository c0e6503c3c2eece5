//! The RTP capabilities of a router: which codec it routes under which payload
//! type.

use super::codec_match::{CodecFormat, Strictness, codecs_match};
use super::error::OrtcError;
use super::supported::{
    AV1, MediaCodec, SupportedCodec, VIDEO_RTX, dependency_descriptor, supported_codecs,
    supported_header_extensions,
};
use super::types::{
    CodecParameters, MediaKind, ParameterValue, RtpCapabilities, RtpCodecCapability, is_rtx,
};

/// Payload type of the padding that mediasoup clients expect from bandwidth
/// probes: never used for media.
pub const PROBATOR_PAYLOAD_TYPE: u8 = 127;

/// Capabilities of a router that routes `media_codecs`. Payload types are the
/// preferred or static ones, else the next free of 100–126 and 96–99; every
/// video codec is followed by its RTX codec.
///
/// # Errors
/// [`OrtcError::Unsupported`] for a codec that cannot be routed,
/// [`OrtcError::Invalid`] for a payload type out of range or used twice, or
/// when none is left.
pub fn router_rtp_capabilities(media_codecs: &[MediaCodec]) -> Result<RtpCapabilities, OrtcError> {
    let supported = supported_codecs();
    let mut payload_types = PayloadTypes::new(media_codecs)?;
    let mut codecs = Vec::new();
    for (index, media_codec) in media_codecs.iter().enumerate() {
        let path = format!("mediaCodecs[{index}]");
        let matched = find_supported(&supported, media_codec).ok_or_else(|| {
            OrtcError::Unsupported(format!(
                "{path}: {} with clock rate {} cannot be routed",
                media_codec.mime_type, media_codec.clock_rate
            ))
        })?;
        let payload_type = match media_codec.preferred_payload_type {
            // Reserved when the pool was made.
            Some(payload_type) => payload_type,
            None => match matched.payload_type {
                Some(payload_type) => payload_types.reserve(&path, payload_type)?,
                None => payload_types.next(&path)?,
            },
        };
        let mut parameters = matched.parameters.clone();
        parameters.extend(media_codec.parameters.clone());
        codecs.push(RtpCodecCapability {
            kind: matched.kind,
            mime_type: matched.mime_type.to_owned(),
            preferred_payload_type: Some(payload_type),
            clock_rate: matched.clock_rate,
            channels: matched.channels,
            parameters,
            rtcp_feedback: matched.rtcp_feedback.clone(),
        });
        if matched.kind == MediaKind::Video {
            codecs.push(rtx_codec(payload_type, matched, payload_types.next(&path)?));
        }
    }
    let has_av1 = codecs.iter().any(|codec| codec.mime_type == AV1);
    let mut header_extensions = supported_header_extensions();
    header_extensions.extend(has_av1.then(dependency_descriptor));
    Ok(RtpCapabilities {
        codecs,
        header_extensions,
    })
}

impl RtpCapabilities {
    /// The codec with this payload type.
    pub(super) fn codec(&self, payload_type: u8) -> Option<&RtpCodecCapability> {
        self.codecs
            .iter()
            .find(|codec| codec.preferred_payload_type == Some(payload_type))
    }

    /// The RTX codec of the codec with this payload type.
    pub(super) fn rtx_codec_of(&self, payload_type: u8) -> Option<&RtpCodecCapability> {
        self.codecs
            .iter()
            .find(|codec| is_rtx(&codec.mime_type) && apt(&codec.parameters) == Some(payload_type))
    }
}

/// The payload type that an RTX codec repairs (RFC 4588 §8.1).
pub(super) fn apt(parameters: &CodecParameters) -> Option<u8> {
    let value = parameters.get("apt")?.as_integer()?;
    u8::try_from(value).ok()
}

fn find_supported<'a>(
    supported: &'a [SupportedCodec],
    media_codec: &MediaCodec,
) -> Option<&'a SupportedCodec> {
    supported.iter().find(|codec| {
        let channels = match codec.kind {
            MediaKind::Audio => Some(media_codec.channels.unwrap_or(1)),
            MediaKind::Video => None,
        };
        codecs_match(
            CodecFormat {
                mime_type: &media_codec.mime_type,
                clock_rate: media_codec.clock_rate,
                channels,
                parameters: &media_codec.parameters,
            },
            CodecFormat {
                mime_type: codec.mime_type,
                clock_rate: codec.clock_rate,
                channels: codec.channels,
                parameters: &codec.parameters,
            },
            Strictness::Loose,
        )
    })
}

fn rtx_codec(repaired: u8, codec: &SupportedCodec, payload_type: u8) -> RtpCodecCapability {
    let apt = ParameterValue::Integer(i64::from(repaired));
    RtpCodecCapability {
        kind: codec.kind,
        mime_type: VIDEO_RTX.to_owned(),
        preferred_payload_type: Some(payload_type),
        clock_rate: codec.clock_rate,
        channels: None,
        parameters: CodecParameters::from([("apt".to_owned(), apt)]),
        rtcp_feedback: Vec::new(),
    }
}

/// Payload types of one router.
struct PayloadTypes {
    used: Vec<u8>,
}

impl PayloadTypes {
    /// Reserves the preferred ones first, so that none of them is given to an
    /// earlier codec of the list.
    fn new(media_codecs: &[MediaCodec]) -> Result<Self, OrtcError> {
        let mut payload_types = Self {
            used: vec![PROBATOR_PAYLOAD_TYPE],
        };
        for (index, codec) in media_codecs.iter().enumerate() {
            if let Some(payload_type) = codec.preferred_payload_type {
                let path = format!("mediaCodecs[{index}].preferredPayloadType");
                payload_types.reserve(&path, payload_type)?;
            }
        }
        Ok(payload_types)
    }

    fn reserve(&mut self, path: &str, payload_type: u8) -> Result<u8, OrtcError> {
        if payload_type > 127 {
            return Err(OrtcError::invalid(path, "must be an integer in 0..=127"));
        }
        if self.used.contains(&payload_type) {
            let reason = format!("payload type {payload_type} is already in use");
            return Err(OrtcError::invalid(path, reason));
        }
        self.used.push(payload_type);
        Ok(payload_type)
    }

    fn next(&mut self, path: &str) -> Result<u8, OrtcError> {
        let free = (100..=127)
            .chain(96..=99)
            .find(|payload_type| !self.used.contains(payload_type))
            .ok_or_else(|| OrtcError::invalid(path, "no dynamic payload type is left"))?;
        self.used.push(free);
        Ok(free)
    }
}
