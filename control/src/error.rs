//! Everything that can be wrong with a request, and the one map from that to a
//! protoo error (code and reason) and to an HTTP answer (status and body).

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tonic::Code;

use crate::ortc::OrtcError;
use crate::workers::WorkerError;

/// Longest piece of a client's own text that an error repeats, in characters.
const MAX_ECHO: usize = 128;

/// Why a protoo request or an HTTP request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is missing, has the wrong type or makes no sense; the text names it.
    #[error("{0}")]
    BadField(String),
    /// The method wants a joined peer.
    #[error("Peer not yet joined")]
    NotJoined,
    /// `join` a second time.
    #[error("Peer already joined")]
    AlreadyJoined,
    /// A transport, producer or consumer that this peer does not have.
    #[error("{kind} with id \"{id}\" not found")]
    UnknownEntity {
        /// What was looked for, for example `transport`.
        kind: &'static str,
        /// The id that the client gave, shortened.
        id: String,
    },
    /// A protoo method that this server does not speak.
    #[error("unknown request.method \"{0}\"")]
    UnknownMethod(String),
    /// The request makes sense, but not now or not here.
    #[error("{0}")]
    NotPossible(String),
    /// The client may not do this; the text says why.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The media worker refused or did not answer.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// No room has this id.
    #[error("room with id \"{0}\" does not exist")]
    UnknownRoom(String),
    /// POST of a room whose id is taken; the text is part of the contract.
    #[error("Room with roomId {0} already exists.")]
    RoomExists(String),
    /// A broadcaster's id that somebody of the room has.
    #[error("broadcaster with id \"{0}\" cannot be created: the id is taken")]
    IdTaken(String),
    /// A peer's id that a broadcaster has.
    #[error("peerId \"{0}\" is taken by a broadcaster")]
    BroadcastersId(String),
    /// Every seat of the room is taken.
    #[error("room is full")]
    RoomFull,
    /// A page of an origin that may not use the server.
    #[error("pages of this origin may not use this server")]
    ForeignOrigin,
    /// The upgrade does not offer the WebSocket subprotocol `protoo`.
    #[error("the WebSocket subprotocol \"protoo\" is required")]
    NoSubprotocol,
    /// The server takes nobody in at the moment.
    #[error("{0}")]
    Unavailable(&'static str),
    /// No worker took the room that was to be made.
    #[error("no media worker takes the room: {0}")]
    NoRouter(WorkerError),
    /// A path that wants a bearer token, without the right one.
    #[error("a valid bearer token is required")]
    Unauthorized,
    /// An admin path, asked from another machine, where no token is configured.
    #[error(
        "admin paths answer other machines only with the token of ADMIN_TOKEN, which is not set; \
         ADMIN_LISTEN gives them an address of their own"
    )]
    AdminOnly,
    /// The request's body is longer than allowed.
    #[error("the body is longer than {0} bytes")]
    BodyTooLarge(usize),
    /// The request's body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// No such path.
    #[error("no such path")]
    UnknownPath,
    /// The path exists, but not with this method.
    #[error("method not allowed on this path")]
    MethodNotAllowed,
}

impl Error {
    /// A field that is missing or wrong: `field` by its name on the wire, then
    /// what is allowed.
    pub fn field(field: &str, allowed: &str) -> Self {
        Error::BadField(format!("{field} {allowed}"))
    }

    /// An id that the peer does not have.
    pub fn unknown(kind: &'static str, id: &str) -> Self {
        Error::UnknownEntity {
            kind,
            id: shorten(id),
        }
    }

    /// A protoo method that does not exist.
    pub fn unknown_method(method: &str) -> Self {
        Error::UnknownMethod(shorten(method))
    }

    /// `errorCode` of a protoo error response: 400 for a bad field, 403 for what
    /// is forbidden, 500 for the rest, as protoo-server answers for any thrown error.
    pub fn protoo_code(&self) -> u16 {
        match self {
            Error::BadField(_) => 400,
            Error::Forbidden(_) => 403,
            Error::Worker(WorkerError::Refused { code, .. }) if *code == Code::InvalidArgument => {
                400
            }
            _ => 500,
        }
    }

    /// Status of the HTTP answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Error::BadField(_) => StatusCode::BAD_REQUEST,
            Error::Unauthorized => StatusCode::UNAUTHORIZED,
            Error::RoomFull
            | Error::BroadcastersId(_)
            | Error::ForeignOrigin
            | Error::AdminOnly
            | Error::Forbidden(_)
            | Error::NoSubprotocol => StatusCode::FORBIDDEN,
            Error::IdTaken(_) | Error::NotPossible(_) | Error::NotJoined | Error::AlreadyJoined => {
                StatusCode::CONFLICT
            }
            Error::UnknownRoom(_) | Error::UnknownEntity { .. } | Error::UnknownPath => {
                StatusCode::NOT_FOUND
            }
            Error::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Error::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Error::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Unavailable(_) | Error::NoRouter(_) | Error::Worker(WorkerError::Gone) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Worker(WorkerError::Refused { code, .. }) => match code {
                Code::InvalidArgument => StatusCode::BAD_REQUEST,
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::AlreadyExists | Code::FailedPrecondition | Code::ResourceExhausted => {
                    StatusCode::CONFLICT
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A bad value is the field's fault; a codec that nobody has, or an id that is
/// taken, is a well-formed wish that cannot be met.
impl From<OrtcError> for Error {
    fn from(error: OrtcError) -> Self {
        match error {
            OrtcError::Invalid { path, reason } => Error::field(&path, &reason),
            other => Error::NotPossible(other.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.to_string() }));
        let mut response = (self.status(), body).into_response();
        if self == Error::Unauthorized {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The text as an error may repeat it: short, without control characters.
fn shorten(text: &str) -> String {
    let printable = |c: &char| !c.is_control();
    let mut short: String = text.chars().filter(printable).take(MAX_ECHO).collect();
    if text.chars().filter(printable).nth(MAX_ECHO).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_contract() {
        assert_eq!(
            Error::unknown("transport", "x").to_string(),
            "transport with id \"x\" not found"
        );
        assert_eq!(
            Error::unknown_method("x").to_string(),
            "unknown request.method \"x\""
        );
        assert_eq!(Error::NotJoined.to_string(), "Peer not yet joined");
        assert_eq!(Error::AlreadyJoined.to_string(), "Peer already joined");
        assert_eq!(
            Error::RoomExists("a".into()).to_string(),
            "Room with roomId a already exists."
        );
        assert_eq!(
            Error::RoomExists("a".into()).status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }

    #[test]
    fn a_long_id_is_not_repeated_in_full() {
        let Error::UnknownEntity { id, .. } = Error::unknown("producer", &"é".repeat(5000)) else {
            panic!("not an unknown entity");
        };
        assert_eq!(id.chars().count(), MAX_ECHO + 1);
    }

    #[test]
    fn codes() {
        let refused = |code| {
            Error::from(WorkerError::Refused {
                code,
                message: String::new(),
            })
            .protoo_code()
        };
        assert_eq!(refused(Code::InvalidArgument), 400);
        assert_eq!(refused(Code::NotFound), 500);
        assert_eq!(Error::field("kind", "is missing").protoo_code(), 400);
        assert_eq!(Error::Forbidden("no").protoo_code(), 403);
        assert_eq!(Error::NotJoined.protoo_code(), 500);
    }
}
