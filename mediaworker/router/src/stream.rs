//! One encoding of a producer: what arrived, since when, and whether a keyframe is wanted.

use std::time::Instant;

use crate::key_frame_request::KeyFrameRequest;
use crate::payload::{Descriptor, describe};
use crate::picture::{Picture, Pictures};
use crate::rates::Rates;
use crate::replay::{Arrival, ReplayWindow};
use crate::selection::Activity;
use crate::types::{Codec, MediaKind, RtpIn};

#[derive(Debug, Default)]
pub(crate) struct Stream {
    window: ReplayWindow,
    /// Counts the sources that this stream has had; sequence numbers and timestamps of different
    /// sources have nothing to do with each other.
    pub(crate) epoch: u32,
    /// Packets with payload.
    pub(crate) activity: Option<Activity>,
    /// Timestamp of the keyframe that started last.
    key_frame: Option<u32>,
    pictures: Pictures,
    pub(crate) request: KeyFrameRequest,
    /// It arrives too badly to be of use.
    pub(crate) failing: bool,
    /// How much each of its layers brings.
    pub(crate) rates: Rates,
}

/// A packet that is new to its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    /// No newer one was there before.
    pub(crate) newest: bool,
    /// A consumer can begin with it.
    pub(crate) can_start: bool,
    pub(crate) descriptor: Descriptor,
    /// `None` where pictures are not numbered.
    pub(crate) picture: Option<Picture>,
}

impl Stream {
    /// Whether anything ever arrived.
    pub(crate) fn was_seen(&self) -> bool {
        !self.window.is_empty()
    }

    /// Forgets everything that belongs to the source. The keyframe request stays: the one second
    /// is the client's, and a wish is still a wish.
    pub(crate) fn restart(&mut self) {
        self.window = ReplayWindow::default();
        self.begin_epoch();
        self.activity = None;
        self.rates = Rates::default();
        self.failing = false;
    }

    /// Takes note of a packet; `None` when it is to be ignored.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        kind: MediaKind,
        rtp: &RtpIn<'_>,
    ) -> Option<Accepted> {
        let newest = match self.window.accept(rtp.sequence) {
            Arrival::Rejected => return None,
            Arrival::Late => false,
            Arrival::Newest => true,
            Arrival::Restart => {
                self.begin_epoch();
                true
            }
        };
        let mut accepted = Accepted {
            newest,
            can_start: false,
            descriptor: Descriptor::default(),
            picture: None,
        };
        if rtp.payload.is_empty() {
            return Some(accepted);
        }
        self.activity.get_or_insert(Activity::new(now)).touch(now);
        let mut descriptor = describe(rtp.codec, rtp.payload);
        let extension = rtp.dependency_descriptor;
        accepted.picture = self.pictures.read(rtp.sequence, &mut descriptor, extension);
        accepted.descriptor = descriptor;
        self.rates.add(now, descriptor.layers, rtp.payload.len());
        if kind == MediaKind::Audio || rtp.codec == Codec::Other {
            accepted.can_start = newest;
        } else if descriptor.key_frame_start {
            // A late one is a keyframe too for those who get this stream already. Whoever still
            // waits will ask again with the next packet.
            self.request.clear();
            // More than one packet of a frame can look like its start (H264: parameter sets, then
            // the picture); only the first one is.
            let is_first = self.key_frame.replace(rtp.timestamp) != Some(rtp.timestamp);
            accepted.can_start = newest && is_first;
        }
        Some(accepted)
    }

    fn begin_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.key_frame = None;
        self.pictures = Pictures::default();
    }
}
