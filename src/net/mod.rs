//! Byte streams: TLS settings, WebSocket as a stream, HTTP proxy, AMQP keep-alive. Knows nothing of messages.

mod frame_bytes;
mod keep_alive;
pub mod proxy;
pub mod tls;
pub mod transport;
pub mod websocket;

pub use keep_alive::KeepAlive;
