//! End devices that DPS assigns, over real HTTPS against a DPS that a test scripts.

#![cfg(feature = "emulator")] // for its certificate maker
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod answers;
mod holding_back;
mod lost;
mod server;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use server::{Reply, Request, Server};
use tti_connector::azure::Credential;
use tti_connector::devices::Directory;
use tti_connector::model::{EndDevice, ParkReason, Secret};

use crate::devices::world::{GROUP_KEY, START_MS, World, device, parked, place, retried, trusting};

const SCOPE: &str = "0ne00ABC";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn answer(status: u16, body: impl Into<String>) -> Reply {
    Reply::Answer(status, None, body.into())
}

fn assigning() -> Reply {
    answer(202, r#"{"operationId":"4.op-1","status":"assigning"}"#)
}

fn assigned(hub: &str, device_id: &str) -> Reply {
    let state = format!(r#"{{"assignedHub":"{hub}","deviceId":"{device_id}","status":"assigned"}}"#);
    answer(200, format!(r#"{{"operationId":"4.op-1","status":"assigned","registrationState":{state}}}"#))
}

/// A DPS as it should be: checks the token, works for one poll, then assigns to `hub`.
fn working(hub: &str) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let hub = hub.to_owned();
    move |request| {
        if !request.is_signed(SCOPE, GROUP_KEY, u64::try_from(START_MS / 1000).unwrap()) {
            return answer(401, r#"{"errorCode":401002,"trackingId":"t-1","message":"Unauthorized"}"#);
        }
        match request.method.as_str() {
            "PUT" => assigning(),
            _ => assigned(&hub, request.registration_id()),
        }
    }
}

/// As [`working`], but does not look at the token, for tests in which time passes.
fn trusting_dps(hub: &str) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let hub = hub.to_owned();
    move |request| assigned(&hub, request.registration_id())
}

fn world_of(server: &Server) -> World {
    let mut world = World::new();
    world.azure.dps.id_scope = Some(SCOPE.to_owned());
    world.azure.dps.group_enrollment_key = Some(Secret::new(GROUP_KEY));
    world.azure.dps.endpoint = Some(format!("https://localhost:{}", server.port));
    world.tls = trusting(server.roots.clone());
    world
}

#[tokio::test]
async fn a_new_device_is_registered_and_polled_with_signed_requests() {
    let server = Server::start(working("hub-7.azure-devices.net")).await;
    let mut world = world_of(&server);
    world.azure.model_id = Some("dtmi:com:example:Sensor;1".to_owned());
    let resolved = world.directory().await.resolve(&device("app", "Dev-1"), None).await.unwrap();

    assert_eq!(place(&resolved), "hub-7.azure-devices.net:5671/dev-1");
    assert!(resolved.provisioned);
    assert_eq!(resolved.model_id.as_deref(), Some("dtmi:com:example:Sensor;1"));
    let Credential::Device { key } = &resolved.credential else { panic!("no device key") };
    // HMAC-SHA256 of `dev-1` under the group's key, computed elsewhere.
    assert_eq!(STANDARD.encode(key.as_bytes()), "kZsWHOAqqqu9cTTJKKrNAB++I94fwevIROnOt1yLRv8=");

    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].target, "/0ne00ABC/registrations/dev-1/register?api-version=2021-06-01");
    assert_eq!(requests[0].header("content-type"), Some("application/json; charset=utf-8"));
    let body: serde_json::Value = serde_json::from_str(&requests[0].body).unwrap();
    let expected = r#"{"registrationId":"dev-1","payload":{"modelId":"dtmi:com:example:Sensor;1"}}"#;
    assert_eq!(body, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    assert_eq!(requests[1].method, "GET");
    assert_eq!(requests[1].target, "/0ne00ABC/registrations/dev-1/operations/4.op-1?api-version=2021-06-01");
}

#[tokio::test]
async fn polls_no_sooner_than_dps_asks() {
    let server = Server::start(|request: &Request| match request.method.as_str() {
        "PUT" => {
            Reply::Answer(202, Some("1".to_owned()), r#"{"operationId":"o","status":"assigning"}"#.to_owned())
        }
        _ => assigned("h", "dev"),
    })
    .await;
    let directory = world_of(&server).directory().await;
    let start = Instant::now();
    directory.resolve(&device("app", "dev"), None).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_assigned_hub_may_carry_a_port_also_over_a_restart() {
    let server = Server::start(trusting_dps("LOCALHOST:5699")).await;
    let world = world_of(&server);
    let one = device("app", "dev");
    let resolved = world.directory().await.resolve(&one, None).await.unwrap();
    let restored = world.directory().await.cached(&one, None).unwrap().expect("stored");
    assert_eq!(place(&resolved), "LOCALHOST:5699/dev");
    assert_eq!(restored, resolved);
}

#[tokio::test]
async fn fifty_callers_cost_one_registration() {
    let server = Server::start(working("h")).await;
    let directory = world_of(&server).directory().await;
    let one = device("app", "dev");
    let callers = (0..50).map(|_| directory.resolve(&one, None));
    let resolved = futures_util::future::join_all(callers).await;
    let first = resolved[0].clone().unwrap();
    assert!(resolved.iter().all(|other| Arc::ptr_eq(other.as_ref().unwrap(), &first)));
    assert_eq!(server.registrations(), 1);
}

#[tokio::test]
async fn when_the_caller_that_registers_goes_away_another_one_does_it() {
    let server = Server::start(|_: &Request| Reply::Hang).await;
    let directory = world_of(&server).directory().await;
    let spawn = |directory: Directory| {
        tokio::spawn(async move { directory.resolve(&device("app", "dev"), None).await })
    };
    let first = spawn(directory.clone());
    until(|| server.registrations() == 1).await;
    let second = spawn(directory);
    server.script(working("h"));
    first.abort();
    assert_eq!(place(&second.await.unwrap().unwrap()), "h:5671/dev");
}

#[tokio::test]
async fn a_restart_asks_dps_for_no_known_device_and_stores_no_key() {
    let server = Server::start(working("hub-1")).await;
    let world = world_of(&server);
    let devices: Vec<EndDevice> = (0..20).map(|n| device("app", &format!("dev-{n}"))).collect();
    let directory = world.directory().await;
    for one in &devices {
        directory.resolve(one, None).await.unwrap();
    }
    assert_eq!(server.registrations(), 20);
    let restarted = world.directory().await;
    for one in &devices {
        assert_eq!(restarted.resolve(one, None).await, directory.resolve(one, None).await);
    }
    assert_eq!(server.registrations(), 20);
    let stored = world.store.dump();
    assert_eq!(stored.lines().count(), 20);
    for one in &devices {
        let Credential::Device { key } = &directory.resolve(one, None).await.unwrap().credential.clone()
        else {
            panic!("no device key")
        };
        assert!(!stored.contains(&STANDARD.encode(key.as_bytes())));
    }
    assert!(!stored.contains(GROUP_KEY) && !stored.contains("SharedAccess"));
}

#[tokio::test]
async fn an_assignment_ends_after_its_time_and_not_all_at_once() {
    let server = Server::start(trusting_dps("hub-1")).await;
    let world = world_of(&server);
    let directory = world.directory().await;
    let devices: Vec<EndDevice> = (0..40).map(|n| device("app", &format!("dev-{n}"))).collect();
    for one in &devices {
        directory.resolve(one, None).await.unwrap();
    }
    server.script(trusting_dps("hub-2"));
    let known = |directory: &Directory| {
        devices.iter().filter(|one| directory.cached(one, None).unwrap().is_some()).count()
    };
    world.pass(DAY * 9 / 10 - Duration::from_secs(1));
    assert_eq!(known(&directory), 40);
    world.pass(DAY / 20);
    assert!((5..=35).contains(&known(&directory)), "{}", known(&directory));
    assert_eq!(known(&world.directory().await), known(&directory), "a restart changes nothing");
    world.pass(DAY / 20 + Duration::from_secs(1));
    assert_eq!(known(&directory), 0);
    assert_eq!(place(&directory.resolve(&devices[0], None).await.unwrap()), "hub-2:5671/dev-0");
    assert_eq!(server.registrations(), 41);
}

#[tokio::test]
async fn an_assignment_is_used_beyond_its_time_while_dps_is_down() {
    let server = Server::start(trusting_dps("hub-1")).await;
    let world = world_of(&server);
    let directory = world.directory().await;
    let one = device("app", "dev");
    let seen = directory.resolve(&one, None).await.unwrap();
    world.pass(DAY);
    server.script(|_: &Request| answer(503, ""));
    assert_eq!(directory.cached(&one, None), Ok(None));
    let still = directory.resolve(&one, None).await.unwrap();
    assert!(Arc::ptr_eq(&still, &seen));
    assert!(directory.cached(&one, None).unwrap().is_some());
    directory.lost(&one, &still, ParkReason::DeviceUnknown);
    retried(directory.resolve(&one, None).await);
}

#[tokio::test]
async fn registrations_have_no_case_and_belong_to_one_end_device() {
    let server = Server::start(working("h")).await;
    let directory = world_of(&server).directory().await;
    let (one, two) = (device("app-1", "Dev"), device("app-2", "dEV"));
    directory.resolve(&one, None).await.unwrap();
    let (reason, detail) = parked(directory.resolve(&two, None).await);
    assert_eq!(reason, ParkReason::HubIdTaken);
    assert!(detail.contains("t/app-1/Dev"), "{detail}");
    assert_eq!(server.registrations(), 1, "the second was not even asked for");
}

#[tokio::test]
async fn a_device_that_dps_does_not_want_leaves_its_id_to_others() {
    let server = Server::start(|_: &Request| answer(404, "")).await;
    let directory = world_of(&server).directory().await;
    parked(directory.resolve(&device("app-1", "dev"), None).await);
    server.script(working("h"));
    assert!(directory.resolve(&device("app-2", "dev"), None).await.is_ok());
}

#[tokio::test]
async fn two_registrations_that_dps_gives_one_hub_device_are_not_mixed() {
    let server = Server::start(|_: &Request| assigned("h", "shared")).await;
    let world = world_of(&server);
    let directory = world.directory().await;
    assert!(directory.resolve(&device("app", "one"), None).await.is_ok());
    for directory in [directory, world.directory().await] {
        let (reason, detail) = parked(directory.resolve(&device("app", "two"), None).await);
        assert_eq!(reason, ParkReason::HubIdTaken);
        assert!(detail.contains("hub device shared") && detail.contains("t/app/one"), "{detail}");
    }
}

#[tokio::test]
async fn the_same_device_with_and_without_its_tenant_is_registered_once() {
    let server = Server::start(working("h")).await;
    let world = world_of(&server);
    let of = |tenant: &str| EndDevice::new(tenant, "app", "dev").unwrap();
    let directory = world.directory().await;
    let bare = directory.resolve(&of(""), None).await.unwrap();
    let full = directory.resolve(&of("t1"), None).await.unwrap();
    assert!(Arc::ptr_eq(&bare, &full));
    let restarted = world.directory().await;
    assert!(restarted.resolve(&of(""), None).await.is_ok());
    assert!(restarted.resolve(&of("t1"), None).await.is_ok());
    assert_eq!(server.registrations(), 1);
    assert_eq!(parked(restarted.resolve(&of("t2"), None).await).0, ParkReason::HubIdTaken);
}

#[tokio::test]
async fn ids_that_dps_can_not_take_are_parked_without_asking() {
    let server = Server::start(working("h")).await;
    let directory = world_of(&server).directory().await;
    for id in ["dev.", "dev@home", "dé", &"x".repeat(129)] {
        let (reason, detail) = parked(directory.resolve(&device("app", id), None).await);
        assert_eq!(reason, ParkReason::InvalidHubId);
        assert!(detail.contains("registration id"), "{detail}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_dev_eui_becomes_a_lower_case_registration_id() {
    let server = Server::start(working("h")).await;
    let mut world = world_of(&server);
    world.hub_id = "dev_eui".to_owned();
    let one = device("app", "dev");
    let resolved = world.directory().await.resolve(&one, Some("70B3D57ED0000001")).await.unwrap();
    assert_eq!(place(&resolved), "h:5671/70b3d57ed0000001");
    assert!(world.directory().await.cached(&one, Some("70B3D57ED0000001")).unwrap().is_some());
}

#[tokio::test]
async fn no_more_registrations_at_once_than_configured() {
    let server = Server::start(working("h")).await;
    server.delay(Duration::from_millis(10));
    let mut world = world_of(&server);
    world.options.max_registrations = 3;
    let directory = world.directory().await;
    let devices: Vec<EndDevice> = (0..30).map(|n| device("app", &format!("dev-{n}"))).collect();
    let all = devices.iter().map(|one| directory.resolve(one, None));
    let resolved = futures_util::future::join_all(all).await;
    assert!(resolved.iter().all(Result::is_ok), "{resolved:?}");
    let ids: HashSet<_> = resolved.iter().flatten().map(|known| Arc::clone(&known.device_id)).collect();
    assert_eq!(ids.len(), 30);
    assert!((2..=3).contains(&server.most_under_way()), "{}", server.most_under_way());
}

#[tokio::test]
async fn dps_is_reached_through_the_configured_proxy() {
    let server = Server::start(working("h")).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let mut world = world_of(&server);
    world.azure.proxy = Some(format!("http://{}", listener.local_addr().unwrap()));
    let counted = Arc::clone(&tunnels);
    let proxy = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tunnel(client).await;
        }
    });
    let directory = world.directory().await;
    assert!(directory.resolve(&device("app", "dev"), None).await.is_ok());
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);
    drop(directory);
    proxy.abort();
}

/// Answers one CONNECT and carries bytes both ways until one side ends.
async fn tunnel(client: tokio::net::TcpStream) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        client.read_line(&mut head).await.unwrap();
    }
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap();
    let mut upstream = tokio::net::TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
}

/// Waits for a condition that another task brings about.
async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the condition never came true");
}
