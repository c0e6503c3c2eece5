//! Simulcast: a consumer gets the layer that it prefers.

use std::time::Duration;

use proto::event::Event;
use test_peer::str0m::media::MediaKind;

use crate::network::Network;
use crate::room::{Source, call, consume, is_key_frame_start, produce_request, run, stream};

const SECOND: Duration = Duration::from_secs(1);
const RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";

/// A call in which client 0 also sends a screen in three layers (SSRCs 3000,
/// 3010, 3020), which client 1 gets as 7000.
fn simulcast(seed: u64) -> (Network, [Source; 3]) {
    let (mut network, _, _) = call(seed);
    let mut request = produce_request("send", "screen", MediaKind::Video, 3000);
    request.mid = Some("2".into());
    request.header_extensions.push(proto::HeaderExtension {
        id: 10,
        uri: RTP_STREAM_ID.into(),
    });
    let ssrcs = [3000, 3010, 3020];
    request.encodings = Vec::new();
    for (ssrc, rid) in ssrcs.into_iter().zip(["l", "m", "h"]) {
        request.encodings.push(proto::ProducerEncoding {
            ssrc: Some(ssrc),
            rtx_ssrc: Some(ssrc + 1),
            rid: Some(rid.into()),
            layers: None,
        });
        network.clients[0].peer.send_layer("2", ssrc, ssrc + 1, rid);
    }
    network.engine.produce(network.now, &request).unwrap();
    let kind = MediaKind::Video;
    consume(&mut network, 1, "recv", "s", "screen", kind, 7000);
    network.engine.resume_consumer(network.now, "s").unwrap();
    let sources = ssrcs.map(|ssrc| Source::new(&network, 0, kind, ssrc));
    (network, sources)
}

fn send(network: &mut Network, sources: &mut [Source], time: Duration) {
    let mut all: Vec<&mut Source> = sources.iter_mut().collect();
    run(network, &mut all, time);
}

/// Spatial layers that were told, oldest first.
fn told(network: &Network) -> Vec<Option<u32>> {
    let of = |event: &Event| match event {
        Event::ConsumerLayers(told) => {
            assert_eq!(told.consumer_id, "s");
            Some(told.layers.map(|layers| layers.spatial_layer))
        }
        _ => None,
    };
    network.events.iter().filter_map(of).collect()
}

fn prefer(network: &mut Network, consumer: &str, spatial_layer: u32) {
    network
        .engine
        .set_preferred_layers(&proto::SetConsumerPreferredLayersRequest {
            consumer_id: consumer.into(),
            spatial_layer,
            temporal_layer: Some(7),
        })
        .unwrap();
}

/// The layer of the stream that the consumer gets, by its statistics.
fn forwarded(network: &Network) -> u32 {
    let stats = network.engine.consumer_stats(network.now, "s").unwrap();
    (stats.inbound.unwrap().ssrc - 3000) / 10
}

#[test]
fn the_preferred_layer_is_forwarded_and_told() {
    let (mut network, mut sources) = simulcast(1);
    send(&mut network, &mut sources, 4 * SECOND);
    assert_eq!(told(&network).last(), Some(&Some(2)), "the best at first");
    assert_eq!(forwarded(&network), 2);
    for (preferred, layer) in [(0, 0), (1, 1), (9, 2), (0, 0)] {
        let before = told(&network).len();
        prefer(&mut network, "s", preferred);
        send(&mut network, &mut sources, 3 * SECOND);
        assert_eq!(told(&network)[before..], [Some(layer)], "{preferred}");
        assert_eq!(forwarded(&network), layer);
    }
    // What was wanted stops: a higher one is better than nothing.
    send(&mut network, &mut sources[1..], 5 * SECOND);
    assert_eq!(forwarded(&network), 1);
    send(&mut network, &mut sources, 5 * SECOND);
    assert_eq!(forwarded(&network), 0, "and back");
    network.engine.pause_consumer(network.now, "s").unwrap();
    network.run_for(SECOND);
    assert_eq!(told(&network).last(), Some(&None));

    let packets = stream(&network, 1, 7000);
    assert!(packets.len() > 1000);
    let (mut left_out, mut switches) = (0, 0);
    for pair in packets.windows(2) {
        // Every switch begins with a keyframe, and at most a number is left out.
        let step = pair[1].sequence - pair[0].sequence;
        assert!(step <= 2, "{step}");
        left_out += step - 1;
        switches += usize::from(is_key_frame_start(&pair[1]));
        let ticks = pair[1]
            .header
            .timestamp
            .wrapping_sub(pair[0].header.timestamp);
        assert!(ticks < 90_000 * 3, "{ticks}");
    }
    assert!(left_out <= switches as u64 && switches >= 6);
}

