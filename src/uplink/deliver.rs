//! One message, from its stored body to the hub's answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{debug, error, warn};

use super::delivery::{Hot, Item, Place, Verdict};
use super::ports::{Devices, Downlinks, Hubs, Observer, Records, Reports};
use super::translate::{SkipReason, Translated, translate_in};
use crate::azure::{HubAddress, HubDevice, Telemetry};
use crate::config::TelemetryFormat;
use crate::devices::ResolveError;
use crate::iot_hub::{RetryReason, SendError, Trouble};
use crate::model::{Clock, EndDevice, Lane, Outcome, ParkReason};
use crate::spool::{Seq, SpoolError};

/// How often one delivery may ask anew where its device lives, before it waits like any other failure.
const MAX_RESOLUTIONS: usize = 3;

/// Everything a delivery needs.
#[derive(Debug)]
pub(super) struct Deliverer<R, D, H, O, L> {
    pub(super) records: R,
    pub(super) devices: D,
    pub(super) hubs: H,
    pub(super) observer: O,
    pub(super) downlinks: L,
    pub(super) format: TelemetryFormat,
    pub(super) clock: Clock,
}

impl<R: Records, D: Devices, H: Hubs, O: Observer, L: Downlinks> Deliverer<R, D, H, O, L> {
    /// Delivers one message. The item comes back when it must be tried again. It is sent only if its device lives at the hub
    /// whose pace let it go, `place`; else it finds out where to stand in line.
    pub(super) async fn deliver(
        &self,
        lane: &Lane,
        mut item: Item,
        place: &Place,
    ) -> (Option<Item>, Verdict) {
        let verdict = self.attempt(lane, &mut item, place).await;
        ((!matches!(verdict, Verdict::Finished { .. })).then_some(item), verdict)
    }

    async fn attempt(&self, lane: &Lane, item: &mut Item, place: &Place) -> Verdict {
        let Lane { device, backfilled } = lane;
        let fresh = item.hot.as_ref().and_then(|hot| hot.body.clone().map(|body| (hot.received_ms, body)));
        let (received_ms, body) = match fresh {
            Some(fresh) => fresh,
            None => match self.records.read(item.seq).await {
                Ok(Some(record)) => record,
                Ok(None) => {
                    error!(%device, seq = item.seq.0, "A stored message is no longer in the spool.");
                    return Verdict::Finished { answered: None };
                }
                // Trying again would not help, and would keep back all that follows.
                Err(SpoolError::Damaged(detail)) => {
                    return self.park(device, item, ParkReason::Damaged, detail, None).await;
                }
                Err(error) => {
                    warn!(%device, seq = item.seq.0, %error, "A stored message can't be read back; will try again.");
                    return Verdict::RetryDevice { after: None };
                }
            },
        };
        match translate_in(&body, lane, received_ms, self.format) {
            Ok(Translated::Telemetry { telemetry, dev_eui, .. }) => {
                match self.send(device, dev_eui.as_deref(), &telemetry, item, place).await {
                    Ok(hub_device) => {
                        if *backfilled {
                            // An old uplink is not the device's latest state.
                            self.observer.backfilled();
                        } else {
                            self.downlinks.delivered(device, &hub_device, &body, received_ms);
                        }
                        self.sent(received_ms, &hub_device, item)
                    }
                    Err(verdict) => verdict,
                }
            }
            Ok(Translated::Skipped(SkipReason::NoFPort)) => self.skip(item),
            Ok(Translated::Skipped(SkipReason::Kind(_))) => {
                match self.downlinks.reports(device, &body, received_ms).await {
                    Ok(reports) => self.report(device, reports, received_ms, item, place).await,
                    Err(reason) => {
                        warn!(%device, seq = item.seq.0, reason, "A message about downlinks can't be understood yet; will try again.");
                        Verdict::RetryDevice { after: None }
                    }
                }
            }
            Err(error) => self.park(device, item, error.park_reason(), error.to_string(), None).await,
        }
    }

    /// Sends all reports of one stored message. After a failure all of them come again, under the same message ids.
    async fn report(
        &self,
        device: &EndDevice,
        reports: Reports,
        received_ms: i64,
        item: &mut Item,
        place: &Place,
    ) -> Verdict {
        let mut last = None;
        for telemetry in &reports.telemetry {
            match self.send(device, reports.dev_eui.as_deref(), telemetry, item, place).await {
                Ok(hub_device) => last = Some(hub_device),
                Err(verdict) => return verdict,
            }
        }
        match last {
            Some(hub_device) => self.sent(received_ms, &hub_device, item),
            None => self.skip(item),
        }
    }

    fn skip(&self, item: &mut Item) -> Verdict {
        self.records.done(item.seq);
        self.observer.skipped();
        tell(item, Outcome::Skipped);
        Verdict::Finished { answered: None }
    }

