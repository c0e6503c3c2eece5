//! Webhooks: telling a room's `eventNotificationUri` who joined and who left.
//!
//! Each change is one POST with a JSON object: `id` (of the event), `roomId`,
//! `peerId`, `event` (`peer-joined` or `peer-left`), for `peer-left` a
//! `reason`, `timestamp` (milliseconds since 1970 UTC) and `sequence` (counts
//! from 1 in each life of a room, so a gap shows events that were lost). With a
//! secret, the header `X-Webhook-Signature` is `sha256=` and the HMAC-SHA256 of
//! the body in lower-case hexadecimal.
//!
//! Events of one room to one URI leave one after another. Any 2xx answer
//! acknowledges; everything else is tried again, unchanged, until the event is
//! too old. A receiver may thus get an event twice, and knows it by its `id`.
//! Reporting never waits: the queue is in memory, and what does not fit is
//! counted and dropped.

mod address;
mod send;

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use url::Url;
use uuid::Uuid;

use crate::config::{Config, Secret};
use send::{Failure, Sender};

/// Most events of one room that wait. When they are full, new ones are dropped
/// and counted; their sequence numbers are missing at the receiver.
pub const MAX_QUEUED_PER_ROOM: usize = 256;

/// Most events that wait in all. When they are full, new ones are dropped, as
/// with [`MAX_QUEUED_PER_ROOM`]; but a room that has none waiting may always
/// queue one, so that receivers that are down cannot silence the others.
pub const MAX_QUEUED: usize = 8192;

/// Most rooms that have events waiting. Rooms are made and left faster than a
/// receiver that hangs gives up on them; events of more are dropped.
const MAX_TARGETS: usize = 16_384;

/// Most POSTs under way. More wait for one to end, in the time of their event.
const MAX_TRIES_UNDER_WAY: usize = 64;

/// Shortest time between two log lines about events that were dropped.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Time for the events that still wait when the server ends.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

/// How events are tried again.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time for one POST, from looking the host up to the head of the answer.
    pub try_timeout: Duration,
    /// Pause after the first failure. It doubles with each one.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// Age at which an event is not tried again, nor for the first time.
    pub give_up_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            try_timeout: Duration::from_secs(5),
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            give_up_after: Duration::from_secs(300),
        }
    }
}

/// What happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It joined.
    PeerJoined,
    /// It is gone, after it had joined.
    PeerLeft(LeftReason),
}

/// Why a peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftReason {
    /// It said so.
    Left,
    /// Its connection ended, or another session of it took over.
    Disconnected,
    /// The room broke down under it: its media worker is gone. It may come back.
    RoomLost,
    /// The server ends.
    Shutdown,
    /// An admin put it out, or closed the room.
    Removed,
}

impl LeftReason {
    fn as_str(self) -> &'static str {
        match self {
            LeftReason::Left => "left",
            LeftReason::Disconnected => "disconnected",
            LeftReason::RoomLost => "room-lost",
            LeftReason::Shutdown => "shutdown",
            LeftReason::Removed => "removed",
        }
    }
}

/// What became of events so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged.
    pub delivered: u64,
    /// POSTs that failed; their events may have been delivered later.
    pub failed_tries: u64,
    /// Given up.
    pub undelivered: u64,
    /// Never tried, because the queue was full.
    pub dropped: u64,
    /// Waiting or under way.
    pub queued: usize,
}

/// Sends webhooks. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    inner: Arc<Inner>,
}

struct Inner {
    sender: Sender,
    key: Option<hmac::Key>,
    pace: Pace,
    queues: Mutex<Queues>,
    tries: Semaphore,
    /// Pauses end, and nothing is tried a second time.
    draining: CancellationToken,
    tasks: TaskTracker,
    delivered: AtomicU64,
    failed_tries: AtomicU64,
    undelivered: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicUsize,
}

