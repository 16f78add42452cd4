//! Cloud-to-device messages.

use bytes::Bytes;
use serde_json::json;
use tti_connector::azure::CloudMessage;
use tti_connector::downlink::translate::{Invalid, Request, cloud_message};
use tti_connector::things_stack::{ClassBC, GatewayAntenna, Operation, Payload, Priority};

use super::{decoded, deep, rules};

fn read(properties: &[(&str, &str)], body: &[u8]) -> Result<Request, Invalid> {
    cloud_message(&message(properties, body), rules().application("other"))
}

fn message(properties: &[(&str, &str)], body: &[u8]) -> CloudMessage {
    CloudMessage {
        properties: properties.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: Bytes::copy_from_slice(body),
        ..CloudMessage::default()
    }
}

#[test]
fn what_is_not_said_is_what_the_documented_connector_takes() {
    let request = read(&[("Port", "5")], b"AQID").unwrap();
    assert_eq!(request.operation, Operation::Push);
    let downlink = request.downlink;
    assert_eq!((downlink.f_port, downlink.confirmed, downlink.priority), (5, false, Priority::Normal));
    assert_eq!(downlink.payload, Payload::Raw(vec![1, 2, 3]));
    assert_eq!((downlink.class_b_c, downlink.correlation_ids), (None, vec![]));
}

#[test]
fn a_number_reaches_the_formatter_as_the_nearest_double_and_not_the_one_beside_it() {
    let body = br#"{"a": 1.4e34, "b": 122.416294033786585, "c": 5e-324}"#;
    let request = read(&[("Port", "5")], body).unwrap();
    assert_eq!(
        request.downlink.payload,
        decoded(json!({"a": 1.4e34, "b": 122.416_294_033_786_58, "c": 5e-324}))
    );
}

#[test]
fn every_property_is_read_however_its_name_is_spelt() {
    let properties = [
        ("PORT", " 223 "),
        ("confirmed", "True"),
        ("pRiOrItY", "belownormal"),
        ("queue", "REPLACE"),
        ("classbcgateways", "roof-1:1"),
        ("ClassBCAbsoluteTime", "2030-01-01T01:00:00+01:00"),
        ("encoding", "Hex"),
        ("my-own", "anything"),
    ];
    let request = read(&properties, b"0x01 02:ff").unwrap();
    assert_eq!(request.operation, Operation::Replace);
    let downlink = request.downlink;
    assert_eq!((downlink.f_port, downlink.confirmed, downlink.priority), (223, true, Priority::BelowNormal));
    assert_eq!(downlink.payload, Payload::Raw(vec![1, 2, 255]));
    let gateway = GatewayAntenna { gateway_id: "roof-1".to_owned(), antenna_index: 1, group_index: 0 };
    let expected =
        ClassBC { gateways: vec![gateway], absolute_time: Some("2030-01-01T00:00:00Z".to_owned()) };
    assert_eq!(downlink.class_b_c, Some(expected));
}

