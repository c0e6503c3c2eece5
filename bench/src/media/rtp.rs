//! RTP headers (RFC 3550 §5.1) with one-byte extensions (RFC 8285 §4.2): as much
//! of them as the rod writes and reads.

/// What is read of a header. It is never encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload type.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// Where the payload begins, bytes.
    pub len: usize,
    /// Transport-wide sequence number, where the id was given.
    pub transport_sequence: Option<u16>,
}

/// Reads a header. `transport_cc`: id of the transport-wide sequence number;
/// `None` when the receiver has not negotiated it.
pub fn read(datagram: &[u8], transport_cc: Option<u8>) -> Option<Header> {
    let (&[flags, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3], mut rest) =
        datagram.split_first_chunk::<12>()?;
    if flags >> 6 != 2 {
        return None;
    }
    rest = rest.get(usize::from(flags & 0x0F) * 4..)?;
    let mut transport_sequence = None;
    if flags & 0x10 != 0 {
        let (&[p0, p1, l0, l1], after) = rest.split_first_chunk::<4>()?;
        let words = usize::from(u16::from_be_bytes([l0, l1]));
        let (extensions, after) = after.split_at_checked(words * 4)?;
        if let Some(id) = transport_cc.filter(|_| [p0, p1] == [0xBE, 0xDE]) {
            transport_sequence = extension(extensions, id);
        }
        rest = after;
    }
    Some(Header {
        payload_type: second & 0x7F,
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
        len: datagram.len() - rest.len(),
        transport_sequence,
    })
}

fn extension(mut list: &[u8], wanted: u8) -> Option<u16> {
    while let Some((&first, rest)) = list.split_first() {
        // A byte of padding has neither id nor length.
        if first == 0 {
            list = rest;
            continue;
        }
        let (value, after) = rest.split_at_checked(usize::from(first & 0x0F) + 1)?;
        if first >> 4 == wanted {
            return Some(u16::from_be_bytes(*value.first_chunk()?));
        }
        list = after;
    }
    None
}

/// What is written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// Payload type.
    pub payload_type: u8,
    /// Last packet of a frame.
    pub marker: bool,
    /// Sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// Extensions: id (1 to 14) and value (1 to 16 bytes).
    pub extensions: &'a [(u8, &'a [u8])],
}

/// Appends a header; answers its length.
pub fn write(to: &mut Vec<u8>, header: &Written<'_>) -> usize {
    let start = to.len();
    let extended = !header.extensions.is_empty();
    to.push(0x80 | u8::from(extended) << 4);
    to.push(u8::from(header.marker) << 7 | header.payload_type);
    to.extend_from_slice(&header.sequence.to_be_bytes());
    to.extend_from_slice(&header.timestamp.to_be_bytes());
    to.extend_from_slice(&header.ssrc.to_be_bytes());
    if extended {
        let len: usize = header.extensions.iter().map(|(_, v)| v.len() + 1).sum();
        let words = len.div_ceil(4);
        to.extend_from_slice(&[0xBE, 0xDE]);
        to.extend_from_slice(&u16::try_from(words).unwrap_or(u16::MAX).to_be_bytes());
        for (id, value) in header.extensions {
            let len = u8::try_from(value.len()).unwrap_or(16).saturating_sub(1);
            to.push(id << 4 | len & 0x0F);
            to.extend_from_slice(value);
        }
        to.resize(to.len() + words * 4 - len, 0);
    }
    to.len() - start
}

/// Continues 16-bit sequence numbers: the full number closest to the last one.
pub fn extend(last: u64, sequence: u16) -> u64 {
    let low = u16::try_from(last & 0xFFFF).unwrap_or(0);
    let step = i64::from(sequence.wrapping_sub(low).cast_signed());
    last.checked_add_signed(step).unwrap_or(u64::from(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive() {
        let mut out = Vec::new();
        let len = write(
            &mut out,
            &Written {
                payload_type: 96,
                marker: true,
                sequence: 65_535,
                timestamp: 7,
                ssrc: 0xDEAD_BEEF,
                extensions: &[(4, b"1"), (3, &[0x12, 0x34])],
            },
        );
        assert_eq!(len, 24);
        out.push(1);
        let header = read(&out, Some(3)).unwrap();
        assert_eq!((header.payload_type, header.sequence), (96, 65_535));
        assert_eq!((header.timestamp, header.ssrc), (7, 0xDEAD_BEEF));
        assert_eq!(header.len, 24);
        assert_eq!(header.transport_sequence, Some(0x1234));
        assert_eq!(read(&out, Some(5)).unwrap().transport_sequence, None);
        for cut in 0..24 {
            assert_eq!(read(&out[..cut], Some(3)), None, "{cut}");
        }
    }

    #[test]
    fn sequence_numbers_go_on() {
        for (last, sequence, expected) in [
            (10, 11, 11),
            (65_535, 0, 65_536),
            (65_536, 65_535, 65_535),
            (200_000, 3_393, 200_001),
            (2, 65_535, 65_535),
        ] {
            assert_eq!(extend(last, sequence), expected, "{last} {sequence}");
        }
    }
}
