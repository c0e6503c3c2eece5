//! SRTP against the vectors of the RFCs, and against itself.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|it| u8::try_from(it.to_digit(16)?).ok())
        .collect();
    digits.chunks(2).map(|it| it[0] << 4 | it[1]).collect()
}

/// Session keys, without a derivation.
fn gcm(key: &[u8]) -> Cipher {
    let algorithm = if key.len() == 16 {
        &AES_128_GCM
    } else {
        &AES_256_GCM
    };
    Cipher::Gcm {
        key: Box::new(LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap())),
        salt: gcm_salt(*b"Quid pro quo\0\0\0\0"),
    }
}

#[test]
fn aes_gcm_is_that_of_rfc_7714() {
    let plain = "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 \
        69736120 696e2070 61727465 73207472 6573";
    let key: Vec<u8> = (0..32).collect();
    // §16.1.1 and §16.2.1.
    for (len, sealed) in [
        (
            16,
            "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 \
             0d294e6f 42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce",
        ),
        (
            32,
            "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 \
             9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
        ),
    ] {
        let cipher = gcm(&key[..len]);
        let place = Place {
            ssrc: 0x5501_a0b2,
            index: 0xf17b,
        };
        let mut packet = hex(plain);
        cipher.seal(&mut packet, 12, place, &[]).unwrap();
        assert_eq!(packet, hex(sealed), "{len}");
        cipher.open(&mut packet, 12, place, &[]).unwrap();
        assert_eq!(packet, hex(plain));
    }
}

#[test]
fn keys_are_derived_as_rfc_3711_b_3_says() {
    let master = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
    let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
    for (label, expected) in [
        (LABEL_RTP_KEY, "C61E7A93744F39EE10734AFE3FF7A087"),
        (LABEL_RTP_SALT, "30CBBC08863D8C85D49DB34A9AE1"),
        (LABEL_RTP_AUTH, "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"),
    ] {
        let expected = hex(expected);
        let mut out = vec![0; expected.len()];
        derive(&master, &salt, label, &mut out).unwrap();
        assert_eq!(out, expected, "{label}");
    }
}

/// RFC 3711 §B.2.
#[test]
fn counter_mode_is_that_of_the_rfc() {
    let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
    let key = EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &key).unwrap()).unwrap();
    let salt = u128::from_be_bytes(hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD0000").try_into().unwrap());
    let mut out = [0; 32];
    let place = Place { ssrc: 0, index: 0 };
    key_stream(&key, place.counter(salt), &mut out).unwrap();
    let expected = hex("E03EAD0935C95E80E166B16DD92B4EB4D23513162B02D0F72A43A2FE4A5F97AB");
    assert_eq!(out.to_vec(), expected);
}

const SUITES: [SrtpCryptoSuite; 4] = [
    SrtpCryptoSuite::AeadAes256Gcm,
    SrtpCryptoSuite::AeadAes128Gcm,
    SrtpCryptoSuite::AesCm128HmacSha180,
    SrtpCryptoSuite::AesCm128HmacSha132,
];

fn pair(suite: SrtpCryptoSuite) -> (Sealer, Opener) {
    let suite = Suite::of(suite).unwrap();
    let material: Vec<u8> = (0..).take(suite.material_len()).collect();
    let sealer = Sealer::new(suite, &material).unwrap();
    (sealer, Opener::new(suite, &material).unwrap())
}

fn rtp(sequence: u16) -> Vec<u8> {
    // One CSRC, and an extension of one word.
    let mut packet = vec![0x91, 96];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&[
        0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 2, 0xBE, 0xDE, 0, 1, 0x10, 7, 0, 0,
    ]);
    packet.extend_from_slice(b"payload");
    packet
}

