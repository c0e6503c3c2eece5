//! What the control plane can ask for.

use std::ops::RangeInclusive;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use proto::event::Event;
use router::{ConsumerConfig, ProducerConfig, Router, Sink};
use slotmap::SecondaryMap;
use str0m::media::MediaKind;

use super::bursts::Bursts;
use super::packets::sink_of;
use super::{
    CommandError, ConsumerEntry, Engine, MAX_ROUTERS, ProducerEntry, RouterEntry, RouterKey,
    TransportKey, convert, data, stats,
};
use crate::transport::TransportError;
use crate::transport::bandwidth::BitrateLimits;
use crate::transport::crypto::Fingerprint;
use crate::transport::data::DataChannels;
use crate::transport::ice;
use crate::transport::kind::Transport;
use crate::transport::media::PayloadType;
use crate::transport::webrtc::{RouterMedia, WebRtcTransport};

/// Consent timeouts that can be asked for, seconds. Clients check every 5 seconds
/// or so (RFC 7675 §5.1).
const CONSENT_TIMEOUTS: RangeInclusive<u32> = 5..=300;

pub(super) type Result<T> = std::result::Result<T, CommandError>;

impl Engine {
    /// Creates a router.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn create_router(&mut self, request: &proto::CreateRouterRequest) -> Result<()> {
        if self.router_ids.contains_key(&request.router_id) {
            return Err(exists("router", &request.router_id));
        }
        if self.routers.len() >= MAX_ROUTERS {
            return Err(limit("routers", MAX_ROUTERS));
        }
        let codecs = request
            .codecs
            .iter()
            .map(convert::router_codec)
            .collect::<std::result::Result<Vec<PayloadType>, TransportError>>()?;
        let extensions = request.header_extensions.iter();
        let extensions = extensions.map(|e| (e.id, e.uri.clone())).collect();
        let media = self.router_media(codecs, extensions);
        let key = self.routers.insert(RouterEntry {
            id: request.router_id.clone(),
            graph: Router::new(),
            media,
            producers: SecondaryMap::new(),
            consumers: SecondaryMap::new(),
            timer: None,
            review: None,
            share: None,
            share_soon: None,
            shared: None,
        });
        self.router_ids.insert(request.router_id.clone(), key);
        Ok(())
    }

    /// What consumers of a router receive. Most routers are alike and share it.
    fn router_media(
        &mut self,
        codecs: Vec<PayloadType>,
        extensions: Vec<(u32, String)>,
    ) -> Rc<RouterMedia> {
        self.media.retain(|media| media.strong_count() > 0);
        let mut alive = self.media.iter().filter_map(Weak::upgrade);
        if let Some(same) = alive.find(|m| m.codecs == codecs && m.extensions == extensions) {
            return same;
        }
        let media = Rc::new(RouterMedia::new(codecs, extensions));
        self.media.push(Rc::downgrade(&media));
        media
    }

    /// Creates a WebRtcTransport.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn create_web_rtc_transport(
        &mut self,
        request: &proto::CreateWebRtcTransportRequest,
    ) -> Result<proto::CreateWebRtcTransportResponse> {
        let (router, media) = self.place_for(&request.router_id, &request.transport_id)?;
        let channels = DataChannels::new(data::sctp_limits(request.sctp.as_ref())?);
        let limits = BitrateLimits::new(
            request.initial_outgoing_bitrate,
            request.min_outgoing_bitrate,
            request.max_outgoing_bitrate,
        )?;
        let consent_timeout = consent_timeout(request.ice_consent_timeout)?;
        if request.force_tcp {
            self.check_tcp()?;
        }
        let mut inner = WebRtcTransport::new(self.cert.clone(), media, channels, limits);
        inner.set_consent_timeout(consent_timeout);
        if request.force_tcp {
            inner.set_tcp_only();
        }
        inner.set_max_incoming_bitrate(request.max_incoming_bitrate);
        let credentials = inner.ice().credentials().clone();
        let inner = Transport::WebRtc(Box::new(inner));
        let key = self.insert_transport(&request.transport_id, router, inner);
        self.by_ufrag.insert(credentials.ufrag.clone(), key);
        Ok(proto::CreateWebRtcTransportResponse {
            ice_parameters: Some(proto::IceParameters {
                username_fragment: credentials.ufrag,
                password: credentials.password,
            }),
            ice_candidates: self.candidates(request.force_tcp),
            dtls_fingerprints: self
                .fingerprints
                .iter()
                .map(|f| proto::DtlsFingerprint {
                    algorithm: f.algorithm().to_owned(),
                    value: f.value(),
                })
                .collect(),
        })
    }

    /// Gives a transport the remote's DTLS parameters.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id; a second call is refused.
    pub fn connect_web_rtc_transport(
        &mut self,
        now: Instant,
        request: &proto::ConnectWebRtcTransportRequest,
    ) -> Result<()> {
        let key = self.transport(&request.transport_id)?;
        let fingerprint = request
            .fingerprint
            .as_ref()
            .ok_or_else(|| TransportError::Invalid("fingerprint: missing".into()))?;
        let fingerprint = Fingerprint::parse(&fingerprint.algorithm, &fingerprint.value)
            .map_err(TransportError::Invalid)?;
        // We take the role that the remote leaves us; with "auto" the client's.
        let active = !matches!(request.role(), proto::DtlsRole::Client);
        let mut result = Ok(());
        self.enter(now, key, |transport, out| {
            result = match transport.web_rtc_mut() {
                Some(transport) => transport.connect(now, fingerprint, active, out),
                None => Err(wrong_kind("WebRtcTransport")),
            };
        });
        Ok(result?)
    }

    /// Mints new ICE credentials.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn restart_ice(&mut self, transport_id: &str) -> Result<proto::IceParameters> {
        let key = self.transport(transport_id)?;
        let Some(entry) = self.transports.get_mut(key) else {
            return Err(not_found("transport", transport_id));
        };
        let Some(inner) = entry.inner.web_rtc_mut() else {
            return Err(wrong_kind("WebRtcTransport").into());
        };
        let void = inner.restart_ice();
        let credentials = inner.ice().credentials().clone();
        entry.restarted = true;
        if let Some(ufrag) = void {
            self.by_ufrag.remove(&ufrag);
        }
        self.by_ufrag.insert(credentials.ufrag.clone(), key);
        Ok(proto::IceParameters {
            username_fragment: credentials.ufrag,
            password: credentials.password,
        })
    }

    /// Creates a producer.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn produce(&mut self, now: Instant, request: &proto::ProduceRequest) -> Result<()> {
        let key = self.transport(&request.transport_id)?;
        if self.producer_ids.contains_key(&request.producer_id) {
            return Err(exists("producer", &request.producer_id));
        }
        let spec = convert::producer(request)?;
        let Some(entry) = self.transports.get_mut(key) else {
            return Err(not_found("transport", &request.transport_id));
        };
        entry.inner.check_producer(&spec)?;
        let router = entry.router;
        let Some(room) = self.routers.get_mut(router) else {
            return Err(not_found("transport", &request.transport_id));
        };
        let kind = spec.kind;
        let clock_rate = spec.codecs.first().map_or(0, |c| c.payload_type.clock_rate);
        let producer = room
            .graph
            .create_producer(
                now,
                ProducerConfig {
                    kind: graph_kind(kind),
                    clock_rate,
                    streams: spec.encodings.len(),
                    paused: request.paused,
                    layers: spec.layers,
                },
            )
            .map_err(|e| TransportError::Invalid(e.to_string()))?;
        room.producers.insert(
            producer,
            ProducerEntry {
                id: request.producer_id.clone(),
                transport: key,
                kind,
                mime_type: request
                    .codecs
                    .first()
                    .map_or_else(String::new, |c| c.mime_type.clone()),
                encodings: spec.encodings.len(),
                told: Vec::new(),
                told_orientation: None,
                bursts: Bursts::default(),
            },
        );
        self.producer_ids
            .insert(request.producer_id.clone(), (router, producer));
        self.enter(now, key, |transport, out| {
            transport.produce(now, producer, spec, out);
            transport.set_producer_paused(now, producer, request.paused);
        });
        self.start_reviews(now, router);
        Ok(())
    }

    /// Closes a producer with its consumers.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn close_producer(&mut self, id: &str) -> Result<()> {
        let (router, producer) = self.producer(id)?;
        self.remove_producer(router, producer);
        Ok(())
    }

    /// Pauses or resumes a producer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn set_producer_paused(&mut self, now: Instant, id: &str, paused: bool) -> Result<()> {
        let (router, producer) = self.producer(id)?;
        if let Some(entry) = self.routers.get_mut(router) {
            let result = if paused {
                entry.graph.pause_producer(now, producer)
            } else {
                entry.graph.resume_producer(now, producer)
            };
            result.map_err(|_| not_found("producer", id))?;
            let found = entry.producers.get_mut(producer);
            let transport = found.map(|producer| {
                producer.bursts.clear();
                producer.transport
            });
            if let Some(key) = transport {
                self.call(key, |t| t.set_producer_paused(now, producer, paused));
            }
        }
        self.act(router);
        Ok(())
    }

    /// Creates consumers; each has its own result.
    pub fn consume(
        &mut self,
        now: Instant,
        request: &proto::ConsumeRequest,
    ) -> proto::ConsumeResponse {
        let results = request
            .consumers
            .iter()
            .map(|spec| match self.consume_one(now, spec) {
                Ok(result) => result,
                Err(error) => proto::ConsumeResult {
                    consumer_id: spec.consumer_id.clone(),
                    error: error.to_string(),
                    ..Default::default()
                },
            })
            .collect();
        proto::ConsumeResponse { results }
    }

    fn consume_one(
        &mut self,
        now: Instant,
        spec: &proto::ConsumerSpec,
    ) -> Result<proto::ConsumeResult> {
        let key = self.transport(&spec.transport_id)?;
        let (router, producer) = self.producer(&spec.producer_id)?;
        if self.consumer_ids.contains_key(&spec.consumer_id) {
            return Err(exists("consumer", &spec.consumer_id));
        }
        let Some(transport) = self.transports.get_mut(key).filter(|t| t.router == router) else {
            return Err(TransportError::Invalid(
                "transport_id: on another router than the producer".into(),
            )
            .into());
        };
        let Some(room) = self.routers.get_mut(router) else {
            return Err(not_found("producer", &spec.producer_id));
        };
        let Some(kind) = room.producers.get(producer).map(|p| p.kind) else {
            return Err(not_found("producer", &spec.producer_id));
        };
        let wanted = convert::consumer(spec, kind)?;
        if !room.media.codecs.iter().any(|c| c.pt == wanted.pt) {
            return Err(TransportError::Invalid(format!(
                "payload_type: {} is not a codec of the router",
                wanted.pt
            ))
            .into());
        }
        let slot = transport.inner.check_consumer(&wanted)?;
        let connected = transport.inner.is_connected();
        let consumer = room
            .graph
            .create_consumer(
                now,
                ConsumerConfig {
                    producer,
                    sink: Sink {
                        transport: sink_of(key),
                        slot,
                    },
                    // It starts when all tables know it.
                    paused: true,
                    // RFC 3550 §5.1 wants a random start; the upper half is left
                    // free, so that early reordering cannot reach below zero.
                    initial_sequence: rand::random_range(1..32_768),
                    initial_timestamp: rand::random(),
                },
            )
            .map_err(|e| TransportError::Invalid(e.to_string()))?;
        room.consumers.insert(
            consumer,
            ConsumerEntry {
                id: spec.consumer_id.clone(),
                transport: key,
                slot,
                producer,
                wanted: !spec.paused,
                told: None,
                told_layers: None,
                layer_was_told: false,
            },
        );
        self.consumer_ids
            .insert(spec.consumer_id.clone(), (router, consumer));
        self.enter(now, key, |transport, _| {
            transport.consume(consumer, &wanted);
        });
        if !spec.paused && connected {
            self.start_consumer(now, router, consumer);
        }
        self.share_soon(now, router);
        self.act(router);
        Ok(proto::ConsumeResult {
            consumer_id: spec.consumer_id.clone(),
            error: String::new(),
            producer_paused: self
                .routers
                .get(router)
                .and_then(|r| r.graph.is_producer_paused(producer))
                .unwrap_or_default(),
            score: Some(self.score(now, &spec.consumer_id)?),
        })
    }

    /// Closes a consumer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn close_consumer(&mut self, id: &str) -> Result<()> {
        let (router, consumer) = self.consumer(id)?;
        self.remove_consumer(router, consumer);
        Ok(())
    }

    /// Pauses a consumer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn pause_consumer(&mut self, now: Instant, id: &str) -> Result<()> {
        self.set_consumer_wanted(now, id, false)
    }

    /// Resumes a consumer and answers its score. Its packets start once its
    /// transport is connected.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn resume_consumer(&mut self, now: Instant, id: &str) -> Result<proto::ConsumerScore> {
        self.set_consumer_wanted(now, id, true)?;
        self.score(now, id)
    }

    fn set_consumer_wanted(&mut self, now: Instant, id: &str, wanted: bool) -> Result<()> {
        let (router, consumer) = self.consumer(id)?;
        if let Some(entry) = self.routers.get_mut(router)
            && let Some(held) = entry.consumers.get_mut(consumer)
        {
            held.wanted = wanted;
            let transport = self.transports.get(held.transport);
            let connected = transport.is_some_and(|t| t.inner.is_connected());
            if wanted && connected {
                self.start_consumer(now, router, consumer);
            } else {
                let result = entry.graph.pause_consumer(consumer);
                result.map_err(|_| not_found("consumer", id))?;
            }
        }
        self.share_soon(now, router);
        self.act(router);
        Ok(())
    }

    /// Asks a consumer's producer for a keyframe.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn request_key_frame(&mut self, now: Instant, id: &str) -> Result<()> {
        let (router, consumer) = self.consumer(id)?;
        if let Some(entry) = self.routers.get_mut(router) {
            let result = entry.graph.request_key_frame(now, consumer);
            result.map_err(|_| not_found("consumer", id))?;
        }
        self.act(router);
        Ok(())
    }

    /// Tells the control plane the states of a transport.
    pub(super) fn report_state(&mut self, key: TransportKey) {
        let Some(entry) = self.transports.get(key) else {
            return;
        };
        let Some(transport) = entry.inner.web_rtc() else {
            return;
        };
        let ice_state = stats::ice_state(transport.ice().state());
        let dtls_state = stats::dtls_state(transport.dtls_state());
        let (id, router) = (entry.id.clone(), entry.router);
        self.event(
            router,
            Event::TransportState(proto::TransportStateChanged {
                transport_id: id,
                ice_state: ice_state.into(),
                dtls_state: dtls_state.into(),
            }),
        );
    }

    pub(super) fn router(&self, id: &str) -> Result<RouterKey> {
        let key = self.router_ids.get(id).copied();
        key.ok_or_else(|| not_found("router", id))
    }

    pub(super) fn transport(&self, id: &str) -> Result<TransportKey> {
        let key = self.transport_ids.get(id).copied();
        key.ok_or_else(|| not_found("transport", id))
    }

    pub(super) fn producer(&self, id: &str) -> Result<(RouterKey, router::ProducerKey)> {
        let key = self.producer_ids.get(id).copied();
        key.ok_or_else(|| not_found("producer", id))
    }

    pub(super) fn consumer(&self, id: &str) -> Result<(RouterKey, router::ConsumerKey)> {
        let key = self.consumer_ids.get(id).copied();
        key.ok_or_else(|| not_found("consumer", id))
    }
}

