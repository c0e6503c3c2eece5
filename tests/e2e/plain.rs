//! Plain RTP with a real ffmpeg, in and out: the sequence of the published scripts,
//! seen and heard by a real browser, and the recipes of `docs/plain-rtp.md`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::camera::Camera;
use crate::https::request;
use crate::server::{DEADLINE, Options, Server, wait_until};

/// Length of the recording of a browser, seconds.
const RECORDING: u64 = 30;

/// A program that runs, and is ended with the test.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: tests/run installs it"));
        Self(child)
    }

    /// Sends Ctrl-C and waits for the end. True if it ended well.
    fn interrupt(&mut self) -> bool {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        self.end()
    }

    fn end(&mut self) -> bool {
        self.end_within(DEADLINE)
    }

    fn end_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends what it has started, if it is let.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let end = Instant::now() + DEADLINE / 6;
        while Instant::now() < end && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    command
}

/// A film of 10 s with moving pictures and a tone.
fn film(folder: &Path) -> PathBuf {
    let path = folder.join("film.mkv");
    let made = ffmpeg()
        .args(["-f", "lavfi", "-i", "testsrc=size=320x240:rate=25"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
        .args(["-t", "10", "-c:v", "libvpx", "-deadline", "realtime"])
        .args(["-cpu-used", "8", "-g", "25", "-c:a", "libopus"])
        .arg(&path)
        .status()
        .expect("tests/run installs ffmpeg");
    assert!(made.success());
    path
}

/// A place that a stream can be sent to.
struct Target {
    ip: String,
    port: u64,
    rtcp_port: u64,
}

impl Target {
    fn rtp(&self) -> String {
        let Self {
            ip,
            port,
            rtcp_port,
        } = self;
        format!("rtp://{ip}:{port}?rtcpport={rtcp_port}&pkt_size=1200")
    }
}

/// A request about the broadcasters of a room.
pub fn post(server: &Server, path: &str, body: &Value) -> Value {
    let url = server.url(&format!("/rooms/room/broadcasters{path}"));
    let (status, answer) = request("POST", &url, &[], &body.to_string());
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// What the published scripts do before they start ffmpeg: the places to send audio
/// and video to. `key`: how both are encrypted, if they are.
fn published_sequence(server: &Server, key: Option<&str>) -> [Target; 2] {
    let (status, _) = request("GET", &server.url("/rooms/room"), &[], "");
    assert_eq!(status, 200);
    let body = json!({"id": "film", "displayName": "A film", "device": {"name": "FFmpeg"}});
    post(server, "", &body);
    let audio = json!({"codecs": [{"mimeType": "audio/opus", "payloadType": 100,
        "clockRate": 48000, "channels": 2, "parameters": {"sprop-stereo": 1}}],
        "encodings": [{"ssrc": 1111}]});
    let video = json!({"codecs": [{"mimeType": "video/vp8", "payloadType": 101,
        "clockRate": 90000}], "encodings": [{"ssrc": 2222}]});
    [("audio", audio), ("video", video)].map(|(kind, rtp)| {
        let body = json!({"type": "plain", "comedia": true, "rtcpMux": false});
        let made = post(server, "/film/transports", &body);
        let path = format!("/film/transports/{}", made["id"].as_str().unwrap());
        if let Some(key) = key {
            let srtp = json!({"cryptoSuite": "AES_CM_128_HMAC_SHA1_80", "keyBase64": key});
            let body = json!({ "srtpParameters": srtp });
            post(server, &format!("{path}/connect"), &body);
        }
        let body = json!({"kind": kind, "rtpParameters": rtp});
        post(server, &format!("{path}/producers"), &body);
        Target {
            ip: made["ip"].as_str().unwrap().into(),
            port: made["port"].as_u64().unwrap(),
            rtcp_port: made["rtcpPort"].as_u64().unwrap(),
        }
    })
}

/// The published scripts, as they are: a browser in the room sees and hears the film.
/// And what the browser sends can be recorded.
#[test]
fn a_browser_sees_and_hears_what_ffmpeg_sends_and_is_recorded() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let film = film(folder.path());
    let mut browser = Browser::start();
    browser.join(&server, "alice", "room", "");
    browser.wait("alice", "joined", |stats| stats["state"] == "joined");
    let [audio, video] = published_sequence(&server, None);
    let mut sender = Running::start(
        ffmpeg()
            .args(["-re", "-stream_loop", "-1", "-i"])
            .arg(&film)
            .args(["-map", "0:a:0", "-c:a", "copy", "-map", "0:v:0"])
            .args(["-c:v", "copy", "-f", "tee"])
            .arg(format!(
                "[select=a:f=rtp:ssrc=1111:payload_type=100]{}|\
                 [select=v:f=rtp:ssrc=2222:payload_type=101]{}",
                audio.rtp(),
                video.rtp()
            )),
    );
    browser.sees_and_hears("alice", "film");
    sender.interrupt();
    let url = server.url("/rooms/room/broadcasters/film");
    assert_eq!(request("DELETE", &url, &[], "").0, 200);
    browser.wait("alice", "the film is gone", |stats| {
        let peers = stats["peers"].as_array();
        peers.is_some_and(|peers| peers.iter().all(|peer| peer["id"] != "film"))
    });
    assert_eq!(request("DELETE", &url, &[], "").0, 404);

    let takes = folder.path().join("takes");
    let mut recorder = recipe(&server, "record", &takes);
    let seconds = RECORDING.to_string();
    let mut recorder = Running::start(recorder.args(["--seconds", &seconds]));
    assert!(
        recorder.end_within(Duration::from_secs(RECORDING) + DEADLINE),
        "the recorder fails"
    );
    check_recording(&takes.join("alice.webm"), RECORDING as f64, 10.0);
}

fn recipe(server: &Server, command: &str, what: &Path) -> Command {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/recipes/plain_rtp.py");
    let mut recipe = Command::new("python3");
    recipe
        .arg(script)
        .args([command, &server.url(""), "room"])
        .arg(what)
        .arg("--insecure");
    recipe
}

/// How many streams are sent in the room, asked as a broadcaster of its own.
fn streams(server: &Server) -> usize {
    let url = server.url("/v2/rooms/room/broadcasters/watcher/peerProducersInfos");
    let (_, infos) = request("GET", &url, &[], "");
    let peers = infos["peerProducersInfos"].as_array();
    let of = |peer: &Value| peer["producers"].as_array().map_or(0, Vec::len);
    peers.map_or(0, |peers| peers.iter().map(of).sum())
}

fn watch(server: &Server) {
    let base = server.url("/v2/rooms/room/broadcasters");
    let body = json!({"peerId": "watcher", "displayName": "", "device": {"name": "test"}});
    assert_eq!(request("POST", &base, &[], &body.to_string()).0, 201);
    let join = format!("{base}/watcher/join");
    assert_eq!(request("POST", &join, &[], "{}").0, 200);
}

/// "Play a file into a room" and "record a room", one into the other.
#[test]
fn what_is_played_into_a_room_can_be_recorded() {
    play_and_record(&Server::start());
}

/// Plays a film into a room and records it there.
pub fn play_and_record(server: &Server) {
    let folder = tempfile::tempdir().unwrap();
    let film = film(folder.path());
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    watch(server);
    let mut player = Running::start(recipe(server, "feed", &film).args(["--loop", "--id", "film"]));
    wait_until("two streams", || streams(server) == 2);
    let takes = folder.path().join("takes");
    let mut recorder = Running::start(recipe(server, "record", &takes).args(["--seconds", "12"]));
    assert!(recorder.end(), "the recorder fails");
    assert!(player.interrupt(), "the player fails");
    wait_until("no stream", || streams(server) == 0);
    check_recording(&takes.join("film.webm"), 12.0, 20.0);
}

/// Records the film for some seconds, and checks what comes of it.
fn record_film(server: &Server, folder: &Path) {
    let takes = folder.join("takes");
    let mut recorder = Running::start(recipe(server, "record", &takes).args(["--seconds", "10"]));
    assert!(recorder.end(), "the recorder fails");
    check_recording(&takes.join("film.webm"), 10.0, 20.0);
}

/// "Pull an RTSP camera into a room".
#[test]
fn a_camera_can_be_recorded() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let source = Camera::start(&film(folder.path()));
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    watch(&server);
    let mut camera = recipe(&server, "feed", Path::new(&source.url));
    let mut camera = Running::start(camera.args(["--id", "film"]));
    wait_until("two streams", || streams(&server) == 2);
    record_film(&server, folder.path());
    assert!(camera.interrupt(), "the camera's feed fails");
    wait_until("no stream", || streams(&server) == 0);
}

/// When the slice of a worker is used up that is told, and what is closed is free again.
#[test]
fn ports_come_to_an_end_and_come_back() {
    // Of 40 ports, each of two workers has 20.
    let server = Options::new().env("MEDIASOUP_NUM_WORKERS", 2).start();
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    let made = || {
        let body = json!({"id": "film", "displayName": "", "device": {"name": "test"}});
        post(&server, "", &body);
        let url = server.url("/rooms/room/broadcasters/film/transports");
        for count in 0.. {
            let (status, answer) = request("POST", &url, &[], r#"{"type":"plain"}"#);
            if status == 200 {
                assert!(answer["rtcpPort"].as_u64() > answer["port"].as_u64());
                continue;
            }
            assert_eq!(status, 409, "{answer}");
            let error = answer["error"].as_str().unwrap();
            assert!(error.starts_with("no UDP port of"), "{error}");
            return count;
        }
        0
    };
    // One port is shared by the WebRTC transports, so one of the 20 is odd.
    let url = server.url("/rooms/room/broadcasters/film");
    for _ in 0..3 {
        assert_eq!(made(), 9);
        assert_eq!(request("DELETE", &url, &[], "").0, 200);
    }
}

/// ffmpeg's own SRTP.
#[test]
fn what_ffmpeg_encrypts_can_be_recorded() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let film = film(folder.path());
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    let key = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw";
    let [audio, video] = published_sequence(&server, Some(key));
    let mut command = ffmpeg();
    command.args(["-re", "-stream_loop", "-1", "-i"]).arg(&film);
    for (target, map, ssrc, pt) in [
        (audio, "0:a:0", "1111", "100"),
        (video, "0:v:0", "2222", "101"),
    ] {
        command
            .args(["-map", map, "-c", "copy", "-f", "rtp", "-ssrc", ssrc])
            .args(["-payload_type", pt, "-srtp_out_params", key])
            .args(["-srtp_out_suite", "AES_CM_128_HMAC_SHA1_80"])
            .arg(format!("s{}", target.rtp()));
    }
    let _sender = Running::start(&mut command);
    record_film(&server, folder.path());
}

/// GStreamer's rtpbin, as in the published script.
#[test]
fn what_gstreamer_sends_can_be_recorded() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(request("POST", &server.url("/rooms/room"), &[], "").0, 200);
    let [audio, video] = published_sequence(&server, None);
    let sinks = |target: &Target, session: u8| {
        let Target {
            ip,
            port,
            rtcp_port,
        } = target;
        format!(
            "rtpbin.send_rtp_sink_{session} rtpbin.send_rtp_src_{session} ! \
             udpsink host={ip} port={port} \
             rtpbin.send_rtcp_src_{session} ! \
             udpsink host={ip} port={rtcp_port} sync=false async=false"
        )
    };
    let pipeline = format!(
        "rtpbin name=rtpbin \
         audiotestsrc is-live=true ! audioconvert ! audioresample ! opusenc ! \
         rtpopuspay pt=100 ssrc=1111 ! {} \
         videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=25/1 ! \
         videoconvert ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=25 ! \
         rtpvp8pay pt=101 ssrc=2222 mtu=1200 ! {}",
        sinks(&audio, 0),
        sinks(&video, 1)
    );
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q").args(pipeline.split_whitespace());
    let _sender = Running::start(&mut command);
    record_film(&server, folder.path());
}

