//! Data channels: every kind of message, over good and bad networks, to fast and
//! slow receivers, and through every order of closing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mediaworker::transport::crypto::{self, Fingerprint, FingerprintHash};
use mediaworker::transport::data::{
    DataChannels, MAX_BACKLOG, MAX_BACKLOG_MESSAGES, MAX_MESSAGE_SIZE, SctpLimits, SctpState,
};
use mediaworker::transport::sctp::empty_message;
use mediaworker::transport::webrtc::{Output, RouterMedia, WebRtcTransport};
use mediaworker::transport::{PacketKind, Protocol, Tuple};
use proto::event::Event;
use proto::produce_data_request::On;
use proto::{
    ConsumeDataRequest, DataConsumerSpec, ProduceDataRequest, SctpOptions, SctpStreamParameters,
    SendDataMessageRequest,
};
use test_peer::str0m::channel::Reliability;
use test_peer::str0m::ice::StunMessage;
use test_peer::str0m::media::MediaKind;
use test_peer::{Message, Peer, PeerConfig, Remote};

use crate::network::{Network, server_address};
use crate::room::{Source, consume, create_router, produce, produce_request, run, stream};

pub const MS: Duration = Duration::from_millis(1);
const LONGEST: usize = MAX_MESSAGE_SIZE as usize;

pub fn sctp() -> Option<SctpOptions> {
    Some(SctpOptions {
        num_streams: 1024,
        max_message_size: MAX_MESSAGE_SIZE,
    })
}

pub fn room(seed: u64) -> Network {
    let mut network = Network::new(seed);
    create_router(&mut network);
    network
}

/// A client with a transport that has data channels; connects at once.
pub fn join(network: &mut Network, transport: &str, producing: bool, active: bool) -> usize {
    let config = if producing {
        PeerConfig::sending()
    } else {
        PeerConfig::receiving()
    };
    let client = network.add_client(&config);
    network.clients[client].peer.enable_data();
    let created = network.create_transport_with(transport, producing, sctp());
    network.connect_to(client, transport, &created, active);
    client
}

pub fn reliable(stream_id: u32) -> SctpStreamParameters {
    SctpStreamParameters {
        stream_id,
        ordered: true,
        ..Default::default()
    }
}

fn unreliable(stream_id: u32) -> SctpStreamParameters {
    SctpStreamParameters {
        stream_id,
        ordered: false,
        max_retransmits: Some(0),
        max_packet_life_time: None,
    }
}

pub fn produce_data(transport: &str, id: &str, stream: SctpStreamParameters) -> ProduceDataRequest {
    ProduceDataRequest {
        data_producer_id: id.into(),
        on: Some(On::TransportId(transport.into())),
        stream: Some(stream),
        label: "chat".into(),
        protocol: "text".into(),
        tell: false,
    }
}

pub fn direct(id: &str) -> ProduceDataRequest {
    ProduceDataRequest {
        on: Some(On::RouterId("room".into())),
        stream: None,
        ..produce_data("", id, reliable(0))
    }
}

/// Creates a data producer and the client's channel.
pub fn send_on(network: &mut Network, client: usize, transport: &str, id: &str, stream: u16) {
    let request = produce_data(transport, id, reliable(stream.into()));
    network.engine.produce_data(network.now, &request).unwrap();
    let peer = &mut network.clients[client].peer;
    peer.create_channel(stream, true, Reliability::Reliable);
}

pub fn try_consume(
    network: &mut Network,
    transport: &str,
    id: &str,
    producer: &str,
    stream: SctpStreamParameters,
) -> String {
    let spec = DataConsumerSpec {
        transport_id: transport.into(),
        data_consumer_id: id.into(),
        data_producer_id: producer.into(),
        stream: Some(stream),
    };
    let request = ConsumeDataRequest {
        data_consumers: vec![spec],
    };
    let response = network.engine.consume_data(&request);
    assert_eq!(response.results[0].data_consumer_id, id);
    response.results[0].error.clone()
}

/// Creates a data consumer and the client's channel.
pub fn receive_on(
    network: &mut Network,
    client: usize,
    transport: &str,
    id: &str,
    producer: &str,
    stream: SctpStreamParameters,
) {
    let error = try_consume(network, transport, id, producer, stream);
    assert_eq!(error, "");
    let peer = &mut network.clients[client].peer;
    let number = u16::try_from(stream.stream_id).unwrap();
    peer.create_channel(number, stream.ordered, Reliability::Reliable);
}

/// Runs until a message gets through from end to end: all channels are open
/// then. Forgets everything that has been received so far.
pub fn open(network: &mut Network, sender: usize, stream: u16, receivers: &[(usize, u16)]) {
    let deadline = network.now + Duration::from_secs(30);
    for client in &mut network.clients {
        client.peer.messages.clear();
    }
    loop {
        assert!(network.now < deadline, "channels do not open");
        network.clients[sender]
            .peer
            .send_message(stream, false, b"?");
        network.run_for(50 * MS);
        let heard = |(client, stream): &(usize, u16)| {
            let messages = &network.clients[*client].peer.messages;
            messages.iter().any(|m| m.stream == *stream)
        };
        if receivers.iter().all(heard) {
            break;
        }
    }
    network.run_for(500 * MS);
    for client in &mut network.clients {
        client.peer.messages.clear();
    }
}

/// Sends, waiting while the client's own buffer is full.
pub fn send(network: &mut Network, client: usize, stream: u16, binary: bool, payload: &[u8]) {
    let deadline = network.now + Duration::from_secs(60);
    let payload = if payload.is_empty() {
        empty_message()
    } else {
        payload
    };
    while !network.clients[client]
        .peer
        .send_message(stream, binary, payload)
    {
        assert!(network.now < deadline, "cannot send");
        network.step(MS);
    }
}

/// Lets a long time pass in which little happens.
fn idle(network: &mut Network, time: Duration) {
    let end = network.now + time;
    while network.now < end {
        network.step(20 * MS);
    }
}

