//! The engine: routers, transports and demultiplexing, without sockets or clock.
//!
//! Commands and datagrams go in, datagrams and events come out. One tick of the
//! event loop is: [`Engine::receive`] for each datagram, then [`Engine::flush`], then
//! [`Engine::handle_timeouts`] and another flush, then [`Engine::send_off`]. A packet that is
//! forwarded is only queued on its receiving transports; each of those is advanced once, in
//! `flush`, however many packets it got in the tick.
//!
//! Invariants: an id is in its table exactly while its entity lives; every
//! transport and router has at most one entry in `timers`, at the time that it
//! remembers; a transport that failed, or panicked, is closed before the next
//! input is looked at.

mod bandwidth;
mod bursts;
mod close;
mod commands;
mod connections;
mod convert;
mod data;
mod entering;
mod explain;
mod feedback;
mod orientation;
mod packets;
mod plain;
mod quality;
mod stats;
mod throttle;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Instant, SystemTime};

use router::{ConsumerKey, Layers, ProducerKey, Router};
use slotmap::{SecondaryMap, SlotMap, new_key_type};
use str0m::config::DtlsCert;
use str0m::media::MediaKind;

use crate::transport::crypto::{self, Fingerprint, FingerprintHash};
use crate::transport::kind::Transport;
use crate::transport::plain::WallClock;
use crate::transport::receive::{EncodingScore, Orientation};
use crate::transport::webrtc::{Output, RouterMedia};
use crate::transport::{ConnectionKey, Datagram, FastMap, TransportError};
pub use connections::ConnectionNote;
use throttle::Throttle;
use timers::{Timer, Timers};

new_key_type! {
    /// A router of this engine.
    pub struct RouterKey;
    /// A transport of this engine.
    pub struct TransportKey;
}

/// Most routers, and transports, of one worker.
const MAX_ROUTERS: usize = 10_000;
const MAX_TRANSPORTS: usize = 50_000;

/// Most events that wait for the control plane. It reads them continuously; a
/// worker whose events are not read for this long is of no use and ends.
pub const MAX_EVENTS: usize = 65_536;

/// An address that candidates carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedAddress(pub String);

/// What the engine has to know when it starts.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Announced addresses, the preferred first.
    pub announced: Vec<AnnouncedAddress>,
    /// UDP port that all WebRtcTransports share.
    pub udp_port: u16,
    /// Whether the TCP port of the same number takes connections for them.
    pub tcp: bool,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such entity.
    #[error("{what} with id {id:?} not found")]
    NotFound {
        /// Kind of entity.
        what: &'static str,
        /// The id that nothing has.
        id: String,
    },
    /// The id is taken.
    #[error("{what} with id {id:?} already exists")]
    Exists {
        /// Kind of entity.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// What was asked for cannot be done.
    #[error(transparent)]
    Refused(#[from] TransportError),
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// RTP packets of producers.
    pub rtp_received: u64,
    /// RTP packets queued for consumers.
    pub rtp_forwarded: u64,
    /// Messages that a data consumer, or control, could not be given.
    pub data_dropped: u64,
    /// Datagrams that led to nothing.
    pub dropped: Dropped,
    /// Times that it was said (ICMP) that nobody is where a plain transport sends media.
    pub unreachable: u64,
    /// Panics contained in one transport.
    pub panics: u64,
}

/// Datagrams that led to nothing, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// No STUN, DTLS, RTP or RTCP.
    pub unparsable: u64,
    /// From an address, or with a username fragment, that no transport has.
    pub unknown: u64,
    /// Connectivity checks that were not authentic, or for an address that
    /// another transport holds.
    pub refused_checks: u64,
    /// What its transport did not take, or could not send, for another reason than those
    /// below.
    pub refused: u64,
    /// RTP and RTCP that is longer than any network passes in one piece.
    pub too_long: u64,
    /// RTP of an SSRC, or with a payload type, that no producer has.
    pub wrong_stream: u64,
    /// RTCP to a plain transport about streams that are not there.
    pub false_reports: u64,
    /// Video for a client that does not read its TCP connection fast enough.
    pub slow_video: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(&self) -> u64 {
        let refused = self.refused_checks + self.refused + self.too_long;
        let about_streams = self.wrong_stream + self.false_reports;
        self.unparsable + self.unknown + refused + about_streams + self.slow_video
    }
}

