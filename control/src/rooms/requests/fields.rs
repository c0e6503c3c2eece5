//! Reads the fields of a request; every refusal names the field. `null` counts
//! as absent, because some clients serialise their unset fields.

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
