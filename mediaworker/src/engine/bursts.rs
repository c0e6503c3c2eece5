//! Late joiners: the packets since a video's last keyframe, for consumers that start just after it.
//!
//! Keyframes are asked for once a second and stream. While one is younger than that, its packets
//! and those that followed are kept (they are shared, not copied), and a consumer that starts gets
//! them at once instead of waiting for the next keyframe; nothing is asked for then. Which stream
//! of a simulcast producer that is depends on what the bandwidth allows, so the transport's is
//! shared first; and what would keep the client's link busy for too long is not sent
//! ([`LONGEST`]): then a keyframe is asked for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use router::{ConsumerKey, KEY_FRAME_INTERVAL, Kept, Replayed};

use super::packets::input;
use super::{Engine, RouterKey, TransportKey};
use crate::transport::receive::Received;

/// Age of a keyframe up to which its packets are kept: until another one may be asked for, and a
/// little more, because that has to be made and to arrive.
const FRESH: Duration = KEY_FRAME_INTERVAL.saturating_add(Duration::from_millis(200));

/// Most packets and octets that are kept of a stream, 3 Mbit/s for as long as they are. When there
/// are more, none are kept until the next keyframe, and late joiners wait for that.
const MAX_PACKETS: usize = 640;
const MAX_OCTETS: usize = 512 * 1024;

/// Longest time that the link to a client may be busy with what is replayed to it.
const LONGEST: Duration = Duration::from_millis(300);

/// What the link to a client is taken to carry before anything is known of it, bits per second. It
/// is a guess that does not have to hold for long: what is sent from then on is within the
/// estimate.
const UNKNOWN_LINK: u64 = 3_000_000;

/// Octets of a packet that are not payload: IP, UDP, RTP and its extensions.
const OVERHEAD: usize = 60;

/// What is kept of each stream of a producer.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    streams: Vec<Option<Box<Burst>>>,
}

/// The packets of one stream since a keyframe.
#[derive(Debug)]
struct Burst {
    /// When the keyframe began to arrive.
    began: Instant,
    octets: usize,
    /// In the order of their sequence numbers; the keyframe's first one is in front.
    packets: VecDeque<(Kept, Received)>,
}

impl Bursts {
    /// Takes a packet that has been forwarded.
    pub(super) fn keep(&mut self, now: Instant, kept: Kept, received: Received) {
        if kept.begins() {
            if self.streams.len() <= received.stream {
                // The router has that many streams: it has made something of the packet.
                self.streams.resize_with(received.stream + 1, || None);
            }
            if let Some(place) = self.streams.get_mut(received.stream) {
                *place = Some(Box::new(Burst::new(now, kept, received)));
            }
            return;
        }
        if let Some(place) = self.streams.get_mut(received.stream)
            && let Some(burst) = place
            && !burst.add(now, kept, received)
        {
            *place = None;
        }
    }

    /// Drops what is too old: a stream that has ended drops nothing by itself.
    pub(super) fn drop_old(&mut self, now: Instant) {
        for place in &mut self.streams {
            if place.as_ref().is_some_and(|burst| !burst.is_fresh(now)) {
                *place = None;
            }
        }
    }

    /// Drops everything, because the producer was paused.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }

    /// Those that may be replayed, of the highest stream first.
    fn fresh(&self, now: Instant) -> impl Iterator<Item = &Burst> {
        let all = self.streams.iter().rev().flatten();
        all.map(Box::as_ref).filter(move |b| b.is_fresh(now))
    }
}

impl Burst {
    fn new(now: Instant, kept: Kept, received: Received) -> Self {
        Self {
            began: now,
            octets: received.packet.payload.len() + OVERHEAD,
            packets: VecDeque::from([(kept, received)]),
        }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < FRESH
    }

    /// Adds a packet. False: this is of no use any more.
    fn add(&mut self, now: Instant, kept: Kept, received: Received) -> bool {
        self.octets += received.packet.payload.len() + OVERHEAD;
        let is_same = self
            .packets
            .front()
            .is_some_and(|(first, _)| kept.is_of_source_of(first));
        let has_room = self.packets.len() < MAX_PACKETS && self.octets <= MAX_OCTETS;
        if !(is_same && has_room && self.is_fresh(now)) {
            return false;
        }
        let sequence = received.packet.sequence;
        let is_before = |(_, other): &(Kept, Received)| other.packet.sequence < sequence;
        // Almost always the last one; what is older than the keyframe is not for who starts there.
        if let Some(before) = self.packets.iter().rposition(is_before) {
            self.packets.insert(before + 1, (kept, received));
        }
        true
    }

