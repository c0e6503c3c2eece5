//! Which versions of DTLS a client offers, as its ClientHello says, before anything is
//! answered. It may come in several fragments (RFC 6347 §4.2.3, RFC 9147 §5.5), in one
//! datagram or in many, out of order and more than once: with post-quantum key shares it is
//! longer than a datagram.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

/// Longest ClientHello, octets. Those with post-quantum key shares have 2,000; a longer one
/// is not read, and then counts as offering nothing.
const MAX_LEN: usize = 8192;

/// Record header (RFC 6347 §4.1): content type, version, epoch, number, length.
const EPOCH: std::ops::Range<usize> = 3..5;
const RECORD_HEADER: usize = 11;
const HANDSHAKE: u8 = 22;
/// Handshake message (RFC 6347 §4.2.2).
const CLIENT_HELLO: u8 = 1;
/// Extension (RFC 8446 §4.2.1).
const SUPPORTED_VERSIONS: usize = 43;
const DTLS_12: &[u8] = &[0xFE, 0xFD];
const DTLS_13: &[u8] = &[0xFE, 0xFC];
const RANDOM: usize = 32;

/// Versions that a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offer {
    dtls_12: bool,
    dtls_13: bool,
}

impl Offer {
    /// 1.3, and not 1.2.
    pub(super) fn is_only_13(self) -> bool {
        self.dtls_13 && !self.dtls_12
    }
}

/// What a datagram has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing of a ClientHello, or nothing new.
    Nothing,
    /// A part that was missing, and others still are.
    Part,
    /// The last part that was missing.
    Whole(Offer),
}

/// A ClientHello of which parts have come.
#[derive(Debug, Default)]
pub(super) struct Hello {
    body: Vec<u8>,
    /// Which octets of the body are there.
    there: Vec<bool>,
    missing: usize,
}

impl Hello {
    /// Takes in what a datagram has of it.
    pub(super) fn take(&mut self, mut datagram: &[u8]) -> Taken {
        let mut taken = Taken::Nothing;
        while let Some(fragments) = next_record(&mut datagram) {
            // Of another epoch: encrypted, or no handshake.
            let Some(mut fragments) = fragments else {
                continue;
            };
            while let Some(fragment) = next_fragment(&mut fragments) {
                if !fragment.is_first_hello || fragment.len > MAX_LEN {
                    // What is not read is decided by who can say why it is refused.
                    if fragment.is_first_hello {
                        return Taken::Whole(Offer::default());
                    }
                    continue;
                }
                taken = self.put(&fragment).unwrap_or(taken);
                if let Taken::Whole(_) = taken {
                    return taken;
                }
            }
        }
        taken
    }

    fn put(&mut self, fragment: &Fragment<'_>) -> Option<Taken> {
        // None at all decides nothing, and ends nothing that has begun.
        if fragment.len == 0 {
            return None;
        }
        // Of another length than before: one of them is forged, and the true one is sent
        // again.
        if self.body.len() != fragment.len {
            self.body = vec![0; fragment.len];
            self.there = vec![false; fragment.len];
            self.missing = fragment.len;
        }
        let range = fragment.at..fragment.at.checked_add(fragment.part.len())?;
        let there = self.there.get_mut(range.clone())?;
        let new = there.iter().filter(|it| !**it).count();
        if new == 0 {
            return None;
        }
        there.fill(true);
        self.body.get_mut(range)?.copy_from_slice(fragment.part);
        self.missing = self.missing.saturating_sub(new);
        Some(match self.missing {
            0 => Taken::Whole(offer(&self.body).unwrap_or_default()),
            _ => Taken::Part,
        })
    }
}

/// A piece of a handshake message.
struct Fragment<'a> {
    /// It belongs to a ClientHello that nothing came before.
    is_first_hello: bool,
    /// Octets of the whole message.
    len: usize,
    /// Where the piece begins.
    at: usize,
    part: &'a [u8],
}

/// The handshake fragments of the next record; `Some(None)` for a record without. `None`:
/// nothing more that is a record.
fn next_record<'a>(datagram: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let header = split(datagram, RECORD_HEADER)?;
    let body = vector(datagram, 2)?;
    let clear = header.first() == Some(&HANDSHAKE) && header.get(EPOCH) == Some(&[0, 0]);
    Some(clear.then_some(body))
}

