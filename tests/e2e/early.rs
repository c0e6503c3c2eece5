//! A real browser that sends before the server knows what: signaling is slower than media.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::json;

use crate::browser::chromium;
use crate::clients::{NEWEST, Participant};
use crate::driver::BrowserSlots;
use crate::server::Server;

/// Makes requests of a page to produce take half a second, in which it sends already.
const SLOW: &str = "(() => {
    const { peer } = participant;
    const request = peer.request.bind(peer);
    peer.request = async (method, data) => {
        if (method === 'produce') await new Promise((go) => setTimeout(go, 500));
        return request(method, data);
    };
    return true;
})()";

/// How much video a page has sent, and how often it was asked for a keyframe.
const SENT: &str = "(async () => {
    const all = [...(await participant.sendTransport.getStats()).values()];
    const video = all.find(({ type, kind }) => type === 'outbound-rtp' && kind === 'video');
    const { keyFramesEncoded, pliCount, firCount } = video;
    return { keyFramesEncoded, asked: pliCount + (firCount ?? 0) };
})()";

/// Packets of video that a page had sent before its request to produce left.
const BEFORE: &str = "(async () => {
    const { peer, sendTransport } = participant;
    const request = peer.request.bind(peer);
    peer.request = async (method, data) => {
        if (method === 'produce' && data.kind === 'video') {
            const all = [...(await sendTransport.getStats()).values()];
            const video = all.find(({ type, kind }) => type === 'outbound-rtp' && kind === 'video');
            window.sentBefore = video?.packetsSent ?? 0;
        }
        return request(method, data);
    };
    return true;
})()";

#[test]
fn the_first_keyframe_of_a_browser_is_seen_though_signaling_is_slow() {
    let server = Server::start();
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let [alice, bob] = ["alice", "bob"].map(|id| {
        let page = Participant::page(&browser, id, NEWEST);
        page.join(&server, "early");
        page
    });
    for change in [BEFORE, SLOW] {
        assert_eq!(alice.evaluate(change).unwrap(), true);
    }
    // Sound goes first, and connects both.
    alice.call("sendMedia", json!({"codec": "video/VP8"}));
    bob.sees_and_hears(&alice);
    let before = alice.evaluate("sentBefore").unwrap();
    let sent = alice.evaluate(SENT).unwrap();
    println!("figure: {before} packets of video before produce, then {sent}");
    assert!(before.as_u64() > Some(5), "it sent before: {before}");
    assert_eq!(sent["asked"], 0, "nobody had to ask for a keyframe");
    bob.is_content();
}
