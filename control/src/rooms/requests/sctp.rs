//! The SCTP fields of requests and answers: how many streams a transport has,
//! and what a data channel is like (W3C WebRTC section 6.1).

use std::ops::RangeInclusive;

use proto::SctpStreamParameters;
use serde_json::{Value, json};

use super::fields;
use crate::error::Error;
use crate::rooms::data::{DEFAULT_STREAMS, MAX_MESSAGE_SIZE};

/// SCTP port of every data channel transport.
const PORT: u16 = 5000;

/// Send buffer that clients are told of, bytes: the original's default.
const SEND_BUFFER_SIZE: u32 = 262_144;

/// Milliseconds or retransmissions, as RTCDataChannel takes them.
const RELIABILITY: RangeInclusive<u64> = 0..=65_535;

/// SCTP streams of a transport, as its client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NumStreams {
    /// Outgoing: towards the server.
    pub outgoing: u16,
    /// Incoming, at most.
    pub incoming: u16,
}

/// What `sctpCapabilities` asks for. Newer clients leave it out and want data
/// channels all the same.
pub(super) fn num_streams(data: &Value) -> Result<NumStreams, Error> {
    const NAME: &str = "sctpCapabilities";
    let capabilities = fields::optional_object(data, NAME)?;
    let within = fields::within(NAME);
    let wanted = match capabilities {
        Some(it) => fields::optional_object(it, "numStreams").map_err(&within)?,
        None => None,
    };
    let count = |name| -> Result<u16, Error> {
        let Some(wanted) = wanted else {
            return Ok(DEFAULT_STREAMS);
        };
        let count = fields::integer(wanted, name, 1..=65_535);
        let count = count.map_err(|error| within(fields::within("numStreams")(error)))?;
        // Nobody is refused for wanting more than there are: clients written for
        // other servers name what SCTP itself allows.
        Ok(count.map_or(DEFAULT_STREAMS, |count: u16| count.min(DEFAULT_STREAMS)))
    };
    Ok(NumStreams {
        outgoing: count("OS")?,
        incoming: count("MIS")?,
    })
}

/// `sctpParameters` of a new transport, for old clients and new: the latter
/// read the sizes for each direction, the former the one for both.
pub(super) fn sctp_parameters(streams: NumStreams) -> Value {
    json!({
        "port": PORT,
        "OS": streams.outgoing,
        "MIS": streams.incoming,
        "maxMessageSize": MAX_MESSAGE_SIZE,
        "maxSendMessageSize": MAX_MESSAGE_SIZE,
        "maxReceiveMessageSize": MAX_MESSAGE_SIZE,
        "sendBufferSize": SEND_BUFFER_SIZE,
        "isDataChannel": true,
    })
}

