//! The routes of broadcasters as the newest mediasoup-demo has them, below `/v2`:
//! other names and statuses for what the seed's routes do. Errors have a `name`
//! beside their text.

mod schemas;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::schemas::{
    NewestBroadcasterBody, NewestConsumeBody, NewestConsumerMade, NewestProduceBody,
    NewestProducerMade, NewestRouter, NewestTransportBody, NewestTransportMade, PeerProducersInfos,
};
use super::AppState;
use super::access::ApiAccess;
use super::body::read_object;
use super::broadcasters::{
    BroadcasterPath, Remote, TransportPath, address_of, ask, of_broadcaster, of_transport,
};
use super::rooms::{RoomPath, room_id};
use super::schemas::{
    BroadcasterBodyErrors, BroadcasterErrors, ConnectBody, Connected, DeleteErrors, Nothing,
    RoomErrors,
};
use crate::error::Error;
use crate::rooms::{BroadcasterRequest, ConsumeRequest, RoomId};

/// Characters of an id that stand for themselves in a path (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

type Access = Result<ApiAccess, Error>;

type Answer = Result<Response, NamedError>;

/// An error with the name that the newest mediasoup-demo has for its kind.
#[derive(Debug)]
pub(super) struct NamedError(Error);

impl From<Error> for NamedError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl NamedError {
    fn name(&self) -> &'static str {
        match (&self.0, self.0.status()) {
            (Error::UnknownRoom(_), _) => "RoomNotFound",
            (Error::UnknownEntity { kind, .. }, _) => match *kind {
                "transport" => "TransportNotFound",
                "producer" => "ProducerNotFound",
                "consumer" => "ConsumerNotFound",
                _ => "PeerNotFound",
            },
            (_, StatusCode::UNAUTHORIZED) => "UnauthorizedError",
            (_, StatusCode::FORBIDDEN) => "ForbiddenError",
            (_, StatusCode::CONFLICT) => "InvalidStateError",
            (_, status) if status.is_client_error() => "TypeError",
            _ => "Error",
        }
    }
}

impl IntoResponse for NamedError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.0.to_string(), "name": self.name() });
        let mut response = self.0.into_response();
        *response.body_mut() = Body::from(body.to_string());
        response
    }
}

/// Every route of this file.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(capabilities))
        .routes(routes!(create))
        .routes(routes!(delete))
        .routes(routes!(join))
        .routes(routes!(create_transport))
        .routes(routes!(connect))
        .routes(routes!(produce))
        .routes(routes!(peer_producers_infos))
        .routes(routes!(consume))
        .routes(routes!(resume))
}

/// The RTP capabilities of the room's router.
#[utoipa::path(
    get,
    path = "/v2/rooms/{roomId}",
    tag = "newest",
    params(("roomId" = String, Path)),
    responses((status = 200, description = "They are", body = NewestRouter), RoomErrors)
)]
async fn capabilities(State(state): State<AppState>, room: RoomPath) -> Answer {
    let room = room_id(room)?;
    state.rooms.check(&room)?;
    let capabilities = state.rooms.router_rtp_capabilities();
    Ok(Json(json!({ "routerRtpCapabilities": capabilities })).into_response())
}

/// Make a broadcaster, which joins later.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path)),
    request_body = NewestBroadcasterBody,
    responses((status = 201, description = "Made", body = Nothing), BroadcasterBodyErrors)
)]
async fn create(
    access: Access,
    State(state): State<AppState>,
    remote: Remote,
    room: RoomPath,
    body: Body,
) -> Answer {
    access?;
    let room = room_id(room)?;
    let body = read_object(body).await?;
    let peer_id = body.get("peerId").cloned().unwrap_or_default();
    let request = BroadcasterRequest::Enter {
        body: Value::Object(body),
        remote: address_of(remote),
    };
    let answer = ask(&state, &room, "", request).await?;
    let path = [room.as_str(), "broadcasters", text(&peer_id)];
    Ok(created(&path, answer.0))
}

/// Remove a broadcaster with everything it has.
#[utoipa::path(
    delete,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    responses((status = 204, description = "Gone"), DeleteErrors)
)]
async fn delete(access: Access, State(state): State<AppState>, path: BroadcasterPath) -> Answer {
    access?;
    let (room, peer) = of_broadcaster(path)?;
    let _ = ask(&state, &room, &peer, BroadcasterRequest::Delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Join: the others hear of the broadcaster, which may now send and receive.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/join",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    responses((status = 200, description = "Joined", body = Nothing), BroadcasterErrors)
)]
async fn join(access: Access, State(state): State<AppState>, path: BroadcasterPath) -> Answer {
    access?;
    let (room, peer) = of_broadcaster(path)?;
    let answer = ask(&state, &room, &peer, BroadcasterRequest::Join).await?;
    Ok(answer.into_response())
}

