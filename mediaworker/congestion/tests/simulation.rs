//! The estimator over a bottleneck: a link with a rate, a queue, a way, loss and jitter,
//! a receiver that writes feedback as browsers do, and a sender that sends what it is
//! told. The same seed gives the same run.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use congestion::{Controller, Limits, Report};

const LIMITS: Limits = Limits {
    initial: 1_000_000,
    min: 30_000,
    max: 100_000_000,
};
const MILLI: i64 = 1_000;
const SECOND: i64 = 1_000_000;

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What the receiver knows of a packet: its number and when it arrived.
#[derive(Default)]
struct Receiver {
    arrived: BTreeMap<u64, i64>,
    next: u64,
    messages: u8,
    highest: u64,
}

/// Writes a message: the number of the first packet, and when each arrived.
fn write(base: u64, message: u8, arrivals: &[Option<i64>]) -> Vec<u8> {
    let first = arrivals.iter().flatten().next().copied().unwrap_or(0);
    let reference = first.div_euclid(64 * MILLI);
    let mut to = (base as u16).to_be_bytes().to_vec();
    to.extend_from_slice(&(arrivals.len() as u16).to_be_bytes());
    to.extend_from_slice(&(reference as u32).to_be_bytes()[1..]);
    to.push(message);
    let mut last = reference * 64 * MILLI;
    let mut deltas = Vec::new();
    let mut symbols = Vec::new();
    for arrival in arrivals {
        let Some(arrival) = arrival else {
            symbols.push(0);
            continue;
        };
        let delta = (arrival - last).div_euclid(250);
        last += delta * 250;
        match u8::try_from(delta) {
            Ok(delta) => {
                symbols.push(1u16);
                deltas.push(delta);
            }
            Err(_) => {
                symbols.push(2);
                deltas.extend_from_slice(&(delta as i16).to_be_bytes());
            }
        }
    }
    for seven in symbols.chunks(7) {
        let mut chunk = 0xc000;
        for (at, symbol) in seven.iter().enumerate() {
            chunk |= symbol << (12 - 2 * at);
        }
        to.extend_from_slice(&u16::to_be_bytes(chunk));
    }
    to.extend_from_slice(&deltas);
    to
}

impl Receiver {
    fn message(&mut self) -> Option<Vec<u8>> {
        let end = self.arrived.keys().next_back()? + 1;
        let base = self.next.min(*self.arrived.keys().next()?);
        self.next = self.next.max(end);
        let arrivals: Vec<_> = (base..end).map(|it| self.arrived.remove(&it)).collect();
        self.messages = self.messages.wrapping_add(1);
        Some(write(base, self.messages, &arrivals))
    }
}

/// What is sent.
#[derive(Clone, Copy)]
enum Source {
    /// Up to the estimate, and no more than this, in pictures of 40 ms.
    Camera(u64),
    /// So much, whatever the estimate is.
    Fixed(u64),
}

struct Simulation {
    start: Instant,
    now: i64,
    controller: Controller,
    random: Random,
    source: Source,
    /// Bits per second, longest queue and way (microseconds).
    rate: u64,
    queue: i64,
    way: i64,
    jitter: i64,
    loss: f64,
    free: i64,
    under_way: BTreeMap<(i64, u64), u64>,
    receiver: Receiver,
    /// The receiver's clock.
    clock: i64,
    feedback: VecDeque<(i64, Vec<u8>)>,
    feedback_loss: f64,
    feedback_jitter: i64,
    /// Octets that arrived.
    octets: u64,
    picture: i64,
    probe: i64,
    collapses: Vec<i64>,
    sent: u64,
    probed: u64,
}

impl Simulation {
    fn new(seed: u64, source: Source, rate: u64) -> Self {
        let start = Instant::now();
        let mut controller = Controller::new(LIMITS);
        controller.want(match source {
            Source::Camera(most) | Source::Fixed(most) => most * 3 / 2,
        });
        Self {
            start,
            now: 0,
            controller,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            source,
            rate,
            queue: 200 * MILLI,
            way: 25 * MILLI,
            jitter: 0,
            loss: 0.0,
            free: 0,
            under_way: BTreeMap::new(),
            receiver: Receiver::default(),
            clock: -77 * SECOND,
            feedback: VecDeque::new(),
            feedback_loss: 0.0,
            feedback_jitter: 0,
            octets: 0,
            picture: 0,
            probe: 0,
            collapses: Vec::new(),
            sent: 0,
            probed: 0,
        }
    }

