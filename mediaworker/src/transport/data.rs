//! The data channels of a WebRtcTransport: one SCTP stream id for each data
//! producer and data consumer, negotiated by signaling (RFC 8831 §6.4), never
//! in-band.
//!
//! What control wants of a stream and what str0m has of it are two things: a
//! channel can only be closed once it is open and has delivered what it holds,
//! and its id be used again once its reset is through. So each stream remembers both, and
//! [`DataChannels::settle`] brings str0m closer to what is wanted.
//!
//! The channel of a data producer is reset when that is closed. A data
//! consumer's is left for the client to reset, as clients do when they are told,
//! and who uses the id next takes it over: a client that never had it would not
//! answer a reset of ours, and str0m would keep the id for ever. So the first
//! reset of a channel that was taken over is that of the earlier one, and it is
//! opened again; otherwise a channel that the client has reset stays closed.

mod backlog;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use slotmap::new_key_type;
use str0m::Rtc;
use str0m::change::SdpOffer;
use str0m::channel::{ChannelConfig, ChannelData, ChannelId, Reliability};

use super::webrtc::{DtlsState, WebRtcTransport};
use super::{TransportError, sctp};
use backlog::{Backlog, Budget};

new_key_type! {
    /// A data producer.
    pub struct DataProducerKey;
    /// A data consumer.
    pub struct DataConsumerKey;
}

/// Longest message in either direction, bytes.
pub const MAX_MESSAGE_SIZE: u32 = 262_144;
/// Longest message that str0m takes in, bytes. It gives the association up at a
/// longer one, and the transport with it; what is longer than negotiated but not
/// than this is only dropped.
pub const MAX_RECEIVED_MESSAGE: u32 = 2 * MAX_MESSAGE_SIZE;
/// Bytes that str0m holds for all data consumers of one transport until its
/// client has acknowledged them. A message that does not fit is dropped.
pub const MAX_TRANSPORT_BACKLOG: usize = 2 << 20;
/// Bytes that are held for one data consumer. A message that does not fit is
/// dropped for it, on reliable channels too, as mediasoup does: nobody can make
/// its sender wait without making the other receivers wait.
pub const MAX_BACKLOG: usize = 1 << 20;
/// Messages that are held for one data consumer: small ones cost more than their
/// bytes. More are dropped like those beyond [`MAX_BACKLOG`].
pub const MAX_BACKLOG_MESSAGES: usize = 2048;
/// The same for all data consumers of one transport.
const MAX_TRANSPORT_BACKLOG_MESSAGES: usize = 8192;
/// Most streams of one transport, and so most data producers and data consumers.
/// One whose user is gone counts until its channel is closed, which is up to the
/// client. str0m looks at each of them whenever a packet comes, and adds up what
/// it holds for each whenever a message is written.
const MAX_CHANNELS: usize = 1024;

/// What the client and we have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpLimits {
    /// Stream ids are below that.
    pub num_streams: u16,
    /// Longest message in either direction, bytes.
    pub max_message_size: u32,
}

/// SCTP state, with the names that clients know from statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SctpState {
    /// The transport has no data channels.
    None,
    /// DTLS is not up yet.
    New,
    /// Waiting for the association.
    Connecting,
    /// Messages flow.
    Connected,
    /// The association or the transport has ended.
    Closed,
}

/// Who uses a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataUser {
    /// The client sends on it.
    Producer(DataProducerKey),
    /// The client receives on it.
    Consumer(DataConsumerKey),
}

/// How messages of a stream travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamParameters {
    /// SCTP stream id.
    pub id: u16,
    /// Messages arrive in their order.
    pub ordered: bool,
    /// How hard is tried.
    pub reliability: Reliability,
}

/// A message from the client.
#[derive(Debug)]
pub struct DataReceived {
    /// The data producer.
    pub producer: DataProducerKey,
    /// Binary, or else a string.
    pub binary: bool,
    /// The message.
    pub payload: Vec<u8>,
}

