//! The gRPC face of a worker: each call becomes a job for the media thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use nix::sys::eventfd::EventFd;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use proto::media_worker_server::MediaWorker;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::engine::CommandError;
use crate::event_channel::{self, EventStream};
use crate::event_loop::{Job, Worker};
use crate::logging;
use crate::transport::TransportError;

/// Calls that wait for the media thread. When it is full the thread is stuck,
/// and calls are refused at once.
pub const JOB_QUEUE: usize = 1024;

/// Gives jobs to the media thread.
#[derive(Clone)]
pub struct Jobs {
    queue: SyncSender<Job>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
}

impl Jobs {
    /// Jobs over this queue; `wake` ends the media thread's wait, `stop` its loop.
    pub fn new(queue: SyncSender<Job>, wake: Arc<EventFd>, stop: Arc<AtomicBool>) -> Self {
        Self { queue, wake, stop }
    }

    /// Makes the media thread end, however full its queue is.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.write(1);
    }

    /// Queues a job. False when the queue is full or the thread is gone.
    pub fn push(&self, job: Job) -> bool {
        let queued = self.queue.try_send(job).is_ok();
        let _ = self.wake.write(1);
        queued
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker, Instant) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (done, answer) = oneshot::channel();
        let queued = self.push(Box::new(move |worker, now| {
            // The caller may have given up; the work is done all the same.
            let _ = done.send(job(worker, now));
        }));
        if !queued {
            return Err(Status::unavailable("the media thread is busy"));
        }
        answer
            .await
            .map_err(|_| Status::unavailable("the media thread has ended"))
    }
}

/// The service.
pub struct Service {
    jobs: Jobs,
}

impl Service {
    /// A service for this media thread.
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    async fn command<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker, Instant) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let counted = move |worker: &mut Worker, now: Instant| {
            worker.calls += 1;
            job(worker, now)
        };
        Ok(Response::new(self.jobs.call(counted).await??))
    }

    async fn done(
        &self,
        job: impl FnOnce(&mut Worker, Instant) -> Result<(), CommandError> + Send + 'static,
    ) -> Result<Response<proto::Empty>, Status> {
        self.command(job).await?;
        Ok(Response::new(proto::Empty {}))
    }
}

