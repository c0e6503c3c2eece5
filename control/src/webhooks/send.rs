//! One POST of a webhook: look the host up, check every address, connect, and
//! read the status. Redirects are not followed and bodies of answers not read.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::warn;
use url::{Host, Position, Url};

use super::address::is_public;

/// Header of the signature.
const SIGNATURE: &str = "x-webhook-signature";

/// Most look-ups of hosts under way. Each takes a thread of the runtime's pool
/// until the system's resolver has given up, however short the time for a POST:
/// names that nobody answers for must not take them all. More wait for one to
/// end, in the time of their POST.
const MAX_LOOKUPS: usize = 32;

/// Most addresses of a host that are tried.
const MAX_ADDRESSES: usize = 4;

/// Time to connect to one address.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

const USER_AGENT: &str = concat!("webrtc-server/", env!("CARGO_PKG_VERSION"));

/// Why a POST failed. Its text never has the URI, which may carry credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the host cannot be looked up: {0}")]
    Lookup(io::Error),
    #[error("the host has no address")]
    NoAddress,
    #[error("the host has an address that is not public")]
    PrivateAddress,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("no answer in time")]
    TimedOut,
    #[error("too many others were under way")]
    NoTurn,
    #[error("the URI cannot be used")]
    BadUri,
}

impl Failure {
    /// Whether another try is pointless.
    pub fn is_final(&self) -> bool {
        matches!(self, Failure::PrivateAddress | Failure::BadUri)
    }
}

/// Makes POSTs, each on a connection of its own.
pub(super) struct Sender {
    allow_private: bool,
    lookups: Arc<Semaphore>,
    /// Made for the first https URI.
    tls: OnceCell<TlsConnector>,
}

impl Sender {
    /// `allow_private`: hosts may have addresses that are not public.
    pub fn new(allow_private: bool) -> Self {
        Self {
            allow_private,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            tls: OnceCell::new(),
        }
    }

    /// Sends the body and waits for a 2xx status. No time limit of its own.
    pub async fn post(
        &self,
        uri: &Url,
        body: &Bytes,
        signature: Option<&str>,
    ) -> Result<(), Failure> {
        let request = request(uri, body.clone(), signature)?;
        let stream = connect(&self.addresses(uri).await?).await?;
        let status = match uri.scheme() {
            "http" => exchange(stream, request).await?,
            "https" => {
                let host = uri.host_str().ok_or(Failure::BadUri)?;
                let name = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(name.to_owned()).map_err(|_| Failure::BadUri)?;
                let tls = self.tls.get_or_init(connector).await;
                let stream = tls.connect(name, stream).await.map_err(Failure::Tls)?;
                exchange(stream, request).await?
            }
            _ => return Err(Failure::BadUri),
        };
        if status.is_success() {
            Ok(())
        } else {
            Err(Failure::Status(status))
        }
    }

    /// Where the host is. One address that is not public spoils all, so that a
    /// name cannot bring it in among others.
    async fn addresses(&self, uri: &Url) -> Result<Vec<SocketAddr>, Failure> {
        let port = uri.port_or_known_default().ok_or(Failure::BadUri)?;
        let addresses: Vec<SocketAddr> = match uri.host().ok_or(Failure::BadUri)? {
            Host::Ipv4(ip) => vec![(ip, port).into()],
            Host::Ipv6(ip) => vec![(ip, port).into()],
            Host::Domain(name) => self.look_up(name, port).await.map_err(Failure::Lookup)?,
        };
        if !self.allow_private && !addresses.iter().all(|it| is_public(it.ip())) {
            return Err(Failure::PrivateAddress);
        }
        Ok(addresses)
    }
}

impl Sender {
    /// The addresses of a host by its name. The permit goes with the thread,
    /// which lives on where this future is dropped.
    async fn look_up(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = Arc::clone(&self.lookups).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let name = name.to_owned();
        let found = spawn_blocking(move || {
            let found = (name.as_str(), port).to_socket_addrs();
            drop(permit);
            found.map(Iterator::collect)
        });
        found.await.map_err(io::Error::other)?
    }
}

/// Connects to the first address that answers.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
    let mut failure = Failure::NoAddress;
    for address in addresses.iter().take(MAX_ADDRESSES) {
        failure = match timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Failure::Connect(error),
            Err(_) => Failure::Connect(io::ErrorKind::TimedOut.into()),
        };
    }
    Err(failure)
}

/// Trusts what the system trusts (also by `SSL_CERT_FILE` and `SSL_CERT_DIR`).
async fn connector() -> TlsConnector {
    let load = spawn_blocking(rustls_native_certs::load_native_certs);
    let mut roots = RootCertStore::empty();
    if let Ok(found) = load.await {
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        warn!("no CA certificates on this system: https webhooks will fail");
    }
    connector_with(roots)
}

