//! Joins the configuration file and the environment into one tree that remembers where each value came from.
//!
//! Knows which variables are ours and how their names spell keys; knows no key itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::problems::{Place, Problem};
use super::{MAX_FILE_BYTES, files};

/// Every variable that sets a key starts so. Kubernetes sets `TTI_CONNECTOR_PORT` and the like for a service of our
/// name, so names with a single underscore here are not ours to judge.
const PREFIX: &str = "TTI_CONNECTOR__";

/// Deepest key: `downlink.applications.<id>.methods.<name>.port`. A name with more parts is not a key.
const MAX_DEPTH: usize = 6;

/// File and environment, the latter winning key by key.
pub(super) struct Layers {
    figment: Figment,
    /// How many variables of ours were found.
    pub(super) variables: usize,
}

impl Layers {
    /// Reads both. What can't be read at all becomes a problem; the rest is still judged.
    pub(super) fn read(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut figment = Figment::new();
        if let Some(layer) = file.and_then(|path| file_layer(path).map_err(|p| problems.push(*p)).ok()) {
            figment = figment.merge(layer);
        }
        let variables = variable_layers(env, problems);
        let count = variables.len();
        for layer in variables {
            figment = figment.merge(layer);
        }
        Self { figment, variables: count }
    }

    /// The joined tree.
    pub(super) fn root(&self) -> Dict {
        // Our providers never fail and use the default profile alone.
        self.figment
            .data()
            .ok()
            .and_then(|mut profiles| profiles.remove(&Profile::Default))
            .unwrap_or_default()
    }

    /// Where a value of the tree was given.
    pub(super) fn place(&self, value: &Value) -> Option<Place> {
        match self.figment.get_metadata(value.tag())?.source.as_ref()? {
            Source::File(path) => Some(Place::File(path.clone())),
            Source::Custom(name) => Some(Place::Variable(name.clone())),
            // `Source` is open to additions; we give no other.
            _ => None,
        }
    }
}

/// One source of values.
struct Layer {
    values: Dict,
    source: Source,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named("configuration").source(self.source.clone())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn file_layer(path: &Path) -> Result<Layer, Box<Problem>> {
    let problem = |reason: String, fix: &str| {
        let place = Some(Place::File(path.to_owned()));
        Box::new(Problem { key: String::new(), place, reason, fix: fix.to_owned() })
    };
    let text = files::read_text(path, MAX_FILE_BYTES).map_err(|error| {
        problem(
            format!("the configuration file can't be read: {error}"),
            "name a readable file with --config",
        )
    })?;
    // The error's own text would show the line, and with it perhaps a secret.
    let values: Dict = Toml::from_str(&text).map_err(|error| {
        let (line, column) = error.span().map_or((1, 1), |span| position(&text, span.start));
        let message = error.message().trim().replace('\n', ", ");
        problem(
            format!("not valid TOML at line {line}, column {column}: {message}"),
            "put that line right; text stands in quotes: key = \"value\"",
        )
    })?;
    Ok(Layer { values, source: Source::File(PathBuf::from(path)) })
}

/// Line and column of a byte offset, both from one.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn variable_layers(env: impl Iterator<Item = (String, String)>, problems: &mut Vec<Problem>) -> Vec<Layer> {
    let ours: BTreeMap<String, String> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let mut first_names: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut layers = Vec::with_capacity(ours.len());
    for (name, value) in ours {
        let path = key_path(&name);
        let mut problem = |reason: String, fix: &str| {
            let place = Some(Place::Variable(name.clone()));
            problems.push(Problem { key: path.join("."), place, reason, fix: fix.to_owned() });
        };
        if path.len() > MAX_DEPTH {
            problem(
                "unknown key: the name has too many parts".to_owned(),
                "a double underscore separates levels, a single one is part of a key",
            );
            continue;
        }
        if value.contains(char::REPLACEMENT_CHARACTER) {
            problem("the value is not UTF-8 text".to_owned(), "set it to text in UTF-8");
            continue;
        }
        if let Some(first) = first_names.get(&path) {
            problem(format!("given twice, also by {first}"), "unset one of the two");
            continue;
        }
        let values = nest(&path, &value);
        layers.push(Layer { values, source: Source::Custom(name.clone()) });
        first_names.insert(path, name);
    }
    layers
}

/// The key that a variable's name spells: levels separated by `__`, in lower case. Ids of The Things Stack's
/// applications are `[a-z0-9-]`, which few shells take in a name, so `_` stands for `-` in them.
fn key_path(name: &str) -> Vec<String> {
    let lower = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let mut path: Vec<String> = lower.split("__").map(str::to_owned).collect();
    if let [section, applications, id, ..] = path.as_mut_slice()
        && ["azure", "things_stack", "downlink"].contains(&section.as_str())
        && applications == "applications"
    {
        *id = id.replace('_', "-");
    }
    path
}

/// Values stay text here: only the key's reader knows whether `0123` is a number or a secret.
fn nest(path: &[String], value: &str) -> Dict {
    let (last, tables) = path.split_last().map_or(("", &[][..]), |(last, tables)| (last.as_str(), tables));
    let innermost = Dict::from([(last.to_owned(), Value::from(value))]);
    tables.iter().rev().fold(innermost, |inner, table| Dict::from([(table.clone(), Value::from(inner))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_names_spell_keys() {
        assert_eq!(key_path("TTI_CONNECTOR__WEBHOOK__MAX_BODY_BYTES"), ["webhook", "max_body_bytes"]);
        assert_eq!(
            key_path("TTI_CONNECTOR__AZURE__APPLICATIONS__COLD_chain_2__IOT_HUB__CONNECTION_STRING"),
            ["azure", "applications", "cold-chain-2", "iot_hub", "connection_string"]
        );
        assert_eq!(
            key_path("TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__cold-chain__API_KEY"),
            ["things_stack", "applications", "cold-chain", "api_key"]
        );
    }

    #[test]
    fn positions_count_from_one() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("a = 1\nb = ", 10), (2, 5));
        assert_eq!(position("ä = x", 5), (1, 5));
    }
}
