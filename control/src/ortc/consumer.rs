//! Negotiation of a consumer: whether a client can receive a producer, and
//! with which parameters.

use super::capabilities::apt;
use super::codec_match::{Strictness, codecs_match};
use super::error::OrtcError;
use super::scalability_mode::ScalabilityMode;
use super::supported::{ABS_SEND_TIME_URI, MID_URI, TRANSPORT_CC_URI};
use super::types::{
    RtcpFeedback, RtpCapabilities, RtpCodecCapability, RtpCodecParameters, RtpEncodingParameters,
    RtpHeaderExtensionParameters, RtpParameters, RtxParameters, is_rtx,
};

/// Choices of the caller about a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// MID of its packets, unique on its transport: a counter, see [`MidCounter`].
    pub mid: String,
    /// SSRC of its packets, drawn from
    /// [`MIN_SSRC`](super::producer::MIN_SSRC)`..=`[`MAX_SSRC`](super::producer::MAX_SSRC);
    /// the next one carries its retransmissions.
    pub ssrc: u32,
    /// Whether lost packets are sent again. The seed sets it for audio too,
    /// which gives Opus its NACK.
    pub enable_rtx: bool,
}

/// The MIDs that a transport gives to its consumers: "0", "1", … up to eight
/// digits, then again from "0".
#[derive(Debug, Default)]
pub struct MidCounter {
    next: u32,
}

impl MidCounter {
    /// The next MID.
    pub fn next_mid(&mut self) -> String {
        let mid = self.next.to_string();
        self.next = (self.next + 1) % 100_000_000;
        mid
    }
}

/// Whether a client with these capabilities can receive a producer.
pub fn can_consume(consumable: &RtpParameters, remote: &RtpCapabilities) -> bool {
    consumable
        .codecs
        .iter()
        .find(|codec| find_capability(codec, remote).is_some())
        .is_some_and(|codec| !is_rtx(&codec.mime_type))
}

/// Parameters of a consumer: what a client with these capabilities receives of
/// a producer. One stream, whatever the producer sends.
///
/// # Errors
/// [`OrtcError::Unsupported`] when the client has none of the codecs.
pub fn consumer_rtp_parameters(
    consumable: &RtpParameters,
    remote: &RtpCapabilities,
    options: &ConsumerOptions,
) -> Result<RtpParameters, OrtcError> {
    let mut codecs = consumer_codecs(consumable, remote, options.enable_rtx);
    if codecs.first().is_none_or(|codec| is_rtx(&codec.mime_type)) {
        return Err(OrtcError::Unsupported(
            "no compatible media codecs".to_owned(),
        ));
    }
    let header_extensions: Vec<_> = consumable
        .header_extensions
        .iter()
        .filter(|extension| has_extension(extension, remote))
        .cloned()
        .collect();
    choose_bandwidth_feedback(&mut codecs, &header_extensions);
    let has_rtx = codecs.iter().any(|codec| is_rtx(&codec.mime_type));
    let encoding = RtpEncodingParameters {
        ssrc: Some(options.ssrc),
        rtx: has_rtx.then(|| RtxParameters {
            ssrc: options.ssrc.wrapping_add(1),
        }),
        scalability_mode: consumer_scalability_mode(consumable),
        max_bitrate: consumable
            .encodings
            .iter()
            .filter_map(|encoding| encoding.max_bitrate)
            .max()
            .filter(|bitrate| *bitrate > 0),
        ..RtpEncodingParameters::default()
    };
    Ok(RtpParameters {
        mid: Some(options.mid.clone()),
        codecs,
        header_extensions,
        encodings: vec![encoding],
        rtcp: consumable.rtcp.clone(),
        msid: None,
    })
}

