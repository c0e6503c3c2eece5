//! SRTP and SRTCP (RFC 3711, RFC 7714) for plain transports, with keys that signaling
//! exchanges, and what comes from WebRTC clients. What leaves for those is done by
//! [`super::sealing`].

mod replay;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use proto::SrtpCryptoSuite;
use str0m::crypto::dtls::SrtpProfile;

use super::sealing::{KeyMaterial, gcm_nonce, gcm_salt};
use super::{FastMap, TransportError, guard};
use replay::Window;

/// Octets of a salt with AES-GCM (RFC 7714 §8.1) and in counter mode.
const GCM_SALT: usize = 12;
const CM_SALT: usize = 14;
/// Octets of a tag with AES-GCM.
const GCM_TAG: usize = 16;
/// Octets of the key that authenticates in counter mode.
const AUTH_KEY: usize = 20;
/// RTCP: header and sender's SSRC stay in the clear.
const RTCP_CLEAR: usize = 8;
/// RTCP: the E flag and the index at the end.
const RTCP_INDEX: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
/// Streams of a remote whose packets are told from replayed ones. Only authentic
/// ones count; more than a transport can have are not opened.
const MAX_RTP_STREAMS: usize = 4096;
/// The same for those that it reports by.
const MAX_RTCP_STREAMS: usize = 512;

// Labels of the key derivation (RFC 3711 §4.3.1).
const LABEL_RTP_KEY: u8 = 0;
const LABEL_RTP_AUTH: u8 = 1;
const LABEL_RTP_SALT: u8 = 2;
const LABEL_RTCP_KEY: u8 = 3;
const LABEL_RTCP_AUTH: u8 = 4;
const LABEL_RTCP_SALT: u8 = 5;

/// How packets are encrypted and authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES in Galois/counter mode; octets of the key.
    Gcm {
        /// 16 or 32.
        key: usize,
    },
    /// AES-128 in counter mode with HMAC-SHA1; octets of the tag of RTP.
    CounterMode {
        /// 10 or 4. RTCP always has 10.
        tag: usize,
    },
}

impl Suite {
    /// The suite of a request.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for none.
    pub fn of(suite: SrtpCryptoSuite) -> Result<Self, TransportError> {
        Ok(match suite {
            SrtpCryptoSuite::AeadAes256Gcm => Self::Gcm { key: 32 },
            SrtpCryptoSuite::AeadAes128Gcm => Self::Gcm { key: 16 },
            SrtpCryptoSuite::AesCm128HmacSha180 => Self::CounterMode { tag: 10 },
            SrtpCryptoSuite::AesCm128HmacSha132 => Self::CounterMode { tag: 4 },
            SrtpCryptoSuite::Unspecified => {
                let text = "srtpParameters.cryptoSuite: is missing";
                return Err(TransportError::Invalid(text.into()));
            }
        })
    }

    fn key_len(self) -> usize {
        match self {
            Self::Gcm { key } => key,
            Self::CounterMode { .. } => 16,
        }
    }

    fn salt_len(self) -> usize {
        match self {
            Self::Gcm { .. } => GCM_SALT,
            Self::CounterMode { .. } => CM_SALT,
        }
    }

    /// Octets of master key and salt.
    pub fn material_len(self) -> usize {
        self.key_len() + self.salt_len()
    }
}

/// The keys of one kind of packet in one direction.
enum Cipher {
    Gcm {
        key: Box<LessSafeKey>,
        /// By [`gcm_salt`].
        salt: u128,
    },
    CounterMode {
        key: Box<EncryptingKey>,
        /// Shifted to where it belongs in the counter.
        salt: u128,
        auth: Box<hmac::Key>,
        tag: usize,
    },
}

