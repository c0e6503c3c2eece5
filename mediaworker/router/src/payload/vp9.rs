//! VP9 payload descriptor, RFC 9628 section 4.2.
//!
//! ffmpeg writes none but the marks of first and last packets: to its descriptors, every picture
//! is a keyframe. Where pictures are not numbered, as there, the header of the frame itself is
//! looked at; whoever encrypts frames is a browser, which numbers them.

use super::{Descriptor, Field};
use crate::layers::Layers;

/// `None` when the payload is too short.
pub(super) fn describe(payload: &[u8]) -> Option<Descriptor> {
    let (&first, mut rest) = payload.split_first()?;
    let has = |bit: u8| first & bit != 0;
    let (inter_picture, flexible) = (has(0x40), has(0x10));
    let mut described = Descriptor {
        inter_picture,
        begins_frame: has(0x08),
        ends_frame: has(0x04),
        ..Descriptor::default()
    };
    let mut at = 1;
    if has(0x80) {
        let field = Field::picture_id(rest, at)?;
        described.picture_id = Some(field);
        rest = rest.get(field.len()..)?;
        at = field.end();
    }
    let mut spatial = 0;
    if has(0x20) {
        let (&layer, after) = rest.split_first()?;
        rest = after;
        spatial = (layer >> 1) & 0x07;
        // Whoever does not number pictures cannot be told which are missing on purpose.
        if described.picture_id.is_some() {
            described.layers = Layers::new(spatial, layer >> 5);
            described.opens = layer & 0x10 != 0;
        }
        if !flexible {
            let (&value, after) = rest.split_first()?;
            rest = after;
            described.tl0_picture = Some(Field::octet(value, at + 1));
        }
    }
    if flexible && inter_picture {
        // At most three differences to the numbers of referenced pictures.
        let last = rest.iter().take(3).position(|diff| diff & 0x01 == 0)?;
        rest = rest.get(last + 1..)?;
    }
    if has(0x02) {
        described.spatial_layers = Some((rest.first()? >> 5) + 1);
    } else if described.begins_frame && described.picture_id.is_none() {
        described.inter_picture |= is_inter_frame(*rest.first()?);
    }
    // A keyframe of spatial layers begins with the lowest one; the others are not inter-picture
    // predicted either, but need it.
    described.key_frame_start = described.begins_frame && !described.inter_picture && spatial == 0;
    Some(described)
}

/// Whether a frame that begins with this octet is one that needs others: `frame_type` of the
/// uncompressed header, or a frame that is only shown again (VP9 bitstream specification, section
/// 6.2).
fn is_inter_frame(first: u8) -> bool {
    const FRAME_MARKER: u8 = 0b10;
    if first >> 6 != FRAME_MARKER {
        // It is no such header.
        return false;
    }
    // Profile 3 has a reserved bit in front.
    let (show_existing, frame_type) = match (first >> 4) & 0x03 {
        0x03 => (0x04, 0x02),
        _ => (0x08, 0x04),
    };
    first & (show_existing | frame_type) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_key_frame_start(payload: &[u8]) -> Option<bool> {
        Some(describe(payload)?.key_frame_start)
    }

    #[test]
    fn descriptors() {
        let cases: [(&[u8], Option<bool>); 18] = [
            // Chrome, profile 0, no SVC: I with 15 bits, B, E or V set.
            (&[0x8a, 0x80, 0x01, 0x00], Some(true)),
            (&[0x8c, 0x80, 0x01, 0x82], Some(true)),
            (&[0xcc, 0x80, 0x02, 0x82], Some(false)),
            // Middle and end of a keyframe.
            (&[0x80, 0x80, 0x01], Some(false)),
            (&[0x84, 0x80, 0x01], Some(false)),
            // Layers: spatial 0 and 1 of the same key picture.
            (&[0xa8, 0x80, 0x01, 0x00, 0x00], Some(true)),
            (&[0xa8, 0x80, 0x01, 0x03, 0x00], Some(false)),
            // 7-bit picture id and layers.
            (&[0xa8, 0x05, 0x02, 0x00], Some(false)),
            (&[0xa8, 0x85], None),
            // What follows the number is not looked at: it may be encrypted.
            (&[0x88, 0x05, 0x86], Some(true)),
            // ffmpeg: keyframe, another one, and what follows; a keyframe of profile 3 and
            // another frame of it, a frame that is shown again, and no frame of VP9.
            (&[0x08, 0x82, 0x49], Some(true)),
            (&[0x08, 0x86, 0x00], Some(false)),
            (&[0x00, 0x82], Some(false)),
            (&[0x08, 0xb1], Some(true)),
            (&[0x08, 0xb2], Some(false)),
            (&[0x08, 0x88], Some(false)),
            (&[0x08, 0x06], Some(true)),
            (&[0x08], None),
        ];
        for (payload, expected) in cases {
            assert_eq!(is_key_frame_start(payload), expected, "{payload:02x?}");
        }
    }

    #[test]
    fn numbers_and_layers() {
        // Chrome, L3T3_KEY: key picture 0x0105, S0, scalability structure of three layers.
        let key = describe(&[0xaa, 0x81, 0x05, 0x10, 0x07, 0x58, 0x01]).unwrap();
        let expected = Descriptor {
            key_frame_start: true,
            begins_frame: true,
            opens: true,
            picture_id: Some(Field {
                value: 0x105,
                at: 1,
                bits: 15,
            }),
            tl0_picture: Some(Field::octet(7, 4)),
            spatial_layers: Some(3),
            ..Descriptor::default()
        };
        assert_eq!(key, expected);
        // S2 T1, end of the frame, inter-picture predicted, 7-bit number.
        let top = describe(&[0xe4, 0x05, 0x24, 0x08, 0x11]).unwrap();
        let expected = Descriptor {
            inter_picture: true,
            ends_frame: true,
            layers: Layers::new(2, 1),
            picture_id: Some(Field {
                value: 5,
                at: 1,
                bits: 7,
            }),
            tl0_picture: Some(Field::octet(8, 3)),
            ..Descriptor::default()
        };
        assert_eq!(top, expected);
        // Flexible mode: references instead of TL0PICIDX, then the structure.
        let flexible = describe(&[0xfa, 0x05, 0x24, 0x03, 0x04, 0x38]).unwrap();
        assert_eq!(flexible.tl0_picture, None);
        assert_eq!(flexible.spatial_layers, Some(2));
        assert_eq!(describe(&[0xfa, 0x05, 0x24, 0x03, 0x03, 0x03, 0x38]), None);
        // Layers without numbers.
        let unnumbered = describe(&[0x28, 0x36, 0x00, 0x82]).unwrap();
        assert_eq!((unnumbered.layers, unnumbered.opens), Default::default());
    }
}
