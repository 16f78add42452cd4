//! A device's twin links: requests, replies, updates of desired properties, and which pair counts.

use fe2o3_amqp::Session;
use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::messaging::{Body, MessageId, Outcome};
use fe2o3_amqp_types::primitives::{Uuid, Value};
use serde_json::json;

use super::kit::{Client, Rig, attach, condition, receiver_refusal, refusal_of, rejection, send, within};
use super::pair_kit::{
    PairLinks, annotation, correlation, data_of, receiver, sender, status, twin_pair, twin_request,
};

const REPORTED: Option<&str> = Some("/properties/reported");
const NOTIFICATIONS: Option<&str> = Some("/notifications/twin/properties/desired");

async fn device(rig: &Rig) -> (Client, PairLinks) {
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let pair = twin_pair(&mut client.session, "dev", "twin:1").await;
    (client, pair)
}

#[tokio::test]
async fn a_device_reads_its_twin_and_writes_what_it_reports() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    rig.hub.update_tags("dev", &json!({ "secret": 1 })).unwrap();
    let fresh = json!({ "desired": { "$version": 1 }, "reported": { "$version": 1 } });
    assert_eq!(pair.ask("GET", None, " ").await, (200, None, fresh));
    let patch = r#"{"battery":71.5,"where":{"lat":1},"list":[1,{"a":2}],"gone":null}"#;
    assert_eq!(pair.ask("PATCH", REPORTED, patch).await, (204, Some(2), json!(null)));
    assert_eq!(pair.ask("PATCH", REPORTED, r#"{"where":null}"#).await, (204, Some(3), json!(null)));
    let twin = json!({
        "desired": { "$version": 1 },
        "reported": { "battery": 71.5, "list": [1, { "a": 2 }], "$version": 3 },
    });
    assert_eq!(pair.ask("GET", None, "").await.2, twin);
    let seen = rig.hub.twin("dev").unwrap();
    assert_eq!((seen.reported.version, &seen.reported.properties["battery"]), (3, &json!(71.5)));
}

#[tokio::test]
async fn a_reply_keeps_the_type_of_the_requests_correlation_id() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    for id in [MessageId::Uuid(Uuid::from([9; 16])), MessageId::String("text".into()), MessageId::Ulong(7)] {
        within(pair.to_hub.send(twin_request(id.clone(), "GET", None, " "))).await.unwrap();
        assert_eq!(correlation(&pair.next().await), Some(id));
    }
    let mut without = twin_request("x".to_owned(), "GET", None, " ");
    without.properties = None;
    let error = rejection(send(&mut pair.to_hub, without).await.unwrap());
    assert_eq!(condition(&error), "amqp:invalid-field", "its reply would look like an update");
}

#[tokio::test]
async fn a_request_that_cannot_be_done_is_answered_with_status_and_reason() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    let large = json!({ "a": "x".repeat(4000), "b": "x".repeat(4000) });
    let large = json!((0..5).map(|n| (format!("p{n}"), large.clone())).collect::<serde_json::Map<_, _>>());
    for (operation, resource, body, wanted, words) in [
        ("PATCH", REPORTED, "{", 400, "no JSON"),
        ("PATCH", REPORTED, "7", 400, "no JSON"),
        ("PATCH", REPORTED, r#"{"a b":1}"#, 400, "a space"),
        ("PATCH", REPORTED, r#"{"$version":1}"#, 400, "a dollar"),
        ("PATCH", REPORTED, r#"{"n":4503599627370496}"#, 400, "integers"),
        ("PATCH", REPORTED, &large.to_string(), 413, "32768"),
        ("PATCH", Some("/properties/desired"), "{}", 404, "there is no PATCH"),
        ("PUT", REPORTED, "{}", 404, "there is no PUT"),
        ("GET", Some("/tags"), "", 404, "there is no GET"),
        ("POST", None, "", 400, "operation"),
    ] {
        let (status, version, body) = pair.ask(operation, resource, body).await;
        assert_eq!((status, version), (wanted, None), "{operation} {resource:?}");
        assert!(body["message"].as_str().unwrap().contains(words), "{body}");
        assert_eq!(body["errorCode"], wanted * 1000);
    }
    let mut stale = twin_request("v".to_owned(), "PATCH", REPORTED, "{}");
    let annotations = stale.message_annotations.as_mut().unwrap();
    annotations.0.insert("version".into(), Value::Long(9));
    within(pair.to_hub.send(stale)).await.unwrap();
    assert_eq!(status(pair.next().await).0, 412);
    assert_eq!(rig.hub.twin("dev").unwrap().reported.version, 1, "none of it changed anything");
}

#[tokio::test]
async fn desired_properties_are_pushed_to_who_asked_and_kept_for_nobody() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    rig.hub.update_desired("dev", &json!({ "before": 1 })).unwrap();
    assert_eq!(pair.ask("PUT", NOTIFICATIONS, " ").await, (200, None, json!(null)));
    let got = pair.ask("GET", None, " ").await.2;
    assert_eq!(got["desired"], json!({ "before": 1, "$version": 2 }), "nothing was queued before");
    rig.hub.update_desired("dev", &json!({ "a": { "x": 1 }, "before": null })).unwrap();
    rig.hub.update_tags("dev", &json!({ "t": 1 })).unwrap();
    rig.hub.update_desired("dev", &json!({ "a": { "x": 2 } })).unwrap();
    for patch in
        [json!({ "a": { "x": 1 }, "before": null, "$version": 3 }), json!({ "a": { "x": 2 }, "$version": 4 })]
    {
        let push = pair.next().await;
        assert_eq!(correlation(&push), None);
        assert_eq!(annotation(&push, "resource"), Some(Value::from("/properties/desired")));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&data_of(push)).unwrap(), patch);
    }
    assert_eq!(pair.ask("DELETE", NOTIFICATIONS, "").await.0, 200);
    rig.hub.update_desired("dev", &json!({ "a": null })).unwrap();
    // The next message is the reply, not a push.
    assert_eq!(pair.ask("GET", None, "").await.2["desired"], json!({ "$version": 5 }));
}

