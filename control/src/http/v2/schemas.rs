//! What the OpenAPI document says of the bodies below `/v2`, in the names of the
//! newest mediasoup-demo.
#![expect(dead_code, reason = "they describe, and are never made")]

use serde_json::Value;
use utoipa::ToSchema;

use crate::http::schemas::{
    Kind, RtpCapabilitiesBody, SrtpCryptoSuite, SrtpParametersBody, TransportType,
};

/// The router's RTP capabilities.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestRouter {
    router_rtp_capabilities: RtpCapabilitiesBody,
}

/// A new broadcaster.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestBroadcasterBody {
    /// 1 to 128 printable characters; not that of somebody in the room.
    #[schema(min_length = 1, max_length = 128)]
    peer_id: String,
    #[schema(max_length = 256)]
    display_name: String,
    device: NewestDeviceBody,
}

/// What a broadcaster runs on.
#[derive(ToSchema)]
pub(super) struct NewestDeviceBody {
    /// `ffmpeg`, `gstreamer`, …; `broadcaster` when absent.
    #[schema(max_length = 256)]
    flag: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    #[schema(max_length = 256)]
    version: Option<String>,
}

/// A new transport.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestTransportBody {
    /// Here, or in `appData`.
    direction: Option<Direction>,
    app_data: Option<DirectionBody>,
    /// `plain` when absent; `webrtc` is this server's own addition.
    r#type: Option<TransportType>,
    /// Of plain transports. No when absent.
    rtcp_mux: Option<bool>,
    /// Of plain transports. When absent, yes for those that send.
    comedia: Option<bool>,
    /// Of plain transports, as is the next.
    enable_srtp: Option<bool>,
    srtp_crypto_suite: Option<SrtpCryptoSuite>,
    /// Of webrtc transports.
    #[schema(value_type = Option<Object>)]
    sctp_capabilities: Option<Value>,
}

/// What a transport is for.
#[derive(ToSchema)]
pub(super) struct DirectionBody {
    direction: Option<Direction>,
}

/// Which way media goes.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Direction {
    /// From the broadcaster.
    Producer,
    /// To the broadcaster.
    Consumer,
}

/// A transport that was made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestTransportMade {
    transport_id: String,
    /// Of plain transports: where to send to.
    ip: Option<String>,
    /// All announced addresses, any of which will do; `ip` is the first.
    ips: Option<Vec<String>>,
    port: Option<u16>,
    /// Without `rtcpMux`.
    rtcp_port: Option<u16>,
    /// Of plain transports that are encrypted.
    srtp_parameters: Option<SrtpParametersBody>,
    /// Of webrtc transports, like the next three.
    #[schema(value_type = Option<Object>)]
    ice_parameters: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    ice_candidates: Option<Value>,
    #[schema(value_type = Option<Object>)]
    dtls_parameters: Option<Value>,
    #[schema(value_type = Option<Object>)]
    sctp_parameters: Option<Value>,
}

/// A stream that the broadcaster sends.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestProduceBody {
    transport_id: String,
    kind: Kind,
    /// As of mediasoup.
    #[schema(value_type = Object)]
    rtp_parameters: Value,
    /// What receivers are told of it, for example its `source`.
    #[schema(value_type = Option<Object>)]
    app_data: Option<Value>,
}

/// A producer that was made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestProducerMade {
    producer_id: String,
}

/// Who sends what.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct PeerProducersInfos {
    /// Of everybody who sends.
    peer_producers_infos: Vec<PeerProducersInfo>,
}

/// What one peer sends.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct PeerProducersInfo {
    peer_id: String,
    producers: Vec<ProducerInfo>,
}

/// A stream that a peer sends.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct ProducerInfo {
    producer_id: String,
    kind: Kind,
    /// What the client says in `appData.source`.
    source: Option<String>,
    /// Codecs that it can be received in, without feedback and retransmission.
    #[schema(value_type = Vec<Object>)]
    consumable_codecs: Value,
}

/// A stream that the broadcaster wants to receive.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestConsumeBody {
    transport_id: String,
    producer_id: String,
    /// What the broadcaster can receive.
    #[schema(value_type = Object)]
    rtp_capabilities: Value,
    /// It does not flow before it is resumed.
    paused: Option<bool>,
}

/// A consumer that was made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct NewestConsumerMade {
    consumer_id: String,
    producer_id: String,
    kind: Kind,
    #[schema(value_type = Object)]
    rtp_parameters: Value,
    /// `simple`, `simulcast` or `svc`.
    r#type: String,
}
