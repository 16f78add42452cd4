//! Start and end: what `ready.json` says, what survives, and that nothing is there unless it is asked for.

use serde_json::{Value, json};
use tti_connector::emulator::{Emulator, Options};

use super::support::{World, confirmed, device, options, plain};

#[tokio::test]
async fn ready_json_tells_where_it_is_and_its_key() {
    let world = World::new().await;
    let ready = world.emulator.ready();
    assert_eq!(ready.things_stack_url.as_deref(), Some(world.stack().url()));
    ready.write(world.dir.path()).unwrap();
    let text = std::fs::read(world.dir.path().join("ready.json")).unwrap();
    let value: Value = serde_json::from_slice(&text).unwrap();
    assert!(value["thingsStackUrl"].as_str().unwrap().starts_with("http://localhost:"), "{value}");
    assert_eq!(value["thingsStackApiKey"], world.stack().api_key());
}

#[tokio::test]
async fn without_a_port_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { things_stack_port: None, ..options(&dir) };
    let emulator = Emulator::start(options).await.unwrap();
    assert!(emulator.things_stack().is_none());
    assert_eq!(emulator.ready().things_stack_url, None);
    emulator.shutdown().await;
    assert!(!dir.path().join("things_stack.json").exists());
}

#[tokio::test]
async fn the_key_sessions_queues_and_what_waits_for_an_ack_survive_a_restart() {
    let world = World::new().await;
    world.push(json!([confirmed("a"), plain("b"), { "f_port": 2, "decoded_payload": { "x": 1 } }])).await;
    world.uplink(json!({})).await;
    // Messages on their way would be lost.
    world.receiver.wait(5).await;
    world.stack().set_formatter(&device(), true).unwrap();
    let (key, queue) = (world.stack().api_key().to_owned(), world.stack().queue(&device()));
    let World { dir, emulator, receiver, client } = world;
    let old = emulator.ready().things_stack_url.clone().unwrap();
    emulator.shutdown().await;
    assert!(client.get(&old).send().await.is_err(), "it still listens");

    let emulator = Emulator::start(options(&dir)).await.unwrap();
    let world = World { dir, emulator, receiver, client };
    assert_eq!(world.stack().api_key(), key);
    assert_eq!(world.stack().queue(&device()), queue);
    world.stack().set_webhook(Some(world.webhook())).unwrap();
    world.uplink(json!({})).await;
    let messages = world.receiver.wait(3 + 2 + 3).await;
    assert_eq!(messages[5].kind(), "downlink_ack");
    assert_eq!(messages[6].inner()["f_cnt"], 1, "the same session goes on");
    assert_eq!(messages[7].inner()["f_cnt"], 2);
}
