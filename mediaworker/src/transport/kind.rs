//! A transport of either kind, as the engine sees it. What only one kind does is
//! asked of that one; on the other it is nothing, or an error.

use std::rc::Rc;
use std::time::Instant;

use router::{ConsumerKey, Forward, ProducerKey};

use super::TransportError;
use super::data::{DataChannels, DataSent};
use super::packet::MediaPacket;
use super::plain::PlainTransport;
use super::receive::{ProducerSpec, Receiving};
use super::send::{ConsumerSpec, Sending};
use super::stats::Traffic;
use super::webrtc::{Output, WebRtcTransport};

/// A transport.
#[derive(Debug)]
pub enum Transport {
    /// ICE, DTLS and SRTP.
    WebRtc(Box<WebRtcTransport>),
    /// RTP and RTCP as they are.
    Plain(Box<PlainTransport>),
}

/// Calls a method that both kinds have.
macro_rules! both {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            Transport::WebRtc($transport) => $call,
            Transport::Plain($transport) => $call,
        }
    };
}

impl Transport {
    /// It, if it is a WebRTC transport.
    pub fn web_rtc(&self) -> Option<&WebRtcTransport> {
        match self {
            Self::WebRtc(transport) => Some(transport),
            Self::Plain(_) => None,
        }
    }

    /// See [`Transport::web_rtc`].
    pub fn web_rtc_mut(&mut self) -> Option<&mut WebRtcTransport> {
        match self {
            Self::WebRtc(transport) => Some(transport),
            Self::Plain(_) => None,
        }
    }

    /// It, if it is a plain transport.
    pub fn plain(&self) -> Option<&PlainTransport> {
        match self {
            Self::WebRtc(_) => None,
            Self::Plain(transport) => Some(transport),
        }
    }

    /// See [`Transport::plain`].
    pub fn plain_mut(&mut self) -> Option<&mut PlainTransport> {
        match self {
            Self::WebRtc(_) => None,
            Self::Plain(transport) => Some(transport),
        }
    }

    /// What has passed.
    pub fn traffic(&self) -> &Traffic {
        both!(self, t => t.traffic())
    }

    /// What is sent by the remote.
    pub fn receiving(&self) -> &Receiving {
        both!(self, t => t.receiving())
    }

    /// What is sent to the remote.
    pub fn sending(&self) -> &Sending {
        both!(self, t => t.sending())
    }

    /// Media can flow.
    pub fn is_connected(&self) -> bool {
        both!(self, t => t.is_connected())
    }

