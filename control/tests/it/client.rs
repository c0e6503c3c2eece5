//! A protoo client that waits for what it is told to wait for.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::HeaderName;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::server::Answer;

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Client {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// Came while something else was waited for.
    waiting: VecDeque<Value>,
    last_id: u64,
    /// Code of the close frame, once it came.
    closed: Option<u16>,
}

/// `errorCode` and `errorReason` of a refused request.
pub type Refused = (u64, String);

impl Client {
    pub async fn upgrade(
        stream: TlsStream<TcpStream>,
        host: &str,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<Self, Answer> {
        let url = format!("wss://{host}{path}");
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let value = value.parse().unwrap();
            request.headers_mut().insert(name, value);
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self {
                socket,
                waiting: VecDeque::new(),
                last_id: 100,
                closed: None,
            }),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err(Answer {
                    status: response.status().as_u16(),
                    headers: Map::new(),
                    body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                })
            }
            Err(error) => panic!("no upgrade: {error}"),
        }
    }

    /// Sends a raw frame.
    pub async fn send(&mut self, message: Message) {
        // The server may have closed already; the test sees it when it reads.
        let _ = self.socket.send(message).await;
    }

    /// Sends a text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// Sends a request and returns its id.
    pub async fn start(&mut self, method: &str, data: Value) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({ "request": true, "id": id, "method": method, "data": data });
        self.send_text(&request.to_string()).await;
        id
    }

    /// Sends a request and waits for its response.
    pub async fn request(&mut self, method: &str, data: Value) -> Result<Value, Refused> {
        let id = self.start(method, data).await;
        self.response(id).await
    }

    /// A request that has to succeed.
    pub async fn ok(&mut self, method: &str, data: Value) -> Value {
        match self.request(method, data).await {
            Ok(data) => data,
            Err(refused) => panic!("{method} refused: {refused:?}"),
        }
    }

    /// A request that has to be refused.
    pub async fn refused(&mut self, method: &str, data: Value) -> Refused {
        match self.request(method, data.clone()).await {
            Ok(answer) => panic!("{method} {data} accepted: {answer}"),
            Err(refused) => refused,
        }
    }

    /// The response to a request that was started.
    pub async fn response(&mut self, id: u64) -> Result<Value, Refused> {
        let is_it = |message: &Value| message["response"] == true && message["id"] == id;
        let response = self.wait_for("a response", is_it).await;
        if response["ok"] == true {
            return Ok(response["data"].clone());
        }
        assert_eq!(response["ok"], false);
        let code = response["errorCode"].as_u64().expect("errorCode");
        let reason = response["errorReason"].as_str().expect("errorReason");
        Err((code, reason.to_owned()))
    }

    /// The data of the next notification of this method.
    pub async fn notified(&mut self, method: &str) -> Value {
        let is_it =
            |message: &Value| message["notification"] == true && message["method"] == method;
        self.wait_for(method, is_it).await["data"].clone()
    }

    /// The next request of the server, unanswered: its id and data. The bot's
    /// data consumer, which everybody gets, is passed over.
    pub async fn asked(&mut self, method: &str) -> (u64, Value) {
        let is_it = |message: &Value| {
            message["request"] == true && message["method"] == method && !is_of_bot(message)
        };
        let request = self.wait_for(method, is_it).await;
        (request["id"].as_u64().unwrap(), request["data"].clone())
    }

    /// Accepts a request of the server.
    pub async fn accept(&mut self, id: u64) {
        let response = json!({ "response": true, "id": id, "ok": true, "data": {} });
        self.send_text(&response.to_string()).await;
    }

    /// Rejects a request of the server.
    pub async fn reject(&mut self, id: u64) {
        let response =
            json!({ "response": true, "id": id, "ok": false, "errorCode": 1, "errorReason": "no" });
        self.send_text(&response.to_string()).await;
    }

    /// Accepts the next newConsumer and returns its data.
    pub async fn take_consumer(&mut self) -> Value {
        let (id, data) = self.asked("newConsumer").await;
        self.accept(id).await;
        data
    }

    /// Accepts the next newDataConsumer and returns its data.
    pub async fn take_data_consumer(&mut self) -> Value {
        let (id, data) = self.asked("newDataConsumer").await;
        self.accept(id).await;
        data
    }

    /// Accepts the bot's data consumer and returns its data.
    pub async fn take_bot(&mut self) -> Value {
        let offer = self.wait_for("the bot", is_of_bot).await;
        self.accept(offer["id"].as_u64().unwrap()).await;
        offer["data"].clone()
    }

    /// Asserts that the bot was not offered, up to now.
    pub async fn not_offered_the_bot(&mut self) {
        self.ok("getRouterRtpCapabilities", json!({})).await;
        let found = self.waiting.iter().find(|message| is_of_bot(message));
        assert_eq!(found, None);
    }

    /// Asserts that nothing of this method has come, up to now: whatever the
    /// server had to say before it answers another request. The bot's data
    /// consumer is passed over.
    pub async fn not_told(&mut self, method: &str) {
        self.ok("getRouterRtpCapabilities", json!({})).await;
        let found = self
            .waiting
            .iter()
            .find(|message| message["method"] == method && !is_of_bot(message));
        assert_eq!(found, None);
    }

    /// Everything that the server had to say up to now and that nobody waited
    /// for.
    pub async fn drain(&mut self) -> VecDeque<Value> {
        self.ok("getRouterRtpCapabilities", json!({})).await;
        std::mem::take(&mut self.waiting)
    }

    /// The code that the server closes the socket with.
    pub async fn close_code(&mut self) -> u16 {
        while self.closed.is_none() {
            if let Some(message) = self.read().await {
                self.waiting.push_back(message);
            }
        }
        self.closed.unwrap()
    }

    async fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.waiting.iter().position(&is_it) {
            return self.waiting.remove(index).unwrap();
        }
        loop {
            match self.read().await {
                Some(message) if is_it(&message) => return message,
                Some(message) => self.waiting.push_back(message),
                None => panic!("closed with {:?} instead of {what}", self.closed),
            }
        }
    }

    /// The next message; `None` when the socket is closed.
    async fn read(&mut self) -> Option<Value> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next.unwrap_or_else(|_| panic!("nothing comes; had {:?}", self.waiting)) {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(frame.map_or(1005, |frame| frame.code.into()));
                    return None;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.closed.get_or_insert(1006);
                    return None;
                }
            }
        }
    }
}

