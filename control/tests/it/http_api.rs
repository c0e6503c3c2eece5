//! The HTTP routes.

use control::config::{Config, Secret};
use control::ortc::CodecName;
use control::rooms::Timings;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake_worker::Call;
use crate::server::{TestServer, config};

/// Defects seed 2 (the first POST succeeds), seed 8 and h (the error's body) and
/// o (fields that nobody knows are ignored).
#[tokio::test]
async fn creating_rooms() {
    let server = TestServer::start().await;
    let port = server.address.port();
    let answer = server.post("/rooms/my-room", "").await;
    assert_eq!(answer.status, 200);
    let expected = json!({
        "protocol": "2060-mediasoup-v1",
        "roomId": "my-room",
        "wsUrl": format!("wss://localhost:{port}?roomId=my-room"),
    });
    assert_eq!(answer.body, expected);
    let answer = server.post("/rooms/my-room", "{}").await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.body,
        json!({ "error": "Room with roomId my-room already exists." })
    );
    for path in ["/rooms", "/rooms/"] {
        let body = r#"{"maxPeerCount":50,"eventNotificationUri":"http://example.com/n","x":1}"#;
        let answer = server.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}");
        let id = answer.body["roomId"].as_str().unwrap();
        assert_eq!(id.len(), 8);
        assert_eq!(server.get(&format!("/rooms/{id}")).await.status, 200);
    }
    let answer = server.get("/getRoomId").await;
    let id = answer.body["roomId"].as_str().unwrap();
    let expected = json!({
        "roomId": id,
        "wsUrl": format!("wss://localhost:{port}?roomId={id}&peerId="),
        "status": 1,
    });
    assert_eq!((answer.status, answer.body.clone()), (200, expected));
    assert_eq!(server.get(&format!("/rooms/{id}")).await.status, 200);
}

/// Defects seed 2, seed 5 and i: what is refused leaves no room behind.
#[tokio::test]
async fn bad_requests() {
    let server = TestServer::start().await;
    let long = format!("/rooms/{}", "a".repeat(129));
    let big = format!("{{\"x\":\"{}\"}}", "a".repeat(70_000));
    let table = [
        (
            "POST",
            "/rooms/r",
            r#"{"maxPeerCount":1}"#,
            400,
            "maxPeerCount",
        ),
        (
            "POST",
            "/rooms",
            r#"{"maxPeerCount":"3"}"#,
            400,
            "maxPeerCount",
        ),
        (
            "POST",
            "/rooms/r",
            r#"{"eventNotificationUri":"nonsense"}"#,
            400,
            "eventNotificationUri",
        ),
        ("POST", "/rooms/r", "{", 400, "body"),
        ("POST", "/rooms/r", "[]", 400, "body"),
        ("POST", "/rooms/r", &big, 413, "the body is longer"),
        ("POST", "/rooms/health", "", 400, "roomId"),
        ("POST", "/rooms/a%0Ab", "", 400, "roomId"),
        ("POST", "/rooms/%ff", "", 400, "roomId"),
        ("POST", &long, "", 400, "roomId"),
        ("GET", "/rooms/unknown", "", 404, "room with id \"unknown\""),
        ("GET", "/nothing/here", "", 404, "no such path"),
        ("DELETE", "/rooms/r", "", 405, "method not allowed"),
        ("GET", "/rooms", "", 405, "method not allowed"),
    ];
    for (method, path, body, status, error) in table {
        let answer = server.http(method, path, &[], body.as_bytes()).await;
        assert_eq!(
            answer.status, status,
            "{method} {path} {body:.40}: {answer:?}"
        );
        assert!(
            answer.error().starts_with(error),
            "{method} {path}: {}",
            answer.error()
        );
    }
    assert_eq!(server.get("/rooms/r").await.status, 404);
    let answer = server
        .http("POST", "/rooms/r", &[("Host", "a b")], b"")
        .await;
    assert_eq!(answer.status, 400);
    assert_eq!(server.get("/rooms/r").await.status, 404);
}

