//! The measuring rod: synthetic clients with real ICE, DTLS and SRTP against a
//! server that speaks the seed dialect of protoo, and the floor that its figures
//! are quoted against.
//!
//! One thread drives the media of all clients, another one their signaling; both
//! share a core, and a run in which they need more than 85 % of it counts for
//! nothing.

pub mod floor;
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
use crate::options::Command;
use crate::report::Report;

/// For each figure when the floor is all that is measured.
const FLOOR_TIME: Duration = Duration::from_secs(1);

/// What a run has found.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Of a scenario.
    Report(Box<Report>),
    /// Of the floor alone.
    Floor(Floor),
}

impl Outcome {
    /// True when the figures count.
    pub fn valid(&self) -> bool {
        match self {
            Self::Report(report) => report.valid(),
            Self::Floor(_) => true,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(report) => report.fmt(f),
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let scenario = async {
        match command {
            Command::Meeting {
                rooms,
                peers,
                options,
            } => scenarios::meeting(options, *rooms, *peers).await,
            Command::Broadcast { viewers, options } => {
                scenarios::broadcast(options, *viewers).await
            }
            Command::Churn {
                rooms,
                peers,
                rate,
                options,
            } => scenarios::churn(options, *rooms, *peers, *rate).await,
            Command::Ramp {
                step,
                limit,
                options,
            } => scenarios::ramp(options, *step, *limit).await,
            Command::Floor { .. } => Err("the floor is no scenario".into()),
        }
    };
    let report = runtime.block_on(async {
        tokio::select! {
            report = scenario => report,
            // A server that was started for the run ends with it.
            () = interrupted() => Err("interrupted".into()),
        }
    })?;
    Ok(Outcome::Report(Box::new(report)))
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
