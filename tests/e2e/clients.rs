//! Calls between clients that no one here wrote: mediasoup-client of three
//! generations in Chromium and in Firefox, pymediasoup, and mediasoup-client over
//! aiortc. Their programs and pages are in `tests/clients`.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::chromium;
use crate::driver::{BrowserSlots, Driver};
use crate::server::{DEADLINE, Options, Server};

/// Longest wait for a condition: real clients on a busy machine.
const PATIENCE: Duration = DEADLINE.saturating_mul(2);

/// Time after which a message that has not been heard is said again.
const SAY_AGAIN: Duration = Duration::from_secs(3);

/// Bytes of the largest message that the server takes.
const LARGEST_MESSAGE: u32 = 262_144;

/// The newest mediasoup-client that is tested.
pub const NEWEST: &str = "3.24.1";

pub type SharedDriver = Rc<RefCell<Driver>>;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The page of a version of mediasoup-client, built at first use.
fn page_url(version: &str) -> String {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let pages = BUILT.get_or_init(|| {
        let pages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        let status = Command::new("node")
            .arg("build.mjs")
            .arg(&pages)
            .current_dir(directory())
            .status()
            .expect("node is installed: tests/run installs it");
        assert!(status.success(), "tests/run installs what the pages need");
        pages
    });
    format!("file://{}/{version}.html", pages.display())
}

/// A helper of `tests/clients`.
pub fn program(interpreter: &Path, script: &str, server: &Server) -> SharedDriver {
    Rc::new(RefCell::new(Driver::start(command(
        interpreter,
        script,
        server,
    ))))
}

/// Firefox, with more preferences.
pub fn firefox(server: &Server, preferences: &Value) -> SharedDriver {
    let mut command = command(Path::new("node"), "firefox.mjs", server);
    command.env("FIREFOX_PREFERENCES", preferences.to_string());
    Rc::new(RefCell::new(Driver::start(command)))
}

fn command(interpreter: &Path, script: &str, server: &Server) -> Command {
    let certificate = server.dir().join("certs/fullchain.pem");
    let mut command = Command::new(interpreter);
    command
        .arg(script)
        .current_dir(directory())
        .env("PYTHON", python())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NODE_EXTRA_CA_CERTS", &certificate)
        .env("SSL_CERT_FILE", &certificate);
    command
}

/// The interpreter of the virtual environment with the pinned packages.
pub fn python() -> PathBuf {
    let python =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/clients-python/bin/python");
    assert!(python.exists(), "{}: tests/run makes it", python.display());
    python
}

/// Someone in a room: a page of a browser, or a program.
pub struct Participant {
    driver: SharedDriver,
    is_page: bool,
    id: &'static str,
}

impl Participant {
    /// A page in a browser with a version of mediasoup-client.
    pub fn page(browser: &SharedDriver, id: &'static str, version: &str) -> Self {
        let open = json!({"cmd": "open", "page": id, "url": page_url(version),
            "timeout": PATIENCE.as_millis()});
        browser.borrow_mut().try_command(open).unwrap();
        let page = Self {
            driver: browser.clone(),
            is_page: true,
            id,
        };
        let loaded = page.evaluate("mediasoupClientVersion").unwrap();
        assert_eq!(loaded, version);
        page
    }

    pub fn program(driver: SharedDriver, id: &'static str) -> Self {
        Self {
            driver,
            is_page: false,
            id,
        }
    }

    pub fn evaluate(&self, expression: &str) -> Result<Value, String> {
        let command = json!({"cmd": "eval", "page": self.id, "expression": expression,
            "timeout": PATIENCE.as_millis()});
        self.driver.borrow_mut().try_command(command)
    }

    /// Calls a method of the participant.
    pub fn call(&self, method: &str, argument: Value) -> Value {
        let result = if self.is_page {
            self.evaluate(&format!("participant.{method}({argument})"))
        } else {
            let command = json!({"cmd": method, "argument": argument});
            self.driver.borrow_mut().try_command(command)
        };
        result.unwrap_or_else(|error| {
            panic!(
                "{}: {method}({argument}): {error}\n{}",
                self.id,
                self.console()
            )
        })
    }

    fn console(&self) -> String {
        if !self.is_page {
            return String::new();
        }
        let command = json!({"cmd": "console", "page": self.id});
        format!("{:?}", self.driver.borrow_mut().try_command(command))
    }

