//! Every recorded produce request, against the default router and the one that
//! it was recorded with.

use super::*;
use crate::ortc::types::{ParameterValue, RtpEncodingParameters};

const DEFAULT_AUDIO_EXTENSIONS: &[u8] = &[1, 4, 10, 14];
const DEFAULT_VIDEO_EXTENSIONS: &[u8] = &[1, 4, 5, 6, 7, 11, 12, 14];

/// What a recorded request must become.
struct Case {
    name: &'static str,
    /// `None`: refused by the default router, but not by the wide one.
    default: Option<Expected>,
    wide: Result<Expected, &'static str>,
}

#[derive(Clone, Copy)]
struct Expected {
    mapping: &'static [(u8, u8)],
    producer_type: ProducerType,
    /// Payload types of the consumable codecs.
    consumable: &'static [u8],
    streams: u32,
}

const fn expect(
    mapping: &'static [(u8, u8)],
    producer_type: ProducerType,
    consumable: &'static [u8],
    streams: u32,
) -> Expected {
    Expected {
        mapping,
        producer_type,
        consumable,
        streams,
    }
}

const fn both(name: &'static str, expected: Expected) -> Case {
    Case {
        name,
        default: Some(expected),
        wide: Ok(expected),
    }
}

const fn wide_only(name: &'static str, wide: Result<Expected, &'static str>) -> Case {
    Case {
        name,
        default: None,
        wide,
    }
}

fn cases() -> Vec<Case> {
    use ProducerType::{Simple, Simulcast, Svc};
    const CHROMIUM_OPUS: Expected = expect(&[(111, 100)], Simple, &[100], 1);
    const FIREFOX_OPUS: Expected = expect(&[(109, 100)], Simple, &[100], 1);
    const PYTHON_OPUS: Expected = expect(&[(96, 100)], Simple, &[100], 1);
    const PYTHON_VP8: Expected = expect(&[(97, 101), (98, 102)], Simple, &[101, 102], 1);
    const CHROMIUM_VP8: &[(u8, u8)] = &[(96, 101), (97, 102)];
    const FIREFOX_VP8: &[(u8, u8)] = &[(120, 101), (124, 102)];
    const CHROMIUM_H264: &[(u8, u8)] = &[(116, 105), (117, 106)];
    const NO_VP9_SIMULCAST: &str =
        "rtpParameters.encodings[0]: video/VP9 cannot be routed as simulcast";
    vec![
        both("aiortc-node-produce-audio", PYTHON_OPUS),
        both("aiortc-node-produce-video", PYTHON_VP8),
        both("pymediasoup-produce-audio", PYTHON_OPUS),
        both("pymediasoup-produce-video", PYTHON_VP8),
        both("chromium-produce-a-audio", CHROMIUM_OPUS),
        both("chromium-produce-a2-audio-plain", CHROMIUM_OPUS),
        both(
            "chromium-produce-b-video-single-vp8",
            expect(CHROMIUM_VP8, Simple, &[101, 102], 1),
        ),
        both(
            "chromium-produce-b2-video-single-vp8-encodings1",
            expect(CHROMIUM_VP8, Simulcast, &[101, 102], 1),
        ),
        both(
            "chromium-produce-c-simulcast-vp8",
            expect(CHROMIUM_VP8, Simulcast, &[101, 102], 3),
        ),
        wide_only(
            "chromium-produce-d-svc-vp9",
            Ok(expect(&[(98, 109), (99, 110)], Svc, &[109, 110], 1)),
        ),
        both(
            "chromium-produce-e-h264-single",
            expect(CHROMIUM_H264, Simple, &[105, 106], 1),
        ),
        both(
            "chromium-produce-f-h264-simulcast",
            expect(CHROMIUM_H264, Simulcast, &[105, 106], 3),
        ),
        wide_only(
            "chromium-produce-g-av1-svc",
            Ok(expect(&[(45, 111), (46, 112)], Svc, &[111, 112], 1)),
        ),
        both(
            "chromium-produce-h-simulcast-nomode-first-of-router",
            expect(CHROMIUM_VP8, Simulcast, &[101, 102], 3),
        ),
        wide_only("chromium-produce-i-vp9-simulcast", Err(NO_VP9_SIMULCAST)),
        both("firefox-produce-a-audio", FIREFOX_OPUS),
        both("firefox-produce-a2-audio-plain", FIREFOX_OPUS),
        both(
            "firefox-produce-b-video-single-vp8",
            expect(FIREFOX_VP8, Simple, &[101, 102], 1),
        ),
        both(
            "firefox-produce-b2-video-single-vp8-encodings1",
            expect(FIREFOX_VP8, Simulcast, &[101, 102], 1),
        ),
        both(
            "firefox-produce-c-simulcast-vp8",
            expect(FIREFOX_VP8, Simulcast, &[101, 102], 3),
        ),
        wide_only(
            "firefox-produce-d-svc-vp9",
            Ok(expect(&[(121, 109), (125, 110)], Svc, &[109, 110], 1)),
        ),
        wide_only(
            "firefox-produce-g-av1-svc",
            Ok(expect(&[(99, 111), (100, 112)], Svc, &[111, 112], 1)),
        ),
        both(
            "firefox-produce-h-simulcast-nomode-first-of-router",
            expect(FIREFOX_VP8, Simulcast, &[101, 102], 3),
        ),
        wide_only("firefox-produce-i-vp9-simulcast", Err(NO_VP9_SIMULCAST)),
    ]
}

