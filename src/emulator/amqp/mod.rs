//! The AMQP 1.0 side of the emulated hub: devices send telemetry, get messages, answer methods and keep their twin;
//! readers fetch telemetry as from an Event Hub; services send messages and fetch feedback.
//!
//! Decisions (addresses, tokens, batches, filters) are pure and stand in files of their own; `serve`, `session` and
//! the link files act on them. Knows neither TLS nor WebSocket: the caller hands over a plain byte stream.

mod address;
mod cbs;
mod cloud_messages;
mod cloud_send;
mod connection;
mod credentials;
mod feedback;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(super) mod fuzzing;
mod incoming;
mod lifelines;
mod management;
mod methods;
mod methods_wire;
mod options;
mod outgoing;
mod outlets;
mod pairs;
mod position;
mod reader;
mod received;
mod refusal;
mod replies;
mod requests;
mod sasl;
mod serve;
mod session;
mod strikes;
mod telemetry;
mod tokens;
mod twins;
mod twins_wire;
mod values;
mod wire;

pub use options::AmqpOptions;
pub use serve::serve;

/// Name of the Event Hub-compatible endpoint of every emulated hub (`EntityPath` of its connection string).
pub const EVENT_HUB_NAME: &str = "iothub-ehub-emulator";
