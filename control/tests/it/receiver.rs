//! Somebody who receives webhooks, and behaves as the test wants.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(10);

/// What is done with one POST.
#[derive(Clone)]
pub enum Answer {
    /// This status.
    Status(u16),
    /// 307 to this URI.
    Redirect(String),
    /// None, ever.
    Hang,
    /// The connection ends at once.
    Drop,
    /// 200, and then a body without end.
    Endless,
}

/// A POST as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The request line and the headers, as they were sent.
    pub head: String,
    pub text: String,
}

impl Post {
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers
            .find(|(it, _)| it.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

pub struct Receiver {
    port: u16,
    posts: Arc<watch::Sender<Vec<Post>>>,
    /// For the next POSTs; 204 for those that follow.
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Receiver {
    pub async fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            posts: Arc::new(watch::Sender::new(Vec::new())),
            answers: Arc::new(Mutex::new(answers.iter().cloned().collect())),
        };
        let (posts, answers) = (receiver.posts.clone(), receiver.answers.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, posts.clone(), answers.clone()));
            }
        });
        receiver
    }

    pub fn uri(&self) -> String {
        format!("http://user:pass-word@127.0.0.1:{}/hook?a=1", self.port)
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.borrow().clone()
    }

    /// The first `count` POSTs, once they are there.
    pub async fn wait(&self, count: usize) -> Vec<Post> {
        let mut posts = self.posts.subscribe();
        let enough = posts.wait_for(|posts| posts.len() >= count);
        let posts = tokio::time::timeout(PATIENCE, enough).await;
        let posts = posts.unwrap_or_else(|_| panic!("only {:?}", self.posts()));
        posts.unwrap()[..count].to_vec()
    }
}

async fn serve(
    mut stream: TcpStream,
    posts: Arc<watch::Sender<Vec<Post>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
) {
    let Some(post) = read(&mut stream).await else {
        return;
    };
    let answer = answers.lock().unwrap().pop_front();
    posts.send_modify(|posts| posts.push(post));
    let head = match answer.unwrap_or(Answer::Status(204)) {
        Answer::Status(status) => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
        Answer::Redirect(to) => {
            format!("HTTP/1.1 307 X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        }
        Answer::Hang => return std::future::pending().await,
        Answer::Drop => return,
        Answer::Endless => {
            let head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            return;
        }
    };
    stream.write_all(head.as_bytes()).await.unwrap();
}

async fn read(stream: &mut TcpStream) -> Option<Post> {
    let mut received = Vec::new();
    loop {
        if let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(received[..end].to_vec()).unwrap();
            let mut post = Post {
                head,
                text: String::new(),
            };
            let length: usize = post.header("content-length")?.parse().unwrap();
            let body = &received[end + 4..];
            if body.len() >= length {
                post.text = String::from_utf8(body[..length].to_vec()).unwrap();
                return Some(post);
            }
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(size) if size > 0 => received.extend_from_slice(&piece[..size]),
            _ => return None,
        }
    }
}
