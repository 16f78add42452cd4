//! A device's twin as plain data: tags, desired and reported properties with their versions and times.
//!
//! Pure: knows no device registry, no wire and no limits (`twin_limits` does).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::reply::timestamp;

/// A new twin's version, as at IoT Hub.
const FIRST_VERSION: u64 = 2;

/// Members of a JSON object, by name.
pub type Properties = Map<String, Value>;

/// One device's twin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// What only the service side sees.
    pub tags: Properties,
    /// What the service side wants.
    pub desired: Section,
    /// What the device says.
    pub reported: Section,
    /// Counts all changes, from 2 on.
    pub version: u64,
    /// Counts changes from the service side; the etag is made of it.
    service_version: u64,
}

/// Desired or reported properties.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The properties, without any name that begins with `$`.
    pub properties: Properties,
    /// `$version`: 1 at first, one more with every change.
    pub version: u64,
    times: Stamp,
}

/// When a property was last written, and in which version; the same for its members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Stamp {
    at_ms: i64,
    version: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    members: BTreeMap<String, Stamp>,
}

impl Twin {
    /// The twin of a device made at `now_ms`.
    pub(super) fn fresh(now_ms: i64) -> Self {
        let section = Section {
            properties: Properties::new(),
            version: 1,
            times: Stamp { at_ms: now_ms, version: 1, members: BTreeMap::new() },
        };
        Self {
            tags: Properties::new(),
            desired: section.clone(),
            reported: section,
            version: FIRST_VERSION,
            service_version: 1,
        }
    }

    /// Whether it was never changed.
    pub(super) fn is_fresh(&self) -> bool {
        self.version == FIRST_VERSION
    }

    /// Changes with every update from the service side, not with the device's; without quotes.
    pub fn etag(&self) -> String {
        STANDARD.encode(self.service_version.to_be_bytes())
    }

    /// Merges patches of the service side; `None` leaves a part and its version alone.
    pub(super) fn patch_service(
        &mut self,
        tags: Option<&Properties>,
        desired: Option<&Properties>,
        now_ms: i64,
    ) {
        if let Some(patch) = tags {
            merge(&mut self.tags, &mut Stamp::default(), patch, (now_ms, 0));
        }
        if let Some(patch) = desired {
            self.desired.patch(patch, now_ms);
        }
        self.version += 1;
        self.service_version += 1;
    }

    /// Merges a patch of the device.
    pub(super) fn patch_reported(&mut self, patch: &Properties, now_ms: i64) {
        self.reported.patch(patch, now_ms);
        self.version += 1;
    }

    /// What a device gets: properties and versions, neither tags nor times.
    pub(super) fn for_device(&self) -> Value {
        json!({ "desired": self.desired.bare(), "reported": self.reported.bare() })
    }

    /// `tags` and `properties` as the service side gets them.
    pub(super) fn properties_for_service(&self) -> Value {
        json!({ "desired": self.desired.full(true), "reported": self.reported.full(false) })
    }
}

impl Section {
    fn patch(&mut self, patch: &Properties, now_ms: i64) {
        self.version += 1;
        merge(&mut self.properties, &mut self.times, patch, (now_ms, self.version));
    }

    /// With `$version`.
    fn bare(&self) -> Value {
        with_version(self.properties.clone(), self.version)
    }

    /// With `$version` and `$metadata`; only desired properties tell the version of each.
    fn full(&self, versions: bool) -> Value {
        let mut properties = self.properties.clone();
        properties.insert("$metadata".to_owned(), self.times.metadata(versions));
        with_version(properties, self.version)
    }
}

impl Stamp {
    fn metadata(&self, versions: bool) -> Value {
        let mut shown = Properties::new();
        shown.insert("$lastUpdated".to_owned(), timestamp(self.at_ms).into());
        if versions {
            shown.insert("$lastUpdatedVersion".to_owned(), self.version.into());
        }
        for (name, member) in &self.members {
            shown.insert(name.clone(), member.metadata(versions));
        }
        Value::Object(shown)
    }
}

/// Adds `$version`.
pub(super) fn with_version(mut properties: Properties, version: u64) -> Value {
    properties.insert("$version".to_owned(), version.into());
    Value::Object(properties)
}

