//! The router from the outside, told as short stories: who joins, what arrives, what is forwarded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail"
)]

use std::time::{Duration, Instant};

use router::{
    Action, CAPTURE_TRUST, Codec, ConsumerConfig, ConsumerKey, DECISION_INTERVAL, Error, Forward,
    KEY_FRAME_INTERVAL, Kept, Layers, MAX_STREAMS, MIN_PACKETS, MediaKind, PreferredLayers,
    ProducerConfig, ProducerKey, REPLAY_SPEED, RESTART_AFTER, Replayed, Router, RtpIn,
    SPEAKER_INTERVAL, STEADY_AFTER, STREAM_TIMEOUT, Sink, StreamLayers,
};

/// VP8 as Chrome sends it: 15-bit picture id, TL0PICIDX, TID and KEYIDX.
const KEY: &[u8] = &[
    0x90, 0xf0, 0x80, 0x05, 0x00, 0x20, 0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a,
];
const DELTA: &[u8] = &[0x90, 0xf0, 0x80, 0x06, 0x00, 0x20, 0x11, 0x02, 0x00];
const NEXT_OF_FRAME: &[u8] = &[0x80, 0xf0, 0x80, 0x05, 0x00, 0x20, 0x33, 0x44];
const SOUND: &[u8] = &[0x78, 0x01, 0x02];
const PADDING: &[u8] = &[];

const FIRST: u64 = 65_530;
const FIRST_TIME: u32 = u32::MAX - 5;

/// A room with a clock of its own.
struct Room {
    router: Router,
    start: Instant,
    now: Instant,
}

/// A forwarded packet, as the tests compare it: who, sequence number, timestamp. The numbers count
/// from the consumer's initial ones.
type Got = (ConsumerKey, u64, u32);

impl Room {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            router: Router::new(),
            start,
            now: start,
        }
    }

    fn producer(&mut self, kind: MediaKind, streams: usize) -> ProducerKey {
        let clock_rate = if kind == MediaKind::Audio {
            48_000
        } else {
            90_000
        };
        let config = ProducerConfig {
            kind,
            clock_rate,
            streams,
            paused: false,
            layers: StreamLayers::default(),
        };
        self.router.create_producer(self.now, config).unwrap()
    }

    fn consumer(&mut self, producer: ProducerKey, paused: bool) -> ConsumerKey {
        let config = ConsumerConfig {
            producer,
            sink: Sink {
                transport: 7,
                slot: 3,
            },
            paused,
            initial_sequence: FIRST as u16,
            initial_timestamp: FIRST_TIME,
        };
        self.router.create_consumer(self.now, config).unwrap()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.router.handle_timeout(self.now);
    }

    fn wait_ms(&mut self, ms: u64) {
        self.wait(Duration::from_millis(ms));
    }

    fn send(&mut self, producer: ProducerKey, packet: RtpIn<'_>) -> Vec<Got> {
        let mut out = Vec::new();
        self.router
            .handle_rtp(self.now, producer, &packet, &mut out);
        self.router.check_invariants().unwrap();
        for Forward { sink, marker, .. } in &out {
            assert_eq!(
                *sink,
                Sink {
                    transport: 7,
                    slot: 3
                }
            );
            assert_eq!(*marker, packet.marker);
        }
        let number = |f: &Forward| {
            f.sequence
                .checked_sub(FIRST)
                .expect("below the first number")
        };
        out.iter()
            .map(|f| (f.consumer, number(f), f.timestamp.wrapping_sub(FIRST_TIME)))
            .collect()
    }

    /// Takes a packet that nobody gets, and answers it as it is kept.
    fn keep<'a>(&mut self, producer: ProducerKey, packet: RtpIn<'a>) -> (Kept, RtpIn<'a>) {
        let now = self.now;
        let mut out = Vec::new();
        let kept = self.router.handle_rtp(now, producer, &packet, &mut out);
        assert_eq!(out, []);
        (kept.expect("may be replayed"), packet)
    }

    /// Replays packets; `None`: the consumer has not begun.
    fn replay(
        &mut self,
        consumer: ConsumerKey,
        packets: &[(Kept, RtpIn<'_>)],
    ) -> Option<Vec<(usize, u64, u32)>> {
        let packets: Vec<Replayed<'_>> = packets
            .iter()
            .map(|(kept, rtp)| Replayed { kept, rtp: *rtp })
            .collect();
        let mut out = Vec::new();
        let begun = self.router.replay(self.now, consumer, &packets, &mut out);
        self.router.check_invariants().unwrap();
        assert!(begun || out.is_empty());
        let got = out.iter().map(|(index, f)| {
            assert_eq!(f.consumer, consumer);
            let number = f.sequence.checked_sub(FIRST).expect("below the first");
            (*index, number, f.timestamp.wrapping_sub(FIRST_TIME))
        });
        begun.then(|| got.collect())
    }

    /// Streams that were asked for a keyframe since the last call.
    fn asked(&mut self) -> Vec<usize> {
        std::iter::from_fn(|| self.router.poll_action())
            .filter_map(|action| match action {
                Action::RequestKeyFrame { stream, .. } => Some(stream),
                _ => None,
            })
            .collect()
    }

    /// What was to be told since the last call.
    fn told(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.router.poll_action())
            .filter(|action| !matches!(action, Action::RequestKeyFrame { .. }))
            .collect()
    }

    fn prefer(&mut self, consumer: ConsumerKey, spatial: usize) -> usize {
        let layers = PreferredLayers {
            spatial,
            temporal: None,
        };
        let kept = self.router.set_preferred_layers(consumer, layers);
        kept.unwrap().spatial
    }
}

