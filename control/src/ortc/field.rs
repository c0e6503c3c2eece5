//! Reads untrusted JSON field by field and names the field in every refusal.
//!
//! `null` counts as absent everywhere, because some clients serialise their
//! unset fields.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::error::OrtcError;

/// One JSON value and the path that leads to it.
#[derive(Debug)]
pub(super) struct Field<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Field<'a> {
    /// The outermost value, with the name that errors shall use for it.
    pub(super) fn root(name: &str, value: &'a Value) -> Self {
        Self {
            value,
            path: name.to_owned(),
        }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A refusal of this field.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> OrtcError {
        OrtcError::invalid(self.path.clone(), reason)
    }

    /// Errors unless this is an object.
    pub(super) fn object(&self) -> Result<&'a serde_json::Map<String, Value>, OrtcError> {
        self.value
            .as_object()
            .ok_or_else(|| self.refuse("must be an object"))
    }

    /// The member `name` of this object, if it is there and not `null`.
    pub(super) fn optional(&self, name: &str) -> Result<Option<Field<'a>>, OrtcError> {
        let member = self.object()?.get(name).filter(|value| !value.is_null());
        Ok(member.map(|value| self.member(name, value)))
    }

    /// The member `name` of this object.
    pub(super) fn required(&self, name: &str) -> Result<Field<'a>, OrtcError> {
        self.optional(name)?
            .ok_or_else(|| OrtcError::invalid(format!("{}.{name}", self.path), "is missing"))
    }

    /// A value found in this object, with `name` in its path.
    pub(super) fn member(&self, name: &str, value: &'a Value) -> Field<'a> {
        Field {
            value,
            path: format!("{}.{name}", self.path),
        }
    }

    /// The entries of this array, at most `max` of them.
    pub(super) fn items(&self, max: usize) -> Result<Vec<Field<'a>>, OrtcError> {
        let Some(array) = self.value.as_array() else {
            return Err(self.refuse("must be an array"));
        };
        if array.len() > max {
            return Err(self.refuse(format!(
                "must have at most {max} entries, has {}",
                array.len()
            )));
        }
        let entry = |(index, value)| Field {
            value,
            path: format!("{}[{index}]", self.path),
        };
        Ok(array.iter().enumerate().map(entry).collect())
    }

    /// The entries of the array `name` of this object; none when it is absent.
    pub(super) fn list(&self, name: &str, max: usize) -> Result<Vec<Field<'a>>, OrtcError> {
        match self.optional(name)? {
            Some(field) => field.items(max),
            None => Ok(Vec::new()),
        }
    }

    /// An integer within `range`; 1.0 and "1" are none.
    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Result<u32, OrtcError> {
        self.value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                self.refuse(format!(
                    "must be an integer in {}..={}",
                    range.start(),
                    range.end()
                ))
            })
    }

    /// An integer that fits one octet, within `range`.
    pub(super) fn octet(&self, range: RangeInclusive<u8>) -> Result<u8, OrtcError> {
        let number = self.integer(u32::from(*range.start())..=u32::from(*range.end()))?;
        u8::try_from(number).map_err(|_| self.refuse("must be an integer in 0..=255"))
    }

    pub(super) fn boolean(&self) -> Result<bool, OrtcError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.refuse("must be true or false"))
    }

    /// Text of at most `max` octets without control characters: much of it
    /// ends in the session descriptions of other clients, where a line break
    /// would begin a line of the sender's choice.
    pub(super) fn text(&self, max: usize) -> Result<&'a str, OrtcError> {
        let Some(text) = self.value.as_str() else {
            return Err(self.refuse("must be a string"));
        };
        if text.len() > max {
            return Err(self.refuse(format!("must have at most {max} octets")));
        }
        if text.chars().any(char::is_control) {
            return Err(self.refuse("must not contain control characters"));
        }
        Ok(text)
    }

    /// Non-empty printable ASCII without spaces, of at most `max` octets.
    pub(super) fn word(&self, max: usize) -> Result<&'a str, OrtcError> {
        let text = self.text(max)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.refuse("must be printable ASCII without spaces, and not empty"));
        }
        Ok(text)
    }
}
