//! pauseConsumer, resumeConsumer, requestConsumerKeyFrame,
//! setConsumerPreferredLayers and setConsumerPriority.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::{Reply, fields};
use crate::error::Error;
use crate::protoo::connection::SessionId;
use crate::rooms::room::Room;

/// Spatial and temporal layers that can be asked for; no codec has as many.
const LAYERS: RangeInclusive<u64> = 0..=255;

pub(super) async fn pause(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let consumer_id = named_consumer(room, session, data)?;
    let request = proto::PauseConsumerRequest {
        consumer_id: consumer_id.clone(),
    };
    room.worker.client.pause_consumer(request).await?;
    room.peer(session)?.consumer(&consumer_id)?.paused_by_client = true;
    Ok(Reply::empty())
}

pub(super) async fn resume(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let consumer_id = named_consumer(room, session, data)?;
    let request = proto::ResumeConsumerRequest {
        consumer_id: consumer_id.clone(),
    };
    room.worker.client.resume_consumer(request).await?;
    room.peer(session)?.consumer(&consumer_id)?.paused_by_client = false;
    Ok(Reply::empty())
}

pub(super) async fn request_key_frame(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let consumer_id = named_consumer(room, session, data)?;
    let request = proto::RequestKeyFrameRequest { consumer_id };
    room.worker.client.request_key_frame(request).await?;
    Ok(Reply::empty())
}

/// The worker takes the highest layers that there are when more is asked for.
pub(super) async fn set_preferred_layers(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let consumer_id = named_consumer(room, session, data)?;
    let spatial_layer = fields::integer(data, "spatialLayer", LAYERS)?;
    let missing = || Error::field("spatialLayer", "is missing");
    let request = proto::SetConsumerPreferredLayersRequest {
        consumer_id,
        spatial_layer: spatial_layer.ok_or_else(missing)?,
        temporal_layer: fields::integer(data, "temporalLayer", LAYERS)?,
    };
    let client = &room.worker.client;
    client.set_consumer_preferred_layers(request).await?;
    Ok(Reply::empty())
}

pub(super) async fn set_priority(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let consumer_id = named_consumer(room, session, data)?;
    let priority = fields::integer(data, "priority", 1..=255)?;
    let missing = || Error::field("priority", "is missing");
    let request = proto::SetConsumerPriorityRequest {
        consumer_id,
        priority: priority.ok_or_else(missing)?,
    };
    room.worker.client.set_consumer_priority(request).await?;
    Ok(Reply::empty())
}

/// The `consumerId` of a request, which has to be one of this joined peer's.
pub(super) fn named_consumer(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<String, Error> {
    let peer = room.peer(session)?;
    peer.joined()?;
    let consumer_id = fields::string(data, "consumerId")?;
    peer.consumer(consumer_id)?;
    Ok(consumer_id.to_owned())
}
