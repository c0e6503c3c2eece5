//! Picks the role: `worker` as the first argument makes this process a media
//! worker, `health` asks the server of this machine how it is, and everything
//! else is the control plane, which starts the workers.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next();
    let role = args.next();
    match role.as_deref().and_then(|role| role.to_str()) {
        // Workers are started by the control plane alone, with arguments in
        // UTF-8.
        Some("worker") => mediaworker::run(args.map(|arg| arg.to_string_lossy().into_owned())),
        Some("health") => control::health::run(program.into_iter().chain(args)),
        _ => control::run(std::env::args_os()),
    }
}
