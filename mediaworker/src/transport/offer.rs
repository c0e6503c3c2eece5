//! One-line SDP offers: the only way to teach a living `Rtc` payload types and
//! header-extension ids.
//!
//! Nothing that a client wrote is copied into an offer as text: payload types
//! are numbers, codecs are slots and extension URIs come from our own table.

use std::fmt::Write;

use super::slots::{PayloadType, SlotCodec};

/// What one offer teaches.
#[derive(Debug)]
pub struct Lesson<'a> {
    /// Audio or video.
    pub audio: bool,
    /// A MID that no media of the transport has.
    pub mid: &'a str,
    /// Payload types with their slots.
    pub codecs: &'a [(PayloadType, SlotCodec)],
    /// The client negotiated transport-wide congestion control.
    pub transport_cc: bool,
    /// Id and URI.
    pub extensions: &'a [(u8, &'a str)],
    /// The remote ICE credentials that the `Rtc` has already: others would
    /// restart ICE.
    pub ice_ufrag: &'a str,
    /// See `ice_ufrag`.
    pub ice_password: &'a str,
}

impl Lesson<'_> {
    /// The offer as SDP.
    pub fn to_sdp(&self) -> String {
        let mut sdp = String::with_capacity(1024);
        // Writing to a String cannot fail.
        let _ = self.write(&mut sdp);
        sdp
    }

    fn write(&self, sdp: &mut String) -> std::fmt::Result {
        let fingerprint = ["00"; 32].join(":");
        write!(
            sdp,
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n\
             a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {fingerprint}\r\n\
             a=setup:active\r\n",
            self.mid, self.ice_ufrag, self.ice_password
        )?;
        let kind = if self.audio { "audio" } else { "video" };
        write!(sdp, "m={kind} 9 UDP/TLS/RTP/SAVPF")?;
        for (codec, _) in self.codecs {
            write!(sdp, " {}", codec.pt)?;
            if let Some(rtx) = codec.rtx {
                write!(sdp, " {rtx}")?;
            }
        }
        write!(
            sdp,
            "\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=sendonly\r\na=rtcp-mux\r\n",
            self.mid
        )?;
        for (codec, slot) in self.codecs {
            let pt = codec.pt;
            write!(sdp, "a=rtpmap:{pt} {}\r\n", slot.rtpmap)?;
            if let Some(fmtp) = &slot.fmtp {
                write!(sdp, "a=fmtp:{pt} {fmtp}\r\n")?;
            }
            if self.transport_cc {
                write!(sdp, "a=rtcp-fb:{pt} transport-cc\r\n")?;
            }
            if !self.audio {
                write!(
                    sdp,
                    "a=rtcp-fb:{pt} nack\r\na=rtcp-fb:{pt} nack pli\r\na=rtcp-fb:{pt} ccm fir\r\n"
                )?;
            }
            if let Some(rtx) = codec.rtx {
                write!(
                    sdp,
                    "a=rtpmap:{rtx} rtx/{}\r\na=fmtp:{rtx} apt={pt}\r\n",
                    codec.clock_rate
                )?;
            }
        }
        for (id, uri) in self.extensions {
            write!(sdp, "a=extmap:{id} {uri}\r\n")?;
        }
        Ok(())
    }
}

/// The offer that starts SCTP, with the longest message that the client takes,
/// in bytes. str0m's direct way to start it does not tell that. Its line takes
/// the index of the lessons' one: str0m compares media lines only with media.
pub fn application(max_message_size: u32, ice_ufrag: &str, ice_password: &str) -> String {
    let fingerprint = ["00"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE sctp\r\n\
         a=ice-ufrag:{ice_ufrag}\r\na=ice-pwd:{ice_password}\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:active\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
         a=mid:sctp\r\na=sctp-port:5000\r\na=max-message-size:{max_message_size}\r\n"
    )
}
