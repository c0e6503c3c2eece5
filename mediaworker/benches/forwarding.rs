//! Time for each packet, by Criterion: `cargo bench --bench forwarding`. The rod in
//! `bench/` measures the whole server; here are the engine and the media graph without
//! sockets. In the engine's figures there is the time of its str0m clients, too.
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

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scenarios::{Graph, Room, Shape};

fn graph(c: &mut Criterion) {
    let mut group = c.benchmark_group("router");
    for consumers in [1, 20, 100] {
        let mut graph = Graph::new(consumers);
        group.throughput(Throughput::Elements(4 * u64::from(consumers)));
        group.bench_function(format!("a picture to {consumers}"), |b| {
            b.iter(|| graph.picture(false));
        });
    }
}

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine with clients");
    group.sample_size(10);
    for (name, shape) in [
        ("broadcast 1 to 20", Shape::BROADCAST),
        ("meeting of 8", Shape::MEETING),
        ("audio of 12", Shape::AUDIO),
    ] {
        let mut room = Room::new(shape);
        let time = Duration::from_millis(100);
        group.throughput(Throughput::Elements(room.run(time)));
        group.bench_function(name, |b| b.iter(|| room.run(time)));
    }
}

criterion_group!(benches, graph, engine);
criterion_main!(benches);
