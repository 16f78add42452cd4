//! One hub device belongs to one end device.

use std::time::Duration;

use tti_connector::model::{EndDevice, ParkReason};

use super::world::{World, device, parked};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn two_end_devices_never_share_a_hub_device_also_after_a_restart() {
    let mut world = World::with_hub();
    let (one, two) = (device("app-1", "dev"), device("app-2", "dev"));
    let directory = world.directory().await;
    assert!(directory.resolve(&one, None).await.is_ok());
    for directory in [directory, world.directory().await] {
        let (reason, detail) = parked(directory.resolve(&two, None).await);
        assert_eq!(reason, ParkReason::HubIdTaken);
        for piece in ["t/app-1/dev", "devices.hub_id", "{application_id}-{device_id}"] {
            assert!(detail.contains(piece), "{detail}");
        }
        assert!(directory.resolve(&one, None).await.is_ok());
        assert!(directory.resolve(&device("app-2", "dev-2"), None).await.is_ok());
    }
    world.hub_id = "{application_id}-{device_id}".to_owned();
    let cured = world.directory().await;
    assert!(cured.resolve(&one, None).await.is_ok());
    assert!(cured.resolve(&two, None).await.is_ok());
}

#[tokio::test]
async fn hub_device_ids_have_case() {
    let directory = World::with_hub().directory().await;
    assert!(directory.resolve(&device("app-1", "dev"), None).await.is_ok());
    assert!(directory.resolve(&device("app-2", "Dev"), None).await.is_ok());
}

#[tokio::test]
async fn the_same_device_with_and_without_its_tenant_is_one() {
    let world = World::with_hub();
    let directory = world.directory().await;
    let of = |tenant: &str| EndDevice::new(tenant, "app", "dev").unwrap();
    assert!(directory.resolve(&of(""), None).await.is_ok());
    assert!(directory.resolve(&of("t1"), None).await.is_ok());
    assert!(directory.resolve(&of(""), None).await.is_ok());
    assert_eq!(parked(directory.resolve(&of("t2"), None).await).0, ParkReason::HubIdTaken);
    let restarted = world.directory().await;
    assert_eq!(parked(restarted.resolve(&of("t2"), None).await).0, ParkReason::HubIdTaken);
    assert!(restarted.resolve(&of("t1"), None).await.is_ok());
    assert!(restarted.resolve(&of(""), None).await.is_ok());
}

#[tokio::test]
async fn a_claim_that_its_owner_uses_holds_and_one_long_unused_may_be_taken_over() {
    let world = World::with_hub();
    let directory = world.directory().await;
    let (one, two) = (device("app-1", "dev"), device("app-2", "dev"));
    assert!(directory.resolve(&one, None).await.is_ok());
    for _ in 0..8 {
        world.pass(DAY * 10);
        assert!(directory.resolve(&one, None).await.is_ok(), "renewed, for its time was over");
        assert_eq!(parked(directory.resolve(&two, None).await).0, ParkReason::HubIdTaken);
    }
    world.pass(DAY * 31);
    assert!(directory.resolve(&two, None).await.is_ok());
    assert_eq!(parked(directory.resolve(&one, None).await).0, ParkReason::HubIdTaken);
    let restarted = world.directory().await;
    assert!(restarted.cached(&two, None).unwrap().is_some());
    assert_eq!(parked(restarted.resolve(&one, None).await).0, ParkReason::HubIdTaken);
}