    /// When [`Transport::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        both!(self, t => t.next_timeout())
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        both!(self, t => t.handle_timeout(now, out));
    }

    /// Sends what was queued.
    pub fn flush(&mut self, now: Instant, out: &mut Output) {
        both!(self, t => t.flush(now, out));
    }

    /// Lets packets leave that were queued. True: nothing else is to be done now.
    pub fn send_packets(&mut self, now: Instant, out: &mut Output) -> bool {
        match self {
            Self::WebRtc(transport) => transport.send_packets(now, out),
            Self::Plain(_) => false,
        }
    }

    /// Sends what was queued, where nothing but packets was.
    pub fn flush_packets(&mut self, now: Instant, out: &mut Output) {
        match self {
            Self::WebRtc(transport) => transport.flush_packets(now, out),
            Self::Plain(transport) => transport.flush(now, out),
        }
    }

    /// Says goodbye to the remote.
    pub fn close(&mut self, now: Instant, out: &mut Output) {
        both!(self, t => t.close(now, out));
    }

    /// Checks whether [`Transport::produce`] will take a producer.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_producer(&self, spec: &ProducerSpec) -> Result<(), TransportError> {
        both!(self, t => t.check_producer(spec))
    }

    /// Adds a checked producer.
    pub fn produce(
        &mut self,
        now: Instant,
        key: ProducerKey,
        spec: ProducerSpec,
        out: &mut Output,
    ) {
        match self {
            Self::WebRtc(transport) => transport.produce(now, key, spec, out),
            Self::Plain(transport) => transport.produce(now, key, spec),
        }
    }

    /// Removes a producer.
    pub fn close_producer(&mut self, producer: ProducerKey) {
        both!(self, t => t.close_producer(producer));
    }

    /// A producer is paused, or not any more.
    pub fn set_producer_paused(&mut self, now: Instant, producer: ProducerKey, paused: bool) {
        both!(self, t => t.set_producer_paused(now, producer, paused));
    }

    /// Asks the remote for a keyframe. True when a flush has something to send.
    pub fn request_key_frame(&mut self, producer: ProducerKey, at: usize) -> bool {
        both!(self, t => t.request_key_frame(producer, at))
    }

    /// Checks whether [`Transport::consume`] will take a consumer, and says in which
    /// slot.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check_consumer(&self, spec: &ConsumerSpec) -> Result<u32, TransportError> {
        both!(self, t => t.check_consumer(spec))
    }

    /// Adds a checked consumer.
    pub fn consume(&mut self, key: ConsumerKey, spec: &ConsumerSpec) {
        both!(self, t => t.consume(key, spec));
    }

    /// Removes the consumer in a slot.
    pub fn close_consumer(&mut self, slot: u32) {
        both!(self, t => t.close_consumer(slot));
    }

    /// Queues a packet for a consumer; it leaves with the next flush. `at`: when it
    /// was captured, on the local clock.
    pub fn write(&mut self, forward: &Forward, packet: &Rc<MediaPacket>, at: Instant) -> bool {
        both!(self, t => t.write(forward, packet, at))
    }

    /// Its data channels; a plain transport has none.
    pub fn data(&mut self) -> &mut DataChannels {
        both!(self, t => t.data())
    }

    /// Closes a data channel.
    pub fn close_data(&mut self, stream: u16) {
        if let Some(transport) = self.web_rtc_mut() {
            transport.close_data(stream);
        }
    }

    /// Queues a message on a data channel; it leaves with the next flush.
    pub fn send_data(&mut self, stream: u16, binary: bool, payload: &[u8]) -> DataSent {
        match self.web_rtc_mut() {
            Some(transport) => transport.send_data(stream, binary, payload),
            None => DataSent::NotOpen,
        }
    }

    /// What a data channel holds.
    pub fn data_buffered(&mut self, stream: u16) -> usize {
        let transport = self.web_rtc_mut();
        transport.map_or(0, |transport| transport.data_buffered(stream))
    }

    /// What can be sent to the remote, bits per second; `None` when nothing limits
    /// it, as on a plain transport, which does not estimate.
    pub fn available_bitrate(&self, now: Instant, sent: u64) -> Option<u64> {
        self.web_rtc()?.available_bitrate(now, sent)
    }

    /// The same; before anything is known about it, a guess.
    pub fn likely_bitrate(&self, now: Instant, sent: u64, guess: u64) -> u64 {
        let transport = self.web_rtc();
        transport.map_or(guess, |transport| {
            transport.likely_bitrate(now, sent, guess)
        })
    }

    /// Whether much of what is sent to the client is lost.
    pub fn loses_much(&self, now: Instant) -> bool {
        self.web_rtc().is_some_and(|it| it.loses_much(now))
    }

    /// See [`WebRtcTransport::is_told`].
    pub fn is_told(&self) -> bool {
        self.web_rtc().is_some_and(WebRtcTransport::is_told)
    }

    /// See [`WebRtcTransport::take_collapse`].
    pub fn take_collapse(&mut self) -> bool {
        let transport = self.web_rtc_mut();
        transport.is_some_and(WebRtcTransport::take_collapse)
    }

    /// See [`WebRtcTransport::try_more`].
    pub fn try_more(&mut self, now: Instant, sent: u64, next: Option<u64>) {
        if let Some(transport) = self.web_rtc_mut() {
            transport.try_more(now, sent, next);
        }
    }

    /// Forgets what was sent to a consumer: something else is from now on.
    pub fn forget_sent(&mut self, slot: u32) {
        if let Some(transport) = self.web_rtc_mut() {
            transport.forget_sent(slot);
        }
    }

    /// No video is wanted any more.
    pub fn want_nothing(&mut self) {
        if let Some(transport) = self.web_rtc_mut() {
            transport.want_nothing();
        }
    }

    /// See [`WebRtcTransport::want_bitrate`].
    pub fn want_bitrate(&mut self, now: Instant, desired: u64, wants_more: bool) {
        if let Some(transport) = self.web_rtc_mut() {
            transport.want_bitrate(now, desired, wants_more);
        }
    }
}
