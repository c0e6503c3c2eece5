//! What recorded clients receive of what recorded clients send.

use serde_json::json;

use super::*;

const CHROMIUM: &str = "chromium-device-recvRtpCapabilities";
const FIREFOX: &str = "firefox-device-recvRtpCapabilities";
const PYMEDIASOUP: &str = "pymediasoup-rtpCapabilities";

const ALL_VIDEO_FEEDBACK: &[&str] = &["transport-cc", "ccm fir", "nack", "nack pli"];
const FIREFOX_FEEDBACK: &[&str] = &["nack", "nack pli", "ccm fir", "transport-cc"];
const REMB_FEEDBACK: &[&str] = &["nack", "nack pli", "goog-remb"];

/// One consumer: codecs and first codec's feedback, extension ids, encoding.
struct Case {
    producer: &'static str,
    client: &'static str,
    expected: Option<Expected>,
}

struct Expected {
    codecs: &'static [u8],
    feedback: &'static [&'static str],
    extensions: &'static [u8],
    encoding: Value,
}

fn case(
    producer: &'static str,
    client: &'static str,
    codecs: &'static [u8],
    feedback: &'static [&'static str],
    extensions: &'static [u8],
    encoding: Value,
) -> Case {
    Case {
        producer,
        client,
        expected: Some(Expected {
            codecs,
            feedback,
            extensions,
            encoding,
        }),
    }
}

fn cannot(producer: &'static str, client: &'static str) -> Case {
    Case {
        producer,
        client,
        expected: None,
    }
}

fn cases() -> Vec<Case> {
    let plain = json!({"ssrc": 700_000_000});
    let rtx = json!({"ssrc": 700_000_000, "rtx": {"ssrc": 700_000_001}});
    let layers = |mode: &str, max_bitrate: u32| {
        json!({
            "ssrc": 700_000_000,
            "rtx": {"ssrc": 700_000_001},
            "scalabilityMode": mode,
            "maxBitrate": max_bitrate
        })
    };
    let opus = "chromium-produce-a-audio";
    let vp8 = "firefox-produce-b-video-single-vp8";
    let vp8_layers = "chromium-produce-b2-video-single-vp8-encodings1";
    let simulcast = "chromium-produce-c-simulcast-vp8";
    let h264 = "chromium-produce-e-h264-single";
    let h264_simulcast = "chromium-produce-f-h264-simulcast";
    let vp9 = "firefox-produce-d-svc-vp9";
    let av1 = "chromium-produce-g-av1-svc";
    let chromium_video: &[u8] = &[1, 4, 5, 11, 12, 14];
    let firefox_video: &[u8] = &[1, 4, 5, 12, 14];
    let h264_modes = json!({
        "ssrc": 700_000_000, "rtx": {"ssrc": 700_000_001}, "scalabilityMode": "L3T3"
    });
    vec![
        case(
            opus,
            CHROMIUM,
            &[100],
            &["nack"],
            &[1, 4, 10, 14],
            plain.clone(),
        ),
        case(opus, FIREFOX, &[100], &[], &[1, 4, 10, 14], plain.clone()),
        case(opus, PYMEDIASOUP, &[100], &[], &[1, 4, 10], plain),
        case(
            vp8,
            CHROMIUM,
            &[101, 102],
            ALL_VIDEO_FEEDBACK,
            chromium_video,
            rtx.clone(),
        ),
        case(
            vp8,
            FIREFOX,
            &[101, 102],
            FIREFOX_FEEDBACK,
            firefox_video,
            rtx.clone(),
        ),
        case(
            vp8,
            PYMEDIASOUP,
            &[101, 102],
            REMB_FEEDBACK,
            &[1, 4],
            rtx.clone(),
        ),
        case(
            vp8_layers,
            CHROMIUM,
            &[101, 102],
            ALL_VIDEO_FEEDBACK,
            chromium_video,
            layers("L1T3", 900_000),
        ),
        case(
            simulcast,
            FIREFOX,
            &[101, 102],
            FIREFOX_FEEDBACK,
            firefox_video,
            layers("L3T3", 5_000_000),
        ),
        case(
            h264,
            CHROMIUM,
            &[105, 106],
            ALL_VIDEO_FEEDBACK,
            chromium_video,
            rtx,
        ),
        case(
            h264_simulcast,
            CHROMIUM,
            &[105, 106],
            ALL_VIDEO_FEEDBACK,
            chromium_video,
            h264_modes,
        ),
        cannot(h264, FIREFOX),
        // It has another H264 profile; its RTX alone does not help.
        cannot(h264, PYMEDIASOUP),
        case(
            vp9,
            CHROMIUM,
            &[109, 110],
            ALL_VIDEO_FEEDBACK,
            chromium_video,
            layers("L3T3_KEY", 5_000_000),
        ),
        cannot(vp9, PYMEDIASOUP),
        case(
            av1,
            FIREFOX,
            &[111, 112],
            FIREFOX_FEEDBACK,
            firefox_video,
            layers("L3T3", 3_000_000),
        ),
    ]
}

