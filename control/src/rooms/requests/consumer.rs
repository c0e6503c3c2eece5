//! pauseConsumer, resumeConsumer and requestConsumerKeyFrame.

use serde_json::Value;

use super::{Reply, fields};
use crate::error::Error;
use crate::protoo::connection::SessionId;
use crate::rooms::room::Room;

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

/// The `consumerId` of a request, which has to be one of this joined peer's.
fn named_consumer(room: &mut Room, session: SessionId, data: &Value) -> Result<String, Error> {
    let peer = room.peer(session)?;
    peer.joined()?;
    let consumer_id = fields::string(data, "consumerId")?;
    peer.consumer(consumer_id)?;
    Ok(consumer_id.to_owned())
}