/// Make a transport of a broadcaster.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/transports",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    request_body = NewestTransportBody,
    responses((status = 201, description = "Made", body = NewestTransportMade), BroadcasterBodyErrors)
)]
async fn create_transport(
    access: Access,
    State(state): State<AppState>,
    path: BroadcasterPath,
    body: Body,
) -> Answer {
    access?;
    let (room, peer) = of_broadcaster(path)?;
    let mut body = read_object(body).await?;
    let receives = check_direction(&body)?;
    if body.get("type").is_none_or(Value::is_null) {
        body.insert("type".into(), "plain".into());
    }
    // Who only receives has no first packet to show where it is; it connects.
    if receives && body.get("comedia").is_none_or(Value::is_null) {
        body.insert("comedia".into(), false.into());
    }
    let request = BroadcasterRequest::CreateTransport(Value::Object(body));
    let answer = ask(&state, &room, &peer, request).await?;
    Ok(made(&room, &peer, "transports", "transportId", answer.0))
}

/// Connect a transport.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/transports/{transportId}/connect",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path), ("transportId" = String, Path)),
    request_body = ConnectBody,
    responses((status = 200, description = "Done", body = Connected), BroadcasterBodyErrors)
)]
async fn connect(
    access: Access,
    State(state): State<AppState>,
    path: TransportPath,
    body: Body,
) -> Answer {
    access?;
    let (room, peer, transport_id) = of_transport(path)?;
    let body = Value::Object(read_object(body).await?);
    let request = BroadcasterRequest::Connect { transport_id, body };
    Ok(ask(&state, &room, &peer, request).await?.into_response())
}

/// Send a stream.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/producers",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    request_body = NewestProduceBody,
    responses((status = 201, description = "Made", body = NewestProducerMade), BroadcasterBodyErrors)
)]
async fn produce(
    access: Access,
    State(state): State<AppState>,
    path: BroadcasterPath,
    body: Body,
) -> Answer {
    access?;
    let (room, peer) = of_broadcaster(path)?;
    let mut body = read_object(body).await?;
    let transport_id = take_id(&mut body, "transportId")?;
    let body = Value::Object(body);
    let request = BroadcasterRequest::Produce { transport_id, body };
    let answer = ask(&state, &room, &peer, request).await?;
    Ok(made(&room, &peer, "producers", "producerId", answer.0))
}

/// Who sends what.
#[utoipa::path(
    get,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/peerProducersInfos",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    responses((status = 200, description = "They do", body = PeerProducersInfos), BroadcasterErrors)
)]
async fn peer_producers_infos(
    access: Access,
    State(state): State<AppState>,
    path: BroadcasterPath,
) -> Answer {
    access?;
    let (room, peer) = of_broadcaster(path)?;
    let answer = ask(&state, &room, &peer, BroadcasterRequest::PeerProducersInfos).await?;
    Ok(answer.into_response())
}

/// Receive a producer.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/consumers",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path)),
    request_body = NewestConsumeBody,
    responses((status = 201, description = "Made", body = NewestConsumerMade), BroadcasterBodyErrors)
)]
async fn consume(
    access: Access,
    State(state): State<AppState>,
    path: BroadcasterPath,
    body: Body,
) -> Answer {
    access?;
    let (room, peer) = of_broadcaster(path)?;
    let mut body = read_object(body).await?;
    let paused = match body.get("paused") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(paused)) => *paused,
        Some(_) => return Err(Error::field("paused", "must be true or false").into()),
    };
    let capabilities = body.remove("rtpCapabilities");
    let capabilities = capabilities.filter(|given| !given.is_null());
    if capabilities.is_none() {
        return Err(Error::field("rtpCapabilities", "is missing").into());
    }
    let request = BroadcasterRequest::Consume(ConsumeRequest {
        transport_id: take_id(&mut body, "transportId")?,
        producer_id: take_id(&mut body, "producerId")?,
        rtp_capabilities: capabilities,
        paused,
    });
    let answer = ask(&state, &room, &peer, request).await?;
    Ok(made(&room, &peer, "consumers", "consumerId", answer.0))
}

/// Go on with a consumer that is paused.
#[utoipa::path(
    post,
    path = "/v2/rooms/{roomId}/broadcasters/{peerId}/consumers/{consumerId}/resume",
    tag = "newest",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path), ("peerId" = String, Path), ("consumerId" = String, Path)),
    responses((status = 200, description = "Done", body = Nothing), BroadcasterErrors)
)]
async fn resume(access: Access, State(state): State<AppState>, path: TransportPath) -> Answer {
    access?;
    let (room, peer, consumer_id) = of_transport(path)?;
    let request = BroadcasterRequest::Resume { consumer_id };
    Ok(ask(&state, &room, &peer, request).await?.into_response())
}

