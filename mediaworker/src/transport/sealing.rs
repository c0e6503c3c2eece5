//! SRTP and SRTCP towards a client (RFC 3711, RFC 7714), for the packets that we write
//! ourselves. The keys are those of the DTLS handshake that str0m runs.
//!
//! A nonce is made of SSRC and packet index, so no index of an SSRC is used twice: media
//! packets have the router's extended sequence numbers, retransmissions, probes and RTCP
//! a counter of their own, and str0m, which has no stream there, sends neither RTP nor
//! RTCP.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use str0m::crypto::dtls::SrtpProfile;

const GCM_SALT: usize = 12;
const COUNTER_SALT: usize = 14;
/// Octets of an HMAC that AES_CM_128_HMAC_SHA1_80 sends.
const HMAC_TAG: usize = 10;
/// RTCP: header and sender SSRC stay in the clear.
const RTCP_CLEAR: usize = 8;
/// RTCP: what says that the packet is encrypted, in front of its index.
const ENCRYPTED: u32 = 1 << 31;
/// Packet indices have 48 bits, those of RTCP 31.
const INDEX_BITS: u64 = 0xFFFF_FFFF_FFFF;

// Labels of the key derivation (RFC 3711 §4.3.1), and what is added to them for RTCP.
const LABEL_KEY: u8 = 0;
const LABEL_AUTHENTICATION: u8 = 1;
const LABEL_SALT: u8 = 2;
const LABEL_RTCP: u8 = 3;
/// Where the label is in the input of the derivation.
const LABEL_AT: usize = 7;

/// An RTP packet before it is protected.
#[derive(Debug, Clone, Copy)]
pub struct Clear<'a> {
    /// Its header with the extensions, which stay in the clear.
    pub header: &'a [u8],
    /// What follows it.
    pub payload: &'a [u8],
    /// What follows that: padding.
    pub end: &'a [u8],
}

impl Clear<'_> {
    fn len(&self) -> usize {
        self.header.len() + self.payload.len() + self.end.len()
    }
}

/// What DTLS has exported (RFC 5764 §4.2).
#[derive(Clone)]
pub struct KeyMaterial {
    /// The profile that was negotiated.
    pub profile: SrtpProfile,
    /// Keys of client and server, salts of client and server.
    pub octets: Vec<u8>,
    /// We were the DTLS client.
    pub client: bool,
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No keys in logs.
        f.debug_struct("KeyMaterial").finish_non_exhaustive()
    }
}

/// Protects what is sent to one client. What each packet needs comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Sealer {
    rtp: Cipher,
    rtcp: Cipher,
    /// Index of the next RTCP packet.
    rtcp_index: u32,
}

enum Cipher {
    Gcm {
        key: LessSafeKey,
        /// By [`gcm_salt`].
        salt: u128,
    },
    /// In a box, for it is large and rare.
    Counter(Box<Counter>),
}

/// AES in counter mode, and HMAC-SHA1.
struct Counter {
    key: EncryptingKey,
    salt: [u8; COUNTER_SALT],
    authentication: hmac::Key,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No keys in logs.
        f.write_str(match self {
            Self::Gcm { .. } => "Gcm",
            Self::Counter(_) => "Counter",
        })
    }
}

impl Sealer {
    /// The sealer of our direction. `None` for a profile that WebRTC does not have, or
    /// too little material.
    pub fn new(material: &KeyMaterial) -> Option<Self> {
        let (key, salt) = match material.profile {
            SrtpProfile::AES128_CM_SHA1_80 => (16, COUNTER_SALT),
            SrtpProfile::AEAD_AES_128_GCM => (16, GCM_SALT),
            SrtpProfile::AEAD_AES_256_GCM => (32, GCM_SALT),
            _ => return None,
        };
        let own = usize::from(!material.client);
        let (keys, salts) = material.octets.split_at_checked(2 * key)?;
        let master = keys.chunks_exact(key).nth(own)?;
        let master_salt = salts.get(..2 * salt)?.chunks_exact(salt).nth(own)?;
        Some(Self {
            rtp: Cipher::new(master, master_salt, 0)?,
            rtcp: Cipher::new(master, master_salt, LABEL_RTCP)?,
            rtcp_index: 0,
        })
    }

