//! The sending side of a plain transport: RTP written for its consumers, reports
//! about it, and what the remote wants again.

use std::time::{Duration, Instant, SystemTime};

use router::{ConsumerKey, Forward, Payload};
use rtp_types::RtpPacketBuilder;

use super::rtcp::{self, SenderInfo};
use crate::transport::media::PayloadType;
use crate::transport::packet::MediaPacket;
use crate::transport::rtcp::middle;
use crate::transport::send::history::History;
use crate::transport::send::{ConsumerSpec, PlainReport, Sending};
use crate::transport::stats::Feedback;

/// Time between two sender reports of a stream. The first leaves before the first
/// packet, so that a recorder knows from the start how its streams belong together.
const VIDEO_REPORTS: Duration = Duration::from_secs(1);
const AUDIO_REPORTS: Duration = Duration::from_secs(5);
/// Packets of a stream that can be asked for again: 2 s of video at 2 Mbit/s. What is
/// older is not sent again.
const VIDEO_KEPT: usize = 512;
const AUDIO_KEPT: usize = 64;
/// Octets of an RTP header as it is written here.
const HEADER: usize = 12;
/// Longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
/// By how much more than has passed the remote may say that it waited, units of 1/65,536 s: 50 ms.
const CLOCKS_APART: i32 = 3_277;

/// A stream of ours.
#[derive(Debug)]
struct Sink {
    slot: u32,
    consumer: ConsumerKey,
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    types: PayloadType,
    video: bool,
    /// Highest extended sequence number, once a packet has left.
    highest: Option<u64>,
    /// Timestamp of the newest packet, and when it was captured.
    newest: Option<(u32, Instant)>,
    packets: u32,
    octets: u32,
    /// Number of the next retransmission.
    rtx_sequence: u64,
    history: History,
    /// When the next sender report is due, once packets have left.
    next_report: Option<Instant>,
    feedback: Feedback,
}

/// An RTP packet that is ready to be encrypted, if it is, and sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Its sequence number, extended: the index that it is encrypted under.
    pub index: u64,
    /// The packet.
    pub rtp: Vec<u8>,
    /// It is sent again.
    pub again: bool,
    /// The slot of its consumer.
    slot: u32,
}

/// The streams of the consumers.
#[derive(Debug, Default)]
pub struct Sinks {
    /// By slot.
    sinks: Vec<Option<Sink>>,
    queue: Vec<Outgoing>,
    /// SSRCs of streams that have sent, and are gone since the last flush.
    ended: Vec<u32>,
}

impl Sinks {
    /// Adds the stream of a consumer. `types`: payload types of its codec.
    pub fn add(
        &mut self,
        slot: u32,
        consumer: ConsumerKey,
        spec: &ConsumerSpec,
        types: PayloadType,
    ) {
        let video = spec.kind.is_video();
        let sink = Sink {
            slot,
            consumer,
            ssrc: spec.ssrc,
            // Without a payload type there is no retransmission stream.
            rtx_ssrc: spec.rtx_ssrc.filter(|_| types.rtx.is_some()),
            types,
            video,
            highest: None,
            newest: None,
            packets: 0,
            octets: 0,
            rtx_sequence: u64::from(rand::random::<u16>() >> 1),
            history: History::of(if video { VIDEO_KEPT } else { AUDIO_KEPT }),
            next_report: None,
            feedback: Feedback::default(),
        };
        let at = index(slot);
        if self.sinks.len() <= at {
            // Slots are given out from below.
            self.sinks.resize_with(at + 1, || None);
        }
        if let Some(place) = self.sinks.get_mut(at) {
            *place = Some(sink);
        }
    }

    /// Removes the stream of a slot.
    pub fn remove(&mut self, slot: u32) {
        let sink = self.sinks.get_mut(index(slot)).and_then(Option::take);
        self.queue.retain(|outgoing| outgoing.slot != slot);
        if let Some(sink) = sink.filter(|sink| sink.packets > 0) {
            self.ended.push(sink.ssrc);
        }
    }

    /// SSRCs of streams that have ended since this was asked last. `all`: the others
    /// end, too.
    pub fn take_ended(&mut self, all: bool) -> Vec<u32> {
        let mut ended = std::mem::take(&mut self.ended);
        if all {
            let sent = self.sinks.iter().flatten().filter(|sink| sink.packets > 0);
            ended.extend(sent.map(|sink| sink.ssrc));
        }
        ended
    }

