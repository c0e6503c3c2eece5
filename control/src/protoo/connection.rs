//! One client's WebSocket: a task that reads requests into its owner's inbox
//! and writes what the owner queued, and the [`Handle`] by which the owner
//! speaks to it without ever waiting for the client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tracing::debug;

use super::dialect::Dialect;
use super::message::{self, Message, Request};
use crate::error::Error;

/// Longest message that a client may send, bytes; a longer one closes the socket.
pub const MAX_MESSAGE_SIZE: usize = 960_000;

/// Most frames waiting for a client that reads slowly. More, and the socket is
/// closed with [`Close::TOO_SLOW`]: the client comes back to a fresh session.
const MAX_QUEUED_FRAMES: usize = 8192;

/// Most bytes waiting for a client that reads slowly; then as above.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// Most requests that a client may leave unanswered; then as above.
const MAX_PENDING_REQUESTS: usize = 8192;

/// Interval of the WebSocket pings.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// Time for anything to arrive after a ping before the client counts as gone:
/// it is gone when nothing was heard for [`PING_INTERVAL`] and this.
const PING_GRACE: Duration = Duration::from_secs(10);

/// Time for what is queued to leave, and then for the client's own close frame.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Identity of one connection, never used twice in the life of the process.
/// Later connections have greater ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// A new identity.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Which connection.
    pub session: SessionId,
    /// How its client spells the protocol.
    pub dialect: Dialect,
    /// Where the client is, as far as is known.
    pub remote: Option<SocketAddr>,
}

/// A WebSocket close code and its reason. protoo clients reconnect by
/// themselves on every code but 4000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// RFC 6455 section 7.4, or 4000: final.
    pub code: u16,
    /// At most 123 bytes.
    pub reason: &'static str,
}

impl Close {
    /// A final decision: the client must not come back by itself.
    pub const FINAL: Close = Close::new(4000, "closed by protoo-server");
    /// The room was lost or closed under the client; a fresh one awaits it.
    pub const ROOM_LOST: Close = Close::new(1012, "room closed");
    /// Connected, but did not join in time. Not final: a page that sat behind a
    /// permission prompt may come back.
    pub const NOT_JOINED: Close = Close::new(1008, "not joined in time");
    /// The media of a client that ends with it is gone. Not final: its network
    /// may be back by now, and the client with it.
    pub const MEDIA_LOST: Close = Close::new(1001, "media connection lost");
    /// The client reads slower than it is told things.
    pub const TOO_SLOW: Close = Close::new(1013, "too slow");
    const KEEPALIVE: Close = Close::new(1001, "keepalive timeout");
    const TOO_BIG: Close = Close::new(1009, "message too big");
    const MALFORMED: Close = Close::new(1002, "malformed frame");

    /// A close code with its reason.
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

/// What a connection tells its owner.
#[derive(Debug)]
pub enum Inbound {
    /// The client asks for something, in the seed's words.
    Request(SessionId, Request),
    /// The client wants something done, and no answer: method and data.
    Action(SessionId, String, Value),
    /// The client answered, or failed to answer, the request with this tag.
    Answer(SessionId, String, Result<(), Refusal>),
    /// The socket is closed; nothing follows.
    Closed(SessionId),
}

/// Why a request of the server was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client said no, with its reason.
    Rejected(String),
    /// The client said nothing in time.
    TimedOut,
}

/// A notification, serialised once in each dialect for many connections.
#[derive(Debug)]
pub struct Notification<'a> {
    method: &'a str,
    data: &'a Value,
    seed: OnceLock<Vec<Utf8Bytes>>,
    newest: OnceLock<Vec<Utf8Bytes>>,
}

impl<'a> Notification<'a> {
    /// A notification in the seed's words.
    pub fn new(method: &'a str, data: &'a Value) -> Self {
        Self {
            method,
            data,
            seed: OnceLock::new(),
            newest: OnceLock::new(),
        }
    }

    fn frames(&self, dialect: Dialect) -> &[Utf8Bytes] {
        let cell = match dialect {
            Dialect::Seed => &self.seed,
            Dialect::Newest => &self.newest,
        };
        cell.get_or_init(|| {
            let told = dialect.notifications(self.method, self.data).into_iter();
            told.map(|(method, data)| message::notification(method, &data).into())
                .collect()
        })
    }
}

