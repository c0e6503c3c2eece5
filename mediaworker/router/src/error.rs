//! What can be wrong with a call to the router.

use std::fmt;

use crate::types::MAX_STREAMS;

/// Why a call was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The key names no producer of this router (any more).
    UnknownProducer,
    /// The key names no consumer of this router (any more).
    UnknownConsumer,
    /// A number or an index of streams that is out of range.
    Streams,
    /// A clock rate of 0.
    ClockRate,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownProducer => f.write_str("unknown producer"),
            Self::UnknownConsumer => f.write_str("unknown consumer"),
            Self::Streams => write!(
                f,
                "streams out of range (a producer has 1 to {MAX_STREAMS})"
            ),
            Self::ClockRate => f.write_str("clock rate must not be 0"),
        }
    }
}

impl std::error::Error for Error {}
