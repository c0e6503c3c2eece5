//! AV1 aggregation header, RTP Payload Format For AV1 version 1.0, section 4.4.

const OBU_SEQUENCE_HEADER: u8 = 1;

/// `None` when the payload is too short.
pub(super) fn is_key_frame_start(payload: &[u8]) -> Option<bool> {
    let (&aggregation, elements) = payload.split_first()?;
    let continues_fragment = aggregation & 0x80 != 0;
    let obu_count = (aggregation >> 4) & 0x03;
    let starts_sequence = aggregation & 0x08 != 0;
    if continues_fragment {
        return Some(false);
    }
    if starts_sequence {
        return Some(true);
    }
    // A sender that leaves the N bit out still begins keyframes with a sequence header. Every
    // element has its length in front, except the last one when they are counted.
    let obu = if obu_count == 1 {
        elements
    } else {
        skip_leb128(elements)?
    };
    Some((obu.first()? >> 3) & 0x0f == OBU_SEQUENCE_HEADER)
}

/// Skips a length (at most 8 bytes, the highest bit of the last one is 0).
fn skip_leb128(bytes: &[u8]) -> Option<&[u8]> {
    let last = bytes.iter().take(8).position(|byte| byte & 0x80 == 0)?;
    bytes.get(last + 1..)
}

#[cfg(test)]
mod tests {
    use super::is_key_frame_start;

    #[test]
    fn aggregation_headers() {
        let cases: [(&[u8], Option<bool>); 9] = [
            // Chrome: N set, two elements, the first is a sequence header of 11 bytes.
            (&[0x28, 0x0b, 0x08, 0x00], Some(true)),
            (&[0x68, 0x0b, 0x08, 0x00], Some(true)),
            // Frame (type 6), alone, without and with a length.
            (&[0x10, 0x30, 0x00], Some(false)),
            (&[0x00, 0x05, 0x30, 0x00], Some(false)),
            // Continued fragment.
            (&[0x90, 0x08], Some(false)),
            // Sequence header without N: counted, uncounted, with a length of two bytes.
            (&[0x10, 0x0a, 0x0b], Some(true)),
            (&[0x00, 0x0b, 0x08], Some(true)),
            (&[0x20, 0x80, 0x01, 0x0a], Some(true)),
            (&[0x20, 0x80], None),
        ];
        for (payload, expected) in cases {
            assert_eq!(is_key_frame_start(payload), expected, "{payload:02x?}");
        }
    }
}
