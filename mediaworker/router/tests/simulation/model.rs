//! What the router should do, computed the slow way: whole histories instead of counters, times
//! that never wrap, every number worked out from the packets that took part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use router::{
    CAPTURE_TRUST, Codec, ConsumerKey, DROP_HISTORY, Forward, KEY_FRAME_INTERVAL, Layers,
    MediaKind, PATIENCE, Payload, REPLAY_SPEED, STEADY_AFTER, STREAM_TIMEOUT,
};

use crate::client::{Client, Content, Packet};
use crate::encoder::Layout;
use crate::pictures::{Next, Pictures};
use crate::world::Report;

type Checked = Result<(), String>;

#[derive(Default)]
struct Stream {
    received: BTreeSet<u64>,
    /// Packets with payload.
    arrivals: Vec<Instant>,
    last_key_frame: Option<u64>,
    was_ever_seen: bool,
    wished: Option<Instant>,
    asked: Option<Instant>,
    /// Somebody was not given layers that only a keyframe may bring.
    may_be_asked: bool,
    /// It arrives too badly.
    failing: bool,
    /// AV1: the last structure, and the frame that brought it.
    structure: Option<(u64, u8)>,
    /// AV1: packets that came without their structure.
    unreadable: BTreeSet<u64>,
}

impl Stream {
    fn is_active(&self, now: Instant) -> bool {
        self.arrivals
            .last()
            .is_some_and(|last| now - *last < STREAM_TIMEOUT)
    }

    /// Whether one can go back long enough from packet to packet.
    fn is_steady(&self, now: Instant) -> bool {
        let mut since = now;
        for arrival in self.arrivals.iter().rev() {
            if since - *arrival >= STREAM_TIMEOUT {
                return false;
            }
            since = *arrival;
            if now - since >= STEADY_AFTER {
                return true;
            }
        }
        false
    }
}

struct Producer {
    kind: MediaKind,
    codec: Codec,
    clock_rate: u32,
    streams: Vec<Stream>,
    paused_at: Option<Instant>,
    layout: Option<Layout>,
    /// Spatial layers within a stream that are sent in the end.
    sent: Option<u8>,
}

impl Producer {
    /// What to take of some streams: the highest up to the cap, else the lowest.
    fn pick(streams: &[usize], cap: usize) -> Option<usize> {
        let wanted = streams.iter().filter(|stream| **stream <= cap).max();
        wanted.or(streams.iter().min()).copied()
    }

    fn active(&self, now: Instant) -> Vec<usize> {
        let flows = |s: &usize| self.streams[*s].is_active(now);
        let flowing: Vec<usize> = (0..self.streams.len()).filter(flows).collect();
        let is_healthy = |s: &usize| !self.streams[*s].failing;
        let healthy: Vec<usize> = flowing.iter().copied().filter(is_healthy).collect();
        if healthy.is_empty() { flowing } else { healthy }
    }

    fn best(&self, now: Instant, cap: usize) -> Option<usize> {
        Self::pick(&self.active(now), cap)
    }

    fn move_from(&self, now: Instant, current: usize, cap: usize) -> Option<usize> {
        let mut steady = self.active(now);
        let stopped = !steady.contains(&current);
        steady.retain(|s| self.streams[*s].is_steady(now));
        let best = Self::pick(&steady, cap)?;
        // Worse is left alone while it flows.
        let better = Self::pick(&[best, current], cap) == Some(best);
        (best != current && (better || stopped)).then_some(best)
    }

    fn is_svc(&self) -> bool {
        self.layout.is_some_and(|layout| layout.spatial > 1)
    }

    fn is_layered(&self) -> bool {
        let layers = |layout: Layout| layout.spatial > 1 || layout.temporal > 1;
        self.streams.len() > 1 || self.layout.is_some_and(layers)
    }

    fn highest_spatial(&self) -> usize {
        match self.layout {
            Some(layout) if layout.spatial > 1 => usize::from(layout.spatial) - 1,
            _ => self.streams.len() - 1,
        }
    }

    fn wish(&mut self, now: Instant, stream: usize) {
        self.streams[stream].wished.get_or_insert(now);
    }
}

/// From where a consumer (re)started to where it stopped.
struct Run {
    since: Instant,
    stream: usize,
    epoch: u32,
    first_in: u64,
    highest_in: u64,
    first_out: u64,
    dropped: BTreeSet<u64>,
    forwarded: BTreeSet<u64>,
    /// Arrived, but too old.
    forgotten: BTreeSet<u64>,
    /// Output time minus input time.
    offset: i64,
    /// Input time up to which it was replayed.
    edge: Option<i64>,
    pictures: Option<Pictures>,
}

