//! Between str0m and SRTP: the RTCP of producing transports (RFC 3550, RFC 4585) in the
//! clear.
//!
//! str0m does not tell all that it asks a client for. Its raw packets would tell, at the
//! price of a copy of every RTP packet. So the ciphers are wrapped, and while a transport
//! has called [`listen`], the plain text of the one packet that it takes from str0m is kept
//! for [`heard`]. At all other times, and in the other direction, a wrapped cipher does
//! what the one inside does.

use std::cell::{Cell, RefCell};
use std::sync::LazyLock;

use super::rtcp::{self, Heard};
use str0m::crypto::{
    AeadAes128GcmCipher, AeadAes256GcmCipher, Aes128CmSha1_80Cipher, CryptoError, SrtpProvider,
    SupportedAeadAes128Gcm, SupportedAeadAes256Gcm, SupportedAes128CmSha1_80, from_feature_flags,
};

/// Octets at the start of an RTCP packet that SRTCP leaves in the clear (RFC 3711
/// §3.4).
const CLEAR: usize = 8;

thread_local! {
    /// The engine runs on one thread, and listens to one packet at a time.
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    /// The last packet heard: room for what is clear, then the plain text.
    static HEARD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

static INNER: LazyLock<&'static dyn SrtpProvider> =
    LazyLock::new(|| from_feature_flags().srtp_provider);

/// Runs what takes packets from str0m when none of them is RTP.
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

/// What a datagram says, when it is the one that was heard last. It is forgotten
/// then.
pub fn heard(datagram: &[u8]) -> Heard {
    HEARD.with_borrow_mut(|heard| {
        let mut said = Heard::default();
        let places = heard.get_mut(..CLEAR).zip(datagram.get(..CLEAR));
        if let Some((place, clear)) = places {
            place.copy_from_slice(clear);
            rtcp::read(heard, &mut said);
        }
        heard.clear();
        said
    })
}

fn hear(plain: &[u8]) {
    if LISTENING.get() {
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
        hear(input);
        self.0.encrypt(iv, input, output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 16],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.0.decrypt(iv, input, output)
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
                hear(input);
                self.0.encrypt(iv, aad, input, output)
            }

            fn decrypt(
                &mut self,
                iv: &[u8; 12],
                aads: &[&[u8]],
                input: &[u8],
                output: &mut [u8],
            ) -> Result<usize, CryptoError> {
                self.0.decrypt(iv, aads, input, output)
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
        packet(1, 205, &body)
    }

    fn nacks(datagram: &[u8]) -> Vec<(u32, u16)> {
        super::heard(datagram).nacks
    }

    /// What is heard of a datagram that one of the ciphers protects.
    fn heard(compound: &[u8]) -> Vec<(u32, u16)> {
        listen(|| hear(compound.get(CLEAR..).unwrap_or_default()));
        nacks(compound)
    }

    #[test]
    fn every_cipher_is_heard_when_it_encrypts_and_somebody_listens() {
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
            assert_eq!(nacks(&compound), []);
        }
    }

    #[test]
    fn what_is_cut_off_or_not_heard_names_nothing() {
        let long = nack(5, &[[0, 10, 0, 0], [0, 30, 0, 0]]);
        for len in 0..long.len() {
            assert_eq!(heard(&long[..len]), [], "{len}");
        }
        hear(long.get(CLEAR..).unwrap());
        assert_eq!(nacks(&long), [], "nobody listened");
        assert_eq!(heard(&long).len(), 2);
        assert_eq!(nacks(&long), [], "it is forgotten");
    }
}
