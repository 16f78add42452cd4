//! The emulator's ports under the same: TLS that is half open, and peers that speak AMQP badly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tti_connector::app::Connector;
use tti_connector::emulator::{AmqpOptions, Hub, serve_amqp};
use tti_connector::model::Clock;

use super::kit::size;
use crate::crash::from_env;
use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World};

/// Of a TLS ClientHello, nothing, or another protocol.
const BEGINNINGS: [&[u8]; 3] = [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n"];

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_flows_while_sockets_are_half_open_at_both_ports_of_the_hub() {
    let world = World::new(1).await;
    let connector = Connector::start(world.config()).await.expect("starts");
    let poster = Poster::to(&connector);
    assert_eq!(poster.post_and_wait(&uplink("flood", "one", 1)).await.0, 200);
    let ready = world.emulator.ready();
    let mut sockets = Vec::new();
    // Its places are 4096 at each port; they are held for ten seconds at most.
    for number in 0..size().0.min(3000) {
        let port = if number % 2 == 0 { ready.hubs[0].amqp_port } else { ready.https_port };
        let Ok(mut tcp) = TcpStream::connect(("127.0.0.1", port)).await else { break };
        _ = tcp.write_all(BEGINNINGS[number % BEGINNINGS.len()]).await;
        sockets.push(tcp);
    }
    let (mut times, mut f_cnt) = (Vec::new(), 1);
    while times.len() < 50 {
        f_cnt += 1;
        let began = Instant::now();
        // A new device each: it registers over HTTPS and opens a session over AMQP.
        let (status, body) = poster.post_and_wait(&uplink("flood", &format!("dev-{f_cnt}"), 1)).await;
        assert_eq!(status, 200, "{body}");
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "{} half-open sockets, {} new devices sent, p99 {:?}",
        sockets.len(),
        times.len(),
        times[times.len() * 99 / 100]
    );
    assert!(times[times.len() * 99 / 100] < Duration::from_secs(10));
    // Those of TLS that said nothing are let go.
    let mut closed = 0;
    for tcp in &mut sockets {
        let end = timeout(DEADLINE, tcp.read(&mut [0; 16])).await.expect("closed in time");
        closed += usize::from(matches!(end, Ok(_) | Err(_)));
    }
    assert_eq!(closed, sockets.len());
    connector.stop().await;
}

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new("hub.example", Clock::system()))
}

fn frame(channel: u16, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).expect("small").to_be_bytes();
    [&size[..], &[2, 0], &channel.to_be_bytes(), body].concat()
}

/// Header and Open with the container id `c`.
fn opened() -> Vec<u8> {
    [&b"AMQP\x00\x01\x00\x00"[..], &frame(0, b"\0\x53\x10\xc0\x04\x01\xa1\x01c")].concat()
}

const BEGIN: &[u8] = b"\0\x53\x11\xc0\x08\x04\x40\x43\x52\xff\x52\xff";

/// Gives the bytes to a connection of a hub, in paused time; says how much it answered and after how long it ended.
async fn talk(pieces: impl Iterator<Item = Vec<u8>>) -> (usize, Duration) {
    let (near, far) = duplex(64 * 1024);
    let serving = tokio::spawn(serve_amqp(far, hub(), AmqpOptions::default(), CancellationToken::new()));
    let began = tokio::time::Instant::now();
    let (read, mut write) = tokio::io::split(near);
    let writing = async move {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        // And then silence: it is for the hub to end it.
        write
    };
    let (total, write) = tokio::join!(swallow(read), writing);
    drop(write);
    timeout(Duration::from_secs(3600), serving).await.expect("it ends").expect("no panic");
    (total, began.elapsed())
}

async fn swallow(mut read: tokio::io::ReadHalf<DuplexStream>) -> usize {
    let (mut total, mut piece) = (0, vec![0; 64 * 1024]);
    while let Ok(count @ 1..) = read.read(&mut piece).await {
        total += count;
    }
    total
}

#[tokio::test(start_paused = true)]
async fn peers_that_speak_amqp_badly_are_let_go_soon_and_cheaply() {
    let once = |bytes: &[u8]| std::iter::once(bytes.to_vec());
    let header = b"AMQP\x00\x01\x00\x00".as_slice();
    for (what, bytes, patience) in [
        ("nothing", Vec::new(), 15),
        ("half a header", b"AMQP".to_vec(), 15),
        ("a header, then silence", header.to_vec(), 15),
        ("a SASL header, then silence", b"AMQP\x03\x01\x00\x00".to_vec(), 15),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1),
        ("a frame of 2 GB", [header, b"\x7f\xff\xff\xff\x02\0\0\0"].concat(), 15),
        ("a frame of 2 GB after Open", [opened(), b"\x7f\xff\xff\xff\x02\0\0\0".to_vec()].concat(), 500),
        ("a frame of 3 bytes", [opened(), b"\0\0\0\x03\x02\0\0\0".to_vec()].concat(), 500),
        ("a data offset beyond the frame", [opened(), b"\0\0\0\x08\xff\0\0\0".to_vec()].concat(), 500),
        ("Begin before Open", [header.to_vec(), frame(0, BEGIN)].concat(), 15),
        ("Transfer without a session", [opened(), frame(7, b"\0\x53\x14\xc0\x03\x01\x52\0")].concat(), 15),
        ("two Opens", [opened(), opened()[8..].to_vec()].concat(), 15),
        ("a performative of no kind", [opened(), frame(0, b"\0\x53\x7f\x45")].concat(), 15),
        ("Open, then silence", opened(), 500),
    ] {
        let (answered, took) = talk(once(&bytes)).await;
        println!("{what}: ended after {took:?} with {answered} bytes");
        assert!(took <= Duration::from_secs(patience), "{what}: {took:?}");
        assert!(answered <= 16 * 1024, "{what}: {answered} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_and_links_without_end_are_not_held() {
    // More than one connection may have of either.
    let many = u32::try_from(from_env("TTI_FLOOD_LINKS", 10_000)).expect("fits");
    // Channels up to the last, each begun; then, on one session, handles without end.
    let begins = (0..many).map(|number| frame(u16::try_from(number % 65_536).expect("fits"), BEGIN));
    let (answered, took) = talk(std::iter::once(opened()).chain(begins)).await;
    println!("{many} Begins: ended after {took:?} with {answered} bytes");
    assert!(took <= Duration::from_secs(500));
    let attach = |number: u32| {
        let mut list = vec![0xa1, 5];
        list.extend(format!("{number:05}").bytes());
        list.push(0x70);
        list.extend(number.to_be_bytes());
        // Sender, mixed, first; no source; a target without address.
        list.extend([0x42, 0x50, 2, 0x50, 0, 0x40, 0x40]);
        let mut body = b"\0\x53\x12\xc0".to_vec();
        body.extend([u8::try_from(list.len() + 1).expect("small"), 7]);
        body.extend(list);
        frame(0, &body)
    };
    let attaches = (0..many).map(attach);
    let (answered, took) = talk([opened(), frame(0, BEGIN)].into_iter().chain(attaches)).await;
    println!("{many} Attaches: ended after {took:?} with {answered} bytes");
    assert!(took <= Duration::from_secs(500));
}
