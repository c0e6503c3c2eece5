//! What holds whatever clients send and operators configure, shown with damaged seeds.

use std::sync::LazyLock;

use serde_json::Value;
use test_inputs::{ROUNDS, run};

use crate::config;
use crate::http::damaged::headers;
use crate::ortc::promises::{check_consumer, check_producer, check_text};
use crate::ortc::{
    CodecName, ConsumerOptions, MAX_SSRC, OrtcError, RtpCapabilities, can_consume,
    consumer_rtp_parameters, media_codecs, negotiate_producer, parse_dtls_parameters,
    parse_media_kind, parse_rtp_capabilities, parse_rtp_parameters, pipe_consumer_rtp_parameters,
    router_rtp_capabilities,
};
use crate::protoo::dialect::Dialect;
use crate::protoo::message::{self, Message, Request, parse};

/// Longest input that is read as text, bytes: longer ones find nothing else.
const MAX_TEXT: usize = 16 << 10;

fn text(input: &[u8]) -> Option<&str> {
    std::str::from_utf8(input)
        .ok()
        .filter(|it| it.len() <= MAX_TEXT)
}

/// Reads a message of a protoo client.
///
/// # Panics
/// When it is another one once it was written and read again.
fn protoo(input: &[u8]) {
    let Some(read) = text(input).and_then(parse) else {
        return;
    };
    let again = match &read {
        Message::Request(Request { id, method, data }) => message::request(*id, method, data),
        Message::Response(response) => match &response.result {
            Ok(()) => message::success(response.id, &Value::Null),
            Err(why) => message::error(response.id, 400, &why.reason),
        },
        Message::Notification { method, data } => message::notification(method, data),
    };
    let again = parse(&again).unwrap_or_else(|| panic!("{again} is none"));
    // Fractions may differ in their last digit.
    if !has_fraction(&read) {
        assert_eq!(again, read);
    }
    let (Message::Request(Request { method, data, .. }) | Message::Notification { method, data }) =
        &read
    else {
        return;
    };
    for dialect in [Dialect::Seed, Dialect::Newest] {
        dialect.response(method, data);
        dialect.server_request(method, data);
        assert!(dialect.notifications(method, data).len() <= 2);
    }
}

fn has_fraction(message: &Message) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_f64(),
            Value::Array(array) => array.iter().any(within),
            Value::Object(object) => object.values().any(within),
            _ => false,
        }
    }
    match message {
        Message::Request(Request { data, .. }) | Message::Notification { data, .. } => within(data),
        Message::Response(_) => false,
    }
}

/// A router with all codecs that browsers use.
static ROUTER: LazyLock<RtpCapabilities> = LazyLock::new(|| {
    let more = [CodecName::Vp9, CodecName::Av1];
    let all: Vec<CodecName> = CodecName::DEFAULT.into_iter().chain(more).collect();
    router_rtp_capabilities(&media_codecs(&all)).unwrap()
});

/// Reads what a client wants to produce, as the data of its request; where that has
/// `rtpCapabilities` and `dtlsParameters`, those as well. Negotiates, also with a client
/// that consumes it.
///
/// # Panics
/// When something is accepted that does not keep its promises.
fn ortc(input: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    if let Ok(dtls) = parse_dtls_parameters(&request["dtlsParameters"]) {
        assert!(dtls.fingerprint.value.len() >= 59);
    }
    let remote = match request.get("rtpCapabilities") {
        Some(remote) => parse_rtp_capabilities(remote),
        None => Ok(ROUTER.clone()),
    };
    let producer = parse_media_kind(&request["kind"]).and_then(|kind| {
        let parameters = parse_rtp_parameters(kind, &request["rtpParameters"])?;
        negotiate_producer(kind, parameters, &ROUTER, 500_000_000)
    });
    let is_one_line = |error: &OrtcError| !error.to_string().chars().any(char::is_control);
    assert!(remote.as_ref().err().is_none_or(is_one_line));
    assert!(producer.as_ref().err().is_none_or(is_one_line));
    let Ok(producer) = producer else {
        return;
    };
    check_producer(&producer, &ROUTER);
    let piped = pipe_consumer_rtp_parameters(&producer.consumable, 1, true);
    check_text(&serde_json::to_value(piped).unwrap());
    let Ok(remote) = remote else {
        return;
    };
    let options = ConsumerOptions {
        mid: "0".into(),
        ssrc: MAX_SSRC,
        enable_rtx: true,
    };
    let consumer = consumer_rtp_parameters(&producer.consumable, &remote, &options);
    assert_eq!(consumer.is_ok(), can_consume(&producer.consumable, &remote));
    if let Ok(consumer) = consumer {
        check_consumer(&consumer);
    }
}

/// Reads a configuration file, and has every setting in it checked.
///
/// # Panics
/// When an error is not one line.
fn configuration(input: &[u8]) {
    let Some(text) = text(input) else {
        return;
    };
    let (mut problems, parsed) = config::of_file(text);
    if let Err(more) = parsed {
        assert!(!more.0.is_empty());
        problems.extend(more.0);
    }
    for problem in problems {
        let line = problem.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn messages_are_the_same_once_written_and_read() {
    run("protoo", ROUNDS, protoo);
}

#[test]
fn what_is_negotiated_keeps_its_promises() {
    run("ortc", ROUNDS, ortc);
}

#[test]
fn what_is_wrong_with_a_configuration_is_told_in_lines() {
    run("configuration", ROUNDS, configuration);
}

#[test]
fn what_requests_say_is_not_more_than_that() {
    run("headers", ROUNDS, headers);
}
