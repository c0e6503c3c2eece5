//! The worker's certificate, fingerprints (RFC 8122 §5) and the check of the
//! remote's certificate.
//!
//! str0m verifies sha-256 and sha-1 fingerprints only, and clients announce
//! others (aiortc: sha-512). So the DTLS instance is wrapped: the certificate
//! that the remote presents is kept, and the transport compares it itself,
//! with any of the five hashes, before it lets anything through. The SRTP keys are
//! kept, for media are protected and opened by us. SCTP passes
//! through the same wrapper, where `sctp.rs` looks at it. Which version of DTLS it speaks is
//! decided below it (`dtls.rs`).

use std::cell::{Cell, RefCell};
use std::sync::LazyLock;
use std::time::Instant;

use aws_lc_rs::digest;
use str0m::config::{DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};
use str0m::crypto::{CryptoError, CryptoProvider, from_feature_flags};

use super::dtls::EitherVersion;
use super::sctp::SctpGuard;
use super::sealing::KeyMaterial;

thread_local! {
    /// Certificate (DER) that the last polled DTLS instance received. The
    /// engine runs on one thread and takes it right after polling a transport.
    static PEER_CERTIFICATE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// Keys that the last polled DTLS instance has agreed on.
    static KEY_MATERIAL: RefCell<Option<KeyMaterial>> = const { RefCell::new(None) };
    /// SCTP streams that the DTLS instance built next lets through.
    static SCTP_STREAMS: Cell<u16> = const { Cell::new(u16::MAX) };
    /// The association of the DTLS instance that was polled last is established.
    static SCTP_ESTABLISHED: Cell<bool> = const { Cell::new(false) };
}

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(|| CryptoProvider {
    dtls_provider: &CapturingProvider,
    ..from_feature_flags()
});

/// The crypto of this process: str0m's default, with the DTLS instances wrapped.
pub fn provider() -> &'static CryptoProvider {
    &PROVIDER
}

/// Takes the certificate that the transport polled last has just received.
pub fn take_peer_certificate() -> Option<Vec<u8>> {
    PEER_CERTIFICATE.take()
}

/// Takes the keys that the transport polled last has just agreed on.
pub fn take_key_material() -> Option<KeyMaterial> {
    KEY_MATERIAL.take()
}

/// Runs what builds an `Rtc` whose client may send on SCTP stream ids below
/// `streams`; with 0 there is no SCTP.
pub fn with_sctp_streams<T>(streams: u16, build: impl FnOnce() -> T) -> T {
    let before = SCTP_STREAMS.replace(streams);
    let built = build();
    SCTP_STREAMS.set(before);
    built
}

/// True when the SCTP association of the transport that was polled last is
/// established.
pub fn take_sctp_established() -> bool {
    SCTP_ESTABLISHED.take()
}

/// Makes the certificate that all transports of a worker share. `None` when the
/// crypto library fails to.
pub fn generate_certificate() -> Option<DtlsCert> {
    provider().dtls_provider.generate_certificate()
}

/// A hash that a fingerprint may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FingerprintHash {
    /// SHA-1, which some old endpoints still announce.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256, what browsers send.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512, what aiortc sends.
    Sha512,
}

impl FingerprintHash {
    /// All of them, in the order in which they are announced.
    pub const ALL: [Self; 5] = [
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// RFC 8122 name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha224 => "sha-224",
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    fn digest(self, der: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, der).as_ref().to_vec()
    }
}

/// Hash of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    hash: FingerprintHash,
    bytes: Vec<u8>,
}

impl Fingerprint {
    /// Fingerprint of a certificate in DER.
    pub fn of(hash: FingerprintHash, der: &[u8]) -> Self {
        Self {
            hash,
            bytes: hash.digest(der),
        }
    }

