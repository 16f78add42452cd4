//! AMQP's two ways in: TLS on its own port, and the upgrade to WebSocket on the HTTPS port.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error, http};
use tokio_tungstenite::{WebSocketStream, client_async};
use tti_connector::net::websocket::WebSocketBytes;

use super::support::{Running, read, start, tls};

type Upgraded = Result<(WebSocketStream<TlsStream<TcpStream>>, Response), Box<Error>>;

async fn connect(running: &Running, host: &'static str, port: u16) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect((host, port)).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls(&running.emulator)));
    connector.connect(host.try_into().unwrap(), tcp).await.unwrap()
}

/// AMQP answers its protocol header with the same, and then waits for `open`.
async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let header = *b"AMQP\x00\x01\x00\x00";
    stream.write_all(&header).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = [0; 8];
    timeout(Duration::from_secs(10), stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, header);
}

async fn upgrade(running: &Running, subprotocol: Option<&str>) -> Upgraded {
    let port = running.emulator.ready().https_port;
    let stream = connect(running, "localhost", port).await;
    let url = format!("wss://localhost:{port}/$iothub/websocket?iothub-no-client-cert=true");
    let mut request = url.into_client_request().unwrap();
    if let Some(subprotocol) = subprotocol {
        let value = http::HeaderValue::from_str(subprotocol).unwrap();
        request.headers_mut().insert("sec-websocket-protocol", value);
    }
    client_async(request, stream).await.map_err(Box::new)
}

#[tokio::test]
async fn amqp_answers_over_tls_at_every_hub_and_over_websocket() {
    let running = start(2).await;
    let port = running.emulator.ready().hubs[0].amqp_port;
    greet(connect(&running, "localhost", port).await).await;
    greet(connect(&running, "127.0.0.2", port).await).await;
    let (socket, _) = upgrade(&running, Some("AMQPWSB10")).await.unwrap();
    greet(WebSocketBytes::new(socket)).await;
    timeout(Duration::from_secs(10), running.emulator.shutdown()).await.expect("no connection holds it up");
}

#[tokio::test]
async fn a_peer_that_says_nothing_holds_up_neither_others_nor_the_end() {
    let running = start(1).await;
    let ready = running.emulator.ready();
    let silent = [
        TcpStream::connect(("127.0.0.1", ready.https_port)).await.unwrap(),
        TcpStream::connect(("127.0.0.1", ready.hubs[0].amqp_port)).await.unwrap(),
    ];
    assert_eq!(running.call(0, Method::GET, "/x", &[], None).await.status(), StatusCode::NOT_FOUND);
    timeout(Duration::from_secs(5), running.emulator.shutdown()).await.unwrap();
    for mut stream in silent {
        let ended = timeout(Duration::from_secs(5), stream.read(&mut [0])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
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
