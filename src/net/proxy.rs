//! HTTP proxies: which one to use for a host, and the CONNECT tunnel through it.
//!
//! Knows nothing of what travels through the tunnel.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use url::Url;

use crate::model::Secret;

/// Longest head of a proxy's answer; real ones have a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// An HTTP proxy that takes CONNECT.
#[derive(Clone, Debug)]
pub struct Proxy {
    host: Arc<str>,
    port: u16,
    authorization: Option<Secret>,
    /// Hosts to reach without it, from `NO_PROXY`.
    except: Arc<[String]>,
    /// Loopback is reached without it; only a proxy from the environment spares it.
    spare_loopback: bool,
}

/// Why a text names no proxy.
#[derive(Debug, thiserror::Error)]
pub enum InvalidProxy {
    /// Not a URL at all. (The text is not shown, as it may hold a password.)
    #[error("is not a URL ({0}); write http://host:port")]
    Url(#[from] url::ParseError),
    /// Only plain HTTP to the proxy is spoken.
    #[error("has the scheme {0}; only http:// proxies are supported")]
    Scheme(String),
    /// No host in it.
    #[error("names no host; write http://host:port")]
    NoHost,
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port]`; a bare `host:port` is taken too. Port 80 when absent.
    ///
    /// # Errors
    /// Says what is wrong, without the text itself.
    pub fn parse(text: &str) -> Result<Self, InvalidProxy> {
        let url =
            if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) }?;
        if url.scheme() != "http" {
            return Err(InvalidProxy::Scheme(url.scheme().to_owned()));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(InvalidProxy::NoHost)?;
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let authorization = (!url.username().is_empty()).then(|| {
            let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
            Secret::new(format!("Basic {}", STANDARD.encode(pair)))
        });
        Ok(Self {
            host: host.trim_matches(['[', ']']).into(),
            port: url.port().unwrap_or(80),
            authorization,
            except: Arc::from([]),
            spare_loopback: false,
        })
    }

    /// The proxy that `HTTPS_PROXY` or `ALL_PROXY` names (either case), minding `NO_PROXY`. `variable` looks one up.
    ///
    /// # Errors
    /// As [`Proxy::parse`].
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, InvalidProxy> {
        let look =
            |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|text| !text.is_empty()));
        let Some(text) = look(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]) else {
            return Ok(None);
        };
        let except = look(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        let except = except.split(',').map(|host| host.trim().trim_start_matches('.').to_ascii_lowercase());
        let except = except.filter(|host| !host.is_empty()).collect();
        Ok(Some(Self { except, spare_loopback: true, ..Self::parse(&text)? }))
    }

    /// Host and port of the proxy itself.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether `host` is to be reached through it.
    pub fn serves(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if self.spare_loopback && loopback {
            return false;
        }
        !self.except.iter().any(|entry| {
            entry == "*" || host == *entry || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// Asks the proxy, over a fresh stream to it, for a tunnel to `host:port`.
    ///
    /// # Errors
    /// The stream failed, or the proxy refused; its status line is in the text.
    pub async fn tunnel<S>(&self, stream: &mut S, host: &str, port: u16) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.reveal()));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let head = read_head(stream).await?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if head.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') {
            return Ok(());
        }
        let line: String = head.chars().take(120).filter(|c| !c.is_control()).collect();
        Err(io::Error::other(format!("the proxy {}:{} refused the tunnel: {line}", self.host, self.port)))
    }
}

/// Reads up to the empty line, byte by byte so that nothing of the tunnel's own bytes is taken. Gives the first line.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_ANSWER_BYTES {
            return Err(io::Error::other("the proxy's answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proxies_and_says_what_is_wrong() {
        let proxy = Proxy::parse("http://us%40er:p%3Aw@[::1]:3128").unwrap();
        assert_eq!(proxy.address(), ("::1", 3128));
        let basic = proxy.authorization.as_ref().unwrap();
        assert_eq!(basic.reveal(), format!("Basic {}", STANDARD.encode("us@er:p:w")));
        assert!(!format!("{proxy:?}").contains(basic.reveal()));
        assert_eq!(Proxy::parse("proxy.example:8080").unwrap().address(), ("proxy.example", 8080));
        assert!(matches!(Proxy::parse("socks5://h:1"), Err(InvalidProxy::Scheme(_))));
        assert!(Proxy::parse("http://").is_err());
    }

    #[test]
    fn the_environment_names_a_proxy_and_its_exceptions() {
        let environment = |name: &str| match name {
            "https_proxy" => Some("http://p:1".to_owned()),
            "NO_PROXY" => Some("corp.example, .other.example".to_owned()),
            _ => None,
        };
        let proxy = Proxy::from_environment(environment).unwrap().unwrap();
        for (host, serves) in [
            ("hub.azure-devices.net", true),
            ("corp.example", false),
            ("a.CORP.example", false),
            ("notcorp.example", true),
            ("b.other.example", false),
            ("127.0.0.1", false),
            ("localhost", false),
        ] {
            assert_eq!(proxy.serves(host), serves, "{host}");
        }
        assert!(Proxy::parse("p:1").unwrap().serves("127.0.0.1"));
        assert!(Proxy::from_environment(|_| None).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_refused_tunnel_shows_the_status_line() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nA: b\r\n\r\n").await.unwrap();
        let error = Proxy::parse("p:1").unwrap().tunnel(&mut near, "::1", 5671).await.unwrap_err();
        assert!(error.to_string().contains("407 Proxy Authentication Required"), "{error}");
        far.write_all(b"HTTP/1.0 200 OK\r\n\r\nrest").await.unwrap();
        Proxy::parse("p:1").unwrap().tunnel(&mut near, "::1", 5671).await.unwrap();
        let mut rest = [0; 4];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
    }
}