    fn at(&self) -> Instant {
        self.start + Duration::from_micros(self.now as u64)
    }

    fn estimate(&self) -> u64 {
        self.controller.estimate()
    }

    fn send(&mut self, len: usize) {
        assert_eq!(self.controller.next_number(), self.sent as u16);
        self.controller.sent(self.at(), len);
        let number = self.sent;
        self.sent += 1;
        let waits = (self.free - self.now).max(0);
        if waits > self.queue || self.random.share() < self.loss {
            return;
        }
        let bits = (len as u64 + 28) * 8;
        self.free = self.now + waits + (bits * 1_000_000 / self.rate) as i64;
        let jitter = (self.random.share() * self.jitter as f64) as i64;
        self.under_way
            .insert((self.free + self.way + jitter, number), number);
        self.octets += len as u64 + 28;
    }

    /// A millisecond.
    fn step(&mut self) {
        self.now += MILLI;
        let later = self.under_way.split_off(&(self.now + 1, 0));
        for ((at, _), number) in std::mem::replace(&mut self.under_way, later) {
            self.receiver.arrived.insert(number, at + self.clock);
            self.receiver.highest = self.receiver.highest.max(number);
        }
        if self.now % (50 * MILLI) == 0
            && let Some(message) = self.receiver.message()
            && self.random.share() >= self.feedback_loss
        {
            let jitter = (self.random.share() * self.feedback_jitter as f64) as i64;
            self.feedback
                .push_back((self.now + self.way + jitter, message));
        }
        let (due, later): (Vec<_>, Vec<_>) =
            self.feedback.drain(..).partition(|it| it.0 <= self.now);
        self.feedback = later.into();
        for (_, message) in due {
            let report = self.controller.handle_feedback(self.at(), &message);
            if report.is_some_and(|report| report.collapsed.is_some()) {
                self.collapses.push(self.now);
            }
        }
        if self.now >= self.picture {
            self.picture += 40 * MILLI;
            let rate = match self.source {
                Source::Camera(most) => most.min(self.estimate() * 95 / 100),
                Source::Fixed(rate) => rate,
            };
            let octets = (rate / 8 / 25) as usize;
            let packets = octets.div_ceil(1100).max(1);
            (0..packets).for_each(|_| self.send(octets / packets));
        }
        if self.now - self.probe >= 1500 * MILLI && self.controller.probe(self.at()) {
            self.probe = self.now;
        }
        while let Some((at, rate)) = self.controller.next_probe()
            && at <= self.at()
        {
            self.send((rate / 2000).clamp(40, 240) as usize);
            self.probed += 1;
        }
    }

    fn run(&mut self, time: i64) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// What passed in a time, bits per second.
    fn goodput(&mut self, time: i64) -> u64 {
        let before = self.octets;
        self.run(time);
        (self.octets - before) * 8 * SECOND as u64 / time as u64
    }

    /// Time until something holds.
    fn until(&mut self, most: i64, holds: impl Fn(&Self) -> bool) -> i64 {
        let start = self.now;
        while !holds(self) {
            assert!(
                self.now - start < most,
                "not within {most}: {}",
                self.estimate()
            );
            self.step();
        }
        self.now - start
    }
}

#[test]
fn it_finds_out_what_a_link_carries() {
    for seed in 1..=10 {
        for rate in [300_000, 1_000_000, 2_500_000, 8_000_000, 30_000_000] {
            let mut link = Simulation::new(seed, Source::Camera(50_000_000), rate);
            link.jitter = 2 * MILLI;
            link.run(15 * SECOND);
            let passes = link.goodput(20 * SECOND) as f64 / rate as f64;
            println!("seed {seed}, {rate}: {passes:.2} of it passes");
            assert!((0.8..1.01).contains(&passes), "{seed} {rate}: {passes}");
        }
    }
}