    pub fn join(&self, server: &Server, room: &str) {
        self.join_through(server, room, Value::Null);
    }

    /// Joins, and uses nothing but the TURN servers in this field of the server's
    /// answers.
    pub fn join_through(&self, server: &Server, room: &str, turn: Value) {
        self.join_at(server.address(), room, turn);
    }

    /// Joins at another address of the server.
    pub fn join_at(&self, server: SocketAddr, room: &str, turn: Value) {
        let url = format!("wss://{server}/?roomId={room}&peerId={}", self.id);
        let argument = json!({"url": url, "displayName": self.display_name(), "turn": turn});
        let answer = self.call("join", argument);
        println!("{}: {}", self.id, answer["handler"]);
    }

    fn display_name(&self) -> String {
        format!("name of {}", self.id)
    }

    pub fn stats(&self) -> Value {
        self.call("stats", json!({}))
    }

    /// Waits until the statistics satisfy a condition.
    pub fn wait(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if holds(&stats) {
                return stats;
            }
            if Instant::now() > end {
                panic!(
                    "{}: {what}: not in time: {stats:#}\n{}",
                    self.id,
                    self.console()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until so much more of another participant has arrived: a count of
    /// packets or frames, or energy of sound.
    fn gets(&self, other: &Self, kind: &str, field: &str, more: f64) -> Value {
        let at = |stats: &Value| {
            consumer(stats, other.id, kind).map_or(0.0, |c| c[field].as_f64().unwrap())
        };
        let before = at(&self.stats());
        self.wait(&format!("{kind} {field} of {}", other.id), |stats| {
            at(stats) > before + more
        })
    }

    /// Waits until another participant's video is decoded and its sound is heard.
    pub fn sees_and_hears(&self, other: &Self) {
        let stats = self.gets(other, "video", "frames", 20.0);
        let width = &consumer(&stats, other.id, "video").unwrap()["width"];
        assert!(width.as_u64().unwrap() >= 160, "{width}");
        self.gets(other, "audio", "energy", 0.01);
    }

    /// Asks for a spatial layer of another participant's video; answers how wide it is.
    fn sees_layer(&self, other: &Self, layer: u8) -> u64 {
        self.call("prefer", json!({"peerId": other.id, "spatialLayer": layer}));
        let told = |stats: &Value| {
            consumer(stats, other.id, "video").is_some_and(|c| c["spatialLayer"] == layer)
        };
        self.wait(&format!("layer {layer} of {}", other.id), told);
        // Those of the layer before have been decoded by then.
        self.gets(other, "video", "frames", 20.0);
        let stats = self.gets(other, "video", "frames", 20.0);
        let video = consumer(&stats, other.id, "video").unwrap();
        video["width"].as_u64().unwrap()
    }

    /// Opens the data channels of mediasoup-demo.
    fn open_data_channels(&self) {
        self.call("produceData", json!({}));
    }

    /// Says something in the chat until it is heard: it goes unreliably, with one
    /// retransmission.
    fn chats(&self, others: &[&Self], message: &Value, heard: impl Fn(&Value) -> bool) {
        let mut message = message.clone();
        message["label"] = "chat".into();
        for other in others {
            other.wait(&format!("a data consumer of {}", self.id), |stats| {
                let consumers = stats["dataConsumers"].as_array().unwrap();
                consumers
                    .iter()
                    .any(|c| c["peerId"] == self.id && c["label"] == "chat")
            });
            let mut said = None;
            other.wait(&format!("{message}"), |stats| {
                let messages = stats["messages"].as_array().unwrap();
                let done = messages
                    .iter()
                    .any(|m| m["peerId"] == self.id && m["label"] == message["label"] && heard(m));
                if !done && said.is_none_or(|at: Instant| at.elapsed() > SAY_AGAIN) {
                    self.call("say", message.clone());
                    said = Some(Instant::now());
                }
                done
            });
        }
    }

    /// Says something in the chat, which the others hear, and to the bot, which
    /// answers.
    fn talks_to(&self, others: &[&Self]) {
        let text = format!("hello from {}", self.id);
        self.chats(others, &json!({"text": text}), |m| m["text"] == text);
        self.chats(others, &json!({"text": ""}), |m| m["text"] == "");
        let answer = format!("{} said me: \"{text}\"", self.display_name());
        self.call("say", json!({"label": "bot", "text": text}));
        self.wait(&format!("{answer:?}"), |stats| {
            let messages = stats["messages"].as_array().unwrap();
            messages
                .iter()
                .any(|m| m["peerId"] == Value::Null && m["label"] == "bot" && m["text"] == answer)
        });
    }

    /// Sends binary messages, an empty one and the largest one among them.
    fn sends_bytes_to(&self, others: &[&Self]) {
        for bytes in [0, 3_000, LARGEST_MESSAGE] {
            self.chats(others, &json!({"bytes": bytes}), |m| m["bytes"] == bytes);
        }
    }

    /// Nothing went wrong behind the scenes.
    pub fn is_content(&self) {
        let stats = self.stats();
        assert_eq!(stats["problems"], json!([]), "{}", self.id);
        if self.is_page {
            let command = json!({"cmd": "console", "page": self.id});
            let console = self.driver.borrow_mut().try_command(command).unwrap();
            let lines = console.as_array().unwrap();
            let errors: Vec<_> = lines.iter().filter(|l| l["type"] != "warning").collect();
            assert!(errors.is_empty(), "{}: {errors:?}", self.id);
        }
    }
}

/// What a participant receives from a peer.
fn consumer<'a>(stats: &'a Value, peer: &str, kind: &str) -> Option<&'a Value> {
    let consumers = stats["consumers"].as_array()?;
    consumers
        .iter()
        .find(|c| c["peerId"] == peer && c["kind"] == kind)
}

#[test]
fn three_generations_of_mediasoup_client_in_one_room() {
    let server = Server::start();
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let [newest, middle, oldest] = [
        (
            "newest",
            NEWEST,
            json!({"codec": "video/H264", "simulcast": true}),
        ),
        // Layers make Chromium offer more header extensions than there are
        // one-byte ids.
        (
            "middle",
            "3.18.7",
            json!({"codec": "video/VP8", "simulcast": true}),
        ),
        ("oldest", "3.7.16", json!({"codec": "video/VP9"})),
    ]
    .map(|(id, version, media)| {
        let page = Participant::page(&browser, id, version);
        page.join(&server, "generations");
        page.call("sendMedia", media);
        page.open_data_channels();
        page
    });
    for (one, other) in [(&newest, &middle), (&newest, &oldest), (&middle, &oldest)] {
        one.sees_and_hears(other);
        other.sees_and_hears(one);
    }
    for (from, to) in [
        (&newest, [&middle, &oldest]),
        (&middle, [&newest, &oldest]),
        (&oldest, [&newest, &middle]),
    ] {
        from.talks_to(&to);
        from.sends_bytes_to(&to);
    }

    // The newest and the middle one send layers, and everybody sounds.
    oldest.wait("told of layers, speakers and bitrates", |stats| {
        let told = &stats["notifications"];
        [
            "consumerLayersChanged",
            "activeSpeaker",
            "downlinkBwe",
            "consumerScore",
            "producerScore",
        ]
        .iter()
        .all(|method| told[*method].as_u64() >= Some(1))
    });

    // The oldest pauses its video: the others are told, and it comes back.
    for paused in [true, false] {
        oldest.call("setPaused", json!({"kind": "video", "paused": paused}));
        for other in [&newest, &middle] {
            other.wait("told of the pause", |stats| {
                consumer(stats, oldest.id, "video").is_some_and(|c| c["paused"] == paused)
            });
        }
    }
    newest.sees_and_hears(&oldest);
    middle.sees_and_hears(&oldest);

    // A restart of ICE on both transports: media goes on.
    for one in [&newest, &oldest] {
        one.call("restartIce", json!({}));
        one.sees_and_hears(&middle);
        middle.sees_and_hears(one);
    }

    oldest.call("leave", json!({}));
    for other in [&newest, &middle] {
        other.wait("the oldest has left", |stats| {
            consumer(stats, oldest.id, "video").is_none()
                && !stats["peers"]
                    .as_array()
                    .unwrap()
                    .contains(&oldest.id.into())
        });
        other.is_content();
    }
    newest.sees_and_hears(&middle);
}

#[test]
fn pymediasoup_calls_chromium() {
    let server = Server::start();
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let page = Participant::page(&browser, "browser", NEWEST);
    let python = Participant::program(program(&python(), "pymediasoup_peer.py", &server), "python");
    // What it finds there, and what comes later, goes to and from both.
    page.join(&server, "python");
    page.call("sendMedia", json!({"codec": "video/VP8"}));
    python.join(&server, "python");
    python.call("sendMedia", json!({}));
    page.sees_and_hears(&python);
    python.sees_and_hears(&page);
    // The server begins one of its handshakes, and answers the other.
    assert_eq!(python.stats()["dtlsRoles"], json!(["server", "client"]));
    for participant in [&page, &python] {
        participant.open_data_channels();
    }
    for (from, to) in [(&page, &python), (&python, &page)] {
        from.talks_to(&[to]);
        from.sends_bytes_to(&[to]);
    }

    page.call("setPaused", json!({"kind": "video", "paused": true}));
    page.call("setPaused", json!({"kind": "video", "paused": false}));
    python.wait("told of both", |stats| {
        let told = &stats["notifications"];
        told["consumerPaused"] == 1 && told["consumerResumed"] == 1
    });
    python.sees_and_hears(&page);
    for participant in [&page, &python] {
        participant.is_content();
    }
    python.call("leave", json!({}));
    page.wait("python has left", |stats| stats["consumers"] == json!([]));
}

/// mediasoup-client in Node over aiortc sends back what it receives: the page gets
/// its own picture and sound, which were decoded and encoded again on the way.
#[test]
fn aiortc_in_node_echoes_chromium() {
    let server = Server::start();
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let page = Participant::page(&browser, "browser", NEWEST);
    let node = program(Path::new("node"), "aiortc.mjs", &server);
    let node = Participant::program(node, "node");
    node.join(&server, "node");
    page.join(&server, "node");
    page.call("sendMedia", json!({"codec": "video/VP8"}));
    for kind in ["audio", "video"] {
        node.wait("a consumer", |stats| {
            consumer(stats, page.id, kind).is_some()
        });
        node.call("echo", json!({"kind": kind}));
    }
    page.sees_and_hears(&node);
    for participant in [&page, &node] {
        participant.open_data_channels();
    }
    // Its worker passes received bytes on as the text of a Python literal, in this
    // version: only texts go both ways.
    page.talks_to(&[&node]);
    node.talks_to(&[&page]);
    node.sends_bytes_to(&[&page]);
    for participant in [&page, &node] {
        participant.is_content();
    }
    node.call("leave", json!({}));
    page.wait("node has left", |stats| stats["consumers"] == json!([]));
}

/// An address of this machine that is not loopback: Firefox sends nothing to a
/// candidate on loopback.
pub fn own_address() -> IpAddr {
    // Nothing is sent: the kernel says which address it would send from.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .connect("192.0.2.1:9")
        .expect("this machine has an address that is not loopback");
    socket.local_addr().unwrap().ip()
}

#[test]
fn firefox_calls_chromium() {
    let address = own_address();
    let server = Options::new()
        .env("MEDIASOUP_LISTEN_IP", address)
        .env("MEDIASOUP_ANNOUNCED_IP", address)
        .start();
    let _slots = BrowserSlots::take(2);
    let firefox = program(Path::new("node"), "firefox.mjs", &server);
    let firefox = Participant::page(&firefox, "firefox", NEWEST);
    let browser = Rc::new(RefCell::new(chromium()));
    let chromium = Participant::page(&browser, "chromium", "3.18.7");
    firefox.join(&server, "firefox");
    firefox.call("sendMedia", json!({"simulcast": true}));
    chromium.join(&server, "firefox");
    chromium.call("sendMedia", json!({"codec": "video/VP8"}));
    firefox.sees_and_hears(&chromium);
    chromium.sees_and_hears(&firefox);
    // Firefox sends two sizes; each is to be had, and goes on moving.
    let widths = [0, 1, 0].map(|layer| chromium.sees_layer(&firefox, layer));
    println!("figure: Firefox's simulcast: widths {widths:?}");
    assert_eq!(widths[1], 2 * widths[0]);
    assert_eq!(widths[2], widths[0]);
    for participant in [&firefox, &chromium] {
        participant.open_data_channels();
    }
    for (from, to) in [(&firefox, &chromium), (&chromium, &firefox)] {
        from.talks_to(&[to]);
        from.sends_bytes_to(&[to]);
    }
    for participant in [&firefox, &chromium] {
        participant.is_content();
    }
    chromium.call("leave", json!({}));
    firefox.wait("chromium has left", |stats| stats["consumers"] == json!([]));
}
