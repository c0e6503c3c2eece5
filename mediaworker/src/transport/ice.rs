//! Our own ICE-lite agent (RFC 8445 §2.5): answers connectivity checks, knows
//! the peer's addresses and which of them carries media.
//!
//! str0m's agent is not used for this, because it follows pair priority and not
//! the latest USE-CANDIDATE, so a client whose address changes would lose media
//! for many seconds, and because it cannot keep two generations of credentials.

use std::time::{Duration, Instant};

use rand::RngExt;
use str0m::ice::{StunMessage, StunMessageBuilder};

use super::{ConnectionKey, Protocol, Tuple};

/// Most ways to the client remembered for one transport; the oldest that does not
/// carry media makes room.
const MAX_TUPLES: usize = 8;

/// Time without an authentic connectivity check after which the peer is taken
/// for gone (RFC 7675 §5.1), where nothing else was asked for.
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Length of the username fragment and of the password, in characters.
const CREDENTIAL_LEN: usize = 32;

/// State of the agent, with the names that clients know from statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IceState {
    /// No authentic check yet.
    New,
    /// Checks arrive, none nominated a pair.
    Connected,
    /// A pair is nominated.
    Completed,
    /// Consent has expired.
    Disconnected,
}

/// Username fragment and password (RFC 8445 §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Username fragment.
    pub ufrag: String,
    /// Password.
    pub password: String,
}

impl Credentials {
    /// Fresh random credentials, 32 characters each.
    pub fn random() -> Self {
        const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut rng = rand::rng();
        let mut text = || {
            (0..CREDENTIAL_LEN)
                .filter_map(|_| ALPHABET.get(rng.random_range(0..ALPHABET.len())))
                .map(|&b| char::from(b))
                .collect::<String>()
        };
        Self {
            ufrag: text(),
            password: text(),
        }
    }
}

/// What a connectivity check led to.
#[derive(Debug)]
pub struct Checked {
    /// The STUN response to send back to where the check came from.
    pub response: Vec<u8>,
    /// The check was authentic: its tuple belongs to this transport.
    pub authentic: bool,
    /// A tuple that is no longer remembered.
    pub forgotten: Option<Tuple>,
}

/// ICE-lite agent of one transport.
#[derive(Debug)]
#[repr(C)]
pub struct IceAgent {
    selected: Option<Tuple>,
    last_check: Option<Instant>,
    consent_timeout: Duration,
    state: IceState,
    /// Only TCP candidates were offered.
    tcp_only: bool,
    /// Ways to the client, each with the time of its last authentic check.
    tuples: Vec<(Tuple, Instant)>,
    local: Credentials,
    /// The generation before a restart; valid until the new one is used.
    previous: Option<Credentials>,
}

impl Default for IceAgent {
    fn default() -> Self {
        Self::new()
    }
}

impl IceAgent {
    /// An agent with random credentials.
    pub fn new() -> Self {
        Self {
            local: Credentials::random(),
            previous: None,
            tuples: Vec::new(),
            selected: None,
            state: IceState::New,
            last_check: None,
            consent_timeout: CONSENT_TIMEOUT,
            tcp_only: false,
        }
    }

    /// Another time than [`CONSENT_TIMEOUT`].
    pub fn set_consent_timeout(&mut self, timeout: Duration) {
        self.consent_timeout = timeout;
    }

    /// Takes no checks over UDP.
    pub fn set_tcp_only(&mut self) {
        self.tcp_only = true;
    }

    /// The current local credentials.
    pub fn credentials(&self) -> &Credentials {
        &self.local
    }

    /// Current state.
    pub fn state(&self) -> IceState {
        self.state
    }

    /// Where media goes, if it can.
    pub fn selected(&self) -> Option<Tuple> {
        self.selected
    }

    /// The same, not copied.
    pub(super) fn way(&self) -> Option<&Tuple> {
        self.selected.as_ref()
    }

    /// Every remembered way to the client.
    pub fn tuples(&self) -> impl Iterator<Item = Tuple> {
        self.tuples.iter().map(|(tuple, _)| *tuple)
    }

    /// Whether an authentic check has come this way within `time`.
    pub fn is_fresh(&self, now: Instant, way: &Tuple, time: Duration) -> bool {
        self.tuples
            .iter()
            .any(|(tuple, at)| tuple.is_same_way(way) && now.saturating_duration_since(*at) < time)
    }

