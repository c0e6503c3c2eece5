//! ICE over TCP, as the engine sees it: packets that come and go by connections.

use std::time::Duration;

use mediaworker::engine::ConnectionNote::{Claimed, Released};
use mediaworker::transport::Protocol;
use test_peer::PeerConfig;

use crate::network::{Network, connection};
use crate::room::{Source, call, call_in, is_key_frame_start, run, stream};

const SECOND: Duration = Duration::from_secs(1);
const AUDIO: u32 = 5000;
const VIDEO: u32 = 6000;

fn over_tcp(number: usize) -> Protocol {
    Protocol::Tcp(connection(number))
}

/// A call of clients that have TCP alone.
fn tcp_call(seed: u64) -> (Network, Source, Source) {
    let mut network = Network::new(seed);
    network.over_tcp = true;
    call_in(network, |_| {}, PeerConfig::sending())
}

fn received(network: &Network, ssrc: u32) -> usize {
    stream(network, 1, ssrc).len()
}

/// Protocol and port of the way that carries the media of a transport.
fn selected(network: &Network, transport: &str) -> (String, u32) {
    let stats = network.engine.transport_stats(network.now, transport);
    let tuple = stats.unwrap().selected_tuple;
    tuple.map_or_else(Default::default, |it| (it.protocol, it.remote_port))
}

fn set_slow(network: &mut Network, number: usize, slow: bool) {
    let now = network.now;
    network
        .engine
        .set_connection_slow(now, connection(number), slow);
}

/// Longest time between two packets of sound that the client has got since then.
fn gap(network: &Network, since: usize) -> Duration {
    let packets = stream(network, 1, AUDIO);
    let pairs = packets[since - 1..].windows(2);
    pairs.map(|pair| pair[1].at - pair[0].at).max().unwrap()
}

#[test]
fn a_call_over_tcp_alone() {
    let (mut network, mut audio, mut video) = tcp_call(1);
    run(&mut network, &mut [&mut audio, &mut video], 5 * SECOND);
    assert!(received(&network, AUDIO) > 240);
    assert!(received(&network, VIDEO) > 480);
    assert_eq!(selected(&network, "send"), ("tcp".into(), 5000));
    assert_eq!(selected(&network, "recv"), ("tcp".into(), 5001));
    assert_eq!(network.notes, [1, 2].map(|it| Claimed(connection(it))));
    assert_eq!(network.engine.counters().dropped.total(), 0);
}

#[test]
fn candidates_are_what_was_asked_for_and_udp_is_preferred() {
    let (mut network, _, _) = call(1);
    let candidates = |network: &mut Network, id: &str, force: bool| {
        network.over_tcp = force;
        let created = network.create_transport(id, true);
        let candidates = created.ice_candidates.into_iter();
        candidates
            .map(|it| (it.foundation, it.protocol, it.port, it.priority))
            .collect::<Vec<_>>()
    };
    let both = candidates(&mut network, "both", false);
    let name = |it: &(String, String, u32, u32)| format!("{} {} {} {}", it.0, it.1, it.2, it.3);
    assert_eq!(
        both.iter().map(name).collect::<Vec<_>>(),
        [
            "udpcandidate udp 40000 1076302079",
            "tcpcandidate tcp 40000 1076276479"
        ]
    );
    assert_eq!(candidates(&mut network, "tcp", true), both[1..]);
}

#[test]
fn udp_is_no_way_around_forced_tcp() {
    let mut network = Network::new(1);
    network.over_tcp = true;
    crate::room::create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    network.clients[client].over = Protocol::Udp;
    network.connect(client, "t", true);
    network.run_for(2 * SECOND);
    assert!(!network.clients[client].peer.connected);
    assert!(network.engine.counters().dropped.refused_checks > 0);
    network.clients[client].over = over_tcp(7);
    network.run_until("connected", |n| n.clients[client].peer.connected);
}

#[test]
fn media_moves_to_tcp_and_back() {
    let (mut network, mut audio, mut video) = call(1);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    for (over, protocol) in [
        (over_tcp(7), "tcp"),
        (Protocol::Udp, "udp"),
        (over_tcp(8), "tcp"),
    ] {
        let before = received(&network, AUDIO);
        // UDP leads nowhere any more from one moment to the next, or back again.
        network.clients[1].over = over;
        run(&mut network, both, 8 * SECOND);
        assert_eq!(selected(&network, "recv"), (protocol.into(), 5001));
        let gap = gap(&network, before);
        println!(
            "figure: a move to {protocol}: no sound for {} ms",
            gap.as_millis()
        );
        // The client's next check moves its media.
        assert!(gap < 5 * SECOND, "{gap:?}");
        assert!(received(&network, AUDIO) - before > 150);
    }
    assert_eq!(network.notes, [7, 8].map(|it| Claimed(connection(it))));
}

