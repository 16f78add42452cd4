//! An IoT Hub and a DPS to run and test against, written from the protocol facts.
//!
//! Knows none of `azure`, `iot_hub`, `devices`: if both sides shared code, a wrong SAS token would pass.

mod hub;
mod sas;

pub use hub::{Device, DeviceStatus, Event, Hub, HubChange, RegistryError};
pub use sas::{Token, TokenError};
