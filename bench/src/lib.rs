//! The measuring rod: synthetic clients with real ICE, DTLS and SRTP against a
//! server that speaks the seed dialect of protoo, and the floor that its figures
//! are quoted against.
//!
//! One thread drives the media of all clients, another one their signaling; both
//! share a core, and a run in which they need more than 85 % of it counts for
//! nothing.

pub mod floor;
pub mod idle;
mod media;
pub mod options;
mod process;
pub mod report;
mod rig;
mod scenarios;
mod server;
mod signaling;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::floor::{Floor, Place};
use crate::idle::{Idle, Size, Start};
use crate::options::Command;
use crate::report::Report;
use crate::scenarios::Churn;

/// For each figure when the floor is all that is measured.
const FLOOR_TIME: Duration = Duration::from_secs(1);

/// What a run has found.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Of a scenario.
    Report(Box<Report>),
    /// Of clients that send nothing.
    Idle(Idle),
    /// Of starting.
    Start(Start),
    /// Of the floor alone.
    Floor(Floor),
}

impl Outcome {
    /// True when the figures count.
    pub fn valid(&self) -> bool {
        match self {
            Self::Report(report) => report.valid(),
            Self::Idle(_) | Self::Start(_) | Self::Floor(_) => true,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(report) => report.fmt(f),
            Self::Idle(idle) => idle.fmt(f),
            Self::Start(start) => start.fmt(f),
            Self::Floor(floor) => floor.fmt(f),
        }
    }
}

/// Runs a scenario to its end on this thread.
///
/// # Errors
/// What failed before there was anything to report.
pub fn run(command: &Command) -> Result<Outcome, String> {
    if let Command::Floor {
        server_core,
        generator_core,
        ..
    } = command
    {
        let place = Place {
            sender: Some(*server_core),
            reader: Some(*generator_core),
            time: FLOOR_TIME,
        };
        return floor::measure(place).map(Outcome::Floor);
    }
    if let Command::Start {
        times,
        server_binary,
        server_core,
        ..
    } = command
    {
        return idle::start(*times, server_binary.as_deref(), *server_core).map(Outcome::Start);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let report = |found: Result<Report, String>| found.map(|it| Outcome::Report(Box::new(it)));
    let scenario = async {
        match command {
            Command::Meeting {
                rooms,
                peers,
                options,
            } => report(scenarios::meeting(options, *rooms, *peers).await),
            Command::Broadcast { viewers, options } => {
                report(scenarios::broadcast(options, *viewers).await)
            }
            Command::Churn {
                rooms,
                peers,
                rate,
                silent,
                options,
            } => {
                let churn = Churn {
                    rooms: *rooms,
                    peers: *peers,
                    rate: *rate,
                    silent: *silent,
                };
                report(scenarios::churn(options, churn).await)
            }
            Command::Ramp {
                step,
                limit,
                options,
            } => report(scenarios::ramp(options, *step, *limit).await),
            Command::Idle {
                transports,
                viewers,
                senders,
                options,
            } => {
                let size = Size {
                    transports: *transports,
                    viewers: *viewers,
                    senders: *senders,
                };
                idle::idle(options, size).await.map(Outcome::Idle)
            }
            Command::Start { .. } | Command::Floor { .. } => Err("this is no scenario".into()),
        }
    };
    runtime.block_on(async {
        tokio::select! {
            outcome = scenario => outcome,
            // A server that was started for the run ends with it.
            () = interrupted() => Err("interrupted".into()),
        }
    })
}

/// Waits for SIGINT or SIGTERM; forever, where they cannot be listened to.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    let [Ok(mut interrupt), Ok(mut terminate)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
