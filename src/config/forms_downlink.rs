//! Judges texts that only downlinks have: names of methods and properties, priorities, payloads, allowed hosts.
//!
//! Knows no key. Pure.

use serde_json::Value;

use super::parse;
use super::problems::Fault;
use super::table::Input;

/// IoT Hub's limit for the name of a direct method.
const MAX_METHOD_CHARS: usize = 100;
/// IoT Hub's limit for the name of a twin property, in bytes.
const MAX_PROPERTY_BYTES: usize = 1024;

const PRIORITIES: [&str; 7] = ["lowest", "low", "below_normal", "normal", "above_normal", "high", "highest"];

/// A direct method's or IoT Central command's name.
pub(super) fn method_name(name: &str) -> Result<(), Fault> {
    if (1..=MAX_METHOD_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let reason = format!("no method name: these have 1 to {MAX_METHOD_CHARS} characters");
    Err(Fault::new(reason, "write the name as the caller does"))
}

/// A desired property's name at the top level of the twin.
pub(super) fn property_name(name: &str) -> Result<(), Fault> {
    let foreign = |c: char| c.is_control() || matches!(c, '.' | '$' | ' ');
    if (1..=MAX_PROPERTY_BYTES).contains(&name.len()) && !name.contains(foreign) {
        return Ok(());
    }
    Err(Fault::new(
        "no name of a twin property: these hold no dot, dollar sign, space or control character",
        "write the name as it stands at the top level of the desired properties",
    ))
}

/// A priority of The Things Stack.
pub(super) fn priority(input: &Input<'_>) -> Result<String, Fault> {
    parse::choice(&PRIORITIES.map(|name| (name, name)))(input).map(str::to_owned)
}

/// How a downlink enters the queue.
pub(super) fn queue(input: &Input<'_>) -> Result<String, Fault> {
    parse::choice(&[("push", "push"), ("replace", "replace")])(input).map(str::to_owned)
}

/// The JSON that is sent for a request without a payload.
pub(super) fn payload(input: &Input<'_>) -> Result<String, Fault> {
    let text = parse::text(input)?;
    let fix = "write JSON in single quotes, such as '{\"open\": true}'";
    match serde_json::from_str::<Value>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Fault::new(format!("no JSON: {error}"), fix)),
    }
}

/// Hosts whose headers are believed: `host` or `host:port`.
pub(super) fn hosts(input: &Input<'_>) -> Result<Vec<String>, Fault> {
    let hosts = parse::list(input)?;
    let plain = |host: &String| {
        let url = url::Url::parse(&format!("https://{host}"));
        url.is_ok_and(|url| {
            url.has_host()
                && url.path() == "/"
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        }) && !host.contains(['/', '@', '\\', '?', '#'])
    };
    if hosts.iter().all(plain) {
        return Ok(hosts.into_iter().map(|host| host.trim().to_ascii_lowercase()).collect());
    }
    Err(Fault::new(
        "an entry is no host",
        "write \"host\" or \"host:port\", without https:// and without a path",
    ))
}
