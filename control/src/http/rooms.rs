//! The routes about rooms. Only POST `/rooms` and GET `/getRoomId` create one.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::{HeaderMap, Method, Uri};
use serde_json::{Map, Value, json};
use url::{Url, form_urlencoded};

use super::access::{ApiAccess, check_origin};
use super::body::read_object;
use super::schemas::{
    AdmissionErrors, CreateErrors, DeprecatedErrors, ReservedErrors, RoomErrors, RoomMade,
    RoomMadeDeprecated, RoomOptionsBody, RtpCapabilitiesBody, StatusOk,
};
use super::ws_url::PublicAddress;
use super::{AppState, signaling};
use crate::error::Error;
use crate::rooms::{PeerId, RoomId, RoomOptions};

/// Name of this dialect in the answer to POST `/rooms`.
const PROTOCOL: &str = "2060-mediasoup-v1";

/// Longest `eventNotificationUri`, bytes.
const MAX_URI: usize = 2048;

/// The path's room.
pub(super) type RoomPath = Result<Path<String>, PathRejection>;

/// Make a room under a random id. Deprecated, still served.
#[utoipa::path(
    get,
    path = "/getRoomId",
    tag = "rooms",
    security((), ("apiToken" = [])),
    responses((status = 200, description = "Made", body = RoomMadeDeprecated), DeprecatedErrors)
)]
pub(super) async fn get_room_id(
    _: ApiAccess,
    State(state): State<AppState>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    // Who only looks whether there is something must not make it.
    if method == Method::HEAD {
        return Err(Error::MethodNotAllowed);
    }
    let address = public_address(&state, &uri, &headers)?;
    let room = state.rooms.create(None, RoomOptions::default()).await?;
    Ok(Json(json!({
        "roomId": room.as_str(),
        "wsUrl": format!("{}&peerId=", address.room_url(&room)),
        "status": 1,
    })))
}

/// Make a room under a random id.
#[utoipa::path(
    post,
    path = "/rooms",
    tag = "rooms",
    security((), ("apiToken" = [])),
    request_body = Option<RoomOptionsBody>,
    responses((status = 200, description = "Made", body = RoomMade), CreateErrors)
)]
pub(super) async fn create_unnamed(
    _: ApiAccess,
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Error> {
    create(&state, None, &uri, &headers, body).await
}

/// Make a room.
#[utoipa::path(
    post,
    path = "/rooms/{roomId}",
    tag = "rooms",
    security((), ("apiToken" = [])),
    params(("roomId" = String, Path, description = "1 to 128 printable characters")),
    request_body = Option<RoomOptionsBody>,
    responses((status = 200, description = "Made", body = RoomMade), CreateErrors)
)]
pub(super) async fn create_named(
    _: ApiAccess,
    State(state): State<AppState>,
    room: RoomPath,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Error> {
    let room = room_id(room)?;
    create(&state, Some(room), &uri, &headers, body).await
}

/// Refused: the word is reserved.
#[utoipa::path(post, path = "/rooms/health", tag = "rooms", responses(ReservedErrors))]
pub(super) async fn create_health() -> Error {
    match RoomId::parse("health") {
        Err(error) => error,
        Ok(_) => Error::MethodNotAllowed,
    }
}

async fn create(
    state: &AppState,
    room: Option<RoomId>,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<Value>, Error> {
    let options = room_options(&read_object(body).await?)?;
    let address = public_address(state, uri, headers)?;
    let room = state.rooms.create(room, options).await?;
    Ok(Json(json!({
        "protocol": PROTOCOL,
        "roomId": room.as_str(),
        "wsUrl": address.room_url(&room),
    })))
}

/// The RTP capabilities of the room's router.
#[utoipa::path(
    get,
    path = "/rooms/{roomId}",
    tag = "rooms",
    params(("roomId" = String, Path)),
    responses((status = 200, description = "They are", body = RtpCapabilitiesBody), RoomErrors)
)]
pub(super) async fn capabilities(
    State(state): State<AppState>,
    room: RoomPath,
) -> Result<Json<Value>, Error> {
    let room = room_id(room)?;
    state.rooms.check(&room)?;
    Ok(Json(state.rooms.router_rtp_capabilities().clone()))
}

