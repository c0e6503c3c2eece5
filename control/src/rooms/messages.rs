//! What clients are told of data channels, quality and speakers, as JSON in
//! the seed's shapes, with what only the newest dialect tells: one function for
//! each message.

use proto::{
    ConsumerLayersChanged, ConsumerScore, DataConsumerSpec, DownlinkBwe, EncodingScore,
    SctpStreamParameters,
};
use serde_json::{Value, json};

use super::data::DataProducer;

/// `newDataConsumer`. `peer_id` is absent for the bot.
pub(super) fn new_data_consumer(
    peer_id: Option<&str>,
    producer: &DataProducer,
    consumer: &DataConsumerSpec,
) -> Value {
    let stream = consumer.stream.unwrap_or_default();
    json!({
        "peerId": peer_id,
        "transportId": consumer.transport_id,
        "dataProducerId": producer.id,
        "id": consumer.data_consumer_id,
        "sctpStreamParameters": stream_parameters(&stream),
        "label": producer.label,
        "protocol": producer.protocol,
        "appData": producer.app_data,
    })
}

/// RTCDataChannel's own rule: a reliability field is there or not, never null.
fn stream_parameters(stream: &SctpStreamParameters) -> Value {
    let mut json = json!({ "streamId": stream.stream_id, "ordered": stream.ordered });
    let optional = [
        ("maxPacketLifeTime", stream.max_packet_life_time),
        ("maxRetransmits", stream.max_retransmits),
    ];
    if let Value::Object(fields) = &mut json {
        for (name, value) in optional {
            fields.extend(value.map(|value| (name.to_owned(), value.into())));
        }
    }
    json
}

/// `dataConsumerClosed`.
pub(super) fn data_consumer_closed(data_consumer_id: &str) -> Value {
    json!({ "dataConsumerId": data_consumer_id })
}

/// `producerScore`.
pub(super) fn producer_score(producer_id: &str, scores: &[EncodingScore]) -> Value {
    let scores: Vec<Value> = scores.iter().map(encoding_score).collect();
    json!({ "producerId": producer_id, "score": scores })
}

fn encoding_score(score: &EncodingScore) -> Value {
    let mut json = json!({
        "encodingIdx": score.encoding_idx,
        "ssrc": score.ssrc,
        "score": score.score,
    });
    if let (Value::Object(fields), Some(rid)) = (&mut json, &score.rid) {
        fields.insert("rid".into(), rid.as_str().into());
    }
    json
}

/// `consumerScore`.
pub(super) fn consumer_score(consumer_id: &str, score: &ConsumerScore) -> Value {
    json!({ "consumerId": consumer_id, "score": score_of(score) })
}

/// The scores of a consumer and of what it receives.
pub(super) fn score_of(score: &ConsumerScore) -> Value {
    json!({
        "score": score.score,
        "producerScore": score.producer_score,
        "producerScores": score.producer_scores,
    })
}

/// `consumerLayersChanged`; both layers are null when nothing is sent.
pub(super) fn consumer_layers_changed(changed: &ConsumerLayersChanged) -> Value {
    let spatial = changed.layers.map(|layers| layers.spatial_layer);
    let temporal = changed.layers.and_then(|layers| layers.temporal_layer);
    json!({
        "consumerId": changed.consumer_id,
        "spatialLayer": spatial,
        "temporalLayer": temporal,
    })
}

/// `downlinkBwe`.
pub(super) fn downlink_bwe(bwe: &DownlinkBwe) -> Value {
    json!({
        "desiredBitrate": bwe.desired_bitrate,
        "effectiveDesiredBitrate": bwe.effective_desired_bitrate,
        "availableBitrate": bwe.available_bitrate,
    })
}

/// `activeSpeaker`: who, and how loud in dBov; who leads the conversation; and
/// everybody who speaks, the loudest first.
pub(super) fn active_speaker(
    peer_id: &str,
    volume: i32,
    volumes: &[(&str, i32)],
    leader: &str,
) -> Value {
    let peer_volume = |(id, volume): &(&str, i32)| json!({ "peerId": id, "volume": volume });
    let volumes: Vec<Value> = volumes.iter().map(peer_volume).collect();
    json!({
        "peerId": peer_id, "volume": volume, "peerVolumes": volumes, "dominantPeerId": leader,
    })
}

/// `activeSpeaker` when nobody speaks.
pub(super) fn silence() -> Value {
    json!({ "peerId": null })
}
