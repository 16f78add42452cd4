//! A connector as a process of its own with a secret, its memory, a client of business, and sockets without any.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::crash::{from_env, up};
use crate::messages::{DEADLINE, uplink};
use crate::world::{World, free_port};

pub(super) const SECRET: &str = "planted-flood-secret";
/// Slower than any healthy answer, faster than The Things Stack's five seconds; two cores may be shared with a build.
const MOST: Duration = Duration::from_secs(3);

/// The connector and the emulator around it.
pub(super) struct Flooded {
    pub(super) world: World,
    pub(super) webhook: SocketAddr,
    pub(super) admin: SocketAddr,
    child: Child,
}

impl Flooded {
    /// `places` for connections at the webhook.
    pub(super) async fn start(places: usize) -> Self {
        let world = World::new(1).await;
        let (webhook, admin) = (free_port(), free_port());
        let child = world
            .connector(webhook)
            .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
            .env("TTI_CONNECTOR__WEBHOOK__SECRETS", SECRET)
            .env("TTI_CONNECTOR__WEBHOOK__MAX_CONNECTIONS", places.to_string())
            .env("TTI_CONNECTOR__LOG__LEVEL", "error")
            .stdout(Stdio::null())
            .spawn()
            .expect("the connector starts");
        up(webhook).await;
        up(admin).await;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { world, webhook: local(webhook), admin: local(admin), child }
    }

    /// Most memory it ever had, in KiB. `None` where the system does not tell.
    pub(super) fn peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    /// It runs, and grew by no more than this since `before`.
    pub(super) fn assert_small(&mut self, before: Option<u64>, most_kib: u64, what: &str) {
        assert!(self.child.try_wait().expect("a child").is_none(), "the connector is gone");
        match (before, self.peak_kib()) {
            (Some(before), Some(after)) => {
                println!("{what}: peak memory {before} KiB before, {after} KiB after");
                assert!(after - before <= most_kib, "it grew by {} KiB", after - before);
            }
            _ => println!("{what}: memory is not measured, as this system has no /proc"),
        }
    }
}

/// Posts uplinks one after the other until told to stop, on connections of its own as a Go client keeps them.
pub(super) struct Business {
    enough: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    posting: JoinHandle<Vec<Duration>>,
}

impl Business {
    /// `fresh` makes a new connection for each post. Each business has a `device` of its own.
    pub(super) fn start(webhook: SocketAddr, device: &'static str, fresh: bool) -> Self {
        let (enough, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, count) = (Arc::clone(&enough), Arc::clone(&answered));
        let posting = tokio::spawn(async move {
            let mut times = Vec::new();
            let mut stream = None;
            while !stop.load(Ordering::Relaxed) {
                let message = uplink("flood", device, times.len() as u32 + 1);
                let began = Instant::now();
                let mut tcp = match stream.take() {
                    Some(tcp) => tcp,
                    None => connect(webhook).await,
                };
                let answer = ask(&mut tcp, &post(&message.to_string(), "")).await;
                assert!(answer.starts_with("HTTP/1.1 202 "), "business was answered: {answer:?}");
                times.push(began.elapsed());
                count.store(times.len(), Ordering::Relaxed);
                stream = Some(tcp).filter(|_| !fresh);
                // A hundred a second at most; the sender's own pace, not a wait.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            times
        });
        Self { enough, answered, posting }
    }

    /// Posts answered so far.
    pub(super) fn answered(&self) -> usize {
        assert!(!self.posting.is_finished(), "a post was not answered 202");
        self.answered.load(Ordering::Relaxed)
    }

    /// How long each post took, sorted.
    pub(super) async fn end(self) -> Vec<Duration> {
        self.enough.store(true, Ordering::Relaxed);
        let mut times = timeout(DEADLINE, self.posting).await.expect("answered").expect("answered 202");
        times.sort();
        times
    }
}

/// Prints the figures and holds the 99th percentile against [`MOST`].
pub(super) fn assert_served(times: &[Duration], what: &str) {
    assert!(times.len() >= 20, "only {} posts were answered meanwhile", times.len());
    let p99 = times[times.len() * 99 / 100];
    println!("{what}: {} posts answered 202, p50 {:?}, p99 {p99:?}", times.len(), times[times.len() / 2]);
    assert!(p99 <= MOST, "p99 {p99:?}");
}

pub(super) async fn connect(to: SocketAddr) -> TcpStream {
    timeout(DEADLINE, TcpStream::connect(to)).await.expect("connected in time").expect("connected")
}

/// A whole request with the secret; `headers` each end in CRLF.
pub(super) fn post(body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "POST /webhook HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// Says all of it, as far as it is taken, and hears the head and body of one answer, or all until the end.
pub(super) async fn ask(tcp: &mut TcpStream, request: impl AsRef<[u8]>) -> String {
    let (mut read, mut write) = tcp.split();
    let hearing = async {
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match read.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
            }
            if is_whole(&answer) {
                break;
            }
        }
        answer
    };
    let saying = async {
        let said = write.write_all(request.as_ref()).await;
        if said.is_err() {
            // Cut off: the answer, if there is one, is on its way.
        }
        std::future::pending::<()>().await;
    };
    let answer = timeout(DEADLINE, async {
        tokio::select! {
            answer = hearing => answer,
            () = saying => Vec::new(),
        }
    });
    String::from_utf8_lossy(&answer.await.expect("an answer, or the end")).into_owned()
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// The status of an answer, 0 for none.
pub(super) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// How many sockets a flood has, and how long it lasts.
pub(super) fn size() -> (usize, Duration) {
    let sockets = from_env("TTI_FLOOD_SOCKETS", 600);
    (usize::try_from(sockets).expect("fits"), Duration::from_secs(from_env("TTI_FLOOD_SECONDS", 2)))
}