impl Run {
    fn number(&self, sequence: u64) -> u64 {
        let dropped = (self.dropped.len() - self.dropped.range(sequence..).count()) as u64;
        self.first_out + (sequence - self.first_in) - dropped
    }

    fn next_number(&self) -> u64 {
        self.number(self.highest_in + 1)
    }

    /// Output time of a frame.
    fn time(&self, time: u64) -> i64 {
        let time = time as i64;
        let behind = self.edge.map_or(0, |edge| (edge - time).max(0));
        time + self.offset + behind - behind / i64::from(REPLAY_SPEED)
    }

    /// Stretches of dropped packets above a number.
    fn drops_above(&self, sequence: u64) -> usize {
        let above = self.dropped.range(sequence..);
        above.filter(|n| !self.dropped.contains(&(**n - 1))).count()
    }
}

#[derive(Clone, Copy)]
struct Frame {
    time: i64,
    source: (usize, u32),
    captured: Option<Instant>,
    at: Instant,
}

struct Consumer {
    key: ConsumerKey,
    producer: usize,
    paused: bool,
    initial_sequence: u64,
    initial_time: u32,
    /// The last one is the current one while `flows`.
    runs: Vec<Run>,
    flows: bool,
    newest: Option<Frame>,
    marker: bool,
    used: BTreeMap<u64, u64>,
    left_out: BTreeSet<u64>,
    last_forward: Option<Instant>,
    /// The highest layers that it wants.
    preferred: (usize, Option<u8>),
    /// What the bandwidth allows.
    target: Option<Layers>,
    svc: bool,
    next: Next,
    /// When a packet of a layer within a stream was let through.
    layer_times: BTreeMap<(u8, u8), Instant>,
    /// The layers that were told last.
    told: Option<Layers>,
}

impl Consumer {
    fn current(&self) -> Option<usize> {
        self.runs
            .last()
            .filter(|_| self.flows)
            .map(|run| run.stream)
    }

    /// The highest layers that it is to get.
    fn layers(&self) -> Option<Layers> {
        let spatial = self.preferred.0.min(self.target?.spatial.into());
        Some(Layers::new(spatial as u8, self.highest_temporal(spatial)))
    }

    fn highest_temporal(&self, spatial: usize) -> u8 {
        let target = self.target.unwrap_or_default();
        let (preferred, temporal) = self.preferred;
        if spatial > preferred || spatial > target.spatial.into() {
            return 0;
        }
        let wish = temporal.filter(|_| spatial == preferred);
        let limit = Some(target.temporal).filter(|_| spatial == usize::from(target.spatial));
        wish.unwrap_or(u8::MAX).min(limit.unwrap_or(u8::MAX))
    }

    /// The highest stream that it is to get.
    fn cap(&self) -> Option<usize> {
        let layers = self.layers()?;
        Some(if self.svc { 15 } else { layers.spatial.into() })
    }

    /// The highest layers within a stream that it is to get.
    fn cap_within(&self, stream: usize) -> Layers {
        if self.svc {
            self.layers().unwrap_or_default()
        } else {
            Layers::new(u8::MAX, self.highest_temporal(stream))
        }
    }
}

enum Expected {
    Nothing,
    Wish,
    Start,
    Continue,
}

#[derive(Default)]
pub struct Model {
    producers: BTreeMap<usize, Producer>,
    consumers: Vec<Consumer>,
    pub report: Report,
}

impl Model {
    pub fn create_producer(&mut self, index: usize, client: &Client, paused_at: Option<Instant>) {
        let streams = std::iter::repeat_with(Stream::default)
            .take(client.sources.len())
            .collect();
        let producer = Producer {
            kind: client.kind,
            codec: client.codec,
            clock_rate: client.clock_rate(),
            streams,
            paused_at,
            layout: client.layout,
            sent: None,
        };
        self.producers.insert(index, producer);
    }

    pub fn close_producer(&mut self, index: usize) -> Result<Vec<ConsumerKey>, String> {
        let closed: Vec<ConsumerKey> = self
            .consumers
            .iter()
            .filter(|c| c.producer == index)
            .map(|c| c.key)
            .collect();
        for key in &closed {
            self.close_consumer(*key)?;
        }
        self.producers.remove(&index);
        Ok(closed)
    }

