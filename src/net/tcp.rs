//! From a host name to a TCP stream: DNS asked anew, no address waited for alone, a dead peer noticed by the kernel.
//!
//! Knows neither TLS nor proxies. The caller bounds the time of a connect.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep};

/// What we sent may stay without an acknowledgement for this long; then the kernel gives the connection up. Linux only.
/// Left to itself it would take 15 minutes.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// A quiet connection is asked for a sign of life after this long,
pub(super) const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
/// then as often,
pub(super) const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// and given up after this many in vain: dead peers are noticed within 35 s.
pub(super) const KEEPALIVE_TRIES: u32 = 3;
/// An address that did not answer for this long is not waited for alone: the next one is tried beside it. The kernel
/// itself asks again after 1, 3, 7 and 15 s, so a hub that comes back is found sooner by asking anew.
const NEXT_ADDRESS: Duration = Duration::from_secs(2);
/// Connects of one call under way at once at most; then only these are waited for.
const MAX_AT_ONCE: usize = 16;

/// Opens TCP to `host:port` with Nagle off. DNS is asked at each call, and again after its answers were tried; addresses
/// that do not answer are tried beside each other.
///
/// # Errors
/// Every address refused, the last one's is told; or the name has none.
pub async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let lookup = || {
        let host = host.to_owned();
        async move { Ok(lookup_host((host, port)).await?.collect()) }
    };
    connect(lookup, host).await
}

async fn connect<F>(lookup: impl Fn() -> F, host: &str) -> io::Result<TcpStream>
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    let mut under_way = FuturesUnordered::new();
    let mut addresses = lookup().await?.into_iter();
    let mut asked = Instant::now();
    let (mut looking, mut is_looking) = (pin!(OptionFuture::from(None)), false);
    loop {
        if addresses.len() == 0 && !is_looking && !under_way.is_empty() && asked.elapsed() >= NEXT_ADDRESS {
            // All are tried, and some still silent: DNS may know better by now.
            looking.set(Some(lookup()).into());
            is_looking = true;
        }
        let next = if under_way.len() < MAX_AT_ONCE { addresses.next() } else { None };
        match next {
            Some(address) => under_way.push(connect_to(address)),
            None if under_way.is_empty() && !is_looking => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            Some(connected) = under_way.next() => match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            Some(found) = looking.as_mut(), if is_looking => {
                addresses = found.unwrap_or_default().into_iter();
                (asked, is_looking) = (Instant::now(), false);
            }
            () = sleep(NEXT_ADDRESS) => {}
        }
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(named)?;
    stream.set_nodelay(true)?;
    watch(&stream)?;
    Ok(stream)
}

/// Lets the kernel notice a peer that is gone without a word, beside what AMQP itself does.
fn watch(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;

    /// A listener whose queue is full: the kernel drops further connects without a word.
    struct Silent {
        address: SocketAddr,
        _held: (TcpListener, Vec<TcpStream>),
    }

    impl Silent {
        async fn new() -> Option<Self> {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(1).unwrap();
            let address = listener.local_addr().unwrap();
            let mut held = Vec::new();
            for _ in 0..16 {
                match timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
                    Ok(stream) => held.push(stream.unwrap()),
                    Err(_) => return Some(Self { address, _held: (listener, held) }),
                }
            }
            None
        }
    }

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn refusing() -> SocketAddr {
        listening().await.1
    }

    /// What DNS says.
    fn answer(addresses: Vec<SocketAddr>) -> Ready<io::Result<Vec<SocketAddr>>> {
        ready(Ok(addresses))
    }

    #[tokio::test]
    async fn a_silent_address_does_not_keep_us_from_the_next() {
        let Some(silent) = Silent::new().await else {
            println!("skipped: this system takes connects beyond a listener's queue");
            return;
        };
        let (_listener, good) = listening().await;
        let began = Instant::now();
        let stream = connect(|| answer(vec![silent.address, good]), "hub").await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(began.elapsed() < NEXT_ADDRESS * 2, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn dns_is_asked_again_while_an_old_address_stays_silent() {
        let Some(silent) = Silent::new().await else {
            println!("skipped: this system takes connects beyond a listener's queue");
            return;
        };
        let (_listener, moved_to) = listening().await;
        let asked = AtomicUsize::new(0);
        let lookup = || match asked.fetch_add(1, Ordering::Relaxed) {
            0 => answer(vec![silent.address]),
            _ => answer(vec![moved_to]),
        };
        let stream = connect(lookup, "hub").await.unwrap();
        assert_eq!((stream.peer_addr().unwrap(), asked.load(Ordering::Relaxed)), (moved_to, 2));
    }

    #[tokio::test]
    async fn a_connect_that_succeeds_late_is_seen_while_dns_is_silent() {
        let Some(silent) = Silent::new().await else {
            println!("skipped: this system takes connects beyond a listener's queue");
            return;
        };
        let Silent { address, _held: (listener, held) } = silent;
        let asked = tokio::sync::watch::Sender::new(0);
        let lookup = || {
            asked.send_modify(|asked| *asked += 1);
            let first = *asked.borrow() == 1;
            async move { if first { Ok(vec![address]) } else { std::future::pending().await } }
        };
        let late = async {
            asked.subscribe().wait_for(|asked| *asked == 2).await.unwrap();
            // Room in the queue: the kernel's next try gets through.
            let mut accepted = Vec::new();
            loop {
                accepted.push(listener.accept().await.unwrap());
            }
        };
        let stream = tokio::select! {
            stream = timeout(Duration::from_secs(20), connect(lookup, "hub")) => stream.unwrap().unwrap(),
            () = late => unreachable!("it goes on"),
        };
        assert_eq!(stream.peer_addr().unwrap(), address);
        drop(held);
    }

    #[tokio::test]
    async fn every_connect_asks_dns_anew() {
        let (_first, one) = listening().await;
        let (_second, two) = listening().await;
        let answers = AtomicUsize::new(0);
        let lookup = || answer(vec![[one, two][answers.fetch_add(1, Ordering::Relaxed)]]);
        assert_eq!(connect(&lookup, "hub").await.unwrap().peer_addr().unwrap(), one);
        assert_eq!(connect(&lookup, "hub").await.unwrap().peer_addr().unwrap(), two);
    }

    #[tokio::test]
    async fn addresses_that_refuse_are_passed_by_at_once_and_named_when_all_do() {
        let (_listener, good) = listening().await;
        let bad = refusing().await;
        let began = Instant::now();
        assert_eq!(connect(|| answer(vec![bad, good]), "hub").await.unwrap().peer_addr().unwrap(), good);
        let error = connect(|| answer(vec![bad]), "hub").await.unwrap_err();
        assert!(error.to_string().contains(&bad.to_string()), "{error}");
        let error = connect(|| answer(vec![]), "hub").await.unwrap_err();
        assert_eq!(error.to_string(), "hub has no address");
        assert!(began.elapsed() < NEXT_ADDRESS, "{:?}", began.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_watches_the_peer() {
        let (_listener, address) = listening().await;
        let stream = tcp("127.0.0.1", address.port()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        let idle = KEEPALIVE_AFTER + KEEPALIVE_EVERY * KEEPALIVE_TRIES;
        assert!(idle < Duration::from_secs(60) && UNACKNOWLEDGED < Duration::from_secs(60));
    }
}
