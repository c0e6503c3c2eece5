//! The plain transports of broadcasters: RTP and RTCP on UDP ports of their own,
//! encrypted (SRTP) where that is asked for.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proto::{SrtpCryptoSuite, SrtpParameters};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::Error;
use crate::protoo::connection::SessionId;
use crate::rooms::peer::Transport;
use crate::rooms::requests::fields;
use crate::rooms::room::Room;
use crate::rooms::undo::Made;

/// The crypto suites by their names in mediasoup.
const CRYPTO_SUITES: [(&str, SrtpCryptoSuite); 4] = [
    ("AEAD_AES_256_GCM", SrtpCryptoSuite::AeadAes256Gcm),
    ("AEAD_AES_128_GCM", SrtpCryptoSuite::AeadAes128Gcm),
    (
        "AES_CM_128_HMAC_SHA1_80",
        SrtpCryptoSuite::AesCm128HmacSha180,
    ),
    (
        "AES_CM_128_HMAC_SHA1_32",
        SrtpCryptoSuite::AesCm128HmacSha132,
    ),
];

/// Longest key in base64: 44 octets, with room for what is not one.
const MAX_KEY: usize = 128;

impl Room {
    /// Makes a plain transport.
    pub(super) async fn create_plain(
        &mut self,
        session: SessionId,
        body: &Value,
    ) -> Result<Value, Error> {
        let rtcp_mux = fields::flag(body, "rtcpMux")?;
        let comedia = match fields::optional(body, "comedia")? {
            None => true,
            Some(_) => fields::flag(body, "comedia")?,
        };
        let suite = wanted_suite(body)?;
        let router_id = self.router_id.clone();
        self.check_worker()?;
        let peer = self.peer(session)?;
        peer.check_transport_limit()?;
        let id = Uuid::new_v4().to_string();
        peer.transports.push(Transport::plain(id.clone()));
        let request = proto::CreatePlainTransportRequest {
            router_id,
            transport_id: id.clone(),
            rtcp_mux,
            comedia,
            srtp_crypto_suite: suite.map(Into::into),
        };
        let created = self.worker.client.create_plain_transport(request).await;
        let created = match created {
            Ok(created) => created,
            Err(error) => {
                self.undo(Made::Transport(id.clone()), &error);
                self.peer(session)?.remove_transport(&id);
                return Err(error.into());
            }
        };
        let mut answer = json!({
            "id": id, "ip": created.address, "ips": created.addresses, "port": created.port,
        });
        if let Value::Object(fields) = &mut answer {
            if let Some(port) = created.rtcp_port {
                fields.insert("rtcpPort".into(), port.into());
            }
            insert_srtp(fields, created.srtp.as_ref());
        }
        Ok(answer)
    }

    /// Says where a plain transport's remote is, or how it encrypts.
    pub(super) async fn connect_plain(
        &mut self,
        session: SessionId,
        transport_id: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let port = |name| fields::integer::<u32>(body, name, 1..=65_535);
        let request = proto::ConnectPlainTransportRequest {
            transport_id: transport_id.to_owned(),
            address: match fields::optional(body, "ip")? {
                None => None,
                Some(_) => Some(fields::string(body, "ip")?.to_owned()),
            },
            port: port("port")?,
            rtcp_port: port("rtcpPort")?,
            srtp: srtp_parameters(body)?,
        };
        let transport = self.peer(session)?.transport(transport_id)?;
        if transport.connected {
            return Err(Error::NotPossible("connect() already called".into()));
        }
        let connect = self.worker.client.connect_plain_transport(request);
        let connected = connect.await?;
        self.peer(session)?.transport(transport_id)?.connected = true;
        let mut answer = json!({});
        if let Value::Object(fields) = &mut answer {
            insert_srtp(fields, connected.srtp.as_ref());
        }
        Ok(answer)
    }
}

/// `enableSrtp` and `srtpCryptoSuite`, as mediasoup has them.
fn wanted_suite(body: &Value) -> Result<Option<SrtpCryptoSuite>, Error> {
    let suite = match fields::optional(body, "srtpCryptoSuite")? {
        None => SrtpCryptoSuite::AesCm128HmacSha180,
        Some(_) => crypto_suite(body, "srtpCryptoSuite")?,
    };
    Ok(fields::flag(body, "enableSrtp")?.then_some(suite))
}

