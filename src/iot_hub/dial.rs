//! Opens one AMQP connection to a hub: byte stream, keep-alive, raw AMQP header, Open.
//!
//! Knows no session and no token. The caller bounds the time.

use std::io;

use fe2o3_amqp::connection::{Connection, ConnectionHandle, OpenError};
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use super::classify::{self, Class, Condition, Scope};
use super::error::{RetryReason, SendError};
use super::options::{IotHubOptions, Transport};
use crate::azure::HubAddress;
use crate::net::{CloseAnswer, Coalesce, FrameGuard, KeepAlive, transport};

/// What IoT Hub itself advertises.
const MAX_FRAME_BYTES: u32 = 64 * 1024;
/// Likewise; the crate's own 255 would end at the 256th device.
const CHANNEL_MAX: u16 = 8191;
/// Bytes under way on a test's wire, each way.
const WIRE_BYTES: usize = 64 * 1024;
const WEBSOCKET_PATH: &str = "/$iothub/websocket";
const WEBSOCKET_PROTOCOL: &str = "AMQPWSB10";

/// Connects to `hub` and opens AMQP.
pub(super) async fn dial(
    options: &IotHubOptions,
    hub: &HubAddress,
) -> Result<ConnectionHandle<()>, SendError> {
    let failed = |error: io::Error| unreachable_hub(&error, hub);
    if let Some(wires) = &options.wires {
        let (near, far) = tokio::io::duplex(WIRE_BYTES);
        // Nobody takes it: then the stream is cut, as by a hub that is away.
        _ = wires.send(far);
        return open(options, hub, near).await;
    }
    let proxy = options.proxy.as_ref();
    match options.transport {
        Transport::Tls => {
            let stream = transport::tls(&hub.host, hub.port, proxy, &options.tls).await.map_err(failed)?;
            open(options, hub, stream).await
        }
        Transport::WebSocket => {
            let port = options.websocket_port;
            let stream = transport::tls(&hub.host, port, proxy, &options.tls).await.map_err(failed)?;
            let stream = transport::websocket(stream, &hub.host, port, WEBSOCKET_PATH, WEBSOCKET_PROTOCOL)
                .await
                .map_err(failed)?;
            open(options, hub, stream).await
        }
    }
}

async fn open<S>(
    options: &IotHubOptions,
    hub: &HubAddress,
    stream: S,
) -> Result<ConnectionHandle<()>, SendError>
where
    S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
{
    let stream = FrameGuard::new(Coalesce::new(stream), MAX_FRAME_BYTES);
    let stream = KeepAlive::new(stream, options.keep_alive).stall_limit(options.silence_limit);
    // The crate advertises half of this and gives up after the whole.
    let silence = u32::try_from(options.silence_limit.as_millis()).unwrap_or(u32::MAX);
    Connection::builder()
        .container_id(Uuid::new_v4().to_string())
        .hostname(&*hub.host)
        .scheme("amqp")
        .max_frame_size(MAX_FRAME_BYTES)
        .channel_max(CHANNEL_MAX)
        .idle_time_out(silence)
        .open_with_stream(CloseAnswer::new(stream))
        .await
        .map_err(|error| match error {
            OpenError::RemoteClosedWithError(error) => {
                let condition = Condition::from(&error);
                let class = classify::condition(Scope::Connection, &condition);
                classify::error(class, &condition.to_string(), hub)
            }
            other => unreachable_hub(&other, hub),
        })
}

/// The hub can't be reached, or does not speak AMQP.
pub(super) fn unreachable_hub(error: &dyn std::fmt::Display, hub: &HubAddress) -> SendError {
    let class = Class::Retry(RetryReason::Connection, None, true);
    classify::error(class, &format!("{hub} can't be reached: {error}"), hub)
}
