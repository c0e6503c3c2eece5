//! The scenarios.

use std::collections::VecDeque;
use std::time::Duration;

use crate::options::Options;
use crate::report::{Joins, Load, MAX_GENERATOR, Report, Step};
use crate::rig::{Fared, Measured, Rig};
use crate::signaling::{Peer, Plan, Sends};

/// A ramp ends above this share of lost packets.
const MAX_LOSS: f64 = 0.01;
/// A ramp ends when a step's viewers are not all there after this time: who is
/// overloaded may never let them in.
const PATIENCE: Duration = Duration::from_secs(60);
/// A ramp ends above this p99 of latency, milliseconds.
const MAX_LATENCY: f64 = 100.0;

/// Rooms in which everybody sends and receives.
///
/// # Errors
/// What failed before anything could be measured.
pub async fn meeting(options: &Options, rooms: u32, peers: u32) -> Result<Report, String> {
    let mut rig = Rig::new(options)?;
    let plans = meeting_plans(&rig, rooms, peers, Sends::Media);
    rig.fill(plans).await;
    let load = meeting_load(options, rooms, peers);
    let name = format!("meeting {rooms} x {peers}, {}", traffic(options));
    run(rig, name, load, options).await
}

fn meeting_load(options: &Options, rooms: u32, peers: u32) -> Load {
    Load {
        peers: rooms * peers,
        transports: 2 * rooms * peers,
        consumers: rooms * peers * (peers - 1) * options.producers(),
        silent: false,
    }
}

fn meeting_plans(rig: &Rig, rooms: u32, peers: u32, sends: Sends) -> Vec<Plan> {
    // Rooms fill up together.
    let places = (0..peers).flat_map(|peer| (0..rooms).map(move |room| (peer, room)));
    places
        .map(|(peer, room)| rig.plan(&rig.room_name(room), format!("p{peer}"), sends, true))
        .collect()
}

/// One sender, many viewers.
///
/// # Errors
/// What failed before anything could be measured.
pub async fn broadcast(options: &Options, viewers: u32) -> Result<Report, String> {
    let mut rig = Rig::new(options)?;
    let room = rig.room_name(0);
    let sender = rig.plan(&room, "sender".into(), Sends::Media, false);
    rig.fill(vec![sender]).await;
    let plans = (0..viewers).map(|i| rig.plan(&room, format!("v{i}"), Sends::Nothing, true));
    let plans = plans.collect();
    rig.fill(plans).await;
    let name = format!("broadcast 1 to {viewers}, {}", traffic(options));
    run(rig, name, broadcast_load(options, viewers), options).await
}

fn broadcast_load(options: &Options, viewers: u32) -> Load {
    Load {
        peers: viewers + 1,
        transports: viewers + 1,
        consumers: viewers * options.producers(),
        silent: false,
    }
}

async fn run(rig: Rig, name: String, load: Load, options: &Options) -> Result<Report, String> {
    if let Err(error) = rig.settle(load.consumers).await {
        rig.abandon().await;
        return Err(error);
    }
    let measured = rig.measure(tokio::time::sleep(options.duration())).await;
    rig.report(name, load, measured).await
}

/// What churn is made of.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// Rooms.
    pub rooms: u32,
    /// Peers of each room.
    pub peers: u32,
    /// Joins, and as many leaves, each second.
    pub rate: u32,
    /// Producers send nothing.
    pub silent: bool,
}

/// Meetings in which the oldest peer leaves whenever a new one joins.
///
/// # Errors
/// What failed before anything could be measured.
pub async fn churn(options: &Options, churn: Churn) -> Result<Report, String> {
    let Churn {
        rooms,
        peers,
        rate,
        silent,
    } = churn;
    let sends = if silent { Sends::Silence } else { Sends::Media };
    let mut rig = Rig::new(options)?;
    let plans = meeting_plans(&rig, rooms, peers, sends);
    rig.fill(plans).await;
    let load = Load {
        silent,
        ..meeting_load(options, rooms, peers)
    };
    let settled = match silent {
        true => rig.settle_silent(load.consumers, load.transports).await,
        false => rig.settle(load.consumers).await,
    };
    if let Err(error) = settled {
        rig.abandon().await;
        return Err(error);
    }
    // The joins that filled the rooms are another matter.
    rig.with_fared(|fared| *fared = Fared::default());
    let mut living: VecDeque<Peer> = rig.take_peers().into();
    let total = u64::from(rate) * options.seconds;
    let measured = rig
        .measure(async {
            let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
            for number in 0..total {
                clock.tick().await;
                // The oldest is of the room whose turn it is.
                let room = u32::try_from(number % u64::from(rooms)).unwrap_or(0);
                if let Some(oldest) = living.pop_front() {
                    tokio::spawn(oldest.leave());
                }
                let plan = rig.plan(&rig.room_name(room), format!("c{number}"), sends, true);
                living.push_back(rig.start(plan));
            }
            // The last second is as long as the others.
            clock.tick().await;
        })
        .await;
    let joined = rig.with_fared(|fared| fared.joined.count());
    let seconds = measured.elapsed.as_secs_f64();
    rig.keep(living.into());
    let name = format!(
        "churn {rooms} x {peers}, {rate} joins/s, {}{}",
        traffic(options),
        if silent { ", silent" } else { "" }
    );
    let mut report = rig.report(name, load, measured).await?;
    report.joins = Some(Joins {
        started: total,
        joined,
        per_second: crate::media::float(joined) / seconds,
    });
    Ok(report)
}

