//! A whole client over the raw protocol: protoo for signaling, str0m over a real
//! UDP socket for media.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_peer::str0m::channel::Reliability;
use test_peer::str0m::media::MediaKind;
use test_peer::{Message, Packet, Peer, PeerConfig, ReceivedRtp, Remote};

use crate::protoo::Protoo;

type Job = Box<dyn FnOnce(&mut Peer) + Send>;

/// A str0m peer on a thread of its own.
pub struct Media {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    state: Arc<Mutex<MediaState>>,
}

#[derive(Default, Clone)]
pub struct MediaState {
    pub connected: bool,
    pub closed: Option<String>,
    pub received: Vec<ReceivedRtp>,
    pub key_frame_requests: usize,
    /// It has sent as many DTLS records as it may, and is not heard of any more.
    pub silent: bool,
    pub rtcp_received: Vec<&'static str>,
    pub messages: Vec<Message>,
}

impl Media {
    pub fn start(config: &PeerConfig) -> Self {
        Self::start_until(config, usize::MAX)
    }

    /// One that is not heard of any more instead of sending more datagrams of its
    /// handshake than that.
    pub fn start_until(config: &PeerConfig, records: usize) -> Self {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let peer = Peer::new(Instant::now(), config, address);
        let (jobs, queue) = channel();
        let state = Arc::new(Mutex::new(MediaState::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || drive(peer, &socket, &queue, &shared, records));
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            state,
        }
    }

