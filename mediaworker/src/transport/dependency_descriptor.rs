//! The dependency descriptor header extension (AV1 RTP payload format 1.0, appendix A), which str0m
//! does not know. Its bytes are passed on as they are; the router reads them.

use str0m::rtp::{Extension, ExtensionSerializer, ExtensionValues};

/// URI of the extension.
pub const URI: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// Bytes of the fields that every descriptor begins with; the last two are the frame number.
const LEAST: usize = 3;
/// Most bytes of an extension (RFC 8285 §4.3).
const MOST: usize = 255;
/// Most bytes of an extension in the one-byte form (§4.2).
const MOST_IN_ONE_BYTE_FORM: usize = 16;

/// The bytes of one descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyDescriptor(Vec<u8>);

impl DependencyDescriptor {
    /// A descriptor of these bytes; `None` when they are too few or too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let fits = (LEAST..=MOST).contains(&bytes.len());
        fits.then(|| Self(bytes.to_vec()))
    }

    /// The descriptor of a packet.
    pub fn of(values: &ExtensionValues) -> Option<&[u8]> {
        let found = values.user_values.get::<Self>()?;
        Some(&found.0)
    }

    /// Copies the descriptor of a packet, with another frame number if there is one.
    pub fn copy(from: &ExtensionValues, to: &mut ExtensionValues, frame_number: Option<u16>) {
        let Some(descriptor) = from.user_values.get_arc::<Self>() else {
            return;
        };
        let Some(number) = frame_number else {
            to.user_values.set_arc(descriptor);
            return;
        };
        let mut own = (*descriptor).clone();
        if let Some(place) = own.0.get_mut(1..LEAST) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        to.user_values.set(own);
    }
}

/// The extension as str0m takes it.
pub fn extension() -> Extension {
    Extension::with_serializer(URI, Serializer)
}

/// Takes the bytes from a packet and writes them into one.
#[derive(Debug)]
pub struct Serializer;

impl ExtensionSerializer for Serializer {
    fn write_to(&self, buf: &mut [u8], values: &ExtensionValues) -> usize {
        let Some(bytes) = DependencyDescriptor::of(values) else {
            return 0;
        };
        match buf.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                bytes.len()
            }
            None => 0,
        }
    }

    fn parse_value(&self, buf: &[u8], values: &mut ExtensionValues) -> bool {
        match DependencyDescriptor::new(buf) {
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
        let bytes = DependencyDescriptor::of(values);
        bytes.is_some_and(|bytes| bytes.len() > MOST_IN_ONE_BYTE_FORM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_and_the_frame_number_may_change() {
        let mut values = ExtensionValues::default();
        for len in [0, 2, 256] {
            assert!(!Serializer.parse_value(&vec![7; len], &mut values));
        }
        let mut to = ExtensionValues::default();
        DependencyDescriptor::copy(&values, &mut to, Some(1));
        assert_eq!(DependencyDescriptor::of(&to), None);
        assert!(Serializer.parse_value(&[0xc1, 2, 3, 4], &mut values));
        DependencyDescriptor::copy(&values, &mut to, None);
        assert_eq!(DependencyDescriptor::of(&to), Some(&[0xc1, 2, 3, 4][..]));
        DependencyDescriptor::copy(&values, &mut to, Some(0x1234));
        let mut buffer = [0; 8];
        assert_eq!(Serializer.write_to(&mut buffer, &to), 4);
        assert_eq!(buffer[..4], [0xc1, 0x12, 0x34, 4]);
        assert_eq!(Serializer.write_to(&mut buffer[..3], &to), 0);
        assert!(!Serializer.requires_two_byte_form(&to));
        assert!(Serializer.parse_value(&[1; 17], &mut to));
        assert!(Serializer.requires_two_byte_form(&to));
    }
}