fn packet(sequence: u64, timestamp: u32, payload: &[u8]) -> RtpIn<'_> {
    let codec = if payload == SOUND {
        Codec::Opus
    } else {
        Codec::Vp8
    };
    RtpIn {
        stream: 0,
        codec,
        sequence,
        timestamp,
        marker: true,
        payload,
        captured: None,
        audio_level: None,
        dependency_descriptor: None,
    }
}

fn on(stream: usize, packet: RtpIn<'_>) -> RtpIn<'_> {
    RtpIn { stream, ..packet }
}

fn unfinished(packet: RtpIn<'_>) -> RtpIn<'_> {
    RtpIn {
        marker: false,
        ..packet
    }
}

#[test]
fn sound_reaches_everybody_at_once_under_their_own_numbers() {
    let mut room = Room::new();
    let microphone = room.producer(MediaKind::Audio, 1);
    let ann = room.consumer(microphone, false);
    assert_eq!(
        room.send(microphone, packet(9_000, 77, SOUND)),
        [(ann, 0, 0)]
    );
    let bob = room.consumer(microphone, false);
    let got = room.send(microphone, packet(9_001, 77 + 960, SOUND));
    assert_eq!(got, [(ann, 1, 960), (bob, 0, 0)]);
    assert_eq!(room.asked(), [] as [usize; 0], "sound has no keyframes");
}

#[test]
fn sound_paused_for_ten_seconds_resumes_without_a_gap_and_ten_seconds_later() {
    let mut room = Room::new();
    let microphone = room.producer(MediaKind::Audio, 1);
    let ann = room.consumer(microphone, false);
    room.send(microphone, unfinished(packet(100, 0, SOUND)));
    room.router.pause_consumer(ann).unwrap();
    assert_eq!(room.send(microphone, packet(101, 960, SOUND)), []);
    room.wait_ms(10_000);
    room.router.resume_consumer(room.now, ann).unwrap();
    // Reordered behind 101, which Ann did not get: older than her new start, whatever that will be.
    assert_eq!(room.send(microphone, packet(99, 0, SOUND)), []);
    assert_eq!(
        room.send(microphone, packet(600, 480_000, SOUND)),
        [(ann, 1, 480_000)]
    );
    assert_eq!(room.send(microphone, packet(599, 479_040, SOUND)), []);
    assert_eq!(
        room.send(microphone, packet(602, 481_920, SOUND)),
        [(ann, 3, 481_920)]
    );
    assert_eq!(
        room.send(microphone, packet(601, 480_960, SOUND)),
        [(ann, 2, 480_960)]
    );
}

#[test]
fn video_begins_with_a_keyframe_which_is_asked_for() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    room.send(camera, packet(10, 0, KEY));
    let ann = room.consumer(camera, false);
    assert_eq!(room.asked(), [0]);
    assert_eq!(room.send(camera, packet(11, 3000, DELTA)), []);
    assert_eq!(room.router.consumer_stream(ann), None);
    assert_eq!(
        room.send(camera, unfinished(packet(12, 6000, KEY))),
        [(ann, 0, 0)]
    );
    assert_eq!(room.router.consumer_stream(ann), Some(0));
    assert_eq!(
        room.send(camera, packet(13, 6000, NEXT_OF_FRAME)),
        [(ann, 1, 0)]
    );
    assert_eq!(room.send(camera, packet(14, 9000, DELTA)), [(ann, 2, 3000)]);
}

#[test]
fn a_lost_packet_leaves_a_gap_that_its_repair_fills_and_duplicates_go_nowhere() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    room.send(camera, packet(10, 0, KEY));
    assert_eq!(room.send(camera, packet(13, 9000, DELTA)), [(ann, 3, 9000)]);
    assert_eq!(room.send(camera, packet(11, 3000, DELTA)), [(ann, 1, 3000)]);
    assert_eq!(room.send(camera, packet(11, 3000, DELTA)), []);
    assert_eq!(
        room.send(camera, packet(9, 0, DELTA)),
        [],
        "from before her start"
    );
    assert_eq!(room.send(camera, packet(12, 6000, DELTA)), [(ann, 2, 6000)]);
}

