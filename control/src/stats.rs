//! Statistics of the media worker in the shape of mediasoup's `getStats()`:
//! always an array. A key whose value is not known is left out. Pure.

use proto::{
    ConsumerStats, DataConsumerStats, DataProducerStats, DtlsState, IceState, MediaKind,
    PlainTransportStats, ProducerStats, RtpStreamStats, SctpState, Traffic, TransportStats, Tuple,
};
use serde_json::{Map, Value, json};

/// Of a transport of any kind. `now` is in milliseconds, here as below.
pub fn transport(id: &str, stats: &TransportStats, now: u64) -> Value {
    let mut json = Map::new();
    json.insert("transportId".into(), id.into());
    json.insert("timestamp".into(), now.into());
    match &stats.plain {
        Some(plain) => plain_connection(&mut json, plain),
        None => web_rtc_connection(&mut json, stats),
    }
    let traffic = [
        (&stats.received, "bytesReceived", "recvBitrate"),
        (&stats.sent, "bytesSent", "sendBitrate"),
        (&stats.rtp_received, "rtpBytesReceived", "rtpRecvBitrate"),
        (&stats.rtp_sent, "rtpBytesSent", "rtpSendBitrate"),
        (&stats.rtx_received, "rtxBytesReceived", "rtxRecvBitrate"),
        (&stats.rtx_sent, "rtxBytesSent", "rtxSendBitrate"),
        (
            &stats.probation_sent,
            "probationBytesSent",
            "probationSendBitrate",
        ),
    ];
    for (traffic, bytes, bitrate) in traffic {
        let traffic: Traffic = traffic.unwrap_or_default();
        json.insert(bytes.into(), traffic.bytes.into());
        json.insert(bitrate.into(), traffic.bitrate.into());
    }
    let bitrates = [
        ("availableOutgoingBitrate", stats.available_outgoing_bitrate),
        ("availableIncomingBitrate", stats.available_incoming_bitrate),
        ("maxIncomingBitrate", stats.max_incoming_bitrate),
        ("maxOutgoingBitrate", stats.max_outgoing_bitrate),
        ("minOutgoingBitrate", stats.min_outgoing_bitrate),
    ];
    for (name, bitrate) in bitrates {
        put(&mut json, name, bitrate);
    }
    put(
        &mut json,
        "rtpPacketLossReceived",
        stats.rtp_packet_loss_received,
    );
    put(&mut json, "rtpPacketLossSent", stats.rtp_packet_loss_sent);
    Value::Array(vec![Value::Object(json)])
}

fn web_rtc_connection(json: &mut Map<String, Value>, stats: &TransportStats) {
    json.insert("type".into(), "webrtc-transport".into());
    put(json, "sctpState", sctp_state(stats.sctp_state()));
    json.insert("iceRole".into(), "controlled".into());
    json.insert("iceState".into(), ice_state(stats.ice_state()).into());
    let tuple = stats.selected_tuple.as_ref().map(tuple);
    put(json, "iceSelectedTuple", tuple);
    json.insert("dtlsState".into(), dtls_state(stats.dtls_state()).into());
}

/// What is not known of the remote yet is left out of the tuples.
fn plain_connection(json: &mut Map<String, Value>, plain: &PlainTransportStats) {
    json.insert("type".into(), "plain-rtp-transport".into());
    json.insert("rtcpMux".into(), plain.rtcp_mux.into());
    json.insert("comedia".into(), plain.comedia.into());
    let half = |of: &Tuple| {
        let mut json = tuple(of);
        if let (true, Value::Object(fields)) = (of.remote_port == 0, &mut json) {
            fields.retain(|name, _| !name.starts_with("remote"));
        }
        json
    };
    put(json, "tuple", plain.tuple.as_ref().map(half));
    put(json, "rtcpTuple", plain.rtcp_tuple.as_ref().map(half));
}

/// Of a producer: one entry for each encoding that has been seen.
pub fn producer(stats: &ProducerStats, now: u64) -> Value {
    let streams = stats.streams.iter();
    streams.map(|stream| inbound(stream, now)).collect()
}

/// Of a consumer: what it sends, then what it forwards, if that flows.
pub fn consumer(stats: &ConsumerStats, now: u64) -> Value {
    let outbound = stats.outbound.as_ref().map(|stream| outbound(stream, now));
    let inbound = stats.inbound.as_ref().map(|stream| inbound(stream, now));
    outbound.into_iter().chain(inbound).collect()
}

