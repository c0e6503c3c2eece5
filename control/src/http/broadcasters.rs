//! The routes of broadcasters. Each is answered by the room that it names.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::{Extension, Json};
use http::Uri;
use serde_json::Value;

use super::AppState;
use super::access::ApiAccess;
use super::body::read_object;
use super::rooms::{RoomPath, query, room_id};
use super::schemas::{
    BroadcasterBody, BroadcasterBodyErrors, BroadcasterErrors, BroadcasterMade, ConnectBody,
    Connected, ConsumeDataBody, ConsumerMade, DataConsumerMade, DeleteErrors, Made, Nothing,
    ProduceBody, ProduceDataBody, TransportBody, TransportMade,
};
use crate::error::Error;
use crate::rooms::{BroadcasterRequest, ConsumeRequest, RoomId};

type Answer = Result<Json<Value>, Error>;

/// Room and broadcaster.
pub(super) type BroadcasterPath = Result<Path<(String, String)>, PathRejection>;

/// Room, broadcaster and transport, or whatever else it has.
pub(super) type TransportPath = Result<Path<(String, String, String)>, PathRejection>;

/// Where a request comes from, as far as is known.
pub(super) type Remote = Option<Extension<ConnectInfo<SocketAddr>>>;

/// Make a broadcaster: a member of the room without a socket.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path)),
    request_body = BroadcasterBody,
    responses((status = 200, description = "Done", body = BroadcasterMade), BroadcasterBodyErrors)
)]
pub(super) async fn create(
    _: ApiAccess,
    State(state): State<AppState>,
    remote: Remote,
    room: RoomPath,
    body: Body,
) -> Answer {
    let room = room_id(room)?;
    let body = read_body(body).await?;
    let remote = address_of(remote);
    let request = BroadcasterRequest::Create { body, remote };
    ask(&state, &room, "", request).await
}

/// Remove a broadcaster with everything it has.
#[utoipa::path(
    delete,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path)),
    responses((status = 200, description = "Done", body = Nothing), DeleteErrors)
)]
pub(super) async fn delete(
    _: ApiAccess,
    State(state): State<AppState>,
    path: BroadcasterPath,
) -> Answer {
    let (room, broadcaster) = of_broadcaster(path)?;
    ask(&state, &room, &broadcaster, BroadcasterRequest::Delete).await
}

/// Make a transport of a broadcaster.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path)),
    request_body = TransportBody,
    responses((status = 200, description = "Done", body = TransportMade), BroadcasterBodyErrors)
)]
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

/// Connect a transport.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports/{transportId}/connect",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path), ("transportId" = String, Path)),
    request_body = ConnectBody,
    responses((status = 200, description = "Done", body = Connected), BroadcasterBodyErrors)
)]
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

/// Send a stream.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports/{transportId}/producers",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path), ("transportId" = String, Path)),
    request_body = ProduceBody,
    responses((status = 200, description = "Done", body = Made), BroadcasterBodyErrors)
)]
pub(super) async fn produce(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    body: Body,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let mut body = read_body(body).await?;
    // The original takes none here.
    if let Value::Object(fields) = &mut body {
        fields.remove("appData");
    }
    let request = BroadcasterRequest::Produce { transport_id, body };
    ask(&state, &room, &broadcaster, request).await
}

/// Receive a producer.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports/{transportId}/consume",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path), ("transportId" = String, Path), ("producerId" = String, Query)),
    responses((status = 200, description = "Done", body = ConsumerMade), BroadcasterErrors)
)]
pub(super) async fn consume(
    _: ApiAccess,
    State(state): State<AppState>,
    path: TransportPath,
    uri: Uri,
) -> Answer {
    let (room, broadcaster, transport_id) = of_transport(path)?;
    let producer_id = query(&uri, "producerId").filter(|id| !id.is_empty());
    let producer_id = producer_id.ok_or_else(|| Error::field("producerId", "is missing"))?;
    let request = BroadcasterRequest::Consume(ConsumeRequest {
        transport_id,
        producer_id,
        ..ConsumeRequest::default()
    });
    ask(&state, &room, &broadcaster, request).await
}

/// Receive the messages of a data producer.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports/{transportId}/consume/data",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path), ("transportId" = String, Path)),
    request_body = ConsumeDataBody,
    responses((status = 200, description = "Done", body = DataConsumerMade), BroadcasterBodyErrors)
)]
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

/// Send messages.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports/{transportId}/produce/data",
    tag = "broadcasters",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("broadcasterId" = String, Path), ("transportId" = String, Path)),
    request_body = ProduceDataBody,
    responses((status = 200, description = "Done", body = Made), BroadcasterBodyErrors)
)]
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

pub(super) fn address_of(remote: Remote) -> Option<SocketAddr> {
    remote.map(|Extension(ConnectInfo(address))| address)
}

pub(super) async fn ask(
    state: &AppState,
    room: &RoomId,
    broadcaster: &str,
    request: BroadcasterRequest,
) -> Answer {
    let answer = state.rooms.broadcaster(room, broadcaster, request).await?;
    Ok(Json(answer))
}

pub(super) async fn read_body(body: Body) -> Result<Value, Error> {
    read_object(body).await.map(Value::Object)
}

pub(super) fn of_broadcaster(path: BroadcasterPath) -> Result<(RoomId, String), Error> {
    let Path((room, broadcaster)) = path.map_err(|_| not_utf8())?;
    Ok((RoomId::parse(&room)?, broadcaster))
}

pub(super) fn of_transport(path: TransportPath) -> Result<(RoomId, String, String), Error> {
    let Path((room, broadcaster, transport)) = path.map_err(|_| not_utf8())?;
    Ok((RoomId::parse(&room)?, broadcaster, transport))
}

/// Percent-encoded bytes that are no text.
fn not_utf8() -> Error {
    Error::field("path", "must be valid UTF-8")
}
