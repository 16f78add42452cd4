//! Posts uplinks over kept-alive connections, at a rate or as fast as they are answered. Cheap, for it shares the
//! machine with what it measures. Knows no hub.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::book::{Book, FIRST_F_CNT};
use super::support;

/// Tries of one uplink; each is 50 ms after the last.
const TRIES: u32 = 1_200;

/// The request of an uplink, of which only numbers change.
struct Request {
    text: Vec<u8>,
    /// Where a device's number stands, with its digits and their radix.
    devices: Vec<(usize, usize, bool)>,
    counters: Vec<(usize, usize)>,
}

impl Request {
    fn new() -> Self {
        let text = support::request(0, u64::from(FIRST_F_CNT));
        let find = |what: &str, skip: usize| text.find(what).expect("it is there") + skip;
        Self {
            devices: vec![
                (find("sensor-00000", 7), 5, false),
                (find("70B3D57ED0000000", 10), 6, true),
                (find("260B0000", 4), 4, true),
                (find("EXAMPLE00000", 7), 5, false),
            ],
            counters: vec![(find("\"f_cnt\":1000000", 8), 7), (find("EXAMPLE00000", 12), 10)],
            text: text.into_bytes(),
        }
    }

    fn fill(&mut self, device: u32, f_cnt: u32) -> &[u8] {
        for &(at, digits, hexadecimal) in &self.devices {
            let mut place = &mut self.text[at..at + digits];
            if hexadecimal {
                write!(place, "{device:0digits$X}")
            } else {
                write!(place, "{device:0digits$}")
            }
            .expect("a number that fits");
        }
        for &(at, digits) in &self.counters {
            write!(&mut self.text[at..at + digits], "{f_cnt:0digits$}").expect("a number that fits");
        }
        &self.text
    }
}

/// Most connections up to `most` that each have devices of their own, so that a device's uplinks are posted in order.
fn connections(most: u32, devices: u32) -> u32 {
    (1..=most.min(devices)).rev().find(|count| devices.is_multiple_of(*count)).expect("one does")
}

/// Posts all of the book. At a `rate` (a second) each uplink has its moment, and what it waits beyond that counts as its
/// latency; without one the next follows the answer.
pub(crate) async fn post(webhook: u16, book: &Arc<Book>, most_connections: u32, rate: Option<f64>) {
    let count = connections(most_connections, book.devices);
    let mut streams = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(("127.0.0.1", webhook)).await.expect("the webhook");
        stream.set_nodelay(true).expect("a socket");
        streams.push(stream);
    }
    // The clock starts once all are connected, as a client that posts all day has its connections.
    let began = Instant::now();
    let origin_us = book.now_us();
    let mut posters = JoinSet::new();
    for (first, mut stream) in (0..count).zip(streams) {
        let book = Arc::clone(book);
        let poster = async move {
            let (mut request, mut answer) = (Request::new(), vec![0; 4096]);
            for index in (first..book.count).step_by(count as usize) {
                let at_us = match rate {
                    Some(rate) => {
                        let offset = Duration::from_secs_f64(f64::from(index) / rate);
                        sleep_until(began + offset).await;
                        origin_us + u64::try_from(offset.as_micros()).expect("fits")
                    }
                    None => book.now_us(),
                };
                book.due(index, at_us);
                let (device, f_cnt) = book.uplink(index);
                let text = request.fill(device, f_cnt);
                let mut tries = 0;
                loop {
                    stream.write_all(text).await.expect("sent");
                    if answered(&mut stream, &mut answer).await / 100 == 2 {
                        break;
                    }
                    book.refused.fetch_add(1, Ordering::Relaxed);
                    tries += 1;
                    assert!(tries < TRIES, "refused for a minute");
                    sleep(Duration::from_millis(50)).await;
                }
                book.answered(index);
            }
        };
        posters.spawn(poster);
    }
    while let Some(poster) = posters.join_next().await {
        poster.expect("it posted all");
    }
}

/// The status of one answer.
async fn answered(stream: &mut TcpStream, buffer: &mut [u8]) -> u16 {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("an answer");
        assert!(read > 0, "the webhook hung up");
        filled += read;
        let text = &buffer[..filled];
        let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        if filled >= head + 4 + length(&text[..head]) {
            let digit = |at: usize| u16::from(text[at] - b'0');
            return digit(9) * 100 + digit(10) * 10 + digit(11);
        }
    }
}

/// `Content-Length` of a head.
fn length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)));
    let digits = line.map(|line| line[NAME.len()..].trim_ascii());
    digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
}