#[test]
fn padding_takes_no_number_unless_it_comes_too_late_to_be_left_out() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    room.send(camera, packet(10, 0, KEY));
    assert_eq!(room.send(camera, packet(11, 0, PADDING)), []);
    assert_eq!(room.send(camera, packet(12, 3000, DELTA)), [(ann, 1, 3000)]);
    // 14 overtakes the padding 13 and is numbered as if 13 were video. Leaving 13 out now would
    // leave a hole that nothing can ever fill.
    assert_eq!(room.send(camera, packet(14, 6000, DELTA)), [(ann, 3, 6000)]);
    assert_eq!(
        room.send(camera, packet(13, 3000, PADDING)),
        [(ann, 2, 3000)]
    );
}

#[test]
fn padding_starts_nobody() {
    let mut room = Room::new();
    let microphone = room.producer(MediaKind::Audio, 1);
    let ann = room.consumer(microphone, false);
    assert_eq!(room.send(microphone, packet(10, 0, PADDING)), []);
    assert_eq!(room.send(microphone, packet(11, 960, SOUND)), [(ann, 0, 0)]);
}

#[test]
fn a_keyframe_whose_beginning_is_late_starts_nobody() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    room.send(camera, packet(10, 0, DELTA));
    assert_eq!(room.asked(), [0]);
    assert_eq!(room.send(camera, packet(12, 3000, NEXT_OF_FRAME)), []);
    assert_eq!(room.send(camera, packet(11, 3000, KEY)), []);
    room.wait(KEY_FRAME_INTERVAL);
    assert_eq!(room.asked(), [0], "so another one is needed");
    assert_eq!(room.send(camera, packet(13, 6000, KEY)), [(ann, 0, 0)]);
}

#[test]
fn only_the_first_of_the_packets_that_begin_an_h264_keyframe_counts() {
    let parameter_sets: &[u8] = &[0x78, 0x00, 0x02, 0x67, 0x42, 0x00, 0x02, 0x68, 0xce];
    let picture: &[u8] = &[0x7c, 0x85, 0x88, 0x84];
    let h264 = |sequence, timestamp, payload| RtpIn {
        codec: Codec::H264,
        ..packet(sequence, timestamp, payload)
    };
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    assert_eq!(
        room.send(camera, h264(10, 0, parameter_sets)),
        [(ann, 0, 0)]
    );
    let bob = room.consumer(camera, false);
    let got = room.send(camera, h264(11, 0, picture));
    assert_eq!(got, [(ann, 1, 0)], "Bob has missed the parameter sets");
    let got = room.send(camera, h264(12, 3000, picture));
    assert_eq!(
        got,
        [(ann, 2, 3000), (bob, 0, 0)],
        "this frame does without them"
    );
}

#[test]
fn a_frame_cut_off_by_a_pause_shows_as_one_missing_number() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    assert_eq!(
        room.send(camera, unfinished(packet(10, 0, KEY))),
        [(ann, 0, 0)]
    );
    room.router.pause_consumer(ann).unwrap();
    room.router.resume_consumer(room.now, ann).unwrap();
    assert_eq!(room.send(camera, packet(11, 0, NEXT_OF_FRAME)), []);
    assert_eq!(room.send(camera, packet(12, 3000, KEY)), [(ann, 2, 3000)]);
    room.router.pause_consumer(ann).unwrap();
    room.router.resume_consumer(room.now, ann).unwrap();
    let got = room.send(camera, packet(13, 6000, KEY));
    assert_eq!(
        got,
        [(ann, 3, 6000)],
        "nothing is missing after a whole frame"
    );
}

#[test]
fn video_in_an_unknown_codec_is_forwarded_at_once() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    assert_eq!(room.asked(), [], "no packet, no SSRC to ask");
    let other = RtpIn {
        codec: Codec::Other,
        ..packet(5, 0, &[1, 2, 3])
    };
    assert_eq!(room.send(camera, other), [(ann, 0, 0)]);
    assert_eq!(room.asked(), [0], "but its decoder still needs a keyframe");
}

#[test]
fn a_paused_producer_sends_and_is_asked_nothing() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    room.send(camera, packet(10, 0, KEY));
    room.router.request_key_frame(room.now, ann).unwrap();
    room.router.request_key_frame(room.now, ann).unwrap();
    room.router.pause_producer(room.now, camera).unwrap();
    assert_eq!(room.router.is_producer_paused(camera), Some(true));
    assert_eq!(room.send(camera, packet(11, 3000, KEY)), []);
    room.router.request_key_frame(room.now, ann).unwrap();
    room.wait_ms(5_000);
    assert_eq!(room.asked(), []);
    assert_eq!(room.router.next_timeout(), None);

    room.router.resume_producer(room.now, camera).unwrap();
    assert_eq!(room.asked(), [0]);
    assert_eq!(room.send(camera, packet(12, 450_000, DELTA)), []);
    assert_eq!(
        room.send(camera, packet(13, 453_000, KEY)),
        [(ann, 1, 453_000)]
    );
}

