//! A TCP relay that can go dead: sockets stay open, nothing passes, nobody is told. Knows nothing of what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Passes {
    #[default]
    All,
    /// Only what clients send; what they get back is lost.
    Requests,
    Nothing,
}

#[derive(Clone, Debug, Default)]
struct Weather {
    passes: Passes,
    /// Connections before this one stay dead.
    alive_from: usize,
    /// Connections before this one are cut.
    cut_before: usize,
}

/// A relay on loopback to one target.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepted: Arc<AtomicUsize>,
    /// A connection goes dead after so many bytes from the target; 0 never.
    dead_after: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(super) async fn to_port(port: u16) -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"), port).await
    }

    /// A relay at an address of choice to a port of 127.0.0.1.
    pub(super) async fn on(address: SocketAddr, port: u16) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address to listen on");
        let address = listener.local_addr().expect("an address");
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let (weather, accepted) = (watch::Sender::new(Weather::default()), Arc::new(AtomicUsize::new(0)));
        let dead_after = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let (seen, count, limit) = (weather.subscribe(), Arc::clone(&accepted), Arc::clone(&dead_after));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a client");
                let number = count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(carry(client, target, number, seen.clone(), Arc::clone(&limit)));
            }
        });
        Self { address, weather, accepted, dead_after, _tasks: tasks }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// From now on.
    pub(super) fn set(&self, passes: Passes) {
        self.weather.send_modify(|weather| weather.passes = passes);
    }

    /// The next connections go dead after so many bytes from the target; 0 lets them live.
    pub(super) fn dead_after(&self, bytes: usize) {
        self.dead_after.store(bytes, Ordering::SeqCst);
    }

    /// New connections pass everything again; those that were dead stay so.
    pub(super) fn heal(&self) {
        self.dead_after(0);
        let alive_from = self.accepted();
        self.weather.send_modify(|weather| {
            weather.passes = Passes::All;
            weather.alive_from = alive_from;
        });
    }

    /// Closes all connections.
    pub(super) fn cut(&self) {
        let cut_before = self.accepted();
        self.weather.send_modify(|weather| weather.cut_before = cut_before);
    }
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    number: usize,
    mut weather: watch::Receiver<Weather>,
    dead_after: Arc<AtomicUsize>,
) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let dead_after = match dead_after.load(Ordering::SeqCst) {
        0 => usize::MAX,
        bytes => bytes,
    };
    let died = CancellationToken::new();
    let (client_in, client_out) = client.split();
    let (server_in, server_out) = server.split();
    let requests = pass(client_in, server_out, (number, false), weather.clone(), (usize::MAX, &died));
    let answers = pass(server_in, client_out, (number, true), weather.clone(), (dead_after, &died));
    tokio::select! {
        () = requests => {}
        () = answers => {}
        () = async { drop(weather.wait_for(|weather| number < weather.cut_before).await) } => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    (number, is_answer): (usize, bool),
    mut weather: watch::Receiver<Weather>,
    (mut left, died): (usize, &CancellationToken),
) {
    let open = |weather: &Weather| {
        number >= weather.alive_from
            && match weather.passes {
                Passes::All => true,
                Passes::Requests => !is_answer,
                Passes::Nothing => false,
            }
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if weather.wait_for(open).await.is_err() {
            return;
        }
        let count = tokio::select! {
            biased;
            () = died.cancelled() => std::future::pending().await,
            () = async { drop(weather.wait_for(|weather| !open(weather)).await) } => continue,
            read = from.read(&mut buffer) => match read {
                Ok(1..) if left == 0 => continue,
                Ok(count @ 1..) => count,
                Ok(0) | Err(_) => return,
            },
        };
        let count = count.min(left);
        left -= count;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if left == 0 {
            died.cancel();
        }
    }
}

/// Waits until something is so, which nobody tells.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + crate::messages::DEADLINE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