    /// When what is newest was captured, or arrived.
    fn ends(&self, now: Instant) -> Instant {
        self.packets.back().map_or(now, |(_, received)| {
            received.captured.unwrap_or(received.packet.arrived)
        })
    }
}

/// What was replayed to a client lately and may still be under way.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Backlog {
    /// When the link will be free again.
    free: Option<Instant>,
}

impl Backlog {
    /// Adds so many octets, unless a link that carries `bitrate` bits per second would take too
    /// long for them.
    fn add(&mut self, now: Instant, octets: usize, bitrate: u64) -> bool {
        let bits = u64::try_from(octets).unwrap_or(u64::MAX).saturating_mul(8);
        let micros = bits.saturating_mul(1_000_000) / bitrate.max(1);
        let busy = self
            .free
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let busy = busy.saturating_add(Duration::from_micros(micros));
        if busy > LONGEST {
            return false;
        }
        self.free = Some(now + busy);
        true
    }
}

impl Engine {
    /// Resumes a consumer in the media graph: with what is kept of its video, or with a keyframe
    /// that is asked for. Does nothing when it is not paused there.
    pub(super) fn start_consumer(&mut self, now: Instant, router: RouterKey, key: ConsumerKey) {
        let Some(room) = self.routers.get_mut(router) else {
            return;
        };
        let Some(consumer) = room.consumers.get(key) else {
            return;
        };
        let (producer, transport) = (consumer.producer, consumer.transport);
        let bursts = room.producers.get(producer).map(|p| &p.bursts);
        let may_replay = bursts.is_some_and(|bursts| bursts.fresh(now).next().is_some())
            && room.graph.is_consumer_paused(key) == Some(true);
        // Both know the consumer: the tables agree.
        if !may_replay {
            let _ = room.graph.resume_consumer(now, key);
            return;
        }
        let _ = room.graph.resume_consumer_quietly(key);
        self.share_transport_now(now, router, transport);
        let Some(entry) = self
            .routers
            .get_mut(router)
            .and_then(|room| room.producers.get_mut(producer))
        else {
            return;
        };
        let bursts = std::mem::take(&mut entry.bursts);
        let begun = bursts
            .fresh(now)
            .any(|burst| self.replay(now, router, (transport, key), burst));
        if let Some(room) = self.routers.get_mut(router) {
            if let Some(entry) = room.producers.get_mut(producer) {
                entry.bursts = bursts;
            }
            if !begun {
                let _ = room.graph.request_key_frame(now, key);
            }
        }
    }

    /// Replays a burst to a consumer, if that may begin with it and its client's link allows it.
    fn replay(
        &mut self,
        now: Instant,
        router: RouterKey,
        (transport, consumer): (TransportKey, ConsumerKey),
        burst: &Burst,
    ) -> bool {
        let Some(entry) = self.transports.get(transport) else {
            return false;
        };
        let mut backlog = entry.backlog;
        let bitrate = entry.likely_bitrate(now, UNKNOWN_LINK);
        if !backlog.add(now, burst.octets, bitrate) {
            return false;
        }
        let Some(room) = self.routers.get_mut(router) else {
            return false;
        };
        let packets: Vec<Replayed<'_>> = burst
            .packets
            .iter()
            .map(|(kept, received)| Replayed {
                kept,
                rtp: input(received),
            })
            .collect();
        let mut forwards = Vec::with_capacity(packets.len());
        if !room.graph.replay(now, consumer, &packets, &mut forwards) {
            return false;
        }
        // Sender reports tell when the last one was captured.
        let at = burst.ends(now);
        for (index, forward) in forwards {
            if let Some((_, received)) = burst.packets.get(index) {
                self.write(&forward, received, at);
            }
        }
        if let Some(entry) = self.transports.get_mut(transport) {
            entry.backlog = backlog;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_busy_for_so_long_and_no_longer() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut backlog = Backlog::default();
        // (ms from the start, octets, bits per second, whether there is room)
        let cases = [
            (0, 12_500, 1_000_000, true), // 100 ms
            (0, 25_001, 1_000_000, false),
            (0, 25_000, 1_000_000, true),
            (0, 1, 1_000_000, false),
            (100, 12_500, 1_000_000, true),
            (1000, 37_500, 1_000_000, true),
            (2000, 37_501, 1_000_000, false),
            (2000, 100, 0, false),
            (2000, usize::MAX, 1_000_000, false),
        ];
        for (index, (at, octets, bitrate, fits)) in cases.into_iter().enumerate() {
            let added = backlog.add(now + ms(at), octets, bitrate);
            assert_eq!(added, fits, "case {index}");
        }
    }
}
