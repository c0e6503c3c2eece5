//! Layers from the outside, told as short stories: what is wanted and allowed, what is forwarded of
//! it, and what it costs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail"
)]

use std::time::{Duration, Instant};

use router::{
    Action, Codec, ConsumerConfig, ConsumerKey, Error, Forward, KEY_FRAME_INTERVAL, LayerCosts,
    Layers, MediaKind, PATIENCE, Payload, PreferredLayers, ProducerConfig, ProducerKey, Router,
    RtpIn, STEADY_AFTER, STREAM_TIMEOUT, Sink, SpatialDependency, StreamLayers, Waiting,
};

const FRAME: Duration = Duration::from_millis(40);

struct Room {
    router: Router,
    now: Instant,
    codec: Codec,
    camera: ProducerKey,
    ann: ConsumerKey,
    /// Next sequence number of each stream.
    sequence: [u64; 3],
}

fn layers(spatial: u8, temporal: u8) -> Layers {
    Layers::new(spatial, temporal)
}

impl Room {
    fn new(codec: Codec, streams: usize, layers: StreamLayers) -> Self {
        let mut router = Router::new();
        let now = Instant::now();
        let config = ProducerConfig {
            kind: MediaKind::Video,
            clock_rate: 90_000,
            streams,
            paused: false,
            layers,
        };
        let camera = router.create_producer(now, config).unwrap();
        let config = ConsumerConfig {
            producer: camera,
            sink: Sink::default(),
            paused: false,
            initial_sequence: 0,
            initial_timestamp: 0,
        };
        let ann = router.create_consumer(now, config).unwrap();
        Self {
            router,
            now,
            codec,
            camera,
            ann,
            sequence: [100; 3],
        }
    }

    fn svc(dependency: SpatialDependency) -> Self {
        let layers = StreamLayers {
            spatial: 3,
            temporal: 3,
            dependency,
        };
        Self::new(Codec::Vp9, 1, layers)
    }

    /// Sends the next packet of a stream.
    fn send(&mut self, stream: usize, time: u32, marker: bool, payload: &[u8]) -> Option<Forward> {
        self.sequence[stream] += 1;
        self.send_as(self.sequence[stream], stream, time, marker, payload)
    }

    fn send_as(
        &mut self,
        sequence: u64,
        stream: usize,
        time: u32,
        marker: bool,
        payload: &[u8],
    ) -> Option<Forward> {
        let packet = RtpIn {
            stream,
            codec: self.codec,
            sequence,
            timestamp: time,
            marker,
            payload,
            captured: None,
            audio_level: None,
            dependency_descriptor: None,
        };
        let mut out = Vec::new();
        self.router
            .handle_rtp(self.now, self.camera, &packet, &mut out);
        self.router.check_invariants().unwrap();
        out.pop()
    }

    fn allow(&mut self, target: Option<Layers>) {
        self.router
            .set_target_layers(self.now, self.ann, target)
            .unwrap();
    }

    fn prefer(&mut self, spatial: usize, temporal: Option<u8>) {
        let layers = PreferredLayers { spatial, temporal };
        self.router.set_preferred_layers(self.ann, layers).unwrap();
    }

    fn current(&self) -> Option<Layers> {
        self.router.current_layers(self.ann)
    }

    fn waiting(&self) -> Option<Waiting> {
        self.router.layer_state(self.now, self.ann).unwrap().waiting
    }

    fn costs(&self) -> LayerCosts {
        self.router.layer_costs(self.now, self.camera)
    }

    /// How often clients were asked for keyframes since the last call.
    fn asked(&mut self) -> usize {
        std::iter::from_fn(|| self.router.poll_action())
            .filter(|action| matches!(action, Action::RequestKeyFrame { .. }))
            .count()
    }

    /// A frame of VP8 in one packet on each stream.
    fn vp8(&mut self, frame: u32, key: bool) {
        for stream in 0..3 {
            let payload = vp8(frame as u16, 0, false, key, 500 * (stream + 1));
            self.send(stream, frame * 3600, true, &payload);
        }
        self.now += FRAME;
        self.router.handle_timeout(self.now);
    }