/// What is to be sent. A queue exists for as long as a task works on it.
#[derive(Default)]
struct Queues {
    by_target: HashMap<Arc<Target>, VecDeque<Queued>>,
    dropped: Untold,
    given_up: Untold,
}

/// Events of one kind that no log line has told of yet.
#[derive(Default)]
struct Untold {
    events: u64,
    last_told: Option<Instant>,
}

/// Whose events, and where to. A room that is made anew while events of the
/// former one wait gets into the same line behind them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Target {
    room: String,
    uri: Url,
}

/// An event as it is sent, on every try the same.
struct Queued {
    sequence: u64,
    body: Bytes,
    since: Instant,
}

/// One room's way to its receiver.
pub struct Reporter {
    webhooks: Webhooks,
    target: Arc<Target>,
    /// Of the last event.
    sequence: u64,
}

impl Webhooks {
    /// Starts with nothing to send.
    pub fn new(config: &Config, pace: Pace) -> Self {
        let key = |secret: &Secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let inner = Inner {
            sender: Sender::new(config.webhook_allow_private),
            key: config.webhook_secret.as_ref().map(key),
            pace,
            queues: Mutex::default(),
            tries: Semaphore::new(MAX_TRIES_UNDER_WAY),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            delivered: AtomicU64::new(0),
            failed_tries: AtomicU64::new(0),
            undelivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A way for the events of one life of a room.
    pub fn reporter(&self, room: &str, uri: Url) -> Reporter {
        let room = room.to_owned();
        Reporter {
            webhooks: self.clone(),
            target: Arc::new(Target { room, uri }),
            sequence: 0,
        }
    }

    /// What became of events so far.
    pub fn counts(&self) -> Counts {
        let inner = &self.inner;
        Counts {
            delivered: inner.delivered.load(Ordering::Relaxed),
            failed_tries: inner.failed_tries.load(Ordering::Relaxed),
            undelivered: inner.undelivered.load(Ordering::Relaxed),
            dropped: inner.dropped.load(Ordering::Relaxed),
            queued: inner.queued.load(Ordering::Relaxed),
        }
    }

    /// Tries what still waits once more, for half a second at most. Events that
    /// are reported later are tried once.
    pub async fn flush(&self) {
        self.inner.draining.cancel();
        self.inner.tasks.close();
        if timeout(FLUSH_DEADLINE, self.inner.tasks.wait())
            .await
            .is_err()
        {
            let events = self.counts().queued;
            warn!(events, "webhook events are lost with the end of the server");
        }
    }

    fn enqueue(&self, target: &Arc<Target>, queued: Queued) {
        let mut queues = self.queues();
        let total = self.inner.queued.load(Ordering::Relaxed);
        // One whose only event is under way has a queue, though an empty one.
        let own = queues.by_target.get(target).map(VecDeque::len);
        let full = match own {
            Some(own) => total >= MAX_QUEUED || own >= MAX_QUEUED_PER_ROOM,
            None => queues.by_target.len() >= MAX_TARGETS,
        };
        if full {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
            if let Some(events) = queues.dropped.one_more(Instant::now()) {
                warn!(room = target.room, events, "webhook queue full, dropping");
            }
            return;
        }
        self.inner.queued.fetch_add(1, Ordering::Relaxed);
        if let Some(queue) = queues.by_target.get_mut(target) {
            queue.push_back(queued);
            return;
        }
        let queue = VecDeque::from([queued]);
        queues.by_target.insert(target.clone(), queue);
        let (webhooks, target) = (self.clone(), target.clone());
        self.inner.tasks.spawn(async move {
            while let Some(queued) = webhooks.next(&target) {
                if webhooks.is_too_old(&queued) {
                    webhooks.give_up(&target, &queued, "it is too old to be tried");
                } else {
                    webhooks.deliver(&target, &queued).await;
                }
                webhooks.inner.queued.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// The next event of a queue; an empty queue goes.
    fn next(&self, target: &Arc<Target>) -> Option<Queued> {
        let mut queues = self.queues();
        let next = queues.by_target.get_mut(target)?.pop_front();
        if next.is_none() {
            queues.by_target.remove(target);
        }
        next
    }

    /// Whether an event has waited too long behind others to be tried at all.
    /// When the server ends, each gets its last chance.
    fn is_too_old(&self, event: &Queued) -> bool {
        let age = Instant::now().saturating_duration_since(event.since);
        age >= self.inner.pace.give_up_after && !self.inner.draining.is_cancelled()
    }

    /// One log line for the first of many.
    fn give_up(&self, target: &Target, event: &Queued, reason: impl Display) {
        self.inner.undelivered.fetch_add(1, Ordering::Relaxed);
        let (room, sequence) = (&target.room, event.sequence);
        let told = self.queues().given_up.one_more(Instant::now());
        match told {
            Some(events) => warn!(room, sequence, events, %reason, "webhook events given up"),
            None => debug!(room, sequence, %reason, "webhook event given up"),
        }
    }

    /// Tries until the receiver acknowledges, or it is too late. The URI may
    /// carry credentials, so no log line has it.
    async fn deliver(&self, target: &Target, event: &Queued) {
        let (inner, room, sequence) = (&self.inner, &target.room, event.sequence);
        let signature = inner.key.as_ref().map(|key| sign(key, &event.body));
        let give_up_at = event.since + inner.pace.give_up_after;
        let mut pause = inner.pace.pause_min;
        loop {
            let last = inner.draining.is_cancelled();
            let failure = match self.try_once(target, event, signature.as_deref()).await {
                Ok(()) => {
                    inner.delivered.fetch_add(1, Ordering::Relaxed);
                    return debug!(room, sequence, "webhook delivered");
                }
                Err(failure) => failure,
            };
            inner.failed_tries.fetch_add(1, Ordering::Relaxed);
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            if last || failure.is_final() || Instant::now() + jittered >= give_up_at {
                return self.give_up(target, event, failure);
            }
            debug!(room, sequence, %failure, "webhook failed");
            tokio::select! {
                () = sleep(jittered) => {}
                () = inner.draining.cancelled() => {}
            }
            pause = (pause * 2).min(inner.pace.pause_max);
        }
    }

    async fn try_once(
        &self,
        target: &Target,
        event: &Queued,
        signature: Option<&str>,
    ) -> Result<(), Failure> {
        let inner = &self.inner;
        // Whoever waits for others to end waits in the time of its event.
        let too_old = event.since + inner.pace.give_up_after;
        let permit = timeout_at(too_old, inner.tries.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Failure::NoTurn);
        };
        let post = inner.sender.post(&target.uri, &event.body, signature);
        let answer = timeout(inner.pace.try_timeout, post).await;
        answer.unwrap_or(Err(Failure::TimedOut))
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // No code panics while it changes the queues.
        let queues = self.inner.queues.lock();
        queues.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// Queues an event. Never waits, never fails: see [`MAX_QUEUED_PER_ROOM`].
    pub fn report(&mut self, peer: &str, event: Event) {
        self.sequence += 1;
        let body = body(&self.target.room, peer, event, self.sequence);
        let queued = Queued {
            sequence: self.sequence,
            body: body.to_string().into(),
            since: Instant::now(),
        };
        self.webhooks.enqueue(&self.target, queued);
    }
}

impl Untold {
    /// One more event; how many to tell of, when it is time for that.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        if self
            .last_told
            .is_some_and(|last| now < last + WARN_INTERVAL)
        {
            return None;
        }
        self.last_told = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

fn body(room: &str, peer: &str, event: Event, sequence: u64) -> Value {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let timestamp = since_1970.unwrap_or_default().as_millis();
    let mut body = json!({
        "id": Uuid::new_v4().to_string(),
        "roomId": room,
        "peerId": peer,
        "event": match event {
            Event::PeerJoined => "peer-joined",
            Event::PeerLeft(_) => "peer-left",
        },
        "timestamp": u64::try_from(timestamp).unwrap_or(u64::MAX),
        "sequence": sequence,
    });
    if let (Event::PeerLeft(reason), Value::Object(fields)) = (event, &mut body) {
        fields.insert("reason".into(), reason.as_str().into());
    }
    body
}

/// `sha256=` and the HMAC of the body in lower-case hexadecimal.
fn sign(key: &hmac::Key, body: &[u8]) -> String {
    let tag = hmac::sign(key, body);
    let hex = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("sha256=".to_owned()).chain(hex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        // RFC 4231, test case 2.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        assert_eq!(
            sign(&key, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn events_that_are_lost_are_told_every_ten_seconds() {
        let begin = Instant::now();
        let mut untold = Untold::default();
        let step = Duration::from_millis(100);
        let told = (0..205).filter_map(|i| untold.one_more(begin + step * i));
        assert_eq!(told.collect::<Vec<_>>(), [1, 100, 100]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_what_is_new() {
        let webhooks = Webhooks::new(&Config::default(), Pace::default());
        // Nobody works on the queue: the task never gets its turn.
        let uri: Url = "http://127.0.0.1:9/".parse().unwrap();
        let mut reporter = webhooks.reporter("room", uri.clone());
        for _ in 0..MAX_QUEUED_PER_ROOM + 3 {
            reporter.report("peer", Event::PeerJoined);
        }
        assert_eq!(webhooks.counts().dropped, 3);
        assert_eq!(webhooks.counts().queued, MAX_QUEUED_PER_ROOM);
        // Other rooms have their own queues, up to the common limit.
        let fill = |rooms: std::ops::Range<usize>| {
            for room in rooms {
                let mut reporter = webhooks.reporter(&room.to_string(), uri.clone());
                for _ in 0..MAX_QUEUED_PER_ROOM / 2 {
                    reporter.report("peer", Event::PeerJoined);
                }
            }
            webhooks.counts().queued
        };
        let full = 2 * MAX_QUEUED / MAX_QUEUED_PER_ROOM - 2;
        assert_eq!(fill(0..full), MAX_QUEUED);
        assert_eq!(reporter.sequence, MAX_QUEUED_PER_ROOM as u64 + 3);
        // From there on it is one for each room.
        assert_eq!(fill(0..full), MAX_QUEUED);
        assert_eq!(fill(full..full + 5), MAX_QUEUED + 5);
        assert_eq!(fill(full..full + 5), MAX_QUEUED + 5);
        // And not for any number of rooms.
        for room in full..full + MAX_TARGETS {
            let mut reporter = webhooks.reporter(&room.to_string(), uri.clone());
            reporter.report("peer", Event::PeerJoined);
        }
        assert_eq!(webhooks.queues().by_target.len(), MAX_TARGETS);
        let most = MAX_QUEUED + MAX_TARGETS;
        assert!(webhooks.counts().queued < most, "{:?}", webhooks.counts());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_waits_for_its_turn_no_longer_than_it_may_live() {
        let pace = Pace::default();
        let webhooks = Webhooks::new(&Config::default(), pace);
        let all = u32::try_from(MAX_TRIES_UNDER_WAY).unwrap();
        let _others = webhooks.inner.tries.acquire_many(all).await.unwrap();
        let uri: Url = "http://127.0.0.1:9/".parse().unwrap();
        let begin = Instant::now();
        webhooks
            .reporter("room", uri)
            .report("peer", Event::PeerJoined);
        while webhooks.counts().queued > 0 {
            sleep(Duration::from_secs(1)).await;
            assert!(begin.elapsed() < pace.give_up_after * 2, "it waits on");
        }
        assert!(begin.elapsed() >= pace.give_up_after);
        assert_eq!(webhooks.counts().undelivered, 1);
    }
}
