//! The pump between a real spool and hubs that fail as told: order, once each, nobody held up by another.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tti_connector::azure::{Credential, HubAddress, HubDevice, SigningKey, Telemetry};
use tti_connector::config::{self, TelemetryFormat};
use tti_connector::devices::ResolveError;
use tti_connector::iot_hub::{RetryReason, SendError, Trouble};
use tti_connector::model::{Backoff, Clock, EndDevice, ParkReason};
use tti_connector::spool::{Claim, NewRecord, Spool};
use tti_connector::uplink::ports::{Devices, Hubs, Observer};
use tti_connector::uplink::{Pump, PumpOptions};

use crate::messages::{DEADLINE, uplink};

/// Every device lives at one hub, those that lost it and "new-…" at another; resolving fails now and then if asked to.
#[derive(Default)]
struct Directory {
    unreliable: bool,
    moved: Mutex<HashSet<EndDevice>>,
}

fn hub_device(device: &EndDevice, host: &str) -> Arc<HubDevice> {
    Arc::new(HubDevice {
        hub: HubAddress { host: host.into(), port: 5671 },
        device_id: device.device_id().into(),
        credential: Credential::Device { key: SigningKey::from_bytes(b"key") },
        model_id: None,
        provisioned: true,
    })
}

impl Devices for Directory {
    fn cached(&self, device: &EndDevice) -> Option<Arc<HubDevice>> {
        let moved = self.moved.lock().expect("not poisoned").contains(device);
        let moved = moved || device.device_id().starts_with("new");
        Some(hub_device(device, if moved { "new-hub" } else { "hub" }))
    }

    async fn resolve(&self, device: &EndDevice, _: Option<&str>) -> Result<Arc<HubDevice>, ResolveError> {
        if self.unreliable && fastrand::u8(..10) == 0 {
            return Err(ResolveError::Retry { detail: "DPS is away".to_owned(), after: None });
        }
        Ok(self.cached(device).expect("it lives somewhere"))
    }

    fn lost(&self, device: &EndDevice, from: &Arc<HubDevice>, reason: ParkReason) {
        if reason == ParkReason::DeviceUnknown && &*from.hub.host == "hub" {
            self.moved.lock().expect("not poisoned").insert(device.clone());
        }
    }
}

/// What arrived, per device in order, and how many in all.
#[derive(Clone)]
struct Hub {
    arrived: Arc<Mutex<HashMap<String, Vec<u64>>>>,
    count: watch::Sender<usize>,
    answer: fn(&str) -> Answer,
    /// When each message arrived that the other hub took.
    at_new: Arc<Mutex<Vec<Instant>>>,
}

enum Answer {
    Accept,
    /// Takes the message at once, and says so after nearly a second.
    AcceptLate,
    Panic,
    Fail(SendError),
    Never,
}

impl Hub {
    fn new(answer: fn(&str) -> Answer) -> Self {
        Self { arrived: Arc::default(), count: watch::channel(0).0, answer, at_new: Arc::default() }
    }

    async fn received(&self, count: usize) {
        let mut changes = self.count.subscribe();
        let enough = changes.wait_for(|now| *now >= count);
        tokio::time::timeout(DEADLINE * 100, enough).await.expect("in time").expect("the hub lives");
    }

    fn arrived(&self, device: &str) -> Vec<u64> {
        self.arrived.lock().expect("not poisoned").get(device).cloned().unwrap_or_default()
    }
}