    /// A picture of VP9 with a packet for each of the given spatial layers; answers those that were
    /// forwarded, with their markers.
    fn vp9(&mut self, picture: u16, spatial: &[u8], kind: Picture) -> Vec<(u8, bool)> {
        let mut got = Vec::new();
        for (index, layer) in spatial.iter().enumerate() {
            let last = index + 1 == spatial.len();
            let payload = vp9(picture, *layer, kind);
            let forward = self.send(0, u32::from(picture) * 3600, last, &payload);
            got.extend(forward.map(|forward| (*layer, forward.marker)));
        }
        self.now += FRAME;
        self.router.handle_timeout(self.now);
        got
    }
}

fn vp8(picture: u16, temporal: u8, joins: bool, key: bool, len: usize) -> Vec<u8> {
    let [high, low] = picture.to_be_bytes();
    let flags = temporal << 6 | u8::from(joins) << 5;
    let mut payload = vec![0x90, 0xe0, 0x80 | high, low, 0, flags, u8::from(!key)];
    payload.resize(len, 0);
    payload
}

#[derive(Clone, Copy, PartialEq)]
enum Picture {
    Key,
    /// Needs the picture before.
    Delta,
    /// The highest layer does not need the picture before.
    Fresh(u8),
}

fn vp9(picture: u16, spatial: u8, kind: Picture) -> Vec<u8> {
    let [high, low] = picture.to_be_bytes();
    let is_inter = kind != Picture::Key && kind != Picture::Fresh(spatial);
    let first = 0xac | if is_inter { 0x40 } else { 0 };
    let mut payload = vec![first, 0x80 | high, low, spatial << 1, 0, 0x82];
    payload.resize(300 * (usize::from(spatial) + 1), 0);
    payload
}

#[test]
fn the_bandwidth_decides_and_the_state_says_why() {
    let mut room = Room::new(Codec::Vp8, 3, StreamLayers::default());
    assert_eq!(room.waiting(), Some(Waiting::Media));
    room.vp8(1, true);
    for frame in 2..30 {
        room.vp8(frame, false);
    }
    room.vp8(30, true);
    assert_eq!(room.current(), Some(layers(2, 0)));
    assert_eq!(room.waiting(), None);
    room.asked();

    room.allow(Some(layers(0, 0)));
    let since = room.now;
    room.vp8(31, false);
    let waits = |spatial, requests| Waiting::KeyFrame {
        spatial,
        since,
        requests,
    };
    assert_eq!((room.asked(), room.waiting()), (1, Some(waits(0, 1))));
    let frames = (2 * KEY_FRAME_INTERVAL).as_millis() / FRAME.as_millis();
    for frame in 0..frames as u32 {
        room.vp8(32 + frame, false);
    }
    assert_eq!(room.waiting(), Some(waits(0, 3)));
    assert_eq!(room.current(), Some(layers(2, 0)), "until it is there");
    room.vp8(100, true);
    assert_eq!((room.current(), room.waiting()), (Some(layers(0, 0)), None));
    let state = room.router.layer_state(room.now, room.ann).unwrap();
    assert_eq!(state.target, Some(layers(0, 0)));
    assert_eq!(state.preferred, PreferredLayers::HIGHEST);

    room.asked();
    room.allow(None);
    assert_eq!(
        (room.current(), room.waiting()),
        (None, Some(Waiting::Bandwidth))
    );
    room.vp8(101, true);
    assert_eq!((room.current(), room.asked()), (None, 0));
    room.allow(Some(layers(1, 0)));
    assert_eq!(room.asked(), 1, "at once");
    room.vp8(102, true);
    assert!(room.current().is_some());
    room.router.pause_consumer(room.ann).unwrap();
    assert_eq!(room.waiting(), Some(Waiting::Resume));
    room.router.resume_consumer(room.now, room.ann).unwrap();
    room.router.pause_producer(room.now, room.camera).unwrap();
    assert_eq!(room.waiting(), Some(Waiting::ProducerResume));
    assert_eq!(
        room.costs(),
        LayerCosts::default(),
        "a paused one costs nothing"
    );
    let gone = ConsumerKey::default();
    let error = room.router.set_target_layers(room.now, gone, None);
    assert_eq!(error, Err(Error::UnknownConsumer));
    assert_eq!(room.router.layer_state(room.now, gone), None);
    let error = room.router.set_stream_health(room.camera, 3, true);
    assert_eq!(error, Err(Error::Streams));
}

