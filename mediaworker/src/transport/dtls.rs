//! DTLS in whichever version the client speaks: 1.2 (RFC 6347) or 1.3 (RFC 9147).
//!
//! As DTLS server, clients that have both, as browsers do, get 1.2. There the server says
//! how media are protected, with AES-GCM, the better and faster way; the library's 1.3
//! takes the first profile that the client names, which is AES-CM with HMAC-SHA1 for
//! Chromium. Those that have nothing but 1.3 get 1.3. Which of them a client is stands in
//! its ClientHello, so nothing is begun before that is complete (`hello.rs`).
//!
//! As DTLS client, one ClientHello offers both, and the remote decides.

pub(crate) mod hello;

use std::time::Instant;

use str0m::config::{DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};
use str0m::crypto::{CryptoError, from_feature_flags};

use hello::{Hello, Taken};

/// Datagrams that are kept while parts of a ClientHello are missing. A browser needs two;
/// with more than this the handshake is begun in 1.2 with what there is.
const MAX_HELD: usize = 16;

/// The implementation of both versions.
fn backend() -> &'static dyn DtlsProvider {
    from_feature_flags().dtls_provider
}

/// One end of DTLS in either version.
#[derive(Debug)]
pub struct EitherVersion {
    cert: DtlsCert,
    mtu: Option<usize>,
    /// The time that it was told last, which may be long ago: it is told when a timer is due.
    now: Instant,
    /// What does the work; until the version is known, an end of 1.2 that has nothing to do.
    inner: Box<dyn DtlsInstance>,
    /// What has come of the ClientHello, until the version is known.
    waiting: Option<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    hello: Hello,
    /// The datagrams that it came in.
    datagrams: Vec<Vec<u8>>,
}

impl EitherVersion {
    /// A DTLS server, until [`DtlsInstance::set_active`] makes it a client. `mtu`: the most
    /// octets of a datagram, if that is known.
    ///
    /// # Errors
    /// Those of the implementation.
    pub fn new(cert: &DtlsCert, now: Instant, mtu: Option<usize>) -> Result<Self, CryptoError> {
        Ok(Self {
            cert: cert.clone(),
            mtu,
            now,
            inner: backend().new_dtls(cert, now, DtlsVersion::Dtls12, mtu)?,
            waiting: Some(Waiting::default()),
        })
    }

    /// Replaces the end of 1.2 that waits; it stays where that fails, and will refuse.
    fn switch(&mut self, version: DtlsVersion) {
        if let Ok(inner) = backend().new_dtls(&self.cert, self.now, version, self.mtu) {
            self.inner = inner;
        }
    }

    /// Keeps a part of the ClientHello, and begins once that is complete.
    fn wait_for_version(
        &mut self,
        mut waiting: Waiting,
        packet: &[u8],
    ) -> Result<(), DtlsImplError> {
        let only_13 = match waiting.hello.take(packet) {
            Taken::Nothing => {
                self.waiting = Some(waiting);
                return Ok(());
            }
            Taken::Part => None,
            Taken::Whole(offer) => Some(offer.is_only_13()),
        };
        waiting.datagrams.push(packet.to_vec());
        match only_13 {
            None if waiting.datagrams.len() < MAX_HELD => {
                self.waiting = Some(waiting);
                return Ok(());
            }
            Some(true) => {
                self.switch(DtlsVersion::Dtls13);
                self.inner.handle_timeout(self.now)?;
            }
            Some(false) | None => {}
        }
        for datagram in &waiting.datagrams {
            self.inner.handle_packet(datagram)?;
        }
        Ok(())
    }
}

impl DtlsInstance for EitherVersion {
    fn set_active(&mut self, active: bool) {
        if active && self.waiting.take().is_some() {
            self.switch(DtlsVersion::Auto);
        }
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        if let Some(waiting) = self.waiting.take() {
            return self.wait_for_version(waiting, packet);
        }
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        self.inner.poll_output(buf)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.now = now;
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        match self.waiting {
            // An end that is replaced would keep it for itself.
            Some(_) => Ok(0),
            None => self.inner.send_application_data(data),
        }
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        match self.waiting {
            Some(_) => None,
            None => self.inner.protocol_version(),
        }
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
