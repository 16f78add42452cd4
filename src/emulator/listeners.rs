//! The emulator's sockets: one address per hub, one port number for all, TLS in front of what serves them.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::amqp::{self, AmqpOptions};
use super::error::EmulatorError;
use super::hub::Hub;

/// Time for the TLS handshake, so that a silent peer holds its place only for a while.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Free ports tried until one is free on all addresses.
const PORT_ATTEMPTS: usize = 32;
/// Wait after a failed accept: the process is out of file handles, and trying at once would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for AMQP to say goodbye when the emulator stops.
const AMQP_GRACE: Duration = Duration::from_secs(3);

/// Listening sockets, each with the index of its hub.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) port: u16,
    pub(super) listeners: Vec<(usize, TcpListener)>,
}

/// What connections of one kind share.
#[derive(Clone)]
pub(super) struct Reception {
    pub(super) tls: TlsAcceptor,
    /// Bounds the connections of this kind.
    pub(super) places: Arc<Semaphore>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// The host of a hub, counted from 0: `localhost`, then `127.0.0.2` and so on. None of them needs DNS.
pub(super) fn host(index: usize) -> String {
    if index == 0 { "localhost".to_owned() } else { address(index).to_string() }
}

fn address(index: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(index + 1).unwrap_or(u8::MAX)).into()
}

/// Listens on the addresses of all hubs, with one port number; 0 takes one that is free on all.
///
/// # Errors
/// `Taken` or `Listen` name the address; `flag` is what changes the port.
pub(super) async fn bind(hubs: usize, port: u16, flag: &'static str) -> Result<Bound, EmulatorError> {
    if port != 0 {
        return bind_all(hubs, port, flag).await;
    }
    for _ in 0..PORT_ATTEMPTS {
        match bind_all(hubs, 0, flag).await {
            Err(EmulatorError::Taken { .. }) => {}
            bound => return bound,
        }
    }
    Err(EmulatorError::NoFreePort(flag))
}

async fn bind_all(hubs: usize, port: u16, flag: &'static str) -> Result<Bound, EmulatorError> {
    let mut bound = Bound { port, listeners: Vec::new() };
    for index in 0..hubs {
        let listener = listen(SocketAddr::new(address(index), bound.port), flag).await?;
        // The first one fixes the number for the others.
        bound.port = listener.local_addr().map_or(bound.port, |address| address.port());
        bound.listeners.push((index, listener));
    }
    // `localhost` may resolve to ::1 first. Where the system has no IPv6 it does not.
    match listen(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound.port), flag).await {
        Ok(listener) => bound.listeners.push((0, listener)),
        Err(taken @ EmulatorError::Taken { .. }) => return Err(taken),
        Err(error) => tracing::debug!(%error, "The emulator listens on IPv4 only."),
    }
    Ok(bound)
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, EmulatorError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => EmulatorError::Taken { address, flag },
        _ => EmulatorError::Listen { address, flag, source },
    })
}

/// Accepts TLS connections of one listener until the emulator stops, and serves each in a task of its own. Those that
/// come while it is not `open` are closed at once.
pub(super) async fn accept<F, Served>(
    listener: TcpListener,
    reception: Reception,
    open: impl Fn() -> bool + Clone + Send + Sync + 'static,
    serve: F,
) where
    F: Fn(TlsStream<TcpStream>) -> Served + Clone + Send + 'static,
    Served: Future<Output = ()> + Send,
{
    let Reception { tls, places, tasks, stop } = reception;
    let stopped = stop.clone();
    let serve = move |stream| {
        let (tls, stop, serve, open) = (tls.clone(), stopped.clone(), serve.clone(), open.clone());
        async move {
            if !open() {
                return;
            }
            let stream = tokio::select! {
                stream = handshake(&tls, stream) => stream,
                () = stop.cancelled() => None,
            };
            if let Some(stream) = stream {
                serve(stream).await;
            }
        }
    };
    accept_plain(listener, (places, tasks, stop), serve).await;
}

/// As [`accept`], without TLS. The places bound the connections.
pub(super) async fn accept_plain<F, Served>(
    listener: TcpListener,
    (places, tasks, stop): (Arc<Semaphore>, TaskTracker, CancellationToken),
    serve: F,
) where
    F: Fn(TcpStream) -> Served + Clone + Send + 'static,
    Served: Future<Output = ()> + Send,
{
    loop {
        // The place first: when all are taken, newcomers wait in the system's queue.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, accepted) = tokio::select! {
            next = next => match next {
                Some(next) => next,
                None => return,
            },
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "The emulator cannot accept a connection; will try again.");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let serve = serve.clone();
        tasks.spawn(async move {
            serve(stream).await;
            drop(place);
        });
    }
}

async fn handshake(tls: &TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    // Small AMQP frames in both directions: waiting to fill packets would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused.");
    }
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "A TLS handshake with the emulator failed; does the client trust ca.pem?");
            None
        }
        Err(_) => None,
    }
}

/// Serves AMQP on a stream, from TLS or WebSocket, until the peer goes or the emulator stops.
pub(super) async fn serve_amqp_connection<S>(stream: S, hub: Arc<Hub>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = amqp::serve(stream, hub, AmqpOptions::default(), stop.clone());
    tokio::select! {
        () = served => {}
        () = async {
            stop.cancelled().await;
            sleep(AMQP_GRACE).await;
        } => {}
    }
}
