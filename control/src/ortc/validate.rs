//! Reads and normalises the RTP parameters and capabilities that clients send.
//!
//! What passes is safe to hand to the media worker (whose library panics on
//! inconsistent ids and cuts long ones) and to other clients (who write much
//! of it into session descriptions). Unknown fields are ignored.

use std::collections::HashSet;

use serde_json::Value;

use super::capabilities::apt;
use super::error::OrtcError;
use super::field::Field;
use super::receive_ids::wire_id;
use super::scalability_mode::ScalabilityMode;
use super::types::{
    CodecParameters, Direction, MediaKind, ParameterValue, RtcpFeedback, RtcpParameters,
    RtpCapabilities, RtpCodecCapability, RtpCodecParameters, RtpEncodingParameters,
    RtpHeaderExtension, RtpHeaderExtensionParameters, RtpParameters, RtxParameters, is_rtx,
};

/// Most codecs in one rtpParameters.
pub const MAX_CODECS: usize = 32;
/// Most header extensions in one rtpParameters.
pub const MAX_HEADER_EXTENSIONS: usize = 32;
/// Most encodings (simulcast streams) of one producer.
pub const MAX_ENCODINGS: usize = 8;
/// Most codecs in one rtpCapabilities: a browser that lists everything it has
/// comes to about 50.
pub const MAX_CAPABILITY_CODECS: usize = 128;
/// Most header extensions in one rtpCapabilities.
pub const MAX_CAPABILITY_HEADER_EXTENSIONS: usize = 128;
/// Most spatial or temporal layers of a stream.
pub const MAX_LAYERS: u8 = 8;

const MAX_FEEDBACK: usize = 16;
const MAX_PARAMETERS: usize = 32;
const MAX_PARAMETER_KEY: usize = 64;
/// H264 parameter sets in base64 are the longest in use.
const MAX_PARAMETER_TEXT: usize = 512;
const MAX_MIME_TYPE: usize = 64;
const MAX_URI: usize = 256;
const MAX_CLOCK_RATE: u32 = 1_000_000;
/// An SDES item is at most 255 octets (RFC 3550 §6.5).
const MAX_CNAME: usize = 255;
const MAX_MSID: usize = 256;
/// More would be cut by the media worker's library.
const MAX_MID: usize = 16;
/// More would be cut by the media worker's library.
const MAX_RID: usize = 8;

/// Reads `kind` of produce.
///
/// # Errors
/// [`OrtcError::Invalid`] unless it is `"audio"` or `"video"`.
pub fn parse_media_kind(value: &Value) -> Result<MediaKind, OrtcError> {
    read_kind(&Field::root("kind", value))
}

/// Reads `rtpParameters` of produce, all of whose codecs must be of `kind`.
/// Defaults are filled in: channels 1 for audio, feedback parameter `""`, dtx
/// and encrypt false, reducedSize true, one empty encoding.
///
/// # Errors
/// [`OrtcError::Invalid`], naming the field.
pub fn parse_rtp_parameters(kind: MediaKind, value: &Value) -> Result<RtpParameters, OrtcError> {
    let field = Field::root("rtpParameters", value);
    let mid = match field.optional("mid")? {
        Some(mid) => read_id(&mid, MAX_MID)?,
        None => None,
    };
    let codecs = read_codecs(kind, &field)?;
    let header_extensions = read_header_extensions(&field)?;
    let encodings = read_encodings(&field, &codecs)?;
    let msid = match field.optional("msid")? {
        Some(msid) => Some(msid.text(MAX_MSID)?.to_owned()),
        None => None,
    };
    Ok(RtpParameters {
        mid,
        codecs,
        header_extensions,
        encodings,
        rtcp: read_rtcp(&field)?,
        msid,
    })
}