pub fn payloads(network: &Network, client: usize, stream: u16) -> Vec<Vec<u8>> {
    let messages = &network.clients[client].peer.messages;
    let own = messages.iter().filter(|m| m.stream == stream);
    own.map(|m| m.payload.clone()).collect()
}

fn closed_events(network: &Network) -> Vec<String> {
    let mut ids: Vec<String> = network
        .events
        .iter()
        .filter_map(|event| match event {
            Event::DataConsumerClosed(closed) => Some(closed.data_consumer_id.clone()),
            _ => None,
        })
        .collect();
    ids.sort();
    ids
}

fn assert_sizes(network: &Network, producers: usize, consumers: usize) {
    let sizes = network.engine.sizes();
    assert_eq!(
        (sizes.data_producers, sizes.data_consumers),
        (producers, consumers)
    );
}

fn every_kind() -> Vec<(bool, Vec<u8>)> {
    let long: Vec<u8> = (0..LONGEST).map(|i| (i % 251) as u8).collect();
    vec![
        (false, b"hello".to_vec()),
        (true, vec![0, 255, 1]),
        (false, Vec::new()),
        (true, Vec::new()),
        (true, vec![0]),
        (false, vec![b'x'; LONGEST]),
        (true, long),
        (false, "\u{1F44B} last".as_bytes().to_vec()),
    ]
}

#[test]
fn messages_of_every_kind_pass_both_ways_in_either_dtls_role() {
    for active in [true, false] {
        let mut network = room(1);
        // Two people with two transports each.
        let [a_send, b_send] = ["a-send", "b-send"].map(|t| join(&mut network, t, true, active));
        let [a_recv, b_recv] = ["a-recv", "b-recv"].map(|t| join(&mut network, t, false, active));
        send_on(&mut network, a_send, "a-send", "a", 0);
        send_on(&mut network, b_send, "b-send", "b", 0);
        receive_on(&mut network, a_recv, "a-recv", "b>a", "b", reliable(0));
        receive_on(&mut network, b_recv, "b-recv", "a>b", "a", reliable(0));
        open(&mut network, a_send, 0, &[(b_recv, 0)]);
        open(&mut network, b_send, 0, &[(a_recv, 0)]);
        for (binary, payload) in every_kind() {
            send(&mut network, a_send, 0, binary, &payload);
            send(&mut network, b_send, 0, binary, &payload);
        }
        let count = every_kind().len();
        network.run_until("all messages", |n| {
            [a_recv, b_recv].map(|c| n.clients[c].peer.messages.len()) == [count; 2]
        });
        for client in [a_recv, b_recv] {
            let wanted = every_kind().into_iter().map(|(binary, payload)| Message {
                stream: 0,
                binary,
                payload,
            });
            for (got, wanted) in network.clients[client].peer.messages.iter().zip(wanted) {
                assert!(*got == wanted, "{} bytes", wanted.payload.len());
            }
        }
        for transport in ["a-send", "b-recv"] {
            let stats = network.engine.transport_stats(network.now, transport);
            assert_eq!(stats.unwrap().sctp_state(), proto::SctpState::Connected);
        }
        assert_eq!(network.engine.counters().panics, 0);
    }
}

#[test]
fn a_message_goes_to_all_and_is_counted() {
    let mut network = room(2);
    let sender = join(&mut network, "send", true, true);
    send_on(&mut network, sender, "send", "chat", 7);
    let mut receivers = Vec::new();
    for i in 0..3u16 {
        let transport = format!("recv{i}");
        let client = join(&mut network, &transport, false, true);
        let id = format!("c{i}");
        receive_on(
            &mut network,
            client,
            &transport,
            &id,
            "chat",
            reliable(i.into()),
        );
        receivers.push((client, i));
    }
    // And a second one on a transport that has one already.
    receive_on(
        &mut network,
        receivers[0].0,
        "recv0",
        "c3",
        "chat",
        reliable(900),
    );
    receivers.push((receivers[0].0, 900));
    open(&mut network, sender, 7, &receivers);
    let before = network.engine.data_producer_stats("chat").unwrap();
    let consumer_before = network.engine.data_consumer_stats("c2").unwrap();
    for payload in [&b"one"[..], b"", b"three"] {
        send(&mut network, sender, 7, false, payload);
    }
    network.run_for(Duration::from_secs(1));
    for (client, stream) in receivers {
        let wanted = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        assert_eq!(payloads(&network, client, stream), wanted);
    }
    let stats = network.engine.data_producer_stats("chat").unwrap();
    assert_eq!(
        (stats.label.as_str(), stats.protocol.as_str()),
        ("chat", "text")
    );
    assert_eq!(stats.messages_received - before.messages_received, 3);
    assert_eq!(stats.bytes_received - before.bytes_received, 8);
    let stats = network.engine.data_consumer_stats("c2").unwrap();
    assert_eq!(
        (stats.label.as_str(), stats.protocol.as_str()),
        ("chat", "text")
    );
    assert_eq!(stats.messages_sent - consumer_before.messages_sent, 3);
    assert_eq!(stats.bytes_sent - consumer_before.bytes_sent, 8);
    assert_eq!(stats.buffered_amount, 0, "all acknowledged");
    // Nobody was told.
    assert!(
        !network
            .events
            .iter()
            .any(|e| matches!(e, Event::DataMessage(_)))
    );
}

#[test]
fn reliable_messages_arrive_in_order_over_a_bad_network() {
    let mut network = room(3);
    let sender = join(&mut network, "send", true, true);
    let receiver = join(&mut network, "recv", false, false);
    send_on(&mut network, sender, "send", "p", 0);
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(1));
    open(&mut network, sender, 0, &[(receiver, 1)]);
    let dropped = network.engine.counters().data_dropped;
    network.data_loss = [0.05; 2];
    network.conditions = crate::network::Conditions::BAD;
    let sent: Vec<Vec<u8>> = (0..150usize)
        .map(|i| vec![i as u8; 1 + (i * 397) % 6000])
        .chain([Vec::new(), b"end".to_vec()])
        .collect();
    for payload in &sent {
        send(&mut network, sender, 0, true, payload);
        network.step(5 * MS);
    }
    let deadline = network.now + Duration::from_secs(300);
    while network.clients[receiver].peer.messages.len() < sent.len() {
        assert!(network.now < deadline, "not all have arrived");
        network.step(MS);
    }
    assert!(payloads(&network, receiver, 1) == sent);
    assert_eq!(network.engine.counters().data_dropped, dropped);
}

