//! Which transport a way to a client belongs to, and what whoever holds the TCP
//! connections has to be told of them, and tells.

use std::time::Instant;

use super::{Engine, TransportKey};
use crate::transport::ice::IceState;
use crate::transport::{ConnectionKey, Protocol, TransportError, Tuple};

/// Something about a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionNote {
    /// It belongs to a transport: an authentic connectivity check has come over it.
    Claimed(ConnectionKey),
    /// No transport needs it any more.
    Released(ConnectionKey),
}

impl Engine {
    /// What there is to tell of TCP connections; at most twice the number of those
    /// that are open. What [`Engine::send_off`] has to send over them comes before.
    pub fn take_connection_notes(&mut self) -> Vec<ConnectionNote> {
        std::mem::take(&mut self.connection_notes)
    }

    /// A TCP connection is gone, or never was there.
    pub fn connection_closed(&mut self, now: Instant, connection: ConnectionKey) {
        let Some(key) = self.by_connection.remove(connection) else {
            return;
        };
        self.enter(now, key, |transport, out| {
            if let Some(transport) = transport.web_rtc_mut() {
                transport.lose_connection(now, connection, out);
            }
        });
    }

    /// More waits on a TCP connection than it can take for now, or no longer.
    pub fn set_connection_slow(&mut self, now: Instant, connection: ConnectionKey, slow: bool) {
        let Some(key) = self.by_connection.get(connection).copied() else {
            return;
        };
        self.enter(now, key, |transport, out| {
            if let Some(transport) = transport.web_rtc_mut() {
                transport.set_slow(connection, slow, out);
            }
        });
    }

    /// The transport that a way belongs to.
    pub(super) fn owner(&self, way: &Tuple) -> Option<TransportKey> {
        match way.protocol {
            Protocol::Udp => self.by_address.get(&way.remote).copied(),
            Protocol::Tcp(connection) => self.by_connection.get(connection).copied(),
            Protocol::OwnPort(port) => self.plain.transport(port),
        }
    }

    /// A way belongs to a transport from now on. For the one that had its connection
    /// before it is gone.
    pub(super) fn claim(&mut self, now: Instant, key: TransportKey, way: Tuple) {
        match way.protocol {
            Protocol::Udp => {
                self.by_address.insert(way.remote, key);
            }
            Protocol::Tcp(connection) => {
                let before = self.by_connection.get(connection).copied();
                match before {
                    Some(before) if before == key => return,
                    Some(_) => self.connection_closed(now, connection),
                    None => {
                        let note = ConnectionNote::Claimed(connection);
                        self.connection_notes.push(note);
                    }
                }
                self.by_connection.insert(connection, key);
            }
            // Those are a transport's from its creation to its end.
            Protocol::OwnPort(_) => {}
        }
    }

    /// A way does not belong to a transport any more, if it still did.
    pub(super) fn forget(&mut self, key: TransportKey, way: &Tuple) {
        if self.owner(way) != Some(key) {
            return;
        }
        match way.protocol {
            Protocol::Udp => {
                self.by_address.remove(&way.remote);
            }
            Protocol::Tcp(connection) => {
                self.by_connection.remove(connection);
                let note = ConnectionNote::Released(connection);
                self.connection_notes.push(note);
            }
            Protocol::OwnPort(_) => {}
        }
    }

    /// Gives up the connections of a transport whose client is gone.
    pub(super) fn release_connections(&mut self, key: TransportKey) {
        let entry = self.transports.get_mut(key);
        let Some(transport) = entry.and_then(|entry| entry.inner.web_rtc_mut()) else {
            return;
        };
        if transport.ice().state() == IceState::Disconnected {
            for way in transport.take_connections() {
                self.forget(key, &way);
            }
        }
    }

    /// Whether a transport can be reached over TCP at all.
    pub(super) fn check_tcp(&self) -> Result<(), TransportError> {
        match self.config.tcp {
            true => Ok(()),
            false => Err(TransportError::Invalid(format!(
                "forceTcp: this server has no ICE over TCP now, for it cannot listen on TCP \
                 port {}",
                self.config.udp_port
            ))),
        }
    }
}
