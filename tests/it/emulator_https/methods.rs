//! `POST /twins/{id}/methods`: a call over HTTPS to a device on AMQP, and all the ways it can fail.

use std::time::{Duration, Instant};

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::{Connection, Session};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::{ApplicationProperties, Batch, Body, Data, Message, Properties};
use fe2o3_amqp_types::primitives::{Symbol, Value as AmqpValue};
use reqwest::{Method, StatusCode};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::support::{Running, read, sas, start, tls};

const PATH: &str = "/twins/dev/methods?api-version=2021-04-12";

async fn invoke(running: &Running, policy: &str, body: Value) -> (StatusCode, Value) {
    let token = running.policy(0, policy);
    let headers = [("authorization", token.as_str())];
    read(running.call(0, Method::POST, PATH, &headers, Some(body)).await).await
}

/// A device that ends with the test.
struct Device {
    task: JoinHandle<()>,
    /// Calls that it keeps silent about.
    silent: mpsc::UnboundedReceiver<()>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A device over TLS that answers each call with 200 and what it got, except `silence`.
async fn device(running: &Running) -> Device {
    let hub = &running.emulator.hubs()[0];
    let key = hub.device("dev").unwrap().primary_key;
    let password = sas("localhost%2Fdevices%2Fdev", &key, None);
    let port = running.emulator.ready().hubs[0].amqp_port;
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = TlsConnector::from(std::sync::Arc::new(tls(&running.emulator)));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, tcp).await.unwrap();
    let (heard, silent) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let username = "dev@sas.localhost".to_owned();
        let profile = SaslProfile::Plain { username, password };
        let builder = Connection::builder().container_id("device").sasl_profile(profile);
        let mut connection = builder.open_with_stream(stream).await.unwrap();
        let mut session = Session::begin(&mut connection).await.unwrap();
        let address = "/devices/dev/methods/devicebound";
        let mut properties = Fields::new();
        let correlation = Symbol::from("com.microsoft:channel-correlation-id");
        properties.insert(correlation, AmqpValue::from("methods:1"));
        let calls = Receiver::builder().name("calls").source(address).properties(properties.clone());
        let mut calls = calls.attach(&mut session).await.unwrap();
        let answers = Sender::builder().name("answers").target(address).properties(properties);
        let mut answers = answers.attach(&mut session).await.unwrap();
        while let Ok(delivery) = calls.recv::<Body<AmqpValue>>().await {
            let request = delivery.into_message();
            let named = request.application_properties.unwrap();
            if named.0.get("IoThub-methodname") == Some(&"silence".into()) {
                heard.send(()).unwrap();
                continue;
            }
            let id = request.properties.unwrap().correlation_id.unwrap();
            let Body::Data(parts) = request.body else { panic!("no data") };
            let body: Vec<Data> = parts.into_iter().collect();
            let answer = Message::builder()
                .properties(Properties::builder().correlation_id(id).build())
                .application_properties(ApplicationProperties::builder().insert("IoThub-status", 200).build())
                .body(Body::<AmqpValue>::Data(Batch::new(body)))
                .build();
            answers.send(answer).await.unwrap();
        }
    });
    Device { task, silent }
}

async fn online(running: &Running) {
    let online = async {
        while !running.emulator.hubs()[0].takes_methods("dev") {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), online).await.unwrap();
}

#[tokio::test]
async fn a_call_brings_back_status_and_payload() {
    let running = start(1).await;
    running.emulator.hubs()[0].create_device("dev", None).unwrap();
    let _device = device(&running).await;
    online(&running).await;
    for (policy, payload) in [("service", json!({ "a": [1, "x"] })), ("iothubowner", Value::Null)] {
        let body = json!({ "methodName": "echo", "payload": payload, "responseTimeoutInSeconds": 10 });
        let (status, answer) = invoke(&running, policy, body).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({ "status": 200, "payload": payload })));
    }
    let (status, answer) = invoke(&running, "service", json!({ "methodName": "echo" })).await;
    assert_eq!((status, &answer["payload"]), (StatusCode::OK, &Value::Null), "no payload is null");
    let most = json!("x".repeat(128 * 1024 - 2));
    let body = json!({ "methodName": "echo", "payload": most });
    assert_eq!(invoke(&running, "service", body).await.1["payload"], most);
    running.emulator.shutdown().await;
}

