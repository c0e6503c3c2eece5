//! An IP camera: RTSP (RFC 2326) over TCP with interleaved RTP, as far as a client like
//! ffmpeg needs it. What it shows comes from ffmpeg.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::Duration;

const SDP: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n\
    m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\na=control:0\r\n\
    m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=control:1\r\n";

/// A camera; what it started ends with it.
pub struct Camera {
    pub url: String,
    sources: Sources,
}

type Sources = Arc<Mutex<Vec<Child>>>;

impl Camera {
    /// Starts one that shows a film again and again, for whoever comes.
    pub fn start(film: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("rtsp://{}/live", listener.local_addr().unwrap());
        let sources = Sources::default();
        let (film, started) = (film.to_owned(), Arc::clone(&sources));
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (film, sources) = (film.clone(), Arc::clone(&started));
                spawn(move || serve(client, &film, &sources));
            }
        });
        Self { url, sources }
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        for source in self.sources.lock().unwrap().iter_mut() {
            let _ = source.kill();
            let _ = source.wait();
        }
    }
}

fn serve(client: TcpStream, film: &Path, sources: &Sources) -> Option<()> {
    let mut to = client.try_clone().ok()?;
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    // Channel of each stream, as the client wants them.
    let mut channels = [0, 2];
    loop {
        let request = lines.next()?;
        let headers: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let mut all = headers.iter().filter_map(|line| line.split_once(": "));
            all.find(|(given, _)| given.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        let number = header("CSeq")?;
        let (method, rest) = request.split_once(' ')?;
        let more = match method {
            "OPTIONS" => "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n".to_owned(),
            "DESCRIBE" => format!(
                "Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
                SDP.len()
            ),
            "SETUP" => {
                let transport = header("Transport")?;
                let (_, range) = transport.split_once("interleaved=")?;
                let stream = usize::from(rest.contains("/1 "));
                channels[stream] = range.split('-').next()?.parse().ok()?;
                format!("Transport: {transport}\r\nSession: 1\r\n\r\n")
            }
            _ => "Session: 1\r\n\r\n".to_owned(),
        };
        write!(to, "RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}").ok()?;
        if method == "PLAY" {
            return play(to, film, channels, sources);
        }
    }
}

/// Sends until the client has gone.
fn play(mut to: TcpStream, film: &Path, channels: [u8; 2], sources: &Sources) -> Option<()> {
    let [video, audio] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let source = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-nostdin", "-re"])
        .args(["-stream_loop", "-1", "-i"])
        .arg(film)
        .args(["-map", "0:v:0", "-c", "copy", "-payload_type", "96"])
        .args(["-f", "rtp", &format!("rtp://{}", video.local_addr().ok()?)])
        .args(["-map", "0:a:0", "-c", "copy", "-payload_type", "97"])
        .args(["-f", "rtp", &format!("rtp://{}", audio.local_addr().ok()?)])
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    sources.lock().unwrap().push(source);
    let mut packet = [0; 2000];
    for socket in [&video, &audio] {
        socket
            .set_read_timeout(Some(Duration::from_millis(5)))
            .ok()?;
    }
    loop {
        for (socket, channel) in [(&video, channels[0]), (&audio, channels[1])] {
            while let Ok(len) = socket.recv(&mut packet) {
                let [high, low] = u16::try_from(len).ok()?.to_be_bytes();
                to.write_all(&[b'$', channel, high, low]).ok()?;
                to.write_all(&packet[..len]).ok()?;
            }
        }
    }
}
