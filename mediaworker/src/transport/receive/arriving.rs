//! The way of a packet from the wire to its producer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rtp_types::RtpPacket;

use super::{Bound, Entry, Orientation, Received, Receiving};
use crate::transport::extensions::{self, Extension};
use crate::transport::guard;
use crate::transport::packet::{Extensions, MediaPacket};

/// Packets that are kept because their producer may only be announced yet, and for how
/// long. A client may send before we have answered its request; what is beyond that is
/// dropped, and a keyframe asked for.
const MAX_EARLY: usize = 128;
const EARLY_FOR: Duration = Duration::from_secs(2);

/// A packet that has come, and may have to wait for its producer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Early<T = Box<[u8]>> {
    came: Instant,
    /// Decrypted.
    rtp: T,
    /// As long as it was on the wire.
    len: usize,
    /// The client is told, by transport-cc, that it has come.
    told: bool,
}

/// What became of an RTP packet.
#[derive(Debug)]
pub enum Arrival {
    /// It belongs to a producer.
    Media {
        /// Which, and what is in it.
        received: Received,
        /// It was sent again.
        again: bool,
    },
    /// It has nothing in it; it only finds out what passes.
    Padding,
    /// No producer has its SSRC. It is kept for a while, for one that may come.
    Kept,
    /// Its payload type is not that of its producer.
    WrongType,
    /// It is of no use: it came before, or its producer is being removed.
    Refused,
    /// It is no RTP packet.
    Unparsable,
}

/// What the header extensions of a packet say.
#[derive(Debug, Default)]
struct Said<'a> {
    mid: Option<&'a [u8]>,
    rid: Option<&'a [u8]>,
    repaired_rid: Option<&'a [u8]>,
    transport_cc: Option<u16>,
    values: Extensions,
}

impl Receiving {
    /// Takes in an RTP packet that is authentic, and in the clear now. `len`: as long as
    /// it was on the wire.
    pub fn receive(&mut self, now: Instant, rtp: &[u8], len: usize) -> Arrival {
        self.latest = Some(now);
        let told = false;
        let rtp = Early {
            came: now,
            rtp,
            len,
            told,
        };
        self.take(rtp)
    }

    fn take(&mut self, arrived: Early<&[u8]>) -> Arrival {
        let (now, rtp, len) = (arrived.came, arrived.rtp, arrived.len);
        let Ok(packet) = RtpPacket::parse(rtp) else {
            return Arrival::Unparsable;
        };
        let said = self.read_extensions(rtp);
        let mut told = arrived.told;
        if let Some(number) = said.transport_cc.filter(|_| !told) {
            told = true;
            self.recorder.record(now, number);
            self.wake_at(self.recorder.due());
        }
        // libwebrtc probes with packets of SSRC 0 before it has media.
        if packet.ssrc() == 0 {
            return Arrival::Padding;
        }
        let Some(bound) = self.find(now, &packet, &said) else {
            self.keep_early(Early { told, ..arrived });
            return Arrival::Kept;
        };
        self.some_ssrc = packet.ssrc();
        self.deliver(now, bound, &packet, said.values, len)
    }

