//! What the directory knows of one end device at one moment. Pure: time comes in as an argument.

use std::sync::Arc;
use std::time::Duration;

use super::ResolveError;
use super::hub_id_rule::DevEui;
use crate::azure::HubDevice;
use crate::model::ParkReason;

/// A hub that refuses a device within this time of its registration makes that registration worthless.
const FRESH_MS: i64 = 10 * 60 * 1000;
/// Wait before DPS is asked again for a device that was refused right after its registration: hubs take a
/// moment to learn of a new device.
const SECOND_TRY_MS: i64 = 5000;
/// Worthless registrations in a row after which the device is parked.
const MAX_WORTHLESS: u8 = 2;
/// The same for a device whose token the hub does not take: hubs do so for moments in their own trouble, and a message
/// that was parked for it takes an operator. The waits add up to 31 s.
const MAX_UNAUTHORIZED: u8 = 7;
/// Wait before the second try of such a device; doubles up to [`LAST_UNAUTHORIZED_MS`].
const FIRST_UNAUTHORIZED_MS: i64 = 1000;
const LAST_UNAUTHORIZED_MS: i64 = 8000;
/// How much longer a known assignment is used while DPS can't confirm it.
const GRACE_MS: i64 = 10 * 60 * 1000;

/// One end device's state.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// It has a hub device.
    Known(Known),
    /// Its last resolution, or its hub, ended with this.
    Refused {
        /// For the caller.
        error: Box<ResolveError>,
        /// Remembered until then.
        until_ms: i64,
        /// Worthless registrations so far.
        worthless: u8,
    },
    /// Its hub does not take it any more; DPS is to be asked.
    Lost {
        /// Not before then.
        ask_ms: i64,
        /// Worthless registrations so far.
        worthless: u8,
        /// What the hub said.
        reason: ParkReason,
        /// The DevEUI that went into the hub id.
        dev_eui: Option<DevEui>,
    },
}

/// A resolved end device.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) hub_device: Arc<HubDevice>,
    /// The DevEUI that went into the hub id.
    pub(super) dev_eui: Option<DevEui>,
    /// When DPS answered, or the claim was renewed.
    pub(super) since_ms: i64,
    pub(super) expires_ms: i64,
    pub(super) worthless: u8,
}

impl Entry {
    /// What the caller may use right now; `None` if the device must be resolved. `dev_eui` is looked at only if
    /// it went into the hub id and the message carries one.
    pub(super) fn answer(
        &self,
        now_ms: i64,
        dev_eui: Option<&str>,
    ) -> Result<Option<Arc<HubDevice>>, ResolveError> {
        match self {
            Self::Known(known) => {
                let other = known.dev_eui.is_some()
                    && dev_eui.and_then(DevEui::parse).is_some_and(|now| Some(now) != known.dev_eui);
                Ok((now_ms < known.expires_ms && !other).then(|| Arc::clone(&known.hub_device)))
            }
            Self::Refused { error, until_ms, .. } if now_ms < *until_ms => Err((**error).clone()),
            Self::Refused { .. } => Ok(None),
            Self::Lost { ask_ms, reason, .. } if now_ms < *ask_ms => Err(ResolveError::Retry {
                detail: format!("its hub refuses the device for now ({reason})"),
                after: u64::try_from(ask_ms - now_ms).ok().map(Duration::from_millis),
            }),
            Self::Lost { .. } => Ok(None),
        }
    }

    /// Worthless registrations that a new one has to answer for.
    pub(super) fn worthless(&self) -> u8 {
        match self {
            // It worked long enough to expire.
            Self::Known(_) => 0,
            Self::Refused { worthless, .. } | Self::Lost { worthless, .. } => *worthless,
        }
    }

    /// The DevEUI that went into the hub id, for whoever asks without a message that tells it.
    pub(super) fn dev_eui(&self) -> Option<DevEui> {
        match self {
            Self::Known(known) => known.dev_eui,
            Self::Lost { dev_eui, .. } => *dev_eui,
            Self::Refused { .. } => None,
        }
    }

    /// Whether nobody will miss it.
    pub(super) fn is_stale(&self, now_ms: i64) -> bool {
        match self {
            Self::Known(known) => now_ms > known.expires_ms.saturating_add(GRACE_MS),
            Self::Refused { until_ms: from, .. } | Self::Lost { ask_ms: from, .. } => {
                now_ms > from.saturating_add(FRESH_MS)
            }
        }
    }
}

impl Known {
    /// The same for a while longer: DPS can't be asked, and the hub did not complain.
    pub(super) fn prolonged(&self, now_ms: i64) -> Self {
        Self { expires_ms: now_ms.saturating_add(GRACE_MS), ..self.clone() }
    }

    /// The hub refused the device. DPS is asked at once if it knew the device for long, after a wait if it
    /// assigned it only just; after the second worthless registration the device is parked with the hub's
    /// reason for `negative_ms`, and so it is when there is no DPS to ask. If it is only its token that the hub does not
    /// take, that is tried for half a minute before.
    pub(super) fn lost(&self, reason: ParkReason, now_ms: i64, negative_ms: i64) -> Entry {
        let device = &self.hub_device;
        let refused = |detail, worthless| Entry::Refused {
            error: Box::new(ResolveError::Park { reason, detail }),
            until_ms: now_ms.saturating_add(negative_ms),
            worthless,
        };
        let at = format!("hub {} refuses hub device {} ({reason})", device.hub, device.device_id);
        let fresh = now_ms.saturating_sub(self.since_ms) < FRESH_MS;
        if reason == ParkReason::Unauthorized && (fresh || !device.provisioned) {
            let worthless = if fresh { self.worthless.saturating_add(1) } else { 1 };
            if worthless >= MAX_UNAUTHORIZED {
                return refused(format!("{at}, time and again; look at the device's keys"), worthless);
            }
            let wait_ms = (FIRST_UNAUTHORIZED_MS << (worthless - 1)).min(LAST_UNAUTHORIZED_MS);
            let ask_ms = now_ms.saturating_add(wait_ms);
            return Entry::Lost { ask_ms, worthless, reason, dev_eui: self.dev_eui };
        }
        if !device.provisioned {
            return refused(format!("{at}; look at the device in that hub, and at devices.hub_id"), 0);
        }
        if !fresh {
            return Entry::Lost { ask_ms: now_ms, worthless: 0, reason, dev_eui: self.dev_eui };
        }
        let worthless = self.worthless.saturating_add(1);
        if worthless >= MAX_WORTHLESS {
            return refused(format!("{at}, although DPS assigned it there just now"), worthless);
        }
        let ask_ms = now_ms.saturating_add(SECOND_TRY_MS);
        Entry::Lost { ask_ms, worthless, reason, dev_eui: self.dev_eui }
    }
}
