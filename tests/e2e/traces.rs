//! Traces that a server sends to a collector.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

use crate::client::Client;
use crate::server::{DEADLINE, Options, free_port, wait_until};

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
                Value::StringValue(name) => Some(name),
                _ => None,
            }));
            let scopes = resource.scope_spans.into_iter();
            held.0.extend(scopes.flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
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
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_traced_down_to_the_worker() {
    let collector = Collector::default();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let service = TraceServiceServer::new(collector.clone());
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve(address);
    let serving = tokio::spawn(serving);
    let mut server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", 100)
        .start();
    let alice = Client::join(server.address(), "traced", "alice").await;
    let (status, _) = crate::https::get(&server.url("/rooms/none?secret=hunter2"));
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
