//! What is believed of the way to a client, in tables.

use super::*;

#[test]
fn limits_are_checked_and_kept() {
    let limits = |initial, min, max| BitrateLimits::new(initial, min, max);
    assert_eq!(limits(None, None, None), Ok(BitrateLimits::default()));
    assert_eq!(limits(None, None, Some(500_000)).unwrap().initial, 500_000);
    assert_eq!(
        limits(None, Some(2_000_000), None).unwrap().initial,
        2_000_000
    );
    assert_eq!(limits(None, None, Some(10_000)).unwrap().min, 10_000);
    for (min, max) in [(None, Some(0)), (Some(2), Some(1))] {
        let error = limits(None, min, max).unwrap_err().to_string();
        assert!(error.starts_with("max_outgoing_bitrate: "), "{error}");
    }
    let now = Instant::now();
    let mut bandwidth = Bandwidth::new(limits(None, Some(100), Some(1000)).unwrap());
    for (told, available) in [(50, 100), (500, 500), (5000, 1000)] {
        bandwidth.handle_remb(told);
        assert_eq!(bandwidth.available(now, 0), Some(available));
    }
    bandwidth.set_counts(true);
    assert_eq!(bandwidth.available(now, 0), Some(1000));
}

#[test]
fn who_sends_no_feedback_is_not_limited() {
    let start = Instant::now();
    let later = start + FEEDBACK_WITHIN;
    let mut bandwidth = Bandwidth::new(BitrateLimits::default());
    assert_eq!(bandwidth.available(start, 0), None);
    bandwidth.set_counts(true);
    bandwidth.want(start, 1, false);
    assert_eq!(bandwidth.available(start, 0), Some(1_050_000));
    assert_eq!(bandwidth.available(later, 0), None);
    assert!(!bandwidth.handle_remb(300_000), "we know better");
    bandwidth.set_counts(false);
    assert!(bandwidth.handle_remb(300_000));
    assert_eq!(bandwidth.available(later, 0), Some(300_000));
    assert!(bandwidth.handle_remb(u64::MAX));
    assert_eq!(bandwidth.available(later, 0), Some(MAX_ESTIMATE));
    bandwidth.estimate = None;
    assert_eq!(bandwidth.available(later, 0), None);
}

/// A client that counts, behind a link with a way of 25 ms, of the server's clock.
struct Client {
    start: Instant,
    bandwidth: Bandwidth,
    ms: u64,
    /// Bits per second.
    rate: u64,
    /// Microseconds at which the link is free, and at which each packet arrives.
    free: u64,
    arrivals: Vec<Option<u64>>,
    reported: usize,
    messages: u8,
}

impl Client {
    fn new(rate: u64) -> Self {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(BitrateLimits::default());
        bandwidth.set_counts(true);
        bandwidth.want(start, 1_600_000, false);
        Self {
            start,
            bandwidth,
            ms: 0,
            rate,
            free: 0,
            arrivals: Vec::new(),
            reported: 0,
            messages: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    /// Runs up to then with 1.6 Mbit/s and what is probed, of which only one in so many
    /// passes; answers when another bitrate became available, ms.
    fn run(&mut self, until: u64, one_in: usize) -> Vec<u64> {
        let mut changes = Vec::new();
        while self.ms < until {
            self.ms += 1;
            if self.ms.is_multiple_of(5) {
                self.send(1000, one_in);
            }
            while let Some((at, _)) = self.bandwidth.next_probe()
                && at <= self.now()
            {
                self.send(250, one_in);
            }
            if self.ms.is_multiple_of(200) {
                let wants = self.bandwidth.available(self.now(), 0) < Some(1_800_000);
                self.bandwidth.want(self.now(), 1_600_000, wants);
            }
            if self.ms.is_multiple_of(50) && self.report() {
                changes.push(self.ms);
            }
        }
        changes
    }

    fn send(&mut self, len: usize, one_in: usize) {
        self.bandwidth.note_departure(self.now(), len);
        let passes = self.arrivals.len().is_multiple_of(one_in);
        let micros = self.ms * 1000;
        if passes {
            self.free = self.free.max(micros) + len as u64 * 8_000_000 / self.rate;
        }
        self.arrivals.push(passes.then_some(self.free + 25_000));
    }

    /// Feedback about what has arrived.
    fn report(&mut self) -> bool {
        let now = self.ms * 1000;
        let has_come = |at: &Option<u64>| at.is_some_and(|at| at <= now);
        let Some(last) = self.arrivals.iter().rposition(has_come) else {
            return false;
        };
        let all = self
            .arrivals
            .get(self.reported..=last)
            .unwrap_or_default()
            .to_vec();
        let first = self.reported as u16;
        self.reported = last + 1;
        let Some(mut time) = all.iter().flatten().min().map(|at| at / 64_000) else {
            return false;
        };
        self.messages = self.messages.wrapping_add(1);
        let mut message = first.to_be_bytes().to_vec();
        message.extend_from_slice(&(all.len() as u16).to_be_bytes());
        message.extend_from_slice(&(time as u32).to_be_bytes()[1..]);
        message.push(self.messages);
        time *= 64_000;
        let mut deltas = Vec::new();
        for arrival in all {
            let Some(arrival) = arrival else {
                message.extend_from_slice(&[0, 1]);
                continue;
            };
            message.extend_from_slice(&[0x40, 1]);
            let delta = ((arrival as i64 - time as i64) / 250) as i16;
            time = time.saturating_add_signed(i64::from(delta) * 250);
            deltas.extend_from_slice(&delta.to_be_bytes());
        }
        message.extend_from_slice(&deltas);
        let sent = 1_600_000;
        self.bandwidth
            .handle_feedback(self.now(), &message, || sent)
    }

    fn available(&self) -> u64 {
        self.bandwidth.available(self.now(), 0).unwrap()
    }
}

#[test]
fn more_is_probed_for_until_there_is_enough() {
    let mut client = Client::new(10_000_000);
    client.run(1000, 1);
    let available = client.available();
    assert!((1_800_000..2_300_000).contains(&available), "{available}");
    client.run(2000, 1);
    let packets = client.arrivals.len();
    client.run(7000, 1);
    assert_eq!(client.arrivals.len(), packets + 1000, "no more probes");
}

#[test]
fn a_collapse_is_seen_at_once_and_told_once() {
    let mut client = Client::new(10_000_000);
    client.run(3000, 1);
    assert!(!client.bandwidth.take_collapse());
    client.rate = 300_000;
    let changes = client.run(3350, 1);
    assert!(!changes.is_empty());
    assert!(client.bandwidth.take_collapse(), "{}", client.available());
    assert!(!client.bandwidth.take_collapse());
    let available = client.available();
    assert!((200_000..350_000).contains(&available), "{available}");
    // What is lost without a queue, too.
    let mut client = Client::new(10_000_000);
    client.run(3000, 1);
    client.run(3200, 4);
    assert!(client.bandwidth.take_collapse());
    assert!(client.available() < 400_000, "{}", client.available());
}

#[test]
fn who_wants_nothing_is_not_probed() {
    let mut client = Client::new(10_000_000);
    client.bandwidth.want(client.now(), 5_000_000, true);
    assert!(client.bandwidth.next_probe().is_some());
    client.bandwidth.want_nothing();
    assert_eq!(client.bandwidth.next_probe(), None);
    client.bandwidth.want(client.now(), 0, true);
    assert_eq!(client.bandwidth.next_probe(), None);
    client.bandwidth.set_counts(false);
    client.bandwidth.want(client.now(), 5_000_000, true);
    assert_eq!(client.bandwidth.next_probe(), None, "nobody counts");
}
