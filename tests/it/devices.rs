//! Who an end device is at Azure when no DPS is asked: routes, hub ids, ownership, restart.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod ownership;
mod routes;
pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use tti_connector::azure::Credential;
use tti_connector::model::ParkReason;
use world::{KEY, World, device, parked, place, retried};

const DEV_EUI: Option<&str> = Some("70b3d57ed0000001");

#[tokio::test]
async fn a_policy_serves_every_device_and_answers_from_memory_then() {
    let mut world = World::with_hub();
    world.azure.model_id = Some("dtmi:com:example:Sensor;1".to_owned());
    let directory = world.directory().await;
    let one = device("app", "Dev-1");
    assert_eq!(directory.cached(&one, None), Ok(None));
    let resolved = directory.resolve(&one, None).await.unwrap();
    assert_eq!(place(&resolved), "hub-1.azure-devices.net:5671/Dev-1");
    assert!(matches!(&resolved.credential, Credential::Policy { name, .. } if &**name == "device"));
    assert_eq!(resolved.model_id.as_deref(), Some("dtmi:com:example:Sensor;1"));
    assert!(!resolved.provisioned);
    let cached = directory.cached(&one, None).unwrap().expect("cached");
    assert!(Arc::ptr_eq(&cached, &resolved), "no copy for each message");
    assert_eq!(directory.len(), 1);
}

#[tokio::test]
async fn a_devices_own_connection_string_serves_that_device_only() {
    let mut world = World::new();
    let text = format!("HostName=localhost:5672;DeviceId=dev-1;SharedAccessKey={KEY}");
    world.azure.iot_hub.connection_string = Some(tti_connector::model::Secret::new(text));
    let directory = world.directory().await;
    let resolved = directory.resolve(&device("app", "dev-1"), None).await.unwrap();
    assert_eq!(place(&resolved), "localhost:5672/dev-1");
    assert!(matches!(resolved.credential, Credential::Device { .. }));
    let (reason, detail) = parked(directory.resolve(&device("app", "dev-2"), None).await);
    assert_eq!(reason, ParkReason::NotConfigured);
    assert!(detail.contains("dev-1 alone"), "{detail}");
}

#[tokio::test]
async fn an_application_without_hub_and_dps_is_parked_with_the_keys_to_set() {
    let mut world = World::new();
    let own =
        tti_connector::config::Application { iot_hub: World::with_hub().azure.iot_hub, ..Default::default() };
    world.azure.applications.insert("served".to_owned(), own);
    let directory = world.directory().await;
    assert!(directory.resolve(&device("served", "dev"), None).await.is_ok());
    let (reason, detail) = parked(directory.resolve(&device("other", "dev"), None).await);
    assert_eq!(reason, ParkReason::NotConfigured);
    assert!(detail.contains("azure.applications.other"), "{detail}");
}

#[tokio::test]
async fn the_hub_id_follows_the_template() {
    let mut world = World::with_hub();
    for (rule, id) in [
        ("device_id", "dev"),
        ("dev_eui", "70B3D57ED0000001"),
        ("{application_id}-{device_id}", "app-dev"),
        ("{tenant}:{dev_eui}", "t:70B3D57ED0000001"),
    ] {
        world.hub_id = rule.to_owned();
        let resolved = world.directory().await.resolve(&device("app", "dev"), DEV_EUI).await.unwrap();
        assert_eq!(&*resolved.device_id, id, "{rule}");
    }
}

#[tokio::test]
async fn ids_that_iot_hub_can_not_take_are_parked() {
    let directory = World::with_hub().directory().await;
    for (id, piece) in [("dé", "'é'"), ("a/b", "'/'"), ("a b", "' '"), (&"x".repeat(129), "129 characters")]
    {
        let (reason, detail) = parked(directory.resolve(&device("app", id), None).await);
        assert_eq!(reason, ParkReason::InvalidHubId);
        assert!(detail.contains(piece) && detail.contains("devices.hub_id"), "{detail}");
    }
}

#[tokio::test]
async fn a_missing_dev_eui_parks_the_message_and_not_the_device() {
    let mut world = World::with_hub();
    world.hub_id = "dev_eui".to_owned();
    let directory = world.directory().await;
    let one = device("app", "dev");
    let (reason, detail) = parked(directory.resolve(&one, None).await);
    assert_eq!(reason, ParkReason::InvalidHubId);
    assert!(detail.contains("no DevEUI"), "{detail}");
    let resolved = directory.resolve(&one, DEV_EUI).await.unwrap();
    let simulated = directory.cached(&one, None).unwrap().expect("the device is known by now");
    assert!(Arc::ptr_eq(&resolved, &simulated));
}

