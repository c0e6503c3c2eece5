//! What everything that was accepted promises to the worker and to other clients,
//! whatever was sent: for tests that damage messages.

use std::collections::HashSet;

use serde_json::Value;

use super::worker::{ConsumerIds, consumer_spec, produce_request};
use super::{NegotiatedProducer, RtpCapabilities, RtpParameters, validate};

/// Everything that an accepted producer promises.
pub fn check_producer(producer: &NegotiatedProducer, router: &RtpCapabilities) {
    let request = produce_request("t", "p", producer, router, false);
    assert!(!request.codecs.is_empty() && !request.encodings.is_empty());
    assert!(request.encodings.len() <= validate::MAX_ENCODINGS);
    assert!(
        request
            .mid
            .as_deref()
            .is_none_or(|mid| (1..=16).contains(&mid.len()))
    );
    let mut payload_types = HashSet::new();
    for codec in &request.codecs {
        for payload_type in [Some(codec.payload_type), codec.rtx_payload_type]
            .into_iter()
            .flatten()
        {
            assert!(payload_type <= 127 && !(64..=95).contains(&payload_type));
            assert!(payload_types.insert(payload_type));
        }
    }
    let mut ids = HashSet::new();
    for extension in &request.header_extensions {
        assert!(extension.id != 0 && ids.insert(extension.id));
        assert!(
            router
                .header_extensions
                .iter()
                .any(|it| it.uri == extension.uri)
        );
    }
    let mut ssrcs = HashSet::new();
    for encoding in &request.encodings {
        for ssrc in [encoding.ssrc, encoding.rtx_ssrc].into_iter().flatten() {
            assert!(ssrc != 0 && ssrcs.insert(ssrc));
        }
        assert!(
            encoding
                .rid
                .as_deref()
                .is_none_or(|rid| (1..=8).contains(&rid.len()))
        );
    }
}

/// Everything that a consumer's client relies on.
pub fn check_consumer(consumer: &RtpParameters) {
    let ids = ConsumerIds {
        transport_id: "t",
        consumer_id: "c",
        producer_id: "p",
    };
    let spec = consumer_spec(ids, consumer, true).unwrap();
    assert_eq!(spec.rtx_ssrc.is_some(), spec.rtx_payload_type.is_some());
    assert_eq!(consumer.encodings.len(), 1);
    let payload_types: HashSet<_> = consumer.codecs.iter().map(|it| it.payload_type).collect();
    assert_eq!(payload_types.len(), consumer.codecs.len());
    check_text(&serde_json::to_value(consumer).unwrap());
}

/// No text may begin a line of its own in a session description.
pub fn check_text(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.chars().any(char::is_control), "{text:?}"),
        Value::Array(array) => array.iter().for_each(check_text),
        Value::Object(object) => object.iter().for_each(|(key, inner)| {
            assert!(!key.chars().any(char::is_control), "{key:?}");
            check_text(inner);
        }),
        _ => {}
    }
}
