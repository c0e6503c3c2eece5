//! Scores follow what happens to the packets, and are told when they change.

use std::time::Duration;

use proto::event::Event;

use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::network::{Conditions, Network};
use crate::room::{Source, call, call_with, produce_request, run};

const SECOND: Duration = Duration::from_secs(1);

/// Scores of a producer that were told, oldest first.
fn told(network: &Network, producer: &str) -> Vec<u32> {
    let of = |event: &Event| match event {
        Event::ProducerScore(told) if told.producer_id == producer => {
            assert_eq!(told.scores.len(), 1);
            assert_eq!(told.scores[0].encoding_idx, 0);
            Some(told.scores[0].score)
        }
        _ => None,
    };
    network.events.iter().filter_map(of).collect()
}

/// Scores of a consumer that were told, oldest first: its own, its producer's.
fn consumer_told(network: &Network, consumer: &str) -> Vec<(u32, u32)> {
    let of = |event: &Event| match event {
        Event::ConsumerScore(told) if told.consumer_id == consumer => {
            let score = told.score.clone().unwrap();
            assert_eq!(score.producer_scores, [score.producer_score]);
            Some((score.score, score.producer_score))
        }
        _ => None,
    };
    network.events.iter().filter_map(of).collect()
}

#[test]
fn a_good_call_is_told_once() {
    let (mut network, mut audio, mut video) = call(1);
    run(&mut network, &mut [&mut audio, &mut video], 20 * SECOND);
    assert_eq!(told(&network, "mic"), [10]);
    assert_eq!(told(&network, "cam"), [10]);
    assert_eq!(consumer_told(&network, "v"), [(10, 10)]);
    let score = network.engine.resume_consumer(network.now, "v").unwrap();
    assert_eq!((score.score, score.producer_score), (10, 10));
    assert_eq!(score.producer_scores, [10]);
}

#[test]
fn silence_is_told_and_its_end_too() {
    let (mut network, mut audio, mut video) = call(2);
    run(&mut network, &mut [&mut audio, &mut video], 3 * SECOND);
    // Only audio goes on.
    run(&mut network, &mut [&mut audio], 3 * SECOND);
    assert_eq!(told(&network, "cam"), [10, 0]);
    assert_eq!(consumer_told(&network, "v"), [(10, 10), (10, 0)]);
    video.skip(3 * SECOND);
    run(&mut network, &mut [&mut audio, &mut video], 3 * SECOND);
    assert_eq!(told(&network, "cam"), [10, 0, 10]);
    assert_eq!(told(&network, "mic"), [10]);
}

#[test]
fn audio_that_pauses_between_words_does_not_flap() {
    let (mut network, mut audio, _) = call(3);
    for _ in 0..5 {
        run(&mut network, &mut [&mut audio], SECOND / 2);
        network.run_for(4 * SECOND);
        audio.skip(4 * SECOND);
    }
    assert_eq!(told(&network, "mic"), [10]);
    network.run_for(6 * SECOND);
    assert_eq!(told(&network, "mic"), [10, 0], "but it can end");
}

#[test]
fn a_paused_producer_is_not_dead() {
    let (mut network, mut audio, mut video) = call(4);
    run(&mut network, &mut [&mut audio, &mut video], 3 * SECOND);
    for paused in [true, false] {
        network
            .engine
            .set_producer_paused(network.now, "cam", paused)
            .unwrap();
        if paused {
            network.run_for(10 * SECOND);
            video.skip(10 * SECOND);
            audio.skip(10 * SECOND);
        }
    }
    run(&mut network, &mut [&mut audio, &mut video], 3 * SECOND);
    assert_eq!(told(&network, "cam"), [10]);
    assert_eq!(consumer_told(&network, "v"), [(10, 10)]);
    assert_eq!(
        told(&network, "mic"),
        [10, 0, 10],
        "that one was not paused"
    );
}

#[test]
fn loss_lowers_scores_and_they_recover() {
    let (mut network, mut audio, mut video) = call(5);
    let both: &mut [&mut Source] = &mut [&mut audio, &mut video];
    run(&mut network, both, 3 * SECOND);
    network.conditions = Conditions {
        loss: 0.4,
        ..Conditions::PERFECT
    };
    run(&mut network, both, 20 * SECOND);
    let low = *told(&network, "cam").last().unwrap();
    assert!(low < 6, "{low}");
    // The client's reports count what was repaired as received; audio is not.
    let (own, of_producer) = *consumer_told(&network, "a").last().unwrap();
    assert!(own < 6 && of_producer < 6, "{own}, {of_producer}");
    assert_eq!(told(&network, "mic").last(), Some(&of_producer));
    network.conditions = Conditions::PERFECT;
    run(&mut network, both, 30 * SECOND);
    assert_eq!(told(&network, "cam").last(), Some(&10));
    assert_eq!(consumer_told(&network, "v").last(), Some(&(10, 10)));
    let (better, _) = *consumer_told(&network, "a").last().unwrap();
    assert!(better > own, "{better}");
    // One event a second at most.
    assert!(told(&network, "cam").len() <= 54);
}

#[test]
fn nobody_hears_of_what_is_closed() {
    let (mut network, mut audio, mut video) = call(6);
    run(&mut network, &mut [&mut audio, &mut video], 3 * SECOND);
    network.engine.close_producer("cam").unwrap();
    network.engine.close_producer("mic").unwrap();
    network.events.clear();
    network.run_for(10 * SECOND);
    let silence = proto::ActiveSpeaker::default();
    assert_eq!(network.events, [Event::ActiveSpeaker(silence)]);
}

/// As control asks for where a broadcaster's streams are allowed longer silences.
#[test]
fn how_long_a_producer_may_be_silent_can_be_said() {
    let change = |request: &mut proto::ProduceRequest| request.silence_ms = Some(8_000);
    let (mut network, mut audio, mut video) = call_with(6, change, PeerConfig::sending());
    run(&mut network, &mut [&mut audio, &mut video], 3 * SECOND);
    network.run_for(7 * SECOND);
    for producer in ["mic", "cam"] {
        assert_eq!(told(&network, producer), [10], "{producer}");
    }
    network.run_for(3 * SECOND);
    for producer in ["mic", "cam"] {
        assert_eq!(told(&network, producer), [10, 0], "{producer}");
    }
    let mut request = produce_request("send", "other", MediaKind::Audio, 9000);
    request.silence_ms = Some(0);
    let error = network.engine.produce(network.now, &request).unwrap_err();
    assert!(error.to_string().contains("silence_ms"), "{error}");
}

/// Of one that has never sent anything, nobody hears anything good.
#[test]
fn a_producer_that_has_never_sent_has_no_score() {
    let (mut network, mut audio, _) = call(7);
    run(&mut network, &mut [&mut audio], 10 * SECOND);
    assert!(told(&network, "cam").iter().all(|score| *score == 0));
    let score = network.engine.resume_consumer(network.now, "v").unwrap();
    assert_eq!(score.producer_score, 0);
    let consumer = consumer_told(&network, "v");
    assert!(
        consumer.iter().all(|(_, producer)| *producer == 0),
        "{consumer:?}"
    );
}
