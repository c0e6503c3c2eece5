//! What the head of a clear RTP payload says about its place in the stream, one file per codec:
//! where keyframes begin, layers, and the numbers of pictures.
//!
//! Only the first bytes are read, and anything that is too short says nothing. They stay readable
//! with end-to-end encryption of frames, as browsers leave the headers in clear. AV1 says more in a
//! header extension, see [`dependency_descriptor`].

mod av1;
pub(crate) mod dependency_descriptor;
mod h264;
mod vp8;
mod vp9;

use crate::layers::Layers;
use crate::types::Codec;

/// A number in a payload, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) value: u16,
    /// Index of its first byte.
    pub(crate) at: u8,
    /// 7, 8 or 15; one byte or two. A bit above 15 is set.
    pub(crate) bits: u8,
}

impl Field {
    /// A picture id of 7 or 15 bits, as VP8 and VP9 write it.
    fn picture_id(bytes: &[u8], at: u8) -> Option<Self> {
        let first = *bytes.first()?;
        let long = first & 0x80 != 0;
        let value = if long {
            u16::from_be_bytes([first & 0x7f, *bytes.get(1)?])
        } else {
            first.into()
        };
        let bits = if long { 15 } else { 7 };
        Some(Self { value, at, bits })
    }

    fn octet(value: u8, at: u8) -> Self {
        let value = value.into();
        Self { value, at, bits: 8 }
    }

    fn len(self) -> usize {
        if self.bits > 8 { 2 } else { 1 }
    }

    /// Index of the byte after it.
    pub(crate) fn end(self) -> u8 {
        self.at + if self.bits > 8 { 2 } else { 1 }
    }
}

/// What a payload says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// It looks like the first packet of a keyframe.
    pub(crate) key_frame_start: bool,
    /// First and last packet of a frame: of the picture's part in one spatial layer.
    pub(crate) begins_frame: bool,
    pub(crate) ends_frame: bool,
    /// Its layers within the stream; the lowest ones where pictures are not numbered.
    pub(crate) layers: Layers,
    /// Its frame needs earlier pictures (VP9: P).
    pub(crate) inter_picture: bool,
    /// Its temporal layer can be joined with it by who gets the layers below (VP8: Y).
    pub(crate) joins: bool,
    /// Higher temporal layers can be joined after it by who gets its own (VP9: U).
    pub(crate) opens: bool,
    pub(crate) picture_id: Option<Field>,
    /// TL0PICIDX.
    pub(crate) tl0_picture: Option<Field>,
    /// How many spatial layers the stream has from here on, where it says so.
    pub(crate) spatial_layers: Option<u8>,
}

/// Reads a payload. One that is too short, or of a codec whose payload is not read (Opus and
/// others), says nothing.
pub(crate) fn describe(codec: Codec, payload: &[u8]) -> Descriptor {
    let key_frame_start = |found: Option<bool>| {
        found.map(|key_frame_start| Descriptor {
            key_frame_start,
            ..Descriptor::default()
        })
    };
    match codec {
        Codec::Vp8 => vp8::describe(payload),
        Codec::Vp9 => vp9::describe(payload),
        Codec::H264 => key_frame_start(h264::is_key_frame_start(payload)),
        Codec::Av1 => key_frame_start(av1::is_key_frame_start(payload)),
        Codec::Opus | Codec::Other => None,
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_key_frame_start(codec: Codec, payload: &[u8]) -> bool {
        describe(codec, payload).key_frame_start
    }

    const CODECS: [Codec; 6] = [
        Codec::Opus,
        Codec::Vp8,
        Codec::Vp9,
        Codec::H264,
        Codec::Av1,
        Codec::Other,
    ];

    #[test]
    fn no_payload_of_up_to_three_bytes_panics() {
        for codec in CODECS {
            assert!(!is_key_frame_start(codec, &[]));
            for a in 0..=255 {
                is_key_frame_start(codec, &[a]);
                for b in 0..=255 {
                    is_key_frame_start(codec, &[a, b]);
                    is_key_frame_start(codec, &[a, b, a ^ b]);
                    is_key_frame_start(codec, &[a, b, 0x00]);
                    is_key_frame_start(codec, &[a, b, 0xff]);
                }
            }
        }
    }

    #[test]
    fn no_cut_off_keyframe_panics() {
        let payloads: [(Codec, &[u8]); 4] = [
            (
                Codec::Vp8,
                &[0x90, 0xe0, 0x80, 0x01, 0x00, 0x20, 0x10, 0x02, 0x00],
            ),
            (Codec::Vp9, &[0xaa, 0x80, 0x01, 0x00, 0x02, 0x18, 0x01]),
            (
                Codec::H264,
                &[0x78, 0x00, 0x02, 0x06, 0x05, 0x00, 0x02, 0x67, 0x42],
            ),
            (Codec::Av1, &[0x20, 0x80, 0x80, 0x01, 0x0a, 0x0b]),
        ];
        for (codec, payload) in payloads {
            for length in 0..payload.len() {
                is_key_frame_start(codec, &payload[..length]);
            }
        }
    }

    #[test]
    fn unread_codecs_have_no_keyframes() {
        assert!(!is_key_frame_start(Codec::Other, &[0x10, 0x00]));
        assert!(!is_key_frame_start(Codec::Opus, &[0x10, 0x00]));
    }

    #[test]
    fn no_bytes_panic_and_no_field_is_outside_of_them() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut payload = [0u8; 24];
        for _ in 0..200_000 {
            for byte in &mut payload {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = (state >> 32) as u8;
            }
            let cut = &payload[..(state % 25) as usize];
            for codec in CODECS {
                let described = describe(codec, cut);
                for field in [described.picture_id, described.tl0_picture] {
                    assert!(field.is_none_or(|field| usize::from(field.end()) <= cut.len()));
                }
                let Layers { spatial, temporal } = described.layers;
                assert!(spatial < 8 && temporal < 8);
            }
        }
    }
}
