//! Certificates that operators really have.

use std::process::{Command, Stdio};

use crate::https;
use crate::server::Options;

fn openssl(dir: &std::path::Path, arguments: &str) {
    let status = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(status.success(), "openssl {arguments}");
}

/// The three commands of the user's document make an RSA certificate of X.509
/// version 1 without alternative names.
#[test]
fn the_documented_openssl_commands_make_a_certificate_that_works() {
    let options = Options::new();
    let dir = options.dir().to_owned();
    openssl(&dir, "genpkey -algorithm RSA -out privkey.pem");
    openssl(
        &dir,
        "req -new -key privkey.pem -out request.csr -subj /C=XX/O=test/CN=localhost",
    );
    openssl(
        &dir,
        "x509 -req -in request.csr -signkey privkey.pem -out fullchain.pem",
    );
    let server = options
        .env("HTTPS_CERT_FULLCHAIN", dir.join("fullchain.pem").display())
        .env("HTTPS_CERT_PRIVKEY", dir.join("privkey.pem").display())
        .start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = https::connect(server.address()).await;
        let (_, session) = stream.get_ref();
        let served = session.peer_certificates().unwrap()[0].to_vec();
        let pem = std::fs::read(dir.join("fullchain.pem")).unwrap();
        let output = Command::new("openssl")
            .args(["x509", "-outform", "DER", "-in"])
            .arg(dir.join("fullchain.pem"))
            .output()
            .unwrap();
        assert!(!pem.is_empty());
        assert_eq!(
            served, output.stdout,
            "the operator's certificate is served"
        );
    });
    assert!(!server.dir().join("certs").exists());
}
