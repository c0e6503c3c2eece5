//! The receiving side of a plain transport: from datagrams to packets of producers,
//! and what is asked of the remote because of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use router::ProducerKey;
use rtp_types::RtpPacket;
use str0m::rtp::{ExtensionValues, VideoOrientation};

use super::missing::Missing;
use super::order::{Arrival, Order};
use super::rtcp::{self, Block, Request};
use crate::transport::clock::Report;
use crate::transport::dependency_descriptor::{self, DependencyDescriptor};
use crate::transport::extensions::{AUDIO_LEVEL, VIDEO_ORIENTATION};
use crate::transport::guard;
use crate::transport::packet::MediaPacket;
use crate::transport::receive::{
    Encoding, PlainArrival, ProducerCodec, ProducerSpec, Received, Receiving,
};
use crate::transport::stats::Feedback;

/// Time between two receiver reports of a stream. The score of a producer, which
/// they end the intervals of, is to follow what is seen.
const VIDEO_REPORTS: Duration = Duration::from_secs(1);
const AUDIO_REPORTS: Duration = Duration::from_secs(5);

/// A stream of the remote.
#[derive(Debug)]
struct Source {
    producer: ProducerKey,
    encoding: usize,
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    codec: ProducerCodec,
    video: bool,
    order: Order,
    missing: Missing,
    /// The last sender report: what it says, its name in our reports, and when it
    /// came.
    report: Option<(Report, u32, Instant)>,
    /// When the next receiver report is due, once packets have come.
    next_report: Option<Instant>,
    /// A keyframe is to be asked for.
    wants_key_frame: bool,
    /// Full Intra Requests so far; the number of the next one.
    fir_number: u8,
    feedback: Feedback,
}

/// What a datagram turns out to be.
enum Found {
    /// A packet of a stream.
    Media {
        /// Which.
        at: usize,
        /// Its sequence number.
        number: u16,
    },
    /// One that is sent again (RFC 4588).
    Repair {
        /// Of which stream.
        at: usize,
        /// Its original sequence number.
        number: u16,
    },
}

/// The streams of the remote.
#[derive(Debug, Default)]
pub struct Sources {
    sources: Vec<Source>,
    /// Media and RTX SSRCs.
    by_ssrc: HashMap<u32, usize>,
}

impl Sources {
    /// Adds the streams of a producer.
    pub fn add(&mut self, producer: ProducerKey, spec: &ProducerSpec) {
        let Some(codec) = spec.codecs.first() else {
            return;
        };
        for (encoding, Encoding { ssrc, rtx_ssrc, .. }) in spec.encodings.iter().enumerate() {
            let Some(ssrc) = *ssrc else { continue };
            self.sources.push(Source {
                producer,
                encoding,
                ssrc,
                rtx_ssrc: *rtx_ssrc,
                codec: codec.clone(),
                video: spec.kind.is_video(),
                order: Order::default(),
                missing: Missing::default(),
                report: None,
                next_report: None,
                wants_key_frame: false,
                fir_number: 0,
                feedback: Feedback::default(),
            });
        }
        self.index();
    }

    /// Removes those of a producer.
    pub fn remove(&mut self, producer: ProducerKey) {
        self.sources.retain(|source| source.producer != producer);
        self.index();
    }

