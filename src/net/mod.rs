//! Byte streams and HTTP: TCP, TLS settings, WebSocket as a stream, proxies, AMQP keep-alive, an HTTP client. Knows nothing of messages.

mod close_answer;
mod coalesce;
mod frame_bytes;
mod frame_guard;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod http_client;
mod keep_alive;
mod nesting;
pub mod proxy;
pub mod tcp;
pub mod tls;
pub mod transport;
mod trust;
pub mod websocket;

pub use close_answer::CloseAnswer;
pub use coalesce::Coalesce;
pub use frame_guard::{FrameGuard, unreadable};
pub use http_client::{HttpClientError, Schemes, causes, http_client};
pub use keep_alive::KeepAlive;
