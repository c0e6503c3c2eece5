//! A stream that a client sends: packets in time, keyframes when asked for,
//! retransmissions (RFC 4588) and sender reports.

use std::collections::VecDeque;
use std::time::Duration;

use super::payload::{self, FramePart, Stamp};
use super::rtcp::{SenderReport, write_sender_report};
use super::rtp::{self, Written};
use super::srtp::Keys;

/// Packets kept for retransmission: about a second and a half of video.
const KEPT: usize = 256;
const AUDIO_CLOCK: u32 = 48_000;
const VIDEO_CLOCK: u32 = 90_000;
/// Audio packets each second.
const AUDIO_RATE: u32 = 50;
/// Video frames each second.
pub const FRAME_RATE: u32 = 30;

/// Payload types and extension ids that a client of the rod sends with, as
/// Chromium does.
pub mod ids {
    /// Opus.
    pub const OPUS: u8 = 111;
    /// VP8.
    pub const VP8: u8 = 96;
    /// Retransmissions of it.
    pub const RTX: u8 = 97;
    /// Audio level (RFC 6464).
    pub const AUDIO_LEVEL: u8 = 1;
    /// Transport-wide sequence number.
    pub const TRANSPORT_CC: u8 = 3;
    /// MID.
    pub const MID: u8 = 4;
}

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Opus, 50 packets a second.
    Audio,
    /// VP8 at a bitrate, bits per second.
    Video {
        /// Bits per second.
        bitrate: u32,
    },
}

/// A stream as signaling has described it.
#[derive(Debug, Clone)]
pub struct SendSpec {
    /// What it is.
    pub kind: Kind,
    /// MID, one character or more.
    pub mid: &'static str,
    /// Its SSRC; video retransmits on the next one.
    pub ssrc: u32,
}

#[derive(Debug)]
struct Kept {
    sequence: u16,
    /// Header and payload in the clear.
    packet: Vec<u8>,
    header: usize,
}

/// The stream.
#[derive(Debug)]
pub struct Sending {
    spec: SendSpec,
    /// Index of the next packet: roll-over counter and sequence number.
    index: u64,
    rtx_index: u64,
    timestamp: u32,
    picture: u16,
    key_frame: bool,
    number: u32,
    payload_bytes: u32,
    kept: VecDeque<Kept>,
    frame: Vec<usize>,
}

impl Sending {
    /// A stream that begins with a keyframe.
    pub fn new(spec: SendSpec) -> Self {
        let frame = match spec.kind {
            Kind::Audio => Vec::new(),
            Kind::Video { bitrate } => payload::frame_lengths(bitrate, FRAME_RATE, false),
        };
        Self {
            spec,
            index: rand::random_range(1..30_000),
            rtx_index: rand::random_range(1..30_000),
            timestamp: rand::random(),
            picture: 0,
            key_frame: true,
            number: 0,
            payload_bytes: 0,
            kept: VecDeque::new(),
            frame,
        }
    }

    /// Time from one packet or frame to the next.
    pub fn interval(&self) -> Duration {
        let rate = match self.spec.kind {
            Kind::Audio => AUDIO_RATE,
            Kind::Video { .. } => FRAME_RATE,
        };
        Duration::from_secs(1) / rate
    }

    /// Its SSRC.
    pub fn ssrc(&self) -> u32 {
        self.spec.ssrc
    }

    /// Makes the next frame a keyframe.
    pub fn request_key_frame(&mut self) {
        self.key_frame = true;
    }

