//! Clients that are slow, greedy, rude, or gone.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::desk::{DEADLINE, Desk, read, send, uplink};

const SHORT: Duration = Duration::from_millis(200);

/// A client that speaks bytes.
struct Raw(TcpStream);

impl Raw {
    async fn connect(desk: &Desk) -> Self {
        Self(TcpStream::connect(desk.address).await.expect("connect"))
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("write");
    }

    /// Everything until the server closes.
    async fn hear_all(&mut self) -> String {
        let mut answer = String::new();
        timeout(DEADLINE, self.0.read_to_string(&mut answer))
            .await
            .expect("closed in time")
            .expect("no reset");
        answer
    }

    /// One answer whose body ends with `}`, on a connection that stays open.
    async fn hear_one(&mut self) -> String {
        let mut answer = Vec::new();
        while answer.last() != Some(&b'}') {
            let byte = timeout(DEADLINE, self.0.read_u8()).await.expect("in time").expect("open");
            answer.push(byte);
        }
        String::from_utf8(answer).expect("text")
    }
}

fn whole_post(f_cnt: u32) -> String {
    let body = uplink(f_cnt);
    format!("POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const CHUNKED: &str = "POST /webhook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn the_answer_comes_only_after_the_disk() {
    let mut desk = Desk::open().await;
    desk.hold();
    let mut client = Raw::connect(&desk).await;
    client.say(&whole_post(1)).await;
    let early = timeout(SHORT, client.0.read_u8()).await;
    assert!(early.is_err(), "answered before the message was stored");
    desk.release(1);
    assert!(client.hear_one().await.starts_with("HTTP/1.1 202 "));
    desk.next_kept().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cancel_storing() {
    let mut desk = Desk::open().await;
    desk.hold();
    let mut client = Raw::connect(&desk).await;
    client.say(&whole_post(1)).await;
    // The answer to a second connection shows that the first request had its turn.
    assert_eq!(send(desk.request("GET", "/webhook")).await.status(), 405);
    let waiting = tokio::time::Instant::now();
    while desk.metric("tti_connector_webhook_received_messages_total{kind=\"uplink_message\"}") == 0 {
        assert!(waiting.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    drop(client);
    assert_eq!(send(desk.request("GET", "/webhook")).await.status(), 405);
    desk.release(1);
    assert_eq!(desk.next_kept().await.device.device_id(), "cellar");
}

#[tokio::test]
async fn a_chunked_body_is_put_together_and_capped_while_it_streams() {
    let mut desk = Desk::with(|options| options.max_body_bytes = 1000).await;
    let mut client = Raw::connect(&desk).await;
    client.say(CHUNKED).await;
    let body = uplink(1);
    for part in [&body[..10], &body[10..11], &body[11..]] {
        client.say(&chunk(part)).await;
    }
    client.say("0\r\n\r\n").await;
    assert!(client.hear_one().await.starts_with("HTTP/1.1 202 "));
    assert_eq!(desk.next_kept().await.body, body);

    let mut client = Raw::connect(&desk).await;
    client.say(CHUNKED).await;
    for _ in 0..11 {
        client.say(&chunk(&" ".repeat(100))).await;
    }
    let answer = client.hear_one().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "refused without the end of the body: {answer}");
}

#[tokio::test]
async fn a_refusal_arrives_even_at_a_client_that_sends_on_and_on() {
    let desk = Desk::with(|options| options.max_body_bytes = 1000).await;
    let mut client = Raw::connect(&desk).await;
    let length = 4 * 1024 * 1024;
    client.say(&format!("POST /webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")).await;
    client.say(&" ".repeat(length)).await;
    let answer = client.hear_all().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with('}'), "{answer}");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_cut_off() {
    let desk = Desk::with(|options| options.read_timeout = SHORT).await;
    for start in ["", "POST /webhook HTTP/1.1\r\nhost:"] {
        let mut client = Raw::connect(&desk).await;
        client.say(start).await;
        assert_eq!(client.hear_all().await, "", "after {start:?}");
    }
}

#[tokio::test]
async fn a_head_that_trickles_is_cut_off_too() {
    let desk = Desk::with(|options| options.read_timeout = SHORT).await;
    let mut client = Raw::connect(&desk).await;
    let cut = timeout(DEADLINE, async {
        client.say("POST /webhook HTTP/1.1\r\n").await;
        let mut every = tokio::time::interval(SHORT / 10);
        loop {
            every.tick().await;
            if client.0.write_all(b"a: b\r\n").await.is_err() {
                break;
            }
        }
    });
    cut.await.expect("cut off while bytes still come");
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_408() {
    let mut desk = Desk::with(|options| options.read_timeout = SHORT).await;
    let whole = whole_post(1);
    let mut client = Raw::connect(&desk).await;
    client.say(&whole[..whole.len() - 5]).await;
    let answer = client.hear_one().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn half_a_body_is_not_kept() {
    let mut desk = Desk::open().await;
    let whole = whole_post(1);
    let mut client = Raw::connect(&desk).await;
    client.say(&whole[..whole.len() - 5]).await;
    client.0.shutdown().await.expect("shutdown");
    client.hear_all().await;
    desk.assert_nothing_kept();
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_may_be_idle_longer_than_a_head_may_take() {
    let mut desk = Desk::with(|options| options.read_timeout = SHORT).await;
    let mut client = Raw::connect(&desk).await;
    for f_cnt in 0..3 {
        client.say(&whole_post(f_cnt)).await;
        assert!(client.hear_one().await.starts_with("HTTP/1.1 202 "));
        desk.next_kept().await;
        // No byte, and no end, for twice the time a head may take.
        assert!(timeout(2 * SHORT, client.0.read_u8()).await.is_err(), "the idle connection was closed");
    }
    client.say("POST /webhook HTTP/1.1\r\nhost:").await;
    assert_eq!(client.hear_all().await, "", "a head begun must still be finished in time");
}

#[tokio::test]
async fn a_connection_idle_for_longer_than_gos_client_keeps_one_is_closed() {
    let desk = Desk::open().await;
    let mut client = Raw::connect(&desk).await;
    client.say(&whole_post(1)).await;
    client.hear_one().await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let end = timeout(Duration::from_secs(3600), client.0.read(&mut [0])).await;
    assert_eq!(end.expect("closed").expect("no reset"), 0);
    assert!((90..180).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_handler_may_take_longer_than_a_head() {
    let desk = Desk::with(|options| options.read_timeout = SHORT).await;
    let mut client = Raw::connect(&desk).await;
    let body = uplink(1);
    client
        .say(&format!(
            "POST /webhook HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nprefer: wait=1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    let mut go_on = [0; 25];
    timeout(DEADLINE, client.0.read_exact(&mut go_on)).await.expect("in time").expect("open");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.say(&body).await;
    let answer = client.hear_one().await;
    assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("pending"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let mut desk = Desk::open().await;
    let mut client = Raw::connect(&desk).await;
    client.say(&(whole_post(1) + &whole_post(2))).await;
    for f_cnt in [1, 2] {
        assert!(client.hear_one().await.starts_with("HTTP/1.1 202 "));
        assert_eq!(desk.next_kept().await.body, uplink(f_cnt));
    }
}

#[tokio::test]
async fn further_connections_wait_until_one_leaves() {
    let desk = Desk::with(|options| options.max_connections = 1).await;
    let mut first = Raw::connect(&desk).await;
    first.say(&whole_post(1)).await;
    first.hear_one().await;
    let mut second = Raw::connect(&desk).await;
    second.say(&whole_post(2)).await;
    assert!(timeout(SHORT, second.0.read_u8()).await.is_err(), "served beyond the limit");
    drop(first);
    assert!(second.hear_one().await.starts_with("HTTP/1.1 202 "));
}

#[tokio::test]
async fn a_stop_finishes_the_request_under_way_and_closes_idle_connections() {
    let mut desk = Desk::open().await;
    let mut idle = Raw::connect(&desk).await;
    idle.say(&whole_post(1)).await;
    idle.hear_one().await;
    desk.next_kept().await;
    desk.hold();
    let mut busy = Raw::connect(&desk).await;
    busy.say(&whole_post(2)).await;
    let began = tokio::time::Instant::now();
    while desk.metric("tti_connector_webhook_received_messages_total{kind=\"uplink_message\"}") < 2 {
        assert!(began.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    desk.stop.cancel();
    assert_eq!(idle.hear_all().await, "");
    assert!(!desk.server.is_finished());
    desk.release(1);
    assert!(busy.hear_all().await.starts_with("HTTP/1.1 202 "));
    timeout(DEADLINE, &mut desk.server).await.expect("in time").expect("the server ends");
    assert!(TcpStream::connect(desk.address).await.is_err(), "the port is free");
}

#[tokio::test]
async fn two_thousand_clients_at_once_are_all_served() {
    let mut desk = Desk::open().await;
    let mut posts = tokio::task::JoinSet::new();
    for f_cnt in 0..2048 {
        let post = desk.post(uplink(f_cnt));
        posts.spawn(async move { read(send(post).await).await.0 });
    }
    let statuses = posts.join_all().await;
    assert!(statuses.iter().all(|status| *status == 202));
    for _ in 0..2048 {
        desk.next_kept().await;
    }
}
