//! Negotiation of a producer: which of the router's payload types its codecs
//! become, and what its consumers can be given.

use super::capabilities::apt;
use super::codec_match::{Strictness, answer_profile_level_id, codecs_match};
use super::error::OrtcError;
use super::scalability_mode::ScalabilityMode;
use super::supported::{ABS_CAPTURE_TIME_URI, AV1, DEPENDENCY_DESCRIPTOR_URI};
use super::types::{
    CodecParameters, MediaKind, ParameterValue, ProducerType, RtcpParameters, RtpCapabilities,
    RtpCodecCapability, RtpCodecParameters, RtpEncodingParameters, RtpHeaderExtensionParameters,
    RtpParameters, is_rtx,
};

/// Lowest SSRC that the server gives to a stream. SSRC 1234 belongs to the
/// bandwidth probes of mediasoup clients, so media stays well away from it.
pub const MIN_SSRC: u32 = 100_000_000;
/// Highest SSRC from which the streams of one producer or consumer may be
/// numbered upwards.
pub const MAX_SSRC: u32 = 999_999_999;

/// A codec of a producer and the router's codec that it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecMapping {
    /// The client's payload type.
    pub payload_type: u8,
    /// The router's payload type.
    pub mapped_payload_type: u8,
}

/// A stream of a producer and the SSRC that names it within the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodingMapping {
    /// The client's SSRC, if it told one.
    pub ssrc: Option<u32>,
    /// The client's RID, if it told one.
    pub rid: Option<String>,
    /// Layers, for example `L1T3`.
    pub scalability_mode: Option<String>,
    /// The SSRC within the router.
    pub mapped_ssrc: u32,
}

/// What becomes of a producer's codecs and streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerMapping {
    /// One for each codec, in the producer's order, RTX included.
    pub codecs: Vec<CodecMapping>,
    /// One for each encoding, in the producer's order.
    pub encodings: Vec<EncodingMapping>,
}

impl ProducerMapping {
    /// The router's payload type for one of the producer's.
    pub fn mapped_payload_type(&self, payload_type: u8) -> Option<u8> {
        self.codecs
            .iter()
            .find(|codec| codec.payload_type == payload_type)
            .map(|codec| codec.mapped_payload_type)
    }
}

/// A producer after its negotiation.
#[derive(Debug, Clone, PartialEq)]
pub struct NegotiatedProducer {
    /// Audio or video.
    pub kind: MediaKind,
    /// How its streams relate to each other.
    pub producer_type: ProducerType,
    /// What the client sends.
    pub rtp_parameters: RtpParameters,
    /// What becomes of it.
    pub mapping: ProducerMapping,
    /// What its consumers can be given.
    pub consumable: RtpParameters,
}

/// Negotiates a producer: type, mapping and consumable parameters in one call.
/// [`impose_cname`] comes first, because consumers inherit the name.
///
/// # Errors
/// Those of [`producer_type`] and [`producer_mapping`].
pub fn negotiate_producer(
    kind: MediaKind,
    mut rtp_parameters: RtpParameters,
    router: &RtpCapabilities,
    first_mapped_ssrc: u32,
) -> Result<NegotiatedProducer, OrtcError> {
    let producer_type = producer_type(&rtp_parameters)?;
    let mapping = producer_mapping(&mut rtp_parameters, router, first_mapped_ssrc)?;
    let consumable = consumable_rtp_parameters(kind, &rtp_parameters, router, &mapping);
    Ok(NegotiatedProducer {
        kind,
        producer_type,
        rtp_parameters,
        mapping,
        consumable,
    })
}

/// Gives a producer the CNAME of its transport, which the first producer (or
/// `random`, where that one has none) decides: everything that one transport
/// produces is played in sync. `transport_cname` is the transport's own.
pub fn impose_cname(
    transport_cname: &mut Option<String>,
    rtp_parameters: &mut RtpParameters,
    random: impl FnOnce() -> String,
) {
    let own = rtp_parameters.rtcp.cname.take();
    let cname = transport_cname.get_or_insert_with(|| own.unwrap_or_else(random));
    rtp_parameters.rtcp.cname = Some(cname.clone());
}