    /// Writes the packets that are due now. `transport_sequence` counts the
    /// packets of the whole transport.
    pub fn tick(
        &mut self,
        wall: u64,
        keys: &Keys,
        transport_sequence: &mut u16,
        out: &mut Vec<Vec<u8>>,
    ) {
        match self.spec.kind {
            Kind::Audio => {
                self.packet(wall, keys, transport_sequence, None, out);
                self.timestamp = self.timestamp.wrapping_add(AUDIO_CLOCK / AUDIO_RATE);
            }
            Kind::Video { bitrate } => {
                let key = std::mem::take(&mut self.key_frame);
                let lengths = if key {
                    payload::frame_lengths(bitrate, FRAME_RATE, true)
                } else {
                    std::mem::take(&mut self.frame)
                };
                let last = lengths.len().saturating_sub(1);
                for (i, len) in lengths.iter().enumerate() {
                    let part = FramePart {
                        key,
                        first: i == 0,
                        picture: self.picture,
                    };
                    let part = Some((part, *len, i == last));
                    self.packet(wall, keys, transport_sequence, part, out);
                }
                if !key {
                    self.frame = lengths;
                }
                self.picture = (self.picture + 1) & 0x7FFF;
                self.timestamp = self.timestamp.wrapping_add(VIDEO_CLOCK / FRAME_RATE);
            }
        }
    }

    /// `part`: place in the frame, payload length, last of the frame; `None` for
    /// audio.
    fn packet(
        &mut self,
        wall: u64,
        keys: &Keys,
        transport_sequence: &mut u16,
        part: Option<(FramePart, usize, bool)>,
        out: &mut Vec<Vec<u8>>,
    ) {
        let mut packet = Vec::with_capacity(1_200);
        let transport = transport_sequence.to_be_bytes();
        *transport_sequence = transport_sequence.wrapping_add(1);
        let common = [
            (ids::MID, self.spec.mid.as_bytes()),
            (ids::TRANSPORT_CC, &transport[..]),
        ];
        let sequence = low(self.index);
        let mut header = Written {
            payload_type: ids::VP8,
            marker: part.is_some_and(|(_, _, last)| last),
            sequence,
            timestamp: self.timestamp,
            ssrc: self.spec.ssrc,
            extensions: &common,
        };
        let [mid, transport] = common;
        // Voice activity, at 30 dB below the loudest.
        let audio = [mid, transport, (ids::AUDIO_LEVEL, &[0x80 | 30])];
        if part.is_none() {
            header.payload_type = ids::OPUS;
            header.extensions = &audio;
        }
        let len = rtp::write(&mut packet, &header);
        let stamp = Stamp {
            sent: wall,
            number: self.number,
        };
        match part {
            None => payload::write_audio(&mut packet, stamp),
            Some((part, bytes, _)) => {
                payload::write_video(&mut packet, part, bytes, stamp);
                self.keep(sequence, &packet, len);
            }
        }
        self.number = self.number.wrapping_add(1);
        let bytes = u32::try_from(packet.len() - len).unwrap_or(0);
        self.payload_bytes = self.payload_bytes.wrapping_add(bytes);
        if keys.seal_rtp(&mut packet, len, self.spec.ssrc, self.index) {
            out.push(packet);
        }
        self.index += 1;
    }

    fn keep(&mut self, sequence: u16, packet: &[u8], header: usize) {
        let mut kept = if self.kept.len() < KEPT {
            None
        } else {
            self.kept.pop_front()
        };
        let mut buffer = kept.take().map(|kept| kept.packet).unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.kept.push_back(Kept {
            sequence,
            packet: buffer,
            header,
        });
    }

    /// Sends a packet again, as retransmission; false when it is not kept.
    pub fn resend(
        &mut self,
        sequence: u16,
        keys: &Keys,
        transport_sequence: &mut u16,
        out: &mut Vec<Vec<u8>>,
    ) -> bool {
        let Some(kept) = self.kept.iter().find(|k| k.sequence == sequence) else {
            return false;
        };
        let Some(original) = rtp::read(&kept.packet, None) else {
            return false;
        };
        let transport = transport_sequence.to_be_bytes();
        *transport_sequence = transport_sequence.wrapping_add(1);
        let ssrc = self.spec.ssrc.wrapping_add(1);
        let mut packet = Vec::with_capacity(1_200);
        let len = rtp::write(
            &mut packet,
            &Written {
                payload_type: ids::RTX,
                marker: kept.packet.get(1).is_some_and(|b| b & 0x80 != 0),
                sequence: low(self.rtx_index),
                timestamp: original.timestamp,
                ssrc,
                extensions: &[
                    (ids::MID, self.spec.mid.as_bytes()),
                    (ids::TRANSPORT_CC, &transport),
                ],
            },
        );
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(kept.packet.get(kept.header..).unwrap_or_default());
        let sealed = keys.seal_rtp(&mut packet, len, ssrc, self.rtx_index);
        self.rtx_index += 1;
        if sealed {
            out.push(packet);
        }
        sealed
    }

