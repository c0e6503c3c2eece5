//! What this process writes: its log on stderr, for people or for machines, and
//! its texts on stdout. Whoever read them may be gone, or be slow; that is no reason
//! to stop serving.

mod limit;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::time::Duration;

use tracing::{Level, Metadata, error, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use self::limit::Limit;
use crate::config::LogFormat;
use crate::traces::{self, Traces};

/// Libraries that log what they carry, frames of clients and the password of
/// the TURN server among it: below `info` they are never heard, whatever the
/// filter says.
const TALKERS: [&str; 5] = ["tungstenite", "tokio_tungstenite", "hyper", "h2", "rustls"];

/// Libraries of the media workers that warn of what any stranger can send.
const WORRIERS: [&str; 4] = ["str0m", "dimpl", "is", "sctp_proto"];

/// Most lines that wait while nobody reads the log. Above, lines are dropped: calls
/// do not wait for a terminal that is stopped or a disk that is busy.
const MAX_WAITING_LINES: usize = 4096;
/// Time for the last of them at the end.
const LAST_LINES: Duration = Duration::from_millis(1500);

/// The log while it is kept. When it is dropped, lines that wait are written, as far
/// as somebody reads them.
#[derive(Debug)]
pub struct Log {
    limit: Limit,
    lost: ErrorCounter,
    _writer: WorkerGuard,
}

impl Log {
    /// Tells from time to time what was left out.
    pub fn keep(&self) -> impl Future<Output = ()> + use<> {
        self.limit.clone().keep_turning()
    }

    /// Ends the log, and then says why the server ends. Where nobody reads it any more,
    /// that waits for a moment only: the writer itself would wait, and complain to where
    /// nobody reads either.
    pub fn end(self, last: Option<String>) {
        let (done, ended) = std::sync::mpsc::channel();
        let end = move || {
            drop(self);
            if let Some(last) = last {
                complain(last);
            }
            let _ = done.send(());
        };
        if std::thread::Builder::new().spawn(end).is_ok() {
            let _ = ended.recv_timeout(LAST_LINES);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.limit.turn();
        let lines = self.lost.dropped_lines();
        if lines > 0 {
            warn!(
                lines,
                "lines of the log were lost, nobody read them in time"
            );
        }
    }
}

/// Starts the log on stderr; panics are told there too. `filter` is in the
/// syntax of [`EnvFilter`]. Spans go to `traces`.
#[must_use = "the log ends with it"]
pub fn start(filter: &str, format: LogFormat, traces: Option<&Traces>) -> Log {
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_WAITING_LINES)
        .finish(Lossy(io::stderr()));
    let lost = writer.error_counter();
    let limit = Limit::default();
    let log = subscriber(filter, format, colours, limit.clone(), writer);
    // Fails only when there is a log already.
    let _ = log.with(traces.map(Traces::layer)).try_init();
    std::panic::set_hook(Box::new(log_panic));
    Log {
        limit,
        lost,
        _writer: guard,
    }
}

/// One event for each panic, where the log goes: a task that panics leaves
/// nothing else behind. With a backtrace where the environment asks for it
/// (`RUST_BACKTRACE`).
fn log_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no text");
    let at = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without name");
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    error!(what, at, thread, backtrace, "panic");
}

/// Prints `text` to stdout, as far as somebody reads it.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line to stderr, as far as somebody reads it.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The filter of the media workers: the server's, with the libraries that
/// worry too much at `error` unless it names them itself.
pub fn worker_filter(filter: &str) -> String {
    let directives = || filter.split(',');
    let general = |directive: &str| {
        let levels = ["warn", "info", "debug", "trace", "2", "3", "4", "5"];
        levels.iter().any(|l| directive.eq_ignore_ascii_case(l))
    };
    let mut all = filter.to_owned();
    // Otherwise they are not heard anyway, and must not become louder.
    if directives().any(general) {
        for library in WORRIERS {
            if !directives().any(|d| library_of(d) == library) {
                all.push_str(&format!(",{library}=error"));
            }
        }
    }
    all
}

/// The library that a target or a directive is about.
fn library_of(text: &str) -> &str {
    text.split([':', '=', '[']).next().unwrap_or_default()
}

fn may_be_told(metadata: &Metadata<'_>) -> bool {
    let is_harmless = *metadata.level() <= Level::INFO;
    (is_harmless || !TALKERS.contains(&library_of(metadata.target()))) && !traces::is_span(metadata)
}

