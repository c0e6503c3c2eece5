//! Statistics for the control plane, taken when it asks.

use std::collections::HashMap;
use std::time::Instant;

use router::ProducerKey;
use str0m::media::MediaKind;

use super::{CommandError, Engine, RouterEntry};
use crate::transport::data::SctpState;
use crate::transport::ice::IceState;
use crate::transport::kind::Transport;
use crate::transport::stats::{Meter, StreamStats};
use crate::transport::webrtc::{DtlsState, WebRtcTransport};

use super::commands::not_found;

impl Engine {
    /// Statistics of a transport. Octets of RTP are those on the wire.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn transport_stats(
        &self,
        now: Instant,
        id: &str,
    ) -> Result<proto::TransportStats, CommandError> {
        let key = self.transport(id)?;
        let Some(entry) = self.transports.get(key) else {
            return Err(not_found("transport", id));
        };
        let transport = &entry.inner;
        let traffic = transport.traffic();
        let flow = |meter: &Meter| {
            Some(proto::Traffic {
                bytes: meter.bytes(),
                bitrate: meter.bitrate(now),
            })
        };
        let connection = match &entry.inner {
            Transport::WebRtc(transport) => self.web_rtc_stats(transport),
            Transport::Plain(transport) => proto::TransportStats {
                plain: Some(self.plain_stats(transport)),
                ..Default::default()
            },
        };
        Ok(proto::TransportStats {
            received: flow(&traffic.received),
            sent: Some(proto::Traffic {
                bytes: traffic.sent(Meter::bytes),
                bitrate: traffic.sent(|meter| meter.bitrate(now)),
            }),
            rtp_received: flow(&traffic.rtp_received),
            rtp_sent: flow(&traffic.rtp_sent),
            rtx_received: flow(&traffic.rtx_received),
            rtx_sent: flow(&traffic.rtx_sent),
            probation_sent: flow(&traffic.probation_sent),
            available_outgoing_bitrate: entry.available_bitrate(now),
            max_incoming_bitrate: transport.receiving().max_bitrate(),
            rtp_packet_loss_received: share(transport.receiving().loss()),
            rtp_packet_loss_sent: share(transport.sending().loss()),
            ..connection
        })
    }

    fn web_rtc_stats(&self, transport: &WebRtcTransport) -> proto::TransportStats {
        proto::TransportStats {
            ice_state: ice_state(transport.ice().state()).into(),
            dtls_state: dtls_state(transport.dtls_state()).into(),
            sctp_state: sctp_state(transport.sctp_state()).into(),
            selected_tuple: transport.ice().selected().map(|tuple| proto::Tuple {
                local_address: tuple.local.to_string(),
                local_port: self.config.udp_port.into(),
                remote_address: tuple.remote.ip().to_string(),
                remote_port: tuple.remote.port().into(),
                protocol: if tuple.connection().is_some() {
                    "tcp"
                } else {
                    "udp"
                }
                .to_owned(),
            }),
            ..Default::default()
        }
    }

    /// Statistics of a producer's encodings that have been seen.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn producer_stats(
        &self,
        now: Instant,
        id: &str,
    ) -> Result<proto::ProducerStats, CommandError> {
        let (router, producer) = self.producer(id)?;
        let entry = self.routers.get(router);
        let Some(producer_entry) = entry.and_then(|e| e.producers.get(producer)) else {
            return Err(not_found("producer", id));
        };
        let transport = self.transports.get(producer_entry.transport);
        let stats = transport.map(|t| t.inner.receiving().stats(now, producer));
        let streams = stats.unwrap_or_default();
        Ok(proto::ProducerStats {
            streams: streams
                .into_iter()
                .map(|(index, s)| {
                    let layers = entry.map(|e| e.layer_bitrates(now, producer, index));
                    let layers = layers.unwrap_or_default();
                    inbound(s, producer_entry.kind, &producer_entry.mime_type, layers)
                })
                .collect(),
        })
    }

    /// Statistics of a consumer, and of the producer's stream that it gets now;
    /// of a producer with one encoding also while it gets nothing.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn consumer_stats(
        &self,
        now: Instant,
        id: &str,
    ) -> Result<proto::ConsumerStats, CommandError> {
        let (router, key) = self.consumer(id)?;
        let found = self.routers.get(router).and_then(|room| {
            let consumer = room.consumers.get(key)?;
            Some((room, consumer, room.producers.get(consumer.producer)?))
        });
        let Some((room, consumer, producer)) = found else {
            return Err(not_found("consumer", id));
        };
        let sent = self
            .transports
            .get(consumer.transport)
            .and_then(|t| t.inner.sending().stats(now, consumer.slot));
        let forwarded = room.graph.consumer_stream(key);
        let forwarded = forwarded.or((producer.encodings == 1).then_some(0));
        let received = self.transports.get(producer.transport).and_then(|t| {
            let all = t.inner.receiving().stats(now, consumer.producer);
            all.into_iter()
                .find(|(stream, _)| Some(*stream) == forwarded)
        });
        Ok(proto::ConsumerStats {
            outbound: sent.map(|s| stream(s, producer.kind, &producer.mime_type)),
            inbound: received.map(|(index, s)| {
                let layers = room.layer_bitrates(now, consumer.producer, index);
                inbound(s, producer.kind, &producer.mime_type, layers)
            }),
        })
    }
}

