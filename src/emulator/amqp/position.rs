//! Where a reader wants to start in a partition: the selector filters of Event Hubs clients. Pure text work.

use fe2o3_amqp_types::messaging::FilterSet;
use fe2o3_amqp_types::primitives::{Symbol, Value};

const SELECTOR: &str = "apache.org:selector-filter:string";

/// A start position. `inclusive` includes the event at the position itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// From the oldest kept event on.
    Start,
    /// Only what comes from now on.
    Latest,
    /// By sequence number; offsets are sequence numbers here.
    Sequence { number: i64, inclusive: bool },
    /// By enqueued time, in milliseconds since 1970 UTC.
    Time { ms: i64, inclusive: bool },
}

impl Position {
    /// Reads a link source's filters. Without a selector everything is wanted, as at Event Hubs.
    ///
    /// # Errors
    /// The text to tell the peer, for a selector that is not understood.
    pub(super) fn of_filters(filters: Option<&FilterSet>) -> Result<Self, String> {
        let Some(value) = filters.and_then(|filters| filters.get(&Symbol::from(SELECTOR))) else {
            return Ok(Self::Start);
        };
        let text = match value {
            Value::Described(described) => match &described.value {
                Value::String(text) => text,
                _ => return Err("the selector filter is no text".to_owned()),
            },
            Value::String(text) => text,
            _ => return Err("the selector filter is no text".to_owned()),
        };
        Self::parse(text).ok_or_else(|| "the selector filter is not understood".to_owned())
    }

    fn parse(selector: &str) -> Option<Self> {
        let (name, rest) = selector.split_once('>')?;
        let (inclusive, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
        let value = rest.trim().trim_matches('\'');
        let name = name.trim();
        let name = name.strip_prefix("amqp.annotation.").unwrap_or(name);
        match (name, value) {
            ("x-opt-offset", "-1") => Some(Self::Start),
            ("x-opt-offset" | "x-opt-sequence-number", "@latest") => Some(Self::Latest),
            ("x-opt-offset" | "x-opt-sequence-number", number) => {
                number.parse().ok().map(|number| Self::Sequence { number, inclusive })
            }
            ("x-opt-enqueued-time", ms) => ms.parse().ok().map(|ms| Self::Time { ms, inclusive }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::primitives::{Symbol, Value};
    use serde_amqp::described::Described;
    use serde_amqp::descriptor::Descriptor;

    use super::{FilterSet, Position, SELECTOR};

    #[test]
    fn every_selector_that_clients_send_is_understood() {
        for (text, position) in [
            ("amqp.annotation.x-opt-offset > '-1'", Position::Start),
            ("amqp.annotation.x-opt-offset > '@latest'", Position::Latest),
            ("amqp.annotation.x-opt-offset > '12'", Position::Sequence { number: 12, inclusive: false }),
            (
                "amqp.annotation.x-opt-sequence-number >= '3'",
                Position::Sequence { number: 3, inclusive: true },
            ),
            ("amqp.annotation.x-opt-sequence-number > 3", Position::Sequence { number: 3, inclusive: false }),
            ("amqp.annotation.x-opt-enqueued-time > '1700'", Position::Time { ms: 1700, inclusive: false }),
        ] {
            assert_eq!(Position::parse(text), Some(position), "{text}");
        }
        for text in ["", "x-opt-offset", "other > 1", "amqp.annotation.x-opt-enqueued-time > 'noon'"] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_selector_is_found_as_a_described_string() {
        let described = |value| {
            Value::Described(Box::new(Described {
                descriptor: Descriptor::Name(Symbol::from(SELECTOR)),
                value,
            }))
        };
        let mut filters = FilterSet::new();
        assert_eq!(Position::of_filters(Some(&filters)), Ok(Position::Start));
        filters.insert(Symbol::from(SELECTOR), described(Value::from("x-opt-offset > '@latest'")));
        assert_eq!(Position::of_filters(Some(&filters)), Ok(Position::Latest));
        filters.insert(Symbol::from(SELECTOR), described(Value::Int(1)));
        assert!(Position::of_filters(Some(&filters)).is_err());
    }
}
