//! What a client receives: every packet is counted, some are decrypted, and the
//! server hears of loss and arrival as from any client.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use congestion::Untold;

use super::payload::Stamp;
use super::rtcp::{self, MAX_BLOCKS, ReportBlock};
use super::rtp::{self, Header};
use super::srtp::Keys;
use super::window::Window;

/// Missing packets that are kept count of for each stream; in a larger gap the
/// rest is lost without being asked for.
const MAX_MISSING: usize = 500;
/// Time for a packet to come out of order before it is asked for.
const REORDERING: Duration = Duration::from_millis(10);
/// Time from one request to the next.
const NACK_INTERVAL: Duration = Duration::from_millis(100);
/// Requests for one packet.
const MAX_NACKS: u8 = 10;

/// A stream as the server has announced it.
#[derive(Debug, Clone)]
pub struct ReceiveSpec {
    /// SSRC.
    pub ssrc: u32,
    /// SSRC of its retransmissions; without, nothing is asked for again.
    pub rtx: Option<u32>,
    /// VP8 rather than Opus.
    pub video: bool,
    /// Id of the transport-wide sequence number, if negotiated.
    pub transport_cc: Option<u8>,
}

#[derive(Debug)]
struct Missing {
    ask_at: Instant,
    asked: u8,
}

#[derive(Debug)]
struct Stream {
    spec: ReceiveSpec,
    /// Highest number so far.
    highest: Option<u64>,
    rtx_highest: Option<u64>,
    first: u64,
    unique: u64,
    missing: BTreeMap<u64, Missing>,
    /// `highest` and `unique` when the window was last taken.
    taken: (u64, u64),
    /// Expected and received when the last report was written.
    reported: (u64, u64),
    transit: Option<i64>,
    /// Jitter times 16 (RFC 3550 §A.8).
    jitter: i64,
    sender_report: Option<(u32, Instant)>,
}

/// What a packet was.
enum Arrived {
    New,
    Duplicate,
}

impl Stream {
    fn new(spec: ReceiveSpec) -> Self {
        Self {
            spec,
            highest: None,
            rtx_highest: None,
            first: 0,
            unique: 0,
            missing: BTreeMap::new(),
            taken: (0, 0),
            reported: (0, 0),
            transit: None,
            jitter: 0,
            sender_report: None,
        }
    }

    fn number(&self, sequence: u16) -> u64 {
        self.highest
            .map_or(u64::from(sequence), |last| rtp::extend(last, sequence))
    }

    fn record(&mut self, number: u64, now: Instant, window: &mut Window) -> Arrived {
        let Some(highest) = self.highest else {
            self.highest = Some(number);
            self.first = number;
            self.unique = 1;
            self.taken = (number.saturating_sub(1), 0);
            return Arrived::New;
        };
        if number > highest {
            for lost in highest + 1..number {
                window.gaps += 1;
                if self.missing.len() < MAX_MISSING {
                    let ask_at = now + REORDERING;
                    self.missing.insert(lost, Missing { ask_at, asked: 0 });
                }
            }
            self.highest = Some(number);
        } else if self.missing.remove(&number).is_none() {
            return Arrived::Duplicate;
        }
        self.unique += 1;
        Arrived::New
    }

    fn measure_jitter(&mut self, header: &Header, at: u64) {
        let clock = if self.spec.video { 90_000 } else { 48_000 };
        let arrival = i64::try_from(u128::from(at) * clock / 1_000_000_000).unwrap_or(0);
        let transit = arrival - i64::from(header.timestamp);
        if let Some(last) = self.transit.replace(transit) {
            // The RTP timestamp wraps: only the low 32 bits count.
            let difference = i64::from((transit - last) as i32);
            self.jitter += difference.abs() - ((self.jitter + 8) >> 4);
        }
    }

    fn take_window(&mut self, window: &mut Window) {
        let Some(highest) = self.highest else { return };
        let (last_highest, last_unique) = self.taken;
        window.expected += highest.saturating_sub(last_highest);
        window.unique += self.unique.saturating_sub(last_unique);
        self.taken = (highest, self.unique);
    }

