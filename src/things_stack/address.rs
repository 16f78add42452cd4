//! Where an API of The Things Stack is, and the URLs of its calls. Calls nothing.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url};

use super::downlink::Operation;
use crate::model::EndDevice;

/// All but RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What of a device the connector asks the Network Server for; see [`Address::network_server`].
const TAKEN_FIELDS: &str = "mac_state.recent_downlinks,mac_state.pending_application_downlink";

/// The text is no address of an API.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is no address of The Things Stack: {why}; write one such as https://eu1.cloud.thethings.network"
)]
pub struct InvalidAddress {
    text: String,
    why: String,
}

/// An id can't stand in a URL's path.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the {0} can't stand in a URL")]
pub(super) struct NotASegment(&'static str);

/// The root of an API: scheme, host, port, and a path if it is behind one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    url: Url,
}

impl Address {
    /// Reads `base_url`: http or https, with or without a path and a slash at its end.
    ///
    /// # Errors
    /// It is none, or holds more than a place: a user, a password, a query or a fragment.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |why: String| InvalidAddress { text: text.to_owned(), why };
        // The text of what can't be parsed may hold a password, so it is shown only once that is ruled out.
        let mut url = Url::parse(text)
            .map_err(|error| InvalidAddress { text: "(hidden)".to_owned(), why: error.to_string() })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidAddress {
                text: "(hidden)".to_owned(),
                why: "it holds a user or a password".to_owned(),
            });
        }
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid("it is no http or https URL".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it holds a query or a fragment".to_owned()));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self { url })
    }

    /// Reads one of `allowed_hosts`: `host` or `host:port`, reached by `scheme`.
    pub(super) fn of_host(scheme: &str, host: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress { text: host.to_owned(), why: "it is no host".to_owned() };
        if host.contains(['/', '@', '?', '#', '\\']) {
            return Err(invalid());
        }
        Self::parse(&format!("{scheme}://{host}")).map_err(|_| invalid())
    }

    /// The whole address, for logs.
    pub(super) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Whether scheme, host and port are the same. Both went through one parser, so case, IDN and default ports are
    /// compared in their normal form.
    pub(super) fn has_origin_of(&self, url: &Url) -> bool {
        self.url.scheme() == url.scheme()
            && self.url.host() == url.host()
            && self.url.port_or_known_default() == url.port_or_known_default()
    }

    /// Path segments before `api`.
    pub(super) fn prefix(&self) -> impl Iterator<Item = &str> {
        self.url.path().split('/').filter(|segment| !segment.is_empty())
    }

    /// Whether it is this machine: only there a key may travel without TLS.
    pub(super) fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            None => false,
        }
    }

    /// Whether a key on its way there could be read by others.
    pub(super) fn shows_keys(&self) -> bool {
        self.url.scheme() == "http" && !self.is_loopback()
    }

    /// `POST`: puts downlinks into a device's queue, in the name of a webhook if there is one.
    pub(super) fn down(
        &self,
        device: &EndDevice,
        webhook_id: Option<&str>,
        operation: Operation,
    ) -> Result<String, NotASegment> {
        let mut url = self.application("as", device)?;
        if let Some(webhook_id) = webhook_id {
            url.push_str("/webhooks/");
            url.push_str(&segment("webhook id", webhook_id)?);
        }
        add_device(&mut url, device)?;
        url.push_str("/down/");
        url.push_str(operation.as_str());
        Ok(url)
    }

    /// `GET`: lists a device's queue.
    pub(super) fn queue(&self, device: &EndDevice) -> Result<String, NotASegment> {
        let mut url = self.application("as", device)?;
        add_device(&mut url, device)?;
        url.push_str("/down");
        Ok(url)
    }

    /// `GET`: the downlinks that the Network Server took from the queue of late.
    pub(super) fn network_server(&self, device: &EndDevice) -> Result<String, NotASegment> {
        let mut url = self.application("ns", device)?;
        add_device(&mut url, device)?;
        url.push_str("?field_mask=");
        url.push_str(TAKEN_FIELDS);
        Ok(url)
    }

    /// `GET`: the uplinks that the Storage Integration keeps of an application, or of one of its devices; without a query.
    pub(super) fn stored_uplinks(
        &self,
        application_id: &str,
        device_id: Option<&str>,
    ) -> Result<String, NotASegment> {
        let mut url = self.application_by_id("as", application_id)?;
        if let Some(device_id) = device_id {
            url.push_str("/devices/");
            url.push_str(&segment("device id", device_id)?);
        }
        url.push_str("/packages/storage/uplink_message");
        Ok(url)
    }

    fn application(&self, server: &str, device: &EndDevice) -> Result<String, NotASegment> {
        self.application_by_id(server, device.application_id())
    }

    fn application_by_id(&self, server: &str, application_id: &str) -> Result<String, NotASegment> {
        let mut url = self.url.as_str().trim_end_matches('/').to_owned();
        let application = segment("application id", application_id)?;
        // Writing to a String does not fail.
        let _ = write!(url, "/api/v3/{server}/applications/{application}");
        Ok(url)
    }
}