#[test]
fn unreliable_messages_are_lost_without_stalling() {
    for lifetime in [false, true] {
        let mut network = room(4);
        let sender = join(&mut network, "send", true, true);
        let receiver = join(&mut network, "recv", false, true);
        send_on(&mut network, sender, "send", "p", 0);
        let stream = if lifetime {
            SctpStreamParameters {
                max_retransmits: None,
                max_packet_life_time: Some(20),
                ..unreliable(0)
            }
        } else {
            unreliable(0)
        };
        receive_on(&mut network, receiver, "recv", "c", "p", stream);
        open(&mut network, sender, 0, &[(receiver, 0)]);
        network.data_loss = [0.0, 0.15];
        for i in 0..300u32 {
            send(&mut network, sender, 0, true, &i.to_be_bytes());
            network.run_for(10 * MS);
        }
        network.data_loss = [0.0; 2];
        idle(&mut network, Duration::from_secs(60));
        let got = payloads(&network, receiver, 0);
        assert!(
            got.len() < 300,
            "{} of 300, lifetime: {lifetime}",
            got.len()
        );
        assert!(
            got.len() > 150,
            "{} of 300, lifetime: {lifetime}",
            got.len()
        );
        send(&mut network, sender, 0, true, b"fresh");
        network.run_for(Duration::from_secs(2));
        assert_eq!(payloads(&network, receiver, 0).last().unwrap(), b"fresh");
    }
}

#[test]
fn a_receiver_that_is_gone_delays_nobody_and_holds_little() {
    for (len, count) in [(16_384usize, 200usize), (1, 5000)] {
        let mut network = room(5);
        let sender = join(&mut network, "send", true, true);
        send_on(&mut network, sender, "send", "p", 0);
        let [slow, fast] = ["slow", "fast"].map(|t| join(&mut network, t, false, true));
        receive_on(&mut network, slow, "slow", "s", "p", reliable(0));
        receive_on(&mut network, fast, "fast", "f", "p", reliable(0));
        open(&mut network, sender, 0, &[(slow, 0), (fast, 0)]);
        let dropped = network.engine.counters().data_dropped;
        network.clients[slow].cut = true;
        for i in 0..count {
            send(&mut network, sender, 0, true, &vec![i as u8; len]);
            // No faster than the fast one's way can grow.
            match len {
                1 if i % 8 > 0 => {}
                1 => network.step(MS),
                _ => network.run_for(5 * MS),
            }
            let held = network.engine.data_consumer_stats("s").unwrap();
            assert!(held.buffered_amount <= MAX_BACKLOG as u64);
            assert!(held.buffered_amount <= (len * MAX_BACKLOG_MESSAGES.max(count / 2)) as u64);
        }
        network.run_until("the fast one has everything", |n| {
            n.clients[fast].peer.messages.len() == count
        });
        network.run_for(Duration::from_secs(1));
        let held = network
            .engine
            .data_consumer_stats("s")
            .unwrap()
            .buffered_amount;
        let limit = MAX_BACKLOG.min(len * MAX_BACKLOG_MESSAGES);
        assert!(held > 0 && held <= limit as u64, "{held}");
        let lost = network.engine.counters().data_dropped - dropped;
        assert!(lost as usize >= count - limit / len, "{lost} dropped");
        assert_eq!(
            network
                .engine
                .data_consumer_stats("f")
                .unwrap()
                .buffered_amount,
            0
        );
        // It comes back: what was held arrives, and new messages do.
        network.clients[slow].cut = false;
        idle(&mut network, Duration::from_secs(100));
        send(&mut network, sender, 0, false, b"again");
        network.run_for(Duration::from_secs(2));
        let got = payloads(&network, slow, 0);
        assert_eq!(got.last().unwrap(), b"again");
        assert!(got.len() < count);
        assert_eq!(
            network
                .engine
                .data_consumer_stats("s")
                .unwrap()
                .buffered_amount,
            0
        );
    }
}

#[test]
fn what_closed_consumers_hold_counts_until_it_is_delivered() {
    let mut network = room(19);
    let receiver = join(&mut network, "recv", false, true);
    network
        .engine
        .produce_data(network.now, &direct("bot"))
        .unwrap();
    for stream in 0..4u32 {
        let id = format!("c{stream}");
        let stream = reliable(stream);
        receive_on(&mut network, receiver, "recv", &id, "bot", stream);
    }
    network.run_for(Duration::from_secs(3));
    network.clients[receiver].cut = true;
    let message = |to: &str| SendDataMessageRequest {
        data_producer_id: "bot".into(),
        binary: true,
        payload: vec![1; 100_000],
        data_consumer_id: to.into(),
    };
    let mut sent = [0; 4];
    for (i, sent) in sent.iter_mut().enumerate() {
        let id = format!("c{i}");
        for _ in 0..20 {
            let request = message(&id);
            network
                .engine
                .send_data_message(network.now, &request)
                .unwrap();
        }
        let stats = network.engine.data_consumer_stats(&id).unwrap();
        *sent = stats.messages_sent;
        network.engine.close_data_consumer(&id).unwrap();
        network.run_for(10 * MS);
    }
    // One may hold 1 MiB, all of them 2 MiB.
    assert_eq!(sent, [10, 10, 0, 0]);
    network.clients[receiver].cut = false;
    network.run_until("what was sent has arrived", |n| {
        n.clients[receiver].peer.messages.len() == 20
    });
}

