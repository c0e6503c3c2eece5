//! A packet of a producer, whatever kind of transport it came in on.

use std::time::Instant;

use super::extensions::Extension;

/// Fewest octets of a dependency descriptor: the fields that each begins with.
const LEAST_DESCRIPTOR: usize = 3;

/// An RTP packet, decrypted and without padding.
#[derive(Debug)]
pub struct MediaPacket {
    /// SSRC of its stream.
    pub ssrc: u32,
    /// Extended sequence number.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// What its header extensions say.
    pub extensions: Extensions,
    /// Payload.
    pub payload: Box<[u8]>,
    /// When it arrived.
    pub arrived: Instant,
}

/// The octets of a packet's header extensions that are of use to those who get it.
#[derive(Debug, Clone, Default)]
pub struct Extensions {
    /// RFC 6464: a bit for voice, and how far below full scale it is.
    pub audio_level: Option<u8>,
    /// 3GPP TS 26.114 §7.4.5.
    pub video_orientation: Option<u8>,
    /// RFC 5450.
    pub transmission_offset: Option<[u8; 3]>,
    /// When it was captured…
    pub capture_time: Option<[u8; 8]>,
    /// …and how far the clock of that is from its sender's.
    pub clock_offset: Option<[u8; 8]>,
    /// Twelve bits each: least and most, hundredths of a second.
    pub playout_delay: Option<[u8; 3]>,
    /// AV1 RTP payload format 1.0, appendix A. The router reads it.
    pub dependency_descriptor: Option<Box<[u8]>>,
}

impl Extensions {
    /// Takes a value in. What has not the length that it must have is left out.
    pub fn take(&mut self, extension: Extension, value: &[u8]) {
        match extension {
            Extension::AudioLevel => self.audio_level = value.first().copied(),
            Extension::VideoOrientation => self.video_orientation = value.first().copied(),
            Extension::TransmissionOffset => {
                self.transmission_offset = value.first_chunk().copied();
            }
            Extension::AbsCaptureTime => {
                self.capture_time = value.first_chunk().copied();
                self.clock_offset = value.get(8..).and_then(|it| it.first_chunk()).copied();
            }
            Extension::PlayoutDelay => self.playout_delay = value.first_chunk().copied(),
            Extension::DependencyDescriptor if value.len() >= LEAST_DESCRIPTOR => {
                self.dependency_descriptor = Some(value.into());
            }
            Extension::DependencyDescriptor
            | Extension::Mid
            | Extension::RtpStreamId
            | Extension::RepairedRtpStreamId
            | Extension::TransportCc => {}
        }
    }

    /// Level of audio, -127 to 0 dB of full scale.
    pub fn audio_level(&self) -> Option<i8> {
        let level = self.audio_level?;
        i8::try_from(level & 0x7f).ok().map(|level| -level)
    }
}
