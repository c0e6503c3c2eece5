//! Peers that come and go in the middle of a bad call, in every order that a
//! seed brings: no transport may suffer from what happens to another one.

use std::time::Duration;

use proto::event::Event;
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::network::{Conditions, Network};
use crate::room::{Source, consume, create_router, produce, produce_request};

const MS: Duration = Duration::from_millis(1);

/// One participant: a sending and a receiving client, as browsers have them.
struct Member {
    name: String,
    send: usize,
    recv: usize,
    sources: Vec<Source>,
    next_ssrc: u32,
}

impl Member {
    fn join(network: &mut Network, number: u32) -> Self {
        let name = format!("m{number}");
        let send = network.add_client(&PeerConfig::sending());
        let recv = network.add_client(&PeerConfig::receiving());
        network.connect(send, &format!("{name}-send"), true);
        network.connect(recv, &format!("{name}-recv"), false);
        let mut member = Self {
            name,
            send,
            recv,
            sources: Vec::new(),
            next_ssrc: 100_000 * (number + 1),
        };
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let ssrc = member.ssrc();
            let id = member.producer(kind);
            let request = produce_request(&format!("{}-send", member.name), &id, kind, ssrc);
            produce(network, send, &request);
            member.sources.push(Source::new(network, send, kind, ssrc));
        }
        member
    }

    fn producer(&self, kind: MediaKind) -> String {
        format!("{}-{}", self.name, if kind.is_audio() { "a" } else { "v" })
    }

    fn ssrc(&mut self) -> u32 {
        self.next_ssrc += 2;
        self.next_ssrc
    }

    fn receive(&mut self, network: &mut Network, other: &str, producers: [String; 2]) {
        for (kind, producer) in [MediaKind::Audio, MediaKind::Video]
            .into_iter()
            .zip(producers)
        {
            let ssrc = self.ssrc();
            let id = format!(
                "{}{other}{}",
                self.name,
                if kind.is_audio() { "a" } else { "v" }
            );
            let transport = format!("{}-recv", self.name);
            consume(network, self.recv, &transport, &id, &producer, kind, ssrc);
            network.engine.resume_consumer(network.now, &id).unwrap();
        }
    }

    /// Leaves in one of the ways that clients leave.
    fn leave(self, network: &mut Network) {
        let now = network.now;
        let way = network.random();
        for (client, transport) in [(self.recv, "recv"), (self.send, "send")] {
            let id = format!("{}-{transport}", self.name);
            if way < 0.6 {
                network.clients[client].peer.close();
            }
            if way > 0.4 && way < 0.8 {
                let _ = network.engine.close_transport(now, &id);
            }
            network.clients[client].cut |= way >= 0.9;
        }
        // Control closes them in the end, whatever the client did.
        if !(0.4..0.8).contains(&way) {
            let wait = 60.0 * network.random();
            network.run_for(MS * wait as u32);
            for transport in ["recv", "send"] {
                let id = format!("{}-{transport}", self.name);
                let _ = network.engine.close_transport(network.now, &id);
            }
        }
    }
}

fn introduce(network: &mut Network, members: &mut [Member]) {
    let Some((new, others)) = members.split_last_mut() else {
        return;
    };
    for other in others {
        let both = |m: &Member| [m.producer(MediaKind::Audio), m.producer(MediaKind::Video)];
        new.receive(network, &other.name, both(other));
        other.receive(network, &new.name, both(new));
    }
}

fn churn(seed: u64) {
    let mut network = Network::new(seed);
    create_router(&mut network);
    network.conditions = Conditions::BAD;
    let mut members = Vec::new();
    let mut number = 0;
    for _ in 0..24 {
        let many = members.len() >= 4;
        if members.len() < 2 || (!many && network.random() < 0.6) {
            members.push(Member::join(&mut network, number));
            number += 1;
            introduce(&mut network, &mut members);
        } else {
            let who = (network.random() * members.len() as f64) as usize;
            members.remove(who).leave(&mut network);
        }
        // From less than a tick to longer than the NACK and report timers.
        let time = 10f64.powf(network.random() * 3.3);
        let end = network.now + MS * time as u32;
        while network.now < end {
            for source in members.iter_mut().flat_map(|m| &mut m.sources) {
                source.step(&mut network);
            }
            network.step(MS);
            check(&mut network, &members, seed);
        }
    }
    for member in members {
        member.leave(&mut network);
    }
    network.run_for(MS * 100);
    let sizes = network.engine.sizes();
    assert_eq!(
        (sizes.transports, sizes.producers, sizes.consumers),
        (0, 0, 0)
    );
}

/// Who is there has lost nothing.
fn check(network: &mut Network, members: &[Member], seed: u64) {
    assert_eq!(network.engine.counters().panics, 0, "seed {seed}");
    for event in network.events.drain(..) {
        if let Event::TransportClosed(closed) = event {
            let stays = members
                .iter()
                .any(|m| closed.transport_id.starts_with(&format!("{}-", m.name)));
            assert!(!stays, "seed {seed}: {closed:?}");
            assert_eq!(closed.reason, "closed by the client", "seed {seed}");
        }
    }
}

#[test]
fn nobody_suffers_when_others_come_and_go() {
    let seeds = std::env::var("CHURN_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok());
    for seed in 1..=seeds.unwrap_or(4) {
        churn(seed);
    }
}
