//! `health`: asks a running connector over loopback HTTP whether it is well.
//!
//! A client of few lines, so that a container needs no curl. Knows no configuration but the address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

/// Docker's own limit is 30 s; a connector that is well answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The status line and the reason behind it fit by far.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// Of the answer's body, so much is shown.
const MAX_SHOWN_CHARS: usize = 300;

/// Why the connector counts as not well.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nobody answers.
    #[error("{url} can't be reached; is the connector running, and is admin.listen the same?")]
    Unreachable {
        /// What was asked.
        url: Url,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{url} gave no answer within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// What was asked.
        url: Url,
    },
    /// It answered, but not with 2xx.
    #[error("{url} answered {status}: {body}")]
    NotWell {
        /// What was asked.
        url: Url,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer's body.
        body: String,
    },
    /// Something else listens there.
    #[error("{url} gave no HTTP answer")]
    NotHttp {
        /// What was asked.
        url: Url,
    },
    /// A URL that can't be asked.
    #[error("{url} is not an http URL with a host")]
    BadUrl {
        /// What was asked for.
        url: Url,
    },
}

/// The URL of `path` at `admin.listen`; a listener on every address is asked over loopback.
pub fn admin_url(listen: SocketAddr, path: &str) -> Url {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    Url::parse(&format!("http://{address}{path}")).expect("an address and a constant path are a URL")
}

/// Asks `url` with GET and returns the first line of the body.
///
/// # Errors
/// Anything but an answer of 2xx in time.
pub async fn ask(url: Url) -> Result<String, HealthError> {
    let Some(host) = url.host_str().filter(|_| url.scheme() == "http") else {
        return Err(HealthError::BadUrl { url });
    };
    let bare_host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let authority = url.authority().rsplit('@').next().unwrap_or_default();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let request =
        format!("GET {}{query} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n", url.path());
    let answer = match tokio::time::timeout(TIMEOUT, exchange(&bare_host, port, &request)).await {
        Err(_) => return Err(HealthError::TimedOut { url }),
        Ok(Err(source)) => return Err(HealthError::Unreachable { url, source }),
        Ok(Ok(answer)) => answer,
    };
    let Some((status, body)) = parse(&answer) else {
        return Err(HealthError::NotHttp { url });
    };
    if !(200..300).contains(&status) {
        return Err(HealthError::NotWell { url, status, body });
    }
    Ok(body.lines().next().unwrap_or_default().to_owned())
}

async fn exchange(host: &str, port: u16, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status and the beginning of the body, without control characters but line ends.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let status = text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    let shown = body.chars().filter(|c| !c.is_control() || *c == '\n').take(MAX_SHOWN_CHARS).collect();
    Some((status, shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_over_loopback() {
        for (listen, url) in [
            ("0.0.0.0:9090", "http://127.0.0.1:9090/live"),
            ("[::]:9090", "http://[::1]:9090/live"),
            ("10.1.2.3:80", "http://10.1.2.3/live"),
        ] {
            assert_eq!(admin_url(listen.parse().unwrap(), "/live").as_str(), url);
        }
    }

    #[test]
    fn answers_are_read_with_or_without_a_reason() {
        let parsed = |answer: &str| parse(answer.as_bytes());
        assert_eq!(parsed("HTTP/1.1 200 OK\r\nA: b\r\n\r\nok\n"), Some((200, "ok".to_owned())));
        assert_eq!(parsed("HTTP/1.1 503\r\n\r\n\x1b[31mno hub"), None, "no space behind the status");
        assert_eq!(parsed("HTTP/1.1 503 \r\n\r\n\x1b[31mno hub"), Some((503, "[31mno hub".to_owned())));
        assert_eq!(parsed("SSH-2.0-x\r\n"), None);
        assert_eq!(parsed(""), None);
    }
}
