//! Clients, and strangers with forged addresses, that try to harm others; and
//! orders of commands that once harmed the client itself.

use std::net::SocketAddr;
use std::time::Duration;

use mediaworker::transport::{Protocol, Tuple, ice};
use test_peer::str0m::ice::{StunMessage, TransId};
use test_peer::str0m::media::MediaKind;
use test_peer::{Peer, PeerConfig};

use crate::network::{Network, remote, server_address};
use crate::room::{
    Source, call, consume, create_router, is_key_frame_start, produce, produce_request, run, stream,
};

const SECOND: Duration = Duration::from_secs(1);

fn from(remote: SocketAddr) -> Tuple {
    Tuple {
        remote,
        local: server_address().ip(),
        protocol: Protocol::Udp,
    }
}

/// An RTP packet as anybody could forge it: MID in the clear, no valid tag.
fn forged_rtp(pt: u8, mid: u8, ssrc: u32, transport_cc: u16) -> Vec<u8> {
    let mut packet = vec![0x90, pt, 0, 1, 0, 0, 0, 0];
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&[0xBE, 0xDE, 0, 2, 0x40, mid, 0x31]);
    packet.extend_from_slice(&transport_cc.to_be_bytes());
    packet.extend_from_slice(&[0; 43]);
    packet
}

/// A connectivity check that nominates, as somebody with these parameters sends.
fn binding_request(parameters: &proto::IceParameters) -> Vec<u8> {
    let user = format!("{}:them", parameters.username_fragment);
    let request = StunMessage::binding_request(&user, TransId::new(), true, 1, 1, true);
    let mut check = vec![0; 256];
    let password = Some(parameters.password.as_bytes());
    let len = request.to_bytes(password, &mut check, ice::hmac).unwrap();
    check.truncate(len);
    check
}

#[test]
fn a_forged_ssrc_does_not_silence_a_producer() {
    let (mut network, mut audio, mut video) = call(1);
    // Long enough that clients have stopped writing MID.
    run(&mut network, &mut [&mut audio, &mut video], 12 * SECOND);
    let attacker_sees = network.clients[0].address;
    for (pt, mid) in [(111, b'0'), (96, b'1')] {
        let packet = forged_rtp(pt, mid, 0xDEAD_BEEF, 1);
        let now = network.now;
        network.engine.receive(now, from(attacker_sees), &packet);
    }
    for (ssrc, least) in [(5000, 220), (6000, 450)] {
        let before = stream(&network, 1, ssrc).len();
        run(&mut network, &mut [&mut audio, &mut video], 5 * SECOND);
        let got = stream(&network, 1, ssrc).len() - before;
        assert!(got > least, "{ssrc}: {got} packets in 5 s");
    }
}

#[test]
fn the_address_of_a_living_transport_cannot_be_taken_over() {
    let (mut network, mut audio, mut video) = call(1);
    run(&mut network, &mut [&mut audio, &mut video], SECOND);
    let evil = network.create_transport("evil", true);
    let ice_parameters = evil.ice_parameters.unwrap();
    let victim = network.clients[0].address;
    let before = stream(&network, 1, 5000).len();
    for _ in 0..50 {
        let check = binding_request(&ice_parameters);
        let now = network.now;
        network.engine.receive(now, from(victim), &check);
        run(&mut network, &mut [&mut audio, &mut video], SECOND / 10);
    }
    let got = stream(&network, 1, 5000).len() - before;
    assert!(got > 230, "{got} packets in 5 s");
}

#[test]
fn nothing_is_sent_without_consent() {
    let (mut network, mut audio, mut video) = call(1);
    run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
    // The client is gone, its address answers no more.
    let gone = network.clients[1].address;
    network.clients[1].peer = Peer::new(network.now, &PeerConfig::receiving(), gone);
    run(&mut network, &mut [&mut audio, &mut video], 31 * SECOND);
    let before = network.engine.counters().rtp_forwarded;
    run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
    assert_eq!(network.engine.counters().rtp_forwarded, before);
}

#[test]
fn media_comes_back_with_consent() {
    let (mut network, mut audio, mut video) = call(1);
    run(&mut network, &mut [&mut audio, &mut video], 2 * SECOND);
    network.clients[1].cut = true;
    run(&mut network, &mut [&mut audio, &mut video], 31 * SECOND);
    network.clients[1].cut = false;
    // A client whose network is back checks again; str0m's agent has given up.
    let check = binding_request(&network.engine.restart_ice("recv").unwrap());
    let address = network.clients[1].address;
    let now = network.now;
    network.engine.receive(now, from(address), &check);
    let back_at = network.now;
    run(&mut network, &mut [&mut audio, &mut video], 10 * SECOND);
    let mut packets = stream(&network, 1, 6000);
    packets.retain(|p| p.at > back_at);
    assert!(packets.len() > 500, "{}", packets.len());
    assert!(packets.iter().any(is_key_frame_start));
}

