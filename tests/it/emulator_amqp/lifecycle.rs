//! Limits of a connection, and that nothing is left when it is over.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Session;
use fe2o3_amqp_types::messaging::Outcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tti_connector::emulator::{AmqpOptions, Hub, serve_amqp};
use tti_connector::model::Clock;

use super::kit::{Cbs, Rig, attach, data, message, send, telemetry, within};
use super::raw::{OPEN, RawPeer};

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Waits until as many tasks live as at first.
async fn tasks_are_back_at(count: usize) {
    within(async {
        while tasks() > count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Serves one connection; the peer's side of it, and the task.
async fn one(options: AmqpOptions, stop: CancellationToken) -> (TcpStream, JoinHandle<()>) {
    let hub = Arc::new(Hub::new("hub.example", Clock::system()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), tokio::spawn(serve_amqp(far.unwrap().0, hub, options, stop)))
}

#[tokio::test]
async fn stop_closes_the_connection_and_leaves_no_task() {
    let before = tasks();
    let stop = CancellationToken::new();
    let (tcp, served) = one(AmqpOptions::default(), stop.clone()).await;
    let builder = fe2o3_amqp::Connection::builder().container_id("test");
    let mut connection = within(builder.open_with_stream(tcp)).await.unwrap();
    let mut sessions = Vec::new();
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let mut session = within(Session::begin(&mut connection)).await.unwrap();
        pairs.push(Cbs::attach(&mut session).await);
        sessions.push(session);
    }
    stop.cancel();
    let ended = format!("{:?}", within(connection.on_close()).await.unwrap_err());
    assert!(ended.contains("ConnectionForced"), "{ended}");
    within(served).await.unwrap();
    drop((pairs, sessions, connection));
    tasks_are_back_at(before).await;
}

#[tokio::test]
async fn a_peer_that_never_answers_the_close_is_cut() {
    let before = tasks();
    let stop = CancellationToken::new();
    let options = AmqpOptions { close_timeout: Duration::from_millis(50), ..AmqpOptions::default() };
    let (tcp, served) = one(options, stop.clone()).await;
    let mut peer = RawPeer::open(tcp).await;
    peer.expect(OPEN).await;
    peer.begin().await;
    peer.expect(0x11).await;
    stop.cancel();
    within(served).await.unwrap();
    within(peer.tcp.read_to_end(&mut Vec::new())).await.unwrap();
    tasks_are_back_at(before).await;
}

#[tokio::test]
async fn a_peer_that_vanishes_leaves_no_task() {
    let before = tasks();
    let (tcp, served) = one(AmqpOptions::default(), CancellationToken::new()).await;
    let mut peer = RawPeer::open(tcp).await;
    peer.begin().await;
    peer.expect(0x11).await;
    drop(peer);
    within(served).await.unwrap();
    tasks_are_back_at(before).await;
}

#[tokio::test]
async fn nonsense_frames_end_the_connection_and_leave_no_task() {
    let before = tasks();
    let options = AmqpOptions { close_timeout: Duration::from_millis(50), ..AmqpOptions::default() };
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let (tcp, served) = one(options.clone(), CancellationToken::new()).await;
        let mut peer = RawPeer::open(tcp).await;
        peer.begin().await;
        let mut bytes = Vec::new();
        for _ in 0..random.usize(1..6) {
            // A described list of a random performative with random fields.
            let body: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let size = u32::try_from(body.len() + 14).unwrap();
            bytes.extend(size.to_be_bytes());
            bytes.extend([2, 0, 0, random.u8(0..2), 0, 0x53, random.u8(0x10..0x19), 0xc0]);
            bytes.extend([u8::try_from(body.len()).unwrap() + 1, random.u8(0..12)]);
            bytes.extend(body);
        }
        // The hub may have hung up before all is written.
        _ = peer.tcp.write_all(&bytes).await;
        _ = peer.tcp.shutdown().await;
        within(served).await.unwrap();
    }
    tasks_are_back_at(before).await;
}

#[tokio::test]
async fn too_many_links_end_their_session_and_no_other() {
    let rig = Rig::with(AmqpOptions { max_links: 6, ..AmqpOptions::default() }).await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut other = within(Session::begin(&mut client.connection)).await.unwrap();
    let mut kept = Vec::new();
    for number in 0..4 {
        let address = "/devices/dev/messages/events";
        kept.push(attach(&mut client.session, &format!("link-{number}"), address).await);
    }
    let tried = fe2o3_amqp::link::Sender::attach(&mut other, "too-many", "/devices/dev/messages/events");
    assert!(within(tried).await.is_err());
    let ended = format!("{:?}", within(other.on_end()).await.unwrap_err());
    assert!(ended.contains("ResourceLimitExceeded"), "{ended}");
    assert!(matches!(send(&mut kept[0], message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
    // A closed link gives its place back.
    within(kept.pop().unwrap().close()).await.unwrap();
    let mut third = within(Session::begin(&mut client.connection)).await.unwrap();
    let mut sender = telemetry(&mut third, "dev").await;
    assert!(matches!(send(&mut sender, message(data("y"))).await.unwrap(), Outcome::Accepted(_)));
}
