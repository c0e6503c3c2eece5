//! Many clients at once that do everything in every order, without waiting for
//! answers, and go in every way: in the end nothing may be left, neither in the
//! control plane nor in the workers. A seed decides what each of them does; how
//! they meet is up to the machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::https;
use crate::protoo::Protoo;
use crate::server::{Options, Server, wait_until};

const ACTORS: u64 = 12;
const LIVES: u64 = 8;
const ROOMS: u64 = 3;

/// Producers and consumers that clients were told of: a race in which nothing
/// was made proves nothing.
static PRODUCED: AtomicUsize = AtomicUsize::new(0);
static CONSUMED: AtomicUsize = AtomicUsize::new(0);

/// What a client does next (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64, actor: u64) -> Self {
        let mixed = (seed << 32 | (actor + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(mixed | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }

    fn pick<'a>(&mut self, from: &'a [String]) -> Option<&'a String> {
        let n = u64::try_from(from.len()).unwrap();
        (n > 0).then(|| &from[usize::try_from(self.below(n)).unwrap()])
    }
}

/// What clients of the newest dialect want done without an answer.
const ACTIONS: [&str; 8] = [
    "closeProducer",
    "pauseProducer",
    "resumeProducer",
    "pauseConsumer",
    "resumeConsumer",
    "requestConsumerKeyFrame",
    "setConsumerPreferredLayers",
    "changeDisplayName",
];

/// One session: what it knows of what it has made.
struct Session {
    protoo: Protoo,
    /// It speaks the newest dialect.
    newest: bool,
    random: Random,
    next_id: u64,
    /// Methods of requests under way, by id.
    asked: Vec<(u64, &'static str)>,
    transports: Vec<String>,
    producers: Vec<String>,
    consumers: Vec<String>,
    capabilities: Value,
}

impl Session {
    async fn act(&mut self, step: u64) {
        // A client that never joins is of little interest.
        let choice = if step == 1 { 1 } else { self.random.below(22) };
        let transport = self.random.pick(&self.transports).cloned();
        let producer = self.random.pick(&self.producers).cloned();
        let consumer = self.random.pick(&self.consumers).cloned();
        let ssrc = 10_000 + self.random.below(1 << 30);
        let (method, data) = match choice {
            1 => ("join", self.join()),
            2..=4 => {
                let sends = self.random.below(2) == 0;
                let direction = if sends { "producer" } else { "consumer" };
                let data = if self.newest {
                    json!({"forceTcp": false, "appData": {"direction": direction}})
                } else {
                    json!({"forceTcp": false, "producing": sends, "consuming": !sends,
                        "sctpCapabilities": {"numStreams": {"OS": 1024, "MIS": 1024}}})
                };
                ("createWebRtcTransport", data)
            }
            5 => ("connectWebRtcTransport", connect(transport)),
            6..=8 => ("produce", produce(transport, ssrc)),
            9 => ("closeProducer", json!({"producerId": producer})),
            10 => ("pauseProducer", json!({"producerId": producer})),
            11 => ("resumeConsumer", json!({"consumerId": consumer})),
            12 => ("pauseConsumer", json!({"consumerId": consumer})),
            13 => ("produceData", produce_data(transport, ssrc)),
            14 => ("restartIce", json!({"transportId": transport})),
            15 => ("resumeProducer", json!({"producerId": producer})),
            16 => ("requestConsumerKeyFrame", json!({"consumerId": consumer})),
            17 => (
                "setConsumerPreferredLayers",
                json!({"consumerId": consumer, "spatialLayer": 0}),
            ),
            18 => ("getTransportStats", json!({"transportId": transport})),
            19 => ("getConsumerStats", json!({"consumerId": consumer})),
            20 => (
                "applyNetworkThrottle",
                json!({"secret": "s", "packetLoss": 10, "uplink": 1000}),
            ),
            _ => ("changeDisplayName", json!({"displayName": "another"})),
        };
        self.ask(method, data).await;
    }

