//! What broadcasters of the newest mediasoup-demo do otherwise: they come into
//! being before they join, and ask what there is to receive.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use tracing::info;

use super::MAX_DEVICE_TEXT;
use crate::error::Error;
use crate::ortc::RtpParameters;
use crate::ortc::types::is_rtx;
use crate::protoo::connection::SessionId;
use crate::rooms::ids::PeerId;
use crate::rooms::peer::{Peer, Producer};
use crate::rooms::requests::{self, fields};
use crate::rooms::room::Room;

impl Room {
    /// A broadcaster that may make transports and is no member yet. One that does
    /// not join in time is removed, as a peer is.
    pub(super) fn enter_broadcaster(
        &mut self,
        body: &Value,
        remote: Option<SocketAddr>,
    ) -> Result<Value, Error> {
        let id = PeerId::parse_as("peerId", fields::string(body, "peerId")?)?;
        let mut entering = self.newcomer(&id, body)?;
        if let (Some(flag), Value::Object(device)) = (device_flag(body)?, &mut entering.device) {
            device.insert("flag".into(), flag.into());
        }
        let session = SessionId::next();
        let mut peer = Peer::broadcaster(id, session, remote);
        peer.entering = Some(entering);
        peer.join_deadline = self.join_deadline();
        self.peers.insert(session, peer);
        Ok(json!({}))
    }

    /// Makes it a member, of which the others hear.
    pub(super) fn join_broadcaster(&mut self, session: SessionId) -> Result<Value, Error> {
        let room = self.id.clone();
        let peer = self.peer(session)?;
        let joined = peer.entering.take().ok_or(Error::AlreadyJoined)?;
        info!(%room, broadcaster = %peer.id, "broadcaster joined");
        peer.joined = Some(joined);
        requests::introduce(self, session);
        Ok(json!({}))
    }

    /// Who sends what, and in which codecs.
    pub(super) fn peer_producers_infos(&mut self, session: SessionId) -> Result<Value, Error> {
        self.peer(session)?.joined()?;
        let sending = self
            .peers
            .values()
            .filter(|peer| !peer.producers.is_empty());
        let infos: Vec<Value> = sending
            .map(|peer| {
                let producers: Vec<Value> = peer.producers.iter().map(producer_info).collect();
                json!({ "peerId": peer.id.as_str(), "producers": producers })
            })
            .collect();
        Ok(json!({ "peerProducersInfos": infos }))
    }
}

/// What its client calls itself, `ffmpeg` for example. Clients of the newest dialect
/// know nobody by the flag that the seed's broadcasters have.
fn device_flag(body: &Value) -> Result<Option<&str>, Error> {
    let device = fields::required(body, "device")?;
    match fields::optional(device, "flag")? {
        None => Ok(None),
        Some(Value::String(flag)) if flag.chars().count() <= MAX_DEVICE_TEXT => Ok(Some(flag)),
        Some(_) => {
            let allowed = format!("must be a string of at most {MAX_DEVICE_TEXT} characters");
            Err(Error::field("device.flag", &allowed))
        }
    }
}

/// `source` is what its client calls it in appData, absent if it does not.
fn producer_info(producer: &Producer) -> Value {
    let mut info = json!({
        "producerId": producer.id,
        "kind": producer.kind.as_str(),
        "consumableCodecs": media_codecs(&producer.consumable),
    });
    let source = producer.app_data.get("source").and_then(Value::as_str);
    if let (Value::Object(fields), Some(source)) = (&mut info, source) {
        fields.insert("source".into(), source.into());
    }
    info
}

/// Codecs without their feedback, and without retransmission.
fn media_codecs(parameters: &RtpParameters) -> Vec<Value> {
    let codecs = parameters
        .codecs
        .iter()
        .filter(|codec| !is_rtx(&codec.mime_type));
    let codecs = codecs.filter_map(|codec| serde_json::to_value(codec).ok());
    let without_feedback = |codec| match codec {
        Value::Object(fields) => {
            let is_told = |(name, _): &(String, Value)| name != "rtcpFeedback";
            fields
                .into_iter()
                .filter(is_told)
                .collect::<Map<_, _>>()
                .into()
        }
        codec => codec,
    };
    codecs.map(without_feedback).collect()
}
