//! How packets leave for a client: written, numbered and protected, at each flush of their
//! transport.

use std::time::{Duration, Instant};

use router::ConsumerKey;

use super::packet::{self, Content, Header, Source};
use super::resends::Sent;
use super::{MAX_WAITING, SendStream, Sending};
use crate::transport::extensions::Written;
use crate::transport::rtcp::{self, Heard, SenderReport};
use crate::transport::supplies::Supplies;

/// Time between sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Most octets of padding in a packet.
const MAX_PADDING: u8 = 240;
/// Packets of a probe in a second: what a packet of it should be long is its bitrate
/// divided by that. Where padding would be much too short, retransmissions are sent.
const PROBE_PACKETS: u64 = 250;
const SHORT_PADDING: u64 = 2 * MAX_PADDING as u64;
/// SSRC of probes on a transport that has no stream for retransmissions.
const PROBE_SSRC: u32 = 0;

/// What a packet to the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Media.
    Media,
    /// Media that the client has asked for once more.
    Resend,
    /// It only finds out whether it passes.
    Probe,
}

/// A packet that leaves with the next flush.
#[derive(Debug)]
pub(super) struct Waiting {
    pub slot: usize,
    /// Whose slot it was.
    pub consumer: ConsumerKey,
    /// The sequence number that it has, or had.
    pub sequence: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub source: Source,
    /// It is a retransmission.
    pub again: bool,
    /// Nobody has asked for it.
    pub probe: bool,
}

/// A packet that leaves now.
#[derive(Debug)]
pub struct Departed {
    /// The packet.
    pub packet: Vec<u8>,
    /// What it is.
    pub kind: Departure,
    /// It has the transport-cc number that was given for it.
    pub counted: bool,
}

/// What is done about a packet that a client has asked for again.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// It is not kept.
    Gone,
    /// It can be queued once more.
    Kept,
    /// It is to be sent once more as it is.
    AsItWas(&'a [u8]),
}

