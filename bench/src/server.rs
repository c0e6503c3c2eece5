//! Our own server, started for one run: one worker, everything on one core, in
//! a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::process;

/// Longest time until the server is ready.
const READY: Duration = Duration::from_secs(30);
/// Longest time that it may take to end.
const END: Duration = Duration::from_secs(5);
/// Enough for every scenario, and the most that a server allows.
const MAX_PEERS: &str = "10000";
/// Lines of its output that are shown when it does not become ready.
const SHOWN: usize = 20;

/// The server; it ends when this is dropped.
pub struct Started {
    child: Child,
    url: String,
    ready: Duration,
    _directory: TempDir,
}

impl Started {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// What failed, with what the server has printed.
    pub fn start(binary: Option<&Path>, core: Option<usize>) -> Result<Self, String> {
        let binary = binary.map_or_else(beside, |path| Ok(path.to_owned()))?;
        let text = |error: std::io::Error| format!("{}: {error}", binary.display());
        // It runs in another directory.
        let binary = binary.canonicalize().map_err(text)?;
        let text = |error: std::io::Error| format!("{}: {error}", binary.display());
        let directory = TempDir::new().map_err(text)?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
        let port = listener.local_addr().map_err(text)?.port();
        drop(listener);
        let mut command = Command::new(&binary);
        command
            .current_dir(directory.path())
            // Settings of whoever runs this must not change what is measured.
            .env_clear()
            .env("TMPDIR", directory.path())
            .env("PROTOO_LISTEN_IP", "127.0.0.1")
            .env("PROTOO_LISTEN_PORT", port.to_string())
            .env("MEDIASOUP_LISTEN_IP", "127.0.0.1")
            .env("MEDIASOUP_NUM_WORKERS", "1")
            .env("ROOM_MAX_PEERS", MAX_PEERS)
            // Its clients are still there when it is ended.
            .env("DRAIN_TIMEOUT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        // A child inherits the cores of the thread that starts it.
        let mut child = process::pinned(core, || command.spawn().map_err(text))?;
        let (lines, output) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            forward(stdout, lines.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            forward(stderr, lines);
        }
        let mut started = Self {
            child,
            url: format!("wss://127.0.0.1:{port}"),
            ready: Duration::ZERO,
            _directory: directory,
        };
        wait_until_ready(&output)
            .map_err(|seen| format!("{} did not become ready:\n{seen}", binary.display()))?;
        started.ready = begun.elapsed();
        Ok(started)
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How long it took from its start until it said that it, and its worker, were ready.
    pub fn ready(&self) -> Duration {
        self.ready
    }

    /// Its control plane.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

/// `Err`: the last lines of its output, when it ends or takes longer than
/// [`READY`].
fn wait_until_ready(output: &mpsc::Receiver<String>) -> Result<(), String> {
    let end = Instant::now() + READY;
    let mut seen = Vec::new();
    // The worker is in the last line of what is printed then.
    let mut awaited = ["is ready", "Workers"].into_iter().peekable();
    while let Some(text) = awaited.peek() {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(line) = output.recv_timeout(left) else {
            let last = seen.len().saturating_sub(SHOWN);
            return Err(seen.split_off(last).join("\n"));
        };
        if line.contains(text) {
            awaited.next();
        }
        seen.push(line);
    }
    Ok(())
}

/// Reads on for as long as the server lives, so that it never waits for us.
fn forward(stream: impl std::io::Read + Send + 'static, lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
}

fn beside() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let binary = own.with_file_name("webrtc-server");
    if binary.is_file() {
        return Ok(binary);
    }
    Err(format!(
        "{} is not there: build it first (cargo build --release), or say --server-binary",
        binary.display()
    ))
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let end = Instant::now() + END;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
