//! Calls through a real TURN server: coturn, with the arguments that
//! docker-compose.yml gives it, for pages that may send nothing any other way.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::{Browser, chromium};
use crate::clients::{NEWEST, Participant, SharedDriver};
use crate::driver::BrowserSlots;
use crate::lines::Lines;
use crate::server::{Options, Server, free_port, media_ports, wait_until};

const USER: &str = "everybody";
const PASS: &str = "one for all";
const SECRET: &str = "between server and coturn";

/// What coturn checks logins against.
#[derive(Clone, Copy)]
enum Logins {
    /// [`USER`] and [`PASS`].
    Fixed,
    /// This secret: those that expire, as deployed.
    From(&'static str),
}

/// A coturn on loopback; it ends with this value.
struct Turn {
    _process: Lines,
    port: u16,
    relays: RangeInclusive<u16>,
    _dir: TempDir,
}

/// The arguments of coturn in docker-compose.yml.
fn deployed_arguments() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, service) = text.split_once("\n  coturn:\n").unwrap();
    let (_, command) = service.split_once("    command:\n").unwrap();
    let lines = command.lines().map(str::trim);
    lines
        .take_while(|line| line.starts_with(['-', '#']))
        .filter_map(|line| line.strip_prefix("- "))
        .map(str::to_owned)
        .collect()
}

impl Turn {
    fn start(logins: Logins) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let first = media_ports();
        let relays = first..=first + 39;
        let mut arguments = Vec::new();
        for argument in deployed_arguments() {
            let name = argument.split('=').next().unwrap();
            arguments.push(match (name, logins) {
                ("--use-auth-secret", Logins::Fixed) => "--lt-cred-mech".to_owned(),
                ("--static-auth-secret", Logins::Fixed) => format!("--user={USER}:{PASS}"),
                ("--static-auth-secret", Logins::From(secret)) => format!("{name}={secret}"),
                ("--listening-port", _) => format!("{name}={port}"),
                ("--min-port", _) => format!("{name}={}", relays.start()),
                ("--max-port", _) => format!("{name}={}", relays.end()),
                ("--external-ip" | "--allowed-peer-ip", _) => format!("{name}=127.0.0.1"),
                _ => argument,
            });
        }
        let unknown = arguments.iter().find(|it| it.contains('$'));
        assert_eq!(unknown, None, "what docker-compose would put there");
        // What is different about loopback, and about not having a file system of
        // one's own.
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut command = Command::new("turnserver");
        command
            .args(arguments)
            .args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"])
            .arg("--allow-loopback-peers")
            .arg(format!("--pidfile={}", file("pid")))
            .arg(format!("--userdb={}", file("users")))
            // Its log is on standard output; this is about files that it has none of.
            .stderr(Stdio::null());
        let process = Lines::start(&mut command);
        wait_until("coturn listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            _process: process,
            port,
            relays,
            _dir: dir,
        }
    }

    /// A server that tells its clients about this one.
    fn server(&self, settings: &[(&str, &str)]) -> Server {
        let options = Options::new()
            .env("MEDIASOUP_NUM_WORKERS", 1)
            .env("MEDIASOUP_CLIENT_ICESERVER_HOST", "127.0.0.1")
            .env("MEDIASOUP_CLIENT_ICESERVER_PORT", self.port);
        let set = |options: Options, (name, value): &(&str, &str)| options.env(name, value);
        settings.iter().fold(options, set).start()
    }
}

/// A page with the newest mediasoup-client.
fn page(browser: &SharedDriver, id: &'static str) -> Participant {
    Participant::page(browser, id, NEWEST)
}

/// What the server knows of one of a page's transports.
pub fn transport_stats(page: &Participant, transport: &str) -> Value {
    let data = format!("{{ transportId: participant.{transport}.id }}");
    let request = format!("participant.peer.request('getTransportStats', {data})");
    page.evaluate(&request).unwrap()[0].clone()
}

/// The call page, and logins that expire.
#[test]
fn a_call_through_the_relay_alone() {
    let turn = Turn::start(Logins::From(SECRET));
    let server = turn.server(&[
        ("MEDIASOUP_CLIENT_ICESERVER_SECRET", SECRET),
        ("MEDIASOUP_CLIENT_ICESERVER_PROTO", "udp,tcp"),
    ]);
    let mut browser = Browser::start();
    browser.join(&server, "alice", "relayed", "&relay=1");
    browser.join(&server, "bob", "relayed", "&relay=1");
    for (page, other) in [("alice", "bob"), ("bob", "alice")] {
        let stats = browser.sees_and_hears(page, other);
        for direction in ["send", "recv"] {
            let transport = &stats["transports"][direction];
            assert_eq!(transport["local"], "relay", "{page}: {transport}");
        }
        assert_eq!(stats["errors"], json!([]), "{page}");
        let first = stats["timing"]["firstRemoteFrame"].as_f64().unwrap();
        let trip = stats["transports"]["recv"]["roundTripTime"]
            .as_f64()
            .unwrap();
        println!("figure: through coturn: page load to first decoded remote frame: {first:.0} ms");
        println!(
            "figure: through coturn: round trip: {:.1} ms",
            trip * 1000.0
        );
    }
}

