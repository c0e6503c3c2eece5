//! What the supervisor promises, each promise checked with real process ids.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use control::addresses::AnnouncedAddress;
use control::config::Config;
use control::workers::cpu::CpuLimits;
use control::workers::{
    NotReady, Notice, Plan, StartError, Timing, WorkerId, WorkerPool, WorkerState, Workers, start,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;

use crate::fake::Mode;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the end of all workers may take: their grace, the time to kill and
/// reap them, and a little for a busy machine.
const LONGEST_END: Duration = Duration::from_millis(900);

/// Every scenario, by name.
pub const ALL: &[(&str, fn())] = &[
    (
        "ready_workers_are_listed_and_speak",
        ready_workers_are_listed_and_speak,
    ),
    (
        "the_runtime_directory_is_private",
        the_runtime_directory_is_private,
    ),
    ("a_killed_worker_is_replaced", a_killed_worker_is_replaced),
    (
        "a_worker_that_loses_its_connection_is_replaced",
        a_worker_that_loses_its_connection_is_replaced,
    ),
    (
        "a_worker_that_does_not_answer_is_skipped",
        a_worker_that_does_not_answer_is_skipped,
    ),
    (
        "a_worker_that_stays_stuck_is_replaced",
        a_worker_that_stays_stuck_is_replaced,
    ),
    ("restarts_slow_down", restarts_slow_down),
    (
        "a_worker_is_replaced_on_request",
        a_worker_is_replaced_on_request,
    ),
    (
        "a_worker_that_keeps_ending_is_taken_out",
        a_worker_that_keeps_ending_is_taken_out,
    ),
    ("a_start_that_fails_says_why", a_start_that_fails_says_why),
    (
        "a_full_queue_of_notices_does_not_hide_a_death",
        a_full_queue_of_notices_does_not_hide_a_death,
    ),
    ("shutdown_leaves_nothing", shutdown_leaves_nothing),
    ("shutdown_kills_the_stubborn", shutdown_kills_the_stubborn),
    (
        "dropping_the_workers_kills_them",
        dropping_the_workers_kills_them,
    ),
    (
        "workers_end_with_a_killed_control_plane",
        workers_end_with_a_killed_control_plane,
    ),
];

fn run(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(scenario);
}

fn plan(mode: Mode, workers: usize) -> Plan {
    let limits = CpuLimits {
        allowed: (0..workers).collect(),
        online: Vec::new(),
        quota: None,
    };
    let announced = vec![AnnouncedAddress::new("127.0.0.1")];
    Plan {
        program: std::env::current_exe().unwrap(),
        role: vec!["worker".into(), format!("{mode:?}").into()],
        timing: Timing {
            backoff_min: Duration::from_millis(20),
            ..Timing::default()
        },
        ..Plan::new(&Config::default(), &limits, announced).unwrap()
    }
}

/// Children of this process, by pid, with their command lines. A child that
/// only waits to be reaped has an empty one.
fn children() -> BTreeMap<i32, String> {
    let own = std::process::id();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        if after_name.split_whitespace().nth(1) == Some(own.to_string().as_str()) {
            let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.insert(pid, line.replace('\0', " "));
        }
    }
    found
}

/// Whether a process runs; one that only waits to be reaped does not.
fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    state.split_whitespace().next().is_some_and(|s| s != "Z")
}

fn pids(workers: &Workers) -> Vec<i32> {
    let pids = workers.status().into_iter().filter_map(|s| s.pid);
    pids.map(|pid| i32::try_from(pid).unwrap()).collect()
}

/// The runtime directory, from the socket that a worker was told to use.
fn directory(pid: i32) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let mut words = line.split('\0').skip_while(|word| *word != "--socket");
    Path::new(words.nth(1).unwrap())
        .parent()
        .unwrap()
        .to_owned()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn next(notices: &mut mpsc::Receiver<Notice>) -> Notice {
    let notice = tokio::time::timeout(PATIENCE, notices.recv()).await;
    notice.expect("no notice").expect("no sender")
}

async fn death(notices: &mut mpsc::Receiver<Notice>) -> WorkerId {
    loop {
        if let Notice::Died(id) = next(notices).await {
            return id;
        }
    }
}

