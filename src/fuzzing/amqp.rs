//! Fuzz targets: bytes from a peer into either AMQP side, and a wire between both that spoils frames.
//!
//! Whatever comes, no task panics, nothing waits for ever, and what is answered stays small.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::wire::{self, Edit, Way, framed};
use super::{cases, panics, paused, with_time};
use crate::azure::{MethodReply, Settlement};
use crate::emulator::{AmqpOptions, CloudMessage, Hub, serve_amqp};
use crate::iot_hub::{DeviceEvent, IotHub};

/// Bytes in a stream at once.
const PIPE_BYTES: usize = 64 * 1024;
/// Longest time, of the runtime's own, for a party to end once its peer has gone. All patience is shorter.
const END: Duration = Duration::from_secs(600);
/// No answer to a few kilobytes is larger: an idle peer is sent empty frames and no more.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Connections that one input may cause: the client tries again, and again.
const MAX_CONNECTIONS: usize = 3;

/// The input goes to the emulated hub. If its first byte is even, the rest is cut into well-formed frames: channel and
/// length before each body. Otherwise it goes as it is.
pub(super) fn to_emulator(data: &[u8]) {
    let before = panics();
    paused().block_on(with_time(async {
        let (stop, (ours, theirs)) = (CancellationToken::new(), duplex(PIPE_BYTES));
        let serving = tokio::spawn(serve_amqp(theirs, cases::hub(), AmqpOptions::default(), stop.clone()));
        feed(ours, data).await;
        timeout(END, serving).await.expect("the emulator waits for ever").expect("the emulator panicked");
    }));
    assert_eq!(panics(), before, "a task panicked");
}

/// The same to the connector's client: each of its connections is answered so.
pub(super) fn to_hub_client(data: &[u8]) {
    let before = panics();
    paused().block_on(with_time(async {
        let data: Arc<[u8]> = data.into();
        let (connections, tasks) = (AtomicUsize::new(0), TaskTracker::new());
        let feeding = tasks.clone();
        let (client, events) = cases::client(move || {
            let (ours, theirs) = duplex(PIPE_BYTES);
            if connections.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS {
                let data = Arc::clone(&data);
                feeding.spawn(async move { feed(ours, &data).await });
            }
            theirs
        });
        use_all(client, events, false).await;
        tasks.close();
        timeout(END, tasks.wait()).await.expect("the client keeps its streams");
    }));
    assert_eq!(panics(), before, "a task panicked");
}

/// Writes the input, listens for a while, goes.
async fn feed(stream: DuplexStream, data: &[u8]) {
    let (mut read, mut write) = split(stream);
    let writing = async {
        match data.split_first() {
            Some((first, mut rest)) if first % 2 == 0 => {
                _ = write.write_all(b"AMQP\x00\x01\x00\x00").await;
                while let [channel, high, low, body @ ..] = rest {
                    let length = usize::from(u16::from_be_bytes([*high, *low])).min(body.len());
                    let (body, after) = body.split_at(length);
                    rest = after;
                    if write.write_all(&framed(*channel, body)).await.is_err() {
                        break;
                    }
                }
            }
            Some((_, raw)) => _ = write.write_all(raw).await,
            None => {}
        }
        sleep(Duration::from_secs(3)).await;
        _ = write.shutdown().await;
    };
    let reading = async {
        let (mut buffer, mut total) = (vec![0; PIPE_BYTES], 0);
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            total += count;
            assert!(total <= MAX_ANSWER_BYTES, "so much of an answer to {} bytes", data.len());
        }
    };
    // Whoever is not read from may wait for it.
    tokio::join!(writing, reading);
}

/// Emulated hub and client talk over a wire that does what the input says to their frames.
pub(super) fn between(data: &[u8]) {
    // Which credential, and whether the hub has something to say at once.
    let (flags, rest) = data.split_first().map_or((0, data), |(flags, rest)| (*flags, rest));
    talk(flags, wire::edits(rest), Arc::new(|_, _: &[u8]| {}));
}

