//! Traces that a server sends to a collector.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use test_peer::str0m::media::MediaKind;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::client::{Client, rtp_parameters};
use crate::https;
use crate::server::{DEADLINE, Options, Server, free_port, wait_until};

/// Spans that have come, and the names of the services that they are of.
#[derive(Debug, Default, Clone)]
struct Collector(Arc<Mutex<(Vec<Span>, Vec<String>)>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut held = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let names = attributes.into_iter().filter(|it| it.key == "service.name");
            held.1.extend(names.filter_map(|it| match it.value?.value? {
                Any::StringValue(name) => Some(name),
                _ => None,
            }));
            let scopes = resource.scope_spans.into_iter();
            held.0.extend(scopes.flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that listens, and what keeps it doing so.
    fn start() -> (
        Self,
        SocketAddr,
        JoinHandle<Result<(), tonic::transport::Error>>,
    ) {
        let collector = Self::default();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let service = TraceServiceServer::new(collector.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve(address);
        (collector, address, tokio::spawn(serving))
    }

    /// Spans that have come, by name.
    fn spans(&self, name: &str) -> Vec<Span> {
        let held = self.0.lock().unwrap();
        let spans = held.0.iter().filter(|span| span.name == name);
        spans.cloned().collect()
    }

    /// The names from the first of a trace down to a span, when all of them have come.
    fn way_to(&self, span: &Span) -> Vec<String> {
        let held = self.0.lock().unwrap();
        let above = |span: &Span| {
            let mut spans = held.0.iter();
            spans.find(|it| it.span_id == span.parent_span_id && it.trace_id == span.trace_id)
        };
        let mut way = vec![span.name.clone()];
        let mut at = span;
        while let Some(next) = above(at) {
            way.insert(0, next.name.clone());
            at = next;
        }
        way
    }

    /// The first span of a name, when it has come.
    fn span(&self, name: &str) -> Option<Span> {
        let held = self.0.lock().unwrap();
        held.0.iter().find(|span| span.name == name).cloned()
    }
}

/// A text or a number of a span.
fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A server with one worker that tells a collector of what it does at once.
fn traced(collector: SocketAddr) -> Server {
    Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", 100)
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_traced_down_to_the_worker() {
    let (collector, address, serving) = Collector::start();
    let mut server = traced(address);
    let alice = Client::join(server.address(), "traced", "alice").await;
    let (status, _) = https::get(&server.url("/rooms/none?secret=hunter2"));
    assert_eq!(status, 404);
    wait_until("the spans", || {
        [
            "createWebRtcTransport",
            "worker create_web_rtc_transport",
            "GET /rooms/{roomId}",
        ]
        .iter()
        .all(|name| collector.span(name).is_some())
    });
    let protoo = collector.span("createWebRtcTransport").unwrap();
    assert_eq!(attribute(&protoo, "room").as_deref(), Some("traced"));
    assert_eq!(protoo.parent_span_id, Vec::<u8>::new());
    let worker = collector.span("worker create_web_rtc_transport").unwrap();
    assert_eq!(worker.trace_id, protoo.trace_id);
    let http = collector.span("GET /rooms/{roomId}").unwrap();
    assert_eq!(
        attribute(&http, "http.response.status_code").as_deref(),
        Some("404")
    );
    assert!(!format!("{:?}", collector.0.lock().unwrap()).contains("hunter2"));
    assert!(
        collector
            .0
            .lock()
            .unwrap()
            .1
            .iter()
            .all(|name| name == "webrtc-server")
    );

    // A collector that is gone holds nothing up.
    serving.abort();
    let bob = Client::join(server.address(), "traced", "bob").await;
    drop((alice, bob));
    server.signal(nix::sys::signal::Signal::SIGINT);
    assert!(
        server
            .wait_for_end(DEADLINE / 15)
            .is_some_and(|s| s.success())
    );
    // Spans are for the collector alone.
    assert!(!server.log().contains("otel.name"));
}

/// What a broadcaster asks for over HTTP, and what the workers do for it, is one trace
/// from the request on; also what only follows the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_broadcasters_requests_are_traced_down_to_the_worker() {
    let (collector, address, _serving) = Collector::start();
    let server = traced(address);
    let post = |path: &str, body: Value| {
        let url = server.url(&format!("/rooms/cast{path}"));
        let (status, answer) = https::request("POST", &url, &[], &body.to_string());
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    post("", json!({}));
    let mut alice = Client::join(server.address(), "cast", "alice").await;
    let device = json!({"name": "ffmpeg"});
    post(
        "/broadcasters",
        json!({"id": "file", "displayName": "", "device": device}),
    );
    let body = json!({"type": "plain", "comedia": true, "rtcpMux": true});
    let transport = post("/broadcasters/file/transports", body);
    let path = format!(
        "/broadcasters/file/transports/{}",
        transport["id"].as_str().unwrap()
    );
    let rtp_parameters = rtp_parameters(MediaKind::Audio, 1000);
    let body = json!({"kind": "audio", "rtpParameters": rtp_parameters});
    post(&format!("{path}/producers"), body);
    alice.accept_consumer().await;
    let url = server.url("/rooms/cast/broadcasters/file");
    assert_eq!(https::request("DELETE", &url, &[], "").0, 200);

    let broadcaster = "/rooms/{roomId}/broadcasters/{broadcasterId}";
    for (call, request, between) in [
        (
            "create_router",
            "POST /rooms/{roomId}".to_owned(),
            "make room",
        ),
        (
            "create_plain_transport",
            format!("POST {broadcaster}/transports"),
            "serve broadcaster",
        ),
        (
            "produce",
            format!("POST {broadcaster}/transports/{{transportId}}/producers"),
            "serve broadcaster, produce",
        ),
        (
            "consume",
            format!("POST {broadcaster}/transports/{{transportId}}/producers"),
            "serve broadcaster, produce, after the answer",
        ),
        (
            "close_transport",
            format!("DELETE {broadcaster}"),
            "serve broadcaster",
        ),
    ] {
        let name = format!("worker {call}");
        let mut want = vec![request];
        want.extend(between.split(", ").map(str::to_owned));
        want.push(name.clone());
        let is_there = || {
            let spans = collector.spans(&name);
            spans.iter().any(|span| collector.way_to(span) == want)
        };
        wait_until(&format!("{want:?}"), is_there);
    }
    // Nothing that a worker did for it is a trace of its own.
    for call in [
        "create_plain_transport",
        "produce",
        "consume",
        "close_transport",
    ] {
        for span in collector.spans(&format!("worker {call}")) {
            assert_ne!(span.parent_span_id, Vec::<u8>::new(), "{span:?}");
        }
    }
}

/// Clients make up methods and paths; neither becomes the name of a span.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_make_up_is_no_name() {
    let (collector, address, _serving) = Collector::start();
    let server = traced(address);
    for (method, path) in [
        ("HUNTER2", "/health"),
        ("HUNTER3", "/hunter4"),
        ("GET", "/hunter5"),
    ] {
        https::request(method, &server.url(path), &[], "");
    }
    let names = ["HTTP /health", "HTTP", "GET"];
    wait_until("the spans", || {
        names.iter().all(|name| !collector.spans(name).is_empty())
    });
    for name in names {
        let span = &collector.spans(name)[0];
        let method = if name == "GET" { "GET" } else { "_OTHER" };
        assert_eq!(
            attribute(span, "http.request.method").as_deref(),
            Some(method)
        );
        let route = attribute(span, "http.route");
        assert_eq!(
            route.as_deref(),
            name.split_once(' ').map(|(_, route)| route)
        );
    }
    let told = format!("{:?}", collector.0.lock().unwrap()).to_lowercase();
    assert!(!told.contains("hunter"), "{told}");
}
