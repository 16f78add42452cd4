//! A hub that no longer takes a device: it may have moved, or DPS and hub disagree.

use std::sync::Arc;
use std::time::Duration;

use tti_connector::model::ParkReason;

use super::{DAY, Server, answer, device, parked, place, retried, trusting_dps, world_of};
use crate::devices::world::World;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_device_that_moved_is_found_at_its_new_hub() {
    let server = Server::start(trusting_dps("hub-1")).await;
    let world = world_of(&server);
    let directory = world.directory().await;
    let one = device("app", "dev");
    let seen = directory.resolve(&one, None).await.unwrap();
    world.pass(HOUR);
    server.script(trusting_dps("hub-2"));
    directory.lost(&one, &seen, ParkReason::DeviceUnknown);
    assert_eq!(directory.cached(&one, None), Ok(None));
    let moved = directory.resolve(&one, None).await.unwrap();
    assert_eq!(place(&moved), "hub-2:5671/dev");
    directory.lost(&one, &seen, ParkReason::DeviceUnknown);
    assert!(directory.cached(&one, None).unwrap().is_some(), "other messages of the old hub come late");
    assert_eq!(server.registrations(), 2);
    let restarted = world.directory().await.cached(&one, None).unwrap().expect("stored");
    assert_eq!(place(&restarted), "hub-2:5671/dev");
}

#[tokio::test]
async fn a_hub_that_refuses_what_dps_just_assigned_parks_the_device_after_two_tries() {
    let server = Server::start(trusting_dps("hub-1")).await;
    let world = world_of(&server);
    let directory = world.directory().await;
    let one = device("app", "dev");
    let first = directory.resolve(&one, None).await.unwrap();
    directory.lost(&one, &first, ParkReason::DeviceUnknown);
    let (_, after) = retried(directory.cached(&one, None));
    assert_eq!(after, Some(Duration::from_secs(5)), "the hub may only be slow to learn of it");
    retried(directory.resolve(&one, None).await);
    world.pass(Duration::from_secs(5));
    let second = directory.resolve(&one, None).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    directory.lost(&one, &second, ParkReason::DeviceUnknown);
    for _ in 0..5 {
        let (reason, detail) = parked(directory.resolve(&one, None).await);
        assert_eq!(reason, ParkReason::DeviceUnknown);
        assert!(detail.contains("although DPS assigned it there"), "{detail}");
    }
    assert_eq!(server.registrations(), 2);

    // From then on once in each `negative_ttl`, until it works for a while.
    world.pass(Duration::from_secs(30));
    let third = directory.resolve(&one, None).await.unwrap();
    directory.lost(&one, &third, ParkReason::DeviceUnknown);
    assert_eq!(parked(directory.resolve(&one, None).await).0, ParkReason::DeviceUnknown);
    world.pass(Duration::from_secs(30));
    let fourth = directory.resolve(&one, None).await.unwrap();
    world.pass(HOUR);
    directory.lost(&one, &fourth, ParkReason::DeviceUnknown);
    assert!(directory.resolve(&one, None).await.is_ok(), "asked anew at once");
    assert_eq!(server.registrations(), 5);
}

#[tokio::test]
async fn a_lost_device_that_dps_disowns_too_is_parked() {
    let server = Server::start(trusting_dps("hub-1")).await;
    let world: World = world_of(&server);
    let directory = world.directory().await;
    let one = device("app", "dev");
    let seen = directory.resolve(&one, None).await.unwrap();
    world.pass(DAY / 2);
    server.script(|_| answer(404, ""));
    directory.lost(&one, &seen, ParkReason::DeviceUnknown);
    assert_eq!(parked(directory.resolve(&one, None).await).0, ParkReason::NotAssigned);
    server.script(trusting_dps("hub-2"));
    world.pass(Duration::from_secs(30));
    assert_eq!(place(&directory.resolve(&one, None).await.unwrap()), "hub-2:5671/dev");
}

#[tokio::test]
async fn a_device_named_by_its_dev_eui_is_found_again_without_an_uplink() {
    let server = Server::start(trusting_dps("hub-1")).await;
    let mut world = world_of(&server);
    world.hub_id = "dev_eui".to_owned();
    let directory = world.directory().await;
    let one = device("app", "dev");
    let seen = directory.resolve(&one, Some("70B3D57ED0000001")).await.unwrap();
    world.pass(HOUR);
    server.script(trusting_dps("hub-2"));
    directory.lost(&one, &seen, ParkReason::DeviceUnknown);
    let moved = directory.resolve(&one, None).await.unwrap();
    assert_eq!(place(&moved), "hub-2:5671/70b3d57ed0000001");
}
