//! Two tellings of desired properties as one, as the hub itself does for a device that was away. Pure.

use serde_json::{Map, Value};

use crate::azure::{Desired, DesiredScope};

/// What is desired after `earlier`, which nobody acted on yet, and `later`.
pub(super) fn merge(earlier: Option<Desired>, later: Desired) -> Desired {
    let Some(mut merged) = earlier else { return later };
    let keeps_null = match (&merged.scope, &later.scope) {
        (_, DesiredScope::Whole { .. }) => return later,
        (_, DesiredScope::Patch) if later.version <= merged.version => return merged,
        (DesiredScope::Whole { .. }, DesiredScope::Patch) => false,
        (DesiredScope::Patch, DesiredScope::Patch) => true,
    };
    apply(&mut merged.properties, later.properties, keeps_null);
    merged.version = later.version;
    merged
}

/// A twin's patch. In a whole, `null` removes; in another patch it stays, to remove later. Nested no deeper than JSON
/// is read.
pub(super) fn apply(to: &mut Map<String, Value>, patch: Map<String, Value>, keeps_null: bool) {
    for (name, value) in patch {
        match (to.get_mut(&name), value) {
            (_, Value::Null) if !keeps_null => _ = to.remove(&name),
            (Some(Value::Object(old)), Value::Object(new)) => apply(old, new, keeps_null),
            (_, Value::Object(new)) if !keeps_null => {
                let mut whole = Map::new();
                apply(&mut whole, new, keeps_null);
                to.insert(name, Value::Object(whole));
            }
            (_, value) => _ = to.insert(name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn desired(version: u64, properties: Value, whole: bool) -> Desired {
        let Value::Object(properties) = properties else { panic!("an object") };
        let scope = if whole { DesiredScope::Whole { reported: Map::new() } } else { DesiredScope::Patch };
        Desired { version, properties, scope }
    }

    #[test]
    fn a_patch_changes_what_it_names_and_removes_what_it_nulls() {
        let whole = desired(3, json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": 4 }), true);
        let merged = merge(
            Some(whole),
            desired(4, json!({ "b": { "d": 5 }, "e": null, "f": {"g": 6, "h": null} }), false),
        );
        assert_eq!(merged, desired(4, json!({ "a": 1, "b": { "c": 2, "d": 5 }, "f": {"g": 6} }), true));
    }

    #[test]
    fn two_patches_stay_a_patch_that_still_removes() {
        let merged = merge(
            Some(desired(3, json!({ "a": 1, "b": 2 }), false)),
            desired(5, json!({ "a": null }), false),
        );
        assert_eq!(merged, desired(5, json!({ "a": null, "b": 2 }), false));
    }

    #[test]
    fn a_whole_replaces_all_and_an_old_patch_nothing() {
        let patch = desired(7, json!({ "a": 1 }), false);
        let whole = desired(2, json!({ "b": 1 }), true);
        assert_eq!(merge(Some(patch.clone()), whole.clone()), whole);
        assert_eq!(merge(Some(patch.clone()), desired(7, json!({ "a": 2 }), false)), patch);
        assert_eq!(merge(None, patch.clone()), patch);
    }
}
