//! Which SAS token opens what, and when it must be renewed. Signs; sends nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::options::IotHubOptions;
use crate::azure::sas::{device_resource, sign};
use crate::azure::{Credential, HubAddress, HubDevice};
use crate::model::Secret;

/// Shortest pause between tries to renew.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// Longest pause between tries to renew.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Whom a token speaks for.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// Everybody on the connection, by a hub policy.
    Policy(HubAddress, Credential),
    /// One device, by its own key.
    Device(Arc<HubDevice>),
}

/// A signed token on its way to the hub.
#[derive(Debug)]
pub(super) struct Token {
    /// `name` of the put-token.
    pub(super) audience: String,
    pub(super) text: Secret,
}

impl Subject {
    /// Whether both speak for the same device, or both for a policy.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Policy(..), Self::Policy(..)) => true,
            (Self::Device(one), Self::Device(other)) => one.device_id == other.device_id,
            (Self::Policy(..), Self::Device(_)) | (Self::Device(_), Self::Policy(..)) => false,
        }
    }

    /// A token that lives for the configured time from now, or longer if the clock was set back since we started.
    pub(super) fn token(&self, options: &IotHubOptions) -> Token {
        let now_s = u64::try_from(options.clock.forward_ms() / 1000).unwrap_or(0);
        let expiry = now_s + options.token_lifetime.as_secs().max(1);
        let (audience, credential) = match self {
            Self::Policy(hub, credential) => (hub.host.to_string(), credential),
            Self::Device(device) => {
                (device_resource(&device.hub.host, &device.device_id), &device.credential)
            }
        };
        let text = match credential {
            Credential::Policy { name, key } => sign(&audience, key, expiry, Some(name)),
            Credential::Device { key } => sign(&audience, key, expiry, None),
        };
        Token { audience, text: Secret::new(text) }
    }
}

/// When a token is to be renewed, and until when trying makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) renew: Instant,
    pub(super) end: Instant,
}

impl Life {
    /// Of a token signed now: renewed at 85 %.
    pub(super) fn starting_now(lifetime: Duration) -> Self {
        let now = Instant::now();
        Self { renew: now + lifetime.mul_f64(0.85), end: now + lifetime }
    }

    /// After a passing failure: again soon, as often as fits before the end. `None` when it is too late.
    pub(super) fn again(self, lifetime: Duration) -> Option<Self> {
        let pause = (lifetime / 50).clamp(SHORTEST_RETRY, LONGEST_RETRY);
        let renew = Instant::now() + pause;
        (renew < self.end).then_some(Self { renew, end: self.end })
    }
}