fn ready_workers_are_listed_and_speak() {
    run(async {
        let (sender, mut notices) = mpsc::channel(16);
        let workers = start(plan(Mode::Good, 2), sender).await.unwrap();
        let status = workers.status();
        assert_eq!(status.len(), 2);
        assert!(
            status
                .iter()
                .all(|s| s.state == WorkerState::Ready && s.restarts == 0)
        );
        assert_eq!(status[0].ports, (40_000, 44_999));
        assert_eq!((status[0].cpu, status[1].cpu), (Some(0), Some(1)));

        let children = children();
        for (status, pid) in status.iter().zip(pids(&workers)) {
            let line = &children[&pid];
            let title = format!("mediaworker-{0} worker Good --index {0} ", status.index);
            assert!(line.starts_with(&title), "{line}");
            // Out of reach of a Ctrl-C for the control plane.
            assert_eq!(
                nix::unistd::getpgid(Some(Pid::from_raw(pid)))
                    .unwrap()
                    .as_raw(),
                pid
            );
        }

        let (mut from, mut ready) = (BTreeSet::new(), BTreeSet::new());
        while from.len() < 2 {
            match next(&mut notices).await {
                Notice::Event(id, event) => {
                    assert_eq!(event.router_id, "hello");
                    from.insert(id);
                }
                Notice::Ready(id) => assert!(ready.insert(id)),
                died => panic!("{died:?}"),
            }
        }
        let live: BTreeSet<WorkerId> = workers.live().iter().map(|w| w.id).collect();
        assert_eq!((&live, &live), (&from, &ready));
        let picked = [0; 2].map(|_| workers.pick(&|_| true).unwrap().id);
        assert_eq!(BTreeSet::from(picked), from);
        workers.shutdown().await;
    });
}

fn the_runtime_directory_is_private() {
    run(async {
        let (sender, _notices) = mpsc::channel(16);
        let workers = start(plan(Mode::Good, 1), sender).await.unwrap();
        let path = directory(pids(&workers)[0]);
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        workers.shutdown().await;
    });
}

fn a_killed_worker_is_replaced() {
    run(async {
        let (sender, mut notices) = mpsc::channel(16);
        let workers = start(plan(Mode::Good, 2), sender).await.unwrap();
        let before = workers.live();
        let pid = pids(&workers)[0];
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!(death(&mut notices).await, before[0].id);
        until("worker 0 is back", || workers.live().len() == 2).await;
        let after = workers.live();
        assert_ne!(after[0].id, before[0].id);
        assert_eq!(after[1].id, before[1].id);
        let status = workers.status();
        assert_eq!((status[0].restarts, status[1].restarts), (1, 0));
        assert_eq!(status[0].ports, (40_000, 44_999));
        assert_ne!(pids(&workers)[0], pid);
        assert!(!alive(pid));
        workers.shutdown().await;
    });
}

fn a_worker_that_loses_its_connection_is_replaced() {
    run(async {
        let (sender, mut notices) = mpsc::channel(16);
        let workers = start(plan(Mode::Lost, 1), sender).await.unwrap();
        let pid = pids(&workers)[0];
        let first = death(&mut notices).await;
        assert!(!alive(pid));
        assert_ne!(death(&mut notices).await, first);
        workers.shutdown().await;
    });
}

/// A plan whose workers are asked often, and have `deadline` to answer.
fn checked(mode: Mode, workers: usize, deadline: Duration) -> Plan {
    let mut plan = plan(mode, workers);
    plan.timing.check_interval = Duration::from_millis(50);
    plan.timing.check_deadline = deadline;
    plan
}

fn a_worker_that_does_not_answer_is_skipped() {
    run(async {
        let (sender, mut notices) = mpsc::channel(16);
        let plan = checked(Mode::Good, 2, Duration::from_secs(2));
        let workers = start(plan, sender).await.unwrap();
        let before: Vec<WorkerId> = workers.live().iter().map(|w| w.id).collect();
        let pid = Pid::from_raw(pids(&workers)[0]);
        kill(pid, Signal::SIGSTOP).unwrap();
        until("it is not ready", || {
            workers.status()[0].state != WorkerState::Ready
        })
        .await;
        let picked = [0; 4].map(|_| workers.pick(&|_| true).unwrap().id);
        kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(picked, [before[1]; 4]);
        until("it is ready again", || {
            workers.status()[0].state == WorkerState::Ready
        })
        .await;
        // It has the fewest rooms now.
        assert_eq!(workers.pick(&|_| true).unwrap().id, before[0]);
        while let Ok(notice) = notices.try_recv() {
            assert!(
                matches!(notice, Notice::Event(..) | Notice::Ready(_)),
                "{notice:?}"
            );
        }
        workers.shutdown().await;
    });
}

fn a_worker_that_stays_stuck_is_replaced() {
    run(async {
        let (sender, mut notices) = mpsc::channel(16);
        let plan = checked(Mode::Stuck, 1, Duration::from_millis(300));
        let workers = start(plan, sender).await.unwrap();
        let first = workers.pick(&|_| true).unwrap().id;
        let pid = pids(&workers)[0];
        until("it is stuck", || workers.states() == [WorkerState::Stuck]).await;
        assert_eq!(death(&mut notices).await, first);
        assert!(!alive(pid));
        until("another is there", || {
            workers
                .pick(&|_| true)
                .is_some_and(|worker| worker.id != first)
        })
        .await;
        workers.shutdown().await;
    });
}

