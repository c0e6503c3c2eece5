//! `webrtc-server health`: asks the server that runs with the same settings on
//! this machine how it is, and ends with 0 when it takes rooms. A container's
//! health check needs no other program that way.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::config::{Config, Parsed};
use crate::logging;

/// Time for connecting, and again for the answer. Docker and Kubernetes should
/// give a probe more.
const LIMIT: Duration = Duration::from_secs(2);
/// Most of an answer that is read, bytes.
const MAX_ANSWER: usize = 16 * 1024;
/// Exit code for settings that make no sense.
const EXIT_USAGE: u8 = 2;

const REQUEST: &[u8] =
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nUser-Agent: health\r\nConnection: close\r\n\r\n";

/// Runs the check. `args` begin with the name of the program, and take the
/// same flags as the server.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match Config::parse(args, |name| std::env::var_os(name)) {
        Ok(Parsed::Run(config)) => *config,
        Ok(Parsed::Print(text)) => {
            logging::print(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Check(..)) => {
            logging::complain("health and check cannot be asked for at once");
            return ExitCode::from(EXIT_USAGE);
        }
        Err(error) => {
            logging::complain(error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let address = own_address(config.listen_ip, config.listen_port);
    match check(address, config.https_enabled) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            logging::complain(format_args!("not healthy: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Where this machine reaches a listener.
fn own_address(listen: IpAddr, port: u16) -> SocketAddr {
    let ip = match listen {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, port)
}

/// Asks `GET /health`, over TLS or not.
///
/// # Errors
/// Why the server takes no rooms, or cannot be asked, in one line.
pub fn check(address: SocketAddr, tls: bool) -> Result<(), String> {
    let answer = ask(address, tls).map_err(|error| format!("{address}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status_line = head.lines().next().unwrap_or_default();
    match status_line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("{address}: {status_line:?} {body}")),
    }
}

/// The whole answer, head and body.
fn ask(address: SocketAddr, tls: bool) -> io::Result<Vec<u8>> {
    let tcp = TcpStream::connect_timeout(&address, LIMIT)?;
    let socket = tcp.try_clone()?;
    if !tls {
        return exchange(tcp, &socket);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    exchange(StreamOwned::new(session, tcp), &socket)
}

/// Sends the request and reads the answer. `socket`: what `stream` goes over.
fn exchange(mut stream: impl Read + Write, socket: &TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + LIMIT;
    set_timeouts(socket, deadline)?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    loop {
        set_timeouts(socket, deadline)?;
        let read = match stream.read(&mut part) {
            Ok(read) => read,
            // The server closes the connection without a TLS goodbye; the
            // answer has been read by then.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        answer.extend(part.iter().take(read));
        if read == 0 || answer.len() >= MAX_ANSWER {
            return Ok(answer);
        }
    }
}

fn set_timeouts(tcp: &TcpStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
    }
    tcp.set_read_timeout(Some(left))?;
    tcp.set_write_timeout(Some(left))
}

/// Takes every certificate. The connection does not leave this machine,
/// carries no secret, and the certificate may be self-signed, made for a public
/// name, or expired, none of which a restart would mend.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_address_that_reaches_a_listener() {
        for (listen, want) in [
            ("0.0.0.0", "127.0.0.1:4443"),
            ("::", "[::1]:4443"),
            ("192.0.2.1", "192.0.2.1:4443"),
            ("2001:db8::1", "[2001:db8::1]:4443"),
        ] {
            let got = own_address(listen.parse().unwrap(), 4443);
            assert_eq!(got.to_string(), want);
        }
    }

    #[test]
    fn nobody_there_and_somebody_who_does_not_speak_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = std::thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            // The listener's socket is gone with this thread.
            tcp.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        });
        let error = check(address, true).unwrap_err();
        assert!(error.starts_with(&address.to_string()), "{error}");
        stranger.join().unwrap();
        let error = check(address, false).unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
