//! Payload-type slots: how str0m learns a client's own payload types.
//!
//! str0m fixes its codecs when an `Rtc` is built, and matches an offer's codecs
//! to them. In RTP mode it never reads a payload, so each (payload type, RTX
//! payload type, clock rate) of a client is offered as one of a set of private
//! codecs that match exactly, whatever the real codec is. That takes away codec
//! profile matching, and the limit of one payload type for each codec.

use str0m::format::{Codec, CodecConfig, FormatParams};
use str0m::media::Frequency;

use super::TransportError;

/// Slots for codecs with a 90 kHz clock (video), 48 kHz and 8 kHz (audio).
/// str0m panics when payload types run out: these, with an RTX type each, fit.
const VIDEO_SLOTS: usize = 16;
const AUDIO_48_SLOTS: usize = 6;
const AUDIO_8_SLOTS: usize = 4;

/// Number of the first private VP9 profile.
const FIRST_PROFILE: u32 = 1000;
/// Number of channels of the first private audio codec.
const FIRST_CHANNELS: u8 = 10;

/// A clock rate that the worker forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Video,
    Audio48,
    Audio8,
}

impl Clock {
    fn of(clock_rate: u32) -> Option<Self> {
        match clock_rate {
            90_000 => Some(Self::Video),
            48_000 => Some(Self::Audio48),
            8_000 => Some(Self::Audio8),
            _ => None,
        }
    }

    fn slots(self) -> usize {
        match self {
            Self::Video => VIDEO_SLOTS,
            Self::Audio48 => AUDIO_48_SLOTS,
            Self::Audio8 => AUDIO_8_SLOTS,
        }
    }
}

/// What a client sends on one payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadType {
    /// 0–127.
    pub pt: u8,
    /// Its RTX payload type.
    pub rtx: Option<u8>,
    /// Hz.
    pub clock_rate: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    clock: Clock,
    /// Which private codec of its clock.
    number: usize,
    taken: PayloadType,
    /// str0m has learnt it.
    taught: bool,
}

/// The payload types of one transport.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    slots: Vec<Slot>,
}

/// How a payload type is written in an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotCodec {
    /// Value of `a=rtpmap` after the payload type.
    pub rtpmap: String,
    /// Value of `a=fmtp` after the payload type.
    pub fmtp: Option<String>,
}

impl Slots {
    /// True when str0m has learnt this payload type, as it is.
    pub fn is_taught(&self, wanted: PayloadType) -> bool {
        self.slots.iter().any(|s| s.taken == wanted && s.taught)
    }

    /// Notes that str0m has learnt these payload types.
    pub fn set_taught(&mut self, learnt: impl Iterator<Item = PayloadType>) {
        for payload_type in learnt {
            for slot in &mut self.slots {
                slot.taught |= slot.taken == payload_type;
            }
        }
    }

    /// Takes a slot for a payload type, or finds the one that it has.
    ///
    /// # Errors
    /// A payload type that means something else already on this transport, a
    /// clock rate that is not forwarded, or no slot left.
    pub fn take(&mut self, wanted: PayloadType) -> Result<SlotCodec, TransportError> {
        let clock = Clock::of(wanted.clock_rate).ok_or_else(|| {
            TransportError::Invalid(format!(
                "codecs.clockRate: {} is not one of 8000, 48000 and 90000",
                wanted.clock_rate
            ))
        })?;
        if let Some(slot) = self.slots.iter().find(|s| s.taken == wanted) {
            return Ok(codec(slot.clock, slot.number));
        }
        let used = |pt: u8| {
            self.slots
                .iter()
                .any(|s| s.taken.pt == pt || s.taken.rtx == Some(pt))
        };
        if let Some(pt) = [Some(wanted.pt), wanted.rtx]
            .into_iter()
            .flatten()
            .find(|&pt| used(pt))
        {
            return Err(TransportError::Invalid(format!(
                "codecs.payloadType: {pt} already means another codec on this transport"
            )));
        }
        let number = self.slots.iter().filter(|s| s.clock == clock).count();
        if number >= clock.slots() {
            return Err(TransportError::Limit(format!(
                "codecs: more than {} payload types with a clock rate of {} on one transport",
                clock.slots(),
                wanted.clock_rate
            )));
        }
        self.slots.push(Slot {
            clock,
            number,
            taken: wanted,
            taught: false,
        });
        Ok(codec(clock, number))
    }
}