fn next_fragment<'a>(record: &mut &'a [u8]) -> Option<Fragment<'a>> {
    let kind = number(record, 1)?;
    let len = number(record, 3)?;
    let message = number(record, 2)?;
    let at = number(record, 3)?;
    let part = vector(record, 3)?;
    Some(Fragment {
        is_first_hello: kind == usize::from(CLIENT_HELLO) && message == 0,
        len,
        at,
        part,
    })
}

/// The versions in the body of a ClientHello (RFC 8446 §4.1.2, RFC 6347 §4.2.1).
fn offer(mut body: &[u8]) -> Option<Offer> {
    let version = split(&mut body, 2)?;
    split(&mut body, RANDOM)?;
    // Session, cookie, cipher suites, compression.
    for width in [1, 1, 2, 1] {
        vector(&mut body, width)?;
    }
    // There need not be any.
    let mut extensions = match body {
        [] => body,
        _ => vector(&mut body, 2)?,
    };
    while let Some(kind) = number(&mut extensions, 2) {
        let mut extension = vector(&mut extensions, 2)?;
        if kind == SUPPORTED_VERSIONS {
            let versions = vector(&mut extension, 1)?;
            let has = |version| versions.chunks_exact(2).any(|it| it == version);
            return Some(Offer {
                dtls_12: has(DTLS_12),
                dtls_13: has(DTLS_13),
            });
        }
    }
    Some(Offer {
        dtls_12: version == DTLS_12,
        dtls_13: false,
    })
}

/// The first octets, and what follows.
fn split<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (first, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(first)
}

/// A big-endian number of at most three octets.
fn number(from: &mut &[u8], width: usize) -> Option<usize> {
    let octets = split(from, width)?;
    let add = |number, octet: &u8| number << 8 | usize::from(*octet);
    Some(octets.iter().fold(0, add))
}

/// Octets with their number in front.
fn vector<'a>(from: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let len = number(from, width)?;
    split(from, len)
}

#[cfg(test)]
mod tests {
    use super::fuzzing::record;
    use super::*;

    fn with_len(width: usize, octets: &[u8]) -> Vec<u8> {
        let len = u32::try_from(octets.len()).unwrap().to_be_bytes();
        [&len[4 - width..], octets].concat()
    }

    fn body(legacy: &[u8], versions: Option<&[&[u8]]>, more: usize) -> Vec<u8> {
        let mut extensions = [&[0, 10][..], &with_len(2, &vec![7; more])].concat();
        if let Some(versions) = versions {
            let list = with_len(1, &versions.concat());
            extensions.extend([&[0, 43][..], &with_len(2, &list)].concat());
        }
        [
            legacy,
            &[9; RANDOM],
            &with_len(1, &[]),
            &with_len(1, &[]),
            &with_len(2, &[0x13, 0x01]),
            &with_len(1, &[0]),
            &with_len(2, &extensions),
        ]
        .concat()
    }

    fn whole(body: &[u8]) -> Vec<u8> {
        record(CLIENT_HELLO, 0, body, 0, body.len())
    }

    const BOTH: Offer = Offer {
        dtls_12: true,
        dtls_13: true,
    };

    #[test]
    fn versions_are_read() {
        let grease: &[u8] = &[0x3A, 0x3A];
        for (legacy, versions, expected) in [
            (DTLS_12, None, (true, false)),
            (&[0xFE, 0xFF][..], None, (false, false)),
            (DTLS_12, Some(&[DTLS_13][..]), (false, true)),
            (DTLS_12, Some(&[grease, DTLS_13, DTLS_12][..]), (true, true)),
            (DTLS_12, Some(&[DTLS_12][..]), (true, false)),
            (DTLS_12, Some(&[][..]), (false, false)),
        ] {
            let datagram = whole(&body(legacy, versions, 30));
            let (dtls_12, dtls_13) = expected;
            let offer = Offer { dtls_12, dtls_13 };
            let case = format!("{legacy:?} {versions:?}");
            assert_eq!(
                Hello::default().take(&datagram),
                Taken::Whole(offer),
                "{case}"
            );
            assert_eq!(offer.is_only_13(), expected == (false, true));
        }
    }

