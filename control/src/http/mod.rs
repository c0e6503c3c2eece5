//! HTTPS on the server's one port: the REST routes, the upgrade to signaling
//! and the page. [`app`] is the whole of it, [`serve`](serve::serve) puts it
//! on a socket.

mod accept;
mod access;
mod body;
mod broadcasters;
mod config;
pub mod page;
mod progress;
mod rooms;
pub mod serve;
mod signaling;
mod ws_url;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router, middleware};
use http::StatusCode;
use serde_json::json;

use crate::config::Config;
use crate::error::Error;
use crate::rooms::Rooms;
use crate::workers::WorkerPool;

/// What every handler needs. Cheap to clone. The address that a request came
/// from is in its extensions, as axum's `ConnectInfo<SocketAddr>`.
#[derive(Clone)]
pub struct AppState {
    /// The effective configuration.
    pub config: Arc<Config>,
    /// All rooms.
    pub rooms: Rooms,
    /// The media workers.
    pub workers: Arc<dyn WorkerPool>,
}

/// Every route. A WebSocket upgrade is accepted on any path, so it is looked
/// at before the path is. Pages of other origins get no answer from admin paths.
pub fn app(state: AppState) -> Router {
    public()
        .layer(access::cors(&state.config))
        .merge(admin())
        .layer(middleware::from_fn_with_state(
            state.clone(),
            signaling::upgrade_or_next,
        ))
        .with_state(state)
}

fn public() -> Router<AppState> {
    Router::new()
        .route("/getRoomId", get(rooms::get_room_id))
        .route("/rooms", post(rooms::create_unnamed))
        .route("/rooms/", post(rooms::create_unnamed))
        .route("/rooms/health", get(health).post(rooms::create_health))
        .route(
            "/rooms/{room_id}",
            get(rooms::capabilities).post(rooms::create_named),
        )
        .route("/rooms/{room_id}/admission", get(rooms::admission))
        .route("/health", get(health))
        .nest("/rooms/{room_id}/broadcasters", broadcasters())
        .merge(page::routes())
        .fallback(async || Error::UnknownPath)
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
}

fn broadcasters() -> Router<AppState> {
    let transport = Router::new()
        .route("/connect", post(broadcasters::connect))
        .route("/producers", post(broadcasters::produce))
        .route("/consume", post(broadcasters::consume))
        .route("/consume/data", post(broadcasters::consume_data))
        .route("/produce/data", post(broadcasters::produce_data));
    Router::new()
        .route("/", post(broadcasters::create))
        .route("/{broadcaster_id}", delete(broadcasters::delete))
        .route(
            "/{broadcaster_id}/transports",
            post(broadcasters::create_transport),
        )
        .nest("/{broadcaster_id}/transports/{transport_id}", transport)
}

fn admin() -> Router<AppState> {
    Router::new()
        .route("/config", get(config::get))
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
}

/// 200 while the server takes rooms and peers, else 503 with the reason.
async fn health(State(state): State<AppState>) -> Response {
    match state.rooms.health() {
        Ok(()) => Json(json!({ "status": "ok" })).into_response(),
        Err(error) => {
            let body = json!({ "status": "unavailable", "error": error.to_string() });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