fn connector_with(roots: RootCertStore) -> TlsConnector {
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn request(
    uri: &Url,
    body: Bytes,
    signature: Option<&str>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::post(&uri[Position::BeforePath..Position::AfterQuery])
        .header(
            header::HOST,
            &uri[Position::BeforeHost..Position::AfterPort],
        )
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(signature) = signature {
        request = request.header(SIGNATURE, signature);
    }
    if let Some(login) = basic_login(uri) {
        request = request.header(header::AUTHORIZATION, login);
    }
    request.body(Full::new(body)).map_err(|_| Failure::BadUri)
}

/// What `user:password@` in a URI stands for (RFC 7617).
fn basic_login(uri: &Url) -> Option<HeaderValue> {
    if uri.username().is_empty() && uri.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let mut login = decoded(uri.username());
    login.push(b':');
    login.extend(decoded(uri.password().unwrap_or_default()));
    let value = format!("Basic {}", BASE64_STANDARD.encode(login));
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One request and the status of its answer; the rest of it is dropped.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The answer may have come with the end of the connection.
        _ = &mut connection => answer.await,
    };
    Ok(answer?.status())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn uri(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn requests() {
        let target = uri("https://us%40er:p%20w@Example.com:8443/a/b?c=d#e");
        let built = request(&target, Bytes::from_static(b"{}"), Some("sha256=00")).unwrap();
        assert_eq!(built.uri(), "/a/b?c=d");
        let headers = built.headers();
        assert_eq!(headers["host"], "example.com:8443");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-webhook-signature"], "sha256=00");
        // us@er:p w
        assert_eq!(headers["authorization"], "Basic dXNAZXI6cCB3");
        let built = request(&uri("http://[::1]"), Bytes::new(), None).unwrap();
        assert_eq!(built.uri(), "/");
        assert_eq!(built.headers()["host"], "[::1]");
        assert!(!built.headers().contains_key("authorization"));
    }

    #[tokio::test]
    async fn addresses_that_are_not_public() {
        let strict = Sender::new(false);
        for refused in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://localhost/",
            "https://169.254.169.254/latest",
        ] {
            let answer = strict.post(&uri(refused), &Bytes::new(), None).await;
            let failure = answer.unwrap_err();
            assert!(matches!(failure, Failure::PrivateAddress), "{failure}");
            assert!(failure.is_final());
        }
        let public = strict.addresses(&uri("https://1.1.1.1/")).await.unwrap();
        assert_eq!(public, [SocketAddr::from(([1, 1, 1, 1], 443))]);
        let lax = Sender::new(true);
        let local = lax.addresses(&uri("http://10.0.0.1:81/")).await.unwrap();
        assert_eq!(local, [SocketAddr::from(([10, 0, 0, 1], 81))]);
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_hold_up_names_alone() {
        let sender = Sender::new(true);
        let all = u32::try_from(MAX_LOOKUPS).unwrap();
        let stuck = sender.lookups.clone().acquire_many_owned(all).await;
        let named = uri("http://localhost:81/");
        let waits = timeout(Duration::from_millis(50), sender.addresses(&named));
        assert!(waits.await.is_err());
        let literal = sender.addresses(&uri("http://127.0.0.1:81/")).await;
        assert_eq!(literal.unwrap().len(), 1);
        drop(stuck);
        let found = sender.addresses(&named).await.unwrap();
        assert!(
            found
                .iter()
                .all(|it| it.port() == 81 && it.ip().is_loopback())
        );
        assert!(!found.is_empty());
        assert_eq!(sender.lookups.available_permits(), MAX_LOOKUPS);
    }

    /// A server that answers 204 to whatever it is sent; its port and root.
    async fn https_server() -> (u16, RootCertStore) {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let certificate = key.cert.der().clone();
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(private))
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut piece = [0; 1024];
                let _received = stream.read(&mut piece).await.unwrap();
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (port, roots)
    }

    #[tokio::test]
    async fn certificates_are_verified() {
        let (port, roots) = https_server().await;
        let target = uri(&format!("https://localhost:{port}/"));
        let stranger = Sender::new(true);
        let failure = stranger.post(&target, &Bytes::new(), None).await;
        assert!(matches!(failure, Err(Failure::Tls(_))), "{failure:?}");
        let friend = Sender::new(true);
        assert!(friend.tls.set(connector_with(roots)).is_ok());
        friend.post(&target, &Bytes::new(), None).await.unwrap();
        // The certificate is for another name.
        let target = uri(&format!("https://127.0.0.1:{port}/"));
        let failure = friend.post(&target, &Bytes::new(), None).await;
        assert!(matches!(failure, Err(Failure::Tls(_))), "{failure:?}");
    }
}