/// What a WSS upgrade would answer, for pages, from which browsers hide it.
/// Creates nothing.
#[utoipa::path(
    get,
    path = "/rooms/{roomId}/admission",
    tag = "rooms",
    params(
        ("roomId" = String, Path),
        ("peerId" = String, Query, description = "1 to 128 printable characters"),
    ),
    responses((status = 200, description = "May come in", body = StatusOk), AdmissionErrors)
)]
pub(super) async fn admission(
    State(state): State<AppState>,
    room: RoomPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    let room = room_id(room)?;
    let peer = PeerId::parse(&query(&uri, "peerId").unwrap_or_default())?;
    check_origin(&state.config, &uri, &headers)?;
    signaling::check(&state, &room, &peer).await?;
    Ok(Json(json!({ "status": "ok" })))
}

fn public_address(
    state: &AppState,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<PublicAddress, Error> {
    let config = &state.config;
    PublicAddress::of(
        config.ingress_host.as_deref(),
        config.client_port,
        uri,
        headers,
    )
}

pub(super) fn room_id(path: RoomPath) -> Result<RoomId, Error> {
    match path {
        Ok(Path(text)) => RoomId::parse(&text),
        // Percent-encoded bytes that are no UTF-8.
        Err(_) => RoomId::parse(""),
    }
}

/// The first value of a query parameter.
pub(super) fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = form_urlencoded::parse(uri.query()?.as_bytes());
    let mut values = pairs.filter(|(key, _)| key == name);
    values.next().map(|(_, value)| value.into_owned())
}

/// `null` counts as absent; fields that nobody knows are ignored.
fn room_options(fields: &Map<String, Value>) -> Result<RoomOptions, Error> {
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let max_peers = match field("maxPeerCount") {
        None => None,
        Some(value) => Some(max_peers(value)?),
    };
    let event_notification_uri = match field("eventNotificationUri") {
        None => None,
        Some(value) => Some(notification_uri(value)?),
    };
    Ok(RoomOptions {
        max_peers,
        event_notification_uri,
    })
}

fn max_peers(value: &Value) -> Result<u32, Error> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| *number >= 2)
        .ok_or_else(|| Error::field("maxPeerCount", "must be an integer of at least 2"))
}

fn notification_uri(value: &Value) -> Result<Url, Error> {
    let text = value.as_str().filter(|text| text.len() <= MAX_URI);
    text.and_then(|text| Url::parse(text).ok())
        .filter(|uri| matches!(uri.scheme(), "http" | "https") && uri.has_host())
        .ok_or_else(|| Error::field("eventNotificationUri", "must be an http or https URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(body: Value) -> Result<RoomOptions, String> {
        room_options(body.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn good_options() {
        let options = options(json!({
            "maxPeerCount": 2, "eventNotificationUri": "http://example.com/n?a=1", "other": [],
        }))
        .unwrap();
        assert_eq!(options.max_peers, Some(2));
        let uri = options.event_notification_uri.unwrap();
        assert_eq!(uri.as_str(), "http://example.com/n?a=1");
    }

    #[test]
    fn absent_options() {
        for body in [
            json!({}),
            json!({"maxPeerCount": null, "eventNotificationUri": null}),
        ] {
            let options = options(body).unwrap();
            assert_eq!(options.max_peers, None);
            assert_eq!(options.event_notification_uri, None);
        }
    }

    #[test]
    fn bad_options_name_the_field() {
        for bad in [
            json!(1),
            json!(0),
            json!(-5),
            json!(2.5),
            json!("2"),
            json!([]),
            json!(true),
            json!(u64::MAX),
        ] {
            let error = options(json!({ "maxPeerCount": bad })).unwrap_err();
            assert!(error.starts_with("maxPeerCount must"), "{error}");
        }
        let long = format!("http://example.com/{}", "a".repeat(MAX_URI));
        for bad in [
            json!(""),
            json!("x"),
            json!("ftp://a/b"),
            json!("http://"),
            json!(1),
            json!("/path"),
            json!("javascript:alert(1)"),
            json!(long),
        ] {
            let error = options(json!({ "eventNotificationUri": bad })).unwrap_err();
            assert!(error.starts_with("eventNotificationUri must"), "{error}");
        }
    }

    #[test]
    fn queries() {
        let uri: Uri = "/?roomId=a%20b+c&peerId=&peerId=x".parse().unwrap();
        assert_eq!(query(&uri, "roomId").as_deref(), Some("a b c"));
        assert_eq!(query(&uri, "peerId").as_deref(), Some(""));
        assert_eq!(query(&uri, "dialect"), None);
        assert_eq!(query(&"/".parse().unwrap(), "roomId"), None);
    }
}