/// Numbers of entities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Routers.
    pub routers: usize,
    /// Transports.
    pub transports: usize,
    /// Producers.
    pub producers: usize,
    /// Consumers.
    pub consumers: usize,
    /// Data producers.
    pub data_producers: usize,
    /// Data consumers.
    pub data_consumers: usize,
}

struct RouterEntry {
    id: String,
    graph: Router,
    media: Rc<RouterMedia>,
    producers: SecondaryMap<ProducerKey, ProducerEntry>,
    consumers: SecondaryMap<ConsumerKey, ConsumerEntry>,
    timer: Option<Instant>,
    /// Time of the next review, while there are producers.
    review: Option<Instant>,
    /// Time of the next look at what is available, while there are video
    /// consumers.
    share: Option<Instant>,
    /// The same, where something is new.
    share_soon: Option<Instant>,
    /// Time of the last one.
    shared: Option<Instant>,
}

struct ProducerEntry {
    id: String,
    transport: TransportKey,
    kind: MediaKind,
    /// Of its first codec, the one that is forwarded.
    mime_type: String,
    /// How many it can have; not all may have been seen.
    encodings: usize,
    /// Scores that were told last.
    told: Vec<EncodingScore>,
    told_orientation: Option<Orientation>,
    /// What is kept for late joiners.
    bursts: bursts::Bursts,
}

struct ConsumerEntry {
    id: String,
    transport: TransportKey,
    slot: u32,
    producer: ProducerKey,
    /// Not paused by the control plane. In the media graph it is paused all the
    /// same while its transport is not connected: a keyframe that nobody can
    /// receive would be spent, and the next may only be asked for a second later.
    wanted: bool,
    /// Score that was told last.
    told: Option<proto::ConsumerScore>,
    /// Layers that were told last.
    told_layers: Option<Layers>,
    /// Layers were told since the last review; the next ones wait for that.
    layer_was_told: bool,
}

/// A transport, and what the engine knows of it. What each packet needs comes first.
#[repr(C)]
struct TransportEntry {
    inner: Transport,
    router: RouterKey,
    timer: Option<Instant>,
    /// The bad network that it is behind on purpose.
    throttle: Option<Box<Throttle>>,
    /// Has something queued that the next flush sends.
    dirty: bool,
    /// There is more than packets.
    advance: bool,
    /// It panicked; the next flush closes it.
    broken: bool,
    /// ICE was restarted: a second username fragment is valid until the new one
    /// is used.
    restarted: bool,
    id: String,
    /// How the bandwidth towards its client is shared, once it consumes video.
    sharing: Option<Box<bandwidth::Sharing>>,
    /// What was replayed to its client lately.
    backlog: bursts::Backlog,
}

/// Routers, transports and everything in them.
pub struct Engine {
    config: EngineConfig,
    cert: DtlsCert,
    fingerprints: Vec<Fingerprint>,
    /// What the routers have in common, at most one for each that lives.
    media: Vec<Weak<RouterMedia>>,
    routers: SlotMap<RouterKey, RouterEntry>,
    transports: SlotMap<TransportKey, TransportEntry>,
    router_ids: HashMap<String, RouterKey>,
    transport_ids: HashMap<String, TransportKey>,
    producer_ids: HashMap<String, (RouterKey, ProducerKey)>,
    consumer_ids: HashMap<String, (RouterKey, ConsumerKey)>,
    data: data::Data,
    /// Over UDP.
    by_address: FastMap<SocketAddr, TransportKey>,
    by_connection: SecondaryMap<ConnectionKey, TransportKey>,
    connection_notes: Vec<ConnectionNote>,
    by_ufrag: HashMap<String, TransportKey>,
    plain: plain::Plain,
    timers: Timers,
    /// Transports with a throttle.
    throttled: usize,
    dirty: Vec<TransportKey>,
    /// Reused for every call into a transport.
    output: Option<Box<Output>>,
    forwards: Vec<router::Forward>,
    scratch: bandwidth::Scratch,
    datagrams: Vec<Datagram>,
    events: VecDeque<proto::Event>,
    counters: Counters,
    /// What streams that are gone have come to.
    gone: feedback::Gone,
}

