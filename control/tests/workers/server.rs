//! The whole control plane as a process of its own, on fake workers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every scenario, by name.
pub const ALL: &[(&str, fn())] = &[
    (
        "a_log_that_nobody_reads_is_no_trouble",
        a_log_that_nobody_reads_is_no_trouble,
    ),
    (
        "an_output_that_nobody_reads_is_no_trouble",
        an_output_that_nobody_reads_is_no_trouble,
    ),
    (
        "a_log_whose_reader_has_stopped_is_no_trouble",
        a_log_whose_reader_has_stopped_is_no_trouble,
    ),
    ("secrets_are_never_logged", secrets_are_never_logged),
    (
        "an_address_that_nobody_has_is_told_in_one_line",
        an_address_that_nobody_has_is_told_in_one_line,
    ),
    (
        "as_many_files_as_allowed_can_be_opened",
        as_many_files_as_allowed_can_be_opened,
    ),
    (
        "a_request_under_way_is_answered_at_the_end",
        a_request_under_way_is_answered_at_the_end,
    ),
    (
        "the_end_is_quick_whatever_hangs",
        the_end_is_quick_whatever_hangs,
    ),
];

/// How long the server may take to end, less than the two seconds that are
/// promised.
const LONGEST_END: Duration = Duration::from_millis(1800);

/// A directory that goes away with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let template = std::env::temp_dir().join("control-test-XXXXXX");
        Self(nix::unistd::mkdtemp(&template).unwrap())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A TLS connection.
type Client = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A server; killed when dropped.
struct Server {
    child: Child,
    directory: Directory,
    address: SocketAddr,
}

impl Server {
    /// Starts one with two workers on a free port of loopback.
    fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(settings, Stdio::piped(), Stdio::piped())
    }

    fn start_with(settings: &[(&str, &str)], stdout: Stdio, stderr: Stdio) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let directory = Directory::new();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("server")
            .current_dir(&directory.0)
            .env_clear()
            .env("TMPDIR", &directory.0)
            .env("PROTOO_LISTEN_IP", "127.0.0.1")
            .env("PROTOO_LISTEN_PORT", address.port().to_string())
            .env("MEDIASOUP_LISTEN_IP", "127.0.0.1")
            .env("MEDIASOUP_NUM_WORKERS", "2")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self {
            child,
            directory,
            address,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn workers(&self) -> Vec<Pid> {
        let path = format!("/proc/{0}/task", self.pid());
        let mut found: Vec<i32> = Vec::new();
        // Children are listed by the thread that started them.
        for thread in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let list = std::fs::read_to_string(thread.path().join("children"));
            let list = list.unwrap_or_default();
            found.extend(
                list.split_whitespace()
                    .map(|pid| pid.parse::<i32>().unwrap()),
            );
        }
        found.sort();
        found.into_iter().map(Pid::from_raw).collect()
    }

    /// Waits until connections are served: one that does not speak TLS is
    /// ended. Before the workers are ready it would only be kept.
    fn until_up(&self) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let Ok(mut stream) = TcpStream::connect(self.address) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(b"this is not TLS");
            let _ = stream.read(&mut [0; 64]);
            return;
        }
        panic!("it does not listen");
    }

    /// Waits for the line of the start block that lists the last worker.
    fn until_ready(&mut self) {
        let lines = BufReader::new(self.child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("mediaworker-1")));
    }

    /// Asks it to end; answers how it did, and how long that took.
    fn end(&mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        (self.wait(), begin.elapsed())
    }

    /// A TLS connection to it; its certificate is whatever it has made.
    fn connect(&self) -> Client {
        let pem = self.directory.0.join("certs/fullchain.pem");
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(pem).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        rustls::StreamOwned::new(tls, stream)
    }

    /// The answer to a request, which has to be 200.
    fn get(&self, path: &str) -> String {
        let mut client = self.connect();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // A connection that just ends is an error to rustls.
        let _ = client.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pipe whose reader is gone.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Kills a worker and waits for another: the task that replaces it logs.
fn lose_a_worker(server: &Server) {
    let before = server.workers();
    kill(before[0], Signal::SIGKILL).unwrap();
    until("the worker is replaced", || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&before[0])
    });
}

fn a_log_that_nobody_reads_is_no_trouble() {
    let mut server = Server::start(&[("RUST_LOG", "debug")]);
    server.until_ready();
    drop(server.child.stderr.take());
    lose_a_worker(&server);
    lose_a_worker(&server);
    server.until_up();
    until("that lines are lost is counted", || {
        let metrics = server.get("/metrics");
        let name = "webrtc_log_lines_lost_total{reason=\"reader\"} ";
        let mut lines = metrics.lines();
        let lost = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        lost.parse::<u64>().unwrap() > 0
    });
    let (status, _) = server.end();
    assert_eq!(status.code(), Some(0), "{status}");
}