#[test]
fn every_fixture_has_its_case() {
    let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
    let mut files: Vec<_> = produce_fixtures().collect();
    names.sort_unstable();
    files.sort_unstable();
    assert_eq!(names, files);
}

fn check(name: &str, producer: &NegotiatedProducer, expected: Expected) {
    let mapping: Vec<_> = producer
        .mapping
        .codecs
        .iter()
        .map(|codec| (codec.payload_type, codec.mapped_payload_type))
        .collect();
    assert_eq!(mapping, expected.mapping, "{name}");
    assert_eq!(producer.producer_type, expected.producer_type, "{name}");
    let consumable = &producer.consumable;
    let payload_types: Vec<_> = consumable.codecs.iter().map(|it| it.payload_type).collect();
    assert_eq!(payload_types, expected.consumable, "{name}");
    let ids: Vec<_> = consumable
        .header_extensions
        .iter()
        .map(|it| it.id)
        .collect();
    let expected_ids = match producer.kind {
        MediaKind::Audio => DEFAULT_AUDIO_EXTENSIONS,
        MediaKind::Video => DEFAULT_VIDEO_EXTENSIONS,
    };
    // Of AV1 the dependencies are described.
    let descriptor = name.ends_with("-av1-svc").then_some(8);
    let expected_ids: Vec<u8> = expected_ids.iter().copied().chain(descriptor).collect();
    assert_eq!(ids, expected_ids, "{name}");
    let last = FIRST_SSRC + expected.streams;
    let ssrcs: Vec<_> = (FIRST_SSRC..last).collect();
    let mapped = producer.mapping.encodings.iter().map(|it| it.mapped_ssrc);
    assert_eq!(mapped.collect::<Vec<_>>(), ssrcs, "{name}");
    for (encoding, ssrc) in consumable.encodings.iter().zip(FIRST_SSRC..) {
        assert_eq!(encoding.ssrc, Some(ssrc), "{name}");
        let hidden = (&encoding.rid, encoding.rtx, encoding.codec_payload_type);
        assert_eq!(hidden, (&None, None, None), "{name}");
    }
    assert_eq!(consumable.encodings.len(), ssrcs.len(), "{name}");
    assert_eq!(consumable.mid, None, "{name}");
}

#[test]
fn every_produce_fixture_is_mapped() {
    for case in cases() {
        let request = fixture(case.name);
        match (produce(&request, &default_router()), case.default) {
            (Ok(producer), Some(expected)) => check(case.name, &producer, expected),
            (Err(OrtcError::Unsupported(_)), None) => {}
            (outcome, _) => panic!("{}: {outcome:?}", case.name),
        }
        match (produce(&request, &wide_router()), case.wide) {
            (Ok(producer), Ok(expected)) => check(case.name, &producer, expected),
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (outcome, _) => panic!("{}: {outcome:?}", case.name),
        }
    }
}