#[test]
fn rtp_comes_back_once_and_only_as_it_was() {
    for suite in SUITES {
        let (sealer, mut opener) = pair(suite);
        // Over the wrap-around, out of order.
        for index in [65_000, 65_535, 65_537, 65_536, 98_304, 131_071, 131_073] {
            let plain = rtp(u16::try_from(index & 0xFFFF).unwrap());
            let mut packet = plain.clone();
            sealer.rtp(&mut packet, index).unwrap();
            assert_eq!(
                packet[..24],
                plain[..24],
                "{suite:?}: the header is in the clear"
            );
            assert_ne!(packet[24..31], plain[24..31]);
            for at in 0..packet.len() {
                let mut forged = packet.clone();
                forged[at] ^= 1;
                assert_eq!(opener.rtp(&mut forged), None, "{suite:?}: {at}");
            }
            let mut again = packet.clone();
            assert!(opener.rtp(&mut packet).is_some(), "{suite:?}: {index}");
            assert_eq!(packet, plain);
            assert_eq!(opener.rtp(&mut again), None, "{suite:?}: replayed");
        }
    }
}

#[test]
fn rtcp_comes_back_once_and_only_as_it_was() {
    for suite in SUITES {
        let (mut sealer, mut opener) = pair(suite);
        for len in [8u8, 40] {
            let plain: Vec<u8> = (0x80..).take(len.into()).collect();
            let mut packet = plain.clone();
            sealer.rtcp(&mut packet).unwrap();
            for at in 0..packet.len() {
                let mut forged = packet.clone();
                forged[at] ^= 1;
                assert_eq!(opener.rtcp(&mut forged), None, "{suite:?}: {at}");
            }
            let mut again = packet.clone();
            opener.rtcp(&mut packet).unwrap();
            assert_eq!(packet, plain, "{suite:?}");
            assert_eq!(opener.rtcp(&mut again), None, "{suite:?}: replayed");
        }
    }
}

#[test]
fn nothing_that_is_too_short_panics() {
    for suite in SUITES {
        let (mut sealer, mut opener) = pair(suite);
        for len in 0..64 {
            for first in [0x80, 0x90, 0x9F, 0xFF] {
                let mut packet = vec![first; len];
                let _ = opener.rtp(&mut packet.clone());
                let _ = opener.rtcp(&mut packet.clone());
                let _ = sealer.rtp(&mut packet.clone(), 1);
                let _ = sealer.rtcp(&mut packet);
            }
        }
    }
    for len in [0, 29, 31] {
        let suite = Suite::CounterMode { tag: 10 };
        let error = Sealer::new(suite, &vec![0; len]).unwrap_err().to_string();
        let expected = format!("srtpParameters.keyBase64: {len} octets, not 30");
        assert_eq!(error, expected);
    }
}

#[test]
fn the_remote_of_a_handshake_is_opened() {
    use crate::transport::sealing;
    for (profile, len) in [
        (SrtpProfile::AES128_CM_SHA1_80, 60),
        (SrtpProfile::AEAD_AES_128_GCM, 56),
        (SrtpProfile::AEAD_AES_256_GCM, 88),
    ] {
        let material = |client, len| KeyMaterial {
            profile,
            octets: (0..len).collect(),
            client,
        };
        for client in [true, false] {
            let mut sealer = sealing::Sealer::new(&material(client, len)).unwrap();
            let mut opener = Opener::of_remote(&material(!client, len)).unwrap();
            let plain = [&[0x80, 201, 0, 1][..], &[0, 0, 0, 7]].concat();
            let mut packet = plain.clone();
            assert!(sealer.seal_rtcp(&mut packet));
            let mut own = Opener::of_remote(&material(client, len)).unwrap();
            assert_eq!(own.rtcp(&mut packet.clone()), None);
            let mut opened = packet.clone();
            assert_eq!(opener.rtcp(&mut opened), Some(()));
            assert_eq!(opened, plain);
            assert_eq!(opener.rtcp(&mut packet), None, "it came before");
            // However many SSRCs it has had.
            for ssrc in 100..100 + MAX_RTCP_STREAMS as u32 + 1 {
                let mut packet = [&[0x80, 201, 0, 1][..], &ssrc.to_be_bytes()].concat();
                assert!(sealer.seal_rtcp(&mut packet));
                assert_eq!(opener.rtcp(&mut packet), Some(()));
            }
        }
        assert!(Opener::of_remote(&material(true, len - 1)).is_none());
    }
}
