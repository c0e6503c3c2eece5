//! What a run has found, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use crate::floor::{Costs, Floor, Mix};
use crate::media::{Times, Window, float, ratio};
use crate::process::{CpuTime, Usage};

/// Above this share of its core, the rod measures itself.
pub const MAX_GENERATOR: f64 = 0.85;
/// Share of the sampled packets that may fail to decrypt before the run counts
/// for nothing.
const MAX_UNDECRYPTABLE: f64 = 0.001;

/// Smallest share of packets that must have been decrypted.
const MIN_SAMPLED: f64 = 0.05;
/// In fewer packets, chance decides how many are decrypted.
const FEW: u64 = 10_000;

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Half took no longer.
    pub p50: f64,
    /// 95 % took no longer.
    pub p95: f64,
    /// 99 % took no longer.
    pub p99: f64,
}

impl From<&Times> for Percentiles {
    fn from(times: &Times) -> Self {
        Self {
            count: times.count(),
            p50: times.quantile(0.5),
            p95: times.quantile(0.95),
            p99: times.quantile(0.99),
        }
    }
}

/// How large the scenario was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Clients.
    pub peers: u32,
    /// Their transports.
    pub transports: u32,
    /// Streams that they receive.
    pub consumers: u32,
    /// Nothing is sent on them.
    pub silent: bool,
}

/// What went over the wire while it was measured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Traffic {
    /// RTP packets that the clients received.
    pub forwarded: u64,
    /// Of them each second.
    pub packets_per_second: f64,
    /// Of their UDP payload.
    pub megabits_per_second: f64,
    /// RTP packets that the clients sent each second.
    pub sent_per_second: f64,
    /// Share of the forwarded packets that were decrypted, 0 to 1.
    pub sampled: f64,
    /// Sampled packets that could not be decrypted.
    pub undecryptable: u64,
    /// Packets of streams that the server had not announced.
    pub unknown: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Share of packets that never came, 0 to 1.
    pub loss: f64,
    /// Packets that were missing at first.
    pub missing_at_first: u64,
    /// Of them, those that came by retransmission.
    pub recovered: u64,
    /// Packets that the server asked the clients for again.
    pub resent: u64,
    /// Keyframes that it asked for.
    pub key_frame_requests: u64,
}

impl Traffic {
    /// From what was counted in a time.
    pub fn new(window: &Window, seconds: f64) -> Self {
        Self {
            forwarded: window.received,
            packets_per_second: float(window.received) / seconds,
            megabits_per_second: float(window.received_bytes) * 8.0 / 1e6 / seconds,
            sent_per_second: float(window.sent) / seconds,
            sampled: ratio(window.sampled, window.received),
            undecryptable: window.undecryptable,
            unknown: window.unknown,
            duplicates: window.duplicates,
            loss: window.loss(),
            missing_at_first: window.gaps,
            recovered: window.recovered,
            resent: window.resent,
            key_frame_requests: window.key_frame_requests,
        }
    }
}

/// CPU time of some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Microseconds in user mode for each forwarded packet.
    pub user_per_packet: f64,
    /// Microseconds in the kernel for each forwarded packet.
    pub system_per_packet: f64,
    /// Share of a core, 1 for all of it.
    pub share_of_core: f64,
}

impl Spent {
    /// From CPU time that was used in a time for a number of packets.
    pub fn new(cpu: CpuTime, packets: u64, seconds: f64) -> Self {
        Self {
            user_per_packet: ratio(cpu.user, packets),
            system_per_packet: ratio(cpu.system, packets),
            share_of_core: float(cpu.total()) / 1e6 / seconds,
        }
    }

    fn per_packet(&self) -> f64 {
        self.user_per_packet + self.system_per_packet
    }
}

/// CPU time of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ServerCpu {
    /// The control plane.
    pub control: Spent,
    /// The media workers.
    pub workers: Spent,
}

impl ServerCpu {
    /// All processes, microseconds for each forwarded packet.
    pub fn per_packet(&self) -> f64 {
        self.control.per_packet() + self.workers.per_packet()
    }
}

/// The server's CPU time for each packet, as multiples of the floor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// Sealing and `sendto`, without a reader.
    pub sendto: f64,
    /// The same with a reader.
    pub sendto_with_reader: f64,
    /// The run's own batch sizes, without a reader.
    pub own_batches: Option<f64>,
    /// The same with a reader.
    pub own_batches_with_reader: Option<f64>,
}

