//! From a host name to a byte stream: maybe through a proxy, TLS, maybe a WebSocket.
//!
//! Knows no AMQP; the caller bounds the time.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;

use super::proxy::Proxy;
use super::tcp::tcp;
use super::websocket::{WebSocketBytes, limits};

/// Opens TLS to `host:port`, through `proxy` if it serves that host. The certificate must be for `host`, which may
/// be an IP address.
///
/// # Errors
/// Says which step failed: the proxy, TCP or TLS.
pub async fn tls(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host} is no host name")))?;
    let stream = match proxy.filter(|proxy| proxy.serves(host)) {
        None => tcp(host, port).await?,
        Some(proxy) => {
            let (proxy_host, proxy_port) = proxy.address();
            let mut stream = tcp(proxy_host, proxy_port)
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("proxy {proxy_host}: {error}")))?;
            proxy.tunnel(&mut stream, host, port).await?;
            stream
        }
    };
    TlsConnector::from(config.clone())
        .connect(name, stream)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("TLS with {host}: {}", said(&error))))
}

/// Our own words about a certificate come without the TLS library's frame.
fn said(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::Other(ours)) => ours.0.to_string(),
        Some(_) | None => error.to_string(),
    }
}

/// Opens a WebSocket at `wss://{host}:{port}{path}` over a TLS stream to it. The server must choose `subprotocol`.
///
/// # Errors
/// The upgrade was refused, or the subprotocol is not in the answer.
pub async fn websocket(
    stream: TlsStream<TcpStream>,
    host: &str,
    port: u16,
    path: &str,
    subprotocol: &'static str,
) -> io::Result<WebSocketBytes<TlsStream<TcpStream>>> {
    let refused = |error: &dyn std::fmt::Display| io::Error::other(format!("WebSocket at {host}: {error}"));
    let name = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut request =
        format!("wss://{name}:{port}{path}").into_client_request().map_err(|error| refused(&error))?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    let (socket, answer) =
        client_async_with_config(request, stream, Some(limits())).await.map_err(|error| refused(&error))?;
    let chosen = answer.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    if chosen != Some(subprotocol) {
        return Err(refused(&format!("the server did not choose the subprotocol {subprotocol}")));
    }
    Ok(WebSocketBytes::new(socket))
}
