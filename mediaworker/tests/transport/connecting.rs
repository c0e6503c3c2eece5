//! ICE and DTLS: roles, fingerprints, restarts, roaming, and ends.

use std::net::SocketAddr;
use std::time::Duration;

use mediaworker::transport::crypto::{Fingerprint, FingerprintHash, generate_certificate};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::network::{Network, remote};
use crate::room::{call, create_router, produce, produce_request, run, stream};

fn room() -> (Network, usize) {
    let mut network = Network::new(1);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    (network, client)
}

#[test]
fn both_dtls_roles_connect() {
    for active in [true, false] {
        let (mut network, client) = room();
        let created = network.create_transport("t", true);
        network.connect_to(client, "t", &created, active);
        network.run_until("connected", |n| n.clients[client].peer.connected);
    }
}

#[test]
fn a_client_that_starts_before_the_connect_command_loses_nothing() {
    let (mut network, client) = room();
    let created = network.create_transport("t", true);
    let fingerprint = network.clients[client].peer.fingerprint();
    network.clients[client]
        .peer
        .connect(&remote(&created), true)
        .unwrap();
    network.run_for(Duration::from_millis(300));
    let before = network.now;
    network.connect_server("t", "sha-256", &fingerprint, proto::DtlsRole::Client);
    network.run_until("connected", |n| n.clients[client].peer.connected);
    // Without the early ClientHello it would wait for a retransmission.
    assert!(network.now - before < Duration::from_millis(200));
}

#[test]
fn the_wrong_certificate_is_refused() {
    let (mut network, client) = room();
    let created = network.create_transport("t", true);
    let wrong = ["AB"; 32].join(":");
    network.clients[client]
        .peer
        .connect(&remote(&created), true)
        .unwrap();
    network.connect_server("t", "sha-256", &wrong, proto::DtlsRole::Client);
    network.run_until("closed", |n| n.closed_reason("t").is_some());
    let reason = network.closed_reason("t").unwrap();
    assert!(reason.contains("fingerprint"), "{reason}");
    assert_eq!(network.engine.sizes().transports, 0);
    assert!(!network.clients[client].peer.connected);
}

#[test]
fn every_hash_tells_the_right_certificate_from_a_wrong_one() {
    for hash in FingerprintHash::ALL {
        for right in [true, false] {
            let mut network = Network::new(1);
            create_router(&mut network);
            let certificate = generate_certificate().unwrap();
            let fingerprint = Fingerprint::of(hash, &certificate.certificate);
            let mut value = fingerprint.value();
            if !right {
                // One digit of the last octet.
                let last = value.pop();
                value.push(if last == Some('0') { '1' } else { '0' });
            }
            let client = network.add_client(&PeerConfig {
                certificate: Some(certificate),
                ..PeerConfig::sending()
            });
            let created = network.create_transport("t", true);
            let peer = &mut network.clients[client].peer;
            peer.connect(&remote(&created), true).unwrap();
            let algorithm = fingerprint.algorithm();
            network.connect_server("t", algorithm, &value, proto::DtlsRole::Client);
            network.run_until(algorithm, |n| {
                n.clients[client].peer.connected || n.closed_reason("t").is_some()
            });
            network.run_for(Duration::from_millis(200));
            assert_eq!(network.clients[client].peer.connected, right, "{algorithm}");
            let transports = usize::from(right);
            assert_eq!(network.engine.sizes().transports, transports, "{algorithm}");
        }
    }
}

#[test]
fn connect_is_checked() {
    let (mut network, _) = room();
    network.create_transport("t", true);
    let connect = |network: &mut Network, algorithm: &str, value: &str| {
        let request = proto::ConnectWebRtcTransportRequest {
            transport_id: "t".into(),
            role: proto::DtlsRole::Client.into(),
            fingerprint: Some(proto::DtlsFingerprint {
                algorithm: algorithm.into(),
                value: value.into(),
            }),
        };
        let now = network.now;
        network
            .engine
            .connect_web_rtc_transport(now, &request)
            .map_err(|e| e.to_string())
    };
    let valid = ["AB"; 32].join(":");
    assert!(
        connect(&mut network, "sha-256", "")
            .unwrap_err()
            .contains("value")
    );
    assert!(
        connect(&mut network, "md4", &valid)
            .unwrap_err()
            .contains("algorithm")
    );
    assert_eq!(connect(&mut network, "sha-256", &valid), Ok(()));
    assert_eq!(
        connect(&mut network, "sha-256", &valid),
        Err("connect() already called".into())
    );
}

#[test]
fn media_follows_a_client_to_a_new_address() {
    let (mut network, mut audio, mut video) = call(1);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(2),
    );
    network.clients[1].address = SocketAddr::from(([10, 9, 9, 9], 9));
    let before = stream(&network, 1, 5000).len();
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(8),
    );
    let after = stream(&network, 1, 5000).len();
    // 50 packets a second; the client's next check moves its media.
    assert!(after - before > 150, "{}", after - before);
}