#[test]
fn every_client_receives_what_it_can() {
    let router = wide_router();
    for case in cases() {
        let name = format!("{} to {}", case.producer, case.client);
        let producer = produce(&fixture(case.producer), &router).unwrap();
        let remote = capabilities(case.client);
        let consumer =
            consumer_rtp_parameters(&producer.consumable, &remote, &options(700_000_000));
        assert_eq!(
            can_consume(&producer.consumable, &remote),
            consumer.is_ok(),
            "{name}"
        );
        let Some(expected) = case.expected else {
            assert_eq!(
                consumer.unwrap_err().to_string(),
                "no compatible media codecs",
                "{name}"
            );
            continue;
        };
        let consumer = consumer.unwrap();
        let codecs: Vec<_> = consumer.codecs.iter().map(|it| it.payload_type).collect();
        assert_eq!(codecs, expected.codecs, "{name}");
        let feedback = consumer.codecs[0].rtcp_feedback.iter();
        let feedback: Vec<_> = feedback
            .map(|it| format!("{} {}", it.kind, it.parameter).trim().to_owned())
            .collect();
        assert_eq!(feedback, expected.feedback, "{name}");
        let extensions = consumer.header_extensions.iter();
        let extensions: Vec<_> = extensions.map(|it| it.id).collect();
        assert_eq!(extensions, expected.extensions, "{name}");
        assert_eq!(
            to_json(&consumer.encodings),
            json!([expected.encoding]),
            "{name}"
        );
        assert_eq!(consumer.mid.as_deref(), Some("0"), "{name}");
        assert_eq!(consumer.rtcp, producer.consumable.rtcp, "{name}");
    }
}

/// Chromium's capabilities and the consumer parameters that were proven to
/// work with it.
#[test]
fn a_video_consumer_equals_the_one_that_chromium_took() {
    let recorded = fixture("chromium-consumer-video-rtpParameters-input");
    let mut request = fixture("chromium-produce-c-simulcast-vp8");
    request["rtpParameters"]["rtcp"]["cname"] = "cn1".into();
    let producer = produce(&request, &default_router()).unwrap();
    let options = ConsumerOptions {
        mid: "1".into(),
        ..options(222_222_222)
    };
    let consumer =
        consumer_rtp_parameters(&producer.consumable, &capabilities(CHROMIUM), &options).unwrap();
    let mut ours = to_json(&consumer);
    assert_eq!(ours["encodings"][0]["maxBitrate"], 5_000_000);
    ours["encodings"][0]
        .as_object_mut()
        .unwrap()
        .remove("maxBitrate");
    // The recorded one lists fewer extensions, in their short form.
    for extension in recorded["headerExtensions"].as_array().unwrap() {
        let full = json!({
            "uri": extension["uri"], "id": extension["id"], "encrypt": false, "parameters": {}
        });
        assert!(ours["headerExtensions"].as_array().unwrap().contains(&full));
    }
    ours["headerExtensions"] = recorded["headerExtensions"].clone();
    assert_eq!(ours, recorded);
}

#[test]
fn an_audio_consumer_equals_the_one_that_chromium_took() {
    let mut recorded = fixture("chromium-consumer-audio-rtpParameters-input");
    let mut request = fixture("chromium-produce-a2-audio-plain");
    request["rtpParameters"]["rtcp"]["cname"] = "cn1".into();
    let producer = produce(&request, &default_router()).unwrap();
    let consumer = consumer_rtp_parameters(
        &producer.consumable,
        &capabilities(CHROMIUM),
        &options(111_111_111),
    )
    .unwrap();
    // The recorded one kept transport-cc without its extension and left out
    // the playout delay.
    recorded["codecs"][0]["rtcpFeedback"] = json!([{"type": "nack", "parameter": ""}]);
    recorded["headerExtensions"]
        .as_array_mut()
        .unwrap()
        .push(json!({
            "uri": "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            "id": 14,
            "encrypt": false,
            "parameters": {}
        }));
    assert_eq!(to_json(&consumer), recorded);
}