#[tokio::test]
async fn who_only_looks_makes_no_room() {
    let server = TestServer::start().await;
    let answer = server.raw("HEAD", "/getRoomId", &[], b"").await;
    assert_eq!(answer.status, 405);
    assert_eq!(server.rooms.open_rooms(), 0);
}

#[tokio::test]
async fn capabilities_and_health() {
    let server = TestServer::start().await;
    server.post("/rooms/r", "").await;
    let answer = server.get("/rooms/r").await;
    let text = include_str!("../../src/ortc/fixtures/router-rtp-capabilities.seed-era.json");
    let expected: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(answer.body, expected);
    for path in ["/health", "/rooms/health"] {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.status, answer.body),
            (200, json!({ "status": "ok" }))
        );
    }
}

#[tokio::test]
async fn the_configured_ingress() {
    let mut config = config();
    config.ingress_host = Some("sfu.example".into());
    let server = TestServer::start_with(config, Timings::default()).await;
    let answer = server.post("/rooms/r", "").await;
    assert_eq!(answer.body["wsUrl"], "wss://sfu.example:443?roomId=r");
}

#[tokio::test]
async fn cors() {
    let server = TestServer::start().await;
    let origin = ("Origin", "https://app.example");
    let answer = server.http("GET", "/health", &[origin], b"").await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let preflight = [
        origin,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type"),
    ];
    let answer = server.http("OPTIONS", "/rooms/r", &preflight, b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert!(answer.headers.contains_key("access-control-allow-methods"));
    assert!(answer.headers.contains_key("access-control-allow-headers"));
}

/// Defect seed 13: paths for everybody, details for the machine itself.
#[tokio::test]
async fn config_without_an_admin_token() {
    let server = TestServer::start().await;
    let answer = server.get("/config").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["config"]["https"]["listenPort"], 4443);
    assert_eq!(answer.body["config"]["https"]["listenIp"], "127.0.0.1");
    assert_eq!(
        answer.body["config"]["https"]["tls"]["cert"],
        "certs/fullchain.pem"
    );
    assert_eq!(answer.body["workers"][0]["pid"], 4711);
    for header in [
        ("Forwarded", "for=192.0.2.1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("Origin", "https://evil.example"),
    ] {
        let answer = server.http("GET", "/config", &[header], b"").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["config"]["https"]["listenPort"], 4443);
        assert!(answer.body.get("workers").is_none(), "{header:?}");
    }
}

