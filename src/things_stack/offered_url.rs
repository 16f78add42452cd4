//! The URL in `X-Downlink-Push` and `-Replace`: whether it is the API's for one device. Nothing here is ever called.

use percent_encoding::percent_decode_str;
use url::Url;

use super::address::Address;
use crate::model::EndDevice;

/// Longest URL read: a host of 253 bytes and three ids, even encoded, are far below.
const MAX_URL_BYTES: usize = 2048;
/// Longest id of a webhook at The Things Stack.
const MAX_WEBHOOK_ID_BYTES: usize = 36;

/// What a believed URL says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// From its path.
    pub(super) webhook_id: Option<String>,
    /// The URL as written, up to the device id.
    pub(super) url_start: String,
}

/// Reads a URL that means what it seems to mean. `None` for all that two readers could read differently: other than
/// printable ASCII, users, hosts and paths not in their normal form, backslashes, queries.
pub(super) fn parse(text: &str) -> Option<Url> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'@' | b'?' | b'#');
    if text.len() > MAX_URL_BYTES || !text.bytes().all(plain) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split('/').next()?;
    let as_written = matches!(url.scheme(), "http" | "https")
        && scheme.eq_ignore_ascii_case(url.scheme())
        && is_authority(authority, &url)
        && rest.strip_prefix(authority) == Some(url.path());
    as_written.then_some(url)
}

/// Whether the text is `host` or `host:port` without decoding anything.
fn is_authority(text: &str, url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let Some((name, rest)) = text.split_at_checked(host.len()) else { return false };
    let port = rest.strip_prefix(':').map(str::parse);
    name.eq_ignore_ascii_case(host)
        && (rest.is_empty() || port.is_some_and(|port| port.ok() == url.port_or_known_default()))
}

/// The webhook of a URL that [`parse`] gave for `text`, if its path is `address`'s API path for `device`:
/// `…/api/v3/as/applications/{app}[/webhooks/{id}]/devices/{dev}/down/{push|replace}`.
pub(super) fn target(text: &str, url: &Url, address: &Address, device: &EndDevice) -> Option<Target> {
    let mut segments = url.path_segments()?;
    let fixed = address.prefix().chain(["api", "v3", "as", "applications"]);
    for expected in fixed {
        (segments.next()? == expected).then_some(())?;
    }
    is(segments.next()?, device.application_id()).then_some(())?;
    let mut webhook_id = None;
    let mut word = segments.next()?;
    if word == "webhooks" {
        webhook_id = Some(segments.next().filter(|id| is_webhook_id(id))?.to_owned());
        word = segments.next()?;
    }
    (word == "devices").then_some(())?;
    let device_segment = segments.next()?;
    is(device_segment, device.device_id()).then_some(())?;
    (segments.next()? == "down").then_some(())?;
    let operation = segments.next().filter(|word| matches!(*word, "push" | "replace"))?;
    segments.next().is_none().then_some(())?;
    let tail = device_segment.len() + "/down/".len() + operation.len();
    Some(Target { webhook_id, url_start: text.get(..text.len().checked_sub(tail)?)?.to_owned() })
}

fn is(segment: &str, id: &str) -> bool {
    percent_decode_str(segment).eq(id.bytes())
}

/// Lower-case letters, digits and inner hyphens.
fn is_webhook_id(text: &str) -> bool {
    (1..=MAX_WEBHOOK_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
