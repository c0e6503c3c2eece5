//! Sharing what can be sent to each client over the video that it receives.
//!
//! Every [`SHARE_INTERVAL`], and as soon as less is available or a consumer starts,
//! the transports of a router with video consumers are looked at: the `router`
//! crate's allocator says which layers each consumer gets, and the transport is told
//! what would be welcome, so that it probes for it. See `docs/bandwidth.md`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use proto::event::Event;
use router::allocation::{
    Allocation, Allocator, Demand, LAST_LAYER_BITRATE, LAST_LAYER_PERCENT, RISE_PERCENT, Reason,
};
use router::{ConsumerKey, LayerCosts, Layers, PreferredLayers, ProducerKey};
use slotmap::SecondaryMap;
use str0m::media::MediaKind;

use super::timers::Timer;
use super::{Engine, RouterEntry, RouterKey, TransportEntry, TransportKey};

/// Time between two looks at a router.
const SHARE_INTERVAL: Duration = Duration::from_millis(200);
/// How long nothing is sent that does not fit, after much of what was sent was lost.
const USELESS_FOR: Duration = Duration::from_secs(5);
/// The same for a client that tells by REMB what it can receive, and more than what it
/// gets only as long as it gets more.
const USELESS_WHEN_TOLD: Duration = Duration::from_secs(60);
/// Least time between them, however often a client says something else.
const LEAST_INTERVAL: Duration = Duration::from_millis(20);

/// Changes of bitrates up to this share, in percent, are not told.
const SAME_PERCENT: u64 = 2;

/// What is told as available towards a client without bandwidth estimation, bits
/// per second, unless more than that is sent.
const UNESTIMATED: u64 = 1_000_000;

/// Most that is aimed for, in percent of what the next step of a consumer needs: an
/// estimate swings around the truth.
const AIM_PERCENT: u64 = 115;

/// How the bandwidth of a transport is shared.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    allocator: Allocator,
    /// What came of it the last time.
    allocations: Vec<Allocation>,
    /// What audio took then, bits per second.
    audio: u64,
    /// What was available for video then, bits per second; `None`: no limit.
    available: Option<u64>,
    /// What all of it would need with the layers that are wanted.
    desired: u64,
    /// Much of what was sent was lost, at this time last.
    useless: Option<Instant>,
    /// Desired, aimed for and available bitrate that were told last.
    told: Option<(u64, u64, u64)>,
}

impl Sharing {
    /// What was available for video at the last look, bits per second; `None`: no
    /// limit.
    pub(super) fn available(&self) -> Option<u64> {
        self.available
    }

    /// What a consumer was given at the last look.
    pub(super) fn of(&self, consumer: ConsumerKey) -> Option<&Allocation> {
        self.allocations.iter().find(|one| one.key == consumer)
    }

    fn allocated(&self) -> u64 {
        self.allocations.iter().map(|one| one.bitrate).sum()
    }
}

impl TransportEntry {
    /// What can be sent to its client, bits per second; `None`: no limit.
    pub(super) fn available_bitrate(&self, now: Instant) -> Option<u64> {
        self.inner.available_bitrate(now, self.meant())
    }

    /// The same; a guess before its client has told anything about that.
    pub(super) fn likely_bitrate(&self, now: Instant, guess: u64) -> u64 {
        self.inner.likely_bitrate(now, self.meant(), guess)
    }

    /// What is meant to be sent, bits per second.
    fn meant(&self) -> u64 {
        let sharing = self.sharing.as_deref();
        sharing.map_or(0, |sharing| sharing.audio + sharing.allocated())
    }
}

/// Buffers of a look at a router, kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    consumers: Vec<(TransportKey, ConsumerKey)>,
    costs: SecondaryMap<ProducerKey, LayerCosts>,
}

