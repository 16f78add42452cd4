//! What The Things Stack defines: message kinds and ids in its webhooks. Knows no Azure.

mod application_up;
mod envelope;
mod gateways;
mod kind;
mod tolerant;
mod uplink;

pub use envelope::{Envelope, EnvelopeError};
pub use gateways::{Reception, Trim, trim_gateways};
pub use kind::Kind;
pub use uplink::Uplink;