    /// Whose stream an SSRC is.
    pub fn consumer(&self, ssrc: u32) -> Option<ConsumerKey> {
        let mut sinks = self.sinks.iter().flatten();
        sinks
            .find(|sink| sink.ssrc == ssrc)
            .map(|sink| sink.consumer)
    }

    fn by_slot(&mut self, slot: u32) -> Option<&mut Sink> {
        self.sinks.get_mut(index(slot))?.as_mut()
    }

    fn by_ssrc(&mut self, ssrc: u32) -> Option<&mut Sink> {
        let mut sinks = self.sinks.iter_mut().flatten();
        sinks.find(|sink| sink.ssrc == ssrc)
    }

    /// Queues a packet for a consumer. `at`: when it was captured, on the local clock.
    /// False: it is not for one of these.
    pub fn write(&mut self, forward: &Forward, packet: &MediaPacket, at: Instant) -> bool {
        let Some(sink) = self.by_slot(forward.sink.slot) else {
            return false;
        };
        let Some(rtp) = sink.rtp(forward, packet) else {
            return false;
        };
        if sink
            .highest
            .is_none_or(|highest| highest < forward.sequence)
        {
            sink.newest = Some((forward.timestamp, at));
            sink.highest = Some(forward.sequence);
        }
        self.queue.push(Outgoing {
            index: forward.sequence,
            rtp,
            again: false,
            slot: forward.sink.slot,
        });
        true
    }

    /// Takes what is queued, which counts as sent, and the reports that go before.
    pub fn take(
        &mut self,
        now: Instant,
        wall: SystemTime,
        books: &mut Sending,
    ) -> (Vec<SenderInfo>, Vec<Outgoing>) {
        let queue = std::mem::take(&mut self.queue);
        let mut reports = Vec::new();
        for outgoing in queue.iter().filter(|it| !it.again) {
            if let Some(sink) = self.by_slot(outgoing.slot) {
                if sink.packets == 0 {
                    sink.next_report = Some(now + sink.interval());
                    reports.extend(sink.info(now, wall));
                }
                let len = outgoing.rtp.len();
                sink.packets = sink.packets.wrapping_add(1);
                let payload = u32::try_from(len.saturating_sub(HEADER)).unwrap_or(0);
                sink.octets = sink.octets.wrapping_add(payload);
                sink.history.keep(&outgoing.rtp);
                books.written_plain(now, sink.slot, outgoing.index, len);
            }
        }
        (reports, queue)
    }

    /// The remote lacks a packet: queues it again. False: it is not there any more.
    pub fn resend(&mut self, now: Instant, ssrc: u32, number: u16, books: &mut Sending) -> bool {
        let Some(sink) = self.by_ssrc(ssrc) else {
            return false;
        };
        books.nacked_plain(sink.slot);
        let Some((index, rtp)) = sink.again(number) else {
            return false;
        };
        books.resent_plain(now, sink.slot, rtp.len());
        let slot = sink.slot;
        self.queue.push(Outgoing {
            index,
            rtp,
            again: true,
            slot,
        });
        true
    }

    /// Counts what the remote says of a stream. False: it is none of these.
    pub fn handle_feedback(
        &mut self,
        ssrc: u32,
        books: &mut Sending,
        report: Option<PlainReport>,
        count: impl FnOnce(&mut Feedback),
    ) -> bool {
        let Some(sink) = self.by_ssrc(ssrc) else {
            return false;
        };
        count(&mut sink.feedback);
        books.handle_plain_report(sink.slot, report, sink.feedback);
        true
    }

    /// When a sender report is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let sinks = self.sinks.iter().flatten();
        sinks.filter_map(|sink| sink.next_report).min()
    }

    /// The sender reports that are due.
    pub fn due(&mut self, now: Instant, wall: SystemTime) -> Vec<SenderInfo> {
        let mut due = Vec::new();
        for sink in self.sinks.iter_mut().flatten() {
            if sink.next_report.is_some_and(|at| at <= now) {
                sink.next_report = Some(now + sink.interval());
                due.extend(sink.info(now, wall));
            }
        }
        due
    }
}

