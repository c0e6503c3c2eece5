//! Media that comes before the commands about it, or before the end of the handshake: the
//! first keyframe is received whole, and nobody has to ask for another one.

use std::time::Duration;

use test_peer::PeerConfig;
use test_peer::str0m::config::DtlsVersion;
use test_peer::str0m::media::MediaKind;

use crate::network::{Network, remote};
use crate::room::{
    Source, consume, create_router, is_key_frame_start, number, produce_request, run, stream,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How long after the client's side of it each command reaches the worker, milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Late {
    connect: u32,
    produce: u32,
    consume: u32,
}

/// A client with a camera, and one that receives nothing yet.
fn room(version: DtlsVersion) -> (Network, usize, usize) {
    let mut network = Network::new(1);
    create_router(&mut network);
    let receiver = network.add_client(&PeerConfig::receiving());
    network.connect(receiver, "recv", false);
    network.run_until("connected", |n| n.clients[receiver].peer.connected);
    let sender = network.add_client(&PeerConfig {
        dtls: version,
        ..PeerConfig::sending()
    });
    (network, sender, receiver)
}

/// Sends from the moment at which the client's side of the handshake is done, and looks at
/// what arrives.
fn check(
    case: &str,
    network: &mut Network,
    [sender, receiver]: [usize; 2],
    active: bool,
    late: Late,
) {
    let created = network.create_transport("send", true);
    let peer = &mut network.clients[sender].peer;
    peer.send_stream("1", MediaKind::Video, 2000, Some(2001));
    let fingerprint = peer.fingerprint();
    peer.connect(&remote(&created), active).unwrap();
    network.run_for(late.connect * MS);
    let role = match active {
        true => proto::DtlsRole::Client,
        false => proto::DtlsRole::Server,
    };
    network.connect_server("send", "sha-256", &fingerprint, role);
    network.run_until(case, |n| n.clients[sender].peer.connected);
    let kind = MediaKind::Video;
    let mut video = Source::new(network, sender, kind, 2000);
    run(network, &mut [&mut video], late.produce * MS);
    let request = produce_request("send", "cam", kind, 2000);
    network.engine.produce(network.now, &request).unwrap();
    run(network, &mut [&mut video], late.consume * MS);
    consume(network, receiver, "recv", "v", "cam", kind, 6000);
    network.engine.resume_consumer(network.now, "v").unwrap();
    run(network, &mut [&mut video], 2 * SECOND);

    let got = stream(network, receiver, 6000);
    assert!(!got.is_empty() && is_key_frame_start(&got[0]), "{case}");
    let numbers: Vec<u32> = got.iter().map(number).collect();
    let expected: Vec<u32> = (0..u32::try_from(got.len()).unwrap()).collect();
    assert_eq!(numbers, expected, "{case}");
    assert!(
        got.len() + 10 > video.written.len(),
        "{case}: {}",
        got.len()
    );
    let asked = &network.clients[sender].peer.key_frame_requests;
    assert!(asked.is_empty(), "{case}: {asked:?}");
    assert_eq!(network.engine.counters().dropped.total(), 0, "{case}");
}

#[test]
fn the_first_keyframe_waits_for_commands_under_way() {
    for active in [true, false] {
        for (connect, produce, consume) in [
            (0, 0, 0),
            (300, 0, 0),
            (0, 700, 0),
            (0, 0, 700),
            (300, 400, 400),
        ] {
            let late = Late {
                connect,
                produce,
                consume,
            };
            let (mut network, sender, receiver) = room(DtlsVersion::Dtls12);
            let case = format!("{late:?}, client active: {active}");
            check(&case, &mut network, [sender, receiver], active, late);
        }
    }
}

/// The first encrypted datagram of a client's handshake, which says that it is done.
fn is_finished(datagram: &[u8]) -> bool {
    match datagram.first() {
        // DTLS 1.2: behind a ChangeCipherSpec, or alone.
        Some(20) => true,
        Some(22) => datagram[3..5] == [0, 1],
        // DTLS 1.3: encrypted records have another header.
        Some(first) => (0x20..0x40).contains(first),
        None => false,
    }
}

#[test]
fn the_first_keyframe_waits_for_the_end_of_the_handshake() {
    // Who is done first, and begins to send.
    for (version, active) in [(DtlsVersion::Dtls12, false), (DtlsVersion::Dtls13, true)] {
        let case = format!("{version}, client active: {active}");
        let (mut network, sender, receiver) = room(version);
        let mut lost = 0;
        network.clients[sender].on_its_way = Some(Box::new(move |datagram| {
            if lost == 0 && is_finished(&datagram) {
                lost += 1;
                return Vec::new();
            }
            vec![datagram]
        }));
        let before = network.now;
        check(
            &case,
            &mut network,
            [sender, receiver],
            active,
            Late::default(),
        );
        // It had to be sent again, about a second later.
        let came = stream(&network, receiver, 6000)[0].at - before;
        assert!(came > 700 * MS, "{case}: {came:?}");
    }
}

/// What is held before the handshake ends is bounded, and forged packets are not taken in.
#[test]
fn what_is_made_up_before_the_handshake_ends_is_dropped() {
    let (mut network, sender, _) = room(DtlsVersion::Dtls12);
    let created = network.create_transport("send", true);
    let request = produce_request("send", "cam", MediaKind::Video, 2000);
    network.engine.produce(network.now, &request).unwrap();
    network.connect_to(sender, "send", &created, true);
    // Its address is known then, and the handshake is not done.
    network.run_for(25 * MS);
    assert!(!network.clients[sender].peer.connected);
    let mut forged = vec![0x80, 96, 0, 0, 0, 0, 0, 0];
    forged.extend_from_slice(&2000u32.to_be_bytes());
    forged.resize(600, 0x5A);
    let dropped = |network: &Network| network.engine.counters().dropped.total();
    let from = mediaworker::transport::Tuple {
        remote: network.clients[sender].address,
        local: crate::network::server_address().ip(),
        protocol: mediaworker::transport::Protocol::Udp,
    };
    for number in 0..1000u16 {
        forged[2..4].copy_from_slice(&number.to_be_bytes());
        network.engine.receive(network.now, from, &forged);
    }
    let at_once = dropped(&network);
    assert!((800..1000).contains(&at_once), "{at_once}");
    network.run_until("connected", |n| n.clients[sender].peer.connected);
    network.run_for(100 * MS);
    assert_eq!(dropped(&network), 1000);
    assert_eq!(network.engine.counters().rtp_received, 0);
}
