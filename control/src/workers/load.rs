//! How busy a worker is, from what it tells of itself at two times.

use std::time::Duration;

use proto::DumpResponse;
use tokio::time::Instant;

/// Time over which CPU use is smoothed, and rooms that were placed lately are
/// forgotten, because by then they show in the CPU use.
const MEMORY: Duration = Duration::from_secs(10);

/// CPU use that is expected of a room that was just placed, in cores. Some are
/// nothing, some are more; what counts is that many at once go to several workers.
const ROOM_COST: f64 = 0.02;

/// Part of a worker's ports above which it counts as nearly full.
const PORTS_NEARLY_USED: f64 = 0.9;

/// What a worker that is nearly out of ports is as good as loaded with, in cores:
/// it gets rooms when nothing else is left.
const NO_PORTS_COST: f64 = 100.0;

/// What a worker does now.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// CPU use, smoothed, in cores: 1 is all of its core.
    pub cpu: f64,
    /// Datagrams of the last interval, each second.
    pub packets_in: f64,
    /// As `packets_in`, what was sent.
    pub packets_out: f64,
    /// Octets of the last interval, each second.
    pub bytes_in: f64,
    /// As `bytes_in`, what was sent.
    pub bytes_out: f64,
    /// Its own numbers.
    pub dump: DumpResponse,
}

/// Follows the load of one run of a worker.
#[derive(Debug, Default)]
pub struct Meter {
    last: Option<(Instant, Load)>,
    /// Whether `cpu` is measured yet: one sample alone tells nothing.
    measured: bool,
    /// CPU use that is still to be expected of rooms placed lately, in cores.
    expected: f64,
}

impl Meter {
    /// Takes in what the worker has just told.
    pub fn sample(&mut self, now: Instant, dump: DumpResponse) {
        let Some((then, before)) = self.last.take() else {
            let load = Load {
                cpu: 0.0,
                packets_in: 0.0,
                packets_out: 0.0,
                bytes_in: 0.0,
                bytes_out: 0.0,
                dump,
            };
            self.last = Some((now, load));
            return;
        };
        let elapsed = now.saturating_duration_since(then);
        if elapsed.is_zero() {
            self.last = Some((then, before));
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let rate = |of: fn(&DumpResponse) -> u64| {
            // Far below 2^53, where a float is exact.
            of(&dump).saturating_sub(of(&before.dump)) as f64 / seconds
        };
        let cpu = rate(|it| it.cpu_user_us + it.cpu_system_us) / 1e6;
        let kept = kept(elapsed);
        let load = Load {
            cpu: match self.measured {
                true => before.cpu * kept + cpu * (1.0 - kept),
                false => cpu,
            },
            packets_in: rate(|it| it.datagrams_received),
            packets_out: rate(|it| it.datagrams_sent),
            bytes_in: rate(|it| it.bytes_received),
            bytes_out: rate(|it| it.bytes_sent),
            dump,
        };
        self.measured = true;
        self.expected *= kept;
        self.last = Some((now, load));
    }

    /// A room was placed on it.
    pub fn placed(&mut self) {
        self.expected += ROOM_COST;
    }

    /// What it does, as far as is known.
    pub fn load(&self) -> Option<&Load> {
        self.last.as_ref().map(|(_, load)| load)
    }

    /// How little it should get another room, in cores. `ports`: size of its slice.
    pub fn cost(&self, ports: u32) -> f64 {
        let Some(load) = self.load() else {
            return self.expected;
        };
        let used = f64::from(load.dump.ports_in_use);
        let crowded = used > f64::from(ports) * PORTS_NEARLY_USED;
        let cost = load.cpu + self.expected;
        if crowded { cost + NO_PORTS_COST } else { cost }
    }
}

/// How much of what was counts after so long.
fn kept(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(cpu_millis: u64, packets: u64) -> DumpResponse {
        DumpResponse {
            cpu_user_us: cpu_millis * 600,
            cpu_system_us: cpu_millis * 400,
            datagrams_received: packets,
            datagrams_sent: packets * 2,
            bytes_received: packets * 1000,
            bytes_sent: packets * 2000,
            ports_in_use: 1,
            ..DumpResponse::default()
        }
    }

    #[test]
    fn rates_are_of_the_last_interval_and_cpu_is_smoothed() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut meter = Meter::default();
        assert_eq!(meter.load(), None);
        meter.sample(at(0), dump(5000, 100));
        assert_eq!(meter.load().unwrap().cpu, 0.0);
        meter.sample(at(2), dump(6000, 300));
        let load = meter.load().unwrap();
        assert!((load.cpu - 0.5).abs() < 1e-9, "{load:?}");
        assert_eq!((load.packets_in, load.packets_out), (100.0, 200.0));
        assert_eq!((load.bytes_in, load.bytes_out), (100e3, 200e3));
        // Idle for as long as the memory goes: about a third is left.
        meter.sample(at(12), dump(6000, 300));
        let load = meter.load().unwrap();
        assert!((load.cpu - 0.5 / 1f64.exp()).abs() < 1e-9, "{load:?}");
        assert_eq!(load.packets_in, 0.0);
        // Asked twice at once, or a clock that goes back: nothing changes.
        meter.sample(at(12), dump(9000, 900));
        assert_eq!(meter.load().unwrap().packets_in, 0.0);
    }

    #[test]
    fn rooms_placed_lately_and_ports_count() {
        let begin = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.cost(100), 0.0);
        for _ in 0..10 {
            meter.placed();
        }
        assert!((meter.cost(100) - 0.2).abs() < 1e-9);
        meter.sample(begin, dump(0, 0));
        meter.sample(begin + Duration::from_secs(60), dump(0, 0));
        assert!(meter.cost(100) < 0.001);
        let full = DumpResponse {
            ports_in_use: 91,
            ..dump(0, 0)
        };
        meter.sample(begin + Duration::from_secs(61), full);
        assert!(meter.cost(100) > 1.0);
        assert!(meter.cost(1000) < 0.001);
    }
}
