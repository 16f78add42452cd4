//! An IoT Hub and a DPS to run and test against, written from the protocol facts.
//!
//! Knows none of `azure`, `iot_hub`, `devices`: if both sides shared code, a wrong SAS token would pass.

mod amqp;
mod hub;
mod presence;
mod sas;

pub use amqp::{AmqpOptions, EVENT_HUB_NAME, serve as serve_amqp};
pub use hub::{Device, DeviceStatus, Event, Hub, HubChange, RegistryError};
pub use sas::{Token, TokenError};