/// The owner's end of a connection. Nothing here waits.
#[derive(Debug, Clone)]
pub struct Handle {
    identity: Identity,
    frames: mpsc::Sender<Utf8Bytes>,
    shared: Arc<Shared>,
}

/// The socket's end of a connection, for [`run`].
#[derive(Debug)]
pub struct Wire {
    identity: Identity,
    frames: mpsc::Receiver<Utf8Bytes>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queued_bytes: AtomicUsize,
    pending: Mutex<Pending>,
    last_heard: Mutex<Instant>,
    closing: watch::Sender<Option<Close>>,
}

/// Requests that the client has not answered yet.
#[derive(Debug, Default)]
struct Pending {
    last_id: u64,
    requests: HashMap<u64, (String, Instant)>,
}

/// The two ends of a connection.
pub fn channel(identity: Identity) -> (Handle, Wire) {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_FRAMES);
    let shared = Arc::new(Shared {
        queued_bytes: AtomicUsize::new(0),
        pending: Mutex::default(),
        last_heard: Mutex::new(Instant::now()),
        closing: watch::Sender::new(None),
    });
    let handle = Handle {
        identity,
        frames: sender,
        shared: shared.clone(),
    };
    let wire = Wire {
        identity,
        frames: receiver,
        shared,
    };
    (handle, wire)
}

impl Handle {
    /// Which connection this is.
    pub fn session(&self) -> SessionId {
        self.identity.session
    }

    /// How its client spells the protocol.
    pub fn dialect(&self) -> Dialect {
        self.identity.dialect
    }

    /// Where its client is, as far as is known.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.identity.remote
    }

    /// Answers the client's request `id`, which was for `method`.
    pub fn respond(&self, id: u64, method: &str, result: &Result<Value, Error>) {
        let frame = match result {
            Ok(data) => message::success(id, &self.dialect().response(method, data)),
            Err(error) => message::error(id, error.protoo_code(), &error.to_string()),
        };
        self.send(frame.into());
    }

    /// Sends a notification.
    pub fn notify(&self, notification: &Notification<'_>) {
        for frame in notification.frames(self.dialect()) {
            self.send(frame.clone());
        }
    }

    /// Sends a request; its outcome reaches the owner as [`Inbound::Answer`]
    /// with this tag.
    pub fn request(&self, method: &str, data: &Value, tag: String) {
        let id = {
            let mut pending = lock(&self.shared.pending);
            let open = pending.requests.len();
            if open >= MAX_PENDING_REQUESTS {
                drop(pending);
                return self.close(Close::TOO_SLOW);
            }
            pending.last_id += 1;
            let id = pending.last_id;
            let deadline = Instant::now() + request_timeout(open);
            pending.requests.insert(id, (tag, deadline));
            id
        };
        let data = self.dialect().server_request(method, data);
        self.send(message::request(id, method, &data).into());
    }

    /// Closes the socket after what is queued has left. The first call decides
    /// the code.
    pub fn close(&self, close: Close) {
        self.shared.close(close);
    }

    fn send(&self, frame: Utf8Bytes) {
        let size = frame.len();
        let queued = self.shared.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if queued + size > MAX_QUEUED_BYTES || self.frames.try_send(frame).is_err() {
            self.shared.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.close(Close::TOO_SLOW);
        }
    }
}

impl Shared {
    fn close(&self, close: Close) {
        self.closing.send_if_modified(|state| {
            let first = state.is_none();
            state.get_or_insert(close);
            first
        });
    }

    /// Waits for [`Shared::close`].
    async fn closed(&self) -> Close {
        let mut closing = self.closing.subscribe();
        loop {
            if let Some(close) = *closing.borrow_and_update() {
                return close;
            }
            if closing.changed().await.is_err() {
                return Close::ROOM_LOST;
            }
        }
    }

