//! The roster: whose links are kept open, through moves, losses and keys learnt late.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tti_connector::azure::{Credential, HubDevice, SigningKey};
use tti_connector::config::{self, DownlinkApplication, DownlinkRoute};
use tti_connector::devices::ResolveError;
use tti_connector::downlink::Roster;
use tti_connector::downlink::translate::Rules;
use tti_connector::iot_hub::Links;
use tti_connector::model::{EndDevice, ParkReason};

use super::dispatcher::kit::{Directory, Hub, World, end_device, hub_device, hub_device_at};
use super::dispatcher::network::ThingsStack;

const ALL: Links = Links { c2d: true, methods: true, twin: true };

/// What the hubs were told, as `hub/device links`.
fn wishes(hub: &Hub) -> Vec<String> {
    let wishes = hub.wishes.borrow();
    wishes
        .iter()
        .map(|(device, links)| {
            let links = match *links {
                ALL => "all",
                Links::NONE => "none",
                _ => "some",
            };
            format!("{}/{} {links}", device.hub.host, device.device_id)
        })
        .collect()
}

async fn told(hub: &Hub, times: usize) -> Vec<String> {
    hub.wishes.subscribe().wait_for(|wishes| wishes.len() >= times).await.unwrap();
    wishes(hub)
}

fn known(world: &World, devices: &[(&str, &str)]) {
    *world.directory.known.lock().unwrap() = devices
        .iter()
        .map(|(application, device)| (EndDevice::new("", application, device).unwrap(), hub_device(device)))
        .collect();
}

type TestRoster = Roster<Directory, ThingsStack, Hub>;

/// With one device, and its searches running.
fn started(world: &World) -> (TestRoster, Arc<HubDevice>, CancellationToken) {
    known(world, &[("app", "d-1")]);
    let hub_device = Arc::clone(&world.directory.known.lock().unwrap()[0].1);
    let roster = world.roster();
    roster.start();
    let stop = CancellationToken::new();
    tokio::spawn(roster.clone().run(stop.clone()));
    (roster, hub_device, stop)
}

fn answers(world: &World, answers: impl IntoIterator<Item = Result<Arc<HubDevice>, ResolveError>>) {
    let answers = answers.into_iter().collect();
    world.directory.resolutions.lock().unwrap().insert(end_device("d-1"), answers);
}

fn retry(after: Option<u64>) -> Result<Arc<HubDevice>, ResolveError> {
    Err(ResolveError::Retry { detail: "as told".to_owned(), after: after.map(Duration::from_secs) })
}

fn parked() -> Result<Arc<HubDevice>, ResolveError> {
    Err(ResolveError::Park { reason: ParkReason::NotAssigned, detail: "as told".to_owned() })
}

#[tokio::test]
async fn at_the_start_known_devices_are_kept_open_where_there_are_a_key_and_a_route() {
    let world = World::new();
    known(
        &world,
        &[("app", "d-1"), ("app", "d-2"), ("keyless", "d-3"), ("routeless", "d-4"), ("c2d", "d-5")],
    );
    world.network.serve("routeless", true);
    world.network.serve("c2d", true);
    let mut downlink = config::Downlink::default();
    for (application, routes) in [("routeless", vec![]), ("c2d", vec![DownlinkRoute::C2d])] {
        let own = DownlinkApplication { routes: Some(routes), ..DownlinkApplication::default() };
        downlink.applications.insert(application.to_owned(), own);
    }
    let rules = Arc::new(Rules::new(&downlink).unwrap());
    let roster = Roster::new(world.directory.clone(), world.network.clone(), world.hub.clone(), rules);
    roster.start();
    assert_eq!(wishes(&world.hub), ["hub/d-1 all", "hub/d-2 all", "hub/d-5 some"]);
    assert_eq!(roster.len(), 3);
    assert_eq!(roster.end_device(&hub_device("d-2")), Some(end_device("d-2")));
    assert_eq!(roster.end_device(&hub_device("d-3")), None);
}