/// What became of a message for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataSent {
    /// It is on its way; the next flush sends it.
    Queued,
    /// Dropped: its channel is not open (yet, or any more).
    NotOpen,
    /// Dropped: too much is held for this client already.
    Full,
    /// Dropped: longer than the client takes.
    TooLong,
}

#[derive(Debug, Default)]
struct Stream {
    user: Option<(DataUser, StreamParameters)>,
    channel: Option<ChannelId>,
    /// What the channel was made with.
    made: Option<StreamParameters>,
    /// The channel is not what the user wants: it has to be closed first.
    stale: bool,
    /// It is being closed.
    closing: bool,
    /// It was open when its user left.
    left_open: bool,
    /// Its user has taken it over like that: the client may still close what it
    /// has had of it.
    taken_over: bool,
    /// The client has closed it.
    ended: bool,
    /// It is in [`DataChannels::unsettled`].
    listed: bool,
    backlog: Backlog,
}

/// The data channels of one transport.
#[derive(Debug, Default)]
pub struct DataChannels {
    limits: Option<SctpLimits>,
    streams: BTreeMap<u16, Stream>,
    by_channel: HashMap<ChannelId, u16>,
    /// Streams whose channel may not be what is wanted, each of them once. Those
    /// that wait for str0m are not listed before it tells that they may go on.
    unsettled: Vec<u16>,
    /// Messages that are held for all streams, as far as is known: those of a
    /// stream are counted anew when it is written to, and when nothing of it is
    /// held any more.
    held_messages: usize,
    budget: Budget,
    established: bool,
    /// Something that [`DataChannels::settle`] has waited for has happened.
    woken: bool,
}

impl DataChannels {
    /// Channels within these limits; `None`: the transport has no SCTP.
    pub fn new(limits: Option<SctpLimits>) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Stream ids that the client may use are below that.
    pub fn num_streams(&self) -> u16 {
        self.limits.map_or(0, |limits| limits.num_streams)
    }

    /// Notes that the association is there.
    pub fn set_established(&mut self) {
        self.established = true;
    }

    /// Everyone who uses a stream.
    pub fn users(&self) -> impl Iterator<Item = DataUser> {
        self.streams.values().filter_map(|s| Some(s.user?.0))
    }

    /// Starts SCTP, if the transport has it; DTLS must have been started, and no
    /// media been declared, for which str0m would make stray senders. As long
    /// as the client does not begin, the DTLS server's side costs nothing, and
    /// the client's an INIT now and then, at most once a minute in the end.
    ///
    /// # Errors
    /// [`TransportError::Internal`].
    pub fn start(&mut self, rtc: &mut Rtc, ice: RemoteIce<'_>) -> Result<(), TransportError> {
        let Some(limits) = self.limits else {
            return Ok(());
        };
        let internal = |what: String| TransportError::Internal(format!("str0m: {what}"));
        let sdp = offer(limits.max_message_size, ice.ufrag, ice.password);
        let offer = SdpOffer::from_sdp_string(&sdp).map_err(|e| internal(e.to_string()))?;
        rtc.sdp_api()
            .accept_offer(offer)
            .map_err(|e| internal(e.to_string()))?;
        self.settle(rtc);
        Ok(())
    }