/// Of a data producer.
pub fn data_producer(stats: &DataProducerStats, now: u64) -> Value {
    json!([{
        "type": "data-producer",
        "timestamp": now,
        "label": stats.label,
        "protocol": stats.protocol,
        "messagesReceived": stats.messages_received,
        "bytesReceived": stats.bytes_received,
    }])
}

/// Of a data consumer.
pub fn data_consumer(stats: &DataConsumerStats, now: u64) -> Value {
    json!([{
        "type": "data-consumer",
        "timestamp": now,
        "label": stats.label,
        "protocol": stats.protocol,
        "messagesSent": stats.messages_sent,
        "bytesSent": stats.bytes_sent,
        "bufferedAmount": stats.buffered_amount,
    }])
}

fn inbound(stream: &RtpStreamStats, now: u64) -> Value {
    let mut json = rtp_stream("inbound-rtp", stream, now);
    let layers = stream.bitrate_by_layer.iter();
    let layers: Map<String, Value> = layers
        .map(|(layer, bitrate)| (layer.clone(), (*bitrate).into()))
        .collect();
    json.insert("bitrateByLayer".into(), layers.into());
    Value::Object(json)
}

fn outbound(stream: &RtpStreamStats, now: u64) -> Value {
    Value::Object(rtp_stream("outbound-rtp", stream, now))
}

/// What both directions have. `jitter` is among it since mediasoup 3.19.10;
/// older clients look past it.
fn rtp_stream(kind: &str, stream: &RtpStreamStats, now: u64) -> Map<String, Value> {
    let mut json = Map::new();
    json.insert("type".into(), kind.into());
    json.insert("timestamp".into(), now.into());
    json.insert("kind".into(), media_kind(stream.kind()).into());
    json.insert("mimeType".into(), stream.mime_type.as_str().into());
    put(&mut json, "rid", stream.rid.as_deref());
    put(&mut json, "rtxSsrc", stream.rtx_ssrc);
    put(&mut json, "roundTripTime", stream.round_trip_time);
    put(
        &mut json,
        "rtxPacketsDiscarded",
        stream.rtx_packets_discarded,
    );
    let numbers = [
        ("ssrc", u64::from(stream.ssrc)),
        ("packetsLost", stream.packets_lost),
        ("fractionLost", stream.fraction_lost.into()),
        ("packetsDiscarded", stream.packets_discarded),
        ("packetsRetransmitted", stream.packets_retransmitted),
        ("packetsRepaired", stream.packets_repaired),
        ("nackCount", stream.nack_count),
        ("nackPacketCount", stream.nack_packet_count),
        ("pliCount", stream.pli_count),
        ("firCount", stream.fir_count),
        ("score", stream.score.into()),
        ("jitter", stream.jitter.into()),
        ("packetCount", stream.packet_count),
        ("byteCount", stream.byte_count),
        ("bitrate", stream.bitrate),
    ];
    json.extend(numbers.map(|(name, number)| (name.to_owned(), number.into())));
    json
}

/// `localIp` is the name that older clients read.
fn tuple(tuple: &Tuple) -> Value {
    json!({
        "localIp": tuple.local_address,
        "localAddress": tuple.local_address,
        "localPort": tuple.local_port,
        "remoteIp": tuple.remote_address,
        "remotePort": tuple.remote_port,
        "protocol": tuple.protocol,
    })
}

fn put(json: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        json.insert(name.into(), value.into());
    }
}

fn ice_state(state: IceState) -> &'static str {
    match state {
        IceState::New => "new",
        IceState::Connected => "connected",
        IceState::Completed => "completed",
        IceState::Disconnected => "disconnected",
    }
}

fn dtls_state(state: DtlsState) -> &'static str {
    match state {
        DtlsState::New => "new",
        DtlsState::Connecting => "connecting",
        DtlsState::Connected => "connected",
        DtlsState::Failed => "failed",
        DtlsState::Closed => "closed",
    }
}

/// `None` for a transport without data channels.
fn sctp_state(state: SctpState) -> Option<&'static str> {
    match state {
        SctpState::None => None,
        SctpState::New => Some("new"),
        SctpState::Connecting => Some("connecting"),
        SctpState::Connected => Some("connected"),
        SctpState::Closed => Some("closed"),
    }
}

