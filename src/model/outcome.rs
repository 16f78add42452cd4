//! What became of a message, in words that logs, metrics, the spool and the webhook share.

use std::fmt;

/// The end, or the present state, of one stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The hub accepted its telemetry.
    Sent {
        /// Host name of the hub that took it.
        hub: String,
        /// The device's id at that hub.
        hub_device: String,
    },
    /// Set aside with its reason; it waits for an operator.
    Parked {
        /// The class of the failure.
        reason: ParkReason,
        /// One sentence for a person. Holds no secret and no payload.
        detail: String,
    },
    /// It needs no telemetry after all (for instance an uplink without FPort stored by an older version).
    Skipped,
}

/// Why a message can't be sent and waits for an operator instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParkReason {
    /// No hub and no DPS is configured for its application.
    NotConfigured,
    /// The hub does not know the device, and no DPS could tell where it went.
    DeviceUnknown,
    /// DPS answered failed, disabled, or refused the registration for good.
    NotAssigned,
    /// The hub refuses this device's key, or the device is disabled.
    Unauthorized,
    /// IoT Hub can't take the id that `devices.hub_id` gives.
    InvalidHubId,
    /// Another end device already owns that hub device.
    HubIdTaken,
    /// Over 256 KB even without gateway metadata.
    TooLarge,
    /// The hub rejected this one message for good.
    Rejected,
    /// The stored body can't be read as an uplink.
    Malformed,
    /// The disk does not give back what was stored.
    Damaged,
}

impl ParkReason {
    /// All reasons, for tables and metrics.
    pub const ALL: [Self; 10] = [
        Self::NotConfigured,
        Self::DeviceUnknown,
        Self::NotAssigned,
        Self::Unauthorized,
        Self::InvalidHubId,
        Self::HubIdTaken,
        Self::TooLarge,
        Self::Rejected,
        Self::Malformed,
        Self::Damaged,
    ];

    /// The stable name used in the spool, in metric labels and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::DeviceUnknown => "device_unknown",
            Self::NotAssigned => "not_assigned",
            Self::Unauthorized => "unauthorized",
            Self::InvalidHubId => "invalid_hub_id",
            Self::HubIdTaken => "hub_id_taken",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::Malformed => "malformed",
            Self::Damaged => "damaged",
        }
    }

    /// Reads back [`ParkReason::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for ParkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