#[tokio::test]
async fn a_key_learnt_later_opens_its_applications_devices() {
    let world = World::new();
    known(&world, &[("app", "d-1"), ("keyless", "d-2"), ("other", "d-3")]);
    let roster = world.roster();
    roster.start();
    world.network.serve("keyless", true);
    roster.application_served("keyless");
    roster.application_served("keyless");
    assert_eq!(wishes(&world.hub), ["hub/d-1 all", "hub/d-2 all"]);
}

#[tokio::test]
async fn a_device_that_is_met_is_kept_open_once_and_at_its_new_hub_when_it_moved() {
    let world = World::new();
    known(&world, &[]);
    let roster = world.roster();
    let (device, first) = (end_device("d-1"), hub_device("d-1"));
    for _ in 0..3 {
        roster.meet(&device, &first);
    }
    assert_eq!(wishes(&world.hub), ["hub/d-1 all"]);

    // The same hub device under a new key: the wish is replaced, not ended.
    let rekeyed = HubDevice {
        credential: Credential::Device { key: SigningKey::from_bytes(b"other") },
        ..(*first).clone()
    };
    roster.meet(&device, &Arc::new(rekeyed));
    assert_eq!(wishes(&world.hub)[1..], ["hub/d-1 all"]);

    roster.meet(&device, &hub_device_at("other", "d-1"));
    assert_eq!(wishes(&world.hub)[2..], ["hub/d-1 none", "other/d-1 all"]);
    assert_eq!(roster.end_device(&first), None);
    assert_eq!(roster.end_device(&hub_device_at("other", "d-1")), Some(device));
    assert_eq!(roster.len(), 1);
}

#[tokio::test]
async fn a_device_met_without_its_tenant_keeps_the_name_with_it() {
    let world = World::new();
    known(&world, &[]);
    let roster = world.roster();
    let (bare, named) = (end_device("d-1"), EndDevice::new("eu1.example", "app", "d-1").unwrap());
    let hub_device = hub_device("d-1");
    roster.meet(&bare, &hub_device);
    assert_eq!(roster.end_device(&hub_device), Some(bare.clone()));
    for _ in 0..3 {
        roster.meet(&named, &hub_device);
        roster.meet(&bare, &hub_device);
        assert_eq!(roster.end_device(&hub_device), Some(named.clone()));
    }
    assert_eq!((roster.len(), wishes(&world.hub)), (1, vec!["hub/d-1 all".to_owned(); 2]));
}

#[tokio::test]
async fn a_hub_device_stands_for_one_end_device_only() {
    let world = World::new();
    known(&world, &[]);
    let roster = world.roster();
    roster.meet(&end_device("d-1"), &hub_device("shared"));
    roster.meet(&end_device("d-2"), &hub_device("shared"));
    assert_eq!(roster.end_device(&hub_device("shared")), Some(end_device("d-2")));
    assert_eq!(roster.len(), 1);
    // The first one moves on; what the second has is not touched.
    roster.meet(&end_device("d-1"), &hub_device("own"));
    assert_eq!(wishes(&world.hub), ["hub/shared all", "hub/shared all", "hub/own all"]);
    assert_eq!(roster.end_device(&hub_device("shared")), Some(end_device("d-2")));
}

