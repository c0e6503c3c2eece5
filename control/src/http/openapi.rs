//! The OpenAPI document, made from the routes themselves: what is routed is
//! described, and the other way round. `/API` shows it to people.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::schemas::ErrorBody;

/// The head of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "webrtc-server",
        description = "Rooms, and broadcasters in them. Signaling is protoo over a WebSocket at \
            `wss://HOST:PORT/?roomId=…&peerId=…`."
    ),
    components(schemas(ErrorBody)),
    modifiers(&Tokens)
)]
pub(super) struct Head;

struct Tokens;

impl utoipa::Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for (name, setting) in [("apiToken", "API_TOKEN"), ("adminToken", "ADMIN_TOKEN")] {
            let mut bearer = Http::new(HttpAuthScheme::Bearer);
            bearer.description = Some(format!("Where the server has `{setting}` set"));
            components.add_security_scheme(name, SecurityScheme::Http(bearer));
        }
    }
}

/// The document as it is served.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = super::document();
    document.to_json().unwrap_or_default().into()
});

/// This document.
#[utoipa::path(
    get,
    path = "/API/openapi.json",
    tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(super) async fn get() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, DOCUMENT.clone()).into_response()
}
