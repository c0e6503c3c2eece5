//! Decides how many workers there are, and the CPU and port slice of each.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::cpu::CpuLimits;
use super::ports;
use crate::addresses::AnnouncedAddress;
use crate::config::{Config, ConfigError, WorkerCpus, cpu_list};
use crate::logging;

/// Everything that the supervisor has to know to run the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Executable that takes the role of a worker.
    pub program: PathBuf,
    /// Arguments in front of the worker's own, they choose the role.
    pub role: Vec<OsString>,
    /// Address that media sockets bind to.
    pub listen_ip: IpAddr,
    /// What candidates carry, in order.
    pub announced: Vec<AnnouncedAddress>,
    /// Log filter of the workers.
    pub log: String,
    /// One entry for each worker, in order of index.
    pub slots: Vec<Slot>,
    /// What the operator should know, one line each.
    pub notes: Vec<String>,
    /// How patient the supervisor is.
    pub timing: Timing,
}

/// How long a media thread may stall, unless the operator says otherwise.
const DEFAULT_STALL: Duration = Duration::from_secs(10);

/// How patient the supervisor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Longest time from the start of a process to its handshake.
    pub ready_deadline: Duration,
    /// Shortest delay before a dead worker is replaced.
    pub backoff_min: Duration,
    /// Longest delay before a dead worker is replaced.
    pub backoff_max: Duration,
    /// A worker that lived this long starts again with the shortest delay.
    pub stable_after: Duration,
    /// After so many lives in a row that were shorter than that, no other process
    /// is started until somebody asks for one.
    pub max_short_lives: u32,
    /// How often a worker is asked whether its media thread still answers.
    pub check_interval: Duration,
    /// Longest time until that answer; two misses in a row are the worker's end.
    pub check_deadline: Duration,
    /// How long a worker that is asked to end may take before it is killed.
    pub stop_grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ready_deadline: Duration::from_secs(10),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(10),
            stable_after: Duration::from_secs(60),
            max_short_lives: 10,
            check_interval: DEFAULT_STALL / 4,
            check_deadline: DEFAULT_STALL / 4,
            stop_grace: Duration::from_millis(500),
        }
    }
}

impl Timing {
    /// The default, but a worker whose media thread stalls for `stall` is killed
    /// by then: two questions and the pauses before them fit into it.
    pub fn with_stall(stall: Duration) -> Self {
        Self {
            check_interval: stall / 4,
            check_deadline: stall / 4,
            ..Self::default()
        }
    }
}

/// The fixed part of one worker: it outlives the process that fills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// 0-based.
    pub index: usize,
    /// CPU to be pinned to; `None`: unpinned.
    pub cpu: Option<usize>,
    /// First and last port, inclusive.
    pub ports: (u16, u16),
}

impl Plan {
    /// Plans the workers of this executable.
    ///
    /// # Errors
    /// [`ConfigError`] when the port range is too small for the workers, or
    /// they are to be pinned to a CPU that this process may not use.
    pub fn new(
        config: &Config,
        limits: &CpuLimits,
        announced: Vec<AnnouncedAddress>,
    ) -> Result<Self, ConfigError> {
        let (cpus, notes) = match &config.worker_cpus {
            None => assign(limits, config.num_workers),
            Some(WorkerCpus::Unpinned) => {
                (vec![None; count(limits, config.num_workers)], Vec::new())
            }
            Some(WorkerCpus::List(chosen)) => {
                check_allowed(limits, chosen)?;
                let count = config.num_workers.map_or(chosen.len(), usize::from);
                let notes = shared(count, chosen, "in MEDIASOUP_WORKER_CPUS");
                (pinned(chosen, count), notes.into_iter().collect())
            }
        };
        let slices = ports::slices(config.min_port, config.max_port, cpus.len())?;
        let slots = cpus
            .into_iter()
            .zip(slices)
            .enumerate()
            .map(|(index, (cpu, ports))| Slot { index, cpu, ports })
            .collect();
        Ok(Self {
            // Not the path by which it was started: that file may have been
            // replaced since, and versions must match.
            program: PathBuf::from("/proc/self/exe"),
            role: vec!["worker".into()],
            listen_ip: config.media_listen_ip,
            announced,
            log: logging::worker_filter(&config.log),
            slots,
            notes,
            timing: Timing::with_stall(config.worker_timeout),
        })
    }
}

