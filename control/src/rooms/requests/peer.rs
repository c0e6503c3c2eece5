//! join and changeDisplayName: what a peer tells of itself.

use std::sync::Arc;

use serde_json::{Value, json};

use super::fields;
use super::{Reply, Then};
use crate::error::Error;
use crate::ortc::{self, RtpCapabilities};
use crate::protoo::connection::SessionId;
use crate::rooms::peer::Joined;
use crate::rooms::room::{Room, RoomEvent};

/// Longest display name, characters.
const MAX_DISPLAY_NAME: usize = 256;

/// Largest device description, bytes of JSON: every peer gets that of every
/// other.
const MAX_DEVICE: usize = 4096;

/// The peer joins. Everything is checked before anything changes.
pub(super) fn join(room: &mut Room, session: SessionId, data: &Value) -> Result<Reply, Error> {
    let counted = Some(room.presence.joins());
    let peer = room.peer(session)?;
    if peer.joined.is_some() {
        return Err(Error::AlreadyJoined);
    }
    let rtp_capabilities = rtp_capabilities(data)?;
    peer.joined = Some(Joined {
        display_name: display_name(data)?,
        device: Value::Object(fields::object(data, "device", MAX_DEVICE)?),
        rtp_capabilities,
        _counted: counted,
    });
    let id = peer.id.clone();
    room.emit(RoomEvent::PeerJoined(id));
    let others = room.peers.iter().filter(|(other, _)| **other != session);
    let others: Vec<_> = others
        .filter_map(|(_, peer)| peer.introduction_to_peers())
        .collect();
    Ok(Reply::new(json!({ "peers": others })).then(Then::Joined))
}

/// Tells the others of a peer that has joined.
pub(in crate::rooms) fn introduce(room: &Room, session: SessionId) {
    let peer = room.peers.get(&session);
    if let Some(introduction) = peer.and_then(|peer| peer.introduction_to_peers()) {
        room.tell_joined(session, "newPeer", &introduction);
    }
}

pub(super) fn change_display_name(
    room: &mut Room,
    session: SessionId,
    data: &Value,
) -> Result<Reply, Error> {
    let peer = room.peer(session)?;
    let joined = peer.joined.as_mut().ok_or(Error::NotJoined)?;
    let new = display_name(data)?;
    let old = std::mem::replace(&mut joined.display_name, new.clone());
    let changed = json!({
        "peerId": peer.id.as_str(),
        "displayName": new,
        "oldDisplayName": old,
    });
    room.tell_joined(session, "peerDisplayNameChanged", &changed);
    Ok(Reply::empty())
}

/// What a member can receive; `None`: it receives nothing.
pub(in crate::rooms) fn rtp_capabilities(
    data: &Value,
) -> Result<Option<Arc<RtpCapabilities>>, Error> {
    let given = fields::optional(data, "rtpCapabilities")?;
    let parsed = given.map(ortc::parse_rtp_capabilities).transpose()?;
    Ok(parsed.map(Arc::new))
}

pub(in crate::rooms) fn display_name(data: &Value) -> Result<String, Error> {
    let name = fields::string(data, "displayName")?;
    if name.chars().count() > MAX_DISPLAY_NAME {
        let allowed = format!("must be at most {MAX_DISPLAY_NAME} characters");
        return Err(Error::field("displayName", &allowed));
    }
    Ok(name.to_owned())
}