    fn read_extensions<'a>(&self, rtp: &'a [u8]) -> Said<'a> {
        let mut said = Said::default();
        for (id, value) in extensions::fields(rtp) {
            let known = self.extension_ids.iter().find(|(held, _)| *held == id);
            match known {
                None => {}
                Some((_, Extension::Mid)) => said.mid = Some(value),
                Some((_, Extension::RtpStreamId)) => said.rid = Some(value),
                Some((_, Extension::RepairedRtpStreamId)) => said.repaired_rid = Some(value),
                Some((_, Extension::TransportCc)) => {
                    let number = value.first_chunk().copied().map(u16::from_be_bytes);
                    said.transport_cc = number.filter(|_| self.counted);
                }
                Some((_, other)) => said.values.take(*other, value),
            }
        }
        said
    }

    /// Finds the stream of a packet: by its SSRC, or else by MID and RID (RFC 8843 §9.2,
    /// RFC 8852), which say what its SSRC is from now on.
    fn find(&mut self, now: Instant, packet: &RtpPacket<'_>, said: &Said<'_>) -> Option<Bound> {
        let ssrc = packet.ssrc();
        if let Some(&bound) = self.by_ssrc.get(&ssrc) {
            return Some(bound);
        }
        let mid = said.mid?;
        if self.is_gone(now, ssrc) {
            return None;
        }
        let is_it = |entry: &Entry| entry.spec.mid.as_ref().map(String::as_bytes) == Some(mid);
        let at = self.entries.iter().position(is_it)?;
        let entry = self.entries.get_mut(at)?;
        let types = entry.codec.payload_type;
        let pt = packet.payload_type();
        let rtx = types.rtx == Some(pt) || said.repaired_rid.is_some();
        if !rtx && pt != types.pt {
            return None;
        }
        let rid = if rtx {
            said.repaired_rid.or(said.rid)
        } else {
            said.rid
        };
        let encodings = &entry.spec.encodings;
        let place = match rid {
            Some(rid) => {
                let rids = encodings.iter().map(|it| it.rid.as_ref());
                let mut rids = rids.map(|it| it.map(String::as_bytes));
                rids.position(|it| it == Some(rid))?
            }
            None if encodings.len() == 1 => 0,
            None => return None,
        };
        let signalled = encodings.get(place)?;
        let stream = entry.streams.get_mut(place)?;
        let before = if rtx { stream.rtx_ssrc } else { stream.ssrc };
        match rtx {
            // What the client has announced is not changed by what it sends.
            true if signalled.rtx_ssrc.is_some() => return None,
            false if signalled.ssrc.is_some() => return None,
            true => stream.rtx_ssrc = Some(ssrc),
            false if !stream.move_to(now, ssrc) => return None,
            false => {}
        }
        if let Some(before) = before {
            self.by_ssrc.remove(&before);
            self.replaced += 1;
        }
        let bound = Bound {
            entry: at,
            stream: place,
            rtx,
        };
        self.by_ssrc.insert(ssrc, bound);
        Some(bound)
    }

    /// Enters a packet into the books of its producer.
    fn deliver(
        &mut self,
        now: Instant,
        bound: Bound,
        packet: &RtpPacket<'_>,
        extensions: Extensions,
        len: usize,
    ) -> Arrival {
        let Some(entry) = self.entries.get_mut(bound.entry) else {
            return Arrival::Refused;
        };
        let (kind, paused, codec) = (entry.spec.kind, entry.paused, &entry.codec);
        let types = codec.payload_type;
        let Some(stream) = entry.streams.get_mut(bound.stream) else {
            return Arrival::Refused;
        };
        let (payload, pt) = (packet.payload(), packet.payload_type());
        let (number, payload) = match (bound.rtx, payload.split_first_chunk()) {
            (false, _) if pt == types.pt => (packet.sequence_number(), payload),
            (true, None) => return Arrival::Padding,
            // RFC 4588 §4: the original number comes first.
            (true, Some((number, original))) if types.rtx == Some(pt) => {
                (u16::from_be_bytes(*number), original)
            }
            _ => return Arrival::WrongType,
        };
        let Some(ssrc) = stream.ssrc else {
            return Arrival::Refused;
        };
        let Some(place) = stream.place(now, codec, number, bound.rtx) else {
            if !bound.rtx
                && let Some(inbound) = stream.inbound.as_mut()
            {
                inbound.discard();
            }
            return Arrival::Refused;
        };
        let packet = MediaPacket {
            ssrc,
            sequence: place.sequence,
            timestamp: packet.timestamp(),
            marker: packet.marker_bit(),
            extensions,
            payload: payload.into(),
            arrived: now,
        };
        let inbound = stream.inbound(now, &entry.spec, types.clock_rate, paused);
        inbound.receive(&packet, len, place);
        let report = stream.last_report();
        let captured = report.and_then(|report| {
            let clock_rate = types.clock_rate;
            self.clock
                .captured(now, report, packet.timestamp, clock_rate)
        });
        let (due, asks) = (stream.next_timeout(), stream.wants_key_frame());
        if kind.is_video() {
            let told = packet.extensions.video_orientation;
            entry.orientation = told.map(Orientation::from_byte).or(entry.orientation);
        }
        let received = Received {
            producer: entry.key,
            stream: bound.stream,
            new_source: place.new_source,
            codec: codec.codec,
            captured,
            packet: Rc::new(packet),
        };
        self.wake_at(if asks { Some(now) } else { due });
        if kind.is_video() {
            self.remind(now, ssrc);
        }
        let again = place.again;
        Arrival::Media { received, again }
    }

    /// A packet of the client is not authentic, or came before.
    pub fn discard(&mut self, rtp: &[u8]) {
        let bound = guard::ssrc(rtp).and_then(|ssrc| self.by_ssrc.get(&ssrc));
        let Some(bound) = bound.filter(|bound| !bound.rtx) else {
            return;
        };
        let entry = self.entries.get_mut(bound.entry);
        let stream = entry.and_then(|entry| entry.streams.get_mut(bound.stream));
        if let Some(inbound) = stream.and_then(|stream| stream.inbound.as_mut()) {
            inbound.discard();
        }
    }

    fn keep_early(&mut self, early: Early<&[u8]>) {
        let now = early.came;
        let is_fresh = |it: &Early| now.saturating_duration_since(it.came) < EARLY_FOR;
        let before = self.early.len();
        self.early.retain(is_fresh);
        self.unclaimed += (before - self.early.len()) as u64;
        if self.early.len() >= MAX_EARLY {
            self.unclaimed += 1;
        } else {
            self.early.push(Early {
                came: now,
                rtp: early.rtp.into(),
                len: early.len,
                told: early.told,
            });
        }
    }

    /// How many packets no producer has come for since the last call.
    pub fn take_unclaimed(&mut self) -> u64 {
        std::mem::take(&mut self.unclaimed)
    }

    /// What is kept of a producer that is there now.
    pub(super) fn take_early(&mut self, now: Instant) -> Vec<Received> {
        let mut taken = Vec::new();
        for early in std::mem::take(&mut self.early) {
            if now.saturating_duration_since(early.came) >= EARLY_FOR {
                self.unclaimed += 1;
                continue;
            }
            let arrived = Early {
                came: early.came,
                rtp: &*early.rtp,
                len: early.len,
                told: early.told,
            };
            if let Arrival::Media { received, .. } = self.take(arrived) {
                taken.push(received);
            }
        }
        taken
    }
}
