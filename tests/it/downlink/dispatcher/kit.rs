//! Everything around the dispatcher: a disk that outlives it, hubs, a directory, a connector that can crash.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tti_connector::azure::{
    CloudMessage, Credential, Desired, HubAddress, HubDevice, MethodReply, MethodRequest, Settlement,
    SigningKey,
};
use tti_connector::config::{self, CompleteOn};
use tti_connector::devices::ResolveError;
use tti_connector::downlink::ports::{Commands, Devices, Hubs, Observer, Outbox, Store, Unstored};
use tti_connector::downlink::translate::Rules;
use tti_connector::downlink::{CloudMessages, Dispatcher, EntryId, Ledger, Report, Roster, Source};
use tti_connector::iot_hub::{DeviceEvent, Links, SendError};
use tti_connector::model::{Clock, EndDevice, ParkReason};
use tti_connector::things_stack::{DownlinkEvent, DownlinkState, NamedDownlink};

use super::network::ThingsStack;

/// IoT Hub's lock.
pub(crate) const LOCK: Duration = Duration::from_secs(60);

pub(crate) fn end_device(id: &str) -> EndDevice {
    EndDevice::new("", "app", id).unwrap()
}

pub(crate) fn hub_device(id: &str) -> Arc<HubDevice> {
    hub_device_at("hub", id)
}

pub(crate) fn hub_device_at(host: &str, id: &str) -> Arc<HubDevice> {
    Arc::new(HubDevice {
        hub: HubAddress { host: host.into(), port: 5671 },
        device_id: id.into(),
        credential: Credential::Device { key: SigningKey::from_bytes(b"key") },
        model_id: None,
        provisioned: true,
    })
}

/// A message with this number, asking for a downlink on this port.
pub(crate) fn message(number: u64, port: &str) -> CloudMessage {
    CloudMessage {
        message_id: Some(format!("message-{number}")),
        sequence_number: Some(number),
        enqueued_ms: Some(1000),
        properties: vec![("Port".to_owned(), port.to_owned())],
        body: Bytes::from_static(b"AQI="),
        ..CloudMessage::default()
    }
}

/// Where the disk stops, as a crash or a failure does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Disk {
    #[default]
    Works,
    Fails,
    /// Only reports are not kept.
    FailsReports,
    /// Nothing is written, and nothing answered.
    HangsBefore,
    /// It is written, but nothing answered.
    HangsAfter,
}

/// Rows and reports. Survives a crash.
#[derive(Clone)]
pub(crate) struct Kept {
    rows: Arc<Mutex<BTreeMap<(String, String), Bytes>>>,
    reports: Arc<Mutex<Vec<Report>>>,
    disk: Arc<Mutex<Disk>>,
    writes: watch::Sender<usize>,
}

impl Kept {
    fn new() -> Self {
        Self {
            rows: Arc::default(),
            reports: Arc::default(),
            disk: Arc::default(),
            writes: watch::channel(0).0,
        }
    }

    pub(crate) fn set(&self, disk: Disk) {
        *self.disk.lock().unwrap() = disk;
    }

    pub(crate) async fn written(&self, times: usize) {
        self.writes.subscribe().wait_for(|writes| *writes >= times).await.unwrap();
    }

    pub(crate) fn writes(&self) -> usize {
        *self.writes.borrow()
    }

    async fn write(&self, write: impl FnOnce()) -> Result<(), Unstored> {
        let disk = *self.disk.lock().unwrap();
        if matches!(disk, Disk::Works | Disk::FailsReports | Disk::HangsAfter) {
            write();
        }
        self.writes.send_modify(|writes| *writes += 1);
        match disk {
            Disk::Works | Disk::FailsReports => Ok(()),
            Disk::Fails => Err(Unstored("as told".to_owned())),
            Disk::HangsBefore | Disk::HangsAfter => std::future::pending().await,
        }
    }

    pub(crate) fn reports(&self) -> Vec<Report> {
        self.reports.lock().unwrap().clone()
    }
}

impl Store for Kept {
    async fn put(&self, namespace: &'static str, key: &str, value: Vec<u8>, _: i64) -> Result<(), Unstored> {
        self.write(|| {
            self.rows.lock().unwrap().insert((namespace.to_owned(), key.to_owned()), value.into());
        })
        .await
    }

    async fn get(&self, namespace: &'static str, key: &str) -> Result<Option<Bytes>, Unstored> {
        Ok(self.rows.lock().unwrap().get(&(namespace.to_owned(), key.to_owned())).cloned())
    }