impl Engine {
    /// Has a router looked at with the next tick, because something about its
    /// consumers is new.
    pub(super) fn share_soon(&mut self, now: Instant, router: RouterKey) {
        if let Some(entry) = self.routers.get_mut(router) {
            let earliest = entry.shared.map_or(now, |at| at + LEAST_INTERVAL);
            let next = Some(earliest.max(now));
            if entry.share_soon.is_none_or(|at| Some(at) > next) {
                self.timers
                    .set(Timer::ShareSoon(router), &mut entry.share_soon, next);
            }
        }
    }

    /// Whether less is available on a transport than was given away.
    pub(super) fn is_short(&self, now: Instant, transport: TransportKey) -> bool {
        self.transports.get(transport).is_some_and(|entry| {
            let available = entry.available_bitrate(now);
            available.is_some_and(|available| available < entry.meant())
        })
    }

    /// Looks at a router: shares what is available over its video consumers.
    pub(super) fn share(&mut self, now: Instant, router: RouterKey) {
        let Some(room) = self.routers.get_mut(router) else {
            return;
        };
        // One of them has brought us here.
        self.timers.set(Timer::Share(router), &mut room.share, None);
        self.timers
            .set(Timer::ShareSoon(router), &mut room.share_soon, None);
        room.shared = Some(now);
        let mut scratch = std::mem::take(&mut self.scratch);
        let Scratch { consumers, costs } = &mut scratch;
        consumers.clear();
        costs.clear();
        let mut broken = Vec::new();
        for (key, producer) in &room.producers {
            if producer.kind == MediaKind::Video {
                costs.insert(key, room.graph.layer_costs(now, key));
            }
        }
        for (key, consumer) in &room.consumers {
            if costs.contains_key(consumer.producer) {
                consumers.push((consumer.transport, key));
            }
        }
        consumers.sort_unstable();
        for own in consumers.chunk_by(|a, b| a.0 == b.0) {
            let Some((key, _)) = own.first() else {
                continue;
            };
            let Some(transport) = self.transports.get_mut(*key) else {
                continue;
            };
            if !contain(|| share_transport(now, room, transport, own, costs)) {
                broken.push(*key);
            }
            // It may have a probe to send.
            let next = transport.inner.next_timeout();
            self.timers
                .set(Timer::Transport(*key), &mut transport.timer, next);
        }
        if !consumers.is_empty() {
            let next = Some(now + SHARE_INTERVAL);
            self.timers.set(Timer::Share(router), &mut room.share, next);
        }
        self.scratch = scratch;
        self.note_broken(&broken);
        self.act(router);
    }

    /// Has transports closed with the next flush, because a call into them panicked.
    fn note_broken(&mut self, broken: &[TransportKey]) {
        for key in broken {
            self.counters.panics += 1;
            if let Some(entry) = self.transports.get_mut(*key) {
                entry.broken = true;
                self.mark_dirty(*key);
            }
        }
    }