    async fn ask(&mut self, method: &'static str, data: Value) {
        if self.newest && ACTIONS.contains(&method) {
            let action = json!({"notification": true, "method": method, "data": data});
            return self.protoo.send_unwelcome(&action.to_string()).await;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.asked.push((id, method));
        let request = json!({"request": true, "id": id, "method": method, "data": data});
        self.protoo.send_unwelcome(&request.to_string()).await;
    }

    fn join(&self) -> Value {
        json!({
            "displayName": "somebody", "device": {"flag": "test"},
            "rtpCapabilities": self.capabilities,
            "sctpCapabilities": {"numStreams": {"OS": 1024, "MIS": 1024}},
        })
    }

    /// Takes in what has come within a time. `Err`: the socket is closed.
    async fn listen(&mut self, time: Duration) -> Result<(), ()> {
        let end = tokio::time::Instant::now() + time;
        while let Some(left) = end.checked_duration_since(tokio::time::Instant::now()) {
            let Some(message) = self.protoo.next_within(left).await? else {
                return Ok(());
            };
            self.hear(&message).await;
        }
        Ok(())
    }

    async fn hear(&mut self, message: &Value) {
        if message["response"] == true {
            let at = self.asked.iter().position(|(id, _)| message["id"] == *id);
            let (_, method) = self.asked.remove(at.expect("an answer to a request"));
            self.note(method, message);
        } else if message["request"] == true {
            if message["method"] == "newConsumer" {
                let id = self.id_of(&message["data"], "consumerId");
                self.consumers.push(id);
                CONSUMED.fetch_add(1, Ordering::Relaxed);
            }
            let answer = match self.random.below(8) {
                0 => return,
                1 => json!({"response": true, "id": message["id"], "ok": false,
                    "errorCode": 400, "errorReason": "not today"}),
                _ => json!({"response": true, "id": message["id"], "ok": true, "data": {}}),
            };
            self.protoo.send_unwelcome(&answer.to_string()).await;
        }
    }

    fn note(&mut self, method: &str, message: &Value) {
        if message["ok"] != true {
            let reason = message["errorReason"].as_str().unwrap();
            assert!(!reason.contains("does not answer"), "{method}: {reason}");
            return;
        }
        let data = &message["data"];
        match method {
            "createWebRtcTransport" => self.transports.push(self.id_of(data, "transportId")),
            "produce" => {
                self.producers.push(self.id_of(data, "producerId"));
                PRODUCED.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// The id of something, which has its own name in the newest dialect.
    fn id_of(&self, data: &Value, newest: &str) -> String {
        let name = if self.newest { newest } else { "id" };
        data[name].as_str().unwrap().to_owned()
    }

    /// Goes in one of the ways that clients go.
    async fn end(mut self) {
        match self.random.below(4) {
            0 => {
                self.ask("leaveRoom", json!({})).await;
                while self.listen(Duration::from_secs(5)).await.is_ok() {}
            }
            1 => {
                // The last words and the end come at once.
                let transport = self.random.pick(&self.transports).cloned();
                self.ask("produce", produce(transport, 77)).await;
                self.ask("leaveRoom", json!({})).await;
            }
            2 => self.protoo.close().await,
            _ => {}
        }
    }
}

fn connect(transport: Option<String>) -> Value {
    let fingerprint = ["AB"; 32].join(":");
    json!({"transportId": transport, "dtlsParameters": {"role": "client", "fingerprints": [
        {"algorithm": "sha-256", "value": fingerprint}]}})
}

fn produce(transport: Option<String>, ssrc: u64) -> Value {
    json!({
        "transportId": transport, "kind": "video", "appData": {},
        "rtpParameters": {
            "codecs": [
                {"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
                 "rtcpFeedback": [{"type": "nack"}, {"type": "nack", "parameter": "pli"}]},
                {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000,
                 "parameters": {"apt": 96}, "rtcpFeedback": []}],
            "headerExtensions": [],
            "encodings": [{"ssrc": ssrc, "rtx": {"ssrc": ssrc + 1}}],
            "rtcp": {"cname": "races"},
        },
    })
}

fn produce_data(transport: Option<String>, number: u64) -> Value {
    let label = if number.is_multiple_of(2) {
        "chat"
    } else {
        "bot"
    };
    json!({
        "transportId": transport, "label": label, "protocol": "", "appData": {},
        "sctpStreamParameters": {"streamId": number % 8, "ordered": true},
    })
}

/// One life of a client; `Err`: it was replaced, or turned away.
async fn live(server: std::net::SocketAddr, capabilities: Value, mut random: Random) {
    let room = random.below(ROOMS);
    // Some share a name, so that they replace each other.
    let name = random.below(ACTORS * 2 / 3);
    let replicas = random.below(3);
    let newest = random.below(2) == 0;
    let dialect = if newest { "newest" } else { "seed" };
    let query = format!(
        "roomId=race{room}&peerId=peer{name}&consumerReplicas={replicas}&dialect={dialect}"
    );
    let Ok(protoo) = Protoo::connect(server, &query).await else {
        return;
    };
    let steps = 2 + random.below(30);
    let mut session = Session {
        protoo,
        newest,
        random,
        next_id: 1,
        asked: Vec::new(),
        transports: Vec::new(),
        producers: Vec::new(),
        consumers: Vec::new(),
        capabilities,
    };
    for step in 0..steps {
        session.act(step).await;
        let pause = match session.random.below(3) {
            0 => 0,
            1 => 2,
            _ => 20,
        };
        if session.listen(Duration::from_millis(pause)).await.is_err() {
            return;
        }
    }
    session.end().await;
}

/// The life of a broadcaster, whose room may not be there, or end under it, and
/// whose id another may have.
fn cast(room: &str, id: &str) {
    let body = json!({"id": id, "displayName": id, "device": {"name": "races"}});
    let base = format!("{room}/broadcasters");
    let post = |path: &str, body: Value| {
        let (status, answer) = https::request("POST", path, &[], &body.to_string());
        assert!(
            [200, 404, 409].contains(&status),
            "{path}: {status} {answer}"
        );
        (status == 200).then_some(answer)
    };
    if post(&base, body).is_none() {
        return;
    }
    let own = format!("{base}/{id}");
    if let Some(transport) = post(&format!("{own}/transports"), json!({"type": "webrtc"})) {
        let id = transport["id"].as_str().unwrap();
        let path = format!("{own}/transports/{id}");
        let mut media = produce(None, 4_000_000_000);
        media.as_object_mut().unwrap().remove("transportId");
        post(&format!("{path}/producers"), media);
        let stream = json!({"label": "chat", "sctpStreamParameters": {"streamId": 1}});
        post(&format!("{path}/produce/data"), stream);
    }
    let (status, answer) = https::request("DELETE", &own, &[], "");
    assert!([200, 404].contains(&status), "{status} {answer}");
}

/// Webhooks that were answered well.
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// Takes webhooks, and fails now and then; its URI.
fn receiver() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            // Who hangs up gets it again.
            let _ = answer(stream.unwrap(), index % 25 == 24);
        }
    });
    uri
}

/// Reads one POST and answers it.
fn answer(mut stream: TcpStream, fails: bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    let status = if fails { "503 No" } else { "204 Yes" };
    TOLD.fetch_add(usize::from(!fails), Ordering::Relaxed);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// The same over the newest API; some never join.
fn cast_newest(room: &str, id: &str, joins: bool) {
    let body = json!({"peerId": id, "displayName": id, "device": {"name": "races"}});
    let base = format!("{room}/broadcasters");
    let post = |path: &str, body: Value| {
        let (status, answer) = https::request("POST", path, &[], &body.to_string());
        assert!(
            [200, 201, 404, 409].contains(&status),
            "{path}: {status} {answer}"
        );
        (status < 300).then_some(answer)
    };
    if post(&base, body).is_none() {
        return;
    }
    let own = format!("{base}/{id}");
    let sends = json!({"type": "webrtc", "direction": "producer"});
    let transport = post(&format!("{own}/transports"), sends);
    if joins {
        post(&format!("{own}/join"), json!({}));
    }
    if let Some(transport) = transport {
        let transport = transport["transportId"].as_str().unwrap().to_owned();
        post(
            &format!("{own}/producers"),
            produce(Some(transport), 4_000_000_000),
        );
    }
    let (status, answer) = https::request("DELETE", &own, &[], "");
    assert!([204, 404].contains(&status), "{status} {answer}");
}

/// Whether nothing is there but so many rooms with one idle peer each.
fn is_empty(config: &Value, rooms: u64) -> bool {
    let workers = config["workers"].as_array().unwrap();
    let all = |kind: &str| -> u64 {
        let values = workers.iter().map(|w| w["stats"][kind].as_u64().unwrap());
        values.sum()
    };
    let media = ["transports", "producers", "consumers", "dataConsumers"];
    config["rooms"] == json!({"open": rooms, "joinedPeers": rooms, "quarantined": 0})
        && config["webhooks"]["queued"] == 0
        && all("routers") == rooms
        && media.iter().all(|kind| all(kind) == 0)
        // The bot of a room that was spoken to.
        && all("dataProducers") <= rooms
}

/// Waits until nothing is left but so many rooms.
pub fn wait_until_empty(server: &Server, seed: u64, rooms: u64) {
    let mut config = Value::Null;
    wait_until(&format!("empty tables, seed {seed}"), || {
        config = https::get(&server.url("/config")).1;
        is_empty(&config, rooms)
    });
    for worker in config["workers"].as_array().unwrap() {
        assert_eq!(worker["stats"]["panics"], 0, "seed {seed}");
        assert_eq!(worker["restarts"], 0, "seed {seed}");
    }
}

async fn race(server: &Server, seed: u64, receiver: &str) {
    let (_, body) = https::request("POST", &server.url("/rooms/capable"), &[], "");
    assert_eq!(body["roomId"], "capable", "seed {seed}: {body}");
    let (_, capabilities) = https::get(&server.url("/rooms/capable"));
    let address = server.address();
    let body = json!({"eventNotificationUri": receiver}).to_string();
    for room in 0..ROOMS {
        let url = server.url(&format!("/rooms/race{room}"));
        let (status, answer) = https::request("POST", &url, &[], &body);
        assert_eq!(status, 200, "seed {seed}: {answer}");
    }
    // With somebody who stays, rooms outlive what happens in them, and what a
    // room forgets to close is not closed with it.
    let mut stay = Vec::new();
    if seed % 2 == 1 {
        for room in 0..ROOMS {
            let query = format!("roomId=race{room}&peerId=stays");
            let mut protoo = Protoo::connect(address, &query).await.unwrap();
            let join = json!({"displayName": "stays", "device": {}});
            protoo.request("join", join).await.unwrap();
            stay.push(protoo);
        }
    }
    let actors = (0..ACTORS).map(|actor| {
        let capabilities = capabilities.clone();
        let url = server.url(&format!("/rooms/race{}", actor % ROOMS));
        let body = body.clone();
        tokio::spawn(async move {
            let mut random = Random::new(seed, actor);
            for _ in 0..LIVES {
                if random.below(6) == 0 {
                    let (url, body) = (url.clone(), body.clone());
                    let made = move || https::request("POST", &url, &[], &body).0;
                    let status = tokio::task::spawn_blocking(made).await.unwrap();
                    assert!([200, 500].contains(&status), "{status}");
                }
                if random.below(6) == 0 {
                    let id = format!("caster{}", random.below(4));
                    let (newest, joins) = (random.below(2) == 0, random.below(4) > 0);
                    let room = url.clone();
                    let casting = move || match newest {
                        true => cast_newest(&room.replace("/rooms/", "/v2/rooms/"), &id, joins),
                        false => cast(&room, &id),
                    };
                    tokio::task::spawn_blocking(casting).await.unwrap();
                }
                let next = Random(random.below(u64::MAX) | 1);
                live(address, capabilities.clone(), next).await;
            }
        })
    });
    let actors: Vec<_> = actors.collect();
    for actor in actors {
        actor
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    wait_until_empty(server, seed, u64::try_from(stay.len()).unwrap());
    drop(stay);
    wait_until_empty(server, seed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_clients_do_at_once_nothing_is_left() {
    let seeds = std::env::var("RACE_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("ROOM_EMPTY_TIMEOUT", 1)
        .env("NETWORK_THROTTLE_SECRET", "s")
        .env("RUST_BACKTRACE", 1)
        .start();
    let receiver = receiver();
    for seed in 1..=seeds.unwrap_or(3) {
        race(&server, seed, &receiver).await;
    }
    let told = TOLD.load(Ordering::Relaxed);
    let counts = https::get(&server.url("/config")).1["webhooks"].clone();
    assert!(told > 10, "{counts}");
    assert_eq!(counts["delivered"], told);
    assert_eq!(
        (&counts["dropped"], &counts["undelivered"]),
        (&json!(0), &json!(0))
    );
    let made = (
        PRODUCED.load(Ordering::Relaxed),
        CONSUMED.load(Ordering::Relaxed),
    );
    println!(
        "figure: races with {} producers and {} consumers",
        made.0, made.1
    );
    assert!(made.0 > 50 && made.1 > 50, "{made:?}");
    let log = server.log();
    assert!(!log.contains("panic"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_come_at_the_same_moment_meet_in_one_room() {
    let server = Server::start();
    for round in 0..20 {
        let come = async |name: &str| {
            let query = format!("roomId=meet{round}&peerId={name}");
            let mut protoo = Protoo::connect(server.address(), &query).await.unwrap();
            let join = json!({"displayName": name, "device": {}});
            let joined = protoo.request("join", join).await.unwrap();
            (protoo, joined["peers"].as_array().unwrap().len())
        };
        let ((mut a, seen_by_a), (mut b, seen_by_b)) = tokio::join!(come("a"), come("b"));
        assert_eq!(seen_by_a + seen_by_b, 1, "round {round}");
        let (first, other) = match seen_by_a {
            0 => (&mut a, "b"),
            _ => (&mut b, "a"),
        };
        assert_eq!(first.notification("newPeer").await["id"], other);
    }
}
