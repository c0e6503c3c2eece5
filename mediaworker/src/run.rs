//! The worker process, from its arguments to its end.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use clap::Parser;
use log_limit::Limit;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use proto::media_worker_server::MediaWorkerServer;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::engine::{AnnouncedAddress, Engine, EngineConfig};
use crate::event_loop::{Ended, Worker};
use crate::grpc::{JOB_QUEUE, Jobs, Service};
use crate::net::udp::MediaSockets;
use crate::{logging, process, warm_up};

/// What the control plane tells a worker. Not for people to call.
#[derive(Debug, Parser)]
#[command(name = "webrtc-server worker", disable_version_flag = true)]
struct Args {
    /// Slot of the worker, 0-based.
    #[arg(long)]
    index: usize,
    /// Unix socket to serve gRPC on; its directory is private.
    #[arg(long)]
    socket: PathBuf,
    /// Address that the media sockets bind to.
    #[arg(long)]
    listen_ip: IpAddr,
    /// Addresses or host names for candidates, the preferred first.
    #[arg(long)]
    announce: Vec<String>,
    /// First port of the slice.
    #[arg(long)]
    min_port: u16,
    /// Last port of the slice.
    #[arg(long)]
    max_port: u16,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Process id of the control plane.
    #[arg(long)]
    parent_pid: i32,
}

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the control plane is gone")]
    Orphan,
    #[error(
        "cannot bind a UDP port of {min}–{max} (MEDIASOUP_MIN_PORT, MEDIASOUP_MAX_PORT) on {ip}: {source}"
    )]
    Bind {
        ip: IpAddr,
        min: u16,
        max: u16,
        source: std::io::Error,
    },
    #[error("{0}")]
    Engine(#[from] crate::engine::CommandError),
    #[error("cannot serve {path}: {source}")]
    Socket {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    System(std::io::Error),
}

/// Runs a worker process. `args`: what follows `worker` on the command line.
pub fn run(args: impl Iterator<Item = String>) -> ExitCode {
    let name = std::iter::once("webrtc-server worker".to_owned());
    let args = match Args::try_parse_from(name.chain(args)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    process::set_title(args.index);
    let limit = logging::start();
    let orphaned = Arc::new(AtomicBool::new(false));
    let result = serve(&args, &orphaned, &limit);
    clean_up(&args, orphaned.load(Ordering::Acquire));
    limit.turn();
    match result {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Congested) => {
            tracing::error!("events are not read by the control plane");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args, orphaned: &Arc<AtomicBool>, limit: &Limit) -> Result<Ended, StartError> {
    if !process::die_with_parent(args.parent_pid) {
        return Err(StartError::Orphan);
    }
    if let Some(cpu) = args.cpu
        && let Err(error) = process::pin(cpu)
    {
        tracing::warn!(cpu, %error, "cannot pin; running unpinned");
    }
    let mut sockets =
        MediaSockets::bind(args.listen_ip, args.min_port..=args.max_port).map_err(|source| {
            StartError::Bind {
                ip: args.listen_ip,
                min: args.min_port,
                max: args.max_port,
                source,
            }
        })?;
    let engine = Engine::new(EngineConfig {
        announced: args
            .announce
            .iter()
            .cloned()
            .map(AnnouncedAddress)
            .collect(),
        udp_port: sockets.port(),
        tcp: sockets.tcp().is_listening(),
    })?;
    warm_up::crypto(Instant::now());

    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = EventFd::from_value_and_flags(0, flags).map_err(|e| StartError::System(e.into()))?;
    let wake = Arc::new(wake);
    let (queue, jobs) = sync_channel(JOB_QUEUE);
    let stop = Arc::new(AtomicBool::new(false));
    let handle = Jobs::new(queue, Arc::clone(&wake), Arc::clone(&stop));
    let on_parent_end = handle.clone();
    let on_end = Arc::clone(orphaned);
    process::watch_parent(move || {
        on_end.store(true, Ordering::Release);
        on_parent_end.stop();
    })
    .map_err(StartError::System)?;
    serve_grpc(args, handle, Arc::clone(orphaned), limit.clone())?;
    let worker = Worker::new(engine, sockets, wake).map_err(StartError::System)?;
    Ok(worker.run(&jobs, &stop))
}

/// Removes the socket. A control plane that was killed cannot remove the
/// directory either: then the last worker does.
fn clean_up(args: &Args, orphaned: bool) {
    let _ = std::fs::remove_file(&args.socket);
    if orphaned && let Some(directory) = args.socket.parent() {
        let _ = std::fs::remove_dir(directory);
    }
}

/// Serves gRPC, handles SIGTERM and tells what the log leaves out, on a thread of its
/// own.
fn serve_grpc(
    args: &Args,
    jobs: Jobs,
    orphaned: Arc<AtomicBool>,
    limit: Limit,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::System)?;
    let listener = {
        let _entered = runtime.enter();
        UnixListener::bind(&args.socket).map_err(|source| StartError::Socket {
            path: args.socket.clone(),
            source,
        })?
    };
    let listen = |kind: i32| {
        let _entered = runtime.enter();
        signal(SignalKind::from_raw(kind)).map_err(StartError::System)
    };
    let mut terminate = listen(Signal::SIGTERM as i32)?;
    let mut parent_death = listen(process::PARENT_DEATH as i32)?;
    let on_signal = jobs.clone();
    let serve = async move {
        let server = Server::builder()
            .add_service(MediaWorkerServer::new(Service::new(jobs)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::select! {
            result = server => {
                if let Err(error) = result {
                    tracing::error!(%error, "gRPC ended");
                }
            }
            _ = terminate.recv() => {}
            () = limit.keep_turning() => {}
            _ = parent_death.recv() => orphaned.store(true, Ordering::Release),
        }
        on_signal.stop();
    };
    std::thread::Builder::new()
        .name("grpc".into())
        .spawn(move || runtime.block_on(serve))
        .map_err(StartError::System)?;
    Ok(())
}
