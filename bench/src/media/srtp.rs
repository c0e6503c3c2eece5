//! SRTP and SRTCP with AES-GCM (RFC 7714): both profiles that WebRTC endpoints
//! negotiate by preference. Datagrams are sealed and opened in place.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use str0m::crypto::dtls::SrtpProfile;

const SALT: usize = 12;
/// RTCP: header and sender SSRC stay in the clear.
const RTCP_CLEAR: usize = 8;
/// RTCP: the E flag and the index at the end.
const RTCP_INDEX: usize = 4;
const ENCRYPTED: u32 = 1 << 31;

// Labels of the key derivation (RFC 3711 §4.3.1).
const LABEL_RTP_KEY: u8 = 0;
const LABEL_RTP_SALT: u8 = 2;
const LABEL_RTCP_KEY: u8 = 3;
const LABEL_RTCP_SALT: u8 = 5;

struct Gcm {
    key: LessSafeKey,
    salt: [u8; SALT],
}

impl Gcm {
    fn derive(master: &[u8], salt: &[u8], key_label: u8, salt_label: u8) -> Option<Self> {
        let mut key = vec![0; master.len()];
        derive(master, salt, key_label, &mut key)?;
        let mut session_salt = [0; SALT];
        derive(master, salt, salt_label, &mut session_salt)?;
        let algorithm = match master.len() {
            16 => &AES_128_GCM,
            _ => &AES_256_GCM,
        };
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, &key).ok()?),
            salt: session_salt,
        })
    }

    /// RFC 7714 §8.1 and §9.1: two zero octets, SSRC, six octets of the packet's
    /// index, combined with the salt.
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let number = u128::from(ssrc) << 48 | u128::from(index & 0xFFFF_FFFF_FFFF);
        let mut bytes = [0; SALT];
        let wide = number.to_be_bytes();
        for ((to, from), salt) in bytes.iter_mut().zip(&wide[4..]).zip(&self.salt) {
            *to = from ^ salt;
        }
        Nonce::assume_unique_for_key(bytes)
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
    iv[7] ^= label;
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, master).ok()?).ok()?;
    out.fill(0);
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    key.less_safe_encrypt(out, context).ok()?;
    Some(())
}

/// The keys of one direction.
pub struct Keys {
    rtp: Gcm,
    rtcp: Gcm,
    rtcp_index: u32,
}

impl Keys {
    /// The keys of the DTLS client and of the server, from what DTLS exports
    /// (RFC 5764 §4.2). `None` for a profile other than AES-GCM.
    pub fn from_dtls(profile: SrtpProfile, material: &[u8]) -> Option<(Self, Self)> {
        let key = match profile {
            SrtpProfile::AEAD_AES_128_GCM => 16,
            SrtpProfile::AEAD_AES_256_GCM => 32,
            _ => return None,
        };
        let (client_key, rest) = material.split_at_checked(key)?;
        let (server_key, rest) = rest.split_at_checked(key)?;
        let (client_salt, rest) = rest.split_at_checked(SALT)?;
        let (server_salt, _) = rest.split_at_checked(SALT)?;
        Some((
            Self::new(client_key, client_salt)?,
            Self::new(server_key, server_salt)?,
        ))
    }

    fn new(master: &[u8], salt: &[u8]) -> Option<Self> {
        Some(Self {
            rtp: Gcm::derive(master, salt, LABEL_RTP_KEY, LABEL_RTP_SALT)?,
            rtcp: Gcm::derive(master, salt, LABEL_RTCP_KEY, LABEL_RTCP_SALT)?,
            rtcp_index: 0,
        })
    }

