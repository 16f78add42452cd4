//! Keeps one device's links open: opens them in turn, attends to them, and opens them anew after every loss.
//!
//! One task per kept device. Knows neither wire formats nor what events mean.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::classify::{self, Class, Condition};
use super::device::{self, DeviceSession, Slot, SlotRef};
use super::error::{RetryReason, SendError, Trouble};
use super::event::{DeviceEvent, Links};
use super::hub::{Hub, Way, pause_until_asked_anew};
use super::inbound::{Around, Ending, Inbound};
use super::inner::{Inner, by_policy, unauthorized};
use super::kept::{Kept, Reach, Wish};
use super::links::{OpenLinks, RefusedWays};
use super::pool::Pool;
use super::safe_link::Loss;
use crate::azure::HubDevice;
use crate::model::{Backoff, ParkReason};

/// Pauses before links are opened anew.
const PAUSES: Backoff = Backoff { initial: Duration::from_millis(250), max: Duration::from_secs(300) };
/// No longer than this at first: commands wait for the links, and most troubles of a hub are over within minutes.
const SOON: Duration = Duration::from_secs(8);
/// Failures in a row from which on the pauses grow; before, they add up to some two minutes.
const GROWING: u32 = 20;
/// Links that stayed open this long were well; losing them then is bad luck and no reason for a longer pause.
const STEADY: Duration = Duration::from_secs(60);
/// When one link is refused, the refusal of the whole device may come a moment later.
const REFUSAL_GRACE: Duration = Duration::from_millis(300);

/// Fulfils the wish until it ends, the hub refuses the device, or the client closes.
pub(super) async fn run(inner: Arc<Inner>, kept: Arc<Kept>) {
    let mut keeper = Keeper { inner, kept, failures: 0, fresh: false, doubtful: false };
    while let Some((edition, wish)) = keeper.kept.wish() {
        let task = Task {
            edition,
            slot: keeper.inner.slot(&wish.device),
            pool: keeper.inner.pool(&wish.device),
            hub: keeper.inner.hub(&wish.device.hub),
            wish,
        };
        // So that the pool reconnects though nobody sends.
        let _wanted = task.pool.keep();
        let Some(pause) = keeper.attempt(&task).await else { return };
        tokio::select! {
            () = keeper.inner.leaving.cancelled() => return,
            () = keeper.kept.changes(edition) => (keeper.failures, keeper.fresh) = (0, false),
            () = sleep(pause) => {}
        }
    }
}

struct Keeper {
    inner: Arc<Inner>,
    kept: Arc<Kept>,
    /// Attempts in a row that did not lead to steady links.
    failures: u32,
    /// The next attempt is made with fresh tokens, since the last was refused for them.
    fresh: bool,
    /// The last attempt used a token put earlier, which may have been the trouble.
    doubtful: bool,
}

/// One wish, and where it is fulfilled.
struct Task {
    edition: u64,
    wish: Wish,
    slot: Slot,
    pool: Arc<Pool>,
    hub: Arc<Hub>,
}

type Opened = (Box<OpenLinks>, RefusedWays, CancellationToken);

impl Keeper {
    /// Opens the links when it is their turn and attends to them until they end. Gives the pause before the next
    /// attempt, or `None` when there is none.
    async fn attempt(&mut self, task: &Task) -> Option<Duration> {
        if !self.fresh {
            let turn = async {
                task.pool.until_up().await;
                task.hub.turn().await;
            };
            tokio::select! {
                () = self.inner.leaving.cancelled() => return None,
                () = self.kept.changes(task.edition) => return Some(Duration::ZERO),
                () = turn => {}
            }
        }
        self.kept.reached(Reach::Opening);
        let offered = task.hub.offered(task.wish.links);
        if !offered.any() {
            return Some(self.nothing_offered());
        }
        // In a box, as it is large and only needed for a moment.
        match Box::pin(self.open(task, offered)).await {
            Ok((links, refused, ended)) => {
                self.fresh = false;
                task.pool.hub_works();
                for (way, condition) in refused {
                    if task.hub.is_proven(way) {
                        // It worked before, so the trouble passes.
                        close(task, &ended).await;
                        return self.failed(task, loss_error(task, Loss::Link(condition), way)).await;
                    }
                    note_refusal(task, way, &condition);
                }
                self.attend(task, Inbound::new(links, task.wish.device.clone()), ended).await
            }
            Err(error) => self.failed(task, error).await,
        }
    }

