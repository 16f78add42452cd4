//! Cloud-to-device messages as a device gets and answers them.

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{MessageId, Modified};
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};
use tti_connector::emulator::{CloudMessage, CloudSettings, Fate, Queued};

use super::kit::{Client, Rig, bytes, next, receive, within};

/// A hub with one device, its client, and its cloud-to-device link.
async fn linked(rig: &Rig) -> (Client, Receiver) {
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let link = receive(&mut client.session, "c2d", "/devices/dev/messages/devicebound").await;
    (client, link)
}

fn post(rig: &Rig, text: &str) {
    rig.hub.send_cloud_message("dev", CloudMessage::new(text.to_owned())).unwrap();
}

/// Waits until the device's queue is as `wanted`.
async fn queue_is(rig: &Rig, wanted: impl Fn(&[Queued]) -> bool) {
    let mut changes = rig.hub.cloud_changes();
    within(changes.wait_for(|_| wanted(&rig.hub.cloud_queue("dev")))).await.unwrap();
}

#[tokio::test]
async fn a_message_brings_all_that_the_sdks_read_and_is_gone_once_completed() {
    let rig = Rig::start().await;
    let (_client, mut link) = linked(&rig).await;
    let now_ms = rig.clock.now_ms();
    let sent = CloudMessage {
        message_id: Some("m-1".into()),
        correlation_id: Some("c-1".into()),
        user_id: Some("somebody".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        expires_ms: Some(now_ms + 90_000),
        properties: vec![("Port".into(), "10".into()), ("iothub-ack".into(), "full".into())],
        body: "{}".into(),
    };
    assert_eq!(rig.hub.send_cloud_message("dev", sent).unwrap(), 1);
    let (info, message) = next(&mut link).await;
    assert_eq!(bytes(&message), b"{}");
    let annotations = message.message_annotations.unwrap().0;
    let get = |name: &str| annotations.get(&name as &dyn AnnotationKey).cloned().unwrap();
    assert_eq!(get("iothub-enqueuedtime"), Value::Timestamp(now_ms.into()));
    assert_eq!(get("iothub-deliverycount"), Value::Ubyte(0));
    assert_eq!(get("x-opt-sequence-number"), Value::Ulong(1));
    assert!(matches!(get("x-opt-lock-token"), Value::String(token) if token.len() == 36));
    let properties = message.properties.unwrap();
    assert_eq!(properties.message_id, Some(MessageId::String("m-1".into())));
    assert_eq!(properties.correlation_id, Some(MessageId::String("c-1".into())));
    assert_eq!(properties.user_id.unwrap().as_slice(), b"somebody");
    assert_eq!(properties.to.as_deref(), Some("/devices/dev/messages/devicebound"));
    assert_eq!(properties.content_type, Some(Symbol::from("application/json")));
    assert_eq!(properties.content_encoding, Some(Symbol::from("utf-8")));
    assert_eq!(properties.absolute_expiry_time.unwrap().milliseconds(), now_ms + 90_000);
    let application = message.application_properties.unwrap().0;
    assert_eq!(application.get("Port"), Some(&SimpleValue::from("10")));
    assert_eq!(application.get("iothub-ack"), Some(&SimpleValue::from("full")));

    queue_is(&rig, |queue| queue[0].locked).await;
    within(link.accept(info)).await.unwrap();
    queue_is(&rig, <[_]>::is_empty).await;
    assert!(rig.hub.dead_letters("dev").is_empty());
}

#[tokio::test]
async fn an_abandoned_message_comes_back_counted_until_it_is_dropped() {
    let cloud = CloudSettings { max_delivery_count: 3, ..CloudSettings::default() };
    let rig = Rig::of(tti_connector::emulator::AmqpOptions::default(), |hub| hub.with_cloud(cloud)).await;
    let (_client, mut link) = linked(&rig).await;
    post(&rig, "x");
    for count in 0..3 {
        let (info, message) = next(&mut link).await;
        let annotations = message.message_annotations.unwrap().0;
        let counted = annotations.get(&"iothub-deliverycount" as &dyn AnnotationKey);
        assert_eq!(counted, Some(&Value::Ubyte(count)));
        within(link.release(info)).await.unwrap();
    }
    queue_is(&rig, <[_]>::is_empty).await;
    assert_eq!(rig.hub.dead_letters("dev")[0].fate, Fate::DeliveryCountExceeded);
}

#[tokio::test]
async fn a_rejected_message_is_dead_at_once_with_the_devices_reason() {
    let rig = Rig::start().await;
    let (_client, mut link) = linked(&rig).await;
    post(&rig, "x");
    let (info, _) = next(&mut link).await;
    let why = Error::new(AmqpError::NotAllowed, "no such port".to_owned(), None);
    within(link.reject(info, why)).await.unwrap();
    queue_is(&rig, <[_]>::is_empty).await;
    let dead = rig.hub.dead_letters("dev").pop().unwrap();
    assert_eq!((dead.fate, dead.description.as_deref()), (Fate::Rejected, Some("no such port")));
    assert_eq!(dead.queued.message.body, "x");
}

#[tokio::test]
async fn a_lock_that_ran_out_brings_the_message_again_and_a_late_answer_changes_nothing() {
    let rig = Rig::start().await;
    let (_client, mut link) = linked(&rig).await;
    post(&rig, "x");
    let (late, _) = next(&mut link).await;
    queue_is(&rig, |queue| queue[0].locked).await;
    rig.clock.advance(60_000);
    let (info, message) = next(&mut link).await;
    let annotations = message.message_annotations.unwrap().0;
    let counted = annotations.get(&"iothub-deliverycount" as &dyn AnnotationKey);
    assert_eq!(counted, Some(&Value::Ubyte(0)), "only an abandon counts");
    within(link.accept(late)).await.unwrap();
    post(&rig, "after");
    let (after, _) = next(&mut link).await;
    queue_is(&rig, |queue| queue.len() == 2 && queue.iter().all(|queued| queued.locked)).await;
    within(link.accept(info)).await.unwrap();
    within(link.accept(after)).await.unwrap();
    queue_is(&rig, <[_]>::is_empty).await;
}

#[tokio::test]
async fn modified_is_no_answer_and_the_lock_runs_on() {
    let rig = Rig::start().await;
    let (_client, mut link) = linked(&rig).await;
    post(&rig, "first");
    let modified =
        Modified { delivery_failed: Some(true), undeliverable_here: None, message_annotations: None };
    let (info, _) = next(&mut link).await;
    within(link.modify(info, modified)).await.unwrap();
    // The answer to the second message comes after that to the first.
    post(&rig, "second");
    let (info, message) = next(&mut link).await;
    assert_eq!(bytes(&message), b"second");
    within(link.accept(info)).await.unwrap();
    queue_is(&rig, |queue| queue.len() == 1).await;
    let queue = rig.hub.cloud_queue("dev");
    assert!(queue[0].locked && queue[0].delivery_count == 0, "{queue:?}");
    rig.clock.advance(60_000);
    assert_eq!(bytes(&next(&mut link).await.1), b"first");
}

#[tokio::test]
async fn messages_wait_for_credit_in_order_and_expire_meanwhile() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut link = Receiver::builder()
        .name("c2d")
        .source("/devices/dev/messages/devicebound")
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session)
        .await
        .unwrap();
    for number in 0..4 {
        let expires_ms = (number == 1).then(|| rig.clock.now_ms() + 1_000);
        let message = CloudMessage { expires_ms, ..CloudMessage::new(number.to_string()) };
        rig.hub.send_cloud_message("dev", message).unwrap();
    }
    link.set_credit(1).await.unwrap();
    assert_eq!(bytes(&next(&mut link).await.1), b"0");
    queue_is(&rig, |queue| queue[0].locked).await;
    assert_eq!(rig.hub.cloud_queue("dev").iter().filter(|queued| queued.locked).count(), 1);
    rig.clock.advance(1_000);
    queue_is(&rig, |queue| queue.len() == 3).await;
    link.set_credit(2).await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let (info, message) = next(&mut link).await;
        within(link.accept(info)).await.unwrap();
        bodies.push(bytes(&message));
    }
    assert_eq!(bodies, [b"2", b"3"], "the first is locked still, the second has expired");
    queue_is(&rig, |queue| queue.len() == 1).await;
    assert_eq!(rig.hub.dead_letters("dev")[0].fate, Fate::Expired);
}

#[tokio::test]
async fn a_message_that_waited_for_credit_and_was_purged_is_not_handed_out() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut link = Receiver::builder()
        .name("c2d")
        .source("/devices/dev/messages/devicebound")
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session)
        .await
        .unwrap();
    post(&rig, "purged");
    post(&rig, "purged too");
    assert_eq!(rig.hub.purge_cloud_messages("dev"), 2);
    post(&rig, "kept");
    link.set_credit(1).await.unwrap();
    assert_eq!(bytes(&next(&mut link).await.1), b"kept");
    let fates: Vec<_> = rig.hub.dead_letters("dev").iter().map(|letter| letter.fate).collect();
    assert_eq!(fates, [Fate::Purged, Fate::Purged]);
}