    /// Runs something on the peer and answers what it answers.
    pub fn with<T: Send + 'static>(&self, job: impl FnOnce(&mut Peer) -> T + Send + 'static) -> T {
        let (done, answer) = channel();
        let job: Job = Box::new(move |peer| {
            let _ = done.send(job(peer));
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        answer.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    pub fn state(&self) -> MediaState {
        self.state.lock().unwrap().clone()
    }

    /// Packets of one SSRC so far.
    pub fn packets(&self, ssrc: u64) -> Vec<ReceivedRtp> {
        let mut packets = self.state().received;
        packets.retain(|p| u64::from(*p.header.ssrc) == ssrc);
        packets
    }
}

impl Media {
    /// What the server is told of this end.
    pub fn dtls_parameters(&self) -> Value {
        let fingerprint = self.with(Peer::fingerprint);
        json!({
            "role": "client",
            "fingerprints": [{"algorithm": "sha-256", "value": fingerprint}],
        })
    }

    /// Starts ICE and DTLS towards a transport of the server.
    pub fn connect(&self, transport: &Value) {
        let remote = remote_of(transport);
        self.with(move |peer| peer.connect(&remote, true)).unwrap();
    }

    /// Makes it start SCTP; before it connects.
    pub fn enable_data(&self) {
        self.with(Peer::enable_data);
    }

    /// Opens a reliable data channel on a stream.
    pub fn open_channel(&self, stream: u16) {
        self.with(move |peer| peer.create_channel(stream, true, Reliability::Reliable));
    }

    /// Sends a text; false while the channel is not open.
    pub fn say(&self, stream: u16, text: &str) -> bool {
        let text = text.as_bytes().to_vec();
        self.with(move |peer| peer.send_message(stream, false, &text))
    }

    /// Whether a text has come on a stream.
    pub fn has_heard(&self, stream: u16, text: &str) -> bool {
        let state = self.state.lock().unwrap();
        let mut messages = state.messages.iter();
        messages.any(|it| it.stream == stream && !it.binary && it.payload == text.as_bytes())
    }

    /// Declares a stream that is to be received, as a consumer's `rtpParameters`
    /// describe it, and answers its SSRC.
    pub fn expect(&self, kind: MediaKind, parameters: &Value) -> u64 {
        let encoding = &parameters["encodings"][0];
        let ssrc = encoding["ssrc"].as_u64().unwrap();
        let rtx = encoding["rtx"]["ssrc"].as_u64();
        let mid = parameters["mid"].as_str().unwrap().to_owned();
        self.with(move |peer| {
            let ssrc = u32::try_from(ssrc).unwrap();
            let rtx = rtx.map(|rtx| u32::try_from(rtx).unwrap());
            peer.expect_stream(&mid, kind, ssrc, rtx);
        });
        ssrc
    }

    /// Declares a stream that is to be sent; video has its RTX one above.
    pub fn send_stream(&self, kind: MediaKind, ssrc: u32) {
        let rtx = (!kind.is_audio()).then_some(ssrc + 1);
        self.with(move |peer| peer.send_stream(mid_of(kind), kind, ssrc, rtx));
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().unwrap().join();
    }
}

fn drive(
    mut peer: Peer,
    socket: &std::net::UdpSocket,
    jobs: &Receiver<Job>,
    state: &Mutex<MediaState>,
    mut records: usize,
) {
    let mut silent = false;
    let mut buffer = [0; 2048];
    let mut server: Option<SocketAddr> = None;
    loop {
        loop {
            match jobs.try_recv() {
                Ok(job) => job(&mut peer),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            }
        }
        server = server.or(peer.remote());
        peer.advance(Instant::now());
        while let Some(datagram) = peer.poll_datagram() {
            // DTLS by its first octet (RFC 7983 §7).
            let is_record = datagram.first().is_some_and(|b| (20..64).contains(b));
            silent |= is_record && records == 0;
            if let Some(server) = server.filter(|_| !silent) {
                let _ = socket.send_to(&datagram, server);
                records -= usize::from(is_record);
            }
        }
        {
            let mut state = state.lock().unwrap();
            state.connected = peer.connected;
            state.closed = peer.closed.clone();
            state.silent = silent;
            state.received.append(&mut peer.received);
            state.key_frame_requests = peer.key_frame_requests.len();
            state.rtcp_received.append(&mut peer.rtcp_received);
            state.messages.append(&mut peer.messages);
        }
        let wait = peer.next_timeout().map_or(Duration::from_millis(5), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(5));
        socket.set_read_timeout(Some(wait)).unwrap();
        while let Ok((len, _)) = socket.recv_from(&mut buffer) {
            peer.receive(Instant::now(), &buffer[..len]);
            socket.set_nonblocking(true).unwrap();
        }
        socket.set_nonblocking(false).unwrap();
    }
}

/// What a consumer was announced as.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub id: String,
    pub producer_id: String,
    pub peer_id: String,
    pub kind: String,
    pub ssrc: u64,
    pub rtp_parameters: Value,
}

pub struct Client {
    pub protoo: Protoo,
    pub send: Media,
    pub receive: Media,
    pub send_transport: Value,
    pub receive_transport: Value,
    sending: bool,
    receiving: bool,
    /// The peers that were there before.
    pub peers: Value,
}

impl Client {
    /// Opens the socket, creates both transports and joins.
    pub async fn join(server: SocketAddr, room: &str, id: &str) -> Self {
        let protoo = Protoo::connect(server, &format!("roomId={room}&peerId={id}"))
            .await
            .unwrap();
        Self::join_over(protoo, id).await
    }

    pub async fn join_over(mut protoo: Protoo, id: &str) -> Self {
        let router_capabilities = protoo
            .request("getRouterRtpCapabilities", json!({}))
            .await
            .unwrap();
        let mut create = async |producing: bool| {
            let data = json!({
                "forceTcp": false, "producing": producing, "consuming": !producing,
            });
            protoo.request("createWebRtcTransport", data).await.unwrap()
        };
        let send_transport = create(true).await;
        let receive_transport = create(false).await;
        let join = json!({
            "displayName": format!("name of {id}"),
            "device": {"flag": "test", "name": "Test", "version": "1"},
            "rtpCapabilities": router_capabilities,
        });
        let joined = protoo.request("join", join).await.unwrap();
        Self::with_transports(protoo, send_transport, receive_transport, joined)
    }

    /// As [`Client::join`], in the newest dialect.
    pub async fn join_newest(server: SocketAddr, room: &str, id: &str) -> Self {
        let query = format!("roomId={room}&peerId={id}&dialect=newest");
        let mut protoo = Protoo::connect(server, &query).await.unwrap();
        let answer = protoo.request("getRouterRtpCapabilities", json!({})).await;
        let router_capabilities = answer.unwrap()["routerRtpCapabilities"].clone();
        let mut create = async |direction: &str| {
            let data = json!({ "forceTcp": false, "appData": {"direction": direction} });
            let mut made = protoo.request("createWebRtcTransport", data).await.unwrap();
            made["id"] = made["transportId"].take();
            made
        };
        let send_transport = create("producer").await;
        let receive_transport = create("consumer").await;
        let join = json!({
            "displayName": format!("name of {id}"),
            "device": {"flag": "chrome", "name": "Chrome", "version": "156"},
            "rtpCapabilities": router_capabilities,
        });
        let joined = protoo.request("join", join).await.unwrap();
        Self::with_transports(protoo, send_transport, receive_transport, joined)
    }

    fn with_transports(
        protoo: Protoo,
        send_transport: Value,
        receive_transport: Value,
        joined: Value,
    ) -> Self {
        Self {
            protoo,
            send: Media::start(&PeerConfig::sending()),
            receive: Media::start(&PeerConfig::receiving()),
            send_transport,
            receive_transport,
            sending: false,
            receiving: false,
            peers: joined["peers"].clone(),
        }
    }

    /// Creates a producer; connects its transport first if need be.
    pub async fn produce(&mut self, kind: MediaKind, ssrc: u32) -> String {
        self.produce_as(kind, ssrc, &rtp_parameters(kind, ssrc))
            .await
    }

    /// Creates a producer with parameters of its own.
    pub async fn produce_as(&mut self, kind: MediaKind, ssrc: u32, parameters: &Value) -> String {
        let transport = self.send_transport.clone();
        if !self.sending {
            self.sending = true;
            connect(&mut self.protoo, &self.send, &transport).await;
        }
        self.send.send_stream(kind, ssrc);
        let data = json!({
            "transportId": transport["id"], "kind": if kind.is_audio() { "audio" } else { "video" },
            "rtpParameters": parameters, "appData": {"source": "test"},
        });
        let produced = self.protoo.request("produce", data).await.unwrap();
        id_of(&produced, "producerId")
    }

    /// Connects the transport to receive on, unless it is.
    pub async fn connect_receiving(&mut self) {
        if !self.receiving {
            self.receiving = true;
            let transport = self.receive_transport.clone();
            connect(&mut self.protoo, &self.receive, &transport).await;
        }
    }

    /// Waits for the data consumer of somebody's data producer (of the bot's:
    /// `None`), accepts it, opens its channel and answers its stream.
    pub async fn accept_data_consumer(&mut self, of: Option<&str>) -> u16 {
        loop {
            let offer = self.protoo.wait_for("newDataConsumer").await;
            let answer = json!({"response": true, "id": offer["id"], "ok": true, "data": {}});
            self.protoo.send_text(&answer.to_string()).await;
            if offer["data"]["peerId"].as_str() == of {
                let stream = offer["data"]["sctpStreamParameters"]["streamId"].as_u64();
                let stream = u16::try_from(stream.unwrap()).unwrap();
                self.receive.open_channel(stream);
                return stream;
            }
        }
    }

    /// Sends messages on a reliable data channel; the transport has to be
    /// connected by a stream. Answers the data producer's id.
    pub async fn produce_data(&mut self, label: &str, stream: u16) -> String {
        let data = json!({
            "transportId": self.send_transport["id"], "label": label,
            "sctpStreamParameters": {"streamId": stream, "ordered": true},
        });
        let produced = self.protoo.request("produceData", data).await.unwrap();
        self.send.open_channel(stream);
        produced["id"].as_str().unwrap().to_owned()
    }

    /// Waits for a consumer and accepts it, connecting the transport for the first.
    pub async fn accept_consumer(&mut self) -> Consumer {
        let announced = self.protoo.wait_for("newConsumer").await;
        let data = announced["data"].clone();
        let parameters = data["rtpParameters"].clone();
        let kind = data["kind"].as_str().unwrap().to_owned();
        let media = if kind == "audio" {
            MediaKind::Audio
        } else {
            MediaKind::Video
        };
        let ssrc = self.receive.expect(media, &parameters);
        self.connect_receiving().await;
        let answer = json!({"response": true, "id": announced["id"], "ok": true, "data": {}});
        self.protoo.send_text(&answer.to_string()).await;
        Consumer {
            id: id_of(&data, "consumerId"),
            producer_id: data["producerId"].as_str().unwrap().into(),
            peer_id: data["peerId"].as_str().unwrap().into(),
            kind,
            ssrc,
            rtp_parameters: parameters,
        }
    }
}

/// The `id` of something, which has another name in the newest dialect.
fn id_of(data: &Value, newest: &str) -> String {
    let id = data["id"].as_str().or(data[newest].as_str());
    id.unwrap().to_owned()
}

/// MID of a stream that is sent.
fn mid_of(kind: MediaKind) -> &'static str {
    if kind.is_audio() { "0" } else { "1" }
}

