//! GET `/metrics`: what was counted, and how things are now, in the format of
//! Prometheus (OpenMetrics 1.0 text).

use std::fmt;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use proto::{
    DirectionFeedback, DroppedDatagrams, DumpResponse, HISTOGRAM_BOUNDS_MICROS, Histogram,
    TcpConnections,
};

use super::AppState;
use super::admin_access::AdminAccess;
use super::schemas::ForAdmins;
use super::workers::dumps;
use crate::error::Error;
use crate::logging::{self, Missing};
use crate::rooms::Depths;
use crate::webhooks::Counts;
use crate::workers::{WorkerState, WorkerStatus};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every number of the server and its workers, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "admin",
    security((), ("adminToken" = [])),
    responses(
        (
            status = 200,
            description = "OpenMetrics",
            body = String,
            content_type = "application/openmetrics-text"
        ),
        ForAdmins,
    )
)]
pub(super) async fn get(_: AdminAccess, State(state): State<AppState>) -> Result<Response, Error> {
    let dumps = dumps(&*state.workers).await;
    let status = state.workers.status().into_iter();
    let workers = status.map(|status| {
        let dump = dumps.iter().find(|(index, _)| *index == status.index);
        let dump = dump.and_then(|(_, dump)| dump.clone());
        // One that does not answer now has told something before.
        let dump = dump.or_else(|| status.load.as_ref().map(|load| load.dump.clone()));
        Seen { status, dump }
    });
    let snapshot = Snapshot {
        workers: workers.collect(),
        rooms: count(state.rooms.open_rooms()),
        quarantined: count(state.rooms.quarantined()),
        peers: count(state.rooms.joined_peers()),
        depths: state.rooms.deepest_queues(),
        webhooks: state.rooms.webhooks().counts(),
        missing: logging::missing(),
    };
    let mut now = Registry::with_prefix("webrtc");
    now.register_collector(Box::new(snapshot));
    let mut text = String::new();
    let written = encode_registry(&mut text, state.rooms.metrics().registry())
        .and_then(|()| encode_registry(&mut text, &now))
        .and_then(|()| encode_eof(&mut text));
    // Writing into a String cannot fail; what is written is checked by a test.
    written.map_err(|_| Error::NotPossible("metrics cannot be written".to_owned()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// How things are.
#[derive(Debug)]
struct Snapshot {
    workers: Vec<Seen>,
    rooms: u64,
    quarantined: u64,
    peers: u64,
    depths: Depths,
    webhooks: Counts,
    missing: Missing,
}

/// A worker slot, and what its worker tells.
#[derive(Debug)]
struct Seen {
    status: WorkerStatus,
    dump: Option<DumpResponse>,
}

/// The labels of something about a worker.
struct OfWorker<'a> {
    worker: usize,
    other: Option<(&'a str, &'a str)>,
}

impl EncodeLabelSet for OfWorker<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        [("worker", self.worker.to_string())].encode(encoder)?;
        match self.other {
            Some(other) => [other].encode(encoder),
            None => Ok(()),
        }
    }
}

/// Numbers of a worker as they are now, by name and meaning.
type Gauges = [(&'static str, &'static str, fn(&DumpResponse) -> f64); 11];
const GAUGES: Gauges = [
    ("routers", "Rooms on the worker", |it| float(it.routers)),
    ("transports", "Transports", |it| float(it.transports)),
    ("producers", "Streams that are sent to it", |it| {
        float(it.producers)
    }),
    ("consumers", "Streams that it sends", |it| {
        float(it.consumers)
    }),
    ("data_producers", "Data channels to it", |it| {
        float(it.data_producers)
    }),
    ("data_consumers", "Data channels from it", |it| {
        float(it.data_consumers)
    }),
    ("memory_bytes", "Resident memory", |it| float(it.rss_bytes)),
    (
        "ports_in_use",
        "UDP ports of its slice that are taken",
        |it| it.ports_in_use.into(),
    ),
    (
        "tcp_connections",
        "Connections for ICE over TCP that belong to a transport",
        |it| it.tcp.map_or(0.0, |tcp| tcp.open.into()),
    ),
    (
        "tcp_connections_waiting",
        "Connections for ICE over TCP that have not shown yet that they belong to one",
        |it| it.tcp.map_or(0.0, |tcp| tcp.waiting.into()),
    ),
    (
        "events_waiting",
        "Events that the control plane has not read yet",
        |it| it.events_waiting.into(),
    ),
];