/// Reads a client's `rtpCapabilities`. Codecs and header extensions that this
/// server does not know are fine.
///
/// # Errors
/// [`OrtcError::Invalid`], naming the field.
pub fn parse_rtp_capabilities(value: &Value) -> Result<RtpCapabilities, OrtcError> {
    let field = Field::root("rtpCapabilities", value);
    let codecs = field
        .list("codecs", MAX_CAPABILITY_CODECS)?
        .iter()
        .map(read_codec_capability)
        .collect::<Result<_, _>>()?;
    let header_extensions = field
        .list("headerExtensions", MAX_CAPABILITY_HEADER_EXTENSIONS)?
        .iter()
        .map(read_header_extension_capability)
        .collect::<Result<_, _>>()?;
    Ok(RtpCapabilities {
        codecs,
        header_extensions,
    })
}

fn read_codec_capability(field: &Field<'_>) -> Result<RtpCodecCapability, OrtcError> {
    let common = read_codec(field)?;
    let preferred_payload_type = match field.optional("preferredPayloadType")? {
        Some(payload_type) => Some(payload_type.octet(0..=127)?),
        None => None,
    };
    Ok(RtpCodecCapability {
        kind: common.kind,
        mime_type: common.mime_type,
        preferred_payload_type,
        clock_rate: common.clock_rate,
        channels: common.channels,
        parameters: common.parameters,
        rtcp_feedback: common.rtcp_feedback,
    })
}

fn read_header_extension_capability(field: &Field<'_>) -> Result<RtpHeaderExtension, OrtcError> {
    // Old clients say "" for "both".
    let kind = match field.optional("kind")? {
        Some(kind) if kind.value() != "" => Some(read_kind(&kind)?),
        _ => None,
    };
    let direction = match field.optional("direction")? {
        Some(direction) => read_direction(&direction)?,
        None => Direction::Sendrecv,
    };
    Ok(RtpHeaderExtension {
        kind,
        uri: field.required("uri")?.word(MAX_URI)?.to_owned(),
        preferred_id: field.required("preferredId")?.octet(1..=255)?,
        preferred_encrypt: read_flag(field, "preferredEncrypt", false)?,
        direction,
    })
}

/// What codecs in parameters and in capabilities have in common.
struct Codec {
    kind: MediaKind,
    mime_type: String,
    clock_rate: u32,
    channels: Option<u32>,
    parameters: CodecParameters,
    rtcp_feedback: Vec<RtcpFeedback>,
}

fn read_codec(field: &Field<'_>) -> Result<Codec, OrtcError> {
    let (kind, mime_type) = read_mime_type(&field.required("mimeType")?)?;
    let clock_rate = field.required("clockRate")?.integer(1..=MAX_CLOCK_RATE)?;
    let channels = match (kind, field.optional("channels")?) {
        (MediaKind::Video, _) => None,
        (MediaKind::Audio, None) => Some(1),
        (MediaKind::Audio, Some(channels)) => Some(channels.integer(1..=255)?),
    };
    let parameters = match field.optional("parameters")? {
        Some(parameters) => read_codec_parameters(&parameters)?,
        None => CodecParameters::new(),
    };
    let rtcp_feedback = field
        .list("rtcpFeedback", MAX_FEEDBACK)?
        .iter()
        .filter(|entry| !entry.value().is_null())
        .map(read_feedback)
        .collect::<Result<_, _>>()?;
    Ok(Codec {
        kind,
        mime_type,
        clock_rate,
        channels,
        parameters,
        rtcp_feedback,
    })
}

fn read_codecs(kind: MediaKind, parent: &Field<'_>) -> Result<Vec<RtpCodecParameters>, OrtcError> {
    let list = parent.required("codecs")?;
    let fields = list.items(MAX_CODECS)?;
    let mut codecs = Vec::with_capacity(fields.len());
    let mut payload_types = HashSet::new();
    for field in &fields {
        let codec = read_codec(field)?;
        if codec.kind != kind {
            let reason = format!("must be of kind {}, as kind says", kind.as_str());
            return Err(field.required("mimeType")?.refuse(reason));
        }
        let payload_type_field = field.required("payloadType")?;
        let payload_type = payload_type_field.octet(0..=127)?;
        if (64..=95).contains(&payload_type) {
            // RFC 5761 §4: it would be taken for RTCP.
            return Err(payload_type_field.refuse("must not be in 64..=95"));
        }
        if !payload_types.insert(payload_type) {
            return Err(payload_type_field.refuse(format!("{payload_type} is used twice")));
        }
        codecs.push(RtpCodecParameters {
            mime_type: codec.mime_type,
            payload_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: codec.parameters,
            rtcp_feedback: codec.rtcp_feedback,
        });
    }
    check_rtx(&codecs, &fields)?;
    if codecs.iter().all(|codec| is_rtx(&codec.mime_type)) {
        return Err(list.refuse("must contain a media codec"));
    }
    Ok(codecs)
}

