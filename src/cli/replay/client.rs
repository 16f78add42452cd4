//! One post with its bounded retries. Knows no files.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, redirect};
use rustls::RootCertStore;
use serde::Deserialize;
use url::Url;

use super::{ReplayError, Secret};

/// Tries of one payload in all.
const MAX_TRIES: u32 = 5;
/// The wait before the second try, doubled each time, if the webhook asks for none.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait, whatever the webhook asks for: somebody sits before the screen.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// An answer to `Prefer: wait` comes after 30 s; nothing we post should take longer than twice that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer this much is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The webhook's last word on one payload.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// What a refusal says, if it is `application/problem+json`.
    pub(super) detail: Option<String>,
}

#[derive(Deserialize)]
struct ProblemBody {
    detail: Option<String>,
}

/// Posts to one URL.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
}

impl Client {
    pub(super) fn new(url: Url, secret: Option<Secret>) -> Result<Self, ReplayError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(secret) = secret {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.reveal()))
                .map_err(|_| ReplayError::BadSecret)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&url)?)
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT);
        if is_loopback(&url) {
            // A proxy for the outside world has no business with this machine's own ports.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| ReplayError::Tls(error.to_string()))?;
        Ok(Self { http, url })
    }

    /// The URL without user and password.
    pub(super) fn shown_url(&self) -> String {
        let mut url = self.url.clone();
        // Only URLs without a host refuse this, and ours has one.
        let _ = url.set_password(None).and_then(|()| url.set_username(""));
        url.into()
    }

    /// Posts once, and again while the webhook says that it is busy.
    ///
    /// # Errors
    /// What was seen instead of an answer.
    pub(super) async fn post(&self, body: &Bytes) -> Result<Answer, String> {
        let mut tried = 1;
        loop {
            let request = self.http.post(self.url.clone()).body(body.clone());
            let response = request.send().await.map_err(|error| describe(&error))?;
            let busy =
                matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            if !busy || tried == MAX_TRIES {
                return Ok(answer(response).await);
            }
            let pause = retry_after(response.headers(), SystemTime::now())
                .unwrap_or_else(|| FIRST_PAUSE * 2_u32.pow(tried - 1));
            tokio::time::sleep(pause.min(MAX_PAUSE)).await;
            tried += 1;
        }
    }
}

async fn answer(mut response: Response) -> Answer {
    let status = response.status();
    let mut body = Vec::new();
    // A detail that breaks off is no detail; the status counts.
    while let Ok(Some(part)) = response.chunk().await {
        body.extend_from_slice(&part[..part.len().min(MAX_ANSWER_BYTES - body.len())]);
        if body.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    let detail = serde_json::from_slice::<ProblemBody>(&body).ok().and_then(|problem| problem.detail);
    Answer { status, detail }
}

/// Seconds or a date, as HTTP allows.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// The whole chain: reqwest's own text names the URL, and not what happened.
fn describe(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.is_timeout() { "it took too long".to_owned() } else { innermost.to_string() }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The platform's roots; none are looked for without TLS.
fn tls(url: &Url) -> Result<rustls::ClientConfig, ReplayError> {
    let mut roots = RootCertStore::empty();
    if url.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(ReplayError::Tls(
                "the system has no trusted CA certificates; install ca-certificates".to_owned(),
            ));
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    Ok(rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| ReplayError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("date");
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(of("7"), Some(7));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(of("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn the_shown_url_has_no_credentials() {
        let url = Url::parse("http://user:hush@127.0.0.1:1/webhook").expect("url");
        let client = Client::new(url, None).expect("client");
        assert_eq!(client.shown_url(), "http://127.0.0.1:1/webhook");
    }
}
