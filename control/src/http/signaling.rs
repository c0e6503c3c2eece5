//! The way from an HTTP request to a peer's WebSocket: every reason against it
//! is found before the upgrade, so that it can be told as an HTTP status.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri, header};
use tokio::sync::OwnedSemaphorePermit;

use super::AppState;
use super::access::check_origin;
use super::rooms::query;
use crate::error::Error;
use crate::protoo::SUBPROTOCOL;
use crate::protoo::connection::MAX_MESSAGE_SIZE;
use crate::protoo::dialect::Dialect;
use crate::rooms::{PeerId, PeerOptions, RoomId};

/// Buffer of a socket for each direction, bytes: signaling messages are small,
/// and there are many sockets.
const SOCKET_BUFFER: usize = 16 << 10;

/// The client's place among the server's connections; given back when its last
/// clone is dropped. Kept by the WebSocket, which outlives the HTTP connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionPermit {
    pub _held: Arc<OwnedSemaphorePermit>,
}

/// Serves WebSocket upgrades on whatever path, and passes on the rest.
pub(super) async fn upgrade_or_next(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    if !wants_websocket(request.headers()) {
        return next.run(request).await;
    }
    match upgrade(state, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn upgrade(state: AppState, request: Request) -> Result<Response, Error> {
    let (mut parts, _) = request.into_parts();
    let (room, peer) = ids(&parts.uri)?;
    let remote = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let options = PeerOptions {
        consumer_replicas: replicas(&parts.uri, state.config.consumer_replicas_max)?,
        dialect: dialect(&parts.uri)?,
        remote: remote.map(|ConnectInfo(address)| *address),
    };
    if !offers_protoo(&parts.headers) {
        return Err(Error::NoSubprotocol);
    }
    check_origin(&state.config, &parts.uri, &parts.headers)?;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| Error::BadField(rejection.body_text()))?;
    let seat = state.rooms.admit(&room, &peer).await?;
    let permit = parts.extensions.get::<ConnectionPermit>().cloned();
    tracing::debug!(%room, %peer, remote = ?options.remote, "upgrade");
    let tasks = state.rooms.tasks().clone();
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(MAX_MESSAGE_SIZE)
        .max_frame_size(MAX_MESSAGE_SIZE)
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(SOCKET_BUFFER);
    // An upgrade that fails drops this closure, and with it the seat.
    Ok(upgrade.on_upgrade(move |socket| {
        tasks.track_future(async move {
            seat.occupy(socket, options).await;
            drop(permit);
        })
    }))
}

/// What an upgrade would answer; changes nothing.
pub(super) async fn check(state: &AppState, room: &RoomId, peer: &PeerId) -> Result<(), Error> {
    state.rooms.check_admission(room, peer).await
}

fn ids(uri: &Uri) -> Result<(RoomId, PeerId), Error> {
    let parameter = |name| query(uri, name).unwrap_or_default();
    let room = RoomId::parse(&parameter("roomId"))?;
    let peer = PeerId::parse(&parameter("peerId"))?;
    Ok((room, peer))
}

fn dialect(uri: &Uri) -> Result<Dialect, Error> {
    match query(uri, "dialect") {
        None => Ok(Dialect::default()),
        Some(name) => {
            Dialect::parse(&name).ok_or_else(|| Error::field("dialect", "must be seed or newest"))
        }
    }
}

/// What JavaScript makes of a number that was not given. The original's own page
/// writes it into its URL, and its server takes it for none.
const NO_NUMBER: [&str; 4] = ["", "undefined", "null", "NaN"];

/// How many extra consumers of each producer the URL asks for. More than `max`
/// are asked for in vain, not refused: the original grants any number.
fn replicas(uri: &Uri, max: u8) -> Result<u8, Error> {
    const NAME: &str = "consumerReplicas";
    match query(uri, NAME) {
        None => Ok(0),
        Some(text) if NO_NUMBER.contains(&text.as_str()) => Ok(0),
        Some(text) if !text.bytes().all(|b| b.is_ascii_digit()) => {
            Err(Error::field(NAME, "must be a whole number"))
        }
        // Digits that are no u8 are too many.
        Some(text) => Ok(text.parse().unwrap_or(u8::MAX).min(max)),
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, |token| {
        token.eq_ignore_ascii_case("websocket")
    })
}

fn offers_protoo(headers: &HeaderMap) -> bool {
    has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, |token| {
        token == SUBPROTOCOL
    })
}

/// Whether a comma-separated header has such a token.
fn has_token(
    headers: &HeaderMap,
    name: header::HeaderName,
    is_it: impl Fn(&str) -> bool + Copy,
) -> bool {
    let values = headers.get_all(name);
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|token| is_it(token.trim()))
}
