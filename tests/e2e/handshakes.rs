//! Real handshakes over real sockets that are cut in the middle, or that somebody
//! else would like to make: in the end nothing of them may be left, and nobody
//! may have heard anything.

use std::time::Duration;

use serde_json::{Value, json};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::client::{Client, Media, connect, rtp_parameters};
use crate::https;
use crate::protoo::Protoo;
use crate::races::wait_until_empty;
use crate::server::{DEADLINE, Options, Server};

/// DTLS datagrams that leave a client: none but its connectivity checks, or the
/// ClientHello too. With the next one it would be done.
const RECORDS: [usize; 2] = [0, 1];

/// How a client goes in the middle of its handshake.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its machine is gone: no more datagrams, and the socket ends.
    Vanishes,
    /// It says that it leaves, and its handshake goes on.
    Leaves,
    /// The same peer comes once more.
    Replaced,
}

const ENDS: [End; 3] = [End::Vanishes, End::Leaves, End::Replaced];

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens a session with one transport and a producer on it; answers both.
async fn enter(server: &Server, name: &str) -> (Protoo, Value) {
    let query = format!("roomId=cut&peerId={name}");
    let mut protoo = Protoo::connect(server.address(), &query).await.unwrap();
    let data = json!({"forceTcp": false, "producing": true, "consuming": false,
        "sctpCapabilities": {"numStreams": {"OS": 1024, "MIS": 1024}}});
    let transport = protoo.request("createWebRtcTransport", data).await.unwrap();
    let join = json!({"displayName": name, "device": {}});
    protoo.request("join", join).await.unwrap();
    (protoo, transport)
}

/// One life that ends in the middle of a handshake.
async fn live(server: &Server, number: usize, records: usize, end: End) {
    let name = format!("peer{number}");
    let (mut protoo, transport) = enter(server, &name).await;
    let media = Media::start_until(&PeerConfig::sending(), records);
    media.send_stream(MediaKind::Audio, 1000);
    connect(&mut protoo, &media, &transport).await;
    let produce = json!({"transportId": transport["id"], "kind": "audio", "appData": {},
        "rtpParameters": rtp_parameters(MediaKind::Audio, 1000)});
    let produce_data = json!({"transportId": transport["id"], "label": "chat",
        "sctpStreamParameters": {"streamId": 0, "ordered": true}});
    protoo.request("produce", produce).await.unwrap();
    protoo.request("produceData", produce_data).await.unwrap();
    until(&format!("{records} records of {name}"), || {
        media.state().silent
    })
    .await;
    assert!(!media.state().connected, "{records} records are enough");
    match end {
        End::Vanishes => {}
        End::Leaves => {
            protoo.request("leaveRoom", json!({})).await.unwrap();
        }
        End::Replaced => {
            let (mut again, _) = enter(server, &name).await;
            assert_eq!(protoo.closed().await, Some(4000));
            again.request("leaveRoom", json!({})).await.unwrap();
        }
    }
}

/// Open file descriptors of the workers.
fn descriptors(server: &Server) -> usize {
    let count = |pid| {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    server.workers().iter().map(|(_, pid)| count(*pid)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_cut_leaves_nothing() {
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("ROOM_EMPTY_TIMEOUT", 1)
        .start();
    // The room outlives them all: what it forgets would not go with it.
    let mut stays = Client::join(server.address(), "cut", "stays").await;
    stays.produce(MediaKind::Video, 2000).await;
    until("connected", || stays.send.state().connected).await;
    let before = descriptors(&server);
    let pids = server.workers();
    let lives = RECORDS
        .iter()
        .flat_map(|n| ENDS.iter().map(|end| (*n, *end)));
    let lives = lives.enumerate();
    futures_util::future::join_all(
        lives.map(|(number, (records, end))| live(&server, number, records, end)),
    )
    .await;
    let entities = |config: &Value| {
        let stats = &config["workers"][0]["stats"];
        let kinds = ["transports", "producers", "dataProducers", "consumers"];
        kinds.map(|kind| stats[kind].as_u64().unwrap())
    };
    until("what they had is gone", || {
        let config = https::get(&server.url("/config")).1;
        // Both transports and the camera of the one who stays, and the bot.
        let left = entities(&config);
        config["rooms"]["joinedPeers"] == 1 && left == [2, 1, 1, 0]
    })
    .await;
    assert_eq!(descriptors(&server), before, "sockets");
    assert_eq!(server.workers(), pids, "the worker lives");
    // And it works: media flows to somebody who comes now.
    let mut late = Client::join(server.address(), "cut", "late").await;
    let _video = stays.start_sending(MediaKind::Video, 2000);
    let consumer = late.accept_consumer().await;
    crate::call::flows(&late, &consumer, 30).await;
    drop(_video);
    late.protoo.close().await;
    stays.protoo.close().await;
    wait_until_empty(&server, 0, 0);
    let log = server.log();
    assert!(!log.contains("panic") && !log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hears_a_client_with_another_certificate_than_announced() {
    let server = Server::start();
    let mut listener = Client::join(server.address(), "room", "listener").await;
    let mut impostor = Client::join(server.address(), "room", "impostor").await;
    let transport = impostor.send_transport.clone();
    let another = ["AB"; 32].join(":");
    let data = json!({"transportId": transport["id"], "dtlsParameters": {
        "role": "client", "fingerprints": [
            {"algorithm": "sha-256", "value": another}]}});
    let protoo = &mut impostor.protoo;
    protoo
        .request("connectWebRtcTransport", data)
        .await
        .unwrap();
    let produce = json!({"transportId": transport["id"], "kind": "audio", "appData": {},
        "rtpParameters": rtp_parameters(MediaKind::Audio, 1000)});
    protoo.request("produce", produce).await.unwrap();
    impostor.send.send_stream(MediaKind::Audio, 1000);
    let consumer = listener.accept_consumer().await;
    until("the listener is connected", || {
        listener.receive.state().connected
    })
    .await;
    // It sends whatever its side of the handshake lets it.
    let _audio = impostor.start_sending(MediaKind::Audio, 1000);
    impostor.send.connect(&transport);
    // The worker closes the transport, and control what was on it.
    let closed = listener.protoo.notification("consumerClosed").await;
    assert_eq!(closed["consumerId"], *consumer.id);
    let (_, config) = https::get(&server.url("/config"));
    let stats = |kind: &str| -> u64 {
        let workers = config["workers"].as_array().unwrap();
        workers
            .iter()
            .map(|w| w["stats"][kind].as_u64().unwrap())
            .sum()
    };
    assert_eq!((stats("producers"), stats("consumers")), (0, 0));
    // An honest one is heard by the same listener.
    let mut honest = Client::join(server.address(), "room", "honest").await;
    honest.produce(MediaKind::Audio, 1000).await;
    let _audio = honest.start_sending(MediaKind::Audio, 1000);
    let other = listener.accept_consumer().await;
    crate::call::flows(&listener, &other, 50).await;
    // A second has passed, in which the impostor wrote as much.
    assert_eq!(listener.receive.packets(consumer.ssrc).len(), 0);
    assert!(!impostor.send.state().connected);
}
