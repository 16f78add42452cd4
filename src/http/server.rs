//! The accept loop: so many connections at once, each in a task of ours, ended gracefully. Knows no route.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use warp::http::{HeaderValue, Request, header};
use warp::reply::Response;

use super::connection::{PatientStream, Progress};
use super::request::RequestBody;
use super::strangers::Strangers;

/// How long to wait after a failed accept, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Most that hyper holds of a request before its body is taken, its head above all. The Things Stack's heads have some
/// 2 KB; hyper's own limit of 400 KB would be too much for thousands of strangers at once.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// How often a newcomer that found no place looks whether somebody else could give way.
const PLACE_POLL: Duration = Duration::from_millis(100);

/// What clients may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once. A further one takes the place of the oldest that no request was answered on with
    /// success; when there is none it waits, and those behind it in the kernel's queue.
    pub max_connections: usize,
    /// Longest time for a request's head to arrive, and for an answer to be taken.
    pub read_timeout: Duration,
}

/// Serves `service` on `listener` until `stop`; then finishes the requests under way and returns.
///
/// HTTP/1.1 only: The Things Stack posts nothing else without TLS. Dropping the future cuts every connection.
/// A service that leaves a request's body unread has its connection closed after the answer.
pub async fn serve<S>(listener: TcpListener, service: S, limits: Limits, stop: CancellationToken)
where
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let mut strangers = Strangers::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                note_end(ended);
                continue;
            }
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((tcp, _)) => {
                let place = tokio::select! {
                    Some(place) = place(&places, &mut strangers) => place,
                    () = stop.cancelled() => break,
                };
                let progress = Progress::default();
                let connection =
                    serve_connection(tcp, service.clone(), progress.clone(), limits, stop.clone());
                let task = connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
                strangers.add(progress, task, limits.max_connections);
            }
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                warn!(%error, "Can't accept a connection; will try again.");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = stop.cancelled() => break,
                }
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        note_end(ended);
    }
}

/// A place, made free if need be.
async fn place(places: &Arc<Semaphore>, strangers: &mut Strangers) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        strangers.evict();
        // Somebody who is busy now may turn out a stranger.
        if let Ok(place) = timeout(PLACE_POLL, Arc::clone(places).acquire_owned()).await {
            return place.ok();
        }
    }
}

/// Waits on: the connection's own end, and `stop`.
async fn serve_connection<S>(
    tcp: TcpStream,
    service: S,
    progress: Progress,
    limits: Limits,
    stop: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    // Answers are small: without this, Nagle's algorithm may hold one back.
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%error, "A client left at once.");
        return;
    }
    let stream = PatientStream::new(tcp, progress.clone(), limits.read_timeout);
    let watched = service_fn(move |request: Request<Incoming>| {
        progress.busy();
        let progress = progress.clone();
        let answer = service.call(request.map(|incoming| RequestBody::new(incoming, progress.clone())));
        async move {
            let answer = answer.await;
            progress.answered();
            if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                progress.welcome();
            }
            answer.map(|mut answer: Response| {
                if progress.has_unread() {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            })
        }
    });
    let connection = http1::Builder::new()
        // The stream keeps the time: it tells an idle client from a slow one.
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), watched);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "A client's connection ended early.");
    }
}

fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && !error.is_cancelled()
    {
        error!(%error, "A connection's task failed; this is a defect.");
    }
}

fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
