//! GET `/config`: the effective configuration without its secrets, and live
//! details of the workers for those who may see them.

use std::net::IpAddr;

use axum::extract::State;
use axum::{Extension, Json};
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::AppState;
use super::access::has_token;
use super::forwarded::{Neighbor, is_trusted};
use super::schemas::{AdminErrors, ConfigBody};
use crate::error::Error;
use crate::workers::WorkerStatus;

/// Headers by which a proxy says that a request came from elsewhere; besides
/// those that begin with [`FORWARDED_PREFIX`].
const PROXY_HEADERS: [&str; 3] = ["forwarded", "x-real-ip", "via"];

/// How all others of these begin.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// The part of the configuration that the seed documents, for anyone to see.
const SEED_PART: &str = "https";

/// The configuration without secrets; details for loopback, or with the token.
#[utoipa::path(
    get,
    path = "/config",
    tag = "server",
    security((), ("adminToken" = [])),
    responses((status = 200, description = "It is", body = ConfigBody), AdminErrors)
)]
pub(super) async fn get(
    State(state): State<AppState>,
    neighbor: Option<Extension<Neighbor>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    // No proxy is believed here.
    let remote = neighbor.map(|Extension(Neighbor(address))| address.ip());
    let details = match &state.config.admin_token {
        Some(token) if has_token(&headers, token) => true,
        Some(_) => return Err(Error::Unauthorized),
        None => remote.is_some_and(|remote| {
            // Where a proxy on this machine is expected, one that adds no header
            // must not open the door.
            let is_proxy = is_trusted(remote, &state.config.trusted_proxies);
            state.config.https_enabled && !is_proxy && is_loopback(remote, &headers)
        }),
    };
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
    Ok(Json(answer))
}

/// Whether the request comes from this machine itself: not through a proxy,
/// and not from a page of another origin in a local browser.
fn is_loopback(remote: IpAddr, headers: &HeaderMap) -> bool {
    let by_proxy = |name: &str| PROXY_HEADERS.contains(&name) || name.starts_with(FORWARDED_PREFIX);
    remote.to_canonical().is_loopback()
        && !headers.contains_key(header::ORIGIN)
        && !headers.keys().any(|name| by_proxy(name.as_str()))
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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        list.iter().map(parse).collect()
    }

    #[test]
    fn loopback() {
        let local: [IpAddr; 4] = [
            "127.0.0.1".parse().unwrap(),
            "127.9.9.9".parse().unwrap(),
            "::1".parse().unwrap(),
            "::ffff:127.0.0.1".parse().unwrap(),
        ];
        for remote in local {
            for name in ["user-agent", "viable", "forwarded-by-me", "x-real-ip-was"] {
                assert!(is_loopback(remote, &headers(&[(name, "x")])), "{name}");
            }
            for name in [
                "forwarded",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-host",
                "x-forwarded-anything",
                "x-real-ip",
                "via",
                "origin",
            ] {
                assert!(!is_loopback(remote, &headers(&[(name, "x")])), "{name}");
            }
        }
        for remote in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            assert!(
                !is_loopback(remote.parse().unwrap(), &headers(&[])),
                "{remote}"
            );
        }
    }
}
