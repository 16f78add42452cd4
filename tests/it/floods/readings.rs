//! Requests that a proxy before us could read otherwise than we do, and protocols that we do not speak.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::kit::{Flooded, SECRET, ask, connect, post, status};
use crate::messages::{DEADLINE, uplink};

#[tokio::test(flavor = "multi_thread")]
async fn what_two_readers_could_read_differently_is_refused_or_ends_the_connection() {
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let good = uplink("flood", "smuggled", 1).to_string();
    let length = good.len();
    let chunked = format!("{length:x}\r\n{good}\r\n0\r\n\r\n");
    let start = format!("POST /webhook HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n");
    // Behind each stands a second request, which nobody may take for one when the first is in doubt.
    let second = post(&uplink("flood", "smuggled", 2).to_string(), "");
    let mut taken = 0;
    for (what, request) in [
        (
            "two lengths",
            format!("{start}content-length: {length}\r\ncontent-length: {}\r\n\r\n{good}", length - 1),
        ),
        ("two lengths in one line", format!("{start}content-length: {length}, {}\r\n\r\n{good}", length - 1)),
        ("a length with a sign", format!("{start}content-length: +{length}\r\n\r\n{good}")),
        ("a length below zero", format!("{start}content-length: -1\r\n\r\n{good}")),
        ("a length beyond 64 bits", format!("{start}content-length: 99999999999999999999999\r\n\r\n{good}")),
        ("a length in hexadecimal", format!("{start}content-length: 0x{length:x}\r\n\r\n{good}")),
        (
            "chunked and a length",
            format!("{start}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"),
        ),
        (
            "chunked and a length, turned",
            format!("{start}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{chunked}"),
        ),
        ("chunked not last", format!("{start}transfer-encoding: chunked, identity\r\n\r\n{chunked}")),
        ("xchunked", format!("{start}transfer-encoding: xchunked\r\n\r\n{chunked}")),
        (
            "chunked with a blank before the colon",
            format!("{start}transfer-encoding : chunked\r\n\r\n{chunked}"),
        ),
        ("a line that goes on", format!("{start}x-a: 1\r\n transfer-encoding: chunked\r\n\r\n{chunked}")),
        (
            "a bare line feed in a value",
            format!("{start}x-a: 1\ntransfer-encoding: chunked\r\n\r\n{chunked}"),
        ),
        ("a NUL in a value", format!("{start}x-a: \0\r\ncontent-length: {length}\r\n\r\n{good}")),
        (
            "a chunk's size beyond 64 bits",
            format!("{start}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{good}"),
        ),
        ("a chunk's size below zero", format!("{start}transfer-encoding: chunked\r\n\r\n-1\r\n{good}")),
        (
            "a chunk extension of 1 MB",
            format!(
                "{start}transfer-encoding: chunked\r\n\r\n{length:x};{}\r\n{good}\r\n0\r\n\r\n",
                "a".repeat(1024 * 1024)
            ),
        ),
        (
            "a trailer of 1 MB",
            format!(
                "{start}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{good}\r\n0\r\nx: {}\r\n\r\n",
                "a".repeat(1024 * 1024)
            ),
        ),
    ] {
        let mut tcp = connect(flooded.webhook).await;
        let answer = ask(&mut tcp, format!("{request}{second}")).await;
        println!("{what}: {}", answer.lines().next().unwrap_or("closed"));
        let is_taken = status(&answer) == 202;
        // RFC 9112 lets chunked win over a length, on a connection that ends then; so it must not be kept open.
        if is_taken {
            taken += 1;
            let ends = answer.to_ascii_lowercase().contains("connection: close");
            let rest = if ends { 0 } else { status(&ask(&mut tcp, "").await) };
            assert!(
                what.starts_with("chunked and a length")
                    || what.contains("1 MB")
                    || what == "a bare line feed in a value",
                "{what}: {answer}"
            );
            assert!(matches!(rest, 0 | 202 | 400), "{what}: then {rest}");
        } else {
            assert!(matches!(status(&answer), 0 | 400 | 413 | 501), "{what}: {answer}");
        }
    }
    println!("{taken} were taken as one reading");
    flooded.assert_small(before, 16 * 1024, "requests of two readings");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_and_versions_are_answered_or_closed() {
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let good = uplink("flood", "versions", 1).to_string();
    let old = post(&good, "").replace("HTTP/1.1", "HTTP/1.0");
    let mut tcp = connect(flooded.webhook).await;
    let answer = ask(&mut tcp, &old).await;
    assert_eq!(status(&answer), 202, "HTTP/1.0: {answer}");
    assert_eq!(ask(&mut tcp, "").await, "", "HTTP/1.0 ends after one request");
    for (what, bytes) in [
        ("the preface of HTTP/2", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("AMQP", b"AMQP\x00\x01\x00\x00"),
        ("HTTP/9.9", b"POST /webhook HTTP/9.9\r\nhost: x\r\n\r\n"),
        ("HTTP/0.9", b"GET /webhook\r\n\r\n"),
        ("an SSH client", b"SSH-2.0-x\r\n"),
    ] {
        let answer = ask(&mut connect(flooded.webhook).await, bytes).await;
        assert!(matches!(status(&answer), 0 | 400 | 505), "{what}: {answer}");
    }
    let upgrade = post(
        &good,
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
    );
    assert_eq!(status(&ask(&mut connect(flooded.webhook).await, upgrade).await), 202);
    // A thousand in one go, each answered, in order.
    let mut tcp = connect(flooded.webhook).await;
    let pipeline: String =
        (0..1000).map(|f_cnt| post(&uplink("flood", "pipeline", f_cnt).to_string(), "")).collect();
    let (mut read, mut write) = tcp.split();
    let answers = async {
        let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
        while String::from_utf8_lossy(&heard).matches("HTTP/1.1 202 ").count() < 1000 {
            let count = read.read(&mut piece).await.expect("no reset");
            assert!(count > 0, "closed early: {}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&piece[..count]);
        }
    };
    let both = async { tokio::join!(answers, write.write_all(pipeline.as_bytes())).1 };
    timeout(DEADLINE, both).await.expect("all answered").expect("all taken");
    flooded.world.arrived(1001).await;
    flooded.assert_small(before, 32 * 1024, "other protocols");
}
