//! The codecs that can be chosen by name: what routers make of them, and who
//! can send and receive them.

use std::collections::HashSet;

use serde_json::json;

use super::*;
use crate::ortc::supported::DEPENDENCY_DESCRIPTOR_URI;
use crate::ortc::worker::{produce_request, router_codecs, router_header_extensions};

use CodecName::*;

#[test]
fn every_name_is_a_codec() {
    let start = json!(1000);
    let table = [
        (Opus, "audio/opus", 48_000, Some(2), 100, json!({})),
        (
            Multiopus4,
            "audio/multiopus",
            48_000,
            Some(4),
            100,
            json!({"channel_mapping": "0,1,2,3", "num_streams": 2, "coupled_streams": 2}),
        ),
        (
            Multiopus6,
            "audio/multiopus",
            48_000,
            Some(6),
            100,
            json!({"channel_mapping": "0,4,1,2,3,5", "num_streams": 4, "coupled_streams": 2}),
        ),
        (
            Multiopus8,
            "audio/multiopus",
            48_000,
            Some(8),
            100,
            json!({"channel_mapping": "0,6,1,2,3,4,5,7", "num_streams": 5, "coupled_streams": 3}),
        ),
        (Pcmu, "audio/PCMU", 8000, Some(1), 0, json!({})),
        (Pcma, "audio/PCMA", 8000, Some(1), 8, json!({})),
        (G722, "audio/G722", 8000, Some(1), 9, json!({})),
        (
            Vp8,
            "video/VP8",
            90_000,
            None,
            100,
            json!({"x-google-start-bitrate": start}),
        ),
        (
            Vp9,
            "video/VP9",
            90_000,
            None,
            100,
            json!({"profile-id": 0, "x-google-start-bitrate": start}),
        ),
        (
            Vp9Profile2,
            "video/VP9",
            90_000,
            None,
            100,
            json!({"profile-id": 2, "x-google-start-bitrate": start}),
        ),
        (
            H264Baseline,
            "video/H264",
            90_000,
            None,
            100,
            json!({"level-asymmetry-allowed": 1, "packetization-mode": 1,
                "profile-level-id": "42e01f", "x-google-start-bitrate": start}),
        ),
        (
            H264Main,
            "video/H264",
            90_000,
            None,
            100,
            json!({"level-asymmetry-allowed": 1, "packetization-mode": 1,
                "profile-level-id": "4d0032", "x-google-start-bitrate": start}),
        ),
        (
            Av1,
            "video/AV1",
            90_000,
            None,
            100,
            json!({"x-google-start-bitrate": start}),
        ),
    ];
    assert_eq!(table.len(), CodecName::ALL.len());
    for (name, mime_type, clock_rate, channels, payload_type, parameters) in table {
        let router = router_with(&[name]);
        let codec = &router.codecs[0];
        assert_eq!(
            (&*codec.mime_type, codec.clock_rate, codec.channels),
            (mime_type, clock_rate, channels)
        );
        assert_eq!(codec.preferred_payload_type, Some(payload_type), "{name:?}");
        assert_eq!(to_json(&codec.parameters), parameters, "{name:?}");
        let is_video = channels.is_none();
        let feedback = match (is_video, clock_rate) {
            (true, _) => 5,
            (false, 48_000) => 2,
            (false, _) => 1,
        };
        assert_eq!(codec.rtcp_feedback.len(), feedback, "{name:?}");
        assert_eq!(router.codecs.len(), 1 + usize::from(is_video), "{name:?}");
    }
}

