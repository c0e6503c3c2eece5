//! RTP header extensions (RFC 8285): which ones the worker knows, and which of
//! them a consumer's packets may carry.

/// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143 §15).
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// Longest MID, octets, that is taken from clients and sent to them: what an extension of the
/// one-byte form can have (RFC 8285 §4.2).
pub const MAX_MID: usize = 16;
/// `abs-capture-time`, which old mediasoup clients list with ids that belong to
/// others.
pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
const RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
/// `abs-send-time`.
pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// Transport-wide congestion control sequence number.
pub const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// RFC 6464.
pub const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
/// Coordination of video orientation (3GPP TS 26.114 §7.4.5).
pub const VIDEO_ORIENTATION: &str = "urn:3gpp:video-orientation";
/// RFC 5450.
pub const TRANSMISSION_OFFSET: &str = "urn:ietf:params:rtp-hdrext:toffset";
/// `playout-delay`.
pub const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";

/// Dependency descriptor (AV1 RTP payload format 1.0, appendix A).
pub const DEPENDENCY_DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// Largest id (RFC 8285 §4.3). Browsers go beyond the 14 of the one-byte form
/// when they have many extensions to offer.
pub const MAX_ID: u32 = 255;

/// Ids of the one-byte form. 15 is kept for what nobody knows yet, and 0 is padding, which
/// has no length; behind such a one nothing is to be read (RFC 8285 §4.2).
const ONE_BYTE_IDS: std::ops::RangeInclusive<u8> = 1..=14;

/// A header extension that is read of a producer's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// [`MID`].
    Mid,
    /// RFC 8852.
    RtpStreamId,
    /// RFC 8852, of the stream that a retransmission belongs to.
    RepairedRtpStreamId,
    /// [`TRANSPORT_CC`].
    TransportCc,
    /// [`AUDIO_LEVEL`].
    AudioLevel,
    /// [`VIDEO_ORIENTATION`].
    VideoOrientation,
    /// [`TRANSMISSION_OFFSET`].
    TransmissionOffset,
    /// [`ABS_CAPTURE_TIME`].
    AbsCaptureTime,
    /// [`PLAYOUT_DELAY`].
    PlayoutDelay,
    /// [`DEPENDENCY_DESCRIPTOR`].
    DependencyDescriptor,
}

impl Extension {
    /// The extension of a URI; `None` for one that is not read.
    pub fn of(uri: &str) -> Option<Self> {
        Some(match uri {
            MID => Self::Mid,
            RTP_STREAM_ID => Self::RtpStreamId,
            REPAIRED_RTP_STREAM_ID => Self::RepairedRtpStreamId,
            TRANSPORT_CC => Self::TransportCc,
            AUDIO_LEVEL => Self::AudioLevel,
            VIDEO_ORIENTATION => Self::VideoOrientation,
            TRANSMISSION_OFFSET => Self::TransmissionOffset,
            ABS_CAPTURE_TIME => Self::AbsCaptureTime,
            PLAYOUT_DELAY => Self::PlayoutDelay,
            DEPENDENCY_DESCRIPTOR => Self::DependencyDescriptor,
            _ => return None,
        })
    }
}

/// Ids and values of the header extensions of an RTP packet, which are never encrypted
/// (RFC 8285 §4.2 and §4.3). What is malformed ends them, and so do the ids that the
/// one-byte form may not use.
pub fn fields(rtp: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let (mut rest, two_byte) = block(rtp).unwrap_or_default();
    std::iter::from_fn(move || {
        loop {
            let (&byte, after) = rest.split_first()?;
            if byte == 0 {
                // Padding.
                rest = after;
                continue;
            }
            let (id, len, after) = if two_byte {
                let (&len, after) = after.split_first()?;
                (byte, usize::from(len), after)
            } else {
                (byte >> 4, usize::from(byte & 0x0f) + 1, after)
            };
            if !two_byte && !ONE_BYTE_IDS.contains(&id) {
                return None;
            }
            let (value, after) = after.split_at_checked(len)?;
            rest = after;
            return Some((id, value));
        }
    })
}

/// The octets of the extensions, and whether they are in the two-byte form.
fn block(rtp: &[u8]) -> Option<(&[u8], bool)> {
    let first = *rtp.first()?;
    if first & 0x10 == 0 {
        return None;
    }
    let start = 12 + usize::from(first & 0x0f) * 4;
    let &[a, b, c, d] = rtp.get(start..)?.first_chunk()?;
    let (profile, words) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let two_byte = profile & 0xfff0 == 0x1000;
    if !two_byte && profile != 0xbede {
        return None;
    }
    let octets = rtp.get(start + 4..start + 4 + usize::from(words) * 4)?;
    Some((octets, two_byte))
}

/// The extensions of the packets of one consumer whose values are not its producer's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Automatic {
    /// RFC 9143.
    pub mid: bool,
    /// What a client without transport-cc estimates bandwidth by.
    pub abs_send_time: bool,
    /// What we estimate bandwidth by.
    pub transport_cc: bool,
}

/// The extensions of the packets of one consumer: those that are copied from its
/// producer's, and those that are not. Only what was negotiated is written: an estimator
/// takes what it cannot see for loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Those that are not copied.
    pub automatic: Automatic,
    pub(super) audio_level: bool,
    pub(super) video_orientation: bool,
    pub(super) transmission_offset: bool,
    pub(super) abs_capture_time: bool,
    pub(super) playout_delay: bool,
    pub(super) dependency_descriptor: bool,
}