impl Ratios {
    /// Of CPU time for each packet (microseconds).
    pub fn new(per_packet: f64, floor: &Floor, mix: Option<&Mix>) -> Self {
        Self {
            sendto: per_packet / floor.without_reader.sendto,
            sendto_with_reader: per_packet / floor.with_reader.sendto,
            own_batches: mix.map(|mix| per_packet / mix.without_reader),
            own_batches_with_reader: mix.map(|mix| per_packet / mix.with_reader),
        }
    }
}

/// Resident memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// The control plane, under load.
    pub control: u64,
    /// The workers, under load.
    pub workers: u64,
    /// What the workers grew by since nobody was there, for each consumer.
    pub workers_per_consumer: f64,
    /// The same for each client.
    pub workers_per_peer: f64,
    /// What the control plane grew by, for each client.
    pub control_per_peer: f64,
}

impl Memory {
    /// From usage before and under load.
    pub fn new(idle: (Usage, Usage), loaded: (Usage, Usage), load: Load) -> Self {
        let grown = |loaded: Usage, idle: Usage| loaded.memory.saturating_sub(idle.memory);
        let workers = grown(loaded.1, idle.1);
        Self {
            control: loaded.0.memory,
            workers: loaded.1.memory,
            workers_per_consumer: ratio(workers, load.consumers.into()),
            workers_per_peer: ratio(workers, load.peers.into()),
            control_per_peer: ratio(grown(loaded.0, idle.0), load.peers.into()),
        }
    }
}

/// Clients that joined while it was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Joins {
    /// How many began.
    pub started: u64,
    /// How many came through.
    pub joined: u64,
    /// Of them each second.
    pub per_second: f64,
}

/// One step of a ramp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Step {
    /// Viewers.
    pub viewers: u32,
    /// Forwarded each second.
    pub packets_per_second: f64,
    /// Share lost, 0 to 1.
    pub loss: f64,
    /// p99 of latency, milliseconds.
    pub p99: f64,
    /// Share of a core that the workers used.
    pub workers: f64,
    /// Share of a core that the rod used.
    pub generator: f64,
}

/// What the rod itself needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Generator {
    /// Share of its core. Above 0.85 the run counts for nothing.
    pub share_of_core: f64,
    /// How late it sent.
    pub lateness: Percentiles,
}

/// Everything that a run has found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The scenario in words.
    pub scenario: String,
    /// Why the run counts for nothing; empty when it counts.
    pub problems: Vec<String>,
    /// How long it was measured.
    pub seconds: f64,
    /// How large it was.
    pub load: Load,
    /// What went over the wire.
    pub traffic: Traffic,
    /// CPU time of the server, when its pid is known.
    pub cpu: Option<ServerCpu>,
    /// The floor of the machine.
    pub floor: Option<Floor>,
    /// The floor at the server's own batch sizes.
    pub mix: Option<Mix>,
    /// CPU time of all processes against the floor.
    pub ratios: Option<Ratios>,
    /// CPU time of the workers alone against the floor.
    pub worker_ratios: Option<Ratios>,
    /// From a packet's stamp to the kernel's receive time at the receiver.
    pub latency: Percentiles,
    /// From opening the socket to the answer to `join`.
    pub join: Percentiles,
    /// From the first connectivity check of a transport to the end of its
    /// handshake.
    pub connected: Percentiles,
    /// From opening the socket to the first media packet, of all clients that did
    /// not come first into their room.
    pub first_packet: Percentiles,
    /// Joins while it was measured; of `churn`.
    pub joins: Option<Joins>,
    /// Steps; of `ramp`.
    pub steps: Vec<Step>,
    /// Memory of the server, when its pid is known.
    pub memory: Option<Memory>,
    /// What the rod needed.
    pub generator: Generator,
}

impl Report {
    /// Looks for reasons why the run counts for nothing.
    pub fn judge(&mut self) {
        let share = self.generator.share_of_core;
        if share > MAX_GENERATOR {
            self.problems.push(format!(
                "the generator used {:.0} % of its core; above {:.0} % it measures itself",
                share * 100.0,
                MAX_GENERATOR * 100.0
            ));
        }
        if self.traffic.forwarded == 0 && !self.load.silent {
            self.problems.push("no packet was forwarded".into());
        }
        let bad = ratio(self.traffic.undecryptable, self.traffic.forwarded);
        if bad > MAX_UNDECRYPTABLE {
            self.problems.push(format!(
                "{} packets could not be decrypted",
                self.traffic.undecryptable
            ));
        }
        if self.traffic.forwarded > FEW && self.traffic.sampled < MIN_SAMPLED {
            self.problems.push(format!(
                "only {:.1} % of packets were decrypted and had a stamp",
                self.traffic.sampled * 100.0
            ));
        }
        if self.traffic.forwarded > 0 && self.latency.count == 0 {
            self.problems.push("no latency was measured".into());
        }
    }

