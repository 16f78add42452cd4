//! From the spool to the hub: pump, per-device lanes, translation. Knows no HTTP and no AMQP.

mod translate;

pub use translate::{SkipReason, TranslateError, Translated, translate};
