//! A client of the newest dialect ends with its transports, and may come back;
//! one of the seed's stays.

use std::time::Duration;

use control::rooms::Timings;
use proto::event::Event;
use proto::{DtlsState, IceState, TransportClosed, TransportStateChanged};
use serde_json::json;

use crate::client::Client;
use crate::fake_worker::Call;
use crate::newest::newest_caller;
use crate::receiver::Receiver;
use crate::server::{TestServer, caller, config};

fn state(transport_id: &str, ice: IceState, dtls: DtlsState) -> Event {
    Event::TransportState(TransportStateChanged {
        transport_id: transport_id.to_owned(),
        ice_state: ice.into(),
        dtls_state: dtls.into(),
    })
}

fn closed(transport_id: &str) -> Event {
    Event::TransportClosed(TransportClosed {
        transport_id: transport_id.to_owned(),
        reason: "closed by the client".into(),
    })
}

async fn is_here(client: &mut Client) {
    client.ok("getRouterRtpCapabilities", json!({})).await;
}

#[tokio::test]
async fn whoever_loses_a_transport_ends_and_comes_back() {
    let (good, lost) = (IceState::Completed, IceState::Disconnected);
    let connected = DtlsState::Connected;
    type Says = fn(&str, &str) -> Event;
    let ends: [Says; 5] = [
        |send, _| state(send, IceState::Disconnected, DtlsState::Connected),
        |_, recv| state(recv, IceState::Disconnected, DtlsState::New),
        |_, recv| state(recv, IceState::Completed, DtlsState::Failed),
        |send, _| state(send, IceState::Completed, DtlsState::Closed),
        |send, _| closed(send),
    ];
    for (index, says) in ends.into_iter().enumerate() {
        let server = TestServer::start().await;
        let (mut old, old_send, old_recv) = caller(&server, "old").await;
        let (mut new, send, recv) = newest_caller(&server).await;
        old.notified("newPeer").await;
        // What is none of its business, or no loss.
        for event in [
            state(&old_send, lost, connected),
            closed(&old_recv),
            state("gone", lost, connected),
            closed("gone"),
            state(&send, IceState::Connected, DtlsState::Connecting),
            state(&recv, good, connected),
        ] {
            server.worker_says(event).await;
        }
        is_here(&mut new).await;
        is_here(&mut old).await;

        server.worker_says(says(&send, &recv)).await;
        // Not 4000, so that protoo-client comes back.
        assert_eq!(new.close_code().await, 1001, "{index}");
        let told = old.notified("peerClosed").await;
        assert_eq!(told, json!({ "peerId": "new" }), "{index}");
        let other = if index == 1 || index == 2 {
            &send
        } else {
            &recv
        };
        let closes = |call: &Call| match call {
            Call::CloseTransport(request) if request.transport_id == *other => Some(()),
            _ => None,
        };
        server.worker.wait_for(closes).await;
        // A second event of the same loss changes nothing.
        server.worker_says(closed(&send)).await;
        let (mut again, _, _) = newest_caller(&server).await;
        old.notified("newPeer").await;
        is_here(&mut again).await;
    }
}

/// A second session of the only peer replaces the first, and the room stays.
#[tokio::test]
async fn a_second_session_takes_over() {
    let server = TestServer::start().await;
    let (mut first, _, _) = newest_caller(&server).await;
    let (mut second, _, _) = newest_caller(&server).await;
    // Final, or the two would push each other out for ever.
    assert_eq!(first.close_code().await, 4000);
    is_here(&mut second).await;
    assert_eq!(server.worker.count("CreateRouter"), 1);
    assert_eq!(server.worker.count("CloseRouter"), 0);
    assert_eq!(server.rooms.joined_peers(), 1);
}

/// Defect k: one event for each end, whatever it came from.
#[tokio::test]
async fn a_loss_is_told_once_to_the_rooms_uri() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(&[]).await;
    let body = json!({ "eventNotificationUri": receiver.uri() });
    server.post("/rooms/room", &body.to_string()).await;
    let (mut old, _, _) = caller(&server, "old").await;
    let (mut new, send, recv) = newest_caller(&server).await;
    let lost = |id: &str| state(id, IceState::Disconnected, DtlsState::Connected);
    for event in [lost(&send), lost(&recv), closed(&send), closed(&recv)] {
        server.worker_says(event).await;
    }
    assert_eq!(new.close_code().await, 1001);
    old.ok("leaveRoom", json!({})).await;
    let posts = receiver.wait(4).await;
    let told = posts.iter().map(|post| {
        let body = post.body();
        [&body["peerId"], &body["event"], &body["reason"]].map(|it| it.as_str().map(str::to_owned))
    });
    let told: Vec<_> = told.map(|it| it.map(Option::unwrap_or_default)).collect();
    let expected = [
        ["old", "peer-joined", ""],
        ["new", "peer-joined", ""],
        ["new", "peer-left", "disconnected"],
        ["old", "peer-left", "left"],
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn consent_is_lost_sooner_in_the_newest_dialect() {
    let server = TestServer::start().await;
    let (_old, _, _) = caller(&server, "old").await;
    let (_new, _, _) = newest_caller(&server).await;
    let timeouts: Vec<_> = server
        .worker
        .calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::CreateTransport(request) => Some(request.ice_consent_timeout),
            _ => None,
        })
        .collect();
    assert_eq!(timeouts, [None, None, Some(20), Some(20)]);
}

/// A client of the seed's dialect may come back to a transport for a while; then what it
/// sends there ends for the others.
#[tokio::test]
async fn a_transport_that_is_lost_for_long_is_closed() {
    let timings = Timings {
        lost_transport: Duration::from_secs(2),
        ..Timings::default()
    };
    let server = TestServer::start_with(config(), timings).await;
    let (mut alice, send, recv) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    alice.produce(&send, "audio").await;
    let consumer = bob.take_consumer().await;
    let say = async |id: &str, ice| {
        let event = state(id, ice, DtlsState::Connected);
        server.worker_says(event).await;
    };
    say(&send, IceState::Disconnected).await;
    say(&send, IceState::Completed).await;
    say(&recv, IceState::Disconnected).await;
    let closed = |call: &Call| match call {
        Call::CloseTransport(request) => Some(request.transport_id.clone()),
        _ => None,
    };
    assert_eq!(server.worker.wait_for(closed).await, recv);
    bob.not_told("consumerClosed").await;
    say(&send, IceState::Disconnected).await;
    let told = bob.notified("consumerClosed").await;
    assert_eq!(told["consumerId"], consumer["id"]);
    is_here(&mut alice).await;
    bob.not_told("peerClosed").await;
    // It may make another.
    alice.send_transport().await;
}