impl Sending {
    /// Queues a packet. False: there are too many.
    pub(super) fn queue(&mut self, waiting: Waiting) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.waiting.push_back(waiting);
        true
    }

    /// The next packet that was queued. `number`: its transport-cc number, if the client
    /// counts it.
    pub fn next(&mut self, now: Instant, number: u16, supplies: &mut Supplies) -> Option<Departed> {
        loop {
            let Some(waiting) = self.waiting.pop_front() else {
                // Then the next one is at the front again, which the caches still have.
                self.waiting.clear();
                return None;
            };
            if let Some(departed) = self.depart(now, waiting, number, supplies) {
                return Some(departed);
            }
        }
    }

    /// A packet of a probe at a bitrate, bits per second: a retransmission that nobody
    /// has asked for, or padding. `None`: there is nothing to probe with.
    pub fn probe(
        &mut self,
        now: Instant,
        bitrate: u64,
        number: u16,
        supplies: &mut Supplies,
    ) -> Option<Departed> {
        let octets = bitrate / 8 / PROBE_PACKETS;
        let newest = |(slot, stream): (usize, &Option<SendStream>)| {
            let stream = stream.as_ref().filter(|stream| self.is_counted(stream))?;
            again(slot, stream, stream.resends.newest()?)
        };
        let newest = match octets >= SHORT_PADDING {
            true => self.slots.iter().enumerate().find_map(newest),
            false => None,
        };
        if let Some(mut waiting) = newest {
            waiting.probe = true;
            return self.depart(now, waiting, number, supplies);
        }
        let octets = u8::try_from(octets).unwrap_or(MAX_PADDING);
        self.pad(now, octets, number, supplies)
    }

    /// Writes and protects a packet. `None` when its consumer is gone.
    fn depart(
        &mut self,
        now: Instant,
        waiting: Waiting,
        number: u16,
        supplies: &mut Supplies,
    ) -> Option<Departed> {
        let sealer = self.sealer.as_ref()?;
        let has_number = self.media.ids.has_transport_cc();
        let stream = self.slots.get_mut(waiting.slot)?.as_mut()?;
        if stream.consumer != waiting.consumer {
            return None;
        }
        let Waiting {
            sequence,
            timestamp,
            marker,
            source,
            again,
            probe,
            ..
        } = waiting;
        let sent = supplies.send_time(now);
        let counted = stream.written.automatic.transport_cc && has_number;
        let departed = |packet, kind| Departed {
            packet,
            kind,
            counted,
        };
        let (ssrc, payload_type, index, content) = match stream.rtx.filter(|_| again) {
            None => {
                let content = match stream.longest == (timestamp, source.len() + 1) {
                    true => Content::Longer(&source),
                    false => Content::Media(&source),
                };
                (stream.ssrc, stream.pt, sequence, content)
            }
            Some((ssrc, pt)) => {
                let index = stream.next_rtx_index();
                (ssrc, pt, index, Content::Again(sequence, &source))
            }
        };
        let header = Header {
            payload_type,
            marker,
            sequence: index,
            timestamp,
            ssrc,
            ..stream.header(sent, number, self.mid_room)
        };
        let mut packet = supplies.take();
        let ids = &self.media.ids;
        let clear = packet::write(&mut supplies.parts, &header, ids, stream.written, content);
        if !sealer.seal_rtp(&mut packet, &clear, ssrc, index) {
            return None;
        }
        if probe {
            return Some(departed(packet, Departure::Probe));
        }
        stream.outbound.sent(now, packet.len(), source.len(), again);
        if again {
            return Some(departed(packet, Departure::Resend));
        }
        if stream.rtx.is_some() {
            stream.resends.keep(Sent {
                sequence,
                timestamp,
                marker,
                source,
                at: now,
            });
        } else {
            stream.history.keep(&packet);
        }
        Some(departed(packet, Departure::Media))
    }

    /// Writes and protects padding, on a stream for retransmissions if there is one.
    fn pad(
        &mut self,
        now: Instant,
        octets: u8,
        number: u16,
        supplies: &mut Supplies,
    ) -> Option<Departed> {
        let sealer = self.sealer.as_ref()?;
        if !self.media.ids.has_transport_cc() {
            return None;
        }
        let sent = supplies.send_time(now);
        let counted = |s: &&mut SendStream| s.written.automatic.transport_cc;
        let mut streams = self.slots.iter_mut().flatten().filter(counted);
        // Retransmissions belong to something that was sent.
        let found = streams.find(|s| s.rtx.is_some() && s.last.is_some());
        let (header, index) = match found {
            Some(stream) => {
                let (ssrc, payload_type) = stream.rtx?;
                let index = stream.next_rtx_index();
                let header = Header {
                    payload_type,
                    ssrc,
                    timestamp: stream.last.map_or(0, |(timestamp, _)| timestamp),
                    ..stream.header(sent, number, self.mid_room)
                };
                (header, index)
            }
            None => {
                let index = self.probe_index;
                self.probe_index += 1;
                let mut streams = self.slots.iter().flatten();
                let stream = streams.find(|s| s.written.automatic.transport_cc)?;
                let header = Header {
                    payload_type: stream.pt,
                    ssrc: PROBE_SSRC,
                    ..stream.header(sent, number, self.mid_room)
                };
                (header, index)
            }
        };
        let header = Header {
            sequence: index,
            ..header
        };
        let content = Content::Padding(octets.min(MAX_PADDING));
        let ids = &self.media.ids;
        let mut packet = supplies.take();
        let parts = &mut supplies.parts;
        let clear = packet::write(parts, &header, ids, Written::default(), content);
        let sealed = sealer.seal_rtp(&mut packet, &clear, header.ssrc, index);
        sealed.then_some(Departed {
            packet,
            kind: Departure::Probe,
            counted: true,
        })
    }

    /// The client asks for a packet again.
    pub fn nacked(&mut self, ssrc: u32, sequence: u16) -> Asked<'_> {
        let Some(stream) = self.by_ssrc_mut(ssrc).filter(|s| s.ssrc == ssrc) else {
            return Asked::Gone;
        };
        stream.outbound.nacked();
        if stream.rtx.is_some() {
            return match stream.resends.by_number(sequence) {
                Some(_) => Asked::Kept,
                None => Asked::Gone,
            };
        }
        let Some(packet) = stream.history.packet(sequence) else {
            return Asked::Gone;
        };
        Asked::AsItWas(packet)
    }

    /// A packet without RTX is sent once more as it was.
    pub fn sent_again(&mut self, now: Instant, ssrc: u32, len: usize) {
        if let Some(stream) = self.by_ssrc_mut(ssrc) {
            stream.outbound.sent(now, len, 0, true);
        }
    }

    /// Queues what the client has asked for again.
    pub fn resend(&mut self, ssrc: u32, sequence: u16) -> bool {
        let Some(slot) = self.by_ssrc.get(&ssrc).copied() else {
            return false;
        };
        let stream = self.slots.get(slot).and_then(Option::as_ref);
        let found =
            stream.and_then(|stream| again(slot, stream, stream.resends.by_number(sequence)?));
        found.is_some_and(|waiting| self.queue(waiting))
    }

    /// Takes in what the client reports and requests of its streams.
    /// Answers how many packets the reports are about, and how many of those are lost.
    pub fn handle(&mut self, now: Instant, heard: &Heard) -> (u64, u64) {
        let (mut expected, mut lost) = (0, 0);
        for block in &heard.reports {
            if let Some(stream) = self.by_ssrc_mut(block.ssrc)
                && stream.ssrc == block.ssrc
                && stream.outbound.handle_report(now, block)
            {
                let interval = stream.outbound.interval();
                expected += interval.0;
                lost += interval.1;
            }
        }
        for (ssrcs, count) in [
            (&heard.nack_messages, Count::Nack),
            (&heard.plis, Count::Pli),
            (&heard.firs, Count::Fir),
        ] {
            for ssrc in ssrcs {
                if let Some(stream) = self.by_ssrc_mut(*ssrc) {
                    stream.outbound.requested(count);
                }
            }
        }
        (expected, lost)
    }

    /// When [`Sending::reports`] has something.
    pub fn next_report(&self) -> Option<Instant> {
        self.next_report
    }

    /// Sender reports of all streams that have sent something, once they are due.
    pub fn reports(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.next_report.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let reports: Vec<SenderReport> = self.streams().filter_map(|s| s.report(now)).collect();
        self.next_report = (!reports.is_empty()).then(|| now + REPORT_INTERVAL);
        let packets = rtcp::write_reports(now, &self.cname, &reports);
        self.seal_rtcp(packets)
    }

    /// Says that all streams have ended.
    pub fn goodbyes(&mut self) -> Vec<Vec<u8>> {
        let started = self.streams().filter(|s| s.last.is_some());
        let ssrcs: Vec<u32> = started
            .flat_map(|s| std::iter::once(s.ssrc).chain(s.rtx.map(|(ssrc, _)| ssrc)))
            .collect();
        self.seal_rtcp(rtcp::write_goodbyes(&ssrcs))
    }

    /// Protects RTCP packets. Those that cannot be are left out.
    pub fn seal_rtcp(&mut self, mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        match &mut self.sealer {
            Some(sealer) => packets.retain_mut(|packet| sealer.seal_rtcp(packet)),
            None => packets.clear(),
        }
        packets
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Nack,
    Pli,
    Fir,
}