    /// Appends a sender report.
    pub fn report(&self, wall: u64, to: &mut Vec<u8>) {
        let report = SenderReport {
            ssrc: self.spec.ssrc,
            wall,
            timestamp: self.timestamp,
            packets: self.number,
            bytes: self.payload_bytes,
        };
        write_sender_report(to, &report, "rod");
    }
}

fn low(index: u64) -> u16 {
    u16::try_from(index & 0xFFFF).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use str0m::crypto::dtls::SrtpProfile;

    fn keys() -> (Keys, Keys) {
        let material: Vec<u8> = (0..56).collect();
        let keys = |m: &[u8]| Keys::from_dtls(SrtpProfile::AEAD_AES_128_GCM, m).unwrap();
        (keys(&material).0, keys(&material).0)
    }

    #[test]
    fn video_is_sent_in_frames_and_again_when_asked_for() {
        let (ours, theirs) = keys();
        let mut stream = Sending::new(SendSpec {
            kind: Kind::Video { bitrate: 1_000_000 },
            mid: "1",
            ssrc: 10,
        });
        let (mut out, mut transport) = (Vec::new(), 0);
        let mut frames = Vec::new();
        for frame in 0..4 {
            if frame == 2 {
                stream.request_key_frame();
            }
            stream.tick(9, &ours, &mut transport, &mut out);
            frames.push(out.len());
            for mut packet in out.drain(..) {
                assert!(packet.len() < 1_150);
                let header = rtp::read(&packet, Some(ids::TRANSPORT_CC)).unwrap();
                assert!(header.transport_sequence.is_some());
                let index = header.sequence.into();
                let payload = theirs.open_rtp(&mut packet, header.len, 10, index);
                let stamp = Stamp::read(payload.unwrap(), true).unwrap();
                assert_eq!(stamp.sent, 9);
            }
        }
        assert_eq!(frames, [12, 4, 12, 4]);
        assert_eq!(transport, 32);
        let last = low(stream.index - 1);
        assert!(!stream.resend(last.wrapping_add(1), &ours, &mut transport, &mut out));
        assert!(stream.resend(last, &ours, &mut transport, &mut out));
        let packet = &mut out[0];
        let header = rtp::read(packet, None).unwrap();
        assert_eq!((header.ssrc, header.payload_type), (11, ids::RTX));
        let payload = theirs.open_rtp(packet, header.len, 11, header.sequence.into());
        let (original, payload) = payload.unwrap().split_first_chunk::<2>().unwrap();
        assert_eq!(u16::from_be_bytes(*original), last);
        assert_eq!(Stamp::read(payload, true).unwrap().number, 31);
    }

    #[test]
    fn audio_is_a_small_packet_every_20_ms() {
        let (ours, _) = keys();
        let mut stream = Sending::new(SendSpec {
            kind: Kind::Audio,
            mid: "0",
            ssrc: 1,
        });
        assert_eq!(stream.interval(), Duration::from_millis(20));
        let mut out = Vec::new();
        stream.tick(1, &ours, &mut 0, &mut out);
        assert_eq!(out.len(), 1);
        assert!((90..130).contains(&out[0].len()), "{}", out[0].len());
        assert!(stream.kept.is_empty());
    }
}