/// JSON merge patch: `null` removes, objects are merged, all else replaces. `at` is time and version.
fn merge(values: &mut Properties, stamp: &mut Stamp, patch: &Properties, at: (i64, u64)) {
    (stamp.at_ms, stamp.version) = at;
    for (name, wanted) in patch {
        match wanted {
            Value::Null => {
                values.remove(name);
                stamp.members.remove(name);
            }
            Value::Object(inner) => {
                let slot = values.entry(name.clone()).or_insert(Value::Null);
                let member = stamp.members.entry(name.clone()).or_default();
                if !slot.is_object() {
                    *slot = Value::Object(Properties::new());
                    member.members.clear();
                }
                if let Value::Object(slot) = slot {
                    merge(slot, member, inner, at);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                values.insert(name.clone(), wanted.clone());
                let (at_ms, version) = at;
                let leaf = Stamp { at_ms, version, members: BTreeMap::new() };
                stamp.members.insert(name.clone(), leaf);
            }
        }
    }
}

/// The merge patch that turns `old` into `new`: all of `new`, and `null` for what is not in it.
pub(super) fn replacing(old: &Properties, new: &Properties) -> Properties {
    let mut patch = Properties::new();
    for (name, wanted) in new {
        let value = match (old.get(name), wanted) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(replacing(old, new)),
            (_, wanted) => wanted.clone(),
        };
        patch.insert(name.clone(), value);
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Properties, Twin, replacing};

    fn object(value: Value) -> Properties {
        match value {
            Value::Object(object) => object,
            other => panic!("no object: {other}"),
        }
    }

    #[test]
    fn a_patch_merges_objects_replaces_values_and_arrays_and_removes_with_null() {
        let mut twin = Twin::fresh(0);
        let first = object(json!({ "a": 1, "b": { "x": 1, "y": [1, 2] }, "gone": { "deep": true } }));
        twin.patch_service(None, Some(&first), 1000);
        let second = object(json!({
            "a": { "now": "object" }, "b": { "y": [3] }, "gone": null, "never": null, "new": { "n": null },
        }));
        twin.patch_service(None, Some(&second), 2000);
        let expected = json!({ "a": { "now": "object" }, "b": { "x": 1, "y": [3] }, "new": {} });
        assert_eq!(Value::Object(twin.desired.properties.clone()), expected);
        assert_eq!((twin.desired.version, twin.reported.version, twin.version), (3, 1, 4));
    }

    #[test]
    fn each_property_keeps_the_time_and_version_of_its_own_last_change() {
        let mut twin = Twin::fresh(0);
        twin.patch_service(None, Some(&object(json!({ "a": { "x": 1, "y": 1 }, "b": 1 }))), 1000);
        twin.patch_service(None, Some(&object(json!({ "a": { "x": 2 } }))), 2000);
        twin.patch_reported(&object(json!({ "r": 1 })), 3000);
        let shown = twin.properties_for_service();
        let (one, two) = ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z");
        assert_eq!(
            shown["desired"]["$metadata"],
            json!({
                "$lastUpdated": two, "$lastUpdatedVersion": 3,
                "a": {
                    "$lastUpdated": two, "$lastUpdatedVersion": 3,
                    "x": { "$lastUpdated": two, "$lastUpdatedVersion": 3 },
                    "y": { "$lastUpdated": one, "$lastUpdatedVersion": 2 },
                },
                "b": { "$lastUpdated": one, "$lastUpdatedVersion": 2 },
            })
        );
        let three = "1970-01-01T00:00:03.000Z";
        let reported = json!({
            "r": 1, "$version": 2, "$metadata": { "$lastUpdated": three, "r": { "$lastUpdated": three } },
        });
        assert_eq!(shown["reported"], reported);
        assert_eq!(twin.for_device()["reported"], json!({ "r": 1, "$version": 2 }));
    }

    #[test]
    fn the_etag_changes_with_the_service_and_not_with_the_device() {
        let mut twin = Twin::fresh(0);
        let first = twin.etag();
        twin.patch_reported(&object(json!({ "r": 1 })), 0);
        assert_eq!(twin.etag(), first);
        twin.patch_service(Some(&object(json!({ "t": 1 }))), None, 0);
        assert_ne!(twin.etag(), first);
        assert_eq!((twin.desired.version, twin.version), (1, 4), "tags have no version of their own");
    }

    #[test]
    fn a_replacement_is_told_as_a_patch() {
        let old = object(json!({ "a": 1, "b": { "x": 1, "y": 1 }, "c": [1] }));
        let new = object(json!({ "b": { "y": 1 }, "d": 1 }));
        let patch = replacing(&old, &new);
        assert_eq!(
            Value::Object(patch.clone()),
            json!({ "a": null, "b": { "x": null, "y": 1 }, "c": null, "d": 1 })
        );
        let mut twin = Twin::fresh(0);
        twin.patch_service(None, Some(&old), 0);
        twin.patch_service(None, Some(&patch), 0);
        assert_eq!(twin.desired.properties, new);
    }
}