    /// Gives the hub device whose hub accepted the message.
    async fn send(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
        telemetry: &Telemetry,
        item: &mut Item,
        place: &Place,
    ) -> Result<Arc<HubDevice>, Verdict> {
        for resolution in 0..MAX_RESOLUTIONS {
            let hub_device = match self.devices.resolve(device, dev_eui).await {
                Ok(hub_device) => hub_device,
                Err(ResolveError::Retry { detail, after }) => {
                    debug!(%device, detail, "The device can't be resolved yet.");
                    self.observer.retried("resolve");
                    return Err(Verdict::RetryDevice { after });
                }
                Err(ResolveError::Park { reason, detail }) => {
                    return Err(self.park(device, item, reason, detail, None).await);
                }
            };
            if !matches!(place, Place::Hub(hub) if *hub == hub_device.hub) {
                let hub = hub_device.hub.clone();
                return Err(if resolution == 0 { Verdict::Resolved(hub) } else { Verdict::Moved(hub) });
            }
            match self.hubs.send(&hub_device, telemetry).await {
                Ok(()) => return Ok(hub_device),
                Err(SendError::Retry { reason, detail, after, trouble }) => {
                    debug!(%device, hub = %hub_device.hub, reason = reason.as_str(), detail, "Sending failed for now.");
                    self.observer.retried(reason.as_str());
                    return Err(self.retry(reason, after, trouble, &hub_device.hub));
                }
                Err(SendError::Reresolve { reason, detail }) => {
                    debug!(%device, hub = %hub_device.hub, %reason, detail, "The hub refuses the device; asking anew where it lives.");
                    self.observer.retried("reresolve");
                    self.devices.lost(device, &hub_device, reason);
                }
                Err(SendError::Park { reason, detail }) => {
                    return Err(self.park(device, item, reason, detail, Some(hub_device.hub.clone())).await);
                }
            }
        }
        Err(Verdict::RetryDevice { after: None })
    }

    /// How far a passing failure reaches.
    fn retry(
        &self,
        reason: RetryReason,
        after: Option<Duration>,
        trouble: Trouble,
        hub: &HubAddress,
    ) -> Verdict {
        match (trouble, reason) {
            (Trouble::Hub(address), _) => Verdict::RetryHub(address),
            (Trouble::Device, RetryReason::Throttled) => Verdict::Throttled(hub.clone()),
            (Trouble::Device, RetryReason::Quota) => {
                let resets_in = until_midnight(self.clock.now_ms());
                Verdict::QuotaUsedUp { hub: hub.clone(), resets_in }
            }
            (
                Trouble::Device,
                RetryReason::Connection
                | RetryReason::ConnectsThrottled
                | RetryReason::Link
                | RetryReason::Taken
                | RetryReason::Hub
                | RetryReason::Timeout
                | RetryReason::Released
                | RetryReason::Token,
            ) => Verdict::RetryDevice { after },
        }
    }

    fn sent(&self, received_ms: i64, hub_device: &Arc<HubDevice>, item: &mut Item) -> Verdict {
        self.records.done(item.seq);
        let since_ms = u64::try_from(self.clock.now_ms() - received_ms).unwrap_or(0);
        self.observer.sent(Duration::from_millis(since_ms));
        tell_with(item, || Outcome::Sent {
            hub: hub_device.hub.host.to_string(),
            hub_device: hub_device.device_id.to_string(),
        });
        Verdict::Finished { answered: Some(hub_device.hub.clone()) }
    }

    /// Sets the message aside. `answered` is the hub that refused it, if one did.
    async fn park(
        &self,
        device: &EndDevice,
        item: &mut Item,
        reason: ParkReason,
        detail: String,
        answered: Option<HubAddress>,
    ) -> Verdict {
        let Seq(seq) = item.seq;
        if let Err(error) = self.records.park(item.seq, reason, &detail).await {
            warn!(%device, seq, %reason, %error, "A message can't be set aside yet; will try again.");
            return Verdict::RetryDevice { after: None };
        }
        warn!(%device, seq, %reason, detail, "Message parked; `spool show` explains, `spool requeue` sends it again.");
        self.observer.parked(reason);
        tell(item, Outcome::Parked { reason, detail });
        Verdict::Finished { answered }
    }
}

/// IoT Hub counts its days in UTC.
fn until_midnight(now_ms: i64) -> Duration {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    Duration::from_millis((DAY_MS - now_ms.rem_euclid(DAY_MS)).unsigned_abs())
}

fn tell(item: &mut Item, outcome: Outcome) {
    tell_with(item, || outcome);
}

fn tell_with(item: &mut Item, outcome: impl FnOnce() -> Outcome) {
    let waiter: Option<oneshot::Sender<Outcome>> =
        item.hot.as_deref_mut().and_then(|hot: &mut Hot| hot.waiter.take());
    if let Some(waiter) = waiter {
        // Nobody may be waiting any more: the message is safe either way.
        _ = waiter.send(outcome());
    }
}