#[test]
fn layers_that_flap_are_told_about_once_a_second() {
    let (mut network, mut sources) = simulcast(5);
    send(&mut network, &mut sources, 4 * SECOND);
    let before = told(&network).len();
    for _ in 0..20 {
        network.engine.pause_consumer(network.now, "s").unwrap();
        send(&mut network, &mut sources, SECOND / 20);
        network.engine.resume_consumer(network.now, "s").unwrap();
        send(&mut network, &mut sources, SECOND / 20);
    }
    send(&mut network, &mut sources, 3 * SECOND);
    let flaps = told(&network)[before..].to_vec();
    assert!((2..=6).contains(&flaps.len()), "{flaps:?}");
    assert_eq!(flaps.last(), Some(&Some(2)), "but the last word is said");
}

#[test]
fn every_layer_has_its_own_statistics_and_score() {
    let (mut network, mut sources) = simulcast(2);
    send(&mut network, &mut sources, 3 * SECOND);
    let stats = network.engine.producer_stats(network.now, "screen");
    let streams = stats.unwrap().streams;
    assert_eq!(streams.len(), 3);
    for (stream, source) in streams.iter().zip(&sources) {
        assert_eq!(stream.ssrc, source.ssrc);
        assert!(stream.packet_count > 200 && stream.score == 10);
    }
    let rids: Vec<_> = streams.iter().filter_map(|s| s.rid.as_deref()).collect();
    assert_eq!(rids, ["l", "m", "h"]);
    // The highest stops.
    send(&mut network, &mut sources[..2], 4 * SECOND);
    let scores = network.events.iter().rev().find_map(|event| match event {
        Event::ProducerScore(told) if told.producer_id == "screen" => Some(&told.scores),
        _ => None,
    });
    let scores: Vec<_> = scores.unwrap().iter().map(|s| s.score).collect();
    assert_eq!(scores, [10, 10, 0]);
    let score = network.engine.resume_consumer(network.now, "s").unwrap();
    assert_eq!(score.producer_scores, [10, 10, 0]);
    assert_eq!((score.score, score.producer_score), (10, 10));
}

#[test]
fn wishes_are_checked() {
    let (mut network, _) = simulcast(3);
    let engine = &mut network.engine;
    let unknown = proto::SetConsumerPreferredLayersRequest {
        consumer_id: "x".into(),
        ..Default::default()
    };
    let error = engine.set_preferred_layers(&unknown).unwrap_err();
    assert_eq!(error.to_string(), "consumer with id \"x\" not found");
    let mut set = |consumer: &str, priority| {
        engine
            .set_priority(&proto::SetConsumerPriorityRequest {
                consumer_id: consumer.into(),
                priority,
            })
            .map_err(|e| e.to_string())
    };
    assert_eq!(set("s", 1), Ok(()));
    assert_eq!(set("s", 255), Ok(()));
    for priority in [0, 256, u32::MAX] {
        let error = set("s", priority).unwrap_err();
        assert_eq!(error, format!("priority: {priority} is not in 1..=255"));
    }
    assert!(set("x", 1).unwrap_err().contains("not found"));
    // Consumers of producers without layers take them, and nothing happens.
    prefer(&mut network, "v", 3);
    prefer(&mut network, "a", 3);
}

#[test]
fn desired_bitrates_follow_the_wishes() {
    let (mut network, mut sources) = simulcast(4);
    send(&mut network, &mut sources, 4 * SECOND);
    let last = |network: &Network| {
        let of = |event: &Event| match event {
            Event::DownlinkBwe(told) => {
                assert_eq!(told.transport_id, "recv");
                assert!(told.effective_desired_bitrate >= told.desired_bitrate);
                Some((told.desired_bitrate, told.available_bitrate))
            }
            _ => None,
        };
        network.events.iter().rev().find_map(of).unwrap()
    };
    let (desired, available) = last(&network);
    // 100 packets of about 640 octets a second; "cam" sends nothing.
    assert!((450_000..600_000).contains(&desired), "{desired}");
    assert!(available >= 1_000_000, "{available}");
    network.engine.pause_consumer(network.now, "s").unwrap();
    send(&mut network, &mut sources, 2 * SECOND);
    assert_eq!(last(&network).0, 0);
    network.events.clear();
    network.run_for(5 * SECOND);
    let quiet = |event: &Event| !matches!(event, Event::DownlinkBwe(_));
    assert!(network.events.iter().all(quiet), "only while it changes");
}
