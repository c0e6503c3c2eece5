//! The admin's view of rooms: who is where with what, and the way to close a
//! room or to put somebody out.

use std::collections::HashMap;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use futures_util::stream::{self, StreamExt};
use proto::{ConsumerStats, GetStatsRequest, RtpStreamStats};
use serde_json::{Value, json};

use super::AppState;
use super::admin_access::AdminAccess;
use super::explain::{self, explained};
use super::rooms::{RoomPath, room_id};
use super::schemas::{
    AdminPeerErrors, AdminRoomBody, AdminRoomErrors, AdminRoomsBody, Draining, ForAdmins, Nothing,
};
use crate::error::Error;
use crate::rooms::PeerId;
use crate::workers::WorkerClient;

/// Every room, with what is in it in numbers.
#[utoipa::path(
    get,
    path = "/admin/rooms",
    tag = "admin",
    security((), ("adminToken" = [])),
    responses((status = 200, description = "These are", body = AdminRoomsBody), ForAdmins)
)]
pub(super) async fn rooms(_: AdminAccess, State(state): State<AppState>) -> Json<Value> {
    let rooms: Vec<Value> = state.rooms.list().iter().map(|it| it.to_json()).collect();
    Json(json!({ "rooms": rooms }))
}

/// A room with its peers, and what they send and receive.
#[utoipa::path(
    get,
    path = "/admin/rooms/{roomId}",
    tag = "admin",
    security((), ("adminToken" = [])),
    params(("roomId" = String, Path)),
    responses((status = 200, description = "This is it", body = AdminRoomBody), AdminRoomErrors)
)]
pub(super) async fn room(
    _: AdminAccess,
    State(state): State<AppState>,
    room: RoomPath,
) -> Result<Json<Value>, Error> {
    let (mut described, worker) = describe(&state, room).await?;
    if let Some(worker) = worker {
        add_numbers(&mut described, &worker).await;
    }
    Ok(Json(described))
}

/// A room as it describes itself, and its worker, if that lives.
pub(super) async fn describe(
    state: &AppState,
    room: RoomPath,
) -> Result<(Value, Option<WorkerClient>), Error> {
    let described = state.rooms.describe(&room_id(room)?).await?;
    let index = described.get("worker").and_then(Value::as_u64);
    let mut live = state.workers.live().into_iter();
    let worker = live.find(|it| u64::try_from(it.index).ok() == index);
    Ok((described, worker.map(|it| it.client)))
}

/// Most streams of a room whose numbers are asked for at a time, senders' and
/// receivers' each. The others are shown without.
const MAX_NUMBERS: usize = 256;

/// Questions for numbers that are under way together.
const NUMBERS_AT_ONCE: usize = 16;

/// Asks the worker for the numbers of each stream, not the room, which has more
/// to do. A stream that is gone by now stays without.
async fn add_numbers(described: &mut Value, worker: &WorkerClient) {
    let producers = streams(described, "producers");
    let producers: Vec<String> = producers.filter_map(id_of).take(MAX_NUMBERS).collect();
    let consumers = streams(described, "consumers");
    let consumers: Vec<String> = consumers.filter_map(id_of).take(MAX_NUMBERS).collect();
    let producers = producers
        .into_iter()
        .map(|id| producer_numbers(worker.clone(), id));
    let consumers = consumers
        .into_iter()
        .map(|id| consumer_numbers(worker.clone(), id));
    let producers = stream::iter(producers).buffer_unordered(NUMBERS_AT_ONCE);
    let consumers = stream::iter(consumers).buffer_unordered(NUMBERS_AT_ONCE);
    let reasons = explained(worker, described);
    let (mut producers, mut consumers, reasons): (HashMap<_, _>, HashMap<_, _>, _) =
        tokio::join!(producers.collect(), consumers.collect(), reasons);
    // A worker that does not answer leaves the streams without.
    let reasons = reasons.unwrap_or_default();
    let reasons = reasons
        .iter()
        .map(|it| (it.consumer_id.clone(), explain::consumer_json(it)));
    let mut reasons: HashMap<_, _> = reasons.collect();
    for consumer in streams(described, "consumers") {
        let found = id_of(consumer).and_then(|id| reasons.remove(&id));
        if let Value::Object(fields) = consumer {
            fields.insert("explanation".into(), found.unwrap_or_default());
        }
    }
    for (kind, numbers) in [("producers", &mut producers), ("consumers", &mut consumers)] {
        for stream in streams(described, kind) {
            let found = id_of(stream).and_then(|id| numbers.remove(&id));
            if let Value::Object(fields) = stream {
                fields.insert("stats".into(), found.unwrap_or_default());
            }
        }
    }
}

