//! One worker process: its start, its end, and what it leaves behind.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};

use super::output::Output;
use super::placement::{Plan, Slot};
use crate::config::SECRET_VARIABLES;

/// Starts that may wait for the spawner; more wait for room in the queue.
const SPAWN_QUEUE: usize = 16;

/// What the allocator of a worker is told, where it is glibc's.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// Memory in pages of 2 MiB where the kernel has them (`madvise` or `always` in
/// /sys/kernel/mm/transparent_hugepage/enabled). Each picture touches all of its
/// receivers, which are on more small pages than the processor knows the addresses of.
const HUGE_PAGES: &str = "glibc.malloc.hugetlb";

/// Starts processes from one thread that lives as long as the workers are
/// supervised: a worker asks the kernel to be killed when the *thread* that
/// started it ends (PR_SET_PDEATHSIG), and threads of the runtime may end.
#[derive(Debug, Clone)]
pub struct Spawner {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread; wants a tokio runtime.
    ///
    /// # Errors
    /// The kernel's, when there can be no further thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(SPAWN_QUEUE);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("worker-spawner".to_owned())
            .spawn(move || {
                while let Some(mut job) = queue.blocking_recv() {
                    let _runtime = runtime.enter();
                    // An answer that nobody waits for any more drops the
                    // child, and with it kills it.
                    let _ = job.answer.send(job.command.spawn());
                }
            })?;
        Ok(Self { jobs })
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts workers is gone");
        let job = Job { command, answer };
        self.jobs.send(job).await.map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

/// A worker process. Dropped while it lives, it is killed; its socket is
/// removed with it.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    /// End-of-file here ends the worker, so it has to stay open.
    _stdin: Option<ChildStdin>,
    output: Output,
    socket: PathBuf,
    pid: Option<u32>,
}

impl WorkerProcess {
    /// Starts a process for `slot` that will listen on `socket`.
    ///
    /// # Errors
    /// The kernel's, when the process cannot be started.
    pub async fn spawn(
        spawner: &Spawner,
        plan: &Plan,
        slot: &Slot,
        socket: PathBuf,
    ) -> io::Result<Self> {
        let mut child = spawner.spawn(command(plan, slot, &socket)).await?;
        let mut output = Output::new();
        if let Some(pipe) = child.stdout.take() {
            output.relay(slot.index, pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            output.relay(slot.index, pipe);
        }
        Ok(Self {
            _stdin: child.stdin.take(),
            pid: child.id(),
            child,
            output,
            socket,
        })
    }

    /// Process id, also after its end.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The kernel's; the process is then as good as gone.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the process to end, and kills it when it has not within `grace`.
    pub async fn terminate(&mut self, grace: Duration) {
        // `id` is there only until the process was waited for, so the signal
        // cannot reach a stranger that got the same id.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            if tokio::time::timeout(grace, self.wait()).await.is_err() {
                self.kill().await;
            }
        }
    }

    /// Kills the process and waits for its end.
    pub async fn kill(&mut self) {
        // Fails only when it is gone already.
        let _ = self.child.kill().await;
    }

    /// What it wrote last, after its end.
    pub async fn last_lines(&mut self) -> Vec<String> {
        self.output.last_lines().await
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // Missing when the worker was never up, or removed it itself.
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn command(plan: &Plan, slot: &Slot, socket: &Path) -> Command {
    let mut command = Command::new(&plan.program);
    command
        .arg0(format!("mediaworker-{}", slot.index))
        .args(&plan.role)
        .args(arguments(plan, slot, socket))
        .env("RUST_LOG", &plan.log)
        .env(TUNABLES, tunables(std::env::var(TUNABLES).ok()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C goes to the foreground group: the control plane alone gets
        // it, and ends its workers in order.
        .process_group(0)
        .kill_on_drop(true);
    for variable in SECRET_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// What the allocator is told, beside what the operator has told it.
fn tunables(inherited: Option<String>) -> String {
    let inherited = inherited.unwrap_or_default();
    let said = |list: &str| {
        let mut names = list.split(':').filter_map(|it| it.split_once('='));
        names.any(|(name, _)| name == HUGE_PAGES)
    };
    match inherited.as_str() {
        list if said(list) => inherited,
        "" => format!("{HUGE_PAGES}=1"),
        list => format!("{list}:{HUGE_PAGES}=1"),
    }
}

/// The worker's command line, after the role.
fn arguments(plan: &Plan, slot: &Slot, socket: &Path) -> Vec<std::ffi::OsString> {
    let mut list: Vec<std::ffi::OsString> = Vec::new();
    let mut add = |name: &str, value: std::ffi::OsString| list.extend([name.into(), value]);
    add("--index", slot.index.to_string().into());
    add("--socket", socket.into());
    add("--listen-ip", plan.listen_ip.to_string().into());
    for announced in &plan.announced {
        add("--announce", announced.address.clone().into());
    }
    add("--min-port", slot.ports.0.to_string().into());
    add("--max-port", slot.ports.1.to_string().into());
    if let Some(cpu) = slot.cpu {
        add("--cpu", cpu.to_string().into());
    }
    add("--parent-pid", std::process::id().to_string().into());
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::AnnouncedAddress;
    use crate::config::Config;
    use crate::workers::cpu::CpuLimits;

    #[test]
    fn what_the_operator_tells_the_allocator_holds() {
        for (inherited, expected) in [
            (None, "glibc.malloc.hugetlb=1"),
            (Some(""), "glibc.malloc.hugetlb=1"),
            (
                Some("glibc.malloc.arena_max=1"),
                "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1",
            ),
            (Some("glibc.malloc.hugetlb=0"), "glibc.malloc.hugetlb=0"),
        ] {
            assert_eq!(tunables(inherited.map(str::to_owned)), expected);
        }
    }

    #[test]
    fn the_command_line_says_everything_in_order() {
        let limits = CpuLimits {
            allowed: vec![3],
            online: vec![3],
            quota: None,
        };
        let announced = ["192.0.2.1", "::1"].map(AnnouncedAddress::new).to_vec();
        let plan = Plan::new(&Config::default(), &limits, announced).unwrap();
        let list = arguments(&plan, &plan.slots[0], Path::new("/run/x.sock"));
        let list: Vec<&str> = list.iter().map(|s| s.to_str().unwrap()).collect();
        let parent = std::process::id().to_string();
        assert_eq!(
            list.join(" "),
            format!(
                "--index 0 --socket /run/x.sock --listen-ip 0.0.0.0 --announce 192.0.2.1 \
                 --announce ::1 --min-port 40000 --max-port 49999 --cpu 3 --parent-pid {parent}"
            )
        );
    }
}
