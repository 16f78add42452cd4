//! What is known of a hub device's desired properties between two starts: which value of each was applied last.
//!
//! Pure. Knows no store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::downlink::EntryId;
use crate::downlink::merge::apply;

/// Of the JSON on disk; only a change that an older version would misread raises it.
const FORMAT: u32 = 1;

/// A hub device's desired properties as far as they were acted on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    format: u32,
    /// The newest version of the desired properties that was seen.
    pub(super) version: u64,
    /// Counts what happened to properties. Our own, since the hub's versions begin anew with a device that is made
    /// anew.
    changes: u64,
    properties: BTreeMap<String, Property>,
}

/// One property.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Property {
    /// When, in changes, something last happened to it. Tells one application of a value from the next of the same.
    change: u64,
    /// What was applied last; absent after the property was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
    /// What is desired now, if it is an object: changes tell only those of its fields that change.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    desired: Value,
    /// The object that the acknowledgement's `value` may hold at the hub. A patch merges into it, so what is to
    /// disappear must be named.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    shadow: Value,
}

/// A value that was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    /// Of the value.
    pub(super) hash: String,
    /// The version with which it came.
    pub(super) version: u64,
    /// Its downlink in the ledger, as text; absent when another installation applied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self { format: FORMAT, version: 0, changes: 0, properties: BTreeMap::new() }
    }
}

impl Last {
    /// Its downlink, if it was ours.
    pub(super) fn entry(&self) -> Option<EntryId> {
        self.entry.as_deref().and_then(EntryId::from_hex)
    }
}

impl State {
    /// Reads back [`State::write`]. `None` if this version can't.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().filter(|state: &Self| state.format == FORMAT)
    }

    /// As it lies on disk.
    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of texts, numbers and JSON is always JSON")
    }

    /// Whether anything ever happened to the property.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.properties.get(name).is_some_and(|property| property.change > 0)
    }

    /// What was applied last.
    pub(super) fn last(&self, name: &str) -> Option<&Last> {
        self.properties.get(name)?.last.as_ref()
    }

    /// The property's place in the device's history; part of the identity of its next downlink.
    pub(super) fn change(&self, name: &str) -> u64 {
        self.properties.get(name).map_or(0, |property| property.change)
    }

    /// Names of properties with an applied value.
    pub(super) fn applied(&self) -> impl Iterator<Item = &str> {
        self.properties.iter().filter(|(_, property)| property.last.is_some()).map(|(name, _)| name.as_str())
    }

    /// A value was applied: its downlink is queued, or never will be.
    pub(super) fn apply(&mut self, name: &str, hash: String, version: u64, entry: Option<EntryId>) {
        let last = Last { hash, version, entry: entry.map(|entry| entry.to_string()) };
        self.moved(name).last = Some(last);
    }

    /// The property was removed: should its last value come again, that is a change.
    pub(super) fn remove(&mut self, name: &str) {
        let property = self.moved(name);
        property.last = None;
        property.desired = Value::Null;
    }

    /// The next downlink is another one, even with the same value.
    pub(super) fn bump(&mut self, name: &str) {
        self.moved(name);
    }

    fn moved(&mut self, name: &str) -> &mut Property {
        self.changes += 1;
        let property = self.properties.entry(name.to_owned()).or_default();
        property.change = self.changes;
        property
    }

    /// All of a property's value, of which `patch` told what changed.
    pub(super) fn patched(&self, name: &str, patch: Value) -> Value {
        let before = self.properties.get(name).and_then(|property| property.desired.as_object());
        let mut whole = Map::from_iter(before.map(|before| (name.to_owned(), Value::Object(before.clone()))));
        apply(&mut whole, Map::from_iter([(name.to_owned(), patch)]), false);
        whole.remove(name).unwrap_or_default()
    }

    /// This is desired now. True if that is news.
    pub(super) fn set_desired(&mut self, name: &str, value: &Value) -> bool {
        let desired = if value.is_object() { value } else { &Value::Null };
        if self.properties.get(name).map_or(&Value::Null, |property| &property.desired) == desired {
            return false;
        }
        self.properties.entry(name.to_owned()).or_default().desired = desired.clone();
        true
    }

    /// What the hub may hold as the acknowledgement's value.
    pub(super) fn shadow(&self, name: &str) -> &Value {
        self.properties.get(name).map_or(&Value::Null, |property| &property.shadow)
    }

    /// `value` is about to be acknowledged. True if that is news that must be on disk first.
    pub(super) fn foreshadow(&mut self, name: &str, value: &Value) -> bool {
        let shadow = union(self.shadow(name), value);
        self.set_shadow(name, shadow)
    }

    /// The hub holds exactly this now. True if that is news.
    pub(super) fn set_shadow(&mut self, name: &str, value: Value) -> bool {
        let shadow = if value.is_object() { value } else { Value::Null };
        if *self.shadow(name) == shadow {
            return false;
        }
        self.properties.entry(name.to_owned()).or_default().shadow = shadow;
        true
    }
}