/// Ids of the extensions of a router's consumers; 0 where it has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ids {
    pub(super) mid: u8,
    pub(super) abs_send_time: u8,
    pub(super) transport_cc: u8,
    pub(super) audio_level: u8,
    pub(super) video_orientation: u8,
    pub(super) transmission_offset: u8,
    pub(super) abs_capture_time: u8,
    pub(super) playout_delay: u8,
    pub(super) dependency_descriptor: u8,
    two_byte: bool,
}

impl Ids {
    /// Whether packets can have a transport-cc number.
    pub fn has_transport_cc(&self) -> bool {
        self.transport_cc != 0
    }

    /// The ids of a list of ids and URIs. What is not known is left out.
    pub fn of(list: &[(u32, String)]) -> Self {
        let mut ids = Self::default();
        for (id, uri) in list {
            let place = match uri.as_str() {
                MID => &mut ids.mid,
                ABS_SEND_TIME => &mut ids.abs_send_time,
                TRANSPORT_CC => &mut ids.transport_cc,
                AUDIO_LEVEL => &mut ids.audio_level,
                VIDEO_ORIENTATION => &mut ids.video_orientation,
                TRANSMISSION_OFFSET => &mut ids.transmission_offset,
                ABS_CAPTURE_TIME => &mut ids.abs_capture_time,
                PLAYOUT_DELAY => &mut ids.playout_delay,
                DEPENDENCY_DESCRIPTOR => &mut ids.dependency_descriptor,
                _ => continue,
            };
            *place = u8::try_from(*id).unwrap_or(0);
            ids.two_byte |= *place > *ONE_BYTE_IDS.end();
        }
        ids
    }

    /// Whether one of them is beyond what the one-byte form has (RFC 8285 §4.2).
    pub fn are_two_byte(&self) -> bool {
        self.two_byte
    }
}

impl Written {
    /// What a consumer negotiated.
    pub fn negotiated<'a>(uris: impl Iterator<Item = &'a str>) -> Self {
        let mut written = Self::default();
        for uri in uris {
            match uri {
                MID => written.automatic.mid = true,
                ABS_SEND_TIME => written.automatic.abs_send_time = true,
                TRANSPORT_CC => written.automatic.transport_cc = true,
                AUDIO_LEVEL => written.audio_level = true,
                VIDEO_ORIENTATION => written.video_orientation = true,
                TRANSMISSION_OFFSET => written.transmission_offset = true,
                ABS_CAPTURE_TIME => written.abs_capture_time = true,
                PLAYOUT_DELAY => written.playout_delay = true,
                DEPENDENCY_DESCRIPTOR => written.dependency_descriptor = true,
                _ => {}
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtp(extension: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        packet.extend_from_slice(extension);
        packet.extend_from_slice(&[0xAA; 20]);
        packet
    }

    fn all(rtp: &[u8]) -> Vec<(u8, Vec<u8>)> {
        fields(rtp)
            .map(|(id, value)| (id, value.to_vec()))
            .collect()
    }

    #[test]
    fn both_forms_are_read() {
        let expected = [(4, vec![b'0']), (3, vec![0x12, 0x34])];
        let one = rtp(&[0xbe, 0xde, 0, 2, 0x40, b'0', 0, 0x31, 0x12, 0x34, 0, 0]);
        assert_eq!(all(&one), expected);
        let two = rtp(&[0x10, 0, 0, 2, 4, 1, b'0', 3, 2, 0x12, 0x34, 0]);
        assert_eq!(all(&two), expected);
        let none = rtp(&[0xbe, 0xdf, 0, 1, 0x40, b'0', 0, 0]);
        assert_eq!(all(&none), []);
        let mut plain = one.clone();
        plain[0] = 0x80;
        assert_eq!(all(&plain), []);
    }

    #[test]
    fn ids_that_the_one_byte_form_may_not_use_end_it() {
        let (first, second) = ((1, vec![5]), (2, vec![6]));
        for (between, expected) in [
            // Padding.
            (&[0, 0, 0, 0][..], &[first.clone(), second.clone()][..]),
            // An id of 15, whatever its length.
            (&[0xf0, 9, 0, 0], std::slice::from_ref(&first)),
            (&[0xff, 0, 0, 0], std::slice::from_ref(&first)),
            // Padding with a length.
            (&[0x01, 9, 9, 0], std::slice::from_ref(&first)),
        ] {
            let list = [&[0xbe, 0xde, 0, 2, 0x10, 5], between, &[0x20, 6]].concat();
            assert_eq!(all(&rtp(&list)), expected, "{between:?}");
        }
        let two = rtp(&[0x10, 0, 0, 2, 15, 1, 5, 0, 14, 1, 6, 0]);
        assert_eq!(all(&two), [(15, vec![5]), (14, vec![6])]);
    }

    #[test]
    fn what_is_cut_off_ends_them() {
        let one = rtp(&[0xbe, 0xde, 0, 2, 0x40, b'0', 0, 0x31, 0x12, 0x34, 0, 0]);
        for len in 0..12 + 12 {
            assert_eq!(all(&one[..len]), [], "{len}");
        }
        assert_eq!(all(&rtp(&[0xbe, 0xde, 0xff, 0xff, 0x31])), []);
        let overlong = rtp(&[0xbe, 0xde, 0, 1, 0x10, 1, 0x3f, 3]);
        assert_eq!(all(&overlong), [(1, vec![1])]);
    }
}