impl From<CommandError> for Status {
    fn from(error: CommandError) -> Self {
        let text = error.to_string();
        match error {
            CommandError::NotFound { .. } => Status::not_found(text),
            CommandError::Exists { .. } => Status::already_exists(text),
            CommandError::Refused(refused) => match refused {
                TransportError::Invalid(_) => Status::invalid_argument(text),
                TransportError::State(_) => Status::failed_precondition(text),
                TransportError::Limit(_) => Status::resource_exhausted(text),
                TransportError::Internal(_) => Status::internal(text),
            },
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MediaWorker for Service {
    type EventsStream = EventStream;

    async fn handshake(
        &self,
        request: Request<proto::HandshakeRequest>,
    ) -> Answer<proto::HandshakeResponse> {
        let theirs = request.into_inner().version;
        let ours = env!("CARGO_PKG_VERSION");
        if theirs != ours {
            return Err(Status::failed_precondition(format!(
                "version: this worker is {ours}, the control plane is {theirs:?}"
            )));
        }
        let udp_port = self.jobs.call(|worker, _| worker.sockets.port()).await?;
        Ok(Response::new(proto::HandshakeResponse {
            pid: std::process::id(),
            udp_port: udp_port.into(),
        }))
    }

    async fn events(&self, _: Request<proto::EventsRequest>) -> Answer<Self::EventsStream> {
        let (sender, stream) = event_channel::channel();
        self.jobs
            .call(move |worker, _| worker.events = Some(sender))
            .await?;
        Ok(Response::new(stream))
    }

    async fn dump(&self, request: Request<proto::DumpRequest>) -> Answer<proto::DumpResponse> {
        let feedback = request.get_ref().feedback;
        let job = move |worker: &mut Worker, _| proto::DumpResponse {
            feedback: feedback.then(|| worker.engine.feedback()),
            ..dump(worker)
        };
        let dump = self.jobs.call(job).await?;
        Ok(Response::new(dump))
    }

    async fn create_router(
        &self,
        request: Request<proto::CreateRouterRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, _| w.engine.create_router(&request))
            .await
    }

    async fn close_router(
        &self,
        request: Request<proto::CloseRouterRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().router_id;
        self.done(move |w, now| w.engine.close_router(now, &id))
            .await
    }

    async fn create_web_rtc_transport(
        &self,
        request: Request<proto::CreateWebRtcTransportRequest>,
    ) -> Answer<proto::CreateWebRtcTransportResponse> {
        let request = request.into_inner();
        self.command(move |w, _| w.engine.create_web_rtc_transport(&request))
            .await
    }

    async fn connect_web_rtc_transport(
        &self,
        request: Request<proto::ConnectWebRtcTransportRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, now| w.engine.connect_web_rtc_transport(now, &request))
            .await
    }

    async fn create_plain_transport(
        &self,
        request: Request<proto::CreatePlainTransportRequest>,
    ) -> Answer<proto::CreatePlainTransportResponse> {
        let request = request.into_inner();
        self.command(move |w, now| w.create_plain_transport(now, &request))
            .await
    }

    async fn connect_plain_transport(
        &self,
        request: Request<proto::ConnectPlainTransportRequest>,
    ) -> Answer<proto::ConnectPlainTransportResponse> {
        let request = request.into_inner();
        self.command(move |w, now| w.connect_plain_transport(now, &request))
            .await
    }

    async fn restart_ice(
        &self,
        request: Request<proto::RestartIceRequest>,
    ) -> Answer<proto::IceParameters> {
        let id = request.into_inner().transport_id;
        self.command(move |w, _| w.engine.restart_ice(&id)).await
    }

    async fn close_transport(
        &self,
        request: Request<proto::CloseTransportRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().transport_id;
        self.done(move |w, now| w.engine.close_transport(now, &id))
            .await
    }

    async fn produce(&self, request: Request<proto::ProduceRequest>) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, now| w.engine.produce(now, &request))
            .await
    }

    async fn close_producer(
        &self,
        request: Request<proto::CloseProducerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().producer_id;
        self.done(move |w, _| w.engine.close_producer(&id)).await
    }

    async fn pause_producer(
        &self,
        request: Request<proto::PauseProducerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().producer_id;
        self.done(move |w, now| w.engine.set_producer_paused(now, &id, true))
            .await
    }

    async fn resume_producer(
        &self,
        request: Request<proto::ResumeProducerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().producer_id;
        self.done(move |w, now| w.engine.set_producer_paused(now, &id, false))
            .await
    }

    async fn consume(
        &self,
        request: Request<proto::ConsumeRequest>,
    ) -> Answer<proto::ConsumeResponse> {
        let request = request.into_inner();
        self.command(move |w, now| Ok(w.engine.consume(now, &request)))
            .await
    }

    async fn close_consumer(
        &self,
        request: Request<proto::CloseConsumerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().consumer_id;
        self.done(move |w, _| w.engine.close_consumer(&id)).await
    }

    async fn pause_consumer(
        &self,
        request: Request<proto::PauseConsumerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().consumer_id;
        self.done(move |w, now| w.engine.pause_consumer(now, &id))
            .await
    }

    async fn resume_consumer(
        &self,
        request: Request<proto::ResumeConsumerRequest>,
    ) -> Answer<proto::ConsumerScore> {
        let id = request.into_inner().consumer_id;
        self.command(move |w, now| w.engine.resume_consumer(now, &id))
            .await
    }

    async fn request_key_frame(
        &self,
        request: Request<proto::RequestKeyFrameRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().consumer_id;
        self.done(move |w, now| w.engine.request_key_frame(now, &id))
            .await
    }

    async fn set_consumer_preferred_layers(
        &self,
        request: Request<proto::SetConsumerPreferredLayersRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, _| w.engine.set_preferred_layers(&request))
            .await
    }

    async fn set_consumer_priority(
        &self,
        request: Request<proto::SetConsumerPriorityRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, _| w.engine.set_priority(&request)).await
    }

    async fn produce_data(
        &self,
        request: Request<proto::ProduceDataRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, now| w.engine.produce_data(now, &request))
            .await
    }

    async fn close_data_producer(
        &self,
        request: Request<proto::CloseDataProducerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().data_producer_id;
        self.done(move |w, _| w.engine.close_data_producer(&id))
            .await
    }

    async fn consume_data(
        &self,
        request: Request<proto::ConsumeDataRequest>,
    ) -> Answer<proto::ConsumeDataResponse> {
        let request = request.into_inner();
        self.command(move |w, _| Ok(w.engine.consume_data(&request)))
            .await
    }

    async fn close_data_consumer(
        &self,
        request: Request<proto::CloseDataConsumerRequest>,
    ) -> Answer<proto::Empty> {
        let id = request.into_inner().data_consumer_id;
        self.done(move |w, _| w.engine.close_data_consumer(&id))
            .await
    }

    async fn send_data_message(
        &self,
        request: Request<proto::SendDataMessageRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, now| w.engine.send_data_message(now, &request))
            .await
    }

    async fn get_transport_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<proto::TransportStats> {
        let id = request.into_inner().id;
        self.command(move |w, now| w.engine.transport_stats(now, &id))
            .await
    }

    async fn get_producer_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<proto::ProducerStats> {
        let id = request.into_inner().id;
        self.command(move |w, now| w.engine.producer_stats(now, &id))
            .await
    }

    async fn get_consumer_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<proto::ConsumerStats> {
        let id = request.into_inner().id;
        self.command(move |w, now| w.engine.consumer_stats(now, &id))
            .await
    }

    async fn get_data_producer_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<proto::DataProducerStats> {
        let id = request.into_inner().id;
        self.command(move |w, _| w.engine.data_producer_stats(&id))
            .await
    }

    async fn get_data_consumer_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<proto::DataConsumerStats> {
        let id = request.into_inner().id;
        self.command(move |w, _| w.engine.data_consumer_stats(&id))
            .await
    }

    async fn explain_consumers(
        &self,
        request: Request<proto::ExplainConsumersRequest>,
    ) -> Answer<proto::ExplainConsumersResponse> {
        let id = request.into_inner().router_id;
        self.command(move |w, now| w.engine.explain_consumers(now, &id))
            .await
    }

    async fn set_network_throttle(
        &self,
        request: Request<proto::SetNetworkThrottleRequest>,
    ) -> Answer<proto::Empty> {
        let request = request.into_inner();
        self.done(move |w, now| w.engine.set_network_throttle(now, &request))
            .await
    }
}