/// Everything that either of two values names.
fn union(one: &Value, other: &Value) -> Value {
    let (Value::Object(one), Value::Object(other)) = (one, other) else {
        return if other.is_object() { other.clone() } else { one.clone() };
    };
    let mut both = one.clone();
    for (name, value) in other {
        let value = both.get(name).map_or_else(|| value.clone(), |before| union(before, value));
        both.insert(name.clone(), value);
    }
    Value::Object(both)
}

/// The patch that makes exactly `value` of whatever of `shadow` is there: what must disappear is `null`.
pub(super) fn replacing(shadow: &Value, value: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (shadow, value) else { return value.clone() };
    let gone =
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let kept = after.iter().map(|(name, value)| {
        (name.clone(), before.get(name).map_or_else(|| value.clone(), |before| replacing(before, value)))
    });
    Value::Object(gone.chain(kept).collect::<Map<_, _>>())
}

/// The same for the same JSON, whatever the order of its fields and whether `1` is spelt `1.0`; 32 digits.
pub(super) fn hash(value: &Value) -> String {
    let mut text = Vec::new();
    canonical(value, &mut text);
    let digest = Sha256::digest(&text);
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn canonical(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Number(number) => match number.as_f64() {
            // Exact in both notations.
            Some(double) if double.fract() == 0.0 && double.abs() < 9e15 => {
                text.extend_from_slice(format!("{double:.0}").as_bytes());
            }
            Some(_) | None => text.extend_from_slice(number.to_string().as_bytes()),
        },
        Value::Array(values) => {
            text.push(b'[');
            for value in values {
                canonical(value, text);
                text.push(b',');
            }
            text.push(b']');
        }
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            text.push(b'{');
            for (name, value) in sorted {
                text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                text.push(b':');
                canonical(value, text);
                text.push(b',');
            }
            text.push(b'}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {
            text.extend_from_slice(value.to_string().as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_json_has_one_hash_and_different_json_has_two() {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let one = parse(r#"{"a":1,"b":[true,{"x":null,"y":"ü"}]}"#);
        let same = parse(r#"{ "b": [true, {"y":"\u00fc","x":null}], "a": 1.0 }"#);
        assert_eq!(hash(&one), hash(&same));
        assert_eq!(hash(&json!(-0.0)).len(), 32);
        for (one, other) in [
            (json!(1), json!("1")),
            (json!([1, 2]), json!([12])),
            (json!([[1], 2]), json!([[1, 2]])),
            (json!({"a": 1}), json!({"b": 1})),
            (json!(null), json!({})),
            (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992_u64)),
        ] {
            assert_ne!(hash(&one), hash(&other), "{one} {other}");
        }
    }

    #[test]
    fn a_patch_names_what_must_disappear() {
        for (shadow, value, patch) in [
            (json!(null), json!({"a": 1}), json!({"a": 1})),
            (json!({"a": 1, "b": 2}), json!({"a": 3}), json!({"a": 3, "b": null})),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 1}}), json!({"a": {"x": 1, "y": null}})),
            (json!({"a": 1}), json!(5), json!(5)),
            (json!({"a": {"x": 1}}), json!({"a": [1]}), json!({"a": [1]})),
        ] {
            assert_eq!(replacing(&shadow, &value), patch);
        }
        let mut state = State::default();
        assert!(state.foreshadow("p", &json!({"a": {"x": 1}})));
        assert!(state.foreshadow("p", &json!({"a": {"y": 1}, "b": 1})));
        assert_eq!(*state.shadow("p"), json!({"a": {"x": 1, "y": 1}, "b": 1}));
        assert!(!state.foreshadow("p", &json!({"b": 1})), "nothing new");
        assert!(state.set_shadow("p", json!(7)), "it no longer holds an object");
        assert!(!state.knows("p"), "a shadow is no history");
    }

    #[test]
    fn the_state_survives_the_disk_and_each_application_is_another_change() {
        let mut state = State::default();
        let id = EntryId::of(&[b"one"]);
        state.apply("p", "h".to_owned(), 4, Some(id));
        let first = state.change("p");
        state.apply("p", "h".to_owned(), 5, None);
        assert!(state.change("p") > first);
        state.remove("q");
        assert!(state.set_desired("r", &json!({"a": {"x": 1, "y": 2}})));
        let back = State::read(&state.write()).expect("its own");
        assert_eq!(back, state);
        assert_eq!(back.applied().collect::<Vec<_>>(), ["p"]);
        assert!(back.knows("q") && back.last("q").is_none());
        let patch = json!({"a": {"x": null, "z": 3}, "b": {"c": null}});
        assert_eq!(back.patched("r", patch), json!({"a": {"y": 2, "z": 3}, "b": {}}));
        assert_eq!(back.patched("r", json!(5)), json!(5));
        assert_eq!(back.patched("s", json!({"a": 1, "b": null})), json!({"a": 1}));
        assert_eq!(State::read(b"{\"format\":2}"), None);
    }
}
