//! A real server process in a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longest time that anything in these tests may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    dir: TempDir,
    pub port: u16,
    /// What it has printed so far, both streams.
    lines: Vec<String>,
    output: Receiver<String>,
}

/// Settings of a server under test.
pub struct Options {
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// A program, and its arguments, that becomes the server.
    through: Vec<String>,
    dir: TempDir,
}

impl Options {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("webrtc-server-test-")
            .tempdir()
            .unwrap();
        Self {
            env: Vec::new(),
            args: Vec::new(),
            through: Vec::new(),
            dir,
        }
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.into(), value.to_string()));
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Started by a program that becomes the server, for example `prlimit`.
    pub fn through(mut self, program: &str) -> Self {
        self.through = program.split(' ').map(str::to_owned).collect();
        self
    }

    /// Its working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self) -> Command {
        let server = env!("CARGO_BIN_EXE_webrtc-server");
        let mut command = match self.through.as_slice() {
            [] => Command::new(server),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(server);
                command
            }
        };
        command
            .current_dir(self.dir.path())
            .args(&self.args)
            .env_clear()
            .env("TMPDIR", self.dir.path())
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end: status, stdout and stderr.
    pub fn run(&self) -> (ExitStatus, String, String) {
        let output = self.command().output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status, text(&output.stdout), text(&output.stderr))
    }

    /// Runs a server that is expected to refuse to start.
    pub fn refused(self) -> (ExitStatus, String) {
        let (status, _, text) = self.run();
        (status, text)
    }

    /// Starts a server on a free port of loopback and waits until it is ready.
    pub fn start(mut self) -> Server {
        let set = |options: &Self, name: &str| options.env.iter().any(|(k, _)| k == name);
        if !set(&self, "PROTOO_LISTEN_IP") {
            self = self.env("PROTOO_LISTEN_IP", "127.0.0.1");
        }
        if !set(&self, "MEDIASOUP_LISTEN_IP") {
            self = self.env("MEDIASOUP_LISTEN_IP", "127.0.0.1");
        }
        if !set(&self, "MEDIASOUP_MIN_PORT") {
            let min = media_ports();
            self = self
                .env("MEDIASOUP_MIN_PORT", min)
                .env("MEDIASOUP_MAX_PORT", min + 39);
        }
        let json = set(&self, "LOG_FORMAT");
        let port = free_port();
        self = self.env("PROTOO_LISTEN_PORT", port);
        let mut child = self.command().spawn().unwrap();
        let (sender, output) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let also = sender.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = also.send(line);
            }
        });
        let mut server = Server {
            child,
            dir: self.dir,
            port,
            lines: Vec::new(),
            output,
        };
        match json {
            true => server.wait_for_line("the server is ready"),
            false => server.wait_for_line("Workers"),
        };
        server
    }
}

/// A TCP port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The first of 40 ports for media, below the ephemeral range and another one
/// for each server of this process and of processes around it.
pub fn media_ports() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let slot = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = u16::try_from(std::process::id() % 10).unwrap();
    10_000 + own * 2_000 + (slot % 50) * 40
}

impl Server {
    pub fn start() -> Self {
        Options::new().start()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Everything printed so far.
    pub fn log(&mut self) -> String {
        self.lines.extend(self.output.try_iter());
        self.lines.join("\n")
    }

    /// Waits for a line that contains a text, among all since the start.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.lines.iter().find(|l| l.contains(text)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) => self.lines.push(line),
                Err(_) => panic!("no {text:?} in:\n{}", self.lines.join("\n")),
            }
        }
    }

    /// Process ids of the workers, by slot: children of the server with the
    /// workers' titles.
    pub fn workers(&self) -> Vec<(usize, Pid)> {
        let mut workers: Vec<(usize, Pid)> = processes()
            .into_iter()
            .filter(|p| p.parent == self.pid().as_raw())
            .filter_map(|p| {
                let slot = p.title.strip_prefix("mediaworker-")?.parse().ok()?;
                Some((slot, Pid::from_raw(p.pid)))
            })
            .collect();
        workers.sort();
        workers
    }

    /// Waits for the server's own end.
    pub fn wait_for_end(&mut self, within: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// What is left of it in its directory, besides certificates.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().is_some_and(|name| name != "certs"))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // On a thread of its own: a panic while panicking would be the end.
            let url = self.url("/config");
            let state = std::thread::spawn(move || crate::https::get(&url).1).join();
            eprintln!("--- server log ---\n{}", self.log());
            eprintln!(
                "--- workers ---\n{:#}",
                state.unwrap_or_default()["workers"]
            );
        }
        let workers = self.workers();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its workers end by themselves; that they do has a test of its own.
        wait_until("workers end with the server", || {
            workers.iter().all(|(_, pid)| !is_alive(*pid))
        });
    }
}

struct ProcessInfo {
    pid: i32,
    parent: i32,
    title: String,
}

fn processes() -> Vec<ProcessInfo> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (head, tail) = stat.split_once(") ")?;
            let title = head.split_once('(')?.1.to_owned();
            let parent = tail.split(' ').nth(1)?.parse().ok()?;
            Some(ProcessInfo { pid, parent, title })
        })
        .collect()
}

/// True while a process runs; one that waits to be reaped does not.
pub fn is_alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.split_once(") ")?.1.starts_with('Z')))
        .is_some_and(|zombie| !zombie)
}

/// Waits for a condition; fails after [`DEADLINE`].
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
