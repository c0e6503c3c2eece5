//! Tokens, origins of pages, and who may make rooms.

use control::config::Secret;
use control::rooms::Timings;
use serde_json::json;

use crate::server::{Answer, TestServer, config};

const PREFLIGHT: [(&str, &str); 2] = [
    ("Access-Control-Request-Method", "POST"),
    (
        "Access-Control-Request-Headers",
        "authorization,content-type",
    ),
];

/// What a preflight from this origin is answered.
async fn preflight(server: &TestServer, origin: &str, path: &str) -> Answer {
    let headers = [("Origin", origin), PREFLIGHT[0], PREFLIGHT[1]];
    server.http("OPTIONS", path, &headers, b"").await
}

/// Which origin the answer lets in.
fn allowed_origin(answer: &Answer) -> Option<&str> {
    answer.headers.get("access-control-allow-origin")?.as_str()
}

/// Every public path, as a client asks for it.
const PUBLIC: [(&str, &str); 28] = [
    ("GET", "/getRoomId"),
    ("POST", "/rooms"),
    ("POST", "/rooms/"),
    ("POST", "/rooms/r"),
    ("GET", "/rooms/r"),
    ("GET", "/rooms/r/admission?peerId=p"),
    ("GET", "/health"),
    ("GET", "/rooms/health"),
    ("GET", "/no/such/path"),
    ("POST", "/rooms/r/broadcasters"),
    ("DELETE", "/rooms/r/broadcasters/b"),
    ("POST", "/rooms/r/broadcasters/b/transports"),
    (
        "POST",
        "/rooms/r/broadcasters/b/transports/t/consume?producerId=p",
    ),
    ("POST", "/rooms/r/broadcasters/b/transports/t/connect"),
    ("POST", "/rooms/r/broadcasters/b/transports/t/producers"),
    ("POST", "/rooms/r/broadcasters/b/transports/t/produce/data"),
    ("POST", "/rooms/r/broadcasters/b/transports/t/consume/data"),
    ("GET", "/v2/rooms/r"),
    ("POST", "/v2/rooms/r/broadcasters"),
    ("DELETE", "/v2/rooms/r/broadcasters/b"),
    ("POST", "/v2/rooms/r/broadcasters/b/join"),
    ("POST", "/v2/rooms/r/broadcasters/b/transports"),
    ("POST", "/v2/rooms/r/broadcasters/b/transports/t/connect"),
    ("POST", "/v2/rooms/r/broadcasters/b/producers"),
    ("GET", "/v2/rooms/r/broadcasters/b/peerProducersInfos"),
    ("POST", "/v2/rooms/r/broadcasters/b/consumers"),
    ("POST", "/v2/rooms/r/broadcasters/b/consumers/c/resume"),
    ("GET", "/API/openapi.json"),
];

