//! Finds the key that somebody meant who wrote one that doesn't exist.
//!
//! Knows no key by name.

use std::collections::BTreeSet;

use super::problems::{Place, Problem};
use super::table::{Key, join};

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
    let meant = with_single_underscores(&unknown.key, keys)
        .or_else(|| nearest(name, unknown.siblings.iter().copied()).map(|sibling| join(parent, sibling)))
        .or_else(|| elsewhere(name, keys));
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
        .map(|name| (name, likeness(&given, name)))
        .filter(|(_, likeness)| *likeness >= LIKENESS)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(name, _)| name)
}

/// From 0 to 1. In short names one slip already weighs much, so it is judged apart.
fn likeness(given: &str, name: &str) -> f64 {
    let one_slip = name.len() >= 3 && strsim::damerau_levenshtein(given, name) == 1;
    strsim::jaro_winkler(given, name).max(if one_slip { 0.95 } else { 0.0 })
}

/// The key that was meant where a variable's levels are separated by `_` instead of `__`.
fn with_single_underscores(path: &str, keys: &BTreeSet<Key>) -> Option<String> {
    let flat = path.replace('.', "_");
    keys.iter().find(|key| key.path.replace('.', "_") == flat).map(|key| key.path.clone())
}

/// A key of that name in another section, the one nearest to the root.
fn elsewhere(name: &str, keys: &BTreeSet<Key>) -> Option<String> {
    let namesakes = keys.iter().filter(|key| key.path.rsplit('.').next() == Some(name));
    namesakes.min_by_key(|key| key.path.len()).map(|key| key.path.clone())
}

/// The variable that sets a key.
fn variable_name(key: &str) -> String {
    format!("TTI_CONNECTOR__{}", key.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
