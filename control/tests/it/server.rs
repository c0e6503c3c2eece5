//! A whole server on loopback, with one fake worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control::config::{Config, IceServer, Secret, TurnHost};
use control::http::{AppState, admin_app, app, serve};
use control::rooms::{Rooms, Timings};
use http::HeaderName;
use http::header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use proto::event::Event;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::document;
use crate::fake_worker::{Call, FakePool, FakeWorker};

pub struct TestServer {
    pub address: SocketAddr,
    pub rooms: Rooms,
    pub pool: Arc<FakePool>,
    pub worker: FakeWorker,
    pub shutdown: CancellationToken,
    /// Cancelled when an admin wants the end.
    pub drain: CancellationToken,
    /// Listener of the admin paths, if they have one.
    pub admin: Option<SocketAddr>,
    tls: Arc<ClientConfig>,
}

/// The answer to an HTTP request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Map<String, Value>,
    pub body: Value,
}

impl Answer {
    /// The body's `error`.
    pub fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }
}

/// What the tests run with.
pub fn config() -> Config {
    Config {
        listen_ip: [127, 0, 0, 1].into(),
        ice_server: IceServer {
            user: Some("turn-user".into()),
            pass: Some(Secret::new("turn-pass")),
            hosts: vec![TurnHost {
                host: "turn.example".into(),
                port: None,
            }],
            ..IceServer::default()
        },
        room_max_peers: 3,
        ..Config::default()
    }
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(config(), Timings::default()).await
    }

    pub async fn start_with(config: Config, timings: Timings) -> Self {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let certificate: CertificateDer<'static> = key.cert.der().clone();
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let server_tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(private))
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client_tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();

        let (notices, notices_receiver) = mpsc::channel(64);
        let pool = FakePool::new(notices);
        let worker = pool.start_worker().await;
        let config = Arc::new(config);
        let rooms =
            Rooms::start_with(config.clone(), pool.clone(), notices_receiver, timings).unwrap();
        let drain = CancellationToken::new();
        let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let state = AppState {
            config,
            rooms: rooms.clone(),
            workers: pool.clone(),
            drain: drain.clone(),
        };
        let shutdown = CancellationToken::new();
        let admin = state.config.admin_listen.map(|address| {
            let listener = serve::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let serving = serve::serve(listener, None, admin_app(state.clone()), shutdown.clone());
            tokio::spawn(serving);
            address
        });
        let serving = serve::serve(
            listener,
            Some(Arc::new(server_tls)),
            app(state),
            shutdown.clone(),
        );
        tokio::spawn(serving);
        Self {
            address,
            rooms,
            pool,
            worker,
            shutdown,
            drain,
            admin,
            tls: Arc::new(client_tls),
        }
    }

    /// A TLS connection to the server.
    pub async fn tls(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(self.tls.clone());
        connector.connect(name, stream).await.unwrap()
    }

    /// A connected peer that has not joined.
    pub async fn connect(&self, room: &str, peer: &str) -> Client {
        let path = format!("/?roomId={room}&peerId={peer}");
        match self.upgrade(&path, Some("protoo")).await {
            Ok(client) => client,
            Err(answer) => panic!("upgrade refused: {answer:?}"),
        }
    }

    /// A WebSocket upgrade; its HTTP answer when refused.
    pub async fn upgrade(&self, path: &str, subprotocol: Option<&str>) -> Result<Client, Answer> {
        let subprotocol = subprotocol.map(|it| (SEC_WEBSOCKET_PROTOCOL, it));
        self.upgrade_with(path, subprotocol.as_slice()).await
    }

    /// A WebSocket upgrade by a page of this origin.
    pub async fn upgrade_from(&self, origin: &str, path: &str) -> Result<Client, Answer> {
        let headers = [(SEC_WEBSOCKET_PROTOCOL, "protoo"), (ORIGIN, origin)];
        self.upgrade_with(path, &headers).await
    }

    async fn upgrade_with(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<Client, Answer> {
        let host = format!("localhost:{}", self.address.port());
        Client::upgrade(self.tls().await, &host, path, headers).await
    }

    /// The router of the first room.
    pub async fn router_id(&self) -> String {
        let router = |call: &Call| match call {
            Call::CreateRouter(request) => Some(request.router_id.clone()),
            _ => None,
        };
        self.worker.wait_for(router).await
    }

    /// The worker says something about the first room by itself.
    pub async fn worker_says(&self, event: Event) {
        self.pool.say(&self.router_id().await, event).await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.http("POST", path, &[], body.as_bytes()).await
    }

    /// One HTTP request on its own connection, whose answer is as the OpenAPI
    /// document says.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let answer = self.raw(method, path, headers, body).await;
        document::check(self.document().await, method, path, &answer);
        answer
    }

    /// One request to the listener of the admin paths.
    pub async fn admin_http(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let address = self.admin.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let answer = exchange(stream, address.port(), method, path, headers, b"").await;
        if answer.error() != "no such path" {
            document::check(self.document().await, method, path, &answer);
        }
        answer
    }

    /// One HTTP request on its own connection.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let port = self.address.port();
        exchange(self.tls().await, port, method, path, headers, body).await
    }
}

/// One HTTP request, and the answer to it.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request += &format!("Host: localhost:{port}\r\n");
    }
    if !body.is_empty() {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream
        .write_all(format!("{request}\r\n").as_bytes())
        .await
        .unwrap();
    // A server that answers before it has read everything may close early.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap();
    parse_answer(&answer)
}

/// A joined peer of the room `room` with both transports, the ids of which it
/// returns: the one to send on, and the one to receive on.
pub async fn caller(server: &TestServer, peer: &str) -> (Client, String, String) {
    let mut client = server.connect("room", peer).await;
    let send = client.send_transport().await;
    let recv = client.recv_transport().await;
    client.join(peer).await;
    (client, send, recv)
}

fn parse_answer(answer: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("no HTTP answer");
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), Value::from(value)))
    };
    Answer {
        status: status.parse().unwrap(),
        headers: lines.filter_map(header).collect(),
        body: serde_json::from_str(body).unwrap_or_else(|_| Value::from(body)),
    }
}
