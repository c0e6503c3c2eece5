//! produce, closeProducer, pauseProducer and resumeProducer.

use std::sync::Arc;

use serde_json::{Value, json};
use tracing::debug;
use uuid::Uuid;

use super::transport::named_transport;
use super::{Reply, Then, fields};
use crate::error::Error;
use crate::ortc::{self, MAX_SSRC, MIN_SSRC, NegotiatedProducer};
use crate::protoo::connection::{Notification, SessionId};
use crate::rooms::peer::Producer;
use crate::rooms::room::Room;
use crate::rooms::undo::Made;

/// Largest appData, bytes of JSON: every consumer's client gets a copy.
const MAX_APP_DATA: usize = 16 << 10;

pub(super) async fn produce(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    room.check_worker()?;
    let peer = room.peer(session)?;
    peer.joined()?;
    peer.check_producer_limit()?;
    let transport_id = named_transport(room, session, data)?;
    let id = Uuid::new_v4().to_string();
    let negotiated = negotiate(room, session, &transport_id, data)?;
    let app_data = app_data(room, session, data)?;
    let media = room.router.clone();
    let mut request =
        ortc::worker::produce_request(&transport_id, &id, &negotiated, &media.capabilities, false);
    let silence = room.config.room_broadcaster_silence;
    let peer = room.peer(session)?;
    if peer.is_broadcaster {
        let millis = silence.map(|it| u32::try_from(it.as_millis()).unwrap_or(u32::MAX));
        request.silence_ms = millis;
    }
    let transport = peer.transport(&transport_id)?;
    transport.receive_ids.add(&id, &negotiated.rtp_parameters)?;
    peer.producers.push(Producer {
        id: id.clone(),
        transport_id,
        kind: negotiated.kind,
        producer_type: negotiated.producer_type,
        consumable: Arc::new(negotiated.consumable),
        app_data,
        paused: false,
        consumers: Vec::new(),
    });
    if let Err(error) = room.worker.client.produce(request).await {
        room.forget_producer(session, &id);
        room.undo(Made::Producer(id), &error);
        return Err(error.into());
    }
    Ok(Reply::new(json!({ "id": id })).then(Then::Offer(id)))
}

fn negotiate(
    room: &mut Room,
    session: SessionId,
    transport_id: &str,
    data: &Value,
) -> Result<NegotiatedProducer, Error> {
    let kind = ortc::parse_media_kind(fields::required(data, "kind")?)?;
    let rtp_parameters = fields::required(data, "rtpParameters")?;
    let mut rtp_parameters = ortc::parse_rtp_parameters(kind, rtp_parameters)?;
    let media = room.router.clone();
    let transport = room.peer(session)?.transport(transport_id)?;
    let mut cname = transport.cname.clone();
    ortc::impose_cname(&mut cname, &mut rtp_parameters, random_cname);
    let first_mapped_ssrc = rand::random_range(MIN_SSRC..=MAX_SSRC);
    let negotiated =
        ortc::negotiate_producer(kind, rtp_parameters, &media.capabilities, first_mapped_ssrc)?;
    // Only a producer that comes about decides the transport's name.
    transport.cname = cname;
    Ok(negotiated)
}

/// The client's appData with the peer that it belongs to, so that whoever gets
/// it knows whose it is.
pub(super) fn app_data(room: &mut Room, session: SessionId, data: &Value) -> Result<Value, Error> {
    let mut app_data = fields::object(data, "appData", MAX_APP_DATA)?;
    let peer_id = room.peer(session)?.id.as_str();
    app_data.insert("peerId".into(), peer_id.into());
    Ok(Value::Object(app_data))
}

fn random_cname() -> String {
    let text = Uuid::new_v4().simple().to_string();
    text.chars().take(8).collect()
}

pub(super) async fn close(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let producer_id = named_producer(room, session, data)?;
    room.forget_producer(session, &producer_id);
    let request = proto::CloseProducerRequest { producer_id };
    if let Err(error) = room.worker.client.close_producer(request).await {
        // It is gone for everybody here, whatever became of it there.
        debug!(room = %room.id, %error, "cannot close a producer");
    }
    Ok(Reply::empty())
}

pub(super) async fn pause(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let producer_id = named_producer(room, session, data)?;
    let request = proto::PauseProducerRequest {
        producer_id: producer_id.clone(),
    };
    room.worker.client.pause_producer(request).await?;
    set_paused(room, session, &producer_id, true)
}

pub(super) async fn resume(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let producer_id = named_producer(room, session, data)?;
    let request = proto::ResumeProducerRequest {
        producer_id: producer_id.clone(),
    };
    room.worker.client.resume_producer(request).await?;
    set_paused(room, session, &producer_id, false)
}

/// Notes the state, and tells whoever receives the producer if it is new.
fn set_paused(
    room: &mut Room,
    session: SessionId,
    producer_id: &str,
    paused: bool,
) -> Result<Reply, Error> {
    let producer = room.peer(session)?.producer(producer_id)?;
    if std::mem::replace(&mut producer.paused, paused) == paused {
        return Ok(Reply::empty());
    }
    let consumers = producer.consumers.clone();
    let method = if paused {
        "consumerPaused"
    } else {
        "consumerResumed"
    };
    for (session, consumer_id) in consumers {
        if let Some(peer) = room.peers.get(&session) {
            let data = json!({ "consumerId": consumer_id });
            peer.connection.notify(&Notification::new(method, &data));
        }
    }
    Ok(Reply::empty())
}

/// The `producerId` of a request, which has to be one of this joined peer's.
pub(super) fn named_producer(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<String, Error> {
    let peer = room.peer(session)?;
    peer.joined()?;
    let producer_id = fields::string(data, "producerId")?;
    peer.producer(producer_id)?;
    Ok(producer_id.to_owned())
}
