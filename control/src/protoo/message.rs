//! protoo messages: parsing what a client sent, writing what the server sends.
//! Pure; a message that makes no sense is `None` and gets dropped.

use serde::Serialize;
use serde_json::{Map, Value};

/// Largest integer that a JavaScript number holds exactly.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A message from a client.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Wants exactly one response with the same id.
    Request(Request),
    /// Answers one of the server's requests.
    Response(Response),
    /// Wants nothing.
    Notification {
        /// What it is about.
        method: String,
        /// Its content, `{}` when the client gave none.
        data: Value,
    },
}

/// A client's request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Chosen by the client, 0 to 2^53 - 1.
    pub id: u64,
    /// What is asked for.
    pub method: String,
    /// Its content, `{}` when the client gave none.
    pub data: Value,
}

/// A client's answer to a request of the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The id of the server's request.
    pub id: u64,
    /// Accepted, or why not.
    pub result: Result<(), Rejection>,
}

/// Why a client rejected a request of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The client's `errorReason`, empty when it gave none.
    pub reason: String,
}

/// Reads one text frame. `None` for what protoo drops silently: malformed JSON,
/// anything but an object, a missing or wrong id or method.
pub fn parse(text: &str) -> Option<Message> {
    let Ok(Value::Object(mut message)) = serde_json::from_str(text) else {
        return None;
    };
    if truthy(message.get("request")) {
        Some(Message::Request(Request {
            id: id(&message)?,
            method: method(&mut message)?,
            data: data(&mut message),
        }))
    } else if truthy(message.get("response")) {
        let result = if truthy(message.get("ok")) {
            Ok(())
        } else {
            let reason = message.get("errorReason").and_then(Value::as_str);
            Err(Rejection {
                reason: reason.unwrap_or_default().to_owned(),
            })
        };
        Some(Message::Response(Response {
            id: id(&message)?,
            result,
        }))
    } else if truthy(message.get("notification")) {
        Some(Message::Notification {
            method: method(&mut message)?,
            data: data(&mut message),
        })
    } else {
        None
    }
}

/// What the server writes; exactly one of the first three is true.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a> {
    #[serde(skip_serializing_if = "is_false")]
    request: bool,
    #[serde(skip_serializing_if = "is_false")]
    response: bool,
    #[serde(skip_serializing_if = "is_false")]
    notification: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<&'a str>,
}