#[test]
fn a_wish_for_temporal_layers_is_about_its_own_spatial_layer() {
    let mut room = Room::new(Codec::Vp8, 3, StreamLayers::default());
    room.prefer(1, Some(0));
    let pass = |room: &mut Room, picture: u16| {
        room.now += FRAME;
        let payload = vp8(picture, 1, true, false, 100);
        room.send(0, u32::from(picture), true, &payload).is_some()
    };
    room.send(0, 0, true, &vp8(0, 0, false, true, 100));
    assert!(pass(&mut room, 1), "a lower one may have them all");
    room.allow(Some(layers(0, 0)));
    assert!(!pass(&mut room, 2));
    room.allow(Some(layers(0, 7)));
    assert!(pass(&mut room, 3));
    room.prefer(0, Some(0));
    assert!(!pass(&mut room, 4));
}

#[test]
fn a_stream_above_what_is_allowed_takes_little_room_until_it_can_be_left() {
    let mut room = Room::new(Codec::Vp8, 3, StreamLayers::default());
    room.send(2, 0, true, &vp8(0, 0, false, true, 100));
    let got = room.send(2, 1, true, &vp8(1, 1, true, false, 100));
    assert!(got.is_some());
    room.allow(Some(layers(0, 2)));
    assert_eq!(room.send(2, 2, true, &vp8(2, 1, true, false, 100)), None);
    assert!(
        room.send(2, 3, true, &vp8(3, 0, false, false, 100))
            .is_some()
    );
}

#[test]
fn what_comes_too_late_to_be_left_out_is_emptied() {
    let mut room = Room::new(Codec::Vp8, 1, StreamLayers::default());
    room.allow(Some(layers(0, 0)));
    room.send_as(10, 0, 0, true, &vp8(5, 0, false, true, 100));
    // 11 is late, 12 is left out, 13 has the number after that of 11.
    assert_eq!(
        room.send_as(12, 0, 2, true, &vp8(7, 1, false, false, 100)),
        None
    );
    let next = room
        .send_as(13, 0, 3, true, &vp8(8, 0, false, false, 100))
        .unwrap();
    assert_eq!(next.sequence, 2);
    let Payload::Patched(patch) = next.payload else {
        panic!("{next:?}");
    };
    // One of the two pictures in between was left out, the other one not seen.
    assert_eq!((patch.picture_id, patch.tl0_picture), (7, Some(0)));
    let late = room
        .send_as(11, 0, 1, true, &vp8(6, 1, false, false, 100))
        .unwrap();
    assert_eq!(
        (late.sequence, late.payload, late.marker),
        (1, Payload::Empty, false)
    );
}

#[test]
fn temporal_layers_that_cannot_be_joined_are_asked_for_in_the_end() {
    let mut room = Room::new(Codec::Vp8, 1, StreamLayers::default());
    room.allow(Some(layers(0, 0)));
    room.send(0, 0, true, &vp8(0, 0, false, true, 100));
    room.send(0, 1, true, &vp8(1, 1, false, false, 100));
    room.allow(Some(Layers::HIGHEST));
    room.asked();
    let mut picture = 2;
    let start = room.now;
    while room.asked() == 0 {
        room.now += FRAME;
        let temporal = (picture % 2) as u8;
        room.send(
            0,
            picture.into(),
            true,
            &vp8(picture, temporal, false, false, 100),
        );
        assert_eq!(room.current(), Some(layers(0, 0)));
        assert!(matches!(
            room.waiting(),
            Some(Waiting::SwitchPoint { temporal: 1 } | Waiting::KeyFrame { spatial: 0, .. })
        ));
        picture += 1;
    }
    let took = room.now - start;
    assert!(took >= PATIENCE && took < PATIENCE + 5 * FRAME, "{took:?}");
    room.send(0, 1000, true, &vp8(picture, 0, false, true, 100));
    room.send(0, 1001, true, &vp8(picture + 1, 1, false, false, 100));
    assert_eq!((room.current(), room.waiting()), (Some(layers(0, 1)), None));
}

