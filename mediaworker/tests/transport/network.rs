//! A virtual network with a virtual clock: one engine, some peers, and packets
//! under way that can be lost, delayed, reordered and repeated. The same seed
//! gives the same run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mediaworker::engine::{AnnouncedAddress, ConnectionNote, Engine, EngineConfig};
use mediaworker::transport::{ConnectionKey, Datagram, PacketKind, Protocol, Tuple};
use slotmap::KeyData;
use test_peer::{Peer, PeerConfig, Remote};

pub const PORT: u16 = 40_000;

/// The server's only address.
pub fn server_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], PORT))
}

/// What the network does to packets.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Time under way.
    pub delay: Duration,
    /// Up to this much more, at random: more than the distance of two packets
    /// reorders.
    pub jitter: Duration,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
}

impl Conditions {
    pub const PERFECT: Self = Self {
        loss: 0.0,
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        duplicate: 0.0,
    };
    pub const BAD: Self = Self {
        loss: 0.05,
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(15),
        duplicate: 0.01,
    };
}

/// A TCP connection; the network knows nothing of them but their numbers.
pub fn connection(number: usize) -> ConnectionKey {
    KeyData::from_ffi(number as u64).into()
}

enum To {
    Server { from: SocketAddr, over: Protocol },
    Peer(usize),
}

/// A client in the network.
pub struct Client {
    pub peer: Peer,
    /// Where the network sees it; a NAT may change that.
    pub address: SocketAddr,
    /// How it sends, and can be reached.
    pub over: Protocol,
    /// Nothing goes to it or comes from it.
    pub cut: bool,
    /// What becomes of a datagram that it sends; without it, that one.
    pub on_its_way: Option<OnItsWay>,
    /// Octets that have reached it.
    pub reached: usize,
    /// How fast it can be reached; without it, at once.
    pub downlink: Option<Link>,
    /// It tells of each packet whether it came (transport-cc), not by REMB alone what
    /// it can receive.
    pub transport_cc: bool,
}

type OnItsWay = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>>;

/// A link of a limited rate with a queue in front of it, which drops what does not
/// fit (as tbf does).
#[derive(Debug, Clone)]
pub struct Link {
    /// Bits per second, UDP and IP headers included.
    pub rate: u64,
    /// Longest time that a packet waits.
    pub queue: Duration,
    /// When the last packet will have passed.
    free: Instant,
    /// Packets dropped.
    pub dropped: usize,
}

impl Link {
    pub fn new(now: Instant, rate: u64, queue: Duration) -> Self {
        Self {
            rate,
            queue,
            free: now,
            dropped: 0,
        }
    }

    /// How long a packet waits that comes now.
    pub fn waits(&self, now: Instant) -> Duration {
        self.free.saturating_duration_since(now)
    }

    /// How long a packet takes from now on; `None` when it is dropped.
    fn pass(&mut self, now: Instant, len: usize) -> Option<Duration> {
        let waits = self.waits(now);
        if waits > self.queue {
            self.dropped += 1;
            return None;
        }
        let bits = (len as u64 + 28) * 8;
        self.free = now + waits + Duration::from_nanos(bits * 1_000_000_000 / self.rate);
        Some(self.free - now)
    }
}

/// How long the worker leaves feedback unread at most, and what that begins with.
const FEEDBACK_WAITS: Duration = Duration::from_millis(25);
const FEEDBACK: &[u8; 2] = &[0x8f, 205];

/// What a look finds, and when it came.
type Found = (Instant, Datagram);

