//! What the OpenAPI document says of bodies and of errors. Bodies are read and
//! written as JSON values elsewhere; these types only describe them, and tests
//! hold every answer against them.
#![expect(dead_code, reason = "they describe, and are never made")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// A media type's name.
const JSON: &str = "application/json";

/// What went wrong.
#[derive(ToSchema)]
pub(super) struct ErrorBody {
    /// Names the field or id that is wrong.
    error: String,
    /// Of paths below `/v2`: which kind of error, for example `RoomNotFound`.
    name: Option<String>,
}

/// Nothing.
#[derive(ToSchema)]
pub(super) struct Nothing {}

/// What a new room may be given.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct RoomOptionsBody {
    /// http or https URL that is told of joins and leaves by POST.
    #[schema(max_length = 2048, pattern = "^https?://.+")]
    event_notification_uri: Option<String>,
    /// Most peers; `ROOM_MAX_PEERS` when absent.
    #[schema(minimum = 2, maximum = 4_294_967_295_i64)]
    max_peer_count: Option<u32>,
}

/// A room that was made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct RoomMade {
    /// Always `2060-mediasoup-v1`.
    protocol: String,
    room_id: String,
    /// `wss://HOST:PORT?roomId=ID`; a client adds `&peerId=`.
    ws_url: String,
}

/// A room that was made, in the deprecated shape.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct RoomMadeDeprecated {
    room_id: String,
    /// `wss://HOST:PORT?roomId=ID&peerId=`
    ws_url: String,
    /// Always 1.
    status: u32,
}

/// RTP capabilities as of mediasoup.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct RtpCapabilitiesBody {
    codecs: Vec<Value>,
    header_extensions: Vec<Value>,
}

/// Nothing is wrong.
#[derive(ToSchema)]
pub(super) struct StatusOk {
    /// Always `ok`.
    status: String,
}

/// The server takes rooms.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Healthy {
    /// Always `ok`.
    status: String,
    /// Media workers that were taken out because they kept ending.
    failed_workers: Option<Vec<u32>>,
    /// Media workers that did not answer when they were asked last.
    stuck_workers: Option<Vec<u32>>,
}

/// The server takes no rooms.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Unavailable {
    /// Always `unavailable`.
    status: String,
    /// Why.
    error: String,
    /// Media workers that were taken out because they kept ending.
    failed_workers: Option<Vec<u32>>,
    /// Media workers that did not answer when they were asked last.
    stuck_workers: Option<Vec<u32>>,
}

/// The configuration, and live details for who may see them.
#[derive(ToSchema)]
pub(super) struct ConfigBody {
    /// Without secrets; only `https` for who may not see more.
    #[schema(value_type = Object)]
    config: Value,
    #[schema(value_type = Option<Vec<Object>>)]
    workers: Option<Value>,
    #[schema(value_type = Option<Object>)]
    rooms: Option<Value>,
    #[schema(value_type = Option<Object>)]
    webhooks: Option<Value>,
}

/// Something that ends when calls have ended.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Draining {
    /// Always `draining`.
    status: String,
    /// How many rooms there are still.
    rooms: u32,
    /// Seconds that they have.
    timeout_seconds: u64,
}

/// Every media worker.
#[derive(ToSchema)]
pub(super) struct AdminWorkersBody {
    /// As in `/config`.
    #[schema(value_type = Vec<Object>)]
    workers: Value,
}

/// Every room.
#[derive(ToSchema)]
pub(super) struct AdminRoomsBody {
    rooms: Vec<AdminRoomSummary>,
}

/// A room in numbers.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct AdminRoomSummary {
    id: String,
    /// Index of its media worker.
    worker: u32,
    age_seconds: u64,
    peers: u32,
    broadcasters: u32,
    producers: u32,
    consumers: u32,
    data_producers: u32,
    data_consumers: u32,
}