#[tokio::test]
async fn the_links_of_a_pair_come_in_any_order_and_on_any_session() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut other = within(Session::begin(&mut client.connection)).await.unwrap();
    let address = "amqps://hub.example:5671/devices/dev/twin";
    let from_hub = receiver(&mut client.session, address, "twin:1").await;
    let to_hub = sender(&mut other, address, "twin:1").await;
    let mut pair = PairLinks { to_hub, from_hub };
    assert_eq!(pair.ask("GET", None, " ").await.0, 200);
    // The other way round, and the request goes out before there is a link for its reply.
    let mut to_hub = sender(&mut client.session, address, "twin:2").await;
    let outcome = within(to_hub.send(twin_request("early".to_owned(), "GET", None, " "))).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)));
    let mut from_hub = receiver(&mut client.session, address, "twin:2").await;
    let reply = within(from_hub.recv::<Body<Value>>()).await.unwrap().into_message();
    assert_eq!(correlation(&reply), Some(MessageId::String("early".into())));
}

#[tokio::test]
async fn a_newer_pair_replaces_the_older_on_the_same_connection() {
    let rig = Rig::start().await;
    let (mut client, mut older) = device(&rig).await;
    assert_eq!(older.ask("PUT", NOTIFICATIONS, " ").await.0, 200);
    let mut newer = twin_pair(&mut client.session, "dev", "twin:2").await;
    assert_eq!(condition(&refusal_of(older.to_hub).await), "amqp:link:detach-forced");
    assert_eq!(condition(&receiver_refusal(older.from_hub).await), "amqp:link:detach-forced");
    assert_eq!(newer.ask("PUT", NOTIFICATIONS, " ").await.0, 200);
    rig.hub.update_desired("dev", &json!({ "a": 1 })).unwrap();
    assert_eq!(annotation(&newer.next().await, "version"), Some(Value::Long(2)));
}

#[tokio::test]
async fn a_newer_connection_takes_the_twin_and_a_deleted_device_loses_it() {
    let rig = Rig::start().await;
    let (_client, older) = device(&rig).await;
    let mut second = rig.client_of(&["dev"]).await;
    let mut newer = twin_pair(&mut second.session, "dev", "twin:1").await;
    assert_eq!(condition(&refusal_of(older.to_hub).await), "amqp:link:stolen");
    assert_eq!(condition(&receiver_refusal(older.from_hub).await), "amqp:link:stolen");
    assert_eq!(newer.ask("PATCH", REPORTED, r#"{"a":1}"#).await.0, 204);
    rig.hub.delete_device("dev", None).unwrap();
    assert_eq!(condition(&refusal_of(newer.to_hub).await), "amqp:not-found");
    assert_eq!(condition(&receiver_refusal(newer.from_hub).await), "amqp:not-found");
    assert!(rig.hub.twin("dev").is_none());
    rig.device("dev");
    assert!(rig.hub.twin("dev").unwrap().reported.properties.is_empty(), "a device made anew starts anew");
}

#[tokio::test]
async fn closing_the_links_is_answered_and_frees_the_device() {
    let rig = Rig::start().await;
    let (mut client, pair) = device(&rig).await;
    within(pair.to_hub.close()).await.unwrap();
    within(pair.from_hub.close()).await.unwrap();
    within(async {
        while rig.hub.is_connected("dev") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut again = twin_pair(&mut client.session, "dev", "twin:1").await;
    assert_eq!(again.ask("GET", None, " ").await.0, 200, "also under the same id");
}

#[tokio::test]
async fn a_device_that_takes_no_updates_loses_its_links_and_holds_nothing_up() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let address = "/devices/dev/twin";
    let mut to_hub = sender(&mut client.session, address, "twin:1").await;
    let builder = Receiver::builder()
        .name("no-credit")
        .source(address)
        .credit_mode(fe2o3_amqp::link::receiver::CreditMode::Manual)
        .properties(super::pair_kit::properties("twin:1"));
    let from_hub = within(builder.attach(&mut client.session)).await.unwrap();
    let outcome = within(to_hub.send(twin_request("s".to_owned(), "PUT", NOTIFICATIONS, " "))).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)));
    let slow = async {
        let mut number = 0;
        loop {
            rig.hub.update_desired("dev", &json!({ "n": number })).unwrap();
            number += 1;
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::select! {
        error = refusal_of(to_hub) => error,
        () = slow => unreachable!(),
    };
    assert_eq!(condition(&error), "amqp:link:detach-forced");
    assert_eq!(condition(&receiver_refusal(from_hub).await), "amqp:link:detach-forced");
}

#[tokio::test]
async fn a_link_needs_a_token_and_the_id_of_its_pair() {
    let rig = Rig::start().await;
    rig.device("dev");
    rig.device("other");
    let mut client = rig.client_of(&["dev"]).await;
    let address = "/devices/dev/twin";
    let bare = attach(&mut client.session, "bare", address).await;
    assert_eq!(condition(&refusal_of(bare).await), "amqp:invalid-field");
    let wrong = receiver(&mut client.session, address, "methods:1").await;
    assert_eq!(condition(&receiver_refusal(wrong).await), "amqp:invalid-field");
    let other = sender(&mut client.session, "/devices/other/twin", "twin:1").await;
    assert_eq!(condition(&refusal_of(other).await), "amqp:unauthorized-access");
    assert!(!rig.hub.is_connected("dev"));
}