#[test]
fn a_link_that_becomes_narrow_is_seen_at_once_and_found_again() {
    for seed in 1..=20 {
        let mut link = Simulation::new(seed, Source::Camera(2_000_000), 2_000_000);
        link.run(10 * SECOND + seed as i64 * 13 * MILLI);
        assert!(link.estimate() > 1_500_000, "{}", link.estimate());
        link.rate = 300_000;
        let narrow = link.now;
        let down = link.until(SECOND, |it| it.estimate() < 400_000);
        // The link was full before, so what it carried then is part of the first figure.
        assert!((1..=2).contains(&link.collapses.len()), "{down}");
        assert!(down <= 400 * MILLI, "{down}");
        link.run(2 * SECOND);
        let passes = link.goodput(8 * SECOND);
        assert!((220_000..303_000).contains(&passes), "{seed}: {passes}");
        link.rate = 2_000_000;
        assert!(link.collapses.iter().all(|at| at - narrow < SECOND));
        let up = link.until(3 * SECOND, |it| it.estimate() > 1_800_000);
        println!("seed {seed}: down in {down}, then {passes}, up in {up}");
    }
}

#[test]
fn random_loss_lowers_nothing() {
    for seed in 1..=10 {
        let mut link = Simulation::new(seed, Source::Camera(2_000_000), 4_000_000);
        link.run(8 * SECOND);
        let before = link.estimate();
        assert!(before > 1_900_000, "{before}");
        link.loss = 0.05;
        for _ in 0..60 {
            link.run(SECOND);
            assert!(link.estimate() > before * 9 / 10, "{}", link.estimate());
        }
        // Much more is too much.
        link.loss = 0.4;
        link.run(10 * SECOND);
        assert!(link.estimate() < 1_000_000, "{}", link.estimate());
    }
}

#[test]
fn a_queue_that_overflows_is_no_random_loss() {
    for seed in 1..=5 {
        // Of 7 % too much, 7 % are lost, and the queue is always full.
        let mut link = Simulation::new(seed, Source::Fixed(1_070_000), 1_000_000);
        link.run(20 * SECOND);
        let mut sum = 0;
        for _ in 0..100 {
            link.run(SECOND / 10);
            sum += link.estimate();
        }
        assert!((800_000..1_000_000).contains(&(sum / 100)), "{}", sum / 100);
    }
}

#[test]
fn pictures_that_take_a_moment_are_no_queue() {
    for seed in 1..=10 {
        let mut link = Simulation::new(seed, Source::Camera(2_000_000), 3_000_000);
        link.jitter = 3 * MILLI;
        link.run(10 * SECOND);
        let before = link.estimate();
        link.source = Source::Fixed(300_000);
        for second in 0..60 {
            // A key frame of 24 to 75 ms.
            (0..8 + second % 18).for_each(|_| link.send(1100));
            link.run(SECOND);
            assert!(link.estimate() >= before, "{}", link.estimate());
        }
    }
}

#[test]
fn jitter_of_a_few_packets_is_no_queue() {
    for seed in 1..=10 {
        let mut link = Simulation::new(seed, Source::Camera(2_000_000), 3_000_000);
        link.run(10 * SECOND);
        let before = link.estimate();
        link.source = Source::Fixed(200_000);
        link.jitter = 40 * MILLI;
        link.run(60 * SECOND);
        assert!(link.estimate() >= before, "{}", link.estimate());
    }
}

#[test]
fn who_sends_little_loses_nothing() {
    for seed in 1..=5 {
        let mut link = Simulation::new(seed, Source::Camera(2_000_000), 3_000_000);
        link.jitter = 5 * MILLI;
        link.run(10 * SECOND);
        let before = link.estimate();
        link.source = Source::Fixed(100_000);
        for _ in 0..60 {
            link.run(SECOND);
            assert!(link.estimate() >= before, "{}", link.estimate());
        }
        // Nothing at all, and then much at once: a key frame of a quarter of a second.
        link.source = Source::Fixed(0);
        link.run(10 * SECOND);
        (0..80).for_each(|_| link.send(1100));
        link.source = Source::Camera(1_500_000);
        link.run(5 * SECOND);
        assert!(link.estimate() > 1_500_000, "{}", link.estimate());
        assert_eq!(link.collapses, []);
    }
}

