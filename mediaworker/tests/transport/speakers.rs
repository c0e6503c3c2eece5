//! Who speaks is told, by the levels in the packets.

use std::time::Duration;

use proto::event::Event;
use test_peer::str0m::media::MediaKind;

use crate::network::Network;
use crate::room::{Source, call, produce, produce_request, run};

const SECOND: Duration = Duration::from_secs(1);

/// What was told since the last call: the loudest speaker, and how many there
/// are. The loudest is the first of them.
fn speakers(network: &mut Network) -> Vec<(Option<String>, i32, usize)> {
    std::mem::take(&mut network.events)
        .into_iter()
        .filter_map(|event| match event {
            Event::ActiveSpeaker(told) => {
                let first = told.volumes.first();
                let first = first.map(|it| (it.producer_id.clone(), it.volume));
                let loudest = told.producer_id.clone().map(|id| (id, told.volume));
                assert_eq!(first, loudest, "{told:?}");
                assert!(told.volumes.is_sorted_by(|a, b| a.volume >= b.volume));
                Some((told.producer_id, told.volume, told.volumes.len()))
            }
            _ => None,
        })
        .collect()
}

fn told(network: &mut Network) -> Vec<(Option<String>, i32)> {
    let speakers = speakers(network).into_iter();
    speakers.map(|(id, volume, _)| (id, volume)).collect()
}

#[test]
fn the_loudest_of_two_is_told_until_all_are_silent() {
    let (mut network, mut ann, _) = call(1);
    let other = network.add_client(&test_peer::PeerConfig::sending());
    network.connect(other, "send2", true);
    let request = produce_request("send2", "mic2", MediaKind::Audio, 3000);
    produce(&mut network, other, &request);
    network.run_until("connected", |n| n.clients[other].peer.connected);
    let mut bob = Source::new(&network, other, MediaKind::Audio, 3000);
    ann.level = -50;
    bob.level = -20;
    let mic = |id: &str, volume| (Some(id.to_owned()), volume);

    run(&mut network, &mut [&mut ann, &mut bob], 4 * SECOND);
    let first = speakers(&mut network);
    assert!((4..=5).contains(&first.len()), "{first:?}");
    let (loudest, volume) = mic("mic2", -20);
    let both = (loudest, volume, 2);
    assert!(first.iter().all(|it| *it == both), "{first:?}");

    network
        .engine
        .set_producer_paused(network.now, "mic2", true)
        .unwrap();
    run(&mut network, &mut [&mut ann, &mut bob], 4 * SECOND);
    let second = told(&mut network);
    assert!(second.len() >= 4, "{second:?}");
    assert!(second.iter().skip(1).all(|it| *it == mic("mic", -50)));

    ann.level = -90;
    run(&mut network, &mut [&mut ann, &mut bob], 4 * SECOND);
    let third = told(&mut network);
    assert_eq!(third.last(), Some(&(None, 0)), "{third:?}");
    let silent = third.iter().filter(|it| it.0.is_none()).count();
    assert_eq!(silent, 1, "told once");
    run(&mut network, &mut [&mut ann], 2 * SECOND);
    assert_eq!(told(&mut network), []);

    ann.level = -10;
    run(&mut network, &mut [&mut ann], 2 * SECOND);
    assert_eq!(told(&mut network).last(), Some(&mic("mic", -10)));
    network.engine.close_producer("mic").unwrap();
    network.run_for(2 * SECOND);
    assert_eq!(told(&mut network), [(None, 0)]);
}

#[test]
fn whoever_takes_over_the_conversation_is_told() {
    let (mut network, mut ann, _) = call(2);
    let other = network.add_client(&test_peer::PeerConfig::sending());
    network.connect(other, "send2", true);
    let request = produce_request("send2", "mic2", MediaKind::Audio, 3000);
    produce(&mut network, other, &request);
    network.run_until("connected", |n| n.clients[other].peer.connected);
    let mut bob = Source::new(&network, other, MediaKind::Audio, 3000);
    let mut talk = |network: &mut Network, levels: [i8; 2]| -> Vec<String> {
        [ann.level, bob.level] = levels;
        run(network, &mut [&mut ann, &mut bob], 2 * SECOND);
        std::mem::take(&mut network.events)
            .into_iter()
            .filter_map(|event| match event {
                Event::DominantSpeaker(told) => Some(told.producer_id),
                _ => None,
            })
            .collect()
    };
    let nobody: [&str; 0] = [];
    assert_eq!(talk(&mut network, [-90, -90]), nobody);
    assert_eq!(talk(&mut network, [-40, -90]), ["mic"]);
    // Both at once: the first one goes on, until only the other one does.
    assert_eq!(talk(&mut network, [-40, -30]), nobody);
    assert_eq!(talk(&mut network, [-90, -30]), ["mic2"]);
    assert_eq!(talk(&mut network, [-90, -90]), nobody);
}
