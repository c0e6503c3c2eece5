//! Traces of what the server is asked for, on their way to a collector (OTLP over
//! gRPC), where one is set.
//!
//! A trace begins with an HTTP request or a protoo request; the calls to media workers
//! that a protoo request leads to are below it. Spans have [`TARGET`], are never seen by the log, and cost next to nothing
//! where no collector is set. Paths are told as routes, because what stands in their
//! place may be secret.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::field::Empty;
use tracing::{Instrument, Metadata, Subscriber, info_span};
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

/// Traces HTTP requests, upgrades to signaling among them.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let method = request.method();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unknown", MatchedPath::as_str);
    let span = info_span!(
        target: TARGET,
        "http",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}
