//! A protoo client: requests, notifications and what the server asks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::https;

const ANSWER: Duration = Duration::from_secs(15);

pub struct Protoo {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    next_id: u64,
    /// Requests and notifications that nobody has asked for yet.
    pub inbox: VecDeque<Value>,
}

impl Protoo {
    /// Opens the WebSocket as protoo-client does.
    pub async fn connect(server: SocketAddr, query: &str) -> Result<Self, u16> {
        Self::connect_with(server, query, Some("protoo")).await
    }

    /// `Err`: the HTTP status that the upgrade was refused with.
    pub async fn connect_with(
        server: SocketAddr,
        query: &str,
        protocol: Option<&'static str>,
    ) -> Result<Self, u16> {
        let mut request = format!("wss://{server}/?{query}")
            .into_client_request()
            .unwrap();
        if let Some(protocol) = protocol {
            request
                .headers_mut()
                .insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
        }
        let stream = https::connect(server).await;
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self {
                socket,
                next_id: 1,
                inbox: VecDeque::new(),
            }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends what the server may answer by closing while it is still coming.
    pub async fn send_unwelcome(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = timeout(ANSWER, self.socket.next())
                .await
                .expect("a message in time")
                .expect("the socket is open")
                .expect("a message");
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// The next message that comes within a time. `Err`: the socket is closed.
    pub async fn next_within(&mut self, time: Duration) -> Result<Option<Value>, ()> {
        match timeout(time, self.socket.next()).await {
            Err(_) => Ok(None),
            Ok(Some(Ok(Message::Text(text)))) => Ok(serde_json::from_str(&text).ok()),
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => Err(()),
            Ok(Some(Ok(_))) => Ok(None),
        }
    }

    /// Sends a request and waits for its answer: data, or code and reason.
    pub async fn request(&mut self, method: &str, data: Value) -> Result<Value, (u64, String)> {
        let id = self.next_id;
        self.next_id += 1;
        self.send_text(
            &json!({"request": true, "id": id, "method": method, "data": data}).to_string(),
        )
        .await;
        loop {
            let message = self.next().await;
            if message["response"] != true || message["id"] != id {
                self.inbox.push_back(message);
                continue;
            }
            return if message["ok"] == true {
                Ok(message["data"].clone())
            } else {
                assert_eq!(message["ok"], false, "{message}");
                let reason = message["errorReason"].as_str().unwrap().to_owned();
                Err((message["errorCode"].as_u64().unwrap(), reason))
            };
        }
    }

    /// Waits for a request or notification of the server.
    pub async fn wait_for(&mut self, method: &str) -> Value {
        loop {
            if let Some(at) = self.inbox.iter().position(|m| m["method"] == method) {
                return self.inbox.remove(at).unwrap();
            }
            let message = self.next().await;
            self.inbox.push_back(message);
        }
    }

    /// Waits for a notification and answers its data.
    pub async fn notification(&mut self, method: &str) -> Value {
        let message = self.wait_for(method).await;
        assert_eq!(message["notification"], true);
        message["data"].clone()
    }

    /// Waits for the end of the connection: the close code, if one came.
    pub async fn closed(mut self) -> Option<u16> {
        loop {
            match timeout(ANSWER, self.socket.next())
                .await
                .expect("a close in time")
            {
                Some(Ok(Message::Close(frame))) => return frame.map(|f| f.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }
}