pub struct Network {
    pub now: Instant,
    pub start: Instant,
    pub engine: Engine,
    pub clients: Vec<Client>,
    pub conditions: Conditions,
    pub events: Vec<proto::event::Event>,
    /// Share of DTLS records, which carry SCTP, that are lost on the way to the
    /// server and from it, 0 to 1.
    pub data_loss: [f64; 2],
    /// RTP packets that the network lost on the way to the server.
    pub lost: usize,
    /// What plain transports have sent.
    pub plain: Vec<(Tuple, Vec<u8>)>,
    /// Ticks go by [`measured_tick`].
    pub measured: bool,
    /// New clients have a TCP connection each, and new transports offer nothing else.
    pub over_tcp: bool,
    /// How long the engine waits from one look at its sockets to the next; it is told when what
    /// it finds came.
    pub looks_every: Duration,
    /// What has come since the last look, and when that was.
    found: Vec<Found>,
    looked: Instant,
    /// The same of feedback of receivers.
    feedback: Vec<Found>,
    read_feedback: Instant,
    /// What the engine has told of connections.
    pub notes: Vec<ConnectionNote>,
    under_way: BTreeMap<(Instant, u64), (To, Vec<u8>)>,
    order: u64,
    random: u64,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        let engine = Engine::new(EngineConfig {
            announced: vec![AnnouncedAddress("10.0.0.1".into())],
            udp_port: PORT,
            tcp: true,
        })
        .unwrap();
        Self {
            now,
            start: now,
            engine,
            clients: Vec::new(),
            conditions: Conditions::PERFECT,
            events: Vec::new(),
            data_loss: [0.0; 2],
            lost: 0,
            plain: Vec::new(),
            measured: false,
            over_tcp: false,
            looks_every: Duration::ZERO,
            feedback: Vec::new(),
            read_feedback: now,
            found: Vec::new(),
            looked: now,
            notes: Vec::new(),
            under_way: BTreeMap::new(),
            order: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// A number in 0..1 (xorshift).
    pub fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn add_client(&mut self, config: &PeerConfig) -> usize {
        let id = self.clients.len();
        let address = SocketAddr::from(([10, 0, 1, 1], 5000 + u16::try_from(id).unwrap()));
        // Its SCTP gets empty messages right, which str0m's own does not.
        let crypto = mediaworker::transport::crypto::provider().clone();
        let peer = Peer::with_crypto(self.now, config, address, crypto);
        self.clients.push(Client {
            peer,
            address,
            over: match self.over_tcp {
                true => Protocol::Tcp(connection(id + 1)),
                false => Protocol::Udp,
            },
            cut: false,
            on_its_way: None,
            reached: 0,
            downlink: None,
            transport_cc: true,
        });
        id
    }

    /// Creates a transport for a client and starts ICE and DTLS on both sides.
    pub fn connect(&mut self, client: usize, transport: &str, producing: bool) {
        let created = self.create_transport(transport, producing);
        self.connect_to(client, transport, &created, true);
    }

    pub fn create_transport(
        &mut self,
        transport: &str,
        producing: bool,
    ) -> proto::CreateWebRtcTransportResponse {
        self.create_transport_with(transport, producing, None)
    }

    pub fn create_transport_with(
        &mut self,
        transport: &str,
        producing: bool,
        sctp: Option<proto::SctpOptions>,
    ) -> proto::CreateWebRtcTransportResponse {
        self.engine
            .create_web_rtc_transport(&proto::CreateWebRtcTransportRequest {
                router_id: "room".into(),
                transport_id: transport.into(),
                producing,
                consuming: !producing,
                sctp,
                force_tcp: self.over_tcp,
                ..Default::default()
            })
            .unwrap()
    }

    /// `active`: the client takes the DTLS client's role.
    pub fn connect_to(
        &mut self,
        client: usize,
        transport: &str,
        created: &proto::CreateWebRtcTransportResponse,
        active: bool,
    ) {
        let peer = &mut self.clients[client].peer;
        let fingerprint = peer.fingerprint();
        peer.connect(&remote(created), active).unwrap();
        let role = if active {
            proto::DtlsRole::Client
        } else {
            proto::DtlsRole::Server
        };
        self.connect_server(transport, "sha-256", &fingerprint, role);
    }

    pub fn connect_server(
        &mut self,
        transport: &str,
        algorithm: &str,
        fingerprint: &str,
        role: proto::DtlsRole,
    ) {
        let request = proto::ConnectWebRtcTransportRequest {
            transport_id: transport.into(),
            role: role.into(),
            fingerprint: Some(proto::DtlsFingerprint {
                algorithm: algorithm.into(),
                value: fingerprint.into(),
            }),
        };
        self.engine
            .connect_web_rtc_transport(self.now, &request)
            .unwrap();
    }

    /// Runs until a condition holds; fails after a virtual deadline.
    pub fn run_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = self.now + Duration::from_secs(20);
        while !holds(self) {
            assert!(self.now < deadline, "not within 20 s: {what}");
            self.step(Duration::from_millis(1));
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(Duration::from_millis(1));
        }
    }