/// What a worker has counted since its start, by name and meaning.
type Counters = [(&'static str, &'static str, fn(&DumpResponse) -> u64); 12];
const COUNTERS: Counters = [
    ("rtp_packets_received", "RTP packets of producers", |it| {
        it.rtp_packets_received
    }),
    ("rtp_packets_forwarded", "RTP packets for consumers", |it| {
        it.rtp_packets_forwarded
    }),
    (
        "datagrams_received",
        "Datagrams on the media sockets",
        |it| it.datagrams_received,
    ),
    ("datagrams_sent", "Datagrams on the media sockets", |it| {
        it.datagrams_sent
    }),
    ("bytes_received", "Octets of those datagrams", |it| {
        it.bytes_received
    }),
    ("bytes_sent", "Octets of those datagrams", |it| {
        it.bytes_sent
    }),
    ("send_errors", "Datagrams that the kernel refused", |it| {
        it.send_errors
    }),
    (
        "plain_unreachable",
        "Times that nobody was where a plain transport sends media (ICMP)",
        |it| it.plain_unreachable,
    ),
    (
        "data_messages_dropped",
        "Messages that a receiver could not be given",
        |it| it.data_messages_dropped,
    ),
    (
        "panics",
        "Panics that were contained in a transport",
        |it| it.panics,
    ),
    ("calls", "Commands of the control plane", |it| it.calls),
    (
        "log_lines_left_out",
        "Lines that the worker's log does not have, for there were too many of their kind",
        |it| it.log_lines_left_out,
    ),
];

