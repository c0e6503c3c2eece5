//! What is looked at in RTCP (RFC 3550, RFC 4585) between SRTCP and str0m: which
//! packets a NACK names, and how many transport-cc feedback lists as lost.
//!
//! str0m tells how many NACKs there were, and answers those for streams with RTX
//! (RFC 4588) only; loss it tells as a share of the last second. Its raw packets would tell more, at the price of a copy of
//! every RTP packet. So the ciphers are wrapped, and while a transport has called
//! [`listen`], the plain text of the one packet that it hands to str0m, or takes
//! from it, is kept for [`heard`]. At all other times a wrapped cipher does what
//! the one inside does.

use std::cell::{Cell, RefCell};
use std::sync::LazyLock;

use str0m::crypto::{
    AeadAes128GcmCipher, AeadAes256GcmCipher, Aes128CmSha1_80Cipher, CryptoError, SrtpProvider,
    SupportedAeadAes128Gcm, SupportedAeadAes256Gcm, SupportedAes128CmSha1_80, from_feature_flags,
};

/// Octets at the start of an RTCP packet that SRTCP leaves in the clear (RFC 3711
/// §3.4).
const CLEAR: usize = 8;
/// Transport layer feedback, and its formats for generic NACKs (RFC 4585 §6.2) and
/// transport-cc.
const TRANSPORT_FEEDBACK: u8 = 205;
const NACK: u8 = 1;
const TRANSPORT_CC: u8 = 15;

thread_local! {
    /// The engine runs on one thread, and listens to one packet at a time.
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    /// The last packet heard: room for what is clear, then the plain text.
    static HEARD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

static INNER: LazyLock<&'static dyn SrtpProvider> =
    LazyLock::new(|| from_feature_flags().srtp_provider);

/// Runs what gives an RTCP packet to str0m, or takes packets from it when none of
/// them is RTP.
pub fn listen<T>(call: impl FnOnce() -> T) -> T {
    /// A panic in there must not leave it on.
    struct Listening;
    impl Drop for Listening {
        fn drop(&mut self) {
            LISTENING.set(false);
        }
    }
    HEARD.with_borrow_mut(Vec::clear);
    LISTENING.set(true);
    let _listening = Listening;
    call()
}

/// What an RTCP packet says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Packets that NACKs name: SSRC and sequence number.
    pub nacks: Vec<(u32, u16)>,
    /// Packets that transport-cc feedback lists as arrived.
    pub arrived: u32,
    /// Packets that it lists as not arrived.
    pub lost: u32,
}

/// What a datagram says, when it is the one that was heard last. It is forgotten
/// then.
pub fn heard(datagram: &[u8]) -> Heard {
    HEARD.with_borrow_mut(|heard| {
        let mut said = Heard::default();
        let places = heard.get_mut(..CLEAR).zip(datagram.get(..CLEAR));
        if let Some((place, clear)) = places {
            place.copy_from_slice(clear);
            read(heard, &mut said);
        }
        heard.clear();
        said
    })
}

/// Reads a compound packet up to the first malformed part.
fn read(mut compound: &[u8], said: &mut Heard) {
    while let &[first, kind, high, low, ..] = compound {
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let Some((packet, rest)) = compound.split_at_checked(len) else {
            return;
        };
        compound = rest;
        let fields = packet.get(8..12).and_then(|ssrc| ssrc.try_into().ok());
        let Some(ssrc) = fields.filter(|_| kind == TRANSPORT_FEEDBACK) else {
            continue;
        };
        let body = packet.get(12..).unwrap_or_default();
        match first & 0x1f {
            NACK => read_nack(u32::from_be_bytes(ssrc), body, &mut said.nacks),
            TRANSPORT_CC => read_transport_cc(body, said),
            _ => {}
        }
    }
}

