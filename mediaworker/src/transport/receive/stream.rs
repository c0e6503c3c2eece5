//! One encoding of a producer as it arrives: which packets are new, which are missing,
//! and what the client is to be asked for.

use std::time::{Duration, Instant};

use str0m::media::MediaKind;

use super::inbound::Inbound;
use super::missing::Missing;
use super::order::{Arrival, Order};
use super::{Encoding, ProducerCodec, ProducerSpec};
use crate::transport::clock::Report;
use crate::transport::rtcp::asking::{Block, Request};
use crate::transport::stats::Feedback;

/// Time between two receiver reports of a stream. The score of a producer, which
/// they end the intervals of, is to follow what is seen.
const VIDEO_REPORTS: Duration = Duration::from_secs(1);
const AUDIO_REPORTS: Duration = Duration::from_secs(5);
/// Time for which a stream that has moved to another SSRC is not moved back by what was
/// under way.
const MOVED_FOR: Duration = Duration::from_secs(1);

/// The last sender report of a stream.
#[derive(Debug, Clone, Copy)]
struct LastReport {
    says: Report,
    /// How our reports name it.
    middle: u32,
    came: Instant,
}

/// Where a packet belongs in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Extended sequence number.
    pub sequence: u64,
    /// It was sent again.
    pub again: bool,
    /// The stream starts anew with it.
    pub new_source: bool,
}

/// An encoding.
#[derive(Debug)]
pub(super) struct Stream {
    /// SSRCs, once they are known.
    pub ssrc: Option<u32>,
    pub rtx_ssrc: Option<u32>,
    /// The SSRC before this one, and when it was left.
    before: Option<(u32, Instant)>,
    /// It has another SSRC than its last packet.
    moved: bool,
    order: Order,
    missing: Missing,
    report: Option<LastReport>,
    /// When the next receiver report is due, once packets have come.
    next_report: Option<Instant>,
    /// A keyframe is to be asked for.
    wants_key_frame: bool,
    /// Full Intra Requests so far; the number of the next one.
    fir_number: u8,
    feedback: Feedback,
    /// What is counted of it, from its first packet on.
    pub inbound: Option<Inbound>,
}

impl Stream {
    /// An encoding of which nothing has come yet.
    pub fn new(encoding: &Encoding) -> Self {
        Self {
            ssrc: encoding.ssrc,
            rtx_ssrc: encoding.rtx_ssrc,
            before: None,
            moved: false,
            order: Order::default(),
            missing: Missing::default(),
            report: None,
            next_report: None,
            wants_key_frame: false,
            fir_number: 0,
            feedback: Feedback::default(),
            inbound: None,
        }
    }

    /// Takes another SSRC for its media. False: it does not, for it has just left that
    /// one.
    pub fn move_to(&mut self, now: Instant, ssrc: u32) -> bool {
        let left_lately = |(before, left): (u32, Instant)| {
            before == ssrc && now.saturating_duration_since(left) < MOVED_FOR
        };
        if self.before.is_some_and(left_lately) {
            return false;
        }
        if let Some(old) = self.ssrc.replace(ssrc) {
            self.before = Some((old, now));
            self.moved = self.inbound.is_some();
            self.order = Order::default();
            self.missing.clear();
            self.report = None;
        }
        true
    }

    /// Finds a packet's place. `None`: there is none for it.
    pub fn place(
        &mut self,
        now: Instant,
        codec: &ProducerCodec,
        number: u16,
        by_rtx: bool,
    ) -> Option<Place> {
        if by_rtx && !self.order.lacks(self.order.extend(number)?) {
            return None;
        }
        let place = |sequence, again, new_source| Place {
            sequence,
            again,
            new_source,
        };
        Some(match self.order.receive(number) {
            Arrival::New { sequence, missing } => {
                if codec.nack && !self.missing.note(now, sequence, missing) {
                    self.wants_key_frame = codec.pli || codec.fir;
                }
                place(sequence, false, std::mem::take(&mut self.moved))
            }
            Arrival::Late { sequence } => {
                // Where retransmissions have a stream of their own, this was overtaken.
                let asked = self.missing.came(sequence) && codec.payload_type.rtx.is_none();
                place(sequence, asked || by_rtx, false)
            }
            Arrival::Restarted { sequence } => {
                self.missing.clear();
                self.report = None;
                place(sequence, false, true)
            }
            Arrival::Unusable => return None,
        })
    }

