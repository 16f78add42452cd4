//! The ways to the hub: WebSocket, HTTP proxy, untrusted certificates, quiet connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tti_connector::iot_hub::{IotHub, SendError, Transport};
use tti_connector::net::proxy::Proxy;
use tti_connector::net::tls::client_config_with;
use tti_connector::net::websocket::WebSocketBytes;

use super::hub::{Limits, Seen, TestHub};
use super::{by_key, ids, telemetry};

/// Serves the test hub over WebSocket; answers with the subprotocol if told to.
async fn websocket_listener(hub: &TestHub, with_protocol: bool) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tls, state) = (hub.tls.clone(), hub.state.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let stream = tls.accept(tcp).await.unwrap();
            #[allow(clippy::result_large_err, reason = "the crate's own signature")]
            let check = |request: &Request, mut answer: Response| -> Result<Response, ErrorResponse> {
                assert_eq!(request.uri().path(), "/$iothub/websocket");
                let protocol = request.headers().get("sec-websocket-protocol").unwrap();
                assert_eq!(protocol, "AMQPWSB10");
                if with_protocol {
                    answer.headers_mut().insert("sec-websocket-protocol", protocol.clone());
                }
                Ok(answer)
            };
            if let Ok(socket) = accept_hdr_async(stream, check).await {
                tokio::spawn(state.clone().serve(WebSocketBytes::new(socket)));
            }
        }
    });
    (port, tasks)
}

/// A proxy that takes CONNECT and notes the request.
async fn proxy() -> (Proxy, tokio::sync::mpsc::UnboundedReceiver<String>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (note, noted) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let to = head.split(' ').nth(1).unwrap().to_owned();
            note.send(head).unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (Proxy::parse(&format!("http://user:word@127.0.0.1:{port}")).unwrap(), noted, tasks)
}

#[tokio::test]
async fn amqp_over_websocket_carries_messages_small_and_large() {
    let test_hub = TestHub::start().await;
    let (port, _tasks) = websocket_listener(&test_hub, true).await;
    let mut options = test_hub.options();
    options.transport = Transport::WebSocket;
    options.websocket_port = port;
    let hub = IotHub::new(options);
    let device = by_key(&test_hub, "a");
    let mut large = telemetry("large");
    large.body = vec![b'x'; 250_000].into();
    hub.send(&device, &telemetry("small")).await.unwrap();
    hub.send(&device, &large).await.unwrap();
    assert_eq!(ids(&test_hub), ["small", "large"]);
    hub.close().await;
    test_hub.wait(1, |seen| matches!(seen, Seen::Gone)).await;
}

#[tokio::test]
async fn a_websocket_without_the_subprotocol_is_refused() {
    let test_hub = TestHub::start().await;
    let (port, _tasks) = websocket_listener(&test_hub, false).await;
    let mut options = test_hub.options();
    options.transport = Transport::WebSocket;
    options.websocket_port = port;
    let hub = IotHub::new(options);
    let error = hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("protocol"), "{error}");
    hub.close().await;
}

#[tokio::test]
async fn a_proxy_is_used_for_either_transport() {
    let test_hub = TestHub::start().await;
    let (port, _tasks) = websocket_listener(&test_hub, true).await;
    for (transport, to) in [(Transport::Tls, test_hub.address.port), (Transport::WebSocket, port)] {
        let (proxy, mut noted, _proxy_tasks) = proxy().await;
        let mut options = test_hub.options();
        options.transport = transport;
        options.websocket_port = port;
        options.proxy = Some(proxy);
        let hub = IotHub::new(options);
        hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap();
        let head = noted.try_recv().unwrap();
        assert!(head.starts_with(&format!("CONNECT 127.0.0.1:{to} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n"), "{head}");
        hub.close().await;
    }
}

#[tokio::test]
async fn a_hub_with_an_untrusted_certificate_gets_no_token() {
    let test_hub = TestHub::start().await;
    let other = TestHub::start().await;
    let mut options = test_hub.options();
    options.tls = client_config_with(other.roots.clone()).unwrap();
    let hub = IotHub::new(options);
    let error = hub.send(&by_key(&test_hub, "a"), &telemetry("a")).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(test_hub.seen().is_empty());
    hub.close().await;
}

#[tokio::test]
async fn a_quiet_connection_outlives_the_hubs_idle_time_out() {
    let test_hub = TestHub::start_with(Limits { idle_ms: Some(600), ..Default::default() }).await;
    let hub = IotHub::new(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.send(&device, &telemetry("1")).await.unwrap();
    // The quiet time is what is tested: five idle time-outs.
    let gone = test_hub.state.clone();
    let cut = tokio::time::timeout(Duration::from_secs(3), gone.wait_for_end()).await;
    assert!(cut.is_err(), "the hub gave the connection up");
    hub.send(&device, &telemetry("2")).await.unwrap();
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 1);
    hub.close().await;
}

#[tokio::test]
async fn dropping_the_last_clone_ends_every_connection() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let other = hub.clone();
    hub.send(&by_key(&test_hub, "a"), &telemetry("1")).await.unwrap();
    drop(hub);
    other.send(&Arc::new((*by_key(&test_hub, "a")).clone()), &telemetry("2")).await.unwrap();
    drop(other);
    test_hub.wait(1, |seen| matches!(seen, Seen::Gone)).await;
}
