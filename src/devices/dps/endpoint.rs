//! Where a DPS instance is reached, and the URLs of its device API. Sends nothing.

use url::{Host, Url};

/// Azure's one endpoint for all instances.
pub const GLOBAL_ENDPOINT: &str = "global.azure-devices-provisioning.net";
const API_VERSION: &str = "2021-06-01";

/// `https://host` or `https://host:port`, nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint(Url);

/// Why `azure.dps.endpoint` can't be used.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEndpoint {
    /// It does not read as one of the three forms.
    #[error("is none of `host`, `host:port` and `https://host:port`")]
    Form,
    /// `http://` or another scheme: the token would travel in the clear.
    #[error("must be https")]
    Scheme,
}

impl Endpoint {
    /// Reads `host`, `host:port` or `https://host:port`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let text = text.trim();
        let absolute = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let url = Url::parse(&absolute).map_err(|_| InvalidEndpoint::Form)?;
        if url.scheme() != "https" {
            return Err(InvalidEndpoint::Scheme);
        }
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && url.port() != Some(0);
        let host = matches!(url.host(), Some(Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_)));
        (bare && host).then_some(Self(url)).ok_or(InvalidEndpoint::Form)
    }

    /// `host` or `host:port`, for people and as a key.
    pub fn authority(&self) -> &str {
        self.0.authority()
    }

    pub(super) fn register(&self, id_scope: &str, registration_id: &str) -> Url {
        self.url(&[id_scope, "registrations", registration_id, "register"])
    }

    pub(super) fn operation(&self, id_scope: &str, registration_id: &str, operation_id: &str) -> Url {
        self.url(&[id_scope, "registrations", registration_id, "operations", operation_id])
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.0.clone();
        url.path_segments_mut().expect("an https URL has a path").clear().extend(segments);
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_forms() {
        for (text, authority) in [
            (GLOBAL_ENDPOINT, GLOBAL_ENDPOINT),
            ("localhost:8443", "localhost:8443"),
            ("https://DPS.example:8443/", "dps.example:8443"),
            ("https://dps.example:443", "dps.example"),
        ] {
            assert_eq!(Endpoint::parse(text).expect(text).authority(), authority);
        }
        assert_eq!(Endpoint::parse("http://localhost:8443"), Err(InvalidEndpoint::Scheme));
        for text in ["", "https://", "host/path", "https://user@host", "host:99999", "host:0", "a b"] {
            assert_eq!(Endpoint::parse(text), Err(InvalidEndpoint::Form), "{text}");
        }
    }

    #[test]
    fn an_operation_id_can_not_leave_its_place_in_the_url() {
        let endpoint = Endpoint::parse("localhost:1").expect("valid");
        assert_eq!(
            endpoint.operation("0ne1", "a:b", "../x?y").as_str(),
            "https://localhost:1/0ne1/registrations/a:b/operations/..%2Fx%3Fy?api-version=2021-06-01"
        );
    }
}
