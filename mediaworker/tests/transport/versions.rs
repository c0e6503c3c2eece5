//! DTLS 1.2 and 1.3 in both roles, and a ClientHello that comes in fragments.

use std::time::Duration;

use mediaworker::transport::{Protocol, Tuple};
use test_peer::PeerConfig;
use test_peer::str0m::config::DtlsVersion;
use test_peer::str0m::media::MediaKind;

use crate::network::{Conditions, Network, remote, server_address};
use crate::room::{Source, consume, create_router, produce, produce_request, run, stream};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DTLS_12: u16 = 0xFEFD;
const DTLS_13: u16 = 0xFEFC;

/// What a client speaks, and what is agreed on with it.
const VERSIONS: [(DtlsVersion, u16); 3] = [
    (DtlsVersion::Dtls12, DTLS_12),
    (DtlsVersion::Dtls13, DTLS_13),
    // As browsers: media are protected better then.
    (DtlsVersion::Auto, DTLS_12),
];

/// A room with a client that speaks this version.
fn room(version: DtlsVersion) -> (Network, usize) {
    let mut network = Network::new(1);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig {
        dtls: version,
        ..PeerConfig::sending()
    });
    (network, client)
}

#[test]
fn sound_flows_in_each_version_and_each_role() {
    for (version, agreed) in VERSIONS {
        for active in [true, false] {
            let case = format!("{version}, client active: {active}");
            let (mut network, client) = room(version);
            let created = network.create_transport("send", true);
            let mic = produce_request("send", "mic", MediaKind::Audio, 1000);
            produce(&mut network, client, &mic);
            network.connect_to(client, "send", &created, active);
            let receiver = network.add_client(&PeerConfig {
                dtls: version,
                ..PeerConfig::receiving()
            });
            let created = network.create_transport("recv", false);
            let kind = MediaKind::Audio;
            consume(&mut network, receiver, "recv", "a", "mic", kind, 5000);
            network.connect_to(receiver, "recv", &created, active);
            network.run_until(&case, |n| n.clients.iter().all(|it| it.peer.connected));
            for it in &mut network.clients {
                assert_eq!(it.peer.dtls_version(), Some(agreed), "{case}");
            }
            network.engine.resume_consumer(network.now, "a").unwrap();
            let mut audio = Source::new(&network, client, kind, 1000);
            run(&mut network, &mut [&mut audio], SECOND);
            let got = stream(&network, receiver, 5000).len();
            assert!(got > 45, "{case}: {got}");
            assert_eq!(network.engine.counters().dropped.total(), 0, "{case}");
        }
    }
}

/// How the reason begins of a handshake that ended because its last attempt was lost as well,
/// that of the first message or of a later one; and a time by which that has been the case.
const TIMED_OUT: &str = "DTLS error: timeout: ";
const GIVEN_UP: Duration = Duration::from_secs(60);

#[test]
fn handshakes_in_each_version_get_through_a_bad_network() {
    let mut unlucky = Vec::new();
    for (version, agreed) in VERSIONS {
        for active in [true, false] {
            for seed in 1..=10 {
                let case = format!("{version}, client active: {active}, seed {seed}");
                let mut network = Network::new(seed);
                network.conditions = Conditions {
                    jitter: 60 * MS,
                    duplicate: 0.2,
                    ..Conditions::BAD
                };
                network.data_loss = [0.2; 2];
                create_router(&mut network);
                let client = network.add_client(&PeerConfig {
                    dtls: version,
                    ..PeerConfig::sending()
                });
                let created = network.create_transport("t", true);
                network.connect_to(client, "t", &created, active);
                let deadline = network.now + GIVEN_UP;
                let is_open = |n: &Network| n.closed_reason("t").is_none();
                while !network.clients[client].peer.connected && is_open(&network) {
                    assert!(network.now < deadline, "neither up nor given up: {case}");
                    network.step(MS);
                }
                if !is_open(&network) {
                    let reason = network.closed_reason("t").unwrap_or_default();
                    assert!(reason.starts_with(TIMED_OUT), "{case}: {reason}");
                    unlucky.push(case);
                    continue;
                }
                let peer = &mut network.clients[client].peer;
                assert_eq!(peer.dtls_version(), Some(agreed), "{case}");
            }
        }
    }
    // Of 900 one was: of these 60 more than two never are.
    assert!(unlucky.len() <= 2, "{unlucky:?}");
}

/// Which fragments of a ClientHello arrive, and in which order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    InOrder,
    Backwards,
    /// Each of them twice.
    Doubled,
    /// The first of them is lost at first.
    WithoutFirst,
    /// So is the last.
    WithoutLast,
}

const WAYS: [Way; 5] = [
    Way::InOrder,
    Way::Backwards,
    Way::Doubled,
    Way::WithoutFirst,
    Way::WithoutLast,
];

const RECORD_HEADER: usize = 13;
const MESSAGE_HEADER: usize = 12;

