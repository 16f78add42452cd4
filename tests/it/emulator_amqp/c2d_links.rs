//! Whose cloud-to-device link is the device's, what happens to its messages when it goes, and who may have one.

use fe2o3_amqp::Session;
use fe2o3_amqp::link::Receiver;
use tti_connector::emulator::{AmqpOptions, CloudMessage, Tier};

use super::kit::{
    Rig, attach, bytes, condition, next, receive, receiver_refusal, refusal_of, telemetry, within,
};

const ADDRESS: &str = "/devices/dev/messages/deviceBound";

fn post(rig: &Rig, device: &str, text: &str) {
    rig.hub.send_cloud_message(device, CloudMessage::new(text.to_owned())).unwrap();
}

async fn wait_for(rig: &Rig, what: impl Fn() -> bool) {
    within(rig.hub.cloud_changes().wait_for(|_| what())).await.unwrap();
}

#[tokio::test]
async fn messages_wait_while_the_device_is_away() {
    let rig = Rig::start().await;
    rig.device("dev");
    for number in 0..50 {
        post(&rig, "dev", &number.to_string());
    }
    let mut client = rig.client_of(&["dev"]).await;
    let mut link = receive(&mut client.session, "c2d", ADDRESS).await;
    for number in 0..50 {
        let (info, message) = next(&mut link).await;
        assert_eq!(bytes(&message), number.to_string().as_bytes());
        within(link.accept(info)).await.unwrap();
    }
    wait_for(&rig, || rig.hub.cloud_queue("dev").is_empty()).await;
}

#[tokio::test]
async fn what_was_out_on_a_link_comes_again_uncounted_when_the_link_the_session_or_the_connection_goes() {
    let rig = Rig::start().await;
    rig.device("dev");
    post(&rig, "dev", "x");
    let locked = || rig.hub.cloud_queue("dev")[0].locked;
    for end in ["link", "session", "connection"] {
        let mut client = rig.client_of(&["dev"]).await;
        let mut session = within(Session::begin(&mut client.connection)).await.unwrap();
        let mut link = receive(&mut session, "c2d", ADDRESS).await;
        assert_eq!(bytes(&next(&mut link).await.1), b"x", "{end}");
        wait_for(&rig, locked).await;
        match end {
            "link" => within(link.close()).await.unwrap(),
            "session" => within(session.end()).await.unwrap(),
            _ => drop((link, session, client)),
        }
        wait_for(&rig, || !locked()).await;
        assert_eq!(rig.hub.cloud_queue("dev")[0].delivery_count, 0, "{end}");
    }
}

#[tokio::test]
async fn a_newer_link_of_the_device_takes_the_place_of_the_older_on_the_same_connection_or_another() {
    let rig = Rig::start().await;
    rig.device("dev");
    post(&rig, "dev", "x");
    let mut client = rig.client_of(&["dev"]).await;
    let mut events = telemetry(&mut client.session, "dev").await;
    let mut older = receive(&mut client.session, "older", ADDRESS).await;
    assert_eq!(bytes(&next(&mut older).await.1), b"x");
    let mut newer = receive(&mut client.session, "newer", ADDRESS).await;
    assert_eq!(bytes(&next(&mut newer).await.1), b"x", "its locks were those of the older link");
    assert_eq!(condition(&receiver_refusal(older).await), "amqp:link:stolen");
    // The device's other links stay.
    within(events.send("still here")).await.unwrap();

    let mut other = rig.client_of(&["dev"]).await;
    let mut newest = receive(&mut other.session, "newest", ADDRESS).await;
    let (info, message) = next(&mut newest).await;
    assert_eq!(bytes(&message), b"x");
    assert_eq!(condition(&receiver_refusal(newer).await), "amqp:link:stolen");
    within(newest.accept(info)).await.unwrap();
    wait_for(&rig, || rig.hub.cloud_queue("dev").is_empty()).await;
}