#[test]
fn an_ice_restart_leaves_media_alone() {
    let (mut network, mut audio, mut video) = call(1);
    let new = network.engine.restart_ice("recv").unwrap();
    assert_eq!(new.password.len(), 32);
    let before = stream(&network, 1, 5000).len();
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(3),
    );
    let after = stream(&network, 1, 5000).len();
    assert!(after - before > 140, "{}", after - before);
}

#[test]
fn consent_expires() {
    let (mut network, client) = room();
    network.connect(client, "t", true);
    network.run_until("connected", |n| n.clients[client].peer.connected);
    network.clients[client].address = SocketAddr::from(([10, 9, 9, 9], 9));
    network.clients.clear();
    network.run_for(Duration::from_secs(31));
    let disconnected = network.events.iter().any(|event| {
        matches!(event, proto::event::Event::TransportState(s)
            if s.ice_state() == proto::IceState::Disconnected)
    });
    assert!(disconnected);
}

#[test]
fn consent_expires_when_it_was_asked_to() {
    let (mut network, client) = room();
    let mut request = proto::CreateWebRtcTransportRequest {
        router_id: "room".into(),
        transport_id: "t".into(),
        producing: true,
        ..Default::default()
    };
    for wrong in [0, 4, 301, u32::MAX] {
        request.ice_consent_timeout = Some(wrong);
        let error = network.engine.create_web_rtc_transport(&request);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("ice_consent_timeout"), "{error}");
    }
    request.ice_consent_timeout = Some(20);
    let created = network.engine.create_web_rtc_transport(&request).unwrap();
    network.connect_to(client, "t", &created, true);
    network.run_until("connected", |n| n.clients[client].peer.connected);
    network.clients.clear();
    let disconnected = |network: &Network| {
        network.events.iter().any(|event| {
            matches!(event, proto::event::Event::TransportState(s)
                if s.ice_state() == proto::IceState::Disconnected)
        })
    };
    // The last check was a few seconds before the client vanished, at most.
    network.run_for(Duration::from_secs(13));
    assert!(!disconnected(&network));
    network.run_for(Duration::from_secs(8));
    assert!(disconnected(&network));
}

#[test]
fn closing_tells_the_client_and_leaves_nothing() {
    let (mut network, mut audio, mut video) = call(1);
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(1),
    );
    let now = network.now;
    network.engine.close_transport(now, "send").unwrap();
    network.run_until("client told", |n| n.clients[0].peer.closed.is_some());
    let orphans: Vec<_> = network
        .events
        .iter()
        .filter_map(|event| match event {
            proto::event::Event::ConsumerClosed(c) => Some(c.consumer_id.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(orphans.len(), 2);
    let sizes = network.engine.sizes();
    assert_eq!(
        (sizes.transports, sizes.producers, sizes.consumers),
        (1, 0, 0)
    );
    let now = network.now;
    network.engine.close_router(now, "room").unwrap();
    assert_eq!(network.engine.sizes(), Default::default());
    assert_eq!(network.engine.next_timeout(), None);
}

#[test]
fn a_client_that_closes_takes_its_media_with_it() {
    let (mut network, _, _) = call(1);
    network.clients[0].peer.close();
    network.run_until("worker noticed", |n| n.closed_reason("send").is_some());
    assert_eq!(network.engine.sizes().producers, 0);
    assert_eq!(network.engine.sizes().consumers, 0);
}

#[test]
fn producers_come_and_go_with_new_payload_types_and_extension_ids() {
    let (mut network, client) = room();
    // The first one is there before the client has connected.
    let early = produce_request("t", "p0", MediaKind::Audio, 1000);
    let created = network.create_transport("t", true);
    produce(&mut network, client, &early);
    network.connect_to(client, "t", &created, true);
    network.run_until("connected", |n| n.clients[client].peer.connected);
    let now = network.now;
    for i in 1..=10u32 {
        let mut request = produce_request("t", &format!("p{i}"), MediaKind::Video, 2000 + 10 * i);
        request.mid = Some(format!("m{i}"));
        request.codecs[0].payload_type = 34 + 2 * i;
        request.codecs[0].rtx_payload_type = Some(35 + 2 * i);
        if i > 5 {
            request.header_extensions.push(proto::HeaderExtension {
                id: 14,
                uri: "urn:ietf:params:rtp-hdrext:toffset".into(),
            });
        }
        network.engine.produce(now, &request).unwrap();
        if i % 2 == 0 {
            network.engine.close_producer(&format!("p{i}")).unwrap();
        }
    }
    assert_eq!(network.engine.sizes().producers, 6);
    let clash = produce_request("t", "again", MediaKind::Audio, 4000);
    let error = network.engine.produce(now, &clash).unwrap_err().to_string();
    assert!(error.contains("mid"), "{error}");
}