/// `direction`, which clients also put into `appData`: whether it is to the
/// broadcaster.
fn check_direction(body: &Map<String, Value>) -> Result<bool, Error> {
    let inner = || body.get("appData").and_then(|it| it.get("direction"));
    let given = body
        .get("direction")
        .filter(|it| !it.is_null())
        .or_else(inner);
    match given.map(Value::as_str) {
        Some(Some("producer")) => Ok(false),
        Some(Some("consumer")) => Ok(true),
        None => Err(Error::field("direction", "is missing")),
        Some(_) => {
            let allowed = "must be \"producer\" or \"consumer\"";
            Err(Error::field("direction", allowed))
        }
    }
}

fn take_id(body: &mut Map<String, Value>, name: &str) -> Result<String, Error> {
    match body.remove(name) {
        Some(Value::String(id)) => Ok(id),
        None | Some(Value::Null) => Err(Error::field(name, "is missing")),
        Some(_) => Err(Error::field(name, "must be a string")),
    }
}

/// 201 for something of a broadcaster: its `id` gets the name of the newest
/// dialect, and a path.
fn made(room: &RoomId, peer: &str, kind: &str, name: &str, answer: Value) -> Response {
    let mut fields = match answer {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let id = fields.remove("id").unwrap_or_default();
    let path = [room.as_str(), "broadcasters", peer, kind, text(&id)].map(str::to_owned);
    fields.insert(name.to_owned(), id);
    created(&path.each_ref().map(String::as_str), Value::Object(fields))
}

/// 201 with where the new thing is: the segments of its path below `/v2/rooms`.
fn created(path: &[&str], body: Value) -> Response {
    let encoded = path.iter().map(|it| utf8_percent_encode(it, UNRESERVED));
    let encoded: Vec<String> = encoded.map(|it| it.to_string()).collect();
    let location = format!("/v2/rooms/{}", encoded.join("/"));
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::WorkerError;

    #[test]
    fn names_of_errors() {
        let refused = |code| {
            Error::Worker(WorkerError::Refused {
                code,
                message: String::new(),
            })
        };
        for (error, name) in [
            (Error::UnknownRoom("r".into()), "RoomNotFound"),
            (Error::unknown("broadcaster", "b"), "PeerNotFound"),
            (Error::unknown("transport", "t"), "TransportNotFound"),
            (Error::unknown("producer", "p"), "ProducerNotFound"),
            (Error::unknown("consumer", "c"), "ConsumerNotFound"),
            (Error::field("kind", "is missing"), "TypeError"),
            (Error::BodyTimeout, "TypeError"),
            (Error::Unauthorized, "UnauthorizedError"),
            (Error::ForeignOrigin, "ForbiddenError"),
            (Error::NotJoined, "InvalidStateError"),
            (Error::AlreadyJoined, "InvalidStateError"),
            (refused(tonic::Code::AlreadyExists), "InvalidStateError"),
            (refused(tonic::Code::Internal), "Error"),
            (Error::Worker(WorkerError::Gone), "Error"),
        ] {
            assert_eq!(NamedError(error.clone()).name(), name, "{error}");
        }
    }

    #[test]
    fn directions() {
        for (body, error) in [
            (json!({"direction": "producer"}), None),
            (json!({"appData": {"direction": "consumer"}}), None),
            (
                json!({"direction": null, "appData": {"direction": "consumer"}}),
                None,
            ),
            (json!({}), Some("direction is missing")),
            (json!({"appData": 1}), Some("direction is missing")),
            (
                json!({"direction": 1}),
                Some("direction must be \"producer\" or \"consumer\""),
            ),
            (
                json!({"direction": "x", "appData": {"direction": "consumer"}}),
                Some("direction must be \"producer\" or \"consumer\""),
            ),
        ] {
            let checked = check_direction(body.as_object().unwrap());
            let checked = checked.err().map(|error| error.to_string());
            assert_eq!(checked.as_deref(), error, "{body}");
        }
    }

    #[test]
    fn locations_are_encoded() {
        let response = created(&["a b", "broadcasters", "é/x-1"], json!({}));
        assert_eq!(response.status(), StatusCode::CREATED);
        let location = &response.headers()[header::LOCATION];
        assert_eq!(location, "/v2/rooms/a%20b/broadcasters/%C3%A9%2Fx-1");
    }
}
