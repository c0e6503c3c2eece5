//! The HTTP API of this scope, over a real server.

use serde_json::{Value, json};

use crate::https::{get, request, request_text};
use crate::server::{Options, Server};

#[test]
fn rooms_are_made_and_described() {
    let server = Server::start();
    let (status, made) = request("POST", &server.url("/rooms"), &[], "");
    assert_eq!(status, 200);
    assert_eq!(made["protocol"], "2060-mediasoup-v1");
    let room = made["roomId"].as_str().unwrap();
    assert_eq!(room.len(), 8);
    assert_eq!(
        made["wsUrl"],
        format!("wss://127.0.0.1:{}?roomId={room}", server.port)
    );
    let (status, capabilities) = get(&server.url(&format!("/rooms/{room}")));
    assert_eq!(status, 200);
    assert_eq!(capabilities["codecs"][1]["mimeType"], "video/VP8");
    let (status, again) = request("POST", &server.url(&format!("/rooms/{room}")), &[], "{}");
    assert_eq!(status, 500);
    assert_eq!(
        again,
        json!({"error": format!("Room with roomId {room} already exists.")})
    );
    assert_eq!(get(&server.url("/rooms/unknown")).0, 404);
    let (status, deprecated) = get(&server.url("/getRoomId"));
    assert_eq!((status, &deprecated["status"]), (200, &json!(1)));
    assert!(deprecated["wsUrl"].as_str().unwrap().ends_with("&peerId="));
}

#[test]
fn the_configuration_is_served_without_secrets() {
    let server = Options::new()
        .env("MEDIASOUP_CLIENT_ICESERVER_HOST", "turn.example")
        .env("MEDIASOUP_CLIENT_ICESERVER_USER", "some-user")
        .env("MEDIASOUP_CLIENT_ICESERVER_PASS", "hunter2-secret")
        .start();
    let (status, body) = request_text("GET", &server.url("/config"), &[], "");
    assert_eq!(status, 200);
    assert!(!body.contains("hunter2-secret"), "{body}");
    let config: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(config["config"]["https"]["listenPort"], server.port);
    assert!(config["config"]["https"]["tls"]["cert"].is_string());
    assert!(config["workers"].is_array());
    let proxied = [("X-Forwarded-For", "127.0.0.1")];
    let (_, outside) = request("GET", &server.url("/config"), &proxied, "");
    assert!(outside["config"]["https"].is_object());
    assert_eq!(outside["workers"], Value::Null);
    let mut server = server;
    assert!(!server.log().contains("hunter2-secret"));
}

#[test]
fn the_admin_token_guards_the_configuration() {
    let server = Options::new().env("ADMIN_TOKEN", "let-me-in").start();
    let url = server.url("/config");
    assert_eq!(get(&url).0, 401);
    let wrong = [("Authorization", "Bearer let-me-out")];
    assert_eq!(request("GET", &url, &wrong, "").0, 401);
    let right = [("Authorization", "Bearer let-me-in")];
    let (status, config) = request("GET", &url, &right, "");
    assert_eq!(status, 200);
    assert!(config["workers"].is_array());
    assert!(!config.to_string().contains("let-me-in"));
}

#[test]
fn health_and_the_page_answer() {
    let server = Server::start();
    for path in ["/health", "/rooms/health"] {
        assert_eq!(
            get(&server.url(path)),
            (200, json!({"status": "ok"})),
            "{path}"
        );
    }
    let (status, page) = request_text("GET", &server.url("/"), &[], "");
    assert_eq!(status, 200);
    assert!(page.contains("<!doctype html>") || page.contains("<!DOCTYPE html>"));
}
