//! `bench`: the command line of the measuring rod. Exits with 0 when the figures
//! count, with 3 when they do not, and with 1 when there are none.

use std::path::Path;
use std::process::ExitCode;

use bench::Outcome;
use bench::options::Cli;
use clap::Parser;

/// Exit code of a run that counts for nothing.
const INVALID: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = bench::run(&cli.command).and_then(|outcome| {
        print!("{outcome}");
        if let Some(path) = cli.command.json() {
            write_json(path, &outcome)?;
        }
        Ok(outcome)
    });
    match outcome {
        Ok(outcome) if outcome.valid() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(INVALID),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_json(path: &Path, outcome: &Outcome) -> Result<(), String> {
    let json = serde_json::to_string_pretty(outcome).map_err(|error| error.to_string())?;
    if path == Path::new("-") {
        println!("{json}");
        return Ok(());
    }
    std::fs::write(path, json).map_err(|error| format!("{}: {error}", path.display()))
}