    /// As [`Shared::closed`], and then for a write under way to come to its end.
    async fn closed_and_overdue(&self) -> Close {
        let close = self.closed().await;
        sleep(CLOSE_GRACE).await;
        close
    }

    /// Waits until nothing was heard for so long that a ping must have gone
    /// unanswered, or could not even be sent.
    async fn silent(&self) -> Close {
        loop {
            let gone = *lock(&self.last_heard) + PING_INTERVAL + PING_GRACE;
            if gone <= Instant::now() {
                return Close::KEEPALIVE;
            }
            sleep_until(gone).await;
        }
    }

    fn answered(&self, id: u64) -> Option<String> {
        let (tag, _) = lock(&self.pending).requests.remove(&id)?;
        Some(tag)
    }

    fn expired(&self, now: Instant) -> Vec<String> {
        let late = |_: &u64, (_, deadline): &mut (String, Instant)| *deadline <= now;
        let mut pending = lock(&self.pending);
        pending
            .requests
            .extract_if(late)
            .map(|(_, (tag, _))| tag)
            .collect()
    }
}

/// Time that a client has to answer a request when `open` others are open.
fn request_timeout(open: usize) -> Duration {
    Duration::from_millis(30_000 + 200 * open as u64)
}

/// Carries one connection until it closes, whoever closes it; then tells the
/// owner. Ends when the socket is finished.
pub async fn run<S, E>(socket: S, mut wire: Wire, inbox: mpsc::Sender<E>)
where
    S: Stream<Item = Result<Frame, axum::Error>> + Sink<Frame>,
    E: From<Inbound>,
{
    let (mut sink, mut stream) = socket.split();
    let (identity, shared) = (wire.identity, wire.shared.clone());
    let session = identity.session;
    let close = tokio::select! {
        close = read(&mut stream, identity, &shared, &inbox) => close,
        close = write(&mut sink, &mut wire, &inbox) => close,
        // Neither may depend on a sink that takes nothing, or on a full inbox.
        close = shared.closed_and_overdue() => Some(close),
        close = shared.silent() => Some(close),
    };
    debug!(?session, ?close, "connection closing");
    let tell_owner = inbox.send(Inbound::Closed(session).into());
    let goodbye = say_goodbye(&mut sink, &mut stream, &mut wire, close);
    // An owner that is gone needs no telling.
    let _ = tokio::join!(tell_owner, goodbye);
}

/// Reads until the client closes (`None`) or has to be closed.
async fn read<E: From<Inbound>>(
    stream: &mut (impl Stream<Item = Result<Frame, axum::Error>> + Unpin),
    identity: Identity,
    shared: &Shared,
    inbox: &mpsc::Sender<E>,
) -> Option<Close> {
    let Identity {
        session, dialect, ..
    } = identity;
    while let Some(frame) = stream.next().await {
        *lock(&shared.last_heard) = Instant::now();
        let text = match frame {
            Ok(Frame::Text(text)) => text,
            Ok(Frame::Close(_)) => return None,
            // Pings are answered below us; protoo knows no binary frames.
            Ok(_) => continue,
            Err(error) => return close_for(error),
        };
        let inbound = match message::parse(&text) {
            Some(Message::Request(request)) => Inbound::Request(session, dialect.request(request)),
            Some(Message::Response(response)) => {
                let Some(tag) = shared.answered(response.id) else {
                    debug!(?session, id = response.id, "response to no request");
                    continue;
                };
                let result = response.result;
                Inbound::Answer(
                    session,
                    tag,
                    result.map_err(|r| Refusal::Rejected(r.reason)),
                )
            }
            Some(Message::Notification { method, data }) if dialect.is_action(&method) => {
                Inbound::Action(session, method, data)
            }
            Some(Message::Notification { method, .. }) => {
                debug!(?session, method, "notification ignored");
                continue;
            }
            None => {
                debug!(?session, "malformed message dropped");
                continue;
            }
        };
        // A full inbox stops reading here: back-pressure for this client alone.
        if inbox.send(inbound.into()).await.is_err() {
            return Some(Close::ROOM_LOST);
        }
    }
    None
}

