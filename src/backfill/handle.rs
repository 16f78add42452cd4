//! The way in: the webhook tells of uplinks, an operator orders, `run` does the rest.
//!
//! Decides nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::application::Application;
use super::gaps::Noted;
use super::identity::Identity;
use super::keeper::Keeper;
use super::mark::Mark;
use super::order::{Order, Progress, Summary};
use super::pace::Pace;
use super::ports::{Observer, Outbox, Storage, Store, Unstored};
use super::row::Bounds;
use super::runner::{Range, RunError, Runner, Watcher, remember_until};
use super::worker::Worker;
use crate::model::{Clock, EndDevice};
use crate::things_stack::{ApiError, Frame};

/// How the backfill behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ids of the applications for which it is on.
    pub applications: Vec<String>,
    /// Fetched uplinks a second, of all applications together.
    pub rate: u32,
    /// Older uplinks are not fetched.
    pub window: Duration,
    /// Time after a gap, or a start, before anything is fetched.
    pub delay: Duration,
    /// The tenant of devices of which no uplink was seen yet.
    pub default_tenant: String,
}

/// What it works with.
pub struct Parts<S, O, T> {
    /// The Storage Integration.
    pub storage: S,
    /// The queue.
    pub outbox: O,
    /// The small state beside it.
    pub store: T,
    /// Told what happens.
    pub observer: Arc<dyn Observer>,
    /// Tells the time.
    pub clock: Clock,
}

/// By what an uplink is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its keys.
    pub identity: Identity,
    /// Milliseconds since 1970 UTC.
    pub until_ms: i64,
}

/// The backfill of all applications. Cheap to clone.
pub struct Backfill<S, O, T>(Arc<Inner<S, O, T>>);

struct Inner<S, O, T> {
    applications: BTreeMap<String, Arc<Application>>,
    runner: Runner<S, O>,
    keeper: Mutex<Keeper<T>>,
    options: Options,
    default_tenant: Arc<str>,
    /// Orders by hand are carried out one at a time.
    hand: Semaphore,
}

/// Why an order can't be carried out.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OrderError {
    /// Nothing is remembered of the application.
    #[error(
        "backfill is off for application {0}: set things_stack.applications.{0}.backfill = true and restart the connector, so that it remembers what it has sent"
    )]
    Off(String),
    /// One at a time.
    #[error("another backfill by hand is under way; wait for its end")]
    Busy,
    /// Nothing lies between.
    #[error(
        "there is nothing between the two times: only uplinks that are at least {0:?} old (`backfill.delay`) are fetched by hand"
    )]
    Empty(Duration),
    /// Nothing of that time is remembered.
    #[error(
        "what was sent before {0} is not remembered, since backfill was off or its window shorter: uplinks could be sent twice; take a later --since, or --may-double if nothing was sent then"
    )]
    Unremembered(String),
    /// The Things Stack refuses, or can't be reached.
    #[error("{0}")]
    Storage(#[from] ApiError),
    /// The queue can't take it.
    #[error("{0}")]
    Queue(String),
}

impl<S, O, T> Clone for Backfill<S, O, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Storage, O: Outbox, T: Store> Backfill<S, O, T> {
    /// Reads what earlier starts have stored. Fetches nothing yet.
    ///
    /// # Errors
    /// The small state can't be read or written.
    pub async fn load(options: Options, parts: Parts<S, O, T>) -> Result<Self, Unstored> {
        let Parts { storage, outbox, store, observer, clock } = parts;
        let (is_new, now_ms) = (store.is_new(), clock.now_ms());
        let window_ms = i64::try_from(options.window.as_millis()).unwrap_or(i64::MAX);
        let (mut keeper, mut stored) = Keeper::load(store, &options.applications).await?;
        let mut applications = BTreeMap::new();
        for id in &options.applications {
            let known = stored.remove(id).unwrap_or_default();
            let is_on_since_now = known.mark.is_none();
            let mark = Mark::at_start(known.mark, window_ms, is_new, now_ms);
            let application = Application::new(id.clone(), mark, is_on_since_now, now_ms);
            known.seen.iter().for_each(|piece| application.restore(piece));
            applications.insert(id.clone(), Arc::new(application));
        }
        keeper.save_marks(&applications.values().cloned().collect::<Vec<_>>()).await?;
        let pace = Arc::new(Pace::new(options.rate));
        Ok(Self(Arc::new(Inner {
            applications,
            runner: Runner { storage, outbox, observer, pace, clock, window_ms },
            keeper: Mutex::new(keeper),
            default_tenant: options.default_tenant.as_str().into(),
            options,
            hand: Semaphore::new(1),
        })))
    }

