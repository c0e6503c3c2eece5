//! Reads a request's JSON body: bounded in size and time, and with errors that
//! say what is wrong.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::error::Error;

/// Largest body, bytes.
const MAX_BODY: usize = 64 << 10;

/// Time for a whole body to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The body's object; an empty body, or `null`, counts as an empty object.
///
/// # Errors
/// [`Error::BodyTooLarge`], [`Error::BodyTimeout`], or [`Error::BadField`]
/// when it is no JSON object.
pub(super) async fn read_object(body: Body) -> Result<Map<String, Value>, Error> {
    // A client that breaks off in the middle gets an answer that nobody reads.
    let bytes = timeout(BODY_DEADLINE, to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| Error::BodyTimeout)?
        .map_err(|_| Error::BodyTooLarge(MAX_BODY))?;
    parse_object(&bytes)
}

fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(Error::field("body", "must be a JSON object")),
        Err(_) => Err(Error::field("body", "is not valid JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let error = |bytes: &[u8]| parse_object(bytes).unwrap_err().to_string();
        assert!(parse_object(b"").unwrap().is_empty());
        assert!(parse_object(b" \r\n").unwrap().is_empty());
        assert!(parse_object(b"null").unwrap().is_empty());
        assert_eq!(parse_object(b"{\"a\":1}").unwrap().len(), 1);
        assert_eq!(error(b"[]"), "body must be a JSON object");
        assert_eq!(error(b"0"), "body must be a JSON object");
        assert_eq!(error(b"{\"a\""), "body is not valid JSON");
        assert_eq!(error(b"\xff"), "body is not valid JSON");
    }
}
