//! What happened, counted for `GET /metrics`. Whatever is a state and not a count
//! of events is looked up when it is asked for, see `http/metrics.rs`. All label
//! sets are bounded: no name that comes from outside is one.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use proto::{DtlsState, IceState};

/// Upper bounds of the buckets of what a client asks for, seconds.
const REQUEST_SECONDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

/// Upper bounds of the buckets of joins, seconds: from the socket on, so a
/// permission prompt is part of it.
const JOIN_SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];

/// A label and its value, or several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels<const N: usize>(pub [(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_slice().encode(encoder)
    }
}

type RequestTimes = Family<Labels<2>, Histogram, fn() -> Histogram>;

/// The counters of one server.
#[derive(Debug)]
pub struct Metrics {
    joins: Histogram,
    requests: RequestTimes,
    ice: Family<Labels<1>, Counter>,
    dtls: Family<Labels<1>, Counter>,
    transports_closed: Counter,
    layer_changes: Counter,
    pub(crate) rooms_lost: Counter,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("webrtc");
        let requests: RequestTimes =
            Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS));
        let metrics = Self {
            joins: Histogram::new(JOIN_SECONDS),
            requests,
            ice: Family::default(),
            dtls: Family::default(),
            transports_closed: Counter::default(),
            layer_changes: Counter::default(),
            rooms_lost: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "join_seconds",
            "Time from a peer's socket to its join",
            metrics.joins.clone(),
        );
        registry.register(
            "protoo_request_seconds",
            "Time to serve a request of a peer, by method and result",
            metrics.requests.clone(),
        );
        registry.register(
            "ice_states",
            "States that ICE of transports went into",
            metrics.ice.clone(),
        );
        registry.register(
            "dtls_states",
            "States that DTLS of transports went into",
            metrics.dtls.clone(),
        );
        registry.register(
            "transports_closed_by_worker",
            "Transports that a media worker closed: DTLS failed or ended, or the client misbehaved",
            metrics.transports_closed.clone(),
        );
        registry.register(
            "layer_changes",
            "Times that a consumer of a layered producer went to other layers, or to none",
            metrics.layer_changes.clone(),
        );
        registry.register(
            "rooms_lost",
            "Rooms whose media worker went away under them",
            metrics.rooms_lost.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A peer joined, so long after it connected.
    pub(crate) fn joined(&self, after: Duration) {
        self.joins.observe(after.as_secs_f64());
    }

    /// A request was served. `result`: `ok`, or the code of the error.
    pub(crate) fn requested(&self, method: &str, result: Result<(), u16>, took: Duration) {
        let result = match result {
            Ok(()) => "ok",
            Err(400) => "400",
            Err(403) => "403",
            Err(_) => "500",
        };
        let labels = Labels([("method", known(method)), ("result", result)]);
        let histogram = self.requests.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// A transport went into other states.
    pub(crate) fn transport_state(&self, ice: IceState, dtls: DtlsState) {
        let ice = match ice {
            IceState::New => "new",
            IceState::Connected => "connected",
            IceState::Completed => "completed",
            IceState::Disconnected => "disconnected",
        };
        let dtls = match dtls {
            DtlsState::New => "new",
            DtlsState::Connecting => "connecting",
            DtlsState::Connected => "connected",
            DtlsState::Failed => "failed",
            DtlsState::Closed => "closed",
        };
        self.ice.get_or_create(&Labels([("state", ice)])).inc();
        self.dtls.get_or_create(&Labels([("state", dtls)])).inc();
    }

    /// A worker closed a transport by itself.
    pub(crate) fn transport_closed(&self) {
        self.transports_closed.inc();
    }

    /// A consumer went to other layers.
    pub(crate) fn layers_changed(&self) {
        self.layer_changes.inc();
    }

    /// Everything that is counted here.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Methods that are told apart; the rest are `other`.
const METHODS: [&str; 25] = [
    "getRtcStatsUrl",
    "getRouterRtpCapabilities",
    "join",
    "changeDisplayName",
    "leaveRoom",
    "createWebRtcTransport",
    "connectWebRtcTransport",
    "restartIce",
    "produce",
    "closeProducer",
    "pauseProducer",
    "resumeProducer",
    "pauseConsumer",
    "resumeConsumer",
    "requestConsumerKeyFrame",
    "setConsumerPreferredLayers",
    "setConsumerPriority",
    "produceData",
    "getTransportStats",
    "getProducerStats",
    "getConsumerStats",
    "getDataProducerStats",
    "getDataConsumerStats",
    "applyNetworkThrottle",
    "resetNetworkThrottle",
];

/// The name of a method, as far as there is one: clients make up others.
pub(crate) fn known(method: &str) -> &'static str {
    let found = METHODS.iter().find(|known| **known == method);
    found.copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn names_from_outside_are_no_labels() {
        let metrics = Metrics::default();
        metrics.requested("join", Ok(()), Duration::from_millis(2));
        for n in 0..100 {
            metrics.requested(&format!("evil{n}"), Err(500), Duration::from_secs(9));
        }
        metrics.requested("produce", Err(777), Duration::ZERO);
        metrics.transport_state(IceState::Completed, DtlsState::Failed);
        let mut text = String::new();
        encode(&mut text, metrics.registry()).unwrap();
        for line in [
            "webrtc_protoo_request_seconds_count{method=\"join\",result=\"ok\"} 1",
            "webrtc_protoo_request_seconds_bucket{le=\"0.0025\",method=\"join\",result=\"ok\"} 1",
            "webrtc_protoo_request_seconds_count{method=\"other\",result=\"500\"} 100",
            "webrtc_protoo_request_seconds_count{method=\"produce\",result=\"500\"} 1",
            "webrtc_dtls_states_total{state=\"failed\"} 1",
            "webrtc_ice_states_total{state=\"completed\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
        assert!(!text.contains("evil"));
    }
}