#[tokio::test]
async fn any_origin_by_default() {
    let server = TestServer::start().await;
    for (method, path) in PUBLIC {
        let origin = ("Origin", "https://app.example");
        let answer = server.http(method, path, &[origin], b"").await;
        assert_eq!(allowed_origin(&answer), Some("*"), "{method} {path}");
        let answer = preflight(&server, "https://app.example", path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(allowed_origin(&answer), Some("*"), "{path}");
        let headers = &answer.headers["access-control-allow-headers"];
        assert_eq!(headers, "authorization,content-type");
    }
    let upgraded = server.upgrade_from("https://app.example", "/?roomId=r&peerId=p");
    upgraded.await.ok().unwrap().join("P").await;
}

#[tokio::test]
async fn only_the_configured_origins() {
    let mut config = config();
    config.cors_origins = Some(vec![
        "https://app.example".into(),
        "http://localhost:8080".into(),
    ]);
    let server = TestServer::start_with(config, Timings::default()).await;
    let table = [
        ("https://app.example", true),
        ("http://localhost:8080", true),
        ("https://evil.example", false),
        ("https://app.example.evil.example", false),
        ("null", false),
    ];
    for (origin, allowed) in table {
        let expected = allowed.then_some(origin);
        for (method, path) in PUBLIC {
            let answer = server.http(method, path, &[("Origin", origin)], b"").await;
            assert_eq!(allowed_origin(&answer), expected, "{origin} {path}");
            let answer = preflight(&server, origin, path).await;
            assert_eq!(allowed_origin(&answer), expected, "{origin} {path}");
        }
        // Not even what a page may send without asking has an effect.
        let made = server
            .http("GET", "/getRoomId", &[("Origin", origin)], b"")
            .await;
        assert_eq!(made.status, if allowed { 200 } else { 403 }, "{origin}");
        let path = "/?roomId=socket&peerId=p";
        let upgraded = server.upgrade_from(origin, path).await;
        assert_eq!(upgraded.is_ok(), allowed, "{origin}");
        let headers = [("Origin", origin)];
        let path = "/rooms/socket/admission?peerId=p";
        let admission = server.http("GET", path, &headers, b"").await;
        match upgraded {
            Ok(_) => assert_eq!(admission.status, 200),
            Err(refused) => {
                assert_eq!((refused.status, admission.status), (403, 403));
                assert!(refused.error().contains("origin"), "{refused:?}");
                assert_eq!(admission.body, refused.body);
            }
        }
    }
    // The server's own page, and what is no page at all.
    let own = format!("https://localhost:{}", server.address.port());
    let upgraded = server.upgrade_from(&own, "/?roomId=own&peerId=p").await;
    upgraded.ok().unwrap().join("P").await;
    server.connect("own", "native").await.join("N").await;
}

/// Defects seed 13 and m: what is in there is nobody else's business.
#[tokio::test]
async fn admin_paths_answer_no_page() {
    for restricted in [false, true] {
        let mut config = config();
        if restricted {
            config.cors_origins = Some(vec!["https://app.example".into()]);
        }
        let server = TestServer::start_with(config, Timings::default()).await;
        let origin = ("Origin", "https://app.example");
        for path in ["/config", "/metrics", "/admin/rooms", "/admin/rooms/r"] {
            let answer = server.http("GET", path, &[origin], b"").await;
            let preflight = preflight(&server, "https://app.example", path).await;
            assert_eq!(preflight.status, 405);
            for answer in [answer, preflight] {
                let mut names = answer.headers.keys();
                let cors = names.find(|name| name.starts_with("access-control"));
                assert_eq!(cors, None, "{answer:?}");
            }
        }
    }
}

/// Defect seed 23.
#[tokio::test]
async fn the_api_token() {
    let mut config = config();
    config.api_token = Some(Secret::new("let-me-in"));
    let server = TestServer::start_with(config, Timings::default()).await;
    let guarded = PUBLIC.iter().filter(|(method, path)| {
        *path == "/getRoomId" || *method == "POST" || path.contains("broadcasters")
    });
    for (method, path) in guarded.clone() {
        for value in ["", "Bearer wrong", "Bearer let-me-in2", "Basic let-me-in"] {
            let headers = [("Authorization", value)];
            // Not even whether the room exists is told.
            let answer = server.http(method, path, &headers, b"").await;
            assert_eq!(answer.status, 401, "{method} {path} {value}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            assert!(answer.error().contains("bearer token"), "{answer:?}");
        }
        assert_eq!(server.http(method, path, &[], b"").await.status, 401);
        // A page has to be able to ask.
        let preflight = preflight(&server, "https://app.example", path).await;
        assert_eq!(preflight.status, 200, "{path}");
    }
    assert_eq!(server.worker.count("CreateRouter"), 0);
    for (method, path) in guarded {
        let headers = [("Authorization", "Bearer let-me-in")];
        let answer = server.http(method, path, &headers, b"").await;
        assert_ne!(answer.status, 401, "{method} {path}");
    }
    for path in ["/rooms/r", "/rooms/r/admission?peerId=p", "/health"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    server.connect("r", "alice").await.join("Alice").await;
}

/// Defect seed 23: not anyone can create rooms. Defect d: a refusal is an HTTP
/// status, before the upgrade.
#[tokio::test]
async fn peers_may_not_make_rooms() {
    let mut config = config();
    config.room_auto_create = false;
    let server = TestServer::start_with(config, Timings::default()).await;
    let refused = async |path: &str| {
        let refused = server.upgrade(path, Some("protoo")).await.err().unwrap();
        let reason = "room with id \"room\" does not exist";
        assert_eq!((refused.status, refused.error()), (404, reason));
        let admission = server.get("/rooms/room/admission?peerId=alice").await;
        assert_eq!((admission.status, admission.body), (404, refused.body));
    };
    let path = "/?roomId=room&peerId=alice";
    refused(path).await;
    assert_eq!(server.worker.count("CreateRouter"), 0);
    server.post("/rooms/room", "").await;
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    // A room that is lost with its worker is still its peers' room.
    server.pool.kill_workers().await;
    assert_eq!(alice.close_code().await, 1012);
    let admission = server.get("/rooms/room/admission?peerId=alice").await;
    assert_eq!(admission.status, 503);
    server.pool.start_worker().await;
    let admission = server.get("/rooms/room/admission?peerId=alice").await;
    assert_eq!(admission.status, 200);
    let mut alice = server.connect("room", "alice").await;
    alice.join("Alice").await;
    // One that its peers left is not.
    alice.ok("leaveRoom", json!({})).await;
    while server.get("/rooms/room").await.status == 200 {}
    refused(path).await;
}
