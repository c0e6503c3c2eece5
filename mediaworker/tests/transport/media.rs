//! Media through two transports: order, loss, keyframes, pauses, lip sync.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use test_peer::str0m::media::MediaKind;
use test_peer::str0m::rtp::{Extension, RtpHeader};
use test_peer::{PeerConfig, ReceivedRtp};

use crate::network::{Conditions, Network};
use crate::room::{
    ABS_SEND_TIME, AUDIO_LEVEL, MID, Source, TRANSPORT_CC, call, call_with, consume, create_router,
    extension, is_key_frame_start, number, produce, produce_request, run, stream,
};

const SECOND: Duration = Duration::from_secs(1);

fn assert_contiguous(packets: &[ReceivedRtp]) {
    for pair in packets.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
    }
}

#[test]
fn everything_arrives_in_order_with_the_routers_numbers() {
    let (mut network, mut audio, mut video) = call(1);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(5),
    );
    network.run_for(Duration::from_millis(100));
    for (ssrc, pt, sent, step) in [(5000, 100, &audio, 960), (6000, 101, &video, 3_600)] {
        let packets = stream(&network, 1, ssrc);
        assert!(packets.len() + 12 > sent.written.len(), "{ssrc}");
        assert_contiguous(&packets);
        for pair in packets.windows(2) {
            assert_eq!(number(&pair[1]), number(&pair[0]) + 1);
            let ticks = pair[1]
                .header
                .timestamp
                .wrapping_sub(pair[0].header.timestamp);
            assert!(ticks == 0 || ticks == step, "{ticks}");
        }
        for packet in &packets {
            assert_eq!(*packet.header.payload_type, pt);
            assert_eq!(packet.payload, sent.written[number(packet) as usize]);
        }
    }
    assert!(is_key_frame_start(&stream(&network, 1, 6000)[0]));
    assert_eq!(
        stream(&network, 1, 5000)[0].header.ext_vals.audio_level,
        Some(-30)
    );
}

/// So many that not all of a picture's packets leave at once.
#[test]
fn every_one_of_many_viewers_gets_everything_in_order() {
    const VIEWERS: u32 = 100;
    let (mut network, _, mut video) = call(31);
    let ssrc = |viewer: u32| 10_000 + 2 * viewer;
    let viewers: Vec<usize> = (0..VIEWERS)
        .map(|viewer| {
            let (client, transport) = (
                network.add_client(&PeerConfig::receiving()),
                format!("viewer-{viewer}"),
            );
            let created = network.create_transport(&transport, false);
            let id = format!("v-{viewer}");
            let kind = MediaKind::Video;
            consume(
                &mut network,
                client,
                &transport,
                &id,
                "cam",
                kind,
                ssrc(viewer),
            );
            network.connect_to(client, &transport, &created, true);
            client
        })
        .collect();
    network.run_until("all connected", |n| {
        n.clients.iter().all(|c| c.peer.connected)
    });
    for viewer in 0..VIEWERS {
        let id = format!("v-{viewer}");
        network.engine.resume_consumer(network.now, &id).unwrap();
    }
    run(&mut network, &mut [&mut video], SECOND);
    network.run_for(Duration::from_millis(100));
    for (client, viewer) in viewers.into_iter().zip(0..) {
        let packets = stream(&network, client, ssrc(viewer));
        assert_eq!(packets.len(), video.written.len(), "{viewer}");
        assert_contiguous(&packets);
        for (packet, written) in packets.iter().zip(&video.written) {
            assert_eq!(packet.payload, *written);
        }
    }
}

#[test]
fn a_picture_leaves_in_the_tick_in_which_it_came() {
    let (mut network, mut audio, mut video) = call(8);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(2),
    );
    network.run_for(Duration::from_millis(100));
    let packets = stream(&network, 1, 6000);
    let mut pictures = 0;
    for picture in packets.chunk_by(|a, b| a.header.timestamp == b.header.timestamp) {
        assert_eq!(picture.len(), 4);
        let at: HashSet<_> = picture.iter().map(|packet| packet.at).collect();
        assert_eq!(at.len(), 1, "picture {pictures}");
        pictures += 1;
    }
    assert!(pictures > 40, "{pictures}");
}

