//! Judges single values: type, form and range. Each answer says why and how to put it right.
//!
//! Knows no key. Text that might be a secret is never repeated.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;

use super::problems::Fault;
use super::suggest::nearest;
use super::table::Input;
use super::units::{format_duration, format_size, parse_duration, parse_size};

/// Text that is not empty, without the white space around it.
pub(super) fn text(input: &Input<'_>) -> Result<String, Fault> {
    let text =
        input.value.as_str().ok_or_else(|| wrong_type(input.value, "text", "put it in quotes"))?.trim();
    if text.is_empty() {
        return Err(Fault::new("empty", "give a value, or leave the key out"));
    }
    Ok(text.to_owned())
}

/// A path, relative ones from the working directory.
pub(super) fn path(input: &Input<'_>) -> Result<PathBuf, Fault> {
    text(input).map(PathBuf::from)
}

/// `address:port`.
pub(super) fn listen(input: &Input<'_>) -> Result<SocketAddr, Fault> {
    text(input)?.parse().map_err(|_| {
        let fix = "write an IP address and a port, such as \"127.0.0.1:8080\" for this machine or \
                   \"0.0.0.0:8080\" for every network";
        Fault::new("not an IP address with a port", fix)
    })
}

/// A whole number from `least` to `most`; `why` explains the limit that is more than common sense.
pub(super) fn number<T>(least: T, most: T, why: &str) -> impl FnOnce(&Input<'_>) -> Result<T, Fault>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    move |input| {
        let number = match input.value.as_str() {
            Some(text) => text.trim().parse().ok(),
            None => integer(input.value),
        };
        let number =
            number.ok_or_else(|| wrong_type(input.value, "a whole number", "write it without quotes"))?;
        T::try_from(number)
            .ok()
            .filter(|n| *n >= least && *n <= most)
            .ok_or_else(|| out_of_range(&number, &least, &most, why))
    }
}

/// A TCP port to connect to.
pub(super) fn port(input: &Input<'_>) -> Result<u16, Fault> {
    number(1, u16::MAX, "TCP ports end there")(input)
}

/// A duration such as `"30s"`; a bare number is seconds.
pub(super) fn duration(
    least: Duration,
    most: Duration,
    why: &str,
) -> impl FnOnce(&Input<'_>) -> Result<Duration, Fault> {
    move |input| {
        let duration = match input.value.as_str() {
            Some(text) => parse_duration(text),
            None => integer(input.value).and_then(|n| u64::try_from(n).ok()).map(Duration::from_secs),
        };
        let form = "write a whole number and ms, s, m, h or d, such as \"500ms\", \"30s\" or \"7d\"";
        let duration = duration.ok_or_else(|| Fault::new("not a duration", form))?;
        if duration < least || duration > most {
            let show = format_duration;
            return Err(out_of_range(&show(duration), &show(least), &show(most), why));
        }
        Ok(duration)
    }
}

/// A size in bytes, or text such as `"256 KiB"`.
pub(super) fn size(least: u64, most: u64, why: &str) -> impl FnOnce(&Input<'_>) -> Result<u64, Fault> {
    move |input| {
        let size = match input.value.as_str() {
            Some(text) => parse_size(text),
            None => integer(input.value).and_then(|n| u64::try_from(n).ok()),
        };
        let form = "write bytes as a whole number, or with B, KiB, MiB, GiB, such as \"256 KiB\"";
        let size = size.ok_or_else(|| Fault::new("not a size", form))?;
        if size < least || size > most {
            let show = format_size;
            return Err(out_of_range(&show(size), &show(least), &show(most), why));
        }
        Ok(size)
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(choices: &[(&str, T)]) -> impl FnOnce(&Input<'_>) -> Result<T, Fault> {
    move |input| {
        let given = text(input)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == given) {
            return Ok(*value);
        }
        let names = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let fix = match nearest(&given, choices.iter().map(|(name, _)| *name)) {
            Some(meant) => format!("did you mean \"{meant}\"? Known are {names}"),
            None => format!("use one of {names}"),
        };
        Err(Fault::new("not a known value", fix))
    }
}

/// A list of such words, each at most once. From a variable: as [`list`].
pub(super) fn choices<T: Copy>(choices: &[(&str, T)]) -> impl FnOnce(&Input<'_>) -> Result<Vec<T>, Fault> {
    move |input| {
        let names = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let given: Vec<String> = list(input)?.iter().map(|one| one.trim().to_owned()).collect();
        let mut values = Vec::with_capacity(given.len());
        for (index, one) in given.iter().enumerate() {
            let Some((_, value)) = choices.iter().find(|(name, _)| name == one) else {
                return Err(Fault::new("an entry is not a known value", format!("known are {}", names())));
            };
            if given[..index].contains(one) {
                return Err(Fault::new(format!("{one} comes twice"), "name each once"));
            }
            values.push(*value);
        }
        Ok(values)
    }
}

/// `true` or `false`; from a variable as text.
pub(super) fn boolean(input: &Input<'_>) -> Result<bool, Fault> {
    let text = input.value.as_str().filter(|_| input.variable);
    match (input.value.to_bool(), text.map(str::trim)) {
        (Some(value), _) => Ok(value),
        (None, Some("true")) => Ok(true),
        (None, Some("false")) => Ok(false),
        (None, _) => Err(wrong_type(input.value, "true or false", "write true or false without quotes")),
    }
}

/// A list of texts. From a variable: `["one", "two"]` or `one,two`.
pub(super) fn list(input: &Input<'_>) -> Result<Vec<String>, Fault> {
    let fix = "write [\"one\", \"two\"]";
    match input.value {
        Value::Array(_, items) => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(
                || Fault::new("an entry of the list is not text", format!("put each in quotes: {fix}")),
            )
        }
        Value::String(_, text) if input.variable && text.trim_start().starts_with('[') => {
            list_in_brackets(text)
                .ok_or_else(|| Fault::new("not a list of texts", format!("{fix} or one,two")))
        }
        Value::String(_, text) if input.variable => Ok(text.split(',').map(str::to_owned).collect()),
        other => Err(wrong_type(other, "a list", fix)),
    }
}

fn list_in_brackets(text: &str) -> Option<Vec<String>> {
    use figment::providers::{Format as _, Toml};
    let table: figment::value::Dict = Toml::from_str(&format!("list = {}", text.trim())).ok()?;
    // A line break could smuggle in further keys.
    let [Value::Array(_, items)] = table.values().collect::<Vec<_>>()[..] else { return None };
    items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn integer(value: &Value) -> Option<i128> {
    let number = value.to_num()?;
    number.to_i128().or_else(|| number.to_u128().and_then(|n| i128::try_from(n).ok()))
}

fn wrong_type(value: &Value, expected: &str, fix: &str) -> Fault {
    let found = match value {
        Value::String(..) => "text",
        Value::Char(..) => "a character",
        Value::Bool(..) => "true or false",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a section",
        Value::Array(..) => "a list",
    };
    Fault::new(format!("expected {expected}, found {found}"), fix)
}

fn out_of_range(given: &dyn Display, least: &dyn Display, most: &dyn Display, why: &str) -> Fault {
    Fault::new(
        format!("{given} is outside {least} to {most}: {why}"),
        format!("choose between {least} and {most}"),
    )
}
