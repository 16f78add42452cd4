//! Finds the key that somebody meant who wrote one that doesn't exist.
//!
//! Knows no key by name.

use std::collections::BTreeSet;

use super::problems::{Place, Problem};
use super::table::Key;

/// Below this likeness a suggestion would rather mislead.
const LIKENESS: f64 = 0.8;

/// A key that nothing reads.
pub(super) struct Unknown {
    /// Dotted.
    pub(super) key: String,
    pub(super) place: Option<Place>,
    /// The keys that exist beside it.
    pub(super) siblings: Vec<&'static str>,
}

/// The problem to report for it, naming the likeliest key.
pub(super) fn unknown_key(unknown: &Unknown, keys: &BTreeSet<Key>) -> Problem {
    let (parent, name) = unknown.key.rsplit_once('.').unwrap_or(("", &unknown.key));
    let meant = nearest(name, unknown.siblings.iter().copied())
        .map(|sibling| super::table::join(parent, sibling))
        .or_else(|| elsewhere(&unknown.key, name, keys));
    let fix = match (meant, &unknown.place) {
        (Some(meant), Some(Place::Variable(_))) => format!("did you mean `{}`?", variable_name(&meant)),
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, _) if parent.is_empty() => {
            format!("remove it; the sections are {}", listed(&unknown.siblings))
        }
        (None, _) => format!("remove it; [{parent}] takes {}", listed(&unknown.siblings)),
    };
    Problem { key: unknown.key.clone(), place: unknown.place.clone(), reason: "unknown key".to_owned(), fix }
}

/// The name most like `given`, if one is like enough.
pub(super) fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    names
        .map(|name| (name, strsim::jaro_winkler(&given, name)))
        .filter(|(_, likeness)| *likeness >= LIKENESS)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(name, _)| name)
}

/// A key in another section: the same last name, or levels separated by `_` where `__` was due.
fn elsewhere(path: &str, name: &str, keys: &BTreeSet<Key>) -> Option<String> {
    let flat = path.replace('.', "_");
    keys.iter()
        .map(|key| key.path.as_str())
        .find(|key| key.replace('.', "_") == flat || key.rsplit('.').next() == Some(name))
        .map(str::to_owned)
}

/// The variable that sets a key.
fn variable_name(key: &str) -> String {
    format!("TTI_CONNECTOR__{}", key.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
