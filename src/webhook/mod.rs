//! The HTTP edge that The Things Stack posts to: authenticate, cap, parse, store, answer. Knows no hub and no DPS.
//!
//! `POST /webhook` and `POST /webhook/<anything>` take every kind of message; the kind is read from the body.
//!
//! | answer | when |
//! |---|---|
//! | 202 `stored`, `duplicate` | the message is on disk, now or since an earlier post |
//! | 202 `ignored` | no uplink with an FPort, and nothing about a downlink of this program: nothing is kept |
//! | 200 `sent` | with `Prefer: wait=N`: the hub accepted it |
//! | 202 `pending` | with `Prefer: wait=N`: on disk, the hub's answer is not known yet |
//! | 404, 409, 413, 422, 424, 502 | with `Prefer: wait=N`: on disk but parked; the reason decides the status |
//! | 400, 401, 408, 413, 415, 503 | refused; nothing was kept. 503 says when to come back |

mod body;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod handler;
mod intake;
mod offer;
mod prefer;
mod refusal;
mod reply;
mod routes;
mod secrets;

pub use intake::{Intake, NewMessage, StoreError, Stored};
pub use routes::serve;
