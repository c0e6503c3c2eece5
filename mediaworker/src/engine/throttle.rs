//! Network throttling of single transports, on request of their peers.

use std::time::{Duration, Instant};

use str0m::ice::StunMessage;

use super::timers::Timer;
use super::{CommandError, Engine, TransportKey};
use crate::transport::throttle::{Conditions, Link};
use crate::transport::{Datagram, PacketKind, Protocol, TransportError, Tuple, ice};

/// Longest delay that can be added to a round trip.
const MAX_RTT: Duration = Duration::from_secs(10);

/// The network between one transport and its client.
#[derive(Debug)]
pub struct Throttle {
    uplink: Link<Datagram>,
    downlink: Link<Datagram>,
    timer: Option<Instant>,
}

impl Throttle {
    fn next(&self) -> Option<Instant> {
        [self.uplink.next(), self.downlink.next()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Engine {
    /// Makes transports behave as over a bad network, or as before; what is
    /// under way then is delivered at once. Transports that are not there, for
    /// they may have just died, are passed over.
    ///
    /// # Errors
    /// A [`TransportError::Invalid`] that names the field; nothing has changed
    /// then.
    pub fn set_network_throttle(
        &mut self,
        now: Instant,
        request: &proto::SetNetworkThrottleRequest,
    ) -> Result<(), CommandError> {
        let links = request.throttle.as_ref().map(conditions).transpose()?;
        for id in &request.transport_ids {
            let Ok(key) = self.transport(id) else {
                continue;
            };
            match links {
                Some((uplink, downlink)) => self.throttle(now, key, uplink, downlink),
                None => self.end_throttle(now, key),
            }
        }
        Ok(())
    }

    fn throttle(
        &mut self,
        now: Instant,
        key: TransportKey,
        uplink: Conditions,
        downlink: Conditions,
    ) {
        let Some(entry) = self.transports.get_mut(key) else {
            return;
        };
        if let Some(throttle) = entry.throttle.as_mut() {
            throttle.uplink.set(now, uplink);
            throttle.downlink.set(now, downlink);
            return;
        }
        entry.throttle = Some(Box::new(Throttle {
            uplink: Link::new(uplink),
            downlink: Link::new(downlink),
            timer: None,
        }));
        self.throttled += 1;
    }

    fn end_throttle(&mut self, now: Instant, key: TransportKey) {
        let throttle = self.transports.get_mut(key).and_then(|t| t.throttle.take());
        let Some(mut throttle) = throttle else { return };
        self.forget_throttle(key, &mut throttle);
        for (tuple, datagram) in throttle.uplink.drain() {
            self.admit(now, now, tuple, &datagram);
        }
    }

    /// Ends the throttle of a transport that is gone or free again: what is
    /// under way to the client leaves.
    pub(super) fn forget_throttle(&mut self, key: TransportKey, throttle: &mut Throttle) {
        self.throttled = self.throttled.saturating_sub(1);
        self.timers
            .set(Timer::Throttle(key), &mut throttle.timer, None);
        self.datagrams.extend(throttle.downlink.drain());
    }

    /// Holds back a datagram for a throttled transport, as if it had come just now and will
    /// come again when it passes. False: it is for another one, and nothing was done.
    pub(super) fn hold_uplink(&mut self, now: Instant, tuple: Tuple, datagram: &[u8]) -> bool {
        let key = match PacketKind::of(datagram) {
            _ if matches!(tuple.protocol, Protocol::OwnPort(_)) => self.owner(&tuple),
            Some(PacketKind::Stun) => StunMessage::parse(datagram)
                .ok()
                .and_then(|message| self.by_ufrag.get(ice::local_ufrag(&message)?).copied()),
            Some(_) => self.owner(&tuple),
            None => None,
        };
        let Some(key) = key else {
            return false;
        };
        let Some(throttle) = self
            .transports
            .get_mut(key)
            .and_then(|t| t.throttle.as_mut())
        else {
            return false;
        };
        let held = (tuple, datagram.to_vec());
        throttle
            .uplink
            .push(now, datagram.len(), rand::random(), held);
        self.arm_throttle(key);
        true
    }

    /// Sends a transport's datagrams, or holds them back.
    pub(super) fn send(&mut self, now: Instant, key: TransportKey, datagrams: &mut Vec<Datagram>) {
        if self.throttled == 0 {
            self.datagrams.append(datagrams);
            return;
        }
        let entry = self.transports.get_mut(key);
        let Some(throttle) = entry.and_then(|t| t.throttle.as_mut()) else {
            self.datagrams.append(datagrams);
            return;
        };
        for (tuple, mut datagram) in datagrams.drain(..) {
            let len = datagram.len();
            // It may have had the room of a longer one, and there may be many.
            datagram.shrink_to_fit();
            throttle
                .downlink
                .push(now, len, rand::random(), (tuple, datagram));
        }
        self.arm_throttle(key);
    }

    /// Lets pass what has arrived.
    pub(super) fn release(&mut self, now: Instant, key: TransportKey) {
        if let Some(throttle) = self
            .transports
            .get_mut(key)
            .and_then(|t| t.throttle.as_mut())
        {
            throttle.timer = None;
        }
        // What is admitted may lead to more that is held, or end the transport.
        while let Some(throttle) = self
            .transports
            .get_mut(key)
            .and_then(|t| t.throttle.as_mut())
        {
            if let Some(datagram) = throttle.downlink.pop(now) {
                self.datagrams.push(datagram);
            } else if let Some((tuple, datagram)) = throttle.uplink.pop(now) {
                self.admit(now, now, tuple, &datagram);
            } else {
                break;
            }
        }
        self.arm_throttle(key);
    }

    fn arm_throttle(&mut self, key: TransportKey) {
        if let Some(throttle) = self
            .transports
            .get_mut(key)
            .and_then(|t| t.throttle.as_mut())
        {
            let next = throttle.next();
            self.timers
                .set(Timer::Throttle(key), &mut throttle.timer, next);
        }
    }
}

/// Up and down.
fn conditions(
    throttle: &proto::NetworkThrottle,
) -> Result<(Conditions, Conditions), TransportError> {
    let &proto::NetworkThrottle {
        uplink_bitrate,
        downlink_bitrate,
        rtt_ms,
        packet_loss,
    } = throttle;
    if !(0.0..=1.0).contains(&packet_loss) {
        return Err(TransportError::Invalid(format!(
            "throttle.packet_loss: {packet_loss} is not in 0..=1"
        )));
    }
    let rtt = Duration::from_millis(rtt_ms.into());
    if rtt > MAX_RTT {
        return Err(TransportError::Invalid(format!(
            "throttle.rtt_ms: {rtt_ms} is more than {}",
            MAX_RTT.as_millis()
        )));
    }
    let link = |bitrate| Conditions {
        bitrate,
        delay: rtt / 2,
        loss: packet_loss,
    };
    Ok((link(uplink_bitrate), link(downlink_bitrate)))
}