    pub fn pause_producer(&mut self, now: Instant, index: usize) {
        let producer = self.producers.get_mut(&index).unwrap();
        producer.paused_at.get_or_insert(now);
        producer
            .streams
            .iter_mut()
            .for_each(|stream| (stream.wished, stream.may_be_asked) = (None, false));
        for consumer in self.consumers.iter_mut().filter(|c| c.producer == index) {
            consumer.flows = false;
        }
    }

    pub fn resume_producer(&mut self, now: Instant, index: usize) {
        let producer = self.producers.get_mut(&index).unwrap();
        let Some(paused_at) = producer.paused_at.take() else {
            return;
        };
        for stream in &mut producer.streams {
            // Also when something came during the pause, however old that is.
            let last = stream.arrivals.last().copied();
            if last.is_some_and(|last| last + STREAM_TIMEOUT > paused_at) {
                stream.arrivals = vec![now];
            }
        }
        let active = self
            .consumers
            .iter()
            .find(|c| c.producer == index && !c.paused);
        if let Some(key) = active.map(|c| c.key) {
            self.request_key_frame(now, key);
        }
    }

    pub fn set_sent(&mut self, index: usize, layers: Option<u8>) {
        self.producers.get_mut(&index).unwrap().sent = layers;
    }

    pub fn set_health(&mut self, index: usize, stream: usize, healthy: bool) {
        let producer = self.producers.get_mut(&index).unwrap();
        producer.streams[stream].failing = !healthy;
    }

    pub fn restart_stream(&mut self, index: usize, stream: usize) {
        let stream = &mut self.producers.get_mut(&index).unwrap().streams[stream];
        let Stream {
            was_ever_seen,
            wished,
            asked,
            may_be_asked,
            ..
        } = std::mem::take(stream);
        *stream = Stream {
            was_ever_seen,
            wished,
            asked,
            may_be_asked,
            ..Stream::default()
        };
    }

    pub fn create_consumer(
        &mut self,
        now: Instant,
        key: ConsumerKey,
        producer: usize,
        paused: bool,
        initial_sequence: u16,
        initial_time: u32,
    ) {
        self.consumers.push(Consumer {
            key,
            producer,
            paused,
            initial_sequence: u64::from(initial_sequence),
            initial_time,
            runs: Vec::new(),
            flows: false,
            newest: None,
            marker: true,
            used: BTreeMap::new(),
            left_out: BTreeSet::new(),
            last_forward: None,
            preferred: (15, None),
            target: Some(Layers::HIGHEST),
            svc: self.producers[&producer].is_svc(),
            next: Next::default(),
            layer_times: BTreeMap::new(),
            told: None,
        });
        self.request_key_frame(now, key);
    }

    pub fn close_consumer(&mut self, key: ConsumerKey) -> Checked {
        let position = self.consumers.iter().position(|c| c.key == key).unwrap();
        check_history(&self.consumers.remove(position))
    }

    pub fn pause_consumer(&mut self, key: ConsumerKey) {
        let consumer = self.consumer_mut(key);
        consumer.paused = true;
        consumer.flows = false;
    }

    pub fn resume_consumer(&mut self, now: Instant, key: ConsumerKey) {
        if std::mem::replace(&mut self.consumer_mut(key).paused, false) {
            self.request_key_frame(now, key);
        }
    }

    pub fn producer_of(&mut self, key: ConsumerKey) -> usize {
        self.consumer_mut(key).producer
    }

    pub fn request_key_frame(&mut self, now: Instant, key: ConsumerKey) {
        let consumer = self.consumer_mut(key);
        let (current, Some(cap)) = (consumer.current(), consumer.cap()) else {
            return;
        };
        let (index, paused) = (consumer.producer, consumer.paused);
        let producer = self.producers.get_mut(&index).unwrap();
        if paused || producer.paused_at.is_some() || producer.kind == MediaKind::Audio {
            return;
        }
        let seen = producer
            .streams
            .iter()
            .rposition(|stream| !stream.received.is_empty());
        let current = current.filter(|stream| producer.active(now).contains(stream));
        match current.or(producer.best(now, cap)).or(seen) {
            Some(stream) => producer.wish(now, stream),
            None => (0..producer.streams.len()).for_each(|stream| producer.wish(now, stream)),
        }
    }

    pub fn prefer(
        &mut self,
        key: ConsumerKey,
        layers: (usize, Option<u8>),
        kept: usize,
    ) -> Checked {
        let index = self.consumer_mut(key).producer;
        let highest = self.producers[&index].highest_spatial();
        let consumer = self.consumer_mut(key);
        consumer.preferred = (layers.0.min(highest), layers.1);
        self.report.preferences += 1;
        if kept == layers.0.min(highest) {
            Ok(())
        } else {
            Err(format!("{layers:?} became {kept}"))
        }
    }

