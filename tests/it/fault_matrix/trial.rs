//! One trial: a fault of one device while all four ways of all devices are in use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tti_connector::app::Connector;
use tti_connector::emulator::things_stack::Uplink;
use tti_connector::emulator::{Fault, FaultKind};

use super::WITHIN;
use super::paths::{self, Probes};
use crate::messages::DEADLINE;
use crate::way_back::kit::{Stage, config, name};
use crate::world::{Poster, World, frame_counter};

/// How often each device sends.
const EVERY: Duration = Duration::from_millis(250);
/// What others may need for their paths while a fault is none of theirs; much more than they do need, as machines are
/// slow at times, and much less than it takes to see a lost connection through.
const UNAFFECTED: Duration = Duration::from_secs(10);

/// What is tried.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kind: FaultKind,
    /// Each with two devices.
    pub(super) connections: usize,
    pub(super) delay: Duration,
    pub(super) duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) plan: Plan,
    /// From the fault's end until telemetry, message, method and twin of its device went through.
    pub(super) recovery: [Option<Duration>; 4],
    /// Uplinks of all devices.
    pub(super) messages: usize,
    /// Telemetry messages that came twice.
    pub(super) doubled: usize,
    wrong: Vec<String>,
}

impl Row {
    /// What must not be.
    pub(super) fn wrong(&self) -> Vec<String> {
        let Plan { kind, connections, .. } = &self.plan;
        self.wrong.iter().map(|what| format!("{kind}, {connections} connections: {what}")).collect()
    }
}

/// How far a fault reaches. The two devices of a connection share a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Device,
    Session,
    Connection,
}

fn reach(kind: FaultKind) -> Reach {
    let of_connection = [
        FaultKind::KillTcp,
        FaultKind::KillAmqpConnection,
        FaultKind::ShutDownAmqp,
        FaultKind::KillAmqpCbsLinkReq,
        FaultKind::KillAmqpCbsLinkResp,
    ];
    match kind {
        FaultKind::KillAmqpSession => Reach::Session,
        kind if of_connection.contains(&kind) => Reach::Connection,
        _ => Reach::Device,
    }
}

/// Telemetry whose outcome was under way when its link was cut may come twice, once per cut: not for these.
fn cuts_telemetry(kind: FaultKind) -> bool {
    reach(kind) != Reach::Device || [FaultKind::KillAmqpD2cLink, FaultKind::InvokeAuthError].contains(&kind)
}

/// A connector that puts two devices on a connection.
pub(super) async fn stage() -> Stage {
    let world = World::new(1).await;
    let mut config = config(&world);
    config.azure.max_devices_per_connection = 2;
    config.downlink.port = Some(3);
    let connector = Connector::start(config).await.expect("the connector starts");
    let stage = Stage { world, connector };
    stage.point_webhook();
    stage
}

