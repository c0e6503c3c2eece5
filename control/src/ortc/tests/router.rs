//! Router capabilities: exactly those that clients have always been given.

use super::*;

#[test]
fn the_default_router_equals_the_seed() {
    let expected = fixture("router-rtp-capabilities.seed-era");
    assert_eq!(to_json(&default_router()), expected);
}

#[test]
fn more_codecs_continue_the_payload_types() {
    let recorded = fixture("chromium-router-rtp-capabilities");
    let ours = to_json(&wide_router());
    let line = |codec: &Value| {
        format!(
            "{} {} {} {}",
            codec["mimeType"],
            codec["preferredPayloadType"],
            codec["clockRate"],
            codec["parameters"]["apt"]
        )
    };
    let lines = |value: &Value| -> Vec<String> {
        value["codecs"]
            .as_array()
            .unwrap()
            .iter()
            .map(line)
            .collect()
    };
    assert_eq!(lines(&ours), lines(&recorded));
    assert_eq!(lines(&ours).last().unwrap(), "\"video/rtx\" 112 90000 111");
}

fn codec(mime_type: &str, clock_rate: u32, channels: Option<u32>, pt: Option<u8>) -> MediaCodec {
    MediaCodec {
        mime_type: mime_type.into(),
        clock_rate,
        channels,
        preferred_payload_type: pt,
        parameters: Default::default(),
    }
}

/// Payload type and MIME type of each codec.
fn payload_types(codecs: &[MediaCodec]) -> Result<Vec<(u8, String)>, String> {
    let router = router_rtp_capabilities(codecs).map_err(|error| error.to_string())?;
    let codecs = router.codecs.into_iter();
    Ok(codecs
        .map(|codec| (codec.preferred_payload_type.unwrap(), codec.mime_type))
        .collect())
}

#[test]
fn payload_types_are_static_preferred_or_from_the_pool() {
    let types = payload_types(&[
        codec("AUDIO/pcmu", 8000, None, None),
        codec("audio/PCMA", 8000, Some(1), None),
        codec("audio/g722", 8000, None, None),
        codec("audio/cn", 8000, None, None),
        codec("audio/opus", 48_000, Some(2), None),
        codec("VIDEO/vp8", 90_000, None, Some(102)),
        codec("video/h264", 90_000, None, Some(101)),
        codec("video/av1", 90_000, None, None),
    ]);
    let expected = [
        (0, "audio/PCMU"),
        (8, "audio/PCMA"),
        (9, "audio/G722"),
        (13, "audio/CN"),
        (100, "audio/opus"),
        (102, "video/VP8"),
        (103, "video/rtx"),
        (101, "video/H264"),
        (104, "video/rtx"),
        (105, "video/AV1"),
        (106, "video/rtx"),
    ];
    assert_eq!(
        types.unwrap(),
        expected.map(|(pt, mime)| (pt, mime.to_owned()))
    );
}

#[test]
fn the_pool_wraps_to_96_spares_the_probator_and_ends() {
    let thirteen = vec![codec("video/VP8", 90_000, None, None); 13];
    let types = payload_types(&thirteen).unwrap();
    assert_eq!(types.last().unwrap().0, 125);
    let fifteen = vec![codec("video/VP8", 90_000, None, None); 15];
    let types: Vec<u8> = payload_types(&fifteen)
        .unwrap()
        .iter()
        .map(|it| it.0)
        .collect();
    assert_eq!(types[26..], [126, 96, 97, 98]);
    let sixteen = vec![codec("video/VP8", 90_000, None, None); 16];
    assert_eq!(
        payload_types(&sixteen).unwrap_err(),
        "mediaCodecs[15]: no dynamic payload type is left"
    );
}

#[test]
fn impossible_media_codecs_are_named() {
    let opus = |pt| codec("audio/opus", 48_000, Some(2), pt);
    for (codecs, expected) in [
        (
            vec![codec("audio/opus", 48_000, None, None)],
            "mediaCodecs[0]: audio/opus with clock rate 48000 cannot be routed",
        ),
        (
            vec![opus(None), codec("video/foo", 90_000, None, None)],
            "mediaCodecs[1]: video/foo with clock rate 90000 cannot be routed",
        ),
        (
            vec![opus(Some(111)), codec("video/VP8", 90_000, None, Some(111))],
            "mediaCodecs[1].preferredPayloadType: payload type 111 is already in use",
        ),
        (
            vec![opus(Some(128))],
            "mediaCodecs[0].preferredPayloadType: must be an integer in 0..=127",
        ),
        (
            vec![opus(Some(127))],
            "mediaCodecs[0].preferredPayloadType: payload type 127 is already in use",
        ),
        (
            vec![
                codec("audio/PCMU", 8000, None, None),
                codec("audio/PCMU", 8000, None, None),
            ],
            "mediaCodecs[1]: payload type 0 is already in use",
        ),
    ] {
        assert_eq!(payload_types(&codecs).unwrap_err(), expected);
    }
}
