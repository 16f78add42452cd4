//! Direct methods and desired properties beside messages: how many at once, in which order.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tti_connector::azure::{Desired, DesiredScope, Settlement};
use tti_connector::downlink::MAX_METHODS;
use tti_connector::model::EndDevice;

use super::kit::{World, answered, end_device, hub_device, message};
use super::network::{Fault, not_now};

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
async fn desired_properties_are_handed_over_in_order_and_behind_nothing() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Hangs]);
    world.gate.open.send_replace(false);
    let _hangs = connector.deliver("d-1", message(1, "1")).await;
    let _waits = connector.call("d-1", "valve").await;
    connector.desire("d-1", desired(3, json!({ "a": 1 }), true)).await;
    connector.desire("d-1", desired(4, json!({ "b": null }), false)).await;
    connector.desire("nobody", desired(1, json!({}), true)).await;
    connector.desire("d-2", desired(1, json!({}), true)).await;
    let mut begun = world.gate.begun(4).await;
    begun.retain(|what| what != "d-1 valve");
    assert_eq!(begun, [r#"d-1 v3 {"a":1}"#, r#"d-1 v4 {"b":null}"#, "d-2 v1 {}"]);
}

#[tokio::test(start_paused = true)]
async fn an_application_without_a_place_left_waits_alone() {
    // As many as one application may have under way.
    const PLACES: usize = 4096;
    let world = World::new();
    let of_other = (EndDevice::new("", "other", "elsewhere").unwrap(), hub_device("elsewhere"));
    world.directory.known.lock().unwrap().push(of_other);
    world.network.serve("other", true);
    for n in 0..PLACES {
        let name = format!("many-{n}");
        world.network.on_push(&name, [not_now(Some(3600))]);
        world.directory.known.lock().unwrap().push((end_device(&name), hub_device(&name)));
    }
    let connector = world.start().await;
    let mut waiting = Vec::new();
    for n in 0..PLACES {
        waiting.push(connector.deliver(&format!("many-{n}"), message(1, "1")).await);
    }
    world.network.called(PLACES).await;
    assert_eq!(answered(connector.deliver("d-1", message(1, "1")).await).await, (None, 0.0));
    assert_eq!(connector.call("d-1", "valve").await.await.unwrap().status, 429);
    let answer = answered(connector.deliver("elsewhere", message(1, "1")).await).await.0;
    assert_eq!(answer, Some(Settlement::Complete));
    // Links are lost, and places with them free.
    drop(waiting);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = answered(connector.deliver("d-1", message(1, "1")).await).await.0;
    assert_eq!(answer, Some(Settlement::Complete));
}