    /// Shares what is available on one transport now, because what a consumer on it may start with
    /// depends on that. The others are looked at as ever.
    pub(super) fn share_transport_now(
        &mut self,
        now: Instant,
        router: RouterKey,
        transport: TransportKey,
    ) {
        let (Some(room), Some(entry)) = (
            self.routers.get_mut(router),
            self.transports.get_mut(transport),
        ) else {
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let Scratch { consumers, costs } = &mut scratch;
        consumers.clear();
        costs.clear();
        for (key, consumer) in &room.consumers {
            let producer = consumer.producer;
            let found = room.producers.get(producer);
            if consumer.transport == transport && found.is_some_and(|p| p.kind == MediaKind::Video)
            {
                consumers.push((transport, key));
                costs.insert(producer, room.graph.layer_costs(now, producer));
            }
        }
        let is_whole = contain(|| share_transport(now, room, entry, consumers, costs));
        self.scratch = scratch;
        self.arm_transport(transport);
        if !is_whole {
            self.note_broken(&[transport]);
        }
    }

    /// Tells the bitrates towards each client that consumes video, where they
    /// have changed.
    pub(super) fn review_bitrates(&mut self, now: Instant, router: RouterKey) {
        let mut changed = Vec::new();
        let Some(room) = self.routers.get(router) else {
            return;
        };
        let mut transports: Vec<_> = room.consumers.values().map(|c| c.transport).collect();
        transports.sort_unstable();
        transports.dedup();
        for key in transports {
            let Some(transport) = self.transports.get_mut(key) else {
                continue;
            };
            let traffic = transport.inner.traffic();
            let sent = traffic.sent(|meter| meter.bitrate(now));
            let available = transport.available_bitrate(now);
            let Some(sharing) = transport.sharing.as_deref_mut() else {
                continue;
            };
            let available = available.unwrap_or_else(|| sent.max(UNESTIMATED));
            let bitrates = (sharing.desired, aim(sharing.desired), available);
            if sharing.told.is_none_or(|told| is_other(told, bitrates)) {
                sharing.told = Some(bitrates);
                changed.push(proto::DownlinkBwe {
                    transport_id: transport.id.clone(),
                    desired_bitrate: bitrates.0,
                    effective_desired_bitrate: bitrates.1,
                    available_bitrate: bitrates.2,
                });
            }
        }
        for told in changed {
            self.event(router, Event::DownlinkBwe(told));
        }
    }
}

/// Runs what calls into a transport. False: it panicked.
fn contain(call: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_ok()
}

/// Shares what is available on one transport; `own` are its video consumers.
fn share_transport(
    now: Instant,
    room: &mut RouterEntry,
    transport: &mut TransportEntry,
    own: &[(TransportKey, ConsumerKey)],
    costs: &SecondaryMap<ProducerKey, LayerCosts>,
) {
    let sharing = transport.sharing.get_or_insert_default();
    let audio = transport.inner.sending().audio_bitrate(now);
    let demands: Vec<Demand<'_>> = own
        .iter()
        .filter_map(|(_, key)| demand(room, *key, costs))
        .collect();
    sharing.desired = sharing.allocator.desired(&demands);
    sharing.audio = audio;
    let available = transport.available_bitrate(now);
    let sharing = transport.sharing.get_or_insert_default();
    sharing.available = available.map(|available| available.saturating_sub(audio));
    let Some(available) = sharing.available else {
        sharing.allocations.clear();
        for (_, key) in own {
            // The consumer is in the graph: the tables agree.
            let _ = room
                .graph
                .set_target_layers(now, *key, Some(Layers::HIGHEST));
        }
        return;
    };
    let collapsed = transport.inner.take_collapse();
    let Sharing {
        allocator,
        allocations,
        useless,
        ..
    } = &mut **sharing;
    let demand_count = demands.len();
    allocator.allocate(now, available, &demands, allocations);
    drop(demands);
    let mut last = LastPictures::new(
        now,
        available,
        allocations,
        (transport.inner.is_told(), transport.inner.loses_much(now)),
        useless,
    );
    for one in allocations.iter() {
        let now_gets = room.graph.current_layers(one.key);
        if collapsed && now_gets.map(|l| l.spatial) > one.target.map(|l| l.spatial) {
            // Most of it is lost, and what is not is in the way of the key frame.
            let _ = room.graph.set_target_layers(now, one.key, None);
            if let Some(consumer) = room.consumers.get(one.key) {
                transport.inner.forget_sent(consumer.slot);
            }
        }
        let target = match one.reason {
            // What does not flow yet has no cost: it may begin, and is looked at soon.
            Reason::NotFlowing => Some(Layers::HIGHEST),
            _ if one.target.is_none() => {
                let lowest = lowest(room, one.key, costs);
                lowest.filter(|(_, cost)| last.take(*cost)).map(|it| it.0)
            }
            _ => one.target,
        };
        let _ = room.graph.set_target_layers(now, one.key, target);
    }
    let desired = match demand_count {
        0 => 0,
        _ => audio + aim(sharing.desired).max(1),
    };
    let wants_more = sharing.allocations.iter().any(|one| is_limited(one.reason));
    let steps = sharing
        .allocations
        .iter()
        .filter_map(|one| match one.reason {
            Reason::Bandwidth { needs, .. } => Some(audio + needs),
            _ => None,
        });
    let next = steps.min();
    transport.inner.want_bitrate(now, desired, wants_more);
    let meant = transport.meant();
    transport.inner.try_more(now, meant, next);
}

/// The last picture goes only when it would be useless, whatever the estimate says:
/// one is always tried, and others as far as they fit with some overdraft.
struct LastPictures {
    /// A video has been given something.
    any: bool,
    /// What others may take, bits per second; `None`: all would be useless.
    spare: Option<u64>,
}

impl LastPictures {
    fn new(
        now: Instant,
        available: u64,
        allocations: &[Allocation],
        (is_told, loses_much): (bool, bool),
        useless: &mut Option<Instant>,
    ) -> Self {
        let given: u64 = allocations.iter().map(|one| one.bitrate).sum();
        if loses_much {
            *useless = Some(now);
        }
        let waited = |time| useless.is_none_or(|at| now.saturating_duration_since(at) >= time);
        let overdraft = match is_told && waited(USELESS_WHEN_TOLD) {
            // It will tell of room for this one once it gets it.
            true => u64::MAX,
            false => (available * LAST_LAYER_PERCENT / 100).max(LAST_LAYER_BITRATE),
        };
        Self {
            any: given > 0,
            spare: waited(USELESS_FOR).then(|| overdraft.saturating_sub(given)),
        }
    }

