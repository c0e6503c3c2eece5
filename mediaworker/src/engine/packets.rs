//! The way of a packet through the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use router::{Action, ConsumerKey, Forward, RtpIn};
use slotmap::{Key, KeyData};
use str0m::ice::StunMessage;

use super::timers::Timer;
use super::{Engine, RouterKey, TransportKey};
use crate::transport::kind::Transport;
use crate::transport::receive::Received;
use crate::transport::webrtc::Output;
use crate::transport::{Datagram, PacketKind, Protocol, Tuple, ice};

/// Time after the last connectivity check from an address for which a transport
/// keeps it. Clients check every few seconds; without this, a check for one
/// transport with the forged address of another would take over its packets.
const ADDRESS_HELD: Duration = Duration::from_secs(10);

/// Rounds of one flush. A round sends what the one before it led to (a keyframe
/// request, say); more than a few would be a loop, and wait for the next tick.
const MAX_FLUSH_ROUNDS: usize = 8;

/// With so many datagrams, those that there are leave before more transports are advanced:
/// they are still in the caches, and the first need not wait for the last.
const ENOUGH_TO_LEAVE: usize = 64;

impl Engine {
    /// Takes in one datagram that has just come.
    pub fn receive(&mut self, now: Instant, tuple: Tuple, datagram: &[u8]) {
        self.receive_late(now, now, tuple, datagram);
    }

    /// Takes in one datagram that came at another time than this: what is told and reckoned of
    /// arrivals is of that.
    pub fn receive_late(&mut self, now: Instant, came: Instant, tuple: Tuple, datagram: &[u8]) {
        if self.throttled > 0 && self.hold_uplink(now, tuple, datagram) {
            return;
        }
        self.admit(now, came, tuple, datagram);
    }

    /// Takes in one datagram that nothing holds back.
    pub(super) fn admit(&mut self, now: Instant, came: Instant, tuple: Tuple, datagram: &[u8]) {
        if let Protocol::OwnPort(port) = tuple.protocol {
            self.admit_plain(now, came, port, tuple, datagram);
            return;
        }
        match PacketKind::of(datagram) {
            Some(PacketKind::Stun) => self.receive_stun(now, tuple, datagram),
            Some(kind) => match self.owner(&tuple) {
                Some(key) => self.enter(now, key, |transport, out| {
                    if let Some(transport) = transport.web_rtc_mut() {
                        transport.handle_datagram(now, came, kind, datagram, out);
                    }
                }),
                None => self.counters.dropped.unknown += 1,
            },
            None => self.counters.dropped.unparsable += 1,
        }
    }

    fn receive_stun(&mut self, now: Instant, tuple: Tuple, datagram: &[u8]) {
        let message = StunMessage::parse(datagram).ok();
        let found = message.as_ref().and_then(|message| {
            let ufrag = ice::local_ufrag(message)?;
            Some((message, *self.by_ufrag.get(ufrag)?))
        });
        let Some((message, key)) = found else {
            self.counters.dropped.unknown += 1;
            return;
        };
        let held_by_another = self
            .owner(&tuple)
            .filter(|owner| *owner != key)
            .and_then(|owner| self.transports.get(owner))
            .and_then(|owner| owner.inner.web_rtc())
            .is_some_and(|owner| owner.ice().is_fresh(now, &tuple, ADDRESS_HELD));
        if held_by_another {
            self.counters.dropped.refused_checks += 1;
            return;
        }
        let mut checked = None;
        self.enter(now, key, |transport, out| {
            let transport = transport.web_rtc_mut();
            checked = transport.and_then(|it| it.handle_check(now, tuple, message, out));
        });
        let Some(checked) = checked else {
            self.counters.dropped.refused_checks += 1;
            return;
        };
        let (received, sent) = (datagram.len(), checked.response.len());
        self.call(key, |transport| {
            if let Some(transport) = transport.web_rtc_mut() {
                transport.count_check(now, received, sent);
            }
        });
        self.send(now, key, &mut vec![(tuple, checked.response)]);
        if let Some(forgotten) = checked.forgotten {
            self.forget(key, &forgotten);
        }
        // The check may have started what closed the transport at once.
        if checked.authentic && self.transports.contains_key(key) {
            self.claim(now, key, tuple);
            self.sync_ufrags(key);
        } else if !checked.authentic {
            self.counters.dropped.refused_checks += 1;
        }
    }

