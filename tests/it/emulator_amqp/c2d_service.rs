//! Cloud-to-device messages as a service sends them, and the feedback it fetches.

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::messaging::{ApplicationProperties, Body, Message, MessageId, Outcome, Properties};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Timestamp, Value};
use serde_json::json;
use tti_connector::emulator::{CloudMessage, FeedbackRecord};

use super::kit::{
    Client, Rig, attach, bytes, condition, data, next, receive, receiver_refusal, refusal_of, rejection,
    send, within,
};

const FEEDBACK: &str = "/messages/serviceBound/feedback";

/// A service's connection under the `service` policy, and its link for messages.
async fn service(rig: &Rig) -> (Client, Sender) {
    let mut client = rig.client().await;
    assert_eq!(client.cbs.put(&rig.policy_token("service", 3600)).await.0, 200);
    let link = attach(&mut client.session, "send", "/messages/devicebound").await;
    (client, link)
}

fn to(device: &str) -> String {
    format!("/devices/{device}/messages/devicebound")
}

fn addressed(to: &str, body: impl AsRef<[u8]>) -> Message<Body<Value>> {
    Message::builder().properties(Properties::builder().to(to).build()).body(data(body)).build()
}

#[tokio::test]
async fn a_service_sends_with_everything_a_message_can_carry() {
    let rig = Rig::start().await;
    rig.device("dev:1");
    let (_client, mut link) = service(&rig).await;
    let expires_ms = rig.clock.now_ms() + 60_000;
    let mut properties = Properties::new();
    properties.to = Some("/devices/dev%3A1/messages/devicebound".into());
    properties.message_id = Some(MessageId::String("m-1".into()));
    properties.correlation_id = Some(MessageId::Ulong(7));
    properties.user_id = Some(Binary::from(b"me".to_vec()));
    properties.content_type = Some(Symbol::from("application/json"));
    properties.content_encoding = Some(Symbol::from("utf-8"));
    properties.absolute_expiry_time = Some(Timestamp::from(expires_ms));
    let application = ApplicationProperties::builder().insert("iothub-ack", "full").insert("Port", 10);
    let message = Message::builder()
        .properties(properties)
        .application_properties(application.build())
        .body(data("hi"))
        .build();
    assert!(matches!(send(&mut link, message).await.unwrap(), Outcome::Accepted(_)));
    let queued = rig.hub.cloud_queue("dev:1").pop().unwrap();
    assert_eq!((queued.sequence_number, queued.expires_ms), (1, expires_ms));
    let expected = CloudMessage {
        message_id: Some("m-1".into()),
        correlation_id: Some("7".into()),
        user_id: Some("me".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        expires_ms: Some(expires_ms),
        properties: vec![("iothub-ack".into(), "full".into()), ("Port".into(), "10".into())],
        body: "hi".into(),
    };
    assert_eq!(queued.message, expected);
}

#[tokio::test]
async fn each_message_is_answered_and_a_rejection_names_its_reason() {
    let rig = Rig::start().await;
    rig.device("dev");
    let (_client, mut link) = service(&rig).await;
    let largest = addressed(&to("dev"), vec![0; 64 * 1024]);
    assert!(matches!(send(&mut link, largest).await.unwrap(), Outcome::Accepted(_)));
    for (message, expected) in [
        (addressed(&to("nobody"), ""), "amqp:not-found"),
        (addressed(&to("dev"), vec![0; 64 * 1024 + 1]), "amqp:link:message-size-exceeded"),
        (addressed("/devices/dev", ""), "com.microsoft:argument-error"),
        (addressed("/devices/dev/messages/events", ""), "com.microsoft:argument-error"),
        (super::kit::message(data("no address")), "com.microsoft:argument-error"),
    ] {
        let error = rejection(send(&mut link, message).await.unwrap());
        assert_eq!(condition(&error), expected);
    }
    for _ in 1..50 {
        let outcome = send(&mut link, addressed(&to("dev"), "")).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)));
    }
    let error = rejection(send(&mut link, addressed(&to("dev"), "")).await.unwrap());
    assert_eq!(condition(&error), "amqp:resource-limit-exceeded");
    assert_eq!(rig.hub.cloud_queue("dev").len(), 50);
}

#[tokio::test]
async fn only_a_service_may_send_and_fetch_and_only_as_long_as_its_token() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    assert_eq!(client.cbs.put(&rig.policy_token("device", 600)).await.0, 200);
    let refused = attach(&mut client.session, "send", "/messages/devicebound").await;
    assert_eq!(condition(&refusal_of(refused).await), "amqp:unauthorized-access");
    let refused = receive(&mut client.session, "feedback", FEEDBACK).await;
    assert_eq!(condition(&receiver_refusal(refused).await), "amqp:unauthorized-access");

    let (mut client, link) = service(&rig).await;
    let feedback = receive(&mut client.session, "feedback", FEEDBACK).await;
    let files = receive(&mut client.session, "files", "/messages/serviceBound/filenotifications").await;
    rig.clock.advance(3_600_000);
    assert_eq!(condition(&refusal_of(link).await), "amqp:unauthorized-access");
    for refused in [feedback, files] {
        assert_eq!(condition(&receiver_refusal(refused).await), "amqp:unauthorized-access");
    }
}

