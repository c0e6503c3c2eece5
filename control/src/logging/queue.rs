//! Lines of the log on their way out. A thread of its own writes them: calls do not
//! wait for a terminal that is stopped or a disk that is busy.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::warn;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Most lines that wait while nobody reads the log. Above, lines are dropped.
const MAX_WAITING_LINES: usize = 4096;

/// How often it is looked whether all lines are written, where somebody waits for that.
const LOOK: Duration = Duration::from_millis(1);

/// Takes lines that are to be written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    lines: NonBlocking,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// That were to be written.
    taken: AtomicU64,
    /// That the writer is done with, one way or another.
    done: AtomicU64,
    /// That it could not write.
    failed: AtomicU64,
    /// Of the lost ones, those that the log tells of.
    told: AtomicU64,
    /// What was done when a wait was given up, and one more; 0 when none was.
    given_up: AtomicU64,
}

impl Queue {
    /// Starts to write to this. When what is answered with it is dropped, what waits is
    /// written first, as far as that takes no longer than a second.
    pub fn start(writer: impl Write + Send + 'static) -> (Self, WorkerGuard) {
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            writer,
            counts: Arc::clone(&counts),
        };
        let (lines, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(MAX_WAITING_LINES)
            .finish(writer);
        (Self { lines, counts }, guard)
    }

    /// Lines that nobody got to see, because too many waited or they could not be
    /// written.
    pub fn lost(&self) -> u64 {
        self.dropped() + self.counts.failed.load(Ordering::Acquire)
    }

    fn dropped(&self) -> u64 {
        let dropped = self.lines.error_counter().dropped_lines();
        u64::try_from(dropped).unwrap_or(u64::MAX)
    }

    /// Says in the log how many lines it has lost since it said so before. When that is
    /// lost as well, the next time says so.
    pub fn tell_lost(&self) {
        let lost = self.lost();
        let lines = lost.saturating_sub(self.counts.told.load(Ordering::Acquire));
        if lines == 0 {
            return;
        }
        warn!(
            lines,
            "lines of the log were lost, nobody read them in time"
        );
        if self.lost() == lost {
            self.counts.told.store(lost, Ordering::Release);
        }
    }

    /// Waits until all that was taken so far is written, but no longer than this, and
    /// not again where nothing was written since that was too short.
    pub fn flush(&self, patience: Duration) {
        let counts = &self.counts;
        let taken = counts.taken.load(Ordering::Acquire);
        let deadline = Instant::now() + patience;
        loop {
            let done = counts.done.load(Ordering::Acquire);
            if done + self.dropped() >= taken || counts.given_up.load(Ordering::Acquire) == done + 1
            {
                return;
            }
            if Instant::now() >= deadline {
                return counts.given_up.store(done + 1, Ordering::Release);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Write for Queue {
    /// Takes a line; never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.taken.fetch_add(1, Ordering::AcqRel);
        self.lines.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}

/// Writes what can be written, counts the rest and is content: the place that it could
/// complain to is the very one that does not work.
struct Writer<W> {
    writer: W,
    counts: Arc<Counts>,
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    /// A whole line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        if self.writer.write_all(line).is_err() {
            self.counts.failed.fetch_add(1, Ordering::AcqRel);
        }
        self.counts.done.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.writer.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A reader that may stop for a while.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        stopped: bool,
        /// A call waits.
        waits: bool,
        broken: bool,
        text: String,
    }

    impl Reader {
        fn change(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn until(&self, is_so: impl Fn(&State) -> bool) {
            let state = self.0.0.lock().unwrap();
            let waited = self
                .0
                .1
                .wait_timeout_while(state, PATIENCE, |it| !is_so(it));
            assert!(!waited.unwrap().1.timed_out());
        }

        fn lines(&self, of: &str) -> usize {
            let state = self.0.0.lock().unwrap();
            state.text.lines().filter(|line| line.contains(of)).count()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.change(|state| state.waits = true);
            self.until(|state| !state.stopped);
            let mut state = self.0.0.lock().unwrap();
            state.waits = false;
            if state.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            state.text.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// So many lines that one more is dropped; the first waits in the writer.
    fn fill(queue: &mut Queue, reader: &Reader) {
        reader.change(|state| state.stopped = true);
        queue.write_all(b"first\n").unwrap();
        reader.until(|state| state.waits);
        for _ in 0..MAX_WAITING_LINES {
            queue.write_all(b"waits\n").unwrap();
        }
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn lost_lines_are_counted_and_told_when_somebody_reads_again() {
        let reader = Reader::default();
        let (mut queue, _guard) = Queue::start(reader.clone());
        super::super::tests::ask_all_threads();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(queue.clone())
            .finish();
        let _log = tracing::subscriber::set_default(log);
        queue.tell_lost();
        fill(&mut queue, &reader);
        for _ in 0..3 {
            queue.write_all(b"dropped\n").unwrap();
        }
        assert_eq!(queue.lost(), 3);
        // This is lost as well.
        queue.tell_lost();
        assert_eq!(queue.lost(), 4);
        reader.change(|state| state.stopped = false);
        queue.flush(PATIENCE);
        assert_eq!(reader.lines("waits"), MAX_WAITING_LINES);
        assert_eq!(reader.lines("dropped"), 0);
        for _ in 0..2 {
            queue.tell_lost();
            queue.flush(PATIENCE);
        }
        assert_eq!(reader.lines("were lost"), 1);
        assert_eq!(reader.lines(" lines=4"), 1);
    }

    #[test]
    fn what_cannot_be_written_is_lost() {
        let reader = Reader::default();
        let (mut queue, _guard) = Queue::start(reader.clone());
        reader.change(|state| state.broken = true);
        queue.write_all(b"gone\n").unwrap();
        queue.flush(PATIENCE);
        assert_eq!(queue.lost(), 1);
        reader.change(|state| state.broken = false);
        queue.write_all(b"here\n").unwrap();
        queue.flush(PATIENCE);
        assert_eq!((queue.lost(), reader.lines("here")), (1, 1));
    }

    #[test]
    fn nobody_waits_long_for_a_reader_that_has_stopped() {
        let reader = Reader::default();
        let (mut queue, _guard) = Queue::start(reader.clone());
        fill(&mut queue, &reader);
        let begin = Instant::now();
        let patience = Duration::from_millis(100);
        queue.flush(patience);
        assert!(begin.elapsed() >= patience);
        // It would not return in the time of the test.
        queue.flush(Duration::from_secs(3600));
        reader.change(|state| state.stopped = false);
        reader.until(|state| !state.text.is_empty());
        queue.flush(PATIENCE);
        assert_eq!(reader.lines("waits"), MAX_WAITING_LINES);
    }
}