/// Those that are an octet shorter than the longest of their picture are padded, so that all
/// can leave together. (That payloads stay what they were is asserted above.)
#[test]
fn packets_of_a_picture_are_made_equally_long() {
    let (mut network, mut audio, mut video) = call(32);
    run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
    let headers = network.clients[1].peer.raw_headers.iter();
    let (mut audio_seen, mut video_seen) = (0, 0);
    for header in headers {
        match *header.ssrc {
            5000 => {
                assert!(!header.has_padding);
                audio_seen += 1;
            }
            6000 => {
                assert_eq!(header.has_padding, !header.marker, "{header:?}");
                video_seen += 1;
            }
            // Retransmissions and probes.
            _ => {}
        }
    }
    assert!(audio_seen > 80 && video_seen > 160);
    // Of different lengths beyond that, they are what they were.
    let padded = |network: &Network| {
        let headers = network.clients[1].peer.raw_headers.iter();
        let media = headers.filter(|header| *header.ssrc == 6000);
        (
            media.clone().count(),
            media.filter(|it| it.has_padding).count(),
        )
    };
    let before = padded(&network);
    video.longer_by = 2;
    run(&mut network, &mut [&mut video], SECOND);
    let after = padded(&network);
    assert!(after.0 > before.0 + 80);
    assert_eq!(after.1, before.1, "two octets shorter");
}

/// Packets have room for the longest MID of their transport, so that sound of all producers,
/// where it has one size, can leave together.
#[test]
fn a_longer_mid_makes_no_longer_packets_than_another() {
    let (mut network, mut audio, _) = call(33);
    run(&mut network, &mut [&mut audio], SECOND);
    network.run_for(Duration::from_millis(100));
    let seen = network.clients[1].peer.raw_headers.len();
    consume(&mut network, 1, "recv", "bb", "mic", MediaKind::Audio, 7000);
    network.engine.resume_consumer(network.now, "bb").unwrap();
    run(&mut network, &mut [&mut audio], SECOND);
    let (before, after) = network.clients[1].peer.raw_headers.split_at(seen);
    let lengths = |headers: &[RtpHeader], ssrc: u32| {
        let own = headers.iter().filter(|header| *header.ssrc == ssrc);
        let lengths: Vec<_> = own.map(|header| header.header_len).collect();
        assert!(lengths.len() > 40, "{ssrc}");
        lengths.into_iter().collect::<HashSet<_>>()
    };
    // Twelve octets, four in front of the extensions: one or two and a head of MID, four of
    // abs-send-time, two of the level, in words.
    assert_eq!(lengths(before, 5000), [24].into());
    assert_eq!(lengths(after, 7000), [28].into());
    assert_eq!(lengths(after, 5000), [28].into());
    let mids = after.iter().map(|header| header.ext_vals.mid.as_deref());
    let mids: HashSet<_> = mids.flatten().map(str::to_owned).collect();
    assert_eq!(mids, ["a".to_owned(), "bb".to_owned()].into());
}

#[test]
fn packets_carry_only_negotiated_extensions() {
    let (mut network, mut audio, mut video) = call(2);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(2),
    );
    let headers = &network.clients[1].peer.raw_headers;
    assert!(headers.len() > 200);
    let mut numbers = Vec::new();
    for header in headers {
        assert!(header.ext_vals.abs_send_time.is_some());
        match *header.ssrc {
            5000 => assert_eq!(header.ext_vals.transport_cc, None),
            _ => numbers.extend(header.ext_vals.transport_cc),
        }
        assert_eq!(header.ext_vals.video_orientation, None);
    }
    assert!(headers.iter().any(|h| h.ext_vals.mid.is_some()));
    let video = headers.iter().filter(|h| *h.ssrc != 5000).count();
    assert_eq!(numbers.len(), video, "every packet of video is numbered");
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "and nothing else is");
    }
}