#[test]
fn a_paused_microphone_resumes_at_once() {
    let mut room = Room::new();
    let microphone = room.producer(MediaKind::Audio, 1);
    let ann = room.consumer(microphone, false);
    room.send(microphone, packet(10, 0, SOUND));
    room.router.pause_producer(room.now, microphone).unwrap();
    assert_eq!(room.send(microphone, packet(11, 960, SOUND)), []);
    room.router.resume_producer(room.now, microphone).unwrap();
    assert_eq!(
        room.send(microphone, packet(12, 1920, SOUND)),
        [(ann, 1, 1920)]
    );
}

#[test]
fn many_wishes_are_one_request_a_second() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    room.send(camera, packet(10, 0, KEY));
    let ann = room.consumer(camera, false);
    let bob = room.consumer(camera, false);
    assert_eq!(room.asked(), [0]);
    assert_eq!(
        room.router.next_timeout(),
        Some(room.start + KEY_FRAME_INTERVAL)
    );
    room.wait(KEY_FRAME_INTERVAL - Duration::from_millis(1));
    room.router.request_key_frame(room.now, ann).unwrap();
    assert_eq!(room.asked(), []);
    room.wait_ms(1);
    assert_eq!(room.asked(), [0], "the wish was kept");
    room.router.request_key_frame(room.now, bob).unwrap();
    room.send(camera, packet(11, 90_000, KEY));
    room.wait(2 * KEY_FRAME_INTERVAL);
    assert_eq!(room.asked(), [], "and the keyframe fulfils it");
    assert_eq!(room.router.next_timeout(), None);
}

#[test]
fn who_waits_asks_again_every_second_while_packets_flow() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    room.send(camera, packet(0, 0, KEY));
    let ann = room.consumer(camera, true);
    room.router.resume_consumer(room.now, ann).unwrap();
    let mut requests = 0;
    for sequence in 1..=100 {
        room.wait_ms(33);
        room.send(camera, packet(sequence, sequence as u32 * 3000, DELTA));
        requests += room.asked().len();
    }
    assert_eq!(requests, 4, "at 0, 1, 2 and 3 s");
    room.wait(KEY_FRAME_INTERVAL);
    assert_eq!(room.asked(), [0], "the wish of the last packets");
    room.wait(10 * KEY_FRAME_INTERVAL);
    assert_eq!(room.asked(), [], "nothing flows, nothing to wait for");
    // The next packet is a wish again, and the second is long over.
    room.send(camera, packet(101, 1_000_000, DELTA));
    assert_eq!(room.asked(), [0]);
    let got = room.send(camera, packet(102, 1_003_000, KEY));
    assert_eq!(got, [(ann, 0, 0)]);
}

#[test]
fn paused_consumers_ask_for_nothing() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, true);
    assert_eq!(room.router.is_consumer_paused(ann), Some(true));
    room.router.request_key_frame(room.now, ann).unwrap();
    assert_eq!(room.send(camera, packet(0, 0, DELTA)), []);
    room.wait(KEY_FRAME_INTERVAL);
    assert_eq!(room.asked(), []);
}

#[test]
fn a_request_before_the_first_packet_is_kept_until_the_stream_starts() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 2);
    let ann = room.consumer(camera, false);
    room.wait(10 * KEY_FRAME_INTERVAL);
    assert_eq!(room.asked(), [], "there is no SSRC yet");
    room.send(camera, packet(0, 0, DELTA));
    assert_eq!(room.asked(), [0]);
    assert_eq!(room.send(camera, on(1, packet(5, 0, KEY))), [(ann, 0, 0)]);
    room.wait_ms(10_000);
    assert_eq!(room.asked(), [], "stream 1 began with one");
}

/// Sends a frame of one packet on each of the given streams, every 40 ms for a while.
fn flow(
    room: &mut Room,
    camera: ProducerKey,
    streams: &[usize],
    time: Duration,
    sequence: &mut u64,
) -> Vec<Got> {
    let end = room.now + time;
    let mut got = Vec::new();
    while room.now < end {
        for stream in streams {
            let clock =
                (room.now - room.start).as_millis() as u32 * 90 + *stream as u32 * 1_000_000;
            got.extend(room.send(camera, on(*stream, packet(*sequence, clock, DELTA))));
        }
        *sequence += 1;
        room.wait_ms(40);
    }
    got
}