#[test]
fn consumable_parameters_are_complete() {
    let producer = produce(
        &fixture("firefox-produce-b2-video-single-vp8-encodings1"),
        &default_router(),
    )
    .unwrap();
    let feedback = serde_json::json!([
        {"type": "nack", "parameter": ""},
        {"type": "nack", "parameter": "pli"},
        {"type": "ccm", "parameter": "fir"},
        {"type": "goog-remb", "parameter": ""},
        {"type": "transport-cc", "parameter": ""}
    ]);
    let extension = |uri: &str, id: u8| serde_json::json!({"uri": uri, "id": id, "encrypt": false, "parameters": {}});
    let expected = serde_json::json!({
        "codecs": [
            {
                "mimeType": "video/VP8",
                "payloadType": 101,
                "clockRate": 90000,
                "parameters": {"max-fs": 12288, "max-fr": 60},
                "rtcpFeedback": feedback
            },
            {
                "mimeType": "video/rtx",
                "payloadType": 102,
                "clockRate": 90000,
                "parameters": {"apt": 101},
                "rtcpFeedback": []
            }
        ],
        "headerExtensions": [
            extension("urn:ietf:params:rtp-hdrext:sdes:mid", 1),
            extension("http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", 4),
            extension(
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
                5
            ),
            extension("http://tools.ietf.org/html/draft-ietf-avtext-framemarking-07", 6),
            extension("urn:ietf:params:rtp-hdrext:framemarking", 7),
            extension("urn:3gpp:video-orientation", 11),
            extension("urn:ietf:params:rtp-hdrext:toffset", 12),
            extension("http://www.webrtc.org/experiments/rtp-hdrext/playout-delay", 14)
        ],
        "encodings": [{
            "ssrc": 500000000,
            "dtx": false,
            "scalabilityMode": "L1T3",
            "maxBitrate": 900000
        }],
        "rtcp": {
            "cname": "{a02e4f66-3897-47ed-a673-2971a9455cda}",
            "reducedSize": true,
            "mux": true
        }
    });
    assert_eq!(to_json(&producer.consumable), expected);
}

#[test]
fn capture_time_is_consumable_where_the_producer_sends_it() {
    let mut request = fixture("chromium-produce-a-audio");
    let extensions = request["rtpParameters"]["headerExtensions"].as_array_mut();
    extensions.unwrap().push(serde_json::json!({
        "uri": "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        "id": 9
    }));
    let producer = produce(&request, &default_router()).unwrap();
    let extensions = producer.consumable.header_extensions.iter();
    assert_eq!(
        extensions.map(|it| it.id).collect::<Vec<_>>(),
        [1, 4, 10, 13, 14]
    );
}

/// A produce request with one H264 codec and this profile and asymmetry.
fn h264_request(profile_level_id: Value, packetization: u8, asymmetry: Option<u8>) -> Value {
    serde_json::json!({"kind": "video", "rtpParameters": {"codecs": [{
        "mimeType": "video/h264",
        "payloadType": 102,
        "clockRate": 90000,
        "parameters": {
            "packetization-mode": packetization,
            "profile-level-id": profile_level_id,
            "level-asymmetry-allowed": asymmetry
        }
    }]}})
}

#[test]
fn h264_maps_by_profile_and_carries_the_answer_level() {
    for (profile_level_id, packetization, asymmetry, expected) in [
        ("42e01f", 1, Some(1), Some((107, "42e01f"))),
        ("42e034", 1, Some(1), Some((107, "42e034"))),
        ("42e034", 1, None, Some((107, "42e01f"))),
        ("42c00d", 1, None, Some((107, "42c00d"))),
        ("4d001f", 1, None, Some((105, "4d001f"))),
        ("4d0034", 1, Some(0), Some((105, "4d0032"))),
        ("42e01f", 0, Some(1), None),
        ("42001f", 1, Some(1), None),
        ("640c1f", 1, Some(1), None),
        ("nonsense", 1, Some(1), None),
    ] {
        let request = h264_request(profile_level_id.into(), packetization, asymmetry);
        let producer = produce(&request, &default_router());
        let found = producer.as_ref().ok().map(|producer| {
            let codec = &producer.consumable.codecs[0];
            // The producer's own copy and its consumers' agree.
            let own = &producer.rtp_parameters.codecs[0].parameters;
            let level = &codec.parameters["profile-level-id"];
            assert_eq!(own["profile-level-id"], *level);
            (codec.payload_type, level.clone())
        });
        let text = |it: &str| ParameterValue::Text(it.to_owned());
        let expected = expected.map(|(payload_type, level)| (payload_type, text(level)));
        assert_eq!(found, expected, "{profile_level_id}");
        if let Err(error) = producer {
            assert_eq!(
                error.to_string(),
                "rtpParameters.codecs[0]: video/h264 with payload type 102 is not supported by \
                 the router"
            );
        }
    }
}

#[test]
fn two_codecs_that_are_one_to_the_router_are_consumed_as_one() {
    let mut request = h264_request("42e01f".into(), 1, Some(1));
    let codecs = request["rtpParameters"]["codecs"].as_array_mut().unwrap();
    let mut second = codecs[0].clone();
    second["payloadType"] = 103.into();
    second["parameters"]["profile-level-id"] = "42e034".into();
    codecs.push(second);
    let producer = produce(&request, &default_router()).unwrap();
    let mapping: Vec<_> = producer
        .mapping
        .codecs
        .iter()
        .map(|it| it.mapped_payload_type)
        .collect();
    assert_eq!(mapping, [107, 107]);
    let consumable: Vec<_> = producer
        .consumable
        .codecs
        .iter()
        .map(|it| it.payload_type)
        .collect();
    assert_eq!(consumable, [107, 108]);
}

