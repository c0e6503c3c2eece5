//! A protoo client over WSS. Any certificate is accepted: the server is the one
//! under test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use url::Url;

/// Longest time for TCP, TLS and the upgrade together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where the server listens.
#[derive(Clone)]
pub struct Server {
    url: Url,
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Server {
    /// Reads a `wss://` URL and resolves its host.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("--server {url}: {error}"))?;
        if url.scheme() != "wss" {
            return Err(format!("--server {url}: only wss:// is known"));
        }
        let text = |error: &dyn std::fmt::Display| format!("--server {url}: {error}");
        let addresses = url.socket_addrs(|| None).map_err(|error| text(&error))?;
        let address = addresses.first().copied();
        let address = address.ok_or_else(|| text(&"the host has no address"))?;
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|error| text(&error))?;
        // One session cache would make the second handshake of a client cheaper
        // than that of another client is.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| text(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            url,
            address,
            name,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }
}

/// The socket of one client.
pub struct Protoo {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    next_id: u64,
}

impl Protoo {
    /// Opens it as protoo-client does.
    ///
    /// # Errors
    /// What failed.
    pub async fn connect(server: &Server, room: &str, peer: &str) -> Result<Self, String> {
        let opening = timeout(CONNECT_TIMEOUT, Self::open(server, room, peer)).await;
        opening.unwrap_or_else(|_| Err(format!("no upgrade within {CONNECT_TIMEOUT:?}")))
    }

    async fn open(server: &Server, room: &str, peer: &str) -> Result<Self, String> {
        let mut url = server.url.clone();
        url.query_pairs_mut()
            .append_pair("roomId", room)
            .append_pair("peerId", peer);
        let mut request = url
            .as_str()
            .into_client_request()
            .map_err(|error| format!("upgrade: {error}"))?;
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("protoo"));
        let tcp = TcpStream::connect(server.address)
            .await
            .map_err(|error| format!("TCP to {}: {error}", server.address))?;
        let _ = tcp.set_nodelay(true);
        let stream = server
            .connector
            .connect(server.name.clone(), tcp)
            .await
            .map_err(|error| format!("TLS: {error}"))?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream)
            .await
            .map_err(|error| format!("upgrade: {error}"))?;
        Ok(Self { socket, next_id: 1 })
    }

    async fn send(&mut self, message: &Value) -> Result<(), String> {
        let text = Message::text(message.to_string());
        let sent = self.socket.send(text).await;
        sent.map_err(|error| format!("signaling: {error}"))
    }

    /// Sends a request; answers its id.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn request(&mut self, method: &str, data: Value) -> Result<u64, String> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"request": true, "id": id, "method": method, "data": data}))
            .await?;
        Ok(id)
    }

    /// Accepts a request of the server.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn accept(&mut self, request: &Value) -> Result<(), String> {
        self.send(&json!({"response": true, "id": request["id"], "ok": true, "data": {}}))
            .await
    }

    /// The next message. May be dropped and called again.
    ///
    /// # Errors
    /// When the socket is closed, or a message is not JSON.
    pub async fn next(&mut self) -> Result<Value, String> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text)
                        .map_err(|error| format!("signaling: {error}"));
                }
                Some(Ok(Message::Close(frame))) => {
                    let why = frame.map(|f| format!("{} {}", f.code, f.reason));
                    return Err(format!("signaling closed: {}", why.unwrap_or_default()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(format!("signaling: {error}")),
                None => return Err("signaling closed".into()),
            }
        }
    }

    /// Closes the socket.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for (url, wrong) in [
            ("wss://127.0.0.1:4443", ""),
            ("wss://[::1]:4443/", ""),
            ("wss://localhost", ""),
            ("https://127.0.0.1:4443", "only wss://"),
            ("127.0.0.1:4443", "--server"),
        ] {
            match Server::new(url) {
                Ok(_) => assert_eq!(wrong, "", "{url}"),
                Err(error) => assert!(!wrong.is_empty() && error.contains(wrong), "{error}"),
            }
        }
    }
}
