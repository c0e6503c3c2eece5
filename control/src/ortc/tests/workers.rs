//! What a media worker is told.

use super::*;
use crate::ortc::worker::{ConsumerIds, consumer_spec, produce_request, router_codecs};

#[test]
fn the_router_is_told_with_its_rtx() {
    let codecs = router_codecs(&default_router());
    let codecs: Vec<_> = codecs
        .iter()
        .map(|it| {
            let kind = proto::MediaKind::try_from(it.kind).unwrap();
            let types = (it.payload_type, it.rtx_payload_type);
            (
                kind,
                it.mime_type.as_str(),
                it.clock_rate,
                it.channels,
                types,
            )
        })
        .collect();
    use proto::MediaKind::{Audio, Video};
    assert_eq!(
        codecs,
        [
            (Audio, "audio/opus", 48_000, Some(2), (100, None)),
            (Video, "video/VP8", 90_000, None, (101, Some(102))),
            (Video, "video/VP9", 90_000, None, (103, Some(104))),
            (Video, "video/H264", 90_000, None, (105, Some(106))),
            (Video, "video/H264", 90_000, None, (107, Some(108))),
        ]
    );
}

fn request(name: &str) -> proto::ProduceRequest {
    let router = default_router();
    let producer = produce(&fixture(name), &router).unwrap();
    produce_request("t", "p", &producer, &router, true)
}

fn extensions(list: &[proto::HeaderExtension]) -> Vec<(&str, u32)> {
    list.iter()
        .map(|it| (it.uri.rsplit(['/', ':']).next().unwrap(), it.id))
        .collect()
}

#[test]
fn a_producer_is_told_with_both_payload_types() {
    let simulcast = request("chromium-produce-c-simulcast-vp8");
    assert_eq!(
        (&*simulcast.transport_id, &*simulcast.producer_id),
        ("t", "p")
    );
    assert_eq!(simulcast.kind(), proto::MediaKind::Video);
    assert_eq!(simulcast.mid.as_deref(), Some("2"));
    assert!(simulcast.paused);
    assert_eq!(
        simulcast.codecs,
        [proto::ProducerCodec {
            mime_type: "video/VP8".into(),
            clock_rate: 90_000,
            channels: None,
            payload_type: 96,
            rtx_payload_type: Some(97),
            mapped_payload_type: 101,
            nack: true,
            nack_pli: true,
            ccm_fir: true,
            transport_cc: true,
        }]
    );
    // The AV1 dependency descriptor (id 12) is unknown to the router.
    assert_eq!(
        extensions(&simulcast.header_extensions),
        [
            ("mid", 4),
            ("rtp-stream-id", 10),
            ("repaired-rtp-stream-id", 11),
            ("abs-send-time", 2),
            ("draft-holmer-rmcat-transport-wide-cc-extensions-01", 3),
            ("video-orientation", 13),
            ("toffset", 14),
            ("playout-delay", 5),
        ]
    );
    let rid = |rid: &str| proto::ProducerEncoding {
        ssrc: None,
        rtx_ssrc: None,
        rid: Some(rid.into()),
        layers: layers(1, 3, false),
    };
    assert_eq!(simulcast.encodings, [rid("r0"), rid("r1"), rid("r2")]);
}

fn layers(spatial: u32, temporal: u32, independent: bool) -> Option<proto::EncodingLayers> {
    Some(proto::EncodingLayers {
        spatial,
        temporal,
        independent,
    })
}

#[test]
fn layers_are_told_as_the_client_announces_them() {
    let router = router_with(&[CodecName::Av1]);
    let mut request = fixture("chromium-produce-g-av1-svc");
    for (mode, expected) in [
        ("L3T3", layers(3, 3, false)),
        ("L3T3_KEY", layers(3, 3, true)),
        ("L2T1_KEY_SHIFT", layers(2, 1, true)),
        ("S3T3", layers(3, 3, true)),
        ("L1T2", layers(1, 2, false)),
    ] {
        request["rtpParameters"]["encodings"][0]["scalabilityMode"] = mode.into();
        let producer = produce(&request, &router).unwrap();
        let told = produce_request("t", "p", &producer, &router, false);
        assert_eq!(told.encodings[0].layers, expected, "{mode}");
    }
    request["rtpParameters"]["encodings"][0]
        .as_object_mut()
        .unwrap()
        .remove("scalabilityMode");
    let producer = produce(&request, &router).unwrap();
    let told = produce_request("t", "p", &producer, &router, false);
    assert_eq!(told.encodings[0].layers, None);
}

#[test]
fn feedback_is_told_as_the_client_has_it() {
    let opus = request("firefox-produce-a-audio");
    let codec = &opus.codecs[0];
    assert_eq!((codec.payload_type, codec.rtx_payload_type), (109, None));
    assert_eq!((codec.mapped_payload_type, codec.channels), (100, Some(2)));
    let flags = (
        codec.nack,
        codec.nack_pli,
        codec.ccm_fir,
        codec.transport_cc,
    );
    assert_eq!(flags, (false, false, false, true));
    let python = request("pymediasoup-produce-video");
    let codec = &python.codecs[0];
    let flags = (
        codec.nack,
        codec.nack_pli,
        codec.ccm_fir,
        codec.transport_cc,
    );
    assert_eq!(flags, (true, true, false, false));
    assert_eq!(
        python.encodings,
        [proto::ProducerEncoding {
            ssrc: Some(2_458_158_048),
            rtx_ssrc: Some(2_631_405_553),
            rid: None,
            layers: None,
        }]
    );
}

#[test]
fn an_rtx_ssrc_without_an_rtx_codec_is_left_out() {
    let mut request = fixture("chromium-produce-b-video-single-vp8");
    request["rtpParameters"]["codecs"]
        .as_array_mut()
        .unwrap()
        .pop();
    let router = default_router();
    let producer = produce(&request, &router).unwrap();
    let request = produce_request("t", "p", &producer, &router, false);
    assert_eq!(request.codecs[0].rtx_payload_type, None);
    assert_eq!(request.encodings[0].ssrc, Some(1_440_492_374));
    assert_eq!(request.encodings[0].rtx_ssrc, None);
}

#[test]
fn a_consumer_is_told_with_the_routers_ids() {
    let producer = produce(
        &fixture("chromium-produce-c-simulcast-vp8"),
        &default_router(),
    )
    .unwrap();
    let remote = capabilities("pymediasoup-rtpCapabilities");
    let parameters =
        consumer_rtp_parameters(&producer.consumable, &remote, &options(700_000_000)).unwrap();
    let ids = ConsumerIds {
        transport_id: "t",
        consumer_id: "c",
        producer_id: "p",
    };
    let spec = consumer_spec(ids, &parameters, true).unwrap();
    assert_eq!(
        (&*spec.transport_id, &*spec.consumer_id, &*spec.producer_id),
        ("t", "c", "p")
    );
    assert_eq!(
        (&*spec.mid, spec.payload_type, spec.rtx_payload_type),
        ("0", 101, Some(102))
    );
    assert_eq!((spec.ssrc, spec.rtx_ssrc), (700_000_000, Some(700_000_001)));
    assert_eq!(
        extensions(&spec.header_extensions),
        [("mid", 1), ("abs-send-time", 4)]
    );
    assert!(spec.paused);
    // Consumable parameters are not a consumer's.
    assert_eq!(
        consumer_spec(ids, &producer.consumable, true)
            .unwrap_err()
            .to_string(),
        "rtpParameters.mid: is missing"
    );
}