    pub fn set_target(&mut self, now: Instant, key: ConsumerKey, target: Option<Layers>) {
        let consumer = self.consumer_mut(key);
        let before = std::mem::replace(&mut consumer.target, target);
        consumer.flows &= target.is_some();
        if before.is_none() && target.is_some() {
            self.request_key_frame(now, key);
        }
        self.report.targets += 1;
    }

    /// Notes what was told about a consumer.
    pub fn told(&mut self, key: ConsumerKey, layers: Option<Layers>) -> Checked {
        let consumer = self.consumer_mut(key);
        if std::mem::replace(&mut consumer.told, layers) == layers {
            return Err(format!("{layers:?} was told twice"));
        }
        let producer = consumer.producer;
        self.report.told += 1;
        if self.producers[&producer].is_layered() {
            Ok(())
        } else {
            Err("it has no layers".into())
        }
    }

    /// Checks that everybody knows what every consumer of layers gets.
    pub fn check_told(&self, current: impl Fn(ConsumerKey) -> Option<Layers>) -> Checked {
        for consumer in &self.consumers {
            let Consumer { key, told, .. } = consumer;
            if !self.producers[&consumer.producer].is_layered() {
                continue;
            }
            if *told != current(*key) {
                return Err(format!("{key:?}: layer was not told"));
            }
            let stream = told.map(|layers| usize::from(layers.spatial));
            if consumer.svc && stream.is_some() == consumer.flows {
                continue;
            }
            if stream != consumer.current() {
                return Err(format!("{key:?}: {told:?} is not what it gets"));
            }
        }
        Ok(())
    }

    fn consumer_mut(&mut self, key: ConsumerKey) -> &mut Consumer {
        self.consumers
            .iter_mut()
            .find(|consumer| consumer.key == key)
            .unwrap()
    }

    /// Checks a request to a producing client.
    pub fn asked(&mut self, now: Instant, index: usize, stream: usize) -> Checked {
        let producer = self
            .producers
            .get_mut(&index)
            .ok_or("asked a closed producer")?;
        let is_paused = producer.paused_at.is_some();
        let stream = &mut producer.streams[stream];
        if is_paused || producer.kind == MediaKind::Audio || !stream.was_ever_seen {
            return Err("asked where nothing can be asked".into());
        }
        if stream
            .asked
            .is_some_and(|last| now - last < KEY_FRAME_INTERVAL)
        {
            return Err("asked twice within a second".into());
        }
        if stream.wished.take().is_none() && !stream.may_be_asked {
            return Err(format!(
                "asked producer {index} ({:?}) for nobody",
                producer.layout
            ));
        }
        stream.may_be_asked = false;
        stream.asked = Some(now);
        self.report.requests += 1;
        Ok(())
    }

    /// Checks that nobody waits for a request that should have been sent by now.
    pub fn check_wishes(&self, now: Instant) -> Checked {
        for (index, producer) in &self.producers {
            for (number, stream) in producer.streams.iter().enumerate() {
                let Some(wished) = stream.wished.filter(|_| !stream.received.is_empty()) else {
                    continue;
                };
                let allowed = stream
                    .asked
                    .map_or(wished, |last| last + KEY_FRAME_INTERVAL);
                if now >= allowed.max(wished) {
                    return Err(format!("producer {index} stream {number} should be asked"));
                }
            }
        }
        Ok(())
    }

    /// Checks everything that was made of one packet.
    pub fn packet(&mut self, now: Instant, packet: &Packet, out: &[Forward]) -> Checked {
        let mut out: Vec<Forward> = out.to_vec();
        self.check_packet(now, packet, &mut out)?;
        match out.first() {
            None => Ok(()),
            Some(extra) => Err(format!("{extra:?} of {packet:?} should not be")),
        }
    }

