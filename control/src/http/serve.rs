//! Puts the app on a TCP port: TLS, HTTP/1.1 with upgrades, limits, shutdown.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::signaling::ConnectionPermit;

/// Most connections at a time, WebSockets included. More wait in the kernel's
/// backlog until one ends.
pub const MAX_CONNECTIONS: usize = 16_384;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Time for a client to finish its TLS handshake.
const TLS_DEADLINE: Duration = Duration::from_secs(10);

/// Time for a client to send the head of a request; an idle connection too is
/// closed after it.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for requests under way to be answered at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// Binds the listener of HTTPS and WSS; `::` takes IPv4 as well.
///
/// # Errors
/// What the system says, for example that the port is in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves until `shutdown`: then takes no more connections, gives requests
/// under way half a second, and returns. Upgraded sockets are not waited for;
/// [`Rooms::shutdown`](crate::rooms::Rooms::shutdown) closes those.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    app: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, remote, permit)) => {
                let connection = Connection {
                    app: app.clone(),
                    remote,
                    permit: ConnectionPermit {
                        _held: Arc::new(permit),
                    },
                };
                let (acceptor, shutdown) = (acceptor.clone(), shutdown.clone());
                connections.spawn(connection.run(stream, acceptor, shutdown));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = places.clone().acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((stream, remote, permit))
}

/// One accepted connection.
struct Connection {
    app: Router,
    remote: SocketAddr,
    permit: ConnectionPermit,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: TlsAcceptor, shutdown: CancellationToken) {
        let remote = self.remote;
        // Signaling is small messages that somebody waits for.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%remote, %error, "cannot set TCP_NODELAY");
        }
        let handshake = timeout(TLS_DEADLINE, acceptor.accept(stream));
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            handshake = handshake => match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return debug!(%remote, %error, "TLS handshake failed"),
                Err(_) => return debug!(%remote, "TLS handshake timed out"),
            },
        };
        let service = service_fn(move |request| self.answer(request));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let result = tokio::select! {
            result = &mut connection => result,
            () = shutdown.cancelled() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                match timeout(SHUTDOWN_GRACE, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            debug!(%remote, %error, "connection failed");
        }
    }

    fn answer(
        &self,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Result<axum::response::Response, Infallible>> + use<> {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.remote));
        extensions.insert(self.permit.clone());
        self.app.clone().oneshot(request)
    }
}
