//! The media workers as admins see them, and putting a fresh one in the place of
//! another.

use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use proto::{DumpRequest, DumpResponse};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::AppState;
use super::admin_access::AdminAccess;
use super::schemas::{AdminPeerErrors, AdminWorkersBody, Draining, ForAdmins};
use crate::error::Error;
use crate::workers::{LastExit, Load, WorkerId, WorkerPool, WorkerState, WorkerStatus};

/// How often it is looked whether the last room of a worker is gone.
const LOOK: Duration = Duration::from_millis(100);

/// The media workers, with what they do.
#[utoipa::path(
    get,
    path = "/admin/workers",
    tag = "admin",
    security((), ("adminToken" = [])),
    responses((status = 200, description = "These are", body = AdminWorkersBody), ForAdmins)
)]
pub(super) async fn list(_: AdminAccess, State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "workers": workers_json(&state).await }))
}

/// Put a fresh media worker in the place of this one, once its rooms are gone or
/// `DRAIN_TIMEOUT` is over; rooms that are left go to other workers. One that was
/// taken out is started again.
#[utoipa::path(
    post,
    path = "/admin/workers/{index}/drain",
    tag = "admin",
    security((), ("adminToken" = [])),
    params(("index" = u32, Path, description = "As in `/config`")),
    responses((status = 200, description = "It drains", body = Draining), AdminPeerErrors)
)]
pub(super) async fn drain(
    _: AdminAccess,
    State(state): State<AppState>,
    index: Result<Path<usize>, PathRejection>,
) -> Result<Json<Value>, Error> {
    let Ok(Path(index)) = index else {
        return Err(Error::field("index", "must be that of a worker"));
    };
    let statuses = state.workers.status();
    let Some(status) = statuses.iter().find(|it| it.index == index) else {
        return Err(Error::unknown("worker", &index.to_string()));
    };
    let timeout = state.config.drain_timeout;
    let drained = match status.draining {
        true => None,
        false => Some(state.workers.drain(index)),
    };
    let rooms = match drained {
        // Somebody has asked for it already.
        None => None,
        // There is no process to wait for.
        Some(None) => {
            state.workers.recycle(index);
            None
        }
        Some(Some(worker)) => {
            let rooms = state.rooms.rooms_of(worker);
            info!(worker = index, rooms, ?timeout, "media worker drains");
            tokio::spawn(replace_when_empty(state, index, worker, timeout));
            Some(rooms)
        }
    };
    Ok(Json(json!({
        "status": "draining",
        "rooms": rooms.unwrap_or_default(),
        "timeoutSeconds": timeout.as_secs(),
    })))
}

async fn replace_when_empty(state: AppState, index: usize, worker: WorkerId, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while state.rooms.rooms_of(worker) > 0 && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    // It may have died meanwhile; another one is in its place then.
    let there = state.workers.live();
    if there.iter().any(|it| it.index == index && it.id == worker) {
        state.workers.recycle(index);
    }
}

/// Every worker slot; the live ones with their own numbers of this moment.
pub(super) async fn workers_json(state: &AppState) -> Value {
    let dumps = dumps(&*state.workers).await;
    let live = state.workers.live();
    let status = state.workers.status();
    let workers = status.iter().map(|worker| {
        let dump = dumps.iter().find(|(index, _)| *index == worker.index);
        let id = live.iter().find(|it| it.index == worker.index);
        let rooms = id.map_or(0, |it| state.rooms.rooms_of(it.id));
        worker_json(worker, rooms, dump.and_then(|(_, dump)| dump.as_ref()))
    });
    workers.collect()
}

/// What the live workers tell of themselves, by slot; of all streams together.
pub(super) async fn dumps(workers: &dyn WorkerPool) -> Vec<(usize, Option<DumpResponse>)> {
    let dumps = workers.live().into_iter().map(async |worker| {
        let dump = worker.client.dump(DumpRequest { feedback: true }).await;
        (worker.index, dump.ok())
    });
    futures_util::future::join_all(dumps).await
}

fn worker_json(worker: &WorkerStatus, rooms: usize, dump: Option<&DumpResponse>) -> Value {
    json!({
        "index": worker.index,
        "pid": worker.pid,
        "cpu": worker.cpu,
        "minPort": worker.ports.0,
        "maxPort": worker.ports.1,
        "portsInUse": dump.map(|dump| dump.ports_in_use),
        "state": worker.state.name(),
        "draining": worker.draining,
        "ready": worker.state == WorkerState::Ready,
        "uptimeSeconds": worker.ready_for.map(|it| it.as_secs()),
        "restarts": worker.restarts,
        "lastExit": worker.last_exit.as_ref().map(exit_json),
        "rooms": rooms,
        "load": worker.load.as_ref().map(load_json),
        "stats": dump.map(stats_json),
    })
}

fn exit_json(exit: &LastExit) -> Value {
    let since_1970 = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "reason": exit.reason,
        "at": u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        "lastLines": exit.last_lines,
    })
}

fn load_json(load: &Load) -> Value {
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    json!({
        // Of one core.
        "cpuPercent": tenths(load.cpu * 100.0),
        "packetsInPerSecond": tenths(load.packets_in),
        "packetsOutPerSecond": tenths(load.packets_out),
        "bytesInPerSecond": tenths(load.bytes_in),
        "bytesOutPerSecond": tenths(load.bytes_out),
    })
}

fn stats_json(dump: &DumpResponse) -> Value {
    let dropped = dump.dropped.unwrap_or_default();
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
        "bytesReceived": dump.bytes_received,
        "bytesSent": dump.bytes_sent,
        "datagramsDropped": dump.datagrams_dropped,
        "droppedByReason": {
            "unparsable": dropped.unparsable,
            "unknown": dropped.unknown,
            "refusedChecks": dropped.refused_checks,
            "refused": dropped.refused,
            "tooLong": dropped.too_long,
            "wrongStream": dropped.wrong_stream,
            "falseReports": dropped.false_reports,
            "slowReaders": dropped.slow_video + dropped.slow_full,
            "sendErrors": dump.send_errors,
            "dataMessages": dump.data_messages_dropped,
        },
        "sendErrors": dump.send_errors,
        "plainUnreachable": dump.plain_unreachable,
        "cpuUserMicros": dump.cpu_user_us,
        "cpuSystemMicros": dump.cpu_system_us,
        "rssBytes": dump.rss_bytes,
        "panics": dump.panics,
        "calls": dump.calls,
    })
}