fn consent_timeout(seconds: Option<u32>) -> std::result::Result<Duration, TransportError> {
    match seconds {
        None => Ok(ice::CONSENT_TIMEOUT),
        Some(seconds) if CONSENT_TIMEOUTS.contains(&seconds) => {
            Ok(Duration::from_secs(seconds.into()))
        }
        Some(seconds) => Err(TransportError::Invalid(format!(
            "ice_consent_timeout: {seconds} is not in 5..=300"
        ))),
    }
}

fn graph_kind(kind: MediaKind) -> router::MediaKind {
    match kind {
        MediaKind::Audio => router::MediaKind::Audio,
        MediaKind::Video => router::MediaKind::Video,
    }
}

pub(super) fn not_found(what: &'static str, id: &str) -> CommandError {
    CommandError::NotFound {
        what,
        id: id.to_owned(),
    }
}

pub(super) fn exists(what: &'static str, id: &str) -> CommandError {
    CommandError::Exists {
        what,
        id: id.to_owned(),
    }
}

/// A command to a transport of the other kind.
pub(super) fn wrong_kind(needed: &str) -> TransportError {
    TransportError::State(format!("transport is not a {needed}"))
}

pub(super) fn limit(what: &str, max: usize) -> CommandError {
    TransportError::Limit(format!("this worker has its limit of {max} {what}")).into()
}
