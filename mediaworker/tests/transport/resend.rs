//! What a receiver asks for again, with RTX and without, and how it is counted.

use std::collections::HashSet;
use std::time::Duration;

use proto::RtpStreamStats;

use crate::network::{Conditions, Network};
use crate::room::{call, number, run, stream};

fn outbound(network: &mut Network, consumer: &str) -> RtpStreamStats {
    let stats = network.engine.consumer_stats(network.now, consumer);
    stats.unwrap().outbound.unwrap()
}

/// 5 % of all packets are lost on the way to the receiver, who asks for those of
/// Opus too, or does not. Answers the shares of the packets that were sent to it
/// which it has in the end, for audio and video.
fn lossy_call(seed: u64, asks: bool) -> (Network, f64, f64) {
    let (mut network, mut audio, mut video) = call(seed);
    if asks {
        network.clients[1].peer.ask_for_lost(5000);
    }
    network.conditions = Conditions {
        loss: 0.05,
        ..Conditions::PERFECT
    };
    let both = &mut [&mut audio, &mut video];
    run(&mut network, both, Duration::from_secs(20));
    network.conditions = Conditions::PERFECT;
    // What follows reveals what was lost at the end, and so does a report.
    run(&mut network, both, Duration::from_secs(5));
    let share = |network: &mut Network, consumer: &str, ssrc: u32| {
        let sent = outbound(network, consumer);
        let once = sent.packet_count - sent.packets_retransmitted;
        let packets = stream(network, 1, ssrc);
        let numbers: HashSet<u32> = packets.iter().map(number).collect();
        assert_eq!(numbers.len(), packets.len(), "seed {seed}: one came twice");
        packets.len() as f64 / once as f64
    };
    let audio = share(&mut network, "a", 5000);
    let video = share(&mut network, "v", 6000);
    (network, audio, video)
}

#[test]
fn lost_opus_is_sent_again_without_rtx() {
    for seed in 1..=3 {
        let (mut network, audio, video) = lossy_call(seed, true);
        assert!(audio > 0.99, "seed {seed}: {audio}");
        assert!(video > 0.99, "seed {seed}: {video}");
        let stats = outbound(&mut network, "a");
        assert!(stats.packets_retransmitted >= 30, "{stats:?}");
        // What was lost before it came to the worker is asked for in vain.
        assert!(stats.nack_packet_count > stats.packets_retransmitted);
        assert!(stats.nack_count > 0 && stats.nack_count <= stats.nack_packet_count);
        let stats = network.engine.transport_stats(network.now, "recv").unwrap();
        let resent = stats.rtx_sent.unwrap().bytes;
        let of_video = outbound(&mut network, "v").packets_retransmitted * 600;
        assert!(resent > of_video, "audio counts: {resent}");
        assert_eq!(network.engine.counters().panics, 0);
    }
    let (mut network, audio, _) = lossy_call(1, false);
    assert!(audio < 0.985, "the network is not bad: {audio}");
    let stats = outbound(&mut network, "a");
    let counts = (stats.packets_retransmitted, stats.nack_packet_count);
    assert_eq!(counts, (0, 0), "nobody asked");
}

#[test]
fn packets_that_nacks_name_are_counted_both_ways() {
    let (mut network, _, _) = lossy_call(4, false);
    let sent = outbound(&mut network, "v");
    assert!(sent.nack_packet_count >= sent.packets_retransmitted);
    assert!(sent.nack_packet_count >= sent.nack_count);
    assert!(sent.nack_count > 0);
    let producer = network.engine.producer_stats(network.now, "cam").unwrap();
    let received = &producer.streams[0];
    // The worker asked the camera for each packet that it has repaired.
    assert!(received.packets_repaired > 30, "{received:?}");
    assert!(received.nack_packet_count >= received.packets_repaired);
    assert!(received.nack_packet_count >= received.nack_count);
    let producer = network.engine.producer_stats(network.now, "mic").unwrap();
    assert_eq!(producer.streams[0].nack_packet_count, 0);
}
