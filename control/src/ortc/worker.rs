//! What a media worker is told of a negotiation.

use super::capabilities::apt;
use super::error::OrtcError;
use super::producer::{NegotiatedProducer, ProducerMapping, codec_of, is_av1};
use super::scalability_mode::ScalabilityMode;
use super::supported::DEPENDENCY_DESCRIPTOR_URI;
use super::types::{
    DtlsFingerprint, DtlsRole, MediaKind, RtpCapabilities, RtpCodecParameters,
    RtpHeaderExtensionParameters, RtpParameters, is_rtx,
};

impl From<MediaKind> for proto::MediaKind {
    fn from(kind: MediaKind) -> Self {
        match kind {
            MediaKind::Audio => proto::MediaKind::Audio,
            MediaKind::Video => proto::MediaKind::Video,
        }
    }
}

impl From<DtlsRole> for proto::DtlsRole {
    fn from(role: DtlsRole) -> Self {
        match role {
            DtlsRole::Auto => proto::DtlsRole::Auto,
            DtlsRole::Client => proto::DtlsRole::Client,
            DtlsRole::Server => proto::DtlsRole::Server,
        }
    }
}

impl From<DtlsFingerprint> for proto::DtlsFingerprint {
    fn from(fingerprint: DtlsFingerprint) -> Self {
        Self {
            algorithm: fingerprint.algorithm,
            value: fingerprint.value,
        }
    }
}

/// The media codecs of a router, each with its RTX.
pub fn router_codecs(router: &RtpCapabilities) -> Vec<proto::RouterCodec> {
    let media = router.codecs.iter().filter(|it| !is_rtx(&it.mime_type));
    media
        .filter_map(|codec| {
            let payload_type = codec.preferred_payload_type?;
            let rtx = router.rtx_codec_of(payload_type);
            Some(proto::RouterCodec {
                kind: proto::MediaKind::from(codec.kind).into(),
                mime_type: codec.mime_type.clone(),
                clock_rate: codec.clock_rate,
                channels: codec.channels,
                payload_type: payload_type.into(),
                rtx_payload_type: rtx.and_then(|it| it.preferred_payload_type).map(u32::from),
            })
        })
        .collect()
}

/// Every header extension of a router, once for audio and video.
pub fn router_header_extensions(router: &RtpCapabilities) -> Vec<proto::HeaderExtension> {
    let mut extensions: Vec<proto::HeaderExtension> = Vec::new();
    for extension in &router.header_extensions {
        let id = u32::from(extension.preferred_id);
        if extensions.iter().all(|it| it.id != id) {
            let uri = extension.uri.clone();
            extensions.push(proto::HeaderExtension { uri, id });
        }
    }
    extensions
}

/// The call that creates a producer in the worker.
pub fn produce_request(
    transport_id: &str,
    producer_id: &str,
    producer: &NegotiatedProducer,
    router: &RtpCapabilities,
    paused: bool,
) -> proto::ProduceRequest {
    let rtp_parameters = &producer.rtp_parameters;
    proto::ProduceRequest {
        transport_id: transport_id.to_owned(),
        producer_id: producer_id.to_owned(),
        kind: proto::MediaKind::from(producer.kind).into(),
        mid: rtp_parameters.mid.clone(),
        codecs: producer_codecs(rtp_parameters, &producer.mapping, router),
        header_extensions: producer_header_extensions(producer.kind, rtp_parameters, router),
        encodings: producer_encodings(rtp_parameters),
        paused,
        silence_ms: None,
    }
}

/// The media codecs of a producer, each with its RTX, with both payload types.
pub fn producer_codecs(
    rtp_parameters: &RtpParameters,
    mapping: &ProducerMapping,
    router: &RtpCapabilities,
) -> Vec<proto::ProducerCodec> {
    let codecs = &rtp_parameters.codecs;
    let media = codecs.iter().filter(|it| !is_rtx(&it.mime_type));
    media
        .filter_map(|codec| {
            let mapped_payload_type = mapping.mapped_payload_type(codec.payload_type)?;
            let counterpart = router.codec(mapped_payload_type)?;
            let has = |kind, parameter| {
                let mut feedback = codec.rtcp_feedback.iter();
                feedback.any(|it| it.is(kind, parameter))
            };
            let rtx = find_rtx(codecs, codec.payload_type);
            Some(proto::ProducerCodec {
                mime_type: counterpart.mime_type.clone(),
                clock_rate: codec.clock_rate,
                channels: codec.channels,
                payload_type: codec.payload_type.into(),
                rtx_payload_type: rtx.map(|it| it.payload_type.into()),
                mapped_payload_type: mapped_payload_type.into(),
                nack: has("nack", ""),
                nack_pli: has("nack", "pli"),
                ccm_fir: has("ccm", "fir"),
                transport_cc: has("transport-cc", ""),
            })
        })
        .collect()
}

