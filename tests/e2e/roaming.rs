//! Clients whose way to the server changes in the middle of a call, and how long nothing
//! is heard then: real Chromium with the newest mediasoup-client.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::{chromium, chromium_inside};
use crate::clients::{NEWEST, Participant, SharedDriver};
use crate::driver::BrowserSlots;
use crate::nat::Nat;
use crate::netns::Namespace;
use crate::server::{Server, wait_until};
use crate::turn::transport_stats;

/// Longest silence when the address of a client changes. Chromium checks the way that it
/// uses every two and a half seconds, and the first check from the new address tells the
/// server of it.
const LONGEST_MOVE: Duration = Duration::from_secs(6);

/// Longest silence when a network ends. Chromium gives it up after 5 s without answers, or
/// after 15 s.
const LONGEST_CHANGE: Duration = Duration::from_secs(20);

/// Longest silence when ICE restarts. Nothing but a busy machine is in the way of sound.
const LONGEST_RESTART: Duration = Duration::from_secs(2);

/// Packets of sound, 20 ms each, after which a call has come through a change.
const ENOUGH: u64 = 150;

/// Checks of a way that are answered every few seconds.
const SOME_CHECKS: u64 = 2;

/// Notes how many packets of the other one's sound were played, and the longest time
/// between two of them, in milliseconds.
const LISTEN: &str = "(() => {
    const all = [...participant.consumers.values()];
    const { consumer } = all.find(({ consumer }) => consumer.kind === 'audio');
    let last = null;
    window.sound = { played: 0, gap: 0 };
    setInterval(() => {
        const [source] = consumer.rtpReceiver.getSynchronizationSources();
        if (!source || source.timestamp === last) return;
        if (last !== null) window.sound.gap = Math.max(window.sound.gap, source.timestamp - last);
        last = source.timestamp;
        window.sound.played += 1;
    }, 5);
    return true;
})()";

/// Answers of the server to connectivity checks on the way that is used.
const ANSWERS: &str = "(async (transport) => {
    const all = [...(await transport.getStats()).values()];
    const { selectedCandidatePairId: id } = all.find(({ type }) => type === 'transport');
    return all.find((it) => it.id === id)?.responsesReceived ?? 0;
})";

/// Local addresses that Chromium checks from over UDP.
const ADDRESSES: &str = "(async (transport) => {
    const all = [...(await transport.getStats()).values()];
    const local = all.filter(({ type, protocol }) =>
        type === 'local-candidate' && protocol === 'udp');
    return local.map(({ address }) => address);
})";

/// Calls until Chromium has found both networks. It looks for more only until it has a
/// way that works, and one to this very machine works at once: one time in ten it has
/// found just the first network by then.
const MAX_CALLS: usize = 6;

/// A call between two, who listen to each other.
struct Call {
    alice: Participant,
    bob: Participant,
}

impl Call {
    fn start(alice: &SharedDriver, bob: &SharedDriver, join: impl Fn(&Participant)) -> Self {
        let [alice, bob] = [(alice, "alice"), (bob, "bob")].map(|(browser, id)| {
            let page = Participant::page(browser, id, NEWEST);
            join(&page);
            // Silence, too, is sent every 20 ms.
            page.call("sendMedia", json!({"codec": "video/VP8", "opusDtx": false}));
            page
        });
        bob.sees_and_hears(&alice);
        alice.sees_and_hears(&bob);
        for page in [&alice, &bob] {
            assert_eq!(page.evaluate(LISTEN).unwrap(), true);
        }
        Self { alice, bob }
    }

    /// The ends of the call that sound goes through from alice to bob, by whose they are.
    fn ends(&self) -> [(&Participant, &'static str, &'static str); 2] {
        [
            (&self.bob, "recvTransport", "who listens"),
            (&self.alice, "sendTransport", "who speaks"),
        ]
    }

    /// Both still see and hear the other, and nothing has gone wrong behind the scenes.
    fn is_as_before(&self) {
        self.bob.sees_and_hears(&self.alice);
        self.alice.sees_and_hears(&self.bob);
        for page in [&self.alice, &self.bob] {
            page.is_content();
            let connected = json!(["connected", "connected"]);
            assert_eq!(page.stats()["connection"], connected);
        }
    }
}

/// Waits until more has been heard, and answers for how long nothing was since the last
/// call.
fn longest_silence(page: &Participant) -> Duration {
    let played = || page.evaluate("sound.played").unwrap().as_u64().unwrap();
    let before = played();
    wait_until("sound", || played() > before + ENOUGH);
    let gap = page.evaluate("sound.gap").unwrap().as_f64().unwrap();
    page.evaluate("sound.gap = 0").unwrap();
    Duration::from_secs_f64(gap / 1e3)
}

