//! produceData: a data channel towards the server.

use proto::ProduceDataRequest;
use proto::produce_data_request::On;
use serde_json::{Value, json};
use uuid::Uuid;

use super::producer::app_data;
use super::transport::named_transport;
use super::{Reply, Then, fields, sctp};
use crate::error::Error;
use crate::protoo::connection::SessionId;
use crate::rooms::data::{DataProducer, Reach};
use crate::rooms::room::Room;
use crate::rooms::undo::Made;

/// Longest label and protocol, characters: every receiver gets a copy.
const MAX_TEXT: usize = 256;

pub(super) async fn produce(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let peer = room.peer(session)?;
    peer.joined()?;
    peer.check_data_producer_limit()?;
    let transport_id = named_transport(room, session, data)?;
    let transport = room.peer(session)?.transport(&transport_id)?;
    let stream = sctp::stream_parameters(data, transport.streams.limit())?;
    let label = text(data, "label")?;
    let protocol = text(data, "protocol")?;
    let app_data = app_data(room, session, data)?;
    let reach = Reach::of(&label);
    let id = Uuid::new_v4().to_string();
    let request = ProduceDataRequest {
        data_producer_id: id.clone(),
        on: Some(On::TransportId(transport_id.clone())),
        stream: Some(stream),
        label: label.clone(),
        protocol: protocol.clone(),
        tell: reach == Reach::Bot,
    };
    let peer = room.peer(session)?;
    let streams = &mut peer.transport(&transport_id)?.streams;
    if !u16::try_from(stream.stream_id).is_ok_and(|stream_id| streams.take(stream_id)) {
        let text = format!(
            "sctpStreamParameters.streamId {} is in use",
            stream.stream_id
        );
        return Err(Error::NotPossible(text));
    }
    peer.data_producers.push(DataProducer {
        id: id.clone(),
        transport_id: Some(transport_id),
        stream,
        label,
        protocol,
        app_data,
        reach,
        consumers: Vec::new(),
    });
    if let Err(error) = room.worker.client.produce_data(request).await {
        room.forget_data_producer(session, &id);
        room.undo(Made::DataProducer(id), &error);
        return Err(error.into());
    }
    let then = match reach {
        Reach::Everybody => Then::OfferData(id.clone()),
        Reach::Bot => Then::WakeBot,
        Reach::Nobody => Then::Nothing,
    };
    Ok(Reply::new(json!({ "id": id })).then(then))
}

/// A short text, empty when absent.
fn text(data: &Value, name: &str) -> Result<String, Error> {
    let text = match fields::optional(data, name)? {
        None => return Ok(String::new()),
        Some(_) => fields::string(data, name)?,
    };
    if text.chars().count() > MAX_TEXT {
        let allowed = format!("must be at most {MAX_TEXT} characters");
        return Err(Error::field(name, &allowed));
    }
    Ok(text.to_owned())
}