fn read_nack(ssrc: u32, entries: &[u8], named: &mut Vec<(u32, u16)>) {
    for entry in entries.chunks_exact(4) {
        let &[a, b, c, d] = entry else { continue };
        let (first, others) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        named.push((ssrc, first));
        let bits = (0..16).filter(|bit| others & (1 << bit) != 0);
        named.extend(bits.map(|bit| (ssrc, first.wrapping_add(bit + 1))));
    }
}

/// Counts the packet statuses (draft-holmer-rmcat-transport-wide-cc-extensions-01,
/// section 3.1).
fn read_transport_cc(body: &[u8], said: &mut Heard) {
    let &[_, _, high, low, _, _, _, _, ref chunks @ ..] = body else {
        return;
    };
    let mut left = u16::from_be_bytes([high, low]);
    for chunk in chunks.chunks_exact(2) {
        let &[a, b] = chunk else { return };
        let chunk = u16::from_be_bytes([a, b]);
        // Number of statuses, number of those that are "not received".
        let (count, lost) = if chunk & 0x8000 == 0 {
            let count = (chunk & 0x1fff).min(left);
            (count, if chunk & 0x6000 == 0 { count } else { 0 })
        } else {
            let (width, places) = if chunk & 0x4000 == 0 { (1, 14) } else { (2, 7) };
            let count = left.min(places);
            let status = |at: u16| (chunk >> (14 - width * (at + 1))) & ((1 << width) - 1);
            let lost = (0..count).filter(|at| status(*at) == 0).count();
            (count, u16::try_from(lost).unwrap_or(0))
        };
        said.lost += u32::from(lost);
        said.arrived += u32::from(count - lost);
        left -= count;
        if left == 0 {
            return;
        }
    }
}

fn hear(plain: Option<&[u8]>) {
    if LISTENING.get()
        && let Some(plain) = plain
    {
        HEARD.with_borrow_mut(|heard| {
            heard.clear();
            heard.resize(CLEAR, 0);
            heard.extend_from_slice(plain);
        });
    }
}

/// str0m's SRTP ciphers, wrapped.
#[derive(Debug)]
pub struct ListeningProvider;

#[derive(Debug)]
struct Wrapped<T: ?Sized>(Box<T>);

impl SrtpProvider for ListeningProvider {
    fn aes_128_cm_sha1_80(&self) -> &'static dyn SupportedAes128CmSha1_80 {
        &Self
    }

    fn aead_aes_128_gcm(&self) -> &'static dyn SupportedAeadAes128Gcm {
        &Self
    }

    fn aead_aes_256_gcm(&self) -> &'static dyn SupportedAeadAes256Gcm {
        &Self
    }

    fn srtp_aes_128_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        INNER.srtp_aes_128_ecb_round(key, input, output);
    }

    fn srtp_aes_256_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        INNER.srtp_aes_256_ecb_round(key, input, output);
    }
}

impl SupportedAes128CmSha1_80 for ListeningProvider {
    fn create_cipher(&self, key: [u8; 16], encrypt: bool) -> Box<dyn Aes128CmSha1_80Cipher> {
        Box::new(Wrapped(
            INNER.aes_128_cm_sha1_80().create_cipher(key, encrypt),
        ))
    }
}

impl SupportedAeadAes128Gcm for ListeningProvider {
    fn create_cipher(&self, key: [u8; 16], encrypt: bool) -> Box<dyn AeadAes128GcmCipher> {
        Box::new(Wrapped(
            INNER.aead_aes_128_gcm().create_cipher(key, encrypt),
        ))
    }
}

impl SupportedAeadAes256Gcm for ListeningProvider {
    fn create_cipher(&self, key: [u8; 32], encrypt: bool) -> Box<dyn AeadAes256GcmCipher> {
        Box::new(Wrapped(
            INNER.aead_aes_256_gcm().create_cipher(key, encrypt),
        ))
    }
}