/// Chromium gives out ids above 14 when it has many extensions to offer, and its
/// packets then have the two-byte form.
#[test]
fn extension_ids_above_14_are_taken() {
    // Id of the audio level, whether transport-cc is negotiated.
    for (id, transport_cc) in [
        (15, true),
        (15, false),
        (16, true),
        (16, false),
        (255, true),
    ] {
        let mut sender = PeerConfig::sending();
        sender.extensions.retain(|(_, extension)| {
            *extension != Extension::AudioLevel
                && (transport_cc || *extension != Extension::TransportSequenceNumber)
        });
        // The test's client cannot write greater ones.
        if id <= 16 {
            let id = u8::try_from(id).unwrap();
            sender.extensions.push((id, Extension::AudioLevel));
        }
        let change = |request: &mut proto::ProduceRequest| {
            let extensions = &mut request.header_extensions;
            extensions.retain(|e| transport_cc || e.uri != TRANSPORT_CC);
            // Before transport-cc is, the list has no order.
            extensions.sort_by_key(|e| e.uri != AUDIO_LEVEL);
            for extension in extensions.iter_mut().filter(|e| e.uri == AUDIO_LEVEL) {
                extension.id = id;
            }
            for codec in &mut request.codecs {
                codec.transport_cc = transport_cc;
            }
        };
        let (mut network, mut audio, mut video) = call_with(1, change, sender);
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_secs(2),
        );
        network.run_for(Duration::from_millis(100));
        for (ssrc, sent) in [(5000, &audio), (6000, &video)] {
            let packets = stream(&network, 1, ssrc);
            assert!(packets.len() + 12 > sent.written.len(), "id {id}: {ssrc}");
        }
        let level = stream(&network, 1, 5000)[0].header.ext_vals.audio_level;
        assert_eq!(level, (id <= 16).then_some(-30), "id {id}");
    }
}

#[test]
fn lost_video_is_repaired_on_both_legs() {
    for seed in 1..=4 {
        let (mut network, mut audio, mut video) = call(seed);
        // A consumer starts when the first packet of a keyframe comes first.
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_secs(1),
        );
        network.conditions = Conditions::BAD;
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_secs(10),
        );
        network.conditions = Conditions::PERFECT;
        // One more frame reveals what was lost at the end.
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_secs(1),
        );
        assert!(network.lost > 30, "the network was not bad");
        let packets = stream(&network, 1, 6000);
        let numbers: HashSet<u32> = packets.iter().map(number).collect();
        assert_eq!(numbers.len(), packets.len(), "seed {seed}: one came twice");
        let first = number(&packets[0]);
        let sent = video.written.len() - first as usize;
        // Two losses of 5 % each would leave 90 %.
        assert!(
            packets.len() * 1000 >= sent * 995,
            "seed {seed}: {} of {sent}",
            packets.len()
        );
        for pair in packets.windows(2) {
            let (numbers, sequences) = (
                number(&pair[1]) - number(&pair[0]),
                pair[1].sequence - pair[0].sequence,
            );
            assert_eq!(u64::from(numbers), sequences, "seed {seed}: gaps differ");
        }
        let feedback = &network.clients[0].peer.rtcp_received;
        assert!(feedback.contains(&"NACK"), "the worker asked for repair");
        assert!(network.clients[1].peer.rtcp_sent.contains(&"NACK"));
    }
}

#[test]
fn the_producer_gets_transport_cc_and_receiver_reports() {
    let (mut network, mut audio, mut video) = call(3);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(3),
    );
    let feedback = &network.clients[0].peer.rtcp_received;
    let count = |kind| feedback.iter().filter(|k| **k == kind).count();
    assert!(count("TWCC") >= 20, "{}", count("TWCC"));
    assert!(count("RR") >= 2, "{}", count("RR"));
    let reports = &network.clients[1].peer.rtcp_received;
    assert!(reports.contains(&"SR") && reports.contains(&"SDES"));
}

#[test]
fn keyframe_requests_are_passed_on_once_a_second() {
    let (mut network, mut audio, mut video) = call(4);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(2),
    );
    let before = network.clients[0].peer.key_frame_requests.len();
    for _ in 0..30 {
        network.clients[1].peer.request_key_frame(6000);
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_millis(100),
        );
    }
    let asked = network.clients[0].peer.key_frame_requests.len() - before;
    assert!((2..=4).contains(&asked), "{asked} in 3 s");
    let requests = &network.clients[0].peer.key_frame_requests[before..];
    for pair in requests.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(990));
    }
}