#[test]
fn small_messages_to_many_consumers_of_one_client_are_bounded() {
    let mut network = room(20);
    let receiver = join(&mut network, "recv", false, true);
    network
        .engine
        .produce_data(network.now, &direct("bot"))
        .unwrap();
    for stream in 0..5u32 {
        let id = format!("c{stream}");
        let stream = reliable(stream);
        receive_on(&mut network, receiver, "recv", &id, "bot", stream);
    }
    network.run_for(Duration::from_secs(3));
    let message = SendDataMessageRequest {
        data_producer_id: "bot".into(),
        payload: b"x".to_vec(),
        ..Default::default()
    };
    let sent = |network: &mut Network| -> Vec<u64> {
        let ids = (0..5).map(|i| format!("c{i}"));
        let stats = ids.map(|id| network.engine.data_consumer_stats(&id).unwrap());
        stats.map(|stats| stats.messages_sent).collect()
    };
    network.clients[receiver].cut = true;
    for _ in 0..2500 {
        network
            .engine
            .send_data_message(network.now, &message)
            .unwrap();
    }
    let held = sent(&mut network);
    assert!(held.iter().all(|n| *n < 2048), "{held:?}");
    assert_eq!(held.iter().sum::<u64>(), 8192);
    network.clients[receiver].cut = false;
    idle(&mut network, Duration::from_secs(20));
    network
        .engine
        .send_data_message(network.now, &message)
        .unwrap();
    idle(&mut network, Duration::from_secs(1));
    let all: Vec<u64> = held.iter().map(|n| n + 1).collect();
    assert_eq!(sent(&mut network), all);
    assert_eq!(network.clients[receiver].peer.messages.len(), 8192 + 5);
}

#[test]
fn absurd_requests_are_refused_by_name() {
    let mut network = room(6);
    network.create_transport_with("t", true, sctp());
    network.create_transport("without", true);
    type Spoil = fn(&mut ProduceDataRequest);
    let table: &[(&str, Spoil)] = &[
        ("on", |r| r.on = None),
        ("\"nope\" not found", |r| {
            r.on = Some(On::TransportId("nope".into()))
        }),
        ("\"nope\" not found", |r| {
            r.on = Some(On::RouterId("nope".into()));
            r.stream = None;
        }),
        ("stream", |r| r.on = Some(On::RouterId("room".into()))),
        ("without `sctp`", |r| {
            r.on = Some(On::TransportId("without".into()))
        }),
        ("stream", |r| r.stream = None),
        ("stream.stream_id", |r| r.stream = Some(reliable(1024))),
        ("stream.stream_id", |r| r.stream = Some(reliable(70_000))),
        ("stream.max_packet_life_time", |r| {
            let stream = unreliable(0);
            r.stream = Some(SctpStreamParameters {
                max_packet_life_time: Some(1),
                ..stream
            });
        }),
        ("stream.max_retransmits", |r| {
            r.stream = Some(SctpStreamParameters {
                max_retransmits: Some(65_536),
                ..unreliable(0)
            });
        }),
        ("stream.max_packet_life_time", |r| {
            r.stream = Some(SctpStreamParameters {
                max_retransmits: None,
                max_packet_life_time: Some(65_536),
                ..unreliable(0)
            });
        }),
        ("stream.ordered", |r| {
            r.stream = Some(SctpStreamParameters {
                ordered: true,
                ..unreliable(0)
            });
        }),
        ("label", |r| r.label = "x".repeat(65_536)),
        ("protocol", |r| r.protocol = "x".repeat(65_536)),
    ];
    for (field, spoil) in table {
        let mut request = produce_data("t", "p", reliable(0));
        spoil(&mut request);
        let error = network
            .engine
            .produce_data(network.now, &request)
            .unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert_sizes(&network, 0, 0);
    }
    let request = produce_data("t", "p", reliable(0));
    network.engine.produce_data(network.now, &request).unwrap();
    let again = network
        .engine
        .produce_data(network.now, &request)
        .unwrap_err();
    assert!(
        again.to_string().contains("\"p\" already exists"),
        "{again}"
    );
    let mut clash = request.clone();
    clash.data_producer_id = "q".into();
    let clash = network
        .engine
        .produce_data(network.now, &clash)
        .unwrap_err();
    assert!(clash.to_string().contains("stream.stream_id: 0"), "{clash}");
    for (transport, producer, stream, text) in [
        (
            "t",
            "p",
            reliable(0),
            "stream.stream_id: 0 is already in use",
        ),
        ("t", "p", reliable(1024), "stream.stream_id"),
        ("t", "nope", reliable(1), "\"nope\" not found"),
        ("nope", "p", reliable(1), "\"nope\" not found"),
        ("without", "p", reliable(1), "without `sctp`"),
    ] {
        let error = try_consume(&mut network, transport, "c", producer, stream);
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(try_consume(&mut network, "t", "c", "p", reliable(1)), "");
    let error = try_consume(&mut network, "t", "c", "p", reliable(2));
    assert!(error.contains("\"c\" already exists"), "{error}");
    assert_sizes(&network, 1, 1);
    for error in [
        network.engine.close_data_producer("nope").unwrap_err(),
        network.engine.close_data_consumer("nope").unwrap_err(),
        network.engine.data_producer_stats("nope").unwrap_err(),
        network.engine.data_consumer_stats("nope").unwrap_err(),
    ] {
        assert!(error.to_string().contains("\"nope\" not found"), "{error}");
    }
}

#[test]
fn absurd_sctp_options_are_refused_by_name() {
    let mut network = room(7);
    for (num_streams, max_message_size, field) in [
        (0, 1000, "sctp.num_streams"),
        (65_536, 1000, "sctp.num_streams"),
        (1, 0, "sctp.max_message_size"),
        (1, MAX_MESSAGE_SIZE + 1, "sctp.max_message_size"),
    ] {
        let request = proto::CreateWebRtcTransportRequest {
            router_id: "room".into(),
            transport_id: "t".into(),
            producing: true,
            consuming: false,
            sctp: Some(SctpOptions {
                num_streams,
                max_message_size,
            }),
            ..Default::default()
        };
        let error = network
            .engine
            .create_web_rtc_transport(&request)
            .unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(network.engine.sizes().transports, 0);
    }
}

#[test]
fn a_consumer_on_another_router_is_refused() {
    let mut network = room(8);
    let request = proto::CreateRouterRequest {
        router_id: "other".into(),
        ..Default::default()
    };
    network.engine.create_router(&request).unwrap();
    network.create_transport_with("t", false, sctp());
    let mut request = direct("p");
    request.on = Some(On::RouterId("other".into()));
    network.engine.produce_data(network.now, &request).unwrap();
    let error = try_consume(&mut network, "t", "c", "p", reliable(0));
    assert!(error.contains("another router"), "{error}");
    let now = network.now;
    network.engine.close_router(now, "other").unwrap();
    assert_sizes(&network, 0, 0);
}

#[test]
fn what_is_wanted_before_the_client_connects_opens_when_it_does() {
    let mut network = room(9);
    let created =
        ["send", "recv"].map(|t| (t, network.create_transport_with(t, t == "send", sctp())));
    let sender = network.add_client(&PeerConfig::sending());
    let receiver = network.add_client(&PeerConfig::receiving());
    // Closed and wanted again, otherwise, before str0m has heard of either.
    let early = produce_data("send", "early", unreliable(5));
    network.engine.produce_data(network.now, &early).unwrap();
    network.engine.close_data_producer("early").unwrap();
    for client in [sender, receiver] {
        network.clients[client].peer.enable_data();
    }
    send_on(&mut network, sender, "send", "p", 5);
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(3));
    for (client, (transport, created)) in [sender, receiver].into_iter().zip(&created) {
        network.connect_to(client, transport, created, true);
    }
    // The same in the midst of the handshake.
    network.run_for(15 * MS);
    network.engine.close_data_producer("p").unwrap();
    let again = produce_data("send", "again", reliable(5));
    network.engine.produce_data(network.now, &again).unwrap();
    assert_sizes(&network, 1, 0);
    receive_on(&mut network, receiver, "recv", "d", "again", reliable(4));
    open(&mut network, sender, 5, &[(receiver, 4)]);
    send(&mut network, sender, 5, false, b"hello");
    network.run_for(Duration::from_secs(1));
    assert_eq!(payloads(&network, receiver, 4), [b"hello"]);
}

