//! The ids by which a transport tells the packets of its producers apart.

use std::collections::HashMap;

use super::error::OrtcError;
use super::types::RtpParameters;

/// SSRCs, MIDs and RIDs of the producers of one transport. Each belongs to one
/// producer at most; RIDs count only for producers without a MID, because
/// with one the pair identifies the stream (RFC 8843 §9.2).
#[derive(Debug, Default)]
pub struct ReceiveIds {
    /// Owner of each id.
    owners: HashMap<ReceiveId, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ReceiveId {
    Ssrc(u32),
    Mid(String),
    Rid(String),
}

impl ReceiveIds {
    /// Takes the ids of a new producer. On an error nothing is taken.
    ///
    /// # Errors
    /// [`OrtcError::AlreadyExists`] naming the first id that another producer
    /// has.
    pub fn add(
        &mut self,
        producer_id: &str,
        rtp_parameters: &RtpParameters,
    ) -> Result<(), OrtcError> {
        let ids = ids_of(rtp_parameters);
        for (id, name) in &ids {
            if self.owners.contains_key(id) {
                return Err(OrtcError::AlreadyExists(name.clone()));
            }
        }
        for (id, _) in ids {
            self.owners.insert(id, producer_id.to_owned());
        }
        Ok(())
    }

    /// Frees the ids of a closed producer.
    pub fn remove(&mut self, producer_id: &str) {
        self.owners.retain(|_, owner| owner != producer_id);
    }
}

/// The ids of a producer with their names in errors.
fn ids_of(rtp_parameters: &RtpParameters) -> Vec<(ReceiveId, String)> {
    let mut ids = Vec::new();
    for encoding in &rtp_parameters.encodings {
        let rtx = encoding.rtx.map(|rtx| rtx.ssrc);
        for ssrc in encoding.ssrc.into_iter().chain(rtx) {
            ids.push((ReceiveId::Ssrc(ssrc), format!("SSRC {ssrc}")));
        }
        if let (None, Some(rid)) = (&rtp_parameters.mid, &encoding.rid) {
            ids.push((ReceiveId::Rid(wire_id(rid)), format!("RID \"{rid}\"")));
        }
    }
    if let Some(mid) = &rtp_parameters.mid {
        ids.push((ReceiveId::Mid(wire_id(mid)), format!("MID \"{mid}\"")));
    }
    ids
}

/// A MID or RID as the media worker's library compares it: it reads `-` as `_`.
pub(super) fn wire_id(id: &str) -> String {
    id.replace('-', "_")
}
