//! What one client may cost with its data channels.

use std::time::Duration;

use crate::data::{
    MS, join, open, payloads, receive_on, reliable, room, sctp, send, send_on, try_consume,
};

#[test]
fn a_flood_is_slowed_down_and_nothing_of_it_is_lost() {
    let mut network = room(31);
    let sender = join(&mut network, "send", true, true);
    let receiver = join(&mut network, "recv", false, true);
    send_on(&mut network, sender, "send", "p", 0);
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(0));
    open(&mut network, sender, 0, &[(receiver, 0)]);
    // From now on each message costs as much as 200, for as many data consumers.
    network.create_transport_with("idle", false, sctp());
    for stream in 0..199 {
        let id = format!("idle{stream}");
        let error = try_consume(&mut network, "idle", &id, "p", reliable(stream));
        assert_eq!(error, "");
    }
    let before = received(&network);
    let (start, count) = (network.now, 1500u32);
    for i in 0..count {
        send(
            &mut network,
            sender,
            0,
            true,
            &[&i.to_be_bytes()[..], &[0; 1000]].concat(),
        );
    }
    // 250 a second, as many at once, and what was under way by then.
    while network.now < start + Duration::from_secs(2) {
        network.step(MS);
    }
    let delivered = received(&network) - before;
    assert!((250..=1000).contains(&delivered), "{delivered} in 2 s");
    let deadline = network.now + Duration::from_secs(120);
    while payloads(&network, receiver, 0).len() < count as usize {
        assert!(network.now < deadline, "the rest does not arrive");
        network.step(5 * MS);
    }
    assert!(network.now > start + Duration::from_secs(3));
    for (i, payload) in payloads(&network, receiver, 0).iter().enumerate() {
        assert_eq!(payload[..4], u32::try_from(i).unwrap().to_be_bytes());
    }
    assert_eq!(network.closed_reason("send"), None);
}

fn received(network: &crate::network::Network) -> u64 {
    let stats = network.engine.data_producer_stats("p").unwrap();
    stats.messages_received
}