#[test]
fn rtx_needs_a_counterpart_and_may_come_first() {
    let rtx = serde_json::json!({
        "mimeType": "audio/rtx", "payloadType": 112, "clockRate": 48000, "channels": 2,
        "parameters": {"apt": 111}
    });
    let mut request = fixture("chromium-produce-a-audio");
    let codecs = request["rtpParameters"]["codecs"].as_array_mut().unwrap();
    codecs.push(rtx);
    assert_eq!(
        produce(&request, &default_router())
            .unwrap_err()
            .to_string(),
        "rtpParameters.codecs[1]: audio/rtx with payload type 112 is not supported by the router"
    );
    let mut request = fixture("chromium-produce-b-video-single-vp8");
    let codecs = request["rtpParameters"]["codecs"].as_array_mut().unwrap();
    codecs.reverse();
    let producer = produce(&request, &default_router()).unwrap();
    let mapping = producer.mapping.codecs.iter();
    let mapping: Vec<_> = mapping
        .map(|it| (it.payload_type, it.mapped_payload_type))
        .collect();
    assert_eq!(mapping, [(97, 102), (96, 101)]);
}

#[test]
fn multiopus_is_told_apart_by_its_streams() {
    let request = |streams: u8, coupled: u8| {
        serde_json::json!({"kind": "audio", "rtpParameters": {"codecs": [{
            "mimeType": "audio/multiopus", "payloadType": 100, "clockRate": 48000, "channels": 6,
            "parameters": {"num_streams": streams, "coupled_streams": coupled}
        }]}})
    };
    let router = router_rtp_capabilities(&[MediaCodec {
        mime_type: "audio/multiopus".into(),
        clock_rate: 48_000,
        channels: Some(6),
        preferred_payload_type: None,
        parameters: [("num_streams", 4), ("coupled_streams", 2)]
            .map(|(key, value)| (key.to_owned(), ParameterValue::Integer(value)))
            .into(),
    }])
    .unwrap();
    assert!(produce(&request(4, 2), &router).is_ok());
    assert!(produce(&request(4, 1), &router).is_err());
    assert!(produce(&request(3, 2), &router).is_err());
}

#[test]
fn producer_types_follow_layers_and_codec() {
    let request = |mime_type: &str, kind: &str, modes: &[&str]| {
        let encodings: Vec<_> = modes
            .iter()
            .zip(1_u32..)
            .map(|(mode, ssrc)| serde_json::json!({"ssrc": ssrc, "scalabilityMode": mode}))
            .collect();
        serde_json::json!({"kind": kind, "rtpParameters": {
            "codecs": [{"mimeType": mime_type, "payloadType": 100, "clockRate": 48000}],
            "encodings": encodings
        }})
    };
    for (mime_type, modes, expected) in [
        ("video/VP8", &[""][..], Ok("simple")),
        ("video/VP8", &["L1T1"], Ok("simple")),
        ("video/VP8", &["L1T3"], Ok("simulcast")),
        ("video/vp8", &["", ""], Ok("simulcast")),
        (
            "video/VP8",
            &["L3T3"],
            Err("video/VP8 cannot be routed as svc"),
        ),
        ("video/H264", &["L1T2"], Ok("simulcast")),
        (
            "video/H264",
            &["L2T2"],
            Err("video/H264 cannot be routed as svc"),
        ),
        ("video/VP9", &["L1T1"], Ok("simple")),
        ("video/VP9", &["L3T3_KEY"], Ok("svc")),
        ("video/VP9", &["S3T3"], Ok("svc")),
        ("video/VP9", &["L1T3"], Ok("svc")),
        (
            "video/VP9",
            &["L1T3", "L1T3"],
            Err("video/VP9 cannot be routed as simulcast"),
        ),
        ("video/AV1", &["L3T3"], Ok("svc")),
        ("video/AV1", &["L1T3"], Ok("simulcast")),
        ("video/AV1", &["L1T1", "L1T1"], Ok("simulcast")),
        ("audio/opus", &["L1T1"], Ok("simple")),
        (
            "audio/opus",
            &["L1T3"],
            Err("audio/opus cannot be routed as simulcast"),
        ),
        (
            "audio/opus",
            &["", ""],
            Err("audio/opus cannot be routed as simulcast"),
        ),
    ] {
        let kind = &mime_type[..5];
        let request = request(mime_type, kind, modes);
        let kind = parse_media_kind(&request["kind"]).unwrap();
        let parameters = parse_rtp_parameters(kind, &request["rtpParameters"]).unwrap();
        let found = producer_type(&parameters).map(ProducerType::as_str);
        let expected = expected.map_err(|it| format!("rtpParameters.encodings[0]: {it}"));
        assert_eq!(
            found.map_err(|it| it.to_string()),
            expected,
            "{mime_type} {modes:?}"
        );
    }
}