#[test]
fn each_body_is_read_as_what_it_is_or_as_what_encoding_says() {
    let port = ("Port", "1");
    for (encoding, body, expected) in [
        (None, br#" {"led": {"on": true}} "#.as_slice(), decoded(json!({"led": {"on": true}}))),
        (None, b"{}", decoded(json!({}))),
        (None, b"", Payload::Raw(vec![])),
        (None, b"  \n", Payload::Raw(vec![])),
        (None, b"-_8", Payload::Raw(vec![0xfb, 0xff])),
        (None, b"+/8=\n", Payload::Raw(vec![0xfb, 0xff])),
        (None, b"true", Payload::Raw(vec![0xb6, 0xbb, 0x9e])),
        (Some("base64"), b"AQ==", Payload::Raw(vec![1])),
        (Some("HEX"), b"0a 0B", Payload::Raw(vec![10, 11])),
        (Some("hex"), b"", Payload::Raw(vec![])),
        (Some("text"), b" hi {", Payload::Raw(b" hi {".to_vec())),
        (Some("Text"), b"\xff\x00", Payload::Raw(vec![255, 0])),
        (Some("text"), br#"{"a":1}"#, Payload::Raw(br#"{"a":1}"#.to_vec())),
        (Some("text"), &[7; 255], Payload::Raw(vec![7; 255])),
    ] {
        let mut properties = vec![port];
        properties.extend(encoding.map(|encoding| ("Encoding", encoding)));
        let request = read(&properties, body).unwrap();
        assert_eq!(request.downlink.payload, expected, "{encoding:?} {body:?}");
    }
}

#[test]
fn each_value_that_is_not_allowed_is_refused_with_its_reason() {
    const PORT: &str = "it must be a whole number from 1 to 223";
    for (name, value, reason) in [
        ("Port", "0", format!("Port is \"0\": {PORT}")),
        ("Port", "224", format!("Port is \"224\": {PORT}")),
        ("Port", "-1", format!("Port is \"-1\": {PORT}")),
        ("Port", "5.0", format!("Port is \"5.0\": {PORT}")),
        ("port", "", format!("Port is \"\": {PORT}")),
        ("Port", "99999999999999999999", format!("Port is \"99999999999999999999\": {PORT}")),
        ("Confirmed", "yes", "Confirmed is \"yes\": it must be true or false".to_owned()),
        ("Confirmed", "1", "Confirmed is \"1\": it must be true or false".to_owned()),
        (
            "Priority",
            "urgent",
            "Priority is \"urgent\": it must be one of Lowest, Low, BelowNormal, Normal, AboveNormal, High, Highest"
                .to_owned(),
        ),
        ("Queue", "append", "Queue is \"append\": it must be Push or Replace".to_owned()),
        ("Encoding", "binary", "Encoding is \"binary\": it must be hex, text or base64".to_owned()),
        (
            "ClassBCAbsoluteTime",
            "tomorrow",
            "ClassBCAbsoluteTime is \"tomorrow\": it must be a time such as 2030-01-31T12:00:00Z (RFC 3339)"
                .to_owned(),
        ),
    ] {
        let mut properties = vec![(name, value)];
        if !name.eq_ignore_ascii_case("port") {
            properties.push(("Port", "1"));
        }
        assert_eq!(read(&properties, b"AQ==").unwrap_err().to_string(), reason, "{name}={value}");
    }
    let gateways = read(&[("Port", "1"), ("ClassBCGateways", "Roof")], b"").unwrap_err().to_string();
    assert!(gateways.starts_with("ClassBCGateways is \"Roof\": it must be gateway ids with commas between"));
}

#[test]
fn a_long_or_strange_value_is_shown_shortened_and_without_control_characters() {
    let value = format!("a\r\n{}", "x".repeat(1000));
    let reason = read(&[("Port", &value)], b"").unwrap_err().to_string();
    assert_eq!(
        reason,
        format!("Port is \"a\u{fffd}\u{fffd}{}…\": it must be a whole number from 1 to 223", "x".repeat(37))
    );
}

#[test]
fn a_port_is_required_unless_one_is_configured() {
    let reason = read(&[], b"AQ==").unwrap_err().to_string();
    assert_eq!(reason, "Port is missing: give Port (1 to 223), or configure downlink.port");
    let rules = rules();
    let ported = |properties| {
        cloud_message(&message(properties, b"AQ=="), rules.application("ported")).unwrap().downlink.f_port
    };
    assert_eq!(ported(&[]), 40);
    assert_eq!(ported(&[("Port", "2")]), 2);
}

#[test]
fn one_property_with_two_values_is_refused() {
    let reason = read(&[("Port", "1"), ("port", "2")], b"").unwrap_err().to_string();
    let expected =
        "Port and port have different values but are one property, as case does not count: send it once";
    assert_eq!(reason, expected);
    assert_eq!(read(&[("Port", "1"), ("port", "1")], b"").unwrap().downlink.f_port, 1);
    assert!(read(&[("Port", "1"), ("mine", "1"), ("Mine", "2")], b"").is_ok(), "not ours to judge");
}

#[test]
fn each_body_that_is_no_payload_is_refused_with_its_reason() {
    const KINDS: &str =
        "a JSON object, base64 text, or what the property Encoding (hex, text or base64) says";
    const BASE64: &str = "base64, standard or URL-safe, with or without padding";
    const HEX: &str = "an even number of hexadecimal digits; spaces, colons and 0x are allowed between bytes";
    let deep = deep(10_000);
    for (encoding, body, reason) in [
        (
            None,
            b"[1,2]".as_slice(),
            format!("the body begins like a JSON array, which no formatter takes: it must be {KINDS}"),
        ),
        (None, b"{\"secret\":", format!("the body is broken JSON at line 1 column 10: it must be {KINDS}")),
        (None, b"{} x", format!("the body is broken JSON at line 1 column 4: it must be {KINDS}")),
        (None, b"\xff\xfe", format!("the body is no text in UTF-8: it must be {KINDS}")),
        (None, b"secret!", format!("the body is no base64: it must be {BASE64}")),
        (None, b"\"secret\"", format!("the body is no base64: it must be {BASE64}")),
        (None, b"AQI=A", format!("the body is no base64: it must be {BASE64}")),
        (Some("base64"), b"{}", format!("the body is no base64: it must be {BASE64}")),
        (Some("hex"), b"0a0", format!("the body has an odd number of hexadecimal digits: it must be {HEX}")),
        (
            Some("hex"),
            b"secret",
            format!("the body is no hexadecimal (digit 1 of a group): it must be {HEX}"),
        ),
        (Some("hex"), b"\xff", format!("the body is no text in UTF-8: it must be {KINDS}")),
        (Some("text"), &[b'a'; 256], "the body has 256 bytes: it must have at most 255".to_owned()),
        (None, &[b'A'; 344], "the body has 258 bytes: it must have at most 255".to_owned()),
        (None, deep.as_bytes(), "the body is nested too deeply: it must have at most 64 levels".to_owned()),
    ] {
        let mut properties = vec![("Port", "1")];
        properties.extend(encoding.map(|encoding| ("Encoding", encoding)));
        let said = read(&properties, body).unwrap_err().to_string();
        assert_eq!(said, reason);
        assert!(!said.contains("secret"), "a payload was quoted");
    }
}
