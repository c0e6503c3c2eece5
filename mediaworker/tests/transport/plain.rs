//! Plain transports: a sender and a receiver of plain RTP against str0m peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use mediaworker::engine::{AnnouncedAddress, Dropped, Engine, EngineConfig};
use mediaworker::transport::plain::OwnPorts;
use mediaworker::transport::{Protocol, Tuple};
use proto::{
    ConnectPlainTransportRequest, CreatePlainTransportRequest, CreateRouterRequest, ProduceRequest,
};
use rtcp_types::{
    Compound, Nack, Packet, PayloadFeedback, Pli, ReceiverReport, ReportBlock, RtcpPacketWriter,
    RtcpPacketWriterExt, SenderReport, TransportFeedback,
};
use rtp_types::{RtpPacket, RtpPacketBuilder};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::network::Network;
use crate::room::{
    AUDIO_LEVEL, Source, consume, create_router, is_key_frame_start, number, produce,
    produce_request, run, stream,
};

const SPLIT: OwnPorts = OwnPorts {
    rtp: 41_000,
    rtcp: Some(41_001),
};
const MUXED: OwnPorts = OwnPorts {
    rtp: 41_000,
    rtcp: None,
};

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 1], port))
}

fn from(remote: SocketAddr, port: u16) -> Tuple {
    Tuple {
        remote,
        local: [10, 0, 0, 1].into(),
        protocol: Protocol::OwnPort(port),
    }
}

fn create(network: &mut Network, id: &str, ports: OwnPorts, comedia: bool) {
    let request = CreatePlainTransportRequest {
        router_id: "room".into(),
        transport_id: id.into(),
        rtcp_mux: ports.rtcp.is_none(),
        comedia,
        srtp_crypto_suite: None,
    };
    let made = network.engine.create_plain_transport(&request, ports);
    let made = made.unwrap();
    assert_eq!(made.address, "10.0.0.1");
    assert_eq!(made.port, u32::from(ports.rtp));
    assert_eq!(made.rtcp_port, ports.rtcp.map(Into::into));
}

/// All addresses are told, and statistics show the one that the remote uses.
#[test]
fn a_remote_may_be_of_either_ip_version() {
    let both = ["192.0.2.1", "2001:db8::1"];
    let mut engine = Engine::new(EngineConfig {
        announced: both.map(|it| AnnouncedAddress(it.into())).to_vec(),
        udp_port: 40_000,
        tcp: false,
    })
    .unwrap();
    let router = CreateRouterRequest {
        router_id: "room".into(),
        ..CreateRouterRequest::default()
    };
    engine.create_router(&router).unwrap();
    for (ip, canonical, local) in [
        ("192.0.2.7", "192.0.2.7", both[0]),
        ("::ffff:192.0.2.8", "192.0.2.8", both[0]),
        ("2001:db8::7", "2001:db8::7", both[1]),
    ] {
        let request = CreatePlainTransportRequest {
            router_id: "room".into(),
            transport_id: ip.into(),
            rtcp_mux: true,
            ..CreatePlainTransportRequest::default()
        };
        let made = engine.create_plain_transport(&request, MUXED).unwrap();
        assert_eq!(made.address, both[0]);
        assert_eq!(made.addresses, both);
        let request = ConnectPlainTransportRequest {
            transport_id: ip.into(),
            address: Some(ip.into()),
            port: Some(5000),
            ..ConnectPlainTransportRequest::default()
        };
        let now = Instant::now();
        engine.connect_plain_transport(now, &request).unwrap();
        let stats = engine.transport_stats(now, ip).unwrap();
        let tuple = stats.plain.unwrap().tuple.unwrap();
        let got = (tuple.local_address.as_str(), tuple.remote_address.as_str());
        assert_eq!(got, (local, canonical));
    }
}

/// Video as the published script sends it, with retransmissions if `rtx`.
fn video_request(rtx: bool) -> ProduceRequest {
    let mut request = produce_request("plain", "cam", MediaKind::Video, 2222);
    request.mid = None;
    request.header_extensions.clear();
    let codec = &mut request.codecs[0];
    (codec.payload_type, codec.transport_cc) = (101, false);
    codec.rtx_payload_type = rtx.then_some(102);
    request.encodings[0].rtx_ssrc = rtx.then_some(2223);
    request
}

fn audio_request() -> ProduceRequest {
    let mut request = produce_request("plain", "mic", MediaKind::Audio, 1111);
    request.mid = None;
    request.codecs[0].payload_type = 100;
    request.header_extensions.retain(|it| it.uri == AUDIO_LEVEL);
    request
}

/// A sender of plain RTP: 25 pictures of 4 packets a second, or 50 packets of audio.
struct Sender {
    ssrc: u32,
    pt: u8,
    ports: OwnPorts,
    next: Instant,
    sequence: u16,
    timestamp: u32,
    pictures: u32,
    sent: BTreeMap<u16, Vec<u8>>,
    written: usize,
    wants_key: bool,
    /// Share of what is lost on the way, repairs too.
    loss: f64,
    rtx: Option<u16>,
}

impl Sender {
    fn new(network: &Network, kind: MediaKind, ports: OwnPorts) -> Self {
        let audio = kind.is_audio();
        Self {
            ssrc: if audio { 1111 } else { 2222 },
            pt: if audio { 100 } else { 101 },
            ports,
            next: network.now,
            sequence: 65_500,
            timestamp: u32::MAX - 9_000,
            pictures: 0,
            sent: BTreeMap::new(),
            written: 0,
            wants_key: true,
            loss: 0.0,
            rtx: None,
        }
    }

    fn is_audio(&self) -> bool {
        self.pt == 100
    }