fn restarts_slow_down() {
    run(async {
        let mut plan = plan(Mode::Fading, 1);
        plan.timing.backoff_min = Duration::from_millis(100);
        let (sender, mut notices) = mpsc::channel(16);
        let workers = start(plan, sender).await.unwrap();
        let born = Instant::now();
        kill(Pid::from_raw(pids(&workers)[0]), Signal::SIGKILL).unwrap();
        death(&mut notices).await;
        assert!(workers.pick(&|_| true).is_none());
        until("three restarts", || workers.status()[0].restarts >= 3).await;
        assert!(born.elapsed() >= Duration::from_millis(100 + 200 + 400));
        // A worker that never got ready has no identity, so nobody was told.
        assert!(notices.try_recv().is_err());
        let stopping = Instant::now();
        workers.shutdown().await;
        assert!(stopping.elapsed() < LONGEST_END);
    });
}

fn a_worker_is_replaced_on_request() {
    run(async {
        let (sender, mut notices) = mpsc::channel(16);
        let mut plan = plan(Mode::Good, 2);
        // Nobody waits for that.
        plan.timing.backoff_min = Duration::from_secs(600);
        plan.timing.backoff_max = Duration::from_secs(600);
        let workers = start(plan, sender).await.unwrap();
        let before: Vec<WorkerId> = workers.live().iter().map(|w| w.id).collect();
        let pid = pids(&workers)[0];
        assert_eq!(workers.drain(0), Some(before[0]));
        let picked = [0; 3].map(|_| workers.pick(&|_| true).unwrap().id);
        assert_eq!(picked, [before[1]; 3]);
        assert!(workers.recycle(0));
        let replaced = loop {
            match next(&mut notices).await {
                Notice::Replaced(id) => break id,
                Notice::Died(id) => panic!("{id:?} died"),
                Notice::Event(..) | Notice::Ready(_) => {}
            }
        };
        assert_eq!(replaced, before[0]);
        until("another is ready", || {
            workers.status()[0].state == WorkerState::Ready
        })
        .await;
        assert!(!alive(pid));
        let status = workers.status();
        assert_eq!((status[0].restarts, status[1].restarts), (1, 0));
        let exit = status[0].last_exit.clone().unwrap();
        assert_eq!(exit.reason, "replaced on request");
        assert!(!workers.recycle(2));
        assert_eq!(workers.drain(2), None);
        workers.shutdown().await;
    });
}

fn a_worker_that_keeps_ending_is_taken_out() {
    run(async {
        let mut plan = plan(Mode::Fading, 2);
        plan.timing.backoff_min = Duration::from_millis(1);
        plan.timing.max_short_lives = 3;
        let (sender, _notices) = mpsc::channel(16);
        let workers = start(plan, sender).await.unwrap();
        let state = || workers.status()[0].state;
        kill(Pid::from_raw(pids(&workers)[0]), Signal::SIGKILL).unwrap();
        until("it is taken out", || state() == WorkerState::Failed).await;
        let status = workers.status();
        // The first life was one of the three.
        assert_eq!(status[0].restarts, 2);
        let exit = status[0].last_exit.clone().unwrap();
        assert!(exit.reason.contains("exit status: 3"), "{exit:?}");
        assert_eq!(status[1].state, WorkerState::Ready);
        assert_eq!(workers.pick(&|_| true).unwrap().index, 1);
        // Until somebody asks for another.
        assert_eq!(workers.drain(0), None);
        assert!(workers.recycle(0));
        until("it is tried again", || workers.status()[0].restarts > 2).await;
        until("in vain", || state() == WorkerState::Failed).await;
        assert_eq!(workers.status()[0].restarts, 5);
        let stopping = Instant::now();
        workers.shutdown().await;
        assert!(stopping.elapsed() < LONGEST_END);
    });
}

fn a_start_that_fails_says_why() {
    run(async {
        for (mode, want) in [
            (Mode::Dying, "exit status: 3, its last line was: "),
            (Mode::Old, "handshake failed: another version"),
            (Mode::Silent, "did not answer within 0.5 s"),
            (Mode::Mute, "did not answer within 0.5 s"),
        ] {
            let mut plan = plan(mode, 2);
            plan.timing.ready_deadline = Duration::from_millis(match mode {
                Mode::Silent | Mode::Mute => 500,
                _ => 10_000,
            });
            let (sender, _notices) = mpsc::channel(16);
            let error = start(plan, sender).await.unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("media worker "), "{text}");
            assert!(text.contains(want), "{mode:?}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            if mode == Mode::Dying {
                let StartError::Worker {
                    cause: NotReady::Ended { last, .. },
                    ..
                } = error
                else {
                    panic!("{error:?}");
                };
                assert!(
                    last.iter().any(|line| line.contains("no port is free")),
                    "{last:?}"
                );
            }
            assert_eq!(children(), BTreeMap::new(), "{mode:?}");
        }
        let mut plan = plan(Mode::Good, 1);
        plan.program = "/nonexistent".into();
        let (sender, _notices) = mpsc::channel(16);
        let text = start(plan, sender).await.unwrap_err().to_string();
        assert!(text.contains("cannot be started: No such file"), "{text}");
    });
}