/// The header extensions of a producer, under its own ids, that the router
/// reads. The worker must not be given others: its library fixes ids for good
/// and lets a newcomer displace one that is in use.
pub fn producer_header_extensions(
    kind: MediaKind,
    rtp_parameters: &RtpParameters,
    router: &RtpCapabilities,
) -> Vec<proto::HeaderExtension> {
    let has_layers = is_av1(rtp_parameters);
    let is_read = |extension: &&RtpHeaderExtensionParameters| {
        let uri = &extension.uri;
        let mut routed = router.header_extensions.iter();
        let is_routed =
            routed.any(|it| it.kind == Some(kind) && it.uri == *uri && it.direction.receives());
        is_routed && (has_layers || uri != DEPENDENCY_DESCRIPTOR_URI)
    };
    let extensions = rtp_parameters.header_extensions.iter();
    extensions.filter(is_read).map(header_extension).collect()
}

/// The streams of a producer. An RTX SSRC is left out where the stream's codec
/// has no RTX codec.
pub fn producer_encodings(rtp_parameters: &RtpParameters) -> Vec<proto::ProducerEncoding> {
    let encodings = rtp_parameters.encodings.iter();
    encodings
        .map(|encoding| {
            let has_rtx = codec_of(rtp_parameters, encoding).is_some_and(|codec| {
                find_rtx(&rtp_parameters.codecs, codec.payload_type).is_some()
            });
            proto::ProducerEncoding {
                ssrc: encoding.ssrc,
                rtx_ssrc: encoding.rtx.map(|rtx| rtx.ssrc).filter(|_| has_rtx),
                rid: encoding.rid.clone(),
                layers: encoding.scalability_mode.as_deref().map(layers),
            }
        })
        .collect()
}

fn layers(scalability_mode: &str) -> proto::EncodingLayers {
    let mode = ScalabilityMode::parse(scalability_mode);
    proto::EncodingLayers {
        spatial: mode.spatial_layers.into(),
        temporal: mode.temporal_layers.into(),
        independent: mode.ksvc || mode.simulcast,
    }
}

/// Names of a consumer and of what it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct ConsumerIds<'a> {
    /// The transport that it sends on.
    pub transport_id: &'a str,
    /// Its own id.
    pub consumer_id: &'a str,
    /// What it sends.
    pub producer_id: &'a str,
}

/// The entry that creates a consumer in the worker.
///
/// # Errors
/// [`OrtcError::Invalid`] when `rtp_parameters` are not those of
/// [`consumer_rtp_parameters`](super::consumer::consumer_rtp_parameters).
pub fn consumer_spec(
    ids: ConsumerIds<'_>,
    rtp_parameters: &RtpParameters,
    paused: bool,
) -> Result<proto::ConsumerSpec, OrtcError> {
    let missing = |name: &str| OrtcError::invalid(format!("rtpParameters.{name}"), "is missing");
    let encoding = rtp_parameters.encodings.first();
    let encoding = encoding.ok_or_else(|| missing("encodings[0]"))?;
    let codec = codec_of(rtp_parameters, encoding).ok_or_else(|| missing("codecs[0]"))?;
    let mid = rtp_parameters.mid.clone();
    let rtx = find_rtx(&rtp_parameters.codecs, codec.payload_type);
    let extensions = rtp_parameters.header_extensions.iter();
    Ok(proto::ConsumerSpec {
        transport_id: ids.transport_id.to_owned(),
        consumer_id: ids.consumer_id.to_owned(),
        producer_id: ids.producer_id.to_owned(),
        mid: mid.ok_or_else(|| missing("mid"))?,
        payload_type: codec.payload_type.into(),
        rtx_payload_type: rtx.map(|it| it.payload_type.into()),
        ssrc: encoding.ssrc.ok_or_else(|| missing("encodings[0].ssrc"))?,
        rtx_ssrc: encoding.rtx.filter(|_| rtx.is_some()).map(|rtx| rtx.ssrc),
        header_extensions: extensions.map(header_extension).collect(),
        paused,
    })
}

fn find_rtx(codecs: &[RtpCodecParameters], payload_type: u8) -> Option<&RtpCodecParameters> {
    codecs
        .iter()
        .find(|codec| is_rtx(&codec.mime_type) && apt(&codec.parameters) == Some(payload_type))
}

fn header_extension(extension: &RtpHeaderExtensionParameters) -> proto::HeaderExtension {
    proto::HeaderExtension {
        uri: extension.uri.clone(),
        id: extension.id.into(),
    }
}