    /// Whether one may be sent that costs this much.
    fn take(&mut self, cost: u64) -> bool {
        let Some(spare) = &mut self.spare else {
            return false;
        };
        let rest = spare.checked_sub(cost);
        if rest.is_none() && self.any {
            return false;
        }
        self.any = true;
        *spare = rest.unwrap_or(0);
        true
    }
}

/// The lowest layers of a consumer's producer, and what they cost.
fn lowest(
    room: &RouterEntry,
    key: ConsumerKey,
    costs: &SecondaryMap<ProducerKey, LayerCosts>,
) -> Option<(Layers, u64)> {
    costs.get(room.consumers.get(key)?.producer)?.iter().next()
}

/// What a consumer wants; `None` while it wants nothing.
fn demand<'a>(
    room: &RouterEntry,
    key: ConsumerKey,
    costs: &'a SecondaryMap<ProducerKey, LayerCosts>,
) -> Option<Demand<'a>> {
    let graph = &room.graph;
    if graph.is_consumer_paused(key)? {
        return None;
    }
    Some(Demand {
        key,
        priority: graph.priority(key)?,
        preferred: highest(graph.preferred_layers(key)?),
        current: graph.current_layers(key),
        costs: costs.get(room.consumers.get(key)?.producer)?,
    })
}

/// Preferred layers as the allocator takes them.
pub(super) fn highest(preferred: PreferredLayers) -> Layers {
    Layers {
        spatial: u8::try_from(preferred.spatial).unwrap_or(u8::MAX),
        temporal: preferred.temporal.unwrap_or(Layers::HIGHEST.temporal),
    }
}

/// Whether one of the bitrates has changed by enough to be told.
fn is_other(told: (u64, u64, u64), now: (u64, u64, u64)) -> bool {
    let pairs = [(told.0, now.0), (told.1, now.1), (told.2, now.2)];
    let differ = |(told, now): (u64, u64)| told.abs_diff(now) * 100 > told * SAME_PERCENT;
    pairs.into_iter().any(differ)
}

/// Bitrate that is aimed for, where one would be enough.
fn aim(bitrate: u64) -> u64 {
    bitrate * RISE_PERCENT * AIM_PERCENT / 10_000
}

/// Whether more bandwidth would do a consumer good.
fn is_limited(reason: Reason) -> bool {
    match reason {
        Reason::Bandwidth { .. } | Reason::LastLayer { .. } => true,
        Reason::Preferred | Reason::NotFlowing | Reason::Hold { .. } => false,
    }
}
