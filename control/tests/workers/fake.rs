//! A media worker that does nothing but live and die as its mode says.

use std::collections::HashMap;
use std::io::Read;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use proto::media_worker_server::{MediaWorker, MediaWorkerServer};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

/// How a fake worker behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// As it should.
    Good,
    /// Never listens.
    Silent,
    /// Listens, and never answers.
    Mute,
    /// Ends at once with status 3.
    Dying,
    /// Is of another version.
    Old,
    /// Loses its stream of events, and lives on.
    Lost,
    /// Ignores SIGTERM and the end of its stdin.
    Stubborn,
    /// As it should the first time, dies at once from then on.
    Fading,
    /// Answers the handshake, and no question after it.
    Stuck,
}

impl Mode {
    const ALL: [Mode; 9] = [
        Mode::Good,
        Mode::Silent,
        Mode::Mute,
        Mode::Dying,
        Mode::Old,
        Mode::Lost,
        Mode::Stubborn,
        Mode::Fading,
        Mode::Stuck,
    ];

    fn named(name: &str) -> Self {
        let found = Self::ALL.iter().find(|mode| format!("{mode:?}") == name);
        *found.expect("a known mode")
    }
}

/// `arguments`: the mode, then what every worker gets. A whole control plane
/// does not know of modes; its workers are good.
pub fn run(arguments: &[String]) {
    let (mut mode, arguments) = match arguments[0].starts_with("--") {
        true => (Mode::Good, arguments),
        false => (Mode::named(&arguments[0]), &arguments[1..]),
    };
    let options: HashMap<&str, &str> = arguments
        .chunks(2)
        .map(|pair| (pair[0].as_str(), pair[1].as_str()))
        .collect();
    let socket = options["--socket"];
    if mode == Mode::Fading {
        mode = match socket.ends_with("-0.sock") {
            true => Mode::Good,
            false => Mode::Dying,
        };
    }
    // Like a real worker: the end of stdin is the end of the worker.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        if mode == Mode::Stubborn {
            // Not for ever, in case a test fails.
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        std::process::exit(0);
    });
    println!("INFO fake worker in mode {mode:?}");
    if mode == Mode::Dying {
        eprintln!("ERROR no port is free");
        std::process::exit(3);
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(serve(mode, socket));
}

async fn serve(mode: Mode, socket: &str) {
    let forever = std::future::pending::<()>();
    if mode == Mode::Silent {
        return forever.await;
    }
    let _handler = (mode == Mode::Stubborn).then(|| {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap()
    });
    let listener = UnixListener::bind(socket).unwrap();
    if mode == Mode::Mute {
        return forever.await;
    }
    let connections = stream::unfold(listener, |listener| async {
        let connection = listener.accept().await.map(|(stream, _)| stream);
        Some((connection, listener))
    });
    tonic::transport::Server::builder()
        .add_service(MediaWorkerServer::new(Fake { mode }))
        .serve_with_incoming(connections)
        .await
        .unwrap();
}

struct Fake {
    mode: Mode,
}

type Events = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

macro_rules! fake_worker {
    ($($refused:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl MediaWorker for Fake {
            type EventsStream = Events;

            async fn handshake(
                &self,
                request: Request<proto::HandshakeRequest>,
            ) -> Result<Response<proto::HandshakeResponse>, Status> {
                if self.mode == Mode::Old || request.get_ref().version != env!("CARGO_PKG_VERSION") {
                    return Err(Status::failed_precondition("another version"));
                }
                Ok(Response::new(proto::HandshakeResponse {
                    pid: std::process::id(),
                    udp_port: 1,
                }))
            }

            async fn events(
                &self,
                _: Request<proto::EventsRequest>,
            ) -> Result<Response<Events>, Status> {
                let event = proto::Event {
                    router_id: "hello".to_owned(),
                    event: None,
                };
                let events = stream::iter([Ok(event)]);
                Ok(Response::new(match self.mode {
                    Mode::Lost => events.boxed(),
                    _ => events.chain(stream::pending()).boxed(),
                }))
            }

            async fn dump(
                &self,
                _: Request<proto::DumpRequest>,
            ) -> Result<Response<proto::DumpResponse>, Status> {
                if self.mode == Mode::Stuck {
                    std::future::pending::<()>().await;
                }
                Ok(Response::new(proto::DumpResponse::default()))
            }

            async fn create_router(
                &self,
                _: Request<proto::CreateRouterRequest>,
            ) -> Result<Response<proto::Empty>, Status> {
                Ok(Response::new(proto::Empty {}))
            }

            async fn close_router(
                &self,
                _: Request<proto::CloseRouterRequest>,
            ) -> Result<Response<proto::Empty>, Status> {
                Ok(Response::new(proto::Empty {}))
            }

            $(async fn $refused(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("this worker is a fake"))
            })*
        }
    };
}

fake_worker! {
    create_web_rtc_transport(proto::CreateWebRtcTransportRequest) -> proto::CreateWebRtcTransportResponse;
    create_plain_transport(proto::CreatePlainTransportRequest) -> proto::CreatePlainTransportResponse;
    connect_plain_transport(proto::ConnectPlainTransportRequest) -> proto::ConnectPlainTransportResponse;
    connect_web_rtc_transport(proto::ConnectWebRtcTransportRequest) -> proto::Empty;
    restart_ice(proto::RestartIceRequest) -> proto::IceParameters;
    close_transport(proto::CloseTransportRequest) -> proto::Empty;
    produce(proto::ProduceRequest) -> proto::Empty;
    close_producer(proto::CloseProducerRequest) -> proto::Empty;
    pause_producer(proto::PauseProducerRequest) -> proto::Empty;
    resume_producer(proto::ResumeProducerRequest) -> proto::Empty;
    consume(proto::ConsumeRequest) -> proto::ConsumeResponse;
    close_consumer(proto::CloseConsumerRequest) -> proto::Empty;
    pause_consumer(proto::PauseConsumerRequest) -> proto::Empty;
    resume_consumer(proto::ResumeConsumerRequest) -> proto::ConsumerScore;
    request_key_frame(proto::RequestKeyFrameRequest) -> proto::Empty;
    set_consumer_preferred_layers(proto::SetConsumerPreferredLayersRequest) -> proto::Empty;
    set_consumer_priority(proto::SetConsumerPriorityRequest) -> proto::Empty;
    produce_data(proto::ProduceDataRequest) -> proto::Empty;
    close_data_producer(proto::CloseDataProducerRequest) -> proto::Empty;
    consume_data(proto::ConsumeDataRequest) -> proto::ConsumeDataResponse;
    close_data_consumer(proto::CloseDataConsumerRequest) -> proto::Empty;
    send_data_message(proto::SendDataMessageRequest) -> proto::Empty;
    get_transport_stats(proto::GetStatsRequest) -> proto::TransportStats;
    get_producer_stats(proto::GetStatsRequest) -> proto::ProducerStats;
    get_consumer_stats(proto::GetStatsRequest) -> proto::ConsumerStats;
    get_data_producer_stats(proto::GetStatsRequest) -> proto::DataProducerStats;
    get_data_consumer_stats(proto::GetStatsRequest) -> proto::DataConsumerStats;
    explain_consumers(proto::ExplainConsumersRequest) -> proto::ExplainConsumersResponse;
    set_network_throttle(proto::SetNetworkThrottleRequest) -> proto::Empty;
}
