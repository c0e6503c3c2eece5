//! The pictures of a stream: their numbers without wrap-around, and what is known of the one that a
//! packet belongs to.

use crate::payload::Descriptor;
use crate::payload::dependency_descriptor::{self, Indications, References, Structure, Targets};

/// Added to the first number, so that there is room for pictures that arrive late.
const ROOM: u64 = 1 << 32;

/// How far back the number of a packet that is newer than all before can be. One that is further
/// back is taken for one ahead: the sender jumped.
const MOST_BACK: u64 = 64;

/// What a packet says about the picture (AV1: the frame) that it belongs to, if it numbers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture {
    /// Number that does not wrap around.
    pub(crate) id: u64,
    /// AV1: what it is to whom, and what it needs.
    pub(crate) dependencies: Option<Dependencies>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Dependencies {
    pub(crate) indications: Indications,
    pub(crate) references: References,
    /// What there is to choose from.
    pub(crate) targets: Targets,
    pub(crate) number: u16,
}

/// The pictures of one source.
#[derive(Debug, Default)]
pub(crate) struct Pictures {
    newest: Option<u64>,
    /// AV1: the last structure, and the frame that brought it.
    structure: Option<(u64, Structure)>,
}

impl Pictures {
    /// Finds out about a packet's picture; `newest` says that no newer packet was there before. For
    /// AV1 what the dependency descriptor says is added to
    /// what the payload does.
    pub(crate) fn read(
        &mut self,
        newest: bool,
        descriptor: &mut Descriptor,
        extension: Option<&[u8]>,
    ) -> Option<Picture> {
        if let Some(bytes) = extension {
            return self.read_dependencies(newest, descriptor, bytes);
        }
        let field = descriptor.picture_id?;
        Some(Picture {
            id: self.extend(newest, field.value, field.bits.into()),
            dependencies: None,
        })
    }

    fn read_dependencies(
        &mut self,
        newest: bool,
        descriptor: &mut Descriptor,
        bytes: &[u8],
    ) -> Option<Picture> {
        let last = self.structure.as_ref().map(|(_, structure)| structure);
        let parsed = dependency_descriptor::parse(bytes, last)?;
        let frame = parsed.frame;
        let id = self.extend(newest, frame.number, 16);
        if let Some(structure) = parsed.structure
            && self
                .structure
                .as_ref()
                .is_none_or(|(since, _)| *since <= id)
        {
            self.structure = Some((id, structure));
        }
        let (_, structure) = self.structure.as_mut()?;
        if let Some(active) = parsed.active
            && self.newest == Some(id)
        {
            structure.set_active(active);
        }
        descriptor.layers = frame.layers;
        descriptor.begins_frame = frame.begins;
        descriptor.ends_frame = frame.ends;
        Some(Picture {
            id,
            dependencies: Some(Dependencies {
                indications: frame.indications,
                references: frame.references,
                targets: structure.targets,
                number: frame.number,
            }),
        })
    }

    /// The number without wrap-around: the one that is nearest to the newest so far.
    fn extend(&mut self, is_newest: bool, value: u16, bits: u32) -> u64 {
        let value = u64::from(value);
        let Some(newest) = self.newest else {
            self.newest = Some(ROOM + value);
            return ROOM + value;
        };
        let size = 1 << bits;
        let ahead = value.wrapping_sub(newest) % size;
        let back = size - ahead;
        let id = if ahead < size / 2 || (is_newest && back > MOST_BACK) {
            newest + ahead
        } else {
            newest.saturating_sub(back)
        };
        self.newest = Some(newest.max(id));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_over_the_end_of_their_range() {
        for bits in [7u32, 15, 16] {
            let mut pictures = Pictures::default();
            let size = 1u64 << bits;
            let first = pictures.extend(true, (size - 3) as u16, bits);
            for step in 1..3 * size {
                let value = ((size - 3 + step) % size) as u16;
                assert_eq!(pictures.extend(true, value, bits), first + step);
                // One that comes late.
                let late = ((size - 3 + step - 1) % size) as u16;
                assert_eq!(pictures.extend(false, late, bits), first + step - 1);
            }
        }
    }

    #[test]
    fn numbers_may_change_their_length() {
        let mut pictures = Pictures::default();
        let first = pictures.extend(true, 126, 7);
        assert_eq!(pictures.extend(true, 127, 7), first + 1);
        assert_eq!(pictures.extend(true, 128, 15), first + 2);
        assert_eq!(pictures.extend(true, 1, 7), first + 3);
    }

    #[test]
    fn what_comes_before_the_first_has_room() {
        let mut pictures = Pictures::default();
        let first = pictures.extend(true, 0, 15);
        assert_eq!(pictures.extend(false, 0x7fff, 15), first - 1);
        assert_eq!(pictures.extend(false, 0x7fff, 15), first - 1);
        assert_eq!(pictures.extend(true, 1, 15), first + 1);
    }

    #[test]
    fn a_sender_that_jumps_back_is_followed() {
        let mut pictures = Pictures::default();
        let first = pictures.extend(true, 1000, 15);
        assert_eq!(pictures.extend(true, 1000 - 64, 15), first - 64);
        assert_eq!(pictures.extend(false, 100, 15), first - 900);
        assert_eq!(pictures.extend(true, 100, 15), first + 0x8000 - 900);
        assert_eq!(pictures.extend(true, 101, 15), first + 0x8000 - 899);
    }
}