/// The usual order with mediasoup-client: the consumer is resumed while its
/// transport connects.
#[test]
fn the_first_keyframe_comes_as_soon_as_the_transport_is_connected() {
    for resumed_before in [0, 50, 150, 400] {
        let mut network = Network::new(1);
        create_router(&mut network);
        let a = network.add_client(&PeerConfig::sending());
        let b = network.add_client(&PeerConfig::receiving());
        network.connect(a, "send", true);
        let request = produce_request("send", "cam", MediaKind::Video, 2000);
        produce(&mut network, a, &request);
        network.run_until("producer connected", |n| n.clients[a].peer.connected);
        let mut video = Source::new(&network, a, MediaKind::Video, 2000);
        run(&mut network, &mut [&mut video], 3 * SECOND);
        let created = network.create_transport("recv", false);
        let kind = MediaKind::Video;
        consume(&mut network, b, "recv", "v", "cam", kind, 6000);
        network.engine.resume_consumer(network.now, "v").unwrap();
        let wait = Duration::from_millis(resumed_before);
        run(&mut network, &mut [&mut video], wait);
        network.connect_to(b, "recv", &created, true);
        run(&mut network, &mut [&mut video], SECOND / 3);
        let packets = stream(&network, b, 6000);
        assert!(!packets.is_empty(), "resumed {resumed_before} ms before");
        assert!(is_key_frame_start(&packets[0]));
    }
}

#[test]
fn payload_types_that_cannot_be_are_refused_before_anything_changes() {
    let mut network = Network::new(1);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    let created = network.create_transport("t", true);
    let now = network.now;
    let ask = || produce_request("t", "p1", MediaKind::Video, 2000);
    let mut twice = ask();
    twice.codecs.push(twice.codecs[0].clone());
    let mut like_rtcp = ask();
    like_rtcp.codecs[0].payload_type = 72;
    let mut no_clock = ask();
    no_clock.codecs[0].clock_rate = 0;
    for (bad, field) in [
        (twice, "payloadType"),
        (like_rtcp, "payloadType"),
        (no_clock, "clockRate"),
    ] {
        let error = network.engine.produce(now, &bad).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    assert_eq!(network.engine.sizes().producers, 0);

    produce(&mut network, client, &ask());
    network.connect_to(client, "t", &created, true);
    network.run_until("connected", |n| n.clients[client].peer.connected);
    let mut source = Source::new(&network, client, MediaKind::Video, 2000);
    run(&mut network, &mut [&mut source], SECOND);
    assert!(network.engine.counters().rtp_received > 80);
}

#[test]
fn as_dtls_client_the_handshake_waits_for_ice() {
    let mut network = Network::new(1);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    let created = network.create_transport("t", true);
    let fingerprint = network.clients[client].peer.fingerprint();
    network.connect_server("t", "sha-256", &fingerprint, proto::DtlsRole::Server);
    let request = produce_request("t", "cam", MediaKind::Video, 2000);
    produce(&mut network, client, &request);
    network.run_for(60 * SECOND);
    assert_eq!(network.closed_reason("t"), None);
    let server = remote(&created);
    network.clients[client]
        .peer
        .connect(&server, false)
        .unwrap();
    network.run_until("connected", |n| n.clients[client].peer.connected);
    let mut source = Source::new(&network, client, MediaKind::Video, 2000);
    run(&mut network, &mut [&mut source], SECOND);
    assert!(network.engine.counters().rtp_received > 80);
}

#[test]
fn private_mids_give_way_to_the_clients() {
    let (mut network, mut audio, mut video) = call(1);
    let now = network.now;
    for i in 1..=20u32 {
        let mut request =
            produce_request("send", &format!("x{i}"), MediaKind::Video, 3000 + 10 * i);
        request.mid = Some(format!("l{i}"));
        // Another payload type each time needs another lesson.
        request.codecs[0].payload_type = 34 + 2 * (i % 8);
        request.codecs[0].rtx_payload_type = Some(35 + 2 * (i % 8));
        network.engine.produce(now, &request).unwrap();
    }
    assert_eq!(network.engine.sizes().producers, 22);
    run(&mut network, &mut [&mut audio, &mut video], SECOND);
    assert!(stream(&network, 1, 6000).len() > 80);
}

#[test]
fn a_transport_closed_with_something_to_send_harms_no_other() {
    let (mut network, _, _) = call(1);
    let other = network.add_client(&PeerConfig::receiving());
    network.connect(other, "other", false);
    consume(
        &mut network,
        other,
        "other",
        "b",
        "mic",
        MediaKind::Audio,
        7000,
    );
    network.run_until("connected", |n| n.clients[other].peer.connected);
    // Both have something to send when the tick ends, and one is gone by then.
    for consumer in ["a", "b"] {
        network.engine.close_consumer(consumer).unwrap();
    }
    let now = network.now;
    network.engine.close_transport(now, "recv").unwrap();
    network.run_for(SECOND);
    for transport in ["send", "other"] {
        assert_eq!(network.closed_reason(transport), None);
    }
}
