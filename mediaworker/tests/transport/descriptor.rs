//! The dependency descriptor header extension (AV1 RTP payload format 1.0, appendix A) for
//! clients that are str0m, which does not know it.

use mediaworker::transport::extensions::DEPENDENCY_DESCRIPTOR;
use test_peer::str0m::rtp::{Extension, ExtensionSerializer, ExtensionValues};

/// Bytes of the fields that every descriptor begins with.
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
}

/// The extension as str0m takes it.
pub fn extension() -> Extension {
    Extension::with_serializer(DEPENDENCY_DESCRIPTOR, Serializer)
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
