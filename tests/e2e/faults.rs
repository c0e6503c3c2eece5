//! What can happen to a media worker, done to it from outside.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::https;
use crate::server::{Server, is_alive};

/// What happens to a worker that has a room.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// `kill -9`.
    Killed,
    /// `kill -STOP`: it lives and does nothing.
    Stopped,
    /// It may have no more memory, and is asked for things that need some.
    OutOfMemory,
}

impl Fault {
    /// As the figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Killed => "kill -9",
            Fault::Stopped => "kill -STOP",
            Fault::OutOfMemory => "no memory",
        }
    }

    /// `WORKER_TIMEOUT` of a server that it happens to, seconds: no longer than a test
    /// wants to wait, where it is waited for at all. On a machine that is busy with
    /// other tests, workers that are well may stall for a moment, too.
    pub fn worker_timeout(self) -> u64 {
        match self {
            Fault::Stopped => 4,
            Fault::Killed | Fault::OutOfMemory => 20,
        }
    }

    /// Does it to the worker `pid`, which has `room`.
    pub fn happens(self, server: &Server, pid: Pid, room: &str) {
        match self {
            Fault::Killed => kill(pid, Signal::SIGKILL).unwrap(),
            Fault::Stopped => kill(pid, Signal::SIGSTOP).unwrap(),
            Fault::OutOfMemory => exhaust(server, pid, room),
        }
    }
}

fn exhaust(server: &Server, pid: Pid, room: &str) {
    let limited = Command::new("prlimit")
        .args(["--as=1", "--pid", &pid.to_string()])
        .status()
        .expect("prlimit is installed");
    assert!(limited.success());
    // What it has is enough for a while.
    let room = server.url(&format!("/rooms/{room}/broadcasters"));
    for cast in 0..16 {
        let body = json!({"id": format!("cast{cast}"), "displayName": "", "device": {"name": "x"}});
        https::request("POST", &room, &[], &body.to_string());
        for _ in 0..32 {
            if !is_alive(pid) {
                return;
            }
            let path = format!("{room}/cast{cast}/transports");
            https::request("POST", &path, &[], r#"{"type": "webrtc"}"#);
        }
    }
    panic!("it lives on without memory");
}

/// Slot of the worker that a room is on.
pub fn worker_of(server: &Server, room: &str) -> usize {
    let (_, listed) = https::get(&server.url("/admin/rooms"));
    let mut rooms = listed["rooms"].as_array().unwrap().iter();
    let room = rooms.find(|it| it["id"] == room).expect("the room");
    usize::try_from(room["worker"].as_u64().unwrap()).unwrap()
}

/// Makes `room`, and another one on another worker; the slot of the first, and the
/// name of the second. Where rooms go depends on how busy workers are, so some may
/// have to be made.
pub fn two_rooms(server: &Server, room: &str) -> (usize, String) {
    let make = |room: &str| {
        let (status, _) = https::request("POST", &server.url(&format!("/rooms/{room}")), &[], "");
        assert_eq!(status, 200);
        worker_of(server, room)
    };
    let slot = make(room);
    let mut others = (0..100).map(|other| format!("other{other}"));
    let other = others.find(|other| make(other) != slot);
    (slot, other.expect("a room on another worker"))
}

/// What admins are told of a worker.
pub fn worker(server: &Server, slot: usize) -> serde_json::Value {
    let (_, config) = https::get(&server.url("/config"));
    config["workers"][slot].clone()
}