fn dump(worker: &mut Worker) -> proto::DumpResponse {
    let sizes = worker.engine.sizes();
    let counters = worker.engine.counters();
    let net = worker.sockets.counters();
    let tcp = worker.sockets.tcp();
    let (open, waiting, tcp) = (tcp.open(), tcp.waiting(), tcp.counters());
    let (user, system) = getrusage(UsageWho::RUSAGE_SELF).map_or((0, 0), |usage| {
        (
            usage.user_time().num_microseconds(),
            usage.system_time().num_microseconds(),
        )
    });
    proto::DumpResponse {
        routers: count(sizes.routers),
        transports: count(sizes.transports),
        producers: count(sizes.producers),
        consumers: count(sizes.consumers),
        rtp_packets_received: counters.rtp_received,
        rtp_packets_forwarded: counters.rtp_forwarded,
        datagrams_received: net.received,
        datagrams_sent: net.sent,
        datagrams_dropped: counters.dropped.total() + tcp.packets_dropped,
        send_errors: net.send_errors,
        cpu_user_us: u64::try_from(user).unwrap_or(0),
        cpu_system_us: u64::try_from(system).unwrap_or(0),
        rss_bytes: resident_bytes(),
        panics: counters.panics,
        data_producers: count(sizes.data_producers),
        data_consumers: count(sizes.data_consumers),
        calls: worker.calls,
        bytes_received: net.bytes_received,
        bytes_sent: net.bytes_sent,
        dropped: Some(proto::DroppedDatagrams {
            unparsable: counters.dropped.unparsable,
            unknown: counters.dropped.unknown,
            refused_checks: counters.dropped.refused_checks,
            refused: counters.dropped.refused,
            slow_video: counters.dropped.slow_video,
            slow_full: tcp.packets_dropped,
            too_long: counters.dropped.too_long,
            wrong_stream: counters.dropped.wrong_stream,
            false_reports: counters.dropped.false_reports,
        }),
        data_messages_dropped: counters.data_dropped,
        ticks: Some(worker.ticks.all().into()),
        forwarding: Some(worker.ticks.of_packets().into()),
        plain_unreachable: counters.unreachable,
        ports_in_use: u32::try_from(worker.sockets.ports_in_use()).unwrap_or(u32::MAX),
        feedback: None,
        tcp: Some(proto::TcpConnections {
            open: u32::try_from(open).unwrap_or(u32::MAX),
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            refused_full: tcp.refused_full,
            refused_source: tcp.refused_source,
            closed_silent: tcp.closed_silent,
            closed_malformed: tcp.closed_malformed,
            closed_stalled: tcp.closed_stalled,
        }),
        events_waiting: u32::try_from(worker.events_waiting()).unwrap_or(u32::MAX),
        log_lines_left_out: logging::left_out(),
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Resident memory of this process, bytes; 0 when the kernel does not tell.
fn resident_bytes() -> u64 {
    let kib = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
    kib.unwrap_or(0) * 1024
}
