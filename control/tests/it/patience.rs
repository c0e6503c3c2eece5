//! What takes half a minute and more, on a paused clock: rooms without HTTP,
//! with sockets that are channels.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::Message;
use control::config::Config;
use control::protoo::dialect::Dialect;
use control::rooms::{BroadcasterRequest, PeerId, PeerOptions, RoomId, Rooms};
use futures_util::{Sink, Stream};
use proto::DataMessage;
use proto::event::Event;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{capabilities, produce_data};
use crate::fake_worker::{Call, FakePool, FakeWorker};
use crate::server::config;

/// The server's end of a socket.
struct Socket {
    incoming: mpsc::UnboundedReceiver<Message>,
    outgoing: mpsc::UnboundedSender<Message>,
}

impl Stream for Socket {
    type Item = Result<Message, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(cx).map(|message| message.map(Ok))
    }
}

impl Sink<Message> for Socket {
    type Error = axum::Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Self::Error> {
        self.outgoing.send(message).map_err(axum::Error::new)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
}

/// The client's end of it; answers pings, as browsers do.
struct Peer {
    incoming: mpsc::UnboundedReceiver<Message>,
    outgoing: mpsc::UnboundedSender<Message>,
}

impl Peer {
    async fn connect(rooms: &Rooms, peer: &str) -> Self {
        Self::connect_with(rooms, peer, PeerOptions::default()).await
    }

    async fn connect_with(rooms: &Rooms, peer: &str, options: PeerOptions) -> Self {
        let room = RoomId::parse("room").unwrap();
        let peer = PeerId::parse(peer).unwrap();
        let seat = rooms.admit(&room, &peer).await.unwrap();
        let (to_server, from_client) = mpsc::unbounded_channel();
        let (to_client, from_server) = mpsc::unbounded_channel();
        let socket = Socket {
            incoming: from_client,
            outgoing: to_client,
        };
        tokio::spawn(seat.occupy(socket, options));
        Self {
            incoming: from_server,
            outgoing: to_server,
        }
    }

    async fn read(&mut self) -> Message {
        loop {
            match self.incoming.recv().await.expect("socket is gone") {
                Message::Ping(data) => self.outgoing.send(Message::Pong(data)).unwrap(),
                message => return message,
            }
        }
    }