#[test]
fn a_pause_leaves_no_gap() {
    let (mut network, mut audio, mut video) = call(5);
    let second = Duration::from_secs(1);
    run(&mut network, &mut [&mut audio, &mut video], second);
    network.engine.pause_consumer(network.now, "v").unwrap();
    network
        .engine
        .set_producer_paused(network.now, "mic", true)
        .unwrap();
    run(&mut network, &mut [&mut audio, &mut video], second);
    let paused = (
        stream(&network, 1, 5000).len(),
        stream(&network, 1, 6000).len(),
    );
    network.engine.resume_consumer(network.now, "v").unwrap();
    network
        .engine
        .set_producer_paused(network.now, "mic", false)
        .unwrap();
    run(&mut network, &mut [&mut audio, &mut video], second);

    let (a, v) = (stream(&network, 1, 5000), stream(&network, 1, 6000));
    assert!(a.len() > paused.0 + 40 && v.len() > paused.1 + 80);
    assert_contiguous(&a);
    // One number may be left out where a frame was cut.
    let skipped = v.last().unwrap().sequence - v[0].sequence + 1 - v.len() as u64;
    assert!(skipped <= 1, "{skipped}");
    let resumed = v
        .windows(2)
        .find(|pair| number(&pair[1]) > number(&pair[0]) + 1)
        .expect("the pause is visible in the source's numbers");
    assert!(is_key_frame_start(&resumed[1]));
    // The timestamp advanced with the source's clock.
    let frames = (number(&resumed[1]) - number(&resumed[0])) / 4;
    let ticks = resumed[1]
        .header
        .timestamp
        .wrapping_sub(resumed[0].header.timestamp);
    assert!((1..=frames + 1).contains(&(ticks / 3_600)), "{ticks}");
}

#[test]
fn sender_reports_keep_audio_and_video_in_sync() {
    let (mut network, mut audio, mut video) = call(6);
    // A video frame is encoded for 80 ms longer than audio.
    video.capture_delay = Duration::from_millis(100);
    audio.capture_delay = Duration::from_millis(20);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(15),
    );
    let captured = |ssrc: u32, clock: f64| -> (SystemTime, Instant) {
        let packets = stream(&network, 1, ssrc);
        let packet = packets.last().unwrap();
        let report = packet.report.expect("a sender report");
        let ticks = packet
            .header
            .timestamp
            .wrapping_sub(report.rtp_time.numer() as u32)
            .cast_signed();
        let offset = f64::from(ticks) / clock;
        let at = if offset >= 0.0 {
            report.ntp_time + Duration::from_secs_f64(offset)
        } else {
            report.ntp_time - Duration::from_secs_f64(-offset)
        };
        (at, packet.at)
    };
    let (audio_ntp, audio_at) = captured(5000, 48_000.0);
    let (video_ntp, video_at) = captured(6000, 90_000.0);
    // What was received at the same time was captured 80 ms apart.
    let between = |later: SystemTime, earlier: SystemTime| match later.duration_since(earlier) {
        Ok(d) => d.as_secs_f64(),
        Err(e) => -e.duration().as_secs_f64(),
    };
    let skew = between(audio_ntp, video_ntp)
        - (audio_at.duration_since(network.start).as_secs_f64()
            - video_at.duration_since(network.start).as_secs_f64());
    assert!((skew - 0.080).abs() < 0.012, "{skew}");
}

#[test]
fn sender_reports_leave_with_packets_and_wait_for_them_not_for_long() {
    let (mut network, mut audio, mut video) = call(8);
    let second = Duration::from_secs(1);
    run(&mut network, &mut [&mut audio, &mut video], second);
    let seen = |network: &Network| {
        let heard = &network.clients[1].peer.rtcp_received;
        let reports = heard.iter().filter(|kind| **kind == "SR").count();
        (reports, network.clients[1].peer.received.len())
    };
    // After a silence, packets and reports are due at different times.
    for (flows, longest) in [(false, 1_051), (true, 1_021), (false, 1_051)] {
        let mut times = Vec::new();
        for at in 0..3_507 {
            let before = seen(&network);
            let millisecond = Duration::from_millis(1);
            match flows {
                true => run(&mut network, &mut [&mut audio, &mut video], millisecond),
                false => network.run_for(millisecond),
            }
            let after = seen(&network);
            if after.0 > before.0 {
                times.push(at);
                assert_eq!(after.1 > before.1, flows, "{times:?}");
            }
        }
        assert!(times.len() >= 3, "{times:?}");
        for pair in times.windows(2) {
            let passed = pair[1] - pair[0];
            assert!((1_000..=longest).contains(&passed), "{flows} {times:?}");
        }
    }
}

