//! DTLS with real browsers, in either version.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::browser::chromium;
use crate::clients::{NEWEST, Participant, firefox, own_address};
use crate::driver::BrowserSlots;
use crate::server::Options;

/// Lowest version that Firefox speaks, as TLS numbers them: 1.3. By default it is 1.2.
const LOWEST: (&str, u16) = ("media.peerconnection.dtls.version.min", 0x304);

/// What was agreed on by a transport of mediasoup-client.
const AGREED: &str = "(async (transport) => {
    const all = [...(await transport.getStats()).values()];
    const { tlsVersion, dtlsRole, srtpCipher } = all.find(({ type }) => type === 'transport');
    return { tlsVersion, dtlsRole, srtpCipher };
})";

/// Chromium's ClientHello has post-quantum key shares, and comes in two datagrams; it offers
/// both versions.
#[test]
fn chromium_and_firefox_call_in_dtls_12_and_13() {
    let address = own_address();
    let server = Options::new()
        .env("MEDIASOUP_LISTEN_IP", address)
        .env("MEDIASOUP_ANNOUNCED_IP", address)
        .start();
    let _slots = BrowserSlots::take(2);
    let (name, version) = LOWEST;
    let firefox = firefox(&server, &json!({ name: version }));
    let only_13 = Participant::page(&firefox, "only-13", NEWEST);
    let chromium = Rc::new(RefCell::new(chromium()));
    let both = Participant::page(&chromium, "both", NEWEST);
    for page in [&both, &only_13] {
        page.join(&server, "versions");
        page.call("sendMedia", json!({"codec": "video/VP8"}));
    }
    both.sees_and_hears(&only_13);
    only_13.sees_and_hears(&both);
    for page in [&both, &only_13] {
        page.is_content();
    }
    for transport in ["sendTransport", "recvTransport"] {
        let agreed = |page: &Participant| {
            let agreed = page.evaluate(&format!("{AGREED}(participant.{transport})"));
            agreed.unwrap_or(Value::Null)
        };
        let expected = json!({"tlsVersion": "FEFD", "dtlsRole": "client",
            "srtpCipher": "SRTP_AEAD_AES_256_GCM"});
        assert_eq!(agreed(&both), expected);
        let agreed = agreed(&only_13);
        assert_eq!(
            (&agreed["tlsVersion"], &agreed["dtlsRole"]),
            (&json!("FEFC"), &json!("client"))
        );
    }
}
