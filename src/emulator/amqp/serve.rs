//! One accepted connection from its first byte to its last.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fe2o3_amqp::acceptor::{ConnectionAcceptor, ListenerConnectionHandle, SessionAcceptor};
use fe2o3_amqp::connection::OpenError;
use fe2o3_amqp_types::definitions::{ConnectionError, Error, Fields};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::AmqpOptions;
use super::connection::Connection;
use super::refusal::Refusal;
use super::sasl::Sasl;
use super::session;
use super::strikes::{Ending, Strikes};
use super::tokens::Grant;
use super::wire::{Wire, WireControl};
use crate::emulator::Hub;
use crate::net::{CloseAnswer, Coalesce, FrameGuard, KeepAlive};

const RAW_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
/// Frames that wait for a slow peer, per connection.
const FRAME_BUFFER: usize = 4096;
/// Attaches and frames that wait within a session. One session may carry a thousand devices (C SDK), which attach
/// several links each at once.
const SESSION_BUFFER: usize = 16_384;
/// As IoT Hub advertises; the default would be left out, and pyamqp needs to read it.
const HANDLE_MAX: u32 = 262_143;
/// Silence of ours after which an empty frame goes out if the peer names no idle time-out; as EdgeHub.
const HEARTBEAT: Duration = Duration::from_secs(120);

/// Serves one connection of `hub`, whose TLS or WebSocket layer the caller has taken off. Ends when the peer goes or
/// `stop` fires, and leaves no task behind then.
pub async fn serve<S>(mut stream: S, hub: Arc<Hub>, options: AmqpOptions, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if hub.is_down() {
        return;
    }
    let control = WireControl::default();
    let sasl = Sasl::new(Arc::clone(&hub));
    let handshake = async {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.ok()?;
        if header != RAW_HEADER && header != SASL_HEADER {
            // The answer to a protocol we don't speak is the one we do.
            _ = stream.write_all(&SASL_HEADER).await;
            _ = stream.shutdown().await;
            return None;
        }
        let wire = Wire::new(stream, Bytes::copy_from_slice(&header), &control);
        let wire = FrameGuard::new(Coalesce::new(wire), options.max_frame_size);
        let wire = CloseAnswer::new(KeepAlive::new(wire, HEARTBEAT));
        accept(wire, header == SASL_HEADER, &sasl, &options)
            .await
            .inspect_err(|error| debug!(error = %error, "An AMQP connection was not opened."))
            .ok()
    };
    let opened = tokio::select! {
        () = stop.cancelled() => None,
        opened = timeout(options.handshake_timeout, handshake) => opened.ok().flatten(),
    };
    if let Some(handle) = opened {
        run(handle, hub, options, sasl.take_grant(), stop, control).await;
    }
}

async fn accept<Io>(
    wire: Io,
    with_sasl: bool,
    sasl: &Sasl,
    options: &AmqpOptions,
) -> Result<ListenerConnectionHandle, OpenError>
where
    Io: AsyncRead + AsyncWrite + std::fmt::Debug + Unpin + Send + 'static,
{
    // pyamqp reads performatives by index; a last field that is there keeps the others from being left out.
    let acceptor = ConnectionAcceptor::builder()
        .container_id(format!("DeviceGateway_{}", uuid::Uuid::new_v4().simple()))
        .hostname("localhost".to_owned())
        .max_frame_size(options.max_frame_size)
        .channel_max(options.channel_max)
        .idle_time_out(u32::try_from(options.idle_time_out.as_millis()).unwrap_or(u32::MAX))
        .properties(product())
        .buffer_size(FRAME_BUFFER);
    if with_sasl {
        acceptor.sasl_acceptor(sasl.clone()).build().accept(wire).await
    } else {
        acceptor.build().accept(wire).await
    }
}

/// Waits on: sessions that begin, sessions that end, faults, the clock for expired tokens, `stop`.
async fn run(
    mut handle: ListenerConnectionHandle,
    hub: Arc<Hub>,
    options: AmqpOptions,
    plain: Option<Grant>,
    stop: CancellationToken,
    control: WireControl,
) {
    let (close_timeout, patience) = (options.close_timeout, options.idle_time_out);
    hub.note_connection();
    let mut token_check = interval(options.token_check);
    token_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let connection = Arc::new(Connection::new(hub, options));
    let plain_expiry = plain.as_ref().map(Grant::expiry);
    if let Some(grant) = plain {
        // The first token of a connection always has a place.
        connection.put_token(grant);
    }
    let acceptor = SessionAcceptor::builder()
        .handle_max(HANDLE_MAX)
        .properties(product())
        .buffer_size(SESSION_BUFFER)
        .build();
    let mut sessions = JoinSet::new();
    let mut number = 0;
    let mut strikes = Strikes::new(Arc::clone(&connection), control.clone());
    let ending = loop {
        let incoming = tokio::select! {
            () = stop.cancelled() => {
                let text = "the emulator is shutting down".to_owned();
                break Ending::Close(Some(Error::new(ConnectionError::ConnectionForced, text, None)));
            }
            ending = strikes.until_end() => break ending,
            Some(_) = sessions.join_next() => continue,
            _ = token_check.tick() => {
                connection.expire_tokens();
                // It floods a session beyond all buffers, or takes no answers: the crate's engine waits for ever.
                if control.held_up() > patience {
                    break Ending::Cut;
                }
                // A PLAIN token can't be renewed: the connection ends with it.
                if plain_expiry.is_some_and(|expiry| expiry <= connection.now_s()) {
                    let refusal = Refusal::Unauthorized("the SASL PLAIN token expired".to_owned());
                    break Ending::Close(Some(refusal.error()));
                }
                continue;
            }
            incoming = handle.next_incoming_session() => incoming,
        };
        let Some(incoming) = incoming else { break Ending::Close(None) };
        match acceptor.accept_incoming_session(incoming, &mut handle).await {
            Ok(session) => {
                number += 1;
                sessions.spawn(session::serve(session, Arc::clone(&connection), number));
            }
            Err(error) => {
                debug!(error = ?error, "A session was not begun.");
                break Ending::Close(None);
            }
        }
    };
    close(handle, ending, &connection, sessions, close_timeout, &control).await;
}

/// Closes in good manners first; after the time-out the stream is cut, so that nothing of ours waits for the peer.
async fn close(
    mut handle: ListenerConnectionHandle,
    ending: Ending,
    connection: &Connection,
    mut sessions: JoinSet<()>,
    patience: Duration,
    control: &WireControl,
) {
    let closing = async {
        match ending {
            // Whatever is said now does not go out any more.
            Ending::Cut => control.cut(),
            Ending::Close(Some(error)) => _ = handle.close_with_error(error).await,
            Ending::Close(None) => _ = handle.close().await,
        }
    };
    _ = timeout(patience, closing).await;
    connection.over.cancel();
    sessions.shutdown().await;
    control.cut();
    control.dropped().await;
}

fn product() -> Fields {
    let mut properties = Fields::new();
    properties.insert(Symbol::from("product"), Value::from("tti-connector emulator"));
    properties
}