/// The port that the server sends to.
fn remote_port(page: &Participant, transport: &str) -> u16 {
    let stats = transport_stats(page, transport);
    let port = stats["iceSelectedTuple"]["remotePort"].as_u64();
    u16::try_from(port.unwrap_or(0)).unwrap()
}

#[test]
fn a_call_goes_on_from_another_address() {
    let (server, nat) = Nat::serve();
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let call = Call::start(&browser, &browser, |page| page.join(&server, "roaming"));
    for (page, transport, who) in call.ends() {
        let old = remote_port(page, transport);
        longest_silence(&call.bob);
        nat.forget(old);
        wait_until("the server knows the new one", || {
            remote_port(page, transport) != old
        });
        let gap = longest_silence(&call.bob);
        println!("figure: another address of {who}: no sound for {gap:.1?}");
        assert!(gap < LONGEST_MOVE, "{who}: {gap:?}");
    }
    call.is_as_before();
}

#[test]
fn a_call_goes_on_while_ice_restarts() {
    let server = Server::start();
    let _slot = BrowserSlots::take(1);
    let browser = Rc::new(RefCell::new(chromium()));
    let call = Call::start(&browser, &browser, |page| page.join(&server, "restart"));
    for (page, transport, who) in call.ends() {
        longest_silence(&call.bob);
        let data = format!("{{ transportId: participant.{transport}.id }}");
        let request = format!(
            "(async () => {{
                window.iceParameters = await participant.peer.request('restartIce', {data});
            }})()"
        );
        page.evaluate(&request).unwrap();
        // The client still uses the old ones.
        let answers = format!("{ANSWERS}(participant.{transport})");
        let answers = || page.evaluate(&answers).unwrap().as_u64().unwrap();
        let before = answers();
        wait_until("old credentials are good until new ones are used", || {
            answers() >= before + SOME_CHECKS
        });

        let old = remote_port(page, transport);
        let restart = format!("participant.{transport}.restartIce({{ iceParameters }})");
        assert_eq!(page.evaluate(&restart).unwrap(), Value::Null);
        wait_until("another way", || remote_port(page, transport) != old);
        let gap = longest_silence(&call.bob);
        println!("figure: ICE restart of {who}: no sound for {gap:.1?}");
        assert!(gap < LONGEST_RESTART, "{who}: {gap:?}");
        let before = answers();
        wait_until("and the new ones are", || answers() >= before + SOME_CHECKS);
    }
    call.is_as_before();
}

/// From one network to another that the client had all the while, as with Wi-Fi and a
/// mobile network. Signaling has its connection through the one that stays.
#[test]
fn a_call_goes_on_in_another_network() {
    let namespace = Namespace::new();
    let first = namespace.join_second_network();
    let networks = [first, namespace.inside_address()].map(|it| json!(it));
    let server = namespace.serve();
    let signaling = SocketAddr::from((namespace.address, server.port));
    let both = ["sendTransport", "recvTransport"];
    let mut calls = (0..MAX_CALLS).map(|call| {
        let here = Rc::new(RefCell::new(chromium()));
        let there = Rc::new(RefCell::new(chromium_inside(&namespace)));
        Call::start(&here, &there, |page| {
            page.join_at(signaling, &format!("networks-{call}"), Value::Null);
        })
    });
    let call = calls.find(|call| {
        both.iter().all(|transport| {
            let addresses = format!("{ADDRESSES}(participant.{transport})");
            let addresses = call.bob.evaluate(&addresses).unwrap();
            let mut networks = networks.iter();
            networks.all(|it| addresses.as_array().unwrap().contains(it))
        })
    });
    let call = call.expect("Chromium finds both networks");
    for page in [&call.alice, &call.bob] {
        longest_silence(page);
    }
    let way = |transport: &str| {
        let stats = transport_stats(&call.bob, transport);
        stats["iceSelectedTuple"]["remoteIp"].clone()
    };
    // Chromium prefers it by its number.
    assert_eq!(both.map(way), [networks[0].clone(), networks[0].clone()]);

    namespace.leave_second_network();
    for transport in both {
        wait_until("the other network", || way(transport) == networks[1]);
    }
    for (page, who) in [(&call.bob, "who listens"), (&call.alice, "who speaks")] {
        let gap = longest_silence(page);
        println!("figure: another network of {who}: no sound for {gap:.1?}");
        assert!(gap < LONGEST_CHANGE, "{who}: {gap:?}");
    }
    call.is_as_before();
}
