//! Everything around the router: time, the network, people, and what they do at random.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use router::{
    Action, Codec, ConsumerConfig, ConsumerKey, Forward, Kept, Layers, PreferredLayers,
    ProducerConfig, ProducerKey, Replayed, Router, RtpIn, Sink,
};

use crate::client::{Client, Packet, Source};
use crate::model::Model;
use crate::random::Random;
use crate::sabotage::Sabotage;

const STORM: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(6);
/// Age of a keyframe up to which what followed is replayed.
const FRESH: Duration = Duration::from_millis(1800);

/// How often the interesting things happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub forwarded: u64,
    pub late: u64,
    pub dropped: u64,
    pub too_old: u64,
    pub starts: u64,
    pub switches: u64,
    pub skipped: u64,
    pub requests: u64,
    pub told: u64,
    pub preferences: u64,
    pub targets: u64,
    pub layers: u64,
    pub emptied: u64,
    pub patched: u64,
    pub replays: u64,
    pub replayed: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.late += other.late;
        self.dropped += other.dropped;
        self.too_old += other.too_old;
        self.starts += other.starts;
        self.switches += other.switches;
        self.skipped += other.skipped;
        self.requests += other.requests;
        self.told += other.told;
        self.preferences += other.preferences;
        self.targets += other.targets;
        self.layers += other.layers;
        self.emptied += other.emptied;
        self.patched += other.patched;
        self.replays += other.replays;
        self.replayed += other.replayed;
    }
}

enum Event {
    Frame { producer: usize, stream: usize },
    Arrival(Packet),
    Whim,
}

/// What has come since a keyframe.
struct Burst {
    since: Instant,
    kept: Vec<Kept>,
    packets: Vec<Packet>,
}