    fn step(&mut self, network: &mut Network) {
        while self.next <= network.now {
            if self.is_audio() {
                self.packet(network, true, vec![0xFC]);
                self.timestamp = self.timestamp.wrapping_add(960);
                self.next += Duration::from_millis(20);
                continue;
            }
            let key = std::mem::take(&mut self.wants_key);
            for part in 0..4 {
                let head = [if part == 0 { 0x10 } else { 0 }, u8::from(!key)];
                self.packet(network, part == 3, head.to_vec());
            }
            self.pictures += 1;
            self.timestamp = self.timestamp.wrapping_add(3600);
            self.next += Duration::from_millis(40);
        }
    }

    fn packet(&mut self, network: &mut Network, marker: bool, mut payload: Vec<u8>) {
        payload.extend_from_slice(&u32::try_from(self.written).unwrap().to_be_bytes());
        payload.resize(if self.is_audio() { 80 } else { 600 }, 0x5A);
        // RFC 6464 at the id of the request: −30 dBov.
        let level = [0x10, 30, 0, 0];
        let mut builder = RtpPacketBuilder::<&[u8], &[u8]>::new()
            .payload_type(self.pt)
            .marker_bit(marker)
            .sequence_number(self.sequence)
            .timestamp(self.timestamp)
            .ssrc(self.ssrc)
            .payload(&payload);
        if self.is_audio() {
            builder = builder.extension(0xBEDE, &level);
        }
        let rtp = builder.write_vec().unwrap();
        self.sent.insert(self.sequence, rtp.clone());
        self.sequence = self.sequence.wrapping_add(1);
        self.written += 1;
        self.deliver(network, &rtp);
    }

    fn deliver(&mut self, network: &mut Network, rtp: &[u8]) {
        if network.random() >= self.loss {
            let tuple = from(address(6000), self.ports.rtp);
            network.engine.receive(network.now, tuple, rtp);
        }
    }

