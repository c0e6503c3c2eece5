//! One synthetic client: joins a room, sends, takes what the others send, and
//! leaves when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::parameters;
use super::protoo::{Protoo, Server};
use crate::media::{Command, Kind, Media, SendSpec, TransportId, Waiting};

/// Longest time for the answer to one request.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest time for a client to leave in an orderly way.
const LEAVE: Duration = Duration::from_secs(2);

/// The video that a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Video {
    /// None: audio only.
    None,
    /// Streams by their bitrates (bits per second): one, or simulcast layers.
    Layers(Vec<u32>),
}

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// Nothing: it has no transport for that.
    Nothing,
    /// Nothing, on a transport that is connected.
    Connected,
    /// It has producers, but they are silent.
    Silence,
    /// Audio and video.
    Media,
}

/// What a client does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Room.
    pub room: String,
    /// Its peer id.
    pub peer: String,
    /// What it sends.
    pub sends: Sends,
    /// Takes what others send.
    pub receives: bool,
    /// What video it sends.
    pub video: Video,
}

/// What all clients of a run share.
pub struct Shared {
    /// The server.
    pub server: Server,
    /// The media thread.
    pub media: Media,
    /// Consumers that exist now.
    pub consumers: AtomicUsize,
    /// Clients that have joined and not left.
    pub joined: AtomicUsize,
    /// Closed to end all clients.
    pub stop: watch::Receiver<bool>,
    /// Where clients tell how they fared.
    pub milestones: mpsc::UnboundedSender<Milestone>,
    /// SSRCs are unique in the run.
    pub next_ssrc: AtomicU64,
}

/// Something a client has reached, and how long after it began.
#[derive(Debug)]
pub enum Milestone {
    /// The answer to `join` is there.
    Joined(Duration),
    /// A transport is up, since it began to connect.
    Connected(Duration),
    /// The first media packet is there; of clients that did not come first.
    FirstPacket(Duration),
    /// It has ended early.
    Failed(String),
}

/// A client that runs in a task of its own.
pub struct Peer {
    leave: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    /// Starts a client. The receiver is told when it has joined and sends what
    /// it has to, or dropped when it failed.
    pub fn start(shared: &Arc<Shared>, plan: Plan) -> (Self, oneshot::Receiver<()>) {
        let (leave, left) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let shared = Arc::clone(shared);
        let task = tokio::spawn(async move {
            let name = plan.peer.clone();
            if let Err(error) = run(&shared, plan, ready, left).await {
                let failed = Milestone::Failed(format!("{name}: {error}"));
                let _ = shared.milestones.send(failed);
            }
        });
        let peer = Self {
            leave: Some(leave),
            task,
        };
        (peer, is_ready)
    }

    /// Has the client leave, and waits until it has; one that is still waiting
    /// for the server after [`LEAVE`] is ended as if its page were closed.
    pub async fn leave(mut self) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(());
        }
        if timeout(LEAVE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Counts a client as joined for as long as it lives.
struct Counted<'a>(&'a AtomicUsize, usize);

impl Counted<'_> {
    fn add(&mut self) {
        self.1 += 1;
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&mut self) {
        self.1 = self.1.saturating_sub(1);
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

struct Client<'a> {
    shared: &'a Shared,
    protoo: Protoo,
    started: Instant,
    /// Nobody was there when it joined.
    came_first: bool,
    receive: Option<Receive>,
    consumers: Counted<'a>,
    /// Consumer id and SSRC.
    streams: Vec<(String, u32)>,
    transports: Transports<'a>,
}

struct Receive {
    id: TransportId,
    transport: Value,
    connecting: bool,
}

/// The client's transports; closed when it ends, however it ends.
struct Transports<'a> {
    media: &'a Media,
    ids: Vec<TransportId>,
}

impl Transports<'_> {
    fn close(&mut self) {
        for id in self.ids.drain(..) {
            self.media.tell(Command::Close(id));
        }
    }
}

