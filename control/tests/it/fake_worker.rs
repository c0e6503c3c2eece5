//! A media worker that forwards nothing: it records its calls, answers what a
//! real one could, and can be told to refuse, to hang, or to be gone.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use control::workers::{
    LastExit, Load, Notice, Worker, WorkerClient, WorkerId, WorkerPool, WorkerState, WorkerStatus,
};
use futures_util::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use proto::media_worker_server::{MediaWorker, MediaWorkerServer};
use proto::*;
use tokio::sync::{mpsc, watch};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(10);

/// One call as the worker got it. Some are only counted.
#[allow(dead_code)]
#[derive(Debug, Clone)]
pub enum Call {
    CreateRouter(CreateRouterRequest),
    CloseRouter(CloseRouterRequest),
    CreateTransport(CreateWebRtcTransportRequest),
    ConnectTransport(ConnectWebRtcTransportRequest),
    CreatePlainTransport(CreatePlainTransportRequest),
    ConnectPlainTransport(ConnectPlainTransportRequest),
    RestartIce(RestartIceRequest),
    CloseTransport(CloseTransportRequest),
    Produce(ProduceRequest),
    CloseProducer(CloseProducerRequest),
    PauseProducer(PauseProducerRequest),
    ResumeProducer(ResumeProducerRequest),
    Consume(ConsumeRequest),
    CloseConsumer(CloseConsumerRequest),
    PauseConsumer(PauseConsumerRequest),
    ResumeConsumer(ResumeConsumerRequest),
    RequestKeyFrame(RequestKeyFrameRequest),
    SetConsumerPreferredLayers(SetConsumerPreferredLayersRequest),
    SetConsumerPriority(SetConsumerPriorityRequest),
    ProduceData(ProduceDataRequest),
    /// Without a transport.
    ProduceDirectData(ProduceDataRequest),
    CloseDataProducer(CloseDataProducerRequest),
    ConsumeData(ConsumeDataRequest),
    CloseDataConsumer(CloseDataConsumerRequest),
    SendDataMessage(SendDataMessageRequest),
    GetTransportStats(GetStatsRequest),
    GetProducerStats(GetStatsRequest),
    GetConsumerStats(GetStatsRequest),
    GetDataProducerStats(GetStatsRequest),
    GetDataConsumerStats(GetStatsRequest),
    SetNetworkThrottle(SetNetworkThrottleRequest),
    ExplainConsumers(ExplainConsumersRequest),
}

impl Call {
    /// The variant's name.
    fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split('(').next().unwrap().to_owned()
    }
}

/// A handle on the worker for the test.
#[derive(Clone)]
pub struct FakeWorker {
    calls: Arc<watch::Sender<Vec<Call>>>,
    orders: Arc<Mutex<Orders>>,
}

#[derive(Default)]
struct Orders {
    refuse: HashMap<&'static str, Status>,
    hang: HashSet<&'static str>,
    refuse_each_consumer: bool,
}

impl FakeWorker {
    fn new() -> Self {
        Self {
            calls: Arc::new(watch::Sender::new(Vec::new())),
            orders: Arc::default(),
        }
    }

    /// Calls of this name are refused from now on.
    pub fn refuse(&self, call: &'static str, status: Status) {
        self.orders.lock().unwrap().refuse.insert(call, status);
    }

    /// Calls of this name are not answered from now on.
    pub fn hang(&self, call: &'static str) {
        self.orders.lock().unwrap().hang.insert(call);
    }

    /// Every entry of a Consume fails from now on, not the call.
    pub fn refuse_each_consumer(&self, refuse: bool) {
        self.orders.lock().unwrap().refuse_each_consumer = refuse;
    }