/// A reason, and how often it was one.
type Reason<T> = (&'static str, fn(&T) -> u64);

/// Why datagrams are dropped.
const REASONS: [Reason<DroppedDatagrams>; 9] = [
    ("unparsable", |it| it.unparsable),
    ("unknown", |it| it.unknown),
    ("refused_check", |it| it.refused_checks),
    ("refused", |it| it.refused),
    ("too_long", |it| it.too_long),
    ("wrong_stream", |it| it.wrong_stream),
    ("false_report", |it| it.false_reports),
    ("slow_reader_video", |it| it.slow_video),
    ("slow_reader", |it| it.slow_full),
];

/// Why connections are refused or closed.
const CLOSINGS: [Reason<TcpConnections>; 5] = [
    ("full", |it| it.refused_full),
    ("source", |it| it.refused_source),
    ("silent", |it| it.closed_silent),
    ("malformed", |it| it.closed_malformed),
    ("stalled", |it| it.closed_stalled),
];

/// Durations that a worker has measured, by name and meaning.
type Times = [(
    &'static str,
    &'static str,
    fn(&DumpResponse) -> Option<&Histogram>,
); 2];
const TIMES: Times = [
    (
        "tick_seconds",
        "How long ticks of the media thread took",
        |it| it.ticks.as_ref(),
    ),
    (
        "forwarding_seconds",
        "How long RTP packets were in the worker at most, with what they waited for the clock",
        |it| it.forwarding.as_ref(),
    ),
];

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let one = &mut encoder;
        gauge(one, "rooms", "Rooms that are open", self.rooms)?;
        gauge(one, "peers", "Peers that have joined", self.peers)?;
        let help = "Rooms that are kept out because workers crashed with them";
        gauge(one, "rooms_quarantined", help, self.quarantined)?;
        let help = "Commands that wait for the room that is furthest behind";
        gauge(
            one,
            "room_commands_waiting",
            help,
            count(self.depths.commands),
        )?;
        let help = "Events that wait for the room that is furthest behind";
        gauge(one, "room_events_waiting", help, count(self.depths.events))?;
        self.webhooks(one)?;
        self.log(one)?;
        self.states(one)?;
        for (name, help, of) in GAUGES {
            let name = format!("worker_{name}");
            let mut metric = one.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (labels, dump) in self.dumps() {
                metric.encode_family(&labels)?.encode_gauge(&of(dump))?;
            }
        }
        for (name, help, of) in COUNTERS {
            let name = format!("worker_{name}");
            let mut metric = one.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (labels, dump) in self.dumps() {
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&of(dump), None)?;
            }
        }
        let help = "CPU time of the worker since its start";
        let mut metric =
            one.encode_descriptor("worker_cpu_seconds", help, None, MetricType::Counter)?;
        for (labels, dump) in self.dumps() {
            let seconds = float(dump.cpu_user_us + dump.cpu_system_us) / 1e6;
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }
        self.dropped(one)?;
        self.closed(one)?;
        self.feedback(one)?;
        for (name, help, of) in TIMES {
            let name = format!("worker_{name}");
            let mut metric = one.encode_descriptor(&name, help, None, MetricType::Histogram)?;
            for (labels, dump) in self.dumps() {
                let Some(histogram) = of(dump) else { continue };
                let buckets = buckets(histogram);
                let count = histogram.counts.iter().sum();
                let sum = float(histogram.sum_us) / 1e6;
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

impl Snapshot {
    fn dumps(&self) -> impl Iterator<Item = (OfWorker<'static>, &DumpResponse)> {
        self.workers.iter().filter_map(|seen| {
            let labels = OfWorker {
                worker: seen.status.index,
                other: None,
            };
            Some((labels, seen.dump.as_ref()?))
        })
    }

    fn webhooks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = &self.webhooks;
        let help = "Events for webhooks, by what became of them";
        let mut metric = encoder.encode_descriptor("webhooks", help, None, MetricType::Counter)?;
        for (result, count) in [
            ("delivered", counts.delivered),
            ("failed_try", counts.failed_tries),
            ("undelivered", counts.undelivered),
            ("dropped", counts.dropped),
        ] {
            let labels = [("result", result)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "Events for webhooks that wait or are under way";
        gauge(encoder, "webhooks_queued", help, count(counts.queued))
    }

    /// What the log does not have.
    fn log(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Lines that the log does not have, too many of a kind or too late to be read";
        let mut metric =
            encoder.encode_descriptor("log_lines_lost", help, None, MetricType::Counter)?;
        let Missing { limit, reader } = self.missing;
        for (reason, count) in [("limit", limit), ("reader", reader)] {
            let labels = [("reason", reason)];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// What the supervisor knows of each slot.
    fn states(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let of = |seen: &Seen, other| OfWorker {
            worker: seen.status.index,
            other,
        };
        let help = "1 for the state that the worker is in";
        let mut metric =
            encoder.encode_descriptor("worker_state", help, None, MetricType::Gauge)?;
        for seen in &self.workers {
            for state in WorkerState::ALL {
                let labels = of(seen, Some(("state", state.name())));
                let is_it = i64::from(seen.status.state == state);
                metric.encode_family(&labels)?.encode_gauge(&is_it)?;
            }
        }
        let help = "CPU use of the worker, smoothed, in cores";
        let mut metric =
            encoder.encode_descriptor("worker_cpu_cores", help, None, MetricType::Gauge)?;
        for seen in &self.workers {
            let cpu = seen.status.load.as_ref().map_or(0.0, |load| load.cpu);
            metric.encode_family(&of(seen, None))?.encode_gauge(&cpu)?;
        }
        let help = "Time that the worker has been ready";
        let mut metric =
            encoder.encode_descriptor("worker_uptime_seconds", help, None, MetricType::Gauge)?;
        for seen in &self.workers {
            let uptime = seen.status.ready_for.unwrap_or_default().as_secs_f64();
            metric
                .encode_family(&of(seen, None))?
                .encode_gauge(&uptime)?;
        }
        let help = "Times that the process of the worker was replaced";
        let mut metric =
            encoder.encode_descriptor("worker_restarts", help, None, MetricType::Counter)?;
        for seen in &self.workers {
            let labels = of(seen, None);
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&seen.status.restarts, None)?;
        }
        Ok(())
    }

    fn dropped(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Datagrams that led to nothing, by reason";
        let of = |dump: &DumpResponse| dump.dropped.unwrap_or_default();
        self.by_reason(encoder, ("worker_datagrams_dropped", help), of, &REASONS)
    }

    fn closed(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Connections for ICE over TCP that were refused or closed, by reason";
        let of = |dump: &DumpResponse| dump.tcp.unwrap_or_default();
        self.by_reason(
            encoder,
            ("worker_tcp_connections_closed", help),
            of,
            &CLOSINGS,
        )
    }

    /// A counter of each worker and reason.
    fn by_reason<T>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        counted: impl Fn(&DumpResponse) -> T,
        reasons: &[Reason<T>],
    ) -> Result<(), fmt::Error> {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, dump) in self.dumps() {
            let counted = counted(dump);
            for (reason, of) in reasons {
                let other = Some(("reason", *reason));
                let labels = OfWorker { other, ..labels };
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&of(&counted), None)?;
            }
        }
        Ok(())
    }
}

/// What streams of a direction have counted, by name and meaning.
type Feedbacks = [(&'static str, &'static str, fn(&DirectionFeedback) -> u64); 5];
const FEEDBACKS: Feedbacks = [
    (
        "packets_lost",
        "Packets that did not arrive by themselves",
        |it| it.packets_lost,
    ),
    (
        "packets_retransmitted",
        "Packets that were sent again",
        |it| it.packets_retransmitted,
    ),
    (
        "nacks",
        "NACKs: of the worker where it receives, of clients where it sends",
        |it| it.nacks,
    ),
    ("plis", "Picture Loss Indications, as nacks", |it| it.plis),
    ("firs", "Full Intra Requests, as nacks", |it| it.firs),
];

/// How streams of a direction are now; nothing where nothing is known.
type Nows = [(
    &'static str,
    &'static str,
    fn(&DirectionFeedback) -> Option<f64>,
); 2];
const NOWS: Nows = [
    (
        "loss_ratio",
        "Share of packets lost between the last reports of all streams",
        |it| {
            let share = float(it.lost_lately) / float(it.expected_lately);
            (it.expected_lately > 0).then_some(share)
        },
    ),
    (
        "round_trip_seconds",
        "Mean round trip time of streams that know it",
        |it| it.round_trip_time.map(|it| it / 1e3),
    ),
];

impl Snapshot {
    fn directions(&self) -> impl Iterator<Item = (OfWorker<'static>, DirectionFeedback)> {
        self.dumps().flat_map(|(labels, dump)| {
            let feedback = dump.feedback.unwrap_or_default();
            let both = [("received", feedback.received), ("sent", feedback.sent)];
            both.into_iter().filter_map(move |(name, of)| {
                let other = Some(("direction", name));
                Some((OfWorker { other, ..labels }, of?))
            })
        })
    }

    /// How media arrives.
    fn feedback(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, of) in FEEDBACKS {
            let name = format!("worker_rtp_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (labels, feedback) in self.directions() {
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&of(&feedback), None)?;
            }
        }
        for (name, help, of) in NOWS {
            let name = format!("worker_rtp_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (labels, feedback) in self.directions() {
                if let Some(value) = of(&feedback) {
                    metric.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    metric.encode_gauge(&value)
}

/// Upper bounds in seconds and counts, not yet summed up.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounds = HISTOGRAM_BOUNDS_MICROS.iter().map(|it| float(*it) / 1e6);
    let bounds = bounds.chain(std::iter::once(f64::INFINITY));
    bounds.zip(histogram.counts.iter().copied()).collect()
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Exact up to 2^53, far above what is counted here.
fn float(n: u64) -> f64 {
    n as f64
}
