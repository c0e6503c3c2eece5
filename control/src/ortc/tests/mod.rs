//! Table tests of the negotiation against what real clients send.

use serde_json::Value;

use super::*;

mod codecs;
mod consume;
mod fuzz;
mod produce;
mod router;
mod validation;
mod workers;

macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        /// Messages of real clients, by file name.
        const FIXTURES: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!("../fixtures/", $name, ".json")),
        )),*];
    };
}

fixtures![
    "aiortc-node-produce-audio",
    "aiortc-node-produce-video",
    "chromium-connect-recv",
    "chromium-consumer-audio-rtpParameters-input",
    "chromium-consumer-video-rtpParameters-input",
    "chromium-device-recvRtpCapabilities",
    "chromium-produce-a-audio",
    "chromium-produce-a2-audio-plain",
    "chromium-produce-b-video-single-vp8",
    "chromium-produce-b2-video-single-vp8-encodings1",
    "chromium-produce-c-simulcast-vp8",
    "chromium-produce-d-svc-vp9",
    "chromium-produce-e-h264-single",
    "chromium-produce-f-h264-simulcast",
    "chromium-produce-g-av1-svc",
    "chromium-produce-h-simulcast-nomode-first-of-router",
    "chromium-produce-i-vp9-simulcast",
    "chromium-router-rtp-capabilities",
    "firefox-connect-recv",
    "firefox-device-recvRtpCapabilities",
    "firefox-produce-a-audio",
    "firefox-produce-a2-audio-plain",
    "firefox-produce-b-video-single-vp8",
    "firefox-produce-b2-video-single-vp8-encodings1",
    "firefox-produce-c-simulcast-vp8",
    "firefox-produce-d-svc-vp9",
    "firefox-produce-g-av1-svc",
    "firefox-produce-h-simulcast-nomode-first-of-router",
    "firefox-produce-i-vp9-simulcast",
    "pymediasoup-connect",
    "pymediasoup-produce-audio",
    "pymediasoup-produce-video",
    "pymediasoup-rtpCapabilities",
    "router-rtp-capabilities.seed-era",
];

/// SSRC from which the tests number a producer's streams.
const FIRST_SSRC: u32 = 500_000_000;

fn fixture(name: &str) -> Value {
    let text = FIXTURES.iter().find(|(file, _)| *file == name);
    serde_json::from_str(text.unwrap_or_else(|| panic!("no fixture {name}")).1).unwrap()
}

/// Names of the fixtures that are produce requests.
fn produce_fixtures() -> impl Iterator<Item = &'static str> {
    let names = FIXTURES.iter().map(|(name, _)| *name);
    names.filter(|name| name.contains("-produce-"))
}

fn default_router() -> RtpCapabilities {
    router_with(&CodecName::DEFAULT)
}

/// The router that the fixtures were recorded with: the default one, and what
/// browsers would use of VP9 and AV1.
fn wide_router() -> RtpCapabilities {
    let more = [CodecName::Vp9, CodecName::Av1];
    let all: Vec<CodecName> = CodecName::DEFAULT.into_iter().chain(more).collect();
    router_with(&all)
}

fn router_with(codecs: &[CodecName]) -> RtpCapabilities {
    router_rtp_capabilities(&media_codecs(codecs)).unwrap()
}

/// Reads and negotiates a produce request.
fn produce(request: &Value, router: &RtpCapabilities) -> Result<NegotiatedProducer, OrtcError> {
    let kind = parse_media_kind(&request["kind"])?;
    let rtp_parameters = parse_rtp_parameters(kind, &request["rtpParameters"])?;
    negotiate_producer(kind, rtp_parameters, router, FIRST_SSRC)
}

fn capabilities(name: &str) -> RtpCapabilities {
    parse_rtp_capabilities(&fixture(name)).unwrap()
}

fn options(ssrc: u32) -> ConsumerOptions {
    ConsumerOptions {
        mid: "0".into(),
        ssrc,
        enable_rtx: true,
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap()
}