    /// Takes out of `out` what should be in there.
    fn check_packet(&mut self, now: Instant, packet: &Packet, out: &mut Vec<Forward>) -> Checked {
        let producer = self.producers.get_mut(&packet.producer).unwrap();
        let needs_key_frame = producer.kind == MediaKind::Video && producer.codec != Codec::Other;
        let stream = &mut producer.streams[packet.stream];
        let newest = stream
            .received
            .last()
            .is_none_or(|last| packet.sequence > *last);
        if !stream.received.insert(packet.sequence) {
            return Ok(());
        }
        stream.was_ever_seen = true;
        let mut readable = true;
        if let Some(frame) = packet
            .frame
            .as_ref()
            .filter(|_| producer.codec == Codec::Av1)
        {
            let (structure, brings) = frame.structure;
            let is_newer = stream
                .structure
                .is_none_or(|(since, _)| since <= frame.number);
            if brings && is_newer {
                stream.structure = Some((frame.number, structure));
            }
            readable = brings || stream.structure.is_some_and(|(_, last)| last == structure);
            if !readable {
                stream.unreadable.insert(packet.sequence);
            }
        }
        let mut can_start = newest && packet.content != Content::Padding;
        if packet.content != Content::Padding {
            stream.arrivals.push(now);
        }
        if needs_key_frame {
            let looks = packet.content == Content::KeyFrame;
            can_start &= looks && stream.last_key_frame != Some(packet.time);
            if looks {
                stream.last_key_frame = Some(packet.time);
                stream.wished = None;
                stream.may_be_asked = false;
            }
        }
        if producer.paused_at.is_some() {
            return Ok(());
        }
        for consumer in self
            .consumers
            .iter_mut()
            .filter(|c| c.producer == packet.producer)
        {
            let expected = expect(
                now,
                producer,
                consumer,
                packet,
                newest,
                can_start,
                &mut self.report,
            );
            if matches!(expected, Expected::Wish) {
                producer.wish(now, packet.stream);
            }
            let actual = out
                .iter()
                .position(|f| f.consumer == consumer.key)
                .map(|i| out.remove(i));
            let result = match (expected, actual) {
                (Expected::Nothing | Expected::Wish, None) => Ok(()),
                (Expected::Start, Some(actual)) => {
                    check_start(now, producer, consumer, packet, &mut self.report)
                        .and_then(|()| {
                            check_time_of_start(now, producer, consumer, packet, &actual)
                        })
                        .and_then(|()| check_numbers(now, consumer, packet, &actual))
                        .and_then(|()| {
                            check_picture(now, consumer, packet, (true, true), Some(&actual))
                        })
                }
                (Expected::Continue, None) if newest && packet.frame.is_some() => {
                    let stream = &mut producer.streams[packet.stream];
                    let run = consumer.runs.last_mut().unwrap();
                    let waits_long = now - run.since >= PATIENCE;
                    stream.may_be_asked |= consumer.svc || waits_long;
                    self.report.layers += 1;
                    run.dropped.insert(packet.sequence);
                    run.highest_in = packet.sequence;
                    check_picture(now, consumer, packet, (newest, readable), None)
                }
                (Expected::Continue, Some(actual)) => {
                    self.report.late += u64::from(!newest);
                    self.report.emptied += u64::from(actual.payload == Payload::Empty);
                    let patched = matches!(actual.payload, Payload::Patched(_));
                    self.report.patched += u64::from(patched || actual.frame_number.is_some());
                    check_numbers(now, consumer, packet, &actual).and_then(|()| {
                        check_picture(now, consumer, packet, (newest, readable), Some(&actual))
                    })
                }
                (_, None) => Err("is missing".into()),
                (_, Some(actual)) => Err(format!("should not be: {actual:?}")),
            };
            result.map_err(|reason| format!("{packet:?} to {:?}: {reason}", consumer.key))?;
            self.report.forwarded += u64::from(actual.is_some());
        }
        Ok(())
    }

    /// Resumes a consumer of which nothing was asked.
    pub fn resume_quietly(&mut self, key: ConsumerKey) {
        self.consumer_mut(key).paused = false;
    }

