//! Schemathesis against the OpenAPI document: whatever the API answers to
//! generated requests, good and bad, the document lists.

use std::process::Command;

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

#[test]
#[ignore = "the server does not serve its OpenAPI document yet"]
fn answers_are_those_of_the_openapi_document() {
    let mut server = Server::start();
    let (status, document) = https::get(&server.url(DOCUMENT));
    assert_eq!(status, 200, "{document}");
    let workers = server.workers();
    // It leaves files of its own where it runs: with the server's, they go away.
    let output = Command::new(python().with_file_name("schemathesis"))
        .current_dir(server.dir())
        .args(["run", &server.url(DOCUMENT), "--url", &server.url("")])
        .args(["--tls-verify", "certs/fullchain.pem"])
        .args(["--checks", CHECKS])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", EXAMPLES, "--generation-deterministic"])
        .args(["--request-timeout", "10", "--warnings", "off", "--no-color"])
        .args(["--no-shrink", "--continue-on-failure"])
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
