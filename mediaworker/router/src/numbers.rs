//! A consumer's numbers of pictures: continuous from stream to stream.
//!
//! VP8's picture ids are also contiguous over temporal layers that are left out, because a receiver
//! waits for a number that is missing. Those of VP9 and the frame numbers of AV1 are not: what they
//! depend on is given by distance.

use crate::payload::{Descriptor, Field};
use crate::picture::Picture;
use crate::sequence::Sequencer;
use crate::types::{Codec, Patch, Payload};

#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pictures: Option<Sequencer>,
    tl0: Tl0,
}

/// TL0PICIDX: counts the pictures of the lowest temporal layer, of which none is left out.
#[derive(Debug, Default)]
struct Tl0 {
    /// Added to every number of the current run.
    offset: u8,
    newest: Option<u8>,
}

impl Tl0 {
    fn start(&mut self, value: u8) {
        if let Some(newest) = self.newest {
            self.offset = newest.wrapping_add(1).wrapping_sub(value);
        }
    }

    fn map(&mut self, value: u8) -> u8 {
        let out = value.wrapping_add(self.offset);
        let is_ahead = |newest: u8| out.wrapping_sub(newest) < 128;
        if self.newest.is_none_or(is_ahead) {
            self.newest = Some(out);
        }
        out
    }
}

fn octet(field: Field) -> u8 {
    u8::try_from(field.value).unwrap_or(0)
}

/// The low 16 bits.
fn low(id: u64) -> u16 {
    u16::try_from(id & 0xffff).unwrap_or(0)
}

impl Numbers {
    /// Starts a run at a picture: it gets the number after the last one that was sent.
    pub(crate) fn start(&mut self, picture: Picture, descriptor: &Descriptor) {
        // The very first one keeps its number, and so do all that follow in a plain call.
        self.pictures
            .get_or_insert_with(|| Sequencer::new(low(picture.id)))
            .start(picture.id, true, false);
        if let Some(field) = descriptor.tl0_picture {
            self.tl0.start(octet(field));
        }
    }

    /// Leaves out a picture.
    pub(crate) fn leave_out(&mut self, codec: Codec, id: u64) {
        if codec == Codec::Vp8
            && let Some(pictures) = self.pictures.as_mut()
        {
            pictures.drop_newest(id);
        }
    }

    /// What becomes of the numbers in a payload, and of the frame number in the dependency
    /// descriptor. A picture without a number of its own was left out.
    pub(crate) fn map(
        &mut self,
        codec: Codec,
        picture: Picture,
        descriptor: &Descriptor,
        payload: &[u8],
    ) -> (Payload, Option<u16>) {
        let pictures = self.pictures.as_mut();
        let Some(id) = pictures.and_then(|pictures| pictures.map(picture.id, true)) else {
            return (Payload::Empty, None);
        };
        if let Some(before) = picture.frame_number {
            let number = low(id);
            let changed = (number != before).then_some(number);
            return (Payload::Same, changed);
        }
        let tl0 = descriptor.tl0_picture;
        let tl0 = tl0.map(|field| (field, self.tl0.map(octet(field))));
        let patch = descriptor
            .picture_id
            .and_then(|field| patch(codec, payload, field, id, tl0));
        (patch.map_or(Payload::Same, Payload::Patched), None)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.pictures.as_ref().map_or(Ok(()), Sequencer::check)
    }
}

/// The bytes that differ; `None` when none does.
fn patch(
    codec: Codec,
    payload: &[u8],
    field: Field,
    id: u64,
    tl0: Option<(Field, u8)>,
) -> Option<Patch> {
    let start = usize::from(field.at);
    let end = tl0.map_or(field.end(), |(tl0, _)| tl0.end());
    let original = payload.get(start..usize::from(end))?;
    let mut bytes = [0; Patch::MAX];
    let bytes = bytes.get_mut(..original.len())?;
    bytes.copy_from_slice(original);
    let picture_id = low(id) & if field.bits > 8 { 0x7fff } else { 0x7f };
    let [high, low] = picture_id.to_be_bytes();
    match bytes {
        [first, second, ..] if field.bits > 8 => (*first, *second) = (high | 0x80, low),
        [first, ..] => *first = low,
        [] => {}
    }
    if let (Some((_, value)), Some(last)) = (tl0, bytes.last_mut()) {
        *last = value;
    }
    if bytes == original {
        return None;
    }
    Patch::new(
        codec,
        picture_id,
        tl0.map(|(_, value)| value),
        field.at,
        bytes,
    )
}
