//! What nobody must read in logs, metrics, answers and arguments: keys, tokens, payloads. Here of the way back, whose
//! messages carry the most of them; `watch` reads the logs of all other tests.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tti_connector::emulator::things_stack::{Calls, DeviceName, Fault, Uplink, Webhook};
use tti_connector::model::Secret;

use crate::messages::DEADLINE;
use crate::way_back::kit::message;
use crate::webhook::desk::http_client;
use crate::world::{World, free_port};

/// Bytes that are a payload, as text of all kinds.
const PAYLOADS: [&str; 6] = [
    "cGxhbnRlZC1wYXlsb2Fk",
    "planted-payload",
    "706c616e7465642d7061796c6f6164",
    "112, 108, 97, 110, 116, 101, 100, 45",
    "planted-value",
    "planted-broken",
];
const PUSH: (&str, &str) = ("Port", "1");

#[tokio::test(flavor = "multi_thread")]
async fn trap_26_no_key_and_no_downlink_payload_reaches_log_metrics_answers_or_arguments() {
    let world = World::new(1).await;
    let stack = world.emulator.things_stack().expect("there");
    let (port, admin) = (free_port(), free_port());
    let learnt = stack.add_key(&tti_connector::emulator::things_stack::Right::ALL);
    let mut child = world
        .connector(port)
        .env("TTI_CONNECTOR__THINGS_STACK__BASE_URL", stack.url())
        .env("TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__HOUSE__API_KEY", stack.api_key())
        .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .env("TTI_CONNECTOR__LOG__LEVEL", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the connector starts");
    // Read while it runs: at level trace the pipe fills.
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let reading = tokio::spawn(async move {
        let (mut out_text, mut err_text) = (String::new(), String::new());
        let read = tokio::join!(out.read_to_string(&mut out_text), err.read_to_string(&mut err_text));
        read.0.and(read.1).expect("UTF-8");
        out_text + &err_text
    });
    let url = format!("http://127.0.0.1:{port}/webhook");
    let listens = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, listens).await.expect("it listens");
    // Every message of the webhook offers the key; one application uses it, the other has its own.
    let webhook = Webhook::new(url.parse().expect("a URL"));
    stack
        .set_webhook(Some(Webhook { downlink_api_key: Some(Secret::new(learnt.clone())), ..webhook }))
        .expect("a webhook");
    let hub = world.hub(0);
    for (application, device) in [("house", "valve"), ("barn", "door")] {
        let name = DeviceName::new(application, device).expect("valid ids");
        stack.uplink(&name, &Uplink::default()).expect("a device");
        let mut twins = hub.twin_changes();
        let there = async {
            while !(hub.takes_cloud_messages(device) && hub.takes_methods(device) && hub.follows_twin(device))
            {
                twins.changed().await.expect("the hub lives");
            }
        };
        tokio::time::timeout(DEADLINE, there).await.expect("the links open");
        stack.fault(Fault { status: Some(409), calls: Calls::Write, ..Fault::default() }).expect("a fault");
        for (id, properties, body) in [
            ("raw", &[PUSH][..], PAYLOADS[0]),
            ("text", &[PUSH, ("Encoding", "text")], PAYLOADS[1]),
            ("hex", &[PUSH, ("Encoding", "hex")], PAYLOADS[2]),
            ("json", &[PUSH], r#"{"a":"planted-value"}"#),
            ("no-base64", &[PUSH], "planted-broken!"),
            ("no-json", &[PUSH], r#"{"planted-broken""#),
        ] {
            let id = format!("{device}-{id}");
            hub.send_cloud_message(device, message(&id, properties, body)).expect("it is taken");
        }
        let mut cloud = hub.cloud_changes();
        let empty = async {
            while !hub.cloud_queue(device).is_empty() {
                cloud.changed().await.expect("the hub lives");
            }
        };
        tokio::time::timeout(DEADLINE, empty).await.expect("all are answered");
        for (method, payload) in [
            ("downlink", json!({"port": 1, "hex": PAYLOADS[2]})),
            ("downlink", json!({"port": 1, "hex": "planted-broken"})),
            ("planted-method", json!("planted-value")),
            ("downlinkQueue", json!(null)),
        ] {
            hub.invoke_method(device, method, &payload, DEADLINE).await.expect("an answer");
        }
        for value in
            [json!({"fPort": 1, "framePayload": PAYLOADS[2]}), json!({"framePayload": "planted-broken"})]
        {
            let version =
                hub.update_desired(device, &json!({"rawDownlink": value})).expect("a device").desired.version;
            let told = async {
                let told = |hub: &tti_connector::emulator::Hub| {
                    hub.twin(device)
                        .is_some_and(|twin| twin.reported.properties["rawDownlink"]["av"] == version)
                };
                while !hub
                    .twin(device)
                    .is_some_and(|twin| twin.reported.properties.contains_key("rawDownlink"))
                    || !told(hub)
                {
                    twins.changed().await.expect("the hub lives");
                }
            };
            tokio::time::timeout(DEADLINE, told).await.expect("it is acknowledged");
        }
    }
    assert_eq!(stack.pushed(), 12, "four messages, a call and a property of each");
    let id = child.id().expect("it runs").to_string();
    let mut shown = String::new();
    for path in ["metrics", "ready", "live"] {
        let url = format!("http://127.0.0.1:{admin}/{path}");
        let answer = http_client().get(url).send().await.expect("an answer");
        shown += &answer.text().await.expect("a text");
    }
    // Every user of a machine can read the arguments of every process.
    shown += &std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    assert!(shown.contains("tti_connector_webhook_received_messages"), "{shown}");
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs").success());
    assert!(child.wait().await.expect("it ends").success(), "SIGTERM is a clean end");

    let log = reading.await.expect("read");
    assert!(log.contains("A cloud-to-device message was rejected"), "{log}");
    assert!(log.contains("Learnt an API key"), "{log}");
    let keys = [
        stack.api_key(),
        &learnt,
        "SharedAccessSignature",
        "sig=",
        &world.emulator.ready().group_enrollment_key,
    ];
    for planted in keys.into_iter().chain(PAYLOADS) {
        let line = log.lines().chain(shown.lines()).find(|line| line.contains(planted));
        assert_eq!(line, None, "{planted} is in the log, the metrics or the arguments");
    }
}
