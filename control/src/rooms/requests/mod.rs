//! What a client may ask for: one file for each family of protoo methods. A
//! method checks, changes the room and answers; what has to happen after the
//! answer is in [`Then`].

mod consumer;
mod data;
pub(super) mod fields;
mod ice_servers;
mod peer;
mod producer;
mod sctp;
mod stats;
mod throttle;
mod transport;

pub(super) use peer::{display_name, introduce, rtp_capabilities};

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info_span};

use super::data::Sender;
use super::room::{Departure, Room};
use crate::error::Error;
use crate::metrics::known;
use crate::protoo::connection::{Close, SessionId};
use crate::protoo::message::Request;
use crate::traces::{self, Cause};

/// What a method comes to.
struct Reply {
    data: Value,
    then: Then,
}

/// What follows the answer.
enum Then {
    Nothing,
    /// The peer has joined: it receives what is there, and others hear of it.
    Joined,
    /// The peer may have got a transport to receive on.
    Receive,
    /// The others receive this producer.
    Offer(String),
    /// The others receive this data producer.
    OfferData(String),
    /// The bot has somebody to talk to.
    WakeBot,
    /// The peer goes.
    Leave,
}

impl Reply {
    fn new(data: Value) -> Self {
        Self {
            data,
            then: Then::Nothing,
        }
    }

    fn empty() -> Self {
        Self::new(json!({}))
    }

    fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
}

/// Serves one request of a peer. One of a session that is gone stays
/// unanswered: its socket is closing.
pub(super) async fn handle(room: &mut Room, session: SessionId, request: Request) {
    let Some(peer) = room.peers.get(&session) else {
        return;
    };
    let connection = peer.connection.clone();
    let Request { id, method, data } = request;
    let respond = |result| connection.respond(id, &method, &result);
    serve(room, session, &method, &data, respond).await;
}

/// Does what a peer wants done without an answer.
pub(super) async fn act(room: &mut Room, session: SessionId, method: &str, data: &Value) {
    if room.peers.contains_key(&session) {
        serve(room, session, method, data, drop).await;
    }
}

/// Does what a member asks for, answers, and does what follows.
pub(super) async fn serve(
    room: &mut Room,
    session: SessionId,
    method: &str,
    data: &Value,
    respond: impl FnOnce(Result<Value, Error>),
) {
    let begin = Instant::now();
    // What a broadcaster wants has come by HTTP, and is traced from there on.
    let kind = match Span::current().is_none() {
        true => "server",
        false => "internal",
    };
    let span = info_span!(
        target: traces::TARGET,
        "protoo",
        otel.name = known(method),
        otel.kind = kind,
        room = %room.id,
        ?session,
        error.code = Empty,
    );
    let dispatched = dispatch(room, session, method, data).instrument(span.clone());
    let served = dispatched.await;
    let outcome = served.as_ref().map(drop).map_err(Error::protoo_code);
    if let Err(code) = outcome {
        span.record("error.code", code);
    }
    room.metrics.requested(method, outcome, begin.elapsed());
    let cause = Cause::of(&span);
    // With the answer it is over.
    drop(span);
    let (result, then) = match served {
        Ok(reply) => (Ok(reply.data), reply.then),
        Err(error) => {
            let peer = room.told(session);
            debug!(room = %room.id, peer, ?session, method, %error, "request refused");
            (Err(error), Then::Nothing)
        }
    };
    respond(result);
    if !matches!(then, Then::Nothing) {
        let span = cause.lead_to("after the answer");
        follow(room, session, then).instrument(span).await;
    }
}

/// Does what follows an answer.
async fn follow(room: &mut Room, session: SessionId, then: Then) {
    match then {
        Then::Nothing => {}
        Then::Joined => {
            if let Some(peer) = room.peers.get(&session) {
                let connected = peer.join_deadline.checked_sub(room.timings.join);
                let took = connected.map(|at| at.elapsed());
                room.metrics.joined(took.unwrap_or_default());
            }
            peer::introduce(room, session);
            room.receive(session).await;
        }
        Then::Receive => room.receive(session).await,
        Then::Offer(producer_id) => {
            let wanted = room.wanting(session, &producer_id);
            room.consume(wanted).await;
        }
        Then::OfferData(data_producer_id) => {
            let wanted = room.wanting_data(Sender::Peer(session), &data_producer_id);
            room.consume_data(wanted).await;
        }
        Then::WakeBot => room.wake_bot().await,
        Then::Leave => {
            if let Some(peer) = room.peers.get(&session) {
                peer.connection.close(Close::FINAL);
            }
            room.remove_peer(session, Departure::Left).await;
        }
    }
}

async fn dispatch(
    room: &mut Room,
    session: SessionId,
    method: &str,
    data: &Value,
) -> Result<Reply, Error> {
    match method {
        // Nobody collects statistics of clients here.
        "getRtcStatsUrl" => Ok(Reply::empty()),
        "getRouterRtpCapabilities" => Ok(Reply::new(room.router.capabilities_json.clone())),
        "join" => peer::join(room, session, data),
        "changeDisplayName" => peer::change_display_name(room, session, data),
        "leaveRoom" => Ok(Reply::empty().then(Then::Leave)),
        "createWebRtcTransport" => transport::create(room, session, data).await,
        "connectWebRtcTransport" => transport::connect(room, session, data).await,
        "restartIce" => transport::restart_ice(room, session, data).await,
        "produce" => producer::produce(room, session, data).await,
        "closeProducer" => producer::close(room, session, data).await,
        "pauseProducer" => producer::pause(room, session, data).await,
        "resumeProducer" => producer::resume(room, session, data).await,
        "pauseConsumer" => consumer::pause(room, session, data).await,
        "resumeConsumer" => consumer::resume(room, session, data).await,
        "requestConsumerKeyFrame" => consumer::request_key_frame(room, session, data).await,
        "setConsumerPreferredLayers" => consumer::set_preferred_layers(room, session, data).await,
        "setConsumerPriority" => consumer::set_priority(room, session, data).await,
        "produceData" => data::produce(room, session, data).await,
        "getTransportStats" => stats::transport(room, session, data).await,
        "getProducerStats" => stats::producer(room, session, data).await,
        "getConsumerStats" => stats::consumer(room, session, data).await,
        "getDataProducerStats" => stats::data_producer(room, session, data).await,
        "getDataConsumerStats" => stats::data_consumer(room, session, data).await,
        "applyNetworkThrottle" => throttle::apply(room, session, data).await,
        "resetNetworkThrottle" => throttle::reset(room, session, data).await,
        _ => Err(Error::unknown_method(method)),
    }
}
