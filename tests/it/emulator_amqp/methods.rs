//! A device's method links: calls, answers in every form that peers send, and who is online.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Value};
use serde_json::json;
use tokio::task::JoinHandle;
use tti_connector::emulator::{MethodAnswer, MethodError};

use super::kit::{Client, Rig, condition, data, receiver_refusal, refusal_of, rejection, send, within};
use super::pair_kit::{PairLinks, correlation, data_of, pair, receiver, sender};

const ADDRESS: &str = "/devices/dev/methods/devicebound";

async fn device(rig: &Rig) -> (Client, PairLinks) {
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let pair = pair(&mut client.session, ADDRESS, "methods:1").await;
    online(rig, true).await;
    (client, pair)
}

/// Waits until the device can be called, or can't.
async fn online(rig: &Rig, wanted: bool) {
    within(async {
        while rig.hub.takes_methods("dev") != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn call(rig: &Rig, timeout: Duration) -> JoinHandle<Result<MethodAnswer, MethodError>> {
    let hub = Arc::clone(&rig.hub);
    tokio::spawn(async move { hub.invoke_method("dev", "reboot", &json!({ "delay": 5 }), timeout).await })
}

const LONG: Duration = Duration::from_secs(9);

fn answer(id: MessageId, status: SimpleValue, body: Body<Value>) -> Message<Body<Value>> {
    Message::builder()
        .properties(Properties::builder().correlation_id(id).build())
        .application_properties(ApplicationProperties::builder().insert("IoThub-status", status).build())
        .body(body)
        .build()
}

fn uuid_of(id: &MessageId) -> uuid::Uuid {
    match id {
        MessageId::Uuid(id) => uuid::Uuid::from_bytes(*id.as_inner()),
        other => panic!("a real hub sends a uuid: {other:?}"),
    }
}

#[tokio::test]
async fn a_call_reaches_the_device_and_its_answer_the_caller() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    type Echo = fn(MessageId) -> MessageId;
    let echoes: [Echo; 3] = [
        |id| id,
        |id| MessageId::String(uuid_of(&id).to_string()),
        |id| MessageId::Binary(Binary::from(uuid_of(&id).into_bytes().to_vec())),
    ];
    for echo in echoes {
        let caller = call(&rig, LONG);
        let request = pair.next().await;
        let properties = request.application_properties.as_ref().unwrap();
        assert_eq!(properties.0.get("IoThub-methodname"), Some(&SimpleValue::from("reboot")));
        let id = correlation(&request).unwrap();
        uuid_of(&id);
        assert_eq!(data_of(request), br#"{"delay":5}"#);
        let reply = answer(echo(id), SimpleValue::Int(202), data(r#"{"done": 1.50}"#));
        assert!(matches!(send(&mut pair.to_hub, reply).await.unwrap(), Outcome::Accepted(_)));
        let got = within(caller).await.unwrap().unwrap();
        assert_eq!((got.status, got.payload.get()), (202, r#"{"done": 1.50}"#));
    }
}

#[tokio::test]
async fn calls_at_the_same_time_get_their_own_answers() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    let callers: Vec<_> = (0..40)
        .map(|number| {
            let hub = Arc::clone(&rig.hub);
            tokio::spawn(async move { hub.invoke_method("dev", "echo", &json!(number), LONG).await })
        })
        .collect();
    let mut requests = Vec::new();
    for _ in 0..40 {
        requests.push(pair.next().await);
    }
    for request in requests.into_iter().rev() {
        let id = correlation(&request).unwrap();
        let reply = answer(id, SimpleValue::Int(200), data(data_of(request)));
        send(&mut pair.to_hub, reply).await.unwrap();
    }
    for (number, caller) in callers.into_iter().enumerate() {
        assert_eq!(within(caller).await.unwrap().unwrap().json(), json!(number));
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_rejected_and_one_that_cannot_be_passed_on_is_told() {
    let rig = Rig::start().await;
    let (_client, mut pair) = device(&rig).await;
    let caller = call(&rig, LONG);
    let id = correlation(&pair.next().await).unwrap();
    for wrong in [
        answer(id.clone(), SimpleValue::Long(200), data("{}")),
        answer(id.clone(), SimpleValue::from("200"), data("{}")),
        answer(MessageId::Ulong(1), SimpleValue::Int(200), data("{}")),
        answer(id.clone(), SimpleValue::Int(200), Body::Value(AmqpValue(Value::Int(1)))),
    ] {
        let error = rejection(send(&mut pair.to_hub, wrong).await.unwrap());
        assert_eq!(condition(&error), "amqp:decode-error");
    }
    // A stranger's id is taken and dropped, as a late answer is.
    let stranger = MessageId::String(uuid::Uuid::new_v4().to_string());
    let outcome = send(&mut pair.to_hub, answer(stranger, SimpleValue::Int(1), data("{}"))).await.unwrap();
    assert!(matches!(outcome, Outcome::Accepted(_)));
    send(&mut pair.to_hub, answer(id, SimpleValue::Int(200), data("{"))).await.unwrap();
    let error = within(caller).await.unwrap().unwrap_err();
    assert_eq!(error, MethodError::BadAnswer("it is no JSON"));
}

#[tokio::test]
async fn a_device_is_online_while_both_links_are_there() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let calls = receiver(&mut client.session, ADDRESS, "methods:1").await;
    assert!(!rig.hub.takes_methods("dev"), "an answer could not come back");
    let offline = call(&rig, LONG).await.unwrap().unwrap_err();
    assert_eq!(offline, MethodError::NotOnline("dev".into()));
    let answers = sender(&mut client.session, ADDRESS, "methods:1").await;
    online(&rig, true).await;
    within(answers.close()).await.unwrap();
    online(&rig, false).await;
    let answers = sender(&mut client.session, ADDRESS, "methods:1").await;
    online(&rig, true).await;
    within(calls.close()).await.unwrap();
    online(&rig, false).await;
    within(answers.close()).await.unwrap();
}

#[tokio::test]
async fn a_call_ends_at_once_when_the_device_goes() {
    let rig = Rig::start().await;
    let (client, mut pair) = device(&rig).await;
    let caller = call(&rig, Duration::from_secs(300));
    pair.next().await;
    let mut connection = client.connection;
    within(connection.close()).await.unwrap();
    let error = within(caller).await.unwrap().unwrap_err();
    assert_eq!(error, MethodError::NotOnline("dev".into()));
    online(&rig, false).await;
}

#[tokio::test]
async fn a_newer_pair_takes_the_calls() {
    let rig = Rig::start().await;
    let (mut client, older) = device(&rig).await;
    let mut newer = pair(&mut client.session, ADDRESS, "methods:2").await;
    assert_eq!(condition(&refusal_of(older.to_hub).await), "amqp:link:detach-forced");
    assert_eq!(condition(&receiver_refusal(older.from_hub).await), "amqp:link:detach-forced");
    online(&rig, true).await;
    let caller = call(&rig, LONG);
    let id = correlation(&newer.next().await).unwrap();
    send(&mut newer.to_hub, answer(id, SimpleValue::Int(200), data(""))).await.unwrap();
    assert_eq!(within(caller).await.unwrap().unwrap().payload.get(), "null");
}

#[tokio::test]
async fn another_device_cannot_answer() {
    let rig = Rig::start().await;
    let (_client, mut pair_of_dev) = device(&rig).await;
    rig.device("other");
    let mut other = rig.client_of(&["other"]).await;
    let mut forger = pair(&mut other.session, "/devices/other/methods/devicebound", "methods:1").await;
    let caller = call(&rig, LONG);
    let id = correlation(&pair_of_dev.next().await).unwrap();
    send(&mut forger.to_hub, answer(id.clone(), SimpleValue::Int(666), data("{}"))).await.unwrap();
    send(&mut pair_of_dev.to_hub, answer(id, SimpleValue::Int(200), data("{}"))).await.unwrap();
    assert_eq!(within(caller).await.unwrap().unwrap().status, 200);
}