#[tokio::test]
async fn a_call_may_wait_for_the_device_to_come() {
    let running = start(1).await;
    running.emulator.hubs()[0].create_device("dev", None).unwrap();
    let body = json!({ "methodName": "echo", "payload": 1, "connectTimeoutInSeconds": 60 });
    let ((status, answer), _device) = tokio::join!(invoke(&running, "service", body), device(&running));
    assert_eq!((status, &answer["payload"]), (StatusCode::OK, &json!(1)));
}

#[tokio::test]
async fn an_absent_device_an_unknown_one_and_a_silent_one_are_told_apart() {
    let running = start(1).await;
    let call = |name: &str| json!({ "methodName": name, "responseTimeoutInSeconds": 5 });
    let (status, reply) = invoke(&running, "service", call("echo")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(reply["Message"].as_str().unwrap().starts_with("ErrorCode:DeviceNotFound;"), "{reply}");
    running.emulator.hubs()[0].create_device("dev", None).unwrap();
    let (status, reply) = invoke(&running, "service", call("echo")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(reply["Message"].as_str().unwrap().starts_with("ErrorCode:DeviceNotOnline;"), "{reply}");
    let _device = device(&running).await;
    online(&running).await;
    let started = Instant::now();
    let (status, reply) = invoke(&running, "service", call("silence")).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(reply["Message"].as_str().unwrap().starts_with("ErrorCode:GatewayTimeout;"), "{reply}");
    assert!(started.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn a_stopping_emulator_waits_for_no_call() {
    let running = start(1).await;
    running.emulator.hubs()[0].create_device("dev", None).unwrap();
    let mut device = device(&running).await;
    online(&running).await;
    let token = running.policy(0, "service");
    let url = format!("https://localhost:{}{PATH}", running.emulator.ready().https_port);
    let body = json!({ "methodName": "silence", "responseTimeoutInSeconds": 300 });
    let request = running.client.post(url).header("authorization", token).json(&body);
    let call = tokio::spawn(request.send());
    tokio::time::timeout(Duration::from_secs(10), device.silent.recv()).await.unwrap().unwrap();
    let started = Instant::now();
    running.emulator.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn what_cannot_be_called_is_refused_with_the_reason() {
    let running = start(1).await;
    running.emulator.hubs()[0].create_device("dev", None).unwrap();
    for (body, wanted, words) in [
        (json!({}), 400, "methodName"),
        (json!({ "methodName": "" }), 400, "1 to 128"),
        (json!({ "methodName": "m", "responseTimeoutInSeconds": 4 }), 400, "5 to 300"),
        (json!({ "methodName": "m", "responseTimeoutInSeconds": 301 }), 400, "5 to 300"),
        (json!({ "methodName": "m", "connectTimeoutInSeconds": 301 }), 400, "0 to 300"),
        (json!({ "methodName": "m", "payload": "x".repeat(128 * 1024) }), 413, "over 131072"),
        (json!({ "methodName": "m", "payload": "x".repeat(200_000) }), 413, "over"),
    ] {
        let (status, reply) = invoke(&running, "service", body).await;
        assert_eq!(status.as_u16(), wanted, "{reply}");
        assert!(reply["Message"].as_str().unwrap().contains(words), "{reply}");
    }
    for policy in ["device", "registryReadWrite"] {
        let (status, _) = invoke(&running, policy, json!({ "methodName": "m" })).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{policy}");
    }
    let token = running.policy(0, "service");
    let response = running.call(0, Method::GET, PATH, &[("authorization", &token)], None).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}
