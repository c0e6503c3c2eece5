//! From the control plane's messages to what transports and routers take, every
//! field checked.

use std::time::Duration;

use proto::{ConsumerSpec as ProtoConsumer, MediaKind as ProtoKind, ProduceRequest, RouterCodec};
use router::{Codec, MAX_SPATIAL_LAYERS, MAX_TEMPORAL_LAYERS, SpatialDependency, StreamLayers};
use str0m::media::MediaKind;

use crate::transport::TransportError;
use crate::transport::extensions::Written;
use crate::transport::media::PayloadType;
use crate::transport::receive::{Encoding, ProducerCodec, ProducerSpec};
use crate::transport::send::ConsumerSpec;

/// Audio or video.
pub fn media_kind(kind: i32) -> Result<MediaKind, TransportError> {
    match ProtoKind::try_from(kind) {
        Ok(ProtoKind::Audio) => Ok(MediaKind::Audio),
        Ok(ProtoKind::Video) => Ok(MediaKind::Video),
        _ => Err(TransportError::Invalid(
            "kind: must be audio or video".into(),
        )),
    }
}

fn payload_type(field: &str, pt: u32) -> Result<u8, TransportError> {
    u8::try_from(pt)
        .ok()
        .filter(|pt| *pt <= 127)
        .ok_or_else(|| TransportError::Invalid(format!("{field}: {pt} is not in 0..=127")))
}

fn payload_types(
    pt: u32,
    rtx: Option<u32>,
    clock_rate: u32,
) -> Result<PayloadType, TransportError> {
    Ok(PayloadType {
        pt: payload_type("codecs.payload_type", pt)?,
        rtx: rtx
            .map(|pt| payload_type("codecs.rtx_payload_type", pt))
            .transpose()?,
        clock_rate,
    })
}

/// How the keyframes of a codec are recognised.
fn codec(mime_type: &str) -> Codec {
    match mime_type.to_ascii_lowercase().as_str() {
        "audio/opus" => Codec::Opus,
        "video/vp8" => Codec::Vp8,
        "video/vp9" => Codec::Vp9,
        "video/h264" => Codec::H264,
        "video/av1" => Codec::Av1,
        _ => Codec::Other,
    }
}

/// A router's codec.
pub fn router_codec(codec: &RouterCodec) -> Result<PayloadType, TransportError> {
    payload_types(codec.payload_type, codec.rtx_payload_type, codec.clock_rate)
}

/// A new producer.
pub fn producer(request: &ProduceRequest) -> Result<ProducerSpec, TransportError> {
    let codecs = request
        .codecs
        .iter()
        .map(|c| {
            Ok(ProducerCodec {
                payload_type: payload_types(c.payload_type, c.rtx_payload_type, c.clock_rate)?,
                codec: codec(&c.mime_type),
                nack: c.nack,
                pli: c.nack_pli,
                fir: c.ccm_fir,
                transport_cc: c.transport_cc,
            })
        })
        .collect::<Result<_, TransportError>>()?;
    if request.silence_ms == Some(0) {
        let text = "silence_ms: must be more than 0";
        return Err(TransportError::Invalid(text.into()));
    }
    let silence = request.silence_ms.map(u64::from);
    Ok(ProducerSpec {
        silence: silence.map(Duration::from_millis),
        kind: media_kind(request.kind)?,
        mid: request.mid.clone(),
        codecs,
        extensions: request
            .header_extensions
            .iter()
            .map(|e| (e.id, e.uri.clone()))
            .collect(),
        encodings: request
            .encodings
            .iter()
            .map(|e| Encoding {
                ssrc: e.ssrc,
                rtx_ssrc: e.rtx_ssrc,
                rid: e.rid.clone(),
            })
            .collect(),
        layers: match request.encodings.first().and_then(|e| e.layers) {
            Some(layers) => stream_layers(layers)?,
            None => StreamLayers::default(),
        },
    })
}

/// The layers of an encoding.
fn stream_layers(layers: proto::EncodingLayers) -> Result<StreamLayers, TransportError> {
    let count = |field: &str, count: u32, most: usize| {
        let found = u8::try_from(count).ok();
        let is_right = |count: &u8| (1..=most).contains(&usize::from(*count));
        found.filter(is_right).ok_or_else(|| {
            TransportError::Invalid(format!(
                "encodings.layers.{field}: {count} is not in 1..={most}"
            ))
        })
    };
    Ok(StreamLayers {
        spatial: count("spatial", layers.spatial, MAX_SPATIAL_LAYERS)?,
        temporal: count("temporal", layers.temporal, MAX_TEMPORAL_LAYERS)?,
        dependency: if layers.independent {
            SpatialDependency::KeyPictures
        } else {
            SpatialDependency::Always
        },
    })
}

/// A new consumer of a producer of that kind.
pub fn consumer(spec: &ProtoConsumer, kind: MediaKind) -> Result<ConsumerSpec, TransportError> {
    Ok(ConsumerSpec {
        kind,
        mid: spec.mid.clone(),
        pt: payload_type("payload_type", spec.payload_type)?,
        ssrc: spec.ssrc,
        // A stream for retransmissions without a payload type for them is none.
        rtx_ssrc: spec.rtx_ssrc.filter(|_| spec.rtx_payload_type.is_some()),
        written: Written::negotiated(spec.header_extensions.iter().map(|e| e.uri.as_str())),
    })
}