/// Any choice gives a router that clients and the worker can take: distinct
/// payload types, RTX for all video, and no more codecs of a clock rate than
/// the worker has places for.
#[test]
fn every_choice_makes_a_router() {
    let default = router_with(&CodecName::DEFAULT).header_extensions;
    for mask in 1..1_u32 << CodecName::ALL.len() {
        let chosen = CodecName::ALL.into_iter().enumerate();
        let chosen = chosen.filter(|(bit, _)| mask & (1 << bit) != 0);
        let mut names: Vec<CodecName> = chosen.map(|(_, name)| name).collect();
        if mask % 2 == 1 {
            names.reverse();
        }
        let router = router_with(&names);
        let types = router
            .codecs
            .iter()
            .map(|it| it.preferred_payload_type.unwrap());
        let distinct: HashSet<u8> = types.collect();
        assert_eq!(distinct.len(), router.codecs.len(), "{names:?}");
        assert!(!distinct.contains(&127), "{names:?}");
        let told = router_codecs(&router);
        assert_eq!(told.len(), names.len(), "{names:?}");
        let of_clock = |rate| told.iter().filter(|it| it.clock_rate == rate).count();
        assert!(of_clock(90_000) <= 16 && of_clock(48_000) <= 6 && of_clock(8000) <= 4);
        for codec in &told {
            let is_video = codec.kind() == proto::MediaKind::Video;
            assert_eq!(codec.rtx_payload_type.is_some(), is_video, "{names:?}");
        }
        let (own, more) = router.header_extensions.split_at(default.len());
        assert_eq!(own, default, "{names:?}");
        let more: Vec<_> = more
            .iter()
            .map(|it| (it.kind, &*it.uri, it.preferred_id))
            .collect();
        let descriptor = (Some(MediaKind::Video), DEPENDENCY_DESCRIPTOR_URI, 8);
        let expected = names.contains(&Av1).then_some(descriptor);
        assert_eq!(more, Vec::from_iter(expected), "{names:?}");
    }
}

#[test]
fn the_first_is_preferred() {
    let mime_types = |names: &[CodecName]| -> Vec<String> {
        let codecs = router_with(names).codecs.into_iter();
        codecs.map(|it| it.mime_type).collect()
    };
    assert_eq!(
        mime_types(&[Av1, Pcma, Vp8]),
        [
            "video/AV1",
            "video/rtx",
            "audio/PCMA",
            "video/VP8",
            "video/rtx"
        ]
    );
}

/// What a client sends of one codec, and can receive.
fn codec(mime_type: &str, clock_rate: u32, channels: Option<u32>, parameters: Value) -> Value {
    let mut codec = json!({
        "mimeType": mime_type, "clockRate": clock_rate, "parameters": parameters,
        "rtcpFeedback": [{"type": "nack"}, {"type": "transport-cc"}],
    });
    if let Some(channels) = channels {
        codec["channels"] = channels.into();
    }
    codec
}

fn producing(
    codec: &Value,
    payload_type: u8,
    router: &RtpCapabilities,
) -> Result<NegotiatedProducer, OrtcError> {
    let mut codec = codec.clone();
    codec["payloadType"] = payload_type.into();
    let kind = codec["mimeType"]
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let request = json!({
        "kind": kind,
        "rtpParameters": {"codecs": [codec], "encodings": [{"ssrc": 1111}], "rtcp": {"cname": "c"}},
    });
    produce(&request, router)
}

fn receiving(codec: &Value) -> RtpCapabilities {
    let mut codec = codec.clone();
    codec["kind"] = codec["mimeType"]
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .into();
    parse_rtp_capabilities(&json!({"codecs": [codec], "headerExtensions": []})).unwrap()
}

/// The router's payload type under which `sent` reaches a client that has
/// `received`.
fn reaches(names: &[CodecName], sent: &Value, received: &Value) -> Option<u8> {
    let router = router_with(names);
    let producer = producing(sent, 120, &router).ok()?;
    let remote = receiving(received);
    if !can_consume(&producer.consumable, &remote) {
        return None;
    }
    let parameters = consumer_rtp_parameters(&producer.consumable, &remote, &options(5)).unwrap();
    Some(parameters.codecs[0].payload_type)
}

