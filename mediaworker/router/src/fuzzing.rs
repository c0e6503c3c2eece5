//! What holds whatever producers send: run on damaged seeds by the tests below, and on
//! much more by the targets in `fuzz/`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is compiled for tests and for fuzzing only"
)]

use std::time::{Duration, Instant};

use crate::layers::MAX_TEMPORAL_LAYERS;
use crate::payload::dependency_descriptor::{self, Indication, Structure};
use crate::payload::{Field, describe};
use crate::rates::MAX_SPATIAL_LAYERS;
use crate::{
    Codec, ConsumerConfig, Forward, Layers, MAX_STREAMS, MediaKind, Payload, PreferredLayers,
    ProducerConfig, Router, RtpIn, Sink, SpatialDependency, StreamLayers,
};

const CODECS: [Codec; 6] = [
    Codec::Vp8,
    Codec::Vp9,
    Codec::Av1,
    Codec::H264,
    Codec::Opus,
    Codec::Other,
];
/// Consumers of the producer of [`router`].
const CONSUMERS: usize = 3;
/// Most decode targets, and most frames that one needs directly.
const MAX_TARGETS: u8 = 32;
const MAX_REFERENCES: usize = 8;

fn codec(octet: u8) -> Codec {
    CODECS[usize::from(octet) % CODECS.len()]
}

/// Describes a payload, behind an octet that chooses the codec.
///
/// # Panics
/// When a number is not where it is said to be, or out of range.
pub fn payload(input: &[u8]) {
    let Some((&first, payload)) = input.split_first() else {
        return;
    };
    let described = describe(codec(first), payload);
    assert!(usize::from(described.layers.temporal) < MAX_TEMPORAL_LAYERS);
    assert!(usize::from(described.layers.spatial) < MAX_STREAMS);
    assert!(
        described
            .spatial_layers
            .is_none_or(|it| (1..=8).contains(&it))
    );
    for field in [described.picture_id, described.tl0_picture]
        .into_iter()
        .flatten()
    {
        assert_eq!(value(field, payload), field.value);
    }
    if let (Some(picture), Some(tl0)) = (described.picture_id, described.tl0_picture) {
        assert!(tl0.at >= picture.end());
    }
    // A keyframe begins with the first packet of a frame; only VP8 and VP9 mark those.
    if described.key_frame_start && matches!(codec(first), Codec::Vp8 | Codec::Vp9) {
        assert!(described.begins_frame && !described.inter_picture);
    }
}

/// The number at the place of a field.
fn value(field: Field, payload: &[u8]) -> u16 {
    let octets = &payload[usize::from(field.at)..usize::from(field.end())];
    match (field.bits, octets) {
        (15, &[high, low]) => u16::from_be_bytes([high & 0x7f, low]),
        (7 | 8, &[octet]) => octet.into(),
        other => panic!("{other:?}"),
    }
}

