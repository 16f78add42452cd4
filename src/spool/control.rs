//! The running instance's door for `spool list|show|requeue|discard`, and for orders to others (`backfill`): a Unix socket in the spool's folder.
//!
//! Only the instance's own user and root may come in: the socket's mode says so, and each peer is checked.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::folder::control_socket;
use super::queue::Spool;
use super::types::{Seq, SpoolError};
use super::wire::{self, Answer, Listed, Request, Shown};

/// Commands served at once: a person's and a script's.
const MAX_CONNECTIONS: usize = 8;
/// Longest request line: some thousand numbers.
pub(super) const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// A peer that says nothing for so long is left.
const IDLE: Duration = Duration::from_secs(60);
/// While an order is carried out, something is said at least so often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Before the next try when a connection can't be accepted, for instance for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Carries out orders that are not the spool's own business, such as a backfill.
pub trait Clerk: Send + Sync + 'static {
    /// Works on an order; tells how far it is, and answers what came of it or why not. Dropped when the operator goes.
    fn work<'a>(&'a self, order: Value, told: mpsc::Sender<Value>) -> Working<'a>;
}

/// A clerk at work.
pub type Working<'a> = Pin<Box<dyn Future<Output = Result<Value, String>> + Send + 'a>>;

/// As [`serve_with`], without anybody for other orders.
///
/// # Errors
/// As [`serve_with`].
pub async fn serve(spool: Spool, stop: CancellationToken) -> io::Result<()> {
    serve_with(spool, None, stop).await
}

/// Serves the operator's commands on `control.sock` in the spool's folder until `stop`.
///
/// # Errors
/// The socket can't be made (its path may be too long, about 100 bytes); all else works without it.
pub async fn serve_with(
    spool: Spool,
    clerk: Option<Arc<dyn Clerk>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let path = control_socket(spool.folder());
    // Both may be left over from a crash: the instance lock says that nobody else uses them.
    let hidden = path.with_extension("sock.new");
    for stale in [&path, &hidden] {
        match fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    let owner = fs::metadata(&hidden)?.uid();
    fs::rename(&hidden, &path)?;

    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (spool, clerk) = (spool.clone(), clerk.clone());
                connections.spawn(async move {
                    // A peer that went away is told nothing.
                    let _ = converse(&spool, clerk.as_deref(), stream, owner).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "a spool command can't be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    connections.shutdown().await;
    fs::remove_file(&path)
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn converse(
    spool: &Spool,
    clerk: Option<&dyn Clerk>,
    stream: UnixStream,
    owner: u32,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != owner && peer != 0 {
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(MAX_REQUEST_BYTES);
        let reading = limited.read_until(b'\n', &mut line);
        let Ok(read) = tokio::time::timeout(IDLE, reading).await else { return Ok(()) };
        if read? == 0 {
            return Ok(());
        }
        let complete = line.ends_with(b"\n");
        let answer = match serde_json::from_slice(&line) {
            Ok(Request::Order(order)) if complete => work(clerk, order, &mut stream).await?,
            Ok(request) if complete => answer(spool, request).await,
            Ok(_) => Answer::Failed("the request is too long or cut off".to_owned()),
            Err(error) => Answer::Failed(format!("the request can't be read: {error}")),
        };
        write(&mut stream, &answer).await?;
        if !complete {
            return Ok(());
        }
    }
}

/// One answer's line. A peer that takes nothing must not hold its place.
async fn write(stream: &mut BufReader<UnixStream>, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    tokio::time::timeout(IDLE, stream.write_all(&line))
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// Has an order carried out, and tells how far it is. A peer that goes away ends the work.
async fn work(
    clerk: Option<&dyn Clerk>,
    order: Value,
    stream: &mut BufReader<UnixStream>,
) -> io::Result<Answer> {
    let Some(clerk) = clerk else {
        return Ok(Answer::Failed("this process takes no such orders".to_owned()));
    };
    let (told, mut news) = mpsc::channel(1);
    let mut work = clerk.work(order, told);
    let mut news_open = true;
    loop {
        let progress = tokio::select! {
            done = &mut work => return Ok(done.map_or_else(Answer::Failed, Answer::Done)),
            progress = news.recv(), if news_open => match progress {
                Some(progress) => progress,
                None => {
                    news_open = false;
                    continue;
                }
            },
            // Shows that we are alive while the hubs are away, and finds out whether the peer is.
            () = tokio::time::sleep(HEARTBEAT) => Value::Null,
        };
        write(stream, &Answer::Progress(progress)).await?;
    }
}

async fn answer(spool: &Spool, request: Request) -> Answer {
    let done: Result<Answer, String> = async {
        let why = |error: SpoolError| error.to_string();
        Ok(match request {
            Request::List { application, reason, after, limit } => {
                let filter = wire::filter(application, reason)?;
                let parked = spool.parked(&filter, Seq(after), limit).await.map_err(why)?;
                Answer::Parked(parked.into_iter().map(Listed::from).collect())
            }
            Request::Show { number } => {
                let shown = spool.show(Seq(number)).await.map_err(why)?;
                Answer::Shown(shown.map(|(record, body)| Shown::new(record, &body)))
            }
            Request::Order(_) => return Err("an order is no request to the spool".to_owned()),
            Request::Requeue(which) => Answer::Moved(spool.requeue(&which.selection()?).await.map_err(why)?),
            Request::Discard(which) => Answer::Moved(spool.discard(&which.selection()?).await.map_err(why)?),
        })
    }
    .await;
    done.unwrap_or_else(Answer::Failed)
}