fn ffprobe(path: &Path, show: &[&str]) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json"])
        .args(show)
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.is_empty(),
        "{path:?}: {text}"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn seconds(value: &Value) -> f64 {
    value
        .as_str()
        .map_or(f64::NAN, |text| text.parse().unwrap())
}

/// Both streams are there, as long as they should be, without gaps, and decode.
/// `pictures`: how many there are in a second at least.
fn check_recording(path: &Path, expected: f64, pictures: f64) {
    let whole = ffprobe(path, &["-show_streams", "-show_format"]);
    let streams = whole["streams"].as_array().unwrap();
    let codecs: Vec<&Value> = streams.iter().map(|it| &it["codec_name"]).collect();
    assert!(
        codecs.contains(&&json!("vp8")) && codecs.contains(&&json!("opus")),
        "{whole:#}"
    );
    let packets = ffprobe(path, &["-show_entries", "packet=stream_index,pts_time"]);
    for (index, name) in streams.iter().map(|it| &it["codec_name"]).enumerate() {
        let of = packets["packets"].as_array().unwrap().iter();
        let of = of.filter(|it| it["stream_index"] == index);
        let times: Vec<f64> = of.map(|it| seconds(&it["pts_time"])).collect();
        let length = times.last().unwrap() - times[0];
        // Starting and ending take their time, the more so on a busy machine.
        assert!(
            (expected - 4.0..expected + 4.0).contains(&length),
            "{name}: {length}"
        );
        let gap = times
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .fold(0.0, f64::max);
        println!("figure: ffprobe: {name}: {length:.2} s, longest gap {gap:.3} s");
        // An encoder on a busy machine skips some, but what is lost is more.
        assert!(gap < 1.0, "{name}: a gap of {gap} s");
    }
    // Every picture and sound of it can be decoded.
    let decoded = [
        "-count_frames",
        "-show_entries",
        "stream=codec_name,nb_read_frames",
    ];
    for stream in ffprobe(path, &decoded)["streams"].as_array().unwrap() {
        let per_second = if stream["codec_name"] == "vp8" {
            pictures
        } else {
            45.0
        };
        let frames = seconds(&stream["nb_read_frames"]);
        println!(
            "figure: ffprobe: {}: {frames} frames decoded",
            stream["codec_name"]
        );
        assert!(frames > per_second * (expected - 4.0), "{stream}");
    }
}
