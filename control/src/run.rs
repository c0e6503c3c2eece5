//! The control plane, from its arguments to its end.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::addresses::{self, AnnouncedAddress};
use crate::config::{Config, LogFormat, Parsed};
use crate::http::{self, AppState};
use crate::rooms::Rooms;
use crate::signals::{EndSignal, Hangups, Signals};
use crate::startup::{self, Startup};
use crate::traces::Traces;
use crate::workers::cpu::CpuLimits;
use crate::workers::memory::Granted;
use crate::workers::{Plan, WorkerPool, Workers};
use crate::{check, listen, logging, tls, workers};

/// Notices of the workers that wait for the rooms. When it is full, the events
/// of a worker wait in its connection.
const NOTICE_QUEUE: usize = 4096;

/// Close code of WebSockets at the end of the server (RFC 6455 §7.4.2, "service
/// restart"): clients try again, and find the next one.
const CLOSE_RESTART: u16 = 1012;

/// Time for clients to be let go and for requests under way to be answered at
/// the end. With the workers' own time the whole end stays below two seconds.
const GOODBYE: Duration = Duration::from_millis(700);

/// How often it is looked whether the last call has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// What an operator has to do who switched TLS off.
const NO_TLS: &str = "HTTPS_ENABLED=no: a proxy in front has to add TLS";
/// And who did not name that proxy.
const NO_PROXY: &str = "TRUSTED_PROXIES is not set: to this server, every client has the address \
                        of the proxy";

/// Exit code for settings that make no sense.
const EXIT_USAGE: u8 = 2;

