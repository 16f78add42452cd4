//! The connector's own client, event reader and learnt keys against the emulator: two readings of the same facts.

use serde_json::json;
use tti_connector::emulator::things_stack::{Effect, Fault};
use tti_connector::model::{EndDevice, Secret};
use tti_connector::things_stack::{
    Access, ApiError, Client, ClientOptions, Downlink, DownlinkEvent, DownlinkOffer, DownlinkState,
    KeyOptions, Keys, Operation, Payload, Priority, Whereabouts,
};

use super::support::{APP, DEV, World};
use crate::messages::DEADLINE;

struct Connector {
    client: Client,
    access: Access,
    device: EndDevice,
}

impl Connector {
    fn of(world: &World) -> Self {
        let options = ClientOptions {
            base_url: Some(world.stack().url().to_owned()),
            request_timeout: DEADLINE,
            max_in_flight: 4,
        };
        Self {
            client: Client::new(world.client.clone(), options).unwrap(),
            access: Access::new(Secret::new(world.stack().api_key()), Some("tti-connector".to_owned())),
            device: EndDevice::new("", APP, DEV).unwrap(),
        }
    }

    async fn push(&self, id: &str) -> Result<(), ApiError> {
        let downlink = Downlink {
            f_port: 10,
            payload: Payload::Raw(vec![1, 2]),
            confirmed: true,
            priority: Priority::Normal,
            class_b_c: None,
            correlation_ids: vec![id.to_owned()],
        };
        self.client.push(&self.access, &self.device, Operation::Push, &downlink).await
    }

    async fn whereabouts(&self, id: &str) -> Whereabouts {
        self.client.whereabouts(&self.access, &self.device, id).await.unwrap()
    }
}

#[tokio::test]
async fn the_connectors_client_finds_its_downlink_wherever_it_is() {
    let world = World::new().await;
    let connector = Connector::of(&world);
    connector.push("c2d:1").await.unwrap();
    connector.push("c2d:2").await.unwrap();
    let queue = connector.client.queue(&connector.access, &connector.device).await.unwrap();
    assert_eq!((queue.len(), queue[0].frm_payload.as_str(), queue[0].confirmed), (2, "AQI=", true));
    assert_eq!(queue[0].priority, "NORMAL");
    assert_eq!(connector.whereabouts("c2d:1").await, Whereabouts::Queued);
    world.uplink(json!({})).await;
    assert_eq!(connector.whereabouts("c2d:1").await, Whereabouts::Taken);
    assert_eq!(connector.whereabouts("c2d:3").await, Whereabouts::Nowhere);
    world.uplink(json!({})).await;
    assert_eq!(connector.whereabouts("c2d:1").await, Whereabouts::Nowhere, "another one is the last now");
    connector.client.clear(&connector.access, &connector.device).await.unwrap();
    assert!(world.list().await.is_empty());
}

#[tokio::test]
async fn the_connectors_client_tells_a_lost_answer_from_a_refusal() {
    let world = World::new().await;
    let connector = Connector::of(&world);
    let lost = Fault { close: true, effect: Effect::After, ..Fault::default() };
    world.stack().fault(lost).unwrap();
    assert!(matches!(connector.push("c2d:1").await, Err(ApiError::Unsure { .. })));
    assert_eq!(connector.whereabouts("c2d:1").await, Whereabouts::Queued);

    let wrong = Connector { access: Access::new(Secret::new("NNSXS.WRONG"), None), ..Connector::of(&world) };
    let refused = wrong.push("c2d:3").await.unwrap_err();
    let ApiError::Refused { status: Some(403), detail } = refused else { panic!("{refused:?}") };
    assert!(detail.contains("no rights for application"), "{detail}");
    let headers = [("x-rate-limit-retry".to_owned(), "7".to_owned())].into();
    world.stack().fault(Fault { status: Some(429), headers, ..Fault::default() }).unwrap();
    let not_now = connector.push("c2d:2").await.unwrap_err();
    let ApiError::NotNow { after: Some(after), .. } = not_now else { panic!("{not_now:?}") };
    assert!(after.as_secs() >= 6, "{after:?}");

    assert_eq!(world.stack().pushed(), 1);
}

#[tokio::test]
async fn the_connectors_event_reader_knows_every_event() {
    let world = World::new().await;
    let connector = Connector::of(&world);
    connector.push("c2d:1").await.unwrap();
    world.uplink(json!({})).await;
    for _ in 0..7 {
        world.uplink(json!({ "ack": false })).await;
    }
    world.control(reqwest::Method::POST, "join", json!({})).await;
    world.uplink(json!({})).await;
    connector.push("c2d:2").await.unwrap();
    world.control(reqwest::Method::POST, "invalidate", json!({})).await;
    world.uplink(json!({})).await;
    world.uplink(json!({ "ack": true })).await;
    // queued, 8 × (uplink, sent), 7 nacks, join, nack with failure and uplink; queued, invalidated, uplink, sent, ack, uplink.
    let messages = world.receiver.wait(1 + 16 + 7 + 1 + 3 + 6).await;
    let events: Vec<_> = messages
        .iter()
        .filter_map(|message| DownlinkEvent::parse(message.body.to_string().as_bytes()).unwrap())
        .collect();
    let count = |state: DownlinkState| events.iter().filter(|event| event.state == state).count();
    assert_eq!(count(DownlinkState::Queued), 2);
    assert_eq!(count(DownlinkState::Sent), 9);
    assert_eq!(count(DownlinkState::Nack), 8);
    assert_eq!(count(DownlinkState::Failed), 1);
    assert_eq!(count(DownlinkState::Invalidated), 1);
    assert_eq!(count(DownlinkState::Ack), 1);
    for event in &events {
        let id = event.downlinks[0].correlation_ids[0].as_str();
        assert!(matches!(id, "c2d:1" | "c2d:2"), "{event:?}");
        assert!(event.received_ms.is_some() && event.downlinks[0].f_port == 10, "{event:?}");
    }
    let failed = events.iter().find(|event| event.state == DownlinkState::Failed).unwrap();
    assert!(failed.error.as_ref().unwrap().contains("max_retries_reached"), "{failed:?}");
}

#[tokio::test]
async fn the_connector_learns_the_key_from_the_emulators_headers() {
    let world = World::new().await;
    world.uplink(json!({})).await;
    let headers = world.receiver.wait(1).await.remove(0).headers;
    let header = |name: &str| headers[name].to_str().unwrap();
    let base_url = Some(world.stack().url().to_owned());
    let keys = Keys::new(KeyOptions { base_url, ..KeyOptions::default() }).unwrap();
    let connector = Connector::of(&world);
    let offer = DownlinkOffer {
        api_key: header("x-downlink-apikey"),
        push: Some(header("x-downlink-push")),
        replace: Some(header("x-downlink-replace")),
    };
    keys.learn(&connector.device, offer);
    let access = keys.access(&connector.device).unwrap().as_ref().clone();
    let learnt = Connector { access, ..connector };
    learnt.push("c2d:1").await.unwrap();
    assert_eq!(world.stack().pushes()[0].downlink.correlation_ids[0], "c2d:1");
}
