//! `webrtc-server check`: everything that a start would find wrong, all of it
//! at once, without starting anything. It makes no files and holds no port.

use std::net::IpAddr;
use std::process::ExitCode;

use crate::addresses::{self, AnnouncedAddress};
use crate::config::{Config, ConfigError};
use crate::startup::admin_notes;
use crate::workers::Plan;
use crate::workers::cpu::CpuLimits;
use crate::workers::memory::Granted;
use crate::{listen, logging, tls};

/// What there is to say, one line each.
#[derive(Debug, Default)]
struct Findings {
    /// What a start would fail with.
    problems: Vec<String>,
    /// What a start would only mention.
    notes: Vec<String>,
}

impl Findings {
    fn refuse<T>(&mut self, result: Result<T, impl ToString>) -> Option<T> {
        result
            .map_err(|error| self.problems.push(error.to_string()))
            .ok()
    }
}

/// Prints every problem on stderr, and what is worth knowing on stdout; fails
/// if there is a problem. `refused` are the values that `config` has defaults
/// in place of.
pub fn run(config: &Config, refused: &[ConfigError]) -> ExitCode {
    let findings = find(config, refused);
    for note in &findings.notes {
        logging::print(&format!("note: {note}\n"));
    }
    for problem in &findings.problems {
        logging::complain(problem);
    }
    if findings.problems.is_empty() {
        logging::print("configuration is valid\n");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn find(config: &Config, refused: &[ConfigError]) -> Findings {
    let mut findings = Findings {
        problems: refused.iter().map(ConfigError::to_string).collect(),
        ..Findings::default()
    };
    // Held together, for they must not be the same.
    let https = findings.refuse(listen::https(config.listen_ip, config.listen_port));
    let admin = config.admin_listen.map(listen::admin);
    let _ports = (https, admin.map(|admin| findings.refuse(admin)));
    findings.notes.extend(admin_notes(config));
    let machine = addresses::interfaces();
    let announced = addresses::announced(config, &machine);
    let own: Vec<IpAddr> = announced.iter().filter_map(AnnouncedAddress::ip).collect();
    if announced.is_empty() {
        findings.problems.push(addresses::NONE.to_owned());
    }
    let media = findings.refuse(listen::check_media(config.media_listen_ip));
    let plan = Plan::new(config, &CpuLimits::detect(), announced);
    // Values that do not fit together have been told already.
    if let Some(plan) = match refused {
        [] => findings.refuse(plan),
        _ => plan.ok(),
    } {
        if media.is_some() {
            for slot in &plan.slots {
                findings.refuse(listen::check_slice(config.media_listen_ip, slot.ports));
            }
        }
        // As a start would do it.
        listen::raise_limits();
        let shortages = Granted::detect().shortages(config, &plan);
        findings.notes.extend(plan.notes);
        findings.notes.extend(shortages);
    }
    if config.https_enabled
        && let Some(notes) = findings.refuse(tls::check(config, &own))
    {
        findings.notes.extend(notes);
    }
    findings
}