fn a_full_queue_of_notices_does_not_hide_a_death() {
    run(async {
        let (sender, mut notices) = mpsc::channel(1);
        let workers = start(plan(Mode::Good, 3), sender).await.unwrap();
        // Nobody reads: the first notice fills the queue, the others wait.
        until("a notice waits", || notices.len() == 1).await;
        for pid in pids(&workers) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        until("no dead worker is offered", || workers.live().is_empty()).await;
        let deaths: BTreeSet<WorkerId> = [
            death(&mut notices).await,
            death(&mut notices).await,
            death(&mut notices).await,
        ]
        .into();
        assert_eq!(deaths.len(), 3);
        workers.shutdown().await;
    });
}

/// Ends `mode` workers in order and checks that nothing is left; answers how
/// long it took.
async fn shut_down(mode: Mode) -> Duration {
    let (sender, mut notices) = mpsc::channel(64);
    let workers = start(plan(mode, 3), sender).await.unwrap();
    let pids = pids(&workers);
    assert_eq!(pids.len(), 3);
    let directory = directory(pids[0]);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
    let begin = Instant::now();
    workers.shutdown().await;
    let took = begin.elapsed();
    assert!(took < LONGEST_END, "{took:?}");
    // Reaped, so they are not even zombies.
    assert_eq!(children(), BTreeMap::new());
    assert!(!directory.exists());
    while let Ok(notice) = notices.try_recv() {
        assert!(
            matches!(notice, Notice::Event(..) | Notice::Ready(_)),
            "{notice:?}"
        );
    }
    took
}

fn shutdown_leaves_nothing() {
    run(async {
        let took = shut_down(Mode::Good).await;
        assert!(took < Duration::from_millis(400), "{took:?}");
    });
}

fn shutdown_kills_the_stubborn() {
    run(async {
        let took = shut_down(Mode::Stubborn).await;
        assert!(took >= Duration::from_millis(500), "{took:?}");
    });
}

fn dropping_the_workers_kills_them() {
    // What is killed on drop is reaped with the next SIGCHLD, and its own may have come
    // before the runtime knew that there is something to reap.
    let all_are_gone = || children().values().all(String::is_empty);
    run(async {
        let (sender, _notices) = mpsc::channel(16);
        let workers = start(plan(Mode::Stubborn, 2), sender).await.unwrap();
        let directory = directory(pids(&workers)[0]);
        drop(workers);
        until("all are gone", all_are_gone).await;
        assert!(!directory.exists());

        // A start that nobody waits for any more is the same.
        let (sender, _notices) = mpsc::channel(16);
        let starting = start(plan(Mode::Silent, 2), sender);
        let _ = tokio::time::timeout(Duration::from_millis(300), starting).await;
        until("all are gone", all_are_gone).await;
    });
}

/// The role of a control plane that is killed: prints its workers' pids and
/// waits.
pub fn control_plane() {
    run(async {
        let (sender, _notices) = mpsc::channel(16);
        let workers = start(plan(Mode::Good, 2), sender).await.unwrap();
        for pid in pids(&workers) {
            println!("{pid}");
        }
        println!("{}", directory(pids(&workers)[0]).display());
        std::future::pending::<()>().await;
    });
}

/// Killed when dropped, so that a test that fails leaves nothing running.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn workers_end_with_a_killed_control_plane() {
    run(async {
        let command = Command::new(std::env::current_exe().unwrap())
            .arg0("control-under-test")
            .arg("control")
            .env("ADMIN_TOKEN", "secret")
            .stdout(Stdio::piped())
            .spawn();
        let mut control = Killed(command.unwrap());
        let mut lines = BufReader::new(control.0.stdout.take().unwrap()).lines();
        let mut line = || lines.next().unwrap().unwrap();
        let pids: Vec<i32> = [line(), line()].map(|pid| pid.parse().unwrap()).into();
        let directory = PathBuf::from(line());
        for pid in &pids {
            assert!(alive(*pid));
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
            assert!(!String::from_utf8_lossy(&environment).contains("ADMIN_TOKEN"));
        }
        drop(control);
        until("the workers are gone", || {
            !pids.iter().any(|pid| alive(*pid))
        })
        .await;
        // A killed process cannot clean up; a fake worker does not either.
        std::fs::remove_dir_all(directory).unwrap();
    });
}
