//! Start, end and restart: ports, names, files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use tti_connector::emulator::{Emulator, EmulatorError};
use tti_connector::model::Clock;

use super::support::{NOW_MS, client, options, start, start_in};
use crate::ports::free_port;

#[tokio::test]
async fn ready_json_has_exactly_the_promised_fields_and_true_values() {
    let running = start(3).await;
    let ready = running.emulator.ready();
    ready.write(running.dir.path()).unwrap();
    let text = fs::read(running.dir.path().join("ready.json")).unwrap();
    let value: Value = serde_json::from_slice(&text).unwrap();
    let port = ready.hubs[0].amqp_port;
    let hubs: Vec<_> = running
        .emulator
        .hubs()
        .iter()
        .map(|hub| {
            let (host, key) = (hub.host(), hub.policy_key("iothubowner").unwrap());
            let shared = format!("SharedAccessKeyName=iothubowner;SharedAccessKey={key}");
            json!({
                "hostName": host,
                "amqpPort": port,
                "serviceConnectionString": format!("HostName={host};{shared}"),
                "eventHubConnectionString":
                    format!("Endpoint=sb://{host}:{port}/;{shared};EntityPath=iothub-ehub-emulator"),
                "eventHubName": "iothub-ehub-emulator",
            })
        })
        .collect();
    let dir = running.dir.path().canonicalize().unwrap();
    assert_eq!(
        value,
        json!({
            "hubs": hubs,
            "httpsPort": ready.https_port,
            "caFile": dir.join("ca.pem"),
            "idScope": running.emulator.dps().id_scope(),
            "groupEnrollmentKey": running.emulator.dps().group_key(),
            "dpsEndpoint": format!("localhost:{}", ready.https_port),
        })
    );
    let hosts: Vec<_> = running.emulator.hubs().iter().map(|hub| hub.host()).collect();
    assert_eq!(hosts, ["localhost", "127.0.0.2", "127.0.0.3"]);
    let with_webhook =
        tti_connector::emulator::Ready { webhook_url: Some("http://x".to_owned()), ..ready.clone() };
    assert_eq!(serde_json::to_value(with_webhook).unwrap()["webhookUrl"], "http://x");
    running.emulator.shutdown().await;
    assert!(!dir.join("ready.json").exists(), "it would promise a server that is gone");
}

#[tokio::test]
async fn every_hub_answers_under_its_own_name_with_the_same_certificate() {
    let running = start(5).await;
    for hub in 0..5 {
        assert_eq!(running.call(hub, Method::GET, "/nothing", &[], None).await.status(), 404);
    }
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_changes_it() {
    // At the first hub's address nobody may have it.
    let hubs = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    let taken = TcpListener::bind((hubs[1], free_port(&hubs.map(IpAddr::from)))).unwrap();
    let address = taken.local_addr().unwrap();
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW_MS));
    let mut tried = options(&dir, 2, &clock);
    tried.amqp_port = address.port();
    let text = Emulator::start(tried.clone()).await.unwrap_err().to_string();
    assert!(text.contains(&address.to_string()) && text.contains("--amqp-port"), "{text}");
    (tried.amqp_port, tried.https_port) = (0, address.port());
    let text = Emulator::start(tried).await.unwrap_err().to_string();
    assert!(text.contains(&address.to_string()) && text.contains("--https-port"), "{text}");
}

