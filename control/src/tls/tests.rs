//! Real certificates, most of them made by the openssl command, served to a
//! real TLS client.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConnection};
use rustls::{RootCertStore, SignatureScheme};

use super::*;

/// A directory of its own for one test, removed afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tls-test-{:x}", rand::random::<u64>()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn openssl(&self, command: &str) {
        let output = Command::new("openssl")
            .args(command.split(' '))
            .current_dir(&self.0)
            .output()
            .expect("the openssl command is needed");
        assert!(output.status.success(), "{command}: {output:?}");
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// The three commands of the documentation; only the subject, which they
    /// ask for, is given here.
    fn documented_pair(&self) {
        self.openssl("genpkey -algorithm RSA -out privkey.pem");
        self.openssl("req -new -key privkey.pem -out request.csr -subj /CN=example");
        self.openssl("x509 -req -in request.csr -signkey privkey.pem -out fullchain.pem");
    }

    fn load(&self) -> Result<Tls, TlsError> {
        load(
            &self.path("fullchain.pem"),
            &self.path("privkey.pem"),
            false,
        )
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Accepts every certificate and notes the chain; still checks that the server
/// has the key (through `check_key`).
#[derive(Debug)]
struct AcceptAny {
    algorithms: WebPkiSupportedAlgorithms,
    /// webpki cannot check a signature against an X.509 v1 certificate.
    check_key: bool,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.check_key {
            true => verify_tls12_signature(message, cert, dss, &self.algorithms),
            false => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.check_key {
            true => verify_tls13_signature(message, cert, dss, &self.algorithms),
            false => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn accept_any(check_key: bool) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny {
            algorithms,
            check_key,
        }))
        .with_no_client_auth()
}

/// A TLS handshake in memory; answers the chain that the client got and the
/// protocol that was agreed on.
fn connect(
    tls: &Tls,
    mut client: ClientConfig,
    name: &str,
) -> Result<(Vec<CertificateDer<'static>>, Option<Vec<u8>>), rustls::Error> {
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(tls.server.clone())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    let chain = client.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
    Ok((chain, client.alpn_protocol().map(<[u8]>::to_vec)))
}

fn reason(result: Result<Tls, TlsError>) -> String {
    let text = result.unwrap_err().to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn the_documented_commands_make_a_certificate_that_works() {
    let dir = Directory::new();
    dir.documented_pair();
    let text = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in", "fullchain.pem"])
        .current_dir(&dir.0)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("Version: 1 "), "{text}");

    let tls = dir.load().unwrap();
    let (chain, alpn) = connect(&tls, accept_any(false), "example").unwrap();
    assert_eq!(chain.len(), 1);
    assert_eq!(alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert!(tls.description.ends_with("fullchain.pem (self-signed)"));
    assert_eq!(tls.notes, [""; 0]);
}

#[test]
fn ec_and_ed25519_keys_work_in_their_usual_forms() {
    for key in [
        "ecparam -genkey -name prime256v1 -out privkey.pem",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -out privkey.pem",
        "genpkey -algorithm ed25519 -out privkey.pem",
        "genrsa -traditional -out privkey.pem 2048",
    ] {
        let dir = Directory::new();
        dir.openssl(key);
        dir.openssl("req -x509 -new -key privkey.pem -out fullchain.pem -subj /CN=a -days 1");
        connect(&dir.load().unwrap(), accept_any(true), "a").unwrap();
    }
}

#[test]
fn a_chain_is_served_in_its_order() {
    let dir = Directory::new();
    dir.openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca");
    dir.openssl("genpkey -algorithm RSA -out privkey.pem");
    dir.openssl("req -new -key privkey.pem -out leaf.csr -subj /CN=leaf");
    dir.openssl("x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem");
    let leaf = fs::read_to_string(dir.path("leaf.pem")).unwrap();
    let ca = fs::read_to_string(dir.path("ca.pem")).unwrap();

    dir.write("fullchain.pem", format!("{leaf}{ca}"));
    let tls = dir.load().unwrap();
    let (chain, _) = connect(&tls, accept_any(false), "leaf").unwrap();
    let want = [&leaf, &ca].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    assert_eq!(chain, want);
    assert!(tls.description.ends_with("(loaded)"));

    dir.write("fullchain.pem", format!("{ca}{leaf}"));
    let error = reason(dir.load());
    assert!(error.starts_with("HTTPS_CERT_FULLCHAIN: "), "{error}");
    assert!(error.contains("come first"), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let dir = Directory::new();
    dir.documented_pair();
    dir.openssl("genpkey -algorithm RSA -out privkey.pem");
    let error = reason(dir.load());
    assert!(error.starts_with("HTTPS_CERT_PRIVKEY: "), "{error}");
    assert!(error.contains("does not belong"), "{error}");
}

#[test]
fn files_that_are_no_certificate_or_key_are_refused_by_name() {
    let dir = Directory::new();
    dir.documented_pair();
    let good_cert = fs::read(dir.path("fullchain.pem")).unwrap();
    let good_key = fs::read(dir.path("privkey.pem")).unwrap();

    for bad in [
        &b""[..],
        b"hello",
        &[0xff; 300],
        b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        &good_key,
    ] {
        dir.write("fullchain.pem", bad);
        let error = reason(dir.load());
        assert!(error.starts_with("HTTPS_CERT_FULLCHAIN: "), "{error}");
    }
    dir.write("fullchain.pem", &good_cert);
    for bad in [
        &b""[..],
        b"hello",
        b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
        &good_cert,
    ] {
        dir.write("privkey.pem", bad);
        let error = reason(dir.load());
        assert!(error.starts_with("HTTPS_CERT_PRIVKEY: "), "{error}");
    }
    dir.openssl("genpkey -algorithm RSA -aes-256-cbc -pass pass:x -out privkey.pem");
    assert!(reason(dir.load()).contains("encrypted"));
}

#[test]
fn a_configured_path_that_cannot_be_read_is_named() {
    let dir = Directory::new();
    dir.documented_pair();
    let with = |cert: &str, key: &str| {
        let config = Config {
            tls_cert: dir.path(cert),
            tls_key: dir.path(key),
            tls_default: false,
            ..Config::default()
        };
        reason(load_or_make(&config, &[]))
    };
    let error = with("none.pem", "privkey.pem");
    assert!(error.starts_with("HTTPS_CERT_FULLCHAIN: "), "{error}");
    assert!(error.contains("/none.pem: No such file"), "{error}");
    let error = with("fullchain.pem", "none.pem");
    assert!(error.starts_with("HTTPS_CERT_PRIVKEY: "), "{error}");
    let error = with(".", "privkey.pem");
    assert!(error.contains("/.: it is not a regular file"), "{error}");
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&dir.path("fifo"), mode).unwrap();
    let error = with("fullchain.pem", "fifo");
    assert!(error.starts_with("HTTPS_CERT_PRIVKEY: "), "{error}");
    assert!(
        error.ends_with("/fifo: it is not a regular file"),
        "{error}"
    );
    // Nothing was made in place of what was configured.
    with("new.pem", "new.key");
    assert!(!dir.path("new.pem").exists());
}

fn default_pair(dir: &Directory) -> Config {
    Config {
        tls_cert: dir.path("certs/fullchain.pem"),
        tls_key: dir.path("certs/privkey.pem"),
        ingress_host: Some("rtc.example.com".into()),
        ..Config::default()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_missing_default_pair_is_made_once() {
    let dir = Directory::new();
    let config = default_pair(&dir);
    let addresses = ["192.0.2.2".parse().unwrap(), "127.0.0.1".parse().unwrap()];
    let tls = load_or_make(&config, &addresses).unwrap();
    assert!(tls.description.ends_with("(self-signed, just made)"));
    assert_eq!(mode(&config.tls_key), 0o600);
    assert_eq!(fs::read_dir(dir.path("certs")).unwrap().count(), 2);

    let again = load_or_make(&config, &addresses).unwrap();
    assert!(again.description.ends_with("(self-signed)"));
    let chain = |tls| connect(tls, accept_any(true), "localhost").unwrap().0;
    assert_eq!(chain(&tls), chain(&again));

    // A client that trusts it accepts every name that it should have.
    let mut roots = RootCertStore::empty();
    roots.add(chain(&tls).remove(0)).unwrap();
    let strict = |name: &str| {
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        connect(&tls, client, name)
    };
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "192.0.2.2",
        "rtc.example.com",
    ] {
        strict(name).unwrap();
    }
    assert!(strict("other.example.com").is_err());
}

#[test]
fn half_a_default_pair_is_refused_by_name() {
    let dir = Directory::new();
    let config = default_pair(&dir);
    load_or_make(&config, &[]).unwrap();
    fs::rename(&config.tls_key, dir.path("aside")).unwrap();
    let error = reason(load_or_make(&config, &[]));
    assert!(error.starts_with("HTTPS_CERT_PRIVKEY: "), "{error}");
    fs::rename(dir.path("aside"), &config.tls_key).unwrap();
    fs::remove_file(&config.tls_cert).unwrap();
    let error = reason(load_or_make(&config, &[]));
    assert!(error.starts_with("HTTPS_CERT_FULLCHAIN: "), "{error}");
}

#[test]
fn servers_that_start_at_once_agree_on_one_pair() {
    let dir = Directory::new();
    let config = default_pair(&dir);
    let made: Vec<bool> = std::thread::scope(|scope| {
        let start = || load_or_make(&config, &[]).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap().description.ends_with("just made)"))
            .collect()
    });
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let dir = Directory::new();
    let config = default_pair(&dir);
    dir.write("certs", "a file in the way");
    let error = reason(load_or_make(&config, &[]));
    assert!(error.starts_with("HTTPS_CERT_FULLCHAIN"), "{error}");
    assert!(error.contains("certs/fullchain.pem"), "{error}");
}

#[test]
fn a_certificate_out_of_its_time_is_told() {
    let dir = Directory::new();
    dir.documented_pair();
    let (_, leaf) = read_chain(&dir.path("fullchain.pem")).unwrap();
    let now = SystemTime::now();
    let notes = |now| validity_notes(&leaf, Path::new("x.pem"), now);
    assert_eq!(notes(now + 60 * DAY), ["the certificate x.pem has expired"]);
    assert_eq!(
        notes(now - 60 * DAY),
        ["the certificate x.pem is not valid yet"]
    );
}

/// The first certificate that a client gets now.
fn served(tls: &Tls) -> CertificateDer<'static> {
    connect(tls, accept_any(true), "a").unwrap().0.remove(0)
}

fn certificate_in(dir: &Directory) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&fs::read(dir.path("fullchain.pem")).unwrap()).unwrap()
}

