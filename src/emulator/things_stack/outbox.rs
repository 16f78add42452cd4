//! Sends messages to the webhook: in order for one device, many devices at once, at most once each.
//!
//! Knows no device state. Each message is posted, answered or not in the time it has, and forgotten; a log remembers
//! the latest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::RootCertStore;
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::name::DeviceName;
use super::webhook::Webhook;
use crate::net::tls;

/// Posts under way at once.
const PARALLEL: usize = 256;
/// Messages that wait; more are dropped, as from the real one's full pool. One push of a full queue fits.
const MAX_WAITING: usize = 20_000;
/// Messages the log remembers.
const MAX_LOG: usize = 10_000;

/// A message that went to the webhook, or did not.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// About which device.
    pub device: DeviceName,
    /// Which kind, such as `downlink_sent`.
    pub kind: &'static str,
    /// The whole message.
    pub body: Arc<Value>,
    /// What became of it.
    pub result: Delivered,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The webhook answered with this HTTP status; only 200 to 299 is success.
    Answered(u16),
    /// No answer: time-out or connection.
    Failed(String),
    /// There is no webhook, or it is paused.
    NoWebhook,
    /// Too many waited.
    Dropped,
}

impl Delivered {
    /// Whether the webhook took it.
    pub fn is_success(&self) -> bool {
        match self {
            Self::Answered(status) => (200..300).contains(status),
            Self::Failed(_) | Self::NoWebhook | Self::Dropped => false,
        }
    }
}

/// How many messages met which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// Answered 2xx.
    pub delivered: u64,
    /// Answered otherwise, or not at all.
    pub failed: u64,
    /// Dropped because too many waited.
    pub dropped: u64,
}

#[derive(Debug)]
struct Post {
    kind: &'static str,
    body: Arc<Value>,
    done: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// A device is in here while a task serves its lane.
    lanes: HashMap<DeviceName, VecDeque<Post>>,
    waiting: usize,
    log: VecDeque<Delivery>,
    counts: DeliveryCounts,
    webhook: Option<Arc<Webhook>>,
}

/// The way to the webhook.
#[derive(Debug)]
pub(super) struct Outbox {
    http: reqwest::Client,
    /// The Things Stack's own URL.
    base: String,
    timeout: Duration,
    state: Mutex<State>,
    places: Semaphore,
    changed: watch::Sender<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Outbox {
    /// # Errors
    /// In words: the HTTP client could not be made.
    pub(super) fn new(
        (base, timeout): (String, Duration),
        changed: watch::Sender<u64>,
        (tasks, stop): (TaskTracker, CancellationToken),
    ) -> Result<Self, String> {
        // A machine without certificates can still use http://.
        let config = tls::client_config(None)
            .or_else(|_| tls::client_config_with(RootCertStore::empty()))
            .map_err(|error| error.to_string())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config.as_ref().clone())
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .no_proxy()
            .build()
            .map_err(|error| error.to_string())?;
        let (state, places) = (Mutex::default(), Semaphore::new(PARALLEL));
        Ok(Self { http, base, timeout, state, places, changed, tasks, stop })
    }

    /// How long the webhook may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn set_webhook(&self, webhook: Option<Webhook>) {
        self.lock().webhook = webhook.map(Arc::new);
    }

    pub(super) fn webhook(&self) -> Option<Arc<Webhook>> {
        self.lock().webhook.clone()
    }

    pub(super) fn log(&self) -> Vec<Delivery> {
        self.lock().log.iter().cloned().collect()
    }

    pub(super) fn counts(&self) -> DeliveryCounts {
        self.lock().counts
    }

    /// Puts a message at the end of its device's lane. What is returned ends when the message met its end.
    pub(super) fn send(
        self: &Arc<Self>,
        device: &DeviceName,
        kind: &'static str,
        body: Value,
    ) -> oneshot::Receiver<()> {
        let (done, ended) = oneshot::channel();
        let post = Post { kind, body: Arc::new(body), done };
        let mut state = self.lock();
        if state.waiting >= MAX_WAITING {
            self.remember(&mut state, device, post, Delivered::Dropped);
            return ended;
        }
        state.waiting += 1;
        if let Some(lane) = state.lanes.get_mut(device) {
            lane.push_back(post);
            return ended;
        }
        state.lanes.insert(device.clone(), VecDeque::from([post]));
        drop(state);
        let (outbox, device) = (Arc::clone(self), device.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = outbox.run(&device) => {}
                () = outbox.stop.cancelled() => {}
            }
        });
        ended
    }

    /// Serves one lane until it is empty.
    async fn run(&self, device: &DeviceName) {
        while let Some((post, webhook)) = self.next(device) {
            let result = match webhook {
                Some(webhook) => self.post(&webhook, device, &post).await,
                None => Delivered::NoWebhook,
            };
            let mut state = self.lock();
            state.waiting = state.waiting.saturating_sub(1);
            self.remember(&mut state, device, post, result);
        }
    }

    fn next(&self, device: &DeviceName) -> Option<(Post, Option<Arc<Webhook>>)> {
        let mut state = self.lock();
        let webhook = state.webhook.clone().filter(|webhook| !webhook.paused);
        let post = state.lanes.get_mut(device).and_then(VecDeque::pop_front);
        if post.is_none() {
            state.lanes.remove(device);
        }
        post.map(|post| (post, webhook))
    }

    async fn post(&self, webhook: &Webhook, device: &DeviceName, post: &Post) -> Delivered {
        let Ok(_place) = self.places.acquire().await else { return Delivered::Dropped };
        let request = self
            .http
            .post(webhook.url.clone())
            .headers(webhook.headers(&self.base, device))
            .body(post.body.to_string());
        match request.send().await {
            Ok(response) => Delivered::Answered(response.status().as_u16()),
            Err(error) => {
                let reason = if error.is_timeout() { "no answer in time" } else { "no connection" };
                Delivered::Failed(reason.to_owned())
            }
        }
    }

    fn remember(&self, state: &mut State, device: &DeviceName, post: Post, result: Delivered) {
        let counts = &mut state.counts;
        match &result {
            Delivered::Answered(_) if result.is_success() => counts.delivered += 1,
            Delivered::Answered(_) | Delivered::Failed(_) => counts.failed += 1,
            Delivered::Dropped => counts.dropped += 1,
            Delivered::NoWebhook => {}
        }
        match &result {
            Delivered::Answered(status) if !result.is_success() => {
                tracing::warn!(device = %device, kind = post.kind, status, "The webhook refused a message.");
            }
            Delivered::Failed(reason) => {
                tracing::warn!(device = %device, kind = post.kind, reason, "The webhook did not answer.");
            }
            Delivered::Answered(_) | Delivered::NoWebhook | Delivered::Dropped => {}
        }
        let Post { kind, body, done } = post;
        state.log.push_back(Delivery { device: device.clone(), kind, body, result });
        if state.log.len() > MAX_LOG {
            state.log.pop_front();
        }
        // Nobody may be waiting.
        _ = done.send(());
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
