//! A host name as announced address: it goes to the clients as it is, and they look it up.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use serde_json::json;

use crate::browser::{Browser, chromium_with};
use crate::clients::{self, NEWEST, Participant, own_address};
use crate::driver::BrowserSlots;
use crate::plain::play_and_record;
use crate::server::{Options, Server};

/// A name that only the browsers of these tests know.
const NAME: &str = "sfu.example.com";

/// What makes Chromium find the server there. It looks up the name with a dot at its end.
fn known_as(address: impl Into<IpAddr>) -> String {
    format!("--host-resolver-rules=MAP {NAME}* {}", address.into())
}

fn server(listen: impl ToString, announced: impl ToString) -> Server {
    Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("MEDIASOUP_LISTEN_IP", listen)
        .env("MEDIASOUP_ANNOUNCED_IP", announced)
        .start()
}

/// Over UDP, and over TCP alone.
#[test]
fn a_call_by_a_host_name() {
    let server = server("127.0.0.1", NAME);
    let mut browser = Browser::start_with(&[&known_as([127, 0, 0, 1])]);
    for (protocol, more) in [("udp", ""), ("tcp", "&forceTcp=1")] {
        let pages = [("alice", "bob"), ("bob", "alice")];
        for (page, _) in pages {
            browser.join(&server, page, protocol, more);
        }
        for (page, other) in pages {
            let stats = browser.sees_and_hears(page, other);
            for direction in ["send", "recv"] {
                let transport = &stats["transports"][direction];
                assert_eq!(transport["protocol"], protocol, "{page}: {transport}");
                println!("{page}: {transport}");
            }
            assert_eq!(stats["errors"], json!([]), "{page}");
        }
        for (page, _) in pages {
            browser.command(json!({"cmd": "close", "page": page}));
        }
    }
}

/// Clients that look nothing up take the address behind the name.
#[test]
fn who_knows_no_names_takes_the_address_beside_it() {
    let address = own_address();
    let server = server(address, format!("{NAME},{address}"));
    let _slots = BrowserSlots::take(2);
    let firefox = clients::program(Path::new("node"), "firefox.mjs", &server);
    let firefox = Participant::page(&firefox, "firefox", NEWEST);
    let browser = chromium_with(&[&known_as(address)]);
    let browser = Rc::new(RefCell::new(browser));
    let chromium = Participant::page(&browser, "chromium", NEWEST);
    let python = clients::program(&clients::python(), "pymediasoup_peer.py", &server);
    let python = Participant::program(python, "python");
    let all = [&firefox, &chromium, &python];
    for one in all {
        one.join(&server, "names");
        one.call("sendMedia", json!({"codec": "video/VP8"}));
    }
    for one in all {
        for other in all.into_iter().filter(|it| !std::ptr::eq(*it, one)) {
            one.sees_and_hears(other);
        }
    }
}

/// ffmpeg looks up the name that a broadcaster's transport has.
#[test]
fn what_is_sent_to_a_name_can_be_recorded() {
    play_and_record(&server("127.0.0.1", "localhost"));
}