    /// Answers NACKs and keyframe requests of the server, and counts report blocks.
    fn heed(&mut self, network: &mut Network, blocks: &mut Vec<(Instant, u8)>) {
        let expected = address(if self.ports.rtcp.is_some() {
            6001
        } else {
            6000
        });
        for (to, datagram) in std::mem::take(&mut network.plain) {
            assert_eq!(to.remote, expected);
            assert_eq!(
                to.protocol,
                Protocol::OwnPort(self.ports.rtcp.unwrap_or(self.ports.rtp))
            );
            for packet in Compound::parse(&datagram).unwrap() {
                match packet.unwrap() {
                    Packet::Rr(report) => {
                        let own = report.report_blocks().filter(|it| it.ssrc() == self.ssrc);
                        blocks.extend(own.map(|it| (network.now, it.fraction_lost())));
                    }
                    Packet::TransportFeedback(feedback) => {
                        let nack = feedback.parse_fci::<Nack<'_>>().unwrap();
                        for sequence in nack.entries() {
                            self.resend(network, sequence);
                        }
                    }
                    Packet::PayloadFeedback(feedback) => {
                        feedback.parse_fci::<Pli<'_>>().unwrap();
                        assert_eq!(feedback.media_ssrc(), self.ssrc);
                        self.wants_key = true;
                    }
                    Packet::Sdes(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn resend(&mut self, network: &mut Network, sequence: u16) {
        let original = self.sent[&sequence].clone();
        let Some(number) = &mut self.rtx else {
            return self.deliver(network, &original);
        };
        *number = number.wrapping_add(1);
        let packet = RtpPacket::parse(&original).unwrap();
        let again = RtpPacketBuilder::<&[u8], &[u8]>::new()
            .payload_type(102)
            .marker_bit(packet.marker_bit())
            .sequence_number(*number)
            .timestamp(packet.timestamp())
            .ssrc(2223)
            .payload(&original[2..4])
            .payload(packet.payload())
            .write_vec()
            .unwrap();
        self.deliver(network, &again);
    }

    fn report(&self, network: &mut Network, wall: SystemTime) {
        let ntp = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ntp = ((ntp.as_secs() + 2_208_988_800) << 32)
            + (u64::from(ntp.subsec_nanos()) << 32) / 1_000_000_000;
        let report = SenderReport::builder(self.ssrc)
            .ntp_timestamp(ntp)
            .rtp_timestamp(self.timestamp);
        send_rtcp(network, self.ports, &report);
    }
}

fn send_rtcp(network: &mut Network, ports: OwnPorts, packet: &impl RtcpPacketWriter) {
    let mut bytes = vec![0; packet.calculate_size().unwrap()];
    packet.write_into(&mut bytes).unwrap();
    let (port, remote) = match ports.rtcp {
        Some(port) => (port, 6001),
        None => (ports.rtp, 6000),
    };
    let tuple = from(address(remote), port);
    network.engine.receive(network.now, tuple, &bytes);
}

/// A client that receives what the producers send, as 5000 and 6000.
fn receiver(network: &mut Network) -> usize {
    let client = network.add_client(&PeerConfig::receiving());
    let created = network.create_transport("recv", false);
    for (id, producer, kind, ssrc) in [
        ("a", "mic", MediaKind::Audio, 5000),
        ("v", "cam", MediaKind::Video, 6000),
    ] {
        consume(network, client, "recv", id, producer, kind, ssrc);
    }
    network.connect_to(client, "recv", &created, true);
    network.run_until("connected", |n| n.clients[client].peer.connected);
    for id in ["a", "v"] {
        network.engine.resume_consumer(network.now, id).unwrap();
    }
    client
}

fn sending_room(ports: OwnPorts, rtx: bool) -> (Network, usize) {
    let mut network = Network::new(7);
    create_router(&mut network);
    create(&mut network, "plain", ports, true);
    for request in [audio_request(), video_request(rtx)] {
        network.engine.produce(network.now, &request).unwrap();
    }
    let client = receiver(&mut network);
    (network, client)
}

#[test]
fn a_peer_gets_all_that_a_plain_sender_sends_over_a_lossy_way() {
    for (ports, rtx, loss) in [
        (SPLIT, false, 0.0),
        (SPLIT, false, 0.05),
        (MUXED, true, 0.1),
    ] {
        let (mut network, client) = sending_room(ports, rtx);
        let mut sender = Sender::new(&network, MediaKind::Video, ports);
        sender.rtx = rtx.then_some(100);
        // The first packet shows where the sender is; its RTCP has to show that too.
        sender.step(&mut network);
        sender.report(&mut network, SystemTime::now());
        sender.loss = loss;
        let (mut blocks, start) = (Vec::new(), network.now);
        while network.now < start + Duration::from_secs(5) {
            sender.step(&mut network);
            network.step(Duration::from_millis(1));
            sender.heed(&mut network, &mut blocks);
            if network.now - start == Duration::from_secs(2) {
                network.engine.request_key_frame(network.now, "v").unwrap();
            }
        }
        sender.loss = 0.0;
        for _ in 0..500 {
            network.step(Duration::from_millis(1));
            sender.heed(&mut network, &mut blocks);
        }
        let got = stream(&network, client, 6000);
        let numbers: Vec<u32> = got.iter().map(number).collect();
        let written = u32::try_from(sender.written).unwrap();
        // It starts with the first keyframe that was asked for.
        let expected: Vec<u32> = (numbers[0]..written).collect();
        assert_eq!(numbers, expected, "rtx {rtx}, loss {loss}");
        let key_frames = got.iter().filter(|it| is_key_frame_start(it)).count();
        assert!(is_key_frame_start(&got[0]) && key_frames > 1);
        assert!(numbers[0] < 40, "{}", numbers[0]);
        assert!((4..=6).contains(&blocks.len()), "{}", blocks.len());
        assert_eq!(blocks.iter().any(|(_, lost)| *lost > 0), loss > 0.0);

        let stats = network.engine.producer_stats(network.now, "cam").unwrap();
        let [stats] = stats.streams.as_slice() else {
            panic!("{stats:?}");
        };
        assert_eq!((stats.ssrc, stats.mime_type.as_str()), (2222, "video/VP8"));
        assert_eq!(stats.packet_count, u64::from(written));
        assert_eq!(stats.packets_lost, stats.packets_repaired);
        assert_eq!(stats.nack_packet_count > 0, loss > 0.0);
        assert!(stats.pli_count > 0);
        // What is repaired of little loss may leave the best score.
        let score = stats.score;
        assert!(if loss == 0.0 { score == 10 } else { score > 5 }, "{score}");
        assert!(loss < 0.1 || score < 10, "{score}");
        let transport = network
            .engine
            .transport_stats(network.now, "plain")
            .unwrap();
        let plain = transport.plain.unwrap();
        assert_eq!((plain.comedia, plain.rtcp_mux), (true, rtx));
        let tuple = plain.tuple.unwrap();
        assert_eq!((tuple.local_port, tuple.remote_port), (41_000, 6000));
        assert_eq!(
            plain.rtcp_tuple.map(|it| it.remote_port),
            (!rtx).then_some(6001)
        );
        let rtx_bytes = transport.rtx_received.unwrap().bytes;
        assert_eq!(rtx_bytes > 0, loss > 0.0);
    }
}

#[test]
fn audio_levels_and_capture_times_pass() {
    let (mut network, client) = sending_room(SPLIT, false);
    let mut audio = Sender::new(&network, MediaKind::Audio, SPLIT);
    let mut video = Sender::new(&network, MediaKind::Video, SPLIT);
    let start = network.now;
    while network.now < start + Duration::from_secs(10) {
        audio.step(&mut network);
        video.step(&mut network);
        if (network.now - start).as_millis() % 500 == 0 {
            // Both clocks stand at the same moment.
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            let wall = wall + (network.now - start);
            audio.report(&mut network, wall);
            video.report(&mut network, wall);
        }
        network.step(Duration::from_millis(1));
        network.plain.clear();
    }
    let heard = stream(&network, client, 5000);
    assert!(heard.len() > 490, "{}", heard.len());
    assert_eq!(heard[0].header.ext_vals.audio_level, Some(-30));
    let reports = |ssrc| {
        stream(&network, client, ssrc)
            .last()
            .unwrap()
            .report
            .unwrap()
    };
    // Audio and video are in step for the receiver as well: what was written in the
    // same millisecond has the same wall clock.
    let (a, v) = (reports(5000), reports(6000));
    let last = |ssrc| {
        stream(&network, client, ssrc)
            .last()
            .unwrap()
            .header
            .timestamp
    };
    let at = |info: test_peer::str0m::rtp::rtcp::SenderInfo, timestamp: u32, rate: i64| {
        let wall = info
            .ntp_time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let base = u32::try_from(info.rtp_time.numer() & 0xFFFF_FFFF).unwrap();
        let ticks = i64::from(timestamp.wrapping_sub(base).cast_signed());
        i64::try_from(wall.as_millis()).unwrap() + ticks * 1000 / rate
    };
    let apart = at(a, last(5000), 48_000) - at(v, last(6000), 90_000);
    assert!(apart.abs() <= 41, "{apart} ms");
    let speaker = |event: &proto::event::Event| matches!(event, proto::event::Event::ActiveSpeaker(it) if it.producer_id.as_deref() == Some("mic"));
    assert!(network.events.iter().any(speaker));
}

#[test]
fn what_is_not_the_senders_changes_nothing() {
    let (mut network, client) = sending_room(SPLIT, false);
    let mut sender = Sender::new(&network, MediaKind::Video, SPLIT);
    let rtp = |pt: u8, ssrc: u32, len: usize| {
        RtpPacketBuilder::<&[u8], &[u8]>::new()
            .payload_type(pt)
            .ssrc(ssrc)
            .sequence_number(65_501)
            .payload(&vec![0x10; len])
            .write_vec()
            .unwrap()
    };
    let here = from(address(6000), 41_000);
    let dropped = |network: &Network| network.engine.counters().dropped;
    let check = |network: &mut Network, from: Tuple, datagram: &[u8], more: Dropped| {
        let before = dropped(network);
        network.engine.receive(network.now, from, datagram);
        let expected = Dropped {
            unparsable: before.unparsable + more.unparsable,
            unknown: before.unknown + more.unknown,
            refused: before.refused + more.refused,
            too_long: before.too_long + more.too_long,
            wrong_stream: before.wrong_stream + more.wrong_stream,
            false_reports: before.false_reports + more.false_reports,
            ..before
        };
        assert_eq!(
            dropped(network),
            expected,
            "{:?}",
            &datagram[..datagram.len().min(16)]
        );
    };
    let unparsable = Dropped {
        unparsable: 1,
        ..Default::default()
    };
    let refused = Dropped {
        refused: 1,
        ..Default::default()
    };
    let unknown = Dropped {
        unknown: 1,
        ..Default::default()
    };
    let too_long = Dropped {
        too_long: 1,
        ..Default::default()
    };
    let wrong_stream = Dropped {
        wrong_stream: 1,
        ..Default::default()
    };
    let false_report = Dropped {
        false_reports: 1,
        ..Default::default()
    };
    let report = {
        let report = SenderReport::builder(2222);
        let mut bytes = vec![0; report.calculate_size().unwrap()];
        report.write_into(&mut bytes).unwrap();
        bytes
    };
    // Before anything of the sender's came, none of this is taken for it.
    for (datagram, more) in [
        (vec![], unparsable),
        (vec![0; 20], unparsable),
        (vec![0x80; 5], unparsable),
        (vec![22; 60], unparsable),
        (rtp(100, 2222, 10), wrong_stream),
        (rtp(101, 2221, 10), wrong_stream),
        (rtp(101, 2222, 65_000), too_long),
        // RTCP has its own port.
        (report.clone(), refused),
    ] {
        check(&mut network, here, &datagram, more);
    }
    // Nor is RTCP that speaks of no stream, which comes from another host.
    let silent = {
        let report = ReceiverReport::builder(9);
        let mut bytes = vec![0; report.calculate_size().unwrap()];
        report.write_into(&mut bytes).unwrap();
        bytes
    };
    let stranger = SocketAddr::from(([10, 0, 2, 9], 6001));
    let to_rtcp = from(stranger, 41_001);
    check(&mut network, to_rtcp, &silent, Dropped::default());
    let stats = network
        .engine
        .transport_stats(network.now, "plain")
        .unwrap();
    assert_eq!(stats.plain.unwrap().tuple.unwrap().remote_port, 0);
    sender.step(&mut network);
    let stats = network
        .engine
        .transport_stats(network.now, "plain")
        .unwrap();
    assert_eq!(stats.plain.unwrap().tuple.unwrap().remote_port, 6000);
    // Now others are others.
    let there = from(address(6002), 41_000);
    for datagram in [rtp(101, 2222, 10), rtp(111, 1, 10)] {
        check(&mut network, there, &datagram, unknown);
    }
    let elsewhere = from(SocketAddr::from(([10, 0, 2, 2], 6000)), 41_000);
    check(&mut network, elsewhere, &rtp(101, 2222, 10), unknown);
    let rtcp = |remote| from(remote, 41_001);
    check(
        &mut network,
        rtcp(SocketAddr::from(([10, 0, 2, 2], 6001))),
        &report,
        unknown,
    );
    check(
        &mut network,
        rtcp(address(6001)),
        &report,
        Dropped::default(),
    );
    check(&mut network, rtcp(address(6000)), &report, unknown);
    // RTP on the port of RTCP, RTCP about streams that are not there, and no RTCP.
    check(
        &mut network,
        rtcp(address(6001)),
        &rtp(101, 2222, 10),
        refused,
    );
    let lie = {
        let block = ReportBlock::builder(77).cumulative_lost(0xFF_FFFF);
        let report = ReceiverReport::builder(1).add_report_block(block);
        let mut bytes = vec![0; report.calculate_size().unwrap()];
        report.write_into(&mut bytes).unwrap();
        bytes
    };
    check(&mut network, rtcp(address(6001)), &lie, false_report);
    check(&mut network, rtcp(address(6001)), &lie[..30], unparsable);
    // To a port that nobody has any more.
    check(
        &mut network,
        from(address(6000), 41_009),
        &rtp(101, 2222, 10),
        unknown,
    );
    // It goes on as if nothing had been.
    let start = network.now;
    while network.now < start + Duration::from_secs(1) {
        sender.step(&mut network);
        network.step(Duration::from_millis(1));
        sender.heed(&mut network, &mut Vec::new());
    }
    assert!(stream(&network, client, 6000).len() > 80);
    assert_eq!(network.engine.counters().panics, 0);
}

/// What a plain receiver has got, by SSRC.
#[derive(Default)]
struct Heard {
    rtp: BTreeMap<u32, BTreeMap<u16, Vec<u8>>>,
    again: usize,
    reports: Vec<(u32, u64, u32)>,
    byes: Vec<u32>,
}

impl Heard {
    fn listen(&mut self, network: &mut Network) {
        for (to, datagram) in std::mem::take(&mut network.plain) {
            if to.remote == address(6000) {
                let packet = RtpPacket::parse(&datagram).unwrap();
                let (ssrc, sequence) = (packet.ssrc(), packet.sequence_number());
                let of = self.rtp.entry(ssrc).or_default();
                if of.insert(sequence, datagram.clone()).is_some() {
                    self.again += 1;
                }
                continue;
            }
            assert_eq!(to.remote, address(6001));
            for packet in Compound::parse(&datagram).unwrap() {
                match packet.unwrap() {
                    Packet::Sr(report) => {
                        let (ntp, timestamp) = (report.ntp_timestamp(), report.rtp_timestamp());
                        self.reports.push((report.ssrc(), ntp, timestamp));
                    }
                    Packet::Bye(bye) => self.byes.extend(bye.ssrcs()),
                    _ => {}
                }
            }
        }
    }

    fn of(&self, ssrc: u32) -> usize {
        self.rtp.get(&ssrc).map_or(0, BTreeMap::len)
    }
}

/// A browser that sends audio (1000) and video (2000), and a plain transport that
/// consumes it as 5000 and 6000.
fn recording_room(ports: OwnPorts, comedia: bool) -> (Network, Source, Source) {
    let mut network = Network::new(3);
    create_router(&mut network);
    let client = network.add_client(&PeerConfig::sending());
    network.connect(client, "send", true);
    for (id, kind, ssrc) in [
        ("mic", MediaKind::Audio, 1000),
        ("cam", MediaKind::Video, 2000),
    ] {
        let request = produce_request("send", id, kind, ssrc);
        produce(&mut network, client, &request);
    }
    network.run_until("connected", |n| n.clients[client].peer.connected);
    create(&mut network, "plain", ports, comedia);
    let audio = Source::new(&network, client, MediaKind::Audio, 1000);
    let video = Source::new(&network, client, MediaKind::Video, 2000);
    (network, audio, video)
}

fn record(network: &mut Network, id: &str, producer: &str, ssrc: u32, rtx: Option<u32>) {
    let audio = producer == "mic";
    let spec = proto::ConsumerSpec {
        transport_id: "plain".into(),
        consumer_id: id.into(),
        producer_id: producer.into(),
        mid: id.into(),
        payload_type: if audio { 100 } else { 101 },
        rtx_payload_type: rtx.map(|_| 102),
        ssrc,
        rtx_ssrc: rtx,
        header_extensions: Vec::new(),
        paused: false,
    };
    let request = proto::ConsumeRequest {
        consumers: vec![spec],
    };
    let made = network.engine.consume(network.now, &request);
    assert_eq!(made.results[0].error, "");
}

fn connect_request(port: u32, rtcp_port: Option<u32>) -> ConnectPlainTransportRequest {
    ConnectPlainTransportRequest {
        transport_id: "plain".into(),
        address: Some("10.0.2.1".into()),
        port: Some(port),
        rtcp_port,
        srtp: None,
    }
}

/// It shows, and changes nothing else: anybody can make it up.
#[test]
fn it_is_noted_where_nobody_receives() {
    let (mut network, mut audio, mut video) = recording_room(SPLIT, false);
    let to = connect_request(6000, Some(6001));
    let now = network.now;
    network.engine.connect_plain_transport(now, &to).unwrap();
    record(&mut network, "a", "mic", 5000, None);
    let mut heard = Heard::default();
    let mut go_on = |network: &mut Network, seconds: u64| {
        let sources = &mut [&mut audio, &mut video];
        run(network, sources, Duration::from_secs(seconds));
        heard.listen(network);
        let stats = network.engine.consumer_stats(network.now, "a").unwrap();
        (stats.outbound.unwrap().score, heard.of(5000))
    };
    let (score, before) = go_on(&mut network, 1);
    assert_eq!(score, 10);
    let fail = |network: &mut Network, port, to| {
        network.engine.unreachable(network.now, port, to);
        network.engine.counters().unreachable
    };
    // Another address, another port, and reports that nobody takes.
    for (port, to) in [
        (SPLIT.rtp, address(6001)),
        (SPLIT.rtp + 9, address(6000)),
        (SPLIT.rtp + 1, address(6001)),
    ] {
        assert_eq!(fail(&mut network, port, to), 0, "{port} {to}");
    }
    assert_eq!(go_on(&mut network, 1).0, 10);
    for count in 1..=2 {
        assert_eq!(fail(&mut network, SPLIT.rtp, address(6000)), count);
    }
    let told = |network: &Network| {
        let mut scores = network.events.iter().rev().filter_map(|event| match event {
            proto::event::Event::ConsumerScore(it) => it.score.as_ref(),
            _ => None,
        });
        scores.next().map(|score| score.score)
    };
    let (score, after) = go_on(&mut network, 2);
    assert_eq!((score, told(&network)), (0, Some(0)));
    assert!(after > before + 90, "it is sent on: {}", after - before);

    // A sign of life ends it, and so does time.
    let report = ReceiverReport::builder(1);
    send_rtcp(&mut network, SPLIT, &report);
    assert_eq!((go_on(&mut network, 2).0, told(&network)), (10, Some(10)));
    fail(&mut network, SPLIT.rtp, address(6000));
    assert_eq!(go_on(&mut network, 1).0, 0);
    assert_eq!(go_on(&mut network, 15).0, 10);
}

#[test]
fn a_plain_receiver_gets_what_a_peer_sends() {
    let (mut network, mut audio, mut video) = recording_room(SPLIT, false);
    let to = connect_request(6000, Some(6001));
    let now = network.now;
    network.engine.connect_plain_transport(now, &to).unwrap();
    let again = network.engine.connect_plain_transport(now, &to);
    assert_eq!(again.unwrap_err().to_string(), "connect() already called");
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(1),
    );
    record(&mut network, "a", "mic", 5000, None);
    record(&mut network, "v", "cam", 6000, None);
    let mut heard = Heard::default();
    for _ in 0..5000 {
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_millis(1),
        );
        heard.listen(&mut network);
    }
    assert!((245..=251).contains(&heard.of(5000)), "{}", heard.of(5000));
    let pictures = &heard.rtp[&6000];
    // With up to a second of what was there before.
    assert!((480..=620).contains(&pictures.len()), "{}", pictures.len());
    // It starts with a keyframe, and nothing is missing of what follows.
    let (first, packet) = pictures.first_key_value().unwrap();
    let packet = RtpPacket::parse(packet).unwrap();
    assert_eq!(packet.payload()[..2], [0x10, 0x00]);
    assert_eq!((packet.payload_type(), packet.extension()), (101, None));
    assert_eq!(
        usize::from(*pictures.last_key_value().unwrap().0 - first) + 1,
        pictures.len()
    );
    // A sender report at once, then every second of video, every 5 s of audio.
    let reports = |ssrc| heard.reports.iter().filter(|it| it.0 == ssrc).count();
    assert_eq!((reports(6000), reports(5000)), (5, 1));
    // The clocks of both run alike: 90,000 ticks for a second.
    let video_reports: Vec<_> = heard.reports.iter().filter(|it| it.0 == 6000).collect();
    let (_, ntp, timestamp) = video_reports[1];
    let (_, later, then) = video_reports[4];
    let seconds = (later - ntp) as f64 / 2f64.powi(32);
    let ticks = f64::from(then.wrapping_sub(*timestamp));
    assert!(
        (ticks / seconds - 90_000.0).abs() < 3_000.0,
        "{}",
        ticks / seconds
    );

    // What it says back counts: a report, NACKs, a keyframe.
    let highest = u32::from(*heard.rtp[&6000].last_key_value().unwrap().0);
    let (_, ntp, _) = heard.reports.last().copied().unwrap();
    let block = ReportBlock::builder(6000)
        .cumulative_lost(50)
        .extended_sequence_number(highest)
        .interarrival_jitter(9)
        .last_sender_report_timestamp(u32::try_from((ntp >> 16) & 0xFFFF_FFFF).unwrap());
    send_rtcp(
        &mut network,
        SPLIT,
        &ReceiverReport::builder(1).add_report_block(block),
    );
    let lost = u16::try_from(highest - 3).unwrap();
    let nack = Nack::builder()
        .add_rtp_sequence(lost)
        .add_rtp_sequence(lost + 1);
    let nack = TransportFeedback::builder_owned(nack).media_ssrc(6000);
    send_rtcp(&mut network, SPLIT, &nack);
    let asked = network.clients[0].peer.key_frame_requests.len();
    let pli = PayloadFeedback::builder_owned(Pli::builder()).media_ssrc(6000);
    send_rtcp(&mut network, SPLIT, &pli);
    network.run_for(Duration::from_millis(100));
    heard.listen(&mut network);
    assert_eq!(heard.again, 2, "as they were");
    assert_eq!(network.clients[0].peer.key_frame_requests.len(), asked + 1);
    let stats = network.engine.consumer_stats(network.now, "v").unwrap();
    let stats = stats.outbound.unwrap();
    assert_eq!(
        (
            stats.packets_lost,
            stats.jitter,
            stats.packets_retransmitted
        ),
        (50, 9, 2)
    );
    assert_eq!(
        (stats.nack_count, stats.nack_packet_count, stats.pli_count),
        (1, 2, 1)
    );
    assert!(stats.round_trip_time.unwrap() < 5000.0 && stats.score < 10);

    network.engine.close_consumer("a").unwrap();
    network.run_for(Duration::from_millis(5));
    network
        .engine
        .close_transport(network.now, "plain")
        .unwrap();
    network.run_for(Duration::from_millis(5));
    heard.listen(&mut network);
    assert_eq!(heard.byes, [5000, 6000]);
    assert_eq!(network.engine.take_released_ports(), [41_000, 41_001]);
}

#[test]
fn a_comedia_receiver_gets_nothing_before_it_shows_itself() {
    let (mut network, mut audio, mut video) = recording_room(MUXED, true);
    record(&mut network, "v", "cam", 6000, Some(6001));
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(2),
    );
    assert!(network.plain.is_empty());
    let asked = network.clients[0].peer.key_frame_requests.len();
    // The smallest packet that is RTP.
    let mut opener = vec![0x80, 0];
    opener.resize(12, 0);
    let tuple = from(address(6000), 41_000);
    network.engine.receive(network.now, tuple, &opener);
    let mut datagrams = Vec::new();
    for _ in 0..1000 {
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_millis(1),
        );
        datagrams.append(&mut network.plain);
    }
    assert_eq!(network.clients[0].peer.key_frame_requests.len(), asked + 1);
    let packets: Vec<_> = datagrams
        .iter()
        .filter_map(|(_, datagram)| RtpPacket::parse(datagram).ok())
        .filter(|packet| packet.ssrc() == 6000)
        .collect();
    assert_eq!(packets[0].payload()[..2], [0x10, 0x00]);
    assert!(packets.len() > 80, "{}", packets.len());
    // RFC 4588, and the original number in front of the payload.
    let original = &packets[packets.len() - 2];
    let nack = Nack::builder().add_rtp_sequence(original.sequence_number());
    let nack = TransportFeedback::builder_owned(nack).media_ssrc(6000);
    send_rtcp(&mut network, MUXED, &nack);
    network.run_for(Duration::from_millis(1));
    let again = network.plain.iter().find_map(|(_, datagram)| {
        let packet = RtpPacket::parse(datagram).ok()?;
        (packet.ssrc() == 6001).then(|| datagram.clone())
    });
    let again = again.unwrap();
    let again = RtpPacket::parse(&again).unwrap();
    assert_eq!(again.payload_type(), 102);
    assert_eq!(again.timestamp(), original.timestamp());
    assert_eq!(
        again.payload()[..2],
        original.sequence_number().to_be_bytes()
    );
    assert_eq!(&again.payload()[2..], original.payload());
}

#[test]
fn commands_are_checked() {
    let (mut network, ..) = recording_room(SPLIT, false);
    let now = network.now;
    let engine = &mut network.engine;
    let refused = |request: &ConnectPlainTransportRequest,
                   engine: &mut mediaworker::engine::Engine| {
        engine
            .connect_plain_transport(now, request)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&connect_request(6000, None), engine),
        "rtcpPort: is missing"
    );
    let mut other = connect_request(6000, Some(6001));
    other.transport_id = "send".into();
    assert_eq!(refused(&other, engine), "transport is not a PlainTransport");
    other.transport_id = "x".into();
    assert_eq!(refused(&other, engine), "transport with id \"x\" not found");
    let error = engine.restart_ice("plain").unwrap_err().to_string();
    assert_eq!(error, "transport is not a WebRtcTransport");
    let mut request = video_request(false);
    request.producer_id = "other".into();
    request.mid = Some("1".into());
    request.encodings[0].ssrc = None;
    let error = engine.produce(now, &request).unwrap_err().to_string();
    assert_eq!(error, "encodings.ssrc: is needed on a plain transport");
    let create = CreatePlainTransportRequest {
        router_id: "room".into(),
        transport_id: "plain".into(),
        ..Default::default()
    };
    let error = engine.create_plain_transport(&create, MUXED).unwrap_err();
    assert_eq!(
        error.to_string(),
        "transport with id \"plain\" already exists"
    );
    assert!(engine.take_released_ports().is_empty());
    engine.close_router(now, "room").unwrap();
    assert_eq!(engine.take_released_ports(), [41_000, 41_001]);
    // What comes too late finds nobody.
    let before = engine.counters().dropped.unknown;
    engine.receive(now, from(address(6000), 41_000), &[0x80; 20]);
    assert_eq!(engine.counters().dropped.unknown, before + 1);
}

