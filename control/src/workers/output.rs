//! Relays what a worker writes to its stdout and stderr into this process's
//! log, and keeps its last words for the report of its death.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::task::JoinSet;
use tracing::{debug, error, info, trace, warn};

use crate::logging::CARRIED;

/// Longest line that is relayed, bytes; the rest of the line is dropped.
const MAX_LINE: usize = 2048;
/// Lines that are kept; older ones are dropped.
const KEPT_LINES: usize = 20;
/// How long the end of the output is waited for after a worker's death.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The output of one worker process.
#[derive(Debug)]
pub struct Output {
    last: Arc<Mutex<VecDeque<String>>>,
    relays: JoinSet<()>,
}

impl Output {
    /// Starts with nothing to relay, see [`Output::relay`].
    pub fn new() -> Self {
        Self {
            last: Arc::default(),
            relays: JoinSet::new(),
        }
    }

    /// Relays `pipe` line by line until it ends. `worker` is the index that
    /// the log names.
    pub fn relay(&mut self, worker: usize, pipe: impl AsyncRead + Send + Unpin + 'static) {
        let last = Arc::clone(&self.last);
        self.relays.spawn(async move {
            let mut lines = BoundedLines::new(pipe);
            while let Some(line) = lines.next().await {
                log(worker, &line);
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.len() == KEPT_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
        });
    }

    /// The last lines of a process that is gone.
    pub async fn last_lines(&mut self) -> Vec<String> {
        let relays = &mut self.relays;
        // Longer than this only when something else holds the pipe open.
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while relays.join_next().await.is_some() {}
        })
        .await;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().cloned().collect()
    }
}

/// Logs a worker's line at the level that it starts with. One without a level is not
/// from the worker's own log, which has a limit, so it is not carried as such.
pub(crate) fn log(worker: usize, line: &str) {
    let (level, rest) = line.trim_start().split_once(' ').unwrap_or((line, ""));
    match level {
        "ERROR" => error!(target: CARRIED, worker, "{rest}"),
        "WARN" => warn!(target: CARRIED, worker, "{rest}"),
        "INFO" => info!(target: CARRIED, worker, "{rest}"),
        "DEBUG" => debug!(target: CARRIED, worker, "{rest}"),
        "TRACE" => trace!(target: CARRIED, worker, "{rest}"),
        _ => info!(target: "mediaworker::output", worker, "{line}"),
    }
}

/// Reads lines of at most [`MAX_LINE`] bytes.
struct BoundedLines<R> {
    reader: BufReader<R>,
}

impl<R: AsyncRead + Unpin> BoundedLines<R> {
    fn new(pipe: R) -> Self {
        Self {
            reader: BufReader::new(pipe),
        }
    }

    /// The next line, printable and without its end; `None` at the end of the
    /// pipe, an error included.
    async fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut ended = false;
        let mut any = false;
        while !ended {
            let chunk = match self.reader.fill_buf().await {
                Ok(chunk) if !chunk.is_empty() => chunk,
                _ => break,
            };
            any = true;
            let end = chunk.iter().position(|b| *b == b'\n');
            let used = end.map_or(chunk.len(), |end| end + 1);
            ended = end.is_some();
            let room = MAX_LINE - line.len();
            line.extend(chunk.iter().take(end.unwrap_or(used)).take(room));
            self.reader.consume(used);
        }
        any.then(|| printable(&line))
    }
}

/// A line that cannot play tricks on a terminal or forge another log line.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim_end()
        .chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8]) -> Vec<String> {
        let mut lines = BoundedLines::new(input);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_are_cut_and_cleaned() {
        assert_eq!(lines(b"").await, [""; 0]);
        assert_eq!(lines(b"a\r\n\nb").await, ["a", "", "b"]);
        assert_eq!(
            lines(b"x\ty\x1b[31m\xff\n").await,
            ["x y\u{fffd}[31m\u{fffd}"]
        );
        let long = [vec![b'x'; 100_000], b"\nnext\n".to_vec()].concat();
        let got = lines(&long).await;
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].len(), MAX_LINE);
        assert_eq!(got[1], "next");
    }

    #[tokio::test]
    async fn the_last_lines_are_kept() {
        let mut output = Output::new();
        let text: String = (0..50).map(|n| format!("line {n}\n")).collect();
        output.relay(0, std::io::Cursor::new(text));
        let last = output.last_lines().await;
        assert_eq!(last.len(), KEPT_LINES);
        assert_eq!(last[0], "line 30");
        assert_eq!(last[19], "line 49");
    }
}