#[test]
fn feedback_may_be_lost_late_and_out_of_order() {
    for seed in 1..=10 {
        let mut link = Simulation::new(seed, Source::Camera(2_000_000), 3_000_000);
        link.run(5 * SECOND);
        let before = link.estimate();
        link.feedback_loss = 0.3;
        link.feedback_jitter = 300 * MILLI;
        let mut lowest = before;
        for _ in 0..300 {
            link.run(SECOND / 10);
            lowest = lowest.min(link.estimate());
            let lost = link.controller.loss(link.at()).unwrap_or(0.0);
            assert!(lost < 0.02, "{lost}");
        }
        assert!(lowest > before * 85 / 100, "{lowest} of {before}");
        assert_eq!(link.collapses, []);
        assert!(link.controller.round_trip() >= Some(Duration::from_millis(50)));
        assert!(link.controller.queue_delay() < Some(Duration::from_millis(30)));
    }
}

#[test]
fn numbers_and_clocks_wrap() {
    // 24 bits of 64 ms are over within the run, and so are 16 bits of packets.
    let wrap = (1 << 24) * 64 * MILLI;
    let mut link = Simulation::new(1, Source::Camera(4_000_000), 5_000_000);
    link.clock = wrap - 20 * SECOND;
    link.run(10 * SECOND);
    let before = link.estimate();
    for _ in 0..140 {
        link.run(SECOND);
        assert!(link.estimate() > before * 85 / 100, "{}", link.estimate());
        assert_eq!(link.controller.loss(link.at()), Some(0.0));
    }
    assert!(link.sent > 65_536);
    assert_eq!(link.collapses, []);
}

#[test]
fn nothing_is_probed_that_is_not_wanted() {
    let mut link = Simulation::new(1, Source::Fixed(500_000), 10_000_000);
    link.run(10 * SECOND);
    assert_eq!(link.probed, 0, "initially more is available");
    link.controller.want(3_000_000);
    link.run(10 * SECOND);
    let probed = link.probed;
    assert!(probed > 10 && link.estimate() > 2_700_000);
    link.controller.want(0);
    link.run(10 * SECOND);
    assert_eq!(link.probed, probed);
}

#[test]
fn what_is_known_is_not_probed_over_and_over() {
    for seed in 0..20 {
        // A little more is wanted than there is.
        let mut link = Simulation::new(seed, Source::Camera(3_000_000), 2_000_000);
        link.controller.want(2_400_000);
        link.run(10 * SECOND);
        let before = link.probed;
        link.run(30 * SECOND);
        let probed = link.probed - before;
        // Each 1.5 s, of 8,000 octets in packets of 240.
        assert!(probed <= 20 * 40, "seed {seed}: {probed} packets");
    }
}

#[test]
fn what_a_hostile_receiver_says_does_no_harm() {
    let mut random = Random(99);
    let start = Instant::now();
    let mut controller = Controller::new(LIMITS);
    controller.want(u64::MAX);
    for round in 0..30_000u64 {
        let now = start + Duration::from_millis(round * 7);
        for _ in 0..random.next() % 8 {
            controller.sent(now, random.next() as usize % 1500);
        }
        controller.probe(now);
        let mut message: Vec<u8> = (0..random.next() % 60)
            .map(|_| random.next() as u8)
            .collect();
        // Most of them are about something that was sent.
        if message.len() > 4 && !random.next().is_multiple_of(4) {
            let base = controller
                .next_number()
                .wrapping_sub(random.next() as u16 % 300);
            message[..2].copy_from_slice(&base.to_be_bytes());
            message[2..4].copy_from_slice(&(random.next() as u16 % 400).to_be_bytes());
        }
        if let Some(Report { arrived, lost, .. }) = controller.handle_feedback(now, &message) {
            assert!(arrived + lost <= 70_000);
        }
        let estimate = controller.estimate();
        assert!((LIMITS.min..=LIMITS.max).contains(&estimate));
        let loss = controller.loss(now).unwrap_or(0.0);
        assert!((0.0..=1.0).contains(&loss));
        controller.next_probe();
    }
}
