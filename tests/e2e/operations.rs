//! What operators do to a server while it runs, and before.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::client::Client;
use crate::https;
use crate::protoo::Protoo;
use crate::server::{DEADLINE, Options, Server, free_port, media_ports, wait_until};

const EC: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1";
const RSA: &str = "rsa:2048";
const ED25519: &str = "ed25519";

/// Makes another pair in the files of the server.
fn rotate(dir: &Path, key: &str) {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey {key} -nodes -keyout privkey.pem -out fullchain.pem -subj /CN=a \
             -days 1"
        ),
    );
}

fn openssl(dir: &Path, arguments: &str) {
    let status = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(status.success(), "openssl {arguments}");
}

fn server_with_own_pair() -> Server {
    let options = Options::new().env("MEDIASOUP_NUM_WORKERS", 1);
    rotate(options.dir(), EC);
    options
        .env("HTTPS_CERT_FULLCHAIN", "fullchain.pem")
        .env("HTTPS_CERT_PRIVKEY", "privkey.pem")
        .start()
}

fn certificate_in(dir: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(dir.join("fullchain.pem")).unwrap()
}

/// The certificate that a new connection gets.
async fn served(server: &Server) -> CertificateDer<'static> {
    let stream = https::connect(server.address()).await;
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Waits until new connections get the certificate of the files; each of those
/// until then has to work too.
async fn until_served(server: &Server) {
    let want = certificate_in(server.dir());
    let wait = async {
        while served(server).await != want {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("the new certificate is never served");
}

/// A request over a connection that stays open.
async fn get_health(stream: &mut TlsStream<TcpStream>) {
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"ok\"}") {
        let byte = tokio::time::timeout(DEADLINE, stream.read_u8()).await;
        answer.push(byte.expect("an answer").unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_new_certificates_disturb_no_connection() {
    let mut server = server_with_own_pair();
    let mut open = https::connect(server.address()).await;
    let mut peer = Protoo::connect(server.address(), "roomId=room&peerId=alice")
        .await
        .unwrap();
    for round in 0..50 {
        let kinds = [EC, ED25519, EC, RSA, EC];
        rotate(server.dir(), kinds[round % kinds.len()]);
        server.signal(Signal::SIGHUP);
        until_served(&server).await;
        get_health(&mut open).await;
        let answer = peer.request("getRouterRtpCapabilities", json!({})).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    let log = server.log();
    assert_eq!(log.matches("certificate reloaded").count(), 50, "{log}");
    assert!(!log.contains("is kept"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_need_no_signal() {
    let server = server_with_own_pair();
    rotate(server.dir(), RSA);
    until_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_new_certificate_is_told_in_one_line_and_not_served() {
    let mut server = server_with_own_pair();
    let good = served(&server).await;
    let pair = ["fullchain.pem", "privkey.pem"].map(|name| server.dir().join(name));
    let key = std::fs::read(&pair[1]).unwrap();
    std::fs::write(&pair[1], "garbage").unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_line("the certificate in use is kept");
    assert!(line.contains("HTTPS_CERT_PRIVKEY: "), "{line}");
    assert_eq!(served(&server).await, good);
    // Once for each state of the files, not at every look.
    std::fs::remove_file(&pair[0]).unwrap();
    server.wait_for_line("HTTPS_CERT_FULLCHAIN: cannot read");
    std::fs::write(&pair[1], key).unwrap();
    rotate(server.dir(), EC);
    until_served(&server).await;
    let log = server.log();
    for reason in ["no private key in PEM", "cannot read"] {
        assert_eq!(log.matches(reason).count(), 1, "{log}");
    }
}

#[test]
fn an_expired_certificate_is_told() {
    let expired = |options: Options| {
        let dir = options.dir().to_owned();
        rotate(&dir, EC);
        openssl(
            &dir,
            "req -new -key privkey.pem -out request.csr -subj /CN=a",
        );
        let sign = "x509 -req -in request.csr -signkey privkey.pem -days -1 -out fullchain.pem";
        openssl(&dir, sign);
        options
            .env("HTTPS_CERT_FULLCHAIN", "fullchain.pem")
            .env("HTTPS_CERT_PRIVKEY", "privkey.pem")
    };
    let mut server = expired(Options::new().env("MEDIASOUP_NUM_WORKERS", 1)).start();
    let note = "the certificate fullchain.pem has expired";
    server.wait_for_line(&format!("WARN control::run: {note}"));
    server.wait_for_line(&format!("  {note}"));

    let (status, stdout, _) = expired(check()).run();
    assert_eq!(status.code(), Some(0));
    assert!(stdout.contains(&format!("note: {note}")), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_for_machines_is_json_from_end_to_end() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("LOG_FORMAT", "json")
        .env("LOG_LEVEL", "debug")
        .start();
    // A worker has something to say about a client that comes.
    let _alice = Client::join(server.address(), "room", "alice").await;
    server.wait_for_line("\"target\":\"mediaworker\"");
    server.signal(Signal::SIGINT);
    assert!(server.wait_for_end(DEADLINE).is_some());
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let ready = lines.iter().find(|l| l["message"] == "the server is ready");
    let workers = ready.unwrap()["workers"].as_str().unwrap();
    assert!(workers.contains("mediaworker-0"), "{workers}");
    for line in lines.iter().filter(|l| l["target"] == "mediaworker") {
        assert_eq!(line["worker"], 0, "{line}");
    }
}

#[test]
fn a_start_that_fails_is_told_in_the_format_of_the_log() {
    // An address of documentation (RFC 5737): no machine has it.
    let (status, text) = Options::new()
        .env("LOG_FORMAT", "json")
        .env("PROTOO_LISTEN_IP", "192.0.2.1")
        .env("MEDIASOUP_LISTEN_IP", "127.0.0.1")
        .refused();
    assert_eq!(status.code(), Some(1));
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR");
    let message = last["message"].as_str().unwrap();
    assert!(message.starts_with("PROTOO_LISTEN_IP: "), "{message}");
}

fn allowed_cpus(pid: nix::unistd::Pid) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

#[test]
fn workers_run_where_the_operator_wants_them() {
    let everywhere = allowed_cpus(nix::unistd::getpid());
    let last = everywhere.rsplit([',', '-']).next().unwrap();
    let mut server = Options::new()
        .env("MEDIASOUP_WORKER_CPUS", last)
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .start();
    for (_, pid) in server.workers() {
        assert_eq!(allowed_cpus(pid), last);
    }
    server.wait_for_line("more than the 1 CPU in MEDIASOUP_WORKER_CPUS");
    // As does the one that replaces another.
    let first = server.workers()[0].1;
    nix::sys::signal::kill(first, Signal::SIGKILL).unwrap();
    wait_until("another worker", || {
        let (_, config) = https::get(&server.url("/config"));
        let worker = &config["workers"][0];
        worker["restarts"] == 1 && worker["ready"] == true
    });
    assert_eq!(server.workers().len(), 2);
    assert_eq!(allowed_cpus(server.workers()[0].1), last);

    let server = Options::new()
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .start();
    assert_eq!(allowed_cpus(server.workers()[0].1), everywhere);

    let (status, text) = Options::new()
        .env("MEDIASOUP_WORKER_CPUS", "1023")
        .refused();
    assert!(!status.success());
    let want = format!("which are {everywhere}\n");
    assert!(
        text.starts_with("MEDIASOUP_WORKER_CPUS=\"1023\" "),
        "{text}"
    );
    assert!(text.ends_with(&want), "{text}");
}

#[test]
fn a_file_configures_the_server() {
    let options = Options::new();
    let file = "mediasoup_num_workers = 2\nROOM_MAX_PEERS = 7\nrust_log = \"warn\"\n";
    std::fs::write(options.dir().join("server.toml"), file).unwrap();
    let server = options
        .arg("--config")
        .arg("server.toml")
        .arg("--rust-log=info")
        .env("ROOM_MAX_PEERS", 8)
        .start();
    assert_eq!(server.workers().len(), 2);
    let (_, answer) = https::get(&server.url("/config"));
    let config = &answer["config"];
    assert_eq!(config["rooms"]["maxPeers"], 8);
    let sources = &config["sources"];
    assert_eq!(sources["MEDIASOUP_NUM_WORKERS"], "file");
    assert_eq!(sources["ROOM_MAX_PEERS"], "environment");
    assert_eq!(sources["RUST_LOG"], "flag");
    assert_eq!(sources["LOG_LEVEL"], "default");
}

/// A check on loopback and few ports.
fn check() -> Options {
    let min = media_ports();
    Options::new()
        .arg("check")
        .env("PROTOO_LISTEN_IP", "127.0.0.1")
        .env("PROTOO_LISTEN_PORT", free_port())
        .env("MEDIASOUP_LISTEN_IP", "127.0.0.1")
        .env("MEDIASOUP_MIN_PORT", min)
        .env("MEDIASOUP_MAX_PORT", min + 7)
        .env("MEDIASOUP_NUM_WORKERS", 2)
}

#[test]
fn a_check_of_a_good_configuration_says_so_and_leaves_nothing() {
    let options = check();
    let (status, stdout, stderr) = options.run();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stdout.ends_with("configuration is valid\n"), "{stdout}");
    assert_eq!(stderr, "");
    assert_eq!(std::fs::read_dir(options.dir()).unwrap().count(), 0);

    let options = check()
        .env("HTTPS_CERT_FULLCHAIN", "fullchain.pem")
        .env("HTTPS_CERT_PRIVKEY", "privkey.pem");
    rotate(options.dir(), EC);
    let (status, _, stderr) = options.run();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[test]
fn a_start_with_taken_ports_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (min, slice) = full_slice();
    for (name, value, more) in [
        ("PROTOO_LISTEN_PORT", port, min + 4),
        ("MEDIASOUP_MIN_PORT", min, min + 3),
    ] {
        let (status, text) = Options::new()
            .env("MEDIASOUP_NUM_WORKERS", 1)
            .env("PROTOO_LISTEN_IP", "127.0.0.1")
            .env("MEDIASOUP_LISTEN_IP", "127.0.0.1")
            .env(
                "PROTOO_LISTEN_PORT",
                if name.starts_with('P') {
                    port
                } else {
                    free_port()
                },
            )
            .env("MEDIASOUP_MIN_PORT", min)
            .env("MEDIASOUP_MAX_PORT", more)
            .refused();
        assert_eq!(status.code(), Some(1), "{text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(
            last.contains(name) && last.contains(&value.to_string()),
            "{text}"
        );
    }
    drop((taken, slice));
}

#[test]
fn a_start_that_cannot_write_its_certificate_names_the_place() {
    // The superuser may write everywhere, unless that is taken from him.
    let superuser = nix::unistd::geteuid().is_root();
    let options = |command: fn() -> Options| match superuser {
        true => command().through("setpriv --bounding-set=-dac_override --"),
        false => command(),
    };
    for command in [Options::new, check] {
        let options = options(command).env("MEDIASOUP_LISTEN_IP", "127.0.0.1");
        let closed = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(options.dir(), closed).unwrap();
        let (status, _, text) = options.run();
        assert_eq!(status.code(), Some(1), "{text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("HTTPS_CERT_FULLCHAIN"), "{text}");
        assert!(last.contains("certs/fullchain.pem"), "{text}");
        assert!(last.contains("Permission denied"), "{text}");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(options.dir(), open).unwrap();
        assert_eq!(std::fs::read_dir(options.dir()).unwrap().count(), 0);
    }
}

/// Soft and hard limit of a process, as the kernel writes them.
fn limits_of(pid: nix::unistd::Pid, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.unwrap().split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn limits_are_raised_as_far_as_they_go() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("MAX_PEERS", 500)
        .through("prlimit --nofile=200:8000 --as=700000000:4000000000 --")
        .start();
    let worker = server.workers()[0].1;
    for pid in [server.pid(), worker] {
        for (name, hard) in [
            ("Max open files", "8000"),
            ("Max address space", "4000000000"),
        ] {
            let hard = hard.to_owned();
            assert_eq!(limits_of(pid, name), (hard.clone(), hard));
        }
    }
    let log = server.log();
    assert!(!log.contains("ulimit"), "{log}");
}

#[test]
fn limits_that_are_too_low_are_told_at_the_start_and_by_a_check() {
    let notes = [
        "300 open files are allowed (ulimit -n), too few for MAX_PEERS=10000",
        "858 MiB of address space are allowed (ulimit -v, -d), too few for a media worker",
    ];
    let low = "prlimit --nofile=300:300 --as=900000000:900000000 --";
    let (status, stdout, stderr) = check().through(low).run();
    assert_eq!(status.code(), Some(0), "{stderr}");
    for note in notes {
        assert!(stdout.contains(&format!("note: {note}")), "{stdout}");
    }
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .through(low)
        .start();
    for note in notes {
        server.wait_for_line(&format!("WARN control::run: {note}"));
        server.wait_for_line(&format!("  {note}"));
    }
}

/// Four ports for media in a row, all of them taken by this test.
fn full_slice() -> (u16, Vec<UdpSocket>) {
    let bind = |port| UdpSocket::bind(("127.0.0.1", port)).ok();
    // Other test processes may have servers there.
    let mut candidates = std::iter::repeat_with(media_ports).take(50);
    let taken = candidates.find_map(|min| {
        let sockets: Option<Vec<_>> = (min..min + 4).map(bind).collect();
        Some((min, sockets?))
    });
    taken.expect("four free ports in a row")
}

#[test]
fn a_check_lists_every_problem() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (min, slice) = full_slice();
    let options = check()
        .env("PROTOO_LISTEN_PORT", taken.local_addr().unwrap().port())
        .env("MEDIASOUP_MIN_PORT", min)
        .env("MEDIASOUP_MAX_PORT", min + 7)
        .env("WEBRTC_SERVER_CONFIG", "server.toml")
        .env("HTTPS_CERT_FULLCHAIN", "fullchain.pem")
        .env("HTTPS_CERT_PRIVKEY", "privkey.pem");
    let file = "room_max_peers = 1\nmediasoup_worker_cpu = 1\nlog_level = \"a=loud\"\n\
                router_codecs = \"opus,vp10\"\n";
    std::fs::write(options.dir().join("server.toml"), file).unwrap();
    rotate(options.dir(), EC);
    std::fs::write(options.dir().join("privkey.pem"), "garbage").unwrap();
    let (status, stdout, stderr) = options.run();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(!stdout.contains("valid"), "{stdout}");
    for start in [
        "server.toml: there is no setting \"mediasoup_worker_cpu\"".to_owned(),
        "ROOM_MAX_PEERS=\"1\" ".to_owned(),
        "LOG_LEVEL=\"a=loud\" ".to_owned(),
        "ROUTER_CODECS=\"opus,vp10\" ".to_owned(),
        "PROTOO_LISTEN_PORT: cannot listen on 127.0.0.1:".to_owned(),
        format!("MEDIASOUP_MIN_PORT, MEDIASOUP_MAX_PORT: no UDP port of {min}"),
        "HTTPS_CERT_PRIVKEY: privkey.pem: ".to_owned(),
    ] {
        let found = stderr.lines().filter(|line| line.starts_with(&start));
        assert_eq!(found.count(), 1, "{start}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 7, "{stderr}");
    drop(slice);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_port_needs_no_tls() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("HTTPS_ENABLED", "false")
        .env("TRUSTED_PROXIES", "127.0.0.1")
        .env("RUST_LOG", "debug")
        .start();
    assert!(!server.dir().join("certs").exists());
    server.wait_for_line("HTTPS_ENABLED=no");
    let base = format!("http://{}", server.address());
    let forwarded = [("X-Forwarded-Host", "rtc.example.com:8443")];
    let (status, answer) = https::request("POST", &format!("{base}/rooms/a"), &forwarded, "{}");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["wsUrl"], "wss://rtc.example.com:8443?roomId=a");

    let mut request = format!("ws://{}/?roomId=a&peerId=alice", server.address())
        .into_client_request()
        .unwrap();
    for (name, value) in [
        ("sec-websocket-protocol", "protoo"),
        ("x-forwarded-for", "192.0.2.77"),
    ] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    let line = server.wait_for_line("peer=alice");
    assert!(line.contains("192.0.2.77"), "{line}");
    // SIGHUP has nothing to do here, and ends nothing.
    server.signal(Signal::SIGHUP);
    let ask = r#"{"request":true,"id":1,"method":"getRouterRtpCapabilities","data":{}}"#;
    socket.send(Message::text(ask)).await.unwrap();
    let answer = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap();
    let answer = answer.unwrap().unwrap().into_text().unwrap();
    assert!(answer.contains("\"ok\":true"), "{answer}");
}