    /// Reads an algorithm name and colon-separated hexadecimal octets.
    ///
    /// # Errors
    /// What is wrong, naming the field.
    pub fn parse(algorithm: &str, value: &str) -> Result<Self, String> {
        let hash = FingerprintHash::ALL
            .into_iter()
            .find(|h| h.name().eq_ignore_ascii_case(algorithm))
            .ok_or_else(|| format!("fingerprint.algorithm: {algorithm:?} is not supported"))?;
        let bytes = value
            .split(':')
            .map(|octet| match octet.len() {
                2 => u8::from_str_radix(octet, 16).ok(),
                _ => None,
            })
            .collect::<Option<Vec<u8>>>()
            .filter(|bytes| bytes.len() == hash.digest(&[]).len())
            .ok_or_else(|| format!("fingerprint.value: not a {} fingerprint", hash.name()))?;
        Ok(Self { hash, bytes })
    }

    /// True when this is the fingerprint of that certificate (DER).
    pub fn matches(&self, der: &[u8]) -> bool {
        self.hash.digest(der) == self.bytes
    }

    /// RFC 8122 name of the hash.
    pub fn algorithm(&self) -> &'static str {
        self.hash.name()
    }

    /// Upper-case hexadecimal octets with colons.
    pub fn value(&self) -> String {
        let octets: Vec<String> = self.bytes.iter().map(|b| format!("{b:02X}")).collect();
        octets.join(":")
    }
}

#[derive(Debug)]
struct CapturingProvider;

impl DtlsProvider for CapturingProvider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner: Box<dyn DtlsInstance> = match version {
            DtlsVersion::Auto => Box::new(EitherVersion::new(cert, now, mtu)?),
            one => from_feature_flags()
                .dtls_provider
                .new_dtls(cert, now, one, mtu)?,
        };
        Ok(Box::new(CapturingInstance {
            inner,
            sctp: SctpGuard::new(SCTP_STREAMS.get()),
        }))
    }
}

#[derive(Debug)]
struct CapturingInstance {
    inner: Box<dyn DtlsInstance>,
    sctp: SctpGuard,
}

impl DtlsInstance for CapturingInstance {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let output = self.inner.poll_output(buf);
        match &output {
            DtlsOutput::PeerCert(der) => PEER_CERTIFICATE.set(Some(der.to_vec())),
            DtlsOutput::KeyingMaterial(keys, profile) => {
                KEY_MATERIAL.set(Some(KeyMaterial {
                    profile: *profile,
                    octets: keys.as_ref().to_vec(),
                    client: self.inner.is_active(),
                }));
            }
            DtlsOutput::ApplicationData(packet) => {
                let admitted = self.sctp.admits(packet);
                SCTP_ESTABLISHED.set(self.sctp.is_established());
                if !admitted {
                    // str0m drops what is not even a header.
                    return DtlsOutput::ApplicationData(&[]);
                }
            }
            _ => {}
        }
        output
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        let replaced = self.sctp.outgoing(data);
        let sent = match replaced {
            Some(packet) => self
                .inner
                .send_application_data(&packet)
                // All of it or nothing.
                .map(|sent| if sent == 0 { 0 } else { data.len() }),
            None => self.inner.send_application_data(data),
        };
        SCTP_ESTABLISHED.set(self.sctp.is_established());
        sent
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_of_every_hash_match_their_certificate_only() {
        for hash in FingerprintHash::ALL {
            let fingerprint = Fingerprint::of(hash, b"certificate");
            let read = Fingerprint::parse(fingerprint.algorithm(), &fingerprint.value()).unwrap();
            assert_eq!(read, fingerprint);
            assert!(read.matches(b"certificate"));
            assert!(!read.matches(b"another"));
        }
    }

    #[test]
    fn malformed_fingerprints_name_the_field() {
        for (algorithm, value, field) in [
            ("", "", "algorithm"),
            ("md5", "00", "algorithm"),
            ("sha-256", "", "value"),
            ("sha-256", "AA:BB", "value"),
            ("sha-1", &"A:".repeat(20), "value"),
            ("sha-1", &"+1:".repeat(20), "value"),
        ] {
            let error = Fingerprint::parse(algorithm, value).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }
}
