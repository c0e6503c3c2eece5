//! A router that translates addresses (NAT), between clients and the port for media of a
//! server: each client gets a port of its own there, and another one when that is
//! forgotten in the middle of a call, as routers do that restart or run out of memory.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use crate::server::{Options, Server, media_ports};

/// Longest time until a thread notices that there is nothing more to do.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Where clients find the server.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

/// The router; its threads end with this value.
pub struct Nat {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// What clients take for the server.
    inside: UdpSocket,
    server: SocketAddr,
    /// The port that each client has towards the server.
    outside: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    ended: AtomicBool,
}

impl Nat {
    /// A server with one worker, and the router that is the only way to its media.
    pub fn serve() -> (Server, Self) {
        let port = media_ports();
        let inside = UdpSocket::bind((INSIDE, port)).unwrap();
        inside.set_read_timeout(Some(LOOK_UP)).unwrap();
        let shared = Arc::new(Shared {
            inside,
            server: SocketAddr::from(([127, 0, 0, 1], port)),
            outside: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let running = Arc::clone(&shared);
        let nat = Self {
            shared,
            thread: Some(spawn(move || running.forward())),
        };
        let server = Options::new()
            .env("MEDIASOUP_NUM_WORKERS", 1)
            .env("MEDIASOUP_MIN_PORT", port)
            .env("MEDIASOUP_MAX_PORT", port + 39)
            .env("MEDIASOUP_ANNOUNCED_IP", INSIDE)
            .start();
        (server, nat)
    }

    /// Forgets which client a port is for: what is sent there is lost, and what the
    /// client sends next comes from another one.
    pub fn forget(&self, port: u16) {
        let mut outside = self.shared.outside.lock().unwrap();
        let known = outside.len();
        outside.retain(|_, socket| socket.local_addr().unwrap().port() != port);
        assert_eq!(outside.len() + 1, known, "{port} is the port of one client");
    }
}

impl Shared {
    /// From the clients to the server.
    fn forward(self: &Arc<Self>) {
        let mut buffer = [0; 2048];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((len, client)) = self.inside.recv_from(&mut buffer) else {
                continue;
            };
            let outside = Arc::clone(
                self.outside
                    .lock()
                    .unwrap()
                    .entry(client)
                    .or_insert_with(|| self.open(client)),
            );
            // A server that is gone is the test's business.
            let _ = outside.send_to(&buffer[..len], self.server);
        }
    }

    fn open(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.set_read_timeout(Some(LOOK_UP)).unwrap();
        let (shared, outside) = (Arc::clone(self), Arc::clone(&socket));
        spawn(move || shared.back(client, &outside));
        socket
    }

    /// From the server to a client, while the port is the client's.
    fn back(&self, client: SocketAddr, outside: &Arc<UdpSocket>) {
        let mut buffer = [0; 2048];
        while !self.ended.load(Ordering::Relaxed) {
            let received = outside.recv(&mut buffer);
            let current = self.outside.lock().unwrap().get(&client).cloned();
            if current.is_none_or(|current| !Arc::ptr_eq(&current, outside)) {
                return;
            }
            if let Ok(len) = received {
                let _ = self.inside.send_to(&buffer[..len], client);
            }
        }
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
