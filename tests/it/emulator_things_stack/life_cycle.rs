//! What becomes of downlinks on the air, and what the webhook hears of it, in which order.

use reqwest::Method;
use serde_json::{Value, json};
use tti_connector::emulator::things_stack::{Class, Invalidated, Uplink};

use super::receiver::Message;
use super::support::{SHORT, World, confirmed, device, first_id, plain};

fn last(messages: &[Message]) -> &Message {
    messages.last().unwrap()
}

#[tokio::test]
async fn queued_is_posted_inside_the_push_and_class_a_hears_one_downlink_after_an_uplink() {
    let world = World::new().await;
    world.receiver.hold(true);
    let mut push = Box::pin(world.push(json!([plain("a"), plain("b")])));
    let early = tokio::select! {
        answer = &mut push => Some(answer),
        _ = world.receiver.wait(1) => None,
    };
    assert_eq!(early, None, "the webhook had not answered");
    world.receiver.hold(false);
    assert_eq!(push.await.0, 200);
    assert_eq!(world.receiver.messages().len(), 2, "told before the answer");

    world.uplink(json!({ "f_port": 4, "frm_payload": "AAE=" })).await;
    world.uplink(json!({})).await;
    world.uplink(json!({})).await;
    let messages = world.receiver.wait(7).await;
    let kinds: Vec<_> = messages.iter().map(Message::kind).collect();
    let (queued, up, sent) = ("downlink_queued", "uplink_message", "downlink_sent");
    assert_eq!(kinds, [queued, queued, up, sent, up, sent, up]);
    for (at, id, f_cnt) in [(3, "a", 1), (5, "b", 2)] {
        let message = &messages[at];
        assert_eq!((first_id(&message.body), first_id(message.inner())), (id, id), "both places");
        assert_eq!(message.inner()["f_cnt"], f_cnt);
        assert!(message.inner()["session_key_id"].is_string());
    }
    let first = messages[2].inner();
    assert_eq!(
        (first.get("f_cnt"), &first["f_port"], &first["frm_payload"]),
        (None, &json!(4), &json!("AAE="))
    );
    assert_eq!(messages[4].inner()["f_cnt"], 1);
    assert_eq!(first["settings"]["frequency"], "868500000", "64-bit numbers are texts");
    for stamp in [&messages[2].body["received_at"], &first["received_at"]] {
        let digits = stamp.as_str().unwrap().split_once('.').unwrap().1;
        assert!(digits.len() == 10 && digits.ends_with('Z'), "{stamp}");
    }
    let ids = &messages[2].body["end_device_ids"];
    assert_eq!(ids["application_ids"], json!({ "application_id": "greenhouse" }));
    for (name, digits) in [("dev_eui", 16), ("join_eui", 16), ("dev_addr", 8)] {
        let id = ids[name].as_str().unwrap();
        assert!(
            id.len() == digits && id.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)),
            "{id}"
        );
    }
    assert!(world.list().await.is_empty());
}

#[tokio::test]
async fn a_queued_event_has_what_was_asked_without_session_and_counter() {
    let world = World::new().await;
    let asked = json!({ "f_port": 15, "decoded_payload": { "led": [1, 2] }, "confirmed": true, "priority": "HIGH",
        "correlation_ids": ["mine"], "class_b_c": { "gateways": [{ "gateway_ids": { "gateway_id": "roof" } }] } });
    assert_eq!(world.push(json!([asked])).await.0, 200);
    let message = world.receiver.wait(1).await.remove(0);
    let mut queued = message.inner().clone();
    assert_eq!(message.body["correlation_ids"], queued["correlation_ids"], "at the top and nested");
    let ids = queued["correlation_ids"].take();
    assert!(ids[0] == "mine" && ids.as_array().unwrap().len() == 2, "{ids}");
    let mut expected = asked;
    expected["correlation_ids"] = Value::Null;
    expected["confirmed_retry"] = json!({ "attempt": 1 });
    assert_eq!(queued, expected);
}

