//! applyNetworkThrottle and resetNetworkThrottle: a client that knows the
//! secret makes its own transports behave as over a bad network. Nobody else's
//! media is touched, and nothing outside the media worker.

use proto::{NetworkThrottle, SetNetworkThrottleRequest};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tracing::{info, warn};

use super::{Reply, fields};
use crate::error::Error;
use crate::protoo::connection::SessionId;
use crate::rooms::room::Room;

/// Highest bitrate that can be asked for, kbit/s.
const MAX_KBITS: f64 = 10_000_000.0;

/// Longest round trip that can be asked for, milliseconds.
const MAX_RTT: f64 = 60_000.0;

pub(super) async fn apply(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    check_secret(room, data)?;
    // Of the newest dialect; one that is an object has been taken apart.
    fields::optional_object(data, "options")?;
    let throttle = throttle(data)?;
    set(room, session, throttle).await
}

pub(super) async fn reset(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    check_secret(room, data)?;
    set(room, session, None).await
}

/// Makes a new transport of a throttled peer as bad as its others.
pub(super) async fn throttle_new(room: &mut Room, session: SessionId, transport_id: &str) {
    let peer = room.peers.get(&session);
    let Some(throttle) = peer.and_then(|peer| peer.throttle) else {
        return;
    };
    let request = SetNetworkThrottleRequest {
        transport_ids: vec![transport_id.to_owned()],
        throttle: Some(throttle),
    };
    if let Err(error) = room.worker.client.set_network_throttle(request).await {
        // A network that is too good is no reason to have none.
        warn!(room = %room.id, %error, "cannot throttle a new transport");
    }
}

async fn set(
    room: &mut Room,
    session: SessionId,
    throttle: Option<NetworkThrottle>,
) -> Result<Reply, Error> {
    let peer = room.peer(session)?;
    let (peer_id, ids) = (
        peer.id.clone(),
        peer.transports.iter().map(|it| it.id.clone()),
    );
    let transport_ids: Vec<String> = ids.collect();
    if !transport_ids.is_empty() {
        let request = SetNetworkThrottleRequest {
            transport_ids,
            throttle,
        };
        room.worker.client.set_network_throttle(request).await?;
    }
    room.peer(session)?.throttle = throttle;
    info!(room = %room.id, peer = %peer_id, ?throttle, "network throttle");
    Ok(Reply::empty())
}

/// Without a secret in the configuration no secret is right.
fn check_secret(room: &Room, data: &Value) -> Result<(), Error> {
    let Some(secret) = &room.config.network_throttle_secret else {
        return Err(Error::Forbidden("network throttling is switched off"));
    };
    let given = fields::optional(data, "secret")?;
    let given = given.and_then(Value::as_str).unwrap_or_default();
    if bool::from(given.as_bytes().ct_eq(secret.expose().as_bytes())) {
        Ok(())
    } else {
        Err(Error::Forbidden("the secret is wrong"))
    }
}

/// What is asked for; `None` when that changes nothing.
fn throttle(data: &Value) -> Result<Option<NetworkThrottle>, Error> {
    let throttle = NetworkThrottle {
        uplink_bitrate: bits(fields::number(data, "uplink", MAX_KBITS)?),
        downlink_bitrate: bits(fields::number(data, "downlink", MAX_KBITS)?),
        rtt_ms: fields::number(data, "rtt", MAX_RTT)?.round() as u32,
        packet_loss: fields::number(data, "packetLoss", 100.0)? / 100.0,
    };
    Ok((throttle != NetworkThrottle::default()).then_some(throttle))
}

/// Bits per second of kbit/s. A little is not nothing, which would mean
/// unlimited.
fn bits(kbits: f64) -> u64 {
    (kbits * 1000.0).ceil() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn throttles() {
        let some = |uplink_bitrate, downlink_bitrate, rtt_ms, packet_loss| {
            Ok(Some(NetworkThrottle {
                uplink_bitrate,
                downlink_bitrate,
                rtt_ms,
                packet_loss,
            }))
        };
        let table = [
            (json!({}), Ok(None)),
            (
                json!({ "uplink": 0, "downlink": null, "rtt": 0, "packetLoss": 0 }),
                Ok(None),
            ),
            (json!({ "uplink": 1000 }), some(1_000_000, 0, 0, 0.0)),
            (json!({ "downlink": 0.0001 }), some(0, 1, 0, 0.0)),
            (
                json!({ "uplink": 0.5, "downlink": 2, "rtt": 99.6, "packetLoss": 25 }),
                some(500, 2000, 100, 0.25),
            ),
        ];
        for (data, expected) in table {
            assert_eq!(throttle(&data), expected, "{data}");
        }
        for (field, bad) in [
            ("uplink", json!(-1)),
            ("uplink", json!(1e10)),
            ("downlink", json!("1000")),
            ("rtt", json!(60_001)),
            ("packetLoss", json!(100.5)),
        ] {
            let error = throttle(&json!({ field: bad })).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