/// A room with who is in it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct AdminRoomBody {
    id: String,
    /// Index of its media worker.
    worker: u32,
    age_seconds: u64,
    peers: u32,
    broadcasters: u32,
    producers: u32,
    consumers: u32,
    data_producers: u32,
    data_consumers: u32,
    router_id: String,
    max_peers: u32,
    /// Whether joins and leaves are told to a URL.
    webhook: bool,
    /// Peers and broadcasters, with their transports, producers and consumers.
    #[schema(value_type = Vec<Object>)]
    members: Value,
}

/// The videos that are received in a room.
#[derive(ToSchema)]
pub(super) struct AdminConsumersBody {
    /// Each with its layers, what is available for it, and `reason`: why, in words.
    #[schema(value_type = Vec<Object>)]
    consumers: Value,
}

/// A new broadcaster.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct BroadcasterBody {
    /// 1 to 128 printable characters; not that of somebody in the room.
    #[schema(min_length = 1, max_length = 128)]
    id: String,
    #[schema(max_length = 256)]
    display_name: String,
    device: DeviceBody,
    /// What it can receive; without them it receives nothing.
    #[schema(value_type = Option<Object>)]
    rtp_capabilities: Option<Value>,
}

/// What a broadcaster runs on.
#[derive(ToSchema)]
pub(super) struct DeviceBody {
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    #[schema(max_length = 256)]
    version: Option<String>,
}

/// Who is in the room.
#[derive(ToSchema)]
pub(super) struct BroadcasterMade {
    /// The joined peers; none when no rtpCapabilities were given.
    peers: Vec<PeerBody>,
}

/// A joined peer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct PeerBody {
    id: String,
    display_name: String,
    #[schema(value_type = Object)]
    device: Value,
    /// Those that the broadcaster can consume.
    producers: Vec<ProducerBody>,
}

/// A stream that a peer sends.
#[derive(ToSchema)]
pub(super) struct ProducerBody {
    id: String,
    kind: Kind,
}

/// Audio or video.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Kind {
    Audio,
    Video,
}

/// A new transport.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct TransportBody {
    r#type: TransportType,
    /// Of plain transports: RTP and RTCP share a port. No when absent.
    rtcp_mux: Option<bool>,
    /// Of plain transports: the first packets show where the broadcaster is. Yes when
    /// absent.
    comedia: Option<bool>,
    /// Of plain transports: they are encrypted.
    enable_srtp: Option<bool>,
    /// `AES_CM_128_HMAC_SHA1_80` when absent.
    srtp_crypto_suite: Option<SrtpCryptoSuite>,
    /// Of webrtc transports.
    #[schema(value_type = Option<Object>)]
    sctp_capabilities: Option<Value>,
}

/// How SRTP is encrypted and authenticated.
#[derive(ToSchema)]
#[allow(non_camel_case_types)]
pub(super) enum SrtpCryptoSuite {
    /// RFC 7714.
    AEAD_AES_256_GCM,
    /// RFC 7714.
    AEAD_AES_128_GCM,
    /// RFC 3711.
    AES_CM_128_HMAC_SHA1_80,
    /// RFC 3711.
    AES_CM_128_HMAC_SHA1_32,
}

/// How one side encrypts.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct SrtpParametersBody {
    crypto_suite: SrtpCryptoSuite,
    /// Master key and salt.
    key_base64: String,
}

/// How a broadcaster sends and receives.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum TransportType {
    /// RTP and RTCP on UDP ports of its own.
    Plain,
    /// ICE, DTLS and SRTP.
    Webrtc,
}

/// A transport that was made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct TransportMade {
    id: String,
    /// Of webrtc transports, like the next three.
    #[schema(value_type = Option<Object>)]
    ice_parameters: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    ice_candidates: Option<Value>,
    #[schema(value_type = Option<Object>)]
    dtls_parameters: Option<Value>,
    #[schema(value_type = Option<Object>)]
    sctp_parameters: Option<Value>,
    /// Of plain transports: where to send to.
    ip: Option<String>,
    /// All announced addresses, any of which will do; `ip` is the first.
    ips: Option<Vec<String>>,
    port: Option<u16>,
    /// Without `rtcpMux`.
    rtcp_port: Option<u16>,
    /// With `enableSrtp`: how the server encrypts.
    srtp_parameters: Option<SrtpParametersBody>,
}

