//! The five get…Stats: statistics of what a peer has itself, from its worker.
//! The answer is the array, without a wrapper.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::GetStatsRequest;
use serde_json::Value;

use super::consumer::named_consumer;
use super::producer::named_producer;
use super::transport::named_transport;
use super::{Reply, fields};
use crate::error::Error;
use crate::protoo::connection::SessionId;
use crate::rooms::room::Room;
use crate::stats;

pub(super) async fn transport(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let id = named_transport(room, session, data)?;
    let request = GetStatsRequest { id: id.clone() };
    let answer = room.worker.client.get_transport_stats(request).await?;
    Ok(Reply::new(stats::transport(&id, &answer, now())))
}

pub(super) async fn producer(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let id = named_producer(room, session, data)?;
    let request = GetStatsRequest { id };
    let answer = room.worker.client.get_producer_stats(request).await?;
    Ok(Reply::new(stats::producer(&answer, now())))
}

pub(super) async fn consumer(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let id = named_consumer(room, session, data)?;
    let request = GetStatsRequest { id };
    let answer = room.worker.client.get_consumer_stats(request).await?;
    Ok(Reply::new(stats::consumer(&answer, now())))
}

pub(super) async fn data_producer(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let peer = room.peer(session)?;
    peer.joined()?;
    let id = fields::string(data, "dataProducerId")?.to_owned();
    peer.data_producer(&id)?;
    let request = GetStatsRequest { id };
    let answer = room.worker.client.get_data_producer_stats(request).await?;
    Ok(Reply::new(stats::data_producer(&answer, now())))
}

pub(super) async fn data_consumer(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let peer = room.peer(session)?;
    peer.joined()?;
    let id = fields::string(data, "dataConsumerId")?.to_owned();
    peer.data_consumer(&id)?;
    let request = GetStatsRequest { id };
    let answer = room.worker.client.get_data_consumer_stats(request).await?;
    Ok(Reply::new(stats::data_consumer(&answer, now())))
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX)
}
