//! Picks the role: `worker` as the first argument makes this process a media
//! worker, everything else is the control plane, which starts the workers.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let is_worker = args.nth(1).is_some_and(|role| role == "worker");
    if is_worker {
        // Workers are started by the control plane alone, with arguments in
        // UTF-8.
        mediaworker::run(args.map(|arg| arg.to_string_lossy().into_owned()))
    } else {
        control::run(std::env::args_os())
    }
}
