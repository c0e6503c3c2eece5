//! Typed calls to one media worker, each under a deadline.

use std::time::Duration;

use proto::media_worker_client::MediaWorkerClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::{Instrument, info_span};

use crate::traces;

/// Longest time that a worker may take to answer a call. Its own work takes
/// milliseconds; a worker that needs longer is stuck.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Why a call to a worker failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// The worker understood the call and refused it; the message names the
    /// field or id.
    #[error("{message}")]
    Refused {
        /// gRPC status code.
        code: Code,
        /// The worker's own words.
        message: String,
    },
    /// The worker did not answer in time or its connection is lost.
    #[error("media worker does not answer")]
    Gone,
}

impl From<Status> for WorkerError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                WorkerError::Gone
            }
            code => WorkerError::Refused {
                code,
                message: status.message().to_owned(),
            },
        }
    }
}

/// A connection to one media worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerClient {
    inner: MediaWorkerClient<Channel>,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`WorkerError`], after at most [`CALL_DEADLINE`].
        pub async fn $name(&self, request: $request) -> Result<$response, WorkerError> {
            let mut request = Request::new(request);
            request.set_timeout(CALL_DEADLINE);
            let call = async move { self.inner.clone().$name(request).await };
            let span = info_span!(
                target: traces::TARGET,
                "worker",
                otel.name = concat!("worker ", stringify!($name)),
                otel.kind = "client",
            );
            let call = call.instrument(span);
            match tokio::time::timeout(CALL_DEADLINE, call).await {
                Ok(answer) => Ok(answer?.into_inner()),
                Err(_) => Err(WorkerError::Gone),
            }
        }
    )*};
}

impl WorkerClient {
    /// Wraps a connected channel.
    pub fn new(channel: Channel) -> Self {
        Self {
            inner: MediaWorkerClient::new(channel),
        }
    }

    calls! {
        /// First call: checks that both sides run the same version.
        handshake(proto::HandshakeRequest) -> proto::HandshakeResponse;
        /// Live numbers of the worker.
        dump(proto::DumpRequest) -> proto::DumpResponse;
        /// Creates a router.
        create_router(proto::CreateRouterRequest) -> proto::Empty;
        /// Closes a router with everything in it.
        close_router(proto::CloseRouterRequest) -> proto::Empty;
        /// Creates a WebRtcTransport.
        create_web_rtc_transport(proto::CreateWebRtcTransportRequest) -> proto::CreateWebRtcTransportResponse;
        /// Gives a WebRtcTransport the remote's DTLS parameters.
        connect_web_rtc_transport(proto::ConnectWebRtcTransportRequest) -> proto::Empty;
        /// Creates a PlainTransport.
        create_plain_transport(proto::CreatePlainTransportRequest) -> proto::CreatePlainTransportResponse;
        /// Says where the remote of a PlainTransport is, or how it encrypts.
        connect_plain_transport(proto::ConnectPlainTransportRequest) -> proto::ConnectPlainTransportResponse;
        /// Mints new ICE credentials.
        restart_ice(proto::RestartIceRequest) -> proto::IceParameters;
        /// Closes a transport with everything on it.
        close_transport(proto::CloseTransportRequest) -> proto::Empty;
        /// Creates a producer.
        produce(proto::ProduceRequest) -> proto::Empty;
        /// Closes a producer and its consumers.
        close_producer(proto::CloseProducerRequest) -> proto::Empty;
        /// Pauses a producer.
        pause_producer(proto::PauseProducerRequest) -> proto::Empty;
        /// Resumes a producer.
        resume_producer(proto::ResumeProducerRequest) -> proto::Empty;
        /// Creates consumers, many in one call.
        consume(proto::ConsumeRequest) -> proto::ConsumeResponse;
        /// Closes a consumer.
        close_consumer(proto::CloseConsumerRequest) -> proto::Empty;
        /// Pauses a consumer.
        pause_consumer(proto::PauseConsumerRequest) -> proto::Empty;
        /// Resumes a consumer and answers its score.
        resume_consumer(proto::ResumeConsumerRequest) -> proto::ConsumerScore;
        /// Asks the consumer's producer for a keyframe.
        request_key_frame(proto::RequestKeyFrameRequest) -> proto::Empty;
        /// Sets the highest layers that a consumer wants.
        set_consumer_preferred_layers(proto::SetConsumerPreferredLayersRequest) -> proto::Empty;
        /// Sets a consumer's weight in the sharing of bitrate.
        set_consumer_priority(proto::SetConsumerPriorityRequest) -> proto::Empty;
        /// Creates a data producer.
        produce_data(proto::ProduceDataRequest) -> proto::Empty;
        /// Closes a data producer and its data consumers.
        close_data_producer(proto::CloseDataProducerRequest) -> proto::Empty;
        /// Creates data consumers, many in one call.
        consume_data(proto::ConsumeDataRequest) -> proto::ConsumeDataResponse;
        /// Closes a data consumer.
        close_data_consumer(proto::CloseDataConsumerRequest) -> proto::Empty;
        /// Sends one message as a direct data producer.
        send_data_message(proto::SendDataMessageRequest) -> proto::Empty;
        /// Statistics of a transport.
        get_transport_stats(proto::GetStatsRequest) -> proto::TransportStats;
        /// Statistics of a producer.
        get_producer_stats(proto::GetStatsRequest) -> proto::ProducerStats;
        /// Statistics of a consumer.
        get_consumer_stats(proto::GetStatsRequest) -> proto::ConsumerStats;
        /// Statistics of a data producer.
        get_data_producer_stats(proto::GetStatsRequest) -> proto::DataProducerStats;
        /// Statistics of a data consumer.
        get_data_consumer_stats(proto::GetStatsRequest) -> proto::DataConsumerStats;
        /// Why each video consumer of a router gets the layers that it gets.
        explain_consumers(proto::ExplainConsumersRequest) -> proto::ExplainConsumersResponse;
        /// Makes transports behave as over a bad network, or as before.
        set_network_throttle(proto::SetNetworkThrottleRequest) -> proto::Empty;
    }

    /// Opens the stream of the worker's own events.
    ///
    /// # Errors
    /// [`WorkerError::Gone`] when the connection is lost.
    pub async fn events(&self) -> Result<tonic::Streaming<proto::Event>, WorkerError> {
        let stream = self.inner.clone().events(proto::EventsRequest {}).await?;
        Ok(stream.into_inner())
    }
}
