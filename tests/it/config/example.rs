//! Holds config.example.toml against the code, in both directions.

use std::collections::BTreeSet;

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use tti_connector::config::Config;

use super::{Given, HUB};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// The example with every commented key in force: `#key` and `#[section]`, but not `# prose`.
fn uncommented() -> String {
    let keep = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(keep).collect::<Vec<_>>().join("\n")
}

/// All keys of a TOML text in dotted form, the name of an application, a method or a property as `<id>`.
fn keys_of(toml: &str) -> BTreeSet<String> {
    fn walk(path: &str, values: &Dict, keys: &mut BTreeSet<String>) {
        for (key, value) in values {
            let named = [".applications", ".methods", ".properties"].iter().any(|end| path.ends_with(end));
            let key = if named { "<id>" } else { key };
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            match value {
                Value::Dict(_, inner) => walk(&path, inner, keys),
                _ => {
                    keys.insert(path);
                }
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk("", &Toml::from_str::<Dict>(toml).unwrap(), &mut keys);
    keys
}

#[test]
fn the_example_holds_every_key_and_no_other() {
    let in_code: BTreeSet<String> = Config::keys().into_iter().map(|key| key.path).collect();
    assert!(in_code.len() > 40, "{in_code:?}");
    assert_eq!(keys_of(&uncommented()), in_code);
}

#[test]
fn the_example_shows_in_force_exactly_the_keys_that_have_a_default() {
    // An empty list of secrets is the default, and shown as a comment: the example of a secret must not be in force.
    let with_default = Config::keys().into_iter().filter(|key| key.has_default).map(|key| key.path);
    let with_default: BTreeSet<String> = with_default.filter(|key| key != "webhook.secrets").collect();
    assert_eq!(keys_of(EXAMPLE), with_default);
}

#[test]
fn every_value_of_the_example_is_the_default() {
    let mut config = Given::toml(EXAMPLE).variable("AZURE__IOT_HUB__CONNECTION_STRING", HUB).config();
    config.azure.iot_hub = Default::default();
    assert_eq!(config, Config::default());
}

#[test]
fn every_key_of_the_example_is_explained_above_it() {
    let mut above = "";
    for line in EXAMPLE.lines() {
        let key = line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key);
        if key.is_some_and(|key| !line.starts_with("# ") && !key.contains(' ')) {
            assert!(above.starts_with("# "), "`{line}` has no comment above it");
        }
        above = line;
    }
}

#[test]
fn the_example_without_a_hub_says_what_is_missing() {
    let problem = Given::toml(EXAMPLE).problem();
    assert_eq!(problem.key, "azure");
    assert!(problem.fix.contains("azure.iot_hub.connection_string"), "{problem}");
}
