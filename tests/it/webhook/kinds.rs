//! Which messages are kept, and which are only counted.

use super::desk::{Desk, read, send, uplink};
use tti_connector::things_stack::Kind;

const IDS: &str = r#""end_device_ids":{"device_id":"cellar","application_ids":{"application_id":"house"}}"#;

#[tokio::test]
async fn an_uplink_is_kept_whole_under_tenant_application_and_device() {
    let mut desk = Desk::open().await;
    let body = uplink(7);
    let request = desk.post(body.clone()).header("x-tts-domain", "House.EU1.cloud.thethings.industries:443");
    assert_eq!(read(send(request).await).await, (202, serde_json::json!({"status": "stored"})));

    let kept = desk.next_kept().await;
    assert_eq!(kept.device.to_string(), "house.eu1.cloud.thethings.industries/house/cellar");
    assert_eq!(kept.body, body);
    assert!(kept.waiter.is_none() && !kept.about_downlinks, "nobody waits");
    assert_eq!(desk.metric("tti_connector_webhook_received_messages_total{kind=\"uplink_message\"}"), 1);
    assert_eq!(desk.metric("tti_connector_webhook_stored_messages_total"), 1);
    assert_eq!(desk.metric("tti_connector_webhook_request_duration_seconds_count"), 1);
}

#[tokio::test]
async fn the_path_below_webhook_does_not_matter() {
    let mut desk = Desk::open().await;
    for path in ["/webhook", "/webhook/", "/webhook/join", "/webhook/a/b/c?d=e", "/webhook//%2e"] {
        let request = desk.request("POST", path).body(uplink(1));
        assert_eq!(read(send(request).await).await.0, 202, "{path}");
        assert_eq!(desk.next_kept().await.device.device_id(), "cellar", "{path}");
    }
}

#[tokio::test]
async fn kinds_without_telemetry_are_counted_and_answered_2xx() {
    let mut desk = Desk::open().await;
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::UplinkMessage) {
        let body = format!(r#"{{{IDS},"{kind}":{{"f_port":3}}}}"#);
        let (status, answer) = read(send(desk.post(body)).await).await;
        assert_eq!((status, &answer["status"]), (202, &"ignored".into()), "{kind}");
        let name = format!("tti_connector_webhook_received_messages_total{{kind=\"{kind}\"}}");
        assert_eq!(desk.metric(&name), 1, "{kind}");
    }
    desk.assert_nothing_kept();
    assert_eq!(desk.metric("tti_connector_webhook_ignored_messages_total{reason=\"no_telemetry\"}"), 3);
    assert_eq!(
        desk.metric("tti_connector_webhook_ignored_messages_total{reason=\"no_downlink_of_ours\"}"),
        7
    );
    assert_eq!(desk.metric("tti_connector_webhook_ignored_messages_total{reason=\"unknown_kind\"}"), 1);
}

#[tokio::test]
async fn ignored_kinds_need_no_ids() {
    let desk = Desk::open().await;
    for body in [r#"{"join_accept":{}}"#, r#"{"uplink_message":{"f_cnt":4}}"#] {
        assert_eq!(read(send(desk.post(body)).await).await.0, 202, "{body}");
    }
}

#[tokio::test]
async fn mac_only_uplinks_are_counted_and_answered_2xx() {
    let mut desk = Desk::open().await;
    for message in [r"{}", r#"{"f_cnt":3}"#, r#"{"f_port":0,"f_cnt":4}"#] {
        let body = format!(r#"{{{IDS},"uplink_message":{message}}}"#);
        let (status, answer) = read(send(desk.post(body)).await).await;
        assert_eq!((status, &answer["reason"]), (202, &"no_f_port".into()), "{message}");
    }
    desk.assert_nothing_kept();
    assert_eq!(desk.metric("tti_connector_webhook_ignored_messages_total{reason=\"no_f_port\"}"), 3);
}

#[tokio::test]
async fn kinds_of_the_future_are_answered_2xx_also_without_ids() {
    let mut desk = Desk::open().await;
    for body in [format!(r#"{{{IDS},"dream_message":{{}}}}"#), r#"{"dream_message":{"f_port":1}}"#.to_owned()]
    {
        let (status, answer) = read(send(desk.post(body.clone())).await).await;
        assert_eq!((status, &answer["reason"]), (202, &"unknown_kind".into()), "{body}");
    }
    desk.assert_nothing_kept();
    assert_eq!(desk.metric("tti_connector_webhook_received_messages_total{kind=\"unknown\"}"), 2);
}

#[tokio::test]
async fn json_that_can_be_no_message_is_malformed() {
    let mut desk = Desk::open().await;
    for body in ["[]", " [1,{\"a\":2}]", "\"text\"", "17", "null", "{}", r#"{"hello":"world"}"#] {
        let (status, answer) = read(send(desk.post(body.to_owned())).await).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn an_uplink_posted_again_carries_the_same_key_and_a_new_one_another() {
    let mut desk = Desk::open().await;
    let mut keys = Vec::new();
    for (body, tenant) in
        [(uplink(1), "a"), (uplink(1).replace(' ', ""), "A:443"), (uplink(2), "a"), (uplink(1), "b")]
    {
        send(desk.post(body).header("x-tts-domain", tenant)).await;
        keys.push(desk.next_kept().await.dedup.expect("a key"));
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
    assert_ne!(keys[0], keys[3]);
}
