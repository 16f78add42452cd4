//! Desired properties.

use serde_json::{Value, json};
use tti_connector::downlink::translate::{Invalid, Request, desired_property};
use tti_connector::things_stack::{Operation, Payload};

use super::{decoded, rules};

fn read(application: &str, name: &str, value: &Value) -> Option<Result<Request, Invalid>> {
    desired_property(name, value, rules().application(application))
}

#[test]
fn decoded_payload_is_sent_on_its_configured_port() {
    let request = read("other", "decodedPayload", &json!({"a": 1})).unwrap().unwrap();
    assert_eq!((request.downlink.f_port, request.downlink.payload), (21, decoded(json!({"a": 1}))));
    assert_eq!(request.operation, Operation::Push);
}

#[test]
fn raw_downlink_is_read_as_the_things_industries_write_it() {
    for (value, port, bytes, confirmed, operation) in [
        (
            json!({"fPort": 3, "framePayload": "0aFF", "confirmed": true, "operation": "replace"}),
            3,
            vec![10, 255],
            true,
            Operation::Replace,
        ),
        (
            json!({"fPort": 3, "framePayload": null, "confirmed": null, "operation": null}),
            3,
            vec![],
            false,
            Operation::Push,
        ),
        (json!({"fPort": 0, "framePayload": ""}), 40, vec![], false, Operation::Push),
        (json!({"fPort": null, "__t": "c"}), 40, vec![], false, Operation::Push),
        (json!({}), 40, vec![], false, Operation::Push),
    ] {
        let request = read("ported", "rawDownlink", &value).unwrap().unwrap();
        assert_eq!(request.downlink.payload, Payload::Raw(bytes), "{value}");
        assert_eq!(
            (request.downlink.f_port, request.downlink.confirmed, request.operation),
            (port, confirmed, operation)
        );
    }
}

#[test]
fn a_configured_property_is_sent_under_its_name_and_others_are_not_ours() {
    for value in [json!(21.5), json!({"day": 1}), json!([1])] {
        let request = read("other", "setpoint", &value).unwrap().unwrap();
        assert_eq!(
            (request.downlink.f_port, request.downlink.payload),
            (20, decoded(json!({"setpoint": value})))
        );
    }
    assert!(read("other", "firmware", &json!(1)).is_none());
}

#[test]
fn each_property_that_can_t_be_sent_is_refused_with_its_reason() {
    let no_port = |name: &str, field: &str| {
        format!("{field} is missing: give {field} (1 to 223), or configure downlink.properties.{name}.port")
    };
    for (name, value, reason) in [
        ("decodedPayload", json!("secret"), "decodedPayload is a string: it must be a JSON object".to_owned()),
        ("decodedPayload", json!([1]), "decodedPayload is an array: it must be a JSON object".to_owned()),
        ("rawDownlink", json!("0102"), "rawDownlink is a string: it must be a JSON object".to_owned()),
        ("rawDownlink", json!({"fPort": 224}), "rawDownlink.fPort is 224: it must be a whole number from 1 to 223".to_owned()),
        ("rawDownlink", json!({"fPort": 0}), no_port("rawDownlink", "fPort")),
        ("rawDownlink", json!({"port": 1}), "rawDownlink.port is unknown: the fields here are fPort, framePayload, confirmed, operation, priority".to_owned()),
        ("rawDownlink", json!({"framePayload": 12}), "rawDownlink.framePayload is a number: it must be a string of hexadecimal digits".to_owned()),
        ("rawDownlink", json!({"framePayload": "abc"}), "rawDownlink.framePayload has an odd number of hexadecimal digits: it must be an even number of hexadecimal digits; spaces, colons and 0x are allowed between bytes".to_owned()),
        ("rawDownlink", json!({"confirmed": "no"}), "rawDownlink.confirmed is \"no\": it must be true or false".to_owned()),
        ("rawDownlink", json!({"operation": "append"}), "rawDownlink.operation is \"append\": it must be Push or Replace".to_owned()),
        ("portless", json!(1), no_port("portless", "the port")),
    ] {
        assert_eq!(read("other", name, &value).unwrap().unwrap_err().to_string(), reason);
    }
}
