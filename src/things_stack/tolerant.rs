//! Reading The Things Stack's JSON as it may come: zero values left out, `null` for absent, 32-bit numbers as
//! numbers or texts, unknown and repeated keys. Knows no message.
//!
//! Nothing here recurses: values that are not wanted are skipped by serde_json's iterative skipper, so nesting of
//! any depth costs one byte of memory a level and no stack. Errors name the field and never quote a value.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A scalar, or the mark that something else stood there. Texts are borrowed unless they hold escapes.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// Any JSON number; integers up to 2^53 are exact, and none of our fields is larger.
    Number(f64),
    Text(Cow<'a, str>),
    /// An object or an array, skipped.
    Nested,
}

impl<'a> Scalar<'a> {
    /// A text; `null` and `""` (the zero value) are absent.
    pub(super) fn text<E: Error>(self, field: &str) -> Result<Option<Cow<'a, str>>, E> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok((!text.is_empty()).then_some(text)),
            Self::Bool(_) | Self::Number(_) | Self::Nested => {
                Err(E::custom(format_args!("{field} must be a text")))
            }
        }
    }

    /// A number from 0 to 2^32 - 1, also as text; `null` and `""` are 0.
    pub(super) fn unsigned<E: Error>(self, field: &str) -> Result<u32, E> {
        let number = match self {
            Self::Null => Some(0),
            Self::Number(number) => whole(number),
            Self::Text(text) if text.is_empty() => Some(0),
            Self::Text(text) => text.parse().ok().or_else(|| whole(text.parse().ok()?)),
            Self::Bool(_) | Self::Nested => None,
        };
        number.ok_or_else(|| E::custom(format_args!("{field} must be a whole number from 0 to {}", u32::MAX)))
    }

    /// `true` or `false`; `null` is `false`.
    pub(super) fn flag<E: Error>(self, field: &str) -> Result<bool, E> {
        match self {
            Self::Null => Ok(false),
            Self::Bool(flag) => Ok(flag),
            Self::Number(_) | Self::Text(_) | Self::Nested => {
                Err(E::custom(format_args!("{field} must be true or false")))
            }
        }
    }

    /// A finite number, also as text; anything else is absent. For measurements that must not fail an uplink.
    pub(super) fn measurement(self) -> Option<f64> {
        let number = match self {
            Self::Number(number) => number,
            Self::Text(text) => text.parse().ok()?,
            Self::Null | Self::Bool(_) | Self::Nested => return None,
        };
        number.is_finite().then_some(number)
    }

    /// A text, or nothing where it is not one. For fields that must not fail an uplink.
    pub(super) fn text_or_none(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            Self::Text(_) | Self::Null | Self::Bool(_) | Self::Number(_) | Self::Nested => None,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be whole and in range"
)]
fn whole(number: f64) -> Option<u32> {
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

#[expect(clippy::cast_precision_loss, reason = "no field of ours is larger than 2^53")]
impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value as f64))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Nested)
    }
}

/// Takes an object's entries one by one, in the order they come. A key may come twice; the later one wins.
pub(super) trait Fields<'de> {
    /// What stands here, for the error when it is no object.
    const NAME: &'static str;

    /// Reads the value of `key` from `map`; must take it, with [`skip`] if it is not wanted.
    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Skips the value of the key just read, whatever it is and however deep.
pub(super) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// Fills `.0` from an object. `null` leaves it as it is and gives `false`; other values are errors.
pub(super) struct Object<'a, F>(pub(super) &'a mut F);

impl<'de, F: Fields<'de>> DeserializeSeed<'de> for Object<'_, F> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<F> Object<'_, F> {
    fn refused<'de, E: Error>(&self) -> Result<bool, E>
    where
        F: Fields<'de>,
    {
        Err(E::custom(format_args!("{} must be a JSON object", F::NAME)))
    }
}

impl<'de, F: Fields<'de>> Visitor<'de> for Object<'_, F> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as a JSON object", F::NAME)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            self.0.field(&key, &mut map)?;
        }
        Ok(true)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        self.refused()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        self.refused()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        self.refused()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        self.refused()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        self.refused()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        self.refused()
    }
}

/// Something that is read from a JSON list, element by element.
pub(super) trait Elements<'de> {
    /// What an error calls it.
    const NAME: &'static str;

    /// Takes the next element. `false` at the list's end.
    fn next<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<bool, A::Error>;
}

/// Fills `.0` from a list. `null` leaves it as it is; other values are errors.
pub(super) struct List<'a, E>(pub(super) &'a mut E);

impl<'de, E: Elements<'de>> DeserializeSeed<'de> for List<'_, E> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, L: Elements<'de>> List<'_, L> {
    fn refused<E: Error>() -> Result<(), E> {
        Err(E::custom(format_args!("{} must be a JSON list", L::NAME)))
    }
}

impl<'de, L: Elements<'de>> Visitor<'de> for List<'_, L> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as a JSON list", L::NAME)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while self.0.next(&mut seq)? {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Self::refused()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Self::refused()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Self::refused()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Self::refused()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Self::refused()
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Self::refused()
    }
}

/// A key, borrowed unless it holds escapes (serde's own `Cow` always copies).
pub(super) struct Key<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(Self(text)),
            Scalar::Null | Scalar::Bool(_) | Scalar::Number(_) | Scalar::Nested => {
                Err(D::Error::custom("a key must be a text"))
            }
        }
    }
}
