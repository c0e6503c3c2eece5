//! What the router should do, computed the slow way: whole histories instead of counters, times
//! that never wrap, every number worked out from the packets that took part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use router::{
    CAPTURE_TRUST, Codec, ConsumerKey, DROP_HISTORY, Forward, KEY_FRAME_INTERVAL, MediaKind,
    STEADY_AFTER, STREAM_TIMEOUT,
};

use crate::client::{Content, Packet};
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
}

impl Producer {
    /// What to take of some streams: the highest up to the cap, else the lowest.
    fn pick(streams: &[usize], cap: usize) -> Option<usize> {
        let wanted = streams.iter().filter(|stream| **stream <= cap).max();
        wanted.or(streams.iter().min()).copied()
    }

    fn active(&self, now: Instant) -> Vec<usize> {
        let all = 0..self.streams.len();
        all.filter(|s| self.streams[*s].is_active(now)).collect()
    }

    fn best(&self, now: Instant, cap: usize) -> Option<usize> {
        Self::pick(&self.active(now), cap)
    }

    fn move_from(&self, now: Instant, current: usize, cap: usize) -> Option<usize> {
        let all = 0..self.streams.len();
        let steady: Vec<usize> = all.filter(|s| self.streams[*s].is_steady(now)).collect();
        let best = Self::pick(&steady, cap)?;
        let stopped = !self.streams[current].is_active(now);
        // Worse is left alone while it flows.
        let better = Self::pick(&[best, current], cap) == Some(best);
        (best != current && (better || stopped)).then_some(best)
    }

    fn wish(&mut self, now: Instant, stream: usize) {
        self.streams[stream].wished.get_or_insert(now);
    }
}

/// From where a consumer (re)started to where it stopped.
struct Run {
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
}

impl Run {
    fn number(&self, sequence: u64) -> u64 {
        let dropped = (self.dropped.len() - self.dropped.range(sequence..).count()) as u64;
        self.first_out + (sequence - self.first_in) - dropped
    }

    fn next_number(&self) -> u64 {
        self.number(self.highest_in + 1)
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
    /// The highest stream that it wants.
    cap: usize,
    /// The stream that was told last.
    told: Option<usize>,
}

impl Consumer {
    fn current(&self) -> Option<usize> {
        self.runs
            .last()
            .filter(|_| self.flows)
            .map(|run| run.stream)
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
    pub fn create_producer(
        &mut self,
        index: usize,
        kind: MediaKind,
        codec: Codec,
        clock_rate: u32,
        streams: usize,
        paused_at: Option<Instant>,
    ) {
        let streams = std::iter::repeat_with(Stream::default)
            .take(streams)
            .collect();
        let producer = Producer {
            kind,
            codec,
            clock_rate,
            streams,
            paused_at,
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
            .for_each(|stream| stream.wished = None);
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

    pub fn restart_stream(&mut self, index: usize, stream: usize) {
        let stream = &mut self.producers.get_mut(&index).unwrap().streams[stream];
        let Stream {
            was_ever_seen,
            wished,
            asked,
            ..
        } = std::mem::take(stream);
        *stream = Stream {
            was_ever_seen,
            wished,
            asked,
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
            cap: usize::MAX,
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

    pub fn request_key_frame(&mut self, now: Instant, key: ConsumerKey) {
        let consumer = self.consumer_mut(key);
        let (current, cap) = (consumer.current(), consumer.cap);
        let (index, paused) = (consumer.producer, consumer.paused);
        let producer = self.producers.get_mut(&index).unwrap();
        if paused || producer.paused_at.is_some() || producer.kind == MediaKind::Audio {
            return;
        }
        let seen = producer
            .streams
            .iter()
            .rposition(|stream| !stream.received.is_empty());
        let current = current.filter(|stream| producer.streams[*stream].is_active(now));
        match current.or(producer.best(now, cap)).or(seen) {
            Some(stream) => producer.wish(now, stream),
            None => (0..producer.streams.len()).for_each(|stream| producer.wish(now, stream)),
        }
    }

    pub fn prefer(&mut self, key: ConsumerKey, cap: usize, kept: usize) -> Checked {
        let index = self.consumer_mut(key).producer;
        let highest = self.producers[&index].streams.len() - 1;
        self.consumer_mut(key).cap = cap;
        self.report.preferences += 1;
        if kept == cap.min(highest) {
            Ok(())
        } else {
            Err(format!("{cap} became {kept}"))
        }
    }

    /// Notes what was told about a consumer.
    pub fn told(&mut self, key: ConsumerKey, stream: Option<usize>) -> Checked {
        let consumer = self.consumer_mut(key);
        if std::mem::replace(&mut consumer.told, stream) == stream {
            return Err(format!("{stream:?} was told twice"));
        }
        let producer = consumer.producer;
        self.report.told += 1;
        if self.producers[&producer].streams.len() > 1 {
            Ok(())
        } else {
            Err("it has no layers".into())
        }
    }

    /// Checks that everybody knows what every consumer of layers gets.
    pub fn check_told(&self) -> Checked {
        for consumer in &self.consumers {
            let layered = self.producers[&consumer.producer].streams.len() > 1;
            if layered && consumer.told != consumer.current() {
                return Err(format!("{:?}: layer was not told", consumer.key));
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
        stream.wished.take().ok_or("asked for nobody")?;
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
                }
                (Expected::Continue, Some(actual)) => {
                    self.report.late += u64::from(!newest);
                    check_numbers(now, consumer, packet, &actual)
                }
                (_, None) => Err("is missing".into()),
                (_, Some(actual)) => Err(format!("should not be: {actual:?}")),
            };
            result.map_err(|reason| format!("{packet:?} to {:?}: {reason}", consumer.key))?;
            self.report.forwarded += u64::from(actual.is_some());
        }
        Ok(())
    }

    /// Once the storm is over, everybody gets the best that they want.
    pub fn check_calm(&self, now: Instant) -> Checked {
        for consumer in &self.consumers {
            let highest = self.producers[&consumer.producer].streams.len() - 1;
            let (best, stream) = (highest.min(consumer.cap), consumer.current());
            let recent = consumer
                .last_forward
                .is_some_and(|at| now - at < Duration::from_millis(200));
            if stream != Some(best) || !recent {
                return Err(format!("{:?} gets {stream:?}, not {best}", consumer.key));
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
    if consumer.paused {
        return Expected::Nothing;
    }
    let is_padding = packet.content == Content::Padding;
    let mut waits = !consumer.flows;
    if let Some(run) = consumer.runs.last_mut().filter(|_| consumer.flows) {
        if run.stream != packet.stream {
            if producer.move_from(now, run.stream, consumer.cap) != Some(packet.stream) {
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
    let is_best = producer.best(now, consumer.cap) == Some(packet.stream);
    if can_start && (!waits || packet.stream <= consumer.cap || is_best) {
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
    consumer.flows = true;
    consumer.runs.push(Run {
        stream: packet.stream,
        epoch: packet.epoch,
        first_in: packet.sequence,
        highest_in: packet.sequence,
        first_out,
        dropped: BTreeSet::new(),
        forwarded: BTreeSet::new(),
        forgotten: BTreeSet::new(),
        offset: 0,
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
    let time = packet.time as i64 + run.offset;
    if actual.timestamp != time as u32 {
        return Err(format!("time {}, not {}", actual.timestamp, time as u32));
    }
    if actual.marker != packet.marker {
        return Err("another marker".into());
    }
    run.forwarded.insert(packet.sequence);
    if packet.sequence >= run.highest_in {
        run.highest_in = packet.sequence;
        consumer.marker = packet.marker;
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
