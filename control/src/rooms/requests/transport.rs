//! createWebRtcTransport, connectWebRtcTransport and restartIce. None of them
//! wants a joined peer, so that a client can be ready before it joins.

use std::time::SystemTime;

use proto::{
    CreateWebRtcTransportResponse, DtlsFingerprint, IceCandidate, IceParameters, SctpOptions,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::ice_servers::TurnOffer;
use super::{Reply, Then, fields, sctp, throttle};
use crate::error::Error;
use crate::ortc;
use crate::protoo::connection::SessionId;
use crate::rooms::data::MAX_MESSAGE_SIZE;
use crate::rooms::peer::Transport;
use crate::rooms::room::Room;
use crate::rooms::stream_ids::StreamIds;
use crate::rooms::undo::Made;

/// Every transport can have data channels, whether the client says so or not:
/// newer ones do not, and want them all the same.
pub(super) async fn create(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let force_tcp = fields::flag(data, "forceTcp")?;
    let producing = fields::flag(data, "producing")?;
    let consuming = fields::flag(data, "consuming")?;
    let streams = sctp::num_streams(data)?;
    let router_id = room.router_id.clone();
    room.check_worker()?;
    let peer = room.peer(session)?;
    peer.check_transport_limit()?;
    let id = Uuid::new_v4().to_string();
    let stream_ids = StreamIds::new(streams.outgoing, streams.incoming);
    let num_streams = stream_ids.limit().into();
    let transport = Transport::new(id.clone(), consuming, stream_ids);
    peer.transports.push(transport);
    let ice_consent_timeout = peer.options.dialect.ice_consent_timeout();
    let outgoing = room.config.outgoing_bitrate;
    let request = proto::CreateWebRtcTransportRequest {
        router_id,
        transport_id: id.clone(),
        producing,
        consuming,
        sctp: Some(SctpOptions {
            num_streams,
            max_message_size: MAX_MESSAGE_SIZE,
        }),
        max_incoming_bitrate: Some(room.config.max_incoming_bitrate),
        ice_consent_timeout,
        initial_outgoing_bitrate: Some(outgoing.initial),
        min_outgoing_bitrate: Some(outgoing.min),
        max_outgoing_bitrate: (outgoing.max > 0).then_some(outgoing.max),
        force_tcp,
    };
    let created = room.worker.client.create_web_rtc_transport(request).await;
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            room.undo(Made::Transport(id.clone()), &error);
            room.peer(session)?.remove_transport(&id);
            return Err(error.into());
        }
    };
    throttle::throttle_new(room, session, &id).await;
    let mut answer = transport_json(&id, &created);
    // Under the transport's id, what a TURN server logs can be found here.
    let turn = TurnOffer::new(&room.config.ice_server, &id, SystemTime::now());
    if let Value::Object(fields) = &mut answer {
        fields.insert("sctpParameters".into(), sctp::sctp_parameters(streams));
        fields.insert("iceServer".into(), turn.seed());
        fields.insert("iceServers".into(), turn.standard());
    }
    Ok(Reply::new(answer).then(Then::Receive))
}

pub(super) async fn connect(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let transport_id = named_transport(room, session, data)?;
    let parameters = fields::required(data, "dtlsParameters")?;
    let parameters = ortc::parse_dtls_parameters(parameters)?;
    let transport = room.peer(session)?.transport(&transport_id)?;
    if transport.connected {
        return Err(Error::NotPossible("connect() already called".into()));
    }
    let request = proto::ConnectWebRtcTransportRequest {
        transport_id: transport_id.clone(),
        role: proto::DtlsRole::from(parameters.role).into(),
        fingerprint: Some(parameters.fingerprint.into()),
    };
    room.worker
        .client
        .connect_web_rtc_transport(request)
        .await?;
    room.peer(session)?.transport(&transport_id)?.connected = true;
    Ok(Reply::empty())
}

pub(super) async fn restart_ice(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let transport_id = named_transport(room, session, data)?;
    let request = proto::RestartIceRequest {
        transport_id: transport_id.clone(),
    };
    let parameters = room.worker.client.restart_ice(request).await?;
    // It has as much time again to come back with them.
    let lost_since = &mut room.peer(session)?.transport(&transport_id)?.lost_since;
    *lost_since = lost_since.map(|_| Instant::now());
    Ok(Reply::new(ice_parameters_json(&parameters)))
}

/// The `transportId` of a request, which has to be one of this peer's.
pub(super) fn named_transport(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<String, Error> {
    let transport_id = fields::string(data, "transportId")?;
    room.peer(session)?.transport(transport_id)?;
    Ok(transport_id.to_owned())
}

fn transport_json(id: &str, created: &CreateWebRtcTransportResponse) -> Value {
    let ice_parameters = created.ice_parameters.clone().unwrap_or_default();
    let candidates = created.ice_candidates.iter().map(ice_candidate_json);
    let fingerprint = |fingerprint: &DtlsFingerprint| json!({ "algorithm": fingerprint.algorithm, "value": fingerprint.value });
    let fingerprints = created.dtls_fingerprints.iter().map(fingerprint);
    json!({
        "id": id,
        "iceParameters": ice_parameters_json(&ice_parameters),
        "iceCandidates": candidates.collect::<Vec<_>>(),
        "dtlsParameters": {
            "role": "auto",
            "fingerprints": fingerprints.collect::<Vec<_>>(),
        },
    })
}

fn ice_parameters_json(parameters: &IceParameters) -> Value {
    json!({
        "usernameFragment": parameters.username_fragment,
        "password": parameters.password,
        "iceLite": true,
    })
}

/// `ip` is the name that older clients read, `address` that of newer ones.
fn ice_candidate_json(candidate: &IceCandidate) -> Value {
    let mut json = json!({
        "foundation": candidate.foundation,
        "priority": candidate.priority,
        "ip": candidate.address,
        "address": candidate.address,
        "protocol": candidate.protocol,
        "port": candidate.port,
        "type": "host",
    });
    if candidate.protocol == "tcp"
        && let Value::Object(fields) = &mut json
    {
        fields.insert("tcpType".into(), "passive".into());
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates() {
        let udp = IceCandidate {
            foundation: "udpcandidate".into(),
            priority: 1_076_302_079,
            address: "192.0.2.1".into(),
            port: 40_000,
            protocol: "udp".into(),
        };
        let expected = json!({
            "foundation": "udpcandidate", "priority": 1_076_302_079, "ip": "192.0.2.1",
            "address": "192.0.2.1", "protocol": "udp", "port": 40_000, "type": "host",
        });
        assert_eq!(ice_candidate_json(&udp), expected);
        let tcp = IceCandidate {
            protocol: "tcp".into(),
            ..udp
        };
        assert_eq!(ice_candidate_json(&tcp)["tcpType"], "passive");
    }
}
