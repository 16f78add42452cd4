//! What the links of one connection share: its hub, its tokens, and which devices it holds. Sends nothing itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::AmqpOptions;
use super::lifelines::{Lifeline, Lifelines, Way};
use super::outlets::Outlets;
use super::pairs::Pairs;
use super::refusal::Refusal;
use super::strikes::{self, Ending};
use super::tokens::{Grant, TokenBook};
use crate::emulator::presence::Cut;
use crate::emulator::tier::Operation;
use crate::emulator::{DeviceStatus, Hub};

/// Numbers connections within the process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// One connection, seen by its sessions and links.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) hub: Arc<Hub>,
    pub(super) options: AmqpOptions,
    /// Fires when the connection is over and its sessions must go.
    pub(super) over: CancellationToken,
    pub(super) cbs_replies: Outlets,
    pub(super) management_replies: Outlets,
    pub(super) pairs: Pairs,
    /// How faults reach sessions and links.
    pub(super) lifelines: Arc<Lifelines>,
    /// How a fault ends the connection.
    ending: Mutex<Option<Ending>>,
    poke: Notify,
    number: u64,
    tokens: Mutex<TokenBook>,
    links: AtomicUsize,
    /// Counts the times that tokens expired, for readers to look whether they still may.
    expiries: watch::Sender<u64>,
}

impl Connection {
    pub(super) fn new(hub: Arc<Hub>, options: AmqpOptions) -> Self {
        Self {
            hub,
            options,
            over: CancellationToken::new(),
            cbs_replies: Outlets::default(),
            management_replies: Outlets::default(),
            pairs: Pairs::default(),
            lifelines: Arc::default(),
            ending: Mutex::default(),
            poke: Notify::new(),
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            tokens: Mutex::default(),
            links: AtomicUsize::new(0),
            expiries: watch::channel(0).0,
        }
    }

    /// Takes a verified token in; false beyond the limit.
    pub(super) fn put_token(&self, grant: Grant) -> bool {
        self.tokens().put(grant, self.options.max_tokens)
    }

    /// How `device_id` is authenticated here, if it is.
    pub(super) fn auth_of(&self, device_id: &str) -> Option<&'static str> {
        self.tokens().for_device(device_id, self.now_s()).map(Grant::auth_method)
    }

    /// Whether the peer may read what arrived.
    pub(super) fn may_read(&self) -> bool {
        self.tokens().may_read(self.now_s())
    }

    /// Whether the peer may do what a service does.
    pub(super) fn may_serve(&self) -> bool {
        self.tokens().may_serve(self.now_s())
    }

    /// Changes when tokens have expired.
    pub(super) fn expiries(&self) -> watch::Receiver<u64> {
        self.expiries.subscribe()
    }

    /// Lets the peer have a link of `device_id`, and takes the device over from any older connection.
    ///
    /// # Errors
    /// The refusal to send when it may not.
    pub(super) fn admit(
        self: &Arc<Self>,
        device_id: &str,
        way: Way,
        session: u64,
    ) -> Result<HeldDevice, Refusal> {
        let unauthorized =
            || Refusal::Unauthorized(format!("no valid token on this connection for device {device_id}"));
        let token = self
            .tokens()
            .for_device(device_id, self.now_s())
            .map(|grant| grant.token.clone())
            .ok_or_else(unauthorized)?;
        let device = self.hub.device(device_id).ok_or_else(|| Refusal::NoDevice(device_id.to_owned()))?;
        if device.status == DeviceStatus::Disabled {
            return Err(Refusal::Disabled(device_id.to_owned()));
        }
        // A token may outlive the key it was signed with.
        if token.policy.is_none() {
            self.hub.verify_device(&token, device_id).map_err(|_| unauthorized())?;
        }
        strikes::may_attach(&self.hub, device_id, way)?;
        if !self.hub.holds_device(device_id, self.number) {
            self.hub.pass_now(Operation::Connect).map_err(Refusal::of_limit)?;
        }
        let cut = self.hub.claim_device(device_id, self.number);
        let line = self.lifelines.of_device(session, way, device_id);
        strikes::attached(self, device_id, session);
        Ok(HeldDevice { connection: Arc::clone(self), device_id: device_id.to_owned(), cut: Some(cut), line })
    }

    /// Forgets expired tokens and cuts off the devices that none speaks for any more.
    pub(super) fn expire_tokens(&self) {
        let now_s = self.now_s();
        if self.tokens().expire(now_s) {
            self.expired();
        }
    }

    fn expired(&self) {
        let now_s = self.now_s();
        for device_id in self.hub.devices_of(self.number) {
            if self.tokens().for_device(&device_id, now_s).is_none() {
                self.hub.cut_device(&device_id, Cut::TokenExpired);
            }
        }
        self.expiries.send_modify(|count| *count += 1);
    }

    /// Lets the token that speaks for `device` expire now, or all tokens.
    pub(super) fn expire_tokens_of(&self, device: Option<&str>) {
        self.tokens().drop_for(device);
        self.expired();
    }

    /// Whether `device` has a link here.
    pub(super) fn holds(&self, device: &str) -> bool {
        self.hub.holds_device(device, self.number)
    }

    /// The devices that have links here.
    pub(super) fn devices(&self) -> Vec<String> {
        self.hub.devices_of(self.number)
    }

    /// A fault ends the connection.
    pub(super) fn end(&self, ending: Ending) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
        self.poke();
    }

    /// How a fault has ended the connection, if one has.
    pub(super) fn take_ending(&self) -> Option<Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Wakes who looks out for faults.
    pub(super) fn poke(&self) {
        self.poke.notify_one();
    }

    /// Waits for the next [`poke`](Self::poke).
    pub(super) async fn poked(&self) {
        self.poke.notified().await;
    }

    /// A place for one more link, unless all are taken.
    pub(super) fn link_place(self: &Arc<Self>) -> Option<LinkPlace> {
        let place = LinkPlace(Arc::clone(self));
        (self.links.fetch_add(1, Ordering::Relaxed) < self.options.max_links).then_some(place)
    }

    pub(super) fn now_s(&self) -> u64 {
        u64::try_from(self.hub.clock().now_ms() / 1000).unwrap_or(0)
    }

    fn tokens(&self) -> MutexGuard<'_, TokenBook> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link's place among those of its connection; given back on drop.
#[derive(Debug)]
pub(super) struct LinkPlace(Arc<Connection>);

impl Drop for LinkPlace {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A link's share in a device; given back on drop.
#[derive(Debug)]
pub(super) struct HeldDevice {
    connection: Arc<Connection>,
    pub(super) device_id: String,
    /// `None` only while dropping.
    cut: Option<watch::Receiver<Option<Cut>>>,
    /// Cut by faults.
    line: Lifeline,
}

impl HeldDevice {
    /// Waits until the device is lost, and says how to tell the peer.
    pub(super) async fn lost(&mut self) -> Refusal {
        let Self { cut, line, device_id, .. } = self;
        let cut = match cut {
            // The table drops its sender only after it has sent why.
            Some(cut) => tokio::select! {
                biased;
                cut = cut.wait_for(Option::is_some) => cut.map_or(None, |cut| *cut),
                refusal = line.cut() => return refusal,
            },
            None => None,
        };
        Refusal::of_cut(cut.unwrap_or(Cut::Stolen), device_id)
    }
}

impl Drop for HeldDevice {
    fn drop(&mut self) {
        self.cut = None;
        self.connection.hub.release_device(&self.device_id, self.connection.number);
    }
}
