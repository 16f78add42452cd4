//! What one AMQP connection of the emulator allows and advertises. Knows no socket.

use std::time::Duration;

/// Limits and timings of a connection; the defaults are IoT Hub's own where it has one.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// Tokens held at the same time; one more is answered with status 500. Default 1000, IoT Hub's limit.
    pub max_tokens: usize,
    /// Links at the same time, over all sessions. Default 8192: 1000 devices with three link pairs each, and spare.
    pub max_links: usize,
    /// Highest channel number, hence sessions minus one. Default 8191, as IoT Hub advertises.
    pub channel_max: u16,
    /// Silence after which the peer is given up; advertised in full. Default 240 s, as IoT Hub.
    pub idle_time_out: Duration,
    /// Largest frame taken, in bytes. Default 65 536, as IoT Hub.
    pub max_frame_size: u32,
    /// `max-message-size` of links, in bytes; beyond it the link is torn down. Default 1 MiB, as IoT Hub.
    pub advertised_message_size: u64,
    /// Largest telemetry message or batch that is kept, in bytes of body, properties and their names; a larger
    /// one is rejected. Default 256 KiB, as IoT Hub.
    pub accepted_message_size: usize,
    /// Time for protocol header, SASL and open. Default 10 s, so that a silent peer holds nothing for long.
    pub handshake_timeout: Duration,
    /// How often expired tokens are looked for. Default 1 s.
    pub token_check: Duration,
    /// Time a peer has to answer our close before the stream is cut. Default 2 s.
    pub close_timeout: Duration,
}

impl Default for AmqpOptions {
    fn default() -> Self {
        Self {
            max_tokens: 1000,
            max_links: 8192,
            channel_max: 8191,
            idle_time_out: Duration::from_secs(240),
            max_frame_size: 65_536,
            advertised_message_size: 1024 * 1024,
            accepted_message_size: 256 * 1024,
            handshake_timeout: Duration::from_secs(10),
            token_check: Duration::from_secs(1),
            close_timeout: Duration::from_secs(2),
        }
    }
}
