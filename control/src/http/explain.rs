//! Why each video of a room is received as it is, in numbers and in words.

use std::collections::HashMap;
use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use proto::video_consumer::{Limit, Wait};
use proto::{ExplainConsumersRequest, Layers, NextStep, VideoConsumer};
use serde_json::{Value, json};

use super::AppState;
use super::admin::{describe, id_of, streams_of};
use super::admin_access::AdminAccess;
use super::rooms::RoomPath;
use super::schemas::{AdminConsumersBody, AdminRoomErrors};
use crate::error::Error;
use crate::workers::WorkerClient;

/// Which layers everybody in a room gets of each video, and why not more.
///
/// Layers are spatial/temporal. `targetLayers` is what the bandwidth allows of what is
/// preferred, `currentLayers` what is sent; they differ while a keyframe is awaited.
#[utoipa::path(
    get,
    path = "/admin/rooms/{roomId}/consumers",
    tag = "admin",
    security((), ("adminToken" = [])),
    params(("roomId" = String, Path)),
    responses(
        (status = 200, description = "These are", body = AdminConsumersBody),
        AdminRoomErrors
    )
)]
pub(super) async fn consumers(
    _: AdminAccess,
    State(state): State<AppState>,
    room: RoomPath,
) -> Result<Json<Value>, Error> {
    let (mut described, worker) = describe(&state, room).await?;
    let Some(worker) = worker else {
        return Ok(Json(json!({ "consumers": [] })));
    };
    let explained = explained(&worker, &described).await?;
    let receivers = owners(&mut described, "consumers");
    let senders = owners(&mut described, "producers");
    let all: Vec<Value> = explained
        .iter()
        .map(|it| {
            let mut json = consumer_json(it);
            if let Value::Object(fields) = &mut json {
                let owner = |of: &HashMap<String, String>, id| of.get(id).cloned().into();
                fields.insert("peerId".into(), owner(&receivers, &it.consumer_id));
                fields.insert("producerPeerId".into(), owner(&senders, &it.producer_id));
            }
            json
        })
        .collect();
    Ok(Json(json!({ "consumers": all })))
}

/// What the worker of a room that is described says about its video consumers.
pub(super) async fn explained(
    worker: &WorkerClient,
    described: &Value,
) -> Result<Vec<VideoConsumer>, Error> {
    let router_id = described.get("routerId").and_then(Value::as_str);
    let router_id = router_id.unwrap_or_default().to_owned();
    let request = ExplainConsumersRequest { router_id };
    Ok(worker.explain_consumers(request).await?.consumers)
}

/// Whose each stream of a kind is.
fn owners(described: &mut Value, kind: &str) -> HashMap<String, String> {
    let mut owners = HashMap::new();
    let members = described.get_mut("members").and_then(Value::as_array_mut);
    for member in members.into_iter().flatten() {
        let Some(owner) = id_of(member) else {
            continue;
        };
        for stream in streams_of(member, kind) {
            owners.extend(id_of(stream).map(|id| (id, owner.clone())));
        }
    }
    owners
}

pub(super) fn consumer_json(it: &VideoConsumer) -> Value {
    json!({
        "id": it.consumer_id,
        "producerId": it.producer_id,
        "transportId": it.transport_id,
        "priority": it.priority,
        "preferredLayers": it.preferred.as_ref().map(layers_json),
        "targetLayers": it.target.as_ref().map(layers_json),
        "currentLayers": it.current.as_ref().map(layers_json),
        "targetBitrate": it.bitrate,
        "availableBitrate": it.available,
        "availableForVideo": it.available_for_video,
        "nextStepNeeds": match &it.limit {
            Some(Limit::Bandwidth(step) | Limit::LastLayer(step)) => Some(step.needs),
            _ => None,
        },
        "reason": reason(it),
    })
}

fn layers_json(layers: &Layers) -> Value {
    json!({
        "spatialLayer": layers.spatial_layer,
        "temporalLayer": layers.temporal_layer,
    })
}