    fn report(&mut self, now: Instant) -> Option<ReportBlock> {
        let highest = self.highest?;
        let expected = highest - self.first + 1;
        let (last_expected, last_unique) = self.reported;
        self.reported = (expected, self.unique);
        let due = expected.saturating_sub(last_expected);
        let lost_now = due.saturating_sub(self.unique.saturating_sub(last_unique));
        let (last_report, delay) = self.sender_report.map_or((0, 0), |(middle, at)| {
            let since = now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000;
            (middle, u32::try_from(since).unwrap_or(u32::MAX))
        });
        Some(ReportBlock {
            ssrc: self.spec.ssrc,
            fraction_lost: u8::try_from((lost_now * 256).checked_div(due).unwrap_or(0))
                .unwrap_or(u8::MAX),
            lost: u32::try_from(expected.saturating_sub(self.unique)).unwrap_or(u32::MAX),
            highest: u32::try_from(highest & 0xFFFF_FFFF).unwrap_or(0),
            jitter: u32::try_from(self.jitter >> 4).unwrap_or(0),
            last_report,
            delay,
        })
    }
}

/// The receiving half of a transport.
#[derive(Debug)]
pub struct Receiving {
    streams: HashMap<u32, Stream>,
    /// SSRC of retransmissions to that of the stream.
    rtx: HashMap<u32, u32>,
    transport_cc: Option<u8>,
    /// What transport-wide feedback is to be about.
    untold: Untold,
    /// A packet is decrypted when the next random number is below this.
    sample: u32,
    random: u32,
}

impl Receiving {
    /// Nothing yet. `sample`: share of packets to decrypt, 0 to 1.
    pub fn new(sample: f64) -> Self {
        let sample = (sample.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        Self {
            streams: HashMap::new(),
            rtx: HashMap::new(),
            transport_cc: None,
            untold: Untold::default(),
            sample,
            random: rand::random::<u32>() | 1,
        }
    }

    /// A consumer was announced.
    pub fn expect(&mut self, spec: ReceiveSpec) {
        self.transport_cc = spec.transport_cc.or(self.transport_cc);
        if let Some(rtx) = spec.rtx {
            self.rtx.insert(rtx, spec.ssrc);
        }
        self.streams.insert(spec.ssrc, Stream::new(spec));
    }

    /// A consumer is closed.
    pub fn forget(&mut self, ssrc: u32, window: &mut Window) {
        if let Some(mut stream) = self.streams.remove(&ssrc) {
            stream.take_window(window);
            if let Some(rtx) = stream.spec.rtx {
                self.rtx.remove(&rtx);
            }
        }
    }

    /// Streams, and those of them that packets came on.
    pub fn counts(&self) -> (usize, usize) {
        let flowing = self.streams.values().filter(|s| s.highest.is_some());
        (self.streams.len(), flowing.count())
    }

    /// True when the server numbers the transport's packets, and waits for
    /// feedback.
    pub fn wants_feedback(&self) -> bool {
        self.transport_cc.is_some()
    }

    /// Adds what the streams have counted.
    pub fn take_window(&mut self, window: &mut Window) {
        for stream in self.streams.values_mut() {
            stream.take_window(window);
        }
    }

    /// Xorshift: which packets are decrypted must not follow any pattern of the
    /// traffic.
    fn sampled(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random <= self.sample
    }

    /// Takes an RTP packet. `at`: the kernel's receive time. True when something
    /// is missing now that has to be asked for soon.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        at: u64,
        datagram: &mut [u8],
        keys: &Keys,
        window: &mut Window,
    ) -> bool {
        let bytes = u64::try_from(datagram.len()).unwrap_or(0);
        let Some(header) = rtp::read(datagram, self.transport_cc) else {
            window.undecryptable += 1;
            return false;
        };
        if let Some(sequence) = header.transport_sequence {
            let micros = i64::try_from(at / 1_000).unwrap_or(i64::MAX);
            self.untold.record(micros, sequence);
        }
        if let Some(&ssrc) = self.rtx.get(&header.ssrc) {
            window.received += 1;
            window.received_bytes += bytes;
            self.handle_rtx(now, &header, ssrc, datagram, keys, window);
            return false;
        }
        let sampled = self.sampled();
        let Some(stream) = self.streams.get_mut(&header.ssrc) else {
            window.unknown += 1;
            return false;
        };
        window.received += 1;
        window.received_bytes += bytes;
        let number = stream.number(header.sequence);
        if sampled {
            match keys.open_rtp(datagram, header.len, header.ssrc, number) {
                None => window.undecryptable += 1,
                // A server may pad or probe with payloads of its own.
                Some(payload) => {
                    if let Some(stamp) = Stamp::read(payload, stream.spec.video) {
                        window.sampled += 1;
                        let microseconds = at.saturating_sub(stamp.sent) / 1_000;
                        window.latency.record(microseconds);
                    }
                }
            }
        }
        stream.measure_jitter(&header, at);
        let gaps = window.gaps;
        if let Arrived::Duplicate = stream.record(number, now, window) {
            window.duplicates += 1;
        }
        window.gaps > gaps && stream.spec.rtx.is_some()
    }

