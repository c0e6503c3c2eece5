//! A broadcaster with media of its own, over the HTTP API of a real server.

use serde_json::{Value, json};
use test_peer::PeerConfig;
use test_peer::str0m::media::MediaKind;

use crate::call::flows;
use crate::client::{Client, Media, rtp_parameters};
use crate::https::request;
use crate::server::Server;

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let url = server.url(&format!("/rooms/room/broadcasters{path}"));
    let (status, answer) = request("POST", &url, &[], &body.to_string());
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_receives_what_a_broadcaster_sends() {
    let server = Server::start();
    let mut alice = Client::join(server.address(), "room", "alice").await;
    let body = json!({"id": "film", "displayName": "A film", "device": {"name": "str0m"}});
    assert_eq!(post(&server, "", &body), json!({"peers": []}));
    let transport = post(&server, "/film/transports", &json!({"type": "webrtc"}));
    let path = format!("/film/transports/{}", transport["id"].as_str().unwrap());
    let media = Media::start(&PeerConfig::sending());
    let body = json!({"dtlsParameters": media.dtls_parameters()});
    post(&server, &format!("{path}/connect"), &body);
    media.connect(&transport);
    let mut sending = Vec::new();
    for (kind, name, ssrc) in [
        (MediaKind::Audio, "audio", 1111),
        (MediaKind::Video, "video", 2222),
    ] {
        media.send_stream(kind, ssrc);
        let body = json!({"kind": name, "rtpParameters": rtp_parameters(kind, ssrc)});
        let producer = post(&server, &format!("{path}/producers"), &body);
        sending.push(media.start_sending(kind, ssrc));
        let consumer = alice.accept_consumer().await;
        assert_eq!(producer["id"], *consumer.producer_id);
        assert_eq!(
            (consumer.peer_id.as_str(), consumer.kind.as_str()),
            ("film", name)
        );
        flows(&alice, &consumer, 30).await;
    }
    let url = server.url("/rooms/room/broadcasters/film");
    assert_eq!(request("DELETE", &url, &[], "").0, 200);
    let gone = alice.protoo.notification("peerClosed").await;
    assert_eq!(gone, json!({"peerId": "film"}));
}