impl Cipher {
    /// For RTP, or for RTCP, out of master key and salt.
    fn derive(suite: Suite, master: &[u8], salt: &[u8], labels: [u8; 3]) -> Option<Self> {
        let [key_label, auth_label, salt_label] = labels;
        let mut key = vec![0; master.len()];
        derive(master, salt, key_label, &mut key)?;
        let mut session_salt = [0; 16];
        let wanted = session_salt.get_mut(..salt.len())?;
        derive(master, salt, salt_label, wanted)?;
        Some(match suite {
            Suite::Gcm { key: len } => {
                let algorithm = if len == 16 {
                    &AES_128_GCM
                } else {
                    &AES_256_GCM
                };
                Self::Gcm {
                    key: Box::new(LessSafeKey::new(UnboundKey::new(algorithm, &key).ok()?)),
                    salt: gcm_salt(session_salt),
                }
            }
            Suite::CounterMode { tag } => {
                let mut auth = [0; AUTH_KEY];
                derive(master, salt, auth_label, &mut auth)?;
                let key = UnboundCipherKey::new(&AES_128, &key).ok()?;
                Self::CounterMode {
                    key: Box::new(EncryptingKey::ctr(key).ok()?),
                    salt: u128::from_be_bytes(session_salt),
                    auth: Box::new(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &auth)),
                    tag,
                }
            }
        })
    }

    /// Encrypts what follows `clear` octets of a packet, and appends the tag.
    /// `authenticated`: what else is covered by it.
    fn seal(
        &self,
        packet: &mut Vec<u8>,
        clear: usize,
        at: Place,
        authenticated: &[u8],
    ) -> Option<()> {
        let (head, body) = packet.split_at_mut_checked(clear)?;
        match self {
            Self::Gcm { key, salt } => {
                let nonce = gcm_nonce(*salt, at.ssrc, at.index);
                let tag = match authenticated {
                    [] => key.seal_in_place_separate_tag(nonce, Aad::from(&*head), body),
                    more => {
                        let all = [&*head, more].concat();
                        key.seal_in_place_separate_tag(nonce, Aad::from(all), body)
                    }
                };
                packet.extend_from_slice(tag.ok()?.as_ref());
            }
            Self::CounterMode {
                key,
                salt,
                auth,
                tag,
            } => {
                key_stream(key, at.counter(*salt), body)?;
                let mac = sign(auth, packet, authenticated);
                packet.extend_from_slice(mac.as_ref().get(..*tag)?);
            }
        }
        Some(())
    }

    /// Decrypts what [`Cipher::seal`] has made, and takes the tag off. `None`: it is
    /// forged.
    fn open(
        &self,
        packet: &mut Vec<u8>,
        clear: usize,
        at: Place,
        authenticated: &[u8],
    ) -> Option<()> {
        let len = match self {
            Self::Gcm { key, salt } => {
                let (head, body) = packet.split_at_mut_checked(clear)?;
                let nonce = gcm_nonce(*salt, at.ssrc, at.index);
                let opened = match authenticated {
                    [] => key.open_in_place(nonce, Aad::from(&*head), body),
                    more => {
                        let all = [&*head, more].concat();
                        key.open_in_place(nonce, Aad::from(all), body)
                    }
                };
                opened.ok()?;
                packet.len().checked_sub(GCM_TAG)?
            }
            Self::CounterMode {
                key,
                salt,
                auth,
                tag,
            } => {
                let len = packet.len().checked_sub(*tag)?;
                let (signed, given) = packet.split_at_checked(len)?;
                let mac = sign(auth, signed, authenticated);
                verify_slices_are_equal(mac.as_ref().get(..*tag)?, given).ok()?;
                key_stream(key, at.counter(*salt), packet.get_mut(clear..len)?)?;
                len
            }
        };
        packet.truncate(len);
        Some(())
    }
}

/// What a packet is encrypted under: no two of a key may have the same.
#[derive(Debug, Clone, Copy)]
struct Place {
    ssrc: u32,
    /// Roll-over counter and sequence number, or the index of RTCP.
    index: u64,
}

impl Place {
    /// RFC 3711 §4.1.1; the low 16 bits count blocks.
    fn counter(self, salt: u128) -> u128 {
        salt ^ (u128::from(self.ssrc) << 64) ^ (u128::from(self.index & 0xFFFF_FFFF_FFFF) << 16)
    }
}

fn key_stream(key: &EncryptingKey, counter: u128, data: &mut [u8]) -> Option<()> {
    let context = EncryptionContext::Iv128(FixedLength::from(counter.to_be_bytes()));
    key.less_safe_encrypt(data, context).ok().map(drop)
}

fn sign(key: &hmac::Key, packet: &[u8], more: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(packet);
    context.update(more);
    context.sign()
}

/// AES in counter mode as the pseudo-random function (RFC 3711 §4.3.3).
fn derive(master: &[u8], salt: &[u8], label: u8, out: &mut [u8]) -> Option<()> {
    let algorithm = match master.len() {
        16 => &AES_128,
        32 => &AES_256,
        _ => return None,
    };
    let mut iv = [0u8; 16];
    iv.get_mut(..salt.len())?.copy_from_slice(salt);
    let counter = u128::from_be_bytes(iv) ^ (u128::from(label) << 64);
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, master).ok()?).ok()?;
    out.fill(0);
    key_stream(&key, counter, out)
}

