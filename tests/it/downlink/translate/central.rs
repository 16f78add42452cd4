//! Commands of IoT Central.

use bytes::Bytes;
use serde_json::json;
use tti_connector::azure::CloudMessage;
use tti_connector::downlink::translate::{Invalid, Request, cloud_message};
use tti_connector::things_stack::{Operation, Payload, Priority};

use super::{decoded, deep, rules};

fn read(application: &str, properties: &[(&str, &str)], body: &str) -> Result<Request, Invalid> {
    let message = CloudMessage {
        properties: properties.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..CloudMessage::default()
    };
    cloud_message(&message, rules().application(application))
}

fn command(name: &str, body: &str) -> Result<Request, Invalid> {
    read("other", &[("method-name", name)], body)
}

#[test]
fn a_command_takes_its_defaults_from_the_configuration() {
    let request = command("valve", "@").unwrap();
    assert_eq!(request.operation, Operation::Push);
    let downlink = request.downlink;
    assert_eq!((downlink.f_port, downlink.confirmed, downlink.priority), (10, true, Priority::High));
    assert_eq!(downlink.payload, decoded(json!({"open": true})));
}

#[test]
fn a_property_wins_over_the_configuration() {
    let properties = [
        ("Method-Name", "valve"),
        ("port", "99"),
        ("Confirmed", "false"),
        ("Priority", "Low"),
        ("Queue", "Replace"),
    ];
    let request = read("other", &properties, "@").unwrap();
    assert_eq!(request.operation, Operation::Replace);
    let downlink = request.downlink;
    assert_eq!((downlink.f_port, downlink.confirmed, downlink.priority), (99, false, Priority::Low));
}

#[test]
fn a_command_replaces_the_queue_unless_something_says_otherwise() {
    assert_eq!(command("interval", "1").unwrap().operation, Operation::Replace);
    let pushed = read("other", &[("method-name", "interval"), ("Queue", "push")], "1").unwrap();
    assert_eq!(pushed.operation, Operation::Push);
}

#[test]
fn an_argument_is_sent_as_it_is_or_under_the_commands_name() {
    for (body, expected) in [
        (r#"{"minutes": 5}"#, json!({"minutes": 5})),
        ("5", json!({"interval": 5})),
        ("true", json!({"interval": true})),
        ("null", json!({"interval": null})),
        ("\"slow\"", json!({"interval": "slow"})),
        ("[1, 2]", json!({"interval": [1, 2]})),
        (" slowly, please ", json!({"interval": "slowly, please"})),
        ("{broken", json!({"interval": "{broken"})),
        (" @ ", json!({"interval": 15})),
        ("", json!({"interval": 15})),
    ] {
        assert_eq!(command("interval", body).unwrap().downlink.payload, decoded(expected), "{body}");
    }
    let bytes = read("other", &[("method-name", "interval"), ("Encoding", "hex")], "0102").unwrap();
    assert_eq!(bytes.downlink.payload, Payload::Raw(vec![1, 2]));
}

#[test]
fn names_are_compared_exactly_first_then_without_case_the_applications_own_before_general_ones() {
    let port = |application: &str, name: &str| {
        read(application, &[("method-name", name)], "1").unwrap().downlink.f_port
    };
    assert_eq!(port("other", "INTERVAL"), 11);
    assert_eq!(port("app", "interval"), 30);
    assert_eq!(port("app", "Interval"), 31);
    assert_eq!(port("app", "VALVE"), 10);
}

#[test]
fn an_unknown_command_is_sent_where_a_port_is_known() {
    let request = read("ported", &[("method-name", "blink")], "3").unwrap();
    assert_eq!((request.downlink.f_port, request.downlink.payload), (40, decoded(json!({"blink": 3}))));
    let request = read("other", &[("method-name", "blink"), ("Port", "9")], "3").unwrap();
    assert_eq!(request.downlink.f_port, 9);
}

#[test]
fn each_command_that_can_t_be_sent_is_refused_with_its_reason() {
    let deep = deep(10_000);
    let nothing = "came without payload and none is configured: send one, or configure";
    for (name, body, reason) in [
        ("", "1", "method-name is \"\": it must be the command's name".to_owned()),
        (" ", "1", "method-name is \" \": it must be the command's name".to_owned()),
        (
            "blink",
            "1",
            "Port is missing: give Port (1 to 223), or configure downlink.methods.blink.port".to_owned(),
        ),
        (
            "portless",
            "1",
            "Port is missing: give Port (1 to 223), or configure downlink.methods.portless.port".to_owned(),
        ),
        ("blink", "@", format!("blink {nothing} downlink.methods.blink.payload")),
        ("portless", "", format!("portless {nothing} downlink.methods.portless.payload")),
        ("interval", &deep, "the body is nested too deeply: it must have at most 64 levels".to_owned()),
    ] {
        assert_eq!(command(name, body).unwrap_err().to_string(), reason);
    }
}
