//! VP8 payload descriptor, RFC 7741 section 4.2.

use super::{Descriptor, Field};
use crate::layers::Layers;

/// `None` when the payload is too short.
pub(super) fn describe(payload: &[u8]) -> Option<Descriptor> {
    let (&first, mut rest) = payload.split_first()?;
    let begins_frame = first & 0x10 != 0 && first & 0x07 == 0;
    let mut described = Descriptor {
        begins_frame,
        ..Descriptor::default()
    };
    if first & 0x80 != 0 {
        let (&extension, after) = rest.split_first()?;
        rest = after;
        let mut at = 2;
        if extension & 0x80 != 0 {
            let field = Field::picture_id(rest, at)?;
            described.picture_id = Some(field);
            rest = rest.get(field.len()..)?;
            at = field.end();
        }
        if extension & 0x40 != 0 {
            let (&value, after) = rest.split_first()?;
            described.tl0_picture = Some(Field::octet(value, at));
            rest = after;
        }
        if extension & 0x30 != 0 {
            // TID, Y and KEYIDX share a byte.
            let (&layer, after) = rest.split_first()?;
            rest = after;
            // Whoever does not number pictures cannot be told which are missing on purpose.
            if extension & 0x20 != 0 && described.picture_id.is_some() {
                described.layers = Layers::new(0, layer >> 6);
                described.joins = layer & 0x20 != 0;
            }
        }
    }
    // Payload header (section 4.3): the P bit is 0 in keyframes.
    described.key_frame_start = begins_frame && rest.first()? & 0x01 == 0;
    Some(described)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_key_frame_start(payload: &[u8]) -> Option<bool> {
        Some(describe(payload)?.key_frame_start)
    }

    #[test]
    fn descriptors() {
        let cases: [(&[u8], Option<bool>); 12] = [
            // Chrome: X, I with 15 bits, L, T and K.
            (
                &[
                    0x90, 0xf0, 0x80, 0x05, 0x00, 0x20, 0x10, 0x02, 0x00, 0x9d, 0x01,
                ],
                Some(true),
            ),
            (
                &[0x90, 0xf0, 0x80, 0x05, 0x00, 0x20, 0x11, 0x02, 0x00],
                Some(false),
            ),
            // 7-bit picture id.
            (&[0x90, 0x80, 0x05, 0x10, 0x02, 0x00], Some(true)),
            (&[0x90, 0x80, 0x05, 0x31], Some(false)),
            // Only T; only L.
            (&[0x90, 0x20, 0x40, 0x10], Some(true)),
            (&[0x90, 0x40, 0x07, 0x11], Some(false)),
            // No extension.
            (&[0x10, 0x10, 0x02], Some(true)),
            (&[0x10, 0x11], Some(false)),
            // Continuation of the first partition, and start of the second one.
            (&[0x00, 0x10], Some(false)),
            (&[0x11, 0x10], Some(false)),
            // Cut off.
            (&[0x90, 0x80, 0x85], None),
            (&[0x10], None),
        ];
        for (payload, expected) in cases {
            assert_eq!(is_key_frame_start(payload), expected, "{payload:02x?}");
        }
    }

    #[test]
    fn numbers_and_layers() {
        // Chrome: T2, layer sync, picture 0x0105, TL0PICIDX 7.
        let long = describe(&[0x90, 0xf0, 0x81, 0x05, 0x07, 0xa3, 0x11]).unwrap();
        let expected = Descriptor {
            begins_frame: true,
            layers: Layers::new(0, 2),
            joins: true,
            picture_id: Some(Field {
                value: 0x105,
                at: 2,
                bits: 15,
            }),
            tl0_picture: Some(Field::octet(7, 4)),
            ..Descriptor::default()
        };
        assert_eq!(long, expected);
        // The same in the middle of a frame with a short number and without layer sync.
        let short = describe(&[0x80, 0xe0, 0x05, 0x07, 0x80, 0x11]).unwrap();
        let expected = Descriptor {
            layers: Layers::new(0, 2),
            picture_id: Some(Field {
                value: 5,
                at: 2,
                bits: 7,
            }),
            tl0_picture: Some(Field::octet(7, 3)),
            ..Descriptor::default()
        };
        assert_eq!(short, expected);
        // Layers without numbers; KEYIDX alone is no layer.
        for unnumbered in [
            &[0x90u8, 0x20, 0xa0, 0x11][..],
            &[0x90, 0x90, 5, 0xa0, 0x11],
        ] {
            let described = describe(unnumbered).unwrap();
            assert_eq!(described.layers, Layers::default());
            assert!(!described.joins);
        }
    }
}
