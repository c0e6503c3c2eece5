//! What a producing client is told: its limit, what to send again, and how it is
//! asked for keyframes.

use std::time::Duration;

use proto::event::Event;
use test_peer::PeerConfig;
use test_peer::str0m::media::{KeyframeRequestKind, MediaKind};
use test_peer::str0m::rtp::VideoOrientation;

use crate::network::{Conditions, Network};
use crate::room::{Source, call_with, create_router, produce, produce_request, run};

const SECOND: Duration = Duration::from_secs(1);

/// A client that sends video, or audio if `kind` says so, on a transport with a
/// limit.
fn limited(kind: MediaKind, limit: Option<u64>) -> (Network, Source) {
    let mut network = Network::new(1);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    let request = proto::CreateWebRtcTransportRequest {
        router_id: "room".into(),
        transport_id: "send".into(),
        producing: true,
        max_incoming_bitrate: limit,
        ..Default::default()
    };
    let created = network.engine.create_web_rtc_transport(&request).unwrap();
    network.connect_to(client, "send", &created, true);
    let request = produce_request("send", "it", kind, 2000);
    produce(&mut network, client, &request);
    network.run_until("connected", |n| n.clients[0].peer.connected);
    let source = Source::new(&network, client, kind, 2000);
    (network, source)
}

#[test]
fn a_client_is_reminded_of_its_limit_while_it_sends_video() {
    let stated = |network: &Network| {
        let stats = network.engine.transport_stats(network.now, "send");
        stats.unwrap().max_incoming_bitrate
    };
    let (mut network, mut video) = limited(MediaKind::Video, Some(5_000_000));
    run(&mut network, &mut [&mut video], 10 * SECOND);
    let told = network.clients[0].peer.limits.clone();
    // Every 1.5 s, at once at first.
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told.iter().all(|(_, bitrate)| *bitrate == 5_000_000));
    for pair in told.windows(2) {
        let between = (pair[1].0 - pair[0].0).as_millis();
        assert!((1490..1600).contains(&between), "{between} ms");
    }
    assert_eq!(stated(&network), Some(5_000_000));
    network.run_for(10 * SECOND);
    assert_eq!(network.clients[0].peer.limits.len(), 7, "it was silent");

    for (kind, limit) in [
        (MediaKind::Video, None),
        (MediaKind::Video, Some(0)),
        (MediaKind::Audio, Some(5_000_000)),
    ] {
        let (mut network, mut source) = limited(kind, limit);
        run(&mut network, &mut [&mut source], 4 * SECOND);
        assert_eq!(network.clients[0].peer.limits, [], "{kind} {limit:?}");
        assert_eq!(stated(&network), limit.filter(|limit| *limit > 0));
    }
}

#[test]
fn keyframes_are_asked_for_as_the_client_has_negotiated() {
    let both = [KeyframeRequestKind::Pli, KeyframeRequestKind::Fir];
    for (pli, fir, expected) in [
        (true, true, Some(both[0])),
        (true, false, Some(both[0])),
        (false, true, Some(both[1])),
        (false, false, None),
    ] {
        let change = |request: &mut proto::ProduceRequest| {
            for codec in &mut request.codecs {
                (codec.nack_pli, codec.ccm_fir) = (pli, fir);
            }
        };
        let (mut network, mut audio, mut video) = call_with(1, change, PeerConfig::sending());
        for _ in 0..4 {
            network.clients[1].peer.request_key_frame(6000);
            run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
        }
        let requests = &network.clients[0].peer.key_frame_requests;
        // Each is a new one to the client (RFC 5104 §4.3.1.1: by its number).
        let count = if expected.is_some() { 4 } else { 0 };
        assert!(
            (count..=count + 1).contains(&requests.len()),
            "{pli} {fir}: {requests:?}"
        );
        let kinds = requests.iter().map(|(_, _, kind)| Some(*kind));
        assert!(
            kinds.into_iter().all(|kind| kind == expected),
            "{pli} {fir}"
        );
    }
}

/// Every lost packet is asked for until it is there, and about once per round trip.
#[test]
fn lost_packets_are_asked_for_once_per_round_trip() {
    for (rtt, seed) in [(50, 1), (200, 2), (400, 3)] {
        let (mut network, mut audio, mut video) = call_with(seed, |_| {}, PeerConfig::sending());
        network.conditions = Conditions {
            loss: 0.05,
            delay: Duration::from_millis(rtt / 2),
            ..Conditions::PERFECT
        };
        run(&mut network, &mut [&mut audio, &mut video], 20 * SECOND);
        network.conditions.loss = 0.0;
        run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
        let stats = network.engine.producer_stats(network.now, "cam").unwrap();
        let stats = &stats.streams[0];
        assert!(stats.packets_lost > 60, "the network was not bad");
        let sent = video.written.len() as u64;
        let missing = stats.packets_lost - stats.packets_repaired;
        let transport = network.engine.transport_stats(network.now, "send").unwrap();
        let again = transport.rtx_received.unwrap().bytes / 650;
        assert!(missing * 1000 <= sent, "rtt {rtt}: {missing} of {sent}");
        // A few more until the round trip is known.
        assert!(
            again * 100 <= stats.packets_repaired * 130,
            "rtt {rtt}: {again}"
        );
    }
}

#[test]
fn the_orientation_of_pictures_is_told_when_it_changes() {
    let (mut network, mut video) = limited(MediaKind::Video, None);
    let told = |network: &Network| -> Vec<(bool, bool, u32)> {
        let of = |event: &Event| match event {
            Event::VideoOrientation(told) => {
                assert_eq!(told.producer_id, "it");
                Some((told.camera, told.flip, told.rotation))
            }
            _ => None,
        };
        network.events.iter().filter_map(of).collect()
    };
    run(&mut network, &mut [&mut video], 3 * SECOND);
    assert_eq!(told(&network), [], "the pictures do not tell");
    for orientation in [VideoOrientation::Deg0, VideoOrientation::Deg270] {
        network.clients[0].peer.orientation = Some(orientation);
        run(&mut network, &mut [&mut video], 3 * SECOND);
    }
    // str0m counts the other way round.
    let both = [(false, false, 0), (false, false, 90)];
    assert_eq!(told(&network), both);
    // What is not repeated stays, and what flaps is told once a second.
    network.clients[0].peer.orientation = None;
    run(&mut network, &mut [&mut video], 3 * SECOND);
    assert_eq!(told(&network), both);
    for _ in 0..30 {
        for orientation in [VideoOrientation::Deg180, VideoOrientation::Deg90] {
            network.clients[0].peer.orientation = Some(orientation);
            run(&mut network, &mut [&mut video], SECOND / 20);
        }
    }
    assert!(told(&network).len() <= both.len() + 4);
}
