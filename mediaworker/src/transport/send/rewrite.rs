//! What a consumer gets of a payload that all of them share.

use std::sync::Arc;

use router::{Codec, Patch, Payload};
use str0m::rtp::{Vp8Descriptor, Vp8Patch};

/// The payload to be written, and what str0m has to change in it while it writes.
///
/// A payload is shared as it is, or with changes that str0m can make by itself (VP8). Otherwise it
/// is copied.
pub(super) fn payload(wanted: &Payload, shared: &Arc<[u8]>) -> (Arc<[u8]>, Option<Vp8Patch>) {
    match wanted {
        Payload::Same => (shared.clone(), None),
        Payload::Empty => (Arc::default(), None),
        Payload::Patched(patch) => match vp8_patch(patch, shared) {
            Some(patch) => (shared.clone(), Some(patch)),
            None => {
                let mut own: Vec<u8> = shared.to_vec();
                patch.apply(&mut own);
                (own.into(), None)
            }
        },
    }
}

/// The patch as str0m takes it; `None` when it does not.
fn vp8_patch(patch: &Patch, payload: &[u8]) -> Option<Vp8Patch> {
    if patch.codec != Codec::Vp8 {
        return None;
    }
    let mut wanted = Vp8Descriptor::parse(payload).ok()?.patch();
    wanted = wanted.picture_id(patch.picture_id);
    if let Some(tl0_picture) = patch.tl0_picture {
        wanted = wanted.tl0_pic_idx(tl0_picture);
    }
    wanted.build().ok()
}