/// Reads dependency descriptors, each behind its length, which may refer to a structure
/// that came before.
///
/// # Panics
/// When something is out of range.
pub fn dependency_descriptor(mut input: &[u8]) {
    let mut last: Option<Structure> = None;
    while let Some((&len, rest)) = input.split_first() {
        let (bytes, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        let Some(parsed) = dependency_descriptor::parse(bytes, last.as_ref()) else {
            continue;
        };
        assert!(dependency_descriptor::frame_number(bytes).is_some());
        let frame = parsed.frame;
        check_layers(frame.layers);
        assert!(frame.references.iter().count() <= MAX_REFERENCES);
        assert!(frame.references.iter().all(|back| back > 0));
        if parsed.structure.is_some() {
            last = parsed.structure;
        }
        // One that nothing was said of before could not be read.
        let structure = last.as_mut().unwrap();
        if let Some(active) = parsed.active {
            structure.set_active(active);
        }
        check_targets(structure);
        assert_eq!(frame.indications.of(MAX_TARGETS), Indication::NotPresent);
    }
}

fn check_layers(layers: Layers) {
    assert!(usize::from(layers.spatial) < MAX_SPATIAL_LAYERS);
    assert!(usize::from(layers.temporal) < MAX_TEMPORAL_LAYERS);
}

fn check_targets(structure: &Structure) {
    let targets = &structure.targets;
    let layers: Vec<Layers> = (0..=u8::MAX).filter_map(|it| targets.layers(it)).collect();
    assert!((1..=usize::from(MAX_TARGETS)).contains(&layers.len()));
    layers.iter().copied().for_each(check_layers);
    for cap in [Layers::default(), Layers::HIGHEST] {
        if let Some(best) = targets.best(cap) {
            assert!(targets.layers(best).is_some());
        }
    }
}

/// Sends arbitrary packets through a media graph with one producer and a few consumers.
/// The first two octets say what kind of producer; then each packet has four octets in
/// front: what it is, by how much its numbers differ from those of the one before, and
/// how long its payload is.
///
/// # Panics
/// When the graph does not agree with itself, or a consumer gets what is malformed.
pub fn router(input: &[u8]) {
    let Some((&[kind, layers], mut input)) = input.split_first_chunk() else {
        return;
    };
    let codec = codec(kind);
    let mut now = Instant::now();
    let mut router = Router::new();
    let streams = match layers >> 6 {
        0 | 1 => 1,
        many => usize::from(many),
    };
    let producer = router.create_producer(
        now,
        ProducerConfig {
            kind: match codec {
                Codec::Opus => MediaKind::Audio,
                _ => MediaKind::Video,
            },
            clock_rate: 90_000,
            streams,
            paused: false,
            layers: match streams {
                1 => StreamLayers {
                    spatial: 1 + (layers & 3),
                    temporal: 1 + (layers >> 2 & 3),
                    dependency: match layers & 0x10 {
                        0 => SpatialDependency::Always,
                        _ => SpatialDependency::KeyPictures,
                    },
                },
                _ => StreamLayers::default(),
            },
        },
    );
    let Ok(producer) = producer else {
        return;
    };
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|number| {
            let consumer = router.create_consumer(
                now,
                ConsumerConfig {
                    producer,
                    sink: Sink::default(),
                    paused: false,
                    initial_sequence: 65_000,
                    initial_timestamp: u32::MAX - 1_000,
                },
            );
            let consumer = consumer.unwrap();
            let preferred = PreferredLayers {
                spatial: number,
                temporal: u8::try_from(number).ok(),
            };
            // Audio has no layers to prefer.
            let _ = router.set_preferred_layers(consumer, preferred);
            consumer
        })
        .collect();
    let (mut sequence, mut timestamp) = (1u64 << 20, 0u32);
    let mut out = Vec::new();
    while let Some((&[what, step, ticks, len], rest)) = input.split_first_chunk() {
        let (payload, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        if what & 0x80 != 0 {
            now += Duration::from_millis(u64::from(ticks) << 2);
            router.handle_timeout(now);
        }
        // Mostly the next one; some are late, some far ahead.
        let difference = i64::from(step.cast_signed()) << (what >> 5 & 2);
        sequence = sequence.saturating_add_signed(difference).max(1 << 16);
        timestamp = timestamp.wrapping_add(u32::from(ticks) << 4);
        let (extension, payload) = match (codec, payload.split_first()) {
            (Codec::Av1, Some((&len, rest))) => {
                let (extension, rest) = rest.split_at(usize::from(len).min(rest.len()));
                (Some(extension), rest)
            }
            _ => (None, payload),
        };
        let rtp = RtpIn {
            stream: usize::from(what & 3),
            codec,
            sequence,
            timestamp,
            marker: what & 4 != 0,
            payload,
            captured: (what & 8 != 0).then_some(now),
            audio_level: (codec == Codec::Opus).then(|| -(len & 0x7f).cast_signed()),
            dependency_descriptor: extension,
        };
        out.clear();
        router.handle_rtp(now, producer, &rtp, &mut out);
        assert!(out.len() <= consumers.len());
        out.iter().for_each(|forward| check_forward(forward, &rtp));
        if what & 0x10 != 0 {
            let consumer = consumers[usize::from(ticks) % consumers.len()];
            let _ = router.pause_consumer(consumer);
            let _ = router.resume_consumer(now, consumer);
        }
        router.check_invariants().unwrap();
        // Nothing that is asked for is left, and it is not without end.
        let actions = std::iter::from_fn(|| router.poll_action()).count();
        assert!(actions <= 64, "{actions} actions");
    }
}

/// What a consumer gets says of itself what it is said to.
fn check_forward(forward: &Forward, rtp: &RtpIn<'_>) {
    let Payload::Patched(patch) = forward.payload else {
        return;
    };
    let mut payload = rtp.payload.to_vec();
    patch.apply(&mut payload);
    let (before, after) = (
        describe(rtp.codec, rtp.payload),
        describe(rtp.codec, &payload),
    );
    let number = after.picture_id.unwrap();
    assert_eq!(number.value, patch.picture_id);
    let tl0 = after.tl0_picture.map(|field| field.value);
    assert_eq!(tl0, patch.tl0_picture.map(u16::from));
    // All else is as it was.
    let mut same = before;
    (same.picture_id, same.tl0_picture) = (after.picture_id, after.tl0_picture);
    assert_eq!(same, after);
}

#[cfg(test)]
mod tests {
    use test_inputs::{ROUNDS, run};

    #[test]
    fn payloads_are_read_within_their_bounds() {
        run("payload", ROUNDS, super::payload);
    }

    #[test]
    fn dependency_descriptors_are_read_within_their_bounds() {
        run(
            "dependency_descriptor",
            ROUNDS,
            super::dependency_descriptor,
        );
    }

    #[test]
    fn a_graph_survives_whatever_is_sent() {
        run("router", ROUNDS, super::router);
    }
}