#[tokio::test]
async fn a_replaced_device_with_another_dev_eui_is_another_hub_device() {
    let mut world = World::with_hub();
    world.hub_id = "dev_eui".to_owned();
    let directory = world.directory().await;
    let one = device("app", "dev");
    let other = Some("70B3D57ED0000002");
    assert!(directory.resolve(&one, DEV_EUI).await.is_ok());
    assert!(directory.cached(&one, Some("70B3D57ED0000001")).unwrap().is_some(), "case does not matter");
    assert_eq!(directory.cached(&one, other), Ok(None));
    world.pass(Duration::from_secs(1));
    assert_eq!(&*directory.resolve(&one, other).await.unwrap().device_id, "70B3D57ED0000002");
    assert!(!world.store.dump().contains("70B3D57ED0000001"), "{}", world.store.dump());
    let restarted = world.directory().await;
    assert!(restarted.cached(&one, other).unwrap().is_some(), "the last one holds after a restart");
    for directory in [directory, restarted] {
        let (reason, _) = parked(directory.resolve(&device("app", "new"), other).await);
        assert_eq!(reason, ParkReason::HubIdTaken);
        assert!(directory.resolve(&device("app", "new"), DEV_EUI).await.is_ok(), "the old one is free");
    }
}

#[tokio::test]
async fn a_device_that_the_hub_refuses_is_parked_for_a_while_without_dps() {
    let world = World::with_hub();
    let directory = world.directory().await;
    let one = device("app", "dev");
    let seen = directory.resolve(&one, None).await.unwrap();
    directory.lost(&one, &seen, ParkReason::DeviceUnknown);
    for _ in 0..2 {
        let (reason, detail) = parked(directory.cached(&one, None));
        assert_eq!(reason, ParkReason::DeviceUnknown);
        assert!(detail.contains("hub-1.azure-devices.net") && detail.contains("dev"), "{detail}");
        assert_eq!(parked(directory.resolve(&one, None).await).0, ParkReason::DeviceUnknown);
    }
    world.pass(Duration::from_secs(30));
    let again = directory.resolve(&one, None).await.unwrap();
    directory.lost(&one, &seen, ParkReason::DeviceUnknown);
    assert!(directory.cached(&one, None).unwrap().is_some(), "a late word about the old one changes nothing");
    directory.lost(&one, &again, ParkReason::DeviceUnknown);
    assert_eq!(parked(directory.cached(&one, None)).0, ParkReason::DeviceUnknown);
}

#[tokio::test]
async fn a_device_whose_token_is_refused_is_parked_only_after_half_a_minute_of_tries() {
    let world = World::with_hub();
    let directory = world.directory().await;
    let one = device("app", "dev");
    for wait in [1, 2, 4, 8, 8, 8].map(Duration::from_secs) {
        let seen = directory.resolve(&one, None).await.unwrap();
        directory.lost(&one, &seen, ParkReason::Unauthorized);
        assert_eq!(retried(directory.cached(&one, None)).1, Some(wait));
        world.pass(wait);
    }
    let seen = directory.resolve(&one, None).await.unwrap();
    directory.lost(&one, &seen, ParkReason::Unauthorized);
    let (reason, detail) = parked(directory.cached(&one, None));
    assert!(reason == ParkReason::Unauthorized && detail.contains("look at the device's keys"), "{detail}");
}

#[tokio::test]
async fn nothing_is_given_out_before_the_claim_is_on_disk() {
    let world = World::with_hub();
    let directory = world.directory().await;
    let one = device("app", "dev");
    world.store.break_down(true);
    let (detail, _) = retried(directory.resolve(&one, None).await);
    assert!(detail.contains("can't be stored: disk full"), "{detail}");
    assert_eq!(directory.cached(&one, None), Ok(None));
    world.store.break_down(false);
    assert!(directory.resolve(&one, None).await.is_ok());
    assert!(world.store.dump().contains("hub/hub-1.azure-devices.net:5671/dev"));
}

#[tokio::test]
async fn records_that_can_not_be_read_or_no_longer_fit_are_passed_over() {
    let mut world = World::with_hub();
    world.store.insert("hub/x", "{\"owner\":7}");
    world.store.insert("hub/y", "garbage");
    world.directory().await.resolve(&device("app", "dev"), None).await.unwrap();
    assert_eq!(world.directory().await.len(), 1);
    world.hub_id = "{application_id}-{device_id}".to_owned();
    assert_eq!(world.directory().await.len(), 0, "under the new rule it is another hub device");
    world.hub_id = "device_id".to_owned();
    world.azure.iot_hub.connection_string = Some(world::policy("hub-2.azure-devices.net"));
    assert_eq!(world.directory().await.len(), 0, "and at the new hub too");
}

#[tokio::test]
async fn known_devices_are_told_also_after_a_restart_and_past_their_confirmation() {
    let world = World::with_hub();
    let directory = world.directory().await;
    for id in ["one", "two"] {
        directory.resolve(&device("app", id), None).await.unwrap();
    }
    let names = |directory: &tti_connector::devices::Directory| {
        let mut names: Vec<_> =
            directory.known().iter().map(|(end, hub)| format!("{end} {}", hub.device_id)).collect();
        names.sort();
        names
    };
    let expected = ["t/app/one one", "t/app/two two"];
    assert_eq!(names(&directory), expected);
    world.pass(Duration::from_secs(8 * 24 * 3600));
    assert_eq!(names(&world.directory().await), expected);
    let (lost, seen) = directory.known().swap_remove(0);
    directory.lost(&lost, &seen, ParkReason::DeviceUnknown);
    assert_eq!(directory.known().len(), 1);
}