#[test]
fn many_consumers_of_one_producer() {
    let (mut network, mut audio, mut video) = call(7);
    for i in 0..20u32 {
        let c = network.add_client(&test_peer::PeerConfig::receiving());
        let transport = format!("recv{i}");
        let created = network.create_transport(&transport, false);
        let id = format!("v{i}");
        let kind = MediaKind::Video;
        consume(&mut network, c, &transport, &id, "cam", kind, 7000 + 10 * i);
        network.connect_to(c, &transport, &created, true);
        network.engine.resume_consumer(network.now, &id).unwrap();
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_millis(200),
        );
    }
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(2),
    );
    let expect_media = |network: &Network| {
        for i in 0..20u32 {
            let packets = stream(network, 2 + i as usize, 7000 + 10 * i);
            assert!(packets.len() > 150, "consumer {i}: {}", packets.len());
            assert!(is_key_frame_start(&packets[0]));
            assert_contiguous(&packets);
        }
    };
    expect_media(&network);
    // Twenty newcomers, and the camera was asked about once a second.
    let requests = network.clients[0].peer.key_frame_requests.len();
    assert!(requests <= 9, "{requests}");
}

/// What unmodified clients do with two transports, others may do with one.
#[test]
fn one_transport_carries_both_directions() {
    let mut network = Network::new(5);
    create_router(&mut network);
    let ids = [(1, MID), (4, ABS_SEND_TIME), (5, TRANSPORT_CC)];
    let ids = ids.map(|(id, uri)| extension(id, uri));
    let mut sources = Vec::new();
    for (at, id) in ["a", "b"].into_iter().enumerate() {
        let client = network.add_client(&PeerConfig::receiving());
        let created = network.create_transport(id, true);
        let ssrc = 1_000 * (u32::try_from(at).unwrap() + 1);
        // The client has one table of ids and payload types: the router's.
        let mut camera = produce_request(id, &format!("cam-{id}"), MediaKind::Video, ssrc);
        camera.header_extensions = ids.to_vec();
        camera.codecs[0].payload_type = 101;
        camera.codecs[0].rtx_payload_type = Some(102);
        produce(&mut network, client, &camera);
        network.connect_to(client, id, &created, true);
        sources.push((client, ssrc));
    }
    network.run_until("connected", |n| n.clients.iter().all(|c| c.peer.connected));
    for (client, id, of, ssrc) in [(0, "a", "b", 8_000), (1, "b", "a", 9_000)] {
        let producer = format!("cam-{of}");
        consume(
            &mut network,
            client,
            id,
            of,
            &producer,
            MediaKind::Video,
            ssrc,
        );
        network.engine.resume_consumer(network.now, of).unwrap();
    }
    let mut cameras: Vec<_> = sources
        .into_iter()
        .map(|(client, ssrc)| {
            let mut camera = Source::new(&network, client, MediaKind::Video, ssrc);
            camera.pt = 101;
            camera
        })
        .collect();
    let [one, two] = cameras.as_mut_slice() else {
        unreachable!()
    };
    network.conditions = Conditions {
        loss: 0.02,
        ..Conditions::PERFECT
    };
    run(&mut network, &mut [&mut *one, &mut *two], 10 * SECOND);
    network.conditions = Conditions::PERFECT;
    run(&mut network, &mut [&mut *one, &mut *two], SECOND);
    for (client, ssrc, camera) in [(0, 8_000, &*two), (1, 9_000, &*one)] {
        let got: HashSet<_> = stream(&network, client, ssrc)
            .into_iter()
            .map(|it| it.payload)
            .collect();
        // All but the start, before a keyframe came, and what is under way.
        let missing = camera
            .written
            .iter()
            .filter(|it| !got.contains(*it))
            .count();
        assert!(missing < 60, "{missing} of {}", camera.written.len());
        assert!(got.len() > 900, "{}", got.len());
    }
    assert_eq!(network.engine.counters().panics, 0);
}