#[test]
fn a_bad_network_is_there_on_request() {
    let (mut network, mut audio, mut video) = recording_room(SPLIT, false);
    let to = connect_request(6000, Some(6001));
    network
        .engine
        .connect_plain_transport(network.now, &to)
        .unwrap();
    record(&mut network, "a", "mic", 5000, None);
    let throttle = proto::SetNetworkThrottleRequest {
        transport_ids: vec!["plain".into()],
        throttle: Some(proto::NetworkThrottle {
            packet_loss: 1.0,
            ..Default::default()
        }),
    };
    network
        .engine
        .set_network_throttle(network.now, &throttle)
        .unwrap();
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(1),
    );
    assert!(network.plain.is_empty());
}

#[test]
fn an_encrypted_way_carries_both_directions() {
    use mediaworker::transport::srtp::{Opener, Sealer, Suite};
    for suite in [
        proto::SrtpCryptoSuite::AesCm128HmacSha180,
        proto::SrtpCryptoSuite::AeadAes256Gcm,
    ] {
        let kind = Suite::of(suite).unwrap();
        let key: Vec<u8> = (1..).take(kind.material_len()).collect();
        let theirs = proto::SrtpParameters {
            crypto_suite: suite.into(),
            key: key.clone(),
        };
        let (mut network, mut audio, mut video) = recording_room(MUXED, true);
        let connect = ConnectPlainTransportRequest {
            transport_id: "plain".into(),
            srtp: Some(theirs),
            ..Default::default()
        };
        let engine = &mut network.engine;
        let connected = engine.connect_plain_transport(network.now, &connect);
        let ours = connected.unwrap().srtp.unwrap();
        assert_eq!(ours.crypto_suite(), suite);
        let mut opener = Opener::new(kind, &ours.key).unwrap();
        let sealer = Sealer::new(kind, &key).unwrap();

        record(&mut network, "v", "cam", 6000, None);
        let request = audio_request();
        let request = ProduceRequest {
            producer_id: "talk".into(),
            ..request
        };
        network.engine.produce(network.now, &request).unwrap();
        // What is not encrypted, or with another key, is not the remote's.
        let rtp = |number: u16| {
            RtpPacketBuilder::<&[u8], &[u8]>::new()
                .payload_type(100)
                .ssrc(1111)
                .sequence_number(number)
                .payload(&[0xFC; 20])
                .write_vec()
                .unwrap()
        };
        let refused = network.engine.counters().dropped.refused;
        let here = from(address(6000), 41_000);
        network.engine.receive(network.now, here, &rtp(1));
        let mut other = rtp(1);
        Sealer::new(kind, &vec![9; key.len()])
            .unwrap()
            .rtp(&mut other, 1)
            .unwrap();
        network.engine.receive(network.now, here, &other);
        assert_eq!(network.engine.counters().dropped.refused, refused + 2);
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_millis(100),
        );
        assert!(network.plain.is_empty());
        for number in 1..=50 {
            let mut packet = rtp(number);
            sealer.rtp(&mut packet, number.into()).unwrap();
            network.engine.receive(network.now, here, &packet);
        }
        let stats = network.engine.producer_stats(network.now, "talk").unwrap();
        assert_eq!(stats.streams[0].packet_count, 50);
        run(
            &mut network,
            &mut [&mut audio, &mut video],
            Duration::from_secs(2),
        );
        let (mut media, mut reports) = (0, 0);
        for (_, mut datagram) in std::mem::take(&mut network.plain) {
            if (200..=206).contains(&datagram[1]) {
                opener.rtcp(&mut datagram).unwrap();
                assert!(Compound::parse(&datagram).is_ok());
                reports += 1;
            } else {
                opener.rtp(&mut datagram).unwrap();
                let packet = RtpPacket::parse(&datagram).unwrap();
                assert_eq!(packet.ssrc(), 6000);
                assert_eq!(packet.padding(), None, "lengths are the producer's");
                let longer = usize::from(packet.marker_bit());
                assert_eq!(packet.payload().len(), 600 + longer);
                media += 1;
            }
        }
        assert!(media > 180 && reports >= 2, "{media} {reports}");
    }
}