fn crypto_suite(body: &Value, name: &str) -> Result<SrtpCryptoSuite, Error> {
    let given = fields::string(body, name)?;
    let found = CRYPTO_SUITES.into_iter().find(|(name, _)| *name == given);
    let known = CRYPTO_SUITES.map(|(name, _)| format!("\"{name}\""));
    let allowed = format!("must be one of {}", known.join(", "));
    found
        .map(|(_, suite)| suite)
        .ok_or_else(|| Error::field(name, &allowed))
}

/// `srtpParameters`, if they are given.
fn srtp_parameters(body: &Value) -> Result<Option<SrtpParameters>, Error> {
    let Some(given) = fields::optional_object(body, "srtpParameters")? else {
        return Ok(None);
    };
    let within = fields::within("srtpParameters");
    let suite = crypto_suite(given, "cryptoSuite").map_err(&within)?;
    let text = fields::string(given, "keyBase64").map_err(&within)?;
    let key = BASE64_STANDARD.decode(text).ok();
    let key = key.filter(|_| text.len() <= MAX_KEY);
    let key = key.ok_or_else(|| within(Error::field("keyBase64", "must be a key in base64")))?;
    Ok(Some(SrtpParameters {
        crypto_suite: suite.into(),
        key,
    }))
}

fn insert_srtp(answer: &mut serde_json::Map<String, Value>, ours: Option<&SrtpParameters>) {
    let Some(ours) = ours else { return };
    let suite = ours.crypto_suite();
    let name = CRYPTO_SUITES.into_iter().find(|(_, known)| *known == suite);
    let parameters = json!({
        "cryptoSuite": name.map(|(name, _)| name),
        "keyBase64": BASE64_STANDARD.encode(&ours.key),
    });
    answer.insert("srtpParameters".into(), parameters);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_is_what_is_asked_for() {
        let suite = |body| wanted_suite(&body).map_err(|error| error.to_string());
        for (body, wanted) in [
            (json!({}), Ok(None)),
            (json!({ "srtpCryptoSuite": "AEAD_AES_256_GCM" }), Ok(None)),
            (
                json!({ "enableSrtp": true }),
                Ok(Some(SrtpCryptoSuite::AesCm128HmacSha180)),
            ),
            (
                json!({ "enableSrtp": true, "srtpCryptoSuite": "AEAD_AES_256_GCM" }),
                Ok(Some(SrtpCryptoSuite::AeadAes256Gcm)),
            ),
        ] {
            assert_eq!(suite(body.clone()), wanted, "{body}");
        }
        for (body, error) in [
            (json!({ "enableSrtp": 1 }), "enableSrtp must"),
            (json!({ "srtpCryptoSuite": 1 }), "srtpCryptoSuite must be a"),
            (
                json!({ "srtpCryptoSuite": "x" }),
                "srtpCryptoSuite must be one of \"AEAD",
            ),
        ] {
            assert!(suite(body).unwrap_err().starts_with(error), "{error}");
        }
    }

    #[test]
    fn keys_are_read_and_written() {
        let key = BASE64_STANDARD.encode([7; 30]);
        let good = json!({ "cryptoSuite": "AES_CM_128_HMAC_SHA1_80", "keyBase64": key });
        let body = json!({ "srtpParameters": good });
        let read = srtp_parameters(&body).unwrap().unwrap();
        assert_eq!(read.key, [7; 30]);
        let mut answer = serde_json::Map::new();
        insert_srtp(&mut answer, Some(&read));
        assert_eq!(Value::Object(answer), body);
        assert_eq!(srtp_parameters(&json!({})).unwrap(), None);
        for (bad, error) in [
            (json!(1), "srtpParameters must"),
            (json!({}), "srtpParameters.cryptoSuite is missing"),
            (
                json!({ "cryptoSuite": "AEAD_AES_128_GCM", "keyBase64": "!" }),
                "srtpParameters.keyBase64 must",
            ),
            (
                json!({ "cryptoSuite": "AEAD_AES_128_GCM", "keyBase64": "A".repeat(132) }),
                "srtpParameters.keyBase64 must",
            ),
        ] {
            let refused = srtp_parameters(&json!({ "srtpParameters": bad })).unwrap_err();
            assert!(refused.to_string().starts_with(error), "{refused}");
        }
    }
}