#[tokio::test]
async fn a_restart_keeps_trust_keys_devices_and_assignments_also_with_other_numbers_of_hubs() {
    let first = start(3).await;
    let device = first.emulator.hubs()[2].create_device("kept", None).unwrap();
    let ready = first.emulator.ready().clone();
    let (before, dir) = (first.client, first.dir);
    first.emulator.shutdown().await;

    let second = start_in(dir, 1).await;
    assert_eq!(second.emulator.ready().group_enrollment_key, ready.group_enrollment_key);
    let (emulator, dir) = (second.emulator, second.dir);
    emulator.shutdown().await;

    let mut third = start_in(dir, 4).await;
    let now = third.emulator.ready();
    assert_eq!((&now.id_scope, &now.group_enrollment_key), (&ready.id_scope, &ready.group_enrollment_key));
    for (now, then) in now.hubs.iter().zip(&ready.hubs) {
        assert_eq!(now.service_connection_string, then.service_connection_string);
    }
    assert_eq!(third.emulator.hubs()[2].device("kept"), Some(device));
    third.client = before;
    assert_eq!(third.call(3, Method::GET, "/x", &[], None).await.status(), 404, "the old trust holds");
}

#[tokio::test]
async fn changes_are_on_disk_without_a_shutdown() {
    let running = start(1).await;
    let file = running.dir.path().join("emulator.json");
    running.emulator.hubs()[0].create_device("soon-saved", None).unwrap();
    let saved = async {
        while !fs::read_to_string(&file).unwrap().contains("soon-saved") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), saved).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn files_with_keys_are_for_the_owner_alone_and_the_ca_key_is_not_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let running = start(1).await;
    running.emulator.ready().write(running.dir.path()).unwrap();
    let mut seen: Vec<_> = fs::read_dir(running.dir.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().into_string().unwrap(), mode)
        })
        .filter(|(name, _)| name != "emulator.lock")
        .collect();
    seen.sort();
    let wanted = [
        ("ca.pem", 0o644),
        ("emulator.json", 0o600),
        ("ready.json", 0o600),
        ("server-key.pem", 0o600),
        ("server.pem", 0o644),
    ];
    assert_eq!(seen, wanted.map(|(name, mode)| (name.to_owned(), mode)));
}

#[tokio::test]
async fn a_folder_in_use_a_damaged_state_and_a_wrong_number_of_hubs_are_errors_that_say_what_to_do() {
    let clock = Clock::manual(NOW_MS);
    let running = start(1).await;
    let again = Emulator::start(options(&running.dir, 1, &clock)).await.unwrap_err();
    assert!(matches!(again, EmulatorError::Locked(_)), "{again}");
    running.emulator.shutdown().await;
    fs::write(running.dir.path().join("emulator.json"), "{").unwrap();
    let damaged = Emulator::start(options(&running.dir, 1, &clock)).await.unwrap_err().to_string();
    assert!(damaged.contains("emulator.json") && damaged.contains("delete it"), "{damaged}");
    for hubs in [0, 17] {
        let wrong = Emulator::start(options(&running.dir, hubs, &clock)).await.unwrap_err();
        assert!(matches!(wrong, EmulatorError::Hubs(number) if number == hubs), "{wrong}");
    }
}

#[tokio::test]
async fn damaged_or_missing_certificates_are_made_anew() {
    let first = start(1).await;
    let dir = first.dir;
    first.emulator.shutdown().await;
    let old = fs::read(dir.path().join("ca.pem")).unwrap();
    fs::write(dir.path().join("server-key.pem"), "no key").unwrap();
    let second = start_in(dir, 1).await;
    assert_ne!(fs::read(Path::new(&second.emulator.ready().ca_file)).unwrap(), old);
    assert_eq!(second.call(0, Method::GET, "/x", &[], None).await.status(), 404);
}

#[tokio::test]
async fn shutdown_frees_the_ports_and_ends_open_connections() {
    let running = start(2).await;
    let ready = running.emulator.ready().clone();
    let client = client(&running.emulator);
    let url = format!("https://localhost:{}/x", ready.https_port);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 404);
    running.emulator.shutdown().await;
    client.get(&url).send().await.unwrap_err();
    let mut same = options(&running.dir, 2, &running.clock);
    (same.amqp_port, same.https_port) = (ready.hubs[0].amqp_port, ready.https_port);
    let again = Emulator::start(same).await.unwrap();
    assert_eq!(again.ready(), &ready);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 404);
}