    /// Checks what was replayed to a consumer: `out` has the index of each packet.
    pub fn replay(
        &mut self,
        now: Instant,
        key: ConsumerKey,
        packets: &[Packet],
        epoch: u32,
        (begun, mut out): (bool, Vec<(usize, Forward)>),
    ) -> Checked {
        let consumer = self.consumers.iter_mut().find(|c| c.key == key).unwrap();
        let producer = &self.producers[&consumer.producer];
        let stream = packets[0].stream;
        let may_begin = consumer
            .cap()
            .is_some_and(|cap| stream <= cap || producer.best(now, cap) == Some(stream));
        let waits = !consumer.paused && !consumer.flows && producer.paused_at.is_none();
        let is_same = packets[0].epoch == epoch;
        if begun != (may_begin && waits && is_same) {
            return Err(format!("{key:?} has begun: {begun}"));
        }
        if !begun {
            return if out.is_empty() {
                Ok(())
            } else {
                Err("something was replayed".into())
            };
        }
        self.report.replays += 1;
        out.reverse();
        for (index, packet) in packets.iter().enumerate() {
            let actual = out
                .pop_if(|(of, _)| *of == index)
                .map(|(_, forward)| forward);
            if actual.is_some_and(|actual| actual.consumer != key) {
                return Err("to somebody else".into());
            }
            let is_padding = packet.content == Content::Padding;
            if actual.is_some_and(|actual| is_padding || actual.payload == Payload::Empty) {
                return Err(format!("{packet:?} could be left out"));
            }
            let readable = !producer.streams[stream]
                .unreadable
                .contains(&packet.sequence);
            let result = match actual {
                Some(actual) if index == 0 => {
                    check_start(now, producer, consumer, packet, &mut self.report)
                        .and_then(|()| {
                            check_time_of_replay(now, producer, consumer, packets, &actual)
                        })
                        .and_then(|()| check_numbers(now, consumer, packet, &actual))
                        .and_then(|()| {
                            check_picture(now, consumer, packet, (true, true), Some(&actual))
                        })
                }
                None if index > 0 && is_padding => {
                    let run = consumer.runs.last_mut().unwrap();
                    run.dropped.insert(packet.sequence);
                    run.highest_in = packet.sequence;
                    Ok(())
                }
                None if index > 0 && packet.frame.is_some() => {
                    let run = consumer.runs.last_mut().unwrap();
                    run.dropped.insert(packet.sequence);
                    run.highest_in = packet.sequence;
                    check_picture(now, consumer, packet, (true, readable), None)
                }
                Some(actual) => check_numbers(now, consumer, packet, &actual).and_then(|()| {
                    check_picture(now, consumer, packet, (true, readable), Some(&actual))
                }),
                None => Err("is missing".into()),
            };
            result.map_err(|reason| format!("{packet:?} again to {key:?}: {reason}"))?;
            self.report.replayed += u64::from(actual.is_some());
        }
        if out.is_empty() {
            Ok(())
        } else {
            Err(format!("{} packets of nothing", out.len()))
        }
    }

    /// Once the storm is over, everybody gets the best that they want.
    pub fn check_calm(&self, now: Instant) -> Checked {
        for consumer in &self.consumers {
            let producer = &self.producers[&consumer.producer];
            let Some(cap) = consumer.layers() else {
                if consumer.flows {
                    return Err(format!("{:?} should get nothing", consumer.key));
                }
                continue;
            };
            let highest = match producer.sent {
                Some(sent) if consumer.svc => usize::from(sent) - 1,
                _ => producer.highest_spatial(),
            };
            let spatial = highest.min(cap.spatial.into()) as u8;
            let stream = if consumer.svc { 0 } else { spatial.into() };
            let within = consumer.cap_within(stream);
            let layered = producer.layout.filter(|layout| layout.bits > 0);
            let temporal = layered.map_or(0, |layout| within.temporal.min(layout.temporal - 1));
            let best = Layers::new(spatial, temporal);
            if producer.is_layered() && consumer.told != Some(best) {
                return Err(format!(
                    "{:?} gets {:?}, not {best:?}",
                    consumer.key, consumer.told
                ));
            }
            let last = if layered.is_some() {
                let within = if consumer.svc { spatial } else { 0 };
                consumer.layer_times.get(&(within, temporal)).copied()
            } else {
                consumer.last_forward
            };
            let recent = last.is_some_and(|at| now - at < Duration::from_millis(250));
            if consumer.current() != Some(stream) || !recent {
                return Err(format!("{:?} does not get {best:?}", consumer.key));
            }
            check_history(consumer)?;
        }
        Ok(())
    }
}

fn expect(
    now: Instant,
    producer: &Producer,
    consumer: &mut Consumer,
    packet: &Packet,
    newest: bool,
    can_start: bool,
    report: &mut Report,
) -> Expected {
    let Some(cap) = consumer.cap().filter(|_| !consumer.paused) else {
        return Expected::Nothing;
    };
    let is_padding = packet.content == Content::Padding;
    let mut waits = !consumer.flows;
    if let Some(run) = consumer.runs.last_mut().filter(|_| consumer.flows) {
        if run.stream != packet.stream {
            if producer.move_from(now, run.stream, cap) != Some(packet.stream) {
                return Expected::Nothing;
            }
        } else if run.epoch != packet.epoch {
            consumer.flows = false;
            waits = true;
        } else if is_padding && newest {
            run.dropped.insert(packet.sequence);
            run.highest_in = packet.sequence;
            report.dropped += 1;
            return Expected::Nothing;
        } else if packet.sequence < run.first_in {
            return Expected::Nothing;
        } else if run.drops_above(packet.sequence) > DROP_HISTORY {
            run.forgotten.insert(packet.sequence);
            report.too_old += 1;
            return Expected::Nothing;
        } else {
            return Expected::Continue;
        }
    }
    let is_best = producer.best(now, cap) == Some(packet.stream);
    if can_start && (!waits || packet.stream <= cap || is_best) {
        return Expected::Start;
    }
    let is_welcome = !waits || is_best;
    if is_welcome && !is_padding && producer.kind == MediaKind::Video {
        Expected::Wish
    } else {
        Expected::Nothing
    }
}

