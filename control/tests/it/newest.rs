//! A client of the newest mediasoup-demo dialect, and one of the seed's in the
//! same room: each is spoken to in its own words.

use serde_json::{Value, json};

use crate::client::{Client, capabilities, dtls_parameters, produce_data};
use crate::fake_worker::Call;
use crate::server::TestServer;

const NEWEST: &str = "/?roomId=room&peerId=new&dialect=newest";

/// The connected peer `new`, which has not joined.
pub async fn newest(server: &TestServer) -> Client {
    let connected = server.upgrade(NEWEST, Some("protoo")).await;
    connected.unwrap_or_else(|answer| panic!("no upgrade: {answer:?}"))
}

/// As [`caller`](crate::server::caller): the joined peer `new`, and the ids of
/// its transports, to send on and to receive on.
pub async fn newest_caller(server: &TestServer) -> (Client, String, String) {
    let mut client = newest(server).await;
    let send = transport(&mut client, "producer").await;
    let recv = transport(&mut client, "consumer").await;
    join(&mut client).await;
    (client, send, recv)
}

/// The id of a new transport of this direction.
pub async fn transport(client: &mut Client, direction: &str) -> String {
    let data = json!({"forceTcp": false, "appData": {"direction": direction}});
    let answer = client.ok("createWebRtcTransport", data).await;
    assert_eq!(answer["id"], Value::Null);
    answer["transportId"].as_str().unwrap().to_owned()
}

pub async fn join(client: &mut Client) -> Value {
    let device = json!({"flag": "chrome", "name": "Chrome", "version": "1"});
    let join = json!({"displayName": "new", "device": device, "rtpCapabilities": capabilities()});
    client.ok("join", join).await
}

#[tokio::test]
async fn each_is_spoken_to_in_its_own_dialect() {
    let server = TestServer::start().await;
    let mut old = server.connect("room", "old").await;
    let send = old.send_transport().await;
    old.recv_transport().await;
    old.join("old").await;
    let old_producer = old.produce(&send, "audio").await;

    let mut new = newest(&server).await;
    let version = new.notified("mediasoupVersion").await;
    assert!(version["version"].is_string(), "{version}");
    let answer = new.ok("getRouterRtpCapabilities", json!({})).await;
    assert!(answer["routerRtpCapabilities"]["codecs"].is_array());
    let answer = new.ok("getRtcStatsUrl", json!({})).await;
    assert_eq!(answer, json!({}));
    let send = transport(&mut new, "producer").await;
    let recv = transport(&mut new, "consumer").await;
    let answer = new.ok("restartIce", json!({"transportId": send})).await;
    assert_eq!(answer["iceParameters"]["iceLite"], true);
    let connect = json!({"transportId": send, "dtlsParameters": dtls_parameters()});
    new.ok("connectWebRtcTransport", connect).await;
    let joined = join(&mut new).await;
    let peer = &joined["peers"][0];
    assert_eq!(peer["peerId"], "old");
    assert_eq!(peer["displayName"], "old");
    assert_eq!(peer["remoteAddress"], "127.0.0.1");

    // The seed's client hears of the new one in its words, and of nothing more.
    let peer = old.notified("newPeer").await;
    assert_eq!(peer["id"], "new");
    assert_eq!(peer["remoteAddress"], Value::Null);
    old.not_told("mediasoupVersion").await;

    let (id, offer) = new.asked("newConsumer").await;
    assert_eq!(offer["id"], Value::Null);
    assert_eq!(offer["producerId"], old_producer.as_str());
    assert_eq!(offer["transportId"], recv.as_str());
    assert_eq!(offer["consumerScore"]["score"], 10);
    new.accept(id).await;
    let consumer = offer["consumerId"].as_str().unwrap().to_owned();
    new.notified("consumerScore").await;

    let mut produce = produce_data("video");
    produce["transportId"] = send.into();
    let answer = new.ok("produce", produce).await;
    let producer = answer["producerId"].as_str().unwrap().to_owned();
    let offer = old.take_consumer().await;
    assert_eq!(offer["producerId"], producer.as_str());
    assert_eq!(offer["transportId"], Value::Null);
    assert_eq!(offer["consumerScore"], Value::Null);

    let mut third = server.connect("room", "third").await;
    third.join("third").await;
    let told = new.notified("newPeer").await;
    assert_eq!(told["peer"]["peerId"], "third");
    assert_eq!(told["peer"]["remoteAddress"], "127.0.0.1");

    // Actions are notifications, and are not answered.
    for (method, data) in [
        ("pauseConsumer", json!({"consumerId": consumer})),
        ("pauseProducer", json!({"producerId": producer})),
        ("closeProducer", json!({"producerId": "nobody's"})),
        ("closeProducer", json!({"producerId": producer})),
    ] {
        let action = json!({"notification": true, "method": method, "data": data});
        new.send_text(&action.to_string()).await;
    }
    let close = |call: &Call| matches!(call, Call::CloseProducer(_)).then_some(());
    server.worker.wait_for(close).await;
    assert_eq!(server.worker.count("PauseConsumer"), 1);
    assert_eq!(server.worker.count("PauseProducer"), 1);
    old.notified("consumerClosed").await;

    // The seed's clients get no such thing.
    let action = json!({"notification": true, "method": "closeProducer",
        "data": {"producerId": old_producer}});
    old.send_text(&action.to_string()).await;
    old.not_told("consumerClosed").await;
    assert_eq!(server.worker.count("CloseProducer"), 1);
}

#[tokio::test]
async fn other_dialects_are_refused_before_the_upgrade() {
    let server = TestServer::start().await;
    let path = "/?roomId=room&peerId=p&dialect=klingon";
    let Err(answer) = server.upgrade(path, Some("protoo")).await else {
        panic!("upgraded");
    };
    assert_eq!(answer.status, 400);
    assert_eq!(answer.error(), "dialect must be seed or newest");
    server
        .upgrade("/?roomId=room&peerId=p&dialect=seed", Some("protoo"))
        .await
        .unwrap_or_else(|answer| panic!("no upgrade: {answer:?}"));
}