impl Engine {
    /// An engine without routers.
    ///
    /// # Errors
    /// [`TransportError::Internal`] when no certificate could be made.
    pub fn new(config: EngineConfig) -> Result<Self, CommandError> {
        let cert = crypto::generate_certificate()
            .ok_or_else(|| TransportError::Internal("cannot make a DTLS certificate".into()))?;
        let fingerprints = FingerprintHash::ALL
            .into_iter()
            .map(|hash| Fingerprint::of(hash, &cert.certificate))
            .collect();
        Ok(Self {
            config,
            cert,
            fingerprints,
            media: Vec::new(),
            routers: SlotMap::with_key(),
            transports: SlotMap::with_key(),
            router_ids: HashMap::new(),
            transport_ids: HashMap::new(),
            producer_ids: HashMap::new(),
            consumer_ids: HashMap::new(),
            data: data::Data::default(),
            by_address: FastMap::default(),
            by_connection: SecondaryMap::new(),
            connection_notes: Vec::new(),
            by_ufrag: HashMap::new(),
            plain: plain::Plain::new(WallClock {
                at: Instant::now(),
                wall: SystemTime::now(),
            }),
            timers: Timers::default(),
            throttled: 0,
            dirty: Vec::new(),
            output: None,
            forwards: Vec::new(),
            scratch: bandwidth::Scratch::default(),
            datagrams: Vec::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            gone: feedback::Gone::default(),
        })
    }

    /// When [`Engine::handle_timeouts`] has to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next event for the control plane.
    pub fn poll_event(&mut self) -> Option<proto::Event> {
        let event = self.events.pop_front()?;
        self.data.note_polled(&event);
        Some(event)
    }

    /// Events that were not polled yet.
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// True when events are not read; the worker is of no use then.
    pub fn is_congested(&self) -> bool {
        self.events.len() > MAX_EVENTS
    }

    /// Counters since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Numbers of entities.
    pub fn sizes(&self) -> Sizes {
        let (data_producers, data_consumers) = self.data.sizes();
        Sizes {
            routers: self.routers.len(),
            transports: self.transports.len(),
            producers: self.producer_ids.len(),
            consumers: self.consumer_ids.len(),
            data_producers,
            data_consumers,
        }
    }

    fn event(&mut self, router: RouterKey, event: proto::event::Event) {
        if let Some(entry) = self.routers.get(router) {
            self.events.push_back(proto::Event {
                router_id: entry.id.clone(),
                event: Some(event),
            });
        }
    }

    /// Puts a transport's next timeout into the timers.
    fn arm_transport(&mut self, key: TransportKey) {
        if let Some(entry) = self.transports.get_mut(key) {
            let next = entry.inner.next_timeout();
            self.timers
                .set(Timer::Transport(key), &mut entry.timer, next);
        }
    }

    /// Puts a router's next timeout into the timers.
    fn arm_router(&mut self, key: RouterKey) {
        if let Some(entry) = self.routers.get_mut(key) {
            let next = entry.graph.next_timeout();
            self.timers.set(Timer::Router(key), &mut entry.timer, next);
        }
    }

    fn mark_dirty(&mut self, key: TransportKey) {
        if let Some(entry) = self.transports.get_mut(key) {
            entry.advance = true;
        }
        self.mark_sending(key);
    }

    /// Packets are queued on a transport, and nothing else has happened to it.
    fn mark_sending(&mut self, key: TransportKey) {
        if let Some(entry) = self.transports.get_mut(key)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty.push(key);
        }
    }
}
