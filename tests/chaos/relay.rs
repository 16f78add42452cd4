//! A TCP relay that fails on command: refuses, falls silent, delays, creeps, or cuts what it carries with a reset.
//!
//! Knows nothing of what it carries.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Bytes of one piece, and pieces on their way in one direction: about what the kernel would hold.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Carries everything at once.
    Pass,
    /// Nobody listens.
    Refuse,
    /// Connections open and stay, but no byte moves, as when packets are dropped.
    Silence,
    /// Every piece is this late, more or less.
    Late { ms: u64, jitter_ms: u64 },
    /// A reader that takes this many bytes a second on each connection.
    Creep { bytes_per_s: u64 },
}

/// One listening address and where it leads. Ends when dropped.
pub(crate) struct Relay {
    mode: watch::Sender<Mode>,
    carried: Carried,
    task: tokio::task::JoinHandle<()>,
}

type Carried = Arc<Mutex<HashMap<u64, CancellationToken>>>;

impl Relay {
    pub(crate) async fn start(at: SocketAddr, target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let (mode, carried) = (watch::channel(Mode::Pass).0, Carried::default());
        let task = tokio::spawn(accept(listener, at, target, mode.subscribe(), Arc::clone(&carried)));
        Ok(Self { mode, carried, task })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Resets all connections.
    pub(crate) fn cut_all(&self) {
        self.lock().drain().for_each(|(_, connection)| connection.cancel());
    }

    /// Resets one connection; false if there is none.
    pub(crate) fn cut_one(&self, random: &mut fastrand::Rng) -> bool {
        let mut carried = self.lock();
        let mut keys: Vec<_> = carried.keys().copied().collect();
        keys.sort_unstable();
        let chosen = random.choice(keys).and_then(|key| carried.remove(&key));
        chosen.map(|connection| connection.cancel()).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, CancellationToken>> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut_all();
    }
}

async fn accept(
    listener: TcpListener,
    at: SocketAddr,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    carried: Carried,
) {
    let numbers = AtomicU64::new(0);
    let mut listener = Some(listener);
    loop {
        if *mode.borrow_and_update() == Mode::Refuse {
            listener = None;
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(at).await.ok();
            if listener.is_none() {
                sleep(Duration::from_millis(50)).await;
            }
            continue;
        };
        let stream = tokio::select! {
            accepted = open.accept() => accepted,
            changed = mode.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok((stream, _)) = stream else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (number, cut) = (numbers.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        carried.lock().unwrap_or_else(PoisonError::into_inner).insert(number, cut.clone());
        let (mode, carried) = (mode.clone(), Arc::clone(&carried));
        tokio::spawn(async move {
            carry(stream, target, mode, cut).await;
            carried.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>, cut: CancellationToken) {
    let Ok(mut far) = TcpStream::connect(target).await else { return reset(&near) };
    _ = (near.set_nodelay(true), far.set_nodelay(true));
    let was_cut = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let both = async {
            tokio::join!(one_way(near_in, far_out, mode.clone()), one_way(far_in, near_out, mode.clone()))
        };
        tokio::select! {
            _ = both => false,
            () = cut.cancelled() => true,
        }
    };
    if was_cut {
        reset(&near);
        reset(&far);
    }
}

/// Closing then sends RST and drops what is buffered.
fn reset(stream: &TcpStream) {
    _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Ends when the reading side has ended and all is written, or either side fails.
async fn one_way(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>) {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if pieces.send((Instant::now(), buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((read_at, piece)) = waiting.recv().await {
            if written(&mut to, &mut mode, read_at, &piece).await.is_none() {
                return;
            }
        }
        _ = to.shutdown().await;
    };
    tokio::pin!(read, write);
    // A reader that waits must not hold a connection that can't be written to.
    tokio::select! {
        () = &mut write => {}
        () = &mut read => write.await,
    }
}

async fn written(
    to: &mut WriteHalf<'_>,
    mode: &mut watch::Receiver<Mode>,
    read_at: Instant,
    piece: &[u8],
) -> Option<()> {
    let mut left = piece;
    while !left.is_empty() {
        let now = *mode.borrow_and_update();
        let size = match now {
            Mode::Silence => {
                mode.changed().await.ok()?;
                continue;
            }
            Mode::Late { ms, jitter_ms } => {
                let late = Duration::from_millis(ms + fastrand::u64(..=jitter_ms));
                sleep_until(read_at + late).await;
                left.len()
            }
            Mode::Creep { bytes_per_s } => {
                sleep(Duration::from_millis(50)).await;
                left.len().min(usize::try_from(bytes_per_s / 20).unwrap_or(1).max(1))
            }
            Mode::Pass | Mode::Refuse => left.len(),
        };
        to.write_all(&left[..size]).await.ok()?;
        left = &left[size..];
    }
    Some(())
}