    async fn load(&self, namespace: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        let rows = self.rows.lock().unwrap();
        let of = rows.iter().filter(|((space, _), _)| space == namespace);
        Ok(of.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl Outbox for Kept {
    async fn post(&self, report: &Report) -> Result<(), Unstored> {
        if *self.disk.lock().unwrap() == Disk::FailsReports {
            return Err(Unstored("as told".to_owned()));
        }
        let same =
            |kept: &Report| (kept.id, kept.state, kept.f_cnt) == (report.id, report.state, report.f_cnt);
        self.write(|| {
            let mut reports = self.reports.lock().unwrap();
            if !reports.iter().any(same) {
                reports.push(report.clone());
            }
        })
        .await
    }
}

/// Answers in turn; the last one stays. By default the device is where it was.
pub(crate) type Resolutions = HashMap<EndDevice, VecDeque<Result<Arc<HubDevice>, ResolveError>>>;

type Known = Vec<(EndDevice, Arc<HubDevice>)>;

#[derive(Clone, Default)]
pub(crate) struct Directory {
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) resolutions: Arc<Mutex<Resolutions>>,
    pub(crate) lost: Arc<Mutex<Vec<EndDevice>>>,
    pub(crate) resolved: Arc<Mutex<Vec<EndDevice>>>,
}

impl Devices for Directory {
    fn known(&self) -> Vec<(EndDevice, Arc<HubDevice>)> {
        self.known.lock().unwrap().clone()
    }

    async fn resolve(&self, device: &EndDevice) -> Result<Arc<HubDevice>, ResolveError> {
        tokio::task::yield_now().await;
        self.resolved.lock().unwrap().push(device.clone());
        let mut resolutions = self.resolutions.lock().unwrap();
        let Some(answers) = resolutions.get_mut(device) else { return Ok(hub_device(device.device_id())) };
        let answer = answers.front().cloned().unwrap();
        if answers.len() > 1 {
            answers.pop_front();
        }
        answer
    }

    fn lost(&self, device: &EndDevice, _: &Arc<HubDevice>, _: ParkReason) {
        self.lost.lock().unwrap().push(device.clone());
    }
}

/// Writes down what it is told to keep open.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) wishes: watch::Sender<Vec<(Arc<HubDevice>, Links)>>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { wishes: watch::channel(Vec::new()).0 }
    }
}

impl Hubs for Hub {
    fn keep_open(&self, device: &Arc<HubDevice>, links: Links) {
        self.wishes.send_modify(|wishes| wishes.push((Arc::clone(device), links)));
    }

    async fn report(&self, _: &Arc<HubDevice>, _: &Map<String, Value>) -> Result<u64, SendError> {
        Ok(1)
    }
}

/// Counts as `kind:reason`.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, usize>>>);

impl Counts {
    fn count(&self, what: String) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }

    pub(crate) fn of(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }
}

impl Observer for Counts {
    fn queued(&self, source: Source, _: Duration) {
        self.count(format!("queued:{}", source.as_str()));
    }

    fn rejected(&self, _: Source, reason: &'static str) {
        self.count(format!("rejected:{reason}"));
    }

    fn abandoned(&self, reason: &'static str) {
        self.count(format!("abandoned:{reason}"));
    }

    fn retried(&self, reason: &'static str) {
        self.count(format!("retried:{reason}"));
    }

    fn answered(&self, status: i32) {
        self.count(format!("answered:{status}"));
    }
}

/// Methods and desired properties: written down; methods are held back while the gate is closed, and `panic` does.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) open: watch::Sender<bool>,
    pub(crate) begun: watch::Sender<Vec<String>>,
    pub(crate) ended: Arc<AtomicBool>,
}

impl Gate {
    fn new() -> Self {
        Self { open: watch::channel(true).0, begun: watch::channel(Vec::new()).0, ended: Arc::default() }
    }

    async fn pass(&self, what: String) {
        self.begun.send_modify(|begun| begun.push(what));
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.ended.store(true, Relaxed);
    }

    pub(crate) async fn begun(&self, times: usize) -> Vec<String> {
        self.begun.subscribe().wait_for(|begun| begun.len() >= times).await.unwrap().clone()
    }
}

impl Commands for Gate {
    async fn answer(&self, device: &EndDevice, _: &Arc<HubDevice>, request: MethodRequest) -> MethodReply {
        self.pass(format!("{} {}", device.device_id(), request.name)).await;
        assert_ne!(request.name, "panic", "as told");
        MethodReply { status: 200, payload: json!({}) }
    }

    fn desired(&self, device: &EndDevice, _: &Arc<HubDevice>, desired: Desired) {
        let what = format!("{} v{} {}", device.device_id(), desired.version, json!(desired.properties));
        self.begun.send_modify(|begun| begun.push(what));
    }
}