/// `sctpStreamParameters` of a data producer, whose stream id has to be below
/// `limit`. Where the order is left open, a limited reliability means without.
/// A limit of 0 is none, as in mediasoup: its clients are told of no such limit,
/// so the channels that they make to receive on have none either.
pub(super) fn stream_parameters(data: &Value, limit: u16) -> Result<SctpStreamParameters, Error> {
    const NAME: &str = "sctpStreamParameters";
    let within = fields::within(NAME);
    let missing = || Error::field(NAME, "is missing");
    let stream = fields::optional_object(data, NAME)?.ok_or_else(missing)?;
    let ids = 0..=u64::from(limit.saturating_sub(1));
    let id: Option<u16> = fields::integer(stream, "streamId", ids).map_err(&within)?;
    let id = id.ok_or_else(|| within(Error::field("streamId", "is missing")))?;
    let integer = |name| -> Result<Option<u32>, Error> {
        let limit = fields::integer(stream, name, RELIABILITY).map_err(&within)?;
        Ok(limit.filter(|limit| *limit > 0))
    };
    let max_packet_life_time = integer("maxPacketLifeTime")?;
    let max_retransmits = integer("maxRetransmits")?;
    let ordered = match fields::optional(stream, "ordered")? {
        Some(_) => Some(fields::flag(stream, "ordered").map_err(&within)?),
        None => None,
    };
    if max_packet_life_time.is_some() && max_retransmits.is_some() {
        let reason = "must not have both maxPacketLifeTime and maxRetransmits";
        return Err(Error::field(NAME, reason));
    }
    let reliable = max_packet_life_time.is_none() && max_retransmits.is_none();
    if ordered == Some(true) && !reliable {
        let reason = "must not be ordered with maxPacketLifeTime or maxRetransmits";
        return Err(Error::field(NAME, reason));
    }
    Ok(SctpStreamParameters {
        stream_id: id.into(),
        ordered: ordered.unwrap_or(reliable),
        max_packet_life_time,
        max_retransmits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(outgoing: u16, incoming: u16) -> NumStreams {
        NumStreams { outgoing, incoming }
    }

    #[test]
    fn numbers_of_streams() {
        let given =
            |os, mis| json!({ "sctpCapabilities": { "numStreams": { "OS": os, "MIS": mis } } });
        let default = streams(1024, 1024);
        let table = [
            (json!({}), default),
            (json!({ "sctpCapabilities": null }), default),
            (json!({ "sctpCapabilities": {} }), default),
            (json!({ "sctpCapabilities": { "numStreams": {} } }), default),
            (given(1, 65_535), streams(1, 1024)),
        ];
        for (data, expected) in table {
            assert_eq!(num_streams(&data), Ok(expected), "{data}");
        }
        let refused = [
            (json!({ "sctpCapabilities": 5 }), "sctpCapabilities must"),
            (
                json!({ "sctpCapabilities": { "numStreams": [] } }),
                "sctpCapabilities.numStreams must",
            ),
            (given(0, 1), "sctpCapabilities.numStreams.OS must"),
            (given(1, 65_536), "sctpCapabilities.numStreams.MIS must"),
        ];
        for (data, text) in refused {
            let error = num_streams(&data).unwrap_err().to_string();
            assert!(error.starts_with(text), "{data}: {error}");
        }
    }

    #[test]
    fn stream_parameters_as_clients_send_them() {
        let parse =
            |stream: Value| stream_parameters(&json!({ "sctpStreamParameters": stream }), 1024);
        let parameters = |stream_id, ordered, max_packet_life_time, max_retransmits| {
            Ok(SctpStreamParameters {
                stream_id,
                ordered,
                max_packet_life_time,
                max_retransmits,
            })
        };
        let table = [
            (json!({ "streamId": 0 }), parameters(0, true, None, None)),
            (
                json!({ "streamId": 1023.0, "ordered": true }),
                parameters(1023, true, None, None),
            ),
            (
                json!({ "streamId": 1, "ordered": false }),
                parameters(1, false, None, None),
            ),
            (
                json!({ "streamId": 1, "ordered": false, "maxRetransmits": 0 }),
                parameters(1, false, None, None),
            ),
            (
                json!({ "streamId": 1, "ordered": true, "maxRetransmits": 0 }),
                parameters(1, true, None, None),
            ),
            (
                json!({ "streamId": 1, "maxPacketLifeTime": 0, "maxRetransmits": 0 }),
                parameters(1, true, None, None),
            ),
            (
                json!({ "streamId": 1, "maxPacketLifeTime": 0, "maxRetransmits": 1 }),
                parameters(1, false, None, Some(1)),
            ),
            (
                json!({ "streamId": 1, "maxPacketLifeTime": 65_535, "maxRetransmits": 0 }),
                parameters(1, false, Some(65_535), None),
            ),
            (
                json!({ "streamId": 1, "maxPacketLifeTime": 2000, "maxRetransmits": null }),
                parameters(1, false, Some(2000), None),
            ),
        ];
        for (stream, expected) in table {
            assert_eq!(parse(stream.clone()), expected, "{stream}");
        }
    }

    #[test]
    fn stream_parameters_that_are_refused() {
        let table = [
            (json!(null), "sctpStreamParameters is missing"),
            (json!("x"), "sctpStreamParameters must be an object"),
            (json!({}), "sctpStreamParameters.streamId is missing"),
            (
                json!({ "streamId": 1024 }),
                "sctpStreamParameters.streamId must be a whole number from 0 to 1023",
            ),
            (
                json!({ "streamId": -1 }),
                "sctpStreamParameters.streamId must",
            ),
            (
                json!({ "streamId": 0.5 }),
                "sctpStreamParameters.streamId must",
            ),
            (
                json!({ "streamId": "1" }),
                "sctpStreamParameters.streamId must",
            ),
            (
                json!({ "streamId": 1, "ordered": 1 }),
                "sctpStreamParameters.ordered must",
            ),
            (
                json!({ "streamId": 1, "maxRetransmits": 65_536 }),
                "sctpStreamParameters.maxRetransmits must",
            ),
            (
                json!({ "streamId": 1, "ordered": false, "maxRetransmits": 1, "maxPacketLifeTime": 1 }),
                "sctpStreamParameters must not have both",
            ),
            (
                json!({ "streamId": 1, "ordered": true, "maxRetransmits": 1 }),
                "sctpStreamParameters must not be ordered",
            ),
            (
                json!({ "streamId": 1, "ordered": true, "maxPacketLifeTime": 1 }),
                "sctpStreamParameters must not be ordered",
            ),
        ];
        for (stream, text) in table {
            let data = json!({ "sctpStreamParameters": stream });
            let error = stream_parameters(&data, 1024).unwrap_err().to_string();
            assert!(error.starts_with(text), "{data}: {error}");
        }
    }
}