impl Sink {
    fn rtp(&self, forward: &Forward, packet: &MediaPacket) -> Option<Vec<u8>> {
        let payload: &[u8] = match forward.payload {
            Payload::Empty => &[],
            Payload::Same | Payload::Patched(_) => &packet.payload,
        };
        let number = u16::try_from(forward.sequence & 0xFFFF).unwrap_or(0);
        let mut rtp = RtpPacketBuilder::<&[u8], &[u8]>::new()
            .payload_type(self.types.pt)
            .marker_bit(forward.marker)
            .sequence_number(number)
            .timestamp(forward.timestamp)
            .ssrc(self.ssrc)
            .payload(payload)
            .write_vec()
            .ok()?;
        if let (Payload::Patched(patch), Some(payload)) = (forward.payload, rtp.get_mut(HEADER..)) {
            patch.apply(payload);
        }
        Some(rtp)
    }

    /// A packet once more, as RFC 4588 has it, or as it was.
    fn again(&mut self, number: u16) -> Option<(u64, Vec<u8>)> {
        let highest = self.highest?;
        let behind = u16::try_from(highest & 0xFFFF)
            .unwrap_or(0)
            .wrapping_sub(number);
        let index = highest.checked_sub(u64::from(behind))?;
        let rtp = self.history.packet(number)?;
        let (Some(ssrc), Some(pt)) = (self.rtx_ssrc, self.types.rtx) else {
            return Some((index, rtp.to_vec()));
        };
        self.rtx_sequence += 1;
        let original = number.to_be_bytes();
        let timestamp = u32::from_be_bytes(*rtp.get(4..8)?.first_chunk()?);
        let marker = rtp.get(1)? & 0x80 != 0;
        let again = RtpPacketBuilder::<&[u8], &[u8]>::new()
            .payload_type(pt)
            .marker_bit(marker)
            .sequence_number(u16::try_from(self.rtx_sequence & 0xFFFF).unwrap_or(0))
            .timestamp(timestamp)
            .ssrc(ssrc)
            .payload(&original)
            .payload(rtp.get(HEADER..)?)
            .write_vec()
            .ok()?;
        Some((self.rtx_sequence, again))
    }

    fn interval(&self) -> Duration {
        if self.video {
            VIDEO_REPORTS
        } else {
            AUDIO_REPORTS
        }
    }

    /// What a sender report says now; `None` before the first packet.
    fn info(&self, now: Instant, wall: SystemTime) -> Option<SenderInfo> {
        let (timestamp, at) = self.newest?;
        let since = now.saturating_duration_since(at).as_micros();
        let ticks = since.saturating_mul(u128::from(self.types.clock_rate)) / 1_000_000;
        let ticks = u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0);
        Some(SenderInfo {
            ssrc: self.ssrc,
            ntp: rtcp::ntp(wall),
            timestamp: timestamp.wrapping_add(ticks),
            packets: self.packets,
            octets: self.octets,
        })
    }
}

/// The round trip by a report block (RFC 3550 §6.4.1): now, the report that it names
/// and the time that the remote had it. `None`: it names none, or lies.
pub fn round_trip(now: SystemTime, last_report: u32, delay: u32) -> Option<Duration> {
    if last_report == 0 {
        return None;
    }
    let now = middle(rtcp::ntp(now));
    let units = now.wrapping_sub(last_report).wrapping_sub(delay);
    let units = match units.cast_signed() {
        // A clock that runs a little fast on the other side makes it negative.
        ahead if (-CLOCKS_APART..0).contains(&ahead) => 0,
        _ => units,
    };
    let time = Duration::from_micros(u64::from(units) * 1_000_000 / 65_536);
    (time <= MAX_ROUND_TRIP).then_some(time)
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_what_the_remote_did_not_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000);
        let sent = middle(rtcp::ntp(now - Duration::from_millis(1500)));
        let trip = round_trip(now, sent, 65_536).unwrap();
        assert!((499..=500).contains(&trip.as_millis()), "{trip:?}");
        assert_eq!(round_trip(now, 0, 0), None);
        let all_of_it = 65_536 * 3 / 2;
        assert_eq!(round_trip(now, sent, all_of_it + 66), Some(Duration::ZERO));
        assert_eq!(round_trip(now, sent, 3 * 65_536), None, "a lie");
    }
}
