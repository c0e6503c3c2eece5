//! The supervisor against real processes. Like the product, this executable
//! takes other roles when it runs itself: `worker` is a fake media worker,
//! `control` a supervisor that waits to be killed and `server` a whole control
//! plane on fake workers. So it has its own `main`
//! instead of the usual test harness; arguments are filters by name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::process::ExitCode;

mod fake;
mod scenarios;
mod server;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("server") => return control::run(["server".into()].into_iter()),
        Some("worker") => fake::run(&arguments[1..]),
        Some("control") => scenarios::control_plane(),
        _ => run_tests(&arguments),
    }
    ExitCode::SUCCESS
}

fn run_tests(arguments: &[String]) {
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    for (name, test) in scenarios::ALL.iter().chain(server::ALL) {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}
