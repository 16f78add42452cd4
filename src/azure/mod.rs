//! What Azure defines, pure: connection strings, SAS tokens, derived keys, hub devices, telemetry, and what the cloud sends back.
//!
//! Does no I/O and knows no LoRaWAN.

mod cloud;
mod connection_string;
mod derived_key;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod hub_device;
pub mod hub_id;
pub mod sas;
mod telemetry;
mod tier;

pub use cloud::{CloudMessage, Desired, DesiredScope, MethodReply, MethodRequest, Settlement};
pub use connection_string::{ConnectionString, ConnectionStringError, Identity};
pub use derived_key::derive_device_key;
pub use hub_device::{Credential, HubAddress, HubDevice, SigningKey};
pub use telemetry::{MAX_TELEMETRY_BYTES, Telemetry};
pub use tier::{Allowance, Tier};

/// HMAC-SHA256, the one primitive behind SAS signatures and derived keys.
fn hmac_sha256(key: &SigningKey, message: &[&[u8]]) -> [u8; 32] {
    use hmac::{Hmac, KeyInit as _, Mac as _};

    let mut mac =
        Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    for part in message {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
