//! What processes have used, from /proc and from their CPU clocks.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;

/// CPU time, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuTime {
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

impl CpuTime {
    /// Both together.
    pub fn total(self) -> u64 {
        self.user + self.system
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    /// The same split of an exact total: the kernel tells user from system by
    /// sampling, and in ticks of 10 ms, but knows their sum exactly.
    fn scaled_to(self, total: u64) -> Self {
        if self.total() == 0 {
            return Self {
                user: total,
                system: 0,
            };
        }
        let user = u128::from(total) * u128::from(self.user) / u128::from(self.total());
        let user = u64::try_from(user).unwrap_or(total);
        Self {
            user,
            system: total - user,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

/// What a group of processes has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time.
    pub cpu: CpuTime,
    /// Resident memory, bytes.
    pub memory: u64,
}

/// The server's processes: the control plane by its pid, and its children, the
/// workers.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    /// The control plane.
    pub control: Vec<i32>,
    /// The media workers.
    pub workers: Vec<i32>,
}

impl Processes {
    /// Finds the children of the control plane.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(control: i32) -> Result<Self, String> {
        let all = std::fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
        let stats: Vec<(i32, Stat)> = all
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, Stat::read(pid)?)))
            .collect();
        if !stats.iter().any(|(pid, _)| *pid == control) {
            return Err(format!("--pid {control}: there is no such process"));
        }
        let children = stats.iter().filter(|(_, stat)| stat.parent == control);
        Ok(Self {
            control: vec![control],
            workers: children.map(|(pid, _)| *pid).collect(),
        })
    }

    /// What control plane and workers have used so far.
    pub fn usage(&self) -> (Usage, Usage) {
        (usage(&self.control), usage(&self.workers))
    }
}

fn usage(pids: &[i32]) -> Usage {
    let stats = pids.iter().filter_map(|pid| Stat::read(*pid));
    stats.fold(Usage::default(), |sum, stat| Usage {
        cpu: sum.cpu.plus(stat.cpu),
        memory: sum.memory + stat.memory,
    })
}

/// What the rod itself has used, all its threads.
pub fn own_cpu() -> CpuTime {
    let micros =
        |time: TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0);
    getrusage(UsageWho::RUSAGE_SELF).map_or(CpuTime::default(), |usage| CpuTime {
        user: micros(usage.user_time()),
        system: micros(usage.system_time()),
    })
}

struct Stat {
    parent: i32,
    cpu: CpuTime,
    memory: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let tick = sysconf(SysconfVar::CLK_TCK).ok()??;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
        let mut stat = Self::parse(&text, u64::try_from(tick).ok()?, u64::try_from(page).ok()?)?;
        if let Some(total) = cpu_clock(pid) {
            stat.cpu = stat.cpu.scaled_to(total);
        }
        Some(stat)
    }

    /// proc_pid_stat(5). The name in parentheses may hold anything.
    fn parse(text: &str, ticks_per_second: u64, page: u64) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first one here is field 3 of the manual.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let micros = |ticks: u64| ticks * 1_000_000 / ticks_per_second.max(1);
        Some(Self {
            parent: i32::try_from(field(4)?).ok()?,
            cpu: CpuTime {
                user: micros(field(14)?),
                system: micros(field(15)?),
            },
            memory: field(24)? * page,
        })
    }
}

/// CPU time of a whole process, microseconds.
fn cpu_clock(pid: i32) -> Option<u64> {
    let time = clock_gettime(clock_getcpuclockid(Pid::from_raw(pid)).ok()?).ok()?;
    u64::try_from(time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000).ok()
}

/// Binds this thread, and what it starts from now on, to one core.
///
/// # Errors
/// When there is no such core.
pub fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|error| format!("core {core}: {error}"))
}

/// Runs something on one core, and goes back to where the thread was before.
///
/// # Errors
/// When there is no such core, or those of `run`.
pub fn pinned<T>(
    core: Option<usize>,
    run: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let Some(core) = core else { return run() };
    let before = sched_getaffinity(Pid::from_raw(0)).map_err(|error| error.to_string())?;
    pin(core)?;
    let result = run();
    sched_setaffinity(Pid::from_raw(0), &before).map_err(|error| error.to_string())?;
    result
}

/// A share of one core: CPU time in a wall time, 1 for all of it.
pub fn share(cpu: CpuTime, wall: Duration) -> f64 {
    let micros = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
    crate::media::ratio(cpu.total(), micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found() {
        let text = "42 (a) (b c) S 7 42 42 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 3 0 100 1000000 25 \
                    18446744073709551615 1 1";
        let stat = Stat::parse(text, 100, 4_096).unwrap();
        assert_eq!(stat.parent, 7);
        assert_eq!((stat.cpu.user, stat.cpu.system), (2_500_000, 500_000));
        assert_eq!(stat.memory, 25 * 4_096);
        assert!(Stat::parse("42 (a) S 7", 100, 4_096).is_none());
    }

    #[test]
    fn the_exact_total_is_split_as_sampled() {
        let time = |user, system| CpuTime { user, system };
        for (sampled, total, expected) in [
            (time(30_000, 10_000), 36_001, time(27_000, 9_001)),
            (time(0, 0), 77, time(77, 0)),
            (time(0, 10_000), 9_000, time(0, 9_000)),
        ] {
            assert_eq!(sampled.scaled_to(total), expected);
        }
        assert!(cpu_clock(i32::try_from(std::process::id()).unwrap()).unwrap() > 0);
    }

    #[test]
    fn children_are_the_workers() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let processes = Processes::of(own).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(processes.workers.contains(&pid));
        // A process that has just become another one has no memory for a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let (control, workers) = processes.usage();
            if control.memory > 0 && workers.memory > 0 {
                break;
            }
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Processes::of(i32::MAX).is_err());
        assert!(own_cpu().total() > 0);
    }
}