    fn handle_rtx(
        &mut self,
        now: Instant,
        header: &Header,
        ssrc: u32,
        datagram: &mut [u8],
        keys: &Keys,
        window: &mut Window,
    ) {
        let Some(stream) = self.streams.get_mut(&ssrc) else {
            return;
        };
        let last = stream.rtx_highest.unwrap_or(header.sequence.into());
        let number = rtp::extend(last, header.sequence);
        stream.rtx_highest = Some(last.max(number));
        let padded = datagram.first().is_some_and(|first| first & 0x20 != 0);
        let Some(payload) = keys.open_rtp(datagram, header.len, header.ssrc, number) else {
            window.undecryptable += 1;
            return;
        };
        // Padding that probes for bandwidth has no original.
        let padding = match payload.last() {
            Some(&octets) if padded => usize::from(octets),
            _ => 0,
        };
        let media = payload.len().saturating_sub(padding);
        let Some(original) = payload.get(..media).and_then(|media| media.first_chunk()) else {
            return;
        };
        let number = stream.number(u16::from_be_bytes(*original));
        if stream.highest.is_none() {
            return;
        }
        match stream.record(number, now, window) {
            Arrived::New => window.recovered += 1,
            Arrived::Duplicate => window.duplicates += 1,
        }
    }

    /// A sender report came.
    pub fn sender_report(&mut self, now: Instant, ssrc: u32, middle: u32) {
        if let Some(stream) = self.streams.get_mut(&ssrc) {
            stream.sender_report = Some((middle, now));
        }
    }