#[tokio::test]
async fn many_devices_on_one_session_get_their_own_messages() {
    let rig = Rig::start().await;
    let ids: Vec<String> = (0..40).map(|number| format!("dev:{number}")).collect();
    let mut client = rig.client().await;
    assert_eq!(client.cbs.put(&rig.policy_token("device", 60)).await.0, 200);
    let mut links = Vec::new();
    for id in &ids {
        rig.device(id);
        let address = format!("amqps://hub.example/devices/{}/messages/deviceBound", id.replace(':', "%3A"));
        links.push(receive(&mut client.session, id, &address).await);
    }
    for id in &ids {
        post(&rig, id, id);
    }
    for (id, link) in ids.iter().zip(&mut links) {
        let (info, message) = next(link).await;
        assert_eq!(bytes(&message), id.as_bytes());
        within(link.accept(info)).await.unwrap();
    }
    wait_for(&rig, || ids.iter().all(|id| rig.hub.cloud_queue(id).is_empty())).await;
}

#[tokio::test]
async fn a_deleted_devices_messages_go_with_it() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut link = receive(&mut client.session, "c2d", ADDRESS).await;
    post(&rig, "dev", "old");
    next(&mut link).await;
    rig.hub.delete_device("dev", None).unwrap();
    assert_eq!(condition(&receiver_refusal(link).await), "amqp:not-found");
    rig.device("dev");
    assert!(rig.hub.cloud_queue("dev").is_empty());
    post(&rig, "dev", "new");
    assert_eq!(rig.hub.cloud_queue("dev")[0].sequence_number, 1);
}

#[tokio::test]
async fn a_link_that_takes_only_smaller_messages_ends_and_the_message_stays() {
    let rig = Rig::start().await;
    rig.device("dev");
    post(&rig, "dev", &"x".repeat(2_000));
    let mut client = rig.client_of(&["dev"]).await;
    let builder = Receiver::builder().name("small").source(ADDRESS).max_message_size(1_000_u64);
    let small = within(builder.attach(&mut client.session)).await.unwrap();
    assert_eq!(condition(&receiver_refusal(small).await), "amqp:link:message-size-exceeded");
    let mut large = receive(&mut client.session, "large", ADDRESS).await;
    assert_eq!(bytes(&next(&mut large).await.1).len(), 2_000);
}

#[tokio::test]
async fn only_the_devices_own_token_or_a_device_policy_gets_its_messages() {
    let rig = Rig::start().await;
    for id in ["dev", "other"] {
        rig.device(id);
    }
    let mut client = rig.client_of(&["other"]).await;
    assert_eq!(client.cbs.put(&rig.policy_token("service", 60)).await.0, 200);
    let refused = receive(&mut client.session, "c2d", ADDRESS).await;
    assert_eq!(condition(&receiver_refusal(refused).await), "amqp:unauthorized-access");
    assert_eq!(client.cbs.put(&rig.device_token("dev", 60)).await.0, 200);
    let mut link = receive(&mut client.session, "again", ADDRESS).await;
    post(&rig, "dev", "x");
    next(&mut link).await;
    rig.clock.advance(60_000);
    assert_eq!(condition(&receiver_refusal(link).await), "amqp:unauthorized-access");
}

#[tokio::test]
async fn a_basic_hub_refuses_all_that_only_the_standard_tier_has() {
    let rig = Rig::of(AmqpOptions::default(), |hub| hub.with_tier(Tier::Basic)).await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    assert_eq!(client.cbs.put(&rig.policy_token("service", 60)).await.0, 200);
    for address in [ADDRESS, "/devices/dev/methods/devicebound", "/devices/dev/twin"] {
        let refused = receive(&mut client.session, address, address).await;
        assert_eq!(condition(&receiver_refusal(refused).await), "amqp:not-allowed", "{address}");
    }
    let feedback = receive(&mut client.session, "feedback", "/messages/serviceBound/feedback").await;
    assert_eq!(condition(&receiver_refusal(feedback).await), "amqp:not-allowed");
    let send = attach(&mut client.session, "send", "/messages/devicebound").await;
    assert_eq!(condition(&refusal_of(send).await), "amqp:not-allowed");
    assert!(rig.hub.send_cloud_message("dev", CloudMessage::default()).is_err());
    let mut events = telemetry(&mut client.session, "dev").await;
    within(events.send("telemetry goes on")).await.unwrap();
}
