//! Reads a client's DTLS parameters.

use serde_json::Value;

use super::error::OrtcError;
use super::field::Field;
use super::types::{DtlsFingerprint, DtlsParameters, DtlsRole};

/// Most fingerprints in one message: a certificate has one per hash.
const MAX_FINGERPRINTS: usize = 16;

/// Hash functions of RFC 8122 with the number of octets of each.
const ALGORITHMS: [(&str, usize); 5] = [
    ("sha-1", 20),
    ("sha-224", 28),
    ("sha-256", 32),
    ("sha-384", 48),
    ("sha-512", 64),
];

/// Reads `dtlsParameters` of connectWebRtcTransport. An absent role is `auto`;
/// of the fingerprints, all are checked and the first is returned, with a
/// lower-case algorithm and an upper-case value.
///
/// # Errors
/// [`OrtcError::Invalid`], naming the field.
pub fn parse_dtls_parameters(value: &Value) -> Result<DtlsParameters, OrtcError> {
    let parameters = Field::root("dtlsParameters", value);
    let role = match parameters.optional("role")? {
        Some(role) => read_role(&role)?,
        None => DtlsRole::Auto,
    };
    let list = parameters.required("fingerprints")?;
    let fingerprints = list
        .items(MAX_FINGERPRINTS)?
        .iter()
        .map(read_fingerprint)
        .collect::<Result<Vec<_>, _>>()?;
    match fingerprints.into_iter().next() {
        Some(fingerprint) => Ok(DtlsParameters { role, fingerprint }),
        None => Err(list.refuse("must not be empty")),
    }
}

fn read_role(role: &Field<'_>) -> Result<DtlsRole, OrtcError> {
    match role.value().as_str() {
        Some("auto") => Ok(DtlsRole::Auto),
        Some("client") => Ok(DtlsRole::Client),
        Some("server") => Ok(DtlsRole::Server),
        _ => Err(role.refuse("must be \"auto\", \"client\" or \"server\"")),
    }
}

fn read_fingerprint(fingerprint: &Field<'_>) -> Result<DtlsFingerprint, OrtcError> {
    let field = fingerprint.required("algorithm")?;
    let name = field.value().as_str().unwrap_or_default();
    let (algorithm, octets) = ALGORITHMS
        .into_iter()
        .find(|(algorithm, _)| algorithm.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            field.refuse("must be one of sha-1, sha-224, sha-256, sha-384 and sha-512")
        })?;
    let field = fingerprint.required("value")?;
    let value = field.value().as_str().unwrap_or_default();
    let is_octet = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
    // The length is compared first: splitting is then bounded by it.
    if value.len() != octets * 3 - 1 || !value.split(':').all(is_octet) {
        return Err(field.refuse(format!(
            "must be {octets} hexadecimal octets with colons between them"
        )));
    }
    Ok(DtlsFingerprint {
        algorithm: algorithm.to_owned(),
        value: value.to_ascii_uppercase(),
    })
}
