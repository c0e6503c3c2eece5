//! Helper processes that speak in lines of JSON: a command on standard input, its
//! answer on standard output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::DEADLINE;

/// Longest time until an answer.
const ANSWER: Duration = DEADLINE.saturating_mul(2);

/// A helper that runs; it ends with this value.
pub struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Value>,
    next_id: u64,
}

impl Driver {
    /// Starts a helper and waits until it says `{"ready": true}`.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: tests/run installs it"));
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let driver = Self {
            child,
            stdin,
            answers,
            next_id: 1,
        };
        let ready = driver
            .answers
            .recv_timeout(ANSWER)
            .unwrap_or_else(|_| panic!("{command:?} is not ready: tests/run installs it all"));
        assert_eq!(ready["ready"], true, "{ready}: tests/run installs it all");
        driver
    }

    pub fn try_command(&mut self, mut command: Value) -> Result<Value, String> {
        command["id"] = self.next_id.into();
        self.next_id += 1;
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}").unwrap();
        let answer = self.answers.recv_timeout(ANSWER).unwrap();
        assert_eq!(answer["id"], command["id"]);
        if answer["ok"] == true {
            Ok(answer["value"].clone())
        } else {
            Err(answer["error"].to_string())
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A helper ends with its standard input, and takes its children along.
        self.stdin = None;
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Browsers at a time: more do not get enough of a small machine.
const MAX_BROWSERS: usize = 2;

static BROWSERS: Mutex<usize> = Mutex::new(0);
static BROWSER_ENDED: Condvar = Condvar::new();

/// Leave to run so many browsers; whoever wants more than are free waits.
pub struct BrowserSlots(usize);

impl BrowserSlots {
    pub fn take(n: usize) -> Self {
        assert!(n <= MAX_BROWSERS);
        let running = BROWSERS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = BROWSER_ENDED
            .wait_while(running, |running| *running + n > MAX_BROWSERS)
            .unwrap_or_else(PoisonError::into_inner);
        *running += n;
        Self(n)
    }
}

impl Drop for BrowserSlots {
    fn drop(&mut self) {
        *BROWSERS.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        BROWSER_ENDED.notify_all();
    }
}