#[tokio::test(start_paused = true)]
async fn a_lost_device_is_resolved_anew_with_growing_waits_until_it_is_found() {
    let world = World::new();
    let (roster, hub_device, _stop) = started(&world);
    answers(&world, [retry(None), retry(Some(60)), Ok(hub_device_at("other", "d-1"))]);
    let began = Instant::now();
    // An equal one that is another in memory is the same.
    roster.lost(&HubDevice::clone(&hub_device), ParkReason::DeviceUnknown, "as told");
    roster.lost(&hub_device, ParkReason::DeviceUnknown, "told twice");
    assert_eq!(told(&world.hub, 3).await, ["hub/d-1 all", "hub/d-1 none", "other/d-1 all"]);
    let took = began.elapsed().as_secs_f64();
    assert!((61.0..70.0).contains(&took), "{took}");
    assert_eq!(world.directory.lost.lock().unwrap().len(), 1);
    assert_eq!(world.directory.resolved.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_device_without_a_hub_is_given_up_until_it_is_met_again() {
    let world = World::new();
    let (roster, hub_device, _stop) = started(&world);
    answers(&world, std::iter::repeat_with(parked).take(50));
    roster.lost(&hub_device, ParkReason::DeviceUnknown, "as told");
    assert_eq!(told(&world.hub, 2).await[1], "hub/d-1 none");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let tries = world.directory.resolved.lock().unwrap().len();
    assert!((3..=7).contains(&tries), "{tries} in an hour");
    assert_eq!((roster.len(), roster.end_device(&hub_device)), (0, None));
    roster.meet(&end_device("d-1"), &hub_device_at("hub", "d-1"));
    assert_eq!(wishes(&world.hub)[2..], ["hub/d-1 all"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_given_up_is_tried_now_and_then_and_found_when_its_hub_takes_it_again() {
    let world = World::new();
    let (roster, hub_device, _stop) = started(&world);
    let again = hub_device_at("hub", "d-1");
    answers(&world, [parked(), Ok(Arc::clone(&again)), parked(), parked(), Ok(again)]);
    let began = Instant::now();
    roster.lost(&hub_device, ParkReason::Unauthorized, "disabled");
    assert_eq!(told(&world.hub, 3).await[1..], ["hub/d-1 none", "hub/d-1 all"]);
    // The hub still refuses it.
    roster.lost(&hub_device, ParkReason::Unauthorized, "disabled");
    assert_eq!(told(&world.hub, 5).await[3..], ["hub/d-1 none", "hub/d-1 all"]);
    let took = began.elapsed();
    assert!((Duration::from_secs(1800)..Duration::from_secs(3700)).contains(&took), "{took:?}");
    assert_eq!(roster.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_finds_a_lost_device_first_ends_its_search() {
    let world = World::new();
    let (roster, hub_device, _stop) = started(&world);
    answers(&world, [retry(None), parked()]);
    roster.lost(&hub_device, ParkReason::DeviceUnknown, "as told");
    // Still the one that the hub refused: nothing changed.
    roster.meet(&end_device("d-1"), &hub_device);
    assert_eq!(wishes(&world.hub).len(), 1);
    roster.meet(&end_device("d-1"), &hub_device_at("hub", "d-1"));
    assert_eq!(wishes(&world.hub)[1..], ["hub/d-1 all"]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.directory.resolved.lock().unwrap().len(), 0);
    assert_eq!(roster.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_comes_while_the_directory_is_asked_has_the_last_word() {
    for answer in [Ok(hub_device_at("stale", "d-1")), parked()] {
        let world = World::new();
        let (roster, hub_device, _stop) = started(&world);
        answers(&world, [answer]);
        world.directory.held.send_replace(true);
        roster.lost(&hub_device, ParkReason::DeviceUnknown, "as told");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.directory.resolved.lock().unwrap().len(), 1);
        roster.meet(&end_device("d-1"), &hub_device_at("other", "d-1"));
        world.directory.held.send_replace(false);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(wishes(&world.hub), ["hub/d-1 all", "hub/d-1 none", "other/d-1 all"]);
        assert_eq!(roster.end_device(&hub_device_at("other", "d-1")), Some(end_device("d-1")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_lost_devices_are_all_found_again() {
    let world = World::new();
    let names: Vec<String> = (0..1000).map(|n| format!("d-{n}")).collect();
    known(&world, &names.iter().map(|name| ("app", name.as_str())).collect::<Vec<_>>());
    let roster = world.roster();
    roster.start();
    tokio::spawn(roster.clone().run(CancellationToken::new()));
    for name in &names {
        roster.lost(&hub_device(name), ParkReason::Unauthorized, "as told");
    }
    told(&world.hub, 2000).await;
    assert_eq!(roster.len(), 1000);
}