/// All streams of a kind in a room that is described.
fn streams<'a>(described: &'a mut Value, kind: &'a str) -> impl Iterator<Item = &'a mut Value> {
    let members = described.get_mut("members").and_then(Value::as_array_mut);
    let members = members.into_iter().flatten();
    members.flat_map(move |member| streams_of(member, kind))
}

/// The streams of a kind of one member.
pub(super) fn streams_of<'a>(
    member: &'a mut Value,
    kind: &str,
) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    let list = member.get_mut(kind).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Id of a member or a stream.
pub(super) fn id_of(described: &mut Value) -> Option<String> {
    described.get("id")?.as_str().map(str::to_owned)
}

async fn producer_numbers(worker: WorkerClient, id: String) -> (String, Value) {
    let request = GetStatsRequest { id: id.clone() };
    let stats = worker.get_producer_stats(request).await.ok();
    let numbers = stats.map(|it| it.streams.iter().map(stream_json).collect());
    (id, numbers.unwrap_or_default())
}

async fn consumer_numbers(worker: WorkerClient, id: String) -> (String, Value) {
    let request = GetStatsRequest { id: id.clone() };
    let stats = worker.get_consumer_stats(request).await.ok();
    let numbers = stats.map(|it| consumer_json(&it));
    (id, numbers.unwrap_or_default())
}

/// One stream in numbers.
fn stream_json(stream: &RtpStreamStats) -> Value {
    // RFC 3550 section 6.4.1: in parts of 256.
    let loss = f64::from(stream.fraction_lost) / 2.56;
    json!({
        "rid": stream.rid,
        "mimeType": stream.mime_type,
        "bitrate": stream.bitrate,
        "packetsLost": stream.packets_lost,
        "lossPercent": (loss * 10.0).round() / 10.0,
        "score": stream.score,
        "roundTripTimeMs": stream.round_trip_time,
    })
}

/// What a consumer is sent, and how its producer's stream arrives.
fn consumer_json(stats: &ConsumerStats) -> Value {
    let mut json = stats.outbound.as_ref().map_or(Value::Null, stream_json);
    if let Value::Object(fields) = &mut json {
        let inbound = stats.inbound.as_ref();
        fields.insert("producerScore".into(), inbound.map(|it| it.score).into());
        fields.insert(
            "producerBitrate".into(),
            inbound.map(|it| it.bitrate).into(),
        );
    }
    json
}

/// Close a room. Its peers are put out and do not come back by themselves.
#[utoipa::path(
    delete,
    path = "/admin/rooms/{roomId}",
    tag = "admin",
    security((), ("adminToken" = [])),
    params(("roomId" = String, Path)),
    responses((status = 200, description = "Closed", body = Nothing), AdminRoomErrors)
)]
pub(super) async fn close_room(
    _: AdminAccess,
    State(state): State<AppState>,
    room: RoomPath,
) -> Result<Json<Value>, Error> {
    let room = room_id(room)?;
    state.rooms.close(&room)?;
    Ok(Json(json!({})))
}

/// Put a peer, or a broadcaster, out of its room. It does not come back by itself.
#[utoipa::path(
    delete,
    path = "/admin/rooms/{roomId}/peers/{peerId}",
    tag = "admin",
    security((), ("adminToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    responses((status = 200, description = "It is out", body = Nothing), AdminPeerErrors)
)]
pub(super) async fn remove_peer(
    _: AdminAccess,
    State(state): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Value>, Error> {
    let Ok(Path((room, peer))) = path else {
        return Err(Error::field("roomId, peerId", "must be UTF-8"));
    };
    let room = room_id(Ok(Path(room)))?;
    let peer = PeerId::parse(&peer)?;
    state.rooms.remove_peer(&room, peer).await?;
    Ok(Json(json!({})))
}

/// End the server once its calls have ended, or `DRAIN_TIMEOUT` is over. From now
/// on it takes no rooms.
#[utoipa::path(
    post,
    path = "/admin/drain",
    tag = "admin",
    security((), ("adminToken" = [])),
    responses((status = 200, description = "It drains", body = Draining), ForAdmins)
)]
pub(super) async fn drain(_: AdminAccess, State(state): State<AppState>) -> Json<Value> {
    state.rooms.drain();
    state.drain.cancel();
    Json(json!({
        "status": "draining",
        "rooms": state.rooms.open_rooms(),
        "timeoutSeconds": state.config.drain_timeout.as_secs(),
    }))
}
