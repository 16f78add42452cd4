//! AMQP values as text: what IoT Hub makes of ids, properties and annotations of any simple type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fe2o3_amqp_types::messaging::MessageId;
use fe2o3_amqp_types::primitives::{SimpleValue, Uuid, Value};

/// An id of any of its four types.
pub(super) fn id_text(id: &MessageId) -> String {
    match id {
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Uuid(id) => uuid_text(id),
        MessageId::Binary(bytes) => bytes_text(bytes),
        MessageId::String(text) => text.clone(),
    }
}

/// A property of any simple type; `None` for null and for types that have no text (decimals, described values).
pub(super) fn simple_text(value: &SimpleValue) -> Option<String> {
    match value {
        SimpleValue::Null
        | SimpleValue::Decimal32(_)
        | SimpleValue::Decimal64(_)
        | SimpleValue::Decimal128(_)
        | SimpleValue::Described(_) => None,
        SimpleValue::Bool(value) => Some(value.to_string()),
        SimpleValue::Ubyte(value) => Some(value.to_string()),
        SimpleValue::Ushort(value) => Some(value.to_string()),
        SimpleValue::Uint(value) => Some(value.to_string()),
        SimpleValue::Ulong(value) => Some(value.to_string()),
        SimpleValue::Byte(value) => Some(value.to_string()),
        SimpleValue::Short(value) => Some(value.to_string()),
        SimpleValue::Int(value) => Some(value.to_string()),
        SimpleValue::Long(value) => Some(value.to_string()),
        SimpleValue::Float(value) => Some(value.to_string()),
        SimpleValue::Double(value) => Some(value.to_string()),
        SimpleValue::Char(value) => Some(value.to_string()),
        SimpleValue::Timestamp(value) => Some(time_text(value.milliseconds())),
        SimpleValue::Uuid(value) => Some(uuid_text(value)),
        SimpleValue::Binary(value) => Some(bytes_text(value)),
        SimpleValue::String(value) => Some(value.clone()),
        SimpleValue::Symbol(value) => Some(value.0.clone()),
    }
}

/// An annotation; `None` where [`simple_text`] has none and for maps, lists and arrays.
pub(super) fn value_text(value: &Value) -> Option<String> {
    SimpleValue::try_from(value.clone()).ok().as_ref().and_then(simple_text)
}

fn uuid_text(id: &Uuid) -> String {
    uuid::Uuid::from_bytes(*id.as_inner()).to_string()
}

/// Text if it is some, else base64.
fn bytes_text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| STANDARD.encode(bytes), str::to_owned)
}

/// ISO 8601 with milliseconds; the bare number beyond the years that can be written.
fn time_text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::messaging::MessageId;
    use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Timestamp, Uuid, Value};

    use super::{id_text, simple_text, value_text};

    #[test]
    fn ids_of_every_type_become_text() {
        let uuid = Uuid::from([0x11; 16]);
        assert_eq!(id_text(&MessageId::Uuid(uuid)), "11111111-1111-1111-1111-111111111111");
        assert_eq!(id_text(&MessageId::Ulong(7)), "7");
        assert_eq!(id_text(&MessageId::Binary(Binary::from(vec![0xff]))), "/w==");
        assert_eq!(id_text(&MessageId::String("m".into())), "m");
    }

    #[test]
    fn properties_of_every_simple_type_become_text() {
        for (value, text) in [
            (SimpleValue::Bool(true), "true"),
            (SimpleValue::Ubyte(1), "1"),
            (SimpleValue::Long(-5), "-5"),
            (SimpleValue::from(1.5_f64), "1.5"),
            (SimpleValue::Char('x'), "x"),
            (SimpleValue::Timestamp(Timestamp::from(1_700_000_000_123)), "2023-11-14T22:13:20.123Z"),
            (SimpleValue::Symbol(Symbol::from("s")), "s"),
            (SimpleValue::from("t"), "t"),
        ] {
            assert_eq!(simple_text(&value).as_deref(), Some(text), "{value:?}");
        }
        assert_eq!(simple_text(&SimpleValue::Null), None);
        assert_eq!(
            simple_text(&SimpleValue::Timestamp(Timestamp::from(i64::MAX))),
            Some(i64::MAX.to_string())
        );
        assert_eq!(value_text(&Value::List(vec![])), None);
        assert_eq!(value_text(&Value::from("v")).as_deref(), Some("v"));
    }
}