fn add_device(url: &mut String, device: &EndDevice) -> Result<(), NotASegment> {
    url.push_str("/devices/");
    url.push_str(&segment("device id", device.device_id())?);
    Ok(())
}

/// `.` and `..` would lead elsewhere, encoded or not.
fn segment(name: &'static str, id: &str) -> Result<String, NotASegment> {
    if matches!(id, "" | "." | "..") {
        return Err(NotASegment(name));
    }
    Ok(utf8_percent_encode(id, ENCODED).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_case_and_path_and_encode_what_is_no_id() {
        let device = EndDevice::new("", "House", "a/b?c é").expect("valid");
        for base in ["https://eu1.example/tts/", "https://EU1.example:443/tts"] {
            let address = Address::parse(base).expect("valid");
            assert_eq!(
                address.down(&device, Some("Hook-1"), Operation::Replace).expect("valid"),
                "https://eu1.example/tts/api/v3/as/applications/House/webhooks/Hook-1/devices/a%2Fb%3Fc%20%C3%A9/down/replace"
            );
        }
        let address = Address::parse("http://127.0.0.1:1885").expect("valid");
        let device = EndDevice::new("", "house", "cellar").expect("valid");
        assert_eq!(
            address.down(&device, None, Operation::Push).expect("valid"),
            "http://127.0.0.1:1885/api/v3/as/applications/house/devices/cellar/down/push"
        );
        assert_eq!(
            address.queue(&device).expect("valid"),
            "http://127.0.0.1:1885/api/v3/as/applications/house/devices/cellar/down"
        );
        assert_eq!(
            address.network_server(&device).expect("valid"),
            "http://127.0.0.1:1885/api/v3/ns/applications/house/devices/cellar?field_mask=mac_state.recent_downlinks,mac_state.pending_application_downlink"
        );
    }

    #[test]
    fn only_http_to_another_machine_shows_keys() {
        for (text, shows) in [
            ("http://10.0.0.7:1885", true),
            ("http://lns.example", true),
            ("https://lns.example", false),
            ("http://127.0.0.1:1885", false),
            ("http://[::1]:1885", false),
            ("http://LOCALHOST", false),
        ] {
            assert_eq!(Address::parse(text).expect("valid").shows_keys(), shows, "{text}");
        }
    }

    #[test]
    fn an_id_can_not_lead_out_of_its_place() {
        let address = Address::parse("https://eu1.example").expect("valid");
        for (application, device) in [("house", ".."), ("..", "cellar"), (".", "cellar")] {
            let device = EndDevice::new("", application, device).expect("valid");
            assert!(address.queue(&device).is_err(), "{device}");
        }
        let device = EndDevice::new("", "house", "cellar").expect("valid");
        assert!(address.down(&device, Some(".."), Operation::Push).is_err());
    }

    #[test]
    fn an_address_is_a_place_and_no_more() {
        for text in [
            "eu1.example",
            "ftp://eu1.example",
            "https://eu1.example?x",
            "https://eu1.example/#a",
            "https://",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        let error = Address::parse("https://user:hush@eu1.example").expect_err("a password").to_string();
        assert!(!error.contains("hush"), "{error}");
        let error = Address::parse("https://user:hush@eu1.example:x").expect_err("no port").to_string();
        assert!(!error.contains("hush"), "{error}");
        for host in ["a/b", "user@host", "", "host:port", "a?b"] {
            assert!(Address::of_host("https", host).is_err(), "{host}");
        }
    }
}