    /// Opens the session, unless telemetry has it open, and the links on it. Not to be cancelled.
    async fn open(&mut self, task: &Task, offered: Links) -> Result<Opened, SendError> {
        let device = &task.wish.device;
        let shared = &self.inner.shared;
        let mut held = task.slot.clone().lock_owned().await;
        let usable = |session: &mut DeviceSession| !session.is_kept() && session.serves(device);
        let reuse = !self.fresh && held.session.as_mut().is_some_and(usable);
        self.doubtful = reuse || by_policy(device);
        if !reuse {
            if let Some(taken) = held.session.as_mut().and_then(DeviceSession::taken) {
                device::close(held).await;
                return Err(taken);
            }
            if let Some(old) = held.session.take() {
                old.close().await;
            }
            let slot = SlotRef::new(&task.slot, &device.device_id);
            let opening = DeviceSession::open(shared, &task.pool, device.clone(), slot, self.fresh);
            let opened = opening.await;
            task.hub.connects.note(opened.as_ref().map(|_| ()));
            held.session = Some(opened?);
        }
        held.used = tokio::time::Instant::now();
        let Some(session) = held.session.as_mut() else {
            return Err(lost_link("the session was closed", task));
        };
        match session.attach(offered, &shared.options, &task.pool).await {
            Ok(opened) => Ok(opened),
            Err(error) => {
                device::close(held).await;
                Err(error)
            }
        }
    }

    /// Serves open links until they end.
    async fn attend(
        &mut self,
        task: &Task,
        mut inbound: Inbound,
        ended: CancellationToken,
    ) -> Option<Duration> {
        let events = self.inner.events.clone()?;
        let mark = self.inner.shared.mark_attached();
        let (kept, leaving) = (self.kept.clone(), self.inner.leaving.clone());
        let around = Around {
            kept: &kept,
            edition: task.edition,
            events: &events,
            ended: &ended,
            leaving: &leaving,
            hub: &task.hub,
        };
        let error = loop {
            kept.reached(Reach::Attached { twin: inbound.links.twin.is_some() });
            if !inbound.links.open().any() {
                if let Some(session) = task.slot.lock().await.session.as_mut() {
                    session.let_go();
                }
                return Some(self.nothing_offered());
            }
            match inbound.run(&around).await {
                Ending::WishChanged => {
                    Box::pin(inbound.flush()).await;
                    drop(inbound);
                    close(task, &ended).await;
                    self.failures = 0;
                    return Some(Duration::ZERO);
                }
                Ending::Leaving => {
                    Box::pin(inbound.flush()).await;
                    return None;
                }
                Ending::NoReader => {
                    Box::pin(inbound.flush()).await;
                    self.kept.end();
                    self.forget(&task.wish.device);
                    break lost_link("nobody reads what comes in", task);
                }
                Ending::SessionClosed => break lost_link("the session was closed", task),
                Ending::Lost { way, loss } => {
                    let refusal = match &loss {
                        Loss::Link(condition) if inbound.was_refused(way, condition) => Some(condition),
                        _ => None,
                    };
                    if refusal.is_some() {
                        sleep(REFUSAL_GRACE).await;
                    }
                    let trouble = match &loss {
                        Loss::Link(_) if inbound.is_young() => telemetry_trouble(task, &ended).await,
                        _ => None,
                    };
                    match (trouble, refusal) {
                        // The device as a whole is refused, a moment after its links opened.
                        (Some(error), _) => {
                            drop((inbound, mark));
                            close(task, &ended).await;
                            return self.failed(task, error).await;
                        }
                        (None, Some(condition)) if !task.hub.is_proven(way) => {
                            note_refusal(task, way, condition);
                            inbound.links.close(way);
                        }
                        (None, _) => break loss_error(task, loss, way),
                    }
                }
            }
        };
        if inbound.age() >= STEADY {
            self.failures = 0;
        }
        drop((inbound, mark));
        close(task, &ended).await;
        self.failed(task, error).await
    }

    /// The hub offers none of the wished ways: the session is left to telemetry for hours.
    fn nothing_offered(&mut self) -> Duration {
        self.failures = 0;
        self.kept.reached(Reach::Attached { twin: false });
        pause_until_asked_anew()
    }