/// Begins a run.
fn check_start(
    now: Instant,
    producer: &Producer,
    consumer: &mut Consumer,
    packet: &Packet,
    report: &mut Report,
) -> Checked {
    let mut first_out = consumer
        .runs
        .last()
        .map_or(consumer.initial_sequence, Run::next_number);
    if !consumer.runs.is_empty() && producer.kind == MediaKind::Video && !consumer.marker {
        consumer.left_out.insert(first_out);
        first_out += 1;
        report.skipped += 1;
    }
    report.starts += 1;
    report.switches += u64::from(consumer.flows);
    let before = consumer.newest;
    if let Some(pictures) = consumer.runs.last().and_then(|run| run.pictures.as_ref()) {
        consumer.next = pictures.next(consumer.next);
    }
    let layout = producer.layout.zip(packet.frame.as_ref());
    let pictures = layout.map(|(layout, frame)| Pictures::start(layout, frame, consumer.next));
    consumer.flows = true;
    consumer.runs.push(Run {
        since: now,
        stream: packet.stream,
        epoch: packet.epoch,
        first_in: packet.sequence,
        highest_in: packet.sequence,
        first_out,
        dropped: BTreeSet::new(),
        forwarded: BTreeSet::new(),
        forgotten: BTreeSet::new(),
        offset: 0,
        edge: None,
        pictures,
    });
    if before.is_some_and(|frame| frame.at > now) {
        return Err("time goes back".into());
    }
    Ok(())
}

/// Works out the offset of a run that just began, and checks the timestamp that it begins with.
fn check_time_of_start(
    now: Instant,
    producer: &Producer,
    consumer: &mut Consumer,
    packet: &Packet,
    actual: &Forward,
) -> Checked {
    let source = (packet.stream, packet.epoch);
    let previous_offset = consumer.runs.iter().rev().nth(1).map(|run| run.offset);
    let run = consumer.runs.last_mut().unwrap();
    let time = match (&consumer.newest, previous_offset) {
        (Some(frame), Some(offset)) if frame.source == source => packet.time as i64 + offset,
        (Some(frame), _) => {
            let passed = (now - frame.at).as_secs_f64();
            let step = match (frame.captured, packet.captured) {
                (Some(from), Some(to)) => {
                    let step = to.saturating_duration_since(from).as_secs_f64()
                        - from.saturating_duration_since(to).as_secs_f64();
                    if (step - passed).abs() > CAPTURE_TRUST.as_secs_f64() {
                        return Err("the simulation's clocks are off".into());
                    }
                    step
                }
                _ => passed,
            };
            let expected = (step * f64::from(producer.clock_rate)).max(1.0);
            // Rounding is free; from here on the actual step is what counts.
            let step = actual.timestamp.wrapping_sub(frame.time as u32);
            if step == 0 || (f64::from(step) - expected).abs() > 1.0 {
                return Err(format!("{step} ticks after the last frame, not {expected}"));
            }
            frame.time + i64::from(step)
        }
        (None, _) => i64::from(consumer.initial_time),
    };
    if consumer.newest.is_some_and(|frame| time < frame.time) {
        return Err("the source's clock went back".into());
    }
    run.offset = time - packet.time as i64;
    consumer.newest = Some(Frame {
        time,
        source,
        captured: packet.captured,
        at: now,
    });
    Ok(())
}

