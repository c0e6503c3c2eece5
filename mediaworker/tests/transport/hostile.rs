//! Input that no honest client sends: counted and dropped, never a panic, and
//! the others notice nothing.

use std::net::SocketAddr;
use std::time::Duration;

use mediaworker::transport::{Protocol, Tuple};
use test_peer::str0m::media::MediaKind;

use crate::network::{Network, server_address};
use crate::room::{call, create_router, produce_request, run, stream};

fn from(port: u16) -> Tuple {
    Tuple {
        remote: SocketAddr::from(([10, 0, 1, 1], port)),
        local: server_address().ip(),
        protocol: Protocol::Udp,
    }
}

#[test]
fn garbage_is_counted_and_dropped() {
    let (mut network, mut audio, mut video) = call(1);
    let before = network.engine.counters().dropped.total();
    let mut sent = 0;
    for len in [0usize, 1, 2, 3, 11, 12, 19, 20, 60, 1200, 1700, 9000] {
        for first in [0u8, 1, 20, 22, 63, 64, 128, 0x90, 191, 200, 255] {
            for second in [0u8, 1, 96, 111, 200, 206, 254] {
                // As a stranger and as each client.
                for port in [9, 5000, 5001] {
                    let mut datagram: Vec<u8> =
                        (0..len).map(|_| (network.random() * 256.0) as u8).collect();
                    if let Some(b) = datagram.get_mut(0) {
                        *b = first;
                    }
                    if let Some(b) = datagram.get_mut(1) {
                        *b = second;
                    }
                    let now = network.now;
                    network.engine.receive(now, from(port), &datagram);
                    sent += 1;
                }
            }
        }
    }
    let dropped = network.engine.counters().dropped.total() - before;
    assert!(dropped * 3 > sent, "{dropped} of {sent}");
    assert_eq!(network.engine.counters().panics, 0);
    let before = stream(&network, 1, 6000).len();
    run(
        &mut network,
        &mut [&mut audio, &mut video],
        Duration::from_secs(1),
    );
    assert!(stream(&network, 1, 6000).len() > before + 90);
}

fn layers(spatial: u32, temporal: u32) -> proto::EncodingLayers {
    proto::EncodingLayers {
        spatial,
        temporal,
        independent: false,
    }
}

#[test]
fn absurd_producers_are_refused_by_name() {
    let mut network = Network::new(1);
    create_router(&mut network);
    network.create_transport("t", true);
    let base = || produce_request("t", "p", MediaKind::Video, 2000);
    type Spoil = fn(&mut proto::ProduceRequest);
    let table: &[(&str, Spoil)] = &[
        ("kind", |r| r.kind = 0),
        ("codecs", |r| r.codecs.clear()),
        ("codecs", |r| {
            r.codecs = vec![r.codecs[0].clone(); 100];
        }),
        ("payload_type", |r| r.codecs[0].payload_type = 200),
        ("payloadType", |r| r.codecs[0].payload_type = 72),
        ("encodings", |r| r.encodings.clear()),
        ("encodings.layers.spatial", |r| {
            r.encodings[0].layers = Some(layers(9, 1));
        }),
        ("encodings.layers.temporal", |r| {
            r.encodings[0].layers = Some(layers(1, 0));
        }),
        ("encodings", |r| {
            r.encodings = vec![r.encodings[0].clone(); 200];
        }),
        ("ssrc", |r| r.encodings[0].rtx_ssrc = Some(2000)),
        ("ssrc", |r| r.encodings[0].ssrc = Some(0)),
        ("encodings", |r| {
            r.encodings[0].ssrc = None;
            r.mid = None;
        }),
        ("rid", |r| {
            r.encodings[0].rid = Some("much-too-long".into());
        }),
        ("mid", |r| r.mid = Some("a b".into())),
        ("mid", |r| r.mid = Some("x".repeat(17))),
        ("mid", |r| r.mid = Some("0\r\na=x".into())),
        ("headerExtensions", |r| r.header_extensions[0].id = 0),
        ("headerExtensions", |r| r.header_extensions[0].id = 256),
    ];
    for (field, spoil) in table {
        let mut request = base();
        spoil(&mut request);
        let error = network.engine.produce(network.now, &request).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert_eq!(network.engine.sizes().producers, 0);
    }
    network.engine.produce(network.now, &base()).unwrap();
    let mut second = base();
    second.producer_id = "other".into();
    second.mid = Some("9".into());
    let error = network.engine.produce(network.now, &second).unwrap_err();
    assert!(error.to_string().contains("2000"), "{error}");
}

#[test]
fn unknown_ids_are_named() {
    let mut network = Network::new(1);
    create_router(&mut network);
    let now = network.now;
    let engine = &mut network.engine;
    for error in [
        engine.close_transport(now, "nope").unwrap_err(),
        engine.close_producer("nope").unwrap_err(),
        engine.close_consumer("nope").unwrap_err(),
        engine.resume_consumer(now, "nope").unwrap_err(),
        engine.close_router(now, "nope").unwrap_err(),
        engine.restart_ice("nope").unwrap_err(),
    ] {
        assert!(error.to_string().contains("\"nope\" not found"), "{error}");
    }
}