/// Defects seed 13 and m: no secret is served.
#[tokio::test]
async fn config_with_an_admin_token() {
    let mut config = config();
    config.admin_token = Some(Secret::new("let-me-in"));
    let server = TestServer::start_with(config, Timings::default()).await;
    let with = async |headers: &[(&str, &str)]| server.http("GET", "/config", headers, b"").await;
    for headers in [
        &[][..],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", "Basic let-me-in")],
    ] {
        let answer = with(headers).await;
        assert_eq!(answer.status, 401);
        assert!(!answer.error().is_empty());
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let authorization = ("Authorization", "Bearer let-me-in");
    for headers in [
        &[authorization][..],
        &[authorization, ("X-Forwarded-For", "192.0.2.1")],
    ] {
        let answer = with(headers).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["workers"][0]["pid"], 4711);
        let text = answer.body.to_string();
        assert!(
            !text.contains("let-me-in") && !text.contains("turn-pass"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let server = TestServer::start().await;
    let mut stream = server.tls().await;
    for _ in 0..3 {
        let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{\"status\":\"ok\"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            answer.push(byte[0]);
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_which_host_was_asked_for() {
    let forwarded = [
        ("X-Forwarded-Host", "rtc.example.com"),
        ("X-Forwarded-For", "192.0.2.1"),
    ];
    for (trusted, host) in [(true, "rtc.example.com:443"), (false, "localhost")] {
        let networks = match trusted {
            true => vec!["127.0.0.0/8".parse().unwrap()],
            false => Vec::new(),
        };
        let config = Config {
            trusted_proxies: networks,
            ..config()
        };
        let server = TestServer::start_with(config, Timings::default()).await;
        let answer = server.http("POST", "/rooms/a", &forwarded, b"").await;
        let url = answer.body["wsUrl"].as_str().unwrap();
        assert!(url.starts_with(&format!("wss://{host}")), "{url}");
        // Through whatever proxy, nobody is on this machine itself.
        let answer = server.http("GET", "/config", &forwarded, b"").await;
        assert!(answer.body.get("workers").is_none());
    }
}

#[tokio::test]
async fn rooms_route_the_codecs_that_were_chosen() {
    let config = Config {
        router_codecs: vec![CodecName::Pcmu, CodecName::Av1],
        ..config()
    };
    let server = TestServer::start_with(config, Timings::default()).await;
    server.post("/rooms/room", "").await;
    let capabilities = server.get("/rooms/room").await.body;
    let codecs = capabilities["codecs"].as_array().unwrap().iter();
    let codecs: Vec<_> = codecs
        .map(|it| {
            (
                it["mimeType"].as_str().unwrap(),
                it["preferredPayloadType"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [("audio/PCMU", 0), ("video/AV1", 100), ("video/rtx", 101)];
    assert_eq!(codecs, expected);
    let is_descriptor = |uri: &str| uri.ends_with("#dependency-descriptor-rtp-header-extension");
    let extensions = capabilities["headerExtensions"].as_array().unwrap();
    let descriptor = extensions.last().unwrap();
    assert!(is_descriptor(descriptor["uri"].as_str().unwrap()));
    assert_eq!(descriptor["preferredId"], 8);
    let router = |call: &Call| match call {
        Call::CreateRouter(request) => Some(request.clone()),
        _ => None,
    };
    let told = server.worker.wait_for(router).await;
    let types = told
        .codecs
        .iter()
        .map(|it| (it.payload_type, it.rtx_payload_type));
    assert_eq!(types.collect::<Vec<_>>(), [(0, None), (100, Some(101))]);
    let told = told.header_extensions.iter().find(|it| it.id == 8);
    assert!(told.is_some_and(|it| is_descriptor(&it.uri)));
    // Who connects is told the same.
    let mut alice = server.connect("room", "alice").await;
    let same = alice.ok("getRouterRtpCapabilities", json!({})).await;
    assert_eq!(same, capabilities);
}

/// Defect p: the original's load balancer takes anybody's word on these paths.
#[tokio::test]
async fn there_is_nothing_to_register_at() {
    let server = TestServer::start().await;
    for path in ["/register", "/room-closed", "/rooms/room/closed"] {
        let body = r#"{"roomId":"room","host":"evil.example","capacity":1000000}"#;
        assert_eq!(server.post(path, body).await.status, 404, "{path}");
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    assert_eq!(server.rooms.open_rooms(), 0);
}

/// The socket decides who is on this machine, whomever proxies stand for.
#[tokio::test]
async fn config_where_proxies_are_trusted() {
    let proxied = ("X-Forwarded-For", "127.0.0.1");
    let by_proxy = &[proxied, ("X-Forwarded-Host", "localhost")][..];
    for (trusted, headers, details) in [
        ("10.0.0.0/8", &[][..], true),
        ("10.0.0.0/8", by_proxy, false),
        ("127.0.0.0/8", &[], false),
        ("127.0.0.0/8", by_proxy, false),
    ] {
        let config = Config {
            trusted_proxies: vec![trusted.parse().unwrap()],
            ..config()
        };
        let server = TestServer::start_with(config, Timings::default()).await;
        let answer = server.http("GET", "/config", headers, b"").await;
        let has_details = answer.body.get("workers").is_some();
        assert_eq!(has_details, details, "{trusted} {headers:?}");
    }
}

#[tokio::test]
async fn the_health_command_tells_who_takes_rooms() {
    let server = TestServer::start().await;
    let check = async || {
        let address = server.address;
        let answer = tokio::task::spawn_blocking(move || control::health::check(address, true));
        answer.await.unwrap()
    };
    assert_eq!(check().await, Ok(()));
    server.pool.kill_workers().await;
    let error = check().await.unwrap_err();
    assert!(error.contains("503"), "{error}");
    assert!(error.contains("no live media worker"), "{error}");
}