/// One login for all, in the shape and by the words of the original; over TCP.
#[test]
fn the_originals_ice_server_is_enough() {
    let turn = Turn::start(Logins::Fixed);
    let server = turn.server(&[
        ("MEDIASOUP_CLIENT_ICESERVER_USER", USER),
        ("MEDIASOUP_CLIENT_ICESERVER_PASS", PASS),
        ("MEDIASOUP_CLIENT_ICESERVER_PROTO", "tcp"),
    ]);
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let [alice, bob] = ["alice", "bob"].map(|id| {
        let page = page(&browser, id);
        page.join_through(&server, "relayed", "iceServer".into());
        page.call("sendMedia", json!({"codec": "video/VP8"}));
        page
    });
    alice.sees_and_hears(&bob);
    bob.sees_and_hears(&alice);
    for page in [&alice, &bob] {
        assert_eq!(page.stats()["turnUsers"], json!([USER, USER]));
        // And the server hears of them from nowhere else.
        for transport in ["sendTransport", "recvTransport"] {
            let stats = transport_stats(page, transport);
            let port = &stats["iceSelectedTuple"]["remotePort"];
            let port = u16::try_from(port.as_u64().unwrap()).unwrap();
            assert!(turn.relays.contains(&port), "{stats:#}");
        }
    }
}

#[test]
fn an_expired_login_is_refused() {
    let turn = Turn::start(Logins::From(SECRET));
    let server = turn.server(&[
        ("MEDIASOUP_CLIENT_ICESERVER_SECRET", SECRET),
        ("MEDIASOUP_CLIENT_ICESERVER_TTL", "1"),
    ]);
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let alice = page(&browser, "alice");
    alice.join_through(&server, "expired", "iceServers".into());
    let users = alice.stats()["turnUsers"].as_array().unwrap().clone();
    let ends = users.iter().map(|user| {
        let (end, _) = user.as_str().unwrap().split_once(':').unwrap();
        end.parse::<u64>().unwrap()
    });
    // coturn counts whole seconds, and the last one still.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(ends.max().unwrap() + 1);
    wait_until("the login has expired", || SystemTime::now() > end);

    alice.call("sendMedia", json!({"codec": "video/VP8"}));
    let stats = alice.wait("told by the TURN server", |stats| {
        let errors = stats["iceErrors"].as_array().unwrap();
        errors.iter().any(|error| error["code"] == 401)
    });
    let url = format!("turn:127.0.0.1:{}?transport=udp", turn.port);
    let errors = stats["iceErrors"].as_array().unwrap();
    let refused = errors.iter().find(|error| error["code"] == 401).unwrap();
    assert_eq!(refused["url"], url, "{refused}");
    // No candidate is left to be tried, and the server has heard of none.
    let gathering = "participant.sendTransport.iceGatheringState";
    let gathered = || alice.evaluate(gathering).unwrap() == "complete";
    wait_until("all has been tried", gathered);
    assert_ne!(alice.stats()["connection"][0], "connected");
    let stats = transport_stats(&alice, "sendTransport");
    assert_eq!(stats["iceState"], "new", "{stats:#}");
    assert_eq!(stats["bytesReceived"], 0, "{stats:#}");
}

#[test]
fn the_page_says_that_the_login_is_no_good() {
    let turn = Turn::start(Logins::From("another secret"));
    let server = turn.server(&[("MEDIASOUP_CLIENT_ICESERVER_SECRET", SECRET)]);
    let mut browser = Browser::start();
    browser.join(&server, "alice", "refused", "&relay=1");
    browser.wait("alice", "is told of the login", |stats| {
        let errors = stats["errors"].as_array().unwrap();
        errors.iter().any(|error| {
            let text = error["message"].as_str().unwrap();
            text.contains("refused the login") && text.contains(&turn.port.to_string())
        })
    });
}

/// Whoever has a login gets to the media server, and nowhere else.
#[test]
fn the_relay_leads_to_the_server_alone() {
    let turn = Turn::start(Logins::From(SECRET));
    let output = Command::new("turnutils_uclient")
        .args(["-W", SECRET, "-u", "mallory", "-v", "-n", "1", "-m", "1"])
        .args(["-e", "127.0.0.9", "-r", "3480"])
        .args(["-p", &turn.port.to_string(), "127.0.0.1"])
        .output()
        .expect("coturn's own client: tests/run installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Received relay addr"), "{text}");
    assert!(text.contains("403 (Forbidden IP)"), "{text}");
    assert!(!output.status.success());
}