#[test]
fn one_cname_per_transport() {
    let parameters = |name: &str| {
        let request = fixture(name);
        let kind = parse_media_kind(&request["kind"]).unwrap();
        parse_rtp_parameters(kind, &request["rtpParameters"]).unwrap()
    };
    // The first producer's name wins.
    let mut transport = None;
    let mut audio = parameters("chromium-produce-a-audio");
    let mut video = parameters("firefox-produce-b-video-single-vp8");
    impose_cname(&mut transport, &mut audio, || panic!("not needed"));
    impose_cname(&mut transport, &mut video, || panic!("not needed"));
    assert_eq!(audio.rtcp.cname.as_deref(), Some("6+l8j5tkkipIgFwr"));
    assert_eq!(video.rtcp.cname.as_deref(), Some("6+l8j5tkkipIgFwr"));
    // Chromium's simulcast has an empty one.
    let mut transport = None;
    let mut simulcast = parameters("chromium-produce-c-simulcast-vp8");
    impose_cname(&mut transport, &mut simulcast, || "random12".into());
    impose_cname(&mut transport, &mut audio, || panic!("not needed"));
    assert_eq!(simulcast.rtcp.cname.as_deref(), Some("random12"));
    assert_eq!(audio.rtcp.cname.as_deref(), Some("random12"));
}

#[test]
fn ids_are_unique_on_a_transport() {
    let parameters = |mid: Option<&str>, encodings: &[(Option<u32>, Option<u32>, Option<&str>)]| {
        let mut parameters = {
            let request = fixture("chromium-produce-a-audio");
            parse_rtp_parameters(MediaKind::Audio, &request["rtpParameters"]).unwrap()
        };
        parameters.mid = mid.map(str::to_owned);
        parameters.encodings = encodings
            .iter()
            .map(|(ssrc, rtx, rid)| RtpEncodingParameters {
                ssrc: *ssrc,
                rtx: rtx.map(|ssrc| types::RtxParameters { ssrc }),
                rid: rid.map(str::to_owned),
                ..Default::default()
            })
            .collect();
        parameters
    };
    let mut ids = ReceiveIds::default();
    let mut add = |id: &str, mid, encodings: &[_]| {
        let outcome = ids.add(id, &parameters(mid, encodings));
        if id == "closed" {
            ids.remove(id);
        }
        outcome.map_err(|error| error.to_string())
    };
    let taken = |text: &str| Err(format!("{text} already exists on transport"));
    assert_eq!(add("a", Some("0"), &[(Some(11), Some(12), None)]), Ok(()));
    assert_eq!(
        add("b", Some("0"), &[(Some(13), None, None)]),
        taken("MID \"0\"")
    );
    assert_eq!(
        add("b", Some("1"), &[(Some(11), None, None)]),
        taken("SSRC 11")
    );
    assert_eq!(
        add("b", Some("1"), &[(Some(13), Some(12), None)]),
        taken("SSRC 12")
    );
    assert_eq!(
        add("b", Some("1"), &[(Some(12), None, None)]),
        taken("SSRC 12")
    );
    // Nothing was taken by the refused.
    assert_eq!(add("b", Some("1"), &[(Some(13), None, Some("r0"))]), Ok(()));
    // RIDs are shared where MIDs tell the producers apart.
    assert_eq!(add("c", Some("2"), &[(None, None, Some("r0"))]), Ok(()));
    assert_eq!(add("d", None, &[(None, None, Some("r0"))]), Ok(()));
    assert_eq!(
        add("e", None, &[(None, None, Some("r0"))]),
        taken("RID \"r0\"")
    );
    // A closed producer's ids are free again.
    assert_eq!(add("closed", Some("3"), &[(Some(14), None, None)]), Ok(()));
    assert_eq!(add("f", Some("3"), &[(Some(14), None, None)]), Ok(()));
    // The worker's library reads "-" as "_".
    assert_eq!(add("g", Some("a-b"), &[(None, None, None)]), Ok(()));
    assert_eq!(
        add("h", Some("a_b"), &[(None, None, None)]),
        taken("MID \"a_b\"")
    );
}