/// The broadcaster's side of a transport.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct ConnectBody {
    /// Of webrtc transports: `role` and `fingerprints`.
    #[schema(value_type = Option<Object>)]
    dtls_parameters: Option<Value>,
    /// Of plain transports without `comedia`: where to send to.
    ip: Option<String>,
    port: Option<u16>,
    /// Without `rtcpMux`.
    rtcp_port: Option<u16>,
    /// Of plain transports: how the broadcaster encrypts. The server does so, too.
    srtp_parameters: Option<SrtpParametersBody>,
}

/// A transport that was connected.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Connected {
    /// How the server encrypts, if it does.
    srtp_parameters: Option<SrtpParametersBody>,
}

/// A stream that the broadcaster sends.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct ProduceBody {
    kind: Kind,
    /// As of mediasoup.
    #[schema(value_type = Object)]
    rtp_parameters: Value,
}

/// Something that was made.
#[derive(ToSchema)]
pub(super) struct Made {
    id: String,
}

/// A stream that the broadcaster receives. It flows at once.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct ConsumerMade {
    id: String,
    producer_id: String,
    kind: Kind,
    #[schema(value_type = Object)]
    rtp_parameters: Value,
    /// `simple`, `simulcast` or `svc`.
    r#type: String,
}

/// Whose messages the broadcaster receives.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct ConsumeDataBody {
    data_producer_id: String,
}

/// Messages that the broadcaster receives.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct DataConsumerMade {
    id: String,
    /// SCTP stream that they arrive on.
    stream_id: u16,
}

/// Messages that the broadcaster sends.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct ProduceDataBody {
    /// `chat` reaches everybody, `bot` the server's bot.
    #[schema(max_length = 256)]
    label: Option<String>,
    #[schema(max_length = 256)]
    protocol: Option<String>,
    /// `streamId`, `ordered`, and `maxPacketLifeTime` or `maxRetransmits`.
    #[schema(value_type = Object)]
    sctp_stream_parameters: Value,
    #[schema(value_type = Option<Object>)]
    app_data: Option<Value>,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident: $($status:literal)*;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$($status),*].into_iter().map(error).collect()
            }
        }
    )*};
}

errors! {
    /// Of a path that names a room that has to exist.
    RoomErrors: 400 404 503;
    /// Of the check before an upgrade.
    AdmissionErrors: 400 403 404 500 503;
    /// Of making a room by GET.
    DeprecatedErrors: 400 401 403 405 500 503;
    /// Of making a room.
    CreateErrors: 400 401 403 408 413 500 503;
    /// Of the configuration.
    AdminErrors: 401;
    /// Of what is for admins alone.
    ForAdmins: 401 403;
    /// As [`ForAdmins`], about a room.
    AdminRoomErrors: 400 401 403 404 503;
    /// As [`ForAdmins`], about a member of a room.
    AdminPeerErrors: 400 401 403 404 503;
    /// Of a name that is reserved.
    ReservedErrors: 400;
    /// Of a broadcaster's requests without a body.
    BroadcasterErrors: 400 401 403 404 409 500 503;
    /// Of a broadcaster's requests with a body.
    BroadcasterBodyErrors: 400 401 403 404 408 409 413 500 503;
    /// Of a broadcaster that goes.
    DeleteErrors: 400 401 403 404 503;
}

/// One status with what it means.
fn error(status: u16) -> (String, RefOr<Response>) {
    let meaning = match status {
        400 => "A field is missing or wrong",
        401 => "A bearer token is required",
        403 => "The room is full, this page or id may not come in, or it is for admins",
        404 => {
            "There is no such room, peer, broadcaster, transport, producer, consumer or data producer"
        }
        408 => "The body did not arrive in time",
        409 => "It cannot be done here: taken, too many, or not supported",
        413 => "The body is too long",
        500 => "The media worker failed, or the room exists already",
        _ => "No media worker takes it, or the server is full or ends",
    };
    let schema = Ref::from_schema_name("ErrorBody");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(meaning)
        .content(JSON, content)
        .build();
    (status.to_string(), response.into())
}