#[test]
fn simulcast_starts_with_anything_and_moves_up_at_a_keyframe() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 3);
    let ann = room.consumer(camera, false);
    assert_eq!(room.send(camera, packet(0, 0, KEY)), [(ann, 0, 0)]);
    let mut sequence = 1;
    let forwarded = flow(&mut room, camera, &[0, 1, 2], STEADY_AFTER, &mut sequence).len() as u64;
    assert_eq!(room.router.consumer_stream(ann), Some(0));
    room.asked();
    room.wait(KEY_FRAME_INTERVAL);
    flow(
        &mut room,
        camera,
        &[0, 1, 2],
        Duration::from_millis(40),
        &mut sequence,
    );
    assert_eq!(room.asked(), [2], "only the best is asked");
    let got = room.send(camera, on(1, packet(sequence, 5_000_000, KEY)));
    assert_eq!(got, [], "a step in between is no use");
    let got = room.send(camera, on(2, unfinished(packet(sequence, 9_000_000, KEY))));
    // The last frame on stream 0 was sent 40 ms ago.
    let at = ((room.now - room.start).as_millis() as u32 - 40) * 90 + 40 * 90;
    assert_eq!(got, [(ann, forwarded + 2, at)]);
    assert_eq!(room.router.consumer_stream(ann), Some(2));
    let got = room.send(camera, packet(sequence, 0, DELTA));
    assert_eq!(got, [], "the old stream is over");
    let got = room.send(camera, on(2, packet(sequence + 1, 9_003_000, DELTA)));
    assert_eq!(got, [(ann, forwarded + 3, at + 3000)]);
}

#[test]
fn simulcast_moves_down_when_its_stream_stops() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 2);
    let ann = room.consumer(camera, false);
    room.send(camera, packet(0, 0, DELTA));
    room.send(camera, on(1, packet(0, 0, KEY)));
    room.asked();
    let mut sequence = 1;
    let got = flow(&mut room, camera, &[0], STREAM_TIMEOUT, &mut sequence);
    assert_eq!(got, []);
    assert_eq!(room.asked(), [], "stream 1 may come back");
    assert_eq!(room.router.wanted_stream(room.now, ann), Some(0));
    flow(
        &mut room,
        camera,
        &[0],
        Duration::from_millis(40),
        &mut sequence,
    );
    assert_eq!(room.asked(), [0]);
    let passed = (room.now - room.start).as_millis() as u32 * 90;
    let got = room.send(camera, packet(sequence, 1, KEY));
    assert_eq!(got, [(ann, 1, passed)]);
}

#[test]
fn streams_that_send_a_frame_every_three_seconds_do_not_make_consumers_jump() {
    let mut room = Room::new();
    let screen = room.producer(MediaKind::Video, 2);
    let ann = room.consumer(screen, false);
    room.send(screen, on(1, packet(0, 0, KEY)));
    room.asked();
    for sequence in 1..10 {
        room.wait_ms(3_000);
        let time = sequence as u32 * 270_000;
        assert_eq!(room.send(screen, packet(sequence, time, KEY)), []);
        let got = room.send(screen, on(1, packet(sequence, time, DELTA)));
        assert_eq!(got, [(ann, sequence, time)]);
    }
    assert_eq!(room.asked(), []);
}

#[test]
fn a_switch_is_placed_by_capture_times() {
    let captured = |room: &Room, ms| Some(room.start + Duration::from_millis(ms));
    // Captured times of the frame before and after, expected step.
    for (from, to, ticks) in [
        (Some(100), Some(133), 2970),
        (Some(100), Some(100), 1),
        (Some(133), Some(100), 1),
        (Some(100), None, 45_000),
        (
            Some(100),
            Some(700 + CAPTURE_TRUST.as_millis() as u64),
            45_000,
        ),
    ] {
        let mut room = Room::new();
        let camera = room.producer(MediaKind::Video, 2);
        let ann = room.consumer(camera, false);
        let from = from.and_then(|ms| captured(&room, ms));
        let to = to.and_then(|ms| captured(&room, ms));
        room.send(
            camera,
            RtpIn {
                captured: from,
                ..packet(0, 0, KEY)
            },
        );
        room.router.pause_consumer(ann).unwrap();
        room.wait_ms(500);
        room.router.resume_consumer(room.now, ann).unwrap();
        let got = room.send(
            camera,
            on(
                1,
                RtpIn {
                    captured: to,
                    ..packet(8, 12_345, KEY)
                },
            ),
        );
        assert_eq!(got, [(ann, 1, ticks)]);
    }
}

#[test]
fn a_new_source_behind_a_stream_continues_where_the_old_one_stopped() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, false);
    room.send(camera, packet(1000, 0, KEY));
    room.asked();
    room.wait_ms(100);
    room.router.restart_stream(camera, 0).unwrap();
    // Inside of the old window, and with another clock.
    assert_eq!(room.send(camera, packet(900, 3_000_000_000, DELTA)), []);
    room.wait_ms(900);
    assert_eq!(room.asked(), [0]);
    let got = room.send(camera, packet(901, 3_000_090_000, KEY));
    assert_eq!(got, [(ann, 1, 90_000)]);
    assert_eq!(room.router.restart_stream(camera, 1), Err(Error::Streams));
}

