//! Which connection has which device: takeover, deletion, disabling, and many devices on one connection.

use fe2o3_amqp::Session;
use fe2o3_amqp_types::messaging::Outcome;
use tti_connector::emulator::DeviceStatus;

use super::kit::{Rig, attach, condition, data, message, refusal_of, send, telemetry, within};

#[tokio::test]
async fn the_newer_connection_wins_and_only_that_device_is_taken_from_the_older() {
    let rig = Rig::start().await;
    for id in ["moving", "staying"] {
        rig.device(id);
    }
    let mut older = rig.client_of(&["moving", "staying"]).await;
    let moving = older.telemetry("moving").await;
    let mut staying = older.telemetry("staying").await;
    let mut newer = rig.client_of(&["moving"]).await;
    let mut taken = newer.telemetry("moving").await;
    let error = refusal_of(moving).await;
    assert_eq!(condition(&error), "amqp:link:stolen");
    assert!(matches!(send(&mut taken, message(data("new"))).await.unwrap(), Outcome::Accepted(_)));
    assert!(matches!(send(&mut staying, message(data("old"))).await.unwrap(), Outcome::Accepted(_)));
    // The older one may come back and is the newer one then.
    let address = "/devices/moving/messages/events";
    let mut back = attach(&mut older.session, "back", address).await;
    assert!(matches!(send(&mut back, message(data("back"))).await.unwrap(), Outcome::Accepted(_)));
    assert_eq!(condition(&refusal_of(taken).await), "amqp:link:stolen");
}

#[tokio::test]
async fn a_deleted_device_is_cut_off_and_the_others_go_on() {
    let rig = Rig::start().await;
    for id in ["deleted", "kept"] {
        rig.device(id);
    }
    let mut client = rig.client_of(&["deleted", "kept"]).await;
    let deleted = client.telemetry("deleted").await;
    let mut kept = client.telemetry("kept").await;
    rig.hub.delete_device("deleted", None).unwrap();
    assert_eq!(condition(&refusal_of(deleted).await), "amqp:not-found");
    let again = attach(&mut client.session, "again", "/devices/deleted/messages/events").await;
    assert_eq!(condition(&refusal_of(again).await), "amqp:not-found");
    assert!(matches!(send(&mut kept, message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
    assert!(!rig.hub.is_connected("deleted") && rig.hub.is_connected("kept"));
}

#[tokio::test]
async fn a_disabled_device_is_cut_off_and_refused_until_enabled_again() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let first = client.telemetry("dev").await;
    rig.hub.update_device("dev", DeviceStatus::Disabled, None, None).unwrap();
    for link in [first, attach(&mut client.session, "second", "/devices/dev/messages/events").await] {
        let error = refusal_of(link).await;
        assert_eq!(condition(&error), "amqp:unauthorized-access");
        assert!(error.description.unwrap().contains("disabled"));
    }
    rig.hub.update_device("dev", DeviceStatus::Enabled, None, None).unwrap();
    let mut third = attach(&mut client.session, "third", "/devices/dev/messages/events").await;
    assert!(matches!(send(&mut third, message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
}

#[tokio::test]
async fn many_devices_share_one_session_or_have_one_each() {
    let rig = Rig::start().await;
    let ids: Vec<String> = (0..60).map(|number| format!("dev-{number}")).collect();
    for id in &ids {
        rig.device(id);
    }
    // One policy token speaks for all.
    let mut client = rig.client().await;
    assert_eq!(client.cbs.put(&rig.policy_token("device", 60)).await.0, 200);
    let mut sessions = Vec::new();
    let mut senders = Vec::new();
    for (number, id) in ids.iter().enumerate() {
        if number % 2 == 0 {
            senders.push(client.telemetry(id).await);
        } else {
            let mut session = within(Session::begin(&mut client.connection)).await.unwrap();
            senders.push(telemetry(&mut session, id).await);
            sessions.push(session);
        }
    }
    for round in 0..3 {
        for sender in &mut senders {
            let outcome = send(sender, message(data(round.to_string()))).await.unwrap();
            assert!(matches!(outcome, Outcome::Accepted(_)));
        }
    }
    for id in &ids {
        let bodies: Vec<_> = rig.events_of(id).into_iter().map(|event| event.body).collect();
        assert_eq!(bodies, ["0", "1", "2"], "{id}");
        assert!(rig.events_of(id)[0].auth_method.contains(r#""scope":"hub""#));
    }
}

#[tokio::test]
async fn a_device_is_free_again_once_its_last_link_is_closed() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let first = client.telemetry("dev").await;
    let second = attach(&mut client.session, "second", "/devices/dev/messages/events").await;
    within(first.close()).await.unwrap();
    assert!(rig.hub.is_connected("dev"));
    within(second.close()).await.unwrap();
    within(async {
        while rig.hub.is_connected("dev") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