    /// By what an uplink that the webhook brought is to be remembered; `None` where backfill is off.
    pub fn remembered(&self, device: &EndDevice, frame: &Frame) -> Option<Remembered> {
        let Inner { applications, runner, .. } = &*self.0;
        applications.get(device.application_id())?;
        Some(Remembered {
            identity: Identity::live(device.application_id(), device.device_id(), frame),
            until_ms: remember_until(runner.clock.now_ms(), runner.window_ms),
        })
    }

    /// An uplink that the webhook brought is on disk.
    pub fn received(&self, device: &EndDevice, frame: &Frame) {
        let Inner { applications, runner, options, .. } = &*self.0;
        let Some(application) = applications.get(device.application_id()) else { return };
        let due = Instant::now() + options.delay;
        match application.received(device, frame, runner.clock.now_ms(), due) {
            Noted::Gap(missing) => runner.observer.gap(u64::from(missing)),
            Noted::Fine | Noted::Late => {}
        }
    }

    /// Works for all applications until `stop`, then writes down where it is. What is queued stays queued.
    pub async fn run(self, stop: CancellationToken) {
        let Inner { applications, runner, keeper, options, default_tenant, .. } = &*self.0;
        let all: Vec<Arc<Application>> = applications.values().cloned().collect();
        if all.is_empty() {
            return;
        }
        let mut keeper = keeper.lock().await;
        let workers = all.iter().map(|application| {
            let worker = Worker {
                application: Arc::clone(application),
                runner: runner.clone(),
                default_tenant: Arc::clone(default_tenant),
                delay: options.delay,
                not_before: Instant::now(),
                failures: 0,
                told: None,
            };
            worker.run()
        });
        let mut workers: FuturesUnordered<_> = workers.collect();
        tokio::select! {
            () = stop.cancelled() => {}
            // They end with the process only.
            _ = workers.next() => {}
            () = keeper.run(&all) => {}
        }
        drop(workers);
        keeper.save(&all).await;
    }

    /// Fetches by hand, and tells how far it is. May be dropped at any time: what is queued stays queued.
    ///
    /// # Errors
    /// See [`OrderError`]; what was queued before stays queued.
    pub async fn order(&self, order: &Order, told: mpsc::Sender<Progress>) -> Result<Summary, OrderError> {
        let Inner { applications, runner, options, default_tenant, hand, .. } = &*self.0;
        let application =
            applications.get(&order.application).ok_or_else(|| OrderError::Off(order.application.clone()))?;
        let _turn = hand.try_acquire().map_err(|_| OrderError::Busy)?;
        let now_ms = runner.clock.now_ms();
        let delay_ms = i64::try_from(options.delay.as_millis()).unwrap_or(i64::MAX);
        let settled_ms = now_ms.saturating_sub(delay_ms);
        let until_ms = order.until_ms.unwrap_or(settled_ms).min(settled_ms);
        if order.since_ms >= until_ms {
            return Err(OrderError::Empty(options.delay));
        }
        let forgot_ms = runner.forgot_ms().await.map_err(|error| OrderError::Queue(error.to_string()))?;
        let floor_ms = if order.may_double { 0 } else { application.floor_ms(now_ms).max(forgot_ms) };
        if floor_ms >= until_ms {
            return Err(OrderError::Unremembered(crate::model::iso_utc(floor_ms)));
        }
        let tenant = application.tenant().unwrap_or_else(|| default_tenant.to_string());
        let range = Range {
            application: &order.application,
            tenant: &tenant,
            device: order.device.as_deref(),
            after_ms: order.since_ms.max(floor_ms),
            bounds: Bounds { until_ms, live_ms: until_ms, floor_ms },
            within_window: !order.may_double,
            dry_run: order.dry_run,
        };
        let from_ms = range.after_ms;
        let mut watcher =
            Telling { told, progress: Progress { from_ms, to_ms: until_ms, ..Progress::default() } };
        let mut summary = runner.run(&range, &mut watcher).await.map_err(|error| match error {
            RunError::Api(error) => OrderError::Storage(error),
            RunError::Queue(error) => OrderError::Queue(error.to_string()),
        })?;
        summary.floor_ms = (floor_ms > order.since_ms).then_some(floor_ms);
        Ok(summary)
    }
}

struct Telling {
    told: mpsc::Sender<Progress>,
    progress: Progress,
}

impl Watcher for Telling {
    fn page(&mut self, at_ms: i64, so_far: &Summary) {
        self.progress = Progress { at_ms, rows: so_far.rows, queued: so_far.queued, ..self.progress };
        // Whoever is slow misses one.
        let _ = self.told.try_send(self.progress);
    }
}
