//! Keeps clients from filling the log. What is told at `info` and above is told so
//! many times in a period for each place in the code, for most places are reached by
//! whatever a client does; the rest is counted, and told in one line. `debug` and
//! `trace` are for who wants to see everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, warn};
use tracing_subscriber::layer::{Context, Filter};

/// How long lines are counted together.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Most lines of one place in the code in a [`PERIOD`]: what a full server logs when
/// everybody comes back at once is less, and a disk lasts. More are left out.
const MOST: u64 = 1000;

/// Counts lines. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Limit(Arc<Mutex<Places>>);

/// Lines by the place in the code; so many entries as there are such places.
type Places = HashMap<Identifier, (&'static Metadata<'static>, u64)>;

impl Limit {
    /// Counts a line; whether it may be told.
    fn take(&self, metadata: &'static Metadata<'static>) -> bool {
        let mut places = self.places();
        let place = places.entry(metadata.callsite());
        let (_, lines) = place.or_insert((metadata, 0));
        *lines += 1;
        *lines <= MOST
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

    /// Begins another period whenever one is over.
    pub async fn keep_turning(self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.turn();
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || self.take(metadata)
    }
}