#[test]
fn keys_are_checked() {
    let (mut network, ..) = recording_room(SPLIT, true);
    let create = CreatePlainTransportRequest {
        router_id: "room".into(),
        transport_id: "secret".into(),
        rtcp_mux: true,
        comedia: true,
        srtp_crypto_suite: Some(proto::SrtpCryptoSuite::AeadAes128Gcm.into()),
    };
    let ports = OwnPorts {
        rtp: 41_004,
        rtcp: None,
    };
    let engine = &mut network.engine;
    let made = engine.create_plain_transport(&create, ports).unwrap();
    let ours = made.srtp.unwrap();
    assert_eq!(ours.key.len(), 28);
    let now = network.now;
    for (suite, key, error) in [
        (2, 27, "srtpParameters.keyBase64: 27 octets, not 28"),
        (
            1,
            44,
            "srtpParameters.cryptoSuite: is not that of the transport",
        ),
    ] {
        let connect = ConnectPlainTransportRequest {
            transport_id: "secret".into(),
            srtp: Some(proto::SrtpParameters {
                crypto_suite: suite,
                key: vec![1; key],
            }),
            ..Default::default()
        };
        let refused = engine.connect_plain_transport(now, &connect).unwrap_err();
        assert_eq!(refused.to_string(), error);
    }
    let mut connect = ConnectPlainTransportRequest {
        transport_id: "secret".into(),
        ..Default::default()
    };
    let refused = engine.connect_plain_transport(now, &connect).unwrap_err();
    let missing = "srtpParameters: is missing for an encrypted transport";
    assert_eq!(refused.to_string(), missing);
    connect.srtp = Some(proto::SrtpParameters {
        crypto_suite: 2,
        key: vec![1; 28],
    });
    let connected = engine.connect_plain_transport(now, &connect).unwrap();
    assert_eq!(connected.srtp, Some(ours));
}

