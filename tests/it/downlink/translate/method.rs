//! Payloads of direct methods.

use std::time::Duration;

use serde_json::{Value, json};
use tti_connector::downlink::translate::{Invalid, MethodCall, Wait, downlink_method, named_method};
use tti_connector::things_stack::{ClassBC, GatewayAntenna, Operation, Payload, Priority};

use super::{decoded, deep, rules};

fn read(payload: &Value) -> Result<MethodCall, Invalid> {
    downlink_method(payload.to_string().as_bytes(), rules().application("other"))
}

fn named(name: &str, payload: &str) -> Result<Option<MethodCall>, Invalid> {
    named_method(name, payload.as_bytes(), rules().application("other"))
}

#[test]
fn every_field_of_downlink_is_read() {
    let call = read(&json!({
        "port": 7, "hex": "01ff", "confirmed": true, "priority": "HIGH", "queue": "replace",
        "classBC": {"gateways": "roof-1", "absoluteTime": "2030-01-01T00:00:00Z"},
        "wait": "confirmed", "waitSeconds": 290,
    }))
    .unwrap();
    assert_eq!(call.request.operation, Operation::Replace);
    let downlink = call.request.downlink;
    assert_eq!((downlink.f_port, downlink.confirmed, downlink.priority), (7, true, Priority::High));
    assert_eq!(downlink.payload, Payload::Raw(vec![1, 255]));
    let gateways = vec![GatewayAntenna { gateway_id: "roof-1".to_owned(), ..GatewayAntenna::default() }];
    let class_b_c = ClassBC { gateways, absolute_time: Some("2030-01-01T00:00:00Z".to_owned()) };
    assert_eq!(downlink.class_b_c, Some(class_b_c));
    assert_eq!(call.wait, Some(Wait { confirmed: true, limit: Some(Duration::from_secs(290)) }));
}

#[test]
fn a_field_that_is_null_is_not_given() {
    let call = read(&json!({
        "port": 7.0, "payload": "AQ", "hex": null, "decoded": null, "confirmed": null, "priority": null,
        "queue": null, "classBC": {"gateways": null}, "wait": null, "waitSeconds": null,
    }))
    .unwrap();
    assert_eq!((call.wait, call.request.operation), (None, Operation::Push));
    let downlink = call.request.downlink;
    assert_eq!((downlink.f_port, downlink.confirmed, downlink.class_b_c), (7, false, None));
    assert_eq!(downlink.payload, Payload::Raw(vec![1]));
    let call = read(&json!({"port": 7, "decoded": {"a": [1]}})).unwrap();
    assert_eq!(call.request.downlink.payload, decoded(json!({"a": [1]})));
}