    /// A TCP connection is gone. If it carried media, the way with the latest check
    /// does now, where there is one with consent. Where there is none, the client has
    /// until consent expires to come back.
    pub fn lose(&mut self, now: Instant, connection: ConnectionKey) {
        let gone = Some(connection);
        self.tuples.retain(|(tuple, _)| tuple.connection() != gone);
        if self.selected.and_then(|tuple| tuple.connection()) == gone {
            let consented = self
                .tuples
                .iter()
                .filter(|(_, at)| now.saturating_duration_since(*at) < self.consent_timeout);
            let latest = consented.max_by_key(|(_, at)| *at);
            self.selected = latest.map(|(tuple, _)| *tuple);
        }
    }

    /// Gives up all TCP connections, as is due when consent has expired: a client that
    /// comes back connects again. Returns what is not remembered any more.
    pub fn take_connections(&mut self) -> Vec<Tuple> {
        let is_connection = |(tuple, _): &mut (Tuple, Instant)| tuple.connection().is_some();
        let taken = self.tuples.extract_if(.., is_connection);
        taken.map(|(tuple, _)| tuple).collect()
    }

    /// Username fragments that checks for this transport may carry.
    pub fn ufrags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.local.ufrag.as_str())
            .chain(self.previous.iter().map(|c| c.ufrag.as_str()))
    }

    /// Mints new credentials; the old ones stay valid until the new are used.
    /// Returns a username fragment that is no longer valid, if there is one.
    pub fn restart(&mut self) -> Option<String> {
        let old = std::mem::replace(&mut self.local, Credentials::random());
        self.previous.replace(old).map(|c| c.ufrag)
    }

    /// When consent expires, while it can.
    pub fn consent_deadline(&self) -> Option<Instant> {
        match self.state {
            IceState::Connected | IceState::Completed => {
                self.last_check.map(|t| t + self.consent_timeout)
            }
            IceState::New | IceState::Disconnected => None,
        }
    }

    /// Notices expired consent; true when the state has changed.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.consent_deadline().is_some_and(|t| t <= now) {
            self.state = IceState::Disconnected;
            // RFC 7675 §5.1: nothing may be sent without consent.
            self.selected = None;
            return true;
        }
        false
    }

    /// Handles a binding request for this transport. `None`: not a request that
    /// can be answered.
    pub fn handle_check(
        &mut self,
        now: Instant,
        tuple: Tuple,
        message: &StunMessage<'_>,
    ) -> Option<Checked> {
        if !message.is_binding_request() || (self.tcp_only && tuple.protocol == Protocol::Udp) {
            return None;
        }
        let (ufrag, _) = message.split_username()?;
        let current = ufrag == self.local.ufrag;
        let credentials = if current {
            &self.local
        } else {
            self.previous.as_ref().filter(|c| c.ufrag == ufrag)?
        };
        if !message.verify(credentials.password.as_bytes(), hmac) {
            let response = failure(message, 401, "Unauthorized", None)?;
            return Some(Checked {
                response,
                authentic: false,
                forgotten: None,
            });
        }
        if message.ice_controlled().is_some() {
            // Both sides controlled: we are lite and never control (RFC 8445 §7.3.1.1).
            let response = failure(message, 487, "Role Conflict", Some(credentials))?;
            return Some(Checked {
                response,
                authentic: false,
                forgotten: None,
            });
        }
        let response = encode(
            StunMessage::binding_reply(message.trans_id(), tuple.remote),
            Some(credentials),
        )?;
        if current {
            self.previous = None;
        }
        self.last_check = Some(now);
        let forgotten = self.remember(now, tuple);
        if message.use_candidate() {
            self.selected = Some(tuple);
            self.state = IceState::Completed;
        } else {
            self.selected.get_or_insert(tuple);
            if self.state != IceState::Completed {
                self.state = IceState::Connected;
            }
        }
        Some(Checked {
            response,
            authentic: true,
            forgotten,
        })
    }

    fn remember(&mut self, now: Instant, tuple: Tuple) -> Option<Tuple> {
        let mut tuples = self.tuples.iter_mut();
        let known = tuples.find(|(known, _)| known.is_same_way(&tuple));
        if let Some(known) = known {
            *known = (tuple, now);
            return None;
        }
        let mut forgotten = None;
        if self.tuples.len() >= MAX_TUPLES {
            let is_selected = |tuple: &Tuple| {
                let selected = self.selected.as_ref();
                selected.is_some_and(|selected| selected.is_same_way(tuple))
            };
            let mut tuples = self.tuples.iter();
            let oldest = tuples.position(|(tuple, _)| !is_selected(tuple));
            if let Some(oldest) = oldest {
                forgotten = Some(self.tuples.remove(oldest).0);
            }
        }
        self.tuples.push((tuple, now));
        forgotten
    }
}

