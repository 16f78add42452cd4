//! One fault as it is asked for, and as it is listed. Checks its limits.

use std::time::Duration;

use super::kind::{FaultKind, Reach};

/// Longest delay.
const MAX_DELAY: Duration = Duration::from_secs(3600);
/// Longest duration.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Longest reason: it goes into an AMQP error, which must fit the smallest frame together with the rest.
const MAX_REASON_CHARS: usize = 128;
/// Longest device id at IoT Hub.
const MAX_DEVICE_CHARS: usize = 128;

/// Something that is to go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Whose; `None` is every device of the hub.
    pub device: Option<String>,
    /// From now to its begin; at most an hour.
    pub delay: Duration,
    /// How long it lasts: what the device tries anew meets it again until then. Zero strikes once. At most a day.
    pub duration: Duration,
    /// What the peer is told; at most 128 characters.
    pub reason: String,
}

/// A fault that was asked for and is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveFault {
    /// Counted from 1, per hub.
    pub id: u64,
    /// As it was asked for.
    pub fault: Fault,
    /// Time to its begin; zero once it has begun.
    pub begins_in: Duration,
    /// Time to its end.
    pub ends_in: Duration,
}

/// Why a fault is not taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultError {
    /// The delay is over its limit.
    #[error("the delay must be an hour at most")]
    Delay,
    /// The duration is over its limit.
    #[error("the duration must be a day at most")]
    Duration,
    /// The reason is over its limit.
    #[error("the reason must have {MAX_REASON_CHARS} characters at most")]
    Reason,
    /// The device id is empty or over its limit.
    #[error("the device id must have 1 to {MAX_DEVICE_CHARS} characters")]
    Device,
    /// It can only be about the whole hub.
    #[error("HubDown is about the whole hub; leave the device out")]
    WholeHub,
    /// It can only be about one device.
    #[error("HubMoved is about one device; name it")]
    OneDevice,
    /// It takes no delay.
    #[error("HubMoved begins at once; leave the delay out")]
    AtOnce,
    /// Too many wait or last.
    #[error("the hub has {0} faults already; end them first")]
    TooMany(usize),
}

impl Fault {
    /// A fault of all devices that strikes at once, and once.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, device: None, delay: Duration::ZERO, duration: Duration::ZERO, reason: String::new() }
    }

    /// The same for one device.
    #[must_use]
    pub fn of(self, device: impl Into<String>) -> Self {
        Self { device: Some(device.into()), ..self }
    }

    /// The same, but later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The same, but lasting.
    #[must_use]
    pub fn lasting(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }

    /// The same with a text for the peer.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// The text for the peer.
    pub(in super::super) fn text(&self) -> String {
        if self.reason.is_empty() { format!("fault injected: {}", self.kind) } else { self.reason.clone() }
    }

    /// Whether it is about `device`.
    pub(in super::super) fn concerns(&self, device: &str) -> bool {
        self.device.as_deref().is_none_or(|own| own == device)
    }

    pub(super) fn check(&self) -> Result<(), FaultError> {
        let too_long = |text: &str, most: usize| text.chars().count() > most;
        if self.delay > MAX_DELAY {
            return Err(FaultError::Delay);
        }
        if self.duration > MAX_DURATION {
            return Err(FaultError::Duration);
        }
        if too_long(&self.reason, MAX_REASON_CHARS) {
            return Err(FaultError::Reason);
        }
        match &self.device {
            Some(device) if device.is_empty() || too_long(device, MAX_DEVICE_CHARS) => {
                Err(FaultError::Device)
            }
            Some(_) if self.kind.reach() == Reach::Hub => Err(FaultError::WholeHub),
            None if self.kind == FaultKind::HubMoved => Err(FaultError::OneDevice),
            Some(_) if self.kind == FaultKind::HubMoved && !self.delay.is_zero() => Err(FaultError::AtOnce),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_limit_is_refused() {
        let fault = || Fault::new(FaultKind::KillTcp).of("a");
        assert_eq!(fault().check(), Ok(()));
        assert_eq!(fault().after(Duration::from_secs(3601)).check(), Err(FaultError::Delay));
        assert_eq!(fault().lasting(Duration::from_secs(86_401)).check(), Err(FaultError::Duration));
        assert_eq!(fault().because("é".repeat(129)).check(), Err(FaultError::Reason));
        assert_eq!(fault().of("").check(), Err(FaultError::Device));
        assert_eq!(Fault::new(FaultKind::HubDown).of("a").check(), Err(FaultError::WholeHub));
        assert_eq!(Fault::new(FaultKind::HubMoved).check(), Err(FaultError::OneDevice));
        let moved = Fault::new(FaultKind::HubMoved).of("a").after(Duration::from_secs(1));
        assert_eq!(moved.check(), Err(FaultError::AtOnce));
    }
}
