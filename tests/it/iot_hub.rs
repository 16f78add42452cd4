//! The AMQP client against a scriptable hub, over real TCP and TLS.
#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod ailing;
mod clock;
mod cloud_messages;
mod failures;
mod hub;
mod hub_amqp;
mod inbound_hub;
mod keeping;
mod methods;
mod pooling;
mod sharing;
mod storm;
mod transports;
mod twins;

use std::sync::Arc;

use bytes::Bytes;
use fe2o3_amqp_types::messaging::{Body, MessageId};
use fe2o3_amqp_types::primitives::SimpleValue;
use tti_connector::azure::{Credential, HubDevice, SigningKey, Telemetry};
use tti_connector::emulator::Token;
use tti_connector::iot_hub::{IotHub, Status};

use self::hub::{Seen, TestHub};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";

fn by_key(hub: &TestHub, device_id: &str) -> Arc<HubDevice> {
    Arc::new(HubDevice {
        hub: hub.address.clone(),
        device_id: device_id.into(),
        credential: Credential::Device { key: SigningKey::from_base64(KEY).unwrap() },
        model_id: None,
        provisioned: false,
    })
}

fn by_policy(hub: &TestHub, device_id: &str) -> Arc<HubDevice> {
    let key = SigningKey::from_base64(KEY).unwrap();
    let credential = Credential::Policy { name: "device".into(), key };
    Arc::new(HubDevice { credential, ..(*by_key(hub, device_id)).clone() })
}

fn telemetry(text: &str) -> Telemetry {
    Telemetry {
        body: Bytes::from(format!("{{\"text\":\"{text}\"}}")),
        message_id: text.to_owned(),
        correlation_id: None,
        properties: vec![("DeviceId", "dev".to_owned())],
    }
}

fn ids(hub: &TestHub) -> Vec<String> {
    let of = |seen| match seen {
        Seen::Got { message, .. } => match message.properties?.message_id? {
            MessageId::String(id) => Some(id),
            other => panic!("message-id {other:?}"),
        },
        _ => None,
    };
    hub.seen().into_iter().filter_map(of).collect()
}

#[tokio::test]
async fn a_device_with_its_own_key_sends_telemetry() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let mut device = (*by_key(&test_hub, "dev 1")).clone();
    device.model_id = Some("dtmi:example:sensor;1".into());
    let mut hub_up = hub.hub_up();
    assert_eq!(hub.status(), Status::default());
    hub.send(&Arc::new(device), &telemetry("a")).await.unwrap();

    assert_eq!(hub_up.try_recv().unwrap(), test_hub.address);
    assert_eq!(hub.status(), Status { connections: 1, devices: 1, reached: true, ..Status::default() });
    let seen = test_hub.seen();
    let [
        Seen::Opened(0),
        Seen::Put { audience, kind, token, .. },
        Seen::Attached { address, properties, .. },
        Seen::Got { message, .. },
    ] = &seen[..]
    else {
        panic!("seen {seen:?}");
    };
    assert_eq!(audience, "127.0.0.1/devices/dev 1");
    assert_eq!(kind, "servicebus.windows.net:sastoken");
    let token = Token::parse(token).unwrap();
    assert_eq!((token.resource().as_str(), token.policy.as_deref()), ("127.0.0.1/devices/dev 1", None));
    token.verify([KEY], token.expiry - 1).unwrap();
    assert_eq!(address, "/devices/dev%201/messages/events");
    for property in ["com.microsoft:client-version", "com.microsoft:api-version", "dtmi:example:sensor;1"] {
        assert!(properties.contains(property), "{properties}");
    }
    let properties = message.properties.clone().unwrap();
    assert_eq!(properties.message_id, Some(MessageId::String("a".into())));
    assert_eq!(properties.content_type.unwrap().as_str(), "application/json");
    assert_eq!(properties.content_encoding.unwrap().as_str(), "utf-8");
    let application = message.application_properties.clone().unwrap();
    assert_eq!(application.0.get("DeviceId"), Some(&SimpleValue::String("dev".into())));
    let Body::Data(data) = &message.body else { panic!("body {:?}", message.body) };
    assert_eq!(data.iter().next().unwrap().0.as_ref(), b"{\"text\":\"a\"}");
    hub.close().await;
    assert_eq!(hub.status(), Status { reached: true, ..Status::default() });
}

#[tokio::test]
async fn one_policy_token_opens_a_connection_for_all_devices() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    for name in ["a", "b", "a"] {
        hub.send(&by_policy(&test_hub, name), &telemetry(name)).await.unwrap();
    }
    let puts: Vec<_> = test_hub
        .seen()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Put { audience, token, .. } => Some((audience, token)),
            _ => None,
        })
        .collect();
    let [(audience, token)] = &puts[..] else { panic!("{puts:?}") };
    assert_eq!(audience, "127.0.0.1");
    let token = Token::parse(token).unwrap();
    assert_eq!((token.resource().as_str(), token.policy.as_deref()), ("127.0.0.1", Some("device")));
    token.verify([KEY], token.expiry - 1).unwrap();
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Attached { .. })), 2);
    assert_eq!(ids(&test_hub), ["a", "b", "a"]);
    assert_eq!(hub.status(), Status { connections: 1, devices: 2, reached: true, ..Status::default() });
    hub.close().await;
}

#[tokio::test]
async fn close_ends_links_sessions_and_connections_in_order() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    for name in ["a", "b"] {
        hub.send(&by_key(&test_hub, name), &telemetry(name)).await.unwrap();
    }
    hub.close().await;
    test_hub.wait(1, |seen| matches!(seen, Seen::Gone)).await;
    // The session that both share, and the token links'.
    test_hub.wait(2, |seen| matches!(seen, Seen::Ended)).await;
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Detached { .. })), 2);
    let error = hub.send(&by_key(&test_hub, "a"), &telemetry("late")).await.unwrap_err();
    assert!(error.to_string().contains("closing"), "{error}");
    assert_eq!(hub.status().connections, 0);
}

#[tokio::test]
async fn concurrent_sends_of_one_device_keep_their_order_and_share_one_session() {
    let test_hub = TestHub::start().await;
    let hub = IotHub::new(test_hub.options());
    let device = by_key(&test_hub, "a");
    let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let sends = texts.iter().map(|text| {
        let (hub, device) = (&hub, &device);
        async move { hub.send(device, &telemetry(text)).await }
    });
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
    assert_eq!(ids(&test_hub), texts);
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Attached { .. })), 1);
    hub.close().await;
}
