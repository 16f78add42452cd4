//! Whatever is sent, nothing panics, and what is taken keeps The Things Stack's limits.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tti_connector::azure::CloudMessage;
use tti_connector::downlink::translate::{
    Request, cloud_message, desired_property, downlink_method, named_method,
};
use tti_connector::things_stack::{MAX_PAYLOAD_BYTES, Payload};

use super::rules;

const NAMES: [&str; 9] = [
    "Port",
    "confirmed",
    "PRIORITY",
    "Queue",
    "Encoding",
    "ClassBCGateways",
    "ClassBCAbsoluteTime",
    "method-name",
    "port",
];
const VALUES: [&str; 12] =
    ["1", "223", "true", "High", "push", "hex", "text", "base64", "roof-1:1:2", "valve", "@", "{\"a\":[1]}"];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), prop::sample::select(VALUES.to_vec()).prop_map(str::to_owned)]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        text().prop_map(String::into_bytes),
        "[0-9a-f :x]{0,600}".prop_map(String::into_bytes)
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        text().prop_map(Value::String),
    ];
    let name = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "port",
            "hex",
            "payload",
            "decoded",
            "classBC",
            "gateways",
            "wait",
            "fPort",
            "framePayload"
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn keeps_limits(request: &Request) {
    assert!((1..=223).contains(&request.downlink.f_port));
    if let Payload::Raw(bytes) = &request.downlink.payload {
        assert!(bytes.len() <= MAX_PAYLOAD_BYTES);
    }
    assert!(request.downlink.correlation_ids.is_empty());
}

proptest! {
    #[test]
    fn any_message_is_taken_within_limits_or_refused_with_a_reason(
        properties in prop::collection::vec(
            (prop_oneof![any::<String>(), prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned)], text()),
            0..6,
        ),
        body in body(),
    ) {
        let message = CloudMessage { properties, body: Bytes::from(body), ..CloudMessage::default() };
        for application in ["other", "ported"] {
            match cloud_message(&message, rules().application(application)) {
                Ok(request) => keeps_limits(&request),
                Err(invalid) => prop_assert!(invalid.to_string().len() < 1000),
            }
        }
    }

    #[test]
    fn any_json_is_taken_within_limits_or_refused_with_a_reason(value in value(), cut in any::<prop::sample::Index>()) {
        let rules = rules();
        let rules = rules.application("ported");
        for name in ["decodedPayload", "rawDownlink", "setpoint"] {
            match desired_property(name, &value, rules) {
                Some(Ok(request)) => keeps_limits(&request),
                Some(Err(invalid)) => prop_assert!(invalid.to_string().len() < 1000),
                None => prop_assert!(false, "{name} is ours"),
            }
        }
        let whole = value.to_string().into_bytes();
        for payload in [&whole[..], &whole[..cut.index(whole.len() + 1)]] {
            for call in [downlink_method(payload, rules), named_method("valve", payload, rules).map(Option::unwrap)] {
                match call {
                    Ok(call) => keeps_limits(&call.request),
                    Err(invalid) => prop_assert!(invalid.to_string().len() < 1000),
                }
            }
        }
    }
}