fn codec(clock: Clock, number: usize) -> SlotCodec {
    let (profile, channels) = (profile(number), channels(number));
    match clock {
        Clock::Video => SlotCodec {
            rtpmap: "VP9/90000".into(),
            fmtp: Some(format!("profile-id={profile}")),
        },
        Clock::Audio48 => SlotCodec {
            rtpmap: format!("opus/48000/{channels}"),
            fmtp: None,
        },
        Clock::Audio8 => SlotCodec {
            rtpmap: format!("PCMU/8000/{channels}"),
            fmtp: None,
        },
    }
}

fn profile(number: usize) -> u32 {
    FIRST_PROFILE.saturating_add(u32::try_from(number).unwrap_or(0))
}

fn channels(number: usize) -> u8 {
    FIRST_CHANNELS.saturating_add(u8::try_from(number).unwrap_or(0))
}

/// Fills a codec configuration with every slot, at payload types that offers
/// replace.
pub fn receiving_codecs(config: &mut CodecConfig) {
    config.clear();
    let mut free = (96..=127).chain(35..=63);
    for clock in [Clock::Video, Clock::Audio48, Clock::Audio8] {
        for (number, pt) in (0..clock.slots()).zip(&mut free) {
            add(config, clock, number, pt);
        }
    }
}

fn add(config: &mut CodecConfig, clock: Clock, number: usize, pt: u8) {
    let none = FormatParams::default();
    match clock {
        Clock::Video => config.add_config(
            pt.into(),
            None,
            Codec::Vp9,
            Frequency::NINETY_KHZ,
            None,
            FormatParams {
                profile_id: Some(profile(number)),
                ..none
            },
        ),
        Clock::Audio48 => config.add_config(
            pt.into(),
            None,
            Codec::Opus,
            Frequency::FORTY_EIGHT_KHZ,
            Some(channels(number)),
            none,
        ),
        Clock::Audio8 => config.add_config(
            pt.into(),
            None,
            Codec::PCMU,
            Frequency::EIGHT_KHZ,
            Some(channels(number)),
            none,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(pt: u8, rtx: u8) -> PayloadType {
        PayloadType {
            pt,
            rtx: Some(rtx),
            clock_rate: 90_000,
        }
    }

    #[test]
    fn the_same_payload_type_keeps_its_slot() {
        let mut slots = Slots::default();
        let first = slots.take(video(96, 97)).unwrap();
        let second = slots.take(video(98, 99)).unwrap();
        assert_ne!(first, second);
        assert!(!slots.is_taught(video(96, 97)));
        slots.set_taught(std::iter::once(video(96, 97)));
        assert!(slots.is_taught(video(96, 97)));
        assert!(!slots.is_taught(video(98, 99)));
        assert_eq!(slots.take(video(96, 97)).unwrap(), first);
    }

    #[test]
    fn a_payload_type_has_one_meaning() {
        let mut slots = Slots::default();
        slots.take(video(96, 97)).unwrap();
        for clash in [video(96, 100), video(97, 100), video(101, 96)] {
            let error = slots.take(clash).unwrap_err();
            assert!(matches!(error, TransportError::Invalid(_)), "{error}");
        }
    }

    #[test]
    fn slots_and_clock_rates_are_limited() {
        let mut slots = Slots::default();
        for i in 0..16 {
            slots.take(video(20 + 2 * i, 21 + 2 * i)).unwrap();
        }
        let error = slots.take(video(100, 101)).unwrap_err();
        assert!(matches!(error, TransportError::Limit(_)), "{error}");
        let odd = PayloadType {
            pt: 1,
            rtx: None,
            clock_rate: 44_100,
        };
        let error = slots.take(odd).unwrap_err();
        assert!(error.to_string().contains("44100"), "{error}");
    }
}
