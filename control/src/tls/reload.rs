//! Certificates that change while the server runs: the one that handshakes are
//! answered with can be replaced, and is when its files change or somebody
//! says so with SIGHUP. Connections that are open keep what they have agreed
//! on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::{Pair, TlsError};
use crate::signals::Hangups;

/// How often the files are looked at. A change is taken once two looks in a
/// row saw the same, for certificate and key are never written at one moment.
const POLL: Duration = Duration::from_secs(2);

/// Looks between two tries to read files that are no good and do not change,
/// at most. They are read again all the same, for it may not have been the
/// content: a file system can be out of reach for a while.
const MAX_PAUSE: u32 = 128;

/// What handshakes are answered with.
#[derive(Debug)]
pub(super) struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    pub fn new(key: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    fn replace(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// What tells one state of a file from another: device, inode, size and the
/// time of the last change, of content or attributes. Links are followed, so a
/// link that points elsewhere counts as well. `None`: not to be seen.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let it = fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.size(), it.ctime(), it.ctime_nsec()))
}

/// When files are to be read again: pure, fed with what is seen of them.
#[derive(Debug)]
struct Changes<S> {
    /// As they were when they were read.
    read: S,
    /// Another state, seen once.
    seen: Option<S>,
    /// Looks between this try to read and the next; 0 when it went well.
    pause: u32,
    /// How many of them are left.
    left: u32,
}

impl<S: PartialEq> Changes<S> {
    fn new(read: S) -> Self {
        Self {
            read,
            seen: None,
            pause: 0,
            left: 0,
        }
    }

    /// What came of reading: what failed is tried again, less and less often.
    fn done(&mut self, well: bool) {
        self.pause = match well {
            true => 0,
            false => (self.pause * 2).clamp(1, MAX_PAUSE),
        };
        self.left = self.pause;
    }

    /// Whether to read, now that the files are in this state.
    fn look(&mut self, now: S) -> bool {
        if now == self.read {
            self.seen = None;
            let waits = self.left > 0;
            self.left = self.left.saturating_sub(1);
            return waits && self.left == 0;
        }
        if self.seen.as_ref() == Some(&now) {
            *self = Self::new(now);
            return true;
        }
        self.seen = Some(now);
        false
    }
}

/// Reads certificate and key again, and puts them in use.
#[derive(Debug)]
pub struct Reloader {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    changes: Changes<[Stamp; 2]>,
    /// What was told of the last try to read, if that failed.
    told: Option<String>,
}

impl Reloader {
    /// Reads the pair for the first time.
    pub(super) fn load(cert: &Path, key: &Path) -> Result<(Self, Pair), TlsError> {
        // Before the content: what changes in between shows at the next look.
        let changes = Changes::new([stamp(cert), stamp(key)]);
        let pair = Pair::read(cert, key)?;
        let reloader = Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: Arc::new(Current::new(pair.certified.clone())),
            changes,
            told: None,
        };
        Ok((reloader, pair))
    }

    /// The resolver of the pair in use.
    pub(super) fn resolver(&self) -> Arc<Current> {
        Arc::clone(&self.current)
    }

    /// Looks at the files, and reads them if they have changed and come to
    /// rest, or could not be used when they were read; answers whether it read
    /// them. Blocks on the file system, as [`Self::reload`] does.
    pub(super) fn poll(&mut self) -> bool {
        let now = [stamp(&self.cert), stamp(&self.key)];
        let reads = self.changes.look(now);
        if reads {
            self.read();
        }
        reads
    }

    /// Reads the files, changed or not.
    pub(super) fn reload(&mut self) {
        self.changes = Changes::new([stamp(&self.cert), stamp(&self.key)]);
        self.told = None;
        self.read();
    }

    /// Puts the files' pair in use if it is any good, else keeps the one in
    /// use; one log line either way, and one for each thing odd about it. What
    /// is still wrong at another try is not told again.
    fn read(&mut self) {
        let pair = Pair::read(&self.cert, &self.key);
        self.changes.done(pair.is_ok());
        match pair {
            Ok(pair) => {
                for note in &pair.notes {
                    warn!("{note}");
                }
                self.current.replace(pair.certified);
                self.told = None;
                info!(certificate = %self.cert.display(), "certificate reloaded");
            }
            Err(error) => {
                let reason = Some(error.to_string());
                if self.told != reason {
                    error!("the certificate in use is kept: {error}");
                    self.told = reason;
                }
            }
        }
    }
}

/// Keeps the certificate up to date, for as long as it is polled.
pub async fn keep_fresh(mut reloader: Reloader, mut hangups: Hangups) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let work: fn(&mut Reloader) = tokio::select! {
            _ = ticks.tick() => |reloader| {
                reloader.poll();
            },
            () = hangups.recv() => Reloader::reload,
        };
        // The files may be on a network that is slow today.
        let done = tokio::task::spawn_blocking(move || {
            work(&mut reloader);
            reloader
        });
        reloader = match done.await {
            Ok(reloader) => reloader,
            Err(error) => return error!(%error, "certificates are no longer reloaded"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_it_has_come_to_rest() {
        let mut changes = Changes::new(0);
        let looks = [
            // Nothing new.
            (0, false),
            // Certificate, then key: read when both are there.
            (1, false),
            (2, false),
            (2, true),
            (2, false),
            // There and back again.
            (3, false),
            (2, false),
            (3, false),
            (3, true),
            (3, false),
        ];
        for (index, (state, want)) in looks.into_iter().enumerate() {
            assert_eq!(changes.look(state), want, "look {index}");
        }
    }

    #[test]
    fn what_could_not_be_used_is_read_again_less_and_less_often() {
        let mut changes = Changes::new(0);
        let mut reads = Vec::new();
        for look in 1..=700 {
            // Half written from the first look on, and never finished.
            if changes.look(1) {
                changes.done(false);
                reads.push(look);
            }
        }
        assert_eq!(reads, [2, 3, 5, 9, 17, 33, 65, 129, 257, 385, 513, 641]);
        // What is new is not made to wait for that, and starts anew.
        assert!(!changes.look(2) && changes.look(2));
        changes.done(false);
        assert!(changes.look(2));
        changes.done(true);
        assert!((0..1000).all(|_| !changes.look(2)));
    }
}
