//! Our own ICE-lite agent (RFC 8445 §2.5): answers connectivity checks, knows
//! the peer's addresses and which of them carries media.
//!
//! str0m's agent is not used for this, because it follows pair priority and not
//! the latest USE-CANDIDATE, so a client whose address changes would lose media
//! for many seconds, and because it cannot keep two generations of credentials.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use str0m::ice::{StunMessage, StunMessageBuilder};

use super::Tuple;

/// Most remote addresses remembered for one transport; the oldest that does not
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
    pub forgotten: Option<SocketAddr>,
}

/// ICE-lite agent of one transport.
#[derive(Debug)]
pub struct IceAgent {
    local: Credentials,
    /// The generation before a restart; valid until the new one is used.
    previous: Option<Credentials>,
    /// Remote addresses, each with the time of its last authentic check.
    tuples: Vec<(Tuple, Instant)>,
    selected: Option<Tuple>,
    state: IceState,
    last_check: Option<Instant>,
    consent_timeout: Duration,
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
        }
    }

    /// Another time than [`CONSENT_TIMEOUT`].
    pub fn set_consent_timeout(&mut self, timeout: Duration) {
        self.consent_timeout = timeout;
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

    /// Every remembered remote address.
    pub fn tuples(&self) -> impl Iterator<Item = Tuple> {
        self.tuples.iter().map(|(tuple, _)| *tuple)
    }

    /// Whether an authentic check has come from this address within `time`.
    pub fn is_fresh(&self, now: Instant, remote: SocketAddr, time: Duration) -> bool {
        self.tuples
            .iter()
            .any(|(tuple, at)| tuple.remote == remote && now.saturating_duration_since(*at) < time)
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
        if !message.is_binding_request() {
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

    fn remember(&mut self, now: Instant, tuple: Tuple) -> Option<SocketAddr> {
        let known = self
            .tuples
            .iter_mut()
            .find(|(t, _)| t.remote == tuple.remote);
        if let Some(known) = known {
            *known = (tuple, now);
            return None;
        }
        let mut forgotten = None;
        if self.tuples.len() >= MAX_TUPLES {
            let selected = self.selected.map(|t| t.remote);
            let oldest = self
                .tuples
                .iter()
                .position(|(t, _)| Some(t.remote) != selected);
            if let Some(oldest) = oldest {
                forgotten = Some(self.tuples.remove(oldest).0.remote);
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
    use crate::transport::Protocol;
    use str0m::ice::TransId;

    fn tuple(port: u16) -> Tuple {
        Tuple {
            remote: SocketAddr::from(([127, 0, 0, 1], port)),
            local: [127, 0, 0, 1].into(),
            protocol: Protocol::Udp,
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
        assert!(agent.is_fresh(now, tuple(20).remote, Duration::from_secs(1)));
        assert!(!agent.is_fresh(now, tuple(2).remote, Duration::from_secs(1)));
    }
}