/// Lets the fault happen and watches all paths.
pub(super) async fn trial(plan: &Plan) -> Row {
    let stage = Arc::new(stage().await);
    let devices: Vec<String> = (0..plan.connections * 2).map(|number| format!("dev-{number}")).collect();
    for device in &devices {
        stage.meet_anywhere(device).await;
        stage.until(|| stage.hub().takes_methods(device).then_some(())).await;
    }
    stage.until_metric(&format!("hub_connections {}", plan.connections)).await;
    for device in &devices {
        Probes::of(&stage, device, "before").all(&stage, Instant::now() + DEADLINE).await;
    }
    let links: Vec<u64> = devices.iter().map(|device| stage.hub().links_attached(device)).collect();

    let begins = Instant::now() + plan.delay;
    let ends = begins + plan.duration;
    let fault = Fault::new(plan.kind).of(&devices[0]).after(plan.delay).lasting(plan.duration);
    stage.hub().inject(fault).expect("within the limits");
    let rounds = Arc::new(AtomicUsize::new(0));
    let sending = tokio::spawn(uplinks(Arc::clone(&stage), devices.clone(), Arc::clone(&rounds)));
    sleep_until(begins + plan.duration / 4).await;
    let probes = devices.iter().map(|device| {
        let (stage, probes) = (Arc::clone(&stage), Probes::of(&stage, device, "during"));
        tokio::spawn(async move { probes.all(&stage, ends + WITHIN * 2).await })
    });
    let probed = Instant::now();
    let mut results = Vec::new();
    for probe in probes.collect::<Vec<_>>() {
        results.push(probe.await.expect("no panic"));
    }

    let mut wrong = Vec::new();
    let recovery = results[0].map(|at| at.map(|at| at.saturating_duration_since(ends)));
    for (path, recovery) in paths::NAMES.iter().zip(&recovery) {
        if recovery.is_none_or(|recovery| recovery > WITHIN) {
            wrong.push(format!("{path} needs {recovery:?} after the fault's end"));
        }
    }
    for (number, device) in devices.iter().enumerate().skip(1) {
        let met = reach(plan.kind) != Reach::Device && number < 2;
        let limit = if met { ends + WITHIN } else { probed + UNAFFECTED };
        for (path, at) in paths::NAMES.iter().zip(&results[number]) {
            if at.is_none_or(|at| at > limit) {
                let late = at.map(|at| at - probed);
                wrong.push(format!("{path} of {device}, which is not to blame, took {late:?}"));
            }
        }
        if !met && stage.hub().links_attached(device) != links[number] {
            wrong.push(format!("{device} lost its links though the fault was none of its"));
        }
    }
    let limits = [FaultKind::InvokeThrottling, FaultKind::InvokeMaxMessageQuota];
    if limits.contains(&plan.kind) && stage.hub().links_attached(&devices[0]) != links[0] {
        wrong.push("a limit is no reason to reconnect".to_owned());
    }

    sending.abort();
    _ = sending.await;
    // When it was met, and with the probes before and during the fault.
    let sent = rounds.load(Ordering::Relaxed) + 3;
    let (messages, doubled) = counted(&stage, &devices, sent, &mut wrong).await;
    // The fault strikes anew whoever comes back while it lasts, and each time may keep an outcome from being known.
    let cuts = 1 + usize::try_from(plan.duration.as_secs()).unwrap_or(usize::MAX);
    if doubled > usize::from(cuts_telemetry(plan.kind)) * devices.len() * cuts {
        wrong.push(format!("{doubled} telemetry messages came twice"));
    }
    wrong.extend(paths::miscounted(&stage, &devices, &["before", "during"]));
    let metrics = Poster::to(&stage.connector).metrics(&stage.connector).await;
    let parked = metrics.lines().find(|line| line.starts_with("tti_connector_spool_parked_messages "));
    if parked.is_none_or(|line| !line.ends_with(" 0")) {
        wrong.push(format!("messages were parked: {parked:?}"));
    }
    Arc::into_inner(stage).expect("nobody else has it").end().await;
    Row { plan: plan.clone(), recovery, messages, doubled, wrong }
}

async fn uplinks(stage: Arc<Stage>, devices: Vec<String>, rounds: Arc<AtomicUsize>) {
    loop {
        // Not to be broken off before the pause.
        rounds.fetch_add(1, Ordering::Relaxed);
        for device in &devices {
            stage.stack().uplink(&name(device), &Uplink::default()).expect("a device");
        }
        sleep(EVERY).await;
    }
}

/// Waits until all uplinks are telemetry; gives how many, and how many came twice.
async fn counted(stage: &Stage, devices: &[String], sent: usize, wrong: &mut Vec<String>) -> (usize, usize) {
    let (mut messages, mut doubled) = (0, 0);
    for device in devices {
        let numbers = || -> Vec<u64> { stage.telemetry(device).iter().map(frame_counter).collect() };
        let all = || (numbers().iter().collect::<BTreeSet<_>>().len() == sent).then_some(());
        _ = tokio::time::timeout(WITHIN, stage.until(all)).await;
        let numbers = numbers();
        let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
        if distinct.len() != sent {
            wrong.push(format!("{device} sent {sent} uplinks and {} arrived", distinct.len()));
        }
        let mut firsts = BTreeSet::new();
        let in_order: Vec<u64> = numbers.iter().copied().filter(|number| firsts.insert(*number)).collect();
        if !in_order.is_sorted() {
            wrong.push(format!("telemetry of {device} came out of order: {in_order:?}"));
        }
        messages += sent;
        doubled += numbers.len() - distinct.len();
    }
    (messages, doubled)
}