#[test]
fn without_rtx_there_is_no_nack_and_no_rtx() {
    let producer = produce(
        &fixture("chromium-produce-c-simulcast-vp8"),
        &default_router(),
    )
    .unwrap();
    let options = ConsumerOptions {
        enable_rtx: false,
        ..options(700_000_000)
    };
    let consumer =
        consumer_rtp_parameters(&producer.consumable, &capabilities(CHROMIUM), &options).unwrap();
    assert_eq!(consumer.codecs.len(), 1);
    let feedback = consumer.codecs[0].rtcp_feedback.iter();
    let feedback: Vec<_> = feedback
        .map(|it| (it.kind.as_str(), it.parameter.as_str()))
        .collect();
    assert_eq!(
        feedback,
        [("transport-cc", ""), ("ccm", "fir"), ("nack", "pli")]
    );
    assert_eq!(consumer.encodings[0].rtx, None);
}

#[test]
fn extensions_need_the_same_uri_and_id() {
    let producer = produce(&fixture("chromium-produce-a-audio"), &default_router()).unwrap();
    let mut remote = capabilities(PYMEDIASOUP);
    remote.header_extensions[0].preferred_id = 2; // MID for audio
    remote.header_extensions[1].preferred_id = 3; // MID for video
    remote.header_extensions[2].preferred_id = 9; // abs-send-time
    let consumer =
        consumer_rtp_parameters(&producer.consumable, &remote, &options(700_000_000)).unwrap();
    let ids: Vec<_> = consumer.header_extensions.iter().map(|it| it.id).collect();
    assert_eq!(ids, [10]);
}

#[test]
fn without_bandwidth_extensions_there_is_no_bandwidth_feedback() {
    let producer = produce(
        &fixture("chromium-produce-b-video-single-vp8"),
        &default_router(),
    );
    let consumable = producer.unwrap().consumable;
    for (removed, expected) in [
        (&[][..], &["transport-cc", "ccm", "nack", "nack"][..]),
        (&[5], &["goog-remb", "ccm", "nack", "nack"]),
        (&[4], &["transport-cc", "ccm", "nack", "nack"]),
        (&[4, 5], &["ccm", "nack", "nack"]),
    ] {
        let mut remote = capabilities(CHROMIUM);
        let extensions = &mut remote.header_extensions;
        extensions.retain(|it| !removed.contains(&it.preferred_id));
        let consumer =
            consumer_rtp_parameters(&consumable, &remote, &options(700_000_000)).unwrap();
        let feedback = consumer.codecs[0].rtcp_feedback.iter();
        let feedback: Vec<_> = feedback.map(|it| it.kind.as_str()).collect();
        assert_eq!(feedback, expected, "without {removed:?}");
    }
}

#[test]
fn a_client_without_anything_receives_nothing() {
    let producer = produce(&fixture("chromium-produce-a-audio"), &default_router()).unwrap();
    let nothing = parse_rtp_capabilities(&json!({})).unwrap();
    assert!(!can_consume(&producer.consumable, &nothing));
    assert!(consumer_rtp_parameters(&producer.consumable, &nothing, &options(1)).is_err());
}

#[test]
fn a_pipe_carries_every_stream_as_it_is() {
    let producer = produce(
        &fixture("chromium-produce-c-simulcast-vp8"),
        &default_router(),
    )
    .unwrap();
    let pipe = pipe_consumer_rtp_parameters(&producer.consumable, 700_000_000, true);
    assert_eq!(pipe.mid, None);
    let ids: Vec<_> = pipe.header_extensions.iter().map(|it| it.id).collect();
    assert_eq!(ids, [6, 7, 11, 12, 14]);
    assert_eq!(
        to_json(&pipe.codecs[0].rtcp_feedback),
        json!([
            {"type": "nack", "parameter": ""},
            {"type": "nack", "parameter": "pli"},
            {"type": "ccm", "parameter": "fir"}
        ])
    );
    let encoding = |ssrc: u32, rtx: u32, max_bitrate: u32| {
        json!({
            "ssrc": ssrc, "rtx": {"ssrc": rtx}, "dtx": false,
            "scalabilityMode": "L1T3", "maxBitrate": max_bitrate
        })
    };
    assert_eq!(
        to_json(&pipe.encodings),
        json!([
            encoding(700_000_000, 700_000_003, 500_000),
            encoding(700_000_001, 700_000_004, 1_000_000),
            encoding(700_000_002, 700_000_005, 5_000_000)
        ])
    );
    let plain = pipe_consumer_rtp_parameters(&producer.consumable, 700_000_000, false);
    assert_eq!(plain.codecs.len(), 1);
    assert_eq!(plain.encodings[0].rtx, None);
    assert!(
        plain.codecs[0]
            .rtcp_feedback
            .iter()
            .all(|it| !it.is("nack", ""))
    );
}

#[test]
fn mids_count_up() {
    let mut mids = MidCounter::default();
    assert_eq!(
        [mids.next_mid(), mids.next_mid(), mids.next_mid()],
        ["0", "1", "2"]
    );
}