/// Whether this is the offer of the bot's data consumer.
fn is_of_bot(message: &Value) -> bool {
    message["method"] == "newDataConsumer" && message["data"]["peerId"].is_null()
}

/// What a browser says that it can receive.
pub fn capabilities() -> Value {
    let text = include_str!("../../src/ortc/fixtures/chromium-device-recvRtpCapabilities.json");
    serde_json::from_str(text).unwrap()
}

/// `produce` of a browser, without its transport.
pub fn produce_data(kind: &str) -> Value {
    let text = match kind {
        "audio" => include_str!("../../src/ortc/fixtures/chromium-produce-a-audio.json"),
        _ => include_str!("../../src/ortc/fixtures/chromium-produce-b-video-single-vp8.json"),
    };
    serde_json::from_str(text).unwrap()
}

/// What a browser is connected with.
pub fn dtls_parameters() -> Value {
    json!({
        "role": "client",
        "fingerprints": [{ "algorithm": "sha-256", "value": (["0A"; 32].join(":")) }],
    })
}

/// The steps that every call consists of.
impl Client {
    pub async fn join(&mut self, name: &str) -> Value {
        let data = json!({
            "displayName": name,
            "device": { "flag": "chrome" },
            "rtpCapabilities": capabilities(),
        });
        self.ok("join", data).await
    }

    /// The id of a new transport to send on.
    pub async fn send_transport(&mut self) -> String {
        self.transport(true).await
    }

    /// The id of a new transport to receive on.
    pub async fn recv_transport(&mut self) -> String {
        self.transport(false).await
    }

    async fn transport(&mut self, producing: bool) -> String {
        let data = json!({ "producing": producing, "consuming": !producing, "forceTcp": false });
        let answer = self.ok("createWebRtcTransport", data).await;
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The id of a new data producer, as the original's client makes it.
    pub async fn produce_data(&mut self, transport_id: &str, label: &str, stream: u16) -> String {
        let data = json!({
            "transportId": transport_id,
            "sctpStreamParameters": { "streamId": stream, "ordered": false, "maxRetransmits": 1 },
            "label": label,
            "protocol": "text",
            "appData": { "info": label },
        });
        let answer = self.ok("produceData", data).await;
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The id of a new producer.
    pub async fn produce(&mut self, transport_id: &str, kind: &str) -> String {
        let mut data = produce_data(kind);
        data["transportId"] = transport_id.into();
        data["appData"] = json!({ "source": kind });
        let answer = self.ok("produce", data).await;
        answer["id"].as_str().unwrap().to_owned()
    }
}
