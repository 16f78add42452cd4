//! Direct methods and desired properties beside messages: how many at once, in which order.

use serde_json::{Map, Value, json};
use tti_connector::azure::{Desired, DesiredScope, Settlement};
use tti_connector::downlink::MAX_METHODS;

use super::kit::{World, answered, message};
use super::network::Fault;

fn desired(version: u64, properties: Value, whole: bool) -> Desired {
    let Value::Object(properties) = properties else { panic!("an object") };
    let scope = if whole { DesiredScope::Whole { reported: Map::new() } } else { DesiredScope::Patch };
    Desired { version, properties, scope }
}

#[tokio::test(start_paused = true)]
async fn methods_run_side_by_side_up_to_their_number_and_behind_no_message() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Hangs]);
    world.gate.open.send_replace(false);
    let _hangs = connector.deliver("d-1", message(1, "1")).await;
    let mut replies = Vec::new();
    for _ in 0..MAX_METHODS {
        replies.push(connector.call("d-1", "valve").await);
    }
    world.gate.begun(MAX_METHODS).await;
    let too_many = connector.call("d-1", "valve").await.await.unwrap();
    assert_eq!(too_many.status, 429);
    let other = connector.call("d-2", "valve").await;
    world.gate.begun(MAX_METHODS + 1).await;
    world.gate.open.send_replace(true);
    for reply in replies.into_iter().chain([other]) {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    assert_eq!(connector.call("d-1", "valve").await.await.unwrap().status, 200);
    assert_eq!((world.counts.of("answered:200"), world.counts.of("answered:429")), (MAX_METHODS + 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_method_that_panics_costs_its_own_answer_and_no_place() {
    let world = World::new();
    let connector = world.start().await;
    for _ in 0..3 * MAX_METHODS {
        assert!(connector.call("d-1", "panic").await.await.is_err());
    }
    assert_eq!(connector.call("d-1", "valve").await.await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn desired_properties_go_in_order_as_one_what_came_meanwhile_and_behind_no_message() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Hangs]);
    world.gate.open.send_replace(false);
    let _hangs = connector.deliver("d-1", message(1, "1")).await;
    connector.desire("d-1", desired(3, json!({ "a": 1 }), true)).await;
    world.gate.begun(1).await;
    connector.desire("d-1", desired(4, json!({ "a": 2, "b": { "c": 1 } }), false)).await;
    connector.desire("d-1", desired(5, json!({ "b": { "d": 2 } }), false)).await;
    connector.desire("d-2", desired(1, json!({}), true)).await;
    let begun = world.gate.begun(2).await;
    assert_eq!(begun, [r#"d-1 v3 {"a":1}"#, "d-2 v1 {}"]);
    world.gate.open.send_replace(true);
    let begun = world.gate.begun(3).await;
    assert_eq!(begun[2], r#"d-1 v5 {"a":2,"b":{"c":1,"d":2}}"#);
    connector.desire("d-1", desired(6, json!({ "a": 3 }), false)).await;
    assert_eq!(world.gate.begun(4).await[3], r#"d-1 v6 {"a":3}"#);
}

#[tokio::test(start_paused = true)]
async fn when_an_application_has_no_place_left_its_messages_and_methods_are_turned_away_and_desired_ones_wait()
 {
    // As many as one application may have under way.
    const PLACES: usize = 4096;
    let world = World::new();
    for n in 0..=PLACES {
        let name = format!("many-{n}");
        let known = (super::kit::end_device(&name), super::kit::hub_device(&name));
        world.directory.known.lock().unwrap().push(known);
    }
    let connector = world.start().await;
    world.gate.open.send_replace(false);
    for n in 0..PLACES {
        connector.desire(&format!("many-{n}"), desired(1, json!({}), true)).await;
    }
    world.gate.begun(PLACES).await;
    connector.desire(&format!("many-{PLACES}"), desired(1, json!({}), true)).await;
    connector.desire(&format!("many-{PLACES}"), desired(2, json!({ "a": 1 }), false)).await;
    assert_eq!(connector.call("d-1", "valve").await.await.unwrap().status, 429);
    assert_eq!(answered(connector.deliver("d-1", message(1, "1")).await).await.0, None);
    world.gate.open.send_replace(true);
    let last = world.gate.begun(PLACES + 1).await.pop();
    assert_eq!(last, Some(format!(r#"many-{PLACES} v2 {{"a":1}}"#)));
    let answer = answered(connector.deliver("d-1", message(1, "1")).await).await.0;
    assert_eq!(answer, Some(Settlement::Complete));
}