/// ICE state as the control plane names it.
pub(super) fn ice_state(state: IceState) -> proto::IceState {
    match state {
        IceState::New => proto::IceState::New,
        IceState::Connected => proto::IceState::Connected,
        IceState::Completed => proto::IceState::Completed,
        IceState::Disconnected => proto::IceState::Disconnected,
    }
}

/// DTLS state as the control plane names it.
pub(super) fn dtls_state(state: DtlsState) -> proto::DtlsState {
    match state {
        DtlsState::New => proto::DtlsState::New,
        DtlsState::Connecting => proto::DtlsState::Connecting,
        DtlsState::Connected => proto::DtlsState::Connected,
        DtlsState::Failed => proto::DtlsState::Failed,
        DtlsState::Closed => proto::DtlsState::Closed,
    }
}

fn sctp_state(state: SctpState) -> proto::SctpState {
    match state {
        SctpState::None => proto::SctpState::None,
        SctpState::New => proto::SctpState::New,
        SctpState::Connecting => proto::SctpState::Connecting,
        SctpState::Connected => proto::SctpState::Connected,
        SctpState::Closed => proto::SctpState::Closed,
    }
}

/// Share of the expected packets that was lost; `None` before any was expected.
fn share((expected, lost): (u64, u64)) -> Option<f64> {
    let parts = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    (expected > 0).then(|| parts(lost) / parts(expected))
}

fn inbound(
    stats: StreamStats,
    kind: MediaKind,
    mime_type: &str,
    layers: HashMap<String, u64>,
) -> proto::RtpStreamStats {
    let mut stream = stream(stats, kind, mime_type);
    if kind == MediaKind::Video {
        stream.bitrate_by_layer = layers;
    }
    stream
}

impl RouterEntry {
    /// Bitrates of the layers within an encoding, by name: "spatial.temporal".
    fn layer_bitrates(
        &self,
        now: Instant,
        producer: ProducerKey,
        encoding: usize,
    ) -> HashMap<String, u64> {
        let encodings = self.producers.get(producer).map_or(1, |p| p.encodings);
        let all = self.graph.layer_bitrates(now, producer);
        let within = all.filter_map(|(layers, bitrate)| {
            // Of simulcast, the spatial layer is the encoding.
            let spatial = match encodings {
                1 => layers.spatial,
                _ if usize::from(layers.spatial) == encoding => 0,
                _ => return None,
            };
            Some((format!("{spatial}.{}", layers.temporal), bitrate))
        });
        within.collect()
    }
}

fn stream(stats: StreamStats, kind: MediaKind, mime_type: &str) -> proto::RtpStreamStats {
    proto::RtpStreamStats {
        ssrc: stats.ssrc,
        rtx_ssrc: stats.rtx_ssrc,
        rid: stats.rid,
        kind: match kind {
            MediaKind::Audio => proto::MediaKind::Audio,
            MediaKind::Video => proto::MediaKind::Video,
        }
        .into(),
        mime_type: mime_type.to_owned(),
        packets_lost: stats.packets_lost,
        fraction_lost: stats.fraction_lost.into(),
        packets_discarded: stats.packets_discarded,
        packets_retransmitted: stats.packets_retransmitted,
        packets_repaired: stats.packets_repaired,
        nack_count: stats.feedback.nacks,
        nack_packet_count: stats.feedback.nack_packets,
        pli_count: stats.feedback.plis,
        fir_count: stats.feedback.firs,
        score: stats.score.into(),
        round_trip_time: stats
            .feedback
            .round_trip_time
            .map(|time| time.as_secs_f64() * 1000.0),
        rtx_packets_discarded: None,
        jitter: stats.jitter,
        packet_count: stats.packets,
        byte_count: stats.bytes,
        bitrate: stats.bitrate,
        bitrate_by_layer: Default::default(),
    }
}