#[test]
fn a_stream_id_can_be_used_again() {
    let mut network = room(10);
    let sender = join(&mut network, "send", true, true);
    let receiver = join(&mut network, "recv", false, true);
    let mut producer = "p".to_owned();
    send_on(&mut network, sender, "send", &producer, 0);
    receive_on(
        &mut network,
        receiver,
        "recv",
        "c-p",
        &producer,
        reliable(0),
    );
    open(&mut network, sender, 0, &[(receiver, 0)]);
    for (round, client_first) in [false, true, false, true].into_iter().enumerate() {
        if client_first {
            network.clients[sender].peer.close_channel(0);
            network.clients[receiver].peer.close_channel(0);
            network.run_for(300 * MS);
        }
        network.engine.close_data_producer(&producer).unwrap();
        // At once, in the same tick.
        producer = format!("p{round}");
        let mut request = produce_data("send", &producer, reliable(0));
        network.engine.produce_data(network.now, &request).unwrap();
        if round == 2 {
            // And once more while str0m holds the id back for the reset.
            network.run_for(3 * MS);
            network.engine.close_data_producer(&producer).unwrap();
            network.run_for(3 * MS);
            producer = format!("q{round}");
            request.data_producer_id.clone_from(&producer);
            network.engine.produce_data(network.now, &request).unwrap();
        }
        let consumer = format!("c-{producer}");
        let error = try_consume(&mut network, "recv", &consumer, &producer, reliable(0));
        assert_eq!(error, "");
        if !client_first {
            // As clients do when they hear that their data consumer was closed,
            // which may be when the next one is there already.
            network.clients[receiver].peer.close_channel(0);
        }
        network.run_until("the clients' channels are reset", |n| {
            [sender, receiver].iter().all(|c| {
                let closed = &n.clients[*c].peer.closed_channels;
                closed.len() == round + 1
            })
        });
        for client in [sender, receiver] {
            let peer = &mut network.clients[client].peer;
            peer.create_channel(0, true, Reliability::Reliable);
        }
        open(&mut network, sender, 0, &[(receiver, 0)]);
        send(&mut network, sender, 0, false, producer.as_bytes());
        network.run_for(Duration::from_secs(1));
        assert_eq!(payloads(&network, receiver, 0), [producer.as_bytes()]);
        assert_sizes(&network, 1, 1);
    }
    assert_eq!(network.engine.counters().panics, 0);
}

/// A client that cannot take a data consumer has no channel for it, and answers
/// no reset: the id must not be lost by that.
#[test]
fn a_stream_id_survives_a_consumer_that_its_client_never_took() {
    let mut network = room(21);
    let receiver = join(&mut network, "recv", false, true);
    network
        .engine
        .produce_data(network.now, &direct("bot"))
        .unwrap();
    let message = SendDataMessageRequest {
        data_producer_id: "bot".into(),
        payload: b"hi".to_vec(),
        ..Default::default()
    };
    network.run_for(Duration::from_secs(3));
    for round in 0..3 {
        let id = format!("c{round}");
        let error = try_consume(&mut network, "recv", &id, "bot", reliable(0));
        assert_eq!(error, "");
        network.run_for(100 * MS);
        network
            .engine
            .send_data_message(network.now, &message)
            .unwrap();
        network.run_for(100 * MS);
        network.engine.close_data_consumer(&id).unwrap();
        network.run_for(100 * MS);
    }
    receive_on(&mut network, receiver, "recv", "taken", "bot", reliable(0));
    network.run_for(100 * MS);
    network
        .engine
        .send_data_message(network.now, &message)
        .unwrap();
    network.run_for(Duration::from_secs(2));
    assert_eq!(payloads(&network, receiver, 0).last().unwrap(), b"hi");
}