    /// Encrypts what follows the header, and appends the tag. `index`: roll-over
    /// counter and sequence number.
    pub fn seal_rtp(&self, packet: &mut Vec<u8>, header: usize, ssrc: u32, index: u64) -> bool {
        let nonce = self.rtp.nonce(ssrc, index);
        let Some((clear, payload)) = packet.split_at_mut_checked(header) else {
            return false;
        };
        let sealed = self
            .rtp
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*clear), payload);
        sealed
            .map(|tag| packet.extend_from_slice(tag.as_ref()))
            .is_ok()
    }

    /// Decrypts in place; answers the payload. `None` for a forged packet.
    pub fn open_rtp<'a>(
        &self,
        packet: &'a mut [u8],
        header: usize,
        ssrc: u32,
        index: u64,
    ) -> Option<&'a [u8]> {
        let nonce = self.rtp.nonce(ssrc, index);
        let (clear, payload) = packet.split_at_mut_checked(header)?;
        let opened = self
            .rtp
            .key
            .open_in_place(nonce, Aad::from(&*clear), payload);
        opened.ok().map(|payload| &*payload)
    }

    /// Encrypts a compound RTCP packet.
    pub fn seal_rtcp(&mut self, packet: &mut Vec<u8>) -> bool {
        let index = self.rtcp_index;
        self.rtcp_index += 1;
        let Some(ssrc) = rtcp_ssrc(packet) else {
            return false;
        };
        let mark = (ENCRYPTED | index).to_be_bytes();
        let nonce = self.rtcp.nonce(ssrc, index.into());
        let (clear, payload) = packet.split_at_mut(RTCP_CLEAR);
        let aad = rtcp_aad(clear, mark);
        let sealed = self
            .rtcp
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), payload);
        let Ok(tag) = sealed else { return false };
        packet.extend_from_slice(tag.as_ref());
        packet.extend_from_slice(&mark);
        true
    }

    /// Decrypts a compound RTCP packet: header and all.
    pub fn open_rtcp<'a>(&self, packet: &'a mut [u8]) -> Option<&'a [u8]> {
        let ssrc = rtcp_ssrc(packet)?;
        let end = packet.len().checked_sub(RTCP_INDEX)?;
        let (body, mark) = packet.split_at_mut_checked(end)?;
        let mark: [u8; RTCP_INDEX] = mark.try_into().ok()?;
        let index = u32::from_be_bytes(mark);
        if index & ENCRYPTED == 0 {
            return None;
        }
        let nonce = self.rtcp.nonce(ssrc, (index & !ENCRYPTED).into());
        let (clear, payload) = body.split_at_mut_checked(RTCP_CLEAR)?;
        let aad = rtcp_aad(clear, mark);
        let opened = self.rtcp.key.open_in_place(nonce, Aad::from(aad), payload);
        let len = opened.ok()?.len();
        packet.get(..RTCP_CLEAR + len)
    }
}

fn rtcp_ssrc(packet: &[u8]) -> Option<u32> {
    let ssrc = packet.get(4..RTCP_CLEAR)?;
    Some(u32::from_be_bytes(*ssrc.first_chunk()?))
}

fn rtcp_aad(clear: &[u8], mark: [u8; RTCP_INDEX]) -> [u8; RTCP_CLEAR + RTCP_INDEX] {
    let mut aad = [0; RTCP_CLEAR + RTCP_INDEX];
    for (to, from) in aad.iter_mut().zip(clear.iter().chain(&mark)) {
        *to = *from;
    }
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_derived_as_rfc_3711_b_3_says() {
        let master = 0xE1F9_7A0D_3E01_8BE0_D64F_A32C_06DE_4139_u128.to_be_bytes();
        let salt = [
            0x0E, 0xC6, 0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6,
        ];
        let mut key = [0; 16];
        derive(&master, &salt, LABEL_RTP_KEY, &mut key).unwrap();
        assert_eq!(
            u128::from_be_bytes(key),
            0xC61E_7A93_744F_39EE_1073_4AFE_3FF7_A087
        );
        let mut session_salt = [0; 14];
        derive(&master, &salt, LABEL_RTP_SALT, &mut session_salt).unwrap();
        assert_eq!(session_salt[..6], [0x30, 0xCB, 0xBC, 0x08, 0x86, 0x3D]);
    }

    fn pairs() -> Vec<(Keys, Keys)> {
        [
            (SrtpProfile::AEAD_AES_128_GCM, 56),
            (SrtpProfile::AEAD_AES_256_GCM, 88),
        ]
        .into_iter()
        .map(|(profile, len)| {
            let material: Vec<u8> = (0..len).collect();
            let (ours, _) = Keys::from_dtls(profile, &material).unwrap();
            let (theirs, _) = Keys::from_dtls(profile, &material).unwrap();
            assert!(Keys::from_dtls(profile, &material[1..]).is_none());
            (ours, theirs)
        })
        .collect()
    }

    #[test]
    fn rtp_opens_with_its_index_only() {
        for (ours, theirs) in pairs() {
            let mut packet = vec![7; 12];
            packet.extend_from_slice(b"payload");
            assert!(ours.seal_rtp(&mut packet, 12, 5, 70_000));
            assert_eq!(packet.len(), 12 + 7 + 16);
            assert!(
                theirs
                    .open_rtp(&mut packet.clone(), 12, 5, 70_001)
                    .is_none()
            );
            assert!(
                theirs
                    .open_rtp(&mut packet.clone(), 12, 6, 70_000)
                    .is_none()
            );
            let opened = theirs.open_rtp(&mut packet, 12, 5, 70_000);
            assert_eq!(opened, Some(&b"payload"[..]));
        }
    }

    #[test]
    fn rtcp_opens_unless_it_was_touched() {
        for (mut ours, theirs) in pairs() {
            for len in [8, 40] {
                let plain: Vec<u8> = (0..len).collect();
                let mut packet = plain.clone();
                assert!(ours.seal_rtcp(&mut packet));
                for at in 0..packet.len() {
                    let mut forged = packet.clone();
                    forged[at] ^= 1;
                    assert_eq!(theirs.open_rtcp(&mut forged), None, "{at}");
                }
                assert_eq!(theirs.open_rtcp(&mut packet), Some(&plain[..]));
            }
        }
    }
}