impl Outgoing<'_> {
    fn to_text(&self) -> String {
        // Only a map with keys that are no strings could fail; there is none.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A request of the server.
pub fn request(id: u64, method: &str, data: &Value) -> String {
    Outgoing {
        request: true,
        id: Some(id),
        method: Some(method),
        data: Some(data),
        ..Outgoing::default()
    }
    .to_text()
}

/// The answer to a request that succeeded.
pub fn success(id: u64, data: &Value) -> String {
    Outgoing {
        response: true,
        id: Some(id),
        ok: Some(true),
        data: Some(data),
        ..Outgoing::default()
    }
    .to_text()
}

/// The answer to a request that failed. protoo-server leaves `ok` out; clients
/// test whether it is truthy, so stating it is compatible and clearer.
pub fn error(id: u64, code: u16, reason: &str) -> String {
    Outgoing {
        response: true,
        id: Some(id),
        ok: Some(false),
        error_code: Some(code),
        error_reason: Some(reason),
        ..Outgoing::default()
    }
    .to_text()
}

/// A notification of the server.
pub fn notification(method: &str, data: &Value) -> String {
    Outgoing {
        notification: true,
        method: Some(method),
        data: Some(data),
        ..Outgoing::default()
    }
    .to_text()
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn id(message: &Map<String, Value>) -> Option<u64> {
    let id = message.get("id")?;
    // A client may write an integral number as 7.0 or 1e3.
    let id = id.as_u64().or_else(|| integral(id.as_f64()?))?;
    (id <= MAX_SAFE_INTEGER).then_some(id)
}

fn integral(number: f64) -> Option<u64> {
    let fits = number.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER as f64).contains(&number);
    fits.then_some(number as u64)
}

fn method(message: &mut Map<String, Value>) -> Option<String> {
    match message.remove("method") {
        Some(Value::String(method)) => Some(method),
        _ => None,
    }
}

fn data(message: &mut Map<String, Value>) -> Value {
    match message.remove("data") {
        Some(data) if truthy(Some(&data)) => data,
        _ => Value::Object(Map::new()),
    }
}

/// What JavaScript takes for true.
fn truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(value)) => value.as_f64() != Some(0.0),
        Some(Value::String(value)) => !value.is_empty(),
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request_of(text: &str) -> Option<Request> {
        match parse(text) {
            Some(Message::Request(request)) => Some(request),
            _ => None,
        }
    }

    #[test]
    fn requests() {
        let table = [
            (
                r#"{"request":true,"id":7,"method":"join","data":{"a":1}}"#,
                7,
                json!({"a": 1}),
            ),
            (r#"{"request":true,"id":0,"method":"join"}"#, 0, json!({})),
            (
                r#"{"request":true,"id":1e3,"method":"join","data":null}"#,
                1000,
                json!({}),
            ),
            (
                r#"{"request":true,"id":2.0,"method":"join","data":""}"#,
                2,
                json!({}),
            ),
            (
                r#"{"request":1,"id":3,"method":"join","data":0}"#,
                3,
                json!({}),
            ),
            (
                r#"{"request":true,"id":9007199254740991,"method":"join","data":[1]}"#,
                9_007_199_254_740_991,
                json!([1]),
            ),
        ];
        for (text, id, data) in table {
            let expected = Request {
                id,
                method: "join".into(),
                data,
            };
            assert_eq!(request_of(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_dropped() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let table = [
            "",
            "x",
            "{",
            "null",
            "1",
            "\"request\"",
            "[]",
            "[{\"request\":true}]",
            "{}",
            r#"{"id":1,"method":"join"}"#,
            r#"{"request":false,"id":1,"method":"join"}"#,
            r#"{"request":true,"method":"join"}"#,
            r#"{"request":true,"id":"1","method":"join"}"#,
            r#"{"request":true,"id":-1,"method":"join"}"#,
            r#"{"request":true,"id":1.5,"method":"join"}"#,
            r#"{"request":true,"id":1e300,"method":"join"}"#,
            r#"{"request":true,"id":9007199254740992,"method":"join"}"#,
            r#"{"request":true,"id":null,"method":"join"}"#,
            r#"{"request":true,"id":1}"#,
            r#"{"request":true,"id":1,"method":5}"#,
            r#"{"response":true,"ok":true}"#,
            r#"{"notification":true}"#,
            deep.as_str(),
        ];
        for text in table {
            assert_eq!(parse(text), None, "{text:.60}");
        }
    }

    #[test]
    fn responses() {
        let accepted = parse(r#"{"response":true,"id":4,"ok":true,"data":{}}"#);
        assert_eq!(
            accepted,
            Some(Message::Response(Response {
                id: 4,
                result: Ok(())
            }))
        );
        let table = [
            (
                r#"{"response":true,"id":4,"ok":false,"errorCode":500,"errorReason":"no"}"#,
                "no",
            ),
            (r#"{"response":true,"id":4,"errorCode":"x"}"#, ""),
        ];
        for (text, reason) in table {
            let result = Err(Rejection {
                reason: reason.into(),
            });
            assert_eq!(
                parse(text),
                Some(Message::Response(Response { id: 4, result })),
                "{text}"
            );
        }
    }

    #[test]
    fn notifications() {
        let parsed = parse(r#"{"notification":true,"method":"hello"}"#);
        let expected = Message::Notification {
            method: "hello".into(),
            data: json!({}),
        };
        assert_eq!(parsed, Some(expected));
    }

    #[test]
    fn what_the_server_writes() {
        let parsed = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        assert_eq!(
            parsed(request(5, "newConsumer", &json!({"id": "c"}))),
            json!({"request": true, "id": 5, "method": "newConsumer", "data": {"id": "c"}})
        );
        assert_eq!(
            parsed(success(5, &json!({}))),
            json!({"response": true, "id": 5, "ok": true, "data": {}})
        );
        assert_eq!(
            parsed(error(5, 400, "kind is missing")),
            json!({"response": true, "id": 5, "ok": false, "errorCode": 400,
                "errorReason": "kind is missing"})
        );
        assert_eq!(
            parsed(notification("peerClosed", &json!({"peerId": "p"}))),
            json!({"notification": true, "method": "peerClosed", "data": {"peerId": "p"}})
        );
    }
}