/// The close code for a socket that cannot be read any further; `None` when
/// it is already gone.
fn close_for(error: axum::Error) -> Option<Close> {
    let error = error.into_inner();
    match error.downcast_ref::<tungstenite::Error>()? {
        tungstenite::Error::Capacity(_) => Some(Close::TOO_BIG),
        tungstenite::Error::Utf8(_) => Some(Close::MALFORMED),
        tungstenite::Error::Protocol(error) => match error {
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake => None,
            _ => Some(Close::MALFORMED),
        },
        _ => None,
    }
}

/// Writes what is queued, pings, and expires requests, until the socket breaks
/// (`None`) or has to be closed. A client that does not read makes this wait
/// without end; [`run`] watches for that.
async fn write<E: From<Inbound>>(
    sink: &mut (impl Sink<Frame> + Unpin),
    wire: &mut Wire,
    inbox: &mpsc::Sender<E>,
) -> Option<Close> {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pinged = Instant::now();
    let shared = wire.shared.clone();
    loop {
        tokio::select! {
            biased;
            close = shared.closed() => return Some(close),
            frame = wire.frames.recv() => {
                // No handle is left: the owner vanished without a word.
                let Some(frame) = frame else { return Some(Close::ROOM_LOST) };
                write_all(sink, wire, frame).await.ok()?;
                continue;
            }
            _ = tick.tick() => {}
        }
        // Not the tick's own instant: that is when it was due.
        let now = Instant::now();
        for tag in wire.shared.expired(now) {
            let answer = Inbound::Answer(wire.identity.session, tag, Err(Refusal::TimedOut));
            if inbox.send(answer.into()).await.is_err() {
                return Some(Close::ROOM_LOST);
            }
        }
        if now >= pinged + PING_INTERVAL {
            pinged = now;
            sink.send(Frame::Ping(Default::default())).await.ok()?;
        }
    }
}

/// Writes `first` and everything queued behind it, then flushes once.
async fn write_all<S: Sink<Frame> + Unpin>(
    sink: &mut S,
    wire: &mut Wire,
    first: Utf8Bytes,
) -> Result<(), S::Error> {
    let mut next = Some(first);
    while let Some(frame) = next {
        let size = frame.len();
        wire.shared.queued_bytes.fetch_sub(size, Ordering::Relaxed);
        sink.feed(Frame::Text(frame)).await?;
        next = wire.frames.try_recv().ok();
    }
    sink.flush().await
}

/// Lets what is queued leave, then closes the socket, all within bounds.
async fn say_goodbye(
    sink: &mut (impl Sink<Frame> + Unpin),
    stream: &mut (impl Stream<Item = Result<Frame, axum::Error>> + Unpin),
    wire: &mut Wire,
    close: Option<Close>,
) {
    let Some(close) = close else {
        // The client closed; this sends the answer to its close frame.
        let _ = timeout(CLOSE_GRACE, sink.close()).await;
        return;
    };
    wire.frames.close();
    let farewell = async {
        if let Ok(frame) = wire.frames.try_recv() {
            write_all(sink, wire, frame).await.ok()?;
        }
        let frame = CloseFrame {
            code: close.code,
            reason: close.reason.into(),
        };
        sink.send(Frame::Close(Some(frame))).await.ok()
    };
    if let Ok(Some(())) = timeout(CLOSE_GRACE, farewell).await {
        let client_closes = async { while let Some(Ok(_)) = stream.next().await {} };
        let _ = timeout(CLOSE_GRACE, client_closes).await;
    }
}

