//! A device's two twin links: requests come in on one; replies and updates of desired properties leave on the other.

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::pairs::{self, Half, PARTNER_TIMEOUT};
use super::received::{Received, received};
use super::refusal::Refusal;
use super::twins_wire::{self, TwinRefusal, Wanted};
use crate::emulator::faults::Verdict;
use crate::emulator::presence::Cut;
use crate::emulator::throttle::Denied;
use crate::emulator::tier::Operation;
use crate::emulator::twin_table::{Listener, WAITING_UPDATES};
use crate::emulator::{FaultKind, Hub};

/// Replies that wait for credit; then requests wait too.
const WAITING_REPLIES: usize = 16;

type Outgoing = Message<Body<Value>>;

/// Where replies and updates leave.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    replies: mpsc::Sender<Outgoing>,
    listener: Listener,
}

/// Answers requests until the link ends or has to.
pub(super) async fn serve_requests(mut link: Receiver, mut half: Half) {
    let refusal = loop {
        let incoming = tokio::select! {
            biased;
            refusal = half.ends() => break Some(refusal),
            incoming = link.recv::<Body<Value>>() => incoming,
        };
        let delivery = match received(&mut link, incoming, "the request").await {
            Received::Message(delivery) => *delivery,
            Received::Unreadable => continue,
            Received::Gone => return,
            Received::Ended => break None,
        };
        if half.connection.auth_of(&half.device.device_id).is_none() {
            break Some(Refusal::of_cut(Cut::TokenExpired, &half.device.device_id));
        }
        let (info, request) = delivery.into_parts();
        let Some(id) = twins_wire::correlation_id(&request) else {
            let why = Error::new(AmqpError::InvalidField, "the correlation-id is missing".to_owned(), None);
            if link.reject(info, why).await.is_err() {
                return;
            }
            continue;
        };
        if link.accept(info).await.is_err() {
            return;
        }
        let mut outlets = half.pair.outlet.subscribe();
        let outlet = tokio::select! {
            biased;
            refusal = half.ends() => break Some(refusal),
            outlet = timeout(PARTNER_TIMEOUT, outlets.wait_for(Option::is_some)) => {
                outlet.ok().and_then(Result::ok).and_then(|outlet| outlet.clone())
            }
        };
        let Some(outlet) = outlet else {
            break Some(Refusal::Invalid("the link for replies is missing".to_owned()));
        };
        let hub = &half.connection.hub;
        let limit = hub.verdict(&half.device.device_id, &LIMITS).map(limit);
        let reply = match limit.map_or_else(|| twins_wire::wanted(request), Err) {
            Ok(wanted) => match allow(hub, &wanted).await {
                Ok(()) => perform(hub, &half.device.device_id, wanted, &outlet.listener),
                Err(denied) => Err(denied.into()),
            },
            Err(refusal) => Err(refusal),
        };
        let reply = match reply {
            Ok((status, version, body)) => twins_wire::reply(id, status, version, body.as_ref()),
            Err(refusal) => twins_wire::refusal(id, &refusal, hub.clock().now_ms()),
        };
        tokio::select! {
            biased;
            refusal = half.ends() => break Some(refusal),
            _ = outlet.replies.send(reply) => {}
        }
    };
    let device_id = half.device.device_id.clone();
    // Given back before the peer hears of it, so that what it attaches next finds a clean table.
    drop(half);
    match refusal {
        Some(refusal) => {
            debug!(device = %device_id, reason = ?refusal, "Taking a link for twin requests away.");
            _ = link.close_with_error(refusal.error()).await;
        }
        None => _ = link.close().await,
    }
}

/// Faults under which a hub takes no requests.
const LIMITS: [FaultKind; 2] = [FaultKind::InvokeThrottling, FaultKind::InvokeMaxMessageQuota];

fn limit(verdict: Verdict) -> TwinRefusal {
    let status = if verdict.kind == FaultKind::InvokeThrottling { 429 } else { 403 };
    TwinRefusal { status, message: verdict.text }
}

/// Waits for a place for a request, within the tier's limits. Subscribing is not counted.
async fn allow(hub: &Hub, wanted: &Wanted) -> Result<(), Denied> {
    match wanted {
        Wanted::Get => hub.pass(Operation::TwinRead, Some(0)).await,
        Wanted::Report(patch, _) => {
            let size = serde_json::to_vec(patch).map_or(0, |text| text.len());
            hub.pass(Operation::TwinUpdate, Some(size)).await
        }
        Wanted::Subscribe | Wanted::Unsubscribe => Ok(()),
    }
}

/// Status, version and body of the reply.
type Performed = (i32, Option<u64>, Option<serde_json::Value>);

fn perform(
    hub: &Hub,
    device_id: &str,
    wanted: Wanted,
    listener: &Listener,
) -> Result<Performed, TwinRefusal> {
    match wanted {
        Wanted::Get => match hub.twin(device_id) {
            Some(twin) => Ok((200, None, Some(twin.for_device()))),
            None => {
                let message = format!("device {device_id} is not registered");
                Err(TwinRefusal { status: 404, message })
            }
        },
        Wanted::Report(patch, if_version) => {
            let version = hub.update_reported(device_id, &patch, if_version)?;
            Ok((204, Some(version), None))
        }
        Wanted::Subscribe => {
            hub.listen_to_desired(device_id, listener.clone());
            Ok((200, None, None))
        }
        Wanted::Unsubscribe => {
            hub.ignore_desired(device_id, listener);
            Ok((200, None, None))
        }
    }
}

/// Sends replies and updates until the link ends or has to.
pub(super) async fn serve_replies(mut link: Sender, half: Half) {
    let (reply_sender, mut replies) = mpsc::channel(WAITING_REPLIES);
    let (update_sender, mut updates) = mpsc::channel(WAITING_UPDATES);
    let listener = Listener { updates: update_sender, overrun: half.pair.over.clone() };
    half.pair.outlet.send_replace(Some(Outlet { replies: reply_sender, listener: listener.clone() }));
    let mut open = OpenOutlet { half, listener };
    let ended = loop {
        let message = tokio::select! {
            biased;
            refusal = open.half.ends() => break Some(refusal.error()),
            _ = link.on_detach() => break None,
            Some(reply) = replies.recv() => reply,
            Some(update) = updates.recv() => twins_wire::update(&update),
        };
        if let Err(ended) = pairs::send(&mut link, &mut open.half, message).await {
            break ended;
        }
    };
    drop(open);
    pairs::close(link, ended).await;
}

/// The outlet of a link for replies; closed on drop, its updates with it.
struct OpenOutlet {
    half: Half,
    listener: Listener,
}

impl Drop for OpenOutlet {
    fn drop(&mut self) {
        let Half { connection, device, pair, .. } = &self.half;
        connection.hub.ignore_desired(&device.device_id, &self.listener);
        pair.outlet.send_if_modified(|outlet| {
            let own = outlet
                .as_ref()
                .is_some_and(|outlet| outlet.listener.updates.same_channel(&self.listener.updates));
            if own {
                *outlet = None;
            }
            own
        });
    }
}
