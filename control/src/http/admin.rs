//! The admin's view of rooms: who is where with what, and the way to close a
//! room or to put somebody out.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::AppState;
use super::admin_access::AdminAccess;
use super::rooms::{RoomPath, room_id};
use super::schemas::{
    AdminPeerErrors, AdminRoomBody, AdminRoomErrors, AdminRoomsBody, Draining, ForAdmins, Nothing,
};
use crate::error::Error;
use crate::rooms::PeerId;

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
    let room = room_id(room)?;
    Ok(Json(state.rooms.describe(&room).await?))
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