/// What is told of a stream that [`Media::send_stream`] sends.
pub fn rtp_parameters(kind: MediaKind, ssrc: u32) -> Value {
    let audio = kind.is_audio();
    let mid = mid_of(kind);
    if audio {
        json!({
            "mid": mid,
            "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000,
                "channels": 2, "parameters": {"useinbandfec": 1},
                "rtcpFeedback": [{"type": "transport-cc", "parameter": ""}]}],
            "headerExtensions": [
                {"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4, "encrypt": false, "parameters": {}},
                {"uri": "urn:ietf:params:rtp-hdrext:ssrc-audio-level", "id": 1, "encrypt": false, "parameters": {}}],
            "encodings": [{"ssrc": ssrc, "dtx": false}],
            "rtcp": {"cname": "test", "reducedSize": true},
        })
    } else {
        json!({
            "mid": mid,
            "codecs": [
                {"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
                 "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"},
                    {"type": "ccm", "parameter": "fir"}, {"type": "transport-cc", "parameter": ""}]},
                {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000,
                 "parameters": {"apt": 96}, "rtcpFeedback": []}],
            "headerExtensions": [
                {"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4, "encrypt": false, "parameters": {}},
                {"uri": "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", "id": 3, "encrypt": false, "parameters": {}}],
            "encodings": [{"ssrc": ssrc, "rtx": {"ssrc": ssrc + 1}}],
            "rtcp": {"cname": "test", "reducedSize": true},
        })
    }
}