impl Hubs for Hub {
    async fn send(&self, device: &Arc<HubDevice>, message: &Telemetry) -> Result<(), SendError> {
        // Let others run between the call and its outcome, as a network does.
        tokio::task::yield_now().await;
        let answer = if &*device.hub.host == "new-hub" {
            self.at_new.lock().expect("not poisoned").push(Instant::now());
            Answer::Accept
        } else {
            (self.answer)(&device.device_id)
        };
        let late = matches!(answer, Answer::AcceptLate);
        match answer {
            Answer::Fail(error) => return Err(error),
            Answer::Never => std::future::pending::<()>().await,
            Answer::Panic => panic!("as told"),
            Answer::Accept | Answer::AcceptLate => {}
        }
        let body: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
        let counter = body["FrameCounter"].as_u64().expect("a counter");
        let keep = |arrived: &mut HashMap<String, Vec<u64>>| {
            arrived.entry(device.device_id.to_string()).or_default().push(counter);
        };
        keep(&mut self.arrived.lock().expect("not poisoned"));
        self.count.send_modify(|count| *count += 1);
        if late {
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        Ok(())
    }
}

struct Nobody;

impl Observer for Nobody {
    fn sent(&self, _: Duration) {}
    fn parked(&self, _: ParkReason) {}
    fn retried(&self, _: &'static str) {}
    fn skipped(&self) {}
}

struct Line {
    _dir: TempDir,
    spool: Spool,
    stop: CancellationToken,
    pump: JoinHandle<()>,
    /// Open, or the pump would see the hubs gone.
    _hub_up: broadcast::Sender<HubAddress>,
}

fn start(hub: &Hub, unreliable: bool) -> Line {
    start_on(open(), hub, unreliable, Duration::from_millis(100), None)
}

fn open() -> (TempDir, Spool, Claim) {
    let dir = TempDir::new().expect("a temporary folder");
    let settings = config::Spool { directory: dir.path().to_owned(), ..config::Spool::default() };
    let (spool, claim) = Spool::open(&settings, Clock::system()).expect("a spool");
    (dir, spool, claim)
}

fn start_on(
    (dir, spool, claim): (TempDir, Spool, Claim),
    hub: &Hub,
    unreliable: bool,
    retry_initial: Duration,
    rate: Option<f64>,
) -> Line {
    let (hub_up, ups) = broadcast::channel(8);
    let options = PumpOptions {
        backoff: Backoff { initial: retry_initial, max: retry_initial * 50 },
        max_in_flight: 8,
        rate,
        format: TelemetryFormat::Connector,
        clock: Clock::system(),
    };
    let pump = Pump::new(
        spool.clone(),
        Directory { unreliable, ..Directory::default() },
        hub.clone(),
        Nobody,
        (),
        ups,
        options,
    );
    let stop = CancellationToken::new();
    let pump = tokio::spawn(pump.run(claim, stop.clone(), Duration::from_secs(5)));
    Line { _dir: dir, spool, stop, pump, _hub_up: hub_up }
}

async fn append(spool: &Spool, device: &str, f_cnt: u32) {
    let end_device = EndDevice::new("", "app", device).expect("valid");
    let record = NewRecord {
        lane: end_device.key().into(),
        group: "app".into(),
        dedup: None,
        body: Bytes::from(uplink("app", device, f_cnt).to_string()),
        waiter: None,
    };
    spool.append(record).await.expect("kept");
}

impl Line {
    async fn append(&self, device: &str, f_cnt: u32) {
        append(&self.spool, device, f_cnt).await;
    }