    /// Back to normal.
    pub fn behave(&self) {
        *self.orders.lock().unwrap() = Orders::default();
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// How many calls of this name there were.
    pub fn count(&self, name: &str) -> usize {
        self.calls
            .borrow()
            .iter()
            .filter(|call| call.name() == name)
            .count()
    }

    /// The first call that `pick` picks, once it comes.
    pub async fn wait_for<T>(&self, pick: impl Fn(&Call) -> Option<T>) -> T {
        let mut calls = self.calls.subscribe();
        let found = calls.wait_for(|calls| calls.iter().any(|call| pick(call).is_some()));
        let calls = tokio::time::timeout(PATIENCE, found).await;
        let calls = calls.expect("the call does not come").unwrap();
        calls.iter().find_map(&pick).unwrap()
    }

    async fn answer<T: Debug>(&self, call: Call, answer: T) -> Result<Response<T>, Status> {
        let name = call.name();
        self.calls.send_modify(|calls| calls.push(call));
        let (hangs, refusal) = {
            let orders = self.orders.lock().unwrap();
            let refusal = orders.refuse.get(name.as_str()).cloned();
            (orders.hang.contains(name.as_str()), refusal)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        match refusal {
            Some(status) => Err(status),
            None => Ok(Response::new(answer)),
        }
    }
}

macro_rules! recorded {
    ($($name:ident: $call:ident($request:ty) -> $response:ty = $answer:expr;)*) => {
        #[tonic::async_trait]
        impl MediaWorker for FakeWorker {
            type EventsStream = stream::Pending<Result<Event, Status>>;

            async fn handshake(
                &self,
                _: Request<HandshakeRequest>,
            ) -> Result<Response<HandshakeResponse>, Status> {
                Ok(Response::new(HandshakeResponse::default()))
            }

            async fn events(
                &self,
                _: Request<EventsRequest>,
            ) -> Result<Response<Self::EventsStream>, Status> {
                Ok(Response::new(stream::pending()))
            }

            async fn dump(&self, _: Request<DumpRequest>) -> Result<Response<DumpResponse>, Status> {
                Ok(Response::new(dump()))
            }

            async fn consume(
                &self,
                request: Request<ConsumeRequest>,
            ) -> Result<Response<ConsumeResponse>, Status> {
                let request = request.into_inner();
                let refuse = self.orders.lock().unwrap().refuse_each_consumer;
                let result = |consumer: &ConsumerSpec| ConsumeResult {
                    consumer_id: consumer.consumer_id.clone(),
                    error: if refuse { "no".into() } else { String::new() },
                    producer_paused: false,
                    score: Some(score()),
                };
                let results = request.consumers.iter().map(result).collect();
                self.answer(Call::Consume(request), ConsumeResponse { results }).await
            }

            async fn consume_data(
                &self,
                request: Request<ConsumeDataRequest>,
            ) -> Result<Response<ConsumeDataResponse>, Status> {
                let request = request.into_inner();
                let refuse = self.orders.lock().unwrap().refuse_each_consumer;
                let result = |consumer: &DataConsumerSpec| ConsumeDataResult {
                    data_consumer_id: consumer.data_consumer_id.clone(),
                    error: if refuse { "no".into() } else { String::new() },
                };
                let results = request.data_consumers.iter().map(result).collect();
                self.answer(Call::ConsumeData(request), ConsumeDataResponse { results }).await
            }

            async fn produce_data(
                &self,
                request: Request<ProduceDataRequest>,
            ) -> Result<Response<Empty>, Status> {
                let request = request.into_inner();
                let call = match request.on {
                    Some(produce_data_request::On::RouterId(_)) => Call::ProduceDirectData(request),
                    _ => Call::ProduceData(request),
                };
                self.answer(call, Empty {}).await
            }

            $(async fn $name(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                self.answer(Call::$call(request.into_inner()), $answer).await
            })*
        }
    };
}

recorded! {
    create_router: CreateRouter(CreateRouterRequest) -> Empty = Empty {};
    close_router: CloseRouter(CloseRouterRequest) -> Empty = Empty {};
    create_web_rtc_transport: CreateTransport(CreateWebRtcTransportRequest)
        -> CreateWebRtcTransportResponse = transport();
    connect_web_rtc_transport: ConnectTransport(ConnectWebRtcTransportRequest) -> Empty = Empty {};
    create_plain_transport: CreatePlainTransport(CreatePlainTransportRequest)
        -> CreatePlainTransportResponse = plain_transport();
    connect_plain_transport: ConnectPlainTransport(ConnectPlainTransportRequest)
        -> ConnectPlainTransportResponse = ConnectPlainTransportResponse::default();
    restart_ice: RestartIce(RestartIceRequest) -> IceParameters = ice_parameters("restarted");
    close_transport: CloseTransport(CloseTransportRequest) -> Empty = Empty {};
    produce: Produce(ProduceRequest) -> Empty = Empty {};
    close_producer: CloseProducer(CloseProducerRequest) -> Empty = Empty {};
    pause_producer: PauseProducer(PauseProducerRequest) -> Empty = Empty {};
    resume_producer: ResumeProducer(ResumeProducerRequest) -> Empty = Empty {};
    close_consumer: CloseConsumer(CloseConsumerRequest) -> Empty = Empty {};
    pause_consumer: PauseConsumer(PauseConsumerRequest) -> Empty = Empty {};
    resume_consumer: ResumeConsumer(ResumeConsumerRequest) -> ConsumerScore = score();
    request_key_frame: RequestKeyFrame(RequestKeyFrameRequest) -> Empty = Empty {};
    set_consumer_preferred_layers: SetConsumerPreferredLayers(SetConsumerPreferredLayersRequest)
        -> Empty = Empty {};
    set_consumer_priority: SetConsumerPriority(SetConsumerPriorityRequest)
        -> Empty = Empty {};
    close_data_producer: CloseDataProducer(CloseDataProducerRequest)
        -> Empty = Empty {};
    close_data_consumer: CloseDataConsumer(CloseDataConsumerRequest)
        -> Empty = Empty {};
    send_data_message: SendDataMessage(SendDataMessageRequest)
        -> Empty = Empty {};
    get_transport_stats: GetTransportStats(GetStatsRequest)
        -> TransportStats = transport_stats();
    get_producer_stats: GetProducerStats(GetStatsRequest)
        -> ProducerStats = ProducerStats { streams: vec![stream_stats("r0")] };
    get_consumer_stats: GetConsumerStats(GetStatsRequest)
        -> ConsumerStats = ConsumerStats {
            outbound: Some(stream_stats("")),
            inbound: Some(stream_stats("r0")),
        };
    get_data_producer_stats: GetDataProducerStats(GetStatsRequest)
        -> DataProducerStats = DataProducerStats {
            label: "chat".into(),
            messages_received: 3,
            ..DataProducerStats::default()
        };
    get_data_consumer_stats: GetDataConsumerStats(GetStatsRequest)
        -> DataConsumerStats = DataConsumerStats {
            label: "chat".into(),
            messages_sent: 4,
            ..DataConsumerStats::default()
        };
    explain_consumers: ExplainConsumers(ExplainConsumersRequest)
        -> ExplainConsumersResponse = ExplainConsumersResponse::default();
    set_network_throttle: SetNetworkThrottle(SetNetworkThrottleRequest)
        -> Empty = Empty {};
}

/// As without `rtcpMux`, and with SRTP.
fn plain_transport() -> CreatePlainTransportResponse {
    CreatePlainTransportResponse {
        address: "192.0.2.1".into(),
        port: 40_002,
        rtcp_port: Some(40_003),
        srtp: Some(SrtpParameters {
            crypto_suite: SrtpCryptoSuite::AesCm128HmacSha180.into(),
            key: vec![0; 30],
        }),
        addresses: ["192.0.2.1", "2001:db8::1"].map(Into::into).to_vec(),
    }
}

fn transport_stats() -> TransportStats {
    TransportStats {
        ice_state: IceState::Completed.into(),
        dtls_state: DtlsState::Connected.into(),
        sctp_state: SctpState::Connecting.into(),
        received: Some(Traffic {
            bytes: 1200,
            bitrate: 800,
        }),
        ..TransportStats::default()
    }
}

fn stream_stats(rid: &str) -> RtpStreamStats {
    RtpStreamStats {
        ssrc: 4711,
        rid: (!rid.is_empty()).then(|| rid.to_owned()),
        kind: MediaKind::Video.into(),
        mime_type: "video/VP8".into(),
        score: 10,
        ..RtpStreamStats::default()
    }
}

fn score() -> ConsumerScore {
    ConsumerScore {
        score: 10,
        producer_score: 9,
        producer_scores: vec![9],
    }
}

fn ice_parameters(username_fragment: &str) -> IceParameters {
    IceParameters {
        username_fragment: username_fragment.into(),
        password: "p".repeat(32),
    }
}

fn transport() -> CreateWebRtcTransportResponse {
    CreateWebRtcTransportResponse {
        ice_parameters: Some(ice_parameters("first")),
        ice_candidates: vec![IceCandidate {
            foundation: "udpcandidate".into(),
            priority: 1_076_302_079,
            address: "192.0.2.1".into(),
            port: 40_000,
            protocol: "udp".into(),
        }],
        dtls_fingerprints: vec![DtlsFingerprint {
            algorithm: "sha-256".into(),
            value: ["AB"; 32].join(":"),
        }],
    }
}

/// What a worker tells of itself.
fn dump() -> DumpResponse {
    DumpResponse {
        routers: 3,
        transports: 8,
        datagrams_dropped: 6,
        dropped: Some(DroppedDatagrams {
            unparsable: 1,
            unknown: 2,
            refused_checks: 0,
            refused: 3,
            slow_video: 4,
            slow_full: 0,
            too_long: 5,
            wrong_stream: 6,
            false_reports: 7,
        }),
        tcp: Some(TcpConnections {
            open: 5,
            closed_silent: 9,
            ..TcpConnections::default()
        }),
        cpu_user_us: 2_000_000,
        cpu_system_us: 500_000,
        rss_bytes: 1 << 20,
        ticks: Some(Histogram {
            counts: (1..=12).collect(),
            sum_us: 1_500_000,
        }),
        forwarding: Some(Histogram {
            counts: vec![9; 12],
            sum_us: 9_000,
        }),
        ports_in_use: 1,
        events_waiting: 4,
        log_lines_left_out: 6,
        feedback: Some(Feedback {
            received: Some(DirectionFeedback {
                nacks: 7,
                ..DirectionFeedback::default()
            }),
            sent: Some(DirectionFeedback {
                plis: 3,
                expected_lately: 200,
                lost_lately: 5,
                round_trip_time: Some(20.0),
                ..DirectionFeedback::default()
            }),
        }),
        ..DumpResponse::default()
    }
}

/// Media workers, and the channel by which rooms hear of them.
pub struct FakePool {
    /// Those that get no rooms.
    pub draining: Mutex<Vec<WorkerId>>,
    /// Slots that were to be replaced.
    pub recycled: watch::Sender<Vec<usize>>,
    /// Whether there is another slot, that was taken out.
    pub failed: Mutex<bool>,
    /// Whether its workers did not answer when they were asked last.
    pub stuck: Mutex<bool>,
    workers: Mutex<Vec<(Worker, FakeWorker)>>,
    notices: mpsc::Sender<Notice>,
    last_id: Mutex<u64>,
}

impl FakePool {
    /// No worker yet.
    pub fn new(notices: mpsc::Sender<Notice>) -> Arc<Self> {
        Arc::new(Self {
            draining: Mutex::default(),
            recycled: watch::Sender::new(Vec::new()),
            failed: Mutex::default(),
            stuck: Mutex::default(),
            workers: Mutex::default(),
            notices,
            last_id: Mutex::new(0),
        })
    }

    /// Starts a worker and connects to it.
    pub async fn start_worker(&self) -> FakeWorker {
        self.start_worker_that(|_| {}).await
    }

    /// Another worker, which behaves like that from the start.
    pub async fn start_worker_that(&self, behaves: impl FnOnce(&FakeWorker)) -> FakeWorker {
        let fake = FakeWorker::new();
        behaves(&fake);
        let (client, server) = tokio::io::duplex(1 << 16);
        let incoming = stream::iter([Ok::<_, std::io::Error>(server)]).chain(stream::pending());
        let service = MediaWorkerServer::new(fake.clone());
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let mut client = Some(client);
        let connector = tower::service_fn(move |_| {
            let client = client.take().map(TokioIo::new);
            async move { client.ok_or(std::io::Error::other("the only connection is used")) }
        });
        let endpoint = Endpoint::from_static("http://worker");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let id = {
            let mut last_id = self.last_id.lock().unwrap();
            *last_id += 1;
            WorkerId(*last_id)
        };
        let worker = Worker {
            id,
            index: 0,
            client: WorkerClient::new(channel),
        };
        self.workers.lock().unwrap().push((worker, fake.clone()));
        self.notices.send(Notice::Ready(id)).await.unwrap();
        fake
    }

    /// Some other worker than the first one dies, or the first.
    pub async fn kill_worker(&self, nth: usize) {
        let (dead, _) = self.workers.lock().unwrap().remove(nth);
        self.notices.send(Notice::Died(dead.id)).await.unwrap();
    }

    /// All workers die.
    pub async fn kill_workers(&self) {
        let dead = std::mem::take(&mut *self.workers.lock().unwrap());
        for (worker, _) in dead {
            self.notices.send(Notice::Died(worker.id)).await.unwrap();
        }
    }

    /// A worker says something by itself.
    pub async fn say(&self, router_id: &str, event: event::Event) {
        let id = self.workers.lock().unwrap()[0].0.id;
        let event = Event {
            router_id: router_id.into(),
            event: Some(event),
        };
        self.notices.send(Notice::Event(id, event)).await.unwrap();
    }
}

impl WorkerPool for FakePool {
    fn pick(&self, fits: &dyn Fn(&Worker) -> bool) -> Option<Worker> {
        let draining = self.draining.lock().unwrap();
        let mut live = self.live().into_iter();
        live.find(|worker| fits(worker) && !draining.contains(&worker.id))
    }

    fn live(&self) -> Vec<Worker> {
        let workers = self.workers.lock().unwrap();
        workers.iter().map(|(worker, _)| worker.clone()).collect()
    }

    fn takers(&self) -> Vec<WorkerId> {
        let draining = self.draining.lock().unwrap();
        let live = self.live().into_iter().map(|worker| worker.id);
        live.filter(|id| !draining.contains(id)).collect()
    }

    fn states(&self) -> Vec<WorkerState> {
        self.status().iter().map(|it| it.state).collect()
    }

    fn status(&self) -> Vec<WorkerStatus> {
        let draining = self.takers().is_empty();
        let state = match draining {
            _ if *self.stuck.lock().unwrap() => WorkerState::Stuck,
            true => WorkerState::Draining,
            false => WorkerState::Ready,
        };
        let mut status = vec![WorkerStatus {
            index: 0,
            pid: Some(4711),
            ports: (40_000, 44_999),
            state,
            draining,
            ready_for: Some(Duration::from_secs(90)),
            restarts: 2,
            last_exit: Some(LastExit {
                reason: "signal: 9 (SIGKILL)".into(),
                last_lines: vec!["so long".into()],
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            }),
            load: Some(Load {
                cpu: 0.25,
                packets_in: 10.0,
                packets_out: 20.0,
                bytes_in: 1000.0,
                bytes_out: 2000.0,
                dump: dump(),
            }),
            ..WorkerStatus::default()
        }];
        if *self.failed.lock().unwrap() {
            status.push(WorkerStatus {
                index: 1,
                state: WorkerState::Failed,
                ..WorkerStatus::default()
            });
        }
        status
    }

    fn drain(&self, index: usize) -> Option<WorkerId> {
        let worker = self.live().into_iter().find(|it| it.index == index)?;
        self.draining.lock().unwrap().push(worker.id);
        Some(worker.id)
    }

    fn recycle(&self, index: usize) -> bool {
        self.recycled.send_modify(|recycled| recycled.push(index));
        index == 0
    }
}
