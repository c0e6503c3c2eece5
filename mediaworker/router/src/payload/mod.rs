//! Finds the first packet of a keyframe in clear RTP payloads, one file per codec.
//!
//! Only the first bytes are read, and anything that is too short is no keyframe. They stay
//! readable with end-to-end encryption of frames, as browsers leave the headers in clear.

mod av1;
mod h264;
mod vp8;
mod vp9;

use crate::types::Codec;

/// Whether a payload looks like the first packet of a keyframe. Always `false` for codecs whose
/// payload is not read (Opus and others).
pub(crate) fn is_key_frame_start(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => vp8::is_key_frame_start(payload),
        Codec::Vp9 => vp9::is_key_frame_start(payload),
        Codec::H264 => h264::is_key_frame_start(payload),
        Codec::Av1 => av1::is_key_frame_start(payload),
        Codec::Opus | Codec::Other => Some(false),
    }
    .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
