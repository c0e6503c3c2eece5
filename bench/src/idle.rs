//! What a server needs although nothing is sent: memory for what is there, and time to
//! start.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::media::{Times, float};
use crate::options::Options;
use crate::report::{Percentiles, percentiles, row};
use crate::rig::Rig;
use crate::server::Started;
use crate::signaling::{Plan, Sends};

/// How many there are of what is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Size {
    /// Transports that are connected and have nothing on them.
    pub transports: u32,
    /// Peers that receive.
    pub viewers: u32,
    /// Peers that have producers.
    pub senders: u32,
}

/// Resident memory of the workers, bytes, at each step.
#[derive(Debug, Clone, Copy, Serialize)]
struct Steps {
    /// One sender is there.
    first: u64,
    /// And the transports that have nothing on them.
    transports: u64,
    /// And the viewers, with what the first sender has.
    viewers: u64,
    /// And all other senders.
    senders: u64,
}

/// Memory for what is there, bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Idle {
    size: Size,
    /// Consumers in the end.
    consumers: u32,
    steps: Steps,
    /// For each connected transport.
    pub per_transport: f64,
    /// For each consumer, with its share of the producers.
    pub per_consumer: f64,
}

impl Idle {
    /// `producers`: of each sender.
    fn new(size: Size, producers: u32, steps: Steps) -> Self {
        let grown = |after: u64, before: u64| float(after) - float(before);
        let per_transport =
            grown(steps.transports, steps.first) / f64::from(size.transports.max(1));
        let others = size.senders.saturating_sub(1);
        let added = size.viewers * others * producers;
        // Each sender has a transport.
        let for_consumers = grown(steps.senders, steps.viewers) - f64::from(others) * per_transport;
        Self {
            size,
            consumers: size.viewers * size.senders * producers,
            steps,
            per_transport,
            per_consumer: for_consumers / f64::from(added.max(1)),
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size {
            transports,
            viewers,
            senders,
        } = self.size;
        writeln!(f, "idle")?;
        let text = format!(
            "{transports} bare transports, {viewers} viewers of {senders} senders, {} consumers",
            self.consumers
        );
        row(f, "load", &text)?;
        let text = format!("{:.1} KiB", self.per_transport / 1024.0);
        row(f, "per transport", &text)?;
        let text = format!("{:.1} KiB", self.per_consumer / 1024.0);
        row(f, "per consumer", &text)?;
        let megabytes = |bytes: u64| float(bytes) / 1e6;
        let text = format!(
            "{:.1} MB with a sender, {:.1} with transports, {:.1} with viewers, {:.1} in the end",
            megabytes(self.steps.first),
            megabytes(self.steps.transports),
            megabytes(self.steps.viewers),
            megabytes(self.steps.senders)
        );
        row(f, "workers", &text)
    }
}

/// Measures the memory of transports and consumers on which nothing is sent.
///
/// # Errors
/// What failed before anything could be measured.
pub async fn idle(options: &Options, size: Size) -> Result<Idle, String> {
    if options.no_memory() {
        return Err("idle needs --start or --pid: there is no memory to look at".into());
    }
    // Nothing is forwarded, so there is nothing to quote against the floor.
    let options = Options {
        no_floor: true,
        ..options.clone()
    };
    let mut rig = Rig::new(&options)?;
    let steps = steps(&mut rig, options.producers(), size).await;
    rig.abandon().await;
    Ok(Idle::new(size, options.producers(), steps?))
}

async fn steps(rig: &mut Rig, producers: u32, size: Size) -> Result<Steps, String> {
    let room = rig.room_name(0);
    let bare = rig.room_name(1);
    let sender = |rig: &Rig, i: u32| rig.plan(&room, format!("s{i}"), Sends::Silence, false);
    let first = vec![sender(rig, 0)];
    let first = step(rig, first, 0, 1).await?;
    let plans = (0..size.transports)
        .map(|i| rig.plan(&bare, format!("t{i}"), Sends::Connected, false))
        .collect();
    let up = 1 + size.transports;
    let transports = step(rig, plans, 0, up).await?;
    let plans = (0..size.viewers)
        .map(|i| rig.plan(&room, format!("v{i}"), Sends::Nothing, true))
        .collect();
    let up = up + size.viewers;
    let viewers = step(rig, plans, size.viewers * producers, up).await?;
    let plans = (1..size.senders).map(|i| sender(rig, i)).collect();
    let consumers = size.viewers * size.senders * producers;
    let senders = step(rig, plans, consumers, up + size.senders - 1).await?;
    Ok(Steps {
        first,
        transports,
        viewers,
        senders,
    })
}

/// Lets clients join; answers what the workers' memory is then.
async fn step(
    rig: &mut Rig,
    plans: Vec<Plan>,
    consumers: u32,
    transports: u32,
) -> Result<u64, String> {
    rig.fill(plans).await;
    rig.settle_silent(consumers, transports).await?;
    Ok(rig.usage().map_or(0, |(_, workers)| workers.memory))
}

/// How long a server takes to start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Start {
    /// From its start until it says that it and its worker are ready.
    pub ready: Percentiles,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        percentiles(f, "start to ready", self.ready)
    }
}

/// Starts our own server time and again.
///
/// # Errors
/// What failed, with what the server has printed.
pub fn start(times: u32, binary: Option<&Path>, core: usize) -> Result<Start, String> {
    let mut ready = Times::default();
    for _ in 0..times {
        let started = Started::start(binary, Some(core))?;
        ready.record(u64::try_from(started.ready().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(Start {
        ready: Percentiles::from(&ready),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_of_senders_are_not_counted_as_consumers() {
        let size = Size {
            transports: 10,
            viewers: 5,
            senders: 3,
        };
        let steps = Steps {
            first: 1_000,
            transports: 2_000,
            viewers: 9_000,
            senders: 9_000 + 2 * 100 + 20 * 7,
        };
        let idle = Idle::new(size, 2, steps);
        assert_eq!(idle.consumers, 30);
        assert!((idle.per_transport - 100.0).abs() < 1e-9);
        assert!((idle.per_consumer - 7.0).abs() < 1e-9, "{idle:?}");
    }
}
