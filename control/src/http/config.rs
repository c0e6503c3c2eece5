//! GET `/config`: the effective configuration without its secrets, and live
//! details of the workers for those who may see them.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::AppState;
use super::admin_access::IsAdmin;
use super::schemas::{AdminErrors, ConfigBody};
use super::workers::workers_json;

/// The part of the configuration that the seed documents, for anyone to see.
const SEED_PART: &str = "https";

/// The configuration without secrets; details for loopback, or with the token.
#[utoipa::path(
    get,
    path = "/config",
    tag = "admin",
    security((), ("adminToken" = [])),
    responses((status = 200, description = "It is", body = ConfigBody), AdminErrors)
)]
pub(super) async fn get(IsAdmin(details): IsAdmin, State(state): State<AppState>) -> Json<Value> {
    let mut config = state.config.redacted_json();
    if !details && let Value::Object(parts) = &mut config {
        parts.retain(|name, _| name == SEED_PART);
    }
    let mut answer = json!({ "config": config });
    if details && let Value::Object(fields) = &mut answer {
        fields.insert("workers".into(), workers_json(&state).await);
        let rooms = json!({
            "open": state.rooms.open_rooms(),
            "joinedPeers": state.rooms.joined_peers(),
            "quarantined": state.rooms.quarantined(),
        });
        fields.insert("rooms".into(), rooms);
        fields.insert("webhooks".into(), webhooks_json(&state));
    }
    Json(answer)
}

/// What became of webhooks so far.
fn webhooks_json(state: &AppState) -> Value {
    let counts = state.rooms.webhooks().counts();
    json!({
        "delivered": counts.delivered,
        "failedTries": counts.failed_tries,
        "undelivered": counts.undelivered,
        "dropped": counts.dropped,
        "queued": counts.queued,
    })
}