#[test]
fn full_svc_goes_down_at_once_and_up_where_a_decoder_can_follow() {
    use Picture::{Delta, Fresh, Key};
    let mut room = Room::svc(SpatialDependency::Always);
    let all = [0, 1, 2];
    let whole = vec![(0, false), (1, false), (2, true)];
    assert_eq!(room.vp9(1, &all, Key), whole);
    assert_eq!(room.vp9(2, &all, Delta), whole);
    assert_eq!(room.current(), Some(layers(2, 0)));
    room.allow(Some(layers(0, 2)));
    let mut higher = vp9(3, 0, Delta);
    higher[3] |= 0x40;
    let got = room.send(0, 3 * 3600, true, &higher);
    assert!(got.is_some(), "with all of its temporal layers");
    room.allow(Some(layers(0, 0)));
    assert_eq!(room.vp9(4, &all, Delta), [(0, true)]);
    assert_eq!(room.current(), Some(layers(0, 0)));
    // Up again: the layers need earlier pictures.
    room.allow(Some(layers(2, 0)));
    room.asked();
    assert_eq!(room.vp9(5, &all, Delta), [(0, true)]);
    assert_eq!(room.asked(), 0, "it has to be steady");
    for picture in 6..40 {
        room.vp9(picture, &all, Delta);
    }
    assert!(room.asked() > 0);
    assert!(matches!(
        room.waiting(),
        Some(Waiting::KeyFrame {
            spatial: 1 | 2,
            requests: 1,
            ..
        })
    ));
    // The middle one does not need what was before.
    let got = room.vp9(40, &all, Fresh(1));
    assert_eq!(got, [(0, true), (1, true)], "layer 2 is still missing");
    assert_eq!(room.vp9(41, &all, Delta), [(0, false), (1, true)]);
    assert_eq!(room.vp9(42, &all, Key), whole);
    assert_eq!(room.waiting(), None);
    // A layer that is not sent ends with the marker of the sender.
    assert_eq!(room.vp9(43, &[0, 1], Delta), [(0, false), (1, true)]);
    assert_eq!(room.vp9(44, &all, Delta), whole);
}

#[test]
fn k_svc_changes_with_keyframes_only_and_sends_one_layer_between_them() {
    use Picture::{Delta, Key};
    let mut room = Room::svc(SpatialDependency::KeyPictures);
    let all = [0, 1, 2];
    let whole = vec![(0, false), (1, false), (2, true)];
    assert_eq!(room.vp9(1, &all, Key), whole);
    assert_eq!(room.vp9(2, &all, Delta), [(2, true)]);
    room.asked();
    room.allow(Some(layers(1, 0)));
    assert_eq!(room.vp9(3, &all, Delta), [(2, true)], "until the keyframe");
    let mut higher = vp9(0x13, 2, Delta);
    higher[3] |= 0x20;
    let got = room.send(0, 0x13 * 3600, true, &higher);
    assert_eq!(got, None, "but only its lowest temporal layer");
    assert_eq!(room.asked(), 1);
    assert!(matches!(
        room.waiting(),
        Some(Waiting::KeyFrame {
            spatial: 1,
            requests: 1,
            ..
        })
    ));
    assert_eq!(room.vp9(0x14, &all, Key), [(0, false), (1, true)]);
    assert_eq!(room.vp9(0x15, &all, Delta), [(1, true)]);
    assert_eq!((room.waiting(), room.current()), (None, Some(layers(1, 0))));
    room.allow(Some(Layers::HIGHEST));
    assert_eq!(room.vp9(0x16, &all, Key), whole);
    // The sender gives up the highest layer without a keyframe.
    room.now += KEY_FRAME_INTERVAL;
    room.asked();
    for picture in 0x17..0x1b {
        assert_eq!(room.vp9(picture, &[0, 1], Delta), []);
    }
    assert_eq!(room.asked(), 1);
    assert_eq!(room.vp9(0x1b, &[0, 1], Key), [(0, false), (1, true)]);
    assert_eq!(room.vp9(0x1c, &[0, 1], Delta), [(1, true)], "and goes on");
}