#[test]
fn data_on_streams_that_nobody_has_declared_is_dropped() {
    let mut network = room(11);
    let client = join(&mut network, "send", true, true);
    let receiver = join(&mut network, "recv", false, true);
    // Without produce_data, and opened in-band.
    let peer = &mut network.clients[client].peer;
    peer.create_channel(3, true, Reliability::Reliable);
    peer.create_in_band_channel();
    // One that insists on a stream that it must not use waits for ever.
    let wrong = join(&mut network, "wrong", true, true);
    let peer = &mut network.clients[wrong].peer;
    peer.create_channel(5000, true, Reliability::Reliable);
    network.run_for(Duration::from_secs(2));
    send(&mut network, client, 3, false, b"early");
    send(&mut network, wrong, 5000, false, b"early");
    network.run_for(Duration::from_secs(1));
    // Declared now: what comes from now on is forwarded.
    let request = produce_data("send", "p", reliable(3));
    network.engine.produce_data(network.now, &request).unwrap();
    let request = produce_data("send", "q", reliable(0));
    network.engine.produce_data(network.now, &request).unwrap();
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(0));
    receive_on(&mut network, receiver, "recv", "d", "q", reliable(1));
    let peer = &mut network.clients[client].peer;
    peer.create_channel(0, true, Reliability::Reliable);
    open(&mut network, client, 3, &[(receiver, 0)]);
    open(&mut network, client, 0, &[(receiver, 1)]);
    send(&mut network, client, 3, false, b"late");
    network.run_for(Duration::from_secs(1));
    assert_eq!(payloads(&network, receiver, 0), [b"late"]);
    assert_eq!(network.engine.counters().panics, 0);
    assert_eq!(network.closed_reason("send"), None);
}

#[test]
fn a_message_that_is_too_long_harms_nobody() {
    let mut network = room(12);
    let sender = join(&mut network, "send", true, true);
    let receiver = join(&mut network, "recv", false, true);
    send_on(&mut network, sender, "send", "p", 0);
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(0));
    // Takes less than the sender's transport.
    let small = network.add_client(&PeerConfig::receiving());
    network.clients[small].peer.enable_data();
    let options = SctpOptions {
        num_streams: 1,
        max_message_size: 1000,
    };
    let created = network.create_transport_with("small", false, Some(options));
    network.connect_to(small, "small", &created, true);
    receive_on(&mut network, small, "small", "s", "p", reliable(0));
    open(&mut network, sender, 0, &[(receiver, 0), (small, 0)]);
    send(&mut network, sender, 0, true, &vec![1; LONGEST + 1]);
    send(&mut network, sender, 0, true, &vec![2; LONGEST]);
    send(&mut network, sender, 0, true, &[3; 1001]);
    send(&mut network, sender, 0, true, &[4; 1000]);
    network.run_for(Duration::from_secs(5));
    let lengths = |client| -> Vec<usize> {
        let got = payloads(&network, client, 0);
        got.iter().map(Vec::len).collect()
    };
    assert_eq!(lengths(receiver), [LONGEST, 1001, 1000]);
    assert_eq!(lengths(small), [1000]);
    // One that str0m does not stand ends its sender only.
    send(&mut network, sender, 0, true, &vec![5; 600_000]);
    network.run_until("the sender is closed", |n| {
        n.closed_reason("send").is_some()
    });
    assert_eq!(closed_events(&network), ["c", "s"]);
    assert_eq!(network.engine.counters().panics, 0);
    assert_eq!(network.engine.sizes().transports, 2);
}

#[test]
fn what_ends_takes_its_own_along() {
    let mut network = room(13);
    let [x, y] = ["x", "y"].map(|t| join(&mut network, t, true, true));
    let [z, w] = ["z", "w"].map(|t| join(&mut network, t, false, true));
    for (client, transport, id) in [(x, "x", "px"), (y, "y", "py")] {
        send_on(&mut network, client, transport, id, 0);
    }
    network
        .engine
        .produce_data(network.now, &direct("bot"))
        .unwrap();
    for (client, transport) in [(z, "z"), (w, "w")] {
        for (stream, producer) in (0..).zip(["px", "py", "bot"]) {
            let id = format!("{transport}-{producer}");
            receive_on(
                &mut network,
                client,
                transport,
                &id,
                producer,
                reliable(stream),
            );
        }
    }
    // On the producers' own transport, too.
    receive_on(&mut network, x, "x", "x-py", "py", reliable(9));
    open(&mut network, y, 0, &[(z, 1), (w, 1), (x, 9)]);
    open(&mut network, x, 0, &[(z, 0), (w, 0)]);
    assert_sizes(&network, 3, 7);
    // A data consumer, quietly.
    network.engine.close_data_consumer("w-px").unwrap();
    assert_sizes(&network, 3, 6);
    // A data producer, with its data consumers, quietly.
    network.engine.close_data_producer("px").unwrap();
    network.run_until("reset", |n| n.clients[x].peer.closed_channels == [0]);
    assert_sizes(&network, 2, 4 + 1);
    assert_eq!(closed_events(&network), [""; 0]);
    // A transport by command: its data consumers elsewhere are told.
    let now = network.now;
    network.engine.close_transport(now, "y").unwrap();
    network.run_for(100 * MS);
    assert_eq!(closed_events(&network), ["w-py", "x-py", "z-py"]);
    assert_sizes(&network, 1, 2);
    // A transport by its client: only consumers, so nobody is told.
    network.clients[w].peer.close();
    network.run_until("w is gone", |n| n.closed_reason("w").is_some());
    assert_eq!(closed_events(&network).len(), 3);
    assert_sizes(&network, 1, 1);
    // The others still work.
    let message = SendDataMessageRequest {
        data_producer_id: "bot".into(),
        payload: b"still here".to_vec(),
        ..Default::default()
    };
    network
        .engine
        .send_data_message(network.now, &message)
        .unwrap();
    network.run_for(100 * MS);
    assert_eq!(payloads(&network, z, 2), [b"still here"]);
    let now = network.now;
    network.engine.close_router(now, "room").unwrap();
    assert_eq!(network.engine.sizes(), Default::default());
    assert_eq!(network.engine.next_timeout(), None);
}

