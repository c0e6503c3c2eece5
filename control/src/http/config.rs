//! GET `/config`: the effective configuration without its secrets, and live
//! details of the workers for those who may see them.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::AppState;
use super::admin_access::IsAdmin;
use super::schemas::{AdminErrors, ConfigBody};
use crate::workers::WorkerStatus;

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

/// Every worker slot; the live ones with their own numbers.
async fn workers_json(state: &AppState) -> Value {
    let dumps = state.workers.live().into_iter().map(async |worker| {
        let dump = worker.client.dump(proto::DumpRequest {}).await;
        (worker.index, dump.ok())
    });
    let dumps = futures_util::future::join_all(dumps).await;
    let status = state.workers.status();
    let workers = status.iter().map(|worker| {
        let dump = dumps.iter().find(|(index, _)| *index == worker.index);
        worker_json(worker, dump.and_then(|(_, dump)| dump.as_ref()))
    });
    workers.collect()
}

fn stats_json(dump: &proto::DumpResponse) -> Value {
    json!({
        "routers": dump.routers,
        "transports": dump.transports,
        "producers": dump.producers,
        "consumers": dump.consumers,
        "dataProducers": dump.data_producers,
        "dataConsumers": dump.data_consumers,
        "rtpPacketsReceived": dump.rtp_packets_received,
        "rtpPacketsForwarded": dump.rtp_packets_forwarded,
        "datagramsReceived": dump.datagrams_received,
        "datagramsSent": dump.datagrams_sent,
        "datagramsDropped": dump.datagrams_dropped,
        "sendErrors": dump.send_errors,
        "cpuUserMicros": dump.cpu_user_us,
        "cpuSystemMicros": dump.cpu_system_us,
        "rssBytes": dump.rss_bytes,
        "panics": dump.panics,
        "calls": dump.calls,
    })
}

fn worker_json(worker: &WorkerStatus, dump: Option<&proto::DumpResponse>) -> Value {
    json!({
        "stats": dump.map(stats_json),
        "index": worker.index,
        "pid": worker.pid,
        "cpu": worker.cpu,
        "minPort": worker.ports.0,
        "maxPort": worker.ports.1,
        "ready": worker.ready,
        "restarts": worker.restarts,
    })
}