    /// Checks whether [`DataChannels::add`] will take a stream.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn check(&self, stream: &StreamParameters) -> Result<(), TransportError> {
        let Some(limits) = self.limits else {
            return Err(TransportError::State(
                "transport has no SCTP: it was created without `sctp`".into(),
            ));
        };
        if stream.id >= limits.num_streams {
            return Err(TransportError::Invalid(format!(
                "stream.stream_id: {} is not below num_streams, {}",
                stream.id, limits.num_streams
            )));
        }
        // One stream is one channel, with one reliability, for both directions.
        if self
            .streams
            .get(&stream.id)
            .is_some_and(|s| s.user.is_some())
        {
            return Err(TransportError::Invalid(format!(
                "stream.stream_id: {} is already in use on this transport",
                stream.id
            )));
        }
        if !self.streams.contains_key(&stream.id) && self.streams.len() >= MAX_CHANNELS {
            return Err(TransportError::Limit(format!(
                "more than {MAX_CHANNELS} data producers, data consumers and closing streams \
                 on one transport"
            )));
        }
        Ok(())
    }

    /// Adds a checked stream. Its channel opens as soon as it can.
    pub fn add(&mut self, user: DataUser, parameters: StreamParameters) {
        let stream = self.streams.entry(parameters.id).or_default();
        stream.user = Some((user, parameters));
        stream.ended = false;
        stream.taken_over = stream.channel.is_some() && stream.left_open;
        stream.stale |= stream.channel.is_some() && stream.made != Some(parameters);
        self.look_at(parameters.id);
    }

    /// Closes a stream; its id may be used again at once.
    fn remove(&mut self, rtc: Option<&mut Rtc>, id: u16) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let user = stream.user.take();
            let sent = matches!(user, Some((DataUser::Producer(_), _)));
            // One that has not been open has nothing to be reset.
            let open = stream.channel.zip(rtc);
            let open = open.is_some_and(|(channel, rtc)| rtc.channel(channel).is_some());
            stream.left_open = open;
            stream.stale |= sent && open;
            self.look_at(id);
        }
    }

    /// Brings str0m's channels closer to what is wanted; the next advance of
    /// str0m carries it out.
    pub fn settle(&mut self, rtc: &mut Rtc) {
        self.woken = false;
        for id in std::mem::take(&mut self.unsettled) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.listed = false;
            }
            if !self.settle_one(rtc, id) {
                self.look_at(id);
            }
        }
    }

    /// Lists a stream to be settled, once.
    fn look_at(&mut self, id: u16) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.listed, true)
        {
            self.unsettled.push(id);
        }
    }

    /// True when nothing is left to be done for a stream, or an event of str0m
    /// will list it again.
    fn settle_one(&mut self, rtc: &mut Rtc, id: u16) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return true;
        };
        match (stream.channel, &stream.user) {
            (Some(_), _) if stream.closing => true,
            (Some(channel), _) if stream.stale => {
                // One that is not open yet would forget that it has to close, and
                // what a closed one still holds would count nowhere.
                let drained = rtc
                    .channel(channel)
                    .is_some_and(|mut channel| channel.buffered_amount() == 0);
                if drained {
                    rtc.direct_api().close_data_channel(channel);
                    stream.closing = true;
                }
                true
            }
            (Some(_), _) => true,
            (None, Some((_, wanted))) if !stream.ended => {
                let mut api = rtc.direct_api();
                // str0m panics on an id that it has.
                if api.channel_id_by_sctp_stream_id(id).is_some() {
                    return false;
                }
                let channel = api.create_data_channel(ChannelConfig {
                    ordered: wanted.ordered,
                    reliability: wanted.reliability,
                    negotiated: Some(id),
                    ..ChannelConfig::default()
                });
                stream.channel = Some(channel);
                stream.made = Some(*wanted);
                self.by_channel.insert(channel, id);
                true
            }
            (None, Some(_)) => true,
            (None, None) => {
                self.streams.remove(&id);
                true
            }
        }
    }

    /// True when [`DataChannels::settle`] has something to do.
    pub fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Whether a flush would bring unsettled streams on.
    pub fn wants_flush(&self) -> bool {
        self.woken && self.is_unsettled()
    }

    /// str0m has opened a channel. One that the client opens in-band is not
    /// wanted: it is closed.
    pub fn handle_open(&mut self, rtc: &mut Rtc, channel: ChannelId) {
        if let Some(id) = self.by_channel.get(&channel).copied() {
            self.go_on(id);
            return;
        }
        if let Some(id) = rtc.direct_api().sctp_stream_id_by_channel_id(channel) {
            self.by_channel.insert(channel, id);
            let stream = self.streams.entry(id).or_default();
            stream.channel = Some(channel);
            stream.made = None;
            stream.stale = true;
            self.go_on(id);
        }
    }

    /// A channel holds nothing any more: it may be waiting to be closed.
    pub fn handle_drained(&mut self, rtc: &mut Rtc, channel: ChannelId) {
        let Some(id) = self.by_channel.get(&channel).copied() else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            // Something may have been written since.
            let open = rtc.channel(channel);
            let held = open.map_or(0, |mut channel| channel.buffered_amount());
            self.held_messages -= stream.backlog.shrink(held);
        }
        self.go_on(id);
    }

    /// A stream whose channel has to be closed may have waited for this.
    fn go_on(&mut self, id: u16) {
        if self.streams.get(&id).is_some_and(|stream| stream.stale) {
            self.look_at(id);
            self.woken = true;
        }
    }

    /// str0m has closed a channel, because we wanted it or the client has.
    pub fn handle_close(&mut self, channel: ChannelId) {
        let Some(id) = self.by_channel.remove(&channel) else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.channel = None;
            stream.closing = false;
            let stale = std::mem::take(&mut stream.stale);
            let taken_over = std::mem::take(&mut stream.taken_over);
            stream.ended = !stale && !taken_over;
            self.held_messages -= std::mem::take(&mut stream.backlog).len();
            self.look_at(id);
            self.woken = true;
        }
    }

    /// Finds the data producer of a message. `None`: it belongs to none, or is
    /// longer than negotiated.
    pub fn accept(&self, message: ChannelData) -> Option<DataReceived> {
        let limits = self.limits?;
        let stream = self.streams.get(self.by_channel.get(&message.id)?)?;
        let fits = u32::try_from(message.data.len()).is_ok_and(|l| l <= limits.max_message_size);
        match stream.user {
            Some((DataUser::Producer(producer), _)) if fits && !stream.stale => {
                Some(DataReceived {
                    producer,
                    binary: message.binary,
                    payload: message.data,
                })
            }
            _ => None,
        }
    }

    /// Queues a message on a stream; it leaves with the next flush.
    pub fn send(&mut self, rtc: &mut Rtc, id: u16, binary: bool, payload: &[u8]) -> DataSent {
        let (Some(limits), Some(stream)) = (self.limits, self.streams.get_mut(&id)) else {
            return DataSent::NotOpen;
        };
        if u32::try_from(payload.len()).map_or(true, |len| len > limits.max_message_size) {
            return DataSent::TooLong;
        }
        let open = stream.channel.filter(|_| !stream.stale);
        let Some(mut channel) = open.and_then(|channel| rtc.channel(channel)) else {
            return DataSent::NotOpen;
        };
        let payload = if payload.is_empty() {
            sctp::empty_message()
        } else {
            payload
        };
        let held = channel.buffered_amount();
        self.held_messages -= stream.backlog.shrink(held);
        if self.held_messages >= MAX_TRANSPORT_BACKLOG_MESSAGES
            || !stream.backlog.fits(held, payload.len())
        {
            return DataSent::Full;
        }
        match channel.write(binary, payload) {
            Ok(true) => {
                stream.backlog.push(payload.len());
                self.held_messages += 1;
                DataSent::Queued
            }
            Ok(false) => DataSent::Full,
            Err(_) => DataSent::NotOpen,
        }
    }

    /// Notes what delivering a message of the client has cost.
    pub fn charge(&mut self, now: Instant, len: usize, consumers: usize) {
        self.budget.charge(now, len, consumers);
    }

    /// Whether the client's messages have cost so much that it is not listened to
    /// now.
    pub fn is_spent(&self, now: Instant) -> bool {
        self.budget.is_spent(now)
    }

    /// Bytes that are held for a stream until the client has acknowledged them.
    pub fn buffered_amount(&self, rtc: &mut Rtc, id: u16) -> usize {
        self.streams
            .get(&id)
            .and_then(|stream| rtc.channel(stream.channel?))
            .map_or(0, |mut channel| channel.buffered_amount())
    }
}

