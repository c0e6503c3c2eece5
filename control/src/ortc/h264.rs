//! H.264 `profile-level-id` (RFC 6184 §8.1) and its offer/answer rules
//! (§8.2.2).

use super::types::{CodecParameters, ParameterValue};

const KEY: &str = "profile-level-id";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    ConstrainedHigh,
    High,
    PredictiveHigh444,
}

/// Levels in ascending order: 1b lies between 1 and 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// `level_idc` 10.
    One,
    /// `level_idc` 11 with constraint_set3.
    OneB,
    /// Any other, by its `level_idc`.
    Idc(u8),
}

/// `level_idc` of levels 1.1 to 5.2; 10 is [`Level::One`].
const LEVELS: [u8; 15] = [11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52];

/// constraint_set3_flag in profile_iop.
const CONSTRAINT_SET3: u8 = 0x10;

/// RFC 6184 table 5: profile_idc, and the bits of profile_iop that count with
/// the value that they must have.
const PROFILES: [(u8, u8, u8, Profile); 9] = [
    (0x42, 0x4f, 0x40, Profile::ConstrainedBaseline),
    (0x4d, 0x8f, 0x80, Profile::ConstrainedBaseline),
    (0x58, 0xcf, 0xc0, Profile::ConstrainedBaseline),
    (0x42, 0x4f, 0x00, Profile::Baseline),
    (0x58, 0xcf, 0x80, Profile::Baseline),
    (0x4d, 0xaf, 0x00, Profile::Main),
    (0x64, 0xff, 0x00, Profile::High),
    (0x64, 0xff, 0x0c, Profile::ConstrainedHigh),
    (0xf4, 0xff, 0x00, Profile::PredictiveHigh444),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProfileLevelId {
    profile: Profile,
    level: Level,
}

/// What an absent `profile-level-id` means to WebRTC endpoints: 42e01f.
const DEFAULT: ProfileLevelId = ProfileLevelId {
    profile: Profile::ConstrainedBaseline,
    level: Level::Idc(31),
};

impl ProfileLevelId {
    fn parse(text: &str) -> Option<Self> {
        if text.len() != 6 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let [_, profile_idc, profile_iop, level_idc] =
            u32::from_str_radix(text, 16).ok()?.to_be_bytes();
        let level = match level_idc {
            10 => Level::One,
            11 if profile_iop & CONSTRAINT_SET3 != 0 => Level::OneB,
            idc if LEVELS.contains(&idc) => Level::Idc(idc),
            _ => return None,
        };
        let (.., profile) = PROFILES
            .iter()
            .find(|(idc, mask, bits, _)| *idc == profile_idc && profile_iop & mask == *bits)?;
        Some(Self {
            profile: *profile,
            level,
        })
    }

    /// The usual spelling of this profile at `level`.
    fn spell(self) -> String {
        let profile = match self.profile {
            Profile::ConstrainedBaseline => 0x42e0_u32,
            Profile::Baseline => 0x4200,
            Profile::Main => 0x4d00,
            Profile::ConstrainedHigh => 0x640c,
            Profile::High => 0x6400,
            Profile::PredictiveHigh444 => 0xf400,
        };
        let (set3, level_idc) = match self.level {
            Level::One => (0, 10),
            Level::OneB => (CONSTRAINT_SET3, 11),
            Level::Idc(idc) => (0, idc),
        };
        format!("{:04x}{level_idc:02x}", profile | u32::from(set3))
    }
}

/// The text of a codec's profile-level-id. Some SDP parsers turn one that is
/// made of decimal digits (`640032`) into a number.
fn text_of(parameters: &CodecParameters) -> Option<String> {
    match parameters.get(KEY)? {
        ParameterValue::Text(text) => Some(text.clone()),
        ParameterValue::Integer(number) => Some(number.to_string()),
        // No profile-level-id looks like these: let parsing fail.
        ParameterValue::Number(_) | ParameterValue::Bool(_) => Some(String::new()),
    }
}

fn parse(parameters: &CodecParameters) -> Option<ProfileLevelId> {
    match text_of(parameters) {
        Some(text) => ProfileLevelId::parse(&text),
        None => Some(DEFAULT),
    }
}

/// Whether both name the same profile; levels may differ.
pub(super) fn same_profile(a: &CodecParameters, b: &CodecParameters) -> bool {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.profile == b.profile,
        _ => false,
    }
}

/// The profile-level-id that answers `offer` when `local` is what this side
/// has: the profile of both, at `local`'s level where both allow asymmetry,
/// else at the lower level. `None` where neither names one or the profiles
/// differ.
pub(super) fn answer(local: &CodecParameters, offer: &CodecParameters) -> Option<String> {
    let local_text = text_of(local);
    if local_text.is_none() && text_of(offer).is_none() {
        return None;
    }
    let (ours, theirs) = (parse(local)?, parse(offer)?);
    if ours.profile != theirs.profile {
        return None;
    }
    let asymmetry = allows_asymmetry(local) && allows_asymmetry(offer);
    if asymmetry || ours.level <= theirs.level {
        return Some(local_text.unwrap_or_else(|| ours.spell()));
    }
    let lowered = ProfileLevelId {
        level: theirs.level,
        ..ours
    };
    Some(lowered.spell())
}

