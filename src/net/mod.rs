//! Byte streams: TLS settings, WebSocket as a stream, HTTP proxy, AMQP keep-alive. Knows nothing of messages.

pub mod websocket;
