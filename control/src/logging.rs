//! What this process writes: its log on stderr, for people or for machines, and
//! its texts on stdout. Whoever read them may be gone, or be slow; that is no reason
//! to stop serving.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use log_limit::{Limit, PERIOD};
use tracing::{Level, Metadata, error};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use self::queue::Queue;
use crate::config::LogFormat;
use crate::traces::{self, Traces};

/// Libraries that log what they carry, frames of clients and the password of
/// the TURN server among it: below `info` they are never heard, whatever the
/// filter says.
const TALKERS: [&str; 5] = ["tungstenite", "tokio_tungstenite", "hyper", "h2", "rustls"];

/// Libraries of the media workers that warn of what any stranger can send.
const WORRIERS: [&str; 4] = ["str0m", "dimpl", "is", "sctp_proto"];

/// The target of what media workers log: their own log has a limit.
pub(crate) const CARRIED: &str = "mediaworker";

/// Time for the last lines at the end.
const LAST_LINES: Duration = Duration::from_millis(1500);
/// Time for them when something panics, for that may be the end as well.
const LINES_BEFORE_PANIC: Duration = Duration::from_secs(1);

/// The log of this process; there is no other.
static LOG: OnceLock<Counted> = OnceLock::new();

/// What counts the lines of a log.
#[derive(Debug, Clone)]
struct Counted {
    limit: Limit,
    queue: Queue,
}

impl Counted {
    /// Tells what was left out and what was lost, since it did so before.
    fn turn(&self) {
        self.limit.turn();
        self.queue.tell_lost();
    }
}

/// Lines that the log of this process should have, and has not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Left out, because there were too many of their kind.
    pub limit: u64,
    /// Lost, because nobody read them in time, or they could not be written.
    pub reader: u64,
}

/// How many lines were left out of the log, or lost, since the start.
pub fn missing() -> Missing {
    LOG.get().map_or_else(Missing::default, |log| Missing {
        limit: log.limit.left_out(),
        reader: log.queue.lost(),
    })
}

/// The log while it is kept. When it is dropped, lines that wait are written, as far
/// as somebody reads them.
#[derive(Debug)]
pub struct Log {
    counted: Counted,
    _writer: WorkerGuard,
}

impl Log {
    /// Tells from time to time what was left out and what was lost. Never ends.
    pub fn keep(&self) -> impl Future<Output = ()> + use<> {
        let counted = self.counted.clone();
        async move {
            loop {
                tokio::time::sleep(PERIOD).await;
                counted.turn();
            }
        }
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
        self.counted.turn();
    }
}

/// Starts the log on stderr; panics are told there too. `filter` is in the
/// syntax of [`EnvFilter`]. Spans go to `traces`.
#[must_use = "the log ends with it"]
pub fn start(filter: &str, format: LogFormat, traces: Option<&Traces>) -> Log {
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let (queue, guard) = Queue::start(io::stderr());
    let counted = Counted {
        limit: Limit::except(CARRIED),
        queue: queue.clone(),
    };
    let log = subscriber(filter, format, colours, counted.limit.clone(), queue);
    // Both fail only when there is a log already.
    let _ = log.with(traces.map(Traces::layer)).try_init();
    let _ = LOG.set(counted.clone());
    std::panic::set_hook(Box::new(log_panic));
    Log {
        counted,
        _writer: guard,
    }
}

/// One event for each panic, where the log goes: a task that panics leaves
/// nothing else behind. With a backtrace where the environment asks for it
/// (`RUST_BACKTRACE`). It is written before anything else happens, with all that waits
/// before it, as far as somebody reads it: a panic may be the end of the process.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no text");
    let at = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without name");
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    error!(what, at, thread, backtrace, "panic");
    if let Some(log) = LOG.get() {
        log.queue.flush(LINES_BEFORE_PANIC);
    }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock, Mutex};

    use tracing::Dispatch;
    use tracing::subscriber::NoSubscriber;

    use super::*;

    /// Where there is one subscriber alone, tracing asks the thread that comes first to a
    /// place in the code whether it listens, for all threads. Where there is another one,
    /// it asks them all.
    pub fn ask_all_threads() {
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&ANOTHER);
    }

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
        ask_all_threads();
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

    /// What workers say is limited by themselves, each place in their code apart.
    #[test]
    fn lines_of_workers_are_carried_as_they_come() {
        let limit = Limit::except(CARRIED);
        let text = limited("info", LogFormat::Text, &limit, || {
            for n in 0..1500 {
                crate::workers::log_line(0, &format!(" INFO {n} from a worker's log"));
                crate::workers::log_line(0, &format!("{n} from elsewhere"));
            }
        });
        let lines = |of: &str| text.lines().filter(|line| line.contains(of)).count();
        assert_eq!(lines(" from a worker's log"), 1500);
        assert_eq!(lines(" mediaworker: "), 1500);
        assert_eq!(lines(" from elsewhere"), 1000);
        assert_eq!(limit.left_out(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_told_while_it_goes_on() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut queue, writer) = Queue::start(Broken);
        let limit = Limit::default();
        let counted = Counted {
            limit: limit.clone(),
            queue: queue.clone(),
        };
        let log = Log {
            counted,
            _writer: writer,
        };
        ask_all_threads();
        let memory = Memory::default();
        let to = memory.clone();
        let subscriber = subscriber("info", LogFormat::Text, false, limit, move || to.clone());
        let _subscriber = tracing::subscriber::set_default(subscriber);
        let work = async {
            for _ in 0..2 {
                queue.write_all(b"lost\n").unwrap();
                queue.flush(Duration::from_secs(10));
                for n in 0..1001 {
                    tracing::info!(n, "somebody came");
                }
                tokio::time::sleep(PERIOD + Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = log.keep() => {}
            () = work => {}
        }
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        let lines = |of: &str| text.lines().filter(|line| line.contains(of)).count();
        assert_eq!(lines("were lost, nobody read them in time lines=1"), 2);
        assert_eq!(lines("some are left out"), 2);
    }

    /// Makes this process a child that ends by a panic while it cleans up after another.
    const ABORTS: &str = "LOGGING_TEST_ABORTS";

    #[test]
    fn what_was_logged_before_an_abort_is_written() {
        struct PanicsToo;
        impl Drop for PanicsToo {
            fn drop(&mut self) {
                panic!("the second");
            }
        }
        if std::env::var_os(ABORTS).is_some() {
            let _log = start("info", LogFormat::Text, None);
            for n in 0..4000 {
                tracing::info!(target: CARRIED, n, "before");
            }
            let _too = PanicsToo;
            panic!("the first");
        }
        let this = "logging::tests::what_was_logged_before_an_abort_is_written";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact", "--nocapture"])
            .env(ABORTS, "1")
            .output()
            .unwrap();
        assert!(!child.status.success());
        let text = String::from_utf8_lossy(&child.stderr);
        let lines = |of: &str| text.lines().filter(|line| line.contains(of)).count();
        assert_eq!(lines(" before n="), 4000, "{text}");
        assert_eq!(lines("what=\"the first\""), 1, "{text}");
        assert_eq!(lines("what=\"the second\""), 1, "{text}");
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