    /// Makes an encrypted packet with its tag, in the place of whatever `packet` holds.
    /// `index`: roll-over counter and sequence number, used for this SSRC once. False: it must
    /// not be sent.
    pub fn seal_rtp(&self, packet: &mut Vec<u8>, clear: &Clear<'_>, ssrc: u32, index: u64) -> bool {
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                seal_gcm(key, gcm_nonce(*salt, ssrc, index), packet, clear).is_some()
            }
            Cipher::Counter(counter) => {
                packet.clear();
                packet.reserve_exact(clear.len() + HMAC_TAG);
                for part in [clear.header, clear.payload, clear.end] {
                    packet.extend_from_slice(part);
                }
                let roll_over = ((index >> 16) & 0xFFFF_FFFF).to_be_bytes();
                let trailer = roll_over.get(4..).unwrap_or_default();
                let header = clear.header.len();
                counter.encrypt(ssrc, index, packet, header) && counter.sign(packet, trailer)
            }
        }
    }

    /// Encrypts a compound RTCP packet. False: it must not be sent.
    pub fn seal_rtcp(&mut self, packet: &mut Vec<u8>) -> bool {
        let index = self.rtcp_index;
        let Some(ssrc) = packet.get(4..RTCP_CLEAR).and_then(|s| s.first_chunk()) else {
            return false;
        };
        let ssrc = u32::from_be_bytes(*ssrc);
        // 2^31 packets at one in a second are 68 years.
        self.rtcp_index = index.saturating_add(1);
        if index >= ENCRYPTED {
            return false;
        }
        let mark = (ENCRYPTED | index).to_be_bytes();
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let nonce = gcm_nonce(*salt, ssrc, index.into());
                let sealed = seal_rtcp_gcm(key, nonce, packet, mark);
                packet.extend_from_slice(&mark);
                sealed
            }
            Cipher::Counter(counter) => {
                let encrypted = counter.encrypt(ssrc, index.into(), packet, RTCP_CLEAR);
                packet.extend_from_slice(&mark);
                encrypted && counter.sign(packet, &[])
            }
        }
    }
}

impl Cipher {
    /// `labels`: what is added to those of RTP.
    fn new(master: &[u8], master_salt: &[u8], labels: u8) -> Option<Self> {
        let mut key = vec![0; master.len()];
        derive(master, master_salt, labels + LABEL_KEY, &mut key)?;
        let mut salt = [0; 16];
        let wanted = salt.get_mut(..master_salt.len())?;
        derive(master, master_salt, labels + LABEL_SALT, wanted)?;
        if master_salt.len() == GCM_SALT {
            let algorithm = match master.len() {
                16 => &AES_128_GCM,
                _ => &AES_256_GCM,
            };
            let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).ok()?);
            return Some(Self::Gcm {
                key,
                salt: gcm_salt(salt),
            });
        }
        let mut authentication = [0; 20];
        let label = labels + LABEL_AUTHENTICATION;
        derive(master, master_salt, label, &mut authentication)?;
        let algorithm = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
        Some(Self::Counter(Box::new(Counter {
            key: EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &key).ok()?).ok()?,
            salt: *salt.first_chunk()?,
            authentication: hmac::Key::new(algorithm, &authentication),
        })))
    }
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
    *iv.get_mut(LABEL_AT)? ^= label;
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, master).ok()?).ok()?;
    out.fill(0);
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    key.less_safe_encrypt(out, context).ok()?;
    Some(())
}

/// The first twelve octets, which are the salt, as [`gcm_nonce`] takes them.
pub(super) fn gcm_salt(octets: [u8; 16]) -> u128 {
    u128::from_be_bytes(octets) >> 32
}

