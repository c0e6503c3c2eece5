//! What a client is told of the packets that it sends, and asked for because of them.

use std::time::Instant;

use router::ProducerKey;

use super::Receiving;
use crate::transport::clock::Report;
use crate::transport::rtcp::asking::{Block, MAX_BLOCKS, Request};
use crate::transport::rtcp::{self, Heard, SenderInfo};

impl Receiving {
    /// Takes in what the client reports of what it sends. `from`: who tells it the time.
    /// False: a sender report is of no stream that is known.
    pub fn handle(&mut self, now: Instant, from: u32, heard: &Heard) -> bool {
        let mut known = true;
        for sender in &heard.senders {
            known &= self.handle_sender(now, sender);
        }
        let answers = heard.answers.iter().filter(|answer| answer.ssrc == from);
        if let Some(trip) = answers.filter_map(|answer| answer.round_trip(now)).min() {
            self.round_trip = Some(trip);
            for stream in self.entries.iter_mut().flat_map(|entry| &mut entry.streams) {
                stream.set_round_trip(trip);
            }
        }
        known
    }

    /// Takes in a sender report. False: of no stream that is known.
    pub fn handle_sender(&mut self, now: Instant, sender: &SenderInfo) -> bool {
        let Some(bound) = self.by_ssrc.get(&sender.ssrc) else {
            return false;
        };
        // That of retransmissions has nothing in it that is needed.
        let entry = self.entries.get_mut(bound.entry).filter(|_| !bound.rtx);
        let stream = entry.and_then(|entry| entry.streams.get_mut(bound.stream));
        if let Some(stream) = stream
            && let Some(ntp) = rtcp::wall(sender.ntp)
        {
            let rtp = sender.timestamp;
            stream.handle_report(now, Report { ntp, rtp }, rtcp::middle(sender.ntp));
            self.clock.handle_report(now, ntp);
        }
        true
    }

    /// A keyframe of an encoding is needed. True when it will be asked for, by
    /// [`Receiving::due`].
    pub fn request_key_frame(&mut self, producer: ProducerKey, stream: usize) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|e| e.key == producer) else {
            return false;
        };
        let codec = &entry.codec;
        let stream = entry.streams.get_mut(stream);
        let asks = stream.is_some_and(|stream| stream.request_key_frame(codec));
        self.asks |= asks;
        asks
    }

    /// A packet of video came: reminds the client of its limit if it is time.
    pub(super) fn remind(&mut self, now: Instant, ssrc: u32) {
        if let Some(bitrate) = self.limit.remind(now) {
            self.reminder = Some(Request::Remb { ssrc, bitrate });
            self.wake_at(Some(now));
        }
    }

    /// Has [`Receiving::due`] look again, at the latest then.
    pub fn wake_at(&mut self, at: Option<Instant>) {
        self.timeout = [self.timeout, at].into_iter().flatten().min();
    }

    /// When something is to be told or asked for.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Whether [`Receiving::due`] has something to say.
    pub fn is_due(&self, now: Instant) -> bool {
        self.asks || self.timeout.is_some_and(|at| at <= now)
    }

    /// What is due: report blocks, and what is to be asked for. `can_ask`: it is known
    /// where the client wants RTCP; until then, packets are not asked for, and keyframes
    /// have to wait.
    pub fn due(&mut self, now: Instant, can_ask: bool) -> (Vec<Block>, Vec<Request>) {
        let (mut blocks, mut ask) = (Vec::new(), Vec::new());
        if !self.is_due(now) {
            return (blocks, ask);
        }
        self.timeout = None;
        self.asks = false;
        for entry in &mut self.entries {
            for stream in &mut entry.streams {
                if blocks.len() < MAX_BLOCKS {
                    blocks.extend(stream.block(now, entry.spec.kind));
                }
                if can_ask {
                    stream.ask(now, &entry.codec, self.round_trip, &mut ask);
                } else {
                    stream.cannot_ask();
                }
                let next = stream.next_timeout();
                self.timeout = [self.timeout, next].into_iter().flatten().min();
            }
        }
        ask.extend(self.reminder.take());
        if let Some(message) = self.recorder.message(now) {
            let ssrc = self.some_ssrc;
            ask.push(Request::TransportCc { ssrc, message });
        }
        self.wake_at(self.recorder.due());
        (blocks, ask)
    }
}
