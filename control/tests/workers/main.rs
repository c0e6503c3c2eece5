//! The supervisor against real processes. Like the product, this executable
//! takes other roles when it runs itself: `worker` is a fake media worker and
//! `control` a control plane that waits to be killed. So it has its own `main`
//! instead of the usual test harness; arguments are filters by name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod fake;
mod scenarios;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("worker") => fake::run(&arguments[1..]),
        Some("control") => scenarios::control_plane(),
        _ => run_tests(&arguments),
    }
}

fn run_tests(arguments: &[String]) {
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    for (name, test) in scenarios::ALL {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}