impl WebRtcTransport {
    /// Current SCTP state.
    pub fn sctp_state(&self) -> SctpState {
        match self.dtls_state() {
            _ if self.data.limits.is_none() => SctpState::None,
            DtlsState::New | DtlsState::Connecting => SctpState::New,
            DtlsState::Connected if self.data.established => SctpState::Connected,
            DtlsState::Connected => SctpState::Connecting,
            DtlsState::Failed | DtlsState::Closed => SctpState::Closed,
        }
    }

    /// Its data channels. What is added is carried out by the next flush.
    pub fn data(&mut self) -> &mut DataChannels {
        &mut self.data
    }

    /// Closes the stream of a data producer or data consumer.
    pub fn close_data(&mut self, stream: u16) {
        self.data.remove(self.rtc.as_deref_mut(), stream);
    }

    /// Queues a message on a data channel; it leaves with the next flush.
    pub fn send_data(&mut self, stream: u16, binary: bool, payload: &[u8]) -> DataSent {
        match self.rtc.as_deref_mut() {
            Some(rtc) => self.data.send(rtc, stream, binary, payload),
            None => DataSent::NotOpen,
        }
    }

    /// Bytes that wait on a data channel until the client has acknowledged them.
    pub fn data_buffered(&mut self, stream: u16) -> usize {
        let rtc = self.rtc.as_deref_mut();
        rtc.map_or(0, |rtc| self.data.buffered_amount(rtc, stream))
    }
}

