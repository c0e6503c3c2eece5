//! Plain transports: their commands, and the way of their datagrams to them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::commands::{not_found, wrong_kind};
use super::{AnnouncedAddress, CommandError, Engine, TransportKey};
use crate::transport::Tuple;
use crate::transport::kind::Transport;
use crate::transport::plain::{Channel, OwnPorts, PlainTransport, Taken, WallClock};

/// Plain transports, by their ports.
pub(super) struct Plain {
    by_port: HashMap<u16, (TransportKey, Channel)>,
    /// Ports of transports that are gone.
    released: Vec<u16>,
    clock: WallClock,
    /// Makes names of routers that tell nothing about them.
    names: RandomState,
}

impl Plain {
    pub(super) fn new(clock: WallClock) -> Self {
        Self {
            by_port: HashMap::new(),
            released: Vec::new(),
            clock,
            names: RandomState::new(),
        }
    }

    /// The transport that a port belongs to.
    pub(super) fn transport(&self, port: u16) -> Option<TransportKey> {
        self.by_port.get(&port).map(|(key, _)| *key)
    }

    /// A transport is gone.
    pub(super) fn release(&mut self, ports: OwnPorts) {
        for port in ports.iter() {
            self.by_port.remove(&port);
            self.released.push(port);
        }
    }
}

impl Engine {
    /// Creates a plain transport on ports that are bound already. When this fails they
    /// are still the caller's; else [`Engine::take_released_ports`] tells when they
    /// are free again.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn create_plain_transport(
        &mut self,
        request: &proto::CreatePlainTransportRequest,
        ports: OwnPorts,
    ) -> Result<proto::CreatePlainTransportResponse, CommandError> {
        let (router, media) = self.place_for(&request.router_id, &request.transport_id)?;
        // Streams of one room belong together, whatever transport they are on.
        let name = format!("{:016x}", self.plain.names.hash_one(&request.router_id));
        let clock = self.plain.clock;
        let mut inner = PlainTransport::new(media, clock, ports, request.comedia, name);
        let wanted = request
            .srtp_crypto_suite
            .map(|_| request.srtp_crypto_suite());
        let srtp = wanted.map(|suite| inner.encrypt(suite)).transpose()?;
        let inner = Transport::Plain(Box::new(inner));
        let key = self.insert_transport(&request.transport_id, router, inner);
        self.plain.by_port.insert(ports.rtp, (key, Channel::Rtp));
        if let Some(rtcp) = ports.rtcp {
            self.plain.by_port.insert(rtcp, (key, Channel::Rtcp));
        }
        let announced = self.config.announced.iter().map(|it| it.0.clone());
        Ok(proto::CreatePlainTransportResponse {
            address: self.announced_address(None),
            addresses: announced.collect(),
            port: ports.rtp.into(),
            rtcp_port: ports.rtcp.map(Into::into),
            srtp,
        })
    }

    /// Says where the remote of a plain transport is.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id; a second call is refused.
    pub fn connect_plain_transport(
        &mut self,
        now: Instant,
        request: &proto::ConnectPlainTransportRequest,
    ) -> Result<proto::ConnectPlainTransportResponse, CommandError> {
        let key = self.transport(&request.transport_id)?;
        let mut result = Err(not_found("transport", &request.transport_id));
        self.enter(now, key, |transport, _| {
            result = match transport.plain_mut() {
                Some(transport) => transport.connect(request).map_err(Into::into),
                None => Err(wrong_kind("PlainTransport").into()),
            };
        });
        result
    }

    /// Ports whose transports are gone since the last call. What [`Engine::send_off`]
    /// has to send from them comes before.
    pub fn take_released_ports(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.plain.released)
    }

    /// Takes in a datagram from a port of a plain transport.
    pub(super) fn admit_plain(
        &mut self,
        now: Instant,
        came: Instant,
        port: u16,
        from: Tuple,
        datagram: &[u8],
    ) {
        let Some((key, channel)) = self.plain.by_port.get(&port).copied() else {
            self.counters.dropped.unknown += 1;
            return;
        };
        let mut taken = Taken::Refused;
        self.enter(now, key, |transport, out| {
            if let Some(transport) = transport.plain_mut() {
                taken = transport.receive(now, came, from, channel, datagram, out);
            }
        });
        let dropped = &mut self.counters.dropped;
        match taken {
            Taken::Used => {}
            Taken::Unparsable => dropped.unparsable += 1,
            Taken::Foreign => dropped.unknown += 1,
            Taken::TooLong => dropped.too_long += 1,
            Taken::WrongStream => dropped.wrong_stream += 1,
            Taken::FalseReport => dropped.false_reports += 1,
            Taken::Refused => dropped.refused += 1,
        }
    }

    /// A datagram that left a port of a plain transport came to nobody.
    pub fn unreachable(&mut self, now: Instant, port: u16, to: SocketAddr) {
        let Some((key, channel)) = self.plain.by_port.get(&port).copied() else {
            return;
        };
        let mut failed = None;
        self.enter(now, key, |transport, _| {
            let transport = transport.plain_mut();
            failed = transport.and_then(|transport| transport.fail(now, channel, to));
        });
        let Some(is_news) = failed else { return };
        self.counters.unreachable += 1;
        if is_news && let Some(entry) = self.transports.get(key) {
            tracing::info!(transport = %entry.id, %to, "nobody is there to receive plain RTP");
        }
    }

    /// The addresses of a plain transport's two ends.
    pub(super) fn plain_stats(&self, transport: &PlainTransport) -> proto::PlainTransportStats {
        let remote = transport.remote();
        let ports = remote.ports();
        let tuple = |port: u16, way: Option<Tuple>| proto::Tuple {
            local_address: self.announced_address(way),
            local_port: port.into(),
            remote_address: way.map_or_else(String::new, |way| way.remote.ip().to_string()),
            remote_port: way.map_or(0, |way| way.remote.port().into()),
            protocol: "udp".to_owned(),
        };
        proto::PlainTransportStats {
            rtcp_mux: remote.is_muxed(),
            comedia: remote.is_comedia(),
            tuple: Some(tuple(ports.rtp, remote.rtp())),
            rtcp_tuple: ports.rtcp.map(|port| tuple(port, remote.rtcp())),
        }
    }

    /// The preferred announced address, of the IP version of a way if there is one.
    fn announced_address(&self, way: Option<Tuple>) -> String {
        let announced = &self.config.announced;
        let is_same = |ip: IpAddr| way.is_some_and(|way| way.remote.is_ipv4() == ip.is_ipv4());
        let is_fit = |address: &&AnnouncedAddress| address.0.parse().is_ok_and(is_same);
        let found = announced.iter().find(is_fit).or(announced.first());
        found.map_or_else(String::new, |address| address.0.clone())
    }
}
