//! Traces of what the server is asked for, on their way to a collector (OTLP over
//! gRPC), where one is set.
//!
//! A trace begins with an HTTP request or a protoo request; the calls to media workers
//! that either leads to are below it, those after its answer too. Spans have
//! [`TARGET`], are never seen by the log, and cost next to nothing where no collector
//! is set. Paths are told as routes, because what stands in their place may be secret.
//! Names and attributes of HTTP are those of OpenTelemetry's semantic conventions.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use opentelemetry::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::field::Empty;
use tracing::{Instrument, Metadata, Span, Subscriber, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Target of all spans.
pub(crate) const TARGET: &str = "control::traces";

/// Name of the service in traces, unless `OTEL_SERVICE_NAME` says another.
const SERVICE: &str = "webrtc-server";

/// Longest time for what is not exported yet, at the end.
const FLUSH: Duration = Duration::from_millis(300);

/// Where spans go: a queue of 2,048, in batches, from a thread of its own. What does
/// not fit is dropped, so a collector that is slow or gone holds nothing up.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Exports to a collector from now on, in a tokio runtime.
    ///
    /// # Errors
    /// [`ExporterBuildError`], when the endpoint cannot be one.
    pub fn start(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self(provider))
    }

    /// What hands spans over.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(is_span))
    }

    /// Exports what is left, for at most 300 ms.
    pub fn end(&self) {
        // What is lost is lost.
        let _ = self.0.shutdown_with_timeout(FLUSH);
    }
}

/// Whether something is one of these spans.
pub(crate) fn is_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

/// What something is done for, when it is done by another task, or after the answer.
///
/// It keeps the place in the trace and not the span: a span ends with the last who
/// holds it, so a request would seem to take as long as all that it leads to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cause(Context);

impl Cause {
    /// What is being done now.
    pub(crate) fn now() -> Self {
        Self::of(&Span::current())
    }

    /// That of a span.
    pub(crate) fn of(span: &Span) -> Self {
        Self(span.context())
    }

    /// A span below it; nothing where nothing is traced.
    pub(crate) fn lead_to(self, name: &'static str) -> Span {
        let span = info_span!(
            target: TARGET,
            parent: None,
            "work",
            otel.name = name,
            otel.kind = "internal",
        );
        // Fails where there is no collector: then there are no spans either.
        let _ = span.set_parent(self.0);
        span
    }
}

/// The methods of HTTP that are told by name (RFC 9110 and PATCH, RFC 5789): clients
/// make up others.
const METHODS: [Method; 9] = [
    Method::CONNECT,
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
    Method::TRACE,
];

/// The value of `http.request.method`, and what begins the name of the span.
fn method_names(method: &Method) -> (&str, &str) {
    match METHODS.contains(method) {
        true => (method.as_str(), method.as_str()),
        false => ("_OTHER", "HTTP"),
    }
}

/// Traces HTTP requests, upgrades to signaling among them.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let (method, begins) = method_names(request.method());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map(MatchedPath::as_str);
    let name = match route {
        Some(route) => format!("{begins} {route}"),
        None => begins.to_owned(),
    };
    let span = info_span!(
        target: TARGET,
        "http",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_clients_make_up_have_one_name() {
        for (method, names) in [
            ("GET", ("GET", "GET")),
            ("PATCH", ("PATCH", "PATCH")),
            // Methods are case-sensitive (RFC 9110 section 9.1).
            ("get", ("_OTHER", "HTTP")),
            ("HUNTER2", ("_OTHER", "HTTP")),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(method_names(&method), names);
        }
    }

    #[test]
    fn without_a_collector_there_is_nothing_to_follow() {
        assert!(Cause::now().lead_to("nothing").is_disabled());
    }
}
