//! A whole server on loopback, with one fake worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control::config::{Config, IceServer, Secret, TurnHost};
use control::http::{AppState, app, serve};
use control::rooms::{Rooms, Timings};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::fake_worker::{FakePool, FakeWorker};

pub struct TestServer {
    pub address: SocketAddr,
    pub rooms: Rooms,
    pub pool: Arc<FakePool>,
    pub worker: FakeWorker,
    pub shutdown: CancellationToken,
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
        let listener = serve::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let state = AppState {
            config,
            rooms: rooms.clone(),
            workers: pool.clone(),
        };
        let shutdown = CancellationToken::new();
        let serving = serve::serve(listener, Arc::new(server_tls), app(state), shutdown.clone());
        tokio::spawn(serving);
        Self {
            address,
            rooms,
            pool,
            worker,
            shutdown,
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
        let host = format!("localhost:{}", self.address.port());
        Client::upgrade(self.tls().await, &host, path, subprotocol).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.http("POST", path, &[], body.as_bytes()).await
    }

    /// One HTTP request on its own connection.
    pub async fn http(
        &self,
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
            request += &format!("Host: localhost:{}\r\n", self.address.port());
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let mut stream = self.tls().await;
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