#[test]
fn a_source_that_starts_anew_unannounced_is_noticed() {
    let mut room = Room::new();
    let microphone = room.producer(MediaKind::Audio, 1);
    let ann = room.consumer(microphone, false);
    room.send(microphone, packet(50_000, 0, SOUND));
    room.wait_ms(1_000);
    for stray in 1..RESTART_AFTER {
        let stray = packet(u64::from(stray), 9_999, SOUND);
        assert_eq!(room.send(microphone, stray), []);
    }
    let got = room.send(microphone, packet(u64::from(RESTART_AFTER), 9_999, SOUND));
    assert_eq!(got, [(ann, 1, 48_000)]);
}

#[test]
fn a_pause_is_no_silence() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 3);
    let ann = room.consumer(camera, false);
    let wanted = |room: &Room| room.router.wanted_stream(room.now, ann);
    assert_eq!(wanted(&room), None);
    room.send(camera, packet(0, 0, DELTA));
    room.send(camera, on(2, packet(0, 0, DELTA)));
    room.send(camera, on(1, packet(0, 0, PADDING)));
    assert_eq!(wanted(&room), Some(2));
    room.wait_ms(1_500);
    room.send(camera, packet(1, 0, DELTA));
    room.wait_ms(500);
    assert_eq!(wanted(&room), Some(0));

    room.router.pause_producer(room.now, camera).unwrap();
    room.wait_ms(60_000);
    assert_eq!(wanted(&room), None);
    room.router.resume_producer(room.now, camera).unwrap();
    room.wait_ms(1_999);
    assert_eq!(wanted(&room), Some(0), "its end leaves time to begin");
    room.wait_ms(1);
    assert_eq!(wanted(&room), None);
}

#[test]
fn preferred_layers_are_kept_to_and_told() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 3);
    let ann = room.consumer(camera, false);
    let tell = |stream: Option<u8>| Action::TellLayer {
        consumer: ann,
        layers: stream.map(|stream| Layers::new(stream, 0)),
    };
    assert_eq!(room.prefer(ann, 1), 1);
    room.send(camera, on(2, packet(0, 0, KEY)));
    assert_eq!(room.told(), [tell(Some(2))], "nothing else flows");
    let mut sequence = 1;
    let moment = Duration::from_millis(40);
    flow(&mut room, camera, &[0, 1, 2], moment, &mut sequence);
    room.asked();
    flow(&mut room, camera, &[0, 1, 2], STEADY_AFTER, &mut sequence);
    flow(&mut room, camera, &[0, 1, 2], moment, &mut sequence);
    assert_eq!(room.asked(), [1]);
    let got = room.send(camera, on(1, packet(900, 0, KEY)));
    assert_eq!(got.len(), 1);
    assert_eq!(room.told(), [tell(Some(1))]);
    // Up again, with the next keyframe; meanwhile the old one goes on.
    assert_eq!(room.prefer(ann, 77), 2, "clamped");
    assert_eq!(room.send(camera, on(1, packet(901, 0, DELTA))).len(), 1);
    assert_eq!(room.send(camera, on(2, packet(900, 0, DELTA))), []);
    assert_eq!(room.send(camera, on(2, packet(901, 9, KEY))).len(), 1);
    assert_eq!(room.told(), [tell(Some(2))]);

    room.router.pause_consumer(ann).unwrap();
    assert_eq!(room.told(), [tell(None)]);
    room.router.pause_producer(room.now, camera).unwrap();
    assert_eq!(room.told(), [], "told already");

    let screen = room.producer(MediaKind::Video, 1);
    let bob = room.consumer(screen, false);
    assert_eq!(room.prefer(bob, 3), 0);
    assert_eq!(room.send(screen, packet(0, 0, KEY)).len(), 1);
    assert_eq!(room.told(), [], "it has no layers");
    assert_eq!(room.router.priority(bob).unwrap().get(), 1);
    let priority = 255.try_into().unwrap();
    room.router.set_priority(bob, priority).unwrap();
    assert_eq!(room.router.priority(bob), Some(priority));
    room.router.close_consumer(bob);
    assert_eq!(
        room.router.set_priority(bob, priority),
        Err(Error::UnknownConsumer)
    );
}

/// Sends as many packets as it takes to be judged.
fn speak(room: &mut Room, producer: ProducerKey, sequence: &mut u64, level: i8) {
    for _ in 0..MIN_PACKETS {
        *sequence += 1;
        let sound = RtpIn {
            audio_level: Some(level),
            ..packet(*sequence, 0, SOUND)
        };
        room.send(producer, sound);
    }
}

