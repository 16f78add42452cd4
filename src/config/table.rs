//! Walks the joined tree table by table: takes values, notes every key that exists, gathers problems.
//!
//! Knows no key by name. Reading an empty tree therefore yields the list of all keys.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Value};

use super::layers::Layers;
use super::problems::{Fault, Place, Problem};
use super::suggest::{Unknown, unknown_key};

/// The id that stands for any application in the list of keys.
const ANY_ID: &str = "<id>";

/// A key of the configuration, for documentation and its tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Dotted, with `<id>` for an application's id: `azure.applications.<id>.dps.id_scope`.
    pub path: String,
    /// True if it has a value when nobody gives one.
    pub has_default: bool,
}

/// What is gathered while the tree is walked.
#[derive(Default)]
pub(super) struct Walk<'l> {
    layers: Option<&'l Layers>,
    /// Every key the readers asked for.
    pub(super) keys: BTreeSet<Key>,
    /// Keys that somebody gave, right or wrong, and where: rules over several keys look here.
    pub(super) given: BTreeMap<String, Option<Place>>,
    pub(super) problems: Vec<Problem>,
    unknown: Vec<Unknown>,
}

impl<'l> Walk<'l> {
    /// A walk that only lists keys.
    pub(super) fn listing() -> Self {
        Self::default()
    }

    /// A walk over values.
    pub(super) fn over(layers: &'l Layers, problems: Vec<Problem>) -> Self {
        Self { layers: Some(layers), problems, ..Self::default() }
    }

    /// Reads the whole tree with `read`, then reports the keys that nothing asked for.
    pub(super) fn root<T>(&mut self, read: impl FnOnce(&mut Table<'_, 'l>) -> T) -> T {
        let values = self.layers.map(Layers::root).unwrap_or_default();
        let mut table = Table { walk: self, path: String::new(), values, siblings: Vec::new() };
        let read = read(&mut table);
        table.finish();
        let unknown = std::mem::take(&mut self.unknown);
        self.problems.extend(unknown.iter().map(|one| unknown_key(one, &self.keys)));
        read
    }

    fn place(&self, value: &Value) -> Option<Place> {
        self.layers.and_then(|layers| layers.place(value))
    }
}

/// One table and what is still unread in it.
pub(super) struct Table<'w, 'l> {
    walk: &'w mut Walk<'l>,
    path: String,
    values: Dict,
    siblings: Vec<&'static str>,
}

impl<'l> Table<'_, 'l> {
    /// A key with a default.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Input<'_>) -> Result<T, Fault>,
    ) -> T {
        self.take(key, true, parse).unwrap_or(default)
    }

    /// A key that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Input<'_>) -> Result<T, Fault>,
    ) -> Option<T> {
        self.take(key, false, parse)
    }

    /// A table of fixed keys.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'_, 'l>) -> T) -> T {
        self.siblings.push(key);
        let values = self.take_dict(key);
        self.descend(key, values, read)
    }

    /// A table of tables by id. `check` judges the ids.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        check: impl Fn(&str) -> Result<(), Fault>,
        read: impl Fn(&mut Table<'_, 'l>) -> T,
    ) -> BTreeMap<String, T> {
        self.siblings.push(key);
        let mut by_id = BTreeMap::new();
        if self.walk.layers.is_none() {
            let mut any = Table {
                path: join(&self.path, key),
                walk: &mut *self.walk,
                values: Dict::new(),
                siblings: Vec::new(),
            };
            any.descend(ANY_ID, Dict::new(), &read);
            return by_id;
        }
        let values = self.take_dict(key);
        let path = join(&self.path, key);
        let mut ids = Table { path, walk: &mut *self.walk, values, siblings: Vec::new() };
        for id in ids.values.keys().cloned().collect::<Vec<_>>() {
            if let Err(fault) = check(&id) {
                let place = ids.values.get(&id).and_then(|value| ids.place_within(value));
                ids.problem(&id, place, fault);
            }
            let values = ids.take_dict(&id);
            let read = ids.descend(&id, values, &read);
            by_id.insert(id, read);
        }
        by_id
    }

    /// Where a key of this table was given, if it was.
    pub(super) fn given(&self, key: &str) -> Option<Option<Place>> {
        self.walk.given.get(&join(&self.path, key)).cloned()
    }

    /// Reports a problem with a key of this table.
    pub(super) fn problem(&mut self, key: &str, place: Option<Place>, fault: Fault) {
        let key = join(&self.path, key);
        self.walk.problems.push(Problem { key, place, reason: fault.reason, fix: fault.fix });
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        has_default: bool,
        parse: impl FnOnce(&Input<'_>) -> Result<T, Fault>,
    ) -> Option<T> {
        self.siblings.push(key);
        let path = join(&self.path, key);
        self.walk.keys.insert(Key { path: path.clone(), has_default });
        let value = self.values.remove(key)?;
        let place = self.walk.place(&value);
        self.walk.given.insert(path, place.clone());
        let input = Input { value: &value, variable: matches!(place, Some(Place::Variable(_))) };
        match parse(&input) {
            Ok(read) => Some(read),
            Err(fault) => {
                self.problem(key, place, fault);
                None
            }
        }
    }

    fn take_dict(&mut self, key: &str) -> Dict {
        match self.values.remove(key) {
            None => Dict::new(),
            Some(Value::Dict(_, values)) => values,
            Some(other) => {
                let place = self.walk.place(&other);
                let section = join(&self.path, key);
                let fault = Fault::new(
                    "this is a section, not a single value",
                    format!("open it with [{section}] and set its keys below"),
                );
                self.problem(key, place, fault);
                Dict::new()
            }
        }
    }

    fn descend<T>(&mut self, key: &str, values: Dict, read: impl FnOnce(&mut Table<'_, 'l>) -> T) -> T {
        let path = join(&self.path, key);
        let mut table = Table { walk: &mut *self.walk, path, values, siblings: Vec::new() };
        let read = read(&mut table);
        table.finish();
        read
    }

    /// The place of the first single value within: tables are joined from several sources and have none.
    fn place_within(&self, value: &Value) -> Option<Place> {
        match value.as_dict() {
            Some(values) => values.values().find_map(|value| self.place_within(value)),
            None => self.walk.place(value),
        }
    }

    fn finish(self) {
        for (key, value) in &self.values {
            let place = self.place_within(value);
            let key = join(&self.path, key);
            self.walk.unknown.push(Unknown { key, place, siblings: self.siblings.clone() });
        }
    }
}

/// A value as it was given.
pub(super) struct Input<'v> {
    /// The value itself. From a variable it is always text.
    pub(super) value: &'v Value,
    /// True if it comes from an environment variable.
    pub(super) variable: bool,
}

/// `parent.key`, or `key` at the root.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}
