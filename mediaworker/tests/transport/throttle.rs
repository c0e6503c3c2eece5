//! A bad network on request.

use std::time::Duration;

use crate::network::Network;
use crate::room::{Source, call, run, stream};

const SECOND: Duration = Duration::from_secs(1);

fn throttle(network: &mut Network, ids: &[&str], throttle: Option<proto::NetworkThrottle>) {
    let request = proto::SetNetworkThrottleRequest {
        transport_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        throttle,
    };
    let now = network.now;
    network.engine.set_network_throttle(now, &request).unwrap();
}

fn bitrates(uplink_bitrate: u64, downlink_bitrate: u64) -> Option<proto::NetworkThrottle> {
    Some(proto::NetworkThrottle {
        uplink_bitrate,
        downlink_bitrate,
        rtt_ms: 0,
        packet_loss: 0.0,
    })
}

fn received(network: &Network, id: &str) -> u64 {
    let stats = network.engine.transport_stats(network.now, id).unwrap();
    stats.received.unwrap().bytes
}

#[test]
fn rates_are_limited_and_the_limit_ends() {
    let (mut network, mut audio, mut video) = call(1);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    // About 560 kbit/s are sent.
    throttle(&mut network, &["send"], bitrates(250_000, 0));
    run(&mut network, both, SECOND);
    let before = received(&network, "send");
    run(&mut network, both, 8 * SECOND);
    // Octets in 8 s are bits per second.
    let rate = received(&network, "send") - before;
    assert!((225_000..=275_000).contains(&rate), "{rate}");

    throttle(&mut network, &["send"], None);
    throttle(&mut network, &["recv"], bitrates(0, 250_000));
    run(&mut network, both, SECOND);
    let before = network.clients[1].reached;
    run(&mut network, both, 8 * SECOND);
    // Half of the video would be lost, so only the audio is sent after a while.
    let rate = network.clients[1].reached - before;
    assert!((45_000..=275_000).contains(&rate), "{rate}");

    throttle(&mut network, &["recv"], None);
    run(&mut network, both, 10 * SECOND);
    let before = network.clients[1].reached;
    run(&mut network, both, 4 * SECOND);
    let rate = (network.clients[1].reached - before) * 2;
    assert!(rate > 520_000, "{rate}");
    assert!(network.closed_reason("send").is_none());
}

#[test]
fn the_round_trip_grows_by_what_is_asked_for() {
    let (mut network, mut audio, mut video) = call(2);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 3 * SECOND);
    let rtt = |network: &Network| {
        let stats = network.engine.consumer_stats(network.now, "v").unwrap();
        stats.outbound.unwrap().round_trip_time.unwrap()
    };
    let before = rtt(&network);
    assert!((15.0..=35.0).contains(&before), "{before}");
    let slow = proto::NetworkThrottle {
        rtt_ms: 200,
        ..Default::default()
    };
    throttle(&mut network, &["recv"], Some(slow));
    run(&mut network, both, 5 * SECOND);
    let with = rtt(&network);
    assert!((180.0..=220.0).contains(&(with - before)), "{with}");
    throttle(&mut network, &["recv"], None);
    run(&mut network, both, 5 * SECOND);
    assert!(rtt(&network) < before + 10.0);
    // Nothing was lost on the way, nor out of order.
    let packets = stream(&network, 1, 6000);
    for pair in packets.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
    }
}

#[test]
fn packets_are_lost_at_random() {
    let (mut network, mut audio, mut video) = call(3);
    run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
    let lossy = proto::NetworkThrottle {
        packet_loss: 0.2,
        ..Default::default()
    };
    throttle(&mut network, &["send"], Some(lossy));
    let before = audio.written.len();
    let count = |network: &Network| stream(network, 1, 5000).len();
    network.run_for(Duration::from_millis(50));
    let had = count(&network);
    run(&mut network, &mut [&mut audio, &mut video], 20 * SECOND);
    network.run_for(Duration::from_millis(50));
    let sent = audio.written.len() - before;
    let share = (count(&network) - had) as f64 / sent as f64;
    // 1,000 packets: a standard deviation of 1.3 %.
    assert!((0.74..=0.86).contains(&share), "{share}");
}

#[test]
fn a_throttle_does_not_outlive_its_transport() {
    let (mut network, mut audio, mut video) = call(4);
    let slow = proto::NetworkThrottle {
        rtt_ms: 1000,
        ..Default::default()
    };
    throttle(&mut network, &["send", "recv"], Some(slow));
    run(&mut network, &mut [&mut audio, &mut video], SECOND);
    let engine = &mut network.engine;
    engine.close_transport(network.now, "recv").unwrap();
    engine.close_transport(network.now, "send").unwrap();
    network.run_for(3 * SECOND);
    // The goodbye was under way when the transports went.
    for client in &network.clients {
        assert_eq!(client.peer.closed.as_deref(), Some("closed by the server"));
    }
    assert_eq!(network.engine.next_timeout(), None, "nothing is left");
}

#[test]
fn nonsense_changes_nothing() {
    let (mut network, _, _) = call(5);
    let now = network.now;
    let mut set = |ids: &[&str], rtt_ms, packet_loss| {
        let request = proto::SetNetworkThrottleRequest {
            transport_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            throttle: Some(proto::NetworkThrottle {
                rtt_ms,
                packet_loss,
                ..Default::default()
            }),
        };
        let result = network.engine.set_network_throttle(now, &request);
        result.map_err(|e| e.to_string())
    };
    for (ids, rtt, loss, error) in [
        (&["send"][..], 10_001, 0.0, "throttle.rtt_ms: 10001"),
        (&["send"], 0, 1.1, "throttle.packet_loss: 1.1"),
        (&["send"], 0, -0.1, "throttle.packet_loss: -0.1"),
        (&["send"], 0, f64::NAN, "throttle.packet_loss: NaN"),
    ] {
        let text = set(ids, rtt, loss).unwrap_err();
        assert!(text.starts_with(error), "{text}");
    }
    assert_eq!(set(&[], 0, 0.0), Ok(()));
    // One that has just died does not spoil it for the others.
    assert_eq!(set(&["gone", "send"], 0, 0.0), Ok(()));
}