fn an_output_that_nobody_reads_is_no_trouble() {
    let mut server = Server::start_with(&[], broken_pipe(), broken_pipe());
    server.until_up();
    lose_a_worker(&server);
    let (status, _) = server.end();
    assert_eq!(status.code(), Some(0), "{status}");
}

/// A stopped terminal, `less`, a disk that is busy: the pipe is there, and full.
fn a_log_whose_reader_has_stopped_is_no_trouble() {
    // Less than what a start says at this level.
    const PIPE: i32 = 4096;
    let (reader, writer) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE)).unwrap();
    let settings = [("RUST_LOG", "trace")];
    let mut server = Server::start_with(&settings, Stdio::piped(), writer.into());
    server.until_ready();
    for _ in 0..50 {
        server.get("/health");
    }
    lose_a_worker(&server);
    let (status, took) = server.end();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < LONGEST_END, "{took:?}");
    drop(reader);
}

fn secrets_are_never_logged() {
    let directory = Directory::new();
    let path = directory.0.join("log");
    let log = std::fs::File::create(&path).unwrap();
    let settings = [("RUST_LOG", "trace"), ("ADMIN_TOKEN", "hush-token")];
    let mut server = Server::start_with(&settings, Stdio::piped(), log.into());
    server.until_ready();

    let mut client = server.connect();
    client
        .write_all(
            b"GET /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
              Authorization: Bearer hush-token\r\n\r\n",
        )
        .unwrap();
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let url = "wss://localhost/?roomId=room&peerId=peer";
    let mut request = url.into_client_request().unwrap();
    let protocol = "protoo".parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    let (mut socket, _) = tungstenite::client(request, server.connect()).unwrap();
    let text = r#"{"request":true,"id":7,"method":"hush-method","data":{"pass":"hush-pass"}}"#;
    socket.send(tungstenite::Message::text(text)).unwrap();
    while !socket
        .read()
        .unwrap()
        .to_text()
        .unwrap()
        .contains("hush-method")
    {}

    let (status, _) = server.end();
    assert_eq!(status.code(), Some(0), "{status}");
    let log = std::fs::read_to_string(path).unwrap();
    assert!(log.contains("TRACE"), "{log}");
    for secret in ["hush-token", "hush-pass"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

/// What a server that does not start says.
fn refusal(settings: &[(&str, &str)]) -> String {
    let mut server = Server::start(settings);
    assert_eq!(server.wait().code(), Some(1));
    let mut text = String::new();
    let mut stderr = server.child.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    text
}

fn an_address_that_nobody_has_is_told_in_one_line() {
    // Addresses of documentation (RFC 5737): no machine has them.
    for variable in ["PROTOO_LISTEN_IP", "MEDIASOUP_LISTEN_IP"] {
        let text = refusal(&[(variable, "192.0.2.1")]);
        assert!(text.contains(&format!("{variable}: cannot ")), "{text}");
        assert_eq!(text.lines().filter(|l| l.contains("cannot")).count(), 1);
        assert!(!text.contains("media worker"), "{text}");
    }
}

fn as_many_files_as_allowed_can_be_opened() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 512, hard).unwrap();
    let mut server = Server::start(&[]);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    server.until_ready();
    for pid in server.workers().into_iter().chain([server.pid()]) {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let mut lines = limits.lines();
        let line = lines.find(|l| l.starts_with("Max open files")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[3], words[4], "{line}");
    }
}

/// A client whose request waits for the two bytes of its body.
fn begin_a_request(server: &Server) -> Client {
    let mut client = server.connect();
    let head = b"POST /rooms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Expect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.write_all(head).unwrap();
    client.flush().unwrap();
    // The server asks for the body: the request is under way.
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    client
}

fn a_request_under_way_is_answered_at_the_end() {
    let mut server = Server::start(&[]);
    server.until_ready();
    let mut client = begin_a_request(&server);
    let address = server.address;
    let answer = std::thread::spawn(move || {
        until("the listener is closed", || {
            TcpStream::connect(address).is_err()
        });
        // A client that takes its time, less than it has.
        std::thread::sleep(Duration::from_millis(200));
        let _ = client.write_all(b"{}");
        let mut answer = String::new();
        // A connection that just ends is an error to rustls.
        let _ = client.read_to_string(&mut answer);
        answer
    });
    let (status, took) = server.end();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < LONGEST_END, "{took:?}");
    let answer = answer.join().unwrap();
    assert!(answer.contains("HTTP/1.1 "), "{answer:?}");
}

fn the_end_is_quick_whatever_hangs() {
    let mut server = Server::start(&[]);
    server.until_ready();
    let workers = server.workers();
    for pid in &workers {
        kill(*pid, Signal::SIGSTOP).unwrap();
    }
    let _client = begin_a_request(&server);
    let (status, took) = server.end();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < LONGEST_END, "{took:?}");
    for pid in workers {
        // Reaped, so they are not even zombies.
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
