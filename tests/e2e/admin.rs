//! The admin page in a real browser, by mouse, by keyboard and on a phone.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::https;
use crate::server::{Options, Server};

/// Waits for an expression on the admin page.
fn until(browser: &mut Browser, expression: &str) -> Value {
    browser.command(json!({"cmd": "wait", "page": "admin", "expression": expression}))
}

fn press(browser: &mut Browser, key: &str) {
    browser.command(json!({"cmd": "press", "page": "admin", "key": key}));
}

fn evaluate(browser: &mut Browser, expression: &str) -> Value {
    browser.command(json!({"cmd": "eval", "page": "admin", "expression": expression}))
}

/// Presses Tab until the focus is on what a selector picks.
fn tab_to(browser: &mut Browser, selector: &str) {
    let there = format!("document.activeElement?.matches({selector:?}) === true");
    for _ in 0..60 {
        if evaluate(browser, &there) == true {
            return;
        }
        press(browser, "Tab");
    }
    panic!("Tab does not lead to {selector}");
}

fn open(browser: &mut Browser, server: &Server) {
    let url = server.url("/admin");
    browser.command(json!({"cmd": "open", "page": "admin", "url": url}));
}

/// Keeps a picture where the environment names a directory for it.
fn picture(browser: &mut Browser, name: &str) {
    if let Ok(directory) = std::env::var("SCREENSHOTS") {
        let path = format!("{directory}/{name}.png");
        browser.command(json!({"cmd": "screenshot", "page": "admin", "path": path}));
    }
}

fn no_errors(browser: &mut Browser, but: &str) {
    let console = browser.command(json!({"cmd": "console", "page": "admin"}));
    let lines = console.as_array().unwrap().iter();
    let text = |line: &&Value| !line["text"].as_str().unwrap().contains(but);
    let errors: Vec<_> = lines.filter(text).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn the_admin_page_shows_workers_rooms_and_streams() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .start();
    let mut browser = Browser::start();
    browser.join(&server, "alice", "shown", "");
    browser.join(&server, "bob", "shown", "");
    browser.sees_and_hears("alice", "bob");
    open(&mut browser, &server);
    until(
        &mut browser,
        "document.querySelectorAll('#workers li').length === 2",
    );
    until(
        &mut browser,
        "/2 of 2 workers ready · 1 room · 2 peers/.test(document.body.innerText)",
    );
    // A bar that grows with what the worker does.
    let busy = "[...document.querySelectorAll('#workers .bar')].some((bar) => \
                Number(bar.getAttribute('aria-valuenow')) > 0 && bar.firstChild.offsetWidth > 0)";
    until(&mut browser, busy);
    picture(&mut browser, "admin-rooms");

    // By keyboard alone: to the room, to a stream, and what is behind it.
    tab_to(&mut browser, "#rooms a");
    press(&mut browser, "Enter");
    until(
        &mut browser,
        "document.querySelectorAll('.member').length === 2",
    );
    let streams = "document.querySelector('[data-peer=bob]').innerText";
    let flows = format!("/alice\\s+video[^]*[1-9][0-9.]* [kM]bit\\/s[^]*%/.test({streams})");
    until(&mut browser, &flows);
    tab_to(&mut browser, "[data-peer=bob] summary");
    press(&mut browser, "Enter");
    let why = "/Nothing is in its way|Its sender|The client|It arrives|target/\
               .test(document.querySelector('[data-peer=bob] details[open]')?.innerText)";
    until(&mut browser, why);
    // It stays open, and the focus where it is, while numbers change.
    let round = evaluate(
        &mut browser,
        "document.querySelector('[data-peer=bob] tbody').innerText",
    );
    until(
        &mut browser,
        &format!("document.querySelector('[data-peer=bob] tbody').innerText !== {round}"),
    );
    assert_eq!(evaluate(&mut browser, why), true);
    let focus = "document.activeElement.matches('[data-peer=bob] summary')";
    assert_eq!(evaluate(&mut browser, focus), true);
    picture(&mut browser, "admin-room");

    // What the page shows of a picture is the worker's own reason.
    let (_, room) = https::get(&server.url("/admin/rooms/shown"));
    let members = room["members"].as_array().unwrap().iter();
    let consumers = members.flat_map(|it| it["consumers"].as_array().unwrap());
    for consumer in consumers.filter(|it| it["kind"] == "video") {
        let reason = consumer["explanation"]["reason"].as_str();
        assert!(reason.is_some_and(|it| it.contains("target")), "{consumer}");
    }

    // On a phone nothing is wider than the screen.
    browser.command(json!({"cmd": "viewport", "page": "admin", "width": 360, "height": 740}));
    let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    assert_eq!(evaluate(&mut browser, fits), true);
    picture(&mut browser, "admin-phone");
    browser.command(json!({"cmd": "viewport", "page": "admin", "width": 1280, "height": 720}));

    // Who is put out is told so, and does not come back.
    browser.click("admin", "[data-peer=bob] button.danger");
    until(&mut browser, "document.querySelector('#confirm').open");
    // What cannot be undone is not what Enter does at first.
    press(&mut browser, "Enter");
    until(&mut browser, "!document.querySelector('#confirm').open");
    until(
        &mut browser,
        "document.querySelectorAll('.member').length === 2",
    );
    browser.click("admin", "[data-peer=bob] button.danger");
    browser.click("admin", "#confirm-yes");
    until(
        &mut browser,
        "document.querySelectorAll('.member').length === 1",
    );
    browser.wait("bob", "is out", |stats| {
        !["joined", "reconnecting"].contains(&stats["state"].as_str().unwrap())
    });
    browser.click("admin", "#close-room");
    browser.click("admin", "#confirm-yes");
    until(
        &mut browser,
        "/Nobody is here/.test(document.body.innerText)",
    );
    no_errors(&mut browser, "404");
}

#[test]
fn the_admin_page_asks_for_the_token() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("ADMIN_TOKEN", "let-me-in")
        .start();
    let mut browser = Browser::start();
    open(&mut browser, &server);
    until(&mut browser, "!document.querySelector('#login').hidden");
    let hidden = "document.querySelector('#content').hidden";
    assert_eq!(evaluate(&mut browser, hidden), true);
    for (token, expression) in [
        (
            "let-me-out",
            "/not the token/.test(document.body.innerText)",
        ),
        (
            "let-me-in",
            "/1 of 1 worker ready/.test(document.body.innerText)",
        ),
    ] {
        let fill = json!({"cmd": "fill", "page": "admin", "selector": "#token", "value": token});
        browser.command(fill);
        press(&mut browser, "Enter");
        until(&mut browser, expression);
    }
    assert_eq!(evaluate(&mut browser, hidden), false);
    assert_eq!(
        evaluate(&mut browser, "location.href.includes('let-me-in')"),
        false
    );
    no_errors(&mut browser, "401");
}
