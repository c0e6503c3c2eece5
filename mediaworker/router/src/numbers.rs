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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::describe;

    /// Picture and payload of VP8 or VP9 with a picture id and TL0PICIDX.
    fn packet(codec: Codec, id: u64, bits: u32, tl0: u8) -> (Picture, Vec<u8>) {
        let number: &[u8] = match bits {
            7 => &[(id & 0x7f) as u8],
            _ => &[0x80 | (id >> 8) as u8, id as u8],
        };
        let payload = match codec {
            Codec::Vp8 => [&[0x90, 0xe0][..], number, &[tl0, 0x00, 0x11]].concat(),
            _ => [&[0xec][..], number, &[0x35, tl0, 0x82]].concat(),
        };
        let picture = Picture {
            id,
            frame_number: None,
            dependencies: None,
        };
        (picture, payload)
    }

    /// The numbers that a packet gets: picture id and TL0PICIDX, as they are read again.
    fn map(numbers: &mut Numbers, codec: Codec, id: u64, bits: u32, tl0: u8) -> (u16, u16) {
        let (picture, mut payload) = packet(codec, id, bits, tl0);
        let before = describe(codec, &payload);
        match numbers.map(codec, picture, &before, &payload).0 {
            Payload::Patched(patch) => patch.apply(&mut payload),
            Payload::Same => {}
            Payload::Empty => panic!("left out"),
        }
        let after = describe(codec, &payload);
        assert_eq!(after.layers, before.layers);
        let value = |field: Option<Field>| field.unwrap().value;
        (value(after.picture_id), value(after.tl0_picture))
    }

    fn start(numbers: &mut Numbers, codec: Codec, id: u64, bits: u32, tl0: u8) {
        let (picture, payload) = packet(codec, id, bits, tl0);
        numbers.start(picture, &describe(codec, &payload));
    }

    #[test]
    fn the_first_run_keeps_its_numbers_and_the_next_goes_on() {
        for codec in [Codec::Vp8, Codec::Vp9] {
            let mut numbers = Numbers::default();
            let first = 0x1_7ffe;
            start(&mut numbers, codec, first, 15, 255);
            for (step, expected) in [(0, 0x7ffe), (1, 0x7fff), (2, 0)] {
                let (picture, payload) = packet(codec, first + step, 15, 255);
                let same = numbers.map(codec, picture, &describe(codec, &payload), &payload);
                assert_eq!(same, (Payload::Same, None));
                assert_eq!(
                    map(&mut numbers, codec, first + step, 15, 255),
                    (expected, 255)
                );
            }
            // A stream with short numbers, and back.
            start(&mut numbers, codec, 1000, 7, 77);
            assert_eq!(map(&mut numbers, codec, 1000, 7, 77), (1, 0));
            assert_eq!(map(&mut numbers, codec, 1130, 7, 78), (131 % 128, 1));
            start(&mut numbers, codec, 5000, 15, 3);
            assert_eq!(map(&mut numbers, codec, 5000, 15, 3), (132, 2));
            // One that comes late says nothing about the newest.
            assert_eq!(map(&mut numbers, codec, 5002, 15, 4), (134, 3));
            assert_eq!(map(&mut numbers, codec, 5001, 15, 3), (133, 2));
            start(&mut numbers, codec, 9, 15, 9);
            assert_eq!(map(&mut numbers, codec, 9, 15, 9), (135, 4));
            numbers.check().unwrap();
        }
    }

    #[test]
    fn only_vp8_closes_up_over_what_is_left_out() {
        for (codec, expected) in [(Codec::Vp8, 1001), (Codec::Vp9, 1003)] {
            let mut numbers = Numbers::default();
            start(&mut numbers, codec, 1000, 15, 1);
            map(&mut numbers, codec, 1000, 15, 1);
            for id in [1001, 1001, 1002] {
                numbers.leave_out(codec, id);
            }
            assert_eq!(map(&mut numbers, codec, 1003, 15, 1), (expected, 1));
        }
    }

    #[test]
    fn frame_numbers_of_av1_continue() {
        let frame = |id: u64| Picture {
            id,
            frame_number: Some(low(id)),
            dependencies: None,
        };
        let nothing = Descriptor::default();
        let mut numbers = Numbers::default();
        let mut map = |starts: bool, id: u64| {
            if starts {
                numbers.start(frame(id), &nothing);
            }
            numbers.map(Codec::Av1, frame(id), &nothing, &[0x10])
        };
        assert_eq!(map(true, 0x1_ffff), (Payload::Same, None));
        assert_eq!(map(false, 0x2_0000), (Payload::Same, None));
        assert_eq!(map(true, 500), (Payload::Same, Some(1)));
        assert_eq!(map(false, 510), (Payload::Same, Some(11)));
        assert_eq!(map(false, 499), (Payload::Empty, None), "before it began");
    }
}
