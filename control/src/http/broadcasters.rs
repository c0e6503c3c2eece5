//! The routes of broadcasters. Each is answered by the room that it names.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::Uri;
use serde_json::Value;

use super::AppState;
use super::access::ApiAccess;
use super::body::read_object;
use super::rooms::{RoomPath, query, room_id};
use crate::error::Error;
use crate::rooms::{BroadcasterRequest, RoomId};

type Answer = Result<Json<Value>, Error>;

/// Room and broadcaster.
type BroadcasterPath = Result<Path<(String, String)>, PathRejection>;

/// Room, broadcaster and transport.
type TransportPath = Result<Path<(String, String, String)>, PathRejection>;

/// POST `/rooms/:roomId/broadcasters`.
pub(super) async fn create(
    _: ApiAccess,
    State(state): State<AppState>,
    room: RoomPath,
    body: Body,
) -> Answer {
    let room = room_id(room)?;
    let body = read_body(body).await?;
    ask(&state, &room, "", BroadcasterRequest::Create(body)).await
}

/// DELETE `/rooms/:roomId/broadcasters/:broadcasterId`.
pub(super) async fn delete(
    _: ApiAccess,
    State(state): State<AppState>,
    path: BroadcasterPath,
) -> Answer {
    let (room, broadcaster) = of_broadcaster(path)?;
    ask(&state, &room, &broadcaster, BroadcasterRequest::Delete).await
}

/// POST `…/:broadcasterId/transports`.
pub(super) async fn create_transport(
    _: ApiAccess,
    State(state): State<AppState>,
    path: BroadcasterPath,
    body: Body,
) -> Answer {
    let (room, broadcaster) = of_broadcaster(path)?;
    let body = read_body(body).await?;
    let request = BroadcasterRequest::CreateTransport(body);
    ask(&state, &room, &broadcaster, request).await
}

/// POST `…/transports/:transportId/connect`.
pub(super) async fn connect(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    body: Body,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let body = read_body(body).await?;
    let request = BroadcasterRequest::Connect { transport_id, body };
    ask(&state, &room, &broadcaster, request).await
}

/// POST `…/transports/:transportId/producers`.
pub(super) async fn produce(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    body: Body,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let body = read_body(body).await?;
    let request = BroadcasterRequest::Produce { transport_id, body };
    ask(&state, &room, &broadcaster, request).await
}

/// POST `…/transports/:transportId/consume?producerId=`.
pub(super) async fn consume(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    uri: Uri,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let producer_id = query(&uri, "producerId").filter(|id| !id.is_empty());
    let producer_id = producer_id.ok_or_else(|| Error::field("producerId", "is missing"))?;
    let request = BroadcasterRequest::Consume {
        transport_id,
        producer_id,
    };
    ask(&state, &room, &broadcaster, request).await
}

/// POST `…/transports/:transportId/consume/data`.
pub(super) async fn consume_data(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    body: Body,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let body = read_body(body).await?;
    let request = BroadcasterRequest::ConsumeData { transport_id, body };
    ask(&state, &room, &broadcaster, request).await
}

/// POST `…/transports/:transportId/produce/data`.
pub(super) async fn produce_data(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    body: Body,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let body = read_body(body).await?;
    let request = BroadcasterRequest::ProduceData { transport_id, body };
    ask(&state, &room, &broadcaster, request).await
}

async fn ask(
    state: &AppState,
    room: &RoomId,
    broadcaster: &str,
    request: BroadcasterRequest,
) -> Answer {
    let answer = state.rooms.broadcaster(room, broadcaster, request).await?;
    Ok(Json(answer))
}

async fn read_body(body: Body) -> Result<Value, Error> {
    read_object(body).await.map(Value::Object)
}

fn of_broadcaster(path: BroadcasterPath) -> Result<(RoomId, String), Error> {
    let Path((room, broadcaster)) = path.map_err(|_| not_utf8())?;
    Ok((RoomId::parse(&room)?, broadcaster))
}

fn of_transport(path: TransportPath) -> Result<(RoomId, String, String), Error> {
    let Path((room, broadcaster, transport)) = path.map_err(|_| not_utf8())?;
    Ok((RoomId::parse(&room)?, broadcaster, transport))
}

/// Percent-encoded bytes that are no text.
fn not_utf8() -> Error {
    Error::field("path", "must be valid UTF-8")
}