    /// One tick, as the worker's event loop has it.
    pub fn step(&mut self, by: Duration) {
        self.now += by;
        let now = self.now;
        let due: Vec<_> = {
            let later = self.under_way.split_off(&(now, u64::MAX));
            std::mem::replace(&mut self.under_way, later)
                .into_iter()
                .collect()
        };
        for ((came, _), (to, datagram)) in due {
            match to {
                To::Server { from, over } => {
                    let tuple = Tuple {
                        remote: from,
                        local: server_address().ip(),
                        protocol: over,
                    };
                    let found = match (over, datagram.first_chunk()) {
                        (Protocol::Udp, Some(FEEDBACK)) => &mut self.feedback,
                        _ => &mut self.found,
                    };
                    found.push((came, (tuple, datagram)));
                }
                To::Peer(client) => {
                    let client = &mut self.clients[client];
                    client.reached += datagram.len();
                    client.peer.receive(now, &datagram);
                }
            }
        }
        let mut datagrams = Vec::new();
        let tick = if self.measured { measured_tick } else { tick };
        let mut found = match now.saturating_duration_since(self.looked) >= self.looks_every {
            true => std::mem::take(&mut self.found),
            false => Vec::new(),
        };
        if !found.is_empty() {
            self.looked = now;
        }
        if now.saturating_duration_since(self.read_feedback) >= FEEDBACK_WAITS {
            self.read_feedback = now;
            found.append(&mut self.feedback);
        }
        tick(&mut self.engine, now, &found, &mut datagrams);
        for (tuple, datagram) in datagrams {
            if matches!(tuple.protocol, Protocol::OwnPort(_)) {
                self.plain.push((tuple, datagram));
                continue;
            }
            assert_eq!(tuple.local, server_address().ip());
            let client = self
                .clients
                .iter()
                .position(|c| (c.address, c.over) == (tuple.remote, tuple.protocol) && !c.cut);
            // To an address that nobody has any more: lost.
            if let Some(client) = client {
                self.send(To::Peer(client), datagram);
            }
        }
        self.notes.extend(self.engine.take_connection_notes());
        while let Some(event) = self.engine.poll_event() {
            assert_eq!(event.router_id, "room");
            self.events.extend(event.event);
        }
        for id in 0..self.clients.len() {
            let client = &mut self.clients[id];
            client.peer.advance(now);
            let (from, over, cut) = (client.address, client.over, client.cut);
            while let Some(datagram) = self.clients[id].peer.poll_datagram() {
                if cut {
                    continue;
                }
                let datagrams = match &mut self.clients[id].on_its_way {
                    Some(change) => change(datagram),
                    None => vec![datagram],
                };
                for datagram in datagrams {
                    self.send(To::Server { from, over }, datagram);
                }
            }
        }
    }

    fn send(&mut self, to: To, datagram: Vec<u8>) {
        let kind = PacketKind::of(&datagram);
        let data_loss = match to {
            To::Server { .. } => self.data_loss[0],
            To::Peer(_) => self.data_loss[1],
        };
        let lossy = kind == Some(PacketKind::Dtls) && data_loss > 0.0;
        if lossy && self.random() < data_loss {
            return;
        }
        let is_rtp = kind == Some(PacketKind::Rtp);
        if is_rtp && self.random() < self.conditions.loss {
            if matches!(to, To::Server { .. }) {
                self.lost += 1;
            }
            return;
        }
        let mut queued = Duration::ZERO;
        if let To::Peer(client) = to
            && let Some(link) = &mut self.clients[client].downlink
        {
            let Some(time) = link.pass(self.now, datagram.len()) else {
                return;
            };
            queued = time;
        }
        let copies = if self.random() < self.conditions.duplicate {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let jitter = self.conditions.jitter.mul_f64(self.random());
            let at = self.now + queued + self.conditions.delay + jitter;
            self.order += 1;
            let to = match &to {
                To::Server { from, over } => To::Server {
                    from: *from,
                    over: *over,
                },
                To::Peer(client) => To::Peer(*client),
            };
            self.under_way
                .insert((at, self.order), (to, datagram.clone()));
        }
    }

    pub fn closed_reason(&self, transport: &str) -> Option<&str> {
        self.events.iter().find_map(|event| match event {
            proto::event::Event::TransportClosed(closed) if closed.transport_id == transport => {
                Some(closed.reason.as_str())
            }
            _ => None,
        })
    }
}

/// One tick, as the worker's event loop has it.
fn pass(
    engine: &mut Engine,
    now: Instant,
    found: &[Found],
    mut leave: impl FnMut(&mut Vec<Datagram>),
) {
    for (came, (tuple, datagram)) in found {
        engine.receive_late(now, *came, *tuple, datagram);
    }
    engine.flush(now, &mut leave);
    engine.handle_timeouts(now);
    engine.flush(now, &mut leave);
    engine.send_off(leave);
}

/// The engine uses its buffers again.
fn tick(engine: &mut Engine, now: Instant, found: &[Found], out: &mut Vec<Datagram>) {
    pass(engine, now, found, |it| out.extend_from_slice(it));
}

/// The same without copies. What is measured is found by this name, so nothing else is
/// called so, and it is not inlined.
#[inline(never)]
fn measured_tick(engine: &mut Engine, now: Instant, found: &[Found], out: &mut Vec<Datagram>) {
    pass(engine, now, found, |it| out.append(it));
}

/// The server's transport as a client sees it.
pub fn remote(created: &proto::CreateWebRtcTransportResponse) -> Remote {
    let ice = created.ice_parameters.clone().unwrap();
    let fingerprint = created
        .dtls_fingerprints
        .iter()
        .find(|f| f.algorithm == "sha-256")
        .unwrap();
    Remote {
        ufrag: ice.username_fragment,
        password: ice.password,
        fingerprint: fingerprint.value.clone(),
        address: server_address(),
    }
}