    #[test]
    fn fragments_come_in_any_order_and_more_than_once() {
        let body = body(DTLS_12, Some(&[DTLS_13, DTLS_12]), 1500);
        for size in [1, 7, 100, 900, body.len() - 1] {
            let mut pieces: Vec<_> = (0..body.len())
                .step_by(size)
                .map(|at| record(CLIENT_HELLO, 0, &body, at, size.min(body.len() - at)))
                .collect();
            let last = pieces.pop().unwrap();
            for backwards in [false, true] {
                let mut hello = Hello::default();
                pieces.reverse();
                for piece in &pieces {
                    assert_eq!(hello.take(piece), Taken::Part, "{size} {backwards}");
                    assert_eq!(hello.take(piece), Taken::Nothing);
                }
                assert_eq!(hello.take(&last), Taken::Whole(BOTH));
            }
            // All of them in one datagram.
            let all = [pieces.concat(), last].concat();
            assert_eq!(Hello::default().take(&all), Taken::Whole(BOTH));
        }
    }

    #[test]
    fn pieces_may_overlap() {
        let body = body(DTLS_12, Some(&[DTLS_13, DTLS_12]), 100);
        let mut hello = Hello::default();
        let piece = |at, len| record(CLIENT_HELLO, 0, &body, at, len);
        assert_eq!(hello.take(&piece(20, 30)), Taken::Part);
        assert_eq!(hello.take(&piece(10, 30)), Taken::Part);
        assert_eq!(hello.take(&piece(15, 30)), Taken::Nothing);
        assert_eq!(hello.take(&piece(40, body.len() - 40)), Taken::Part);
        assert_eq!(hello.take(&piece(0, 11)), Taken::Whole(BOTH));
    }

    #[test]
    fn what_is_no_client_hello_is_passed_over() {
        let body = body(DTLS_12, None, 30);
        let mut hello = Hello::default();
        // Another message, another epoch, an alert, no record, nothing.
        let alert = [21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0];
        let noise = [
            record(2, 0, &body, 0, body.len()),
            record(CLIENT_HELLO, 1, &body, 0, body.len()),
            alert.to_vec(),
            vec![HANDSHAKE; 20],
            Vec::new(),
        ];
        for noise in &noise {
            assert_eq!(hello.take(noise), Taken::Nothing, "{noise:?}");
        }
        // In front of it, too.
        let datagram = [alert.to_vec(), whole(&body)].concat();
        assert!(matches!(hello.take(&datagram), Taken::Whole(_)));
    }

    #[test]
    fn what_contradicts_itself_keeps_nobody_out() {
        let body = body(DTLS_12, Some(&[DTLS_13]), 30);
        let longer = [&body[..], &[0; 5]].concat();
        let mut hello = Hello::default();
        assert_eq!(
            hello.take(&record(CLIENT_HELLO, 0, &body, 0, 20)),
            Taken::Part
        );
        assert_eq!(
            hello.take(&record(CLIENT_HELLO, 0, &longer, 20, 40)),
            Taken::Part
        );
        assert_eq!(
            hello.take(&record(CLIENT_HELLO, 0, &[], 0, 0)),
            Taken::Nothing
        );
        assert_eq!(
            hello.take(&record(CLIENT_HELLO, 0, &body, 0, 20)),
            Taken::Part
        );
        // A piece that ends behind the end.
        let mut wrong = record(CLIENT_HELLO, 0, &body, 20, body.len() - 20);
        wrong[13 + 8] += 1;
        assert_eq!(hello.take(&wrong), Taken::Nothing);
        let rest = record(CLIENT_HELLO, 0, &body, 20, body.len() - 20);
        let Taken::Whole(offer) = hello.take(&rest) else {
            panic!("it is whole");
        };
        assert!(offer.is_only_13());
        // One that is longer than it can be, and one that ends in the middle.
        let nothing = Taken::Whole(Offer::default());
        let long = vec![0; MAX_LEN + 1];
        let piece = record(CLIENT_HELLO, 0, &long, 0, 100);
        assert_eq!(Hello::default().take(&piece), nothing);
        assert_eq!(Hello::default().take(&whole(&body[..50])), nothing);
        // None at all decides nothing.
        assert_eq!(Hello::default().take(&whole(&[])), Taken::Nothing);
    }

    /// Every octet of it changed, every length.
    #[test]
    fn nothing_makes_it_panic() {
        let datagram = whole(&body(DTLS_12, Some(&[DTLS_13, DTLS_12]), 12));
        for at in 0..datagram.len() {
            for value in 0..=255 {
                let mut changed = datagram.clone();
                changed[at] = value;
                Hello::default().take(&changed);
            }
            Hello::default().take(&datagram[..at]);
        }
    }
}