/// RFC 7714 §8.1 and §9.1: two zero octets, SSRC, six octets of the packet's index,
/// combined with the salt.
pub(super) fn gcm_nonce(salt: u128, ssrc: u32, index: u64) -> Nonce {
    let number = (u128::from(ssrc) << 48) | u128::from(index & INDEX_BITS);
    let [_, _, _, _, nonce @ ..] = (number ^ salt).to_be_bytes();
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts what follows the header while it is copied: what all receivers share stays as it is.
/// `None`: it failed.
fn seal_gcm(
    key: &LessSafeKey,
    nonce: Nonce,
    packet: &mut Vec<u8>,
    clear: &Clear<'_>,
) -> Option<()> {
    let Clear {
        header,
        payload,
        end,
    } = *clear;
    // What it holds is written over, so of a packet as long as the last one nothing is cleared.
    let len = clear.len() + key.algorithm().tag_len();
    packet.reserve_exact(len.saturating_sub(packet.len()));
    packet.resize(len, 0);
    let (place, rest) = packet.split_at_mut_checked(header.len())?;
    let (encrypted, rest) = rest.split_at_mut_checked(payload.len())?;
    place.copy_from_slice(header);
    let aad = Aad::from(header);
    key.seal_out_of_place_scatter(nonce, aad, payload, encrypted, end, rest)
        .ok()
}

/// Encrypts what follows the clear part and appends the tag, which covers `mark` as well.
fn seal_rtcp_gcm(key: &LessSafeKey, nonce: Nonce, packet: &mut Vec<u8>, mark: [u8; 4]) -> bool {
    let Some((head, body)) = packet.split_at_mut_checked(RTCP_CLEAR) else {
        return false;
    };
    let aad = Aad::from([&*head, &mark].concat());
    key.seal_in_place_separate_tag(nonce, aad, body)
        .map(|tag| packet.extend_from_slice(tag.as_ref()))
        .is_ok()
}

impl Counter {
    /// RFC 3711 §4.1.1.
    fn encrypt(&self, ssrc: u32, index: u64, packet: &mut [u8], clear: usize) -> bool {
        let number = (u128::from(ssrc) << 64) | (u128::from(index & INDEX_BITS) << 16);
        let mut iv = number.to_be_bytes();
        for (byte, salt) in iv.iter_mut().zip(&self.salt) {
            *byte ^= salt;
        }
        let Some(body) = packet.get_mut(clear..) else {
            return false;
        };
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.key.less_safe_encrypt(body, context).is_ok()
    }

    /// Appends the tag of the packet and what follows it where it is computed.
    fn sign(&self, packet: &mut Vec<u8>, trailer: &[u8]) -> bool {
        let mut context = hmac::Context::with_key(&self.authentication);
        context.update(packet);
        context.update(trailer);
        let tag = context.sign();
        packet.extend_from_slice(tag.as_ref().get(..HMAC_TAG).unwrap_or_default());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use str0m::crypto::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmSha1_80, from_feature_flags};

    #[test]
    fn keys_are_derived_as_rfc_3711_b_3_says() {
        let master = 0xE1F9_7A0D_3E01_8BE0_D64F_A32C_06DE_4139_u128.to_be_bytes();
        let salt = [
            0x0E, 0xC6, 0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6,
        ];
        let mut key = [0; 16];
        derive(&master, &salt, LABEL_KEY, &mut key).unwrap();
        assert_eq!(
            u128::from_be_bytes(key),
            0xC61E_7A93_744F_39EE_1073_4AFE_3FF7_A087
        );
        let mut session_salt = [0; 14];
        derive(&master, &salt, LABEL_SALT, &mut session_salt).unwrap();
        assert_eq!(
            session_salt,
            [
                0x30, 0xCB, 0xBC, 0x08, 0x86, 0x3D, 0x8C, 0x85, 0xD4, 0x9D, 0xB3, 0x4A, 0x9A, 0xE1
            ]
        );
        let mut authentication = [0; 20];
        derive(&master, &salt, LABEL_AUTHENTICATION, &mut authentication).unwrap();
        assert_eq!(authentication[..4], [0xCE, 0xBE, 0x32, 0x1F]);
    }

    fn profiles() -> [(SrtpProfile, usize); 3] {
        [
            (SrtpProfile::AES128_CM_SHA1_80, 60),
            (SrtpProfile::AEAD_AES_128_GCM, 56),
            (SrtpProfile::AEAD_AES_256_GCM, 88),
        ]
    }

    fn material(profile: SrtpProfile, len: usize, client: bool) -> KeyMaterial {
        KeyMaterial {
            profile,
            octets: (0..u8::try_from(len).unwrap()).collect(),
            client,
        }
    }

    /// The session key of a direction, as another implementation needs it.
    fn session<const N: usize>(material: &KeyMaterial, labels: u8) -> ([u8; N], [u8; 14]) {
        let salt_len = if material.octets.len() == 60 { 14 } else { 12 };
        let own = usize::from(!material.client);
        let master = &material.octets[own * N..][..N];
        let salt = &material.octets[2 * N + own * salt_len..][..salt_len];
        let (mut key, mut session_salt) = ([0; N], [0; 14]);
        derive(master, salt, labels, &mut key).unwrap();
        derive(master, salt, labels + 2, &mut session_salt[..salt_len]).unwrap();
        (key, session_salt)
    }

    /// The HMAC of a direction, by str0m's provider.
    fn hmac_of(material: &KeyMaterial, labels: u8, signed: &[&[u8]]) -> [u8; 20] {
        let own = usize::from(!material.client);
        let master = &material.octets[own * 16..][..16];
        let salt = &material.octets[32 + own * 14..][..14];
        let mut key = [0; 20];
        derive(master, salt, labels + LABEL_AUTHENTICATION, &mut key).unwrap();
        let provider = from_feature_flags().sha1_hmac_provider;
        provider.sha1_hmac(&key, signed)
    }

    #[test]
    fn str0m_s_ciphers_open_what_is_sealed() {
        let provider = from_feature_flags().srtp_provider;
        let (ssrc, index) = (0x0102_0304, 0x0003_FFFE_u64);
        let header = [0x80, 96, 0xFF, 0xFE, 0, 0, 0, 1, 1, 2, 3, 4];
        for (profile, len) in profiles() {
            for client in [true, false] {
                let material = material(profile, len, client);
                let sealer = Sealer::new(&material).unwrap();
                // Whatever was there before, longer or shorter.
                let mut packet = vec![0xAA; if client { 100 } else { 20 }];
                let clear = Clear {
                    header: &header,
                    payload: b"a payload of some len",
                    end: b"gth",
                };
                assert!(sealer.seal_rtp(&mut packet, &clear, ssrc, index));
                let body = &packet[12..];
                let mut plain = vec![0; body.len() + 16];
                match profile {
                    SrtpProfile::AEAD_AES_128_GCM => {
                        let (key, salt) = session::<16>(&material, 0);
                        let iv =
                            AeadAes128Gcm::rtp_iv(salt[..12].try_into().unwrap(), ssrc, 3, 0xFFFE);
                        let mut open = provider.aead_aes_128_gcm().create_cipher(key, false);
                        open.decrypt(&iv, &[&header], body, &mut plain).unwrap();
                    }
                    SrtpProfile::AEAD_AES_256_GCM => {
                        let (key, salt) = session::<32>(&material, 0);
                        let iv =
                            AeadAes256Gcm::rtp_iv(salt[..12].try_into().unwrap(), ssrc, 3, 0xFFFE);
                        let mut open = provider.aead_aes_256_gcm().create_cipher(key, false);
                        open.decrypt(&iv, &[&header], body, &mut plain).unwrap();
                    }
                    _ => {
                        let (key, salt) = session::<16>(&material, 0);
                        let iv = Aes128CmSha1_80::rtp_iv(salt, ssrc, index);
                        let mut open = provider.aes_128_cm_sha1_80().create_cipher(key, false);
                        let (signed, tag) = packet.split_at(packet.len() - HMAC_TAG);
                        open.decrypt(&iv, &signed[12..], &mut plain).unwrap();
                        let hmac = hmac_of(&material, 0, &[signed, &[0, 0, 0, 3]]);
                        assert_eq!(tag, &hmac[..HMAC_TAG]);
                    }
                }
                assert_eq!(&plain[..24], b"a payload of some length");
            }
        }
    }

    #[test]
    fn rtcp_has_an_index_of_its_own_each_time() {
        for (profile, len) in profiles() {
            let mut sealer = Sealer::new(&material(profile, len, false)).unwrap();
            let plain: Vec<u8> = (0..40).collect();
            let tag = if len == 60 { HMAC_TAG } else { 16 };
            for index in 0..3u32 {
                let mut packet = plain.clone();
                assert!(sealer.seal_rtcp(&mut packet));
                assert_eq!(packet.len(), plain.len() + tag + 4);
                assert_eq!(packet[..8], plain[..8]);
                assert_ne!(packet[8..40], plain[8..]);
                let mark = (ENCRYPTED | index).to_be_bytes();
                let at = if len == 60 { 40 } else { 40 + tag };
                assert_eq!(packet[at..at + 4], mark);
                if len == 60 {
                    let material = material(profile, len, false);
                    let hmac = hmac_of(&material, LABEL_RTCP, &[&packet[..44]]);
                    assert_eq!(packet[44..], hmac[..HMAC_TAG]);
                }
            }
            sealer.rtcp_index = ENCRYPTED;
            assert!(!sealer.seal_rtcp(&mut plain.clone()), "all are used up");
            assert!(!sealer.seal_rtcp(&mut vec![0x80, 200]));
        }
    }

    #[test]
    fn too_little_material_makes_no_sealer() {
        for (profile, len) in profiles() {
            assert!(Sealer::new(&material(profile, len - 1, true)).is_none());
        }
    }
}