/// One sender, more and more viewers.
///
/// # Errors
/// What failed before anything could be measured.
pub async fn ramp(options: &Options, step: u32, limit: u32) -> Result<Report, String> {
    let mut rig = Rig::new(options)?;
    let room = rig.room_name(0);
    let sender = rig.plan(&room, "sender".into(), Sends::Media, false);
    rig.fill(vec![sender]).await;
    let mut steps = Vec::new();
    let mut best: Option<(u32, Measured, Fared)> = None;
    let mut viewers = 0;
    let mut ended = format!("the limit of {limit} viewers");
    while viewers < limit {
        let next = (viewers + step).min(limit);
        let plans = (viewers..next).map(|i| rig.plan(&room, format!("v{i}"), Sends::Nothing, true));
        let plans = plans.collect();
        let consumers = next * options.producers();
        let grown = async {
            rig.fill(plans).await;
            rig.settle(consumers).await
        };
        let grown = tokio::time::timeout(PATIENCE, grown).await;
        let late = |_| Err(format!("{next} viewers do not come in within {PATIENCE:?}"));
        if let Err(error) = grown.unwrap_or_else(late) {
            ended = error;
            break;
        }
        viewers = next;
        let measured = rig.measure(tokio::time::sleep(options.duration())).await;
        let found = step_of(viewers, &measured);
        eprintln!(
            "{viewers} viewers: {:.0} packets/s, {:.2} % lost, p99 {:.1} ms",
            found.packets_per_second,
            found.loss * 100.0,
            found.p99
        );
        steps.push(found);
        let fared = rig.with_fared(|fared| fared.clone());
        if let Some(reason) = exceeded(&found) {
            ended = reason;
            // Without a step that held, the first one is what there is to show.
            best.get_or_insert((viewers, measured, fared));
            break;
        }
        best = Some((viewers, measured, fared));
    }
    let Some((viewers, measured, fared)) = best else {
        rig.abandon().await;
        return Err(ended);
    };
    // What happened beyond the last step that held is not part of it.
    rig.with_fared(|now| *now = fared);
    let load = broadcast_load(options, viewers);
    let name = format!(
        "ramp 1 to {viewers}, {}; ended by {ended}",
        traffic(options)
    );
    let mut report = rig.report(name, load, measured).await?;
    report.steps = steps;
    Ok(report)
}

fn step_of(viewers: u32, measured: &Measured) -> Step {
    let seconds = measured.elapsed.as_secs_f64();
    let workers = measured.cpu.map_or(0.0, |(_, workers)| {
        crate::process::share(workers, measured.elapsed)
    });
    Step {
        viewers,
        packets_per_second: crate::media::float(measured.window.received) / seconds,
        loss: measured.window.loss(),
        p99: measured.window.latency.quantile(0.99),
        workers,
        generator: measured.generator(),
    }
}

/// Why a ramp ends with this step.
fn exceeded(step: &Step) -> Option<String> {
    if step.loss > MAX_LOSS {
        return Some(format!(
            "{:.2} % loss at {}",
            step.loss * 100.0,
            step.viewers
        ));
    }
    if step.p99 > MAX_LATENCY {
        return Some(format!("a p99 of {:.0} ms at {}", step.p99, step.viewers));
    }
    let generator = step.generator > MAX_GENERATOR;
    generator.then(|| format!("the generator's own limit at {}", step.viewers))
}

fn traffic(options: &Options) -> String {
    match options.producers() {
        1 => "audio".into(),
        _ => format!(
            "audio and video of {} kbit/s ({:?})",
            options.bitrate / 1_000,
            options.video
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_ends_where_it_is_said_to() {
        let good = Step {
            viewers: 10,
            loss: 0.01,
            p99: 100.0,
            generator: 0.85,
            ..Step::default()
        };
        assert_eq!(exceeded(&good), None);
        for (bad, expected) in [
            (
                Step {
                    loss: 0.011,
                    ..good
                },
                "1.10 % loss at 10",
            ),
            (Step { p99: 101.0, ..good }, "a p99 of 101 ms at 10"),
            (
                Step {
                    generator: 0.9,
                    ..good
                },
                "the generator's own limit at 10",
            ),
        ] {
            assert_eq!(exceeded(&bad).as_deref(), Some(expected));
        }
    }
}
