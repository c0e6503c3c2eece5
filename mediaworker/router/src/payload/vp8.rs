//! VP8 payload descriptor, RFC 7741 section 4.2.

/// `None` when the payload is too short.
pub(super) fn is_key_frame_start(payload: &[u8]) -> Option<bool> {
    let (&descriptor, mut rest) = payload.split_first()?;
    let starts_partition = descriptor & 0x10 != 0;
    let partition = descriptor & 0x07;
    if !starts_partition || partition != 0 {
        return Some(false);
    }
    if descriptor & 0x80 != 0 {
        let (&extension, after) = rest.split_first()?;
        rest = after;
        if extension & 0x80 != 0 {
            // PictureID of 7 or 15 bits.
            let long = rest.first()? & 0x80 != 0;
            rest = rest.get(if long { 2 } else { 1 }..)?;
        }
        if extension & 0x40 != 0 {
            // TL0PICIDX.
            rest = rest.get(1..)?;
        }
        if extension & 0x30 != 0 {
            // TID and KEYIDX share a byte.
            rest = rest.get(1..)?;
        }
    }
    // Payload header (section 4.3): the P bit is 0 in keyframes.
    Some(rest.first()? & 0x01 == 0)
}

#[cfg(test)]
mod tests {
    use super::is_key_frame_start;

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
}