/// Maps the codecs and streams of a producer to the router's. The H264
/// profile-level-id of `rtp_parameters` becomes the answer's. Streams are
/// numbered from `first_mapped_ssrc`, which the caller draws from
/// [`MIN_SSRC`]`..=`[`MAX_SSRC`].
///
/// # Errors
/// [`OrtcError::Unsupported`] naming the codec that the router does not have.
pub fn producer_mapping(
    rtp_parameters: &mut RtpParameters,
    router: &RtpCapabilities,
    first_mapped_ssrc: u32,
) -> Result<ProducerMapping, OrtcError> {
    let mut mapped = Vec::with_capacity(rtp_parameters.codecs.len());
    for (index, codec) in rtp_parameters.codecs.iter_mut().enumerate() {
        if is_rtx(&codec.mime_type) {
            continue;
        }
        let counterpart =
            find_counterpart(codec, router).ok_or_else(|| unsupported(index, codec))?;
        if let Some(answer) = answer_profile_level_id((&*codec).into(), counterpart.0.into()) {
            let answer = ParameterValue::Text(answer);
            codec.parameters.insert("profile-level-id".into(), answer);
        }
        mapped.push(CodecMapping {
            payload_type: codec.payload_type,
            mapped_payload_type: counterpart.1,
        });
    }
    for (index, codec) in rtp_parameters.codecs.iter().enumerate() {
        if is_rtx(&codec.mime_type) {
            let mapped_payload_type = find_rtx_counterpart(codec, &mapped, router)
                .ok_or_else(|| unsupported(index, codec))?;
            mapped.push(CodecMapping {
                payload_type: codec.payload_type,
                mapped_payload_type,
            });
        }
    }
    // Media codecs had to come first; give the producer's order back.
    let position = |mapping: &CodecMapping| {
        let mut codecs = rtp_parameters.codecs.iter();
        codecs.position(|codec| codec.payload_type == mapping.payload_type)
    };
    mapped.sort_by_key(position);
    let encodings = rtp_parameters.encodings.iter().zip(0..);
    Ok(ProducerMapping {
        encodings: encodings
            .map(|(encoding, index)| EncodingMapping {
                ssrc: encoding.ssrc,
                rid: encoding.rid.clone(),
                scalability_mode: encoding.scalability_mode.clone(),
                mapped_ssrc: first_mapped_ssrc.wrapping_add(index),
            })
            .collect(),
        codecs: mapped,
    })
}

/// The router's codec of the same format, and its payload type.
fn find_counterpart<'a>(
    codec: &RtpCodecParameters,
    router: &'a RtpCapabilities,
) -> Option<(&'a RtpCodecCapability, u8)> {
    let counterpart = router
        .codecs
        .iter()
        .find(|candidate| codecs_match(codec.into(), (*candidate).into(), Strictness::Strict))?;
    Some((counterpart, counterpart.preferred_payload_type?))
}

/// The payload type of the router's RTX codec for the codec that `rtx` repairs.
fn find_rtx_counterpart(
    rtx: &RtpCodecParameters,
    mapped: &[CodecMapping],
    router: &RtpCapabilities,
) -> Option<u8> {
    let apt = apt(&rtx.parameters)?;
    let media = mapped.iter().find(|codec| codec.payload_type == apt)?;
    let counterpart = router.rtx_codec_of(media.mapped_payload_type)?;
    counterpart.preferred_payload_type
}

fn unsupported(index: usize, codec: &RtpCodecParameters) -> OrtcError {
    OrtcError::Unsupported(format!(
        "rtpParameters.codecs[{index}]: {} with payload type {} is not supported by the router",
        codec.mime_type, codec.payload_type
    ))
}

/// What the consumers of a producer can be given: the router's codecs with the
/// producer's format parameters, the router's header extensions, and the
/// producer's streams under their SSRCs within the router.
pub fn consumable_rtp_parameters(
    kind: MediaKind,
    rtp_parameters: &RtpParameters,
    router: &RtpCapabilities,
    mapping: &ProducerMapping,
) -> RtpParameters {
    let encodings = rtp_parameters.encodings.iter().zip(&mapping.encodings);
    RtpParameters {
        mid: None,
        codecs: consumable_codecs(rtp_parameters, router, mapping),
        header_extensions: consumable_header_extensions(kind, rtp_parameters, router),
        encodings: encodings
            .map(|(encoding, mapping)| RtpEncodingParameters {
                ssrc: Some(mapping.mapped_ssrc),
                rid: None,
                codec_payload_type: None,
                rtx: None,
                ..encoding.clone()
            })
            .collect(),
        rtcp: RtcpParameters {
            cname: rtp_parameters.rtcp.cname.clone(),
            reduced_size: true,
            mux: Some(true),
        },
        msid: None,
    }
}

fn consumable_codecs(
    rtp_parameters: &RtpParameters,
    router: &RtpCapabilities,
    mapping: &ProducerMapping,
) -> Vec<RtpCodecParameters> {
    let mut codecs: Vec<RtpCodecParameters> = Vec::new();
    for codec in &rtp_parameters.codecs {
        let counterpart = mapping
            .mapped_payload_type(codec.payload_type)
            .and_then(|payload_type| Some((payload_type, router.codec(payload_type)?)));
        let Some((payload_type, counterpart)) = counterpart else {
            continue;
        };
        // Two of the producer's codecs can be one to the router.
        let known = codecs.iter().any(|it| it.payload_type == payload_type);
        if known || is_rtx(&codec.mime_type) {
            continue;
        }
        codecs.push(consumable_codec(
            counterpart,
            payload_type,
            codec.parameters.clone(),
        ));
        if let Some(rtx) = router.rtx_codec_of(payload_type)
            && let Some(rtx_payload_type) = rtx.preferred_payload_type
        {
            let parameters = rtx.parameters.clone();
            codecs.push(consumable_codec(rtx, rtx_payload_type, parameters));
        }
    }
    codecs
}