fn allows_asymmetry(parameters: &CodecParameters) -> bool {
    let flag = parameters.get("level-asymmetry-allowed");
    flag.and_then(ParameterValue::as_integer) == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(profile_level_id: &str, asymmetry: bool) -> CodecParameters {
        let mut parameters = CodecParameters::new();
        if !profile_level_id.is_empty() {
            parameters.insert(KEY.into(), ParameterValue::Text(profile_level_id.into()));
        }
        if asymmetry {
            parameters.insert("level-asymmetry-allowed".into(), ParameterValue::Integer(1));
        }
        parameters
    }

    #[test]
    fn profiles_and_levels_are_read() {
        use Profile::*;
        for (text, expected) in [
            ("42e01f", Some((ConstrainedBaseline, Level::Idc(31)))),
            ("42E01F", Some((ConstrainedBaseline, Level::Idc(31)))),
            ("42c02a", Some((ConstrainedBaseline, Level::Idc(42)))),
            ("4de01f", Some((ConstrainedBaseline, Level::Idc(31)))),
            ("58f01f", Some((ConstrainedBaseline, Level::Idc(31)))),
            ("42001f", Some((Baseline, Level::Idc(31)))),
            ("42a01f", Some((Baseline, Level::Idc(31)))),
            ("58a01f", Some((Baseline, Level::Idc(31)))),
            ("4d001f", Some((Main, Level::Idc(31)))),
            ("4d0032", Some((Main, Level::Idc(50)))),
            ("4d400a", Some((Main, Level::One))),
            ("640c1f", Some((ConstrainedHigh, Level::Idc(31)))),
            ("64001f", Some((High, Level::Idc(31)))),
            ("640034", Some((High, Level::Idc(52)))),
            ("f4001f", Some((PredictiveHigh444, Level::Idc(31)))),
            ("42f00b", Some((ConstrainedBaseline, Level::OneB))),
            ("42100b", Some((Baseline, Level::OneB))),
            ("42e00b", Some((ConstrainedBaseline, Level::Idc(11)))),
            // Not a profile-level-id.
            ("", None),
            ("42e01", None),
            ("42e01f0", None),
            ("42e0zz", None),
            ("+2e01f", None),
            ("42e000", None),
            ("42e00f", None),
            ("42e0ff", None),
            ("42e11f", None),
            ("58601f", None),
            ("64041f", None),
            ("00001f", None),
            ("ü2e0f", None),
        ] {
            let expected = expected.map(|(profile, level)| ProfileLevelId { profile, level });
            assert_eq!(ProfileLevelId::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn profiles_match_whatever_the_level() {
        for (a, b, same) in [
            ("42e01f", "42e034", true),
            ("42e01f", "4de01f", true),
            ("42e01f", "", true),
            ("", "", true),
            ("42e01f", "42001f", false),
            ("4d001f", "4d0032", true),
            ("4d001f", "", false),
            ("64001f", "640c1f", false),
            ("garbage", "garbage", false),
        ] {
            assert_eq!(
                same_profile(&parameters(a, false), &parameters(b, false)),
                same,
                "{a} {b}"
            );
        }
    }

    #[test]
    fn answers_carry_the_right_level() {
        for (local, local_asymmetry, offer, offer_asymmetry, expected) in [
            // Asymmetry on both sides: the own level stays.
            ("4d001f", true, "4d0032", true, Some("4d001f")),
            ("42e034", true, "42e01f", true, Some("42e034")),
            // On one side or none: the lower level.
            ("42e034", true, "42e01f", false, Some("42e01f")),
            ("42e034", false, "42e01f", true, Some("42e01f")),
            ("42e01f", false, "42e034", false, Some("42e01f")),
            ("640034", false, "64001f", false, Some("64001f")),
            ("640c34", false, "640c1f", false, Some("640c1f")),
            ("f40034", false, "f4001f", false, Some("f4001f")),
            // 1b is between 1 and 1.1.
            ("42e00b", false, "42f00b", false, Some("42f00b")),
            ("42f00b", false, "42e00b", false, Some("42f00b")),
            ("42f00b", false, "42e00a", false, Some("42e00a")),
            ("4d000b", false, "4d100b", false, Some("4d100b")),
            ("42000b", false, "42100b", false, Some("42100b")),
            // One side leaves it out: 42e01f is meant.
            ("", false, "42e034", false, Some("42e01f")),
            ("42e034", false, "", false, Some("42e01f")),
            ("", true, "42e034", true, Some("42e01f")),
            // Nothing to say.
            ("", false, "", false, None),
            ("42e01f", false, "4d001f", false, None),
            ("garbage", false, "42e01f", false, None),
        ] {
            assert_eq!(
                answer(
                    &parameters(local, local_asymmetry),
                    &parameters(offer, offer_asymmetry)
                )
                .as_deref(),
                expected,
                "{local} {local_asymmetry} {offer} {offer_asymmetry}"
            );
        }
    }

    #[test]
    fn a_profile_level_id_that_was_read_as_a_number_counts() {
        let mut number = CodecParameters::new();
        number.insert(KEY.into(), ParameterValue::Integer(640_032));
        assert!(same_profile(&number, &parameters("64001f", false)));
        number.insert(KEY.into(), ParameterValue::Bool(true));
        assert!(!same_profile(&number, &parameters("64001f", false)));
        assert!(!same_profile(&number, &number));
    }
}