    /// True when the run counts.
    pub fn valid(&self) -> bool {
        self.problems.is_empty()
    }
}

/// A line of a report.
pub(crate) fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<22}{value}")
}

/// A line of percentiles.
pub(crate) fn percentiles(f: &mut fmt::Formatter<'_>, name: &str, of: Percentiles) -> fmt::Result {
    let Percentiles {
        count,
        p50,
        p95,
        p99,
    } = of;
    let text = format!("p50 {p50:.2}  p95 {p95:.2}  p99 {p99:.2} ms  ({count})");
    row(f, name, &text)
}

fn spent(f: &mut fmt::Formatter<'_>, name: &str, of: Spent) -> fmt::Result {
    let text = format!(
        "{:.2} µs/packet ({:.2} user, {:.2} system), {:.1} % of a core",
        of.per_packet(),
        of.user_per_packet,
        of.system_per_packet,
        of.share_of_core * 100.0
    );
    row(f, name, &text)
}

fn costs(f: &mut fmt::Formatter<'_>, name: &str, of: &Costs) -> fmt::Result {
    let text = format!(
        "seal {:.2}  +sendto {:.2}  +sendmmsg {:.2}  +GSO 4 {:.2}  +GSO 16 {:.2} µs/packet",
        of.seal, of.sendto, of.sendmmsg, of.gso_4, of.gso_16
    );
    row(f, name, &text)
}

fn ratios(f: &mut fmt::Formatter<'_>, name: &str, of: &Ratios) -> fmt::Result {
    let own = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
    let text = format!(
        "{:.2} × sendto ({:.2} with reader), {} × own batches ({} with reader)",
        of.sendto,
        of.sendto_with_reader,
        own(of.own_batches),
        own(of.own_batches_with_reader)
    );
    row(f, name, &text)
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        costs(f, "floor, no reader", &self.without_reader)?;
        costs(f, "floor, with reader", &self.with_reader)
    }
}