    /// What is counted of it. `spec`, `paused`: those of its producer.
    pub fn inbound(
        &mut self,
        now: Instant,
        spec: &ProducerSpec,
        clock_rate: u32,
        paused: bool,
    ) -> &mut Inbound {
        if self.next_report.is_none() {
            self.next_report = Some(now + interval(spec.kind));
        }
        self.inbound.get_or_insert_with(|| {
            let mut inbound = Inbound::new(now, spec.kind, clock_rate, spec.silence);
            if paused {
                inbound.set_paused(now, true);
            }
            inbound
        })
    }

    /// What its last sender report says.
    pub fn last_report(&self) -> Option<Report> {
        Some(self.report?.says)
    }

    /// Takes in a sender report.
    pub fn handle_report(&mut self, now: Instant, says: Report, middle: u32) {
        let came = now;
        self.report = Some(LastReport { says, middle, came });
    }

    /// A keyframe is needed. True when it will be asked for.
    pub fn request_key_frame(&mut self, codec: &ProducerCodec) -> bool {
        self.wants_key_frame = self.ssrc.is_some() && (codec.pli || codec.fir);
        self.wants_key_frame
    }

    /// When something is to be sent because of it.
    pub fn next_timeout(&self) -> Option<Instant> {
        match (self.next_report, self.missing.next()) {
            (Some(report), Some(missing)) => Some(report.min(missing)),
            (report, missing) => report.or(missing),
        }
    }

    /// A keyframe waits to be asked for.
    pub fn wants_key_frame(&self) -> bool {
        self.wants_key_frame
    }

    /// What a receiver report says of it, if one is due.
    pub fn block(&mut self, now: Instant, kind: MediaKind) -> Option<Block> {
        if self.next_report.is_none_or(|at| at > now) {
            return None;
        }
        self.next_report = Some(now + interval(kind));
        let inbound = self.inbound.as_mut()?;
        inbound.end_interval(now);
        let stats = inbound.stats(now);
        let (last_report, delay) = match self.report {
            Some(last) => (last.middle, now.saturating_duration_since(last.came)),
            None => (0, Duration::ZERO),
        };
        Some(Block {
            ssrc: self.ssrc?,
            fraction_lost: stats.fraction_lost,
            lost: stats.packets_lost,
            highest: self.order.highest(),
            jitter: stats.jitter,
            last_report,
            delay,
        })
    }

    /// Adds what is to be asked for now. `round_trip`: how long an answer takes, if that
    /// is known.
    pub fn ask(
        &mut self,
        now: Instant,
        codec: &ProducerCodec,
        round_trip: Option<Duration>,
        ask: &mut Vec<Request>,
    ) {
        let Some(ssrc) = self.ssrc else { return };
        let before = ask.len();
        let sequences = self.missing.due(now, round_trip);
        if !sequences.is_empty() {
            self.feedback.nacks += 1;
            self.feedback.nack_packets += sequences.len() as u64;
            ask.push(Request::Nack { ssrc, sequences });
        }
        if std::mem::take(&mut self.wants_key_frame) {
            if codec.pli {
                self.feedback.plis += 1;
                ask.push(Request::Pli { ssrc });
            } else {
                self.feedback.firs += 1;
                self.fir_number = self.fir_number.wrapping_add(1);
                let number = self.fir_number;
                ask.push(Request::Fir { ssrc, number });
            }
        }
        if ask.len() > before
            && let Some(inbound) = self.inbound.as_mut()
        {
            inbound.set_feedback(self.feedback);
        }
    }

    /// Nothing can be asked for now; packets are not asked for later either.
    pub fn cannot_ask(&mut self) {
        self.missing.clear();
    }

    /// The round trip to the client has been measured.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.feedback.round_trip_time = Some(round_trip);
        if let Some(inbound) = self.inbound.as_mut() {
            inbound.set_feedback(self.feedback);
        }
    }
}

fn interval(kind: MediaKind) -> Duration {
    match kind {
        MediaKind::Video => VIDEO_REPORTS,
        MediaKind::Audio => AUDIO_REPORTS,
    }
}