    /// Drops credentials that a transport has left behind.
    fn sync_ufrags(&mut self, key: TransportKey) {
        // Only a restart leaves a second one, so this is rarely more than a look.
        let Some(entry) = self.transports.get(key) else {
            return;
        };
        if entry.restarted
            && let Some(transport) = entry.inner.web_rtc()
            && transport.ice().ufrags().count() == 1
        {
            let live: Vec<String> = transport.ice().ufrags().map(str::to_owned).collect();
            self.by_ufrag
                .retain(|ufrag, owner| *owner != key || live.contains(ufrag));
            if let Some(entry) = self.transports.get_mut(key) {
                entry.restarted = false;
            }
        }
    }

    /// Calls into one transport and deals with what comes out. A panic in there
    /// stays in that transport.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        key: TransportKey,
        call: impl FnOnce(&mut Transport, &mut Output),
    ) {
        // One that was closed earlier in this tick may still be listed to be
        // flushed.
        let Some(router) = self.transports.get(key).map(|entry| entry.router) else {
            return;
        };
        let before = self.is_connected(key);
        let mut out = self.output.take().unwrap_or_default();
        if self
            .contain(key, |transport| call(transport, &mut out))
            .is_none()
        {
            out.failed.get_or_insert_with(|| "internal error".into());
        }
        let after = self.is_connected(key);
        let connected = (before != after).then_some(after);
        self.settle(now, key, router, &mut out, connected);
        self.output = Some(out);
    }

    /// Lets the packets leave that are queued on a transport. True: that is all there is to
    /// do, and its state and next timeout are what they were. `None` as for
    /// [`Engine::contain`].
    fn send_packets(&mut self, now: Instant, key: TransportKey) -> Option<bool> {
        let mut out = self.output.take().unwrap_or_default();
        let quiet = self.contain(key, |transport| transport.send_packets(now, &mut out));
        self.send(now, key, &mut out.datagrams);
        self.count_dropped(&mut out);
        self.output = Some(out);
        quiet
    }

    fn is_connected(&self, key: TransportKey) -> bool {
        let entry = self.transports.get(key);
        entry.is_some_and(|entry| entry.inner.is_connected())
    }

    /// Calls into one transport; `None` when there is none, or it panicked, in
    /// which case it must be closed.
    fn contain<T>(
        &mut self,
        key: TransportKey,
        call: impl FnOnce(&mut Transport) -> T,
    ) -> Option<T> {
        let entry = self.transports.get_mut(key)?;
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut entry.inner)));
        if result.is_err() {
            self.counters.panics += 1;
        }
        result.ok()
    }

    /// Calls into a transport from within the work on another one. One that
    /// panics is closed with the next flush.
    pub(super) fn call<T>(
        &mut self,
        key: TransportKey,
        call: impl FnOnce(&mut Transport) -> T,
    ) -> Option<T> {
        let panics = self.counters.panics;
        let result = self.contain(key, call);
        if self.counters.panics != panics
            && let Some(entry) = self.transports.get_mut(key)
        {
            entry.broken = true;
            self.mark_dirty(key);
        }
        result
    }

    /// Does what a call into a transport led to; `out` is empty afterwards, so
    /// nothing of it can be taken for the next transport's.
    fn settle(
        &mut self,
        now: Instant,
        key: TransportKey,
        router: RouterKey,
        out: &mut Output,
        connected: Option<bool>,
    ) {
        self.send(now, key, &mut out.datagrams);
        self.count_dropped(out);
        let mut touched = false;
        for received in out.received.drain(..) {
            self.forward(now, router, received);
            touched = true;
        }
        for message in out.data.drain(..) {
            self.forward_data(now, &message);
        }
        for consumer in out.key_frame_requests.drain(..) {
            if let Some(entry) = self.routers.get_mut(router) {
                // The consumer exists: its transport has just named it.
                let _ = entry.graph.request_key_frame(now, consumer);
            }
            touched = true;
        }
        if let Some(connected) = connected {
            self.switch_consumers(now, router, key, connected);
            touched = true;
        }
        if touched {
            self.act(router);
        }
        if std::mem::take(&mut out.bandwidth_changed) && self.is_short(now, key) {
            self.share_soon(now, router);
        }
        if std::mem::take(&mut out.state_changed) {
            self.report_state(key);
            self.release_connections(key);
        }
        match out.failed.take() {
            Some(reason) => self.transport_died(key, &reason),
            None => self.arm_transport(key),
        }
    }

    fn count_dropped(&mut self, out: &mut Output) {
        let dropped = &mut self.counters.dropped;
        dropped.refused += std::mem::take(&mut out.dropped);
        dropped.too_long += std::mem::take(&mut out.too_long);
        dropped.wrong_stream += std::mem::take(&mut out.wrong_stream);
        dropped.slow_video += std::mem::take(&mut out.slow_video);
    }

    /// Starts or stops the consumers of a transport that has just been connected
    /// or disconnected.
    fn switch_consumers(
        &mut self,
        now: Instant,
        router: RouterKey,
        transport: TransportKey,
        connected: bool,
    ) {
        let Some(entry) = self.routers.get(router) else {
            return;
        };
        let wanted: Vec<ConsumerKey> = entry
            .consumers
            .iter()
            .filter(|(_, c)| c.transport == transport && c.wanted)
            .map(|(consumer, _)| consumer)
            .collect();
        for consumer in &wanted {
            if connected {
                self.start_consumer(now, router, *consumer);
            } else if let Some(entry) = self.routers.get_mut(router) {
                // Both know the consumer: the tables agree.
                let _ = entry.graph.pause_consumer(*consumer);
            }
        }
        if !wanted.is_empty() {
            self.share_soon(now, router);
        }
    }

    /// Gives one packet to the media graph and queues it where it says.
    fn forward(&mut self, now: Instant, router: RouterKey, received: Received) {
        self.counters.rtp_received += 1;
        let Some(entry) = self.routers.get_mut(router) else {
            return;
        };
        if received.new_source {
            let _ = entry
                .graph
                .restart_stream(received.producer, received.stream);
        }
        let mut forwards = std::mem::take(&mut self.forwards);
        let kept = entry
            .graph
            .handle_rtp(now, received.producer, &input(&received), &mut forwards);
        let at = received.captured.unwrap_or(received.packet.arrived);
        for forward in forwards.drain(..) {
            self.write(&forward, &received, at);
        }
        self.forwards = forwards;
        if let Some(kept) = kept
            && let Some(entry) = self.routers.get_mut(router)
            && let Some(producer) = entry.producers.get_mut(received.producer)
        {
            producer.bursts.keep(now, kept, received);
        }
    }

    pub(super) fn write(&mut self, forward: &Forward, received: &Received, at: Instant) {
        let key = TransportKey::from(KeyData::from_ffi(forward.sink.transport));
        let written = self.call(key, |t| t.write(forward, &received.packet, at));
        if written == Some(true) {
            self.counters.rtp_forwarded += 1;
            self.mark_sending(key);
        }
    }

    /// Does what the media graph of a router asks for.
    pub(super) fn act(&mut self, router: RouterKey) {
        while let Some(action) = self
            .routers
            .get_mut(router)
            .and_then(|entry| entry.graph.poll_action())
        {
            match action {
                Action::RequestKeyFrame { producer, stream } => {
                    let transport = self
                        .routers
                        .get(router)
                        .and_then(|entry| entry.producers.get(producer))
                        .map(|p| p.transport);
                    let Some(key) = transport else { continue };
                    let asked = self.call(key, |t| t.request_key_frame(producer, stream));
                    if asked == Some(true) {
                        self.mark_dirty(key);
                    }
                }
                Action::TellLayer { consumer, layers } => {
                    self.tell_layer(router, consumer, layers);
                }
                Action::TellSpeaker { producer, volume } => {
                    self.tell_speaker(router, producer, volume);
                }
                Action::TellDominantSpeaker { producer } => {
                    self.tell_dominant_speaker(router, producer);
                }
            }
        }
        self.arm_router(router);
    }

    /// Gives out the datagrams to send, in the order in which they have to leave. What is
    /// not taken is taken for sent, and its room is used again.
    pub fn send_off(&mut self, leave: impl FnOnce(&mut Vec<Datagram>)) {
        leave(&mut self.datagrams);
        let supplies = &mut self.output.get_or_insert_default().supplies;
        for (_, datagram) in self.datagrams.drain(..) {
            supplies.put(datagram);
        }
    }

    /// Calls everyone whose time has come.
    pub fn handle_timeouts(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Transport(key) => {
                    if let Some(entry) = self.transports.get_mut(key) {
                        entry.timer = None;
                    }
                    self.enter(now, key, |transport, out| {
                        transport.handle_timeout(now, out)
                    });
                }
                Timer::Router(key) => {
                    if let Some(entry) = self.routers.get_mut(key) {
                        entry.timer = None;
                        entry.graph.handle_timeout(now);
                    }
                    self.act(key);
                }
                Timer::Review(key) => self.review(now, key),
                Timer::Share(key) | Timer::ShareSoon(key) => self.share(now, key),
                Timer::Throttle(key) => self.release(now, key),
            }
        }
    }

    /// Sends what was queued: each transport that has something is advanced once. What is
    /// enough to leave already does, as by [`Engine::send_off`].
    pub fn flush(&mut self, now: Instant, mut leave: impl FnMut(&mut Vec<Datagram>)) {
        for _ in 0..MAX_FLUSH_ROUNDS {
            let mut dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                self.dirty = dirty;
                return;
            }
            for key in dirty.drain(..) {
                let (mut broken, mut advance) = (false, false);
                if let Some(entry) = self.transports.get_mut(key) {
                    entry.dirty = false;
                    advance = std::mem::take(&mut entry.advance);
                    broken = entry.broken;
                }
                let mut quiet = false;
                if !broken && !advance {
                    let sent = self.send_packets(now, key);
                    (quiet, broken) = (sent == Some(true), sent.is_none());
                }
                if !quiet {
                    self.enter(now, key, |transport, out| {
                        if broken {
                            out.failed = Some("internal error".into());
                        } else if advance {
                            transport.flush(now, out);
                        } else {
                            transport.flush_packets(now, out);
                        }
                    });
                }
                if self.datagrams.len() >= ENOUGH_TO_LEAVE {
                    self.send_off(&mut leave);
                }
            }
            if self.dirty.is_empty() {
                // Keep the allocation.
                self.dirty = dirty;
            }
        }
    }
}

/// A packet as the media graph takes it.
pub(super) fn input(received: &Received) -> RtpIn<'_> {
    let packet = &received.packet;
    RtpIn {
        stream: received.stream,
        codec: received.codec,
        sequence: packet.sequence,
        timestamp: packet.timestamp,
        marker: packet.marker,
        payload: &packet.payload,
        captured: received.captured,
        audio_level: packet.extensions.audio_level(),
        dependency_descriptor: packet.extensions.dependency_descriptor.as_deref(),
    }
}

/// A transport's key as routers carry it.
pub(super) fn sink_of(key: TransportKey) -> u64 {
    key.data().as_ffi()
}
