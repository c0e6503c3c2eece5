//! Statistics tell what really passed.

use std::time::Duration;

use crate::network::{Conditions, Network, PORT};
use crate::room::{Source, call, run, stream};

const SECOND: Duration = Duration::from_secs(1);

fn transport(network: &Network, id: &str) -> proto::TransportStats {
    network.engine.transport_stats(network.now, id).unwrap()
}

fn producer(network: &Network, id: &str) -> proto::RtpStreamStats {
    let stats = network.engine.producer_stats(network.now, id).unwrap();
    assert_eq!(stats.streams.len(), 1);
    stats.streams[0].clone()
}

fn consumer(network: &Network, id: &str) -> (proto::RtpStreamStats, proto::RtpStreamStats) {
    let stats = network.engine.consumer_stats(network.now, id).unwrap();
    (stats.outbound.unwrap(), stats.inbound.unwrap())
}

fn assert_near(what: &str, actual: u64, expected: f64) {
    let off = (actual as f64 - expected).abs() / expected;
    assert!(off < 0.1, "{what}: {actual}, not {expected}");
}

#[test]
fn a_perfect_call_is_counted_exactly() {
    let (mut network, mut audio, mut video) = call(1);
    let both = &mut [&mut audio, &mut video];
    run(&mut network, both, 5 * SECOND);
    network.run_for(Duration::from_millis(100));

    // 100 packets of 600 octets, header and tag on top; 50 of 80.
    let cam = producer(&network, "cam");
    let sent = video.written.len() as u64;
    assert_eq!((cam.ssrc, cam.rtx_ssrc), (2000, Some(2001)));
    assert_eq!(
        (cam.kind(), &*cam.mime_type),
        (proto::MediaKind::Video, "video/VP8")
    );
    assert_eq!(cam.packet_count, sent);
    assert!((600 * sent..680 * sent).contains(&cam.byte_count));
    assert_near("cam", cam.bitrate, 640.0 * 8.0 * 92.0);
    assert_eq!(cam.bitrate_by_layer.len(), 1);
    assert_near("layer", cam.bitrate_by_layer["0.0"], cam.bitrate as f64);
    assert_eq!((cam.packets_lost, cam.fraction_lost), (0, 0));
    assert_eq!((cam.packets_discarded, cam.packets_repaired), (0, 0));
    assert_eq!(cam.score, 10);
    assert!(cam.jitter < 90, "{}", cam.jitter);

    let (v, v_in) = consumer(&network, "v");
    assert_eq!((v.ssrc, v.rtx_ssrc), (6000, Some(6001)));
    assert_eq!(v.packet_count, stream(&network, 1, 6000).len() as u64);
    assert_eq!(v_in, producer(&network, "cam"));
    assert_eq!(v.score, 10);
    let (a, a_in) = consumer(&network, "a");
    assert_eq!(a.packet_count, stream(&network, 1, 5000).len() as u64);
    assert_eq!(a_in.packet_count, audio.written.len() as u64);
    assert!(a_in.bitrate_by_layer.is_empty());

    let send = transport(&network, "send");
    assert_eq!(send.ice_state(), proto::IceState::Completed);
    assert_eq!(send.dtls_state(), proto::DtlsState::Connected);
    assert_eq!(send.sctp_state(), proto::SctpState::None);
    let tuple = send.selected_tuple.clone().unwrap();
    assert_eq!(tuple.local_address, "10.0.0.1");
    assert_eq!(tuple.local_port, u32::from(PORT));
    assert_eq!(tuple.remote_address, "10.0.1.1");
    assert_eq!((tuple.remote_port, &*tuple.protocol), (5000, "udp"));
    let rtp = send.rtp_received.unwrap();
    let streams = cam.byte_count + a_in.byte_count;
    assert_eq!(rtp.bytes, streams, "a transport is the sum of its streams");
    assert!(send.received.unwrap().bytes > rtp.bytes);
    assert_eq!(send.rtp_sent, Some(proto::Traffic::default()));
    assert!(send.sent.unwrap().bytes > 0, "feedback and checks");
    assert_eq!(send.rtp_packet_loss_received, Some(0.0));
    let recv = transport(&network, "recv");
    let rtp = recv.rtp_sent.unwrap();
    assert_eq!(rtp.bytes, v.byte_count + a.byte_count);
    assert!(recv.sent.unwrap().bytes > rtp.bytes);
    assert_eq!(recv.rtx_sent.unwrap().bytes, 0);
    let probes = recv.probation_sent.unwrap().bytes;
    assert_eq!(probes, 0, "nothing more is wanted");
    assert_eq!(recv.rtp_packet_loss_sent, Some(0.0));
}

#[test]
fn rates_fall_to_zero_when_nothing_comes_any_more() {
    let (mut network, mut audio, mut video) = call(2);
    let both = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    assert!(producer(&network, "cam").bitrate > 400_000);
    network.run_for(2 * SECOND);
    assert_eq!(producer(&network, "cam").bitrate, 0);
    assert_eq!(consumer(&network, "v").0.bitrate, 0);
    assert_eq!(transport(&network, "send").rtp_received.unwrap().bitrate, 0);
    assert_eq!(transport(&network, "recv").rtp_sent.unwrap().bitrate, 0);
}