#[test]
fn media_goes_on_over_udp_when_its_connection_ends() {
    let (mut network, mut audio, mut video) = call(1);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    network.clients[1].over = over_tcp(7);
    run(&mut network, both, 8 * SECOND);
    assert_eq!(selected(&network, "recv").0, "tcp");
    let before = received(&network, AUDIO);
    network.clients[1].over = Protocol::Udp;
    let now = network.now;
    network.engine.connection_closed(now, connection(7));
    run(&mut network, both, SECOND);
    assert_eq!(selected(&network, "recv").0, "udp");
    let gap = gap(&network, before);
    assert!(gap < Duration::from_millis(100), "{gap:?}");
}

#[test]
fn a_client_that_has_lost_its_connection_comes_back_over_another() {
    let (mut network, mut audio, mut video) = tcp_call(1);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    let now = network.now;
    network.engine.connection_closed(now, connection(2));
    assert_eq!(selected(&network, "recv"), Default::default());
    network.clients[1].over = over_tcp(9);
    let before = received(&network, VIDEO);
    run(&mut network, both, 8 * SECOND);
    assert_eq!(selected(&network, "recv").0, "tcp");
    let packets = stream(&network, 1, VIDEO).split_off(before);
    assert!(packets.len() > 200, "{}", packets.len());
    assert!(packets.iter().any(is_key_frame_start));
    assert!(
        !network.notes.contains(&Released(connection(2))),
        "it is gone"
    );
}

#[test]
fn connections_end_with_their_transport() {
    let (mut network, mut audio, mut video) = tcp_call(1);
    run(&mut network, &mut [&mut audio, &mut video], SECOND);
    network.notes.clear();
    let now = network.now;
    network.engine.close_transport(now, "send").unwrap();
    network.run_for(SECOND / 10);
    assert_eq!(network.notes, [Released(connection(1))]);
    // The goodbye went over it before.
    assert!(network.clients[0].peer.closed.is_some());

    // One whose client is not heard of any more has no use for it either.
    network.clients[1].cut = true;
    network.run_for(31 * SECOND);
    assert_eq!(network.notes[1..], [Released(connection(2))]);
    assert_eq!(network.engine.sizes().transports, 1);
}

#[test]
fn a_slow_connection_gets_sound_alone_until_it_has_caught_up() {
    let (mut network, mut audio, mut video) = tcp_call(1);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 2 * SECOND);
    set_slow(&mut network, 2, true);
    // What was under way.
    run(&mut network, both, SECOND / 20);
    let before = [AUDIO, VIDEO].map(|ssrc| received(&network, ssrc));
    run(&mut network, both, 2 * SECOND);
    assert!(received(&network, AUDIO) - before[0] > 95);
    assert_eq!(received(&network, VIDEO), before[1]);
    assert!(network.engine.counters().dropped.slow_video > 100);
    // Another client's being slow changes nothing for this one.
    set_slow(&mut network, 1, true);
    set_slow(&mut network, 2, false);
    let back_at = network.now;
    run(&mut network, both, 6 * SECOND);
    let packets = stream(&network, 1, VIDEO).split_off(before[1]);
    assert!(packets.len() > 200, "{}", packets.len());
    // Without the client asking for it.
    let key_frame = packets.iter().filter(|it| is_key_frame_start(it));
    let key_frame = key_frame.map(|it| it.at).min().unwrap();
    assert!(
        key_frame - back_at < SECOND / 4,
        "{:?}",
        key_frame - back_at
    );
}

/// A way over UDP is another one than a connection from the same address.
#[test]
fn a_connection_takes_nothing_from_others() {
    let (mut network, mut audio, mut video) = call(1);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, SECOND);
    let twin = network.add_client(&PeerConfig::sending());
    network.clients[twin].address = network.clients[1].address;
    network.clients[twin].over = over_tcp(7);
    network.connect(twin, "twin", true);
    let before = received(&network, AUDIO);
    network.run_until("connected", |n| n.clients[twin].peer.connected);
    run(&mut network, both, 2 * SECOND);
    assert!(received(&network, AUDIO) - before > 95);
    assert_eq!(selected(&network, "recv"), ("udp".into(), 5001));
    assert_eq!(selected(&network, "twin"), ("tcp".into(), 5001));
    assert_eq!(network.engine.counters().dropped.total(), 0);
}
