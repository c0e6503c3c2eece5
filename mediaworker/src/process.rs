//! What makes a worker a good child: its name, its core, and its end when the
//! control plane ends.

use std::io::Read;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// How long a worker may take to end by itself once its parent is gone.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// Signal that says that the control plane is gone.
pub const PARENT_DEATH: Signal = Signal::SIGUSR2;

/// Names the process, so that ps and top show which worker it is.
pub fn set_title(index: usize) {
    if let Ok(title) = std::ffi::CString::new(format!("mediaworker-{index}")) {
        let _ = prctl::set_name(&title);
    }
}

/// Pins every thread that is started from now on to one CPU.
///
/// # Errors
/// When the CPU does not exist or this process may not use it.
pub fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Makes the kernel end this process with its parent. False: the parent is gone
/// already.
pub fn die_with_parent(parent: i32) -> bool {
    // It follows the parent's thread, which lives as long as the parent does.
    // Not SIGKILL: the worker is to take its socket with it. Not SIGTERM: it is to
    // know that nobody is left to clean up.
    let _ = prctl::set_pdeathsig(PARENT_DEATH);
    getppid() == Pid::from_raw(parent)
}

/// Calls `ended` when standard input ends, which it does with the control plane,
/// and ends the process if that does not.
pub fn watch_parent(ended: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let watch = move || {
        let mut byte = [0; 64];
        while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
        ended();
        std::thread::sleep(LAST_GRACE);
        std::process::exit(1);
    };
    std::thread::Builder::new()
        .name("parent-watch".into())
        .spawn(watch)
        .map(|_| ())
}
