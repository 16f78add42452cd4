//! Who an end device is at Azure: directory, resolver, DPS.
//!
//! Knows no AMQP.

mod claims;
mod directory;
mod dps;
mod entries;
mod entry;
mod error;
mod flights;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod hub_id_rule;
mod plan;
mod relocation;
mod resolver;
mod routes;
mod store;

pub use directory::{Directory, Options};
pub use dps::{Endpoint, GLOBAL_ENDPOINT, InvalidEndpoint, Pace};
pub use error::ResolveError;
pub use hub_id_rule::{HubIdRule, InvalidHubIdRule, MissingDevEui};
pub use relocation::relocate;
pub use routes::{DpsScope, InvalidRoute, Route, Routes, Target};
pub use store::{Kept, NAMESPACE, Store, StoreError};