impl Report {
    fn write_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cpu) = &self.cpu {
            let total = format!("{:.2} µs/packet", cpu.per_packet());
            row(f, "CPU, all processes", &total)?;
            spent(f, "  control plane", cpu.control)?;
            spent(f, "  workers", cpu.workers)?;
        }
        if let Some(of) = &self.ratios {
            ratios(f, "× floor, all", of)?;
        }
        if let Some(of) = &self.worker_ratios {
            ratios(f, "× floor, workers", of)?;
        }
        if let Some(memory) = &self.memory {
            let text = format!(
                "workers {:.1} MB: {:.1} KiB/consumer, {:.1} KiB/peer; control {:.1} MB: {:.1} KiB/peer",
                float(memory.workers) / 1e6,
                memory.workers_per_consumer / 1024.0,
                memory.workers_per_peer / 1024.0,
                float(memory.control) / 1e6,
                memory.control_per_peer / 1024.0
            );
            row(f, "memory", &text)?;
        }
        if let Some(floor) = &self.floor {
            write!(f, "{floor}")?;
        }
        if let Some(mix) = &self.mix {
            let text = format!(
                "{:.2} packets/send: {:.2} µs/packet ({:.2} with reader)",
                mix.packets_per_send, mix.without_reader, mix.with_reader
            );
            row(f, "floor, own batches", &text)?;
        }
        Ok(())
    }

    fn write_steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "  viewers  packets/s   loss %   p99 ms  workers %  generator %"
        )?;
        for step in &self.steps {
            writeln!(
                f,
                "  {:>7}  {:>9.0}  {:>7.2}  {:>7.2}  {:>9.1}  {:>11.1}",
                step.viewers,
                step.packets_per_second,
                step.loss * 100.0,
                step.p99,
                step.workers * 100.0,
                step.generator * 100.0
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load {
            peers,
            transports,
            consumers,
            ..
        } = self.load;
        writeln!(f, "{}", self.scenario)?;
        let text = format!("{peers} peers, {transports} transports, {consumers} consumers");
        row(f, "load", &text)?;
        let traffic = &self.traffic;
        let text = format!(
            "{:.0} packets/s, {:.1} Mbit/s for {:.1} s ({:.0} packets/s sent)",
            traffic.packets_per_second,
            traffic.megabits_per_second,
            self.seconds,
            traffic.sent_per_second
        );
        row(f, "forwarded", &text)?;
        let text = format!(
            "{:.3} % lost ({} missing at first, {} retransmitted)",
            traffic.loss * 100.0,
            traffic.missing_at_first,
            traffic.recovered
        );
        row(f, "loss", &text)?;
        percentiles(f, "latency", self.latency)?;
        percentiles(f, "join", self.join)?;
        percentiles(f, "transport up", self.connected)?;
        percentiles(f, "first packet", self.first_packet)?;
        if let Some(joins) = &self.joins {
            let text = format!(
                "{} of {}, {:.1}/s",
                joins.joined, joins.started, joins.per_second
            );
            row(f, "joined", &text)?;
        }
        self.write_steps(f)?;
        self.write_server(f)?;
        let text = format!(
            "{:.1} % of its core; {:.1} % of packets decrypted; late p99 {:.2} ms",
            self.generator.share_of_core * 100.0,
            traffic.sampled * 100.0,
            self.generator.lateness.p99
        );
        row(f, "generator", &text)?;
        for problem in &self.problems {
            writeln!(f, "  INVALID: {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut window = Window {
            received: 1_000,
            received_bytes: 1_250_000,
            expected: 1_000,
            unique: 990,
            sampled: 80,
            ..Window::default()
        };
        window.latency.record(2_000);
        let cpu = |user, system| CpuTime { user, system };
        Report {
            scenario: "a test".into(),
            seconds: 10.0,
            traffic: Traffic::new(&window, 10.0),
            latency: (&window.latency).into(),
            cpu: Some(ServerCpu {
                control: Spent::new(cpu(1_000, 0), 1_000, 10.0),
                workers: Spent::new(cpu(6_000, 4_000), 1_000, 10.0),
            }),
            ..Report::default()
        }
    }

    #[test]
    fn figures_are_per_packet_and_second() {
        let report = report();
        assert!((report.traffic.packets_per_second - 100.0).abs() < 1e-9);
        assert!((report.traffic.megabits_per_second - 1.0).abs() < 1e-9);
        assert!((report.traffic.loss - 0.01).abs() < 1e-9);
        let cpu = report.cpu.unwrap();
        assert!((cpu.per_packet() - 11.0).abs() < 1e-9);
        assert!((cpu.workers.share_of_core - 0.001).abs() < 1e-9);
        let costs = Costs {
            sendto: 5.5,
            ..Costs::default()
        };
        let floor = Floor {
            without_reader: costs,
            with_reader: Costs {
                sendto: 11.0,
                ..costs
            },
        };
        let ratios = Ratios::new(cpu.per_packet(), &floor, None);
        assert!((ratios.sendto - 2.0).abs() < 1e-9);
        assert!((ratios.sendto_with_reader - 1.0).abs() < 1e-9);
        assert_eq!(ratios.own_batches, None);
    }

    #[test]
    fn memory_is_what_was_added() {
        let usage = |memory| Usage {
            memory,
            ..Usage::default()
        };
        let load = Load {
            peers: 10,
            transports: 20,
            consumers: 100,
            silent: false,
        };
        let memory = Memory::new((usage(50), usage(100)), (usage(150), usage(1_100)), load);
        assert!((memory.workers_per_consumer - 10.0).abs() < 1e-9);
        assert!((memory.workers_per_peer - 100.0).abs() < 1e-9);
        assert!((memory.control_per_peer - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_that_measures_itself_counts_for_nothing() {
        let mut good = report();
        good.judge();
        assert!(good.valid(), "{:?}", good.problems);
        let text = good.to_string();
        assert!(
            text.contains("11.00 µs/packet") && !text.contains("INVALID"),
            "{text}"
        );
        let mut silent = report();
        (silent.traffic.forwarded, silent.load.silent) = (0, true);
        silent.judge();
        assert!(silent.valid(), "{:?}", silent.problems);
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 5] = [
            ("only 4.0 %", |r| {
                r.traffic.forwarded = 20_000;
                r.traffic.sampled = 0.04;
            }),
            ("86 % of its core", |r| r.generator.share_of_core = 0.86),
            ("no packet", |r| r.traffic.forwarded = 0),
            ("decrypted", |r| r.traffic.undecryptable = 2),
            ("no latency", |r| r.latency.count = 0),
        ];
        for (expected, spoil) in cases {
            let mut bad = report();
            spoil(&mut bad);
            bad.judge();
            assert!(!bad.valid());
            let text = bad.to_string();
            assert!(
                text.contains(expected) && text.contains("INVALID"),
                "{text}"
            );
        }
    }
}
