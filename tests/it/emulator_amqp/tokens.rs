//! Tokens by `$cbs`: statuses, renewal, expiry, limits, and the forms clients use.

use fe2o3_amqp::Session;
use fe2o3_amqp::link::Sender;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Uuid, Value};
use tti_connector::emulator::{AmqpOptions, DeviceStatus};

use super::kit::{
    Cbs, HOST, IOTHUB_TYPE, NOW_S, Rig, condition, data, message, put_token, refusal_of, send, status_of,
    telemetry, token, within,
};

#[tokio::test]
async fn each_flaw_of_a_token_has_its_status() {
    let rig = Rig::start().await;
    rig.device("dev");
    rig.device("off");
    let off_token = rig.device_token("off", 60);
    rig.hub.update_device("off", DeviceStatus::Disabled, None, None).unwrap();
    let key = rig.hub.device("dev").unwrap().primary_key;
    let mut client = rig.client().await;
    for (status, text) in [
        (200, rig.device_token("dev", 60)),
        (200, rig.policy_token("device", 60)),
        (400, "SharedAccessSignature sr=only".to_owned()),
        (401, token(&format!("{HOST}/devices/dev"), "d3Jvbmc=", NOW_S + 60, None)),
        (401, token(&format!("{HOST}/devices/dev"), &key, NOW_S - 1, None)),
        (401, token("other.example/devices/dev", &key, NOW_S + 60, None)),
        (403, off_token),
        (404, token(&format!("{HOST}/devices/nobody"), &key, NOW_S + 60, None)),
    ] {
        let (got, description) = client.cbs.put(&text).await;
        assert_eq!(got, status, "{description}");
        assert!(!description.is_empty());
    }
}

#[tokio::test]
async fn a_device_whose_id_has_a_percent_sign_is_found_in_every_spelling() {
    let rig = Rig::start().await;
    rig.device("p%41q");
    let key = rig.hub.device("p%41q").unwrap().primary_key;
    let mut client = rig.client().await;
    // Node encodes the whole resource; C# its id first, and then the whole.
    for resource in [format!("{HOST}/devices/p%41q"), format!("{HOST}/devices/p%2541q")] {
        let (status, text) = client.cbs.put(&token(&resource, &key, NOW_S + 60, None)).await;
        assert_eq!(status, 200, "{resource}: {text}");
    }
    let mut link = client.telemetry("p%2541q").await;
    assert!(matches!(send(&mut link, message(data(b"x"))).await, Ok(Outcome::Accepted(_))));
    assert_eq!(rig.events_of("p%41q").len(), 1);
}

#[tokio::test]
async fn both_token_types_in_any_case_and_nothing_else_are_taken() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client().await;
    let text = rig.device_token("dev", 60);
    for (kind, status) in [
        (IOTHUB_TYPE, 200),
        ("servicebus.windows.net:sastoken", 200),
        ("ServiceBus.Windows.Net:SasToken", 200),
        ("jwt", 400),
    ] {
        let reply = client.cbs.ask(put_token(&text, kind, MessageId::Ulong(1))).await;
        assert_eq!(status_of(reply.application_properties.as_ref()).0, status, "{kind}");
    }
    let no_name = Message::builder()
        .application_properties(
            ApplicationProperties::builder()
                .insert("operation", "put-token")
                .insert("type", IOTHUB_TYPE)
                .build(),
        )
        .body(Body::Value(AmqpValue(Value::from(text.as_str()))))
        .build();
    let reply = client.cbs.ask(no_name).await;
    assert_eq!(status_of(reply.application_properties.as_ref()).0, 400);
}

#[tokio::test]
async fn the_reply_names_the_request_in_the_type_it_had() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client().await;
    for id in [
        MessageId::Uuid(Uuid::from([7; 16])),
        MessageId::String("text".into()),
        MessageId::Ulong(3),
        MessageId::Binary(Binary::from("bytes")),
    ] {
        let reply = client.cbs.ask(put_token(&rig.device_token("dev", 60), IOTHUB_TYPE, id.clone())).await;
        assert_eq!(reply.properties.unwrap().correlation_id, Some(id));
    }
}