/// A camera that was switched off and on: the same SSRC, other numbers.
#[test]
fn a_sender_that_starts_anew_is_taken_up_again() {
    let (mut network, client) = sending_room(SPLIT, false);
    let mut sender = Sender::new(&network, MediaKind::Video, SPLIT);
    let step = |network: &mut Network, sender: &mut Sender, seconds| {
        let end = network.now + Duration::from_secs(seconds);
        while network.now < end {
            sender.step(network);
            network.step(Duration::from_millis(1));
            sender.heed(network, &mut Vec::new());
        }
    };
    sender.step(&mut network);
    // Only who sends RTCP can be asked for a keyframe.
    sender.report(&mut network, SystemTime::now());
    step(&mut network, &mut sender, 2);
    let before = stream(&network, client, 6000).len();
    sender.sequence = sender.sequence.wrapping_add(20_000);
    sender.timestamp = sender.timestamp.wrapping_add(0x4000_0000);
    sender.wants_key = true;
    step(&mut network, &mut sender, 2);
    let got = stream(&network, client, 6000);
    assert!(got.len() > before + 150, "{before} {}", got.len());
    // For the receiver nothing has jumped.
    for pair in got.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
        let ticks = pair[1]
            .header
            .timestamp
            .wrapping_sub(pair[0].header.timestamp);
        assert!(ticks < 90_000, "{ticks}");
    }
    let stats = network.engine.producer_stats(network.now, "cam").unwrap();
    assert!(stats.streams[0].packets_lost < 5, "{stats:?}");
}

