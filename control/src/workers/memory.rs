//! What memory and how many open files this machine grants, against what the
//! server and its workers need. A shortage is no reason not to start: it is told.

use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::cpu::{Mount, Version, own_path};
use super::placement::Plan;
use crate::config::Config;

/// Memory of the control plane, and again of each worker, that a start should
/// find: both are small when idle, and a worker with hundreds of peers is not.
const NEEDED_EACH: u64 = 128 << 20;

/// Open files of a process that are no client's and no port's.
const FILES_RESERVED: u64 = 128;

/// Connections for ICE over TCP that a media worker takes.
const TCP_CONNECTIONS: u64 = 4096;

/// What is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Open files of each process; the soft limit, which has been raised as far
    /// as it goes, like that of the address space.
    pub files: u64,
    /// Octets for all processes together, by their cgroups; `None` without limit.
    pub memory: Option<u64>,
    /// Octets of address space, or of data, whichever is less, of each process;
    /// `None` without limit.
    pub address_space: Option<u64>,
}

impl Granted {
    /// Asks the kernel.
    pub fn detect() -> Self {
        let limit = |resource| match getrlimit(resource) {
            Ok((soft, _)) if soft != RLIM_INFINITY => Some(soft),
            _ => None,
        };
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        Self {
            files: limit(Resource::RLIMIT_NOFILE).unwrap_or(u64::MAX),
            memory: memory(
                &text("/proc/self/cgroup"),
                &text("/proc/self/mountinfo"),
                read,
            ),
            address_space: [Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
                .into_iter()
                .filter_map(limit)
                .min(),
        }
    }

    /// What is too little, one line each.
    pub fn shortages(&self, config: &Config, plan: &Plan) -> Vec<String> {
        let mut notes = Vec::new();
        let peers = u64::from(config.max_peers);
        if self.files < peers + FILES_RESERVED {
            notes.push(format!(
                "{} open files are allowed (ulimit -n), too few for MAX_PEERS={peers}: each \
                 client is one",
                self.files
            ));
        }
        let ports = plan.slots.iter().map(|slot| slot.ports);
        let ports = ports.map(|(first, last)| u64::from(last.saturating_sub(first)) + 1);
        let ports = ports.max().unwrap_or_default();
        if self.files < ports + TCP_CONNECTIONS + FILES_RESERVED {
            notes.push(format!(
                "{} open files are allowed (ulimit -n), too few for the {ports} ports and \
                 {TCP_CONNECTIONS} TCP connections of each media worker",
                self.files
            ));
        }
        let workers = u64::try_from(plan.slots.len()).unwrap_or(u64::MAX);
        let needed = NEEDED_EACH.saturating_mul(workers.saturating_add(1));
        if let Some(memory) = self.memory.filter(|memory| *memory < needed) {
            notes.push(format!(
                "the cgroup grants {} MiB of memory; {workers} media workers should have {} MiB",
                memory >> 20,
                needed >> 20
            ));
        }
        if let Some(space) = self.address_space.filter(|space| *space < NEEDED_EACH * 8) {
            notes.push(format!(
                "{} MiB of address space are allowed (ulimit -v, -d), too few for a media worker",
                space >> 20
            ));
        }
        notes
    }
}

/// Smallest memory limit on the way from the process's cgroup up to the root that
/// is visible, over both cgroup versions.
fn memory(cgroup: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mounts = mounts
        .lines()
        .filter_map(|line| Mount::parse(line, "memory"));
    let limits = mounts.flat_map(|mount| {
        let own = own_path(cgroup, mount.version, "memory");
        let directories = own.map(|own| mount.directories(own)).unwrap_or_default();
        let name = match mount.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        let limit = |directory: &std::path::PathBuf| {
            // `max`, where there is none.
            read(&directory.join(name))?.trim().parse::<u64>().ok()
        };
        directories.iter().filter_map(limit).collect::<Vec<_>>()
    });
    // Version 1 says the largest multiple of a page where there is no limit.
    limits.filter(|limit| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::cpu::CpuLimits;

    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "33 32 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";

    fn memory_of(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        memory(cgroup, mounts, |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_smallest_limit_of_the_cgroups_counts() {
        let own = "/sys/fs/cgroup/kube/pod/memory.max";
        let parent = "/sys/fs/cgroup/kube/memory.max";
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<u64>);
        let table: &[Row] = &[
            (&[], None),
            (&[(own, "max\n")], None),
            (&[(own, "1073741824\n")], Some(1 << 30)),
            (&[(own, "max\n"), (parent, "4096\n")], Some(4096)),
            (&[(own, "8192"), (parent, "4096")], Some(4096)),
            (&[(own, "garbage")], None),
        ];
        for (files, want) in table {
            assert_eq!(memory_of("0::/kube/pod\n", V2, files), *want, "{files:?}");
        }
        let v1 = |text| {
            let file = "/sys/fs/cgroup/memory/a/memory.limit_in_bytes";
            memory_of("4:memory:/a\n3:cpu:/b\n", V1, &[(file, text)])
        };
        assert_eq!(v1("1048576\n"), Some(1 << 20));
        assert_eq!(v1("9223372036854771712\n"), None);
    }

    #[test]
    fn what_is_too_little_is_told() {
        let plenty = Granted {
            files: 65_536,
            memory: None,
            address_space: None,
        };
        let limits = CpuLimits {
            allowed: vec![0, 1],
            online: vec![0, 1],
            quota: None,
        };
        let config = Config::default();
        let plan = Plan::new(&config, &limits, Vec::new()).unwrap();
        let told = |granted: Granted| granted.shortages(&config, &plan);
        assert_eq!(told(plenty), [""; 0]);
        let table = [
            (
                Granted {
                    files: 10_127,
                    ..plenty
                },
                vec!["MAX_PEERS=10000"],
            ),
            (
                Granted {
                    files: 10_128,
                    ..plenty
                },
                vec![],
            ),
            (
                Granted {
                    files: 1024,
                    ..plenty
                },
                vec!["MAX_PEERS", "5000 ports"],
            ),
            (
                Granted {
                    memory: Some(256 << 20),
                    ..plenty
                },
                vec!["256 MiB of memory; 2 media workers should have 384 MiB"],
            ),
            (
                Granted {
                    memory: Some(384 << 20),
                    ..plenty
                },
                vec![],
            ),
            (
                Granted {
                    address_space: Some(64 << 20),
                    ..plenty
                },
                vec!["64 MiB of address space"],
            ),
        ];
        for (granted, want) in table {
            let told = told(granted);
            assert_eq!(told.len(), want.len(), "{told:?}");
            for (told, want) in told.iter().zip(want) {
                assert!(told.contains(want), "{told}");
            }
        }
    }
}