impl SendStream {
    /// What the headers of its packets have in common.
    fn header(&self, sent: [u8; 3], number: u16, mid_room: u8) -> Header<'_> {
        let wanted = self.written.automatic;
        Header {
            payload_type: self.pt,
            marker: false,
            sequence: 0,
            timestamp: 0,
            ssrc: self.ssrc,
            mid: self.mid.as_ref().filter(|_| wanted.mid),
            mid_room,
            sent: wanted.abs_send_time.then_some(sent),
            transport_cc: wanted.transport_cc.then_some(number),
        }
    }

    fn next_rtx_index(&mut self) -> u64 {
        let index = self.rtx_index;
        self.rtx_index += 1;
        index
    }

    /// What a sender report says of it; `None` before its first packet.
    fn report(&self, now: Instant) -> Option<SenderReport> {
        let (timestamp, captured) = self.last?;
        let passed = now.saturating_duration_since(captured).as_micros();
        let ticks = passed * u128::from(self.clock_rate) / 1_000_000;
        let (packets, octets) = self.outbound.media();
        Some(SenderReport {
            ssrc: self.ssrc,
            timestamp: timestamp.wrapping_add(u32::try_from(ticks & 0xffff_ffff).unwrap_or(0)),
            packets: u32::try_from(packets & 0xffff_ffff).unwrap_or(0),
            octets: u32::try_from(octets & 0xffff_ffff).unwrap_or(0),
        })
    }
}

/// A packet that was sent, to be sent once more. `None` for a stream without RTX.
fn again(slot: usize, stream: &SendStream, sent: &Sent) -> Option<Waiting> {
    stream.rtx?;
    Some(Waiting {
        slot,
        consumer: stream.consumer,
        sequence: sent.sequence,
        timestamp: sent.timestamp,
        marker: sent.marker,
        source: sent.source.clone(),
        again: true,
        probe: false,
    })
}
