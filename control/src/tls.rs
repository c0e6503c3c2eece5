//! The certificate of the HTTPS and WSS listener: loads the configured one, or
//! makes a self-signed one where none was configured.
//!
//! rustls parses certificates only as X.509 v3, and the commands that the
//! documentation gives make a v1 certificate. A server never has to parse its
//! own certificate to serve it, so this file does the one check that matters,
//! that key and certificate belong together, and hands rustls the pair as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::unistd::{AccessFlags, access};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use crate::config::Config;

mod reload;

pub use reload::{Reloader, keep_fresh};

const CERT_VARIABLE: &str = "HTTPS_CERT_FULLCHAIN";
const KEY_VARIABLE: &str = "HTTPS_CERT_PRIVKEY";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a certificate that was made here. Nobody renews it, so it is long.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The certificate in use, ready to serve.
#[derive(Debug)]
pub struct Tls {
    /// For the listener; it offers HTTP/1.1 only, which WSS upgrades need.
    pub server: Arc<ServerConfig>,
    /// One line about the certificate, for the operator.
    pub description: String,
    /// What the operator should know, one line each.
    pub notes: Vec<String>,
    /// Replaces it while it is served, see [`keep_fresh`].
    pub reloader: Reloader,
}

/// Why there is no certificate to serve; names the variable and its path.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{variable}: cannot read {}: {error}", path.display())]
    Read {
        /// Variable of the file.
        variable: &'static str,
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// One file of the default pair is there, the other is not.
    #[error(
        "{variable}: {} is missing although {} is there; add it, or delete both and a new pair is made",
        path.display(),
        other.display()
    )]
    HalfPair {
        /// Variable of the missing file.
        variable: &'static str,
        /// The missing file.
        path: PathBuf,
        /// The file that is there.
        other: PathBuf,
    },
    /// A file's content is not what it should be.
    #[error("{variable}: {}: {reason}", path.display())]
    Content {
        /// Variable of the file.
        variable: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A pair cannot be made.
    #[error(
        "{CERT_VARIABLE} is not set and a self-signed certificate cannot be made at {}: {reason}",
        path.display()
    )]
    Make {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// rustls refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Loads the certificate, after making one where neither path was configured
/// and both default files are missing. `addresses` are the addresses of this
/// machine, for a certificate that is made.
///
/// # Errors
/// [`TlsError`]
pub fn load_or_make(config: &Config, addresses: &[IpAddr]) -> Result<Tls, TlsError> {
    let made = config.tls_default && make_if_missing(config, addresses)?;
    load(&config.tls_cert, &config.tls_key, made)
}

/// Checks that [`load_or_make`] would succeed, making nothing; answers what the
/// operator should know, one line each.
///
/// # Errors
/// [`TlsError`]
pub fn check(config: &Config, addresses: &[IpAddr]) -> Result<Vec<String>, TlsError> {
    let (cert, key) = (&config.tls_cert, &config.tls_key);
    if !(config.tls_default && whole_pair_is_missing(cert, key)?) {
        return Ok(Pair::read(cert, key)?.notes);
    }
    let fail = |reason: String| TlsError::Make {
        path: cert.clone(),
        reason,
    };
    self_signed(config, addresses).map_err(|error| fail(error.to_string()))?;
    let parents = cert.ancestors().skip(1);
    let parents = parents.map(|it| match it.as_os_str().is_empty() {
        true => Path::new("."),
        false => it,
    });
    // Those that are missing would be made in this one.
    let missing = |it: &Path| {
        fs::symlink_metadata(it).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    if let Some(first) = parents.into_iter().find(|it| !missing(it)) {
        access(first, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|error| fail(format!("{}: {}", first.display(), error.desc())))?;
    }
    Ok(Vec::new())
}

fn load(cert_path: &Path, key_path: &Path, made: bool) -> Result<Tls, TlsError> {
    let (reloader, pair) = Reloader::load(cert_path, key_path)?;
    let kind = match made {
        true => "self-signed, just made",
        false if pair.self_signed => "self-signed",
        false => "loaded",
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(reloader.resolver());
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls {
        server: Arc::new(server),
        description: format!("{} ({kind})", cert_path.display()),
        notes: pair.notes,
        reloader,
    })
}

/// What the two files hold, checked.
struct Pair {
    certified: CertifiedKey,
    self_signed: bool,
    /// What the operator should know, one line each.
    notes: Vec<String>,
}

impl Pair {
    fn read(cert_path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        let (chain, leaf) = read_chain(cert_path)?;
        let key = read_key(key_path, &aws_lc_rs::default_provider())?;
        check_pair(&chain, &leaf, key.as_ref(), cert_path, key_path)?;
        Ok(Self {
            certified: CertifiedKey::new(chain, key),
            self_signed: is_self_signed(&leaf),
            notes: validity_notes(&leaf, cert_path, SystemTime::now()),
        })
    }
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let fail = |error| TlsError::Read {
        variable,
        path: path.to_owned(),
        error,
    };
    // A pipe without a writer would hold up the start for ever, and a device
    // may never end.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(content(variable, path, "it is not a regular file"));
    }
    fs::read(path).map_err(fail)
}

fn content(variable: &'static str, path: &Path, reason: impl Into<String>) -> TlsError {
    TlsError::Content {
        variable,
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// The chain as it is served, and its first certificate parsed.
fn read_chain(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Certificate), TlsError> {
    let fail = |reason: String| content(CERT_VARIABLE, path, reason);
    let pem = read(CERT_VARIABLE, path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| fail(format!("not valid PEM: {error}")))?;
    let first = chain
        .first()
        .ok_or_else(|| fail("no certificate in PEM in it".to_owned()))?;
    let leaf = Certificate::from_der(first)
        .map_err(|error| fail(format!("its first certificate cannot be parsed: {error}")))?;
    Ok((chain, leaf))
}

fn read_key(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, TlsError> {
    let fail = |reason: &str| content(KEY_VARIABLE, path, reason);
    let pem = read(KEY_VARIABLE, path)?;
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        fail(match encrypted {
            true => "the private key is encrypted; only a key without password can be used",
            false => "no private key in PEM in it",
        })
    })?;
    provider.key_provider.load_private_key(der).map_err(|_| {
        fail("the private key cannot be used; RSA from 2048 bits, ECDSA P-256, P-384, P-521 and Ed25519 can")
    })
}

/// Checks that the first certificate of the chain is the key's.
fn check_pair(
    chain: &[CertificateDer<'_>],
    leaf: &Certificate,
    key: &dyn SigningKey,
    cert_path: &Path,
    key_path: &Path,
) -> Result<(), TlsError> {
    let Some(public) = key.public_key() else {
        return Err(content(KEY_VARIABLE, key_path, "it has no public key"));
    };
    let belongs = |certificate: &Certificate| {
        let spki = certificate.tbs_certificate().subject_public_key_info();
        spki.to_der().is_ok_and(|der| der == public.as_ref())
    };
    if belongs(leaf) {
        return Ok(());
    }
    let later = chain.iter().skip(1);
    if later
        .flat_map(|der| Certificate::from_der(der))
        .any(|c| belongs(&c))
    {
        return Err(content(
            CERT_VARIABLE,
            cert_path,
            "the server's own certificate has to come first in the chain",
        ));
    }
    Err(content(
        KEY_VARIABLE,
        key_path,
        format!(
            "this private key does not belong to the certificate in {} ({CERT_VARIABLE})",
            cert_path.display()
        ),
    ))
}

fn is_self_signed(certificate: &Certificate) -> bool {
    let tbs = certificate.tbs_certificate();
    tbs.issuer() == tbs.subject()
}

fn validity_notes(certificate: &Certificate, path: &Path, now: SystemTime) -> Vec<String> {
    let validity = certificate.tbs_certificate().validity();
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut notes = Vec::new();
    if validity.not_after.to_unix_duration() < now {
        notes.push(format!("the certificate {} has expired", path.display()));
    }
    if validity.not_before.to_unix_duration() > now {
        notes.push(format!(
            "the certificate {} is not valid yet",
            path.display()
        ));
    }
    notes
}

/// Makes the default pair if both files are missing; answers whether it did.
fn make_if_missing(config: &Config, addresses: &[IpAddr]) -> Result<bool, TlsError> {
    let (cert, key) = (&config.tls_cert, &config.tls_key);
    if matches!(whole_pair_is_missing(cert, key), Ok(false)) {
        return Ok(false);
    }
    let fail = |reason: String| TlsError::Make {
        path: cert.clone(),
        reason,
    };
    let directory = cert.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(|error| fail(error.to_string()))?;
    // Two servers that start at once in one directory must not mix their
    // pairs, nor take the other's first file for half a pair.
    let lock = File::open(directory).map_err(|error| fail(error.to_string()))?;
    lock.lock().map_err(|error| fail(error.to_string()))?;
    if !whole_pair_is_missing(cert, key)? {
        return Ok(false);
    }
    let (cert_pem, key_pem) =
        self_signed(config, addresses).map_err(|error| fail(error.to_string()))?;
    write_atomically(key, key_pem.as_bytes(), 0o600).map_err(|error| fail(error.to_string()))?;
    write_atomically(cert, cert_pem.as_bytes(), 0o644).map_err(|error| fail(error.to_string()))?;
    tracing::info!(path = %cert.display(), "made a self-signed certificate");
    Ok(true)
}

fn whole_pair_is_missing(cert: &Path, key: &Path) -> Result<bool, TlsError> {
    // A dangling link is there, and reading it will tell what is wrong.
    let missing = |path: &Path| {
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let half = |variable, path: &Path, other: &Path| TlsError::HalfPair {
        variable,
        path: path.to_owned(),
        other: other.to_owned(),
    };
    match (missing(cert), missing(key)) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (true, false) => Err(half(CERT_VARIABLE, cert, key)),
        (false, true) => Err(half(KEY_VARIABLE, key, cert)),
    }
}

/// A new certificate and its key, both in PEM.
fn self_signed(config: &Config, addresses: &[IpAddr]) -> Result<(String, String), rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
    names.extend(addresses.iter().map(IpAddr::to_string));
    for host in config.ingress_host.iter().chain(&config.announced) {
        let bare = host.trim_matches(['[', ']']).trim_end_matches('.');
        names.push(bare.to_owned());
    }
    names.sort();
    names.dedup();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "webrtc-server self-signed");
    let now = SystemTime::now();
    // Clients whose clocks are late should not refuse it.
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFE).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a file that never shows half of its content, also after a crash.
fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    let result = write();
    if result.is_err() {
        // Nothing better can be done about a file that cannot be removed.
        let _ = fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests;