#[test]
fn each_payload_of_downlink_that_is_not_allowed_is_refused_with_its_reason() {
    const PORT: &str = "it must be a whole number from 1 to 223";
    const PAYLOADS: &str = "give exactly one of payload (base64), decoded (a JSON object), hex";
    const WAIT: &str = "it must be sent or confirmed";
    for (payload, reason) in [
        (json!(null), "the payload is no JSON object: it must be a JSON object".to_owned()),
        (json!([1]), "the payload is no JSON object: it must be a JSON object".to_owned()),
        (json!({"Port": 1, "hex": ""}), "\"Port\" is unknown: the fields here are port, payload, decoded, hex, confirmed, priority, queue, classBC, wait, waitSeconds".to_owned()),
        (json!({"port": 0, "hex": ""}), format!("port is 0: {PORT}")),
        (json!({"port": 1.5, "hex": ""}), format!("port is 1.5: {PORT}")),
        (json!({"port": "1", "hex": ""}), format!("port is \"1\": {PORT}")),
        (json!({"port": [], "hex": ""}), format!("port is an array: {PORT}")),
        (json!({"hex": ""}), "port is missing: give port (1 to 223), or configure downlink.port".to_owned()),
        (json!({"port": 1}), format!("the downlink's payload is missing: {PAYLOADS}")),
        (json!({"port": 1, "hex": "", "decoded": {}}), format!("decoded and hex are both given: {PAYLOADS}")),
        (json!({"port": 1, "hex": 5}), "hex is a number: it must be a string".to_owned()),
        (json!({"port": 1, "decoded": "secret"}), "decoded is a string: it must be a JSON object".to_owned()),
        (json!({"port": 1, "payload": "secret!"}), "payload is no base64: it must be base64, standard or URL-safe, with or without padding".to_owned()),
        (json!({"port": 1, "hex": "", "confirmed": "true"}), "confirmed is \"true\": it must be true or false".to_owned()),
        (json!({"port": 1, "hex": "", "priority": 3}), "priority is 3: it must be one of Lowest, Low, BelowNormal, Normal, AboveNormal, High, Highest".to_owned()),
        (json!({"port": 1, "hex": "", "queue": "clear"}), "queue is \"clear\": it must be Push or Replace".to_owned()),
        (json!({"port": 1, "hex": "", "classBC": true}), "classBC is a boolean: it must be an object with gateways and absoluteTime".to_owned()),
        (json!({"port": 1, "hex": "", "classBC": {"time": 1}}), "classBC.time is unknown: the fields here are gateways, absoluteTime".to_owned()),
        (json!({"port": 1, "hex": "", "classBC": {"absoluteTime": 1}}), "classBC.absoluteTime is 1: it must be a time such as 2030-01-31T12:00:00Z (RFC 3339)".to_owned()),
        (json!({"port": 1, "hex": "", "wait": "queued"}), format!("wait is \"queued\": {WAIT}")),
        (json!({"port": 1, "hex": "", "wait": true}), format!("wait is a boolean: {WAIT}")),
        (json!({"port": 1, "hex": "", "wait": "confirmed"}), "wait is \"confirmed\": it must be sent, as an unconfirmed downlink is never acknowledged (set confirmed to true)".to_owned()),
        (json!({"port": 1, "hex": "", "wait": "sent", "waitSeconds": 291}), "waitSeconds is 291: it must be a whole number from 1 to 290".to_owned()),
        (json!({"port": 1, "hex": "", "waitSeconds": 5}), "waitSeconds says how long, but nothing says for what: give exactly one of \"sent\" or \"confirmed\" as the wait".to_owned()),
    ] {
        assert_eq!(read(&payload).unwrap_err().to_string(), reason, "{payload}");
    }
    let rules = rules();
    let raw =
        |text: &str| downlink_method(text.as_bytes(), rules.application("other")).unwrap_err().to_string();
    assert_eq!(raw(""), "the payload is no JSON object: it must be a JSON object");
    assert_eq!(raw("{\"port\""), "the payload is broken JSON at line 1 column 7: it must be JSON");
    assert_eq!(raw(&deep(10_000)), "the payload is nested too deeply: it must have at most 64 levels");
}

#[test]
fn a_named_method_sends_what_the_caller_gives_or_what_is_configured() {
    for (payload, expected) in [
        ("", json!({"open": true})),
        ("null", json!({"open": true})),
        (r#"{"open": false}"#, json!({"open": false})),
        ("{}", json!({})),
        ("3", json!({"Valve": 3})),
        ("[3]", json!({"Valve": [3]})),
        (r#"{"$wait": "sent"}"#, json!({"open": true})),
        (r#"{"$wait": "sent", "wait": 1}"#, json!({"wait": 1})),
    ] {
        let call = named("Valve", payload).unwrap().unwrap();
        assert_eq!(call.request.downlink.payload, decoded(expected), "{payload}");
        assert_eq!((call.request.downlink.f_port, call.request.downlink.confirmed), (10, true));
        assert_eq!(call.wait.is_some(), payload.contains('$'));
    }
    assert_eq!(named("unknown", "").unwrap(), None);
    assert_eq!(named("interval", "1").unwrap().unwrap().request.operation, Operation::Push);
}

#[test]
fn a_named_method_that_can_t_be_sent_is_refused_with_its_reason() {
    for (name, payload, reason) in [
        (
            "portless",
            "1",
            "the port is missing: give the port (1 to 223), or configure downlink.methods.portless.port",
        ),
        (
            "portless",
            "",
            "portless came without payload and none is configured: send one, or configure downlink.methods.portless.payload",
        ),
        ("valve", "{", "the payload is broken JSON at line 1 column 1: it must be JSON"),
        ("valve", r#"{"$wait": 1}"#, "$wait is 1: it must be sent or confirmed"),
        (
            "interval",
            r#"{"$wait": "confirmed"}"#,
            "$wait is \"confirmed\": it must be sent, as an unconfirmed downlink is never acknowledged (set confirmed to true)",
        ),
    ] {
        assert_eq!(named(name, payload).unwrap_err().to_string(), reason, "{name}");
    }
}
