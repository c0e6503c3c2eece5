//! Keeps clients from filling the log, that of the control plane and that of each media
//! worker. What is told at `info` and above is told so many times in a period for each
//! place in the code, for most places are reached by whatever a client does; the rest is
//! counted, and told in one line. `debug` and `trace` are for who wants to see
//! everything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, warn};
use tracing_subscriber::layer::{Context, Filter};

/// How long lines are counted together.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Most lines of one place in the code in a [`PERIOD`]: what a full server logs when
/// everybody comes back at once is less, and a disk lasts. More are left out.
pub const MOST: u64 = 1000;

/// Counts lines, and lets through what is not too many. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Limit(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    places: Mutex<Places>,
    left_out: AtomicU64,
    /// What has this target is limited elsewhere.
    except: Option<&'static str>,
}

/// Lines by the place in the code; so many entries as there are such places.
type Places = HashMap<Identifier, (&'static Metadata<'static>, u64)>;

impl Limit {
    /// One that lets through whatever has this target: it comes from a log that has a
    /// limit of its own, and all of it through the same few places.
    pub fn except(target: &'static str) -> Self {
        Self(Arc::new(Inner {
            except: Some(target),
            ..Inner::default()
        }))
    }

    /// How many lines were left out since the start.
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Counts a line; whether it may be told.
    fn take(&self, metadata: &'static Metadata<'static>) -> bool {
        let mut places = self.places();
        let place = places.entry(metadata.callsite());
        let (_, lines) = place.or_insert((metadata, 0));
        *lines += 1;
        let may_be_told = *lines <= MOST;
        if !may_be_told {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
        }
        may_be_told
    }

    /// Begins another period, and tells what was left out in the last one.
    pub fn turn(&self) {
        // Not held below: what is told there is counted as well.
        let places = std::mem::take(&mut *self.places());
        for (metadata, lines) in places.into_values() {
            if lines > MOST {
                let place = format!(
                    "{}:{}",
                    metadata.target(),
                    metadata.line().unwrap_or_default()
                );
                let left_out = lines - MOST;
                warn!(
                    place,
                    left_out, "too many lines of one kind, some are left out"
                );
            }
        }
    }

    /// Begins another period whenever one is over. Never ends.
    pub async fn keep_turning(self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.turn();
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let is_free = *metadata.level() > Level::INFO || self.0.except == Some(metadata.target());
        is_free || self.take(metadata)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, fmt};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        /// Lines so far that have `of` in them.
        fn lines(&self, of: &str) -> usize {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| line.contains(of)).count()
        }
    }

    fn start(limit: &Limit) -> (Memory, tracing::subscriber::DefaultGuard) {
        let memory = Memory::default();
        let writer = memory.clone();
        let lines = fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(lines.with_filter(limit.clone()));
        (memory, tracing::subscriber::set_default(log))
    }

    #[test]
    fn one_kind_of_line_does_not_fill_the_log() {
        let limit = Limit::except("elsewhere");
        let (memory, _log) = start(&limit);
        let come = |n: u64| tracing::info!(n, "somebody came");
        for n in 0..MOST + 500 {
            come(n);
            tracing::debug!(n, "something of interest");
            tracing::warn!(target: "elsewhere", n, "carried");
        }
        tracing::info!("something else");
        assert_eq!(limit.left_out(), 500);
        limit.turn();
        // Another period.
        come(0);
        limit.turn();
        limit.turn();
        assert_eq!(memory.lines("somebody came"), 1001);
        assert_eq!(memory.lines("something of interest"), 1500);
        assert_eq!(memory.lines("carried"), 1500);
        assert_eq!(memory.lines("something else"), 1);
        assert_eq!(memory.lines("some are left out"), 1);
        assert_eq!(memory.lines(" left_out=500"), 1);
        assert_eq!(memory.lines(" place=\"log_limit::tests:"), 1);
        assert_eq!(limit.left_out(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_out_is_told_while_it_goes_on() {
        let limit = Limit::default();
        let (memory, _log) = start(&limit);
        let turning = limit.clone().keep_turning();
        let telling = async {
            for _ in 0..6 {
                // Too many, however many of these times are in one period.
                for n in 0..=MOST {
                    tracing::info!(n, "somebody came");
                }
                tokio::time::sleep(PERIOD / 2).await;
            }
        };
        tokio::select! {
            () = telling => {}
            () = turning => {}
        }
        assert!(memory.lines("some are left out") >= 2);
    }
}
