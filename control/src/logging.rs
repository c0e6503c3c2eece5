//! What this process writes for people: its log on stderr, its texts on stdout.
//! Whoever read them may be gone; that is no reason to stop serving.

use std::fmt::Display;
use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Starts the log on stderr. `filter` is in the syntax of [`EnvFilter`].
pub fn start(filter: &str) {
    let writer = BoxMakeWriter::new(|| Lossy(io::stderr()));
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    // Fails only when there is a log already.
    let _ =
        tracing_subscriber::util::SubscriberInitExt::try_init(subscriber(filter, colours, writer));
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

fn subscriber<W>(filter: &str, colours: bool, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(colours)
        // They would go to stderr, the very place that does not work.
        .log_internal_errors(false)
        .with_writer(writer)
        .finish()
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