    /// Writes NACKs that are due; answers when to ask next.
    pub fn write_nacks(&mut self, now: Instant, sender: u32, to: &mut Vec<u8>) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for stream in self.streams.values_mut() {
            if stream.missing.is_empty() {
                continue;
            }
            stream
                .missing
                .retain(|_, missing| missing.asked < MAX_NACKS || missing.ask_at > now);
            let mut ask = Vec::new();
            for (number, missing) in &mut stream.missing {
                if missing.ask_at <= now {
                    missing.asked += 1;
                    missing.ask_at = now + NACK_INTERVAL;
                    ask.push(u16::try_from(number & 0xFFFF).unwrap_or(0));
                }
                next = Some(next.map_or(missing.ask_at, |n| n.min(missing.ask_at)));
            }
            if !ask.is_empty() && stream.spec.rtx.is_some() {
                rtcp::write_nack(to, sender, stream.spec.ssrc, &ask);
            }
        }
        next
    }

    /// Writes transport-wide feedback, if there is any to give.
    pub fn write_feedback(&mut self, sender: u32, to: &mut Vec<u8>) {
        let media = self.streams.keys().next().copied().unwrap_or(0);
        if let Some(body) = self.untold.tell() {
            rtcp::write_transport_feedback(to, sender, media, &body);
        }
    }

    /// Writes receiver reports of all streams.
    pub fn write_reports(&mut self, now: Instant, sender: u32, to: &mut Vec<Vec<u8>>) {
        let blocks: Vec<ReportBlock> = self
            .streams
            .values_mut()
            .filter_map(|stream| stream.report(now))
            .collect();
        for chunk in blocks.chunks(MAX_BLOCKS) {
            let mut report = Vec::new();
            rtcp::write_receiver_report(&mut report, sender, chunk);
            to.push(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::sending::{Kind, SendSpec, Sending};
    use str0m::crypto::dtls::SrtpProfile;

    fn keys() -> Keys {
        let material: Vec<u8> = (0..56).collect();
        let keys = Keys::from_dtls(SrtpProfile::AEAD_AES_128_GCM, &material);
        keys.unwrap().0
    }

    #[test]
    fn loss_is_counted_asked_for_and_made_good() {
        let keys = keys();
        let mut stream = Sending::new(SendSpec {
            kind: Kind::Video { bitrate: 1_000_000 },
            mid: "1",
            ssrc: 10,
        });
        let mut packets = Vec::new();
        for _ in 0..10 {
            stream.tick(1_000, &keys, &mut 0, &mut packets);
        }
        let mut receiving = Receiving::new(1.0);
        receiving.expect(ReceiveSpec {
            ssrc: 10,
            rtx: Some(11),
            video: true,
            transport_cc: None,
        });
        assert_eq!(receiving.counts(), (1, 0));
        let (now, mut window) = (Instant::now(), Window::default());
        for (i, packet) in packets.iter().enumerate() {
            if [5, 20, 21].contains(&i) {
                continue;
            }
            let urgent =
                receiving.handle_rtp(now, 3_001_000, &mut packet.clone(), &keys, &mut window);
            assert_eq!(urgent, i == 6 || i == 22, "{i}");
        }
        let again = &mut packets[7].clone();
        receiving.handle_rtp(now, 3_001_000, again, &keys, &mut window);
        assert_eq!((window.gaps, window.duplicates), (3, 1));
        assert_eq!((window.sampled, window.undecryptable), (46, 0));
        assert!((window.latency.quantile(0.5) - 3.0).abs() < 0.01);

        let mut out = Vec::new();
        assert_eq!(
            receiving.write_nacks(now, 1, &mut out),
            Some(now + REORDERING)
        );
        assert!(out.is_empty());
        let later = now + REORDERING;
        receiving.write_nacks(later, 1, &mut out);
        let mut asked = Vec::new();
        rtcp::read(&out, |heard| {
            if let rtcp::Heard::Nack { sequence, .. } = heard {
                asked.push(sequence);
            }
        });
        assert_eq!(asked.len(), 3);
        let mut resent = Vec::new();
        for sequence in &asked[..2] {
            assert!(stream.resend(*sequence, &keys, &mut 0, &mut resent));
        }
        for packet in &mut resent {
            receiving.handle_rtp(later, 4_000_000, packet, &keys, &mut window);
        }
        assert_eq!(window.recovered, 2);
        // Padding on the stream for retransmissions is no packet of long ago.
        let written = rtp::Written {
            payload_type: 97,
            marker: false,
            sequence: 40_000,
            timestamp: 0,
            ssrc: 11,
            extensions: &[],
        };
        let mut padding = Vec::new();
        let len = rtp::write(&mut padding, &written);
        padding[0] |= 0x20;
        padding.extend_from_slice(&[[0; 99].as_slice(), &[100]].concat());
        assert!(keys.seal_rtp(&mut padding, len, 11, 40_000));
        receiving.handle_rtp(later, 4_000_000, &mut padding, &keys, &mut window);
        assert_eq!((window.recovered, window.gaps), (2, 3));
        receiving.take_window(&mut window);
        assert_eq!((window.expected, window.unique), (48, 47));
        let mut reports = Vec::new();
        receiving.write_reports(later, 1, &mut reports);
        assert_eq!(reports.len(), 1);
        // Fraction and cumulative loss: 1 of 48.
        assert_eq!(reports[0][12..16], [5, 0, 0, 1]);
        // Given up in the end.
        let mut at = later;
        while let Some(next) = receiving.write_nacks(at, 1, &mut out) {
            assert!(at < later + Duration::from_secs(5));
            at = next;
        }
    }

    #[test]
    fn what_was_not_announced_or_is_forged_is_told_apart() {
        let keys = keys();
        let mut receiving = Receiving::new(1.0);
        let (now, mut window) = (Instant::now(), Window::default());
        let mut packet = vec![0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 10];
        packet.resize(60, 0);
        receiving.handle_rtp(now, 1, &mut packet.clone(), &keys, &mut window);
        assert_eq!(window.unknown, 1);
        receiving.expect(ReceiveSpec {
            ssrc: 10,
            rtx: None,
            video: false,
            transport_cc: None,
        });
        receiving.handle_rtp(now, 1, &mut packet, &keys, &mut window);
        assert_eq!((window.undecryptable, window.received), (1, 1));
        receiving.forget(10, &mut window);
        assert_eq!((window.expected, receiving.counts()), (1, (0, 0)));
    }
}