#[test]
fn costs_are_those_of_the_kind_of_layers() {
    // 25 pictures of 300, 600 and 900 octets a second, each with 40 around it.
    let alone = [68_000, 128_000, 188_000];
    let near = |cost: Option<u64>, expected: u64| {
        let cost = cost.unwrap();
        assert!(
            cost.abs_diff(expected) <= expected / 20,
            "{cost} {expected}"
        );
    };
    for (dependency, expected) in [
        (SpatialDependency::Always, [68_000, 196_000, 384_000]),
        (SpatialDependency::KeyPictures, alone),
    ] {
        let mut room = Room::svc(dependency);
        for picture in 0..100 {
            room.vp9(picture, &[0, 1, 2], Picture::Key);
        }
        for (spatial, expected) in (0..).zip(expected) {
            near(room.costs().get(layers(spatial, 0)), expected);
            assert_eq!(room.costs().get(layers(spatial, 1)), None);
        }
        let bitrates: Vec<_> = room.router.layer_bitrates(room.now, room.camera).collect();
        assert_eq!(bitrates.len(), 3);
        for ((found, bitrate), (spatial, expected)) in bitrates.into_iter().zip((0..).zip(alone)) {
            assert_eq!(found, layers(spatial, 0));
            near(Some(bitrate), expected);
        }
        // What is not sent any more has no cost.
        let end = room.now + STREAM_TIMEOUT;
        let mut picture = 100;
        while room.now < end {
            room.vp9(picture, &[0, 1], Picture::Delta);
            picture += 1;
        }
        assert_eq!(room.costs().get(layers(2, 0)), None);
        assert!(room.costs().get(layers(1, 0)).is_some());
    }
    let mut room = Room::new(Codec::Vp8, 3, StreamLayers::default());
    for frame in 0..100 {
        room.vp8(frame, false);
    }
    for (spatial, expected) in (0..).zip([108_000, 208_000, 308_000]) {
        near(room.costs().get(layers(spatial, 0)), expected);
    }
    // A stream that arrives too badly is none.
    room.router
        .set_stream_health(room.camera, 2, false)
        .unwrap();
    assert_eq!(room.costs().get(layers(2, 0)), None);
    for stream in [0, 1] {
        room.router
            .set_stream_health(room.camera, stream, false)
            .unwrap();
    }
    assert!(
        room.costs().get(layers(2, 0)).is_some(),
        "unless nothing is better"
    );
}

#[test]
fn temporal_layers_cost_what_is_below_them_too() {
    let mut room = Room::new(Codec::Vp8, 1, StreamLayers::default());
    for picture in 0..200u16 {
        let temporal = [0, 2, 1, 2][usize::from(picture) % 4];
        let len = 250 * (3 - usize::from(temporal));
        room.send(
            0,
            picture.into(),
            true,
            &vp8(picture, temporal, true, picture == 0, len),
        );
        room.now += FRAME;
    }
    // 6.25 × 790, 6.25 × 540 and 12.5 × 290 octets a second.
    for (temporal, expected) in [(0, 39_500), (1, 66_500), (2, 95_500)] {
        let cost = room.costs().get(layers(0, temporal)).unwrap();
        assert!(
            cost.abs_diff(expected) < expected / 10,
            "{temporal}: {cost}"
        );
    }
}