fn subscriber<W>(
    filter: &str,
    format: LogFormat,
    colours: bool,
    limit: Limit,
    writer: W,
) -> impl tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer::<Registry>()
        .with_ansi(colours && format == LogFormat::Text)
        // They would go to stderr, the very place that does not work.
        .log_internal_errors(false)
        .with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        // An object in each line, an event's fields next to its time and level.
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let filter = EnvFilter::new(filter).and(filter_fn(may_be_told));
    // The last, so that what is not told anyway does not count.
    let filter = filter.and(limit);
    tracing_subscriber::registry().with(lines.with_filter(filter))
}

/// Writes what can be written and is content.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `work` runs.
    fn logged(filter: &str, format: LogFormat, work: impl FnOnce()) -> String {
        limited(filter, format, &Limit::default(), work)
    }

    fn limited(filter: &str, format: LogFormat, limit: &Limit, work: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let log = subscriber(filter, format, false, limit.clone(), move || writer.clone());
        tracing::subscriber::with_default(log, work);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn frames_are_never_logged() {
        for filter in ["trace", "trace,tungstenite::protocol=trace", "tungstenite"] {
            let text = logged(filter, LogFormat::Text, || {
                tracing::trace!(target: "tungstenite::protocol::frame", "secret");
                tracing::debug!(target: "tokio_tungstenite", "secret");
                tracing::debug!(target: "h2::codec", "secret");
                tracing::info!(target: "tungstenite::protocol", "harmless");
            });
            assert!(text.contains("harmless"), "{filter}: {text}");
            assert!(!text.contains("secret"), "{filter}: {text}");
        }
    }

    #[test]
    fn one_kind_of_line_does_not_fill_the_log() {
        let limit = Limit::default();
        let many = || {
            for n in 0..1500 {
                tracing::info!(n, "somebody came");
                tracing::debug!(n, "something of interest");
                tracing::trace!(n, "not asked for");
            }
            tracing::info!("something else");
            limit.turn();
        };
        let text = limited("debug", LogFormat::Text, &limit, || {
            many();
            // Another period.
            tracing::info!("somebody came");
            limit.turn();
            limit.turn();
        });
        let lines = |of: &str| text.lines().filter(|line| line.contains(of)).count();
        assert_eq!(lines("somebody came"), 1001);
        assert_eq!(lines("something of interest"), 1500);
        assert_eq!(lines("something else"), 1);
        assert_eq!(lines("some are left out"), 1, "{text}");
        assert_eq!(lines(" left_out=500"), 1);
        assert_eq!(lines(" place=\"control::logging::tests:"), 1);
    }

    #[test]
    fn json_is_an_object_in_each_line() {
        let text = logged("info,other=debug", LogFormat::Json, || {
            tracing::info!(room = "a \"b\"\nc", peers = 3, "two\nlines");
            tracing::debug!(target: "other", "quiet");
            tracing::debug!("not asked for");
        });
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["message"], "two\nlines");
        assert_eq!(lines[0]["room"], "a \"b\"\nc");
        assert_eq!(lines[0]["peers"], 3);
        assert!(lines[0]["timestamp"].is_string());
        assert_eq!(lines[1]["target"], "other");
    }

    #[test]
    fn panics_are_logged() {
        let usual = std::panic::take_hook();
        // Tests that run at the same time may fail: they are told as usual.
        std::panic::set_hook(Box::new(move |panic| {
            log_panic(panic);
            usual(panic);
        }));
        let text = logged("info", LogFormat::Json, || {
            let panics = || panic!("told {}", "why");
            assert!(std::panic::catch_unwind(panics).is_err());
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panic");
        assert_eq!(line["what"], "told why");
        let at = line["at"].as_str().unwrap();
        assert!(at.contains("logging.rs:"), "{at}");
    }

    #[test]
    fn what_cannot_be_written_is_dropped() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut lossy = Lossy(Broken);
        lossy.write_all(b"text").unwrap();
        lossy.flush().unwrap();
    }

    /// Defect n: what workers log is a setting.
    #[test]
    fn workers_are_quiet_unless_asked() {
        let quiet = "str0m=error,dimpl=error,is=error,sctp_proto=error";
        let table = [
            ("info", format!("info,{quiet}")),
            (
                "DEBUG,control=trace",
                format!("DEBUG,control=trace,{quiet}"),
            ),
            (
                "info,str0m=debug",
                "info,str0m=debug,dimpl=error,is=error,sctp_proto=error".into(),
            ),
            (
                "str0m::ice,dimpl[a]=warn,is,info",
                "str0m::ice,dimpl[a]=warn,is,info,sctp_proto=error".into(),
            ),
            ("off", "off".into()),
            ("error", "error".into()),
            ("router=debug", "router=debug".into()),
        ];
        for (given, want) in table {
            assert_eq!(worker_filter(given), want);
            EnvFilter::try_new(want).unwrap();
        }
    }
}
