//! What new transports have in common: their place in the tables, and the addresses
//! that they are reached at.

use std::rc::Rc;

use super::bursts::Backlog;
use super::commands::{Result, exists, limit};
use super::{Engine, MAX_TRANSPORTS, RouterKey, TransportEntry, TransportKey};
use crate::transport::kind::Transport;
use crate::transport::webrtc::RouterMedia;

/// Type preference of host candidates in mediasoup's priorities; a whole 64 of
/// the 126 that RFC 8445 §5.1.2.2 recommends, so that it never wins over one
/// that the client has itself.
const HOST_TYPE_PREFERENCE: u32 = 64;
/// Local preference of the first announced address over UDP; each later one has
/// `LOCAL_PREFERENCE_STEP` less, and those over TCP come after all of them.
const FIRST_LOCAL_PREFERENCE: u32 = 10_000;
const LOCAL_PREFERENCE_STEP: u32 = 100;

impl Engine {
    /// The router that a new transport is for, and what its consumers receive, if
    /// there is a place for another transport.
    pub(super) fn place_for(
        &self,
        router_id: &str,
        transport_id: &str,
    ) -> Result<(RouterKey, Rc<RouterMedia>)> {
        let router = self.router(router_id)?;
        if self.transport_ids.contains_key(transport_id) {
            return Err(exists("transport", transport_id));
        }
        if self.transports.len() >= MAX_TRANSPORTS {
            return Err(limit("transports", MAX_TRANSPORTS));
        }
        let media = self
            .routers
            .get(router)
            .map(|entry| Rc::clone(&entry.media));
        Ok((router, media.unwrap_or_default()))
    }

    /// Enters a transport into the tables that all of them are in.
    pub(super) fn insert_transport(
        &mut self,
        id: &str,
        router: RouterKey,
        inner: Transport,
    ) -> TransportKey {
        let key = self.transports.insert(TransportEntry {
            id: id.to_owned(),
            router,
            inner,
            timer: None,
            dirty: false,
            advance: false,
            broken: false,
            restarted: false,
            throttle: None,
            sharing: None,
            backlog: Backlog::default(),
        });
        self.transport_ids.insert(id.to_owned(), key);
        key
    }

    /// The candidates of a transport, the preferred first: UDP before TCP.
    pub(super) fn candidates(&self, tcp_only: bool) -> Vec<proto::IceCandidate> {
        let announced = || self.config.announced.iter();
        let udp = announced().map(|address| (address, "udp"));
        let tcp = announced().map(|address| (address, "tcp"));
        udp.chain(tcp)
            .zip(0u32..)
            .filter(|((_, protocol), _)| match *protocol {
                "udp" => !tcp_only,
                _ => self.config.tcp,
            })
            .map(|((address, protocol), index)| {
                let preference =
                    FIRST_LOCAL_PREFERENCE.saturating_sub(index * LOCAL_PREFERENCE_STEP);
                proto::IceCandidate {
                    foundation: format!("{protocol}candidate"),
                    // RFC 8445 §5.1.2.1, component 1.
                    priority: (HOST_TYPE_PREFERENCE << 24) + (preference << 8) + 255,
                    address: address.0.clone(),
                    port: self.config.udp_port.into(),
                    protocol: protocol.to_owned(),
                }
            })
            .collect()
    }
}
