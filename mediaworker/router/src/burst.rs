//! Late joiners: what has arrived since a keyframe, replayed to one consumer.
//!
//! Keyframes are asked for once a second, so who comes just after one would wait for the next. The
//! caller keeps the packets since the last keyframe of a stream, each with what
//! [`Router::handle_rtp`] answered for it ([`Kept`]), for as long as that seems worth it.

use std::time::Instant;

use crate::consumer::Verdict;
use crate::error::Error;
use crate::producer::Arrived;
use crate::timestamp::Edge;
use crate::types::{ConsumerKey, Forward, RtpIn};
use crate::{Router, forward, tell_layer};

/// What a packet was to the router when it arrived, to be able to replay it.
#[derive(Clone, Copy, Debug)]
pub struct Kept(Arrived);

impl Kept {
    pub(crate) fn new(arrived: Arrived) -> Self {
        Self(arrived)
    }

    /// It is the first packet of a keyframe, with which a replay can begin.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.0.can_start
    }

    /// It is of the same source, so that one can be replayed after the other.
    #[must_use]
    pub fn is_of_source_of(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

/// A packet to be replayed.
#[derive(Clone, Copy, Debug)]
pub struct Replayed<'a> {
    /// What it was when it arrived.
    pub kept: &'a Kept,
    /// The packet, as it was then.
    pub rtp: RtpIn<'a>,
}

impl Router {
    /// Resumes a consumer as [`Router::resume_consumer`] does, but asks for no keyframe. Have
    /// packets replayed to it then, or call [`Router::request_key_frame`].
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`].
    pub fn resume_consumer_quietly(&mut self, consumer: ConsumerKey) -> Result<(), Error> {
        self.consumers
            .get_mut(consumer)
            .ok_or(Error::UnknownConsumer)?
            .set_paused(false);
        Ok(())
    }

    /// Replays the packets of one stream since a keyframe to a consumer that waits to start, as if
    /// they arrived in a row now; what arrives next goes on from there. `packets` are in the order
    /// of their sequence numbers, padding among them. Appends to `out` what is to be sent, each
    /// with the index of its packet.
    ///
    /// True: the consumer has begun. False: nothing happened, because it is unknown, paused, has
    /// begun already, is not to begin with this stream, or the first packet begins no keyframe of
    /// the stream's present source.
    pub fn replay(
        &mut self,
        now: Instant,
        consumer: ConsumerKey,
        packets: &[Replayed<'_>],
        out: &mut Vec<(usize, Forward)>,
    ) -> bool {
        let Some(late) = self.consumers.get_mut(consumer) else {
            return false;
        };
        let Some(producer) = self.producers.get(late.producer()) else {
            return false;
        };
        let (Some(cap), Some(first)) = (late.stream_cap(), packets.first()) else {
            return false;
        };
        let selection = producer.selection(now);
        let is_wanted = selection.may_begin(first.rtp.stream, cap);
        let waits = !late.paused() && !producer.is_paused() && late.current_stream().is_none();
        if !(waits && is_wanted && first.kept.begins()) {
            return false;
        }
        let edge = edge(first, packets);
        for (index, Replayed { kept, rtp }) in packets.iter().enumerate() {
            let Some(arrived) = producer.again(&kept.0, selection) else {
                if index == 0 {
                    return false;
                }
                continue;
            };
            let verdict = if index == 0 {
                late.start(now, rtp, &arrived, Some(edge))
            } else {
                late.handle(now, rtp, &arrived)
            };
            // A layer that needs a keyframe is asked for with the next packet that arrives.
            if let Verdict::Forward(place) = verdict {
                out.push((index, forward(consumer, late.sink(), place)));
            }
        }
        tell_layer(&mut self.actions, consumer, late);
        true
    }
}

/// The newest frame: what arrives next follows it.
fn edge(first: &Replayed<'_>, packets: &[Replayed<'_>]) -> Edge {
    let counts =
        |one: &&Replayed<'_>| !one.rtp.payload.is_empty() && one.kept.is_of_source_of(first.kept);
    let newest = packets.iter().rfind(counts).unwrap_or(first);
    Edge {
        timestamp: newest.rtp.timestamp,
        captured: newest.rtp.captured,
    }
}