/// That the engine looks at its sockets by the clock is no jitter of the network, and makes no
/// way longer.
#[test]
fn what_waits_to_be_looked_at_came_when_it_came() {
    let told = |looks_every: Duration| {
        let (mut network, mut audio, mut video) = call(1);
        network.looks_every = looks_every;
        run(&mut network, &mut [&mut audio, &mut video], 5 * SECOND);
        let jitter = ["mic", "cam"].map(|id| producer(&network, id).jitter);
        let round_trip = consumer(&network, "v").0.round_trip_time;
        (jitter, round_trip.expect("from receiver reports"))
    };
    let at_once = told(Duration::ZERO);
    for millis in [3, 7, 45] {
        let (jitter, round_trip) = told(Duration::from_millis(millis));
        assert_eq!(jitter, at_once.0, "{millis}");
        let longer = round_trip - at_once.1;
        assert!(longer.abs() < 1.0, "{longer} ms at {millis}");
    }
}

#[test]
fn loss_and_repair_are_seen_on_both_legs() {
    let (mut network, mut audio, mut video) = call(3);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    network.conditions = Conditions {
        loss: 0.05,
        ..Conditions::BAD
    };
    run(&mut network, both, 10 * SECOND);
    let jitter = producer(&network, "cam").jitter;
    assert!(jitter > 90, "{jitter}");
    network.conditions = Conditions::PERFECT;
    run(&mut network, both, 2 * SECOND);

    let cam = producer(&network, "cam");
    let mic = producer(&network, "mic");
    // What was lost is known exactly: the network counts it, repairs as well.
    let lost = cam.packets_lost + mic.packets_lost;
    assert!(
        (30..=network.lost as u64).contains(&lost),
        "{lost} of {}",
        network.lost
    );
    assert!(cam.packets_lost > 20, "repaired or not: {cam:?}");
    assert!(cam.packets_repaired * 10 >= cam.packets_lost * 9, "{cam:?}");
    assert_eq!(mic.packets_repaired, 0, "audio is not repaired");
    assert!(cam.nack_count > 10 && cam.nack_packet_count >= cam.packets_repaired);
    assert!(cam.packets_discarded > 0, "some came twice");
    let rtx = transport(&network, "send").rtx_received.unwrap();
    assert!(rtx.bytes > 600 * cam.packets_repaired);

    let (v, _) = consumer(&network, "v");
    assert!(v.nack_count > 10, "{v:?}");
    assert!(v.packets_retransmitted > 10);
    let rtx = transport(&network, "recv").rtx_sent.unwrap();
    assert!(rtx.bytes > 600 * v.packets_retransmitted);
    let rtt = v.round_trip_time.expect("from receiver reports");
    assert!((15.0..=80.0).contains(&rtt), "{rtt} ms");

    // The worker as a whole tells the same, also when the streams are gone.
    let (a, _) = consumer(&network, "a");
    let received = |network: &Network| network.engine.feedback().received.unwrap();
    let sent = |network: &Network| network.engine.feedback().sent.unwrap();
    let before = (received(&network), sent(&network));
    assert_eq!(before.0.packets_lost, cam.packets_lost + mic.packets_lost);
    assert_eq!(before.0.packets_retransmitted, cam.packets_repaired);
    assert_eq!(before.0.nacks, cam.nack_count + mic.nack_count);
    assert_eq!(before.1.nacks, v.nack_count + a.nack_count);
    assert_eq!(before.1.packets_lost, v.packets_lost + a.packets_lost);
    assert!(before.0.expected_lately > 0 && before.1.expected_lately > 0);
    let mean = before.1.round_trip_time.unwrap();
    assert!((15.0..=80.0).contains(&mean), "{mean} ms");
    let left = |direction: proto::DirectionFeedback| {
        let kept = (direction.packets_lost, direction.nacks, direction.plis);
        (kept, direction.packets_retransmitted)
    };
    let want = (left(before.0), left(before.1));
    let now = network.now;
    network.engine.close_consumer("v").unwrap();
    assert_eq!(left(sent(&network)), want.1);
    network.engine.close_producer("cam").unwrap();
    network.engine.close_transport(now, "recv").unwrap();
    network.engine.close_transport(now, "send").unwrap();
    assert_eq!((left(received(&network)), left(sent(&network))), want);
    let gone = sent(&network);
    assert_eq!((gone.expected_lately, gone.round_trip_time), (0, None));
}

#[test]
fn requests_of_the_client_are_counted() {
    let (mut network, mut audio, mut video) = call(4);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    let before = consumer(&network, "v").0.pli_count;
    for _ in 0..3 {
        network.clients[1].peer.request_key_frame(6000);
        run(&mut network, both, 2 * SECOND);
    }
    assert_eq!(consumer(&network, "v").0.pli_count, before + 3);
    assert!(producer(&network, "cam").pli_count >= 3, "and passed on");
}

#[test]
fn unknown_ids_are_named_and_unseen_streams_are_empty() {
    let (mut network, _, _) = call(5);
    let now = network.now;
    for error in [
        network.engine.transport_stats(now, "x").map(|_| ()),
        network.engine.producer_stats(now, "x").map(|_| ()),
        network.engine.consumer_stats(now, "x").map(|_| ()),
    ] {
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("with id \"x\" not found"), "{text}");
    }
    let stats = network.engine.producer_stats(now, "cam").unwrap();
    assert!(stats.streams.is_empty());
    let stats = network.engine.consumer_stats(now, "v").unwrap();
    assert_eq!(stats.outbound.unwrap().packet_count, 0);
    assert!(stats.inbound.is_none());
    network.create_transport("fresh", true);
    let stats = network.engine.transport_stats(now, "fresh").unwrap();
    assert_eq!(stats.ice_state(), proto::IceState::New);
    assert!(stats.selected_tuple.is_none());
    assert_eq!(stats.rtp_packet_loss_received, None);
}
