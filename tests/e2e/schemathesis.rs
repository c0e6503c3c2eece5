//! Schemathesis against the OpenAPI document: whatever the API answers to
//! generated requests, good and bad, the document lists.

use std::process::Command;

use serde_json::Value;

use crate::clients::python;
use crate::https;
use crate::server::Server;

/// Where the server serves its document.
const DOCUMENT: &str = "/API/openapi.json";

/// Generated requests of each operation, on top of those that its schema
/// suggests.
const EXAMPLES: &str = "25";

/// What is checked: no status (a 5xx least of all), content type or body that
/// the document does not have.
const CHECKS: &str = "status_code_conformance,content_type_conformance,response_schema_conformance";

/// Runs Schemathesis, and sees that the server has come through unharmed.
/// `config`: its configuration file, beyond the arguments.
fn run(server: &mut Server, config: &str, arguments: &[&str]) {
    let (status, document) = https::get(&server.url(DOCUMENT));
    assert_eq!(status, 200, "{document}");
    let workers = server.workers();
    // It leaves files of its own where it runs: with the server's, they go away.
    std::fs::write(server.dir().join("schemathesis.toml"), config).unwrap();
    // Its script names the directory that it was installed in; this may be a copy.
    let output = Command::new(python())
        .current_dir(server.dir())
        .args(["-m", "schemathesis.cli", "run", &server.url(DOCUMENT)])
        .args(["--url", &server.url("")])
        .args(["--tls-verify", "certs/fullchain.pem"])
        .args(["--checks", CHECKS])
        // What ends the server is tested elsewhere.
        .args(["--exclude-path-regex", "/drain$"])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", EXAMPLES, "--generation-deterministic"])
        .args(["--request-timeout", "10", "--warnings", "off", "--no-color"])
        .args(["--no-shrink", "--continue-on-failure"])
        .args(arguments)
        .output()
        .expect("tests/run installs Schemathesis");
    let text = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{problems}");
    println!("{text}");

    assert_eq!(https::get(&server.url("/health")).0, 200);
    assert_eq!(server.workers(), workers, "no worker has died");
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn answers_are_those_of_the_openapi_document() {
    run(&mut Server::start(), "", &[]);
}

/// Generated ids name nothing. With those of a room, a broadcaster and its
/// transport, generated bodies get as far as the negotiation and the worker.
#[test]
fn so_they_are_for_a_broadcaster_that_exists() {
    let mut server = Server::start();
    let post = |path: &str, body: &str| -> Value {
        let json = [("content-type", "application/json")];
        let (status, answer) = https::request("POST", &server.url(path), &json, body);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    post("/rooms/fuzz", "{}");
    let broadcaster = r#"{"id": "ann", "displayName": "Ann", "device": {"name": "test"}}"#;
    post("/rooms/fuzz/broadcasters", broadcaster);
    let transports = "/rooms/fuzz/broadcasters/ann/transports";
    let transport = post(transports, r#"{"type": "webrtc"}"#);
    let config = format!(
        "[parameters]\n\"path.roomId\" = \"fuzz\"\n\"path.broadcasterId\" = \"ann\"\n\
         \"path.peerId\" = \"ann\"\n\
         \"path.transportId\" = {}\n",
        transport["id"]
    );
    run(
        &mut server,
        &config,
        &[
            "--include-path-regex",
            "transports|producers|consumers|peerProducersInfos",
            "--exclude-method",
            "DELETE",
        ],
    );
    // Some of the bodies were good ones: they got there.
    let (_, config) = https::get(&server.url("/config"));
    let workers = config["workers"].as_array().unwrap();
    let stats = |name: &str| -> u64 {
        let counts = workers.iter().map(|w| w["stats"][name].as_u64().unwrap());
        counts.sum()
    };
    assert!(stats("transports") > 1, "{config:#}");
    assert_eq!(stats("panics"), 0, "{config:#}");
}
