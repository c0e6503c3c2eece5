//! The pictures of a stream: their numbers without wrap-around, and what is known of the one that a
//! packet belongs to.

use crate::payload::Descriptor;
use crate::payload::dependency_descriptor::{self, Indications, References, Structure, Targets};

/// Added to the first number, so that there is room for pictures that arrive late.
const ROOM: u64 = 1 << 32;

/// What a packet says about the picture (AV1: the frame) that it belongs to, if it numbers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture {
    /// Number that does not wrap around.
    pub(crate) id: u64,
    /// AV1: the number in the dependency descriptor.
    pub(crate) frame_number: Option<u16>,
    /// AV1: what it is to whom, and what it needs. Not known while the structure that it refers to
    /// is missing; then nobody can decode it either.
    pub(crate) dependencies: Option<Dependencies>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Dependencies {
    pub(crate) indications: Indications,
    pub(crate) references: References,
    /// What there is to choose from.
    pub(crate) targets: Targets,
}

/// The pictures of one source.
#[derive(Debug, Default)]
pub(crate) struct Pictures {
    /// The newest one, and the sequence number of the newest packet of it.
    newest: Option<(u64, u64)>,
    /// AV1: the last structure, and the frame that brought it or said last what of it is sent.
    structure: Option<(u64, Structure)>,
}

impl Pictures {
    /// Finds out about the picture of a packet with this sequence number. For AV1 what the dependency descriptor says is added to
    /// what the payload does.
    pub(crate) fn read(
        &mut self,
        sequence: u64,
        descriptor: &mut Descriptor,
        extension: Option<&[u8]>,
    ) -> Option<Picture> {
        if let Some(bytes) = extension {
            return self.read_dependencies(sequence, descriptor, bytes);
        }
        let field = descriptor.picture_id?;
        Some(Picture {
            id: self.extend(sequence, field.value, field.bits.into()),
            frame_number: None,
            dependencies: None,
        })
    }

    fn read_dependencies(
        &mut self,
        sequence: u64,
        descriptor: &mut Descriptor,
        bytes: &[u8],
    ) -> Option<Picture> {
        let number = dependency_descriptor::frame_number(bytes)?;
        let id = self.extend(sequence, number, 16);
        Some(Picture {
            id,
            frame_number: Some(number),
            dependencies: self.dependencies(id, descriptor, bytes),
        })
    }

    fn dependencies(
        &mut self,
        id: u64,
        descriptor: &mut Descriptor,
        bytes: &[u8],
    ) -> Option<Dependencies> {
        let last = self.structure.as_ref().map(|(_, structure)| structure);
        let parsed = dependency_descriptor::parse(bytes, last)?;
        let frame = parsed.frame;
        if let Some(structure) = parsed.structure
            && self
                .structure
                .as_ref()
                .is_none_or(|(since, _)| *since <= id)
        {
            self.structure = Some((id, structure));
        }
        let (since, structure) = self.structure.as_mut()?;
        if let Some(active) = parsed.active
            && *since <= id
        {
            *since = id;
            structure.set_active(active);
        }
        descriptor.layers = frame.layers;
        descriptor.begins_frame = frame.begins;
        descriptor.ends_frame = frame.ends;
        Some(Dependencies {
            indications: frame.indications,
            references: frame.references,
            targets: structure.targets,
        })
    }

    /// The number without wrap-around. A packet that is newer than those before is of the newest
    /// picture or a newer one, a late one of the newest or an older one.
    fn extend(&mut self, sequence: u64, value: u16, bits: u32) -> u64 {
        let value = u64::from(value);
        let Some((newest, last)) = self.newest else {
            self.newest = Some((ROOM + value, sequence));
            return ROOM + value;
        };
        let mask = (1 << bits) - 1;
        if sequence > last {
            let id = newest + (value.wrapping_sub(newest) & mask);
            self.newest = Some((id, sequence));
            id
        } else {
            newest.saturating_sub(newest.wrapping_sub(value) & mask)
        }
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
            let first = pictures.extend(10, (size - 3) as u16, bits);
            for step in 1..3 * size {
                let value = ((size - 3 + step) % size) as u16;
                assert_eq!(pictures.extend(10 + step, value, bits), first + step);
                // One that comes late.
                let late = ((size - 3 + step - 1) % size) as u16;
                assert_eq!(pictures.extend(10, late, bits), first + step - 1);
            }
        }
    }

    #[test]
    fn numbers_may_change_their_length() {
        let mut pictures = Pictures::default();
        let first = pictures.extend(0, 126, 7);
        assert_eq!(pictures.extend(1, 127, 7), first + 1);
        assert_eq!(pictures.extend(2, 128, 15), first + 2);
        assert_eq!(pictures.extend(3, 1, 7), first + 3);
    }

    #[test]
    fn what_comes_before_the_first_has_room() {
        let mut pictures = Pictures::default();
        let first = pictures.extend(8, 0, 15);
        assert_eq!(pictures.extend(7, 0x7fff, 15), first - 1);
        assert_eq!(pictures.extend(6, 0x7fff, 15), first - 1);
        assert_eq!(pictures.extend(9, 1, 15), first + 1);
    }

    #[test]
    fn late_numbers_are_behind_however_far() {
        let mut pictures = Pictures::default();
        let first = pictures.extend(0, 0, 7);
        for value in 1..=120 {
            pictures.extend(value.into(), value, 7);
        }
        assert_eq!(pictures.extend(1, 1, 7), first + 1);
        // A sender that jumps is followed.
        assert_eq!(pictures.extend(121, 119, 7), first + 247);
    }
}