#[tokio::test]
async fn a_confirmed_downlink_is_acknowledged_by_the_next_uplink() {
    let world = World::new().await;
    world.push(json!([confirmed("a"), plain("b")])).await;
    world.uplink(json!({})).await;
    world.uplink(json!({ "confirmed": true })).await;
    let messages = world.receiver.wait(7).await;
    let kinds: Vec<_> = messages.iter().map(Message::kind).collect();
    let (queued, up, sent) = ("downlink_queued", "uplink_message", "downlink_sent");
    // The Network Server tells of the acknowledgement before the uplink that brought it.
    assert_eq!(kinds, [queued, queued, up, sent, "downlink_ack", up, sent]);
    let ack = &messages[4];
    assert_eq!((first_id(&ack.body), first_id(ack.inner())), ("a", "a"));
    assert_eq!((&ack.inner()["f_cnt"], &ack.inner()["confirmed"]), (&json!(1), &json!(true)));
    assert_eq!(messages[5].inner()["confirmed"], true);
    assert_eq!(first_id(last(&messages).inner()), "b");
}

#[tokio::test]
async fn a_nack_is_not_final_and_the_eighth_is_followed_by_no_ninth_try() {
    let world = World::new().await;
    world.push(json!([confirmed("a")])).await;
    world.uplink(json!({})).await;
    for _ in 0..8 {
        world.uplink(json!({ "ack": false })).await;
    }
    world.uplink(json!({})).await;
    // queued; 8 × sent, each after an uplink; 8 nacks; failed; two uplinks that nothing follows.
    let messages = world.receiver.wait(1 + 10 + 8 + 8 + 1).await;
    let of = |kind: &str| messages.iter().filter(|message| message.kind() == kind).collect::<Vec<_>>();
    let nacks = of("downlink_nack");
    let attempts: Vec<_> =
        nacks.iter().map(|nack| nack.inner()["confirmed_retry"]["attempt"].clone()).collect();
    assert_eq!(attempts, (2..=9).map(Value::from).collect::<Vec<_>>());
    let counters: Vec<_> = of("downlink_sent").iter().map(|sent| sent.inner()["f_cnt"].clone()).collect();
    assert_eq!(counters, (1..=8).map(Value::from).collect::<Vec<_>>(), "each try has its own counter");
    assert!(messages.iter().filter(|m| m.kind().starts_with("downlink")).all(|m| {
        let nested = if m.kind() == "downlink_failed" { &m.inner()["downlink"] } else { m.inner() };
        first_id(nested) == "a" && first_id(&m.body) == "a"
    }));
    let failed = of("downlink_failed");
    assert_eq!(failed.len(), 1);
    let error = &failed[0].inner()["error"];
    assert_eq!((&error["name"], &error["code"]), (&json!("max_retries_reached"), &json!(10)));
    // The Application Server gives up before it passes the last nack on.
    let at = messages.iter().position(|message| message.kind() == "downlink_failed").unwrap();
    assert_eq!(messages[at + 1].kind(), "downlink_nack");
    assert!(world.list().await.is_empty());
}

#[tokio::test]
async fn retries_are_as_many_as_the_downlink_says_behind_what_is_queued() {
    let world = World::new().await;
    let once = json!({ "f_port": 1, "frm_payload": "AA==", "confirmed": true, "correlation_ids": ["once"],
        "confirmed_retry": { "max_attempts": 1 } });
    world.push(json!([once, plain("b")])).await;
    world.uplink(json!({})).await;
    world.uplink(json!({ "ack": false })).await;
    assert_eq!(first_id(&world.list().await[0]), "once", "b went out, the nacked one is behind");
    world.uplink(json!({})).await;
    world.uplink(json!({ "ack": false })).await;
    let messages = world.receiver.wait(2 + 4 + 3 + 2 + 1).await;
    let sent: Vec<_> =
        messages.iter().filter(|m| m.kind() == "downlink_sent").map(|m| first_id(m.inner())).collect();
    assert_eq!(sent, ["once", "b", "once"], "with one retry it is sent twice");
    assert_eq!(messages.iter().filter(|message| message.kind() == "downlink_failed").count(), 1);
}

#[tokio::test]
async fn class_c_hears_at_once_up_to_a_confirmed_one() {
    let world = World::new().await;
    assert_eq!(world.control(Method::PUT, "class", json!({ "class": "C" })).await.0, 204);
    world.push(json!([plain("a"), confirmed("b"), plain("c")])).await;
    let (queued, sent) = ("downlink_queued", "downlink_sent");
    assert_eq!(world.receiver.kinds(5).await, [queued, queued, queued, sent, sent]);
    assert_eq!(first_id(&world.list().await[0]), "c", "b has no answer yet");
    world.uplink(json!({})).await;
    let kinds = world.receiver.kinds(8).await;
    assert_eq!(kinds[5..], ["downlink_ack", "uplink_message", sent]);
}