/// Remote ICE credentials that an `Rtc` holds.
#[derive(Debug, Clone, Copy)]
pub struct RemoteIce<'a> {
    /// Username fragment.
    pub ufrag: &'a str,
    /// Password.
    pub password: &'a str,
}

/// The offer that starts SCTP, with the longest message that the client takes,
/// in bytes. str0m's direct way to start it does not tell that.
fn offer(max_message_size: u32, ice_ufrag: &str, ice_password: &str) -> String {
    let fingerprint = ["00"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE sctp\r\n\
         a=ice-ufrag:{ice_ufrag}\r\na=ice-pwd:{ice_password}\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:active\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
         a=mid:sctp\r\na=sctp-port:5000\r\na=max-message-size:{max_message_size}\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u16) -> StreamParameters {
        StreamParameters {
            id,
            ordered: true,
            reliability: Reliability::Reliable,
        }
    }

    #[test]
    fn coming_and_going_before_the_client_connects_leaves_little() {
        let mut channels = DataChannels::new(Some(SctpLimits {
            num_streams: u16::MAX,
            max_message_size: MAX_MESSAGE_SIZE,
        }));
        let user = DataUser::Producer(DataProducerKey::default());
        for _ in 0..1000 {
            channels.check(&stream(7)).unwrap();
            channels.add(user, stream(7));
            channels.remove(None, 7);
        }
        assert_eq!((channels.streams.len(), channels.unsettled.len()), (1, 1));
        let mut taken = 0;
        for id in 0..u16::MAX {
            if channels.check(&stream(id)).is_ok() {
                channels.add(user, stream(id));
                channels.remove(None, id);
                taken += 1;
            }
        }
        assert_eq!(taken, MAX_CHANNELS, "what is closing counts");
        assert_eq!(channels.unsettled.len(), MAX_CHANNELS);
        let error = channels.check(&stream(60_000)).unwrap_err().to_string();
        assert!(error.contains("1024"), "{error}");
        assert!(channels.check(&stream(7)).is_ok(), "it is counted already");
    }
}
