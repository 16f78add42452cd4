//! From the spool to the hub: pump, per-device lanes, translation.
//!
//! Knows no HTTP and no AMQP. What it needs of its neighbours it says in [`ports`]; `app` joins them.

mod deliver;
mod delivery;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod limits;
mod line;
pub mod ports;
mod pump;
mod reported;
mod schedule;
mod translate;
mod twin_reports;
mod window;

pub use limits::HubLimits;
pub use pump::{Pump, PumpOptions};
pub use reported::{patch, reported};
pub use translate::{SkipReason, TranslateError, Translated, translate, translate_in};
pub use twin_reports::{TwinReports, Twins};
