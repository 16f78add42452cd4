//! Words every room shares: who a device is, what became of a message, secrets, time and waits.
//!
//! Knows no wire format of a whole message.

mod backoff;
mod clock;
mod end_device;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod lane;
mod outcome;
mod pace;
mod secret;
mod spelling;

pub use backoff::Backoff;
pub use clock::Clock;
pub use end_device::{EndDevice, InvalidEndDevice};
pub use lane::Lane;
pub use outcome::{Outcome, ParkReason};
pub use pace::Pace;
pub use secret::Secret;
pub use spelling::{dev_eui, hex, iso_utc};
