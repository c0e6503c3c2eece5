//! What CPU time this process may use: the CPUs of its affinity mask (a cpuset
//! shows there too) and the CPU quota of its cgroups, v1 and v2.

use std::path::{Component, Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The CPU time that this process may use.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuLimits {
    /// CPUs of the affinity mask, ascending; empty when it cannot be read.
    pub allowed: Vec<usize>,
    /// CPUs that are online in this machine, ascending; empty when unknown.
    pub online: Vec<usize>,
    /// Smallest CPU quota of the cgroups, in CPUs; `None` without a quota.
    pub quota: Option<f64>,
}

impl CpuLimits {
    /// Asks the kernel.
    pub fn detect() -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        Self {
            allowed: affinity(),
            online: parse_list(&text("/sys/devices/system/cpu/online")),
            quota: quota(
                &text("/proc/self/cgroup"),
                &text("/proc/self/mountinfo"),
                read,
            ),
        }
    }

    /// Whether the affinity mask (or a cpuset) leaves out CPUs of this machine.
    pub fn restricted(&self) -> bool {
        self.online.iter().any(|cpu| !self.allowed.contains(cpu))
    }
}

fn affinity() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
}

/// Reads the kernel's CPU list format, for example `0-3,8`. What cannot be
/// read is left out.
fn parse_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
            && last < CpuSet::count()
        {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// Smallest CPU quota on the way from the process's cgroup up to the root that
/// is visible, over both cgroup versions. `cgroup` is the content of
/// `/proc/self/cgroup`, `mounts` of `/proc/self/mountinfo`.
fn quota(cgroup: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for mount in mounts.lines().filter_map(|line| Mount::parse(line, "cpu")) {
        let Some(own) = own_path(cgroup, mount.version, "cpu") else {
            continue;
        };
        for directory in mount.directories(own) {
            let found = match mount.version {
                Version::V1 => quota_v1(&directory, &read),
                Version::V2 => read(&directory.join("cpu.max")).and_then(|t| quota_v2(&t)),
            };
            smallest = match (smallest, found) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }
    smallest
}

/// `cpu.max`: quota and period in microseconds, or `max` for no quota.
fn quota_v2(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota = words.next()?.parse().ok()?;
    ratio(quota, words.next()?.parse().ok()?)
}

fn quota_v1(directory: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<f64> {
    let number = |name: &str| read(&directory.join(name))?.trim().parse().ok();
    ratio(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
}

/// A quota of -1 (cgroup v1) means none.
fn ratio(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Version {
    V1,
    V2,
}

/// Path of this process's cgroup in the hierarchy of this controller, from
/// lines such as `4:cpu,cpuacct:/docker/1` (v1) and `0::/user.slice` (v2).
pub(super) fn own_path<'a>(cgroup: &'a str, version: Version, controller: &str) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = match version {
            Version::V1 => controllers.split(',').any(|name| name == controller),
            Version::V2 => id == "0" && controllers.is_empty(),
        };
        wanted.then_some(path)
    })
}

/// Where a cgroup hierarchy is mounted.
pub(super) struct Mount {
    pub version: Version,
    /// Cgroup that the mount point shows.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Reads one line of mountinfo, see proc_pid_mountinfo(5): fields 4 and 5
    /// are root and mount point, and after ` - ` come type, source and options.
    pub fn parse(line: &str, controller: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let version = match right.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if right.nth(1)?.split(',').any(|name| name == controller) => Version::V1,
            _ => return None,
        };
        Some(Self {
            version,
            root: PathBuf::from(root),
            point: PathBuf::from(point),
        })
    }

    /// The directories from the cgroup `own` up to the mount point. A container
    /// may see only its own part of the tree: then that part is the whole way.
    pub fn directories(&self, own: &str) -> Vec<PathBuf> {
        let below = Path::new(own)
            .strip_prefix(&self.root)
            .unwrap_or(Path::new(""));
        let outside = below.components().any(|c| c == Component::ParentDir);
        let leaf = if outside {
            self.point.clone()
        } else {
            self.point.join(below)
        };
        leaf.ancestors()
            .take_while(|directory| directory.starts_with(&self.point))
            .map(Path::to_path_buf)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
                      34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    /// A container on cgroup v1 without its own cgroup namespace.
    const V1_DOCKER: &str = "33 32 0:29 /docker/ab /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";

    fn quota_of(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> Option<f64> {
        quota(cgroup, mounts, |path| {
            files
                .iter()
                .find(|(name, _)| Path::new(name) == path)
                .map(|(_, text)| (*text).to_owned())
        })
    }

    /// Defect seed 18: workers are counted by the quota of a container.
    #[test]
    fn quota_of_cgroup_v2() {
        let own = "/sys/fs/cgroup/kube/pod/cpu.max";
        let parent = "/sys/fs/cgroup/kube/cpu.max";
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<f64>);
        let table: &[Row] = &[
            (&[], None),
            (&[(own, "max 100000\n")], None),
            (&[(own, "250000 100000\n")], Some(2.5)),
            (
                &[(own, "max 100000\n"), (parent, "50000 100000\n")],
                Some(0.5),
            ),
            (
                &[(own, "400000 100000"), (parent, "300000 100000")],
                Some(3.0),
            ),
            (&[("/sys/fs/cgroup/cpu.max", "100000 100000")], Some(1.0)),
            (&[("/sys/fs/cpu.max", "100000 100000")], None),
            (&[(own, "garbage")], None),
            (&[(own, "100000 0")], None),
            (&[(own, "")], None),
        ];
        for (files, want) in table {
            assert_eq!(quota_of("0::/kube/pod\n", V2, files), *want, "{files:?}");
        }
    }

    #[test]
    fn quota_of_cgroup_v1() {
        let base = "/sys/fs/cgroup/cpu,cpuacct/a/b";
        let files = |quota: &str| {
            quota_of(
                "5:memory:/x\n4:cpu,cpuacct:/a/b\n0::/\n",
                V1,
                &[
                    (&format!("{base}/cpu.cfs_quota_us"), quota),
                    (&format!("{base}/cpu.cfs_period_us"), "100000\n"),
                ],
            )
        };
        assert_eq!(files("150000\n"), Some(1.5));
        assert_eq!(files("-1\n"), None);
        assert_eq!(files("x"), None);
    }

    #[test]
    fn quota_of_a_container_that_sees_only_its_own_part() {
        let files = [
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota_of("4:cpu:/docker/ab\n", V1_DOCKER, &files), Some(2.0));
        let files = [("/sys/fs/cgroup/cpu.max", "100000 50000")];
        assert_eq!(quota_of("0::/../other\n", V2, &files), Some(2.0));
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("0\n"), [0]);
        assert_eq!(parse_list(""), [0usize; 0]);
        assert_eq!(parse_list("1-99999999999,x,4"), [4]);
    }

    #[test]
    fn a_mask_that_leaves_cpus_out_is_a_restriction() {
        let limits = |allowed: &[usize], online: &[usize]| CpuLimits {
            allowed: allowed.to_vec(),
            online: online.to_vec(),
            quota: None,
        };
        assert!(!limits(&[0, 1], &[0, 1]).restricted());
        assert!(limits(&[1], &[0, 1]).restricted());
        assert!(!limits(&[0, 1], &[]).restricted());
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(!CpuLimits::detect().allowed.is_empty());
    }
}
