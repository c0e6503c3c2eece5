//! Bandwidth towards a client: estimated, shared, found again.

use std::time::Duration;

use test_peer::str0m::media::MediaKind;

use crate::network::{Link, Network};
use crate::room::{Source, call, run};

const SECOND: Duration = Duration::from_secs(1);

fn trace(network: &mut Network, audio: &mut Source, video: &mut Source, seconds: u64) {
    for _ in 0..seconds * 2 {
        run(network, &mut [audio, video], SECOND / 2);
        let stats = network.engine.transport_stats(network.now, "recv").unwrap();
        println!(
            "{:?} available {:?} sent {} rtp {} rtx {} dropped {:?}",
            network.now - network.start,
            stats.available_outgoing_bitrate,
            stats.sent.unwrap().bitrate,
            stats.rtp_sent.unwrap().bitrate,
            stats.rtx_sent.unwrap().bitrate,
            network.clients[1].downlink.as_ref().map(|l| l.dropped),
        );
    }
}

#[test]
fn trial() {
    let (mut network, mut audio, mut video) = call(1);
    network.conditions.delay = Duration::from_millis(25);
    let _ = MediaKind::Audio;
    for rate in [3_000_000, 1_000_000, 300_000, 3_000_000] {
        println!("--- {rate}");
        network.clients[1].downlink = Some(Link::new(network.now, rate, SECOND / 5));
        trace(&mut network, &mut audio, &mut video, 8);
    }
}
