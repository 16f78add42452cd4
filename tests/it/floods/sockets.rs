//! Sockets that say nothing, or too little: more of them than there are places.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::kit::{Business, Flooded, SECRET, ask, assert_served, connect, size, status};

/// What a stranger says and then no more: nothing, a piece of a head, a wrong secret, a body that never comes.
const BEGINNINGS: [&str; 5] = [
    "",
    "P",
    "POST /webhook HTTP/1.1\r\nhost: x\r\nx-slow: ",
    "POST /webhook HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\ncontent-length: 10\r\n\r\n{",
    "GET /webhook HTTP/1.1\r\nhost: x\r\n\r\n",
];

/// Opens `count` sockets to `to`, each with a beginning; dribbles a byte to each now and then for `lasting`. Gives how
/// many could be opened, and how many are left at the end.
async fn flood(to: std::net::SocketAddr, count: usize, lasting: Duration) -> (usize, usize) {
    let mut sockets: Vec<TcpStream> = Vec::new();
    for number in 0..count {
        // The system's limit of open files is met here first.
        let Ok(mut tcp) = TcpStream::connect(to).await else { break };
        if tcp.write_all(BEGINNINGS[number % BEGINNINGS.len()].as_bytes()).await.is_ok() {
            sockets.push(tcp);
        }
    }
    let (opened, began) = (sockets.len(), Instant::now());
    while began.elapsed() < lasting {
        for tcp in &sockets {
            _ = tcp.try_write(b"a");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = sockets.iter().filter(|tcp| {
        tcp.try_write(b"a").is_ok()
            && tcp.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    (opened, left.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_say_nothing_keep_nobody_out_of_the_webhook() {
    let (sockets, lasting) = size();
    let places = (sockets / 4).clamp(64, 4096);
    let mut flooded = Flooded::start(places).await;
    let warm = Business::start(flooded.webhook, "warm", true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quiet = warm.end().await;
    let before = flooded.peak_kib();
    let kept = Business::start(flooded.webhook, "kept", false);
    let fresh = Business::start(flooded.webhook, "fresh", true);
    let (opened, left) = flood(flooded.webhook, sockets, lasting).await;
    let (kept, fresh) = (kept.end().await, fresh.end().await);
    println!(
        "{opened} of {sockets} sockets opened at {places} places, {left} left at the end; before: p99 {:?}",
        quiet[quiet.len() * 99 / 100]
    );
    assert!(opened > places && left <= places + 1, "{left} of {opened} are left");
    assert_served(&kept, "on a connection that is kept");
    assert_served(&fresh, "on a new connection each");
    flooded.assert_small(before, 16 * 1024 + 40 * places as u64, "flood of sockets");
    flooded.world.arrived(quiet.len() + kept.len() + fresh.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_sockets_say_nothing_to_the_admin_port() {
    let (sockets, lasting) = size();
    let mut flooded = Flooded::start(64).await;
    let before = flooded.peak_kib();
    let admin = flooded.admin;
    let flooding = tokio::spawn(flood(admin, sockets.min(2000), lasting));
    let (mut probes, mut missed, began) = (Vec::new(), 0, Instant::now());
    while !flooding.is_finished() || probes.len() < 20 {
        let asked = Instant::now();
        let mut tcp = connect(admin).await;
        let answer = ask(&mut tcp, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await;
        if status(&answer) == 200 {
            probes.push(asked.elapsed());
            missed = 0;
        } else {
            // A thousand sockets may come between its connect and its request; three in a row would be an outage.
            missed += 1;
            assert!(missed < 3 && status(&answer) == 0, "{answer}");
        }
        assert!(began.elapsed() < lasting + crate::messages::DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    probes.sort();
    assert_served(&probes, "probes");
    flooded.assert_small(before, 32 * 1024, "flood of the admin port");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_end_are_cut_off_small() {
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let secret = format!("authorization: Bearer {SECRET}\r\n");
    let long = "a".repeat(16 * 1024 * 1024);
    let lines = "x-line: 1\r\n".repeat(100_000);
    for (what, request) in [
        ("a URL of 16 MB", format!("POST /webhook/{long} HTTP/1.1\r\nhost: x\r\n\r\n")),
        ("a header of 16 MB", format!("POST /webhook HTTP/1.1\r\nhost: x\r\n{secret}x-long: {long}\r\n\r\n")),
        ("a header's name of 16 MB", format!("POST /webhook HTTP/1.1\r\nhost: x\r\n{long}: x\r\n\r\n")),
        ("100,000 header lines", format!("POST /webhook HTTP/1.1\r\nhost: x\r\n{secret}{lines}\r\n")),
        ("no line break at all", long.clone()),
    ] {
        let answer = ask(&mut connect(flooded.webhook).await, request).await;
        assert!(matches!(status(&answer), 0 | 400 | 414 | 431), "{what}: {answer}");
    }
    flooded.assert_small(before, 8 * 1024, "heads without end");
}