/// The keys of one direction.
struct Keys {
    suite: Suite,
    rtp: Cipher,
    rtcp: Cipher,
}

impl Keys {
    /// `material`: master key and salt.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] when it has not the right length.
    fn new(suite: Suite, material: &[u8]) -> Result<Self, TransportError> {
        let wanted = suite.material_len();
        if material.len() != wanted {
            return Err(TransportError::Invalid(format!(
                "srtpParameters.keyBase64: {} octets, not {wanted}",
                material.len()
            )));
        }
        let (master, salt) = material
            .split_at_checked(suite.key_len())
            .unwrap_or_default();
        // RTCP has a tag of 80 bits with every suite in counter mode.
        let for_rtcp = match suite {
            Suite::CounterMode { .. } => Suite::CounterMode { tag: 10 },
            gcm => gcm,
        };
        let rtp = [LABEL_RTP_KEY, LABEL_RTP_AUTH, LABEL_RTP_SALT];
        let rtcp = [LABEL_RTCP_KEY, LABEL_RTCP_AUTH, LABEL_RTCP_SALT];
        let rtp = Cipher::derive(suite, master, salt, rtp);
        let rtcp = Cipher::derive(for_rtcp, master, salt, rtcp);
        match (rtp, rtcp) {
            (Some(rtp), Some(rtcp)) => Ok(Self { suite, rtp, rtcp }),
            _ => Err(TransportError::Internal("SRTP keys".into())),
        }
    }

    /// What is authenticated of RTP beside the packet.
    fn roll_over(&self, index: u64) -> ([u8; 4], usize) {
        let counter = u32::try_from((index >> 16) & 0xFFFF_FFFF).unwrap_or(0);
        match self.suite {
            Suite::Gcm { .. } => ([0; 4], 0),
            Suite::CounterMode { .. } => (counter.to_be_bytes(), 4),
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.suite)
    }
}

/// Encrypts what we send.
#[derive(Debug)]
pub struct Sealer {
    keys: Keys,
    /// Index of the next RTCP packet, 31 bits.
    rtcp_index: u32,
}

impl Sealer {
    /// `material`: master key and salt.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] when it has not the right length.
    pub fn new(suite: Suite, material: &[u8]) -> Result<Self, TransportError> {
        let keys = Keys::new(suite, material)?;
        Ok(Self {
            keys,
            rtcp_index: 0,
        })
    }

    /// Encrypts an RTP packet. `index`: its sequence number, extended. `None`: it is
    /// no RTP packet.
    pub fn rtp(&self, packet: &mut Vec<u8>, index: u64) -> Option<()> {
        let clear = header_len(packet)?;
        let ssrc = guard::ssrc(packet)?;
        let (counter, len) = self.keys.roll_over(index);
        let more = counter.get(..len)?;
        self.keys
            .rtp
            .seal(packet, clear, Place { ssrc, index }, more)
    }

    /// Encrypts a compound RTCP packet. `None`: it is none, or the indices are used
    /// up.
    pub fn rtcp(&mut self, packet: &mut Vec<u8>) -> Option<()> {
        let index = self.rtcp_index;
        if index >= ENCRYPTED {
            return None;
        }
        self.rtcp_index += 1;
        let ssrc = rtcp_ssrc(packet)?;
        let mark = (ENCRYPTED | index).to_be_bytes();
        let place = Place {
            ssrc,
            index: index.into(),
        };
        if let Suite::Gcm { .. } = self.keys.suite {
            self.keys.rtcp.seal(packet, RTCP_CLEAR, place, &mark)?;
            packet.extend_from_slice(&mark);
            return Some(());
        }
        // In counter mode the tag comes last.
        self.keys.rtcp.seal(packet, RTCP_CLEAR, place, &mark)?;
        let tag = packet.split_off(packet.len().checked_sub(10)?);
        packet.extend_from_slice(&mark);
        packet.extend_from_slice(&tag);
        Some(())
    }
}

/// Decrypts what the remote sends.
#[derive(Debug)]
pub struct Opener {
    keys: Keys,
    rtp: FastMap<u32, Window>,
    rtcp: FastMap<u32, Window>,
}