fn consumable_codec(
    codec: &RtpCodecCapability,
    payload_type: u8,
    parameters: CodecParameters,
) -> RtpCodecParameters {
    RtpCodecParameters {
        mime_type: codec.mime_type.clone(),
        payload_type,
        clock_rate: codec.clock_rate,
        channels: codec.channels,
        parameters,
        rtcp_feedback: codec.rtcp_feedback.clone(),
    }
}

fn consumable_header_extensions(
    kind: MediaKind,
    rtp_parameters: &RtpParameters,
    router: &RtpCapabilities,
) -> Vec<RtpHeaderExtensionParameters> {
    let of_producer = |uri: &str| {
        let mut extensions = rtp_parameters.header_extensions.iter();
        extensions.any(|extension| extension.uri == uri)
    };
    // These are known to the sender alone.
    let is_told = |uri: &str| match uri {
        ABS_CAPTURE_TIME_URI => of_producer(uri),
        DEPENDENCY_DESCRIPTOR_URI => of_producer(uri) && is_av1(rtp_parameters),
        _ => true,
    };
    router
        .header_extensions
        .iter()
        .filter(|extension| extension.kind == Some(kind) && extension.direction.sends())
        .filter(|extension| is_told(&extension.uri))
        .map(|extension| RtpHeaderExtensionParameters {
            uri: extension.uri.clone(),
            id: extension.preferred_id,
            encrypt: extension.preferred_encrypt,
            parameters: CodecParameters::new(),
        })
        .collect()
}

/// How the streams of a producer relate: several are simulcast; one with
/// spatial layers is SVC; one with temporal layers only is simulcast, or SVC
/// where the codec knows no simulcast; else simple.
///
/// # Errors
/// [`OrtcError::Unsupported`] where the codec cannot be routed so: simulcast
/// takes VP8, H264 or AV1, SVC takes VP9 or AV1.
pub fn producer_type(rtp_parameters: &RtpParameters) -> Result<ProducerType, OrtcError> {
    let [encoding] = rtp_parameters.encodings.as_slice() else {
        for (index, encoding) in rtp_parameters.encodings.iter().enumerate() {
            require(rtp_parameters, index, encoding, ProducerType::Simulcast)?;
        }
        return Ok(ProducerType::Simulcast);
    };
    let mode = encoding.scalability_mode.as_deref().unwrap_or_default();
    let layers = ScalabilityMode::parse(mode);
    let simulcast = require(rtp_parameters, 0, encoding, ProducerType::Simulcast);
    let svc = require(rtp_parameters, 0, encoding, ProducerType::Svc);
    match (layers.spatial_layers, layers.temporal_layers) {
        (1, 1) => Ok(ProducerType::Simple),
        (1, _) if simulcast.is_err() && svc.is_ok() => svc,
        (1, _) => simulcast,
        _ => svc,
    }
}

/// Errors unless the codec of an encoding can be routed as `producer_type`.
fn require(
    rtp_parameters: &RtpParameters,
    index: usize,
    encoding: &RtpEncodingParameters,
    producer_type: ProducerType,
) -> Result<ProducerType, OrtcError> {
    let mime_type = codec_of(rtp_parameters, encoding).map_or("no codec", |it| &it.mime_type);
    let allowed: &[&str] = match producer_type {
        ProducerType::Simple => return Ok(producer_type),
        ProducerType::Simulcast => &["video/VP8", "video/H264", "video/AV1"],
        ProducerType::Svc => &["video/VP9", "video/AV1"],
    };
    if allowed.iter().any(|it| it.eq_ignore_ascii_case(mime_type)) {
        return Ok(producer_type);
    }
    Err(OrtcError::Unsupported(format!(
        "rtpParameters.encodings[{index}]: {mime_type} cannot be routed as {}",
        producer_type.as_str()
    )))
}

/// Whether a producer may send AV1. Browsers describe dependencies in other
/// codecs as well, which say by themselves what is needed of them.
pub(super) fn is_av1(rtp_parameters: &RtpParameters) -> bool {
    let mut codecs = rtp_parameters.codecs.iter();
    codecs.any(|codec| codec.mime_type.eq_ignore_ascii_case(AV1))
}

/// The codec of a stream: the one that it names, else the first media codec.
pub(super) fn codec_of<'a>(
    rtp_parameters: &'a RtpParameters,
    encoding: &RtpEncodingParameters,
) -> Option<&'a RtpCodecParameters> {
    rtp_parameters
        .codecs
        .iter()
        .filter(|codec| !is_rtx(&codec.mime_type))
        .find(|codec| {
            encoding
                .codec_payload_type
                .is_none_or(|payload_type| codec.payload_type == payload_type)
        })
}