/// Why a consumer gets what it gets, for people.
fn reason(it: &VideoConsumer) -> String {
    let mut text = format!(
        "target {}, sending {}",
        layers_text(it.target.as_ref()),
        layers_text(it.current.as_ref())
    );
    let available = it.available.map(bitrate_text);
    let available = available.as_deref().unwrap_or("everything");
    let limit = match &it.limit {
        Some(Limit::PreferredReached(_)) => {
            format!("the best that flows of what is wanted; available {available}")
        }
        Some(Limit::NotFlowing(_)) => "its producer sends nothing that it could get".to_owned(),
        Some(Limit::Bandwidth(step)) => format!(
            "available {available}, next step ({}) needs {}",
            step_text(step),
            bitrate_text(step.needs)
        ),
        Some(Limit::Hold(step)) => format!(
            "available {available}, next step ({}) in {} if it fits until then",
            step_text(step),
            seconds_text(step.in_ms)
        ),
        Some(Limit::LastLayer(step)) => format!(
            "available {available}, even the lowest layer needs {}; it stops in {} unless there \
             is more",
            bitrate_text(step.needs),
            seconds_text(step.in_ms)
        ),
        Some(Limit::Unlimited(_)) | None => "its client tells no bandwidth".to_owned(),
        Some(Limit::Paused(_)) => "it or its producer is paused".to_owned(),
    };
    // Writing to a string cannot fail.
    let _ = write!(text, ": {limit}");
    let _ = match &it.wait {
        Some(Wait::KeyFrame(wait)) => write!(
            text,
            "; waiting for a keyframe of layer {} since {}, asked {}",
            wait.spatial_layer,
            seconds_text(wait.since_ms),
            times_text(wait.requests)
        ),
        Some(Wait::TemporalSwitch(layer)) => {
            write!(
                text,
                "; waiting for a picture to add temporal layer {layer}"
            )
        }
        Some(Wait::Media(_)) => write!(text, "; waiting for media"),
        None => Ok(()),
    };
    text
}

fn step_text(step: &NextStep) -> String {
    layers_text(step.layers.as_ref())
}

fn layers_text(layers: Option<&Layers>) -> String {
    match layers {
        Some(layers) => format!(
            "{}/{}",
            layers.spatial_layer,
            layers.temporal_layer.unwrap_or_default()
        ),
        None => "nothing".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn bitrate_text(bitrate: u64) -> String {
    match bitrate {
        0..1_000_000 => format!("{} kbit/s", (bitrate + 500) / 1000),
        _ => format!("{:.1} Mbit/s", bitrate as f64 / 1e6),
    }
}

fn seconds_text(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

fn times_text(times: u32) -> String {
    match times {
        1 => "1 time".to_owned(),
        _ => format!("{times} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Empty, KeyFrameWait};

    fn layers(spatial_layer: u32, temporal_layer: u32) -> Option<Layers> {
        Some(Layers {
            spatial_layer,
            temporal_layer: Some(temporal_layer),
        })
    }

    fn step(needs: u64, in_ms: u64) -> NextStep {
        NextStep {
            layers: layers(2, 1),
            needs,
            in_ms,
        }
    }

    #[test]
    fn reasons_are_said_in_words_and_numbers() {
        let key_frame = Wait::KeyFrame(KeyFrameWait {
            spatial_layer: 2,
            since_ms: 449,
            requests: 1,
        });
        let cases = [
            (
                Limit::Bandwidth(step(1_204_000, 0)),
                None,
                "target 2/2, sending 1/2: available 740 kbit/s, next step (2/1) needs 1.2 Mbit/s",
            ),
            (
                Limit::PreferredReached(Empty {}),
                Some(key_frame),
                "target 2/2, sending 1/2: the best that flows of what is wanted; available \
                 740 kbit/s; waiting for a keyframe of layer 2 since 0.4 s, asked 1 time",
            ),
            (
                Limit::Hold(step(0, 1900)),
                Some(Wait::TemporalSwitch(2)),
                "target 2/2, sending 1/2: available 740 kbit/s, next step (2/1) in 1.9 s if it \
                 fits until then; waiting for a picture to add temporal layer 2",
            ),
            (
                Limit::LastLayer(step(999_600, 5000)),
                None,
                "target 2/2, sending 1/2: available 740 kbit/s, even the lowest layer needs \
                 1000 kbit/s; it stops in 5.0 s unless there is more",
            ),
            (
                Limit::NotFlowing(Empty {}),
                Some(Wait::Media(Empty {})),
                "target 2/2, sending 1/2: its producer sends nothing that it could get; waiting \
                 for media",
            ),
            (
                Limit::Paused(Empty {}),
                None,
                "target 2/2, sending 1/2: it or its producer is paused",
            ),
        ];
        for (limit, wait, expected) in cases {
            let consumer = VideoConsumer {
                target: layers(2, 2),
                current: layers(1, 2),
                available: Some(740_000),
                limit: Some(limit),
                wait,
                ..VideoConsumer::default()
            };
            assert_eq!(reason(&consumer), expected);
        }
        let nothing = VideoConsumer {
            limit: Some(Limit::Unlimited(Empty {})),
            ..VideoConsumer::default()
        };
        let expected = "target nothing, sending nothing: its client tells no bandwidth";
        assert_eq!(reason(&nothing), expected);
    }
}
