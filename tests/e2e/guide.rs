//! The clients of docs/clients.md, as they stand there: pages of its JavaScript and
//! its Python program meet in a room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::clients::python;
use crate::lines::Lines;
use crate::server::{DEADLINE, Server};

/// Everything in the guide that is in a language, in its order.
fn snippets(language: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/clients.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    let blocks: Vec<_> = blocks.map(|it| it.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "the guide has no {language}");
    blocks.join("\n")
}

/// The page of the guide, with what is called from here in `guide`.
fn page(directory: &Path) -> PathBuf {
    let page = directory.join("guide.html");
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut build = Command::new("node")
        .arg("guide.mjs")
        .arg(&page)
        .current_dir(clients)
        .stdin(Stdio::piped())
        .spawn()
        .expect("node is installed: tests/run installs it");
    let script = snippets("js") + "\nwindow.guide = { call, joinRoom, makeRoom };\n";
    let mut stdin = build.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    assert!(build.wait().unwrap().success(), "the guide's JavaScript");
    page
}

fn evaluate(browser: &mut Browser, page: &str, expression: &str) -> Value {
    browser.command(json!({"cmd": "eval", "page": page, "expression": expression}))
}

/// Waits until an expression is true in a page.
fn wait(browser: &mut Browser, page: &str, expression: &str) {
    let timeout = u64::try_from(DEADLINE.as_millis()).unwrap();
    browser.command(
        json!({"cmd": "wait", "page": page, "expression": expression, "timeout": timeout}),
    );
}

/// Waits until a page plays video and sound of somebody.
fn plays(browser: &mut Browser, page: &str, from: &str) {
    let shown = format!(
        "[...document.querySelectorAll('video')].some((it) => it.title === '{from}' \
         && it.getVideoPlaybackQuality().totalVideoFrames > 20)"
    );
    wait(browser, page, &shown);
    let heard = format!(
        "[...document.querySelectorAll('audio')].some((it) => it.title === '{from}' \
         && it.currentTime > 0.5)"
    );
    wait(browser, page, &heard);
}

#[test]
fn the_clients_of_the_guide_meet() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let html = page(directory.path());
    let mut browser = Browser::start();
    let names = ["alice", "bob"];
    for name in names {
        let query = format!("server={}&room=lobby&name={name}", server.address());
        let url = format!("file://{}?{query}", html.display());
        browser.command(json!({"cmd": "open", "page": name, "url": url}));
    }
    plays(&mut browser, "alice", "bob");
    plays(&mut browser, "bob", "alice");

    let program = directory.path().join("client.py");
    std::fs::write(&program, snippets("python")).unwrap();
    let url = format!("wss://{}/?roomId=lobby&peerId=python", server.address());
    let mut python = Lines::start(
        Command::new(python())
            .arg(&program)
            .arg(url)
            .env("SSL_CERT_FILE", server.dir().join("certs/fullchain.pem")),
    );
    for name in names {
        python.wait_for(&format!("100 frames of video from {name}"));
        python.wait_for(&format!("100 frames of audio from {name}"));
        plays(&mut browser, name, "python");
    }
    // aiortc tells by REMB what it can receive: both go on.
    for name in names {
        python.wait_for(&format!("300 frames of video from {name}"));
    }

    evaluate(&mut browser, "alice", "guide.call.leave()");
    let gone = "![...document.querySelectorAll('video, audio')].some((it) => it.title === 'alice')";
    wait(&mut browser, "bob", gone);

    // A room that was made over HTTP.
    let address = server.address();
    let join = format!(
        "guide.makeRoom('{address}').then(async (urlOf) => {{
            const url = urlOf('alice');
            await guide.joinRoom({{ url, displayName: 'alice', onTrack() {{}}, onTrackGone() {{}} }});
            return url;
        }})"
    );
    let url = evaluate(&mut browser, "alice", &join);
    let url = url.as_str().unwrap();
    let room = url.strip_prefix(&format!("wss://{address}?roomId="));
    let room = room.and_then(|it| it.strip_suffix("&peerId=alice"));
    let (_, listed) = crate::https::get(&server.url("/admin/rooms"));
    let made = json!(room.expect("a wsUrl"));
    let rooms = listed["rooms"].as_array().unwrap();
    assert!(rooms.iter().any(|it| it["id"] == made), "{url}: {listed}");

    evaluate(&mut browser, "bob", "guide.call.leave()");
    python.wait_for("is closed");
    for name in names {
        let console = browser.command(json!({"cmd": "console", "page": name}));
        let lines = console.as_array().unwrap();
        let errors: Vec<_> = lines.iter().filter(|it| it["type"] != "warning").collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}