/// Every RTX codec must repair a media codec of the same list, which no other
/// RTX codec repairs (RFC 4588 §8.1).
fn check_rtx(codecs: &[RtpCodecParameters], fields: &[Field<'_>]) -> Result<(), OrtcError> {
    let mut repaired = HashSet::new();
    for (codec, field) in codecs.iter().zip(fields) {
        if !is_rtx(&codec.mime_type) {
            continue;
        }
        let refuse = |reason: &str| {
            Err(OrtcError::invalid(
                format!("{}.parameters.apt", field.path()),
                reason,
            ))
        };
        let Some(apt) = apt(&codec.parameters) else {
            return refuse("must be the payload type of a media codec");
        };
        if !is_media_codec(codecs, apt) {
            return refuse(&format!("no media codec has payload type {apt}"));
        }
        if !repaired.insert(apt) {
            return refuse(&format!("payload type {apt} has two RTX codecs"));
        }
    }
    Ok(())
}

fn is_media_codec(codecs: &[RtpCodecParameters], payload_type: u8) -> bool {
    codecs
        .iter()
        .any(|codec| codec.payload_type == payload_type && !is_rtx(&codec.mime_type))
}

fn read_header_extensions(
    parent: &Field<'_>,
) -> Result<Vec<RtpHeaderExtensionParameters>, OrtcError> {
    let mut extensions: Vec<RtpHeaderExtensionParameters> = Vec::new();
    for field in parent.list("headerExtensions", MAX_HEADER_EXTENSIONS)? {
        let uri_field = field.required("uri")?;
        let uri = uri_field.word(MAX_URI)?;
        let id_field = field.required("id")?;
        // Browsers go beyond 14, and on to the two-byte form (RFC 8285 §4.3),
        // when they have many extensions to offer.
        let id = id_field.octet(1..=255)?;
        if extensions.iter().any(|it| it.uri == uri && it.id == id) {
            continue;
        }
        if extensions.iter().any(|it| it.uri == uri) {
            return Err(uri_field.refuse("has two ids"));
        }
        if extensions.iter().any(|it| it.id == id) {
            return Err(id_field.refuse(format!("{id} is used twice")));
        }
        extensions.push(RtpHeaderExtensionParameters {
            uri: uri.to_owned(),
            id,
            encrypt: read_flag(&field, "encrypt", false)?,
            parameters: match field.optional("parameters")? {
                Some(parameters) => read_codec_parameters(&parameters)?,
                None => CodecParameters::new(),
            },
        });
    }
    Ok(extensions)
}

fn read_encodings(
    parent: &Field<'_>,
    codecs: &[RtpCodecParameters],
) -> Result<Vec<RtpEncodingParameters>, OrtcError> {
    let fields = parent.list("encodings", MAX_ENCODINGS)?;
    if fields.is_empty() {
        return Ok(vec![RtpEncodingParameters {
            dtx: Some(false),
            ..RtpEncodingParameters::default()
        }]);
    }
    let mut encodings = Vec::with_capacity(fields.len());
    let mut ssrcs = HashSet::new();
    let mut rids = HashSet::new();
    for field in &fields {
        let encoding = read_encoding(field, codecs)?;
        if fields.len() > 1 && encoding.ssrc.is_none() && encoding.rid.is_none() {
            return Err(field.refuse("must have ssrc or rid, being one of several"));
        }
        if let Some(ssrc) = encoding.ssrc
            && !ssrcs.insert(ssrc)
        {
            return Err(field
                .required("ssrc")?
                .refuse(format!("{ssrc} is used twice")));
        }
        if let Some(RtxParameters { ssrc }) = encoding.rtx
            && !ssrcs.insert(ssrc)
        {
            let field = field.required("rtx")?.required("ssrc")?;
            return Err(field.refuse(format!("{ssrc} is used twice")));
        }
        if let Some(rid) = &encoding.rid
            && !rids.insert(wire_id(rid))
        {
            return Err(field
                .required("rid")?
                .refuse(format!("\"{rid}\" is used twice")));
        }
        encodings.push(encoding);
    }
    Ok(encodings)
}

fn read_encoding(
    field: &Field<'_>,
    codecs: &[RtpCodecParameters],
) -> Result<RtpEncodingParameters, OrtcError> {
    let rid = match field.optional("rid")? {
        Some(rid) => read_id(&rid, MAX_RID)?,
        None => None,
    };
    let codec_payload_type = match field.optional("codecPayloadType")? {
        Some(codec) => {
            let payload_type = codec.octet(0..=127)?;
            if !is_media_codec(codecs, payload_type) {
                let reason = format!("no media codec has payload type {payload_type}");
                return Err(codec.refuse(reason));
            }
            Some(payload_type)
        }
        None => None,
    };
    let rtx = match field.optional("rtx")? {
        Some(rtx) => Some(RtxParameters {
            ssrc: rtx.required("ssrc")?.integer(1..=u32::MAX)?,
        }),
        None => None,
    };
    let ssrc = match field.optional("ssrc")? {
        Some(ssrc) => Some(ssrc.integer(1..=u32::MAX)?),
        None => None,
    };
    let scalability_mode = match field.optional("scalabilityMode")? {
        Some(mode) => read_scalability_mode(&mode)?,
        None => None,
    };
    let max_bitrate = match field.optional("maxBitrate")? {
        Some(bitrate) => Some(read_bitrate(&bitrate)?),
        None => None,
    };
    Ok(RtpEncodingParameters {
        ssrc,
        rid,
        codec_payload_type,
        rtx,
        dtx: Some(read_flag(field, "dtx", false)?),
        scalability_mode,
        max_bitrate,
    })
}

fn read_rtcp(parent: &Field<'_>) -> Result<RtcpParameters, OrtcError> {
    let Some(field) = parent.optional("rtcp")? else {
        return Ok(RtcpParameters {
            cname: None,
            reduced_size: true,
            mux: None,
        });
    };
    let cname = match field.optional("cname")? {
        // Chromium says "" where it has no SSRC to tell the name for.
        Some(cname) => Some(cname.text(MAX_CNAME)?.to_owned()).filter(|cname| !cname.is_empty()),
        None => None,
    };
    let mux = match field.optional("mux")? {
        Some(mux) => Some(mux.boolean()?),
        None => None,
    };
    Ok(RtcpParameters {
        cname,
        reduced_size: read_flag(&field, "reducedSize", true)?,
        mux,
    })
}

fn read_kind(field: &Field<'_>) -> Result<MediaKind, OrtcError> {
    match field.value().as_str() {
        Some("audio") => Ok(MediaKind::Audio),
        Some("video") => Ok(MediaKind::Video),
        _ => Err(field.refuse("must be \"audio\" or \"video\"")),
    }
}

fn read_direction(field: &Field<'_>) -> Result<Direction, OrtcError> {
    match field.value().as_str() {
        Some("sendrecv") => Ok(Direction::Sendrecv),
        Some("sendonly") => Ok(Direction::Sendonly),
        Some("recvonly") => Ok(Direction::Recvonly),
        Some("inactive") => Ok(Direction::Inactive),
        _ => Err(field.refuse("must be sendrecv, sendonly, recvonly or inactive")),
    }
}

fn read_flag(parent: &Field<'_>, name: &str, default: bool) -> Result<bool, OrtcError> {
    match parent.optional(name)? {
        Some(flag) => flag.boolean(),
        None => Ok(default),
    }
}

fn read_mime_type(field: &Field<'_>) -> Result<(MediaKind, String), OrtcError> {
    let text = field.word(MAX_MIME_TYPE)?;
    let refuse = || field.refuse("must be audio/… or video/…");
    let (kind, subtype) = text.split_once('/').ok_or_else(refuse)?;
    let kind = match kind.to_ascii_lowercase().as_str() {
        "audio" => MediaKind::Audio,
        "video" => MediaKind::Video,
        _ => return Err(refuse()),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    if subtype.is_empty() || !subtype.bytes().all(is_name) {
        // RFC 6838 §4.2.
        return Err(refuse());
    }
    Ok((kind, text.to_owned()))
}

fn read_codec_parameters(field: &Field<'_>) -> Result<CodecParameters, OrtcError> {
    let object = field.object()?;
    if object.len() > MAX_PARAMETERS {
        return Err(field.refuse(format!("must have at most {MAX_PARAMETERS} entries")));
    }
    let mut parameters = CodecParameters::new();
    for (key, value) in object {
        // What ends a parameter in a=fmtp cannot be part of its name.
        let is_key = |byte: u8| byte.is_ascii_graphic() && byte != b';' && byte != b'=';
        if key.is_empty() || key.len() > MAX_PARAMETER_KEY || !key.bytes().all(is_key) {
            return Err(field.refuse(format!(
                "names must be 1 to {MAX_PARAMETER_KEY} printable ASCII characters without ; or ="
            )));
        }
        let entry = field.member(key, value);
        parameters.insert(key.clone(), read_parameter_value(&entry)?);
    }
    Ok(parameters)
}

fn read_parameter_value(field: &Field<'_>) -> Result<ParameterValue, OrtcError> {
    match field.value() {
        Value::Null => Ok(ParameterValue::Text(String::new())),
        Value::Bool(flag) => Ok(ParameterValue::Bool(*flag)),
        Value::String(_) => Ok(ParameterValue::Text(
            field.text(MAX_PARAMETER_TEXT)?.to_owned(),
        )),
        Value::Number(number) => number
            .as_i64()
            .map(ParameterValue::Integer)
            .or_else(|| number.as_f64().map(ParameterValue::Number))
            .ok_or_else(|| field.refuse("must be a finite number")),
        Value::Array(_) | Value::Object(_) => {
            Err(field.refuse("must be a string, a number, true or false"))
        }
    }
}

fn read_feedback(field: &Field<'_>) -> Result<RtcpFeedback, OrtcError> {
    let kind = field.required("type")?.word(64)?.to_owned();
    let parameter = match field.optional("parameter")? {
        Some(parameter) => parameter.text(64)?.to_owned(),
        None => String::new(),
    };
    Ok(RtcpFeedback { kind, parameter })
}

/// A MID or RID; empty counts as absent. Other characters, and more of them,
/// would be changed by the media worker's library, and then belong to nobody.
fn read_id(field: &Field<'_>, max: usize) -> Result<Option<String>, OrtcError> {
    let text = field.text(256)?;
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if text.len() > max || !text.bytes().all(is_id) {
        return Err(field.refuse(format!("must be at most {max} of A–Z a–z 0–9 - _")));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn read_scalability_mode(field: &Field<'_>) -> Result<Option<String>, OrtcError> {
    let text = field.text(16)?;
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(field.refuse("must be a scalability mode, for example L1T3"));
    }
    let mode = ScalabilityMode::parse(text);
    if mode.spatial_layers > MAX_LAYERS || mode.temporal_layers > MAX_LAYERS {
        return Err(field.refuse(format!("must have at most {MAX_LAYERS} layers of a kind")));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// Bits per second. Applications compute it, so a fraction is cut off.
fn read_bitrate(field: &Field<'_>) -> Result<u32, OrtcError> {
    field
        .value()
        .as_f64()
        .filter(|bitrate| (0.0..=f64::from(u32::MAX)).contains(bitrate))
        .map(|bitrate| bitrate as u32)
        .ok_or_else(|| field.refuse(format!("must be a number in 0..={}", u32::MAX)))
}
