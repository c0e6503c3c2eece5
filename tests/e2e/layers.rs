//! Layers between real browsers: a page asks for less of another one's video, or
//! for more, and decodes just that.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::{Browser, consumer};
use crate::server::{DEADLINE, Options};

/// Lets a test speak on the page's own socket, and announce a scalability mode
/// that the page does not ask for.
const HOOK: &str = r#"(mode) => {
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (text) {
    window.socket = this;
    const message = JSON.parse(text);
    if (message.method === 'produce' && message.data.kind === 'video') {
      for (const encoding of message.data.rtpParameters.encodings) encoding.scalabilityMode = mode;
      return send.call(this, JSON.stringify(message));
    }
    return send.call(this, text);
  };
  const add = RTCPeerConnection.prototype.addTransceiver;
  RTCPeerConnection.prototype.addTransceiver = function (track, init) {
    if (track.kind === 'video') {
      const sendEncodings = (init.sendEncodings ?? [{}]).map((it) => ({ ...it, scalabilityMode: mode }));
      return add.call(this, track, { ...init, sendEncodings });
    }
    return add.call(this, track, init);
  };
}"#;

/// How long frames are counted.
const WINDOW: Duration = Duration::from_millis(1500);
/// Widths of the three spatial layers. Chromium sends three streams only of the larger
/// picture; layers in one stream are hard work enough in the smaller one, of which it
/// makes two.
const HD: ([u64; 3], &str) = ([320, 640, 1280], "hd");
const VGA: ([u64; 3], &str) = ([320, 640, 640], "vga");

/// What a page decodes of another one in a while.
#[derive(Debug)]
struct Seen {
    width: u64,
    /// Frames a second.
    rate: f64,
}

impl Browser {
    /// Joins with the socket hooked; `mode`: the scalability mode of its video.
    fn join_hooked(&mut self, url: &str, page: &str, mode: &str) {
        self.command(json!({"cmd": "open", "page": page, "url": url, "media": "ok"}));
        let expression = format!("({HOOK})({})", Value::from(mode));
        self.command(json!({"cmd": "eval", "page": page, "expression": expression}));
        self.click(page, "#join");
    }

    fn prefer(&mut self, page: &str, other: &str, spatial: u8, temporal: u8) {
        let stats = self.stats(page);
        let id = &consumer(&stats, other, "video").unwrap()["id"];
        let request = json!({
            "request": true, "id": 4_000_000 + u32::from(spatial) * 10 + u32::from(temporal),
            "method": "setConsumerPreferredLayers",
            "data": {"consumerId": id, "spatialLayer": spatial, "temporalLayer": temporal},
        });
        let text = Value::from(request.to_string());
        let expression = format!("window.socket.send({text})");
        self.command(json!({"cmd": "eval", "page": page, "expression": expression}));
    }

    fn seen(&mut self, page: &str, other: &str) -> Seen {
        let mut at = || {
            let stats = self.stats(page);
            let video = consumer(&stats, other, "video").cloned();
            let video = video.unwrap_or_default();
            let number = |field: &str| video[field].as_u64().unwrap_or(0);
            (
                Instant::now(),
                number("framesDecoded"),
                number("frameWidth"),
            )
        };
        let (start, before, _) = at();
        std::thread::sleep(WINDOW);
        let (end, after, width) = at();
        let frames = u32::try_from(after - before).unwrap();
        Seen {
            width,
            rate: f64::from(frames) / (end - start).as_secs_f64(),
        }
    }

    /// Waits until a page decodes another one at this size and about this rate.
    fn sees_layers(&mut self, page: &str, other: &str, width: u64, rate: f64) -> Seen {
        let end = Instant::now() + DEADLINE;
        loop {
            let seen = self.seen(page, other);
            if seen.width == width && (seen.rate - rate).abs() < rate * 0.3 {
                return seen;
            }
            assert!(
                Instant::now() < end,
                "{seen:?}, not {width} wide, {rate} times a second"
            );
        }
    }

    fn freezes(&mut self, page: &str, other: &str) -> Option<u64> {
        let stats = self.stats(page);
        consumer(&stats, other, "video")?["freezeCount"].as_u64()
    }
}

/// Alice looks at bob, who sends `more` in the layers of `mode`, through some of
/// them. Chromium's fake camera makes 20 pictures a second.
fn look(
    codecs: &str,
    more: &str,
    mode: &str,
    temporal_layers: i32,
    (widths, resolution): ([u64; 3], &str),
) {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 1)
        .env("ROUTER_CODECS", codecs)
        .start();
    // Encoding in layers takes what there is of two cores.
    let mut browser = Browser::start_alone();
    for page in ["alice", "bob"] {
        let url = server.url(&format!(
            "/?room=layers&name={page}&peerId={page}&resolution={resolution}{more}"
        ));
        browser.join_hooked(&url, page, mode);
    }
    browser.sees("alice", "bob", 20);
    // Once Chromium's estimate of the bandwidth lets it send every layer.
    let best = browser.sees_layers("alice", "bob", widths[2], 20.0);
    let freezes = browser.freezes("alice", "bob");
    for (spatial, temporal) in [(0, 0), (0, 2), (1, 1), (2, 2)] {
        browser.prefer("alice", "bob", spatial, temporal);
        let width = widths[usize::from(spatial)];
        let left_out = (temporal_layers - 1 - i32::from(temporal)).max(0);
        let seen = browser.sees_layers("alice", "bob", width, best.rate / f64::from(1 << left_out));
        println!("figure: {codecs} {mode}: layers {spatial}/{temporal}: {seen:?}");
    }
    // A machine that is busy with encoding costs one now and then; a layer that cannot be decoded
    // would be frozen for good.
    let frozen = browser.freezes("alice", "bob").unwrap() - freezes.unwrap();
    assert!(frozen <= 2, "frozen {frozen} times");
}

#[test]
fn layers_of_simulcast_are_chosen() {
    look("opus,vp8", "&simulcast=1", "L1T3", 3, HD);
    // H264 does not say which temporal layer a packet belongs to.
    look("opus,h264-baseline", "&simulcast=1", "L1T1", 1, HD);
}

#[test]
fn layers_of_vp9_svc_are_chosen() {
    look("opus,vp9", "", "L3T3_KEY", 3, VGA);
    look("opus,vp9", "", "L3T3", 3, VGA);
}

#[test]
fn layers_of_av1_svc_are_chosen() {
    look("opus,av1", "", "L3T3", 3, VGA);
    look("opus,av1", "", "L3T3_KEY", 3, VGA);
}
