//! What Azure defines, pure: connection strings, SAS tokens, derived keys, hub devices, telemetry messages.
//!
//! Does no I/O and knows no LoRaWAN.

mod hub_device;
mod telemetry;

pub use hub_device::{Credential, HubAddress, HubDevice, SigningKey};
pub use telemetry::{MAX_TELEMETRY_BYTES, Telemetry};
