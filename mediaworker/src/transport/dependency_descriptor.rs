//! The dependency descriptor (AV1 RTP payload format 1.0, appendix A) as a
//! header extension: its octets, as a client sends them. What they say is none
//! of the transport's business.

use str0m::rtp::{Extension, ExtensionSerializer, ExtensionValues};

/// URI of the extension.
pub const URI: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// Longest value of the one-byte form of header extensions (RFC 8285 §4.2). The
/// descriptors that bring templates are longer, and their packets have the
/// two-byte form, whose longest value is [`MAX_LEN`].
const MAX_SHORT: usize = 16;

/// See [`MAX_SHORT`].
const MAX_LEN: usize = 255;

/// The descriptor of one packet: 1 to 255 octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyDescriptor(Box<[u8]>);

impl DependencyDescriptor {
    /// A descriptor of these octets; `None` when there are none, or too many.
    pub fn new(octets: &[u8]) -> Option<Self> {
        let fits = (1..=MAX_LEN).contains(&octets.len());
        fits.then(|| Self(octets.into()))
    }

    /// The descriptor of a packet.
    pub fn of(values: &ExtensionValues) -> Option<&Self> {
        values.user_values.get()
    }

    /// Its octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

/// The extension as str0m has to be given it, which does not know it by itself.
pub fn extension() -> Extension {
    Extension::with_serializer(URI, Serializer)
}

/// Gives a packet the descriptor of another one, if that has one. The octets are
/// shared.
pub fn copy(from: &ExtensionValues, to: &mut ExtensionValues) {
    if let Some(descriptor) = from.user_values.get_arc::<DependencyDescriptor>() {
        to.user_values.set_arc(descriptor);
    }
}

#[derive(Debug)]
struct Serializer;

impl ExtensionSerializer for Serializer {
    fn write_to(&self, buf: &mut [u8], values: &ExtensionValues) -> usize {
        let octets = DependencyDescriptor::of(values).map(DependencyDescriptor::octets);
        let octets = octets.unwrap_or_default();
        match buf.get_mut(..octets.len()) {
            Some(place) => {
                place.copy_from_slice(octets);
                octets.len()
            }
            None => 0,
        }
    }

    fn parse_value(&self, octets: &[u8], values: &mut ExtensionValues) -> bool {
        match DependencyDescriptor::new(octets) {
            Some(descriptor) => {
                values.user_values.set(descriptor);
                true
            }
            None => false,
        }
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }

    fn requires_two_byte_form(&self, values: &ExtensionValues) -> bool {
        DependencyDescriptor::of(values).is_some_and(|it| it.octets().len() > MAX_SHORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_carried_as_they_are() {
        for (len, two_byte) in [(1, false), (3, false), (16, false), (17, true), (255, true)] {
            let octets: Vec<u8> = (0..len).collect();
            let mut values = ExtensionValues::default();
            assert!(Serializer.parse_value(&octets, &mut values));
            assert_eq!(
                Serializer.requires_two_byte_form(&values),
                two_byte,
                "{len}"
            );
            let mut copied = ExtensionValues::default();
            copy(&values, &mut copied);
            let mut written = [0xAA; 300];
            assert_eq!(Serializer.write_to(&mut written, &copied), octets.len());
            assert_eq!(written[..octets.len()], octets);
            assert_eq!(written[octets.len()], 0xAA);
            // Without the room for it, it is left out.
            assert_eq!(
                Serializer.write_to(&mut written[..octets.len() - 1], &copied),
                0
            );
        }
    }

    #[test]
    fn none_is_none() {
        let mut values = ExtensionValues::default();
        assert!(!Serializer.parse_value(&[], &mut values));
        assert!(!Serializer.parse_value(&[0; 256], &mut values));
        let mut copied = ExtensionValues::default();
        copy(&values, &mut copied);
        assert_eq!(DependencyDescriptor::of(&copied), None);
        assert!(!Serializer.requires_two_byte_form(&copied));
        assert_eq!(Serializer.write_to(&mut [0; 300], &copied), 0);
    }
}
