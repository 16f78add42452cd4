//! Evaluates a parsed query over twins as JSON objects. Pure; `queries_parse` reads the language.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// A query over `devices`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    pub(super) select: Select,
    pub(super) condition: Option<Condition>,
}

/// What is shown of each device.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Select {
    /// Whole twins.
    All,
    /// How many there are, under this name.
    Count(String),
    /// Some properties, each under a name.
    Some(Vec<(String, Path)>),
}

/// Names from the twin's root on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<String>);

/// What must hold of a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    Compare(Path, Comparison, Value),
    In(Path, Vec<Value>),
    IsDefined(Path),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Path {
    /// The value there. A name of the twin itself (`deviceId`) may be in any case, those of properties may not.
    fn of<'t>(&self, twin: &'t Map<String, Value>) -> Option<&'t Value> {
        let (first, rest) = self.0.split_first()?;
        let root = twin.iter().find(|(name, _)| name.eq_ignore_ascii_case(first)).map(|(_, value)| value)?;
        rest.iter().try_fold(root, |value, name| value.get(name))
    }
}

impl Condition {
    /// Whether it holds. What compares nothing, a missing property or another type, neither holds nor does its
    /// opposite.
    pub(super) fn holds(&self, twin: &Map<String, Value>) -> Option<bool> {
        match self {
            Self::And(left, right) => match (left.holds(twin), right.holds(twin)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                (None, _) | (_, None) => None,
            },
            Self::Or(left, right) => match (left.holds(twin), right.holds(twin)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                (None, _) | (_, None) => None,
            },
            Self::Not(inner) => inner.holds(twin).map(|holds| !holds),
            Self::Compare(path, comparison, wanted) => compare(path.of(twin)?, *comparison, wanted),
            Self::In(path, wanted) => {
                let value = path.of(twin)?;
                Some(wanted.iter().any(|wanted| compare(value, Comparison::Equal, wanted) == Some(true)))
            }
            Self::IsDefined(path) => Some(path.of(twin).is_some()),
        }
    }
}

fn compare(value: &Value, comparison: Comparison, wanted: &Value) -> Option<bool> {
    let order = match (value, wanted) {
        (Value::Number(value), Value::Number(wanted)) => value.as_f64()?.partial_cmp(&wanted.as_f64()?)?,
        (Value::String(value), Value::String(wanted)) => value.cmp(wanted),
        (Value::Bool(value), Value::Bool(wanted)) => value.cmp(wanted),
        (Value::Null, Value::Null) => Ordering::Equal,
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    })
}

impl Query {
    /// Whether a device is among the results.
    pub(super) fn takes(&self, twin: &Map<String, Value>) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.holds(twin) == Some(true))
    }

    /// What is shown of a device that is.
    pub(super) fn shown(&self, twin: Map<String, Value>) -> Value {
        match &self.select {
            Select::All | Select::Count(_) => Value::Object(twin),
            Select::Some(columns) => {
                let column = |(name, path): &(String, Path)| Some((name.clone(), path.of(&twin)?.clone()));
                Value::Object(columns.iter().filter_map(column).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use crate::emulator::queries_parse::parse;

    fn twin() -> Map<String, Value> {
        let twin = json!({
            "deviceId": "a", "status": "enabled", "connectionState": "Connected",
            "tags": { "site": { "floor": 2 }, "odd name": "x" },
            "properties": { "reported": { "battery": 71.5, "on": true, "none": null }, "desired": {} },
        });
        twin.as_object().unwrap().clone()
    }

    #[test]
    fn conditions_hold_as_they_read() {
        for (condition, holds) in [
            ("deviceId = 'a'", true),
            ("DEVICEID = \"a\"", true),
            ("deviceId IN ['b', 'a']", true),
            ("deviceId NIN ['b', 'a']", false),
            ("tags.site.floor = 2", true),
            ("tags.site.floor = 2.0", true),
            ("tags.site.floor != 3", true),
            ("tags.site.floor <> 2", false),
            ("tags[['odd name']] = 'x'", true),
            ("properties.reported.battery > 71 AND properties.reported.battery <= 71.5", true),
            ("properties.reported.on = true", true),
            ("properties.reported.none = null", true),
            ("is_defined(tags.site)", true),
            ("NOT is_defined(tags.nothing)", true),
            ("tags.Site.floor = 2", false),
            ("tags.nothing = 1", false),
            ("tags.nothing != 1", false),
            ("NOT tags.nothing = 1", false),
            ("tags.site.floor = '2'", false),
            ("tags.nothing = 1 OR status = 'enabled'", true),
            ("status = 'disabled' OR status = 'enabled' AND deviceId = 'b'", false),
            ("(status = 'disabled' OR status = 'enabled') AND NOT (deviceId = 'b')", true),
        ] {
            let query = parse(&format!("SELECT * FROM devices WHERE {condition}")).unwrap();
            assert_eq!(query.takes(&twin()), holds, "{condition}");
        }
    }

    #[test]
    fn some_properties_are_shown_under_their_names() {
        let text =
            "select deviceId, tags.site.floor as level, properties.reported, tags.nothing from devices";
        let shown = parse(text).unwrap().shown(twin());
        let reported = json!({ "battery": 71.5, "on": true, "none": null });
        assert_eq!(shown, json!({ "deviceId": "a", "level": 2, "reported": reported }));
    }
}