/// What outlives the connector, and how it is set up.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) kept: Kept,
    pub(crate) network: ThingsStack,
    pub(crate) directory: Directory,
    pub(crate) hub: Hub,
    pub(crate) counts: Counts,
    pub(crate) gate: Gate,
    pub(crate) complete_on: CompleteOn,
}

impl World {
    /// With the devices `d-0` to `d-9` known.
    pub(crate) fn new() -> Self {
        let directory = Directory::default();
        *directory.known.lock().unwrap() =
            (0..10).map(|n| (end_device(&format!("d-{n}")), hub_device(&format!("d-{n}")))).collect();
        Self {
            kept: Kept::new(),
            network: ThingsStack::new(),
            directory,
            hub: Hub::new(),
            counts: Counts::default(),
            gate: Gate::new(),
            complete_on: CompleteOn::Queued,
        }
    }

    pub(crate) fn roster(&self) -> Roster<Directory, ThingsStack, Hub> {
        let rules = Rules::new(&config::Downlink::default()).unwrap();
        Roster::new(self.directory.clone(), self.network.clone(), self.hub.clone(), Arc::new(rules))
    }

    pub(crate) async fn start(&self) -> Connector {
        let expiry = Duration::from_secs(24 * 3600);
        let clock = Clock::manual(1_000_000);
        let ledger = Ledger::load(self.kept.clone(), self.kept.clone(), expiry, clock).await.unwrap();
        let roster = self.roster();
        roster.start();
        let rules = Rules::new(&config::Downlink::default()).unwrap();
        let messages = CloudMessages {
            network: self.network.clone(),
            ledger: ledger.clone(),
            rules: Arc::new(rules),
            complete_on: self.complete_on,
            observer: self.counts.clone(),
        };
        let dispatcher = Dispatcher::new(roster, messages, self.gate.clone());
        let (events, received) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let task = tokio::spawn(dispatcher.run(received, stop.clone(), Duration::from_secs(10)));
        Connector { ledger, events, stop, task }
    }
}

/// One run of the connector.
pub(crate) struct Connector {
    pub(crate) ledger: Ledger<Kept, Kept>,
    pub(crate) events: mpsc::Sender<DeviceEvent>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) type Answer = oneshot::Receiver<Settlement>;

impl Connector {
    /// The hub hands a message out, with a full lock.
    pub(crate) async fn deliver(&self, device: &str, message: CloudMessage) -> Answer {
        let (settle, answer) = oneshot::channel();
        let locked_until = Instant::now() + LOCK;
        let event = DeviceEvent::CloudMessage { device: hub_device(device), message, locked_until, settle };
        self.events.send(event).await.unwrap();
        answer
    }

    pub(crate) async fn call(&self, device: &str, name: &str) -> oneshot::Receiver<MethodReply> {
        let (reply, answer) = oneshot::channel();
        let request = MethodRequest { id: "1".to_owned(), name: name.to_owned(), payload: Bytes::new() };
        let event = DeviceEvent::Method { device: hub_device(device), request, reply };
        self.events.send(event).await.unwrap();
        answer
    }

    pub(crate) async fn desire(&self, device: &str, desired: Desired) {
        let event = DeviceEvent::Desired { device: hub_device(device), desired };
        self.events.send(event).await.unwrap();
    }

    /// Everything in memory is gone at once.
    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// The webhook tells of the `n`th downlink that was queued.
    pub(crate) async fn event(&self, world: &World, n: usize, state: DownlinkState, error: Option<&str>) {
        let pushed = world.network.queued().swap_remove(n);
        self.event_of(&pushed.device, &pushed.correlation_ids, state, error).await;
    }

    pub(crate) async fn event_of(
        &self,
        device: &str,
        correlation_ids: &[String],
        state: DownlinkState,
        error: Option<&str>,
    ) {
        let named = NamedDownlink {
            correlation_ids: correlation_ids.to_vec(),
            f_port: 1,
            ..NamedDownlink::default()
        };
        let event = DownlinkEvent {
            state,
            downlinks: vec![named],
            error: error.map(str::to_owned),
            received_ms: None,
        };
        self.ledger.witness(&end_device(device), &event).await.unwrap();
    }
}

/// The entry that a message of a device has.
pub(crate) fn entry_of(device: &str, message: &CloudMessage) -> EntryId {
    EntryId::of(&[
        b"hub",
        device.as_bytes(),
        message.message_id.as_deref().unwrap().as_bytes(),
        &message.sequence_number.unwrap().to_le_bytes(),
        &message.enqueued_ms.unwrap().to_le_bytes(),
        b"",
    ])
}

/// What was answered, and after how many seconds.
pub(crate) async fn answered(answer: Answer) -> (Option<Settlement>, f64) {
    let began = Instant::now();
    let answer = answer.await.ok();
    (answer, began.elapsed().as_secs_f64())
}
