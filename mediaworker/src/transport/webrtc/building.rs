//! The `Rtc` of a transport, and the one pair of addresses that it sees.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use str0m::config::{DtlsCert, DtlsVersion, Fingerprint as Str0mFingerprint};
use str0m::ice::{StunMessage, TransId};
use str0m::net::{Protocol as Str0mProtocol, Receive};
use str0m::rtp::ExtensionMap;
use str0m::{Candidate, IceCreds, Input, Rtc};

use crate::transport::data::RemoteIce;
use crate::transport::{crypto, data, ice};

/// The pair of addresses that str0m sees (RFC 5737 documentation range).
const VIRTUAL_LOCAL: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    9,
);
const VIRTUAL_REMOTE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)),
    9,
);
/// ICE credentials inside the process only: no datagram with them is accepted
/// from outside, for STUN never reaches str0m.
const VIRTUAL_UFRAG: &str = "virtual";
const VIRTUAL_PASSWORD: &str = "virtual-pair-inside-the-process";

/// Builds the `Rtc`. It has no media: what passes is opened, protected and written by us.
pub(super) fn build(now: Instant, cert: &DtlsCert) -> Rtc {
    let mut config = Rtc::builder()
        .set_rtp_mode(true)
        .set_ice_lite(true)
        .set_crypto_provider(Arc::new(crypto::provider().clone()))
        .set_dtls_cert(cert.clone())
        .set_dtls_version(DtlsVersion::Auto)
        .set_fingerprint_verification(false)
        .set_local_ice_credentials(virtual_credentials())
        .set_sctp_max_message_size(data::MAX_RECEIVED_MESSAGE)
        .set_sctp_max_buffered_amount(data::MAX_TRANSPORT_BACKLOG)
        .set_extension_map(ExtensionMap::empty())
        .set_stats_interval(None);
    config.codec_config().clear();
    let mut rtc = config.build(now);
    connect_virtual_pair(&mut rtc, now);
    // str0m wants one to compare with; we compare ourselves.
    rtc.direct_api().set_remote_fingerprint(Str0mFingerprint {
        hash_func: "sha-256".into(),
        bytes: vec![0; 32],
    });
    rtc
}

/// Gives str0m a datagram from the client. False: it could not take it.
pub(super) fn feed(rtc: &mut Rtc, now: Instant, datagram: &[u8]) -> bool {
    match Receive::new(Str0mProtocol::Udp, VIRTUAL_REMOTE, VIRTUAL_LOCAL, datagram) {
        Ok(receive) => rtc.handle_input(Input::Receive(now, receive)).is_ok(),
        Err(_) => false,
    }
}

fn virtual_credentials() -> IceCreds {
    IceCreds {
        ufrag: VIRTUAL_UFRAG.into(),
        pass: VIRTUAL_PASSWORD.into(),
    }
}

/// What str0m believes of the client's ICE.
pub(super) fn remote_ice() -> RemoteIce<'static> {
    RemoteIce {
        ufrag: VIRTUAL_UFRAG,
        password: VIRTUAL_PASSWORD,
    }
}

/// Gives str0m its one pair of addresses, nominated.
fn connect_virtual_pair(rtc: &mut Rtc, now: Instant) {
    if let Ok(candidate) = Candidate::host(VIRTUAL_LOCAL, "udp") {
        rtc.add_local_candidate(candidate);
    }
    let mut api = rtc.direct_api();
    api.set_ice_controlling(false);
    api.set_remote_ice_credentials(virtual_credentials());
    let user = format!("{VIRTUAL_UFRAG}:{VIRTUAL_UFRAG}");
    let request = StunMessage::binding_request(&user, TransId::new(), true, 1, 1, true);
    let mut datagram = vec![0; 256];
    if let Ok(len) = request.to_bytes(Some(VIRTUAL_PASSWORD.as_bytes()), &mut datagram, ice::hmac) {
        datagram.truncate(len);
        feed(rtc, now, &datagram);
    }
}