#[test]
fn a_vp9_profile_reaches_those_who_have_it() {
    let vp9 = |parameters| codec("video/VP9", 90_000, None, parameters);
    let (unnamed, zero) = (vp9(json!({})), vp9(json!({"profile-id": 0})));
    let two = vp9(json!({"profile-id": 2}));
    let both = &[Vp9Profile2, Vp9][..];
    for (names, sent, received, expected) in [
        (&[Vp9][..], &unnamed, &zero, Some(100)),
        (&[Vp9], &zero, &unnamed, Some(100)),
        (&[Vp9], &two, &two, None),
        (&[Vp9Profile2], &zero, &zero, None),
        (&[Vp9Profile2], &two, &two, Some(100)),
        (both, &zero, &zero, Some(102)),
        (both, &two, &two, Some(100)),
        (both, &zero, &two, None),
        (both, &two, &unnamed, None),
    ] {
        assert_eq!(
            reaches(names, sent, received),
            expected,
            "{names:?} {sent} {received}"
        );
    }
}

#[test]
fn telephone_codecs_have_their_static_payload_types() {
    let telephone = |name: &str| codec(&format!("audio/{name}"), 8000, None, json!({}));
    for (name, sent, payload_type) in [(Pcmu, "pcmu", 0), (Pcma, "PCMA", 8), (G722, "g722", 9)] {
        let sent = telephone(sent);
        // One channel is meant where none is told.
        let mono = codec(sent["mimeType"].as_str().unwrap(), 8000, Some(1), json!({}));
        assert_eq!(
            reaches(&[Opus, name], &sent, &mono),
            Some(payload_type),
            "{name:?}"
        );
        let stereo = codec(sent["mimeType"].as_str().unwrap(), 8000, Some(2), json!({}));
        assert_eq!(reaches(&[Opus, name], &sent, &stereo), None, "{name:?}");
        assert_eq!(reaches(&[Opus, name], &stereo, &stereo), None, "{name:?}");
        assert_eq!(reaches(&[Opus], &sent, &sent), None, "{name:?}");
    }
    // What clients send it under, static or not, is theirs.
    let router = router_with(&[Opus, Pcmu]);
    for own in [0, 110] {
        let producer = producing(&telephone("PCMU"), own, &router).unwrap();
        assert_eq!(producer.mapping.mapped_payload_type(own), Some(0));
        let told = produce_request("t", "p", &producer, &router, false);
        let codec = &told.codecs[0];
        assert_eq!(
            (codec.payload_type, codec.mapped_payload_type),
            (own.into(), 0)
        );
        assert_eq!((codec.clock_rate, codec.channels), (8000, Some(1)));
    }
}

#[test]
fn surround_is_told_apart_by_its_streams() {
    let multiopus = |channels, streams, coupled| {
        let parameters = json!({"channel_mapping": "any", "num_streams": streams,
            "coupled_streams": coupled});
        codec("audio/multiopus", 48_000, Some(channels), parameters)
    };
    let all = &[Opus, Multiopus8, Multiopus6, Multiopus4][..];
    let six = multiopus(6, 4, 2);
    for (names, sent, received, expected) in [
        (all, &multiopus(4, 2, 2), &multiopus(4, 2, 2), Some(103)),
        (all, &six, &six, Some(102)),
        (all, &multiopus(8, 5, 3), &multiopus(8, 5, 3), Some(101)),
        (all, &multiopus(6, 5, 2), &six, None),
        (all, &multiopus(6, 4, 1), &six, None),
        (all, &six, &multiopus(6, 4, 1), None),
        (all, &multiopus(2, 4, 2), &six, None),
        (&[Opus, Multiopus8], &six, &six, None),
    ] {
        assert_eq!(
            reaches(names, sent, received),
            expected,
            "{sent} {received}"
        );
    }
    // Numbers as text, as they come out of a session description.
    let text = codec(
        "audio/multiopus",
        48_000,
        Some(6),
        json!({"num_streams": "4", "coupled_streams": "2"}),
    );
    assert_eq!(reaches(all, &text, &six), Some(102));
    let bare = codec("audio/multiopus", 48_000, Some(6), json!({}));
    assert_eq!(reaches(all, &bare, &six), None);
    let opus = codec("audio/opus", 48_000, Some(2), json!({}));
    assert_eq!(reaches(&[Multiopus6], &opus, &opus), None);
}

