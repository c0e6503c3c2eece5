//! Why a video consumer gets the layers that it gets, as the worker tells it, in
//! JSON and in a sentence.

use std::collections::HashMap;

use proto::video_consumer::{Limit, Wait};
use proto::{ExplainConsumersRequest, Layers, NextStep, VideoConsumer};
use serde_json::{Value, json};

use crate::workers::WorkerClient;

/// What the worker tells of each video consumer of a router, by id; nothing where
/// it does not answer.
pub(super) async fn explained(worker: &WorkerClient, router_id: String) -> HashMap<String, Value> {
    let request = ExplainConsumersRequest { router_id };
    let answer = worker.explain_consumers(request).await;
    let consumers = answer.map(|it| it.consumers).unwrap_or_default();
    let consumers = consumers.into_iter();
    consumers
        .map(|it| (it.consumer_id.clone(), explanation(&it)))
        .collect()
}

fn explanation(consumer: &VideoConsumer) -> Value {
    json!({
        "priority": consumer.priority,
        "preferredLayers": consumer.preferred.map(layers_json),
        "targetLayers": consumer.target.map(layers_json),
        "currentLayers": consumer.current.map(layers_json),
        "targetBitrate": consumer.bitrate,
        "availableBitrate": consumer.available,
        "availableForVideo": consumer.available_for_video,
        "reason": reason(consumer),
    })
}

fn layers_json(layers: Layers) -> Value {
    json!({
        "spatialLayer": layers.spatial_layer,
        "temporalLayer": layers.temporal_layer,
    })
}

/// In a sentence or two.
fn reason(consumer: &VideoConsumer) -> String {
    let limit = match &consumer.limit {
        Some(Limit::PreferredReached(_)) => "It gets the best that flows of what it wants.".into(),
        Some(Limit::NotFlowing(_)) => "Its producer sends nothing that it could get.".into(),
        Some(Limit::Bandwidth(step)) => {
            format!("There is not enough bandwidth for more: {}.", next(step))
        }
        Some(Limit::Hold(step)) => format!(
            "There is enough bandwidth for more, but not for long enough yet: {} in {:.1} s.",
            next(step),
            step.in_ms as f64 / 1e3
        ),
        Some(Limit::LastLayer(step)) => format!(
            "There is too little bandwidth even for the lowest layer, which is sent all the same \
             for another {:.1} s.",
            step.in_ms as f64 / 1e3
        ),
        Some(Limit::Unlimited(_)) => "Nothing limits its transport.".into(),
        Some(Limit::Paused(_)) => "It, or its producer, is paused.".into(),
        None => String::new(),
    };
    let wait = match &consumer.wait {
        Some(Wait::KeyFrame(wait)) => format!(
            "It waits for a keyframe of layer S{} for {:.1} s, and its sender was asked {} times.",
            wait.spatial_layer,
            wait.since_ms as f64 / 1e3,
            wait.requests
        ),
        Some(Wait::TemporalSwitch(layer)) => {
            format!("It waits for a picture where temporal layer T{layer} can be added.")
        }
        Some(Wait::Media(_)) => "It waits for media that flows.".into(),
        None => String::new(),
    };
    format!("{limit} {wait}").trim().to_owned()
}

fn next(step: &NextStep) -> String {
    let needs = step.needs / 1000;
    match step.layers {
        Some(layers) => format!("{} needs {needs} kbit/s", name(layers)),
        None => "nothing would be sent any more".to_owned(),
    }
}

fn name(layers: Layers) -> String {
    match layers.temporal_layer {
        Some(temporal) => format!("S{} T{temporal}", layers.spatial_layer),
        None => format!("S{}", layers.spatial_layer),
    }
}

#[cfg(test)]
mod tests {
    use proto::{Empty, KeyFrameWait};

    use super::*;

    #[test]
    fn reasons_are_sentences() {
        let layers = |spatial_layer, temporal_layer| Layers {
            spatial_layer,
            temporal_layer,
        };
        let step = NextStep {
            layers: Some(layers(2, Some(1))),
            needs: 900_400,
            in_ms: 1500,
        };
        let table = [
            (
                Some(Limit::Bandwidth(step)),
                None,
                "not enough bandwidth for more: S2 T1 needs 900 kbit/s.",
            ),
            (
                Some(Limit::Hold(step)),
                None,
                "S2 T1 needs 900 kbit/s in 1.5 s.",
            ),
            (
                Some(Limit::Paused(Empty {})),
                None,
                "It, or its producer, is paused.",
            ),
            (
                Some(Limit::Unlimited(Empty {})),
                Some(Wait::KeyFrame(KeyFrameWait {
                    spatial_layer: 1,
                    since_ms: 200,
                    requests: 2,
                })),
                "transport. It waits for a keyframe of layer S1 for 0.2 s, and its sender was asked 2 times.",
            ),
            (
                None,
                Some(Wait::TemporalSwitch(2)),
                "temporal layer T2 can be added.",
            ),
            (None, None, ""),
        ];
        for (limit, wait, want) in table {
            let consumer = VideoConsumer {
                limit,
                wait,
                ..VideoConsumer::default()
            };
            let told = reason(&consumer);
            assert!(told.ends_with(want), "{told}");
        }
    }
}