impl Aes128CmSha1_80Cipher for Wrapped<dyn Aes128CmSha1_80Cipher> {
    fn encrypt(
        &mut self,
        iv: &[u8; 16],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        hear(Some(input));
        self.0.encrypt(iv, input, output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 16],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.0.decrypt(iv, input, output)?;
        // The buffer is longer than the text.
        hear(output.get(..input.len()));
        Ok(())
    }
}

/// Both GCM ciphers have the same methods.
macro_rules! listen_to_gcm {
    ($cipher:ident) => {
        impl $cipher for Wrapped<dyn $cipher> {
            fn encrypt(
                &mut self,
                iv: &[u8; 12],
                aad: &[u8],
                input: &[u8],
                output: &mut [u8],
            ) -> Result<(), CryptoError> {
                hear(Some(input));
                self.0.encrypt(iv, aad, input, output)
            }

            fn decrypt(
                &mut self,
                iv: &[u8; 12],
                aads: &[&[u8]],
                input: &[u8],
                output: &mut [u8],
            ) -> Result<usize, CryptoError> {
                let len = self.0.decrypt(iv, aads, input, output)?;
                hear(output.get(..len));
                Ok(len)
            }
        }
    };
}

listen_to_gcm!(AeadAes128GcmCipher);
listen_to_gcm!(AeadAes256GcmCipher);

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, kind: u8, body: &[u8]) -> Vec<u8> {
        let words = u16::try_from(body.len() / 4).unwrap().to_be_bytes();
        [&[0x80 | first, kind, words[0], words[1]], body].concat()
    }

    fn nack(ssrc: u8, entries: &[[u8; 4]]) -> Vec<u8> {
        let body = [&[0, 0, 0, 9], &[0, 0, 0, ssrc], entries.concat().as_slice()].concat();
        packet(NACK, TRANSPORT_FEEDBACK, &body)
    }

    fn nacks(datagram: &[u8]) -> Vec<(u32, u16)> {
        super::heard(datagram).nacks
    }

    /// What is heard of a datagram that one of the ciphers protects.
    fn heard(compound: &[u8]) -> Vec<(u32, u16)> {
        listen(|| hear(compound.get(CLEAR..)));
        nacks(compound)
    }

    #[test]
    fn transport_cc_statuses_are_counted() {
        // Number of statuses, chunks, arrived, lost.
        let cases: [(u8, &[[u8; 2]], u32, u32); 7] = [
            (5, &[[0x20, 5]], 5, 0),
            (5, &[[0x00, 5]], 0, 5),
            (3, &[[0x40, 9]], 3, 0),
            // One bit each: 1011 0000 0000 00, of which 4 count.
            (4, &[[0xac, 0x00]], 3, 1),
            // Two bits each: 01 00 10 00 00 00 00.
            (7, &[[0xd2, 0x00]], 2, 5),
            (16, &[[0xbf, 0xff], [0x00, 2]], 14, 2),
            (20, &[[0x20, 5]], 5, 0),
        ];
        for (count, chunks, arrived, lost) in cases {
            let head = [0, 0, 0, 9, 0, 0, 0, 5, 1, 0, 0, count, 0, 0, 0, 1];
            let mut body = [&head[..], &chunks.concat()].concat();
            body.resize(body.len().next_multiple_of(4), 0);
            let feedback = packet(TRANSPORT_CC, TRANSPORT_FEEDBACK, &body);
            listen(|| hear(feedback.get(CLEAR..)));
            let said = super::heard(&feedback);
            assert_eq!((said.arrived, said.lost), (arrived, lost), "{chunks:x?}");
            for len in 0..feedback.len() {
                listen(|| hear(feedback.get(CLEAR..len)));
                let _ = super::heard(&feedback);
            }
        }
    }

    #[test]
    fn nacks_are_read_in_any_place_of_a_compound_packet() {
        let report = packet(1, 201, &[7; 28]);
        let one = nack(5, &[[0, 10, 0, 0]]);
        assert_eq!(heard(&one), [(5, 10)]);
        let wrapping = nack(6, &[[0xff, 0xff, 0x80, 0x03], [0, 20, 0, 0]]);
        let wanted = [(6, 65_535), (6, 0), (6, 1), (6, 15), (6, 20)];
        assert_eq!(heard(&wrapping), wanted);
        let all = [&report[..], &wrapping, &report, &one].concat();
        assert_eq!(heard(&all), [&wanted[..], &[(5, 10)]].concat());
        // Other feedback of the same kind or the same format.
        assert_eq!(heard(&packet(15, TRANSPORT_FEEDBACK, &[1; 16])), []);
        assert_eq!(heard(&packet(NACK, 206, &[1; 12])), []);
    }

    #[test]
    fn every_cipher_is_heard_in_both_directions_and_only_when_somebody_listens() {
        type Cipher<'a> = dyn FnMut(&[u8], &mut [u8]) + 'a;
        let provider = ListeningProvider;
        let aad = [2; 12];
        let mut cm = [true, false].map(|e| provider.aes_128_cm_sha1_80().create_cipher([1; 16], e));
        let mut small =
            [true, false].map(|e| provider.aead_aes_128_gcm().create_cipher([1; 16], e));
        let mut large =
            [true, false].map(|e| provider.aead_aes_256_gcm().create_cipher([1; 32], e));
        let ([cm_in, cm_out], [small_in, small_out], [large_in, large_out]) =
            (&mut cm, &mut small, &mut large);
        let compound = nack(5, &[[0, 10, 0, 0]]);
        let plain = compound.get(CLEAR..).unwrap();
        // Octets that the cipher text is longer by, the ciphers.
        let pairs: [(usize, Box<Cipher<'_>>, Box<Cipher<'_>>); 3] = [
            (
                0,
                Box::new(|from, to| cm_in.encrypt(&[3; 16], from, to).unwrap()),
                Box::new(|from, to| cm_out.decrypt(&[3; 16], from, to).unwrap()),
            ),
            (
                16,
                Box::new(|from, to| small_in.encrypt(&[3; 12], &aad, from, to).unwrap()),
                Box::new(|from, to| {
                    small_out.decrypt(&[3; 12], &[&aad], from, to).unwrap();
                }),
            ),
            (
                16,
                Box::new(|from, to| large_in.encrypt(&[3; 12], &aad, from, to).unwrap()),
                Box::new(|from, to| {
                    large_out.decrypt(&[3; 12], &[&aad], from, to).unwrap();
                }),
            ),
        ];
        for (more, mut encrypt, mut decrypt) in pairs {
            let len = plain.len() + more;
            // The counter mode wants room for a block.
            let mut text = vec![0; len + if more == 0 { 15 } else { 0 }];
            encrypt(plain, &mut text);
            assert_eq!(nacks(&compound), [], "nobody listens");
            listen(|| encrypt(plain, &mut text));
            assert_eq!(nacks(&compound), [(5, 10)]);
            text.truncate(len);
            let mut back = vec![0; plain.len() + if more == 0 { 15 } else { 0 }];
            listen(|| decrypt(&text, &mut back));
            assert_eq!(back.get(..plain.len()), Some(plain));
            assert_eq!(nacks(&compound), [(5, 10)]);
        }
    }

    #[test]
    fn what_is_cut_off_or_not_heard_names_nothing() {
        let long = nack(5, &[[0, 10, 0, 0], [0, 30, 0, 0]]);
        for len in 0..long.len() {
            assert_eq!(heard(&long[..len]), [], "{len}");
        }
        hear(long.get(CLEAR..));
        assert_eq!(nacks(&long), [], "nobody listened");
        listen(|| hear(None));
        assert_eq!(nacks(&long), [], "it could not be decrypted");
        assert_eq!(heard(&long).len(), 2);
        assert_eq!(nacks(&long), [], "it is forgotten");
    }
}
