//! What a worker writes: its log on stderr, which the control plane carries into its
//! own, with time and the worker's number. It counts lines for itself: over there all of
//! them come from one place.

use std::io;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use log_limit::Limit;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Where the control plane does not say otherwise: libraries warn of what any stranger
/// can send.
const FILTER: &str = "info,str0m=error,dimpl=error,is=error,sctp_proto=error";

/// That of this process; there is no other.
static LIMIT: OnceLock<Limit> = OnceLock::new();

/// Starts the log; panics are told there too. Whoever gets the limit has to turn it
/// whenever its period is over.
pub fn start() -> Limit {
    let limit = LIMIT.get_or_init(Limit::default).clone();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| FILTER.into());
    // Fails only when there is a log already.
    let _ = subscriber(filter, limit.clone(), io::stderr).try_init();
    std::panic::set_hook(Box::new(log_panic));
    limit
}

/// Lines that were left out since the start, because there were too many of their kind.
pub fn left_out() -> u64 {
    LIMIT.get().map_or(0, Limit::left_out)
}

/// One line for each panic: a transport that panics is closed, and where it
/// happened is all that is left of it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no text");
    let at = panic.location().map(ToString::to_string);
    tracing::error!(what, at, "panic");
}

fn subscriber<W>(
    filter: EnvFilter,
    limit: Limit,
    writer: W,
) -> impl tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer()
        .with_writer(writer)
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    // The limit comes last, so that what is not told anyway does not count.
    tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(limit))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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

    /// Also where the filter lets through more, and some that it does not.
    #[test]
    fn one_kind_of_line_does_not_fill_the_log() {
        let memory = Memory::default();
        let writer = memory.clone();
        let limit = Limit::default();
        let filter = EnvFilter::new("debug,quiet=warn");
        let log = subscriber(filter, limit.clone(), move || writer.clone());
        tracing::subscriber::with_default(log, || {
            for n in 0..1500 {
                tracing::info!(n, "somebody came");
                tracing::info!(target: "quiet", n, "not asked for");
                tracing::debug!(n, "something of interest");
            }
            tracing::info!("something else");
            limit.turn();
        });
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        let lines = |of: &str| text.lines().filter(|line| line.contains(of)).count();
        assert_eq!(lines("INFO somebody came n="), 1000);
        assert_eq!(lines("not asked for"), 0);
        assert_eq!(lines("DEBUG something of interest"), 1500);
        assert_eq!(lines("INFO something else"), 1);
        assert_eq!(lines("WARN too many lines of one kind"), 1);
        assert_eq!(lines(" left_out=500"), 1);
        assert_eq!(limit.left_out(), 500);
    }
}
