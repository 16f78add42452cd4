//! The HTTP client for DPS and The Things Stack: TLS, proxy, no redirects. Knows neither.

use std::error::Error;
use std::time::Duration;

use reqwest::{NoProxy, Proxy};

use super::tcp;

/// Never reached through a proxy that only the environment names: it could not find our own machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// A connection that nobody used for this long is not used again: the server may have moved, and a connection that died
/// quietly would cost the next request its time-out.
const IDLE: Duration = Duration::from_secs(20);

/// The HTTP client can't be built.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The proxy's address can't be used. (The text is not shown, as it may hold a password.)
    #[error("{0}: is no proxy address such as http://host:3128")]
    Proxy(&'static str),
    /// The TLS settings do not fit.
    #[error("the HTTPS client can't be built: {0}")]
    Build(String),
}

/// Whether a server may be spoken to without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// Never.
    HttpsOnly,
    /// When its address says so.
    HttpToo,
}

/// An HTTP client. Without `proxy`, `HTTPS_PROXY` or `ALL_PROXY` is used, minding `NO_PROXY`, but not for this
/// machine itself. Redirects are not followed, since they would take the token along.
///
/// # Errors
/// The proxy's address or the TLS settings can't be used.
pub fn http_client(
    tls: &rustls::ClientConfig,
    proxy: Option<&str>,
    connect_timeout: Duration,
    schemes: Schemes,
) -> Result<reqwest::Client, HttpClientError> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .https_only(schemes == Schemes::HttpsOnly)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(IDLE)
        .tcp_keepalive(tcp::KEEPALIVE_AFTER)
        .tcp_keepalive_interval(tcp::KEEPALIVE_EVERY)
        .tcp_keepalive_retries(tcp::KEEPALIVE_TRIES)
        .no_proxy()
        .user_agent(concat!("tti-connector/", env!("CARGO_PKG_VERSION")));
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(tcp::UNACKNOWLEDGED);
    let builder = match choose_proxy(proxy, |name| std::env::var(name).ok()) {
        Some(Choice { key, address, except }) => {
            let proxy = Proxy::all(address).map_err(|_| HttpClientError::Proxy(key))?;
            builder.proxy(proxy.no_proxy(NoProxy::from_string(&except)))
        }
        None => builder,
    };
    builder.build().map_err(|error| HttpClientError::Build(causes(&error)))
}

/// Which proxy to use, under which name it was set, and which hosts to reach without it.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    key: &'static str,
    address: String,
    except: String,
}

fn choose_proxy(configured: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Option<Choice> {
    let look = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|text| !text.is_empty()));
    if let Some(address) = configured {
        return Some(Choice { key: "azure.proxy", address: address.to_owned(), except: String::new() });
    }
    let address = look(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?;
    let except = look(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
    Some(Choice { key: "HTTPS_PROXY", address, except: format!("{LOOPBACK},{except}") })
}

/// An error of the client with all its causes: the outermost alone says only "error sending request".
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_configured_proxy_or_that_of_the_environment() {
        let choose = |configured, environment: &[(&str, &str)]| {
            choose_proxy(configured, |name| {
                environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(choose(None, &[]), None);
        assert_eq!(choose(None, &[("HTTPS_PROXY", "")]), None);
        let environment = [("https_proxy", "http://env:1"), ("NO_PROXY", "azure.example")];
        let choice = choose(None, &environment).expect("from the environment");
        assert_eq!(choice.address, "http://env:1");
        assert_eq!(choice.except, "localhost,127.0.0.0/8,::1,azure.example");
        let choice = choose(Some("http://own:2"), &environment).expect("configured");
        assert_eq!((choice.address.as_str(), choice.except.as_str()), ("http://own:2", ""));
    }

    #[test]
    fn an_unusable_proxy_is_named_by_its_key_and_its_password_not_shown() {
        let tls =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("ring has them")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let error =
            http_client(&tls, Some("http://user:hidden@:x"), Duration::from_secs(1), Schemes::HttpsOnly)
                .expect_err("no address")
                .to_string();
        assert!(error.starts_with("azure.proxy: ") && !error.contains("hidden"), "{error}");
    }
}