#[test]
fn nothing_that_arrives_makes_it_panic() {
    let (mut network, client) = sending_room(SPLIT, false);
    let mut sender = Sender::new(&network, MediaKind::Video, SPLIT);
    sender.step(&mut network);
    sender.report(&mut network, SystemTime::now());
    let report = ReportBlock::builder(6000).extended_sequence_number(9);
    let report = ReceiverReport::builder(2222).add_report_block(report);
    let nack = Nack::builder().add_rtp_sequence(3).add_rtp_sequence(60_000);
    let nack = TransportFeedback::builder_owned(nack).media_ssrc(6000);
    let compound = Compound::builder().add_packet(report).add_packet(nack);
    let mut rtcp = vec![0; compound.calculate_size().unwrap()];
    compound.write_into(&mut rtcp).unwrap();
    let rtp = sender.sent.values().next().unwrap().clone();
    for round in 0..40_000 {
        let (port, mut datagram) = match round % 3 {
            0 => (41_000, rtp.clone()),
            1 => (41_001, rtcp.clone()),
            _ => {
                let len = (network.random() * 80.0) as usize;
                (41_000 + round % 2, vec![0x80; len])
            }
        };
        // Mostly the first octets, where it matters.
        for _ in 0..=(network.random() * 4.0) as usize {
            let at = (network.random() * 40.0) as usize;
            let byte = (network.random() * 256.0) as u8;
            if let Some(place) = datagram.get_mut(at) {
                *place = byte;
            }
        }
        let remote = if port == 41_000 { 6000 } else { 6001 };
        let tuple = from(address(remote), u16::try_from(port).unwrap());
        network.engine.receive(network.now, tuple, &datagram);
        if round % 100 == 0 {
            network.step(Duration::from_millis(1));
            network.plain.clear();
        }
    }
    assert_eq!(network.engine.counters().panics, 0);
    assert!(
        network
            .events
            .iter()
            .all(|it| !matches!(it, proto::event::Event::TransportClosed(_)))
    );
    // What was made up has moved the numbers on; a restart of the sender is one more.
    sender.sequence = 30_000;
    sender.wants_key = true;
    let before = stream(&network, client, 6000).len();
    let end = network.now + Duration::from_secs(3);
    while network.now < end {
        sender.step(&mut network);
        network.step(Duration::from_millis(1));
        sender.heed(&mut network, &mut Vec::new());
    }
    assert!(stream(&network, client, 6000).len() > before + 100);
}
