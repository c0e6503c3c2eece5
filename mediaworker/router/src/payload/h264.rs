//! H264 NAL units in RTP, RFC 6184 section 5, for packetization modes 0 and 1.

const IDR_SLICE: u8 = 5;
const SEQUENCE_PARAMETER_SET: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// `None` when the payload is too short.
///
/// A keyframe begins with its sequence parameter set, or, where parameter sets go another way or
/// come less often, with the first slice of an IDR picture.
pub(super) fn is_key_frame_start(payload: &[u8]) -> Option<bool> {
    let (&header, rest) = payload.split_first()?;
    match nal_type(header) {
        STAP_A => Some(aggregate_begins_key_frame(rest)),
        FU_A => {
            let (&fragment, slice) = rest.split_first()?;
            let begins = fragment & 0x80 != 0;
            Some(begins && unit_begins_key_frame(nal_type(fragment), slice))
        }
        kind => Some(unit_begins_key_frame(kind, rest)),
    }
}

fn nal_type(header: u8) -> u8 {
    header & 0x1f
}

fn unit_begins_key_frame(kind: u8, body: &[u8]) -> bool {
    match kind {
        SEQUENCE_PARAMETER_SET => true,
        // first_mb_in_slice is the first field of a slice header (H.264 section 7.3.3); its
        // Exp-Golomb code is a single 1 bit only when it is 0: the slice begins the picture.
        IDR_SLICE => body.first().is_some_and(|byte| byte & 0x80 != 0),
        _ => false,
    }
}

/// STAP-A: units with a 16-bit size each.
fn aggregate_begins_key_frame(mut units: &[u8]) -> bool {
    while let Some((size, rest)) = units.split_first_chunk::<2>() {
        let Some((unit, after)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))
        else {
            return false;
        };
        if let Some((&header, body)) = unit.split_first()
            && unit_begins_key_frame(nal_type(header), body)
        {
            return true;
        }
        units = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::is_key_frame_start;

    #[test]
    fn units() {
        let cases: [(&[u8], Option<bool>); 15] = [
            // SPS, PPS, SEI, access unit delimiter by themselves.
            (&[0x67, 0x42, 0xe0, 0x1f], Some(true)),
            (&[0x68, 0xce, 0x06, 0xe2], Some(false)),
            (&[0x06, 0x05, 0x04], Some(false)),
            (&[0x09, 0x10], Some(false)),
            // IDR: first slice, later slice. Slice of another picture.
            (&[0x65, 0x88, 0x84], Some(true)),
            (&[0x65, 0x42, 0x84], Some(false)),
            (&[0x41, 0x9a, 0x00], Some(false)),
            // STAP-A of SPS and PPS; of SEI and PPS; of AUD and IDR; with a size too large.
            (
                &[0x78, 0x00, 0x02, 0x67, 0x42, 0x00, 0x02, 0x68, 0xce],
                Some(true),
            ),
            (
                &[0x78, 0x00, 0x02, 0x06, 0x05, 0x00, 0x02, 0x68, 0xce],
                Some(false),
            ),
            (
                &[0x78, 0x00, 0x02, 0x09, 0x10, 0x00, 0x02, 0x65, 0x88],
                Some(true),
            ),
            (&[0x78, 0x00, 0x09, 0x67, 0x42], Some(false)),
            // FU-A: IDR start, middle, end; start of another picture.
            (&[0x7c, 0x85, 0x88, 0x84], Some(true)),
            (&[0x7c, 0x05, 0x88, 0x84], Some(false)),
            (&[0x7c, 0x45, 0x88, 0x84], Some(false)),
            (&[0x5c, 0x81, 0x9a], Some(false)),
        ];
        for (payload, expected) in cases {
            assert_eq!(is_key_frame_start(payload), expected, "{payload:02x?}");
        }
        assert_eq!(is_key_frame_start(&[0x7c]), None);
    }
}
