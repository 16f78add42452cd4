//! The upgrade to AMQP over WebSocket.

use std::sync::Arc;

use reqwest::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error, http};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::support::{Running, read, start, tls};

type Upgraded = Result<(WebSocketStream<TlsStream<TcpStream>>, Response), Box<Error>>;

async fn upgrade(running: &Running, subprotocol: Option<&str>) -> Upgraded {
    let port = running.emulator.ready().https_port;
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls(&running.emulator)));
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let url = format!("wss://localhost:{port}/$iothub/websocket?iothub-no-client-cert=true");
    let mut request = url.into_client_request().unwrap();
    if let Some(subprotocol) = subprotocol {
        let value = http::HeaderValue::from_str(subprotocol).unwrap();
        request.headers_mut().insert("sec-websocket-protocol", value);
    }
    client_async(request, stream).await.map_err(Box::new)
}

#[tokio::test]
async fn the_subprotocol_is_required_and_echoed() {
    let running = start(1).await;
    let (_socket, response) = upgrade(&running, Some("amqp, AMQPWSB10")).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "AMQPWSB10");
    for wrong in [None, Some("mqtt")] {
        match upgrade(&running, wrong).await.map_err(|error| *error) {
            Err(Error::Http(response)) => assert_eq!(response.status(), 400),
            other => panic!("{wrong:?}: {other:?}"),
        }
    }
    running.emulator.shutdown().await;
}

#[tokio::test]
async fn a_plain_request_to_the_websocket_path_is_told_what_it_takes() {
    let running = start(1).await;
    let (status, body) = read(running.call(0, Method::GET, "/$iothub/websocket", &[], None).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["Message"].as_str().unwrap().contains("upgrades only"), "{body}");
    let old = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")];
    let response = running.call(0, Method::GET, "/$iothub/websocket", &old, None).await;
    assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(response.headers()["sec-websocket-version"], "13");
}
