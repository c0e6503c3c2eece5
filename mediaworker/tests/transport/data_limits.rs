//! What one client may cost with its data channels.

use std::time::Duration;

use proto::SendDataMessageRequest;

use crate::data::{
    MS, direct, join, open, payloads, receive_on, reliable, room, sctp, send, send_on, try_consume,
};
use crate::network::Network;

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
    let (start, count) = (network.now, 1200u32);
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

fn received(network: &Network) -> u64 {
    let stats = network.engine.data_producer_stats("p").unwrap();
    stats.messages_received
}

#[test]
fn what_others_held_is_room_again_once_it_is_delivered() {
    let mut network = room(32);
    let receiver = join(&mut network, "recv", false, true);
    let bot = direct("bot");
    network.engine.produce_data(network.now, &bot).unwrap();
    for stream in 0..5u32 {
        let id = format!("c{stream}");
        receive_on(&mut network, receiver, "recv", &id, "bot", reliable(stream));
    }
    network.run_for(Duration::from_secs(3));
    let say = |network: &mut Network, to: &str, times: usize| {
        let message = SendDataMessageRequest {
            data_producer_id: "bot".into(),
            payload: b"x".to_vec(),
            data_consumer_id: to.into(),
            ..Default::default()
        };
        let before = network
            .engine
            .data_consumer_stats(to)
            .unwrap()
            .messages_sent;
        for _ in 0..times {
            let now = network.now;
            network.engine.send_data_message(now, &message).unwrap();
        }
        network
            .engine
            .data_consumer_stats(to)
            .unwrap()
            .messages_sent
            - before
    };
    for round in 0..2 {
        network.clients[receiver].cut = true;
        // Four hold all that there may be, and the fifth gets nothing.
        for to in ["c0", "c1", "c2", "c3"] {
            assert_eq!(say(&mut network, to, 3000), 2048, "{to}, round {round}");
        }
        assert_eq!(say(&mut network, "c4", 1), 0, "round {round}");
        network.clients[receiver].cut = false;
        let all = 4 * 2048;
        network.run_until("what was held is delivered", |n| {
            n.clients[receiver].peer.messages.len() == all
        });
        network.run_for(Duration::from_secs(1));
        // Nobody has written to the four since.
        assert_eq!(say(&mut network, "c4", 3000), 2048, "round {round}");
        network.run_for(Duration::from_secs(1));
        assert_eq!(network.clients[receiver].peer.messages.len(), all + 2048);
        network.clients[receiver].peer.messages.clear();
    }
}