/// Told of each frame, as its sender meant it.
pub(super) type Seen = Arc<dyn Fn(Way, &[u8]) + Send + Sync>;

/// As [`between`], and tells `seen`.
pub(super) fn talk(flags: u8, edits: Vec<Edit>, seen: Seen) {
    let before = panics();
    paused().block_on(with_time(async {
        let (hub, stop, tasks) = (cases::hub(), CancellationToken::new(), TaskTracker::new());
        if flags & 2 != 0 {
            wish(&hub);
        }
        let connections = AtomicUsize::new(0);
        let (serving, stopping, serving_hub) = (tasks.clone(), stop.clone(), Arc::clone(&hub));
        let (client, events) = cases::client(move || {
            let (client, client_end) = duplex(PIPE_BYTES);
            let number = connections.fetch_add(1, Ordering::Relaxed);
            // Only the first is spoilt: the second shows whether both have recovered.
            let edits = if number == 0 { edits.clone() } else { Vec::new() };
            if number < MAX_CONNECTIONS {
                let (server, server_end) = duplex(PIPE_BYTES);
                let hub = Arc::clone(&serving_hub);
                serving.spawn(serve_amqp(server_end, hub, AmqpOptions::default(), stopping.clone()));
                let (from_client, to_client) = split(client_end);
                let (from_server, to_server) = split(server);
                let tell = |seen: &Seen| {
                    let seen = Arc::clone(seen);
                    move |way, frame: &[u8]| seen(way, frame)
                };
                let there = wire::pass(from_client, to_server, Way::ToEmulator, edits.clone(), tell(&seen));
                let back = wire::pass(from_server, to_client, Way::ToHubClient, edits, tell(&seen));
                serving.spawn(async move { _ = tokio::join!(there, back) });
            }
            client
        });
        let wishing = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move {
                sleep(Duration::from_secs(2)).await;
                wish(&hub);
                _ = hub
                    .invoke_method(cases::NAME, "reboot", &json!({ "a": 1 }), Duration::from_secs(10))
                    .await;
            }
        });
        use_all(client, events, flags & 1 != 0).await;
        wishing.abort();
        stop.cancel();
        tasks.close();
        timeout(END, tasks.wait()).await.expect("somebody waits for ever");
    }));
    assert_eq!(panics(), before, "a task panicked");
}

/// The cloud's side: a message and a desired property.
fn wish(hub: &Hub) {
    let mut message = CloudMessage::new(&b"AQID"[..]);
    message.message_id = Some("message-1".to_owned());
    message.properties.push(("Port".to_owned(), "10".to_owned()));
    _ = hub.send_cloud_message(cases::NAME, message);
    _ = hub.update_desired(cases::NAME, &json!({ "interval": 60 }));
}

/// Sends, listens, answers and reports for a while, then closes.
async fn use_all(client: IotHub, mut events: mpsc::Receiver<DeviceEvent>, by_policy: bool) {
    let device = cases::device(by_policy);
    client.keep_open(&device, cases::ALL);
    let using = async {
        _ = client.send(&device, &cases::telemetry()).await;
        let patch = json!({ "lastSeenAt": "2025-03-14T07:00:00.000Z" });
        if let Some(patch) = patch.as_object() {
            _ = client.report(&device, patch).await;
        }
        sleep(Duration::from_secs(5)).await;
    };
    let listening = async {
        while let Some(event) = events.recv().await {
            match event {
                DeviceEvent::CloudMessage { settle, .. } => _ = settle.send(Settlement::Complete),
                DeviceEvent::Method { reply, .. } => {
                    _ = reply.send(MethodReply { status: 200, payload: json!({}) });
                }
                DeviceEvent::Desired { .. } | DeviceEvent::Lost { .. } => {}
            }
        }
    };
    tokio::select! {
        done = timeout(END, using) => done.expect("the client waits for ever"),
        () = listening => {}
    }
    timeout(END, client.close()).await.expect("the client does not close");
}