/// The same for a run that is replayed: its newest frame is where it would be by itself, unless
/// there is no room for what comes before it.
fn check_time_of_replay(
    now: Instant,
    producer: &Producer,
    consumer: &mut Consumer,
    packets: &[Packet],
    first: &Forward,
) -> Checked {
    let has_payload = |packet: &&Packet| packet.content != Content::Padding;
    let edge = packets.iter().rev().find(has_payload).unwrap();
    let behind = edge.time as i64 - packets[0].time as i64;
    let squeezed = behind / i64::from(REPLAY_SPEED);
    let before = consumer.newest;
    let early = Forward {
        timestamp: (i64::from(first.timestamp) + squeezed) as u32,
        ..*first
    };
    let mut result = check_time_of_start(now, producer, consumer, edge, &early);
    if let Some(before) = before.filter(|before| first.timestamp == (before.time + 1) as u32) {
        // It may have been moved on, but not further than that.
        let by_itself = match (result.is_ok(), &consumer.newest) {
            (true, Some(frame)) => frame.time,
            _ => i64::MIN,
        };
        if by_itself > before.time + 1 + squeezed {
            return Err("moved on without need".into());
        }
        let time = before.time + 1 + squeezed;
        consumer.runs.last_mut().unwrap().offset = time - edge.time as i64;
        consumer.newest = Some(Frame {
            time,
            source: (edge.stream, edge.epoch),
            captured: edge.captured,
            at: now,
        });
        result = Ok(());
    }
    consumer.runs.last_mut().unwrap().edge = Some(edge.time as i64);
    result
}

/// Checks the numbers of a packet of the current run.
fn check_numbers(
    now: Instant,
    consumer: &mut Consumer,
    packet: &Packet,
    actual: &Forward,
) -> Checked {
    let run = consumer.runs.last_mut().unwrap();
    let number = run.number(packet.sequence);
    if actual.sequence != number {
        return Err(format!("number {}, not {number}", actual.sequence));
    }
    if let Some(other) = consumer.used.insert(number, packet.sequence) {
        return Err(format!("number {number} was used for {other}"));
    }
    if number < run.first_out || number < consumer.initial_sequence {
        return Err(format!("number {number} is below the first one"));
    }
    let time = run.time(packet.time);
    if actual.timestamp != time as u32 {
        return Err(format!("time {}, not {}", actual.timestamp, time as u32));
    }
    if actual.marker != packet.marker && packet.frame.is_none() {
        return Err("another marker".into());
    }
    run.forwarded.insert(packet.sequence);
    if packet.sequence >= run.highest_in {
        run.highest_in = packet.sequence;
        consumer.marker = actual.marker;
    }
    if let Some(frame) = consumer.newest.as_mut().filter(|frame| time > frame.time) {
        *frame = Frame {
            time,
            captured: packet.captured,
            at: now,
            ..*frame
        };
    }
    consumer.last_forward = Some(now);
    Ok(())
}

/// Checks what became of the picture that a packet belongs to. `actual`: what was forwarded of the
/// packet.
fn check_picture(
    now: Instant,
    consumer: &mut Consumer,
    packet: &Packet,
    (newest, readable): (bool, bool),
    actual: Option<&Forward>,
) -> Checked {
    let cap = consumer.cap_within(packet.stream);
    let run = consumer.runs.last_mut().unwrap();
    let (Some(pictures), Some(frame)) = (run.pictures.as_mut(), packet.frame.as_ref()) else {
        let is_same = actual.is_none_or(|actual| actual.payload == Payload::Same);
        return if is_same {
            Ok(())
        } else {
            Err("another payload".into())
        };
    };
    if actual.is_some_and(|actual| actual.payload != Payload::Empty) {
        let layer = (frame.spatial(), frame.temporal);
        consumer.layer_times.insert(layer, now);
    }
    if !readable {
        return pictures.unreadable(packet, frame, actual);
    }
    pictures.packet(packet, frame, newest, cap, actual)
}

/// Looks at all that a consumer ever got: every number up to the last is used once, or kept for a
/// packet that did not come in time, or left out on purpose.
fn check_history(consumer: &Consumer) -> Checked {
    let mut next = consumer.initial_sequence;
    for run in &consumer.runs {
        if consumer.left_out.contains(&next) {
            next += 1;
        }
        for sequence in run.first_in..=run.highest_in {
            if run.dropped.contains(&sequence) {
                continue;
            }
            let used = consumer.used.get(&next) == Some(&sequence);
            if used != run.forwarded.contains(&sequence) {
                return Err(format!("{:?}: number {next} is wrong", consumer.key));
            }
            next += 1;
        }
    }
    let in_all: usize = consumer.runs.iter().map(|run| run.forwarded.len()).sum();
    if in_all != consumer.used.len() {
        return Err(format!(
            "{:?}: {in_all} packets, {} numbers",
            consumer.key,
            consumer.used.len()
        ));
    }
    Ok(())
}