#[test]
fn a_dying_producer_transport_tells_its_consumers() {
    let mut network = room(14);
    let sender = join(&mut network, "send", true, false);
    let receiver = join(&mut network, "recv", false, false);
    send_on(&mut network, sender, "send", "p", 0);
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(0));
    open(&mut network, sender, 0, &[(receiver, 0)]);
    network.clients[sender].peer.close();
    network.run_until("the sender is gone", |n| n.closed_reason("send").is_some());
    assert_eq!(closed_events(&network), ["c"]);
    assert_sizes(&network, 0, 0);
    // The client hears of it, and the stream of the one that ended is free.
    network.clients[receiver].peer.close_channel(0);
    network
        .engine
        .produce_data(network.now, &direct("bot"))
        .unwrap();
    network.run_for(Duration::from_secs(1));
    receive_on(&mut network, receiver, "recv", "d", "bot", reliable(0));
    network.run_for(Duration::from_secs(3));
    let message = SendDataMessageRequest {
        data_producer_id: "bot".into(),
        payload: b"hi".to_vec(),
        ..Default::default()
    };
    network
        .engine
        .send_data_message(network.now, &message)
        .unwrap();
    network.run_for(Duration::from_secs(1));
    assert_eq!(payloads(&network, receiver, 0).last().unwrap(), b"hi");
}

#[test]
fn a_direct_producer_speaks_to_all_or_to_one() {
    let mut network = room(15);
    network
        .engine
        .produce_data(network.now, &direct("bot"))
        .unwrap();
    network
        .engine
        .produce_data(network.now, &direct("other"))
        .unwrap();
    let [a, b] = ["a", "b"].map(|t| join(&mut network, t, false, true));
    receive_on(&mut network, a, "a", "ca", "bot", reliable(0));
    receive_on(&mut network, b, "b", "cb", "bot", reliable(0));
    let message = |binary: bool, payload: &[u8], to: &str| SendDataMessageRequest {
        data_producer_id: "bot".into(),
        binary,
        payload: payload.to_vec(),
        data_consumer_id: to.into(),
    };
    // Not open yet: dropped.
    let early = message(false, b"early", "");
    network
        .engine
        .send_data_message(network.now, &early)
        .unwrap();
    assert_eq!(network.engine.counters().data_dropped, 2);
    network.run_for(Duration::from_secs(5));
    for (binary, payload, to) in [
        (false, &b"to all"[..], ""),
        (true, b"to a", "ca"),
        (false, b"", ""),
        (true, &[7; LONGEST], "cb"),
    ] {
        let request = message(binary, payload, to);
        network
            .engine
            .send_data_message(network.now, &request)
            .unwrap();
    }
    network.run_for(Duration::from_secs(5));
    let a_got = payloads(&network, a, 0);
    assert_eq!(a_got, [b"to all".to_vec(), b"to a".to_vec(), Vec::new()]);
    assert!(payloads(&network, b, 0) == [b"to all".to_vec(), Vec::new(), vec![7; LONGEST]]);
    assert!(network.clients[a].peer.messages[1].binary);
    let stats = network.engine.data_producer_stats("bot").unwrap();
    assert_eq!(stats.messages_received, 5);
    let too_long = message(true, &vec![0; LONGEST + 1], "");
    let mut wrong = message(true, b"x", "ca");
    wrong.data_producer_id = "other".into();
    for (request, text) in [
        (too_long, "payload"),
        (message(true, b"x", "nope"), "\"nope\" not found"),
        (wrong, "data_consumer_id"),
    ] {
        let error = network
            .engine
            .send_data_message(network.now, &request)
            .unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    // A client's data producer is not for control to speak through.
    let client = join(&mut network, "send", true, true);
    send_on(&mut network, client, "send", "client", 0);
    let mut request = message(true, b"x", "");
    request.data_producer_id = "client".into();
    let error = network
        .engine
        .send_data_message(network.now, &request)
        .unwrap_err();
    assert!(error.to_string().contains("not a direct one"), "{error}");
}

#[test]
fn messages_are_told_but_never_without_end() {
    let mut network = room(16);
    let sender = join(&mut network, "send", true, true);
    let mut request = produce_data("send", "bot", reliable(0));
    request.tell = true;
    network.engine.produce_data(network.now, &request).unwrap();
    let peer = &mut network.clients[sender].peer;
    peer.create_channel(0, true, Reliability::Reliable);
    network.run_for(Duration::from_secs(2));
    for (binary, payload) in [(false, &b"hello"[..]), (true, b"\x00\xff"), (false, b"")] {
        send(&mut network, sender, 0, binary, payload);
    }
    network.run_for(Duration::from_secs(1));
    let told = |network: &Network| -> Vec<proto::DataMessage> {
        let messages = network.events.iter().filter_map(|event| match event {
            Event::DataMessage(message) => Some(message.clone()),
            _ => None,
        });
        messages.collect()
    };
    let wanted = [(false, &b"hello"[..]), (true, b"\x00\xff"), (false, b"")];
    let got = told(&network);
    assert_eq!(got.len(), wanted.len());
    for (got, (binary, payload)) in got.iter().zip(wanted) {
        assert_eq!(got.data_producer_id, "bot");
        assert_eq!((got.binary, got.payload.as_slice()), (binary, payload));
    }
    network.events.clear();
    let before = network.now;
    for _ in 0..3000 {
        send(&mut network, sender, 0, true, b"flood");
    }
    network.run_for(Duration::from_secs(2));
    let seconds = (network.now - before).as_secs() as usize + 1;
    let count = told(&network).len();
    assert!(count >= 100 && count <= 100 * seconds, "{count} told");
    let stats = network.engine.data_producer_stats("bot").unwrap();
    assert_eq!(stats.messages_received, 3003);
}

#[test]
fn data_and_media_share_a_transport() {
    let mut network = room(17);
    let sender = join(&mut network, "send", true, true);
    let receiver = join(&mut network, "recv", false, true);
    // Media before and after the handshake, so lessons around SCTP's own offer.
    let mic = produce_request("send", "mic", MediaKind::Audio, 1000);
    produce(&mut network, sender, &mic);
    consume(
        &mut network,
        receiver,
        "recv",
        "a",
        "mic",
        MediaKind::Audio,
        5000,
    );
    send_on(&mut network, sender, "send", "p", 0);
    receive_on(&mut network, receiver, "recv", "c", "p", reliable(0));
    open(&mut network, sender, 0, &[(receiver, 0)]);
    let cam = produce_request("send", "cam", MediaKind::Video, 2000);
    produce(&mut network, sender, &cam);
    consume(
        &mut network,
        receiver,
        "recv",
        "v",
        "cam",
        MediaKind::Video,
        6000,
    );
    for id in ["a", "v"] {
        network.engine.resume_consumer(network.now, id).unwrap();
    }
    let mut audio = Source::new(&network, sender, MediaKind::Audio, 1000);
    let mut video = Source::new(&network, sender, MediaKind::Video, 2000);
    let mut sent = Vec::new();
    for i in 0..40u8 {
        let payload = vec![i; 20_000];
        send(&mut network, sender, 0, true, &payload);
        sent.push(payload);
        run(&mut network, &mut [&mut audio, &mut video], 100 * MS);
    }
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(1),
    );
    assert!(payloads(&network, receiver, 0) == sent);
    assert!(stream(&network, receiver, 5000).len() > 200);
    assert!(stream(&network, receiver, 6000).len() > 400);
    // A later lesson, and channels after it.
    network.engine.close_producer("cam").unwrap();
    let cam = produce_request("send", "cam2", MediaKind::Video, 3000);
    produce(&mut network, sender, &cam);
    send_on(&mut network, sender, "send", "p2", 1);
    receive_on(&mut network, receiver, "recv", "c2", "p2", reliable(1));
    open(&mut network, sender, 1, &[(receiver, 1)]);
    // A consuming transport makes no sender of its own for SCTP's offer.
    let receiver = &network.clients[receiver].peer;
    assert!(
        receiver
            .raw_headers
            .iter()
            .all(|h| [5000, 6000, 6001].contains(&*h.ssrc))
    );
    assert_eq!(network.engine.counters().panics, 0);
}