/// Parameters of a consumer that carries a producer to another router: every
/// stream of it, as it is. Streams are numbered from `ssrc`, which the caller
/// draws as for [`ConsumerOptions::ssrc`], then their retransmissions.
pub fn pipe_consumer_rtp_parameters(
    consumable: &RtpParameters,
    ssrc: u32,
    enable_rtx: bool,
) -> RtpParameters {
    let is_kept = |feedback: &RtcpFeedback| {
        feedback.is("nack", "pli")
            || feedback.is("ccm", "fir")
            || (enable_rtx && feedback.is("nack", ""))
    };
    let mut codecs = consumable.codecs.clone();
    codecs.retain(|codec| enable_rtx || !is_rtx(&codec.mime_type));
    for codec in &mut codecs {
        codec.rtcp_feedback.retain(is_kept);
    }
    let has_rtx = codecs.iter().any(|codec| is_rtx(&codec.mime_type));
    // Between routers there is no MID and no bandwidth estimation.
    let mut header_extensions = consumable.header_extensions.clone();
    header_extensions
        .retain(|it| ![MID_URI, ABS_SEND_TIME_URI, TRANSPORT_CC_URI].contains(&it.uri.as_str()));
    let media_ssrcs = (0..).map(|index| ssrc.wrapping_add(index));
    let rtx_ssrcs = media_ssrcs.clone().skip(consumable.encodings.len());
    let encodings = consumable.encodings.iter().zip(media_ssrcs.zip(rtx_ssrcs));
    RtpParameters {
        mid: None,
        codecs,
        header_extensions,
        encodings: encodings
            .map(|(encoding, (ssrc, rtx_ssrc))| RtpEncodingParameters {
                ssrc: Some(ssrc),
                rtx: has_rtx.then_some(RtxParameters { ssrc: rtx_ssrc }),
                ..encoding.clone()
            })
            .collect(),
        rtcp: consumable.rtcp.clone(),
        msid: None,
    }
}

fn find_capability<'a>(
    codec: &RtpCodecParameters,
    remote: &'a RtpCapabilities,
) -> Option<&'a RtpCodecCapability> {
    remote
        .codecs
        .iter()
        .find(|capability| codecs_match(codec.into(), (*capability).into(), Strictness::Strict))
}

/// The codecs that the client has, with the client's feedback.
fn consumer_codecs(
    consumable: &RtpParameters,
    remote: &RtpCapabilities,
    enable_rtx: bool,
) -> Vec<RtpCodecParameters> {
    let mut codecs: Vec<RtpCodecParameters> = Vec::new();
    for codec in &consumable.codecs {
        let Some(capability) = find_capability(codec, remote) else {
            continue;
        };
        let mut rtcp_feedback = capability.rtcp_feedback.clone();
        rtcp_feedback.retain(|feedback| enable_rtx || !feedback.is("nack", ""));
        codecs.push(RtpCodecParameters {
            rtcp_feedback,
            ..codec.clone()
        });
    }
    let media: Vec<u8> = codecs
        .iter()
        .filter(|codec| !is_rtx(&codec.mime_type))
        .map(|codec| codec.payload_type)
        .collect();
    codecs.retain(|codec| {
        !is_rtx(&codec.mime_type)
            || (enable_rtx && apt(&codec.parameters).is_some_and(|apt| media.contains(&apt)))
    });
    codecs
}

/// Whether the client has the extension under the same id. Its kind does not
/// count: clients list an extension once, mostly as video.
fn has_extension(extension: &RtpHeaderExtensionParameters, remote: &RtpCapabilities) -> bool {
    remote
        .header_extensions
        .iter()
        .any(|it| it.uri == extension.uri && it.preferred_id == extension.id)
}

/// Leaves one way to report bandwidth: transport-cc, else REMB by the time of
/// sending, else none.
fn choose_bandwidth_feedback(
    codecs: &mut [RtpCodecParameters],
    header_extensions: &[RtpHeaderExtensionParameters],
) {
    let has = |uri: &str| header_extensions.iter().any(|it| it.uri == uri);
    let removed: &[&str] = if has(TRANSPORT_CC_URI) {
        &["goog-remb"]
    } else if has(ABS_SEND_TIME_URI) {
        &["transport-cc"]
    } else {
        &["goog-remb", "transport-cc"]
    };
    for codec in codecs {
        codec
            .rtcp_feedback
            .retain(|feedback| !removed.contains(&feedback.kind.as_str()));
    }
}

/// The layers that a consumer can choose from: the producer's own, or its
/// streams as spatial layers where there are several.
fn consumer_scalability_mode(consumable: &RtpParameters) -> Option<String> {
    let mut modes = consumable
        .encodings
        .iter()
        .filter_map(|encoding| encoding.scalability_mode.as_deref());
    let mode = modes.next();
    if consumable.encodings.len() <= 1 {
        return mode.map(str::to_owned);
    }
    let layers = ScalabilityMode::parse(mode.unwrap_or_default());
    Some(format!(
        "L{}T{}",
        consumable.encodings.len(),
        layers.temporal_layers
    ))
}
