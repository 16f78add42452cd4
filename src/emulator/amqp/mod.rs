//! The AMQP 1.0 side of the emulated hub: devices send telemetry, readers fetch it as from an Event Hub.
//!
//! Decisions (addresses, tokens, batches, filters) are pure and stand in files of their own; `serve`, `session` and
//! the link files act on them. Knows neither TLS nor WebSocket: the caller hands over a plain byte stream.

mod options;
mod serve;

pub use options::AmqpOptions;
pub use serve::serve;

/// Name of the Event Hub-compatible endpoint of every emulated hub (`EntityPath` of its connection string).
pub const EVENT_HUB_NAME: &str = "iothub-ehub-emulator";