fn media_kind(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Video => "video",
        MediaKind::Audio | MediaKind::Unspecified => "audio",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Keys and JSON types of an object, as words: `n` for a number, `s` for a
    /// string, `o` for an object.
    fn shape(value: &Value) -> BTreeSet<String> {
        let kind = |value: &Value| match value {
            Value::Number(_) => "n",
            Value::String(_) => "s",
            Value::Object(_) => "o",
            _ => "?",
        };
        let fields = value.as_object().unwrap().iter();
        fields
            .map(|(key, value)| format!("{key}:{}", kind(value)))
            .collect()
    }

    fn words(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    const TRANSPORT: &str = "type:s transportId:s timestamp:n iceRole:s iceState:s dtlsState:s \
        bytesReceived:n recvBitrate:n bytesSent:n sendBitrate:n \
        rtpBytesReceived:n rtpRecvBitrate:n rtpBytesSent:n rtpSendBitrate:n \
        rtxBytesReceived:n rtxRecvBitrate:n rtxBytesSent:n rtxSendBitrate:n \
        probationBytesSent:n probationSendBitrate:n";
    const TRANSPORT_OPTIONAL: &str = "sctpState:s iceSelectedTuple:o availableOutgoingBitrate:n \
        availableIncomingBitrate:n maxIncomingBitrate:n maxOutgoingBitrate:n \
        minOutgoingBitrate:n rtpPacketLossReceived:n rtpPacketLossSent:n";
    const STREAM: &str = "type:s timestamp:n ssrc:n kind:s mimeType:s packetsLost:n \
        fractionLost:n packetsDiscarded:n packetsRetransmitted:n packetsRepaired:n nackCount:n \
        nackPacketCount:n pliCount:n firCount:n score:n jitter:n byteCount:n packetCount:n \
        bitrate:n";
    const STREAM_OPTIONAL: &str = "rtxSsrc:n rid:s roundTripTime:n rtxPacketsDiscarded:n";

    fn full_transport() -> TransportStats {
        let traffic = |bytes| {
            Some(Traffic {
                bytes,
                bitrate: bytes * 10,
            })
        };
        TransportStats {
            ice_state: IceState::Completed.into(),
            dtls_state: DtlsState::Connected.into(),
            sctp_state: SctpState::Connected.into(),
            selected_tuple: Some(Tuple {
                local_address: "192.0.2.1".into(),
                local_port: 40_000,
                remote_address: "198.51.100.7".into(),
                remote_port: 50_000,
                protocol: "udp".into(),
            }),
            received: traffic(1),
            sent: traffic(2),
            rtp_received: traffic(3),
            rtp_sent: traffic(4),
            rtx_received: traffic(5),
            rtx_sent: traffic(6),
            probation_sent: traffic(7),
            available_outgoing_bitrate: Some(11),
            available_incoming_bitrate: Some(12),
            max_incoming_bitrate: Some(13),
            max_outgoing_bitrate: Some(14),
            min_outgoing_bitrate: Some(15),
            rtp_packet_loss_received: Some(0.25),
            rtp_packet_loss_sent: Some(0.5),
            plain: None,
        }
    }

    fn full_stream() -> RtpStreamStats {
        RtpStreamStats {
            ssrc: 1,
            rtx_ssrc: Some(2),
            rid: Some("r0".into()),
            kind: MediaKind::Video.into(),
            mime_type: "video/VP8".into(),
            round_trip_time: Some(12.5),
            rtx_packets_discarded: Some(3),
            jitter: 9,
            bitrate_by_layer: [("0.1".to_owned(), 5000)].into(),
            ..RtpStreamStats::default()
        }
    }

    #[test]
    fn keys_of_plain_transports() {
        let tuple = |remote_port| Tuple {
            local_address: "192.0.2.1".into(),
            local_port: 40_002,
            remote_address: "198.51.100.7".into(),
            remote_port,
            protocol: "udp".into(),
        };
        let plain = PlainTransportStats {
            rtcp_mux: false,
            comedia: true,
            tuple: Some(tuple(5000)),
            rtcp_tuple: Some(tuple(0)),
        };
        let stats = TransportStats {
            plain: Some(plain),
            ..TransportStats::default()
        };
        let json = &transport("t", &stats, 1)[0];
        assert_eq!(json["type"], "plain-rtp-transport");
        assert_eq!(
            (&json["rtcpMux"], &json["comedia"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(json["tuple"]["remotePort"], 5000);
        // Nothing has come from there yet.
        assert_eq!(json["rtcpTuple"]["localPort"], 40_002);
        assert_eq!(json["rtcpTuple"].get("remotePort"), None);
        for name in ["iceState", "dtlsState", "sctpState", "iceSelectedTuple"] {
            assert_eq!(json.get(name), None, "{name}");
        }
    }

    #[test]
    fn keys_of_transports() {
        let least = transport("t", &TransportStats::default(), 1);
        assert_eq!(shape(&least[0]), words(TRANSPORT));
        assert_eq!(least[0]["iceState"], "new");
        let most = transport("t", &full_transport(), 1_700_000_000_000);
        let all = words(&format!("{TRANSPORT} {TRANSPORT_OPTIONAL}"));
        assert_eq!(shape(&most[0]), all);
        assert_eq!(most.as_array().unwrap().len(), 1);
        let values = [
            ("type", json!("webrtc-transport")),
            ("transportId", json!("t")),
            ("timestamp", json!(1_700_000_000_000_u64)),
            ("iceRole", json!("controlled")),
            ("iceState", json!("completed")),
            ("dtlsState", json!("connected")),
            ("sctpState", json!("connected")),
            ("bytesReceived", json!(1)),
            ("recvBitrate", json!(10)),
            ("sendBitrate", json!(20)),
            ("rtpBytesReceived", json!(3)),
            ("rtpSendBitrate", json!(40)),
            ("rtxRecvBitrate", json!(50)),
            ("rtxBytesSent", json!(6)),
            ("probationSendBitrate", json!(70)),
            ("availableOutgoingBitrate", json!(11)),
            ("minOutgoingBitrate", json!(15)),
            ("rtpPacketLossReceived", json!(0.25)),
            ("rtpPacketLossSent", json!(0.5)),
            (
                "iceSelectedTuple",
                json!({
                    "localIp": "192.0.2.1", "localAddress": "192.0.2.1", "localPort": 40_000,
                    "remoteIp": "198.51.100.7", "remotePort": 50_000, "protocol": "udp",
                }),
            ),
        ];
        for (key, value) in values {
            assert_eq!(most[0][key], value, "{key}");
        }
    }

    #[test]
    fn keys_of_streams() {
        let all = format!("{STREAM} {STREAM_OPTIONAL}");
        let stats = ProducerStats {
            streams: vec![RtpStreamStats::default(), full_stream()],
        };
        let streams = producer(&stats, 7);
        assert_eq!(
            shape(&streams[0]),
            words(&format!("{STREAM} bitrateByLayer:o"))
        );
        assert_eq!(
            shape(&streams[1]),
            words(&format!("{all} bitrateByLayer:o"))
        );
        assert_eq!(streams[1]["type"], "inbound-rtp");
        assert_eq!(streams[1]["kind"], "video");
        assert_eq!(streams[1]["bitrateByLayer"], json!({ "0.1": 5000 }));
        assert_eq!(producer(&ProducerStats::default(), 7), json!([]));

        let stats = ConsumerStats {
            outbound: Some(full_stream()),
            inbound: Some(full_stream()),
        };
        let both = consumer(&stats, 7);
        assert_eq!(shape(&both[0]), words(&all));
        assert_eq!(both[0]["type"], "outbound-rtp");
        assert_eq!(both[1]["type"], "inbound-rtp");
        let alone = ConsumerStats {
            inbound: None,
            ..stats
        };
        assert_eq!(consumer(&alone, 7).as_array().unwrap().len(), 1);
    }

    #[test]
    fn keys_of_data_channels() {
        let from = DataProducerStats {
            label: "chat".into(),
            protocol: "p".into(),
            messages_received: 1,
            bytes_received: 2,
        };
        let expected = json!([{
            "type": "data-producer", "timestamp": 7, "label": "chat", "protocol": "p",
            "messagesReceived": 1, "bytesReceived": 2,
        }]);
        assert_eq!(data_producer(&from, 7), expected);
        let to = DataConsumerStats {
            label: "bot".into(),
            protocol: String::new(),
            messages_sent: 3,
            bytes_sent: 4,
            buffered_amount: 5,
        };
        let expected = json!([{
            "type": "data-consumer", "timestamp": 7, "label": "bot", "protocol": "",
            "messagesSent": 3, "bytesSent": 4, "bufferedAmount": 5,
        }]);
        assert_eq!(data_consumer(&to, 7), expected);
    }

    #[test]
    fn names_of_states() {
        let states = [
            (
                IceState::New,
                DtlsState::New,
                SctpState::New,
                ["new", "new", "new"],
            ),
            (
                IceState::Connected,
                DtlsState::Connecting,
                SctpState::Connecting,
                ["connected", "connecting", "connecting"],
            ),
            (
                IceState::Disconnected,
                DtlsState::Failed,
                SctpState::Closed,
                ["disconnected", "failed", "closed"],
            ),
            (
                IceState::Completed,
                DtlsState::Closed,
                SctpState::Connected,
                ["completed", "closed", "connected"],
            ),
        ];
        for (ice, dtls, sctp, names) in states {
            assert_eq!(
                [ice_state(ice), dtls_state(dtls), sctp_state(sctp).unwrap()],
                names
            );
        }
    }
}
