//! Taking connections from the listener: no more than there are descriptors
//! for, and without a flood of log lines when the system refuses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Most connections at a time, WebSockets included, where descriptors allow.
/// More wait in the kernel's backlog until one ends.
pub const MAX_CONNECTIONS: usize = 16_384;

/// Descriptors that are no client's: workers, listener, files, the runtime.
const RESERVED_DESCRIPTORS: u64 = 128;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shortest time between two log lines about accepts that failed.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections one by one.
pub(super) struct Acceptor {
    listener: TcpListener,
    places: Arc<Semaphore>,
    failures: Failures,
}

/// Accepts that failed since the last log line.
#[derive(Debug, Default)]
struct Failures {
    untold: u64,
    last_told: Option<Instant>,
}

impl Acceptor {
    pub fn new(listener: TcpListener) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE);
        let most = limit.map_or(MAX_CONNECTIONS, |(soft, _)| max_connections(soft));
        if most < MAX_CONNECTIONS {
            warn!(most, "the limit of open files bounds the connections");
        }
        Self {
            listener,
            places: Arc::new(Semaphore::new(most)),
            failures: Failures::default(),
        }
    }

    /// The next connection and its place among the others. Cancel safe.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = self.places.clone().acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        loop {
            match self.listener.accept().await {
                Ok((stream, remote)) => return Ok((stream, remote, permit)),
                Err(error) => {
                    if let Some(times) = self.failures.one_more(Instant::now()) {
                        warn!(%error, times, "cannot accept connections");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Most connections under a soft limit of open files.
fn max_connections(open_files: u64) -> usize {
    // Small limits are shared out as well as they can be.
    let reserved = RESERVED_DESCRIPTORS.min(open_files / 2);
    let left = usize::try_from(open_files - reserved).unwrap_or(usize::MAX);
    left.clamp(1, MAX_CONNECTIONS)
}

impl Failures {
    /// One more; how many to tell of, when it is time for that.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self
            .last_told
            .is_some_and(|last| now < last + WARN_INTERVAL)
        {
            return None;
        }
        self.last_told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        assert_eq!(max_connections(u64::MAX), MAX_CONNECTIONS);
        assert_eq!(max_connections(1_048_576), MAX_CONNECTIONS);
        assert_eq!(max_connections(1024), 896);
        assert_eq!(max_connections(64), 32);
        assert_eq!(max_connections(0), 1);
    }

    #[test]
    fn failures_are_told_every_ten_seconds() {
        let begin = Instant::now();
        let mut failures = Failures::default();
        let told = (0..205).filter_map(|step| failures.one_more(begin + step * ACCEPT_PAUSE));
        assert_eq!(told.collect::<Vec<_>>(), [1, 100, 100]);
    }
}