#[tokio::test]
async fn class_a_is_spared_what_is_for_class_b_and_c() {
    let world = World::new().await;
    let downlink = json!({ "f_port": 1, "frm_payload": "AA==", "class_b_c": {} });
    world.push(json!([downlink])).await;
    world.uplink(json!({})).await;
    assert_eq!(world.receiver.kinds(2).await, ["downlink_queued", "uplink_message"]);
    world.stack().set_class(&device(), Class::C).unwrap();
    assert_eq!(last(&world.receiver.wait(3).await).kind(), "downlink_sent");
}

#[tokio::test]
async fn a_join_starts_a_session_and_carries_the_queue_over() {
    let world = World::new().await;
    world.push(json!([plain("a"), plain("b")])).await;
    world.uplink(json!({})).await;
    let before = world.list().await.remove(0);
    assert_eq!(world.control(Method::POST, "join", json!({})).await.0, 204);
    let messages = world.receiver.wait(5).await;
    let join = last(&messages);
    assert_eq!(join.kind(), "join_accept");
    assert_eq!(join.inner()["invalidated_downlinks"], json!([before]));
    assert!(join.inner()["received_at"].is_string());
    let after = world.list().await.remove(0);
    assert_eq!((first_id(&after), &after["f_cnt"]), ("b", &json!(1)), "counters start again");
    assert_eq!(after["session_key_id"], join.inner()["session_key_id"]);
    assert_ne!(after["session_key_id"], before["session_key_id"]);
    assert_ne!(join.body["end_device_ids"]["dev_addr"], messages[2].body["end_device_ids"]["dev_addr"]);

    world.uplink(json!({})).await;
    let messages = world.receiver.wait(7).await;
    assert_eq!(messages[5].inner().get("f_cnt"), None, "the first of the session");
    assert_eq!(last(&messages).inner()["f_cnt"], 1);
}

#[tokio::test]
async fn a_device_in_a_new_session_cannot_acknowledge_the_old_one() {
    let world = World::new().await;
    world.push(json!([confirmed("a")])).await;
    world.uplink(json!({})).await;
    world.stack().join(&device(), Invalidated::Hidden).unwrap();
    world.stack().uplink(&device(), &Uplink::default()).unwrap();
    let kinds = world.receiver.kinds(7).await;
    assert_eq!(kinds[3..], ["join_accept", "downlink_nack", "uplink_message", "downlink_sent"]);
}

#[tokio::test]
async fn an_invalidated_queue_is_told_and_carried_over_or_hidden_or_dropped() {
    let world = World::new().await;
    world.push(json!([plain("a"), plain("b")])).await;
    assert_eq!(world.control(Method::POST, "invalidate", json!({})).await.0, 204);
    let told = world.receiver.wait(3).await.remove(2);
    assert_eq!(told.kind(), "downlink_queue_invalidated");
    assert_eq!(told.inner()["last_f_cnt_down"], 3);
    let ids: Vec<_> = told.inner()["downlinks"].as_array().unwrap().iter().map(first_id).collect();
    assert_eq!(ids, ["a", "b"]);
    let counters: Vec<_> = world.list().await.iter().map(|item| item["f_cnt"].clone()).collect();
    assert_eq!(counters, [json!(4), json!(5)]);

    let hidden = json!({ "invalidated": "hidden" });
    assert_eq!(world.control(Method::POST, "invalidate", hidden).await.0, 204);
    assert_eq!(world.list().await.len(), 2);
    let dropped = json!({ "invalidated": "dropped" });
    assert_eq!(world.control(Method::POST, "join", dropped).await.0, 204);
    assert!(world.list().await.is_empty());
    let join = world.receiver.wait(4).await.remove(3);
    assert_eq!(join.inner()["invalidated_downlinks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn devices_go_out_side_by_side_and_one_slow_message_holds_its_own_device_only() {
    let world = World::new().await;
    world.receiver.hold(true);
    let stack = world.stack();
    let other = tti_connector::emulator::things_stack::DeviceName::new("greenhouse", "valve-8").unwrap();
    for name in [&device(), &device(), &other] {
        stack.uplink(name, &Uplink::default()).unwrap();
    }
    let messages = world.receiver.wait(2).await;
    let mut devices: Vec<_> = messages.iter().map(Message::device).collect();
    devices.sort_unstable();
    assert_eq!(devices, ["valve-7", "valve-8"], "the second of valve-7 waits for its first");
    tokio::time::timeout(SHORT, world.receiver.wait(3)).await.unwrap_err();
    world.receiver.hold(false);
    world.receiver.wait(3).await;
}
