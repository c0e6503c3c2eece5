//! RTP header extensions (RFC 8285): which ones the worker knows, and which of
//! them a consumer's packets may carry.

use str0m::rtp::{Extension, ExtensionMap};

use super::dependency_descriptor;

/// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143 §15).
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
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
                dependency_descriptor::URI => &mut ids.dependency_descriptor,
                _ => continue,
            };
            *place = u8::try_from(*id).unwrap_or(0);
        }
        ids
    }

    /// The greatest of them.
    pub fn highest(&self) -> u8 {
        [
            self.mid,
            self.abs_send_time,
            self.transport_cc,
            self.audio_level,
            self.video_orientation,
            self.transmission_offset,
            self.abs_capture_time,
            self.playout_delay,
            self.dependency_descriptor,
        ]
        .into_iter()
        .fold(0, u8::max)
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
                dependency_descriptor::URI => written.dependency_descriptor = true,
                _ => {}
            }
        }
        written
    }
}