/// A transport by itself, without an engine, that a client connects to.
#[test]
fn the_sctp_state_follows_the_association() {
    let mut now = Instant::now();
    let start = now;
    let certificate = crypto::generate_certificate().unwrap();
    let fingerprint = Fingerprint::of(FingerprintHash::Sha256, &certificate.certificate);
    let media = Rc::new(RouterMedia::default());
    let new = |limits| {
        let channels = DataChannels::new(limits);
        WebRtcTransport::new(
            certificate.clone(),
            Rc::clone(&media),
            channels,
            mediaworker::transport::bandwidth::BitrateLimits::default(),
        )
    };
    assert_eq!(new(None).sctp_state(), SctpState::None);
    let mut transport = new(Some(SctpLimits {
        num_streams: 1,
        max_message_size: 1000,
    }));
    assert_eq!(transport.sctp_state(), SctpState::New);
    let client = SocketAddr::from(([10, 0, 1, 1], 5000));
    let mut peer = Peer::new(now, &PeerConfig::sending(), client);
    peer.enable_data();
    let tuple = Tuple {
        remote: client,
        local: server_address().ip(),
        protocol: Protocol::Udp,
    };
    let remote = Remote {
        ufrag: transport.ice().credentials().ufrag.clone(),
        password: transport.ice().credentials().password.clone(),
        fingerprint: fingerprint.value(),
        address: server_address(),
    };
    peer.connect(&remote, true).unwrap();
    let theirs = Fingerprint::parse("sha-256", &peer.fingerprint()).unwrap();
    let mut out = Output::default();
    transport.connect(now, theirs, false, &mut out).unwrap();
    let mut states = vec![transport.sctp_state()];
    while states.last() != Some(&SctpState::Closed) {
        assert!(now < start + Duration::from_secs(10), "{states:?}");
        now += MS;
        peer.advance(now);
        while let Some(datagram) = peer.poll_datagram() {
            match PacketKind::of(&datagram) {
                Some(PacketKind::Stun) => {
                    let message = StunMessage::parse(&datagram).unwrap();
                    let checked = transport.handle_check(now, tuple, &message, &mut out);
                    out.datagrams.extend(checked.map(|c| (tuple, c.response)));
                }
                Some(kind) => transport.handle_datagram(now, now, kind, &datagram, &mut out),
                None => {}
            }
            if states.last() != Some(&transport.sctp_state()) {
                states.push(transport.sctp_state());
            }
        }
        transport.handle_timeout(now, &mut out);
        for (_, datagram) in std::mem::take(&mut out.datagrams) {
            peer.receive(now, &datagram);
        }
        if transport.sctp_state() == SctpState::Connected {
            peer.close();
        }
    }
    let wanted = [
        SctpState::New,
        SctpState::Connecting,
        SctpState::Connected,
        SctpState::Closed,
    ];
    assert_eq!(states, wanted);
}

#[test]
fn a_client_without_sctp_is_not_bothered() {
    let mut network = room(18);
    let client = network.add_client(&PeerConfig::sending());
    let created = network.create_transport_with("t", true, sctp());
    network.connect_to(client, "t", &created, true);
    let request = produce_data("t", "p", reliable(0));
    network.engine.produce_data(network.now, &request).unwrap();
    network.run_until("connected", |n| n.clients[client].peer.connected);
    idle(&mut network, Duration::from_secs(30));
    assert_eq!(network.closed_reason("t"), None);
    // And one that speaks SCTP although the transport has none.
    let pushy = network.add_client(&PeerConfig::sending());
    network.clients[pushy].peer.enable_data();
    let created = network.create_transport("u", true);
    network.connect_to(pushy, "u", &created, true);
    let peer = &mut network.clients[pushy].peer;
    peer.create_channel(0, true, Reliability::Reliable);
    idle(&mut network, Duration::from_secs(30));
    assert!(network.clients[pushy].peer.connected);
    assert!(!network.clients[pushy].peer.is_channel_open(0));
    assert_eq!(network.closed_reason("u"), None);
}