impl Drop for Transports<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

async fn run(
    shared: &Arc<Shared>,
    plan: Plan,
    ready: oneshot::Sender<()>,
    mut left: oneshot::Receiver<()>,
) -> Result<(), String> {
    let started = Instant::now();
    let mut stop = shared.stop.clone();
    let protoo = Protoo::connect(&shared.server, &plan.room, &plan.peer).await?;
    let mut client = Client {
        shared,
        protoo,
        started,
        came_first: true,
        receive: None,
        consumers: Counted(&shared.consumers, 0),
        streams: Vec::new(),
        transports: Transports {
            media: &shared.media,
            ids: Vec::new(),
        },
    };
    let mut joined = Counted(&shared.joined, 0);
    client.join(&plan, &mut joined).await?;
    let _ = ready.send(());
    loop {
        tokio::select! {
            message = client.protoo.next() => client.handle(&message?).await?,
            _ = &mut left => break,
            _ = stop.changed() => break,
        }
    }
    // Before the server hears of it, and closes them from its side.
    client.transports.close();
    client.protoo.close().await;
    Ok(())
}

impl Client<'_> {
    /// Sends a request and handles what comes until its answer is there.
    async fn request(&mut self, method: &str, data: Value) -> Result<Value, String> {
        let id = self.protoo.request(method, data).await?;
        let deadline = tokio::time::Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let message = timeout(left, self.protoo.next())
                .await
                .map_err(|_| format!("{method}: no answer within {ANSWER:?}"))??;
            if message["response"] != true || message["id"] != id {
                self.handle(&message).await?;
                continue;
            }
            if message["ok"] == true {
                return Ok(message["data"].clone());
            }
            return Err(format!("{method}: {}", message["errorReason"]));
        }
    }

    async fn join(&mut self, plan: &Plan, joined: &mut Counted<'_>) -> Result<(), String> {
        let capabilities = self.request("getRouterRtpCapabilities", json!({})).await?;
        let mut send = None;
        if plan.sends != Sends::Nothing {
            send = Some(self.create_transport(true).await?);
        }
        if plan.receives {
            let transport = self.create_transport(false).await?;
            self.receive = Some(Receive {
                id: self.shared.media.new_id(),
                transport,
                connecting: false,
            });
        }
        let join = json!({
            "displayName": plan.peer, "device": {"flag": "rod", "name": "Rod", "version": "1"},
            "rtpCapabilities": capabilities,
        });
        let answer = self.request("join", join).await?;
        self.came_first = answer["peers"].as_array().is_none_or(Vec::is_empty);
        joined.add();
        self.reached(Milestone::Joined);
        if let Some(transport) = send {
            let id = self.shared.media.new_id();
            self.connect(id, &transport).await?;
            if plan.sends != Sends::Connected {
                self.produce(id, &transport, plan).await?;
            }
        }
        Ok(())
    }

    fn reached(&self, milestone: impl FnOnce(Duration) -> Milestone) {
        let milestone = milestone(self.started.elapsed());
        let _ = self.shared.milestones.send(milestone);
    }

    async fn create_transport(&mut self, producing: bool) -> Result<Value, String> {
        let data = json!({
            "forceTcp": false, "producing": producing, "consuming": !producing,
        });
        self.request("createWebRtcTransport", data).await
    }

    /// Starts ICE and DTLS, and tells the server of our certificate. The answer
    /// comes when it comes, as browsers see it.
    async fn connect(&mut self, id: TransportId, transport: &Value) -> Result<(), String> {
        let remote = parameters::remote(transport)?;
        let (connected, is_connected) = oneshot::channel();
        let (first_packet, is_there) = oneshot::channel();
        let waiting = Waiting {
            connected,
            first_packet,
        };
        self.transports.ids.push(id);
        let media = &self.shared.media;
        media.tell(Command::Connect(id, Box::new(remote), waiting));
        let (milestones, began) = (self.shared.milestones.clone(), Instant::now());
        // Who comes first waits for others, which says nothing of the server.
        let started = (!self.came_first).then_some(self.started);
        tokio::spawn(async move {
            match is_connected.await {
                Ok(Ok(at)) => {
                    let _ = milestones.send(Milestone::Connected(at.duration_since(began)));
                }
                // Counted by the media thread.
                Ok(Err(_)) | Err(_) => return,
            }
            if let (Ok(at), Some(started)) = (is_there.await, started) {
                let _ = milestones.send(Milestone::FirstPacket(at.duration_since(started)));
            }
        });
        let data = json!({
            "transportId": transport["id"],
            "dtlsParameters": {
                "role": "client",
                "fingerprints": [{"algorithm": "sha-256", "value": media.fingerprint()}],
            },
        });
        self.protoo.request("connectWebRtcTransport", data).await?;
        Ok(())
    }

    async fn produce(
        &mut self,
        id: TransportId,
        transport: &Value,
        plan: &Plan,
    ) -> Result<(), String> {
        let name = transport["id"].as_str().unwrap_or_default().to_owned();
        let mut lines = vec![vec![(Kind::Audio, "0")]];
        if let Video::Layers(layers) = &plan.video {
            let line = layers
                .iter()
                .map(|bitrate| (Kind::Video { bitrate: *bitrate }, "1"));
            lines.push(line.collect());
        }
        for line in lines {
            let streams: Vec<SendSpec> = line
                .into_iter()
                .map(|(kind, mid)| SendSpec {
                    kind,
                    mid,
                    ssrc: self.new_ssrc(),
                })
                .collect();
            self.request("produce", parameters::produced(&name, &streams))
                .await?;
            let sent = streams.into_iter().filter(|_| plan.sends == Sends::Media);
            for stream in sent {
                self.shared.media.tell(Command::Send(id, stream));
            }
        }
        Ok(())
    }

    /// An SSRC whose successor is free for retransmissions.
    fn new_ssrc(&self) -> u32 {
        let ssrc = self.shared.next_ssrc.fetch_add(2, Ordering::Relaxed);
        u32::try_from(ssrc & 0xFFFF_FFFE).unwrap_or(2)
    }

    async fn handle(&mut self, message: &Value) -> Result<(), String> {
        if message["response"] == true && message["ok"] != true {
            return Err(format!("a request was refused: {}", message["errorReason"]));
        }
        match message["method"].as_str() {
            Some("newConsumer") => self.consume(message).await,
            Some("consumerClosed") => {
                self.consumer_closed(&message["data"]["consumerId"]);
                Ok(())
            }
            // Whatever else a server asks (data consumers) is accepted.
            Some(_) if message["request"] == true => self.protoo.accept(message).await,
            _ => Ok(()),
        }
    }

    async fn consume(&mut self, request: &Value) -> Result<(), String> {
        let data = &request["data"];
        let spec = parameters::consumed(data)
            .ok_or_else(|| format!("newConsumer makes no sense: {data}"))?;
        let consumer = data["id"].as_str().unwrap_or_default().to_owned();
        let receive = self
            .receive
            .as_mut()
            .ok_or("newConsumer without a transport to receive on")?;
        let id = receive.id;
        if !std::mem::replace(&mut receive.connecting, true) {
            let transport = receive.transport.clone();
            self.connect(id, &transport).await?;
        }
        self.streams.push((consumer, spec.ssrc));
        self.shared.media.tell(Command::Expect(id, spec));
        self.consumers.add();
        self.protoo.accept(request).await
    }

    fn consumer_closed(&mut self, consumer: &Value) {
        let at = self
            .streams
            .iter()
            .position(|(id, _)| consumer == id.as_str());
        if let (Some(at), Some(receive)) = (at, &self.receive) {
            let (_, ssrc) = self.streams.swap_remove(at);
            self.consumers.remove();
            self.shared.media.tell(Command::Forget(receive.id, ssrc));
        }
    }
}
