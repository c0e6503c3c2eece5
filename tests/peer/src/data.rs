//! Data channels of the client, negotiated by SCTP stream id as mediasoup's
//! clients do it, or opened in-band as they never do.

use std::collections::HashMap;

use str0m::Event;
use str0m::change::SdpOffer;
use str0m::channel::{ChannelConfig, ChannelId, Reliability};

use super::{Peer, Remote};

/// A message that the client has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// SCTP stream.
    pub stream: u16,
    /// Binary, or else a string.
    pub binary: bool,
    /// The message.
    pub payload: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Channels {
    by_stream: HashMap<u16, ChannelId>,
    streams: HashMap<ChannelId, u16>,
}

impl Peer {
    /// Makes it start SCTP when it connects.
    pub fn enable_data(&mut self) {
        self.data = Some(Channels::default());
    }

    /// Starts SCTP; the server takes messages of any length.
    pub(super) fn start_sctp(&mut self, remote: &Remote) -> Result<(), String> {
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE sctp\r\n\
             a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-lite\r\n\
             a=fingerprint:sha-256 {}\r\na=setup:active\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
             a=mid:sctp\r\na=sctp-port:5000\r\na=max-message-size:0\r\n",
            remote.ufrag, remote.password, remote.fingerprint
        );
        let offer = SdpOffer::from_sdp_string(&sdp).map_err(|e| e.to_string())?;
        let accepted = self.rtc.sdp_api().accept_offer(offer);
        accepted.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Creates a negotiated channel.
    pub fn create_channel(&mut self, stream: u16, ordered: bool, reliability: Reliability) {
        self.create(
            Some(stream),
            ChannelConfig {
                ordered,
                reliability,
                negotiated: Some(stream),
                ..ChannelConfig::default()
            },
        );
    }

    /// Creates a channel in-band (RFC 8832).
    pub fn create_in_band_channel(&mut self) {
        self.create(None, ChannelConfig::default());
    }

    fn create(&mut self, stream: Option<u16>, config: ChannelConfig) {
        let id = self.rtc.direct_api().create_data_channel(config);
        if let Some((channels, stream)) = self.data.as_mut().zip(stream) {
            channels.by_stream.insert(stream, id);
            channels.streams.insert(id, stream);
        }
    }

    /// Closes a channel.
    pub fn close_channel(&mut self, stream: u16) {
        if let Some(id) = self.channel_id(stream) {
            self.rtc.direct_api().close_data_channel(id);
        }
    }

    /// Sends a message. False when the channel is not open or its buffer full.
    pub fn send_message(&mut self, stream: u16, binary: bool, payload: &[u8]) -> bool {
        self.channel_id(stream)
            .and_then(|id| self.rtc.channel(id))
            .is_some_and(|mut channel| channel.write(binary, payload).unwrap_or(false))
    }

    /// True when a channel is open.
    pub fn is_channel_open(&mut self, stream: u16) -> bool {
        self.channel_id(stream)
            .is_some_and(|id| self.rtc.channel(id).is_some())
    }

    fn channel_id(&self, stream: u16) -> Option<ChannelId> {
        self.data.as_ref()?.by_stream.get(&stream).copied()
    }

    pub(super) fn handle_data_event(&mut self, event: Event) {
        let Some(channels) = &mut self.data else {
            return;
        };
        match event {
            Event::ChannelData(data) => {
                if let Some(stream) = channels.streams.get(&data.id) {
                    self.messages.push(Message {
                        stream: *stream,
                        binary: data.binary,
                        payload: data.data,
                    });
                }
            }
            Event::ChannelClose(id) => {
                if let Some(stream) = channels.streams.remove(&id) {
                    if channels.by_stream.get(&stream) == Some(&id) {
                        channels.by_stream.remove(&stream);
                    }
                    self.closed_channels.push(stream);
                }
            }
            _ => {}
        }
    }
}