#[test]
fn consumers_leave_a_stream_that_fails() {
    let mut room = Room::new(Codec::Vp8, 3, StreamLayers::default());
    room.vp8(0, true);
    let frames = (2 * STEADY_AFTER).as_millis() / FRAME.as_millis();
    for frame in 1..frames as u32 {
        room.vp8(frame, false);
    }
    room.vp8(100, true);
    assert_eq!(room.current(), Some(layers(2, 0)));
    room.router
        .set_stream_health(room.camera, 2, false)
        .unwrap();
    room.vp8(101, false);
    assert!(matches!(
        room.waiting(),
        Some(Waiting::KeyFrame { spatial: 1, .. })
    ));
    room.vp8(102, true);
    assert_eq!(room.current(), Some(layers(1, 0)));
}

/// A small random number generator (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.below(most + 1);
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

#[test]
fn no_payload_and_no_descriptor_breaks_a_room() {
    // A keyframe with a structure of two spatial layers, to which other frames refer.
    const KEY: [u8; 10] = [0xc0, 0x00, 0x01, 0x80, 0x02, 0x0b, 0xd5, 0x55, 0x82, 0x00];
    let mut random = Random(0x5eed);
    for round in 0..60 {
        let codec = [Codec::Vp8, Codec::Vp9, Codec::Av1][round % 3];
        let dependency = if round % 2 == 0 {
            SpatialDependency::Always
        } else {
            SpatialDependency::KeyPictures
        };
        let streams = 1 + round % 3;
        let kind = StreamLayers {
            spatial: 3,
            temporal: 3,
            dependency,
        };
        let mut room = Room::new(codec, streams, kind);
        let mut sequence = 1000;
        let (mut forwarded, mut layered) = (0, false);
        for _ in 0..2000 {
            room.now += Duration::from_millis(random.below(30));
            sequence += random.below(4);
            let mut payload = random.bytes(12);
            if let Some(first) = payload.first_mut().filter(|_| random.below(2) == 0) {
                // Often what begins a keyframe.
                *first = match codec {
                    Codec::Vp8 => 0x90,
                    Codec::Vp9 => 0x8c | *first & 0x33,
                    _ => 0x18,
                };
            }
            let mut descriptor = random.bytes(40);
            if random.below(2) == 0 {
                descriptor = KEY[..if random.below(4) == 0 { 10 } else { 3 }].to_vec();
                descriptor[0] = descriptor[0] & 0xc0 | random.below(5) as u8;
                descriptor[2] = random.below(256) as u8;
            }
            let packet = RtpIn {
                stream: random.below(streams as u64) as usize,
                codec,
                sequence: sequence - random.below(3),
                timestamp: (sequence / 3) as u32 * 3600,
                marker: random.below(3) == 0,
                payload: &payload,
                captured: None,
                audio_level: None,
                dependency_descriptor: (codec == Codec::Av1).then_some(&descriptor),
            };
            let mut out: Vec<Forward> = Vec::new();
            room.router
                .handle_rtp(room.now, room.camera, &packet, &mut out);
            for forward in &out {
                forwarded += 1;
                if let Payload::Patched(patch) = forward.payload {
                    let mut own = payload.clone();
                    patch.apply(&mut own);
                    assert_ne!(own, payload);
                }
            }
            if random.below(20) == 0 {
                let target = layers(random.below(4) as u8, random.below(4) as u8);
                room.allow(Some(target).filter(|_| random.below(10) > 0));
                let _ = (room.waiting(), room.costs());
                let all = room.router.layer_bitrates(room.now, room.camera);
                layered |= all
                    .into_iter()
                    .any(|(layers, _)| layers != Layers::default());
            }
            room.router.handle_timeout(room.now);
            room.asked();
            room.router.check_invariants().unwrap();
        }
        assert!(layered, "{codec:?}");
        assert!(
            forwarded > 20,
            "{codec:?} {dependency:?} {streams}: {forwarded}"
        );
    }
}
