//! From the cloud to the device: what the hub sends becomes downlinks, and their fate is reported as telemetry.
//!
//! Knows no AMQP and no HTTP.

mod alone;
mod attempt;
mod cloud_messages;
mod commands;
mod desired;
mod dispatcher;
mod entry;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod ledger;
mod merge;
mod methods;
pub mod ports;
mod recollection;
mod report;
mod retry;
mod roster;
pub mod translate;

pub use cloud_messages::{CloudMessages, LOCK_MARGIN, MAX_ABANDONS};
pub use commands::MethodsAndDesired;
pub use desired::{DesiredFlow, DesiredParts};
pub use dispatcher::{Dispatcher, MAX_METHODS};
pub use entry::{Begun, End, EntryId, NewEntry, Progress, Source};
pub use ledger::{Ledger, NAMESPACE};
pub use methods::Methods;
pub use recollection::recollect;
pub use report::{Report, ReportState};
pub use roster::Roster;
