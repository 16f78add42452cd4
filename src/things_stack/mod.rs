//! What The Things Stack defines: message kinds and ids in its webhooks. Knows no Azure.

mod application_up;
mod envelope;
mod kind;
mod tolerant;

pub use envelope::{Envelope, EnvelopeError};
pub use kind::Kind;