/// The username fragment of ours that a STUN request is addressed to.
pub fn local_ufrag<'a>(message: &'a StunMessage<'_>) -> Option<&'a str> {
    message.split_username().map(|(local, _)| local)
}

fn failure(
    message: &StunMessage<'_>,
    code: u16,
    reason: &'static str,
    credentials: Option<&Credentials>,
) -> Option<Vec<u8>> {
    let reply = StunMessageBuilder::new()
        .binding()
        .failure()
        .error_code(code, reason)
        .build(message.trans_id());
    encode(reply, credentials)
}

fn encode(message: StunMessage<'_>, credentials: Option<&Credentials>) -> Option<Vec<u8>> {
    let mut buf = vec![0; 256];
    let password = credentials.map(|c| c.password.as_bytes());
    let len = message.to_bytes(password, &mut buf, hmac).ok()?;
    buf.truncate(len);
    Some(buf)
}

/// HMAC-SHA1 in the shape that str0m's STUN code wants.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    super::crypto::provider()
        .sha1_hmac_provider
        .sha1_hmac(key, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmap::KeyData;
    use std::net::SocketAddr;
    use str0m::ice::TransId;

    fn tuple(port: u16) -> Tuple {
        Tuple {
            remote: SocketAddr::from(([127, 0, 0, 1], port)),
            local: [127, 0, 0, 1].into(),
            protocol: Protocol::Udp,
        }
    }

    fn connection(number: u16) -> Tuple {
        let key = ConnectionKey::from(KeyData::from_ffi(number.into()));
        Tuple {
            protocol: Protocol::Tcp(key),
            ..tuple(number)
        }
    }

    fn request(user: &str, password: &str, controlling: bool, nominate: bool) -> Vec<u8> {
        let mut buf = vec![0; 256];
        let len = StunMessage::binding_request(user, TransId::new(), controlling, 1, 1, nominate)
            .to_bytes(Some(password.as_bytes()), &mut buf, hmac)
            .unwrap();
        buf.truncate(len);
        buf
    }

    fn check(agent: &mut IceAgent, now: Instant, from: Tuple, bytes: &[u8]) -> Option<Checked> {
        let message = StunMessage::parse(bytes).unwrap();
        agent.handle_check(now, from, &message)
    }

    fn error_code(checked: &Checked) -> Option<u16> {
        let reply = StunMessage::parse(&checked.response).unwrap();
        reply.error_code().map(|(code, _)| code)
    }

    #[test]
    fn media_follows_the_latest_nomination() {
        let now = Instant::now();
        let mut agent = IceAgent::new();
        let c = agent.credentials().clone();
        let user = format!("{}:them", c.ufrag);
        let plain = request(&user, &c.password, true, false);
        let nominate = request(&user, &c.password, true, true);
        check(&mut agent, now, tuple(1), &plain).unwrap();
        assert_eq!(agent.state(), IceState::Connected);
        assert_eq!(agent.selected(), Some(tuple(1)));
        check(&mut agent, now, tuple(2), &plain).unwrap();
        assert_eq!(agent.selected(), Some(tuple(1)), "not nominated");
        check(&mut agent, now, tuple(2), &nominate).unwrap();
        assert_eq!(agent.state(), IceState::Completed);
        assert_eq!(agent.selected(), Some(tuple(2)));
    }

    #[test]
    fn wrong_password_and_wrong_role_change_nothing() {
        let now = Instant::now();
        let mut agent = IceAgent::new();
        let c = agent.credentials().clone();
        let user = format!("{}:them", c.ufrag);
        let bad = check(&mut agent, now, tuple(1), &request(&user, "x", true, true)).unwrap();
        assert_eq!((error_code(&bad), bad.authentic), (Some(401), false));
        let controlled = request(&user, &c.password, false, true);
        let bad = check(&mut agent, now, tuple(1), &controlled).unwrap();
        assert_eq!((error_code(&bad), bad.authentic), (Some(487), false));
        let other = request("nobody:them", &c.password, true, true);
        assert!(check(&mut agent, now, tuple(1), &other).is_none());
        assert_eq!(agent.state(), IceState::New);
        assert_eq!(agent.selected(), None);
    }

    #[test]
    fn old_credentials_live_until_the_new_are_used() {
        let now = Instant::now();
        let mut agent = IceAgent::new();
        let old = agent.credentials().clone();
        assert_eq!(agent.restart(), None);
        let new = agent.credentials().clone();
        assert_ne!(old, new);
        let with_old = request(&format!("{}:t", old.ufrag), &old.password, true, true);
        let with_new = request(&format!("{}:t", new.ufrag), &new.password, true, true);
        assert!(
            check(&mut agent, now, tuple(1), &with_old)
                .unwrap()
                .authentic
        );
        assert!(
            check(&mut agent, now, tuple(1), &with_new)
                .unwrap()
                .authentic
        );
        assert!(check(&mut agent, now, tuple(1), &with_old).is_none());
    }

    #[test]
    fn consent_expires_and_comes_back() {
        let now = Instant::now();
        let mut agent = IceAgent::new();
        let c = agent.credentials().clone();
        let nominate = request(&format!("{}:t", c.ufrag), &c.password, true, true);
        check(&mut agent, now, tuple(1), &nominate).unwrap();
        let almost = now + CONSENT_TIMEOUT - Duration::from_millis(1);
        assert_eq!(agent.consent_deadline(), Some(now + CONSENT_TIMEOUT));
        assert!(!agent.handle_timeout(almost));
        assert!(agent.handle_timeout(now + CONSENT_TIMEOUT));
        assert_eq!(agent.state(), IceState::Disconnected);
        assert_eq!(agent.selected(), None);
        let later = now + CONSENT_TIMEOUT * 2;
        check(&mut agent, later, tuple(2), &nominate).unwrap();
        assert_eq!(agent.selected(), Some(tuple(2)));
        assert_eq!(agent.state(), IceState::Completed);
    }

    #[test]
    fn addresses_are_bounded_and_the_selected_one_stays() {
        let now = Instant::now();
        let mut agent = IceAgent::new();
        let c = agent.credentials().clone();
        let user = format!("{}:t", c.ufrag);
        let plain = request(&user, &c.password, true, false);
        for port in 1..=20 {
            let checked = check(&mut agent, now, tuple(port), &plain).unwrap();
            assert_eq!(checked.forgotten.is_some(), port > 8);
        }
        assert_eq!(agent.tuples().count(), MAX_TUPLES);
        assert_eq!(agent.tuples().next(), Some(tuple(1)), "selected");
        assert!(agent.is_fresh(now, &tuple(20), Duration::from_secs(1)));
        assert!(!agent.is_fresh(now, &tuple(2), Duration::from_secs(1)));
        assert!(!agent.is_fresh(now, &connection(20), Duration::from_secs(1)));
    }

    #[test]
    fn a_lost_connection_leaves_media_to_the_latest_other_way() {
        let start = Instant::now();
        let mut agent = IceAgent::new();
        let c = agent.credentials().clone();
        let user = format!("{}:t", c.ufrag);
        let plain = request(&user, &c.password, true, false);
        let nominate = request(&user, &c.password, true, true);
        let second = |n| start + Duration::from_secs(n);
        let lose = |agent: &mut IceAgent, at: u64, number: u16| {
            agent.lose(second(at), connection(number).connection().unwrap());
        };
        // The same address over UDP is another way.
        check(&mut agent, second(0), tuple(1), &plain).unwrap();
        check(&mut agent, second(1), connection(2), &plain).unwrap();
        check(&mut agent, second(2), connection(1), &nominate).unwrap();
        assert_eq!(agent.tuples().count(), 3);
        lose(&mut agent, 3, 1);
        assert_eq!(agent.selected(), Some(connection(2)));
        lose(&mut agent, 3, 2);
        assert_eq!(agent.selected(), Some(tuple(1)));
        assert_eq!(agent.state(), IceState::Completed);

        // A way without consent is none.
        check(&mut agent, second(31), connection(3), &nominate).unwrap();
        lose(&mut agent, 31, 3);
        assert_eq!(
            (agent.selected(), agent.state()),
            (None, IceState::Completed)
        );
        assert_eq!(agent.consent_deadline(), Some(second(61)));
        // And a client that is back needs to nominate nothing for its media.
        check(&mut agent, second(32), connection(4), &plain).unwrap();
        assert_eq!(agent.selected(), Some(connection(4)));

        assert!(agent.handle_timeout(second(62)));
        assert_eq!(agent.take_connections(), [connection(4)]);
        assert_eq!(agent.tuples().collect::<Vec<_>>(), [tuple(1)]);
    }

    #[test]
    fn udp_is_refused_where_only_tcp_was_offered() {
        let now = Instant::now();
        let mut agent = IceAgent::new();
        agent.set_tcp_only();
        let c = agent.credentials().clone();
        let nominate = request(&format!("{}:t", c.ufrag), &c.password, true, true);
        assert!(check(&mut agent, now, tuple(1), &nominate).is_none());
        assert_eq!(agent.state(), IceState::New);
        check(&mut agent, now, connection(1), &nominate).unwrap();
        assert_eq!(agent.selected(), Some(connection(1)));
    }
}
