//! What clients must not send, and the words that they get for it.

use serde_json::json;

use super::*;
use crate::ortc::types::{Direction, DtlsRole, ParameterValue};

/// `base` with the value at a JSON pointer replaced; members are added.
fn with(base: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = base.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match changed.pointer_mut(parent).unwrap() {
        Value::Object(object) => {
            object.insert(key.to_owned(), value);
        }
        Value::Array(array) => {
            let index: usize = key.parse().unwrap();
            if index < array.len() {
                array[index] = value;
            } else {
                array.push(value);
            }
        }
        other => panic!("{pointer}: {other}"),
    }
    changed
}

fn video() -> Value {
    fixture("chromium-produce-b-video-single-vp8")["rtpParameters"].clone()
}

fn refusal(parameters: &Value) -> String {
    match parse_rtp_parameters(MediaKind::Video, parameters) {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn bad_rtp_parameters_are_refused_by_field() {
    let many = |count: usize, value: Value| Value::Array(vec![value; count]);
    let long = |count: usize| Value::String("x".repeat(count));
    let codec = |payload_type: u8| json!({"mimeType": "video/VP8", "payloadType": payload_type, "clockRate": 90000});
    let rtx = |apt: Value| {
        json!({
            "mimeType": "video/rtx", "payloadType": 99, "clockRate": 90000,
            "parameters": {"apt": apt}
        })
    };
    let nested = (0..50).fold(json!(1), |inner, _| json!({ "a": inner }));
    let keys: serde_json::Map<_, _> = (0..33).map(|i| (format!("k{i}"), json!(1))).collect();
    for (pointer, value, expected) in [
        // mid and msid
        ("/mid", json!(0), ".mid: must be a string"),
        (
            "/mid",
            json!("12345678901234567"),
            ".mid: must be at most 16 of A–Z a–z 0–9 - _",
        ),
        (
            "/mid",
            json!("a b"),
            ".mid: must be at most 16 of A–Z a–z 0–9 - _",
        ),
        (
            "/mid",
            json!("ü"),
            ".mid: must be at most 16 of A–Z a–z 0–9 - _",
        ),
        (
            "/mid",
            json!("a\r\nb"),
            ".mid: must not contain control characters",
        ),
        ("/msid", json!(1), ".msid: must be a string"),
        (
            "/msid",
            json!("a\nb"),
            ".msid: must not contain control characters",
        ),
        ("/msid", long(257), ".msid: must have at most 256 octets"),
        // codecs
        ("/codecs", json!(null), ".codecs: is missing"),
        ("/codecs", json!({}), ".codecs: must be an array"),
        ("/codecs", json!([]), ".codecs: must contain a media codec"),
        (
            "/codecs",
            many(33, codec(96)),
            ".codecs: must have at most 32 entries, has 33",
        ),
        (
            "/codecs",
            many(2, codec(96)),
            ".codecs[1].payloadType: 96 is used twice",
        ),
        ("/codecs/0", json!("VP8"), ".codecs[0]: must be an object"),
        (
            "/codecs/0/mimeType",
            json!(null),
            ".codecs[0].mimeType: is missing",
        ),
        (
            "/codecs/0/mimeType",
            json!(8),
            ".codecs[0].mimeType: must be a string",
        ),
        (
            "/codecs/0/mimeType",
            json!("VP8"),
            ".codecs[0].mimeType: must be audio/… or video/…",
        ),
        (
            "/codecs/0/mimeType",
            json!("video/"),
            ".codecs[0].mimeType: must be audio/… or video/…",
        ),
        (
            "/codecs/0/mimeType",
            json!("text/VP8"),
            ".codecs[0].mimeType: must be audio/… or video/…",
        ),
        (
            "/codecs/0/mimeType",
            json!("video/VP8/90000"),
            ".codecs[0].mimeType: must be audio/… or video/…",
        ),
        (
            "/codecs/0/mimeType",
            json!("video/VP8 90000"),
            ".codecs[0].mimeType: must be printable ASCII without spaces, and not empty",
        ),
        (
            "/codecs/0/mimeType",
            json!("video/VP8\r\na=b"),
            ".codecs[0].mimeType: must not contain control characters",
        ),
        (
            "/codecs/0/mimeType",
            json!("audio/opus"),
            ".codecs[0].mimeType: must be of kind video, as kind says",
        ),
        (
            "/codecs/0/payloadType",
            json!(null),
            ".codecs[0].payloadType: is missing",
        ),
        (
            "/codecs/0/payloadType",
            json!(128),
            ".codecs[0].payloadType: must be an integer in 0..=127",
        ),
        (
            "/codecs/0/payloadType",
            json!(-1),
            ".codecs[0].payloadType: must be an integer in 0..=127",
        ),
        (
            "/codecs/0/payloadType",
            json!(96.5),
            ".codecs[0].payloadType: must be an integer in 0..=127",
        ),
        (
            "/codecs/0/payloadType",
            json!("96"),
            ".codecs[0].payloadType: must be an integer in 0..=127",
        ),
        (
            "/codecs/0/payloadType",
            json!(72),
            ".codecs[0].payloadType: must not be in 64..=95",
        ),
        (
            "/codecs/0/payloadType",
            json!(64),
            ".codecs[0].payloadType: must not be in 64..=95",
        ),
        (
            "/codecs/0/payloadType",
            json!(95),
            ".codecs[0].payloadType: must not be in 64..=95",
        ),
        (
            "/codecs/1/clockRate",
            json!(0),
            ".codecs[1].clockRate: must be an integer in 1..=1000000",
        ),
        (
            "/codecs/1/clockRate",
            json!(1e6 + 1.0),
            ".codecs[1].clockRate: must be an integer in 1..=1000000",
        ),
        (
            "/codecs/1/clockRate",
            json!(u64::MAX),
            ".codecs[1].clockRate: must be an integer in 1..=1000000",
        ),
        (
            "/codecs/1/clockRate",
            json!(null),
            ".codecs[1].clockRate: is missing",
        ),
        (
            "/codecs/0/parameters",
            json!([]),
            ".codecs[0].parameters: must be an object",
        ),
        (
            "/codecs/0/parameters",
            Value::Object(keys),
            ".codecs[0].parameters: must have at most 32 entries",
        ),
        (
            "/codecs/0/parameters/x",
            nested,
            ".codecs[0].parameters.x: must be a string, a number, true or false",
        ),
        (
            "/codecs/0/parameters/x",
            json!("a\rb"),
            ".codecs[0].parameters.x: must not contain control characters",
        ),
        (
            "/codecs/0/parameters/x",
            long(513),
            ".codecs[0].parameters.x: must have at most 512 octets",
        ),
        (
            "/codecs/0/parameters/a\r\nb",
            json!(1),
            ".codecs[0].parameters: names must be 1 to 64 printable ASCII characters without ; or =",
        ),
        (
            "/codecs/0/parameters/a;b",
            json!(1),
            ".codecs[0].parameters: names must be 1 to 64 printable ASCII characters without ; or =",
        ),
        (
            "/codecs/0/rtcpFeedback",
            json!("nack"),
            ".codecs[0].rtcpFeedback: must be an array",
        ),
        (
            "/codecs/0/rtcpFeedback",
            many(17, json!({"type": "nack"})),
            ".codecs[0].rtcpFeedback: must have at most 16 entries, has 17",
        ),
        (
            "/codecs/0/rtcpFeedback/1",
            json!({}),
            ".codecs[0].rtcpFeedback[1].type: is missing",
        ),
        (
            "/codecs/0/rtcpFeedback/1",
            json!("nack"),
            ".codecs[0].rtcpFeedback[1]: must be an object",
        ),
        (
            "/codecs/0/rtcpFeedback/1/type",
            json!("na ck"),
            ".codecs[0].rtcpFeedback[1].type: must be printable ASCII without spaces, and not empty",
        ),
        (
            "/codecs/0/rtcpFeedback/1/parameter",
            json!("pli\r\n"),
            ".codecs[0].rtcpFeedback[1].parameter: must not contain control characters",
        ),
        // RTX
        (
            "/codecs/2",
            rtx(json!(null)),
            ".codecs[2].parameters.apt: must be the payload type of a media codec",
        ),
        (
            "/codecs/2",
            rtx(json!("x")),
            ".codecs[2].parameters.apt: must be the payload type of a media codec",
        ),
        (
            "/codecs/2",
            rtx(json!(-1)),
            ".codecs[2].parameters.apt: must be the payload type of a media codec",
        ),
        (
            "/codecs/2",
            rtx(json!(98)),
            ".codecs[2].parameters.apt: no media codec has payload type 98",
        ),
        (
            "/codecs/2",
            rtx(json!(97)),
            ".codecs[2].parameters.apt: no media codec has payload type 97",
        ),
        (
            "/codecs/2",
            rtx(json!(99)),
            ".codecs[2].parameters.apt: no media codec has payload type 99",
        ),
        (
            "/codecs/2",
            rtx(json!(96)),
            ".codecs[2].parameters.apt: payload type 96 has two RTX codecs",
        ),
        // header extensions
        (
            "/headerExtensions",
            json!({}),
            ".headerExtensions: must be an array",
        ),
        (
            "/headerExtensions",
            many(33, json!({})),
            ".headerExtensions: must have at most 32 entries, has 33",
        ),
        (
            "/headerExtensions/0/id",
            json!(0),
            ".headerExtensions[0].id: must be an integer in 1..=255",
        ),
        (
            "/headerExtensions/0/id",
            json!(256),
            ".headerExtensions[0].id: must be an integer in 1..=255",
        ),
        (
            "/headerExtensions/0/id",
            json!(null),
            ".headerExtensions[0].id: is missing",
        ),
        (
            "/headerExtensions/1/id",
            json!(4),
            ".headerExtensions[1].id: 4 is used twice",
        ),
        (
            "/headerExtensions/1/uri",
            json!("urn:ietf:params:rtp-hdrext:sdes:mid"),
            ".headerExtensions[1].uri: has two ids",
        ),
        (
            "/headerExtensions/0/uri",
            json!(null),
            ".headerExtensions[0].uri: is missing",
        ),
        (
            "/headerExtensions/0/uri",
            json!(""),
            ".headerExtensions[0].uri: must be printable ASCII without spaces, and not empty",
        ),
        (
            "/headerExtensions/0/uri",
            json!("urn:x\r\na=evil"),
            ".headerExtensions[0].uri: must not contain control characters",
        ),
        (
            "/headerExtensions/0/uri",
            json!("urn:x\u{85}y"),
            ".headerExtensions[0].uri: must not contain control characters",
        ),
        (
            "/headerExtensions/0/uri",
            long(257),
            ".headerExtensions[0].uri: must have at most 256 octets",
        ),
        (
            "/headerExtensions/0/encrypt",
            json!(0),
            ".headerExtensions[0].encrypt: must be true or false",
        ),
        (
            "/headerExtensions/0/parameters",
            json!({"a": []}),
            ".headerExtensions[0].parameters.a: must be a string, a number, true or false",
        ),
        // encodings
        ("/encodings", json!(1), ".encodings: must be an array"),
        (
            "/encodings",
            many(200, json!({})),
            ".encodings: must have at most 8 entries, has 200",
        ),
        (
            "/encodings",
            json!([{"ssrc": 1}, 5]),
            ".encodings[1]: must be an object",
        ),
        (
            "/encodings",
            json!([{"ssrc": 1}, {}]),
            ".encodings[1]: must have ssrc or rid, being one of several",
        ),
        (
            "/encodings",
            json!([{"ssrc": 7}, {"ssrc": 7}]),
            ".encodings[1].ssrc: 7 is used twice",
        ),
        (
            "/encodings",
            json!([{"ssrc": 7, "rtx": {"ssrc": 7}}]),
            ".encodings[0].rtx.ssrc: 7 is used twice",
        ),
        (
            "/encodings",
            json!([{"ssrc": 7, "rtx": {"ssrc": 8}}, {"ssrc": 8}]),
            ".encodings[1].ssrc: 8 is used twice",
        ),
        (
            "/encodings",
            json!([{"rid": "r0"}, {"rid": "r0"}]),
            ".encodings[1].rid: \"r0\" is used twice",
        ),
        (
            "/encodings",
            json!([{"rid": "a-b"}, {"rid": "a_b"}]),
            ".encodings[1].rid: \"a_b\" is used twice",
        ),
        (
            "/encodings/0/ssrc",
            json!(0),
            ".encodings[0].ssrc: must be an integer in 1..=4294967295",
        ),
        (
            "/encodings/0/ssrc",
            json!(4_294_967_296_u64),
            ".encodings[0].ssrc: must be an integer in 1..=4294967295",
        ),
        (
            "/encodings/0/ssrc",
            json!(-5),
            ".encodings[0].ssrc: must be an integer in 1..=4294967295",
        ),
        (
            "/encodings/0/ssrc",
            json!(1.5),
            ".encodings[0].ssrc: must be an integer in 1..=4294967295",
        ),
        (
            "/encodings/0/rtx",
            json!(5),
            ".encodings[0].rtx: must be an object",
        ),
        (
            "/encodings/0/rtx",
            json!({}),
            ".encodings[0].rtx.ssrc: is missing",
        ),
        (
            "/encodings/0/rtx/ssrc",
            json!(0),
            ".encodings[0].rtx.ssrc: must be an integer in 1..=4294967295",
        ),
        (
            "/encodings/0/rid",
            json!("123456789"),
            ".encodings[0].rid: must be at most 8 of A–Z a–z 0–9 - _",
        ),
        (
            "/encodings/0/rid",
            json!("r 0"),
            ".encodings[0].rid: must be at most 8 of A–Z a–z 0–9 - _",
        ),
        (
            "/encodings/0/rid",
            json!(1),
            ".encodings[0].rid: must be a string",
        ),
        (
            "/encodings/0/codecPayloadType",
            json!(97),
            ".encodings[0].codecPayloadType: no media codec has payload type 97",
        ),
        (
            "/encodings/0/codecPayloadType",
            json!(50),
            ".encodings[0].codecPayloadType: no media codec has payload type 50",
        ),
        (
            "/encodings/0/dtx",
            json!("no"),
            ".encodings[0].dtx: must be true or false",
        ),
        (
            "/encodings/0/scalabilityMode",
            json!(3),
            ".encodings[0].scalabilityMode: must be a string",
        ),
        (
            "/encodings/0/scalabilityMode",
            json!("L1 T3"),
            ".encodings[0].scalabilityMode: must be a scalability mode, for example L1T3",
        ),
        (
            "/encodings/0/scalabilityMode",
            json!("L99T3"),
            ".encodings[0].scalabilityMode: must have at most 8 layers of a kind",
        ),
        (
            "/encodings/0/scalabilityMode",
            json!("L1T9"),
            ".encodings[0].scalabilityMode: must have at most 8 layers of a kind",
        ),
        (
            "/encodings/0/scalabilityMode",
            long(17),
            ".encodings[0].scalabilityMode: must have at most 16 octets",
        ),
        (
            "/encodings/0/maxBitrate",
            json!(-1),
            ".encodings[0].maxBitrate: must be a number in 0..=4294967295",
        ),
        (
            "/encodings/0/maxBitrate",
            json!(1e12),
            ".encodings[0].maxBitrate: must be a number in 0..=4294967295",
        ),
        (
            "/encodings/0/maxBitrate",
            json!("1"),
            ".encodings[0].maxBitrate: must be a number in 0..=4294967295",
        ),
        // rtcp
        ("/rtcp", json!([]), ".rtcp: must be an object"),
        ("/rtcp/cname", json!(1), ".rtcp.cname: must be a string"),
        (
            "/rtcp/cname",
            json!("a\r\na=evil"),
            ".rtcp.cname: must not contain control characters",
        ),
        (
            "/rtcp/cname",
            long(256),
            ".rtcp.cname: must have at most 255 octets",
        ),
        (
            "/rtcp/reducedSize",
            json!(1),
            ".rtcp.reducedSize: must be true or false",
        ),
        ("/rtcp/mux", json!(1), ".rtcp.mux: must be true or false"),
    ] {
        let refused = refusal(&with(&video(), pointer, value.clone()));
        assert_eq!(
            refused,
            format!("rtpParameters{expected}"),
            "{pointer} = {value}"
        );
    }
    for value in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(refusal(&value), "rtpParameters: must be an object");
    }
    let only_rtx = json!({"codecs": [rtx(json!(96))]});
    assert_eq!(
        refusal(&only_rtx),
        "rtpParameters.codecs[0].parameters.apt: no media codec has payload type 96"
    );
}

#[test]
fn unusual_rtp_parameters_are_taken() {
    for (pointer, value) in [
        ("/mid", json!(null)),
        ("/mid", json!("")),
        ("/mid", json!("audio-0_Z1234567")),
        ("/msid", json!("{57f5b3d1} {8192f368}")),
        ("/codecs/0/mimeType", json!("VIDEO/vp8")),
        ("/codecs/0/channels", json!("ignored for video")),
        ("/codecs/0/payloadType", json!(96)),
        ("/codecs/0/parameters", json!(null)),
        ("/codecs/0/parameters/x", json!("a=b,c;d e/ü")),
        ("/codecs/0/parameters/x", json!(-1.5)),
        ("/codecs/0/parameters/x", json!(true)),
        ("/codecs/0/parameters/x", json!(null)),
        ("/codecs/0/parameters/x", json!(u64::MAX)),
        ("/codecs/0/rtcpFeedback", json!(null)),
        ("/codecs/0/rtcpFeedback/0", json!(null)),
        (
            "/codecs/0/rtcpFeedback/0",
            json!({"type": "nack", "parameter": null}),
        ),
        ("/codecs/0/unknown", json!({"deep": [1, 2, 3]})),
        ("/headerExtensions", json!(null)),
        (
            "/headerExtensions/8",
            json!({"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4}),
        ),
        (
            "/headerExtensions/8",
            json!({"uri": "urn:unheard-of", "id": 6}),
        ),
        ("/encodings", json!(null)),
        ("/encodings", json!([])),
        ("/encodings/0/ssrc", json!(u32::MAX)),
        ("/encodings/0/ssrc", json!(1234)),
        ("/encodings/0/ssrc", json!(null)),
        ("/encodings/0/rid", json!("hi")),
        ("/encodings/0/rid", json!("")),
        ("/encodings/0/codecPayloadType", json!(96)),
        ("/encodings/0/scalabilityMode", json!("")),
        ("/encodings/0/scalabilityMode", json!("S3T3")),
        ("/encodings/0/maxBitrate", json!(333_333.33)),
        ("/encodings/0/maxBitrate", json!(0)),
        ("/encodings/0/active", json!(false)),
        ("/rtcp", json!(null)),
        ("/rtcp/cname", json!(null)),
        ("/fecMechanisms", json!([])),
    ] {
        let parameters = with(&video(), pointer, value.clone());
        let outcome = parse_rtp_parameters(MediaKind::Video, &parameters);
        assert!(outcome.is_ok(), "{pointer} = {value}: {outcome:?}");
    }
}

#[test]
fn defaults_are_filled_in() {
    let bare = json!({"codecs": [{
        "mimeType": "audio/opus", "payloadType": 100, "clockRate": 48000,
        "rtcpFeedback": [{"type": "nack"}]
    }], "headerExtensions": [{"uri": "urn:x", "id": 1}], "rtcp": {}});
    let parameters = parse_rtp_parameters(MediaKind::Audio, &bare).unwrap();
    assert_eq!(
        to_json(&parameters),
        json!({
            "codecs": [{
                "mimeType": "audio/opus", "payloadType": 100, "clockRate": 48000, "channels": 1,
                "parameters": {}, "rtcpFeedback": [{"type": "nack", "parameter": ""}]
            }],
            "headerExtensions": [{"uri": "urn:x", "id": 1, "encrypt": false, "parameters": {}}],
            "encodings": [{"dtx": false}],
            "rtcp": {"reducedSize": true}
        })
    );
    let without_rtcp = with(&bare, "/rtcp", json!(null));
    let without_rtcp = parse_rtp_parameters(MediaKind::Audio, &without_rtcp).unwrap();
    assert_eq!(without_rtcp, parameters);
    let odd = with(&video(), "/encodings/0/maxBitrate", json!(333_333.9));
    let odd = parse_rtp_parameters(MediaKind::Video, &odd).unwrap();
    assert_eq!(odd.encodings[0].max_bitrate, Some(333_333));
    let values = with(
        &video(),
        "/codecs/0/parameters",
        json!({"a": 1, "b": "1", "c": true, "d": 1.5}),
    );
    let values = parse_rtp_parameters(MediaKind::Video, &values).unwrap();
    assert_eq!(
        to_json(&values.codecs[0].parameters),
        json!({"a": 1, "b": "1", "c": true, "d": 1.5})
    );
    assert_eq!(values.codecs[0].parameters["a"], ParameterValue::Integer(1));
}

#[test]
fn kinds_are_audio_or_video() {
    assert_eq!(parse_media_kind(&json!("audio")), Ok(MediaKind::Audio));
    assert_eq!(parse_media_kind(&json!("video")), Ok(MediaKind::Video));
    for value in [json!(null), json!("Audio"), json!(1), json!("text")] {
        let error = parse_media_kind(&value).unwrap_err().to_string();
        assert_eq!(error, "kind: must be \"audio\" or \"video\"");
    }
}

#[test]
fn bad_capabilities_are_refused_by_field() {
    let base = fixture("chromium-device-recvRtpCapabilities");
    let many = |count: usize, value: Value| Value::Array(vec![value; count]);
    for (pointer, value, expected) in [
        ("/codecs", json!({}), ".codecs: must be an array"),
        (
            "/codecs",
            many(129, json!({})),
            ".codecs: must have at most 128 entries, has 129",
        ),
        (
            "/codecs/3/mimeType",
            json!(null),
            ".codecs[3].mimeType: is missing",
        ),
        (
            "/codecs/3/mimeType",
            json!("x"),
            ".codecs[3].mimeType: must be audio/… or video/…",
        ),
        (
            "/codecs/3/clockRate",
            json!("1"),
            ".codecs[3].clockRate: must be an integer in 1..=1000000",
        ),
        (
            "/codecs/0/channels",
            json!(0),
            ".codecs[0].channels: must be an integer in 1..=255",
        ),
        (
            "/codecs/0/channels",
            json!(1000),
            ".codecs[0].channels: must be an integer in 1..=255",
        ),
        (
            "/codecs/0/preferredPayloadType",
            json!(300),
            ".codecs[0].preferredPayloadType: must be an integer in 0..=127",
        ),
        (
            "/codecs/0/rtcpFeedback/0/type",
            json!("a\nb"),
            ".codecs[0].rtcpFeedback[0].type: must not contain control characters",
        ),
        (
            "/headerExtensions",
            many(129, json!({})),
            ".headerExtensions: must have at most 128 entries, has 129",
        ),
        (
            "/headerExtensions/2/kind",
            json!("text"),
            ".headerExtensions[2].kind: must be \"audio\" or \"video\"",
        ),
        (
            "/headerExtensions/2/uri",
            json!(5),
            ".headerExtensions[2].uri: must be a string",
        ),
        (
            "/headerExtensions/2/preferredId",
            json!(0),
            ".headerExtensions[2].preferredId: must be an integer in 1..=255",
        ),
        (
            "/headerExtensions/2/direction",
            json!("both"),
            ".headerExtensions[2].direction: must be sendrecv, sendonly, recvonly or inactive",
        ),
    ] {
        let error = parse_rtp_capabilities(&with(&base, pointer, value.clone())).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("rtpCapabilities{expected}"),
            "{pointer} = {value}"
        );
    }
    let error = parse_rtp_capabilities(&json!(null)).unwrap_err();
    assert_eq!(error.to_string(), "rtpCapabilities: must be an object");
}

#[test]
fn unusual_capabilities_are_taken() {
    let capabilities = parse_rtp_capabilities(&json!({
        "codecs": [
            {"kind": "video", "mimeType": "video/unheard-of", "clockRate": 1, "preferredPayloadType": 75},
            {"mimeType": "audio/opus", "clockRate": 48000, "rtcpFeedback": [null]}
        ],
        "headerExtensions": [
            {"uri": "urn:unheard-of", "preferredId": 200},
            {"kind": "", "uri": "urn:x", "preferredId": 1, "direction": "inactive"}
        ],
        "fecMechanisms": []
    }))
    .unwrap();
    assert_eq!(capabilities.codecs[1].channels, Some(1));
    assert_eq!(capabilities.codecs[1].preferred_payload_type, None);
    assert_eq!(
        capabilities.header_extensions[0].direction,
        Direction::Sendrecv
    );
    assert_eq!(capabilities.header_extensions[1].kind, None);
}

#[test]
fn recorded_capabilities_are_read_without_loss() {
    for name in [
        "chromium-device-recvRtpCapabilities",
        "firefox-device-recvRtpCapabilities",
        "router-rtp-capabilities.seed-era",
    ] {
        assert_eq!(to_json(&capabilities(name)), fixture(name), "{name}");
    }
}

#[test]
fn recorded_dtls_parameters_are_read() {
    for (name, role, algorithm, octets) in [
        ("chromium-connect-recv", DtlsRole::Client, "sha-256", 32),
        ("firefox-connect-recv", DtlsRole::Client, "sha-256", 32),
        ("pymediasoup-connect", DtlsRole::Server, "sha-512", 64),
    ] {
        let request = fixture(name);
        let parameters = parse_dtls_parameters(&request["dtlsParameters"]).unwrap();
        assert_eq!(parameters.role, role, "{name}");
        assert_eq!(parameters.fingerprint.algorithm, algorithm, "{name}");
        assert_eq!(
            parameters.fingerprint.value.split(':').count(),
            octets,
            "{name}"
        );
        let sent = &request["dtlsParameters"]["fingerprints"][0]["value"];
        assert_eq!(parameters.fingerprint.value, *sent, "{name}");
    }
}

#[test]
fn dtls_parameters_are_normalised() {
    let sha1 = vec!["ab"; 20].join(":");
    let sha224 = vec!["0f"; 28].join(":");
    let parameters = parse_dtls_parameters(&json!({"fingerprints": [
        {"algorithm": "SHA-1", "value": sha1},
        {"algorithm": "sha-224", "value": sha224},
        {"algorithm": "sha-384", "value": vec!["00"; 48].join(":")}
    ]}))
    .unwrap();
    assert_eq!(parameters.role, DtlsRole::Auto);
    assert_eq!(parameters.fingerprint.algorithm, "sha-1");
    assert_eq!(parameters.fingerprint.value, sha1.to_uppercase());
}

#[test]
fn bad_dtls_parameters_are_refused_by_field() {
    let sha256 = vec!["AB"; 32].join(":");
    let good = json!({"algorithm": "sha-256", "value": sha256});
    let hash = ".fingerprints[0].algorithm: must be one of sha-1, sha-224, sha-256, sha-384 and \
                sha-512";
    let value = ".fingerprints[0].value: must be 32 hexadecimal octets with colons between them";
    let of = |value: Value| json!({"fingerprints": [{"algorithm": "sha-256", "value": value}]});
    for (parameters, expected) in [
        (json!(null), ": must be an object"),
        (json!([]), ": must be an object"),
        (json!({}), ".fingerprints: is missing"),
        (
            json!({"fingerprints": {}}),
            ".fingerprints: must be an array",
        ),
        (
            json!({"fingerprints": []}),
            ".fingerprints: must not be empty",
        ),
        (
            json!({"fingerprints": vec![good.clone(); 17]}),
            ".fingerprints: must have at most 16 entries, has 17",
        ),
        (
            json!({"role": "actpass", "fingerprints": [good]}),
            ".role: must be \"auto\", \"client\" or \"server\"",
        ),
        (
            json!({"role": 1}),
            ".role: must be \"auto\", \"client\" or \"server\"",
        ),
        (
            json!({"fingerprints": [1]}),
            ".fingerprints[0]: must be an object",
        ),
        (
            json!({"fingerprints": [{}]}),
            ".fingerprints[0].algorithm: is missing",
        ),
        (
            json!({"fingerprints": [{"algorithm": "md5", "value": "00"}]}),
            hash,
        ),
        (
            json!({"fingerprints": [{"algorithm": 1, "value": "00"}]}),
            hash,
        ),
        (
            json!({"fingerprints": [{"algorithm": "sha-256"}]}),
            ".fingerprints[0].value: is missing",
        ),
        (of(json!("")), value),
        (of(json!("AB")), value),
        (of(json!(5)), value),
        (of(json!(vec!["AB"; 33].join(":"))), value),
        (of(json!(vec!["AB"; 31].join(":"))), value),
        (of(json!(vec!["AB"; 32].join("-"))), value),
        (of(json!(sha256.replacen("AB", "AG", 1))), value),
        (of(json!(sha256.replacen("AB:", ":AB", 1))), value),
        (of(json!("ü".repeat(47) + "A")), value),
        (
            json!({"fingerprints": [good, {"algorithm": "sha-1", "value": "00"}]}),
            ".fingerprints[1].value: must be 20 hexadecimal octets with colons between them",
        ),
    ] {
        let error = parse_dtls_parameters(&parameters).unwrap_err().to_string();
        assert_eq!(error, format!("dtlsParameters{expected}"), "{parameters}");
    }
}
