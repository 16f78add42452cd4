//! Bodies that are too long, blown up, nested, or other than announced.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::AsyncWriteExt as _;

use super::kit::{Business, Flooded, SECRET, ask, assert_served, connect, post, status};
use crate::messages::uplink;

const HUNDRED_MB: usize = 100 * 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn head(headers: &str) -> Vec<u8> {
    format!("POST /webhook HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n{headers}\r\n")
        .into_bytes()
}

fn with_length(headers: &str, body: &[u8]) -> Vec<u8> {
    [head(&format!("{headers}content-length: {}\r\n", body.len())), body.to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_refused_however_they_come_and_business_goes_on() {
    // Made before, as making them would keep this process, too, from its business.
    let spaces = vec![b' '; HUNDRED_MB];
    let mut chunked = head("transfer-encoding: chunked\r\n");
    for chunk in spaces.chunks(1024 * 1024) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    let requests = [Bytes::from(with_length("", &spaces)), Bytes::from(chunked)];
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let business = Business::start(flooded.webhook, "kept", false);
    // Announced: the head alone is answered.
    let announced = head(&format!("content-length: {HUNDRED_MB}\r\n"));
    assert_eq!(status(&ask(&mut connect(flooded.webhook).await, &announced).await), 413);
    // Announced, and sent all the same, several at once, for as long as some business takes.
    while business.answered() < 50 {
        let senders: Vec<_> = (0..8)
            .map(|number| {
                let (to, request) = (flooded.webhook, requests[number % 2].clone());
                tokio::spawn(async move { ask(&mut connect(to).await, request).await })
            })
            .collect();
        for sender in senders {
            let answer = sender.await.expect("an answer");
            assert!(matches!(status(&answer), 413 | 0), "{answer}");
        }
    }
    // Without the secret not one byte of it is wanted.
    let stranger = format!("POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {HUNDRED_MB}\r\n\r\n");
    assert_eq!(status(&ask(&mut connect(flooded.webhook).await, stranger).await), 401);
    assert_served(&business.end().await, "beside bodies of 100 MB");
    flooded.assert_small(before, 48 * 1024, "bodies of 100 MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_not_inflated_beyond_the_limit() {
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let encoded = "content-encoding: gzip\r\n";
    let bomb = gzip(&vec![b' '; HUNDRED_MB]);
    let nested = gzip(&gzip(&vec![b' '; HUNDRED_MB]));
    let members = bomb.repeat(8);
    let good = uplink("flood", "zipped", 1).to_string();
    let zipped = gzip(good.as_bytes());
    let mut wrong_length = zipped.clone();
    // The last four bytes say how long it was.
    let at = wrong_length.len() - 4;
    wrong_length[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    for (what, expected, request) in [
        ("a bomb", 413, with_length(encoded, &bomb)),
        ("a bomb of eight members", 413, with_length(encoded, &members)),
        ("a bomb in a bomb", 400, with_length(encoded, &nested)),
        ("gzip named twice", 415, with_length("content-encoding: gzip, gzip\r\n", &nested)),
        ("a wrong length", 400, with_length(encoded, &wrong_length)),
        ("half of it", 400, with_length(encoded, &zipped[..zipped.len() / 2])),
        ("no gzip", 400, with_length(encoded, good.as_bytes())),
        ("deflate", 415, with_length("content-encoding: deflate\r\n", &zipped)),
        ("brotli", 415, with_length("content-encoding: br\r\n", &zipped)),
        ("good gzip", 202, with_length(encoded, &zipped)),
    ] {
        for _ in 0..4 {
            let answer = ask(&mut connect(flooded.webhook).await, &request).await;
            assert_eq!(status(&answer), expected, "{what}: {answer}");
        }
    }
    flooded.assert_small(before, 32 * 1024, "gzip bombs");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_levels_are_refused_or_passed_on_and_never_walked_down() {
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let arrays = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let ids = r#""end_device_ids":{"device_id":"deep","application_ids":{"application_id":"flood"}}"#;
    let unclosed = "[".repeat(500_000);
    let mut cases = Vec::new();
    for (number, deep) in [&arrays, &objects].into_iter().enumerate() {
        let uplink = |fields: &str| format!("{{{ids},\"uplink_message\":{{\"f_cnt\":{number},{fields}}}}}");
        cases.extend([
            (
                400,
                format!(
                    "{{\"end_device_ids\":{{\"device_id\":{deep}}},\"uplink_message\":{{\"f_port\":1}}}}"
                ),
            ),
            (400, uplink(&format!("\"f_port\":{deep}"))),
            // Stored, and parked as malformed: it does not decide whose the message is.
            (202, uplink(&format!("\"f_port\":1,\"frm_payload\":{deep}"))),
            (202, format!("{{{ids},\"location_solved\":{{\"a\":{deep}}}}}")),
            (202, uplink(&format!("\"f_port\":1,\"decoded_payload\":{deep}"))),
            (202, uplink(&format!("\"f_port\":2,\"rx_metadata\":{deep},\"settings\":{deep}"))),
        ]);
    }
    cases.extend([(400, arrays), (202, objects)]);
    for (expected, body) in &cases {
        let answer = ask(&mut connect(flooded.webhook).await, post(body, "")).await;
        let start: String = body.chars().take(150).collect();
        assert_eq!(status(&answer), *expected, "{start}: {answer}");
    }
    let answer = ask(&mut connect(flooded.webhook).await, post(&unclosed, "")).await;
    assert_eq!(status(&answer), 400, "{answer}");
    // Payload and metadata, as arrays and as objects.
    flooded.world.arrived(4).await;
    flooded.assert_small(before, 24 * 1024, "10,000 levels");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_other_than_announced_is_never_kept_in_part() {
    let mut flooded = Flooded::start(256).await;
    let before = flooded.peak_kib();
    let good = uplink("flood", "lengths", 1).to_string();
    // Too short an announcement: the rest is no request. Too long a one: the body breaks off.
    for (announced, expected) in [(good.len() - 3, 400), (good.len() + 3, 0)] {
        let request = [head(&format!("content-length: {announced}\r\n")), good.clone().into_bytes()].concat();
        let mut tcp = connect(flooded.webhook).await;
        tcp.write_all(&request).await.unwrap();
        tcp.shutdown().await.unwrap();
        let answer = ask(&mut tcp, "").await;
        assert!(status(&answer) == expected || status(&answer) == 400, "{announced}: {answer}");
    }
    flooded.assert_small(before, 8 * 1024, "wrong lengths");
    assert_eq!(flooded.world.total(), 0);
}