    /// What to do after a failure: a pause, or telling that the device is lost.
    async fn failed(&mut self, task: &Task, error: SendError) -> Option<Duration> {
        if unauthorized(&error) && self.doubtful && !self.fresh {
            self.fresh = true;
            return Some(Duration::ZERO);
        }
        self.fresh = false;
        let error = device::contested(error, &self.inner.shared, &task.wish.device);
        let (after, whole_hub) = match &error {
            SendError::Retry { reason: RetryReason::Taken, after, .. } => {
                // How long is settled already.
                let pause = after.unwrap_or_default();
                self.kept.reached(Reach::Trouble(error));
                return Some(pause);
            }
            SendError::Retry { reason, after, trouble, .. } => {
                let hub = matches!(trouble, Trouble::Hub(_)) || *reason == RetryReason::Connection;
                if matches!(trouble, Trouble::Hub(_)) {
                    task.pool.hub_failed();
                }
                (after.unwrap_or_default(), hub)
            }
            SendError::Reresolve { reason, detail } | SendError::Park { reason, detail } => {
                let lost = self.lose(task, *reason, detail.clone()).await;
                return (!lost).then_some(Duration::ZERO);
            }
        };
        let pause = pause(if whole_hub { 1 } else { self.failures.saturating_add(1) }).max(after);
        if !whole_hub {
            self.failures = self.failures.saturating_add(1);
        }
        let device = &task.wish.device;
        let delay_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(hub = %device.hub, device = %device.device_id, %error, delay_ms,
            "a device's links are not open and will be opened again");
        self.kept.reached(Reach::Trouble(error));
        Some(pause)
    }

    /// Gives the wish up and says so, once; `false` if something else is wished by now.
    async fn lose(&self, task: &Task, reason: ParkReason, detail: String) -> bool {
        if !self.kept.end_if(task.edition) {
            return false;
        }
        let device = task.wish.device.clone();
        self.forget(&device);
        let Some(events) = &self.inner.events else { return true };
        tokio::select! {
            () = self.inner.leaving.cancelled() => {}
            // Without a reader nobody minds.
            _ = events.send(DeviceEvent::Lost { device, reason, detail }) => {}
        }
        true
    }

    /// The wish has ended.
    fn forget(&self, device: &HubDevice) {
        let key = (device.hub.clone(), device.device_id.clone());
        self.inner.kept.remove_if(&key, |_, kept| Arc::ptr_eq(kept, &self.kept));
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let soon = Backoff { max: SOON, ..PAUSES };
    if failures < GROWING { soon.wait(failures) } else { PAUSES.wait(failures - GROWING + 6) }
}

/// Closes the session whose links were attended to, unless somebody has done so.
async fn close(task: &Task, ended: &CancellationToken) {
    if !ended.is_cancelled() {
        let held = task.slot.clone().lock_owned().await;
        if !ended.is_cancelled() {
            Box::pin(device::close(held)).await;
        }
    }
}

/// What became of telemetry's link on the same session: `None` if it is fine.
async fn telemetry_trouble(task: &Task, ended: &CancellationToken) -> Option<SendError> {
    let mut held = task.slot.lock().await;
    match held.session.as_mut() {
        Some(session) if !ended.is_cancelled() => session.trouble(&task.pool).await,
        Some(_) | None => Some(lost_link("the session was closed", task)),
    }
}

/// A link that was lost says nothing final about the device; opening it anew will.
fn loss_error(task: &Task, loss: Loss, way: Way) -> SendError {
    let text = format!("the link for {} was lost", way.as_str());
    match loss {
        Loss::Connection => {
            let class = Class::Retry(RetryReason::Connection, None, false);
            classify::error(class, "the connection was lost", &task.wish.device.hub)
        }
        // Others may share it, and be the cause.
        Loss::Session(condition) => lost_link(&format!("{text}: the session ended: {condition}"), task),
        Loss::Link(condition) => {
            let class = classify::condition(classify::Scope::Device, &condition);
            let class = match class {
                Class::Retry(..) => class,
                Class::Reresolve(_) | Class::Park(_) => Class::Retry(RetryReason::Link, None, false),
            };
            classify::error(class, &format!("{text}: {condition}"), &task.wish.device.hub)
        }
        Loss::Stuck => {
            lost_link(&format!("{text}: the hub leaves an Attach or Detach on the session unanswered"), task)
        }
        Loss::NoCredit | Loss::NoOutcome => lost_link(&format!("{text}: the hub takes nothing"), task),
        Loss::TooLarge(detail) | Loss::Confused(detail) => lost_link(&format!("{text}: {detail}"), task),
    }
}

fn lost_link(detail: &str, task: &Task) -> SendError {
    classify::error(Class::Retry(RetryReason::Link, None, false), detail, &task.wish.device.hub)
}

fn note_refusal(task: &Task, way: Way, condition: &Condition) {
    if task.hub.refuse(way) {
        tracing::warn!(hub = %task.wish.device.hub, way = way.as_str(), error = %condition,
            "The hub does not offer this way to devices, as it is in the basic tier; it is asked again after hours.");
    }
}