/// Cuts ClientHellos into so many fragments, a record and a datagram each, and gives all
/// unencrypted records numbers that leave room for them.
fn cut_hellos(number: usize, way: Way) -> impl FnMut(Vec<u8>) -> Vec<Vec<u8>> {
    let mut hellos = 0;
    move |mut datagram| {
        let is_clear = datagram.len() > RECORD_HEADER + MESSAGE_HEADER
            && (20..=22).contains(&datagram[0])
            && datagram[3..5] == [0, 0];
        if !is_clear {
            return vec![datagram];
        }
        let renumber = |record: &mut [u8], more: u8| {
            record[9] = record[10];
            record[10] = more;
        };
        if datagram[0] != 22 || datagram[RECORD_HEADER] != 1 {
            // Records of one datagram one after the other.
            let mut at = 0;
            while at + RECORD_HEADER <= datagram.len() && datagram[at + 3..at + 5] == [0, 0] {
                renumber(&mut datagram[at..], 0);
                let len = u16::from_be_bytes([datagram[at + 11], datagram[at + 12]]);
                at += RECORD_HEADER + usize::from(len);
            }
            return vec![datagram];
        }
        hellos += 1;
        let (headers, body) = datagram.split_at(RECORD_HEADER + MESSAGE_HEADER);
        let size = body.len().div_ceil(number);
        let mut pieces: Vec<Vec<u8>> = body
            .chunks(size)
            .enumerate()
            .map(|(index, part)| {
                let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
                let mut piece = headers.to_vec();
                renumber(&mut piece, u8::try_from(index).unwrap());
                piece[11..13].copy_from_slice(&number(MESSAGE_HEADER + part.len())[2..]);
                piece[19..22].copy_from_slice(&number(index * size)[1..]);
                piece[22..25].copy_from_slice(&number(part.len())[1..]);
                piece.extend_from_slice(part);
                piece
            })
            .collect();
        assert_eq!(pieces.len(), number, "{} octets", body.len());
        match way {
            Way::InOrder => {}
            Way::Backwards => pieces.reverse(),
            Way::Doubled => {
                pieces = pieces
                    .iter()
                    .flat_map(|it| [it.clone(), it.clone()])
                    .collect()
            }
            Way::WithoutFirst if hellos == 1 => drop(pieces.remove(0)),
            Way::WithoutLast if hellos == 1 => drop(pieces.pop()),
            Way::WithoutFirst | Way::WithoutLast => {}
        }
        pieces
    }
}

#[test]
fn a_client_hello_in_fragments_is_put_together() {
    for (version, agreed) in VERSIONS {
        for number in [2, 7] {
            for way in WAYS {
                let case = format!("{version} in {number} pieces, {way:?}");
                let (mut network, client) = room(version);
                network.clients[client].on_its_way = Some(Box::new(cut_hellos(number, way)));
                let created = network.create_transport("t", true);
                network.connect_to(client, "t", &created, true);
                let before = network.now;
                network.run_until(&case, |n| n.clients[client].peer.connected);
                let took = network.now - before;
                // What is lost is sent again after a second.
                let lost = matches!(way, Way::WithoutFirst | Way::WithoutLast);
                let limit = if lost { 2 * SECOND } else { 300 * MS };
                assert!(took < limit, "{case}: {took:?}");
                assert_eq!(lost, took > 500 * MS, "{case}: {took:?}");
                let peer = &mut network.clients[client].peer;
                assert_eq!(peer.dtls_version(), Some(agreed), "{case}");
            }
        }
    }
}

/// As it happens with browsers, whose signaling takes longer than their first datagrams.
#[test]
fn fragments_that_come_before_the_connect_command_are_kept() {
    for (version, agreed) in VERSIONS {
        let (mut network, client) = room(version);
        network.clients[client].on_its_way = Some(Box::new(cut_hellos(5, Way::Backwards)));
        let created = network.create_transport("t", true);
        let peer = &mut network.clients[client].peer;
        let fingerprint = peer.fingerprint();
        peer.connect(&remote(&created), true).unwrap();
        network.run_for(300 * MS);
        let before = network.now;
        network.connect_server("t", "sha-256", &fingerprint, proto::DtlsRole::Client);
        network.run_until("connected", |n| n.clients[client].peer.connected);
        // Without them it would wait for what is sent again.
        assert!(network.now - before < 200 * MS, "{version}");
        let peer = &mut network.clients[client].peer;
        assert_eq!(peer.dtls_version(), Some(agreed));
    }
}

/// The next datagram of the remote's answer, as a server with a long certificate sends it.
#[test]
fn what_overtakes_the_answer_to_our_client_hello_does_no_harm() {
    for (version, agreed) in VERSIONS {
        let (mut network, client) = room(version);
        let created = network.create_transport("t", true);
        network.connect_to(client, "t", &created, false);
        // Our ClientHello is under way, and nothing has been answered.
        network.run_for(15 * MS);
        let mut certificate = vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 1, 0, 112];
        certificate.extend([11, 0, 0, 100, 0, 1, 0, 0, 0, 0, 0, 100]);
        certificate.resize(13 + 112, 0x30);
        let from = Tuple {
            remote: network.clients[client].address,
            local: server_address().ip(),
            protocol: Protocol::Udp,
        };
        network.engine.receive(network.now, from, &certificate);
        network.run_until("connected", |n| n.clients[client].peer.connected);
        let peer = &mut network.clients[client].peer;
        assert_eq!(peer.dtls_version(), Some(agreed));
        assert_eq!(network.closed_reason("t"), None);
    }
}
