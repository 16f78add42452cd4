//! Why a link is refused or taken away, as AMQP error conditions with a text for the peer. Pure.

use fe2o3_amqp_types::definitions::{AmqpError, Error, ErrorCondition, LinkError};
use fe2o3_amqp_types::primitives::Symbol;

use crate::emulator::presence::Cut;
use crate::emulator::throttle::Denied;

/// IoT Hub's own condition for 429.
pub(super) const THROTTLED: &str = "com.microsoft:device-container-throttled";

/// A reason to end a link, a session or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No token on this connection allows it.
    Unauthorized(String),
    /// The device is not registered.
    NoDevice(String),
    /// The device may not connect.
    Disabled(String),
    /// A newer connection has the device.
    Stolen(String),
    /// The device has a newer pair of links of the same kind, or took too few messages from this one.
    Replaced,
    /// A fault takes the link away.
    Forced(String),
    /// A fault ends the session.
    Internal(String),
    /// There is no such node.
    NoNode(String),
    /// A real hub has it, this one does not.
    NotYet(&'static str),
    /// The hub's tier does not have it.
    Tier(&'static str),
    /// Too many in too short a time.
    Throttled(String),
    /// The day's messages are used up.
    Quota(String),
    /// The peer wants more than is allowed.
    TooMuch(&'static str),
    /// A filter or field that is not understood.
    Invalid(String),
}

impl Refusal {
    /// What a device's link is told when its connection loses the device.
    pub(super) fn of_cut(cut: Cut, device_id: &str) -> Self {
        match cut {
            Cut::Stolen => Self::Stolen(device_id.to_owned()),
            Cut::Deleted => Self::NoDevice(device_id.to_owned()),
            Cut::Disabled => Self::Disabled(device_id.to_owned()),
            Cut::KeysChanged => Self::Unauthorized(format!("the keys of device {device_id} were changed")),
            Cut::TokenExpired => Self::Unauthorized(format!("the token of device {device_id} expired")),
        }
    }

    /// What whoever wants more than the tier gives is told.
    pub(super) fn of_limit(denied: Denied) -> Self {
        match denied {
            Denied::Throttled(_) => Self::Throttled(denied.text()),
            Denied::Quota => Self::Quota(denied.text()),
        }
    }

    /// The error a detach, end or close carries.
    pub(super) fn error(&self) -> Error {
        match self {
            Self::Unauthorized(why) => Error::new(AmqpError::UnauthorizedAccess, why.clone(), None),
            Self::NoDevice(id) => {
                Error::new(AmqpError::NotFound, format!("Device {id} not registered."), None)
            }
            Self::Disabled(id) => {
                Error::new(AmqpError::UnauthorizedAccess, format!("Device {id} is disabled."), None)
            }
            Self::Stolen(id) => {
                let text = format!("a newer connection of device {id} has taken over");
                Error::new(LinkError::Stolen, text, None)
            }
            Self::Replaced => {
                let text = "a newer pair of links took over, or this one took its messages too slowly";
                Error::new(LinkError::DetachForced, text.to_owned(), None)
            }
            Self::Forced(why) => Error::new(LinkError::DetachForced, why.clone(), None),
            Self::Internal(why) => Error::new(AmqpError::InternalError, why.clone(), None),
            Self::NoNode(address) => {
                Error::new(AmqpError::NotFound, format!("there is no node {address:?}"), None)
            }
            Self::NotYet(what) => {
                Error::new(AmqpError::NotImplemented, format!("the emulator has no {what} yet"), None)
            }
            Self::Tier(what) => {
                Error::new(AmqpError::NotAllowed, format!("a hub of the basic tier has no {what}"), None)
            }
            Self::Throttled(why) => {
                Error::new(ErrorCondition::Custom(Symbol::from(THROTTLED)), why.clone(), None)
            }
            Self::Quota(why) => Error::new(AmqpError::ResourceLimitExceeded, why.clone(), None),
            Self::TooMuch(what) => {
                Error::new(AmqpError::ResourceLimitExceeded, format!("too many {what}"), None)
            }
            Self::Invalid(why) => Error::new(AmqpError::InvalidField, why.clone(), None),
        }
    }
}