/// A panic while holding one of these locks leaves nothing half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use serde_json::json;
    use tokio::task::JoinHandle;

    use super::*;

    /// A socket whose other end is the test.
    struct Socket {
        incoming: mpsc::Receiver<Result<Frame, axum::Error>>,
        outgoing: mpsc::UnboundedSender<Frame>,
        /// Takes nothing, as a client that does not read.
        stuck: bool,
    }

    impl Stream for Socket {
        type Item = Result<Frame, axum::Error>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.incoming.poll_recv(cx)
        }
    }

    impl Sink<Frame> for Socket {
        type Error = axum::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.stuck {
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<(), Self::Error> {
            self.outgoing.send(frame).map_err(axum::Error::new)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
    }

    struct Test {
        handle: Handle,
        client: mpsc::Sender<Result<Frame, axum::Error>>,
        sent: mpsc::UnboundedReceiver<Frame>,
        inbox: mpsc::Receiver<Inbound>,
        task: JoinHandle<()>,
    }

    fn start(stuck: bool) -> Test {
        start_in(Dialect::Seed, stuck)
    }

    fn start_in(dialect: Dialect, stuck: bool) -> Test {
        let (handle, wire) = channel(Identity {
            session: SessionId::next(),
            dialect,
            remote: None,
        });
        let (client, incoming) = mpsc::channel(8);
        let (outgoing, sent) = mpsc::unbounded_channel();
        let (inbox_sender, inbox) = mpsc::channel(8);
        let socket = Socket {
            incoming,
            outgoing,
            stuck,
        };
        let task = tokio::spawn(run(socket, wire, inbox_sender));
        Test {
            handle,
            client,
            sent,
            inbox,
            task,
        }
    }

    impl Test {
        async fn says(&self, text: &str) {
            self.client.send(Ok(Frame::text(text))).await.unwrap();
        }

        async fn close_code(&mut self) -> Option<u16> {
            while let Some(frame) = self.sent.recv().await {
                if let Frame::Close(frame) = frame {
                    return frame.map(|frame| frame.code);
                }
            }
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_answers() {
        let mut test = start(false);
        test.handle.request("newConsumer", &json!({}), "c1".into());
        test.handle.request("newConsumer", &json!({}), "c2".into());
        test.says(r#"{"response":true,"id":2,"ok":false,"errorReason":"no"}"#)
            .await;
        test.says(r#"{"response":true,"id":1,"ok":true}"#).await;
        // Neither a second answer nor one to nothing reaches the owner.
        test.says(r#"{"response":true,"id":1,"ok":true}"#).await;
        test.says(r#"{"response":true,"id":77,"ok":true}"#).await;
        test.says(r#"{"request":true,"id":5,"method":"join"}"#)
            .await;
        let Some(Inbound::Answer(_, tag, result)) = test.inbox.recv().await else {
            panic!("no answer");
        };
        assert_eq!(
            (tag.as_str(), result),
            ("c2", Err(Refusal::Rejected("no".into())))
        );
        let Some(Inbound::Answer(_, tag, Ok(()))) = test.inbox.recv().await else {
            panic!("no answer");
        };
        assert_eq!(tag, "c1");
        let Some(Inbound::Request(_, request)) = test.inbox.recv().await else {
            panic!("no request");
        };
        assert_eq!(request.id, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_dialect() {
        let mut test = start_in(Dialect::Newest, false);
        test.says(r#"{"notification":true,"method":"pauseProducer","data":{"producerId":"p"}}"#)
            .await;
        let Some(Inbound::Action(_, method, data)) = test.inbox.recv().await else {
            panic!("no action");
        };
        assert_eq!(method, "pauseProducer");
        assert_eq!(data, json!({"producerId": "p"}));
        test.handle.respond(1, "produce", &Ok(json!({"id": "p"})));
        let data = json!({"peerId": null});
        test.handle
            .notify(&Notification::new("activeSpeaker", &data));
        let mut told = Vec::new();
        for _ in 0..3 {
            let Some(Frame::Text(text)) = test.sent.recv().await else {
                panic!("no frame");
            };
            told.push(serde_json::from_str::<Value>(&text).unwrap());
        }
        assert_eq!(told[0]["data"], json!({"producerId": "p"}));
        assert_eq!(told[1]["method"], "speakingPeers");
        assert_eq!(told[2]["method"], "activeSpeaker");
    }

    #[tokio::test(start_paused = true)]
    async fn unanswered_requests_time_out() {
        let mut test = start(false);
        let begin = Instant::now();
        test.handle.request("newConsumer", &json!({}), "c1".into());
        let Some(Inbound::Answer(_, tag, Err(Refusal::TimedOut))) = test.inbox.recv().await else {
            panic!("no time-out");
        };
        assert_eq!(tag, "c1");
        let waited = begin.elapsed();
        assert!((30..32).contains(&waited.as_secs()), "{waited:?}");
        // Too late.
        test.says(r#"{"response":true,"id":1,"ok":true}"#).await;
        test.says(r#"{"request":true,"id":5,"method":"join"}"#)
            .await;
        assert!(matches!(
            test.inbox.recv().await,
            Some(Inbound::Request(..))
        ));
    }

    #[test]
    fn time_outs_grow_with_what_is_open() {
        assert_eq!(request_timeout(0), Duration::from_secs(30));
        assert_eq!(request_timeout(100), Duration::from_secs(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_answer_pings_is_gone() {
        let mut test = start(false);
        let begin = Instant::now();
        assert!(matches!(test.sent.recv().await, Some(Frame::Ping(_))));
        assert!((60..62).contains(&begin.elapsed().as_secs()));
        test.client
            .send(Ok(Frame::Pong(Default::default())))
            .await
            .unwrap();
        assert!(matches!(test.sent.recv().await, Some(Frame::Ping(_))));
        assert!((120..124).contains(&begin.elapsed().as_secs()));
        assert_eq!(test.close_code().await, Some(1001));
        assert!((130..136).contains(&begin.elapsed().as_secs()));
        assert!(matches!(test.inbox.recv().await, Some(Inbound::Closed(_))));
        test.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_takes_effect_while_a_ping_cannot_be_sent() {
        let mut test = start(true);
        sleep(PING_INTERVAL + Duration::from_secs(3)).await;
        let begin = Instant::now();
        test.handle.close(Close::FINAL);
        assert!(matches!(test.inbox.recv().await, Some(Inbound::Closed(_))));
        test.task.await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_reads_nor_speaks_is_gone() {
        let mut test = start(true);
        let begin = Instant::now();
        let data = json!({});
        let notification = Notification::new("newPeer", &data);
        test.handle.notify(&notification);
        assert!(matches!(test.inbox.recv().await, Some(Inbound::Closed(_))));
        test.task.await.unwrap();
        assert!((70..72).contains(&begin.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_queued_leaves_before_the_close() {
        let mut test = start(false);
        test.handle.respond(1, "join", &Ok(json!({})));
        test.handle.close(Close::FINAL);
        // The first code counts.
        test.handle.close(Close::TOO_SLOW);
        assert!(matches!(test.sent.recv().await, Some(Frame::Text(_))));
        assert_eq!(test.close_code().await, Some(4000));
        assert!(matches!(test.inbox.recv().await, Some(Inbound::Closed(_))));
        test.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_bytes_for_a_client_that_does_not_read() {
        let mut test = start(true);
        let name = "x".repeat(MAX_QUEUED_BYTES / 8);
        let data = json!({ "name": name });
        let notification = Notification::new("newPeer", &data);
        for _ in 0..9 {
            test.handle.notify(&notification);
        }
        assert!(matches!(test.inbox.recv().await, Some(Inbound::Closed(_))));
        // Nothing could be sent, the close neither; the task ends all the same.
        test.task.await.unwrap();
        assert_eq!(*test.handle.shared.closing.borrow(), Some(Close::TOO_SLOW));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_frames_for_a_client_that_does_not_read() {
        let test = start(true);
        let data = json!({});
        let notification = Notification::new("newPeer", &data);
        for _ in 0..=MAX_QUEUED_FRAMES {
            test.handle.notify(&notification);
        }
        assert_eq!(*test.handle.shared.closing.borrow(), Some(Close::TOO_SLOW));
        test.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_open_requests() {
        let mut test = start(false);
        for index in 0..=MAX_PENDING_REQUESTS {
            test.handle
                .request("newConsumer", &json!({}), index.to_string());
            tokio::task::yield_now().await;
        }
        assert_eq!(test.close_code().await, Some(1013));
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_vanishes_closes_the_socket() {
        let mut test = start(false);
        drop(test.handle);
        let closed = async {
            loop {
                if let Some(Frame::Close(Some(frame))) = test.sent.recv().await {
                    return frame.code;
                }
            }
        };
        assert_eq!(closed.await, 1012);
    }
}
