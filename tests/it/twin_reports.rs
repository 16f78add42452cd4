//! Reported properties: coalesced per device, paced per hub, tried again after failures.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tti_connector::azure::{Credential, HubAddress, HubDevice, SigningKey};
use tti_connector::iot_hub::{RetryReason, SendError, Trouble};
use tti_connector::model::ParkReason;
use tti_connector::uplink::{TwinReports, Twins};

const INTERVAL: Duration = Duration::from_secs(300);

/// Writes down every patch with its time and answers as told.
#[derive(Clone)]
struct Hub {
    seen: Arc<Mutex<Vec<(Duration, String, Value)>>>,
    failures: Arc<Mutex<Vec<SendError>>>,
    count: watch::Sender<usize>,
    began: Instant,
}

impl Hub {
    fn new() -> Self {
        Self {
            seen: Arc::default(),
            failures: Arc::default(),
            count: watch::channel(0).0,
            began: Instant::now(),
        }
    }

    async fn after(&self, count: usize) -> Vec<(u64, String, Value)> {
        self.count.subscribe().wait_for(|now| *now >= count).await.expect("the hub lives");
        self.so_far()
    }

    fn so_far(&self) -> Vec<(u64, String, Value)> {
        let seen = self.seen.lock().expect("no panic");
        seen.iter()
            .map(|(at, device, patch)| (at.as_millis() as u64, device.clone(), patch.clone()))
            .collect()
    }
}

impl Twins for Hub {
    async fn report(&self, device: &Arc<HubDevice>, patch: &Map<String, Value>) -> Result<u64, SendError> {
        let entry = (self.began.elapsed(), device.device_id.to_string(), Value::from(patch.clone()));
        self.seen.lock().expect("no panic").push(entry);
        let failure = self.failures.lock().expect("no panic").pop();
        self.count.send_modify(|count| *count += 1);
        failure.map_or(Ok(1), Err)
    }
}

fn device(id: &str) -> Arc<HubDevice> {
    Arc::new(HubDevice {
        hub: HubAddress { host: "hub".into(), port: 5671 },
        device_id: id.into(),
        credential: Credential::Device { key: SigningKey::from_bytes(b"key") },
        model_id: None,
        provisioned: true,
    })
}

fn body(decoded: Value) -> Bytes {
    json!({"uplink_message": {"f_port": 1, "decoded_payload": decoded}}).to_string().into()
}

fn start(max_rate: u32) -> (Hub, TwinReports<Hub>, tokio_util::sync::DropGuard) {
    let hub = Hub::new();
    let reports = TwinReports::new(hub.clone(), INTERVAL, max_rate);
    let stop = CancellationToken::new();
    tokio::spawn(reports.clone().run(stop.clone()));
    (hub, reports, stop.drop_guard())
}

#[tokio::test(start_paused = true)]
async fn a_device_reports_at_once_then_the_last_of_each_interval() {
    let (hub, reports, _stop) = start(10);
    let device = device("a");
    reports.note(&device, &body(json!({"t": 1, "old": true})), 0);
    hub.after(1).await;
    for t in 2..=5 {
        reports.note(&device, &body(json!({ "t": t })), 0);
    }
    let seen = hub.after(2).await;
    assert_eq!((seen[0].0, &seen[0].2["decodedPayload"]), (0, &json!({"t": 1, "old": true})));
    // What is gone is removed from the twin.
    assert_eq!((seen[1].0, &seen[1].2["decodedPayload"]), (300_000, &json!({"t": 5, "old": null})));
    tokio::time::sleep(INTERVAL * 3).await;
    assert_eq!(hub.so_far().len(), 2, "nothing new, nothing reported");
}

#[tokio::test(start_paused = true)]
async fn a_hub_gets_no_more_than_its_rate() {
    let (hub, reports, _stop) = start(10);
    for index in 0..50 {
        reports.note(&device(&format!("d{index}")), &body(json!({"t": index})), 0);
    }
    let seen = hub.after(50).await;
    for (index, (at, ..)) in seen.iter().enumerate() {
        assert!(*at >= index as u64 * 100, "report {index} at {at} ms");
    }
    assert!(seen[49].0 <= 5_100, "{}", seen[49].0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_report_is_tried_again_and_a_newer_one_takes_its_place() {
    let (hub, reports, _stop) = start(10);
    let busy = SendError::Retry {
        reason: RetryReason::Throttled,
        detail: "429".to_owned(),
        after: Some(Duration::from_secs(90)),
        trouble: Trouble::Device,
    };
    *hub.failures.lock().expect("no panic") = vec![busy.clone(), busy];
    let device = device("a");
    reports.note(&device, &body(json!({"t": 1})), 0);
    hub.after(2).await;
    reports.note(&device, &body(json!({"t": 2})), 0);
    let seen = hub.after(3).await;
    let times: Vec<_> =
        seen.iter().map(|(at, _, patch)| (*at, patch["decodedPayload"]["t"].clone())).collect();
    assert_eq!(times, [(0, json!(1)), (90_000, json!(1)), (180_000, json!(2))]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_report_is_dropped_and_the_next_uplink_tries_anew() {
    let (hub, reports, _stop) = start(10);
    let refused = SendError::Park { reason: ParkReason::Rejected, detail: "400".to_owned() };
    hub.failures.lock().expect("no panic").push(refused);
    let device = device("a");
    reports.note(&device, &body(json!({"t": 1})), 0);
    hub.after(1).await;
    tokio::time::sleep(INTERVAL * 2).await;
    assert_eq!(hub.so_far().len(), 1);
    reports.note(&device, &body(json!({"t": 2})), 0);
    assert_eq!(hub.after(2).await[1].2["decodedPayload"], json!({"t": 2}));
}
