//! Why a negotiation was refused, in words that name the field.

/// A refused negotiation. The text is safe to show to the client: it holds
/// field names, limits and validated tokens, never raw input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrtcError {
    /// A field is missing, has the wrong type or a value that makes no sense.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where, for example `rtpParameters.codecs[1].clockRate`.
        path: String,
        /// What is allowed, for example `must be an integer in 1..=1000000`.
        reason: String,
    },
    /// Well-formed, but nothing that this router can serve.
    #[error("{0}")]
    Unsupported(String),
    /// An id is taken on the transport, for example
    /// `MID "0" already exists on transport`.
    #[error("{0} already exists on transport")]
    AlreadyExists(String),
}

impl OrtcError {
    pub(super) fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        OrtcError::Invalid {
            path: path.into(),
            reason: reason.into(),
        }
    }
}
