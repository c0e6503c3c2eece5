//! The OpenAPI document against the server: every answer of every test has to
//! be described in it, and everything described has to be there.

use std::collections::HashSet;
use std::sync::{LazyLock, OnceLock};

use control::rooms::Timings;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::server::{Answer, TestServer, config};

/// What a page is made of is no part of the API.
const PAGES: [&str; 11] = [
    "/admin",
    "/admin/admin.js",
    "/admin/admin.css",
    "/",
    "/app.js",
    "/licenses.txt",
    "/style.css",
    "/icon.svg",
    "/API",
    "/API/api.js",
    "/API/api.css",
];

/// Served without being described: another spelling of `/rooms`.
const ALIAS: (&str, &str) = ("/rooms/", "/rooms");

/// The document, as the first server of this process served it.
static DOCUMENT: OnceLock<Value> = OnceLock::new();

/// The path of the document that a concrete path belongs to.
fn template<'a>(document: &'a Value, path: &str) -> Option<(&'a str, &'a Value)> {
    let paths = document["paths"].as_object().unwrap();
    let matches = |template: &str| {
        let (expected, given) = (template.split('/'), path.split('/'));
        expected.clone().count() == given.clone().count()
            && expected
                .zip(given)
                .all(|(e, g)| e == g || (e.starts_with('{') && !g.is_empty()))
    };
    let mut found: Vec<_> = paths.iter().filter(|(it, _)| matches(it)).collect();
    // A literal path wins over one with parameters.
    found.sort_by_key(|(it, _)| it.matches('{').count());
    found.first().map(|(it, methods)| (it.as_str(), *methods))
}

/// A validator for the schema at this JSON pointer of the document.
fn validator(document: &Value, pointer: &str) -> Validator {
    let schema = document.pointer(pointer);
    let mut schema = schema.unwrap_or_else(|| panic!("no {pointer}")).clone();
    // For its references.
    schema["components"] = document["components"].clone();
    jsonschema::validator_for(&schema).unwrap()
}

/// Panics when the document does not describe this answer.
pub fn check(document: &Value, method: &str, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap();
    let path = if path == ALIAS.0 { ALIAS.1 } else { path };
    if method == "OPTIONS" || PAGES.contains(&path) {
        return;
    }
    let Some((template, methods)) = template(document, path) else {
        assert_eq!(answer.status, 404, "{method} {path} is not described");
        return;
    };
    let method = method.to_ascii_lowercase();
    if methods.get(&method).is_none() {
        assert_eq!(answer.status, 405, "{method} {path} is not described");
        return;
    }
    let responses = &methods[&method]["responses"];
    let described = &responses[answer.status.to_string()];
    let what = format!("{method} {template} answering {}", answer.status);
    assert!(described.is_object(), "{what} is not described: {answer:?}");
    if answer.status == 204 {
        assert_eq!(described.get("content"), None, "{what} has no content");
        assert_eq!(answer.body, "", "{what} has no content");
        return;
    }
    if described["content"]["application/json"].is_null() {
        let kind = answer.headers["content-type"].as_str().unwrap();
        let mut kinds = described["content"].as_object().unwrap().keys();
        assert!(
            kinds.any(|it| kind.starts_with(it.as_str())),
            "{what}: {kind}"
        );
        return;
    }
    let escaped = template.replace('~', "~0").replace('/', "~1");
    let status = answer.status;
    let pointer =
        format!("/paths/{escaped}/{method}/responses/{status}/content/application~1json/schema");
    let validator = validator(document, &pointer);
    if let Err(error) = validator.validate(&answer.body) {
        panic!(
            "{what} is described in another way: {error}: {}",
            answer.body
        );
    }
}

impl TestServer {
    /// The document that the server serves.
    pub async fn document(&self) -> &'static Value {
        if let Some(document) = DOCUMENT.get() {
            return document;
        }
        let answer = self.raw("GET", "/API/openapi.json", &[], b"").await;
        assert_eq!(answer.status, 200);
        DOCUMENT.get_or_init(|| answer.body)
    }
}

static METHODS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| HashSet::from(["get", "post", "delete", "put", "patch"]));

#[tokio::test]
async fn everything_described_is_there() {
    let server = TestServer::start().await;
    let document = server.document().await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            assert!(METHODS.contains(method.as_str()), "{path} {method}");
            let concrete = path.replace(['{', '}'], "");
            let answer = server
                .raw(&method.to_ascii_uppercase(), &concrete, &[], b"")
                .await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert_ne!(answer.error(), "no such path", "{method} {path}");
            // And whole: each parameter of the path, each reference, a summary.
            let parameters = operation["parameters"].as_array();
            let names = parameters.into_iter().flatten();
            let names: Vec<_> = names.filter(|it| it["in"] == "path").collect();
            assert_eq!(names.len(), path.matches('{').count(), "{method} {path}");
            for name in names {
                let name = format!("{{{}}}", name["name"].as_str().unwrap());
                assert!(path.contains(&name), "{method} {path}: {name}");
            }
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
    assert_eq!(operations, 37);
    check_references(document, document);
}

fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let found = document.pointer(reference.trim_start_matches('#'));
                assert!(found.is_some(), "{reference} leads nowhere");
            }
            fields
                .values()
                .for_each(|it| check_references(document, it));
        }
        Value::Array(items) => items.iter().for_each(|it| check_references(document, it)),
        _ => {}
    }
}

/// What the tests post has to be what the document says.
#[tokio::test]
async fn the_bodies_of_the_contract_are_described() {
    let server = TestServer::start().await;
    let document = server.document().await;
    let transport = "/rooms/{roomId}/broadcasters/{broadcasterId}/transports";
    let good = [
        (
            "/rooms/{roomId}".to_owned(),
            json!({ "eventNotificationUri": "http://example.com/n", "maxPeerCount": 50, "other": 1 }),
        ),
        (
            "/rooms/{roomId}/broadcasters".to_owned(),
            json!({ "id": "b", "displayName": "B", "device": { "name": "ffmpeg" } }),
        ),
        (
            transport.to_owned(),
            json!({ "type": "plain", "comedia": true, "rtcpMux": false }),
        ),
        (
            format!("{transport}/{{transportId}}/producers"),
            json!({ "kind": "audio", "rtpParameters": {} }),
        ),
        (
            format!("{transport}/{{transportId}}/produce/data"),
            json!({ "sctpStreamParameters": {} }),
        ),
    ];
    for (path, body) in good {
        let escaped = path.replace('/', "~1");
        let pointer = format!("/paths/{escaped}/post/requestBody/content/application~1json/schema");
        let validator = validator(document, &pointer);
        assert!(validator.is_valid(&body), "{path}: {body}");
        assert!(!validator.is_valid(&json!([])), "{path}");
        let wrong = json!({ "id": 1, "type": 1, "kind": 1, "maxPeerCount": "x", "label": 1 });
        assert!(!validator.is_valid(&wrong), "{path}");
    }
}

#[tokio::test]
async fn the_page_and_the_document_are_for_any_page() {
    let mut config = config();
    config.api_token = Some(control::config::Secret::new("let-me-in"));
    let server = TestServer::start_with(config, Timings::default()).await;
    let page = server.get("/API").await;
    assert_eq!(page.status, 200);
    assert!(page.body.as_str().unwrap().contains("API/openapi.json"));
    let origin = ("Origin", "https://editor.example");
    let document = server
        .http("GET", "/API/openapi.json", &[origin], b"")
        .await;
    assert_eq!(document.status, 200);
    assert_eq!(document.headers["content-type"], "application/json");
    assert_eq!(document.headers["access-control-allow-origin"], "*");
}
