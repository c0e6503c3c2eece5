//! One scenario, for a program that counts instructions: `tests/instructions` runs it
//! under callgrind, which counts within `measured_tick` and `measured_packet` only.
//! Prints how many packets were forwarded there.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/transport/network.rs"]
mod network;
#[path = "../tests/transport/room.rs"]
mod room;
mod scenarios;

use std::time::Duration;

use scenarios::{Graph, Room, Shape};

/// Virtual time for each scenario of the engine.
const TIME: Duration = Duration::from_secs(2);

fn main() {
    // Cargo appends arguments of its own.
    let name = std::env::args().nth(1).unwrap_or_default();
    let forwarded = match name.as_str() {
        "router" => Graph::new(100).measure(500),
        "broadcast" => Room::new(Shape::BROADCAST).measure(TIME),
        "meeting" => Room::new(Shape::MEETING).measure(TIME),
        "audio" => Room::new(Shape::AUDIO).measure(TIME),
        "streams2" => Room::new(Shape::TWO_STREAMS).measure(TIME),
        "streams60" => Room::new(Shape::SIXTY_STREAMS).measure(TIME),
        _ => {
            println!("scenarios: router, broadcast, meeting, audio, streams2, streams60");
            return;
        }
    };
    println!("forwarded {forwarded}");
}
