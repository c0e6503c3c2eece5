//! Handshakes that do not end well: clients that vanish or are closed in the
//! middle, and those with another certificate than they have announced.

use std::net::SocketAddr;
use std::time::Duration;

use mediaworker::transport::{Protocol, Tuple};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::data::sctp;
use crate::network::{Network, remote, server_address};
use crate::room::{Source, consume, create_router, produce, produce_request, stream};

const MS: Duration = Duration::from_millis(1);

/// How a handshake is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// The client is not heard of any more.
    Vanishes,
    /// The client does not hear anything any more, but goes on.
    Deaf,
    /// Control closes the transport, and the client goes on.
    Closed,
    /// Control closes the router.
    RouterClosed,
}

/// A client that produces and has data channels, cut some time after it began.
fn cut_after(time: Duration, active: bool, cut: Cut) -> (Network, bool) {
    let mut network = Network::new(1);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    network.clients[client].peer.enable_data();
    let created = network.create_transport_with("t", true, sctp());
    let mic = produce_request("t", "mic", MediaKind::Audio, 1000);
    produce(&mut network, client, &mic);
    network.connect_to(client, "t", &created, active);
    network.run_for(time);
    let connected = network.clients[client].peer.connected;
    match cut {
        Cut::Vanishes => network.clients[client].cut = true,
        Cut::Deaf => network.clients[client].address = SocketAddr::from(([10, 7, 7, 7], 7)),
        Cut::Closed => network.engine.close_transport(network.now, "t").unwrap(),
        Cut::RouterClosed => network.engine.close_router(network.now, "room").unwrap(),
    }
    (network, connected)
}

#[test]
fn a_handshake_may_be_cut_at_any_moment() {
    let mut during = 0;
    for active in [true, false] {
        for cut in [Cut::Vanishes, Cut::Deaf, Cut::Closed, Cut::RouterClosed] {
            // One way takes 10 ms, a handshake six of them.
            for time in (0..120).step_by(5) {
                let case = format!("{cut:?} after {time} ms, active: {active}");
                let (mut network, connected) = cut_after(time * MS, active, cut);
                during += usize::from(!connected);
                let end = network.now + Duration::from_secs(90);
                while network.now < end {
                    network.step(25 * MS);
                }
                let sizes = network.engine.sizes();
                match cut {
                    Cut::Vanishes if sizes.transports > 0 => {
                        let gone = network.events.iter().any(|event| {
                            matches!(event, proto::event::Event::TransportState(state)
                                if state.ice_state() == proto::IceState::Disconnected)
                        });
                        // One that was never heard of waits for its client.
                        assert!(gone || time <= 10, "{case}");
                    }
                    Cut::Vanishes | Cut::Deaf => {}
                    Cut::Closed => {
                        assert_eq!((sizes.transports, sizes.producers), (0, 0), "{case}")
                    }
                    Cut::RouterClosed => assert_eq!(sizes, Default::default(), "{case}"),
                }
                if cut != Cut::RouterClosed {
                    network.engine.close_router(network.now, "room").unwrap();
                }
                assert_eq!(network.engine.sizes(), Default::default(), "{case}");
                assert_eq!(network.engine.next_timeout(), None, "{case}");
                assert_eq!(network.engine.counters().panics, 0, "{case}");
            }
        }
    }
    assert!(during > 80, "{during} were cut before they were connected");
}

/// An RTP packet of Opus, in the clear.
fn plain_rtp(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 111];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0]);
    packet.extend_from_slice(&1000u32.to_be_bytes());
    packet.resize(120, 0xFC);
    packet
}

#[test]
fn nothing_of_a_client_with_the_wrong_certificate_reaches_anybody() {
    for (active, right) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut network = Network::new(2);
        create_router(&mut network);
        let receiver = network.add_client(&PeerConfig::receiving());
        network.connect(receiver, "recv", false);
        network.run_until("connected", |n| n.clients[receiver].peer.connected);
        let impostor = network.add_client(&PeerConfig::sending());
        let created = network.create_transport("send", true);
        let mic = produce_request("send", "mic", MediaKind::Audio, 1000);
        produce(&mut network, impostor, &mic);
        let kind = MediaKind::Audio;
        consume(&mut network, receiver, "recv", "a", "mic", kind, 5000);
        network.engine.resume_consumer(network.now, "a").unwrap();
        let peer = &mut network.clients[impostor].peer;
        let fingerprint = match right {
            true => peer.fingerprint(),
            false => ["AB"; 32].join(":"),
        };
        peer.connect(&remote(&created), active).unwrap();
        let role = match active {
            true => proto::DtlsRole::Client,
            false => proto::DtlsRole::Server,
        };
        network.connect_server("send", "sha-256", &fingerprint, role);
        // It sends as soon as its side of the handshake lets it, and what needs
        // no handshake all the time.
        let mut audio = Source::new(&network, impostor, MediaKind::Audio, 1000);
        let from = Tuple {
            remote: network.clients[impostor].address,
            local: server_address().ip(),
            protocol: Protocol::Udp,
        };
        for sequence in 0..5000 {
            audio.step(&mut network);
            let plain = plain_rtp(sequence);
            network.engine.receive(network.now, from, &plain);
            network.step(MS);
        }
        let got = stream(&network, receiver, 5000).len();
        if right {
            assert!(got > 200, "an honest one is heard: {got}");
            continue;
        }
        assert_eq!(got, 0, "active: {active}");
        let reason = network.closed_reason("send").unwrap();
        assert!(reason.contains("fingerprint"), "{reason}");
        let counters = network.engine.counters();
        assert_eq!((counters.rtp_received, counters.rtp_forwarded), (0, 0));
        let sizes = network.engine.sizes();
        assert_eq!((sizes.transports, sizes.producers), (1, 0));
        println!(
            "peer connected: {}",
            network.clients[impostor].peer.connected
        );
    }
}