/// What Chromium can receive, with the dependency descriptor under this id.
fn chromium_with_descriptor(id: u8) -> RtpCapabilities {
    let mut remote = fixture("chromium-device-recvRtpCapabilities");
    let extensions = remote["headerExtensions"].as_array_mut().unwrap();
    extensions.push(
        json!({"kind": "video", "uri": DEPENDENCY_DESCRIPTOR_URI, "preferredId": id,
        "preferredEncrypt": false, "direction": "sendrecv"}),
    );
    parse_rtp_capabilities(&remote).unwrap()
}

fn ids_of(parameters: &RtpParameters) -> Vec<u8> {
    parameters
        .header_extensions
        .iter()
        .map(|it| it.id)
        .collect()
}

#[test]
fn av1_is_received_with_its_dependency_descriptor_and_without() {
    let router = router_with(&[Opus, Vp8, Av1]);
    let chromium = fixture("chromium-produce-g-av1-svc");
    let mut plain = chromium.clone();
    let extensions = plain["rtpParameters"]["headerExtensions"].as_array_mut();
    extensions
        .unwrap()
        .retain(|it| it["uri"] != DEPENDENCY_DESCRIPTOR_URI);
    let old = capabilities("chromium-device-recvRtpCapabilities");
    let with = [1, 4, 5, 11, 12, 14, 8];
    let without = &with[..6];
    for (sent, remote, expected) in [
        (&chromium, &chromium_with_descriptor(8), &with[..]),
        // The client has it under an id that is not the router's, or not.
        (&chromium, &chromium_with_descriptor(9), without),
        (&chromium, &old, without),
        // It is not sent.
        (&plain, &chromium_with_descriptor(8), without),
    ] {
        let producer = produce(sent, &router).unwrap();
        assert_eq!(producer.producer_type, ProducerType::Svc);
        assert!(can_consume(&producer.consumable, remote));
        let consumer = consumer_rtp_parameters(&producer.consumable, remote, &options(5)).unwrap();
        assert_eq!(ids_of(&consumer), expected);
        assert_eq!(consumer.codecs[0].mime_type, "video/AV1");
    }
}

#[test]
fn the_dependency_descriptor_is_for_av1_alone() {
    let router = router_with(&[Opus, Vp8, Av1]);
    let descriptor = |sent: &str, router: &RtpCapabilities| {
        let producer = produce(&fixture(sent), router).unwrap();
        let told = produce_request("t", "p", &producer, router, false);
        let mut told = told.header_extensions.into_iter();
        let own = told.find(|it| it.uri == DEPENDENCY_DESCRIPTOR_URI);
        (
            own.map(|it| it.id),
            ids_of(&producer.consumable).contains(&8),
        )
    };
    // Chromium describes VP8 as well, under its own id.
    assert_eq!(
        descriptor("chromium-produce-g-av1-svc", &router),
        (Some(12), true)
    );
    assert_eq!(
        descriptor("chromium-produce-c-simulcast-vp8", &router),
        (None, false)
    );
    assert_eq!(
        descriptor("firefox-produce-g-av1-svc", &router),
        (Some(8), true)
    );
    let told = |router| {
        let told = router_header_extensions(router).into_iter();
        told.filter(|it| it.uri == DEPENDENCY_DESCRIPTOR_URI)
            .map(|it| it.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&router), [8]);
    assert_eq!(told(&router_with(&[Opus, Vp8, Vp9])), [0; 0]);
}
