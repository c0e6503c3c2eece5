//! VP9 payload descriptor, RFC 9628 section 4.2.

/// `None` when the payload is too short.
pub(super) fn is_key_frame_start(payload: &[u8]) -> Option<bool> {
    let (&descriptor, mut rest) = payload.split_first()?;
    let has_picture_id = descriptor & 0x80 != 0;
    let is_inter_picture = descriptor & 0x40 != 0;
    let has_layers = descriptor & 0x20 != 0;
    let begins_frame = descriptor & 0x08 != 0;
    if is_inter_picture || !begins_frame {
        return Some(false);
    }
    if has_picture_id {
        // 7 or 15 bits.
        let long = rest.first()? & 0x80 != 0;
        rest = rest.get(if long { 2 } else { 1 }..)?;
    }
    // A keyframe of spatial layers begins with the lowest one; the others are not inter-picture
    // predicted either, but need it.
    let spatial_layer = if has_layers {
        (rest.first()? >> 1) & 0x07
    } else {
        0
    };
    Some(spatial_layer == 0)
}

#[cfg(test)]
mod tests {
    use super::is_key_frame_start;

    #[test]
    fn descriptors() {
        let cases: [(&[u8], Option<bool>); 10] = [
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
            // 7-bit picture id and layers; no picture id.
            (&[0xa8, 0x05, 0x02], Some(false)),
            (&[0x08], Some(true)),
            (&[0xa8, 0x85], None),
        ];
        for (payload, expected) in cases {
            assert_eq!(is_key_frame_start(payload), expected, "{payload:02x?}");
        }
    }
}