#[test]
fn the_loudest_speaker_is_told() {
    let mut room = Room::new();
    let ann = room.producer(MediaKind::Audio, 1);
    let bob = room.producer(MediaKind::Audio, 1);
    assert_eq!(room.router.next_timeout(), None, "nobody to listen to");
    let tell = |producer, volume| Action::TellSpeaker { producer, volume };
    let (mut a, mut b) = (0, 0);
    speak(&mut room, ann, &mut a, -40);
    speak(&mut room, bob, &mut b, -30);
    assert_eq!(
        room.router.next_timeout(),
        Some(room.now + DECISION_INTERVAL)
    );
    room.wait(SPEAKER_INTERVAL);
    assert_eq!(room.told(), [tell(Some(bob), -30)]);
    assert_eq!(room.router.speakers(), [(bob, -30), (ann, -40)]);
    // Who is paused is not heard, and who is closed is not named.
    speak(&mut room, bob, &mut b, -30);
    room.router.pause_producer(room.now, bob).unwrap();
    speak(&mut room, bob, &mut b, -30);
    speak(&mut room, ann, &mut a, -40);
    room.wait(SPEAKER_INTERVAL);
    assert_eq!(room.told(), [tell(Some(ann), -40)]);
    speak(&mut room, ann, &mut a, -40);
    room.router.close_producer(ann);
    room.wait(SPEAKER_INTERVAL);
    assert_eq!(room.told(), [tell(None, 0)]);
    room.wait(Duration::from_secs(3));
    assert_eq!(room.router.next_timeout(), None);
}

#[test]
fn whoever_leads_the_conversation_is_told() {
    let mut room = Room::new();
    let [ann, bob] = [1, 1].map(|streams| room.producer(MediaKind::Audio, streams));
    let mut sequence = 0;
    // Some time in which each sends such a level every 20 ms.
    let talk = |room: &mut Room, sequence: &mut u64, levels: [i8; 2]| {
        for _ in 0..75 {
            *sequence += 1;
            for (producer, level) in [ann, bob].into_iter().zip(levels) {
                let sound = RtpIn {
                    audio_level: Some(level),
                    ..packet(*sequence, 0, SOUND)
                };
                room.send(producer, sound);
            }
            room.wait(Duration::from_millis(20));
        }
        let mut told = room.told();
        told.retain(|action| matches!(action, Action::TellDominantSpeaker { .. }));
        told
    };
    let leads = |producer| [Action::TellDominantSpeaker { producer }];
    assert_eq!(talk(&mut room, &mut sequence, [-90, -90]), []);
    assert_eq!(talk(&mut room, &mut sequence, [-30, -90]), leads(ann));
    assert_eq!(talk(&mut room, &mut sequence, [-90, -30]), leads(bob));
    // Who is paused cannot lead; nobody else speaks, then somebody does.
    room.router.pause_producer(room.now, bob).unwrap();
    assert_eq!(talk(&mut room, &mut sequence, [-90, -30]), []);
    assert_eq!(talk(&mut room, &mut sequence, [-30, -30]), leads(ann));
    room.router.close_producer(ann);
    room.router.resume_producer(room.now, bob).unwrap();
    assert_eq!(talk(&mut room, &mut sequence, [-30, -90]), []);
    assert_eq!(talk(&mut room, &mut sequence, [-30, -30]), leads(bob));
}

#[test]
fn closing_a_producer_closes_its_consumers_and_nobody_elses() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let screen = room.producer(MediaKind::Video, 1);
    room.send(camera, packet(0, 0, DELTA));
    let ann = room.consumer(camera, false);
    let bob = room.consumer(camera, false);
    let eve = room.consumer(camera, false);
    let other = room.consumer(screen, false);
    room.router.close_consumer(bob);
    assert_eq!(room.router.close_producer(camera), [ann, eve]);
    assert_eq!(room.asked(), [], "nobody is left to be asked");
    room.wait(KEY_FRAME_INTERVAL);
    assert_eq!(room.router.next_timeout(), None);
    assert_eq!(room.send(camera, packet(1, 0, KEY)), []);
    assert_eq!(room.send(screen, packet(1, 0, KEY)), [(other, 0, 0)]);

    assert_eq!(room.router.close_producer(camera), []);
    room.router.close_consumer(ann);
    assert_eq!(room.router.pause_consumer(ann), Err(Error::UnknownConsumer));
    assert_eq!(
        room.router.resume_consumer(room.now, ann),
        Err(Error::UnknownConsumer)
    );
    assert_eq!(
        room.router.request_key_frame(room.now, ann),
        Err(Error::UnknownConsumer)
    );
    assert_eq!(
        room.router.pause_producer(room.now, camera),
        Err(Error::UnknownProducer)
    );
    assert_eq!(
        room.router.resume_producer(room.now, camera),
        Err(Error::UnknownProducer)
    );
    assert_eq!(
        room.router.restart_stream(camera, 0),
        Err(Error::UnknownProducer)
    );
    assert_eq!(room.router.wanted_stream(room.now, ann), None);
}