    fn index(&mut self) {
        self.by_ssrc.clear();
        for (at, source) in self.sources.iter().enumerate() {
            for ssrc in std::iter::once(source.ssrc).chain(source.rtx_ssrc) {
                self.by_ssrc.insert(ssrc, at);
            }
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Takes in an RTP packet in clear; `datagram` is what arrived. `None`: it is of
    /// no use, because it belongs to no stream, is not of its codec, or came before.
    pub fn receive(
        &mut self,
        now: Instant,
        datagram: &[u8],
        packet: &RtpPacket<'_>,
        books: &mut Receiving,
    ) -> Option<Received> {
        let found = self.find(packet)?;
        let (Found::Media { at, number } | Found::Repair { at, number }) = found;
        let source = self.sources.get_mut(at)?;
        let by_rtx = matches!(found, Found::Repair { .. });
        let Some((sequence, repair, new_source)) = source.place(now, number, by_rtx) else {
            books.discard_plain(source.ssrc);
            return None;
        };
        let payload = packet.payload();
        let payload = if by_rtx { payload.get(2..)? } else { payload };
        let arrival = PlainArrival {
            pt: packet.payload_type(),
            repair,
            new_source,
            report: source.report.map(|(report, ..)| report),
        };
        let packet = MediaPacket {
            ssrc: source.ssrc,
            sequence,
            timestamp: packet.timestamp(),
            marker: packet.marker_bit(),
            extensions: extension_values(datagram, books),
            payload: Arc::from(payload),
            arrived: now,
        };
        let first = source.next_report.is_none();
        let received = books.accept_plain(datagram, arrival, packet)?;
        if first {
            source.next_report = Some(now + source.interval());
        }
        Some(received)
    }

    fn find(&self, packet: &RtpPacket<'_>) -> Option<Found> {
        let ssrc = packet.ssrc();
        let at = *self.by_ssrc.get(&ssrc)?;
        let source = self.sources.get(at)?;
        let types = source.codec.payload_type;
        let pt = packet.payload_type();
        if source.ssrc == ssrc && pt == types.pt {
            let number = packet.sequence_number();
            return Some(Found::Media { at, number });
        }
        if source.rtx_ssrc == Some(ssrc) && Some(pt) == types.rtx {
            // RFC 4588 §4: the original number comes first.
            let number = *packet.payload().first_chunk()?;
            let number = u16::from_be_bytes(number);
            return Some(Found::Repair { at, number });
        }
        None
    }

    /// Takes in a sender report. False: of no stream that is known.
    pub fn handle_report(
        &mut self,
        now: Instant,
        ssrc: u32,
        ntp: u64,
        timestamp: u32,
        books: &mut Receiving,
    ) -> bool {
        let Some(source) = self
            .by_ssrc
            .get(&ssrc)
            .and_then(|at| self.sources.get_mut(*at))
        else {
            return false;
        };
        if source.ssrc != ssrc {
            // Of the retransmissions: nothing is in there that is needed.
            return true;
        }
        if let Some(wall) = rtcp::wall(ntp) {
            let report = Report {
                ntp: wall,
                rtp: timestamp,
            };
            source.report = Some((report, rtcp::middle(ntp), now));
            books.handle_plain_report(now, wall);
        }
        true
    }

    /// A keyframe of a stream is needed. True when it will be asked for.
    pub fn request_key_frame(&mut self, producer: ProducerKey, encoding: usize) -> bool {
        let is_it = |s: &&mut Source| s.producer == producer && s.encoding == encoding;
        let Some(source) = self.sources.iter_mut().find(is_it) else {
            return false;
        };
        if !source.codec.pli && !source.codec.fir {
            return false;
        }
        source.wants_key_frame = true;
        true
    }

    /// When something is to be sent.
    pub fn next_timeout(&self) -> Option<Instant> {
        let times = self.sources.iter();
        let times = times.flat_map(|s| [s.next_report, s.missing.next()]);
        times.flatten().min()
    }

    /// The same, as far as one packet may have changed it.
    pub fn timeout_of(&self, ssrc: u32) -> Option<Instant> {
        let source = self.sources.get(*self.by_ssrc.get(&ssrc)?)?;
        [source.next_report, source.missing.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is due: report blocks, and what is to be asked for. `can_ask`: it is known
    /// where the remote wants RTCP; until then, packets are not asked for, and
    /// keyframes have to wait.
    pub fn due(
        &mut self,
        now: Instant,
        can_ask: bool,
        books: &mut Receiving,
    ) -> (Vec<Block>, Vec<Request>) {
        let (mut blocks, mut ask) = (Vec::new(), Vec::new());
        for source in &mut self.sources {
            if source.next_report.is_some_and(|at| at <= now) && blocks.len() < rtcp::MAX_BLOCKS {
                source.next_report = Some(now + source.interval());
                blocks.extend(source.block(now, books));
            }
            if can_ask {
                source.ask(now, &mut ask, books);
            } else {
                source.missing.clear();
            }
        }
        (blocks, ask)
    }
}

impl Source {
    fn interval(&self) -> Duration {
        if self.video {
            VIDEO_REPORTS
        } else {
            AUDIO_REPORTS
        }
    }

    /// Finds a packet's place: its extended number, whether it was sent again, and
    /// whether the stream starts anew with it. `None`: there is no place for it.
    fn place(&mut self, now: Instant, number: u16, by_rtx: bool) -> Option<(u64, bool, bool)> {
        if by_rtx && !self.order.lacks(self.order.extend(number)?) {
            return None;
        }
        match self.order.receive(number) {
            Arrival::New { sequence, missing } => {
                if self.codec.nack && !self.missing.note(now, sequence, missing) {
                    self.wants_key_frame = self.codec.pli || self.codec.fir;
                }
                Some((sequence, false, false))
            }
            Arrival::Late { sequence } => {
                let asked = self.missing.came(sequence);
                Some((sequence, asked || by_rtx, false))
            }
            Arrival::Restarted { sequence } => {
                self.missing.clear();
                self.report = None;
                Some((sequence, false, true))
            }
            Arrival::Unusable => None,
        }
    }

    fn block(&self, now: Instant, books: &mut Receiving) -> Option<Block> {
        let stats = books.end_plain_interval(now, self.ssrc)?;
        let (last_report, delay) = match self.report {
            Some((_, middle, came)) => (middle, now.saturating_duration_since(came)),
            None => (0, Duration::ZERO),
        };
        Some(Block {
            ssrc: self.ssrc,
            fraction_lost: stats.fraction_lost,
            lost: stats.packets_lost,
            highest: self.order.highest(),
            jitter: stats.jitter,
            last_report,
            delay,
        })
    }

    /// Adds what is to be asked for now.
    fn ask(&mut self, now: Instant, ask: &mut Vec<Request>, books: &mut Receiving) {
        let ssrc = self.ssrc;
        let before = ask.len();
        let sequences = self.missing.due(now);
        if !sequences.is_empty() {
            self.feedback.nacks += 1;
            for _ in &sequences {
                books.nacked(ssrc);
            }
            ask.push(Request::Nack { ssrc, sequences });
        }
        if std::mem::take(&mut self.wants_key_frame) {
            if self.codec.pli {
                self.feedback.plis += 1;
                ask.push(Request::Pli { ssrc });
            } else {
                self.feedback.firs += 1;
                self.fir_number = self.fir_number.wrapping_add(1);
                let number = self.fir_number;
                ask.push(Request::Fir { ssrc, number });
            }
        }
        if ask.len() > before {
            books.set_plain_feedback(ssrc, self.feedback);
        }
    }
}

/// What the header extensions of a packet say that is of use to others.
fn extension_values(rtp: &[u8], books: &Receiving) -> ExtensionValues {
    let mut values = ExtensionValues::default();
    // Most plain senders write none.
    if rtp.first().is_none_or(|first| first & 0x10 == 0) {
        return values;
    }
    let value = |uri| guard::extension(rtp, books.extension_id(uri)?);
    // RFC 6464: a bit for voice, and how far below full scale it is.
    if let Some(&[level, ..]) = value(AUDIO_LEVEL) {
        values.voice_activity = Some(level & 0x80 != 0);
        values.audio_level = i8::try_from(level & 0x7f).ok().map(|level| -level);
    }
    if let Some(&[orientation, ..]) = value(VIDEO_ORIENTATION) {
        values.video_orientation = Some(match orientation & 3 {
            0 => VideoOrientation::Deg0,
            1 => VideoOrientation::Deg270,
            2 => VideoOrientation::Deg180,
            _ => VideoOrientation::Deg90,
        });
    }
    if let Some(descriptor) = value(dependency_descriptor::URI).and_then(DependencyDescriptor::new)
    {
        values.user_values.set(descriptor);
    }
    values
}
