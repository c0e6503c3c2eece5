//! HTTPS on the server's one port: the REST routes, the upgrade to signaling
//! and the page. [`app`] is the whole of it, [`serve`](serve::serve) puts it
//! on a socket.

mod accept;
mod access;
mod admin;
mod admin_access;
mod body;
mod broadcasters;
mod config;
#[cfg(test)]
pub(crate) mod damaged;
mod explain;
mod forwarded;
mod metrics;
mod openapi;
pub mod page;
mod progress;
mod rooms;
mod schemas;
pub mod serve;
mod signaling;
mod v2;
mod workers;
mod ws_url;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router, middleware};
use http::StatusCode;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::schemas::{Healthy, Unavailable};
use crate::config::Config;
use crate::error::Error;
use crate::rooms::Rooms;
use crate::traces;
use crate::workers::{WorkerPool, WorkerState};

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
    /// Cancelled when an admin wants the server to let calls end, and to end then.
    pub drain: CancellationToken,
}

/// Every route of the public port. A WebSocket upgrade is accepted on any path,
/// so it is looked at before the path is. The admin paths are among them unless
/// they have an address of their own; pages of other origins get no answer from
/// those.
pub fn app(state: AppState) -> Router {
    let proxies: Arc<[IpNet]> = state.config.trusted_proxies.as_slice().into();
    let (public, _) = public().split_for_parts();
    let public = public
        // The original's Express takes it as well.
        .route("/rooms/", post(rooms::create_unnamed))
        .merge(page::routes())
        .fallback(async || Error::UnknownPath)
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
        .layer(access::cors(&state.config));
    let both = match state.config.admin_listen {
        Some(_) => public,
        None => public.merge(admin_routes()),
    };
    both.layer(middleware::from_fn_with_state(
        state.clone(),
        signaling::upgrade_or_next,
    ))
    .layer(middleware::from_fn(traces::trace))
    // First of all, so that everything sees the client that it is for.
    .layer(middleware::from_fn_with_state(
        proxies,
        forwarded::believe_proxies,
    ))
    .with_state(state)
}

/// The admin paths, for the listener of their own (`ADMIN_LISTEN`).
pub fn admin_app(state: AppState) -> Router {
    admin_routes()
        .fallback(async || Error::UnknownPath)
        .layer(admin_access::mark())
        .layer(middleware::from_fn(traces::trace))
        .with_state(state)
}

fn admin_routes() -> Router<AppState> {
    let (admin, _) = admin().split_for_parts();
    admin
        .merge(page::admin_routes())
        .method_not_allowed_fallback(async || Error::MethodNotAllowed)
}

/// What [`openapi`] serves.
fn document() -> utoipa::openapi::OpenApi {
    let mut document = public().into_openapi();
    document.merge(admin().into_openapi());
    document
}

fn public() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::Head::openapi())
        .routes(routes!(rooms::get_room_id))
        .routes(routes!(rooms::create_unnamed))
        .routes(routes!(rooms_health, rooms::create_health))
        .routes(routes!(rooms::capabilities, rooms::create_named))
        .routes(routes!(rooms::admission))
        .routes(routes!(broadcasters::create))
        .routes(routes!(broadcasters::delete))
        .routes(routes!(broadcasters::create_transport))
        .routes(routes!(broadcasters::connect))
        .routes(routes!(broadcasters::produce))
        .routes(routes!(broadcasters::consume))
        .routes(routes!(broadcasters::consume_data))
        .routes(routes!(broadcasters::produce_data))
        .merge(v2::routes())
        .routes(routes!(health))
        .routes(routes!(openapi::get))
}

fn admin() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(config::get))
        .routes(routes!(metrics::get))
        .routes(routes!(admin::rooms))
        .routes(routes!(admin::room, admin::close_room))
        .routes(routes!(explain::consumers))
        .routes(routes!(admin::remove_peer))
        .routes(routes!(admin::drain))
        .routes(routes!(workers::list))
        .routes(routes!(workers::drain))
}

/// Whether the server takes rooms and peers; if not, why.
#[utoipa::path(
    get,
    path = "/health",
    tag = "server",
    responses(
        (status = 200, description = "It does", body = Healthy),
        (status = 503, description = "It does not", body = Unavailable),
    )
)]
async fn health(State(state): State<AppState>) -> Response {
    let (status, mut body) = match state.rooms.health() {
        Ok(()) => (StatusCode::OK, json!({ "status": "ok" })),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({ "status": "unavailable", "error": error.to_string() }),
        ),
    };
    let states = state.workers.states();
    for (name, bad) in [
        ("failedWorkers", WorkerState::Failed),
        ("stuckWorkers", WorkerState::Stuck),
    ] {
        let all = states.iter().enumerate();
        let those: Vec<usize> = all.filter(|(_, it)| **it == bad).map(|(n, _)| n).collect();
        if let (false, Value::Object(fields)) = (those.is_empty(), &mut body) {
            fields.insert(name.into(), those.into());
        }
    }
    (status, Json(body)).into_response()
}

/// As `/health`.
#[utoipa::path(
    get,
    path = "/rooms/health",
    tag = "server",
    responses(
        (status = 200, description = "It does", body = Healthy),
        (status = 503, description = "It does not", body = Unavailable),
    )
)]
async fn rooms_health(state: State<AppState>) -> Response {
    health(state).await
}