impl Opener {
    /// `material`: master key and salt.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] when it has not the right length.
    pub fn new(suite: Suite, material: &[u8]) -> Result<Self, TransportError> {
        Ok(Self {
            keys: Keys::new(suite, material)?,
            rtp: FastMap::default(),
            rtcp: FastMap::default(),
        })
    }

    /// Opens what the remote of a DTLS handshake protects (RFC 5764 §4.2). `None` for a
    /// profile that WebRTC does not have, or too little material.
    pub fn of_remote(material: &KeyMaterial) -> Option<Self> {
        let suite = match material.profile {
            SrtpProfile::AES128_CM_SHA1_80 => Suite::CounterMode { tag: 10 },
            SrtpProfile::AEAD_AES_128_GCM => Suite::Gcm { key: 16 },
            SrtpProfile::AEAD_AES_256_GCM => Suite::Gcm { key: 32 },
            _ => return None,
        };
        let (key, salt) = (suite.key_len(), suite.salt_len());
        let remote = usize::from(material.client);
        let (keys, salts) = material.octets.split_at_checked(2 * key)?;
        let key = keys.chunks_exact(key).nth(remote)?;
        let salt = salts.get(..2 * salt)?.chunks_exact(salt).nth(remote)?;
        Self::new(suite, &[key, salt].concat()).ok()
    }

    /// Decrypts an RTP packet in place. `None`: it is forged, or came before.
    pub fn rtp(&mut self, packet: &mut Vec<u8>) -> Option<()> {
        let clear = header_len(packet)?;
        let ssrc = guard::ssrc(packet)?;
        let number = guard::sequence(packet)?;
        let known = self.rtp.get_mut(&ssrc);
        let index = match &known {
            Some(window) => window.extend(number),
            None => number.into(),
        };
        if known.as_ref().is_some_and(|window| !window.admits(index)) {
            return None;
        }
        let (counter, len) = self.keys.roll_over(index);
        let more = counter.get(..len)?;
        self.keys
            .rtp
            .open(packet, clear, Place { ssrc, index }, more)?;
        if let Some(window) = known {
            window.note(index);
            return Some(());
        }
        if self.rtp.len() >= MAX_RTP_STREAMS {
            return None;
        }
        self.rtp.entry(ssrc).or_default().note(index);
        Some(())
    }

    /// Decrypts a compound RTCP packet in place. `None`: it is forged, or came before.
    pub fn rtcp(&mut self, packet: &mut Vec<u8>) -> Option<()> {
        let ssrc = rtcp_ssrc(packet)?;
        let tag = match self.keys.suite {
            Suite::Gcm { .. } => 0,
            Suite::CounterMode { .. } => 10,
        };
        // The index stands before the tag of counter mode, and after that of GCM.
        let end = packet.len().checked_sub(tag + RTCP_INDEX)?;
        let mark: [u8; RTCP_INDEX] = *packet.get(end..)?.first_chunk()?;
        packet.drain(end..end + RTCP_INDEX);
        let word = u32::from_be_bytes(mark);
        let index = u64::from(word & !ENCRYPTED);
        let known = self.rtcp.get(&ssrc);
        if word & ENCRYPTED == 0 || known.is_some_and(|window| !window.admits(index)) {
            return None;
        }
        let place = Place { ssrc, index };
        self.keys.rtcp.open(packet, RTCP_CLEAR, place, &mark)?;
        if self.rtcp.len() >= MAX_RTCP_STREAMS && known.is_none() {
            // A client may take another SSRC to report each of its streams by, over the
            // day. It is heard all the same; what it said before could be said again.
            self.rtcp.clear();
        }
        self.rtcp.entry(ssrc).or_default().note(index);
        Some(())
    }
}

/// Octets of an RTP header with its extension, which stay in the clear.
fn header_len(rtp: &[u8]) -> Option<usize> {
    let first = *rtp.first()?;
    let fixed = 12 + usize::from(first & 0x0F) * 4;
    let len = if first & 0x10 == 0 {
        fixed
    } else {
        let words = *rtp.get(fixed + 2..)?.first_chunk()?;
        fixed + 4 + usize::from(u16::from_be_bytes(words)) * 4
    };
    (rtp.len() >= len).then_some(len)
}

fn rtcp_ssrc(packet: &[u8]) -> Option<u32> {
    let ssrc = packet.get(4..RTCP_CLEAR)?;
    Some(u32::from_be_bytes(*ssrc.first_chunk()?))
}

#[cfg(test)]
mod tests;
