//! Ids of rooms and peers: chosen by clients, so checked here once.

use std::fmt;
use std::sync::Arc;

use rand::RngExt;

use crate::error::Error;

/// Longest id, in characters.
const MAX_LENGTH: usize = 128;

/// Paths that would collide with rooms of the same name.
const RESERVED_ROOMS: [&str; 1] = ["health"];

/// Letters of generated room ids.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Length of generated room ids.
const GENERATED_LENGTH: usize = 8;

/// The id of a room: 1–128 printable characters, not a reserved word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoomId(Arc<str>);

/// The id of a peer within its room: 1–128 printable characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerId(Arc<str>);

impl RoomId {
    /// Checks an id that came from outside.
    ///
    /// # Errors
    /// [`Error::BadField`] naming `roomId`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        check("roomId", text)?;
        if RESERVED_ROOMS.contains(&text) {
            let why = format!("\"{text}\" is reserved");
            return Err(Error::field("roomId", &why));
        }
        Ok(Self(text.into()))
    }

    /// A random id: 8 characters of a–z and 0–9.
    pub fn generate() -> Self {
        let mut random = rand::rng();
        let letter = |_| {
            let index = random.random_range(0..ALPHABET.len());
            char::from(ALPHABET.get(index).copied().unwrap_or(b'a'))
        };
        let id: String = (0..GENERATED_LENGTH).map(letter).collect();
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PeerId {
    /// Checks an id that came from outside.
    ///
    /// # Errors
    /// [`Error::BadField`] naming `peerId`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::parse_as("peerId", text)
    }

    /// As [`PeerId::parse`], for a field of another name.
    ///
    /// # Errors
    /// [`Error::BadField`] naming the field.
    pub fn parse_as(field: &str, text: &str) -> Result<Self, Error> {
        check(field, text)?;
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(field: &str, text: &str) -> Result<(), Error> {
    let blank = text.chars().all(char::is_whitespace);
    let too_long = text.chars().count() > MAX_LENGTH;
    if blank || too_long || !text.chars().all(printable) {
        return Err(Error::field(field, "must be 1 to 128 printable characters"));
    }
    Ok(())
}

/// Neither a control character nor a line or paragraph separator.
fn printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffd}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let longest = "é".repeat(MAX_LENGTH);
        for good in [
            "a",
            "8c6ljcfc",
            "Ünïcode room",
            "a/b?c&d",
            "🎥",
            longest.as_str(),
        ] {
            assert_eq!(RoomId::parse(good).unwrap().as_str(), good);
            assert_eq!(PeerId::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for bad in [
            "",
            " ",
            "\t",
            "a\nb",
            "a\0",
            "\u{7f}",
            "\u{2028}",
            too_long.as_str(),
        ] {
            let error = RoomId::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("roomId must"), "{bad:?}: {error}");
            let error = PeerId::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("peerId must"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn reserved_words_are_no_rooms() {
        assert!(RoomId::parse("health").is_err());
        assert!(PeerId::parse("health").is_ok());
    }

    #[test]
    fn generated_ids() {
        let id = RoomId::generate();
        assert_eq!(id.as_str().len(), 8);
        assert!(id.as_str().bytes().all(|b| ALPHABET.contains(&b)));
        assert_ne!(id, RoomId::generate());
    }
}