#[tokio::test]
async fn tokens_put_on_one_session_open_links_on_another() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut other = within(Session::begin(&mut client.connection)).await.unwrap();
    let mut sender = telemetry(&mut other, "dev").await;
    assert!(matches!(send(&mut sender, message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
}

#[tokio::test]
async fn replies_find_the_link_that_the_request_names() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client().await;
    let mut other = within(Session::begin(&mut client.connection)).await.unwrap();
    let mut second = Cbs::attach(&mut other).await;
    // Each pair on its own session: answers must not cross.
    for _ in 0..3 {
        assert_eq!(client.cbs.put(&rig.device_token("dev", 60)).await.0, 200);
        assert_eq!(second.put("SharedAccessSignature").await.0, 400);
    }
}

#[tokio::test]
async fn a_token_on_one_connection_is_worth_nothing_on_another() {
    let rig = Rig::start().await;
    rig.device("dev");
    let _first = rig.client_of(&["dev"]).await;
    let mut second = rig.client().await;
    let sender = second.telemetry("dev").await;
    assert_eq!(condition(&refusal_of(sender).await), "amqp:unauthorized-access");
}

#[tokio::test]
async fn past_the_limit_a_token_gets_500_with_the_documented_text_but_renewal_goes_on() {
    let rig = Rig::with(AmqpOptions { max_tokens: 2, ..AmqpOptions::default() }).await;
    for id in ["a", "b", "c"] {
        rig.device(id);
    }
    let mut client = rig.client_of(&["a", "b"]).await;
    let (status, description) = client.cbs.put(&rig.device_token("c", 60)).await;
    assert_eq!(status, 500);
    assert_eq!(description, "The maximum number of tokens per connection (2) has been reached.");
    assert_eq!(client.cbs.put(&rig.device_token("a", 120)).await.0, 200);
}

#[tokio::test]
async fn an_expired_token_costs_its_device_the_link_and_a_renewed_one_does_not() {
    let rig = Rig::start().await;
    for id in ["renewed", "lapsed"] {
        rig.device(id);
    }
    let mut client = rig.client().await;
    for id in ["renewed", "lapsed"] {
        assert_eq!(client.cbs.put(&rig.device_token(id, 60)).await.0, 200);
    }
    let mut renewed = client.telemetry("renewed").await;
    let lapsed = client.telemetry("lapsed").await;
    assert_eq!(client.cbs.put(&rig.device_token("renewed", 600)).await.0, 200);
    rig.clock.advance(60_000);
    let error = refusal_of(lapsed).await;
    assert_eq!(condition(&error), "amqp:unauthorized-access");
    assert!(error.description.unwrap().contains("lapsed"));
    assert!(matches!(send(&mut renewed, message(data("still"))).await.unwrap(), Outcome::Accepted(_)));
    assert!(!rig.hub.is_connected("lapsed") && rig.hub.is_connected("renewed"));
}

#[tokio::test]
async fn a_changed_key_ends_the_device_and_its_old_token() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let sender = client.telemetry("dev").await;
    let keys = ("bmV3".to_owned(), "bmV3Mg==".to_owned());
    rig.hub.update_device("dev", DeviceStatus::Enabled, Some(keys), None).unwrap();
    assert_eq!(condition(&refusal_of(sender).await), "amqp:unauthorized-access");
    let address = "/devices/dev/messages/events";
    let again = within(Sender::attach(&mut client.session, "again", address)).await.unwrap();
    assert_eq!(condition(&refusal_of(again).await), "amqp:unauthorized-access");
    assert_eq!(client.cbs.put(&rig.device_token("dev", 60)).await.0, 200);
    let mut last = within(Sender::attach(&mut client.session, "last", address)).await.unwrap();
    assert!(matches!(send(&mut last, message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
}

#[tokio::test]
async fn requests_that_can_not_be_read_are_answered_and_the_link_lives_on() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client().await;
    let odd = Message::builder()
        .properties(Properties::builder().message_id(9_u64).build())
        .body(data("no token"))
        .build();
    let reply = client.cbs.ask(odd).await;
    assert_eq!(status_of(reply.application_properties.as_ref()).0, 400);
    assert_eq!(client.cbs.put(&rig.device_token("dev", 60)).await.0, 200);
}
