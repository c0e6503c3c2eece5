//! What admins are told of the configuration, held against all settings there are.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ALL, Config, GIVEN, config};

/// Each has its place there, secrets as being set.
#[test]
fn every_setting_is_told() {
    let told = leaves(&config(&[], GIVEN).redacted_json());
    let untouched = leaves(&Config::default().redacted_json());
    for (name, value) in &told {
        assert_ne!(*value, untouched[name], "{name}");
    }
    // LOG_LEVEL and RUST_LOG are one value.
    assert_eq!(told.len(), ALL.len() - 1);
}

/// What is no object, by the way to it; but for where values come from.
fn leaves(json: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut left = vec![(String::new(), json)];
    while let Some((way, value)) = left.pop() {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(name, _)| *name != "sources");
                left.extend(fields.map(|(name, value)| (format!("{way}/{name}"), value)));
            }
            value => {
                found.insert(way, value.clone());
            }
        }
    }
    found
}