/// Connects a transport: DTLS parameters to the server, ICE and DTLS towards it.
pub async fn connect(protoo: &mut Protoo, media: &Media, transport: &Value) {
    let data = json!({
        "transportId": transport["id"],
        "dtlsParameters": media.dtls_parameters(),
    });
    protoo
        .request("connectWebRtcTransport", data)
        .await
        .unwrap();
    media.connect(transport);
}

/// Where a transport of the server is, as it answered.
fn remote_of(transport: &Value) -> Remote {
    let fingerprints = transport["dtlsParameters"]["fingerprints"]
        .as_array()
        .unwrap();
    let sha256 = fingerprints
        .iter()
        .find(|f| f["algorithm"] == "sha-256")
        .unwrap();
    let candidate = &transport["iceCandidates"][0];
    let ip = candidate["ip"].as_str().unwrap();
    assert_eq!(candidate["address"], *ip);
    Remote {
        ufrag: transport["iceParameters"]["usernameFragment"]
            .as_str()
            .unwrap()
            .into(),
        password: transport["iceParameters"]["password"]
            .as_str()
            .unwrap()
            .into(),
        fingerprint: sha256["value"].as_str().unwrap().into(),
        address: format!("{ip}:{}", candidate["port"]).parse().unwrap(),
    }
}

/// Sends 50 audio packets a second, or 25 video frames of 3 packets, until
/// dropped. Keyframes come at the start and when asked for.
pub struct MediaSender {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    sent: Arc<AtomicU64>,
}

impl MediaSender {
    /// Packets that it has sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Client {
    pub fn start_sending(&self, kind: MediaKind, ssrc: u32) -> MediaSender {
        self.send.start_sending(kind, ssrc)
    }
}

impl Media {
    pub fn start_sending(&self, kind: MediaKind, ssrc: u32) -> MediaSender {
        let (stop, stopped) = channel::<()>();
        let jobs = self.jobs.clone().unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let thread = std::thread::spawn(move || {
            let (mut sequence, mut timestamp, mut seen) = (100u64, 7_000u32, 0usize);
            let mut first = true;
            let interval = Duration::from_millis(if kind.is_audio() { 20 } else { 40 });
            // recv_timeout is the pace; a closed channel ends it.
            while matches!(
                stopped.recv_timeout(interval),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            ) {
                let (done, answer) = channel();
                let start = first;
                let job: Job = Box::new(move |peer| {
                    let requests = peer.key_frame_requests.len();
                    let key = start || requests > seen;
                    for packet in frame(kind, sequence, timestamp, key) {
                        peer.write(ssrc, &packet, Instant::now());
                    }
                    let _ = done.send(requests);
                });
                if jobs.send(job).is_err() {
                    return;
                }
                let Ok(requests) = answer.recv() else { return };
                seen = requests;
                first = false;
                let audio = kind.is_audio();
                let packets = if audio { 1 } else { 3 };
                sequence += packets;
                counted.fetch_add(packets, Ordering::Relaxed);
                timestamp = timestamp.wrapping_add(if audio { 960 } else { 3_600 });
            }
        });
        MediaSender {
            stop: Some(stop),
            thread: Some(thread),
            sent,
        }
    }
}

impl Drop for MediaSender {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().unwrap().join();
    }
}

fn frame(kind: MediaKind, sequence: u64, timestamp: u32, key: bool) -> Vec<Packet> {
    if kind.is_audio() {
        return vec![Packet {
            pt: 111,
            sequence,
            timestamp,
            audio_level: Some(-30),
            payload: vec![0xFC; 80],
            ..Packet::default()
        }];
    }
    (0..3u64)
        .map(|part| {
            let mut payload = vec![if part == 0 { 0x10 } else { 0 }, u8::from(!key)];
            payload.resize(700, 0x5A);
            Packet {
                pt: 96,
                sequence: sequence + part,
                timestamp,
                marker: part == 2,
                nackable: true,
                payload,
                ..Packet::default()
            }
        })
        .collect()
}