    /// Stops the pump; gives how many records are still pending.
    async fn stop(self) -> u64 {
        self.stop.cancel();
        self.pump.await.expect("the pump ends");
        self.spool.flush().await.expect("flushed");
        let pending = self.spool.stats().pending;
        self.spool.close().await;
        pending
    }
}

fn retry(trouble: Trouble) -> Answer {
    let (reason, detail) = (RetryReason::Link, "as told".to_owned());
    Answer::Fail(SendError::Retry { reason, detail, after: None, trouble })
}

fn reresolve(reason: ParkReason) -> Answer {
    Answer::Fail(SendError::Reresolve { reason, detail: "as told".to_owned() })
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_for_a_while_each_message_arrives_once_and_in_its_devices_order() {
    let hub = Hub::new(|_| match fastrand::u8(..10) {
        0 => retry(Trouble::Device),
        1 => retry(Trouble::Hub(HubAddress { host: "hub".into(), port: 5671 })),
        // Asked anew, it lives where it did.
        2 => reresolve(ParkReason::Unauthorized),
        _ => Answer::Accept,
    });
    let line = start(&hub, true);
    for f_cnt in 1..=20 {
        for device in 0..20 {
            line.append(&format!("d-{device}"), f_cnt).await;
        }
    }
    hub.received(400).await;
    for device in 0..20 {
        assert_eq!(hub.arrived(&format!("d-{device}")), (1..=20).collect::<Vec<_>>());
    }
    assert_eq!(line.stop().await, 0);
}

#[tokio::test(start_paused = true)]
async fn devices_without_an_answer_or_in_retry_delay_no_other() {
    let hub = Hub::new(|device| match device {
        "stuck" => Answer::Never,
        "failing" => retry(Trouble::Device),
        _ => Answer::Accept,
    });
    let line = start(&hub, false);
    for f_cnt in 1..=50 {
        for device in ["stuck", "failing", "good-1", "good-2"] {
            line.append(device, f_cnt).await;
        }
    }
    hub.received(100).await;
    assert_eq!(hub.arrived("good-1"), (1..=50).collect::<Vec<_>>());
    assert_eq!(hub.arrived("stuck"), Vec::<u64>::new());
    // What has no answer yet is waited for, then kept; nothing of it is lost.
    assert_eq!(line.stop().await, 100);
}

#[tokio::test(start_paused = true)]
async fn what_the_hub_refuses_for_good_is_parked_and_the_next_goes_on() {
    let hub = Hub::new(|device| match device {
        "poisoned" => {
            Answer::Fail(SendError::Park { reason: ParkReason::Rejected, detail: "as told".to_owned() })
        }
        _ => Answer::Accept,
    });
    let line = start(&hub, false);
    for device in ["poisoned", "good", "poisoned", "good"] {
        line.append(device, 1).await;
    }
    hub.received(2).await;
    let mut parked = line.spool.stats().parked;
    while parked < 2 {
        line.spool.flush().await.expect("flushed");
        parked = line.spool.stats().parked;
    }
    assert_eq!(line.stop().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_carries_no_telemetry_leaves_the_spool() {
    let hub = Hub::new(|_| Answer::Accept);
    let line = start(&hub, false);
    let end_device = EndDevice::new("", "app", "d").expect("valid");
    let (tell, told) = tokio::sync::oneshot::channel();
    let record = NewRecord {
        lane: end_device.key().into(),
        group: "app".into(),
        dedup: None,
        body: Bytes::from_static(br#"{"end_device_ids":{"device_id":"d"},"join_accept":{}}"#),
        waiter: Some(tell),
    };
    line.spool.append(record).await.expect("kept");
    assert_eq!(told.await, Ok(tti_connector::model::Outcome::Skipped));
    assert_eq!(line.stop().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_panics_costs_one_try_and_no_place_at_the_hub() {
    static PANICS_LEFT: AtomicUsize = AtomicUsize::new(20);
    let hub = Hub::new(|_| {
        let left = PANICS_LEFT.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left.is_ok() { Answer::Panic } else { Answer::Accept }
    });
    let line = start(&hub, false);
    for f_cnt in 1..=2 {
        // More devices than may be under way at once.
        for device in 0..20 {
            line.append(&format!("d-{device}"), f_cnt).await;
        }
    }
    hub.received(40).await;
    for device in 0..20 {
        assert_eq!(hub.arrived(&format!("d-{device}")), [1, 2]);
    }
    assert_eq!(line.stop().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_a_backlog_leaves_nothing_that_the_hub_has_taken_to_be_sent_again() {
    const BACKLOG: u32 = 200;
    let hub = Hub::new(|_| Answer::AcceptLate);
    let parts = open();
    for f_cnt in 0..BACKLOG {
        append(&parts.1, &format!("d-{}", f_cnt % 20), f_cnt / 20).await;
    }
    let line = start_on(parts, &hub, false, Duration::from_millis(100), None);
    hub.received(8).await;
    let pending = line.stop().await;
    assert!(pending > 0, "the grace was too long to see anything");
    assert_eq!(*hub.count.borrow() as u64 + pending, u64::from(BACKLOG));
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_fail_all_the_time_do_not_keep_the_backlog_from_being_read() {
    // More than the spool hands over from memory: the last ones are read from disk.
    const BACKLOG: u32 = 9000;
    let hub = Hub::new(|device| if device == "good" { Answer::Accept } else { retry(Trouble::Device) });
    let parts = open();
    let appends = (0..BACKLOG).map(|f_cnt| (format!("failing-{}", f_cnt % 1000), f_cnt));
    let appends = appends.map(async |(device, f_cnt)| append(&parts.1, &device, f_cnt).await);
    futures_util::future::join_all(appends).await;
    append(&parts.1, "good", 1).await;
    let line = start_on(parts, &hub, false, Duration::from_micros(100), None);
    tokio::time::timeout(DEADLINE, hub.received(1)).await.expect("read in time");
    assert_eq!(line.stop().await, u64::from(BACKLOG));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_others_are_moved_to_gets_no_more_than_its_tier_allows() {
    const RATE: f64 = 20.0;
    let hub = Hub::new(|_| reresolve(ParkReason::DeviceUnknown));
    let line = start_on(open(), &hub, false, Duration::from_millis(100), Some(RATE));
    let began = Instant::now();
    for device in 0..100 {
        line.append(&format!("new-{device}"), 1).await;
        line.append(&format!("old-{device}"), 1).await;
    }
    hub.received(200).await;
    let arrived = std::mem::take(&mut *hub.at_new.lock().expect("not poisoned"));
    assert_eq!(arrived.len(), 200);
    for (index, at) in arrived.into_iter().enumerate() {
        // One second's worth may come at once.
        let allowed = RATE * ((at - began).as_secs_f64() + 1.0) + 1.0;
        assert!((index as f64) < allowed, "the {index}th after {:?}", at - began);
    }
    assert_eq!(line.stop().await, 0);
}
