//! Puts the app on a TCP port: TLS or not, HTTP/1.1 with upgrades, limits, shutdown.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderValue, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::debug;

use super::accept::Acceptor;
use super::progress::{Watch, Watched};
use super::signaling::ConnectionPermit;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Time for a client to finish its TLS handshake.
const TLS_DEADLINE: Duration = Duration::from_secs(10);

/// Time for a client to send the head of a request; an idle connection too is
/// closed after it.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);

/// Time for a client to take anything at all of an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Longest life of a connection that is not upgraded: one that takes a byte now
/// and then must not keep its place for ever.
const PLAIN_LIFE: Duration = Duration::from_secs(300);

/// Time for requests under way to be answered at shutdown, or at the end of a
/// connection's life.
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

/// Serves, in the clear without `tls`, until `shutdown`: then takes no more connections, gives requests
/// under way half a second, and returns. Upgraded sockets are not waited for;
/// [`Rooms::shutdown`](crate::rooms::Rooms::shutdown) closes those.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let acceptor = tls.map(TlsAcceptor::from);
    let mut incoming = Acceptor::new(listener);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = incoming.accept() => accepted,
        };
        let (stream, remote, permit) = accepted?;
        // Signaling is small messages that somebody waits for.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%remote, %error, "cannot set TCP_NODELAY");
        }
        let connection = Connection {
            app: app.clone(),
            remote,
            permit: ConnectionPermit {
                _held: Arc::new(permit),
            },
        };
        connections.spawn(connection.run(stream, acceptor.clone(), shutdown.clone()));
    }
    drop(incoming);
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// One accepted connection.
struct Connection {
    app: Router,
    remote: SocketAddr,
    permit: ConnectionPermit,
}

impl Connection {
    async fn run<S>(self, stream: S, acceptor: Option<TlsAcceptor>, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let remote = self.remote;
        let (stream, watch) = Watched::new(stream);
        let Some(acceptor) = acceptor else {
            return self.serve_http(stream, &watch, shutdown).await;
        };
        let handshake = timeout(TLS_DEADLINE, acceptor.accept(stream));
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            handshake = handshake => match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return debug!(%remote, %error, "TLS handshake failed"),
                Err(_) => return debug!(%remote, "TLS handshake timed out"),
            },
        };
        self.serve_http(stream, &watch, shutdown).await;
    }

    async fn serve_http<S>(self, stream: S, watch: &Watch, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let remote = self.remote;
        let service = service_fn(move |request| self.answer(request));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // An upgrade ends this, and with it what plain HTTP is held to.
        let result = tokio::select! {
            result = &mut connection => result,
            () = watch.stuck(WRITE_DEADLINE) => return debug!(%remote, "client does not read"),
            () = either(shutdown.cancelled(), sleep(PLAIN_LIFE)) => {
                Pin::new(&mut connection).graceful_shutdown();
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
        let unread = Arc::new(AtomicBool::new(!request.body().is_end_stream()));
        let mut request = request.map(|body| {
            let unread = unread.clone();
            Body::new(Noted { body, unread })
        });
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.remote));
        extensions.insert(self.permit.clone());
        let answer = self.app.clone().oneshot(request);
        async move {
            let mut response = answer.await?;
            // hyper closes a connection with a body that nobody has read: a
            // client must hear of it, or its next request is lost (RFC 9112
            // section 9.6).
            if unread.load(Ordering::Relaxed) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(response)
        }
    }
}

/// A request's body that notes when it has been read to its end.
struct Noted {
    body: Incoming,
    /// False once nothing of it is left.
    unread: Arc<AtomicBool>,
}

impl hyper::body::Body for Noted {
    type Data = <Incoming as hyper::body::Body>::Data;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.unread.store(false, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;

    /// Leaves HTTP, and sends back one byte.
    async fn echo(mut request: axum::extract::Request) -> axum::response::Response {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut upgraded = TokioIo::new(upgrade.await.unwrap());
            let byte = upgraded.read_u8().await.unwrap();
            upgraded.write_u8(byte).await.unwrap();
            upgraded.flush().await.unwrap();
        });
        let answer = http::Response::builder().status(101);
        let answer = answer.header("connection", "upgrade");
        answer
            .header("upgrade", "echo")
            .body(Body::empty())
            .unwrap()
    }

    /// A connection in memory to an app with a large page, and the task that
    /// serves it.
    async fn connect() -> (TlsStream<DuplexStream>, JoinHandle<()>) {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let certificate = key.cert.der().clone();
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(private))
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (here, there) = duplex(4096);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let connection = Connection {
            app: Router::new()
                .route("/", get(async || "x".repeat(1 << 20)))
                .route("/length", post(async |body: String| body.len().to_string()))
                .route("/upgrade", get(echo)),
            remote: SocketAddr::from(([127, 0, 0, 1], 1)),
            permit: ConnectionPermit {
                _held: Arc::new(permit),
            },
        };
        let acceptor = Some(TlsAcceptor::from(Arc::new(server)));
        let task = tokio::spawn(connection.run(there, acceptor, CancellationToken::new()));
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        (connector.connect(name, here).await.unwrap(), task)
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// Sends a request with a body, which comes when the answer may be under way,
    /// and reads the head of the answer.
    async fn answer_to_a_body(request: &str) -> String {
        let (mut client, _task) = connect().await;
        let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        sleep(Duration::from_millis(10)).await;
        // It may have been closed by now.
        let _ = client.write_all(b"body").await;
        let _ = client.flush().await;
        let mut answer = vec![0; 4096];
        let len = client.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..len]).to_lowercase()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_says_when_the_connection_ends_with_it() {
        let refused = answer_to_a_body("PUT /length").await;
        assert!(refused.starts_with("http/1.1 405"), "{refused}");
        assert!(refused.contains("\r\nconnection: close\r\n"), "{refused}");
        let answered = answer_to_a_body("POST /length").await;
        assert!(answered.starts_with("http/1.1 200"), "{answered}");
        assert!(!answered.contains("connection: close"), "{answered}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_dropped() {
        let (mut client, task) = connect().await;
        let begin = Instant::now();
        client.write_all(REQUEST).await.unwrap();
        client.flush().await.unwrap();
        timeout(PLAIN_LIFE, task).await.unwrap().unwrap();
        assert!((30..32).contains(&begin.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_very_slowly_is_dropped() {
        let (mut client, task) = connect().await;
        let begin = Instant::now();
        client.write_all(REQUEST).await.unwrap();
        client.flush().await.unwrap();
        let mut piece = [0; 4096];
        let reads = async {
            while client.read(&mut piece).await.is_ok_and(|size| size > 0) {
                // Several such pieces are one TLS record.
                sleep(Duration::from_secs(5)).await;
            }
        };
        tokio::select! {
            () = reads => panic!("read to the end"),
            ended = timeout(2 * PLAIN_LIFE, task) => ended.unwrap().unwrap(),
        }
        assert!((300..302).contains(&begin.elapsed().as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_connection_lives_on() {
        let (mut client, task) = connect().await;
        let request = "GET /upgrade HTTP/1.1\r\nHost: localhost\r\n\
            Connection: upgrade\r\nUpgrade: echo\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        task.await.unwrap();
        sleep(2 * PLAIN_LIFE).await;
        client.write_u8(7).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 7);
    }
}