pub struct World {
    random: Random,
    /// A generator of its own, so that a sabotage does not change the story.
    mischief: Random,
    sabotage: Option<Sabotage>,
    lasting: bool,
    router: Router,
    model: Model,
    start: Instant,
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    /// By index; those that closed are gone.
    clients: BTreeMap<usize, (ProducerKey, Client)>,
    next_client: usize,
    consumers: Vec<ConsumerKey>,
    /// By producer and stream.
    bursts: BTreeMap<(usize, usize), Burst>,
    /// Percentage of packets that are lost.
    loss: u64,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let start = Instant::now();
        Self {
            random: Random::new(seed),
            mischief: Random::new(!seed),
            sabotage,
            lasting: false,
            router: Router::new(),
            model: Model::default(),
            start,
            now: start,
            events: BTreeMap::new(),
            next_event: 0,
            clients: BTreeMap::new(),
            next_client: 0,
            consumers: Vec::new(),
            bursts: BTreeMap::new(),
            loss: 0,
        }
    }

    pub fn run(mut self) -> Result<Report, String> {
        self.create_producer();
        self.create_consumer();
        self.schedule(Duration::ZERO, Event::Whim);
        self.run_until(self.start + STORM)?;
        self.calm_down()?;
        self.run_until(self.start + STORM + CALM)?;
        self.model.check_calm(self.now)?;
        Ok(self.model.report)
    }

    fn is_stormy(&self) -> bool {
        self.now < self.start + STORM
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.next_event += 1;
        self.events
            .insert((self.now + after, self.next_event), event);
    }

    fn run_until(&mut self, end: Instant) -> Result<(), String> {
        while let Some((&key, _)) = self.events.first_key_value() {
            if let Some(timeout) = self.router.next_timeout().filter(|at| *at <= key.0) {
                self.now = self.now.max(timeout);
                self.router.handle_timeout(self.now);
                if self.router.next_timeout().is_some_and(|at| at <= self.now) {
                    return Err("a timeout that is not handled".into());
                }
                self.after_call()?;
                continue;
            }
            if key.0 >= end {
                break;
            }
            let Some(event) = self.events.remove(&key) else {
                break;
            };
            self.now = key.0;
            match event {
                Event::Frame { producer, stream } => self.make_frame(producer, stream),
                Event::Arrival(packet) => self.arrive(&packet)?,
                Event::Whim if self.is_stormy() => {
                    self.whim()?;
                    let after = Duration::from_millis(self.random.range(10, 200));
                    self.schedule(after, Event::Whim);
                }
                Event::Whim => {}
            }
            self.after_call().map_err(|reason| {
                format!("{reason}, after {} ms", (self.now - self.start).as_millis())
            })?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    /// What the engine does after every call.
    fn after_call(&mut self) -> Result<(), String> {
        self.router.check_invariants()?;
        let mut actions: Vec<Action> = std::iter::from_fn(|| self.router.poll_action()).collect();
        if let Some(sabotage) = self.sabotage {
            sabotage.falsify_actions(&mut actions);
        }
        for action in actions {
            let (producer, stream) = match action {
                Action::RequestKeyFrame { producer, stream } => (producer, stream),
                Action::TellLayer { consumer, layers } => {
                    self.model.told(consumer, layers)?;
                    continue;
                }
                Action::TellSpeaker { .. } | Action::TellDominantSpeaker { .. } => {
                    return Err("nobody was loud".into());
                }
            };
            let found = self
                .clients
                .iter_mut()
                .find(|(_, (key, _))| *key == producer);
            let (index, (_, client)) = found.ok_or("asked a closed producer")?;
            self.model.asked(self.now, *index, stream)?;
            // Requests get lost as well.
            if !self.random.percent(self.loss) {
                let after = Duration::from_millis(self.random.range(20, 200));
                client.sources[stream].key_frame_at = Some(self.now + after);
            }
        }
        let router = &self.router;
        self.model.check_told(|key| router.current_layers(key))?;
        self.model.check_wishes(self.now)
    }

    fn make_frame(&mut self, producer: usize, stream: usize) {
        let Some((_, client)) = self.clients.get_mut(&producer) else {
            return;
        };
        let packets = client.make_frame(&mut self.random, self.now, producer, stream);
        let interval = client.frame_interval();
        self.schedule(interval, Event::Frame { producer, stream });
        for packet in packets {
            self.transmit(packet);
        }
    }

    /// Sends a packet through the network: once, twice, late or never.
    fn transmit(&mut self, packet: Packet) {
        let ms = Duration::from_millis;
        if !self.is_stormy() {
            return self.schedule(ms(20), Event::Arrival(packet));
        }
        if self.random.percent(self.loss) {
            // Repaired after a while, or not.
            if self.random.percent(60) {
                let slow = self.random.percent(20);
                let after = self.random.range(40, if slow { 3_000 } else { 300 });
                self.schedule(ms(after), Event::Arrival(packet));
            }
            return;
        }
        let jitter = if self.random.percent(5) {
            self.random.range(0, 60)
        } else {
            0
        };
        let copy = packet.clone();
        self.schedule(ms(20 + jitter), Event::Arrival(packet));
        if self.random.percent(2) {
            let after = self.random.range(20, 400);
            self.schedule(ms(after), Event::Arrival(copy));
        }
    }

    fn arrive(&mut self, packet: &Packet) -> Result<(), String> {
        let Some((key, client)) = self.clients.get(&packet.producer) else {
            return Ok(());
        };
        if client.sources[packet.stream].epoch != packet.epoch {
            return Ok(());
        }
        let rtp = rtp(packet, client.codec);
        let mut out: Vec<Forward> = Vec::new();
        if let Some(kept) = self.router.handle_rtp(self.now, *key, &rtp, &mut out) {
            self.keep(kept, packet);
        }
        if let Some(sabotage) = self.sabotage {
            sabotage.falsify(&mut self.mischief, &mut self.lasting, &mut out);
        }
        self.model.packet(self.now, packet, &out)
    }

    /// Keeps what may be replayed, as the engine does.
    fn keep(&mut self, kept: Kept, packet: &Packet) {
        let of = (packet.producer, packet.stream);
        if kept.begins() {
            let burst = Burst {
                since: self.now,
                kept: vec![kept],
                packets: vec![packet.clone()],
            };
            self.bursts.insert(of, burst);
        } else if let Some(burst) = self.bursts.get_mut(&of) {
            let at = burst
                .packets
                .partition_point(|other| other.sequence < packet.sequence);
            if !kept.is_of_source_of(&burst.kept[0]) {
                self.bursts.remove(&of);
            } else if at > 0 {
                burst.kept.insert(at, kept);
                burst.packets.insert(at, packet.clone());
            }
        }
    }

    /// Resumes a consumer with what there is, or with a keyframe that is asked for.
    fn resume_with_replay(&mut self, key: ConsumerKey) -> Result<(), String> {
        self.router.resume_consumer_quietly(key).unwrap();
        self.model.resume_quietly(key);
        let index = self.model.producer_of(key);
        let client = &self.clients[&index].1;
        let own = self.bursts.range((index, 0)..(index + 1, 0)).rev();
        for ((_, stream), burst) in own {
            if self.now - burst.since > FRESH {
                continue;
            }
            let replayed: Vec<Replayed<'_>> = burst
                .kept
                .iter()
                .zip(&burst.packets)
                .map(|(kept, packet)| Replayed {
                    kept,
                    rtp: rtp(packet, client.codec),
                })
                .collect();
            let mut out = Vec::new();
            let begun = self.router.replay(self.now, key, &replayed, &mut out);
            let epoch = client.sources[*stream].epoch;
            self.model
                .replay(self.now, key, &burst.packets, epoch, (begun, out))?;
            if begun {
                return Ok(());
            }
        }
        self.router.request_key_frame(self.now, key).unwrap();
        self.model.request_key_frame(self.now, key);
        Ok(())
    }

    fn create_producer(&mut self) {
        let client = Client::new(&mut self.random, self.now);
        let paused = self.random.percent(20);
        let config = ProducerConfig {
            kind: client.kind,
            clock_rate: client.clock_rate(),
            streams: client.sources.len(),
            paused,
            layers: client.layers(),
        };
        let key = self.router.create_producer(self.now, config).unwrap();
        let index = self.next_client;
        self.next_client += 1;
        let streams = client.sources.len();
        let paused_at = paused.then_some(self.now);
        self.model.create_producer(index, &client, paused_at);
        for stream in 0..streams {
            let after = Duration::from_millis(self.random.range(0, 40));
            self.schedule(
                after,
                Event::Frame {
                    producer: index,
                    stream,
                },
            );
        }
        self.clients.insert(index, (key, client));
    }

    fn create_consumer(&mut self) {
        let clients: Vec<usize> = self.clients.keys().copied().collect();
        let Some(index) = self.random.pick(&clients) else {
            return;
        };
        let near_the_end = self.random.percent(50);
        let config = ConsumerConfig {
            producer: self.clients[&index].0,
            sink: Sink {
                transport: index as u64,
                slot: 0,
            },
            paused: self.random.percent(50),
            initial_sequence: self
                .random
                .range(if near_the_end { 65_000 } else { 0 }, 65_536)
                as u16,
            initial_timestamp: self.random.next() as u32,
        };
        let (paused, sequence, time) = (
            config.paused,
            config.initial_sequence,
            config.initial_timestamp,
        );
        let key = self.router.create_consumer(self.now, config).unwrap();
        self.model
            .create_consumer(self.now, key, index, paused, sequence, time);
        self.consumers.push(key);
    }

    /// Somebody does something.
    fn whim(&mut self) -> Result<(), String> {
        self.loss = self.random.pick(&[0, 2, 10, 30]).unwrap_or(0);
        let consumer = self.random.pick(&self.consumers);
        let clients: Vec<usize> = self.clients.keys().copied().collect();
        let client = self.random.pick(&clients);
        // Bandwidth changes more often than minds.
        if let Some(key) = consumer.filter(|_| self.random.percent(60)) {
            self.change_target(key);
            self.after_call()?;
        }
        match (self.random.range(0, 100), client, consumer) {
            (0..8, _, _) if self.clients.len() < 3 => self.create_producer(),
            (8..20, _, _) if self.consumers.len() < 8 => self.create_consumer(),
            (20..22, Some(index), _) => self.close_producer(index)?,
            (22..25, _, Some(key)) => {
                self.router.close_consumer(key);
                self.consumers.retain(|other| *other != key);
                self.model.close_consumer(key)?;
            }
            (25..38, _, Some(key)) => {
                self.router.pause_consumer(key).unwrap();
                self.model.pause_consumer(key);
            }
            (38..50, _, Some(key)) => self.resume_with_replay(key)?,
            (50..60, _, Some(key)) => {
                self.router.resume_consumer(self.now, key).unwrap();
                self.model.resume_consumer(self.now, key);
            }
            (60..63, Some(index), _) => {
                self.bursts.retain(|(producer, _), _| *producer != index);
                self.router
                    .pause_producer(self.now, self.clients[&index].0)
                    .unwrap();
                self.model.pause_producer(self.now, index);
            }
            (63..72, Some(index), _) => self.resume_producer(index),
            (72..82, _, Some(key)) => {
                self.router.request_key_frame(self.now, key).unwrap();
                self.model.request_key_frame(self.now, key);
            }
            (82..86, _, Some(key)) => self.change_preference(key)?,
            (86..90, _, Some(key)) => self.change_target(key),
            (90..100, Some(index), _) => self.change_source(index),
            _ => {}
        }
        Ok(())
    }

    fn close_producer(&mut self, index: usize) -> Result<(), String> {
        let Some((key, _)) = self.clients.remove(&index) else {
            return Ok(());
        };
        let closed = self.router.close_producer(key);
        self.consumers.retain(|other| !closed.contains(other));
        if closed == self.model.close_producer(index)? {
            Ok(())
        } else {
            Err("other consumers were closed".into())
        }
    }

    fn resume_producer(&mut self, index: usize) {
        self.router
            .resume_producer(self.now, self.clients[&index].0)
            .unwrap();
        self.model.resume_producer(self.now, index);
    }

    /// Somebody wants other layers, which may be more than there are.
    fn change_preference(&mut self, key: ConsumerKey) -> Result<(), String> {
        let layers = PreferredLayers {
            spatial: self.random.range(0, 4) as usize,
            temporal: self
                .random
                .pick(&[None, Some(0), Some(1), Some(2)])
                .flatten(),
        };
        let kept = self.router.set_preferred_layers(key, layers).unwrap();
        let wanted = (layers.spatial, layers.temporal);
        self.model.prefer(key, wanted, kept.spatial)
    }

    /// The bandwidth allows something else.
    fn change_target(&mut self, key: ConsumerKey) {
        let spatial = self.random.range(0, 3) as u8;
        let layers = Layers::new(spatial, self.random.range(0, 3) as u8);
        let target = match self.random.range(0, 10) {
            0 => None,
            1..4 => Some(Layers::HIGHEST),
            _ => Some(layers),
        };
        self.router
            .set_target_layers(self.now, key, target)
            .unwrap();
        self.model.set_target(self.now, key, target);
    }

    /// A client's encoder does something.
    fn change_source(&mut self, index: usize) {
        let Some((key, client)) = self.clients.get_mut(&index) else {
            return;
        };
        let stream = self.random.range(0, client.sources.len() as u64) as usize;
        let source = &mut client.sources[stream];
        match self.random.range(0, 14) {
            13 => {
                let healthy = self.random.percent(50);
                self.router
                    .set_stream_health(*key, stream, healthy)
                    .unwrap();
                self.model.set_health(index, stream, healthy);
            }
            10..13 => {
                if let Some(encoder) = source.encoder.as_mut() {
                    let spatial = u64::from(encoder.layout.spatial);
                    encoder.wanted = self.random.range(1, spatial + 1) as u8;
                }
            }
            0..3 => source.running = false,
            3..6 => source.running = true,
            6..8 => source.key_frame_at = Some(self.now),
            8 => source.reports = !source.reports,
            _ => {
                let epoch = source.epoch + 1;
                *source = Source::new(&mut self.random, epoch, self.now, client.layout);
                self.router.restart_stream(*key, stream).unwrap();
                self.model.restart_stream(index, stream);
            }
        }
    }

    /// Everybody is back, everything runs.
    fn calm_down(&mut self) -> Result<(), String> {
        self.loss = 0;
        for (index, (key, client)) in &mut self.clients {
            for stream in 0..client.sources.len() {
                self.router.set_stream_health(*key, stream, true).unwrap();
                self.model.set_health(*index, stream, true);
            }
            // Some have no room for all of their spatial layers.
            let fewer = self.random.range(0, 2);
            for source in &mut client.sources {
                source.run_well(fewer);
                let sent = source.encoder.as_ref().map(|encoder| encoder.wanted);
                self.model.set_sent(*index, sent);
            }
        }
        for index in self.clients.keys().copied().collect::<Vec<_>>() {
            self.resume_producer(index);
            self.after_call()?;
        }
        for key in self.consumers.clone() {
            self.router.resume_consumer(self.now, key).unwrap();
            self.model.resume_consumer(self.now, key);
            self.after_call()?;
        }
        Ok(())
    }
}

fn rtp(packet: &Packet, codec: Codec) -> RtpIn<'_> {
    RtpIn {
        stream: packet.stream,
        codec,
        sequence: packet.sequence,
        timestamp: packet.time as u32,
        marker: packet.marker,
        payload: &packet.payload,
        captured: packet.captured,
        audio_level: None,
        dependency_descriptor: packet.extension.as_deref(),
    }
}