/// Puts a message with a wish for feedback into the queue; it expires after a second.
fn post(rig: &Rig, id: &str, ack: &str) {
    let message = CloudMessage {
        message_id: Some(id.to_owned()),
        expires_ms: Some(rig.clock.now_ms() + 1_000),
        properties: vec![("iothub-ack".into(), ack.into())],
        ..CloudMessage::default()
    };
    rig.hub.send_cloud_message("dev", message).unwrap();
}

fn told(records: &[FeedbackRecord]) -> Vec<(&str, &str)> {
    let id = |record: &'_ FeedbackRecord| record.original_message_id.clone().unwrap().leak() as &str;
    records.iter().map(|record| (id(record), record.status_code.as_str())).collect()
}

#[tokio::test]
async fn feedback_comes_on_what_the_sender_asked_for() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut link = receive(&mut client.session, "c2d", &to("dev")).await;
    for (ack, completed, rejected) in [
        ("none", false, false),
        ("positive", true, false),
        ("negative", false, true),
        ("Full", true, true),
        ("odd", false, false),
    ] {
        let before = rig.hub.feedback().len();
        for verdict in ["completed", "rejected"] {
            post(&rig, verdict, ack);
            let (info, _) = next(&mut link).await;
            match verdict {
                "completed" => within(link.accept(info)).await.unwrap(),
                _ => within(link.reject(info, None)).await.unwrap(),
            }
            let mut changes = rig.hub.cloud_changes();
            within(changes.wait_for(|_| rig.hub.cloud_queue("dev").is_empty())).await.unwrap();
        }
        let mut expected = Vec::new();
        expected.extend(completed.then_some(("completed", "Success")));
        expected.extend(rejected.then_some(("rejected", "Rejected")));
        assert_eq!(told(&rig.hub.feedback()[before..]), expected, "{ack}");
    }
}

#[tokio::test]
async fn feedback_travels_as_json_after_a_while_and_stays_until_a_service_accepts_it() {
    let rig = Rig::start().await;
    rig.device("dev");
    let (mut client, _send) = service(&rig).await;
    let mut link: Receiver = receive(&mut client.session, "feedback", FEEDBACK).await;
    post(&rig, "expires", "negative");
    post(&rig, "completed", "positive");
    // The device is away: that messages expire is the hub's own notice.
    rig.clock.advance(1_000);
    let mut changes = rig.hub.cloud_changes();
    within(changes.wait_for(|_| !rig.hub.feedback().is_empty())).await.unwrap();
    rig.clock.advance(15_000);
    let (info, message) = next(&mut link).await;
    let properties = message.properties.clone().unwrap();
    let content_type = properties.content_type.unwrap();
    assert_eq!(content_type.as_str(), "application/vnd.microsoft.iothub.feedback.json");
    let records: serde_json::Value = serde_json::from_slice(&bytes(&message)).unwrap();
    assert_eq!(
        records,
        json!([{
            "originalMessageId": "expires",
            "description": "Expired",
            "deviceGenerationId": rig.hub.device("dev").unwrap().generation_id,
            "deviceId": "dev",
            "enqueuedTimeUtc": "2023-11-14T22:13:21.000Z",
            "statusCode": "Expired",
        }])
    );
    within(link.release(info)).await.unwrap();
    let (info, again) = next(&mut link).await;
    assert_eq!(bytes(&again), bytes(&message));
    within(link.close()).await.unwrap();
    // What was out on the link comes back when it goes.
    drop(info);
    within(changes.wait_for(|_| rig.hub.feedback().len() == 1)).await.unwrap();
    let mut link = receive(&mut client.session, "again", FEEDBACK).await;
    let (info, _) = next(&mut link).await;
    within(link.accept(info)).await.unwrap();
    // The next answer is on the next record, so that the first has arrived.
    rig.hub.purge_cloud_messages("dev");
    post(&rig, "purged", "full");
    assert_eq!(rig.hub.purge_cloud_messages("dev"), 1);
    rig.clock.advance(15_000);
    let (_, message) = next(&mut link).await;
    let records: serde_json::Value = serde_json::from_slice(&bytes(&message)).unwrap();
    assert_eq!(
        (&records[0]["originalMessageId"], &records[0]["statusCode"]),
        (&"purged".into(), &"Purged".into())
    );
    assert_eq!(records.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn sixty_four_records_of_feedback_travel_at_once() {
    let rig = Rig::start().await;
    rig.device("dev");
    let (mut client, _send) = service(&rig).await;
    let mut link = receive(&mut client.session, "feedback", FEEDBACK).await;
    for round in 0..2 {
        for number in 0..35 {
            post(&rig, &format!("{round}-{number}"), "full");
        }
        assert_eq!(rig.hub.purge_cloud_messages("dev"), 35);
    }
    let (_, message) = next(&mut link).await;
    let records: serde_json::Value = serde_json::from_slice(&bytes(&message)).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 64);
    assert_eq!(rig.hub.feedback().len(), 6, "these wait for more");
}