/// The number of workers: as requested, else one for each CPU that this
/// process may use, as far as its quota goes.
fn count(limits: &CpuLimits, requested: Option<u16>) -> usize {
    let cpus = limits.allowed.len().max(1);
    let by_quota = limits.quota.map_or(cpus, whole_cpus);
    requested.map_or(cpus.min(by_quota), usize::from).max(1)
}

/// The CPU of each worker where none were chosen, and what the operator should
/// know about it.
fn assign(limits: &CpuLimits, requested: Option<u16>) -> (Vec<Option<usize>>, Vec<String>) {
    let count = count(limits, requested);
    if let Some(quota) = limits.quota
        && !limits.restricted()
    {
        let how = if requested.is_some() {
            "as many media workers as configured"
        } else {
            "media workers are counted by it"
        };
        let note = format!(
            "a CPU quota of {quota} CPUs is set without a cpuset: {how} ({count}) and left \
             unpinned; MEDIASOUP_WORKER_CPUS can pin them"
        );
        return (vec![None; count], vec![note]);
    }
    if limits.allowed.is_empty() {
        let note =
            "the CPUs that this process may use cannot be read: media workers are left unpinned";
        return (vec![None; count], vec![note.to_owned()]);
    }
    let notes = shared(count, &limits.allowed, "that this process may use");
    (pinned(&limits.allowed, count), notes.into_iter().collect())
}

/// The CPU of each of `count` workers, in turns.
fn pinned(cpus: &[usize], count: usize) -> Vec<Option<usize>> {
    cpus.iter().copied().map(Some).cycle().take(count).collect()
}

/// What to say when there are more workers than CPUs.
fn shared(count: usize, cpus: &[usize], which: &str) -> Option<String> {
    let cpus = cpus.len();
    let unit = if cpus == 1 { "CPU" } else { "CPUs" };
    (count > cpus).then(|| {
        format!(
            "MEDIASOUP_NUM_WORKERS={count} is more than the {cpus} {unit} {which}: media workers \
             share CPUs"
        )
    })
}

/// Checks that workers can be pinned to these CPUs. Where it is not known what
/// is allowed, a worker that cannot be pinned says so itself.
fn check_allowed(limits: &CpuLimits, chosen: &[usize]) -> Result<(), ConfigError> {
    let allowed = &limits.allowed;
    if allowed.is_empty() || chosen.iter().all(|cpu| allowed.contains(cpu)) {
        return Ok(());
    }
    Err(ConfigError::value(
        "MEDIASOUP_WORKER_CPUS",
        &cpu_list(chosen),
        format!(
            "none, or CPUs that this process may use, which are {}",
            cpu_list(allowed)
        ),
    ))
}