#[test]
fn nonsense_is_refused_or_ignored() {
    let mut room = Room::new();
    for (streams, clock_rate, error) in [
        (0, 90_000, Error::Streams),
        (MAX_STREAMS + 1, 90_000, Error::Streams),
        (1, 0, Error::ClockRate),
    ] {
        let config = ProducerConfig {
            kind: MediaKind::Video,
            clock_rate,
            streams,
            paused: false,
            layers: StreamLayers::default(),
        };
        assert_eq!(room.router.create_producer(room.now, config), Err(error));
    }
    let camera = room.producer(MediaKind::Video, MAX_STREAMS);
    let ann = room.consumer(camera, false);
    assert_eq!(room.send(camera, on(MAX_STREAMS, packet(0, 0, KEY))), []);
    assert_eq!(room.send(camera, on(usize::MAX, packet(0, 0, KEY))), []);
    let got = room.send(camera, on(MAX_STREAMS - 1, packet(u64::MAX, u32::MAX, KEY)));
    assert_eq!(got, [(ann, 0, 0)]);
    assert_eq!(
        room.send(camera, on(MAX_STREAMS - 1, packet(0, 0, KEY))),
        []
    );
}

#[test]
fn who_comes_late_gets_what_has_come_since_the_keyframe_and_goes_on_from_there() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let burst = [
        room.keep(camera, unfinished(packet(10, 0, KEY))),
        room.keep(camera, packet(11, 0, NEXT_OF_FRAME)),
        room.keep(camera, packet(12, 0, PADDING)),
        // 13 is lost.
        room.keep(camera, packet(14, 64_000, DELTA)),
        room.keep(camera, packet(15, 96_000, DELTA)),
    ];
    room.wait_ms(1000);
    let ann = room.consumer(camera, true);
    assert_eq!(room.replay(ann, &burst), None, "she is paused");
    room.router.resume_consumer_quietly(ann).unwrap();
    assert_eq!(room.replay(ann, &burst[1..]), None, "no beginning");
    assert_eq!(room.replay(ann, &[]), None);
    let back = |ticks: u32| 0u32.wrapping_sub(ticks / REPLAY_SPEED);
    assert_eq!(
        room.replay(ann, &burst).unwrap(),
        [
            (0, 0, back(96_000)),
            (1, 1, back(96_000)),
            (3, 3, back(32_000)),
            (4, 4, 0),
        ]
    );
    assert_eq!(room.replay(ann, &burst), None, "she has it");
    assert_eq!(
        room.send(camera, packet(16, 99_000, DELTA)),
        [(ann, 5, 3000)]
    );
    assert_eq!(
        room.send(camera, packet(13, 32_000, DELTA)),
        [(ann, 2, back(64_000))],
        "what was lost has its place"
    );
    assert_eq!(room.asked(), [] as [usize; 0], "nobody was asked");
}

#[test]
fn only_what_a_consumer_may_begin_with_is_replayed() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 2);
    let low = [room.keep(camera, packet(10, 0, KEY))];
    let high = [room.keep(camera, on(1, packet(10, 0, KEY)))];
    let ann = room.consumer(camera, true);
    room.router.resume_consumer_quietly(ann).unwrap();
    room.prefer(ann, 0);
    assert_eq!(room.replay(ann, &high), None, "more than she wants");
    room.router.pause_producer(room.now, camera).unwrap();
    assert_eq!(room.replay(ann, &low), None, "nothing is sent");
    room.router.resume_producer(room.now, camera).unwrap();
    room.router.restart_stream(camera, 0).unwrap();
    assert_eq!(room.replay(ann, &low), None, "of another source");
    room.router.pause_consumer(ann).unwrap();
    let low = [room.keep(camera, packet(7, 50, KEY)), low[0]];
    room.router.resume_consumer_quietly(ann).unwrap();
    assert!(!low[1].0.is_of_source_of(&low[0].0));
    // What is not of the source is left out.
    assert_eq!(room.replay(ann, &low), Some(vec![(0, 0, 0)]));
    room.router.close_consumer(ann);
    assert_eq!(room.replay(ann, &low), None, "she is gone");
}

#[test]
fn who_resumes_soon_gets_the_keyframe_once_more_under_other_numbers() {
    let mut room = Room::new();
    let camera = room.producer(MediaKind::Video, 1);
    let ann = room.consumer(camera, true);
    let burst = [
        room.keep(camera, packet(10, 0, KEY)),
        room.keep(camera, packet(11, 3200, DELTA)),
    ];
    room.router.resume_consumer_quietly(ann).unwrap();
    let got = room.replay(ann, &burst).unwrap();
    assert_eq!(got, [(0, 0, 0u32.wrapping_sub(100)), (1, 1, 0)]);
    room.router.pause_consumer(ann).unwrap();
    room.router.resume_consumer_quietly(ann).unwrap();
    let got = room.replay(ann, &burst).unwrap();
    assert_eq!(got, [(0, 2, 1), (1, 3, 101)], "time does not go back");
    assert_eq!(room.send(camera, packet(12, 6400, DELTA)), [(ann, 4, 3301)]);
    assert_eq!(room.asked(), [] as [usize; 0]);
}
