//! What packets carry: a VP8 descriptor and frame header for video, so that any
//! server finds the keyframes, and the stamp that latency is measured with.

/// Marks a payload of the rod's own.
const MAGIC: u32 = 0x524F_4421;
/// Length of the stamp, bytes.
const STAMP: usize = 16;
/// Where the stamp is in a video payload: after the descriptor (RFC 7741 §4.2,
/// with a 15-bit picture id) and a VP8 frame header (RFC 6386 §9.1).
const VIDEO_PREFIX: usize = 14;
/// Payload of an audio packet, bytes: about 100 with header and tag.
pub const AUDIO_PAYLOAD: usize = 72;
/// Most of a frame that goes into one packet, bytes: about 1,100 with header,
/// extensions and tag.
pub const MAX_VIDEO_PAYLOAD: usize = 1_060;
/// How much larger than the others a keyframe is.
const KEY_FRAME_FACTOR: usize = 3;

/// When a packet was sent, and which one of its stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock, nanoseconds since 1970.
    pub sent: u64,
    /// Number of the packet in its stream, from 0.
    pub number: u32,
}

impl Stamp {
    fn write(self, to: &mut [u8]) {
        let mut bytes = [0; STAMP];
        let (magic, rest) = bytes.split_at_mut(4);
        let (sent, number) = rest.split_at_mut(8);
        magic.copy_from_slice(&MAGIC.to_be_bytes());
        sent.copy_from_slice(&self.sent.to_be_bytes());
        number.copy_from_slice(&self.number.to_be_bytes());
        if let Some(place) = to.get_mut(..STAMP) {
            place.copy_from_slice(&bytes);
        }
    }

    /// Reads the stamp of a payload; `None` for one that the rod did not write.
    pub fn read(payload: &[u8], video: bool) -> Option<Self> {
        let at = if video { VIDEO_PREFIX } else { 0 };
        let bytes = payload.get(at..)?;
        let (magic, bytes) = bytes.split_first_chunk::<4>()?;
        let (sent, bytes) = bytes.split_first_chunk::<8>()?;
        let (number, _) = bytes.split_first_chunk::<4>()?;
        (u32::from_be_bytes(*magic) == MAGIC).then(|| Self {
            sent: u64::from_be_bytes(*sent),
            number: u32::from_be_bytes(*number),
        })
    }
}

/// One packet's place in a video frame.
#[derive(Debug, Clone, Copy)]
pub struct FramePart {
    /// The frame is a keyframe.
    pub key: bool,
    /// First packet of the frame.
    pub first: bool,
    /// 15-bit picture id.
    pub picture: u16,
}

/// Writes an audio payload.
pub fn write_audio(to: &mut Vec<u8>, stamp: Stamp) {
    let start = to.len();
    to.resize(start + AUDIO_PAYLOAD, 0xA5);
    if let Some(payload) = to.get_mut(start..) {
        stamp.write(payload);
    }
}

/// Writes a payload of a VP8 frame of `len` bytes.
pub fn write_video(to: &mut Vec<u8>, part: FramePart, len: usize, stamp: Stamp) {
    let start = to.len();
    let [high, low] = part.picture.to_be_bytes();
    let descriptor = if part.first { 0x90 } else { 0x80 };
    to.extend_from_slice(&[descriptor, 0x80, high | 0x80, low]);
    // Frame tag: shown, size of the first partition unread by anyone; then the
    // start code and 640 x 480 of a keyframe.
    to.extend_from_slice(&[0x10 | u8::from(!part.key), 0, 0]);
    to.extend_from_slice(&[0x9D, 0x01, 0x2A, 0x80, 0x02, 0xE0, 0x01]);
    to.resize(start + len.max(VIDEO_PREFIX + STAMP), 0x5A);
    if let Some(payload) = to.get_mut(start + VIDEO_PREFIX..) {
        stamp.write(payload);
    }
}

/// Payload lengths of the packets of a frame at a bitrate (bits per second): about
/// equal, and the last ones a byte longer than the others, as Chromium's packetizers
/// for VP8, VP9, H264 and AV1 split a frame.
pub fn frame_lengths(bitrate: u32, frames_per_second: u32, key: bool) -> Vec<usize> {
    let bits = bitrate / frames_per_second.max(1);
    let bytes = usize::try_from(bits / 8).unwrap_or(usize::MAX);
    let bytes = bytes.max(1) * if key { KEY_FRAME_FACTOR } else { 1 };
    let packets = bytes.div_ceil(MAX_VIDEO_PAYLOAD);
    let (each, longer) = (bytes / packets, bytes % packets);
    let first_longer = packets - longer;
    (0..packets)
        .map(|i| each + usize::from(i >= first_longer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_in_both_kinds() {
        let stamp = Stamp {
            sent: 1_700_000_000_123_456_789,
            number: 77,
        };
        let mut audio = Vec::new();
        write_audio(&mut audio, stamp);
        assert_eq!(audio.len(), AUDIO_PAYLOAD);
        assert_eq!(Stamp::read(&audio, false), Some(stamp));
        assert_eq!(Stamp::read(&audio, true), None);
        let mut video = vec![9; 12];
        let part = FramePart {
            key: true,
            first: true,
            picture: 5,
        };
        write_video(&mut video, part, 1_000, stamp);
        assert_eq!(video.len(), 1_012);
        assert_eq!(Stamp::read(&video[12..], true), Some(stamp));
        assert_eq!(Stamp::read(&video[12..40], true), None);
    }

    #[test]
    fn keyframes_are_what_rfc_7741_says() {
        for (key, first, descriptor, tag) in [
            (true, true, 0x90, 0x10),
            (true, false, 0x80, 0x10),
            (false, true, 0x90, 0x11),
        ] {
            let mut out = Vec::new();
            let part = FramePart {
                key,
                first,
                picture: 0x7FFF,
            };
            write_video(&mut out, part, 100, Stamp { sent: 1, number: 2 });
            assert_eq!(out[..5], [descriptor, 0x80, 0xFF, 0xFF, tag]);
        }
    }

    #[test]
    fn frames_are_cut_evenly() {
        let lengths = frame_lengths(1_000_000, 30, false);
        assert_eq!(lengths.len(), 4);
        assert_eq!(lengths.iter().sum::<usize>(), 4_166);
        assert!(lengths.iter().all(|l| (1_041..=1_042).contains(l)));
        assert_eq!(frame_lengths(1_000_000, 30, true).len(), 12);
        assert_eq!(frame_lengths(1, 30, false), [1]);
    }
}
