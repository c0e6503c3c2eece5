//! Reads the fields of a request; every refusal names the field. `null` counts
//! as absent, because some clients serialise their unset fields.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::Error;

/// The value of a field, if the client gave one.
pub(in crate::rooms) fn optional<'a>(
    data: &'a Value,
    name: &str,
) -> Result<Option<&'a Value>, Error> {
    match data {
        Value::Object(fields) => Ok(fields.get(name).filter(|value| !value.is_null())),
        _ => Err(Error::field("data", "must be an object")),
    }
}

/// The value of a field that has to be there.
pub(in crate::rooms) fn required<'a>(data: &'a Value, name: &str) -> Result<&'a Value, Error> {
    optional(data, name)?.ok_or_else(|| Error::field(name, "is missing"))
}

/// Text that has to be there.
pub(in crate::rooms) fn string<'a>(data: &'a Value, name: &str) -> Result<&'a str, Error> {
    let value = required(data, name)?;
    value
        .as_str()
        .ok_or_else(|| Error::field(name, "must be a string"))
}

/// A truth value, false when absent.
pub(in crate::rooms) fn flag(data: &Value, name: &str) -> Result<bool, Error> {
    match optional(data, name)? {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(Error::field(name, "must be true or false")),
    }
}

/// An object, if the client gave one.
pub(in crate::rooms) fn optional_object<'a>(
    data: &'a Value,
    name: &str,
) -> Result<Option<&'a Value>, Error> {
    match optional(data, name)? {
        Some(Value::Object(_)) | None => optional(data, name),
        Some(_) => Err(Error::field(name, "must be an object")),
    }
}

/// A whole number in a range, if the client gave one. JavaScript and Python may
/// write it with a decimal point.
pub(in crate::rooms) fn integer<T: TryFrom<u64>>(
    data: &Value,
    name: &str,
    range: RangeInclusive<u64>,
) -> Result<Option<T>, Error> {
    let Some(value) = optional(data, name)? else {
        return Ok(None);
    };
    let integral = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number as u64);
    let number = value
        .as_u64()
        .or_else(|| value.as_f64().and_then(integral))
        .filter(|number| range.contains(number))
        .and_then(|number| T::try_from(number).ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            let (min, max) = (range.start(), range.end());
            let allowed = format!("must be a whole number from {min} to {max}");
            Err(Error::field(name, &allowed))
        }
    }
}

/// A number from 0 to `max`, 0 when absent.
pub(super) fn number(data: &Value, name: &str, max: f64) -> Result<f64, Error> {
    let Some(value) = optional(data, name)? else {
        return Ok(0.0);
    };
    let number = value.as_f64().filter(|number| (0.0..=max).contains(number));
    number.ok_or_else(|| Error::field(name, &format!("must be a number from 0 to {max}")))
}

/// Puts the name of the object that a field is in before an error's text.
pub(in crate::rooms) fn within(parent: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::BadField(text) => Error::BadField(format!("{parent}.{text}")),
        other => other,
    }
}

/// An object of at most `max` bytes of JSON, empty when absent.
pub(in crate::rooms) fn object(
    data: &Value,
    name: &str,
    max: usize,
) -> Result<Map<String, Value>, Error> {
    let fields = match optional(data, name)? {
        None => return Ok(Map::new()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(Error::field(name, "must be an object")),
    };
    let size = serde_json::to_vec(fields).map_or(usize::MAX, |json| json.len());
    if size > max {
        let allowed = format!("must be at most {max} bytes of JSON");
        return Err(Error::field(name, &allowed));
    }
    Ok(fields.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_name_the_field() {
        let data = json!({"a": 1, "n": null, "o": {"k": "0123456789"}});
        let refusals = [
            (string(&data, "a").err(), "a must be a string"),
            (string(&data, "n").err(), "n is missing"),
            (string(&data, "x").err(), "x is missing"),
            (string(&json!([1]), "x").err(), "data must be an object"),
            (flag(&data, "a").err(), "a must be true or false"),
            (
                integer::<u64>(&data, "a", 2..=3).err(),
                "a must be a whole number from 2 to 3",
            ),
            (
                integer::<u8>(&data, "o", 0..=3).map_err(within("p")).err(),
                "p.o must be a whole number from 0 to 3",
            ),
            (
                number(&data, "o", 1e6).err(),
                "o must be a number from 0 to 1000000",
            ),
            (optional_object(&data, "a").err(), "a must be an object"),
            (object(&data, "a", 9).err(), "a must be an object"),
            (
                object(&data, "o", 9).err(),
                "o must be at most 9 bytes of JSON",
            ),
        ];
        for (refusal, text) in refusals {
            assert_eq!(
                refusal.map(|error| error.to_string()).as_deref(),
                Some(text)
            );
        }
    }

    #[test]
    fn absent_fields() {
        let data = json!({"n": null});
        assert_eq!(flag(&data, "n"), Ok(false));
        assert_eq!(object(&data, "x", 9), Ok(Map::new()));
        assert_eq!(optional(&data, "n"), Ok(None));
    }
}
