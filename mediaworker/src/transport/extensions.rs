//! RTP header extensions (RFC 8285): which ones the worker knows, and which of
//! them a consumer's packets may carry.

use str0m::rtp::{Extension, ExtensionMap, ExtensionValues};

use super::dependency_descriptor::{self, DependencyDescriptor};

/// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143 §15).
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// `abs-capture-time`, which old mediasoup clients list with ids that belong to
/// others.
pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
const RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// Transport-wide congestion control sequence number.
pub const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// RFC 6464.
pub const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
/// Coordination of video orientation (3GPP TS 26.114 §7.4.5).
pub const VIDEO_ORIENTATION: &str = "urn:3gpp:video-orientation";
const TRANSMISSION_OFFSET: &str = "urn:ietf:params:rtp-hdrext:toffset";
const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";

/// Every URI that [`known`] knows.
const URIS: [&str; 11] = [
    MID,
    RTP_STREAM_ID,
    REPAIRED_RTP_STREAM_ID,
    ABS_SEND_TIME,
    TRANSPORT_CC,
    AUDIO_LEVEL,
    VIDEO_ORIENTATION,
    TRANSMISSION_OFFSET,
    ABS_CAPTURE_TIME,
    PLAYOUT_DELAY,
    dependency_descriptor::URI,
];

/// Largest id (RFC 8285 §4.3). Browsers go beyond the 14 of the one-byte form
/// when they have many extensions to offer.
pub const MAX_ID: u32 = 255;

/// Ids that str0m can read: 1 to this one. What a client sends with greater ones
/// is not read.
pub const READABLE_IDS: usize = 16;

/// The extension of a registered URI; `None` for one that the worker neither
/// reads nor writes.
pub fn known(uri: &str) -> Option<Extension> {
    Some(match uri {
        MID => Extension::RtpMid,
        RTP_STREAM_ID => Extension::RtpStreamId,
        REPAIRED_RTP_STREAM_ID => Extension::RepairedRtpStreamId,
        ABS_SEND_TIME => Extension::AbsoluteSendTime,
        TRANSPORT_CC => Extension::TransportSequenceNumber,
        AUDIO_LEVEL => Extension::AudioLevel,
        VIDEO_ORIENTATION => Extension::VideoOrientation,
        TRANSMISSION_OFFSET => Extension::TransmissionTimeOffset,
        ABS_CAPTURE_TIME => Extension::AbsoluteCaptureTime,
        PLAYOUT_DELAY => Extension::PlayoutDelay,
        dependency_descriptor::URI => dependency_descriptor::extension(),
        _ => return None,
    })
}

/// The same URI from our own table, so that nothing a client wrote is kept or
/// copied; `None` for an unknown one.
pub fn registered(uri: &str) -> Option<&'static str> {
    URIS.into_iter().find(|known| *known == uri)
}

/// Id of transport-cc in a transport that has not learnt the client's. No other
/// extension is taught at this id before transport-cc has another, so that it is
/// always known which packets carry it.
pub const UNTAUGHT_TRANSPORT_CC: u8 = 16;

/// Every extension that a producer may use, at ids that its first offer moves
/// to the client's own.
pub fn receiving_map() -> ExtensionMap {
    let mut map = ExtensionMap::empty();
    let others = URIS.into_iter().filter(|uri| *uri != TRANSPORT_CC);
    for (id, ext) in (1..).zip(others.filter_map(known)) {
        map.set(id, ext);
    }
    map.set(UNTAUGHT_TRANSPORT_CC, Extension::TransportSequenceNumber);
    map
}

/// The router's extensions in the packets of one consumer.
///
/// str0m writes MID, abs-send-time and transport-cc wherever the map of a media
/// has them, so they are in there only when they were negotiated: an estimator
/// takes what it cannot see for loss. The rest is written only where a value is
/// given, see [`Written::values`].
pub fn sending_map<'a>(
    router: impl Iterator<Item = (u32, &'a str)>,
    automatic: Automatic,
) -> ExtensionMap {
    let mut map = ExtensionMap::empty();
    for (id, uri) in router {
        let (Ok(id), Some(ext)) = (u8::try_from(id), known(uri)) else {
            continue;
        };
        let wanted = match uri {
            TRANSPORT_CC => automatic.transport_cc,
            ABS_SEND_TIME => automatic.abs_send_time,
            RTP_STREAM_ID | REPAIRED_RTP_STREAM_ID => false,
            MID => automatic.mid,
            _ => true,
        };
        if wanted {
            map.set(id, ext);
        }
    }
    map
}

/// The extensions that str0m writes by itself into the packets of one consumer.
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
/// producer's, and those that str0m adds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// What str0m adds to them.
    pub automatic: Automatic,
    audio_level: bool,
    video_orientation: bool,
    transmission_offset: bool,
    abs_capture_time: bool,
    playout_delay: bool,
    dependency_descriptor: bool,
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
                dependency_descriptor::URI => written.dependency_descriptor = true,
                _ => {}
            }
        }
        written
    }

    /// The values of a producer's packet that this consumer's packet carries, with
    /// another frame number in the dependency descriptor if there is one.
    pub fn values(self, from: &ExtensionValues, frame_number: Option<u16>) -> ExtensionValues {
        let mut to = ExtensionValues::default();
        if self.audio_level {
            to.audio_level = from.audio_level;
            to.voice_activity = from.voice_activity;
        }
        if self.video_orientation {
            to.video_orientation = from.video_orientation;
        }
        if self.transmission_offset {
            to.tx_time_offs = from.tx_time_offs;
        }
        if self.abs_capture_time {
            to.abs_capture_time = from.abs_capture_time;
        }
        if self.playout_delay {
            to.play_delay_min = from.play_delay_min;
            to.play_delay_max = from.play_delay_max;
        }
        if self.dependency_descriptor {
            DependencyDescriptor::copy(from, &mut to, frame_number);
        }
        to
    }
}
