//! An IoT Hub, a DPS and a small Things Stack to run and test against, written from the protocol facts.
//!
//! Knows none of `azure`, `iot_hub`, `devices`, `things_stack` of the connector: if both sides shared code, a wrong SAS token would pass.

mod amqp;
mod certificates;
mod cloud_messages;
mod device;
mod dps;
mod dps_wire;
mod error;
mod event;
mod faults;
mod faults_api;
mod faults_hub;
mod files;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod https;
mod https_limits;
mod hub;
mod hub_control;
mod listeners;
mod methods;
mod methods_api;
mod options;
mod partition;
mod presence;
mod queries;
mod queries_api;
mod queries_parse;
mod ready;
mod registration;
mod registry;
mod registry_bulk;
mod registry_json;
mod reply;
mod running;
mod sas;
mod saved;
pub mod things_stack;
mod throttle;
mod throttle_hub;
mod tier;
mod tier_api;
mod twin;
mod twin_limits;
mod twin_table;
mod twins_api;
mod websocket;

pub use amqp::{AmqpOptions, EVENT_HUB_NAME, serve as serve_amqp};
pub use certificates::Renewal;
pub use cloud_messages::{
    Ack, CloudMessage, CloudRefusal, CloudSettings, DeadLetter, Fate, FeedbackRecord, Queued,
};
pub use device::{Device, DeviceStatus, RegistryError};
pub use dps::Dps;
pub use error::EmulatorError;
pub use event::Event;
pub use faults::{ActiveFault, Fault, FaultError, FaultKind};
pub use hub::{Hub, HubChange, PARTITIONS};
pub use methods::{MethodAnswer, MethodError};
pub use options::Options;
pub use ready::{Ready, ReadyHub};
pub use registration::{Calls, Failure, Refusal, Registration, RegistrationStatus};
pub use running::Emulator;
pub use sas::{Token, TokenError};
pub use throttle::{Count, Traffic};
pub use tier::{Tier, TierSettings};
pub use twin::{Properties, Section, Twin};
pub use twin_limits::TwinError;
