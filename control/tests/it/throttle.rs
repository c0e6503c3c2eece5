//! applyNetworkThrottle and resetNetworkThrottle.

use control::config::Secret;
use control::rooms::Timings;
use proto::{NetworkThrottle, SetNetworkThrottleRequest};
use serde_json::json;
use tonic::Status;

use crate::fake_worker::Call;
use crate::newest::newest_caller;
use crate::server::{TestServer, caller, config};

async fn server() -> TestServer {
    let mut config = config();
    config.network_throttle_secret = Some(Secret::new("slow down"));
    TestServer::start_with(config, Timings::default()).await
}

fn throttles(server: &TestServer) -> Vec<SetNetworkThrottleRequest> {
    let throttle = |call: Call| match call {
        Call::SetNetworkThrottle(request) => Some(request),
        _ => None,
    };
    let calls = server.worker.calls().into_iter();
    calls.filter_map(throttle).collect()
}

/// Defects seed 25 (the throttle is the peer's, not the host's), seed 26 (plain
/// words) and c (an integer for a code and a string for a reason).
#[tokio::test]
async fn only_with_the_secret() {
    let server = server().await;
    let (mut alice, _, _) = caller(&server, "alice").await;
    for method in ["applyNetworkThrottle", "resetNetworkThrottle"] {
        for secret in [
            json!("slow"),
            json!("slow down "),
            json!(""),
            json!(5),
            json!(null),
        ] {
            let refused = alice.refused(method, json!({ "secret": secret })).await;
            assert_eq!(
                refused,
                (403, "the secret is wrong".into()),
                "{method} {secret}"
            );
        }
    }
    let server = TestServer::start().await;
    let (mut alice, _, _) = caller(&server, "alice").await;
    for method in ["applyNetworkThrottle", "resetNetworkThrottle"] {
        for secret in [json!(""), json!(null), json!("slow down")] {
            let refused = alice.refused(method, json!({ "secret": secret })).await;
            assert_eq!(refused, (403, "network throttling is switched off".into()));
        }
    }
    assert_eq!(server.worker.count("SetNetworkThrottle"), 0);
}

#[tokio::test]
async fn a_peers_own_transports_old_and_new() {
    let server = server().await;
    let (mut alice, send, recv) = caller(&server, "alice").await;
    let (mut bob, _, _) = caller(&server, "bob").await;
    let throttle = json!({
        "secret": "slow down", "uplink": 500, "downlink": 1000.5, "rtt": 200, "packetLoss": 10,
    });
    assert_eq!(alice.ok("applyNetworkThrottle", throttle).await, json!({}));
    let expected = NetworkThrottle {
        uplink_bitrate: 500_000,
        downlink_bitrate: 1_000_500,
        rtt_ms: 200,
        packet_loss: 0.1,
    };
    let set = |transport_ids: &[&String], throttle| SetNetworkThrottleRequest {
        transport_ids: transport_ids.iter().map(|id| (*id).clone()).collect(),
        throttle,
    };
    let third = alice.recv_transport().await;
    // Another's are left alone.
    bob.recv_transport().await;
    let reset = json!({ "secret": "slow down" });
    assert_eq!(alice.ok("resetNetworkThrottle", reset).await, json!({}));
    alice.recv_transport().await;
    let calls = [
        set(&[&send, &recv], Some(expected)),
        set(&[&third], Some(expected)),
        set(&[&send, &recv, &third], None),
    ];
    assert_eq!(throttles(&server), calls);
}

#[tokio::test]
async fn before_there_is_a_transport() {
    let server = server().await;
    let mut alice = server.connect("room", "alice").await;
    let throttle = json!({ "secret": "slow down", "rtt": 100 });
    alice.ok("applyNetworkThrottle", throttle).await;
    assert_eq!(throttles(&server), []);
    // A worker that cannot throttle does not cost the client its transport.
    let refusal = Status::internal("no");
    server.worker.refuse("SetNetworkThrottle", refusal);
    alice.send_transport().await;
    assert_eq!(throttles(&server).len(), 1);
    let throttle = json!({ "secret": "slow down", "rtt": 200 });
    let refused = alice.refused("applyNetworkThrottle", throttle).await;
    assert_eq!(refused, (500, "no".into()));
}

/// The newest dialect has the names of the tool that the original server calls.
#[tokio::test]
async fn in_the_newest_dialect() {
    let server = server().await;
    let (mut new, send, recv) = newest_caller(&server).await;
    let options = json!({ "up": 500, "down": 1000, "rtt": 200, "packetLoss": 10 });
    let data = json!({ "secret": "slow down", "options": options });
    assert_eq!(new.ok("applyNetworkThrottle", data).await, json!({}));
    let data = json!({ "secret": "slow down", "options": "slow" });
    let refused = new.refused("applyNetworkThrottle", data).await;
    assert_eq!(refused, (400, "options must be an object".into()));
    let data = json!({ "secret": "slow down" });
    assert_eq!(new.ok("stopNetworkThrottle", data).await, json!({}));
    let expected = NetworkThrottle {
        uplink_bitrate: 500_000,
        downlink_bitrate: 1_000_000,
        rtt_ms: 200,
        packet_loss: 0.1,
    };
    let throttles = throttles(&server);
    assert_eq!(throttles.len(), 2, "{throttles:?}");
    assert_eq!(throttles[0].transport_ids, [send, recv]);
    assert_eq!(throttles[0].throttle, Some(expected));
    assert_eq!(throttles[1].throttle, None);
}

#[tokio::test]
async fn bad_fields() {
    let server = server().await;
    let mut alice = server.connect("room", "alice").await;
    for (field, value) in [
        ("uplink", json!(-1)),
        ("uplink", json!("fast")),
        ("downlink", json!(1e12)),
        ("rtt", json!(-5)),
        ("rtt", json!({})),
        ("packetLoss", json!(101)),
    ] {
        let data = json!({ "secret": "slow down", field: value });
        let (code, reason) = alice.refused("applyNetworkThrottle", data).await;
        assert_eq!(code, 400, "{reason}");
        assert!(reason.starts_with(field), "{reason}");
    }
}