    /// Sends a request and returns the data of its response.
    async fn ok(&mut self, method: &str, data: Value) -> Value {
        let request = json!({ "request": true, "id": 7, "method": method, "data": data });
        let request = Message::text(request.to_string());
        self.outgoing.send(request).unwrap();
        loop {
            let Message::Text(text) = self.read().await else {
                panic!("no text");
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["response"] == true {
                assert_eq!(message["ok"], true, "{message}");
                return message["data"].clone();
            }
        }
    }

    /// The next request of the server of this method; others are passed over.
    async fn offered(&mut self, method: &str) -> Value {
        loop {
            let Message::Text(text) = self.read().await else {
                panic!("no {method}");
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["request"] == true && message["method"] == method {
                return message;
            }
        }
    }

    async fn join(&mut self) {
        let data = json!({ "displayName": "P", "rtpCapabilities": capabilities() });
        self.ok("join", data).await;
    }
}

async fn rooms() -> (Rooms, FakeWorker, Arc<FakePool>) {
    rooms_with(config()).await
}

async fn rooms_with(config: Config) -> (Rooms, FakeWorker, Arc<FakePool>) {
    let (notices, notices_receiver) = mpsc::channel(64);
    let pool = FakePool::new(notices);
    let worker = pool.start_worker().await;
    let rooms = Rooms::start(Arc::new(config), pool.clone(), notices_receiver).unwrap();
    (rooms, worker, pool)
}

#[tokio::test(start_paused = true)]
async fn thirty_seconds_to_join() {
    let (rooms, _, _pool) = rooms().await;
    let mut joined = Peer::connect(&rooms, "joined").await;
    joined.join().await;
    let begin = Instant::now();
    let mut late = Peer::connect(&rooms, "late").await;
    let Message::Close(Some(frame)) = late.read().await else {
        panic!("not closed");
    };
    assert_eq!(frame.code, 1008);
    assert_eq!(begin.elapsed().as_secs(), 30);
    joined
        .ok("changeDisplayName", json!({ "displayName": "Q" }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn as_long_to_join_as_configured() {
    let mut config = config();
    config.room_join_timeout = Duration::from_secs(7);
    let (rooms, _, _pool) = rooms_with(config).await;
    let begin = Instant::now();
    let mut late = Peer::connect(&rooms, "late").await;
    assert!(matches!(late.read().await, Message::Close(Some(_))));
    assert_eq!(begin.elapsed().as_secs(), 7);
}

/// The newest mediasoup-demo waits for ten seconds; a shorter time of the
/// operator's counts.
#[tokio::test(start_paused = true)]
async fn ten_seconds_to_join_in_the_newest_dialect() {
    for (configured, expected) in [(30, 10), (7, 7)] {
        let mut config = config();
        config.room_join_timeout = Duration::from_secs(configured);
        let (rooms, _, _pool) = rooms_with(config).await;
        let options = PeerOptions {
            dialect: Dialect::Newest,
            ..PeerOptions::default()
        };
        let begin = Instant::now();
        let mut late = Peer::connect_with(&rooms, "late", options).await;
        let Message::Text(_) = late.read().await else {
            panic!("no mediasoupVersion");
        };
        let Message::Close(Some(frame)) = late.read().await else {
            panic!("not closed");
        };
        // Not final: it may come back.
        assert_eq!(frame.code, 1008);
        assert_eq!(begin.elapsed().as_secs(), expected);
    }
}

/// A broadcaster of the newest HTTP API has as long as a peer.
#[tokio::test(start_paused = true)]
async fn a_broadcaster_that_does_not_join_is_removed() {
    let (rooms, worker, _pool) = rooms().await;
    let mut alice = Peer::connect(&rooms, "alice").await;
    alice.join().await;
    let room = RoomId::parse("room").unwrap();
    let ask = |peer: &'static str, request| rooms.broadcaster(&room, peer, request);
    let enter = |peer: &str| BroadcasterRequest::Enter {
        body: json!({ "peerId": peer, "displayName": "F", "device": { "name": "ffmpeg" } }),
        remote: None,
    };
    ask("", enter("late")).await.unwrap();
    ask("", enter("joined")).await.unwrap();
    ask("joined", BroadcasterRequest::Join).await.unwrap();
    let transport = BroadcasterRequest::CreateTransport(json!({ "type": "webrtc" }));
    ask("late", transport).await.unwrap();
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(worker.count("CloseTransport"), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(worker.count("CloseTransport"), 1);
    let gone = ask("late", BroadcasterRequest::Join).await.unwrap_err();
    let text = "broadcaster with id \"late\" not found";
    assert_eq!(gone.to_string(), text);
    let infos = ask("joined", BroadcasterRequest::PeerProducersInfos).await;
    assert_eq!(infos.unwrap(), json!({ "peerProducersInfos": [] }));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_never_accepted_stays_paused() {
    let (rooms, worker, _pool) = rooms().await;
    let mut alice = Peer::connect(&rooms, "alice").await;
    alice.join().await;
    let transport = alice
        .ok("createWebRtcTransport", json!({ "producing": true }))
        .await;
    let mut silent = Peer::connect(&rooms, "silent").await;
    silent.join().await;
    silent
        .ok("createWebRtcTransport", json!({ "consuming": true }))
        .await;
    let mut produce = produce_data("audio");
    produce["transportId"] = transport["id"].clone();
    alice.ok("produce", produce).await;
    let offer = silent.offered("newConsumer").await;
    let consumer_id = offer["data"]["id"].clone();
    tokio::time::advance(Duration::from_secs(40)).await;
    // By now the time-out has passed through the room.
    for _ in 0..100 {
        silent.ok("getRouterRtpCapabilities", json!({})).await;
    }
    assert_eq!(worker.count("ResumeConsumer"), 0);
    assert_eq!(worker.count("CloseConsumer"), 0);
    silent
        .ok("resumeConsumer", json!({ "consumerId": consumer_id }))
        .await;
    assert_eq!(worker.count("ResumeConsumer"), 1);
}

/// Alice sends on this channel; the id of its data producer.
async fn send_data(alice: &mut Peer, label: &str) -> String {
    let transport = alice
        .ok("createWebRtcTransport", json!({ "producing": true }))
        .await;
    let data = json!({
        "transportId": transport["id"],
        "sctpStreamParameters": { "streamId": 0 },
        "label": label,
    });
    let answer = alice.ok("produceData", data).await;
    answer["id"].as_str().unwrap().to_owned()
}

/// pymediasoup's demo never gives an answer that counts.
#[tokio::test(start_paused = true)]
async fn a_data_consumer_that_is_never_accepted_lives_on() {
    let (rooms, worker, _pool) = rooms().await;
    let mut alice = Peer::connect(&rooms, "alice").await;
    alice.join().await;
    let mut silent = Peer::connect(&rooms, "silent").await;
    silent.join().await;
    silent
        .ok("createWebRtcTransport", json!({ "consuming": true }))
        .await;
    let bot = silent.offered("newDataConsumer").await;
    assert_eq!(bot["data"]["peerId"], Value::Null);
    send_data(&mut alice, "chat").await;
    let offer = silent.offered("newDataConsumer").await;
    assert_eq!(offer["data"]["peerId"], "alice");
    tokio::time::advance(Duration::from_secs(40)).await;
    // By now the time-out has passed through the room.
    for _ in 0..100 {
        silent.ok("getRouterRtpCapabilities", json!({})).await;
    }
    assert_eq!(worker.count("CloseDataConsumer"), 0);
    for offer in [bot, offer] {
        let data = json!({ "dataConsumerId": offer["data"]["id"] });
        silent.ok("getDataConsumerStats", data).await;
    }
}

/// Messages come as fast as a client likes, also while the worker is slow to
/// take the bot's answer: that must not cost the room its events.
#[tokio::test(start_paused = true)]
async fn messages_to_the_bot_do_not_drown_a_busy_room() {
    let (rooms, worker, pool) = rooms().await;
    let mut alice = Peer::connect(&rooms, "alice").await;
    alice.join().await;
    let to_bot = send_data(&mut alice, "bot").await;
    let router = |call: &Call| match call {
        Call::CreateRouter(request) => Some(request.router_id.clone()),
        _ => None,
    };
    let router_id = worker.wait_for(router).await;
    worker.hang("SendDataMessage");
    for _ in 0..10_000 {
        let message = DataMessage {
            data_producer_id: to_bot.clone(),
            binary: false,
            payload: b"hello".to_vec(),
        };
        pool.say(&router_id, Event::DataMessage(message)).await;
    }
    let sent = |call: &Call| matches!(call, Call::SendDataMessage(_)).then_some(());
    worker.wait_for(sent).await;
    worker.behave();
    alice
        .ok("changeDisplayName", json!({ "displayName": "Q" }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_call_lives_on() {
    let (rooms, _, _pool) = rooms().await;
    let mut alice = Peer::connect(&rooms, "alice").await;
    alice.join().await;
    let idle = tokio::time::timeout(Duration::from_secs(3600), alice.read()).await;
    assert!(idle.is_err(), "{idle:?}");
    alice
        .ok("changeDisplayName", json!({ "displayName": "Q" }))
        .await;
}
