//! The measuring rod against a real server: its clients meet, and every figure
//! is there.

use bench::Outcome;
use bench::options::Cli;
use bench::report::Report;
use clap::Parser;

use crate::server::{Options, Server};

fn measure(server: &Server, scenario: &[&str]) -> Report {
    let (url, pid) = (
        format!("wss://127.0.0.1:{}", server.port),
        server.pid().to_string(),
    );
    // Small, so that a debug build on a busy machine keeps up.
    let common = [
        "--server",
        &url,
        "--pid",
        &pid,
        "--no-pin",
        "--settle",
        "0",
        "--sample",
        "100",
        "--floor-time",
        "20",
        "--bitrate",
        "200000",
    ];
    let line = ["bench"].iter().chain(scenario).chain(&common);
    let cli = Cli::try_parse_from(line).unwrap();
    match bench::run(&cli.command).unwrap() {
        Outcome::Report(report) => *report,
        Outcome::Idle(_) | Outcome::Start(_) | Outcome::Floor(_) => {
            panic!("a scenario has a report")
        }
    }
}

#[test]
fn the_rod_measures_a_meeting() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let report = measure(&server, &["meeting", "--peers", "2", "--seconds", "2"]);
    println!("{report}");
    assert_eq!(report.load.consumers, 4);
    let traffic = report.traffic;
    // Two peers, 50 audio packets and 30 frames of one packet a second each.
    assert!(
        (120.0..200.0).contains(&traffic.packets_per_second),
        "{report}"
    );
    assert_eq!((traffic.undecryptable, traffic.unknown), (0, 0), "{report}");
    assert!(traffic.loss < 0.05 && traffic.sampled > 0.95, "{report}");
    // Who comes first waits for the other, which is not counted.
    assert_eq!((report.join.count, report.first_packet.count), (2, 1));
    assert_eq!(report.connected.count, 4);
    assert!(report.latency.p50 > 0.0 && report.latency.p50 < 1_000.0);
    let cpu = report.cpu.unwrap();
    assert!(cpu.workers.share_of_core > 0.0, "{report}");
    assert!(report.memory.unwrap().workers > 0);
    assert!(report.ratios.unwrap().sendto > 0.0);
    let mix = report.mix.as_ref().unwrap();
    assert!((1.0..16.0).contains(&mix.packets_per_send), "{report}");
}

#[test]
fn the_rod_measures_joins_and_leaves() {
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 1).start();
    let churn = [
        "churn",
        "--rooms",
        "1",
        "--peers",
        "2",
        "--rate",
        "2",
        "--seconds",
        "2",
        "--no-floor",
    ];
    let report = measure(&server, &churn);
    println!("{report}");
    let joins = report.joins.unwrap();
    assert_eq!(joins.started, 4);
    assert!(joins.joined >= 2, "{report}");
    assert!(report.traffic.forwarded > 0, "{report}");
    let failed = |problem: &&String| problem.contains("failed");
    assert_eq!(report.problems.iter().find(failed), None, "{report}");
    assert!(report.join.p95 > 0.0);
    assert!(report.ratios.is_none());
}

#[test]
fn the_rod_says_what_is_wrong() {
    let server = Server::start();
    let url = format!("wss://127.0.0.1:{}", server.port);
    for (options, expected) in [
        (["--server", "wss://127.0.0.1:1", "--seconds", "1"], "TCP"),
        (
            ["--server", "http://127.0.0.1:1", "--seconds", "1"],
            "only wss://",
        ),
        (["--server", &url, "--pid", "2147483647"], "no such process"),
    ] {
        let line = [
            "bench",
            "broadcast",
            "--viewers",
            "1",
            "--no-floor",
            "--no-pin",
        ];
        let cli = Cli::try_parse_from(line.into_iter().chain(options)).unwrap();
        let error = bench::run(&cli.command).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