/// A pair in one command, another one each time.
fn rotate(dir: &Directory, key: &str) {
    dir.openssl(&format!(
        "req -x509 -newkey {key} -nodes -keyout privkey.pem -out fullchain.pem -subj /CN=a -days 1"
    ));
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1";

#[test]
fn changed_files_are_served_once_they_have_come_to_rest() {
    let dir = Directory::new();
    rotate(&dir, EC);
    let mut tls = dir.load().unwrap();
    let first = certificate_in(&dir);
    tls.reloader.poll();
    tls.reloader.poll();
    assert_eq!(served(&tls), first);

    for key in ["rsa:2048", "ed25519", EC] {
        let before = served(&tls);
        rotate(&dir, key);
        tls.reloader.poll();
        assert_eq!(served(&tls), before, "{key}: taken at first sight");
        tls.reloader.poll();
        assert_eq!(served(&tls), certificate_in(&dir), "{key}");
        assert_ne!(served(&tls), before, "{key}");
    }
}

#[test]
fn a_link_that_points_elsewhere_is_a_change() {
    // As Kubernetes replaces the files of a mounted secret.
    let dir = Directory::new();
    for version in ["one", "two"] {
        rotate(&dir, EC);
        fs::create_dir(dir.path(version)).unwrap();
        for name in ["fullchain.pem", "privkey.pem"] {
            fs::rename(dir.path(name), dir.path(version).join(name)).unwrap();
        }
    }
    let link = |version: &str| {
        let _ = fs::remove_file(dir.path("new"));
        std::os::unix::fs::symlink(version, dir.path("new")).unwrap();
        fs::rename(dir.path("new"), dir.path("data")).unwrap();
    };
    link("one");
    let mut tls = load(
        &dir.path("data/fullchain.pem"),
        &dir.path("data/privkey.pem"),
        false,
    )
    .unwrap();
    let before = served(&tls);
    link("two");
    tls.reloader.poll();
    tls.reloader.poll();
    assert_ne!(served(&tls), before);
}

#[test]
fn files_that_have_gone_bad_leave_the_old_certificate_in_use() {
    let dir = Directory::new();
    rotate(&dir, EC);
    let mut tls = dir.load().unwrap();
    let good = served(&tls);
    type Spoiler = (&'static str, fn(&Directory));
    let spoilers: [Spoiler; 4] = [
        ("garbage", |dir| {
            dir.write("fullchain.pem", "garbage");
        }),
        ("another key", |dir| {
            dir.openssl("genpkey -algorithm ed25519 -out privkey.pem");
        }),
        ("a directory", |dir| {
            fs::remove_file(dir.path("privkey.pem")).unwrap();
            fs::create_dir(dir.path("privkey.pem")).unwrap();
        }),
        ("nothing", |dir| {
            fs::remove_dir(dir.path("privkey.pem")).unwrap();
        }),
    ];
    for (what, spoil) in spoilers {
        spoil(&dir);
        tls.reloader.poll();
        tls.reloader.poll();
        tls.reloader.reload();
        assert_eq!(served(&tls), good, "{what}");
    }
    rotate(&dir, EC);
    tls.reloader.reload();
    assert_eq!(served(&tls), certificate_in(&dir));
}

#[test]
fn files_that_cannot_be_used_are_read_again_until_they_can() {
    let dir = Directory::new();
    rotate(&dir, EC);
    let mut tls = dir.load().unwrap();
    let key = fs::read(dir.path("privkey.pem")).unwrap();
    dir.write("privkey.pem", &key[..key.len() / 2]);
    let reads: Vec<bool> = (0..9).map(|_| tls.reloader.poll()).collect();
    let expected = [false, true, true, false, true, false, false, false, true];
    assert_eq!(reads, expected);
    // After SIGHUP as well.
    tls.reloader.reload();
    assert!(tls.reloader.poll());
    // Written to the end.
    dir.write("privkey.pem", &key);
    assert!(!tls.reloader.poll() && tls.reloader.poll());
    assert!((0..300).all(|_| !tls.reloader.poll()));
    assert_eq!(served(&tls), certificate_in(&dir));
}

#[test]
fn a_check_finds_what_a_start_would_and_makes_nothing() {
    let dir = Directory::new();
    let config = default_pair(&dir);
    assert_eq!(check(&config, &[]).unwrap(), [""; 0]);
    assert!(!dir.path("certs").exists());

    // A file in the way of the directory.
    dir.write("certs", "");
    let error = check(&config, &[]).unwrap_err().to_string();
    assert!(error.starts_with("HTTPS_CERT_FULLCHAIN: "), "{error}");
    fs::remove_file(dir.path("certs")).unwrap();

    // The superuser may write everywhere.
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o555)).unwrap();
        let error = check(&config, &[]).unwrap_err().to_string();
        assert!(error.contains("Permission denied"), "{error}");
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    }

    load_or_make(&config, &[]).unwrap();
    assert_eq!(check(&config, &[]).unwrap(), [""; 0]);
    fs::remove_file(&config.tls_key).unwrap();
    let error = check(&config, &[]).unwrap_err().to_string();
    assert!(error.starts_with("HTTPS_CERT_PRIVKEY: "), "{error}");

    // Configured, so that nothing is made.
    let config = Config {
        tls_default: false,
        ..config
    };
    fs::remove_file(&config.tls_cert).unwrap();
    assert!(check(&config, &[]).is_err());
}