/// Runs the control plane. `args` begin with the name of the program.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match Config::parse(args, |name| std::env::var_os(name)) {
        Ok(Parsed::Run(config)) => *config,
        Ok(Parsed::Check(config, problems)) => return check::run(&config, &problems),
        Ok(Parsed::Print(text)) => {
            logging::print(&text);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            logging::complain(error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            logging::complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let format = config.log_format;
    let traces = {
        let _runtime = runtime.enter();
        config
            .otlp_endpoint
            .as_deref()
            .map(Traces::start)
            .transpose()
    };
    let traces = match traces {
        Ok(traces) => traces,
        Err(error) => {
            logging::complain(format_args!("OTEL_EXPORTER_OTLP_ENDPOINT: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let log = logging::start(&config.log, format, traces.as_ref());
    runtime.spawn(log.keep());
    let (code, last) = match runtime.block_on(serve(config)) {
        Ok(()) => (ExitCode::SUCCESS, None),
        Err(error) => match format {
            LogFormat::Text => (ExitCode::FAILURE, Some(error.to_string())),
            // Whatever reads the log expects nothing else in it.
            LogFormat::Json => {
                error!("{error}");
                (ExitCode::FAILURE, None)
            }
        },
    };
    if let Some(traces) = traces {
        traces.end();
    }
    // What is still blocked by now must not hold up the end.
    runtime.shutdown_background();
    log.end(last);
    code
}

/// Why the server could not start, or stopped serving: one line.
type Failure = Box<dyn std::error::Error>;

async fn serve(config: Config) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let hangups = Hangups::new()?;
    listen::raise_limits();
    listen::check_media(config.media_listen_ip)?;
    let machine = addresses::interfaces();
    let announced = addresses::announced(&config, &machine);
    if announced.is_empty() {
        return Err(addresses::NONE.into());
    }
    let own: Vec<IpAddr> = announced.iter().filter_map(AnnouncedAddress::ip).collect();
    let plan = Plan::new(&config, &CpuLimits::detect(), announced.clone())?;
    let tls = match config.https_enabled {
        true => Some(tls::load_or_make(&config, &own)?),
        false => None,
    };
    let mut notes = plan.notes.clone();
    notes.extend(Granted::detect().shortages(&config, &plan));
    match &tls {
        Some(tls) => notes.extend(tls.notes.iter().cloned()),
        None => notes.push(NO_TLS.to_owned()),
    }
    if tls.is_none() && config.trusted_proxies.is_empty() {
        notes.push(NO_PROXY.to_owned());
    }
    notes.extend(startup::admin_notes(&config));
    let listener = listen::https(config.listen_ip, config.listen_port)?;
    let admin_listener = config.admin_listen.map(listen::admin).transpose()?;

    let (notices, receiver) = mpsc::channel(NOTICE_QUEUE);
    let workers = tokio::select! {
        started = workers::start(plan, notices) => started?,
        _ = signals.recv() => return Ok(()),
    };
    let config = Arc::new(config);
    let pool: Arc<dyn WorkerPool> = Arc::new(workers.clone());
    let rooms = match Rooms::start(Arc::clone(&config), Arc::clone(&pool), receiver) {
        Ok(rooms) => rooms,
        Err(error) => {
            workers.shutdown().await;
            return Err(error.into());
        }
    };
    let stop = CancellationToken::new();
    let drain = CancellationToken::new();
    let state = AppState {
        config: Arc::clone(&config),
        rooms: rooms.clone(),
        workers: Arc::clone(&pool),
        drain: drain.clone(),
    };
    let server_tls = tls.as_ref().map(|tls| Arc::clone(&tls.server));
    let admin = config.admin_listen.zip(admin_listener);
    let admin = admin.map(|(address, listener)| {
        let tls = server_tls.clone();
        let tls = tls.filter(|_| startup::admin_speaks_tls(&config, address));
        let app = http::admin_app(state.clone());
        http::serve::serve(listener, tls, app, stop.clone())
    });
    let public = http::serve::serve(listener, server_tls, http::app(state), stop.clone());
    let mut server = Some(tokio::spawn(async move {
        let admin = async {
            match admin {
                Some(serving) => serving.await,
                None => Ok(()),
            }
        };
        tokio::try_join!(public, admin).map(|_| ())
    }));
    for note in &notes {
        warn!("{note}");
    }
    let startup = Startup {
        config: &config,
        announced: &announced,
        workers: &pool.status(),
        certificate: tls.as_ref().map_or("none", |tls| &tls.description),
        notes: &notes,
    };
    match config.log_format {
        LogFormat::Text => logging::print(&startup.block()),
        LogFormat::Json => startup.log(),
    }

    let _fresh = tls.map(|tls| {
        let keeping = tls::keep_fresh(tls.reloader, hangups);
        AbortOnDropHandle::new(tokio::spawn(keeping))
    });
    let mut drain = Drain {
        asked: drain,
        patience: config.drain_timeout,
        rooms: &rooms,
    };
    let result = until_over(&mut signals, &mut server, &mut drain).await;
    tokio::select! {
        () = end(&stop, &rooms, server, workers) => {}
        _ = signals.recv() => info!("ending at once"),
    }
    result
}

/// How calls are let end before the server does.
struct Drain<'a> {
    /// Cancelled when an admin wants the end.
    asked: CancellationToken,
    /// How long calls may go on.
    patience: Duration,
    rooms: &'a Rooms,
}

impl Drain<'_> {
    /// Takes no new rooms, and waits until nobody is in a call any more; no longer
    /// than the patience goes.
    async fn run(&self) {
        self.rooms.drain();
        let peers = self.rooms.joined_peers();
        if self.rooms.is_idle() || self.patience.is_zero() {
            return;
        }
        info!(peers, patience = ?self.patience, "calls may end, no new rooms are taken");
        let empty = async {
            while !self.rooms.is_idle() {
                sleep(DRAIN_LOOK).await;
            }
        };
        if timeout(self.patience, empty).await.is_err() {
            let peers = self.rooms.joined_peers();
            warn!(peers, "calls did not end in time");
        }
    }
}

/// Waits for a signal or an admin that ends the server, and then for calls to end
/// or another signal; or for its listener's end. A SIGTERM after an admin's wish is no
/// second signal: what started the server ends it while it drains already, as the
/// `preStop` of a pod that asks for that.
async fn until_over(
    signals: &mut Signals,
    server: &mut Server,
    drain: &mut Drain<'_>,
) -> Result<(), Failure> {
    let peers = || drain.rooms.joined_peers();
    let mut signals_before = 1;
    tokio::select! {
        signal = signals.recv() => match signal {
            // Somebody sits in front of it and wants it to end.
            EndSignal::Interrupt => {
                info!(signal = "SIGINT", peers = peers(), "ending");
                return Ok(());
            }
            EndSignal::Terminate => info!(signal = "SIGTERM", peers = peers(), "ending"),
        },
        () = drain.asked.cancelled() => {
            info!(peers = peers(), "ending, as an administrator wants");
            signals_before = 0;
        }
        ended = ended(server) => {
            error!("the listener has ended");
            return ended;
        }
    }
    let mut draining = std::pin::pin!(drain.run());
    loop {
        tokio::select! {
            () = &mut draining => return Ok(()),
            signal = signals.recv() => {
                if signal == EndSignal::Interrupt || signals_before > 0 {
                    info!("ending without waiting for calls");
                    return Ok(());
                }
                info!(peers = peers(), signal = "SIGTERM", "calls may end, as before");
                signals_before += 1;
            }
            ended = ended(server) => {
                error!("the listener has ended");
                return ended;
            }
        }
    }
}

/// The task that serves HTTPS; `None` once its end is known.
type Server = Option<JoinHandle<io::Result<()>>>;

/// Waits for the end of the server.
async fn ended(server: &mut Server) -> Result<(), Failure> {
    if let Some(task) = server {
        let result = task.await;
        *server = None;
        result??;
    }
    Ok(())
}

/// Takes nobody in, lets everybody go while requests under way are answered,
/// then ends the workers while the last webhooks leave.
async fn end(stop: &CancellationToken, rooms: &Rooms, mut server: Server, workers: Workers) {
    stop.cancel();
    let goodbye = async { tokio::join!(rooms.shutdown(CLOSE_RESTART), ended(&mut server)) };
    if timeout(GOODBYE, goodbye).await.is_err() {
        info!("not everybody has left in time");
    }
    tokio::join!(workers.shutdown(), rooms.webhooks().flush());
}
