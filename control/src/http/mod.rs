//! HTTPS on the server's one port: the REST routes, the upgrade to signaling
//! and the page. [`app`] is the whole of it, [`serve`](serve::serve) puts it
//! on a socket.

mod accept;
mod body;
mod config;
mod forwarded;
pub mod page;
mod progress;
mod rooms;
pub mod serve;
mod signaling;
mod ws_url;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use http::StatusCode;
use ipnet::IpNet;
use serde_json::json;
use tower_http::cors::{AllowHeaders, CorsLayer};

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
/// at before the path is.
pub fn app(state: AppState) -> Router {
    let proxies: Arc<[IpNet]> = state.config.trusted_proxies.as_slice().into();
    // `*` for headers would not cover Authorization (Fetch standard, CORS).
    let cors = CorsLayer::permissive().allow_headers(AllowHeaders::mirror_request());
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
        .route("/config", get(config::get))
        .route("/health", get(health))
        .merge(page::routes())
        .fallback(async || Error::UnknownPath)
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
        .layer(cors)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            signaling::upgrade_or_next,
        ))
        // First of all, so that everything sees the client that it is for.
        .layer(middleware::from_fn_with_state(
            proxies,
            forwarded::believe_proxies,
        ))
        .with_state(state)
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
