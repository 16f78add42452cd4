//! The configured webhook: where messages go, and with which headers. Sends nothing.

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use url::Url;

use super::name::DeviceName;
use super::refusal::{EMULATOR, Refusal};
use crate::model::Secret;

/// Headers a webhook may have, as at the real one.
const MAX_HEADERS: usize = 50;
/// The version whose behaviour is followed.
const AGENT: &str = "TheThingsStack/3.32.1 (linux/amd64)";

/// A webhook of every application.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// All kinds of messages go to this URL.
    pub url: Url,
    /// Its id in the API's paths.
    pub id: String,
    /// Further headers; they cannot replace The Things Stack's own.
    pub headers: Vec<(String, String)>,
    /// Sent as `Authorization: Bearer …`.
    pub secret: Option<Secret>,
    /// Sent as `X-Downlink-Apikey`, with the URLs for downlinks beside it.
    pub downlink_api_key: Option<Secret>,
    /// A paused webhook gets nothing, and downlinks through it are answered 406.
    pub paused: bool,
}

impl Webhook {
    /// A webhook named `tti-connector` without secrets.
    pub fn new(url: Url) -> Self {
        let id = "tti-connector".to_owned();
        Self { url, id, headers: Vec::new(), secret: None, downlink_api_key: None, paused: false }
    }

    /// Says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::invalid((EMULATOR, "invalid_webhook"), message));
        if !matches!(self.url.scheme(), "http" | "https") {
            return invalid("the webhook's URL must be http:// or https://".to_owned());
        }
        if !super::name::is_id(&self.id) {
            return invalid(format!("`{}` is no id", self.id));
        }
        if self.headers.len() > MAX_HEADERS {
            return invalid(format!("a webhook has {MAX_HEADERS} headers at most"));
        }
        for (name, value) in &self.headers {
            if HeaderName::try_from(name.as_str()).is_err() || HeaderValue::try_from(value.as_str()).is_err()
            {
                return invalid(format!("header `{name}` can't be sent"));
            }
        }
        let secrets = [&self.secret, &self.downlink_api_key];
        if secrets.into_iter().flatten().any(|secret| HeaderValue::try_from(secret.reveal()).is_err()) {
            return invalid("a secret can't be sent in a header".to_owned());
        }
        Ok(())
    }

    /// The headers of a message about a device; `base` is The Things Stack's own URL.
    pub(super) fn headers(&self, base: &str, device: &DeviceName) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: &str, value: &str| {
            // What cannot be sent was refused by `check`.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        };
        set(USER_AGENT.as_str(), AGENT);
        if let Some(secret) = &self.secret {
            set(AUTHORIZATION.as_str(), &format!("Bearer {}", secret.reveal()));
        }
        for (name, value) in &self.headers {
            set(name, value);
        }
        set(CONTENT_TYPE.as_str(), "application/json");
        let domain = Url::parse(base).ok().and_then(|url| url.host_str().map(str::to_owned));
        set("x-tts-domain", &domain.unwrap_or_default());
        if let Some(key) = &self.downlink_api_key {
            let DeviceName { application_id, device_id } = device;
            let id = &self.id;
            let down = format!(
                "{base}/api/v3/as/applications/{application_id}/webhooks/{id}/devices/{device_id}/down"
            );
            set("x-downlink-apikey", key.reveal());
            set("x-downlink-push", &format!("{down}/push"));
            set("x-downlink-replace", &format!("{down}/replace"));
        }
        headers
    }
}