/// A quota in whole CPUs, at least one. What is left of a CPU serves the
/// control plane.
fn whole_cpus(quota: f64) -> usize {
    // Quotas are small and positive, and `as` saturates.
    (quota.floor() as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(allowed: &[usize], online: usize, quota: Option<f64>) -> CpuLimits {
        CpuLimits {
            allowed: allowed.to_vec(),
            online: (0..online).collect(),
            quota,
        }
    }

    #[test]
    fn workers_are_counted_and_pinned() {
        type Row<'a> = (CpuLimits, Option<u16>, &'a [Option<usize>], usize);
        let table: &[Row] = &[
            (limits(&[0, 1], 2, None), None, &[Some(0), Some(1)], 0),
            (limits(&[3, 5], 8, None), None, &[Some(3), Some(5)], 0),
            (limits(&[0, 1, 2], 3, None), Some(2), &[Some(0), Some(1)], 0),
            // More workers than CPUs.
            (
                limits(&[0, 1], 2, None),
                Some(3),
                &[Some(0), Some(1), Some(0)],
                1,
            ),
            // A quota without a cpuset: counted by the quota, unpinned.
            (limits(&[0, 1, 2, 3], 4, Some(2.5)), None, &[None, None], 1),
            (limits(&[0, 1], 2, Some(0.3)), None, &[None], 1),
            (limits(&[0, 1], 2, Some(8.0)), None, &[None, None], 1),
            (limits(&[0, 1], 2, Some(1.0)), Some(2), &[None, None], 1),
            // A quota with a cpuset: pinned.
            (
                limits(&[4, 5, 6], 8, Some(2.0)),
                None,
                &[Some(4), Some(5)],
                0,
            ),
            // Nothing can be read.
            (limits(&[], 0, None), None, &[None], 1),
            (limits(&[], 0, None), Some(2), &[None, None], 1),
        ];
        for (limits, requested, want, notes) in table {
            let (cpus, told) = assign(limits, *requested);
            assert_eq!(cpus, *want, "{limits:?} {requested:?}");
            assert_eq!(told.len(), *notes, "{told:?}");
        }
    }

    fn chosen(
        limits: &CpuLimits,
        cpus: WorkerCpus,
        num_workers: Option<u16>,
    ) -> Result<(Vec<Option<usize>>, Vec<String>), String> {
        let config = Config {
            worker_cpus: Some(cpus),
            num_workers,
            ..Config::default()
        };
        let plan = Plan::new(&config, limits, Vec::new()).map_err(|error| error.to_string())?;
        Ok((plan.slots.iter().map(|s| s.cpu).collect(), plan.notes))
    }

    #[test]
    fn the_operator_chooses_the_cpus() {
        let list = |cpus: &[usize]| WorkerCpus::List(cpus.to_vec());
        let eight = limits(&[0, 1, 2, 3, 4, 5, 6, 7], 8, None);
        let (cpus, notes) = chosen(&eight, list(&[5, 2]), None).unwrap();
        assert_eq!(cpus, [Some(5), Some(2)]);
        assert!(notes.is_empty(), "{notes:?}");
        let (cpus, notes) = chosen(&eight, list(&[5, 2]), Some(1)).unwrap();
        assert_eq!(cpus, [Some(5)]);
        assert!(notes.is_empty(), "{notes:?}");
        let (cpus, notes) = chosen(&eight, list(&[5, 2]), Some(3)).unwrap();
        assert_eq!(cpus, [Some(5), Some(2), Some(5)]);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("the 2 CPUs in MEDIASOUP_WORKER_CPUS"));

        // The quota does not matter any more, neither for pinning nor counting.
        let quota = limits(&[0, 1, 2, 3], 4, Some(1.0));
        let (cpus, notes) = chosen(&quota, list(&[1, 3]), None).unwrap();
        assert_eq!(cpus, [Some(1), Some(3)]);
        assert!(notes.is_empty(), "{notes:?}");

        let (cpus, notes) = chosen(&eight, WorkerCpus::Unpinned, None).unwrap();
        assert_eq!(cpus, [None; 8]);
        assert!(notes.is_empty(), "{notes:?}");
        let (cpus, _) = chosen(&quota, WorkerCpus::Unpinned, None).unwrap();
        assert_eq!(cpus, [None]);
        let (cpus, _) = chosen(&quota, WorkerCpus::Unpinned, Some(9)).unwrap();
        assert_eq!(cpus, [None; 9]);
    }

    #[test]
    fn cpus_that_this_process_may_not_use_are_refused() {
        let some = limits(&[2, 3, 4, 8], 16, None);
        let error = chosen(&some, WorkerCpus::List(vec![2, 3, 5]), None).unwrap_err();
        assert_eq!(
            error,
            "MEDIASOUP_WORKER_CPUS=\"2-3,5\" makes no sense; allowed: none, or CPUs that this \
             process may use, which are 2-4,8"
        );
        // Nothing is known.
        let (cpus, _) = chosen(&limits(&[], 0, None), WorkerCpus::List(vec![7]), None).unwrap();
        assert_eq!(cpus, [Some(7)]);
    }

    #[test]
    fn a_plan_gives_each_worker_its_cpu_and_ports() {
        let plan = Plan::new(&Config::default(), &limits(&[2, 3], 4, None), Vec::new()).unwrap();
        let slot = |index, cpu, ports| Slot {
            index,
            cpu: Some(cpu),
            ports,
        };
        assert_eq!(
            plan.slots,
            [slot(0, 2, (40_000, 44_999)), slot(1, 3, (45_000, 49_999))]
        );
    }

    #[test]
    fn a_range_too_small_for_the_counted_workers_is_refused() {
        let config = Config {
            max_port: 40_006,
            ..Config::default()
        };
        let error = Plan::new(&config, &limits(&[0, 1], 2, None), Vec::new()).unwrap_err();
        assert!(
            error.to_string().starts_with("MEDIASOUP_MAX_PORT="),
            "{error}"
        );
    }
}
